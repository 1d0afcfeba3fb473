"""Texts are embedded as the run has read them in its training, in few programs."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.embedder import TextEmbedder
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.parameters import save_params
from lmx.saved import save_tokenizer
from lmx.text import PretokenizedTokenizer

TOKENIZER = PretokenizedTokenizer(["red", "green", "blue"])
CONFIG = MaskedConfig(
    vocab_size=TOKENIZER.vocab_size + 1, width=8, feedforward_width=12, num_heads=2, num_layers=1, max_length=1500,
    positions="sinusoidal", pad_id=TOKENIZER.pad_id,
)  # fmt: skip
BEGIN, END = TOKENIZER.bos_id, TOKENIZER.eos_id


def write_run(folder: Path, **facts: object) -> MaskedEncoder:
    model = MaskedEncoder(CONFIG, rngs=nnx.Rngs(1))
    folder.mkdir()
    saved = {"family": "masked", "config": {}, "mask_id": CONFIG.vocab_size - 1, "model": dataclasses.asdict(CONFIG)}
    (folder / "config.json").write_text(json.dumps(saved | facts))
    save_tokenizer(folder, TOKENIZER)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    save_params(folder / "model.safetensors", jax.tree.map(jnp.asarray, params))
    return model


@pytest.mark.parametrize(
    ("facts", "begins"),
    [({}, []), ({"first_id": None}, []), ({"first_id": BEGIN}, [BEGIN]), ({"family": "embedder"}, [BEGIN])],
)
def test_a_text_begins_as_in_the_training(facts: dict, begins: list[int], tmp_path: Path) -> None:
    model = write_run(tmp_path / "run", **facts)
    words = TOKENIZER.encode("red green blue")
    states, _ = model.encoder(jnp.array([[*begins, *words, END]], jnp.int32))
    (found,) = TextEmbedder.load(tmp_path / "run").embed(["red green blue"])
    np.testing.assert_allclose(found, np.asarray(states)[0].mean(0), atol=1e-5)
    short = TextEmbedder.load(tmp_path / "run")
    several = short.embed(["red", *["red blue"] * 33, "", "red green blue"])  # more than a batch, of other lengths
    np.testing.assert_allclose(several[-1], found, atol=1e-5)
    for place, text in ((0, "red"), (1, "red blue"), (33, "red blue"), (34, "")):
        np.testing.assert_allclose(several[place], short.embed([text])[0], atol=1e-5)
    assert (short.embed([]).shape, short.cut) == ((0, CONFIG.width), 0)
    short.max_length = 3 + len(begins)  # two words and the end
    short.embed(["red green", "red green blue"])
    assert short.cut == 1


def test_a_command_writes_a_line_of_json_for_each_text(lmx, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(run: Path, **settings: object) -> SimpleNamespace:
        asked.append(settings)
        return SimpleNamespace(
            embed=lambda texts: np.array([[1 / 3, len(each)] for each in texts]), cut=2, max_length=9
        )

    monkeypatch.setattr(TextEmbedder, "load", load)
    lines, said = lmx("embed", "run", "--text", "a", "bcd", "--vector", "first", "--normalised", "True")
    assert lines == ["[0.3333333, 1.0]", "[0.3333333, 3.0]"]
    assert said == "2 texts were cut to 9 tokens\n"
    assert lmx("embed", "run", given=b"ab\n")[0] == ["[0.3333333, 2.0]"]
    assert asked == [{"vector": "first", "normalised": True}, {"vector": None, "normalised": None}]


def test_long_texts_share_their_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "run")
    embedder = TextEmbedder.load(tmp_path / "run")
    lengths = []

    def run(params: object, tokens: np.ndarray) -> np.ndarray:
        lengths.append(tokens.shape[1])
        return np.zeros((len(tokens), CONFIG.width), np.float32)

    monkeypatch.setattr(embedder, "_run", run)
    for number in (3, 16, 512, 600, 900, 1024, 1200, 1500, 4000):  # the end counts
        embedder.embed(["red " * (number - 1)])
    assert lengths == [16, 16, 512, 1024, 1024, 1024, 1500, 1500, 1500]


def test_texts_are_as_long_as_in_the_training_and_no_longer_than_the_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run)
    saved = json.loads((run / "config.json").read_text())
    for said, longest in ((None, 1500), (12, 12), (2000, 1500)):
        (run / "config.json").write_text(json.dumps(saved | {"config": {"max_length": said}}))
        assert TextEmbedder.load(run).max_length == longest
    asked = TextEmbedder.load(run, vector="first", normalised=True).config
    assert (asked.vector, asked.normalised) == ("first", True)
    (run / "config.json").write_text(json.dumps(saved | {"family": "decoder"}))
    message = r"run must hold a trained encoder \(embedder, masked, classifier\), got family='decoder'\.$"
    with pytest.raises(ValueError, match=message):
        TextEmbedder.load(run)
