"""What a finished run has left in its directory, read back without the run: its config and its tokenizers.

Parameters are `lmx.checkpoint`'s. The directory of a run that trains is `lmx.run`'s.
"""

import json
import os
from pathlib import Path
from typing import Any

from lmx.text import Tokenizer


def read_config(run_directory: Path, *, family: str, purpose: str) -> dict[str, Any]:
    """Returns what config.json says about a run whose model is of a family.

    Args:
        purpose: what such a model does, for the message: "translates".

    Raises:
        FileNotFoundError: the directory is not a run's, or its training has not begun.
        ValueError: the run is of another family, or its config.json is damaged.
    """
    path = run_directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run_directory} must be a run directory: it has no config.json.")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}.") from error
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
    """Returns the files of a run's tokenizers by their names."""
    found = {path.stem: path for path in run_directory.iterdir() if path.suffix in (".model", ".vocab", ".bytes")}
    found.pop("partial", None)  # of a process that was killed while it wrote
    return found
