"""The smallest layers: linear maps and norms.

Parameters are float32 and name their axes; `dtype` is the type a layer computes in. No layer holds a key or a counter.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmx.nn.initializers import normal, xavier_uniform
from lmx.sharding.products import add_bias, contract

# Standard deviation of the first values of a layer that ends a model: its first outputs are near 0, no class or word
# likelier than another. Source: `initializer_range` of BERT (Devlin et al. 2019) and of GPT-2.
OUTPUT_DEVIATION = 0.02


class Linear(nnx.Module):
    """An affine map over the last axis or axes: `[..., *in_shape] -> [..., *out_shape]`.

    Args:
        in_shape, out_shape: sizes of the contracted and of the new axes, such as (512,) and (8, 64).
        axes: the names of all of them, inputs first; biases are replicated.
        deviation: standard deviation of the first values, `normal`; None draws them by `xavier_uniform`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        axes: Sequence[str | None],
        use_bias: bool = True,
        deviation: float | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        in_shape, out_shape = tuple(in_shape), tuple(out_shape)
        sizes = math.prod(in_shape), math.prod(out_shape)
        if deviation is None:
            matrix = xavier_uniform(rngs.params(), *sizes)
        else:
            matrix = normal(rngs.params(), sizes, deviation=deviation)
        self.weight = nnx.Param(matrix.reshape(in_shape + out_shape), axes=tuple(axes))
        self.bias = nnx.Param(jnp.zeros(out_shape), axes=(None,) * len(out_shape)) if use_bias else None
        self.axes = tuple(axes)
        self.num_in = len(in_shape)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.shift(contract(x, self.weight[...], num_in=self.num_in, axes=self.axes, dtype=self.dtype))

    def shift(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """Adds the bias, if there is one."""
        return y if self.bias is None else add_bias(y, self.bias[...], dtype=self.dtype)


class LayerNorm(nnx.Module):
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts, in float32 (Ba et al. 2016)."""

    def __init__(self, width: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(width), axes=(None,))
        self.bias = nnx.Param(jnp.zeros(width), axes=(None,))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Divides the last axis by its root mean square, then scales, in float32 (Zhang and Sennrich 2019)."""

    EPSILON = 1e-6

    def __init__(self, width: int, *, epsilon: float = EPSILON):
        self.scale = nnx.Param(jnp.ones(width), axes=(None,))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(x.dtype)
