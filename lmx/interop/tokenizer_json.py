"""A `tokenizer.json` as Hugging Face reads it, or the same made of `vocab.txt`, or `vocab.json` and `merges.txt`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmx.foreign_text import HuggingFaceTokenizer, backend_of, tokenizers_library
from lmx.interop.tokenizer_files import Beside, class_of, read_object

BERT_LIKE = ("bert", "distilbert", "electra", "mobilebert", "mpnet")
# Of byte-level vocabularies: what splits text before pairs are merged, and whether texts are composed (NFC) first.
BYTE_LEVEL = ("gpt2", "roberta", "bart", "qwen2", "qwen3")
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_tokenizer_json(beside: Beside, *, vocab_size: int | None) -> dict[str, HuggingFaceTokenizer]:
    """Returns the tokenizer of a folder's `tokenizer.json`, with the tokens and settings that stand beside it.

    Raises:
        ModuleNotFoundError: the library `tokenizers` is not installed.
        ValueError: the file is none, or does not fit the model.
    """
    path = beside.folder / "tokenizer.json"
    return _made(_as_set(read_object(path), beside), beside, path=path, vocab_size=vocab_size)


def read_word_pieces(beside: Beside, *, vocab_size: int | None) -> dict[str, HuggingFaceTokenizer]:
    """Returns the WordPiece tokenizer of a folder's `vocab.txt`, a piece a line, as BERT has it.

    Raises:
        ModuleNotFoundError: the library `tokenizers` is not installed.
        ValueError: the file is none, or does not fit the model.
    """
    path = beside.folder / "vocab.txt"
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, got {error}.") from error
    vocabulary = {line.removesuffix("\r"): index for index, line in enumerate(lines)}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _described(vocabulary, beside),
        "normalizer": {"type": "BertNormalizer", "clean_text": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": beside.tokens.get("unk", "[UNK]"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
    first, last = beside.tokens.get("cls", "[CLS]"), beside.tokens.get("sep", "[SEP]")
    if first in vocabulary and last in vocabulary:
        pair = {"sep": [last, vocabulary[last]], "cls": [first, vocabulary[first]]}
        content["post_processor"] = {"type": "BertProcessing", **pair}
    content["normalizer"] |= _folding(beside.settings)
    return _made(content, beside, path=path, vocab_size=vocab_size)


def read_byte_pairs(beside: Beside, *, vocab_size: int | None) -> dict[str, HuggingFaceTokenizer]:
    """Returns the byte-level tokenizer of a folder's `vocab.json` and `merges.txt`, as GPT-2, BART and Qwen have it.

    Raises:
        ModuleNotFoundError: the library `tokenizers` is not installed.
        ValueError: a file is none, or the type of model is another.
    """
    if beside.model_type not in BYTE_LEVEL:
        raise ValueError(
            f"{beside.folder} must have a tokenizer.json, or be of a type whose vocab.json is known "
            f"({', '.join(BYTE_LEVEL)}), got model_type={beside.model_type!r}."
        )
    path = beside.folder / "vocab.json"
    vocabulary = read_object(path)
    try:
        lines = (beside.folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{beside.folder / 'merges.txt'} must be UTF-8, got {error}.") from error
    merges = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    is_qwen = beside.model_type.startswith("qwen")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not is_qwen}
    words = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _described(vocabulary, beside),
        "normalizer": {"type": "NFC"} if is_qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, byte_level]} if is_qwen else byte_level,
        "post_processor": dict(byte_level),
        "decoder": dict(byte_level),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    if beside.model_type in ("roberta", "bart"):
        first, last = beside.tokens["cls"], beside.tokens["sep"]
        ends = {"sep": [last, vocabulary.get(last)], "cls": [first, vocabulary.get(first)]}
        more = {"trim_offsets": True, "add_prefix_space": bool(beside.settings.get("add_prefix_space"))}
        content["post_processor"] = {"type": "RobertaProcessing", **ends, **more}
    return _made(_as_set(content, beside), beside, path=path, vocab_size=vocab_size)


def _made(
    content: dict[str, Any], beside: Beside, *, path: Path, vocab_size: int | None
) -> dict[str, HuggingFaceTokenizer]:
    """Returns the tokenizer, with the tokens that stand beside the file added as Hugging Face adds them."""
    try:
        backend = backend_of(content)
        if missing := _missing(backend, beside):
            backend.add_tokens(missing)
            kept = {name: content.get(name) for name in ("truncation", "padding")}
            content = json.loads(backend.to_str()) | kept
        found, about = {}, {"vocab_size": vocab_size, "settings": beside.settings}
        for side in beside.sides_of_texts():
            special = beside.specials(backend.token_to_id, num_separators=_separators(backend), side=side)
            if beside.is_pair and side == "tokenizer":
                special = replace(special, before=_before(backend))
            found[side] = HuggingFaceTokenizer(content, special, **about)
        return found
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _as_set(content: dict[str, Any], beside: Beside) -> dict[str, Any]:
    """Returns the content with what the settings beside it change: case, accents, the space before a text."""
    splits, folds = content.get("pre_tokenizer"), content.get("normalizer")
    name = class_of(beside.settings).removesuffix("Tokenizer").lower()
    is_bert = name in BERT_LIKE or (not name and beside.model_type in BERT_LIKE)
    if is_bert and isinstance(folds, dict) and folds.get("type") == "BertNormalizer":
        content = content | {"normalizer": folds | _folding(beside.settings)}
    if isinstance(splits, dict) and splits.get("type") == "ByteLevel" and "add_prefix_space" in beside.settings:
        changed = {"add_prefix_space": bool(beside.settings["add_prefix_space"])}
        content = content | {"pre_tokenizer": splits | changed}
    return content


def _folding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "lowercase": bool(settings.get("do_lower_case", True)),
        "strip_accents": settings.get("strip_accents"),
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
    }


def _described(vocabulary: Mapping[str, Any], beside: Beside) -> list[dict[str, Any]]:
    """Returns the special tokens that are in a vocabulary, as a `tokenizer.json` lists them."""
    texts = {text: role for role, text in beside.tokens.items() if text in vocabulary}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    # The mask of these stands for a word and the space before it.
    takes_space = beside.model_type in ("roberta", "bart")
    found = [
        plain | {"id": vocabulary[text], "content": text, "lstrip": takes_space and role == "mask"}
        for text, role in texts.items()
    ]
    return sorted(found, key=lambda token: token["id"])


def _missing(backend: Any, beside: Beside) -> list[Any]:
    """Returns the tokens beside a file that are not in it, or are there with other properties, in their order."""
    added = tokenizers_library().AddedToken
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    found = []
    for _, described in sorted(beside.added.items()):
        fields = {name: value for name, value in described.items() if name in _PROPERTIES and value is not None}
        special = bool(described.get("special")) or described.get("content") in beside.tokens.values()
        # As the library has it: special tokens are found in the text as it is written, others as it is normalised.
        token = added(**{"normalized": not special, **fields, "special": special})
        if repr(known.get(token.content)) != repr(token):
            found.append(token)
    texts = {token.content for token in found} | set(known)
    for text in dict.fromkeys(beside.tokens.values()):
        if text not in texts and (backend.token_to_id(text) is not None or text in _named(beside)):
            found.append(added(text, normalized=False, special=True))
    return found


_PROPERTIES = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _named(beside: Beside) -> set[str]:
    """Returns the special tokens that the folder itself names, not only the class."""
    mapped = read_object(beside.folder / "special_tokens_map.json")
    from_files = [value for found in (mapped, beside.settings) for value in found.values()]
    texts = [value.get("content") if isinstance(value, dict) else value for value in from_files]
    return {text for text in texts if isinstance(text, str)} & set(beside.tokens.values())


def _before(backend: Any) -> tuple[int, ...]:
    """Returns the ids that the library puts before a text: `<s>` of BART."""
    ids, sides = _encoded(backend, "a")
    return tuple(ids[: sides.index(0)]) if 0 in sides else ()


def _separators(backend: Any) -> int:
    """Returns how many tokens the library puts between the texts of a pair, at least 1."""
    _, sides = _encoded(backend, "a", "a")
    if 0 not in sides or 1 not in sides:
        return 1
    end = len(sides) - 1 - sides[::-1].index(0)
    return max(1, sides.index(1) - end - 1)


def _encoded(backend: Any, *texts: str) -> tuple[list[int], list[int | None]]:
    """Returns ids of a text or of a pair with what surrounds them, and which of the texts each is of."""
    try:
        found = backend.encode(*texts)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return [], []
    return found.ids, found.sequence_ids
