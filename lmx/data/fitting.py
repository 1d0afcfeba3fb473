"""Sizes of batches that few rows can fill: a small file trains by the settings that suit a large one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lmx.data.bucket_index import count_lengths
from lmx.data.buckets import choose_buckets, rows_of_bucket

# Updates that a pass has at least, where nobody has asked for the size of a batch: fewer teach a small file nothing.
UPDATES_OF_A_PASS = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of the batches of a training.

    Attributes:
        tokens_per_batch: most tokens of a micro-batch, padding counted.
        accumulation: micro-batches an update.
        num_buckets: most batch shapes.
    """

    tokens_per_batch: int
    accumulation: int
    num_buckets: int


def fit_sizes(
    lengths: Int[np.ndarray, " rows"] | Sequence[int],
    asked: Sizes,
    *,
    rows_multiple: int,
    length_multiple: int = 1,
    updates_of_a_pass: int = 1,
) -> Sizes:
    """Returns the requested sizes, or the largest below them that the rows can fill.

    A pass over the rows then has at least `updates_of_a_pass` updates, as far as the smallest batch allows, which has
    `rows_multiple` of the longest rows. No bucket has fewer rows than one of its updates takes, unless there is only
    one bucket. If all rows together suffice for the requested sizes, nothing changes, whatever each bucket has.

    Args:
        lengths: tokens of each row's longest side.
        updates_of_a_pass: 1 lets no update of smaller sizes hold a row twice.
    """
    lengths = np.asarray(lengths)
    if min(asked.accumulation, asked.num_buckets, rows_multiple, length_multiple, updates_of_a_pass, lengths.size) < 1:
        return asked  # what is wrong there, those say who use it
    accumulation = max(1, min(asked.accumulation, lengths.size // (updates_of_a_pass * rows_multiple)))
    distinct, counts = count_lengths(lengths)
    fitted = asked
    for num_buckets in range(asked.num_buckets, 0, -1):
        buckets = choose_buckets(lengths, num_buckets=num_buckets, multiple_of=length_multiple)
        bucket_of = np.searchsorted(buckets, distinct)
        padded = int((np.asarray(buckets)[bucket_of] * counts).sum())
        least = rows_multiple * buckets[-1]
        tokens = min(asked.tokens_per_batch, max(padded // (updates_of_a_pass * accumulation), least))
        if num_buckets == asked.num_buckets and (tokens, accumulation) == (asked.tokens_per_batch, asked.accumulation):
            return asked
        fitted = Sizes(tokens_per_batch=tokens, accumulation=accumulation, num_buckets=len(buckets))
        rows = [rows_of_bucket(length, tokens_per_batch=tokens, rows_multiple=rows_multiple) for length in buckets]
        if np.all(np.bincount(bucket_of, weights=counts, minlength=len(buckets)) >= accumulation * np.asarray(rows)):
            break
    return fitted
