"""What a message advises can be done: each flag and each field it names is one that a command line has."""

import ast
import contextlib
import functools
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from lmx.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*(?:\.[a-z][\w-]*)*)")
FIELD = re.compile(r"\b([a-z]\w*(?:\.\w+)*)=[\w'\"]")
# A sentence, or what follows a semicolon, that says what to do; and a name in it that no flag has.
VERBS = "Say|Name|Pass|Give|Take|Raise|Lower|Use|Read|Choose|Leave|Set|Call|Hold|Train|Encode|Add|Or|Where|A table"
ADVICE = re.compile(rf"(?:^|[.;:] |, (?=raise|say|pass|name))((?i:{VERBS})\b(?! must)[^;]*?)(?=; |\. |\.?$)")
ARGUMENT = re.compile(r"(?<![\w{{/.-])(?:[a-z]+(?:_[a-z]+)+|[a-z]+(?==))(?:=[\w{}'\"]+)?(?![\w(/.-])")
# What no command reaches: functions for notebooks and scripts, whose arguments these are.
FOR_CODE = {"lmx/definition.py", "lmx/plan/step.py", "lmx/scoring/translation.py", "lmx/models/encoder.py"}
# Not of our commands: of git, of XLA; and what scripts read before their config (`lmx.plan.command`).
OTHERS = {"xla_gpu_deterministic_ops"}
PLAN = {"plan", "devices"}
# Fields that a message states, of what was given by a function and not by a flag.
STATED = {"family", "memory"}


def help_of(show) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        show()
    return printed.getvalue()


def script(name: str):
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_advice", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """All flags of the scripts and of `lmx`, as they are typed, without the dashes."""
    texts = [help_of(functools.partial(tyro.cli, options, args=["--help"])) for options in COMMANDS.values()]
    for name, preset in (
        ("translation", "phrasebook"),
        ("classification", "own"),
        ("vision", "own"),
        ("pretraining", "stdlib-bert"),
    ):
        module = script(name)
        texts.append(help_of(functools.partial(module.command_line, [preset, "--help"])))
    return {flag for text in texts for flag in FLAG.findall(text)} | PLAN | {"help", "version"}


def sentences() -> Iterator[tuple[str, str, bool]]:
    """Yields place, text and whether it is raised, of each piece of text in lmx/ that can come onto a screen."""
    for path in sorted((ROOT / "lmx").rglob("*.py")):
        if "report" in path.parts:  # pages have a style sheet, whose names look like flags
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        quiet = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                quiet.add(node.value)  # docstrings
        raised = {part for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in quiet:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value, node in raised


def whole_texts() -> Iterator[tuple[str, str]]:
    """Yields place and text of each message in lmx/; what it puts in is a `{}` there."""
    for path in sorted((ROOT / "lmx").rglob("*.py")):
        if "report" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        quiet = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                pieces = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, pieces))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts | quiet:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def advised_arguments(text: str) -> list[str]:
    """Returns what a message advises by the name of a function's argument, not of a flag."""
    advice = ADVICE.findall(" ".join(text.split()))
    return [name for sentence in advice for name in ARGUMENT.findall(sentence)]


def named_flags() -> list[tuple[str, str]]:
    return [(where, flag) for where, text, _ in sentences() for flag in FLAG.findall(text)]


def test_each_flag_that_a_message_names_is_there(flags):
    named = named_flags()
    assert len(named) > 10
    wrong = [(where, flag) for where, flag in named if flag not in flags | OTHERS]
    assert not wrong


def test_what_a_table_is_to_be_read_by_the_command_that_labels_it_can_say():
    """The script and `lmx classify` read tables by one module; a command that labels asks for no labels."""
    advised = {flag for where, flag in named_flags() if where.startswith("lmx/data/tables.py:")}
    known = set(FLAG.findall(help_of(functools.partial(tyro.cli, COMMANDS["classify"], args=["--help"]))))
    assert "text-columns" in advised
    assert advised - {"label-column", "predict"} <= known


def test_each_field_that_a_message_advises_is_a_flag(flags):
    """Only what stands as `field=value` in the text itself is advice; `got width={width}` is a report."""
    last = {flag.rpartition(".")[2] for flag in flags}
    found = [(where, field) for where, text, raised in sentences() if raised for field in FIELD.findall(text)]
    assert found
    wrong = []
    for where, field in found:
        name = field.rpartition(".")[2].replace("_", "-")
        if name not in last | STATED:
            wrong.append((where, field))
    assert not wrong


def test_advice_is_in_words_that_a_command_line_knows():
    assert sum(bool(ADVICE.search(text)) for _, text in whole_texts()) > 50
    found = [(where, name) for where, text in whole_texts() for name in advised_arguments(text)]
    assert [each for each in found if each[0].rpartition(":")[0] not in FOR_CODE] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{} must have a label, got {}. Say label_column=None to read texts alone.", ["label_column=None"]),
        ("got {}. Name the one with the labels as label_column; say quoting=False.", ["label_column", "quoting=False"]),
        ("got max_length={}. Raise --max-length, or pass kind={}.", ["kind={}"]),
        ("max_length must be at most 3, got max_length=4. Say --max-length 3.", []),
    ],
)
def test_an_argument_in_advice_is_found(text, names):
    assert advised_arguments(text) == names


def test_a_flag_that_nobody_has_is_found(flags):
    assert "vocab-size" in flags
    assert "optimization.warmup" in flags
    assert not {"total", "character-limit"} & {flag.rpartition(".")[2] for flag in flags}
    assert FLAG.findall("Lower --model.width, or say --no-baseline.") == ["model.width", "no-baseline"]
