"""Training text encoded once and kept: by all cores, into mapped arrays that the next start and other processes find.

Here are training sets that are read when they are asked for and never held, the vocabularies that are learned from
them, and their rows of ids. Where these are kept, and when they are made anew, is `lmx.data.cache`'s.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmx.data.cache import ArrayWriter, Cache, digest_of
from lmx.data.encoding import chunks_of, encode_chunks, saved_tokenizer
from lmx.data.files import existing_file, in_blocks, is_read_once
from lmx.data.hub import read_hub
from lmx.data.labelled import Examples, hash_text, is_blank, sides_of
from lmx.data.labelled_files import USUAL, Fields, iterate_labelled
from lmx.data.labels import Labels
from lmx.data.pair_files import files_of_pairs, iterate_pairs
from lmx.data.parallel import EncodedPairs, FilterReport, Pairs, check_padding, judge_lengths, read_pairs
from lmx.data.ragged import Strings, ended_rows, select_rows
from lmx.data.tables import FIELD_LIMIT
from lmx.data.texts import EncodedExamples, encoded_examples, lay_out
from lmx.errors import naming
from lmx.text import Tokenizer, load_tokenizer
from lmx.token_list import end_of_source

PART = 4096  # texts that are in memory while they are read
LENGTHS = 1 << 18  # pairs whose lengths are


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sentence pairs where they are: read anew each time they are asked for, and not held.

    Attributes:
        origin: A location as `read_pairs` has it.
        source_language: Name of the source side.
        target_language: Name of the target side.
    """

    origin: str
    source_language: str
    target_language: str

    def rows(self, *, position: Callable[[int], None] = lambda bytes_read: None) -> Iterator[tuple[str, str]]:
        """Yields all pairs; those with an empty side too."""
        languages = {"source_language": self.source_language, "target_language": self.target_language}
        return iterate_pairs(self.origin, **languages, position=position)

    def files(self) -> list[Path]:
        """Returns what holds the text; of the hub, the files that its library keeps."""
        if self.origin.startswith("hub:"):
            return [Path(file["filename"]) for file in read_hub(self.origin).cache_files]
        return files_of_pairs(self.origin, source_language=self.source_language, target_language=self.target_language)

    def facts(self, cache: Cache) -> dict[str, Any]:
        """Returns what tells this text from any other."""
        digests = [cache.digest_of_file(file) for file in self.files()]
        if not digests:  # a dataset that is in no file: all of it is looked at
            whole = hashlib.blake2b(digest_size=16)
            for row in self.rows():
                whole.update(json.dumps(row).encode())
            digests = [whole.hexdigest()]
        # The location says how files are read, and which part of a dataset is meant.
        how = Path(self.origin).name if not self.origin.startswith("hub:") else self.origin
        return {"text": digests, "form": how, "languages": [self.source_language, self.target_language]}


def find_pairs(origin: str, *, source_language: str, target_language: str) -> Corpus | Pairs:
    """Returns the pairs of a location unread; what can be read only once, such as a pipe, is read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the location is none.
    """
    languages: dict[str, Any] = {"source_language": source_language, "target_language": target_language}
    iterate_pairs(origin, **languages)  # says what is wrong with the location
    if any(map(is_read_once, files_of_pairs(origin, **languages))):
        return read_pairs(origin, **languages)
    return Corpus(origin=origin, **languages)


def side_texts(pairs: Corpus | Pairs, *, joint: bool, side: int = 0) -> Iterator[str]:
    """Yields the sentences of a side, or of both, all sources first; of pairs with an empty side, none."""
    for number in (0, 1) if joint else (side,):
        rows = pairs.rows() if isinstance(pairs, Corpus) else zip(pairs.sources, pairs.targets, strict=True)
        yield from (row[number] for row in rows if row[0].strip() and row[1].strip())


def facts_of_pairs(pairs: Corpus | Pairs, cache: Cache) -> dict[str, Any]:
    """Returns what tells the text of a training set from any other."""
    if isinstance(pairs, Corpus):
        return pairs.facts(cache)
    return {"text": digest_of([list(pairs.sources), list(pairs.targets)])}


def keep_tokenizer(cache: Cache, facts: dict[str, Any], learn: Callable[[], Tokenizer], *, about: str) -> Tokenizer:
    """Returns the tokenizer that is learned from some text: once, by one of the processes that ask for it.

    Args:
        facts: the text's, and how it is learned.
        learn: does it.
        about: where the text is from.
    """
    if cache.folder is None:
        return learn()

    def make(writer: ArrayWriter) -> dict[str, Any]:
        tokenizer = learn()
        writer.append("tokenizer", np.frombuffer(saved_tokenizer(tokenizer), dtype=np.uint8))
        return {}

    entry = cache.keep({"what": "vocabulary", **facts}, make, about=f"a vocabulary of {about}", doing="learned")
    suffix, _, content = entry.arrays["tokenizer"].tobytes().partition(b"\0")
    with tempfile.TemporaryDirectory(prefix="lmx-") as folder:
        path = Path(folder) / f"tokenizer{suffix.decode()}"
        with naming(path):
            path.write_bytes(content)
        return load_tokenizer(path)


def keep_pairs(
    pairs: Corpus | Pairs,
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
    *,
    max_length: int | None,
    max_ratio: float | None,
    cache: Cache,
    num_processes: int | None = None,
) -> tuple[EncodedPairs, FilterReport]:
    """Returns what `encode_pairs` and `filter_pairs` make of pairs, from mapped arrays; text is read if there are none.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the text is not what its location says (names the file and the line), or no pair is left.
    """
    check_padding(source_tokenizer, target_tokenizer)
    tokenizers = (source_tokenizer, target_tokenizer)
    limits: dict[str, Any] = {"max_length": max_length, "max_ratio": max_ratio}

    def make(writer: ArrayWriter) -> dict[str, Any]:
        # Those that were kept in their places are met again.
        counts = {"pairs": 0, "empty": 0 if isinstance(pairs, Corpus) or pairs.kept_empty else pairs.empty}
        dropped = dict.fromkeys(("kept", "without_tokens", "too_long", "too_uneven"), 0)
        ends = [0, 0]
        for name in ("source_offsets", "target_offsets"):
            writer.append(name, np.zeros(1, dtype=np.int64))
        with _shown(pairs, cache) as rows:
            chunks = chunks_of(_with_text(rows, counts))
            for sides in encode_chunks(chunks, tokenizers, num_processes=num_processes):
                lengths = [side[1] + 1 for side in sides]
                keep, report = judge_lengths(*lengths, **limits)
                for name in dropped:
                    dropped[name] += getattr(report, name)
                writer.append("indices", counts["pairs"] + np.flatnonzero(keep))
                counts["pairs"] += len(keep)
                for number, name in enumerate(("source", "target")):
                    ids, plain = sides[number]
                    end = tokenizers[number].eos_id if number else end_of_source(tokenizers[number])
                    flat = ended_rows(ids, plain, end_id=end)
                    offsets = np.concatenate([[0], np.cumsum(lengths[number])])
                    flat, offsets = select_rows(flat, offsets, keep)
                    writer.append(name, flat)
                    writer.append(f"{name}_offsets", ends[number] + offsets[1:])
                    ends[number] += int(offsets[-1])
        if not counts["pairs"]:
            held = f"{counts['empty']:,} pairs with an empty side" if counts["empty"] else "nothing"
            raise ValueError(f"{pairs.origin} must hold at least one pair of sentences, got {held}.")
        FilterReport(**dropped, **limits).check(pairs.origin)
        return {"report": dropped, "empty": counts["empty"]}

    facts = facts_of_pairs(pairs, cache) | {
        "what": "pairs",
        "tokenizer": [digest_of(saved_tokenizer(tokenizer).hex()) for tokenizer in tokenizers],
        "filter": [max_length, max_ratio],
    }
    entry = cache.keep(facts, make, about=pairs.origin)
    encoded = EncodedPairs(
        **entry.arrays,
        pad_id=target_tokenizer.pad_id,
        bos_id=target_tokenizer.bos_id,
        origin=pairs.origin,
        empty=entry.notes["empty"],
        digest=entry.digest,
    )
    return replace(encoded, longer=_keep_lengths(encoded, cache)), FilterReport(**entry.notes["report"], **limits)


def _keep_lengths(encoded: EncodedPairs, cache: Cache) -> np.ndarray:
    """Returns the longer side of each pair, mapped: so that nobody has to hold the lengths of all of them."""

    def make(writer: ArrayWriter) -> dict[str, Any]:
        for begin in range(0, len(encoded), LENGTHS):
            here = slice(begin, begin + LENGTHS + 1)
            sides = [np.diff(side[here]) for side in (encoded.source_offsets, encoded.target_offsets)]
            writer.append("longer", np.maximum(*sides).astype(np.int32))
        return {}

    facts = {"what": "lengths of pairs", "pairs": encoded.digest}
    return cache.keep(facts, make, about=encoded.origin, says_why=False).arrays["longer"]


def _with_text(rows: Iterable[tuple[str, str]], counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    for source, target in rows:
        if source.strip() and target.strip():
            yield source, target
        else:
            counts["empty"] += 1


@contextlib.contextmanager
def _shown(pairs: Corpus | Pairs, cache: Cache) -> Iterator[Iterable[tuple[str, str]]]:
    """Yields the rows of pairs, and shows which part of their file has been read."""
    if not isinstance(pairs, Corpus):
        yield zip(pairs.sources, pairs.targets, strict=True)
    elif pairs.origin.startswith("hub:"):
        yield pairs.rows()
    else:
        total = max(1, pairs.files()[0].stat().st_size)
        with cache.progress(f"encoding {pairs.origin}, percent", total=100) as show:
            yield pairs.rows(position=lambda read: show(100 * read // total))


# Texts with labels.


def keep_labelled(location: str, fields: Fields = USUAL, *, cache: Cache) -> Examples:
    """Returns what `read_labelled` reads, from mapped arrays: no text and no label is in memory but when it is used.

    Args:
        fields: As `read_labelled` has them.

    Raises:
        FileNotFoundError: a file or dataset is not there.
        ValueError: the data is not what the settings say; names the file and the line.
    """
    if location.startswith("hub:"):
        files = [Path(file["filename"]) for file in read_hub(location).cache_files]
        form = location
    else:
        files, form = [existing_file(location)], Path(location).suffixes[-2:]
    if not files or any(map(is_read_once, files)):
        cache = Cache(None)
    text = [cache.digest_of_file(file) for file in files] if cache.folder is not None else None

    def make(writer: ArrayWriter) -> dict[str, Any]:
        kept = {"text": _StringWriter(writer, "text"), "label": _StringWriter(writer, "label")}
        pairs = several = False
        for rows in in_blocks(iterate_labelled(location, fields), size=PART):
            lines, texts, labels = zip(*rows, strict=True)
            writer.append("lines", np.array(lines, dtype=np.int64))
            writer.append("hashes", np.array(list(map(hash_text, texts)), dtype=np.uint64))
            writer.append("blank", np.array(list(map(is_blank, texts))))
            pairs, several = isinstance(texts[0], tuple), isinstance(labels[0], tuple)
            kept["text"].append(list(map(sides_of, texts)))
            if labels[0] is not None:
                kept["label"].append([(label,) if isinstance(label, str) else label for label in labels])
        return {"pairs": pairs, "several": several}

    limit = FIELD_LIMIT if fields.field_limit is None else fields.field_limit
    facts = {
        "what": "labelled texts",
        "text": text,
        "form": form,
        "reading": asdict(replace(fields, field_limit=limit)),
    }
    entry = cache.keep(facts, make, about=location, doing="read")
    arrays = entry.arrays

    def strings(name: str, *, tuples: bool) -> Strings:
        return Strings(arrays[name], arrays[f"{name}_offsets"], items=arrays[f"{name}_items"] if tuples else None)

    return Examples(
        texts=strings("text", tuples=entry.notes["pairs"]),
        labels=strings("label", tuples=entry.notes["several"]) if "label_items" in arrays else None,
        origin=location,
        lines=arrays["lines"],
        digest=entry.digest,
        hashes=arrays["hashes"],
        blank=arrays["blank"],
    )


def facts_of_examples(examples: Examples) -> dict[str, Any]:
    """Returns what tells some texts from any others."""
    text, _, part = (examples.digest or "").partition(" ")
    return {"text": text or digest_of(list(examples.texts)), "part": part}


def keep_examples(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache: Cache,
    labels: Labels | None = None,
    stride: int | None = None,
    num_processes: int | None = None,
) -> EncodedExamples:
    """Returns what `encode_examples` makes of texts, from mapped arrays; the texts are looked at if there are none.

    Raises:
        ValueError: as `encode_examples`.
    """
    layout = lay_out(tokenizer, pairs=examples.are_pairs, max_length=max_length, stride=stride)

    def make(writer: ArrayWriter) -> dict[str, Any]:
        writer.append("offsets", np.zeros(1, dtype=np.int64))
        done = end = num_truncated = 0
        sides = (tokenizer,) * (2 if examples.are_pairs else 1)
        with cache.progress(f"encoding {examples.origin}", total=len(examples)) as show:
            chunks = chunks_of(map(sides_of, examples.texts))
            for chunk in encode_chunks(chunks, sides, num_processes=num_processes):
                rows = layout.rows(chunk)
                writer.append("tokens", rows.tokens)
                writer.append("offsets", end + np.cumsum(rows.lengths))
                writer.append("first_lengths", rows.first_lengths)
                writer.append("indices", done + rows.texts)
                done, end = done + rows.num_texts, end + len(rows.tokens)
                num_truncated += rows.num_truncated
                show(done)
        return {"num_truncated": num_truncated}

    facts = facts_of_examples(examples) | {
        "what": "rows of texts",
        "tokenizer": digest_of(saved_tokenizer(tokenizer).hex()),
        "filter": list(layout),
    }
    entry = cache.keep(facts, make, about=examples.origin)
    return encoded_examples(examples, tokenizer, labels=labels, **entry.arrays, **entry.notes, digest=entry.digest)


class _StringWriter:
    """Writes tuples of strings as `Strings` reads them."""

    def __init__(self, writer: ArrayWriter, name: str):
        self._writer, self._name = writer, name
        self._ends: dict[str, int] = {}

    def append(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Adds tuples; the first call adds the zeros that offsets begin with."""
        encoded = [string.encode("utf-8", "surrogatepass") for row in rows for string in row]
        self._writer.append(self._name, np.frombuffer(b"".join(encoded), dtype=np.uint8))
        for suffix, counts in (("offsets", map(len, encoded)), ("items", map(len, rows))):
            ends = np.cumsum([self._ends.get(suffix, 0), *counts], dtype=np.int64)
            self._writer.append(f"{self._name}_{suffix}", ends[1:] if suffix in self._ends else ends)
            self._ends[suffix] = int(ends[-1])
