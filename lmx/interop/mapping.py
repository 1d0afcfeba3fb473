"""The table between a foreign model's arrays and ours, read in both directions.

A row says how one of our arrays lies in one of theirs. In a layout each letter is an axis, and a space ends an axis of
the array: "D H K -> HK D" is a matrix of theirs, transposed, whose heads lie flat. The letters are those of the whole
library: D width, H heads, G key heads, K width of a head, F feed-forward width, V words, T positions. In front of all
of ours stands the axis of layers where their name has a place for a layer's number.
"""

import fnmatch
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmx.errors import InputError
from lmx.interop.tensors import Index, Source
from lmx.parameters import differences_of_shapes

LAYER = "{layer}"
PIECE = 8 << 20  # bytes of a large array that are held at one time while it is copied from file to file


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one of our arrays lies in theirs.

    Attributes:
        ours: path of the parameter, joined by ".".
        theirs: its name there, with "{layer}" where the number of a layer stands; other names it may have follow.
        layout: axes of ours -> axes of theirs.
        start: where ours begins along `axis` of theirs, which holds other arrays too (queries, keys and values in one),
            or rows that are not used (positions).
        axis: of theirs, see `start`.
        optional: where they have none, ours is zeros.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: str
    start: int = 0
    axis: int = 0
    optional: bool = False

    @functools.cached_property
    def axes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The letters of each axis, of ours and of theirs."""
        ours, theirs = self.layout.split("->")
        return tuple(ours.split()), tuple(theirs.split())

    @property
    def stacked(self) -> bool:
        """Whether each layer is an array of its own there."""
        return LAYER in self.theirs[0]


def row(ours: str, theirs: str | Sequence[str], layout: str, **where: Any) -> Row:
    """Returns a row of a table, see `Row`."""
    names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
    return Row(ours=ours, theirs=names, layout=layout, **where)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a family, and the sizes of the letters in them.

    Attributes:
        sizes: of each letter as they store it; words (V) without padding.
        ignored: patterns of their names that hold nothing of ours: constants, and arrays that are stored twice.
        zeros: shapes of arrays that they must have and we have not, such as a bias: written as zeros, never read.
    """

    rows: tuple[Row, ...]
    sizes: Mapping[str, int]
    ignored: tuple[str, ...] = ()
    zeros: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Part:
    """One array of `Mapped`: its shape, and slices that read only their own bytes."""

    def __init__(self, mapped: "Mapped", name: str):
        self._mapped, self._name = mapped, name

    def get_shape(self) -> list[int]:
        """Returns the shape under our name."""
        return list(self._mapped.shapes[self._name])

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        whole = tuple(slice(each, each + 1) if isinstance(each, int) else each for each in index)
        single = tuple(axis for axis, each in enumerate(index) if isinstance(each, int))
        return self._mapped.read(self._name, whole).squeeze(single)


class Mapped:
    """A foreign source under our names and with our shapes; reads like a safetensors file of our own.

    Args:
        shapes: of our model's parameters, by path.

    Raises:
        InputError: the source lacks arrays of the table, or they have other shapes; the message is a table of them.
    """

    def __init__(self, source: Source, table: Table, shapes: Mapping[str, tuple[int, ...]]):
        self.source, self.table = source, table
        self._rows = {each.ours: each for each in table.rows if each.ours in shapes}
        self.shapes = {name: tuple(shapes[name]) for name in self._rows}
        if lacking := sorted(shapes.keys() - self._rows.keys()):
            raise ValueError(f"the table must have a row for each parameter, got none for {lacking[0]}.")
        self._check()

    def keys(self) -> list[str]:
        """Returns our names."""
        return list(self.shapes)

    def get_slice(self, name: str) -> Part:
        """Returns an array that is read only where it is asked."""
        return Part(self, name)

    def get_tensor(self, name: str) -> np.ndarray:
        """Returns an array as a whole."""
        return self.read(name, ())

    def unused(self) -> list[str]:
        """Returns the names of theirs that no row reads."""
        used = {self._find(each, layer) for each in self._rows.values() for layer in self._layers(each)}
        left = sorted(self.source.shapes.keys() - used - self.table.zeros.keys())
        return [name for name in left if not any(fnmatch.fnmatchcase(name, each) for each in self.table.ignored)]

    def read(self, name: str, index: Index) -> np.ndarray:
        """Returns a part of an array under our name, in float32."""
        found, shape = self._rows[name], self.shapes[name]
        ranges = _ranges(index, shape)
        if not found.stacked:
            return self._read(found, None, ranges)
        layers = range(shape[0])[ranges[0]]
        whole = np.empty((len(layers), *map(_length, ranges[1:])), np.float32)  # one layer at a time beside it
        for place, layer in enumerate(layers):
            whole[place] = self._read(found, layer, ranges[1:])
        return whole

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Yields an array under our name piece by piece along its first axis, of one layer or of some MiB each."""
        shape = self.shapes[name]
        if not shape:
            yield self.get_tensor(name)
            return
        step = max(1, PIECE // max(4 * math.prod(shape[1:]), 1))
        for begin in range(0, shape[0], step):
            yield self.read(name, (slice(begin, begin + step),))

    def asked(self, name: str, index: Index) -> Iterator[tuple[str, Index]]:
        """Yields the parts of their arrays that `read` reads for a part of ours."""
        found, shape = self._rows[name], self.shapes[name]
        ranges = _ranges(index, shape)
        for layer in range(shape[0])[ranges[0]] if found.stacked else [None]:
            if (theirs := self._find(found, layer)) is not None:
                yield theirs, self._cut(found, ranges[1:] if found.stacked else ranges)[0]

    def _read(self, found: Row, layer: int | None, ranges: Sequence[slice]) -> np.ndarray:
        """Returns a part of one array of theirs as ours lies."""
        ours, theirs = found.axes
        wanted = list(map(_length, ranges))
        name = self._find(found, layer)
        if name is None:
            return np.zeros(wanted, np.float32)
        part, read_shape = self._cut(found, ranges)
        values = _rearranged(self.source.read(name, part).reshape(read_shape), theirs, ours)
        led = {letters[0] for letters in theirs}
        cut = [
            slice(None, None, each.step) if letters in led and len(letters) == 1 else each
            for letters, each in zip(ours, ranges, strict=True)
        ]
        values = values[tuple(cut)]
        short = [size - there for size, there in zip(wanted, values.shape, strict=True)]
        return np.pad(values, [(0, more) for more in short]) if any(short) else values

    def _cut(self, found: Row, ranges: Sequence[slice]) -> tuple[Index, list[int]]:
        """Returns the part of one array of theirs that holds a part of ours, and the sizes of its letters."""
        ours, theirs = found.axes
        sizes = self.table.sizes
        # Only an axis of a single letter is cut before it is read; the rest of the cut follows.
        spans = {
            letters: (min(each.start, sizes[letters]), min(each.stop, sizes[letters]))
            for letters, each in zip(ours, ranges, strict=True)
            if len(letters) == 1
        }
        part, read_shape = [], []
        for axis, letters in enumerate(theirs):
            first, last = spans.get(letters[0], (0, sizes[letters[0]]))
            inner = math.prod(sizes[letter] for letter in letters[1:])
            start = found.start if axis == found.axis else 0
            part.append(slice(start + first * inner, start + last * inner))
            read_shape += [last - first, *(sizes[letter] for letter in letters[1:])]
        return tuple(part), read_shape

    def _layers(self, found: Row) -> Sequence[int | None]:
        return range(self.shapes[found.ours][0]) if found.stacked else [None]

    def _find(self, found: Row, layer: int | None) -> str | None:
        """Returns the name that an array of theirs has in this source, or None."""
        for name in found.theirs:
            for each in spellings(_named(name, layer)):
                if each in self.source.shapes:
                    return each
        return None

    def _check(self) -> None:
        """Checks that the source has what the table reads, in the table's shapes."""
        wanted = their_shapes(self.table, self.shapes)
        there: dict[str, str] = {}
        for found in self._rows.values():
            for layer in self._layers(found):
                name, first = self._find(found, layer), _named(found.theirs[0], layer)
                if name is not None:
                    there[first] = str(self.source.shapes[name])
                elif found.optional:
                    there[first] = str(wanted[first])
        problems = differences_of_shapes(there, {name: str(shape) for name, shape in wanted.items()}, "there")
        if problems:
            listed = problems.replace("; ", "\n  ")
            raise InputError(f"{self.source.where} must have the arrays that its config says, got\n  {listed}.")


def spellings(name: str) -> Iterator[str]:
    """Yields the names that an array may have: its own, that of a model saved without a head, and BERT's first ones."""
    for each in (name, name.partition(".")[2]):
        if each:
            yield each
            yield each.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def their_shapes(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of their arrays, under the first of their names.

    Args:
        shapes: of our parameters, by path; they say how many layers there are, and rows of others are left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, parts in _parts(table, shapes).items():
        axis = parts[0][0].axis
        ends = [_extent(each, table.sizes) for each, _ in parts]
        shape = list(ends[0])
        shape[axis] = max(end[axis] for end in ends)
        found[name] = tuple(shape)
    return found


def their_arrays(table: Table, shapes: Mapping[str, tuple[int, ...]], ours: Any) -> Iterator[np.ndarray]:
    """Yields their arrays, in the order of `their_shapes`, one at a time.

    Args:
        ours: parameters by path, as an open safetensors file gives them (`get_slice`).
    """
    wholes = their_shapes(table, shapes)
    for name, parts in _parts(table, shapes).items():
        whole = np.zeros(wholes[name], np.float32)
        for each, layer in parts:
            part = ours.get_slice(each.ours)
            array = np.asarray(part[:] if layer is None else part[layer], np.float32)
            mine, theirs = each.axes
            array = array[tuple(slice(math.prod(table.sizes[letter] for letter in letters)) for letters in mine)]
            letters = [letter for group in mine for letter in group]
            array = _rearranged(array.reshape([table.sizes[letter] for letter in letters]), mine, theirs)
            place = [slice(None)] * array.ndim
            place[each.axis] = slice(each.start, each.start + array.shape[each.axis])
            whole[tuple(place)] = array
        yield whole


def _parts(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[tuple[Row, int | None]]]:
    """Returns what each of their arrays is made of: rows, and the layer of each."""
    parts: dict[str, list[tuple[Row, int | None]]] = {}
    for each in table.rows:
        if each.ours in shapes:
            for layer in range(shapes[each.ours][0]) if each.stacked else [None]:
                parts.setdefault(_named(each.theirs[0], layer), []).append((each, layer))
    return parts


def _extent(found: Row, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the shape of theirs up to where ours ends in it."""
    shape = [math.prod(sizes[letter] for letter in letters) for letters in found.axes[1]]
    return tuple(size + found.start * (axis == found.axis) for axis, size in enumerate(shape))


def _ranges(index: Index, shape: tuple[int, ...]) -> list[slice]:
    """Returns a slice with both ends for each axis."""
    ranges = [slice(*part.indices(size)) for part, size in zip(index, shape, strict=False)]
    return ranges + [slice(0, size, 1) for size in shape[len(ranges) :]]


def _length(part: slice) -> int:
    return len(range(part.start, part.stop, part.step))


def _named(name: str, layer: int | None) -> str:
    return name if layer is None else name.format(layer=layer)


def _rearranged(values: np.ndarray, there: Sequence[str], here: Sequence[str]) -> np.ndarray:
    """Returns an array with an axis for each letter of `there`, laid out by the axes of `here`."""
    order = "".join(there)
    values = values.transpose([order.index(letter) for letter in "".join(here)])
    ends = list(itertools.accumulate(map(len, here), initial=0))
    return values.reshape([math.prod(values.shape[a:b]) for a, b in itertools.pairwise(ends)])
