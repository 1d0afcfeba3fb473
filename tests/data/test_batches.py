import gc
import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmx.data.batches import SeedBatches, TokenBatches, evaluation_batches
from lmx.data.buckets import Batch, choose_buckets, padding_share, rows_of_bucket
from lmx.data.parallel import EncodedPairs
from lmx.data.prefetch import prefetch

PAD, BOS, EOS = 0, 1, 2


def encoded(source_lengths: np.ndarray, target_lengths: np.ndarray) -> EncodedPairs:
    """Makes pairs of these lengths whose first tokens, source and target, are 100 + their position."""
    flats, offsets = [], []
    for lengths in (source_lengths, target_lengths):
        rows = [[100 + i, *range(10, 8 + length), EOS][-length:] for i, length in enumerate(lengths)]
        flats.append(np.array(list(itertools.chain(*rows)), dtype=np.int32))
        offsets.append(np.cumsum([0, *lengths], dtype=np.int64))
    return EncodedPairs(
        source=flats[0],
        source_offsets=offsets[0],
        target=flats[1],
        target_offsets=offsets[1],
        indices=np.arange(len(source_lengths), dtype=np.int64),
        pad_id=PAD,
        bos_id=BOS,
        origin="test",
    )


def corpus(size: int = 997, longest: int = 23) -> EncodedPairs:
    generator = np.random.default_rng(7)
    return encoded(generator.integers(2, longest + 1, size), generator.integers(2, longest + 1, size))


def batches(pairs: EncodedPairs | None = None, **settings: int) -> TokenBatches:
    pairs = corpus() if pairs is None else pairs
    buckets = choose_buckets(pairs.lengths, num_buckets=4)
    return TokenBatches(pairs, buckets=buckets, **{"tokens_per_batch": 400, **settings})


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# Buckets.


def exhaustive(lengths: list[int], num_buckets: int, multiple_of: int) -> int:
    """Returns the least padded length over all choices of bucket lengths."""
    ends = range(multiple_of, max(lengths) + multiple_of, multiple_of)
    return min(
        sum(min(bucket for bucket in (*chosen, ends[-1]) if bucket >= length) for length in lengths)
        for count in range(num_buckets)
        for chosen in itertools.combinations(ends, count)
    )


@pytest.mark.parametrize("seed", range(12))
def test_buckets_pad_as_little_as_any_choice(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.minimum(1 + generator.geometric(0.15, size=60), 14).tolist()
    for num_buckets, multiple_of in ((1, 1), (3, 1), (4, 1), (2, 3), (3, 2)):
        buckets = choose_buckets(lengths, num_buckets=num_buckets, multiple_of=multiple_of)
        assert len(buckets) <= num_buckets
        assert all(bucket % multiple_of == 0 for bucket in buckets)
        padded = sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)
        assert padded == exhaustive(lengths, num_buckets, multiple_of)


def test_no_more_buckets_than_distinct_lengths() -> None:
    assert choose_buckets([5, 3, 5, 9], num_buckets=8) == (3, 5, 9)
    assert choose_buckets([5, 3, 5, 9], num_buckets=8, multiple_of=4) == (4, 8, 12)
    assert choose_buckets([7], num_buckets=3) == (7,)


def test_padding_is_counted_on_both_sides() -> None:
    pairs = encoded(np.array([2, 3, 6]), np.array([3, 4, 5]))
    assert padding_share(pairs, (4, 6)) == pytest.approx(1 - 23 / 28)
    assert padding_share(encoded(np.array([4, 4]), np.array([4, 4])), (4,)) == 0


def test_wrong_buckets_are_refused() -> None:
    pairs = corpus()
    with pytest.raises(ValueError, match=r"lengths must be one positive length or more, got 0 lengths\."):
        choose_buckets([], num_buckets=2)
    with pytest.raises(ValueError, match=r"lengths must be one positive length or more, got 3 lengths\."):
        choose_buckets([2, 0, 5], num_buckets=2)
    with pytest.raises(ValueError, match=r"num_buckets must be at least 1, got num_buckets=0\."):
        choose_buckets([3], num_buckets=0)
    with pytest.raises(ValueError, match=r"multiple_of must be at least 1, got multiple_of=0\."):
        choose_buckets([3], num_buckets=1, multiple_of=0)
    for wrong in ((), (9, 23, 23), (23, 9), (0, 23)):
        with pytest.raises(ValueError, match=r"buckets must be positive lengths that grow, got buckets=\("):
            TokenBatches(pairs, buckets=wrong, tokens_per_batch=400)
    message = r"longest pair of test, 23 tokens .* got buckets=\(9, 17\)\. Filter the pairs with --max-length 17 or add"
    with pytest.raises(ValueError, match=message):
        TokenBatches(pairs, buckets=(9, 17), tokens_per_batch=400)
    with pytest.raises(ValueError, match=message):
        next(evaluation_batches(pairs, buckets=(9, 17), tokens_per_batch=400))


def test_no_pairs_make_no_batches() -> None:
    nothing = encoded(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"encoded must hold at least one pair, got none from test\."):
        TokenBatches(nothing, buckets=(9,), tokens_per_batch=400)


# The budget.


def test_shapes_keep_to_the_budget_in_multiples_of_eight_rows() -> None:
    made = batches(accumulation=3)
    assert made.buckets[-1] == 23
    for accumulation, rows, length in made.shapes:
        assert accumulation == 3
        assert rows % 8 == 0
        assert rows * length <= 400 < (rows + 8) * length
    assert rows_of_bucket(20, tokens_per_batch=400, rows_multiple=4) == 20
    assert {batch["source"].shape for batch in map(made.batch, range(60))} == set(made.shapes)


def test_the_micro_batches_of_an_update_come_from_one_bucket() -> None:
    pairs = corpus()
    made = batches(pairs, accumulation=3)
    bucket_of = np.searchsorted(made.buckets, pairs.lengths)
    seen = set()
    for batch in map(made.batch, range(made.first_batch(2))):
        first = batch["source"][..., 0]  # [A, B]: 100 + the row's position
        buckets = set(bucket_of[first - 100].ravel().tolist())
        assert len(buckets) == 1
        assert batch["source"].shape[-1] == made.buckets[min(buckets)]
        seen |= buckets
    assert seen == set(range(len(made.buckets)))
    page = " ".join((Path(__file__).parents[2] / "docs" / "translation.md").read_text(encoding="utf-8").split())
    assert "micro-batches make one update, and all of them come from one bucket" in page


def test_a_budget_too_small_names_the_smallest() -> None:
    message = (
        r"tokens_per_batch must be at least 184 \(8 rows of the longest bucket, 23 tokens\), got tokens_per_batch=183"
    )
    with pytest.raises(ValueError, match=message):
        batches(tokens_per_batch=183)
    assert batches(tokens_per_batch=184).shapes[-1] == (1, 8, 23)


def test_wrong_settings_are_refused() -> None:
    for name, message in (
        ("accumulation", r"accumulation must be at least 1, got accumulation=-1\."),
        ("rows_multiple", r"rows_multiple must be at least 1, got rows_multiple=-1\."),
        ("seed", r"seed must not be negative, got seed=-1\."),
    ):
        with pytest.raises(ValueError, match=message):
            batches(**{name: -1})
    for call, message in (
        (batches().batch, r"k must not be negative, got k=-1\."),
        (batches().first_batch, r"epoch must not be negative, got epoch=-1\."),
    ):
        with pytest.raises(ValueError, match=message):
            call(-1)


def test_buckets_without_a_pair_make_no_shape() -> None:
    pairs = encoded(np.array([3, 3, 9]), np.array([3, 2, 8]))
    made = TokenBatches(pairs, buckets=(3, 5, 9, 12), tokens_per_batch=96)
    assert made.buckets == (3, 9)
    assert made.shapes == [(1, 32, 3), (1, 8, 9)]


# What a batch holds.


def test_rows_are_the_pairs_padded() -> None:
    pairs = corpus()
    made = batches(pairs, accumulation=2)
    for k in range(20):
        batch = made.batch(k)
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
        for position in np.ndindex(batch["source"].shape[:2]):
            index = made.indices(k)[position]
            source = pairs.source[pairs.source_offsets[index] : pairs.source_offsets[index + 1]].tolist()
            target = pairs.target[pairs.target_offsets[index] : pairs.target_offsets[index + 1]].tolist()
            expected = {"source": source, "decoder_input": [BOS, *target[:-1]], "target": target}
            for name, ids in expected.items():
                row = batch[name][position].tolist()
                assert row == ids + [PAD] * (len(row) - len(ids))


def test_tokens_are_counted_without_padding() -> None:
    made = batches(accumulation=2)
    for k in range(20):
        batch = made.batch(k)
        assert made.tokens(k) == (batch["source"] != PAD).sum() + (batch["target"] != PAD).sum()


def test_hosts_that_take_rows_make_up_the_batch() -> None:
    made = batches(accumulation=2)
    for k in range(10):
        whole, half = made.batch(k), made.batch(k)["source"].shape[1] // 2
        parts = [made.batch(k, slice(0, half)), made.batch(k, slice(half, None))]
        assert parts[0]["source"].shape[1] == half
        assert same(whole, {name: np.concatenate([part[name] for part in parts], axis=1) for name in whole})


# The order.


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    numbers = np.random.default_rng(3).permutation(300)
    first, second = batches(), batches()
    later = {k: second.batch(int(k)) for k in numbers}
    assert all(same(first.batch(k), later[k]) for k in range(300))
    other = batches(seed=1)
    assert sum(same(first.batch(k), other.batch(k)) for k in range(50)) == 0


def test_the_order_is_the_one_of_earlier_versions() -> None:
    """Resumed runs depend on it: a change here breaks them."""
    pairs = encoded(np.full(11, 3), np.full(11, 4))
    made = TokenBatches(pairs, buckets=(4,), tokens_per_batch=16, rows_multiple=4, seed=5)
    assert [made.indices(k).tolist() for k in (0, 1, 1000)] == [[[0, 2, 1, 5]], [[9, 6, 8, 4]], [[4, 3, 1, 8]]]


def test_every_pair_is_seen_once_a_pass() -> None:
    pairs = corpus()
    made = batches(pairs)
    bucket_of = np.searchsorted(made.buckets, pairs.lengths)
    seen = np.zeros(len(pairs), dtype=int)
    for k in range(made.first_batch(6)):
        np.add.at(seen, made.indices(k).ravel(), 1)
    for bucket, (_, rows, _) in enumerate(made.shapes):
        counts = Counter(seen[bucket_of == bucket].tolist())
        size = int((bucket_of == bucket).sum())
        taken = 6 * size // rows * rows
        expected = {taken // size: size - taken % size, taken // size + 1: taken % size}
        assert counts == {times: pairs_seen for times, pairs_seen in expected.items() if pairs_seen}


def test_epochs_are_numbered_without_gaps() -> None:
    made = batches(accumulation=3)
    starts = [made.first_batch(epoch) for epoch in range(12)]
    assert starts[0] == 0
    for epoch in range(11):
        assert abs(starts[epoch + 1] - starts[epoch] - made.batches_per_epoch) < len(made.buckets)
        for k in (starts[epoch], starts[epoch + 1] - 1):
            assert made.epoch_of(k) == epoch
    far = made.epoch_of(10**12)
    assert made.first_batch(far) <= 10**12 < made.first_batch(far + 1)
    assert same(made.batch(10**12), batches(accumulation=3).batch(10**12))


def test_buckets_are_mixed_within_an_epoch() -> None:
    made = batches()
    lengths = [made.batch(k)["source"].shape[2] for k in range(made.first_batch(1))]
    assert len(set(lengths[:10])) > 2
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


def test_a_bucket_smaller_than_a_batch_fills_it_with_whole_passes() -> None:
    pairs = encoded(np.array([3, 3, 2]), np.array([3, 2, 3]))
    made = TokenBatches(pairs, buckets=(3,), tokens_per_batch=24)
    assert [made.first_batch(epoch) for epoch in range(4)] == [0, 0, 0, 1]
    assert [made.epoch_of(k) for k in range(3)] == [2, 5, 7]
    seen = np.concatenate([made.indices(k).ravel() for k in range(3)])
    assert sorted(seen.tolist()) == sorted([0, 1, 2] * 8)


def test_the_optimum_is_the_padding_of_the_best_buckets() -> None:
    pairs = corpus()
    best = batches(pairs)
    assert best.padding_share == best.optimum == padding_share(pairs, best.buckets)
    other = TokenBatches(pairs, buckets=(6, 12, 18, 24), tokens_per_batch=400)
    assert other.padding_share > other.optimum == best.optimum


def test_a_batch_is_made_in_under_a_millisecond() -> None:
    made = batches(corpus(size=20_000, longest=40), tokens_per_batch=4096, accumulation=2)
    made.batch(0)
    times = []
    for k in range(100):
        began = time.perf_counter()
        made.batch(k)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.001  # The best of them: the machine may be busy with other things.


# Evaluation.


def test_evaluation_sees_every_pair_once_in_order_and_in_fixed_shapes() -> None:
    pairs = corpus(size=211)
    made = batches(pairs)
    seen: list[list[list[int]]] = []
    places: dict[int, list[int]] = {}
    for batch in evaluation_batches(pairs, buckets=made.buckets, tokens_per_batch=400):
        assert (1, *batch["source"].shape) in made.shapes
        filled = batch["target"][:, 0] != PAD
        assert not any(array[~filled].any() for array in batch.values())
        assert np.all(batch["decoder_input"][filled, 0] == BOS)
        assert np.all(np.diff(filled.astype(int)) <= 0)
        seen.append([row[row != PAD].tolist() for row in batch["target"][filled]])
        places.setdefault(batch["source"].shape[1], []).extend((batch["source"][filled, 0] - 100).tolist())
    assert len(places) == len(made.buckets)
    assert all(found == sorted(found) for found in places.values())
    rows = [pairs.target[begin:end].tolist() for begin, end in itertools.pairwise(pairs.target_offsets)]
    assert sorted(itertools.chain(*seen)) == sorted(rows)
    assert len(seen) == sum(
        -(-int(count) // rows)
        for count, (_, rows, _) in zip(
            np.bincount(np.searchsorted(made.buckets, pairs.lengths)), made.shapes, strict=True
        )
    )


def test_evaluation_gives_a_host_its_rows() -> None:
    pairs = corpus(size=50)
    settings = {"buckets": (23,), "tokens_per_batch": 400}
    whole = list(evaluation_batches(pairs, **settings))
    part = list(evaluation_batches(pairs, **settings, rows=slice(8, 16)))
    assert all(np.array_equal(a["source"][8:16], b["source"]) for a, b in zip(whole, part, strict=True))


def test_evaluation_fills_up_batches_to_divide_over_a_mesh() -> None:
    pairs = corpus(size=50)
    settings = {"buckets": (11, 23), "tokens_per_batch": 400}
    whole = list(evaluation_batches(pairs, **settings))
    filled = list(evaluation_batches(pairs, **settings, fill_multiple=5))
    parts = [
        list(evaluation_batches(pairs, **settings, fill_multiple=5, rows=lambda rows, i=i: slice(rows * i // 5, None)))
        for i in range(5)
    ]
    assert len({len(batch["source"]) for batch in whole}) == 2
    for number, (before, after) in enumerate(zip(whole, filled, strict=True)):
        rows = len(before["source"])
        assert len(after["source"]) == -(-rows // 5) * 5 > rows
        for name in before:
            assert np.array_equal(after[name][:rows], before[name])
            assert not after[name][rows:].any()  # padding alone, whose target does not count
            for i, part in enumerate(parts):
                assert np.array_equal(part[number][name], after[name][len(after[name]) * i // 5 :])


# Making ahead.


def lmx_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lmx-prefetch"]


def test_items_come_in_order_from_another_thread() -> None:
    made = prefetch(lambda k: (k, threading.current_thread().name), 3, 9)
    assert list(made) == [(k, "lmx-prefetch") for k in range(3, 9)]
    assert list(made) == []
    assert lmx_threads() == []


def test_items_are_made_ahead_but_no_more_than_the_depth() -> None:
    asked = []
    with prefetch(lambda k: asked.append(k) or k, 0, 100, depth=3) as made:
        deadline = time.monotonic() + 5
        while len(asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert asked == [0, 1, 2]
        assert next(made) == 0


def test_an_exception_comes_out_in_its_place() -> None:
    def make(k: int) -> int:
        if k == 2:
            raise ValueError("batch 2 is broken.")
        return k

    made = prefetch(make, 0, 5)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match=r"batch 2 is broken\."):
        next(made)
    assert list(made) == []
    assert lmx_threads() == []


def test_an_item_that_stops_the_iteration_is_an_error() -> None:
    made = prefetch(lambda k: next(iter(())), 0, 5)
    with pytest.raises(RuntimeError, match=r"make must return an item, got StopIteration\."):
        next(made)


def test_the_thread_ends_when_the_consumer_stops() -> None:
    with prefetch(lambda k: k, 0, 10**9) as made:
        assert next(made) == 0
        assert len(lmx_threads()) == 1
    assert lmx_threads() == []
    for item in prefetch(lambda k: k, 0, 10**9):
        if item == 5:
            break
    gc.collect()
    assert lmx_threads() == []


def test_waiting_is_measured() -> None:
    slow = prefetch(lambda k: time.sleep(0.02), 0, 5)
    assert len(list(slow)) == 5
    assert slow.waited > 0.05
    quick = prefetch(lambda k: k, 0, 5, depth=5)
    while lmx_threads():
        time.sleep(0.001)
    assert list(quick) == [0, 1, 2, 3, 4]
    assert quick.waited < 0.05


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth must be at least 1, got depth=0\."):
        prefetch(lambda k: k, 0, 5, depth=0)


def test_every_epoch_has_its_own_order_of_shapes() -> None:
    made = batches()

    def shapes(epoch: int, made: TokenBatches = made) -> list[int]:
        return [made._items(k)[0] for k in range(made.first_batch(epoch), made.first_batch(epoch + 1))]

    orders = [shapes(epoch) for epoch in range(4)]
    beginnings = {tuple(order[:20]) for order in orders}
    assert len(beginnings) == len(orders)
    # About as many of each shape in each epoch.
    counts = np.array([[order.count(bucket) for bucket in range(len(made.buckets))] for order in orders])
    assert (counts.max(0) - counts.min(0)).max() <= 1
    assert shapes(0, batches(seed=1)) != orders[0]
    shared = [shapes(1, batches(seed=seed, shapes_seed=7)) for seed in (0, 1)]
    assert shared[0] == shared[1] != shapes(1, batches(shapes_seed=8))


def test_every_pass_over_a_bucket_has_its_own_order() -> None:
    pairs = encoded(np.full(40, 3), np.full(40, 4))
    made = TokenBatches(pairs, buckets=(4,), tokens_per_batch=160, rows_multiple=8)
    passes = [made.indices(k)[0].tolist() for k in range(4)]
    assert all(sorted(each) == list(range(40)) for each in passes)
    assert len(set(map(tuple, passes))) == 4


def test_the_default_depth_makes_two_items_ahead() -> None:
    asked = []
    with prefetch(lambda k: asked.append(k) or k, 0, 100):
        deadline = time.monotonic() + 5
        while len(asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert asked == [0, 1]


def test_batches_of_an_epoch_are_counted_on_average_and_epochs_to_four_decimals() -> None:
    made = batches(accumulation=3)
    assert made.first_batch(10**6) / 10**6 == pytest.approx(made.batches_per_epoch, rel=1e-5)
    assert (made.epochs_before(0), made.epochs_before(7)) == (0, round(7 / made.batches_per_epoch, 4))
    assert made.epochs_before(7) != 7 / made.batches_per_epoch


def test_pairs_are_named_by_their_places_in_what_was_encoded() -> None:
    pairs = corpus()
    filtered = replace(pairs, indices=pairs.indices + 5000)
    assert np.array_equal(batches(filtered).indices(3), batches(pairs).indices(3) + 5000)


def test_seeds_that_train_together_share_shapes_and_have_each_an_order_of_its_own() -> None:
    pairs = corpus()
    settings = {"buckets": choose_buckets(pairs.lengths, num_buckets=4), "tokens_per_batch": 400, "accumulation": 2}
    both = SeedBatches(pairs, seeds=(3, 5), **settings)
    alone = [TokenBatches(pairs, seed=seed, shapes_seed=0, **settings) for seed in (3, 5)]
    assert not same(alone[0].batch(6), alone[1].batch(6))
    for k in (0, 6):
        batch, part = both.batch(k), both.batch(k, slice(2, 6))
        for number, each in enumerate(alone):
            assert same(each.batch(k), {name: array[number] for name, array in batch.items()})
        assert same(part, {name: array[:, :, 2:6] for name, array in batch.items()})
        assert both.tokens(k) == sum(each.tokens(k) for each in alone)
    assert (both.seeds, both.epochs_before(6)) == ((3, 5), alone[1].epochs_before(6))
    assert (both.shapes, both.epoch_of(40)) == (alone[0].shapes, alone[1].epoch_of(40))
    for seeds in ((), (3, 3)):
        with pytest.raises(ValueError, match=r"seeds must be one or more that differ, got seeds=\("):
            SeedBatches(pairs, seeds=seeds, **settings)
    with pytest.raises(AttributeError, match=r"SeedBatches has no indices\."):
        both.indices  # noqa: B018
