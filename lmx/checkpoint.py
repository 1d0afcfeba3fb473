"""Checkpoints: the whole training state with Orbax, and parameters alone as safetensors.

A *checkpoint* is what a run continues from: the training state, and the run's host state as JSON beside it; written
atomically, in the background. *Parameters* are what translates, scores and is exported: one safetensors file, its names
the paths of the arrays joined by ".". When something is saved is the business of `lmx.run`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

Params = Any  # nested dicts of arrays


class Checkpoints:
    """The checkpoints of one run, by step.

    Args:
        directory: where they are; made if it is not there.
        keep_last, keep_best: so many stay, see `kept`. Scores are given to `save`; lower is better.
    """

    def __init__(self, directory: Path, *, keep_last: int = 1, keep_best: int = 0):
        # Loaded here: Orbax and what it needs are not wanted by those who only translate.
        import orbax.checkpoint as ocp

        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, or a run could not continue, got keep_last={keep_last}.")
        self._orbax = ocp
        directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True, cleanup_tmp_directories=True)
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._scores: Mapping[int, float] | None = None

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, oldest first; waits for one that is being saved."""
        self._manager.wait_until_finished()
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
        self._manager.save(
            step, args=args.Composite(state=args.StandardSave(state._asdict()), host=args.JsonSave(dict(host)))
        )

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Returns state and host memory of a step, placed as `like` is (arrays, or shapes with shardings).

        Raises:
            FileNotFoundError: there is no complete checkpoint of this step.
            ValueError: it is damaged, or of a state with other arrays.
        """
        if step not in self.steps():
            raise FileNotFoundError(f"{self._directory} must hold a checkpoint of step {step}, got {self.steps()}.")
        args = self._orbax.args
        target = jax.tree.map(self._orbax.utils.to_shape_dtype_struct, like._asdict())
        try:
            restored = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(target), host=args.JsonRestore())
            )
        except Exception as error:  # of many types, a bare Exception among them
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{self._directory / str(step)} must be a whole checkpoint of this model, got {reason}. "
                "If it is damaged, remove it: the run continues from the one before, or from the start."
            ) from error
        return type(like)(**restored["state"]), dict(restored["host"])

    def average(self, steps: Sequence[int], like: Any) -> Params:
        """Returns the mean of the parameters of several checkpoints, added up in float32 (Vaswani et al. 2017, 6.1)."""
        total = None
        for step in steps:
            params = self.restore(step, like)[0].params
            total = params if total is None else jax.tree.map(jax.numpy.add, total, params)
        return jax.tree.map(lambda x: x / len(steps), total)

    def wait(self) -> None:
        """Returns when all that was saved is on disk, and what is not kept is deleted."""
        self._delete_old()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self.wait()
        self._manager.close()

    def _delete_old(self) -> None:
        steps = self.steps()
        if self._scores is not None:
            for step in set(steps) - kept(steps, self._scores, last=self._keep_last, best=self._keep_best):
                self._manager.delete(step)


def kept(steps: Sequence[int], scores: Mapping[int, float], *, last: int, best: int) -> set[int]:
    """Returns whose checkpoints stay: the newest, and of the steps with a score the `last` newest and the `best`.

    One without a score, saved because the run was stopped, takes no other's place: what is averaged in the end must not
    depend on interruptions. Where none has a score, all count.
    """
    scored = sorted(step for step in steps if step in scores)
    ranked = sorted(scored, key=lambda step: (scores[step], step))
    return set(sorted(steps)[-1:]) | set((scored or sorted(steps))[-last:]) | set(ranked[:best])


def save_params(path: Path, params: Params) -> None:
    """Writes parameters to one safetensors file, atomically."""
    from safetensors.numpy import save_file

    # Of an array in another order safetensors writes the bytes as they lie, which is another array.
    flat = {".".join(names): np.asarray(array, order="C") for names, array in _flatten(params)}
    partial = path.with_name(path.name + ".partial")
    save_file(flat, partial)
    # safetensors lets only the owner read; a model is shared as any other file of the run.
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    os.replace(partial, path)


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
    shapes = {".".join(names): array.shape for names, array in _flatten(like)}
    differences = [
        f"{name}: {saved[name].shape if name in saved else 'absent'} in the file, "
        f"{shapes.get(name, 'absent')} in the model"
        for name in sorted(saved.keys() | shapes.keys())
        if name not in saved or name not in shapes or saved[name].shape != shapes[name]
    ]
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(f"{path} must fit the model, got {'; '.join(differences[:5])}{more}.")
    return _unflatten(saved)


def average_files(paths: Sequence[Path], output: Path) -> None:
    """Writes the mean of safetensors files with the same names and shapes.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: they do not hold the same arrays, or there are none.
    """
    if not paths:
        raise ValueError("at least one file must be given to average, got 0.")
    first = load_params(paths[0])
    parts = [first, *(load_params(path, first) for path in paths[1:])]
    save_params(output, jax.tree.map(lambda *arrays: np.mean(arrays, axis=0, dtype=np.float32), *parts))


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
