"""The memory of a run beside the arrays of a checkpoint: metrics so far, and the outcome of validations."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Memory:
    """The memory of a run beside the arrays of a checkpoint: one small JSON.

    Attributes:
        best, best_step: the lowest value of a validation so far and its step, for each seed; `waited` counts the
            validations since then. Empty before the first validation.
        losses: the value of each validation by step, the mean over seeds.
        stopped_early: whether `waited` has reached the patience for all seeds.
        sums: metrics since the last line, each times the weight of its step; arrays [E] for several seeds.
        spent: tokens, seconds, seconds waited for data and FLOPs since the last line.
        metrics_bytes: length of metrics.jsonl; what follows is written again.
        unwritten: lines that a full disk has kept out of metrics.jsonl so far.
        seconds: training time so far, without validations.
        skipped: number of steps so far that were not finite.
        validation_due: whether the validation after the saved step was skipped, because the run was asked to stop.
    """

    best: list[float] = field(default_factory=list)
    best_step: list[int] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    metrics_bytes: int = 0
    unwritten: str = ""
    seconds: float = 0.0
    skipped: int = 0
    stopped_early: bool = False
    validation_due: bool = False

    def judge(self, step: int, values: float | np.ndarray, *, patience: int | None) -> np.ndarray:
        """Remembers a validation of one or several seeds; returns which of them have a new lowest value.

        A seed ends after `patience` validations in a row without a lower value; later ones no longer count for it. The
        training ends when all seeds have ended.
        """
        values = np.atleast_1d(np.asarray(values, np.float64))
        if not self.best:
            self.best, self.best_step = [math.inf] * len(values), [0] * len(values)
            self.waited = [0] * len(values)
        self.losses[step] = float(values.mean())
        better = np.zeros(len(values), bool)
        for seed, value in enumerate(values.tolist()):
            if patience is not None and self.waited[seed] >= patience:
                continue
            better[seed] = value < self.best[seed]
            if better[seed]:
                self.best[seed], self.best_step[seed], self.waited[seed] = value, step, 0
            else:
                self.waited[seed] += 1
        self.stopped_early = patience is not None and min(self.waited) >= patience
        return better

    def to_json(self) -> dict[str, Any]:
        """Returns the memory as JSON, in which an infinite best is None."""
        saved = dataclasses.asdict(self)
        saved["best"] = [None if math.isinf(value) else value for value in self.best]
        saved["sums"] = {name: value.tolist() for name, value in self.sums.items()}
        return saved

    @staticmethod
    def from_json(saved: Mapping[str, Any], *, path: Path = Path("memory")) -> "Memory":
        """Returns the memory that `to_json` has written.

        Args:
            path: the checkpoint it is from, for messages.

        Raises:
            ValueError: it is something else; the message names the field.
        """
        way_out = "It may be of another version of lmx; without it the run continues from an older checkpoint."
        known = {each.name for each in dataclasses.fields(Memory)}
        if unknown := sorted(saved.keys() - known):
            raise ValueError(f"{path} must hold what a run remembers, got the unknown field {unknown[0]}. {way_out}")
        values = dict(saved)
        convert: dict[str, Callable[[Any], Any]] = {
            "best": lambda given: [math.inf if value is None else float(value) for value in given],
            "best_step": lambda given: [int(value) for value in given],
            "waited": lambda given: [int(value) for value in given],
            "losses": lambda given: {int(step): float(loss) for step, loss in given.items()},
            "sums": lambda given: {name: np.asarray(value, np.float64) for name, value in given.items()},
            "spent": lambda given: {name: float(value) for name, value in given.items()},
            "metrics_bytes": int,
            "seconds": float,
            "skipped": int,
        }
        for name, value in saved.items():
            try:
                values[name] = convert.get(name, lambda given: given)(value)
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{path} must hold what a run remembers, got {name}={value!r:.60}. {way_out}"
                ) from error
        return Memory(**values)
