import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.attention import AttentionForm, CachedKeyValues, KeyValues, MultiHeadAttention, attend_cached, share
from lmx.nn.kernels import attend, attention_weights
from lmx.nn.masks import Sees
from lmx.nn.positions.rotary import RotaryPositions
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh
from tests.nn.by_hand import B, G, H, K, S, T, by_hand, heads, vectors

pytestmark = pytest.mark.optimised

D = 24

jitted_attend = jax.jit(attend)
jitted_weights = jax.jit(attention_weights)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("groups", [H, G])
def test_attending_to_a_cache_equals_attending_to_what_it_keeps(groups, biased):
    bias = jnp.asarray(vectors(1, H, T, S, seed=5)) if biased else None
    sees = Sees(bias=bias, causal=True, key_lengths=np.array([S, 3], np.int32))

    @jax.jit
    def through_a_cache(query, key, value):
        empty = jnp.zeros((B, S, groups, K))
        cached = CachedKeyValues.of(KeyValues(empty, empty))
        for first, last in ((0, 2), (2, S)):
            cached = cached.write(KeyValues(key[:, first:last], value[:, first:last]), offset=jnp.asarray(first))
        return attend_cached(query, cached, mask=sees.mask(T, S), bias=bias)

    np.testing.assert_allclose(through_a_cache(*heads(groups)), jitted_attend(*heads(groups), sees=sees), atol=1e-6)


def test_room_is_made_behind_what_a_cache_holds():
    cached = CachedKeyValues.of(KeyValues(*(jnp.asarray(x) for x in heads()[1:])))
    larger = cached.with_room(S + 2)
    np.testing.assert_array_equal(larger.key, np.pad(cached.key, ((0, 0), (0, 0), (0, 0), (0, 2))))
    np.testing.assert_array_equal(larger.value, np.pad(cached.value, ((0, 0), (0, 0), (0, 2), (0, 0))))


# The layer.

call = jax.jit(lambda layer, x, memory, **inputs: layer(layer.queries(x), layer.keys_values(memory), **inputs))
call_weights = jax.jit(
    lambda layer, x, memory, sees: attention_weights(layer.queries(x), layer.keys_values(memory).key, sees=sees)
)


@jax.jit
def call_placed(layer, x, positions):
    return layer(*layer.project(x, rotate=lambda y: RotaryPositions().rotate(y, positions)))


def filled(**settings) -> MultiHeadAttention:
    """Builds the layer with all of its parameters, biases too, drawn from a normal distribution."""
    form = AttentionForm(**settings)
    definition, state = nnx.split(nnx.eval_shape(lambda: MultiHeadAttention(D, H, form, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)
    draw = lambda shape: jnp.asarray(generator.normal(0, D**-0.5, shape.shape), shape.dtype)  # noqa: E731
    return nnx.merge(definition, jax.tree.map(draw, state))


@pytest.mark.parametrize("settings", [{}, {"num_kv_heads": G, "use_bias": False}])
def test_the_layer_maps_into_heads_attends_and_maps_out(settings):
    layer = filled(**settings)
    x, memory, sees = vectors(B, T, D), vectors(B, S, D, seed=1), Sees(key_lengths=np.array([4, S], np.int32))

    def project(y: np.ndarray, linear: nnx.Module, contracted: int) -> np.ndarray:
        mapped = np.tensordot(y, np.asarray(linear.weight[...]), contracted)
        return mapped if linear.bias is None else mapped + np.asarray(linear.bias[...])

    query, key, value = (project(*pair, 1) for pair in ((x, layer.query), (memory, layer.key), (memory, layer.value)))
    expected = project(by_hand(query, key, value, sees), layer.out, 2)
    np.testing.assert_allclose(call(layer, x, memory, sees=sees), expected, atol=1e-5)
    np.testing.assert_allclose(call_weights(layer, x, memory, sees), jitted_weights(query, key, sees=sees), atol=1e-5)


def test_rotation_makes_attention_a_matter_of_distance():
    layer, still = filled(), jax.jit(lambda layer, x: layer(*layer.project(x)))
    x, steps = vectors(B, T, D), np.arange(T)[None]
    counted = np.asarray(call_placed(layer, x, steps))
    np.testing.assert_allclose(call_placed(layer, x, None), counted, atol=1e-6)
    np.testing.assert_allclose(call_placed(layer, x, 40 + steps), counted, atol=1e-4)
    assert np.abs(np.asarray(call_placed(layer, x, 3 * steps)) - counted).max() > 0.01
    assert np.abs(np.asarray(still(layer, x)) - counted).max() > 0.01


def test_without_rotation_attention_does_not_know_the_order():
    layer, x, order = filled(), vectors(B, T, D), np.array([3, 1, 4, 0, 2])
    call_still = jax.jit(lambda layer, x: layer(*layer.project(x)))
    attended = np.asarray(call_still(layer, x))
    np.testing.assert_allclose(call_still(layer, x[:, order]), attended[:, order], atol=1e-5)


def test_the_layer_drops_out_weights_only_with_a_key():
    layer, x = filled(dropout_rate=0.4), vectors(B, T, D)
    np.testing.assert_array_equal(call(layer, x, x), call(filled(), x, x))
    first, again, other = (np.asarray(call(layer, x, x, key=jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_every_parameter_names_its_axes():
    layer = filled(num_kv_heads=G)
    for path, param in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        assert len(param.get_metadata("axes")) == len(param.shape), path
    assert layer.query.weight.shape == (D, H, K)
    assert layer.query.weight.get_metadata("axes") == ("embed", "heads", None)
    assert layer.value.weight.shape == (D, G, K)
    assert layer.value.weight.get_metadata("axes") == ("embed", "kv_heads", None)
    assert layer.out.weight.shape == (H, K, D)
    assert layer.out.weight.get_metadata("axes") == ("heads", None, "embed")


@pytest.mark.parametrize(
    ("form", "biased"),
    [
        ({}, "query key value out"),
        ({"use_bias": False}, ""),
        ({"use_bias": False, "qkv_bias": True}, "query key value"),
    ],
)
def test_maps_into_heads_may_have_biases_of_their_own(form, biased):
    layer = nnx.eval_shape(lambda: MultiHeadAttention(D, H, AttentionForm(**form), rngs=nnx.Rngs(0)))
    maps = ("query", "key", "value", "out")
    assert [name for name in maps if getattr(layer, name).bias is not None] == biased.split()
    assert layer.query_norm is layer.key_norm is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"width": 10, "num_heads": 4},
            r"^width must be divisible by num_heads, got width=10 and num_heads=4\. Otherwise say head_width\.$",
        ),
        (
            {"width": 24, "num_heads": 6, "form": AttentionForm(num_kv_heads=4)},
            r"^num_heads must be a multiple of num_kv_heads, got num_heads=6 and num_kv_heads=4\.$",
        ),
    ],
)
def test_sizes_that_do_not_divide_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**arguments, rngs=nnx.Rngs(0))


# What the numbers are kept in, and heads that devices split.


def test_scores_over_a_cache_are_float32_where_keys_are_bfloat16():
    # Scores of 100, 100.125, 100.25 ...: bfloat16 has nothing between 100 and 100.5. One operation after the other, as
    # a compiled program may leave out a rounding.
    key = np.zeros((1, S, 1, K), np.float32)
    key[0, :, 0, 0], key[0, :, 0, 1] = 25, np.arange(S) / 4
    query = np.zeros((1, 1, 1, K), np.float32)
    query[..., :2] = 8, 1
    value = vectors(1, S, 1, K, seed=3)
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    found = attend_cached(query, CachedKeyValues.of(KeyValues(key, value)))
    assert found.dtype == jnp.bfloat16
    # Weights and result are rounded to 8 bits each.
    np.testing.assert_allclose(found.astype(np.float32), by_hand(query, key, value), atol=0.01)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(("devices", "groups"), [(2, H), (3, G)])
def test_a_memory_has_its_heads_in_their_order_where_devices_split_them(devices, groups):
    layer, x, memory = filled(num_kv_heads=groups), vectors(B, T, D), vectors(B, S, D, seed=1)
    mesh = make_mesh(MeshConfig(data=1, tensor=devices), devices=jax.devices()[:devices])
    target = vectors(B, T, D, seed=6)

    def attended(memory, layer, x, copies):
        keys_values = layer.keys_values(copies(memory))
        y = layer(layer.queries(x), keys_values)
        return (y * target).sum(), (keys_values, y)

    @jax.jit
    def on_mesh(*arguments):
        with use_mesh(mesh):
            return jax.grad(attended, has_aux=True)(*arguments, share)

    expected = jax.jit(lambda *arguments: jax.grad(attended, has_aux=True)(*arguments, lambda x: x))(memory, layer, x)
    close = lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5)  # noqa: E731
    jax.tree.map(close, on_mesh(memory, layer, x), expected)
