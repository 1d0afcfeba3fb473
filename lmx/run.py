"""The run directory: what a training is and leaves, so that it can be stopped anywhere and continued.

A run holds its config, versions, tokenizers, metrics, checkpoints and scores. This module opens, compares and writes
them. `lmx.loop` fills them; other modules define steps and scores.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmx.account import Account
from lmx.checkpoint import Checkpoints
from lmx.checksums import checksum_of
from lmx.compilation import keep_programs
from lmx.config import RunConfig
from lmx.console import console, readable, unless_full
from lmx.definition import Params, member
from lmx.differences import differences, few, filled_config
from lmx.errors import naming
from lmx.hosts import agreement, fingerprint, is_writer
from lmx.lock import take_lock
from lmx.memory import Memory
from lmx.parameters import save_params
from lmx.saved import read_record, write_json
from lmx.sharding.placement import fetch
from lmx.training import TrainState
from lmx.versions import versions

# What the test of a finished model leaves, and what any finished training does.
TESTED = (
    "scores.json",
    "samples.jsonl",
    "attention.json",
    "test.hypotheses.txt",
    "predictions.tsv",
    "references.tsv",
    "mistakes.jsonl",
    "explanations.json",
    "surprise.json",
)
RESULTS = ("report.html", "labelled.tsv", *TESTED)


class Run:
    """A run directory. Nothing is written before `open`, so a start that fails leaves nothing behind.

    All hosts see the directory, and one of them writes and prints (`lmx.hosts`). The others call the same methods,
    read, and stay silent.

    Args:
        directory: of the run; it need not exist.
        facts: what identifies the run ("experiment", "preset", "family", "config"). They must equal those of an
            existing directory, except the `free` fields of its config and everything below them.
        absent: maps the config of a run from an older version to the fields it lacks: the dotted name of each, and the
            value with which lmx does what that version did.
        options: where and how it runs; None for the defaults.

    Attributes:
        changed: dotted names of the facts that differ from the existing directory, such as "config.mesh.fsdp".
        made_of: fingerprints of what the run is made of, by names such as "training data"; see `agree`.
        decided: what else config.json holds: what the data decided, such as the model with the vocabulary's size.
        serves: whether there is a finished model and no checkpoint: it is used as it is, and nothing is trained.
        account: of the time, while something is trained.

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
        options: RunConfig | None = None,
    ):
        self.directory = directory
        self.options = options or RunConfig(run=directory)
        self.serves = False
        self.decided: dict[str, Any] = {}
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
                compared["config"], taken = filled_config(config, facts["config"], absent)
            unequal = differences(compared, facts)
            self.changed = tuple(name for name, _, _ in unequal)
            different = [
                f"{name}={old!r} there and {new!r} here"
                for name, old, new in unequal
                if not f"{name.removeprefix('config.')}.".startswith(tuple(f"{each}." for each in free))
            ]
            if different:
                names = [name.removeprefix("config.") for name, _, _ in unequal]
                flags = " ".join(f"--{name.replace('_', '-')} {taken[name]}" for name in names if name in taken)
                older = (
                    f"It is of an earlier version without this field: {flags} keeps its behaviour. " if flags else ""
                )
                raise ValueError(
                    f"{directory} must be a run of the same config, got {'; '.join(different)}. {older}"
                    "Choose another --run, or remove that directory."
                )
            if values := ", ".join(f"{name}={value}" for name, value in taken.items() if value is not None):
                self.console.print(f"{directory} is of an earlier version; missing fields keep its behaviour: {values}")
            self._saved, facts = saved, {**saved, **facts}
        elif directory.exists() and any(path.suffix not in (".partial", ".lock") for path in directory.iterdir()):
            raise ValueError(f"{directory} must be a run directory or empty: it has files, but no config.json.")
        self._facts: dict[str, Any] = dict(facts)
        self._start: dict[str, Any] = {}
        self._programs = "off"
        self.memory = Memory()
        self.account: Account | None = None

    @property
    def begun(self) -> Mapping[str, Any] | None:
        """The content of config.json, if the run has begun already."""
        return self._saved

    def agree(self, model: Any = None, **made_of: Any) -> None:
        """Compares the tokenizers and the data of this start with those that the run began with; writes nothing.

        A path does not identify its content. Without this check, a model could go on training on other data than it
        began with. A run of a version that kept no fingerprints is accepted as it is.

        Args:
            model: the model's config, with the sizes that the data decides.
            made_of: what to compare. Tokenizers, and data with an `identity`, are compared by a hash; other values must
                fit into JSON, such as the names of labels in the order of the outputs. None is left out. Names that
                begin with "test" have no part in the model and may change: they are then in `changed`.

        Raises:
            ValueError: something has changed; the message names it.
        """
        named = {name.replace("_", " "): value for name, value in made_of.items() if value is not None}
        self.compare(
            {name: _comparable(value) for name, value in named.items()},
            model=None if model is None else dataclasses.asdict(model),
        )

    def compare(self, made_of: Mapping[str, Any], *, model: Mapping[str, Any] | None = None) -> None:
        """Does what `agree` does, for fingerprints by their names.

        Raises:
            ValueError: something has changed; the message names it.
        """
        self.decided |= {} if model is None else {"model": dict(model)}
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
            details = ""
            if isinstance(value, list) and isinstance(before[name], list):
                details = f": it has {few(before[name])}, and the data {few(value)}"
            raise ValueError(
                f"the {name} of {self.directory} must be what the run began with, got other {name}{details}. "
                "Bring back what it was, or choose another --run."
            )
        if model is not None and self._saved and "model" in self._saved:
            # A field that the version of that run had not, the config has been compared for.
            later = {name: value for name, value in model.items() if name in self._saved["model"]}
            unequal = differences(self._saved["model"], json.loads(json.dumps(later)), name="model")
            unequal = [each for each in unequal if each[0] != "model.kernel"]  # has no part in what is learned
            if unequal:
                different = "; ".join(f"{name}={old!r} there and {new!r} here" for name, old, new in unequal)
                raise ValueError(
                    f"{self.directory} must be a run of the same model, got {different}. Choose another --run."
                )

    def settle(self, *, length: str) -> None:
        """Decides whether the run serves a finished model without checkpoints, so that nothing is trained.

        A model that took days must not be lost because somebody tidied up a directory.

        Args:
            length: the field for the length of the training, such as "updates".

        Raises:
            ValueError: more training is wanted, and there are no checkpoints to resume from.
        """
        steps = [path for path in self.directory.glob("checkpoints/*") if path.name.isdecimal()]
        self.serves = not steps and (self.directory / "model.safetensors").is_file()
        if self.serves and f"config.{length}" in self.changed:
            raise ValueError(
                f"{self.directory} must have checkpoints to train on from, got a finished model alone and another "
                f"{length}. Leave --{length} as it was to use that model, or choose another --run to train anew."
            )

    def open(self, *writes: Callable[[Path], Any]) -> None:
        """Creates the directory and writes what the run is; call it after all checks.

        Args:
            writes: functions that write the files that belong to config.json, such as tokenizers, into the folder they
                get. These files move into the directory together with config.json, when all of them are complete.

        Raises:
            ValueError: another process trains this run, or has begun it since this one looked; on all hosts.
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
                for write in writes:
                    write(unfinished)
            write_json(unfinished / "config.json", self._facts | self.decided | made_of)
            write_json(unfinished / "versions.json", versions())
            # config.json first: a directory of other files alone would be nobody's, and what is still missing when a
            # process is killed here is written by the next start, out of the same data.
            for path in sorted(unfinished.iterdir(), key=lambda path: path.name != "config.json"):
                os.replace(path, self.directory / path.name)
            unfinished.rmdir()
            self._saved = read_record(self.directory / "config.json")
        self._programs = keep_programs(
            self.options.compile_cache, directory=self.directory, writes=self.writes, report=self.console.print
        )
        if any(name.startswith(("config.test", "test")) for name in self.changed):
            self.forget(TESTED)

    def _lock(self) -> None:
        """Locks the directory for this process, if it has not changed since this process looked."""
        self.directory.mkdir(parents=True, exist_ok=True)
        take_lock(self.directory, report=self.console.print)
        path = self.directory / "config.json"
        if (read_record(path) if path.is_file() else None) != self._saved:
            raise ValueError(
                f"{self.directory} must not change while a process starts, got another config.json than before. Start "
                "the same command again."
            )

    def forget(self, names: tuple[str, ...]) -> None:
        """Removes files of the directory that are out of date."""
        for name in names if self.writes else ():
            (self.directory / name).unlink(missing_ok=True)

    def save_model(self, params: Params, *, seeds: Sequence[int] | None = None) -> None:
        """Writes the final parameters: those of each seed, if there are several, and those of the best as the model.

        What an earlier end of the run has left is of the model that it had: where another one takes its place, it goes.

        Args:
            seeds: the seeds on the first axis of all arrays; None where arrays have no such axis.
        """
        whole = fetch(params, keep=self.writes)
        if not self.writes:
            return
        if seeds is not None and len(seeds) > 1:
            (self.directory / "seeds").mkdir(exist_ok=True)
            for index, seed in enumerate(seeds):
                self._replace(self.directory / "seeds" / f"{seed}.safetensors", member(whole, index))
        best = whole if seeds is None else member(whole, int(np.argmin(self.memory.best)))
        self._replace(self.directory / "model.safetensors", best)

    def _replace(self, path: Path, params: Params) -> None:
        save_params(made := path.with_suffix(".partial"), params)
        if path.is_file() and checksum_of(path) != checksum_of(made):
            self.forget(RESULTS)
        os.replace(made, path)

    def recall(self, values: np.ndarray, *, seeds: Sequence[int]) -> None:
        """Restores the memory of a finished model whose checkpoints are gone.

        Args:
            values: the validation of each seed, measured again; the best steps come from scores.json, if it exists.
        """
        steps = {}
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            saved = json.loads((self.directory / "scores.json").read_text(encoding="utf-8"))["seeds"]
            steps = {each["seed"]: int(each["best_step"]) for each in saved}
        self.memory.best = values.tolist()
        self.memory.best_step = [steps.get(seed, 0) for seed in seeds]

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
        """Returns the newest readable checkpoint's state and truncates metrics.jsonl to it; else the given state."""
        restored = checkpoints.restore_newest(state)
        if restored is not None:
            state, saved = restored
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
        """Appends one line to metrics.jsonl; a full disk delays it until a later line."""
        self._append_metrics(
            json.dumps({"kind": kind, **{name: _rounded(value) for name, value in line.items()}}) + "\n"
        )

    def _append_metrics(self, text: str, *, sync: bool = False) -> None:
        """Appends text at the known end of metrics.jsonl.

        Args:
            sync: wait until it is on the disk, because a checkpoint on the disk will rely on it.
        """
        if not self.writes:
            return
        memory = self.memory
        memory.unwritten += text
        with unless_full(), (self.directory / "metrics.jsonl").open("ab") as file:
            if file.tell() > memory.metrics_bytes:  # a part of what did not fit
                file.truncate(memory.metrics_bytes)
            written = memory.unwritten.encode()
            file.write(written)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            memory.unwritten, memory.metrics_bytes = "", memory.metrics_bytes + len(written)

    @contextlib.contextmanager
    def only_reporting(self, what: str) -> Iterator[None]:
        """Runs a block that only reports: a failure there becomes one line, and training, model and scores stay valid.

        Args:
            what: begins the line that reports what is then left out, such as "the report is".
        """
        try:
            yield
        except Exception as error:
            if os.environ.get("LMX_TRACEBACK"):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            self.console.print(f"{what} left out: {reason[:300]} (LMX_TRACEBACK=1 says where)", markup=False)

    def add_start(self, **facts: Any) -> None:
        """Adds facts to start.json that are known only later, such as the time for compiling."""
        self._start |= facts
        if self.writes:
            write_json(self.directory / "start.json", self._start)

    def print_start(self, **facts: Any) -> None:
        """Prints the facts of the start, a line each, and writes them to start.json."""
        self._start = {**facts, "compiled_programs": self._programs}
        self.add_start()
        width = max(map(len, self._start))
        for name, value in self._start.items():
            self.console.print(f"  {name.replace('_', ' '):<{width}}  {readable(value)}")


def _comparable(value: Any) -> Any:
    """Returns the fingerprint, or the value, by which a run compares something that it is made of."""
    if hasattr(value, "pieces"):
        return fingerprint(value.pieces(range(value.vocab_size)))
    identity = getattr(value, "identity", value)
    return fingerprint(*identity) if isinstance(identity, tuple) else identity


def _rounded(value: Any) -> Any:
    """Returns numbers with seven significant digits: what float32 holds."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
