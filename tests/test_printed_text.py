"""What is printed is what a user wrote: brackets are no markup and colons no emoji, wherever a user's words occur."""

import ast
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lmx.console import console, progress_bar
from lmx.evaluation.classification import show_scores
from lmx.evaluation.tables import print_record
from lmx.experiment import text_cache
from lmx.run import Run
from lmx.scoring.classification import score_outputs
from lmx.scoring.records import Record, Row

ROOT = Path(__file__).parents[1]
NAMES = ["[/ham]", "[ham]", ":x:", "[b]a[/b]", "lr[a]=3"]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "run[a]:x:", {"family": "none", "config": {}})


@pytest.mark.parametrize("name", NAMES)
def test_facts_of_a_start_are_printed_as_they_are(run, capsys, name):
    run.directory.mkdir()
    run.print_start(labels=f"single: {name}", data=[name, name])
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"  labels             single: {name}",
        f"  data               {name} {name}",
    ]


def test_a_label_with_line_ends_is_one_line(run, capsys):
    run.directory.mkdir()
    run.print_start(labels="single: a\nb, c\r\u2028, \x1b[1mÄ", data=["a\nb", "c"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"  labels             single: a\nb, c\r\u2028, \x1b[1mÄ"
    assert lines[1] == r"  data               a\nb c"
    assert json.loads((run.directory / "start.json").read_text())["labels"].startswith("single: a\nb")


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_printed_as_they_are(run, capsys, name):
    row = Row(
        name=name, score=12.345, interval=None, made=f"made {name}", signature=f"signed {name}",
        published=1.0, published_made=f"published {name}",
    )  # fmt: skip
    record = Record(test="test", rows=(row,), baselines={f"base {name}": 2.0})
    print_record(run, record, title=f"title {name}", baselines_are=f"are {name}", notes=[f"note {name}"])
    printed = capsys.readouterr().out
    for text in ("made", "signed", "published", "base", "title", "are", "note"):
        assert f"{text} {name}" in printed
    assert f"{name} = 12.35" in printed or f"{name} = 12.34" in printed


@pytest.fixture
def file(monkeypatch) -> io.StringIO:
    """A console's file of 80 columns, no terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    return io.StringIO()


def test_where_no_terminal_is_long_cells_and_lines_are_not_broken(run, file, monkeypatch):
    shown = type(console)(file=file, highlight=False, soft_wrap=True, markup=False, emoji=False)
    monkeypatch.setattr(run, "console", shown)
    signature = "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|" + "a word|" * 40 + "version:2.5.1"
    made = "beam 4, power length penalty with alpha 1.0, mean of the last 10 " + "checkpoints and more " * 20
    row = {"name": "own test BLEU " + "x" * 90, "score": 12.345, "interval": (11.0, 13.0), "made": made.strip()}
    row |= {"signature": signature, "published": 1.0, "published_made": "published " * 30 + "there"}
    saved = {"rows": [row], "baselines": [{"name": "base", "score": 2.0}]}
    note = "a note " * 40 + "ends"
    record = Record.from_json({"test": "own", **saved})
    print_record(run, record, title="title " * 30 + "ends", baselines_are="are " * 60 + "ends", notes=[note])
    lines = file.getvalue().splitlines()
    for text in (signature, row["made"], row["name"], row["published_made"], note, "title " * 30, "are " * 60 + "ends"):
        assert sum(text in line for line in lines) >= 1, text
    # A cell takes no more than it needs.
    assert max(map(len, lines)) < len(row["name"]) + len(made) + len(signature) + 200


def test_a_terminal_has_its_columns(file, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = type(console)(file=file, force_terminal=True, soft_wrap=True, markup=False, emoji=False)
    assert shown.width == 80
    shown.width = 70
    assert shown.width == 70
    assert type(console)(file=file).width > 10_000


def test_the_table_of_classes_has_their_names(run, capsys):
    outputs = np.eye(len(NAMES))
    targets = np.arange(len(NAMES), dtype=np.int32)
    scores = score_outputs(targets, outputs, kind="single", names=tuple(NAMES), num_resamples=0)
    metric = scores.metrics[0]
    row = Row(name=metric.name, score=100.0, interval=None, made="here", signature=scores.signature)
    record = Record(test="own [/test]", rows=(row,)).with_others(texts=5, scores=scores.as_record())
    show_scores(run, record)
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1 : 1 + len(NAMES)]] == NAMES
    assert "own [/test]: 5 texts" in printed


def test_a_class_has_its_shares_in_percent_and_its_texts(run, capsys):
    row = Row(name="accuracy", score=50.0, interval=None, made="here", signature="s")
    classes = [{"name": "a", "precision": 0.5, "recall": 0.25, "f1": 0.3333, "support": 1234}]
    record = Record(test="own", rows=(row,)).with_others(texts=5678, unit="image", scores={"classes": classes})
    show_scores(run, record.with_others(verdict="the verdict"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["class", "precision", "recall", "F1", "images"],
        ["a", "50.0", "25.0", "33.3", "1,234"],
    ]
    assert "own: 5,678 images" in lines[2]
    assert lines[-2:] == ["the verdict", "accuracy = 50.00"]


def test_names_of_files_are_printed_as_they_are(tmp_path, capsys):
    text_cache(str(tmp_path / "kept[a]:x:")).report("kept in [/there] :x:")
    console.print(f"report: {tmp_path / 'x' / 'lr[a]=3' / 'report.html'}")
    printed = capsys.readouterr().out
    assert "kept in [/there] :x:\n" in printed
    assert f"{tmp_path}/x/lr[a]=3/report.html\n" in printed


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_says_what_it_shows(name):
    file = io.StringIO()
    shown = Console(file=file, force_terminal=True, width=80, markup=False, emoji=False)
    with progress_bar(f"encoding {name}", total=4, console=shown) as show:
        show(3)
    assert f"encoding {name}" in file.getvalue()


def test_no_console_of_ours_reads_markup():
    for path in (path for room in ("lmx", "experiments") for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Console"):
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                silent = given.get("quiet") == "True"
                assert silent or given.get("markup") == given.get("emoji") == "False", f"{path}:{node.lineno}"
