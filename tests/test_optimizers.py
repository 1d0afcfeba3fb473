"""Optimizers by name: what they do to stacked parameters, which they take, and where their state lives."""

import functools
import importlib.util
import inspect
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from lmx.checkpoint import Checkpoints
from lmx.config import config_as_json
from lmx.definition import Definition, define
from lmx.differences import filled_config
from lmx.errors import InputError
from lmx.experiment import done_before
from lmx.learner import Learner, Placed, place
from lmx.optimization import OptimizerConfig, adam, constant
from lmx.optimizers import FACTORED_FROM, LARGEST_RMS, MUON_MOMENTUM, by_layer, make_optimizer, matrix_of, updated_by
from lmx.plan.figures import Job
from lmx.plan.memory import measure_memory
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import replicated
from lmx.training import parameter_of, state_shardings

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")

N, D, H, K, F, V = 3, 160, 4, 36, 136, 152
RATE = 0.01


class Block(NamedTuple):
    """A model of arrays alone, in stacked form: what optimizers see."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]


BLOCKS = {
    "query": {
        "weight": Block((N, D, H, K), ("layers", "embed", "heads", None)),
        "bias": Block((N, H, K), ("layers", None, None)),
    },
    "out": {"weight": Block((N, H, K, D), ("layers", "heads", None, "embed"))},
    "up": {"weight": Block((N, D, F), ("layers", "embed", "mlp"))},
    "down": {"weight": Block((N, F, D), ("layers", "mlp", "embed"))},
    "norm": {"scale": Block((N, D), ("layers", None))},
}
REST = {
    "embedding": {"table": Block((V, D), ("vocab", "embed"))},
    "positions": {"table": Block((7, D), (None, "embed"))},
    "embedding_norm": {"scale": Block((D,), (None,))},
    "final_norm": {"scale": Block((D,), (None,))},
    "output": {"weight": Block((D, 5), ("embed", None))},
    "output_embedding": {"table": Block((V, D), ("vocab", "embed"))},
}
is_block = lambda leaf: isinstance(leaf, Block)  # noqa: E731


def definition_of(blocks: Any) -> Definition:
    shapes = jax.tree.map(lambda b: jax.ShapeDtypeStruct(b.shape, jnp.float32), blocks, is_leaf=is_block)
    axes = jax.tree.map(lambda b: b.axes, blocks, is_leaf=is_block)
    return Definition(lambda rngs: None, None, None, shapes, axes)


def unrolled(tree: Any, cut: Any) -> Any:
    """Returns a tree whose stacked blocks are N blocks of their own."""
    rest = {name: part for name, part in tree.items() if name != "blocks"}
    part_of = lambda n: jax.tree.map(lambda x: cut(x, n), tree["blocks"], is_leaf=is_block)  # noqa: E731
    return rest | {f"block{n}": part_of(n) for n in range(N)}


STACKED = definition_of({"blocks": BLOCKS, **REST})
UNROLLED = definition_of(unrolled({"blocks": BLOCKS, **REST}, lambda b, _: Block(b.shape[1:], b.axes[1:])))


def random(seed: int) -> Any:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda s: generator.normal(0, 0.1, s.shape).astype(np.float32), STACKED.shapes)


def updates_of(optimizer: optax.GradientTransformation, params: Any, gradients: list[Any]) -> list[Any]:
    state, found = jax.jit(optimizer.init)(params), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        added, state = update(gradient, state, params)
        params = optax.apply_updates(params, added)
        found.append(jax.tree.map(np.asarray, added))
    return found


def of_config(model: Definition = STACKED, **options: Any) -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(**options), constant(RATE), model=model)


def named(tree: Any) -> dict[str, np.ndarray]:
    return {".".join(str(key.key) for key in path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


# What is a matrix.


def test_the_sides_of_a_matrix_are_read_from_the_axes():
    expected = {
        ("layers", "embed", "heads", None): ((1,), (2, 3)),
        ("layers", "heads", None, "embed"): ((1, 2), (3,)),
        ("embed", "kv_heads", None): ((0,), (1, 2)),
        ("embed", "mlp"): ((0,), (1,)),
        ("layers", "mlp", "embed"): ((1,), (2,)),
    }
    assert {axes: tuple(matrix_of(axes) or ()) for axes in expected} == expected


@pytest.mark.parametrize(
    "axes",
    [
        ("vocab", "embed"),
        (None, "embed"),
        ("embed", None),
        ("layers", None, None),
        ("layers", "embed"),
        (None,),
        ("layers", "mlp", None, "heads"),
        ("experts", "mlp", "embed"),
    ],
)
def test_tables_biases_norms_and_outputs_are_no_matrices(axes):
    assert matrix_of(axes) is None


# Stacked is unrolled.


@pytest.mark.parametrize("name", ["adam", "adafactor", "lion", "muon"])
def test_stacked_layers_are_updated_as_unrolled_ones(name):
    params, gradients = random(0), [random(seed) for seed in (1, 2, 3)]
    # Clipping has no part: the norm of the whole is summed in another order.
    options = {"optimizer": name, "weight_decay": 0.1}
    stacked = updates_of(of_config(STACKED, **options), params, gradients)
    cut = lambda x, n: x[n]  # noqa: E731
    alone = updates_of(of_config(UNROLLED, **options), unrolled(params, cut), [unrolled(g, cut) for g in gradients])
    for one, other in zip(stacked, alone, strict=True):
        one, other = named(unrolled(one, cut)), named(other)
        assert one.keys() == other.keys()
        for path in one:
            assert np.abs(one[path]).max() > 1e-4, path
            np.testing.assert_allclose(one[path], other[path], rtol=0, atol=1e-6, err_msg=path)


def as_matrices(tree: Any) -> Any:
    """Returns unrolled parameters whose attention weights have two sides."""
    shapes = {"query": (D, H * K), "out": (H * K, D)}
    flat = lambda part, sides: {**part, "weight": part["weight"].reshape(sides)}  # noqa: E731
    return {
        name: {**part, **{each: flat(part[each], sides) for each, sides in shapes.items()}} if "query" in part else part
        for name, part in tree.items()
    }


def test_muon_takes_each_layers_matrix_and_leaves_the_rest_to_adam():
    params, gradients = random(0), [random(seed) for seed in (1, 2)]
    found = updates_of(of_config(optimizer="muon"), params, gradients)
    split = lambda tree: as_matrices(unrolled(tree, lambda x, n: x[n]))  # noqa: E731
    # Of Optax, told by hand: all matrices of the blocks have two axes now.
    is_matrix = lambda path: path[0].key.startswith("block") and path[-1].key == "weight"  # noqa: E731
    labels = lambda tree: jax.tree_util.tree_map_with_path(lambda p, _: "muon" if is_matrix(p) else "adam", tree)  # noqa: E731
    by_hand = optax.partition(
        {
            "muon": optax.contrib.muon(RATE, consistent_rms=0.2),
            "adam": optax.adam(RATE, b2=0.98),
        },
        labels,
    )
    expected = updates_of(by_hand, split(params), [split(gradient) for gradient in gradients])
    for one, other in zip(found, expected, strict=True):
        one, other = named(split(one)), named(other)
        for path in other:
            np.testing.assert_allclose(one[path], other[path], rtol=0, atol=1e-6, err_msg=path)
    # All directions of a matrix count about the same: singular values are between 0.6 and 1.3 of the same number.
    update = found[0]["blocks"]["query"]["weight"][1].reshape(D, H * K)
    values = np.linalg.svd(update / (0.2 * RATE * math.sqrt(D)), compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_adafactor_is_optaxs_of_each_matrix_and_factors_no_layers():
    params, gradients = random(0), [random(seed) for seed in (1, 2)]
    optimizer = of_config(optimizer="adafactor")
    found = updates_of(optimizer, params, gradients)
    split = lambda tree: as_matrices(unrolled(tree, lambda x, n: x[n]))  # noqa: E731
    by_hand = optax.adafactor(RATE, multiply_by_parameter_scale=False)
    expected = updates_of(by_hand, split(params), [split(gradient) for gradient in gradients])
    for one, other in zip(found, expected, strict=True):
        one, other = named(split(one)), named(other)
        for path in other:
            np.testing.assert_allclose(one[path], other[path], rtol=0, atol=1e-6, err_msg=path)
    # A row and a column a layer, and nothing of the size of a matrix.
    sizes = {leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(optimizer.init, params))}
    assert {(N, D), (N, F), (N, H * K)} <= sizes
    assert not {block.shape for block in jax.tree.leaves(BLOCKS, is_leaf=is_block) if len(block.shape) > 3} & sizes


def test_a_matrix_that_adafactor_does_not_factor_keeps_the_shape_of_its_parameter():
    # Its state lives where the parameter lives, by that shape.
    shape = (N, D, 2, K)
    model = definition_of({"blocks": {"query": {"weight": Block(shape, ("layers", "embed", "heads", None))}}})
    state = jax.eval_shape(of_config(model, optimizer="adafactor").init, model.shapes)
    assert shape in {leaf.shape for leaf in jax.tree.leaves(state)}


def test_lion_is_optaxs():
    params, gradients = random(0), [random(seed) for seed in (1, 2)]
    found = updates_of(of_config(optimizer="lion", beta2=0.95), params, gradients)
    expected = updates_of(optax.lion(RATE, b1=0.9, b2=0.95, weight_decay=0.0), params, gradients)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# What is frozen, and rates by layer.


def test_frozen_parameters_keep_their_bits_and_have_no_moments():
    for name in ("adam", "adafactor", "lion", "muon"):
        params = random(0)
        params["embedding"]["table"][0, :3] = [-0.0, 0.0, np.finfo(np.float32).max]
        optimizer = of_config(optimizer=name, freeze=("embedding", "blocks.*.weight"), weight_decay=0.1)
        state, still = jax.jit(optimizer.init)(params), params
        update = jax.jit(optimizer.update)
        for seed in (1, 2):
            added, state = update(random(seed), state, still)
            still = jax.jit(optax.apply_updates)(still, added)
        for path, before in named(params).items():
            after = np.asarray(named(still)[path])
            frozen = path == "embedding.table" or (path.startswith("blocks.") and path.endswith(".weight"))
            assert (after.view(np.int32) == before.view(np.int32)).all() == frozen, (name, path)
        names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
        assert any("'final_norm'" in each for each in names)
        assert not any("'embedding'" in each or ("'blocks'" in each and "'weight'" in each) for each in names)


def test_what_is_frozen_has_no_part_in_clipping():
    params, gradients = random(0), random(1)
    gradients["embedding"]["table"] *= 1e6
    # With a large epsilon Adam is linear in a small gradient.
    options = {"clip_norm": 1.0, "epsilon": 1e6}
    (found,) = updates_of(of_config(freeze=("embedding",), **options), params, [gradients])
    others = [x for path, x in named(gradients).items() if path != "embedding.table"]
    norm = math.sqrt(sum(float(np.square(x).sum()) for x in others))
    expected = -RATE * gradients["final_norm"]["scale"] / norm / 1e6
    np.testing.assert_allclose(found["final_norm"]["scale"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("blocks.qery",), r"^freeze must name parameters, got blocks\.qery\. The nearest is blocks\.query\.$"),
        (
            ("blocks", "*.scale", "[!b]*"),
            r"^freeze must leave a parameter to train, got freeze=blocks \*\.scale \[!b\]\*\.$",
        ),
    ],
)
def test_freezing_names_what_is_there_and_leaves_something(freeze, message):
    with pytest.raises(InputError, match=message):
        of_config(freeze=freeze)


@pytest.mark.parametrize("decay", [0.0, 1.5, -0.5])
def test_layer_decay_is_a_share(decay):
    with pytest.raises(InputError, match=r"^layer_decay must be above 0 and at most 1, got layer_decay="):
        of_config(layer_decay=decay)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("peak", -1e-3, "at least 0 and finite"),
        ("peak", math.inf, "at least 0 and finite"),
        ("epsilon", -1e-8, "at least 0 and finite"),
        ("weight_decay", math.nan, "at least 0 and finite"),
        ("clip_norm", 0.0, "above 0, or None not to clip"),
        ("average_decay", 1.01, "from 0 to 1"),
        ("average_decay", -0.01, "from 0 to 1"),
        ("beta2", 1.0, "at least 0 and below 1"),
        ("beta2", -0.1, "at least 0 and below 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(name, value, said):
    with pytest.raises(ValueError, match=rf"^{name} must be {said}, got {name}={value}\.$"):
        of_config(**{name: value})
    OptimizerConfig(peak=0.0, epsilon=0.0, beta2=0.0, clip_norm=1e-6, average_decay=1.0).check()


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_rates_fall_by_layer_as_the_formula_says(name):
    params, gradients = random(0), [random(1)]
    options = {"optimizer": name, "weight_decay": 0.1, "freeze": ("positions",)}
    (whole,) = updates_of(of_config(**options), params, gradients)
    (found,) = updates_of(of_config(**options, layer_decay=0.5), params, gradients)
    for path, update in named(found).items():
        part = path.split(".")[0]
        if part == "blocks":  # layers 1, 2, 3: 0.5^3, 0.5^2, 0.5
            factor = np.array([0.125, 0.25, 0.5]).reshape(-1, *[1] * (update.ndim - 1))
        else:
            factor = {"embedding": 0.5**4, "embedding_norm": 0.5**4}.get(part, 1.0)
        np.testing.assert_allclose(update, factor * named(whole)[path], rtol=1e-6, atol=0, err_msg=path)


@pytest.mark.parametrize("freeze", [("blocks.*.weight",), ("blocks.*.bias", "*.scale", "embedding", "o*", "positions")])
def test_muon_may_have_nothing_left_to_take_or_to_leave(freeze):
    optimizer = of_config(optimizer="muon", freeze=freeze)
    updates = named(jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p)[0], STACKED.shapes))
    assert {path: x.shape for path, x in updates.items()} == {p: x.shape for p, x in named(STACKED.shapes).items()}


# What is said.


def test_which_parameters_go_where_is_a_line_a_group():
    matrices = 3 * (2 * D * H * K + 2 * D * F)
    config = OptimizerConfig(optimizer="muon", freeze=("embedding", "positions"))
    assert updated_by(config, STACKED) == {
        "adam": f"6 arrays, {3 * (H * K + D) + 2 * D + 5 * D + V * D:,} parameters: blocks.norm, blocks.query.bias, "
        "embedding_norm, final_norm, output, output_embedding",
        "frozen": f"2 arrays, {(V + 7) * D:,} parameters: embedding, positions",
        "muon": f"4 arrays, {matrices:,} parameters: down.weight, out.weight, query.weight, up.weight",
    }
    assert list(updated_by(config, STACKED)) == ["adam", "frozen", "muon"]
    assert updated_by(OptimizerConfig(), STACKED)["adam"].endswith(" parameters: all")
    # What the model itself keeps fixed is told beside what the config does.
    model = STACKED._replace(frozen=("positions", "output"))
    found = updated_by(OptimizerConfig(freeze=("embedding",)), model)["frozen"]
    assert found == f"3 arrays, {(V + 7 + 5) * D:,} parameters: embedding, positions, output"


def test_rates_of_a_model_without_layers_fall_once():
    model = definition_of({name: REST[name] for name in ("embedding", "final_norm")})
    ones = jax.tree.map(lambda shape: jnp.ones(shape.shape), model.shapes)
    found, _ = by_layer(model, decay=0.25).update(ones, optax.EmptyState())
    np.testing.assert_array_equal(found["embedding"]["table"], 0.25 * ones["embedding"]["table"])
    np.testing.assert_array_equal(found["final_norm"]["scale"], ones["final_norm"]["scale"])


def test_numbers_of_the_papers_are_those_of_optax():
    usual = inspect.signature(optax.adafactor).parameters
    assert usual["min_dim_size_to_factor"].default == FACTORED_FROM
    assert usual["clipping_threshold"].default == LARGEST_RMS
    assert inspect.signature(optax.contrib.muon).parameters["beta"].default == MUON_MOMENTUM
    # A matrix whose smaller side is as long as that is factored: a row and a column in its place.
    model = definition_of({"blocks": {"up": {"weight": Block((N, 128, 2, 64), ("layers", "embed", "heads", None))}}})
    state = jax.eval_shape(of_config(model, optimizer="adafactor").init, model.shapes)
    assert (N, 128, 2, 64) not in {leaf.shape for leaf in jax.tree.leaves(state)}


@pytest.mark.parametrize("name", ["translation", "classification"])
def test_a_run_of_a_version_without_these_fields_goes_on(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "experiments" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = script.PRESETS[next(iter(script.PRESETS))][1]
    later = config_as_json(config)
    added = ("optimizer", "freeze", "layer_decay")
    saved = later | {"optimization": {key: x for key, x in later["optimization"].items() if key not in added}}
    filled, taken = filled_config(saved, later, functools.partial(done_before, own=config.absent))
    assert filled == later
    assert {f"optimization.{key}" for key in added} <= taken.keys()


# Where the state lives.


class Part(nnx.Module):
    """Arrays as a model."""

    def __init__(self, blocks: Any, *, rngs: nnx.Rngs):
        for name, block in blocks.items():
            if isinstance(block, Block):
                value = 0.1 * jax.random.normal(rngs.params(), block.shape)
                setattr(self, name, nnx.Param(value, axes=block.axes))
            else:
                setattr(self, name, Part(block, rngs=rngs))


FEW = {name: REST[name] for name in ("embedding", "final_norm")}
MODEL = define(
    lambda rngs: Part({"blocks": {name: BLOCKS[name] for name in ("query", "up", "norm")}, **FEW}, rngs=rngs)
)


def loss(params: Any, part: Any, key: Any) -> dict[str, jax.Array]:
    """Returns a loss whose gradients are far from 0: what rounds otherwise on a mesh changes no sign."""
    total = sum(jnp.abs(w).sum() + 0.5 * jnp.square(w).sum() for w in jax.tree.leaves(params))
    return {"loss": (part["x"] * total).sum(), "weight": part["x"].sum()}


def is_bias(path: tuple) -> bool:
    return path[-1].key in ("bias", "scale")


def labels(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "small" if is_bias(path) else "large", tree)


def not_biases(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: not is_bias(path), tree)


MOMENTS = {  # arrays of the shape of a parameter: how many each has, and of how many parameters
    "adam": (lambda: of_config(MODEL, weight_decay=0.1, clip_norm=1.0), 2 * 6),
    "adafactor": (lambda: of_config(MODEL, optimizer="adafactor", weight_decay=0.1), 3),
    "optax's adafactor": (lambda: optax.adafactor(RATE), 4),
    "lion": (lambda: of_config(MODEL, optimizer="lion", clip_norm=1.0), 6),
    "muon": (lambda: of_config(MODEL, optimizer="muon", weight_decay=0.1), 2 + 2 * 4),
    "optax's muon": (lambda: optax.contrib.muon(RATE), 2 + 2 * 4),
    "masked": (lambda: optax.masked(optax.sgd(RATE, momentum=0.9), not_biases), 3),
    "multi_transform": (
        lambda: optax.multi_transform({"small": optax.adam(RATE), "large": optax.sgd(RATE, momentum=0.9)}, labels),
        3 + 2 * 3,
    ),
    "frozen, by layer": (lambda: of_config(MODEL, freeze=("blocks",), layer_decay=0.5), 2 * 2),
}


def placed_on(mesh: jax.sharding.Mesh, name: str) -> Placed:
    optimizer, _ = MOMENTS[name]
    return place(Learner(MODEL, loss, optimizer(), constant(RATE)), mesh)


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), devices=jax.devices()[:1])


def eight() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def trained(placed: Placed, state: Any, steps: int) -> Any:
    for step in range(steps):
        x = np.random.default_rng(step).uniform(0.5, 1.5, (1, 8, 3)).astype(np.float32)
        state, _ = placed.step(state, placed.place_batch({"x": x}))
    return state


def assert_placed(state: Any, shardings: Any) -> None:
    assert jax.tree.all(jax.tree.map(lambda x, where: x.sharding.is_equivalent_to(where, x.ndim), state, shardings))


@needs_eight
@pytest.mark.parametrize("name", MOMENTS)
def test_an_array_of_an_optimizer_lives_where_the_parameter_of_its_name_and_shape_lives(name):
    placed = placed_on(eight(), name)
    shapes, places = named(MODEL.shapes), named(placed.shardings.params)
    whole, like_a_parameter = replicated(placed.mesh), 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed.like.optimizer_state):
        words = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        ends = [".".join(words[start:]) for start in range(len(words))]
        homes = [places[end] for end in ends if end in shapes and shapes[end].shape == leaf.shape]
        like_a_parameter += len(homes[:1])
        assert leaf.sharding == (homes or [whole])[0], ends[0]
    assert like_a_parameter == MOMENTS[name][1]
    assert places["blocks.query.weight"].spec == PartitionSpec(None, "fsdp", "tensor", None)


SLOWER = ("adafactor", "lion", "masked", "multi_transform")


@needs_eight
@pytest.mark.parametrize("name", ["adam", "muon", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_an_optimizer_trains_in_pieces_and_is_saved_and_restored(name, tmp_path):
    placed = placed_on(eight(), name)
    state = placed.born([5])
    assert_placed(state, placed.shardings)
    after = trained(placed, state, 2)
    assert_placed(after, placed.shardings)
    alone = placed_on(one_device(), name)
    expected = trained(alone, alone.born([5]), 2)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(expected), strict=True):
        # Rounding alone; the sums that Muon takes of products of matrices lose a little more of it.
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path))

    kept = jax.tree.map(np.asarray, after)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(2, after, {}, scores={})
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path / "checkpoints").restore_newest(placed.like)
    assert jax.tree.structure(restored) == jax.tree.structure(kept)
    assert_placed(restored, placed.shardings)
    jax.tree.map(np.testing.assert_array_equal, restored, kept)
    moved, _ = Checkpoints(tmp_path / "checkpoints").restore_newest(alone.like)
    jax.tree.map(np.testing.assert_array_equal, moved, kept)


@needs_eight
def test_the_state_of_adam_lives_where_a_mirror_of_the_parameters_would():
    mesh, optimizer = eight(), adam(constant(RATE), weight_decay=0.1, clip_norm=1.0)
    found = state_shardings(MODEL.network, optimizer, mesh=mesh)
    mirrored = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, MODEL.shapes),
        found.params,
        transform_non_params=lambda _: replicated(mesh),
    )
    assert jax.tree.structure(found.optimizer_state) == jax.tree.structure(mirrored)
    assert jax.tree.leaves(found.optimizer_state) == jax.tree.leaves(mirrored)


def test_a_leaf_is_about_the_parameter_whose_path_is_the_longest_end_of_its_own():
    key = jax.tree_util.DictKey
    a, b, c = key("a"), key("b"), key("c")
    shapes = {(c,): (2, 3), (b, c): (2, 4), (a, b, c): (5,)}
    field = jax.tree_util.GetAttrKey("mu")
    assert parameter_of((field, a, b, c), shapes) == (a, b, c)
    assert parameter_of((field, a, b, c), shapes, shape=(2, 4)) == (b, c)
    assert parameter_of((field, a, b, c), shapes, shape=(2, 3)) == (c,)
    assert parameter_of((field, a, b, c), shapes, shape=()) is None
    assert parameter_of((field, a), shapes) is None
    assert parameter_of((key("mu"), key("b"), c), shapes) == (b, c)


# What is planned.


@needs_eight
@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_a_plan_counts_the_state_of_each_optimizer(name):
    job = Job(
        build=MODEL.build,
        loss=lambda params, part, key: loss(params, {"x": part["x"].astype(jnp.float32)}, key),
        optimizer=MOMENTS[name][0](),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
        batch={"x": (1, 8, 3)},
    )
    memory = measure_memory(job)
    state = placed_on(eight(), name).born([5])
    assert memory.state == sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    # What is about a parameter stands with it, whatever the optimizer calls its groups.
    found = {module.name: (module.parameters, module.optimizer) for module in memory.modules}
    matrix, whole = N * D * F // 4, 4 * N * (H * K)
    held = {
        "muon": {  # one average of a matrix, two of the rest
            "blocks/up": 4 * matrix,
            "blocks/query": N * D * H * K + 2 * whole,
            "embedding": 2 * V * D,
            "final_norm": 2 * 4 * D,
        },
        "adafactor": {  # whole rows and columns, and a number a layer in the place of what is not factored
            "blocks/up": 4 * N * (D + F + 1),
            "blocks/query": 4 * N * (D + H * K + 1) + whole + 2 * 4 * N,
            "embedding": 4 * (V + D + 1),
            "final_norm": 4 * (D + 2),
        },
    }
    assert {module: found[module][1] for module in held[name]} == held[name]
    assert found.keys() == {*held[name], "blocks/norm", "counters"}
    assert found["blocks/up"][0] == 4 * matrix
    assert found["counters"][1] < 64
