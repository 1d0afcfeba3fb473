"""Batches of few fixed shapes under a token budget, and their order as a function of (seed, k).

Here are the choice of bucket lengths, `TokenBatches` for training, `evaluation_batches` for one look at each pair, and
`prefetch`, which makes items ahead of their use. What a row is (a pair, a text with its label) belongs to the module
that encoded it, `lmx.data.parallel` or `lmx.data.labelled`: here it has a length and a number. Placing a batch on
devices is `lmx.sharding`'s. Nothing here remembers how far a run has come: the place in the data is the step's number.
"""

import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64

T = TypeVar("T")

Batch = dict[str, np.ndarray]
# The part of a batch's rows that one host makes, consecutive or by number: as it stands, or as a function of how many
# rows the batch has.
Chosen = slice | Int64[np.ndarray, " held"]
Rows = Chosen | Callable[[int], Chosen]


@runtime_checkable
class Encoded(Protocol):
    """Rows of ids that batches are made of, such as `EncodedPairs` and `EncodedExamples`.

    Attributes:
        unit: What a row is called in messages.
        shorten: How rows are made shorter, for messages.
        num_sides: Arrays of tokens that a row fills, each padded to the bucket's length.
    """

    unit: ClassVar[str]
    shorten: ClassVar[str]
    num_sides: ClassVar[int]

    def __len__(self) -> int:
        """Returns the number of rows."""
        ...

    @property
    def indices(self) -> Int64[np.ndarray, " rows"]:
        """Position of what each row was encoded from."""
        ...

    @property
    def origin(self) -> str:
        """Where that was read, for messages."""
        ...

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row's longest side: what decides its bucket."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens of all sides together, without padding."""
        ...

    def count_tokens(self, items: Int[np.ndarray, " items"]) -> int:
        """Returns the tokens of some rows, all sides together, without padding."""
        ...

    def batch(self, items: Int[np.ndarray, "*rows"], *, length: int) -> Batch:
        """Makes the arrays of some rows, given by position; a position of -1 is a row that does not count."""
        ...


def choose_buckets(
    lengths: Int[np.ndarray, " pairs"] | Sequence[int], *, num_buckets: int, multiple_of: int = 1
) -> tuple[int, ...]:
    """Returns the bucket lengths, at most `num_buckets`, that pad least; the last holds the longest pair.

    The exact optimum, by dynamic programming over the distinct lengths: O(num_buckets m^2) for m of them.

    Args:
        lengths: The longer side of each pair, its end of sentence counted.
        num_buckets: How many shapes may be compiled. Fewer are returned where fewer distinct lengths exist.
        multiple_of: What every bucket length must divide by.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if not lengths.size or lengths.min() < 1:
        raise ValueError(f"lengths must be one positive length or more, got {lengths.size} lengths.")
    for name, value in (("num_buckets", num_buckets), ("multiple_of", multiple_of)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {name}={value}.")
    ends, counts = np.unique(-(-lengths // multiple_of) * multiple_of, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # least[m]: padded tokens when the m shortest distinct lengths are shared among the buckets allowed so far. The last
    # of them takes the lengths from number `start` up to m and pads them all to ends[m - 1]; start = m leaves it empty.
    least = np.concatenate([[0], before[1:] * ends])
    starts = np.zeros((num_buckets, ends.size + 1), dtype=np.int64)
    for bucket in range(1, num_buckets):
        shared = np.zeros_like(least)
        for m in range(1, ends.size + 1):
            costs = least[: m + 1] + (before[m] - before[: m + 1]) * ends[m - 1]
            start = int(np.argmin(costs))
            shared[m], starts[bucket, m] = costs[start], start
        least = shared
    buckets, m = [], ends.size
    for bucket in reversed(range(num_buckets)):
        if (start := int(starts[bucket, m])) < m:
            buckets.append(int(ends[m - 1]))
            m = start
    return tuple(reversed(buckets))


def padding_share(encoded: Encoded, buckets: Sequence[int]) -> float:
    """Returns the share of all positions, of every side, that is padding when each row lies in its bucket."""
    padded = int(np.asarray(buckets, dtype=np.int64)[_bucket_of(encoded, buckets)].sum())
    return 1 - encoded.num_tokens / (encoded.num_sides * padded)


def rows_of_bucket(length: int, *, tokens_per_batch: int, rows_multiple: int) -> int:
    """Returns how many rows of a length fit a token budget, rounded down to a multiple of `rows_multiple`."""
    return tokens_per_batch // length // rows_multiple * rows_multiple


def permutation(size: int, *, key: tuple[int, ...]) -> Int64[np.ndarray, " size"]:
    """Returns an order of `size` things as a function of the key: the same on every platform and in every NumPy."""
    raw = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(raw, kind="stable")


class TokenBatches:
    """Training batches: batch k as a pure function of (seed, k), each of one of few shapes, none part-filled.

    A batch is a dictionary of arrays, A micro-batches of B rows, tokens padded to the bucket's length L. Which arrays
    is the encoded rows' to say: `EncodedPairs.batch`, `EncodedExamples.batch`. "Pair" below stands for either.

    Budget: B x L <= `tokens_per_batch` for each micro-batch, which is what fairseq means by `max-tokens`: rows times
    the longer side, padded; one side is counted. B is rounded down to a multiple of `rows_multiple`.

    Order: the n pairs of a bucket form one endless stream of passes, each a new permutation. Its batch j takes the
    items [j R, (j + 1) R), R = A B, and so may straddle two passes: every pair is seen exactly once a pass, and no
    batch is part-filled or dropped. Epoch e holds the batches floor(e n / R) to floor((e + 1) n / R) - 1 of each
    bucket, shuffled over all buckets: pass e, but for the up to R - 1 pairs a bucket that come with the next epoch.
    Where R > n, a batch holds several passes.

    Randomness: a permutation is the stable argsort of raw 64-bit numbers of Philox, keyed by a SeedSequence of (seed,
    what, which). NumPy promises that both streams never change, and does not promise it of `Generator.permutation`.
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
        """Sorts the pairs into their buckets; buckets without a pair are left out.

        Args:
            shapes_seed: of the order of the shapes, where seeds that train together share it; None takes `seed`.

        Raises:
            ValueError: a pair is longer than the last bucket, or the budget is too small for a bucket.
        """
        for name, value in (("accumulation", accumulation), ("rows_multiple", rows_multiple)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={value}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got seed={seed}.")
        buckets = _checked_buckets(buckets, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
        bucket_of = _bucket_of(encoded, buckets)
        used = np.unique(bucket_of)
        self.encoded = encoded
        self.buckets = tuple(buckets[bucket] for bucket in used)
        self.accumulation = accumulation
        self.seed = seed
        self._shapes_seed = seed if shapes_seed is None else shapes_seed
        self._members = [np.flatnonzero(bucket_of == bucket) for bucket in used]
        budget = {"tokens_per_batch": tokens_per_batch, "rows_multiple": rows_multiple}
        self._rows = [rows_of_bucket(length, **budget) for length in self.buckets]
        # Python's integers, which do not overflow however large the corpus and the step.
        self._sizes = [members.size for members in self._members]
        self._taken = [rows * accumulation for rows in self._rows]
        # Two passes are in use where a batch straddles, and `prefetch` may be in the next epoch already.
        self._pass = functools.lru_cache(maxsize=3 * len(self.buckets))(self._make_pass)
        self._epoch = functools.lru_cache(maxsize=3)(self._make_epoch)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """The shapes (A, B, L) of all batches, shortest bucket first."""
        return [(self.accumulation, rows, length) for rows, length in zip(self._rows, self.buckets, strict=True)]

    @property
    def padding_share(self) -> float:
        """Share of the positions of a pass, both sides, that is padding."""
        return padding_share(self.encoded, self.buckets)

    @property
    def optimum(self) -> float:
        """The least padding share that as many buckets can have on these pairs."""
        return padding_share(self.encoded, choose_buckets(self.encoded.lengths, num_buckets=len(self.buckets)))

    @property
    def batches_per_epoch(self) -> float:
        """Batches of an epoch on average; epochs differ by at most one batch a bucket."""
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
        """Returns the tokens of batch k, all sides together, without padding: what speed is counted in."""
        _, items = self._items(k)
        return self.encoded.count_tokens(items)

    def _items(self, k: int) -> tuple[int, Int64[np.ndarray, " rows"]]:
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
            parts.append(self._pass(bucket, number)[max(start - begin, 0) : stop - begin])
        return bucket, np.concatenate(parts)

    def _make_pass(self, bucket: int, number: int) -> Int64[np.ndarray, " pairs"]:
        # Keyed by the bucket's length: leaving out an empty bucket does not change the order of the others.
        order = permutation(self._members[bucket].size, key=(self.seed, 0, self.buckets[bucket], number))
        return self._members[bucket][order]

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


class SeedBatches:
    """Training batches of several seeds that take their steps together: arrays [S, A, B, ...].

    Each seed sees the rows in its own order; the sequence of shapes is one and the same. The batches of one seed are
    those it would have alone: of `TokenBatches` with this seed and `shapes_seed` 0.

    Args:
        seeds: at least one.
        settings: of all of them, as `TokenBatches` has them.
    """

    def __init__(self, encoded: Encoded, *, seeds: Sequence[int], **settings: Any):
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more that differ, got seeds={tuple(seeds)}.")
        self.seeds = tuple(seeds)
        self.of_seeds = tuple(TokenBatches(encoded, seed=seed, shapes_seed=0, **settings) for seed in self.seeds)

    @property
    def first(self) -> TokenBatches:
        """The first seed's; shapes, padding and epochs are the same for all."""
        return self.of_seeds[0]

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
    """Yields every pair once, in batches [B, L] of the shapes that `TokenBatches` has without accumulation.

    Pairs keep their order within a bucket. The last batch of a bucket is filled up with rows of padding alone, which
    do not count.

    Args:
        encoded: Pairs to evaluate on.
        buckets: As in training, so that the shapes are compiled already.
        tokens_per_batch: Rows times bucket length, at most.
        rows_multiple: What B divides by.
        fill_multiple: Batches are filled up with rows of padding until B divides by this too: the parts of a mesh.
        rows: The part of B that this host holds; None for all.
    """
    buckets = _checked_buckets(buckets, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
    bucket_of = _bucket_of(encoded, buckets)
    for bucket, length in enumerate(buckets):
        members = np.flatnonzero(bucket_of == bucket)
        size = rows_of_bucket(length, tokens_per_batch=tokens_per_batch, rows_multiple=rows_multiple)
        for start in range(0, members.size, size):
            items = np.full(-(-size // fill_multiple) * fill_multiple, -1, dtype=np.int64)
            chosen = members[start : start + size]
            items[: chosen.size] = chosen
            yield encoded.batch(items[_chosen(rows, items.size)], length=length)


class Prefetch(Generic[T]):
    """An iterator whose items a background thread makes ahead of their use; made by `prefetch`.

    The thread ends when the items do, when `make` raises (the exception comes out of the iterator, in its place), on
    `close`, at the end of a `with` block, and when the iterator is dropped.

    Attributes:
        waited: Seconds that the consumer has waited for items so far.
    """

    def __init__(self, make: Callable[[int], T], start: int, stop: int, *, depth: int) -> None:
        """Starts the thread."""
        self.waited = 0.0
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._slots = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._ended = False
        # The thread must not refer to this object, or dropping the iterator would not end it.
        arguments = (make, range(start, stop), self._ready, self._slots, self._stopped)
        self._thread = threading.Thread(target=_produce, args=arguments, name="lmx-prefetch", daemon=True)
        self._finalizer = weakref.finalize(self, _end_thread, self._thread, self._slots, self._stopped)
        self._thread.start()

    def __iter__(self) -> "Prefetch[T]":
        """Returns itself."""
        return self

    def __next__(self) -> T:
        """Returns the next item, waiting for it if it is not ready."""
        if self._ended:
            raise StopIteration
        began = time.perf_counter()
        item, error = self._ready.get()
        self.waited += time.perf_counter() - began
        if error is not None:
            self.close()
            raise error
        self._slots.release()
        return item

    def close(self) -> None:
        """Ends the thread, after the item it is making; the iterator then has no more items."""
        self._ended = True
        self._finalizer()

    def __enter__(self) -> "Prefetch[T]":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the thread."""
        self.close()


def prefetch(make: Callable[[int], T], start: int, stop: int, *, depth: int = 2) -> Prefetch[T]:
    """Returns `make(start)`, ..., `make(stop - 1)`, made by one background thread up to `depth` items ahead of use.

    `make` may also place a batch on devices, by shardings that it names: a mesh in force around the caller is not in
    force in the thread. The order is that of the numbers, so nothing depends on timing.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got depth={depth}.")
    return Prefetch(make, start, stop, depth=depth)


def _produce(
    make: Callable[[int], Any],
    numbers: range,
    ready: "queue.SimpleQueue[tuple[Any, BaseException | None]]",
    slots: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        for number in numbers:
            slots.acquire()
            if stopped.is_set():
                return
            ready.put((make(number), None))
    except StopIteration as error:
        # Passed on as it is, it would end the consumer's loop early and in silence.
        ready.put(
            (None, RuntimeError("make must return an item, got StopIteration.").with_traceback(error.__traceback__))
        )
    except BaseException as error:  # Whatever it is, it is the consumer's.
        ready.put((None, error))
    else:
        ready.put((None, StopIteration()))


def _end_thread(thread: threading.Thread, slots: threading.Semaphore, stopped: threading.Event) -> None:
    stopped.set()
    slots.release()
    if thread is not threading.current_thread():
        thread.join()


def _bucket_of(encoded: Encoded, buckets: Sequence[int]) -> Int64[np.ndarray, " pairs"]:
    """Returns the position in `buckets` of the shortest one that holds each row."""
    if not len(encoded):
        raise ValueError(f"encoded must hold at least one {encoded.unit}, got none from {encoded.origin}.")
    longest = int(encoded.lengths.max())
    if longest > buckets[-1]:
        raise ValueError(
            f"the last bucket must hold the longest {encoded.unit} of {encoded.origin}, {longest} tokens with the end "
            f"of sentence, got buckets={tuple(buckets)}. {encoded.shorten} with --max-length {buckets[-1]} or add a "
            "bucket."
        )
    return np.searchsorted(np.asarray(buckets), encoded.lengths)


def _checked_buckets(buckets: Sequence[int], *, tokens_per_batch: int, rows_multiple: int) -> tuple[int, ...]:
    buckets = tuple(int(length) for length in buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
        raise ValueError(f"buckets must be positive lengths that grow, got buckets={buckets}.")
    if tokens_per_batch < (least := rows_multiple * buckets[-1]):
        raise ValueError(
            f"tokens_per_batch must be at least {least} ({rows_multiple} rows of the longest bucket, {buckets[-1]} "
            f"tokens), got tokens_per_batch={tokens_per_batch}."
        )
    return buckets


def _chosen(rows: Rows | None, number: int) -> Chosen:
    if rows is None:
        return slice(None)
    return rows(number) if callable(rows) else rows
