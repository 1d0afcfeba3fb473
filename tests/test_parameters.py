"""Files of parameters: read array by array, apart or in pieces, with nothing held that is not asked for."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.definition import define
from lmx.interop.tensors import open_safetensors, write_safetensors
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.parameters import average_files, load_members, load_params, load_placed, open_params, save_params
from lmx.pretrained import StartConfig
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import named_sharding, stacked
from lmx.unstacked import load_unstacked, unstack
from tests.test_pretrained import THERE, placed_of

CONFIG = DecoderConfig(vocab_size=40, width=16, feedforward_width=24, num_heads=4, num_layers=3, max_length=9)
DEFINITION = define(lambda rngs: Decoder(CONFIG, rngs=rngs))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network = Decoder(CONFIG, rngs=nnx.Rngs(0))
    save_params(tmp_path / "model.safetensors", nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return tmp_path / "model.safetensors"


def test_an_open_file_keeps_nothing_in_memory(path: Path):
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs Linux")
    whole = load_params(path)["embedding"]["table"]
    with open_params(path) as file:
        np.testing.assert_array_equal(file.get_tensor("embedding.table"), whole)
        np.testing.assert_array_equal(file.get_slice("embedding.table")[3:5, 2], whole[3:5, 2])
        assert tuple(file.get_slice("embedding.table").get_shape()) == whole.shape
        assert str(path) not in maps.read_text()


def test_each_array_is_placed_before_the_next_is_read(path: Path, monkeypatch: pytest.MonkeyPatch):
    from lmx.parameters import StoredParams

    order: list[str] = []
    read = StoredParams.get_tensor
    monkeypatch.setattr(StoredParams, "get_tensor", lambda self, name: order.append("read") or read(self, name))

    def place(array: np.ndarray) -> Any:
        order.append("placed")
        return jnp.asarray(array)

    params = load_params(path, DEFINITION.shapes, place=place)
    assert order == ["read", "placed"] * len(jax.tree.leaves(params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_seeds_are_stacked(path: Path, tmp_path: Path):
    params = load_params(path)
    save_params(tmp_path / "other.safetensors", jax.tree.map(lambda array: array + 1, params))
    members = load_members([path, tmp_path / "other.safetensors"], DEFINITION.shapes)
    jax.tree.map(lambda both, one: np.testing.assert_array_equal(both, np.stack([one, one + 1])), members, params)


def test_a_file_is_written_for_whom_the_folder_is_and_nowhere_else(path: Path, tmp_path: Path):
    before = os.umask(0o027)
    try:
        save_params(path, {"a": np.ones(3, np.float32)})
        average_files([path, path], tmp_path / "mean.safetensors")
    finally:
        os.umask(before)
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o640}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mean.safetensors", "model.safetensors"]
    for write in (save_params, lambda away, _: average_files([path], away)):
        with pytest.raises(FileNotFoundError, match=r"away/a must be in a folder that is there, got no .*/away\. Make"):
            write(tmp_path / "away" / "a", {})


def test_seeds_of_other_models_are_refused(path: Path, tmp_path: Path):
    save_params(tmp_path / "other.safetensors", {"a": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"other\.safetensors must fit the model, got a: \(3,\) in the file, absent"):
        load_members([path, tmp_path / "other.safetensors"], DEFINITION.shapes)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_a_mesh_reads_of_each_file_what_its_devices_hold(tmp_path: Path):
    paths = [tmp_path / name for name in ("a", "b")]
    for number, each in enumerate(paths):
        save_params(each, {"x": {"y": np.arange(8.0).reshape(4, 2) + 10 * number}, "z": np.float32(number)})
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), devices=jax.devices()[:4])
    split, whole = (named_sharding(mesh, axes) for axes in (("embed", None), ()))
    like = {
        "x": {"y": jax.ShapeDtypeStruct((4, 2), jnp.bfloat16, sharding=split)},
        "z": jax.ShapeDtypeStruct((), jnp.float32, sharding=whole),
    }
    found = load_placed(paths[1:], like)
    assert (found["x"]["y"].dtype, found["x"]["y"].sharding, float(found["z"])) == (jnp.bfloat16, split, 1.0)
    np.testing.assert_array_equal(found["x"]["y"].astype(jnp.float32), np.arange(8).reshape(4, 2) + 10)
    stack = lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype, sharding=stacked(leaf.sharding))  # noqa: E731
    both = load_placed(paths, jax.tree.map(stack, like), stacked=True)
    assert both["z"].tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(both["x"]["y"][1], found["x"]["y"])
    np.testing.assert_array_equal(both["x"]["y"][0].astype(jnp.float32), np.arange(8).reshape(4, 2))


@pytest.mark.parametrize("devices", [1, 4])
def test_layers_are_read_apart(path: Path, devices: int):
    layout = ONE_DEVICE
    if devices > 1:
        layout = Layout(make_mesh(MeshConfig(data=1, fsdp=devices), devices=jax.devices()[:devices]))
    found, expected = load_unstacked(path, DEFINITION, layout=layout), unstack(load_params(path))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    query = found.layers[1]["attention"]["query"]["weight"]
    assert query.addressable_shards[0].data.shape == (16 // devices, 4, 4)


def test_what_is_left_blank_is_zeros_and_the_rest_is_drawn_as_ever():
    placed = placed_of(THERE, StartConfig())
    drawn, blank = placed.born([3]).params, placed.born([3], blank=("output.weight",)).params
    assert np.abs(drawn["output"]["weight"]).max() > 0
    np.testing.assert_array_equal(blank["output"]["weight"], 0)
    jax.tree.map(np.testing.assert_array_equal, drawn["encoder"], blank["encoder"])


def test_arrays_are_written_whole_or_in_parts(tmp_path: Path):
    shapes = {"a": (5, 2), "b": (), "c": (0, 3)}
    whole = [np.arange(10, dtype=np.float32).reshape(5, 2), np.array(3, np.float32), np.zeros((0, 3), np.float32)]
    parts = [iter([whole[0][:2], whole[0][2:]]), whole[1], iter([])]
    written = [write_safetensors(tmp_path / name, shapes, arrays) for name, arrays in (("w", whole), ("p", parts))]
    assert written[0].read_bytes() == written[1].read_bytes()
    np.testing.assert_array_equal(open_safetensors(written[1]).read("a"), whole[0])
    for wrong in ([whole[0][:2]], [whole[0].T], [whole[0][0]]):
        with pytest.raises(ValueError, match=r"^a must have shape \(5, 2\), got \((2, 2|2, 5|2,)\)\.$"):
            write_safetensors(tmp_path / "wrong", shapes, [iter(wrong), *whole[1:]])
    assert not (tmp_path / "wrong").exists()
