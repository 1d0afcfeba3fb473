"""Checkpoints: the whole training state with Orbax, and parameters alone as safetensors.

A *checkpoint* is what a run continues from: the training state, and the run's host state as JSON beside it; written
atomically, in the background. *Parameters* are what translates, scores and is exported: one safetensors file, its names
the paths of the arrays joined by ".". When something is saved is the business of `lmx.run`.
"""

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmx.errors import FULL, naming
from lmx.hosts import label

Params = Any  # nested dicts of arrays

CHECKSUMS = "checksums.json"
# How long hosts wait for each other's parts: a terabyte to a slow file system takes longer than Orbax's 20 minutes.
SAVE_SECONDS = 6 * 3600


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read: files are missing or not as they were written."""


class CheckpointNotSaved(OSError):
    """The last checkpoint could not be saved; those before it are whole."""


class Checkpoints:
    """The checkpoints of one run, by step.

    A save that fails, as on a full disk, is reported in one line and does not end the training: the next one tries
    again. What it has left is removed, and no earlier checkpoint is deleted for it.

    Args:
        directory: where they are; made if it is not there.
        keep_last, keep_best, keep_every: which stay, see `kept`. Scores are given to `save`; lower is better.
        report: takes a line for the user.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_last: int = 1,
        keep_best: int = 0,
        keep_every: int | None = None,
        report: Callable[[str], None] = print,
    ):
        # Loaded here: Orbax and what it needs are not wanted by those who only translate.
        import orbax.checkpoint as ocp

        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, or a run could not continue, got keep_last={keep_last}.")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every must be at least 1, or None to keep none, got keep_every={keep_every}.")
        _quiet_orbax()
        self._orbax = ocp
        directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
            # Called when all processes have written, before the checkpoint gets its name.
            async_options=ocp.options.AsyncOptions(
                timeout_secs=SAVE_SECONDS, post_finalization_callback=self._write_checksums
            ),
        )
        self._directory = directory
        handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options, item_handlers=handlers)
        self._kept = functools.partial(kept, last=keep_last, best=keep_best, every=keep_every)
        self._report = report
        self._scores: Mapping[int, float] | None = None
        self._saving: int | None = None
        self._not_saved: tuple[int, str] | None = None  # the last save that failed, until another one succeeds
        self._failed: set[int] = set()  # all that did

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, oldest first; waits for one that is being saved."""
        self._wait()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, host: Mapping[str, Any], *, scores: Mapping[int, float]) -> None:
        """Starts saving in the background. What is then no longer kept is deleted once that is done, not before.

        Args:
            host: the run's own memory, as JSON has it.
            scores: of the steps validated so far, for `keep_best`.
        """
        self._scores = dict(scores)
        self._delete_old()
        args = self._orbax.args
        items = args.Composite(state=args.StandardSave(state._asdict()), host=args.JsonSave(dict(host)))
        self._saving = step
        with self._reported():
            # Without force, Orbax would pass over a step that is not newer than all others, and say nothing.
            self._manager.save(step, args=items, force=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Returns state and host memory of a step, placed as `like` is (arrays, or shapes with shardings).

        Raises:
            FileNotFoundError: there is no complete checkpoint of this step.
            DamagedCheckpoint: it cannot be read.
            ValueError: it is whole, and of a state with other arrays; the message lists the first few.
        """
        args = self._orbax.args
        path, target = self._checked(step, like)
        try:
            restored = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(target), host=args.JsonRestore())
            )
        except Exception as error:
            raise DamagedCheckpoint(f"{path} cannot be read: {_reason(error)}") from error
        return type(like)(**restored["state"]), dict(restored["host"])

    def _checked(self, step: int, like: Any) -> tuple[Path, dict[str, Any]]:
        """Returns where a step's checkpoint is and what it is restored as; raises as `restore` does."""
        if step not in self.steps():
            raise FileNotFoundError(f"{self._directory} must hold a checkpoint of step {step}, got {self.steps()}.")
        path = self._directory / str(step)
        # One process reads and compares the checksums; all do the same then.
        reason = _damage(path) if jax.process_index() == 0 else None
        if _said_by_the_first(reason is not None):
            raise DamagedCheckpoint(f"{path} cannot be read: {reason or 'see the first process'}")
        target = jax.tree.map(self._orbax.utils.to_shape_dtype_struct, like._asdict())
        try:
            saved = _shapes(self._manager.item_metadata(step)["state"].tree)
        except Exception as error:  # of many types, a bare Exception among them
            raise DamagedCheckpoint(f"{path} cannot be read: {_reason(error)}") from error
        if differences := _differences(saved, _shapes(target), "in the checkpoint"):
            raise ValueError(
                f"{path} must fit the model, got {differences}. "
                "Continue with the model that the run began with, or choose another --run."
            )
        return path, target

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Returns what `restore` does, of the newest checkpoint that can be read, or None where there is none at all.

        Newer ones that are damaged are reported, a line each, and renamed to `STEP.damaged`.

        Raises:
            ValueError: none can be read, or the newest that can be read is of a state with other arrays.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, like)
            except DamagedCheckpoint as error:
                damaged.append((step, str(error)))
                continue
            self._set_aside(damaged)
            return found
        if damaged:
            raise ValueError(
                f"{self._directory} must hold a checkpoint that can be read, got {len(damaged)} that are damaged, the "
                f"newest: {damaged[0][1]}. Bring one back from a copy, or remove that directory to train anew."
            )
        return None

    def average(self, steps: Sequence[int], like: Any) -> Params:
        """Returns the mean of the parameters of several checkpoints, added up in float32 (Vaswani et al. 2017, 6.1).

        Raises:
            DamagedCheckpoint: one of them cannot be read.
        """
        paths: list[Path] = []
        target: dict[str, Any] = {}
        for step in steps:
            try:
                path, target = self._checked(step, like)
            except DamagedCheckpoint as error:
                raise DamagedCheckpoint(f"{error}. Remove it to average the others.") from error
            paths.append(path)
        # Array by array: beside the sum, one array of one checkpoint is in memory, and never an optimizer's.
        places = [number for number, (path, _) in enumerate(_leaves(target)) if path[0].key == "params"]
        means = []
        for place in places:
            total = self._restore_array(paths[0], target, place)
            for path in paths[1:]:
                total = total + self._restore_array(path, target, place)
            means.append(total / len(paths))
        return jax.tree.unflatten(jax.tree.structure(target["params"]), means)

    def _restore_array(self, path: Path, target: dict[str, Any], place: int) -> jax.Array:
        """Returns one array of a checkpoint's state, the one at a place among its leaves."""
        orbax = self._orbax
        structure = jax.tree.structure(target)

        def alone(one: Any, other: Any) -> Any:
            return structure.unflatten(one if number == place else other for number in range(structure.num_leaves))

        wanted = _leaves(target)[place][1]
        arguments = orbax.checkpoint_utils.construct_restore_args(wanted)
        with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
            try:
                found = reader.restore(
                    (path / "state").resolve(),
                    args=orbax.args.PyTreeRestore(
                        alone(wanted, orbax.PLACEHOLDER), restore_args=alone(arguments, orbax.RestoreArgs())
                    ),
                )
            except Exception as error:
                raise DamagedCheckpoint(f"{path} cannot be read: {_reason(error)}") from error
        return jax.tree.leaves(found, is_leaf=lambda leaf: leaf is orbax.PLACEHOLDER)[place]

    def wait(self) -> None:
        """Returns when all that was saved is on disk, and what is not kept is deleted.

        Raises:
            CheckpointNotSaved: the last save failed.
        """
        self._delete_old()
        if self._not_saved is not None:
            step, reason = self._not_saved
            raise CheckpointNotSaved(
                f"the checkpoint of step {step:,} must be saved, got {reason}. Make room in {self._directory} and "
                f"start the same command again: it continues from {self._newest()}."
            )

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._delete_old()
        self._manager.close()

    def _wait(self) -> None:
        with self._reported():
            self._manager.wait_until_finished()
            if self._saving is not None:
                self._saving = self._not_saved = None
            self._remove_unfinished()

    @contextlib.contextmanager
    def _reported(self) -> Any:
        """Turns a save that fails, at once or in the background, into a line, and removes what it has left."""
        try:
            yield
        except Exception as error:  # Orbax raises what the file system's driver does: of many types
            if self._saving is None:
                raise
            step, self._saving = self._saving, None
            self._not_saved = step, _reason(error)
            self._failed.add(step)
            self._remove_unfinished()
            free = shutil.disk_usage(self._directory).free / 1e6
            line = (
                f"the checkpoint of step {step:,} was not saved: {_reason(error)} ({free:,.0f} MB free in "
                f"{self._directory}). Make room there: training goes on and saves again; now it could continue from "
                f"{self._newest()}"
            )
            if jax.process_index() == 0:
                self._report(line)
            else:  # each process may have another reason
                print(f"{label()}{line}", file=sys.stderr)

    def _remove_unfinished(self) -> None:
        """Removes what saves that failed have left, while none is under way.

        Called after each later save too: a write that nobody waits for any more may come after its save was given up,
        and makes the directory anew. What another process has left, Orbax removes when it starts.
        """
        for step in self._failed if jax.process_index() == 0 else ():
            for path in self._directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)

    def _newest(self) -> str:
        steps = self._manager.all_steps()
        return f"step {max(steps):,}" if steps else "the start"

    def _delete_old(self) -> None:
        steps = self.steps()
        if self._scores is not None:
            for step in set(steps) - self._kept(steps, self._scores):
                self._manager.delete(step)

    def _set_aside(self, damaged: Sequence[tuple[int, str]]) -> None:
        """Renames checkpoints, so that their steps can be saved again; what is left of them may still be of use."""
        for step, reason in damaged:
            path = self._directory / str(step)
            aside = path.with_name(f"{step}.damaged")
            if jax.process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            self._report(f"{reason}; it is skipped and renamed to {aside.name}")
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()

    def _write_checksums(self) -> None:
        """Writes size and checksum of each file of the checkpoint that is about to be complete."""
        (folder,) = self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        # Orbax still writes its notes on the whole, which stand beside the two items.
        files = sorted(path for item in ("state", "host") for path in (folder / item).rglob("*") if path.is_file())
        sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)] for path in files}
        (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")


def kept(
    steps: Sequence[int], scores: Mapping[int, float], *, last: int, best: int, every: int | None = None
) -> set[int]:
    """Returns whose checkpoints stay: the two newest, and of those with a score the `last` newest and the `best`.

    Those of the multiples of `every` stay for good. Two, because the newest may turn out to be damaged. One without a
    score, saved between validations or because the run was stopped, takes no other's place: what is averaged in the end
    must not depend on interruptions. Where none has a score, all count.
    """
    ordered = sorted(steps)
    scored = [step for step in ordered if step in scores]
    ranked = sorted(scored, key=lambda step: (scores[step], step))
    multiples = {step for step in ordered if every is not None and step % every == 0}
    return set(ordered[-2:]) | set((scored or ordered)[-last:]) | set(ranked[:best]) | multiples


def _damage(path: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint; one without checksums is not looked at."""
    try:
        for name, (size, checksum) in json.loads((path / CHECKSUMS).read_text(encoding="utf-8")).items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size or _checksum(file) != checksum:
                return f"{name} is not as it was written"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{CHECKSUMS} cannot be checked ({_reason(error)})"
    return None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            total = zlib.crc32(block, total)
    return total


def _said_by_the_first(fact: bool) -> bool:
    """Returns what the first process says, on all."""
    return fact if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.asarray(fact)))


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _shapes(tree: Any) -> dict[str, str]:
    """Returns name -> "shape type" of each array; None and empty parts of an optimizer's state are left out."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {
        ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path): (
            f"{tuple(leaf.shape)} {np.dtype(leaf.dtype).name}"
        )
        for path, leaf in leaves
    }


def _differences(saved: Mapping[str, str], model: Mapping[str, str], where: str, *, than: str = "in the model") -> str:
    """Returns the first five names that two sides have in different shapes, or that one lacks; parameters first."""
    found = [
        f"{name}: {saved.get(name, 'absent')} {where}, {model.get(name, 'absent')} {than}"
        for name in sorted(saved.keys() | model.keys(), key=lambda name: (not name.startswith("params."), name))
        if saved.get(name) != model.get(name)
    ]
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def _reason(error: BaseException) -> str:
    """Returns why, in few words: of a full disk what the system says, of the rest the message on one line."""
    text = " ".join(str(error).split())
    return next((said for said in map(os.strerror, FULL) if said in text), text[:200] or type(error).__name__)


def _quiet_orbax() -> None:
    """Keeps Orbax's own accounts of a failure off the screen: it raises them as well, and they are reported once.

    With LMX_TRACEBACK set, all is shown.
    """
    if os.environ.get("LMX_TRACEBACK"):
        return
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _not_of_orbax not in logger.filters:
            logger.addFilter(_not_of_orbax)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    trace = record.exc_info[2] if record.exc_info else None
    files = [record.pathname, *(frame.filename for frame in traceback.extract_tb(trace))]
    return not any(_is_orbax(file) for file in files)


def _is_orbax(file: str) -> bool:
    return f"{os.sep}orbax{os.sep}" in file


class _Unraisable:
    """Passes over complaints of Orbax's reads and writes that nobody waits for any more: another one has failed."""

    def __init__(self, other: Callable[[Any], Any]):
        self._other = other

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        abandoned = code is not None and _is_orbax(code.co_filename)
        # TensorStore's threads, which have no name for what they were doing, report to the loop of that save.
        late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not abandoned and not late:
            self._other(unraisable)


def save_params(path: Path, params: Params) -> None:
    """Writes parameters to one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # Of an array in another order safetensors writes the bytes as they lie, which is another array.
    flat = {".".join(names): np.asarray(array, order="C") for names, array in _flatten(params)}
    partial = path.with_name(path.name + ".partial")
    _check_folder(path)
    try:
        save_file(flat, partial)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} must be written, got {_reason(error)}. Make room or choose another place.") from error
    # safetensors lets only the owner read; a model is shared as any other file of the run.
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    os.replace(partial, path)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must be in a folder that is there, got no {path.parent}. Make it first.")


def load_params(path: Path, like: Params | None = None) -> Params:
    """Reads parameters, for a model whose parameters have the shapes of `like` if it is given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or names or shapes differ from the model's; the message lists the first few.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: it is written when training ends.")
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got {error}.") from error
    if like is None:
        return _unflatten(saved)
    shapes = {".".join(names): str(array.shape) for names, array in _flatten(like)}
    if differences := _differences({name: str(array.shape) for name, array in saved.items()}, shapes, "in the file"):
        raise ValueError(f"{path} must fit the model, got {differences}.")
    return _unflatten(saved)


def load_placed(paths: Sequence[Path], like: Params, *, stacked: bool = False) -> Params:
    """Reads parameters to where a mesh has them.

    Args:
        paths: one file, or with `stacked` one for each index of the first axis of all arrays.
        like: shapes with shardings.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, or of another model.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[stacked:], leaf.dtype), like)
    files = [dict(_flatten(load_params(path, shapes))) for path in paths]

    def placed(leaf: Any, *names: str) -> Any:
        if isinstance(leaf, Mapping):
            return {name: placed(part, *names, str(name)) for name, part in leaf.items()}
        arrays = [file[names] for file in files]
        array = np.asarray(np.stack(arrays) if stacked else arrays[0], leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    return placed(like)


def average_files(paths: Sequence[Path], output: Path) -> None:
    """Writes the mean of safetensors files with the same names and shapes.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: they do not hold the same arrays, or there are none.
    """
    if not paths:
        raise ValueError("at least one file must be given to average, got 0.")
    shapes = [_stored_shapes(path) for path in paths]
    for path, found in zip(paths, shapes, strict=True):
        here, first = ({name: str(shape) for name, shape in each.items()} for each in (found, shapes[0]))
        if differences := _differences(here, first, "in the file", than="in the first"):
            raise ValueError(f"{path} must hold the arrays of {paths[0]}, got {differences}.")
    _write_floats(output, shapes[0], (_mean_of(paths, name) for name in shapes[0]))


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a safetensors file's arrays, which are not read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: it is written when training ends.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got {error}.") from error


def _mean_of(paths: Sequence[Path], name: str) -> np.ndarray:
    """Returns the mean of one array over files, of which none is held."""
    from safetensors import safe_open

    total = None
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            array = np.asarray(file.get_tensor(name), np.float32)
        total = array if total is None else np.add(total, array, out=total)
    assert total is not None
    return np.divide(total, np.float32(len(paths)), out=total)


def _write_floats(path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[np.ndarray]) -> None:
    """Writes float32 arrays to a safetensors file, atomically, each made when its turn comes.

    The package's own `save_file` wants all of them at once, and copies them.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    _check_folder(path)
    try:
        with naming(path), partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays:
                file.write(np.ascontiguousarray(array, dtype="<f4").data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _flatten(params: Params, *prefix: str) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(params, Mapping):
        return [(prefix, params)]
    return [item for name, part in params.items() for item in _flatten(part, *prefix, str(name))]


def _unflatten(flat: Mapping[str, np.ndarray]) -> Params:
    params: dict[str, Any] = {}
    for name, array in flat.items():
        *path, leaf = name.split(".")
        part = params
        for key in path:
            part = part.setdefault(key, {})
        part[leaf] = array
    return params
