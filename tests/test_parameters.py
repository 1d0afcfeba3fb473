"""Files of parameters: read array by array, apart or in pieces, with nothing held that is not asked for."""

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
from lmx.parameters import load_members, load_params, open_params, save_params
from lmx.pretrained import StartConfig
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
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
