import dataclasses
import functools
import itertools
import math
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn import kernels, transformer
from lmx.nn.positions.alibi import Alibi, slopes
from lmx.nn.positions.learned import LearnedPositions
from lmx.nn.positions.make import PositionName, longest, make_positions
from lmx.nn.positions.rotary import rotary, stretched
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.nn.positions.t5 import RelativeBias, buckets
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Sinusoidal.


def test_sinusoidal_positions_are_the_papers_formula_by_halves():
    length, width = 9000, 6
    table = np.asarray(sinusoidal(length, width))
    assert table.shape == (length, width)
    for t in (0, 1, 17, length - 1):
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            assert table[t, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, width // 2 + i] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_sinusoidal_position_is_a_fixed_rotation_of_an_earlier_one():
    # Why the paper chose it: PE(t + k) is a linear function of PE(t), the same for every t.
    table, width, shift = np.asarray(sinusoidal(50, 8)), 8, 11
    angle = shift / 10000 ** (np.arange(0, width, 2) / width)
    sin, cos = table[:-shift, :4], table[:-shift, 4:]
    rotated = np.concatenate([sin * np.cos(angle) + cos * np.sin(angle), cos * np.cos(angle) - sin * np.sin(angle)], 1)
    np.testing.assert_allclose(rotated, table[shift:], atol=1e-6)


def test_a_longer_table_begins_with_the_shorter_one():
    np.testing.assert_array_equal(np.asarray(sinusoidal(30, 10))[:13], sinusoidal(13, 10))


def test_an_odd_width_has_no_sinusoidal_positions():
    with pytest.raises(ValueError, match=r"^width must be even for sinusoidal positions, got width=7\.$"):
        sinusoidal(3, 7)


# Rotary.


rotate = jax.jit(rotary, static_argnames="base")


def turn(x: np.ndarray, positions: list, **settings: float) -> np.ndarray:
    return np.asarray(rotate(x, np.array(positions), **settings))


def test_rotary_is_the_papers_rotation_up_to_a_permutation_of_the_features():
    batch, length, heads, width = 2, 5, 3, 8
    x, positions = vectors(batch, length, heads, width), [[0, 1, 2, 3, 4], [900, 7, 7, 31, 2]]
    # Equation 34 of the paper: neighbours (2i, 2i + 1) turn by m * 10000^(-2i/K).
    interleaved = np.empty(x.shape)
    interleaved[..., 0::2], interleaved[..., 1::2] = x[..., :4], x[..., 4:]
    expected = np.empty(x.shape)
    for i in range(width // 2):
        angle = np.array(positions)[:, :, None] * 10000.0 ** (-2 * i / width)
        even, odd = interleaved[..., 2 * i], interleaved[..., 2 * i + 1]
        expected[..., i] = even * np.cos(angle) - odd * np.sin(angle)
        expected[..., i + 4] = odd * np.cos(angle) + even * np.sin(angle)
    # float32 angles near 900 are exact to about 6e-5.
    np.testing.assert_allclose(turn(x, positions), expected, atol=3e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    x = np.repeat(vectors(2, 1, 1, 16), 6, axis=1)  # one query and one key, at six places each
    queries, keys = turn(x, [[9, 105, 5, 4, 9, 0], [4, 100, 0, 9, 5, 0]])
    far, farther, nearest, turned_round, nearer, _ = (queries * keys).sum((-1, -2))
    np.testing.assert_allclose([farther, nearest], far, atol=1e-4)
    assert abs(far - turned_round) > 0.1
    assert abs(far - nearer) > 0.1


def test_rotary_keeps_norms_and_leaves_position_zero():
    x = vectors(2, 7, 3, 4)
    turned = turn(x, [range(7)])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_a_larger_rotary_base_turns_slower():
    # Position 1 turns pair i by base^(-2i/K); the first pair by 1 radian whatever the base.
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., :4] = 1
    for base in (100.0, 10000.0):
        np.testing.assert_allclose(
            turn(x, [[1]], base=base)[0, 0, 0, 4:], np.sin(base ** (-np.arange(4) / 4)), rtol=1e-5
        )


def test_slow_rotations_are_slowed_down_fast_ones_stay_and_those_between_are_blended():
    """Llama 3.1's own function, number by number: by how often a feature turns within the rows of the pretraining."""
    factor, low, high, length = 8.0, 1.0, 4.0, 512.0
    frequencies = 10000.0 ** (-np.arange(32) / 32)
    expected = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        blend = (length / wave - low) / (high - low)
        between = (1 - blend) * frequency / factor + blend * frequency
        expected.append(frequency if wave < length / high else frequency / factor if wave > length / low else between)
    kept = np.isclose(expected, frequencies, rtol=1e-6)
    slowed = np.isclose(expected, frequencies / factor, rtol=1e-6)
    assert min(kept.sum(), slowed.sum(), (~kept & ~slowed).sum()) > 2
    found = stretched(jnp.asarray(frequencies, jnp.float32), (factor, low, high, length))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(stretched(jnp.asarray(frequencies), (3.0,)), frequencies / 3, rtol=1e-6)


def test_rotary_turns_bfloat16_in_float32():
    x, positions = vectors(2, 7, 3, 4).astype(jnp.bfloat16), [range(500, 507)]
    turned = turn(x, positions)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, turn(x.astype(np.float32), positions).astype(jnp.bfloat16))


def test_an_odd_head_width_cannot_rotate():
    with pytest.raises(ValueError, match=r"^head width must be even for rotary positions, got width=5\.$"):
        rotary(jnp.ones((1, 2, 3, 5)), jnp.ones((1, 2), jnp.int32))


# Learned.


def test_learned_positions_are_rows_of_a_table():
    layer = LearnedPositions(400, 64, rngs=nnx.Rngs(0))
    positions = np.array([[3, 0, 399], [399, 399, 1]])
    looked_up, table = layer.vectors(jnp.asarray(positions)), np.asarray(layer.table[...])
    np.testing.assert_array_equal(looked_up, table[positions])
    assert layer.table.get_metadata("axes") == (None, "embed")
    assert table.std() == pytest.approx(64**-0.5, rel=0.02)  # as word vectors


# ALiBi.


def test_alibi_is_the_papers_penalty():
    # Section 3: -m (i - j) is added, and "for 8 heads, the slopes are the geometric sequence 1/2, 1/4, ..., 1/256".
    bias = np.asarray(Alibi(8).bias(jnp.array([[5, 9]]), jnp.array([[0, 5, 7, 9]])))
    assert bias.shape == (1, 8, 2, 4)
    for h, (t, i), (s, j) in itertools.product(range(8), enumerate((5, 9)), enumerate((0, 5, 7, 9))):
        assert bias[0, h, t, s] == -(2.0 ** -(h + 1)) * abs(i - j)


def test_slopes_of_other_numbers_of_heads_lie_between():
    # Section 3: "for 16 heads, we interpolate ... by averaging geometrically every consecutive pair".
    np.testing.assert_allclose(slopes(16), 2.0 ** (-0.5 * np.arange(1, 17)), rtol=1e-6)
    np.testing.assert_array_equal(slopes(1), [2.0**-8])
    # As BLOOM and MPT have it of numbers that are no power of two.
    np.testing.assert_allclose(slopes(6), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3], rtol=1e-6)


# T5.


def bucket_by_formula(distance: int, *, is_causal: bool) -> int:
    """Mesh-tensorflow's `_relative_position_bucket` for 32 buckets and 128, in Python's own numbers."""
    number, first, n = 32, 0, -distance
    if is_causal:
        n = max(n, 0)
    else:
        number = 16
        first, n = (number if n < 0 else 0), abs(n)
    exact = number // 2
    if n < exact:
        return first + n
    # A logarithm that should be whole may come out below; 128 / exact is a power of two, and the others are far off.
    large = exact + int(math.log(n / exact) / math.log(128 / exact) * (number - exact) + 1e-9)
    return first + min(large, number - 1)


@pytest.mark.parametrize("is_causal", [False, True])
def test_relative_biases_are_the_papers_buckets(is_causal):
    table = vectors(32, 3)
    encoding = RelativeBias(64, 3, is_causal=is_causal, rngs=nnx.Rngs(0))
    encoding.table.set_value(jnp.asarray(table))
    queries, keys = np.array([[0, 3, 500]]), np.arange(700)[None]
    bias = np.asarray(jax.jit(lambda e, *places: e.bias(*places))(encoding, queries, keys))
    assert bias.shape == (1, 3, 3, 700)
    for t, query in enumerate(queries[0]):
        expected = [table[bucket_by_formula(int(key - query), is_causal=is_causal)] for key in keys[0]]
        np.testing.assert_array_equal(bias[0, :, t], np.array(expected).T)
    # A key behind the query is at least one place away: bucket 16, ahead by nothing, is mesh-tensorflow's too.
    assert {*buckets(is_causal).tolist()} == set(range(32)) - (set() if is_causal else {16})


def test_a_relative_bias_is_drawn_as_its_paper_has_it_and_is_split_by_heads():
    layer = RelativeBias(64, 400, is_causal=True, rngs=nnx.Rngs(0))
    assert np.asarray(layer.table[...]).std() == pytest.approx(64**-0.5, rel=0.02)
    assert layer.table.get_metadata("axes") == (None, "heads")


# What holds for each of them.

KINDS = typing.get_args(PositionName)
D, H, G, N, V, L = 24, 6, 2, 3, 31, 10


def decoder_config(kind: str, **changes) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=V, width=D, feedforward_width=20, num_heads=H, num_kv_heads=G, num_layers=N, positions=kind,
        max_length=16, **changes,
    )  # fmt: skip


@functools.cache
def decoder(kind: str) -> tuple[nnx.GraphDef, typing.Any]:
    """Makes a model whose positions matter much, as random weights at first have none."""
    definition, state = nnx.split(nnx.eval_shape(lambda: Decoder(decoder_config(kind), rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(4)
    return definition, jax.tree.map(lambda x: jnp.asarray(generator.normal(0, 0.5, x.shape), x.dtype), state)


TOKENS = jnp.asarray(np.random.default_rng(3).integers(1, V, (2, L)), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def states_of(definition, state, tokens, **packed):
    return nnx.merge(definition, state)(tokens, **packed)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_are_separate_rows(kind):
    model = decoder(kind)
    segments = np.repeat([[1] * 6 + [2] * 4], 2, axis=0).astype(np.int32)
    positions = np.repeat([[*range(6), *range(4)]], 2, axis=0).astype(np.int32)
    together = np.asarray(states_of(*model, TOKENS, segments=segments, positions=positions))
    np.testing.assert_allclose(together[:, :6], states_of(*model, TOKENS[:, :6]), atol=2e-5)
    np.testing.assert_allclose(together[:, 6:], states_of(*model, TOKENS[:, 6:]), atol=2e-5)
    assert np.abs(together - np.asarray(states_of(*model, TOKENS))).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_in_any_order_changes_nothing(kind):
    # Slots as a beam search fills them: those of another beam stand between, and hold positions too.
    definition, state = decoder(kind)
    slots = jnp.arange(2 * L) // 2

    @jax.jit
    def cached(state, tokens):
        model = nnx.merge(definition, state)
        blocks, found = model.stack.unstack(), []
        caches = [block.start_cache(None, batch=2, slots=2 * L) for block in blocks]
        for time in range(L):
            place = jnp.full((1, 2), time)
            pair = jnp.stack([tokens[:, time], (tokens[:, time] + 7) % V], axis=1)
            x = transformer.embed(model.config, model.embedding(pair), model.positions, positions=place)
            own = (jnp.arange(2 * L)[None] % 2 == jnp.arange(2)[:, None]) & (slots <= time)
            y, caches = model.stack.extend(
                blocks, x, caches, encoding=model.positions, positions=place, slots=slots[None],
                offset=jnp.asarray(2 * time), mask=own[None, None],
            )  # fmt: skip
            found.append(y)
        return jnp.stack(found, axis=1)

    found = np.asarray(cached(state, TOKENS))
    for beam, tokens in enumerate((TOKENS, (TOKENS + 7) % V)):
        np.testing.assert_allclose(found[:, :, beam], states_of(definition, state, tokens), atol=5e-5)


def test_an_encoding_must_be_told_where_all_stand():
    definition, state = decoder("alibi")
    stack = nnx.merge(definition, state).stack
    with pytest.raises(ValueError, match=r"^positions and slots must be given with an encoding, got positions=None"):
        stack.extend(stack.unstack(), jnp.zeros((1, 1, D)), [], encoding=Alibi(H))


@pytest.mark.parametrize("kind", ["alibi", "t5"])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_queries_make_their_own_bias(kind, packed, monkeypatch):
    definition, state = decoder(kind)
    given = {}
    if packed:
        given["segments"] = jnp.asarray([[1] * 6 + [2] * 4] * 2, jnp.int32)
        given["positions"] = jnp.asarray([[*range(6), *range(4)]] * 2, jnp.int32)

    def gradient(state):
        loss = lambda state: (nnx.merge(definition, state)(TOKENS, **given)[0] ** 2).mean()  # noqa: E731
        return jax.value_and_grad(loss)(state)

    def wholes(jaxpr: str) -> list[str]:
        return re.findall(rf"\w+\[\d+,{H},{L},{L}\]", jaxpr)

    assert wholes(str(jax.make_jaxpr(gradient)(state)))
    expected = jax.jit(gradient)(state)
    monkeypatch.setattr(kernels, "queries_per_block", lambda queries, keys: 3)
    in_blocks = lambda state: gradient(state)  # noqa: E731  # traced anew
    assert not wholes(str(jax.make_jaxpr(in_blocks)(state)))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)  # noqa: E731
    jax.tree.map(close, jax.jit(in_blocks)(state), expected)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("sizes", [{"tensor": 2}, {"sequence": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("kind", ["alibi", "t5"])
def test_devices_share_heads_and_queries_of_a_bias(kind, sizes):
    definition, state = decoder(kind)
    number = math.prod(sizes.values())
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:number])

    def gradient(state):
        loss = lambda state: (nnx.merge(definition, state)(TOKENS)[0] ** 2).mean()  # noqa: E731
        return jax.value_and_grad(loss)(state)

    @jax.jit
    def on_mesh(state):
        with use_mesh(mesh):
            return gradient(state)

    axes = jax.tree.map(lambda x: x.get_metadata("axes"), state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert kind != "t5" or axes["positions"]["table"] == (None, "heads")
    compiled = on_mesh.lower(state).compile()
    # No device holds the bias of another's heads and queries.
    heads, queries = H // sizes.get("tensor", 1), L // sizes.get("sequence", 1)
    assert not re.findall(rf"f32\[(?:1,)?{H},{L},{L}\]", compiled.as_text())
    assert re.findall(rf"f32\[(?:1,)?{heads},{queries},{L}\]", compiled.as_text())
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)  # noqa: E731
    jax.tree.map(close, compiled(state), jax.jit(gradient)(state))


def test_the_layers_of_a_stack_share_one_table_and_each_stack_has_its_own():
    config = Seq2SeqConfig(
        source_vocab_size=V, target_vocab_size=V, width=D, num_heads=H, positions="t5",
        num_encoder_layers=3, num_decoder_layers=2,
    )  # fmt: skip
    model = nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0)))
    tables = [path for path, x in nnx.to_flat_state(nnx.state(model)) if x.shape == (32, H)]
    assert sorted(tables) == [("source_positions", "table"), ("target_positions", "table")]
    assert not model.source_positions.is_causal
    assert model.target_positions.is_causal
    assert longest(config) is None
    assert longest(dataclasses.replace(config, positions="learned")) == 1024


def test_learned_positions_are_added_to_as_many_tokens_as_there_are_and_no_more():
    layer = LearnedPositions(5, 4, rngs=nnx.Rngs(0))
    x, table = vectors(2, 5, 4), np.asarray(layer.table[...])
    np.testing.assert_allclose(layer.add(jnp.asarray(x), None), x + table, rtol=1e-6)
    np.testing.assert_allclose(layer.add(jnp.asarray(x[:, :2]), None), x[:, :2] + table[:2], rtol=1e-6)
    placed = jnp.asarray([[4, 0]])
    np.testing.assert_allclose(layer.add(jnp.asarray(x[:, :2]), placed), x[:, :2] + table[[4, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^length must be at most max_length=5 with learned positions, got length=6"):
        layer.add(jnp.ones((1, 6, 4)), None)
    # Added in float32, and then rounded.
    half = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_array_equal(layer.add(half, None), (half.astype(jnp.float32) + table).astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoding_is_built_of_the_configs_numbers(kind):
    config = decoder_config(kind, rotary_base=50.0)
    x, places = vectors(1, 4, H, D // H), jnp.asarray([[3, 0, 7, 1]])
    for is_causal in (False, True):
        encoding = make_positions(config, is_causal=is_causal, rngs=nnx.Rngs(0))
        for given, stand in ((places, places), (None, [range(4)])):
            turned = np.asarray(encoding.rotate(jnp.asarray(x), given))
            # Sines of float32 differ in the last bit where programs are optimised.
            np.testing.assert_allclose(turned, turn(x, stand, base=50.0) if kind == "rotary" else x, atol=5e-7, rtol=0)
        bias = encoding.bias(places, places)
        assert (bias is None) == (kind not in ("alibi", "t5"))
        assert bias is None or bias.shape[1:] == (H, 4, 4)
        if kind == "t5":
            ahead = np.asarray(bias)[0, :, 1, 0]  # from 0 to 3
            assert (ahead == np.asarray(encoding.table[...])[0 if is_causal else 19]).all()
        added = np.asarray(encoding.add(jnp.zeros((1, 4, D)), places))
        assert added.any() == (kind in ("sinusoidal", "tensor2tensor", "learned"))
        if kind == "learned":
            assert encoding.table.shape == (16, D)
