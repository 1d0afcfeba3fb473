"""The objective of an experiment: ids that a vocabulary has or gets, lengths of rows, where words begin."""

import numpy as np
import pytest

from lmx.errors import InputError
from lmx.objective import ObjectiveConfig, words_begin
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer

TEXT = "the cat sat on the mat\n\tand the dog\n" * 20
BYTES = ByteTokenizer()
WORDS = SymbolTokenizer.from_texts([TEXT], unit="words")


def raw(ids: list[int]) -> dict[str, np.ndarray]:
    tokens = np.array([ids], np.int32)
    return {"tokens": tokens, "segments": np.ones_like(tokens), "positions": np.arange(len(ids), dtype=np.int32)[None]}


def test_a_mask_is_a_piece_of_the_vocabulary_or_an_id_behind_it():
    own = PretokenizedTokenizer(["a", "[MASK]", "b"])
    both = PretokenizedTokenizer(["a", "[MASK]", "b", "c", "d", "<mask>"])  # the latter is BART's and RoBERTa's
    for tokenizer, mask, size in ((own, 5, 7), (both, 9, 10), (BYTES, 260, 261)):
        objective = ObjectiveConfig(objective="masked", mask_share=0.5).of(tokenizer, context=8)
        assert (objective.facts, objective.vocab_size) == ({"mask_id": mask}, size)
        assert objective.rows == {"make": objective.make, "length": 8, "ahead": 0}
        ids = [4, 6] * 400
        made = objective.make(raw(ids), (1, np.array([0])))
        assert (made["tokens"] == mask).sum() > 200
        if tokenizer is both:  # any word may come by chance, also where the mask's id is behind them
            assert set(made["tokens"][made["labels"] >= 0].tolist()) == set(range(4, 10))
        # The mask is never predicted, nor does it come in the place of a word by chance more than others do.
        assert mask not in made["labels"]


@pytest.mark.parametrize("tokenizer", [BYTES, PretokenizedTokenizer(["a", "b", "c", "d"])])
def test_what_comes_in_the_place_of_a_word_is_a_word(tokenizer):
    objective = ObjectiveConfig(objective="masked", mask_share=0.5).of(tokenizer, context=8)
    ids = [4, 5, 6, 7, tokenizer.eos_id] * 400
    made = objective.make(raw(ids), (1, np.array([0])))
    chosen = made["labels"] >= 0
    assert tokenizer.eos_id not in made["labels"]
    assert 0.45 < chosen.sum() / (4 * 400) < 0.55
    others = made["tokens"][chosen & (made["tokens"] != objective.facts["mask_id"])]
    assert set(others.tolist()) <= set(range(4, tokenizer.vocab_size))
    assert len(set(others.tolist())) == len(range(4, tokenizer.vocab_size)) or tokenizer is BYTES
    few = ObjectiveConfig(objective="masked", mask_share=0.1).of(tokenizer, context=8)
    assert (few.make(raw(ids), (1, np.array([0])))["labels"] >= 0).sum() < 0.25 * chosen.sum()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_of_masks_leaves_something_and_takes_something(share):
    with pytest.raises(InputError, match=rf"^mask_share must be over 0 and below 1, got mask_share={share}\.$"):
        ObjectiveConfig(objective="masked", mask_share=share).of(BYTES, context=8)


def test_a_text_begins_with_its_start_where_it_is_asked_for():
    for from_start, ahead, facts in ((False, 1, {}), (True, 0, {"first_id": BYTES.bos_id})):
        objective = ObjectiveConfig(objective="causal", from_start=from_start).of(BYTES, context=8)
        assert (objective.ahead, objective.facts) == (ahead, facts)
        made = objective.make(raw(list(range(10, 18 + ahead))), (1, np.array([0])))
        assert made["tokens"][0, 0] == (BYTES.bos_id if from_start else 10)
        assert made["labels"][0].tolist() == list(range(10 + ahead, 18 + ahead))


def test_sentinels_are_the_last_pieces_of_the_vocabulary_or_ids_behind_it():
    own = PretokenizedTokenizer(["a", "b", "c", *(f"<extra_id_{n}>" for n in reversed(range(20)))])
    for tokenizer, size in ((own, own.vocab_size), (BYTES, 260 + 20)):
        objective = ObjectiveConfig(objective="spans", sentinels=20).of(tokenizer, context=32)
        assert objective.vocab_size == size
        made = objective.make(raw(([4, 5, 6] * objective.length)[: objective.length]), (1, np.array([0])))
        assert size - 1 in made["source"]  # the first sentinel
        assert made["target"][0, 0] == size - 1
        assert objective.facts == {"num_sentinels": 20}
    # As many as a row of 32 can have, and no fewer.
    assert ObjectiveConfig(objective="spans", sentinels=2).of(BYTES, context=32).vocab_size == 262
    with pytest.raises(InputError, match=r"^sentinels must be at least the 2 spans of a row, got sentinels=1\.$"):
        ObjectiveConfig(objective="spans", sentinels=1).of(BYTES, context=32)


def test_shapes_are_those_of_the_rows_that_are_made():
    for name in ("causal", "prefix", "pairs", "masked", "spans"):
        config = ObjectiveConfig(objective=name)
        objective = config.of(BYTES, context=24)
        made = objective.make(raw(list(range(10, 10 + objective.length + objective.ahead))), (1, np.array([3])))
        shapes = config.shapes(2, 1, 24)
        assert {key: array.shape for key, array in made.items()} == {key: shape[1:] for key, shape in shapes.items()}
        assert config.sizes(context=24)[0] == 24


def test_words_begin_where_a_space_or_no_letter_stands():
    pieces = SentencePieceTokenizer.train([TEXT], vocab_size=300, byte_fallback=True, folding="none")
    begins = words_begin(pieces)
    ids = pieces.encode("the cat\nsat")
    shown = pieces.pieces(ids)
    for index, piece in zip(ids, shown, strict=True):
        assert begins[index] == (not piece[0].isalnum())
    assert words_begin(WORDS).all()
    marked = PretokenizedTokenizer(["an@@", "trieb"])
    letters = SymbolTokenizer.from_texts([TEXT], unit="characters")
    refused = ((BYTES, "bytes or characters"), (letters, "bytes or characters"), (marked, "end with @@"))
    for tokenizer, message in refused:
        with pytest.raises(InputError, match=message):
            words_begin(tokenizer)


def test_a_tab_is_one_id_where_pairs_are_learned():
    pieces = SentencePieceTokenizer.train([TEXT], vocab_size=300, byte_fallback=True, folding="none")
    for tokenizer in (pieces, BYTES, SymbolTokenizer.from_texts([TEXT], unit="characters")):
        (separator,) = tokenizer.encode("\t")
        objective = ObjectiveConfig(objective="pairs").of(tokenizer, context=8)
        assert objective.facts == {"separator_id": separator}
    letters = SymbolTokenizer.from_texts(["abc"], unit="characters")  # to which a tab is unknown
    for tokenizer, got in ((WORDS, "0"), (letters, "that of unknown words")):
        with pytest.raises(
            InputError, match=f"objective=pairs must have a vocabulary with one id for a tab, got {got}"
        ):
            ObjectiveConfig(objective="pairs").of(tokenizer, context=8)


@pytest.mark.parametrize(
    ("options", "family", "message"),
    [
        ({"objective": "prefix", "from_start": True}, "decoder", "from_start must be off with objective=prefix, got"),
        ({"objective": "spans", "whole_words": True}, "seq2seq", "whole_words must be off with objective=spans, got"),
        ({"objective": "masked"}, "decoder", "objective must be causal or prefix or pairs for this preset's model"),
    ],
)
def test_what_an_objective_does_not_ask_for_is_not_ignored(options, family, message):
    with pytest.raises(InputError, match=f"^{message}"):
        ObjectiveConfig(**options).check(family, packing="documents")


@pytest.mark.parametrize("options", [{"objective": "pairs"}, {"from_start": True}])
def test_what_is_of_each_document_wants_documents(options):
    objective = ObjectiveConfig(**options)
    with pytest.raises(InputError, match=r"packing must be documents with .*, got packing=stream: rows of a stream"):
        objective.check("decoder", packing="stream")
    objective.check("decoder", packing="documents")
    ObjectiveConfig().check("decoder", packing="stream")
