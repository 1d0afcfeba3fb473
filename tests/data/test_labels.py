import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lmx.data.labelled import Examples, Label
from lmx.data.labels import Kind, Labels, balanced_weights
from lmx.errors import InputError


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
        with pytest.raises(
            ValueError, match=r"train\.csv must have labels, got texts alone\. Name their column by --label-co"
        ):
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
        (
            ("0", "1"),
            "1.0",
            r"test\.csv:2 .* got '1\.0'\. It is the number '1', written in another way: write it in all",
        ),
        (("0.0", "1.0", "10.0"), "01", r"test\.csv:2 .* got '01'\. It is the number '1\.0', written in another way"),
        (("1", "2", "other"), "2.0", r"test\.csv:2 .* got '2\.0'\. It is the number '2', written in another way"),
        (("1", "2", "other"), "3", r"test\.csv:2 .* got '3'\. The nearest is '"),
        (("1", "2"), "3.0", r"test\.csv:2 .* got '3\.0'\. The nearest is '"),
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


def test_labels_recur_in_half_of_the_texts_or_are_few() -> None:
    assert len(Labels.of(labelled([f"n{number}" for number in range(20)])).names) == 20
    some = [f"n{number}" for number in range(21)]
    assert len(Labels.of(labelled([*some, *some])).names) == 21
    with pytest.raises(ValueError, match=r"got 21 different labels in 41 texts, such as 'n0'\. Name another"):
        Labels.of(labelled([*some, *some[:20]]))


def test_many_names_are_not_all_shown() -> None:
    for number, end in ((10, "'9'"), (11, "'9', ...")):
        shown = re.escape(f"of training ('0', '1', '2', '3', '4', '5', '6', '7', '8', {end}), got 'x'.")
        with pytest.raises(ValueError, match=shown):
            Labels(kind="single", names=tuple(map(str, range(number)))).encode(labelled(["x"]))


def test_several_labels_of_which_there_are_none_are_told_with_the_file() -> None:
    with pytest.raises(ValueError, match=r"^train\.csv must have a label, got none in all 2 texts\.$"):
        Labels.of(labelled([(), ()]))


def test_a_real_label_is_one_that_float32_holds() -> None:
    known = Labels(kind="regression")
    assert known.encode(labelled(["3.4e38", "-3.4e38"])).tolist() == pytest.approx([3.4e38, -3.4e38])
    for label in ("3.5e38", "-1e300"):
        with pytest.raises(ValueError, match=rf"train\.csv:3 must have a label that float32 holds, got '{label}'\."):
            known.encode(labelled(["1", label]))


def test_labels_are_kept_in_a_file_of_the_run(tmp_path: Path) -> None:
    known = Labels(kind="multi", names=("b", "\u00e9"))
    known.save(tmp_path)
    path = tmp_path / "labels.json"
    assert path.read_text(encoding="utf-8") == '{"kind": "multi", "names": ["b", "\u00e9"]}\n'
    assert Labels.from_file(path) == known
    for content in ("{", "[]", '{"kind": "multi"}', "[" * 99_999):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"labels\.json must hold the labels of its run: .* Bring it back"):
            Labels.from_file(path)


def test_rare_classes_weigh_more() -> None:
    single, multi = Labels(kind="single", names=("a", "b", "c")), Labels(kind="multi", names=("a", "b", "c"))
    assert balanced_weights(np.array([0, 0, 0, 1], np.int32), single).tolist() == pytest.approx([4 / 9, 4 / 3, 4 / 3])
    targets = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    assert balanced_weights(targets, multi).tolist() == pytest.approx([1 / 3, 3, 4])
    with pytest.raises(InputError, match=r"class_weights must be none for real numbers, got class_weights=balanced\."):
        balanced_weights(np.zeros(3, np.float32), Labels(kind="regression"))
