"""Who may look at whom: the structure `Sees`, and the boolean masks that it stands for.

A mask is boolean and broadcasts to `[B, H, T, S]`; True means "may look". A *segment* is a positive integer that
names the sentence a token belongs to; 0 is padding. An unpacked batch is the special case of one segment a row.
Nothing here knows a model, a parameter or a kernel; masks combine with `&`.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The places of some queries in their row, None for all -> what is added to their scores, [#B, #H, T, S].
MakeBias = Callable[[jax.Array | None], jax.Array | None]

# What masks put in the place of scores and logits. Finite: a row that may see nothing averages instead of giving NaN.
MASKED = -1e30


@jax.tree_util.register_pytree_node_class
class Sees:
    """What each query may look at, and with which bias: a structure, from which a kernel takes what it understands.

    All that is given must hold. Nothing given lets every query look at every key. Positions are counted from the first
    query and the first key, so that query t and key t stand at the same place.

    Args:
        causal: a query sees its own place and those before it.
        key_lengths: [B]; the number of keys of each row, which are at its front.
        segments: of the queries [B, T] and of the keys [B, S]; each query sees its own segment, and nobody padding (0).
        prefix: [B, S], True on keys that all queries see, those before them too: of a causal row, the part that is
            given and not predicted.
        window: a query sees the places nearer than this on either side, its own included; 1 is itself alone.
        bias: [#B, #H, T, S], added to the scores; or what makes it of some queries, where it should never be whole.

    Raises:
        ValueError: the window is below 1.
    """

    __slots__ = ("bias", "causal", "key_lengths", "prefix", "segments", "window")

    def __init__(
        self,
        *,
        causal: bool = False,
        key_lengths: Int[Array, " B"] | Any | None = None,
        segments: tuple[Int[Array, "B T"] | Any, Int[Array, "B S"] | Any] | None = None,
        prefix: Bool[Array, "B S"] | Any | None = None,
        window: int | None = None,
        bias: Float[Array, "#B #H T S"] | MakeBias | Any | None = None,
    ):
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 (a position sees itself), got window={window}.")
        self.causal, self.key_lengths, self.segments, self.window = causal, key_lengths, segments, window
        self.prefix = prefix
        self.bias: Any = bias

    def __repr__(self) -> str:
        parts = ((name, getattr(self, name)) for name in self.__slots__)
        given = {name: value for name, value in parts if value is not None and value is not False}
        return f"Sees({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def tree_flatten(self) -> tuple[tuple[Any, Any, Any, Any], tuple[bool, int | None]]:
        """Returns the arrays, and what is no array: a program is compiled for it."""
        return (self.key_lengths, self.segments, self.prefix, self.bias), (self.causal, self.window)

    @classmethod
    def tree_unflatten(cls, fixed: tuple[bool, int | None], arrays: tuple[Any, Any, Any, Any]) -> "Sees":
        """Returns the structure of these parts."""
        made = object.__new__(cls)
        made.causal, made.window = fixed
        made.key_lengths, made.segments, made.prefix, made.bias = arrays
        return made

    def with_bias(self, bias: Float[Array, "#B #H T S"] | MakeBias | Any | None) -> "Sees":
        """Returns the same structure with another bias."""
        return self.replace(bias=bias)

    def within(self, window: int | None) -> "Sees":
        """Returns the same structure in which no query sees farther than a window; None leaves it as it is."""
        if window is None:
            return self
        narrower = window if self.window is None else min(window, self.window)
        return self.replace(window=narrower)

    def replace(self, **changes: Any) -> "Sees":
        """Returns the same structure with other values of some fields."""
        return Sees(**{name: getattr(self, name) for name in self.__slots__} | changes)

    def of_first_keys(self, number: int) -> "Sees":
        """Returns the structure for the first keys alone; there must be neither a prefix nor a bias."""
        if self.segments is None:
            return self
        of_queries, of_keys = self.segments
        return self.replace(segments=(of_queries, of_keys[:, :number]))

    def bias_of(self, rows: Int[Array, " T"] | None = None) -> Float[Array, "#B #H T S"] | None:
        """Returns what is added to the scores, or None.

        Args:
            rows: the places of the queries, where they are some of all.
        """
        if callable(self.bias):
            return cast(MakeBias, self.bias)(rows)
        return self.bias if self.bias is None or rows is None else self.bias[:, :, rows]

    def mask(
        self, num_queries: int, num_keys: int, *, rows: Int[Array, " T"] | None = None
    ) -> Bool[Array, "#B 1 #T S"] | None:
        """Returns the mask that this structure stands for, or None where everything may be seen.

        Args:
            rows: the places of the queries, where they are some of all; None means from the first to num_queries.
        """
        masks = []
        queries = jnp.arange(num_queries) if rows is None else rows
        if self.causal or self.window is not None:
            distance = (queries[:, None] - jnp.arange(num_keys)[None, :])[None, None]
            if self.causal:
                before = distance >= 0
                masks.append(before if self.prefix is None else before | self.prefix[:, None, None, :])
            if self.window is not None:
                masks.append(jnp.abs(distance) < self.window)
        if self.key_lengths is not None:
            masks.append((jnp.arange(num_keys) < self.key_lengths[:, None])[:, None, None, :])
        if self.segments is not None:
            of_queries, of_keys = self.segments
            masks.append(same_segment(of_queries if rows is None else of_queries[:, rows], of_keys))
        if not masks:
            return None
        together = masks[0]
        for mask in masks[1:]:
            together = together & mask
        return together


def lengths_of(tokens: Int[Array, "B S"], *, pad_id: int) -> Int[Array, " B"]:
    """Returns how many tokens each row has up to its last that is not padding."""
    return jnp.max(jnp.where(tokens != pad_id, jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32), 0), axis=1)


def segments_of(tokens: Int[Array, "B S"], *, pad_id: int) -> Int[Array, "B S"]:
    """Returns segment 1 for every token that is not padding, 0 for padding: also for padding between words."""
    return (tokens != pad_id).astype(jnp.int32)


def same_segment(query_segments: Int[Array, "B T"], key_segments: Int[Array, "B S"]) -> Bool[Array, "B 1 T S"]:
    """Lets a query look at keys of its own segment only (packed rows); padding is looked at by nobody."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments > 0)[:, None, :])[:, None]
