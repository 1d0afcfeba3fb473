"""Undoing byte-pair encoding takes out the marks and their spaces, and nothing else."""

import pytest

from lmx.lines import undo_bpe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("un@@ known words", "unknown words"),
        ("a@@ b@@ c", "abc"),
        ("ends in a mark@@", "ends in a mark"),
        (" begins with a space", " begins with a space"),
        ("\u00a0no-break@@ space\u00a0", "\u00a0no-breakspace\u00a0"),
        ("a tab\t", "a tab\t"),
        ("two  spaces inside", "two  spaces inside"),
        ("an@@other mark inside", "an@@other mark inside"),
        ("mail@@@ home", "mail@home"),
        ("", ""),
        ("@@", ""),
    ],
)
def test_marks_and_their_spaces_go_and_the_rest_stays(text: str, expected: str) -> None:
    assert undo_bpe(text) == expected
