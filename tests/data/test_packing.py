"""Pieces are placed without loss; rows of documents are 98% full, by number, whatever the documents are."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data import packed_rows
from lmx.data.packed_rows import PackedRows
from lmx.data.packing import cut_long, pack
from lmx.data.shards import Shard, TokenCorpus


def corpus_of(lengths, *, shards: int = 1, counts: bool = False, origin: str = "a corpus") -> TokenCorpus:
    """A corpus whose tokens are their own places plus 1, so that each is known wherever it is found again."""
    ends = np.cumsum(lengths)
    tokens = np.arange(1, ends[-1] + 1, dtype=np.uint32)
    borders = np.linspace(0, tokens.size, shards + 1).astype(int)
    made = []
    for begin, end in itertools.pairwise(borders):
        here = tokens[begin:end]
        odd = (here % 2).astype(np.uint8) if counts else None
        made.append(Shard(here, ends[(ends > begin) & (ends <= end)] - begin, odd))
    return TokenCorpus(shards=tuple(made), origin=origin, digest="1", num_bytes=1, num_words=1, pad_id=0)


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=60), more=st.integers(0, 3))
def test_all_tokens_are_placed_and_none_twice(lengths: list[int], more: int):
    width = 11
    sizes = np.array(lengths)
    begins = np.cumsum(sizes) - sizes
    num_rows = -(-int(sizes.sum()) // width) + more
    pool = pack(begins, sizes, num_rows=num_rows, width=width)
    places = np.concatenate([np.arange(b, b + n) for b, n in zip(pool.begins, pool.lengths, strict=True)])
    assert np.array_equal(np.sort(places), np.arange(sizes.sum()))
    assert pool.first[0] == 0
    assert pool.first[-1] == len(pool.begins)
    for row in range(num_rows):
        here = slice(pool.first[row], pool.first[row + 1])
        upto = np.cumsum(pool.lengths[here])
        assert np.array_equal(pool.offsets[here], upto - pool.lengths[here])
        assert not upto.size or upto[-1] <= width
    if not pool.num_cut:
        assert sorted(pool.lengths.tolist()) == sorted(lengths)


def test_best_fit_finds_what_fits():
    sizes = np.array([6, 5, 4, 3, 2])
    pool = pack(np.arange(5) * 10, sizes, num_rows=2, width=10)
    assert pool.num_cut == 0
    rows = [pool.begins[pool.first[row] : pool.first[row + 1]].tolist() for row in range(2)]
    assert sorted(map(sorted, rows)) == [[0, 20], [10, 30, 40]]


def test_what_has_no_place_is_cut_for_the_largest_gaps():
    """Of 9, 7 and 6 in rows of 10, gaps of 1, 3 and 4 are left: 5 more fill the last, and a place of the one before."""
    pool = pack(np.array([0, 10, 20, 30]), np.array([9, 7, 6, 5]), num_rows=3, width=10)
    assert pool.num_cut == 1
    assert sorted(zip(pool.begins.tolist(), pool.lengths.tolist(), strict=True)) == [
        (0, 9), (10, 7), (20, 6), (30, 4), (34, 1),
    ]  # fmt: skip
    rows = [pool.begins[pool.first[row] : pool.first[row + 1]].tolist() for row in range(3)]
    assert sorted(map(sorted, rows)) == [[0], [10, 34], [20, 30]]


def test_more_tokens_than_places_are_refused():
    with pytest.raises(ValueError, match=r"pieces must fit in 2 rows of 5, got 11 tokens\."):
        pack(np.array([0]), np.array([11]), num_rows=2, width=5)


def test_what_is_longer_than_a_row_is_cut_into_rows():
    begins, sizes = cut_long(np.array([0, 100]), np.array([7, 3]), width=3)
    assert begins.tolist() == [0, 3, 6, 100]
    assert sizes.tolist() == [3, 3, 1, 3]


LENGTHS = {
    "short": np.random.default_rng(1).integers(2, 13, 9000),
    "mixed": np.minimum(np.random.default_rng(2).lognormal(2.3, 0.8, 4000).astype(int) + 1, 33),
    "just over half": np.full(3000, 20),
    "long": np.array([20_000, 3, 40_000]),
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_rows, "_BLOCK", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", LENGTHS)
def test_an_epoch_holds_each_token_once_in_rows_that_are_full(kind: str, shards: int):
    corpus = corpus_of(LENGTHS[kind], shards=shards)
    rows = PackedRows(corpus, width=33, ahead=1, seed=3)
    number = rows.rows_per_epoch
    for epoch in range(2):
        raw = rows.rows(np.arange(epoch * number, (epoch + 1) * number))
        here = raw["segments"] > 0
        assert here.mean() >= 0.98
        assert np.array_equal(np.sort(raw["tokens"][here]), np.arange(1, corpus.num_tokens + 1))
        assert not raw["tokens"][~here].any()
        check_segments(raw, corpus)
    assert rows.efficiency >= 0.98
    whole = np.concatenate([[0], np.cumsum(LENGTHS[kind])[:-1]]) + 1
    first = np.isin(raw["tokens"][here & (raw["positions"] == 0)], whole).mean()
    assert first > {"just over half": 0.6, "long": 0.0}.get(kind, 0.97)  # most pieces are whole documents


def check_segments(raw: dict[str, np.ndarray], corpus: TokenCorpus) -> None:
    """Segments count from 1, hold one document each, in order, and their positions count from 0."""
    tokens, segments, positions = (raw[name] for name in ("tokens", "segments", "positions"))
    ends = np.concatenate([shard.ends + begin for shard, begin in zip(corpus.shards, corpus._begins, strict=False)])
    documents = np.searchsorted(ends, tokens - 1, side="right")
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    assert (documents[:, 1:] == documents[:, :-1])[same].all()
    assert (np.diff(tokens)[same] == 1).all()
    assert (np.diff(positions)[same] == 1).all()
    begins = np.concatenate([np.ones((len(segments), 1), bool), ~same], axis=1) & (segments > 0)
    assert not positions[begins].any()
    assert np.array_equal(segments[segments > 0], np.cumsum(begins, axis=1)[segments > 0])


@pytest.mark.usefixtures("small_blocks")
def test_a_row_is_a_function_of_its_number():
    corpus = corpus_of(LENGTHS["mixed"], shards=2, counts=True)
    rows = PackedRows(corpus, width=33, ahead=1, seed=3)
    number = rows.rows_per_epoch
    some = np.array([number + 300, 5, number - 1, 5, 3 * number + 7])
    found = rows.rows(some)
    for place, one in enumerate(some):
        alone = PackedRows(corpus, width=33, ahead=1, seed=3).rows(np.array([one]))
        assert all(np.array_equal(found[name][place], alone[name][0]) for name in alone)
    assert np.array_equal(found["counts"], found["tokens"] % 2)
    other = PackedRows(corpus, width=33, ahead=1, seed=4).rows(some)
    assert not np.array_equal(found["tokens"][0], other["tokens"][0])
    assert rows.tokens(some, length=32) == (found["segments"][:, :32] > 0).sum()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("kind", ["mixed", "long"])
def test_in_order_no_document_that_fits_is_cut(kind: str, ahead: int):
    corpus = corpus_of(LENGTHS[kind], shards=2)
    blocks = list(PackedRows(corpus, width=33, ahead=ahead, seed=3).in_order())
    raw = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    check_segments(raw, corpus)
    predicted = (raw["segments"][:, 1:] == raw["segments"][:, :-1]) & (raw["segments"][:, 1:] > 0)
    labels = raw["tokens"][:, 1:][predicted] if ahead else raw["tokens"][raw["segments"] > 0]
    firsts = np.cumsum(LENGTHS[kind]) - LENGTHS[kind] + 1
    expected = np.setdiff1d(np.arange(1, corpus.num_tokens + 1), firsts if ahead else [])
    assert np.array_equal(np.sort(labels), expected)


@pytest.mark.usefixtures("small_blocks")
def test_threads_get_the_same_rows():
    corpus = corpus_of(LENGTHS["short"])
    rows = PackedRows(corpus, width=33, ahead=1, seed=3)
    expected = PackedRows(corpus, width=33, ahead=1, seed=3)
    asked = [np.array([number * 277 % (4 * rows.rows_per_epoch)]) for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(rows.rows, asked))
    for one, got in zip(asked, found, strict=True):
        assert np.array_equal(got["tokens"], expected.rows(one)["tokens"])


def test_what_was_cut_is_a_share_of_the_pieces_of_the_first_pool():
    for kind, bounds in (("short", (0, 0.05)), ("just over half", (0.2, 0.6))):
        rows = PackedRows(corpus_of(LENGTHS[kind]), width=33, ahead=1, seed=3)
        pool = rows._pool(0, 0)
        assert rows.share_cut() == pool.num_cut / len(pool.lengths)
        assert bounds[0] <= rows.share_cut() <= bounds[1]
        assert rows.sources == [rows]
