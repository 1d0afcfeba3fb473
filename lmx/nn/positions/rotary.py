"""Rotary positions: queries and keys turn by their positions, so that scores depend on distances (Su et al. 2021)."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmx.nn.positions.encoding import PositionalEncoding


def rotary(
    x: Float[Array, "B T H K"],
    positions: Int[Array, "#B T"],
    *,
    base: float = 10000.0,
    scaling: Sequence[float] = (),
) -> Float[Array, "B T H K"]:
    """Rotates each pair of features (i, i + K/2) by the angle position / base^(2i/K).

    Source: Su et al. 2021, equation 34. The paper pairs neighbours (2i, 2i + 1); pairing by halves, as Llama's
    published weights do, is the same up to a fixed permutation of the features.

    Args:
        scaling: see `stretched`.

    Raises:
        ValueError: the head width K is odd.
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"head width must be even for rotary positions, got width={x.shape[-1]}.")
    frequencies = stretched(base ** (-jnp.arange(half, dtype=jnp.float32) / half), scaling)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def stretched(frequencies: Float[Array, " half"], scaling: Sequence[float]) -> Float[Array, " half"]:
    """Returns slower frequencies, with which a model reads longer rows than it was trained on.

    With (factor,) all turn slower by it (Chen et al. 2023, section 2.3: positions are interpolated). With (factor, low,
    high, length), those that turn fewer than `low` times within `length` tokens do, those that turn more than `high`
    times stay, and those between are blended (Llama 3.1, in the authors' code: `apply_scaling`).

    Raises:
        ValueError: the numbers are neither one nor four, factor or length is not positive, or low is not below high.
    """
    if not scaling:
        return frequencies
    is_one, is_four = len(scaling) == 1, len(scaling) == 4
    if not (is_one or (is_four and scaling[1] < scaling[2])) or not 0 < scaling[0] < math.inf or not scaling[-1] > 0:
        raise ValueError(
            "rotary_scaling must be a positive factor, or factor, low, high and length, low below high and the length "
            f"positive, got rotary_scaling={tuple(scaling)}."
        )
    factor = scaling[0]
    if is_one:
        return frequencies / factor
    _, low, high, length = scaling
    turns = length * frequencies / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


class RotaryPositions(PositionalEncoding):
    """Turns queries and keys by `rotary`."""

    def __init__(self, *, base: float = 10000.0, scaling: Sequence[float] = ()):
        self.base = base
        self.scaling = tuple(scaling)

    def rotate(self, x: Float[Array, "B T H K"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T H K"]:
        """Returns queries or keys turned by their positions."""
        if positions is None:
            positions = jnp.arange(x.shape[1])[None]
        return rotary(x, positions, base=self.base, scaling=self.scaling)
