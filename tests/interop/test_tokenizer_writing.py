"""Tokenizers written for Hugging Face: read back here, and where transformers is installed, by it."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lmx.data.embedded import phrasebook
from lmx.foreign_text import HuggingFaceTokenizer
from lmx.interop.own_vocabularies import content_of
from lmx.interop.tokenizers import read_tokenizers, write_tokenizers
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, Tokenizer

DATA = Path(__file__).parent / "data" / "tokenizers"
LINES: list[str] = json.loads((DATA / "lines.json").read_text(encoding="utf-8"))
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
TEXTS = [text for phrase in phrasebook("train")[:300] for text in (phrase.source, phrase.target)]
# Special tokens inside a text are read as such by Hugging Face. Its library folds characters one visible sign at a
# time, so that it leaves a sign apart whose first part SentencePiece folds with the mark behind it.
IDS = ("vocab_size", "pad_id", "bos_id", "eos_id", "unk_id")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
DIFFERENT = "cafe\u0301"
PLAIN = [line for line in LINES if not any(token in line for token in SPECIAL)]
OWN_LINES = [*TEXTS[:3], *(line for line in PLAIN if not line.startswith(DIFFERENT))]


def config_of(name: str) -> dict[str, Any]:
    return json.loads((DATA / name / "config.json").read_text(encoding="utf-8"))


KINDS = {
    "pairs": lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=300),
    "unigram": lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=300, model_type="unigram", folding="case"),
    "lossless": lambda: SentencePieceTokenizer.train(
        [*TEXTS, "a\tb  c\n"], vocab_size=500, folding="none", byte_fallback=True
    ),
    "words": lambda: PretokenizedTokenizer.from_texts([*TEXTS, "an@@ trie@@ b the a@@"]),
    "bytes": ByteTokenizer,
    "characters": lambda: SymbolTokenizer.from_texts([*TEXTS, "\n"], unit="characters"),
    "symbols": lambda: SymbolTokenizer.from_texts([*TEXTS, "\n"], unit="words"),
}


@functools.cache
def own(kind: str) -> Tokenizer:
    return KINDS[kind]()


@pytest.mark.parametrize("name", FOLDERS)
def test_what_was_read_is_written_to_be_read_as_the_same(name: str, tmp_path: Path):
    config = config_of(name)
    found = read_tokenizers(DATA / name, config)
    write_tokenizers(tmp_path, found, config["model_type"])
    if (generation := DATA / name / "generation_config.json").is_file():  # the model's, not the tokenizer's
        (tmp_path / generation.name).write_bytes(generation.read_bytes())
    again = read_tokenizers(tmp_path, config)
    assert again.keys() == found.keys()
    for side in found:
        assert list(map(again[side].encode, LINES)) == list(map(found[side].encode, LINES))
        assert [getattr(found[side], name) for name in IDS] == [getattr(again[side], name) for name in IDS]
        assert type(found[side]) is type(again[side])


@pytest.mark.parametrize("kind", KINDS)
def test_vocabularies_of_lmx_become_a_tokenizer_json(kind: str, tmp_path: Path):
    tokenizer = own(kind)
    write_tokenizers(tmp_path, {"tokenizer": tokenizer}, "llama")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("pad", "bos", "eos")}
    again = read_tokenizers(tmp_path, {"model_type": "llama", "vocab_size": tokenizer.vocab_size, **ids})["tokenizer"]
    assert isinstance(again, HuggingFaceTokenizer)
    assert [getattr(again, name) for name in IDS] == [getattr(tokenizer, name) for name in IDS]
    assert {line: again.encode(line) for line in OWN_LINES} == {line: tokenizer.encode(line) for line in OWN_LINES}
    for line in OWN_LINES:
        ids = tokenizer.encode(line)
        if tokenizer.unk_id not in ids:
            assert again.decode(ids) == tokenizer.decode(ids)


def test_marks_of_segmented_words_are_undone(tmp_path: Path):
    write_tokenizers(tmp_path, {"tokenizer": own("words")}, "t5")
    again = read_tokenizers(tmp_path, {"model_type": "t5"})["tokenizer"]
    assert again.decode(again.encode("an@@ trie@@ b the a@@")) == "antrieb the a"


def test_lmx_surrounds_a_text_in_their_post_processor_as_it_does_itself(tmp_path: Path):
    from tokenizers import Tokenizer as Backend

    encoder, sides, decoder = ([1, 12, 2], [1, 12, 2, 13, 2]), ([12, 2], [12, 2, 13, 2]), ([1, 12], [1, 12, 13])
    expected = {
        **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert", "electra"), encoder),
        **dict.fromkeys(("t5", "mt5", "umt5", "marian", "bart", "mbart", "m2m_100"), sides),
        **dict.fromkeys(("gpt2", "llama", "mistral", "qwen2", "qwen3"), decoder),
    }
    words = PretokenizedTokenizer([chr(97 + place) for place in range(12)])
    for model_type, (single, pair) in expected.items():
        write_tokenizers(tmp_path, {"tokenizer": words}, model_type)
        backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
        assert (backend.encode("i").ids, backend.encode("i", "j").ids) == (single, pair)
        said = json.loads((tmp_path / "tokenizer_config.json").read_text())
        names = ("pad", "bos", "eos", "unk")
        assert [said[f"{name}_token"] for name in names] == ["<pad>", "<s>", "</s>", "<unk>"]
        is_encoder = (single, pair) == encoder
        assert (said.get("cls_token"), said.get("sep_token")) == (("<s>", "</s>") if is_encoder else (None, None))
        assert (said["tokenizer_class"], said["clean_up_tokenization_spaces"]) == ("PreTrainedTokenizerFast", False)
    for model_type, ids in (("bert", [12, 2]), ("llama", [12])):
        write_tokenizers(tmp_path, {"tokenizer": words}, model_type, begins=False)
        assert Backend.from_file(str(tmp_path / "tokenizer.json")).encode("i").ids == ids
    write_tokenizers(tmp_path, {"tokenizer": words}, "bert")
    assert Backend.from_file(str(tmp_path / "tokenizer.json")).encode("i", "j").type_ids == [0, 0, 0, 1, 1]


def test_sentencepiece_of_lmx_becomes_marians_files(tmp_path: Path):
    joint, other = own("pairs"), own("unigram")
    for pair in ({"tokenizer": joint}, {"source": joint, "target": other}):
        folder = tmp_path / str(len(pair))
        write_tokenizers(folder, pair, "marian")
        config = {"model_type": "marian", "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
        again = read_tokenizers(folder, config)
        for side, tokenizer in (("source", joint), ("target", pair.get("target", joint))):
            assert again[side].vocab_size == tokenizer.vocab_size
            assert (again[side].pad_id, again[side].bos_id, again[side].eos_id, again[side].unk_id) == (0, 1, 2, 3)
            lines = [line for line in OWN_LINES if not line.startswith(">>")]
            assert list(map(again[side].encode, lines)) == list(map(tokenizer.encode, lines))
    assert (tmp_path / "2" / "target_vocab.json").is_file()
    assert not (tmp_path / "1" / "target_vocab.json").exists()


def test_files_that_name_no_class_get_that_of_their_type_of_model(tmp_path: Path):
    read = read_tokenizers(DATA / "bart", config_of("bart"))["tokenizer"]
    assert isinstance(read, HuggingFaceTokenizer)
    plain = HuggingFaceTokenizer(read.content, read.special, vocab_size=read.vocab_size)
    names = {
        "bert": "Bert", "roberta": "Roberta", "gpt2": "GPT2", "bart": "Bart", "qwen2": "Qwen2", "qwen3": "Qwen2",
        "t5": "T5", "mt5": "T5", "umt5": "T5", "llama": "Llama", "mistral": "Llama", "marian": "Marian",
        "xlm-roberta": "XLMRoberta", "nllb": "Nllb", "m2m_100": "M2M100", "mbart": "MBart",
    }  # fmt: skip
    for model_type, name in names.items():
        write_tokenizers(tmp_path, {"source": plain, "target": plain}, model_type)
        said = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert said == {"tokenizer_class": f"{name}Tokenizer"}
    write_tokenizers(tmp_path, {"tokenizer": plain}, "magic")
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert said == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


@pytest.mark.parametrize(
    ("name", "model_type", "pieces"),
    [
        ("bert-cased-vocab-txt", "bert", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
        ("roberta-merges", "roberta", ["<pad>", "<s>", "</s>", "<unk>"]),
        ("gpt2-merges", "gpt2", ["<|endoftext|>"] * 4),
        ("qwen2-merges", "qwen2", ["<|endoftext|>"] * 4),
        ("qwen2-merges", "qwen3", ["<|endoftext|>"] * 4),
        ("t5-pieces", "t5", ["<pad>", "<pad>", "</s>", "<unk>"]),
        ("t5-pieces", "mt5", ["<pad>", "<pad>", "</s>", "<unk>"]),
        ("llama-pieces", "llama", ["</s>", "<s>", "</s>", "<unk>"]),
        ("llama-pieces", "mistral", ["</s>", "<s>", "</s>", "<unk>"]),
        ("xlm-roberta-pieces", "xlm-roberta", ["<pad>", "<s>", "</s>", "<unk>"]),
    ],
)
def test_tokens_that_no_file_names_are_those_of_the_class(
    name: str, model_type: str, pieces: list[str], tmp_path: Path
):
    beside = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json")
    folder = shutil.copytree(DATA / name, tmp_path / "read", ignore=shutil.ignore_patterns(*beside))
    found = read_tokenizers(Path(folder), {"model_type": model_type})["tokenizer"]
    assert found.pieces([found.pad_id, found.bos_id, found.eos_id, found.unk_id]) == pieces


def test_what_has_no_form_is_named(tmp_path: Path):
    words, pieces = own("words"), own("pairs")
    with pytest.raises(
        ValueError, match=r"must share one tokenizer, .* got Pretoken.* and Sentence.*model_type='marian'"
    ):
        write_tokenizers(tmp_path, {"source": words, "target": pieces}, "marian")
    with pytest.raises(ValueError, match="model_type='t5'"):
        write_tokenizers(tmp_path, {"source": pieces, "target": own("unigram")}, "t5")
    assert list(tmp_path.iterdir()) == []
    marian = read_tokenizers(DATA / "marian", config_of("marian"))["source"]
    with pytest.raises(ValueError, match=r"SentencePiece, words, symbols or bytes .*, got PieceTableTokenizer"):
        content_of(marian)


def test_special_tokens_named_in_an_older_file_are_handed_on(tmp_path: Path):
    folder = Path(shutil.copytree(DATA / "gpt2", tmp_path / "read"))
    size = config_of("gpt2")["vocab_size"]
    (folder / "added_tokens.json").write_text(json.dumps({"<|pad|>": size}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<|pad|>"}}))
    config = config_of("gpt2") | {"vocab_size": size + 1}
    write_tokenizers(tmp_path / "written", read_tokenizers(folder, config), "gpt2")
    assert read_tokenizers(tmp_path / "written", config)["tokenizer"].pad_id == size


# With transformers itself.


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_loads_what_was_written_as_what_was_read(name: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = config_of(name)
    write_tokenizers(tmp_path, read_tokenizers(DATA / name, config), config["model_type"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    in_python = "pieces" in name or name == "marian"
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(each, use_fast=not in_python)
                    for each in (DATA / name, tmp_path))  # fmt: skip
    # Without a tokenizer.json, version 5 has no mask of RoBERTa's that takes the space before it.
    lines = [line for line in LINES if name != "roberta-merges" or "<mask>" not in line]
    assert [ours(line)["input_ids"] for line in lines] == [theirs(line)["input_ids"] for line in lines]
    assert ours(*LINES[3:5])["input_ids"] == theirs(*LINES[3:5])["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "bart", "marian"])
def test_transformers_reads_the_vocabularies_of_lmx(kind: str, model_type: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer = own(kind)
    write_tokenizers(tmp_path, {"tokenizer": tokenizer}, model_type)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    lines = [line for line in OWN_LINES if model_type != "marian" or not line.startswith(">>")]
    assert [theirs.encode(line, add_special_tokens=False) for line in lines] == list(map(tokenizer.encode, lines))


BEGUN = [each for each in FOLDERS if each.startswith(("bert", "gpt2", "ll", "qwen", "ro", "xlm"))]


@pytest.mark.parametrize("name", BEGUN)
def test_a_text_begins_as_the_class_begins_it(name: str):
    tokenizer: Any = read_tokenizers(DATA / name, config_of(name))["tokenizer"]
    single = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))["single"]
    assert tokenizer.puts_bos == all(ids[:1] == [tokenizer.bos_id] for ids in single)
