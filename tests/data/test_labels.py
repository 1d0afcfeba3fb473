from collections.abc import Sequence

import numpy as np
import pytest

from lmx.data.labelled import Examples, Label
from lmx.data.labels import Kind, Labels, folds, stratified_split


def labelled(labels: Sequence[Label] | None, origin: str = "train.csv") -> Examples:
    size = 3 if labels is None else len(labels)
    return Examples(texts=["t"] * size, labels=labels, origin=origin, lines=np.arange(2, size + 2))


# The names.


def test_names_that_are_numbers_are_in_their_order() -> None:
    assert Labels.of(labelled(["10", "9", "-1", "9", "2.5"])).names == ("-1", "2.5", "9", "10")
    assert Labels.of(labelled(["b", "10", "9", "B", "é"])).names == ("10", "9", "B", "b", "é")


@pytest.mark.parametrize(
    ("labels", "kind", "encoded"),
    [
        (["b", "a", "b"], "single", [1, 0, 1]),
        ([("b",), (), ("c", "a")], "multi", [[0, 1, 0], [0, 0, 0], [1, 0, 1]]),
        (["0.5", "3.0", "-1.0"], "regression", [0.5, 3, -1]),
    ],
)
def test_labels_come_back_from_their_numbers(labels: list[Label], kind: Kind, encoded: list) -> None:
    examples = labelled(labels)
    known = Labels.of(examples, kind=kind)
    targets = known.encode(examples)
    assert targets.tolist() == encoded
    assert targets.dtype == (np.int32 if kind == "single" else np.float32)
    assert known.num_outputs == (targets.shape[1] if kind == "multi" else {"single": 2, "regression": 1}[kind])
    assert [tuple(sorted(label)) if kind == "multi" else label for label in labels] == known.decode(targets)
    assert Labels.from_json(known.to_json()) == known


def test_the_kind_is_seen_but_for_regression() -> None:
    assert Labels.of(labelled(["1.5", "2.5"])).kind == "single"
    assert Labels.of(labelled([("a",), ("b",)])).kind == "multi"
    with pytest.raises(ValueError, match=r"train\.csv must have labels of kind=multi, got one label a text\. A table"):
        Labels.of(labelled(["a", "b"]), kind="multi")
    with pytest.raises(ValueError, match=r"train\.csv must have labels of kind=regression, got several labels a text"):
        Labels.of(labelled([("1",), ("2",)]), kind="regression")


def test_a_single_class_cannot_be_learned() -> None:
    with pytest.raises(ValueError, match=r"train\.csv must have at least two classes, got 'a' in all 3 texts\."):
        Labels.of(labelled(["a", "a", "a"]))


def test_labels_that_hardly_recur_are_no_classes() -> None:
    with pytest.raises(ValueError, match=r"must have classes that recur, got 50 different labels in 50 texts.*'0\.1'"):
        Labels.of(labelled([f"{number}.1" for number in range(50)]))
    assert Labels.of(labelled([f"{number}.1" for number in range(50)]), kind="regression").num_outputs == 1


def test_texts_without_labels_have_none_to_collect_or_encode() -> None:
    for call in (Labels.of, Labels(kind="single", names=("a", "b")).encode):
        with pytest.raises(ValueError, match=r"train\.csv must have labels, got texts alone\. Read it with a label_co"):
            call(labelled(None))


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (
            ("neg", "pos"),
            "positve",
            r"test\.csv:2 .* of training \('neg', 'pos'\), got 'positve'\. The nearest is 'pos'",
        ),
        (("0", "1"), "pos", r"test\.csv:2 .* got 'pos'\. It is a word and those are numbers: the files must name"),
        (("neg", "pos"), "1", r"test\.csv:2 .* got '1'\. It is a number and those are words"),
        (("0", "1"), "1.0", r"test\.csv:2 .* got '1\.0'\. The nearest is '1'\."),
        (("0", "1"), ("1",), r"test\.csv:2 must have one label, as in training, got \('1',\)\."),
    ],
)
def test_a_label_unseen_in_training_names_its_line(names: tuple[str, ...], label: Label, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labels(kind="single", names=names).encode(labelled([label], origin="test.csv"))


def test_other_kinds_name_the_line_too() -> None:
    with pytest.raises(ValueError, match=r"test\.csv:3 must have a real number as its label, got '3,5'\."):
        Labels(kind="regression").encode(labelled(["1", "3,5"], origin="test.csv"))
    with pytest.raises(ValueError, match=r"test\.csv:3 must have a label of training \('a', 'b'\), got 'c'\."):
        Labels(kind="multi", names=("a", "b")).encode(labelled([("a",), ("b", "c")], origin="test.csv"))


def test_wrong_label_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"names must be distinct, got 'a' twice\."):
        Labels(kind="single", names=("a", "b", "a"))
    with pytest.raises(ValueError, match=r"names must be 2 or more for kind=single, got names=\('a',\)\."):
        Labels(kind="single", names=("a",))
    with pytest.raises(ValueError, match=r'labels must be a record \{"kind".*got \'\{"names": \[\]\}\''):
        Labels.from_json('{"names": []}')
    with pytest.raises(ValueError, match=r"kind must be one of single, multi, regression, got kind=double\."):
        Labels.from_json('{"kind": "double", "names": []}')


# Splits and folds.


def classes(size: int = 1003, num_classes: int = 5) -> np.ndarray:
    shares = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    return np.random.default_rng(1).choice(num_classes, size=size, p=shares).astype(np.int32)


def test_a_split_keeps_the_share_of_every_class() -> None:
    targets = classes()
    train, dev = stratified_split(targets, share=0.1, seed=3)
    assert sorted([*train, *dev]) == list(range(len(targets)))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(dev) > 0)
    assert len(dev) == round(0.1 * len(targets))
    assert np.all(np.abs(np.bincount(targets[dev]) - 0.1 * np.bincount(targets)) < 1)


def test_a_split_depends_on_the_seed_alone_and_is_the_one_of_earlier_versions() -> None:
    targets = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1], dtype=np.int32)
    first, again, other = (stratified_split(targets, share=0.4, seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first == [1, 6, 8, 10, 11]
    assert folds(targets, num_folds=5, seed=0)[0][1].tolist() == [1, 8, 10]


def test_a_class_keeps_a_text_for_training() -> None:
    train, dev = stratified_split(np.array([0] * 8 + [1, 2], dtype=np.int32), share=0.5, seed=0)
    assert {8, 9} <= set(train.tolist())
    assert len(dev) == 5
    with pytest.raises(ValueError, match=r"development set must hold a text, got none with share=0\.5 of 3 texts in 3"):
        stratified_split(np.arange(3, dtype=np.int32), share=0.5, seed=0)


def test_real_numbers_and_several_labels_are_split_without_classes() -> None:
    for targets in (np.linspace(0, 1, 40, dtype=np.float32), np.eye(40, 7, dtype=np.float32)):
        train, dev = stratified_split(targets, share=0.25, seed=0)
        assert (len(train), len(dev)) == (30, 10)
        assert [len(test) for _, test in folds(targets, num_folds=7, seed=0)] == [6, 6, 6, 6, 6, 5, 5]


def test_every_text_is_tested_in_one_fold() -> None:
    targets = classes()
    made = folds(targets, num_folds=7, seed=0)
    assert sorted(np.concatenate([test for _, test in made]).tolist()) == list(range(len(targets)))
    counts = np.array([np.bincount(targets[test], minlength=5) for _, test in made])
    assert np.all(np.ptp(counts, axis=0) <= 1)
    assert np.ptp(counts.sum(axis=1)) <= 1
    for train, test in made:
        assert sorted([*train, *test]) == list(range(len(targets)))
    assert made[0][1].tolist() != folds(targets, num_folds=7, seed=1)[0][1].tolist()


def test_wrong_splits_are_refused() -> None:
    targets = classes(size=9)
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"share must be between 0 and 1, got share={share}\."):
            stratified_split(targets, share=share, seed=0)
    for number in (1, 10):
        with pytest.raises(ValueError, match=rf"num_folds must be from 2 to the 9 texts, got num_folds={number}\."):
            folds(targets, num_folds=number, seed=0)
    with pytest.raises(ValueError, match=r"seed must not be negative, got seed=-1\."):
        folds(targets, num_folds=3, seed=-1)
