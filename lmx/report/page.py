"""Turns text and numbers into one HTML page that a person can read, print and send.

The page is one file. It opens no connection and says so in its content policy; styles, script and data are inside. It
is complete without the script, which adds reading values under the pointer and choosing attention heads.

Text becomes `Html` in `text()`, which escapes it; everything that is not `Html` is escaped where it enters. Nothing
here knows a run or a task. Charts are lmx/report/charts.py's.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NewType

from lmx.report.style import SCRIPT, STYLE

Html = NewType("Html", str)
"""Text that is markup already: escaped, or written by us."""

Number = int | float
"""JSON has one kind of number, Python two."""


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


def page(title: str, *parts: Html, style: str = "") -> Html:
    """Returns the whole document; `style` adds to the style sheet what these parts alone need."""
    return Html(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">"
        f"<link rel=icon href='data:,'><title>{text(title)} · lmx</title><style>{STYLE}{style}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def section(title: str, *parts: Html, note: str = "") -> Html:
    """Returns a titled section, or nothing if all its parts are nothing."""
    if not any(parts):
        return Html("")
    note_line = f"<p class=note>{text(note)}</p>" if note else ""
    return Html(f"<section><h2>{text(title)}</h2>{note_line}{''.join(parts)}</section>")


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


def signed(value: Number, *, digits: int = 2) -> str:
    """Returns a difference with its sign and `digits` digits."""
    return f"{value:+.{digits}f}".replace("-", "−")
