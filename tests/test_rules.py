"""One table of rules holds for all: parameters, batches, validation, plans, decoding, classification."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from experiments import classification, translation, vision
from lmx.config import BatchConfig, rules_of
from lmx.definition import define
from lmx.experiment import attention_facts, settle, start_facts, tokens_on_device
from lmx.learner import Learner, Placed, mean_loss, place
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.nn.embedding import count_parameters
from lmx.optimization import adam, constant
from lmx.plan.figures import Job
from lmx.plan.step import batch_of, mesh_of, state_of
from lmx.sharding import layout
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.rules import DEFAULT_RULES, rules_of_tables

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")

MESH = MeshConfig(data=2, fsdp=2, tensor=2)
CONFIG = DecoderConfig(vocab_size=100, width=16, feedforward_width=24, num_heads=2, num_layers=1)
B, T = 8, 6
RULES = {
    "as usual": DEFAULT_RULES,
    "vocabulary whole": {**DEFAULT_RULES, "vocab": ()},
    "words over fsdp": {**DEFAULT_RULES, "vocab": ("fsdp",), "embed": ()},
    "rows over data": {**DEFAULT_RULES, "batch": ("data",)},
}


def learner() -> Learner:
    definition = define(lambda rngs: Decoder(CONFIG, rngs=rngs))

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        model = definition.merge(params)
        states, _ = model(batch["tokens"], key=key)
        labels = batch["labels"]
        return cross_entropy(states, model.output_table(), labels, labels > 0, vocab_size=CONFIG.vocab_size)._asdict()

    return Learner(model=definition, loss=loss, optimizer=adam(constant(1e-2)), schedule=constant(1e-2))


def batch(seed: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(1, CONFIG.vocab_size, (1, B, T + 1)).astype(np.int32)
    return {"tokens": tokens[..., :-1], "labels": tokens[..., 1:]}


def placed_by(rules: layout.Rules) -> Placed:
    return place(learner(), make_mesh(MESH, devices=jax.devices()[:8]), rules=rules, shapes=[(1, B, T)])


def bytes_of(state: Any) -> int:
    """Returns what one device holds of a state."""
    leaves = jax.tree.leaves(state)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def losses_of(placed: Placed) -> list[float]:
    """Returns the losses of two steps, and that of a validation after them."""
    state, found = placed.born([3]), []
    for seed in range(2):
        state, metrics = placed.step(state, placed.place_batch(batch(seed)))
        found.append(float(metrics["loss"]))
    rows = {name: array[0] for name, array in batch(9).items()}
    return [*found, mean_loss(placed, state.params, [rows])["nll"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {
                "group": ("data", "fsdp", "sequence"), "shard": ("fsdp",), "replica": ("data", "sequence"),
                "outer_batch": ("data",), "outer_vocab": ("tensor",), "words": ("tensor", "fsdp"),
            },
        ),
        (
            {"vocab": (), "embed": ()},
            {
                "group": ("data", "fsdp", "sequence"), "shard": (), "replica": ("data", "fsdp", "sequence"),
                "outer_batch": ("data", "fsdp"), "outer_vocab": (), "words": (),
            },
        ),
        (
            {"vocab": ("tensor", "fsdp"), "embed": ()},
            {
                "group": ("data", "fsdp", "sequence"), "shard": ("fsdp",), "replica": ("data", "sequence"),
                "outer_batch": ("data",), "outer_vocab": ("tensor",), "words": ("tensor", "fsdp"),
            },
        ),
        (  # rows are not split last over what keeps tables in pieces
            {"batch": ("fsdp", "data")},
            {
                "group": ("fsdp", "data", "sequence"), "shard": (), "replica": ("fsdp", "data", "sequence"),
                "outer_batch": ("fsdp", "data"), "outer_vocab": ("tensor",), "words": ("tensor",),
            },
        ),
        (  # positions are split over it, too
            {"length": ("fsdp",), "batch": ("data",)},
            {
                "group": ("data", "fsdp"), "shard": (), "replica": ("data", "fsdp"), "outer_batch": ("data",),
                "outer_vocab": ("tensor",), "words": ("tensor",),
            },
        ),
    ],
)  # fmt: skip
def test_tokens_and_tables_meet_over_axes_that_follow_from_the_rules(changes, expected):
    assert rules_of_tables({**DEFAULT_RULES, **changes}) == expected


@pytest.fixture(scope="module")
def usual() -> list[float]:
    return losses_of(placed_by(DEFAULT_RULES))


@pytest.mark.parametrize("name", [pytest.param("vocabulary whole", marks=pytest.mark.slow), "words over fsdp"])
def test_any_rules_give_the_same_losses(usual, name):
    # Numbers are summed in another order; another split of rows or words must not do more.
    assert losses_of(placed_by(RULES[name])) == pytest.approx(usual, rel=2e-5)


def test_rules_say_how_many_bytes_a_device_holds():
    sizes = {name: bytes_of(placed_by(rules).like) for name, rules in RULES.items()}
    table = 128 * CONFIG.width * 4 * 2  # bytes of the two tables, which Adam keeps twice more
    assert sizes["vocabulary whole"] - sizes["as usual"] == 3 * table * (1 / 2 - 1 / 4)
    assert sizes["words over fsdp"] > sizes["as usual"]  # the layers' weights are no longer split over fsdp
    assert sizes["rows over data"] == sizes["as usual"]


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_plan_counts_by_the_rules_of_its_job(rules):
    one, placed = learner(), placed_by(rules)
    shapes = {name: array.shape for name, array in batch(0).items()}
    job = Job(build=one.model.build, loss=one.loss, optimizer=one.optimizer, mesh=MESH, batch=shapes, rules=rules)
    mesh = mesh_of(job)
    assert bytes_of(state_of(job, mesh)[0]) == bytes_of(placed.like)
    planned, real = batch_of(shapes, mesh, rules=rules), placed.place_batch(batch(0))
    for name, array in real.items():
        assert planned[name].sharding.is_equivalent_to(array.sharding, array.ndim)


def test_a_rule_for_batches_reaches_every_batch():
    rules = RULES["rows over data"]
    placed = placed_by(rules)
    assert placed.place_batch(batch(0))["tokens"].sharding.shard_shape((1, B, T)) == (1, B // 2, T)
    where = placed.layout
    rows = {"tokens": np.zeros((B, T), np.int32)}
    assert where.row_shards == 2
    assert where.place(rows)["tokens"].sharding.shard_shape((B, T)) == (B // 2, T)
    usual = placed_by(DEFAULT_RULES).layout
    assert usual.row_shards == 4
    assert usual.place(rows)["tokens"].sharding.shard_shape((B, T)) == (B // 4, T)
    assert ONE_DEVICE.row_shards == 1
    assert ONE_DEVICE.place(rows) is rows


def test_rules_decide_the_tokens_of_a_device():
    mesh = make_mesh(MESH, devices=jax.devices()[:8])
    assert tokens_on_device([(1, 16, 8)], mesh) == "32 an update"
    assert tokens_on_device([(1, 16, 8)], mesh, rules=RULES["rows over data"]) == "64 an update"


@pytest.mark.parametrize("script", [translation, classification, vision])
def test_a_script_says_its_rules_once(script, monkeypatch):
    """tokens_per_device, which is settled before there is a model, follows them too."""
    _, config = script.command_line([next(iter(script.PRESETS)), "--tokens-per-device", "100", "--mesh.data", "2"])
    assert rules_of(config) is DEFAULT_RULES
    assert settle(config).batch.tokens_per_batch == 200
    monkeypatch.setattr(script.Config, "rules", {**DEFAULT_RULES, "batch": ()})
    assert settle(config).batch.tokens_per_batch == 100
    assert isinstance(config.batch, BatchConfig)
    # Where the mesh leaves a size open, the devices are those of the machine.
    _, config = script.command_line([next(iter(script.PRESETS)), "--tokens-per-device", "100"])
    monkeypatch.undo()
    assert settle(config).batch.tokens_per_batch == 100 * jax.device_count()


def test_a_run_says_at_its_start_what_it_trains_on_what():
    groups = {"adam": "all", "frozen": "a table"}
    placed = placed_by(RULES["rows over data"])
    placed = placed._replace(learner=placed.learner._replace(updated_by=groups))
    batches = SimpleNamespace(shapes=[(2, 8, 6), (2, 4, 10)], batches_per_epoch=7, padding_share=0.25, optimum=0.125)
    facts = start_facts(CONFIG, placed, batches)
    assert (facts["devices"], facts["mesh"]) == ("8 x cpu", "data=2, fsdp=2, tensor=2, sequence=1")
    assert (facts["parameters"], facts["updates_per_epoch"]) == (count_parameters(placed.learner.model.network), 7)
    assert (facts["updated_by_adam"], facts["frozen"]) == ("all", "a table")
    assert (facts["padding_share"], facts["padding_optimum"]) == (0.25, 0.125)
    assert facts["batch_shapes"] == [[2, 8, 6], [2, 4, 10]]
    assert facts["tokens_per_device"] == "20 to 24 a micro-batch, 40 to 48 an update"
    assert facts["precision"].startswith("float32")
    assert facts["attention_kernel"] == "xla"
    # A reason of the script's stands where the config has asked for what it took.
    asked = dataclasses.replace(CONFIG, kernel="xla")
    assert start_facts(asked, placed, batches, reason="seeds share a step")["attention_reason"] == "seeds share a step"
    assert start_facts(CONFIG, placed, batches, reason="seeds share a step")["attention_reason"] != "seeds share a step"
    plain = start_facts(CONFIG, placed_by(DEFAULT_RULES), SimpleNamespace(shapes=[(1, 8, 6)], batches_per_epoch=7))
    assert not {"padding_share", "padding_optimum", "updated_by_adam", "frozen"} & plain.keys()


def test_rules_decide_which_kernel_attends():
    """Where lengths are split, a fused kernel does not apply; a rule that leaves them whole lets it."""
    mesh = make_mesh(MeshConfig(sequence=2, data=1), devices=jax.devices()[:2])
    network = define(lambda rngs: Decoder(CONFIG, rngs=rngs)).network
    assert "the mesh splits sequences" in attention_facts(CONFIG, network, mesh)["attention_reason"]
    rules = {**DEFAULT_RULES, "length": ()}
    assert "the mesh splits" not in attention_facts(CONFIG, network, mesh, rules=rules)["attention_reason"]


def test_a_layout_is_one_record():
    placed = placed_by(RULES["rows over data"])
    assert placed.layout == Layout(placed.mesh, RULES["rows over data"])
    assert placed.layout.devices == 8
