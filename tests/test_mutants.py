"""The list of mutants fits the code: what it changes is there, and the tests that it names are there."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mutants import Mutant, cause, read_mutants

ROOT = Path(__file__).parents[1]
MUTANTS = read_mutants()


def test_each_mutant_changes_a_text_that_occurs_once() -> None:
    wrong = []
    for mutant in MUTANTS:
        count = (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if count != 1:
            wrong.append(f"{mutant.file}: {mutant.name}: {count} times")
    assert not wrong, "old texts that do not occur once:\n" + "\n".join(wrong)


def test_each_mutant_is_a_program() -> None:
    """What does not parse would be killed by any test at all. Those of a file are made together where they can be."""
    for file in {mutant.file for mutant in MUTANTS}:
        original = changed = (ROOT / file).read_text(encoding="utf-8")
        for mutant in (mutant for mutant in MUTANTS if mutant.file == file):
            assert mutant.old != mutant.new, mutant.name
            if changed.count(mutant.old) == 1:
                changed = changed.replace(mutant.old, mutant.new)
            else:
                ast.parse(original.replace(mutant.old, mutant.new), filename=f"{file}: {mutant.name}")
        ast.parse(changed, filename=file)


def test_mutants_have_names_of_their_own_and_tests_that_are_there() -> None:
    names = Counter((mutant.file, mutant.name) for mutant in MUTANTS)
    assert not [name for name, count in names.items() if count > 1]
    for mutant in MUTANTS:
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            assert (ROOT / test.partition("::")[0]).exists(), f"{mutant.name}: {test}"


def test_a_mutant_is_applied_once_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n", encoding="utf-8")
    Mutant(name="n", file="a.py", old="x = 1", new="x = 2", tests=()).apply(tmp_path)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = 2\ny = 1\n"
    for old, count in (("= 3", 0), ("= ", 2)):
        with pytest.raises(ValueError, match=rf"^the old text of 'n' must occur once in a\.py, got {count} times\.$"):
            Mutant(name="n", file="a.py", old=old, new="", tests=()).apply(tmp_path)


def test_the_first_failure_is_what_killed() -> None:
    output = "F\nFAILED tests/a.py::test_one - assert 1 == 2\nFAILED tests/a.py::test_two - x\n"
    assert cause(output) == "FAILED tests/a.py::test_one"
    assert cause("5 passed") is None
