"""Rotary positions: queries and keys turn by their positions, so that scores depend on distances (Su et al. 2021)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmx.nn.positions.encoding import PositionalEncoding


def rotary(
    x: Float[Array, "B T H K"], positions: Int[Array, "#B T"], *, base: float = 10000.0
) -> Float[Array, "B T H K"]:
    """Rotates each pair of features (i, i + K/2) by the angle position / base^(2i/K).

    Source: Su et al. 2021, equation 34. The paper pairs neighbours (2i, 2i + 1); pairing by halves, as Llama's
    published weights do, is the same up to a fixed permutation of the features.

    Raises:
        ValueError: the head width K is odd.
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"head width must be even for rotary positions, got width={x.shape[-1]}.")
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class RotaryPositions(PositionalEncoding):
    """Turns queries and keys by `rotary`."""

    def __init__(self, *, base: float = 10000.0):
        self.base = base

    def rotate(self, x: Float[Array, "B T H K"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T H K"]:
        """Returns queries or keys turned by their positions."""
        if positions is None:
            positions = jnp.arange(x.shape[1])[None]
        return rotary(x, positions, base=self.base)
