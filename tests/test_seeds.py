"""Several seeds in one step against each of them alone: state, batches, metrics, early stop, and going on."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmx.config import RunConfig, SelectionConfig
from lmx.data.batches import SeedBatches, TokenBatches
from lmx.data.parallel import Pairs, encode_pairs
from lmx.definition import define
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.nn.dropout import dropout
from lmx.nn.layers import Linear
from lmx.run import Run
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.text import PretokenizedTokenizer
from lmx.training import (
    TrainState,
    born,
    make_train_step,
    over_seeds,
    state_shardings,
)

SEEDS = (3, 4, 11)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
LAST = 12


def build(rngs: nnx.Rngs) -> nnx.Module:
    return Linear((4,), (8,), axes=("embed", "mlp"), rngs=rngs)


def loss(params, batch, key):
    x = dropout(batch["x"], 0.5, key)
    outputs = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0)))), params)(x)
    return {"loss": jnp.square(outputs - 1).mean(-1).sum(), "weight": jnp.float32(len(x))}


class Batches:
    """Rows that differ by seed; those of a bad batch are not finite for the seed that is named."""

    def __init__(self, seeds: tuple[int, ...], bad: dict[int, int] | None = None):
        self.seeds, self.bad = seeds, bad or {}

    def batch(self, k: int, rows=None) -> dict[str, np.ndarray]:
        parts = [np.random.default_rng((seed, k)).normal(size=(2, 8, 4)).astype(np.float32) for seed in self.seeds]
        for part, seed in zip(parts, self.seeds, strict=True):
            if self.bad.get(k) == seed:
                part[0, 0] = np.nan
        return {"x": np.stack(parts)}

    def tokens(self, k: int) -> int:
        return 10 * len(self.seeds)

    def epochs_before(self, k: int) -> float:
        return 0.0


def training_of(run: Run, seeds: tuple[int, ...], *, mesh=None, bad=None, average_decay=None, **selection) -> Training:
    """Returns a training of seeds that is validated after each third of 12 updates."""
    mesh = mesh or make_mesh(MeshConfig(), devices=jax.devices()[:1])
    chosen = SelectionConfig(**({"average_of": "best"} | selection))
    learner = Learner(
        define(build),
        loss,
        OPTIMIZER,
        lambda count: 1e-2,
        average_decay=average_decay,
        keeps_best=chosen.keeps_best,
        num_seeds=len(seeds),
    )
    run.options = RunConfig(log_every=4)
    return Training(
        run,
        place(learner, mesh),
        Batches(seeds, bad),
        last=LAST,
        seeds=seeds,
        selection=chosen,
        due=lambda step: step % 3 == 0,
    )


def run_seeds(run: Run, seeds: tuple[int, ...], *, stop_at=None, patience=2, **options) -> TrainState:
    training = training_of(run, seeds, patience=patience, **options)

    def measure():
        step = int(training.state.step)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        # A number that goes down and up again, at another time for each seed.
        values = np.asarray([abs(step - 3 * (1 + seed % 3)) + seed / 100 for seed in seeds])
        return values, {"loss": values}

    try:
        with training:
            for update in training:
                if update.due:
                    training.validate(measure)
        return training.state
    finally:
        training._checkpoints.close()


def opened(directory) -> Run:
    run = Run(directory, {"experiment": "seeds"})
    run.open()
    return run


def lines_of(run: Run) -> list[dict]:
    timed = {"seconds", "tokens_per_second", "data_wait"}
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    run = opened(tmp_path_factory.mktemp("together"))
    return run, run_seeds(run, SEEDS)


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_a_seed_among_others_is_the_seed_alone(together, tmp_path, index):
    run, state = together
    alone = opened(tmp_path / "alone")
    found = run_seeds(alone, (SEEDS[index],))
    # It may have ended earlier alone; its best is the same, and the parameters are too where it did not.
    assert alone.memory.best == [run.memory.best[index]]
    assert alone.memory.best_step == [run.memory.best_step[index]]
    for mine, one in zip(jax.tree.leaves(state.best), jax.tree.leaves(found.best), strict=True):
        np.testing.assert_allclose(mine[index], one[0], rtol=1e-5, atol=1e-6)
    if int(found.step) == int(state.step):
        for mine, one in zip(jax.tree.leaves(state.params), jax.tree.leaves(found.params), strict=True):
            np.testing.assert_allclose(mine[index], one[0], rtol=1e-5, atol=1e-6)
    assert lines_of(run)[0]["seeds"]["loss"][index] == pytest.approx(lines_of(alone)[0]["loss"], rel=1e-5)


def test_seeds_differ_in_initial_values_rows_and_dropout(together):
    _, state = together
    weights = np.asarray(state.params["weight"])
    assert weights.shape == (3, 4, 8)
    assert np.asarray(state.seed).tolist() == list(SEEDS)
    assert all(np.abs(weights[a] - weights[b]).max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    shardings = state_shardings(nnx.eval_shape(lambda: build(nnx.Rngs(0))), OPTIMIZER, mesh=mesh, seeds=True)
    start = born(build, OPTIMIZER, shardings=shardings, seed=SEEDS)
    same = start._replace(params=jax.tree.map(lambda x: jnp.stack([x[0]] * 3), start.params))
    batch = {"x": jnp.ones((3, 1, 8, 4))}
    _, metrics = over_seeds(make_train_step(loss, OPTIMIZER))(same, batch)
    assert len(set(np.asarray(metrics["loss"]).tolist())) == 3  # from dropout alone


def test_lines_hold_the_mean_and_each_seed(together):
    run, _ = together
    line = next(line for line in lines_of(run) if line["kind"] == "validation")
    assert line["loss"] == pytest.approx(np.mean(line["seeds"]["loss"]))
    line = next(line for line in lines_of(run) if line["kind"] == "train")
    assert line["tokens"] == 3 * 3 * 10
    assert len(line["seeds"]["gradient_norm"]) == 3
    assert line["gradient_norm"] == pytest.approx(np.mean(line["seeds"]["gradient_norm"]), rel=1e-6)


def test_all_seeds_share_the_mesh(together, tmp_path):
    _, state = together
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    other = run_seeds(opened(tmp_path / "mesh"), SEEDS, mesh=mesh)
    assert other.params["weight"].addressable_shards[0].data.size < other.params["weight"].size
    for mine, one in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(mine, one, rtol=1e-4, atol=1e-5)


def test_a_stopped_run_of_seeds_continues_to_the_same_bits(together, tmp_path):
    run, state = together
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        run_seeds(parted, SEEDS, stop_at=6)
    parted = opened(tmp_path / "parted")
    found = run_seeds(parted, SEEDS)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), found, state))
    assert lines_of(parted) == lines_of(run)
    assert (parted.memory.best_step, parted.memory.waited) == (run.memory.best_step, run.memory.waited)


def test_a_seed_whose_step_is_not_finite_is_skipped_alone(together, tmp_path, capsys):
    _, usual = together
    run = opened(tmp_path / "bad")
    state = run_seeds(run, SEEDS, bad={1: SEEDS[1]})
    assert "step 2: loss or gradient of 1 of 3 seeds is not finite; the step is skipped (1 in a row)" in (
        capsys.readouterr().out
    )
    assert run.memory.skipped == 1
    same = [np.array_equal(state.params["weight"][i], usual.params["weight"][i]) for i in range(3)]
    assert same == [True, False, True]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(line["seeds"]["loss"]).all() for line in lines_of(run))


def test_what_a_seed_does_after_its_patience_is_of_no_account(tmp_path, capsys):
    """The first seed is best at 3, and 9 is its second validation that is not."""
    run = opened(tmp_path / "after")
    run_seeds(run, SEEDS, bad={9: SEEDS[0]})
    assert run.memory.best_step[0] == 3
    assert run.memory.skipped == 0
    assert "not finite" not in capsys.readouterr().out
    before = opened(tmp_path / "before")
    run_seeds(before, SEEDS, bad={8: SEEDS[0]})
    assert before.memory.skipped == 1


def test_batches_of_seeds_share_their_shapes_and_hold_what_each_has_alone():
    texts = ["a b c d e f g h"[: 2 * n - 1] for n in range(1, 9) for _ in range(20)]
    tokenizer = PretokenizedTokenizer.from_texts(texts)
    encoded = encode_pairs(Pairs(sources=texts, targets=texts, origin="test"), tokenizer, tokenizer)
    settings = {"buckets": (5, 9), "tokens_per_batch": 90, "rows_multiple": 2}
    batches = SeedBatches(encoded, seeds=(1, 2), **settings)
    alone = [TokenBatches(encoded, seed=seed, shapes_seed=0, **settings) for seed in (1, 2)]
    shapes = set()
    for k in range(40):
        found = batches.batch(k)
        shapes.add(found["source"].shape)
        for index, one in enumerate(alone):
            np.testing.assert_array_equal(found["source"][index], one.batch(k)["source"])
        assert batches.tokens(k) == sum(one.tokens(k) for one in alone)
    assert shapes == {(2, 1, 18, 5), (2, 1, 10, 9)}
    assert any((batches.batch(k)["source"][0] != batches.batch(k)["source"][1]).any() for k in range(3))
    assert batches.batch(0, slice(0, 4))["source"].shape[:3] == (2, 1, 4)
    with pytest.raises(ValueError, match=r"seeds must be one or more that differ, got seeds=\(1, 1\)"):
        SeedBatches(encoded, seeds=(1, 1), **settings)


def trained(training: Training, params: dict[int, dict]) -> tuple[dict, str]:
    """Trains with a loss that falls and rises, notes the parameters of each validation, and returns what is kept."""
    with training:
        for update in training:
            if update.due:
                params[update.number] = jax.device_get(training.params)
                values = np.abs(update.number - 7.0) + np.arange(len(SEEDS)) / 10
                training.validate(lambda: (values, {"loss": values}))  # noqa: B023
    return training.end()


@pytest.mark.parametrize(("of", "steps"), [("last", (9, 12)), ("best", (6, 9))])
def test_the_mean_of_checkpoints_is_of_each_seed(of, steps, tmp_path):
    params: dict[int, dict] = {}
    training = training_of(opened(tmp_path / "run"), SEEDS, average=2, average_of=of)
    found, made = trained(training, params)
    assert made == f"mean of the {of} 2"
    expected = np.mean([params[step]["weight"] for step in steps], axis=0)
    assert expected.shape[0] == len(SEEDS)
    np.testing.assert_allclose(found["weight"], expected, rtol=1e-6)


def test_the_best_exponential_average_of_each_seed_is_kept(tmp_path):
    params: dict[int, dict] = {}
    training = training_of(opened(tmp_path / "run"), SEEDS, average_decay=0.9)
    found, made = trained(training, params)
    assert made == "the best step by validation"
    np.testing.assert_array_equal(found["weight"], params[6]["weight"])
    assert (params[6]["weight"] != params[9]["weight"]).any()


def test_checkpoints_of_seeds_stay_when_asked_for(tmp_path):
    run = opened(tmp_path / "run")
    training = training_of(run, SEEDS)
    run.options = RunConfig(keep_every=3)
    training = Training(
        run, training.placed, Batches(SEEDS), last=LAST, seeds=SEEDS, selection=SelectionConfig(average_of="best"),
        due=lambda step: step % 3 == 0,
    )  # fmt: skip
    trained(training, {})
    assert sorted(int(path.name) for path in (run.directory / "checkpoints").iterdir()) == [3, 6, 9, 12]
