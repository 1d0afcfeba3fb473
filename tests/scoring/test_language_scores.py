import math

import numpy as np
import pytest

from lmx.scoring.language import Extent, score_tokens


def test_scores_are_what_their_names_say():
    scores = score_tokens(math.log(8), Extent(tokens=100, words=50, bytes=400))
    assert scores.loss == pytest.approx(math.log(8))
    assert scores.perplexity == pytest.approx(8)
    assert scores.word_perplexity == pytest.approx(64)  # two tokens a word
    assert scores.bits_per_byte == pytest.approx(0.75)  # three bits a token, four bytes a token


def test_several_models_are_scored_each_by_itself():
    scores = score_tokens(np.log([2.0, 4.0]), Extent(tokens=10, words=10, bytes=10))
    np.testing.assert_allclose(scores.perplexity, [2, 4])
    np.testing.assert_allclose(scores.bits_per_byte, [1, 2])


def test_a_loss_beyond_numbers_has_an_infinite_perplexity():
    assert score_tokens(800.0, Extent(tokens=10, words=1, bytes=10)).perplexity == math.inf


def test_no_text_has_no_score():
    with pytest.raises(ValueError, match="a text must have a token, a word and a byte to be scored"):
        score_tokens(1.0, Extent(tokens=10, words=0, bytes=10))
