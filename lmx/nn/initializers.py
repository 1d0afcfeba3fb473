"""First values of parameters, made of whole numbers: the same to the bit on every mesh and by every compiler."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def xavier_uniform(key: Key[Array, ""], fan_in: int, fan_out: int) -> Float[Array, "I O"]:
    """Returns a 2-D matrix drawn from U(-a, a), a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    Head-shaped weights are drawn through this and then reshaped: the fans of a 3-D shape would be wrong. Drawn as odd
    whole numbers below 2^24 and scaled once, which every compiler on every mesh rounds the same way.
    """
    limit = math.sqrt(6 / (fan_in + fan_out))
    whole = (jax.random.bits(key, (fan_in, fan_out)) >> 8).astype(jnp.int32) * 2 - (2**24 - 1)
    return whole.astype(jnp.float32) * (limit / 2**24)


def normal(key: Key[Array, ""], shape: Sequence[int], *, deviation: float) -> Float[Array, "..."]:
    """Returns normal numbers of mean 0 and this standard deviation; their tails end at 4.9 deviations.

    Each is the sum of eight uniform 16-bit numbers, scaled once: the inverse error function that exact normals are
    made with rounds differently from one mesh to another, and an initial parameter must not.
    """
    bits = jax.random.bits(key, (4, *shape))
    whole = ((bits & 0xFFFF) + (bits >> 16)).astype(jnp.int32).sum(0) - 4 * 0xFFFF
    return whole.astype(jnp.float32) * (deviation / math.sqrt(8 * (2**32 - 1) / 12))
