"""Checkpoints: the whole training state with Orbax.

A run continues from a *checkpoint*: the training state, with the run's memory as JSON beside it, written atomically in
the background. `lmx.parameters` saves parameters alone, to translate, score and export. `lmx.loop` decides when.
"""

import contextlib
import functools
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmx.checksums import CHECKSUMS, checksum_of, damage_of
from lmx.hosts import label, largest, meet_in_save
from lmx.parameters import Params, differences_of_shapes
from lmx.reasons import quiet_orbax, reason_of

# How long hosts wait for each other's parts: a terabyte to a slow file system takes longer than Orbax's 20 minutes.
SAVE_SECONDS = 6 * 3600
DELETED = "deleted"  # where checkpoints lie while their files are being deleted


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read: files are missing or not as they were written."""


class CheckpointNotSaved(OSError):
    """The last checkpoint could not be saved; earlier ones are intact."""


class Checkpoints:
    """The checkpoints of one run, by step.

    A save that fails, for example on a full disk, is reported in one line and does not end the training: the next save
    tries again. Its remains are removed, and no earlier checkpoint is deleted for it.

    Args:
        directory: where the checkpoints are; created if it does not exist.
        keep_last, keep_best, keep_every: which checkpoints stay, see `kept`. `save` takes scores; lower is better.
        report: called with a line for the user.
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
        quiet_orbax()
        self._orbax = ocp
        directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
            todelete_subdir=DELETED,
            # Called when all processes have written, before the checkpoint gets its name.
            async_options=ocp.options.AsyncOptions(
                timeout_secs=SAVE_SECONDS,
                barrier_sync_fn=meet_in_save,
                post_finalization_callback=self._write_checksums,
            ),
            # A shared file system may show hosts different lists: one looks, and all take what it saw.
            single_host_load_and_broadcast=True,
        )
        self._directory = directory
        handlers = {"state": ocp.StandardCheckpointHandler(), "host": ocp.JsonCheckpointHandler()}
        self._remove_deleted()
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options, item_handlers=handlers)
        self._kept = functools.partial(kept, last=keep_last, best=keep_best, every=keep_every)
        self._report = report
        self._scores: Mapping[int, float] | None = None
        self._saving: int | None = None
        self._not_saved: tuple[int, str] | None = None  # the last save that failed, until another one succeeds
        self._failed: set[int] = set()  # all that did

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, oldest first; waits for a save in progress."""
        self._wait()
        return sorted(map(int, self._manager.all_steps()))

    def save(self, step: int, state: Any, host: Mapping[str, Any], *, scores: Mapping[int, float]) -> None:
        """Starts to save in the background. Checkpoints that need not stay are deleted when the save is complete.

        Args:
            host: the run's memory as JSON.
            scores: scores of the validated steps so far, for `keep_best`.
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
        """Returns the state and the memory of a step, placed as `like` is (arrays, or shapes with shardings).

        Raises:
            FileNotFoundError: there is no complete checkpoint of this step.
            DamagedCheckpoint: it cannot be read.
            OSError: of several hosts, this one or another cannot read it.
            ValueError: it is intact, but of a state with other arrays; the message lists the first few.
        """
        args = self._orbax.args
        path, target = self._checked(step, like)
        try:
            restored = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(target), host=args.JsonRestore())
            )
        except Exception as error:
            if jax.process_count() > 1:  # others may have read it: none goes on to another step alone
                raise OSError(f"{path} cannot be read by this host: {reason_of(error)}") from error
            raise DamagedCheckpoint(f"{path} cannot be read: {reason_of(error)}") from error
        return type(like)(**restored["state"]), dict(restored["host"])

    def _checked(self, step: int, like: Any) -> tuple[Path, dict[str, Any]]:
        """Returns where a step's checkpoint is and what it is restored as; raises as `restore` does."""
        if step not in self.steps():
            raise FileNotFoundError(f"{self._directory} must hold a checkpoint of step {step}, got {self.steps()}.")
        path = self._directory / str(step)
        # One process reads and compares the checksums; all do the same then.
        reason = damage_of(path) if jax.process_index() == 0 else None
        if _said_by_the_first(reason is not None):
            raise DamagedCheckpoint(f"{path} cannot be read: {reason or 'see the first process'}")
        target = jax.tree.map(self._orbax.utils.to_shape_dtype_struct, like._asdict())
        saved: dict[str, str] = {}
        failed: Exception | None = None
        try:
            saved = _shapes(self._manager.item_metadata(step)["state"].tree)
        except Exception as error:  # of many types, a bare Exception among them
            failed = error
        here = int(failed is not None)
        some, every = largest(here), -largest(-here)  # all hosts do the same then
        if some and not every:  # no damage: a shared file system that is late
            reason = "another host cannot" if failed is None else reason_of(failed)
            raise OSError(f"{path} cannot be read by all hosts: {reason}. Start the same command again.") from failed
        if failed is not None:
            raise DamagedCheckpoint(f"{path} cannot be read: {reason_of(failed)}") from failed
        if differences := differences_of_shapes(saved, _shapes(target), "in the checkpoint"):
            raise ValueError(
                f"{path} must fit the model, got {differences}. "
                "Continue with the model that the run began with, or choose another --run."
            )
        return path, target

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest checkpoint that can be read, as `restore` does; returns None if there is none at all.

        Reports newer ones that are damaged, a line each, and renames them to `STEP.damaged`.

        Raises:
            ValueError: none can be read, or the newest readable one is of a state with other arrays.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like)
            except DamagedCheckpoint as error:
                damaged.append((step, str(error)))
                continue
            self._set_aside(damaged)
            return restored
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
        # A few arrays at a time: beside the sum, no more is in memory than the largest array of one checkpoint, and
        # never an optimizer's.
        leaves = enumerate(_leaves(target))
        sizes = {place: leaf.size * leaf.dtype.itemsize for place, (key, leaf) in leaves if key[0].key == "params"}
        means: list[jax.Array] = []
        for places in groups_within(sizes, max(sizes.values())):
            means += self._mean_arrays(paths, target, places)
        return jax.tree.unflatten(jax.tree.structure(target["params"]), means)

    def _mean_arrays(self, paths: Sequence[Path], target: dict[str, Any], places: Sequence[int]) -> list[jax.Array]:
        """Returns the means of what `_restore_arrays` does, over checkpoints."""
        total = self._restore_arrays(paths[0], target, places)
        for path in paths[1:]:
            total = [one + other for one, other in zip(total, self._restore_arrays(path, target, places), strict=True)]
        return [each / len(paths) for each in total]

    def _restore_arrays(self, path: Path, target: dict[str, Any], places: Sequence[int]) -> list[jax.Array]:
        """Returns some arrays of a checkpoint's state, those at these places among its leaves."""
        orbax = self._orbax
        structure = jax.tree.structure(target)

        def alone(ones: dict[int, Any], other: Any) -> Any:
            return structure.unflatten(ones.get(place, other) for place in range(structure.num_leaves))

        wanted = {place: _leaves(target)[place][1] for place in places}
        arguments = alone(orbax.checkpoint_utils.construct_restore_args(wanted), orbax.RestoreArgs())
        with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
            try:
                restored = reader.restore(
                    (path / "state").resolve(),
                    args=orbax.args.PyTreeRestore(alone(wanted, orbax.PLACEHOLDER), restore_args=arguments),
                )
            except Exception as error:
                raise DamagedCheckpoint(f"{path} cannot be read: {reason_of(error)}") from error
        leaves = jax.tree.leaves(restored, is_leaf=lambda leaf: leaf is orbax.PLACEHOLDER)
        return [leaves[place] for place in places]

    def wait(self) -> None:
        """Waits until every save is on disk and unneeded checkpoints are deleted.

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
            self._not_saved = step, reason_of(error)
            self._failed.add(step)
            self._remove_unfinished()
            free = shutil.disk_usage(self._directory).free / 1e6
            line = (
                f"the checkpoint of step {step:,} was not saved: {reason_of(error)} ({free:,.0f} MB free in "
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
        steps = [int(step) for step in self._manager.all_steps()]
        return f"step {max(steps):,}" if steps else "the start"

    def _delete_old(self) -> None:
        steps = self.steps()
        if self._scores is not None:
            for step in set(steps) - self._kept(steps, self._scores):
                self._manager.delete(step)
            self._remove_deleted()

    def _remove_deleted(self) -> None:
        """Removes what has been moved aside to be deleted, by a process that was killed meanwhile, too.

        Moving is one act, so that no part of a checkpoint ever stands under its name.
        """
        if jax.process_index() == 0:
            shutil.rmtree(self._directory / DELETED, ignore_errors=True)

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
        sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, checksum_of(path)] for path in files}
        (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")


def kept(
    steps: Sequence[int], scores: Mapping[int, float], *, last: int, best: int, every: int | None = None
) -> set[int]:
    """Returns the steps whose checkpoints stay: the two newest, and the `last` newest and the `best` with a score.

    Multiples of `every` stay for good. Two stay because the newest may turn out to be damaged. A checkpoint without a
    score, saved between validations or because the run was stopped, replaces no other: interruptions must not change
    what is averaged in the end. If no checkpoint has a score, all of them count.
    """
    ordered = sorted(steps)
    scored = [step for step in ordered if step in scores]
    ranked = sorted(scored, key=lambda step: (rank(scores[step]), step))
    multiples = {step for step in ordered if every is not None and step % every == 0}
    return set(ordered[-2:]) | set((scored or ordered)[-last:]) | set(ranked[:best]) | multiples


def rank(score: float) -> float:
    """Returns a score to sort by, lower first: what is no number is the worst."""
    return math.inf if math.isnan(score) else score


def groups_within(sizes: Mapping[int, int], limit: int) -> list[list[int]]:
    """Returns the keys in groups, in their order, whose sizes add up to no more than a limit; a larger one is alone."""
    groups: list[list[int]] = []
    filled = 0
    for key, size in sizes.items():
        if not groups or filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(key)
        filled += size
    return groups


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
