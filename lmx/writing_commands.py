"""The commands that let a language model write: `lmx generate` and `lmx fill`."""

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from lmx.asked import asked_of
from lmx.console import duration, progress_bar
from lmx.process import keep_freed_memory
from lmx.streams import Written, check_output, check_streams

if TYPE_CHECKING:  # a command loads jax when it runs
    from lmx.generator import Generated, Generator

BETWEEN = "-" * 40  # between two texts that people read


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Continues prompts with a finished run of a decoder; options left out are those of the run's own samples."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    prompt: tuple[str, ...] = ()
    """One prompt or several. Default: an empty one."""
    prompt_file: Path | None = None
    """File of prompts, one a line, plain or gzip, or .jsonl with `prompt`; - is standard input."""
    num_samples: int = 1
    """Number of texts for each prompt."""
    temperature: float | None = None
    """Divides the logits; 0 takes the likeliest word each time."""
    top_k: int | None = None
    """Draw among this many likeliest words; 0 is all."""
    top_p: float | None = None
    """Draw among the fewest likeliest words that together have this probability."""
    min_p: float | None = None
    """Draw among words at least this share as likely as the likeliest; 0 is all."""
    repetition_penalty: float | None = None
    """Make words that occurred before less likely; 1 has no effect."""
    no_repeat: int | None = None
    """No sequence of this many tokens occurs twice; 0 allows all."""
    max_tokens: int | None = None
    """Most tokens of a text."""
    min_tokens: int | None = None
    """Fewest tokens of a text before its end."""
    stop: tuple[str, ...] = ()
    """Texts that end the writing where they would begin."""
    seed: int | None = None
    """Seed of the draws. A prompt gets the same text for a seed, alone or among others."""
    rows: int = 8
    """Texts to write at once. With the same rows, a prompt gets the same text whatever stands beside it."""
    json: bool = False
    """Write one line of JSON for each text: prompt, text, tokens, logprob, stopped_by."""
    output: Path | None = None
    """File to write; without it, standard output."""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Fills the gaps, [MASK], of texts with a finished run of a masked encoder: the likeliest words for each."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    text: tuple[str, ...] = ()
    """One text or several. Default: the lines of standard input."""
    top_k: int = 5
    """Number of words for each gap."""
    json: bool = False
    """Write one line of JSON for each text: text, and a list of words and probabilities for each gap."""


def generate(options: Generate) -> None:
    """Runs `lmx generate`."""
    keep_freed_memory()
    from lmx.data.files import comes_slowly, in_blocks
    from lmx.generator import Generator, read_sampling

    way_in = "Name a file with --prompt-file, or give --prompt."
    check_streams(options.prompt_file or Path(os.devnull), options.output, way_in=way_in)
    if options.prompt and options.prompt_file:
        raise ValueError(f"prompt and prompt_file must not be given together, got prompt_file={options.prompt_file}.")
    if options.num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got num_samples={options.num_samples}.")
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat")
    names = (*names, "max_tokens", "min_tokens", "stop", "seed")
    sampling = read_sampling(options.run, **asked_of(options, names))
    generator = Generator.load(options.run, sampling=sampling, rows=options.rows)
    began, found = time.perf_counter(), Found()
    is_terminal = options.output is None and sys.stdout.isatty()
    if is_terminal and not options.json and not options.prompt_file and len(options.prompt) * options.num_samples < 2:
        found.add([stream(generator, *options.prompt or ("",))])
    else:
        source = options.prompt_file
        prompts = iter(options.prompt or ("",)) if source is None else read_prompts(source)
        counts: dict[bytes, int] = {}
        with Written(options.output, input=source) as out:
            for block in in_blocks(prompts, waits=source is not None and comes_slowly(source)):
                with shown(len(block) * options.num_samples) as show:
                    texts = generator.generate(block, num_samples=options.num_samples, counts=counts, progress=show)
                out.write(as_json(texts) if options.json else as_text(texts, is_first=not found.texts))
                found.add(texts)
    print(found.account(generator, seconds=time.perf_counter() - began), file=sys.stderr)


class Found:
    """Counts what was written, for the line at the end."""

    def __init__(self):
        self.texts = self.tokens = 0
        self.ends = dict.fromkeys(("end", "stop", "max_tokens", "context"), 0)

    def add(self, texts: "list[Generated]") -> None:
        """Counts some texts."""
        self.texts += len(texts)
        for text in texts:
            self.tokens += len(text.tokens)
            self.ends[text.stopped_by] += 1

    def account(self, generator: "Generator", *, seconds: float) -> str:
        """Returns the line."""
        sampling = generator.sampling
        number = f"{self.texts:,} texts" if self.texts != 1 else "1 text"
        line = f"{number}, {self.tokens:,} tokens in {duration(seconds)} ({sampling})"
        if (unmet := self.ends["max_tokens"]) and sampling.stop:
            line += f", {unmet:,} met no stop string and ended after {sampling.max_tokens} tokens"
        elif unmet:
            line += f", {unmet:,} ended after {sampling.max_tokens} tokens"
        if self.ends["context"]:
            line += f", {self.ends['context']:,} ended with the model's context of {generator.config.max_length} tokens"
        return line


def stream(generator: "Generator", prompt: str) -> "Generated":
    """Writes prompt and text to the terminal, each piece as it comes; returns the text."""
    sys.stdout.write(readable(prompt))
    sys.stdout.flush()
    pieces = generator.stream(prompt)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as ended:
            print(flush=True)
            return ended.value
        sys.stdout.write(readable(piece))
        sys.stdout.flush()


def read_prompts(path: Path) -> Iterator[str]:
    """Yields the prompts of a file: its lines, or the `prompt` of each record of a .jsonl file.

    Raises:
        ValueError: a record has none; names the line.
    """
    from lmx.data.files import check_unicode, parse_json, read_lines

    is_json = path.name.removesuffix(".gz").endswith(".jsonl")
    for number, line in enumerate(read_lines(path), start=1):
        if not is_json:
            yield line
            continue
        place = f"{path}:{number}"
        record = parse_json(line, place=place)
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            raise ValueError(f"{place} must be a JSON object with a text in prompt, got {line[:60]!r}.")
        yield check_unicode(record["prompt"], place=place)


def shown(total: int) -> Any:
    """Shows on a terminal how many texts are done."""
    return progress_bar("writing", total=total, console=Console(stderr=True, markup=False, emoji=False))


def as_json(texts: "list[Generated]") -> list[str]:
    """Returns a line of JSON for each text."""
    return [on_one_line(dataclasses.asdict(text)) for text in texts]


def as_text(texts: "list[Generated]", *, is_first: bool) -> list[str]:
    """Returns the lines of prompts and texts, with a line between two texts."""
    lines = []
    for index, text in enumerate(texts):
        lines += [] if is_first and not index else [BETWEEN]
        lines += readable(text.prompt + text.text).split("\n")
    return lines


def on_one_line(record: dict[str, Any]) -> str:
    r"""Returns JSON on one line for any reader: what some take for a line end is `\u2028` and so on."""
    written = json.dumps(record, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", written)


def readable(text: str) -> str:
    r"""Returns a text that does nothing to a terminal but appear: control signs but line end and tab as `\x1b`."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def fill(options: Fill) -> None:
    """Runs `lmx fill`."""
    keep_freed_memory()
    from lmx.data.files import read_lines
    from lmx.fill_mask import FillMask

    check_output()
    check_streams(None if not options.text else Path(os.devnull), None, way_in="Give texts with --text.")
    filler = FillMask.load(options.run)
    with Written(None, input=None) as out:
        for text in options.text or read_lines("-"):
            (gaps,) = filler.fill(text, top_k=options.top_k)
            if options.json:
                out.write([on_one_line({"text": text, "gaps": [[dataclasses.asdict(w) for w in gap] for gap in gaps]})])
                continue
            lines = [readable(text)]
            for number, gap in enumerate(gaps, start=1):
                lines += [f"gap {number}:"] if len(gaps) > 1 else []
                lines += [f"  {word.probability:.4f}  {readable(word.word)}" for word in gap]
            out.write(lines)
