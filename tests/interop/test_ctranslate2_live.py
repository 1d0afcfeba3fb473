"""Exported models, loaded by the package `ctranslate2` where it is installed: it computes what lmx does."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.interop.ctranslate2.reading import read_ctranslate2
from lmx.models.decoder import DecoderConfig
from lmx.models.seq2seq import Seq2SeqConfig
from tests.interop.test_ctranslate2 import DATA, MODELS, WORDS, export, filled, merged, tokenizer

ctranslate2 = pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow

ROWS, TARGETS = [[4, 9, 5], [6, 10, 7, 8], [5]], [[7, 4], [9, 5, 10, 8], [6]]
# The package's exponentials are good to six digits; half precision loses what it stores.
TOLERANCES = {"float32": 1e-4, "float16": 0.1}


def taken(name: str, folder: Path, dtype: str):
    """Exports a model of smaller random numbers, and returns the network that was written."""
    export(folder, MODELS[name], scale=0.3, dtype=dtype)
    return merged(read_ctranslate2(folder))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if isinstance(model, Seq2SeqConfig)])
def test_an_encoder_decoder_gives_the_same_log_probabilities(tmp_path, name, dtype):
    model, words = taken(name, tmp_path / "there", dtype), tokenizer()
    package = ctranslate2.Translator(str(tmp_path / "there"), compute_type="float32", intra_threads=1)
    found = package.score_batch([words.pieces(row) for row in ROWS], [words.pieces(row) for row in TARGETS])
    source = filled([[*row, 2] for row in ROWS])
    states, _ = model.decode(model.encode(source)[0], source, filled([[1, *row] for row in TARGETS]))
    logprobs = np.asarray(jax.nn.log_softmax(model.logits(states)))
    for row, target in enumerate(TARGETS):
        expected = [logprobs[row, place, token] for place, token in enumerate([*target, 2])]
        np.testing.assert_allclose(found[row].log_probs, expected, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if isinstance(model, DecoderConfig)])
def test_a_decoder_gives_the_same_logits(tmp_path, name, dtype):
    model = taken(name, tmp_path / "there", dtype)
    package = ctranslate2.Generator(str(tmp_path / "there"), compute_type="float32", intra_threads=1)
    expected = np.asarray(model.logits(model(filled(ROWS))[0]))[..., :WORDS]
    for row, tokens in enumerate(ROWS):  # one by one: with a window it refuses rows of several lengths
        (found,) = np.array(package.forward_batch([tokens]))
        np.testing.assert_allclose(found, expected[row, : len(tokens)], atol=TOLERANCES[dtype])


def test_an_encoder_gives_the_same_states(tmp_path):
    model = taken("bert", tmp_path / "there", "float32")
    package = ctranslate2.Encoder(str(tmp_path / "there"), compute_type="float32", intra_threads=1)
    outputs = package.forward_batch(ROWS, token_type_ids=[[0] * len(row) for row in ROWS])
    found, expected = np.array(outputs.last_hidden_state), np.asarray(model.encoder(filled(ROWS))[0])
    for row, tokens in enumerate(ROWS):
        np.testing.assert_allclose(found[row, : len(tokens)], expected[row, : len(tokens)], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_model_of_the_package_is_the_same_after_a_way_through_lmx(tmp_path, dtype):
    read = read_ctranslate2(DATA / "seq2seq")
    params = {name: jnp.asarray(read.file.get_tensor(name)) for name in read.file.keys()}  # noqa: SIM118
    export(tmp_path / "there", read.model, params=params, tokenizers=read.tokenizers, dtype=dtype)
    said = json.loads((DATA / "expected.json").read_text())
    (words,) = read.tokenizers.values()
    package = ctranslate2.Translator(str(tmp_path / "there"), compute_type="float32", intra_threads=1)
    sources = [words.pieces(row) for row in said["rows"]]
    settings = {"beam_size": 4, "num_hypotheses": 3, "min_decoding_length": 0, "max_decoding_length": 30}
    found = package.translate_batch(sources, return_scores=True, **settings)
    for row, (hypotheses, scores) in enumerate(
        zip(said["seq2seq"]["hypotheses"], said["seq2seq"]["scores"], strict=True)
    ):
        tolerance = {"float32": 1e-6, "float16": 5e-3, "int8": 0.1}[dtype]
        np.testing.assert_allclose(found[row].scores[0], scores[0], atol=tolerance)
        if dtype == "float32":
            assert [" ".join(each) for each in found[row].hypotheses] == hypotheses
