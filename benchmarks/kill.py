"""Kills a small training again and again at random moments, and compares its end with that of one never stopped.

    python benchmarks/kill.py --kills 50 --seed 1
    python benchmarks/kill.py --kills 10 --signal TERM --device cuda
    python benchmarks/kill.py --kills 1000 --workers 2 --forked --two-processes 8

A tiny translation experiment (dropout, accumulation, validations with search, an average of checkpoints) is run once
without a stop. Then it is run again by the same command, killed, started again and killed again, until all kills have
been spent over as many runs as that takes. The moments are drawn from five kinds: in the start-up, between two steps
or inside one, in a save, in a validation, and after the training. Where a kill fell is read from what it left behind.
Each run must then end with bitwise the same parameters and optimizer state, the same translations and scores, and
the same lines of metrics, each once, but for what the clock says. SIGTERM must end in exit code 75 as well.

The last command ends in about an hour on two cores: processes are forked from one that has imported all modules, so
that kills in the start-up fall after the imports, and two runs go on at a time. Of every eight runs one is made by two
processes, which are killed one shortly after the other, in either order; they are compared with a run of two processes.

Exit code 1 says that something differs; the directory is kept then, else only with --directory.
"""

import json
import multiprocessing
import multiprocessing.context
import os
import random
import runpy
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro

from lmx.data.embedded import phrasebook
from lmx.errors import InputError
from lmx.process import EXIT_STOPPED, one_line_errors

ROOT = Path(__file__).resolve().parent.parent
Moment = Literal["start", "step", "save", "validation", "end"]

VALIDATE_EVERY = 60
FLAGS = f"""
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --model.dropout-rate 0.1 --num-buckets 2 --tokens-per-batch 320
    --accumulation 2 --updates 360 --validate-every {VALIDATE_EVERY} --save-every 25 --keep-every 100 --log-every 7
    --bleu-every 2 --bleu-sentences 8 --average 3 --search.beam-size 2 --optimization.warmup 40
""".split()
SIZES: dict[Literal["train", "validation", "test"], int] = {"train": 600, "validation": 60, "test": 24}

# What the script imports when it first needs it.
LATER = ("lmx.translator", "lmx.scoring.translation", "lmx.report.translation", "jax.experimental.multihost_utils")

# Fields of metrics that the clock and the machine decide.
TIMED = ("seconds", "tokens_per_second", "data_wait", "mfu", "mfu_causal")
PATIENCE = 600  # seconds that one start may take


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
    end: float
    save: float = 0.25


@dataclass(frozen=True)
class Kill:
    """One kill: of which run, where it was meant to fall, and where it fell."""

    run: int
    meant: str
    after: float
    fell: str
    step: int


class NewInterpreter(subprocess.Popen):
    """A process that starts from nothing."""

    def ended_with(self) -> int | None:
        """Returns its exit code, None while it runs."""
        return self.poll()


class Forked(multiprocessing.context.ForkServerProcess):
    """A process that begins with all modules imported."""

    def ended_with(self) -> int | None:
        """Returns its exit code, None while it runs."""
        return self.exitcode


def run_forked(command: list[str], log: Path, environment: dict[str, str], folder: Path) -> None:
    """Is a forked process: runs a script with its flags as a new interpreter would."""
    os.environ.update(environment)
    os.chdir(folder)
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


class Trial:
    """The experiment in one directory, started as often as it takes.

    Args:
        folder: of all runs, with their data.
        processes: that make a run together, each with one device.
    """

    def __init__(self, folder: Path, name: str, config: Config, *, processes: int = 1):
        self.directory = folder / name
        self.starts = 0
        self._folder, self._config, self._number = folder, config, processes
        self.log = folder / f"{name}.log"
        self._processes: list[NewInterpreter | Forked] = []
        self._began = 0.0

    def start(self) -> None:
        """Starts the same command once more."""
        self.starts += 1
        self.log = self._folder / f"{self.directory.name}.{self.starts}.log"
        script = str(ROOT / "experiments" / "translation.py")
        data = [part for split in SIZES for part in (f"--{split}", str(self._folder / f"{split}.tsv"))]
        command = [script, "phrasebook", *data, *FLAGS, "--run", str(self.directory)]
        environment = {"JAX_PLATFORMS": self._config.device, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        hosts: list[list[str]] = [[]]
        if self._number > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            shared = ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.num-processes", str(self._number)]
            hosts = [[*shared, "--hosts.process-id", str(process)] for process in range(self._number)]
        self._processes = []
        for process, flags in enumerate(hosts):
            log = self.log.with_suffix(f".{process}.log") if process else self.log
            log.touch()
            if self._config.forked:
                arguments = ([*command, *flags], log, environment, self._folder)
                started = Forked(target=run_forked, args=arguments)
                started.start()
            else:
                with log.open("wb") as file:
                    started = NewInterpreter(
                        [sys.executable, *command, *flags],
                        stdout=file,
                        stderr=file,
                        env={**os.environ, **environment},
                        cwd=self._folder,
                    )
            self._processes.append(started)
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the newest start."""
        return time.monotonic() - self._began

    def ended(self) -> bool:
        """Returns whether all processes have ended by themselves."""
        if self.age > PATIENCE:
            for process in self._processes:
                process.kill()
            raise InputError(f"a start must end within {PATIENCE} s, got more; see {self.log}.")
        return all(process.ended_with() is not None for process in self._processes)

    def finish(self) -> None:
        """Waits for an end by itself.

        Raises:
            ValueError: it did not end well.
        """
        while not self.ended():
            time.sleep(0.01)
        codes = [process.ended_with() for process in self._processes]
        if any(codes) or "Traceback" in self.printed():
            raise InputError(
                f"start {self.starts} of {self.directory} must end with exit code 0, got {codes}; "
                f"see {self.log}: {self.printed()[-500:]}"
            )

    def kill(self, number: int, generator: random.Random) -> None:
        """Sends a signal to the processes, to one shortly after the other, and waits until they have ended.

        Raises:
            ValueError: they did not end as they should.
        """
        order = generator.sample(self._processes, len(self._processes))
        for index, process in enumerate(order):
            if index:
                time.sleep(generator.choice((0.0, 0.02, 0.5)))
            if process.ended_with() is None and process.pid is not None:
                os.kill(process.pid, number)
        until = time.monotonic() + PATIENCE
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.005)
        codes = [process.ended_with() for process in self._processes]
        # 0: it was about to end; -15: Python had not come to our first line yet, or was past the last. A process whose
        # peer has been killed ends as the runtime lets it.
        allowed = (-number, 0) if number == signal.SIGKILL else (EXIT_STOPPED, -number, 0)
        alone = len(codes) == 1
        if (alone and codes[0] not in allowed) or None in codes or (alone and "Traceback" in self.printed()):
            raise InputError(
                f"start {self.starts} of {self.directory} must end with an exit code of {allowed}, got {codes}; "
                f"see {self.log}: {self.printed()[-500:]}"
            )

    def printed(self) -> str:
        """Returns what the newest start has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the whole lines of metrics.jsonl so far."""
        path = self.directory / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is half written."""
        return any((self.directory / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

    def is_validating(self) -> bool:
        """Returns whether a validation is due and its line is not there."""
        last = (self.metrics() or [{"kind": "none", "step": 0}])[-1]
        return last["kind"] == "train" and last["step"] % VALIDATE_EVERY == 0

    def where(self) -> str:
        """Returns where the newest start is, or was when it was killed, as far as files and lines tell."""
        printed = self.printed()
        steps = [path for path in (self.directory / "checkpoints").glob("*") if path.name.isdigit()]
        if "first step done" not in printed and "training ended" not in printed:
            return "start"
        if "training ended" in printed:
            return "end"
        if self.is_saving():
            return "save"
        if any(not (path / "checksums.json").exists() for path in steps):
            return "deletion"
        return "validation" if self.is_validating() else "step"


def reach(trial: Trial, moment: Moment, lengths: Lengths, generator: random.Random) -> bool:
    """Waits until a moment of the kind has come; returns False if the process ended before."""
    # Squared: what was measured includes compiling, which later starts do not do again.
    delay = (
        generator.random() ** 2
        * {
            "start": lengths.start,
            "step": lengths.training / 3,
            "save": lengths.save,
            "validation": lengths.validation,
            "end": lengths.end,
        }[moment]
    )
    has_come = {
        "start": lambda: True,
        "step": lambda: trial.where() not in ("start", "end"),
        "save": trial.is_saving,
        "validation": trial.is_validating,
        "end": lambda: "training ended" in trial.printed(),
    }[moment]
    passed = 0
    if moment in ("save", "validation"):
        passed = generator.randrange(3)  # so many are let pass, or no start would get further than its first
        while "first step done" not in trial.printed() and not trial.ended():
            time.sleep(0.002)
    for last in [False] * passed + [True]:
        while not has_come():
            if trial.ended():
                return False
            time.sleep(0.002)
        while not last and has_come():
            if trial.ended():
                return False
            time.sleep(0.002)
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if trial.ended():
            return False
        time.sleep(0.001)
    return not trial.ended()


def measure(trial: Trial) -> Lengths:
    """Runs a trial without a stop and returns how long its parts took."""
    trial.start()
    marks: dict[str, float] = {}
    while not trial.ended():
        printed = trial.printed()
        for mark in ("first step done", "training ended"):
            if mark in printed:
                marks.setdefault(mark, trial.age)
        time.sleep(0.02)
    whole = trial.age
    trial.finish()
    seconds = [line["seconds"] for line in trial.metrics() if line["kind"] == "validation"]
    start, trained = marks["first step done"], marks["training ended"]
    return Lengths(start=start, training=trained - start, validation=statistics.median(seconds), end=whole - trained)


def differences(run: Path, reference: Path) -> list[str]:
    """Returns what differs between two finished runs, a line each."""
    found = []
    for name in ("model.safetensors", "test.hypotheses.txt", "samples.jsonl", "attention.json"):
        if (run / name).read_bytes() != (reference / name).read_bytes():
            found.append(f"{name} differs")
    ours, theirs = (json.loads((path / "scores.json").read_text())["rows"] for path in (run, reference))
    if ours != theirs:
        found.append("scores.json has other scores")
    ours, theirs = (untimed(path / "metrics.jsonl") for path in (run, reference))
    if len(ours) != len(theirs):
        found.append(f"metrics.jsonl has {len(ours)} lines and not {len(theirs)}")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        found += [
            f"metrics.jsonl:{number}: {name} is {one.get(name)} and not {other.get(name)}"
            for name in sorted(one.keys() | other.keys())
            if one.get(name) != other.get(name)
        ]
    ours, theirs = (newest_state(path / "checkpoints") for path in (run, reference))
    if ours.keys() != theirs.keys():
        found.append(f"the last checkpoint has other arrays: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    found += [
        f"the last checkpoint: {name} differs"
        for name in ours.keys() & theirs.keys()
        if ours[name].dtype != theirs[name].dtype or ours[name].tobytes() != theirs[name].tobytes()
    ]
    return found


def untimed(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics without what the clock and the machine decide."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMED and not name.startswith("memory")}
        for line in lines
    ]


def newest_state(checkpoints: Path) -> dict[str, np.ndarray]:
    """Returns name -> array of the newest checkpoint, step and optimizer state among them."""
    import jax
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    with ocp.PyTreeCheckpointer() as reader, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided")  # as it was is right: it is only compared
        tree = reader.restore((checkpoints / str(step) / "state").resolve())
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def write_data(folder: Path) -> None:
    """Writes the first sentences of each split of the phrasebook."""
    for split, size in SIZES.items():
        lines = [f"{phrase.source}\t{phrase.target}\n" for phrase in phrasebook(split)[:size]]
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


class Tally:
    """What all runs share: how many kills are left, what was found, one line on the screen at a time."""

    def __init__(self, config: Config):
        self.kills: list[Kill] = []
        self.wrong: list[str] = []
        self.runs = 0
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

    def end_run(self, run: int, starts: int, found: list[str]) -> None:
        """Keeps what differs at the end of a run."""
        with self._lock:
            print(
                f"      run {run} ended after {starts} starts: {'; '.join(found[:3]) or 'bitwise the same'}", flush=True
            )
            self.wrong += [f"run {run}: {difference}" for difference in found]


def torment(folder: Path, config: Config) -> bool:
    """Does all that the module says; returns whether everything was the same."""
    write_data(folder)
    if config.forked:
        os.environ |= {"JAX_PLATFORMS": config.device, "COLUMNS": "200"}
        multiprocessing.set_forkserver_preload(["__main__", "experiments.translation", *LATER])
    print("runs without a stop ...", flush=True)
    references: dict[int, tuple[Trial, Lengths]] = {}
    for processes in (1, 2) if config.two_processes else (1,):
        reference = Trial(folder, f"reference{processes}", config, processes=processes)
        lengths = measure(reference)
        references[processes] = reference, lengths
        name = "one process" if processes == 1 else "two processes"
        print(
            f"{name}: start {lengths.start:.1f} s, training {lengths.training:.1f} s, "
            f"a validation {lengths.validation:.2f} s, end {lengths.end:.1f} s"
        )
    print(f"\n{'kill':>4}  {'run':>3}  {'meant':<10}  {'seconds':>7}  {'fell in':<10}  last step written")
    tally = Tally(config)
    with ThreadPoolExecutor(config.workers) as pool:
        for done in [pool.submit(work, folder, config, tally, references) for _ in range(config.workers)]:
            done.result()
    fell = ", ".join(f"{count} in {name}" for name, count in Counter(kill.fell for kill in tally.kills).most_common())
    pairs = tally.runs // config.two_processes if config.two_processes else 0
    made = f"{tally.runs} runs" + (f", {pairs} of two processes" if pairs else "")
    print(f"\n{len(tally.kills)} kills by SIG{config.signal} in {made} ({fell})")
    for line in tally.wrong:
        print(f"  {line}")
    print(
        "all runs ended bitwise as the one never stopped"
        if not tally.wrong
        else f"{len(tally.wrong)} differences in {folder}"
    )
    return not tally.wrong


def work(folder: Path, config: Config, tally: Tally, references: dict[int, tuple[Trial, Lengths]]) -> None:
    """Makes runs, one after another, until all kills have been spent."""
    while (run := tally.begin_run()) is not None:
        processes = 2 if config.two_processes and run % config.two_processes == 0 else 1
        reference, lengths = references[processes]
        trial = Trial(folder, f"run{run}", config, processes=processes)
        make_run(trial, run, config=config, tally=tally, lengths=lengths)
        tally.end_run(run, trial.starts, differences(trial.directory, reference.directory))
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
        step = (trial.metrics() or [{"step": 0}])[-1]["step"]
        tally.add(Kill(run=run, meant=moment, after=after, fell=fell, step=step))


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
