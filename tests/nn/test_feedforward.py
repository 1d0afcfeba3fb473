import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.feedforward import FeedForward, GatedFeedForward
from lmx.nn.layers import dropout

WIDTH, HIDDEN = 6, 10


def vectors(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_biases(layer: nnx.Module) -> nnx.Module:
    for seed, linear in enumerate((layer.up, layer.down), start=1):
        linear.bias[...] = vectors(*linear.bias.shape, seed=seed)
    return layer


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu])
def test_the_two_layer_form_is_the_papers_formula(activation):
    layer = with_biases(FeedForward(WIDTH, HIDDEN, activation=activation, rngs=nnx.Rngs(0)))
    x = vectors(2, 5, WIDTH)
    hidden = activation(x @ layer.up.weight[...] + layer.up.bias[...])
    np.testing.assert_allclose(layer(x), hidden @ layer.down.weight[...] + layer.down.bias[...], atol=1e-5)


def test_the_two_layer_form_is_relu_with_biases_by_default():
    layer = FeedForward(WIDTH, HIDDEN, rngs=nnx.Rngs(0))
    assert layer.activation is jax.nn.relu
    assert layer.up.bias.shape == (HIDDEN,)
    assert layer.down.bias.shape == (WIDTH,)


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.gelu])
def test_the_gated_form_scales_a_hidden_layer_by_an_activated_gate(activation):
    layer = GatedFeedForward(WIDTH, HIDDEN, activation=activation, rngs=nnx.Rngs(0))
    x = vectors(2, 5, WIDTH)
    hidden = activation(x @ layer.gate.weight[...]) * (x @ layer.up.weight[...])
    np.testing.assert_allclose(layer(x), hidden @ layer.down.weight[...], atol=1e-5)


def test_the_gated_form_is_silu_without_biases_by_default():
    layer = GatedFeedForward(WIDTH, HIDDEN, rngs=nnx.Rngs(0))
    assert layer.activation is jax.nn.silu
    assert layer.gate.bias is layer.up.bias is layer.down.bias is None


@pytest.mark.parametrize("form", [FeedForward, GatedFeedForward])
def test_positions_do_not_look_at_each_other(form):
    layer = form(WIDTH, HIDDEN, rngs=nnx.Rngs(0))
    x = vectors(2, 5, WIDTH)
    np.testing.assert_allclose(layer(x)[1, 3], layer(x[1, 3]), atol=1e-6)


@pytest.mark.parametrize("form", [FeedForward, GatedFeedForward])
def test_dropout_acts_on_the_hidden_layer_and_only_with_a_key(form):
    layer, still = (form(WIDTH, HIDDEN, dropout_rate=rate, rngs=nnx.Rngs(0)) for rate in (0.4, 0.0))
    x, key = vectors(3, WIDTH), jax.random.key(2)
    np.testing.assert_array_equal(layer(x), still(x, key=key))
    hidden = layer.activation((layer.up if form is FeedForward else layer.gate)(x))
    if form is GatedFeedForward:
        hidden = hidden * layer.up(x)
    np.testing.assert_allclose(layer(x, key=key), layer.down(dropout(hidden, 0.4, key)), atol=1e-6)


@pytest.mark.parametrize("form", [FeedForward, GatedFeedForward])
def test_bfloat16_goes_in_and_out(form):
    layer = form(WIDTH, HIDDEN, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer(vectors(2, WIDTH).astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("form", [FeedForward, GatedFeedForward])
def test_every_parameter_names_its_axes(form):
    abstract = nnx.eval_shape(lambda: form(WIDTH, HIDDEN, use_bias=True, rngs=nnx.Rngs(0)))
    sizes = {"embed": WIDTH, "mlp": HIDDEN}
    for path, param in nnx.to_flat_state(nnx.state(abstract, nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert all(axis is None or sizes[axis] == size for axis, size in zip(axes, param.shape, strict=True)), path
