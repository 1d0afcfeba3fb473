import sys
import weakref
from collections import Counter

import numpy as np
import pytest
import sentencepiece

from lmx.lines import one_line
from lmx.symbols import SymbolTokenizer
from lmx.text import SUFFIXES, ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from lmx.training_text import SPECIAL_PIECES, draw_texts, without_control_words
from lmx.words import detokenize_moses, split_words

TEXTS = [f"the {colour} {thing} is {place} the house" for colour in ("red", "green", "blue", "grey")
         for thing in ("cat", "dog", "bird", "mouse", "horse") for place in ("in", "near", "behind")]  # fmt: skip
SEGMENTED = ["der hund läuft .", "der an@@ trie@@ b der hund .", "ein hund ."]


@pytest.fixture(scope="module")
def learned() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(TEXTS, vocab_size=60)


@pytest.fixture(params=["sentencepiece", "pretokenized", "bytes", "characters", "words"])
def tokenizer(request: pytest.FixtureRequest, learned: SentencePieceTokenizer) -> Tokenizer:
    return {
        "sentencepiece": learned,
        "pretokenized": PretokenizedTokenizer.from_texts(TEXTS),
        "bytes": ByteTokenizer(),
        "characters": SymbolTokenizer.from_texts([*TEXTS, "\t"], unit="characters"),
        "words": SymbolTokenizer.from_texts(TEXTS, unit="words"),
    }[request.param]


# Every tokenizer.


def test_decoding_undoes_encoding(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS


def test_special_ids_are_the_same_in_every_tokenizer(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.pieces([0, 1, 2, 3]) == list(SPECIAL_PIECES)


def test_encoding_adds_no_special_ids_and_stays_in_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXTS[0])
    assert min(ids) > 3
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.encode("") == []


def test_decoding_stops_at_the_end_and_skips_padding_and_beginning(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the red cat")
    other = tokenizer.encode("the blue dog")
    assert tokenizer.decode([1, *ids, 0, 0, 2, *other]) == "the red cat"
    assert tokenizer.decode([2, *ids]) == tokenizer.decode([]) == ""


def test_rows_of_a_batch_decode(tokenizer: Tokenizer) -> None:
    ids = np.array([*tokenizer.encode("the red cat"), 2, 0], dtype=np.int32)
    assert tokenizer.decode(ids) == "the red cat"
    assert len(tokenizer.pieces(ids)) == ids.size


def test_words_are_what_people_read_and_their_pieces_are_all_pieces(tokenizer: Tokenizer) -> None:
    text = " the red  cat is\tin "
    words = split_words(text, tokenizer)
    assert [word.text for word in words] == ["the", "red", "cat", "is", "in"]
    assert "".join(word.span for word in words) == text.rstrip()
    ids, begin = tokenizer.encode(text), 0
    for word in words:
        end = begin + word.num_pieces
        assert tokenizer.decode(ids[begin:end]).strip() == word.text
        begin = end
    is_spelled = isinstance(tokenizer, ByteTokenizer) or getattr(tokenizer, "unit", "") == "characters"
    assert begin == len(ids) - is_spelled  # the space at the end
    assert split_words(" ", tokenizer) == []


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_line_end_inside_a_text_is_one_space(end: str) -> None:
    assert one_line(f"a{end}b c\t{end}") == "a b c\t "
    assert one_line(f"{end}{end}") == "  "


def test_all_that_python_takes_for_a_line_end_is_one() -> None:
    for character in map(chr, range(0x3000)):
        ends = character.splitlines() == [""]
        assert one_line(f"a{character}b") == ("a b" if ends or character == " " else f"a{character}b")


def test_words_that_were_segmented_are_one_again() -> None:
    tokenizer = PretokenizedTokenizer.from_texts(SEGMENTED)
    words = split_words("der an@@ trie@@ b an@@", tokenizer)
    assert words == [("der", "der", 1), ("antrieb", " an@@ trie@@ b", 3), ("an", " an@@", 1)]


def test_a_loaded_tokenizer_is_the_saved_one(tokenizer: Tokenizer, tmp_path) -> None:
    assert tokenizer.suffix in SUFFIXES
    path = tmp_path / "run" / f"tokenizer{tokenizer.suffix}"
    assert tokenizer.save(path) == path
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert loaded.save(path.with_stem("again")).read_bytes() == path.read_bytes()


def test_a_tokenizer_is_saved_under_its_own_suffix(tokenizer: Tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.(model|vocab|bytes|symbols), got path=.*tokenizer\.txt"):
        tokenizer.save(tmp_path / "tokenizer.txt")


def test_loading_names_what_is_wrong_with_the_path(tmp_path) -> None:
    with pytest.raises(
        ValueError,
        match=r"must end in \.model, \.vocab, \.bytes, \.symbols, .*\.pieces or \.tokens, got path=vocabulary\.json",
    ):
        load_tokenizer("vocabulary.json")
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError, match=rf"got path=.*missing\{suffix}, which does not exist"):
            load_tokenizer(tmp_path / f"missing{suffix}")


# SentencePiece.


def test_training_is_deterministic_and_silent(capfd) -> None:
    for model_type, vocab_size in (("bpe", 60), ("unigram", 28)):
        first, second = (
            SentencePieceTokenizer.train(
                iter(TEXTS), vocab_size=vocab_size, model_type=model_type, max_texts=40, seed=3
            )
            for _ in range(2)
        )
        assert first.vocab_size == vocab_size
        assert first.model == second.model
    assert capfd.readouterr() == ("", "")


def test_texts_are_drawn_by_seed() -> None:
    models = {SentencePieceTokenizer.train(TEXTS, vocab_size=40, max_texts=20, seed=seed).model for seed in (1, 2)}
    assert len(models) == 2


def test_a_character_without_a_piece_is_unknown_or_spelled_in_bytes(learned: SentencePieceTokenizer) -> None:
    assert 3 in learned.encode("ö")
    spelled = SentencePieceTokenizer.train(TEXTS, vocab_size=320, byte_fallback=True)
    assert 3 not in spelled.encode("ö 🙂")
    assert spelled.decode(spelled.encode("the cat ö 🙂")) == "the cat ö 🙂"


def test_control_words_in_text_are_text(learned: SentencePieceTokenizer) -> None:
    assert not {0, 1, 2} & set(learned.encode("the <pad> <s> </s> cat"))


CONTROL_WORDS = ["<unk>", "<s>", "</s>", "<pad>", "a <unk> b", "x<s>y</s>", "<<unk>>", "<unk><unk>", "</s", "< unk >"]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("written", ["<>", "\uff1c\uff1e", "\ufe64\ufe65"])
def test_control_words_in_the_text_that_is_learned_from_come_back(model_type, written) -> None:
    """With nothing else in it that has their brackets."""
    texts = [text.replace("<", written[0]).replace(">", written[1]) for text in CONTROL_WORDS[:6]]
    size = 64 if model_type == "bpe" else 36
    learned = SentencePieceTokenizer.train(TEXTS + texts * 3, vocab_size=size, model_type=model_type)
    for text in CONTROL_WORDS:
        ids = learned.encode(text)
        assert learned.decode(ids) == text
        assert min(ids) > 3
    assert not set(SPECIAL_PIECES) & set(learned.pieces(range(4, learned.vocab_size)))


def test_control_words_come_back_whatever_their_case() -> None:
    texts = [*TEXTS, "<UNK> text </S>", "<Pad> text"]
    learned = SentencePieceTokenizer.train(texts, vocab_size=60, folding="case")
    assert learned.decode(learned.encode("the <UNK> is </S> <PAD>")) == "the <unk> is </s> <pad>"


def test_only_control_words_are_broken_up() -> None:
    broken_up = without_control_words("nmt_nfkc")
    for text in ("<b> bold </b>", "1 < 2", "<UNK>", "unk> <", ""):
        assert broken_up(text) == text
    assert broken_up("a <b> <s>") == "a < b> < s>"
    assert without_control_words("nmt_nfkc_cf")("<UNK>") == "< UNK>"


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_vocabulary_too_large_names_the_largest(model_type) -> None:
    with pytest.raises(
        ValueError, match=r"^vocab_size must be at most \d+ for this text, got vocab_size=9000\.$"
    ) as error:
        SentencePieceTokenizer.train(TEXTS, vocab_size=9000, model_type=model_type)
    largest = int(str(error.value).split()[5])
    assert SentencePieceTokenizer.train(TEXTS, vocab_size=largest, model_type=model_type).vocab_size == largest


def test_a_vocabulary_too_small_names_the_smallest() -> None:
    with pytest.raises(
        ValueError, match=r"^vocab_size must be at least \d+ to hold each character .*vocab_size=9\."
    ) as error:
        SentencePieceTokenizer.train(TEXTS, vocab_size=9)
    smallest = int(str(error.value).split()[5])
    assert SentencePieceTokenizer.train(TEXTS, vocab_size=smallest).vocab_size == smallest
    with pytest.raises(ValueError, match=r"vocab_size must be over 4, the special ids, got vocab_size=4\."):
        SentencePieceTokenizer.train(TEXTS, vocab_size=4)


def test_training_needs_text() -> None:
    with pytest.raises(ValueError, match=r"texts must hold at least one line with text, got none\."):
        SentencePieceTokenizer.train(["", "  "], vocab_size=60)


def test_any_other_refusal_is_passed_on() -> None:
    with pytest.raises(ValueError, match=r"SentencePiece could not learn a vocabulary: .*character_coverage"):
        SentencePieceTokenizer.train(TEXTS, vocab_size=60, character_coverage=0.1)


def test_a_file_that_is_no_model_is_named(tmp_path) -> None:
    path = tmp_path / "broken.model"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken\.model: model must be a SentencePiece model, got 11 bytes"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({}, (60, 1, 2, 0)),  # as XLM-R, NLLB and Llama: no padding
        ({"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, (0, 60, 1, 2)),  # as T5: no beginning
        ({"unk_id": 0, "bos_id": -1, "eos_id": -1}, (60, 61, 62, 0)),
        ({"pad_id": 3, "bos_id": 0, "eos_id": 2, "unk_id": 1}, (3, 0, 2, 1)),
    ],
)
def test_special_ids_that_a_model_lacks_come_behind_its_own(tmp_path, ids, expected) -> None:
    prefix = tmp_path / "elsewhere"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(prefix), vocab_size=60, model_type="bpe", minloglevel=2, **ids
    )
    path = prefix.with_suffix(".model")
    theirs = sentencepiece.SentencePieceProcessor(str(path))
    for found in (load_tokenizer(path), load_tokenizer(load_tokenizer(path).save(tmp_path / "copy.model"))):
        assert (found.pad_id, found.bos_id, found.eos_id, found.unk_id) == expected
        assert found.vocab_size == 60 + sum(index >= 60 for index in expected)
        for text in TEXTS:
            assert found.encode(text) == theirs.encode(text)
            row = [found.bos_id, *found.encode(text), found.eos_id, found.pad_id]
            assert found.decode(row) == text
        assert found.pieces(expected[:3]) == ["<pad>", "<s>", "</s>"]
        assert found.pieces(range(3, 60)) == [theirs.id_to_piece(index) for index in range(3, 60)]


# Text that is tokenised already.


def test_frequent_words_come_first_and_equal_ones_by_code_point() -> None:
    tokenizer = PretokenizedTokenizer.from_texts(SEGMENTED)
    assert tokenizer.pieces(range(tokenizer.vocab_size)) == [
        *SPECIAL_PIECES, ".", "der", "hund", "an@@", "b", "ein", "läuft", "trie@@",
    ]  # fmt: skip


def test_rare_words_are_unknown() -> None:
    tokenizer = PretokenizedTokenizer.from_texts(SEGMENTED, min_count=2)
    assert tokenizer.pieces(tokenizer.encode("der hund läuft .")) == ["der", "hund", "<unk>", "."]
    with pytest.raises(
        ValueError, match=r"texts must hold a word that occurs min_count times, got none with min_count=9\."
    ):
        PretokenizedTokenizer.from_texts(SEGMENTED, min_count=9)


def test_decoding_undoes_the_marks_of_byte_pair_encoding() -> None:
    tokenizer = PretokenizedTokenizer.from_texts(SEGMENTED)
    assert tokenizer.decode(tokenizer.encode("der an@@ trie@@ b .")) == "der antrieb ."
    assert tokenizer.decode(tokenizer.encode("der an@@")) == "der an"


def test_special_pieces_in_text_are_unknown_words() -> None:
    tokenizer = PretokenizedTokenizer.from_texts(["<s> der hund </s> <unk> <pad>"])
    assert tokenizer.vocab_size == 6
    assert tokenizer.encode("<s> hund </s> <pad>") == [3, 5, 3, 3]


def test_only_ascii_white_space_separates_words(tmp_path) -> None:
    words = ["drei\u00a0euro", "a\u2028b", "c\u0085d"]
    tokenizer = PretokenizedTokenizer.from_texts([" \t".join(words) + "\r\n"])
    assert sorted(tokenizer.pieces([4, 5, 6])) == sorted(words)
    loaded = load_tokenizer(tokenizer.save(tmp_path / "odd.vocab"))
    assert loaded.pieces([4, 5, 6]) == tokenizer.pieces([4, 5, 6])


def test_words_are_distinct_and_not_special() -> None:
    with pytest.raises(ValueError, match=r"words must be distinct, got 'der' twice\."):
        PretokenizedTokenizer(["der", "hund", "der"])
    with pytest.raises(ValueError, match=r"words must not be special pieces, got '</s>'\."):
        PretokenizedTokenizer(["der", "</s>"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<s>\n</s>\n<pad>\n<unk>\nder\n", r"bad\.vocab:1 must be '<pad>', got '<s>'"),
        (b"<pad>\n<s>\n", r"bad\.vocab must start with the lines <pad>, <s>, </s>, <unk>, got 2 lines"),
        (b"", r"bad\.vocab:1 must be '<pad>', got ''"),
        (b"<pad>\n<s>\n</s>\n<unk>\nder\nder hund\n", r"bad\.vocab:6 must be one word .* got 'der hund'"),
        (b"<pad>\n<s>\n</s>\n<unk>\nder\n\nhund\n", r"bad\.vocab:6 must be one word .* got ''"),
        (b"<pad>\n<s>\n</s>\n<unk>\nder\ndas\nder\n", r"bad\.vocab:7 must be a new word, got 'der' again .*line 5"),
        (b"<pad>\n<s>\n</s>\n<unk>\nl\xe4uft\n", r"bad\.vocab must be UTF-8, got byte 0xe4 at position 22\."),
    ],
)
def test_a_vocabulary_file_names_its_wrong_line(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.vocab"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


# Bytes.


def test_bytes_spell_any_text() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab_size == 260
    assert tokenizer.encode("aä") == [0x61 + 4, 0xC3 + 4, 0xA4 + 4]
    assert tokenizer.pieces(tokenizer.encode("aä ")) == ["a", "<0xC3>", "<0xA4>", "<0x20>"]
    assert tokenizer.decode([0xC3 + 4]) == "\ufffd"


# Moses.


@pytest.mark.parametrize(
    ("language", "tokens", "text"),
    [
        ("en", "it &apos;s a dog , isn &apos;t it ?", "it's a dog, isn't it?"),
        ("en", "the &quot; old &quot; man &amp; his dog", 'the "old" man & his dog'),
        ("en", "a five @-@ year @-@ old boy", "a five-year-old boy"),
        ("de", "ein mann , der &#91; etwas &#93; sagt : &quot; ja ! &quot;", 'ein mann, der [etwas] sagt: "ja!"'),
    ],
)
def test_moses_tokens_become_running_text(language: str, tokens: str, text: str) -> None:
    assert detokenize_moses(tokens, language=language) == text


def test_a_missing_moses_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lmx\[moses\]'"):
        detokenize_moses("ein hund .", language="cs")


def test_case_can_be_folded():
    texts = [line for text in TEXTS for line in (text, text.upper())]
    folded = SentencePieceTokenizer.train(texts, vocab_size=60, folding="case")
    usual = SentencePieceTokenizer.train(texts, vocab_size=80)
    assert folded.encode(TEXTS[0].upper()) == folded.encode(TEXTS[0])
    assert usual.encode(TEXTS[0].upper()) != usual.encode(TEXTS[0])
    assert folded.decode(folded.encode(TEXTS[0].upper())) == folded.decode(folded.encode(TEXTS[0]))


def test_a_draw_is_of_all_texts_alike_and_keeps_their_order() -> None:
    texts = [str(number) for number in range(50)]
    assert draw_texts(iter(texts), None, seed=0) == texts
    assert draw_texts(iter(texts), 50, seed=0) == texts
    drawn = [draw_texts(iter(texts), 10, seed=seed) for seed in range(400)]
    assert all(len(set(one)) == 10 and one == sorted(one, key=int) for one in drawn)
    assert drawn[3] == draw_texts(iter(texts), 10, seed=3)
    counts = Counter(text for one in drawn for text in one)
    # Each of 50 is expected 80 times, give or take 8 (binomial); five times that is never.
    assert all(40 < counts[text] < 120 for text in texts)


def test_a_draw_holds_no_more_than_it_returns() -> None:
    alive = weakref.WeakSet()

    class Text(str):
        pass

    def texts():
        for number in range(500):
            text = Text(number)
            alive.add(text)
            yield text
            assert len(alive) <= 22

    assert len(draw_texts(texts(), 20, seed=0)) == 20


def test_rare_characters_are_left_out_by_coverage() -> None:
    texts = [*TEXTS * 20, "字"]
    whole = SentencePieceTokenizer.train(texts, vocab_size=60)
    covered = SentencePieceTokenizer.train(texts, vocab_size=60, character_coverage=0.999)
    assert whole.unk_id not in whole.encode("字")
    assert covered.unk_id in covered.encode("字")
    with pytest.raises(ValueError, match=r"character_coverage must be over 0 and at most 1, got character_coverage=0"):
        SentencePieceTokenizer.train(texts, vocab_size=60, character_coverage=0.0)
    with pytest.raises(ValueError, match=r"max_texts must be at least 1, or None for all, got max_texts=0"):
        SentencePieceTokenizer.train(texts, vocab_size=60, max_texts=0)


class _Counting(ByteTokenizer):
    read = 0

    def encode(self, text: str) -> list[int]:
        self.read += len(text)
        return super().encode(text)


def test_splitting_a_text_into_words_reads_it_a_few_times_however_long() -> None:
    for number in (100, 1000):
        tokenizer = _Counting()
        assert len(split_words("word " * number, tokenizer)) == number
        assert tokenizer.read <= 2 * 5 * number


class _AcrossSpaces(ByteTokenizer):
    """Has a piece for `a b`."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("a b", "\0"))


def test_pieces_over_white_space_are_counted_where_they_end() -> None:
    assert [word.num_pieces for word in split_words("c a b", _AcrossSpaces())] == [1, 2, 0]


# Texts of many lines.

CODE = "def f(x):\n    return  x\n\n\tif x:\r\n  é漢\u00a0x \n"


def test_characters_keep_everything_and_words_keep_line_ends() -> None:
    characters = SymbolTokenizer.from_texts([CODE], unit="characters")
    assert characters.decode(characters.encode(CODE)) == CODE
    assert characters.vocab_size == 4 + len(set(CODE))
    assert characters.pieces(characters.encode(":\n")) == [":", "↵"]
    assert characters.decode(characters.encode("xZ")) == "x\ufffd"
    words = SymbolTokenizer.from_texts([" = A =  \n \n the <unk> the\n"], unit="words")
    ids = words.encode(" = A =  \n \n the <unk> the\n")
    assert words.pieces(ids) == ["=", "A", "=", "↵", "↵", "the", "<unk>", "the", "↵"]
    assert ids[6] == words.unk_id
    assert words.decode(ids) == "= A =\n\nthe <unk> the\n"
    assert SymbolTokenizer.from_texts(["b b a a c"], unit="words", min_count=2).pieces(range(4, 6)) == ["a", "b"]


def test_lossless_pieces_give_back_code() -> None:
    tokenizer = SentencePieceTokenizer.train([CODE] * 20, vocab_size=300, byte_fallback=True, folding="none")
    for text in (CODE, "\n\n\n", "  x", "x  ", "\tÿ\r"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "▁▁▁▁" in tokenizer.pieces(tokenizer.encode("    return"))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ("{", "must be a list of symbols and their unit in JSON, got "),
        ('{"unit": "bytes", "symbols": []}', "got another unit"),
        ('{"unit": "characters", "symbols": ["a", "a"]}', "symbols must be distinct, got 'a' twice"),
        ('{"unit": "characters", "symbols": ["ab"]}', "symbols must be characters, got 'ab'"),
        ('{"unit": "words", "symbols": ["a b"]}', "symbols must be words, got 'a b'"),
    ],
)
def test_a_damaged_list_of_symbols_is_told(tmp_path, saved: str, message: str) -> None:
    path = tmp_path / "bad.symbols"
    path.write_text(saved)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


def test_symbols_of_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"texts must have characters that occur min_count times, got none with min_"):
        SymbolTokenizer.from_texts([""], unit="characters")
