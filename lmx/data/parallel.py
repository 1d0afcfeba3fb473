"""Sentence pairs: what they are, encoded and filtered; which file they are read from, `lmx.data.pair_files` knows.

Here a pair is two strings or two rows of ids. How rows become batches is `lmx.data.batches`'s; pairs that need no file
come from `lmx.data.embedded`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from lmx.data.encoding import encode_texts
from lmx.data.pair_files import iterate_pairs
from lmx.data.ragged import ended_rows, padded_rows, select_rows
from lmx.text import Tokenizer
from lmx.token_list import end_of_source


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Sentences and their translations, in the order of their file.

    Attributes:
        sources: One sentence each.
        targets: Their translations.
        origin: Where they were read, for messages and reports.
        empty: How many pairs have a side without text; they are dropped, or kept where `kept_empty` says so.
        kept_empty: Whether they are kept, as a test set's are.
        places: Where these pairs stand in the whole that they are a part of; None of a whole.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    origin: str
    empty: int = 0
    kept_empty: bool = False
    places: Int64[np.ndarray, " pairs"] | None = None

    def __post_init__(self) -> None:
        """Checks that the sides are parallel."""
        if len(self.sources) != len(self.targets):
            raise ValueError(
                f"sources and targets must be parallel, got {len(self.sources):,} sources and {len(self.targets):,} "
                "targets."
            )

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.sources)

    def select(self, places: Int64[np.ndarray, " pairs"], *, name: str, empty: int = 0) -> "Pairs":
        """Returns a part of these pairs.

        Args:
            name: of the part, for messages.
            empty: pairs with an empty side that count as dropped from this part.
        """
        return replace(
            self,
            sources=[self.sources[place] for place in places.tolist()],
            targets=[self.targets[place] for place in places.tolist()],
            origin=f"{self.origin}, {name}",
            empty=empty,
            places=places,
        )

    @property
    def identity(self) -> tuple[Sequence[str], ...]:
        """What tells these pairs from others."""
        return self.sources, self.targets


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Pairs as ids, each side one flat array: pair i is `source[source_offsets[i]:source_offsets[i + 1]]`.

    Both sides end with `eos_id`, and every length counts it.

    Attributes:
        indices: Position of each pair in the `Pairs` it was encoded from, which filtering leaves alone.
        pad_id: Of both tokenizers.
        bos_id: Of the target tokenizer: what the decoder starts from.
        empty: How many pairs were dropped before because a side held no text.
        digest: Hash of the arrays, where they were kept (`lmx.data.encoded`).
        longer: The longer side of each pair, kept with them.
    """

    unit: ClassVar[str] = "pair"
    shorten: ClassVar[str] = "Filter the pairs"
    num_sides: ClassVar[int] = 2

    source: Int32[np.ndarray, " source_tokens"]
    source_offsets: Int64[np.ndarray, " pairs_and_one"]
    target: Int32[np.ndarray, " target_tokens"]
    target_offsets: Int64[np.ndarray, " pairs_and_one"]
    indices: Int64[np.ndarray, " pairs"]
    pad_id: int
    bos_id: int
    origin: str
    empty: int = 0
    digest: str | None = None
    longer: Int32[np.ndarray, " pairs"] | None = None

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.indices)

    @property
    def identity(self) -> str | tuple[np.ndarray, ...]:
        """What tells these pairs from others: their hash, or where they were not kept, what it would be of."""
        return self.digest or (self.source, self.source_offsets, self.target, self.target_offsets)

    @property
    def source_lengths(self) -> Int64[np.ndarray, " pairs"]:
        """Source tokens of each pair, with the end of sentence."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> Int64[np.ndarray, " pairs"]:
        """Target tokens of each pair, with the end of sentence."""
        return np.diff(self.target_offsets)

    @property
    def lengths(self) -> Int[np.ndarray, " pairs"]:
        """The longer side of each pair: what decides its bucket."""
        return self.longer if self.longer is not None else np.maximum(self.source_lengths, self.target_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of both sides together, with the ends of sentences, without padding."""
        return self.source.size + self.target.size

    def count_tokens(self, items: Int[np.ndarray, " items"]) -> int:
        """Returns the source and target tokens of some pairs together."""
        return sum(int((side[items + 1] - side[items]).sum()) for side in (self.source_offsets, self.target_offsets))

    def batch(self, items: Int[np.ndarray, "*rows"], *, length: int) -> dict[str, Int32[np.ndarray, "*rows L"]]:
        """Makes the arrays of some pairs, given by position; a position of -1 is a row of padding.

        Both sides are padded: `source`, `decoder_input` (begin of sentence, then the target without its end), `target`
        (with its end).
        """
        source = padded_rows(self.source, self.source_offsets, items, length=length, pad_id=self.pad_id)
        target = padded_rows(self.target, self.target_offsets, items, length=length, pad_id=self.pad_id)
        decoder_input = np.full_like(target, self.pad_id)
        lengths = np.where(items < 0, 0, self.target_offsets[items + 1] - self.target_offsets[items])[..., None]
        np.copyto(decoder_input[..., 1:], target[..., :-1], where=np.arange(1, length) < lengths)
        np.copyto(decoder_input[..., :1], self.bos_id, where=lengths > 0)
        return {"source": source, "decoder_input": decoder_input, "target": target}


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What `filter_pairs` kept and why it dropped the rest; `str` of it is one line for a log.

    A pair is counted once, under the first reason that holds, in the order of these fields.
    """

    kept: int
    without_tokens: int
    too_long: int
    too_uneven: int
    max_length: int | None
    max_ratio: float | None

    @property
    def dropped(self) -> int:
        """Pairs dropped for any reason."""
        return self.without_tokens + self.too_long + self.too_uneven

    def check(self, origin: str) -> None:
        """Raises ValueError if no pair of an origin is left."""
        if not self.kept:
            raise ValueError(f"at least one pair of {origin} must pass the filter, got none: {self}.")

    def __str__(self) -> str:
        """Returns for instance `kept 28,990 of 29,000 pairs (dropped 10 longer than 64 tokens)`."""
        reasons = [
            f"{self.without_tokens:,} without a token on one side" if self.without_tokens else "",
            f"{self.too_long:,} longer than {self.max_length} tokens" if self.too_long else "",
            f"{self.too_uneven:,} with one side over {self.max_ratio} times the other" if self.too_uneven else "",
        ]
        total = self.kept + self.dropped
        if not self.dropped:
            return f"kept all {total:,} pairs"
        return f"kept {self.kept:,} of {total:,} pairs (dropped {', '.join(filter(None, reasons))})"


def read_pairs(
    location: str | Path,
    *,
    source_language: str,
    target_language: str,
    encoding: str = "utf-8",
    keep_empty: bool = False,
) -> Pairs:
    """Reads sentence pairs from wherever `location` says, all of them, in order.

    - `train.{}.gz`: two files, the language in place of `{}`; a line of one translates the same line of the other.
    - `train.{en,de}`: the same, spelled out, source first. Quote it, or the shell takes it apart.
    - `train.en,train.de`: two files, source first.
    - `train.tsv` or `train.txt`: columns with tabs between, without quoting; two, source first, or more under a first
      row that names both languages.
    - `train.jsonl`: records `{"translation": {"en": ..., "de": ...}}` or `{"en": ..., "de": ...}`, one a line.
    - `hub:ID:SPLIT`: such records in a hub dataset, or in a local folder that `datasets` reads.
    - `hub:ID:CONFIGURATION:SPLIT`: the same, of a named configuration: `hub:wmt/wmt14:de-en:train[:1000]`.

    Files may be gzip. Pairs with a side of white space alone are counted, and dropped unless `keep_empty`.

    Args:
        location: See above.
        source_language: Name of the source side, where names stand in the data.
        target_language: Name of the target side.
        encoding: Of files; the hub is UTF-8.
        keep_empty: Keeps each pair in its place, for a test set: sacreBLEU scores all lines too.

    Raises:
        FileNotFoundError: a file or dataset is not there.
        ValueError: the data is not what the list says; names the file and, where there is one, the line.
    """
    rows = iterate_pairs(location, source_language=source_language, target_language=target_language, encoding=encoding)
    return _collect(rows, origin=str(location), keep_empty=keep_empty)


def encode_pairs(pairs: Pairs, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> EncodedPairs:
    """Encodes both sides and ends each sentence, a target with its tokenizer's `eos_id`, a source with `end_of_source`.

    Raises:
        ValueError: the tokenizers pad with different ids.
    """
    check_padding(source_tokenizer, target_tokenizer)
    source, source_offsets = _encode(pairs.sources, source_tokenizer, end_id=end_of_source(source_tokenizer))
    target, target_offsets = _encode(pairs.targets, target_tokenizer, end_id=target_tokenizer.eos_id)
    return EncodedPairs(
        source=source,
        source_offsets=source_offsets,
        target=target,
        target_offsets=target_offsets,
        indices=np.arange(len(pairs), dtype=np.int64),
        pad_id=target_tokenizer.pad_id,
        bos_id=target_tokenizer.bos_id,
        origin=pairs.origin,
        empty=pairs.empty,
    )


def filter_pairs(
    encoded: EncodedPairs, *, max_length: int | None = None, max_ratio: float | None = None
) -> tuple[EncodedPairs, FilterReport]:
    """Drops pairs without a token on one side, pairs too long, and pairs whose sides differ too much.

    Args:
        encoded: Stays as it is.
        max_length: Most tokens of either side, the end of sentence counted; None for no limit.
        max_ratio: Most tokens of the longer side for one of the shorter, the ends of sentences not counted, as Moses'
            `clean-corpus-n` does; None for no limit.

    Raises:
        ValueError: no pair is left.
    """
    keep, report = judge_lengths(
        encoded.source_lengths, encoded.target_lengths, max_length=max_length, max_ratio=max_ratio
    )
    report.check(encoded.origin)
    if not report.dropped:
        return encoded, report
    source, source_offsets = select_rows(encoded.source, encoded.source_offsets, keep)
    target, target_offsets = select_rows(encoded.target, encoded.target_offsets, keep)
    kept = replace(
        encoded,
        source=source,
        source_offsets=source_offsets,
        target=target,
        target_offsets=target_offsets,
        indices=encoded.indices[keep],
        longer=None,
    )
    return kept, report


def judge_lengths(
    source_lengths: Int64[np.ndarray, " pairs"],
    target_lengths: Int64[np.ndarray, " pairs"],
    *,
    max_length: int | None,
    max_ratio: float | None,
) -> tuple[Bool[np.ndarray, " pairs"], FilterReport]:
    """Returns which pairs `filter_pairs` keeps, by their lengths with the ends of sentences, and why."""
    if max_length is not None and max_length < 2:
        raise ValueError(
            f"max_length must be at least 2, a token and the end of sentence, got max_length={max_length}."
        )
    if max_ratio is not None and max_ratio < 1:
        raise ValueError(f"max_ratio must be at least 1, got max_ratio={max_ratio}.")
    shorter = np.minimum(source_lengths, target_lengths) - 1
    longer = np.maximum(source_lengths, target_lengths) - 1
    without_tokens = shorter == 0
    none = np.zeros(len(shorter), dtype=bool)  # not a limit of infinity, which is no number times nothing
    too_long = none if max_length is None else ~without_tokens & (longer + 1 > max_length)
    too_uneven = none if max_ratio is None else ~without_tokens & ~too_long & (longer > shorter * max_ratio)
    keep = ~(without_tokens | too_long | too_uneven)
    return keep, FilterReport(
        kept=int(keep.sum()),
        without_tokens=int(without_tokens.sum()),
        too_long=int(too_long.sum()),
        too_uneven=int(too_uneven.sum()),
        max_length=max_length,
        max_ratio=max_ratio,
    )


def check_padding(source_tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> None:
    """Raises ValueError if the two sides of a pair would be padded with different ids."""
    if source_tokenizer.pad_id != target_tokenizer.pad_id:
        raise ValueError(
            f"both tokenizers must have one pad_id, got {source_tokenizer.pad_id} for the source "
            f"and {target_tokenizer.pad_id} for the target."
        )


def _encode(
    texts: Sequence[str], tokenizer: Tokenizer, *, end_id: int
) -> tuple[Int32[np.ndarray, " tokens"], Int64[np.ndarray, " texts_and_one"]]:
    ids, lengths = encode_texts(texts, tokenizer)
    flat = ended_rows(ids, lengths, end_id=end_id)
    return flat, np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64)


def _collect(rows: Iterable[tuple[str, str]], *, origin: str, keep_empty: bool) -> Pairs:
    sources, targets, empty, full = [], [], 0, 0
    for source, target in rows:
        has_text = bool(source.strip() and target.strip())
        full += has_text
        empty += not has_text
        if has_text or keep_empty:
            sources.append(source)
            targets.append(target)
    if not full:
        held = f"{empty:,} pairs with an empty side" if empty else "nothing"
        raise ValueError(f"{origin} must hold at least one pair of sentences, got {held}.")
    return Pairs(sources=sources, targets=targets, origin=origin, empty=empty, kept_empty=keep_empty)


def joined(parts: Sequence[Pairs], *, origin: str) -> Pairs:
    """Returns the pairs of several parts of a whole, in its order.

    Args:
        origin: of the whole.

    Raises:
        ValueError: one of them is no part.
    """
    for part in parts:
        if part.places is None:
            raise ValueError(f"parts must know their places in a whole, got {part.origin}, which is one.")
    places = np.concatenate([part.places for part in parts if part.places is not None])
    order = np.argsort(places, kind="stable")
    sources, targets = ([text for part in parts for text in getattr(part, side)] for side in ("sources", "targets"))
    return Pairs(
        sources=[sources[index] for index in order],
        targets=[targets[index] for index in order],
        origin=origin,
        places=places[order],
    )


def described(pairs: Pairs | EncodedPairs, report: FilterReport | None = None) -> str:
    """Returns where pairs are from, how many are used, and what became of those with an empty side."""
    kept = f"{len(pairs):,} pairs" if report is None else str(report)
    if not pairs.empty:
        return f"{pairs.origin}: {kept}"
    left_out = "kept in their places" if isinstance(pairs, Pairs) and pairs.kept_empty else "left out"
    return f"{pairs.origin}: {kept}, {pairs.empty:,} with an empty side {left_out}"
