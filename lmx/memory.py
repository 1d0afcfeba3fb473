"""What a run remembers from step to step beside the arrays of a checkpoint, and what validations come to."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Memory:
    """What a run remembers beside the arrays of a checkpoint: one small JSON.

    Attributes:
        best, best_step: of each seed, the lowest value of a validation so far, and where; `waited` counts its
            validations without a lower one. Empty before the first.
        losses: what validations gave by step, the mean over seeds.
        stopped_early: whether `waited` has reached the patience, of all seeds.
        sums: metrics since the last line was written, each times the weight of its step; arrays [S] of several seeds.
        spent: since the last line was written: tokens, seconds, seconds waited for data, FLOPs.
        metrics_bytes: where metrics.jsonl ended: what is behind is written again.
        unwritten: lines that a full disk has kept out of metrics.jsonl so far.
        seconds: of training so far, validations left out.
        skipped: steps that were not finite, so far.
        validation_due: whether the validation after the saved step was left out, because the run was asked to stop.
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
        """Remembers a validation, of one seed or of each; returns which of them have never been as low.

        With `patience`, so many validations without a lower value end a seed: those that follow no longer count for it.
        When all seeds have ended, so does the training.
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
        """Returns it as JSON has it; an infinite best is None there."""
        saved = dataclasses.asdict(self)
        saved["best"] = [None if math.isinf(value) else value for value in self.best]
        saved["sums"] = {name: value.tolist() for name, value in self.sums.items()}
        return saved

    @staticmethod
    def from_json(saved: Mapping[str, Any], *, path: Path = Path("memory")) -> "Memory":
        """Returns what `to_json` gave.

        Args:
            path: of the checkpoint that it is from, for messages.

        Raises:
            ValueError: it is something else; names the field.
        """
        way_out = "It may be of another version of lmx; without it the run continues from an older checkpoint."
        known = {each.name for each in dataclasses.fields(Memory)}
        if unknown := sorted(saved.keys() - known):
            raise ValueError(f"{path} must hold what a run remembers, got the unknown field {unknown[0]}. {way_out}")
        values = dict(saved)
        convert: dict[str, Callable[[Any], Any]] = {
            "best": lambda found: [math.inf if value is None else float(value) for value in found],
            "best_step": lambda found: [int(value) for value in found],
            "waited": lambda found: [int(value) for value in found],
            "losses": lambda found: {int(step): float(loss) for step, loss in found.items()},
            "sums": lambda found: {name: np.asarray(value, np.float64) for name, value in found.items()},
            "spent": lambda found: {name: float(value) for name, value in found.items()},
            "metrics_bytes": int,
            "seconds": float,
            "skipped": int,
        }
        for name, value in saved.items():
            try:
                values[name] = convert.get(name, lambda found: found)(value)
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{path} must hold what a run remembers, got {name}={value!r:.60}. {way_out}"
                ) from error
        return Memory(**values)
