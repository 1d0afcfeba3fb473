"""Texts with labels: reads them from CSV, TSV, JSON lines, plain lines or the hub.

Here a text is one string or a pair of strings, and a label is the label of the data as text. `lmx.data.labels` collects
labels and turns them into numbers, `lmx.data.tables` turns files into records, and `lmx.data.texts` turns texts into
ids, with truncation and windows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64

from lmx.data.files import check_name_unpacked, check_unicode
from lmx.data.ragged import Strings
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
from lmx.errors import InputError

Text = str | tuple[str, str]
Label = str | tuple[str, ...]
Form = Literal["csv", "tsv", "jsonl", "text"]
_FORM_OF: dict[str, Form] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".txt": "text"}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Texts and their labels, in the order of their file; no row is missing.

    Attributes:
        texts: One string each, or each a pair.
        labels: As they stand in the data, a number in its own spelling; a tuple where a text may have several; None
            for texts to predict.
        origin: Where they were read, for messages and reports.
        lines: Line of the file that each begins on, from 1 (of a hub dataset: its row, from 1).
        digest: Hash of the texts and the labels, where they were kept (`lmx.data.encoded`).
        hashes: Of each text, with `blank`, whether a side has only white space; kept with them too.
    """

    unit: ClassVar[str] = "text"

    texts: Sequence[Text]
    labels: Sequence[Label] | None
    origin: str
    lines: Int64[np.ndarray, " texts"]
    digest: str | None = None
    hashes: UInt64[np.ndarray, " texts"] | None = None
    blank: Bool[np.ndarray, " texts"] | None = None

    def __post_init__(self) -> None:
        """Checks that every text has its label and its line."""
        for name, values in (("labels", self.labels), ("lines", self.lines)):
            if values is not None and len(values) != len(self.texts):
                raise ValueError(
                    f"texts and {name} must be as many, got {len(self.texts):,} texts and {len(values):,} {name}."
                )

    def __len__(self) -> int:
        """Returns the number of texts."""
        return len(self.texts)

    @property
    def are_pairs(self) -> bool:
        """Whether the texts are pairs."""
        return bool(self.texts) and isinstance(self.texts[0], tuple)

    @property
    def empty(self) -> int:
        """Number of texts with nothing except white space on some side; they stay, and count in every score."""
        return int(self.blank.sum()) if self.blank is not None else sum(map(is_blank, self.texts))

    def place(self, index: int) -> str:
        """Returns where a text stands, for messages."""
        return place_of(self.origin, int(self.lines[index]))

    def shown(self, index: int) -> dict[str, Any]:
        """Returns what a list of mistakes shows of a text."""
        return {"text": self.texts[index]}

    def joined(self, others: "Sequence[Examples]") -> "Examples":
        """Returns these texts and others behind them, without labels."""
        sets = [self, *others]
        return Examples(
            texts=[text for each in sets for text in each.texts],
            labels=None,
            origin=self.origin,
            lines=np.concatenate([each.lines for each in sets]),
        )

    def select(self, indices: Int[np.ndarray, " chosen"] | Sequence[int]) -> "Examples":
        """Returns the texts at some positions, with their labels and lines."""
        chosen = np.asarray(indices, dtype=np.int64)
        part = hashlib.blake2b(chosen.tobytes(), digest_size=8).hexdigest()
        return replace(
            self,
            texts=_select(self.texts, chosen),
            labels=None if self.labels is None else _select(self.labels, chosen),
            lines=self.lines[chosen],
            digest=None if self.digest is None else f"{self.digest} {part}",
            hashes=None if self.hashes is None else self.hashes[chosen],
            blank=None if self.blank is None else self.blank[chosen],
        )


def read_labelled(
    location: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    joiner: str = " ",
    label_column: str | None = "label",
    label_separator: str | None = None,
    columns: Sequence[str] | None = None,
    form: Form | None = None,
    delimiter: str | None = None,
    quoting: bool | None = None,
    encoding: str = "utf-8",
    field_limit: int = FIELD_LIMIT,
) -> Examples:
    """Reads all texts with labels from `location`, in order.

    - `train.csv`: fields separated by commas; quotes enclose fields with commas, quotes (written twice) or line ends.
    - `train.tsv`: fields separated by tabs, without quoting: a quote is a character like any other.
    - `train.jsonl`: one record a line.
    - `train.txt`: each line is a label, a space and a text; the text alone if `label_column` is None.
    - `hub:ID:SPLIT`, `hub:ID:CONFIGURATION:SPLIT`: a hub dataset, or a local folder that `datasets` reads. Numbers
      become the names that the dataset gives them.

    Files may be gzip. The first row of a table names its columns. Blank lines of tables and records are skipped; a
    text without words is kept, so that predictions keep their order.

    Args:
        location: See above.
        text_columns: One column of texts or two of pairs; None for `text`, or the only column beside the label.
            `title+description` joins columns.
        joiner: Text between joined columns.
        label_column: None reads texts alone, whether or not there are labels.
        label_separator: Text between the labels of one text in a table; None if each text has one. In records, several
            labels are a list.
        columns: Names of a table's columns, for tables whose first row is data.
        form: How to read a file whose ending does not tell it.
        delimiter: Of a table's fields; None for that of its form.
        quoting: Whether quotes enclose fields of a table; None for that of its form.
        encoding: Of files; the hub is UTF-8.
        field_limit: Most characters of a table's field.

    Raises:
        FileNotFoundError: a file or dataset is not there.
        ValueError: the data is not what the list says; names the file and the line.
    """
    texts: list[Text] = []
    labels: list[Label] = []
    lines: list[int] = []
    for number, text, label in iterate_labelled(
        location,
        text_columns=text_columns,
        joiner=joiner,
        label_column=label_column,
        label_separator=label_separator,
        columns=columns,
        form=form,
        delimiter=delimiter,
        quoting=quoting,
        encoding=encoding,
        field_limit=field_limit,
    ):
        texts.append(text)
        lines.append(number)
        if label is not None:
            labels.append(label)
    return Examples(
        texts=texts,
        labels=None if label_column is None else labels,
        origin=str(location),
        lines=np.array(lines, dtype=np.int64),
    )


def iterate_labelled(
    location: str | Path,
    *,
    text_columns: Sequence[str] | None = None,
    joiner: str = " ",
    label_column: str | None = "label",
    label_separator: str | None = None,
    columns: Sequence[str] | None = None,
    form: Form | None = None,
    delimiter: str | None = None,
    quoting: bool | None = None,
    encoding: str = "utf-8",
    field_limit: int = FIELD_LIMIT,
) -> Iterator[tuple[int, Text, Label | None]]:
    """Yields the line, text and label of each example, as `read_labelled` reads them."""
    location = str(location)
    if isinstance(text_columns, str):
        text_columns = (text_columns,)
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise ValueError(f"text_columns must be one column or two, got text_columns={tuple(text_columns)}.")
    is_hub = location.startswith("hub:")
    form = None if is_hub else form or _FORM_OF.get(Path(location.removesuffix(".gz")).suffix)
    for name, value in (("columns", columns), ("delimiter", delimiter), ("quoting", quoting)):
        if value is not None and (is_hub or form in ("jsonl", "text")):
            raise ValueError(f"{name} must be given for tables alone, got {name}={value!r} for {location}.")
    names: Sequence[str] | None = None
    if is_hub:
        records, names = hub_records(location, text_columns=text_columns, label_column=label_column)
    elif form in ("csv", "tsv"):
        records = table_records(
            location,
            columns=columns,
            known={*(text_columns or ()), *([] if label_column is None else [label_column])},
            delimiter=delimiter or ("," if form == "csv" else "\t"),
            quoting=form == "csv" if quoting is None else quoting,
            encoding=encoding,
            field_limit=field_limit,
        )
    elif form == "jsonl":
        records = json_records(location, encoding=encoding)
    elif form == "text":
        records = text_records(location, label_column=label_column, encoding=encoding)
    else:
        check_name_unpacked(location)
        raise ValueError(
            "location must be a .csv, .tsv, .jsonl or .txt file, plain or .gz, or hub:ID:SPLIT, got "
            f"location={location}. Say what it is: --form csv, tsv, jsonl or text."
        )
    yield from _examples(
        records,
        origin=location,
        text_columns=text_columns,
        joiner=joiner,
        label_column=label_column,
        label_separator=label_separator,
        class_names=names,
    )


def count_shared(examples: Examples, others: Examples) -> int:
    """Returns how many of the second texts are among the first, letter for letter, and so test nothing."""
    found = [
        each.hashes if each.hashes is not None else np.array(list(map(hash_text, each.texts)), dtype=np.uint64)
        for each in (examples, others)
    ]
    return int(np.isin(found[1], found[0]).sum())


def check_alike(learned: Examples, *others: Examples | None) -> None:
    """Checks that all sets have pairs, or all single texts.

    Raises:
        InputError: they do not.
    """
    for split in others:
        if split is not None and split.are_pairs != learned.are_pairs:
            kinds = [f"{'pairs' if each.are_pairs else 'single texts'} in {each.origin}" for each in (learned, split)]
            raise InputError(f"all sets must hold pairs or all single texts, got {kinds[0]} and {kinds[1]}.")


def hash_text(text: Text) -> int:
    """Returns a hash of a text in 64 bits."""
    data = "\0".join(sides_of(text)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_blank(text: Text) -> bool:
    """Returns whether a text has nothing except white space on some side."""
    return not all(side.strip() for side in sides_of(text))


def _select(values: Sequence[Any], indices: Int64[np.ndarray, " chosen"]) -> Sequence[Any]:
    return values.select(indices) if isinstance(values, Strings) else [values[index] for index in indices.tolist()]


def _examples(
    records: Iterable[Record],
    *,
    origin: str,
    text_columns: Sequence[str] | None,
    joiner: str,
    label_column: str | None,
    label_separator: str | None,
    class_names: Sequence[str] | None,
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
                text_columns=text_columns,
                label_column=label_column,
                place=origin,
                way_out=way_out,
            )
        parts = [joiner.join(_text_of(record, name, place=place) for name in side) for side in sides]
        label = None
        if label_column is not None:
            label = _label_of(record, label_column, separator=label_separator, class_names=class_names, place=place)
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


def sides_of(text: Text) -> tuple[str, ...]:
    """Returns the one string of a text, or the two of a pair."""
    return (text,) if isinstance(text, str) else text
