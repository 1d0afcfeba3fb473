"""Trainings that another script asks for: each in a process of its own, and once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lmx.saved import write_json

ASKED = "asked.json"  # in a run's directory: the arguments that it was asked for with


def run_once(script: Path, arguments: Sequence[str], *, run: Path) -> None:
    """Trains a run by a script; a finished one is not repeated, and one that was stopped continues.

    Where a finished run was asked for otherwise, or nobody noted how, the script says whether it is the same.

    Args:
        arguments: of the script, without the directory of the run.

    Raises:
        SystemExit: the training was stopped or failed, with its exit code.
    """
    asked = [script.name, *arguments]
    note = run / ASKED
    if (run / "scores.json").is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == asked:
        return
    done = subprocess.run([sys.executable, str(script), *arguments, "--run", str(run)])
    if done.returncode:
        raise SystemExit(done.returncode)
    write_json(note, asked)
