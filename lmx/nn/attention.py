"""Multi-head attention, and the keys and values that decoding keeps.

What may be seen, and with which bias, comes as a structure (`lmx.nn.masks.Sees`); which kernel attends is
`lmx.nn.kernels`'s; how queries and keys turn with their positions, the caller says (`Rotate`). Keys and values that are
kept between calls (`KeyValues`) are plain arrays that the caller passes in and gets back.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.nn.kernels import EVERYTHING, PLAIN, KernelName, Scores, attend, attention_weights, capped, scaled
from lmx.nn.layers import Linear, RMSNorm
from lmx.nn.masks import MASKED, Sees
from lmx.sharding.products import joint_product, weight_product
from lmx.sharding.step import constrain, parts

# Turns queries or keys [B, T, H, K] by their positions.
Rotate = Callable[[jax.Array], jax.Array]


class KeyValues(NamedTuple):
    """Keys and values of one attention layer, as kept between decoding steps."""

    key: Float[Array, "B S G K"]
    value: Float[Array, "B S G K"]


class CachedKeyValues(NamedTuple):
    """Keys and values as decoding keeps them: laid out as matrix products read them, so that no step transposes."""

    key: Float[Array, "B G K S"]
    value: Float[Array, "B G S K"]

    @classmethod
    def of(cls, keys_values: KeyValues) -> "CachedKeyValues":
        """Returns keys and values laid out for the cache."""
        key, value = keys_values
        return cls(key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3))._laid_out()

    def with_room(self, slots: int) -> "CachedKeyValues":
        """Returns the cache with `slots` slots, the new ones after the existing ones."""
        more = slots - self.value.shape[2]
        key = jnp.pad(self.key, ((0, 0), (0, 0), (0, 0), (0, more)))
        return CachedKeyValues(key, jnp.pad(self.value, ((0, 0), (0, 0), (0, more), (0, 0))))._laid_out()

    def write(self, new: KeyValues, *, offset: Int[Array, ""]) -> "CachedKeyValues":
        """Returns the cache with new keys and values in the slots that begin at `offset`."""
        key, value = CachedKeyValues.of(new)
        return CachedKeyValues(
            jax.lax.dynamic_update_slice_in_dim(self.key, key, offset, axis=3),
            jax.lax.dynamic_update_slice_in_dim(self.value, value, offset, axis=2),
        )._laid_out()

    def _laid_out(self) -> "CachedKeyValues":
        axes = ("batch", "kv_heads", None, None)
        return CachedKeyValues(constrain(self.key, *axes), constrain(self.value, *axes))


def attend_cached(
    query: Float[Array, "B T H K"],
    cached: CachedKeyValues,
    *,
    mask: Bool[Array, "#B #H #T S"] | None = None,
    bias: Float[Array, "#B #H T S"] | None = None,
    scores: Scores = PLAIN,
) -> Float[Array, "B T H K"]:
    """Returns what `attend` does, for few queries over a cache; always by XLA's kernel.

    With few queries the time goes into reading the cache. In this layout both products read it in place; on a CPU
    `attend` would transpose it first, at six times the cost.
    """
    batch, target, heads, width = query.shape
    groups, slots = cached.value.shape[1:3]
    batched = (0, 1), (0, 1)
    grouped = scaled(query, scores).reshape(batch, target, groups, heads // groups, width)
    grouped = grouped.transpose(0, 2, 3, 1, 4).reshape(batch, groups, heads // groups * target, width)
    products = jax.lax.dot_general(grouped, cached.key, (((3,), (2,)), batched), preferred_element_type=jnp.float32)
    found = capped(products.reshape(batch, heads, target, slots), scores.cap)
    if bias is not None:
        found = found + bias.astype(jnp.float32)
    if mask is not None:
        found = jnp.where(mask, found, MASKED)
    weights = jax.nn.softmax(found, axis=-1).astype(cached.value.dtype).reshape(batch, groups, -1, slots)
    attended = jax.lax.dot_general(weights, cached.value, (((3,), (2,)), batched))
    return attended.reshape(batch, heads, target, width).swapaxes(1, 2)


def share(memory: Float[Array, "B S D"]) -> Float[Array, "*P B S D"]:
    """Returns a sequence that many layers attend to with a copy for each of the P parts that heads are split into.

    Each layer's gradient by the memory is a sum over these parts. With a copy for each, the layers' gradients are
    added up where they arise, and the parts are summed once for all layers. Where heads are not split, it is returned
    as it is.
    """
    copies = parts("kv_heads")
    if copies == 1:
        return memory
    shared = jnp.broadcast_to(memory, (copies, *memory.shape))
    return constrain(shared, "kv_heads", "batch", "length", "embed")


class AttentionForm(NamedTuple):
    """What attention has beside its width and its number of heads; the defaults are Vaswani's.

    Attributes:
        num_kv_heads: heads of the keys and values; each serves num_heads / num_kv_heads query heads
            (Ainslie et al. 2023). None means num_heads.
        use_bias: of the map out of the heads, and of those into them.
        qkv_bias: of the maps into the heads alone (Qwen2: Yang et al. 2024, section 2.2).
        head_width: None means width / num_heads.
        norm_epsilon: of a norm of each head's queries and keys, before they turn with their positions; None has no such
            norm. Source: Dehghani et al. 2023, section 2.1; by RMSNorm, as Qwen3 has it.
        dropout_rate: on the attention weights.
    """

    num_kv_heads: int | None = None
    head_width: int | None = None
    norm_epsilon: float | None = None
    use_bias: bool = True
    qkv_bias: bool = False
    scores: Scores = PLAIN
    dropout_rate: float = 0.0
    kernel: KernelName = "auto"


class MultiHeadAttention(nnx.Module):
    """Attention with a learned map into each head and one map out (Vaswani et al. 2017, section 3.2.2).

    Where scores have a scale of their own, queries are drawn the smaller, with deviation 1 / (scale sqrt(D K)): scores
    begin as large as others do. With a scale of 1 it is T5's (mesh-tensorflow's `attention_params`).

    Raises:
        ValueError: width does not divide into the heads, or the heads into the key heads.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        form: AttentionForm = AttentionForm(),  # noqa: B008, it cannot be changed
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        num_kv_heads = num_heads if form.num_kv_heads is None else form.num_kv_heads
        if form.head_width is None and width % num_heads:
            raise ValueError(
                f"width must be divisible by num_heads, got width={width} and num_heads={num_heads}. "
                "Otherwise say head_width."
            )
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads, "
                f"got num_heads={num_heads} and num_kv_heads={num_kv_heads}."
            )
        head_width = width // num_heads if form.head_width is None else form.head_width
        heads, kv_heads = (num_heads, head_width), (num_kv_heads, head_width)
        into, into_kv = ("embed", "heads", None), ("embed", "kv_heads", None)
        scale = form.scores.scale
        deviation = None if scale is None else (width * head_width) ** -0.5 / scale
        linear = functools.partial(Linear, use_bias=form.use_bias or form.qkv_bias, dtype=dtype, rngs=rngs)
        self.query = linear((width,), heads, axes=into, deviation=deviation)
        self.key = linear((width,), kv_heads, axes=into_kv)
        self.value = linear((width,), kv_heads, axes=into_kv)
        out_axes = ("heads", None, "embed")
        self.out = Linear(heads, (width,), axes=out_axes, use_bias=form.use_bias, dtype=dtype, rngs=rngs)
        epsilon = form.norm_epsilon
        self.query_norm = None if epsilon is None else RMSNorm(head_width, epsilon=epsilon)
        self.key_norm = None if epsilon is None else RMSNorm(head_width, epsilon=epsilon)
        self.scores, self.dropout_rate = form.scores, form.dropout_rate
        self.kernel: KernelName = form.kernel

    def queries(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        """Maps x to the queries of each head."""
        return self._lay_out_queries(self.query(x), None)

    def keys_values(self, x: Float[Array, "*P B S D"]) -> KeyValues:
        """Maps x to keys and values: what decoding keeps of it. Over a split sequence, each device gets all of them.

        Args:
            x: a sequence, or the copies of it that `share` makes.
        """
        maps = self._maps if x.ndim == 3 else self._maps_of_copies
        key, value = maps(x, self.key, self.value)
        return self._lay_out_keys_values(key, value, None)

    def project(
        self, x: Float[Array, "B T D"], *, rotate: Rotate | None = None
    ) -> tuple[Float[Array, "B T H K"], KeyValues]:
        """Maps x to its queries and its keys and values: what a sequence needs to attend to itself.

        Args:
            rotate: turns queries and keys by their positions.
        """
        query, key, value = self._maps(x, self.query, self.key, self.value)
        return self._lay_out_queries(query, rotate), self._lay_out_keys_values(key, value, rotate)

    def __call__(
        self,
        queries: Float[Array, "B T H K"],
        keys_values: KeyValues,
        *,
        sees: Sees = EVERYTHING,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attends with queries to keys and values, of the same or of another sequence, and maps the heads out."""
        attended = attend(
            queries,
            *keys_values,
            sees=sees,
            scores=self.scores,
            kernel=self.kernel,
            dropout_rate=self.dropout_rate,
            dropout_key=key,
        )
        return self.out(attended)

    def weights(
        self, queries: Float[Array, "B T H K"], key: Float[Array, "B S G K"], *, sees: Sees = EVERYTHING
    ) -> Float[Array, "B H T S"]:
        """Returns how much each query takes of each key, as a call weighs them."""
        return attention_weights(queries, key, sees=sees, scores=self.scores)

    def attend_cached(
        self,
        queries: Float[Array, "B T H K"],
        cached: CachedKeyValues,
        *,
        mask: Bool[Array, "#B #H #T S"] | None = None,
        bias: Float[Array, "#B #H T S"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attends to keys and values kept by decoding; what a call does, without dropout."""
        return self.out(attend_cached(queries, cached, mask=mask, bias=bias, scores=self.scores))

    def _maps(self, x: jax.Array, *linears: Linear) -> list[jax.Array]:
        if parts("kv_heads") == 1:
            return [linear(x) for linear in linears]
        # As one product, in which each device has its key heads and the query heads that read them.
        width, groups, _ = self.key.weight.shape
        weights = [linear.weight[...].reshape(width, groups, -1) for linear in linears]
        products = joint_product(x, weights, axes=("embed", "kv_heads", None), axis=2, dtype=self.key.dtype)
        shapes = [(*x.shape[:-1], *linear.weight.shape[1:]) for linear in linears]
        return [linear.shift(y.reshape(s)) for linear, y, s in zip(linears, products, shapes, strict=True)]

    def _maps_of_copies(self, x: jax.Array, *linears: Linear) -> list[jax.Array]:
        """Maps [P, B, S, D] to [B, S, G, K] of each map: each copy gives the part of the heads that its device has."""
        copies, (width, groups, head_width) = x.shape[0], self.key.weight.shape

        def product(linear: Linear) -> jax.Array:
            weight = linear.weight[...].reshape(width, copies, groups // copies, head_width)
            axes = ("embed", "kv_heads", None, None)
            y = weight_product("pbsd,dpgk->bspgk", x, weight, axes=axes, dtype=linear.dtype)
            return linear.shift(y.reshape(*y.shape[:2], groups, head_width))

        return [product(linear) for linear in linears]

    def _lay_out_queries(self, query: jax.Array, rotate: Rotate | None) -> jax.Array:
        query = query if self.query_norm is None else self.query_norm(query)
        return constrain(query if rotate is None else rotate(query), "batch", "length", "heads", None)

    def _lay_out_keys_values(self, key: jax.Array, value: jax.Array, rotate: Rotate | None) -> KeyValues:
        whole = ("batch", None, "kv_heads", None)
        key = key if self.key_norm is None else self.key_norm(key)
        return KeyValues(constrain(key if rotate is None else rotate(key), *whole), constrain(value, *whole))
