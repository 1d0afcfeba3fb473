"""Builds the page of a language model's run: scores, curves, what it wrote by step, held-out text by its surprise."""

from pathlib import Path
from typing import Any

from lmx.report.charts import Bar, Line, bar_chart, line_chart
from lmx.report.files import best_of, is_number, of_kind, points_of, read_json, read_json_lines, read_scores
from lmx.report.page import Html, columns_of, facts, number, page, plain, section, text
from lmx.report.sections import big_number, header, placing_facts, score_table, setup_section, sureness_of

DIGITS = 4
# Bits from which a token has the next darker colour: a token of 1 bit had a probability of 1/2, of 4 bits of 1/16.
LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
STYLE = """
.surprise{font:15px/1.9 var(--mono);white-space:pre-wrap;overflow-wrap:anywhere;margin:16px 0 26px}
.surprise span{border-radius:2px}
.surprise .none{color:var(--soft)}
.written{white-space:pre-wrap;font:14px/1.6 var(--mono)}
""" + "".join(
    f".surprise .s{level}{{background:color-mix(in srgb,var(--two) {14 * level}%,transparent)}}"
    for level in range(1, len(LEVELS) + 1)
)
ACCOUNT = {
    "steps": "steps",
    "starting": "start",
    "compiling": "compiling",
    "data": "waiting for data",
    "validation": "validation",
    "checkpoints": "checkpoints",
    "results": "test and report",
}


def language_page(run_directory: Path) -> Html:
    """Returns the page of a language model's run, from the files of its directory."""
    config = read_json(run_directory / "config.json", dict)
    versions = read_json(run_directory / "versions.json", dict)
    start = read_json(run_directory / "start.json", dict)
    scores = read_scores(run_directory / "scores.json")
    metrics = read_json_lines(run_directory / "metrics.jsonl", "kind", "step")
    return page(
        config.get("preset") or run_directory.resolve().name,
        header(config, _headline(scores, of_kind(metrics, "validation")), placing_facts(versions, start, metrics)),
        section("Scores", score_table(scores.get("rows") or [], digits=DIGITS), note=scores.get("test", "")),
        _learning_section(metrics),
        _samples_section(read_json_lines(run_directory / "written.jsonl", "step", "prompt", "text")),
        _surprise_section(read_surprise(run_directory / "surprise.json")),
        _optimizer_section(of_kind(metrics, "train"), start),
        _time_section(read_json(run_directory / "account.json", dict)),
        setup_section(config, versions, start),
        style=STYLE,
    )


def read_surprise(path: Path) -> list[dict[str, Any]]:
    """Returns the texts of a surprise.json.

    Raises:
        ValueError: one has not a number, or none, for each piece; names the file.
    """
    texts = read_json(path, list)
    for position, each in enumerate(texts):
        pieces, bits = (each.get(name) if isinstance(each, dict) else None for name in ("pieces", "bits"))
        if not isinstance(pieces, list) or not isinstance(bits, list) or len(pieces) != len(bits):
            raise ValueError(f"{path} entry {position} must have as many pieces as bits.")
        if not all(value is None or is_number(value) for value in bits):
            raise ValueError(f"{path} entry {position} must have numbers in bits, or null.")
    return texts


def _headline(scores: dict, validation: list[dict]) -> Html:
    """Returns the main score: the first of scores.json, or else the best loss of a validation."""
    rows = scores.get("rows") or []
    if rows:
        return big_number(f"{rows[0]['score']:.{DIGITS}f}", rows[0]["name"], sureness_of(rows[0], digits=DIGITS))
    best = best_of(validation, "nll", min)
    if not best:
        return Html("")
    lines = [f"at step {number(best[0])}", "the text is not scored yet"]
    return big_number(f"{best[1]:.{DIGITS}f}", "best validation loss", lines)


def _learning_section(metrics: list[dict]) -> Html:
    """Returns the curves of what is learned."""
    train, validation = of_kind(metrics, "train"), of_kind(metrics, "validation")
    best = best_of(validation, "nll", min)
    note = f"best on validation: {best[1]:.{DIGITS}f} at step {number(best[0])}" if best else ""
    lines = [
        Line(label="train", points=points_of(train, "nll")),
        Line(label="validation", points=points_of(validation, "nll"), dots=True),
    ]
    bits = [Line(label="validation", points=points_of(validation, "bits_per_byte"), dots=True)]
    return section(
        "Learning",
        columns_of(line_chart(lines, title="Nats a token", note=note), line_chart(bits, title="Bits a byte")),
    )


def _samples_section(samples: list[dict]) -> Html:
    """Returns what the model wrote, the newest first."""
    items = []
    for each in sorted(samples, key=lambda each: each["step"], reverse=True):
        prompt = f"<span class=none>{text(each['prompt'])}</span>"
        items.append(
            f"<li><p class=tags>step {number(each['step'])}</p>"
            f"<div class='surprise written'>{prompt}{text(each['text'])}</div></li>"
        )
    return section(
        "What it writes",
        Html(f"<ol class=samples>{''.join(items)}</ol>") if items else Html(""),
        note="The prompt is grey. The same prompt and the same random numbers at each step.",
    )


def _surprise_section(texts: list[dict[str, Any]]) -> Html:
    """Returns held-out text, each token the darker the less it was expected."""
    shown = []
    for each in texts:
        spans = []
        for piece, bits in zip(each["pieces"], each["bits"], strict=True):
            level = "none" if bits is None else f"s{sum(bits >= bound for bound in LEVELS)}"
            told = "" if bits is None else f" title='{bits:g} bits'"
            spans.append(f"<span class={level}{told}>{text(_readable(str(piece)))}</span>")
        shown.append(Html(f"<div class=surprise>{''.join(spans)}</div>"))
    bounds = ", ".join(f"{bound:g}" for bound in LEVELS)
    return section(
        "How much each token surprised the model",
        *shown,
        note=f"Held-out text. The darker, the less expected: from {bounds} bits on. Grey is not predicted.",
    )


def _optimizer_section(train: list[dict], start: dict) -> Html:
    """Returns what the optimizer took: gradients, parameters, rate, speed, and which parameters are whose."""
    names = [name for name in start if name.startswith("updated_by_") or name == "frozen"]
    curves = (
        ("learning_rate", "Learning rate"),
        ("gradient_norm", "Gradient norm, before it is clipped"),
        ("parameter_norm", "Parameter norm"),
        ("tokens_per_second", "Tokens a second"),
    )
    charts = (
        line_chart([Line(label="", points=points_of(train, key))], title=title, small=True) for key, title in curves
    )
    groups = facts([(name.replace("_", " "), plain(start[name])) for name in names], style="grid")
    return section("What the optimizer took", columns_of(*charts, small=True), groups)


def _time_section(account: dict) -> Html:
    """Returns where the run's time went, over all of its starts."""
    seconds, total = account.get("seconds"), account.get("total")
    if not isinstance(seconds, dict) or not is_number(total) or total <= 0:
        return Html("")
    bars = [
        Bar(label=label, value=100 * seconds[kind] / total, note=f"{seconds[kind]:,.0f} s", strong=kind == "steps")
        for kind, label in ACCOUNT.items()
        if is_number(seconds.get(kind))
    ]
    starts = len(account.get("starts") or [])
    note = f"{total:,.0f} s in {starts} start{'s' * (starts != 1)}"
    if is_number(account.get("repeated")) and account["repeated"]:
        note += f"; {account['repeated']:,.0f} s of steps were made again, after a restart"
    return section("Where the time went", bar_chart(bars, title="Share of wall time", form="{:.1f}%"), note=note)


def _readable(piece: str) -> str:
    """Returns a piece as it stands in the text: word marks and line ends undone."""
    if piece in ("↵", "<0x0A>", "\n"):
        return "↵\n"
    if piece == "<0x20>":
        return " "
    return piece.replace("▁", " ")
