"""The vocabularies beside a CTranslate2 model: tokens in the order of their ids, as text or as JSON.

A text has a token a line; JSON has tokens with line ends inside, too. Where the unknown token is missing, the model
counts it behind the others. Source: https://github.com/OpenNMT/CTranslate2, src/vocabulary.cc.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.text import Tokenizer
from lmx.token_list import TokenListTokenizer

SUFFIXES = (".json", ".txt")
# What fills rows, by the names that toolkits give it. A vocabulary without one fills them with what begins a text.
PADDING = ("<blank>", "<pad>", "[PAD]", "<|pad|>")
DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one side, and the ids of the special ones.

    Attributes:
        path: of the file, for messages.
        special: ids of "pad", "bos" (what a decoder starts from), "eos" and "unk".
        before, ends: what the model itself puts before each source, and whether it puts the end behind it.
    """

    path: Path
    tokens: list[str]
    special: Mapping[str, int]
    before: tuple[int, ...] = ()
    ends: bool = False

    @cached_property
    def tokenizer(self) -> TokenListTokenizer:
        """Reads and writes the tokens with spaces between."""
        try:
            return TokenListTokenizer(self.tokens, special=self.special, before=self.before, ends_source=self.ends)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from error


def read_vocabularies(
    folder: Path, sizes: Mapping[str, int], *, config: Mapping[str, Any], has_start: bool = False
) -> dict[str, Vocabulary]:
    """Returns the vocabularies of a model as a run names them: "tokenizer", or "source" and "target".

    Args:
        sizes: rows of the tables of each side, "source" and "target", or "" of a model with one vocabulary.
        config: of config.json, which may name the special tokens.
        has_start: the decoder starts from no token of the vocabulary: one is added, which pads, too.

    Raises:
        FileNotFoundError: there is no file of a vocabulary.
        InputError: it does not fit the model, or lacks what ends a text.
    """
    paths = {side: _find(folder, side) for side in sizes}
    read = {side: _read(path, sizes[side], config, has_start=has_start) for side, path in paths.items()}
    if "source" not in read:
        return {"tokenizer": read[""]}
    if config.get("add_source_bos"):
        ids = {token: index for index, token in enumerate(read["source"].tokens)}
        token = config.get("bos_token") or DEFAULTS["bos_token"]
        if token not in ids:
            raise InputError(
                f"{paths['source']} must have {token!r}, which begins a source, got no such token. config.json beside "
                "it names the token in bos_token, and asks for it in add_source_bos."
            )
        return {**read, "source": replace(read["source"], before=(ids[token],))}
    return {"tokenizer": read["source"]} if paths["source"] == paths["target"] else read


def _read(path: Path, size: int, config: Mapping[str, Any], *, has_start: bool) -> Vocabulary:
    tokens = read_tokens(path)
    names = {name: config.get(name) or default for name, default in DEFAULTS.items()}
    if names["unk_token"] not in tokens:
        tokens.append(names["unk_token"])
    if len(tokens) != size:
        raise InputError(
            f"{path} must have the {size:,} tokens of the model's table, got {len(tokens):,}, the unknown one included."
        )
    ids = {token: index for index, token in enumerate(tokens)}
    if has_start:
        start = next(name for name in ("<pad>", *(f"<start{number}>" for number in range(size + 1))) if name not in ids)
        ids[start] = len(tokens)
        tokens.append(start)
        padding = ids[start]
    else:
        start = config.get("decoder_start_token") or names["bos_token"]
        start = start if start in ids else names["eos_token"]
        padding = next((ids[token] for token in PADDING if token in ids), ids.get(start))
    if names["eos_token"] not in ids:
        raise InputError(
            f"{path} must have {names['eos_token']!r}, which ends a text, got no such token. "
            "config.json beside it may name another."
        )
    special = {"pad": padding, "bos": ids[start], "eos": ids[names["eos_token"]], "unk": ids[names["unk_token"]]}
    return Vocabulary(path, tokens, special, ends=bool(config.get("add_source_eos")))


def _find(folder: Path, side: str) -> Path:
    """Returns the file of a side's vocabulary, or of the one that both sides have."""
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


def tokens_of(tokenizer: Tokenizer, *, size: int) -> list[str]:
    """Returns the tokens of any tokenizer, each once: the later of two equal ones gets its number.

    Args:
        size: rows of the table; those behind the tokenizer's get names of their own.
    """
    tokens = tokenizer.pieces(range(tokenizer.vocab_size))
    tokens += [f"<unused{index}>" for index in range(len(tokens), size)]
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if token in seen:
            tokens[index] = f"{token}<{index}>"
        seen.add(tokens[index])
    return tokens
