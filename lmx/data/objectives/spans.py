"""Span corruption (Raffel et al. 2020, section 3.1.4): spans leave the source, and the target names them in order.

    tokens  Thank you for inviting me to your party last week
    source  Thank you <X> me to your party <Y> week </s>
    target  <X> for inviting <Y> last </s>

<X>, <Y> and so on are sentinels: the last ids of the vocabulary, counted down; each document begins again with <X>.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from lmx.data.objectives.randomness import draw_uniform, ranks_within
from lmx.data.objectives.rows import Key, Pieces, Rows, check_rows, pieces_of

_NOISE, _REST = 30, 31  # streams: where spans end, and where what lies between them ends


class Noise(NamedTuple):
    """How much of a document is taken out.

    Attributes:
        density: share of the tokens.
        mean_span: mean length of a span.
    """

    density: float = 0.15
    mean_span: float = 3.0

    def check(self) -> None:
        """Checks the two numbers.

        Raises:
            ValueError: one cannot be.
        """
        if not 0 < self.density < 1:
            raise ValueError(f"the density of noise must be over 0 and below 1, got density={self.density}.")
        if self.mean_span < 1:
            raise ValueError(f"mean_span must be at least 1, got mean_span={self.mean_span}.")


T5_NOISE = Noise()


class Special(NamedTuple):
    """Ids that are no words.

    Attributes:
        pad: behind the rows, and the label where nothing counts.
        end: of a document.
        start: what the decoder reads before the first token of a document.
    """

    pad: int
    end: int
    start: int


class _Side(NamedTuple):
    """Where the pieces of rows stand in one of their sides.

    Attributes:
        at: of each token the place of what it puts there.
        start, end: of each piece its first place, and that of its end.
    """

    at: Int64[np.ndarray, " N"]
    start: Int64[np.ndarray, " P"]
    end: Int64[np.ndarray, " P"]


def spans(
    rows: Rows,
    key: Key,
    *,
    special: Special,
    vocab_size: int,
    num_sentinels: int,
    lengths: tuple[int, int],
    noise: Noise = T5_NOISE,
) -> Rows:
    """Returns source and target of rows whose spans were taken out, each segment for itself.

    A segment's last end of document is taken off, and both of its sides end with one. Documents that no longer fit into
    a side are left out of both: none is cut, and none loses its target alone. Lengths by `input_and_target_lengths`
    hold one document exactly.

    Args:
        vocab_size: the sentinels are its last `num_sentinels` ids.
        lengths: of source and target.

    Raises:
        ValueError: a document takes more sentinels than there are.
    """
    check_rows(rows)
    noise.check()
    tokens, segments = rows["tokens"], rows["segments"]
    # A document's own end is none of its tokens here: it would be in the last span of each.
    following = np.concatenate([segments[..., 1:], np.zeros_like(segments[..., :1])], axis=-1)
    is_end = (segments != following) & (tokens == special.end)
    pieces = pieces_of({"segments": np.where(is_end, 0, segments)}, key)
    is_noise, number = noise_mask(pieces.sizes, (key[0], pieces.index, pieces.segment), noise=noise)
    if number.max(initial=0) > num_sentinels:
        raise ValueError(
            f"a document must have at most num_sentinels={num_sentinels} spans, got {number.max()}. Use shorter rows, "
            "longer spans, or more sentinels."
        )
    begins = is_noise.copy()
    begins[1:] &= ~is_noise[:-1] | (pieces.of[1:] != pieces.of[:-1])
    spans_before = np.concatenate([[0], np.cumsum(number)])[:-1]
    sentinels = vocab_size - np.cumsum(begins) + spans_before[pieces.of]
    source = _lay_out(pieces, ~is_noise | begins)
    target = _lay_out(pieces, is_noise.astype(np.int64) + begins)
    fits = (source.end < lengths[0]) & (target.end < lengths[1])
    failed = np.concatenate([[0], np.cumsum(~fits)])
    fits = failed[1:] == failed[np.searchsorted(pieces.row, pieces.row)]  # and all before it in the row

    number_of_rows = tokens[..., 0].size
    row, kept, words = pieces.row[pieces.of], fits[pieces.of], tokens.reshape(-1)[pieces.flat]
    made: Rows = {}
    for name, side, length in (("source", source, lengths[0]), ("target", target, lengths[1])):
        side_tokens = np.full((number_of_rows, length), special.pad, np.int32)
        if name == "source":
            which = kept & (~is_noise | begins)
            side_tokens[row[which], side.at[which]] = np.where(begins, sentinels, words)[which]
        else:
            which = kept & is_noise
            side_tokens[row[which], (side.at + begins)[which]] = words[which]
            which = kept & begins
            side_tokens[row[which], side.at[which]] = sentinels[which]
        side_tokens[pieces.row[fits], side.end[fits]] = special.end
        made[name] = side_tokens
        made |= _packing(name, pieces, side, fits, like=side_tokens)
    before = np.roll(made["target"], 1, axis=1)
    before[made["target_positions"] == 0] = special.start
    made["decoder_input"] = np.where(made["target_segments"] > 0, before, special.pad).astype(np.int32)
    return {name: array.reshape(*tokens.shape[:-1], -1) for name, array in made.items()}


def _lay_out(pieces: Pieces, puts: np.ndarray) -> _Side:
    """Returns where everything stands in a side: pieces one behind the other, each followed by its end.

    Args:
        puts: how many places of the side each token takes.
    """
    upto = np.cumsum(puts)
    sizes = np.bincount(pieces.of, weights=puts, minlength=pieces.sizes.size).astype(np.int64) + 1
    ends = np.cumsum(sizes)
    before_row = np.concatenate([[0], ends])[np.searchsorted(pieces.row, pieces.row)]
    start = ends - sizes - before_row
    within = upto - puts - (ends - sizes - np.arange(sizes.size))[pieces.of]
    return _Side(at=start[pieces.of] + within, start=start, end=start + sizes - 1)


def _packing(name: str, pieces: Pieces, side: _Side, fits: Bool[np.ndarray, " P"], *, like: np.ndarray) -> Rows:
    """Returns segments and positions of a side."""
    sizes = np.where(fits, side.end - side.start + 1, 0)
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    where = np.repeat(pieces.row, sizes), np.repeat(side.start, sizes) + place
    segments, positions = np.zeros_like(like), np.zeros_like(like)
    segments[where], positions[where] = np.repeat(pieces.segment, sizes), place
    return {f"{name}_segments": segments, f"{name}_positions": positions}


def noise_mask(
    sizes: Int64[np.ndarray, " P"],
    key: tuple[int, Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]],
    *,
    noise: Noise = T5_NOISE,
) -> tuple[Bool[np.ndarray, " N"], Int64[np.ndarray, " P"]]:
    """Returns of the tokens of some documents, one after another, which are taken out, and the number of spans of each.

    The number of tokens that are taken out is rounded, as is that of the spans; how they are cut into spans, and the
    rest into what lies between, is uniform over all ways to cut. A document begins with what stays and ends with a
    span. Source: T5's `random_spans_noise_mask`.

    Args:
        sizes: tokens of each; one of a single token keeps it.
        key: the seed, and of each document the number of its row and its number there.
    """
    taken = np.clip(np.round(sizes * noise.density), 1, None).astype(np.int64)
    taken = np.minimum(taken, sizes - 1)
    number = np.clip(np.round(taken / noise.mean_span), 1, None).astype(np.int64)
    number = np.minimum(number, np.minimum(taken, sizes - taken))
    seed, index, segment = key

    def cut(totals: np.ndarray, stream: int) -> np.ndarray:
        """Returns the lengths of `number` parts of each total, one after another; none is empty."""
        slots = np.maximum(totals - 1, 0)  # a part may end after each item but the last
        piece = np.repeat(np.arange(totals.size), slots)
        place = np.arange(slots.sum()) - np.repeat(np.cumsum(slots) - slots, slots)
        # Numbers of documents and places in one: neither reaches 2^31.
        at = segment[piece] << 32 | place
        ranks = ranks_within(piece, draw_uniform(seed, index[piece], at, stream=stream))
        is_end = ranks < (number - 1)[piece]
        ends = np.concatenate([place[is_end] + 1, totals[number > 0]])
        of = np.concatenate([piece[is_end], np.flatnonzero(number > 0)])
        order = np.lexsort((ends, of))
        ends, of = ends[order], of[order]
        begins = np.concatenate([[0], np.where(of[1:] == of[:-1], ends[:-1], 0)])[: ends.size]
        return ends - begins

    lengths = np.stack([cut(sizes - taken, _REST), cut(taken, _NOISE)], axis=1).reshape(-1)
    # A document without a span is one part that stays.
    alone = np.flatnonzero(number == 0)
    at = np.cumsum(2 * number)[alone]
    lengths = np.insert(lengths, at, sizes[alone])
    flags = np.insert(np.tile([False, True], number.sum()), at, False)
    return np.repeat(flags, lengths), number


def input_and_target_lengths(raw: int, *, noise: Noise = T5_NOISE, documents: int = 1) -> tuple[int, int]:
    """Returns the lengths of source and target for a number of raw tokens, with their ends.

    Args:
        documents: of a row, of equal lengths, each with ends and sentinels of its own.
    """
    each = max(raw // documents, 2)
    taken, number = count_spans(each, noise=noise)
    return documents * (each - taken + number + 1), documents * (taken + number + 1)


def count_spans(size: int, *, noise: Noise = T5_NOISE) -> tuple[int, int]:
    """Returns how many tokens are taken out of a document of at least two, and in how many spans."""
    noise.check()
    taken = min(max(round(size * noise.density), 1), size - 1)
    return taken, min(max(round(taken / noise.mean_span), 1), taken, size - taken)


def raw_length(source: int, *, noise: Noise = T5_NOISE, documents: int = 1) -> int:
    """Returns how many raw tokens fill a source of this length: T5 reads 568 for a source of 512, and a target of 114.

    Source: T5's `compute_input_and_target_lengths`.

    Raises:
        ValueError: the source is too short for a document of two tokens.
    """

    def taken(raw: int) -> int:
        return input_and_target_lengths(raw, noise=noise, documents=documents)[0]

    if taken(2 * documents) > source:
        raise ValueError(f"a source must have room for {documents} documents of two tokens, got source={source}.")
    raw = source
    while taken(raw) > source:
        raw -= 1
    while taken(raw + 1) <= source:
        raw += 1
    return raw
