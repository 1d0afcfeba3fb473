"""Writes what a run directory knows as one HTML page: `write_report` is the door, the pages are a file a task.

Lives here: choosing the page by what config.json says. Lives in the files: the frame (page.py, style.py, charts.py,
files.py), the sections of all tasks (sections.py), and a page a task. Lives elsewhere: scores (lmx/scoring), and
choosing what is recorded (lmx/run.py, experiments).
"""

import os
from collections.abc import Callable
from pathlib import Path

from lmx.errors import naming
from lmx.report.classification import classification_page
from lmx.report.files import read_json
from lmx.report.language import language_page
from lmx.report.page import Html
from lmx.report.translation import translation_page

PAGES: dict[str, Callable[[Path], Html]] = {
    "translation": translation_page,
    "seq2seq": translation_page,
    "classification": classification_page,
    "classifier": classification_page,
    "vision": classification_page,
    "pretraining": language_page,
    "decoder": language_page,
    "masked": language_page,
}
"""The page of a run by config.json's "experiment", or else by its "family"."""


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into a run directory, from the files there, and returns its path.

    Only config.json must exist: what a file would show is left out with it, so a report can be written at any time of a
    run. The file is replaced in one move, never seen half-written. A run of no known task gets what the page of a
    translation shows of it: curves and setup.

    Raises:
        FileNotFoundError: the directory has no config.json.
        ValueError: a file there does not hold what it should; names the file, and the line where there is one.
    """
    run_directory = Path(run_directory)
    if not (run_directory / "config.json").is_file():
        raise FileNotFoundError(
            f"a run directory must have config.json, got run_directory={str(run_directory)!r}. "
            "Training writes it there at its start."
        )
    config = read_json(run_directory / "config.json", dict)
    known = [PAGES[name] for key in ("experiment", "family") if (name := str(config.get(key))) in PAGES]
    content = known[0](run_directory) if known else translation_page(run_directory)
    path = run_directory / "report.html"
    unfinished = run_directory / "report.html.part"
    with naming(path):
        unfinished.write_text(content, encoding="utf-8")
    os.replace(unfinished, path)
    return path
