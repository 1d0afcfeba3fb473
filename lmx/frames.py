"""What surrounds a text in the rows that a model reads: what stands before it, behind it, and at its end.

A tokenizer's `encode` gives a text with what is around it: `<s>` of BART, the code of a language. The end comes last.
"""

from collections.abc import Sequence

from lmx.text import Tokenizer
from lmx.token_list import end_of_source


def around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids that `encode` puts before and behind each text; most tokenizers put none."""
    special = getattr(tokenizer, "special", tokenizer)
    return tuple(getattr(special, "before", ())), tuple(getattr(special, "after", ()))


def ended(ids: Sequence[int], tokenizer: Tokenizer, *, longest: int) -> list[int]:
    """Returns the row of a source, of at most `longest` tokens: the words at its end are cut, and not what is behind.

    Args:
        ids: of its text, as `encode` gives them.
    """
    behind = around(tokenizer)[1]
    words = ids[: len(ids) - len(behind)]
    end = [*behind, end_of_source(tokenizer)]
    return [*words[: longest - len(end)], *end]


def has_words(row: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Returns whether the row of a source holds more than what surrounds a text."""
    return len(row) > 1 + sum(map(len, around(tokenizer)))


def begun(ids: Sequence[int], tokenizer: Tokenizer, *, first: Sequence[int]) -> list[int]:
    """Returns the row of a target behind the words that each target begins with.

    Args:
        ids: of its text, as `encode` gives them; `first` takes the place of what it puts before.
    """
    return [*first, *ids[len(around(tokenizer)[0]) :]] if first else list(ids)
