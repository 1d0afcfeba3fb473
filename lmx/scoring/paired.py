"""Paired tests between two classifiers on one test set: is the difference more than chance?"""

import numpy as np
from jaxtyping import Bool

from lmx.scoring.classification import (
    check,
    class_scores,
    load_scikit_learn,
    multi_scores,
    regression_scores,
    signature_of,
    zeros_and_ones,
)
from lmx.scoring.measures import Comparison, Kind
from lmx.scoring.resampling import (
    NUM_RESAMPLES,
    SEED,
    interval_of,
    measure_classes,
    measure_labels,
    measure_numbers,
    resample,
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
        check(targets, predicted, num_resamples=num_resamples)
        if targets.shape != predicted.shape or (kind == "single") != np.issubdtype(predicted.dtype, np.integer):
            raise ValueError(
                f"predictions must be as targets are for kind={kind}, got {targets.dtype}{list(targets.shape)} and "
                f"{predicted.dtype}{list(predicted.shape)}. Take the class or the label of probabilities."
            )
    metrics = load_scikit_learn()
    signature = signature_of(len(targets), num_resamples=num_resamples, seed=seed)
    comparisons = []
    if kind == "single":
        num_classes = int(max(side.max() for side in (targets, baseline, system))) + 1
        comparisons.append(_mcnemar(baseline == targets, system == targets))
        scores = [class_scores(metrics, targets, side) for side in (baseline, system)]
        measures = [measure_classes(targets, side, num_classes=num_classes) for side in (baseline, system)]
    elif kind == "multi":
        true, sides = zeros_and_ones(targets), [zeros_and_ones(side) for side in (baseline, system)]
        scores = [multi_scores(metrics, true, side) for side in sides]
        measures = [measure_labels(true, side) for side in sides]
    else:
        true, sides = targets.astype(np.float64), [side.astype(np.float64) for side in (baseline, system)]
        scores = [regression_scores(metrics, true, side) for side in sides]
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
