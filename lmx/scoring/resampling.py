"""Bootstrap resamples of the measures of classification and regression, counted all at once.

A measure takes the rows drawn for some resamples and returns each score of each of them; `resample` draws. On the rows
as they are, every measure equals scikit-learn's function of that name, which is what the tests ask.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

NUM_RESAMPLES = 1000
SEED = 12345
NUM_BINS = 15  # Of the calibration error, as Guo et al. 2017.
BIAS_LIMIT = 0.25  # of a standard deviation; what is below "can usually be ignored"
CHUNK = 1 << 21  # Drawn rows that are held at a time.

Draws = Int[np.ndarray, "resamples texts"]
Resampled = dict[str, Float[np.ndarray, " resamples"]]
Measure = Callable[[Draws], Resampled]


def resample(measures: Sequence[Measure], size: int, num_resamples: int, seed: int) -> Resampled:
    """Returns the scores of test sets drawn with replacement; the same seed and size draw the same texts."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // size)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, num_resamples, step):
        draws = generator.integers(size, size=(min(step, num_resamples - start), size))
        for measure in measures:
            for name, scores in measure(draws).items():
                parts.setdefault(name, []).append(scores)
    return {name: np.concatenate(scores) for name, scores in parts.items()}


def interval_of(scores: Float[np.ndarray, " resamples"], score: float) -> tuple[float, float] | None:
    """Returns the range that leaves out 2.5% at each end, of the resamples on which the score is defined.

    None where that range would not be one of the score, see `speak_for`.

    Args:
        scores: of the resamples.
        score: of the test set itself.
    """
    defined = scores[~np.isnan(scores)]
    if not defined.size:
        return None
    low, high = map(float, np.percentile(defined, [2.5, 97.5]))
    return (low, high) if speak_for(score, defined, low=low, high=high) else None


def speak_for(score: float, scores: Float[np.ndarray, " resamples"], *, low: float, high: float) -> bool:
    """Returns whether an interval from resamples says something of the score that they stand for.

    It does not where no resample differs: of a test set without a mistake, another one may have some. Nor where the
    mean of the resamples is off the score by more than a quarter of their standard deviation, beyond what this number
    of resamples leaves open (Efron and Tibshirani 1993, section 10.3): a calibration error grows with each text that is
    drawn twice, and of many rare classes a resample misses some.

    Args:
        scores: of the resamples, where they are defined.
        low, high: the interval in question.
    """
    spread = float(np.std(scores))
    if spread <= 1e-9 * max(1.0, abs(score)):
        return False
    allowed = (BIAS_LIMIT + 3 / math.sqrt(len(scores))) * spread
    return bool(low <= score <= high and abs(np.mean(scores) - score) <= allowed)


def measure_classes(
    targets: Int[np.ndarray, " texts"], predicted: Int[np.ndarray, " texts"], *, num_classes: int
) -> Measure:
    """Measures accuracy, macro and micro F1 and Matthews' coefficient, without the whole of a confusion matrix."""
    correct = (targets == predicted).astype(np.float64)

    def measure(draws: Draws) -> Resampled:
        size = draws.shape[1]
        true, guessed = _sums(targets[draws], num_classes), _sums(predicted[draws], num_classes)
        right = _sums(targets[draws], num_classes, correct[draws])
        hits = right.sum(axis=1)
        spread = (size**2 - (true**2).sum(axis=1)) * (size**2 - (guessed**2).sum(axis=1))
        matthews = (hits * size - (true * guessed).sum(axis=1)) / np.sqrt(np.maximum(spread, 1))
        accuracy = hits / size
        macro = _macro(2 * right, true + guessed)
        return {"accuracy": accuracy, "macro F1": macro, "micro F1": accuracy, "Matthews": matthews}

    return measure


def measure_auroc(targets: Int[np.ndarray, " texts"], scores: Float[np.ndarray, " texts"]) -> Measure:
    """Measures the area under the ROC curve: the share of pairs (positive, negative) in order, ties as a half."""
    order = np.argsort(scores, kind="stable")
    starts = _starts(scores[order])
    positive = targets[order] == 1

    def measure(draws: Draws) -> Resampled:
        weights = _weights(draws)[:, order]
        above = np.add.reduceat(weights * positive, starts, axis=1)
        below = np.add.reduceat(weights * ~positive, starts, axis=1)
        ordered = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        pairs = above.sum(axis=1) * below.sum(axis=1)
        return {"AUROC": np.where(pairs > 0, ordered / np.maximum(pairs, 1), np.nan)}

    return measure


def measure_calibration(confidence: Float[np.ndarray, " texts"], correct: Bool[np.ndarray, " texts"]) -> Measure:
    """Measures the expected calibration error, that of `Calibration`."""
    bins, gaps = bins_of(confidence), correct - confidence

    def measure(draws: Draws) -> Resampled:
        return {"calibration error": np.abs(_sums(bins[draws], NUM_BINS, gaps[draws])).sum(axis=1) / draws.shape[1]}

    return measure


def measure_labels(true: Bool[np.ndarray, "texts C"], predicted: Bool[np.ndarray, "texts C"]) -> Measure:
    """Measures micro and macro F1 of several labels, and the share of texts that have all of them right."""
    right = (true & predicted).astype(np.float64)
    all_of_them = true.astype(np.float64) + predicted
    exact = (true == predicted).all(axis=1).astype(np.float64)

    def measure(draws: Draws) -> Resampled:
        weights = _weights(draws)
        hits, members = 2 * weights @ right, weights @ all_of_them
        micro = hits.sum(axis=1) / np.maximum(members.sum(axis=1), 1)
        return {
            "micro F1": micro,
            "macro F1": _macro(hits, members),
            "all labels right": weights @ exact / draws.shape[1],
        }

    return measure


def measure_numbers(true: Float[np.ndarray, " texts"], predicted: Float[np.ndarray, " texts"]) -> Measure:
    """Measures Pearson's and Spearman's correlation and the mean squared error of real numbers."""

    def measure(draws: Draws) -> Resampled:
        weights = _weights(draws)
        return {
            "Pearson": correlation(true[None], predicted[None], weights),
            "Spearman": correlation(ranks(true, weights), ranks(predicted, weights), weights),
            "mean squared error": weights @ (true - predicted) ** 2 / draws.shape[1],
        }

    return measure


def bins_of(confidence: Float[np.ndarray, " texts"]) -> Int[np.ndarray, " texts"]:
    """Returns the bin (edge, next edge] of each confidence."""
    return np.searchsorted(np.arange(1, NUM_BINS) / NUM_BINS, confidence, side="left")


def correlation(
    first: Float[np.ndarray, "#resamples texts"],
    second: Float[np.ndarray, "#resamples texts"],
    weights: Float[np.ndarray, "resamples texts"],
) -> Float[np.ndarray, " resamples"]:
    """Returns Pearson's correlation with each value repeated by its weight; 0 where one side does not vary."""
    size = weights.sum(axis=1, keepdims=True)
    # Numbers that are all alike leave about this much by rounding.
    floors = [size[:, 0] * (16 * np.finfo(np.float64).eps * np.abs(side).max(axis=1)) ** 2 for side in (first, second)]
    first = first - (weights * first).sum(axis=1, keepdims=True) / size
    second = second - (weights * second).sum(axis=1, keepdims=True) / size
    squares = [(weights * side**2).sum(axis=1) for side in (first, second)]
    varies = (squares[0] > floors[0]) & (squares[1] > floors[1])
    scale = np.sqrt(np.where(varies, squares[0] * squares[1], 1))
    return np.where(varies, (weights * first * second).sum(axis=1) / scale, 0)


def ranks(
    values: Float[np.ndarray, " texts"], weights: Float[np.ndarray, "resamples texts"]
) -> Float[np.ndarray, "resamples texts"]:
    """Returns the rank of each value, the mean of ranks among equals, with each value repeated by its weight."""
    _, group_of = np.unique(values, return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    sizes = np.add.reduceat(weights[:, order], _starts(group_of[order]), axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group_of]


def _macro(
    twice_right: Float[np.ndarray, "resamples C"], members: Float[np.ndarray, "resamples C"]
) -> Float[np.ndarray, " resamples"]:
    """Returns the mean F1 over the classes that occur as truth or prediction."""
    f1 = twice_right / np.maximum(members, 1)
    return f1.sum(axis=1) / np.maximum((members > 0).sum(axis=1), 1)


def _starts(ordered: np.ndarray) -> Int[np.ndarray, " groups"]:
    """Returns where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _weights(draws: Draws) -> Float[np.ndarray, "resamples texts"]:
    """Returns how often each row was drawn."""
    return _sums(draws, draws.shape[1])


def _sums(
    groups: Int[np.ndarray, "resamples texts"],
    num_groups: int,
    values: Float[np.ndarray, "resamples texts"] | None = None,
) -> Float[np.ndarray, "resamples groups"]:
    """Returns the sum of the values of each group (how many there are, without values) for each resample."""
    flat = (groups + num_groups * np.arange(len(groups))[:, None]).ravel()
    sums = np.bincount(flat, None if values is None else values.ravel(), minlength=num_groups * len(groups))
    return sums.reshape(len(groups), num_groups).astype(np.float64)
