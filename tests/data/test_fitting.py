"""Batches that few rows fill."""

import numpy as np
import pytest

from lmx.data.batches import choose_buckets, rows_of_bucket
from lmx.data.fitting import UPDATES_OF_A_PASS, Sizes, fit_sizes

ASKED = Sizes(tokens_per_batch=2048, accumulation=2, num_buckets=4)


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(5, 20, count)


def rows_of_updates(lengths: np.ndarray, sizes: Sizes, *, length_multiple: int) -> tuple[list[int], list[int]]:
    """Rows in each bucket, and rows that an update takes of it."""
    buckets = choose_buckets(lengths, num_buckets=sizes.num_buckets, multiple_of=length_multiple)
    rows = [rows_of_bucket(each, tokens_per_batch=sizes.tokens_per_batch, rows_multiple=8) for each in buckets]
    members = np.bincount(np.searchsorted(buckets, lengths), minlength=len(buckets))
    return members.tolist(), [sizes.accumulation * each for each in rows]


@pytest.mark.parametrize("count", [8, 12, 30, 60, 200, 280])
@pytest.mark.parametrize("length_multiple", [1, 4])
def test_no_update_holds_a_row_twice(count, length_multiple):
    sizes = fit_sizes(lengths_of(count), ASKED, rows_multiple=8, length_multiple=length_multiple)
    members, taken = rows_of_updates(lengths_of(count), sizes, length_multiple=length_multiple)
    assert all(have >= need for have, need in zip(members, taken, strict=True))
    assert min(taken) >= 8


@pytest.mark.parametrize("count", [110, 300, 1500])
def test_a_pass_has_some_updates(count):
    sizes = fit_sizes(lengths_of(count), ASKED, rows_multiple=8, updates_of_a_pass=UPDATES_OF_A_PASS)
    members, taken = rows_of_updates(lengths_of(count), sizes, length_multiple=1)
    assert sum(have / need for have, need in zip(members, taken, strict=True)) >= UPDATES_OF_A_PASS


@pytest.mark.parametrize("count", [1, 3, 7])
def test_fewer_rows_than_a_batch_must_have_make_the_smallest_one(count):
    lengths = lengths_of(count)
    sizes = fit_sizes(lengths, ASKED, rows_multiple=8)
    assert sizes == Sizes(tokens_per_batch=8 * int(lengths.max()), accumulation=1, num_buckets=1)


def test_rows_that_suffice_change_nothing():
    asked = Sizes(tokens_per_batch=128, accumulation=2, num_buckets=3)
    lengths = np.full(320, 8)
    assert fit_sizes(lengths, asked, rows_multiple=8, updates_of_a_pass=10) == asked
    assert fit_sizes(lengths, asked, rows_multiple=8, updates_of_a_pass=11).tokens_per_batch < 128
    assert fit_sizes(lengths[:15], asked, rows_multiple=8).accumulation == 1


def test_a_size_is_never_raised_and_what_is_wrong_stays_for_others_to_say():
    small = Sizes(tokens_per_batch=10, accumulation=1, num_buckets=1)
    assert fit_sizes([9, 9], small, rows_multiple=8) == small
    wrong = Sizes(tokens_per_batch=2048, accumulation=0, num_buckets=4)
    assert fit_sizes([9, 9], wrong, rows_multiple=8) == wrong
