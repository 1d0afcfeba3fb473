"""The command that translates with a finished run, or scores given translations: `lmx translate`."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lmx.asked import asked_of
from lmx.console import duration
from lmx.process import keep_freed_memory
from lmx.streams import Share, Written, check_streams, shown_share

if TYPE_CHECKING:  # a command loads jax when it runs
    from lmx.translator import Translation, Translator

# Options that change the run's search.
OF_SEARCH = (
    *("beam_size", "length_penalty", "alpha", "max_ratio", "max_extra", "min_length", "early_stopping", "forced_eos"),
    *("forced_bos", "suppress", "suppress_sequences", "begin_suppress", "renormalised", "no_repeat"),
    *("repetition_penalty", "temperature", "top_k", "top_p", "seed", "batch_tokens"),
)


@dataclass(frozen=True, kw_only=True)
class Translate:
    """Translates lines of a file or of standard input with a finished run; writes one line for each, in order."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    input: Path | None = None
    """File or pipe to translate, plain or gzip. Default, or with -: standard input."""
    output: Path | None = None
    """File to write; without it, standard output."""
    beam_size: int | None = None
    """Hypotheses to keep for each sentence; 1 is greedy. Default: as the run was scored."""
    n_best: int | None = None
    """Write so many translations of each line, best first: the number of the line, a tab, and the translation."""
    length_penalty: str | None = None
    """`power` or `gnmt`. Default: as the run was scored."""
    alpha: float | None = None
    """Strength of the length penalty."""
    max_ratio: float | None = None
    """A translation has at most this number times the tokens of its source, and `max_extra` tokens."""
    max_extra: int | None = None
    """Tokens that a translation may have beside `max_ratio` times those of its source."""
    min_length: int | None = None
    """Fewest tokens of a translation; 0 allows an empty one. Default: as the run was scored."""
    early_stopping: str | None = None
    """When a sentence is done, by Hugging Face's names: `true` (fairseq's rule), `false` or `never`."""
    forced_eos: str | None = None
    """What the end token costs at the longest length: `scored`, `free`; or `none`: it is not forced."""
    prefix: Path | None = None
    """File with the beginning of each translation, a line for each line of the input; an empty one forces nothing."""
    source_language: str | None = None
    """Code of the language to translate from, of a model that has several. Default: as the model was saved."""
    target_language: str | None = None
    """Code of the language to translate into."""
    forced_bos: int | str | None = None
    """Piece or id of the word that each translation begins with, as the language's (NLLB, mBART-50); "" is none."""
    suppress: tuple[int | str, ...] = ()
    """Pieces or ids of words that no translation holds; a number is an id, and "" alone allows all."""
    suppress_sequences: tuple[str, ...] = ()
    """Pieces or ids with spaces between, in quotation marks: words that never follow one another so."""
    begin_suppress: tuple[int | str, ...] = ()
    """Pieces or ids of words that no translation begins with."""
    renormalised: bool | None = None
    """Where a word may not come, give its probability to the others (Hugging Face's `renormalize_logits`)."""
    no_repeat: int | None = None
    """No sequence of this many tokens occurs twice in a translation; 0 allows all."""
    repetition_penalty: float | None = None
    """Make words that a translation has already less likely; 1 has no effect."""
    temperature: float | None = None
    """Draw words, and divide their logits by this; 0 searches. Without --beam-size, there are then no beams."""
    top_k: int | None = None
    """Draw among this many likeliest words; 0 is all."""
    top_p: float | None = None
    """Draw among the fewest likeliest words that together have this probability."""
    seed: int | None = None
    """Seed of the draws. A line gets the same translation for a seed, alone or among others."""
    batch_tokens: int | None = None
    """Source tokens to decode at once, with padding: fewer take less memory. Default: as the run was scored."""
    ensemble: bool = False
    """Let all seeds of the run translate together, instead of the best one."""
    with_scores: bool = False
    """Write the score and a tab before each translation."""
    score_targets: Path | None = None
    """File with a translation of each line: write its log-probability instead of a new translation."""


def translate(options: Translate) -> None:
    """Runs `lmx translate`."""
    keep_freed_memory()
    from lmx.data.files import comes_slowly, in_blocks
    from lmx.translator import Translator, read_search

    check_streams(options.input, options.output)
    check_together(options)
    asked = asked_of(options, OF_SEARCH)
    if asked.get("temperature"):
        asked.setdefault("beam_size", 1)
    search = read_search(options.run, **asked)
    if options.n_best is not None:
        search.check_n_best(options.n_best)
    languages = options.source_language, options.target_language
    translator = Translator.load(options.run, search=search, ensemble=options.ensemble, languages=languages)
    began, number, empty = time.perf_counter(), 0, 0
    with Written(options.output, input=options.input) as out, shown_share("translating", options.input) as show:
        waits = any(comes_slowly(path or "-") for path in (options.input, beside(options) or options.input))
        for block in in_blocks(read_pairs(options, show), waits=waits):
            out.write(written(translator, block, options, show, first=number + 1))
            number += len(block)
            empty += sum(not line.strip() for line, _ in block)
    notes = f", {empty:,} empty" if empty else ""
    notes += f", {translator.cut:,} cut to {translator.max_source_length} tokens" if translator.cut else ""
    notes += f", {translator.limited:,} translations ended by the length limit" if translator.limited else ""
    seconds = duration(time.perf_counter() - began)
    how = "given targets scored" if options.score_targets else translator.search
    print(f"{number:,} lines in {seconds} ({how}){notes}", file=sys.stderr)


def beside(options: Translate) -> Path | None:
    """Returns the file that is read beside the input."""
    return options.prefix or options.score_targets


def check_together(options: Translate) -> None:
    """Checks the options that stand in each other's way.

    Raises:
        ValueError: two of them do.
    """
    if options.score_targets:
        # Of the search, the word that targets begin with and the memory remain.
        unread = [name for name in OF_SEARCH if name not in ("forced_bos", "batch_tokens")]
        for name in ("prefix", "n_best", "with_scores", *unread):
            if (value := getattr(options, name)) != getattr(Translate, name):
                raise ValueError(f"{name} must be left out where given targets are scored, got {name}={value}.")
    if options.target_language is not None and options.forced_bos not in (None, ""):
        raise ValueError(
            f"forced_bos must be left out with target_language={options.target_language}, whose code it is, got "
            f"forced_bos={options.forced_bos}."
        )
    if beside(options) == Path("-") and options.input in (None, Path("-")):
        name = "prefix" if options.prefix else "score_targets"
        raise ValueError(f"{name} must be another file than the input, got standard input for both.")


def read_pairs(options: Translate, show: Share) -> Iterator[tuple[str, str]]:
    """Yields each line of the input with the line beside it, or with an empty one where there is no such file.

    Raises:
        ValueError: the file has another number of lines.
    """
    from lmx.data.files import read_lines

    lines = read_lines(options.input or "-", position=show.position)
    if (path := beside(options)) is None:
        yield from ((line, "") for line in lines)
        return
    name = "prefix" if options.prefix else "score_targets"
    for number, (line, other) in enumerate(zip_longest(lines, read_lines(path))):
        if line is None or other is None:
            counts = f"{number:,} lines in {path} and more in the input"
            if line is None:
                counts = f"more than {number:,} lines in {path} and {number:,} in the input"
            raise ValueError(f"{name} must have a line for each line of the input, got {counts}.")
        yield line, other


def written(
    translator: "Translator", block: list[tuple[str, str]], options: Translate, show: Share, *, first: int
) -> list[str]:
    """Returns what is written for a block of lines.

    Args:
        first: the number of its first line.
    """
    lines, others = [line for line, _ in block], [other for _, other in block]
    if options.score_targets:
        return [f"{one.logprob:.6f}" for one in translator.score(lines, others)]
    progress = show.within(len(block))
    prefixes = others if options.prefix else None

    def line_of(one: "Translation") -> str:
        return (f"{one.score:.4f}\t" if options.with_scores else "") + one.text

    if options.n_best is None:
        return [line_of(one) for one in translator.translate(lines, prefixes=prefixes, progress=progress)]
    found = translator.translate(lines, prefixes=prefixes, n_best=options.n_best, progress=progress)
    return [f"{number}\t{line_of(one)}" for number, each in enumerate(found, start=first) for one in each]
