"""Sentence pairs out of files: two parallel ones, TSV, JSON lines, hub datasets; read one by one."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmx.data.files import carriage_return, check_name_unpacked, check_unicode, existing_file, parse_json, read_lines
from lmx.data.hub import read_hub


def iterate_pairs(
    location: str | Path,
    *,
    source_language: str,
    target_language: str,
    encoding: str = "utf-8",
    position: Callable[[int], None] = lambda bytes_read: None,
) -> Iterator[tuple[str, str]]:
    """Yields the pairs of a location one by one, as `read_pairs` reads them; those with an empty side too.

    Args:
        position: Called now and then with how many bytes of the (first) file have been read.
    """
    location = str(location)
    languages = (source_language, target_language)
    reading: dict[str, Any] = {"encoding": encoding, "position": position}
    if source_language == target_language:
        raise ValueError(f"the languages must differ, got source_language=target_language={source_language}.")
    if location.startswith("hub:"):
        return _hub_rows(location, languages=languages)
    if sides := two_files(location, languages=languages):
        return _parallel_rows(*sides, **reading)
    suffix = Path(location.removesuffix(".gz")).suffix
    if suffix in (".tsv", ".txt"):
        return _tsv_rows(location, languages=languages, **reading)
    if suffix == ".jsonl":
        return _json_rows(location, languages=languages, **reading)
    check_name_unpacked(location)
    raise ValueError(
        "location must be two files (train.{} or train.en,train.de), one .tsv, .txt or .jsonl file, "
        f"any of them plain or .gz, or hub:ID:SPLIT, got location={location}."
    )


def files_of_pairs(location: str | Path, *, source_language: str, target_language: str) -> list[Path]:
    """Returns the files that a location's pairs are read from; of the hub, none.

    Raises:
        FileNotFoundError: one is not there.
    """
    location = str(location)
    if location.startswith("hub:"):
        return []
    sides = two_files(location, languages=(source_language, target_language))
    return [existing_file(file) for file in sides or (location,)]


def two_files(location: str, *, languages: tuple[str, str]) -> tuple[str, str] | None:
    """Returns the files of sources and of targets that a location names; None where it names one file, or a dataset."""
    if location.startswith("hub:"):
        return None
    if found := re.search(r"\{(?:([^{},]+),([^{},]+))?\}", location):
        names = languages if found[1] is None else (found[1], found[2])
        source, target = (location.replace(found[0], name) for name in names)
        return source, target
    # A single file may have a comma in its name.
    if location.count(",") == 1 and not Path(location).is_file():
        source, target = location.split(",")
        return source.strip(), target.strip()
    return None


def _parallel_rows(source_path: str, target_path: str, **reading: Any) -> Iterator[tuple[str, str]]:
    sources = read_lines(source_path, **reading)
    targets = read_lines(target_path, encoding=reading["encoding"])
    counts = [0, 0]
    for source, target in itertools.zip_longest(sources, targets):
        counts = [counts[0] + (source is not None), counts[1] + (target is not None)]
        if source is None or target is None:
            break
        yield source, target
    counts = [counts[0] + sum(1 for _ in sources), counts[1] + sum(1 for _ in targets)]
    for path, count in zip((source_path, target_path), counts, strict=True):
        if not count:
            raise ValueError(f"{path} must hold text, got an empty file.")
    if counts[0] != counts[1]:
        raise ValueError(
            f"{target_path} has {counts[1]:,} lines and {source_path} {counts[0]:,}: the two sides must be parallel."
        )


def _tsv_rows(path: str, *, languages: tuple[str, str], **reading: Any) -> Iterator[tuple[str, str]]:
    columns, width = (0, 1), 2
    header = f"{languages[0]}<tab>{languages[1]}"
    names = set(languages)
    for number, line in enumerate(read_lines(path, **reading), start=1):
        cells = line.split("\t")
        if number == 1 and set(languages) & set(cells):
            for language in languages:
                if language not in cells:
                    raise ValueError(f"{path}:1 must name both languages, got no {language!r} in {_names(cells)}.")
            columns, width = (cells.index(languages[0]), cells.index(languages[1])), len(cells)
            names = set(cells)
        elif number == 1 and _seems_header(cells, languages=languages):
            raise ValueError(
                f"{path}:1 must be a pair of sentences or {header}, got {_names(cells)}. Where these name the columns, "
                "say them by --source-language and --target-language; where they are a pair, it is one to leave out."
            )
        elif not line.strip():
            yield "", ""
        elif {cell.removeprefix("\ufeff") for cell in cells} == names:
            raise ValueError(
                f"{path}:{number} must be a pair of sentences, got the header again ({_names(cells)}): files that were "
                "joined have one each."
            )
        elif len(cells) != width and "\r" in line:
            raise ValueError(carriage_return(f"{path}:{number}"))
        elif len(cells) != width:
            way_out = "" if number > 1 else f" A first row such as {header} names the columns where there are more."
            raise ValueError(f"{path}:{number} must have {width} columns, tabs between, got {len(cells)}.{way_out}")
        else:
            yield cells[columns[0]], cells[columns[1]]


def _seems_header(cells: Sequence[str], *, languages: tuple[str, str]) -> bool:
    """Returns whether the first row of a table names its columns otherwise than by the languages' names."""
    words = [cell.strip().lower() for cell in cells]
    return len(set(words)) == len(words) > 1 and _HEADER_WORDS.union(map(str.lower, languages)).issuperset(words)


_HEADER_WORDS = frozenset(
    re.findall(
        r"\w+",
        """source target src tgt trg text translation reference id arabic bulgarian chinese croatian czech danish dutch
        english estonian finnish french german greek hebrew hindi hungarian icelandic indonesian irish italian japanese
        korean latvian lithuanian norwegian persian polish portuguese romanian russian serbian slovak slovenian spanish
        swahili swedish thai turkish ukrainian urdu vietnamese welsh""",
    )
)


def _json_rows(path: str, *, languages: tuple[str, str], **reading: Any) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path, **reading), start=1):
        if not line.strip():
            yield "", ""
            continue
        place = f"{path}:{number}"
        yield _record_row(parse_json(line, place=place), languages=languages, place=place)


def _hub_rows(location: str, *, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    records = read_hub(location)
    # Only the columns in use: a corpus of captions may have its pictures beside them.
    columns = [name for name in ("translation", *languages) if name in records.column_names]
    if not columns:
        raise ValueError(
            f"{location} must have a column translation or {languages[0]}, got {_names(records.column_names)}."
        )
    number = 0
    for batch in records.select_columns(columns).iter(batch_size=1000):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield _record_row(
                dict(zip(batch, cells, strict=True)), languages=languages, place=f"{location} row {number}"
            )


def _record_row(record: Any, *, languages: tuple[str, str], place: str) -> tuple[str, str]:
    """Takes the two sides out of a record; a side that is null counts as empty."""
    sides = record.get("translation", record) if isinstance(record, dict) else record
    if not isinstance(sides, dict):
        raise ValueError(f'{place} must be a record {{"translation": {{language: sentence}}}}, got {sides!r:.60}.')
    row = []
    for language in languages:
        if language not in sides:
            raise ValueError(f"{place} must have a sentence for each language, got no {language!r} in {_names(sides)}.")
        sentence = "" if sides[language] is None else sides[language]
        if not isinstance(sentence, str):
            raise ValueError(f"{place} must have text for {language!r}, got {sentence!r:.60}.")
        row.append(check_unicode(sentence, place=f"{place} in {language!r}"))
    return row[0], row[1]


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "an empty record"
