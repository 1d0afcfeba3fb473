"""Transformer blocks, the stack that runs them, and the choices that all models share.

A block is self-attention, optionally attention to a memory, and a feed-forward network, each with its norm and
residual. A stack holds the parameters of N equal blocks in arrays with a leading axis "layers" and runs them by one
scan: compile time does not grow with depth, and a checkpoint does not depend on how far the scan is unrolled.
`make_stack` and `embed` build from a `TransformerConfig`; tables and output layers belong to the models.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.nn.attention import AttentionForm, CachedKeyValues, KeyValues, MultiHeadAttention, Rotate
from lmx.nn.config import NormPosition, TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.feedforward import Activation, FeedForward, GatedFeedForward
from lmx.nn.kernels import Scores
from lmx.nn.layers import LayerNorm, RMSNorm
from lmx.nn.masks import Sees
from lmx.nn.positions.encoding import PositionalEncoding
from lmx.nn.stack import Stack
from lmx.sharding.step import constrain

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "gelu-exact": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
}


class Memory(NamedTuple):
    """What a decoder looks at: the encoded source (or copies, see `attention.share`), and what of it may be seen."""

    states: Float[Array, "*P B S D"]
    sees: Sees


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
        sees: Sees,
        memory: Memory | None = None,
        rotate: Rotate | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
        with_past: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the block's output, and by name what is asked for: attention maps ("self", "memory"), "key", "value".

        Args:
            rotate: turns queries and keys of self-attention by their positions.
            with_past: asks for keys and values of self-attention, which decoding keeps.

        Raises:
            ValueError: the block attends to a memory, and none is given.
        """
        keys = _split(key, 6)
        maps: dict[str, jax.Array] = {}

        def attend_self(y: jax.Array) -> jax.Array:
            queries, past = self.attention.project(y, rotate=rotate)
            if with_past:
                maps.update(past._asdict())
            if with_attention:
                maps["self"] = self.attention.weights(queries, past.key, sees=sees)
            return self.attention(queries, past, sees=sees, key=keys[0])

        def attend_memory(y: jax.Array, attention: MultiHeadAttention, memory: Memory) -> jax.Array:
            queries, keys_values = attention.queries(y), attention.keys_values(memory.states)
            if with_attention:
                maps["memory"] = attention.weights(queries, keys_values.key, sees=memory.sees)
            return attention(queries, keys_values, sees=memory.sees, key=keys[2])

        with jax.named_scope("attention"):
            x = self._sublayer(x, attend_self, self.attention_norm, key=keys[1])
        if (attention := self.memory_attention) is not None:
            if memory is None:
                raise ValueError("memory must be given to a block that attends to one, got memory=None.")
            with jax.named_scope("memory_attention"):
                x = self._sublayer(x, lambda y: attend_memory(y, attention, memory), self.memory_norm, key=keys[3])
        with jax.named_scope("feedforward"):
            x = self._sublayer(x, lambda y: self.feedforward(y, key=keys[4]), self.feedforward_norm, key=keys[5])
        return x, maps

    def start_cache(self, memory: Memory | None, *, batch: int, slots: int) -> BlockCache:
        """Returns a cache with room for `slots` positions, with the memory already mapped."""
        attention = self.attention
        _, groups, head_width = attention.key.weight.shape
        empty = jnp.zeros((batch, slots, groups, head_width), attention.key.dtype)
        mapped = None
        if memory is not None and self.memory_attention is not None:
            mapped = CachedKeyValues.of(self.memory_attention.keys_values(memory.states))
        return BlockCache(CachedKeyValues.of(KeyValues(empty, empty)), mapped)

    def extend(
        self,
        x: Float[Array, "B T D"],
        cache: BlockCache,
        *,
        offset: Int[Array, ""],
        mask: Bool[Array, "#B #H #T S"],
        memory_mask: Bool[Array, "#B 1 #T M"] | None = None,
        bias: Float[Array, "#B #H T S"] | None = None,
        rotate: Rotate | None = None,
    ) -> tuple[Float[Array, "B T D"], BlockCache]:
        """Runs T new positions that look at the cached ones: writes their keys and values at `offset`, then attends.

        Which slots a position sees is the mask's business alone, so that the T positions may be the next words of one
        sentence or the heads of T beams.
        """
        past = cache.past

        def attend_self(y: jax.Array) -> jax.Array:
            nonlocal past
            queries, new = self.attention.project(y, rotate=rotate)
            past = past.write(new, offset=offset)
            return self.attention.attend_cached(queries, past, mask=mask, bias=bias)

        def attend_memory(y: jax.Array, attention: MultiHeadAttention, cached: CachedKeyValues) -> jax.Array:
            return attention.attend_cached(attention.queries(y), cached, mask=memory_mask)

        x = self._sublayer(x, attend_self, self.attention_norm, key=None)
        if (attention := self.memory_attention) is not None and (cached := cache.memory) is not None:
            x = self._sublayer(x, lambda y: attend_memory(y, attention, cached), self.memory_norm, key=None)
        x = self._sublayer(x, self.feedforward, self.feedforward_norm, key=None)
        return x, BlockCache(past, cache.memory)

    def _sublayer(self, x: jax.Array, function: Callable, norm: Any, *, key: jax.Array | None) -> jax.Array:
        if self.norm_position == "pre":
            return x + dropout(_laid_out(function(norm(x))), self.dropout_rate, key)
        return norm(x + dropout(_laid_out(function(x)), self.dropout_rate, key))


def _laid_out(x: jax.Array) -> jax.Array:
    return constrain(x, "batch", "length", "embed")


def activation_of(config: TransformerConfig) -> Activation:
    """Returns the function of the activation that the config names; of a gated one, the gate's."""
    return ACTIVATIONS[config.activation.removeprefix("gated-")]


def make_norm(config: TransformerConfig) -> nnx.Module:
    """Returns one norm of the kind the config names."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.width) if config.norm_epsilon is None else kind(config.width, epsilon=config.norm_epsilon)


def make_stack(config: TransformerConfig, num_layers: int, *, has_memory: bool = False, rngs: nnx.Rngs) -> Stack:
    """Builds a stack of the blocks the config names; with `has_memory` each attends to a memory too."""
    dtype = jnp.dtype(config.dtype)
    epsilon = RMSNorm.EPSILON if config.norm_epsilon is None else config.norm_epsilon
    form = AttentionForm(
        num_kv_heads=config.num_kv_heads,
        head_width=config.head_width,
        norm_epsilon=epsilon if config.qk_norm else None,
        use_bias=config.use_bias,
        qkv_bias=config.qkv_bias,
        scores=Scores(scale=config.attention_scale, cap=config.score_cap),
        dropout_rate=config.attention_dropout_rate,
        kernel=config.kernel,
    )

    def attention(rngs: nnx.Rngs) -> MultiHeadAttention:
        return MultiHeadAttention(config.width, config.num_heads, form, dtype=dtype, rngs=rngs)

    def make_block(rngs: nnx.Rngs) -> Block:
        kind = GatedFeedForward if config.is_gated else FeedForward
        return Block(
            attention(rngs),
            kind(
                config.width,
                config.feedforward_width,
                activation=activation_of(config),
                dropout_rate=config.feedforward_dropout_rate,
                use_bias=config.use_bias,
                dtype=dtype,
                rngs=rngs,
            ),
            memory_attention=attention(rngs) if has_memory else None,
            make_norm=lambda: make_norm(config),
            norm_position=config.norm_position,
            dropout_rate=config.dropout_rate,
        )

    final_norm = make_norm(config) if config.norm_position == "pre" else None
    return Stack(
        make_block,
        num_layers,
        final_norm=final_norm,
        remat=config.remat,
        unroll=config.unroll,
        window=config.window,
        rngs=rngs,
    )


def embed(
    config: TransformerConfig,
    x: Float[Array, "B T D"],
    encoding: PositionalEncoding,
    *,
    positions: Int[Array, "#B T"] | None = None,
) -> Float[Array, "B T D"]:
    """Returns the vectors of tokens, scaled where the config scales them, with their positions added; before dropout.

    Raises:
        ValueError: the tokens are more than the encoding has positions for.
    """
    if config.scaled_embeddings:
        x = x * config.width**0.5
    return _laid_out(encoding.add(x, positions))


def _split(key: jax.Array | None, number: int) -> list[jax.Array | None]:
    return [None] * number if key is None else list(jax.random.split(key, number))
