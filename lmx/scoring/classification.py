"""Scores predictions of classes, of several labels and of real numbers: scikit-learn's measures, with intervals.

Lives here: the scores of a test set with intervals, a table by class, the confusion matrix, calibration, paired tests
between two systems, the spread over seeds, the mean of several models, and predictions as lines of text. The numbers
are scikit-learn's own where it has them.
Lives elsewhere: the bootstrap (lmx/scoring/resampling.py), which number stands for which name (lmx/data/labels.py), the
model, files (lmx/run.py).

All scores are fractions, as scikit-learn has them: 0.912, where a paper may write 91.2.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lmx.scoring.resampling import (
    NUM_BINS,
    NUM_RESAMPLES,
    SEED,
    Measure,
    bins_of,
    correlation,
    interval_of,
    measure_auroc,
    measure_calibration,
    measure_classes,
    measure_labels,
    measure_numbers,
    ranks,
    resample,
)

Kind = Literal["single", "multi", "regression"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about a test set.

    Attributes:
        name: such as `accuracy` or `macro F1`.
        score: its value.
        interval: 95% percentile interval of the bootstrap; None if it was not asked for, or if the resamples cannot
            speak for this score (`lmx.scoring.resampling.speak_for`). It says how much the choice of test texts
            matters, not how much the seed of the training does.
    """

    name: str
    score: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        """Returns the number on one line, ready for a log."""
        interval = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        return f"{self.name} = {self.score:.4f}{interval}"


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class of the table: 0 where nothing was predicted or nothing is there, as in scikit-learn."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidence is from accuracy; the data of a reliability diagram.

    Source: Guo et al. 2017. The confidence of a text is the probability of its predicted class; a bin holds those in
    (edge, next edge]. The error is biased upwards where bins hold few texts.

    Attributes:
        error: expected calibration error: the mean over texts of |accuracy - confidence| of their bin.
        edges: of the bins, of equal width from 0 to 1; one more than bins.
        counts: texts in each bin.
        confidence: mean in each bin; 0 where it is empty.
        accuracy: of each bin; 0 where it is empty.
    """

    error: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All that a test set says about one system.

    Attributes:
        kind: of the labels.
        metrics: the numbers to report, the main one first.
        classes: the table by class; empty for regression.
        confusion: texts by true class (row) and predicted class (column); None unless texts have one class each.
        calibration: None unless texts have one class each.
        signature: how the numbers were made.
    """

    kind: Kind
    metrics: tuple[Metric, ...]
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    calibration: Calibration | None = None
    signature: str

    def __getitem__(self, name: str) -> float:
        """Returns the score of a metric by its name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric.score
        raise KeyError(f"name must be one of {', '.join(metric.name for metric in self.metrics)}, got name={name}.")

    def __str__(self) -> str:
        """Returns a line for each metric, and the signature."""
        return "\n".join([*map(str, self.metrics), self.signature])

    def as_record(self) -> dict[str, Any]:
        """Returns all of it as a record for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same texts, and whether the difference could be chance.

    Attributes:
        name: the metric.
        test: `paired bootstrap`, or `exact McNemar`, which asks about accuracy alone.
        baseline: the first system's score.
        system: the second system's score.
        interval: 95% interval of the difference `system - baseline`; None for McNemar, and where the resamples cannot
            speak for the difference.
        p_value: probability of so large a difference, in either direction, if the systems were equally good.
        signature: how it was made.
    """

    name: str
    test: str
    baseline: float
    system: float
    interval: tuple[float, float] | None
    p_value: float
    signature: str

    @property
    def difference(self) -> float:
        """How much higher the second system's score is."""
        return self.system - self.baseline

    def __str__(self) -> str:
        """Returns the comparison on one line, ready for a log."""
        interval = f" [{self.interval[0]:+.4f}, {self.interval[1]:+.4f}]" if self.interval else ""
        return (
            f"{self.name}: {self.baseline:.4f} -> {self.system:.4f} ({self.difference:+.4f}{interval}, "
            f"p = {self.p_value:.4f}, {self.test}|{self.signature})"
        )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over several seeds or folds.

    Attributes:
        name: the metric.
        mean: over the runs.
        deviation: standard deviation of a run, with n - 1 below; divide by sqrt(n) for that of the mean.
        count: of runs, n.
    """

    name: str
    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        """Returns for instance `accuracy = 0.9120 +- 0.0031 (sd of 5 runs)`."""
        return f"{self.name} = {self.mean:.4f} +- {self.deviation:.4f} (sd of {self.count} runs)"


def score_outputs(
    targets: np.ndarray,
    outputs: np.ndarray,
    *,
    kind: Kind,
    names: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Scores by the kind of the labels: `score_single`, `score_multi` or `score_regression`."""
    settings = {"num_resamples": num_resamples, "seed": seed}
    if kind == "single":
        return score_single(targets, outputs, names=names, **settings)
    if kind == "multi":
        return score_multi(targets, outputs, names=names, **settings)
    return score_regression(targets, outputs, **settings)


def score_single(
    targets: Int[np.ndarray, " targets"],
    probabilities: Float[np.ndarray, "texts C"],
    *,
    names: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Returns the scores of texts that have one class each; the predicted class is the most probable.

    Accuracy, macro F1 (over the classes that occur as truth or prediction), micro F1 (here the accuracy again),
    Matthews' coefficient, for two classes the area under the ROC curve (the second class is the positive one; left out
    where the test set has one class only), and the calibration error in 15 bins of equal width.

    Args:
        targets: number of each text's class.
        probabilities: of each class; a row adds up to 1.
        names: of the classes, in the order of the columns.
        num_resamples: for the intervals; 0 leaves them out.
        seed: of the resamples.

    Raises:
        ValueError: nothing to score, sides of different length, or no probabilities.
    """
    _check(targets, probabilities, num_resamples=num_resamples)
    _check_probabilities(probabilities, names=names)
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-2):
        row = int(np.argmax(np.abs(probabilities.sum(axis=1) - 1)))
        raise ValueError(
            f"probabilities must add up to 1 in each row, got {probabilities[row].sum():.4f} in row {row}. "
            "Take the softmax of logits."
        )
    if targets.min() < 0 or targets.max() >= len(names):
        wrong = int(targets.min() if targets.min() < 0 else targets.max())
        raise ValueError(f"targets must be from 0 to {len(names) - 1}, the number of a class, got {wrong}.")
    metrics = load_scikit_learn()
    # The sums below are over all texts: not in the float32 of a model.
    probabilities = probabilities.astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    scores = _class_scores(metrics, targets, predicted)
    measures = [measure_classes(targets, predicted, num_classes=len(names))]
    if len(names) == 2 and len(np.unique(targets)) == 2:
        scores["AUROC"] = float(metrics.roc_auc_score(targets, probabilities[:, 1]))
        measures.append(measure_auroc(targets, probabilities[:, 1]))
    confidence, correct = probabilities.max(axis=1), predicted == targets
    calibration = _calibration(confidence, correct)
    scores["calibration error"] = calibration.error
    measures.append(measure_calibration(confidence, correct))
    return Scores(
        kind="single",
        metrics=_with_intervals(scores, measures, len(targets), num_resamples=num_resamples, seed=seed),
        classes=_table(targets, predicted, names=names),
        confusion=_integers(metrics.confusion_matrix(targets, predicted, labels=range(len(names)))),
        calibration=calibration,
        signature=_signature(len(targets), num_resamples=num_resamples, seed=seed),
    )


def score_multi(
    targets: Int[np.ndarray, "targets C"] | Float[np.ndarray, "targets C"],
    probabilities: Float[np.ndarray, "texts C"],
    *,
    names: Sequence[str],
    threshold: float = 0.5,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Returns the scores of texts that have any number of labels.

    Micro F1, macro F1 (over the labels that occur as truth or prediction), and the share of texts all of whose labels
    are right.

    Args:
        targets: 1 where a text has the label, else 0.
        probabilities: of each label, by itself.
        names: of the labels, in the order of the columns.
        threshold: a label is predicted from this probability on.
        num_resamples: for the intervals; 0 leaves them out.
        seed: of the resamples.

    Raises:
        ValueError: nothing to score, sides of different length, or no probabilities.
    """
    _check(targets, probabilities, num_resamples=num_resamples)
    _check_probabilities(probabilities, names=names)
    true, predicted = _zeros_and_ones(targets), probabilities >= threshold
    metrics = load_scikit_learn()
    return Scores(
        kind="multi",
        metrics=_with_intervals(
            _multi_scores(metrics, true, predicted),
            [measure_labels(true, predicted)],
            len(true),
            num_resamples=num_resamples,
            seed=seed,
        ),
        classes=_table(true, predicted, names=names),
        signature=_signature(len(true), num_resamples=num_resamples, seed=seed) + f"|threshold:{threshold:g}",
    )


def score_regression(
    targets: Float[np.ndarray, " targets"],
    predicted: Float[np.ndarray, " texts"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Returns the scores of real numbers: Pearson's and Spearman's correlation, and the mean squared error.

    A correlation with numbers that are all alike is not defined, and is returned as 0.

    Raises:
        ValueError: nothing to score, sides of different length, or numbers that are not finite.
    """
    _check(targets, predicted, num_resamples=num_resamples)
    true, predicted = targets.astype(np.float64), predicted.astype(np.float64)
    return Scores(
        kind="regression",
        metrics=_with_intervals(
            _regression_scores(load_scikit_learn(), true, predicted),
            [measure_numbers(true, predicted)],
            len(true),
            num_resamples=num_resamples,
            seed=seed,
        ),
        signature=_signature(len(true), num_resamples=num_resamples, seed=seed),
    )


def compare_predictions(
    targets: np.ndarray,
    baseline: np.ndarray,
    system: np.ndarray,
    *,
    kind: Kind,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> tuple[Comparison, ...]:
    """Returns paired tests between two systems on the same texts.

    The paired bootstrap scores both on the same resamples; its p-value is the share of resamples whose difference is
    off the observed one by at least its size (two-sided, Efron and Tibshirani 1993, section 16.4). For texts with one
    class each, the exact McNemar test of the accuracy comes first: it asks how the texts that only one system has right
    divide between the two (Dietterich 1998).

    Args:
        targets: the truth, as in the function that scores this kind.
        baseline: the first system's predictions, not probabilities: numbers of classes, 0 and 1, or real numbers.
        system: the second system's, of the same texts.
        kind: of the labels.
        num_resamples: at least 1. The smallest p-value it can show is 1 / (num_resamples + 1).
        seed: of the resamples.

    Raises:
        ValueError: nothing to score, sides of different length, or no resamples.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1 for a paired test, got num_resamples={num_resamples}.")
    for predicted in (baseline, system):
        _check(targets, predicted, num_resamples=num_resamples)
        if targets.shape != predicted.shape or (kind == "single") != np.issubdtype(predicted.dtype, np.integer):
            raise ValueError(
                f"predictions must be as targets are for kind={kind}, got {targets.dtype}{list(targets.shape)} and "
                f"{predicted.dtype}{list(predicted.shape)}. Take the class or the label of probabilities."
            )
    metrics = load_scikit_learn()
    signature = _signature(len(targets), num_resamples=num_resamples, seed=seed)
    comparisons = []
    if kind == "single":
        num_classes = int(max(side.max() for side in (targets, baseline, system))) + 1
        comparisons.append(_mcnemar(baseline == targets, system == targets))
        scores = [_class_scores(metrics, targets, side) for side in (baseline, system)]
        measures = [measure_classes(targets, side, num_classes=num_classes) for side in (baseline, system)]
    elif kind == "multi":
        true, sides = _zeros_and_ones(targets), [_zeros_and_ones(side) for side in (baseline, system)]
        scores = [_multi_scores(metrics, true, side) for side in sides]
        measures = [measure_labels(true, side) for side in sides]
    else:
        true, sides = targets.astype(np.float64), [side.astype(np.float64) for side in (baseline, system)]
        scores = [_regression_scores(metrics, true, side) for side in sides]
        measures = [measure_numbers(true, side) for side in sides]
    before, after = (resample([measure], len(targets), num_resamples, seed) for measure in measures)
    for name in scores[0]:
        if name == "micro F1" and kind == "single":  # The accuracy again.
            continue
        difference = scores[1][name] - scores[0][name]
        differences = after[name] - before[name]
        # A difference that rounding makes a hair smaller is as large.
        num_larger = int(np.sum(np.abs(differences - difference) >= abs(difference) - 1e-12))
        comparisons.append(
            Comparison(
                name=name,
                test="paired bootstrap",
                baseline=scores[0][name],
                system=scores[1][name],
                interval=interval_of(differences, difference) if differences.any() else (0.0, 0.0),
                p_value=(num_larger + 1) / (num_resamples + 1),
                signature=signature,
            )
        )
    return tuple(comparisons)


def prediction_loss(targets: np.ndarray, outputs: np.ndarray, *, kind: Kind) -> float:
    """Returns the mean over texts of what predictions cost: a number that falls also where no label changes.

    Nats of the probability of the class, of each label's 0 or 1 in the mean over labels, or the squared error. A
    probability of 0 counts as 1e-7: float32 knows none between that and 1's neighbours.
    """
    outputs = outputs.astype(np.float64)
    if kind == "regression":
        return float(np.square(outputs - targets).mean())
    outputs = np.clip(outputs, 1e-7, 1 - 1e-7)
    if kind == "multi":
        return float(-np.where(targets > 0, np.log(outputs), np.log1p(-outputs)).mean())
    return float(-np.log(outputs[np.arange(len(targets)), targets]).mean())


def spreads_of(scores: Sequence[Scores]) -> tuple[Spread, ...]:
    """Returns mean and standard deviation of each metric over runs that differ in seed or fold.

    Raises:
        ValueError: there are fewer than two runs, or they have different metrics.
    """
    names = [metric.name for metric in scores[0].metrics] if scores else []
    if len(scores) < 2:
        raise ValueError(f"scores must be of at least two runs, got {len(scores)}.")
    for each in scores:
        if (others := [metric.name for metric in each.metrics]) != names:
            raise ValueError(f"scores must have the same metrics, got {', '.join(names)} and {', '.join(others)}.")
    spreads = []
    for name in names:
        values = np.array([each[name] for each in scores])
        spreads.append(
            Spread(name=name, mean=float(values.mean()), deviation=float(values.std(ddof=1)), count=len(values))
        )
    return tuple(spreads)


def ensemble(outputs: Sequence[Float[np.ndarray, "texts *C"]]) -> Float[np.ndarray, "texts *C"]:
    """Returns the mean of what several models say of the same texts: probabilities, or real numbers.

    Raises:
        ValueError: there is none, or their shapes differ.
    """
    shapes = [each.shape for each in outputs]
    if len(set(shapes)) != 1:
        raise ValueError(f"outputs must be of one shape, got {', '.join(map(str, shapes)) or 'none'}.")
    return np.mean(np.stack(outputs), axis=0)


def prediction_lines(
    outputs: Float[np.ndarray, "texts *C"], *, kind: Kind, names: Sequence[str], threshold: float = 0.5
) -> list[str]:
    """Returns the lines of a `predictions.tsv`, a header first: index, prediction by name, its probability.

    Several labels of one text, and their probabilities, have `|` between; real numbers have no probability. Names are
    as `written_label` gives them. The file is read again, to compare two runs, as labels in its column `prediction`,
    with `label_separator="|"` where texts have several.
    """
    if kind == "regression":
        return ["index\tprediction", *(f"{index}\t{float(value)!r}" for index, value in enumerate(outputs))]
    names = [written_label(name, kind=kind) for name in names]
    lines = ["index\tprediction\tprobability"]
    for index, row in enumerate(outputs):
        chosen = [int(row.argmax())] if kind == "single" else np.flatnonzero(row >= threshold).tolist()
        shown = "|".join(names[number] for number in chosen), "|".join(f"{row[number]:.6f}" for number in chosen)
        lines.append("\t".join([str(index), *shown]))
    return lines


def written_label(name: str, *, kind: Kind) -> str:
    r"""Returns a label's name as a file of tables has it: what would separate is escaped, so that it is read back.

    Tabs, line ends and other control characters, white space at an end, the backslash itself, and `|` where a text may
    have several labels, are escaped as in Python: `a|b` is `a\x7cb`. All other names are as they are.
    """
    separating = _SEPARATES_SEVERAL if kind == "multi" else _SEPARATES
    return separating.sub(lambda found: _escaped(found[0]), name)


def _escaped(character: str) -> str:
    code = ord(character)
    known = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    return known.get(character, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


_SEPARATES = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]|^\s|\s$")
_SEPARATES_SEVERAL = re.compile(rf"{_SEPARATES.pattern}|\|")


# The scores themselves.


def _class_scores(
    metrics: Any, targets: Int[np.ndarray, " texts"], predicted: Int[np.ndarray, " texts"]
) -> dict[str, float]:
    # Of a single class scikit-learn says 0 too, with a warning.
    several = len(np.union1d(targets, predicted)) > 1
    return {
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
        # Without a list of labels: those that occur as truth or prediction.
        "macro F1": float(metrics.f1_score(targets, predicted, average="macro", zero_division=0)),
        "micro F1": float(metrics.f1_score(targets, predicted, average="micro")),
        "Matthews": float(metrics.matthews_corrcoef(targets, predicted)) if several else 0.0,
    }


def _multi_scores(
    metrics: Any, true: Bool[np.ndarray, "texts C"], predicted: Bool[np.ndarray, "texts C"]
) -> dict[str, float]:
    present = np.flatnonzero((true | predicted).any(axis=0))
    f1 = {
        average: float(metrics.f1_score(true, predicted, labels=present, average=average, zero_division=0))
        if present.size
        else 0.0
        for average in ("micro", "macro")
    }
    exact = float(metrics.accuracy_score(true, predicted))
    return {"micro F1": f1["micro"], "macro F1": f1["macro"], "all labels right": exact}


def _regression_scores(
    metrics: Any, true: Float[np.ndarray, " texts"], predicted: Float[np.ndarray, " texts"]
) -> dict[str, float]:
    once = np.ones((1, len(true)))
    return {
        "Pearson": float(correlation(true[None], predicted[None], once)[0]),
        "Spearman": float(correlation(ranks(true, once), ranks(predicted, once), once)[0]),
        "mean squared error": float(metrics.mean_squared_error(true, predicted)),
    }


def _table(targets: np.ndarray, predicted: np.ndarray, *, names: Sequence[str]) -> tuple[ClassScore, ...]:
    columns = load_scikit_learn().precision_recall_fscore_support(
        targets, predicted, labels=range(len(names)), zero_division=0
    )
    return tuple(
        ClassScore(name=name, precision=float(precision), recall=float(recall), f1=float(f1), support=int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    )


def _calibration(confidence: Float[np.ndarray, " texts"], correct: Bool[np.ndarray, " texts"]) -> Calibration:
    bins = bins_of(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (confidence, correct)]
    means = [each / np.maximum(counts, 1) for each in sums]
    return Calibration(
        error=float(np.abs(sums[1] - sums[0]).sum() / len(bins)),
        edges=tuple((np.arange(NUM_BINS + 1) / NUM_BINS).tolist()),
        counts=tuple(counts.tolist()),
        confidence=tuple(means[0].tolist()),
        accuracy=tuple(means[1].tolist()),
    )


def _mcnemar(before: Bool[np.ndarray, " texts"], after: Bool[np.ndarray, " texts"]) -> Comparison:
    lost, won = int(np.sum(before & ~after)), int(np.sum(~before & after))
    # Under equality, each text that one system alone has right is a toss of a coin: twice the smaller tail.
    tail, term = 0, 1
    for successes in range(min(lost, won) + 1):
        tail += term
        term = term * (lost + won - successes) // (successes + 1)
    return Comparison(
        name="accuracy",
        test="exact McNemar",
        baseline=float(before.mean()),
        system=float(after.mean()),
        interval=None,
        p_value=min(1.0, 2 * tail / 2 ** (lost + won)),
        signature=f"n:{len(before)}|baseline alone right:{lost}|system alone right:{won}",
    )


def _with_intervals(
    scores: dict[str, float], measures: Sequence[Measure], size: int, *, num_resamples: int, seed: int
) -> tuple[Metric, ...]:
    resampled = resample(measures, size, num_resamples, seed)
    return tuple(
        Metric(name=name, score=float(score), interval=interval_of(resampled[name], score) if num_resamples else None)
        for name, score in scores.items()
    )


# What is asked of the arguments.


def _check(targets: np.ndarray, outputs: np.ndarray, *, num_resamples: int) -> None:
    if len(targets) != len(outputs):
        raise ValueError(
            f"targets and predictions must be as many, got {len(targets):,} targets and {len(outputs):,} predictions."
        )
    if not len(targets):
        raise ValueError("targets must hold at least one text, got none.")
    if num_resamples < 0:
        raise ValueError(f"num_resamples must be 0 (no interval) or more, got num_resamples={num_resamples}.")
    for name, values in (("targets", targets), ("predictions", outputs)):
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            raise ValueError(f"{name} must be finite, got {values[rows[0]]} in row {rows[0]}.")


def _check_probabilities(probabilities: Float[np.ndarray, "texts C"], *, names: Sequence[str]) -> None:
    if probabilities.shape[1] != len(names):
        raise ValueError(
            f"probabilities must have a column for each name, got {probabilities.shape[1]} columns and "
            f"{len(names)} names."
        )
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-5:
        raise ValueError(
            f"probabilities must be from 0 to 1, got {probabilities.min():.4g} to {probabilities.max():.4g}. "
            "Take the softmax or sigmoid of logits."
        )


def _zeros_and_ones(values: np.ndarray) -> Bool[np.ndarray, "texts C"]:
    if not np.isin(values, (0, 1)).all():
        raise ValueError("labels of kind=multi must be 0 or 1 in each column, got other numbers.")
    return values.astype(bool)


def _integers(matrix: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _signature(size: int, *, num_resamples: int, seed: int) -> str:
    import sklearn

    resamples = f"|bs:{num_resamples}|seed:{seed}" if num_resamples else ""
    return f"n:{size}{resamples}|scikit-learn:{sklearn.__version__}"


def load_scikit_learn() -> Any:
    """Returns the measures of scikit-learn; who will score later asks early.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import sklearn.metrics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "scikit-learn must be installed to score a classification. pip install 'lmx[classification]'"
        ) from error
    return sklearn.metrics
