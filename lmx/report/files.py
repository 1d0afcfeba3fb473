"""Reads the files of a run directory that a report shows.

A file that is not there is empty: a report can be written at any time of a run. One that does not hold what it should
is an error that names it. Files of one task alone are read beside that task's page.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float

from lmx.report.page import Number


def read_json(path: Path, kind: type) -> Any:
    """Returns what a JSON file holds, or an empty value of that kind if there is no such file."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}.") from None
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} must hold a JSON {'object' if kind is dict else 'list'}, got a {type(value).__name__}."
        )
    return value


def read_json_lines(path: Path, *required: str) -> list[dict]:
    """Returns the objects of a JSON lines file; a last line cut off while being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    unfinished = lines.pop()  # after the last newline: empty, unless a run is writing, or was stopped while writing
    records = []
    for line_number, line in enumerate([*lines, unfinished], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if line_number > len(lines):
                break
            raise ValueError(f"{path} line {line_number} must be a JSON object, got {_begin(line)}.") from None
        missing = [key for key in required if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"{path} line {line_number} must have {' and '.join(missing)}, got {_begin(line)}.")
        records.append(record)
    return records


def _begin(line: bytes) -> str:
    return repr(line.decode("utf-8", errors="replace")[:60])


def read_scores(path: Path) -> dict:
    """Returns scores.json; its rows and baselines have names and numbers."""
    scores = read_json(path, dict)
    for group in ("rows", "baselines"):
        for position, row in enumerate(scores.get(group) or []):
            if not isinstance(row, dict) or not row.get("name") or not is_number(row.get("score")):
                raise ValueError(f"{path} {group} {position} must have a name and a score, got {row!r}.")
            interval = row.get("interval")
            if interval and not (isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))):
                raise ValueError(f"{path} {group} {position} must have two numbers as its interval, got {interval!r}.")
    return scores


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Where the rows of a text look in its columns.

    Attributes:
        caption: the text.
        rows: tokens that look.
        columns: tokens looked at.
        weights: of each layer and head; a row sums to 1.
    """

    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    weights: Float[np.ndarray, "N H T S"]


def read_attention(
    path: Path, *, rows: str, columns: str, caption: Callable[[dict, tuple[str, ...]], str]
) -> list[AttentionMap]:
    """Returns the maps of an attention.json, without those of no tokens.

    Args:
        path: of the file.
        rows: the name under which an entry has the tokens that look.
        columns: the name under which it has those looked at; the two may be one.
        caption: of an entry and its columns.
    """
    maps = []
    for position, entry in enumerate(read_json(path, list)):
        try:
            weights = np.nan_to_num(np.asarray(entry["weights"], dtype=np.float64))
            across, down = tuple(map(str, entry[columns])), tuple(map(str, entry[rows]))
        except (KeyError, TypeError, ValueError):
            tokens = f"{columns} and {rows} tokens" if rows != columns else rows
            raise ValueError(
                f"{path} entry {position} must have {tokens} and weights [layers][heads][{rows}][{columns}]."
            ) from None
        if weights.ndim != 4 or weights.shape[2:] != (len(down), len(across)):
            tokens = f"{len(down)} {rows} and {len(across)} {columns} tokens"
            raise ValueError(
                f"{path} entry {position} must have weights [layers, heads, {len(down)}, {len(across)}], as it has "
                f"{tokens if rows != columns else f'{len(down)} {rows}'}, got {list(weights.shape)}."
            )
        if weights.size:
            maps.append(AttentionMap(caption=caption(entry, across), rows=down, columns=across, weights=weights))
    return maps


def is_number(value: Any) -> TypeGuard[Number]:
    """Whether a value out of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def of_kind(metrics: list[dict], kind: str) -> list[dict]:
    """Returns the train or the validation lines of metrics.jsonl."""
    return [record for record in metrics if record["kind"] == kind]


def points_of(records: list[dict], key: str) -> list[tuple[Number, Number]]:
    """Returns (step, value) in order of steps. A run that resumed wrote some steps twice: the later counts."""
    return sorted({record["step"]: record[key] for record in records if is_number(record.get(key))}.items())


def best_of(records: list[dict], key: str, choose: Callable) -> tuple[Number, Number] | None:
    """Returns (step, value) of the lowest or highest value, chosen by `min` or `max`; None if there is none."""
    return choose(points_of(records, key), key=lambda point: point[1], default=None)
