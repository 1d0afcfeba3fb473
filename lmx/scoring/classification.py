"""Scores predictions of classes, of several labels and of real numbers: scikit-learn's measures, with intervals.

Lives here: the scores of a test set with intervals, a table by class, the confusion matrix, calibration. The numbers
are scikit-learn's own where it has them.
Lives beside it: what scores are (measures.py), paired tests between two systems (paired.py), predictions as lines of
text (predictions.py), the bootstrap (resampling.py). Lives elsewhere: which number stands for which name
(lmx/data/labels.py), the model, files (lmx/run.py).

All scores are fractions, as scikit-learn has them: 0.912, where a paper may write 91.2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lmx.scoring.measures import Calibration, ClassScore, Kind, Metric, Scores
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
    check(targets, probabilities, num_resamples=num_resamples)
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
    scores = class_scores(metrics, targets, predicted)
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
        signature=signature_of(len(targets), num_resamples=num_resamples, seed=seed),
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
    check(targets, probabilities, num_resamples=num_resamples)
    _check_probabilities(probabilities, names=names)
    true, predicted = zeros_and_ones(targets), probabilities >= threshold
    metrics = load_scikit_learn()
    return Scores(
        kind="multi",
        metrics=_with_intervals(
            multi_scores(metrics, true, predicted),
            [measure_labels(true, predicted)],
            len(true),
            num_resamples=num_resamples,
            seed=seed,
        ),
        classes=_table(_as_labels(true), _as_labels(predicted), names=names),
        signature=signature_of(len(true), num_resamples=num_resamples, seed=seed) + f"|threshold:{threshold:g}",
    )


def score_regression(
    targets: Float[np.ndarray, " targets"],
    predicted: Float[np.ndarray, " texts"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Returns the scores of real numbers: Pearson's and Spearman's correlation, and the mean squared error.

    A correlation with numbers that are all equal is not defined, and is returned as 0.

    Raises:
        ValueError: nothing to score, sides of different length, or numbers that are not finite.
    """
    check(targets, predicted, num_resamples=num_resamples)
    true, predicted = targets.astype(np.float64), predicted.astype(np.float64)
    return Scores(
        kind="regression",
        metrics=_with_intervals(
            regression_scores(load_scikit_learn(), true, predicted),
            [measure_numbers(true, predicted)],
            len(true),
            num_resamples=num_resamples,
            seed=seed,
        ),
        signature=signature_of(len(true), num_resamples=num_resamples, seed=seed),
    )


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


def ensemble(outputs: Sequence[Float[np.ndarray, "texts *C"]]) -> Float[np.ndarray, "texts *C"]:
    """Returns the mean of what several models say of the same texts: probabilities, or real numbers.

    Raises:
        ValueError: there is none, or their shapes differ.
    """
    shapes = [each.shape for each in outputs]
    if len(set(shapes)) != 1:
        raise ValueError(f"outputs must be of one shape, got {', '.join(map(str, shapes)) or 'none'}.")
    return np.mean(np.stack(outputs), axis=0)


# The scores themselves.


def class_scores(
    metrics: Any, targets: Int[np.ndarray, " texts"], predicted: Int[np.ndarray, " texts"]
) -> dict[str, float]:
    """Returns the scores of each class."""
    # Of a single class scikit-learn says 0 too, with a warning.
    several = len(np.union1d(targets, predicted)) > 1
    return {
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
        # Without a list of labels: those that occur as truth or prediction.
        "macro F1": float(metrics.f1_score(targets, predicted, average="macro", zero_division=0)),
        "micro F1": float(metrics.f1_score(targets, predicted, average="micro")),
        "Matthews": float(metrics.matthews_corrcoef(targets, predicted)) if several else 0.0,
    }


def multi_scores(
    metrics: Any, true: Bool[np.ndarray, "texts C"], predicted: Bool[np.ndarray, "texts C"]
) -> dict[str, float]:
    """Returns the metrics of texts that may have several labels."""
    present = np.flatnonzero((true | predicted).any(axis=0))
    true, predicted = _as_labels(true), _as_labels(predicted)
    f1 = {
        average: float(metrics.f1_score(true, predicted, labels=present, average=average, zero_division=0))
        if present.size
        else 0.0
        for average in ("micro", "macro")
    }
    exact = float(metrics.accuracy_score(true, predicted))
    return {"micro F1": f1["micro"], "macro F1": f1["macro"], "all labels right": exact}


def _as_labels(columns: Bool[np.ndarray, "texts C"]) -> Bool[np.ndarray, "texts columns"]:
    """Returns columns that scikit-learn reads as labels: a single one it would take for the numbers of two classes."""
    return np.pad(columns, ((0, 0), (0, 1))) if columns.shape[1] == 1 else columns


def regression_scores(
    metrics: Any, true: Float[np.ndarray, " texts"], predicted: Float[np.ndarray, " texts"]
) -> dict[str, float]:
    """Returns the metrics of real numbers."""
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


def _with_intervals(
    scores: dict[str, float], measures: Sequence[Measure], size: int, *, num_resamples: int, seed: int
) -> tuple[Metric, ...]:
    resampled = resample(measures, size, num_resamples, seed)
    return tuple(
        Metric(name=name, score=float(score), interval=interval_of(resampled[name], score) if num_resamples else None)
        for name, score in scores.items()
    )


# What is asked of the arguments.


def check(targets: np.ndarray, outputs: np.ndarray, *, num_resamples: int) -> None:
    """Raises ValueError where targets and predictions do not fit together."""
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


def zeros_and_ones(values: np.ndarray) -> Bool[np.ndarray, "texts C"]:
    """Returns columns of 0 and 1 as bools; raises ValueError for other numbers."""
    if not np.isin(values, (0, 1)).all():
        raise ValueError("labels of kind=multi must be 0 or 1 in each column, got other numbers.")
    return values.astype(bool)


def _integers(matrix: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def signature_of(size: int, *, num_resamples: int, seed: int) -> str:
    """Returns how a score was made, in the form of sacreBLEU's signatures."""
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
