"""The part of a classifier's page that shows single texts: mistakes, and what moved decisions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.report.charts import Line, line_chart
from lmx.report.classes import marked_words
from lmx.report.files import is_number, read_json
from lmx.report.page import Html, number, section, text

MAX_MISTAKES = 25
MAX_EXPLANATIONS = 12
MAX_LETTERS = 900  # of a text that is shown: a page is no archive
MAX_PIECES = 64  # of an attention map: a cell is an element of the page


# Single texts.


def mistakes_section(mistakes: list[dict], *, regression: bool) -> Html:
    """Returns the texts on which the model is most sure and wrong."""
    items = "".join(
        f"<li>{_answer(each['prediction'], each.get('probability'), each['label'])}{_text(each['text'])}</li>"
        for each in mistakes[:MAX_MISTAKES]
    )
    first = "The most confident first: where labels may be wrong, and where the model is."
    if regression:
        first = "Far from the truth: where labels may be wrong, and where the model is."
    count = len(mistakes)
    shown = f"{min(count, MAX_MISTAKES)} of {number(count)} in mistakes.jsonl" if count > MAX_MISTAKES else ""
    return section(
        "Mistakes",
        Html(f"<ol class=texts>{items}</ol>") if items else Html(""),
        note=f"{first} {shown}".strip(),
    )


def reasons_section(explanations: list[dict], *, regression: bool) -> Html:
    """Returns the words that moved the decision on a few texts, and whether deleting them changes it."""
    shown = explanations[:MAX_EXPLANATIONS]
    curves = _deletion_curves([each["deletion"] for each in shown if each.get("deletion")])
    chart = _deletion_chart(curves, title="Does deleting these words matter?", regression=regression)
    what = "the number that it says" if regression else "its probability"
    check = Html(
        f"<div class=beside style='align-items:center'><div style='flex:1 1 340px'>{chart}</div><div><p class=note>"
        "The test of the colours below: the words that are said to have moved the decision most are deleted, one more "
        f"at a time. If they are what the model goes by, {what} falls faster than without random words. "
        f"<b>{text(_finding(curves, regression=regression))}</b></p></div></div>"
    )
    legend = Html(
        "<div class='legend apart'><span><i class=for></i>towards the decision</span>"
        "<span><i class=against></i>against it</span></div>"
    )
    items = "".join(_explanation(each, alone=len(shown) < 2, regression=regression) for each in shown)
    return section(
        "What moved the decision",
        check if chart else Html(""),
        Html(f"{legend}<ol class=texts>{items}</ol>") if items else Html(""),
        note="How much each word moved the model towards what it chose, by integrated gradients.",
    )


def _finding(curves: dict[str, list[float]], *, regression: bool) -> str:
    """Says whether the marked words matter more than any: by how far the probability falls, over all deletions."""
    steps = min((len(curve) for curve in curves.values()), default=0)
    if set(curves) != {"most", "random"} or steps < 2:
        return ""
    falls = [curve[0] - float(np.mean(curve[1:steps])) for curve in (curves["most"], curves["random"])]
    most, random = (f"{fall:.2f}" if regression else f"{100 * fall:.0f} points" for fall in falls)
    verdict = (
        "they matter more" if falls[0] > falls[1] else "they matter no more than others, so do not trust the colours"
    )
    return f"Without the marked words it falls by {most} on average, without random ones by {random}: {verdict}."


def _explanation(entry: dict, *, alone: bool, regression: bool) -> Html:
    chart = Html("")
    if not alone and entry.get("deletion"):
        curves = _deletion_curves([entry["deletion"]])
        chart = _deletion_chart(curves, title="After deleting", regression=regression, small=True)
    gap = entry.get("gap")
    exact = f"<p class=moved>the parts add up to the whole but for {number(abs(gap))}</p>" if is_number(gap) else ""
    return Html(
        f"<li>{_answer(entry.get('prediction'), entry.get('probability'), entry.get('label'))}"
        f"<div class='explained{'' if chart else ' alone'}'>"
        f"<div>{marked_words([(str(word), value) for word, value in entry['words']])}{exact}</div>{chart}</div></li>"
    )


def _deletion_curves(deletions: Sequence[dict]) -> dict[str, list[float]]:
    """Returns the mean probability (or number) predicted by how many words are deleted: the marked ones, and any."""
    means = {}
    for key in ("most", "random"):
        curves = [each[key] for each in deletions if each.get(key)]
        longest = max(map(len, curves), default=0)
        # The curve of a short text ends early: where it ends, a mean over the rest would jump.
        if whole := [curve for curve in curves if len(curve) == longest]:
            means[key] = np.mean(whole, axis=0).tolist()
    return means


def _deletion_chart(curves: dict[str, list[float]], *, title: str, regression: bool, small: bool = False) -> Html:
    labels = {"most": "marked", "random": "random"} if small else {"most": "marked words", "random": "random words"}
    lines = [Line(label=labels[key], points=list(enumerate(curve)), dots=True) for key, curve in curves.items()]
    return line_chart(lines, title=title, x_label="words deleted", small=small, y_range=None if regression else (0, 1))


def _answer(prediction: Any, probability: Any, label: Any) -> Html:
    """Returns what the model said, how sure it was, and what is true, on one line."""
    sure = f" {100 * probability:.1f}%" if is_number(probability) else ""
    right = "" if label is None else "right" if label == prediction else f"true <b>{text(_said(label))}</b>"
    answer = f"<span>predicted <b>{text(_said(prediction))}</b>{sure}</span>"
    return Html(f"<p class=answer>{answer}{f'<span>{right}</span>' if right else ''}</p>")


def _said(label: Any) -> str:
    """Returns a label as a person writes it: a name, several, or a number."""
    if isinstance(label, list | tuple):
        return ", ".join(map(str, label)) or "no label"
    if re.fullmatch(r"-?\d+\.\d{4,}", str(label)):  # a number with all its digits, as regression predicts it
        label = float(label)
    return f"{label:.3g}" if isinstance(label, float) else str(label)


def _text(value: Any) -> Html:
    """Returns a text, or the two of a pair, cut where it is very long."""
    parts = value if isinstance(value, list) else [value]
    return Html("".join(f"<p class=said>{text(_cut(str(part)))}</p>" for part in parts))


def _cut(value: str) -> str:
    left_out = len(value) - MAX_LETTERS
    return f"{value[:MAX_LETTERS]}… ({left_out:,} letters more)" if left_out > 0 else value


def one_line(value: Any) -> str:
    """Returns a text on one line."""
    return " / ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_explanations(path: Path) -> list[dict]:
    """Returns the explanations; each has words with numbers, and curves that are numbers."""
    entries = read_json(path, list)
    for position, entry in enumerate(entries):
        words = entry.get("words") if isinstance(entry, dict) else None
        if not isinstance(words, list) or not all(
            isinstance(word, list) and len(word) == 2 and is_number(word[1]) for word in words
        ):
            raise ValueError(f"{path} entry {position} must have words [[word, number], ...], got {str(words)[:80]}.")
        for key, curve in (entry.get("deletion") or {}).items():
            if not isinstance(curve, list) or not all(map(is_number, curve)):
                raise ValueError(f"{path} entry {position} deletion {key} must be numbers, got {str(curve)[:80]}.")
    return entries
