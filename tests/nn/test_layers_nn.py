import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.layers import Embedding, LayerNorm, Linear, RMSNorm, dropout, padded_vocabulary, xavier_uniform


def vectors(*shape: int, seed: int = 0, offset: float = 0.0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(offset, 1.0, shape), jnp.float32)


# Linear maps.


def test_xavier_fills_the_interval_of_its_fans():
    matrix = xavier_uniform(jax.random.key(0), 300, 500)
    limit = math.sqrt(6 / 800)
    assert matrix.shape == (300, 500)
    assert float(jnp.abs(matrix).max()) == pytest.approx(limit, rel=1e-3)
    assert float(matrix.std()) == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert float(matrix.mean()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("in_shape", "out_shape"), [((512,), (8, 64)), ((8, 64), (512,))])
def test_head_shaped_weights_are_drawn_with_the_fans_of_the_matrix(in_shape, out_shape):
    # The fans of the 3-D shape would give a standard deviation of 0.0074.
    linear = Linear(in_shape, out_shape, axes=(None,) * 3, rngs=nnx.Rngs(0))
    assert linear.weight.shape == in_shape + out_shape
    assert float(linear.weight[...].std()) == pytest.approx(0.0442, abs=1e-4)


@pytest.mark.parametrize(("in_shape", "out_shape"), [((6,), (7,)), ((6,), (3, 4)), ((3, 4), (6,))])
@pytest.mark.parametrize("leading", [(), (2,), (2, 5)])
def test_linear_contracts_the_last_axes_and_adds_the_bias(in_shape, out_shape, leading):
    axes = tuple("abc"[: len(in_shape) + len(out_shape)])
    linear = Linear(in_shape, out_shape, axes=axes, rngs=nnx.Rngs(0))
    assert not linear.bias[...].any()
    linear.bias[...] = vectors(*out_shape, seed=1)
    x = vectors(*leading, *in_shape)
    expected = np.tensordot(x, linear.weight[...], len(in_shape)) + linear.bias[...]
    np.testing.assert_allclose(linear(x), expected, atol=1e-5)


def test_linear_can_do_without_a_bias():
    linear = Linear((4,), (5,), axes=("embed", "mlp"), use_bias=False, rngs=nnx.Rngs(0))
    assert linear.bias is None
    assert not linear(jnp.zeros((3, 4))).any()


def test_parameters_stay_float32_when_computing_in_bfloat16():
    linear = Linear((4,), (5,), axes=("embed", "mlp"), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    embedding = Embedding(9, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    for layer in (linear, embedding):
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype(jnp.float32)}
    x = vectors(3, 4)
    assert linear(x).dtype == jnp.bfloat16
    assert embedding(jnp.array([1, 2])).dtype == jnp.bfloat16
    # 8 bits of significand in each factor.
    exact = x @ linear.weight[...]
    np.testing.assert_allclose(linear(x).astype(jnp.float32), exact, atol=0.02 * float(jnp.abs(exact).max()))


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


def test_embedding_looks_up_rows_whatever_the_leading_axes():
    embedding = Embedding(9, 4, rngs=nnx.Rngs(0))
    for tokens in (jnp.array([8, 0, 8]), jnp.array([[1, 2, 3], [3, 5, 0]])):
        looked_up = embedding(tokens)
        assert looked_up.shape == (*tokens.shape, 4)
        np.testing.assert_array_equal(looked_up, np.asarray(embedding.table[...])[np.asarray(tokens)])


@pytest.mark.parametrize(("words", "rows"), [(1, 128), (128, 128), (129, 256), (9712, 9728), (37000, 37120)])
def test_tables_are_padded_to_a_multiple_of_128_rows(words, rows):
    assert padded_vocabulary(words) == rows
    table = nnx.eval_shape(lambda: Embedding(words, 2, rngs=nnx.Rngs(0))).table
    assert table.shape == (rows, 2)


def test_word_vectors_are_born_with_unit_length():
    table = Embedding(1000, 64, rngs=nnx.Rngs(0)).table[...]
    assert float(jnp.square(table).sum(-1).mean()) == pytest.approx(1, rel=0.02)


# Norms.


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def rms_norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def test_layer_norm_equals_its_formula():
    norm, x = LayerNorm(7), vectors(2, 5, 7, offset=3.0)
    norm.scale[...], norm.bias[...] = vectors(7, seed=1), vectors(7, seed=2)
    expected = layer_norm(np.asarray(x, np.float64), np.asarray(norm.scale[...]), np.asarray(norm.bias[...]))
    np.testing.assert_allclose(norm(x), expected, atol=1e-5)


def test_rms_norm_equals_its_formula():
    norm, x = RMSNorm(7), vectors(2, 5, 7, offset=3.0)
    norm.scale[...] = vectors(7, seed=1)
    expected = rms_norm(np.asarray(x, np.float64), np.asarray(norm.scale[...]))
    np.testing.assert_allclose(norm(x), expected, atol=1e-5)


def test_norms_are_born_neutral():
    x = vectors(3, 64)
    np.testing.assert_allclose(LayerNorm(64)(x).mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.square(LayerNorm(64)(x)).mean(-1), 1, atol=1e-4)
    np.testing.assert_allclose(jnp.square(RMSNorm(64)(x)).mean(-1), 1, atol=1e-4)


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_of_bfloat16_are_computed_in_float32(make):
    # A mean of 100 leaves bfloat16 steps of 0.5: its own sums would be far off.
    norm, x = make(48), vectors(5, 48, offset=100.0).astype(jnp.bfloat16)
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm(x), norm(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_do_not_depend_on_the_scale_of_their_input(make):
    norm, x = make(32), vectors(5, 32)
    np.testing.assert_allclose(norm(1000 * x), norm(x), atol=1e-4)
    assert jnp.isfinite(norm(jnp.zeros((2, 32)))).all()


# Dropout.

PLACES = (400, 250)  # 100,000 elements: a rate has a standard error of at most 0.0016


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_zeroes_at_its_rate_and_scales_what_stays(rate):
    x = dropout(jnp.ones(PLACES), rate, jax.random.key(3))
    values = np.unique(x)
    assert values[0] == 0
    np.testing.assert_allclose(values[1:], 1 / (1 - rate), rtol=1e-6)
    assert float((x == 0).mean()) == pytest.approx(rate, abs=0.006)
    assert float(x.mean()) == pytest.approx(1, abs=0.006 / (1 - rate))


def test_dropout_without_a_key_or_a_rate_does_nothing():
    x = vectors(3, 4)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_the_dropout_mask_is_a_function_of_key_and_place():
    key = jax.random.key(3)
    mask = dropout(jnp.ones((6, 7)), 0.4, key) != 0
    x = vectors(6, 7)
    np.testing.assert_allclose(dropout(x, 0.4, key), jnp.where(mask, x / 0.6, 0), rtol=1e-6)
    np.testing.assert_array_equal(dropout(x.astype(jnp.bfloat16), 0.4, key) != 0, mask)
    np.testing.assert_array_equal(dropout(jnp.ones((6, 7)), 0.4, jax.random.key(3)) != 0, mask)
    assert (mask != (dropout(jnp.ones((6, 7)), 0.4, jax.random.key(4)) != 0)).any()


def test_the_dropout_mask_is_the_same_under_jit_and_vmap():
    x, keys = jnp.ones((5, 6, 7)), jax.random.split(jax.random.key(1), 5)
    one_by_one = jnp.stack([dropout(row, 0.4, key) for row, key in zip(x, keys, strict=True)])
    drop = functools.partial(dropout, rate=0.4)
    np.testing.assert_array_equal(jax.vmap(lambda row, key: drop(row, key=key))(x, keys), one_by_one)
    np.testing.assert_array_equal(jax.jit(lambda row, key: drop(row, key=key))(x[0], keys[0]), one_by_one[0])


def test_dropout_gradients_flow_where_the_values_do():
    x, key = vectors(6, 7), jax.random.key(5)
    gradient = jax.grad(lambda x: dropout(x, 0.4, key).sum())(x)
    np.testing.assert_allclose(gradient, jnp.where(dropout(jnp.ones((6, 7)), 0.4, key) != 0, 1 / 0.6, 0), rtol=1e-6)


def test_dropout_decisions_are_independent():
    # Of two independent masks of rate r, r^2 of the places are zero in both. Five standard errors of 100,000 places:
    # neighbours along each axis, keys of successive steps and of successive layers.
    rate, tolerance = 0.3, 5 * math.sqrt(0.09 * 0.91 / math.prod(PLACES))

    def dropped(key: jax.Array) -> np.ndarray:
        return np.asarray(dropout(jnp.ones(PLACES), rate, key) == 0)

    base = jax.random.key(0)
    first = dropped(jax.random.fold_in(base, 0))
    pairs = {
        "rows": (first[1:], first[:-1]),
        "columns": (first[:, 1:], first[:, :-1]),
        "columns by 64": (first[:, 64:], first[:, :-64]),
        "steps": (first, dropped(jax.random.fold_in(base, 1))),
        "seeds": (dropped(jax.random.key(1)), dropped(jax.random.key(2))),
        "layers": tuple(dropped(key) for key in jax.random.split(base, 2)),
    }
    for name, (one, other) in pairs.items():
        assert (one & other).mean() == pytest.approx(rate**2, abs=tolerance), name


def test_no_row_of_dropout_is_dropped_more_than_others():
    dropped = np.asarray(dropout(jnp.ones((2000, 200)), 0.5, jax.random.key(8)) == 0)
    # A row's count is binomial: its variance is n p (1 - p), which 2000 rows estimate to about 3%.
    assert dropped.sum(1).var() == pytest.approx(200 * 0.25, rel=0.15)
    assert dropped.sum(0).var() == pytest.approx(2000 * 0.25, rel=0.45)
