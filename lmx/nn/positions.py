"""Position encodings: sinusoidal and learned vectors that are added, rotations that act inside attention.

Biases that are added to attention scores (T5's, ALiBi's) enter through the `bias` argument of
`lmx.nn.attention.attend`; nothing here touches scores.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lmx.nn.initializers import normal
from lmx.sharding import gather


def sinusoidal(length: int, width: int) -> Float[Array, "T D"]:
    """Returns the fixed positions sin(t / 10000^(2i/D)) and cos(t / 10000^(2i/D)), first all sines, then all cosines.

    Source: Vaswani et al. 2017, section 3.5; the layout by halves is tensor2tensor's, not the paper's interleaving.

    Raises:
        ValueError: width is odd.
    """
    if width % 2:
        raise ValueError(f"width must be even for sinusoidal positions, got width={width}.")
    # In float64 on the host: float32 angles are off by 1e-3 at position 10,000.
    angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)


class LearnedPositions(nnx.Module):
    """A trained vector for each position (Gehring et al. 2017, section 3.1)."""

    def __init__(self, length: int, width: int, *, rngs: nnx.Rngs):
        table = normal(rngs.params(), (length, width), deviation=width**-0.5)
        self.table = nnx.Param(table, axes=(None, "embed"))

    def __call__(self, positions: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        return gather(self.table[...], None, "embed")[positions]


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
