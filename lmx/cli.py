"""The command line of the installed package: what needs a run directory, or files, and no script that made them."""

import contextlib
import difflib
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import tyro
from rich.console import Console

from lmx.run import console, duration, keep_freed_memory, one_line_errors, progress_bar


@dataclass(frozen=True, kw_only=True)
class Translate:
    """Translates lines of standard input, or of a file, with a finished run; writes one line for each, in order."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    input: Path | None = None
    """File to translate, plain or gzip; without it, standard input."""
    output: Path | None = None
    """File to write; without it, standard output."""
    beam_size: int | None = None
    """Beginnings kept for each sentence; 1 is greedy. Without it, what the run was scored with."""
    length_penalty: str | None = None
    """`power` or `gnmt`. Without it, what the run was scored with."""
    alpha: float | None = None
    """Strength of the length penalty."""
    min_length: int | None = None
    """Fewest tokens of a translation; 0 lets it be empty. Without it, what the run was scored with."""
    with_scores: bool = False
    """Writes the score and a tab before each translation."""


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Labels lines of standard input, or texts of a file, with a finished run; writes one line for each, in order."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    input: Path | None = None
    """File to label, plain or gzip: .csv, .tsv and .jsonl by their columns, others by lines. Without it, standard
    input."""
    text_column: tuple[str, ...] = ()
    """Column of a table with the texts; two for pairs. Without it, `text`, or the only one."""
    output: Path | None = None
    """File to write; without it, standard output."""
    ensemble: bool = False
    """Takes the mean of all seeds of the run, instead of its best one."""
    with_probabilities: bool = False
    """Writes a tab and the probability behind each label."""
    explain: bool = False
    """Writes a tab and the five words that moved the probability most, with their attributions. Slow."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores translations against references: BLEU and chrF with signatures and 95% intervals."""

    hypotheses: Annotated[Path, tyro.conf.Positional]
    """Translations, one a line."""
    references: Annotated[Path, tyro.conf.Positional]
    """References, one a line."""
    baseline: Path | None = None
    """Translations of another system, for a two-sided paired bootstrap test."""
    lowercase: bool = False
    """Ignores case."""
    tokenized: bool = False
    """The lines are tokenised already: scores tokens as they stand."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """Averages the parameters of several runs of one model, or of files, into one safetensors file."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories or .safetensors files."""
    output: Path = Path("model.safetensors")
    """File to write."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Writes report.html of a run directory anew."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compares what two classification runs predicted for one test set: paired tests of each score."""

    baseline: Annotated[Path, tyro.conf.Positional]
    """Directory of the run to compare with."""
    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the other run."""


COMMANDS = {
    "translate": Translate,
    "classify": Classify,
    "score": Score,
    "compare": Compare,
    "average": Average,
    "report": Report,
}


def translate(options: Translate) -> None:
    """Runs `lmx translate`."""
    keep_freed_memory()
    # What a command needs is loaded by that command: `lmx score` should not wait for jax.
    import json
    import time

    from lmx.data.files import read_lines
    from lmx.translator import Search, Translator

    path = options.run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{options.run} must be a run directory: it has no config.json.")
    saved = json.loads(path.read_text(encoding="utf-8")).get("config", {}).get("search", {})
    asked = {
        name: getattr(options, name)
        for name in ("beam_size", "length_penalty", "alpha", "min_length")
        if getattr(options, name) is not None
    }
    if asked.get("length_penalty", "power") not in ("power", "gnmt"):
        raise ValueError(f"length_penalty must be power or gnmt, got length_penalty={asked['length_penalty']}.")
    translator = Translator.load(options.run, search=Search(**{**saved, **asked}))
    lines = list(read_lines(options.input)) if options.input else read_standard_input()
    check_output(options.output)
    began = time.perf_counter()
    with progress_bar("translating", total=len(lines), console=Console(stderr=True)) as show:
        found = translator.translate(lines, progress=show)
    scores = [f"{translation.score:.4f}\t" if options.with_scores else "" for translation in found]
    write_lines(options.output, [score + one.text for score, one in zip(scores, found, strict=True)])
    empty = sum(not line.strip() for line in lines)
    notes = f", {empty:,} empty" if empty else ""
    notes += f", {translator.cut:,} cut to {translator.max_source_length} tokens" if translator.cut else ""
    notes += f", {translator.limited:,} translations ended by the length limit" if translator.limited else ""
    seconds = duration(time.perf_counter() - began)
    print(f"{len(lines):,} lines in {seconds} ({translator.search}){notes}", file=sys.stderr)


def read_standard_input() -> list[str]:
    """Returns the lines of standard input.

    Raises:
        ValueError: a line is not UTF-8; the message has its number.
    """
    lines = sys.stdin.buffer.read().split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    decoded = []
    for number, line in enumerate(lines, start=1):
        try:
            decoded.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input must be UTF-8, got line {number}, byte {error.start + 1}.") from None
    return decoded


def check_output(output: Path | None) -> None:
    """Makes sure that lines can be written to a file or, without one, to standard output: before the work, not after.

    Raises:
        OSError: they cannot.
    """
    if output:
        output.open("a", encoding="utf-8").close()
    else:
        cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", newline="\n")


def write_lines(output: Path | None, lines: Iterable[str]) -> None:
    """Writes lines to a file or, without one, to standard output."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(output.open("w", encoding="utf-8", newline="\n")) if output else sys.stdout
        out.writelines(f"{line}\n" for line in lines)
        out.flush()


def classify(options: Classify) -> None:
    """Runs `lmx classify`."""
    keep_freed_memory()
    import time

    import numpy as np

    from lmx.classifier import Classifier
    from lmx.scoring.classification import prediction_lines

    classifier = Classifier.load(options.run, ensemble=options.ensemble)
    texts = read_texts(options.input, text_column=options.text_column)
    check_output(options.output)
    began = time.perf_counter()
    with progress_bar("classifying", total=len(texts), console=Console(stderr=True)) as show:
        found = classifier.classify(texts, progress=show)
    outputs = np.array([prediction.outputs for prediction in found]).reshape(len(texts), classifier.config.num_outputs)
    kind, names = classifier.labels.kind, classifier.labels.names
    lines = prediction_lines(outputs[:, 0] if kind == "regression" else outputs, kind=kind, names=names)[1:]
    # A line is index, label and, but for regression, probability.
    lines = ["\t".join(line.split("\t")[1 : 3 if options.with_probabilities else 2]) for line in lines]
    if options.explain:
        with progress_bar("explaining", total=len(texts), console=Console(stderr=True)) as show:
            for number, text in enumerate(texts):
                words = sorted(classifier.explain(text)["words"], key=lambda word: -abs(word[1]))[:5]
                lines[number] += "\t" + ", ".join(f"{word} ({value:+.3f})" for word, value in words)
                show(number + 1)
    write_lines(options.output, lines)
    empty = sum(not "".join(text).strip() for text in texts)
    notes = f", {empty:,} without a word labelled as an empty text" if empty else ""
    notes += f", {classifier.cut:,} cut to {classifier.max_length} tokens" if classifier.cut else ""
    print(f"{len(texts):,} texts in {duration(time.perf_counter() - began)}{notes}", file=sys.stderr)


def read_texts(path: Path | None, *, text_column: tuple[str, ...]) -> Sequence[str | tuple[str, str]]:
    """Returns the texts of a table, the lines of a file or, without one, those of standard input.

    Raises:
        ValueError: a column is asked of lines.
    """
    from lmx.data.files import read_lines
    from lmx.data.labelled import read_labelled

    suffix = None if path is None else Path(path.name.removesuffix(".gz")).suffix
    if path is not None and suffix in (".csv", ".tsv", ".jsonl"):
        return read_labelled(path, text_columns=text_column or None, label_column=None).texts
    if text_column:
        raise ValueError(
            "text_column must be given with a table, an input that ends in .csv, .tsv or .jsonl, got "
            f"text_column={' '.join(text_column)} for {path or 'standard input'}."
        )
    return read_standard_input() if path is None else list(read_lines(path))


def score(options: Score) -> None:
    """Runs `lmx score`."""
    from lmx.data.files import read_lines
    from lmx.scoring.translation import compare_translations, score_translations

    hypotheses, references = list(read_lines(options.hypotheses)), list(read_lines(options.references))
    settings = {"lowercase": options.lowercase, "tokenized": options.tokenized}
    for found in score_translations(hypotheses, references, **settings):
        print(found)
    if options.baseline is not None:
        baseline = list(read_lines(options.baseline))
        for comparison in compare_translations(baseline, hypotheses, references, **settings):
            print(comparison)


def compare(options: Compare) -> None:
    """Runs `lmx compare`."""
    from lmx.scoring.tested import compare_runs

    for comparison in compare_runs(options.baseline, options.run):
        print(comparison)


def average(options: Average) -> None:
    """Runs `lmx average`."""
    from lmx.checkpoint import average_files

    files = [path / "model.safetensors" if path.is_dir() else path for path in options.inputs]
    average_files(files, options.output)
    console.print(f"mean of {len(files)} files: {options.output}")


def report(options: Report) -> None:
    """Runs `lmx report`."""
    from lmx.report import write_report

    console.print(f"report: {write_report(options.run)}")


def main() -> None:
    """Runs the command that the arguments name."""
    with one_line_errors():
        arguments = sys.argv[1:]
        if not arguments or arguments[0] in ("-h", "--help"):
            print("usage: lmx COMMAND [options]\n")
            for name, options in COMMANDS.items():
                print(f"  {name:<10} {(options.__doc__ or '').strip()}")
            print("\nlmx COMMAND --help says more. Training is done by the scripts in experiments/.")
            raise SystemExit(0 if arguments else 2)
        if arguments[0] == "--version":
            from lmx import __version__

            print(f"lmx {__version__}")
            return
        if arguments[0] not in COMMANDS:
            nearest = difflib.get_close_matches(arguments[0], COMMANDS, n=1, cutoff=0)[0]
            raise ValueError(f"command must be one of {', '.join(COMMANDS)}, got {arguments[0]}. Nearest: {nearest}.")
        name = arguments[0]
        options = tyro.cli(COMMANDS[name], args=arguments[1:], prog=f"lmx {name}", description=COMMANDS[name].__doc__)
        commands = (translate, classify, score, compare, average, report)
        {command.__name__: command for command in commands}[name](options)
