"""Opens text files line by line: plain or gzip, with errors that name the file and the line; and makes blocks of lines.

What a line means (a sentence, a TSV row, a JSON record) belongs to the module that asks for it.
"""

import contextlib
import difflib
import gzip
import io
import itertools
import json
import os
import queue
import re
import stat
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

T = TypeVar("T")

BLOCK = 4096  # enough to be sorted by length into full batches
_LINES_BETWEEN = 1024  # calls of `position`


class _Packed(NamedTuple):
    """A form that text is kept in and that is not read here."""

    what: str
    first_bytes: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    unpack: str


_PACKED = (
    _Packed("a bzip2 file", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), (".bz2", ".tbz2"), "bunzip2"),
    _Packed("an xz file", re.compile(rb"\xfd7zXZ\x00"), (".xz", ".txz"), "unxz"),
    _Packed("an LZMA file", re.compile(rb"\]\x00\x00"), (".lzma",), "unlzma"),
    _Packed("a Zstandard file", re.compile(rb"\x28\xb5\x2f\xfd"), (".zst", ".zstd"), "unzstd"),
    _Packed("an LZ4 file", re.compile(rb"\x04\x22\x4d\x18"), (".lz4",), "unlz4"),
    _Packed("a zip file", re.compile(rb"PK(?:\x03\x04|\x05\x06)"), (".zip",), "unzip"),
    _Packed("a 7z file", re.compile(rb"7z\xbc\xaf\x27\x1c"), (".7z",), "7z x"),
    _Packed("a tar archive", re.compile(rb".{257}ustar", re.DOTALL), (".tar", ".tgz"), "tar -xf"),
)
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
_PEEKED = 262  # bytes of the longest of these beginnings


def read_lines(
    path: str | Path,
    *,
    encoding: str = "utf-8",
    way_out: str = "Convert the file with iconv.",
    position: Callable[[int], None] = lambda bytes_read: None,
) -> Iterator[str]:
    r"""Yields the lines of a text file, plain or gzip by its content, without their line ends, each as it comes.

    A line ends at "\n" alone (a "\r" before it goes too), so that line numbers are those of `wc -l`: `str.splitlines`
    would also break at U+2028 and U+0085, which occur inside sentences of crawled text, and shift one side of a corpus
    against the other. A byte order mark at the start is dropped. A file whose only line has a "\r" inside is refused:
    its line ends are those of old Macs.

    Args:
        path: of the file, which may be a pipe; "-" is standard input.
        encoding: any that writes a line end as one byte.
        way_out: what the error about bytes that are not of this encoding advises.
        position: called now and then with how many bytes of the file have been read.

    Raises:
        FileNotFoundError: there is no such file (names the nearest ones beside it).
        ValueError: a line is not text of this encoding (names line and byte), the lines end at "\r" alone, the gzip
            data is damaged, or the file is packed in another way (says how to unpack it).
    """
    _check_encoding(encoding)
    number, held = 0, None
    with contextlib.ExitStack() as stack:
        name, raw, lines = _opened_unpacked(path, stack)
        try:
            _check_unpacked(name, lines.peek(_PEEKED))
            for number, line in enumerate(lines, start=1):
                if held is not None:
                    yield held
                    held = None
                text = _decode(line, encoding=encoding, name=name, number=number, way_out=way_out)
                if number == 1 and "\r" in text:
                    held = text  # a line like others, if others follow
                    continue
                yield text
                if not number % _LINES_BETWEEN and raw.seekable():
                    position(raw.tell())
        except _DAMAGE as error:
            raise ValueError(f"{name} must be a whole gzip file, got damage after line {number:,}.") from error
    if held is not None:
        raise ValueError(carriage_return(f"{name}:1"))


@contextlib.contextmanager
def open_bytes(path: str | Path) -> Iterator[Any]:
    """Opens a file, plain or gzip by its content, to be read in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is packed in another way, or damaged.
    """
    with contextlib.ExitStack() as stack:
        name, _, file = _opened_unpacked(path, stack)
        try:
            _check_unpacked(name, file.peek(_PEEKED))
            yield file
        except _DAMAGE as error:
            raise ValueError(f"{name} must be a whole gzip file, got damage.") from error


def is_gzip(path: Path) -> bool:
    """Returns whether a file is gzip, by its content."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def carriage_return(place: str) -> str:
    """Returns the message for a line that ends, or seems to end, in a carriage return alone."""
    return (
        f"{place} has a carriage return inside (old Mac line ends?). Convert them: tr '\\r' '\\n', or tr '\\r' ' ' "
        "where lines end otherwise."
    )


def check_name_unpacked(location: str) -> None:
    """Checks that a name that says nothing of a file's form is not that of a packed file, other than gzip.

    Raises:
        ValueError: it is; the message says how to unpack it.
    """
    for packed in _PACKED:
        if location.removesuffix(".gz").endswith(packed.suffixes):
            raise ValueError(_how_to_unpack(location, packed))


def existing_file(path: str | Path) -> Path:
    """Returns the path of what exists and is no folder: a file, or a pipe such as /dev/stdin.

    Raises:
        FileNotFoundError: it does not; the message names the nearest names beside it.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} must be a file, got a folder.")
    if path.exists():
        return path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must exist, but there is no folder {path.parent}.")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    nearest = difflib.get_close_matches(path.name, names, n=3)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    raise FileNotFoundError(f"{path} must exist, but {path.parent} has no such file.{hint}")


def parse_json(line: str, *, place: str) -> Any:
    """Returns the value that a line of a JSON lines file holds.

    Raises:
        ValueError: it is no JSON that Python reads; the message names the place and, where there is one, the column.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} must be a JSON record, got {error.msg!r} at column {error.colno}.") from error
    except RecursionError as error:
        raise ValueError(f"{place} must be a JSON record of few levels, got one that is nested too deep.") from error
    except ValueError as error:  # the one that is left
        most = sys.get_int_max_str_digits()
        raise ValueError(
            f"{place} must be a JSON record with numbers of at most {most:,} digits, got a longer one."
        ) from error


def check_unicode(text: str, *, place: str) -> str:
    """Returns a text that can be written as UTF-8; JSON's escapes can spell what cannot.

    Raises:
        ValueError: it holds half of a surrogate pair; the message names the place.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"{place} must be Unicode text, got a lone surrogate, \\u{code:04x}, at character {error.start + 1}: half "
            "of a character that was cut in two."
        ) from error
    return text


def is_read_once(path: str | Path) -> bool:
    """Returns whether a file can be read only once: standard input, a pipe, a process's substitution."""
    return str(path) == "-" or (Path(path).exists() and not Path(path).is_file())


def comes_slowly(path: str | Path) -> bool:
    """Returns whether lines may come one by one, with waits between: from a pipe or a terminal, not from a file."""
    if str(path) != "-":
        return is_read_once(path)
    with contextlib.suppress(AttributeError, OSError):  # io.UnsupportedOperation is one of these
        return not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    return False


def in_blocks(
    items: Iterable[T], *, size: int | None = None, waits: bool = False, pause: float = 0.1, most: float = 1.0
) -> Iterator[list[T]]:
    """Yields items in blocks of a size, the last one shorter: what works on many at once stays in bounded memory.

    Args:
        items: read ahead of their use by one block, where they may wait.
        size: None for `BLOCK`.
        waits: whether the next item may be long in coming; a block then ends too when none has come for `pause`
            seconds, or `most` seconds after its first, so that nothing waits for what has not been said yet.
    """
    size = BLOCK if size is None else size
    if not waits:
        items = iter(items)
        while block := list(itertools.islice(items, size)):
            yield block
        return
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=size)
    threading.Thread(target=_hand_over, args=(items, ready), name="lmx-lines", daemon=True).start()
    while True:
        item, error = ready.get()
        block, began = [], time.monotonic()
        with contextlib.suppress(queue.Empty):
            while error is None:
                block.append(item)
                if len(block) == size:
                    break
                item, error = ready.get(timeout=max(0.0, min(pause, began + most - time.monotonic())))
        if block:
            yield block
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error


def _hand_over(items: Iterable[Any], ready: "queue.Queue[tuple[Any, BaseException | None]]") -> None:
    try:
        for item in items:
            ready.put((item, None))
    except BaseException as error:  # whatever it is, it is raised behind the items before it
        ready.put((None, error))
    else:
        ready.put((None, StopIteration()))


def _opened(path: str | Path, stack: contextlib.ExitStack) -> tuple[str, Any]:
    """Returns a name for messages, and a buffered reader that the stack closes unless it is standard input's."""
    if str(path) != "-":
        path = existing_file(path)
        return str(path), stack.enter_context(path.open("rb"))
    if sys.stdin is None:
        raise ValueError("standard input must be open to be read, got a closed one.")
    try:
        # Another object of the same stream: a thread may still wait for a line of it when the program ends.
        return "standard input", stack.enter_context(os.fdopen(os.dup(sys.stdin.fileno()), "rb"))
    except io.UnsupportedOperation:  # what stands in its place is no file
        return "standard input", io.BufferedReader(cast(Any, sys.stdin.buffer))


def _opened_unpacked(path: str | Path, stack: contextlib.ExitStack) -> tuple[str, Any, Any]:
    """Returns a name for messages, a reader of what the file holds, and one of what it holds unpacked."""
    name, raw = _opened(path, stack)
    # A pipe cannot go back to its beginning.
    compressed = raw.peek(2)[:2] == b"\x1f\x8b"
    return name, raw, stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw


def _check_unpacked(name: str, beginning: bytes) -> None:
    for packed in _PACKED:
        if packed.first_bytes.match(beginning):
            raise ValueError(_how_to_unpack(name, packed))


def _how_to_unpack(name: str, packed: _Packed) -> str:
    of_what = "" if name == "standard input" else f" {name}"
    return f"{name} must be plain text or gzip, got {packed.what}. Unpack it first: {packed.unpack}{of_what}"


def _decode(line: bytes, *, encoding: str, name: str, number: int, way_out: str) -> str:
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise ValueError(
            f"{name}:{number} must be {encoding.upper()}, got byte 0x{byte:02x} at byte {error.start + 1} of the line. "
            f"{way_out}"
        ) from error
    if encoding != "utf-8":  # a few others can spell what is no text
        check_unicode(text, place=f"{name}:{number}")
    text = text.removesuffix("\n").removesuffix("\r")
    return text.removeprefix("\ufeff") if number == 1 else text


def _check_encoding(encoding: str) -> None:
    try:
        one_byte = "\n".encode(encoding) == b"\n"
    except LookupError as error:
        raise ValueError(f"encoding must be one that Python knows, got encoding={encoding}.") from error
    if not one_byte:
        raise ValueError(f"encoding must write a line end as one byte, got encoding={encoding}. Convert with iconv.")


def first_line(error: Exception) -> str:
    """Returns what a library says is wrong, on one line, without its full stop."""
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
