"""Objectives: nothing is lost, shares are kept, documents stay apart, and who makes a row has no part in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.data.objectives.causal import causal, pairs, prefix
from lmx.data.objectives.masked import masked
from lmx.data.objectives.randomness import draw_uniform, ranks_within
from lmx.data.objectives.rows import IGNORED
from lmx.data.objectives.spans import (
    Noise,
    Special,
    count_spans,
    input_and_target_lengths,
    noise_mask,
    raw_length,
    spans,
)
from lmx.models.language import predict

PAD, BOS, EOS = 0, 1, 2
VOCAB, SENTINELS = 500, 40
MASK = 450
WORDS = (4, 440)


def packed(*, rows: int = 6, width: int = 97, seed: int = 0, documents: bool = True) -> dict[str, np.ndarray]:
    """Rows of documents of random lengths, each with its end, then padding; or rows cut from a stream."""
    random = np.random.default_rng(seed)
    tokens = random.integers(4, 440, (rows, width)).astype(np.int32)
    segments = np.ones((rows, width), np.int32)
    positions = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
    for row in range(rows) if documents else ():
        place, number = 0, 0
        while place < width - 3:
            size = min(int(random.integers(1, 30)), width - place)
            number += 1
            segments[row, place : place + size] = number
            positions[row, place : place + size] = np.arange(size)
            tokens[row, place + size - 1] = EOS
            place += size
        segments[row, place:] = positions[row, place:] = 0
        tokens[row, place:] = PAD
    return {"tokens": tokens, "segments": segments, "positions": positions}


def make_spans(rows: dict, key: tuple, **options) -> dict:
    usual = {"special": Special(PAD, EOS, BOS), "vocab_size": VOCAB, "num_sentinels": SENTINELS, "lengths": (150, 150)}
    return spans(rows, key, **usual | options)


def make_masked(rows: dict, key: tuple, **options) -> dict:
    return masked(rows, key, **{"mask_id": MASK, "words": WORDS, "special_ids": (PAD, BOS, EOS)} | options)


OBJECTIVES = {
    "causal": lambda rows, key: causal(rows, key, pad_id=PAD),
    "started": lambda rows, key: causal(rows, key, pad_id=PAD, start_id=BOS),
    "prefix": lambda rows, key: prefix(rows, key, pad_id=PAD),
    "pairs": lambda rows, key: pairs(rows, key, pad_id=PAD, separator_id=7),
    "masked": make_masked,
    "spans": make_spans,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_is_a_function_of_seed_and_index_whichever_host_makes_it(name):
    rows, index = packed(), np.arange(100, 106)
    whole = OBJECTIVES[name](rows, (3, index))
    for some in ([0, 1, 2], [5, 3], [4]):
        part = OBJECTIVES[name]({key: array[some] for key, array in rows.items()}, (3, index[some]))
        for key, array in part.items():
            np.testing.assert_array_equal(array, whole[key][some])
    # Axes in front are only a shape: micro-batches, seeds.
    shaped = OBJECTIVES[name]({key: array.reshape(2, 3, -1) for key, array in rows.items()}, (3, index.reshape(2, 3)))
    for key, array in shaped.items():
        assert array.shape[:2] == (2, 3)
        np.testing.assert_array_equal(array.reshape(6, -1), whole[key])


@pytest.mark.parametrize("name", ["prefix", "masked", "spans"])
def test_other_seeds_and_rows_draw_otherwise(name):
    rows = {key: np.repeat(array[:1], 2, axis=0) for key, array in packed(documents=False).items()}
    one = OBJECTIVES[name](rows, (3, np.array([8, 9])))
    other = OBJECTIVES[name](rows, (4, np.array([8, 9])))
    differs = next(iter(set(one) & {"prefix", "labels", "source"}))
    assert (one[differs][0] != one[differs][1]).any()
    assert (one[differs] != other[differs]).any()


@pytest.mark.parametrize("documents", [True, False])
def test_causal_predicts_what_comes_next_in_the_same_document(documents):
    rows = packed(documents=documents)
    made = causal(rows, pad_id=PAD)
    for row, place in np.ndindex(made["tokens"].shape):
        assert made["tokens"][row, place] == rows["tokens"][row, place]
        same = rows["segments"][row, place] == rows["segments"][row, place + 1] > 0
        assert made["labels"][row, place] == (rows["tokens"][row, place + 1] if same else IGNORED)


def test_with_a_start_every_token_of_a_document_is_predicted_once():
    rows = packed()
    made = causal(rows, pad_id=PAD, start_id=BOS)
    np.testing.assert_array_equal(made["labels"], np.where(rows["segments"] > 0, rows["tokens"], IGNORED))
    first = (rows["segments"] > 0) & (rows["positions"] == 0)
    assert (made["tokens"][first] == BOS).all()
    rest = ((rows["segments"] > 0) & ~first)[:, 1:]
    np.testing.assert_array_equal(made["tokens"][:, 1:][rest], rows["tokens"][:, :-1][rest])


@pytest.mark.parametrize("start", [None, BOS])
def test_the_end_is_predicted_where_it_is_the_padding_too(start):
    tokens = np.array([[5, 6, EOS, 7, EOS, EOS, EOS]], np.int32)
    segments = np.array([[1, 1, 1, 2, 2, 0, 0]], np.int32)  # the last two are padding
    made = causal({"tokens": tokens, "segments": segments, "positions": segments}, pad_id=EOS, start_id=start)
    expected = [6, EOS, -1, EOS, -1, -1] if start is None else [5, 6, EOS, 7, EOS, -1, -1]
    assert made["labels"].tolist() == [expected]
    batch = jax.tree.map(jnp.asarray, made)
    network = lambda tokens, key: (jnp.zeros((*tokens.shape, 4)), None)  # noqa: E731
    _, labels, counts = predict(network, batch, key=None, is_packed=False)
    assert np.array_equal(counts, made["labels"] >= 0)
    assert np.array_equal(np.asarray(labels)[np.asarray(counts)], made["labels"][made["labels"] >= 0])
    assert (np.asarray(labels) >= 0).all()


def test_a_prefix_is_seen_and_the_rest_of_its_document_predicted():
    rows = packed(rows=200)
    made = prefix(rows, (1, np.arange(200)), pad_id=PAD)
    plain = causal(rows, pad_id=PAD)
    lengths = []
    for row in range(200):
        for segment in range(1, int(rows["segments"][row].max()) + 1):
            here = rows["segments"][row, :-1] == segment
            inside = made["prefix"][row][here]
            size = int(inside.sum())
            assert inside[:size].all()
            assert size >= 1
            labels, usual = made["labels"][row][here], plain["labels"][row][here]
            assert (labels[: size - 1] == IGNORED).all()
            np.testing.assert_array_equal(labels[size - 1 :], usual[size - 1 :])
            if (rows["segments"][row] == segment).sum() == 10:
                lengths.append(size)
    assert set(lengths) == set(range(1, 10))
    assert not made["prefix"][made["segments"] == 0].any()


def test_of_a_pair_the_target_alone_counts():
    tokens = np.array([[5, 6, 7, 8, 9, EOS, 5, 7, 7, 4, EOS, 5, 5, EOS, PAD]], np.int32)
    segments = np.array([[1] * 6 + [2] * 5 + [3] * 3 + [0]], np.int32)
    made = pairs({"tokens": tokens, "segments": segments, "positions": segments}, pad_id=PAD, separator_id=7)
    # The second separator of a document is a word like others; a document without one has no target.
    assert made["labels"].tolist() == [[-1, -1, 8, 9, EOS, -1, -1, 7, 4, EOS, -1, -1, -1, -1]]
    assert made["tokens"].tolist() == tokens[:, :-1].tolist()


# ---- masked ----------------------------------------------------------------------------------------------------------


def test_masking_keeps_its_share_in_each_row_and_spares_what_is_special():
    rows = packed(rows=50)
    made = make_masked(rows, (1, np.arange(50)))
    chosen = made["labels"] != IGNORED
    may = (rows["segments"] > 0) & (rows["tokens"] != EOS)
    np.testing.assert_array_equal(chosen.sum(1), np.round(0.15 * may.sum(1)))
    assert not chosen[~may].any()
    # Nothing is lost: what was chosen is the label, what was not stands where it stood.
    np.testing.assert_array_equal(np.where(chosen, made["labels"], made["tokens"]), rows["tokens"])


def test_of_the_chosen_80_percent_are_masked_and_10_another_token():
    rows = packed(rows=800, width=200, documents=False)
    made = make_masked(rows, (1, np.arange(800)))
    chosen = made["labels"] != IGNORED
    number = chosen.sum()
    assert number == 800 * 30
    is_mask = (made["tokens"] == MASK)[chosen]
    same = (made["tokens"] == made["labels"])[chosen]
    deviation = np.sqrt(number)  # times sqrt(p (1 - p)), below a half
    assert abs(is_mask.sum() - 0.8 * number) < 2 * deviation
    assert abs(same.sum() - 0.1 * number) < 2 * deviation
    other = made["tokens"][chosen & (made["tokens"] != MASK) & (made["tokens"] != made["labels"])]
    assert other.min() == WORDS[0]
    assert other.max() == WORDS[1] - 1
    # Places are chosen alike: the first of a row as often as the last.
    assert abs(chosen.mean(0) - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 800)


def test_whole_words_are_chosen_whole_and_never_over_the_end_of_a_document():
    rows = packed(rows=300, width=120)
    begins = np.zeros(VOCAB, bool)
    begins[::3] = True  # a word has three pieces on average
    made = make_masked(rows, (1, np.arange(300)), begins_word=begins, share=0.3)
    chosen = made["labels"] != IGNORED
    tokens, segments = rows["tokens"], rows["segments"]
    may = (segments > 0) & (tokens != EOS)
    goes_on = may[:, 1:] & may[:, :-1] & (segments[:, 1:] == segments[:, :-1]) & ~begins[tokens[:, 1:]]
    np.testing.assert_array_equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])
    assert abs(chosen.sum() / may.sum() - 0.3) < 0.01
    ends = may[:, 1:] & may[:, :-1] & ~goes_on
    assert (chosen[:, 1:] != chosen[:, :-1])[ends].any()


@pytest.mark.parametrize("gap", [EOS, 7])
def test_a_document_begins_a_word_whatever_its_first_piece_is(gap):
    """Two documents of three pieces, none of which begins a word: with an end between them, and with none."""
    tokens = np.tile(np.array([5, 6, gap, 8, 9, 10], np.int32), (400, 1))
    segments = np.tile(np.array([1, 1, 1, 2, 2, 2], np.int32), (400, 1))
    rows = {"tokens": tokens, "segments": segments, "positions": np.tile(np.arange(6, dtype=np.int32) % 3, (400, 1))}
    made = make_masked(rows, (1, np.arange(400)), begins_word=np.zeros(VOCAB, bool), share=0.5)
    chosen = made["labels"] != IGNORED
    first, second = chosen[:, 0], chosen[:, 3]
    np.testing.assert_array_equal(chosen[:, 1], first)
    np.testing.assert_array_equal(chosen[:, 4], second)
    assert (first & ~second).sum() + (second & ~first).sum() > 100
    assert 0.3 < first.mean() < 0.7


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"share must be over 0 and below 1, got share=1.5\."):
        make_masked(packed(), (1, np.arange(6)), share=1.5)


# ---- spans -----------------------------------------------------------------------------------------------------------


def reconstructed(made: dict, row: int, segment: int) -> list[int]:
    """The tokens of a document, put together from its two sides."""
    source = made["source"][row][made["source_segments"][row] == segment].tolist()
    target = made["target"][row][made["target_segments"][row] == segment].tolist()
    if not source:
        assert not target
        return []
    assert source.pop() == EOS
    assert target.pop() == EOS
    taken: dict[int, list[int]] = {}
    for token in target:
        if token >= VOCAB - SENTINELS:
            taken[token] = []
        else:
            taken[next(reversed(taken))].append(token)
    assert list(taken) == [VOCAB - 1 - number for number in range(len(taken))]
    sentinels = [token for token in source if token >= VOCAB - SENTINELS]
    assert sentinels == list(taken)
    return [each for token in source for each in taken.get(token, [token])]


@pytest.mark.parametrize("documents", [True, False])
def test_spans_and_rest_make_up_each_document(documents):
    rows = packed(rows=40, documents=documents)
    made = make_spans(rows, (5, np.arange(40)))
    for row in range(40):
        for segment in range(1, int(rows["segments"][row].max()) + 1):
            tokens = rows["tokens"][row][rows["segments"][row] == segment].tolist()
            if tokens[-1] == EOS:
                tokens.pop()
            assert reconstructed(made, row, segment) == tokens


@pytest.mark.parametrize("documents", [True, False])
def test_both_sides_are_packed_alike_and_the_decoder_reads_the_target_shifted(documents):
    made = make_spans(packed(rows=40, documents=documents), (5, np.arange(40)))
    for side in ("source", "target"):
        segments, positions = made[f"{side}_segments"], made[f"{side}_positions"]
        np.testing.assert_array_equal(made[side] != PAD, segments > 0)
        for row in range(40):
            for segment in set(segments[row]) - {0}:
                np.testing.assert_array_equal(
                    positions[row][segments[row] == segment], np.arange((segments[row] == segment).sum())
                )
    for row in range(40):
        assert set(made["source_segments"][row]) - {0} == set(made["target_segments"][row]) - {0}
    counts = made["target_segments"] > 0
    first = counts & (made["target_positions"] == 0)
    assert (made["decoder_input"][first] == BOS).all()
    rest = (counts & ~first)[:, 1:]
    np.testing.assert_array_equal(made["decoder_input"][:, 1:][rest], made["target"][:, :-1][rest])
    assert (made["decoder_input"][~counts] == PAD).all()


def test_t5_reads_568_tokens_for_a_source_of_512_and_a_target_of_114():
    assert raw_length(512) == 568
    assert input_and_target_lengths(568) == (512, 114)
    rows = packed(rows=9, width=568, documents=False)
    made = make_spans(rows, (1, np.arange(9)), lengths=(512, 114), num_sentinels=100)
    assert (made["source"] != PAD).all()
    assert (made["target"] != PAD).all()


def test_the_noise_is_cut_uniformly_into_as_many_spans_as_t5_has():
    number = 20_000
    sizes = np.full(number, 40)
    key = (1, np.arange(number), np.ones(number, np.int64))
    mask, spans_of = noise_mask(sizes, key)
    mask = mask.reshape(number, 40)
    assert (mask.sum(1) == 6).all()
    assert (spans_of == 2).all()
    assert not mask[:, 0].any()
    assert mask[:, -1].all()
    starts = mask & ~np.concatenate([np.zeros((number, 1), bool), mask[:, :-1]], axis=1)
    assert (starts.sum(1) == 2).all()
    # 6 in two parts: 1 to 5 first, each as likely; of the 34 that stay, 1 to 33 are before the first span.
    before = starts.argmax(1)
    assert before.min() == 1
    assert before.max() == 33
    assert abs(before.mean() - 17) < 0.3
    first = np.array([row[start : start + 6].argmin() or 6 for row, start in zip(mask, before, strict=True)])
    # The two spans never touch, so the first ends where something stays.
    counts = np.bincount(first, minlength=7)
    assert counts[1:6].sum() == number
    assert abs(counts[1:6] / number - 0.2).max() < 0.02
    assert abs(np.corrcoef(before, first)[0, 1]) < 0.03  # streams of their own


def test_documents_of_any_length_keep_a_token_and_have_their_share_taken():
    sizes = np.arange(1, 200)
    mask, number = noise_mask(sizes, (1, sizes, sizes))
    taken = np.array([part.sum() for part in np.split(mask, np.cumsum(sizes)[:-1])])
    assert taken[0] == 0
    assert number[0] == 0
    np.testing.assert_array_equal(taken[1:], np.maximum(np.round(sizes[1:] * 0.15), 1))


def test_a_document_that_does_not_fit_is_left_out_of_both_sides():
    rows = packed(rows=30)
    made = make_spans(rows, (5, np.arange(30)), lengths=(60, 40))
    left_out = 0
    for row in range(30):
        kept = set(made["source_segments"][row]) - {0}
        assert kept == set(made["target_segments"][row]) - {0}
        left_out += int(rows["segments"][row].max()) - len(kept)
        for segment in kept:
            tokens = rows["tokens"][row][rows["segments"][row] == segment].tolist()
            assert reconstructed(made, row, int(segment)) == tokens[: -1 if tokens[-1] == EOS else None]
    assert left_out > 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_sentinels": 1}, r"a document must have at most num_sentinels=1 spans, got 5\."),
        ({"noise": Noise(density=1.0)}, r"the density of noise must be over 0 and below 1, got density=1.0\."),
        ({"noise": Noise(mean_span=0.5)}, r"mean_span must be at least 1, got mean_span=0.5\."),
    ],
)
def test_spans_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_spans(packed(documents=False), (1, np.arange(6)), **options)


def test_rows_without_a_number_each_and_rows_of_one_token_are_refused():
    with pytest.raises(ValueError, match=r"index must number each row, got index.shape=\(5,\)"):
        make_spans(packed(), (1, np.arange(5)))
    with pytest.raises(ValueError, match="a row must have at least 2 tokens, got 1"):
        causal(packed(width=1), pad_id=PAD)
    with pytest.raises(ValueError, match="a source must have room for 1 documents of two tokens, got source=2"):
        raw_length(2)


def test_draws_are_uniform_and_their_streams_independent():
    index, place = np.arange(300)[:, None], np.arange(200)[None]
    one, two = (draw_uniform(7, index, place, stream=stream) for stream in (0, 1))
    for values in (one, two):
        assert abs(values.mean() - 0.5) < 0.006
        assert abs(values.std() - 12**-0.5) < 0.003
        assert np.unique(values).size == values.size
    neighbours = [
        (one[:-1], one[1:]),
        (one[:, :-1], one[:, 1:]),
        (one, two),
        (one, draw_uniform(8, index, place, stream=0)),
    ]
    for left, right in neighbours:
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.02
    assert ranks_within(np.array([0, 0, 0, 4, 4]), np.array([0.3, 0.1, 0.2, 0.9, 0.5])).tolist() == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("noise", [Noise(), Noise(density=0.5, mean_span=1.0), Noise(density=0.9, mean_span=2.5)])
def test_spans_are_counted_as_they_are_cut(noise):
    sizes = np.arange(2, 120)
    mask, number = noise_mask(sizes, (1, sizes, sizes), noise=noise)
    taken = [int(part.sum()) for part in np.split(mask, np.cumsum(sizes)[:-1])]
    assert [count_spans(int(size), noise=noise) for size in sizes] == list(zip(taken, number.tolist(), strict=True))


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_lengths_hold_the_documents_of_a_row_exactly(documents):
    raw = raw_length(90, documents=documents)
    lengths = input_and_target_lengths(raw, documents=documents)
    assert lengths[0] <= 90 < input_and_target_lengths(raw + 1, documents=documents)[0]
    width = raw // documents * documents
    segments = np.repeat(np.arange(1, documents + 1, dtype=np.int32), raw // documents)[None]
    rows = {"tokens": np.full((1, width), 9, np.int32), "segments": segments, "positions": np.zeros_like(segments)}
    made = make_spans(rows, (1, np.zeros(1, np.int64)), lengths=lengths)
    assert (made["source"] != PAD).all()
    assert (made["target"] != PAD).all()
    with pytest.raises(ValueError, match=f"must have room for {documents} documents of two tokens, got source="):
        raw_length(3 * documents - 1, documents=documents)
    assert raw_length(3 * documents, documents=documents) >= 2 * documents


def test_what_does_not_count_is_read_and_not_predicted():
    rows = packed(rows=3)
    counts = np.random.default_rng(1).integers(0, 2, rows["tokens"].shape).astype(np.int32)
    for start in (None, BOS):
        plain = causal(rows, pad_id=PAD, start_id=start)
        made = causal({**rows, "counts": counts}, pad_id=PAD, start_id=start)
        np.testing.assert_array_equal(made["tokens"], plain["tokens"])
        here = counts[:, 1:] if start is None else counts
        np.testing.assert_array_equal(made["labels"], np.where(here > 0, plain["labels"], IGNORED))


def test_a_share_and_a_noise_have_their_bounds():
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"share must be over 0 and below 1, got share={share}\."):
            make_masked(packed(), (1, np.arange(6)), share=share)
    with pytest.raises(ValueError, match=r"must be over 0 and below 1, got density=0\.0\."):
        Noise(density=0.0).check()
    assert Noise(mean_span=1.0).check() is None
    assert (Noise().density, Noise().mean_span) == (0.15, 3.0)


def test_the_draws_of_a_row_never_change():
    """Resumed runs depend on them."""
    assert np.round(draw_uniform(7, np.array([0, 3]), np.array([0, 5]), stream=2), 6).tolist() == [0.739426, 0.362764]
