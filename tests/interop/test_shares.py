"""What the plan says that hosts read is what they ask for, on a mesh of virtual devices and of a full-size model."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.errors import InputError
from lmx.interop.convert import open_model
from lmx.interop.families import llama
from lmx.interop.imported import Imported, definition_of, mapped, shapes_of
from lmx.interop.mapping import their_shapes
from lmx.interop.shares import PAGE, Share, shares_of
from lmx.interop.tensors import Index
from lmx.models.decoder import DecoderConfig
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import named_sharding
from tests.interop.make_model_references import DATA

FOLDER = DATA / "models" / "bert-classifier"


@pytest.mark.parametrize(("hosts", "devices"), [(1, 1), (2, 2), (3, 1)])
def test_a_host_asks_for_what_the_plan_says(hosts: int, devices: int, monkeypatch: pytest.MonkeyPatch):
    found = open_model(FOLDER)
    shares = shares_of(found, hosts=hosts, devices=devices)
    assert len(shares) == hosts
    mesh = make_mesh(MeshConfig(data=1, fsdp=hosts * devices), devices=jax.devices()[: hosts * devices])
    asked: list[int] = []
    read = type(found.file.source).read
    monkeypatch.setattr(
        type(found.file.source), "read", lambda self, name, index: counted(asked, read(self, name, index))
    )
    definition = definition_of(found.model)
    leaves = jax.tree_util.tree_leaves_with_path(definition.shapes)
    axes = jax.tree.leaves(definition.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for host, share in enumerate(shares):
        held, mine = 0, set(mesh.devices.flat[host * devices : (host + 1) * devices])
        asked.clear()
        for (path, leaf), names in zip(leaves, axes, strict=True):
            places = named_sharding(mesh, names, leaf.shape).devices_indices_map(leaf.shape)
            for index in {str(places[device]): places[device] for device in mine}.values():
                held += 4 * found.file.get_slice(".".join(str(entry.key) for entry in path))[index].size
        assert (share.asked, share.held) == (sum(asked), held)
        assert share.asked <= share.touched


def counted(asked: list[int], part: np.ndarray) -> np.ndarray:
    asked.append(4 * part.size)
    return part


class Headers:
    """A source of bfloat16 that has no numbers."""

    where = "nowhere"

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        raise AssertionError(name)

    def nbytes(self, name: str) -> int:
        return 2 * math.prod(self.shapes[name])


def test_each_of_sixteen_hosts_reads_a_sixteenth_of_llama_70b():
    model = DecoderConfig(
        vocab_size=128_256, width=8192, feedforward_width=28_672, num_heads=64, num_kv_heads=8, num_layers=80,
        norm_epsilon=1e-5, tied_embeddings=False, max_length=8192,
    )  # fmt: skip
    table = llama.table(model, "llama")
    source = Headers(their_shapes(table, shapes_of(model)))
    found = Imported(family="decoder", model=model, file=mapped(source, table, model))
    shares = shares_of(found, hosts=16, devices=8)
    stored = sum(map(source.nbytes, source.shapes))
    assert 141.0e9 < stored < 141.2e9  # 70.55 milliards of parameters, in two bytes
    norms = 2 * (2 * 80 + 1) * 8192
    assert len(set(shares)) == 1
    assert shares[0].asked == (stored - norms) // 16 + norms
    assert shares[0].held == 2 * shares[0].asked  # a vocabulary of 128,256 has no padding
    # Rows of theirs lie whole where ours are cut along their first axis, and in quarters of pages elsewhere.
    assert shares[0].asked < shares[0].touched < 0.8 * stored


def test_pages_of_parts():
    from lmx.interop.shares import _touched as touched

    wide = (10, 4 * PAGE)  # numbers of one byte
    assert touched((slice(0, 10), slice(0, 4 * PAGE)), wide, 40 * PAGE) == 40 * PAGE
    assert touched((slice(2, 5), slice(0, 4 * PAGE)), wide, 40 * PAGE) == 14 * PAGE
    assert touched((slice(0, 10), slice(7, 8)), wide, 40 * PAGE) == 20 * PAGE
    assert touched((slice(0, 10), slice(1, 4 * PAGE)), wide, 40 * PAGE) == 40 * PAGE


def test_what_does_not_divide_is_told():
    with pytest.raises(InputError, match=r"divisible by the 5 devices that fsdp splits it over, got 12 of encoder"):
        shares_of(open_model(FOLDER), hosts=5, devices=1)
    with pytest.raises(InputError, match="hosts and devices must be at least 1, got hosts=0 and devices=1"):
        shares_of(open_model(FOLDER), hosts=0, devices=1)


def test_the_command_prints_a_plan_and_writes_nothing(lmx, tmp_path: Path):
    before = sorted(tmp_path.iterdir())
    lines, _ = lmx("convert", FOLDER, "--plan", "--hosts", "2", "--devices", "3")
    share = Share(*map(max, zip(*shares_of(open_model(FOLDER), hosts=2, devices=3), strict=True)))
    assert lines[0].startswith(f"{FOLDER}: classifier, ")
    assert lines[1:] == [
        "fsdp over 2 hosts of 3 devices; each host, at most:",
        f"  asks for {share.asked / 1e9:.3f} GB of the files, in pages of {share.touched / 1e9:.3f} GB",
        f"  holds {share.held / 1e9:.3f} GB of parameters in float32",
    ]
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(SystemExit):
        lmx("convert", FOLDER)
