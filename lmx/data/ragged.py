"""Rows of different lengths in one flat array: row i is `flat[offsets[i]:offsets[i + 1]]`.

Here are cutting padded rows out of it, keeping some of its rows and putting rows together. The arrays may be mapped
from a file (`lmx.data.cache`). What a row means is its owner's.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, UInt8


def padded_rows(
    flat: Int32[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " rows_and_one"],
    items: Int[np.ndarray, "*rows"],
    *,
    length: int,
    pad_id: int,
) -> Int32[np.ndarray, "*rows L"]:
    """Cuts rows out of a flat array and pads them, without a loop over rows or tokens; -1 is a row of padding."""
    begins = offsets[items][..., None]
    ends = np.where(items < 0, 0, offsets[items + 1])[..., None]
    positions = begins + np.arange(length)
    rows = flat.take(positions, mode="clip")
    return np.where(positions < ends, rows, np.int32(pad_id))


def select_rows(
    flat: Int32[np.ndarray, " tokens"], offsets: Int64[np.ndarray, " rows_and_one"], keep: Bool[np.ndarray, " rows"]
) -> tuple[Int32[np.ndarray, " kept_tokens"], Int64[np.ndarray, " kept_and_one"]]:
    """Returns a flat array of the rows to keep, and its offsets."""
    lengths: Int[np.ndarray, " rows"] = np.diff(offsets)
    return flat[np.repeat(keep, lengths)], np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64)


def ended_rows(
    flat: Int32[np.ndarray, " tokens"], lengths: Int64[np.ndarray, " rows"], *, end_id: int
) -> Int32[np.ndarray, " more_tokens"]:
    """Returns the flat array of rows with an id behind each."""
    return np.insert(flat, np.cumsum(lengths), np.int32(end_id))


class Strings(Sequence[Any]):
    """Strings, or tuples of them, in one array of UTF-8 that may be mapped: each is made when it is asked for.

    Args:
        data: all strings one after another.
        offsets: where each begins, and the end.
        items: number of the first string of each tuple, and the end; None where each string is by itself.
        chosen: which are here, in their order; None for all.
    """

    def __init__(
        self,
        data: UInt8[np.ndarray, " bytes"],
        offsets: Int64[np.ndarray, " strings_and_one"],
        *,
        items: Int64[np.ndarray, " items_and_one"] | None = None,
        chosen: Int64[np.ndarray, " chosen"] | None = None,
    ):
        self._data, self._offsets, self._items, self._chosen = data, offsets, items, chosen

    def __len__(self) -> int:
        """Returns the number of strings or tuples."""
        if self._chosen is not None:
            return len(self._chosen)
        return len(self._offsets if self._items is None else self._items) - 1

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        """Returns one, or a list of some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # which knows negative ones, and the end
        if self._chosen is not None:
            number = int(self._chosen[number])
        if self._items is None:
            return self._string(number)
        return tuple(map(self._string, range(int(self._items[number]), int(self._items[number + 1]))))

    def __iter__(self) -> Iterator[Any]:
        """Yields all of them."""
        return (self[number] for number in range(len(self)))

    def select(self, indices: Int64[np.ndarray, " chosen"]) -> "Strings":
        """Returns some of them, of which none is made now."""
        chosen = indices if self._chosen is None else self._chosen[indices]
        return Strings(self._data, self._offsets, items=self._items, chosen=chosen)

    def _string(self, number: int) -> str:
        begin, end = self._offsets[number : number + 2].tolist()
        return self._data[begin:end].tobytes().decode("utf-8", "surrogatepass")
