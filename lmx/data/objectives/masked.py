"""Predicting words that were taken out (Devlin et al. 2019, section 3.1)."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool

from lmx.data.objectives.randomness import draw_bits, draw_uniform
from lmx.data.objectives.rows import IGNORED, Key, Rows, check_rows

_WHICH, _HOW, _OTHER = 20, 21, 22  # streams: which are chosen, what becomes of them, which word comes instead


def masked(
    rows: Rows,
    key: Key,
    *,
    mask_id: int,
    words: tuple[int, int],
    special_ids: Collection[int] = (),
    share: float = 0.15,
    begins_word: Bool[np.ndarray, " V"] | None = None,
) -> Rows:
    """Returns rows of which a share of the tokens is to be predicted; 80% of them are masked, 10% are another token.

    The share is of each row, rounded: rows differ by less than a token, or a word. The last tenth of the chosen stays
    as it is, so that the model must make something of words that are there. Elsewhere the label is `IGNORED`.

    Args:
        words: (first, last + 1) of the ids that may come in the place of a token.
        special_ids: tokens that are never chosen, such as the end of a text.
        share: of the tokens that are chosen.
        begins_word: of each id whether a word begins with it; whole words are then chosen. None chooses tokens.

    Raises:
        ValueError: the share is none.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be over 0 and below 1, got share={share}.")
    check_rows(rows)
    seed, index = key
    tokens, segments = rows["tokens"], rows["segments"]
    lead, width = tokens.shape[:-1], tokens.shape[-1]
    may = (segments > 0) & ~np.isin(tokens, list(special_ids))
    row_of = np.broadcast_to(np.arange(tokens.size // width).reshape(*lead, 1), tokens.shape)[may]
    # Words: runs of tokens that may be chosen, begun by their first token, a new segment, or a gap.
    begins = np.ones(tokens.shape, bool)
    if begins_word is not None:
        follows = may[..., 1:] & may[..., :-1] & (segments[..., 1:] == segments[..., :-1])
        begins[..., 1:] = begins_word[tokens[..., 1:]] | ~follows
    word_of = np.cumsum(begins[may]) - 1
    firsts = np.flatnonzero(begins[may])
    sizes = np.bincount(word_of, minlength=firsts.size)
    rows_of_words = row_of[firsts]
    places = np.broadcast_to(np.arange(width), tokens.shape)
    numbers = np.broadcast_to(np.asarray(index, np.int64)[..., None], tokens.shape)
    which = draw_uniform(seed, numbers[may][firsts], places[may][firsts], stream=_WHICH)
    order = np.lexsort((which, rows_of_words))
    upto = np.cumsum(sizes[order])
    before_row = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=tokens.size // width))])
    budget = np.round(share * np.diff(before_row))
    # A word is taken while its middle lies within the row's budget: words of any length keep the share on average.
    rows_in_order = rows_of_words[order]
    taken = np.zeros(firsts.size, bool)
    taken[order] = upto - before_row[rows_in_order] - sizes[order] / 2 < budget[rows_in_order]
    chosen = np.zeros(tokens.shape, bool)
    chosen[may] = taken[word_of] if firsts.size else False

    how = draw_uniform(seed, numbers[chosen], places[chosen], stream=_HOW)
    first, end = words
    other = first + (draw_bits(seed, numbers[chosen], places[chosen], stream=_OTHER) % np.uint64(end - first)).astype(
        np.int64
    )
    changed = tokens.copy()
    changed[chosen] = np.where(how < 0.8, mask_id, np.where(how < 0.9, other, tokens[chosen]))
    return {
        "tokens": changed,
        "labels": np.where(chosen, tokens, IGNORED).astype(np.int32),
        "segments": segments,
        "positions": rows["positions"],
    }
