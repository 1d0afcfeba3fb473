"""Low-rank adaptation: what is trained, what is kept, and that what is handed on is a plain model."""

from fnmatch import fnmatch
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.definition import define
from lmx.errors import InputError
from lmx.learner import Learner, place
from lmx.lora import LORA, LoraConfig, own_parameters, with_lora
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.optimization import OptimizerConfig, constant
from lmx.optimizers import make_optimizer, updated_by
from lmx.parameters import save_params
from lmx.sharding.mesh import MeshConfig, make_mesh

CONFIG = ClassifierConfig(
    vocab_size=40, width=16, feedforward_width=24, num_heads=4, num_layers=3, num_outputs=5, max_length=7,
    dropout_rate=0.0, attention_dropout_rate=0.0, pooled_dropout_rate=0.0,
)  # fmt: skip
BASE = define(lambda rngs: EncoderClassifier(CONFIG, rngs=rngs))
TOKENS = np.random.default_rng(0).integers(1, 40, size=(1, 8, 6)).astype(np.int32)
LABELS = np.arange(8)[None] % 5


def learner_of(config: LoraConfig, *, num_seeds: int | None = None) -> Learner:
    model = with_lora(BASE, config)

    def loss(params, batch, key):
        outputs, _ = model.merge(params)(batch["tokens"])
        picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["labels"][:, None], axis=1)
        return {"loss": -picked.sum(), "weight": jnp.float32(len(outputs))}

    options = OptimizerConfig(warmup=1, peak=0.02)
    schedule = constant(0.02, warmup=1)
    optimizer = make_optimizer(options, schedule, model=model)
    return Learner(model=model, loss=loss, optimizer=optimizer, schedule=schedule, num_seeds=num_seeds)


def mesh_of(config: MeshConfig):
    return make_mesh(config, devices=jax.devices()[: config.data * config.fsdp * config.tensor])


def train(config: LoraConfig, *, steps: int, mesh: MeshConfig | None = None, num_seeds: int | None = None):
    placed = place(learner_of(config, num_seeds=num_seeds), mesh_of(mesh or MeshConfig(data=1)))
    state = placed.born([3, 4][: num_seeds or 1])
    batch = {"tokens": TOKENS, "labels": LABELS}
    if num_seeds is not None:
        batch = {name: np.stack([array] * num_seeds) for name, array in batch.items()}
    first, losses = jax.device_get(state.params), []
    for _ in range(steps):
        state, metrics = placed.step(state, placed.place_batch(batch))
        losses.append(jax.device_get(metrics["loss"]))
    return placed, first, state, losses


@pytest.mark.parametrize(
    ("trained", "frozen"),
    [
        (("output", "pooling"), {"encoder"}),
        (("output", "encoder.embedding"), {"encoder.stack"}),
        (("*",), set()),
        (("*.bias",), {"output.weight", "encoder.embedding", "encoder.stack"}),
    ],
)
def test_what_is_trained_as_a_whole_is_named_at_any_depth(trained, frozen):
    found = with_lora(BASE, LoraConfig(rank=2, trained=trained)).frozen
    names = [".".join(str(entry.key) for entry in path) for path, _ in jax.tree_util.tree_leaves_with_path(BASE.shapes)]
    is_frozen = {name for name in names if any(f"{name}.".startswith(f"{each}.") for each in found)}
    fits = lambda name: any(fnmatch(name, each) or fnmatch(name, f"{each}.*") for each in trained)  # noqa: E731
    assert is_frozen == {name for name in names if not fits(name)}
    for part in frozen:
        assert any(name.startswith(part) for name in is_frozen)
    assert make_optimizer(OptimizerConfig(), constant(0.1, warmup=1), model=with_lora(BASE, LoraConfig(rank=2)))


def test_a_name_that_fits_nothing_is_refused():
    with pytest.raises(InputError, match=r"lora.trained must name parameters, got outputs. The parts are "):
        with_lora(BASE, LoraConfig(rank=2, trained=("outputs",)))


@pytest.fixture(scope="module")
def trained():
    return train(LoraConfig(rank=2), steps=25)


def test_a_model_begins_as_its_base(trained):
    placed, first, _, _ = trained
    base = place(learner_of(LoraConfig()), mesh_of(MeshConfig(data=1))).born([3]).params
    jax.tree.map(np.testing.assert_array_equal, own_parameters(first), jax.device_get(base))
    merged = placed.learner.model.adapt(first)
    jax.tree.map(np.testing.assert_array_equal, merged, own_parameters(first))
    # First factors by the root of their inputs, which are 16, or behind the wide layer 24; the second are nothing yet.
    layers = first[LORA]["encoder"]["stack"]["blocks"]
    factors = {"query": layers["attention"]["query"]["weight"], "down": layers["feedforward"]["down"]["weight"]}
    for name, inputs in (("query", 16), ("down", 24)):
        assert factors[name]["a"].std() == pytest.approx(inputs**-0.5, rel=0.25)
        assert not factors[name]["b"].any()


def test_only_changes_and_the_new_output_are_trained_and_the_loss_falls(trained):
    placed, first, state, losses = trained
    last = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, last["encoder"], first["encoder"])
    assert np.abs(last["output"]["weight"] - first["output"]["weight"]).max() > 0
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(last[LORA]))
    assert losses[-1] < 1.0 < losses[0]
    # No average of what is frozen is kept: 2 numbers a trained parameter, and the counts.
    changing = sum(leaf.size for leaf in jax.tree.leaves((last[LORA], last["output"])))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim) == 2 * changing
    told = updated_by(OptimizerConfig(), placed.learner.model)
    assert told["frozen"].endswith(": encoder")
    assert "lora" in told["adam"]


def test_the_change_is_alpha_over_rank_times_the_product_by_layer_and_side():
    config = LoraConfig(rank=2, alpha=6.0, targets=("*.attention.query", "*.out.weight"))
    model = with_lora(BASE, config)
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32), model.shapes
    )
    merged = model.adapt(params)
    ours, theirs = (tree["encoder"]["stack"]["blocks"]["attention"] for tree in (params, merged))
    factors = params[LORA]["encoder"]["stack"]["blocks"]["attention"]
    assert set(factors) == {"query", "out"}
    for layer in range(3):
        a, b = (np.asarray(factors["query"]["weight"][name][layer]) for name in ("a", "b"))
        change = 3.0 * (a @ b.reshape(2, -1)).reshape(16, 4, 4)
        np.testing.assert_allclose(
            theirs["query"]["weight"][layer] - ours["query"]["weight"][layer], change, rtol=1e-4, atol=1e-5
        )
        a, b = (np.asarray(factors["out"]["weight"][name][layer]) for name in ("a", "b"))
        change = 3.0 * (a.reshape(16, 2) @ b).reshape(4, 4, 16)
        np.testing.assert_allclose(
            theirs["out"]["weight"][layer] - ours["out"]["weight"][layer], change, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(theirs["key"]["weight"], ours["key"]["weight"])


def test_without_a_rank_a_model_is_as_it_is_and_what_it_made_of_parameters_is_made():
    assert with_lora(BASE, LoraConfig()) is BASE
    assert LoraConfig() == LoraConfig(rank=0, alpha=16.0, targets=("*",), trained=("output", "pooling"))
    model = with_lora(
        BASE._replace(adapt=lambda params: {**params, "made": 1}), LoraConfig(rank=2, targets=("*.query",))
    )
    assert model.adapt(BASE.shapes) == {**BASE.shapes, "made": 1}  # a finished run has no changes
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), model.shapes)
    before = jax.tree.leaves(params)
    found = model.adapt(params)
    assert set(found) == {*BASE.shapes, "made"}
    assert all(one is other for one, other in zip(jax.tree.leaves(params), before, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_a_mesh_gives_the_same_and_splits_the_factors(trained):
    placed, _, _, losses = train(LoraConfig(rank=2), steps=4, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(losses, trained[-1][:4], rtol=1e-4)
    factors = placed.shardings.params[LORA]["encoder"]["stack"]["blocks"]["feedforward"]["up"]["weight"]
    assert (tuple(factors["a"].spec)[1], tuple(factors["b"].spec)[2]) == ("fsdp", "tensor")


@pytest.mark.slow
def test_seeds_train_together_and_are_handed_on_without_changes(tmp_path: Path):
    placed, _, state, _ = train(LoraConfig(rank=2), steps=2, num_seeds=2)
    whole = placed.whole(state.params)
    # What is given parameters at each validation begins with their shapes: no merged matrices lie beside the training.
    told = jax.tree.map(lambda one: (one.shape, one.dtype, type(one)), placed.shapes)
    assert told == jax.tree.map(lambda one: (one.shape, one.dtype, jax.ShapeDtypeStruct), whole)
    assert LORA not in whole
    alone = placed.learner.model.adapt(jax.tree.map(lambda leaf: leaf[1], state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6), whole, alone)
    for index, name in enumerate((3, 4)):
        (tmp_path / "seeds").mkdir(exist_ok=True)
        save_params(tmp_path / "seeds" / f"{name}.safetensors", jax.tree.map(lambda leaf: leaf[index], whole))  # noqa: B023
    jax.tree.map(np.testing.assert_array_equal, placed.load(tmp_path), whole)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(rank=-1), "lora.rank must be at least 0, got rank=-1"),
        (LoraConfig(rank=2, alpha=0.0), "lora.alpha must be above 0, got alpha=0.0"),
        (LoraConfig(rank=2, alpha=float("nan")), "lora.alpha must be above 0, got alpha=nan"),
        (
            LoraConfig(rank=2, targets=("*.queri",)),
            r"lora.targets must name matrices of layers, got [*].queri. There are encoder.stack.blocks.attention.key.w",
        ),
        (LoraConfig(rank=2, targets=("output",)), "lora.targets must name matrices of layers, got output"),
    ],
)
def test_what_cannot_be_is_told(config, message):
    with pytest.raises(InputError, match=message):
        with_lora(BASE, config)
