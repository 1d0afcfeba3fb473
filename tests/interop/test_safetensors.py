"""Safetensors: every type is read, what is written is laid out as the format says, and what is damaged is named."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lmx.errors import InputError
from lmx.interop.tensors import INDEX, SINGLE, open_safetensors, stored_bytes, write_safetensors

HEADER = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("F64", np.float64), ("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16),
        ("I64", np.int64), ("I32", np.int32), ("I16", np.int16), ("I8", np.int8), ("U8", np.uint8), ("BOOL", np.bool_),
    ],
)  # fmt: skip
def test_arrays_of_each_type_are_read_as_float32(name: str, kind: Any, tmp_path: Path):
    array = np.array([[0, 1, 3], [129, 2, 0]]).astype(kind)
    entry = {"dtype": name, "shape": [2, 3], "data_offsets": [8, 8 + array.nbytes]}
    source = open_safetensors(file_of(tmp_path / "x", {"__metadata__": {}, "x": entry}, bytes(8) + array.tobytes()))
    found = source.read("x")
    assert (found.dtype, source.shapes, source.where) == (np.float32, {"x": (2, 3)}, str(tmp_path / "x"))
    np.testing.assert_array_equal(found, array.astype(np.float32))
    np.testing.assert_array_equal(source.read("x", (slice(1, 2), slice(0, 2))), array[1:, :2].astype(np.float32))
    assert source.nbytes("x") == stored_bytes(source, "x") == array.nbytes


def test_an_array_without_numbers_is_read(tmp_path: Path):
    source = open_safetensors(file_of(tmp_path / "x", {"x": HEADER | {"shape": [0, 3], "data_offsets": [0, 0]}}))
    assert source.read("x", (slice(0, 0), slice(1, 3))).shape == (0, 2)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[" * 99_999, "a damaged header"),
        (b"{", "a damaged header"),
        (b"[1]", "a damaged header"),
        ({"x": {}}, r"a damaged header \('(shape|dtype)'\)"),
        (b'{"x": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}', "a damaged header .*of inf"),
        *(
            ({"x": HEADER | {"data_offsets": places}}, "a damaged header")
            for places in ([0], [0, 24, 24], ["a", "b"], [0.0, 24.0], [-24, 0], None)
        ),
        *(({"x": HEADER | {"shape": shape}}, "a damaged header") for shape in ([-2, -3], [2.0, 3], "23", 6, [True, 6])),
        ({"x": HEADER | {"data_offsets": [0, 20]}}, r"\d+ bytes, too few for x"),
        ({"x": HEADER | {"data_offsets": [1, 25]}}, r"\d+ bytes, too few for x"),
    ],
)
def test_a_damaged_header_is_one_line_that_names_the_file(header: Any, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"x must be a safetensors file, got {message}.*\. Bring it back") as caught:
        open_safetensors(file_of(tmp_path / "x", header, bytes(24)))
    assert "\n" not in str(caught.value)


def test_a_type_that_is_not_known_is_named_with_the_known_ones(tmp_path: Path):
    with pytest.raises(InputError, match=r"x must have arrays of F64, .*BOOL, got F8_E4M3 of weight\.$"):
        open_safetensors(file_of(tmp_path / "x", {"weight": HEADER | {"dtype": "F8_E4M3"}}, bytes(24)))


def shards(folder: Path, weight_map: Any) -> Path:
    """Two shards, both with an array "x": of ones and of twos; and an array "y" in the second."""
    for number, names in ((1, "x"), (2, "xy")):
        shapes = dict.fromkeys(names, (2,))
        write_safetensors(folder / f"{number}.safetensors", shapes, [np.full(2, number, np.float32)] * len(shapes))
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_an_array_comes_from_the_shard_that_the_index_names(tmp_path: Path):
    both = {"x": "1.safetensors", "y": "2.safetensors"}
    source = open_safetensors(shards(tmp_path, both))
    assert (source.read("x").tolist(), source.read("y").tolist()) == ([1, 1], [2, 2])
    write_safetensors(tmp_path / SINGLE, {"x": (1,)}, [np.zeros(1, np.float32)])  # the index counts
    assert open_safetensors(tmp_path).read("x").tolist() == [1, 1]
    source = open_safetensors(shards(tmp_path, both | {"x": "2.safetensors"}))
    assert source.read("x").tolist() == [2, 2]


def test_an_index_that_does_not_fit_its_shards_is_named(tmp_path: Path):
    for wrong in ({}, None, ["x"], "x"):
        with pytest.raises(InputError, match=r"index\.json must have an object in weight_map, got "):
            open_safetensors(shards(tmp_path, wrong))
    for name, shard in (("z", "2"), ("y", "1")):
        weight_map = {"x": "1.safetensors", "y": "2.safetensors", name: f"{shard}.safetensors"}
        with pytest.raises(InputError, match=rf"must name arrays of its shards, got {name}, which none of them has"):
            open_safetensors(shards(tmp_path, weight_map))


def test_what_is_written_lies_as_the_format_says(tmp_path: Path):
    shapes = {"long name": (3, 2), "one": (), "none": (0, 4)}
    arrays: list[Any] = [iter([np.ones((1, 2)), np.zeros((2, 2))]), np.array(5.0), np.zeros((0, 4))]
    path = write_safetensors(tmp_path / "x", shapes, arrays, dtype="float16", metadata={"format": "pt"})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"format": "pt"},
        "long name": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]},
        "one": {"dtype": "F16", "shape": [], "data_offsets": [12, 14]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [14, 14]},
    }
    assert content[8 + length :] == np.array([1, 1, 0, 0, 0, 0, 5], "<f2").tobytes()
    assert b"__metadata__" not in write_safetensors(tmp_path / "y", {}, []).read_bytes()


def broken() -> Iterator[np.ndarray]:
    yield np.zeros((1, 2), np.float32)
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 3)), r"x must have shape \(3, 2\), got \(3, 3\)"),
        (np.zeros(6), r"x must have shape \(3, 2\), got \(6,\)"),
        ([np.zeros((2, 2))], r"x must have shape \(3, 2\), got \(2, 2\)"),
        ([np.zeros((2, 2)), np.zeros((2, 2))], r"x must have shape \(3, 2\), got \(4, 2\)"),
        (broken(), "Input/output error: .*file"),
    ],
)
def test_arrays_that_are_not_as_they_were_said_leave_no_file(array: Any, message: str, tmp_path: Path):
    with pytest.raises((ValueError, OSError), match=message):
        write_safetensors(tmp_path / "file", {"x": (3, 2)}, [array])
    with pytest.raises(ValueError, match="shorter"):
        write_safetensors(tmp_path / "file", {"x": (3, 2), "y": (1,)}, [np.zeros((3, 2))])
    assert os.listdir(tmp_path) == []
