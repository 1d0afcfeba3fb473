"""Reads tables of pixels: a CSV that has an image on each line, with its label in one column.

What the numbers mean, and how they make an image, is the caller's (`lmx.data.image_files`).
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lmx.data.files import carriage_return, first_line, read_lines
from lmx.errors import InputError

LABEL = "label"  # the column of labels, where none is named
FEWEST = 4  # cells in order that are names of columns: of fewer, the first image may be so by chance


class PixelTable(NamedTuple):
    """The images of a table, one a row.

    Attributes:
        labels: as they stand there; empty where none were asked for.
        lines: the line that each image begins on, from 1.
    """

    values: Float64[np.ndarray, "images pixels"]
    labels: list[str]
    lines: list[int]


def read_pixel_table(location: str, *, label_column: str | None, labelled: bool) -> PixelTable:
    """Reads all images of a CSV, in order.

    The first line names the columns if one of its cells behind the first is no number, if the column of labels is among
    them, or if its cells of pixels count from 0 or from 1.

    Args:
        label_column: the column of labels; None takes `label`, or else the first where columns have no names.
        labelled: False takes all columns as pixels.

    Raises:
        FileNotFoundError: the file is not there.
        InputError: a line is not as the first one, or is none of numbers; names it.
    """
    rows = _rows(location)
    _, first = next(rows, (1, []))
    if not first:
        raise InputError(f"{location} must hold at least one image, got nothing.")
    column, name = 0, label_column or LABEL
    has_names = _has_names(first, name=name, labelled=labelled)
    if has_names and labelled:
        if name not in first:
            raise InputError(
                f"{location} must have a column {name!r}, got {', '.join(first[:6])}, ... Say --label-column."
            )
        column = first.index(name)
    lines: list[int] = []
    labels: list[str] = []
    values: list[np.ndarray] = []
    fields = len(first)
    for number, row in rows if has_names else itertools.chain([(1, first)], rows):
        place = f"{location}:{number}"
        if len(row) != fields:
            raise InputError(f"{place} must have {fields} fields as line 1 has, got {len(row)}.")
        if labelled:
            labels.append(image_label(row.pop(column), names=None, place=place))
        try:
            values.append(np.array(row, dtype=np.float64))
        except ValueError as error:
            raise InputError(f"{place} must have numbers as pixels: {first_line(error)}.") from error
        lines.append(number)
    return PixelTable(np.array(values).reshape(len(values), -1 if values else 0), labels, lines)


def image_label(value: Any, *, names: Sequence[str] | None, place: str) -> str:
    """Returns a label as text: a number's name, where the dataset has one.

    Raises:
        InputError: there is none.
    """
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    if value is None or not str(value).strip() or (names is not None and value == -1):
        raise InputError(f"{place} must have a label, got {value!r}. Images without labels are for --predict.")
    return str(value).strip()


def _rows(location: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which each row begins, and its cells."""
    reader = csv.reader(read_lines(location))
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            place = f"{location}:{number}"
            if "new-line character" in str(error):
                raise InputError(carriage_return(place)) from error
            raise InputError(
                f"{place} must be fields with commas between and their quotes closed, got: {first_line(error)}."
            ) from error
        if row is None:
            return
        yield number, row


def _has_names(first: list[str], *, name: str, labelled: bool) -> bool:
    """Returns whether the first line of a table names its columns.

    Args:
        name: of the column of labels. A number may be a pixel as well, and tells nothing.
    """
    if not all(map(_is_number, first[1:])) or (name in first and not _is_number(name)):
        return True
    pixels = [cell.strip() for cell in (first[1:] if labelled else first)]
    counted = [[str(number + begin) for number in range(len(pixels))] for begin in (0, 1)]
    return len(pixels) >= FEWEST and pixels in counted


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
