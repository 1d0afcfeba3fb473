import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx import losses
from lmx.losses import (
    CHUNK_BYTES,
    CHUNK_TOKENS,
    FEWEST_TOKENS,
    activated,
    chunk_size,
    cross_entropy,
    drop_words,
    label_loss,
)
from lmx.sharding import tables
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

# Rows and length of the batch, width, words, rows of the table: the last 7 are padding.
B, T, D, V, ROWS = 6, 5, 4, 13, 20


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Makes states, table, labels and weights; weights of 0 are padding, those of 2 count twice."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, V, (B, T)).astype(np.int32)
    weights = generator.choice([0, 1, 1, 2], (B, T)).astype(np.float32)
    return 2 * vectors(B, T, D, seed=1), vectors(ROWS, D, seed=2), labels, weights


def plain(states, table, labels, weights, *, label_smoothing=0.0, z_loss=0.0):
    """The loss as its formula, with all logits at once: -(1 - eps) log p(label) - eps mean(log p) + z log(Z)^2."""
    logits = states @ table[:V].T
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = logits - log_z[..., None]
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    loss = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1) + z_loss * log_z**2
    return (loss * weights).sum(), ((nll * weights).sum(), weights.sum())


def chunked(states, table, labels, weights, **settings):
    sums = cross_entropy(states, table, labels, weights, vocab_size=V, **settings)
    return sums.loss, (sums.nll, sums.weight)


def with_gradients(loss, **settings):
    """Compiles the loss with its gradients by states and table."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, **settings), argnums=(0, 1), has_aux=True))


def assert_near(found, expected):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5), found, expected)


@pytest.fixture(scope="module")
def smoothed():
    """The loss with everything in it, and its gradients, by the formula."""
    return with_gradients(plain, label_smoothing=0.1, z_loss=0.01)(*batch())


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.01}])
def test_value_and_gradients_equal_the_formula(settings):
    assert_near(with_gradients(chunked, **settings)(*batch()), with_gradients(plain, **settings)(*batch()))


@pytest.mark.parametrize("chunk_tokens", [1, 2 * T, 3 * T, 1000])
def test_the_size_of_a_chunk_changes_nothing(smoothed, chunk_tokens):
    found = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01, chunk_tokens=chunk_tokens)(*batch())
    assert_near(found, smoothed)


@pytest.mark.parametrize("rows", [16, 7])
def test_any_number_of_rows_can_be_split(rows):
    states, table, labels, weights = batch()
    states, labels, weights = (np.resize(x, (rows, *x.shape[1:])) for x in (states, labels, weights))
    found, expected = (
        jax.jit(loss)(states, table, labels, weights) for loss in (functools.partial(chunked, chunk_tokens=8), plain)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_chunks_are_of_8_tokens_a_piece_and_as_equal_as_that_allows():
    for tokens in (1, 7, 8, 30, 509, 512, 513, 1024, 4048, 4093, 16_384):  # primes among them
        for words in (128, 9856, 250_112):
            size = chunk_size(tokens, words=words)
            chunks = -(-tokens // size)
            assert size % 8 == 0
            assert size <= CHUNK_TOKENS
            assert chunks * size - tokens < 8 * chunks, (tokens, words)


@pytest.mark.parametrize(
    ("words", "size"), [(9856, 512), (131_072, 512), (262_144, 256), (300_000, 216), (4_000_000, 128)]
)
def test_a_chunks_logits_are_bounded_whatever_the_vocabulary(words, size):
    assert chunk_size(8 * 4096, words=words) == size
    assert 4 * words * size <= CHUNK_BYTES or size == FEWEST_TOKENS


def test_where_many_devices_share_a_table_each_gives_less_to_a_chunk():
    assert [chunk_size(4096, words=9856, sharing=number) for number in (2, 8, 16, 64, 1024)] == [512, 512, 256, 64, 8]
    assert chunk_size(4096, words=9856, most=100) == 96
    assert chunk_size(0, words=128) == 8


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(
    ("sizes", "limit", "told"),
    [
        ({"data": 2, "tensor": 2}, 2**28, {"tokens": B * T // 2, "words": ROWS // 2, "sharing": 1}),
        ({"fsdp": 2, "tensor": 2}, 0, {"tokens": B * T // 2, "words": ROWS // 2, "sharing": 2}),
    ],
)
def test_a_chunk_is_of_the_tokens_and_the_words_of_a_device(sizes, limit, told, monkeypatch):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", limit)
    found = []

    def noted(tokens: int, **given: int) -> int:
        found.append({"tokens": tokens, **given})
        return chunk_size(tokens, **given)

    monkeypatch.setattr(losses, "chunk_size", noted)
    mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)), devices=jax.devices()[:4])

    def loss(*arguments):
        with use_mesh(mesh):
            return chunked(*arguments, chunk_tokens=24)

    jax.eval_shape(loss, *batch())
    assert found == [{**told, "most": 24}]


def test_a_long_row_is_many_chunks():
    # 8 x 2048 tokens of 128,000 words: their logits are 8.4 GB, those of a chunk 262 MB.
    states, table = jax.ShapeDtypeStruct((8, 2048, 16), jnp.float32), jax.ShapeDtypeStruct((128_000, 16), jnp.float32)
    labels, weights = (jax.ShapeDtypeStruct((8, 2048), dtype) for dtype in (jnp.int32, jnp.float32))
    loss = jax.value_and_grad(
        lambda *arguments: cross_entropy(*arguments, vocab_size=128_000, label_smoothing=0.1).loss, argnums=(0, 1)
    )
    compiled = jax.jit(loss).lower(states, table, labels, weights).compile()
    # Logits and what is made of them, and the table's gradient twice: one is transposed.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * CHUNK_BYTES + 3 * 4 * 128_000 * 16


def test_smoothing_gives_every_word_an_equal_share():
    # eps/V for each of V words, the label included: fairseq 0.9's convention.
    states, table, labels, _ = batch()
    weights = np.zeros((B, T), np.float32)
    weights[2, 3] = 1
    logits = (states[2, 3] @ table[:V].T).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.full(V, 0.3 / V)
    target[labels[2, 3]] += 0.7
    loss, (nll, weight) = jax.jit(functools.partial(chunked, label_smoothing=0.3))(states, table, labels, weights)
    assert float(loss) == pytest.approx(-(target * log_p).sum(), rel=1e-5)
    assert float(nll) == pytest.approx(-log_p[labels[2, 3]], rel=1e-5)
    assert float(weight) == 1


def test_the_padding_of_the_table_has_no_probability_and_no_gradient(smoothed):
    states, table, labels, weights = batch()
    table[V:] = 50
    (loss, _), (by_states, by_table) = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01)(
        states, table, labels, weights
    )
    assert_near((loss, by_states), (smoothed[0][0], smoothed[1][0]))
    assert (np.asarray(by_table)[V:] == 0).all()


def test_what_has_no_weight_does_not_matter(smoothed):
    states, table, labels, weights = batch()
    states, labels = np.where(weights[..., None] == 0, 1e3, states), np.where(weights == 0, 0, labels)
    found = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01)(states, table, labels, weights)
    assert_near(found[0], smoothed[0])
    assert (np.asarray(found[1][0])[weights == 0] == 0).all()


def test_a_batch_without_weight_has_no_loss_and_no_gradient():
    states, table, labels, _ = batch()
    found = with_gradients(chunked, label_smoothing=0.1)(states, table, labels, np.zeros((B, T), np.float32))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))


def test_gradients_follow_what_the_loss_is_multiplied_with(smoothed):
    def third(*arguments):
        loss, sums = chunked(*arguments, label_smoothing=0.1, z_loss=0.01)
        return loss / 3, sums

    assert_near(with_gradients(third)(*batch())[1], jax.tree.map(lambda gradient: gradient / 3, smoothed[1]))


def test_weights_may_only_say_which_tokens_count():
    states, table, labels, weights = batch()
    found = jax.eval_shape(chunked, states, table, labels, weights > 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


def test_only_the_loss_has_a_gradient():
    def nll(states, table, labels, weights):
        return chunked(states, table, labels, weights)[1][0], None

    assert all((np.asarray(leaf) == 0).all() for leaf in with_gradients(nll)(*batch())[1])


def test_vmap_gives_what_one_by_one_gives(smoothed):
    arguments = [np.stack([x, x[::-1]]) for x in batch()]
    loss = functools.partial(chunked, label_smoothing=0.1, z_loss=0.01, chunk_tokens=2 * T)
    stacked = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)))(*arguments)
    assert_near(jax.tree.map(lambda leaf: leaf[0], stacked), smoothed)


def test_large_logits_stay_finite():
    states, table, labels, weights = batch()
    found, expected = (
        with_gradients(loss, label_smoothing=0.1)(100 * states, 100 * table, labels, weights)
        for loss in (chunked, plain)
    )
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_bfloat16_states_give_float32_sums():
    states, table, labels, weights = batch()
    narrow = states.astype(jnp.bfloat16)
    (loss, (nll, _)), (by_states, by_table) = with_gradients(chunked, label_smoothing=0.1)(
        narrow, table, labels, weights
    )
    assert loss.dtype == nll.dtype == by_table.dtype == np.float32
    assert by_states.dtype == jnp.bfloat16
    (exact, _), (exact_by_states, exact_by_table) = with_gradients(plain, label_smoothing=0.1)(
        *(x.astype(jnp.bfloat16).astype(np.float32) for x in (states, table)), labels, weights
    )
    # Inputs and sums are exact but for the table in the product with the label (float32): 2^-8 of single terms.
    np.testing.assert_allclose(loss, exact, rtol=2e-3)
    np.testing.assert_allclose(by_states.astype(np.float32), exact_by_states, atol=0.05)
    np.testing.assert_allclose(by_table, exact_by_table, atol=0.02 * float(np.abs(exact_by_table).max()))


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}])
def test_nothing_of_a_loss_is_summed_in_bfloat16(settings):
    states, *rest = batch()
    program = str(jax.make_jaxpr(functools.partial(chunked, **settings))(states.astype(jnp.bfloat16), *rest))
    made = set(re.findall(r":bf16\[\S*\] = (\w+)", program))
    assert {"convert_element_type", "reshape"} <= made
    assert not made & {"dot_general", "mul", "add", "sub", "reduce_sum"}


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(
    ("sizes", "limit", "gradient_sum", "narrow"),
    [
        ({"data": 2}, 2**28, "float32", 0),
        ({"tensor": 2}, 2**28, "float32", 1),  # the gradient by states, which devices with other words add up
        ({"fsdp": 2, "tensor": 2}, 0, "float32", 0),
        ({"fsdp": 2, "tensor": 2}, 0, "compute", 1),
    ],
)
def test_products_are_float32_but_for_what_devices_send(sizes, limit, gradient_sum, narrow, monkeypatch):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", limit)
    number = int(np.prod(list(sizes.values())))
    mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)), devices=jax.devices()[:number])
    states, *rest = batch()

    def loss(*arguments):
        with use_mesh(mesh, gradient_sum=gradient_sum):
            return chunked(*arguments, label_smoothing=0.1)[0]

    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(states.astype(jnp.bfloat16), *rest))
    assert program.count("preferred_element_type=float32") >= 3
    assert program.count("preferred_element_type=bfloat16") == narrow


# Losses of labels.

N, C = 7, 4


def label_batch(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes outputs, labels and weights; a weight of 0 is no text, one of 0.5 a window of two."""
    generator = np.random.default_rng(11)
    labels = {
        "single": generator.integers(0, C, N).astype(np.int32),
        "multi": generator.integers(0, 2, (N, C)).astype(np.float32),
        "regression": (100 + 20 * generator.normal(size=N)).astype(np.float32),
    }
    weights = np.array([1, 0, 0.5, 0.5, 1, 1, 0], np.float32)
    outputs = vectors(N, 1, seed=9) * 20 + 100 if kind == "regression" else 3 * vectors(N, C, seed=9)
    return outputs, labels[kind], weights


def single_by_optax(outputs, labels, weights, *, label_smoothing, class_weights):
    targets = optax.smooth_labels(jax.nn.one_hot(labels, C), label_smoothing)
    weights = weights * class_weights[labels]
    return (optax.softmax_cross_entropy(outputs, targets) * weights).sum(), weights.sum()


def multi_by_optax(outputs, labels, weights, *, label_smoothing, class_weights):
    # Smoothed between the two classes that each label is.
    targets = (1 - label_smoothing) * labels + label_smoothing / 2
    there, not_there = (optax.sigmoid_binary_cross_entropy(outputs, jnp.full_like(outputs, one)) for one in (1.0, 0.0))
    each = class_weights * targets * there + (1 - targets) * not_there
    return (each.mean(-1) * weights).sum(), weights.sum()


CLASS_WEIGHTS = np.array([0.5, 1, 2, 3], np.float32)


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS])
def test_losses_of_classes_and_their_gradients_are_optaxs(kind, smoothing, class_weights):
    outputs, labels, weights = map(jnp.asarray, label_batch(kind))
    reference = {"single": single_by_optax, "multi": multi_by_optax}[kind]
    ones = jnp.ones(C) if class_weights is None else jnp.asarray(class_weights)

    def ours(outputs):
        return tuple(
            label_loss(outputs, labels, weights, kind=kind, label_smoothing=smoothing, class_weights=class_weights)
        )

    def theirs(outputs):
        return reference(outputs, labels, weights, label_smoothing=smoothing, class_weights=ones)

    assert_near(*(jax.jit(jax.value_and_grad(loss, has_aux=True))(outputs) for loss in (ours, theirs)))


def test_the_loss_of_numbers_is_half_their_squared_error_in_units_of_scale():
    outputs, labels, weights = map(jnp.asarray, label_batch("regression"))
    loss = functools.partial(label_loss, kind="regression", scale=20.0)
    found = loss(outputs, labels, weights)
    expected = (0.5 * ((outputs[:, 0] - labels) / 20) ** 2 * weights).sum()
    assert float(found.loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.weight) == 4
    unit = label_loss(outputs, labels, weights, kind="regression")
    assert float(unit.loss) == pytest.approx(400 * float(found.loss), rel=1e-5)
    gradient = jax.grad(lambda outputs: loss(outputs, labels, weights).loss)(outputs)
    np.testing.assert_allclose(gradient[:, 0], (outputs[:, 0] - labels) / 400 * weights, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_a_text_of_no_weight_has_no_part_in_the_loss(kind):
    outputs, labels, weights = map(jnp.asarray, label_batch(kind))
    found = label_loss(outputs, labels, weights, kind=kind)
    other = outputs.at[jnp.array([1, 6])].add(50.0)
    assert_near(label_loss(other, labels, weights, kind=kind), found)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_losses_of_classes_are_float32_and_finite_far_out(kind):
    _, labels, weights = map(jnp.asarray, label_batch(kind))
    outputs = jnp.where(jnp.arange(C) % 2, 300.0, -300.0).astype(jnp.bfloat16) * jnp.ones((N, 1), jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: label_loss(x, labels, weights, kind=kind).loss)(outputs)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_logits_mean_probabilities_of_all_classes_of_each_or_numbers():
    logits = jnp.asarray(vectors(2, 3, C, seed=4))
    shares = np.exp(logits)
    np.testing.assert_allclose(activated(logits, kind="single"), shares / shares.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(activated(logits, kind="multi"), shares / (1 + shares), rtol=1e-5)
    np.testing.assert_array_equal(activated(logits, kind="regression"), logits)


# Words that are taken out.


def test_words_are_dropped_at_their_rate_and_others_stay_in_place():
    tokens = jnp.asarray(np.random.default_rng(1).integers(3, 50, (40, 100)), jnp.int32)
    tokens = tokens.at[:, 0].set(1).at[:, 60].set(2).at[:, 80:].set(0)
    found = drop_words(tokens, 0.3, jax.random.key(5), replacement=0, kept=(0, 1, 2))
    same = found == tokens
    assert (found[~same] == 0).all()
    assert same[:, 0].all()
    assert same[:, 60].all()
    words = np.asarray(tokens) > 2
    # Of 3,120 words; four standard deviations.
    assert (~same)[words].mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / words.sum()) ** 0.5)
    assert len({row.tobytes() for row in np.asarray(same)}) == 40  # each row by itself
    other = drop_words(tokens, 0.3, jax.random.key(6), replacement=0, kept=(0, 1, 2))
    assert (other != found).any()


def test_without_a_key_or_a_rate_no_word_is_dropped():
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(3, 4)
    assert (drop_words(tokens, 0.9, None, replacement=0) == tokens).all()
    assert (drop_words(tokens, 0.0, jax.random.key(1), replacement=0) == tokens).all()
    assert (drop_words(tokens, 1.0, jax.random.key(1), replacement=0, kept=(7,)) == jnp.where(tokens == 7, 7, 0)).all()
