"""Texts of examples as ids: special tokens, pairs, truncation and windows, and the arrays of a batch.

What the labels mean is `lmx.data.labels`'s; how rows become batches of few shapes is `lmx.data.batches`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64

from lmx.data.encoding import Ids, chunks_of, encode_texts
from lmx.data.labelled import Examples, sides_of
from lmx.data.labels import Labels, Targets
from lmx.data.ragged import padded_rows
from lmx.text import Tokenizer, num_separators


@dataclass(frozen=True, kw_only=True)
class EncodedExamples:
    """Texts as ids in one flat array: row i is `tokens[offsets[i]:offsets[i + 1]]`. A text has one row, or windows.

    A row is `first a separator`, or `first a separator b separator` for a pair, as in Devlin et al. 2019; a tokenizer
    can ask for several separators between the texts of a pair, as RoBERTa has them.

    Attributes:
        first_lengths: Tokens of each row up to the second text, the separators before it counted: those of type 0.
        targets: Of each row, as `Labels.encode` makes them; None for texts to predict.
        weights: Of each row: 1 divided by the rows of its text, so that a loss counts texts and not windows.
        indices: Position of each row's text in the `Examples` it was encoded from.
        num_texts: How many texts there are; no more than rows.
        num_truncated: Texts that lost tokens, of `num_texts`.
        pad_id: Of the tokenizer.
        origin: Where the texts were read.
        digest: Hash of the arrays, where they were kept (`lmx.data.encoded`).
    """

    unit: ClassVar[str] = "text"
    shorten: ClassVar[str] = "Encode the texts"
    num_sides: ClassVar[int] = 1

    tokens: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " rows_and_one"]
    first_lengths: Int64[np.ndarray, " rows"]
    targets: Targets | None
    weights: Float32[np.ndarray, " rows"]
    indices: Int64[np.ndarray, " rows"]
    num_texts: int
    num_truncated: int
    pad_id: int
    origin: str
    digest: str | None = None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.indices)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells these rows and their labels from others."""
        rows = (self.tokens, self.offsets) if self.digest is None else ([self.digest],)
        return rows if self.targets is None else (*rows, self.targets)

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row, special ones counted."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together, special ones counted, without padding."""
        return self.tokens.size

    def count_tokens(self, items: Int[np.ndarray, " items"]) -> int:
        """Returns the tokens of some rows together."""
        return int((self.offsets[items + 1] - self.offsets[items]).sum())

    def batch(self, items: Int[np.ndarray, "*rows"], *, length: int) -> dict[str, np.ndarray]:
        """Makes the arrays of some rows, given by position; a position of -1 is a row that does not count.

        `tokens` [*rows, L] and `types` [*rows, L] (0, and 1 in the second text of a pair), int32; `weights` [*rows]
        (0 where the row does not count), float32; `index` [*rows], the position of the row's text or -1, int32;
        `labels` [*rows] or [*rows, C], where there are any.
        """
        exists = items >= 0
        lengths = np.where(exists, self.offsets[items + 1] - self.offsets[items], 0)
        positions = np.arange(length)
        second = (positions >= self.first_lengths[items][..., None]) & (positions < lengths[..., None])
        arrays = {
            "tokens": padded_rows(self.tokens, self.offsets, items, length=length, pad_id=self.pad_id),
            "types": second.astype(np.int32),
            "weights": np.where(exists, self.weights[items], np.float32(0)),
            "index": np.where(exists, self.indices[items], -1).astype(np.int32),
        }
        if self.targets is not None:
            labels = self.targets[items]
            labels[~exists] = 0
            arrays["labels"] = labels
        return arrays


def encode_examples(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    labels: Labels | None = None,
    stride: int | None = None,
    first_id: int | None = None,
    separator_id: int | None = None,
) -> EncodedExamples:
    """Encodes texts, and what is longer than `max_length` as the head of it or as windows.

    A pair that is too long loses tokens from the end of its longer text until it fits (the second, where they are
    equal).

    Args:
        examples: Texts, or pairs.
        tokenizer: Of both texts of a pair.
        max_length: Most tokens of a row, special ones counted.
        labels: Encodes the labels with these; None leaves them out.
        stride: Cuts long texts into windows that begin this many tokens apart, instead of truncating; the last one ends
            where the text does. Not for pairs.
        first_id: Id before every row; None for the tokenizer's `bos_id`.
        separator_id: Id behind every text; None for the tokenizer's `eos_id`.

    Raises:
        ValueError: max_length leaves no room for a text, or the stride leaves a gap between windows.
    """
    layout = lay_out(
        tokenizer,
        pairs=examples.are_pairs,
        max_length=max_length,
        stride=stride,
        first_id=first_id,
        separator_id=separator_id,
    )
    chunks = chunks_of(map(sides_of, examples.texts))
    parts = [layout.rows([encode_texts(side, tokenizer) for side in chunk]) for chunk in chunks]
    begins = np.cumsum([0, *(part.num_texts for part in parts)])
    lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
    return encoded_examples(
        examples,
        tokenizer,
        labels=labels,
        tokens=np.concatenate([np.empty(0, np.int32), *(part.tokens for part in parts)]),
        offsets=np.cumsum(lengths),
        first_lengths=np.concatenate([np.empty(0, np.int64), *(part.first_lengths for part in parts)]),
        indices=np.concatenate(
            [np.empty(0, np.int64), *(part.texts + begin for part, begin in zip(parts, begins, strict=False))]
        ),
        num_truncated=sum(part.num_truncated for part in parts),
    )


class Rows(NamedTuple):
    """Rows made of some texts.

    Attributes:
        tokens: Ids of the rows one after another.
        lengths: Of the rows.
        first_lengths: Of each row's first part, with the special ids.
        texts: Position of each row's text.
    """

    tokens: Int32[np.ndarray, " tokens"]
    lengths: Int64[np.ndarray, " rows"]
    first_lengths: Int64[np.ndarray, " rows"]
    texts: Int64[np.ndarray, " rows"]
    num_texts: int
    num_truncated: int


class Layout(NamedTuple):
    """How rows are made of texts; `lay_out` checks it.

    Attributes:
        room: Most tokens of a row without special ones.
        stride: Between the beginnings of windows; None truncates.
        first_id: Before every row.
        separator_id: Behind every text.
        between: How many separators stand between the two texts of a pair.
    """

    room: int
    stride: int | None
    first_id: int
    separator_id: int
    between: int = 1

    def rows(self, sides: Sequence[Ids]) -> Rows:
        """Returns the rows of texts whose sides, one or two, are given as ids: without a loop over rows."""
        lengths = [found for _, found in sides]
        num_texts = len(lengths[0])
        total = np.sum(lengths, axis=0)
        texts = np.arange(num_texts)
        begins = [np.cumsum(found) - found for found in lengths]
        if self.stride is not None:
            windows = np.where(total <= self.room, 1, -(-(total - self.room) // self.stride) + 1)
            texts = np.repeat(texts, windows)
            skipped = (np.arange(len(texts)) - np.repeat(np.cumsum(windows) - windows, windows)) * self.stride
            begins = [begins[0][texts] + skipped]
            taken = [np.minimum(self.room, lengths[0][texts] - skipped)]
        elif len(sides) == 1:
            taken = [np.minimum(lengths[0], self.room)]
        else:
            # Off the longer, and of two equal ones off the second.
            first = np.minimum(lengths[0], np.maximum(self.room - lengths[1], (self.room + 1) // 2))
            taken = [first, np.minimum(lengths[1], self.room - first)]
        puts = [self.between] * (len(sides) - 1) + [1]  # separators behind each side
        row_lengths = 1 + sum(puts) + np.sum(taken, axis=0)
        ends = np.cumsum(row_lengths)
        tokens = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int32)
        place = ends - row_lengths + 1
        tokens[place - 1] = self.first_id
        for (ids, _), begin, number, separators in zip(sides, begins, taken, puts, strict=True):
            within = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
            tokens[np.repeat(place, number) + within] = ids[np.repeat(begin, number) + within]
            place = place + number
            for _ in range(separators):
                tokens[place] = self.separator_id
                place = place + 1
        truncated = 0 if self.stride is not None else int((total > self.room).sum())
        return Rows(tokens, row_lengths, 1 + puts[0] + taken[0], texts, num_texts, truncated)


def lay_out(
    tokenizer: Tokenizer,
    *,
    pairs: bool,
    max_length: int,
    stride: int | None = None,
    first_id: int | None = None,
    separator_id: int | None = None,
) -> Layout:
    """Returns how `encode_examples` makes rows, given the same.

    Raises:
        ValueError: max_length leaves no room for a text, or the stride leaves a gap between windows.
    """
    between = num_separators(tokenizer) if pairs else 1
    special = 2 + between if pairs else 2
    room, least = max_length - special, special + (2 if pairs else 1)
    if max_length < least:
        raise ValueError(f"max_length must be at least {least}, special tokens counted, got max_length={max_length}.")
    if stride is not None and pairs:
        raise ValueError(f"stride must be None for pairs of texts, got stride={stride}. Truncate them.")
    if stride is not None and not 1 <= stride <= room:
        raise ValueError(f"stride must be from 1 to the {room} tokens of a window, got stride={stride}.")
    first = tokenizer.bos_id if first_id is None else first_id
    separator = tokenizer.eos_id if separator_id is None else separator_id
    return Layout(room, stride, first, separator, between)


def encoded_examples(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    labels: Labels | None,
    indices: Int64[np.ndarray, " rows"],
    **rows: Any,
) -> EncodedExamples:
    """Returns encoded examples of rows and the position of each row's text; `rows` has the other fields of rows."""
    counts = np.bincount(indices, minlength=1)
    return EncodedExamples(
        targets=None if labels is None else labels.encode(examples)[indices],
        weights=(1 / counts[indices]).astype(np.float32),
        indices=indices,
        num_texts=len(examples),
        pad_id=tokenizer.pad_id,
        origin=examples.origin,
        **rows,
    )


def average_rows(
    outputs: Float[np.ndarray, "rows *C"], index: Int[np.ndarray, " rows"], *, num_texts: int
) -> Float[np.ndarray, "texts *C"]:
    """Returns one output a text, in the order of the texts: the mean over its windows.

    Args:
        outputs: What a model says of each row, in any order.
        index: Position of each row's text, as batches have it; rows of -1 are left out.
        num_texts: How many texts there are.

    Raises:
        ValueError: a text has no row.
    """
    counts = np.bincount(index[index >= 0], minlength=num_texts)
    if len(counts) > num_texts or not counts.all():
        missing = np.flatnonzero(counts == 0)[:1].tolist()
        raise ValueError(
            f"index must name each of the {num_texts:,} texts and no other, got "
            f"{f'no row of text {missing[0]}' if missing else f'text {len(counts) - 1}'}."
        )
    sums = np.zeros((num_texts, *outputs.shape[1:]))
    np.add.at(sums, index[index >= 0], outputs[index >= 0])
    return (sums / counts.reshape(-1, *[1] * (outputs.ndim - 1))).astype(outputs.dtype)


def described(examples: Examples, encoded: EncodedExamples) -> str:
    """Returns how many texts there are, from where, and what was cut or is empty."""
    parts = [f"{examples.origin}: {len(examples):,}"]
    if len(encoded) > encoded.num_texts:
        parts.append(f"in {len(encoded):,} windows")
    if encoded.num_truncated:
        share = encoded.num_truncated / encoded.num_texts
        parts.append(f"{encoded.num_truncated:,} ({share:.1%}) cut to the longest length")
    if examples.empty:
        parts.append(f"{examples.empty:,} without words")
    return ", ".join(parts)
