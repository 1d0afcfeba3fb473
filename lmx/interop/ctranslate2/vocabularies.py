"""The vocabularies beside a CTranslate2 model: tokens in the order of their ids, as text or as JSON.

A text has a token a line; from JSON come also tokens with line ends inside. Where the unknown token is missing, the model
counts it behind the others. Source: https://github.com/OpenNMT/CTranslate2, src/vocabulary.cc.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.text import Tokenizer
from lmx.token_list import TokenListTokenizer

SUFFIXES = (".json", ".txt")
# What fills rows, by the names that toolkits give it; it is no word, so that a model without it does not miss it.
PADDING = ("<blank>", "<pad>", "[PAD]", "<|pad|>")
DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def read_tokenizer(
    folder: Path, side: str, *, size: int, config: Mapping[str, Any], start: str | None = None
) -> TokenListTokenizer:
    """Returns the tokens of a side as a tokenizer.

    Args:
        side: "source", "target", or "" of a model with one vocabulary.
        size: rows of the model's table.
        config: of config.json, which may name the special tokens.
        start: the token that the decoder starts from, if it is not the beginning.

    Raises:
        FileNotFoundError: there is no file of the vocabulary.
        InputError: it does not fit the model, or lacks the end.
    """
    path = find_vocabulary(folder, side)
    tokens = read_tokens(path)
    names = {name: config.get(name) or default for name, default in DEFAULTS.items()}
    if names["unk_token"] not in tokens:
        tokens.append(names["unk_token"])
    if len(tokens) != size:
        raise InputError(
            f"{path} must have the {size:,} tokens of the model's table, got {len(tokens):,}, the unknown one included."
        )
    ids = {token: index for index, token in enumerate(tokens)}
    bos = start or names["bos_token"]
    for token in (bos, names["eos_token"]):
        if token not in ids:
            raise InputError(f"{path} must have the special token {token!r}, got none. Name another in config.json.")
    padding = next((ids[token] for token in PADDING if token in ids), ids[bos])
    special = {"pad": padding, "bos": ids[bos], "eos": ids[names["eos_token"]], "unk": ids[names["unk_token"]]}
    try:
        return TokenListTokenizer(tokens, special=special)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def find_vocabulary(folder: Path, side: str) -> Path:
    """Returns the file of a side's vocabulary, or of the one that both sides have.

    Raises:
        FileNotFoundError: there is none.
    """
    stems = [f"{side}_vocabulary", "shared_vocabulary"] if side else ["vocabulary"]
    names = [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} must have a vocabulary, {' or '.join(names)}, got none of them.")


def read_tokens(path: Path) -> list[str]:
    """Returns the tokens of a file.

    Raises:
        InputError: it is not UTF-8, or no list of texts.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        if path.suffix == ".txt":
            return text.removesuffix("\n").split("\n")
        tokens = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a vocabulary in UTF-8, got {error}.") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{path} must be a list of texts, got something else.")
    return tokens


def write_tokens(folder: Path, side: str, tokens: list[str]) -> None:
    """Writes the vocabulary of a side, as JSON."""
    stem = f"{side}_vocabulary" if side else "vocabulary"
    (folder / f"{stem}.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    """Returns the tokens of any tokenizer, each once: of two that are written alike, the later gets its number.

    Raises:
        InputError: special tokens are written like words.
    """
    tokens = tokenizer.pieces(range(tokenizer.vocab_size))
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if token in seen:
            tokens[index] = f"{token}<{index}>"
        seen.add(tokens[index])
    return tokens
