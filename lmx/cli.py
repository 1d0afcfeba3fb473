"""The command line of the installed package: commands on run directories and files, without the scripts behind them."""

import difflib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lmx.console import console, duration
from lmx.interop_commands import Convert, Embed, Export, convert, embed, export
from lmx.perplexity_command import Perplexity, perplexity
from lmx.process import keep_freed_memory, one_line_errors
from lmx.streams import Written, check_output, check_streams, shown_share
from lmx.translate_command import Translate, translate
from lmx.writing_commands import Fill, Generate, fill, generate


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Labels texts or images with a finished run; writes one line for each, in order."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    input: Path | None = None
    """File to label, plain or gzip: .csv, .tsv and .jsonl by their columns, other files and pipes by lines. Default, or
    with -: standard input. For a run of images: a folder of pictures, one picture, an IDX file, .npz or .csv."""
    text_columns: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--text-column"])] = ()
    """Column of a table with the texts; two for pairs. Default: `text`."""
    columns: tuple[str, ...] = ()
    """Names of a table's columns, for tables whose first row is data."""
    delimiter: str | None = None
    """Text between the fields of a table. Default: a comma in .csv and a tab in .tsv."""
    quoting: bool | None = None
    """Whether quotes enclose fields of a table. Default: yes in .csv, no in .tsv."""
    encoding: str | None = None
    """Encoding of the input. Default: UTF-8."""
    field_limit: int | None = None
    """Most characters of a table's field."""
    output: Path | None = None
    """File to write; without it, standard output."""
    ensemble: bool = False
    """Take the mean of all seeds of the run, instead of the best one."""
    with_probabilities: bool = False
    """Write a tab and the probability after each label."""
    explain: bool = False
    """Write a tab and the five words that moved the probability most, with their attributions. Slow."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores translations against references: BLEU and chrF with signatures and 95% intervals."""

    hypotheses: Annotated[Path, tyro.conf.Positional]
    """Translations, one a line; - is standard input."""
    references: Annotated[Path, tyro.conf.Positional]
    """References, one a line."""
    baseline: Path | None = None
    """Translations of another system, for a two-sided paired bootstrap test."""
    lowercase: bool = False
    """Ignore case."""
    tokenized: bool = False
    """The lines are tokenised already: score the tokens as they are."""
    tokenize: str | None = None
    """How BLEU splits plain text into words, by sacreBLEU's names: 13a (default), intl, zh for Chinese, ja-mecab,
    ko-mecab, char for scripts without spaces, flores101, flores200 (where their models are), none. It is part of the
    signature."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """Averages the parameters of several runs of one model, or of files, into one safetensors file."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories or .safetensors files."""
    output: Path = Path("model.safetensors")
    """File to write."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Writes report.html of a run directory again."""

    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compares the predictions of two classification runs on one test set: paired tests of each score."""

    baseline: Annotated[Path, tyro.conf.Positional]
    """Directory of the run to compare with."""
    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the other run."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Shows rows of a run's training batches in words, or measures how many tokens a second the pipeline makes."""

    what: Annotated[Literal["show", "time"], tyro.conf.Positional]
    """`show` or `time`."""
    run: Annotated[Path, tyro.conf.Positional]
    """Directory of the run, of language models or of translation."""
    batch: int = 0
    """Number of the batch to show, from 0."""
    rows: int = 4
    """Number of its rows to show."""
    seconds: float = 5.0
    """How long to measure."""


COMMANDS = {
    "translate": Translate,
    "classify": Classify,
    "generate": Generate,
    "fill": Fill,
    "perplexity": Perplexity,
    "score": Score,
    "compare": Compare,
    "average": Average,
    "report": Report,
    "data": Data,
    "convert": Convert,
    "export": Export,
    "embed": Embed,
}


def classify(options: Classify) -> None:
    """Runs `lmx classify`."""
    keep_freed_memory()
    import time

    import numpy as np

    from lmx.classifier import Classifier
    from lmx.data.files import comes_slowly, in_blocks
    from lmx.saved import read_record
    from lmx.scoring.predictions import prediction_lines

    saved = options.run / "config.json"
    if saved.is_file() and read_record(saved).get("family") == "vision":
        classify_images(options)
        return
    check_streams(options.input, options.output)
    classifier = Classifier.load(options.run, ensemble=options.ensemble)
    kind, names = classifier.labels.kind, classifier.labels.names
    if options.with_probabilities and kind == "regression":
        raise ValueError("with_probabilities must be left out for a run of real numbers, which have none.")
    began, number, empty = time.perf_counter(), 0, 0
    with Written(options.output, input=options.input) as out, shown_share("classifying", options.input) as show:
        texts = iterate_texts(options, joiner=joiner_of(options.run), position=show.position)
        for block in in_blocks(texts, waits=comes_slowly(options.input or "-")):
            predictions = classifier.classify(block, progress=show.within(len(block)))
            outputs = np.array([prediction.outputs for prediction in predictions])
            lines = prediction_lines(outputs[:, 0] if kind == "regression" else outputs, kind=kind, names=names)[1:]
            # A line is index, label and, but for regression, probability.
            lines = ["\t".join(line.split("\t")[1 : 3 if options.with_probabilities else 2]) for line in lines]
            for place, text in enumerate(block if options.explain else ()):
                words = sorted(classifier.explain(text)["words"], key=lambda word: -abs(word[1]))[:5]
                lines[place] += "\t" + ", ".join(f"{word} ({value:+.3f})" for word, value in words)
                out.write(lines[place : place + 1])  # slow: each when it is there
            if not options.explain:
                out.write(lines)
            number += len(block)
            empty += sum(not "".join(text).strip() for text in block)
    notes = f", {empty:,} without a word labelled as an empty text" if empty else ""
    notes += f", {classifier.cut:,} cut to {classifier.max_length} tokens" if classifier.cut else ""
    print(f"{number:,} texts in {duration(time.perf_counter() - began)}{notes}", file=sys.stderr)


def classify_images(options: Classify) -> None:
    """Runs `lmx classify` for a run of images."""
    from lmx.data.image_files import ImageReading
    from lmx.image_classifier import ImageClassifier
    from lmx.saved import read_config, read_field, read_fields
    from lmx.scoring.predictions import written_label

    if options.input is None or options.input == Path("-"):
        raise ValueError("input must be given for images, a folder or a file of them, got none. Say --input FOLDER.")
    of_texts = ("text_columns", "columns", "delimiter", "quoting", "encoding", "field_limit", "explain")
    for name in of_texts:
        if getattr(options, name) not in (None, (), False):
            raise ValueError(f"{name} must be left out for a run of images, got {name}={getattr(options, name)}.")
    check_streams(options.input, options.output)
    classifier = ImageClassifier.load(options.run, ensemble=options.ensemble)
    path, saved = options.run / "config.json", read_config(options.run, family="vision", purpose="classifies images")
    reading = read_fields(ImageReading, saved["config"].get("reading") or {}, path=path, field="reading")
    found = read_field(saved, "pixel_max", kind=float | None, path=path)
    with Written(options.output, input=options.input) as out:
        images = reading.read(
            str(options.input), split="test", labelled=False, found=None if found is None else float(found)
        )
        predictions = classifier.classify(images)
        sure = [f"\t{each.probability:.6f}" if options.with_probabilities else "" for each in predictions]
        out.write(
            [
                f"{written_label(str(one.label), kind='single')}{more}"
                for one, more in zip(predictions, sure, strict=True)
            ]
        )
    print(f"{len(images):,} images", file=sys.stderr)


def joiner_of(run: Path) -> str:
    """Returns what a run has between the columns that make one text to label, as its `--predict` has it."""
    from lmx.data.reading import Reading, changes_as_saved_now
    from lmx.differences import SAME
    from lmx.saved import read_field, read_record

    path = run / "config.json"
    config = read_field(read_record(path), "config", kind=dict | None, path=path) or {}
    of_all = read_field(config, "reading", "joiner", kind=str | None, path=path)
    changes = read_field(config, "test_reading", kind=dict | None, path=path) or {}
    joiner = changes_as_saved_now(changes)["joiner"]
    return (Reading().joiner if of_all is None else of_all) if joiner == SAME else str(joiner)


def iterate_texts(
    options: Classify, *, joiner: str, position: Callable[[int], None]
) -> Iterator[str | tuple[str, str]]:
    """Returns the texts of a table, the lines of a file or, without one, those of standard input, one by one.

    Args:
        joiner: text between the columns of a table that make one text.

    Raises:
        ValueError: an option for tables is given for lines.
    """
    from lmx.data.files import read_lines
    from lmx.data.labelled_files import Fields, iterate_labelled

    path, encoding = options.input, options.encoding or "utf-8"
    suffix = None if path is None else Path(path.name.removesuffix(".gz")).suffix
    if path is not None and suffix in (".csv", ".tsv", ".jsonl"):
        fields = Fields(
            text_columns=options.text_columns or None,
            joiner=joiner,
            label_column=None,
            columns=options.columns or None,
            delimiter=options.delimiter,
            quoting=options.quoting,
            encoding=encoding,
            field_limit=options.field_limit,
        )
        return (text for _, text, _ in iterate_labelled(path, fields))
    for name in ("text_columns", "columns", "delimiter", "quoting", "field_limit"):
        if (value := getattr(options, name)) not in (None, ()):
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise ValueError(
                f"{name} must be given with a table, an input that ends in .csv, .tsv or .jsonl, got {name}={shown} "
                f"for {path or 'standard input'}."
            )
    return read_lines(path or "-", encoding=encoding, position=position)


def score(options: Score) -> None:
    """Runs `lmx score`."""
    from lmx.data.files import read_lines
    from lmx.scoring.tokenization import DEFAULT, warn_of_few_spaces
    from lmx.scoring.translation import compare_translations, score_translations

    check_output()
    given = {name: getattr(options, name) for name in ("hypotheses", "references", "baseline")}
    if len(piped := [name for name, path in given.items() if path == Path("-")]) > 1:
        raise ValueError(f"{' and '.join(piped)} must be different files, got standard input for both.")
    hypotheses, references = list(read_lines(options.hypotheses)), list(read_lines(options.references))
    settings = {"lowercase": options.lowercase, "tokenized": options.tokenized, "tokenize": options.tokenize}
    if not options.tokenized and (warning := warn_of_few_spaces(references, options.tokenize or DEFAULT)):
        print(f"warning: {warning}", file=sys.stderr)
    for each in score_translations(hypotheses, references, **settings):
        print(each)
    if options.baseline is not None:
        baseline = list(read_lines(options.baseline))
        for comparison in compare_translations(baseline, hypotheses, references, **settings):
            print(comparison)


def compare(options: Compare) -> None:
    """Runs `lmx compare`."""
    from lmx.scoring.tested import compare_runs

    check_output()
    for comparison in compare_runs(options.baseline, options.run):
        print(comparison)


def average(options: Average) -> None:
    """Runs `lmx average`."""
    if options.output.exists():
        raise FileExistsError(f"{options.output} must be new, got one that exists. Say another --output.")
    from lmx.differences import differences
    from lmx.parameters import average_files
    from lmx.saved import read_record

    runs = {path: read_record(path / "config.json") for path in options.inputs if (path / "config.json").is_file()}
    paths = list(runs)
    for path in paths[1:]:
        # The same shapes may stand for other words or classes.
        for name in ("family", "model", "tokenizer", "source tokenizer", "target tokenizer", "labels"):
            mine, its = (
                (runs[each].get("made_of") or {}).get(name) or runs[each].get(name) for each in (paths[0], path)
            )
            if None not in (mine, its) and mine != its:
                fields = differences(its, mine) if isinstance(its, dict) else []
                details = ", ".join(f"{field}={one!r} and {other!r}" for field, one, other in fields)
                raise ValueError(
                    f"runs must be of one model to be averaged, got another {name} in {path} than in {paths[0]}"
                    f"{details and ': '}{details}."
                )
    files = [path / "model.safetensors" if path.is_dir() else path for path in options.inputs]
    average_files(files, options.output)
    console.print(f"mean of {len(files)} files: {options.output}")


def report(options: Report) -> None:
    """Runs `lmx report`."""
    from lmx.report import write_report

    console.print(f"report: {write_report(options.run)}")


def data(options: Data) -> None:
    """Runs `lmx data`."""
    from lmx.data_commands import measure_speed, show

    check_output()
    for name in ("seconds",) if options.what == "show" else ("batch", "rows"):
        if (value := getattr(options, name)) != getattr(Data, name):
            raise ValueError(f"{name} must be left out with {options.what}, got {name}={value}.")
    shown = {"show": lambda: show(options.run, batch=options.batch, rows=options.rows)}
    shown["time"] = lambda: measure_speed(options.run, seconds=options.seconds)
    for line in shown[options.what]():
        print(line)


def main() -> None:
    """Runs the command that the arguments name."""
    with one_line_errors():
        arguments = sys.argv[1:]
        if not arguments or arguments[0] in ("-h", "--help"):
            print("usage: lmx COMMAND [options]\n")
            for name, options in COMMANDS.items():
                print(f"  {name:<10} {(options.__doc__ or '').strip()}")
            print("\nlmx COMMAND --help lists the options. The scripts in experiments/ train.")
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
        of_models = (translate, classify, generate, fill, perplexity, embed, convert, export)
        commands = (*of_models, score, compare, average, report, data)
        {command.__name__: command for command in commands}[name](options)
