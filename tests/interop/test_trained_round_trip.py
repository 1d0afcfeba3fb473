"""Models of others go in, are trained ten updates by the real step, and go out: others read what was trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.interop.convert import convert, export, open_model
from lmx.interop.imported import definition_of
from lmx.learner import Learner, place
from lmx.lora import LORA, LoraConfig
from lmx.losses import label_loss, token_loss
from lmx.models.encoder import ClassifierConfig
from lmx.models.language import predict
from lmx.optimization import OptimizerConfig, constant
from lmx.optimizers import make_optimizer
from lmx.parameters import load_params, save_params
from lmx.pretrained import StartConfig
from lmx.saved import write_json
from lmx.sharding.mesh import MeshConfig, make_mesh
from tests.interop.make_model_references import DATA, DECODERS
from tests.interop.models import logits
from tests.test_pretrained import begin

LORAS = {"llama": LoraConfig(rank=2), "roberta-classifier": LoraConfig(rank=2)}
NAMES = [*DECODERS, "bert", "roberta", "bert-classifier", "roberta-classifier"]
# Each compiles a step of its own; what the others have of their own besides stands in the tests of references.
FAST = ("gpt2", "roberta-classifier")


def train(name: str, run: Path) -> np.ndarray:
    """Trains ten updates, writes a finished run, and returns the logits of its parameters."""
    start = StartConfig(init_from=DATA / "models" / name, lora=LORAS.get(name, LoraConfig()))
    found = open_model(DATA / "models" / name)
    definition, is_classifier = start.adapt(definition_of(found.model)), isinstance(found.model, ClassifierConfig)

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = definition.merge(params)
        if is_classifier:
            outputs, _ = network(batch["tokens"], key=key)
            return label_loss(outputs, batch["labels"], jnp.ones(len(outputs)), kind="single")._asdict()
        states, labels, counts = predict(network, batch, key=key, is_packed=False)
        return token_loss(states, network.output(), labels, counts)._asdict()

    schedule = constant(0.01, warmup=1)
    optimizer = make_optimizer(OptimizerConfig(), schedule, model=definition)
    learner = Learner(model=definition, loss=loss, optimizer=optimizer, schedule=schedule)
    placed = place(learner, make_mesh(MeshConfig(data=1), devices=jax.devices()[:1]))
    state, _ = begin(start, placed)
    random = np.random.default_rng(0)
    for _ in range(10):
        tokens = random.integers(5, 40, (1, 4, 9)).astype(np.int32)
        labels = np.arange(4, dtype=np.int32)[None] % 3 if is_classifier else np.roll(tokens, -1, axis=2)
        state, metrics = placed.step(state, placed.place_batch({"tokens": tokens, "labels": labels}))
    assert np.isfinite(metrics["loss"])
    params = jax.device_get(placed.whole(state.params))
    assert LORA not in params
    run.mkdir()
    save_params(run / "model.safetensors", params)
    about = {"family": found.family, "config": {"max_length": 16}, "model": dataclasses.asdict(found.model)}
    write_json(run / "config.json", about)
    if found.labels is not None:
        found.labels.save(run)
    with np.load(DATA / "models" / name / "reference.npz") as reference:
        tokens, before = reference["tokens"], reference["logits"]
    after = logits(found.model, params, jnp.asarray(tokens))
    assert np.abs(after - before).max() > 0.1
    return after


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_what_was_trained_goes_out_and_comes_back(name: str, tmp_path: Path):
    trained = train(name, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    found = convert(tmp_path / "theirs", tmp_path / "again")
    assert found.file.unused() == []
    with np.load(DATA / "models" / name / "reference.npz") as reference:
        tokens = jnp.asarray(reference["tokens"])
    again = logits(found.model, load_params(tmp_path / "again" / "model.safetensors"), tokens)
    np.testing.assert_allclose(again, trained, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_was_trained(name: str, tmp_path: Path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    trained = train(name, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "theirs", to="huggingface")
    kind = "AutoModelForCausalLM" if name in DECODERS else "AutoModelForMaskedLM"
    kind = "AutoModelForSequenceClassification" if name.endswith("classifier") else kind
    theirs = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").eval()
    with np.load(DATA / "models" / name / "reference.npz") as reference:
        tokens = reference["tokens"]
    seen = tokens != theirs.config.pad_token_id
    with torch.no_grad():
        said = theirs(torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(seen).long())
    rows = np.ones(2, bool) if trained.ndim == 2 else seen
    largest = np.abs(np.asarray(said.logits)[rows] - trained[rows]).max()
    print(f"TRAINED {transformers.__version__} {name} {largest:.2e} of {np.abs(trained[rows]).max():.2f}")
    assert largest < 1e-4
