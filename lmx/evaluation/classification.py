"""The test of a finished classifier: outputs, their scores, the linear model, predictions, mistakes, explanations.

What is measured is `lmx.scoring`'s. A test set is encoded already, so that texts and whatever else a classifier reads
are examined on one path.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from rich.table import Table

from lmx.config import Published
from lmx.console import on_one_line, progress_bar
from lmx.data.images import Images, pixel_features
from lmx.data.labelled import Examples
from lmx.data.labels import Labelled, Labels
from lmx.errors import InputError
from lmx.evaluation.folds import each_fold
from lmx.evaluation.tables import print_record
from lmx.run import Run
from lmx.saved import write_json, write_jsonl, write_lines
from lmx.scoring.baselines import linear_predictions, tfidf_predictions
from lmx.scoring.predictions import prediction_lines
from lmx.scoring.records import Record, scores_of_seeds
from lmx.scoring.tested import (
    Tested,
    choose_to_explain,
    join_folds,
    list_mistakes,
    main_scores,
    record_scores,
    reference_lines,
    score_seeds,
    spread_of_folds,
    true_label,
)


@dataclass(frozen=True, kw_only=True)
class ExamConfig:
    """How a finished classifier is judged.

    Attributes:
        select: what chooses the best step on the development set: the main score, or the loss.
        baseline: also train a linear model, on TF-IDF of texts or on pixels, where each has one label.
        explain: number of test texts, or images, to explain: by the words that moved the decision, or by the patches
            that the model looked at.
        attention: also write the attention maps of these texts.
    """

    select: Literal["score", "loss"] = "score"
    baseline: bool = True
    explain: int = 6
    attention: bool = False

    def check(self, *, unit: str = "text") -> None:
        """Checks what can be asked.

        Args:
            unit: what is classified.

        Raises:
            InputError: it cannot be done.
        """
        if self.explain < 0:
            raise InputError(f"explain must be 0 (nothing) or more, got explain={self.explain}.")
        if self.attention and unit != "text":
            raise InputError(
                f"attention must be False for {unit}s, whose explanations show where the model looked, got "
                "attention=True. Say --no-attention."
            )

    def judge(self, line: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what should fall, of a loss and a score of each seed (`lmx.scoring.tested.score_seeds`)."""
        loss, score = line.values()
        return loss if self.select == "loss" else -score


@runtime_checkable
class Classifies(Protocol):
    """What is tested: `lmx.classifier.Classifier`, or `lmx.image_classifier.ImageClassifier`."""

    labels: Labels

    def outputs(self, encoded: Any, *, progress: Callable[[int], None]) -> np.ndarray:
        """Returns what the model says of each text or image, of each seed."""
        ...

    def explain(self, example: Any, /) -> dict[str, Any]:
        """Returns a record of explanations.json."""
        ...


class Exam(NamedTuple):
    """What a finished classifier is tested on, and how.

    Attributes:
        name: of the test set; the rows begin with it.
        learned: what the linear model learns from.
        made: how the parameters came about; None for each seed's best step.
    """

    name: str
    examples: Labelled
    encoded: Any
    learned: Labelled
    how: ExamConfig
    published: Published
    made: str | None

    @property
    def chosen(self) -> str:
        """How the parameters were chosen, for the table."""
        return self.made or f"best step by development {self.how.select}"


def examine_classifier(run: Run, classifier: Classifies, exam: Exam, *, seeds: Sequence[int]) -> Tested:
    """Labels the test set once, scores it, and writes predictions, scores, mistakes and explanations."""
    encoded, labels = exam.encoded, classifier.labels
    began = time.perf_counter()
    with progress_bar("labelling the test set", total=encoded.num_texts, console=run.console) as show:
        outputs = classifier.outputs(encoded, progress=show)
    seconds = time.perf_counter() - began
    baseline = None
    if exam.how.baseline and labels.kind == "single" and exam.learned.labels is not None:
        with run.only_reporting("the linear model is"):
            predicted = linear_labels(exam.learned, exam.examples)
            examples: Any = exam.examples
            baseline = labels.encode(replace(examples, labels=predicted))
    features = "pixels" if isinstance(exam.examples, Images) else "TF-IDF"
    tested = Tested(exam.examples, labels, labels.encode(exam.examples), outputs, baseline, features, exam.chosen)
    record = record_scores(tested, name=exam.name, chosen=exam.chosen)
    best = {"best": run.memory.best, "best_step": run.memory.best_step}
    record = replace(
        record.compared_with(**vars(exam.published)),
        seeds=scores_of_seeds(seeds, main_scores(tested), **best, sign=1 if exam.how.select == "loss" else -1),
    ).with_others(seconds=seconds, truncated=encoded.num_truncated, select=exam.how.select)
    write_results(run, record, tested)
    with run.only_reporting("explanations are"):
        _explain(run, classifier, tested, exam)
    show_scores(run, record)
    return tested


def linear_labels(learned: Any, others: Any) -> list[str]:
    """Returns the labels that a linear model gives, which has learned from texts, or from images."""
    labels = [str(label) for label in learned.labels]
    if isinstance(learned, Images):
        return linear_predictions(pixel_features(learned), labels, pixel_features(others))
    return tfidf_predictions(learned.texts, labels, others.texts)


def examine_folds(run: Run, tested: Sequence[Tested], *, name: str, chosen: str, published: Published) -> None:
    """Scores all folds as one test set, each text by the run it was not in, and writes what a test leaves."""
    together = join_folds(tested)
    spreads = spread_of_folds(tested)
    record = record_scores(together, name=name, chosen=chosen).compared_with(**vars(published))
    told = [dataclasses.asdict(spread) for spread in spreads]
    record = record.with_others(spread=told, spread_over="folds", seconds=0.0, seeds=[])
    write_results(run, record, together)
    show_scores(run, record)
    for spread in spreads[:1]:
        run.console.print(f"over folds: {spread}")


def run_folds(run: Run, preset: str, config: Any, train_and_test: Callable[..., Tested | None]) -> None:
    """Trains and tests a run for each fold, and scores all by the run that had them not; see `each_fold`.

    Args:
        config: of the experiment, with `sets`, `exam`, `published` and `run`.
    """
    tested = each_fold(run, preset, config, train_and_test)
    endings = {each.chosen for each in tested}
    chosen = endings.pop() if len(endings) == 1 else "as the scores of each fold say"
    name = f"{preset} {len(tested)}-fold test"
    examine_folds(run, tested, name=name, chosen=chosen, published=config.published)


def judge(classifier: Classifies, encoded: Any, how: ExamConfig) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns of each seed what should fall, and what a line of validation holds, of rows that each stand alone."""
    line = score_seeds(classifier.outputs(encoded, progress=lambda done: None), encoded.targets, classifier.labels)
    return how.judge(line), line


def _explain(run: Run, classifier: Any, tested: Tested, exam: Exam) -> None:
    """Writes which words moved some decisions, and where the model looked."""
    explanations, maps = [], []
    for index in choose_to_explain(tested, exam.how.explain):
        example: Any = tested.examples.select([index])
        text = example if not isinstance(example, Examples) else example.texts[0]
        record = classifier.explain(text)
        explanations.append(record | {"label": true_label(tested, index)})
        if exam.how.attention and isinstance(example, Examples):
            attention = classifier.attention(text)
            weights = np.round(attention["weights"].astype(float), 3).tolist()
            maps.append({"text": record["text"], "pieces": attention["pieces"], "weights": weights})
    if run.writes:
        write_json(run.directory / "explanations.json", explanations)
        write_json(run.directory / "attention.json", maps)


def write_results(run: Run, record: Record, tested: Tested) -> None:
    """Writes scores, predictions by name, and the most confident mistakes."""
    if not run.writes:
        return
    labels, outputs = tested.labels, tested.outputs.mean(0)
    lines = prediction_lines(outputs, kind=labels.kind, names=labels.names)
    for name, content in (("predictions.tsv", lines), ("references.tsv", reference_lines(tested))):
        write_lines(run.directory / name, content)
    write_json(run.directory / "scores.json", record.to_json())
    with run.only_reporting("the list of mistakes is"):
        write_jsonl(run.directory / "mistakes.jsonl", list_mistakes(tested))


def show_scores(run: Run, record: Record) -> None:
    """Prints the table of scores, and of the classes."""
    others: Any = record.others
    unit = f"{others.get('unit', 'text')}s"
    classes = others["scores"]["classes"]
    if classes:
        table = Table(box=None)
        for column in ("class", "precision", "recall", "F1", unit):
            table.add_column(column, justify="left" if column == "class" else "right")
        for row in classes:
            shares = (f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))
            table.add_row(on_one_line(row["name"]), *shares, f"{row['support']:,}")
        run.console.print(table)
    print_record(
        run,
        record,
        title=f"{record.test}: {others['texts']:,} {unit}",
        baselines_are=f"a linear model, trained on the same {unit}",
        notes=[others["verdict"]] if "verdict" in others else [],
    )


def label_new(run: Run, classifier: Classifies, encoded: Any, *, about: str) -> None:
    """Labels what has no labels, into `labelled.tsv` of the run.

    Args:
        about: what it is and where from, for the message.
    """
    outputs = classifier.outputs(encoded, progress=lambda done: None).mean(0)
    lines = prediction_lines(outputs, kind=classifier.labels.kind, names=classifier.labels.names)
    path = run.directory / "labelled.tsv"
    if run.writes:
        write_lines(path, lines)
    run.console.print(f"{encoded.unit}s labelled in {path}: {about}")
