"""Text to learn a language from, by the name of its place; and its tokens, made once and kept in shards.

Here are locations, the parts that a corpus is cut into, and their shards. How documents are read is
`lmx.data.documents`'s, what is in a shard `lmx.data.shards`'s, how rows are made of tokens `lmx.data.windows`'s.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.data.cache import ArrayWriter, Cache, Entry, digest_of
from lmx.data.documents import Form, Part, cut, hub_texts, place_of, read_part, whole_file, whole_hub
from lmx.data.encoding import saved_tokenizer
from lmx.data.files import check_name_unpacked, existing_file
from lmx.data.mixtures import Mixture
from lmx.data.shards import COUNTS, Shard, TokenCorpus, make_shard
from lmx.data.standard_library import library_sources
from lmx.text import Tokenizer

SHARD_BYTES = 1 << 27  # of text
STDLIB = "stdlib"


@dataclass(frozen=True)
class MixtureFiles:
    """Corpora where they are, and the weight of each in a mixture, as it is written."""

    files: "tuple[CorpusFiles, ...]"
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
        return {"text": digest_of([_facts(shard, cache) for shard in self.shards()])}

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

        Files stay whole, but for one that is longer than a tenth of the smaller side: it is cut, at the end of a line
        or record; where all of it is one document, at the very character.

        Raises:
            ValueError: the share is none, or a side would be empty.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got share={share}.")
        total = sum(part.weight for part in self.parts)
        place, first, rest = int(share * total), [], list(self.parts)
        while rest and sum(part.weight for part in first) + rest[0].weight <= place:
            first.append(rest.pop(0))
        left = place - sum(part.weight for part in first)
        if rest and left:
            part = rest.pop(0)
            if min(left, part.weight - left) * 10 <= min(place, total - place):
                (first if 2 * left >= part.weight else rest).insert(len(first) if 2 * left >= part.weight else 0, part)
            else:
                at = part.begin + left * (part.end - part.begin) // part.weight
                before, behind = cut(part, at, exact=True)
                first += [before] * (before.begin < before.end)
                rest = [behind] * (behind.begin < behind.end) + rest
        if not first or not rest:
            raise ValueError(
                f"{self.origin} must be cut into {share:.0%} and the rest, got a corpus that is too small, or one gzip "
                "file, which is not cut. Name a validation text of its own."
            )
        return CorpusFiles(f"{self.origin} (first {share:.0%})", tuple(first)), CorpusFiles(
            f"{self.origin} (last {1 - share:.0%})", tuple(rest)
        )


def find_corpus(location: str) -> CorpusFiles | MixtureFiles:
    """Returns the text at a location; none of it is read yet.

    - `input.txt`, or any other file of text: one document.
    - `lines:names.txt`: each line is a document.
    - `texts.jsonl`: one a line, its field `text`; `texts.parquet`: its column `text`.
    - a folder: all files in it and below, by name; hidden ones are left out.
    - `hub:ID:SPLIT`, `hub:ID:CONFIGURATION:SPLIT`: the column `text` of a hub dataset or a local folder of such files.
    - `stdlib`: the sources of Python's library, a file a document, the same for the same Python.
    - several of them, with commas between: one behind another; with weights, as `a.txt*0.7,b.jsonl*0.3`, a mixture.

    Files may be gzip.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the location is none.
    """
    names = [location] if Path(location).exists() else location.split(",")
    weighted = [re.fullmatch(r"(.+)\*(\d+(?:\.\d*)?)", name.strip()) for name in names]
    if any(weighted) and len(names) > 1:
        if not all(weighted):
            raise ValueError(f"all of several texts must have a weight, or none of them, got {location}.")
        return MixtureFiles(tuple(_find(found[1]) for found in weighted), tuple(found[2] for found in weighted))
    return _find(*names)


def _find(*names: str) -> CorpusFiles:
    location = ",".join(names)
    parts = tuple(part for name in names for part in _parts(name.strip()))
    if not sum(part.weight for part in parts):
        raise ValueError(f"{location} must hold text, got none.")
    return CorpusFiles(location, parts)


def encode_corpus(
    files: CorpusFiles | MixtureFiles, tokenizer: Tokenizer, *, cache: Cache, num_processes: int | None = None
) -> TokenCorpus | Mixture:
    """Returns the tokens of a corpus; text is read where there are no shards of it, or they are of other text.

    A shard that is finished is kept, whatever becomes of the rest.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the text is not what its location says (names the file and the line), or there is none.
    """
    if isinstance(files, MixtureFiles):
        made = [_encode(each, tokenizer, cache=cache, num_processes=num_processes) for each in files.files]
        return Mixture(tuple(made), files.weights)
    return _encode(files, tokenizer, cache=cache, num_processes=num_processes)


def _encode(files: CorpusFiles, tokenizer: Tokenizer, *, cache: Cache, num_processes: int | None) -> TokenCorpus:
    shards = list(files.shards())
    facts = [_facts(shard, cache) for shard in shards]
    by = {"tokenizer": digest_of(saved_tokenizer(tokenizer).hex())}
    weights = [sum(part.weight for part in shard) for shard in shards]
    entries: list[Entry] = []

    def keep(number: int, show: Any) -> Entry:
        def make(writer: ArrayWriter) -> dict[str, Any]:
            if number and not made and not whole:
                cache.report(f"{files.origin}: {number:,} of {len(shards):,} shards are there, the rest is encoded")
            made.append(number)
            pieces = (piece for part in shards[number] for piece in read_part(part))
            done = sum(weights[:number])
            shown = lambda read: show(100 * (done + min(read, weights[number])) // sum(weights))  # noqa: E731
            notes = make_shard(writer, pieces, tokenizer, num_processes=num_processes, progress=shown)
            if notes["first_without"]:
                path, offset = notes["first_without"]
                form = next(part.form for part in shards[number] if part.path == path)
                notes["first_without"] = place_of(form, path, offset)
            return notes

        about = f"{files.origin}, shard {number + 1:,} of {len(shards):,},"
        return cache.keep({"what": "tokens", **facts[number], **by}, make, about=about, says_why=False)

    made: list[int] = []
    whole: list[Entry] = []

    def make_all(_: ArrayWriter) -> dict[str, Any]:
        with cache.progress(f"encoding {files.origin}, percent", total=100) as show:
            for number in range(len(shards)):
                entries.append(keep(number, show))
        if not sum(entry.notes["tokens"] for entry in entries):
            raise ValueError(f"{files.origin} must hold a document with a token, got none.")
        return {name: sum(entry.notes[name] for entry in entries) for name in COUNTS}

    whole.append(cache.keep({"what": "corpus", "text": digest_of(facts), **by}, make_all, about=files.origin))
    counts = whole[0].notes
    entries = entries or [keep(number, lambda percent: None) for number in range(len(shards))]
    return TokenCorpus(
        shards=tuple(
            Shard(entry.arrays["tokens"], entry.arrays["ends"]) for entry in entries if entry.arrays["tokens"].size
        ),
        origin=files.origin,
        digest=digest_of([entry.digest for entry in entries]),
        num_bytes=counts["bytes"],
        num_words=counts["words"] + counts["line_ends"],
        pad_id=tokenizer.pad_id,
        without_tokens=counts["without_tokens"],
        first_without=next((entry.notes["first_without"] for entry in entries if entry.notes["first_without"]), ""),
    )


def _parts(name: str) -> Iterator[Part]:
    if name == STDLIB:
        for path in library_sources():
            yield whole_file(path, "text")
    elif name.startswith("hub:"):
        yield whole_hub(name)
    elif name.startswith("lines:"):
        yield whole_file(existing_file(name.removeprefix("lines:")), "lines")
    elif Path(name).is_dir():
        files = sorted(file for file in Path(name).rglob("*") if file.is_file())
        for file in files:
            if not any(part.startswith(".") for part in file.relative_to(name).parts):
                yield whole_file(file, _form_of(file))
    else:
        check_name_unpacked(name)
        yield whole_file(existing_file(name), _form_of(Path(name)))


def _form_of(path: Path) -> Form:
    name = re.sub(r"\.gz$", "", path.name)
    return "jsonl" if name.endswith(".jsonl") else "parquet" if name.endswith(".parquet") else "text"


def _facts(shard: tuple[Part, ...], cache: Cache) -> dict[str, Any]:
    """Returns what tells a shard's text from any other."""
    plain = [(Path(part.path), part.begin, part.end) for part in shard if part.form not in ("parquet", "hub")]
    found: dict[str, Any] = {"text": cache.digest_of_files(plain)} if plain else {}
    records = []
    for part in shard:
        if part.form == "parquet":
            records.append([cache.digest_of_file(Path(part.path)), part.begin, part.end])
        elif part.form == "hub":
            kept = [cache.digest_of_file(Path(file["filename"])) for file in hub_texts(part.path).cache_files]
            records.append([kept or hub_texts(part.path)._fingerprint, part.begin, part.end])
    forms = digest_of([[part.form, part.end - part.begin, part.end == part.size] for part in shard])
    return found | {"records": records, "forms": forms}
