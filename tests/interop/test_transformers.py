"""transformers, where it is installed, says of exported models what we say, and we of its models what it says."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.fill_mask import FillMask
from lmx.interop.convert import export, open_model
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.parameters import load_params
from tests.interop.models import MODELS, logits, write_run

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_there_and_back(name: str, tmp_path: Path):
    model = MODELS[name]
    run, folder = write_run(tmp_path / "run", model), tmp_path / "theirs"
    export(run, folder, to="huggingface")
    kind = {EmbedderConfig: "AutoModel", ClassifierConfig: "AutoModelForSequenceClassification"}.get(type(model))
    kind = kind or ("AutoModelForMaskedLM" if name.startswith(("bert", "roberta")) else "AutoModelForCausalLM")
    theirs = getattr(transformers, kind).from_pretrained(folder).eval()
    tokens = np.random.default_rng(1).integers(4, 260, (2, 15))
    seen = np.ones_like(tokens)
    seen[1, 11:] = 0
    tokens[1, 11:] = model.pad_id
    with torch.no_grad():
        said = theirs(torch.tensor(tokens), attention_mask=torch.tensor(seen))
    expected = np.asarray(said[0])
    found = logits(model, load_params(run / "model.safetensors"), jnp.asarray(tokens, jnp.int32))
    rows = np.ones(2, bool) if expected.ndim == 2 else seen.astype(bool)
    largest = np.abs(found[rows] - expected[rows]).max()
    print(f"PARITY {transformers.__version__} {name} {largest:.2e} of {np.abs(expected).max():.2f}")
    assert largest < 1e-4
    theirs.save_pretrained(tmp_path / "saved")  # as that version writes it
    again = open_model(tmp_path / "saved").file
    for path in again.keys():  # noqa: SIM118
        value = load_params(run / "model.safetensors")
        for part in path.split("."):
            value = value[part]
        np.testing.assert_array_equal(again.get_tensor(path), value, err_msg=path)


def test_gaps_are_filled_alike_by_a_model_of_our_own(tmp_path: Path):
    """Its mask is an id behind the vocabulary, and nothing stands before a text."""
    model = dataclasses.replace(MODELS["bert-masked"], vocab_size=261)
    config = write_run(tmp_path / "run", model, tokenizer=True) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mask_id": 260}))
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    fill = transformers.pipeline("fill-mask", model=str(tmp_path / "theirs"), device="cpu")
    theirs = fill("so [MASK] good[MASK]", top_k=3)
    (ours,) = FillMask.load(tmp_path / "run").fill("so [MASK] good[MASK]", top_k=3)
    for gap, words in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([each.probability for each in gap], [each["score"] for each in words], rtol=1e-4)
        assert [each.word for each in gap] == [each["token_str"] for each in words]
