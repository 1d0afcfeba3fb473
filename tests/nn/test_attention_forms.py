"""What published models change in blocks, against NumPy: scores, windows, normed queries and keys, activations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn import kernels
from lmx.nn.attention import AttentionForm, CachedKeyValues, KeyValues, MultiHeadAttention, attend_cached
from lmx.nn.config import TransformerConfig
from lmx.nn.feedforward import FeedForward, GatedFeedForward
from lmx.nn.kernels import Accelerator, KernelChoice, Scores, attend, attention_weights, choose_kernel
from lmx.nn.layers import LayerNorm
from lmx.nn.masks import Sees
from lmx.nn.positions.rotary import RotaryPositions
from lmx.nn.stack import Stack
from lmx.nn.transformer import ACTIVATIONS, make_norm, make_stack
from tests.cudnn import fused_calls, gpu  # noqa: F401
from tests.nn.by_hand import B, G, H, K, S, T, by_hand, heads, vectors

D = 20  # does not divide into the heads
FORMS = [Scores(scale=1.0), Scores(cap=0.7), Scores(scale=0.3, cap=1.5)]


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_scaled_and_then_capped_and_then_biased(form):
    sees, bias = Sees(causal=True, window=3), vectors(1, H, T, S, seed=5)
    expected = by_hand(*heads(), sees, bias=bias, **form._asdict())
    attended = jax.jit(functools.partial(attend, sees=sees.with_bias(jnp.asarray(bias)), scores=form))(*heads())
    np.testing.assert_allclose(attended, expected, atol=1e-5)
    plain = by_hand(*heads(), sees, bias=bias)
    assert np.abs(expected - plain).max() > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_blocks_of_queries_and_a_cache_make_the_same_scores(form, monkeypatch):
    monkeypatch.setattr(kernels, "queries_per_block", lambda queries, keys: 3)
    query, key, value = heads()
    expected = by_hand(query, key, value, **form._asdict())
    blocked = functools.partial(attend, scores=form)
    assert "scan" in str(jax.make_jaxpr(blocked)(query, key, value))
    np.testing.assert_allclose(jax.jit(blocked)(query, key, value), expected, atol=1e-5)
    of_cache = lambda query, *kept: attend_cached(query, CachedKeyValues.of(KeyValues(*kept)), scores=form)  # noqa: E731
    cached = jax.jit(of_cache)(query, key, value)
    np.testing.assert_allclose(cached, expected, atol=1e-5)


def test_the_fused_kernel_knows_a_scale_and_no_cap(gpu):  # noqa: F811
    fitting = {"dtype": jnp.bfloat16, "head_width": 64, "on": Accelerator("cuda", 9.0)}
    assert choose_kernel("auto", **fitting, score_cap=50.0) == KernelChoice("xla", "the scores are capped")
    with pytest.raises(ValueError, match=r'^kernel="cudnn" cannot be used here: the scores are capped\. Say'):
        choose_kernel("cudnn", **fitting, score_cap=50.0)
    arrays = [jnp.asarray(vectors(2 * B, 11, 4, 16, seed=seed), jnp.bfloat16) for seed in (1, 2, 3)]
    capped, scaled = (functools.partial(attend, scores=form) for form in (Scores(cap=2.0), Scores(scale=0.4)))
    assert fused_calls(capped, *arrays) == 0
    assert fused_calls(scaled, *arrays) == 1
    fused, plain = (jax.jit(functools.partial(scaled, kernel=name))(*arrays) for name in ("cudnn", "xla"))
    np.testing.assert_allclose(fused.astype(np.float32), plain.astype(np.float32), atol=0.04)


# A layer with its maps.


def filled(build) -> nnx.Module:
    """Builds a module with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(build))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, 0.3, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def normed(x: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon) * scale


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary positions as complex numbers: the halves are real and imaginary parts."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None, None] * 10000.0 ** (-np.arange(half) / half)
    together = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([together.real, together.imag], axis=-1)


@pytest.mark.parametrize("epsilon", [None, 1e-6, 0.5])
def test_queries_and_keys_are_normed_by_head_before_they_turn(epsilon):
    form = AttentionForm(num_kv_heads=G, head_width=K, norm_epsilon=epsilon, use_bias=False)
    layer, x = filled(lambda: MultiHeadAttention(D, H, form, rngs=nnx.Rngs(0))), vectors(B, T, D)
    assert layer.query.weight.shape == (D, H, K)
    assert layer.out.weight.shape == (H, K, D)

    @jax.jit
    def run(layer, x):
        queries, keys_values = layer.project(x, rotate=lambda y: RotaryPositions().rotate(y, None))
        return layer(queries, keys_values), layer.queries(x), layer.keys_values(x).key

    query, key, value = (np.einsum("btd,dhk->bthk", x, m.weight[...]) for m in (layer.query, layer.key, layer.value))
    if epsilon is not None:
        query = normed(query, np.asarray(layer.query_norm.scale[...]), epsilon)
        key = normed(key, np.asarray(layer.key_norm.scale[...]), epsilon)
    attended = by_hand(turned(query), turned(key), value)
    expected = np.einsum("bthk,hkd->btd", attended, layer.out.weight[...])
    found, unturned_query, unturned_key = run(layer, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # What looks at a memory has the norm and no positions.
    np.testing.assert_allclose(unturned_query, query, atol=1e-5)
    np.testing.assert_allclose(unturned_key, key, atol=1e-5)


def test_attention_maps_are_what_is_attended_with():
    form = AttentionForm(norm_epsilon=1e-6, head_width=K, scores=Scores(scale=0.7, cap=0.9))
    layer, x = filled(lambda: MultiHeadAttention(D, H, form, rngs=nnx.Rngs(0))), jnp.asarray(vectors(B, T, D))
    queries, (key, value) = layer.project(x)
    weights = layer.weights(queries, key)
    np.testing.assert_allclose(weights, attention_weights(queries, key, scores=form.scores), atol=1e-6)
    attended = jnp.einsum("BHTS,BSHK->BTHK", weights, value)
    np.testing.assert_allclose(layer.out(attended), layer(queries, KeyValues(key, value)), atol=1e-5)


@pytest.mark.parametrize("scale", [None, 1.0, 0.02])
def test_scores_begin_as_large_whatever_their_scale(scale):
    form = AttentionForm(head_width=32, scores=Scores(scale=scale))
    layer = MultiHeadAttention(128, 4, form, rngs=nnx.Rngs(1))
    x = jnp.asarray(vectors(B, 50, 128))
    queries, (key, _) = layer.project(x)
    found = np.einsum("bthk,bshk->bhts", queries, key) * (32**-0.5 if scale is None else scale)
    assert found.std() == pytest.approx(1, rel=0.1)
    if scale == 1.0:  # T5's
        assert np.std(layer.query.weight[...]) == pytest.approx((128 * 32) ** -0.5, rel=0.03)


# Stacks: fields of a config reach their places, and a cache sees what the whole sees.

N, WINDOW, LENGTH = 2, 3, 9
ALL = TransformerConfig(
    width=D,
    feedforward_width=14,
    num_heads=H,
    num_kv_heads=G,
    head_width=K,
    qk_norm=True,
    attention_scale=0.6,
    score_cap=1.1,
    window=WINDOW,
    norm="rms",
    norm_epsilon=0.01,
    norm_position="pre",
    activation="gated-gelu-exact",
    use_bias=False,
    dropout_rate=0.0,
)
PARTS = {
    "all": ALL,
    "a window alone": dataclasses.replace(ALL, qk_norm=False, attention_scale=None, score_cap=None),
    "no window": dataclasses.replace(ALL, window=None),
}
run = jax.jit(lambda stack, x, **given: stack(x, sees=Sees(causal=True), **given)[0])


def stack_of(config: TransformerConfig) -> Stack:
    return filled(lambda: make_stack(config, N, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("config", PARTS.values(), ids=PARTS)
def test_extending_a_cache_equals_running_the_whole(config):
    encoding = RotaryPositions()
    stack, x, slots = stack_of(config), vectors(B, LENGTH, D), LENGTH + 2

    @jax.jit
    def extend(stack, x, caches, first):
        places = first + jnp.arange(x.shape[1])
        y, caches = stack.extend(
            stack.unstack(),
            x,
            caches,
            encoding=encoding,
            positions=places[None],
            slots=jnp.arange(slots)[None],
            offset=first,
            mask=(jnp.arange(slots) <= places[:, None])[None, None],
        )
        return y, caches

    caches = [block.start_cache(None, batch=B, slots=slots) for block in stack.unstack()]
    done = []
    for first, last in ((0, 4), (4, 8), (8, 9)):
        y, caches = extend(stack, x[:, first:last], caches, np.int32(first))
        done.append(y)
    np.testing.assert_allclose(np.concatenate(done, 1), run(stack, x, encoding=encoding), atol=1e-5)


def test_a_window_without_positions_of_slots_is_an_error():
    stack = stack_of(PARTS["a window alone"])
    with pytest.raises(ValueError, match=r"^positions and slots must be given with a window, got positions=None and"):
        stack.extend(stack.unstack(), jnp.zeros((B, 1, D)), [None] * N)


def test_a_token_sees_as_far_as_the_windows_of_all_layers_reach():
    stack, x = stack_of(ALL), vectors(B, LENGTH, D)
    before = np.asarray(run(stack, x))
    x[:, 1] = 7
    changed = np.abs(np.asarray(run(stack, x)) - before).max((0, 2)) > 1e-6
    reach = N * (WINDOW - 1)  # beyond its own place
    assert changed.tolist() == [1 <= place <= 1 + reach for place in range(LENGTH)]


def test_kernels_are_asked_with_the_window_of_the_stack():
    stack = stack_of(ALL)
    assert stack.attended(Sees(causal=True)).window == WINDOW
    assert stack.attended(Sees(causal=True, window=2)).window == 2
    assert stack_of(PARTS["no window"]).attended(Sees(causal=True)).window is None


def test_fields_of_a_config_reach_every_norm():
    stack = stack_of(ALL)
    attention = stack.blocks.attention
    norms = (stack.blocks.attention_norm, stack.blocks.feedforward_norm, stack.final_norm)
    assert {norm.epsilon for norm in (*norms, attention.query_norm, attention.key_norm)} == {0.01}
    layer = dataclasses.replace(ALL, norm="layer", norm_epsilon=1e-12)
    assert make_norm(layer).epsilon == 1e-12
    # Without a word, as ever.
    assert make_norm(dataclasses.replace(layer, norm_epsilon=None)).epsilon == LayerNorm(D).epsilon == 1e-5
    plain = stack_of(dataclasses.replace(ALL, norm_epsilon=None))
    assert {plain.final_norm.epsilon, plain.blocks.attention.key_norm.epsilon} == {1e-6}


# Activations.


def by_name(name: str, x: float) -> float:
    match name:
        case "relu":
            return max(x, 0.0)
        case "gelu":  # Hendrycks and Gimpel 2016, its approximation
            return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "gelu-exact":
            return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))
        case _:
            return x / (1 + math.exp(-x))


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu-exact", "gated-gelu", "gated-gelu-exact", "gated-silu"])
def test_activations_are_what_their_names_say(name):
    config = dataclasses.replace(ALL, activation=name)
    feedforward = stack_of(config).blocks.feedforward
    assert isinstance(feedforward, GatedFeedForward if name.startswith("gated-") else FeedForward)
    x = np.linspace(-4, 4, 33)
    expected = [by_name(name.removeprefix("gated-"), value) for value in x]
    np.testing.assert_allclose(feedforward.activation(jnp.asarray(x)), expected, atol=1e-6)
    assert feedforward.activation is ACTIVATIONS[name.removeprefix("gated-")]
