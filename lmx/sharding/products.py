"""Products of activations with weights, on one device and on a mesh: the one room that layers call for them.

A weight may live in pieces, and its gradient is added up over devices; which of it happens, the mesh in force says.
"""

import functools
import math
import string
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmx.sharding.step import gather, on_mesh, stored, sums_in_float32


def contract(
    x: Float[Array, "..."], weight: Float[Array, "..."], *, num_in: int, axes: Sequence[str | None], dtype: DTypeLike
) -> Float[Array, "..."]:
    """Returns the product of the last `num_in` axes of x with the first ones of a weight: `[..., *in] -> [..., *out]`.

    Args:
        weight: as it is stored.
        axes: the names of its axes.
        dtype: the compute type.
    """
    if on_mesh():  # the axes stay apart, to stay split
        return weight_product(_contraction(x.ndim, weight.ndim, num_in), x, weight, axes=axes, dtype=dtype)
    # As a product of two matrices: only then does XLA's CPU backend read x transposed for the weight's gradient instead
    # of writing its transpose first.
    x, weight = x.astype(dtype), weight.astype(dtype)
    lead, out_shape = x.shape[: x.ndim - num_in], weight.shape[num_in:]
    fan_in = math.prod(weight.shape[:num_in])
    return (x.reshape(-1, fan_in) @ weight.reshape(fan_in, -1)).reshape(*lead, *out_shape)


def add_bias(y: Float[Array, "..."], bias: Float[Array, "..."], *, dtype: DTypeLike) -> Float[Array, "..."]:
    """Returns y with a bias, whose gradient meets over devices in float32, unless `use_mesh` was told otherwise.

    Args:
        bias: as it is stored.
        dtype: the compute type.
    """
    return _add_bias(y, bias) if sums_in_float32(y.dtype) else y + bias.astype(dtype)


def weight_product(
    equation: str, x: Float[Array, "..."], weight: Float[Array, "..."], *, axes: Sequence[str | None], dtype: DTypeLike
) -> Float[Array, "..."]:
    """Returns the product of x and a parameter that devices may keep in pieces, in the compute type.

    The weight is sent in the compute type. Its gradient is made and added up over devices in float32, straight into the
    pieces, unless `use_mesh` was told another `gradient_sum`.

    Args:
        equation: of an einsum, without "...".
        weight: as it is stored.
        axes: the names of its axes.
    """
    x = x.astype(dtype)
    if sums_in_float32(dtype) and weight.dtype == jnp.float32:
        # The gradient is stopped before the weight is gathered: what comes after, recomputation would keep (`Stack`).
        gathered = gather(jax.lax.stop_gradient(weight).astype(dtype), *axes)
        return _product_summed_in_float32(equation, tuple(axes), x, gathered, weight)
    return jnp.einsum(equation, x, gather(weight.astype(dtype), *axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product_summed_in_float32(
    equation: str, axes: tuple[str | None, ...], x: jax.Array, gathered: jax.Array, weight: jax.Array
) -> jax.Array:
    """Multiplies x with `gathered`; the gradient goes past it, to the weight: a cotangent has the type of its array."""
    return jnp.einsum(equation, x, gathered)


def _product_forward(
    equation: str, axes: tuple[str | None, ...], x: jax.Array, gathered: jax.Array, weight: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Said as a product: recomputation keeps products, and no function with a derivative of its own (`Stack`).
    return jnp.einsum(equation, x, gathered), (x, gathered)


def _product_backward(
    equation: str, axes: tuple[str | None, ...], saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None, jax.Array]:
    x, gathered = saved
    terms, _, result = equation.partition("->")
    of_x, of_weight = terms.split(",")
    by_x = jnp.einsum(f"{result},{of_weight}->{of_x}", gradient, gathered)
    by_weight = jnp.einsum(f"{of_x},{result}->{of_weight}", x, gradient, preferred_element_type=jnp.float32)
    return by_x, None, stored(by_weight, *axes)


_product_summed_in_float32.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    return y + bias.astype(y.dtype)


def _add_bias_forward(y: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _add_bias(y, bias), jnp.zeros(bias.shape, jnp.bool_)


def _add_bias_backward(like: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, gradient.astype(jnp.float32).sum(tuple(range(gradient.ndim - like.ndim)))


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _contraction(x_axes: int, weight_axes: int, num_in: int) -> str:
    """Returns the equation that contracts the last axes of x with as many first ones of a weight."""
    lead, inner, outer = x_axes - num_in, num_in, weight_axes - num_in
    letters = string.ascii_lowercase
    kept, summed, new = letters[:lead], letters[lead : lead + inner], letters[lead + inner : lead + inner + outer]
    return f"{kept}{summed},{summed}{new}->{kept}{new}"


def joint_product(
    x: Float[Array, "*B D"],
    weights: Sequence[Float[Array, "D ..."]],
    *,
    axes: Sequence[str | None],
    axis: int,
    dtype: DTypeLike,
) -> list[Float[Array, "..."]]:
    """Returns the products of x with several weights, made as one with the weights side by side along `axis`.

    Where the weights are split over devices, the gradients by x of single products would each be summed over them.

    Args:
        weights: as they are stored.
        axes: the names of the weights' axes; the one at `axis` is not split.
        dtype: the compute type.
    """
    weight = jnp.concatenate(weights, axis)
    y = weight_product(_contraction(x.ndim, weight.ndim, 1), x, weight, axes=axes, dtype=dtype)
    ends = [int(end) for end in np.cumsum([w.shape[axis] for w in weights])[:-1]]
    return jnp.split(y, ends, axis=x.ndim - 2 + axis)
