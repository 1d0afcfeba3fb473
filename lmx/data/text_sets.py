"""Text to learn a language from, to validate on and to be scored on, as an experiment's choice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from lmx.data.cache import Cache
from lmx.data.corpus import AnyFiles, MixtureFiles, StreamedFiles, encode_corpus, find_corpus
from lmx.data.roles import check_apart
from lmx.data.windows import Corpus
from lmx.errors import InputError
from lmx.text import Tokenizer


class TextSets(NamedTuple):
    """Tokens of each text, and what reads them; there need not be a test text."""

    tokenizer: Tokenizer
    train: Corpus
    validation: Corpus
    test: Corpus | None


@dataclass(frozen=True, kw_only=True)
class TextSetsConfig:
    """The text to learn from, and the text to hold out.

    Attributes:
        train: text to learn from: a file, a folder, `lines:FILE` with a document a line, a .jsonl or .parquet with
            `text`, `hub:ID:SPLIT`, `stream:ID:SPLIT`, or `stdlib`. Several of them with commas, or mixed by weight, as
            `a.txt*0.7,b.jsonl*0.3`.
        validation: text to validate on; None holds out the end of train.
        held_out: share of train to hold out if there is no validation text.
        test: text to score the finished model on; None scores it on the validation text.
    """

    train: str = "stdlib"
    validation: str | None = None
    held_out: float = 0.1
    test: str | None = None

    def load(self, tokenizer_for: Callable[[AnyFiles], Tokenizer], cache: Cache) -> TextSets:
        """Finds all text, and its tokens where they have been made before.

        Args:
            tokenizer_for: gives the tokenizer, made of the training text where there is none yet.

        Raises:
            FileNotFoundError: a text is not there.
            ValueError: one is empty, damaged, or too small to be cut in two.
            InputError: two of the given texts have a file in common.
        """
        if self.validation is None and not 0 < self.held_out < 1:
            raise InputError(f"held_out must be between 0 and 1, got held_out={self.held_out}.")
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {name: find_corpus(location) for name, location in given.items() if location is not None}
        check_apart(
            {name: _files_of(files) for name, files in found.items()},
            way_out="leave validation out to hold out the end of train.",
        )
        train, validation, test = found["train"], found.get("validation"), found.get("test")
        if validation is None:
            train, validation = train.split(1 - self.held_out)
        tokenizer = tokenizer_for(train)
        encoded = [encode_corpus(files, tokenizer, cache=cache) for files in (train, validation)]
        return TextSets(
            tokenizer, encoded[0], encoded[1], encode_corpus(test, tokenizer, cache=cache) if test else None
        )


def _files_of(files: AnyFiles) -> Iterator[str]:
    """Yields the paths of all files of a text, and the names of datasets."""
    if isinstance(files, MixtureFiles):
        for each in files.files:
            yield from _files_of(each)
    elif isinstance(files, StreamedFiles):
        yield files.origin
    else:
        yield from (part.path for part in files.parts)
