"""Foreign models become run directories, and run directories foreign models; nothing is left half-written."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lmx.data.labels import Labels
from lmx.differences import few
from lmx.errors import InputError, naming
from lmx.interop.ctranslate2.reading import is_ctranslate2, read_ctranslate2
from lmx.interop.ctranslate2.writing import write_ctranslate2
from lmx.interop.gguf import read_gguf
from lmx.interop.huggingface import open_folder, write_folder
from lmx.interop.imported import NETWORKS, Imported, shapes_of
from lmx.interop.llama2c import read_llama2c
from lmx.interop.located import located
from lmx.interop.tensors import write_safetensors
from lmx.languages import first_word
from lmx.parameters import open_params
from lmx.saved import find_tokenizers, read_field, read_fields, read_record, save_tokenizer, write_json
from lmx.text import Tokenizer, load_tokenizer
from lmx.versions import versions

Target = Literal["huggingface", "ctranslate2"]
# What an export takes of a run's config.json beside the model, which says its own.
SAVED: Mapping[tuple[str, ...], Any] = {
    ("config",): dict | None,
    ("config", "max_length"): int | None,
    ("config", "search"): dict | None,
    ("config", "sampling"): dict | None,
    ("origin",): dict | None,
    ("end_ids",): tuple[int, ...] | None,
    ("first_id",): int | None,
    ("mask_id",): int | None,
}


def open_model(source: str | Path, *, pieces: Path | None = None) -> Imported:
    """Opens a foreign model: a folder of Hugging Face or CTranslate2, a GGUF file, or what `located` finds by a name.

    Args:
        pieces: the vocabulary of a model of llama2.c, which is a file of its own.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        InputError: it is of a kind that no model here is.
    """
    if pieces is not None:
        return read_llama2c(Path(source), pieces)
    path = located(source, way_out="lmx convert FOLDER RUN")
    if path.is_file():
        return _open_file(path)
    if is_ctranslate2(path):
        return read_ctranslate2(path)
    return open_folder(path)


def _open_file(path: Path) -> Imported:
    """Opens a model that is one file.

    Raises:
        InputError: it is no GGUF file; the message says what takes its place.
    """
    with path.open("rb") as file:
        begins = file.read(4)
    if begins == b"GGUF":
        return read_gguf(path)
    way_out = "Of a model of llama2.c, say --pieces FILE too; of safetensors, name the folder with its config.json."
    raise InputError(f"{path} must be a GGUF file or a folder, got a file that begins with {begins!r}. {way_out}")


def is_foreign(source: str | Path) -> bool:
    """Returns whether something is another library's model, and not a run directory."""
    path = Path(source)
    if path.is_file() or (path.is_dir() and is_ctranslate2(path)):
        return True
    config = path / "config.json"
    return config.is_file() and "model_type" in read_record(config)


def convert(source: str | Path, run: Path, *, pieces: Path | None = None) -> Imported:
    """Writes a foreign model as a run directory, as if it had been trained here.

    Args:
        pieces: see `open_model`.

    Raises:
        FileExistsError: the directory is there.
        FileNotFoundError: the source, or a file of it, is not there.
        InputError: the source is of a kind that no model here is.
        OSError: it cannot be written; nothing is left of it.
    """
    found = open_model(source, pieces=pieces)
    shapes = shapes_of(found.model)
    with _folder(run) as partial:
        write_safetensors(partial / "model.safetensors", shapes, map(found.file.parts, shapes))
        for name, tokenizer in found.tokenizers.items():
            save_tokenizer(partial, tokenizer, name=name)
        if found.labels is not None:
            found.labels.save(partial)
        told = {"family": found.family, "converted_from": str(source), "config": dict(found.settings), **found.facts}
        write_json(partial / "config.json", {**told, "model": dataclasses.asdict(found.model)})
        write_json(partial / "versions.json", versions())
    return found


def export(run: Path, folder: Path, *, to: Target, dtype: str = "float32") -> list[str]:
    """Writes the model of a finished run as another library reads it; returns what of it is left out.

    Args:
        dtype: of the weights: "float32" or "float16"; "bfloat16" for Hugging Face, "int8" for CTranslate2.

    Raises:
        FileExistsError: the folder is there.
        FileNotFoundError: the run is not there, or its training has not ended.
        InputError: the model has no form there; the message names the field.
        OSError: it cannot be written; nothing is left of it.
    """
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} must be a run directory, got one without config.json.")
    saved = read_record(path)
    kinds: dict[str, Any] = {family: kind for kind, (family, _) in NETWORKS.items()}
    if saved.get("family") not in tuple(kinds) or "model" not in saved:
        raise InputError(f"{run} must hold a trained model of {', '.join(kinds)}, got family={saved.get('family')!r}.")
    for names, kind in SAVED.items():
        read_field(saved, *names, kind=kind, path=path)
    model = read_fields(kinds[saved["family"]], saved["model"], path=path, field="model")
    tokenizers = {name: load_tokenizer(file) for name, file in find_tokenizers(run).items()}
    labels = Labels.from_file(run / "labels.json") if (run / "labels.json").is_file() else None
    with open_params(run / "model.safetensors") as params, _folder(folder) as partial:
        if to == "ctranslate2":
            numbers: Any = dtype
            left = write_ctranslate2(partial, saved["family"], model, params, tokenizers, dtype=numbers)
            told = [f"{few(left)}: CTranslate2 has the encoder alone"] if left else []
            return told + _first_words(saved, tokenizers)
        about: dict[str, Any] = {"saved": saved, "path": path, "labels": labels, "dtype": dtype}
        return write_folder(partial, model, params, tokenizers, **about)


def _first_words(saved: Mapping[str, Any], tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """Returns a text that names the word which each translation begins with, which CTranslate2 does not save."""
    if saved["family"] != "seq2seq":
        return []
    first = ((saved.get("config") or {}).get("search") or {}).get("forced_bos")
    target = tokenizers.get("target", tokenizers.get("tokenizer"))
    if first is None and target is not None and (code := first_word(target)) is not None:
        (first,) = target.pieces([code])
    return [] if first is None else [f"forced_bos={first}: begin target_prefix with it"]


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into that gets its final name when all is written, and goes when something fails.

    Raises:
        FileExistsError: the final name is taken.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} must be new, got one that exists. Choose another, or move it away.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with naming(folder):
        partial.mkdir(parents=True)
        try:
            yield partial
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
