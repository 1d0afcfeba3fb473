import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.dropout import Places, dropout, hash_bits
from lmx.nn.embedding import Embedding, padded_vocabulary
from lmx.nn.layers import LayerNorm, Linear, RMSNorm
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

call = jax.jit(lambda layer, x: layer(x))


def vectors(*shape: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(offset, 1.0, shape).astype(np.float32)


# Linear maps.


@pytest.mark.parametrize(("in_shape", "out_shape"), [((512,), (8, 64)), ((8, 64), (512,))])
def test_head_shaped_weights_are_drawn_with_the_fans_of_the_matrix(in_shape, out_shape):
    # The fans of the 3-D shape would give a standard deviation of 0.0074.
    linear = Linear(in_shape, out_shape, axes=(None,) * 3, rngs=nnx.Rngs(0))
    assert linear.weight.shape == in_shape + out_shape
    assert np.std(linear.weight[...]) == pytest.approx(0.0442, abs=1e-4)


@pytest.mark.parametrize(
    ("leading", "in_shape", "out_shape"),
    [((2, 5), (12,), (3, 4)), ((2, 5), (3, 4), (12,)), ((2,), (12,), (7,)), ((), (12,), (7,))],
)
def test_linear_contracts_the_last_axes_and_adds_the_bias(leading, in_shape, out_shape):
    axes = tuple("abc"[: len(in_shape) + len(out_shape)])
    linear = Linear(in_shape, out_shape, axes=axes, rngs=nnx.Rngs(0))
    assert not np.any(linear.bias[...])
    linear.bias[...] = vectors(*out_shape, seed=1)
    x = vectors(*leading, *in_shape)
    expected = np.tensordot(x, linear.weight[...], len(in_shape)) + np.asarray(linear.bias[...])
    np.testing.assert_allclose(call(linear, x), expected, atol=1e-5)


@pytest.mark.parametrize(("in_shape", "out_shape"), [((12,), (3, 4)), ((3, 4), (12,))])
def test_linear_on_a_single_device_is_linear_on_many(in_shape, out_shape):
    # Two ways to the same product, chosen by whether a mesh is in force.
    linear, x = Linear(in_shape, out_shape, axes=(None,) * 3, rngs=nnx.Rngs(0)), vectors(2, 5, *in_shape)

    @jax.jit
    def on_mesh(linear, x):
        with use_mesh(make_mesh(MeshConfig(), devices=jax.devices()[:2])):
            return linear(x)

    np.testing.assert_allclose(on_mesh(linear, x), call(linear, x), atol=1e-6)


def test_linear_can_do_without_a_bias():
    linear = Linear((12,), (7,), axes=("embed", "mlp"), use_bias=False, rngs=nnx.Rngs(0))
    assert linear.bias is None
    assert not np.any(call(linear, np.zeros((3, 12))))


def test_parameters_stay_float32_when_computing_in_bfloat16():
    linear = Linear((12,), (7,), axes=("embed", "mlp"), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    embedding = Embedding(9, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    for layer in (linear, embedding):
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype(jnp.float32)}
    x = vectors(3, 12)
    assert call(embedding, np.array([1, 2])).dtype == jnp.bfloat16
    mapped, exact = call(linear, x), x @ np.asarray(linear.weight[...])
    assert mapped.dtype == jnp.bfloat16
    # 8 bits of significand in each factor.
    np.testing.assert_allclose(mapped.astype(np.float32), exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: Linear((6,), (3, 4), axes=("embed", "heads", None), rngs=rngs),
        lambda rngs: Linear((3, 4), (6,), axes=("heads", None, "embed"), rngs=rngs),
        lambda rngs: Embedding(9, 4, rngs=rngs),
        lambda rngs: LayerNorm(4),
        lambda rngs: RMSNorm(4),
    ],
)
def test_every_parameter_names_its_axes(make):
    params = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param))
    for path, param in params:
        assert len(param.get_metadata("axes")) == len(param.shape), path


# Embeddings.


def test_word_vectors_are_rows_of_a_table_and_born_with_unit_length():
    embedding = Embedding(1000, 64, rngs=nnx.Rngs(0))
    table = np.asarray(embedding.table[...])
    for tokens in (np.array([8, 0, 8]), np.array([[1, 2, 3], [3, 5, 999]])):
        np.testing.assert_array_equal(call(embedding, tokens), table[tokens])
    assert np.square(table).sum(-1).mean() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(("words", "rows"), [(1, 128), (128, 128), (129, 256), (9712, 9728), (37000, 37120)])
def test_tables_are_padded_to_a_multiple_of_128_rows(words, rows):
    assert padded_vocabulary(words) == rows
    table = nnx.eval_shape(lambda: Embedding(words, 2, rngs=nnx.Rngs(0))).table
    assert table.shape == (rows, 2)


# Norms.


def norms(width: int) -> dict:
    """Makes each norm with scale and bias of its own, beside its formula in float64."""
    layer, rms = LayerNorm(width), RMSNorm(width)
    scale, bias = vectors(width, seed=1), vectors(width, seed=2)
    layer.scale[...], layer.bias[...], rms.scale[...] = scale, bias, scale

    def layer_formula(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias

    def rms_formula(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    return {"layer": (layer, layer_formula), "rms": (rms, rms_formula)}


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_norms_equal_their_formulas(name):
    norm, formula = norms(7)[name]
    x = vectors(2, 5, 7, offset=3.0)
    np.testing.assert_allclose(call(norm, x), formula(x.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(call(norm, 1e-6 * x), formula(1e-6 * x.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_are_born_neutral_and_forget_the_scale(make):
    norm, x = make(64), vectors(3, 64)
    np.testing.assert_allclose(np.square(call(norm, x)).mean(-1), 1, atol=1e-4)
    np.testing.assert_allclose(call(norm, 1000 * x), call(norm, x), atol=1e-4)
    np.testing.assert_array_equal(call(norm, np.zeros((3, 64), np.float32)), 0)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_norms_of_bfloat16_are_computed_in_float32(name):
    # A mean of 100 leaves bfloat16 steps of 0.5: its own sums would be far off.
    norm, formula = norms(48)[name]
    x = vectors(5, 48, offset=100.0).astype(jnp.bfloat16)
    normed = call(norm, x)
    assert normed.dtype == jnp.bfloat16
    # Half a step of bfloat16 in the result alone.
    np.testing.assert_allclose(normed.astype(np.float32), formula(x.astype(np.float64)), rtol=2**-8, atol=1e-3)


# Dropout.

drop = jax.jit(dropout, static_argnums=1)
PLACES = (400, 250)  # 100,000 elements: a rate has a standard error of at most 0.0016


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_at_its_rate_and_scales_what_stays(rate):
    x = np.asarray(drop(np.ones(PLACES, np.float32), rate, jax.random.key(3)))
    assert (x == 0).mean() == pytest.approx(rate, abs=0.006)
    np.testing.assert_allclose(x[x != 0], 1 / (1 - rate), rtol=1e-6)
    assert x.mean() == pytest.approx(1, abs=0.006 / (1 - rate))


def test_dropout_without_a_key_or_a_rate_does_nothing():
    x = jnp.asarray(vectors(3, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_a_rate_next_to_1_leaves_nothing():
    assert not np.any(drop(np.ones(PLACES, np.float32), 1 - 1e-12, jax.random.key(3)))


def test_the_dropout_mask_is_a_function_of_key_and_place():
    x, ones = vectors(6, 7), np.ones((6, 7), np.float32)
    mask = np.asarray(drop(ones, 0.4, jax.random.key(3))) != 0
    np.testing.assert_allclose(drop(x, 0.4, jax.random.key(3)), np.where(mask, x / 0.6, 0), rtol=1e-6)
    narrow = drop(x.astype(jnp.bfloat16), 0.4, jax.random.key(3))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(narrow) != 0, mask)
    assert (mask != (np.asarray(drop(ones, 0.4, jax.random.key(4))) != 0)).any()


def test_the_dropout_mask_is_the_same_under_jit_and_vmap():
    x, keys = np.ones((5, 6, 7), np.float32), jax.random.split(jax.random.key(1), 5)
    one_by_one = np.stack([drop(row, 0.4, key) for row, key in zip(x, keys, strict=True)])
    np.testing.assert_array_equal(dropout(jnp.asarray(x[0]), 0.4, keys[0]), one_by_one[0])
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda row, key: dropout(row, 0.4, key)))(x, keys), one_by_one)
    same_mask_for_all = jax.jit(jax.vmap(lambda row: dropout(row, 0.4, jax.random.key(1))))(x)
    np.testing.assert_array_equal(same_mask_for_all, np.repeat(same_mask_for_all[:1], 5, axis=0))


def test_dropout_gradients_flow_where_the_values_do():
    gradient = jax.jit(jax.grad(lambda x: dropout(x, 0.4, jax.random.key(5)).sum()))(vectors(6, 7))
    np.testing.assert_allclose(gradient, drop(np.ones((6, 7), np.float32), 0.4, jax.random.key(5)), rtol=1e-6)


def dropped(key: jax.Array, rate: float, shape: tuple[int, ...] = PLACES) -> np.ndarray:
    return np.asarray(drop(np.ones(shape, np.float32), rate, key)) == 0


def test_dropout_decisions_are_independent():
    # Of two independent masks of rate r, r^2 of the places are zero in both. Five standard errors of 100,000 places:
    # neighbours along each axis, keys of successive steps, seeds and layers.
    rate, tolerance = 0.1, 5 * math.sqrt(0.01 * 0.99 / math.prod(PLACES))
    base = jax.random.key(0)
    first = dropped(jax.random.fold_in(base, 0), rate)
    pairs = {
        "rows": (first[1:], first[:-1]),
        "columns": (first[:, 1:], first[:, :-1]),
        "columns by 64": (first[:, 64:], first[:, :-64]),
        "steps": (first, dropped(jax.random.fold_in(base, 1), rate)),
        "seeds": (dropped(jax.random.key(1), rate), dropped(jax.random.key(2), rate)),
        "layers": tuple(dropped(key, rate) for key in jax.random.split(base, 2)),
    }
    for name, (one, other) in pairs.items():
        assert (one & other).mean() == pytest.approx(rate**2, abs=tolerance), name


def test_rows_and_columns_are_dropped_alike():
    # A row's count is binomial. The variance of 2000 counts is known to 3%, of 200 to 10%; four times that.
    counts = dropped(jax.random.key(8), 0.5, (2000, 200))
    assert counts.sum(1).var() == pytest.approx(200 * 0.25, rel=0.13)
    assert counts.sum(0).var() == pytest.approx(2000 * 0.25, rel=0.4)


# Keys of other kinds, such as `rbg`, which JAX_DEFAULT_PRNG_IMPL chooses.


def test_dropout_takes_keys_of_any_number_of_words():
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 40)
    assert jax.random.key_data(keys).shape == (40, 4)
    kept = np.asarray(jax.vmap(lambda key: dropout(jnp.ones(5000), 0.3, key) > 0)(keys))
    np.testing.assert_allclose(kept.mean(1), 0.7, atol=0.03)  # four and a half standard deviations
    # No two keys keep the same: they agree by chance, on 0.7^2 + 0.3^2 of the elements.
    agree = (kept[:, None] == kept[None]).mean(-1)[np.triu_indices(40, 1)]
    np.testing.assert_allclose(agree, 0.58, atol=0.04)


def test_every_word_of_a_key_counts():
    words = np.arange(4, dtype=np.uint32) + 7
    changed = [words, *(words + np.eye(4, dtype=np.uint32)[place] for place in range(4))]
    bits = [hash_bits(jax.random.wrap_key_data(jnp.asarray(each), impl="rbg"), (64,)) for each in changed]
    assert len({np.asarray(each).tobytes() for each in bits}) == 5


def test_the_bits_of_a_key_of_two_words_stay_as_they_are():
    # Runs that were begun go on with the same dropout.
    found = hash_bits(jax.random.key(3), (2, 3))
    assert np.asarray(found).tolist() == [[1408362973, 260803382, 197629295], [2003055762, 200769566, 698655578]]


# Places.


def test_every_place_has_bits_of_its_own_in_the_order_of_the_flat_array():
    bits, key = jax.jit(hash_bits, static_argnums=1), jax.random.key(5)
    flat = np.asarray(bits(key, (240,)))
    assert np.unique(flat).size == 240  # the hash is one to one
    for shape in ((3, 5), (2, 3, 5), (5, 2, 3, 4), (2, 3, 2, 5, 4)):
        np.testing.assert_array_equal(np.ravel(bits(key, shape)), flat[: math.prod(shape)])


def test_places_repeat_beyond_what_32_bits_count():
    rows = hash_bits(jax.random.key(5), (3, 4), part_of=[Places(1, jnp.arange(4), 2**33)])
    np.testing.assert_array_equal(rows, np.repeat(hash_bits(jax.random.key(5), (1, 4)), 3, axis=0))
    # Of two rows of 2^31 places there are as many as 32 bits count: the third is the first again.
    first, second, third = hash_bits(jax.random.key(5), (3, 4), part_of=[Places(1, jnp.arange(4), 2**31)])
    np.testing.assert_array_equal(first, third)
    assert not np.any(np.asarray(first) == np.asarray(second))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_block_of_an_array_has_the_bits_of_its_rows(axis):
    shape, key = (4, 6, 5), jax.random.key(5)
    whole = np.asarray(jax.jit(hash_bits, static_argnums=1)(key, shape))
    x = vectors(*shape)
    dropped = np.asarray(drop(x, 0.4, key))

    @jax.jit
    def of_block(x, rows):
        placed = [Places(axis, rows, shape[axis])]
        return hash_bits(key, x.shape, part_of=placed), dropout(x, 0.4, key, part_of=placed)

    for rows in ([0, 1, 2], [3, 1, 3]):
        bits, found = of_block(np.take(x, rows, axis), np.array(rows))
        np.testing.assert_array_equal(bits, np.take(whole, rows, axis))
        np.testing.assert_array_equal(found, np.take(dropped, rows, axis))
