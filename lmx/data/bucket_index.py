"""Which rows lie in which bucket, found by number: no list of rows is held, however many there are."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64

_BLOCK = 256  # rows that are looked through to find one
_CHUNK = 1 << 18  # rows whose lengths are looked at together, a multiple of the block


class BucketIndex:
    """The rows of each bucket, in their order, by their numbers in it.

    Kept are the numbers of rows before each block of 256, in each bucket. A row is found by looking through its
    block's lengths, which may be mapped from a file.

    Args:
        lengths: of all rows, each of which is as long as the last bucket at most.
        buckets: lengths that grow.
    """

    def __init__(self, lengths: Int[np.ndarray, " rows"], buckets: Sequence[int]):
        self._lengths, self._buckets = lengths, np.asarray(buckets)
        blocks = -(-len(lengths) // _BLOCK)
        counts = np.zeros((blocks + 1, len(buckets)), np.int64)
        for begin in range(0, len(lengths), _CHUNK):
            bucket_of = np.searchsorted(self._buckets, lengths[begin : begin + _CHUNK])
            block_of = np.arange(len(bucket_of)) // _BLOCK
            found = np.bincount(block_of * len(buckets) + bucket_of, minlength=(block_of[-1] + 1) * len(buckets))
            first = begin // _BLOCK + 1
            counts[first : first + block_of[-1] + 1] = found.reshape(-1, len(buckets))
        self._before = np.cumsum(counts, axis=0)

    @property
    def sizes(self) -> list[int]:
        """Rows of each bucket."""
        return self._before[-1].tolist()

    def members(self, bucket: int, numbers: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """Returns the positions of rows, given by their numbers in a bucket."""
        before = self._before[:, bucket]
        above, upto = self._buckets[bucket - 1] if bucket else 0, self._buckets[bucket]
        block_of = np.searchsorted(before, numbers, side="right") - 1
        found = np.empty(len(numbers), np.int64)
        order = np.argsort(block_of, kind="stable")
        begins = np.flatnonzero(np.diff(block_of[order], prepend=-1)).tolist()
        for begin, end in itertools.pairwise([*begins, len(order)]):
            here = order[begin:end]
            block = int(block_of[here[0]])
            lengths = self._lengths[block * _BLOCK : (block + 1) * _BLOCK]
            inside = np.flatnonzero((lengths > above) & (lengths <= upto))
            found[here] = block * _BLOCK + inside[numbers[here] - before[block]]
        return found


def count_lengths(lengths: Int[np.ndarray, " rows"]) -> tuple[Int64[np.ndarray, " some"], Int64[np.ndarray, " some"]]:
    """Returns the lengths that there are, and how many rows have each: a part of the rows at a time."""
    counts = np.zeros(0, np.int64)
    for begin in range(0, len(lengths), _CHUNK):
        found = np.bincount(lengths[begin : begin + _CHUNK], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    distinct = np.flatnonzero(counts)
    return distinct, counts[distinct]
