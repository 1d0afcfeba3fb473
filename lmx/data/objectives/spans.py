"""Span corruption (Raffel et al. 2020, section 3.1.4): spans leave the source, and the target names them in order.

    tokens  Thank you for inviting me to your party last week
    source  Thank you <X> me to your party <Y> week </s>
    target  <X> for inviting <Y> last </s>

<X>, <Y> and so on are sentinels: the last ids of the vocabulary, counted down; each document begins again with <X>.
"""

import numpy as np
from jaxtyping import Bool, Int64

from lmx.data.objectives.randomness import draw_uniform, ranks_within
from lmx.data.objectives.rows import Key, Rows, check_rows, pieces_of

NOISE_DENSITY = 0.15
MEAN_SPAN = 3.0
_NOISE, _REST = 30, 31  # streams: where spans end, and where what lies between them ends


def spans(
    rows: Rows,
    key: Key,
    *,
    pad_id: int,
    eos_id: int,
    start_id: int,
    vocab_size: int,
    num_sentinels: int,
    source_length: int,
    target_length: int,
    noise_density: float = NOISE_DENSITY,
    mean_span: float = MEAN_SPAN,
) -> Rows:
    """Returns source and target of rows whose spans were taken out, each segment for itself.

    A segment's last `eos_id` is taken off, and both of its sides end with one. Documents that no longer fit into a side
    are left out of both: none is cut, and none loses its target alone. Lengths by `input_and_target_lengths` hold one
    document exactly.

    Args:
        pad_id: behind the rows, and the label where nothing counts.
        start_id: what the decoder reads before the first token of a document.
        vocab_size: the sentinels are its last `num_sentinels` ids.
        source_length, target_length: of the rows that are returned.
        noise_density: share of the tokens that are taken out.
        mean_span: mean length of a span.

    Raises:
        ValueError: a document takes more sentinels than there are.
    """
    check_rows(rows)
    check_noise(noise_density, mean_span)
    lead, width = rows["tokens"].shape[:-1], rows["tokens"].shape[-1]
    tokens = rows["tokens"].reshape(-1)
    # A document's own end is none of its tokens here: it would be in the last span of each.
    segments = rows["segments"]
    ends = segments != np.concatenate([segments[..., 1:], np.zeros_like(segments[..., :1])], axis=-1)
    open_rows = {"segments": np.where(ends & (rows["tokens"] == eos_id), 0, segments)}
    pieces = pieces_of(open_rows, key)
    is_noise, number = noise_mask(
        pieces.sizes, (key[0], pieces.index, pieces.segment), noise_density=noise_density, mean_span=mean_span
    )
    if number.max(initial=0) > num_sentinels:
        raise ValueError(
            f"a document must have at most num_sentinels={num_sentinels} spans, got {number.max()}. Use shorter rows, "
            "longer spans, or more sentinels."
        )
    begins_span = (
        is_noise & np.concatenate([[True], ~is_noise[:-1] | (pieces.of[1:] != pieces.of[:-1])])[: is_noise.size]
    )
    span_of = np.cumsum(begins_span) - 1
    firsts = np.searchsorted(pieces.of, np.arange(pieces.sizes.size))  # a piece has a token at least
    before = np.concatenate([[0], np.cumsum(begins_span)])[firsts]
    sentinel = vocab_size - 1 - (span_of - before[pieces.of])

    def write(emitted: Int64[np.ndarray, " N"], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns for each token where in its row what it emits begins, for each piece where its end is, and its start.

        Args:
            emitted: how many places of the side each token takes.
        """
        sizes = np.bincount(pieces.of, weights=emitted, minlength=pieces.sizes.size).astype(np.int64) + 1
        upto = np.cumsum(sizes)
        first_of_row = np.searchsorted(pieces.row, pieces.row)
        start = upto - sizes - np.concatenate([[0], upto])[first_of_row]
        within = np.concatenate([[0], np.cumsum(emitted)])[:-1]
        within = within - within[firsts][pieces.of]
        return start[pieces.of] + within, start + sizes - 1, start

    in_source, in_target = (~is_noise | begins_span).astype(np.int64), is_noise + begins_span.astype(np.int64)
    source_at, source_end, source_start = write(in_source, source_length)
    target_at, target_end, target_start = write(in_target, target_length)
    # What is left out is at the end of a row: each piece begins behind the one before it.
    fits = (source_end < source_length) & (target_end < target_length)
    fits &= _all_before(fits, pieces.row)
    token_fits, row_of = fits[pieces.of], pieces.row[pieces.of]
    made = {
        name: np.zeros((tokens.size // width, size), np.int32) for name, size in _sides(source_length, target_length)
    }
    made["source"][:] = made["target"][:] = made["decoder_input"][:] = pad_id

    def put(side: str, rows_at: np.ndarray, at: np.ndarray, values: np.ndarray | int, which: np.ndarray) -> None:
        made[side][rows_at[which], at[which]] = values[which] if isinstance(values, np.ndarray) else values

    read = tokens[pieces.flat]
    put("source", row_of, source_at, np.where(begins_span, sentinel, read), token_fits & (in_source > 0))
    put("source", pieces.row, source_end, eos_id, fits)
    put("target", row_of, target_at, sentinel, token_fits & begins_span)
    put("target", row_of, target_at + begins_span, read, token_fits & is_noise)
    put("target", pieces.row, target_end, eos_id, fits)
    for side, start, end in (("source", source_start, source_end), ("target", target_start, target_end)):
        sizes = np.where(fits, end - start + 1, 0)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        where = np.repeat(pieces.row, sizes), np.repeat(start, sizes) + place
        made[f"{side}_positions"][where] = place
        made[f"{side}_segments"][where] = np.repeat(pieces.segment, sizes)
    begins = made["target_positions"] == 0
    shifted = np.roll(made["target"], 1, axis=1)
    made["decoder_input"] = np.where(made["target_segments"] > 0, np.where(begins, start_id, shifted), pad_id)
    return {name: array.astype(np.int32).reshape(*lead, -1) for name, array in made.items()}


def noise_mask(
    sizes: Int64[np.ndarray, " P"],
    key: tuple[int, Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]],
    *,
    noise_density: float = NOISE_DENSITY,
    mean_span: float = MEAN_SPAN,
) -> tuple[Bool[np.ndarray, " N"], Int64[np.ndarray, " P"]]:
    """Returns of the tokens of some documents, one after another, which are taken out, and the number of spans of each.

    The number of tokens that are taken out is rounded, as is that of the spans; how they are cut into spans, and the
    rest into what lies between, is uniform over all ways to cut. A document begins with what stays and ends with a
    span. Source: T5's `random_spans_noise_mask`.

    Args:
        sizes: tokens of each; one of a single token keeps it.
        key: the seed, and of each document the number of its row and its number there.
    """
    noise = np.clip(np.round(sizes * noise_density), 1, None).astype(np.int64)
    noise = np.minimum(noise, sizes - 1)
    number = np.clip(np.round(noise / mean_span), 1, None).astype(np.int64)
    number = np.minimum(number, np.minimum(noise, sizes - noise))
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

    lengths = np.stack([cut(sizes - noise, _REST), cut(noise, _NOISE)], axis=1).reshape(-1)
    # A document without a span is one part that stays.
    alone = np.flatnonzero(number == 0)
    at = np.cumsum(2 * number)[alone]
    lengths = np.insert(lengths, at, sizes[alone])
    flags = np.insert(np.tile([False, True], number.sum()), at, False)
    return np.repeat(flags, lengths), number


def input_and_target_lengths(
    raw: int, *, noise_density: float = NOISE_DENSITY, mean_span: float = MEAN_SPAN, documents: int = 1
) -> tuple[int, int]:
    """Returns the places that source and target take of so many raw tokens, their ends included.

    Args:
        documents: of a row, of equal lengths, each with ends and sentinels of its own.
    """
    check_noise(noise_density, mean_span)
    each = max(raw // documents, 2)
    noise = min(max(round(each * noise_density), 1), each - 1)
    number = min(max(round(noise / mean_span), 1), noise, each - noise)
    return documents * (each - noise + number + 1), documents * (noise + number + 1)


def raw_length(
    source: int, *, noise_density: float = NOISE_DENSITY, mean_span: float = MEAN_SPAN, documents: int = 1
) -> int:
    """Returns how many raw tokens fill a source of this length: T5 reads 568 for a source of 512, and a target of 114.

    Source: T5's `compute_input_and_target_lengths`.

    Raises:
        ValueError: the source is too short for a document of two tokens.
    """
    options = {"noise_density": noise_density, "mean_span": mean_span, "documents": documents}
    raw = source
    if input_and_target_lengths(2 * documents, **options)[0] > source:
        raise ValueError(f"a source must have room for {documents} documents of two tokens, got source={source}.")
    while input_and_target_lengths(raw, **options)[0] > source:
        raw -= 1
    while input_and_target_lengths(raw + 1, **options)[0] <= source:
        raw += 1
    return raw


def check_noise(noise_density: float, mean_span: float) -> None:
    """Checks the two numbers.

    Raises:
        ValueError: one cannot be.
    """
    if not 0 < noise_density < 1:
        raise ValueError(f"noise_density must be over 0 and below 1, got noise_density={noise_density}.")
    if mean_span < 1:
        raise ValueError(f"mean_span must be at least 1, got mean_span={mean_span}.")


def _sides(source: int, target: int) -> list[tuple[str, int]]:
    sides = [(f"source{part}", source) for part in ("", "_segments", "_positions")]
    return [*sides, ("decoder_input", target), *((f"target{part}", target) for part in ("", "_segments", "_positions"))]


def _all_before(fits: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns of each piece whether all of its row up to it fit."""
    failed = np.concatenate([[0], np.cumsum(~fits)])
    first_of_row = np.searchsorted(row, row)
    return failed[1:] - failed[first_of_row] == 0
