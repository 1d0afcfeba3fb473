"""A small training that is started, killed and started again: its commands, its processes, and where they are.

`kill.py` decides when a process is killed; `same_runs.py` compares what is left.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.context
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmx.data.embedded import phrasebook
from lmx.errors import InputError
from lmx.process import EXIT_STOPPED

ROOT = Path(__file__).resolve().parent.parent

UPDATES, VALIDATE_EVERY = 60, 20
FLAGS = f"""
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --model.dropout-rate 0.1 --num-buckets 1 --tokens-per-batch 320
    --accumulation 2 --updates {UPDATES} --validate-every {VALIDATE_EVERY} --save-every 7 --keep-every 35 --log-every 7
    --bleu-every 2 --bleu-sentences 8 --average 3 --search.beam-size 2 --optimization.warmup 10
""".split()
SIZES: dict[Literal["train", "validation", "test"], int] = {"train": 600, "validation": 60, "test": 3}

# All that a start imports, some of it only when it first needs it.
IMPORTED = (
    "benchmarks.killing",
    "experiments.translation",
    "lmx.translator",
    "lmx.scoring.translation",
    "lmx.report.translation",
    "jax.experimental.multihost_utils",
    "orbax.checkpoint",
    "safetensors.numpy",
    "typeguard",
)
PATIENCE = 3600  # seconds that one start may take


def environment(folder: Path, *, device: str, processes: int = 1) -> dict[str, str]:
    """Returns what the starts find in their environment.

    A start loads all programs that an earlier one of any run has compiled; so small a training would else compile for
    most of its time.
    """
    found = {
        "JAX_PLATFORMS": device,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return found if processes == 1 else found | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache" / "together")}


def prepare_forks(folder: Path, *, device: str) -> None:
    """Lets the processes that are forked begin with all modules imported."""
    os.environ |= environment(folder, device=device)  # jax reads its variables when it is imported
    multiprocessing.set_forkserver_preload(["__main__", *IMPORTED])


def write_data(folder: Path) -> None:
    """Writes the first sentences of each split of the phrasebook."""
    for split, size in SIZES.items():
        lines = [f"{phrase.source}\t{phrase.target}\n" for phrase in phrasebook(split)[:size]]
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Place:
    """Where and how a training is started.

    Attributes:
        folder: of all runs, with their data.
        device: platform of jax.
        forked: from a process that has imported all modules, instead of a new interpreter for each start.
        processes: that make a run together, each with one device.
    """

    folder: Path
    device: str
    forked: bool
    processes: int = 1


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


def run_forked(command: list[str], log: Path, variables: dict[str, str], folder: Path) -> None:
    """Is a forked process: runs a script with its flags as a new interpreter would."""
    os.environ.update(variables)
    os.chdir(folder)
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


class Trial:
    """The experiment in one directory, started as often as it takes."""

    def __init__(self, name: str, place: Place):
        self.directory = place.folder / name
        self.starts = 0
        self.busy = 0.0  # seconds of processors that all starts have taken
        self.log = place.folder / f"{name}.log"
        self._place = place
        self._processes: list[NewInterpreter | Forked] = []
        self._began = self._date = 0.0

    def start(self) -> None:
        """Starts the same command once more."""
        place, name = self._place, self.directory.name
        self.starts += 1
        self.log = place.folder / f"{name}.{self.starts}.log"
        script = str(ROOT / "experiments" / "translation.py")
        data = [part for split in SIZES for part in (f"--{split}", str(place.folder / f"{split}.tsv"))]
        command = [script, "phrasebook", *data, *FLAGS, "--run", str(self.directory)]
        variables = environment(place.folder, device=place.device, processes=place.processes)
        self._began, self._date = time.monotonic(), time.time()
        self._processes = []
        for process, flags in enumerate(flags_of_hosts(place.processes)):
            log = self.log.with_suffix(f".{process}.log") if process else self.log
            log.touch()
            if place.forked:
                started = Forked(target=run_forked, args=([*command, *flags], log, variables, place.folder))
                started.start()
            else:
                with log.open("wb") as file:
                    started = NewInterpreter(
                        [sys.executable, *command, *flags],
                        stdout=file,
                        stderr=file,
                        env={**os.environ, **variables},
                        cwd=place.folder,
                    )
            self._processes.append(started)

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
            InputError: it did not end well.
        """
        busy = 0.0
        while not self.ended():
            busy = max(busy, self._busy_now())
            time.sleep(0.02)
        self.busy += busy
        codes = [process.ended_with() for process in self._processes]
        if any(codes) or "Traceback" in self.printed():
            raise InputError(
                f"start {self.starts} of {self.directory} must end with exit code 0, got {codes}; "
                f"see {self.log}: {self.printed()[-500:]}"
            )

    def kill(self, number: int, generator: random.Random) -> None:
        """Sends a signal to the processes, to one shortly after the other, and waits until they have ended.

        Raises:
            InputError: they did not end as they should.
        """
        self.busy += self._busy_now()
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

    def _busy_now(self) -> float:
        """Returns the processor seconds of the newest start's processes that run; 0 where the system does not tell."""
        ticks = 0
        for process in self._processes:
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def printed(self) -> str:
        """Returns what the newest start has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the whole lines of metrics.jsonl so far."""
        return [json.loads(line) for line in self._metric_lines()]

    def last_metrics(self) -> dict[str, Any]:
        """Returns the newest of these lines."""
        lines = self._metric_lines()
        return json.loads(lines[-1]) if lines else {"kind": "none", "step": 0}

    def _metric_lines(self) -> list[str]:
        path = self.directory / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is half written."""
        return any(".orbax-checkpoint-tmp" in name for name in self._checkpoints())

    def is_validating(self) -> bool:
        """Returns whether a validation is due and its line is not there."""
        last = self.last_metrics()
        return last["kind"] == "train" and last["step"] % VALIDATE_EVERY == 0

    def where(self) -> str:
        """Returns where the newest start is, or was when it was killed, as far as files and lines tell."""
        printed = self.printed()
        if "training ended" in printed:
            return self._where_after_training()
        if "first step done" not in printed:
            if "compiled programs" not in printed:
                return "start"
            return "validation" if self.is_validating() else "first step"  # one left out at a signal comes first
        if self.is_validating():  # the save of a step before may not have ended
            return "validation"
        if self.is_saving():
            return "save"
        steps = [self.directory / "checkpoints" / name for name in self._checkpoints() if name.isdigit()]
        if any(not (path / "checksums.json").exists() for path in steps):
            return "deletion"
        return "step"

    def _where_after_training(self) -> str:
        for name, before in (("model.safetensors", "average"), ("scores.json", "test"), ("report.html", "report")):
            path = self.directory / name
            if not path.exists() or path.stat().st_mtime < self._date:  # of an earlier start
                return before
        return "exit"

    def _checkpoints(self) -> list[str]:
        try:
            return os.listdir(self.directory / "checkpoints")
        except FileNotFoundError:
            return []


def flags_of_hosts(number: int) -> list[list[str]]:
    """Returns the flags by which processes find each other, of each; of one alone, none."""
    if number == 1:
        return [[]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.num-processes", str(number)]
    return [[*shared, "--hosts.process-id", str(process)] for process in range(number)]
