"""What the test of a classifier comes to: rows of scores.json, a verdict beside the linear model, what runs differ in.

Lives here: what is the same for every classification experiment once outputs are there. The measures themselves are
`lmx.scoring.classification`'s; which model made the outputs, and where files are written, is not known here.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmx.data.labelled_files import Fields, read_labelled
from lmx.data.labels import Labelled, Labels, Targets
from lmx.scoring.classification import prediction_loss, score_outputs
from lmx.scoring.measures import Comparison, Metric, Scores, Spread, spreads_of
from lmx.scoring.paired import compare_predictions
from lmx.scoring.predictions import written_label
from lmx.scoring.records import Record, Row

MOST_MISTAKES = 50


class Tested(NamedTuple):
    """A set of texts with their labels, and what each seed says of it: probabilities of classes, or real numbers.

    The baseline is the classes that a linear model predicts, or None where there is none; it reads `features`. How the
    parameters of each seed were chosen, `chosen` says in words.
    """

    examples: Labelled
    labels: Labels
    targets: Targets
    outputs: Float[np.ndarray, "E texts *C"]
    baseline: Int[np.ndarray, " texts"] | None
    features: str = "TF-IDF"
    chosen: str = ""


def score_seeds(
    outputs: Float[np.ndarray, "E texts *C"], targets: Targets, labels: Labels
) -> dict[str, Float[np.ndarray, " E"]]:
    """Returns of each seed the loss, and by its name the first score: what a best step is chosen by."""
    scored = [_score(targets, each, labels, num_resamples=0).metrics[0] for each in outputs]
    loss = np.array([prediction_loss(targets, each, kind=labels.kind) for each in outputs])
    return {"loss": loss, scored[0].name: np.array([metric.score for metric in scored])}


def record_scores(tested: Tested, *, name: str, chosen: str) -> Record:
    """Returns what scores.json has: of the mean of seeds, of the ensemble, and of the linear model, in percent.

    Args:
        name: of the test set, which the rows begin with.
        chosen: how the step of each seed was chosen, for the table.
    """
    labels, number = tested.labels, len(tested.outputs)
    alone = [_score(tested.targets, each, labels, num_resamples=0) for each in tested.outputs]
    together = _score(tested.targets, tested.outputs.mean(0), labels)
    spreads = spreads_of(alone) if number > 1 else ()
    rows = []
    for spread in spreads:
        made = f"mean of {number} seeds, standard deviation {100 * spread.deviation:.2f}; {chosen}"
        metric = Metric(name=spread.name, score=spread.mean, interval=None)
        rows.append(_row(f"{name} {spread.name}", metric, alone[0], made))
    made = f"mean of the outputs of {number} seeds; {chosen}" if number > 1 else f"one seed; {chosen}"
    prefix = f"{name}, ensemble," if number > 1 else name
    rows += [_row(f"{prefix} {metric.name}", metric, together, made) for metric in together.metrics]
    record = Record(test=name, rows=tuple(rows)).with_others(
        texts=len(tested.examples),
        **({} if tested.examples.unit == "text" else {"unit": tested.examples.unit}),
        kind=labels.kind,
        spread=[dataclasses.asdict(spread) for spread in spreads],
        scores=together.as_record(),
        names=list(labels.names),
    )
    if tested.baseline is None:
        return record
    accuracy, verdict = _compare_with_baseline(tested, tested.baseline, ours=rows[0].score)
    return dataclasses.replace(record, baselines={f"{tested.features}, linear": accuracy}).with_others(verdict=verdict)


def main_scores(tested: Tested) -> list[float]:
    """Returns the first score of each seed."""
    return [_score(tested.targets, each, tested.labels, num_resamples=0).metrics[0].score for each in tested.outputs]


def _score(targets: Targets, outputs: np.ndarray, labels: Labels, **settings: Any) -> Scores:
    return score_outputs(targets, outputs, kind=labels.kind, names=labels.names, **settings)


def _row(name: str, metric: Metric, scores: Scores, made: str) -> Row:
    """Returns a row of scores.json, in percent; a squared error is as it is."""
    unit = 1 if "squared error" in metric.name else 100
    interval = None if metric.interval is None else [unit * bound for bound in metric.interval]
    return Row(name=name, score=unit * metric.score, interval=interval, signature=scores.signature, made=made)


def _compare_with_baseline(tested: Tested, baseline: Int[np.ndarray, " texts"], *, ours: float) -> tuple[float, str]:
    """Returns the linear model's accuracy, and in a sentence who is better and whether that could be chance.

    The test for chance is of single predictions: of several seeds, of those of their ensemble.
    """
    accuracy = 100 * float((baseline == tested.targets).mean())
    predicted = tested.outputs.mean(0).argmax(-1).astype(baseline.dtype)
    paired, *_ = compare_predictions(tested.targets, baseline, predicted, kind="single")
    # As it is shown: the mean of seeds may miss an equal score by its last bit.
    above = _above(ours - accuracy)
    verdict = f"The Transformer is {above} the linear model on {tested.features} ({accuracy:.2f})"
    if len(tested.outputs) > 1:
        verdict += (
            f"; the ensemble of its seeds is {_above(100 * float((predicted == tested.targets).mean()) - accuracy)} it"
        )
    verdict += f" (p = {paired.p_value:.4f}, {paired.test})."
    if above.endswith("below"):
        verdict += f" It loses: for these {tested.examples.unit}s the linear model is the better choice."
    return accuracy, verdict


def _above(difference: float) -> str:
    """Says how far a score in percent is from another one, to two decimals."""
    if round(difference, 2) == 0:
        return "level with"
    return f"{abs(difference):.2f} points {'above' if difference > 0 else 'below'}"


def join_folds(tested: Sequence[Tested]) -> Tested:
    """Returns the test of all folds as one, the texts in the order of their file."""
    first = tested[0]
    examples = first.examples.joined([each.examples for each in tested[1:]])
    order = np.argsort(examples.lines, kind="stable")
    linear = [each.baseline for each in tested if each.baseline is not None]
    return Tested(
        examples.select(order),
        first.labels,
        np.concatenate([each.targets for each in tested])[order],
        np.concatenate([each.outputs for each in tested], axis=1)[:, order],
        np.concatenate(linear)[order] if len(linear) == len(tested) else None,
        first.features,
    )


def spread_of_folds(tested: Sequence[Tested]) -> tuple[Spread, ...]:
    """Returns mean and standard deviation over folds, of the metrics that all have."""
    of_folds = [_score(each.targets, each.outputs.mean(0), each.labels, num_resamples=0) for each in tested]
    # A test set without one of two classes has no area under the curve.
    shared = set.intersection(*({metric.name for metric in each.metrics} for each in of_folds))

    def with_shared(scores: Scores) -> Scores:
        return dataclasses.replace(scores, metrics=tuple(one for one in scores.metrics if one.name in shared))

    return spreads_of([with_shared(each) for each in of_folds])


def list_mistakes(tested: Tested) -> list[dict[str, Any]]:
    """Returns what the mean of the seeds has wrong, the worst first, at most 50.

    For single labels, the most confident; for real numbers, those furthest from the truth; for several labels, those
    with the most labels wrong.
    """
    labels, targets, outputs = tested.labels, tested.targets, tested.outputs.mean(0)
    if labels.kind == "single":
        predicted, sure = outputs.argmax(-1).astype(np.int32), outputs.max(-1)
        size = np.where(predicted != targets, sure, 0.0)
    elif labels.kind == "multi":
        predicted, sure = (outputs >= 0.5).astype(np.float32), None
        size = (predicted != targets).sum(-1)
    else:
        predicted, sure = outputs.astype(np.float32), None
        size = np.abs(outputs - targets)
    wrong = [index for index in np.argsort(-size, kind="stable")[:MOST_MISTAKES].tolist() if size[index] > 0]
    return [
        {
            "index": index,
            **tested.examples.shown(index),
            "label": _shown(labels, targets[index : index + 1]),
            "prediction": _shown(labels, predicted[index : index + 1]),
            "probability": None if sure is None else float(sure[index]),
        }
        for index in wrong
    ]


def reference_lines(tested: Tested) -> list[str]:
    """Returns the lines of `references.tsv`, a header first: index and true label, as `predictions.tsv` has them."""
    names = [_shown(tested.labels, tested.targets[index : index + 1]) for index in range(len(tested.targets))]
    return ["index\tlabel", *(f"{index}\t{name}" for index, name in enumerate(names))]


def compare_runs(baseline: Path, system: Path) -> tuple[Comparison, ...]:
    """Returns paired tests between the predictions of two runs on one test set.

    Raises:
        FileNotFoundError: one is not a run that was tested.
        ValueError: they have other labels, or other test sets.
    """
    (labels, targets, before), (others, same, after) = map(_read_predictions, (baseline, system))
    if labels != others:
        raise ValueError(f"two runs must have the same labels to be compared, got {labels} and {others}.")
    if targets.shape != same.shape or (targets != same).any():
        raise ValueError(
            f"two runs must have the same test set to be compared, got {len(targets):,} texts in {baseline} and "
            f"{len(same):,} in {system}, with other labels."
        )
    return compare_predictions(targets, before, after, kind=labels.kind)


def _read_predictions(run: Path) -> tuple[Labels, Targets, Targets]:
    """Returns labels, truth and predictions that a run has left."""
    path = run / "labels.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} must be the directory of a classification run: it has no labels.json.")
    labels = Labels.from_file(path)
    labels = Labels(kind=labels.kind, names=tuple(written_label(name, kind=labels.kind) for name in labels.names))
    separator = "|" if labels.kind == "multi" else None
    fields = Fields(text_columns=("index",), label_separator=separator)
    truth = read_labelled(run / "references.tsv", fields)
    said = read_labelled(run / "predictions.tsv", dataclasses.replace(fields, label_column="prediction"))
    return labels, labels.encode(truth), labels.encode(said)


def choose_to_explain(tested: Tested, number: int) -> list[int]:
    """Returns some texts by position: the first ones, and as many of the worst mistakes, where there are any."""
    wrong = [row["index"] for row in list_mistakes(tested)][: number // 2]
    right = [index for index in range(len(tested.examples)) if index not in wrong]
    return [*right[: number - len(wrong)], *wrong]


def true_label(tested: Tested, index: int) -> str:
    """Returns the label of a text as `references.tsv` has it."""
    return _shown(tested.labels, tested.targets[index : index + 1])


def _shown(labels: Labels, one: Targets) -> str:
    (label,) = labels.decode(one)
    return "|".join(written_label(name, kind=labels.kind) for name in ((label,) if isinstance(label, str) else label))
