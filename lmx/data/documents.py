"""Documents read out of files piece by piece: whole files, lines, JSON lines, Parquet, hub datasets.

A part of a corpus is a range of a file, so that a file which is larger than memory is read in parts, each by itself.
What is made of documents is `lmx.data.shards`'s.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmx.data.files import check_unicode, first_line, is_gzip, open_bytes, parse_json
from lmx.data.hub import read_hub

Form = Literal["text", "lines", "jsonl", "parquet", "hub"]
BLOCK = 1 << 16  # bytes of text that are encoded at once, of a file that is one document
_RECORDS = 256  # of Parquet and of the hub, at once


class Part(NamedTuple):
    """A range of a file: of its bytes, or of the records of a Parquet file or a hub dataset.

    Attributes:
        path: of the file, or the dataset's location.
        begin, end: of the range; a gzip file is one range, of packed bytes, until it is `unpacked`.
        size: of all of the file: a document that is a file ends with it.
        weight: bytes of text, about.
        is_unpacked: whether a gzip file is counted in bytes that are not packed.
    """

    form: Form
    path: str
    begin: int
    end: int
    size: int
    weight: int
    is_unpacked: bool = False

    @property
    def is_packed(self) -> bool:
        """Whether it is all of a gzip file, which is not cut."""
        return self.form not in ("parquet", "hub") and not self.is_unpacked and is_gzip(Path(self.path))


class Piece(NamedTuple):
    """A piece of a document.

    Attributes:
        ends: whether its document ends with it.
        offset: where it begins in its file: a byte, or the number of a record.
        is_line: whether a line end, which is not in the text, is the document's end.
    """

    text: str
    ends: bool
    path: str
    offset: int
    is_line: bool = False


def whole_file(path: Path, form: Form) -> Part:
    """Returns all of a file; of Parquet, its head is read.

    Raises:
        ValueError: it is not what its form says.
    """
    size = path.stat().st_size
    end = open_parquet(str(path)).metadata.num_rows if form == "parquet" else size
    return Part(form, str(path), 0, end, end, size)


def whole_hub(location: str) -> Part:
    """Returns all of a hub dataset."""
    records = hub_texts(location)
    return Part("hub", location, 0, len(records), len(records), records.data.nbytes)


def unpacked(part: Part) -> Part:
    """Returns a part that can be cut: all of a gzip file is read to count what it holds."""
    if not part.is_packed:
        return part
    size = 0
    with open_bytes(part.path) as file:
        while block := file.read(1 << 20):
            size += len(block)
    return part._replace(end=size, size=size, weight=size, is_unpacked=True)


def read_part(part: Part) -> Iterator[Piece]:
    """Yields what a part holds, in order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not what its form says; names the file and the line.
    """
    return _READERS[part.form](part)


def cut(part: Part, place: int, *, exact: bool = False) -> tuple[Part, Part]:
    """Returns two parts of a part, cut near a place of its file; one of them may be empty.

    Args:
        exact: cuts a file that is one document at the next character, not at the next line.
    """
    if part.form not in ("parquet", "hub") and place < part.end:
        place = part.end if part.is_packed else _border(part, place, exact=exact and part.form == "text")
    place = min(max(place, part.begin), part.end)
    first = part.weight * (place - part.begin) // max(1, part.end - part.begin)
    return part._replace(end=place, weight=first), part._replace(begin=place, weight=part.weight - first)


def place_of(form: str, path: str, offset: int) -> str:
    """Returns where something is, for messages; the lines before it are counted now."""
    if form == "hub":
        return f"{path} row {offset + 1:,}"
    return f"{path} row {offset + 1:,}" if form == "parquet" else f"{path}:{_line_of(path, offset)[0]}"


def _border(part: Part, place: int, *, exact: bool) -> int:
    """Returns the byte nearest behind a place of a plain file at which it may be cut.

    That is where a line begins; of a file that is one document and has none near, where a word does, or a character.
    """
    if not part.begin < place < part.end:
        return place
    with open_bytes(part.path) as file:
        file.seek(place)
        block = file.read(BLOCK)
        if exact:
            return place + _character(block, 0)
        file.seek(place - 1)
        block = file.read(BLOCK)
        if (found := block.find(b"\n")) >= 0:
            return place + found
        if part.form == "text":
            found = block.find(b" ", 1)
            return place - 1 + found if found > 0 else place + _character(block[1:], 0)
        place += len(block) - 1
        while block := file.read(BLOCK):
            if (found := block.find(b"\n")) >= 0:
                return min(place + found + 1, part.end)
            place += len(block)
    return part.end


def _read_text(part: Part) -> Iterator[Piece]:
    """Yields a file, or a range of it, in blocks that end with a line or, where lines are long, before a word."""
    offset = part.begin
    for block in _cut_blocks(part):
        text = _decoded(block, part.path, offset)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        yield Piece(text.replace("\r\n", "\n"), False, part.path, offset)
        offset += len(block)
    if part.end == part.size:
        yield Piece("", True, part.path, part.begin)


def _cut_blocks(part: Part) -> Iterator[bytes]:
    with open_bytes(part.path) as file:
        left = 1 << 62 if part.is_packed else part.end - part.begin
        file.seek(part.begin)
        rest = b""
        while read := file.read(min(BLOCK, left)):
            left -= len(read)
            block = rest + read
            cut = block.rfind(b"\n") + 1 or max(block.rfind(b" "), 0)
            if not cut and len(block) >= BLOCK:  # of one word that is as long
                cut = _character(block, len(block) - 4)
            if cut:
                yield block[:cut]
            rest = block[cut:]
        if rest:
            yield rest


def _character(block: bytes, start: int) -> int:
    """Returns where the first character begins from some place on."""
    place = max(start, 0)
    while place < len(block) and block[place] & 0xC0 == 0x80:
        place += 1
    return place


def _lines(part: Part) -> Iterator[tuple[bytes, int]]:
    """Yields the lines that begin in a range, and where."""
    with open_bytes(part.path) as file:
        offset, end = part.begin, 1 << 62 if part.is_packed else part.end
        file.seek(offset)
        for line in file:
            yield line, offset
            offset += len(line)
            if offset >= end:
                return


def _read_lines(part: Part) -> Iterator[Piece]:
    for line, offset in _lines(part):
        text = _decoded(line, part.path, offset).removesuffix("\n").removesuffix("\r")
        yield Piece(text.removeprefix("\ufeff") if offset == 0 else text, True, part.path, offset, True)


def _read_json(part: Part) -> Iterator[Piece]:
    for line, offset in _lines(part):
        record = None
        text = _decoded(line, part.path, offset)
        if not text.strip():
            continue
        try:
            record = parse_json(text.removeprefix("\ufeff"), place="")
        except ValueError:
            parse_json(text, place=place_of("jsonl", part.path, offset))  # which says where
        yield Piece(_text_of(record, lambda at=offset: place_of("jsonl", part.path, at)), True, part.path, offset)


def _read_parquet(part: Part) -> Iterator[Piece]:
    file = open_parquet(part.path)
    number = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if number + rows <= part.begin or number >= part.end:
            number += rows
            continue
        for batch in file.iter_batches(_RECORDS, row_groups=[group], columns=["text"]):
            for text in batch.column(0).to_pylist():
                if part.begin <= number < part.end:
                    yield _record(text, "parquet", part.path, number)
                number += 1


def _read_hub(part: Part) -> Iterator[Piece]:
    number = part.begin
    records = hub_texts(part.path).select(range(part.begin, part.end))
    for batch in records.iter(batch_size=_RECORDS):
        for text in batch["text"]:
            yield _record(text, "hub", part.path, number)
            number += 1


def stream_pieces(rows: Any, location: str, *, first: int = 0) -> Iterator[Piece]:
    """Yields the documents of a hub dataset whose rows come one by one, numbered from `first` on."""
    for number, row in enumerate(rows, start=first):
        found = _text_of(row, lambda at=number: place_of("hub", location, at))
        yield Piece(found, True, location, number)


def _record(text: Any, form: Form, path: str, number: int) -> Piece:
    found = _text_of({"text": text}, lambda: place_of(form, path, number))
    return Piece(found, True, path, number)


def open_parquet(path: str) -> Any:
    """Opens a Parquet file whose column `text` holds documents.

    Raises:
        ValueError: it is none, or has no such column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} must be a Parquet file: {first_line(error)}.") from error
    _check_column(file.schema_arrow.names, path)
    return file


def hub_texts(location: str) -> Any:
    """Returns the column `text` of a hub dataset.

    Raises:
        FileNotFoundError: there is no such dataset or folder.
        ValueError: it cannot be read, or has no such column.
    """
    records = _hub(location)
    _check_column(records.column_names, location)
    return records.select_columns(["text"])


@lru_cache(maxsize=4)
def _hub(location: str) -> Any:
    return read_hub(location)


def _check_column(names: list[str], place: str) -> None:
    if "text" not in names:
        raise ValueError(f"{place} must have a column 'text', got {', '.join(map(repr, names))}.")


def _text_of(record: Any, place: Callable[[], str]) -> str:
    """Takes the document out of a record; one that is null counts as empty."""
    if not isinstance(record, dict) or "text" not in record:
        got = f"{', '.join(map(repr, record)) or 'an empty record'}" if isinstance(record, dict) else f"{record!r:.60}"
        raise ValueError(f"{place()} must be a record with 'text', got {got}.")
    text = record["text"]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{place()} must have text in 'text', got {text!r:.60}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        check_unicode(text, place=place())
    return text


def _decoded(block: bytes, path: str, offset: int) -> str:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        number, byte = _line_of(path, offset + error.start)
        raise ValueError(
            f"{path}:{number} must be UTF-8, got byte 0x{block[error.start]:02x} at byte {byte} of the line. "
            "Convert the file with iconv."
        ) from error


def _line_of(path: str, offset: int) -> tuple[int, int]:
    """Returns the line that a byte is on, and the number of the byte in it, from 1."""
    number, begin, done = 1, 0, 0
    with open_bytes(path) as file:
        while done < offset and (block := file.read(min(1 << 20, offset - done))):
            if (found := block.rfind(b"\n")) >= 0:
                number, begin = number + block.count(b"\n"), done + found + 1
            done += len(block)
    return number, offset - begin + 1


_READERS: dict[str, Callable[[Part], Iterator[Piece]]] = {
    "text": _read_text,
    "lines": _read_lines,
    "jsonl": _read_json,
    "parquet": _read_parquet,
    "hub": _read_hub,
}
