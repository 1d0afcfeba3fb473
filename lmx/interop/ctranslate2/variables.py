"""CTranslate2's binary file of variables, read by parts and written: versions 2 to 6, without that package.

A file is: version, name and revision of the specification, variables, aliases (from version 3). Numbers are little
endian; a text has its length with a closing zero in front. A variable has its name, rank, sizes, type, and bytes: from
version 4 the type by its number and the length in bytes, before that the bytes of an item and the number of items.
Source: https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py.

Weights of 8 bits have a scale for each row, those of 16 bits one for all, below their name and "_scale": the value is
what is written, divided by the scale.
"""

import functools
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from lmx.differences import few
from lmx.errors import InputError, naming

VERSIONS = (2, 3, 4, 5, 6)
WRITTEN_VERSION = 6
# By their numbers; NumPy has no bfloat16, which is read as the upper half of float32.
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
SIZES = {"float32": 4, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2}
BY_SIZE = {4: "float32", 1: "int8", 2: "int16"}  # what versions before 4 mean by an item of so many bytes
LARGEST = 2**32 - 1  # bytes of a variable: the format has four bytes for their number
SCALE = "_scale"


class Stored(NamedTuple):
    """Where a variable lies in the file.

    Attributes:
        kind: one of `TYPES`.
        offset: of its first byte.
    """

    shape: tuple[int, ...]
    kind: str
    offset: int


@dataclass(frozen=True)
class Variables:
    """The variables of a model.bin; `read` reads the bytes of the rows that are asked for.

    Attributes:
        path: of the file.
        version: of the binary format.
        spec, revision: name and revision of what the variables describe: "TransformerSpec".
        stored: where each variable lies, aliases included.
        aliases: names of variables that are another: "decoder/projection/weight" of a tied table.
    """

    path: Path
    version: int
    spec: str
    revision: int
    stored: Mapping[str, Stored]
    aliases: Mapping[str, str]

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self.path)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the weights, without the scales of others and without settings."""
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: each.shape
            for name, each in self.stored.items()
            if each.shape and not (name.endswith(SCALE) and name.removesuffix(SCALE) in self.stored)
        }

    def setting(self, name: str) -> int | float | None:
        """Returns a variable that is one number, or None where there is none of this name.

        Raises:
            InputError: it is more than a number.
        """
        if name not in self.stored:
            return None
        values = self._raw(name, ())
        if values.size != 1:
            raise InputError(f"{self.path} must have one number in {name}, got shape {values.shape}.")
        return values.reshape(()).item()

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns a weight, or a part of it, in float32 and without its quantisation.

        Raises:
            InputError: it is quantised in a way that is not known here.
        """
        values = self._raw(name, index)
        kind = self.stored[name].kind
        if kind == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        if kind in ("float32", "float16"):
            return values.astype(np.float32)
        if kind == "int32" or name + SCALE not in self.stored:
            raise InputError(
                f"{self.path} must have weights of 8 bits with {SCALE}, of 16 or of 32 bits, got {name} of {kind}. "
                "Convert the model again without AWQ."
            )
        scale = self._raw(name + SCALE, ())
        if scale.shape not in ((), (1,), self.stored[name].shape[:1]):
            raise InputError(f"{self.path} must have a scale for each row of {name}, got shape {scale.shape}.")
        if scale.size > 1:
            scale = scale[index[:1]].reshape(-1, *[1] * (values.ndim - 1))
        return values.astype(np.float32) / scale.astype(np.float32)

    def _raw(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        shape, kind, offset = self.stored[name]
        dtype = np.dtype("<u2" if kind == "bfloat16" else kind).newbyteorder("<")
        if not math.prod(shape):
            return np.zeros(shape, dtype)[index]
        # Mapped, so that only the pages of the part are read.
        mapped = np.memmap(self.path, dtype, mode="r", offset=offset, shape=shape or (1,))
        return np.array(mapped[index] if shape else mapped[0])


def read_variables(path: Path) -> Variables:
    """Reads which variables a model.bin has, and no weight of them.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is of another format or version, cut, longer than it says, or says what cannot be.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: it holds the weights of a CTranslate2 model.")
    with path.open("rb") as file:
        reader = _Reader(file, path, size=path.stat().st_size)
        version = reader.number("I", "the version")
        if version not in VERSIONS:
            known = f"{VERSIONS[0]} to {VERSIONS[-1]}"
            raise InputError(
                f"{path} must be a CTranslate2 model of binary version {known}, got {version}. "
                "Convert the model again with a version of CTranslate2 that writes one of these."
            )
        spec = reader.text("the name of the specification")
        revision = reader.number("I", "the revision")
        stored: dict[str, Stored] = {}
        for name, each in reader.variables(version):
            if name in stored:
                raise InputError(f"{path} must have each variable once, got {name} twice.")
            stored[name] = each
        aliases = dict(reader.aliases()) if version >= 3 else {}
        reader.end()
    if missing := sorted(set(aliases.values()) - stored.keys()):
        raise InputError(f"{path} must have the variables that others are, got no {few(missing)}.")
    # The scale of an alias is that of the variable, as the package has it.
    aliases |= {f"{name}{SCALE}": f"{other}{SCALE}" for name, other in aliases.items() if f"{other}{SCALE}" in stored}
    stored |= {name: stored[other] for name, other in aliases.items()}
    return Variables(path, version, spec, revision, stored, aliases)


class _Reader:
    """Reads the parts of a file in turn; what goes past its end is an error that names the part."""

    def __init__(self, file: BinaryIO, path: Path, *, size: int):
        self.file, self.path, self.size = file, path, size

    def number(self, code: str, what: str) -> int:
        """Returns the next integer of a kind that `struct` names."""
        (value,) = struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}"), what))
        return value

    def text(self, what: str) -> str:
        """Returns the next text, without the zero that closes it."""
        text = self._bytes(self.number("H", what), what)
        if not text.endswith(b"\0"):
            raise InputError(f"{self.path} must have {what} with a closing zero, got {text[:40]!r}.")
        try:
            return text[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} must have {what} in UTF-8, got {text[:40]!r}.") from error

    def variables(self, version: int) -> Iterator[tuple[str, Stored]]:
        """Yields the variables, and skips their bytes."""
        for index in range(self.number("I", "the number of variables")):
            name = self.text(f"the name of variable {index}")
            rank = self.number("B", f"the rank of {name}")
            shape = tuple(self.number("I", f"the shape of {name}") for _ in range(rank))
            if version >= 4:
                number = self.number("B", f"the type of {name}")
                kind = TYPES[number] if number < len(TYPES) else None
                length = self.number("I", f"the length of {name}")
            else:
                number = self.number("B", f"the size of an item of {name}")
                kind = BY_SIZE.get(number)
                length = number * self.number("I", f"the length of {name}")
            if kind is None:
                raise InputError(f"{self.path} must have variables of {', '.join(TYPES)}, got type {number} of {name}.")
            if length != math.prod(shape) * SIZES[kind]:
                raise InputError(
                    f"{self.path} must have {math.prod(shape) * SIZES[kind]:,} bytes of {name}, whose shape is {shape} "
                    f"in {kind}, got {length:,}."
                )
            offset = self.file.tell()
            if offset + length > self.size:
                self._cut(name)
            self.file.seek(length, os.SEEK_CUR)
            yield name, Stored(shape, kind, offset)

    def aliases(self) -> Iterator[tuple[str, str]]:
        """Yields the names that stand for other variables, and those."""
        for index in range(self.number("I", "the number of aliases")):
            yield self.text(f"alias {index}"), self.text(f"the variable of alias {index}")

    def end(self) -> None:
        """Checks that all has been read."""
        if (rest := self.size - self.file.tell()) > 0:
            raise InputError(f"{self.path} must end after its variables, got {rest:,} bytes more.")

    def _bytes(self, number: int, what: str) -> bytes:
        found = self.file.read(number)
        if len(found) < number:
            self._cut(what)
        return found

    def _cut(self, what: str) -> None:
        raise InputError(f"{self.path} must be a whole model.bin, got {self.size:,} bytes, which end within {what}.")


def write_variables(
    path: Path,
    *,
    spec: str,
    revision: int,
    number: int,
    variables: Iterable[tuple[str, np.ndarray | np.generic]],
    aliases: Mapping[str, str],
) -> None:
    """Writes a model.bin of version 6; each variable is taken when it is its turn.

    Args:
        number: of the variables.

    Raises:
        InputError: a variable is larger than the format can say.
        OSError: it cannot be written; the message names the file.
    """

    def text(words: str) -> bytes:
        encoded = words.encode()
        return struct.pack("<H", len(encoded) + 1) + encoded + b"\0"

    with naming(path), path.open("wb") as file:
        file.write(struct.pack("<I", WRITTEN_VERSION) + text(spec) + struct.pack("<II", revision, number))
        written = 0
        for name, values in variables:
            written += 1
            if values.nbytes > LARGEST:
                raise InputError(
                    f"{name} must have at most {LARGEST:,} bytes in CTranslate2's format, got {values.nbytes:,}. "
                    "Export in float16 or int8."
                )
            file.write(text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape))
            file.write(struct.pack("<BI", TYPES.index(values.dtype.name), values.nbytes))
            file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        assert written == number, (written, number)
        file.write(struct.pack("<I", len(aliases)))
        for name, other in sorted(aliases.items()):
            file.write(text(name) + text(other))


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a matrix in 8 bits, and the scale of each row: 127 by its largest value."""
    largest = np.abs(values).max(axis=1, initial=0.0)
    scale = np.where(largest == 0, 1, 127 / np.maximum(largest, 127 / np.finfo(np.float32).max)).astype(np.float32)
    return np.rint(values * scale[:, None]).astype(np.int8), scale
