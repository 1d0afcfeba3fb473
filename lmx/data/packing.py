"""Pieces of documents placed in rows of one width, with as little room left as can be.

Here a piece is its first token and its length. Which pieces there are, and when, is `lmx.data.packed_rows`'s.
"""

import bisect
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmx.data.shards import TokenCorpus


class Pool(NamedTuple):
    """Pieces of documents in the rows of a pool, in the order of the rows.

    Attributes:
        begins: first token of each piece in its corpus.
        lengths: of the pieces.
        offsets: place of each piece in its row.
        first: number of the first piece of each row, and the end.
        sizes: tokens of each row.
        num_cut: pieces that had no place as they were, and were cut to fill gaps.
    """

    begins: Int64[np.ndarray, " pieces"]
    lengths: Int64[np.ndarray, " pieces"]
    offsets: Int64[np.ndarray, " pieces"]
    first: Int64[np.ndarray, " rows_and_one"]
    sizes: Int64[np.ndarray, " rows"]
    num_cut: int


def cut_long(
    begins: Int64[np.ndarray, " documents"], lengths: Int64[np.ndarray, " documents"], *, width: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " pieces"]]:
    """Returns begin and length of the pieces of documents, none longer than a row, all but the last as long."""
    counts = -(-lengths // width)
    number = numbers_within(counts)
    return np.repeat(begins, counts) + number * width, np.minimum(np.repeat(lengths, counts) - number * width, width)


def pack(
    begins: Int64[np.ndarray, " pieces"], lengths: Int64[np.ndarray, " pieces"], *, num_rows: int, width: int
) -> Pool:
    """Places pieces in rows: best-fit decreasing, and what has no place is cut to fill the largest gaps.

    Raises:
        ValueError: there are more tokens than places.
    """
    if lengths.sum() > num_rows * width:
        raise ValueError(f"pieces must fit in {num_rows} rows of {width}, got {lengths.sum():,} tokens.")
    rows = np.full(len(lengths), -1, np.int64)
    order = np.argsort(-lengths, kind="stable")
    rooms: list[list[int]] = [[] for _ in range(width + 1)]  # rows by the room that is left in them
    rooms[width] = list(range(num_rows))[::-1]
    some = [width]  # rooms that have rows, in order
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect.bisect_left(some, length)
        if place == len(some):
            continue
        room = some[place]
        row = rows[piece] = rooms[room].pop()
        if not rooms[room]:
            del some[place]
        if left := room - length:
            if not rooms[left]:
                bisect.insort(some, left)
            rooms[left].append(row)
    homeless = np.flatnonzero(rows < 0)
    if homeless.size:
        gaps = [(room, row) for room in reversed(some) for row in rooms[room]]
        begins, lengths, rows = _fill_gaps(begins, lengths, rows, gaps)
    order = np.argsort(rows, kind="stable")
    begins, lengths, rows = begins[order], lengths[order], rows[order]
    upto = np.concatenate([[0], np.cumsum(lengths)])
    first = np.searchsorted(rows, np.arange(num_rows + 1))
    return Pool(begins, lengths, upto[:-1] - upto[first][rows], first, np.diff(upto[first]), homeless.size)


def _fill_gaps(
    begins: np.ndarray, lengths: np.ndarray, rows: np.ndarray, gaps: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the pieces without a row to fill gaps, given by their size and row, the largest first."""
    made: list[tuple[int, int, int]] = []
    homeless = np.flatnonzero(rows < 0)
    gaps = gaps[::-1]
    for begin, length in zip(begins[homeless].tolist(), lengths[homeless].tolist(), strict=True):
        while length:
            room, row = gaps.pop()
            taken = min(room, length)
            made.append((begin, taken, row))
            begin, length = begin + taken, length - taken
            if room > taken:
                gaps.append((room - taken, row))
    kept = rows >= 0
    more = np.array(made, np.int64).T
    return tuple(np.concatenate([old[kept], new]) for old, new in zip((begins, lengths, rows), more, strict=True))  # type: ignore[return-value]


def raw_rows(
    corpus: TokenCorpus, pool: Pool, rows: Int64[np.ndarray, " rows"], *, width: int
) -> dict[str, Int32[np.ndarray, "rows L"]]:
    """Returns some rows of a pool, as `lmx.data.windows` has them."""
    counts = pool.first[rows + 1] - pool.first[rows]
    number = numbers_within(counts)
    pieces = np.repeat(pool.first[rows], counts) + number
    lengths = pool.lengths[pieces]
    within = numbers_within(lengths)
    at = np.repeat(np.repeat(np.arange(rows.size) * width, counts) + pool.offsets[pieces], lengths) + within
    places = np.repeat(pool.begins[pieces], lengths) + within
    values = {
        "tokens": corpus.take(places),
        "segments": np.repeat(number + 1, lengths),
        "positions": within,
    }
    if corpus.has_counts:
        values["counts"] = corpus.take_counts(places)
    arrays = {}
    for name, value in values.items():
        arrays[name] = np.full((rows.size, width), corpus.pad_id if name == "tokens" else 0, np.int32)
        arrays[name].reshape(-1)[at] = value
    return arrays


def ordered(pool: Pool, order: Int64[np.ndarray, " rows"]) -> Pool:
    """Returns a pool with its rows in another order."""
    counts = np.diff(pool.first)[order]
    pieces = np.repeat(pool.first[order], counts) + numbers_within(counts)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Pool(pool.begins[pieces], pool.lengths[pieces], pool.offsets[pieces], first, pool.sizes[order], pool.num_cut)


def numbers_within(counts: Int64[np.ndarray, " groups"]) -> Int64[np.ndarray, " members"]:
    """Returns 0, 1, ... for the members of each group, one group after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
