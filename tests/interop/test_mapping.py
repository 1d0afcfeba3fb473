"""Rows of a table in both directions: whole arrays, parts of them, fused ones, padded ones, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from lmx.errors import InputError
from lmx.interop.mapping import Mapped, Table, row, their_arrays, their_shapes
from lmx.interop.tensors import open_safetensors, write_safetensors

D, H, G, K, V, T = 6, 4, 2, 3, 5, 7
SIZES = {"D": D, "H": H, "G": G, "K": K, "V": V, "T": T, "P": 2, "R": 4}
ROWS = (
    row("words", "model.words", "V D -> V D"),
    row("places", "model.places", "T D -> T D", start=2),
    row("blocks.query", "model.{layer}.fused", "D H K -> HK D"),
    row("blocks.key", "model.{layer}.fused", "D G K -> GK D", start=H * K),
    row("blocks.out", "model.{layer}.out", "H K D -> HK D"),
    row("turned", "model.turned", "D PR -> RP D"),
    row("extra", ("model.extra", "model.older"), "D -> D", optional=True),
)
SHAPES = {
    "words": (8, D),  # padded
    "places": (T, D),
    "blocks.query": (2, D, H, K),
    "blocks.key": (2, D, G, K),
    "blocks.out": (2, H, K, D),
    "turned": (D, 8),
    "extra": (D,),
}
TABLE = Table(rows=ROWS, sizes=SIZES, ignored=("*.inv_freq",))


class Ours(dict):
    get_slice = dict.__getitem__


def ours() -> Ours:
    random = np.random.default_rng(0)
    arrays = Ours({name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()})
    arrays["words"][V:] = 0
    return arrays


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    shapes = their_shapes(TABLE, SHAPES)
    return write_safetensors(tmp_path / "model.safetensors", shapes, their_arrays(TABLE, SHAPES, ours()))


def test_their_arrays_lie_as_the_layouts_say(theirs: Path):
    source, here = open_safetensors(theirs), ours()
    assert source.shapes == {
        "model.words": (V, D),
        "model.places": (2 + T, D),
        "model.0.fused": (H * K + G * K, D),
        "model.1.fused": (H * K + G * K, D),
        "model.0.out": (H * K, D),
        "model.1.out": (H * K, D),
        "model.turned": (8, D),
        "model.extra": (D,),
    }
    np.testing.assert_array_equal(source.read("model.words"), here["words"][:V])
    np.testing.assert_array_equal(source.read("model.places")[2:], here["places"])
    np.testing.assert_array_equal(source.read("model.places")[:2], 0)
    fused = source.read("model.1.fused")
    np.testing.assert_array_equal(fused[: H * K], here["blocks.query"][1].reshape(D, H * K).T)
    np.testing.assert_array_equal(fused[H * K :], here["blocks.key"][1].reshape(D, G * K).T)
    # Ours are halves (P R), theirs are pairs of neighbours (R P).
    np.testing.assert_array_equal(source.read("model.turned")[3], here["turned"][:, 4 + 1])


def test_what_is_written_is_read_back(theirs: Path):
    mapped = Mapped(open_safetensors(theirs), TABLE, SHAPES)
    assert sorted(mapped.keys()) == sorted(SHAPES)
    assert mapped.unused() == []
    for name, array in ours().items():
        assert tuple(mapped.get_slice(name).get_shape()) == SHAPES[name]
        np.testing.assert_array_equal(mapped.get_tensor(name), array)
        np.testing.assert_array_equal(mapped.get_slice(name)[1], array[1])


def test_a_part_is_what_the_whole_has_there(theirs: Path):
    mapped, random = Mapped(open_safetensors(theirs), TABLE, SHAPES), np.random.default_rng(1)
    for name, array in ours().items():
        for _ in range(8):
            begins = [int(random.integers(0, size)) for size in array.shape]
            ends = [int(random.integers(b + 1, size + 1)) for b, size in zip(begins, array.shape, strict=True)]
            index = tuple(slice(b, e) for b, e in zip(begins, ends, strict=True))
            np.testing.assert_array_equal(mapped.get_slice(name)[index], array[index], err_msg=f"{name}{index}")


def test_a_part_reads_its_own_bytes_alone(theirs: Path):
    source, asked = open_safetensors(theirs), []
    read = source.read
    source.read = lambda name, index=(): asked.append((name, index)) or read(name, index)  # type: ignore[method-assign]
    Mapped(source, TABLE, SHAPES).get_slice("blocks.key")[1:2, 0:3, 1:2]
    assert asked == [("model.1.fused", (slice(H * K + K, H * K + 2 * K), slice(0, 3)))]


def test_other_names_and_absent_arrays(tmp_path: Path):
    shapes = {name.partition(".")[2]: shape for name, shape in their_shapes(TABLE, SHAPES).items()}
    shapes["older"] = shapes.pop("extra")
    path = tmp_path / "model.safetensors"
    arrays = {name: np.full(shape, 2, np.float32) for name, shape in shapes.items()}
    write_safetensors(path, shapes, arrays.values())
    np.testing.assert_array_equal(Mapped(open_safetensors(path), TABLE, SHAPES).get_tensor("extra"), 2)
    del shapes["older"], arrays["older"]
    shapes["a.inv_freq"] = shapes["b"] = (1,)
    arrays["a.inv_freq"] = arrays["b"] = np.ones(1, np.float32)
    write_safetensors(path, shapes, [arrays[name] for name in shapes])
    mapped = Mapped(open_safetensors(path), TABLE, SHAPES)
    np.testing.assert_array_equal(mapped.get_tensor("extra"), 0)
    assert mapped.unused() == ["b"]


def test_arrays_of_other_shapes_are_listed(tmp_path: Path):
    shapes = their_shapes(TABLE, SHAPES)
    shapes["model.words"] = (V + 1, D)
    del shapes["model.0.out"]
    path = write_safetensors(tmp_path / "model.safetensors", shapes, [np.zeros(s, np.float32) for s in shapes.values()])
    with pytest.raises(InputError) as caught:
        Mapped(open_safetensors(path), TABLE, SHAPES)
    assert str(caught.value).splitlines()[1:] == [
        "  model.0.out: absent there, (12, 6) in the model",
        "  model.words: (6, 6) there, (5, 6) in the model.",
    ]
