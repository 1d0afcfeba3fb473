"""What scores.json holds of every task: written, printed and read back as one type."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score of a test set, and how it was made.

    Attributes:
        name: of the test set and the metric.
        score: ours.
        interval: 95% of it (lowest, highest), or None.
        signature: of the metric.
        made: how our outputs came about.
        published: a score to compare with, and in `published_made` how that was made.
    """

    name: str
    score: float
    interval: Sequence[float] | None
    signature: str
    made: str
    published: float | None = None
    published_made: str = ""


@dataclass(frozen=True, kw_only=True)
class SeedScore:
    """What became of one seed.

    Attributes:
        best_step: the update after which it did best in validation; None where that is not known.
        dev: what it reached there.
        kept: whether it is the one that is kept as the model.
        test: its main score.
    """

    seed: int
    best_step: int | None
    dev: float
    kept: bool
    test: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """What scores.json holds.

    Attributes:
        test: the name of the test set.
        rows: the main score first.
        seeds: of several that trained together, or of one.
        baselines: what other systems reach, by name, in the units of the main score.
        others: what only this task has.
    """

    test: str
    rows: tuple[Row, ...]
    seeds: tuple[SeedScore, ...] = ()
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def with_others(self, **others: Any) -> "Record":
        """Returns the record with more of what only this task has."""
        return replace(self, others={**self.others, **others})

    def compared_with(self, published: float | None, published_made: str) -> "Record":
        """Returns the record with a published score beside the main one."""
        first, *rest = self.rows
        return replace(self, rows=(replace(first, published=published, published_made=published_made), *rest))

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it; what is empty is left out."""
        saved: dict[str, Any] = {"test": self.test, "rows": [dataclasses.asdict(row) for row in self.rows]}
        if self.seeds:
            saved["seeds"] = [dataclasses.asdict(each) for each in self.seeds]
        if self.baselines:
            saved["baselines"] = [{"name": name, "score": score} for name, score in self.baselines.items()]
        return saved | dict(self.others)

    @staticmethod
    def from_json(saved: Mapping[str, Any]) -> "Record":
        """Returns what `to_json` gave.

        Raises:
            TypeError, KeyError: it is something else.
        """
        known = {"test", "rows", "seeds", "baselines"}
        return Record(
            test=saved["test"],
            rows=tuple(Row(**row) for row in saved["rows"]),
            seeds=tuple(SeedScore(**each) for each in saved.get("seeds", ())),
            baselines={each["name"]: each["score"] for each in saved.get("baselines", ())},
            others={name: value for name, value in saved.items() if name not in known},
        )


def scores_of_seeds(
    seeds: Sequence[int], tests: Sequence[float], *, best: Sequence[float], best_step: Sequence[int], sign: int = 1
) -> tuple[SeedScore, ...]:
    """Returns what became of each seed.

    Args:
        tests: their main scores on the test set.
        best, best_step: of their validations, the lower the better, see `lmx.memory.Memory`.
        sign: -1 where what is validated is a score that was turned around.
    """
    kept = int(np.argmin(best))  # of equal ones the first, as `lmx.run.Run.save_model` keeps it
    return tuple(
        SeedScore(seed=seed, best_step=step or None, dev=sign * value, kept=place == kept, test=test)
        for place, (seed, test, value, step) in enumerate(zip(seeds, tests, best, best_step, strict=True))
    )


def mean_row(row: Row, tests: Sequence[float], *, made: str, digits: int = 2, over: str = "seeds") -> Row:
    """Returns the row of a mean over seeds, like the row of one of them.

    Args:
        digits: of the deviation, behind the point.
        over: what the tests are of: seeds, or folds.
    """
    deviation = float(np.std(tests, ddof=1))
    told = f"mean of {len(tests)} {over}, standard deviation {deviation:.{digits}f}; {made}"
    return replace(row, score=float(np.mean(tests)), interval=None, made=told)
