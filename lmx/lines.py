"""Lines and words as text has them, whatever tokenizer it goes to."""

import re

LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def one_line(text: str) -> str:
    """Returns a text that every reader takes for one line: each line end inside is a space.

    A model can write them: bytes spell any character, and a vocabulary may keep them. They are what `str.splitlines`
    splits at, more than most readers do.
    """
    return LINE_END.sub(" ", text)


def undo_bpe(text: str) -> str:
    """Returns tokenised text with the `@@` marks of byte-pair encoding undone: "un@@ known" is "unknown"."""
    return (text + " ").replace("@@ ", "").rstrip(" ")


def words_in(text: str) -> list[str]:
    """Returns the words of a text, between ASCII white space."""
    return WORD.findall(text)


WORD = re.compile(r"[^ \t\n\r\v\f]+")
