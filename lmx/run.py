"""The run directory: what a training is, remembers and prints, so that it can be stopped anywhere and continued.

A run holds its config, versions, tokenizers, metrics, checkpoints and scores. Here they are opened, compared and
written. The loop that fills them is `lmx.loop`'s; what a step or a score is, other modules know.
"""

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmx.checkpoint import Checkpoints
from lmx.compilation import CompileCache, keep_programs
from lmx.devices import device_of_kind
from lmx.errors import FULL, is_users, naming
from lmx.hosts import agreement, is_writer, label
from lmx.lock import take_lock
from lmx.saved import read_record
from lmx.training import TrainState

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on a signal, to be started again by the same command

UNBOUNDED = 10**6  # columns; what fills a line stays small

_IMPORTED = time.perf_counter()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Console(Console):
    """A console that breaks no line, and that a full disk does not stop, where its lines go to a file or a pipe.

    What cannot be written is left out.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows of a terminal; a file and a pipe have no end of a line where a signature could be broken."""
        found = super().size
        return found if self.is_terminal else found._replace(width=UNBOUNDED)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def print(self, *objects: Any, **options: Any) -> None:
        with _unless_full():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Goes on in silence when nobody reads any more, as behind `| head`: what is printed is no part of a run."""
        self.quiet = True
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# What is printed may hold a user's words: labels, paths, samples. Brackets in them are no markup, colons no emoji.
console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


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


class Run:
    """A run directory; nothing is written before `open`, so that a start that fails leaves nothing behind.

    Of several hosts, all of which see the directory, one writes and speaks (`lmx.hosts`); the others call the same
    methods, read, and stay silent.

    Args:
        directory: of the run, there or not.
        facts: what makes the run this run ("experiment", "preset", "family", "config"); compared with what an
            existing directory says, but for `free` fields of its config and all below them, which may change.
        absent: returns, given the config of a run of a version that had fewer fields, by their dotted names the values
            by which the later ones do as that version did.

    Attributes:
        changed: dotted names of what the existing directory says otherwise, such as "config.mesh.fsdp".
        made_of: fingerprints of what the run is made of, by names such as "training data"; see `compare`.

    Raises:
        ValueError: the directory is a run of another config; the message lists the differences.
    """

    def __init__(
        self,
        directory: Path,
        facts: Mapping[str, Any],
        *,
        free: tuple[str, ...] = (),
        absent: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda saved: {},
    ):
        self.directory = directory
        facts = json.loads(json.dumps(facts))
        self.changed: tuple[str, ...] = ()
        self.made_of: dict[str, Any] = {}
        self._saved: dict[str, Any] | None = None
        self.writes = is_writer()
        self.console = console if self.writes else Console(quiet=True)
        path = directory / "config.json"
        if path.is_file():
            saved = read_record(path)
            compared = {name: saved.get(name) for name in facts}
            config, taken = compared.get("config"), {}
            if isinstance(config, dict) and "config" in facts:
                compared["config"], taken = _filled(config, facts["config"], absent)
            found = differences(compared, facts)
            self.changed = tuple(name for name, _, _ in found)
            different = [
                f"{name}={old!r} there and {new!r} here"
                for name, old, new in found
                if not f"{name.removeprefix('config.')}.".startswith(tuple(f"{each}." for each in free))
            ]
            if different:
                names = [name.removeprefix("config.") for name, _, _ in found]
                flags = " ".join(f"--{name.replace('_', '-')} {taken[name]}" for name in names if name in taken)
                older = (
                    f"It is of an earlier version, which had no such field: {flags} does as it did. " if flags else ""
                )
                raise ValueError(
                    f"{directory} must be a run of the same config, got {'; '.join(different)}. {older}"
                    "Choose another --run, or remove that directory."
                )
            if taken:
                values = ", ".join(f"{name}={value}" for name, value in taken.items() if value is not None)
                self.console.print(f"{directory} lacks fields of this version; they are what was done then: {values}")
            self._saved, facts = saved, {**saved, **facts}
        elif directory.exists() and any(path.suffix not in (".partial", ".lock") for path in directory.iterdir()):
            raise ValueError(f"{directory} must be a run directory or empty: it has files, but no config.json.")
        self._facts: dict[str, Any] = dict(facts)
        self._start: dict[str, Any] = {}
        self._programs = "off"
        self.memory = Memory()

    @property
    def begun(self) -> Mapping[str, Any] | None:
        """What config.json says, where the run has begun already."""
        return self._saved

    def compare(self, made_of: Mapping[str, Any], *, model: Mapping[str, Any] | None = None) -> None:
        """Compares what a run is about to be made of with what it was made of; writes nothing.

        A path does not say what is in a file: data that was changed under its path would go into a model that has
        learned from other data. A run of a version that kept no fingerprints is taken as it is.

        Args:
            made_of: fingerprints (`lmx.hosts.fingerprint`), or the names of labels in the order of the outputs. What
                begins with "test" has no part in the model and may change: the name is then in `changed`.
            model: the fields of the model's config, as the data has made it.

        Raises:
            ValueError: something is not what it was; the message names it.
        """
        self.made_of = json.loads(json.dumps(made_of))
        before = dict((self._saved or {}).get("made_of") or {})
        if "labels" in made_of and "labels" not in before:
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                before["labels"] = json.loads((self.directory / "labels.json").read_text(encoding="utf-8"))["names"]
        for name, value in self.made_of.items():
            if name not in before or before[name] == value:
                continue
            if name.startswith("test"):
                self.changed += (name,)
                continue
            found = ""
            if isinstance(value, list) and isinstance(before[name], list):
                found = f": it has {_few(before[name])}, and the data {_few(value)}"
            raise ValueError(
                f"the {name} of {self.directory} must be what the run began with, got other {name}{found}. Bring back "
                "what it was, or choose another --run."
            )
        if model is not None and self._saved and "model" in self._saved:
            # A field that the version of that run had not, the config has been compared for.
            later = {name: value for name, value in model.items() if name in self._saved["model"]}
            found = differences(self._saved["model"], json.loads(json.dumps(later)), name="model")
            found = [each for each in found if each[0] != "model.kernel"]  # has no part in what is learned
            if found:
                different = "; ".join(f"{name}={old!r} there and {new!r} here" for name, old, new in found)
                raise ValueError(
                    f"{self.directory} must be a run of the same model, got {different}. Choose another --run."
                )

    def serves(self, *, length: str) -> bool:
        """Returns whether a finished model is there and no checkpoint: it is used as it is, and nothing is trained.

        A model that took days must not go because a directory was tidied up.

        Args:
            length: the field that says how long the training is, such as "config.updates".

        Raises:
            ValueError: there are no checkpoints to go on from, and more training is asked for.
        """
        steps = [path for path in self.directory.glob("checkpoints/*") if path.name.isdecimal()]
        if steps or not (self.directory / "model.safetensors").is_file():
            return False
        if length in self.changed:
            raise ValueError(
                f"{self.directory} must have checkpoints to train on from, got a finished model alone and another "
                f"{length.removeprefix('config.')}. Leave --{length.removeprefix('config.')} as it was to use that "
                "model, or choose another --run to train anew."
            )
        return True

    def open(
        self,
        *,
        compile_cache: CompileCache = "run",
        write: Callable[[Path], None] = lambda folder: None,
        **facts: Any,
    ) -> None:
        """Makes the directory and writes what the run is; call it when all that can be wrong has been checked.

        Args:
            compile_cache: where compiled programs are kept, see `lmx.compilation.keep_programs`.
            write: writes the files without which config.json means nothing, such as tokenizers, into a folder it is
                given; they come into the directory together with it, when all are whole.
            facts: added to config.json: what the data has decided, such as the model with the vocabulary's size.

        Raises:
            ValueError: another process trains this run, or has begun it since it was looked at; on all hosts.
        """
        with agreement():
            if self.writes:
                self._lock()
        made_of = {"made_of": self.made_of} if self.made_of else {}
        if self.writes:
            unfinished = self.directory / "begin.partial"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            with naming(self.directory):
                write(unfinished)
            write_json(unfinished / "config.json", self._facts | facts | made_of)
            write_json(unfinished / "versions.json", versions())
            # config.json first: a directory of other files alone would be nobody's, and what is still missing when a
            # process is killed here is written by the next start, out of the same data.
            for path in sorted(unfinished.iterdir(), key=lambda path: path.name != "config.json"):
                os.replace(path, self.directory / path.name)
            unfinished.rmdir()
            self._saved = read_record(self.directory / "config.json")
        self._programs = keep_programs(
            compile_cache, directory=self.directory, writes=self.writes, report=self.console.print
        )

    def _lock(self) -> None:
        """Takes the directory for this process, as it was when it was looked at."""
        self.directory.mkdir(parents=True, exist_ok=True)
        take_lock(self.directory, report=self.console.print)
        path = self.directory / "config.json"
        if (read_record(path) if path.is_file() else None) != self._saved:
            raise ValueError(
                f"{self.directory} must not change while a process starts, got another config.json than before. Start "
                "the same command again."
            )

    def forget(self, names: tuple[str, ...]) -> None:
        """Removes files of the directory that no longer are true."""
        for name in names if self.writes else ():
            (self.directory / name).unlink(missing_ok=True)

    def open_checkpoints(self, *, keep_last: int, keep_best: int = 0, keep_every: int | None = None) -> Checkpoints:
        """Returns the checkpoints of this run."""
        return Checkpoints(
            self.directory / "checkpoints",
            keep_last=keep_last,
            keep_best=keep_best,
            keep_every=keep_every,
            report=self.console.print,
        )

    def resume(self, checkpoints: Checkpoints, state: TrainState) -> TrainState:
        """Returns the newest readable checkpoint's state, with metrics.jsonl cut back to it, or the state given."""
        found = checkpoints.restore_newest(state)
        if found is not None:
            state, saved = found
            path = self.directory / "checkpoints" / str(int(state.step))
            self.memory = Memory.from_json(saved, path=path)
            self.console.print(f"continuing {self.directory} from step {int(state.step):,}")
        if self.writes:
            path = self.directory / "metrics.jsonl"
            path.touch()
            self.memory.metrics_bytes = min(self.memory.metrics_bytes, path.stat().st_size)
            os.truncate(path, self.memory.metrics_bytes)
        return state

    def save(self, checkpoints: Checkpoints, state: TrainState) -> None:
        """Saves state and memory as one checkpoint, in the background."""
        self._append_metrics("", sync=True)
        checkpoints.save(int(state.step), state, self.memory.to_json(), scores=self.memory.losses)

    def write_metrics(self, kind: str, line: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl; on a full disk it is remembered, and written with a later one."""
        self._append_metrics(
            json.dumps({"kind": kind, **{name: _rounded(value) for name, value in line.items()}}) + "\n"
        )

    def _append_metrics(self, text: str, *, sync: bool = False) -> None:
        """Appends text where metrics.jsonl is known to end.

        Args:
            sync: until it is on the disk, as a checkpoint that is on the disk will say that it is.
        """
        if not self.writes:
            return
        memory = self.memory
        memory.unwritten += text
        with _unless_full(), (self.directory / "metrics.jsonl").open("ab") as file:
            if file.tell() > memory.metrics_bytes:  # a part of what did not fit
                file.truncate(memory.metrics_bytes)
            written = memory.unwritten.encode()
            file.write(written)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            memory.unwritten, memory.metrics_bytes = "", memory.metrics_bytes + len(written)

    def judge(self, step: int, values: float | np.ndarray, *, patience: int | None) -> np.ndarray:
        """Remembers a validation, of one seed or of each; returns which of them have never been as low.

        With `patience`, so many validations without a lower value end a seed: those that follow no longer count for it.
        When all seeds have ended, so does the training.
        """
        memory = self.memory
        values = np.atleast_1d(np.asarray(values, np.float64))
        if not memory.best:
            memory.best, memory.best_step = [math.inf] * len(values), [0] * len(values)
            memory.waited = [0] * len(values)
        memory.losses[step] = float(values.mean())
        better = np.zeros(len(values), bool)
        for seed, value in enumerate(values.tolist()):
            if patience is not None and memory.waited[seed] >= patience:
                continue
            better[seed] = value < memory.best[seed]
            if better[seed]:
                memory.best[seed], memory.best_step[seed], memory.waited[seed] = value, step, 0
            else:
                memory.waited[seed] += 1
        memory.stopped_early = patience is not None and min(memory.waited) >= patience
        return better

    @contextlib.contextmanager
    def only_reporting(self, what: str) -> Iterator[None]:
        """Runs a block that only reports: what fails there is told in a line, and training, model and scores stand.

        Args:
            what: is then left out, as the line says.
        """
        try:
            yield
        except Exception as error:
            if os.environ.get("LMX_TRACEBACK"):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            self.console.print(f"{what} left out: {reason[:300]} (LMX_TRACEBACK=1 says where)", markup=False)

    def add_start(self, **facts: Any) -> None:
        """Adds to start.json what is known only later, such as the time that compiling took."""
        self._start |= facts
        if self.writes:
            write_json(self.directory / "start.json", self._start)

    def print_start(self, facts: Mapping[str, Any]) -> None:
        """Prints what the run is about to do, a line a fact, and keeps it in start.json."""
        self._start = {**facts, "compiled_programs": self._programs}
        self.add_start()
        width = max(map(len, self._start))
        for name, value in self._start.items():
            self.console.print(f"  {name.replace('_', ' '):<{width}}  {_readable(value)}")


def _filled(
    config: Mapping[str, Any], later: Mapping[str, Any], absent: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a saved config with what it lacks of a later one, as `absent` gives it, and that by its dotted names."""
    filled, taken = json.loads(json.dumps(config)), {}
    try:
        values = json.loads(json.dumps(dict(absent(config))))
    except (LookupError, TypeError, AttributeError):
        return filled, {}  # something else is wrong there: the comparison names it
    for name, value in values.items():
        *way, last = name.split(".")
        part: Any = filled
        now: Any = later
        for each in way:
            part, now = (value.get(each) if isinstance(value, Mapping) else None for value in (part, now))
        if isinstance(part, dict) and last not in part and isinstance(now, Mapping) and last in now:
            part[last] = taken[name] = value
    return filled, taken


def _few(names: list[Any]) -> str:
    """Returns the first names of a list, as people enumerate them."""
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def differences(old: Any, new: Any, *, name: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted name, old, new) for each place where two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            item
            for key in sorted(old.keys() | new.keys())
            for item in differences(old.get(key), new.get(key), name=f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [(name, old, new)]


def versions(*, machine: bool = True) -> dict[str, str]:
    """Returns the versions that a result depends on, and the machine, which may differ between hosts."""
    packages = ("lmx", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu")
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["python"] = platform.python_version()
    if not machine:
        return found
    device = jax.devices()[0]
    return {**found, "platform": platform.platform(), "device": f"{device.device_kind} x {jax.device_count()}"}


def peak_flops(device: jax.Device, dtype: str) -> float | None:
    """Returns a device's dense peak in FLOP/s for MFU, or None where it is not known; float32 runs are not rated."""
    known = device_of_kind(device.device_kind)
    return known.bfloat16 if known is not None and dtype == "bfloat16" else None


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step instead of handing it back; returns whether it was told.

    A step on the CPU takes and frees hundreds of megabytes; handed back, they are mapped and zeroed anew page by page
    at every step, which costs about a tenth of the time. What comes before the first program, such as reading text,
    hands its memory back as ever; and what has been freed when a program has been compiled, which takes a hundred
    megabytes, is handed back then.

    Call it before jax starts its threads. Two arenas, because with one the compiler's threads wait for each other; and
    on a CPU the calling thread runs the step itself, because the arena of another thread maps every large buffer anew,
    whatever it is told. Who has set GLIBC_TUNABLES has decided otherwise.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # malloc.h: M_ARENA_MAX (-8), and later M_MMAP_MAX (-4), M_TRIM_THRESHOLD (-1, where -1 is never), M_TOP_PAD (-2).
    later = ((-4, 0), (-1, -1), (-2, 256 * 2**20))
    kept = False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):  # another C library
        return False

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal kept
        if event != "/jax/core/compile/backend_compile_duration":
            return
        if not kept:
            kept = all(libc.mallopt(name, value) == 1 for name, value in later)
        if duration_secs > 0.2:  # a small program is not worth the pages that the next step maps anew
            libc.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    return libc.mallopt(-8, 2) == 1  # 1 says that it was set


def make_deterministic() -> None:
    """Makes a GPU give the same bits for the same program, at the cost of some speed; call it before jax starts.

    The CPU does so anyway, and nothing changes there.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def seconds_since_start() -> float:
    """Returns the age of this process in seconds; where the system does not tell, of this module's import."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _IMPORTED


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_lines(path, [json.dumps(value, indent=1, ensure_ascii=False)])


def write_jsonl(path: Path, values: list[Any]) -> None:
    """Writes a file of JSON lines atomically."""
    write_lines(path, (json.dumps(value, ensure_ascii=False) for value in values))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a file of lines atomically.

    Raises:
        OSError: it cannot be written; names it, also where the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path):
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def duration(seconds: float) -> str:
    """Returns a length of time as people say it: "48 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    """Leaves out what a full disk does not take."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


@contextlib.contextmanager
def progress_bar(text: str, *, total: int, console: Console = console) -> Iterator[Callable[[int], None]]:
    """Shows a bar with the time left, on a terminal; what it yields takes how many are done."""
    if not console.is_terminal or console.quiet:
        yield lambda done: None
        return
    # A column reads markup unless it is told not to, whatever the console does.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ends the process on SIGTERM or SIGINT with a line and the status that asks for a restart.

    For what comes before and after the training loop, where nothing has to be saved; the loop has its own way.
    """

    def stop(number: int, _: Any) -> None:
        console.print(f"stopped by {signal.Signals(number).name}; the same command continues")
        raise SystemExit(EXIT_STOPPED)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what a user can mend into one line on standard error and exit status 2; the rest keeps its traceback.

    Which is which, `lmx.errors` says. With LMX_TRACEBACK set, all keep theirs.
    """
    try:
        yield
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("LMX_TRACEBACK") or not is_users(error):
            raise
        print(f"{label()}error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _rounded(value: Any) -> Any:
    """Returns numbers with seven significant digits: what float32 holds."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def on_one_line(text: str) -> str:
    r"""Returns a user's words as one line of a screen: line ends and other control signs as `\n`, `\t`, `\x1b`."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return " ".join(
            _readable(part) if not isinstance(part, (list, tuple)) else "x".join(map(str, part)) for part in value
        )
    return on_one_line(str(value))
