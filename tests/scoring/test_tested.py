"""What scores.json says of a test set, which texts are mistakes, and which are explained."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lmx.data.labelled import Examples
from lmx.data.labels import Labels
from lmx.scoring.classification import score_outputs
from lmx.scoring.measures import Metric
from lmx.scoring.predictions import prediction_lines
from lmx.scoring.records import Record, Row, mean_row, scores_of_seeds
from lmx.scoring.tested import Tested as Outcome  # pytest would take its own name for a class of tests
from lmx.scoring.tested import (
    _row,
    choose_to_explain,
    compare_runs,
    join_folds,
    list_mistakes,
    main_scores,
    record_scores,
    reference_lines,
    score_seeds,
    spread_of_folds,
    true_label,
)

NAMES = ("food", "music", "sport")


def saved_of(tested: Outcome) -> dict:
    """Returns what scores.json would hold."""
    record = record_scores(tested, name="own test", chosen="best step by development score")
    saved = record.compared_with(91.2, "a paper").to_json()
    assert Record.from_json(json.loads(json.dumps(saved))).to_json() == json.loads(json.dumps(saved))
    return saved


def examples(count: int) -> Examples:
    texts = [f"text {index}" for index in range(count)]
    return Examples(texts=texts, labels=None, origin="test.csv", lines=np.arange(2, count + 2))


def single(*, baseline: bool = True) -> Outcome:
    """Two seeds, 7 texts: the first has text 2 wrong, the second 2, 4 and 5; the linear model 0 and 1."""
    targets = np.array([0, 1, 2, 0, 1, 2, 0], np.int32)
    outputs = np.full((2, 7, 3), 0.1, np.float32)
    outputs[:, np.arange(7), targets] = 0.8
    outputs[:, 2] = [0.85, 0.1, 0.05]
    outputs[1, 4] = [0.0, 0.05, 0.95]  # with the first seed's 0.8 on the truth the mean is wrong, by less
    outputs[1, 5] = [0.5, 0.1, 0.4]  # the mean is right
    linear = np.array([1, 0, 2, 0, 1, 2, 0], np.int32) if baseline else None
    return Outcome(examples(7), Labels(kind="single", names=NAMES), targets, outputs, linear)


def multi() -> Outcome:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], np.float32)
    outputs = np.where(targets > 0, 0.9, 0.2).astype(np.float32)
    outputs[1] = [0.1, 0.2, 0.7]  # three wrong
    outputs[2, 0] = 0.6  # one wrong
    outputs[3, 2] = 0.5  # said from here on
    return Outcome(examples(4), Labels(kind="multi", names=NAMES), targets, outputs[None], None)


def regression() -> Outcome:
    targets = np.array([1.0, 2.0, 4.0, 3.0], np.float32)
    outputs = np.array([[1.0, 4.5, 3.0, 3.5], [1.0, 3.5, 3.0, 3.5]], np.float32)
    return Outcome(examples(4), Labels(kind="regression"), targets, outputs, None)


def test_rows_are_of_the_mean_of_seeds_and_then_of_their_ensemble():
    saved = saved_of(single())
    accuracies = [6 / 7, 4 / 7]
    first = saved["rows"][0]
    assert first["name"] == "own test accuracy"
    assert first["score"] == pytest.approx(100 * np.mean(accuracies))
    assert first["interval"] is None
    deviation = 100 * np.std(accuracies, ddof=1)
    assert first["made"] == f"mean of 2 seeds, standard deviation {deviation:.2f}; best step by development score"
    assert (first["published"], first["published_made"]) == (91.2, "a paper")
    assert all(row["published"] is None for row in saved["rows"][1:])
    ensemble = next(row for row in saved["rows"] if row["name"] == "own test, ensemble, accuracy")
    assert ensemble["score"] == pytest.approx(100 * 5 / 7)
    assert ensemble["interval"][0] <= ensemble["score"] <= ensemble["interval"][1]
    assert main_scores(single()) == pytest.approx(accuracies)
    assert saved["texts"] == 7
    assert saved["names"] == list(NAMES)
    json.dumps(saved)


def test_one_seed_is_no_ensemble_and_has_no_spread():
    tested = single(baseline=False)
    saved = saved_of(tested._replace(outputs=tested.outputs[:1]))
    assert saved["spread"] == []
    assert not any("ensemble" in row["name"] for row in saved["rows"])
    assert saved["rows"][0]["made"] == "one seed; best step by development score"
    assert saved["rows"][0]["interval"] is not None
    assert not {"baselines", "verdict", "seeds", "unit"} & saved.keys()


def test_the_verdict_says_who_is_better_and_when_the_transformer_loses():
    tested = single()
    saved = saved_of(tested)
    assert saved["baselines"] == [{"name": "TF-IDF, linear", "score": pytest.approx(100 * 5 / 7)}]
    # Both have 10 of 14 and 5 of 7 right.
    assert saved["verdict"].startswith(
        "The Transformer is level with the linear model on TF-IDF (71.43); the ensemble of its seeds is"
    )
    better = saved_of(tested._replace(outputs=tested.outputs[:1]))["verdict"]
    assert "is 14.29 points above the linear model" in better
    assert "It loses" not in better
    worse = saved_of(tested._replace(outputs=tested.outputs[1:]))["verdict"]
    assert "is 14.29 points below the linear model" in worse
    assert worse.endswith("It loses: for these texts the linear model is the better choice.")
    # Three texts are right in one of the two alone, one to two: as likely as not.
    assert "(p = 1.0000, exact McNemar)" in better


def test_squared_errors_are_not_in_percent():
    saved = saved_of(regression())
    rows = {row["name"]: row["score"] for row in saved["rows"]}
    errors = [np.mean([0, 2.5**2, 1, 0.25]), np.mean([0, 1.5**2, 1, 0.25])]
    (of_seeds,) = (value for name, value in rows.items() if "squared error" in name and "ensemble" not in name)
    assert of_seeds == pytest.approx(np.mean(errors))
    assert rows["own test Pearson"] > 1
    scores = score_outputs(regression().targets, regression().outputs[0], kind="regression", names=(), num_resamples=0)
    for name, unit in (("mean squared error", 1), ("Pearson", 100)):
        row = _row("own", Metric(name=name, score=0.5, interval=(0.25, 0.75)), scores, "made")
        assert (row.score, row.interval) == (0.5 * unit, [0.25 * unit, 0.75 * unit])


def test_scores_of_seeds_are_their_own():
    tested = single()
    found = score_seeds(tested.outputs, tested.targets, tested.labels)
    assert list(found) == ["loss", "accuracy"]
    assert found["accuracy"].tolist() == pytest.approx([6 / 7, 4 / 7])
    expected = [-np.log(each[np.arange(7), tested.targets]).mean() for each in tested.outputs]
    assert found["loss"].tolist() == pytest.approx(expected, rel=1e-6)


def test_mistakes_of_one_class_are_the_most_confident_first():
    rows = list_mistakes(single())
    assert [row["index"] for row in rows] == [2, 4]
    assert rows[0] == {
        "index": 2, "text": "text 2", "label": "sport", "prediction": "food", "probability": pytest.approx(0.85)
    }  # fmt: skip
    assert rows[1]["probability"] == pytest.approx((0.1 + 0.95) / 2)


def test_mistakes_of_several_labels_are_those_with_the_most_wrong():
    rows = list_mistakes(multi())
    assert [(row["index"], row["label"], row["prediction"]) for row in rows] == [
        (1, "food|music", "sport"),
        (2, "", "food"),
    ]
    assert rows[0]["probability"] is None


def test_mistakes_of_numbers_are_those_furthest_off():
    rows = list_mistakes(regression())
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert (rows[0]["label"], rows[0]["prediction"]) == ("2.0", "4.0")


def test_at_most_fifty_mistakes_are_listed():
    targets = np.zeros(60, np.int32)
    outputs = np.tile(np.array([0.1, 0.2, 0.7], np.float32), (1, 60, 1))
    tested = Outcome(examples(60), Labels(kind="single", names=NAMES), targets, outputs, None)
    assert [row["index"] for row in list_mistakes(tested)] == list(range(50))


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, []), (1, [0]), (2, [0, 2]), (4, [0, 1, 2, 4]), (5, [0, 1, 3, 2, 4]), (7, [0, 1, 3, 5, 6, 2, 4]), (99, None)],
)
def test_the_first_texts_and_the_worst_mistakes_are_explained(number, expected):
    found = choose_to_explain(single(), number)
    assert len(found) == len(set(found)) == min(number, 7)
    assert expected is None or found == expected


def test_labels_are_shown_as_people_read_them():
    assert true_label(single(), 2) == "sport"
    assert true_label(multi(), 1) == "food|music"
    assert true_label(regression(), 0) == "1.0"


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_two_runs_are_compared_by_the_scores_they_had_whatever_their_labels_are_called(tmp_path, kind):
    names = ("a", "b", "a|b", "a b", "a\u00a0b", "b\\t", "b\t")
    generator = np.random.default_rng(1)
    outputs = generator.random((2, 1, 30, len(names))).astype(np.float32)
    if kind == "single":
        targets = generator.integers(0, len(names), 30).astype(np.int32)
        outputs /= outputs.sum(-1, keepdims=True)
    else:
        targets = (generator.random((30, len(names))) > 0.5).astype(np.float32)
    scores = []
    for name, each in zip(("first", "second"), outputs, strict=True):
        outcome = Outcome(examples(30), Labels(kind=kind, names=names), targets, each, None)
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.json").write_text(outcome.labels.to_json())
        lines = prediction_lines(each.mean(0), kind=kind, names=names)
        for file, content in (("predictions.tsv", lines), ("references.tsv", reference_lines(outcome))):
            (tmp_path / name / file).write_text("".join(f"{line}\n" for line in content))
        scores.append(saved_of(outcome)["rows"][0]["score"] / 100)
    first, *_ = compare_runs(tmp_path / "first", tmp_path / "second")
    assert (first.baseline, first.system) == (pytest.approx(scores[0]), pytest.approx(scores[1]))
    (tmp_path / "second" / "labels.json").write_text(Labels(kind=kind, names=names[::-1]).to_json())
    with pytest.raises(ValueError, match=r"^two runs must have the same labels to be compared, got Labels\(kind="):
        compare_runs(tmp_path / "first", tmp_path / "second")


def test_of_seeds_the_one_with_the_lowest_validation_is_kept():
    found = scores_of_seeds((3, 4, 5), (0.7, 0.8, 0.9), best=(-0.5, -0.75, -0.25), best_step=(20, 0, 10), sign=-1)
    assert [each.kept for each in found] == [False, True, False]
    assert [each.dev for each in found] == [0.5, 0.75, 0.25]
    assert [each.best_step for each in found] == [20, None, 10]
    assert [(each.seed, each.test) for each in found] == [(3, 0.7), (4, 0.8), (5, 0.9)]


def test_of_seeds_that_are_level_the_first_is_kept():
    found = scores_of_seeds((3, 4, 5), (0.7, 0.8, 0.9), best=(-0.5, -0.75, -0.75), best_step=(20, 10, 10), sign=-1)
    assert [each.kept for each in found] == [False, True, False]


def test_folds_and_the_question_of_chance_are_of_the_mean_of_all_seeds():
    tested = single()
    turned = tested._replace(outputs=tested.outputs[::-1])
    for each in (tested, turned):  # whichever seed comes first
        (accuracy, *_) = spread_of_folds([each, each])
        assert accuracy.mean == pytest.approx(5 / 7)
        assert "the ensemble of its seeds is level with it (p = 1.0000" in saved_of(each)["verdict"]


def test_folds_are_joined_in_the_order_of_their_file():
    whole = single()
    parts = [
        whole._replace(
            examples=whole.examples.select(np.array(places)),
            targets=whole.targets[places],
            outputs=whole.outputs[:, places],
            baseline=whole.baseline[places],
        )
        for places in ([1, 3, 6], [0, 2, 4, 5])
    ]
    found = join_folds([part._replace(features="pixels") for part in parts])
    assert list(found.examples.texts) == list(whole.examples.texts)
    for name in ("targets", "outputs", "baseline"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.features == "pixels"
    assert join_folds([parts[0], parts[1]._replace(baseline=None)]).baseline is None


def test_folds_have_the_spread_of_what_all_were_scored_by():
    labels, targets = Labels(kind="single", names=("no", "yes")), np.array([0, 1, 1], np.int32)
    outputs = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]], np.float32)
    both = Outcome(examples(3), labels, targets, outputs, None)
    names = [spread.name for spread in spread_of_folds([both, both])]
    assert names == ["accuracy", "macro F1", "micro F1", "Matthews", "AUROC", "calibration error"]
    one = both._replace(targets=np.ones(3, np.int32))
    spreads = spread_of_folds([both, one])
    assert [spread.name for spread in spreads] == [name for name in names if name != "AUROC"]
    assert (spreads[0].mean, spreads[0].deviation) == pytest.approx((0.5, np.std([2 / 3, 1 / 3], ddof=1)))


def test_a_mean_of_seeds_has_their_deviation_and_no_interval():
    row = Row(name="BLEU", score=1.0, interval=(0.0, 2.0), signature="s", made="m", published=3.0)
    made = "mean of 3 seeds, standard deviation 1.53; so"
    assert mean_row(row, [1.0, 2.0, 4.0], made="so") == replace(row, score=7 / 3, interval=None, made=made)
    assert mean_row(row, [1.0, 3.0], made="so", digits=4, over="folds").made == (
        "mean of 2 folds, standard deviation 1.4142; so"
    )
