"""Foreign arrays whose rows stand in another order, or lack one, before a table names them as ours."""

from collections.abc import Mapping

import numpy as np

from lmx.interop.tensors import Index, Source, stored_bytes


def halves(num_heads: int, head_width: int) -> np.ndarray:
    """Returns the order of rows in which the features of each head that turn together stand in its two halves.

    In the files of llama.cpp, llama2.c and some others, neighbours turn together, as Su et al. 2021 write it; with us
    and in Hugging Face's library, a feature of the first half with the one that has its place in the second.
    """
    of_head = np.concatenate([np.arange(0, head_width, 2), np.arange(1, head_width, 2)])
    return (np.arange(num_heads)[:, None] * head_width + of_head).reshape(-1)


class Reordered:
    """A source, some arrays of which have their rows in another order.

    Args:
        orders: for names of arrays, which of its rows stands at each place.
    """

    def __init__(self, source: Source, orders: Mapping[str, np.ndarray]):
        self._source, self._orders = source, orders
        self.where, self.shapes = source.where, source.shapes

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array; reads the rows between the first and the last that are needed."""
        if name not in self._orders:
            return self._source.read(name, index)
        rows = self._orders[name][index[0] if index else slice(None)]
        if not rows.size:
            return self._source.read(name, (slice(0, 0), *index[1:]))
        first = int(rows.min())
        return self._source.read(name, (slice(first, int(rows.max()) + 1), *index[1:]))[rows - first]

    def nbytes(self, name: str) -> int:
        """Returns how many bytes an array takes in its file."""
        return stored_bytes(self._source, name)


class WithRow:
    """A source, some arrays of which have one more row behind theirs, all of one number.

    Args:
        rows: for names of arrays, that number; of a name that the source has not, all other rows are zeros.
        length: of the arrays that the source has not, without the row.
    """

    def __init__(self, source: Source, rows: Mapping[str, float], *, length: int):
        self._source, self._rows = source, rows
        self.where = source.where
        absent = {name: (length,) for name in rows if name not in source.shapes}
        shapes = {**source.shapes, **absent}
        longer = {name: (shapes[name][0] + 1, *shapes[name][1:]) for name in rows}
        self.shapes: Mapping[str, tuple[int, ...]] = {**shapes, **longer}

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array."""
        if name not in self._rows:
            return self._source.read(name, index)
        first, last, step = (index[0] if index else slice(None)).indices(self.shapes[name][0])
        end = self.shapes[name][0] - 1
        if name in self._source.shapes:
            there = self._source.read(name, (slice(min(first, end), min(last, end)), *index[1:]))
        else:
            there = np.zeros(max(min(last, end) - min(first, end), 0), np.float32)
        if last > end and first <= end:
            there = np.concatenate([there, np.full((1, *there.shape[1:]), self._rows[name], np.float32)])
        return there[::step]
