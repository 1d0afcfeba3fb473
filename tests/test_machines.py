"""Meshes over machines that are not here: TPU pods and nodes with GPUs, by devices that only say where they are."""

import random
from dataclasses import dataclass

import jax
import jaxtyping
import numpy as np
import pytest

from lmx.sharding.mesh import MeshConfig, in_order, make_mesh
from lmx.sharding.placement import batch_shards, named_sharding, piece, rows_on
from lmx.sharding.rules import MESH_AXES


@pytest.fixture(autouse=True)
def _any_device():
    """Lets stand-ins pass where annotations ask for devices."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@dataclass(frozen=True)
class Fake:
    """What a device tells of its place."""

    id: int
    process_index: int
    slice_index: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)
    platform: str = "fake"
    device_kind: str = "fake"


def tpu_pod(*sizes: int) -> list[Fake]:
    """Chips of one slice, numbered along the torus; a host has the four of a block 2 x 2 x 1."""
    places = [place[::-1] for place in np.ndindex(*sizes[::-1])]  # x runs fastest
    blocks = sorted({(x // 2, y // 2, z) for x, y, z in places}, key=lambda block: block[::-1])
    hosts = {block: number for number, block in enumerate(blocks)}
    return [
        Fake(id=number, process_index=hosts[x // 2, y // 2, z], coords=(x, y, z))
        for number, (x, y, z) in enumerate(places)
    ]


def gpu_nodes(nodes: int, *, processes: int = 1, cyclic: bool = False) -> list[Fake]:
    """Nodes of eight GPUs, each a slice of its own; cyclic: processes are numbered node by node in turn."""
    devices = []
    for node in range(nodes):
        for gpu in range(8):
            local = gpu * processes // 8
            process = local * nodes + node if cyclic else node * processes + local
            # As XLA numbers them: by the process, then on it.
            devices.append(Fake(process * (8 // processes) + gpu % (8 // processes), process, slice_index=node))
    return devices


def hosts_of(devices: list[Fake]) -> dict[int, list[Fake]]:
    hosts: dict[int, list[Fake]] = {}
    for device in devices:
        hosts.setdefault(device.process_index, []).append(device)
    return hosts


def assert_every_row_has_its_place(mesh: jax.sharding.Mesh, devices: list[Fake]) -> int:
    """Gives each host the rows that it is to make and each device its part of them; returns the hosts with gaps."""
    groups = batch_shards(mesh)
    batch = (
        np.arange(3 * groups * 5).reshape(3, groups * 5)[:, :, None] * 10
    )  # three micro-batches of five rows a group
    places = named_sharding(mesh, (None, "batch", None)).devices_indices_map(batch.shape)
    copies, gaps = np.zeros(batch.shape[1], int), 0
    for own in hosts_of(devices).values():
        rows = rows_on(mesh, batch.shape[1], devices=own)
        made = batch[:, rows]
        numbers = np.arange(batch.shape[1])[rows]
        assert (np.diff(numbers) > 0).all()
        gaps += not isinstance(rows, slice)
        begins = np.unique(numbers // 5)
        for device in own:
            np.testing.assert_array_equal(piece(made, places[device][1], begins, axis=1), batch[places[device]])
            copies[places[device][1]] += 1
        # A host makes nothing that its devices do not hold.
        assert set(numbers.tolist()) == {
            row for device in own for row in range(*places[device][1].indices(batch.shape[1]))
        }
    # Devices that split heads or positions hold the same rows.
    assert (copies == mesh.shape["tensor"] * mesh.shape["sequence"]).all()
    return gaps


SIZES = [
    {"data": 64},
    {"data": 8, "fsdp": 8},
    {"data": 8, "tensor": 8},
    {"data": 4, "fsdp": 4, "tensor": 4},
    {"data": 1, "fsdp": 16, "sequence": 4},
    {"data": 2, "fsdp": 4, "tensor": 4, "sequence": 2},
    {"data": 1, "fsdp": 2, "tensor": 16, "sequence": 2},
    {"data": 1, "tensor": 64},
]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(f"{name}{size}" for name, size in sizes.items()))
def test_every_row_has_its_place_on_a_pod_in_any_order(sizes, monkeypatch):
    chips = tpu_pod(4, 4, 4)
    assert [chip.coords for chip in hosts_of(chips)[0]] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    monkeypatch.setattr(jax, "devices", lambda: chips)
    config = MeshConfig(**sizes)
    # Host by host, as a mesh is made where no order is asked for: nothing has a gap.
    mesh = make_mesh(config)
    assert [chip.process_index for chip in mesh.devices.ravel()] == [number // 4 for number in range(64)]
    assert assert_every_row_has_its_place(mesh, chips) == 0
    for order in (chips, sorted(chips, key=lambda chip: chip.coords), random.Random(5).sample(chips, 64)):
        mesh = make_mesh(config, devices=order)
        assert mesh.devices.ravel().tolist() == order
        assert_every_row_has_its_place(mesh, chips)


def test_the_rows_of_a_host_have_gaps_where_the_mesh_follows_the_torus():
    chips = tpu_pod(4, 4, 4)
    mesh = make_mesh(MeshConfig(), devices=sorted(chips, key=lambda chip: chip.coords))
    assert rows_on(mesh, 64, devices=hosts_of(chips)[0]).tolist() == [0, 4, 16, 20]
    assert rows_on(mesh, 128, devices=hosts_of(chips)[0]).tolist() == [0, 1, 8, 9, 32, 33, 40, 41]
    assert assert_every_row_has_its_place(mesh, chips) == 16


@pytest.mark.parametrize(
    "nodes", [gpu_nodes(2), gpu_nodes(2, processes=8), gpu_nodes(2, processes=8, cyclic=True)], ids=["1", "8", "cyclic"]
)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"fsdp": 8},
        {"fsdp": 2, "tensor": 2, "sequence": 2},
        {"fsdp": 4, "tensor": 4},
        {"data": 2, "tensor": 4, "sequence": 2},
        {"data": 1, "fsdp": 16},
        {"data": 1, "tensor": 16},
    ],
    ids=lambda sizes: "-".join(f"{name}{size}" for name, size in sizes.items()) or "data",
)
def test_axes_that_talk_most_stay_within_a_node(sizes, nodes, monkeypatch):
    check_nodes(sizes, nodes, monkeypatch)


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 8}, {"fsdp": 2, "tensor": 2, "sequence": 2}, {"data": 1, "fsdp": -1}])
def test_axes_that_talk_most_stay_within_a_node_of_eight(sizes, monkeypatch):
    check_nodes(sizes, gpu_nodes(8, processes=8, cyclic=True), monkeypatch)


def check_nodes(sizes: dict[str, int], gpus: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: random.Random(1).sample(gpus, len(gpus)))
    mesh = make_mesh(MeshConfig(**sizes))
    assert_every_row_has_its_place(mesh, gpus)
    size = 1
    for name in reversed(MESH_AXES):  # the innermost axes that together fit a node do not leave it
        size *= mesh.shape[name]
        if size > 8:
            break
        for neighbours in mesh.devices.reshape(-1, size):
            assert len({gpu.slice_index for gpu in neighbours}) == 1


def test_machines_come_one_after_another_however_their_processes_are_numbered():
    gpus = gpu_nodes(2, processes=8, cyclic=True)
    assert [gpu.process_index for gpu in gpus[:8]] == [0, 2, 4, 6, 8, 10, 12, 14]
    ordered = in_order(random.Random(2).sample(gpus, 16))
    assert ordered == gpus
    # A platform that knows no slices: by process.
    chips = jax.devices()[::-1]
    assert in_order(chips) == jax.devices()
