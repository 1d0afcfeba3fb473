"""Pages and docstrings read as English: sentences are short, and none has the turns of phrase of a translation."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 35
# What other languages say, and what to say instead.
PHRASES = {
    r"\bso (?:many|much|few) (?!that\b|as\b)": "name the number",
    r"\b(?:is|are) (?:said|told)\b": "reports, prints",
    r"\bbut for\b": "except for",
    r"\balike\b": "the same way, similar",
    r"(?:^|(?<=[.!?] ))Of (?!course\b)": "begin with the subject",
}
PHRASES_OF_PAGES = PHRASES | {
    r"\bso long (?!that\b|as\b)": "name the time",
    r"\bat that\b(?=[.,;:])": "leave it out",
    r"\bends so\b": "ends with",
    r"\bby heart\b": "overfit",
    r"\b(?:of|in) one's own\b": "your own",
    r"\bsay\)": "for example",
    r"\bunless told\b": "by default",
}


def blocks(page: str) -> Iterator[str]:
    """Yields what a page says, a paragraph, an item of a list or a cell of a table at a time, without its code."""
    page = re.sub(r"^(```|~~~).*?^\1$", "", page, flags=re.M | re.S)
    page = re.sub(r"(?:^ {4}.*\n)+", "", page, flags=re.M)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", page):
        if not block.lstrip().startswith("|"):
            yield " ".join(block.split())
            continue
        for row in block.strip().split("\n"):
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", row))


def sentences(block: str) -> list[str]:
    """Splits a paragraph where a sentence ends; a colon ends one too, since what follows is another thought."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "CODE", block))
    return re.split(r"(?<=[.!?:])\**\s+(?=[A-Z*(\[\d]|lmx\b)|(?<=:)\s+", plain)


def words(sentence: str) -> list[str]:
    return [word for word in sentence.split() if re.search(r"\w", word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path):
    every = [each for block in blocks(page.read_text(encoding="utf-8")) for each in sentences(block)]
    long = [f"{len(words(each))} words: {each}" for each in every if len(words(each)) > MOST_WORDS]
    assert not long, "\n".join(long)


def turns(text: str, phrases: dict[str, str]) -> Iterator[str]:
    """Yields each turn of phrase with what to say instead and the words around it."""
    for phrase, instead in phrases.items():
        for match in re.finditer(phrase, text):
            yield f"{instead}: ...{text[max(0, match.start() - 30) : match.end() + 30]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_turns_of_a_translation(page: Path):
    every = blocks(page.read_text(encoding="utf-8"))
    found = [turn for block in every for turn in turns(block, PHRASES_OF_PAGES)]
    assert not found, "\n".join(found)


def docstrings() -> Iterator[tuple[str, str]]:
    """Yields where each docstring is, and what it says, on one line."""
    for path in (path for room in ("lmx", "experiments") for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", " ".join(text.split())


def test_docstrings_have_no_turns_of_a_translation():
    found = [f"{place}: {turn}" for place, text in docstrings() for turn in turns(text, PHRASES)]
    assert not found, "\n".join(found)


def test_a_long_sentence_and_a_turn_of_phrase_are_found():
    page = "```\ncode " + "word " * 50 + "\n```\n\nOf all " + "words " * 40 + "the last ends. Another does not.\n"
    (block,) = filter(None, blocks(page))
    assert [len(words(each)) > MOST_WORDS for each in sentences(block)] == [True, False]
    assert [turn.partition(":")[0] for turn in turns(block, PHRASES_OF_PAGES)] == ["begin with the subject"]
    assert list(filter(None, blocks("| a | b `c \\| d` |\n|---|---|\n")))[:2] == ["a", "b `c \\| d`"]
