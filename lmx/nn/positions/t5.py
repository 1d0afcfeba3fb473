"""T5's relative bias: a learned number for each head and range of distances (Raffel et al. 2020, section 2.1)."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32

from lmx.nn.initializers import normal
from lmx.nn.positions.encoding import PositionalEncoding

# Source: Raffel et al. 2020, section 2.1: "32 embeddings for all of our models with ranges that increase in size
# logarithmically up to an offset of 128 beyond which we assign all relative positions to the same embedding".
NUM_BUCKETS = 32
MAX_DISTANCE = 128


@functools.cache
def buckets(is_causal: bool) -> Int32[np.ndarray, " distances"]:
    """Returns the bucket of each distance, key's less query's position, from -128 (and beyond) to 128 (and beyond).

    A causal stack spends all buckets on the past; else one half is for keys at and before the query, the other for
    keys behind it. Half of each direction's buckets are for one distance each; distance n lies in bucket
    e + floor(log(n / e) / log(128 / e) x e) where these e end. Source: mesh-tensorflow's `_relative_position_bucket`,
    which rounds the logarithms; here powers of integers are compared, so that no distance lies on the wrong side.
    """
    number = NUM_BUCKETS if is_causal else NUM_BUCKETS // 2
    exact = number // 2

    def of(distance: int) -> int:
        if distance < exact:
            return distance
        steps = range(1, number - exact)
        return exact + sum(distance**exact * exact**step >= exact**exact * MAX_DISTANCE**step for step in steps)

    past = [of(distance) for distance in range(MAX_DISTANCE, -1, -1)]
    ahead = [0 if is_causal else number + of(distance) for distance in range(1, MAX_DISTANCE + 1)]
    return np.array(past + ahead, np.int32)


class RelativeBias(PositionalEncoding):
    """Adds a learned bias to the scores, by head and bucket of distance; the layers of a stack share the table.

    Published T5 weights expect scores that are not divided by sqrt(K), as those of lmx are.

    Args:
        width: of the model; the table is drawn with deviation D^-0.5, as mesh-tensorflow does.
        is_causal: the stack looks back alone, as a decoder does.
    """

    def __init__(self, width: int, num_heads: int, *, is_causal: bool, rngs: nnx.Rngs):
        table = normal(rngs.params(), (NUM_BUCKETS, num_heads), deviation=width**-0.5)
        self.table = nnx.Param(table, axes=(None, "heads"))
        self.is_causal = is_causal

    def bias(self, queries: Int[Array, "#B T"], keys: Int[Array, "#B S"]) -> Float[Array, "#B H T S"]:
        """Returns the bias of each query, key and head."""
        by_distance = self.table[...].T[:, buckets(self.is_causal)]
        distances = jnp.clip(keys[:, None, :] - queries[:, :, None], -MAX_DISTANCE, MAX_DISTANCE)
        return jnp.moveaxis(by_distance[:, distances + MAX_DISTANCE], 0, 1)
