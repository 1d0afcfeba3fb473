"""Kills a small training again and again at random moments, and compares its end with that of one never stopped.

    python benchmarks/kill.py --kills 50 --seed 1
    python benchmarks/kill.py --kills 10 --signal TERM --device cuda

A tiny translation experiment (dropout, accumulation, validations with search, an average of checkpoints) is run once
without a stop. Then it is run again by the same command, killed, started again and killed again, until all kills have
been spent over as many runs as that takes. The moments are drawn from five kinds: in the start-up, between two steps
or inside one, in a save, in a validation, and after the training. Where a kill fell is read from what it left behind.
Each run must then end with bitwise the same parameters and optimizer state, the same translations and scores, and
the same lines of metrics, each once, but for what the clock says. SIGTERM must end in exit code 75 as well.

Exit code 1 says that something differs; the directory is kept then, else only with --directory.
"""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro

from lmx.data.embedded import phrasebook
from lmx.errors import InputError
from lmx.run import EXIT_STOPPED, one_line_errors

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

# Fields of metrics that the clock and the machine decide.
TIMED = ("seconds", "tokens_per_second", "data_wait", "mfu", "mfu_causal")
PATIENCE = 600  # seconds that one start may take


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is killed how often.

    Attributes:
        signal: KILL ends at once; TERM asks to stop.
        device: platform of jax.
        directory: of all runs; None makes one and removes it.
    """

    kills: int = 50
    seed: int = 1
    signal: Literal["KILL", "TERM"] = "KILL"
    device: str = "cpu"
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


class Trial:
    """The experiment in one directory, started as often as it takes.

    Args:
        folder: of all runs, with their data.
    """

    def __init__(self, folder: Path, name: str, device: str):
        self.directory = folder / name
        self.starts = 0
        self._folder, self._device = folder, device
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen | None = None
        self._began = 0.0

    def start(self) -> None:
        """Starts the same command once more."""
        self.starts += 1
        self.log = self._folder / f"{self.directory.name}.{self.starts}.log"
        script = ROOT / "experiments" / "translation.py"
        data = [part for split in SIZES for part in (f"--{split}", str(self._folder / f"{split}.tsv"))]
        command = [sys.executable, str(script), "phrasebook", *data, *FLAGS, "--run", str(self.directory)]
        environment = {**os.environ, "JAX_PLATFORMS": self._device, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self._folder)
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the newest start."""
        return time.monotonic() - self._began

    def ended(self) -> bool:
        """Returns whether the process has ended by itself."""
        assert self._process is not None
        if self.age > PATIENCE:
            self._process.kill()
            raise InputError(f"a start must end within {PATIENCE} s, got more; see {self.log}.")
        return self._process.poll() is not None

    def finish(self) -> None:
        """Waits for an end by itself.

        Raises:
            ValueError: it did not end well.
        """
        while not self.ended():
            time.sleep(0.01)
        assert self._process is not None
        if self._process.returncode != 0 or "Traceback" in self.printed():
            raise InputError(
                f"start {self.starts} of {self.directory} must end with exit code 0, got {self._process.returncode}; "
                f"see {self.log}: {self.printed()[-500:]}"
            )

    def kill(self, number: int) -> None:
        """Sends a signal to the process and waits until it has ended.

        Raises:
            ValueError: it did not end as it should.
        """
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        # 0: it was about to end; -15: Python had not come to our first line yet, or was past the last.
        allowed = (-number, 0) if number == signal.SIGKILL else (EXIT_STOPPED, -number, 0)
        if code not in allowed or "Traceback" in self.printed():
            raise InputError(
                f"start {self.starts} of {self.directory} must end with an exit code of {allowed}, got {code}; "
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


def torment(folder: Path, config: Config) -> bool:
    """Does all that the module says; returns whether everything was the same."""
    write_data(folder)
    generator = random.Random(config.seed)
    number = signal.Signals[f"SIG{config.signal}"]
    reference = Trial(folder, "reference", config.device)
    print("one run without a stop ...", flush=True)
    lengths = measure(reference)
    print(
        f"start {lengths.start:.1f} s, training {lengths.training:.1f} s, "
        f"a validation {lengths.validation:.2f} s, end {lengths.end:.1f} s"
    )
    kills: list[Kill] = []
    moments: list[Moment] = []
    wrong: list[str] = []
    runs = 0
    print(f"\n{'kill':>4}  {'run':>3}  {'meant':<10}  {'seconds':>7}  {'fell in':<10}  last step written")
    while len(kills) < config.kills:
        runs += 1
        trial = Trial(folder, f"run{runs}", config.device)
        while True:
            trial.start()
            if len(kills) == config.kills:
                trial.finish()
                break
            if not moments:  # each kind equally often, in a random order
                moments = list(get_args(Moment))
                generator.shuffle(moments)
            moment = moments.pop()
            if not reach(trial, moment, lengths, generator):
                moments.insert(0, moment)  # it ended before: this kind comes another time
                trial.finish()
                break
            after, fell = trial.age, trial.where()
            trial.kill(number)
            fell = trial.where() if config.signal == "KILL" else fell
            step = (trial.metrics() or [{"step": 0}])[-1]["step"]
            kills.append(Kill(run=runs, meant=moment, after=after, fell=fell, step=step))
            print(f"{len(kills):>4}  {runs:>3}  {moment:<10}  {after:>7.2f}  {fell:<10}  {step}", flush=True)
        found = differences(trial.directory, reference.directory)
        print(f"      run {runs} ended after {trial.starts} starts: {'; '.join(found[:3]) or 'bitwise the same'}")
        wrong += [f"run {runs}: {difference}" for difference in found]
    fell = ", ".join(f"{count} in {name}" for name, count in Counter(kill.fell for kill in kills).most_common())
    print(f"\n{len(kills)} kills by SIG{config.signal} in {runs} runs ({fell})")
    for line in wrong:
        print(f"  {line}")
    print("all runs ended bitwise as the one never stopped" if not wrong else f"{len(wrong)} differences in {folder}")
    return not wrong


def main(config: Config) -> None:
    """Chooses the directory and ends with what was found."""
    if config.kills < 1:
        raise InputError(f"kills must be at least 1, got kills={config.kills}.")
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
