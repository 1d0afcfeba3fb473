"""Batches of few fixed shapes under a token budget, and their order as a function of (seed, k).

`TokenBatches` is for training, `SeedBatches` does the same for several seeds, and `evaluation_batches` yields each pair
once. `lmx.data.buckets` chooses the lengths that rows are padded to. The module that encoded a row, such as
`lmx.data.parallel` or `lmx.data.texts`, knows what it is (a pair, a text with its label); here it has a length and a
number. `lmx.sharding` places a batch on devices. Nothing here remembers how far a run has come: the step number is the
place in the data.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from lmx.data.bucket_index import BucketIndex, count_lengths
from lmx.data.buckets import (
    Batch,
    Chosen,
    Encoded,
    Rows,
    check_fit,
    checked_buckets,
    choose_buckets,
    padding_share,
    permutation,
    rows_of_bucket,
)
from lmx.data.permutation import permuted

LISTED = 1 << 17  # rows of a bucket whose order is held as a list


class TokenBatches:
    """Training batches: batch k is a pure function of (seed, k), has one of a few shapes, and is never part-filled.

    A batch is a dictionary of arrays: A micro-batches of B rows, with tokens padded to the bucket's length L. The
    encoded rows decide which arrays: `EncodedPairs.batch`, `EncodedExamples.batch`. "Pair" below stands for either.

    Budget: B x L <= `tokens_per_batch` for each micro-batch, as fairseq's `max-tokens`: rows times the padded length of
    the longer side; only one side counts. B is rounded down to a multiple of `rows_multiple`.

    Order: the n pairs of a bucket form one endless stream of passes, each a new permutation. Its batch j takes the
    items [j R, (j + 1) R), R = A B, and so may straddle two passes: every pair is seen exactly once a pass, and no
    batch is part-filled or dropped. Epoch e holds the batches floor(e n / R) to floor((e + 1) n / R) - 1 of each
    bucket, shuffled over all buckets: pass e, except for up to R - 1 pairs per bucket that come with the next epoch.
    Where R > n, a batch holds several passes.

    Randomness: a permutation is the stable argsort of raw 64-bit numbers of Philox, keyed by a SeedSequence of (seed,
    what, which). NumPy promises that both streams never change, and does not promise it of `Generator.permutation`.
    A bucket with more than `LISTED` pairs has no list of its order: each place is computed when it is asked for.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        buckets: Sequence[int],
        tokens_per_batch: int,
        accumulation: int = 1,
        rows_multiple: int = 8,
        seed: int = 0,
        shapes_seed: int | None = None,
    ) -> None:
        """Sorts the pairs into their buckets, and drops buckets without a pair.

        Args:
            shapes_seed: seed of the order of the shapes, which seeds that train together share; None takes `seed`.

        Raises:
            ValueError: a pair is longer than the last bucket, or the budget is too small for a bucket.
        """
        for name, value in (("accumulation", accumulation), ("rows_multiple", rows_multiple)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={value}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got seed={seed}.")
        buckets = checked_buckets(buckets, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
        check_fit(encoded, buckets)
        distinct, _ = count_lengths(encoded.lengths)
        self.encoded = encoded
        self.buckets = tuple(buckets[bucket] for bucket in np.unique(np.searchsorted(buckets, distinct)))
        self.accumulation = accumulation
        self.seed = seed
        self._shapes_seed = seed if shapes_seed is None else shapes_seed
        self._index = BucketIndex(encoded.lengths, self.buckets)
        budget = {"tokens_per_batch": tokens_per_batch, "rows_multiple": rows_multiple}
        self._rows = [rows_of_bucket(length, **budget) for length in self.buckets]
        # Python's integers, which do not overflow however large the corpus and the step.
        self._sizes = self._index.sizes
        self._taken = [rows * accumulation for rows in self._rows]
        # Two passes are in use where a batch straddles, and `prefetch` may be in the next epoch already.
        self._pass = functools.lru_cache(maxsize=3 * len(self.buckets))(self._make_pass)
        self._epoch = functools.lru_cache(maxsize=3)(self._make_epoch)
        # A batch is made some steps before its tokens are counted.
        self._items = functools.lru_cache(maxsize=16)(self._find_items)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """The shapes (A, B, L) of all batches, shortest bucket first."""
        return [(self.accumulation, rows, length) for rows, length in zip(self._rows, self.buckets, strict=True)]

    @property
    def padding_share(self) -> float:
        """Share of padding among the positions of a pass, both sides."""
        return padding_share(self.encoded, self.buckets)

    @property
    def optimum(self) -> float:
        """The lowest padding share that this number of buckets can have on these pairs."""
        return padding_share(self.encoded, choose_buckets(self.encoded.lengths, num_buckets=len(self.buckets)))

    @property
    def batches_per_epoch(self) -> float:
        """Average number of batches per epoch; epochs differ by at most one batch per bucket."""
        return sum(size / taken for size, taken in zip(self._sizes, self._taken, strict=True))

    def first_batch(self, epoch: int) -> int:
        """Returns the number of an epoch's first batch, both counted from 0: how many batches lie before the epoch."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got epoch={epoch}.")
        return sum(self._begins(epoch))

    def epoch_of(self, k: int) -> int:
        """Returns the epoch that batch k belongs to, counted from 0."""
        if k < 0:
            raise ValueError(f"k must not be negative, got k={k}.")
        # first_batch(e) is at most e * batches_per_epoch: the epoch is not before this. The rest is a search upwards.
        low = max(0, int(k / self.batches_per_epoch) - 1)
        step = 1
        while self.first_batch(low + step) <= k:
            step *= 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.first_batch(middle) <= k else (low, middle)
        return low

    def epochs_before(self, k: int) -> float:
        """Returns how many epochs lie before batch k, to four decimals."""
        return round(k / self.batches_per_epoch, 4)

    def batch(self, k: int, rows: Rows | None = None) -> Batch:
        """Makes batch k.

        Args:
            k: Number of the batch, from 0; the number of the step in a run.
            rows: The part of B that this host holds; None for all. Hosts ask for different rows of one k.
        """
        bucket, items = self._items(k)
        items = items.reshape(self.accumulation, -1)
        return self.encoded.batch(items[:, _chosen(rows, items.shape[1])], length=self.buckets[bucket])

    def indices(self, k: int) -> Int64[np.ndarray, "A B"]:
        """Returns which pairs batch k holds, as positions in what was encoded."""
        _, items = self._items(k)
        return self.encoded.indices[items].reshape(self.accumulation, -1)

    def tokens(self, k: int) -> int:
        """Returns the number of tokens of batch k, all sides together, without padding."""
        _, items = self._items(k)
        return self.encoded.count_tokens(items)

    def _find_items(self, k: int) -> tuple[int, Int64[np.ndarray, " rows"]]:
        """Returns the bucket of batch k and its pairs."""
        epoch = self.epoch_of(k)
        buckets, numbers = self._epoch(epoch)
        position = k - self.first_batch(epoch)
        bucket = int(buckets[position])
        size, taken = self._sizes[bucket], self._taken[bucket]
        start = int(numbers[position]) * taken
        stop = start + taken
        parts = []
        for number in range(start // size, -(-stop // size)):
            begin = number * size
            part = slice(max(start - begin, 0), min(stop - begin, size))
            if size <= LISTED:
                parts.append(self._pass(bucket, number)[part])
            else:
                places = permuted(np.arange(part.start, part.stop), size, self._pass_key(bucket, number))
                parts.append(self._index.members(bucket, places))
        return bucket, np.concatenate(parts)

    def _make_pass(self, bucket: int, number: int) -> Int64[np.ndarray, " pairs"]:
        order = permutation(self._sizes[bucket], key=self._pass_key(bucket, number))
        return self._index.members(bucket, order)

    def _pass_key(self, bucket: int, number: int) -> tuple[int, ...]:
        # By the bucket's length: leaving out an empty bucket does not change the order of the others.
        return self.seed, 0, self.buckets[bucket], number

    def _make_epoch(self, epoch: int) -> tuple[Int64[np.ndarray, " batches"], Int64[np.ndarray, " batches"]]:
        """Returns bucket and number within the bucket of each batch of an epoch, in order."""
        numbers = [
            np.arange(begin, end, dtype=np.int64)
            for begin, end in zip(self._begins(epoch), self._begins(epoch + 1), strict=True)
        ]
        buckets = np.repeat(np.arange(len(numbers), dtype=np.int64), [part.size for part in numbers])
        order = permutation(buckets.size, key=(self._shapes_seed, 1, epoch))
        return buckets[order], np.concatenate(numbers)[order]

    def _begins(self, epoch: int) -> list[int]:
        """Returns the number, within each bucket, of the first batch of an epoch."""
        return [epoch * size // taken for size, taken in zip(self._sizes, self._taken, strict=True)]


# Of batches, what does not depend on the seed.
SHARED = (
    *("encoded", "buckets", "shapes", "padding_share", "optimum"),
    *("batches_per_epoch", "first_batch", "epoch_of"),
)


class SeedBatches:
    """Training batches of several seeds that train together: arrays [E, A, B, ...].

    Each seed sees the rows in its own order, and all seeds share one sequence of shapes. Each seed gets the batches
    that it would have alone, from `TokenBatches` with this seed and `shapes_seed` 0.

    Args:
        seeds: at least one.
        settings: the arguments of `TokenBatches`, the same for all seeds.
    """

    def __init__(self, encoded: Encoded, *, seeds: Sequence[int], **settings: Any):
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more that differ, got seeds={tuple(seeds)}.")
        self.seeds = tuple(seeds)
        self.of_seeds = tuple(TokenBatches(encoded, seed=seed, shapes_seed=0, **settings) for seed in self.seeds)

    def __getattr__(self, name: str) -> Any:
        """Returns what is the same for all seeds: shapes, buckets, padding and epochs."""
        if name not in SHARED:
            raise AttributeError(f"SeedBatches has no {name}.")
        return getattr(self.of_seeds[0], name)

    def epochs_before(self, k: int) -> float:
        """Returns how many epochs lie before batch k, to four decimals."""
        return self.of_seeds[0].epochs_before(k)

    def batch(self, k: int, rows: Rows | None = None) -> Batch:
        """Makes batch k of all seeds (see `TokenBatches.batch`)."""
        parts = [batches.batch(k, rows) for batches in self.of_seeds]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def tokens(self, k: int) -> int:
        """Returns the tokens of batch k, of all seeds together, without padding."""
        return sum(batches.tokens(k) for batches in self.of_seeds)


def evaluation_batches(
    encoded: Encoded,
    *,
    buckets: Sequence[int],
    tokens_per_batch: int,
    rows_multiple: int = 8,
    fill_multiple: int = 1,
    rows: Rows | None = None,
) -> Iterator[Batch]:
    """Yields every pair once, in batches [B, L] with the shapes of `TokenBatches` without accumulation.

    Pairs keep their order within a bucket. Rows of padding, which do not count, fill up the last batch of a bucket.

    Args:
        encoded: Pairs to evaluate on.
        buckets: As in training, so that the shapes are compiled already.
        tokens_per_batch: Rows times bucket length, at most.
        rows_multiple: B is a multiple of this.
        fill_multiple: Rows of padding fill up batches until B is a multiple of this too, such as the parts of a mesh.
        rows: The part of B that this host holds; None for all.
    """
    buckets = checked_buckets(buckets, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
    check_fit(encoded, buckets)
    index = BucketIndex(encoded.lengths, buckets)
    for bucket, length in enumerate(buckets):
        members = index.members(bucket, np.arange(index.sizes[bucket]))
        size = rows_of_bucket(length, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
        for start in range(0, members.size, size):
            items = np.full(-(-size // fill_multiple) * fill_multiple, -1, dtype=np.int64)
            chosen = members[start : start + size]
            items[: chosen.size] = chosen
            yield encoded.batch(items[_chosen(rows, items.size)], length=length)


def _chosen(rows: Rows | None, number: int) -> Chosen:
    if rows is None:
        return slice(None)
    return rows(number) if callable(rows) else rows
