"""Raw rows, and the pieces of documents that they hold."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

Rows = dict[str, np.ndarray]
# The label where nothing counts: no id, as that of padding may be one that is predicted (GPT-2 pads with the end).
IGNORED = -1
# The seed, and the number of each row, of the shape that the rows have in front of their last axis.
Key = tuple[int, Any]


def check_rows(rows: Rows) -> None:
    """Checks that rows are wide enough for something to be predicted.

    Raises:
        ValueError: they are not.
    """
    if rows["tokens"].shape[-1] < 2:
        raise ValueError(f"a row must have at least 2 tokens, got {rows['tokens'].shape[-1]}.")


class Pieces(NamedTuple):
    """The segments of many rows, one after another, and their tokens.

    Attributes:
        row, segment, index: of each piece: the row that it stands in, its number there, and that row's number.
        sizes: tokens of each piece.
        flat: of each token its place in all rows.
        place: of each token its place in its piece.
        of: of each token the piece.
        total: places of all rows.
    """

    row: Int64[np.ndarray, " P"]
    segment: Int64[np.ndarray, " P"]
    index: Int64[np.ndarray, " P"]
    sizes: Int64[np.ndarray, " P"]
    flat: Int64[np.ndarray, " N"]
    place: Int64[np.ndarray, " N"]
    of: Int64[np.ndarray, " N"]
    total: int


def pieces_of(rows: Rows, key: Key) -> Pieces:
    """Returns the segments of some rows.

    Raises:
        ValueError: there is not one number for each row.
    """
    segments = rows["segments"]
    width = segments.shape[-1]
    index = np.asarray(key[1], np.int64)
    if index.shape != segments.shape[:-1]:
        raise ValueError(f"index must number each row, got index.shape={index.shape} and rows of {segments.shape}.")
    whole = segments.reshape(-1, width)
    begins = np.ones(whole.shape, bool)
    begins[:, 1:] = whole[:, 1:] != whole[:, :-1]
    flat = np.flatnonzero(whole)
    starts = np.flatnonzero(begins.reshape(-1) & (whole.reshape(-1) > 0))
    of = np.searchsorted(starts, flat, side="right") - 1
    row = starts // width
    return Pieces(
        row=row,
        segment=whole.reshape(-1)[starts].astype(np.int64),
        index=index.reshape(-1)[row],
        sizes=np.bincount(of, minlength=starts.size).astype(np.int64),
        flat=flat,
        place=flat - starts[of],
        of=of,
        total=whole.size,
    )
