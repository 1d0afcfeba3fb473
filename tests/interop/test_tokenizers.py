"""Tokenizers of others' models, against what transformers said of the same lines (make_tokenizer_references.py)."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.labelled import Examples
from lmx.data.texts import encode_examples
from lmx.foreign_text import HuggingFaceTokenizer, Specials
from lmx.interop.tokenizers import read_tokenizers
from lmx.languages import spoken
from lmx.objective import words_begin
from lmx.text import Tokenizer, load_tokenizer
from lmx.words import split_words

DATA = Path(__file__).parent / "data" / "tokenizers"
LINES: list[str] = json.loads((DATA / "lines.json").read_text(encoding="utf-8"))
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
ENCODERS = ("bert", "bert-cased-vocab-txt", "roberta", "roberta-merges", "xlm-roberta-pieces")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def expected_of(name: str) -> dict[str, Any]:
    return read_json(DATA / name / "expected.json")


def read(folder: Path) -> dict[str, Tokenizer]:
    return read_tokenizers(folder, read_json(folder / "config.json"))


def copied(name: str, to: Path) -> Path:
    return Path(shutil.copytree(DATA / name, to / name))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")


def examples(texts: list[Any]) -> Examples:
    return Examples(texts=texts, labels=None, origin="here", lines=np.arange(len(texts)))


@pytest.fixture(scope="module", params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name: str) -> Tokenizer:
    found = read(DATA / name)
    return found.get("tokenizer") or found["source"]


def alone(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text without the code of its language."""
    ids, special = tokenizer.encode(text), tokenizer.special
    assert ids[: len(special.before)] == list(special.before)
    assert ids[len(ids) - len(special.after) :] == list(special.after)
    return ids[len(special.before) : len(ids) - len(special.after)]


# Text to ids and back.


def test_ids_and_texts_are_those_of_transformers(name: str, tokenizer: Tokenizer):
    expected = expected_of(name)
    ours = {line: alone(tokenizer, line) for line in LINES}
    assert ours == dict(zip(LINES, expected["ids"], strict=True))
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    compared = 0
    for ids, text in zip(expected["ids"], expected["texts"], strict=True):
        if not special & set(ids):  # here a text ends at its first end
            assert tokenizer.decode(ids) == text
            compared += 1
    assert compared > 40


def test_a_saved_tokenizer_is_the_same_to_the_byte(tokenizer: Tokenizer, tmp_path: Path):
    path = tokenizer.save(tmp_path / f"tokenizer{tokenizer.suffix}")
    loaded = load_tokenizer(path)
    assert loaded.save(tmp_path / f"again{tokenizer.suffix}").read_bytes() == path.read_bytes()
    assert list(map(loaded.encode, LINES)) == list(map(tokenizer.encode, LINES))
    names = ("vocab_size", "pad_id", "bos_id", "eos_id", "unk_id")
    assert [getattr(loaded, name) for name in names] == [getattr(tokenizer, name) for name in names]
    with pytest.raises(ValueError, match=rf"must end in \{tokenizer.suffix}, got path=.*\.json"):
        tokenizer.save(tmp_path / "tokenizer.json")


@given(text=st.text(), numbers=st.lists(st.integers(0, 1 << 40), max_size=8))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("name", ["bert", "llama3", "llama", "t5", "marian", "t5-pieces-new"])
def test_any_text_and_any_ids_are_taken(name: str, text: str, numbers: list[int]):
    tokenizer = fuzzed(name)
    ids = tokenizer.encode(text)
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert len(tokenizer.pieces(ids)) == len(ids)
    assert isinstance(tokenizer.decode(ids), str)
    assert isinstance(tokenizer.decode(numbers), str)
    if name == "llama3" and "<|" not in text and not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert tokenizer.decode(ids) == text


_FUZZED: dict[str, Tokenizer] = {}


def fuzzed(name: str) -> Tokenizer:
    return _FUZZED.setdefault(name, next(iter(read(DATA / name).values())))


def test_half_a_pair_of_characters_is_the_replacement_character():
    tokenizer = fuzzed("llama3")
    assert tokenizer.decode(tokenizer.encode("a\ud83d")) == "a\ufffd"


# Ids that surround a text.


def test_special_ids_are_those_of_the_model():
    found = {}
    for name in FOLDERS:
        each = (both := read(DATA / name)).get("tokenizer") or both["target"]
        found[name] = each.pieces([each.pad_id, each.bos_id, each.eos_id, each.unk_id])
    bert, roberta = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], ["<pad>", "<s>", "</s>", "<unk>"]
    assert found == {
        "bart": ["<pad>", "</s>", "</s>", "<unk>"],
        "bert": bert,
        "bert-cased-vocab-txt": bert,
        "gpt2": ["<|endoftext|>"] * 4,
        "gpt2-merges": ["<|endoftext|>"] * 4,
        "llama": ["</s>", "<s>", "</s>", "<unk>"],
        "llama3": ["<|eot_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>"],
        "qwen2-merges": ["<|endoftext|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"],
        "roberta": roberta,
        "roberta-merges": roberta,
        "t5": ["<pad>", "<pad>", "</s>", "<unk>"],
        "t5-pieces": ["<pad>", "<pad>", "</s>", "<unk>"],
        "t5-pieces-new": ["<pad>", "<pad>", "</s>", "<unk>"],
        "llama-pieces": ["</s>", "<s>", "</s>", "<unk>"],
        "llama-pieces-new": ["</s>", "<s>", "</s>", "<unk>"],
        "m2m100-pieces": ["<pad>", "</s>", "</s>", "<unk>"],
        "marian": ["<pad>", "<pad>", "</s>", "<unk>"],
        "mbart-pieces": ["<pad>", "de_DE", "</s>", "<unk>"],
        "mbart50-pieces": ["<pad>", "</s>", "</s>", "<unk>"],
        "nllb-pieces": ["<pad>", "</s>", "</s>", "<unk>"],
        "xlm-roberta-pieces": roberta,
    }


@pytest.mark.parametrize("name", ["m2m100-pieces", "marian", "mbart-pieces", "mbart50-pieces", "nllb-pieces"])
def test_rows_of_two_languages_are_those_of_transformers(name: str):
    found, expected = read(DATA / name), expected_of(name)
    source, target = found["source"], found["target"]
    texts = LINES[3:6]
    assert [[*source.encode(text), source.eos_id] for text in texts] == expected["single"]
    rows = [[*target.encode(text), target.eos_id] for text in texts]
    if name == "mbart-pieces":  # the language goes to the front when a decoder reads it
        rows = [[*row, target.bos_id] for row in rows]
    assert rows == expected["target"]
    assert [target.decode([target.bos_id, *row]) for row in rows] == expected["target_texts"]


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_of_texts_and_of_pairs_are_those_of_transformers(name: str):
    tokenizer, expected = read(DATA / name)["tokenizer"], expected_of(name)
    encoded = encode_examples(examples(LINES[3:6]), tokenizer, max_length=99)
    rows = np.split(encoded.tokens, encoded.offsets[1:-1])
    assert [row.tolist() for row in rows] == expected["single"]
    first, second = LINES[3:5]
    encoded = encode_examples(examples([(first, second)]), tokenizer, max_length=99)
    assert encoded.tokens.tolist() == expected["pair"]
    separators = 2 if "roberta" in name else 1
    assert encoded.first_lengths.tolist() == [1 + len(tokenizer.encode(first)) + separators]
    if separators == 1:
        types = encoded.batch(np.array([0]), length=len(encoded.tokens))["types"]
        assert types[0].tolist() == expected["types"]


def test_a_row_too_long_for_its_separators_is_cut():
    tokenizer = fuzzed("roberta")
    texts = examples([("the cat is here", "the dog is there")])
    assert encode_examples(texts, tokenizer, max_length=11).tokens.size == 11
    with pytest.raises(ValueError, match="max_length must be at least 6, special tokens counted, got max_length=5"):
        encode_examples(texts, tokenizer, max_length=5)


def test_a_text_that_begins_with_what_ends_it_is_read_behind_it():
    tokenizer = fuzzed("bart")
    ids = tokenizer.encode("the cat")
    assert tokenizer.bos_id == tokenizer.eos_id
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id, *ids]) == "the cat"
    assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id]) == "the cat"
    assert tokenizer.decode([tokenizer.eos_id, tokenizer.pad_id]) == ""


def test_an_end_among_several_is_that_of_the_tokenizer(tmp_path: Path):
    folder = copied("llama3", tmp_path)
    ends = read_json(folder / "config.json")["eos_token_id"]
    assert read(folder)["tokenizer"].eos_id == ends[1]
    rewrite(folder / "tokenizer_config.json", eos_token=None)
    assert read(folder)["tokenizer"].eos_id == ends[0]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends[1], "bos_token_id": 7}))
    tokenizer = read(folder)["tokenizer"]
    assert (tokenizer.eos_id, tokenizer.bos_id) == (ends[1], 7)


def test_tokens_beside_the_file_are_added(tmp_path: Path):
    folder = copied("gpt2", tmp_path)
    size = read(folder)["tokenizer"].vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<|new|>": size}))
    rewrite(folder / "config.json", vocab_size=size + 3)
    rewrite(folder / "tokenizer_config.json", pad_token="<|new|>")
    tokenizer = read(folder)["tokenizer"]
    assert tokenizer.encode("a<|new|>") == [*tokenizer.encode("a"), size]
    assert tokenizer.pad_id == size
    assert tokenizer.vocab_size == size + 3  # rows of the model's table that no text reaches
    assert tokenizer.pieces([size, size + 2]) == ["<|new|>", f"<{size + 2}>"]
    assert tokenizer.decode([*tokenizer.encode("a"), size + 2]) == "a"


def test_settings_beside_the_file_count(tmp_path: Path):
    folder = copied("bert", tmp_path)
    assert read(folder)["tokenizer"].encode("THE") == read(folder)["tokenizer"].encode("the")
    rewrite(folder / "tokenizer_config.json", do_lower_case=False)
    assert read(folder)["tokenizer"].encode("THE") != read(folder)["tokenizer"].encode("the")
    folder = copied("gpt2", tmp_path)
    rewrite(folder / "tokenizer_config.json", add_prefix_space=True)
    assert read(folder)["tokenizer"].encode("the") == fuzzed("gpt2").encode(" the")


# What is shown.


def test_pieces_of_bytes_are_readable_text():
    tokenizer = fuzzed("llama3")
    assert "".join(tokenizer.pieces(tokenizer.encode("the naïve cat\nis"))) == "the▁naïve▁cat↵is".replace(
        "ï", "".join(tokenizer.pieces(tokenizer.encode("ï")))
    )
    assert tokenizer.pieces(tokenizer.encode("👩"))[:1] == ["<0xF0>"]
    assert tokenizer.pieces([tokenizer.bos_id]) == ["<|begin_of_text|>"]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "t5-pieces"])
def test_words_have_their_pieces(name: str):
    tokenizer = fuzzed(name)
    text = "the unbelievable cat is here"
    words = split_words(text, tokenizer)
    assert [word.text for word in words] == text.split()
    assert sum(word.num_pieces for word in words) == len(tokenizer.encode(text))
    ids = tokenizer.encode("a unbelievable cat")
    assert words_begin(tokenizer)[ids].sum() == (2 if name == "gpt2" else 3)  # the first has no space before it


# Broken input.


def test_what_is_no_tokenizer_is_one_line(tmp_path: Path):
    folder = copied("gpt2", tmp_path)
    path = folder / "tokenizer.json"
    for content in ("", "[]", "{}", '{"model": {"type": "Magic"}}', "\ud800", path.read_text()[:900], "[" * 9999):
        path.write_bytes(content.encode("utf-8", errors="surrogatepass"))
        with pytest.raises(ValueError, match=r"tokenizer\.json") as caught:
            read(folder)
        assert "\n" not in str(caught.value)


def test_an_id_beyond_the_table_is_one_line(tmp_path: Path):
    folder = copied("gpt2", tmp_path)
    size = read_json(folder / "config.json")["vocab_size"]
    rewrite(folder / "config.json", vocab_size=size - 1)
    with pytest.raises(ValueError, match=rf"must be below the model's vocab_size={size - 1}, got {size - 1} of '"):
        read(folder)
    rewrite(folder / "config.json", vocab_size=size, bos_token_id=size)
    with pytest.raises(ValueError, match=rf"bos must be one of the tokenizer's {size} ids, got bos={size}\."):
        read(folder)


def test_a_type_of_model_is_that_of_the_class_where_no_config_says_one(tmp_path: Path):
    folder = copied("t5-pieces", tmp_path)
    rewrite(folder / "tokenizer_config.json", tokenizer_class="T5TokenizerFast")
    found, known = read_tokenizers(folder, {})["tokenizer"], read(folder)["tokenizer"]
    assert list(map(found.encode, LINES)) == list(map(known.encode, LINES))
    assert (found.pad_id, found.bos_id, found.eos_id) == (known.pad_id, known.pad_id, known.eos_id)


def test_a_word_of_more_than_a_hundred_characters_is_unknown_to_bert():
    tokenizer = fuzzed("bert-cased-vocab-txt")
    assert tokenizer.unk_id not in tokenizer.encode("a" * 100)
    assert tokenizer.encode("a" * 101) == [tokenizer.unk_id]


def test_a_folder_without_a_tokenizer_names_the_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"must have a tokenizer \(.*tokenizer\.json, or .*merges\.txt.*none"):
        read_tokenizers(tmp_path, {"model_type": "gpt2"})


def test_an_unknown_type_of_model_is_named_with_the_known_ones(tmp_path: Path):
    folder = copied("gpt2-merges", tmp_path)
    rewrite(folder / "config.json", model_type="magic")
    with pytest.raises(ValueError, match=r"\(gpt2, roberta, bart, qwen2, qwen3\), got model_type='magic'"):
        read(folder)


def test_a_model_of_sentencepiece_of_an_unknown_type_is_named_with_the_known_ones(tmp_path: Path):
    folder = copied("llama-pieces", tmp_path)
    rewrite(folder / "tokenizer_config.json", tokenizer_class="MagicTokenizer")
    with pytest.raises(ValueError, match=r"\(t5, .*m2m_100\), got model_type='magic' and .*'MagicTokenizer'"):
        read_tokenizers(folder, {"model_type": "magic"})
    (folder / "tokenizer.model").write_bytes(b"none")
    with pytest.raises(
        ValueError, match=r"tokenizer\.model: model must be a SentencePiece model, got 4 bytes that are none"
    ):
        read(folder)


def test_a_table_of_marian_must_be_one(tmp_path: Path):
    folder = copied("marian", tmp_path)
    whole = read_json(folder / "vocab.json")
    rewrite(folder / "config.json", vocab_size=len(whole) - 1)
    with pytest.raises(ValueError, match=rf"vocab_size={len(whole) - 1}, got {len(whole) - 1} of '<pad>'"):
        read(folder)
    for changes, said in (({"a": "b"}, "got 'b' for 'a'"), ({"a": 0, "b": 0}, "got 'a' and 'b' for 0"), ({}, "got no")):
        (folder / "vocab.json").write_text(json.dumps(changes))
        with pytest.raises(ValueError, match=rf"vocab\.json must have .*{said}"):
            read(folder)


def test_a_target_can_have_a_table_of_its_own(tmp_path: Path):
    folder = copied("marian", tmp_path)
    joint = read(folder)["target"]
    pieces = [piece for piece in read_json(folder / "vocab.json") if not piece.startswith("<")]
    table = {piece: index for index, piece in enumerate(["<pad>", *reversed(pieces), "<unk>", "</s>"])}
    (folder / "target_vocab.json").write_text(json.dumps(table))
    rewrite(folder / "tokenizer_config.json", separate_vocabs=True)
    fields = dict.fromkeys(("pad_token_id", "eos_token_id", "decoder_start_token_id", "bos_token_id"))
    rewrite(folder / "config.json", decoder_vocab_size=len(table) + 2, **fields)
    target = read(folder)["target"]
    assert (target.pad_id, target.bos_id, target.unk_id, target.eos_id) == (0, 0, len(table) - 2, len(table) - 1)
    assert target.vocab_size == len(table) + 2
    assert target.pieces(target.encode("die Katze")) == joint.pieces(joint.encode("die Katze"))
    assert target.encode("die Katze") != joint.encode("die Katze")


def test_a_text_of_marian_may_begin_with_its_language():
    source = read(DATA / "marian")["source"]
    code = source.pieces(range(source.vocab_size)).index(">>deu<<")
    assert source.encode(">>deu<<the cat")[:1] == [code]
    assert source.encode(">>xyz<<the cat") == [source.unk_id, *source.encode("the cat")]
    assert source.encode("the >>deu<< cat").count(code) == 0


def test_the_first_form_of_nllb_has_the_language_behind_the_end_of_a_source(tmp_path: Path):
    """As transformers 4.57.6 and 5.24.0 read the same folder; the decoder gets the target's language as it does now."""
    now = read(DATA / "nllb-pieces")
    folder = copied("nllb-pieces", tmp_path)
    rewrite(folder / "tokenizer_config.json", legacy_behaviour=True)
    found = read(folder)
    english = now["source"].encode("Ein Haus")[0]
    assert [*found["source"].encode("Ein Haus"), found["source"].eos_id] == [4, 67, 28, 4, 397, 10, 16, 7, 2, english]
    assert found["target"].encode("Ein Haus") == now["target"].encode("Ein Haus")
    assert found["target"].eos_id == now["target"].eos_id
    other = spoken(found["source"], found["target"], languages=("deu_Latn", None)).source
    german = now["target"].encode("Ein Haus")[0]
    assert other.encode("Ein Haus") == found["source"].encode("Ein Haus")
    assert other.eos_id == german != english


def test_a_language_without_a_token_is_one_line(tmp_path: Path):
    folder = copied("nllb-pieces", tmp_path)
    rewrite(folder / "tokenizer_config.json", src_lang="xyz_Latn")
    with pytest.raises(ValueError, match="must have a token for each language, got none for 'xyz_Latn'"):
        read(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"model": "!", "special": {}}'])
def test_a_damaged_table_is_named(tmp_path: Path, content: str):
    path = tmp_path / "source.pieces"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"source\.pieces must hold a model of SentencePiece and a table in JSON"):
        load_tokenizer(path)


def test_a_vocabulary_that_says_no_end_is_one_line(tmp_path: Path):
    folder = copied("llama3", tmp_path)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="must say what ends a text"):
        read_tokenizers(folder, {"model_type": "magic"})


def test_damaged_files_beside_it_are_named(tmp_path: Path):
    folder = copied("gpt2", tmp_path)
    for file, content in (
        ("tokenizer_config.json", "{"),
        ("special_tokens_map.json", "[1]"),
        ("added_tokens.json", "{"),
    ):
        (folder / file).write_text(content)
        with pytest.raises(ValueError, match=rf"{file} must be "):
            read(folder)
        (folder / file).unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<|new|>": "first"}))
    with pytest.raises(ValueError, match="must have added tokens by their ids"):
        read(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"special": {}, "content": {}, "vocab_size": 1, "settings": {}}'])
def test_a_damaged_saved_file_is_named(tmp_path: Path, content: str):
    path = tmp_path / "tokenizer.huggingface"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.huggingface must hold a tokenizer and its special ids"):
        load_tokenizer(path)


def test_without_the_library_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = fuzzed("gpt2").save(tmp_path / "tokenizer.huggingface")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lmx\[tokenizers\]'"):
        load_tokenizer(path)


def test_special_ids_must_be_ids():
    with pytest.raises(ValueError, match="unk must be one of the tokenizer's 5 ids, got unk=-1"):
        Specials(pad=0, bos=1, eos=2, unk=-1).check(5)
    assert HuggingFaceTokenizer.suffix == ".huggingface"
