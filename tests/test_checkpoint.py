from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx.checkpoint import Checkpoints, average_files, kept, load_params, save_params
from lmx.sharding import MeshConfig, make_mesh, named_sharding, replicated
from lmx.training import TrainState, create_state

HOST = {"best": None, "losses": {"4": 1.5, "8": 0.1}, "tokens": 2**40, "stopped_early": False}


def params(seed: int, *, rows: int = 6) -> dict:
    generator = np.random.default_rng(seed)
    return {
        "stack": {"weight": generator.normal(size=(rows, 4)).astype(np.float32), "scale": np.float32(seed)},
        "table": generator.normal(size=(5, 3)).astype(np.float32),
    }


def state(seed: int, *, average: bool = False) -> TrainState:
    """Returns a state of an optimizer with memory, in which every array differs from the start."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    start = create_state(jax.tree.map(jnp.asarray, params(seed)), optimizer, seed=seed, average=average)
    _, optimizer_state = optimizer.update(start.params, start.optimizer_state, start.params)
    return start._replace(step=jnp.int32(seed), optimizer_state=optimizer_state, skipped=jnp.int32(3))


def assert_same(found, expected) -> None:
    """Asserts that two trees are equal bit by bit, in structure and types too."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def opened(tmp_path):
    """Opens checkpoints in a directory, and closes them at the end."""
    all_opened = []

    def start(directory: Path = tmp_path / "checkpoints", **settings) -> Checkpoints:
        all_opened.append(Checkpoints(directory, **settings))
        return all_opened[-1]

    yield start
    for checkpoints in all_opened:
        checkpoints.close()


# Checkpoints.


@pytest.mark.parametrize("average", [False, True])
def test_what_is_restored_is_what_was_saved(opened, average):
    saved = state(8, average=average)
    writer = opened()
    writer.save(8, saved, HOST, scores={})
    writer.close()
    like = jax.tree.map(jnp.zeros_like, saved)
    restored, host = opened().restore(8, like)
    assert_same(restored, saved)
    assert host == HOST


def test_a_state_may_change_as_soon_as_saving_has_begun(opened):
    checkpoints, saved = opened(), state(8)
    expected = jax.tree.map(np.array, saved)
    checkpoints.save(8, saved, HOST, scores={})
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(saved))
    assert_same(checkpoints.restore(8, state(1))[0], expected)


def test_a_state_is_restored_onto_another_mesh(opened):
    saved, checkpoints = state(8), opened()
    checkpoints.save(8, saved, HOST, scores={})
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

    def place(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        split = named_sharding(mesh, ("embed", "heads"), leaf.shape) if leaf.shape == (6, 4) else replicated(mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split)

    like = jax.tree.map(place, saved)
    restored, _ = checkpoints.restore(8, like)
    assert_same(restored, saved)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)
    assert restored.params["stack"]["weight"].addressable_shards[0].data.size < 6 * 4


@pytest.mark.parametrize(
    ("last", "best", "expected"), [(1, 0, {50}), (2, 0, {40, 50}), (1, 2, {20, 40, 50}), (2, 1, {20, 40, 50})]
)
def test_the_newest_and_the_best_are_kept(opened, last, best, expected):
    losses = {10: 3.0, 20: 0.5, 40: 1.0, 50: 2.0}  # step 30 was not validated
    assert kept([50, 10, 40, 20, 30], losses, last=last, best=best) == expected
    checkpoints = opened(keep_last=last, keep_best=best)
    for step in (10, 20, 30, 40, 50):
        scores = {validated: loss for validated, loss in losses.items() if validated <= step}
        checkpoints.save(step, state(step), HOST, scores=scores)
    checkpoints.wait()
    assert set(checkpoints.steps()) == expected


def test_of_equal_scores_the_earlier_is_the_better():
    assert kept([10, 20, 30], {10: 1.0, 20: 1.0, 30: 2.0}, last=1, best=1) == {10, 30}


def test_a_checkpoint_saved_at_a_stop_takes_no_other_ones_place():
    scores = {10: 1.0, 20: 2.0, 30: 3.0}
    assert kept([10, 20, 30, 35], scores, last=2, best=0) == {20, 30, 35}
    assert kept([20, 30, 35, 40], {**scores, 40: 4.0}, last=2, best=0) == {30, 40}


def test_there_is_a_complete_checkpoint_at_any_time(opened, tmp_path):
    checkpoints = opened(keep_last=1)
    checkpoints.save(10, state(10), HOST, scores={})
    checkpoints.wait()
    for step in (20, 30):
        checkpoints.save(step, state(step), HOST, scores={})
        # A process that is killed now may leave a part of this one, but the one before is there.
        assert (tmp_path / "checkpoints" / str(step - 10)).is_dir()
    checkpoints.wait()
    assert checkpoints.steps() == [30]


def test_a_restarted_run_deletes_nothing_before_it_saves(opened):
    writer = opened(keep_last=1, keep_best=2)
    for step in (10, 20, 30):
        writer.save(step, state(step), HOST, scores={10: 1.0, 20: 2.0})
    writer.close()
    restarted = opened(keep_last=1, keep_best=2)
    restarted.wait()
    assert restarted.steps() == [10, 20, 30]


def test_an_interrupted_save_is_ignored_and_removed(opened, tmp_path):
    writer = opened(keep_last=2)
    writer.save(10, state(10), HOST, scores={})
    writer.close()
    torn = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    (torn / "state").mkdir(parents=True)
    (torn / "state" / "manifest.ocdbt").write_bytes(b"half")
    restarted = opened(keep_last=2)
    assert restarted.steps() == [10]
    assert_same(restarted.restore(10, state(1))[0], state(10))
    restarted.save(20, state(20), HOST, scores={})
    assert_same(restarted.restore(20, state(1))[0], state(20))
    assert sorted(path.name for path in torn.parent.iterdir()) == ["10", "20"]


def test_an_average_is_the_mean_of_the_parameters(opened):
    checkpoints = opened(keep_last=4)
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(step), HOST, scores={})
    found = checkpoints.average([10, 30, 40], state(1))
    expected = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), params(10), params(30), params(40))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_errors_of_checkpoints_say_what_is_wrong(opened, tmp_path):
    with pytest.raises(ValueError, match=r"keep_last must be at least 1, .*, got keep_last=0\."):
        opened(keep_last=0)
    checkpoints = opened()
    checkpoints.save(10, state(10), HOST, scores={})
    with pytest.raises(FileNotFoundError, match=r"checkpoints must hold a checkpoint of step 20, got \[10\]\."):
        checkpoints.restore(20, state(1))
    with pytest.raises(ValueError, match=r"checkpoints/10 must be a whole checkpoint of this model, got .* average: "):
        checkpoints.restore(10, state(1, average=True))
    path = tmp_path / "checkpoints" / "10" / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"10 must be a whole checkpoint .*\. If it is damaged, remove it"):
        opened().restore(10, state(1))


# Parameters alone.


def test_parameters_survive_a_file(tmp_path):
    path, saved = tmp_path / "model.safetensors", params(1)
    saved["stack"]["half"] = jnp.arange(7, dtype=jnp.bfloat16) / 3
    save_params(path, params(2))
    save_params(path, saved)
    assert_same(load_params(path, saved), saved)
    assert_same(load_params(path), saved)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_arrays_in_another_order_survive_a_file(tmp_path):
    table = np.arange(15, dtype=np.float32).reshape(3, 5)
    saved = {"transposed": table.T, "sliced": table[:, ::2], "broadcast": np.broadcast_to(np.float32(2), (2, 4))}
    save_params(tmp_path / "model.safetensors", saved)
    assert_same(load_params(tmp_path / "model.safetensors"), saved)


def test_parameters_of_another_model_are_named_with_their_shapes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_params(path, params(1))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params(1, rows=7)))
    shapes["table_of_output"] = shapes.pop("table")
    message = (
        r"model\.safetensors must fit the model, got stack\.weight: \(6, 4\) in the file, \(7, 4\) in the model; "
        r"table: \(5, 3\) in the file, absent in the model; "
        r"table_of_output: absent in the file, \(5, 3\) in the model\.$"
    )
    with pytest.raises(ValueError, match=message):
        load_params(path, shapes)
    with pytest.raises(ValueError, match=r"a4: absent in the file, \(2, 3\) in the model; and 4 more\.$"):
        load_params(path, {f"a{i}": np.zeros((2, 3)) for i in range(6)})


def test_files_that_are_no_parameters_are_errors(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors must exist: it is written when training ends\."):
        load_params(path)
    save_params(path, params(1))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors must be a safetensors file, got "):
        load_params(path)


def test_an_average_of_files_is_their_mean(tmp_path):
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, start=1):
        save_params(path, params(seed))
    average_files(paths, tmp_path / "mean.safetensors")
    expected = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), params(1), params(2), params(3))
    found = load_params(tmp_path / "mean.safetensors", params(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)

    save_params(paths[1], params(2, rows=7))
    with pytest.raises(ValueError, match=r"2\.safetensors must fit the model, got stack\.weight: \(7, 4\) in the file"):
        average_files(paths, tmp_path / "mean.safetensors")
    with pytest.raises(ValueError, match="at least one file"):
        average_files([], tmp_path / "mean.safetensors")
