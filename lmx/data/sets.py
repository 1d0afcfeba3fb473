"""The sets of a classification: texts to learn from, to choose the best step on, and to report on.

Where sets are read from and what is held out where one is not given is one record, part of an experiment's config.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import tyro

from lmx.data.cache import Cache
from lmx.data.encoded import keep_examples
from lmx.data.labelled import Examples, check_alike, count_shared
from lmx.data.labels import Kind, Labels
from lmx.data.reading import Reading, ReadingChanges
from lmx.data.roles import check_folds, check_locations
from lmx.data.splits import folds, split_wholes, stratified_split
from lmx.data.standard_library import standard_library
from lmx.data.texts import EncodedExamples, described, encode_examples
from lmx.errors import InputError
from lmx.text import Tokenizer

# Fields that earlier versions had not, and what does as they did.
READ_LATER = {f"reading.{name}": None for name in ("delimiter", "quoting", "field_limit")}
STDLIB = "stdlib"  # as a location: sentences of the running Python's library, which have splits of their own


class Sets(NamedTuple):
    """The texts of a run, where there are any, and what their labels are."""

    train: Examples
    dev: Examples
    test: Examples | None
    to_label: Examples | None
    labels: Labels

    def encode(self, tokenizer: Tokenizer, *, max_length: int, stride: int | None, cache: Cache) -> "EncodedSets":
        """Returns the texts as rows of ids; those to learn from and to choose on are kept in the cache."""
        rows: dict[str, Any] = {"max_length": max_length, "stride": stride}
        kept = {"cache": cache, "labels": self.labels, **rows}
        test = to_label = None
        if self.test is not None:
            test = encode_examples(self.test, tokenizer, labels=self.labels, **rows)
        if self.to_label is not None:
            to_label = encode_examples(self.to_label, tokenizer, **rows)
        train, dev = (keep_examples(each, tokenizer, **kept) for each in (self.train, self.dev))
        return EncodedSets(train, dev, test, to_label)

    def facts(self, encoded: "EncodedSets") -> dict[str, str]:
        """Returns what a run says of its texts at its start."""
        tested = "none"
        if self.test is not None and encoded.test is not None:
            shared = count_shared(self.train, self.test)
            tested = f"{described(self.test, encoded.test)}, {shared:,} of them letter for letter in training"
        return {
            "training_texts": described(self.train, encoded.train),
            "development_texts": described(self.dev, encoded.dev),
            "test_texts": tested,
            "labels": f"{self.labels.kind}" + (f": {', '.join(self.labels.names)}" if self.labels.names else ""),
        }


class EncodedSets(NamedTuple):
    """The texts of a run as rows of ids."""

    train: EncodedExamples
    dev: EncodedExamples
    test: EncodedExamples | None
    to_label: EncodedExamples | None


@dataclass(frozen=True, kw_only=True)
class LocationsConfig:
    """Where the sets of a classification are, and what to hold out where one is not given.

    Attributes:
        train: the labelled data to learn from.
        validation: the labelled data that chooses the best step; None holds out a share of train.
        test: the labelled data to score the finished model on; None scores nothing, except that embedded data has a
            test set of its own.
        predict: data without labels, which the finished model labels into labelled.tsv.
        dev_share: share of train to hold out if there is no validation set.
        split_seed: seed that decides what is held out of train, and the folds.
        folds: number of parts of train; each is the test set of a run that learns from the others. Replaces a test set.
    """

    train: str
    validation: str | None = None
    test: str | None = None
    predict: str | None = None
    dev_share: float = 0.1
    split_seed: int = 0
    folds: int | None = None

    embedded: ClassVar[str | None] = None  # the location that has a part of its own for each set

    def check(self) -> None:
        """Checks what one field alone does not show; not in `__post_init__`, whose errors tyro prints as a box.

        Raises:
            InputError: sets that must differ do not, or exclude each other.
        """
        way_out = "leave validation out to hold out a share of train."
        check_locations(self, embedded=self.embedded, way_out=way_out)
        check_folds(self.folds, test=self.test)

    def say_fewer(self, sets: Any, *, report: Callable[[str], None]) -> None:
        """Says where a development set is larger than its share.

        Args:
            sets: the sets, such as `Sets`.
        """
        if self.validation is None and round(self.dev_share * (len(sets.train) + len(sets.dev))) == 0:
            unit = sets.train.unit
            report(
                f"the development set takes {'an' if unit[0] in 'aeiou' else 'a'} {unit} and not --dev-share "
                f"{self.dev_share:g}: that is none"
            )

    def split_fold(self, learned: Any, labels: Labels, *, fold: int | None) -> tuple[Any, Any]:
        """Returns what is learned from, and the fold that is the test set; without folds all, and None."""
        if fold is None or self.folds is None:
            return learned, None
        kept, held_out = folds(labels.encode(learned), num_folds=self.folds, seed=self.split_seed)[fold - 1]
        return learned.select(kept), learned.select(held_out)

    def hold_out(self, learned: Any, labels: Labels) -> tuple[Any, Any]:
        """Returns what is learned from, and the share of it that is held out, each class with its share."""
        settings: dict[str, Any] = {"share": self.dev_share, "seed": self.split_seed}
        kept, held_out = stratified_split(labels.encode(learned), unit=learned.unit, **settings)
        return learned.select(kept), learned.select(held_out)


@dataclass(frozen=True, kw_only=True)
class SetsConfig(LocationsConfig):
    """The texts of an experiment: to learn from, to choose the best step, to test, and to label.

    Attributes:
        train: texts with labels to learn from: a .csv, .tsv, .jsonl or .txt, plain or .gz, `hub:ID:SPLIT`, or `stdlib`.
        validation: texts with labels that choose the best step; None holds out a share of train, or takes the set that
            `stdlib` has.
        test: texts with labels that the finished model is scored on; None scores nothing, or takes the set that
            `stdlib` has.
        predict: texts without labels, which the finished model labels into labelled.tsv.
        reading: how to read all files.
        test_reading: how the files of test and predict are read otherwise.
        kind: kind of the labels; None takes `multi` where texts have several, else `single`, and never `regression`.
        dev_of: what to hold out of train: any texts, or wholes, which are part of no other text. Parts of held-out
            wholes that no other whole has leave train too. Use wholes for sets with phrases beside their sentences.
    """

    train: str = STDLIB
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    test_reading: ReadingChanges = field(default_factory=ReadingChanges)
    kind: Kind | None = None
    dev_of: Literal["texts", "wholes"] = "texts"

    embedded: ClassVar[str | None] = STDLIB

    def check(self) -> None:
        """Checks what one field alone does not show.

        Raises:
            InputError: sets that must differ do not, or exclude each other.
        """
        super().check()
        if self.dev_of == "wholes" and (self.validation is not None or self.train == STDLIB or self.folds is not None):
            raise InputError(
                "dev_of must be texts unless a share of train is held out and there are no folds, got dev_of=wholes "
                f"with train={self.train}, validation={self.validation} and folds={self.folds}."
            )

    @property
    def reading_of_test(self) -> Reading:
        """How to read the files of test and predict: as all files, except for what `test_reading` changes."""
        return self.reading.changed_by(self.test_reading)

    def load(self, *, fold: int | None = None, cache: Cache | None = None) -> Sets:
        """Finds all texts and makes the splits that are not given; the test set has no part in any choice.

        Args:
            fold: which fold is the test set, from 1.
            cache: where training texts are kept.

        Raises:
            FileNotFoundError: a file or dataset is not there.
            ValueError: the data is not what this says; names the file and the line.
        """
        if self.train == STDLIB and fold is None:
            own = {"validation": self.validation or STDLIB, "test": self.test or STDLIB}
            if own != {"validation": self.validation, "test": self.test}:
                return replace(self, **own).load(cache=cache)
        learned = _read(self.train, self.reading, split="train", cache=cache)
        labels = Labels.of(learned, kind=self.kind)
        to_label = None
        learned, test = self.split_fold(learned, labels, fold=fold)
        if fold is None and self.test is not None:
            test = _read(self.test, self.reading_of_test, split="test")
        if self.validation is not None:
            dev = _read(self.validation, self.reading, split="validation")
        elif self.dev_of == "wholes":
            settings: dict[str, Any] = {"share": self.dev_share, "seed": self.split_seed}
            kept, held_out = split_wholes(learned.texts, labels.encode(learned), **settings)
            learned, dev = learned.select(kept), learned.select(held_out)
        else:
            learned, dev = self.hold_out(learned, labels)
        if self.predict is not None:
            to_label = self.reading_of_test.read(self.predict, labelled=False)
        check_alike(learned, dev, test, to_label)
        return Sets(learned, dev, test, to_label, labels)


def _read(
    location: str, reading: Reading, *, split: Literal["train", "validation", "test"], cache: Cache | None = None
) -> Examples:
    return standard_library(split) if location == STDLIB else reading.read(location, cache=cache)
