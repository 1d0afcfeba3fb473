"""Texts with labels, in memory or mapped.

Here a text is one string or a pair of strings, and a label is the label of the data as text. `lmx.data.labelled_files`
reads them, `lmx.data.labels` collects labels and turns them into numbers, and `lmx.data.texts` turns texts into ids,
with truncation and windows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64

from lmx.data.ragged import Strings
from lmx.data.tables import place_of
from lmx.errors import InputError

Text = str | tuple[str, str]
Label = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Texts and their labels, in the order of their file; no row is missing.

    Attributes:
        texts: One string each, or each a pair.
        labels: As they stand in the data, a number in its own spelling; a tuple where a text may have several; None
            for texts to predict.
        origin: Where they were read, for messages and reports.
        lines: Line of the file that each begins on, from 1 (of a hub dataset: its row, from 1).
        digest: Hash of the texts and the labels, where they were kept (`lmx.data.encoded`).
        hashes: Of each text, with `blank`, whether a side has only white space; kept with them too.
    """

    unit: ClassVar[str] = "text"

    texts: Sequence[Text]
    labels: Sequence[Label] | None
    origin: str
    lines: Int64[np.ndarray, " texts"]
    digest: str | None = None
    hashes: UInt64[np.ndarray, " texts"] | None = None
    blank: Bool[np.ndarray, " texts"] | None = None

    def __post_init__(self) -> None:
        """Checks that every text has its label and its line."""
        for name, values in (("labels", self.labels), ("lines", self.lines)):
            if values is not None and len(values) != len(self.texts):
                raise ValueError(
                    f"texts and {name} must be as many, got {len(self.texts):,} texts and {len(values):,} {name}."
                )

    def __len__(self) -> int:
        """Returns the number of texts."""
        return len(self.texts)

    @property
    def are_pairs(self) -> bool:
        """Whether the texts are pairs."""
        return bool(self.texts) and isinstance(self.texts[0], tuple)

    @property
    def empty(self) -> int:
        """Number of texts with nothing except white space on some side; they stay, and count in every score."""
        return int(self.blank.sum()) if self.blank is not None else sum(map(is_blank, self.texts))

    def place(self, index: int) -> str:
        """Returns where a text stands, for messages."""
        return place_of(self.origin, int(self.lines[index]))

    def shown(self, index: int) -> dict[str, Any]:
        """Returns what a list of mistakes shows of a text."""
        return {"text": self.texts[index]}

    def joined(self, others: "Sequence[Examples]") -> "Examples":
        """Returns these texts and others behind them, without labels."""
        sets = [self, *others]
        return Examples(
            texts=[text for each in sets for text in each.texts],
            labels=None,
            origin=self.origin,
            lines=np.concatenate([each.lines for each in sets]),
        )

    def select(self, indices: Int[np.ndarray, " chosen"] | Sequence[int]) -> "Examples":
        """Returns the texts at some positions, with their labels and lines."""
        chosen = np.asarray(indices, dtype=np.int64)
        part = hashlib.blake2b(chosen.tobytes(), digest_size=8).hexdigest()
        return replace(
            self,
            texts=_select(self.texts, chosen),
            labels=None if self.labels is None else _select(self.labels, chosen),
            lines=self.lines[chosen],
            digest=None if self.digest is None else f"{self.digest} {part}",
            hashes=None if self.hashes is None else self.hashes[chosen],
            blank=None if self.blank is None else self.blank[chosen],
        )


def count_shared(examples: Examples, others: Examples) -> int:
    """Returns how many of the second texts are among the first, letter for letter, and so test nothing."""
    found = [
        each.hashes if each.hashes is not None else np.array(list(map(hash_text, each.texts)), dtype=np.uint64)
        for each in (examples, others)
    ]
    return int(np.isin(found[1], found[0]).sum())


def check_alike(learned: Examples, *others: Examples | None) -> None:
    """Checks that all sets have pairs, or all single texts.

    Raises:
        InputError: they do not.
    """
    for split in others:
        if split is not None and split.are_pairs != learned.are_pairs:
            kinds = [f"{'pairs' if each.are_pairs else 'single texts'} in {each.origin}" for each in (learned, split)]
            raise InputError(f"all sets must hold pairs or all single texts, got {kinds[0]} and {kinds[1]}.")


def hash_text(text: Text) -> int:
    """Returns a hash of a text in 64 bits."""
    data = "\0".join(sides_of(text)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_blank(text: Text) -> bool:
    """Returns whether a text has nothing except white space on some side."""
    return not all(side.strip() for side in sides_of(text))


def _select(values: Sequence[Any], indices: Int64[np.ndarray, " chosen"]) -> Sequence[Any]:
    return values.select(indices) if isinstance(values, Strings) else [values[index] for index in indices.tolist()]


def sides_of(text: Text) -> tuple[str, ...]:
    """Returns the one string of a text, or the two of a pair."""
    return (text,) if isinstance(text, str) else text
