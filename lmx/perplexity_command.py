"""The command that says how well a decoder predicts a text: `lmx perplexity`."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lmx.console import duration, progress_bar
from lmx.process import keep_freed_memory
from lmx.streams import check_output


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Says how well a finished run of a decoder predicts a text: perplexity, bits per byte, nats a token."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    text: Annotated[str, tyro.conf.Positional]
    """A file, a folder, a .jsonl or .parquet with `text`, or another place that pretraining takes, as
    `lines:FILE` with a document a line or `hub:ID:SPLIT`."""
    context: int | None = None
    """Tokens of a row. Default: as in the run's training, or else the model's longest, at most 2,048."""
    stride: int | None = None
    """Tokens between the beginnings of two rows, which then overlap. Each token counts once, in the first row that
    holds it, so that at least context - stride tokens stand before it. Default: as in the run, or rows side by side; so
    too where --context is given."""
    batch_tokens: int = 8192
    """Tokens to read at once."""
    text_cache: str = "user"
    """Folder for the encoded text: user, off, or a path."""
    json: bool = False
    """Write one line of JSON; a perplexity beyond all numbers is null."""


def perplexity(options: Perplexity) -> None:
    """Runs `lmx perplexity`."""
    keep_freed_memory()
    check_output()
    from lmx.data.cache import open_cache
    from lmx.evaluation.language import DIGITS, NAMES, UNITS
    from lmx.evaluation.text import predict_text

    began = time.perf_counter()
    cache = open_cache(options.text_cache, report=lambda line: print(line, file=sys.stderr), progress=progress_bar)
    with progress_bar("reading tokens", total=None) as show:
        found = predict_text(
            options.run,
            options.text,
            context=options.context,
            stride=options.stride,
            batch_tokens=options.batch_tokens,
            cache=cache,
            progress=show,
        )
    scores, extent = found.scores._asdict(), found.extent
    if options.json:
        scores = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        rows = {"context": found.context, "stride": found.stride, "first_id": found.first}
        print(json.dumps({"text": found.origin, **scores, **extent._asdict(), "unknown": found.unknown, **rows}))
    else:
        print(f"{found.origin}: {extent.tokens:,} tokens, {extent.words:,} words, {extent.bytes:,} bytes")
        for name in ("perplexity", "word_perplexity", "bits_per_byte", "loss"):
            print(f"{NAMES[name]:<20} {scores[name]:.{DIGITS}f}  {UNITS[name]}")
        before = "" if found.first is None else f", each read after the id {found.first}"
        apart = "hold whole documents" if found.stride is None else f"begin {found.stride:,} apart"
        print(f"rows of {found.context:,} tokens that {apart}{before}")
    if found.unknown:
        print(
            f"warning: {found.unknown:,} tokens ({found.unknown / extent.tokens:.1%}) stand for what the vocabulary "
            "does not have, and count as one word: compare with models of this vocabulary alone",
            file=sys.stderr,
        )
    print(f"{extent.tokens:,} tokens in {duration(time.perf_counter() - began)}", file=sys.stderr)
