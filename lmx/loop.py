"""Training as an iterable: steps, checkpoints, progress and stop signals. The loop itself belongs to the script.

    with training:
        for update in training:
            if update.due:
                training.validate(lambda: measure(training.params))

Between these lines an experiment may do anything. The placed learner defines a step, and the run decides where things
are written. The order of events is a function of the step alone, so a run that was killed repeats it to the bit.
"""

import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from lmx.account import Account
from lmx.checkpoint import rank
from lmx.config import SelectionConfig
from lmx.console import duration, progress_bar
from lmx.data.buckets import Rows
from lmx.data.prefetch import prefetch
from lmx.definition import Params
from lmx.devices import peak_flops
from lmx.fitting import check_length
from lmx.hosts import largest, meet
from lmx.learner import Placed
from lmx.meter import Meter, mean_of_seeds, readable_mean
from lmx.process import EXIT_STOPPED, of_signal, seconds_since_start
from lmx.run import Run
from lmx.sharding.mesh import connect
from lmx.training import TrainState, newest_rate

AGREE_EVERY = 8  # steps between two times when hosts ask each other whether one must stop: each time they wait

# What a validation returns: the value to minimise, and the metrics to write and print. Numbers, or arrays [E] of seeds.
Measured = tuple[float | np.ndarray, Mapping[str, float | np.ndarray]]


class _Interrupted(BaseException):
    """A signal asks to stop during work that can be repeated."""


@runtime_checkable
class Batches(Protocol):
    """Training data: batch k is a pure function of k."""

    def batch(self, k: int, rows: Rows | None = None) -> Mapping[str, np.ndarray]:
        """Makes batch k: arrays [A, B, ...], for several seeds [E, A, B, ...], with the rows of this host alone."""
        ...

    def tokens(self, k: int) -> int:
        """Returns the number of tokens of batch k on all hosts, without padding, for the speed."""
        ...

    def epochs_before(self, k: int) -> float:
        """Returns how many epochs lie before batch k, for the metrics."""
        ...


class Update(NamedTuple):
    """An update that was made.

    Attributes:
        number: counted from 1.
        due: whether a validation is due after it.
    """

    number: int
    due: bool


def every(updates: int, batches: Any = None, *, last: int) -> Callable[[int], bool]:
    """Returns a function that tells whether a validation is due after an update; after the last one, it always is.

    Args:
        updates: number of updates between validations; 0 validates at the end of each epoch.
        batches: the data whose epochs count, see `lmx.data.batches.TokenBatches`.
        last: number of the last update.
    """

    def due(number: int) -> bool:
        if updates:
            return number % updates == 0 or number == last
        return batches.first_batch(batches.epoch_of(number)) == number or number == last

    return due


class Training:
    """The rest of a run's training: a context manager, and inside it an iterable of updates.

    The state comes from the run's newest checkpoint, or from initial values. If the run has a finished model and no
    checkpoint, nothing is trained: `params` is that model, and there are no updates.

    Args:
        last: number of the last step.
        seeds: seeds of the initial values, one for each model that trains.
        selection: when to validate and to stop early, and which parameters `end` returns.
        due: tells whether a validation follows a step; None for `every` with the selection.

    Attributes:
        state: the newest state; None where nothing is trained.
        serves: whether the run serves its finished model, and nothing is trained.
    """

    def __init__(
        self,
        run: Run,
        placed: Placed,
        batches: Batches,
        *,
        last: int,
        seeds: Sequence[int],
        selection: SelectionConfig,
        due: Callable[[int], bool] | None = None,
    ):
        selection.check()
        run.options.check()
        self.run, self.placed, self._batches, self._last = run, placed, batches, last
        self._due = due or every(selection.validate_every, batches, last=last)
        self._selection = selection
        self.serves = run.serves
        if self.serves:
            run.console.print(
                f"{run.directory} has a finished model and no checkpoints: it is used as it is, and nothing is trained"
            )
            self.state, self._params = None, placed.load(run.directory)
            return
        number = selection.average
        self._checkpoints = run.open_checkpoints(
            keep_last=number if selection.average_of == "last" else 1,
            keep_best=number if selection.average_of == "best" and not selection.keeps_best else 0,
            keep_every=run.options.keep_every,
        )
        # There is room for one state.
        state = run.resume(self._checkpoints, placed.like)
        self.state: TrainState | None = placed.born(seeds) if state is placed.like else state
        self._first = int(self.state.step)
        check_length(run, made=self._first, last=last)
        is_longer = not run.memory.stopped_early and self._first < last
        if is_longer and (run.directory / "model.safetensors").is_file():
            run.console.print(
                f"until this training has ended, {run.directory} keeps the model and the scores of its earlier end"
            )
        self.compile_seconds = 0.0  # of the first step of each batch shape
        self._shapes: set[tuple[int, ...]] = set()
        self._asked = 0  # the number of the signal that this process got
        self._stopping = ""  # the name of the signal that all hosts stop for
        self._validating = self._profiling = False
        self._handlers: dict[int, Any] = {}
        self._updates: Generator[Update, None, None] | None = None

    @property
    def params(self) -> Params:
        """The parameters for validation and test: the newest, or their exponential average if there is one."""
        if self.state is None:
            return self._params
        return self.placed.whole(self.state.params if self.state.average is None else self.state.average)

    def __enter__(self) -> "Training":
        """Installs the signal handlers, and shows the progress bar on a terminal."""
        if self.serves:
            return self

        def ask_to_stop(number: int, _: Any) -> None:
            if self._asked and not self._validating:  # a second one is not waited for
                raise KeyboardInterrupt
            self._asked = number
            if self._validating:
                raise of_signal(_Interrupted(), number)

        self._handlers = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        self._bar = progress_bar("training", total=self._last, console=self.run.console)
        self._show = self._bar.__enter__()
        self._show(self._first)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Restores the signal handlers; if the training was asked to stop and has saved, ends the process."""
        if self.serves:
            return
        if self._updates is not None:
            self._updates.close()
        if self._profiling:
            self._end_profile()
        self._bar.__exit__(None, None, None)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None and self._agree_to_stop(True):
            self.run.console.print(f"stopped by {self._stopping} and saved; the same command continues")
            raise SystemExit(EXIT_STOPPED)

    def __iter__(self) -> Iterator[Update]:
        """Makes one update each turn, and saves after the script has used it.

        If a stop made the run skip a validation, the first turn yields the last update again, without a step.

        Raises:
            FloatingPointError: ten steps in a row were not finite.
            CheckpointNotSaved: the last checkpoint could not be saved.
        """
        if self.serves:
            return iter(())
        self._updates = self._make_updates()
        return self._updates

    def _make_updates(self) -> Generator[Update, None, None]:
        run, placed, batches, last, options = self.run, self.placed, self._batches, self._last, self.run.options
        due = run.memory.validation_due  # skipped when the run was stopped
        if 0 < self._first == last and last not in run.memory.losses:
            due |= not run.memory.stopped_early and self._due(last)  # made shorter, to a step without a validation
        if not due and (run.memory.stopped_early or self._first >= last):
            return

        def make(k: int) -> Mapping[str, np.ndarray]:
            return batches.batch(k) if jax.process_count() == 1 else batches.batch(k, placed.layout.rows_of_host)

        run.account = account = Account(run.directory, step=self._first, writes=run.writes)
        meet()  # one host may have restored its part of the state long before another
        connect(placed.mesh)
        peak = peak_flops(jax.devices()[0].device_kind, placed.learner.dtype)
        self._meter = meter = Meter(
            run,
            first=self._first,
            last=last,
            peak=peak and peak * jax.device_count(),
            patience=self._selection.patience,
        )
        with prefetch(make, self._first, last, depth=4) as stream:
            if due:
                yield Update(self._first, True)
            ended, waited = run.memory.stopped_early or self._agree_to_stop(due), 0.0
            for number, made in enumerate(() if ended else stream, start=self._first + 1):
                self._profile(number)
                metrics, flops = self._run_step(placed.place_batch(made))
                meter.step_started(number, metrics, tokens=batches.tokens(number - 1), flops=flops)
                self._show(number)
                due = self._due(number)
                if due or number % options.log_every == 0 or number == last:
                    meter.log(number, waited=stream.waited, **self._facts())
                    account.spend("data", stream.waited - waited)
                    waited = stream.waited
                    account.write(number)
                yield Update(number, due)
                stopping = self._agree_to_stop(due or number == last or number % AGREE_EVERY == 0)
                wanted = options.save_every is not None and number % options.save_every == 0
                if due or stopping or number == last or wanted:
                    meter.flush(waited=stream.waited)
                    assert self.state is not None
                    with account.timing("checkpoints"):
                        run.save(self._checkpoints, self.state)
                    meter.restart_clock()
                    # Asked before, or by one process while saving: this step is saved.
                    if stopping or self._agree_to_stop(False) or run.memory.stopped_early:
                        break
            with account.timing("checkpoints"):
                self._checkpoints.wait()
            assert self.state is not None
            account.write(int(self.state.step), over=True)
            run.add_start(compile_seconds=self.compile_seconds)

    def validate(self, measure: Callable[[], Measured]) -> np.ndarray:
        """Validates, and remembers, writes and prints the result. Returns which seeds have their best value so far.

        Its time does not count as training time. A signal interrupts a validation, which may take minutes; the
        continued run then starts with it. Several processes cannot interrupt it at the same place, so they finish it.
        """
        memory = self.run.memory
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
                assert self.run.account is not None
                self.run.account.spend("validation", time.perf_counter() - began)
        except _Interrupted:
            return np.zeros(0, bool)
        assert self.state is not None
        memory.validation_due = False
        step = int(self.state.step)
        better = memory.judge(step, value, patience=self._selection.patience)
        written = {"step": step, **self._facts(), **mean_of_seeds(line), "seconds": time.perf_counter() - began}
        self.run.write_metrics("validation", written)
        scores = "  ".join(f"{name} {readable_mean(value)}" for name, value in line.items())
        self.run.console.print(f"validation after {step:,} updates: {scores}  {self._news(better)}")
        if self.placed.learner.keeps_best and better.any():
            one = self.placed.learner.num_seeds is None
            self.state = self.placed.keep_best(self.state, better[0] if one else better)
        self._meter.restart_clock()
        return better

    def end(self) -> tuple[Params, str]:
        """Returns the parameters to keep, and a description of how they were obtained.

        Raises:
            DamagedCheckpoint: one of the checkpoints to average cannot be read.
        """
        run, learner, selection = self.run, self.placed.learner, self._selection
        if self.state is None:
            return self._params, "the model that was there"
        memory = run.memory
        best = ", ".join(f"{step:,}" for step in memory.best_step)
        run.console.print(
            f"training ended {'early' if memory.stopped_early else 'as planned'} after {int(self.state.step):,} "
            f"updates and {duration(memory.seconds)}; best in validation at {best}"
        )
        steps = self._checkpoints.steps()
        saved = [step for step in steps if step in memory.losses]
        if selection.average_of == "best":
            saved.sort(key=lambda step: rank(memory.losses[step]), reverse=True)
        chosen = saved[-selection.average :]
        params = self.params
        made = f"the {selection.average_of} checkpoint"
        if learner.keeps_best:
            params, made = self.state.best, "the best step by validation"
        elif learner.average_decay is not None:
            made = "exponential average"
        elif chosen not in ([], [int(self.state.step)]):
            self.state = params = None  # the checkpoints take its place
            params = self._checkpoints.average(chosen, self.placed.like)
        self._checkpoints.close()
        self.state, self._params = None, self.placed.whole(params)
        if not learner.keeps_best and learner.average_decay is None and len(chosen) > 1:
            made = f"mean of the {selection.average_of} {len(chosen)}"
        return self._params, made

    def _facts(self) -> dict[str, float]:
        """Returns the fields of every line of metrics."""
        assert self.state is not None
        rate = newest_rate(self.placed.learner.schedule, self.state)
        return {"epoch": self._batches.epochs_before(int(self.state.step)), "learning_rate": rate}

    def _news(self, better: np.ndarray) -> str:
        waited = self.run.memory.waited
        if len(better) == 1:
            return "best so far" if better[0] else f"{waited[0]} since the best"
        return f"best so far for {better.sum()} of {len(better)} seeds, {min(waited)} to {max(waited)} since the best"

    def _agree_to_stop(self, now: bool) -> bool:
        """Returns whether to save and stop after this step; several hosts decide together, and only if `now`."""
        if jax.process_count() == 1:
            asked = self._asked  # read once: what stops has been saved
        else:
            asked = largest(self._asked) if now else 0
        if asked:
            self._stopping = signal.Signals(asked).name
        return bool(asked)

    def _run_step(self, batch: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], tuple[float, float]]:
        """Starts a step; waits for the first of each batch shape, which compiles, and times it.

        Returns its metrics, and its FLOPs with full attention and with the causal half.
        """
        shape = next(iter(batch.values())).shape
        learner, assigned = self.placed.learner, self.state
        assert assigned is not None
        flops = (0.0, 0.0) if learner.flops is None else learner.flops(shape[-3:])  # type: ignore[arg-type]
        seeds = learner.num_seeds or 1
        if shape in self._shapes:
            self.state, metrics = self.placed.step(assigned, batch)
        else:
            began = time.perf_counter()
            self.state, metrics = jax.block_until_ready(self.placed.step(assigned, batch))
            took = time.perf_counter() - began
            self.compile_seconds += took
            assert self.run.account is not None
            self.run.account.spend("compiling", took)
            if not self._shapes:
                self.run.console.print(f"first step done {seconds_since_start():.1f} s after the start of the process")
            self._shapes.add(shape)
        return metrics, (seeds * flops[0], seeds * flops[1])

    def _profile(self, step: int) -> None:
        """Begins or ends the trace of the steps that `profile` names; called before step `step` starts."""
        wanted = self.run.options.steps_to_profile()
        if wanted is None:
            return
        first, last = wanted
        if step == max(first, self._first) + 1 and step <= last and self.run.writes:
            jax.profiler.start_trace(str(self.run.directory / "profile"))
            self._profiling = True
        if step == last + 1 and self._profiling:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._meter.pending is not None:
            jax.block_until_ready(self._meter.pending[0])
        jax.profiler.stop_trace()
        self._profiling = False
        self.run.console.print(f"profile: {self.run.directory / 'profile'} (open it with xprof or TensorBoard)")
