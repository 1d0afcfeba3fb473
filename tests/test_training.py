from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmx.definition import param_axes
from lmx.losses import cross_entropy
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.dropout import dropout
from lmx.nn.layers import Linear
from lmx.optimization import adam, constant, inverse_sqrt
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import place_batch, place_rows
from lmx.training import (
    TrainState,
    abstract_state,
    born,
    compile_eval_step,
    compile_step,
    create_state,
    keep_best,
    make_eval_step,
    make_train_step,
    newest_rate,
    state_shardings,
)

pytestmark = pytest.mark.optimised

# A regression with dropout on its inputs stands for a model: what a step does, it does to any loss.
A, B, D = 3, 4, 5
OPTIMIZER = adam(constant(0.1), weight_decay=0.01, clip_norm=0.5)


def make_loss(rate: float = 0.0):
    def loss(params, batch, key):
        linear = params["linear"]
        error = dropout(batch["x"], rate, key) @ linear["weight"] + linear["bias"] - batch["y"]
        # At a shift of 0 the root is finite and its gradient is not.
        shifted = jnp.sqrt(batch["shift"] * (1 + jnp.square(linear["bias"])))
        weights = batch["weights"]
        return {
            "loss": ((jnp.square(error) + shifted) * weights).sum(),
            "error": jnp.abs(error).sum(),
            "weight": weights.sum(),
        }

    return loss


def batch(seed: int = 0, *, number: int = A, rows: int = B) -> dict[str, np.ndarray]:
    """Makes micro-batches whose weights differ, as the target tokens of sentences do."""
    generator = np.random.default_rng(seed)
    return {
        "x": generator.normal(size=(number, rows, D)).astype(np.float32),
        "y": generator.normal(size=(number, rows)).astype(np.float32),
        "weights": generator.integers(0, 9, (number, rows)).astype(np.float32),
        "shift": np.ones((number, rows), np.float32),
    }


def state(seed: int = 0, *, average: bool = True) -> TrainState:
    params = {"linear": {"weight": jnp.linspace(-1.0, 1.0, D), "bias": jnp.asarray(0.5)}}
    return create_state(params, OPTIMIZER, seed=seed, average=average)


step = make_train_step(make_loss(0.3), OPTIMIZER, average_decay=0.9)
jitted = jax.jit(step)
jitted_still = jax.jit(make_train_step(make_loss(), OPTIMIZER, average_decay=0.9))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_near(found, expected, *, atol: float = 1e-5):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=atol, rtol=1e-5), found, expected)


# One step.


def test_a_step_is_one_update_with_the_gradient_of_the_mean():
    before, one = state(), batch(number=1)
    loss = make_loss()

    @jax.jit
    def by_hand(params, optimizer_state):
        part = jax.tree.map(lambda x: jnp.asarray(x[0]), one)
        sums = loss(params, part, None)
        gradients = jax.grad(lambda params: loss(params, part, None)["loss"] / sums["weight"])(params)
        updates, optimizer_state = OPTIMIZER.update(gradients, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, gradients, sums

    params, optimizer_state, gradients, sums = by_hand(before.params, before.optimizer_state)
    after, metrics = jitted_still(before, one)
    assert_near(after.params, params)
    assert_near(after.optimizer_state, optimizer_state)
    weight = float(sums["weight"])
    expected = {
        "loss": sums["loss"] / weight,
        "error": sums["error"] / weight,
        "weight": weight,
        "gradient_norm": optax.tree.norm(gradients),
        "parameter_norm": optax.tree.norm(params),
        "skipped": 0,
    }
    assert float(expected["gradient_norm"]) > 0.5  # before clipping
    assert_near(metrics, {name: np.asarray(value) for name, value in expected.items()})


def test_accumulation_is_one_big_batch():
    parts = batch()
    whole = {name: x.reshape(1, A * B, *x.shape[2:]) for name, x in parts.items()}
    assert parts["weights"].sum(1).std() > 1  # micro-batches of unequal weight
    assert_near(jitted_still(state(), parts), jitted_still(state(), whole))


def test_steps_and_adams_count_advance():
    after = state()
    for _ in range(3):
        after, _ = jitted(after, batch())
    assert int(after.step) == 3
    counts = [leaf for leaf in jax.tree.leaves(after.optimizer_state) if leaf.dtype == jnp.int32]
    assert [int(count) for count in counts] == [3, 3]  # Adam's and the schedule's


def trained(number: int, run=jitted, *, start: TrainState | None = None) -> list[TrainState]:
    states = [start or state()]
    for seed in range(number):
        states.append(run(states[-1], batch(seed))[0])
    return states


def test_the_average_forgets_by_its_decay_once_it_is_that_old():
    before = trained(1)[-1]._replace(applied=jnp.asarray(81, jnp.int32))  # 81 / 90 = 0.9
    first, second = trained(2, start=before)[1:]
    expected = jax.tree.map(
        lambda start, one, two: 0.9 * (0.9 * start + 0.1 * one) + 0.1 * two, before.average, first.params, second.params
    )
    assert_near(second.average, expected, atol=1e-6)
    assert state(average=False).average is None


def test_the_average_has_no_part_of_the_start():
    before = state()
    assert_equal(before.average, before.params)
    states = trained(12)
    assert_equal(states[1].average, states[1].params)
    elsewhere = before._replace(average=jax.tree.map(lambda x: x + 1000, before.params))
    assert_near(trained(3, start=elsewhere)[-1].average, states[3].average, atol=1e-6)
    # Every decay is that of a plain reference.
    expected = before.params
    for number, each in enumerate(states[1:]):
        decay = min(0.9, number / (number + 9))
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, each.params)
    assert_near(states[-1].average, expected, atol=1e-6)


def test_a_long_average_follows_the_training_from_the_beginning():
    run = jax.jit(make_train_step(make_loss(), OPTIMIZER, average_decay=0.9999))
    end = trained(200, run)[-1]
    away = lambda params: float(optax.tree.norm(optax.tree.sub(params, state().params)))  # noqa: E731
    assert away(end.average) > 0.9 * away(end.params)  # with a fixed decay 0.02


def test_a_skipped_step_does_not_count_as_an_update():
    bad = batch()
    bad["y"][0, 0] = np.nan
    schedule = lambda count: jnp.asarray(count, jnp.float32)  # noqa: E731
    current, applied, found = state(), [], []
    for one in (batch(), bad, bad, batch(1), bad):
        current, _ = jitted(current, one)
        applied.append(int(current.applied))
        found.append(newest_rate(schedule, current))
    assert applied == [1, 1, 1, 2, 2]
    assert found == [0, 0, 0, 1, 1]
    assert newest_rate(schedule, current._replace(applied=jnp.asarray([3, 5, 4]))) == 4  # of several seeds


def test_an_average_does_not_age_by_skipped_steps():
    bad = batch()
    bad["y"][0, 0] = np.nan
    first = jitted_still(state(), batch())[0]
    skipped = jitted_still(jitted_still(first, bad)[0], bad)[0]
    assert_near(jitted_still(skipped, batch(1))[0].average, jitted_still(first, batch(1))[0].average, atol=1e-7)


@pytest.mark.parametrize("trouble", ["loss is NaN", "loss is infinite", "gradient is NaN"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(trouble):
    bad = batch()
    if trouble == "gradient is NaN":
        bad["shift"][1] = 0  # in one of the micro-batches
    else:
        bad["x"][1, 2, 3] = np.nan if trouble == "loss is NaN" else np.inf
    before, _ = jitted(state(), batch())
    after, metrics = jitted(before, bad)
    assert_equal(after._replace(step=before.step, skipped=before.skipped), before)
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (2, 1, 1)
    assert int(after.applied) == 1
    assert np.isfinite(metrics["loss"]) == (trouble == "gradient is NaN")
    assert not np.isfinite(metrics["gradient_norm"])


def test_an_infinite_loss_is_skipped_where_its_gradient_is_finite():
    def loss(params, part, key):
        error = part["x"] @ params["linear"]["weight"] + params["linear"]["bias"] - part["y"]
        return {"loss": jnp.square(error).sum() + part["shift"].max(), "weight": part["weights"].sum()}

    run, bad = jax.jit(make_train_step(loss, OPTIMIZER)), batch()
    bad["shift"][2, 1] = np.inf
    before = state(average=False)
    after, metrics = run(before, bad)
    assert np.isfinite(metrics["gradient_norm"])
    assert int(metrics["skipped"]) == 1
    assert_equal(after.params, before.params)


def test_weights_below_one_are_divided_by_as_they_are():
    light = batch()
    light["weights"] /= 1_000_000
    assert light["weights"].sum() < 1e-4
    found, expected = jitted_still(state(), light), jitted_still(state(), batch())
    assert_near(found[0].params, expected[0].params)
    for name in ("loss", "gradient_norm"):
        assert_near(found[1][name], expected[1][name], atol=1e-3)


def test_skipped_steps_are_counted_in_a_row():
    bad = batch()
    bad["y"][0, 0] = np.nan
    found, current = [], state()
    for one in (batch(), bad, bad, bad, batch(), bad):
        current, metrics = jitted(current, one)
        found.append(int(metrics["skipped"]))
    assert found == [0, 1, 2, 3, 0, 1]
    assert int(current.step) == 6


def test_a_batch_without_weight_is_no_trouble():
    empty = batch()
    empty["weights"][:] = 0
    after, metrics = jitted(state(), empty)
    assert int(after.skipped) == 0
    assert float(metrics["loss"]) == 0


def test_randomness_is_a_function_of_seed_and_step():
    first, again = (jitted(state(seed=1), batch())[1]["loss"] for _ in range(2))
    assert first == again
    others = [
        jitted(state(seed=2), batch())[1]["loss"],
        jitted(state(seed=1)._replace(step=jnp.asarray(1, jnp.int32)), batch())[1]["loss"],
    ]
    assert len({float(first), *map(float, others)}) == 3


def test_no_key_of_a_step_is_one_that_initial_values_are_drawn_with():
    seen = []

    def loss(params, part, key):
        return {"loss": params["linear"]["bias"], "weight": jnp.ones(()), "key": jax.random.key_data(key)}

    # A loss hands its key out as a metric, in float32.
    with_keys = jax.jit(make_train_step(loss, OPTIMIZER))
    one = {name: x[:1] for name, x in batch().items()}
    for number in range(40):
        current = state(seed=3, average=False)._replace(step=jnp.asarray(number, jnp.int32))
        seen.append(tuple(np.asarray(with_keys(current, one)[1]["key"]).tolist()))
    rngs = nnx.Rngs(params=jax.random.key(3))
    initial = [jax.random.fold_in(jax.random.key(3), number) for number in range(40)]
    initial += [rngs.params() for _ in range(40)]
    below = [jax.random.fold_in(key, 0) for key in initial]
    taken = {tuple(np.asarray(jax.random.key_data(key), np.float32).tolist()) for key in (*initial, *below)}
    assert len(set(seen)) == 40
    # As ever, so that a run that has begun goes on with the same dropout.
    of_step, *folds = jax.random.key(3), 2**32 - 1, 7, 0
    for fold in folds:
        of_step = jax.random.fold_in(of_step, fold)
    assert seen[7] == tuple(np.asarray(jax.random.key_data(of_step), np.float32).tolist())
    assert not taken & set(seen)


def test_micro_batches_do_not_share_their_randomness():
    masks = []

    def loss(params, part, key):
        kept = dropout(part["x"], 0.5, key) != 0
        place = jnp.arange(kept.size).reshape(kept.shape) + 1.0
        return {"loss": params["linear"]["bias"], "weight": jnp.ones(()), "kept": (kept * place**2).sum()}

    same = {name: np.repeat(x[:1], 2, axis=0) for name, x in batch(rows=16).items()}
    run = jax.jit(make_train_step(loss, OPTIMIZER))
    for number in (1, 2):
        _, metrics = run(state(average=False), {name: x[:number] for name, x in same.items()})
        masks.append(float(metrics["kept"]))
    first, both = masks[0], 2 * masks[1]  # metrics are means
    assert both - first != pytest.approx(first, rel=1e-3)


def test_an_evaluation_step_sums_without_dropout():
    part = jax.tree.map(lambda x: x[0], batch())
    params = state().params
    assert_near(jax.jit(make_eval_step(make_loss(0.3)))(params, part), jax.jit(make_loss())(params, part, None))


def test_an_evaluation_step_on_a_mesh_sums_over_all_rows():
    mesh = make_mesh(MeshConfig(data=2, tensor=2), devices=jax.devices()[:4])
    part = jax.tree.map(lambda x: x[0], batch())
    found = compile_eval_step(make_eval_step(make_loss(0.3)), mesh=mesh)(state().params, place_rows(part, mesh))
    assert_near(found, jax.jit(make_loss())(state().params, part, None))
    assert all(value.sharding.is_fully_replicated and value.sharding.num_devices == 4 for value in found.values())


def test_a_step_maps_over_seeds():
    singles = [state(seed) for seed in (3, 4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    mapped = jax.jit(jax.vmap(step, in_axes=(0, None)))
    for seed in range(2):
        stacked, metrics = mapped(stacked, batch(seed))
        singles = [jitted(single, batch(seed)) for single in singles]
        assert_near((stacked, metrics), jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles))
        singles = [single for single, _ in singles]
    assert np.ptp(metrics["loss"]) > 1e-3


def test_the_best_is_the_average_or_the_newest_of_the_seeds_that_are_better():
    newest, average, best = ({"weight": jnp.arange(6.0).reshape(3, 2) + start} for start in (0, 10, 20))
    blank = create_state(newest, OPTIMIZER, seed=0)._replace(best=best)
    better = jnp.asarray([True, False, True])
    for one, expected in ((blank, newest), (blank._replace(average=average), average)):
        kept = keep_best(one, better).best["weight"]
        np.testing.assert_array_equal(kept, np.where([[True], [False], [True]], expected["weight"], best["weight"]))
        np.testing.assert_array_equal(keep_best(one, jnp.asarray(True)).best["weight"], expected["weight"])
    assert create_state(newest, OPTIMIZER, seed=0).best is create_state(newest, OPTIMIZER, seed=0).average is None
    np.testing.assert_array_equal(create_state(newest, OPTIMIZER, seed=0, best=True).best["weight"], newest["weight"])


@pytest.mark.parametrize(("kept", "seeds"), [("average", None), ("best", 3)])
def test_a_state_without_numbers_has_what_a_state_has(kept, seeds, mesh):
    build = lambda rngs: Linear((4,), (6,), axes=("embed", "mlp"), rngs=rngs)  # noqa: E731
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    shardings = state_shardings(abstract, OPTIMIZER, mesh=mesh, seeds=seeds is not None, **{kept: True})
    found = abstract_state(abstract, OPTIMIZER, shardings=shardings, num_seeds=seeds)
    seed = 5 if seeds is None else range(seeds)
    real = born(build, OPTIMIZER, shardings=shardings, seed=seed, blank=("weight",))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), real
    )
    assert real.step.shape == ()
    assert real.seed.tolist() == (5 if seeds is None else [0, 1, 2])
    assert not np.any(real.params["weight"])
    assert (real.average is None, real.best is None) == (kept != "average", kept != "best")


# A model, born and trained.

WORDS, BOS = 20, 1
CONFIG = Seq2SeqConfig(
    source_vocab_size=WORDS,
    target_vocab_size=WORDS,
    width=32,
    feedforward_width=64,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    norm_position="pre",
    dropout_rate=0.02,
)
COPYING = adam(inverse_sqrt(0.01, warmup=30), clip_norm=1.0)


def copies(seed: int) -> dict[str, np.ndarray]:
    """Makes sentences of 2 to 6 random words, to be copied."""
    generator = np.random.default_rng(seed)
    words = generator.integers(2, WORDS, (1, 32, 6)).astype(np.int32)
    words = np.where(np.arange(6) < generator.integers(2, 7, (1, 32, 1)), words, 0)
    begun = np.pad(words[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=BOS)
    return {"source": words, "decoder_input": begun, "labels": words, "weights": (words > 0).astype(np.float32)}


def copy_loss(definition):
    def loss(params, part, key):
        model = nnx.merge(definition, params)
        keys = (None, None) if key is None else jax.random.split(key)
        memory, _ = model.encode(part["source"], key=keys[0])
        states, _ = model.decode(memory, part["source"], part["decoder_input"], key=keys[1])
        return cross_entropy(states, model.output_table(), part["labels"], part["weights"], vocab_size=WORDS)._asdict()

    return loss


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def newborn(mesh) -> SimpleNamespace:
    build = lambda rngs: Seq2Seq(CONFIG, rngs=rngs)  # noqa: E731
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    shardings = state_shardings(abstract, COPYING, mesh=mesh, average=True)
    state = born(build, COPYING, shardings=shardings, seed=7)
    return SimpleNamespace(definition=nnx.graphdef(abstract), state=state, shardings=shardings)


def test_a_model_is_born_with_state_structure_and_axes(newborn):
    model = nnx.merge(newborn.definition, newborn.state.params)
    assert model.config == CONFIG
    assert_equal(nnx.to_pure_dict(nnx.state(model, nnx.Param)), newborn.state.params)
    assert_equal(newborn.state.average, newborn.state.params)
    assert (int(newborn.state.step), int(newborn.state.seed), int(newborn.state.skipped)) == (0, 7, 0)
    axes = param_axes(model)
    assert axes["target_embedding"]["table"] == ("vocab", "embed")
    assert axes["encoder"]["blocks"]["attention"]["out"]["weight"] == ("layers", "heads", None, "embed")
    shapes = jax.tree.map(np.shape, newborn.state.params)
    is_leaf = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    assert jax.tree.all(jax.tree.map(lambda a, shape: len(a) == len(shape), axes, shapes, is_leaf=is_leaf))


@pytest.fixture(scope="module")
def copy_step(newborn):
    return make_train_step(copy_loss(newborn.definition), COPYING, average_decay=0.95)


@pytest.fixture(scope="module")
def run(newborn, mesh, copy_step):
    return compile_step(copy_step, mesh=mesh, shardings=newborn.shardings)


def test_a_small_model_learns_to_copy(newborn, mesh, run):
    current = jax.tree.map(jnp.copy, newborn.state)
    for seed in range(250):
        current, metrics = run(current, place_batch(copies(seed), mesh))
        if seed == 0:
            assert float(metrics["loss"]) > 2  # log(18) is 2.9
    assert run._cache_size() == 1  # one program for one shape
    evaluate = jax.jit(make_eval_step(copy_loss(newborn.definition)))
    unseen = jax.tree.map(lambda x: x[0], copies(10_000))
    for params in (current.params, current.average):
        sums = evaluate(params, unseen)
        assert float(sums["nll"] / sums["weight"]) < 0.1


def test_the_state_is_donated(newborn, mesh, run):
    before = jax.tree.map(jnp.copy, newborn.state)
    run(before, place_batch(copies(0), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.mark.slow
def test_a_models_step_maps_over_seeds(newborn, mesh, copy_step, run):
    def stack(*trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    states = [
        newborn.state._replace(seed=jax.device_put(np.uint32(seed), newborn.state.seed.sharding)) for seed in (7, 8)
    ]
    arguments = stack(*states), copies(0)
    lowered = jax.jit(jax.vmap(copy_step, in_axes=(0, None))).lower(*arguments)
    # Without LLVM's optimizations, which are half of the time.
    mapped = lowered.compile({"xla_backend_optimization_level": 0})(*arguments)
    singles = [run(jax.tree.map(jnp.copy, state), place_batch(copies(0), mesh)) for state in states]
    (after, metrics), (expected, expected_metrics) = mapped, stack(*singles)
    assert_near(metrics, expected_metrics, atol=1e-4)
    assert np.ptp(metrics["loss"]) > 1e-4  # other masks
    # Parameters are left out: Adam's first update is the sign of each gradient, however small.
    assert_near(after.optimizer_state, expected.optimizer_state)
