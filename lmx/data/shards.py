"""Tokens of a corpus in shards: mapped arrays of ids, one document after another, each ended by the tokenizer's end.

Here a shard is made of documents, and read at any place. Which documents there are is `lmx.data.corpus`'s; where shards
are kept, and when they are made anew, `lmx.data.cache`'s.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64, Shaped

from lmx.data.cache import ArrayWriter
from lmx.data.documents import Piece
from lmx.data.encoding import CHUNK_CHARACTERS, CHUNK_TEXTS, encode_chunks
from lmx.text import Tokenizer

COUNTS = ("tokens", "documents", "bytes", "words", "line_ends", "without_tokens")


class Shard(NamedTuple):
    """Mapped arrays.

    Attributes:
        tokens: ids of all documents, uint16 where they fit.
        ends: of each document in `tokens`, its end counted; the last one may go on in the next shard.
        counts: of each token whether a loss counts it; None for all.
    """

    tokens: Shaped[np.ndarray, " tokens"]
    ends: Int64[np.ndarray, " documents"]
    counts: Shaped[np.ndarray, " tokens"] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenCorpus:
    """Documents as ids, at any place: nothing that nobody looks at is in memory.

    Attributes:
        shards: one behind another.
        origin: where the text is, for messages.
        digest: of all that is in the shards.
        num_bytes: of the text, in UTF-8.
        num_words: of the text, between white space; where documents are lines, the end of each is one too.
        pad_id: of the tokenizer.
        without_tokens: documents that were left out.
        first_without: where the first of them is.
    """

    shards: tuple[Shard, ...]
    origin: str
    digest: str
    num_bytes: int
    num_words: int
    pad_id: int
    without_tokens: int = 0
    first_without: str = ""
    _begins: np.ndarray = field(init=False, repr=False, compare=False)
    _numbers: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sums up the shards."""
        sizes = [shard.tokens.size for shard in self.shards]
        documents = [shard.ends.size for shard in self.shards]
        object.__setattr__(self, "_begins", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        object.__setattr__(self, "_numbers", np.concatenate([[0], np.cumsum(documents)]).astype(np.int64))

    @property
    def identity(self) -> str:
        """What tells these tokens from others."""
        return self.digest

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, with their ends."""
        return int(self._begins[-1])

    @property
    def num_documents(self) -> int:
        """Documents; one that is cut off at the end of the corpus is one too."""
        ended = int(self._numbers[-1])
        return ended + int(self._end_of(np.array([ended - 1]))[0] < self.num_tokens)

    @property
    def has_counts(self) -> bool:
        """Whether the corpus says which of its tokens count."""
        return self.shards[0].counts is not None

    def bounds(
        self, documents: Int64[np.ndarray, " chosen"]
    ) -> tuple[Int64[np.ndarray, " chosen"], Int64[np.ndarray, " chosen"]]:
        """Returns the first token of each of some documents, and the one after its last."""
        return self._end_of(documents - 1), self._end_of(documents)

    def document(self, number: int) -> Int32[np.ndarray, " length"]:
        """Returns the ids of a document."""
        begin, end = (int(place[0]) for place in self.bounds(np.array([range(self.num_documents)[number]])))
        return self.take(np.arange(begin, end))

    def take(self, places: Int[np.ndarray, "*_"]) -> Int32[np.ndarray, "*_"]:
        """Returns the tokens at some places."""
        return self._take(places, lambda shard: shard.tokens).astype(np.int32)

    def take_counts(self, places: Int[np.ndarray, "*_"]) -> Int32[np.ndarray, "*_"]:
        """Returns whether the tokens at some places count: 1, or 0."""
        return self._take(places, lambda shard: shard.counts).astype(np.int32)

    def described(self) -> str:
        """Returns where the corpus is from, how large it is, and what was left out."""
        left_out = ""
        if self.without_tokens:
            left_out = f", {self.without_tokens:,} without a token left out (the first: {self.first_without})"
        return (
            f"{self.origin}: {self.num_documents:,} documents, {self.num_tokens:,} tokens of {self.num_bytes:,} bytes "
            f"and {self.num_words:,} words, in {len(self.shards):,} shard{'s' * (len(self.shards) > 1)}{left_out}"
        )

    def _take(self, places: np.ndarray, array: Callable[[Shard], Any]) -> np.ndarray:
        if len(self.shards) == 1:
            return array(self.shards[0])[places]
        found = np.empty(places.shape, np.uint32)
        shard_of = np.searchsorted(self._begins, places, side="right") - 1
        for number in np.unique(shard_of):
            here = shard_of == number
            found[here] = array(self.shards[number])[places[here] - self._begins[number]]
        return found

    def _end_of(self, documents: np.ndarray) -> np.ndarray:
        """Returns where documents end; before the first one, 0; one that nothing ends, at the end of the corpus."""
        found = np.zeros(documents.shape, np.int64)
        found[documents >= self._numbers[-1]] = self.num_tokens
        shard_of = np.searchsorted(self._numbers, documents, side="right") - 1
        for number in np.unique(shard_of):
            if 0 <= number < len(self.shards):
                here = shard_of == number
                found[here] = self.shards[number].ends[documents[here] - self._numbers[number]] + self._begins[number]
        return found


def make_shard(
    writer: ArrayWriter,
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    *,
    num_processes: int | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Fills an entry with the tokens of documents, and returns their `COUNTS` and where the first without tokens is.

    Args:
        progress: called with the bytes of text that are done.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    notes: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"first_without": None}
    waiting: collections.deque[list[Piece]] = collections.deque()  # chunks whose ids have not come yet
    size = 0  # of the document that has begun
    writer.append("tokens", np.empty(0, dtype))
    writer.append("ends", np.empty(0, np.int64))
    for ((ids, lengths),) in encode_chunks(_chunks(pieces, waiting), [tokenizer], num_processes=num_processes):
        ended: list[int] = []  # numbers of the pieces that an end stands behind
        for number, piece in enumerate(waiting.popleft()):
            size += int(lengths[number])
            text = piece.text
            notes["bytes"] += len(text) if text.isascii() else len(text.encode())
            notes["words"] += len(text.split())
            if not piece.ends:
                continue
            if size or piece.is_line:
                ended.append(number)
                notes["line_ends"] += piece.is_line
                notes["bytes"] += piece.is_line
            else:
                notes["without_tokens"] += 1
                notes["first_without"] = notes["first_without"] or [piece.path, piece.offset]
            size = 0
        behind = np.cumsum(lengths)[ended]
        writer.append("tokens", np.insert(ids, behind, tokenizer.eos_id).astype(dtype))
        writer.append("ends", notes["tokens"] + behind + np.arange(1, len(ended) + 1))
        notes["tokens"] += len(ids) + len(ended)
        notes["documents"] += len(ended)
        progress(notes["bytes"])
    return notes


def _chunks(pieces: Iterable[Piece], waiting: collections.deque[list[Piece]]) -> Iterator[tuple[list[str]]]:
    """Yields the texts of pieces in chunks of bounded size, and puts the pieces of each behind those that wait."""
    chunk: list[Piece] = []
    characters = 0
    for piece in pieces:
        chunk.append(piece)
        characters += len(piece.text)
        if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            waiting.append(chunk)
            yield ([each.text for each in chunk],)
            chunk, characters = [], 0
    if chunk:
        waiting.append(chunk)
        yield ([each.text for each in chunk],)
