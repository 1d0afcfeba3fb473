"""`lmx classify` with a run of images: what it reads, what it writes, and what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.data.labels import Labels
from lmx.image_classifier import ImageClassifier
from lmx.models.vision import VisionConfig, VisionTransformer
from lmx.parameters import save_params

CONFIG = VisionConfig(
    image_height=4, image_width=4, image_channels=1, patch=2, num_outputs=3, width=8, feedforward_width=12,
    num_heads=2, num_layers=1,
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The files of a run that has ended."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    directory.mkdir()
    facts = {"family": "vision", "config": {"reading": {}}, "model": dataclasses.asdict(CONFIG)}
    (directory / "config.json").write_text(json.dumps(facts))
    (directory / "labels.json").write_text(Labels(kind="single", names=("ant", "bee", "cat")).to_json())
    params = nnx.to_pure_dict(nnx.state(VisionTransformer(CONFIG, rngs=nnx.Rngs(1)), nnx.Param))
    save_params(directory / "model.safetensors", jax.tree.map(jnp.asarray, params))
    return directory


def write_npz(path: Path, pixels: np.ndarray = PIXELS) -> Path:
    np.savez(path, images=pixels)
    return path


def test_images_are_not_written_over(run, lmx, tmp_path, capsys):
    given = write_npz(tmp_path / "new.npz")
    before = given.read_bytes()
    with pytest.raises(SystemExit):
        lmx("classify", run, "--input", given, "--output", given)
    assert capsys.readouterr().err == f"error: output must be another file than the input, got {given} for both.\n"
    assert given.read_bytes() == before
    lmx("classify", run, "--input", given, "--output", tmp_path / "labels.txt")
    assert len((tmp_path / "labels.txt").read_text().splitlines()) == len(PIXELS)


def test_an_output_that_cannot_be_written_is_found_before_the_work(run, lmx, tmp_path, monkeypatch, capsys):
    worked = []
    monkeypatch.setattr(ImageClassifier, "classify", lambda self, images: worked.append(images))
    given = write_npz(tmp_path / "new.npz")
    with pytest.raises(SystemExit):
        lmx("classify", run, "--input", given, "--output", tmp_path / "no" / "folder.txt")
    assert "No such file or directory" in capsys.readouterr().err
    assert not worked


def test_images_to_label_are_on_the_scale_that_the_run_has_found(run, lmx, tmp_path, monkeypatch):
    copied = shutil.copytree(run, tmp_path / "run")
    saved = json.loads((copied / "config.json").read_text())
    seen = []
    monkeypatch.setattr(ImageClassifier, "classify", lambda self, images: seen.append(images.pixels.max()) or [])
    given = write_npz(tmp_path / "new.npz", np.round(PIXELS / 255))
    for found in (1, None, 255.0):
        (copied / "config.json").write_text(json.dumps(saved | {"pixel_max": found}))
        lmx("classify", copied, "--input", given)
    lmx("classify", run, "--input", given)  # of an earlier version
    assert seen == [255, 1, 1, 1]


@pytest.mark.parametrize(
    ("flags", "name"),
    [("--encoding utf-8", "encoding"), ("--text-columns a", "text_columns"), ("--field-limit 9", "field_limit")],
)
def test_what_is_of_texts_is_refused_for_images(run, lmx, tmp_path, flags, name, capsys):
    with pytest.raises(SystemExit):
        lmx("classify", run, "--input", write_npz(tmp_path / "new.npz"), *flags.split())
    assert f"error: {name} must be left out for a run of images, got {name}=" in capsys.readouterr().err
