"""Where arrays of others lie: read in parts from safetensors, whole or in shards, and written as a stream.

A file is mapped into memory, and a part of an array reads the bytes of that part alone. Nothing here executes what it
reads: formats that hold programs (pickle) are refused.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from lmx.errors import InputError, naming
from lmx.saved import read_record

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# The types of safetensors, by their names there.
TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
WRITTEN = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows

Index = tuple[slice, ...]


@runtime_checkable
class Source(Protocol):
    """Named arrays of a foreign model."""

    @property
    def where(self) -> str:
        """The file or folder, for messages."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of all arrays, by their names there."""
        ...

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array in float32; of the file, it reads that part alone."""
        ...


def stored_bytes(source: Source, name: str) -> int:
    """Returns how many bytes an array takes in its file: 4 a number, where the source does not say."""
    says = getattr(source, "nbytes", None)
    return 4 * math.prod(source.shapes[name]) if says is None else says(name)


class _Place(NamedTuple):
    """Where an array lies in a file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


class SafetensorsSource:
    """The arrays of safetensors files; made by `open_safetensors`."""

    def __init__(self, where: Path, places: Mapping[str, _Place]):
        self.where = str(where)
        self.shapes = {name: place.shape for name, place in places.items()}
        self._places = places

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array in float32; of the file, it reads that part alone."""
        file, dtype, shape, offset = self._places[name]
        if not math.prod(shape):
            return np.zeros(shape, np.float32)[index]
        mapped = np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(math.prod(shape) * dtype.itemsize,))
        return np.array(mapped.view(dtype).reshape(shape)[index], np.float32)

    def nbytes(self, name: str) -> int:
        """Returns how many bytes an array takes in its file."""
        place = self._places[name]
        return math.prod(place.shape) * place.dtype.itemsize


def open_safetensors(path: Path) -> SafetensorsSource:
    """Opens a safetensors file, or a folder that holds one, or several with their index.

    Raises:
        FileNotFoundError: there is none, or a shard of the index is missing.
        InputError: a file is damaged, or the folder has weights in a form that can hold programs.
    """
    if path.is_file():
        return SafetensorsSource(path, dict(_places(path)))
    if (index := path / INDEX).is_file():
        return SafetensorsSource(path, _places_of_shards(index))
    if (single := path / SINGLE).is_file():
        return SafetensorsSource(path, dict(_places(single)))
    if found := sorted(each.name for each in path.glob("*.bin")) + sorted(each.name for each in path.glob("*.pt")):
        raise InputError(
            f"{path} must have its weights as safetensors, got {found[0]}, which can hold programs and is not read. "
            f'Convert it where you trust it: python -c "from transformers import AutoModel as M; '
            f"M.from_pretrained('{path}').save_pretrained('{path}-safetensors')\" (with the class of its task in the "
            "place of AutoModel, such as AutoModelForSeq2SeqLM, or its head is lost)."
        )
    names = ", ".join(sorted(each.name for each in path.iterdir())[:8]) if path.is_dir() else ""
    raise FileNotFoundError(
        f"{path} must hold weights in {SINGLE} or {INDEX}, got {f'only {names}' if names else 'no such folder'}."
    )


def _places_of_shards(index: Path) -> dict[str, _Place]:
    """Returns where the arrays of an index lie."""
    weight_map = read_record(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} must have an object in weight_map, got {weight_map!r:.60}.")
    shards = sorted(set(map(str, weight_map.values())))
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{index.parent} must hold all {len(shards)} shards of {INDEX}, got no {', '.join(missing)}. "
            "Download them again."
        )
    places: dict[str, _Place] = {}
    for shard in shards:  # an array may lie in another shard, too: what the index says counts
        found = dict(_places(index.parent / shard))
        places |= {name: place for name, place in found.items() if str(weight_map.get(name, shard)) == shard}
    if absent := sorted(weight_map.keys() - places.keys()):
        raise InputError(f"{index} must name arrays of its shards, got {absent[0]}, which none of them has.")
    return places


def _places(path: Path) -> Iterator[tuple[str, _Place]]:
    """Yields where each array of a safetensors file lies."""
    problem = f"{path} must be a safetensors file, got"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise InputError(f"{problem} {size:,} bytes, too few for its header. Bring it back from a copy.")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
            read = [(name, *_described(entry)) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{problem} a damaged header ({error}). Bring it back from a copy.") from error
    for name, kind, shape, begin, end in read:
        if kind not in TYPES:
            raise InputError(f"{path} must have arrays of {', '.join(TYPES)}, got {kind} of {name}.")
        if end - begin != math.prod(shape) * TYPES[kind].itemsize or 8 + length + end > size:
            raise InputError(f"{problem} {size:,} bytes, too few for {name}. Bring it back from a copy.")
        yield name, _Place(path, TYPES[kind], shape, 8 + length + begin)


def _described(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    """Returns type, shape, and first and last place of an array, as a header describes it.

    Raises:
        LookupError, TypeError, ValueError: they are not all there, or not of their kinds.
    """
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    for number in (*shape, begin, end):
        if type(number) is not int or number < 0:
            raise ValueError(f"a size or place of {number!r:.40}")
    return str(entry["dtype"]), tuple(shape), begin, end


def write_safetensors(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    arrays: Iterable[np.ndarray | Iterable[np.ndarray]],
    *,
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes arrays to a safetensors file, atomically, and takes each only when it is its turn.

    Args:
        shapes: of the arrays, in their order.
        arrays: each whole, or as its parts along the first axis.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        OSError: it cannot be written; nothing is left of it.
        ValueError: an array has another shape than it was said to have.
    """
    kind = WRITTEN[dtype]
    numbers = TYPES[kind]
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + numbers.itemsize * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path), partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for (name, shape), array in zip(shapes.items(), arrays, strict=True):
                rows = 0
                for part in [array] if isinstance(array, np.ndarray) else array:
                    if part.ndim != len(shape) or part.shape[1:] != tuple(shape[1:]):
                        raise ValueError(f"{name} must have shape {tuple(shape)}, got {part.shape}.")
                    file.write(np.ascontiguousarray(part, dtype=numbers).reshape(-1).view(np.uint8).data)
                    rows += len(part) if shape else 0
                if shape and rows != shape[0]:
                    raise ValueError(f"{name} must have shape {tuple(shape)}, got {(rows, *shape[1:])}.")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
