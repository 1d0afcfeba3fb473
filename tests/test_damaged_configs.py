"""Saved configs with any one value gone or of another kind: they are read, or refused in one line that names the file.

Runs of every family, what `lmx data` reads, and folders of other libraries. `make test` tries a few changes of each,
`make slow` many (`LMX_FUZZ` names another number).
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmx.classifier import Classifier
from lmx.data.labels import Labels
from lmx.data_commands import show
from lmx.embedder import TextEmbedder
from lmx.errors import is_users
from lmx.fill_mask import FillMask
from lmx.generator import Generator
from lmx.interop.convert import convert
from lmx.interop.kinds import KINDS, given
from lmx.interop.tokenizers import read_tokenizers
from lmx.saved import read_record, save_tokenizer, write_json
from lmx.text import ByteTokenizer
from lmx.translator import Translator
from tests.interop.models import MODELS, write_run
from tests.interop.test_configs import PAIRS
from tests.test_data_commands import CONFIG as LANGUAGE_MODEL
from tests.test_data_commands import TRANSLATION

FEW, MANY = 12, int(os.environ.get("LMX_FUZZ", "600")) // 20
GONE = object()
VALUES = (GONE, None, -1, 0, 1, 3, 2.5, float("nan"), "x", [], {}, True, False, [1], ["x"], {"a": 1})


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Yields the way to each value in a JSON value, and to the first three of each list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for name, each in inner:
        yield (*at, name)
        yield from places(each, (*at, name))


def changed(value: Any, way: tuple, new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for name in way[:-1]:
        inner = inner[name]
    if new is GONE:
        del inner[way[-1]]
    else:
        inner[way[-1]] = new
    return copy


def is_read_or_refused(read: Callable[[], object], *, said: object, left: Path | None = None) -> None:
    """Checks that something is read, or refused as a user's mistake.

    Args:
        said: what a failure says of the case.
        left: what must not be there after a refusal.
    """
    refused = None
    try:
        read()
    except Exception as error:
        refused = error
    told = (said, repr(refused))
    assert refused is None or is_users(refused), told
    # Arrays that differ are a table.
    assert refused is None or "\n" not in str(refused) or "the arrays that its config says" in str(refused), told
    if left is not None:
        assert refused is None or not left.exists(), told
        shutil.rmtree(left, ignore_errors=True)


def each_is_read_or_refused(
    path: Path, read: Callable[[], object], *, number: int, left: Path | None = None, most: int = 10**9
) -> None:
    """Changes one value of a JSON file after another, as many as said.

    Args:
        left: see `is_read_or_refused`.
        most: the largest number that is put in; nothing may begin to make as many of something.
    """
    right = json.loads(path.read_text())
    every = [(way, new) for way in places(right) for new in (*VALUES, most)]
    for way, new in random.Random(path.parent.name).sample(every, min(number, len(every))):
        path.write_text(json.dumps(changed(right, way, new)))
        is_read_or_refused(read, said=(way, new), left=left)
    path.write_text(json.dumps(right))


LOADERS: dict[str, Callable[[Path], object]] = {
    "gpt2": Generator.load,
    "llama": Generator.load,
    "bert-masked": FillMask.load,
    "bert-classifier": Classifier.load,
    "bert-embedder": TextEmbedder.load,
    "marian": Translator.load,
}


def run_of(folder: Path, name: str) -> Path:
    """A finished run of a family with random parameters."""
    run = write_run(folder / name, (MODELS | PAIRS)[name], tokenizer=True)
    if name == "bert-classifier":
        Labels(kind="single", names=("a", "b", "c")).save(run)
    return run


def runs(folder: Path, name: str, number: int) -> None:
    run = run_of(folder, name)
    each_is_read_or_refused(run / "config.json", lambda: LOADERS[name](run), number=number)


@pytest.mark.parametrize("name", LOADERS)
def test_a_run_is_read_or_refused(name: str, tmp_path: Path):
    runs(tmp_path, name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_many_runs_are_read_or_refused(name: str, tmp_path: Path):
    runs(tmp_path, name, MANY)


def batches(folder: Path, experiment: str, number: int) -> None:
    (folder / "names.txt").write_text("".join(f"name{number}\n" for number in range(100)))
    (folder / "train.tsv").write_text("".join(f"a{number % 7}\tb{number}\n" for number in range(40)))
    cut = {"validation": None, "dev_share": 0.25, "split_seed": 3, "folds": 2}
    saved: dict[str, dict] = {
        "pretraining": {"config": LANGUAGE_MODEL},
        "translation": {"config": TRANSLATION | cut, "sizes": {}, "fold": 1},
    }
    write_json(folder / "config.json", {"experiment": experiment, **saved[experiment]})
    save_tokenizer(folder, ByteTokenizer())
    each_is_read_or_refused(folder / "config.json", lambda: list(show(folder)), number=number, most=100)


@pytest.mark.parametrize("experiment", ["pretraining", "translation"])
def test_batches_are_shown_or_refused(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    batches(tmp_path, experiment, 3 * FEW)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["pretraining", "translation"])
def test_many_batches_are_shown_or_refused(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    batches(tmp_path, experiment, MANY)


# ---- folders of other libraries --------------------------------------------------------------------------------------

DATA = Path(__file__).parent / "interop" / "data"
WEIGHTS = [
    path for name in ("models", "seq2seq", "ctranslate2") for path in sorted((DATA / name).iterdir()) if path.is_dir()
]
VOCABULARIES = [path for path in sorted((DATA / "tokenizers").iterdir()) if path.is_dir()]


def named(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def foreign_configs(source: Path, folder: Path, number: int) -> None:
    theirs = Path(shutil.copytree(source, folder / "theirs"))
    for path in sorted(theirs.glob("*.json")):
        if path.name not in ("answers.json", "expected.json"):
            convert_it = partial(convert, theirs, folder / "run")
            each_is_read_or_refused(path, convert_it, number=number, left=folder / "run")


@pytest.mark.parametrize("source", WEIGHTS, ids=named)
def test_a_model_of_others_is_read_or_refused(source: Path, tmp_path: Path):
    foreign_configs(source, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("source", WEIGHTS, ids=named)
def test_many_models_of_others_are_read_or_refused(source: Path, tmp_path: Path):
    foreign_configs(source, tmp_path, MANY // 3)


def foreign_tokenizers(source: Path, folder: Path, number: int) -> None:
    theirs = Path(shutil.copytree(source, folder / "theirs"))
    for path in sorted(theirs.glob("*.json")):
        if path.name != "expected.json":
            config = theirs / "config.json"
            read = lambda: read_tokenizers(theirs, given(read_record(config), path=config))  # noqa: B023, E731
            each_is_read_or_refused(path, read, number=number)


@pytest.mark.parametrize("source", VOCABULARIES, ids=named)
def test_a_tokenizer_of_others_is_read_or_refused(source: Path, tmp_path: Path):
    foreign_tokenizers(source, tmp_path, FEW // 2)


@pytest.mark.slow
@pytest.mark.parametrize("source", VOCABULARIES, ids=named)
def test_many_tokenizers_of_others_are_read_or_refused(source: Path, tmp_path: Path):
    foreign_tokenizers(source, tmp_path, MANY // 3)


def test_each_field_that_a_family_reads_has_a_kind():
    """Fields that must have one value alone are compared with it, by `expect`, and need none."""
    read = set()
    for path in (Path(__file__).parents[1] / "lmx" / "interop" / "families").glob("*.py"):
        read |= set(re.findall(r"""theirs(?:\.get\(|\[)"(\w+)\"""", path.read_text()))
        read |= set(re.findall(r"""activation\(theirs, "(\w+)\"""", path.read_text()))
    assert len(read) > 40
    assert read <= KINDS.keys()
