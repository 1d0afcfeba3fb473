import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference

from lmx.data.labelled_files import Fields, read_labelled
from lmx.data.labels import Labels
from lmx.scoring import resampling
from lmx.scoring.classification import (
    ensemble,
    prediction_loss,
    score_multi,
    score_outputs,
    score_regression,
    score_single,
)
from lmx.scoring.measures import Metric, Scores, spreads_of
from lmx.scoring.paired import compare_predictions
from lmx.scoring.predictions import prediction_lines, written_label
from lmx.scoring.resampling import (
    measure_auroc,
    measure_calibration,
    measure_classes,
    measure_labels,
    measure_numbers,
    resample,
)

NAMES = ("world", "sport", "trade")


def probabilities(size: int, num_classes: int, *, seed: int, targets: np.ndarray | None = None) -> np.ndarray:
    """Makes probabilities with two digits, so that there are ties, a little better than chance at the targets."""
    logits = np.random.default_rng(seed).normal(size=(size, num_classes))
    if targets is not None:
        logits[np.arange(size), targets] += 1
    made = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 2)
    made[:, 0] += 1 - made.sum(axis=1)
    return made.clip(0, 1)


def single(size: int = 97, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    targets = np.random.default_rng(2).integers(num_classes, size=size)
    return targets, probabilities(size, num_classes, seed=3, targets=targets)


def several(size: int = 71, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    targets = generator.random((size, num_classes)) < np.array([0.5, 0.3, 0.05, 0.0])
    return targets.astype(np.float32), np.clip(generator.normal(0.25 + 0.4 * targets, 0.3), 0, 1) * [1, 1, 1, 0.1]


def numbers(size: int = 83) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    targets = np.round(generator.normal(size=size), 1)
    return targets, np.round(targets + generator.normal(size=size), 1)


# The numbers.


def test_scores_of_one_class_a_text_are_those_of_scikit_learn() -> None:
    targets, outputs = single()
    predicted = outputs.argmax(axis=1)
    scores = score_single(targets, outputs, names=NAMES)
    assert scores["accuracy"] == scores["micro F1"] == reference.accuracy_score(targets, predicted)
    assert scores["macro F1"] == reference.f1_score(targets, predicted, average="macro")
    assert scores["Matthews"] == reference.matthews_corrcoef(targets, predicted)
    assert scores.confusion is not None
    assert np.array_equal(scores.confusion, reference.confusion_matrix(targets, predicted))
    columns = np.array(reference.precision_recall_fscore_support(targets, predicted))
    rows = [(each.precision, each.recall, each.f1, each.support) for each in scores.classes]
    np.testing.assert_allclose(rows, columns.T)
    assert [each.name for each in scores.classes] == list(NAMES)
    with pytest.raises(KeyError, match=r"name must be one of accuracy, macro F1, .*, got name=AUROC"):
        scores["AUROC"]


def test_two_classes_have_an_area_under_the_curve_of_the_second() -> None:
    targets, outputs = single(num_classes=2)
    scores = score_single(targets, outputs, names=("no", "yes"))
    assert scores["AUROC"] == reference.roc_auc_score(targets, outputs[:, 1])
    alike = score_single(np.ones(9, dtype=np.int32), outputs[:9], names=("no", "yes"))
    assert "AUROC" not in [metric.name for metric in alike.metrics]


def test_a_test_set_of_one_class_is_scored_without_a_warning() -> None:
    right = score_single(np.array([1, 1, 1]), np.full((3, 2), [0.2, 0.8]), names=("no", "yes"))
    assert (right["accuracy"], right["macro F1"], right["Matthews"]) == (1, 1, 0)
    assert right.confusion == ((0, 0), (0, 3))


def test_a_class_that_nobody_saw_or_said_does_not_count_in_the_macro_mean() -> None:
    targets, outputs = np.array([0, 1, 1]), np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.7, 0.3, 0, 0]])
    scores = score_single(targets, outputs, names=("a", "b", "c", "d"))
    assert scores["macro F1"] == pytest.approx(2 / 3)
    assert scores.classes[3].support == scores.classes[3].f1 == 0


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    targets, outputs = several()
    scores = score_multi(targets, outputs, names="abcd", threshold=0.4)
    predicted = outputs >= 0.4
    assert scores["micro F1"] == reference.f1_score(targets, predicted, average="micro", zero_division=0)
    # The fourth label does not occur.
    assert scores["macro F1"] == reference.f1_score(targets[:, :3], predicted[:, :3], average="macro", zero_division=0)
    assert scores["all labels right"] == np.mean((targets == predicted).all(axis=1))
    assert [each.support for each in scores.classes] == targets.sum(axis=0).tolist()
    assert scores.signature.endswith("|threshold:0.4")
    assert score_multi(np.zeros((2, 1)), np.zeros((2, 1)), names="a")["macro F1"] == 0


@pytest.mark.parametrize("said", ["never", "sometimes", "always"])
def test_a_single_label_is_scored_where_it_is_and_not_where_it_is_absent(said: str) -> None:
    true = np.arange(100)[:, None] % 10 == 3
    predicted = {"never": true & False, "sometimes": np.arange(100)[:, None] % 5 == 3, "always": true | True}[said]
    hits = (true & predicted).sum()
    precision, recall = hits / max(predicted.sum(), 1), hits / true.sum()
    f1 = 2 * hits / (true.sum() + predicted.sum())
    scores = score_multi(true.astype(np.float32), predicted * 0.9, names=("toxic",))
    assert [scores[name] for name in ("micro F1", "macro F1")] == pytest.approx([f1, f1])
    assert scores["all labels right"] == np.mean(true == predicted)
    (row,) = scores.classes
    assert (row.precision, row.recall, row.f1, row.support) == pytest.approx((precision, recall, f1, 10))
    if said == "sometimes":  # an interval is of the score beside it
        low, high = scores.metrics[0].interval
        assert low < f1 < high
    compared = compare_predictions(true, true & False, predicted, kind="multi", num_resamples=9)
    assert {each.name: (each.baseline, each.system) for each in compared}["micro F1"] == pytest.approx((0, f1))


def test_scores_of_real_numbers_are_those_of_scipy() -> None:
    targets, outputs = numbers()
    scores = score_regression(targets, outputs)
    assert scores["Pearson"] == pytest.approx(scipy.stats.pearsonr(targets, outputs).statistic, abs=1e-12)
    assert scores["Spearman"] == pytest.approx(scipy.stats.spearmanr(targets, outputs).statistic, abs=1e-12)
    assert scores["mean squared error"] == pytest.approx(np.mean((targets - outputs) ** 2))
    assert score_regression(targets, np.full(len(targets), 0.1))["Pearson"] == 0


def test_the_calibration_error_is_that_of_guo_et_al() -> None:
    targets, outputs = single(size=400)
    calibration = score_single(targets, outputs, names=NAMES, num_resamples=0).calibration
    confidence, correct = outputs.max(axis=1), outputs.argmax(axis=1) == targets
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        assert calibration.counts[number] == inside.sum()
        if inside.any():
            assert calibration.confidence[number] == pytest.approx(confidence[inside].mean())
            assert calibration.accuracy[number] == pytest.approx(correct[inside].mean())
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.error == pytest.approx(expected)
    assert len(calibration.edges) == 16
    sure = score_single(np.array([0, 1]), np.eye(2), names=("a", "b"))
    assert sure["calibration error"] == 0
    assert sure.calibration.counts[-1] == 2


# Intervals.


def drawn(size: int, num_resamples: int = 40, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(num_resamples, size))


def test_every_resample_of_classes_equals_scikit_learn() -> None:
    targets, outputs = single(size=23, num_classes=5)
    predicted = outputs.argmax(axis=1)
    made = measure_classes(targets, predicted, num_classes=5)(drawn(23))
    for number, rows in enumerate(drawn(23)):
        true, guessed = targets[rows], predicted[rows]
        assert made["accuracy"][number] == reference.accuracy_score(true, guessed)
        assert made["macro F1"][number] == pytest.approx(reference.f1_score(true, guessed, average="macro"))
        assert made["Matthews"][number] == pytest.approx(reference.matthews_corrcoef(true, guessed))
    alike = measure_classes(targets, np.zeros(23, dtype=int), num_classes=5)(drawn(23))
    assert np.all(alike["Matthews"] == 0)


def test_every_resample_of_two_classes_and_of_confidence_equals_the_score() -> None:
    targets, outputs = single(size=31, num_classes=2)
    area = measure_auroc(targets, outputs[:, 1])(drawn(31))["AUROC"]
    confidence, correct = outputs.max(axis=1), outputs.argmax(axis=1) == targets
    error = measure_calibration(confidence, correct)(drawn(31))["calibration error"]
    for number, rows in enumerate(drawn(31)):
        assert area[number] == pytest.approx(reference.roc_auc_score(targets[rows], outputs[rows, 1]))
        again = score_single(targets[rows], outputs[rows], names=("a", "b"), num_resamples=0)
        assert error[number] == pytest.approx(again["calibration error"])
    assert np.isnan(measure_auroc(np.ones(4, dtype=int), outputs[:4, 1])(drawn(4))["AUROC"]).all()


def test_every_resample_of_labels_and_numbers_equals_the_score() -> None:
    targets, outputs = several(size=29)
    made = measure_labels(targets > 0, outputs >= 0.5)(drawn(29))
    for number, rows in enumerate(drawn(29)):
        again = score_multi(targets[rows], outputs[rows], names="abcd", num_resamples=0)
        assert all(made[metric.name][number] == pytest.approx(metric.score) for metric in again.metrics)
    targets, outputs = numbers(size=29)
    made = measure_numbers(targets, outputs)(drawn(29))
    for number, rows in enumerate(drawn(29)):
        assert made["Pearson"][number] == pytest.approx(scipy.stats.pearsonr(targets[rows], outputs[rows]).statistic)
        assert made["Spearman"][number] == pytest.approx(scipy.stats.spearmanr(targets[rows], outputs[rows]).statistic)
        assert made["mean squared error"][number] == pytest.approx(np.mean((targets[rows] - outputs[rows]) ** 2))


def test_an_interval_is_the_middle_of_the_resamples_and_depends_on_the_seed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets, outputs = single()
    scores = score_single(targets, outputs, names=NAMES, num_resamples=200, seed=4)
    right = outputs.argmax(axis=1) == targets
    accuracies = right[drawn(len(targets), 200, seed=4)].mean(axis=1)
    assert scores.metrics[0].interval == pytest.approx(tuple(np.percentile(accuracies, [2.5, 97.5])))
    assert scores.metrics[-1].interval is None  # The calibration error's: resamples are worse calibrated.
    for metric in scores.metrics[:-1]:
        assert metric.interval is not None
        assert metric.interval[0] < metric.score < metric.interval[1]
    monkeypatch.setattr(resampling, "CHUNK", 300)
    assert score_single(targets, outputs, names=NAMES, num_resamples=200, seed=4) == scores
    assert score_single(targets, outputs, names=NAMES, num_resamples=200, seed=5) != scores
    assert {metric.interval for metric in score_single(targets, outputs, names=NAMES, num_resamples=0).metrics} == {
        None
    }
    nowhere = resample([measure_auroc(np.ones(4, dtype=int), outputs[:4, 1])], 4, 20, 0)["AUROC"]
    assert np.isnan(nowhere).all()
    assert resampling.interval_of(nowhere, math.nan) is None


def contains(metrics: Sequence[Metric]) -> list[str]:
    """Returns the names of the scores that have an interval, once each interval is seen to hold its score."""
    for metric in metrics:
        if metric.interval is not None:
            assert metric.interval[0] <= metric.score <= metric.interval[1], metric
            assert metric.interval[0] < metric.interval[1], metric
    return [metric.name for metric in metrics if metric.interval is not None]


def test_no_interval_is_beside_its_score() -> None:
    """Well calibrated and badly calibrated sets, of few texts and of more."""
    printed: Counter[str] = Counter()
    for seed in range(60):
        generator = np.random.default_rng(seed)
        size, num_classes = int(generator.integers(5, 400)), int(generator.integers(2, 8))
        made = generator.dirichlet(np.full(num_classes, 0.5), size=size)
        # The class is drawn by the probabilities themselves: what is left of the error is chance.
        targets = (made.cumsum(axis=1) < generator.random((size, 1))).sum(axis=1).clip(0, num_classes - 1)
        found = score_single(targets, made, names=list(map(str, range(num_classes))), num_resamples=200)
        printed.update(contains(found.metrics))
    assert printed["accuracy"] >= 58
    assert printed["Matthews"] >= 50
    assert printed["macro F1"] >= 40
    assert printed["calibration error"] <= 20


def test_many_rare_classes_have_no_interval_beside_their_score() -> None:
    names = list(map(str, range(200)))
    for seed in range(30):
        generator = np.random.default_rng(seed)
        targets = generator.integers(200, size=300)
        guesses = np.where(generator.random(300) < 0.6, targets, generator.integers(200, size=300))
        made = np.full((300, 200), 0.001) + 0.8 * (guesses[:, None] == np.arange(200))
        found = score_single(targets, made, names=names, num_resamples=200)
        assert "accuracy" in contains(found.metrics)


def test_real_numbers_and_several_labels_have_no_interval_beside_their_score() -> None:
    printed: Counter[str] = Counter()
    for seed in range(30):
        generator = np.random.default_rng(seed)
        size = int(generator.integers(3, 60))
        true = generator.normal(size=size)
        printed.update(contains(score_regression(true, true + generator.normal(size=size), num_resamples=200).metrics))
        labels = (generator.random((size, 5)) < 0.3).astype(np.float64)
        guessed = np.where(generator.random((size, 5)) < 0.2, 1 - labels, labels)
        printed.update(contains(score_multi(labels, guessed, names=list("abcde"), num_resamples=200).metrics))
    assert min(printed[name] for name in ("Pearson", "mean squared error", "micro F1")) >= 20


@pytest.mark.parametrize(
    ("score", "low", "high", "expected"),
    [
        (0.0, -1.9, 1.9, True),
        (0.27, -1.9, 1.9, True),  # a quarter of a deviation, and 3 / sqrt(10,000) of chance
        (-0.27, -1.9, 1.9, True),
        (0.29, -1.9, 1.9, False),
        (-0.29, -1.9, 1.9, False),
        (0.2, -1.9, 0.1, False),
        (0.0, 0.1, 1.9, False),
        (0.1, 0.1, 1.9, True),
    ],
)
def test_resamples_speak_for_a_score_that_is_near_their_mean(score, low, high, expected):
    scores = np.random.default_rng(0).normal(size=10_000)
    scores = (scores - scores.mean()) / scores.std()
    assert resampling.speak_for(score, scores, low=low, high=high) == expected
    assert not resampling.speak_for(1000.0, np.full(9, 1000.0) + 1e-8 * np.arange(9), low=999.0, high=1001.0)


@pytest.mark.parametrize("right", [True, False])
def test_a_test_set_all_right_or_all_wrong_has_no_interval(right: bool) -> None:
    """Resamples of it are all alike, but another test set would not be."""
    targets = np.arange(40) % 2
    made = np.full((40, 2), 0.1)
    made[np.arange(40), targets if right else 1 - targets] = 0.9
    intervals = {
        metric.name: metric.interval
        for metric in score_single(targets, made, names=NAMES[:2], num_resamples=50).metrics
    }
    assert intervals["accuracy"] is intervals["AUROC"] is intervals["Matthews"] is None


# Comparison.


def test_the_paired_test_sees_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(2, size=500)
    baseline = np.where(generator.random(500) < 0.8, targets, 1 - targets)
    system = baseline.copy()
    fixed = np.flatnonzero(baseline != targets)[:15]
    system[fixed] = targets[fixed]
    comparisons = {
        (each.name, each.test): each for each in compare_predictions(targets, baseline, system, kind="single")
    }
    assert [name for name, _ in comparisons] == ["accuracy", "accuracy", "macro F1", "Matthews"]
    accuracy = comparisons["accuracy", "paired bootstrap"]
    assert accuracy.difference == pytest.approx(0.03)
    assert accuracy.signature.startswith("n:500|bs:1000|seed:12345|")
    assert accuracy.interval is not None
    assert 0 < accuracy.interval[0] < 0.03 < accuracy.interval[1]
    assert accuracy.p_value < 0.01
    assert "(+0.0300 [+0.0" in str(accuracy)
    assert comparisons["accuracy", "exact McNemar"].p_value == pytest.approx(2 * 0.5**15)


def test_equal_systems_do_not_differ() -> None:
    targets, outputs = single()
    for each in compare_predictions(targets, outputs.argmax(axis=1), outputs.argmax(axis=1), kind="single"):
        assert (each.difference, each.p_value) == (0, 1)
        assert each.interval == (None if each.test == "exact McNemar" else (0, 0))


def test_a_test_that_asks_about_nothing_seldom_finds_it() -> None:
    """Of two systems equally good, about one comparison in twenty is below 0.05."""
    generator = np.random.default_rng(1)
    targets = np.zeros(200, dtype=np.int64)
    found = 0
    for _ in range(100):
        sides = [(generator.random(200) < 0.2).astype(np.int64) for _ in range(2)]
        bootstrap = compare_predictions(targets, *sides, kind="single", num_resamples=200)[1]
        found += bootstrap.p_value < 0.05
    assert found <= 12


def test_mcnemar_is_the_binomial_test_of_the_texts_that_one_system_has_right() -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        targets, before, after = (generator.integers(3, size=150) for _ in range(3))
        lost = int(np.sum((before == targets) & (after != targets)))
        won = int(np.sum((before != targets) & (after == targets)))
        made = compare_predictions(targets, before, after, kind="single", num_resamples=1)[0]
        assert made.p_value == pytest.approx(scipy.stats.binomtest(won, won + lost).pvalue)
        assert made.signature == f"n:150|baseline alone right:{lost}|system alone right:{won}"


def test_other_kinds_are_compared_by_their_own_scores() -> None:
    targets, outputs = several()
    sides = [(outputs >= threshold).astype(np.float32) for threshold in (0.9, 0.5)]
    labels = compare_predictions(targets, *sides, kind="multi")
    assert [each.name for each in labels] == ["micro F1", "macro F1", "all labels right"]
    assert labels[0].system == score_multi(targets, outputs, names="abcd")["micro F1"]
    targets, outputs = numbers()
    made = compare_predictions(targets, np.roll(outputs, 1), outputs, kind="regression")
    assert [each.name for each in made] == ["Pearson", "Spearman", "mean squared error"]
    assert made[0].p_value < 0.01


# Several runs.


def runs() -> list[Scores]:
    targets, _ = single()
    made = [probabilities(len(targets), 3, seed=seed, targets=targets) for seed in range(4)]
    return [score_single(targets, outputs, names=NAMES, num_resamples=0) for outputs in made]


def test_runs_have_a_mean_and_a_deviation() -> None:
    values = [scores["accuracy"] for scores in runs()]
    spread = spreads_of(runs())[0]
    assert (spread.name, spread.count) == ("accuracy", 4)
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert str(spread) == f"accuracy = {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f} (sd of 4 runs)"
    with pytest.raises(ValueError, match=r"scores must be of at least two runs, got 1\."):
        spreads_of(runs()[:1])
    with pytest.raises(ValueError, match=r"scores must have the same metrics, got accuracy, .* and Pearson, Spearman"):
        spreads_of([runs()[0], score_regression(*numbers())])


def test_an_ensemble_is_the_mean_and_better_than_its_members() -> None:
    targets, _ = single()
    made = [probabilities(len(targets), 3, seed=seed, targets=targets) for seed in range(8)]
    np.testing.assert_allclose(ensemble(made), sum(made) / 8)
    together = score_single(targets, ensemble(made), names=NAMES, num_resamples=0)
    assert together["accuracy"] > max(scores["accuracy"] for scores in runs())
    with pytest.raises(ValueError, match=r"outputs must be of one shape, got \(97, 3\), \(4, 3\)\."):
        ensemble([made[0], made[1][:4]])
    with pytest.raises(ValueError, match=r"outputs must be of one shape, got none\."):
        ensemble([])


# Words.


def test_scores_are_printed_and_kept() -> None:
    targets, outputs = single()
    scores = score_outputs(targets, outputs, kind="single", names=NAMES)
    assert scores == score_single(targets, outputs, names=NAMES)
    low, high = scores.metrics[0].interval or (0, 0)
    assert str(scores).split("\n")[-1] == scores.signature
    assert "bs:" not in score_single(targets, outputs * 0.995, names=NAMES, num_resamples=0).signature
    assert str(scores).split("\n")[0] == f"accuracy = {scores['accuracy']:.4f} [{low:.4f}, {high:.4f}]"
    assert scores.signature.startswith("n:97|bs:1000|seed:12345|scikit-learn:1.")
    record = json.loads(json.dumps(scores.as_record()))
    assert record["metrics"][0] == {"name": "accuracy", "score": scores["accuracy"], "interval": [low, high]}
    assert score_outputs(*several(), kind="multi", names="abcd").kind == "multi"
    assert score_outputs(*numbers(), kind="regression", names=()).kind == "regression"


def test_the_loss_of_predictions_is_scikit_learns() -> None:
    targets, outputs = single()
    clipped = np.clip(outputs, 1e-7, 1)
    expected = -np.log(clipped[np.arange(len(targets)), targets]).mean()
    assert prediction_loss(targets, outputs, kind="single") == pytest.approx(expected, rel=1e-6)
    mixed = 0.9 * outputs + 0.1 / 3  # scikit-learn makes rows with 0 add up to 1 again
    expected = reference.log_loss(targets, mixed, labels=range(3))
    assert prediction_loss(targets, mixed, kind="single") == pytest.approx(expected, rel=1e-9)
    targets, outputs = several()
    outputs = np.clip(outputs, 0.01, 0.99)
    each = [reference.log_loss(targets[:, label], outputs[:, label], labels=[0, 1]) for label in range(4)]
    assert prediction_loss(targets, outputs, kind="multi") == pytest.approx(np.mean(each), rel=1e-9)
    targets, outputs = numbers()
    expected = reference.mean_squared_error(targets, outputs)
    assert prediction_loss(targets, outputs, kind="regression") == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_a_sure_mistake_is_finite() -> None:
    assert prediction_loss(np.array([0]), np.array([[0.0, 1.0]], np.float32), kind="single") == pytest.approx(
        16.118, abs=1e-3
    )
    assert np.isfinite(prediction_loss(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), kind="multi"))


def test_predictions_are_lines_of_index_name_and_probability() -> None:
    outputs = np.array([[0.25, 0.75], [0.625, 0.5]])
    assert prediction_lines(outputs, kind="single", names=("no", "y\te s")) == [
        "index\tprediction\tprobability",
        "0\ty\\te s\t0.750000",
        "1\tno\t0.625000",
    ]
    assert prediction_lines(outputs, kind="multi", names=("a", "b"))[1:] == [
        "0\tb\t0.750000",
        "1\ta|b\t0.625000|0.500000",
    ]
    assert prediction_lines(outputs[0], kind="regression", names=()) == ["index\tprediction", "0\t0.25", "1\t0.75"]


def test_predictions_of_two_runs_are_read_again_as_labels(tmp_path: Path) -> None:
    for kind, names, (_, outputs), settings in (
        ("single", NAMES, single(), {}),
        ("multi", tuple("abcd"), several(), {"label_separator": "|"}),
    ):
        path = tmp_path / f"{kind}.tsv"
        path.write_text("\n".join([*prediction_lines(outputs, kind=kind, names=names), ""]))
        read = read_labelled(path, Fields(text_columns=("index",), label_column="prediction", **settings))
        predicted = Labels(kind=kind, names=names).encode(read)
        assert np.array_equal(predicted, outputs.argmax(axis=1) if kind == "single" else outputs >= 0.5)


HARD = (
    "a",
    "b",
    "a|b",
    "a\\x7cb",
    "a\tb",
    "a b",
    "a\u00a0b",
    "a  b",
    " a",
    "a\u00a0",
    "a\nb",
    "a\u2028b",
    "a\r",
    "\\",
    "a\x85b",
    "a\x1fb",
)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_every_name_of_a_label_is_read_again(tmp_path: Path, kind: str) -> None:
    written = [written_label(name, kind=kind) for name in HARD]
    assert len(set(written)) == len(HARD)
    assert written[:2] == ["a", "b"]
    assert written[5:8] == list(HARD[5:8])
    assert written[2] == ("a|b" if kind == "single" else "a\\x7cb")
    generator = np.random.default_rng(2)
    outputs = np.eye(len(HARD)) if kind == "single" else generator.random((40, len(HARD)))
    path = tmp_path / "predictions.tsv"
    path.write_text("\n".join([*prediction_lines(outputs, kind=kind, names=HARD), ""]))
    settings = {"label_separator": "|"} if kind == "multi" else {}
    read = read_labelled(path, Fields(text_columns=("index",), label_column="prediction", **settings))
    predicted = Labels(kind=kind, names=tuple(written)).encode(read)
    assert np.array_equal(predicted, outputs.argmax(axis=1) if kind == "single" else outputs >= 0.5)


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.array([0, 1])}, r"as many, got 2 targets and 3 predictions\."),
        ({"targets": np.array([0, 1, 2])}, r"targets must be from 0 to 1, the number of a class, got 2\."),
        ({"targets": np.array([0, -1, 1])}, r"targets must be from 0 to 1, the number of a class, got -1\."),
        ({"outputs": np.full((3, 2), np.nan)}, r"predictions must be finite, got \[nan nan\] in row 0\."),
        ({"outputs": np.array([[0.5, 0.5]] * 2 + [[3, -1]])}, r"from 0 to 1, got -1 to 3\. Take the softmax"),
        ({"outputs": np.array([[0.5, 0.5]] * 2 + [[0.5, 0.1]])}, r"up to 1 in each row, got 0\.6000 in row 2\."),
        ({"outputs": np.array([[0.5, 0.5]] * 2 + [[0.5, 0.45]])}, r"up to 1 in each row, got 0\.9500 in row 2\."),
        ({"outputs": np.array([[0.5, 0.5]] * 2 + [[1.001, 0.0]])}, r"from 0 to 1, got 0 to 1\.001\. Take the softmax"),
        ({"names": ("a", "b", "c")}, r"a column for each name, got 2 columns and 3 names\."),
        ({"num_resamples": -1}, r"num_resamples must be 0 \(no interval\) or more, got num_resamples=-1\."),
        ({"targets": np.zeros(0, dtype=int), "outputs": np.zeros((0, 2))}, r"at least one text, got none\."),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str) -> None:
    arguments = {"targets": np.array([0, 1, 1]), "outputs": np.full((3, 2), 0.5), "names": ("a", "b"), **change}
    with pytest.raises(ValueError, match=message):
        score_outputs(**arguments, kind="single")


def test_predictions_that_do_not_suit_the_kind_are_refused() -> None:
    targets, outputs = single()
    with pytest.raises(ValueError, match=r"for kind=single, got int64\[97\] and float64\[97, 3\]\. Take the class"):
        compare_predictions(targets, outputs, outputs, kind="single")
    with pytest.raises(ValueError, match=r"num_resamples must be at least 1 for a paired test, got num_resamples=0\."):
        compare_predictions(targets, targets, targets, kind="single", num_resamples=0)
    with pytest.raises(ValueError, match=r"labels of kind=multi must be 0 or 1 in each column, got other numbers\."):
        compare_predictions(*[several()[1]] * 3, kind="multi")


def test_a_label_is_predicted_from_the_threshold_on() -> None:
    scores = score_multi(np.array([[1.0], [0.0]]), np.array([[0.5], [0.49]]), names="a", threshold=0.5)
    assert scores["micro F1"] == scores["all labels right"] == 1
