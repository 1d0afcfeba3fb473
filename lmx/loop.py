"""The training loop: steps, means of metrics, validations, checkpoints, progress, and the wish to stop.

What a step is, what a validation measures and when one is due arrive as functions; where things are written, the run
knows. The order of events is a function of the step alone, so that a run that was killed repeats it to the bit.
"""

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from lmx.checkpoint import Checkpoints
from lmx.data.batches import Rows, prefetch
from lmx.hosts import largest, meet
from lmx.run import EXIT_STOPPED, Run, duration, progress_bar, seconds_since_start
from lmx.sharding import connect, place_batch, rows_on
from lmx.training import Step, TrainState

SKIPPED_LIMIT = 10
AGREE_EVERY = 8  # steps after which several hosts ask each other whether one was told to stop: a wait each time


class _Interrupted(BaseException):
    """A signal asks to stop, and what is under way can be done again."""


@runtime_checkable
class Batches(Protocol):
    """Training data: batch k is a pure function of k."""

    def batch(self, k: int, rows: Rows | None = None) -> Mapping[str, np.ndarray]:
        """Makes batch k, arrays [A, B, ...]; of B, the rows that this host holds."""
        ...

    def tokens(self, k: int) -> int:
        """Returns the tokens of batch k on all hosts, without padding: what speed is counted in."""
        ...


def steps_to_profile(text: str) -> tuple[int, int]:
    """Returns (FROM, TO) of "FROM:TO": the steps after FROM up to TO.

    Raises:
        ValueError: it is not such a range.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ValueError(f"profile must be FROM:TO, two steps with FROM below TO, got profile={text!r}.")
    return int(first), int(last)


def train(
    run: Run,
    step: Step,
    state: TrainState,
    *,
    batches: Batches,
    mesh: Mesh,
    last: int,
    checkpoints: Checkpoints,
    log_every: int,
    save_every: int | None = None,
    is_due: Callable[[int], bool],
    validate: Callable[[int, TrainState], tuple[float | np.ndarray, Mapping[str, float | np.ndarray]]],
    patience: int | None = None,
    keep_best: Callable[[TrainState, np.ndarray], TrainState] | None = None,
    rows_axis: int = 1,
    facts: Callable[[int, TrainState], Mapping[str, float]],
    flops: Callable[[tuple[int, ...]], tuple[float, float]],
    peak: float | None = None,
    profile: tuple[int, int] | None = None,
) -> TrainState:
    """Trains from the state's step to step `last`, or until validations no longer improve, and returns the last state.

    Args:
        step: compiled; `(state, batch) -> (state, metrics)`.
        save_every: checkpoints after so many steps, beside those after each validation.
        is_due: whether a validation follows this many steps.
        validate: `(step, state) -> (what should fall, what is written and printed)`; numbers, or arrays [S] of seeds.
        patience: so many validations in a row without a lower value end the training, of several seeds each by itself.
        keep_best: `(state, which have never been as low) -> state`, called after a validation that was better.
        rows_axis: which axis of a batch's arrays its rows are: 1, or 2 behind the axis of seeds.
        facts: `(step, state after it)`, such as epoch and learning rate; they stand in its lines of metrics.
        flops: of a step with a batch of this shape, with full attention and with the causal half.
        peak: FLOP/s of all devices together, where it is known; gives MFU.
        profile: writes a trace of the steps after the first number up to the second into `profile/`.

    Raises:
        ValueError: save_every or patience is no number of steps or validations.
        FloatingPointError: ten steps in a row were not finite.
        SystemExit: SIGTERM or SIGINT asked to stop, and all is saved; status 75.
        CheckpointNotSaved: the last checkpoint could not be.
    """
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, or None to save at validations, got save_every={save_every}.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, or None to train to the end, got patience={patience}.")
    first = int(state.step)
    due = run.memory.validation_due  # left out when the run was stopped
    if not due and (run.memory.stopped_early or first >= last):
        return state

    def make(k: int) -> Mapping[str, np.ndarray]:
        return batches.batch(k) if jax.process_count() == 1 else batches.batch(k, lambda rows: rows_on(mesh, rows))

    def judged(number: int, state: TrainState) -> TrainState:
        better = loop.validate(number, lambda: validate(number, state), **facts(number, state))
        return keep_best(state, better) if keep_best is not None and better.any() else state

    meet()  # one host may have restored its part of the state long before another
    connect(mesh)
    with (
        _Loop(run, first=first, last=last, patience=patience) as loop,
        prefetch(make, first, last, depth=4) as stream,
    ):
        if due:
            state = judged(first, state)
        ended = run.memory.stopped_early or loop.agree_to_stop(due)
        for number, made in enumerate(() if ended else stream, start=first + 1):
            if profile is not None:
                loop.profile(number, *profile)
            batch = place_batch(made, mesh, rows_axis=rows_axis)
            shape = next(iter(batch.values())).shape
            state, metrics = loop.run_step(lambda: step(state, batch), shape=shape)  # noqa: B023
            loop.step_started(number, metrics, tokens=batches.tokens(number - 1), flops=flops(shape))
            due = is_due(number)
            if due or number % log_every == 0 or number == last:
                loop.log(number, waited=stream.waited, peak=peak, **facts(number, state))
            if due:
                state = judged(number, state)
            stopping = loop.agree_to_stop(due or number == last or number % AGREE_EVERY == 0)
            if due or stopping or number == last or (save_every is not None and number % save_every == 0):
                loop.flush(waited=stream.waited)
                run.save(checkpoints, state)
                loop.restart_clock()
                # Asked before, or by one process while saving: this step is saved.
                if stopping or loop.agree_to_stop(False) or run.memory.stopped_early:
                    break
        checkpoints.wait()
        run.add_start(compile_seconds=loop.compile_seconds)
    return state


class _Loop:
    """What surrounds the steps of a training.

    Attributes:
        stopping: the name of the signal that all hosts stop for, or None.
        compile_seconds: spent on the first step of each batch shape.
    """

    def __init__(self, run: Run, *, first: int, last: int, patience: int | None):
        self._run, self._first, self._last, self._patience = run, first, last, patience
        self.stopping: str | None = None
        self._asked = 0  # the number of the signal that this process got
        self._shapes: set[tuple[int, ...]] = set()
        self.compile_seconds = 0.0
        self._pending: tuple[Mapping[str, jax.Array], int, int] | None = None
        self._began = self._line_began = time.perf_counter()
        self._waited = 0.0
        self._profiling = False
        self._validating = False
        self._bar = progress_bar("training", total=last, console=run.console)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Loop":
        """Takes the signals and shows the progress bar on a terminal."""

        def ask_to_stop(number: int, _: Any) -> None:
            if self._asked:  # a second one is not waited for
                raise KeyboardInterrupt
            self._asked = number
            if self._validating:
                raise _Interrupted

        self._handlers = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        self._show = self._bar.__enter__()
        self._show(self._first)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Gives the signals back; a loop that was asked to stop, and has saved, ends the process."""
        if self._profiling:
            self._end_profile()
        self._bar.__exit__(None, None, None)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self.agree_to_stop(True):
            self._run.console.print(f"stopped by {self.stopping} and saved; the same command continues")
            raise SystemExit(EXIT_STOPPED)

    def agree_to_stop(self, now: bool) -> bool:
        """Returns whether to save and stop after this step; several hosts decide it together, and only `now`."""
        if jax.process_count() == 1:
            asked = self._asked  # read once: what stops has been saved
        else:
            asked = largest(self._asked) if now else 0
        if asked:
            self.stopping = signal.Signals(asked).name
        return bool(asked)

    def run_step(
        self, step: Callable[[], tuple[TrainState, dict[str, jax.Array]]], *, shape: tuple[int, ...]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Starts a step; the first one of each batch shape compiles, and is waited for and timed."""
        if shape in self._shapes:
            return step()
        began = time.perf_counter()
        result = jax.block_until_ready(step())
        self.compile_seconds += time.perf_counter() - began
        if not self._shapes:
            self._run.console.print(f"first step done {seconds_since_start():.1f} s after the start of the process")
        self._shapes.add(shape)
        return result

    def step_started(
        self, step: int, metrics: Mapping[str, jax.Array], *, tokens: int, flops: tuple[float, float]
    ) -> None:
        """Takes the metrics of a step that was started; they are read when the next one is, so that none waits.

        Args:
            tokens: real ones, without padding.
            flops: of the step, with full attention and with the causal half.

        Raises:
            FloatingPointError: ten steps in a row were skipped.
        """
        self._read_pending()
        self._pending = metrics, tokens, step
        self._spend(flops=flops[0], flops_causal=flops[1])
        self._show(step)

    def flush(self, *, waited: float) -> None:
        """Brings into the run's memory all that belongs to the next line so far, so that a checkpoint has it."""
        self._read_pending()
        now = time.perf_counter()
        self._spend(seconds=now - self._line_began, waited=waited - self._waited)
        self._line_began, self._waited = now, waited

    def log(self, step: int, *, waited: float, peak: float | None, **facts: int | float) -> None:
        """Writes one line of metrics, means since the line before, to metrics.jsonl and to the console.

        Args:
            waited: seconds for data since the loop began.
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
        line = {"step": step, **facts, **_mean_of_seeds(means, counted)}
        line |= {"tokens": int(spent["tokens"]), "skipped": memory.skipped, "seconds": memory.seconds}
        line |= {"tokens_per_second": spent["tokens"] / seconds, "data_wait": spent["waited"] / seconds}
        mfu = ""
        if peak is not None:
            line |= {"mfu": spent["flops"] / seconds / peak, "mfu_causal": spent["flops_causal"] / seconds / peak}
            mfu = f"  MFU {line['mfu']:.1%} (causal {line['mfu_causal']:.1%})"
        self._run.write_metrics("train", line)
        self._run.console.print(
            f"step {step:>{len(f'{self._last:,}')},} of {self._last:,}  loss {line['loss']:.4f}  "
            f"{line['tokens_per_second']:,.0f} tokens/s  waiting for data {line['data_wait']:.1%}{mfu}  "
            f"{self._time_left(step)} left"
        )

    def validate(
        self,
        step: int,
        measure: Callable[[], tuple[float | np.ndarray, Mapping[str, float | np.ndarray]]],
        **facts: int | float,
    ) -> np.ndarray:
        """Validates, remembers, writes and prints it; its time is not training's. Returns which seeds did best so far.

        A signal ends a validation under way, which may take minutes: it is left for the start of the continued run.
        Several processes cannot leave it each at a place of its own, and finish it.
        """
        memory = self._run.memory
        memory.validation_due = True
        began = time.perf_counter()
        try:
            try:
                self._validating = jax.process_count() == 1
                if self._validating and self._asked:
                    return np.zeros(0, bool)
                value, line = measure()
            finally:
                self._validating = False
        except _Interrupted:
            return np.zeros(0, bool)
        memory.validation_due = False
        better = self._run.judge(step, value, patience=self._patience)
        written = {"step": step, **facts, **_mean_of_seeds(line), "seconds": time.perf_counter() - began}
        self._run.write_metrics("validation", written)
        scores = "  ".join(f"{name} {_readable(value)}" for name, value in line.items())
        self._run.console.print(f"validation after {step:,} updates: {scores}  {self._news(better)}")
        self.restart_clock()
        return better

    def _news(self, better: np.ndarray) -> str:
        waited = self._run.memory.waited
        if len(better) == 1:
            return "best so far" if better[0] else f"{waited[0]} since the best"
        return f"best so far for {better.sum()} of {len(better)} seeds, {min(waited)} to {max(waited)} since the best"

    def restart_clock(self) -> None:
        """Leaves out of the next line's time what was done since the last, such as a validation."""
        self._line_began = time.perf_counter()

    def profile(self, step: int, first: int, last: int) -> None:
        """Before step `step` starts: begins or ends the trace of the steps after `first` up to `last`."""
        if step == max(first, self._first) + 1 and step <= last and self._run.writes:
            jax.profiler.start_trace(str(self._run.directory / "profile"))
            self._profiling = True
        if step == last + 1 and self._profiling:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._pending is not None:
            jax.block_until_ready(self._pending[0])
        jax.profiler.stop_trace()
        self._profiling = False
        self._run.console.print(f"profile: {self._run.directory / 'profile'} (open it with xprof or TensorBoard)")

    def _spend(self, **amounts: int | float) -> None:
        spent = self._run.memory.spent
        for name, amount in amounts.items():
            spent[name] = spent.get(name, 0.0) + float(amount)

    def _read_pending(self) -> None:
        """Adds the metrics of the newest step to the next line; a skipped step is reported instead."""
        if self._pending is None:
            return
        (metrics, tokens, step), self._pending = self._pending, None
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
        weight = np.where(skipped, 0.0, values.pop("weight"))
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


def _mean_of_seeds(values: Mapping[str, float | np.ndarray], counted: Any = True) -> dict[str, Any]:
    """Returns numbers as they are; of arrays [S] the mean, and of several seeds under "seeds" each one's.

    Args:
        counted: which seeds have a value; None stands in the place of the others'.
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


def _readable(value: float | np.ndarray) -> str:
    """Returns a number with four decimals; of several seeds their mean, with its standard deviation."""
    if np.ndim(value) == 0:
        return f"{value:.4f}"
    return f"{np.mean(value):.4f}" + (f" +- {np.std(value, ddof=1):.4f}" if np.size(value) > 1 else "")
