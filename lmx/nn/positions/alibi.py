"""ALiBi: scores fall with the distance, in each head by a slope of its own (Press et al. 2022)."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from lmx.nn.positions.encoding import PositionalEncoding


def slopes(num_heads: int) -> Float32[np.ndarray, " H"]:
    """Returns the slope of each head: 2^(-8/n), 2^(-16/n), ... of n heads.

    Source: Press et al. 2022, section 3. Where n is no power of two, as the authors' code has it: the slopes of the
    next smaller power, then every other one of the next larger.
    """
    power = 2 ** int(math.log2(num_heads))
    exact = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([exact, between])[:num_heads].astype(np.float32)


class Alibi(PositionalEncoding):
    """Adds -slope x |query's position - key's position| to the scores; it has no parameters.

    The paper's models look back alone. In an encoder keys ahead are as far away as keys behind.
    """

    def __init__(self, num_heads: int):
        self.num_heads = num_heads

    def bias(self, queries: Int[Array, "#B T"], keys: Int[Array, "#B S"]) -> Float[Array, "#B H T S"]:
        """Returns the penalty of each query, key and head."""
        distances = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :]).astype(jnp.float32)
        return -jnp.asarray(slopes(self.num_heads))[:, None, None] * distances
