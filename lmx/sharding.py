"""Where arrays live: meshes, the table from model axes to mesh axes, placement, and constraints inside a step.

Only this module builds a mesh or a PartitionSpec; everybody else names axes in the model's alphabet (`docs/axes.md`).
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

# Model axis -> mesh axes it is split over. An axis that is not here, or maps to (), is replicated.
DEFAULT_RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}

# Activations have the axes of parameters, but their width is not split the way a weight's is.
ACTIVATION_RULES: Mapping[str, tuple[str, ...]] = {**DEFAULT_RULES, "embed": ()}

# Decoding makes one position after another: there is no length to split.
DECODING_RULES: Mapping[str, tuple[str, ...]] = {**ACTIVATION_RULES, "length": ()}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; -1 (at most once) takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1


def make_mesh(config: MeshConfig, *, devices: list[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over all devices, in the order data, fsdp, tensor, sequence.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices or jax.devices())
    sizes = [config.data, config.fsdp, config.tensor, config.sequence]
    written = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh sizes must be positive, at most one of them -1 (what is left), got {written}.")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(f"mesh sizes must multiply to the {len(devices)} devices, got {written}.")
    return jax.make_mesh(sizes, MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * len(MESH_AXES))


@dataclass(frozen=True)
class _Ambient:
    mesh: Mesh
    rules: Mapping[str, tuple[str, ...]]


_ambient: _Ambient | None = None


@contextlib.contextmanager
def use_mesh(mesh: Mesh, *, rules: Mapping[str, tuple[str, ...]] = ACTIVATION_RULES) -> Iterator[None]:
    """Makes a mesh the one that `constrain` reads while a step is traced."""
    global _ambient
    before, _ambient = _ambient, _Ambient(mesh, rules)
    try:
        yield
    finally:
        _ambient = before


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to lay out an activation by the names of its axes; does nothing outside `use_mesh`."""
    if _ambient is None or _ambient.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, named_sharding(_ambient.mesh, axes, x.shape, rules=_ambient.rules))


def named_sharding(
    mesh: Mesh,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...] | None = None,
    *,
    rules: Mapping[str, tuple[str, ...]] = DEFAULT_RULES,
) -> NamedSharding:
    """Returns the sharding of an array whose axes have these names.

    Raises:
        ValueError: an axis does not divide over its mesh axes.
    """
    parts = []
    for index, axis in enumerate(axes):
        names = tuple(name for name in rules.get(axis or "", ()) if mesh.shape[name] > 1)
        count = math.prod(mesh.shape[name] for name in names)
        if shape is not None and shape[index] % count:
            nearest = max(count, round(shape[index] / count) * count)
            raise ValueError(
                f"axis {axis!r} must be divisible by its {count} devices (mesh {'x'.join(names)}), "
                f"got size={shape[index]}; the nearest that is: {nearest}."
            )
        parts.append(names if names else None)
    return NamedSharding(mesh, PartitionSpec(*parts))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch of arrays [A, B, ...] on the mesh, B split over data and fsdp; each host gives its `rows_on`."""
    return {name: _place(array, mesh, (None, "batch", *[None] * (array.ndim - 2))) for name, array in batch.items()}


def place_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts arrays [B, ...] on the mesh, B split over data and fsdp; each host gives its `rows_on`."""
    return {name: _place(array, mesh, ("batch", *[None] * (array.ndim - 1))) for name, array in batch.items()}


def _place(array: np.ndarray, mesh: Mesh, axes: tuple[str | None, ...]) -> jax.Array:
    sharding = named_sharding(mesh, axes)
    if sharding.is_fully_addressable:
        return jax.device_put(array, named_sharding(mesh, axes, array.shape))
    return jax.make_array_from_process_local_data(sharding, array)


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[name] for name in DEFAULT_RULES["batch"])


def rows_on(mesh: Mesh, rows: int, *, devices: Sequence[jax.Device] | None = None) -> slice:
    """Returns which of a batch's rows these devices hold; this host's devices, if none are named.

    Hosts whose devices split other axes of the mesh, such as tensor, hold the same rows.

    Raises:
        ValueError: the rows are not consecutive, or do not divide over the mesh.
    """
    places = named_sharding(mesh, ("batch",), (rows,)).devices_indices_map((rows,))
    parts = sorted({places[device][0].indices(rows)[:2] for device in devices or mesh.local_devices})
    if any(stop != begin for (_, stop), (begin, _) in itertools.pairwise(parts)):
        raise ValueError(
            f"the mesh must give each host consecutive rows of a batch, got {parts}. Order the mesh's devices by host."
        )
    return slice(parts[0][0], parts[-1][1])


def fetch(tree: Any, *, keep: bool = True) -> Any:
    """Returns arrays as NumPy arrays, gathered over hosts one after another so that devices never hold more whole.

    Args:
        keep: False helps to gather and returns None for each array, so that one host alone holds the whole.
    """

    def one(array: jax.Array) -> np.ndarray | None:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array) if keep else None
        whole = multihost_utils.process_allgather(array, tiled=True)
        return whole if keep else None

    return jax.tree.map(one, tree)
