"""Sinusoidal positions: fixed vectors that are added to the embeddings (Vaswani et al. 2017, section 3.5)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmx.nn.positions.encoding import PositionalEncoding


def sinusoidal(length: int, width: int, *, first: int = 0, is_closed: bool = False) -> Float[Array, "T D"]:
    """Returns the fixed positions sin(t / 10000^(2i/D)) and cos(t / 10000^(2i/D)), first all sines, then all cosines.

    Source: Vaswani et al. 2017, section 3.5; the layout by halves is tensor2tensor's, not the paper's interleaving.

    Args:
        first: the first t.
        is_closed: the exponent is i / (D/2 - 1), so that the last frequency is 1/10000 itself. tensor2tensor's own
            code has it, and after it fairseq and CTranslate2.

    Raises:
        ValueError: width is odd.
    """
    if width % 2 or (is_closed and width < 4):
        least = " and at least 4" if is_closed else ""
        raise ValueError(f"width must be even{least} for sinusoidal positions, got width={width}.")
    # In float64 on the host: float32 angles are off by 1e-3 at position 10,000.
    exponents = np.arange(width // 2) / (width // 2 - 1) if is_closed else np.arange(0, width, 2) / width
    angles = np.arange(first, first + length)[:, None] / 10000.0**exponents
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)


class SinusoidalPositions(PositionalEncoding):
    """Adds `sinusoidal` vectors.

    Args:
        max_length: explicit positions are below it; without them a row may be of any length.
        first, is_closed: see `sinusoidal`.
    """

    def __init__(self, max_length: int, *, first: int = 0, is_closed: bool = False):
        self.max_length, self.first, self.is_closed = max_length, first, is_closed

    def vectors(self, length: int, width: int) -> Float[Array, "T D"]:
        """Returns the vectors of the first positions."""
        return sinusoidal(length, width, first=self.first, is_closed=self.is_closed)

    def add(self, x: Float[Array, "B T D"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T D"]:
        """Returns x with the vector of each position added, in the type of x."""
        length, width = x.shape[1:]
        # Of an explicit position, only decoding and packing ask: the table is then cut to what they can name.
        if positions is None:
            return x + self.vectors(length, width).astype(x.dtype)
        return x + self.vectors(self.max_length, width)[positions].astype(x.dtype)
