"""Predicting what comes next: all of a text, what follows a prefix, or what follows a separator."""

import numpy as np

from lmx.data.objectives.randomness import draw_uniform
from lmx.data.objectives.rows import IGNORED, Key, Rows, check_rows, pieces_of

_PREFIX = 10  # the stream of prefix lengths


def causal(rows: Rows, key: Key | None = None, *, pad_id: int, start_id: int | None = None) -> Rows:
    """Returns rows that predict each token from those before it in the same segment.

    Without a start, W tokens give W - 1 predictions: the first token of each segment is predicted by nobody, which is
    what a stream wants, whose rows begin anywhere. With one, each segment is read from `start_id` on, and all of its W
    tokens are predicted. Tokens that do not count (`counts` 0, where rows have it) are read, not predicted: there the
    label is `IGNORED`.

    Args:
        key: has no part in it.
        pad_id: fills rows.
        start_id: what stands before the first token of a segment.
    """
    check_rows(rows)
    tokens, segments, positions = rows["tokens"], rows["segments"], rows["positions"]
    counted = rows.get("counts", np.ones_like(tokens)) > 0
    if start_id is None:
        counts = (segments[..., 1:] == segments[..., :-1]) & (segments[..., 1:] > 0) & counted[..., 1:]
        return {
            "tokens": tokens[..., :-1],
            "labels": np.where(counts, tokens[..., 1:], IGNORED).astype(np.int32),
            "segments": segments[..., :-1],
            "positions": positions[..., :-1],
        }
    before = np.roll(tokens, 1, axis=-1)
    begins = segments != np.roll(segments, 1, axis=-1)
    begins[..., 0] = True
    read = np.where(begins, start_id, before)
    return {
        "tokens": np.where(segments > 0, read, pad_id).astype(np.int32),
        "labels": np.where((segments > 0) & counted, tokens, IGNORED).astype(np.int32),
        "segments": segments,
        "positions": positions,
    }


def prefix(rows: Rows, key: Key, *, pad_id: int) -> Rows:
    """Returns rows whose segments begin with a prefix that all of the segment sees; what follows is predicted.

    A segment of n tokens has a prefix of 1 to n - 1, each as likely; `prefix` is True on it.
    Source: Raffel et al. 2020, "Exploring the limits of transfer learning", sections 3.2.1 and 3.2.3.
    """
    made = causal(rows, pad_id=pad_id)
    seed, _ = key
    pieces = pieces_of(rows, key)
    share = draw_uniform(seed, pieces.index, pieces.segment, stream=_PREFIX)
    sizes = 1 + (share * np.maximum(pieces.sizes - 1, 0)).astype(np.int64)
    sizes = np.minimum(sizes, np.maximum(pieces.sizes - 1, 1))
    inside = np.zeros(pieces.total, bool)
    inside[pieces.flat] = pieces.place < np.repeat(sizes, pieces.sizes)
    inside = inside.reshape(rows["tokens"].shape)
    made["labels"] = np.where(inside[..., 1:], IGNORED, made["labels"]).astype(np.int32)
    made["prefix"] = inside[..., :-1]
    return made


def pairs(rows: Rows, key: Key | None = None, *, pad_id: int, separator_id: int) -> Rows:
    """Returns rows that predict what follows the first separator of each segment: of source and target, the target.

    So a decoder translates: source, separator and target are one document. The separator itself is not predicted, and
    a segment without one counts nothing.
    """
    made = causal(rows, pad_id=pad_id)
    tokens, segments = rows["tokens"], rows["segments"]
    is_separator = (tokens == separator_id) & (segments > 0)
    seen = np.cumsum(is_separator, axis=-1)
    begins = segments != np.roll(segments, 1, axis=-1)
    begins[..., 0] = True
    # Separators that stand before the segment do not count in it.
    earlier = np.maximum.accumulate(np.where(begins, seen - is_separator, 0), axis=-1)
    behind = (seen - earlier)[..., :-1] > 0  # the token that reads is the separator or behind it
    made["labels"] = np.where(behind, made["labels"], IGNORED).astype(np.int32)
    return made
