"""Rows in a few lengths: which lengths pad least, and how many rows of each fit a budget."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int64

from lmx.data.bucket_index import count_lengths

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
    def lengths(self) -> Int[np.ndarray, " rows"]:
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
        multiple_of: Every bucket length is a multiple of this.
    """
    lengths = np.asarray(lengths)
    if not lengths.size or lengths.min() < 1:
        raise ValueError(f"lengths must be one positive length or more, got {lengths.size} lengths.")
    distinct, counts = count_lengths(lengths)
    for name, value in (("num_buckets", num_buckets), ("multiple_of", multiple_of)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {name}={value}.")
    ends, which = np.unique(-(-distinct // multiple_of) * multiple_of, return_inverse=True)
    before = np.concatenate([[0], np.cumsum(np.bincount(which, weights=counts).astype(np.int64))])
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
    distinct, counts = count_lengths(encoded.lengths)
    padded = int((np.asarray(buckets, dtype=np.int64)[np.searchsorted(buckets, distinct)] * counts).sum())
    return 1 - encoded.num_tokens / (encoded.num_sides * padded)


def rows_of_bucket(length: int, *, tokens_per_batch: int, rows_multiple: int) -> int:
    """Returns how many rows of a length fit a token budget, rounded down to a multiple of `rows_multiple`."""
    return tokens_per_batch // length // rows_multiple * rows_multiple


def permutation(size: int, *, key: tuple[int, ...]) -> Int64[np.ndarray, " size"]:
    """Returns a permutation of `size` items that depends on the key alone, on every platform and in every NumPy."""
    raw = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(raw, kind="stable")


def check_fit(encoded: Encoded, buckets: Sequence[int]) -> None:
    """Raises ValueError if there are no rows, or the last bucket is shorter than one of them."""
    if not len(encoded):
        raise ValueError(f"encoded must hold at least one {encoded.unit}, got none from {encoded.origin}.")
    longest = int(encoded.lengths.max())
    if longest > buckets[-1]:
        raise ValueError(
            f"the last bucket must hold the longest {encoded.unit} of {encoded.origin}, {longest} tokens with the end "
            f"of sentence, got buckets={tuple(buckets)}. {encoded.shorten} with --max-length {buckets[-1]} or add a "
            "bucket."
        )


def checked_buckets(buckets: Sequence[int], *, tokens_per_batch: int, rows_multiple: int) -> tuple[int, ...]:
    """Returns the bucket lengths; raises ValueError unless they grow and their rows fit the budget."""
    buckets = tuple(int(length) for length in buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
        raise ValueError(f"buckets must be positive lengths that grow, got buckets={buckets}.")
    if tokens_per_batch < (least := rows_multiple * buckets[-1]):
        raise ValueError(
            f"tokens_per_batch must be at least {least} ({rows_multiple} rows of the longest bucket, {buckets[-1]} "
            f"tokens), got tokens_per_batch={tokens_per_batch}."
        )
    return buckets
