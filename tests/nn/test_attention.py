import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.attention import (
    CachedKeyValues,
    KernelChoice,
    KeyValues,
    MultiHeadAttention,
    attend,
    attend_cached,
    attention_weights,
    choose_kernel,
)
from lmx.nn.layers import dropout

B, T, S, H, G, K, D = 2, 5, 7, 6, 3, 4, 24

# Compiled once for each combination of shapes.
jitted_attend = jax.jit(attend, static_argnames=("kernel", "dropout_rate"))
jitted_weights = jax.jit(attention_weights)


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def heads(groups: int = G) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes query, key and value."""
    return vectors(B, T, H, K, seed=1), vectors(B, S, groups, K, seed=2), vectors(B, S, groups, K, seed=3)


def some_mask(*shape: int) -> np.ndarray:
    """Makes a mask in which every row sees at least the first key."""
    mask = np.random.default_rng(4).random(shape) < 0.5
    mask[..., 0] = True
    return mask


def by_hand(query, key, value, *, mask=None, bias=None) -> np.ndarray:
    """Attention as a loop over single queries."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        g = h // (query.shape[2] // key.shape[2])
        scores = key[b, :, g] @ query[b, t, h] / math.sqrt(query.shape[3])
        if bias is not None:
            scores = scores + np.broadcast_to(bias, (B, H, T, S))[b, h, t]
        if mask is not None:
            scores = np.where(np.broadcast_to(mask, (B, H, T, S))[b, h, t], scores, -np.inf)
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ value[b, :, g]
    return out


# The door.


@pytest.mark.parametrize(
    ("groups", "mask_shape", "bias_shape"),
    [
        (H, None, None),
        (G, None, None),
        (1, (B, 1, 1, S), None),
        (G, (1, 1, T, S), (1, H, T, S)),
        (G, (B, H, T, S), (B, 1, T, S)),
    ],
)
def test_attend_equals_a_loop_over_single_queries(groups, mask_shape, bias_shape):
    mask = None if mask_shape is None else some_mask(*mask_shape)
    bias = None if bias_shape is None else vectors(*bias_shape, seed=5)
    expected = by_hand(*heads(groups), mask=mask, bias=bias)
    np.testing.assert_allclose(jitted_attend(*heads(groups), mask=mask, bias=bias), expected, atol=1e-5)


def test_attend_and_its_gradients_equal_jax():
    mask, bias = some_mask(B, 1, T, S), vectors(1, H, T, S, seed=5)
    target = vectors(B, T, H, K, seed=6)

    def loss(attention, query, key, value, bias):
        return jnp.sum(attention(query, key, value, mask=jnp.asarray(mask), bias=bias) * target)

    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(loss, attention), argnums=(0, 1, 2, 3)))(*heads(), bias)
        for attention in (attend, jax.nn.dot_product_attention)
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5), ours, theirs)


def test_grouped_heads_are_repeated_heads():
    query, key, value = heads()
    repeated = (np.repeat(x, H // G, axis=2) for x in (key, value))
    np.testing.assert_allclose(jitted_attend(query, key, value), jitted_attend(query, *repeated), atol=1e-6)


def test_masked_positions_do_not_matter():
    query, key, value = heads()
    mask = some_mask(B, 1, 1, S)
    hidden = ~mask[:, 0, 0, :, None, None]
    changed = query, np.where(hidden, 1e3, key), np.where(hidden, -1e3, value)
    np.testing.assert_array_equal(jitted_attend(*changed, mask=mask), jitted_attend(query, key, value, mask=mask))


def test_a_row_that_sees_nothing_averages_the_values_and_has_a_gradient():
    query, key, value = heads(H)
    mask = some_mask(B, 1, T, S)
    mask[1, :, 2] = False

    def total(query, key, value):
        attended = attend(query, key, value, mask=jnp.asarray(mask))
        return attended.sum(), attended

    (_, attended), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    np.testing.assert_allclose(np.asarray(attended)[1, 2], value[1].mean(0), atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_weights_are_a_distribution_over_what_may_be_seen():
    query, key, _ = heads()
    mask = some_mask(B, 1, T, S)
    weights = np.asarray(jitted_weights(query, key, mask=mask))
    assert weights.shape == (B, H, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (weights[np.broadcast_to(~mask, weights.shape)] == 0).all()


def test_bfloat16_attends_with_a_float32_softmax():
    query, key, value = (x.astype(jnp.bfloat16) for x in heads())
    weights = jitted_weights(query, key)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(np.sum(weights, -1), 1, atol=1e-6)  # bfloat16 sums would be off by 0.004
    attended = jitted_attend(query, key, value)
    assert attended.dtype == jnp.bfloat16
    np.testing.assert_allclose(attended.astype(np.float32), by_hand(query, key, value), atol=0.03)


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


@pytest.mark.parametrize("groups", [H, G])
def test_attending_to_a_cache_equals_attending_to_what_it_keeps(groups):
    mask = some_mask(B, 1, T, S)

    @jax.jit
    def through_a_cache(query, key, value):
        empty = jnp.zeros((B, S, groups, K))
        cached = CachedKeyValues.of(KeyValues(empty, empty))
        for first, last in ((0, 2), (2, S)):
            cached = cached.write(KeyValues(key[:, first:last], value[:, first:last]), offset=jnp.asarray(first))
        return attend_cached(query, cached, mask=jnp.asarray(mask))

    np.testing.assert_allclose(through_a_cache(*heads(groups)), jitted_attend(*heads(groups), mask=mask), atol=1e-6)


def test_query_heads_must_divide_into_the_key_heads():
    with pytest.raises(ValueError, match=r"^num_heads must be a multiple of num_kv_heads, got num_heads=6 and num_kv"):
        jitted_attend(*heads(4))


# The kernel.

FITTING = {"dtype": jnp.bfloat16, "head_width": 64, "platform": "gpu"}


def test_auto_takes_the_fused_kernel_where_it_applies_and_says_so():
    assert choose_kernel("auto", **FITTING) == KernelChoice("cudnn", "fused, and it applies")
    assert choose_kernel("cudnn", **FITTING) == KernelChoice("cudnn", "asked for")
    assert choose_kernel("xla", **FITTING) == KernelChoice("xla", "asked for")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"platform": "cpu"}, "the platform is cpu"),
        ({"dtype": jnp.float32}, "the compute type is float32"),
        ({"head_width": 60}, "the head width is 60, not a multiple of 8 up to 128"),
        ({"head_width": 256}, "the head width is 256, not a multiple of 8 up to 128"),
        ({"dropout_rate": 0.1}, "attention weights are dropped out"),
    ],
)
def test_what_the_fused_kernel_cannot_do_is_a_reason_for_auto_and_an_error_for_cudnn(change, reason):
    assert choose_kernel("auto", **{**FITTING, **change}) == KernelChoice("xla", reason)
    with pytest.raises(
        ValueError, match=rf'^kernel="cudnn" cannot be used here: {reason}\. Use kernel="auto" or "xla"'
    ):
        choose_kernel("cudnn", **{**FITTING, **change})


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about the CPU")
def test_cudnn_on_a_cpu_is_an_error_that_lists_all_reasons():
    with pytest.raises(ValueError, match=r"the platform is cpu; the compute type is float32; the head width is 4, not"):
        jitted_attend(*heads(), kernel="cudnn")


# The layer.

call = jax.jit(
    lambda layer, x, memory, **inputs: layer(
        layer.queries(x, positions=None), layer.keys_values(memory, positions=None), **inputs
    )
)
call_weights = jax.jit(
    lambda layer, x, memory, mask: attention_weights(
        layer.queries(x, positions=None), layer.keys_values(memory, positions=None).key, mask=mask
    )
)
call_placed = jax.jit(lambda layer, x, positions: layer(*layer.project(x, positions=positions)))


def filled(**settings) -> MultiHeadAttention:
    """Builds the layer with all of its parameters, biases too, drawn from a normal distribution."""
    definition, state = nnx.split(nnx.eval_shape(lambda: MultiHeadAttention(D, H, rngs=nnx.Rngs(0), **settings)))
    generator = np.random.default_rng(8)
    draw = lambda shape: jnp.asarray(generator.normal(0, D**-0.5, shape.shape), shape.dtype)  # noqa: E731
    return nnx.merge(definition, jax.tree.map(draw, state))


@pytest.mark.parametrize("settings", [{}, {"num_kv_heads": G, "use_bias": False}])
def test_the_layer_maps_into_heads_attends_and_maps_out(settings):
    layer = filled(**settings)
    x, memory, mask = vectors(B, T, D), vectors(B, S, D, seed=1), some_mask(B, 1, 1, S)

    def project(y: np.ndarray, linear: nnx.Module, contracted: int) -> np.ndarray:
        mapped = np.tensordot(y, np.asarray(linear.weight[...]), contracted)
        return mapped if linear.bias is None else mapped + np.asarray(linear.bias[...])

    query, key, value = (project(*pair, 1) for pair in ((x, layer.query), (memory, layer.key), (memory, layer.value)))
    expected = project(by_hand(query, key, value, mask=mask), layer.out, 2)
    np.testing.assert_allclose(call(layer, x, memory, mask=mask), expected, atol=1e-5)
    np.testing.assert_allclose(call_weights(layer, x, memory, mask), jitted_weights(query, key, mask=mask), atol=1e-5)


def test_rotation_makes_attention_a_matter_of_distance():
    layer, still = filled(rotary_base=10000.0), filled()
    x, steps = vectors(B, T, D), np.arange(T)[None]
    counted = np.asarray(call_placed(layer, x, steps))
    np.testing.assert_allclose(call_placed(layer, x, None), counted, atol=1e-6)
    np.testing.assert_allclose(call_placed(layer, x, 40 + steps), counted, atol=1e-4)
    assert np.abs(np.asarray(call_placed(layer, x, 3 * steps)) - counted).max() > 0.01
    assert np.abs(np.asarray(call_placed(still, x, steps)) - counted).max() > 0.01


def test_without_rotation_attention_does_not_know_the_order():
    layer, x, order = filled(), vectors(B, T, D), np.array([3, 1, 4, 0, 2])
    attended = np.asarray(call_placed(layer, x, np.arange(T)[None]))
    np.testing.assert_allclose(call_placed(layer, x[:, order], np.arange(T)[None]), attended[:, order], atol=1e-5)


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
    ("arguments", "message"),
    [
        ({"width": 10, "num_heads": 4}, r"^width must be divisible by num_heads, got width=10 and num_heads=4\.$"),
        (
            {"width": 24, "num_heads": 6, "num_kv_heads": 4},
            r"^num_heads must be a multiple of num_kv_heads, got num_heads=6 and num_kv_heads=4\.$",
        ),
    ],
)
def test_sizes_that_do_not_divide_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**arguments, rngs=nnx.Rngs(0))
