"""Models of several languages: which they are, and tokenizers that read one of them and write another.

Where the code of a language stands differs: mBART has the source's behind its end, and starts the decoder from the
target's. mBART-50, NLLB and M2M-100 have the source's before the text, and the target's is the first word of each
translation; NLLB had the source's behind its end at first (`legacy_behaviour`). Marian has the target's before the
source.
"""

import dataclasses
import difflib
import re
from typing import NamedTuple, TypeAlias

from lmx.foreign_pieces import PieceTableTokenizer
from lmx.foreign_text import HuggingFaceTokenizer, Specials
from lmx.text import Tokenizer

Languages: TypeAlias = tuple[str | None, str | None]  # of source and target; None: as a model was saved
AS_SAVED: Languages = (None, None)
# By the class that a tokenizer's settings name; the group is what a user calls the language.
CODES = {
    "MBartTokenizer": re.compile(r"([a-z]{2,3}_[A-Z]{2})"),
    "MBart50Tokenizer": re.compile(r"([a-z]{2,3}_[A-Z]{2})"),
    "NllbTokenizer": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
    "M2M100Tokenizer": re.compile(r"__([a-z]{2,3})__"),
    "MarianTokenizer": re.compile(r">>(.+)<<"),
}


class Spoken(NamedTuple):
    """Tokenizers of source and target, and the word that each translation begins with, if the language needs one."""

    source: Tokenizer
    target: Tokenizer
    first: int | None


def _class_of(tokenizer: Tokenizer) -> str:
    """Returns the class of Hugging Face whose codes of languages a tokenizer has, or "" for none."""
    if isinstance(tokenizer, PieceTableTokenizer):
        settings, default = tokenizer.table.settings, "MarianTokenizer" if tokenizer.table.form == "marian" else ""
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        settings, default = tokenizer.settings, ""
    else:
        return ""
    name = str(settings.get("tokenizer_class") or default).removesuffix("Fast")
    return name if name in CODES else ""


def languages_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the ids of the codes of a tokenizer's languages, by their names."""
    if not (name := _class_of(tokenizer)):
        return {}
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    found = ((CODES[name].fullmatch(piece), index) for index, piece in enumerate(pieces))
    return {match[1]: index for match, index in found if match}


def first_word(target: Tokenizer) -> int | None:
    """Returns the code that each translation begins with, as the tokenizer's files say; None if they say none."""
    before = getattr(getattr(target, "special", None), "before", ())
    return before[0] if before and before[0] in languages_of(target).values() else None


def spoken(source: Tokenizer, target: Tokenizer, *, languages: Languages) -> Spoken:
    """Returns tokenizers that read and write other languages, by their names or codes.

    Raises:
        ValueError: the model has no such language; the message names those it has.
    """
    of_source, of_target = languages
    finds_source = _class_of(source) == "MarianTokenizer"
    if of_source is not None:
        index = _found("source_language", of_source, source)
        if finds_source:
            raise ValueError(
                f"source_language must be left out where only targets have codes, got source_language={of_source}."
            )
        behind = _class_of(source) == "MBartTokenizer" or source.eos_id in languages_of(source).values()
        source = _with(source, eos=index) if behind else _with(source, before=(index,))
    if of_target is None:
        return Spoken(source, target, None)
    index = _found("target_language", of_target, source if finds_source else target)
    if finds_source:
        return Spoken(_with(source, before=(index,)), target, None)
    if _class_of(target) == "MBartTokenizer":
        return Spoken(source, _with(target, bos=index), None)
    return Spoken(source, _with(target, before=(index,)), index)


def _found(name: str, language: str, tokenizer: Tokenizer) -> int:
    """Returns the id of a language's code."""
    known = languages_of(tokenizer)
    if not known:
        raise ValueError(f"{name} must be left out: the model has no codes of languages, got {name}={language}.")
    codes = dict(zip(tokenizer.pieces(known.values()), known.values(), strict=True)) | known
    if language not in codes:
        nearest = difflib.get_close_matches(language, known, n=1)
        hint = f" Nearest: {nearest[0]}." if nearest else ""
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {name}={language}.{hint}")
    return codes[language]


def _with(tokenizer: Tokenizer, **changes: object) -> Tokenizer:
    """Returns a tokenizer with other ids around its texts."""
    assert isinstance(tokenizer, PieceTableTokenizer | HuggingFaceTokenizer)
    special: Specials = dataclasses.replace(tokenizer.special, **changes)  # type: ignore[arg-type]
    return tokenizer.with_special(special)
