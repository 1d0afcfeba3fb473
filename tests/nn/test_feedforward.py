import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.dropout import dropout
from lmx.nn.feedforward import FeedForward, GatedFeedForward

FORMS = (FeedForward, GatedFeedForward)
WIDTH, HIDDEN = 6, 10

call = jax.jit(lambda layer, x, key=None: layer(x, key=key))


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(form: type, **settings) -> nnx.Module:
    """Builds the layer with all of its parameters, biases too, drawn from a normal distribution."""
    definition, state = nnx.split(nnx.eval_shape(lambda: form(WIDTH, HIDDEN, **settings, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)
    return nnx.merge(definition, jax.tree.map(lambda s: jnp.asarray(generator.normal(size=s.shape), s.dtype), state))


def affine(x: np.ndarray, linear: nnx.Module) -> np.ndarray:
    mapped = x @ np.asarray(linear.weight[...])
    return mapped if linear.bias is None else mapped + np.asarray(linear.bias[...])


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu])
def test_the_two_layer_form_is_the_papers_formula(activation):
    layer, x = filled(FeedForward, activation=activation), vectors(2, 5, WIDTH)
    hidden = np.asarray(activation(affine(x, layer.up)))
    np.testing.assert_allclose(call(layer, x), affine(hidden, layer.down), atol=1e-4)


def test_the_two_layer_form_is_relu_with_biases_by_default():
    layer = filled(FeedForward)
    assert layer.activation is jax.nn.relu
    assert layer.up.bias.shape == (HIDDEN,)
    assert layer.down.bias.shape == (WIDTH,)


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.gelu])
def test_the_gated_form_scales_a_hidden_layer_by_an_activated_gate(activation):
    layer, x = filled(GatedFeedForward, activation=activation), vectors(2, 5, WIDTH)
    hidden = np.asarray(activation(affine(x, layer.gate))) * affine(x, layer.up)
    np.testing.assert_allclose(call(layer, x), affine(hidden, layer.down), atol=1e-4)


def test_the_gated_form_is_silu_without_biases_by_default():
    layer = filled(GatedFeedForward)
    assert layer.activation is jax.nn.silu
    assert layer.gate.bias is layer.up.bias is layer.down.bias is None


@pytest.mark.parametrize("form", FORMS)
def test_positions_do_not_look_at_each_other(form):
    layer, x = filled(form), vectors(2, 5, WIDTH)
    np.testing.assert_allclose(np.asarray(call(layer, x))[1, 3], call(layer, x[1, 3]), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_acts_on_the_hidden_layer_and_only_with_a_key(form):
    layer, x, key = filled(form, dropout_rate=0.4), vectors(2, 5, WIDTH), jax.random.key(2)
    np.testing.assert_array_equal(call(layer, x), call(filled(form), x, key))
    # A map of the hidden layer onto itself shows its mask.
    layer = filled(lambda width, hidden, **settings: form(hidden, hidden, **settings), dropout_rate=0.4)
    layer.down.weight[...] = np.eye(HIDDEN, dtype=np.float32)
    if layer.down.bias is not None:
        layer.down.bias[...] = np.zeros(HIDDEN, np.float32)
    x = vectors(2, 5, HIDDEN)
    np.testing.assert_allclose(call(layer, x, key), dropout(call(layer, x), 0.4, key), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_goes_in_and_out(form):
    layer = filled(form, dtype=jnp.bfloat16)
    assert call(layer, vectors(2, 5, WIDTH).astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_names_its_axes(form):
    sizes = {"embed": WIDTH, "mlp": HIDDEN}
    for path, param in nnx.to_flat_state(nnx.state(filled(form, use_bias=True), nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert all(axis is None or sizes[axis] == size for axis, size in zip(axes, param.shape, strict=True)), path
