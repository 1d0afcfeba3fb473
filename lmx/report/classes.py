"""Draws what only a classification has: confusions, scores by class, calibration, words that moved a decision.

From names and numbers alone, as lmx/report/charts.py. Choosing what stands on the page, and where the numbers come
from, is lmx/report/classification.py's.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int

from lmx.report.page import Html, Number, number, table, text

MAX_DRAWN_CLASSES = 40  # rows of a matrix that still have room for their names; more would be a texture
MAX_LISTED_CLASSES = 30  # before the rest is folded away
MAX_CONFUSIONS = 8
FEW_TEXTS = 10  # of a bin of the calibration: its height is chance for the most part
FAINTEST = 0.12  # of a cell that is not empty: one text in a thousand still has a colour
# The most classes, and the pixels of a cell.
_CELLS = ((3, 92), (6, 68), (10, 52), (14, 38), (24, 29), (MAX_DRAWN_CLASSES, 22))
_LETTER = 7.3  # pixels of a letter of a label, on average

STYLE = """
.verdict{font-size:19px;line-height:1.45;max-width:62ch;border-left:3px solid var(--one);padding-left:16px}
.beside{display:flex;flex-wrap:wrap;align-items:flex-start;gap:26px 56px;margin-top:26px}
.beside>figure{min-width:0;max-width:100%}
.beside>div{flex:1 1 260px;min-width:0;max-width:440px}
.plot path.band{stroke:none;fill-opacity:.17}
.band.c1{fill:var(--one)}.band.c2{fill:var(--two)}.band.c3{fill:var(--three)}
.confusion{display:block;height:auto;margin-top:14px}
.confusion text{font:12.5px var(--sans);fill:var(--ink)}
.confusion .cell{text-anchor:middle;pointer-events:none;font-weight:600}
.confusion .fine{font-size:11px;font-weight:400}
.confusion .right{fill:var(--one)}.confusion .wrong{fill:var(--two)}
.confusion text.full{fill:var(--paper)}
.confusion text.full.off{fill:var(--ink)}
@media screen and (prefers-color-scheme:dark){.confusion text.half,.confusion text.full.off{fill:var(--paper)}}
.legend i.square{width:12px;height:12px;border-radius:2px}
.confusions{padding-left:0;list-style:none;margin-top:8px}
.confusions li{padding:7px 0;border-bottom:1px solid var(--line);font-size:14.5px;overflow-wrap:anywhere}
.confusions small{white-space:nowrap}
.numbers{overflow-x:auto}
.numbers table{width:auto;margin:0 0 14px;font-size:13px}
.numbers td,.numbers tbody th{padding:5px 16px 5px 0;text-align:right}
.numbers tbody th{text-align:left;color:var(--soft)}
.numbers thead th{text-align:right;padding:5px 16px 5px 0}
.numbers thead th:first-child{text-align:left}
.numbers .none{color:var(--quiet)}
.classes{table-layout:fixed}
.classes tbody th,.classes td{padding-top:9px;padding-bottom:9px;vertical-align:middle}
.classes tbody th{overflow-wrap:anywhere;width:26%}
.classes thead th:first-child{width:26%}
.meter{display:grid;grid-template-columns:1fr 46px;gap:10px;align-items:center;font-size:14px}
.meter b{text-align:right;font-weight:400}
.meter .main{font-weight:600}
.meter svg{width:100%;height:12px;border-radius:2px;display:block}
.plot .bin{fill:var(--one);fill-opacity:.24;stroke:none}
.plot .gap{fill:var(--two);fill-opacity:.34;stroke:none}
.plot .count{fill:var(--quiet);stroke:none}
.reliability{max-width:520px}
.reliability .plot{height:340px}
.reliability .plot.counts{height:54px;margin:34px 2px 8px 48px}
.few{opacity:.4}
.beside+details{margin-top:24px}
.seeds{max-width:680px}
.seeds tbody th strong{padding-top:0;line-height:1.55}
.seeds tbody th,.seeds td{padding-top:9px;padding-bottom:9px}
.legend i.dash{background:none;border-top:2px dashed var(--soft);height:0;border-radius:0}
.legend i.bin{background:color-mix(in srgb,var(--one) 30%,transparent);width:12px;height:12px}
.legend i.gap{background:color-mix(in srgb,var(--two) 40%,transparent);width:12px;height:12px}
.texts{list-style:none}
.note b{color:var(--ink);font-weight:600}
.texts>li{padding:12px 0;border-bottom:1px solid var(--line);break-inside:avoid}
.texts .said{overflow-wrap:anywhere;white-space:pre-line;max-width:78ch}
.texts .said+.said{margin-top:6px}
.answer{display:flex;flex-wrap:wrap;gap:0 22px;font-size:14px;color:var(--soft);margin-bottom:4px}
.answer b{color:var(--ink);font-weight:600}
.explained{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,250px);gap:14px 44px}
.explained.alone{grid-template-columns:minmax(0,1fr)}
.words{line-height:2;overflow-wrap:anywhere;max-width:74ch}
.words span{padding:2px 3px;margin:0 -1px;border-radius:2px;border-bottom:2px solid transparent;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
.for{background:color-mix(in srgb,var(--one) var(--w),transparent)}
.against{background:color-mix(in srgb,var(--two) var(--w),transparent)}
.words .for.much{border-bottom-color:var(--one)}
.words .against.much{border-bottom:2px dashed var(--two)}
.legend i.for,.legend i.against{width:22px;height:12px;--w:45%}
.legend i.for{border-bottom:2px solid var(--one)}.legend i.against{border-bottom:2px dashed var(--two)}
.moved{font-size:14px;color:var(--soft);margin-top:8px;overflow-wrap:anywhere}
.legend.apart{margin-top:30px}
.moved span{display:block}
.explained .plot{height:84px}
.moved b{color:var(--ink);font-weight:600}
@media (max-width:760px){.explained{grid-template-columns:minmax(0,1fr)}.explained .chart{max-width:340px}}
@media (max-width:640px){
.classes td:last-child,.seeds td:last-child{grid-column:auto}
.classes td[data-column]:before,.seeds td[data-column]:before{content:attr(data-column)!important;display:block;
font-size:13px;color:var(--soft)}
.seeds tbody th,.seeds td,.classes tbody th,.classes td{padding:0;width:auto}
.seeds tr{grid-template-columns:1fr 1fr 1fr}
.numbers thead{display:table-header-group}
.numbers tbody{display:table-row-group}
.numbers tr{display:table-row}
.numbers tbody th,.numbers td{display:table-cell;padding:5px 14px 5px 0;border-bottom:1px solid var(--line)}
.numbers td[data-column]:before{content:none!important}
.reliability .plot{height:270px}
}
@media print{.reliability .plot{height:230px}.classes tbody th,.classes td{padding-top:4px;padding-bottom:4px}}
"""
"""What these drawings add to the style of every page."""


def confusion_matrix(counts: Int[np.ndarray, "C C"], *, names: Sequence[str], unit: str = "text") -> Html:
    """Returns the texts by true class (a row) and predicted class (a column), and beside it the most frequent mistakes.

    With many classes, it draws those that take part in the most mistakes. The colour of a cell is its share of the row;
    the counts are written where there is room, and stand in a table for those who cannot see the picture.

    Args:
        counts: of texts.
        names: of the classes.
        unit: what a text is called.
    """
    totals = counts.sum(axis=1)
    wrong = counts * (1 - np.eye(len(names), dtype=counts.dtype))
    chosen = list(range(len(names)))
    if len(names) > MAX_DRAWN_CLASSES:
        mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
        chosen = sorted(np.argsort(-mistakes, kind="stable")[:MAX_DRAWN_CLASSES].tolist())
    shares = counts / np.maximum(totals, 1)[:, None]
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(each), len(names)) for each in order]
    listed = "".join(
        f"<li>{text(names[true])} taken for {text(names[predicted])} "
        f"<small>{_texts(int(counts[true, predicted]), unit)}, {shares[true, predicted]:.0%} of the class</small></li>"
        for true, predicted in pairs
        if wrong[true, predicted]
    )
    right = int(counts.trace())
    summary = (
        f"Confusion matrix of {len(names)} classes: {right:,} of {int(counts.sum()):,} {unit}s are on the diagonal."
    )
    left_out = f"The {len(chosen)} of {len(names)} classes with the most mistakes. " if len(chosen) < len(names) else ""
    return Html(
        "<h3>Confusion</h3>"
        f"<p class=note>{left_out}A row is a true class, a column a predicted one; the stronger a colour, "
        "the larger the share of the row.</p>"
        "<div class=beside><figure><figcaption><div class=legend><span><i class='c1 square'></i>right</span>"
        "<span><i class='c2 square'></i>wrong</span></div></figcaption>"
        f"<div class=scroll>{_matrix_picture(counts, shares, chosen, names, summary)}</div></figure>"
        + (f"<div><h3>Most frequent mistakes</h3><ul class=confusions>{listed}</ul></div>" if listed else "")
        + "</div>"
        + _matrix_numbers(counts, chosen, names)
    )


def _matrix_picture(
    counts: np.ndarray, shares: np.ndarray, chosen: list[int], names: Sequence[str], summary: str
) -> Html:
    size = len(chosen)
    cell = next(pixels for most, pixels in _CELLS if size <= most)
    labels = [_clipped(names[each], 24) for each in chosen]
    longest = max(len(label) for label in labels)
    level = longest * _LETTER <= cell - 4
    reach = 0.0 if level else _LETTER * longest  # labels lean by 60 degrees
    left, top = 18 + _LETTER * longest, 24 + 0.87 * reach
    width, height = left + cell * size + max(12.0, 0.5 * reach), top + cell * size + 4
    parts = []
    for place, label in enumerate(labels):
        middle = cell * (place + 0.5)
        parts.append(f"<text x={left - 9:.0f} y={top + middle + 4:.1f} text-anchor=end>{text(label)}</text>")
        at = f"{left + middle:.1f} {top - 8:.1f}"
        parts.append(
            f"<text transform='translate({at})' text-anchor=middle>{text(label)}</text>"
            if level
            else f"<text transform='translate({at})rotate(-60)'>{text(label)}</text>"
        )
    for row, true in enumerate(chosen):
        for column, predicted in enumerate(chosen):
            count, share = int(counts[true, predicted]), float(shares[true, predicted])
            if not count:
                continue
            x, y = left + cell * column, top + cell * row
            title = f"true {names[true]}, predicted {names[predicted]}: {count:,}, {share:.1%} of the row"
            parts.append(
                f"<rect class={'right' if row == column else 'wrong'} x={x + 0.5:.1f} y={y + 0.5:.1f} "
                f"width={cell - 1} height={cell - 1} fill-opacity={FAINTEST + (1 - FAINTEST) * share:.2f}>"
                f"<title>{text(title)}</title></rect>"
            )
            style = " full" if share >= 0.75 else " half" if share >= 0.55 else ""  # legible on light, on dark
            style += "" if row == column else " off"
            middle, half = x + cell / 2, y + cell / 2
            if cell >= 50:
                parts.append(f"<text class='cell{style}' x={middle:.1f} y={half - 1:.1f}>{number(count)}</text>")
                parts.append(f"<text class='cell fine{style}' x={middle:.1f} y={half + 14:.1f}>{share:.0%}</text>")
            elif cell >= 29 and count < 10_000:
                parts.append(f"<text class='cell fine{style}' x={middle:.1f} y={half + 4:.1f}>{count}</text>")
    parts.append(
        f"<path class=frame d='M{left - 1:.1f} {top - 1:.1f}h{cell * size + 2}v{cell * size + 2}h{-cell * size - 2}z'/>"
    )
    return Html(
        f"<svg class=confusion viewBox='0 0 {width:.0f} {height:.0f}' role=img aria-label='{text(summary)}' "
        f"style='width:{width:.0f}px;min-width:{0.7 * width:.0f}px;max-width:100%'>{''.join(parts)}</svg>"
    )


def _matrix_numbers(counts: np.ndarray, chosen: list[int], names: Sequence[str]) -> Html:
    rows = [
        [
            text(names[true]),
            *(Html(str(counts[true, each]) if counts[true, each] else "<span class=none>0</span>") for each in chosen),
        ]
        for true in chosen
    ]
    return _fold("The confusion as numbers", table(["true \\ predicted", *(names[each] for each in chosen)], rows))


def _fold(title: str, content: Html) -> Html:
    return Html(f"<details><summary>{text(title)}</summary><div class=numbers>{content}</div></details>")


def class_table(classes: Sequence[Mapping[str, Any]], *, what: str, unit: str = "text") -> Html:
    """Returns F1, precision, recall and number of texts of each class as bars, the weakest first.

    Args:
        classes: with name, precision, recall, f1 (from 0 to 1) and support. What no text has comes last.
        what: "class" or "label".
        unit: what a text is called.
    """
    ordered = sorted(classes, key=lambda each: (not each["support"], each["f1"], each["name"]))
    most = max((each["support"] for each in ordered), default=0) or 1
    rows = [
        [
            Html(f"{text(each['name'])}{'' if each['support'] else ' <small>not in the test set</small>'}"),
            _meter(100 * each["f1"], f"{100 * each['f1']:.1f}", style="strong"),
            _meter(100 * each["precision"], f"{100 * each['precision']:.1f}"),
            _meter(100 * each["recall"], f"{100 * each['recall']:.1f}"),
            _meter(100 * each["support"] / most, f"{each['support']:,}"),
        ]
        for each in ordered
    ]
    columns = [what, "F1", "precision", "recall", f"{unit}s"]
    if not rows:
        return Html("")
    first, rest = rows[:MAX_LISTED_CLASSES], rows[MAX_LISTED_CLASSES:]
    more = Html("")
    if rest:
        more = Html(
            f"<details><summary>The other {len(rest)}, better ones</summary>"
            f"{table(columns, rest, style='classes')}</details>"
        )
    return Html(table(columns, first, style="classes") + more)


def _meter(share: Number, label: str, *, style: str = "quiet") -> Html:
    """Returns a bar from 0 to 100 with its number."""
    return Html(
        "<div class=meter><svg viewBox='0 0 100 1' preserveAspectRatio=none aria-hidden=true>"
        "<path class=track d='M0 0H100V1H0Z'/>"
        f"<path class={style} d='M0 0H{min(max(share, 0.0), 100.0):.1f}V1H0Z'/></svg>"
        f"<b{' class=main' if style == 'strong' else ''}>{text(label)}</b></div>"
    )


def reliability_diagram(calibration: Mapping[str, Any], *, unit: str = "text") -> Html:
    """Returns how often the model is right (upwards) by how sure it is (across), and how many texts are how sure.

    Source: Guo et al. 2017, figure 1.

    Args:
        calibration: error, edges, and for each bin counts, confidence and accuracy, all from 0 to 1.
        unit: what a text is called.
    """
    edges, counts = calibration["edges"], calibration["counts"]
    bins = [
        (100 * low, 100 * high, count, 100 * confidence, 100 * accuracy)
        for (low, high), count, confidence, accuracy in zip(
            pairwise(edges), counts, calibration["confidence"], calibration["accuracy"], strict=True
        )
        if count
    ]
    total, most = sum(count for *_, count, _, _ in bins), max((count for *_, count, _, _ in bins), default=1)
    if not total:
        return Html("")
    marks = "".join(f"<path class=grid d='M0 {y}H100'/>" for y in range(0, 101, 20))
    bars, dots = "", ""
    for low, high, count, confidence, accuracy in bins:
        x, width = low + 0.25, high - low - 0.5
        hint = (
            f"<title>sure {low:.0f}% to {high:.0f}%: {count:,} {unit}s, {accuracy:.1f}% right, "
            f"mean confidence {confidence:.1f}%</title>"
        )
        few = "" if count >= FEW_TEXTS else " few"
        above, below = 100 - max(accuracy, confidence), 100 - min(accuracy, confidence)
        marks += f"<path class='bin{few}' d='M{x:.2f} {100 - accuracy:.2f}h{width:.2f}V100h{-width:.2f}z'>{hint}</path>"
        marks += f"<path class='gap{few}' d='M{x:.2f} {above:.2f}h{width:.2f}V{below:.2f}h{-width:.2f}z'>{hint}</path>"
        dots += f"M{confidence:.2f} {100 - accuracy:.2f}h0"
        bars += (
            f"<path class=count d='M{x:.2f} {100 - 100 * count / most:.2f}h{width:.2f}V100h{-width:.2f}z'>{hint}</path>"
        )
    marks += f"<path class=rule d='M0 100L100 0'/><path class='dots c1' d='{dots}'/>"
    x_labels = "".join(f"<span style='left:{x}%'>{x}</span>" for x in range(0, 101, 20))
    y_labels = "".join(f"<span style='top:{100 - y}%'>{y}</span>" for y in range(0, 101, 20))
    mean = sum(count * confidence for *_, count, confidence, _ in bins) / total
    right = sum(count * accuracy for *_, count, _, accuracy in bins) / total
    difference = round(mean - right, 1)
    way = f"{'too sure' if difference > 0 else 'not sure enough'} by {abs(difference):.1f} points"
    if not difference:
        way = "as sure as right"
    error = 100 * calibration["error"]
    summary = (
        f"Reliability diagram: mean confidence {mean:.1f}%, accuracy {right:.1f}%, "
        f"calibration error {error:.1f} points."
    )
    numbers = table(
        ["confidence, %", f"{unit}s", "mean confidence", "right"],
        [
            [text(f"{low:.0f} to {high:.0f}"), text(f"{count:,}"), text(f"{confidence:.1f}"), text(f"{accuracy:.1f}")]
            for low, high, count, confidence, accuracy in bins
        ],
    )
    return Html(
        "<div class=beside><figure class='chart reliability' style='flex:1 1 420px'>"
        "<figcaption><h3>How often it is right, by how sure it is</h3>"
        "<div class=legend><span><i class=bin></i>right</span><span><i class=gap></i>gap to confidence</span>"
        "<span><i class=dash></i>as sure as right</span></div></figcaption>"
        f"<div class=plot><div class=y>{y_labels}</div><svg viewBox='0 0 100 100' preserveAspectRatio=none role=img "
        f"aria-label='{text(summary)}'>{marks}</svg><div class=x>{x_labels}</div></div>"
        "<p class=axis><span>confidence, %</span>"
        f"<small>upwards: of these {unit}s right, % (pale: under {FEW_TEXTS} {unit}s)</small></p>"
        f"<div class='plot counts'><div class=y><span style='top:0%'>{number(most)}</span>"
        "<span style='top:100%'>0</span></div><svg viewBox='0 0 100 100' preserveAspectRatio=none aria-hidden=true>"
        f"<path class=grid d='M0 100H100'/>{bars}</svg></div>"
        f"<p class=axis><span>confidence, %</span><small>upwards: {unit}s</small></p></figure>"
        f"<div><h3>Calibration error {error:.1f}</h3>"
        f"<p class=note>On average the confidence of a bin is {error:.1f} points off the share of its {unit}s that is "
        f"right. Over all {total:,} {unit}s the mean confidence is {mean:.1f}%, and {right:.1f}% are right: {way}.</p>"
        "</div></div>" + _fold("The bins as numbers", numbers)
    )


def marked_words(words: Sequence[tuple[str, Number]]) -> Html:
    """Returns words in colours of how far each moved the decision, and below it those that moved it most.

    Args:
        words: with their attributions: above 0 towards the decision, below 0 against it.
    """
    largest = max((abs(value) for _, value in words), default=0.0) or 1.0
    shown = []
    for word, value in words:
        share = abs(value) / largest
        if share < 0.05:
            shown.append(text(word))
            continue
        style = ("for" if value > 0 else "against") + (" much" if share >= 0.4 else "")
        tint = round(8 + 42 * share)  # per cent: the text stays readable on the strongest
        shown.append(
            Html(f"<span class='{style}' style='--w:{tint}%' title='{text(_moved(value))}'>{text(word)}</span>")
        )
    strongest = sorted(words, key=lambda each: -abs(each[1]))
    towards = [f"{word} {_moved(value)}" for word, value in strongest if value > 0][:5]
    against = [f"{word} {_moved(value)}" for word, value in strongest if value < 0][:3]
    moved_words = "".join(
        f"<span><b>{title}</b> {text(', '.join(words))}</span> "
        for title, words in (("towards", towards), ("against", against))
        if words
    )
    return Html(f"<p class=words>{' '.join(shown)}</p>" + (f"<p class=moved>{moved_words}</p>" if moved_words else ""))


def _clipped(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _moved(value: Number) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _texts(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'s' if count != 1 else ''}"
