"""The part of a page that shows single images: pictures of the file alone, and where the model looked."""

import json
import re

import numpy as np
import pytest

from lmx.data.images import png_address
from lmx.report import images
from lmx.report.classification import _of_unit
from lmx.report.images import MAX_MISTAKES, image_mistakes_section, looks_section, read_looks

PICTURE = png_address(np.full((2, 2, 1), 7, np.uint8))
ENTRY = {"image": PICTURE, "label": "cat", "prediction": "cat", "probability": 0.875, "text": "a <b>.png"}


def test_an_image_stands_with_what_was_said_of_it_and_what_is_true():
    page = looks_section([ENTRY | {"looked": [[0.1, 0.3]]}])
    assert page.count("<img ") == 2
    assert f"<img src='{PICTURE}' alt='the image'>" in page
    assert "predicted <b>cat</b> 87.5%<br>right<br><small>a &lt;b&gt;.png</small>" in page
    wrong = image_mistakes_section([ENTRY | {"label": "<dog>", "probability": None}])
    assert "predicted <b>cat</b><br>true <b>&lt;dog&gt;</b>" in wrong
    assert "The most confident first: where labels may be wrong, and where the model is.</p>" in wrong


def test_where_the_model_looked_most_is_white(monkeypatch):
    drawn = []
    monkeypatch.setattr(images, "png_address", lambda pixels: drawn.append(pixels) or PICTURE)
    looks_section([ENTRY | {"looked": [[0.0, 0.2], [0.1, 0.4]]}, ENTRY | {"looked": [[0.0]]}])
    assert [pixels.tolist() for pixels in drawn] == [[[[0], [128]], [[64], [255]]], [[[0]]]]


def test_many_mistakes_are_cut_and_said():
    page = image_mistakes_section([ENTRY] * (MAX_MISTAKES + 2))
    assert page.count("<li>") == MAX_MISTAKES
    assert f"{MAX_MISTAKES} of {MAX_MISTAKES + 2} in mistakes.jsonl." in page
    assert "in mistakes.jsonl" not in image_mistakes_section([ENTRY] * MAX_MISTAKES)
    assert image_mistakes_section([]) == looks_section([]) == ""


@pytest.mark.parametrize(
    "address", [None, 3, "https://there/a.png", PICTURE + "' onerror='alert(1)", "data:text/html,x"]
)
def test_what_is_no_picture_of_the_page_is_not_shown(address):
    assert "<img" not in image_mistakes_section([ENTRY | {"image": address}])


@pytest.mark.parametrize("looked", [None, [], [1.0], [[0.1], [0.2, 0.3]], [["a"]], [[-0.1]], [[True]], [[]]])
def test_a_look_that_is_no_table_of_numbers_names_its_file(looked, tmp_path):
    path = tmp_path / "explanations.json"
    path.write_text(json.dumps([ENTRY | {"looked": [[0.5]]}, ENTRY | {"looked": looked}]))
    with pytest.raises(ValueError, match=r"explanations\.json entry 1 must have rows of numbers in looked, got "):
        read_looks(path)


def test_sentences_that_tell_of_texts_tell_of_images():
    said = "of 100 texts, a text has one"
    assert _of_unit(said, {"unit": "image"}) == "of 100 images, an image has one"
    assert _of_unit(said, {}) == said
    assert not re.search("text", _of_unit(said, {"unit": "image"}))
