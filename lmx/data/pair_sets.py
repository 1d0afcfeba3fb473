"""The pairs of a translation experiment: to learn from, to validate on, and to test; and which of them are held out.

A source sentence that stands in several pairs is on one side of every cut, so that nothing is tested that was learned.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from lmx.data.embedded import phrasebook
from lmx.data.encoded import Corpus, find_pairs
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
        dev_share: share of train to hold out if there is no validation set.
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
        check_locations(self, embedded=PHRASEBOOK, way_out="say --validation None to hold out a share of train.")
        check_folds(self.folds, test=self.test)

    @property
    def are_cut(self) -> bool:
        """Whether some pairs of train are not learned from."""
        return self.folds is not None or self.validation is None

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
        """
        test = None if self.test is None else self.read(self.test, split="test")
        if self.validation is not None and not self.are_cut:
            return PairSets(self.find(), self.read(self.validation, split="validation"), test)
        whole = self.read(self.train, split="train")
        train = np.arange(len(whole))
        if fold is not None and self.folds is not None:
            train, tested = self._cut(whole, train, fold=fold)
            test = whole.select(tested, name=f"fold {fold} of {self.folds}")
        if self.validation is not None:
            validation = self.read(self.validation, split="validation")
        else:
            train, held_out = self._cut(whole, train)
            validation = whole.select(held_out, name="held out")
        return PairSets(whole.select(train), validation, test)

    @property
    def _languages(self) -> dict[str, Any]:
        return {"source_language": self.source_language, "target_language": self.target_language}

    def _cut(
        self, whole: Pairs, places: Int64[np.ndarray, " pairs"], *, fold: int | None = None
    ) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held_out"]]:
        """Returns which of some pairs are kept and which are a fold, or a share that is held out."""
        numbers: dict[str, int] = {}
        texts = list(whole.sources)
        source = np.array([numbers.setdefault(texts[place], len(numbers)) for place in places.tolist()])
        least = 2 if self.folds is None else self.folds
        if len(numbers) < least:
            raise InputError(
                f"{whole.origin} must hold at least {least} different source sentences to be cut, got {len(numbers)}."
            )
        alike = np.zeros(len(numbers), np.int32)
        if fold is not None:
            _, held_out = folds(alike, num_folds=least, seed=self.split_seed)[fold - 1]
        else:
            _, held_out = stratified_split(alike, share=self.dev_share, seed=self.split_seed, unit="source sentence")
        is_held_out = np.isin(source, held_out)
        return places[~is_held_out], places[is_held_out]
