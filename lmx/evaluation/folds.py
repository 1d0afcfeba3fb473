"""Training and testing by folds: a run of its own for each, in a directory of the whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from lmx.run import RESULTS, Run

Tested = TypeVar("Tested")


def each_fold(run: Run, preset: str, config: Any, train_and_test: Callable[..., Tested | None]) -> list[Tested]:
    """Trains and tests a run for each fold, in `fold-1` and so on; returns what each tested.

    Args:
        run: the whole.
        config: of the experiment, with `sets` and `run`.
        train_and_test: `(preset, config, fold=...)` trains and tests one of them.
    """
    number = config.sets.folds
    tested: list[Any] = []
    for fold in range(1, number + 1):
        run.console.print(f"fold {fold} of {number}")
        here = replace(config, run=replace(config.run, run=config.run.run / f"fold-{fold}"))
        tested.append(train_and_test(preset, here, fold=fold))
        if fold == 1 and {"config.updates", "config.epochs"} & {*run.changed}:
            run.forget(RESULTS)  # of all folds together: this one has another model now
    return tested
