"""Builds what the pages of all tasks have: the title, the table of scores, attention maps, how a run was set up."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmx.report.charts import Line, heatmap, line_chart
from lmx.report.files import AttentionMap, best_of, is_number, of_kind, points_of
from lmx.report.page import Html, columns_of, facts, number, plain, section, signed, table, text

MAX_ATTENTION_BYTES = 700_000  # of all maps together, one byte a weight: keeps the page well under 2 MB.


def header(config: dict, headline: Html, placing: Sequence[tuple[str, str | None]]) -> Html:
    """Returns the title, the one number that matters, and the few facts that place it; a fact of None is left out."""
    what = " · ".join(str(config[key]) for key in ("experiment", "family") if config.get(key))
    return Html(
        "<header>"
        + f"<p class=eyebrow>lmx{' · ' + text(what) if what else ''}</p>"
        + f"<h1>{text(config.get('preset') or 'run')}</h1>"
        + headline
        + facts([(name, value) for name, value in placing if value is not None], style="strip")
        + "</header>"
    )


def placing_facts(versions: dict, start: dict, metrics: list[dict]) -> list[tuple[str, str | None]]:
    """Returns how large the run was, how far it went and what it cost; None for what is not known."""
    train, validation = of_kind(metrics, "train"), of_kind(metrics, "validation")
    epochs = [record["epoch"] for record in metrics if is_number(record.get("epoch"))]
    best = best_of(validation, "loss", min)
    speeds = [record["tokens_per_second"] for record in train if is_number(record.get("tokens_per_second"))]
    device = versions.get("device") or start.get("devices")
    skipped = max((record["skipped"] for record in train if is_number(record.get("skipped"))), default=0)
    return [
        ("parameters", number(start["parameters"]) if is_number(start.get("parameters")) else None),
        ("updates", number(max(record["step"] for record in metrics)) if metrics else None),
        ("epochs", f"{max(epochs):.1f}" if epochs else None),
        ("best validation loss", f"{number(best[1])} at step {number(best[0])}" if best else None),
        ("tokens a second, median", number(float(np.median(speeds))) if speeds else None),
        ("training time", _training_time(train)),
        ("device", plain(device) if device else None),
        ("steps skipped, not finite", number(skipped) if skipped else None),
    ]


def _training_time(train: list[dict]) -> str | None:
    """Returns the seconds since the start of training, if that is what every record holds."""
    seconds = [record["seconds"] for record in train if is_number(record.get("seconds"))]
    if len(seconds) < max(2, len(train)) or seconds != sorted(seconds):
        return None
    minutes, rest = divmod(round(seconds[-1]), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def sureness_of(row: dict, *, digits: int = 2) -> list[str]:
    """Returns how sure a score is and how far from the published one, a line each."""
    lines = []
    if row.get("interval"):
        low, high = row["interval"]
        lines.append(f"95% interval {low:.{digits}f} to {high:.{digits}f}")
    if is_number(row.get("published")):
        difference = signed(row["score"] - row["published"], digits=digits)
        lines.append(f"published {row['published']:.{digits}f}, a difference of {difference}")
    return lines


def big_number(value: str, label: str, lines: Sequence[str]) -> Html:
    """Returns the number of a page large, with what it is and what else to know of it."""
    notes = "".join(f"<span>{text(line)}</span>" for line in lines)
    return Html(f"<div class=headline><b>{text(value)}</b><p><strong>{text(label)}</strong>{notes}</p></div>")


def test_of(config: dict) -> str:
    """Returns why a run has no score of a test set."""
    chosen = config.get("config")
    if not isinstance(chosen, dict) or "test" not in chosen:
        chosen = {"test": ""}
    # What is embedded has a test set that need not be named, and a fold is one.
    has_none = chosen["test"] is None and chosen.get("train") not in ("stdlib", "digits") and not config.get("fold")
    return "there is no test set" if has_none else "the test set is not scored yet"


def score_table(rows: Sequence[dict], *, digits: int = 2) -> Html:
    """Returns scores with how each was made and the published numbers beside them, or nothing without rows."""
    cells = []
    for row in rows:
        interval = row.get("interval")
        published = row.get("published")
        difference = ""
        if is_number(published):
            inside = interval and interval[0] <= published <= interval[1]
            difference = signed(row["score"] - published, digits=digits) + (" · inside our interval" if inside else "")
        cells.append(
            [
                Html(f"<strong>{text(row['name'])}</strong>"),
                Html(
                    f"<b class=score>{row['score']:.{digits}f}</b>"
                    + (f"<small>{interval[0]:.{digits}f} to {interval[1]:.{digits}f}</small>" if interval else "")
                ),
                Html(f"<b class=score>{published:.{digits}f}</b><small>{difference}</small>")
                if difference
                else Html(""),
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
    return table(columns, cells, style="scores") if cells else Html("")


def _labelled(label: str, value: Any) -> Html:
    return Html(f"<p><small>{text(label)}</small><span>{text(value)}</span></p>" if value else "")


def _breakable(signature: str) -> Html:
    return Html(text(signature).replace("|", "|<wbr>"))


def steering_curves(train: list[dict]) -> Html:
    """Returns small curves of what steers and costs a training."""
    return columns_of(
        *(
            line_chart([Line(label="", points=points_of(train, key))], title=title, small=True)
            for key, title in (
                ("learning_rate", "Learning rate"),
                ("gradient_norm", "Gradient norm"),
                ("tokens_per_second", "Tokens a second"),
            )
        ),
        small=True,
    )


def attention_section(attention: Sequence[AttentionMap], *, note: str, left_out: int = 0) -> Html:
    """Returns the attention maps of a few texts; the script lets one choose text, layer and head.

    Args:
        attention: maps; those that would make the page too large are left out, which the note says.
        note: what a row and a column are.
        left_out: how many the caller has left out already.
    """
    panels, spent = [], 0
    for entry in attention:
        weights = entry.weights
        if spent + weights.size > MAX_ATTENTION_BYTES:
            left_out += 1
            continue
        spent += weights.size
        levels = np.round(np.clip(weights, 0.0, 1.0) * 255).astype(np.uint8)
        last = weights[-1].mean(axis=0)
        drawn = heatmap(last, rows=entry.rows, columns=entry.columns, label="attention weights")
        data = json.dumps({"shape": weights.shape, "levels": base64.b64encode(levels.tobytes()).decode("ascii")})
        panels.append(
            f"<figure class=attention><figcaption>{text(entry.caption)}</figcaption>"
            f"<div class=map><div class=scroll>{drawn}</div>"
            f"<p class=reading>layer {len(weights)}, mean of heads</p></div>"
            f"<div class=heads></div><script type=application/json>{data}</script></figure>"
        )
    if left_out:
        note += f" {left_out} more of attention.json left out for size."
    return section("Attention", *(Html(panel) for panel in panels), note=note)


def setup_section(config: dict, versions: dict, start: dict) -> Html:
    """Returns how it was set up: start-up facts, configuration, versions."""
    pairs = [(key.replace("_", " "), _start_fact(key, value)) for key, value in start.items()]
    folds = [
        _fold("Experiment config", config.get("config")),
        _fold("Model config", config.get("model")),
        _fold("Versions", versions),
    ]
    return section("Setup", facts(pairs, style="grid") if pairs else Html(""), *folds)


def _start_fact(key: str, value: Any) -> str:
    if key == "batch_shapes" and isinstance(value, list):
        return ", ".join("\u00a0×\u00a0".join(str(size) for size in shape) for shape in value)
    if key.startswith("padding") and is_number(value):
        return f"{value:.1%}"
    if key.endswith("_seconds") and is_number(value):
        return f"{value:.1f} s"
    return plain(value)


def _fold(title: str, values: Any) -> Html:
    pairs = list(_flat(values)) if isinstance(values, Mapping) else []
    if not pairs:
        return Html("")
    return Html(
        f"<details><summary>{text(title)} <small>{len(pairs)}</small></summary>{facts(pairs, style='list')}</details>"
    )


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of a nested mapping under their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)
