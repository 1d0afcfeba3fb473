"""Opens text files line by line: plain or gzip, with errors that name the file and the line.

What a line means (a sentence, a TSV row, a JSON record) belongs to the module that asks for it.
"""

import difflib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(
    path: str | Path, *, encoding: str = "utf-8", way_out: str = "Convert the file with iconv."
) -> Iterator[str]:
    r"""Yields the lines of a text file, plain or gzip by its content, without their line ends.

    A line ends at "\n" alone (a "\r" before it goes too), so that line numbers are those of `wc -l`: `str.splitlines`
    would also break at U+2028 and U+0085, which occur inside sentences of crawled text, and shift one side of a corpus
    against the other. A byte order mark at the start is dropped.

    Args:
        path: of the file.
        encoding: any that writes a line end as one byte.
        way_out: what the error about bytes that are not of this encoding advises.

    Raises:
        FileNotFoundError: there is no such file (names the nearest ones beside it).
        ValueError: a line is not text of this encoding (names line and byte), or the gzip data is damaged.
    """
    path = existing_file(path)
    _check_encoding(encoding)
    number = 0
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.open(raw, "rb") if compressed else raw as lines:
            try:
                for number, line in enumerate(lines, start=1):
                    yield _decode(line, encoding=encoding, path=path, number=number, way_out=way_out)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(f"{path} must be a whole gzip file, got damage after line {number:,}.") from error


def existing_file(path: str | Path) -> Path:
    """Returns the path of a file that exists.

    Raises:
        FileNotFoundError: it does not; the message names the nearest names beside it.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise FileNotFoundError(f"{path} must be a file, got a folder.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must exist, but there is no folder {path.parent}.")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    nearest = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    raise FileNotFoundError(f"{path} must exist, but {path.parent} has no such file.{hint}")


def parse_json(line: str, *, place: str) -> Any:
    """Returns the value that a line of a JSON lines file holds.

    Raises:
        ValueError: it is no JSON; the message names the place and the column.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} must be a JSON record, got {error.msg!r} at column {error.colno}.") from error


def _decode(line: bytes, *, encoding: str, path: Path, number: int, way_out: str) -> str:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise ValueError(
            f"{path}:{number} must be {encoding.upper()}, got byte 0x{byte:02x} at byte {error.start + 1} of the line. "
            f"{way_out}"
        ) from error
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix("\ufeff") if number == 1 else text


def _check_encoding(encoding: str) -> None:
    try:
        one_byte = "\n".encode(encoding) == b"\n"
    except LookupError as error:
        raise ValueError(f"encoding must be one that Python knows, got encoding={encoding}.") from error
    if not one_byte:
        raise ValueError(f"encoding must write a line end as one byte, got encoding={encoding}. Convert with iconv.")
