"""Shards of a corpus kept in the cache: those that are there are taken, the others are made of its text.

What is in a shard is `lmx.data.shards`'s; what the cache does, `lmx.data.cache`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmx.data.cache import ArrayWriter, Cache, Entry, digest_of
from lmx.data.documents import Part, Piece, hub_texts, place_of, read_part, stream_pieces
from lmx.data.encoding import saved_tokenizer
from lmx.data.shards import COUNTS, Shard, TokenCorpus, make_shard
from lmx.text import Tokenizer

SHARD_BYTES = 1 << 27  # of text


class Keeper:
    """Keeps the shards of one corpus by one tokenizer.

    Args:
        origin: where the text is, for messages.
        num_processes: see `lmx.data.encoding.encode_chunks`.
    """

    def __init__(self, origin: str, tokenizer: Tokenizer, *, cache: Cache, num_processes: int | None):
        self._origin, self._tokenizer, self._cache, self._num_processes = origin, tokenizer, cache, num_processes
        self._by = {"tokenizer": digest_of(saved_tokenizer(tokenizer).hex())}

    def keep_parts(self, shards: Sequence[tuple[Part, ...]]) -> TokenCorpus:
        """Returns the tokens of a corpus whose parts are known.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: the text is not what its location says (names the file and the line), or there is none.
        """
        facts = [facts_of_parts(shard, self._cache) for shard in shards]
        weights = [sum(part.weight for part in shard) for shard in shards]
        forms = {part.path: part.form for shard in shards for part in shard}
        entries: list[Entry] = []
        made: list[int] = []
        whole: list[Entry] = []

        def keep(number: int, show: Callable[[int], None]) -> Entry:
            def make(writer: ArrayWriter) -> dict[str, Any]:
                if number and not made and not whole:
                    self._say_kept(f"{number:,} of {len(shards):,}")
                made.append(number)
                done, total = sum(weights[:number]), max(1, sum(weights))
                notes = self._make(
                    writer,
                    (piece for part in shards[number] for piece in read_part(part)),
                    lambda read: show(100 * (done + min(read, weights[number])) // total),
                )
                if notes["first_without"]:
                    path, offset = notes["first_without"]
                    notes["first_without"] = place_of(forms[path], path, offset)
                return notes

            return self._keep(facts[number], make, name=f"shard {number + 1:,} of {len(shards):,}")

        def make_all(_: ArrayWriter) -> dict[str, Any]:
            entries.clear()  # the cache asks again where it could not keep what was made
            with self._cache.progress(f"encoding {self._origin}, percent", total=100) as show:
                entries.extend(keep(number, show) for number in range(len(shards)))
            self._check(entries)
            return {}

        all_facts = {"what": "corpus", "text": digest_of(facts), **self._by}
        whole.append(self._cache.keep(all_facts, make_all, about=self._origin))
        return self._corpus(entries or [keep(number, lambda percent: None) for number in range(len(shards))])

    def keep_stream(self, rows: Callable[[], Any], facts: dict[str, Any]) -> TokenCorpus:
        """Returns the tokens of rows that come one by one, in shards of bounded size; continues after the last shard.

        Args:
            rows: opens the stream at its beginning; it knows its place and finds it again.
            facts: what tells the stream from any other.

        Raises:
            ValueError: a row has no text, or there is none.
        """
        entries: list[Entry] = []
        # The stream as the last shard made here left it, and the number of the shard that begins there. It has gone on
        # where making a shard failed, and is behind where another process made one.
        opened: list[tuple[Any, Iterator[Piece], int]] = []
        told: list[int] = []

        def reopen() -> tuple[Any, Iterator[Piece]]:
            stream, seen = rows(), 0
            if entries:
                if not told:
                    self._say_kept(f"{len(entries):,}")
                stream.load_state_dict(entries[-1].notes["state"])
                seen = entries[-1].notes["rows"]
            told.append(seen)
            return stream, stream_pieces(stream, self._origin, first=seen)

        def make(writer: ArrayWriter) -> dict[str, Any]:
            last = opened.pop() if opened else None
            stream, pieces = last[:2] if last is not None and last[2] == len(entries) else reopen()
            bounded = _Bounded(pieces, entries[-1].notes["rows"] if entries else 0)
            notes = self._make(writer, bounded, show)
            if notes["first_without"]:
                notes["first_without"] = place_of("hub", *notes["first_without"])
            opened.append((stream, pieces, len(entries) + 1))
            return notes | {"state": stream.state_dict(), "rows": bounded.rows, "last": bounded.ended}

        with self._cache.progress(f"encoding {self._origin}, MB", total=None) as shown:
            while not (entries and entries[-1].notes["last"]):
                done = sum(entry.notes["bytes"] for entry in entries)
                show = lambda read, done=done: shown((done + read) >> 20)  # noqa: E731
                number = len(entries)
                entries.append(
                    self._keep(facts | {"shard": number, "size": SHARD_BYTES}, make, name=f"shard {number + 1:,}")
                )
        self._check(entries)
        return self._corpus(entries)

    def _make(self, writer: ArrayWriter, pieces: Any, progress: Callable[[int], None]) -> dict[str, Any]:
        return make_shard(writer, pieces, self._tokenizer, num_processes=self._num_processes, progress=progress)

    def _keep(self, facts: dict[str, Any], make: Callable[[ArrayWriter], dict[str, Any]], *, name: str) -> Entry:
        about = f"{self._origin}, {name},"
        return self._cache.keep({"what": "tokens", **facts, **self._by}, make, about=about, says_why=False)

    def _say_kept(self, which: str) -> None:
        self._cache.report(f"{self._origin}: {which} shards are there, the rest is encoded")

    def _check(self, entries: Sequence[Entry]) -> None:
        if not sum(entry.notes["tokens"] for entry in entries):
            raise ValueError(f"{self._origin} must hold a document with a token, got none.")

    def _corpus(self, entries: Sequence[Entry]) -> TokenCorpus:
        counts = {name: sum(entry.notes[name] for entry in entries) for name in COUNTS}
        arrays = [entry.arrays for entry in entries if entry.arrays["tokens"].size]
        return TokenCorpus(
            shards=tuple(Shard(each["tokens"], each["ends"], each.get("counts")) for each in arrays),
            origin=self._origin,
            digest=digest_of([entry.digest for entry in entries]),
            num_bytes=counts["bytes"],
            num_words=counts["words"] + counts["line_ends"],
            pad_id=self._tokenizer.pad_id,
            without_tokens=counts["without_tokens"],
            first_without=next((entry.notes["first_without"] for entry in entries if entry.notes["first_without"]), ""),
        )


class _Bounded:
    """Yields pieces until about a shard of bytes has come."""

    def __init__(self, pieces: Iterator[Piece], rows: int):
        self._pieces, self.rows, self.ended = pieces, rows, False

    def __iter__(self) -> Iterator[Piece]:
        size = 0
        while size < SHARD_BYTES:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                return
            size += len(piece.text)
            self.rows += 1
            yield piece


def facts_of_parts(shard: tuple[Part, ...], cache: Cache) -> dict[str, Any]:
    """Returns what tells a shard's text from any other."""
    plain, records = [], []
    for part in shard:
        if part.form == "hub":
            kept = [cache.digest_of_file(Path(file["filename"])) for file in hub_texts(part.path).cache_files]
            records.append([kept or hub_texts(part.path)._fingerprint, part.begin, part.end])
        elif part.form == "parquet" or part.is_unpacked:
            records.append([cache.digest_of_file(Path(part.path)), part.begin, part.end])
        else:
            plain.append((Path(part.path), part.begin, part.end))
    found: dict[str, Any] = {"text": cache.digest_of_files(plain)} if plain else {}
    forms = digest_of([[part.form, part.end - part.begin, part.end == part.size] for part in shard])
    return found | {"records": records, "forms": forms}
