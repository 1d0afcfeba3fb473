"""Others' encoder-decoders after ten updates of the translation experiment: written again, they say the same."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import translation
from lmx.data.parallel import Pairs, encode_pairs
from lmx.interop.convert import export, open_model
from lmx.interop.imported import definition_of
from lmx.learner import place
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.parameters import load_params, save_params
from lmx.pretrained import StartConfig
from lmx.saved import save_tokenizers, write_json
from lmx.sharding.mesh import MeshConfig, make_mesh
from tests.interop.translators import LINES, write_folder_of
from tests.test_pretrained import begin

QUICK = ("t5-gated",)
FAMILIES = ("marian", "t5", "t5-gated", "mt5", "bart", "mbart", "nllb")
TARGETS = ("die Katze ist hier", "ein Hund sieht das alte Haus .", "dies ist eine lange Zeile", "nein")
L = 40  # tokens of a row


def trained(name: str, where: Path) -> dict[str, Any]:
    """Begins with a folder, makes ten updates, and writes the run that a training leaves."""
    folder = write_folder_of(name, where / "theirs")
    start = StartConfig(init_from=folder)
    source, target = start.tokenizers(where / "run")
    own = Seq2SeqConfig(source_vocab_size=source.vocab_size, target_vocab_size=target.vocab_size, dropout_rate=0.0)
    model = start.sizes(own, run=where / "run", longest=L)
    model = dataclasses.replace(model, pad_id=target.pad_id)
    optimization = translation.Optimization(peak=0.01, warmup=1, schedule="constant", label_smoothing=0.0)
    config = translation.Config(start=start, optimization=optimization, updates=10)
    placed = place(translation.build(config, model), make_mesh(MeshConfig(), devices=jax.devices()[:1]))
    state, told = begin(start, placed)
    assert "drawn at random" not in told
    pairs = Pairs(sources=LINES, targets=TARGETS, origin="here")
    rows = encode_pairs(pairs, source, target).batch(np.arange(4)[None], length=L)
    before = jax.device_get(state.params)
    losses = []
    for _ in range(10):
        state, metrics = placed.step(state, placed.place_batch(rows))
        losses.append(float(metrics["loss"]))
    after = jax.device_get(placed.whole(state.params))
    (where / "run").mkdir()
    save_params(where / "run" / "model.safetensors", after)
    settings = {"max_length": L, "search": {}}
    facts = {"family": "seq2seq", "config": settings, "model": dataclasses.asdict(model)}
    write_json(where / "run" / "config.json", facts)
    save_tokenizers(where / "run", source, target)
    found = {part: jnp.asarray(rows[part][0]) for part in ("source", "decoder_input", "target")}
    return {**found, "before": before, "after": after, "losses": losses, "model": model}


def logits_of(model: Seq2SeqConfig, params: Any, found: dict[str, Any]) -> np.ndarray:
    logits = np.asarray(said(model, params, found["source"], found["decoder_input"]))
    return logits[..., : model.target_vocab_size][np.asarray(found["target"]) != model.pad_id]


@functools.partial(jax.jit, static_argnums=0)
def said(model: Seq2SeqConfig, params: Any, source: jax.Array, decoder_input: jax.Array) -> jax.Array:
    network = definition_of(model).merge(params)
    memory, _ = network.encode(source)
    return network.logits(network.decode(memory, source, decoder_input)[0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_model_that_was_trained_further_goes_out_and_comes_in(name: str, tmp_path: Path):
    found = trained(name, tmp_path)
    assert found["losses"][-1] < 0.9 * found["losses"][0]
    export(tmp_path / "run", tmp_path / "again", to="huggingface")
    again = open_model(tmp_path / "again")
    assert again.file.unused() == []
    for path in again.file.keys():  # noqa: SIM118
        value: Any = found["after"]
        for part in path.split("."):
            value = value[part]
        np.testing.assert_array_equal(again.file.get_tensor(path), value, err_msg=path)
    before, after = (logits_of(found["model"], found[each], found) for each in ("before", "after"))
    assert np.abs(after - before).max() > 0.1
    assert isinstance(again.model, Seq2SeqConfig)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_says_the_same_of_a_model_that_was_trained_further(name: str, tmp_path: Path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    found = trained(name, tmp_path)
    export(tmp_path / "run", tmp_path / "again", to="huggingface")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again").eval()
    source, given = (torch.tensor(np.asarray(found[each])).long() for each in ("source", "decoder_input"))
    pad = found["model"].pad_id
    with torch.no_grad():
        found_there = theirs(input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=given)
    before, after = (logits_of(found["model"], found[each], found) for each in ("before", "after"))
    there = found_there.logits.numpy()[np.asarray(found["target"]) != pad]
    difference, change = (float(np.abs(there - each).max()) for each in (after, before))
    print(f"TRAINED {transformers.__version__} {name} {difference:.2e}, changed by {change:.2f}")
    assert difference < 1e-4
    assert change > 0.1
    assert load_params(tmp_path / "run" / "model.safetensors").keys() == found["after"].keys()
