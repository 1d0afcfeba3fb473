"""The labels of a task: their names in a fixed order, and their conversion to numbers and back.

For a loss, a label becomes the number of a class, a row of zeros and ones, or a real number. `lmx.data.labelled` reads
labels, and `lmx.data.splits` makes splits that keep their shares.
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64

from lmx.data.labelled import Label
from lmx.errors import InputError

Kind = Literal["single", "multi", "regression"]
# Numbers of classes, rows of zeros and ones, or real numbers, by the kind.
Targets = Int32[np.ndarray, " texts"] | Float32[np.ndarray, "texts C"] | Float32[np.ndarray, " texts"]


@runtime_checkable
class Labelled(Protocol):
    """The items of a classification: `Examples`, or `lmx.data.images.Images`.

    Attributes:
        unit: name of one item in messages.
    """

    unit: ClassVar[str]

    @property
    def origin(self) -> str:
        """Where the items were read."""
        ...

    @property
    def labels(self) -> "Sequence[Label] | None":
        """As they stand in the data."""
        ...

    @property
    def lines(self) -> Int64[np.ndarray, " texts"]:
        """Line or number of each, from 1."""
        ...

    def __len__(self) -> int:
        """Returns how many there are."""
        ...

    def place(self, index: int) -> str:
        """Returns where one stands, for messages."""
        ...

    def shown(self, index: int) -> dict[str, Any]:
        """Returns what a list of mistakes shows of one."""
        ...

    def select(self, indices: Int[np.ndarray, " chosen"] | Sequence[int]) -> Any:
        """Returns those at some positions."""
        ...

    def joined(self, others: Sequence[Any]) -> Any:
        """Returns these and others behind them, without labels."""
        ...


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels that a model knows; its run keeps them, because they define its outputs.

    Attributes:
        kind: `single`: each text has one class; `multi`: any number of them; `regression`: a real number.
        names: Of the classes, in the order of the outputs; none for regression.
    """

    kind: Kind
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the names are distinct and as many as the kind needs."""
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise ValueError(f"names must be distinct, got {twice[0]!r} twice.")
        least = {"single": 2, "multi": 1, "regression": 0}[self.kind]
        if len(self.names) < least or (self.names and self.kind == "regression"):
            raise ValueError(f"names must be {least or 'none'} or more for kind={self.kind}, got names={self.names}.")

    @classmethod
    def of(cls, examples: Labelled, *, kind: Kind | None = None) -> "Labels":
        """Collects the labels of a training set: by value if all are numbers, else by code point.

        Args:
            examples: The training set, with any part that becomes its development set.
            kind: None for `multi` where texts have several labels, else `single`; `regression` must be asked for.

        Raises:
            ValueError: there is one class only, or nearly as many as texts; names the file.
        """
        labels = _labels_of(examples)
        several = isinstance(labels[0], tuple)
        if kind is None:
            kind = "multi" if several else "single"
        if several != (kind == "multi"):
            one = "several labels a text" if several else "one label a text"
            way_out = " A table needs --label-separator, records need lists." if kind == "multi" else ""
            raise ValueError(f"{examples.origin} must have labels of kind={kind}, got {one}.{way_out}")
        if kind == "regression":
            return cls(kind=kind)
        names = {name for label in labels for name in ((label,) if isinstance(label, str) else label)}
        if not names:
            raise ValueError(
                f"{examples.origin} must have a label, got none in all {len(examples):,} {examples.unit}s."
            )
        if len(names) < 2 and kind == "single":
            raise ValueError(
                f"{examples.origin} must have at least two classes, got {next(iter(names))!r} in all "
                f"{len(examples):,} {examples.unit}s."
            )
        if kind == "single" and len(names) > max(20, len(examples) / 2):
            raise ValueError(
                f"{examples.origin} must have classes that recur, got {len(names):,} different labels in "
                f"{len(examples):,} {examples.unit}s, such as {min(names)!r:.60}. Name another "
                "--label-column, or say --kind regression for numbers."
            )
        return cls(kind=kind, names=tuple(_ordered(names)))

    @classmethod
    def from_json(cls, text: str) -> "Labels":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            fields: Any = json.loads(text)
            kind, names = fields["kind"], tuple(map(str, fields["names"]))
        except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'labels must be a record {{"kind": ..., "names": [...]}}, got {text!r:.60}.') from error
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got kind={kind}.")
        return cls(kind=kind, names=names)

    @classmethod
    def from_file(cls, path: Path) -> "Labels":
        """Reads the labels.json of a run.

        Raises:
            ValueError: the file holds something else; names it.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} must hold the labels of its run: {error} Bring it back from a copy.") from error

    def save(self, folder: Path) -> None:
        """Writes labels.json, which `from_file` reads."""
        (folder / "labels.json").write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Returns one line for the run's folder."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a model needs: one per class, or a single one for regression."""
        return 1 if self.kind == "regression" else len(self.names)

    def encode(self, examples: Labelled) -> Targets:
        """Returns the labels as numbers: of classes [texts], zeros and ones [texts, C], or real numbers [texts].

        Raises:
            ValueError: a label is not among these (names the line and the nearest), or not of this kind.
        """
        labels = _labels_of(examples)
        for index, label in enumerate(labels):
            if isinstance(label, tuple) != (self.kind == "multi"):
                wanted = "a list of labels" if self.kind == "multi" else "one label"
                raise ValueError(f"{examples.place(index)} must have {wanted}, as in training, got {label!r:.60}.")
        if self.kind == "regression":
            values = [_real(str(label), place=examples.place(index)) for index, label in enumerate(labels)]
            return np.array(values, dtype=np.float32)
        ids = {name: number for number, name in enumerate(self.names)}
        if self.kind == "single":
            numbers = np.empty(len(labels), dtype=np.int32)
            for index, label in enumerate(labels):
                numbers[index] = self._id(ids, str(label), examples=examples, index=index)
            return numbers
        rows = np.zeros((len(labels), len(self.names)), dtype=np.float32)
        for index, label in enumerate(labels):
            for name in label:
                rows[index, self._id(ids, name, examples=examples, index=index)] = 1
        return rows

    def decode(self, targets: Targets) -> list[Label]:
        """Returns the labels of numbers; the inverse of `encode`."""
        if self.kind == "single":
            return [self.names[number] for number in targets]
        if self.kind == "multi":
            return [tuple(name for name, one in zip(self.names, row, strict=True) if one) for row in targets]
        return [repr(float(value)) for value in targets]

    def _id(self, ids: dict[str, int], name: str, *, examples: Labelled, index: int) -> int:
        if name in ids:
            return ids[name]
        nearest = difflib.get_close_matches(name, self.names, n=1, cutoff=0)
        hint = f" The nearest is {nearest[0]!r}."
        numbers = [each for each in self.names if _is_number(each)]
        if _is_number(name) and (same := [each for each in numbers if float(each) == float(name)]):
            hint = f" It is the number {same[0]!r}, written in another way: write it in all files as in training."
        elif len(numbers) == (0 if _is_number(name) else len(self.names)):
            here, there = ("number", "words") if _is_number(name) else ("word", "numbers")
            hint = f" It is a {here} and those are {there}: the files must name labels alike."
        shown = ", ".join(map(repr, self.names[:10])) + (", ..." if len(self.names) > 10 else "")
        raise ValueError(f"{examples.place(index)} must have a label of training ({shown}), got {name!r:.60}.{hint}")


def _labels_of(examples: Labelled) -> Sequence[Label]:
    if not examples.labels:
        raise ValueError(
            f"{examples.origin} must have labels, got {examples.unit}s alone. Name their column by --label-column."
        )
    return examples.labels


def _ordered(names: set[str]) -> list[str]:
    if all(map(_is_number, names)):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _real(label: str, *, place: str) -> float:
    if not _is_number(label):
        raise ValueError(f"{place} must have a real number as its label, got {label!r:.60}.")
    if abs(float(label)) > float(np.finfo(np.float32).max):
        raise ValueError(f"{place} must have a label that float32 holds, got {label!r:.60}. Choose another unit.")
    return float(label)


def balanced_weights(targets: Targets, labels: Labels) -> Float[np.ndarray, " C"]:
    """Returns a weight for each class: the number of its texts if all classes were equally common, over the real one.

    With several labels per text: the number of texts without the label over the number with it.

    Raises:
        InputError: the labels are no classes.
    """
    if labels.kind == "regression":
        raise InputError("optimization.class_weights must be none for real numbers, got class_weights=balanced.")
    if labels.kind == "multi":
        counts = targets.sum(0)
        return ((len(targets) - counts) / np.maximum(counts, 1)).astype(np.float32)
    counts = np.bincount(targets, minlength=len(labels.names))
    return (counts.sum() / (len(labels.names) * np.maximum(counts, 1))).astype(np.float32)
