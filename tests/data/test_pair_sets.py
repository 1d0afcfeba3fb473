"""Which pairs are learned from, validated on and tested: every pair is tested once, and no source is on two sides."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from lmx.data.encoded import Corpus
from lmx.data.pair_sets import PairSetsConfig
from lmx.data.parallel import Pairs, joined
from lmx.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Forty pairs of thirty sources, and one with an empty side."""
    rows = [f"source {number % 30}\ttarget {number}\n" for number in range(40)]
    (tmp_path / "pairs.tsv").write_text("".join([*rows[:7], "empty\t \n", *rows[7:]]), encoding="utf-8")
    return str(tmp_path / "pairs.tsv")


def own(file: str, **options) -> PairSetsConfig:
    return PairSetsConfig(**({"train": file, "validation": None, "test": None} | options))


def test_each_pair_is_tested_once_and_no_source_is_on_two_sides(file: str):
    sets = [own(file, folds=3).load(fold=fold) for fold in (1, 2, 3)]
    whole = PairSetsConfig(train=file).read(file, split="train")
    for each in sets:
        assert isinstance(each.train, Pairs)
        assert each.test is not None
        sides = [set(part.sources) for part in each]
        assert all(sides)
        assert sum(map(len, sides)) == 30  # apart, and none is lost
        assert sum(map(len, each)) == 40
        assert (each.train.empty, each.validation.empty, each.test.empty) == (1, 0, 0)
        assert each.validation.places is not None
        assert np.array_equal(each.validation.places, np.sort(each.validation.places))
        assert len(sides[2]) == 10
    tested = joined([each.test for each in sets if each.test is not None], origin="all")
    assert (tested.sources, tested.targets) == (whole.sources, whole.targets)
    assert [each.test.origin for each in sets if each.test] == [f"{file}, fold {fold} of 3" for fold in (1, 2, 3)]


def test_a_cut_is_a_function_of_its_seed(file: str):
    first, again, other = (own(file, folds=3, split_seed=seed).load(fold=2) for seed in (0, 0, 1))
    assert [part.targets for part in first] == [part.targets for part in again]
    assert first.test is not None
    assert other.test is not None
    assert first.test.targets != other.test.targets


@pytest.mark.parametrize(("share", "number"), [(0.1, 3), (0.5, 15), (0.001, 1)])
def test_a_share_is_held_out_where_no_validation_is_given(file: str, share: float, number: int):
    train, validation, test = own(file, dev_share=share).load()
    assert test is None
    assert len(set(validation.sources)) == number
    assert len(train) + len(validation) == 40
    assert validation.origin == f"{file}, held out"


def test_what_is_given_is_taken(file: str, tmp_path: Path):
    (tmp_path / "other.tsv").write_text("one\ttwo\nthree\t\n", encoding="utf-8")
    other = str(tmp_path / "other.tsv")
    train, validation, test = PairSetsConfig(train=file, validation=other, test="phrasebook").load()
    assert isinstance(train, Corpus)  # unread
    assert (len(validation), validation.empty) == (1, 1)
    assert test is not None
    assert test.origin == "phrasebook test"
    validation, tested = own(file, validation=other, folds=2).load(fold=1)[1:]
    assert list(validation.sources) == ["one"]
    assert tested is not None
    assert len(set(tested.sources)) == 15
    assert len(PairSetsConfig(train=file, validation=None, test=other).load().test or ()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, and take the place of a test set, got folds=1 and test=None."),
        ({"folds": 3, "test": "x.tsv"}, "got folds=3 and test=x.tsv. Say --test None for a preset that has one."),
        ({"validation": "pairs.tsv"}, "validation must be another set than train, got pairs.tsv for both."),
    ],
)
def test_sets_that_exclude_each_other_are_refused(options: dict, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        own("pairs.tsv", **options).check()


@pytest.mark.parametrize("test", ["a.en,a.de", "./a.{en,de}", "a.en , b.de", "hub:a.{}:test"])
def test_one_file_is_one_set_however_both_sides_are_written(test: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = PairSetsConfig(train="a.{}", validation="c.{}", test=test)
    if test.startswith("hub:"):
        asked.check()
        return
    with pytest.raises(InputError, match=r"^test must be another set than train, got (\./)?a\.en for both\. "):
        asked.check()


def test_too_few_sources_are_refused_by_the_file(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("one\ttwo\none\tthree\n", encoding="utf-8")
    message = "pairs.tsv must hold at least 2 different source sentences to be cut, got 1."
    with pytest.raises(InputError, match=re.escape(message)):
        own(str(path)).load()
    path.write_text("one\ttwo\nthree\tfour\n", encoding="utf-8")
    message = "must hold at least 2 different source sentences beside fold 1 to be cut, got 1."
    with pytest.raises(InputError, match=re.escape(message)):
        own(str(path), folds=2).load(fold=1)
    with pytest.raises(InputError, match=r"must hold at least 3 different source sentences to be cut, got 2\."):
        own(str(path), folds=3).load(fold=1)
    with pytest.raises(ValueError, match=r"share must be between 0 and 1, got share=1\.5\."):
        own(str(path), dev_share=1.5).load()


def test_as_many_folds_as_sources_leave_one_out(file: str):
    sets = own(file, folds=30).load(fold=7)
    assert sets.test is not None
    assert len(set(sets.test.sources)) == 1
    assert len(set(sets.validation.sources)) == 3


def test_a_part_has_a_name_of_its_own(file: str):
    train, validation, test = own(file, folds=3).load(fold=2)
    assert test is not None
    assert [each.origin for each in (train, validation, test)] == [
        f"{file}, {name}" for name in ("without fold 2 of 3", "held out beside fold 2", "fold 2 of 3")
    ]
    assert own(file).load().train.origin == f"{file}, without those held out"


def test_what_is_learned_is_found_without_the_other_sets(file: str):
    asked = own(file, validation="nowhere.tsv", folds=3)
    assert asked.learned(fold=2).origin == f"{file}, without fold 2 of 3"
    assert isinstance(PairSetsConfig(train=file, validation="nowhere.tsv", test="nowhere.tsv").learned(), Corpus)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tsv"):
        asked.load(fold=2)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_pipe_cannot_be_read_for_each_fold(file: str, tmp_path: Path, name: str):
    os.mkfifo(tmp_path / "pipe.tsv")
    pipe = str(tmp_path / "pipe.tsv")
    with pytest.raises(InputError, match=re.escape(f"{name} must be read again for each fold, got the pipe {pipe}.")):
        own(**{"file": file, name: pipe, "folds": 3} | ({"file": pipe} if name == "train" else {})).load(fold=1)


def test_only_parts_are_joined(file: str):
    whole = PairSetsConfig(train=file).read(file, split="train")
    with pytest.raises(ValueError, match=r"parts must know their places in a whole, got .*pairs\.tsv, which is one"):
        joined([whole], origin="all")
