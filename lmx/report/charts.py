"""Draws lines, bars and maps of weights as SVG, from numbers alone.

Line charts are stretched to the width at hand, with their labels in HTML, so that type keeps its size from a phone to a
wide screen. What only one task draws is drawn beside that task's page.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lmx.report.page import Html, Number, number, text

MAX_POINTS = 400  # of one line: two a pixel on a printed page; longer runs are averaged in bins.
NUM_COLOURS = 3  # that stay apart for everybody's eyes, in light and in dark


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart; what is not finite breaks nothing and is left out.

    Attributes:
        label: its name in the legend.
        points: (x, y) in order of x.
        band: (x, lowest, highest) in order of x, drawn behind the line: how far several seeds lie apart.
        dots: whether each point is marked.
    """

    label: str
    points: Sequence[tuple[Number, Number]]
    band: Sequence[tuple[Number, Number, Number]] = ()
    dots: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    note: str = "",
    x_label: str = "step",
    small: bool = False,
    y_range: tuple[Number, Number] | None = None,
) -> Html:
    """Returns a chart of lines over a common x that starts at 0, or nothing if no line has a point.

    Args:
        lines: at most as many as there are colours.
        title: stands above the chart.
        note: stands below it.
        x_label: what x is.
        small: for a row of many.
        y_range: what the chart must reach at least; None for that of the values.
    """
    drawn: list[tuple[Line, list[tuple[float, ...]], list[tuple[float, ...]]]] = []
    for line in lines:
        points, band = _finite(line.points), _finite(line.band)
        if points:
            drawn.append((line, _thin(points, MAX_POINTS), _thin(band, MAX_POINTS)))
    if not drawn:
        return Html("")
    if len(drawn) > NUM_COLOURS:
        raise ValueError(f"lines must be at most {NUM_COLOURS}, one a colour, got {len(drawn)}. Draw a chart more.")
    values = [y for _, points, band in drawn for _, *ys in points + band for y in ys] + list(map(float, y_range or ()))
    y_ticks = _ticks(min(values), max(values), 3 if small else 5)
    x_end = max(x for _, points, _ in drawn for x, _ in points) or 1.0
    x_ticks = [x for x in _ticks(0.0, x_end, 3 if small else 5) if x <= x_end]
    low, high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return round(100 * x / x_end, 2)

    def down(y: float) -> float:
        return round(100 * (high - y) / (high - low), 2)

    marks = "".join(f"<path class=grid d='M0 {down(y)}H100'/>" for y in y_ticks)
    legend, data = "", []
    for index, (_, _, band) in enumerate(drawn, start=1):
        if band:  # behind all lines
            edge = [f"{across(x):g} {down(high):g}" for x, _, high in band]
            edge += [f"{across(x):g} {down(low):g}" for x, low, _ in reversed(band)]
            marks += f"<path class='band c{index}' d='M{'L'.join(edge)}Z'/>"
    for index, (line, points, _) in enumerate(drawn, start=1):
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
        f"{line.label or title} from {number(points[0][1])} to {number(points[-1][1])}"
        + (f", seeds from {number(band[-1][1])} to {number(band[-1][2])} at the end" if band else "")
        for line, points, band in drawn
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
    note_line = f"<p class=axis><small>{text(note)}</small></p>" if note else ""
    style = "bars noted" if any(bar.note for bar in bars) else "bars"
    return Html(f"<figure class=chart>{head}<dl class='{style}'>{rows}</dl>{note_line}</figure>")


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


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Returns round numbers, about `count` steps of 1, 2 or 5 times a power of ten, that enclose low and high."""
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def _finite(points: Sequence[tuple[Number, ...]]) -> list[tuple[float, ...]]:
    return [tuple(map(float, point)) for point in points if all(map(math.isfinite, point))]


def _thin(points: list[tuple[float, ...]], most: int) -> list[tuple[float, ...]]:
    """Returns at most `most` points: means over bins of equal count. The last point stays as it is."""
    if len(points) <= most:
        return points
    bins = np.array_split(np.asarray(points[:-1]), most - 1)
    return [tuple(map(float, each.mean(axis=0))) for each in bins] + [points[-1]]


def _short(value: Number) -> Number:
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() else rounded
