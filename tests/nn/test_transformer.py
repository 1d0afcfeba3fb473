import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from lmx import costs
from lmx.nn import feedforward, kernels, transformer
from lmx.nn.attention import AttentionForm, MultiHeadAttention
from lmx.nn.config import TransformerConfig
from lmx.nn.feedforward import FeedForward
from lmx.nn.layers import LayerNorm, Linear
from lmx.nn.masks import Sees
from lmx.nn.positions.alibi import Alibi
from lmx.nn.positions.rotary import RotaryPositions
from lmx.nn.positions.sinusoidal import SinusoidalPositions, sinusoidal
from lmx.nn.stack import Stack
from lmx.nn.transformer import Block, Memory
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

B, T, S, N, D, H, G, F = 2, 5, 7, 3, 24, 6, 2, 10
CAUSAL = Sees(causal=True)
# The second row's memory is 4 long.
SEEN = Sees(key_lengths=np.array([S, 4], np.int32))


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs() -> dict:
    return {"sees": CAUSAL, "memory": Memory(vectors(B, S, D, seed=1), SEEN)}


def make_block(rngs: nnx.Rngs, *, norm_position="pre", with_memory=True, dropout_rate=0.0) -> Block:
    attention = functools.partial(MultiHeadAttention, D, H, AttentionForm(num_kv_heads=G), rngs=rngs)
    return Block(
        attention(),
        FeedForward(D, F, rngs=rngs),
        memory_attention=attention() if with_memory else None,
        make_norm=lambda: LayerNorm(D),
        norm_position=norm_position,
        dropout_rate=dropout_rate,
    )


def make_stack(rngs: nnx.Rngs, *, unroll: int = 1, remat="none") -> Stack:
    make = functools.partial(make_block, dropout_rate=0.3)
    return Stack(make, N, final_norm=LayerNorm(D), remat=remat, unroll=unroll, rngs=rngs)


def filled(build, **settings) -> nnx.Module:
    """Builds a module with every parameter, biases and scales too, drawn from a normal distribution."""
    definition, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0), **settings)))
    generator = np.random.default_rng(8)
    draw = lambda shape: jnp.asarray(generator.normal(0, D**-0.5, shape.shape), shape.dtype)  # noqa: E731
    return nnx.merge(definition, jax.tree.map(draw, state))


# Modules of the same structure share one compiled program.
run = jax.jit(lambda module, x, **given: module(x, **given)[0])
run_with_maps = jax.jit(lambda module, x, **given: module(x, with_attention=True, **given))


# One block.


@jax.jit
def by_formula(block: Block, x: jax.Array, sees: Sees, memory: Memory | None) -> jax.Array:
    def attend(y):
        return block.attention(*block.attention.project(y), sees=sees)

    def attend_memory(y):
        keys_values = block.memory_attention.keys_values(memory.states)
        return block.memory_attention(block.memory_attention.queries(y), keys_values, sees=memory.sees)

    sublayers = [(attend, block.attention_norm)]
    if memory is not None:
        sublayers.append((attend_memory, block.memory_norm))
    sublayers.append((block.feedforward, block.feedforward_norm))
    for function, norm in sublayers:
        x = norm(x + function(x)) if block.norm_position == "post" else x + function(norm(x))
    return x


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("with_memory", [False, True])
def test_a_block_is_its_papers_formula(norm_position, with_memory):
    # norm(x + f(x)), Vaswani et al. 2017; x + f(norm(x)), Xiong et al. 2020.
    block, x = filled(make_block, norm_position=norm_position, with_memory=with_memory), vectors(B, T, D)
    given = inputs() if with_memory else {"sees": CAUSAL, "memory": None}
    np.testing.assert_allclose(run(block, x, **given), by_formula(block, x, **given), atol=1e-5)


def test_a_bias_is_added_to_the_scores_of_the_block_itself():
    block, x = filled(make_block, with_memory=False), vectors(B, T, D)
    hidden = np.where(np.tri(T, dtype=bool)[None, None], 0, -1e9).astype(np.float32)
    biased = run(block, x, sees=Sees(bias=hidden))
    np.testing.assert_allclose(biased, run(block, x, sees=CAUSAL, memory=None), atol=1e-5)


def test_dropout_is_on_what_each_sublayer_adds_and_no_layer_shares_a_mask():
    # Sublayers that add ones everywhere: where one is missing is its mask, and what is there is 1 / (1 - rate).
    length, rate = 50, 0.5
    layers = filled(
        lambda rngs: Stack(functools.partial(make_block, with_memory=False, dropout_rate=rate), 2, rngs=rngs)
    )
    for linear in (layers.blocks.attention.out, layers.blocks.feedforward.down):
        linear.weight[...] = np.zeros(linear.weight.shape, np.float32)
        linear.bias[...] = np.ones((2, D), np.float32)
    key = jax.random.key(1)
    added = np.asarray(run(layers, np.zeros((B, length, D), np.float32), sees=Sees(), key=key))
    # Four independent masks: binomial in units of 2.
    shares = [(added == value).mean() for value in (0, 2, 4, 6, 8)]
    assert shares == pytest.approx([1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], abs=0.04)
    still = np.asarray(run(layers, np.zeros((B, length, D), np.float32), sees=Sees(), key=None))
    np.testing.assert_array_equal(still, 4)


# Stacks.


@pytest.fixture(scope="module")
def decoder() -> Stack:
    return filled(make_stack)


@pytest.fixture(scope="module")
def expected(decoder) -> np.ndarray:
    """What the decoder makes of the inputs, one block after the other."""
    x, block = vectors(B, T, D), jax.jit(lambda block, x, **given: block(x, **given)[0])
    for layer in decoder.unstack():
        x = block(layer, x, **inputs())
    return np.asarray(decoder.final_norm(x))


def test_a_stack_runs_its_blocks_in_order_and_then_the_final_norm(decoder, expected):
    np.testing.assert_allclose(run(decoder, vectors(B, T, D), **inputs()), expected, atol=1e-5)


def test_unrolling_does_not_change_results(decoder):
    given = {**inputs(), "key": jax.random.key(1)}
    unrolled = run(filled(make_stack, unroll=2), vectors(B, T, D), **given)
    np.testing.assert_allclose(unrolled, run(decoder, vectors(B, T, D), **given), atol=1e-5)


def test_what_is_recomputed_takes_less_memory_and_changes_no_gradient():
    given = {**inputs(), "key": jax.random.key(1)}
    kept, gradients = [], []
    for remat in ("none", "dots", "full"):
        definition, state = nnx.split(filled(make_stack, remat=remat))
        total = lambda state, definition=definition: run(nnx.merge(definition, state), vectors(B, T, D), **given).sum()  # noqa: E731
        residuals = jax.eval_shape(lambda state, total=total: jax.vjp(total, state)[1], state)
        kept.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals)))
        gradients.append(jax.jit(jax.grad(total))(state))
    none, dots, full = kept
    assert none > dots > full
    for others in gradients[1:]:
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), others, gradients[0])


def test_a_block_that_attends_to_a_memory_must_have_one():
    block = make_block(nnx.Rngs(0))
    with pytest.raises(ValueError, match="memory must be given to a block that attends to one, got memory=None"):
        run(block, vectors(B, T, D), sees=CAUSAL)


def test_layers_are_born_different_and_with_the_fans_of_one_layer():
    stack = Stack(lambda rngs: FeedForward(40, 70, rngs=rngs), N, rngs=nnx.Rngs(0))
    weight = np.asarray(stack.blocks.up.weight[...])
    assert weight.shape == (N, 40, 70)
    assert len({float(layer.sum()) for layer in weight}) == N
    assert weight.std() == pytest.approx((2 / 110) ** 0.5, rel=0.03)


def test_every_parameter_of_a_stack_names_its_layer_axis(decoder):
    for path, param in nnx.to_flat_state(nnx.state(decoder.blocks, nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert axes[0] == "layers", path
        assert param.shape[0] == N, path
    assert decoder.blocks.attention.query.weight.get_metadata("axes") == ("layers", "embed", "heads", None)
    for path, param in nnx.to_flat_state(nnx.state(decoder.final_norm, nnx.Param)):
        assert param.get_metadata("axes") == (None,), path


def test_dropout_of_a_stack_is_a_function_of_its_key(decoder, expected):
    first, again, other = (
        np.asarray(run(decoder, vectors(B, T, D), **inputs(), key=jax.random.key(seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - expected).max() > 0.01


def test_attention_maps_come_by_layer_and_change_nothing(decoder, expected):
    y, maps = run_with_maps(decoder, vectors(B, T, D), **inputs())
    np.testing.assert_allclose(y, expected, atol=1e-5)
    maps = {name: np.asarray(found) for name, found in maps.items()}
    assert {name: found.shape for name, found in maps.items()} == {"self": (N, B, H, T, T), "memory": (N, B, H, T, S)}
    np.testing.assert_allclose(maps["self"].sum(-1), 1, atol=1e-6)
    assert (np.triu(maps["self"], 1) == 0).all()
    assert (maps["memory"][:, 1, :, :, 4:] == 0).all()
    assert (maps["memory"][:, 0, :, :, 4:] > 0).all()


def test_the_future_does_not_matter(decoder, expected):
    x = vectors(B, T, D)
    x[:, 3:] = 9
    np.testing.assert_allclose(np.asarray(run(decoder, x, **inputs()))[:, :3], expected[:, :3], atol=1e-5)


@pytest.mark.parametrize("encoding", [None, RotaryPositions(base=100.0), Alibi(H)], ids=["none", "rotary", "alibi"])
def test_extending_a_cache_equals_running_the_whole(decoder, encoding):
    slots, memory = T + 3, inputs()["memory"]
    expected = run(decoder, vectors(B, T, D), **inputs(), encoding=encoding)

    @jax.jit
    def start(decoder, memory):
        return [block.start_cache(memory, batch=B, slots=slots) for block in decoder.unstack()]

    @jax.jit
    def extend(decoder, x, caches, offset):
        places = offset + jnp.arange(x.shape[1])
        return decoder.extend(
            decoder.unstack(),
            x,
            caches,
            encoding=encoding,
            positions=places[None],
            slots=jnp.arange(slots)[None],
            offset=offset,
            mask=(jnp.arange(slots) <= places[:, None])[None, None],
            memory_mask=memory.sees.mask(1, S),
        )

    caches, done = start(decoder, memory), []
    for first, last in ((0, 1), (1, 4), (4, 5)):  # three positions at once in the middle
        y, caches = extend(decoder, vectors(B, T, D)[:, first:last], caches, np.int32(first))
        done.append(y)
    np.testing.assert_allclose(np.concatenate(done, 1), expected, atol=1e-5)


def test_a_cache_is_in_the_compute_type_and_has_a_slot_for_each_key_head():
    config = TransformerConfig(width=D, feedforward_width=F, num_heads=H, num_kv_heads=G, dtype="bfloat16")
    stack = nnx.eval_shape(lambda: transformer.make_stack(config, 1, has_memory=True, rngs=nnx.Rngs(0)))
    memory = Memory(jax.ShapeDtypeStruct((B, S, D), jnp.bfloat16), SEEN)

    def start(stack, states):
        (block,) = stack.unstack()
        return block.start_cache(Memory(states, SEEN), batch=B, slots=9), block.start_cache(None, batch=B, slots=9)

    cache, without = jax.eval_shape(start, stack, memory.states)
    shapes = [(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(cache)]
    head = D // H
    assert shapes == [
        (shape, "bfloat16") for shape in ((B, G, head, 9), (B, G, 9, head), (B, G, head, S), (B, G, S, head))
    ]
    assert without.memory is None


def test_a_stack_must_have_a_layer():
    with pytest.raises(ValueError, match=r"^num_layers must be at least 1, got num_layers=0\.$"):
        Stack(make_block, 0, rngs=nnx.Rngs(0))


# Randomness that must not be shared, and what the backward pass keeps.


def test_no_two_places_of_a_block_drop_out_by_the_same_key(monkeypatch):
    rates, keys = [], []

    def note(x, rate, key, **_):
        rates.append(rate)
        keys.append(jax.random.key_data(key))
        return x

    for module in (transformer, kernels, feedforward):
        monkeypatch.setattr(module, "dropout", note)
    block = filled(
        lambda rngs: Block(
            MultiHeadAttention(D, H, AttentionForm(dropout_rate=0.1), rngs=rngs),
            FeedForward(D, F, dropout_rate=0.3, rngs=rngs),
            memory_attention=MultiHeadAttention(D, H, AttentionForm(dropout_rate=0.2), rngs=rngs),
            make_norm=lambda: LayerNorm(D),
            norm_position="pre",
            dropout_rate=0.4,
        )
    )

    @jax.jit
    def keys_of(block, x, key, given):
        block(x, **given, key=key)
        return jnp.stack(keys)

    found = np.asarray(keys_of(block, vectors(B, T, D), jax.random.key(1), inputs()))
    # Weights and what is added, of both attentions, then the hidden layer and what is added.
    assert rates == [0.1, 0.4, 0.2, 0.4, 0.3, 0.4]
    assert len({tuple(key) for key in found.tolist()}) == 6


def residuals_of(stack: Stack, mesh: Mesh | None = None, **given) -> list[costs.Residual]:
    """Returns what a stack leaves for its backward pass, but for its parameters."""
    definition, state = nnx.split(stack)
    x, given = jax.tree.map(jnp.asarray, (vectors(B, T, D), given))

    def total(state):
        with use_mesh(mesh) if mesh is not None else contextlib.nullcontext():
            return nnx.merge(definition, state)(x, **given)[0].sum()

    return costs.saved_residuals(total, state)[1]


def test_scores_of_attention_are_not_kept_where_only_products_with_weights_are():
    def kept(remat: str) -> set[tuple[int, ...]]:
        return {each.shape for each in residuals_of(filled(make_stack, remat=remat), **inputs())}

    def scores(shapes: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [shape for shape in shapes if math.prod(shape) in (N * B * H * T * T, N * B * H * T * S)]

    everything, products = kept("none"), kept("dots")
    assert scores(everything)
    assert not scores(products)
    assert (N, B * T, F) in products  # the product with the first weight of the feed-forward network


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("remat", ["none", "dots"])
def test_gathered_parameters_are_not_kept_for_the_backward_pass(remat):
    config = TransformerConfig(
        width=D, feedforward_width=40, num_heads=H, num_kv_heads=G, dropout_rate=0.0, remat=remat
    )
    stack = filled(lambda rngs: transformer.make_stack(config, N, has_memory=True, rngs=rngs))
    weights = {
        param.shape
        for _, param in nnx.to_flat_state(nnx.state(stack, nnx.Param))
        if "embed" in param.get_metadata("axes")
    }
    mesh = make_mesh(MeshConfig(data=1, fsdp=2), devices=jax.devices()[:2])
    kept = [residual.shape for residual in residuals_of(stack, mesh, **inputs())]
    assert len(weights) >= 4
    assert not weights & set(kept)
    assert len(kept) > 5


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("sizes", [{"fsdp": 2}, {"data": 2}], ids=str)
def test_products_with_weights_are_kept_whose_gradients_are_summed_in_float32(sizes):
    config = TransformerConfig(width=D, feedforward_width=F, num_heads=H, dropout_rate=0.0, dtype="bfloat16")
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:2])

    def recomputed(remat: str) -> float:
        changed = dataclasses.replace(config, remat=remat)
        definition, state = nnx.split(nnx.eval_shape(lambda: transformer.make_stack(changed, N, rngs=nnx.Rngs(0))))

        def total(state, x):
            with use_mesh(mesh):
                return nnx.merge(definition, state)(x, sees=CAUSAL)[0].astype(jnp.float32).sum()

        x = jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16)
        return costs.count_flops(jax.grad(total), state, x).recomputed

    # Of each head the products of [T, K] with [K, T] and of [T, T] with [T, K]; and nearly all of the forward pass.
    assert recomputed("none") == 0
    assert recomputed("dots") == N * B * 2 * (2 * T * T * D)
    assert recomputed("full") > 4 * recomputed("dots")


class Plain(nnx.Module):
    """One product and what keeps its input from being enough: the least that can be recomputed."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = Linear((D,), (D,), axes=(None, None), rngs=rngs)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        return jnp.tanh(self.linear(x)), {}


def test_the_compiler_is_kept_from_undoing_the_recomputation_of_unrolled_layers():
    def barriers(remat: str, unroll: int) -> int:
        definition, state = nnx.split(filled(lambda rngs: Stack(Plain, N, remat=remat, unroll=unroll, rngs=rngs)))
        total = lambda state, x: nnx.merge(definition, state)(x)[0].sum()  # noqa: E731
        return jax.jit(jax.grad(total)).lower(state, vectors(B, T, D)).as_text().count("optimization_barrier")

    assert barriers("none", N) == barriers("full", 1) == 0  # in a loop it cannot
    assert barriers("full", 2) > 0
    assert barriers("full", N) > 0


# Positions.


def test_a_memory_has_no_order_of_its_own_where_positions_are_rotations():
    config = TransformerConfig(width=D, feedforward_width=F, num_heads=H, norm_position="pre", dropout_rate=0.0)
    given = {"sees": Sees(), "encoding": RotaryPositions()}
    stack = filled(lambda rngs: transformer.make_stack(config, 1, has_memory=True, rngs=rngs))
    x, memory, order = vectors(B, T, D), vectors(B, S, D, seed=1), np.array([3, 1, 6, 4, 0, 2, 5])
    found, reordered = (
        np.asarray(run(stack, x, **given, memory=Memory(states, Sees()))) for states in (memory, memory[:, order])
    )
    np.testing.assert_allclose(reordered, found, atol=1e-5)
    turned = np.asarray(run(stack, x[:, ::-1], **given, memory=Memory(memory, Sees())))[:, ::-1]
    assert np.abs(turned - found).max() > 0.001  # its own sequence has one


@pytest.mark.parametrize("scaled", [False, True])
def test_explicit_positions_may_be_beyond_the_number_of_tokens(scaled):
    config = TransformerConfig(width=D, num_heads=H, max_length=40, scaled_embeddings=scaled)
    positions, x = np.array([[0, 1, 2, 17, 39], [38, 5, 5, 0, 6]]), vectors(B, T, D)
    encoding = SinusoidalPositions(config.max_length)
    place = jax.jit(lambda x, positions=None: transformer.embed(config, x, encoding, positions=positions))
    placed = place(x, positions)
    expected = x * (D**0.5 if scaled else 1) + np.asarray(sinusoidal(40, D))[positions]
    np.testing.assert_allclose(placed, expected, atol=1e-5)
    np.testing.assert_allclose(place(x), place(x, np.arange(T)[None]), atol=1e-6)
