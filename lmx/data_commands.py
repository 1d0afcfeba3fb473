"""What a run learns from, looked at without training: rows of its batches in words, and how fast they are made.

The batches are made anew from the run's config, its tokenizers and its text, and are those that the training gets. Text
that was encoded before is not read again.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmx.config import BatchConfig, RowsConfig
from lmx.data.cache import open_cache
from lmx.data.encoded import keep_pairs
from lmx.data.objectives.rows import IGNORED
from lmx.data.pair_sets import PairSetsConfig
from lmx.data.text_sets import TextSetsConfig
from lmx.data.windows import Windows, facts
from lmx.errors import InputError
from lmx.objective import ObjectiveConfig
from lmx.report.files import is_number, read_json_lines
from lmx.saved import find_tokenizers, read_field, read_fields, read_record, tokenizer_of
from lmx.text import Tokenizer, load_tokenizer

# Of a batch's arrays: what is said of one, its name, the array that numbers its segments, and whether it is predicted.
_SIDES = (
    ("reads", "tokens", "segments", False),
    ("reads", "source", "source_segments", False),
    ("decoder reads", "decoder_input", "target_segments", False),
    ("predicts", "labels", "segments", True),
    ("predicts", "target", "target_segments", True),
)


class RunData(NamedTuple):
    """What a run learns from.

    Attributes:
        batches: see `lmx.loop.Batches`.
        tokenizers: of each side of a batch, by the name of its array.
        seeds: of the batches.
        about: lines about text and rows.
    """

    batches: Any
    tokenizers: Callable[[str], Tokenizer]
    seeds: tuple[int, ...]
    about: list[str]


def open_data(run: Path, *, report: Callable[[str], None] = print) -> RunData:
    """Returns the training batches of a run.

    Raises:
        FileNotFoundError: there is no run, or its text is not where it was.
        ValueError: the run learns from no text in rows, or its config is damaged.
    """
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} must be a run directory: it has no config.json.")
    saved = read_record(path)
    experiment = saved.get("experiment")
    if saved.get("family") == "folds":
        raise InputError(f"{run} must be one run, got that of all folds. Say {run / 'fold-1'}.")
    makers = {"pretraining": _language_model, "translation": _translation}
    if not isinstance(experiment, str) or experiment not in makers:
        raise InputError(f"{run} must be a run of {' or '.join(makers)}, got experiment={experiment}.")
    config = read_field(saved, "config", kind=dict, path=path)
    first, number = (read_field(saved, "config", name, kind=int, path=path) for name in ("seed", "seeds"))
    if number < 1:
        raise InputError(f"{path} must have at least 1 in config.seeds, got {number}.")
    cache = open_cache(read_field(saved, "config", "text_cache", kind=str, path=path), report=report)

    def record(kind: type[Any], **changes: Any) -> Any:
        names = {each.name for each in dataclasses.fields(kind)}
        return read_fields(
            kind, {name: config[name] for name in names if name in config} | changes, path=path, field="config"
        )

    return makers[experiment](run, saved, record, tuple(range(first, first + number)), cache)


def _language_model(run: Path, saved: Mapping[str, Any], record: Any, seeds: tuple[int, ...], cache: Any) -> RunData:
    tokenizer = tokenizer_of(run)
    if tokenizer is None:
        raise FileNotFoundError(f"{run} must hold a tokenizer: its training has not begun.")
    texts = record(TextSetsConfig).load(lambda train: tokenizer, cache=cache)
    batch = record(RowsConfig)
    objective = record(ObjectiveConfig).of(tokenizer, context=batch.context)
    windows = Windows(
        texts.train,
        rows=batch.rows,
        accumulation=batch.accumulation,
        packing=batch.packing,
        seeds=seeds,
        **objective.rows,
    )
    about = [texts.train.described(), *(f"{name} {said}" for name, said in facts(windows).items())]
    return RunData(windows, lambda side: tokenizer, seeds, about)


def _translation(run: Path, saved: Mapping[str, Any], record: Any, seeds: tuple[int, ...], cache: Any) -> RunData:
    found = {name: load_tokenizer(file) for name, file in find_tokenizers(run).items()}
    source, target = found.get("source", found.get("tokenizer")), found.get("target", found.get("tokenizer"))
    if source is None or target is None:
        raise FileNotFoundError(f"{run} must hold tokenizers: its training has not begun.")
    path = run / "config.json"
    kinds = {"train": str, "source_language": str, "target_language": str, "max_length": int, "max_ratio": float | None}
    config = {name: read_field(saved, "config", name, kind=kind, path=path) for name, kind in kinds.items()}
    sizes = read_field(saved, "sizes", kind=dict | None, path=path) or {}
    fold = read_field(saved, "fold", kind=int | None, path=path)
    sets = record(PairSetsConfig, test=None)
    if fold is not None and not 1 <= fold <= (sets.folds or 0):
        raise ValueError(f"{path} must have a fold from 1 to config.folds={sets.folds}, got fold={fold}.")
    pairs = sets.learned(fold=fold)
    ratio = None if config["max_ratio"] is None else float(config["max_ratio"])
    limits = {"max_length": config["max_length"], "max_ratio": ratio}
    encoded, report = keep_pairs(pairs, source, target, **limits, cache=cache)
    batches = record(BatchConfig, **sizes).batches(encoded, seeds=seeds)
    about = [f"{encoded.origin}: {report}", f"{batches.padding_share:.1%} of all places are padding"]
    return RunData(batches, lambda side: source if side == "source" else target, seeds, about)


def show(run: Path, *, batch: int = 0, rows: int = 4) -> Iterator[str]:
    """Yields lines about some rows of a training batch: text, segments, labels, and what counts.

    Args:
        batch: its number, from 0; that of the step before which it is read.
        rows: of them, the first of the first micro-batch; of several seeds, those of the first.

    Raises:
        InputError: there is no such batch; see `open_data` too.
    """
    if batch < 0 or rows < 1:
        raise InputError(f"batch must be at least 0 and rows at least 1, got batch={batch} and rows={rows}.")
    data = open_data(run)
    made = data.batches.batch(batch)
    if len(data.seeds) > 1:
        made = {name: array[0] for name, array in made.items()}
    (shape,) = {array.shape[:2] for array in made.values()}
    yield from data.about
    length = max(array.shape[-1] for array in made.values())
    yield (
        f"batch {batch:,}, {data.batches.epochs_before(batch):.2f} epochs in: {shape[0]} x {shape[1]} rows of "
        f"{length} tokens, {data.batches.tokens(batch):,} of them are no padding"
    )
    for row in range(min(rows, shape[1])):
        arrays = {name: array[0, row] for name, array in made.items()}
        yield f"row {row + 1} of {shape[1]}"
        yield from (f"  {line}" for line in show_row(arrays, data.tokenizers))


def show_row(arrays: Mapping[str, np.ndarray], tokenizers: Callable[[str], Tokenizer]) -> Iterator[str]:
    """Yields lines about the segments of one row: what is read, and below it what is predicted, `.` where nothing is.

    Args:
        arrays: of a batch, each of one row.
    """
    sides = [side for side in _SIDES if side[1] in arrays]
    numbered = {name: _segments(arrays, name, of, tokenizers(name).pad_id) for _, name, of, _ in sides}
    last = max((int(segments.max(initial=0)) for segments in numbered.values()), default=0)
    for segment in range(1, last + 1):
        counts = []
        lines = []
        for said, name, _, predicted in sides:
            here = numbered[name] == segment
            ids, tokenizer = arrays[name][here], tokenizers(name)
            if predicted:
                ignored = IGNORED if name == "labels" else tokenizer.pad_id
                counts.append(f"{np.count_nonzero(ids != ignored):,} count")
                ids = np.where(ids == ignored, -1, ids)
            else:
                counts.append(
                    f"{np.count_nonzero(here):,} tokens" if not counts else f"{np.count_nonzero(here):,} more"
                )
            lines.append(f"  {said:<14} {' '.join(pieces_of(tokenizer, ids.tolist()))}")
        yield f"segment {segment}: {', '.join(counts)}"
        yield from lines


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Returns a readable piece for each id: `.` for -1, and `<+0>`, `<+1>` and so on for ids behind the vocabulary."""
    size = tokenizer.vocab_size
    pieces = iter(tokenizer.pieces([index for index in ids if 0 <= index < size]))
    found = ["." if index < 0 else next(pieces) if index < size else f"<+{index - size}>" for index in ids]
    # What a terminal would not show on one line.
    return [piece if piece.isprintable() and piece else json.dumps(piece, ensure_ascii=True)[1:-1] for piece in found]


def measure_speed(run: Path, *, seconds: float = 5.0) -> Iterator[str]:
    """Yields lines about how many tokens a second the batches of a run have when nothing trains on them.

    Raises:
        InputError: there is no time; see `open_data` too.
    """
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds must be over 0 and finite, got seconds={seconds:g}.")
    began = time.perf_counter()
    data = open_data(run)
    data.batches.batch(0)
    yield from data.about
    yield f"first batch after {time.perf_counter() - began:.1f} s"
    began, number, tokens = time.perf_counter(), 0, 0
    while not number or time.perf_counter() - began < seconds:
        number += 1
        data.batches.batch(number)
        tokens += data.batches.tokens(number)
    alone = tokens / (time.perf_counter() - began)
    line = f"{alone:,.0f} tokens/s alone, in {number:,} batches"
    used = _used(run / "metrics.jsonl")
    yield line if used is None else f"{line}; training used {used:,.0f}, {used / alone:.2%} of that"


def _used(path: Path) -> float | None:
    """Returns the tokens a second that a run's training took, by the last line of its metrics; None if none says it."""
    found = None
    try:
        records = read_json_lines(path, "kind")
    except ValueError:  # it is only told beside what was measured
        return None
    for record in records:
        speed = record.get("tokens_per_second")
        found = speed if record["kind"] == "train" and is_number(speed) and speed > 0 else found
    return found


def _segments(arrays: Mapping[str, np.ndarray], name: str, of: str, pad_id: int) -> np.ndarray:
    """Returns the segments of a side; where a row holds one text, what is no padding."""
    if of in arrays:
        return arrays[of]
    return (arrays[name] != pad_id).astype(np.int32)
