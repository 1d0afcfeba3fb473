"""Records out of tables, JSON lines, plain lines and hub datasets, one by one, with the line each stands on."""

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from lmx.data.files import carriage_return, parse_json, read_lines
from lmx.data.hub import read_hub

# Characters of one field of a table. Python's own limit, 131,072, is less than a long document; a quote that was left
# open makes the rest of the file one field, which this stops.
JOIN = "+"  # between the names of columns that make one text
FIELD_LIMIT = 1 << 24
MOST_CHARACTERS = (1 << 31) - 1  # that a limit can say on every platform
Record = tuple[int, dict[str, Any]]


def table_records(
    path: str,
    *,
    columns: Sequence[str] | None,
    known: Collection[str],
    delimiter: str,
    quoting: bool,
    encoding: str,
    field_limit: int,
) -> Iterator[Record]:
    """Yields the rows of a table.

    Args:
        known: names of columns that the caller asks for; without any, one that is alone must have the usual name.
    """
    if len(delimiter) != 1 or delimiter in "\r\n" or (quoting and delimiter == '"'):
        raise ValueError(f"delimiter must be one character, and no line end or quote, got delimiter={delimiter!r}.")
    if not 1 <= field_limit <= MOST_CHARACTERS:
        raise ValueError(f"field_limit must be from 1 to {MOST_CHARACTERS:,}, got field_limit={field_limit}.")
    rows = _quoted_rows if quoting else _plain_rows
    names = None if columns is None else list(columns)
    read = {part for name in known for part in (name, *name.split(JOIN))} | {"text"}
    if twice := _twice([name for name in names or () if name in read]):
        raise ValueError(f"columns must name each column once, got {twice!r} twice.")
    first = True
    for number, cells in rows(path, delimiter=delimiter, encoding=encoding, field_limit=field_limit):
        if cells in ([], [""]):
            if names is None or len(names) != 1:
                continue
            cells = [""]
        if first:
            first = False
            stripped = [cell.strip() for cell in cells]
            if names is None:
                # Spreadsheets leave nameless columns at the end.
                if twice := _twice(stripped):
                    raise ValueError(f"{path}:{number} must name each column once, got {twice!r} twice.")
                names = stripped
                if len(names) == 1 and names[0] not in known:
                    _check_column(names[0], known=known, delimiter=delimiter, place=f"{path}:{number}")
            if names == stripped:
                continue
        assert names is not None
        # One column may hold its own name as a text.
        if len(names) > 1 and [cell.removeprefix("\ufeff").strip() for cell in cells] == names:
            raise ValueError(
                f"{path}:{number} must be a row of data, got the header again ({quoted_names(names)}): files that were "
                "joined have one each."
            )
        if len(cells) != len(names):
            if any("\r" in cell for cell in cells):
                raise ValueError(carriage_return(f"{path}:{number}"))
            way_out = "is in quotes" if quoting else "cannot be written without quoting"
            raise ValueError(
                f"{path}:{number} must have {len(names)} fields ({quoted_names(names)}), got {len(cells)}. A field "
                f"that holds {delimiter!r} {way_out}."
            )
        yield number, dict(zip(names, cells, strict=True))


def _twice(names: Sequence[str]) -> str | None:
    """Returns the first name that stands twice; those that are empty are none."""
    return next((name for position, name in enumerate(names) if name and name in names[:position]), None)


def _check_column(name: str, *, known: Collection[str], delimiter: str, place: str) -> None:
    """Raises ValueError if what names the one column of a table is not its name as far as can be seen."""
    others = [sign for sign in ";\t,|" if sign != delimiter and sign in name]
    if others:
        raise ValueError(
            f"{place} must be columns with {delimiter!r} between, got one column named {name!r:.60}. Is the delimiter "
            f"{others[0]!r}? Say --delimiter {others[0]!r}. Where this is a text already, name its column: --columns "
            "text."
        )
    if name != "text" and not known:
        raise ValueError(
            f"{place} must name the one column text, got {name!r:.60}. Where that is its name, say it by "
            "--text-columns; where it is a text already, name its column: --columns text."
        )


def _quoted_rows(path: str, *, delimiter: str, encoding: str, field_limit: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which each row begins, and its fields."""
    lines = (line + "\n" for line in read_lines(path, encoding=encoding, way_out=_OTHER_ENCODING))
    # Not strict, the reader would take an open quote at the end of a file for a field.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 1
    while True:
        # Python's limit is one number for the whole process: it has its own value whenever others may read.
        before = csv.field_size_limit(field_limit)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _quoting_error(error, place=f"{path}:{number}", field_limit=field_limit) from error
        finally:
            csv.field_size_limit(before)
        if cells is None:
            return
        yield number, cells
        number = reader.line_num + 1


def _quoting_error(error: csv.Error, *, place: str, field_limit: int) -> ValueError:
    if "field limit" in str(error):
        return _field_error(place, field_limit=field_limit)
    if "new-line character" in str(error):
        return ValueError(carriage_return(place))
    return ValueError(
        f"{place} must be a row whose quotes are closed and, inside a field, written twice, got: {error}. Say "
        "--quoting False where quotes are characters like any other."
    )


def _plain_rows(path: str, *, delimiter: str, encoding: str, field_limit: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_lines(path, encoding=encoding, way_out=_OTHER_ENCODING), start=1):
        cells = line.split(delimiter)
        if len(line) > field_limit and max(map(len, cells)) > field_limit:
            raise _field_error(f"{path}:{number}", field_limit=field_limit)
        yield number, cells


def _field_error(place: str, *, field_limit: int) -> ValueError:
    return ValueError(
        f"{place} must have fields of at most {field_limit:,} characters, got a longer one. An open quote makes one "
        "field of all that follows; where the text is that long, raise --field-limit."
    )


def json_records(path: str, *, encoding: str) -> Iterator[Record]:
    """Yields the records of JSON lines."""
    for number, line in enumerate(read_lines(path, encoding=encoding, way_out=_OTHER_ENCODING), start=1):
        if line.strip():
            record = parse_json(line, place=f"{path}:{number}")
            if not isinstance(record, dict):
                raise ValueError(f"{path}:{number} must be a record with named fields, got {record!r:.60}.")
            yield number, record


def text_records(path: str, *, label_column: str | None, encoding: str) -> Iterator[Record]:
    """Yields lines as records: a label and a text, or the text alone."""
    for number, line in enumerate(read_lines(path, encoding=encoding, way_out=_OTHER_ENCODING), start=1):
        if label_column is None:
            yield number, {"text": line}
        elif line.strip(" \t"):
            label, _, text = line.strip(" \t").replace("\t", " ").partition(" ")
            yield number, {label_column: label, "text": text}


def hub_records(
    location: str, *, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[Iterator[Record], list[str] | None]:
    """Returns the records and the names of the classes, where the dataset has numbers with names."""
    dataset = read_hub(location)
    sides = sides_of_record(
        dataset.column_names, text_columns=text_columns, label_column=label_column, place=location, way_out=""
    )
    wanted = {column for side in sides for column in side} | ({label_column} if label_column else set())
    # Only the columns in use: a dataset may have pictures or sound beside them.
    dataset = dataset.select_columns([name for name in dataset.column_names if name in wanted])
    feature = dataset.features[label_column] if label_column else None
    names = getattr(getattr(feature, "feature", feature), "names", None)

    def records() -> Iterator[Record]:
        number = 0
        for batch in dataset.iter(batch_size=1000):
            for cells in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, cells, strict=True))

    return records(), names


_OTHER_ENCODING = "Say the encoding of the file, such as --encoding latin-1, or convert it with iconv."


def place_of(origin: str, number: int) -> str:
    """Returns where a text stands, for messages."""
    return f"{origin} row {number}" if origin.startswith("hub:") else f"{origin}:{number}"


def quoted_names(names: Iterable[str]) -> str:
    """Returns names of columns, for messages."""
    return ", ".join(f"{name!r:.40}" for name in names) or "none"


def sides_of_record(
    names: Sequence[str], *, text_columns: Sequence[str] | None, label_column: str | None, place: str, way_out: str
) -> tuple[tuple[str, ...], ...]:
    """Returns the columns of each side of a text: one side, or two of a pair."""
    if label_column is not None and label_column not in names:
        raise ValueError(
            f"{place} must have a column {label_column!r}, got {quoted_names(names)}. Name the one with the labels by "
            f"--label-column; texts without labels are for --predict.{way_out}"
        )
    if text_columns is None:
        others = [name for name in names if name != label_column]
        chosen = ["text"] if "text" in others else others
        if len(chosen) != 1:
            raise ValueError(
                f"{place} must have a column 'text' or a single one beside the label, got {quoted_names(names)}. Name "
                f"one column of texts, or two of pairs, by --text-columns.{way_out}"
            )
        return ((chosen[0],),)
    # A name may hold the sign that joins names.
    sides = tuple((column,) if column in names else tuple(column.split(JOIN)) for column in text_columns)
    for column in (column for side in sides for column in side):
        if column not in names:
            raise ValueError(f"{place} must have a column {column!r}, got {quoted_names(names)}.{way_out}")
    return sides
