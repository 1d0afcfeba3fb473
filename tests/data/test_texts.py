import itertools

import numpy as np
import pytest

from lmx.data.batches import TokenBatches, evaluation_batches
from lmx.data.buckets import choose_buckets, padding_share
from lmx.data.labelled import Examples, Text
from lmx.data.labels import Labels
from lmx.data.texts import EncodedExamples, average_rows, described, encode_examples
from lmx.text import PretokenizedTokenizer

TOKENIZER = PretokenizedTokenizer([str(number) for number in range(4, 100)])  # The id of "17" is 17.
PAD, FIRST, END = TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id


def examples(texts: list[Text], labels: list[str] | None = None) -> Examples:
    return Examples(texts=texts, labels=labels, origin="test", lines=np.arange(1, len(texts) + 1))


def words(first: int, last: int) -> str:
    return " ".join(str(number) for number in range(first, last))


def rows(encoded: EncodedExamples) -> list[list[int]]:
    return [encoded.tokens[begin:end].tolist() for begin, end in itertools.pairwise(encoded.offsets)]


def corpus(size: int = 301) -> EncodedExamples:
    """Texts whose first word is their position in the file, of 4 to 18 tokens, with three classes."""
    generator = np.random.default_rng(3)
    tokenizer = PretokenizedTokenizer([*(f"t{i}" for i in range(size)), "a"])
    texts: list[Text] = [f"t{i}" + " a" * int(generator.integers(1, 16)) for i in range(size)]
    labels = [str(i % 3) for i in range(size)]
    data = examples(texts, labels)
    return encode_examples(data, tokenizer, max_length=20, labels=Labels.of(data))


# Rows.


def test_a_text_stands_between_special_tokens_and_a_pair_has_types() -> None:
    encoded = encode_examples(examples(["5 6", ""]), TOKENIZER, max_length=9)
    assert rows(encoded) == [[FIRST, 5, 6, END], [FIRST, END]]
    assert encoded.batch(np.array([0, 1]), length=5)["types"].tolist() == [[0] * 5] * 2
    encoded = encode_examples(examples([("5 6", "7"), ("8", "9 10")]), TOKENIZER, max_length=9)
    assert rows(encoded) == [[FIRST, 5, 6, END, 7, END], [FIRST, 8, END, 9, 10, END]]
    assert encoded.batch(np.array([0, 1]), length=7)["types"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0]]
    encoded = encode_examples(examples(["5"]), TOKENIZER, max_length=9, first_id=98, separator_id=99)
    assert rows(encoded) == [[98, 5, 99]]


def test_a_long_text_loses_its_end_and_is_counted() -> None:
    encoded = encode_examples(examples([words(10, 20), words(10, 14)]), TOKENIZER, max_length=6)
    assert rows(encoded) == [[FIRST, 10, 11, 12, 13, END]] * 2
    assert (encoded.num_truncated, encoded.num_texts, len(encoded)) == (1, 2, 2)


@pytest.mark.parametrize("lengths", [(9, 2), (2, 9), (9, 9), (4, 9), (3, 5), (1, 7), (4, 4), (0, 12)])
def test_a_long_pair_loses_tokens_of_its_longer_text_first(lengths: tuple[int, int]) -> None:
    texts = words(10, 10 + lengths[0]), words(50, 50 + lengths[1])
    encoded = encode_examples(examples([texts]), TOKENIZER, max_length=11)
    first, second = (text.split() for text in texts)
    while len(first) + len(second) > 8:  # One token at a time, as in BERT.
        (first if len(first) > len(second) else second).pop()
    assert rows(encoded) == [[FIRST, *map(int, first), END, *map(int, second), END]]
    assert encoded.num_truncated == int(sum(lengths) > 8)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_windows_cover_a_long_text(stride: int) -> None:
    lengths = [4, 5, 7, 8, 12, 1]
    data = examples([words(10, 10 + length) for length in lengths], ["a", "b", "a", "b", "b", "a"])
    encoded = encode_examples(data, TOKENIZER, max_length=6, stride=stride, labels=Labels.of(data))
    assert encoded.lengths.max() == 6
    assert (encoded.num_truncated, encoded.num_texts) == (0, 6)
    for index, length in enumerate(lengths):
        windows = [row[1:-1] for row, text in zip(rows(encoded), encoded.indices, strict=True) if text == index]
        assert (
            windows == [list(range(10 + b, 10 + min(b + 4, length))) for b in range(0, length, stride)][: len(windows)]
        )
        assert windows[-1][-1] == 9 + length
        assert all(window[-1] < 9 + length for window in windows[:-1])
    totals = np.bincount(encoded.indices, weights=encoded.weights)
    np.testing.assert_allclose(totals, 1, rtol=1e-6)
    assert encoded.batch(np.array([1, -1]), length=6)["weights"].tolist() == [encoded.weights[1], 0]
    assert encoded.targets is not None
    assert encoded.targets.tolist() == [[0, 1, 0, 1, 1, 0][index] for index in encoded.indices]


def test_settings_that_leave_no_room_are_refused() -> None:
    single, pair = examples(["5"]), examples([("5", "6")])
    for data, max_length, stride, message in (
        (single, 2, None, r"max_length must be at least 3, special tokens counted, got max_length=2\."),
        (pair, 4, None, r"max_length must be at least 5, special tokens counted, got max_length=4\."),
        (single, 6, 5, r"stride must be from 1 to the 4 tokens of a window, got stride=5\."),
        (single, 6, 0, r"stride must be from 1 to the 4 tokens of a window, got stride=0\."),
        (pair, 9, 2, r"stride must be None for pairs of texts, got stride=2\. Truncate them\."),
    ):
        with pytest.raises(ValueError, match=message):
            encode_examples(data, TOKENIZER, max_length=max_length, stride=stride)


# Batches.


def test_a_training_batch_holds_the_texts_and_their_labels() -> None:
    encoded = corpus()
    buckets = choose_buckets(encoded.lengths, num_buckets=3)
    made = TokenBatches(encoded, buckets=buckets, tokens_per_batch=200, accumulation=2, seed=1)
    again = TokenBatches(encoded, buckets=buckets, tokens_per_batch=200, accumulation=2, seed=1)
    known = rows(encoded)
    for k in range(8):
        batch = made.batch(k)
        accumulation, number, length = batch["tokens"].shape
        assert (accumulation, number, length) in made.shapes
        assert (accumulation, number % 8) == (2, 0)
        assert {name: array.shape for name, array in batch.items()} == {
            "tokens": (2, number, length),
            "types": (2, number, length),
            "labels": (2, number),
            "weights": (2, number),
            "index": (2, number),
        }
        assert np.array_equal(batch["index"], made.indices(k))
        assert np.array_equal(batch["labels"], batch["index"] % 3)
        assert np.all(batch["weights"] == 1)
        for row, index in zip(batch["tokens"].reshape(-1, length), batch["index"].ravel(), strict=True):
            assert row.tolist() == known[index] + [PAD] * (length - len(known[index]))
        assert made.tokens(k) == (batch["tokens"] != PAD).sum()
        parts = [again.batch(k, slice(0, 8)), again.batch(k, slice(8, None))]
        assert all(np.array_equal(array, np.concatenate([p[name] for p in parts], 1)) for name, array in batch.items())
    assert made.padding_share == padding_share(encoded, buckets) == made.optimum < 0.2


def test_evaluation_fills_up_with_rows_that_do_not_count() -> None:
    encoded = corpus(size=83)
    seen = []
    for batch in evaluation_batches(encoded, buckets=(10, 20), tokens_per_batch=200):
        counts = batch["weights"] > 0
        assert np.array_equal(counts, batch["index"] >= 0)
        assert not any(batch[name][~counts].any() for name in ("tokens", "types", "labels"))
        seen += batch["index"][counts].tolist()
    assert sorted(seen) == list(range(83))


def test_texts_to_predict_have_no_labels_and_several_labels_a_row() -> None:
    assert "labels" not in encode_examples(examples(["5"]), TOKENIZER, max_length=9).batch(np.array([0]), length=4)
    data = Examples(texts=["5", "6"], labels=[("a", "c"), ("b",)], origin="test", lines=np.array([1, 2]))
    encoded = encode_examples(data, TOKENIZER, max_length=9, labels=Labels.of(data))
    assert encoded.batch(np.array([1, -1, 0]), length=4)["labels"].tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_a_text_longer_than_the_buckets_names_the_way_out() -> None:
    message = (
        r"the longest text of test, .* got buckets=\(10,\)\. Encode the texts with --max-length 10 or add a bucket\."
    )
    with pytest.raises(ValueError, match=message):
        TokenBatches(corpus(), buckets=(10,), tokens_per_batch=200)


# Outputs of rows become outputs of texts.


def test_the_output_of_a_text_is_the_mean_of_its_windows() -> None:
    outputs = np.array([[0.2, 0.8], [0.5, 0.5], [0.4, 0.6], [9, 9]])
    averaged = average_rows(outputs, np.array([1, 0, 1, -1]), num_texts=2)
    np.testing.assert_allclose(averaged, [[0.5, 0.5], [0.3, 0.7]])
    assert average_rows(np.array([2.0, 4.0, 5.0]), np.array([0, 0, 1]), num_texts=2).tolist() == [3, 5]
    with pytest.raises(ValueError, match=r"each of the 3 texts and no other, got no row of text 2\."):
        average_rows(outputs, np.array([1, 0, 1, -1]), num_texts=3)
    with pytest.raises(ValueError, match=r"each of the 1 texts and no other, got text 1\."):
        average_rows(outputs, np.array([1, 0, 1, -1]), num_texts=1)


class _TwoSeparators(PretokenizedTokenizer):
    """Puts two separators between the texts of a pair, as RoBERTa does."""

    num_separators = 2


def test_two_separators_may_stand_between_the_texts_of_a_pair() -> None:
    tokenizer = _TwoSeparators([str(number) for number in range(4, 100)])
    encoded = encode_examples(examples([("5 6", "7"), (words(10, 20), "8 9")]), tokenizer, max_length=9)
    assert rows(encoded) == [[FIRST, 5, 6, END, END, 7, END], [FIRST, 10, 11, 12, END, END, 8, 9, END]]
    assert encoded.first_lengths.tolist() == [5, 6]
    assert encoded.batch(np.array([0]), length=8)["types"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 0]]
    assert rows(encode_examples(examples(["5"]), tokenizer, max_length=3)) == [[FIRST, 5, END]]
    assert len(rows(encode_examples(examples([("5", "6")]), tokenizer, max_length=6))[0]) == 6
    with pytest.raises(ValueError, match=r"max_length must be at least 6, special tokens counted, got max_length=5\."):
        encode_examples(examples([("5", "6")]), tokenizer, max_length=5)


def test_what_became_of_texts_is_said() -> None:
    data = examples([words(10, 20), "", " ", "5", *["6"] * 1200])
    cut = encode_examples(data, TOKENIZER, max_length=6)
    assert described(data, cut) == "test: 1,204, 1 (0.1%) cut to the longest length, 2 without words"
    assert described(data, encode_examples(data, TOKENIZER, max_length=6, stride=2)) == (
        "test: 1,204, in 1,207 windows, 2 without words"
    )
    some = examples(["5", "6 7"])
    assert described(some, encode_examples(some, TOKENIZER, max_length=4)) == "test: 2"
    assert cut.count_tokens(np.array([0, 3, 3])) == 6 + 3 + 3
    assert cut.num_tokens == cut.lengths.sum() == 6 + 2 + 2 + 1201 * 3


def test_rows_with_other_labels_are_others() -> None:
    data = examples(["5", "6"], ["a", "b"])
    plain = encode_examples(data, TOKENIZER, max_length=9)
    labelled = encode_examples(data, TOKENIZER, max_length=9, labels=Labels.of(data))
    assert [len(each.identity) for each in (plain, labelled)] == [2, 3]
    assert labelled.identity[2].tolist() == [0, 1]
    assert [each.tolist() for each in plain.identity] == [plain.tokens.tolist(), plain.offsets.tolist()]


def test_many_texts_are_encoded_chunk_by_chunk_as_few_are(monkeypatch) -> None:
    texts = [words(10, 10 + number % 9) for number in range(23)]
    whole = encode_examples(examples(texts), TOKENIZER, max_length=6, stride=3)
    monkeypatch.setattr("lmx.data.encoding.CHUNK_TEXTS", 5)
    parts = encode_examples(examples(texts), TOKENIZER, max_length=6, stride=3)
    for name in ("tokens", "offsets", "first_lengths", "indices", "weights"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
