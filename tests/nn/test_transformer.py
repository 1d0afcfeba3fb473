import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn import masks
from lmx.nn.attention import MultiHeadAttention
from lmx.nn.feedforward import FeedForward
from lmx.nn.layers import LayerNorm, dropout
from lmx.nn.transformer import Block, Memory, Stack

B, T, S, N, D, H, G, F = 2, 5, 7, 3, 24, 6, 2, 10
NORM_POSITIONS = ("pre", "post")


def vectors(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make_block(rngs: nnx.Rngs, *, norm_position="post", with_memory=True, dropout_rate=0.0) -> Block:
    attention = functools.partial(MultiHeadAttention, D, H, num_kv_heads=G, rngs=rngs)
    return Block(
        attention(rotary_base=100.0),
        FeedForward(D, F, rngs=rngs),
        memory_attention=attention() if with_memory else None,
        make_norm=lambda: LayerNorm(D),
        norm_position=norm_position,
        dropout_rate=dropout_rate,
    )


def filled(build) -> nnx.Module:
    """Builds a module with every parameter, biases and scales too, drawn from a normal distribution."""
    definition, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    generator = np.random.default_rng(8)
    draw = lambda shape: jnp.asarray(generator.normal(0, D**-0.5, shape.shape), shape.dtype)  # noqa: E731
    return nnx.merge(definition, jax.tree.map(draw, state))


def stack(*, final_norm: bool = False, unroll: int = 1, **settings) -> Stack:
    def build(rngs: nnx.Rngs) -> Stack:
        norm = LayerNorm(D) if final_norm else None
        make = functools.partial(make_block, **settings)
        return Stack(make, N, final_norm=norm, unroll=unroll, rngs=rngs)

    return filled(build)


def inputs() -> dict:
    seen = jnp.arange(S) < jnp.array([S, 4])[:, None]
    return {"mask": masks.causal(T), "memory": Memory(vectors(B, S, D, seed=1), seen[:, None, None])}


# One block.


@pytest.mark.parametrize("norm_position", NORM_POSITIONS)
@pytest.mark.parametrize("with_memory", [False, True])
def test_a_block_is_its_papers_formula(norm_position, with_memory):
    block, x = filled(functools.partial(make_block, norm_position=norm_position, with_memory=with_memory)), vectors(B, T, D)
    given = inputs() if with_memory else {"mask": masks.causal(T)}

    def attend(y):
        return block.attention(y, block.attention.keys_values(y, positions=None), mask=given["mask"])

    def attend_memory(y):
        memory = given["memory"]
        keys_values = block.memory_attention.keys_values(memory.states, positions=None)
        return block.memory_attention(y, keys_values, mask=memory.mask)

    expected = x
    if norm_position == "post":  # norm(x + f(x)), Vaswani et al. 2017
        expected = block.attention_norm(expected + attend(expected))
        if with_memory:
            expected = block.memory_norm(expected + attend_memory(expected))
        expected = block.feedforward_norm(expected + block.feedforward(expected))
    else:  # x + f(norm(x)), Xiong et al. 2020
        expected = expected + attend(block.attention_norm(expected))
        if with_memory:
            expected = expected + attend_memory(block.memory_norm(expected))
        expected = expected + block.feedforward(block.feedforward_norm(expected))
    y, maps = block(x, **given)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert maps == {}


def test_dropout_is_on_what_each_sublayer_adds():
    block = filled(functools.partial(make_block, norm_position="pre", with_memory=False, dropout_rate=0.3))
    x, key = vectors(B, T, D), jax.random.key(4)
    keys = jax.random.split(key, 6)
    normed = block.attention_norm(x)
    attended = block.attention(normed, block.attention.keys_values(normed, positions=None))
    expected = x + dropout(attended, 0.3, keys[1])
    expected = expected + dropout(block.feedforward(block.feedforward_norm(expected)), 0.3, keys[5])
    np.testing.assert_allclose(block(x, mask=None, key=key)[0], expected, atol=1e-5)


# Stacks.


@pytest.fixture(scope="module")
def decoder() -> Stack:
    return stack(final_norm=True, norm_position="pre", dropout_rate=0.3)


@pytest.fixture(scope="module")
def run():
    """Runs any stack; its structure is static, so that each test of the same shape shares one compiled program."""
    jitted = jax.jit(
        lambda definition, state, x, **given: nnx.merge(definition, state)(x, **given),
        static_argnums=0,
        static_argnames="with_attention",
    )
    return lambda stack, x, **given: jitted(*nnx.split(stack), x, **given)


def test_a_stack_runs_its_blocks_in_order_and_then_the_final_norm(decoder, run):
    x, given = vectors(B, T, D), inputs()
    expected = x
    for block in decoder.unstack():
        expected, _ = block(expected, **given)
    np.testing.assert_allclose(run(decoder, x, **given)[0], decoder.final_norm(expected), atol=1e-5)


@pytest.mark.parametrize("unroll", [2, N, 100])
def test_unrolling_does_not_change_results(decoder, run, unroll):
    x, given, key = vectors(B, T, D), inputs(), jax.random.key(1)
    unrolled = stack(final_norm=True, norm_position="pre", dropout_rate=0.3, unroll=unroll)
    np.testing.assert_allclose(run(unrolled, x, key=key, **given)[0], run(decoder, x, key=key, **given)[0], atol=1e-6)


def test_layers_are_born_different():
    weight = Stack(functools.partial(make_block, with_memory=False), N, rngs=nnx.Rngs(0)).blocks.attention.query.weight
    assert weight.shape == (N, D, H, D // H)
    assert float(jnp.abs(weight[0] - weight[1]).min(initial=1, where=weight[0] != 0)) >= 0
    assert len({float(weight[layer].sum()) for layer in range(N)}) == N
    assert float(weight[...].std()) == pytest.approx((2 / (2 * D)) ** 0.5, rel=0.1)


def test_every_parameter_of_a_stack_names_its_layer_axis(decoder):
    for path, param in nnx.to_flat_state(nnx.state(decoder.blocks, nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert axes[0] == "layers", path
        assert param.shape[0] == N, path
    for path, param in nnx.to_flat_state(nnx.state(decoder.final_norm, nnx.Param)):
        assert param.get_metadata("axes") == (None,), path


def test_dropout_of_a_stack_is_a_function_of_its_key(decoder, run):
    x, given = vectors(B, T, D), inputs()
    still, first, again, other = (
        run(decoder, x, key=key, **given)[0] for key in (None, *map(jax.random.key, (1, 1, 2)))
    )
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 0.01
    assert float(jnp.abs(first - still).max()) > 0.01


def test_layers_do_not_share_a_dropout_mask():
    # Layers whose sublayers add the same ones everywhere: what is missing after each layer is its own mask.
    build = functools.partial(make_block, with_memory=False, norm_position="pre", dropout_rate=0.5)
    layers = filled(lambda rngs: Stack(build, 2, rngs=rngs))
    layers.blocks.attention.out.weight[...] *= 0
    layers.blocks.attention.out.bias[...] *= 0
    layers.blocks.feedforward.down.weight[...] *= 0
    layers.blocks.feedforward.down.bias[...] = jnp.ones((2, D))
    added, _ = layers(jnp.zeros((B, 50, D)), mask=None, key=jax.random.key(1))
    # Each layer adds 0 or 2: shared masks would give 0 and 4 alone, independent ones 0, 2 and 4 as 1 : 2 : 1.
    shares = [float((added == value).mean()) for value in (0, 2, 4)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_attention_maps_come_by_layer_and_are_what_the_blocks_saw(decoder, run):
    x, given = vectors(B, T, D), inputs()
    y, maps = run(decoder, x, with_attention=True, **given)
    np.testing.assert_allclose(y, run(decoder, x, **given)[0], atol=1e-6)
    assert {name: found.shape for name, found in maps.items()} == {"self": (N, B, H, T, T), "memory": (N, B, H, T, S)}
    np.testing.assert_allclose(maps["self"].sum(-1), 1, atol=1e-6)
    assert (np.triu(maps["self"], 1) == 0).all()
    assert (np.asarray(maps["memory"])[:, 1, :, :, 4:] == 0).all()
    assert (np.asarray(maps["memory"])[:, 0, :, :, 4:] > 0).all()


def test_the_future_does_not_matter(decoder, run):
    x, given = vectors(B, T, D), inputs()
    changed = run(decoder, x.at[:, 3:].set(9.0), **given)[0]
    np.testing.assert_array_equal(changed[:, :3], run(decoder, x, **given)[0][:, :3])


@pytest.mark.parametrize("steps", [[1, 1, 1, 1, 1], [2, 3], [5]])
def test_extending_a_cache_equals_running_the_whole(decoder, run, steps):
    x, given = vectors(B, T, D), inputs()
    slots = T + 3
    blocks = decoder.unstack()
    caches = [block.start_cache(given["memory"], batch=B, slots=slots) for block in blocks]
    done, offset = [], 0
    for size in steps:
        places = offset + jnp.arange(size)
        y, caches = decoder.extend(
            blocks,
            x[:, offset : offset + size],
            caches,
            offset=jnp.asarray(offset),
            mask=(jnp.arange(slots) <= places[:, None])[None, None],
            memory_mask=given["memory"].mask,
            positions=places[None],
        )
        done.append(y)
        offset += size
    np.testing.assert_allclose(jnp.concatenate(done, 1), run(decoder, x, **given)[0], atol=1e-5)


def test_a_stack_must_have_a_layer():
    with pytest.raises(ValueError, match=r"^num_layers must be at least 1, got num_layers=0\.$"):
        Stack(make_block, 0, rngs=nnx.Rngs(0))
