"""Products of words and states on a mesh: rows of a vocabulary's table, and the logits that they give."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lmx.nn.masks import MASKED
from lmx.sharding.step import constrain, gather, move, on_mesh
from lmx.sharding.tables import COLUMNS, WORDS, group, spread, stays_in_pieces, ungroup


def look_up(table: Float[Array, "*U V D"], tokens: Int[Array, "*B T"], *, dtype: DTypeLike) -> Float[Array, "*B T D"]:
    """Returns the rows of a table that tokens name, in the compute type.

    The gradients of one use are added up in float32 on each device and rounded once to the compute type, in which its
    uses meet; the devices meet as `spread` says. For a table in pieces, each device looks up its part of the vectors
    for all tokens of its group, and the devices exchange the parts.

    Args:
        table: as it is, or as `spread` leaves it, a copy for each group of tokens.
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
    vectors: Any = _look_up(("replica", *COLUMNS), table, tokens)
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


def output_logits(
    states: Float[Array, "*B D"],
    table: Float[Array, "*U V D"],
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
    elif table.ndim == 3:  # a copy for each group of tokens, see `spread`
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
