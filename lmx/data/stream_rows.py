"""Rows cut out of the stream of all documents, whatever stands in them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from lmx.data.buckets import Batch
from lmx.data.permutation import permuted
from lmx.data.shards import TokenCorpus

_ROWS = 256  # that are cut at once, in order


class StreamRows:
    """Rows cut out of the stream of all documents, one after another, as GPT-2 and nanoGPT take them.

    The stream is a ring: an epoch cuts it, from a place of its own on, into rows that begin `length` tokens apart, and
    shuffles them. What is left before that place again, less than a row, is not seen in this epoch.

    Args:
        width: tokens of a row; those beyond `length` are the first of the row behind it.
        stride: tokens between the beginnings of two rows of `in_order`; None is `length`.
    """

    def __init__(self, corpus: TokenCorpus, *, length: int, width: int, seed: int, stride: int | None = None):
        self._corpus, self._length, self._width, self._seed = corpus, length, width, seed
        self._stride = length if stride is None else stride
        self.rows_per_epoch = max(1, corpus.num_tokens // length)

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> Batch:
        """Returns the raw rows of some numbers."""
        epochs, places = np.divmod(numbers, self.rows_per_epoch)
        begins = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order = permuted(places[here], self.rows_per_epoch, (self._seed, 5, epoch))
            (begin,) = np.random.SeedSequence((self._seed, 6, epoch)).generate_state(1, np.uint64).tolist()
            begins[here] = begin % self._corpus.num_tokens + order * self._length
        return self._cut(begins)

    def in_order(self) -> Iterator[Batch]:
        """Yields raw rows of all tokens, in order, some at a time; the last is filled up with padding.

        Where rows overlap by more than what is beyond their length, a token counts in the first that holds it.
        """
        size, known = self._corpus.num_tokens, self._width - self._stride
        last = max(1, size - known)  # behind the last token that a row can begin with
        for begin in range(0, last, _ROWS * self._stride):
            begins = np.arange(begin, min(begin + _ROWS * self._stride, last), self._stride)
            raw = self._cut(begins)
            behind = begins[:, None] + np.arange(self._width) >= size
            if self._stride < self._length:
                counts = raw.setdefault("counts", np.ones(behind.shape, np.int32))
                counts[begins > 0, :known] = 0
            for name, array in raw.items():
                array[behind] = self._corpus.pad_id if name == "tokens" else 0
            yield raw

    @property
    def sources(self) -> list["StreamRows"]:
        """Itself: it is no mixture."""
        return [self]

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token: all."""
        return numbers.size * length

    def _cut(self, begins: np.ndarray) -> Batch:
        at = (begins[:, None] + np.arange(self._width)) % self._corpus.num_tokens
        raw = {
            "tokens": self._corpus.take(at),
            "segments": np.ones(at.shape, np.int32),
            "positions": np.broadcast_to(np.arange(self._width, dtype=np.int32), at.shape).copy(),
        }
        return raw | ({"counts": self._corpus.take_counts(at)} if self._corpus.has_counts else {})
