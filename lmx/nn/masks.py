"""Attention masks: who may look at whom.

A mask is boolean and broadcasts to `[B, H, T, S]`; True means "may look". A *segment* is a positive integer that
names the sentence a token belongs to; 0 is padding. An unpacked batch is the special case of one segment a row.
Nothing here knows a model or a parameter; masks combine with `&`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def segments_of(tokens: Int[Array, "B S"], *, pad_id: int) -> Int[Array, "B S"]:
    """Returns segment 1 for every token that is not padding, 0 for padding."""
    return (tokens != pad_id).astype(jnp.int32)


def padding(segments: Int[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """Lets every query look at every key that is not padding."""
    return (segments > 0)[:, None, None, :]


def same_segment(query_segments: Int[Array, "B T"], key_segments: Int[Array, "B S"]) -> Bool[Array, "B 1 T S"]:
    """Lets a query look at keys of its own segment only (packed rows); padding is looked at by nobody."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments > 0)[:, None, :])[:, None]


def causal(length: int) -> Bool[Array, "1 1 T T"]:
    """Lets a position look at itself and at the past."""
    positions = jnp.arange(length)
    return (positions[:, None] >= positions[None, :])[None, None]


def window(length: int, *, size: int) -> Bool[Array, "1 1 T T"]:
    """Lets a position look at the `size` positions nearest on either side, itself included (size 1: itself alone).

    Raises:
        ValueError: size is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 (a position sees itself), got size={size}.")
    positions = jnp.arange(length)
    return (jnp.abs(positions[:, None] - positions[None, :]) < size)[None, None]
