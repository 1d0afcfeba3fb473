"""The pairs of a translation experiment: to learn from, to validate on, and to test; and which of them are held out.

A source sentence that stands in several pairs is on one side of every cut, so that nothing is tested that was learned.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmx.data.embedded import phrasebook
from lmx.data.encoded import Corpus, find_pairs
from lmx.data.files import is_read_once
from lmx.data.pair_files import files_of_pairs, two_files
from lmx.data.parallel import Pairs, read_pairs
from lmx.data.roles import check_folds, check_locations
from lmx.data.splits import folds, stratified_split
from lmx.errors import InputError

PHRASEBOOK = "phrasebook"  # as a location: the embedded grammar
CUT_LATER = {"dev_share": 0.1, "split_seed": 0, "folds": None}  # fields that configs of earlier versions lack
Split = Literal["train", "validation", "test"]


class PairSets(NamedTuple):
    """Pairs to learn from, to validate on, and to report on; those of an uncut file are not read before use."""

    train: Corpus | Pairs
    validation: Pairs
    test: Pairs | None


@dataclass(frozen=True, kw_only=True)
class PairSetsConfig:
    """Where pairs are, and what to hold out where a set is not given.

    Attributes:
        train: sentence pairs to learn from: two files as `train.{}.gz` or `train.en,train.de`, a .tsv or .jsonl, a
            hub dataset as `hub:ID:SPLIT`, or `phrasebook`.
        validation: sentence pairs to validate on, in the same forms; None holds out a share of train.
        test: sentence pairs to score the finished model on, in the same forms; None scores nothing.
        source_language: name of the source language in file names and records.
        target_language: name of the target language in file names and records.
        dev_share: share of train's different source sentences to hold out, with their pairs, if there is no validation
            set.
        split_seed: seed that decides what is held out of train, and the folds.
        folds: number of parts of train; each is the test set of a run that learns from the others. Replaces a test set.
    """

    train: str = PHRASEBOOK
    validation: str | None = PHRASEBOOK
    test: str | None = PHRASEBOOK
    source_language: str = "en"
    target_language: str = "de"
    dev_share: float = 0.1
    split_seed: int = 0
    folds: int | None = None

    def check(self) -> None:
        """Checks what one field alone does not show; not in `__post_init__`, whose errors tyro prints as a box.

        Raises:
            InputError: sets that must differ do not, or exclude each other.
        """
        languages = (self.source_language, self.target_language)
        check_locations(
            self,
            embedded=PHRASEBOOK,
            way_out="leave one out: --validation None, or --folds 5 --test None.",
            files_of=lambda location: two_files(location, languages=languages) or (location,),
        )
        check_folds(self.folds, test=self.test)

    def find(self) -> Corpus | Pairs:
        """Returns all pairs of train; those of files are read when they are asked for."""
        if self.train == PHRASEBOOK:
            return self.read(self.train, split="train")
        return find_pairs(self.train, **self._languages)

    def read(self, location: str, *, split: Split) -> Pairs:
        """Reads the pairs of a set."""
        if location == PHRASEBOOK:
            phrases = phrasebook(split)
            sources, targets = [each.source for each in phrases], [each.target for each in phrases]
            return Pairs(sources=sources, targets=targets, origin=f"phrasebook {split}")
        # A hypothesis for each line of the test set.
        return read_pairs(location, **self._languages, keep_empty=split == "test")

    def load(self, *, fold: int | None = None) -> PairSets:
        """Finds all pairs and holds out what is not given; the test set has no part in any choice.

        Args:
            fold: which fold is the test set, from 1.

        Raises:
            FileNotFoundError: a file or dataset is not there.
            ValueError: the data is not what this says; names the file and the line. Or it is too little to cut.
            InputError: folds are asked for of what can be read only once.
        """
        if self.folds is not None:
            self._check_files()
        train, held_out, test = self._cut_train(fold)
        if self.test is not None:
            test = self.read(self.test, split="test")
        # Where no validation set is named, one was held out.
        return PairSets(train, held_out or self.read(str(self.validation), split="validation"), test)

    def learned(self, *, fold: int | None = None) -> Corpus | Pairs:
        """Returns what is learned from alone; see `load`."""
        return self._cut_train(fold)[0]

    def _cut_train(self, fold: int | None) -> tuple[Corpus | Pairs, Pairs | None, Pairs | None]:
        """Returns what is learned from, and what is held out to validate on and to test, where it is."""
        if self.folds is None and self.validation is not None:
            return self.find(), None, None
        whole = self.read(self.train, split="train")
        places, validation, test, without = np.arange(len(whole)), None, None, "without those held out"
        if fold is not None and self.folds is not None:
            parts = _groups(whole, places, least=self.folds)
            _, held_out = folds(parts.alike, num_folds=self.folds, seed=self.split_seed)[fold - 1]
            places, tested = parts.apart(held_out)
            without = f"without fold {fold} of {self.folds}"
            test = whole.select(tested, name=f"fold {fold} of {self.folds}")
        if self.validation is None:
            parts = _groups(whole, places, least=2, beside="" if fold is None else f" beside fold {fold}")
            cut: dict[str, Any] = {"share": self.dev_share, "seed": self.split_seed, "unit": "source sentence"}
            places, held_out = parts.apart(stratified_split(parts.alike, **cut)[1])
            validation = whole.select(held_out, name="held out" if fold is None else f"held out beside fold {fold}")
        return whole.select(places, name=without, empty=whole.empty), validation, test

    def _check_files(self) -> None:
        """Checks that each fold can read the files again."""
        for name, location in (("train", self.train), ("validation", self.validation)):
            if location not in (None, PHRASEBOOK):
                for path in files_of_pairs(location, **self._languages):
                    if is_read_once(path):
                        raise InputError(
                            f"{name} must be read again for each fold, got the pipe {path}. Write it to a file first."
                        )

    @property
    def _languages(self) -> dict[str, Any]:
        return {"source_language": self.source_language, "target_language": self.target_language}


class _Groups(NamedTuple):
    """Some pairs by their source sentences: the places of the pairs, and the number of the source of each."""

    places: Int64[np.ndarray, " pairs"]
    source: Int64[np.ndarray, " pairs"]

    @property
    def alike(self) -> Int32[np.ndarray, " sources"]:
        """One class for all sources, for what splits by classes."""
        return np.zeros(int(self.source.max()) + 1, np.int32)

    def apart(
        self, sources: Int64[np.ndarray, " held_out"]
    ) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " others"]]:
        """Returns the places of pairs whose sources are not among some, and of those whose sources are."""
        is_held_out = np.isin(self.source, sources)
        return self.places[~is_held_out], self.places[is_held_out]


def _groups(whole: Pairs, places: Int64[np.ndarray, " pairs"], *, least: int, beside: str = "") -> _Groups:
    numbers: dict[str, int] = {}
    texts = list(whole.sources)
    source = np.array([numbers.setdefault(texts[place], len(numbers)) for place in places.tolist()], np.int64)
    if len(numbers) < least:
        raise InputError(
            f"{whole.origin} must hold at least {least} different source sentences{beside} to be cut, "
            f"got {len(numbers)}."
        )
    return _Groups(places, source)
