"""Each source of a mixture gives its share of the rows, at every row, and its own rows one after another."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.cache import Cache
from lmx.data.corpus import encode_corpus, find_corpus
from lmx.data.mixtures import MixedRows, Mixture, plan_period
from lmx.data.windows import Windows
from lmx.text import ByteTokenizer


class Numbers:
    """A source whose rows are its own name and their numbers."""

    rows_per_epoch = 7

    def __init__(self, name: int):
        self.name = name

    def rows(self, numbers):
        return {"tokens": np.stack([np.full(numbers.size, self.name), numbers], axis=1)}

    def tokens(self, numbers, *, length):
        return length * numbers.size


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_shares_are_met_within_a_row_at_every_row(weights):
    weights = [f"{weight / 100:.2f}" for weight in weights]
    source, rank, counts = plan_period(weights)
    shares = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    upto = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
    for number, share in enumerate(shares):
        ideal = np.arange(1, len(source) + 1) * float(share)
        assert np.abs(upto[:, number] - ideal).max() < 1 + 1e-9
        assert counts[number] == share * len(source)
        assert np.array_equal(rank[source == number], np.arange(counts[number]))


def test_each_source_is_read_evenly():
    mixed = MixedRows([Numbers(0), Numbers(1), Numbers(2)], ["0.5", "0.3", "0.2"])
    rows = mixed.rows(np.arange(1000))["tokens"]
    for name, share in enumerate((0.5, 0.3, 0.2)):
        own = rows[rows[:, 0] == name, 1]
        assert np.array_equal(own, np.arange(1000 * share))
    some = np.array([700, 3, 999_999_999_999])
    assert mixed.rows(some)["tokens"][1].tolist() == rows[3].tolist()
    assert abs(int(mixed.place(some)[1][2]) - 999_999_999_999 * (0.5, 0.3, 0.2)[mixed.place(some)[0][2]]) < 1.01
    assert mixed.tokens(some, length=4) == 12


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["0.5", "0"], r"weights must be over 0, got 0\.5, 0\."),
        (
            ["0.3333337", "0.6666663"],
            r"weights must repeat after at most 100,000 rows, got 0\.3333337, .* Round them\.",
        ),
    ],
)
def test_weights_that_cannot_be_met_are_refused(weights: list[str], expected: str):
    with pytest.raises(ValueError, match=expected):
        plan_period(weights)


def test_a_location_mixes_corpora(tmp_path):
    (tmp_path / "a").write_text("a" * 500)
    (tmp_path / "b").write_text("b" * 90)
    files = find_corpus(f"{tmp_path}/a*0.25, {tmp_path}/b*0.75")
    mixture = encode_corpus(files, ByteTokenizer(), cache=Cache(None))
    assert isinstance(mixture, Mixture)
    assert mixture.num_bytes == 590
    assert mixture.described().startswith(f"25.0% {tmp_path}/a: 1 documents, 501 tokens")
    whole = encode_corpus(find_corpus(f"{tmp_path}/a*6,{tmp_path}/b*2"), ByteTokenizer(), cache=Cache(None))
    assert [each.split()[0] for each in whole.described().split("; ")] == ["75.0%", "25.0%"]
    windows = Windows(mixture, length=8, rows=40)
    is_b = windows.batch(3)["tokens"] == ord("b") + 4
    assert is_b.any(axis=-1).sum() == 30
    first, rest = (encode_corpus(half, ByteTokenizer(), cache=Cache(None)) for half in files.split(0.8))
    assert (first.num_bytes, rest.num_bytes) == (472, 118)
    seen = np.concatenate(
        [batch["tokens"][batch["segments"] > 0] for batch in Windows(mixture, length=8, rows=5).once()]
    )
    assert {ord("a") + 4, ord("b") + 4} <= set(seen.tolist())
    assert other_weights(files).identity != mixture.identity


def other_weights(files):
    return encode_corpus(type(files)(files.files, ("1", "2")), ByteTokenizer(), cache=Cache(None))


class Counted(Numbers):
    """Rows that hold as many tokens as their number says."""

    def tokens(self, numbers, *, length):
        return int(np.minimum(numbers, length).sum()) * 10**self.name

    def in_order(self):
        yield {"tokens": np.full((2, 2), self.name)}


def test_what_rows_hold_is_asked_of_the_source_of_each():
    mixed = MixedRows([Counted(0), Counted(2)], ["1", "1"])
    assert mixed.place(np.arange(4))[0].tolist() == [0, 1, 0, 1]  # of two that may come, the first
    assert mixed.tokens(np.array([2, 3, 8, 9]), length=3) == (1 + 3) + 100 * (1 + 3)
    assert mixed.rows_per_epoch == 14
    assert [block["tokens"][0, 0] for block in mixed.in_order()] == [0, 2]


def test_shares_are_told_with_a_period_that_may_be_long():
    source, _, counts = plan_period(["1", "99999"])
    assert (len(source), counts.tolist()) == (100_000, [1, 99_999])
    with pytest.raises(ValueError, match=r"which do after 100,001\. Round them\."):
        plan_period(["1", "100000"])
    assert plan_period(["2", "4.0"])[2].tolist() == [1, 2]


def test_a_mixture_has_what_its_corpora_have_together(tmp_path):
    (tmp_path / "a").write_text("one two\n")
    (tmp_path / "b").write_text("three")
    files = find_corpus(f"{tmp_path}/a*1,{tmp_path}/b*3")
    mixture = encode_corpus(files, ByteTokenizer(), cache=Cache(None))
    assert (mixture.num_tokens, mixture.num_documents, mixture.num_words) == (15, 2, 3)
    assert mixture.origin == files.origin == f"{tmp_path}/a*1,{tmp_path}/b*3"
    with pytest.raises(AttributeError, match=r"Mixture has no digest\."):
        mixture.digest  # noqa: B018
    assert list(files.texts()) == ["one two\n", "three"]
    before = files.facts(Cache(None))
    (tmp_path / "b").write_text("other")
    assert find_corpus(f"{tmp_path}/a*1,{tmp_path}/b*3").facts(Cache(None)) != before
    assert encode_corpus(files, ByteTokenizer(), cache=Cache(None)).identity != mixture.identity
