"""The smallest layers: linear maps, embeddings, norms.

Parameters are float32 and name their axes; `dtype` is the type a layer computes in. No layer holds a key or a counter.
"""

import functools
import math
import string
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lmx.nn.initializers import normal, xavier_uniform
from lmx.nn.masks import MASKED
from lmx.sharding import (
    COLUMNS,
    WORDS,
    constrain,
    gather,
    group,
    move,
    on_mesh,
    parts,
    spread,
    stays_in_pieces,
    stored,
    sums_in_float32,
    ungroup,
)

Model = TypeVar("Model", bound=nnx.Module)
# Standard deviation of the first values of a layer that ends a model: its first outputs are near 0, no class or word
# likelier than another. Source: `initializer_range` of BERT (Devlin et al. 2019) and of GPT-2.
OUTPUT_DEVIATION = 0.02
VOCAB_MULTIPLE = 128  # tables are padded to a multiple of this, so that any vocabulary divides over a mesh axis


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
        if on_mesh():  # the axes stay apart, to stay split
            equation = _contraction(x.ndim, self.weight.ndim, self.num_in)
            y = weight_product(equation, x, self.weight[...], axes=self.axes, dtype=self.dtype)
        else:
            # As a product of two matrices: only then does XLA's CPU backend read x transposed for the weight's gradient
            # instead of writing its transpose first.
            x, weight = x.astype(self.dtype), self.weight[...].astype(self.dtype)
            lead, out_shape = x.shape[: x.ndim - self.num_in], weight.shape[self.num_in :]
            fan_in = math.prod(weight.shape[: self.num_in])
            y = (x.reshape(-1, fan_in) @ weight.reshape(fan_in, -1)).reshape(*lead, *out_shape)
        return self.shift(y)

    def shift(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """Adds the bias, if there is one."""
        if self.bias is None:
            return y
        if sums_in_float32(y.dtype):
            return _add_bias(y, self.bias[...])
        return y + self.bias[...].astype(self.dtype)


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


def padded_vocabulary(vocab_size: int) -> int:
    """Returns the number of rows a table of `vocab_size` words is stored with."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Embedding(nnx.Module):
    """A table of word vectors, stored with its rows padded to a multiple of 128.

    Drawn by `normal` with variance 1/D, as fairseq does (Vaswani et al. 2017, section 3.4, scales the inputs by sqrt(D)
    to match). A tied output layer then starts with logits of unit variance, and the first loss is about ln V + 1/2.

    Args:
        deviation: standard deviation of the first values, if it is another: `OUTPUT_DEVIATION` of a table that only
            ends a model, whose first loss is then ln V.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        deviation: float | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        deviation = float(width) ** -0.5 if deviation is None else deviation
        table = normal(rngs.params(), (padded_vocabulary(vocab_size), width), deviation=deviation)
        self.table = nnx.Param(table, axes=("vocab", "embed"))
        self.vocab_size = vocab_size
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        return look_up(self.table[...], tokens, dtype=self.dtype)


def look_up(table: Float[Array, "*G V D"], tokens: Int[Array, "*B T"], *, dtype: DTypeLike) -> Float[Array, "*B T D"]:
    """Returns the rows of a table that tokens name, in the compute type.

    The gradients of one use are added up in float32 on each device and rounded once to the compute type, in which its
    uses meet; the devices meet as `spread` says. For a table in pieces, each device looks up its part of the vectors
    for all tokens of its group, and the devices exchange the parts.

    Args:
        table: as it is, or as `spread_tables` leaves it, a copy for each group of tokens.
    """
    if not on_mesh():
        return table[tokens].astype(dtype)
    in_pieces = stays_in_pieces(table.shape, dtype=dtype)
    if table.ndim == 2:
        table = spread(table, "vocab", "embed", dtype=dtype)
        table = table if table.ndim == 3 else table[None]
    tokens = group(tokens, in_pieces=in_pieces)
    if not in_pieces:
        return ungroup(_look_up(("group", "vocab", "embed"), table, tokens))
    tokens = constrain(tokens, "replica", None, None)
    vectors = _look_up(("replica", *COLUMNS), table, tokens)
    vectors = move(vectors, ("replica", None, None, "shard"), ("replica", "shard", None, None))
    return ungroup(vectors, in_pieces=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up(axes: tuple[str, ...], table: jax.Array, tokens: jax.Array) -> jax.Array:
    return jax.vmap(lambda table, tokens: table[tokens])(table, tokens)


def _look_up_forward(axes: tuple[str, ...], table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple]:
    return _look_up(axes, table, tokens), (tokens, jnp.zeros((0, *table.shape), table.dtype))


def _look_up_backward(axes: tuple[str, ...], saved: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, like = saved
    zeros = constrain(jnp.zeros(like.shape[1:], jnp.float32), *axes)
    added = jax.vmap(lambda total, rows, values: total.at[rows].add(values))(
        zeros, tokens, gradient.astype(jnp.float32)
    )
    return constrain(added, *axes).astype(like.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


def spread_tables(model: Model) -> Model:
    """Gives each group of tokens its own copy of the embedding tables, in place, and returns the model.

    A loss does this first, so that the gradients of a table's uses, as source, target and output, meet once on a mesh.
    On one device nothing changes.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Embedding) and parts("group") > 1:
            module.table.set_value(spread(module.table[...], "vocab", "embed", dtype=module.dtype))
    return model


def output_logits(
    states: Float[Array, "*B D"],
    table: Float[Array, "*G V D"],
    *,
    vocab_size: int,
    bias: Float[Array, " words"] | None = None,
    cap: float | None = None,
) -> Float[Array, "*B V"]:
    """Returns the products of states and words in float32; those of the table's padding have no probability.

    Args:
        bias: added to the logit of each word.
        cap: logits become cap x tanh(logits / cap) (Gemma 2: Riviere et al. 2024, section 2); None leaves them.
    """
    if stays_in_pieces(table.shape, dtype=states.dtype):
        logits = _logits_in_pieces(states, table)
    elif table.ndim == 3:  # a copy for each group of tokens, see `spread_tables`
        products = jnp.einsum("GBTD,GVD->GBTV", group(states), table, preferred_element_type=jnp.float32)
        logits = ungroup(products)
    else:
        table = gather(table.astype(states.dtype), "vocab", "embed")
        logits = jnp.einsum("...D,VD->...V", states, table, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + jnp.pad(bias, (0, table.shape[-2] - vocab_size))
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    return jnp.where(jnp.arange(table.shape[-2]) < vocab_size, logits, MASKED)


def _logits_in_pieces(states: jax.Array, table: jax.Array) -> jax.Array:
    """Returns the products of all states of a group with each device's words; then each device gets its own states'."""
    spread_out = spread(table, "vocab", "embed", dtype=states.dtype) if table.ndim == 2 else table
    words = move(spread_out, ("replica", *COLUMNS), ("replica", *WORDS))
    flat = states.reshape(states.shape[0], -1, states.shape[-1])
    everyone = move(group(flat, in_pieces=True), ("replica", "shard", None, None), ("replica", None, None, None))
    products = jnp.einsum("GBTD,GVD->GBTV", everyone, words, preferred_element_type=jnp.float32)
    own = move(products, ("replica", None, None, "words"), ("replica", "shard", None, "outer_vocab"))
    return ungroup(own, in_pieces=True).reshape(*states.shape[:-1], -1)


def count_parameters(model: nnx.Module) -> int:
    """Counts the parameters as papers do: without the padding of embedding tables. Works on shapes alone."""
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Embedding):
            rows, width = module.table.shape
            total -= (rows - module.vocab_size) * width
    return total


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
