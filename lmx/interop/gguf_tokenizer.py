"""The vocabulary of a GGUF file as a tokenizer.json would have it: byte-level pairs, or pieces as Llama 2 has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.foreign_text import HuggingFaceTokenizer, Specials
from lmx.interop.kinds import COUNT, NUMBERS, SWITCH, TEXT, TEXTS

# Kinds of tokens, by their numbers: those that text never is, and those that a user has added.
CONTROL, ADDED = 3, 4
SPACE = "\u2581"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
# What splits a text before pairs of bytes are merged, by the names there; GPT-2's own rule is the library's.
WORDS = {
    **dict.fromkeys(LLAMA_3, rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"),
    "qwen2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}",
}
PLAIN = ("default", "gpt-2", "gpt2")
DIGITS = ("smollm",)  # each digit is a word
KINDS = {
    **dict.fromkeys(("model", "pre"), TEXT),
    **dict.fromkeys(("tokens", "merges"), TEXTS),
    **dict.fromkeys(("token_type", "scores"), NUMBERS),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"), COUNT),
    "add_space_prefix": SWITCH,
}


def read_tokenizer(said: Mapping[str, Any], *, vocab_size: int, path: Path) -> HuggingFaceTokenizer:
    """Returns the tokenizer that the metadata of a file describes.

    Raises:
        ModuleNotFoundError: the library `tokenizers` is not installed.
        InputError: it describes none, or one of a kind that is not known here.
    """
    tokens = said.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise InputError(f"{path} must hold a vocabulary, got no tokenizer.ggml.tokens.")
    for name, kind in KINDS.items():
        value = said.get(name := f"tokenizer.ggml.{name}")
        if value is not None and not kind.fits(value):
            raise InputError(f"{path} must have {kind.said} as {name}, got {value!r:.60}.")
    makers = {"gpt2": _byte_pairs, "llama": _pieces}
    if (maker := said.get("tokenizer.ggml.model")) not in makers:
        raise InputError(f"{path} must have a tokenizer of {' or '.join(makers)}, got {maker}.")
    content = makers[str(maker)](said, tokens, path)
    types = said.get("tokenizer.ggml.token_type") or []
    content["added_tokens"] = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": each == CONTROL,
        }
        for index, (token, each) in enumerate(zip(tokens, types, strict=False))
        if each in (CONTROL, ADDED)
    ]
    return HuggingFaceTokenizer(content, _specials(said, path), vocab_size=vocab_size)


def _specials(said: Mapping[str, Any], path: Path) -> Specials:
    ids = {name: said.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    eos = ids["eos"]
    if eos is None:
        raise InputError(f"{path} must say what ends a text, got no tokenizer.ggml.eos_token_id.")
    first = {name: eos if value is None else value for name, value in ids.items()}
    return Specials(pad=first["padding"], bos=first["bos"], eos=eos, unk=first["unknown"])


def _byte_pairs(said: Mapping[str, Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    """Returns a vocabulary of byte-level pairs (GPT-2's kind)."""
    name = said.get("tokenizer.ggml.pre", "default")
    bytes_of_all = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    before: list[dict[str, Any]] = []
    if name in DIGITS:
        before = [{"type": "Digits", "individual_digits": True}]
    elif name in WORDS:
        before = [{"type": "Split", "pattern": {"Regex": WORDS[name]}, "behavior": "Isolated", "invert": False}]
        bytes_of_all["use_regex"] = False
    elif name not in PLAIN:
        known = ", ".join((*PLAIN, *DIGITS, *WORDS))
        raise InputError(f"{path} must split words as one of {known}, got tokenizer.ggml.pre={name}.")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, bytes_of_all]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": name in WORDS and name != "qwen2",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": list(said.get("tokenizer.ggml.merges") or []),
        },
    }


def _pieces(said: Mapping[str, Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    """Returns a vocabulary as SentencePiece's pairs have it: of two neighbours, those merge whose piece scores best."""
    scores = said.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise InputError(f"{path} must have a score of each piece in tokenizer.ggml.scores, got none.")
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [
        (-scores[index], ids[token[:cut]], ids[token[cut:]], f"{token[:cut]} {token[cut:]}")
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    strip: list[dict[str, Any]] = []
    if said.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, {"type": "Prepend", "prepend": SPACE})
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    unknown = said.get("tokenizer.ggml.unknown_token_id")
    if unknown is not None and not (isinstance(unknown, int) and 0 <= unknown < len(tokens)):
        raise InputError(f"{path} must have one of its pieces as the unknown one, got {unknown!r:.60}.")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": None if unknown is None else tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [merge for *_, merge in sorted(merges)],
        },
    }
