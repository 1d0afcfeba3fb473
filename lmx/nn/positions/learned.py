"""Learned positions: trained vectors that are added to the embeddings (Gehring et al. 2017, section 3.1)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lmx.nn.initializers import normal
from lmx.nn.positions.encoding import PositionalEncoding
from lmx.sharding.step import gather


class LearnedPositions(PositionalEncoding):
    """Adds a trained vector for each position; there are none from `max_length` on."""

    def __init__(self, max_length: int, width: int, *, rngs: nnx.Rngs):
        table = normal(rngs.params(), (max_length, width), deviation=width**-0.5)
        self.table = nnx.Param(table, axes=(None, "embed"))

    def vectors(self, positions: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        """Returns the rows of the table."""
        return gather(self.table[...], None, "embed")[positions]

    def add(self, x: Float[Array, "B T D"], positions: Int[Array, "#B T"] | None) -> Float[Array, "B T D"]:
        """Returns x with the vector of each position added.

        Raises:
            ValueError: the tokens are more than the positions.
        """
        length, max_length = x.shape[1], self.table.shape[0]
        if positions is None and length > max_length:
            raise ValueError(
                f"length must be at most max_length={max_length} with learned positions, got length={length}."
            )
        # Added in float32, so that the gradients of a position's rows are.
        added = self.vectors(jnp.arange(length)[None] if positions is None else positions)
        return (x.astype(jnp.float32) + added).astype(x.dtype)
