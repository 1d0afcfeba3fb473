"""The rows of a bucket are found by number, as a list of them would have them."""

import numpy as np
import pytest

from lmx.data import batches, bucket_index
from lmx.data.batches import TokenBatches
from lmx.data.bucket_index import BucketIndex, count_lengths
from lmx.data.parallel import EncodedPairs

LENGTHS = np.random.default_rng(1).integers(1, 41, 5000).astype(np.int32)
BUCKETS = (5, 6, 30, 40)


@pytest.fixture(params=[1, 3], ids=["one chunk", "several"])
def lengths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    if request.param > 1:
        monkeypatch.setattr(bucket_index, "_CHUNK", 2048)
    return LENGTHS


def test_rows_are_found_by_their_number_in_a_bucket(lengths: np.ndarray):
    index = BucketIndex(lengths, BUCKETS)
    bucket_of = np.searchsorted(BUCKETS, lengths)
    assert index.sizes == np.bincount(bucket_of).tolist()
    for bucket in range(len(BUCKETS)):
        members = np.flatnonzero(bucket_of == bucket)
        some = np.random.default_rng(2).integers(0, len(members), 300)
        assert np.array_equal(index.members(bucket, some), members[some])
        assert np.array_equal(index.members(bucket, np.arange(len(members))), members)
        assert index.members(bucket, np.empty(0, np.int64)).size == 0


def test_lengths_are_counted(lengths: np.ndarray):
    distinct, counts = count_lengths(lengths)
    expected = np.unique(lengths, return_counts=True)
    assert np.array_equal(distinct, expected[0])
    assert np.array_equal(counts, expected[1])


def pairs() -> EncodedPairs:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    tokens = np.arange(4, offsets[-1] + 4, dtype=np.int32)
    sides = {"source": tokens, "source_offsets": offsets, "target": tokens, "target_offsets": offsets}
    return EncodedPairs(**sides, indices=np.arange(len(LENGTHS)), pad_id=0, bos_id=1, origin="pairs")


def test_an_order_that_is_not_listed_still_holds_each_pair_once_a_pass(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "LISTED", 100)
    made = TokenBatches(pairs(), buckets=BUCKETS, tokens_per_batch=400, seed=3)
    monkeypatch.setattr(made, "_pass", None)  # no list is made
    seen = np.concatenate([made.indices(k).ravel() for k in range(made.first_batch(3))])
    times = np.bincount(seen, minlength=len(LENGTHS))
    assert 2 <= times.min() <= times.max() <= 4  # a batch may straddle two passes
    assert times.mean() == pytest.approx(3, abs=0.05)
    again = TokenBatches(pairs(), buckets=BUCKETS, tokens_per_batch=400, seed=3)
    assert np.array_equal(again.indices(77), made.indices(77))
    other = TokenBatches(pairs(), buckets=BUCKETS, tokens_per_batch=400, seed=4)
    assert not np.array_equal(other.indices(77), made.indices(77))
