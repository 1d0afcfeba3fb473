"""Reads texts with labels from CSV, TSV, JSON lines, plain lines or the hub.

What a record is in each form is `lmx.data.tables`'s matter; here texts and labels are taken out of records.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmx.data.files import check_name_unpacked, check_unicode
from lmx.data.labelled import Examples, Label, Text
from lmx.data.tables import (
    FIELD_LIMIT,
    Record,
    hub_records,
    json_records,
    place_of,
    quoted_names,
    sides_of_record,
    table_records,
    text_records,
)

Form = Literal["csv", "tsv", "jsonl", "text"]
_FORM_OF: dict[str, Form] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".txt": "text"}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where the texts and the labels of a file are, and how its form is read.

    Attributes:
        text_columns: the column of texts, or the two of pairs; `title+description` joins columns. None takes `text`,
            or the only one beside the label.
        joiner: text between joined columns.
        label_column: the column of labels; None reads texts alone, whether or not there are labels.
        label_separator: text between the labels of one text in a table; None if each text has one. In records, several
            labels are a list.
        columns: names of a table's columns, for tables whose first row is data.
        form: form of a file whose ending does not tell it; text has a label, a space and a text on each line.
        delimiter: text between the fields of a table; None for that of its form.
        quoting: whether quotes enclose fields of a table; None for that of its form.
        encoding: encoding of files; the hub is UTF-8.
        field_limit: most characters of a table's field; None for 16,777,216.
    """

    text_columns: str | Sequence[str] | None = None
    joiner: str = " "
    label_column: str | None = "label"
    label_separator: str | None = None
    columns: Sequence[str] | None = None
    form: Form | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf-8"
    field_limit: int | None = None


USUAL = Fields()


def read_labelled(location: str | Path, fields: Fields = USUAL) -> Examples:
    """Reads all texts with labels from `location`, in order.

    - `train.csv`: fields separated by commas; quotes enclose fields with commas, quotes (written twice) or line ends.
    - `train.tsv`: fields separated by tabs, without quoting: a quote is a character like any other.
    - `train.jsonl`: one record a line.
    - `train.txt`: each line is a label, a space and a text; the text alone without a column of labels.
    - `hub:ID:SPLIT`, `hub:ID:CONFIGURATION:SPLIT`: a hub dataset, or a local folder that `datasets` reads. Numbers
      become the names that the dataset gives them.

    Files may be gzip. The first row of a table names its columns. Blank lines of tables and records are skipped; a
    text without words is kept, so that predictions keep their order.

    Args:
        location: See above.
        fields: Where texts and labels are; without a column of labels, texts alone are read.

    Raises:
        FileNotFoundError: a file or dataset is not there.
        ValueError: the data is not what the list says; names the file and the line.
    """
    texts: list[Text] = []
    labels: list[Label] = []
    lines: list[int] = []
    for number, text, label in iterate_labelled(location, fields):
        texts.append(text)
        lines.append(number)
        if label is not None:
            labels.append(label)
    return Examples(
        texts=texts,
        labels=None if fields.label_column is None else labels,
        origin=str(location),
        lines=np.array(lines, dtype=np.int64),
    )


def iterate_labelled(location: str | Path, fields: Fields = USUAL) -> Iterator[tuple[int, Text, Label | None]]:
    """Yields the line, text and label of each example, as `read_labelled` reads them."""
    location = str(location)
    text_columns, label_column = fields.text_columns, fields.label_column
    if isinstance(text_columns, str):
        text_columns = (text_columns,)
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise ValueError(f"text_columns must be one column or two, got text_columns={tuple(text_columns)}.")
    if fields.label_separator == "":
        raise ValueError("label_separator must be a text, or None where each text has one label, got an empty one.")
    is_hub = location.startswith("hub:")
    form = None if is_hub else fields.form or _FORM_OF.get(Path(location.removesuffix(".gz")).suffix)
    for name in ("columns", "delimiter", "quoting", "field_limit"):
        if (value := getattr(fields, name)) is not None and (is_hub or form in ("jsonl", "text")):
            raise ValueError(f"{name} must be given for tables alone, got {name}={value!r} for {location}.")
    names: Sequence[str] | None = None
    if is_hub:
        records, names = hub_records(location, text_columns=text_columns, label_column=label_column)
    elif form in ("csv", "tsv"):
        records = table_records(
            location,
            columns=fields.columns,
            known={*(text_columns or ()), *([] if label_column is None else [label_column])},
            delimiter=("," if form == "csv" else "\t") if fields.delimiter is None else fields.delimiter,
            quoting=form == "csv" if fields.quoting is None else fields.quoting,
            encoding=fields.encoding,
            field_limit=FIELD_LIMIT if fields.field_limit is None else fields.field_limit,
        )
    elif form == "jsonl":
        records = json_records(location, encoding=fields.encoding)
    elif form == "text":
        records = text_records(location, label_column=label_column, encoding=fields.encoding)
    else:
        check_name_unpacked(location)
        raise ValueError(
            "location must be a .csv, .tsv, .jsonl or .txt file, plain or .gz, or hub:ID:SPLIT, got "
            f"location={location}. Say what it is: --form csv, tsv, jsonl or text."
        )
    sides = dataclasses.replace(fields, text_columns=text_columns)
    yield from _examples(records, sides, origin=location, class_names=names)


def _examples(
    records: Iterable[Record], fields: Fields, *, origin: str, class_names: Sequence[str] | None
) -> Iterator[tuple[int, Text, Label | None]]:
    sides: tuple[tuple[str, ...], ...] = ()
    before: Label | None = None
    is_hub = origin.startswith("hub:")
    way_out = "" if is_hub else " Where a table's first row is data, name its columns with columns (--columns)."
    for number, record in records:
        place = place_of(origin, number)
        if not sides:
            sides = sides_of_record(
                list(record),
                text_columns=fields.text_columns,
                label_column=fields.label_column,
                place=origin,
                way_out=way_out,
            )
        parts = [fields.joiner.join(_text_of(record, name, place=place) for name in side) for side in sides]
        label = None
        if fields.label_column is not None:
            separator = fields.label_separator
            label = _label_of(record, fields.label_column, separator=separator, class_names=class_names, place=place)
            before = label if before is None else before
            if isinstance(label, tuple) != isinstance(before, tuple):
                raise ValueError(f"{place} must have labels of the kind before it, {before!r}, got {label!r}.")
        yield number, parts[0] if len(parts) == 1 else (parts[0], parts[1]), label
    if not sides:
        raise ValueError(f"{origin} must hold at least one text, got nothing.")


def _text_of(record: dict[str, Any], name: str, *, place: str) -> str:
    """Takes a text out of a record; null counts as empty."""
    if name not in record:
        raise ValueError(f"{place} must have a field {name!r}, got {quoted_names(record)}.")
    text = record[name]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{place} must have text in {name!r}, got {text!r:.60}.")
    return check_unicode(text, place=f"{place} in {name!r}")


def _label_of(
    record: dict[str, Any], name: str, *, separator: str | None, class_names: Sequence[str] | None, place: str
) -> Label:
    if name not in record:
        raise ValueError(f"{place} must have a field {name!r}, got {quoted_names(record)}.")
    value = record[name]
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(_label_name(one, class_names=class_names, place=place) for one in value))
    if separator is not None and isinstance(value, str):
        parts = (part.strip() for part in check_unicode(value, place=f"{place}, in a label,").split(separator))
        return tuple(dict.fromkeys(part for part in parts if part))
    return _label_name(value, class_names=class_names, place=place)


def _label_name(value: Any, *, class_names: Sequence[str] | None, place: str) -> str:
    """Returns a label as text: a number in the spelling of JSON, or the name that the dataset gives it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and class_names is not None and 0 <= value < len(class_names):
        value = class_names[value]
    hidden = class_names is not None and value == -1  # What the hub writes where the labels of a test set are secret.
    if value is None or hidden or (isinstance(value, float) and value != value) or value == "":
        raise ValueError(f"{place} must have a label, got {value!r}. Texts without labels are for --predict.")
    if isinstance(value, int | float):  # a bool was told above
        return repr(value)
    if not isinstance(value, str):
        raise ValueError(f"{place} must have a label that is a name, a number or a list of them, got {value!r:.60}.")
    if not value.strip():
        raise ValueError(f"{place} must have a label, got white space. Texts without labels are for --predict.")
    return check_unicode(value, place=f"{place}, in a label,").strip()
