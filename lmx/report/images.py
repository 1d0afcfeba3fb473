"""The part of a classifier's page that shows single images: mistakes, and where the model looked.

Pictures are inside the page, as everything on it; what is written in a file where a picture should be is not shown.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from lmx.data.images import png_address
from lmx.report.files import is_number, read_json
from lmx.report.page import Html, number, section, text

MAX_MISTAKES = 48
SIDE = 112  # pixels of a picture on the page
_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")

STYLE = """
.images{display:flex;flex-wrap:wrap;gap:22px 18px;list-style:none;padding-left:0}
.images figure{margin:0;max-width:240px}
.images img{height:112px;min-width:56px;image-rendering:pixelated;border:1px solid var(--line);margin-right:6px}
.images figcaption{font-size:13.5px;line-height:1.4;overflow-wrap:anywhere;max-width:230px}
"""
"""What these pictures add to the style of a classification's page."""


def image_mistakes_section(mistakes: list[dict]) -> Html:
    """Returns the images on which the model is most sure and wrong."""
    shown = mistakes[:MAX_MISTAKES]
    items = "".join(_figure(each, [_picture(each.get("image"), alt="the image")]) for each in shown)
    left_out = f" {len(shown)} of {number(len(mistakes))} in mistakes.jsonl." if len(mistakes) > len(shown) else ""
    return section(
        "Mistakes",
        Html(f"<ul class=images>{items}</ul>") if items else Html(""),
        note=f"The most confident first: where labels may be wrong, and where the model is.{left_out}",
    )


def looks_section(explanations: list[dict]) -> Html:
    """Returns some images, each beside where the model looked: the brighter, the more."""
    items = "".join(
        _figure(each, [_picture(each.get("image"), alt="the image"), _looked(each["looked"])]) for each in explanations
    )
    return section(
        "Where the model looked",
        Html(f"<ul class=images>{items}</ul>") if items else Html(""),
        note=(
            "By attention rollout: how much of each patch has come into what the model decides by. It says where "
            "information could come from, not what the decision would be without it."
        ),
    )


def read_looks(path: Path) -> list[dict]:
    """Returns the explanations of images; each says how much each patch was looked at.

    Raises:
        ValueError: one does not; names the file.
    """
    entries = read_json(path, list)
    for position, entry in enumerate(entries):
        looked = entry.get("looked") if isinstance(entry, dict) else None
        rows = looked if isinstance(looked, list) else []
        even = rows and all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows)
        if not even or not all(is_number(value) and value >= 0 for row in rows for value in row):
            raise ValueError(f"{path} entry {position} must have rows of numbers in looked, got {str(looked)[:80]}.")
    return entries


def _figure(entry: dict, pictures: list[Html]) -> Html:
    probability = entry.get("probability")
    sure = f" {100 * probability:.1f}%" if is_number(probability) else ""
    label, prediction = entry.get("label"), entry.get("prediction")
    truth = "right" if label == prediction else f"true <b>{text(label)}</b>"
    return Html(
        f"<li><figure>{''.join(pictures)}<figcaption>predicted <b>{text(prediction)}</b>{sure}<br>{truth}<br>"
        f"<small>{text(entry.get('text', ''))}</small></figcaption></figure></li>"
    )


def _picture(address: Any, *, alt: str) -> Html:
    if not isinstance(address, str) or not _PICTURE.fullmatch(address):
        return Html("")
    return Html(f"<img src='{address}' alt='{text(alt)}'>")


def _looked(rows: list[list[float]]) -> Html:
    weights = np.array(rows, dtype=np.float64)
    pixels = np.round(255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8)
    return _picture(png_address(pixels[..., None]), alt="where the model looked")
