"""Where tokens and a vocabulary's table meet on a mesh: copies for each group of tokens, or pieces that are shared."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from lmx.sharding.step import Ambient, ambient, constrain, gather, parts

# The two layouts of a table in pieces: vectors cut, or words dealt out.
COLUMNS = ("outer_vocab", "shard")
WORDS = ("words", None)

# A vocabulary's table whose copy and float32 gradient take at most so many bytes on a device is gathered whole before
# it is used. A larger one stays in pieces, and the tokens go to them: vectors are cut where words are looked up, and
# words are dealt out where the loss is made.
WHOLE_TABLE_BYTES = 2**28


def stays_in_pieces(shape: tuple[int, ...], *, dtype: DTypeLike) -> bool:
    """Says whether a table, [V, D] or [U, V, D] as `spread` leaves it, is computed with in the pieces it lives in.

    One is that devices with other tokens share and whose copy and gradient would take more than `WHOLE_TABLE_BYTES`.

    Args:
        dtype: the type it is computed with.
    """
    now = ambient()
    if now is None or parts("shard") == 1:
        return False
    if len(shape) == 3:
        return shape[0] != parts("group")
    words, width = shape
    if words % parts("words") or width % parts("shard"):
        return False
    size = words // parts("outer_vocab") * width * (jax.numpy.dtype(dtype).itemsize + 4)
    return size > WHOLE_TABLE_BYTES or bool({*now.rules["shard"]} & {*now.rules["vocab"]})


def spread(table: jax.Array, *axes: str | None, dtype: DTypeLike) -> jax.Array:
    """Returns a parameter as each group of tokens computes with it: [U, *axes], every device with a copy of its own.

    Axes split over `tensor` stay split: a device has its words of a vocabulary and no others. Gradients of all uses are
    added up on each device, and meet once, straight in the pieces that the parameter lives in. One that is used once
    needs `gather` alone. Outside `use_mesh`, or with one group, it is cast and has no copies.

    A table that `stays_in_pieces` is not copied between devices that share it: they are one group, and each has a part
    of all vectors, [U, V, D] with D split over `shard`.

    Args:
        dtype: the type it is computed with, and sent in.
    """
    now = ambient()
    if now is None or parts("group") == 1:
        return table.astype(dtype)
    in_pieces = axes == ("vocab", "embed") and stays_in_pieces(table.shape, dtype=dtype)
    return _spread(now, axes, jax.numpy.dtype(dtype), in_pieces, table)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _spread(
    now: Ambient, axes: tuple[str | None, ...], dtype: np.dtype, in_pieces: bool, table: jax.Array
) -> jax.Array:
    if in_pieces:
        table = jax.lax.with_sharding_constraint(table.astype(dtype), now.stored(axes, table.shape))
        named = ("replica", *COLUMNS)
    else:
        table = gather(table.astype(dtype), *axes)
        named = ("group", *axes)
    copies = jax.numpy.broadcast_to(table, (parts(named[0]), *table.shape))
    return jax.lax.with_sharding_constraint(copies, now.computed(named, copies.shape))


def _spread_forward(
    now: Ambient, axes: tuple[str | None, ...], dtype: np.dtype, in_pieces: bool, table: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _spread(now, axes, dtype, in_pieces, table), jax.numpy.zeros((), table.dtype)


def _spread_backward(
    now: Ambient,
    axes: tuple[str | None, ...],
    _: np.dtype,
    in_pieces: bool,
    like: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array]:
    """Adds up the groups' gradients: first over the axes that the parameter is split over, then over the others."""
    if now.gradient_sum == "float32":
        gradient = gradient.astype(jax.numpy.float32)
    mesh, shape = now.mesh, gradient.shape[1:]
    names = now.rules["replica" if in_pieces else "group"]
    stored = now.stored(axes, shape)
    holding = {name for part in stored.spec for name in (part if isinstance(part, tuple) else (part,))}
    gradient = gradient.reshape(*(mesh.shape[name] for name in names), *shape)
    for first in (True, False):
        kept = [name for name in names if (name in holding) != first]
        summed = tuple(index for index, name in enumerate(names) if name not in kept)
        gradient = jax.lax.reduce(gradient, jax.numpy.zeros((), gradient.dtype), jax.lax.add, summed)
        spec = PartitionSpec(*kept, *stored.spec)
        gradient = jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec))
        names = kept
    return (gradient.astype(like.dtype),)


_spread.defvjp(_spread_forward, _spread_backward)


def spread_tables(model: nnx.Module) -> None:
    """Gives each group of tokens its own copy of a model's tables of words, in place, where it is traced for a mesh.

    So the gradients of a table's uses, as source, target and output, meet once: see `spread`. `Definition.merge` does
    it for every model. On one device nothing changes.
    """
    if parts("group") == 1:
        return
    module: Any
    for _, module in nnx.iter_modules(model):
        table = getattr(module, "table", None)
        if isinstance(table, nnx.Param) and table.get_metadata("axes") == ("vocab", "embed"):
            table.set_value(spread(table[...], "vocab", "embed", dtype=module.dtype))


def group(x: jax.Array, *, in_pieces: bool = False) -> jax.Array:
    """Returns [B, T, ...] as [U, B, T, ...]: the tokens of each device together.

    Args:
        in_pieces: the tokens of the devices that share a table are one group; their rows stay where they are.
    """
    rows, columns = parts("outer_batch" if in_pieces else "batch"), parts("length")
    batch, length, *rest = x.shape
    x = x.reshape(rows, batch // rows, columns, length // columns, *rest).swapaxes(1, 2)
    x = x.reshape(rows * columns, batch // rows, length // columns, *rest)
    return constrain(x, *(("replica", "shard") if in_pieces else ("group", None)), *[None] * (x.ndim - 2))


def ungroup(x: jax.Array, *, in_pieces: bool = False) -> jax.Array:
    """Returns [U, B, T, ...] as [B, T, ...], which `group` made it from."""
    rows, columns = parts("outer_batch" if in_pieces else "batch"), parts("length")
    _, batch, length, *rest = x.shape
    x = x.reshape(rows, columns, batch, length, *rest).swapaxes(1, 2)
    x = x.reshape(rows * batch, columns * length, *rest)
    return constrain(x, "batch", "length", *[None] * (x.ndim - 2))
