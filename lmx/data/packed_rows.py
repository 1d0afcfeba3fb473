"""Rows of whole documents: an efficiency that is known before, whatever the documents are.

Documents come in an order of their own each epoch, and are packed pool by pool; a pool is a fixed number of tokens and
of rows, so that any row is found without packing those before it. How pieces are placed is `lmx.data.packing`'s.
"""

import bisect
import functools
import math
import threading
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from lmx.data.buckets import permutation
from lmx.data.packing import Pool, cut_long, ordered, pack, raw_rows
from lmx.data.permutation import permuted
from lmx.data.shards import TokenCorpus

POOL_ROWS = 256
FILL = Fraction(984, 1000)  # of a pool's places: with more, best-fit has to cut several times as many documents
_BLOCK = 4096  # documents whose lengths are summed up at once


class PackedRows:
    """Rows of whole documents: row i is a pure function of (seed, i).

    The documents of an epoch, in its order, make one stream of tokens. Pool p holds its tokens p T to (p + 1) T - 1,
    with T a share `FILL` of the places in `POOL_ROWS` rows. A document that is longer than a row is cut into rows; the
    rest are placed where they leave the least room, longest first. What then fits nowhere is cut to fill the largest
    gaps, so that all pools are equally full. `begins` of pools are found by summing up lengths, as far as they are
    asked for: one number is kept for each 4,096 documents.

    Args:
        width: tokens of a row, with the `ahead` of them that only labels hold.
        seed: of the order.
    """

    def __init__(self, corpus: TokenCorpus, *, width: int, ahead: int, seed: int):
        self.corpus, self.width, self.ahead, self._seed = corpus, width, ahead, seed
        self._pool_tokens = max(1, int(POOL_ROWS * width * FILL))
        self._pools, rest = divmod(corpus.num_tokens, self._pool_tokens)
        self._rows_of_last = math.ceil(rest / (width * FILL))
        self.rows_per_epoch = self._pools * POOL_ROWS + self._rows_of_last
        # A large batch has rows of many pools. A thread makes a batch while the tokens of another are counted.
        self._pool = functools.lru_cache(maxsize=64)(self._make_pool)
        self._sums: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    @property
    def efficiency(self) -> float:
        """Share of all places that holds a token."""
        return self.corpus.num_tokens / (self.rows_per_epoch * self.width)

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> dict[str, np.ndarray]:
        """Returns the raw rows of some numbers, see `lmx.data.windows.Windows`."""
        shape = (numbers.size, self.width)
        arrays: dict[str, np.ndarray] = {}
        places = self._places(numbers)
        if len(places) == 1:
            return raw_rows(self.corpus, places[0][0], places[0][2], width=self.width)
        for pool, here, rows in places:
            for name, found in raw_rows(self.corpus, pool, rows, width=self.width).items():
                arrays.setdefault(name, np.empty(shape, np.int32))[here] = found
        return arrays

    def in_order(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields raw rows of all documents, in order, some at a time: none that fits is cut.

        The rows of a longer one overlap by what is beyond their length, so that each of its tokens is predicted once.
        """
        corpus, width = self.corpus, self.width
        for block in range(0, corpus.num_documents, _BLOCK):
            begins, ends = corpus.bounds(np.arange(block, min(block + _BLOCK, corpus.num_documents)))
            kept = ends > begins
            begins, ends = begins[kept], ends[kept]
            sizes = np.maximum(ends - begins - self.ahead, 1)
            pieces, sizes = cut_long(begins, sizes, width=width - self.ahead)
            document = np.searchsorted(begins, pieces, side="right") - 1
            sizes = np.minimum(sizes + self.ahead, ends[document] - pieces)
            pool_of = np.cumsum(sizes) // self._pool_tokens
            for number in range(int(pool_of[-1]) + 1):
                here = pool_of == number
                pool = pack(pieces[here], sizes[here], num_rows=int(here.sum()), width=width)
                yield raw_rows(corpus, pool, np.flatnonzero(np.diff(pool.first)), width=width)

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token, all together."""
        total = 0
        for pool, _, rows in self._places(numbers):
            total += int(np.minimum(pool.sizes[rows], length).sum())
        return total

    @property
    def sources(self) -> list["PackedRows"]:
        """Itself: it is no mixture."""
        return [self]

    def share_cut(self) -> float:
        """Returns which share of the pieces in the first pool was cut to fill gaps."""
        pool = self._pool(0, 0)
        return pool.num_cut / max(1, pool.lengths.size)

    def _places(self, numbers: np.ndarray) -> list[tuple[Pool, np.ndarray, np.ndarray]]:
        """Returns the pools of some rows, and of each pool which of the numbers are its, and their rows in it."""
        epochs, rows = np.divmod(numbers, self.rows_per_epoch)
        pools, rows = np.divmod(rows, POOL_ROWS)
        keys = epochs * (self._pools + 1) + pools
        found = []
        for key in np.unique(keys).tolist():
            here = np.flatnonzero(keys == key)
            found.append((self._pool(*divmod(key, self._pools + 1)), here, rows[here]))
        return found

    def _make_pool(self, epoch: int, number: int) -> Pool:
        begins, lengths = self._documents(epoch, number * self._pool_tokens)
        pieces, sizes = cut_long(begins, lengths, width=self.width)
        num_rows = POOL_ROWS if number < self._pools else self._rows_of_last
        pool = pack(pieces, sizes, num_rows=num_rows, width=self.width)
        # Best-fit leaves the longest in front: a batch would hold documents of one length.
        return ordered(pool, permutation(num_rows, key=(self._seed, 3, epoch, number)))

    def _documents(self, epoch: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns begin and length of the documents whose tokens are a pool's; the first and the last may be a part."""
        end = min(place + self._pool_tokens, self.corpus.num_tokens)
        sums = self._sums_upto(epoch, end)
        first, last = bisect.bisect_right(sums, place) - 1, bisect.bisect_left(sums, end)
        found = [self._block(epoch, block) for block in range(first, last)]
        begins, ends = (np.concatenate(side) for side in zip(*found, strict=True))
        upto = sums[first] + np.cumsum(ends - begins)
        # Of each document, what lies before the pool and behind it.
        before = np.clip(place - (upto - (ends - begins)), 0, None)
        behind = np.clip(upto - end, 0, None)
        lengths = ends - begins - before - behind
        return (begins + before)[lengths > 0], lengths[lengths > 0]

    def _sums_upto(self, epoch: int, end: int) -> list[int]:
        """Returns the tokens of an epoch before each block of documents, up to the one in which the token `end` is."""
        with self._lock:
            sums = self._sums.setdefault(epoch, [0])
            while sums[-1] < end:
                begins, ends = self._block(epoch, len(sums) - 1)
                sums.append(sums[-1] + int((ends - begins).sum()))
            if len(self._sums) > 3:
                del self._sums[min(self._sums)]
            return list(sums)

    def _block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        number = self.corpus.num_documents
        places = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, number))
        return self.corpus.bounds(permuted(places, number, (self._seed, 4, epoch)))
