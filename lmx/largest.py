"""The few largest of many numbers, exactly, and on a CPU in a small part of the time of a sort."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 128  # words a block when the best few of a large vocabulary are looked for


def blocks(logits: Float[Array, "*B V"]) -> Float[Array, "*B _ _"]:
    """Returns the last axis in blocks, or as one where it does not divide."""
    *rows, size = logits.shape
    return logits.reshape(*rows, -1, BLOCK if size % BLOCK == 0 else size)


def largest(logits: Float[Array, "*B V"], k: int) -> tuple[Float[Array, "*B k"], Int[Array, "*B k"]]:
    """Returns the k largest of the last axis, exactly; a large one is first narrowed to its k best blocks.

    The k largest lie in the k blocks with the largest maxima, and a maximum over blocks is one fast pass.
    """
    *rows, size = logits.shape
    k = min(k, size)
    if size % BLOCK or size // BLOCK <= 2 * k:
        values, words = jax.lax.top_k(logits, k)
        return values, words
    in_blocks = blocks(logits)
    _, best = jax.lax.top_k(in_blocks.max(-1), k)
    narrowed = jnp.take_along_axis(in_blocks, best[..., None], axis=-2).reshape(*rows, k * BLOCK)
    values, places = jax.lax.top_k(narrowed, k)
    block = jnp.take_along_axis(best, places // BLOCK, axis=-1)
    return values, block * BLOCK + places % BLOCK
