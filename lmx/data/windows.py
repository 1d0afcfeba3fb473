"""Rows of one length out of a corpus, and batches of them: batch k as a pure function of (seed, k).

A raw row has `tokens`, `segments` (which document of the row a token is of; 0 is padding) and `positions` (its place in
its document). What a model shall learn from it, an objective says (`lmx.data.objectives`). Which rows come when is
decided by number, so that the corpus is never listed, let alone held.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from lmx.data.buckets import Batch, Rows
from lmx.data.mixtures import MixedRows, Mixture
from lmx.data.packed_rows import PackedRows
from lmx.data.shards import TokenCorpus
from lmx.data.stream_rows import StreamRows

Corpus = TokenCorpus | Mixture
Packing = Literal["stream", "documents"]
# Makes the arrays of a batch out of raw rows, given the seed and the number of each row.
Objective = Callable[[Batch, tuple[int, np.ndarray]], Batch]


@runtime_checkable
class NumberedRows(Protocol):
    """Raw rows by number, epoch after epoch."""

    rows_per_epoch: int

    @property
    def sources(self) -> Sequence[Any]:
        """What the rows are mixed of: itself, where it is no mixture."""
        ...

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> Batch:
        """Returns the raw rows of some numbers."""
        ...

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token, all together."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """Yields raw rows of all text, in order, some at a time."""
        ...


class Windows:
    """Training batches: batch k is A micro-batches of B rows, a pure function of (seed, k); see `lmx.loop.Batches`.

    The rows of an epoch follow those of the one before without a gap, so a batch may hold rows of two. Rows of several
    seeds, which train together, are stacked: arrays [E, A, B, ...].

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
        ValueError: the corpus has fewer tokens than a row.
    """

    def __init__(
        self,
        corpus: Corpus,
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
        self._pad_id = (corpus.corpora[0] if isinstance(corpus, Mixture) else corpus).pad_id
        self.stride: int | None = None
        self.numbered = [self._numbered(corpus, seed) for seed in seeds]
        self._taken = rows * accumulation

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """The shape (A, B, L) of all batches."""
        return [(self.accumulation, self._rows, self.length)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of a batch's arrays, as the objective makes them."""
        empty = np.zeros((1, self.width), np.int32)
        rows = {"tokens": empty, "segments": empty, "positions": empty}
        return tuple(rows if self._make is None else self._make(rows, (self.seeds[0], np.zeros(1, np.int64))))

    @property
    def batches_per_epoch(self) -> float:
        """Batches of an epoch on average; epochs differ by at most one."""
        return self.numbered[0].rows_per_epoch / self._taken

    def first_batch(self, epoch: int) -> int:
        """Returns the number of an epoch's first batch, both counted from 0."""
        return epoch * self.numbered[0].rows_per_epoch // self._taken

    def epoch_of(self, k: int) -> int:
        """Returns the epoch that batch k belongs to, counted from 0."""
        return ((k + 1) * self._taken - 1) // self.numbered[0].rows_per_epoch

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
            for seed, numbered in zip(self.seeds, self.numbered, strict=True)
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
        return sum(numbered.tokens(numbers, length=self.length) for numbered in self.numbered)

    def overlapping(self, stride: int | None) -> "Windows":
        """Returns the same batches, but the rows of `once` overlap: a token counts in the first row that holds it.

        So at least length - stride tokens stand before it.

        Args:
            stride: tokens between the beginnings of two rows; None returns this object.

        Raises:
            ValueError: the rows are packed documents, or the stride leaves a gap.
        """
        if stride is None:
            return self
        if self.packing != "stream" or not 1 <= stride <= self.length:
            raise ValueError(
                f"stride must be from 1 to length={self.length}, and of rows of a stream, "
                f"got stride={stride} and packing={self.packing}."
            )
        other = copy.copy(self)
        other.stride = stride
        other.numbered = [other._numbered(self.corpus, seed) for seed in self.seeds]
        return other

    def once(self, rows: Rows | None = None, *, fill_multiple: int = 1) -> Iterator[Batch]:
        """Yields batches [B, ...] in which each token is predicted once, in order; the last ends with rows of padding.

        Rows overlap by what lies beyond their length. Rows of documents are packed without cutting one that fits.

        Args:
            rows: the part of B that this host holds; None for all.
            fill_multiple: B is filled up with rows of padding until it divides by this: the parts of a mesh.
        """
        size = -(-self._rows // fill_multiple) * fill_multiple
        chosen = slice(None) if rows is None else rows(size) if callable(rows) else rows
        number = 0
        for raw in _regrouped(self.numbered[0].in_order(), self._rows):
            numbers = np.arange(number, number + size)
            number += len(raw["tokens"])
            for name, array in raw.items():
                empty = self._pad_id if name == "tokens" else 0
                padding = np.full((size - len(array), self.width), empty, np.int32)
                raw[name] = np.concatenate([array, padding])[chosen]
            yield self._made(raw, 0, numbers[chosen])

    def _numbered(self, corpus: Corpus, seed: int) -> NumberedRows:
        if isinstance(corpus, Mixture):
            return MixedRows([self._numbered(each, seed) for each in corpus.corpora], corpus.weights)
        if corpus.num_tokens < self.width:
            raise ValueError(
                f"{corpus.origin} must hold a row of {self.width:,} tokens, got {corpus.num_tokens:,}. "
                "Take shorter rows or more text."
            )
        if self.packing == "documents":
            return PackedRows(corpus, width=self.width, ahead=self.width - self.length, seed=seed)
        return StreamRows(corpus, length=self.length, width=self.width, seed=seed, stride=self.stride)

    def _made(self, raw: Batch, seed: int, numbers: np.ndarray) -> Batch:
        raw = {name: array.reshape(*numbers.shape, self.width) for name, array in raw.items()}
        return raw if self._make is None else self._make(raw, (seed, numbers))


def _regrouped(blocks: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Yields rows in blocks of `size`; the last one may be smaller."""
    waiting: Batch = {}
    for block in blocks:
        waiting = {name: np.concatenate([waiting[name], array]) if waiting else array for name, array in block.items()}
        while len(waiting["tokens"]) >= size:
            yield {name: array[:size] for name, array in waiting.items()}
            waiting = {name: array[size:] for name, array in waiting.items()}
    if waiting and len(waiting["tokens"]):
        yield waiting


def facts(windows: Windows) -> dict[str, str]:
    """Returns what a run says of its rows when it starts."""
    said = {"rows": f"of {windows.length:,} tokens, {windows.batches_per_epoch:,.1f} batches an epoch"}
    packed = [one for one in windows.numbered[0].sources if isinstance(one, PackedRows)]
    if packed:
        places = sum(one.rows_per_epoch for one in packed) * windows.width
        full = sum(one.corpus.num_tokens for one in packed) / places
        cut = packed[0].share_cut()
        said["packing"] = f"{full:.1%} full, of a first pool of documents {cut:.1%} were cut to fill gaps"
    return said
