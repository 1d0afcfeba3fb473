"""The special pieces of every vocabulary, and texts as SentencePiece's trainer takes them.

They are drawn at random where there are many, and none holds a word that the trainer takes for a special piece.
"""

import random
import re
from array import array
from collections.abc import Callable, Iterable, Iterator

import sentencepiece

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
SPECIAL_PIECES = ("<pad>", "<s>", "</s>", "<unk>")
# By these SentencePiece keeps all of a text; a line end is a piece of its own, and so is a tab, which separates pairs.
LOSSLESS = {
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "user_defined_symbols": ["\n", "\t"],
}


class VocabularyTooLarge(ValueError):
    """A vocabulary is asked for that the text cannot fill; it fills `most`."""

    def __init__(self, message: str, *, most: int):
        super().__init__(message)
        self.most = most


def draw_texts(texts: Iterable[str], number: int | None, *, seed: int) -> list[str]:
    """Returns `number` texts drawn uniformly at random, in their order; all texts if there are fewer, or with None.

    It takes one pass and holds only the texts drawn so far (Vitter 1985, algorithm R): the texts need not fit in
    memory.
    """
    if number is None:
        return list(texts)
    # Of Random, only `random` is promised to give the same numbers in every Python.
    chance = random.Random(seed).random
    drawn, positions = [], array("q")
    for position, text in enumerate(texts):
        if position < number:
            drawn.append(text)
            positions.append(position)
        elif (place := int(chance() * (position + 1))) < number:
            drawn[place], positions[place] = text, position
    return [drawn[place] for place in sorted(range(len(drawn)), key=positions.__getitem__)]


def handed_over(texts: list[str]) -> Iterator[str]:
    """Yields texts and lets go of each: the library has its own copy."""
    for place, text in enumerate(texts):
        texts[place] = ""
        yield text


def without_control_words(rule: str) -> Callable[[str], str]:
    """Returns what breaks up `<s>` and its kin in a text that a vocabulary is learned from.

    The library takes them out of what it learns from, though in a text they are text: their characters would have no
    piece. A space behind the bracket lets them have one, and keeps the whole from being a piece.
    """
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=rule)

    def broken_up(text: str) -> str:
        if _BRACKET.search(text) and _CONTROL_WORD.search(normalizer.normalize(text)):
            return _BRACKET.sub(r"\g<0> ", text)
        return text

    return broken_up


# With its forms of other widths, which become it.
_BRACKET = re.compile("[<\ufe64\uff1c]")
_CONTROL_WORD = re.compile("|".join(SPECIAL_PIECES))


def training_error(error: RuntimeError, *, vocab_size: int) -> Exception:
    """Turns the library's two ways to refuse a vocabulary size into one line; passes anything else on."""
    if match := re.search(r"Vocabulary size too high .*?<= (\d+)", str(error)):
        message = f"vocab_size must be at most {match[1]} for this text, got vocab_size={vocab_size}."
        return VocabularyTooLarge(message, most=int(match[1]))
    if match := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", str(error)):
        return ValueError(
            f"vocab_size must be at least {match[1]} to hold each character of this text, got vocab_size={vocab_size}. "
            "A lower character_coverage needs less."
        )
    return ValueError(f"SentencePiece could not learn a vocabulary: {error}")
