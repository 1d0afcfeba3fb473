"""Builds the page of a classification run: scores, seeds, classes, calibration, curves, mistakes and what moved them.

One label a text, several, or a number: what a kind of labels does not have is left out. Scores, seeds, spreads and
validation metrics are fractions in the files and percent on the page; the rows of scores.json are percent already.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.report.charts import Bar, Line, bar_chart, line_chart
from lmx.report.classes import STYLE, class_table, confusion_matrix, reliability_diagram
from lmx.report.files import (
    best_of,
    is_number,
    of_kind,
    points_of,
    read_attention,
    read_json,
    read_json_lines,
    read_scores,
)
from lmx.report.images import STYLE as IMAGES_STYLE
from lmx.report.images import image_mistakes_section, looks_section, read_looks
from lmx.report.page import Html, Number, columns_of, facts, number, page, section, signed, table, text
from lmx.report.reasons import MAX_PIECES, mistakes_section, one_line, read_explanations, reasons_section
from lmx.report.sections import (
    attention_section,
    big_number,
    header,
    placing_facts,
    score_table,
    setup_section,
    steering_curves,
    sureness_of,
    test_of,
)

# What a number says, by the end of its name; {} is the score.
MEANINGS = {
    "accuracy": "of 100 texts, {:.0f} get the right class",
    "macro f1": "precision and recall in one number, every class counting alike",
    "micro f1": "precision and recall in one number, every decision counting alike",
    "matthews": "correlation of predicted and true classes: 0 is chance, 100 all right",
    "auroc": "how often a text of the second class is ranked above one of the first: 50 is chance",
    "all labels right": "of 100 texts, {:.0f} get exactly the right labels",
    "pearson": "linear correlation with the true numbers: 0 is none, 100 all of it",
    "spearman": "correlation with the true order: 0 is none, 100 the same order",
    "mean squared error": "mean of the squared differences from the true numbers: lower is better",
    "calibration error": "how far confidence is from accuracy on average: lower is better",
}
LOWER_IS_BETTER = ("mean squared error", "calibration error")
KINDS = {"single": "one label a text", "multi": "any number of labels a text", "regression": "a number a text"}


def classification_page(run_directory: Path) -> Html:
    """Returns the page of a classification run, from the files of its directory."""
    config = read_json(run_directory / "config.json", dict)
    versions = read_json(run_directory / "versions.json", dict)
    start = read_json(run_directory / "start.json", dict)
    labels = read_json(run_directory / "labels.json", dict)
    scores = _read_scores(run_directory / "scores.json")
    metrics = read_json_lines(run_directory / "metrics.jsonl", "kind", "step")
    mistakes = read_json_lines(run_directory / "mistakes.jsonl", "text", "label", "prediction")
    of_images = config.get("experiment") == "vision"
    explanations = (read_looks if of_images else read_explanations)(run_directory / "explanations.json")
    attention = read_attention(
        run_directory / "attention.json",
        rows="pieces",
        columns="pieces",
        caption=lambda entry, pieces: one_line(entry.get("text", " ".join(pieces))),
    )
    short = [each for each in attention if len(each.rows) <= MAX_PIECES]

    names = _names_of(scores, labels)
    kind = scores.get("kind") or labels.get("kind")
    seeds = _count_seeds(scores, metrics)
    placing = [
        ("labels", _of_unit(KINDS.get(str(kind), ""), scores) or None),
        ("classes", number(len(names)) if names else None),
        ("seeds", number(seeds) if seeds > 1 else None),
    ]
    return page(
        config.get("preset") or run_directory.resolve().name,
        header(
            config,
            _headline(config, scores, of_kind(metrics, "validation")),
            placing + placing_facts(versions, start, metrics),
        ),
        _scores_section(scores),
        _seeds_section(scores),
        _classes_section(scores, names),
        _calibration_section(scores),
        _learning_section(metrics, seeds),
        image_mistakes_section(mistakes) if of_images else mistakes_section(mistakes, regression=kind == "regression"),
        looks_section(explanations) if of_images else reasons_section(explanations, regression=kind == "regression"),
        attention_section(
            short,
            note="Where each piece of the text (a row) looks (the columns). A row sums to 1.",
            left_out=len(attention) - len(short),
        ),
        setup_section(config, versions, start),
        style=STYLE + IMAGES_STYLE * of_images,
    )


# The title and the scores.


def _headline(config: dict, scores: dict, validation: list[dict]) -> Html:
    """Returns the main score, what it means, what it stands beside, and the verdict."""
    rows = scores.get("rows") or []
    if rows:
        row = rows[0]
        lines = [_of_unit(_meaning(row), scores), str(row.get("made") or ""), *sureness_of(row)]
        lines += [
            f"{each['name']} {each['score']:.2f}, a difference of {signed(row['score'] - each['score'])}"
            for each in scores.get("baselines") or []
        ]
        verdict = scores.get("verdict") or _verdict(row, scores.get("baselines") or [])
        verdict_line = Html(f"<p class=verdict>{text(verdict)}</p>" if verdict else "")
        return Html(big_number(f"{row['score']:.2f}", row["name"], [line for line in lines if line]) + verdict_line)
    for key in _metrics_of(validation):
        lower = _spelled(key).lower() in LOWER_IS_BETTER
        best = best_of(validation, key, min if lower else max)
        if best:
            lines = [f"at step {number(best[0])}", test_of(config)]
            return big_number(f"{(1 if lower else 100) * best[1]:.2f}", f"best validation {_spelled(key)}", lines)
    best = best_of(validation, "loss", min)
    if best:
        lines = [f"at step {number(best[0])}", test_of(config)]
        return big_number(f"{best[1]:.2f}", "best validation loss", lines)
    return Html("")


def _metric_of(name: str) -> str | None:
    """Returns the metric that a row's name ends with."""
    return next((metric for metric in MEANINGS if name.lower().endswith(metric)), None)


def _meaning(row: dict) -> str:
    metric = _metric_of(row["name"])
    return MEANINGS[metric].format(row["score"]) if metric else ""


def _verdict(row: dict, baselines: Sequence[dict]) -> str:
    """Returns how the run stands to the best baseline, in words; nothing where there is none."""
    if not baselines or _metric_of(row["name"]) in LOWER_IS_BETTER:
        return ""
    best = max(baselines, key=lambda each: each["score"])
    difference = round(row["score"] - best["score"], 2)
    if not difference:
        return f"This run is level with {best['name']}."
    return f"This run is {abs(difference):.2f} points {'above' if difference > 0 else 'below'} {best['name']}."


def _scores_section(scores: dict) -> Html:
    """Returns the scores with how each was made, beside what simpler methods reach."""
    rows = scores.get("rows") or []
    baselines = scores.get("baselines") or []
    bars = []
    if rows and _metric_of(rows[0]["name"]) not in LOWER_IS_BETTER:
        bars = [Bar(label=each["name"], value=each["score"]) for each in baselines]
        classes = _details(scores).get("classes") or []
        support = [each["support"] for each in classes]
        if scores.get("kind") == "single" and _metric_of(rows[0]["name"]) == "accuracy" and sum(support):
            commonest = max(classes, key=lambda each: each["support"])
            bars.append(Bar(label=f"always {commonest['name']}", value=100 * commonest["support"] / sum(support)))
        if is_number(rows[0].get("published")):
            bars.append(Bar(label="published", value=rows[0]["published"]))
        bars = [*sorted(bars, key=lambda bar: bar.value), Bar(label="this run", value=rows[0]["score"], strong=True)]
    texts = scores.get("texts")
    notes = [
        str(scores.get("test") or ""),
        _of_unit(f"{number(texts)} texts", scores) if is_number(texts) else "",
        f"{number(scores['truncated'])} of them cut to the longest length" if scores.get("truncated") else "",
    ]
    return section(
        "Scores",
        score_table(rows),
        columns_of(
            bar_chart(
                bars if len(bars) > 1 else [],
                title="What the number means",
                note=rows[0]["name"] if rows else "",
                form="{:.1f}",
            )
        ),
        note=" · ".join(filter(None, notes)),
    )


def _seeds_section(scores: dict) -> Html:
    """Returns how far the seeds lie apart, and each of them."""
    seeds = scores.get("seeds") or []
    count = len(seeds)
    over = scores.get("spread_over", "seeds")
    loss = scores.get("select") == "loss"
    unit = {"dev": 1 if loss else 100, "test": 100}
    rows = [
        [
            Html(
                f"<strong>seed {text(each['seed'])}</strong>"
                + ("<small>best on development: the model kept</small>" if count > 1 and each.get("kept") else "")
            ),
            *(
                text(f"{factor * each[key]:.{2 if factor == 100 else 4}f}") if is_number(each.get(key)) else Html("")
                for key, factor in unit.items()
            ),
            text(number(each["best_step"]) if is_number(each.get("best_step")) else ""),
        ]
        for each in seeds
    ]
    spread = [
        (each["name"], f"{factor * each['mean']:.2f} ± {factor * each['deviation']:.2f}")
        for each in scores.get("spread") or []
        for factor in [1 if each["name"].lower() in LOWER_IS_BETTER[:1] else 100]
    ]
    return section(
        over.capitalize(),
        facts(spread, style="grid"),
        table(["seed", f"development{' loss' * loss}", "test", "best step"], rows, style="seeds") if rows else Html(""),
        note=_of_unit(
            "Mean and standard deviation over the folds: other texts in training and test, and another seed's luck."
            if spread and over == "folds"
            else "Mean and standard deviation of a training: what another seed would change. "
            "The intervals above say what other test texts would change."
            if spread
            else "One training: how far another seed would lie from it is not known."
            if count == 1
            else "",
            scores,
        ),
    )


# Classes and calibration.


def _of_unit(words: str, scores: dict) -> str:
    """Returns a sentence of this page that tells of texts as one of what was classified: texts, or images."""
    return words.replace("a text", "an image").replace("text", "image") if scores.get("unit") == "image" else words


def _details(scores: dict) -> dict:
    """Returns the scores of the system whose predictions are kept: the mean of the seeds, or the only one."""
    return scores.get("scores") or {}


def _system(scores: dict) -> str:
    """Says what those scores are of."""
    count = len(scores.get("seeds") or [])
    metrics = _details(scores).get("metrics") or []
    main = f", {metrics[0]['name']} {100 * metrics[0]['score']:.2f}" if metrics else ""
    return f"Of the {count} seeds together (the mean of their probabilities{main})." if count > 1 else ""


def _classes_section(scores: dict, names: Sequence[str]) -> Html:
    """Returns the confusion matrix, where texts have one class each, and the scores of every class."""
    details = _details(scores)
    confusion = np.asarray(details.get("confusion") or np.zeros((0, 0)), dtype=int)
    several = (scores.get("kind") or details.get("kind")) == "multi"
    listed = class_table(
        details.get("classes") or [], what="label" if several else "class", unit=_of_unit("text", scores)
    )
    return section(
        "Labels" if several else "Classes",
        confusion_matrix(confusion, names=names, unit=_of_unit("text", scores)) if confusion.size else Html(""),
        Html(f"<h3>{'Labels' if several else 'Classes'}, the weakest first</h3>{listed}") if listed else Html(""),
        note=_system(scores),
    )


def _calibration_section(scores: dict) -> Html:
    calibration = _details(scores).get("calibration")
    return section(
        "Calibration",
        reliability_diagram(calibration, unit=_of_unit("text", scores)) if calibration else Html(""),
        note=_system(scores),
    )


# Curves.


def _learning_section(metrics: list[dict], seeds: int) -> Html:
    """Returns the curves: loss and what is measured on the development set, each with the band of its seeds."""
    train, validation = of_kind(metrics, "train"), of_kind(metrics, "validation")
    mean = f"best mean of {seeds} seeds" if seeds > 1 else "best"

    def chart(key: str, title: str, choose: Callable, factor: Number) -> Html:
        best = best_of(validation, key, choose)
        return line_chart(
            [
                Line(
                    label=label,
                    points=[(step, factor * value) for step, value in points_of(records, key)],
                    band=[(step, factor * low, factor * high) for step, low, high in _band(records, key)],
                    dots=records is validation,
                )
                for label, records in (("train", train), ("validation", validation))
            ],
            title=title,
            note=f"{mean} on validation: {number(factor * best[1])} at step {number(best[0])}" if best else "",
        )

    charts = [chart("loss", "Loss", min, 1)]
    for key in _metrics_of(validation):
        lower = _spelled(key).lower() in LOWER_IS_BETTER
        charts.append(chart(key, _capital(_spelled(key)), min if lower else max, 1 if lower else 100))
    note = f"Lines are the mean of {seeds} seeds, bands reach from the lowest to the highest." if seeds > 1 else ""
    return section("Learning", columns_of(*charts), steering_curves(train), note=note)


def _band(records: list[dict], key: str) -> list[tuple[Number, Number, Number]]:
    """Returns (step, lowest, highest) over the seeds, in order of steps; of a step written twice the later counts."""
    ranges = {}
    for record in records:
        values = (record.get("seeds") or {}).get(key)
        finite = [value for value in values if is_number(value)] if isinstance(values, list) else []
        if len(finite) > 1:
            ranges[record["step"]] = (min(finite), max(finite))
    return [(step, low, high) for step, (low, high) in sorted(ranges.items())]


def _metrics_of(validation: list[dict]) -> list[str]:
    """Returns the keys of validation lines that are metrics, in the order in which they stand there."""
    keys = dict.fromkeys(key for record in validation for key in record)
    return [key for key in keys if _spelled(key).lower() in MEANINGS]


def _spelled(key: str) -> str:
    return key.replace("_", " ")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _count_seeds(scores: dict, metrics: list[dict]) -> int:
    trained = [len(values) for record in metrics for values in (record.get("seeds") or {}).values() if values]
    return max([len(scores.get("seeds") or []), *trained, 1])


# Reading.


def _names_of(scores: dict, labels: dict) -> list[str]:
    classes = _details(scores).get("classes") or []
    return [
        str(name) for name in scores.get("names") or [each["name"] for each in classes] or labels.get("names") or []
    ]


def _read_scores(path: Path) -> dict:
    """Returns scores.json; what is drawn from it has the form it must have."""
    scores = read_scores(path)

    def check(good: bool, what: str, got: Any) -> None:
        if not good:
            raise ValueError(f"{path} {what}, got {str(got)[:80]}.")

    for position, each in enumerate(scores.get("seeds") or []):
        check(isinstance(each, dict) and "seed" in each, f"seeds {position} must have a seed", each)
    for position, each in enumerate(scores.get("spread") or []):
        good = isinstance(each, dict) and "name" in each and _numbers(each, "mean", "deviation")
        check(good, f"spread {position} must have name, mean and deviation", each)
    details = scores.get("scores") or {}
    check(isinstance(details, dict), "scores must be an object", details)
    for position, each in enumerate(details.get("metrics") or []):
        good = isinstance(each, dict) and "name" in each and _numbers(each, "score")
        check(good, f"metrics {position} must have name and score", each)
    for position, each in enumerate(details.get("classes") or []):
        good = isinstance(each, dict) and "name" in each and _numbers(each, "precision", "recall", "f1", "support")
        check(good, f"classes {position} must have name, precision, recall, f1 and support", each)
    confusion, size = details.get("confusion"), len(_names_of(scores, {}))
    if confusion is not None:
        rows = [len(row) if isinstance(row, list) and all(map(is_number, row)) else -1 for row in confusion]
        check(rows == [size] * size, f"confusion must be {size} rows of {size} counts, as there are {size} names", rows)
    calibration = details.get("calibration")
    if calibration is not None:
        lists = [calibration.get(key) for key in ("edges", "counts", "confidence", "accuracy")]
        lengths = [len(each) if isinstance(each, list) and all(map(is_number, each)) else -1 for each in lists]
        good = lengths[0] > 1 and lengths[1:] == [lengths[0] - 1] * 3 and _numbers(calibration, "error")
        check(good, "calibration must have an error, edges, and one less of counts, confidence and accuracy", lengths)
    return scores


def _numbers(record: dict, *keys: str) -> bool:
    return all(is_number(record.get(key)) for key in keys)
