"""Texts of examples as ids: special tokens, pairs, truncation and windows, and the arrays of a batch.

What the labels mean is `lmx.data.labels`'s; how rows become batches of few shapes is `lmx.data.batches`'s.
"""

from array import array
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64

from lmx.data.labelled import Examples
from lmx.data.labels import Labels, Targets
from lmx.data.ragged import padded_rows
from lmx.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodedExamples:
    """Texts as ids in one flat array: row i is `tokens[offsets[i]:offsets[i + 1]]`. A text has one row, or windows.

    A row is `first a separator`, or `first a separator b separator` for a pair, as in Devlin et al. 2019.

    Attributes:
        first_lengths: Tokens of each row up to the first separator, that one counted: those of type 0.
        targets: Of each row, as `Labels.encode` makes them; None for texts to predict.
        weights: Of each row: 1 divided by the rows of its text, so that a loss counts texts and not windows.
        indices: Position of each row's text in the `Examples` it was encoded from.
        num_texts: How many texts there are; no more than rows.
        num_truncated: Texts that lost tokens, of `num_texts`.
        pad_id: Of the tokenizer.
        origin: Where the texts were read.
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

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.indices)

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
        stride: Cuts long texts into windows that begin so many tokens apart, instead of truncating; the last one ends
            where the text does. Not for pairs.
        first_id: Id before every row; None for the tokenizer's `bos_id`.
        separator_id: Id behind every text; None for the tokenizer's `eos_id`.

    Raises:
        ValueError: max_length leaves no room for a text, or the stride leaves a gap between windows.
    """
    pairs = examples.are_pairs
    room = max_length - (3 if pairs else 2)
    if room < (2 if pairs else 1):
        raise ValueError(
            f"max_length must be at least {5 if pairs else 3}, special tokens counted, got max_length={max_length}."
        )
    if stride is not None and pairs:
        raise ValueError(f"stride must be None for pairs of texts, got stride={stride}. Truncate them.")
    if stride is not None and not 1 <= stride <= room:
        raise ValueError(f"stride must be from 1 to the {room} tokens of a window, got stride={stride}.")
    first = tokenizer.bos_id if first_id is None else first_id
    separator = tokenizer.eos_id if separator_id is None else separator_id
    # Grown in machine integers: lists of Python's would take ten times the memory.
    flat, offsets, firsts, indices = array("i"), array("q", [0]), array("q"), array("q")
    num_truncated = 0
    for index, text in enumerate(examples.texts):
        sides = [tokenizer.encode(side) for side in ((text,) if isinstance(text, str) else text)]
        if sum(map(len, sides)) <= room:
            rows = [sides]
        elif stride is None:
            num_truncated += 1
            rows = [_truncated(sides, room=room)]
        else:
            (ids,) = sides
            last = -(-(len(ids) - room) // stride) * stride
            rows = [[ids[begin : begin + room]] for begin in range(0, last + 1, stride)]
        for row in rows:
            flat.append(first)
            for side in row:
                flat.extend(side)
                flat.append(separator)
            offsets.append(len(flat))
            firsts.append(2 + len(row[0]))
            indices.append(index)
    positions = np.array(indices, dtype=np.int64)
    return EncodedExamples(
        tokens=np.array(flat, dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int64),
        first_lengths=np.array(firsts, dtype=np.int64),
        targets=None if labels is None else labels.encode(examples)[positions],
        weights=(1 / np.bincount(positions, minlength=1)[positions]).astype(np.float32),
        indices=positions,
        num_texts=len(examples),
        num_truncated=num_truncated,
        pad_id=tokenizer.pad_id,
        origin=examples.origin,
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


def _truncated(sides: list[list[int]], *, room: int) -> list[list[int]]:
    """Cuts the ends off one text or two until they fit: off the longer, and of two equal ones off the second."""
    if len(sides) == 1:
        return [sides[0][:room]]
    first = min(len(sides[0]), max(room - len(sides[1]), (room + 1) // 2))
    return [sides[0][:first], sides[1][: room - first]]
