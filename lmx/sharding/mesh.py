"""Devices in a grid: how many there are along each axis of the mesh, and in which order they come."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmx.sharding.rules import MESH_AXES


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; -1 (at most once) takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1


def make_mesh(config: MeshConfig, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over all devices, in the order data, fsdp, tensor, sequence.

    The devices come machine by machine (`in_order`), so that neighbours along the last axes are near each other. Not by
    `jax.make_mesh`, which refuses devices of several machines.

    Args:
        devices: these instead, in exactly this order, which is the caller's choice.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = in_order(jax.devices()) if devices is None else list(devices)
    sizes, known = [*sizes_of(config).values()], count_devices(config)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(f"mesh sizes must multiply to the {len(devices)} devices, got {_written(config)}.")
    placed = np.empty(len(devices), dtype=object)
    placed[:] = devices
    return Mesh(placed.reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def in_order(devices: Iterable[jax.Device]) -> list[jax.Device]:
    """Returns devices slice by slice, host by host, and by their numbers.

    A slice is what fast links join: one machine with GPUs, or one slice of a TPU. Its hosts, of which a machine may
    have several, come together however the launcher has numbered them.
    """
    return sorted(
        devices, key=lambda device: (getattr(device, "slice_index", None) or 0, device.process_index, device.id)
    )


def connect(mesh: Mesh) -> None:
    """Has the devices of several hosts sum a number along every set of the mesh's axes; does nothing on one host.

    Between CPUs, those who sum together wait 30 s for each other the first time, and as long as it takes from then on:
    the first time should not come after a compilation, which takes one host longer than another.
    """
    if not mesh.is_multi_process:
        return
    names = tuple(name for name, size in mesh.shape.items() if size > 1)
    sets = [axes for number in range(1, len(names) + 1) for axes in itertools.combinations(names, number)]
    every = PartitionSpec(names)
    ones = jax.make_array_from_callback(
        (mesh.size,), NamedSharding(mesh, every), lambda index: np.ones(mesh.size, np.int32)[index]
    )

    def sums(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.psum(x, axes) + 0 * x for axes in sets]

    jax.block_until_ready(jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=every, out_specs=every))(ones))


def resolve_mesh(mesh: MeshConfig, devices: int | None) -> MeshConfig:
    """Returns the mesh without -1, which takes what is left of the devices, or 1 if their number is unknown.

    Raises:
        ValueError: the sizes do not multiply to the number of devices, or several are left open.
    """
    sizes, known = sizes_of(mesh), count_devices(mesh)
    if devices is not None and (devices % known or (devices != known and -1 not in sizes.values())):
        raise ValueError(f"mesh sizes must multiply to devices={devices}, got {_written(mesh)}.")
    left = 1 if devices is None else devices // known
    return MeshConfig(**{name: left if size == -1 else size for name, size in sizes.items()})


def count_devices(mesh: MeshConfig) -> int:
    """Returns the number of devices of a mesh, a size that is left open (-1) as 1."""
    return math.prod(max(size, 1) for size in sizes_of(mesh).values())


def sizes_of(mesh: MeshConfig) -> dict[str, int]:
    """Returns the sizes of a mesh by its axes.

    Raises:
        ValueError: one is neither positive nor -1, or several are -1.
    """
    sizes: dict[str, int] = dict(zip(MESH_AXES, (mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence), strict=True))
    if list(sizes.values()).count(-1) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh sizes must be positive, at most one of them -1 (what is left), got {_written(mesh)}.")
    return sizes


def _written(mesh: MeshConfig) -> str:
    return ", ".join(f"{name}={getattr(mesh, name)}" for name in MESH_AXES)
