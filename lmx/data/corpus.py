"""Text to learn a language from, by the name of its place; and its tokens, made once and kept in shards.

Here are locations, and the parts that a corpus is cut into. How documents are read is `lmx.data.documents`'s, how
shards are kept `lmx.data.keeper`'s, how rows are made of tokens `lmx.data.windows`'s.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.data.cache import Cache, digest_of
from lmx.data.documents import Form, Part, cut, read_part, stream_pieces, unpacked, whole_file, whole_hub
from lmx.data.files import check_name_unpacked, existing_file, is_read_once
from lmx.data.hub import stream_hub
from lmx.data.keeper import SHARD_BYTES, Keeper, facts_of_parts
from lmx.data.mixtures import Mixture
from lmx.data.shards import TokenCorpus
from lmx.data.standard_library import library_sources
from lmx.text import Tokenizer

LEARNED_BYTES = 1 << 30  # of a stream, for a vocabulary
STDLIB = "stdlib"


@dataclass(frozen=True)
class MixtureFiles:
    """Corpora where they are, and the weight of each in a mixture, as it is written."""

    files: "tuple[CorpusFiles | StreamedFiles, ...]"
    weights: tuple[str, ...]

    @property
    def origin(self) -> str:
        """Where they are, for messages."""
        return ",".join(f"{each.origin}*{weight}" for each, weight in zip(self.files, self.weights, strict=True))

    def texts(self) -> Iterator[str]:
        """Yields the text of all corpora, piece by piece."""
        return (text for files in self.files for text in files.texts())

    def facts(self, cache: Cache) -> dict[str, Any]:
        """Returns what tells this text from any other."""
        return {"text": digest_of([files.facts(cache) for files in self.files])}

    def split(self, share: float) -> "tuple[MixtureFiles, MixtureFiles]":
        """Returns the beginnings of all corpora, and the rests; see `CorpusFiles.split`."""
        first, rest = zip(*(files.split(share) for files in self.files), strict=True)
        return MixtureFiles(first, self.weights), MixtureFiles(rest, self.weights)


@dataclass(frozen=True)
class CorpusFiles:
    """A corpus where it is; its text is read each time it is asked for, and not held.

    Attributes:
        origin: for messages.
        parts: one behind another.
    """

    origin: str
    parts: tuple[Part, ...]

    def texts(self) -> Iterator[str]:
        """Yields the text piece by piece: a document, or of a long one, some lines."""
        return (piece.text for part in self.parts for piece in read_part(part) if piece.text)

    def facts(self, cache: Cache) -> dict[str, Any]:
        """Returns what tells this text from any other."""
        return {"text": digest_of([facts_of_parts(shard, cache) for shard in self.shards()])}

    def shards(self) -> Iterator[tuple[Part, ...]]:
        """Yields the parts of each shard: of some small files, or a range of a large one."""
        shard: list[Part] = []
        for part in self.parts:
            rest = part
            if not part.size:
                shard.append(part)  # a document without a token
            while rest.begin < rest.end:
                room = SHARD_BYTES * (rest.end - rest.begin) // max(rest.weight, 1)
                first, rest = cut(rest, rest.begin + max(room, 1))
                if shard and sum(each.weight for each in shard) + first.weight > SHARD_BYTES:
                    yield tuple(shard)
                    shard = []
                shard.append(first)
        if shard:
            yield tuple(shard)

    def split(self, share: float) -> "tuple[CorpusFiles, CorpusFiles]":
        """Returns the beginning of the corpus, a share of its bytes, and the rest.

        Files stay whole, except one that is longer than a tenth of the smaller side: it is cut at the end of a line or
        record, or, if all of it is one document, at the exact character.

        Raises:
            ValueError: the share is none, or a side would be empty.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got share={share}.")
        rest = [unpacked(self.parts[0])] if len(self.parts) == 1 else list(self.parts)
        total = sum(part.weight for part in rest)
        place, first = int(share * total), []
        while rest and sum(part.weight for part in first) + rest[0].weight <= place:
            first.append(rest.pop(0))
        left = place - sum(part.weight for part in first)
        if rest and left:
            part = rest.pop(0)
            if min(left, part.weight - left) * 10 <= min(place, total - place):
                (first if 2 * left >= part.weight else rest).insert(len(first) if 2 * left >= part.weight else 0, part)
            else:
                whole = unpacked(part)
                at = whole.begin + left * (whole.end - whole.begin) // part.weight
                before, behind = cut(whole, at, exact=True)
                first += [before] * (before.begin < before.end)
                rest = [behind] * (behind.begin < behind.end) + rest
        if not first or not rest:
            raise ValueError(
                f"{self.origin} must be cut into {100 * share:.4g}% and the rest, got a corpus that is too small. "
                "Name a validation text of its own."
            )
        return CorpusFiles(f"{self.origin} (first {100 * share:.4g}%)", tuple(first)), CorpusFiles(
            f"{self.origin} (last {100 * (1 - share):.4g}%)", tuple(rest)
        )


@dataclass(frozen=True)
class StreamedFiles:
    """A hub dataset whose rows come one by one, and are not kept but as tokens."""

    origin: str

    def rows(self) -> Any:
        """Returns the rows from the first on, see `lmx.data.hub.stream_hub`."""
        return stream_hub(self.origin)[0]

    def texts(self) -> Iterator[str]:
        """Yields documents from the first on; what is learned from them stops after `LEARNED_BYTES`."""
        total = 0
        for piece in stream_pieces(self.rows(), self.origin):
            total += len(piece.text)
            if total > LEARNED_BYTES:
                return
            yield piece.text

    def facts(self, cache: Cache) -> dict[str, Any]:
        """Returns what tells this text from any other: its location, and the versions of its files."""
        return {"text": digest_of([self.origin, stream_hub(self.origin)[1]])}

    def split(self, share: float) -> tuple["StreamedFiles", "StreamedFiles"]:
        """Raises ValueError: nobody knows where a stream ends."""
        raise ValueError(
            f"{self.origin} must end somewhere to be cut into {share:.0%} and the rest. Name a validation text: "
            f"{self.origin.partition('[')[0]}[:1000] for its first rows, and [1000:] for those to learn from."
        )


AnyFiles = CorpusFiles | StreamedFiles | MixtureFiles


def find_corpus(location: str) -> AnyFiles:
    """Returns the text at a location; none of it is read yet.

    - `input.txt`, or any other file of text: one document.
    - `lines:names.txt`: each line is a document.
    - `texts.jsonl`: one a line, its field `text`; `texts.parquet`: its column `text`.
    - a folder: all files in it and below, by name; hidden ones are left out.
    - `hub:ID:SPLIT`, `hub:ID:CONFIGURATION:SPLIT`: the column `text` of a hub dataset or a local folder of such files.
    - `stream:ID:SPLIT`, `stream:ID:CONFIGURATION:SPLIT[1000:2000]`: the same, as its rows come; of them some.
    - `stdlib`: the sources of Python's library, a file a document, the same for the same Python.
    - several of them, with commas between: one behind another; with weights, as `a.txt*0.7,b.jsonl*0.3`, a mixture.

    Files may be gzip.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the location is none.
    """
    names = [location] if os.path.exists(location) else location.split(",")
    if not all(name.strip() for name in names):  # which a path would take for the folder that the user is in
        raise ValueError(f"each of several texts must have a name, got location={location!r}.")
    weighted = [re.fullmatch(r"(.+)\*(\d+(?:\.\d*)?)", name.strip()) for name in names]
    if any(weighted) and len(names) > 1:
        if not all(weighted):
            raise ValueError(f"all of several texts must have a weight, or none of them, got {location}.")
        mixed = [found.groups() for found in weighted if found]
        return MixtureFiles(tuple(_find(name) for name, _ in mixed), tuple(weight for _, weight in mixed))
    return _find(*names)


def _find(*names: str) -> CorpusFiles | StreamedFiles:
    if len(names) == 1 and names[0].strip().startswith("stream:"):
        return StreamedFiles(names[0].strip())
    location = ",".join(names)
    if streams := [name for name in names if name.strip().startswith("stream:")]:
        raise ValueError(f"{streams[0].strip()} must stand alone or have a weight in a mixture, got {location}.")
    parts = tuple(part for name in names for part in _parts(name.strip()))
    if not sum(part.weight for part in parts):
        raise ValueError(f"{location} must hold text, got none.")
    return CorpusFiles(location, parts)


def encode_corpus(
    files: AnyFiles, tokenizer: Tokenizer, *, cache: Cache, num_processes: int | None = None
) -> TokenCorpus | Mixture:
    """Returns the tokens of a corpus; text is read where there are no shards of it, or they are of other text.

    A shard that is finished is kept, whatever becomes of the rest: a start that was interrupted is continued.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the text is not what its location says (names the file and the line), or there is none.
    """
    if isinstance(files, MixtureFiles):
        made = [_encode(each, tokenizer, cache=cache, num_processes=num_processes) for each in files.files]
        return Mixture(tuple(made), files.weights)
    return _encode(files, tokenizer, cache=cache, num_processes=num_processes)


def _encode(
    files: CorpusFiles | StreamedFiles, tokenizer: Tokenizer, *, cache: Cache, num_processes: int | None
) -> TokenCorpus:
    keeper = Keeper(files.origin, tokenizer, cache=cache, num_processes=num_processes)
    if isinstance(files, StreamedFiles):
        return keeper.keep_stream(files.rows, files.facts(cache))
    return keeper.keep_parts(list(files.shards()))


def _parts(name: str) -> Iterator[Part]:
    if name == STDLIB:
        for path in library_sources():
            yield whole_file(path, "text")
    elif name.startswith("hub:"):
        yield whole_hub(name)
    elif name.startswith("lines:"):
        yield _file(name.removeprefix("lines:"), "lines")
    elif Path(name).is_dir():
        files = sorted(file for file in Path(name).rglob("*") if file.is_file())
        for file in files:
            if not any(part.startswith(".") for part in file.relative_to(name).parts):
                yield whole_file(file, _form_of(file))
    else:
        check_name_unpacked(name)
        yield _file(name, _form_of(Path(name)))


def _file(name: str, form: Form) -> Part:
    path = existing_file(name)
    if is_read_once(path):
        raise ValueError(f"{path} must be a file that can be read again, got a pipe. Write it to a file first.")
    return whole_file(path, form)


def _form_of(path: Path) -> Form:
    name = re.sub(r"\.gz$", "", path.name)
    return "jsonl" if name.endswith(".jsonl") else "parquet" if name.endswith(".parquet") else "text"
