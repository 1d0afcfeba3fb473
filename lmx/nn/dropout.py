"""Dropout, whose mask is a function of a key and of the element's place: the same on any mesh, whole or in blocks.

Nothing here holds a key or a counter: what is random takes its key as an argument, and None means "not random".
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt


class Places(NamedTuple):
    """Where a part of a larger array lies along an axis: which of its places these are, and how many it has."""

    axis: int
    places: Int[Array, " T"]
    size: int


def hash_bits(key: Key[Array, ""], shape: Sequence[int], *, part_of: Sequence[Places] = ()) -> UInt[Array, "..."]:
    """Returns 32 random bits for each element: a hash of the key and of the element's place.

    A multiply-xorshift finalizer over a counter is a few vector instructions, about a twentieth of threefry's cost on a
    CPU, and as every element depends only on its own place the bits are the same on any mesh. Good enough for dropout,
    not for initialisation or sampling. Places repeat beyond 2^32 elements.

    A key of another kind than threefry has more words than two (`rbg` has four): all of them count.

    Args:
        part_of: for a part of a larger array, which gets the bits that it would have there.
    """
    low, high = _two_words(key)
    parts = {part.axis: part for part in part_of}
    place = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        places, size = jax.lax.broadcasted_iota(jnp.uint32, shape, axis), shape[axis]
        if axis in parts:
            others = [other for other in range(len(shape)) if other != axis]
            places, size = jnp.expand_dims(parts[axis].places.astype(jnp.uint32), others), parts[axis].size
        place += places * jnp.uint32(stride % 2**32)
        stride *= size
    bits = (place ^ low) * jnp.uint32(0x9E3779B9) + high
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def _two_words(key: Key[Array, ""]) -> tuple[jax.Array, jax.Array]:
    """Returns what a key is made of as two words: a key of two as it is, of more by mixing the others in."""
    low, high, *others = jax.random.key_data(key).astype(jnp.uint32)
    for word in others:  # both halves of an rbg key are often the same: they must not cancel
        low, high = high, (low ^ (low >> 16)) * jnp.uint32(0x85EBCA6B) + word
    return low, high


def dropout(
    x: Float[Array, "..."],
    rate: float,
    key: Key[Array, ""] | None,
    *,
    part_of: Sequence[Places] = (),
) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); None as key keeps all.

    Source: Srivastava et al. 2014. The mask is a function of the key and the element's place alone.

    Args:
        part_of: see `hash_bits`.
    """
    if key is None or rate == 0:
        return x
    keep = hash_bits(key, x.shape, part_of=part_of) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
