import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.nn import kernels
from lmx.nn.dropout import dropout
from lmx.nn.kernels import Accelerator, KernelChoice, attend, attention_weights, choose_kernel, queries_per_block
from lmx.nn.masks import Sees
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.rules import DEFAULT_RULES
from lmx.sharding.step import constrain, use_mesh
from tests.cudnn import calls_for_cuda, fused_calls, gpu  # noqa: F401
from tests.nn.by_hand import B, G, H, K, S, T, by_hand, heads, vectors

jitted_attend = jax.jit(attend, static_argnames=("kernel", "dropout_rate"))
jitted_weights = jax.jit(attention_weights)


def structure(num_queries: int, num_keys: int, *, causal=False, padded=False, packed=False, window=None) -> Sees:
    """Makes a structure in which each row differs."""
    segments = None
    if packed:  # of three sentences and padding, whose borders lie elsewhere for queries and keys
        rows = [
            np.sort(np.random.default_rng(seed).integers(0, 4, (B, n)))[:, ::-1]
            for seed, n in ((1, num_queries), (2, num_keys))
        ]
        if num_queries == num_keys:
            rows[1] = rows[0]
        segments = tuple(jnp.asarray(row, jnp.int32) for row in rows)
    lengths = jnp.asarray(np.linspace(num_keys - 2, num_keys, B).astype(np.int32)) if padded else None
    return Sees(causal=causal, key_lengths=lengths, segments=segments, window=window)


STRUCTURES = [
    {"causal": causal, "padded": padded, "packed": packed, "window": window}
    for causal, padded, packed, window in itertools.product((False, True), (False, True), (False, True), (None, 3))
]


# The door, and what XLA's kernel makes of a structure.


@pytest.mark.parametrize("parts", STRUCTURES)
def test_every_structure_means_what_it_says(parts):
    sees = structure(T, S, **parts)
    np.testing.assert_allclose(jitted_attend(*heads(), sees=sees), by_hand(*heads(), sees), atol=1e-5)


@pytest.mark.parametrize("groups", [H, G, 1])
@pytest.mark.parametrize("bias_shape", [None, (1, H, T, S), (B, 1, T, S)])
def test_attend_equals_a_loop_over_single_queries(groups, bias_shape):
    bias = None if bias_shape is None else vectors(*bias_shape, seed=5)
    sees = structure(T, S, causal=True, padded=True)
    expected = by_hand(*heads(groups), sees, bias=bias)
    np.testing.assert_allclose(jitted_attend(*heads(groups), sees=sees.with_bias(bias)), expected, atol=1e-5)


def test_attend_and_its_gradients_equal_jax():
    sees, bias = structure(T, S, causal=True, padded=True), vectors(1, H, T, S, seed=5)
    target = vectors(B, T, H, K, seed=6)

    def loss(attention, query, key, value, bias):
        return jnp.sum(attention(query, key, value, bias=bias) * target)

    ours = lambda *arrays, bias: attend(*arrays, sees=sees.with_bias(bias))  # noqa: E731
    theirs = functools.partial(jax.nn.dot_product_attention, is_causal=True, key_value_seq_lengths=sees.key_lengths)
    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(loss, attention), argnums=(0, 1, 2, 3)))(*heads(), bias)
        for attention in (ours, theirs)
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5), ours, theirs)


def test_grouped_heads_are_repeated_heads():
    query, key, value = heads()
    repeated = (np.repeat(x, H // G, axis=2) for x in (key, value))
    np.testing.assert_allclose(jitted_attend(query, key, value), jitted_attend(query, *repeated), atol=1e-6)


def test_masked_positions_do_not_matter():
    query, key, value = heads()
    sees = Sees(key_lengths=np.array([4, 6], np.int32))
    hidden = np.arange(S)[:, None, None] >= sees.key_lengths[:, None, None, None]
    changed = query, np.where(hidden, 1e3, key), np.where(hidden, -1e3, value)
    np.testing.assert_array_equal(jitted_attend(*changed, sees=sees), jitted_attend(query, key, value, sees=sees))


def test_a_row_that_sees_nothing_averages_the_values_and_has_a_gradient():
    query, key, value = heads(H)
    sees = Sees(key_lengths=np.array([3, 0], np.int32))

    def total(query, key, value):
        attended = attend(query, key, value, sees=sees)
        return attended.sum(), attended

    (_, attended), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    np.testing.assert_allclose(np.asarray(attended)[1, 2], value[1].mean(0), atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_weights_are_a_distribution_over_what_may_be_seen():
    query, key, _ = heads()
    sees = structure(T, S, causal=True, padded=True)
    weights = np.asarray(jitted_weights(query, key, sees=sees))
    assert weights.shape == (B, H, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (weights[np.broadcast_to(~np.asarray(sees.mask(T, S)), weights.shape)] == 0).all()


def test_bfloat16_attends_with_a_float32_softmax():
    query, key, value = (x.astype(jnp.bfloat16) for x in heads())
    weights = jitted_weights(query, key)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(np.sum(weights, -1), 1, atol=1e-6)  # bfloat16 sums would be off by 0.004
    attended = jitted_attend(query, key, value)
    assert attended.dtype == jnp.bfloat16
    np.testing.assert_allclose(attended.astype(np.float32), by_hand(query, key, value), atol=0.03)


@pytest.mark.parametrize("groups", [H, G])
def test_products_of_bfloat16_queries_and_keys_are_float32(groups):
    query, key, _ = (jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in heads(groups))
    program = str(jax.make_jaxpr(attention_weights)(query, key))
    assert "preferred_element_type=float32" in program
    assert "preferred_element_type=bfloat16" not in program


def test_large_scores_do_not_overflow():
    query, key, value = heads()
    attended = np.asarray(jitted_attend(1e3 * query, 1e3 * key, value))
    np.testing.assert_allclose(attended, by_hand(1e3 * query, 1e3 * key, value), atol=1e-5)


def test_attend_is_the_same_under_vmap():
    one_by_one = jax.jit(jax.vmap(lambda *row: attend(*(x[None] for x in row))[0]))(*heads())
    np.testing.assert_allclose(one_by_one, jitted_attend(*heads()), atol=1e-6)


def test_dropout_acts_on_the_weights_and_only_with_a_key():
    query, key, value = heads()
    dropout_key = jax.random.key(1)
    np.testing.assert_array_equal(jitted_attend(*heads(), dropout_rate=0.4), jitted_attend(*heads()))
    kept = np.asarray(dropout(jitted_weights(query, key), 0.4, dropout_key))
    expected = np.einsum("BHTS,BSHK->BTHK", kept, np.repeat(value, H // G, axis=2))
    attended = jitted_attend(*heads(), dropout_rate=0.4, dropout_key=dropout_key)
    np.testing.assert_allclose(attended, expected, atol=1e-5)


def test_query_heads_must_divide_into_the_key_heads():
    with pytest.raises(ValueError, match=r"^num_heads must be a multiple of num_kv_heads, got num_heads=6 and num_kv"):
        jitted_attend(*heads(4))


# Blocks of queries, over long rows.


def test_rows_are_long_from_a_stated_size_on():
    assert queries_per_block(2047, 2048) is None
    assert queries_per_block(2048, 2048) == 64
    assert queries_per_block(2**20, 2**20) == 64  # and never fewer
    assert queries_per_block(2**15, 600) == 192  # of 218 the largest multiple of 64
    assert queries_per_block(2**15, 200) == 640
    assert queries_per_block(500, 10_000) == 64


@pytest.fixture
def short_blocks(monkeypatch):
    """Takes rows of 20 for long ones, three queries at a time."""
    monkeypatch.setattr(kernels, "queries_per_block", lambda queries, keys: 3 if queries * keys >= 200 else None)


LONG = 2 * 10  # queries and keys; three do not divide them


@pytest.mark.parametrize("parts", STRUCTURES)
def test_blocks_see_what_all_at_once_see(parts, short_blocks):
    arrays, sees = heads(queries=LONG, keys=LONG), structure(LONG, LONG, **parts)
    blocked = jax.jit(functools.partial(attend, sees=sees))(*arrays)
    np.testing.assert_allclose(blocked, by_hand(*arrays, sees), atol=1e-5)


@pytest.mark.parametrize("parts", [STRUCTURES[0], STRUCTURES[-1], {"causal": True}, {"padded": True, "window": 3}])
def test_blocks_equal_all_at_once_with_their_gradients(parts, short_blocks):
    arrays = heads(queries=LONG, keys=LONG)
    sees, target = structure(LONG, LONG, **parts), vectors(B, LONG, H, K, seed=6)
    bias = jnp.asarray(vectors(1, H, LONG, LONG, seed=5)) if parts.get("window") else None

    def loss(attention, *arrays):
        attended = attention(*arrays)
        return (attended * target).sum(), attended

    sees = sees.with_bias(bias)
    settings = {"sees": sees, "rate": 0.3, "key_of_dropout": jax.random.key(3)}
    whole = functools.partial(kernels._dense, **settings)
    blocked = functools.partial(attend, sees=sees, dropout_rate=0.3, dropout_key=jax.random.key(3))
    run = lambda attention: jax.jit(jax.grad(functools.partial(loss, attention), (0, 1, 2), has_aux=True))(*arrays)  # noqa: E731
    assert "scan" in str(jax.make_jaxpr(blocked)(*arrays))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), run(blocked), run(whole))


@pytest.mark.parametrize(("sees", "block"), [(Sees(), 8), (Sees(causal=True), None)])
def test_gradients_of_keys_and_values_are_added_up_in_float32(sees, block, monkeypatch):
    arrays = [jnp.asarray(vectors(1, 512, 1, 16, seed=seed), jnp.bfloat16) for seed in (1, 2, 3)]
    target = vectors(1, 512, 1, 16, seed=6)

    def run(attention, *given):
        def loss(*given):
            return (attention(*given).astype(jnp.float32) * target).sum()

        return jax.jit(jax.grad(loss, (1, 2)))(*given)

    whole = functools.partial(kernels._dense, sees=sees, rate=0.0, key_of_dropout=None)
    exact = run(whole, *(array.astype(jnp.float32) for array in arrays))
    monkeypatch.setattr(kernels, "queries_per_block", lambda queries, keys: block)
    monkeypatch.setattr(kernels, "CAUSAL_PARTS", ((1, 64),))
    for found, true in zip(run(functools.partial(attend, sees=sees, kernel="xla"), *arrays), exact, strict=True):
        assert np.linalg.norm(np.asarray(found, np.float32) - true) < 0.005 * np.linalg.norm(true)


@pytest.mark.parametrize("sizes", [{"sequence": 4}, {"sequence": 2, "tensor": 2}, {"data": 2, "sequence": 2}])
def test_blocks_over_a_split_sequence_equal_one_device(sizes, short_blocks):
    arrays = heads(2, queries=2 * LONG, keys=2 * LONG)
    sees = structure(2 * LONG, 2 * LONG, causal=True, padded=True)
    number = int(np.prod(list(sizes.values())))
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:number])

    def placed(query, key, value):
        with use_mesh(mesh):
            query = constrain(query, "batch", "length", "heads", None)
            return attend(query, key, value, sees=sees)

    np.testing.assert_allclose(jax.jit(placed)(*arrays), by_hand(*arrays, sees), atol=1e-5)


@pytest.mark.parametrize("parts", [each for each in STRUCTURES if each["causal"]])
@pytest.mark.parametrize(("groups", "length"), [(2, 11), (4, 23)])
def test_a_causal_row_in_parts_equals_the_whole_with_its_gradients(parts, groups, length, monkeypatch):
    """Values, gradients and the bits of dropout: the first queries meet only the first keys, which is all they see."""
    random = np.random.default_rng(length)
    arrays = [random.normal(size=(B, length, heads, 4)).astype(np.float32) for heads in (4, groups, groups)]
    sees = structure(length, length, **parts)

    mask = sees.mask(length, length)
    seeing = np.broadcast_to(mask, (B, 1, length, length)).any(-1)[:, 0, :, None, None]  # others average what they get
    target = seeing * vectors(B, length, 4, 4, seed=6)

    def run(query, key, value):
        attended = attend(query, key, value, sees=sees, dropout_rate=0.3, dropout_key=jax.random.key(3))
        return (attended * target).sum(), attended * seeing

    def results():
        program = jax.jit(lambda *given: jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(*given))
        return program(*arrays), str(jax.make_jaxpr(lambda *given: run(*given))(*arrays))

    whole, program = results()
    assert "concatenate" not in program
    monkeypatch.setattr(kernels, "CAUSAL_PARTS", ((20, 4), (8, 2)))
    in_parts, program = results()
    assert "concatenate" in program
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), in_parts, whole)


def test_the_parts_of_a_causal_row_follow_its_length_on_a_device():
    def parts(length: int, keys: int | None = None, **given) -> int:
        query, key = (jnp.zeros((1, size, 1, 1)) for size in (length, keys or length))
        return kernels._causal_parts(query, key, Sees(causal=True, **given))

    assert [parts(length) for length in (127, 128, 255, 256, 1023, 1024, 2000)] == [1, 2, 2, 4, 4, 8, 8]
    assert parts(512, window=3) == 4
    assert parts(512, 513) == 1
    with use_mesh(make_mesh(MeshConfig(data=1, sequence=4), devices=jax.devices()[:4])):
        assert parts(512) == 1


@pytest.mark.parametrize(
    "changes", [{"bias": jnp.zeros((1, 1, 11, 11))}, {"prefix": jnp.ones((B, 11), bool)}, {"causal": False}]
)
def test_a_row_whose_first_queries_see_further_stays_whole(changes, monkeypatch):
    monkeypatch.setattr(kernels, "CAUSAL_PARTS", ((8, 2),))
    arrays = [np.ones((B, 11, 4, 4), np.float32)] * 3
    plain = jax.make_jaxpr(lambda *given: attend(*given, sees=Sees(causal=True)))(*arrays)
    assert "concatenate" in str(plain)
    sees = Sees(causal=True).replace(**changes)
    assert "concatenate" not in str(jax.make_jaxpr(lambda *given: attend(*given, sees=sees))(*arrays))


def test_the_memory_of_long_rows_grows_with_their_length():
    def temporary(length: int) -> int:
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        loss = lambda *arrays: attend(*arrays, sees=Sees(causal=True)).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    shorter, longer = temporary(4096), temporary(16384)
    assert longer < 4.5 * shorter  # four times the length; with all scores kept it would be sixteen times
    assert longer < 2 * 16384**2 * 4 / 32  # of one array of scores


# Which kernel.

FITTING = {"dtype": jnp.bfloat16, "head_width": 64, "on": Accelerator("cuda", 9.0)}
PADDED = Sees(key_lengths=jax.ShapeDtypeStruct((B,), jnp.int32))
PACKED = Sees(segments=(jax.ShapeDtypeStruct((B, T), jnp.int32), jax.ShapeDtypeStruct((B, S), jnp.int32)))


@pytest.mark.parametrize(
    "sees",
    [Sees(), PADDED, Sees(causal=True), Sees(causal=True, key_lengths=PADDED.key_lengths), Sees(causal=True, window=3)],
)
def test_auto_takes_the_fused_kernel_where_it_applies_and_says_so(sees):
    assert choose_kernel("auto", sees, **FITTING) == KernelChoice("cudnn", "fused, and it applies")
    assert choose_kernel("cudnn", sees, **FITTING) == KernelChoice("cudnn", "asked for")
    assert choose_kernel("xla", sees, **FITTING) == KernelChoice("xla", "asked for")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"on": Accelerator("cpu")}, "the platform is cpu"),
        ({"on": Accelerator("tpu")}, "the platform is tpu"),
        ({"on": Accelerator("rocm")}, "the platform is rocm"),
        ({"on": Accelerator("cuda", 7.5)}, "the GPU has compute capability 7.5, below 8.0"),
        ({"on": Accelerator("cuda")}, "the GPU has compute capability None, below 8.0"),
        ({"dtype": jnp.float32}, "the compute type is float32"),
        ({"head_width": 60}, "the head width is 60, not a multiple of 8 up to 256"),
        ({"head_width": 264}, "the head width is 264, not a multiple of 8 up to 256"),
        ({"head_width": 136, "on": Accelerator("cuda", 8.9)}, "the head width is 136, not a multiple of 8 up to 128"),
        ({"dropout_rate": 0.1}, "attention weights are dropped out"),
        ({"sees": Sees(segments=PACKED.segments, window=3)}, "rows are packed; the window looks ahead"),
        ({"sees": PACKED}, "rows are packed"),
        ({"sees": Sees(window=3)}, "the window looks ahead"),
        (
            {"sees": Sees(causal=True, prefix=jax.ShapeDtypeStruct((B, S), jnp.bool_))},
            "a prefix is seen from before it",
        ),
    ],
)
def test_what_the_fused_kernel_cannot_do_is_a_reason_for_auto_and_an_error_for_cudnn(change, reason):
    assert choose_kernel("auto", **{**FITTING, **change}) == KernelChoice("xla", reason)
    with pytest.raises(
        ValueError, match=rf'^kernel="cudnn" cannot be used here: {reason}\. Say --model.kernel auto or xla'
    ):
        choose_kernel("cudnn", **{**FITTING, **change})


def test_a_mesh_that_splits_sequences_is_an_obstacle_and_other_meshes_are_none():
    for sizes, name in (({"data": 4}, "cudnn"), ({"tensor": 4}, "cudnn"), ({"sequence": 4}, "xla")):
        with use_mesh(make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:4])):
            choice = choose_kernel("auto", PADDED, **FITTING)
        assert choice.name == name
        assert choice.reason == ("fused, and it applies" if name == "cudnn" else "the mesh splits sequences")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about the CPU")
def test_cudnn_on_a_cpu_is_an_error_that_lists_all_reasons():
    with pytest.raises(ValueError, match=r"the platform is cpu; the compute type is float32; the head width is 4, not"):
        jitted_attend(*heads(), kernel="cudnn")


# The fused kernel, traced and lowered for a GPU, and its numbers by products in its place.

WIDTH = 16  # of a head


def half(*arrays, dtype=jnp.bfloat16) -> list[jax.Array]:
    return [jnp.asarray(x, dtype) for x in arrays]


def inputs_of(queries: int, keys: int, groups: int, dtype) -> list[jax.Array]:
    rows = 2 * B
    return half(
        vectors(rows, queries, 4, WIDTH, seed=1),
        vectors(rows, keys, groups, WIDTH, seed=2),
        vectors(rows, keys, groups, WIDTH, seed=3),
        dtype=dtype,
    )


def gradients(kernel: str, sees: Sees, target: np.ndarray):
    """Returns a function that attends and goes back, as a training step does."""

    def run(*arrays):
        def loss(*arrays):
            attended = attend(*arrays, sees=sees, kernel=kernel).astype(jnp.float32)
            return (attended * target).sum(), attended

        (_, attended), found = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays)
        return attended, found

    return run


def of_rows(sees: Sees, rows: int) -> Sees:
    lengths = sees.key_lengths
    lengths = None if lengths is None else jnp.concatenate([lengths] * (rows // B))
    return Sees(causal=sees.causal, key_lengths=lengths, window=sees.window)


def assert_close(found, expected, *, atol: float = 0.04) -> None:
    """Compares within a few roundings of bfloat16, which the two kernels do at other places."""
    close = lambda a, b: np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=atol)  # noqa: E731
    jax.tree.map(close, found, expected)


FUSED = [{}, {"padded": True}, {"causal": True}, {"causal": True, "padded": True}, {"causal": True, "window": 3}]


@pytest.mark.parametrize("parts", FUSED)
@pytest.mark.parametrize(
    ("dtype", "queries", "keys"),
    [(jnp.float16, 11, 11), *((jnp.bfloat16, *lengths) for lengths in ((11, 11), (12, 12), (11, 14), (12, 17)))],
)
def test_the_fused_kernel_takes_every_structure_at_odd_and_even_lengths(parts, dtype, queries, keys, gpu):  # noqa: F811
    arrays = inputs_of(queries, keys, 2, dtype)
    sees = of_rows(structure(queries, keys, **parts), 2 * B)
    target = vectors(2 * B, queries, 4, WIDTH, seed=6)
    for kernel in ("cudnn", "auto"):
        assert fused_calls(gradients(kernel, sees, target), *arrays) == 1
    assert calls_for_cuda(gradients("auto", sees, target), *arrays) == 2  # there and back


@pytest.mark.parametrize("parts", FUSED)
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (12, 17)])
def test_the_fused_kernel_is_told_the_same_as_the_other(parts, queries, keys, gpu):  # noqa: F811
    arrays = inputs_of(queries, keys, 2, jnp.bfloat16)
    sees = of_rows(structure(queries, keys, **parts), 2 * B)
    target = vectors(2 * B, queries, 4, WIDTH, seed=6)
    found, expected = (jax.jit(gradients(kernel, sees, target))(*arrays) for kernel in ("cudnn", "xla"))
    assert_close(found, expected)


@pytest.mark.parametrize("parts", [{}, {"padded": True}, {"causal": True}])
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (12, 17)])
def test_the_fused_kernel_takes_a_bias_where_it_is_asked_for(parts, queries, keys, gpu):  # noqa: F811
    arrays = inputs_of(queries, keys, 2, jnp.bfloat16)
    bias = jnp.asarray(vectors(1, 4, queries, keys, seed=7))
    sees, target = of_rows(structure(queries, keys, **parts), 2 * B), vectors(2 * B, queries, 4, WIDTH, seed=6)

    def run(kernel):
        def of_bias(bias, *arrays):
            of_block = lambda rows: bias if rows is None else bias[:, :, rows]  # noqa: E731
            attended = [attend(*arrays, sees=sees.with_bias(x), kernel=kernel) for x in (bias, of_block)]
            return sum((x.astype(jnp.float32) * target).sum() for x in attended), attended

        return jax.grad(of_bias, (0, 1, 2, 3), has_aux=True)

    assert fused_calls(run("cudnn"), bias, *arrays) == 2
    assert fused_calls(run("auto"), bias, *arrays) == 0
    assert calls_for_cuda(run("cudnn"), bias, *arrays) == 4
    found, expected = (jax.jit(run(kernel))(bias, *arrays) for kernel in ("cudnn", "xla"))
    assert_close(found, expected, atol=0.15)


def test_a_bias_names_its_obstacles():
    bias = jax.ShapeDtypeStruct((1, 4, T, S), jnp.float32)
    assert choose_kernel("auto", Sees(bias=bias), **FITTING) == KernelChoice("xla", "a bias is added to the scores")
    assert choose_kernel("cudnn", Sees(causal=True, bias=bias), **FITTING) == KernelChoice("cudnn", "asked for")
    own = jax.ShapeDtypeStruct((B, 4, T, S), jnp.float32)
    for sees, reason in (
        (Sees(bias=own), "each row has a bias of its own"),
        (Sees(causal=True, window=3, bias=bias), "a bias is added to the scores of a window"),
    ):
        with pytest.raises(ValueError, match=rf'^kernel="cudnn" cannot be used here: {reason}\. Say'):
            choose_kernel("cudnn", sees, **FITTING)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ({"data": 4}, {"padded": True}),
        ({"fsdp": 4}, {"causal": True, "padded": True}),
        *(({"data": 2, "tensor": 2}, parts) for parts in FUSED),
    ],
)
def test_the_fused_kernel_is_partitioned_by_rows_and_heads(sizes, parts, gpu):  # noqa: F811
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:4])
    arrays = inputs_of(11, 11, 2, jnp.bfloat16)
    sees = of_rows(structure(11, 11, **parts), 2 * B)
    target = vectors(2 * B, 11, 4, WIDTH, seed=6)

    def placed(query, key, value):
        with use_mesh(mesh):
            query = constrain(query, "batch", "length", "heads", None)
            key, value = (constrain(x, "batch", None, "kv_heads", None) for x in (key, value))
            return gradients("cudnn", sees, target)(query, key, value)

    lowered = jax.jit(placed).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("CustomSPMDPartitioning") == 2
    compiled = jax.jit(placed).lower(*arrays).compile()
    assert "all-gather" not in compiled.as_text()  # each device attends for its own rows and heads
    expected = jax.jit(gradients("xla", sees, target))(*arrays)
    assert_close(compiled(*arrays), expected)


def test_what_the_fused_kernel_cannot_do_goes_to_the_other_by_itself(gpu):  # noqa: F811
    arrays = inputs_of(11, 11, 2, jnp.bfloat16)
    packed = jnp.ones((2 * B, 11), jnp.int32)
    target = vectors(2 * B, 11, 4, WIDTH, seed=6)
    for sees in (Sees(segments=(packed, packed)), Sees(window=3)):
        assert fused_calls(gradients("auto", sees, target), *arrays) == 0
    assert fused_calls(lambda *arrays: attend(*arrays, sees=Sees(bias=jnp.zeros((1, 1, 11, 11)))), *arrays) == 0
    key = jax.random.key(0)
    assert fused_calls(lambda *arrays: attend(*arrays, dropout_rate=0.1, dropout_key=key), *arrays) == 0
    # Without a key nothing is dropped out: validation may take the fused kernel where training may not.
    assert fused_calls(lambda *arrays: attend(*arrays, dropout_rate=0.1), *arrays) == 1


def test_rows_of_padding_alone_are_numbers_in_the_fused_kernel(gpu):  # noqa: F811
    arrays = inputs_of(11, 11, 2, jnp.bfloat16)
    sees = Sees(key_lengths=jnp.asarray([11, 0, 3, 0], jnp.int32))
    found = jax.jit(gradients("cudnn", sees, vectors(2 * B, 11, 4, WIDTH, seed=6)))(*arrays)
    assert all(np.isfinite(x.astype(np.float32)).all() for x in jax.tree.leaves(found))


def test_seeds_side_by_side_go_through_the_fused_kernel_together(gpu):  # noqa: F811
    arrays = [jnp.stack([x, 2 * x, -x]) for x in inputs_of(11, 11, 2, jnp.bfloat16)]
    lengths = jnp.asarray(np.random.default_rng(0).integers(1, 12, (3, 2 * B)), jnp.int32)
    target = vectors(2 * B, 11, 4, WIDTH, seed=6)

    def run(kernel):
        one = lambda lengths, *arrays: gradients(kernel, Sees(key_lengths=lengths), target)(*arrays)  # noqa: E731
        return jax.jit(jax.vmap(one))(lengths, *arrays)

    assert_close(run("cudnn"), run("xla"), atol=0.1)


def test_a_causal_row_has_no_mask_in_the_program_of_the_gpu(gpu):  # noqa: F811
    arrays = [jax.ShapeDtypeStruct((2, 4096, 4, WIDTH), jnp.bfloat16)] * 3
    loss = lambda *arrays: attend(*arrays, sees=Sees(causal=True)).astype(jnp.float32).__pow__(2).sum()  # noqa: E731
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "4096x4096" not in lowered


# Borders.


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"platform": "cpu"}, Accelerator("cpu")),
        ({"platform": "tpu"}, Accelerator("tpu")),
        ({"platform": "gpu", "version": "PJRT C API\ncuda 12090", "capability": "8.9"}, Accelerator("cuda", 8.9)),
        ({"platform": "gpu", "version": "PJRT C API\nrocm 60400", "capability": "gfx942"}, Accelerator("rocm")),
    ],
)
def test_a_device_is_known_by_its_platform_and_capability(device, expected, monkeypatch):
    client = SimpleNamespace(platform_version=device.get("version", ""))
    first = SimpleNamespace(
        platform=device["platform"], client=client, compute_capability=device.get("capability", "none")
    )
    monkeypatch.setattr(kernels.jax, "devices", lambda: [first])
    assert kernels.accelerator() == expected


@pytest.mark.parametrize(
    ("capability", "widest"), [(8.0, 128), (8.6, 128), (8.9, 128), (9.0, 256), (10.0, 128), (10.3, 128), (12.0, 128)]
)
def test_capabilities_at_their_borders(capability, widest):
    fitting = {**FITTING, "on": Accelerator("cuda", capability)}
    assert choose_kernel("auto", **{**fitting, "head_width": widest}).name == "cudnn"
    assert choose_kernel("auto", **{**fitting, "head_width": widest + 8}).name == "xla"
    assert choose_kernel("auto", **{**fitting, "head_width": 8}).name == "cudnn"
    assert choose_kernel("auto", **{**fitting, "dtype": jnp.float16}).name == "cudnn"


def test_heads_that_the_mesh_splits_differently_are_an_obstacle():
    """jax's partitioner of cuDNN's kernel wants queries and keys split alike."""
    mesh = make_mesh(MeshConfig(data=1, tensor=4), devices=jax.devices()[:4])
    with use_mesh(mesh, rules={**DEFAULT_RULES, "kv_heads": ()}):
        choice = choose_kernel("auto", **FITTING)
    assert choice == KernelChoice("xla", "the mesh splits query heads and key heads differently")
    with use_mesh(mesh):
        assert choose_kernel("auto", **FITTING).name == "cudnn"


def test_a_row_is_long_by_the_queries_that_a_device_has(short_blocks):
    arrays = heads(2, queries=LONG, keys=LONG)  # 400 scores a head; of a device that has five queries, 100
    mesh = make_mesh(MeshConfig(data=1, sequence=4), devices=jax.devices()[:4])

    def placed(*arrays):
        with use_mesh(mesh):
            return attend(*arrays)

    assert "scan" in str(jax.make_jaxpr(attend)(*arrays))
    assert "scan" not in str(jax.make_jaxpr(placed)(*arrays))


@pytest.mark.parametrize("bias_shape", [(1, 1, LONG, LONG), (B, H, LONG, LONG)])
def test_blocks_take_the_rows_of_a_bias_that_are_theirs(bias_shape, short_blocks):
    arrays, bias = heads(queries=LONG, keys=LONG), vectors(*bias_shape, seed=5)
    blocked = jitted_attend(*arrays, sees=Sees(bias=jnp.asarray(bias)))
    np.testing.assert_allclose(blocked, by_hand(*arrays, bias=bias), atol=1e-5)


def test_more_queries_than_an_odd_number_of_keys_do_not_see_what_is_added(gpu):  # noqa: F811
    arrays, sees = inputs_of(14, 11, 2, jnp.bfloat16), Sees(causal=True)
    target = vectors(2 * B, 14, 4, WIDTH, seed=6)
    found, expected = (jax.jit(gradients(kernel, sees, target))(*arrays) for kernel in ("cudnn", "xla"))
    assert_close(found, expected)
