"""Transformer blocks and the stack that runs them.

A block is self-attention, optionally attention to a memory, and a feed-forward network, each with its norm and
residual. A stack holds the parameters of N equal blocks in arrays with a leading axis "layers" and runs them by one
scan: compile time does not grow with depth, and a checkpoint does not depend on how far the scan is unrolled.
Embeddings and output layers belong to the models.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.nn.attention import CachedKeyValues, KeyValues, MultiHeadAttention
from lmx.nn.layers import dropout
from lmx.sharding import constrain

NormPosition = Literal["pre", "post"]
Norm = Callable[[jax.Array], jax.Array]


class Memory(NamedTuple):
    """What a decoder looks at: the encoded source, and which of it may be seen."""

    states: Float[Array, "B S D"]
    mask: Bool[Array, "#B 1 #T S"]


class BlockCache(NamedTuple):
    """What decoding keeps of one block: its own past, and the memory mapped to keys and values (None without one)."""

    past: CachedKeyValues
    memory: CachedKeyValues | None


class Block(nnx.Module):
    """One layer of an encoder or of a decoder.

    Args:
        attention, memory_attention, feedforward: the sublayers; memory_attention None makes an encoder's block, or that
            of a decoder alone.
        make_norm: builds one norm.
        norm_position: "post" is Vaswani et al. 2017, norm(x + f(x)); "pre" is x + f(norm(x)) (Xiong et al. 2020).
        dropout_rate: on each sublayer's output, before it is added (Vaswani et al. 2017, section 5.4).
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        feedforward: nnx.Module,
        *,
        memory_attention: MultiHeadAttention | None = None,
        make_norm: Callable[[], nnx.Module],
        norm_position: NormPosition,
        dropout_rate: float,
    ):
        self.attention = attention
        self.attention_norm = make_norm()
        self.memory_attention = memory_attention
        self.memory_norm = make_norm() if memory_attention is not None else None
        self.feedforward = feedforward
        self.feedforward_norm = make_norm()
        self.norm_position = norm_position
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "#B #H #T T"] | None,
        memory: Memory | None = None,
        positions: Int[Array, "#B T"] | None = None,
        bias: Float[Array, "#B #H T T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the block's output, and its attention maps by name when asked ("self", "memory")."""
        keys = _split(key, 6)
        maps: dict[str, jax.Array] = {}

        def attend_self(y: jax.Array) -> jax.Array:
            past = self.attention.keys_values(y, positions=positions)
            if with_attention:
                maps["self"] = self.attention.weights(y, past, mask=mask, bias=bias, positions=positions)
            return self.attention(y, past, mask=mask, bias=bias, positions=positions, key=keys[0])

        def attend_memory(y: jax.Array) -> jax.Array:
            keys_values = self.memory_attention.keys_values(memory.states, positions=None)
            if with_attention:
                maps["memory"] = self.memory_attention.weights(y, keys_values, mask=memory.mask)
            return self.memory_attention(y, keys_values, mask=memory.mask, key=keys[2])

        x = self._sublayer(x, attend_self, self.attention_norm, key=keys[1])
        if self.memory_attention is not None:
            x = self._sublayer(x, attend_memory, self.memory_norm, key=keys[3])
        x = self._sublayer(x, lambda y: self.feedforward(y, key=keys[4]), self.feedforward_norm, key=keys[5])
        return constrain(x, "batch", "length", "embed"), maps

    def start_cache(self, memory: Memory | None, *, batch: int, slots: int) -> BlockCache:
        """Returns a cache with room for `slots` positions, with the memory already mapped."""
        attention = self.attention
        _, groups, head_width = attention.key.weight.shape
        empty = jnp.zeros((batch, slots, groups, head_width), attention.key.dtype)
        mapped = None
        if memory is not None:
            mapped = CachedKeyValues.of(self.memory_attention.keys_values(memory.states, positions=None))
        return BlockCache(CachedKeyValues.of(KeyValues(empty, empty)), mapped)

    def extend(
        self,
        x: Float[Array, "B T D"],
        cache: BlockCache,
        *,
        offset: Int[Array, ""],
        mask: Bool[Array, "#B #H #T S"],
        memory_mask: Bool[Array, "#B 1 #T M"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], BlockCache]:
        """Runs T new positions that look at the cached ones: writes their keys and values at `offset`, then attends.

        Which slots a position sees is the mask's business alone, so that the T positions may be the next words of one
        sentence or the heads of T beams.
        """
        past = cache.past

        def attend_self(y: jax.Array) -> jax.Array:
            nonlocal past
            past = past.write(self.attention.keys_values(y, positions=positions), offset=offset)
            return self.attention.attend_cached(y, past, mask=mask, positions=positions)

        def attend_memory(y: jax.Array) -> jax.Array:
            return self.memory_attention.attend_cached(y, cache.memory, mask=memory_mask)

        x = self._sublayer(x, attend_self, self.attention_norm, key=None)
        if self.memory_attention is not None:
            x = self._sublayer(x, attend_memory, self.memory_norm, key=None)
        x = self._sublayer(x, self.feedforward, self.feedforward_norm, key=None)
        return x, BlockCache(past, cache.memory)

    def _sublayer(self, x: jax.Array, function: Callable, norm: Norm, *, key: jax.Array | None) -> jax.Array:
        if self.norm_position == "pre":
            return x + dropout(function(norm(x)), self.dropout_rate, key)
        return norm(x + dropout(function(x), self.dropout_rate, key))


class Stack(nnx.Module):
    """N equal blocks, their parameters stacked on a leading axis "layers", run by one scan.

    Args:
        make_block: builds one block from its own random streams.
        final_norm: applied after the last block; pre-norm stacks need it.
        unroll: how many layers one turn of the scan holds; num_layers unrolls all of it. The results are the same.

    Raises:
        ValueError: num_layers is below 1.
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], Block],
        num_layers: int,
        *,
        final_norm: nnx.Module | None = None,
        unroll: int = 1,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got num_layers={num_layers}.")
        definition, _ = nnx.split(nnx.eval_shape(lambda: make_block(nnx.Rngs(0))))
        keys = jax.random.split(rngs.params(), num_layers)
        state = jax.vmap(lambda key: nnx.state(make_block(nnx.Rngs(params=key))))(keys)
        for _, param in nnx.to_flat_state(state):
            param.set_metadata(axes=("layers", *param.get_metadata("axes")))
        self.blocks = nnx.merge(definition, state)
        self.final_norm = final_norm
        self.num_layers = num_layers
        self.unroll = unroll

    def __call__(
        self, x: Float[Array, "B T D"], *, key: Key[Array, ""] | None = None, **inputs
    ) -> tuple[Float[Array, "B T D"], dict[str, Float[Array, "N B H T _"]]]:
        """Runs all blocks on x with the same `inputs` (see `Block.__call__`); attention maps come stacked by layer."""
        definition, state = nnx.split(self.blocks)
        keys = None if key is None else jax.random.split(key, self.num_layers)

        def run(x: jax.Array, layer: tuple) -> tuple:
            block_state, block_key = layer
            return nnx.merge(definition, block_state)(x, key=block_key, **inputs)

        x, maps = jax.lax.scan(run, x, (state, keys), unroll=min(self.unroll, self.num_layers))
        return self._finish(x), maps

    def unstack(self) -> list[Block]:
        """Returns the blocks one by one, as decoding uses them: each keeps a cache of its own."""
        definition, state = nnx.split(self.blocks)

        def layer(index: int) -> Block:
            return nnx.merge(definition, jax.tree.map(lambda leaf: leaf[index], state))

        return [layer(index) for index in range(self.num_layers)]

    def _finish(self, x: jax.Array) -> jax.Array:
        return x if self.final_norm is None else self.final_norm(x)

    def extend(
        self, blocks: list[Block], x: Float[Array, "B T D"], caches: list[BlockCache], **inputs
    ) -> tuple[Float[Array, "B T D"], list[BlockCache]]:
        """Runs T new positions through unstacked blocks (see `Block.extend`)."""
        extended = []
        for block, cache in zip(blocks, caches, strict=True):
            x, cache = block.extend(x, cache, **inputs)
            extended.append(cache)
        return self._finish(x), extended


def _split(key: jax.Array | None, number: int) -> list[jax.Array | None]:
    return [None] * number if key is None else list(jax.random.split(key, number))
