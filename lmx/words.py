"""Words of texts, and which pieces are theirs; running text out of Moses' tokens."""

import functools
from typing import Any, NamedTuple

import numpy as np

from lmx.lines import WORD, undo_bpe, words_in
from lmx.text import PretokenizedTokenizer, Tokenizer


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        text: as people read it.
        span: its characters in the text, with the white space before it; the spans of a text are all of it, except
            white space at its end.
        num_pieces: how many ids of the encoded text are this word's.
    """

    text: str
    span: str
    num_pieces: int


def split_words(text: str, tokenizer: Tokenizer) -> list[Word]:
    """Returns the words of a text between ASCII white space; words that `@@` marks join are one.

    The ids of a word are those by which the text up to its end is longer than the text before it: exact where no piece
    reaches over white space, as in every tokenizer that lmx makes.
    """
    ends = [match.end() for match in WORD.finditer(text)]
    if isinstance(tokenizer, PretokenizedTokenizer):
        ends = [end for end in ends if end == ends[-1] or not text.endswith("@@", 0, end)]
    spans = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    counts = [len(tokenizer.encode(span)) for span in spans]
    if sum(counts) != len(tokenizer.encode("".join(spans))):  # a piece reaches over white space
        totals = [len(tokenizer.encode(text[:end])) for end in ends]
        counts = np.diff(np.maximum.accumulate([0, *totals])).tolist()
    return [Word(undo_bpe(" ".join(words_in(span))), span, count) for span, count in zip(spans, counts, strict=True)]


def detokenize_moses(text: str, *, language: str) -> str:
    """Returns running text from Moses tokens: spaces before punctuation go, `&apos;` and its kin become characters.

    Tokenising loses where spaces were, so this is a guess by rules; undo `@@` marks first. It needs the extra `moses`.
    """
    return _moses_detokenizer(language).detokenize(words_in(text), unescape=True)


@functools.lru_cache(maxsize=8)
def _moses_detokenizer(language: str) -> Any:
    try:
        import sacremoses
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "detokenize_moses needs the package sacremoses: pip install 'lmx[moses]'.", name="sacremoses"
        ) from error
    return sacremoses.MosesDetokenizer(lang=language)
