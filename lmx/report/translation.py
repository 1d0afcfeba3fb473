"""Builds the page of a translation run: scores, curves, samples beside their references, attention maps."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from lmx.report.charts import Bar, Line, bar_chart, line_chart
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
from lmx.report.page import Html, columns_of, number, page, section, text
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

SAMPLES_EACH = 6  # of the bad, the typical and the good


def translation_page(run_directory: Path) -> Html:
    """Returns the page of a translation run, from the files of its directory."""
    config = read_json(run_directory / "config.json", dict)
    versions = read_json(run_directory / "versions.json", dict)
    start = read_json(run_directory / "start.json", dict)
    scores = _read_constructions(run_directory / "scores.json")
    metrics = read_json_lines(run_directory / "metrics.jsonl", "kind", "step")
    samples = read_json_lines(run_directory / "samples.jsonl", "source", "reference", "hypothesis", "chrf")
    attention = read_attention(
        run_directory / "attention.json",
        rows="target",
        columns="source",
        caption=lambda entry, source: _readable(source),
    )
    return page(
        config.get("preset") or run_directory.resolve().name,
        header(
            config, _headline(config, scores, of_kind(metrics, "validation")), placing_facts(versions, start, metrics)
        ),
        _scores_section(scores),
        _learning_section(metrics),
        _samples_section(samples),
        attention_section(
            attention, note="Where each target token (a row) looks in the source (the columns). A row sums to 1."
        ),
        setup_section(config, versions, start),
    )


def _read_constructions(path: Path) -> dict:
    """Returns scores.json; its constructions have numbers."""
    scores = read_scores(path)
    for name, each in (scores.get("constructions") or {}).items():
        if not isinstance(each, dict) or not is_number(each.get("exact")) or not is_number(each.get("count")):
            raise ValueError(f"{path} constructions {name!r} must have exact and count, got {each!r}.")
    return scores


def _headline(config: dict, scores: dict, validation: list[dict]) -> Html:
    """Returns the main score: the first of scores.json, or else the best that validation has seen."""
    rows = scores.get("rows") or []
    if rows:
        return big_number(f"{rows[0]['score']:.2f}", rows[0]["name"], sureness_of(rows[0]))
    for key, choose, label in (("bleu", max, "best validation BLEU"), ("loss", min, "best validation loss")):
        best = best_of(validation, key, choose)
        if best:
            return big_number(f"{best[1]:.2f}", label, [f"at step {number(best[0])}", test_of(config)])
    return Html("")


def _scores_section(scores: dict) -> Html:
    """Returns the scores with how each was made, the published numbers beside them, baselines and constructions."""
    bars = [Bar(label=row["name"], value=row["score"]) for row in scores.get("baselines") or []]
    first = (scores.get("rows") or [None])[0]
    if bars and first:
        bars.append(Bar(label="this run", value=first["score"], strong=True))
    constructions = sorted((scores.get("constructions") or {}).items(), key=lambda item: item[1]["exact"])
    exact = [
        Bar(label=name.replace("_", " "), value=100 * each["exact"], note=f"of {number(each['count'])}", strong=True)
        for name, each in constructions
        if each.get("count")
    ]
    return section(
        "Scores",
        score_table(scores.get("rows") or []),
        columns_of(
            bar_chart(bars, title="What the number means", note="the same test, the same scoring", form="{:.1f}"),
            bar_chart(exact, title="Exact match by construction", note="weakest first", form="{:.1f}%"),
        ),
        note=scores.get("test", ""),
    )


def _learning_section(metrics: list[dict]) -> Html:
    """Returns the curves: loss and BLEU large, what steers and costs the training small."""
    train, validation = of_kind(metrics, "train"), of_kind(metrics, "validation")

    def best(key: str, choose: Callable) -> str:
        found = best_of(validation, key, choose)
        return f"best on validation: {number(found[1])} at step {number(found[0])}" if found else ""

    large = columns_of(
        line_chart(
            [
                Line(label="train", points=points_of(train, "loss")),
                Line(label="validation", points=points_of(validation, "loss"), dots=True),
            ],
            title="Loss",
            note=best("loss", min),
        ),
        line_chart(
            [Line(label="validation", points=points_of(validation, "bleu"), dots=True)],
            title="BLEU",
            note=best("bleu", max),
        ),
    )
    return section("Learning", large, steering_curves(train))


def _samples_section(samples: list[dict]) -> Html:
    """Returns translations from the worst to the best by chrF, words that differ from the reference marked."""
    once = {each["source"]: each for each in samples}.values()
    ordered = sorted(once, key=lambda each: (each["chrf"], len(each["reference"])))
    middle = (len(ordered) - SAMPLES_EACH) // 2
    if len(ordered) <= 3 * SAMPLES_EACH:
        groups = [("All, furthest from the reference first", ordered)]
    else:
        groups = [
            ("Furthest from the reference", ordered[:SAMPLES_EACH]),
            ("Around the median", ordered[middle : middle + SAMPLES_EACH]),
            ("Closest to the reference, longest first", ordered[-SAMPLES_EACH:][::-1]),
        ]
        if all(_is_exact(each) for each in groups[1][1]):
            del groups[1]  # more than half is exact: it would show what the last group shows
    count = len(samples)
    exact = sum(_is_exact(each) for each in samples)
    share = (
        f"{number(count)} sentences, {number(exact)} of them ({exact / count:.0%}) equal to the reference"
        if count
        else ""
    )
    return section(
        "Samples",
        *(
            Html(f"<h3>{text(title)}</h3><ol class=samples>{''.join(_sample(each) for each in chosen)}</ol>")
            for title, chosen in groups
            if chosen
        ),
        note=share,
    )


def _is_exact(sample: dict) -> bool:
    return sample["hypothesis"] == sample["reference"]


def _sample(sample: dict) -> Html:
    hypothesis, reference = mark_differences(sample["hypothesis"], sample["reference"])
    exact = _is_exact(sample)
    tags = [f"chrF {sample['chrf']:.1f}", "exact" if exact else "", str(sample.get("construction") or "")]
    return Html(
        f"<li><p class=tags>{text(' · '.join(filter(None, tags)).replace('_', ' '))}</p><dl>"
        f"<dt>source</dt><dd class=quiet>{text(sample['source'])}</dd>"
        f"<dt>ours</dt><dd>{hypothesis or '<i>(empty)</i>'}</dd>"
        + ("" if exact else f"<dt>reference</dt><dd>{reference}</dd>")
        + "</dl></li>"
    )


def mark_differences(hypothesis: str, reference: str) -> tuple[Html, Html]:
    """Returns both sides with the words that differ marked: in the hypothesis as extra, in the reference as missed."""
    ours, theirs = hypothesis.split(), reference.split()
    marked: tuple[list[str], list[str]] = ([], [])
    matcher = difflib.SequenceMatcher(a=ours, b=theirs, autojunk=False)
    for operation, our_start, our_end, their_start, their_end in matcher.get_opcodes():
        for side, words, style in (
            (0, ours[our_start:our_end], "extra"),
            (1, theirs[their_start:their_end], "missed"),
        ):
            if words:
                run = text(" ".join(words))
                marked[side].append(run if operation == "equal" else Html(f"<mark class={style}>{run}</mark>"))
    return Html(" ".join(marked[0])), Html(" ".join(marked[1]))


def _readable(tokens: Sequence[str]) -> str:
    """Returns tokens as a sentence: SentencePiece's word marks and BPE's joints undone, the end mark left out."""
    words = [token for token in tokens if token != "</s>"]
    if any(word.startswith("▁") for word in words):
        return "".join(words).replace("▁", " ").strip()
    return " ".join(words).replace("@@ ", "")
