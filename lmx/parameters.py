"""Parameters alone as safetensors: written, read, averaged; the names are the paths of the arrays joined by "."."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.errors import naming
from lmx.reasons import reason_of

Params = Any  # nested dicts of arrays


def differences_of_shapes(
    saved: Mapping[str, str], model: Mapping[str, str], where: str, *, than: str = "in the model"
) -> str:
    """Returns the first five names whose shapes differ, or that one side lacks; parameters come first."""
    different = [
        f"{name}: {saved.get(name, 'absent')} {where}, {model.get(name, 'absent')} {than}"
        for name in sorted(saved.keys() | model.keys(), key=lambda name: (not name.startswith("params."), name))
        if saved.get(name) != model.get(name)
    ]
    return "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")


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
        raise OSError(f"{path} must be written, got {reason_of(error)}. Make room or choose another place.") from error
    # safetensors lets only the owner read; a model is shared as any other file of the run.
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    os.replace(partial, path)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must be in a folder that is there, got no {path.parent}. Make it first.")


def load_params(
    path: Path, like: Params | None = None, *, place: Callable[[np.ndarray], Any] = lambda array: array
) -> Params:
    """Reads parameters, and checks them against the shapes of `like`, if given.

    Args:
        place: makes of each array what is kept of it, such as an array of a device, before the next one is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or names or shapes differ from the model's; the message lists the first few.
    """
    with open_params(path) as file:
        if like is not None:
            check_shapes(file, like, path)
        return _unflatten({name: place(file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118


def load_members(paths: Sequence[Path], like: Params) -> Params:
    """Reads the parameters of several seeds onto the default device, with an axis of seeds in front of every array.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, or of another model.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_params(path)) for path in paths]
        for file, path in zip(files, paths, strict=True):
            check_shapes(file, like, path)
        names = list(files[0].keys())
        return _unflatten({name: jnp.asarray(np.stack([file.get_tensor(name) for file in files])) for name in names})


def check_shapes(file: Any, like: Params, path: Path) -> None:
    """Checks that an open file holds the parameters of a model.

    Raises:
        ValueError: names or shapes differ; the message lists the first few.
    """
    shapes = {".".join(names): str(array.shape) for names, array in _flatten(like)}
    there = {name: str(tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    if differences := differences_of_shapes(there, shapes, "in the file"):
        raise ValueError(f"{path} must fit the model, got {differences}.")


class StoredArray:
    """One array of a file, read where it is asked."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]):
        self._path, self._name, self._shape = path, name, shape

    def get_shape(self) -> list[int]:
        """Returns its shape."""
        return list(self._shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(self._path, framework="numpy") as file:
            return file.get_slice(self._name)[index]


class StoredParams:
    """The arrays of a safetensors file; made by `open_params`.

    Each reading maps the file anew, so that pages of what was read before are not held as long as the file is open.
    """

    def __init__(self, path: Path):
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        self._path = path

    def keys(self) -> list[str]:
        """Returns the names."""
        return list(self._shapes)

    def get_slice(self, name: str) -> StoredArray:
        """Returns an array that is read only where it is asked."""
        return StoredArray(self._path, name, self._shapes[name])

    def get_tensor(self, name: str) -> np.ndarray:
        """Returns an array as a whole."""
        from safetensors import safe_open

        with safe_open(self._path, framework="numpy") as file:
            return file.get_tensor(name)


@contextlib.contextmanager
def open_params(path: Path) -> Iterator[StoredParams]:
    """Opens a safetensors file to read arrays from by name, whole or in slices.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: it is written when training ends.")
    try:
        yield StoredParams(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got {error}.") from error


def load_placed(paths: Sequence[Path], like: Params, *, stacked: bool = False) -> Params:
    """Reads parameters onto a mesh; each host reads what its devices hold, and no more.

    Args:
        paths: one file; with `stacked`, one file for each index of the first axis of all arrays.
        like: shapes with shardings.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged, or of another model.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[stacked:], leaf.dtype), like)

    def placed(leaf: Any, files: Sequence[Any], *names: str) -> Any:
        if isinstance(leaf, Mapping):
            return {name: placed(part, files, *names, str(name)) for name, part in leaf.items()}

        def piece(index: Any) -> np.ndarray:
            asked = files[index[0]] if stacked else files
            found = [_part(file, ".".join(names), index[stacked:]) for file in asked]
            return np.asarray(np.stack(found) if stacked else found[0], leaf.dtype)

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, piece)

    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_params(path)) for path in paths]
        for file, path in zip(files, paths, strict=True):
            check_shapes(file, shapes, path)
        return placed(like, files)


def _part(file: Any, name: str, index: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(file.get_slice(name)[index] if index else file.get_tensor(name))


def average_files(paths: Sequence[Path], output: Path) -> None:
    """Writes the mean of safetensors files with the same names and shapes.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: they do not hold the same arrays, or there are none.
    """
    if not paths:
        raise ValueError("at least one file must be given to average, got 0.")
    shapes = [_stored_shapes(path) for path in paths]
    for path, of_file in zip(paths, shapes, strict=True):
        here, first = ({name: str(shape) for name, shape in each.items()} for each in (of_file, shapes[0]))
        if differences := differences_of_shapes(here, first, "in the file", than="in the first"):
            raise ValueError(f"{path} must hold the arrays of {paths[0]}, got {differences}.")
    _write_floats(output, shapes[0], (_mean_of(paths, name) for name in shapes[0]))


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a safetensors file's arrays without reading the arrays."""
    with open_params(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _mean_of(paths: Sequence[Path], name: str) -> np.ndarray:
    """Returns the mean of one array over files, without holding any of them."""
    from safetensors import safe_open

    total = None
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            array = np.asarray(file.get_tensor(name), np.float32)
        total = array if total is None else np.add(total, array, out=total)
    assert total is not None
    return np.divide(total, np.float32(len(paths)), out=total)


def _write_floats(path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[np.ndarray]) -> None:
    """Writes float32 arrays to a safetensors file, atomically, and computes each only when it is its turn.

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


def _unflatten(flat: Mapping[str, Any]) -> Params:
    params: dict[str, Any] = {}
    for name, array in flat.items():
        *path, leaf = name.split(".")
        part = params
        for key in path:
            part = part.setdefault(key, {})
        part[leaf] = array
    return params
