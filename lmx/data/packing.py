"""Whole documents packed into rows of one length: an efficiency that is known before, whatever the documents are.

Documents come in an order of their own each epoch, and are packed pool by pool; a pool is a fixed number of tokens and
of rows, so that any row is found without those before it. What a corpus is, `lmx.data.shards` says; batches are
`lmx.data.windows`'s.
"""

import bisect
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from lmx.data.buckets import permutation
from lmx.data.permutation import permuted
from lmx.data.shards import TokenCorpus

POOL_ROWS = 256
FILL = 0.99  # of a pool's places; the rest gives best-fit its room
_BLOCK = 4096  # documents whose lengths are summed up at once


class Pool(NamedTuple):
    """Pieces of documents in the rows of a pool, in the order of the rows.

    Attributes:
        begins: first token of each piece in its corpus.
        lengths: of the pieces.
        offsets: place of each piece in its row.
        first: number of the first piece of each row, and the end.
        num_cut: pieces that best-fit had no place for: they were cut.
    """

    begins: Int64[np.ndarray, " pieces"]
    lengths: Int64[np.ndarray, " pieces"]
    offsets: Int64[np.ndarray, " pieces"]
    first: Int64[np.ndarray, " rows_and_one"]
    num_cut: int


class PackedRows:
    """Rows of whole documents: row i is a pure function of (seed, i).

    The documents of an epoch, in its order, make one stream of tokens. Pool p holds its tokens p T to (p + 1) T - 1,
    with T a share `FILL` of the places in `POOL_ROWS` rows. A document that is longer than a row is cut into rows; the
    rest are placed where they leave the least room, longest first. What then fits nowhere is cut to fill the largest
    gaps, so that all pools are equally full. `begins` of pools are found by summing up lengths, as far as they are
    asked for: one number is kept for each 4,096 documents.

    Args:
        width: tokens of a row.
        seed: of the order.
    """

    def __init__(self, corpus: TokenCorpus, *, width: int, seed: int):
        self.corpus, self.width, self._seed = corpus, width, seed
        self._pool_tokens = max(1, int(POOL_ROWS * width * FILL))
        self._pools, rest = divmod(corpus.num_tokens, self._pool_tokens)
        self._rows_of_last = -(-rest // max(1, int(width * FILL)))
        self.rows_per_epoch = self._pools * POOL_ROWS + self._rows_of_last
        # Batches ask for rows of one pool or of two; `prefetch` may be in the next one.
        self._pool = functools.lru_cache(maxsize=4)(self._make_pool)
        self._sums: dict[int, list[int]] = {}

    @property
    def efficiency(self) -> float:
        """Share of all places that holds a token."""
        return self.corpus.num_tokens / (self.rows_per_epoch * self.width)

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> dict[str, np.ndarray]:
        """Returns the raw rows of some numbers, see `lmx.data.windows.Windows`."""
        shape = (numbers.size, self.width)
        arrays = {name: np.zeros(shape, np.int32) for name in ("segments", "positions")}
        arrays["tokens"] = np.full(shape, self.corpus.pad_id, np.int32)
        if self.corpus.has_counts:
            arrays["counts"] = np.zeros(shape, np.int32)
        for pool, here, rows in self._places(numbers):
            fill_rows(arrays, self.corpus, pool, here, rows)
        return arrays

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token, all together."""
        total = 0
        for pool, _, rows in self._places(numbers):
            sums = np.concatenate([[0], np.cumsum(pool.lengths)])
            total += int(np.minimum(sums[pool.first[rows + 1]] - sums[pool.first[rows]], length).sum())
        return total

    def share_cut(self) -> float:
        """Returns which share of the pieces in the first pool was cut to fill gaps."""
        pool = self._pool(0, 0)
        return pool.num_cut / max(1, pool.lengths.size)

    def _places(self, numbers: np.ndarray) -> list[tuple[Pool, np.ndarray, np.ndarray]]:
        """Returns the pools of some rows, and of each pool which of the numbers are its, and their rows in it."""
        epochs, rows = np.divmod(numbers, self.rows_per_epoch)
        pools, rows = np.divmod(rows, POOL_ROWS)
        found = []
        for epoch, pool in np.unique(np.stack([epochs, pools], axis=-1), axis=0).tolist():
            here = np.flatnonzero((epochs == epoch) & (pools == pool))
            found.append((self._pool(epoch, pool), here, rows[here]))
        return found

    def _make_pool(self, epoch: int, number: int) -> Pool:
        begins, lengths = self._documents(epoch, number * self._pool_tokens)
        pieces, sizes = cut_long(begins, lengths, width=self.width)
        num_rows = POOL_ROWS if number < self._pools else self._rows_of_last
        pool = pack(pieces, sizes, num_rows=num_rows, width=self.width)
        # Best-fit leaves the longest in front: a batch would hold documents of one length.
        return _ordered(pool, permutation(num_rows, key=(self._seed, 3, epoch, number)))

    def _documents(self, epoch: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns begin and length of the documents whose tokens are a pool's; the first and the last may be a part."""
        corpus, end = self.corpus, min(place + self._pool_tokens, self.corpus.num_tokens)
        blocks = -(-corpus.num_documents // _BLOCK)
        sums = self._sums.setdefault(epoch, [0])
        if len(self._sums) > 2:
            del self._sums[min(self._sums)]
        while sums[-1] < end and len(sums) <= blocks:
            begins, ends = self._block(epoch, len(sums) - 1)
            sums.append(sums[-1] + int((ends - begins).sum()))
        first, last = bisect.bisect_right(sums, place) - 1, bisect.bisect_left(sums, end)
        found = [self._block(epoch, block) for block in range(first, last)]
        begins, ends = (np.concatenate(side) for side in zip(*found, strict=True))
        upto = sums[first] + np.cumsum(ends - begins)
        # Of each document, what lies before the pool and behind it.
        before = np.clip(place - (upto - (ends - begins)), 0, None)
        behind = np.clip(upto - end, 0, None)
        lengths = ends - begins - before - behind
        return (begins + before)[lengths > 0], lengths[lengths > 0]

    def _block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        number = self.corpus.num_documents
        places = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, number))
        return self.corpus.bounds(permuted(places, number, (self._seed, 4, epoch)))


def cut_long(
    begins: Int64[np.ndarray, " documents"], lengths: Int64[np.ndarray, " documents"], *, width: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " pieces"]]:
    """Returns begin and length of the pieces of documents, none longer than a row, all but the last as long."""
    counts = -(-lengths // width)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
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
    upto = np.cumsum(lengths) - lengths
    first = np.searchsorted(rows, np.arange(num_rows + 1))
    upto_row = np.concatenate([upto, [int(lengths.sum())]])[first]
    return Pool(begins, lengths, upto - upto_row[rows], first, homeless.size)


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


def fill_rows(
    arrays: dict[str, np.ndarray], corpus: TokenCorpus, pool: Pool, here: np.ndarray, rows: np.ndarray
) -> None:
    """Writes rows of a pool into arrays, at the places `here`."""
    width = arrays["tokens"].shape[1]
    counts = pool.first[rows + 1] - pool.first[rows]
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of each piece in its row
    pieces = np.repeat(pool.first[rows], counts) + number
    lengths = pool.lengths[pieces]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.repeat(np.repeat(here, counts) * width + pool.offsets[pieces], lengths) + within
    places = np.repeat(pool.begins[pieces], lengths) + within
    arrays["tokens"].reshape(-1)[at] = corpus.take(places)
    arrays["segments"].reshape(-1)[at] = np.repeat(number + 1, lengths)
    arrays["positions"].reshape(-1)[at] = within
    if "counts" in arrays:
        arrays["counts"].reshape(-1)[at] = corpus.take_counts(places)


def _ordered(pool: Pool, order: np.ndarray) -> Pool:
    """Returns a pool with its rows in another order."""
    counts = np.diff(pool.first)[order]
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.repeat(pool.first[order], counts) + number
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Pool(pool.begins[pieces], pool.lengths[pieces], pool.offsets[pieces], first, pool.num_cut)
