"""Reads back what a run has left in its directory, with checks: its config and its tokenizers.

A file may have been truncated, edited, or written by another version: errors name the file and the field. Parameters
belong to `lmx.parameters`, and the directory of a run that trains to `lmx.run`.
"""

import dataclasses
import difflib
import json
import os
import tempfile
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lmx.errors import naming
from lmx.text import SUFFIXES, Tokenizer, load_tokenizer

Record = TypeVar("Record")

OTHER_VERSION = "It may be of another version of lmx (versions.json beside it says which), or edited by hand."


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_lines(path, [json.dumps(value, indent=1, ensure_ascii=False)])


def write_jsonl(path: Path, values: list[Any]) -> None:
    """Writes a file of JSON lines atomically."""
    write_lines(path, (json.dumps(value, ensure_ascii=False) for value in values))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a file of lines atomically.

    Raises:
        OSError: it cannot be written; the message names it, even on a full disk.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path):
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
        ValueError: it holds no JSON object; the message names the file.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        problem = "an empty file" if not path.stat().st_size else error
        raise ValueError(f"{path} must be JSON, got {problem}. Bring it back from a copy.") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{path} must be a JSON object, got {_kind(saved)}. Bring it back from a copy.")
    return saved


def read_fields(record: type[Record], saved: Any, *, path: Path, field: str) -> Record:
    """Returns the dataclass that a part of a saved file holds.

    Args:
        saved: the part as JSON.
        path, field: of the file and of the part in it, for messages.

    Raises:
        ValueError: a field is missing, unknown, or of another type or value; the message names it.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"{path} must have an object in {field}, got {_kind(saved)}. {OTHER_VERSION}")
    known = {each.name: each for each in dataclasses.fields(record) if each.init}  # type: ignore[arg-type]
    for name in saved:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" The nearest is {nearest[0]}." if nearest else ""
            raise ValueError(f"{path} must have known fields in {field}, got {name}.{hint} {OTHER_VERSION}")
    for name, each in known.items():
        needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if needed and name not in saved:
            raise ValueError(f"{path} must have {field}.{name}, got none. {OTHER_VERSION}")
    hints = get_type_hints(record)
    for name, value in saved.items():
        if not _is_of(value, hints[name]):
            wanted = " or ".join(map(str, _names_of(hints[name])))
            raise ValueError(f"{path} must have {wanted} in {field}.{name}, got {value!r:.60}. {OTHER_VERSION}")
    values = {name: _as_hinted(value, hints[name]) for name, value in saved.items()}
    try:
        return record(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must have a fitting {field}: {error}") from error


def read_field(saved: Mapping[str, Any], *names: str, kind: Any, path: Path) -> Any:
    """Returns one value from the nested objects that a file holds.

    Args:
        names: the names on the way to it.
        kind: its type, such as `int` or `int | None`; with None, it may be absent.

    Raises:
        ValueError: it is missing or of another type; the message names file and field.
    """
    value: Any = saved
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not _is_of(value, kind):
        got = "none" if value is None else f"{value!r:.60}"
        wanted = " or ".join(map(str, _names_of(kind)))
        raise ValueError(f"{path} must have {wanted} in {'.'.join(names)}, got {got}. {OTHER_VERSION}")
    return value


def _is_of(value: Any, hint: Any) -> bool:
    """Returns whether a value out of JSON is of a type; what is not looked into, is."""
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if origin is tuple and ... in get_args(hint):
        return isinstance(value, list) and all(_is_of(each, get_args(hint)[0]) for each in value)
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if hint in (str, bool, dict):
        return isinstance(value, hint)
    return True


def _as_hinted(value: Any, hint: Any) -> Any:
    """Returns a value out of JSON as its type has it: JSON does not tell 1 from 1.0, and a tuple from a list."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return tuple(_as_hinted(each, inner) for each in value)
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in kinds and int not in kinds else value


def _names_of(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return [name for each in get_args(hint) for name in _names_of(each)]
    if get_origin(hint) is tuple:
        return ["a list"]
    return ["null" if hint in (None, type(None)) else getattr(hint, "__name__", hint)]


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "an object")


def read_config(run_directory: Path, *, family: str, purpose: str) -> dict[str, Any]:
    """Returns the content of config.json for a run whose model is of the given family.

    Args:
        purpose: what such a model does, for the message: "translates".

    Raises:
        FileNotFoundError: the directory is not a run's, or its training has not begun.
        ValueError: the run is of another family, or its config.json is damaged.
    """
    path = run_directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run_directory} must be a run directory: it has no config.json.")
    saved = read_record(path)
    if saved.get("family") == "folds":
        raise ValueError(f"{run_directory} must be one run, got that of all folds. Say {run_directory / 'fold-1'}.")
    if saved.get("family") != family:
        raise ValueError(f"{run_directory} must hold a model that {purpose}, got family={saved.get('family')}.")
    if "model" not in saved:
        raise FileNotFoundError(f"{run_directory} must hold a trained model: its training has not begun.")
    return saved


def save_tokenizer(run_directory: Path, tokenizer: Tokenizer, *, name: str = "tokenizer") -> None:
    """Writes a tokenizer where `find_tokenizers` finds it, atomically."""
    partial = tokenizer.save(run_directory / f"partial{tokenizer.suffix}")
    os.replace(partial, run_directory / f"{name}{tokenizer.suffix}")


def find_tokenizers(run_directory: Path) -> dict[str, Path]:
    """Returns the files of a run's tokenizers by their names; a run that has not begun has none."""
    if not run_directory.is_dir():
        return {}
    files = {path.stem: path for path in run_directory.iterdir() if path.suffix in SUFFIXES}
    files.pop("partial", None)  # of a process that was killed while it wrote
    return files


def save_tokenizers(run_directory: Path, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> None:
    """Writes tokenizers where `load_tokenizers` finds them; a joint one is written once."""
    joint = source_tokenizer is target_tokenizer
    parts = {"tokenizer": source_tokenizer} if joint else {"source": source_tokenizer, "target": target_tokenizer}
    for name, tokenizer in parts.items():
        save_tokenizer(run_directory, tokenizer, name=name)


def load_tokenizers(*run_directories: Path | None) -> tuple[Tokenizer, Tokenizer]:
    """Returns the source's and the target's tokenizer of the first run that has them.

    Raises:
        FileNotFoundError: there are none.
    """
    directories = [directory for directory in run_directories if directory is not None]
    for directory in directories:
        files = find_tokenizers(directory)
        if "tokenizer" in files:
            joint = load_tokenizer(files["tokenizer"])
            return joint, joint
        if {"source", "target"} <= files.keys():
            return load_tokenizer(files["source"]), load_tokenizer(files["target"])
    where = " or ".join(map(str, directories))
    raise FileNotFoundError(f"{where} must hold a tokenizer (tokenizer.model, or source.* and target.*).")


def seed_files(run_directory: Path) -> list[Path]:
    """Returns the parameter files of a run's seeds, by their numbers.

    Raises:
        FileNotFoundError: it has only one seed.
    """
    files = sorted((run_directory / "seeds").glob("*.safetensors"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise FileNotFoundError(
            f"{run_directory} must hold several seeds for an ensemble (seeds/1.safetensors, ...): it has one. "
            "Load it without ensemble."
        )
    return files


def tokenizer_of(*run_directories: Path | None) -> Tokenizer | None:
    """Returns the tokenizer of the first run that has one for all of its text, or None where none has one yet."""
    for directory in run_directories:
        files = {} if directory is None else find_tokenizers(directory)
        if "tokenizer" in files:
            return load_tokenizer(files["tokenizer"])
    return None


def check_vocabulary(path: Path | None, run_directory: Path) -> bool:
    """Returns whether a vocabulary's file exists, and checks that its content is that of a run that has begun.

    Its path may differ from the run's, because a checkout may move together with its tokenizers.

    Raises:
        ValueError: the run has another tokenizer.
    """
    if path is None or not path.is_file():  # the run has its own copy
        return False
    if not run_directory.is_dir():
        return True
    with tempfile.TemporaryDirectory(prefix="lmx-") as folder:
        given = load_tokenizer(path).save(Path(folder) / f"tokenizer{path.suffix}")
        for file in find_tokenizers(run_directory).values():
            if (file.suffix, file.read_bytes()) != (given.suffix, given.read_bytes()):
                raise ValueError(
                    f"{path} must be the vocabulary that {run_directory} began with, got another than its "
                    f"{file.name}. Bring back what it was, or choose another --run."
                )
    return True
