"""Arrays onto the mesh, and off it: shardings by the names of axes, rows that each host gives, and what it holds."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from lmx.sharding.mesh import MeshConfig, sizes_of
from lmx.sharding.rules import DEFAULT_RULES, Rules, split_over

GATHERED_BYTES = 2**30  # of an array, that devices hold whole at a time to bring it to a host


def named_sharding(
    mesh: Mesh,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...] | None = None,
    *,
    rules: Rules = DEFAULT_RULES,
) -> NamedSharding:
    """Returns the sharding of an array whose axes have these names.

    Raises:
        ValueError: an axis does not divide over its mesh axes, two axes are split over the same, or the rules name
            others than a mesh has.
    """
    parts = []
    for index, axis in enumerate(axes):
        names = tuple(name for name in split_over(axis or "", rules) if mesh.shape[name] > 1)
        count = math.prod(mesh.shape[name] for name in names)
        if shape is not None and shape[index] % count:
            nearest = max(count, round(shape[index] / count) * count)
            raise ValueError(
                f"axis {axis!r} must be divisible by its {count} devices (mesh {'x'.join(names)}), "
                f"got size={shape[index]}; the nearest that is: {nearest}."
            )
        parts.append(names if names else None)
    used = [name for names in parts if names for name in names]
    if len(set(used)) < len(used):
        raise ValueError(
            f"the rules must split an array over each mesh axis once, got {', '.join(used)} for axes={axes}."
        )
    return NamedSharding(mesh, PartitionSpec(*parts))


def stacked(sharding: NamedSharding) -> NamedSharding:
    """Returns the sharding of several such arrays on a new first axis, which is not split."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, *, rows_axis: int = 1, rules: Rules = DEFAULT_RULES
) -> dict[str, jax.Array]:
    """Puts a batch of arrays [A, B, ...] on the mesh, B split as the rules say; each host gives its `rows_on`.

    Args:
        rows_axis: which axis B is; 2 where the axis of seeds comes first, 0 in a batch without micro-batches.
    """

    def axes(array: np.ndarray) -> tuple[str | None, ...]:
        return (*[None] * rows_axis, "batch", *[None] * (array.ndim - rows_axis - 1))

    return {name: _place(array, mesh, axes(array), rules) for name, array in batch.items()}


def place_rows(batch: Mapping[str, np.ndarray], mesh: Mesh, *, rules: Rules = DEFAULT_RULES) -> dict[str, jax.Array]:
    """Puts arrays [B, ...] on the mesh, B split as the rules say; each host gives its `rows_on`."""
    return place_batch(batch, mesh, rows_axis=0, rules=rules)


def _place(array: np.ndarray, mesh: Mesh, axes: tuple[str | None, ...], rules: Rules) -> jax.Array:
    sharding = named_sharding(mesh, axes, rules=rules)
    if sharding.is_fully_addressable:
        return jax.device_put(array, named_sharding(mesh, axes, array.shape, rules=rules))
    axis = axes.index("batch")
    groups = row_groups(mesh, rules=rules)
    size, rest = divmod(array.shape[axis], groups.size)
    if rest:
        raise ValueError(
            f"the rows of a host must divide by its {groups.size} groups of rows, got {array.shape[axis]} rows."
        )
    shape = (*array.shape[:axis], size * batch_shards(mesh, rules=rules), *array.shape[axis + 1 :])

    def held(index: Any) -> np.ndarray:
        return piece(array, index[axis], groups, axis=axis)

    return jax.make_array_from_callback(shape, sharding, held)


def piece(array: np.ndarray, rows: slice, groups: Int64[np.ndarray, " groups"], *, axis: int = 0) -> np.ndarray:
    """Returns the rows that a device holds, out of those that its host has made.

    Args:
        array: what the host has made: the rows of its groups, one group after another.
        rows: of the whole batch, those of the device: one group.
        groups: the numbers of the host's groups, see `row_groups`.
        axis: which axis of the array its rows are.
    """
    size = array.shape[axis] // groups.size
    begin = int(np.searchsorted(groups, (rows.start or 0) // size)) * size
    return array[(slice(None),) * axis + (slice(begin, begin + size),)]


def batch_shards(mesh: Mesh, *, rules: Rules = DEFAULT_RULES) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return shards(mesh.shape, "batch", rules=rules)


def token_shards(mesh: MeshConfig | Mapping[str, int], *, rules: Rules = DEFAULT_RULES) -> int:
    """Returns into how many parts the tokens of a batch are split, by rows and by positions."""
    return shards(mesh, "batch", "length", rules=rules)


def shards(mesh: MeshConfig | Mapping[str, int], *axes: str, rules: Rules = DEFAULT_RULES) -> int:
    """Returns into how many parts these axes together are split.

    Args:
        mesh: with no size left open, or the sizes of a mesh by its axes.
    """
    sizes = sizes_of(mesh) if isinstance(mesh, MeshConfig) else mesh
    return math.prod(sizes[name] for axis in axes for name in split_over(axis, rules))


def row_groups(
    mesh: Mesh, *, devices: Iterable[jax.Device] | None = None, rules: Rules = DEFAULT_RULES
) -> Int64[np.ndarray, " groups"]:
    """Returns the numbers of the groups of rows that these devices hold, ascending; this host's, if none are named.

    A batch has as many groups as `batch_shards` says, each of equally many consecutive rows. A host's groups need not
    be neighbours: those of a TPU's hosts, which are blocks of a torus, are not in every order of the devices.
    """
    number = batch_shards(mesh, rules=rules)
    places = named_sharding(mesh, ("batch",), (number,), rules=rules).devices_indices_map((number,))
    found = {places[device][0].indices(number)[0] for device in devices or mesh.local_devices}
    return np.array(sorted(found), np.int64)


def rows_on(
    mesh: Mesh, rows: int, *, devices: Iterable[jax.Device] | None = None, rules: Rules = DEFAULT_RULES
) -> slice | Int64[np.ndarray, " held"]:
    """Returns which of a batch's rows these devices hold, ascending; this host's devices, if none are named.

    Hosts whose devices split other axes of the mesh, such as tensor, hold the same rows.

    Returns:
        What selects them from an array: a slice where they are consecutive, else their numbers.

    Raises:
        ValueError: the rows do not divide over the mesh.
    """
    named_sharding(mesh, ("batch",), (rows,), rules=rules)  # says what does not divide
    size = rows // batch_shards(mesh, rules=rules)
    groups = row_groups(mesh, devices=devices, rules=rules)
    if groups[-1] - groups[0] == groups.size - 1:
        return slice(int(groups[0]) * size, (int(groups[-1]) + 1) * size)
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def fetch(tree: Any, *, keep: bool = True) -> Any:
    """Returns arrays as NumPy arrays, gathered over hosts piece by piece, so that devices hold little of them whole.

    Args:
        keep: False helps to gather and returns None for each array, so that one host alone holds the whole.
    """

    def one(array: jax.Array) -> np.ndarray | None:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array) if keep else None
        assert isinstance(array.sharding, NamedSharding)
        whole = NamedSharding(array.sharding.mesh, PartitionSpec())
        return in_pieces(array, sharding=whole, keep=keep)

    return jax.tree.map(one, tree)


def in_pieces(array: jax.Array, *, sharding: NamedSharding, keep: bool) -> np.ndarray | None:
    """Returns an array as a NumPy array by way of devices that hold a piece of its first axis whole at a time.

    Args:
        sharding: of a piece.
        keep: False makes the pieces and returns None.
    """
    size = len(array)
    rows = min(size, max(1, GATHERED_BYTES * size // max(1, array.nbytes)))
    gather = jax.jit(lambda array, begin: jax.lax.dynamic_slice_in_dim(array, begin, rows), out_shardings=sharding)
    whole = np.empty(array.shape, array.dtype) if keep else None
    for begin in range(0, size, rows):
        begin = min(begin, size - rows)  # the last one may hold what is there
        part = gather(array, begin)
        if whole is None:
            part.block_until_ready()
        else:
            whole[begin : begin + rows] = part
    return whole
