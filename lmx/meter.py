"""The lines of a training: means of metrics since the last line, speed, use of the devices, and the time left."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lmx.console import duration
from lmx.run import Run

SKIPPED_LIMIT = 10


class Meter:
    """Sums up the metrics of steps until the next line.

    Args:
        first, last: number of the step before the first one of this start, and of the last one of the training.
        peak: FLOP/s of all devices together, if known; needed for MFU.
        patience: see `lmx.memory.Memory.judge`; a seed that has ended no longer counts.
    """

    def __init__(self, run: Run, *, first: int, last: int, peak: float | None, patience: int | None):
        self._run, self._first, self._last, self._peak, self._patience = run, first, last, peak, patience
        self.pending: tuple[Mapping[str, jax.Array], int, int] | None = None
        self._began = self._line_began = time.perf_counter()
        self._waited = 0.0

    def step_started(
        self, step: int, metrics: Mapping[str, jax.Array], *, tokens: int, flops: tuple[float, float]
    ) -> None:
        """Takes the metrics of a step that was started; reads them when the next one starts, so that no step waits.

        Args:
            tokens: number of tokens without padding.
            flops: FLOPs of the step, with full attention and with its causal half.

        Raises:
            FloatingPointError: ten steps in a row were skipped.
        """
        self._read_pending()
        self.pending = metrics, tokens, step
        self._spend(flops=flops[0], flops_causal=flops[1])

    def flush(self, *, waited: float) -> None:
        """Moves everything for the next line into the run's memory, so that a checkpoint contains it."""
        self._read_pending()
        now = time.perf_counter()
        self._spend(seconds=now - self._line_began, waited=waited - self._waited)
        self._line_began, self._waited = now, waited

    def log(self, step: int, *, waited: float, **facts: int | float) -> None:
        """Writes one line of metrics, means since the last line, to metrics.jsonl and to the console.

        Args:
            waited: seconds that steps have waited for data since the training began.
        """
        self.flush(waited=waited)
        memory = self._run.memory
        sums, memory.sums = memory.sums, {}
        spent, memory.spent = memory.spent, {}
        seconds = spent["seconds"]
        memory.seconds += seconds
        if not sums:
            return
        weight = sums.pop("weight")
        counted = weight > 0  # a seed may have skipped all of these steps
        means = {name: value / np.where(counted, weight, 1.0) for name, value in sums.items()}
        line = {"step": step, **facts, **mean_of_seeds(means, counted)}
        line |= {"tokens": int(spent["tokens"]), "skipped": memory.skipped, "seconds": memory.seconds}
        line |= {"tokens_per_second": spent["tokens"] / seconds, "data_wait": spent["waited"] / seconds}
        mfu = ""
        if self._peak is not None:
            use, causal = spent["flops"] / seconds / self._peak, spent["flops_causal"] / seconds / self._peak
            line |= {"mfu": use, "mfu_causal": causal}
            mfu = f"  MFU {use:.1%} (causal {causal:.1%})"
        self._run.write_metrics("train", line)
        self._run.console.print(
            f"step {step:>{len(f'{self._last:,}')},} of {self._last:,}  loss {line['loss']:.4f}  "
            f"{line['tokens_per_second']:,.0f} tokens/s  waiting for data {line['data_wait']:.1%}{mfu}  "
            f"{self._time_left(step)} left"
        )

    def restart_clock(self) -> None:
        """Leaves the time since the last step, such as that of a validation, out of the next line."""
        self._line_began = time.perf_counter()

    def _spend(self, **amounts: int | float) -> None:
        spent = self._run.memory.spent
        for name, amount in amounts.items():
            spent[name] = spent.get(name, 0.0) + float(amount)

    def _read_pending(self) -> None:
        """Adds the metrics of the newest step to the next line; a skipped step is reported instead."""
        if self.pending is None:
            return
        (metrics, tokens, step), self.pending = self.pending, None
        values = {name: np.asarray(value, np.float64) for name, value in jax.device_get(dict(metrics)).items()}
        memory = self._run.memory
        self._spend(tokens=tokens)
        skipped = values.pop("skipped")
        # What a seed does that has ended, while others go on, is of no account.
        counting = skipped[~self._ended(skipped.size)] if skipped.ndim else skipped
        in_a_row = int(counting.max(initial=0))
        if in_a_row:
            memory.skipped += int(np.count_nonzero(counting))
            seeds = f" of {np.count_nonzero(counting)} of {skipped.size} seeds" if skipped.ndim else ""
            self._run.console.print(
                f"step {step:,}: loss or gradient{seeds} is not finite; the step is skipped ({in_a_row} in a row)"
            )
            if in_a_row >= SKIPPED_LIMIT:
                raise FloatingPointError(
                    f"loss and gradient must be finite, got {in_a_row} steps in a row that are not, to step {step:,}. "
                    "Lower the learning rate, warm up longer, or clip the gradient norm lower, in a new run."
                )
        if skipped.all():
            return
        weight = values.pop("weight")
        sums = memory.sums
        for name, value in {"weight": np.ones_like(weight), **values}.items():
            sums[name] = sums.get(name, 0.0) + np.where(skipped, 0.0, value) * weight

    def _ended(self, num_seeds: int) -> np.ndarray:
        """Returns which seeds have reached their patience; without a validation so far, none has."""
        waited = np.asarray(self._run.memory.waited or [0] * num_seeds)
        return waited >= (self._patience or np.inf)

    def _time_left(self, step: int) -> str:
        pace = (time.perf_counter() - self._began) / max(step - self._first, 1)
        return duration(pace * (self._last - step))


def mean_of_seeds(values: Mapping[str, float | np.ndarray], counted: Any = True) -> dict[str, Any]:
    """Returns numbers as they are and arrays [E] as their mean; several seeds are also listed under "seeds".

    Args:
        counted: which seeds have a value; the others are listed as None.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    line: dict[str, Any] = {name: float(array.mean(where=counted)) for name, array in arrays.items()}
    seeds = {
        name: [
            value if there else None
            for value, there in zip(array.tolist(), np.broadcast_to(counted, array.shape), strict=True)
        ]
        for name, array in arrays.items()
        if array.size > 1
    }
    return line | ({"seeds": seeds} if seeds else {})


def readable_mean(value: float | np.ndarray) -> str:
    """Returns a number with four decimals; for several seeds, their mean and standard deviation."""
    if np.ndim(value) == 0:
        return f"{value:.4f}"
    return f"{np.mean(value):.4f}" + (f" +- {np.std(value, ddof=1):.4f}" if np.size(value) > 1 else "")
