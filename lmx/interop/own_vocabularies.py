"""lmx's own vocabularies as a `tokenizer.json`: SentencePiece, words, symbols and bytes in the form of `tokenizers`."""

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lmx.foreign_text import CHARACTER_OF
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, Tokenizer
from lmx.training_text import SPECIAL_PIECES

SPACE = "▁"
# Of `ModelProto.SentencePiece.Type` and `TrainerSpec.ModelType`.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
KINDS = {1: "Unigram", 2: "BPE"}
ASCII_SPACE = r"[ \t\n\r\x0b\x0c]+"


class Piece(NamedTuple):
    """A piece of a SentencePiece model; its score says how likely it is, or how early its parts were merged."""

    text: str
    score: float
    kind: int


def content_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json` that has the ids of a vocabulary of lmx's own.

    Special tokens inside a text are read as such then, as Hugging Face does, and unknown pieces leave no mark in
    decoded text. `post_processor` is left to the type of model.

    Raises:
        ValueError: there is no such form.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        parts: dict[str, Any] = _sentence_pieces(tokenizer)
    elif isinstance(tokenizer, PretokenizedTokenizer):
        # Pieces are joined by spaces, and those behind a mark go.
        decoder = [*_JOINED, _replaced("@@ ", ""), _replaced({"Regex": "@@$"}, "")]
        words = tokenizer.pieces(range(tokenizer.vocab_size))
        parts = _listed(words, [_split(ASCII_SPACE, "Removed")], decoder)
    elif isinstance(tokenizer, SymbolTokenizer):
        parts = _symbols(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        pieces = [*SPECIAL_PIECES, *(CHARACTER_OF[byte] for byte in range(256))]
        model = {"type": "BPE", "vocab": _ids(pieces), "merges": []}
        parts = {"model": model, "pre_tokenizer": level, "decoder": level}
    else:
        raise ValueError(
            "a vocabulary must be SentencePiece, words, symbols or bytes to become a tokenizer.json, got "
            f"{type(tokenizer).__name__}."
        )
    special = {index: tokenizer.pieces([index])[0] for index in _specials(tokenizer)}
    listed: list[dict[str, Any]] = [added_token(index, text, special=True) for index, text in special.items()]
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
    }
    added = sorted([*listed, *parts.pop("added_tokens", [])], key=lambda token: token["id"])
    return whole | {"added_tokens": added} | parts


def _specials(tokenizer: Tokenizer) -> list[int]:
    return sorted({tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id})


def _sentence_pieces(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    fields = list(_fields(tokenizer.model))
    pieces = [_piece(value) for number, value in fields if number == 1]
    trainer, normalizer = _merged(fields, 2), _merged(fields, 3)
    kind = KINDS.get(trainer.get(3, 1))
    if kind is None:
        raise ValueError("a SentencePiece model must be of pairs or unigram to become a tokenizer.json, got another.")
    has_bytes, adds, shortens = bool(trainer.get(35, 0)), normalizer.get(3, 1), normalizer.get(4, 1)
    steps: list[dict[str, Any]] = []
    if charsmap := normalizer.get(2):
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")})
    if shortens:
        steps += [_replaced({"Regex": "^ +| +$"}, ""), _replaced({"Regex": " {2,}"}, " ")]
    if adds:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append(_replaced(" ", SPACE))
    decoder = [_replaced(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if adds or shortens:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next(index for index, piece in enumerate(pieces) if piece.kind == UNKNOWN)
    if kind == "Unigram":
        vocabulary = [[piece.text, piece.score] for piece in pieces]
        model = {"type": kind, "unk_id": unknown, "vocab": vocabulary, "byte_fallback": has_bytes}
    else:
        model = {
            "type": kind,
            "dropout": None,
            "unk_token": pieces[unknown].text,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "vocab": _ids([piece.text for piece in pieces]),
            "merges": _merges(pieces),
        }
    own = [added_token(index, piece.text) for index, piece in enumerate(pieces) if piece.kind == USER_DEFINED]
    normalizer_json = {"type": "Sequence", "normalizers": steps}
    parts = {"model": model, "normalizer": normalizer_json, "decoder": {"type": "Sequence", "decoders": decoder}}
    return parts | {"pre_tokenizer": None, "added_tokens": own}


def _merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """Returns all pairs of pieces that make a piece, those first that SentencePiece merges first."""
    plain = {piece.text for piece in pieces if piece.kind not in (UNKNOWN, CONTROL, USER_DEFINED)}
    found = []
    for piece in sorted((each for each in pieces if each.text in plain), key=lambda each: -each.score):
        cuts = range(1, len(piece.text))
        found += [[piece.text[:cut], piece.text[cut:]] for cut in cuts if {piece.text[:cut], piece.text[cut:]} <= plain]
    return found


def _symbols(tokenizer: SymbolTokenizer) -> dict[str, Any]:
    symbols = tokenizer.pieces(range(tokenizer.vocab_size))
    (line_end,) = tokenizer.encode("\n")
    if line_end != tokenizer.unk_id:
        symbols[line_end] = "\n"  # it is shown as an arrow
    if tokenizer.unit == "characters":
        return _listed(symbols, [_split(r"[\s\S]", "Isolated")], [{"type": "Fuse"}])
    splits = [_split(r"[ \t\r\x0b\x0c]+", "Removed"), _split(r"\n", "Isolated")]
    return _listed(symbols, splits, [*_JOINED, _replaced(" \n", "\n"), _replaced("\n ", "\n")])


def _listed(pieces: Sequence[str], splits: list[dict[str, Any]], decoder: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": {"type": "WordLevel", "vocab": _ids(pieces), "unk_token": SPECIAL_PIECES[3]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "decoder": {"type": "Sequence", "decoders": decoder},
    }


# The decoder of WordPiece puts a space before each piece but the first; no piece begins with this prefix.
_JOINED = ({"type": "WordPiece", "prefix": "\x00\x00", "cleanup": False}, {"type": "Fuse"})


def _ids(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _replaced(pattern: str | dict[str, str], by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern} if isinstance(pattern, str) else pattern, "content": by}


def added_token(index: int, text: str, *, special: bool = False) -> dict[str, Any]:
    """Returns how a `tokenizer.json` describes a token that is found in a text before anything else."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, "special": special} | plain


# The little of protocol buffers that SentencePiece's files need: tags, integers, and fields with a length.


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields numbers and values of a message's fields."""
    place = 0
    while place < len(message):
        tag, place = _integer(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _integer(message, place)
        elif kind == 2:
            length, place = _integer(message, place)
            value, place = message[place : place + length], place + length
        else:
            size, form = (4, "<f") if kind == 5 else (8, "<d")
            (value,) = struct.unpack(form, message[place : place + size])
            place += size
        yield tag >> 3, value


def _integer(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place


def _merged(fields: list[tuple[int, Any]], number: int) -> dict[int, Any]:
    return {inner: value for found, message in fields if found == number for inner, value in _fields(message)}


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    return Piece(fields.get(1, b"").decode("utf-8"), fields.get(2, 0.0), fields.get(3, 1))
