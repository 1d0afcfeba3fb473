"""Writes what a run directory knows as one HTML page that a person can read, print and send.

Lives here: the frame, which knows text and numbers only (`page`, `section`, `table`, `facts`, `line_chart`,
`bar_chart`, `heatmap`, `mark_differences`), and above it the report of a translation run, built from the files of its
run directory alone. Lives elsewhere: scores (lmx/scoring), and choosing what is recorded (lmx/run.py, experiments).

The page is one file. It opens no connection and says so in its content policy; styles, script and data are inside. It
is complete without the script, which adds reading values under the pointer and choosing attention heads. Charts are SVG
stretched to the width at hand, with their labels in HTML, so that type keeps its size from a phone to a wide screen.

Text becomes `Html` in `text()`, which escapes it; everything that is not `Html` is escaped where it enters.
"""

import base64
import difflib
import html
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

import numpy as np
from jaxtyping import Float

Html = NewType("Html", str)
"""Text that is markup already: escaped, or written by us."""

Number = int | float
"""JSON has one kind of number, Python two."""

MAX_POINTS = 400  # of one line: two a pixel on a printed page; longer runs are averaged in bins.
MAX_ATTENTION_BYTES = 700_000  # of all maps together, one byte a weight: keeps the page well under 2 MB.
NUM_COLOURS = 3  # that stay apart for everybody's eyes, in light and in dark
SAMPLES_EACH = 6  # of the bad, the typical and the good


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into a run directory, from the files there, and returns its path.

    Only config.json must exist: what a file would show is left out with it, so a report can be written at any time of a
    run. The file is replaced in one move, never seen half-written.

    Raises:
        FileNotFoundError: the directory has no config.json.
        ValueError: a file there does not hold what it should; names the file, and the line where there is one.
    """
    run_directory = Path(run_directory)
    if not (run_directory / "config.json").is_file():
        raise FileNotFoundError(
            f"a run directory must have config.json, got run_directory={str(run_directory)!r}. "
            "Training writes it there at its start."
        )
    config = _read_json(run_directory / "config.json", dict)
    versions = _read_json(run_directory / "versions.json", dict)
    start = _read_json(run_directory / "start.json", dict)
    scores = _read_scores(run_directory / "scores.json")
    metrics = _read_json_lines(run_directory / "metrics.jsonl", "kind", "step")
    samples = _read_json_lines(run_directory / "samples.jsonl", "source", "reference", "hypothesis", "chrf")
    attention = _read_attention(run_directory / "attention.json")

    content = page(
        config.get("preset") or run_directory.resolve().name,
        header(config, versions, start, scores, metrics),
        scores_section(scores),
        learning_section(metrics),
        samples_section(samples),
        attention_section(attention),
        setup_section(config, versions, start),
    )
    path = run_directory / "report.html"
    unfinished = run_directory / "report.html.part"
    unfinished.write_text(content, encoding="utf-8")
    os.replace(unfinished, path)
    return path


# ----------------------------------------------------------------------------------------------------------------------
# The report of a translation run
# ----------------------------------------------------------------------------------------------------------------------


def header(config: dict, versions: dict, start: dict, scores: dict, metrics: list[dict]) -> Html:
    """Returns the title, the one number that matters, and the few facts that place it."""
    train, validation = _of_kind(metrics, "train"), _of_kind(metrics, "validation")
    epochs = [record["epoch"] for record in metrics if _is_number(record.get("epoch"))]
    best = _best(validation, "loss", min)
    speeds = [record["tokens_per_second"] for record in train if _is_number(record.get("tokens_per_second"))]
    device = versions.get("device") or start.get("devices")
    skipped = max((record["skipped"] for record in train if _is_number(record.get("skipped"))), default=0)
    placing = [
        ("parameters", number(start["parameters"]) if _is_number(start.get("parameters")) else None),
        ("updates", number(max(record["step"] for record in metrics)) if metrics else None),
        ("epochs", f"{max(epochs):.1f}" if epochs else None),
        ("best validation loss", f"{number(best[1])} at step {number(best[0])}" if best else None),
        ("tokens a second, median", number(float(np.median(speeds))) if speeds else None),
        ("training time", _training_time(train)),
        ("device", plain(device) if device else None),
        ("steps skipped, not finite", number(skipped) if skipped else None),
    ]
    what = " · ".join(str(config[key]) for key in ("experiment", "family") if config.get(key))
    return Html(
        "<header>"
        + f"<p class=eyebrow>lmx{' · ' + text(what) if what else ''}</p>"
        + f"<h1>{text(config.get('preset') or 'run')}</h1>"
        + _headline(scores, validation)
        + facts([(name, value) for name, value in placing if value is not None], style="strip")
        + "</header>"
    )


def _training_time(train: list[dict]) -> str | None:
    """Returns the seconds since the start of training, if that is what every record holds."""
    seconds = [record["seconds"] for record in train if _is_number(record.get("seconds"))]
    if len(seconds) < max(2, len(train)) or seconds != sorted(seconds):
        return None
    minutes, rest = divmod(round(seconds[-1]), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _headline(scores: dict, validation: list[dict]) -> Html:
    """Returns the main score: the first of scores.json, or else the best that validation has seen."""
    rows = scores.get("rows") or []
    if rows:
        row = rows[0]
        lines = []
        if row.get("interval"):
            low, high = row["interval"]
            lines.append(f"95% interval {low:.2f} to {high:.2f}")
        if _is_number(row.get("published")):
            lines.append(
                f"published {row['published']:.2f}, a difference of {_signed(row['score'] - row['published'])}"
            )
        return _big_number(f"{row['score']:.2f}", row["name"], lines)
    for key, choose, label in (("bleu", max, "best validation BLEU"), ("loss", min, "best validation loss")):
        best = _best(validation, key, choose)
        if best:
            return _big_number(
                f"{best[1]:.2f}", label, [f"at step {number(best[0])}", "the test set is not scored yet"]
            )
    return Html("")


def _big_number(value: str, label: str, lines: Sequence[str]) -> Html:
    notes = "".join(f"<span>{text(line)}</span>" for line in lines)
    return Html(f"<div class=headline><b>{text(value)}</b><p><strong>{text(label)}</strong>{notes}</p></div>")


def scores_section(scores: dict) -> Html:
    """Returns the scores with how each was made, the published numbers beside them, baselines and constructions."""
    cells = []
    for row in scores.get("rows") or []:
        interval = row.get("interval")
        published = row.get("published")
        difference = ""
        if _is_number(published):
            inside = interval and interval[0] <= published <= interval[1]
            difference = _signed(row["score"] - published) + (" · inside our interval" if inside else "")
        cells.append(
            [
                Html(f"<strong>{text(row['name'])}</strong>"),
                Html(
                    f"<b class=score>{row['score']:.2f}</b>"
                    + (f"<small>{interval[0]:.2f} to {interval[1]:.2f}</small>" if interval else "")
                ),
                Html(f"<b class=score>{published:.2f}</b><small>{difference}</small>") if difference else Html(""),
                Html(
                    _labelled("ours", row.get("made"))
                    + _labelled("published", row.get("published_made"))
                    + (f"<code class=signature>{_breakable(row['signature'])}</code>" if row.get("signature") else "")
                ),
            ]
        )
    has_published = any(row[2] for row in cells)
    columns = ["test", "ours, 95% interval", "published", "how it was made"]
    if not has_published:
        columns.pop(2)
        cells = [[*row[:2], row[3]] for row in cells]

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
        table(columns, cells, style="scores") if cells else Html(""),
        columns_of(
            bar_chart(bars, title="What the number means", note="the same test, the same scoring", form="{:.1f}"),
            bar_chart(exact, title="Exact match by construction", note="weakest first", form="{:.1f}%"),
        ),
        note=scores.get("test", ""),
    )


def learning_section(metrics: list[dict]) -> Html:
    """Returns the curves: loss and BLEU large, what steers and costs the training small."""
    train, validation = _of_kind(metrics, "train"), _of_kind(metrics, "validation")

    def best(key: str, choose: Callable) -> str:
        found = _best(validation, key, choose)
        return f"best on validation: {number(found[1])} at step {number(found[0])}" if found else ""

    large = columns_of(
        line_chart(
            [
                Line(label="train", points=_points(train, "loss")),
                Line(label="validation", points=_points(validation, "loss"), dots=True),
            ],
            title="Loss",
            note=best("loss", min),
        ),
        line_chart(
            [Line(label="validation", points=_points(validation, "bleu"), dots=True)],
            title="BLEU",
            note=best("bleu", max),
        ),
    )
    small = columns_of(
        *(
            line_chart([Line(label="", points=_points(train, key))], title=title, small=True)
            for key, title in (
                ("learning_rate", "Learning rate"),
                ("gradient_norm", "Gradient norm"),
                ("tokens_per_second", "Tokens a second"),
            )
        ),
        small=True,
    )
    return section("Learning", large, small)


def samples_section(samples: list[dict]) -> Html:
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


def attention_section(attention: list[dict]) -> Html:
    """Returns the attention maps of a few sentences; the script lets one choose sentence, layer and head."""
    panels, spent, left_out = [], 0, 0
    for entry in attention:
        weights = entry["weights"]
        if spent + weights.size > MAX_ATTENTION_BYTES:
            left_out += 1
            continue
        spent += weights.size
        levels = np.round(np.clip(weights, 0.0, 1.0) * 255).astype(np.uint8)
        last = weights[-1].mean(axis=0)
        drawn = heatmap(last, rows=entry["target"], columns=entry["source"], label="attention weights")
        data = json.dumps({"shape": weights.shape, "levels": base64.b64encode(levels.tobytes()).decode("ascii")})
        panels.append(
            f"<figure class=attention><figcaption>{text(_readable(entry['source']))}</figcaption>"
            f"<div class=map><div class=scroll>{drawn}</div>"
            f"<p class=reading>layer {len(weights)}, mean of heads</p></div>"
            f"<div class=heads></div><script type=application/json>{data}</script></figure>"
        )
    note = "Where each target token (a row) looks in the source (the columns). A row sums to 1."
    if left_out:
        note += f" {left_out} more of attention.json left out for size."
    return section("Attention", *(Html(panel) for panel in panels), note=note)


def _readable(tokens: Sequence[str]) -> str:
    """Returns tokens as a sentence: SentencePiece's word marks and BPE's joints undone, the end mark left out."""
    words = [token for token in tokens if token != "</s>"]
    if any(word.startswith("▁") for word in words):
        return "".join(words).replace("▁", " ").strip()
    return " ".join(words).replace("@@ ", "")


def setup_section(config: dict, versions: dict, start: dict) -> Html:
    """Returns how it was set up: start-up facts, configuration, versions."""
    said = [(key.replace("_", " "), _start_fact(key, value)) for key, value in start.items()]
    folds = [
        _fold("Experiment config", config.get("config")),
        _fold("Model config", config.get("model")),
        _fold("Versions", versions),
    ]
    return section("Setup", facts(said, style="grid") if said else Html(""), *folds)


def _start_fact(key: str, value: Any) -> str:
    if key == "batch_shapes" and isinstance(value, list):
        return ", ".join("\u00a0×\u00a0".join(str(size) for size in shape) for shape in value)
    if key.startswith("padding") and _is_number(value):
        return f"{value:.1%}"
    if key.endswith("_seconds") and _is_number(value):
        return f"{value:.1f} s"
    return plain(value)


def _fold(title: str, values: Any) -> Html:
    pairs = list(_flat(values)) if isinstance(values, Mapping) else []
    if not pairs:
        return Html("")
    return Html(
        f"<details><summary>{text(title)} <small>{len(pairs)}</small></summary>{facts(pairs, style='list')}</details>"
    )


# ----------------------------------------------------------------------------------------------------------------------
# The frame: text and numbers to HTML. Knows nothing of runs or tasks
# ----------------------------------------------------------------------------------------------------------------------


def text(value: object) -> Html:
    """Returns a value as text in which nothing is markup."""
    return Html(html.escape(str(value), quote=True))


def number(value: Number) -> str:
    """Returns a number as a person writes it: 4 significant digits, thousands separated, millions as 2.57 M."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g} M" if abs(value) < 1e10 else f"{value / 1e9:,.4g} G"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def plain(value: Any) -> str:
    """Returns a value out of JSON as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(plain(each) for each in value) or "none"
    return str(value)


def page(title: str, *parts: Html) -> Html:
    """Returns the whole document."""
    return Html(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">"
        f"<link rel=icon href='data:,'><title>{text(title)} · lmx</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def section(title: str, *parts: Html, note: str = "") -> Html:
    """Returns a titled section, or nothing if all its parts are nothing."""
    if not any(parts):
        return Html("")
    said = f"<p class=note>{text(note)}</p>" if note else ""
    return Html(f"<section><h2>{text(title)}</h2>{said}{''.join(parts)}</section>")


def columns_of(*parts: Html, small: bool = False) -> Html:
    """Returns parts side by side where there is room; those that are nothing leave no gap."""
    shown = [part for part in parts if part]
    return Html(f"<div class='columns{' small' if small else ''}'>{''.join(shown)}</div>" if shown else "")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, style: str = "") -> Html:
    """Returns a table; on a narrow screen each row becomes a block with the column's name beside its cell.

    Args:
        columns: the head, one text a column.
        rows: cells of markup, one a column; pass text through `text`. The first names the row.
        style: a class for the style sheet.
    """
    head = "".join(f"<th scope=col>{text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + f"<th scope=row>{cells[0]}</th>"
        + "".join(
            f"<td data-column='{text(column)}'{'' if cell else ' class=empty'}>{cell}</td>"
            for column, cell in zip(columns[1:], cells[1:], strict=True)
        )
        + "</tr>"
        for cells in rows
    )
    return Html(f"<table class='{text(style)}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def facts(pairs: Sequence[tuple[str, str]], *, style: str) -> Html:
    """Returns names and their values: as a `strip` under a title, a `grid` of cards, or a `list`."""
    if not pairs:
        return Html("")
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return Html(f"<dl class='facts {text(style)}'>{items}</dl>")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart: points (x, y) in order of x. What is not finite breaks nothing and is left out."""

    label: str
    points: Sequence[tuple[Number, Number]]
    dots: bool = False


def line_chart(
    lines: Sequence[Line], *, title: str, note: str = "", x_label: str = "step", small: bool = False
) -> Html:
    """Returns a chart of lines over a common x that starts at 0, or nothing if no line has a point."""
    drawn = []
    for line in lines:
        points = [(float(x), float(y)) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
        if points:
            drawn.append((line, _thin(points, MAX_POINTS)))
    if not drawn:
        return Html("")
    if len(drawn) > NUM_COLOURS:
        raise ValueError(f"lines must be at most {NUM_COLOURS}, one a colour, got {len(drawn)}. Draw a chart more.")
    values = [y for _, points in drawn for _, y in points]
    y_ticks = _ticks(min(values), max(values), 3 if small else 5)
    x_end = max(x for _, points in drawn for x, _ in points) or 1.0
    x_ticks = [x for x in _ticks(0.0, x_end, 3 if small else 5) if x <= x_end]
    low, high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return round(100 * x / x_end, 2)

    def down(y: float) -> float:
        return round(100 * (high - y) / (high - low), 2)

    marks = "".join(f"<path class=grid d='M0 {down(y)}H100'/>" for y in y_ticks)
    legend, data = "", []
    for index, (line, points) in enumerate(drawn, start=1):
        at = [f"{across(x):g} {down(y):g}" for x, y in points]
        marks += f"<path class='line c{index}' d='M{'L'.join(at)}'/>"
        if len(points) == 1 or (line.dots and len(points) <= 60):
            marks += f"<path class='dots c{index}' d='{''.join(f'M{each}h0' for each in at)}'/>"
        label = f"<i class=c{index}></i>{text(line.label)}" if line.label else ""
        legend += f"<span>{label} <b>{number(points[-1][1])}</b></span>"
        data.append([[_short(x), _short(y)] for x, y in points])
    y_labels = "".join(f"<span style='top:{down(y)}%'>{number(y)}</span>" for y in y_ticks)
    x_labels = "".join(f"<span style='left:{across(x)}%'>{number(x)}</span>" for x in x_ticks)
    summary = "; ".join(
        f"{line.label or title} from {number(points[0][1])} to {number(points[-1][1])}" for line, points in drawn
    )
    payload = text(json.dumps({"end": _short(x_end), "lines": data}, separators=(",", ":")))
    return Html(
        f"<figure class='chart{' small' if small else ''}' data-chart='{payload}'>"
        f"<figcaption><h3>{text(title)}</h3><div class=legend>{legend}</div></figcaption>"
        f"<div class=plot><div class=y>{y_labels}</div>"
        f"<svg viewBox='0 0 100 100' preserveAspectRatio=none role=img aria-label='{text(f'{title}: {summary}.')}'>"
        f"{marks}</svg><div class=x>{x_labels}</div></div>"
        f"<p class=axis><span class=where>{text(x_label)}</span>{f' <small>{text(note)}</small>' if note else ''}</p>"
        "</figure>"
    )


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of a chart; `strong` takes the first colour, the others are quiet."""

    label: str
    value: Number
    note: str = ""
    strong: bool = False


def bar_chart(bars: Sequence[Bar], *, title: str, note: str = "", maximum: Number = 100, form: str = "{:g}") -> Html:
    """Returns horizontal bars from 0 to maximum with their values written beside them, or nothing without bars."""
    if not bars:
        return Html("")
    rows = "".join(
        f"<div><dt>{text(bar.label)}</dt><dd><svg viewBox='0 0 100 1' preserveAspectRatio=none aria-hidden=true>"
        f"<path class=track d='M0 0H100V1H0Z'/><path class='{'strong' if bar.strong else 'quiet'}' "
        f"d='M0 0H{min(max(100 * bar.value / maximum, 0), 100):.2f}V1H0Z'/></svg>"
        f"<b>{text(form.format(bar.value))}</b><small>{text(bar.note)}</small></dd></div>"
        for bar in bars
    )
    head = f"<figcaption><h3>{text(title)}</h3></figcaption>"
    said = f"<p class=axis><small>{text(note)}</small></p>" if note else ""
    style = "bars noted" if any(bar.note for bar in bars) else "bars"
    return Html(f"<figure class=chart>{head}<dl class='{style}'>{rows}</dl>{said}</figure>")


def heatmap(weights: Float[np.ndarray, "T S"], *, rows: Sequence[str], columns: Sequence[str], label: str) -> Html:
    """Returns a map of weights from 0 to 1; where there is no room it shrinks to 70%, then is scrolled.

    Args:
        weights: 0 is the paper's colour, 1 the first colour.
        rows: a label a row.
        columns: a label a column.
        label: what is shown, for those who cannot see it.
    """
    cell = round(min(max(400 / max(len(rows), len(columns), 1), 21), 32))
    left = 14 + 7.3 * max((len(name) for name in rows), default=0)
    reach = 7.3 * max((len(name) for name in columns), default=0)  # labels lean by 60 degrees
    top = 12 + 0.87 * reach
    width, height = left + cell * len(columns) + max(12.0, 0.5 * reach), top + cell * len(rows) + 2
    parts = [
        f"<text x={left - 8:.0f} y={top + cell * t + 0.5 * cell + 4:.1f} text-anchor=end>{text(name)}</text>"
        for t, name in enumerate(rows)
    ]
    parts += [
        f"<text transform='translate({left + cell * (s + 0.5) + 3:.1f} {top - 7:.1f})rotate(-60)'>{text(name)}</text>"
        for s, name in enumerate(columns)
    ]
    parts += [
        f"<rect x={left + cell * s:.0f} y={top + cell * t:.0f} width={cell - 1} height={cell - 1} "
        f"fill-opacity={float(np.clip(weights[t, s], 0, 1)):.2f} />"
        for t in range(len(rows))
        for s in range(len(columns))
    ]
    frame = (
        f"<path class=frame d='M{left - 1.5:.1f} {top - 1.5:.1f}h{cell * len(columns) + 2}v{cell * len(rows) + 2}"
        f"h{-cell * len(columns) - 2}z'/>"
    )
    return Html(
        f"<svg class=heatmap viewBox='0 0 {width:.0f} {height:.0f}' role=img aria-label='{text(label)}' "
        f"style='width:{width:.0f}px;min-width:{0.7 * width:.0f}px'>"
        f"{frame}{''.join(parts)}</svg>"
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


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Returns round numbers, about `count` steps of 1, 2 or 5 times a power of ten, that enclose low and high."""
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def _thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Returns at most `most` points: means over bins of equal count. The last point stays as it is."""
    if len(points) <= most:
        return points
    bins = np.array_split(np.asarray(points[:-1]), most - 1)
    return [(float(x), float(y)) for x, y in (each.mean(axis=0) for each in bins)] + [points[-1]]


def _short(value: Number) -> Number:
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() else rounded


def _signed(value: Number) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _labelled(label: str, value: Any) -> Html:
    return Html(f"<p><small>{text(label)}</small><span>{text(value)}</span></p>" if value else "")


def _breakable(signature: str) -> Html:
    return Html(text(signature).replace("|", "|<wbr>"))


def _flat(values: Mapping, prefix: str = ""):
    """Yields the leaves of a nested mapping under their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)


# ----------------------------------------------------------------------------------------------------------------------
# Reading the run directory
# ----------------------------------------------------------------------------------------------------------------------


def _read_json(path: Path, kind: type) -> Any:
    """Returns what a JSON file holds, or an empty value of that kind if there is no such file."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}.") from None
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} must hold a JSON {'object' if kind is dict else 'list'}, got a {type(value).__name__}."
        )
    return value


def _read_json_lines(path: Path, *required: str) -> list[dict]:
    """Returns the objects of a JSON lines file; a last line cut off while being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    unfinished = lines.pop()  # after the last newline: empty, unless a run is writing, or was stopped while writing
    records = []
    for line_number, line in enumerate([*lines, unfinished], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if line_number > len(lines):
                break
            raise ValueError(f"{path} line {line_number} must be a JSON object, got {line[:60]!r}.") from None
        missing = [key for key in required if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"{path} line {line_number} must have {' and '.join(missing)}, got {line[:60]!r}.")
        records.append(record)
    return records


def _read_scores(path: Path) -> dict:
    scores = _read_json(path, dict)
    for group in ("rows", "baselines"):
        for position, row in enumerate(scores.get(group) or []):
            if not isinstance(row, dict) or not row.get("name") or not _is_number(row.get("score")):
                raise ValueError(f"{path} {group} {position} must have a name and a score, got {row!r}.")
    for name, each in (scores.get("constructions") or {}).items():
        if not isinstance(each, dict) or not _is_number(each.get("exact")) or not _is_number(each.get("count")):
            raise ValueError(f"{path} constructions {name!r} must have exact and count, got {each!r}.")
    return scores


def _read_attention(path: Path) -> list[dict]:
    entries = []
    for position, entry in enumerate(_read_json(path, list)):
        try:
            weights = np.nan_to_num(np.asarray(entry["weights"], dtype=np.float64))
            source, target = [str(token) for token in entry["source"]], [str(token) for token in entry["target"]]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path} entry {position} must have source and target tokens and weights "
                "[layers][heads][target][source]."
            ) from None
        if weights.ndim != 4 or weights.shape[2:] != (len(target), len(source)):
            raise ValueError(
                f"{path} entry {position} must have weights [layers, heads, {len(target)}, {len(source)}], as it has "
                f"{len(target)} target and {len(source)} source tokens, got {list(weights.shape)}."
            )
        if weights.size:
            entries.append({"source": source, "target": target, "weights": weights})
    return entries


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of_kind(metrics: list[dict], kind: str) -> list[dict]:
    return [record for record in metrics if record["kind"] == kind]


def _points(records: list[dict], key: str) -> list[tuple[Number, Number]]:
    """Returns (step, value) in order of steps. A run that resumed wrote some steps twice: the later counts."""
    return sorted({record["step"]: record[key] for record in records if _is_number(record.get(key))}.items())


def _best(records: list[dict], key: str, choose: Callable) -> tuple[Number, Number] | None:
    return choose(_points(records, key), key=lambda point: point[1], default=None)


# ----------------------------------------------------------------------------------------------------------------------
# Style and script. Colours are named once; dark is a screen's choice, paper is always light
# ----------------------------------------------------------------------------------------------------------------------

_STYLE = """
:root{--paper:#fdfcfa;--ink:#1d1c1a;--soft:#6c6861;--line:#e6e2da;--wash:#f5f2ec;--one:#1f5f8b;--two:#c9651c;--three:#3f7d5b;
--quiet:#bdb7ab;--extra:#fbdfd3;--extra-line:#c9651c;--missed:#dcebe0;--missed-line:#3f7d5b;
--serif:Charter,'Bitstream Charter','Iowan Old Style','Source Serif 4',Georgia,serif;
--sans:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace}
@media screen and (prefers-color-scheme:dark){:root{--paper:#16171a;--ink:#e9e7e2;--soft:#9f9b93;--line:#2f3136;
--wash:#1f2125;--one:#7db5e0;--two:#f0a162;--three:#7fbf9a;--quiet:#5d5c58;--extra:#4b2c1c;--extra-line:#f0a162;--missed:#1f3a2b;
--missed-line:#7fbf9a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--sans);font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:clamp(20px,5vw,64px) clamp(16px,4vw,40px) 80px}
h1,h2,h3,p,dl,dd,figure,ol{margin:0;padding:0}
small{font-size:13px;color:var(--soft)}
h1{font:400 clamp(34px,6vw,52px)/1.1 var(--serif);letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font:400 27px/1.2 var(--serif);letter-spacing:-.01em}
h3{font-size:15px;font-weight:600;line-height:1.4}
section{margin-top:64px;padding-top:22px;border-top:1px solid var(--line)}
.note{color:var(--soft);margin-top:4px;max-width:80ch}
.eyebrow{color:var(--soft);font-size:14px;letter-spacing:.02em;margin-bottom:6px}
.headline{display:flex;flex-wrap:wrap;align-items:center;gap:8px 24px;margin:30px 0 34px}
.headline>b{font:400 clamp(68px,13vw,112px)/.95 var(--serif);letter-spacing:-.035em;color:var(--one);
font-variant-numeric:lining-nums}
.headline p{display:flex;flex-direction:column}
.headline strong{font-size:18px;font-weight:600}
.headline span{color:var(--soft)}
.facts dt{color:var(--soft);font-size:13px;line-height:1.4}
.facts dd{overflow-wrap:anywhere}
.facts.strip{display:flex;flex-wrap:wrap;gap:16px 40px;margin-top:26px}
.facts.strip dd{font-weight:600}
.facts.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(44%,215px),1fr));gap:18px 32px;
margin:20px 0 28px}
.facts.list{columns:2;column-gap:48px;padding:4px 0 20px;font-size:14px}
.facts.list div{display:flex;justify-content:space-between;gap:18px;padding:4px 0;border-bottom:1px solid var(--line);
break-inside:avoid}
.facts.list dt{font-family:var(--mono);font-size:12.5px;line-height:1.7;overflow-wrap:anywhere}
.facts.list dd{text-align:right;max-width:62%}
details{border-top:1px solid var(--line)}
details:last-of-type{border-bottom:1px solid var(--line)}
summary{cursor:pointer;padding:11px 0;font-weight:600}
summary small{font-weight:400;margin-left:4px}
table{width:100%;border-collapse:collapse;margin-top:20px}
thead th{font-size:13px;font-weight:400;color:var(--soft);text-align:left;padding:6px 22px 8px 0;
border-bottom:1px solid var(--line);white-space:nowrap}
tbody th,td{text-align:left;vertical-align:top;padding:15px 22px 15px 0;border-bottom:1px solid var(--line);
font-weight:400}
tbody th strong{display:block;font-weight:600;line-height:1.35;padding-top:4px}
td:last-child,thead th:last-child{padding-right:0}
.score{display:block;font-size:21px;font-weight:600;line-height:1.35}
td>small{white-space:nowrap}
td p{font-size:14.5px;display:grid;grid-template-columns:64px 1fr;gap:12px;line-height:1.5}
td p small{line-height:21.75px}
.signature{display:block;font:12px/1.6 var(--mono);color:var(--soft);margin-top:5px;overflow-wrap:anywhere}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:36px 56px;margin-top:30px}
.columns.small{grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr));gap:30px 44px;margin-top:36px}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;gap:0 18px}
.legend{display:flex;flex-wrap:wrap;gap:0 16px;font-size:14px;color:var(--soft)}
.legend b{color:var(--ink);font-weight:600}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
i.c1{background:var(--one)}i.c2{background:var(--two)}i.c3{background:var(--three)}
.plot{position:relative;height:250px;margin:14px 2px 24px 48px}
.small .plot{height:130px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot path{vector-effect:non-scaling-stroke;fill:none}
.grid{stroke:var(--line);stroke-width:1}
.line{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.small .line{stroke-width:1.5}
.dots{stroke-width:6.5;stroke-linecap:round}
path.c1{stroke:var(--one)}path.c2{stroke:var(--two)}path.c3{stroke:var(--three)}
.rule{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.x span,.y span{position:absolute;font-size:12px;line-height:1;color:var(--soft);white-space:nowrap}
.y span{right:calc(100% + 9px);transform:translateY(-50%)}
.x span{top:calc(100% + 9px);transform:translateX(-50%)}
.x span:first-child{transform:none}
.axis{font-size:13px;color:var(--soft);margin-left:48px;display:flex;flex-wrap:wrap;justify-content:space-between;
gap:0 16px}
.bars{margin-top:14px;display:grid;grid-template-columns:fit-content(46%) 1fr;gap:9px 16px;align-items:center}
.bars>div{display:contents}
.bars dt{font-size:14px;line-height:1.3;overflow-wrap:anywhere}
.bars dd{display:grid;grid-template-columns:1fr 52px;gap:10px;align-items:center;font-size:14px}
.bars.noted dd{grid-template-columns:1fr 52px 60px}
.bars:not(.noted) dd small{display:none}
.bars b{text-align:right;font-weight:600}
.bars small{white-space:nowrap}
.bars svg{width:100%;height:12px;border-radius:2px;display:block}
.track{fill:var(--wash)}.strong{fill:var(--one)}.quiet{fill:var(--quiet)}
dd.quiet{color:var(--soft)}
.bars+.axis{margin:6px 0 0}
section>h3{margin:30px 0 0}
.samples{list-style:none}
.samples li{padding:14px 0;border-bottom:1px solid var(--line);break-inside:avoid}
.samples dl{display:grid;grid-template-columns:84px 1fr;gap:1px 14px}
.samples dt{font-size:13px;line-height:1.9;color:var(--soft)}
.samples dd{overflow-wrap:anywhere}
.tags{float:right;font-size:13px;line-height:1.9;color:var(--soft);margin-left:20px}
mark{color:inherit;background:var(--extra);box-shadow:inset 0 -2px var(--extra-line);padding:1px 3px;margin:0 -1px;
border-radius:2px;-webkit-box-decoration-break:clone;box-decoration-break:clone}
mark.missed{background:var(--missed);box-shadow:inset 0 -2px var(--missed-line)}
.attention{margin-top:26px;display:grid;grid-template-columns:minmax(0,auto) minmax(0,330px);gap:18px 48px;
justify-content:start;align-items:start}
.attention figcaption{grid-column:1/-1;font:italic 18px/1.4 var(--serif)}
.scroll{overflow-x:auto;padding-bottom:4px}
.heatmap{display:block;max-width:100%;height:auto}
.heatmap text{font:12.5px var(--sans);fill:var(--ink)}
.heatmap rect{fill:var(--one)}
.heatmap rect:hover{stroke:var(--two);stroke-width:2}
.frame{fill:none;stroke:var(--line)}
.reading{font-size:14px;color:var(--soft);min-height:1.6em;margin-top:8px}
.heads{display:grid;gap:5px;align-items:center;font-size:12px;color:var(--soft)}
.heads span{text-align:center;line-height:1.3}
.heads button{border:1px solid var(--line);border-radius:3px;background:none;padding:0;cursor:pointer;display:block;
width:100%;aspect-ratio:1;overflow:hidden}
.heads button:hover{border-color:var(--soft)}
.heads button[aria-pressed=true]{outline:2px solid var(--two);outline-offset:0}
.heads canvas{display:block;width:100%;height:100%;image-rendering:pixelated}
.choose{font:inherit;font-size:15px;color:inherit;background:var(--paper);border:1px solid var(--line);
border-radius:6px;padding:8px 10px;margin-top:18px;max-width:100%;width:560px}
.choose~.attention figcaption{display:none}
[hidden]{display:none!important}
@media (max-width:760px){.attention{grid-template-columns:minmax(0,1fr)}.heads{max-width:420px}}
@media (max-width:640px){
body{font-size:15.5px}
section{margin-top:48px}
.facts.list{columns:1}
.facts.strip{display:grid;grid-template-columns:1fr 1fr;gap:14px 20px}
thead{display:none}
tbody,tr,tbody th,td{display:block;padding:0}
tr{padding:14px 0;border-bottom:1px solid var(--line);display:grid;grid-template-columns:1fr 1fr;gap:4px 18px}
tbody th,td{border:0}
tbody th,td:last-child{grid-column:1/-1}
td[data-column]:not(:last-child):before{content:attr(data-column);font-size:13px;color:var(--soft)}
td.empty{display:none}
.axis,.plot{margin-left:42px}
.plot{height:210px}
.samples dl{grid-template-columns:62px 1fr;gap:1px 10px}
.tags{float:none;margin:0}
}
@media print{
:root{--paper:#fff}
body{font-size:13px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:none;padding:0}
section{margin-top:28px}
figure,tr{break-inside:avoid}
h2,h3,section>.note,.choose{break-after:avoid}
.columns{grid-template-columns:1fr 1fr;gap:24px 32px}
.columns.small{grid-template-columns:1fr 1fr 1fr}
.plot{height:190px}
.small .plot{height:100px}
td p{font-size:12px}
.choose{display:none}.choose~.attention figcaption{display:block}
}
"""

_SCRIPT = """
'use strict';
const say = value => {
  const size = Math.abs(value);
  if (size >= 1e6) return (value / 1e6).toPrecision(4).replace(/\\.?0+$/, '') + ' M';
  if (size >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  return size < 1e-3 ? Number(value.toPrecision(3)).toExponential() : String(Number(value.toPrecision(4)));
};

// Charts: the values under the pointer take the place of the last ones in the legend.
for (const chart of document.querySelectorAll('[data-chart]')) {
  const {end, lines} = JSON.parse(chart.dataset.chart);
  const plot = chart.querySelector('.plot'), svg = plot.querySelector('svg'), where = chart.querySelector('.where');
  const shown = [...chart.querySelectorAll('.legend b')], last = shown.map(each => each.textContent);
  const label = where.textContent;
  const rule = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  rule.setAttribute('class', 'rule');
  svg.append(rule);
  plot.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * end;
    const nearest = lines.map(points => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const at = nearest.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)[0];
    rule.setAttribute('d', `M${100 * at / end} 0V100`);
    nearest.forEach((point, index) => { shown[index].textContent = say(point[1]); });
    where.textContent = `${label} ${say(Math.round(at))}`;
  });
  plot.addEventListener('pointerleave', () => {
    rule.removeAttribute('d');
    shown.forEach((each, index) => { each.textContent = last[index]; });
    where.textContent = label;
  });
}

// Attention: one thumbnail a head; the chosen one is drawn large.
const panels = [...document.querySelectorAll('.attention')];
const dark = matchMedia('(prefers-color-scheme: dark)');
for (const panel of panels) {
  const {shape: [layers, heads, rows, columns], levels} = JSON.parse(panel.querySelector('script').textContent);
  const bytes = Uint8Array.from(atob(levels), each => each.charCodeAt(0)), size = rows * columns;
  const cells = [...panel.querySelectorAll('rect')], names = [...panel.querySelectorAll('.heatmap text')];
  const reading = panel.querySelector('.reading'), grid = panel.querySelector('.heads'), thumbnails = [];
  const weightsOf = (layer, head) => {
    const weights = new Float32Array(size);
    const chosen = head < 0 ? [...Array(heads).keys()] : [head];
    for (const each of chosen)
      for (let i = 0; i < size; i++) weights[i] += bytes[(layer * heads + each) * size + i] / 255 / chosen.length;
    return weights;
  };
  let weights, name;
  const show = (layer, head, button) => {
    weights = weightsOf(layer, head);
    name = `layer ${layer + 1}, ${head < 0 ? 'mean of heads' : 'head ' + (head + 1)}`;
    cells.forEach((cell, i) => cell.setAttribute('fill-opacity', weights[i].toFixed(2)));
    reading.textContent = name;
    for (const each of thumbnails) each.button.setAttribute('aria-pressed', each.button === button);
  };
  const draw = () => {
    const pixel = document.createElement('canvas').getContext('2d');
    pixel.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--one');
    pixel.fillRect(0, 0, 1, 1);
    const [red, green, blue] = pixel.getImageData(0, 0, 1, 1).data;
    for (const {canvas, layer, head} of thumbnails) {
      const context = canvas.getContext('2d'), picture = context.createImageData(columns, rows);
      weightsOf(layer, head).forEach((each, i) => picture.data.set([red, green, blue, 255 * each], 4 * i));
      context.putImageData(picture, 0, 0);
    }
  };
  grid.style.gridTemplateColumns = `auto repeat(${heads + 1}, minmax(0, 52px))`;
  const say = words => { const span = document.createElement('span'); span.textContent = words; grid.append(span); };
  say('');
  say('mean');
  for (let head = 0; head < heads; head++) say(head + 1);
  for (let layer = 0; layer < layers; layer++) {
    say(layer ? layer + 1 : layers > 1 ? 'layer 1' : 'layer');
    for (let head = -1; head < heads; head++) {
      const button = document.createElement('button'), canvas = document.createElement('canvas');
      button.type = 'button';
      button.title = `layer ${layer + 1}, ${head < 0 ? 'mean of heads' : 'head ' + (head + 1)}`;
      button.setAttribute('aria-label', button.title);
      canvas.width = columns;
      canvas.height = rows;
      button.append(canvas);
      grid.append(button);
      thumbnails.push({button, canvas, layer, head});
      button.addEventListener('click', () => show(layer, head, button));
    }
  }
  draw();
  dark.addEventListener('change', draw);
  show(layers - 1, -1, thumbnails[(layers - 1) * (heads + 1)].button);
  panel.addEventListener('pointerover', event => {
    const i = cells.indexOf(event.target);
    if (i < 0) { reading.textContent = name; return; }
    const target = names[Math.floor(i / columns)].textContent, source = names[rows + i % columns].textContent;
    reading.textContent = `${name}: ${target} → ${source} ${weights[i].toFixed(2)}`;
  });
}
if (panels.length > 1) {
  const choose = document.createElement('select');
  choose.className = 'choose';
  choose.setAttribute('aria-label', 'sentence');
  panels.forEach((panel, index) => choose.add(new Option(panel.querySelector('figcaption').textContent, index)));
  const pick = () => panels.forEach((panel, index) => { panel.hidden = index !== Number(choose.value); });
  choose.addEventListener('change', pick);
  panels[0].before(choose);
  pick();
}
"""
