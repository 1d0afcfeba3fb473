"""How well text is predicted: loss and perplexity a token, perplexity a word, bits a byte.

Only bits a byte, and perplexity a word of the same words, compare models of different vocabularies.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Extent(NamedTuple):
    """How much text was predicted: its tokens, ends of documents counted, its words and its bytes."""

    tokens: int
    words: int
    bytes: int


class LanguageScore(NamedTuple):
    """Scores of a text, of one model or of several: arrays [S].

    Attributes:
        loss: nats a token, the mean negative log-likelihood.
        perplexity: e to the loss.
        word_perplexity: e to the nats a word.
        bits_per_byte: of UTF-8.
    """

    loss: float | Float[np.ndarray, " S"]
    perplexity: float | Float[np.ndarray, " S"]
    word_perplexity: float | Float[np.ndarray, " S"]
    bits_per_byte: float | Float[np.ndarray, " S"]


def score_tokens(nll: float | Float[np.ndarray, " S"], extent: Extent) -> LanguageScore:
    """Returns the scores of a text.

    Args:
        nll: mean negative log-likelihood of its tokens, in nats.
        extent: of the text that these tokens are. Where a few tokens are not predicted, such as the first of a stream,
            they count as the mean of the others.

    Raises:
        ValueError: there is no text.
    """
    if min(extent) < 1:
        raise ValueError(f"a text must have a token, a word and a byte to be scored, got {extent}.")
    total = nll * extent.tokens
    with np.errstate(over="ignore"):
        return LanguageScore(
            loss=nll,
            perplexity=_exp(nll),
            word_perplexity=_exp(total / extent.words),
            bits_per_byte=total / math.log(2) / extent.bytes,
        )


def _exp(value: float | Float[np.ndarray, " S"]) -> float | Float[np.ndarray, " S"]:
    return np.exp(value) if np.ndim(value) else float(np.exp(value))
