"""What scores of a classifier are: metrics, scores of classes, calibration, comparisons, spreads over runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

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
