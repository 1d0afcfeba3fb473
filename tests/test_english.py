"""The pages read as English: sentences are short, and none has the turns of phrase of a translation."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 35
# What other languages say, and what to say instead.
PHRASES = {
    r"\bso (?:many|much|few|long) (?!that\b|as\b)": "name the number",
    r"\bat that\b(?=[.,;:])": "leave it out",
    r"\bends so\b": "ends with",
    r"\bby heart\b": "overfit",
    r"\b(?:of|in) one's own\b": "your own",
    r"\balike\b": "the same way, similar",
    r"\bsay\)": "for example",
    r"\b(?:is|are) (?:said|told)\b": "reports, prints",
    r"\bbut for\b": "except for",
    r"\bunless told\b": "by default",
    r"(?:^|(?<=[.!?] ))Of (?!course\b)": "begin with the subject",
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_turns_of_a_translation(page: Path):
    found = []
    for block in blocks(page.read_text(encoding="utf-8")):
        for phrase, instead in PHRASES.items():
            found += [
                f"{instead}: ...{block[max(0, m.start() - 30) : m.end() + 30]}" for m in re.finditer(phrase, block)
            ]
    assert not found, "\n".join(found)


def test_a_long_sentence_and_a_turn_of_phrase_are_found():
    page = "```\ncode " + "word " * 50 + "\n```\n\nOf all " + "words " * 40 + "the last ends. Another does not.\n"
    (block,) = filter(None, blocks(page))
    assert [len(words(each)) > MOST_WORDS for each in sentences(block)] == [True, False]
    assert [instead for phrase, instead in PHRASES.items() if re.search(phrase, block)] == ["begin with the subject"]
    assert list(filter(None, blocks("| a | b `c \\| d` |\n|---|---|\n")))[:2] == ["a", "b `c \\| d`"]
