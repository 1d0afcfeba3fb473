"""Kills a small training again and again at random moments, and compares its end with that of one never stopped.

    python benchmarks/kill.py --kills 50 --seed 1
    python benchmarks/kill.py --kills 10 --signal TERM --device cuda
    python benchmarks/kill.py --kills 1000 --workers 2 --forked --two-processes 12

A tiny translation experiment (dropout, accumulation, validations with search, an average of checkpoints) is run twice
without a stop, which must agree. Then it is run again by the same command, killed, started again and killed again,
until all kills have been spent over as many runs as that takes. The moments are drawn from seven kinds: in the
start-up, between two steps or inside one, in a save, in a validation, and after the training in averaging, test and
report. Where a kill fell is read from what it left behind. Each run must then end with bitwise the same parameters and
optimizer state, the same translations and scores, the same files, and the same lines of metrics, each once, but for
what the clock says.
SIGTERM must end in exit code 75 as well.

A kill of the last command takes about four processor seconds: processes are forked from one that has imported all
modules, so that kills in the start-up fall after the imports, and two runs go on at a time. One of every twelve runs is
made by two processes, which are killed one shortly after the other, in either order; they are compared with a run of
two processes.

Exit code 1 says that something differs; the directory is kept then, else only with --directory.
"""

import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.killing import Place, Trial, prepare_forks, write_data
from benchmarks.same_runs import differences
from lmx.errors import InputError
from lmx.process import one_line_errors

Moment = Literal["start", "step", "save", "validation", "average", "test", "report"]
AFTER = ("average", "test", "report", "exit")  # the training, in their order


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is killed how often.

    Attributes:
        signal: KILL ends at once; TERM asks to stop.
        device: platform of jax.
        workers: runs that go on at a time.
        forked: from a process that has imported all modules, instead of a new interpreter for each start.
        two_processes: every so manieth run is made by two processes on two devices; 0: none.
        directory: of all runs; None makes one and removes it.
    """

    kills: int = 50
    seed: int = 1
    signal: Literal["KILL", "TERM"] = "KILL"
    device: str = "cpu"
    workers: int = 1
    forked: bool = False
    two_processes: int = 0
    directory: Path | None = None


@dataclass(frozen=True)
class Lengths:
    """Seconds that the parts of the run without a stop took: what random delays are drawn from."""

    start: float
    training: float
    validation: float
    average: float
    test: float
    report: float
    save: float = 0.25


@dataclass(frozen=True)
class Kill:
    """One kill: of which run, where it was meant to fall, and where it fell."""

    run: int
    processes: int
    meant: str
    after: float
    fell: str
    step: int


def reach(trial: Trial, moment: Moment, lengths: Lengths, generator: random.Random) -> bool:
    """Waits until a moment of the kind has come; returns False if the process ended before."""
    has_come = {
        "start": lambda: True,
        "step": lambda: trial.where() not in ("start", "first step", *AFTER),
        "save": trial.is_saving,
        "validation": trial.is_validating,
    }.get(moment, lambda: trial.where() in AFTER[AFTER.index(moment) :])
    longest = lengths.training / 3 if moment == "step" else getattr(lengths, moment)
    delay = generator.random() * longest

    def wait(reached: Callable[[], bool], *, seconds: float = 0.004) -> bool:
        """Waits until something is so; returns False if the process ended before."""
        while not reached():
            if trial.ended():
                return False
            time.sleep(seconds)
        return True

    if moment in ("save", "validation"):
        if not wait(lambda: trial.where() not in ("start", "first step"), seconds=0.02):
            return False
        for _ in range(generator.randrange(3)):  # so many are let pass, or no start would get further than its first
            if not (wait(has_come) and wait(lambda: not has_come())):
                return False
    if not wait(has_come):
        return False
    until = time.monotonic() + delay
    return wait(lambda: time.monotonic() >= until, seconds=0.001) and not trial.ended()


def measure(trial: Trial) -> Lengths:
    """Runs a trial without a stop and returns how long its parts took."""
    trial.start()
    marks: dict[str, float] = {}
    while not trial.ended():
        place = trial.where()
        marks.setdefault(place if place in ("start", "first step", *AFTER) else "training", trial.age)
        time.sleep(0.01)
    marks["ended"] = trial.age
    trial.finish()
    for place, following in reversed([("training", "average"), *zip(AFTER, (*AFTER[1:], "ended"), strict=True)]):
        marks.setdefault(place, marks[following])  # it was too short to be seen
    seconds = [line["seconds"] for line in trial.metrics() if line["kind"] == "validation"]
    return Lengths(
        start=marks["training"],
        training=marks["average"] - marks["training"],
        validation=statistics.median(seconds),
        average=marks["test"] - marks["average"],
        test=marks["report"] - marks["test"],
        report=marks["exit"] - marks["report"],
    )


class Tally:
    """What all runs share: how many kills are left, what was found, one line on the screen at a time."""

    def __init__(self, config: Config):
        self.kills: list[Kill] = []
        self.wrong: list[str] = []
        self.runs = 0
        self.busy = 0.0
        self._taken = 0
        self._config = config
        self._lock = threading.Lock()

    def begin_run(self) -> int | None:
        """Returns the number of a new run; None when all kills have been spent."""
        with self._lock:
            if self._taken >= self._config.kills or self.wrong:
                return None
            self.runs += 1
            return self.runs

    @property
    def pairs(self) -> int:
        """How many runs were made by two processes."""
        return sum(self.processes_of(run) == 2 for run in range(1, self.runs + 1))

    def processes_of(self, run: int) -> int:
        """Returns how many processes make a run."""
        every = self._config.two_processes
        return 2 if every and run % every == 0 else 1

    def take(self) -> bool:
        """Says whether there is one more kill, and takes it."""
        with self._lock:
            if self._taken >= self._config.kills:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        """Gives back a kill that was taken and not made."""
        with self._lock:
            self._taken -= 1

    def add(self, kill: Kill) -> None:
        """Keeps a kill that was made."""
        with self._lock:
            self.kills.append(kill)
            numbers = f"{len(self.kills):>4}  {kill.run:>3}  {kill.meant:<10}  {kill.after:>7.2f}"
            print(f"{numbers}  {kill.fell:<10}  {kill.step}", flush=True)

    def end_run(self, run: int, trial: Trial, found: list[str]) -> None:
        """Keeps what differs at the end of a run."""
        with self._lock:
            self.busy += trial.busy
            print(
                f"      run {run} ended after {trial.starts} starts: {'; '.join(found[:3]) or 'bitwise the same'} "
                f"({self.busy / max(1, len(self.kills)):.1f} processor seconds a kill)",
                flush=True,
            )
            self.wrong += [f"run {run}: {difference}" for difference in found]


def torment(folder: Path, config: Config) -> bool:
    """Does all that the module says; returns whether everything was the same."""
    write_data(folder)
    if config.forked:
        prepare_forks(folder, device=config.device)
    tally = Tally(config)
    began = time.monotonic()
    print("runs without a stop ...", flush=True)
    references = {
        processes: never_stopped(Place(folder, config.device, config.forked, processes), tally)
        for processes in ((1, 2) if config.two_processes else (1,))
    }
    print(f"\n{'kill':>4}  {'run':>3}  {'meant':<10}  {'seconds':>7}  {'fell in':<10}  last step written", flush=True)
    with ThreadPoolExecutor(config.workers) as pool:
        for done in [pool.submit(work, config, tally, references) for _ in range(config.workers)]:
            done.result()
    fell = ", ".join(f"{count} in {name}" for name, count in Counter(kill.fell for kill in tally.kills).most_common())
    made = f"{tally.runs} runs"
    if tally.pairs:
        together = sum(kill.processes == 2 for kill in tally.kills)
        made += f", {tally.pairs} of two processes with {together} of the kills"
    taken = (time.monotonic() - began) / 60
    print(f"\n{len(tally.kills)} kills by SIG{config.signal} in {made} ({fell})")
    print(f"{taken:.0f} minutes, {tally.busy:.0f} processor seconds in all starts that were to be killed")
    for line in tally.wrong:
        print(f"  {line}")
    print(
        "all runs ended bitwise as the one never stopped"
        if not tally.wrong
        else f"{len(tally.wrong)} differences in {folder}"
    )
    return not tally.wrong


@dataclass(frozen=True)
class Reference:
    """A run that was never stopped."""

    place: Place
    directory: Path
    lengths: Lengths


def never_stopped(place: Place, tally: Tally) -> Reference:
    """Makes a run twice without a stop; the second one finds all programs compiled, as those that are killed do."""
    name = "one process" if place.processes == 1 else "two processes"
    first, second = (Trial(f"reference{place.processes}{letter}", place) for letter in "ab")
    measure(first)
    lengths = measure(second)
    tally.wrong += [f"{name}, never stopped: {each}" for each in differences(first.directory, second.directory)]
    print(
        f"{name}: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in vars(lengths).items()),
        flush=True,
    )
    return Reference(place, second.directory, lengths)


def work(config: Config, tally: Tally, references: dict[int, Reference]) -> None:
    """Makes runs, one after another, until all kills have been spent."""
    while (run := tally.begin_run()) is not None:
        reference = references[tally.processes_of(run)]
        trial = Trial(f"run{run}", reference.place)
        make_run(trial, run, config=config, tally=tally, lengths=reference.lengths)
        tally.end_run(run, trial, differences(trial.directory, reference.directory))
        if not tally.wrong:
            shutil.rmtree(trial.directory)


def make_run(trial: Trial, run: int, *, config: Config, tally: Tally, lengths: Lengths) -> None:
    """Starts a run and kills it, again and again, until a start comes to its end."""
    generator = random.Random(f"{config.seed} {run}")
    moments: list[Moment] = []
    while True:
        trial.start()
        if not tally.take():
            return trial.finish()
        if not moments:  # each kind equally often, in a random order
            moments = list(get_args(Moment))
            generator.shuffle(moments)
        moment = moments.pop()
        if not reach(trial, moment, lengths, generator):
            tally.give_back()
            return trial.finish()
        after, fell = trial.age, trial.where()
        trial.kill(signal.Signals[f"SIG{config.signal}"], generator)
        fell = trial.where() if config.signal == "KILL" else fell
        step = trial.last_metrics()["step"]
        tally.add(Kill(run=run, processes=tally.processes_of(run), meant=moment, after=after, fell=fell, step=step))


def main(config: Config) -> None:
    """Chooses the directory and ends with what was found."""
    for name, least in (("kills", 1), ("workers", 1), ("two_processes", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name} must be at least {least}, got {name}={getattr(config, name)}.")
    folder = config.directory or Path(tempfile.mkdtemp(prefix="lmx-kill-"))
    folder = folder.resolve()
    if config.directory is not None and folder.exists() and any(folder.iterdir()):
        raise InputError(f"directory must be empty or not there, got directory={folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    same = torment(folder, config)
    if same and config.directory is None:
        shutil.rmtree(folder)
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Config, description=__doc__))
