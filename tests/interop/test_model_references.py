"""Decoders and encoders against what transformers said of the same tiny weights (make_model_references.py)."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.classifier import Classifier
from lmx.data.labels import Labels
from lmx.errors import InputError
from lmx.fill_mask import FillMask
from lmx.interop.convert import convert, export, open_model
from lmx.interop.tensors import open_safetensors
from lmx.parameters import load_params
from tests.interop import make_model_references as references
from tests.interop.models import MODELS, logits, write_run

DATA = Path(__file__).parent / "data" / "models"
FILLERS = ("bert", "roberta")
NAMES = (*references.DECODERS, *FILLERS, "bert-classifier", "roberta-classifier")
CLASSIFIERS = tuple(name for name in references.ENCODERS if name not in FILLERS)


def folder_of(name: str, where: Path) -> Path:
    """A model with its tokenizer, as a folder of Hugging Face has both."""
    shutil.copytree(references.tokenizer_of(name), where, ignore=shutil.ignore_patterns(*references.ours()))
    return Path(shutil.copytree(DATA / name, where, dirs_exist_ok=True))


def answers(name: str) -> Any:
    return json.loads((DATA / name / "answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path):
    found = convert(DATA / name, tmp_path / "run")
    assert found.file.unused() == []
    with np.load(DATA / name / "reference.npz") as expected:
        tokens, theirs = expected["tokens"], expected["logits"]
    ours = logits(found.model, load_params(tmp_path / "run" / "model.safetensors"), jnp.asarray(tokens))
    seen = tokens != found.model.pad_id
    assert not seen.all()
    if theirs.ndim == 2:  # of whole rows
        seen = np.ones(2, bool)
    assert np.abs(theirs[seen]).max() > 0.5
    np.testing.assert_allclose(ours[seen], theirs[seen], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_in_goes_out_again(name: str, tmp_path: Path):
    convert(DATA / name, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    before, after = open_safetensors(DATA / name), open_safetensors(tmp_path / "theirs")
    assert before.shapes == after.shapes
    for path in before.shapes:
        # Two rows stand for padding in RoBERTa's positions, and no word is in their place.
        unread = 2 if name.startswith("roberta") and "position_embeddings" in path else 0
        np.testing.assert_array_equal(after.read(path)[unread:], before.read(path)[unread:], err_msg=path)
    one, other = (json.loads((folder / "config.json").read_text()) for folder in (DATA / name, tmp_path / "theirs"))
    for field in ("model_type", "architectures", "id2label", "problem_type"):
        if one.get(field) is not None:
            assert other[field] == one[field]
    assert open_model(tmp_path / "theirs").labels == open_model(DATA / name).labels


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_of_classes_are_those_of_transformers(name: str, tmp_path: Path):
    convert(folder_of(name, tmp_path / "theirs"), tmp_path / "run")
    classifier, expected = Classifier.load(tmp_path / "run"), answers(name)
    kind = "single" if name.endswith("classifier") else "multi"
    assert classifier.labels.kind == kind
    found = classifier.classify(expected["texts"]) + classifier.classify([(a, b) for a, b in expected["pairs"]])
    for ours, theirs in zip(found, expected["probabilities"], strict=True):
        named = dict(zip(classifier.labels.names, ours.outputs, strict=True))
        assert named == pytest.approx(theirs, abs=1e-5)
        if kind == "single":
            assert ours.label == max(theirs, key=lambda label: theirs[label])
    spread = [max(each.values()) for each in expected["probabilities"]]
    assert max(spread) - min(spread) > 0.05


@pytest.mark.parametrize("name", ["bert-classifier", "roberta-classifier"])
def test_the_command_labels_pairs_as_transformers_does(name: str, tmp_path: Path, lmx):
    run, table, expected = tmp_path / "run", tmp_path / "pairs.tsv", answers(name)
    convert(folder_of(name, tmp_path / "theirs"), run)
    table.write_text("\n".join("\t".join(row) for row in [("a", "b"), *expected["pairs"]]) + "\n", encoding="utf-8")
    lines, _ = lmx("classify", run, "--input", table, "--text-column", "a", "b", "--with-probabilities")
    found = [line.split("\t") for line in lines]
    for (label, probability), theirs in zip(found, expected["probabilities"][len(expected["texts"]) :], strict=True):
        assert label == max(theirs, key=lambda each: theirs[each])
        assert float(probability) == pytest.approx(theirs[label], abs=1e-5)


@pytest.mark.parametrize("name", FILLERS)
def test_words_for_gaps_are_those_of_transformers(name: str, tmp_path: Path):
    convert(folder_of(name, tmp_path / "theirs"), tmp_path / "run")
    filler, expected = FillMask.load(tmp_path / "run"), answers(name)
    found = filler.fill(expected["texts"], top_k=5)
    for ours, theirs in zip(found, expected["gaps"], strict=True):
        assert [len(gap) for gap in ours] == [5] * len(theirs)
        for gap, words in zip(ours, theirs, strict=True):
            assert [word.piece for word in gap] == filler.tokenizer.pieces([token for token, _ in words])
            np.testing.assert_allclose([word.probability for word in gap], [each for _, each in words], rtol=1e-4)
    own = {"bert": "[MASK]", "roberta": "<mask>"}[name]  # as the vocabulary writes it
    assert filler.fill(expected["texts"][0].replace("[MASK]", own)) == found[:1]


def test_numbers_are_told_from_classes(tmp_path: Path):
    folder = folder_of("bert-pairs", tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "regression"}
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "run")
    (number,) = Classifier.load(tmp_path / "run").classify([("One", "Two or three?")])
    theirs = answers("bert-pairs")["probabilities"][-1]["LABEL_0"]  # by the logistic function
    assert number.outputs[0] == pytest.approx(np.log(theirs / (1 - theirs)), abs=1e-4)
    export(tmp_path / "run", tmp_path / "again", to="huggingface")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["problem_type"] == "regression"
    folder = folder_of("bert-classifier", tmp_path / "several")
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "regression"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="'regression' must have one output, got 3"):
        open_model(folder)


def test_two_classes_of_one_name_are_told(tmp_path: Path):
    folder = folder_of("bert-classifier", tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text()) | {"id2label": {"0": "a", "1": "b", "2": "a"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"id2label: names must be distinct, got 'a' twice"):
        open_model(folder)


def test_a_regression_goes_out_in_the_unit_of_its_labels(tmp_path: Path):
    model = dataclasses.replace(MODELS["bert-classifier"], num_outputs=1, output_mean=2.5, output_scale=3.0)
    run = write_run(tmp_path / "run", model, tokenizer=True)
    Labels(kind="regression").save(run)
    export(run, tmp_path / "theirs", to="huggingface")
    convert(tmp_path / "theirs", tmp_path / "again")
    texts = ["A text", "another one", ""]
    here, there = (
        [each.outputs[0] for each in Classifier.load(folder).classify(texts)] for folder in (run, tmp_path / "again")
    )
    assert np.ptp(here) > 0.1
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_a_mask_behind_the_vocabulary_goes_out_and_comes_in(tmp_path: Path):
    model = dataclasses.replace(MODELS["bert-masked"], vocab_size=261)
    config = write_run(tmp_path / "run", model, tokenizer=True) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mask_id": 260}))
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    convert(tmp_path / "theirs", tmp_path / "again")
    here, there = (FillMask.load(tmp_path / name).fill("so [MASK] good[MASK]", top_k=3) for name in ("run", "again"))
    for one, other in zip(here[0], there[0], strict=True):
        assert [word.word for word in one] == [word.word for word in other]
        np.testing.assert_allclose([word.probability for word in one], [word.probability for word in other], rtol=1e-5)
    said = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    assert said["mask_token"] == "[MASK]"
