"""Rows of one length out of a corpus, and batches of them: batch k as a pure function of (seed, k).

A raw row has `tokens`, `segments` (which document of the row a token is of; 0 is padding) and `positions` (its place in
its document). What a model shall learn from it, an objective says (`lmx.data.objectives`). Which rows come when is
decided by number, so that the corpus is never listed, let alone held.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Int64

from lmx.data.buckets import Batch, Rows
from lmx.data.mixtures import MixedRows, Mixture
from lmx.data.packing import PackedRows, cut_long, fill_rows, pack
from lmx.data.permutation import permuted
from lmx.data.shards import TokenCorpus

Packing = Literal["stream", "documents"]
# Makes the arrays of a batch out of raw rows, given the seed and the number of each row.
Objective = Callable[[Batch, tuple[int, np.ndarray]], Batch]
_DOCUMENTS = 1024  # that are packed together for evaluation


class NumberedRows(Protocol):
    """Raw rows by number, epoch after epoch."""

    rows_per_epoch: int

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> Batch:
        """Returns the raw rows of some numbers."""
        ...

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token, all together."""
        ...


class StreamRows:
    """Rows cut out of the stream of all documents, one after another, as GPT-2 and nanoGPT take them.

    The stream is a ring: an epoch cuts it, from a place of its own on, into rows that begin `length` tokens apart, and
    shuffles them. What is left before that place again, less than a row, is not seen in this epoch.

    Args:
        width: tokens of a row; those beyond `length` are the first of the row behind it.
    """

    def __init__(self, corpus: TokenCorpus, *, length: int, width: int, seed: int):
        if corpus.num_tokens < width:
            raise ValueError(
                f"{corpus.origin} must hold a row of {width:,} tokens, got {corpus.num_tokens:,}. Take shorter rows or "
                "more text."
            )
        self._corpus, self._length, self._width, self._seed = corpus, length, width, seed
        self.rows_per_epoch = max(1, corpus.num_tokens // length)

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> Batch:
        """Returns the raw rows of some numbers."""
        size = self._corpus.num_tokens
        epochs, places = np.divmod(numbers, self.rows_per_epoch)
        begins = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order = permuted(places[here], self.rows_per_epoch, (self._seed, 5, epoch))
            (begin,) = np.random.SeedSequence((self._seed, 6, epoch)).generate_state(1, np.uint64).tolist()
            begins[here] = begin % size + order * self._length
        at = (begins[:, None] + np.arange(self._width)) % size
        return _plain_rows(self._corpus, at)

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token: all."""
        return numbers.size * length


class Windows:
    """Training batches: batch k is A micro-batches of B rows, a pure function of (seed, k); see `lmx.loop.Batches`.

    The rows of an epoch follow those of the one before without a gap, so a batch may hold rows of two. Rows of several
    seeds, which train together, are stacked: arrays [S, A, B, ...].

    Args:
        corpus: tokens, or a mixture.
        length: tokens of a row that a model reads.
        rows: B.
        accumulation: A.
        seeds: of the order, and of what the objective draws.
        packing: "stream" cuts rows out of all text, one document after another; "documents" packs whole ones.
        make: the objective; None gives raw rows.
        ahead: tokens of a raw row beyond its length, which only labels hold.

    Raises:
        ValueError: the corpus has not so many tokens as a row.
    """

    def __init__(
        self,
        corpus: TokenCorpus | Mixture,
        *,
        length: int,
        rows: int,
        accumulation: int = 1,
        seeds: Sequence[int] = (1,),
        packing: Packing = "stream",
        make: Objective | None = None,
        ahead: int = 1,
    ):
        for name, value in (("length", length), ("rows", rows), ("accumulation", accumulation), ("ahead", ahead + 1)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={value}.")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more that differ, got seeds={tuple(seeds)}.")
        self.corpus, self.length, self.width, self.packing = corpus, length, length + ahead, packing
        self.accumulation, self.seeds, self._rows, self._make = accumulation, tuple(seeds), rows, make
        self._of_seeds = [self._numbered(corpus, seed) for seed in seeds]
        self._taken = rows * accumulation

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """The shape (A, B, L) of all batches."""
        return [(self.accumulation, self._rows, self.length)]

    @property
    def batches_per_epoch(self) -> float:
        """Batches of an epoch on average; epochs differ by at most one."""
        return self._of_seeds[0].rows_per_epoch / self._taken

    def first_batch(self, epoch: int) -> int:
        """Returns the number of an epoch's first batch, both counted from 0."""
        return epoch * self._of_seeds[0].rows_per_epoch // self._taken

    def epoch_of(self, k: int) -> int:
        """Returns the epoch that batch k belongs to, counted from 0."""
        return ((k + 1) * self._taken - 1) // self._of_seeds[0].rows_per_epoch

    def epochs_before(self, k: int) -> float:
        """Returns how many epochs lie before batch k, to four decimals."""
        return round(k / self.batches_per_epoch, 4)

    def batch(self, k: int, rows: Rows | None = None) -> Batch:
        """Makes batch k.

        Args:
            rows: the part of B that this host holds; None for all. Hosts ask for different rows of one k.
        """
        numbers = self.numbers(k)
        if rows is not None:
            numbers = numbers[:, rows(self._rows) if callable(rows) else rows]
        parts = [
            self._made(numbered.rows(numbers.ravel()), seed, numbers)
            for seed, numbered in zip(self.seeds, self._of_seeds, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def numbers(self, k: int) -> Int64[np.ndarray, "A B"]:
        """Returns the numbers of the rows of batch k, counted over all epochs."""
        if k < 0:
            raise ValueError(f"k must not be negative, got k={k}.")
        return np.arange(k * self._taken, (k + 1) * self._taken).reshape(self.accumulation, -1)

    def tokens(self, k: int) -> int:
        """Returns the tokens that batch k has a model read, of all seeds together, without padding."""
        numbers = self.numbers(k).ravel()
        return sum(numbered.tokens(numbers, length=self.length) for numbered in self._of_seeds)

    def once(self, rows: Rows | None = None, *, fill_multiple: int = 1) -> Iterator[Batch]:
        """Yields batches [B, ...] in which each token is predicted once, in order; the last ends with rows of padding.

        Rows overlap by what lies beyond their length. Rows of documents are packed without cutting one that fits.

        Args:
            rows: the part of B that this host holds; None for all.
            fill_multiple: B is filled up with rows of padding until it divides by this: the parts of a mesh.
        """
        corpora = self.corpus.corpora if isinstance(self.corpus, Mixture) else (self.corpus,)
        number = 0
        size = -(-self._rows // fill_multiple) * fill_multiple
        chosen = slice(None) if rows is None else rows(size) if callable(rows) else rows
        for corpus in corpora:
            for block in self._ordered_rows(corpus):
                numbers = np.arange(number, number + size)
                number += len(block["tokens"])
                for name, array in block.items():
                    padding = np.full((size - len(array), self.width), corpus.pad_id if name == "tokens" else 0)
                    block[name] = np.concatenate([array, padding.astype(np.int32)])[chosen]
                yield self._made(block, 0, numbers[chosen])

    def _numbered(self, corpus: TokenCorpus | Mixture, seed: int) -> NumberedRows:
        if isinstance(corpus, Mixture):
            return MixedRows([self._numbered(each, seed) for each in corpus.corpora], corpus.weights)
        if self.packing == "documents":
            return PackedRows(corpus, width=self.width, seed=seed)
        return StreamRows(corpus, length=self.length, width=self.width, seed=seed)

    def _made(self, raw: Batch, seed: int, numbers: np.ndarray) -> Batch:
        raw = {name: array.reshape(*numbers.shape, self.width) for name, array in raw.items()}
        return raw if self._make is None else self._make(raw, (seed, numbers))

    def _ordered_rows(self, corpus: TokenCorpus) -> Iterator[Batch]:
        """Yields raw rows of all of a corpus, B at a time but for the last."""
        if self.packing == "stream":
            size, taken = corpus.num_tokens, self._rows * self.length
            for begin in range(0, max(1, size - (self.width - self.length)), taken):
                starts = np.arange(begin, min(begin + taken, size - (self.width - self.length)), self.length)
                at = starts[:, None] + np.arange(self.width)
                raw = _plain_rows(corpus, np.minimum(at, size - 1))
                for name, empty in (("tokens", corpus.pad_id), ("segments", 0), ("positions", 0)):
                    raw[name][at >= size] = empty
                yield raw
            return
        waiting: list[Batch] = []
        for begin in range(0, corpus.num_documents, _DOCUMENTS):
            waiting.append(self._packed_in_order(corpus, begin))
            whole = {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}
            full = len(whole["tokens"]) // self._rows * self._rows
            for at in range(0, full, self._rows):
                yield {name: array[at : at + self._rows] for name, array in whole.items()}
            waiting = [{name: array[full:] for name, array in whole.items()}]
        if len(waiting[0]["tokens"]):
            yield waiting[0]

    def _packed_in_order(self, corpus: TokenCorpus, begin: int) -> Batch:
        """Returns raw rows of some documents: the rows of a long one overlap, so that each of its tokens is predicted."""
        begins, ends = corpus.bounds(np.arange(begin, min(begin + _DOCUMENTS, corpus.num_documents)))
        ahead = self.width - self.length
        pieces, sizes = cut_long(begins, np.maximum(ends - begins - ahead, 1), width=self.length)
        document = np.searchsorted(begins, pieces, side="right") - 1
        sizes = np.minimum(sizes + ahead, ends[document] - pieces)
        pool = pack(pieces, sizes, num_rows=len(pieces), width=self.width)
        used = np.flatnonzero(np.diff(pool.first))
        arrays = {name: np.zeros((used.size, self.width), np.int32) for name in ("segments", "positions")}
        arrays["tokens"] = np.full((used.size, self.width), corpus.pad_id, np.int32)
        if corpus.has_counts:
            arrays["counts"] = np.zeros((used.size, self.width), np.int32)
        fill_rows(arrays, corpus, pool, np.arange(used.size), used)
        return arrays


def _plain_rows(corpus: TokenCorpus, at: np.ndarray) -> Batch:
    raw = {
        "tokens": corpus.take(at),
        "segments": np.ones(at.shape, np.int32),
        "positions": np.broadcast_to(np.arange(at.shape[1], dtype=np.int32), at.shape).copy(),
    }
    return raw | ({"counts": corpus.take_counts(at)} if corpus.has_counts else {})


def facts(windows: Windows) -> dict[str, Any]:
    """Returns what a run says of its rows when it starts."""
    said = {"rows": f"{windows.length} tokens, {windows.batches_per_epoch:,.1f} batches an epoch"}
    packed = [each for each in windows._of_seeds if isinstance(each, PackedRows)]
    if packed:
        said["packing"] = f"{packed[0].efficiency:.1%} full, {packed[0].share_cut():.1%} of documents cut to fill gaps"
    return said
