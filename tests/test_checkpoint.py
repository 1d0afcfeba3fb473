import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from lmx.checkpoint import CheckpointNotSaved, Checkpoints, DamagedCheckpoint, groups_within, kept
from lmx.checksums import CHECKSUMS, checksum_of, damage_of
from lmx.parameters import average_files, load_params, save_params
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import named_sharding, replicated
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
    ("last", "best", "expected"),
    [(1, 0, {40, 50}), (3, 0, {20, 40, 50}), (1, 1, {20, 40, 50}), (1, 4, {10, 20, 40, 50})],
)
def test_the_two_newest_and_the_best_are_kept(opened, last, best, expected):
    losses = {10: 3.0, 20: 0.5, 40: 1.0, 50: 2.0}  # step 30 was not validated
    assert kept([50, 10, 40, 20, 30], losses, last=last, best=best) == expected
    checkpoints = opened(keep_last=last, keep_best=best)
    for step in (10, 20, 30, 40, 50):
        scores = {validated: loss for validated, loss in losses.items() if validated <= step}
        checkpoints.save(step, state(step), HOST, scores=scores)
    checkpoints.wait()
    assert set(checkpoints.steps()) == expected


def test_of_equal_scores_the_earlier_is_the_better():
    assert kept([10, 20, 30, 40], {10: 1.0, 20: 1.0, 30: 2.0}, last=1, best=1) == {10, 30, 40}


def test_multiples_of_keep_every_stay_for_good(opened):
    assert kept(range(1, 11), {}, last=1, best=0, every=4) == {4, 8, 9, 10}
    assert kept([4, 6, 8, 10, 12], {4: 1.0, 10: 2.0}, last=1, best=0, every=8) == {8, 10, 12}
    checkpoints = opened(keep_every=20)
    for step in (10, 20, 30, 40, 50, 60, 70):
        checkpoints.save(step, state(step), HOST, scores={step: 1.0})
    checkpoints.wait()
    assert checkpoints.steps() == [20, 40, 60, 70]


def test_a_score_that_is_no_number_is_the_worst():
    scores = {1: 0.5, 2: math.nan, 3: 0.1, 4: 0.4, 5: 0.6, 6: 0.7}
    assert kept([*scores], scores, last=1, best=1) == {3, 5, 6}


def test_a_checkpoint_saved_at_a_stop_takes_no_other_ones_place():
    scores = {10: 1.0, 20: 2.0, 30: 3.0}
    assert kept([10, 20, 30, 35], scores, last=3, best=0) == {10, 20, 30, 35}
    assert kept([10, 20, 30, 35, 40], {**scores, 40: 4.0}, last=3, best=0) == {20, 30, 35, 40}
    assert kept([20, 30, 35, 40, 50], {**scores, 40: 4.0, 50: 5.0}, last=3, best=0) == {30, 40, 50}


def test_there_is_a_complete_checkpoint_at_any_time(opened, tmp_path):
    checkpoints = opened(keep_last=1)
    checkpoints.save(10, state(10), HOST, scores={})
    checkpoints.wait()
    for step in (20, 30):
        checkpoints.save(step, state(step), HOST, scores={})
        # A process that is killed now may leave a part of this one, but the one before is there.
        assert (tmp_path / "checkpoints" / str(step - 10)).is_dir()
    checkpoints.wait()
    assert checkpoints.steps() == [20, 30]


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


def test_an_interrupted_deletion_leaves_no_part_of_a_checkpoint_behind(opened, tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"

    def killed(path, *arguments, **settings) -> None:
        """Deletes one file of many, as far as a process came that was killed."""
        for file in sorted(Path(path).rglob("*")):
            if file.is_file():
                file.unlink()
                raise SystemExit

    checkpoints = opened()
    for step in (1, 2):
        checkpoints.save(step, state(step), HOST, scores={})
    checkpoints.wait()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        checkpoints.save(3, state(3), HOST, scores={})
        with pytest.raises(SystemExit):
            checkpoints.wait()
    # It has no name of a step any more, so that nobody takes it for a damaged checkpoint.
    assert sorted(path.name for path in directory.iterdir() if path.name.isdigit()) == ["2", "3"]
    assert opened().steps() == [2, 3]
    assert sorted(path.name for path in directory.iterdir()) == ["2", "3"]


def test_an_average_is_the_mean_of_the_parameters(opened):
    checkpoints = opened(keep_last=4)
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(step), HOST, scores={})
    found = checkpoints.average([10, 30, 40], state(1))
    expected = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), params(10), params(30), params(40))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_an_average_holds_no_more_beside_the_sum_than_the_largest_array(opened, monkeypatch):
    generator = np.random.default_rng(0)

    def make() -> TrainState:
        shapes = {"bias": (2,), "table": (5, 4), "weight": (3, 2), "window": (1, 7)}
        params = {name: jnp.asarray(generator.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
        return create_state(params, optax.adam(0.1), seed=1, average=True)

    checkpoints = opened(keep_last=4)
    for step in (10, 20, 30):
        checkpoints.save(step, make(), HOST, scores={})
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make())
    checkpoints.steps()
    restored, live = [], []
    before = {id(array) for array in jax.live_arrays()}
    real = checkpoints._restore_arrays

    def restore(path, target, places):
        arrays = real(path, target, places)
        restored.append((int(path.name), tuple(array.size for array in arrays)))
        live.append(sum(each.size for each in jax.live_arrays() if id(each) not in before))
        return arrays

    monkeypatch.setattr(checkpoints, "_restore_arrays", restore)
    found = checkpoints.average([10, 20, 30], like)
    assert jax.tree.map(lambda leaf: leaf.shape, found) == jax.tree.map(lambda leaf: leaf.shape, like.params)
    # Small ones are read together, and nothing but parameters.
    assert restored == [(step, sizes) for sizes in ((2,), (20,), (6, 7)) for step in (10, 20, 30)]
    assert max(live) <= 35 + 20


def test_groups_are_filled_up_to_their_limit():
    assert groups_within({3: 4, 5: 6, 6: 1, 9: 10, 11: 12, 12: 3}, 10) == [[3, 5], [6], [9], [11], [12]]
    assert groups_within({}, 10) == []


def test_errors_of_checkpoints_say_what_is_wrong(opened):
    with pytest.raises(ValueError, match=r"keep_last must be at least 1, .*, got keep_last=0\."):
        opened(keep_last=0)
    with pytest.raises(ValueError, match=r"keep_every must be at least 1, .*, got keep_every=0\."):
        opened(keep_every=0)
    checkpoints = opened()
    checkpoints.save(10, state(10), HOST, scores={})
    with pytest.raises(FileNotFoundError, match=r"checkpoints must hold a checkpoint of step 20, got \[10\]\."):
        checkpoints.restore(20, state(1))


def test_a_step_that_is_there_is_not_saved_again_in_silence(opened):
    lines: list[str] = []
    checkpoints = opened(report=lines.append)
    checkpoints.save(10, state(10), HOST, scores={})
    checkpoints.save(10, state(20), HOST, scores={})
    with pytest.raises(CheckpointNotSaved, match=r"^the checkpoint of step 10 must be saved, got .* already exists\."):
        checkpoints.wait()
    assert len(lines) == 1
    assert_same(checkpoints.restore(10, state(1))[0], state(10))


# Checkpoints that cannot be used.


@pytest.fixture
def three(opened, tmp_path) -> Path:
    """A directory with the checkpoints of steps 10, 20 and 30."""
    checkpoints = opened(keep_last=3)
    for step in (10, 20, 30):
        checkpoints.save(step, state(step), HOST, scores={})
    checkpoints.wait()
    return tmp_path / "checkpoints"


def test_one_host_lists_the_checkpoints_for_all(opened, monkeypatch):
    """What it saw comes to the others as an array."""
    checkpoints = opened()
    assert checkpoints._manager._options.single_host_load_and_broadcast
    monkeypatch.setattr(checkpoints._manager, "all_steps", lambda: [np.int32(7), np.int32(3)])
    assert checkpoints.steps() == [3, 7]
    assert {type(step) for step in checkpoints.steps()} == {int}


def test_a_host_that_alone_cannot_read_a_checkpoint_takes_no_other(three, opened, monkeypatch):
    def lost(*_, **__):
        raise FileNotFoundError("a stale list")

    checkpoints = opened()
    monkeypatch.setattr("lmx.checkpoint._said_by_the_first", lambda fact: fact)
    monkeypatch.setattr("lmx.checkpoint.largest", lambda number: number)
    monkeypatch.setattr(checkpoints._manager, "restore", lost)
    with monkeypatch.context() as several:
        several.setattr("lmx.checkpoint.jax.process_count", lambda: 2)
        with pytest.raises(OSError, match=r"checkpoints/30 cannot be read by this host: .*a stale list"):
            checkpoints.restore_newest(state(30))
    assert not list(three.glob("*.damaged"))


@pytest.mark.parametrize("here", [False, True])
def test_what_one_host_alone_cannot_read_is_not_set_aside(here, three, opened, monkeypatch):
    def lost(step):
        raise FileNotFoundError("a stale list")

    checkpoints, others = opened(), iter([0, 0] if here else [1, -1])
    monkeypatch.setattr("lmx.checkpoint.largest", lambda number: max(number, next(others)))
    if here:
        monkeypatch.setattr(checkpoints._manager, "item_metadata", lost)
    said = "a stale list" if here else "another host cannot"
    with pytest.raises(OSError, match=rf"checkpoints/30 cannot be read by all hosts: .*{said}.*Start the same command"):
        checkpoints.restore_newest(state(30))
    assert not list(three.glob("*.damaged"))


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for item in ("state", "host") for path in (checkpoint / item).rglob("*") if path.is_file())


def damage(file: Path, how: str) -> None:
    """Damages a file as an interrupted copy, a lost block or a flipped bit does."""
    whole = file.read_bytes()
    flipped = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"half": whole[: len(whole) // 2], "zeros": bytes(len(whole)), "a bit": flipped}[how])


@pytest.mark.parametrize("how", ["gone", "half", "zeros", "a bit"])
def test_no_damaged_file_is_taken_for_whole(three, opened, how):
    checkpoints = opened(keep_last=3)
    assert len(files_of(three / "10")) > 8
    for file in files_of(three / "10"):
        whole = file.read_bytes()
        damage(file, how)
        with pytest.raises(
            DamagedCheckpoint, match=r"checkpoints/10 cannot be read: .* (is missing|as it was written)$"
        ):
            checkpoints.restore(10, state(1))
        file.write_bytes(whole)
    assert_same(checkpoints.restore(10, state(1))[0], state(10))


def test_a_damaged_checkpoint_is_skipped_in_one_line_and_its_step_saved_again(three, opened):
    for step in (20, 30):
        damage(max(files_of(three / str(step)), key=lambda path: path.stat().st_size), "a bit")
    (three / "30.damaged" / "state").mkdir(parents=True)  # of another time
    lines: list[str] = []
    checkpoints = opened(keep_last=3, report=lines.append)
    found, host = checkpoints.restore_newest(state(1))
    assert_same(found, state(10))
    assert host == HOST
    assert [line.count("\n") for line in lines] == [0, 0]
    assert re.search(r"checkpoints/30 cannot be read: .*; it is skipped and renamed to 30\.damaged$", lines[0])
    assert re.search(r"checkpoints/20 cannot be read: .*; it is skipped and renamed to 20\.damaged$", lines[1])
    assert checkpoints.steps() == [10]
    checkpoints.save(20, state(20), {}, scores={})
    checkpoints.wait()
    again = opened(keep_last=3)
    assert again.steps() == [10, 20]
    assert_same(again.restore_newest(state(1))[0], state(20))


def test_what_orbax_cannot_read_is_damaged_without_checksums_too(three, opened, capfd):
    for step, name in ((30, "state/_METADATA"), (20, "host/metadata")):
        (three / str(step) / CHECKSUMS).unlink()
        damage(three / str(step) / name, "half")
    lines: list[str] = []
    assert_same(opened(report=lines.append).restore_newest(state(1))[0], state(10))
    assert len(lines) == 2
    assert capfd.readouterr().err == ""


def test_where_every_checkpoint_is_damaged_nothing_begins_anew_unasked(three, opened):
    for step in (10, 20, 30):
        damage(files_of(three / str(step))[0], "gone")
    message = r"must hold a checkpoint that can be read, got 3 that are damaged, the newest: .*checkpoints/30 cannot"
    with pytest.raises(ValueError, match=message):
        opened().restore_newest(state(1))
    assert sorted(path.name for path in three.iterdir()) == ["10", "20", "30"]


def test_a_damaged_checkpoint_is_not_averaged_and_not_left_out_unasked(three, opened):
    damage(files_of(three / "20")[0], "gone")
    with pytest.raises(
        DamagedCheckpoint, match=r"20 cannot be read: .* is missing\. Remove it to average the others\."
    ):
        opened().average([10, 20, 30], state(1))


def test_without_checkpoints_there_is_nothing_to_restore(opened):
    assert opened().restore_newest(state(1)) is None


def test_a_whole_checkpoint_of_another_model_is_an_error_by_name_and_shape(three, opened):
    checkpoints = opened(keep_last=3)
    other = state(30)
    for params in (other.params, other.optimizer_state[1][0].mu, other.optimizer_state[1][0].nu):
        params["stack"]["weight"] = jnp.zeros((7, 4))
        params["bias"] = params.pop("table")
    message = (
        r"checkpoints/30 must fit the model, "
        r"got params\.bias: absent in the checkpoint, \(5, 3\) float32 in the model; "
        r"params\.stack\.weight: \(6, 4\) float32 in the checkpoint, \(7, 4\) float32 in the model; "
        r"params\.table: \(5, 3\) float32 in the checkpoint, absent in the model; "
        r"optimizer_state\.1\.0\.mu\.bias: .*; and 4 more\. Continue with the model that the run began with"
    )
    with pytest.raises(ValueError, match=message) as raised:
        checkpoints.restore_newest(other)
    assert not isinstance(raised.value, DamagedCheckpoint)
    with pytest.raises(ValueError, match=r"got average\.stack\.scale: absent in the checkpoint, \(\) float32 in the"):
        checkpoints.restore(30, state(30, average=True))
    assert checkpoints.steps() == [10, 20, 30]


# Disks that take no more. The file system itself refuses: a small one in memory where mounting is allowed, and
# everywhere a limit on the size of a file.

FILL = """
import sys
import tracemalloc
from pathlib import Path
import jax, jax.numpy as jnp, optax
from lmx.checkpoint import CheckpointNotSaved, Checkpoints
from lmx.training import create_state

directory, prepare, release = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
table = jax.random.normal(jax.random.key(1), (250, 300))
start = create_state({"table": table}, optax.sgd(0.1), seed=1)
checkpoints = Checkpoints(directory, keep_last=2, report=lambda line: print("report:", line))

def save(step):
    checkpoints.save(step, start._replace(step=jnp.int32(step)), {"step": step}, scores={})

def show():
    print("steps", checkpoints.steps(), sorted(path.name for path in directory.iterdir()))

for step in (1, 2):
    save(step)
show()
exec(prepare)
for step in (3, 4):  # as a training does: the failure of one appears when the next begins
    save(step)
show()
try:
    checkpoints.wait()
except CheckpointNotSaved as error:
    print("raised:", error)
exec(release)
save(5)
checkpoints.wait()
show()
checkpoints.close()
checkpoints = Checkpoints(directory)
restored, host = checkpoints.restore_newest(start._replace(params={"table": table * 0}))
print("restored", int(restored.step), host, bool((restored.params["table"] == table).all()))
checkpoints.close()
"""


def check_full(directory: Path, prepare: str, release: str, reason: str) -> None:
    command = [sys.executable, "-c", FILL, str(directory), prepare, release]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    # Of a save that was given up, a write may fail late, which asyncio tells, or leave a file, which the next save
    # sweeps (see the test after this one).
    assert not done.stderr or done.stderr.startswith("ERROR:asyncio:Future exception was never retrieved")
    lines = done.stdout.replace(", '4.orbax-checkpoint-tmp'", "").splitlines()
    assert lines[0] == "steps [1, 2] ['1', '2']"
    for line, step in zip(lines[1:3], (3, 4), strict=True):
        assert line.startswith(f"report: the checkpoint of step {step} was not saved: {reason} (")
        assert line.endswith("training goes on and saves again; now it could continue from step 2")
    assert lines[3] == "steps [1, 2] ['1', '2']"
    assert lines[4].startswith(
        f"raised: the checkpoint of step 4 must be saved, got {reason}. Make room in {directory}"
    )
    assert lines[4].endswith("start the same command again: it continues from step 2.")
    assert lines[5] == "steps [2, 5] ['2', '5']"
    assert lines[6] == "restored 5 {'step': 5} True"
    assert len(lines) == 7


def test_what_a_late_write_of_a_failed_save_leaves_is_removed_by_the_next(opened, tmp_path, monkeypatch):
    lines: list[str] = []
    checkpoints = opened(report=lines.append)
    assert checkpoints._manager._options.async_options.timeout_secs == 6 * 3600
    checkpoints.save(3, state(3), HOST, scores={})
    checkpoints.wait()  # what Orbax removes in the background when it starts, it has removed

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "save", full)
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_234_567_890))
        checkpoints.save(4, state(4), HOST, scores={})
    (line,) = lines
    assert f"(1,235 MB free in {tmp_path / 'checkpoints'})" in line
    late = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "state"
    late.mkdir(parents=True)
    (late / "part").write_bytes(b"late")
    checkpoints.save(5, state(5), HOST, scores={})
    checkpoints.wait()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "5"]


def test_a_file_that_grows_too_large_loses_only_that_save(tmp_path):
    prepare = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))"
    release = "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"
    check_full(tmp_path / "checkpoints", prepare, release, "File too large")


def test_a_full_disk_loses_only_that_save(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        prepare = "(directory.parent / 'other').write_bytes(bytes(400_000))"
        release = "(directory.parent / 'other').unlink()"
        check_full(disk / "checkpoints", prepare, release, "No space left on device")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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

    flat = [load_file(path) for path in (*paths, tmp_path / "mean.safetensors")]
    for name, array in flat[-1].items():  # bit by bit
        np.testing.assert_array_equal(array, np.mean([each[name] for each in flat[:-1]], axis=0, dtype=np.float32))

    save_params(paths[1], params(2, rows=7))
    message = (
        r"2\.safetensors must hold the arrays of .*1\.safetensors, got stack\.weight: \(7, 4\) in the file, \(6, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        average_files(paths, tmp_path / "mean.safetensors")
    with pytest.raises(ValueError, match="at least one file"):
        average_files([], tmp_path / "mean.safetensors")


def test_averaging_files_holds_a_few_arrays_and_no_file(tmp_path):
    names = [f"layer{number:02}" for number in range(16)]
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(5)]
    for seed, path in enumerate(paths):
        save_params(path, {name: np.full((64, 256), seed, np.float32) for name in names})
    one = 64 * 256 * 4
    average_files(paths[:1], tmp_path / "warm.safetensors")
    tracemalloc.start()
    average_files(paths, tmp_path / "mean.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * one  # of the 16 that a file has; the library copies what it reads
    assert set(load_params(tmp_path / "mean.safetensors")) == set(names)


def test_a_file_that_is_no_parameters_is_not_averaged(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"a\.safetensors must be a safetensors file"):
        average_files([tmp_path / "a.safetensors"], tmp_path / "mean.safetensors")
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors must exist"):
        average_files([tmp_path / "b.safetensors"], tmp_path / "mean.safetensors")


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5])
def test_a_checksum_is_of_the_whole_file(tmp_path, size):
    whole = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "file"
    path.write_bytes(whole)
    assert checksum_of(path) == zlib.crc32(whole)


def test_a_file_changed_in_its_first_or_its_last_megabyte_is_damaged(tmp_path):
    whole = np.random.default_rng(0).integers(0, 256, 2**21 + 9, np.uint8).tobytes()
    file = tmp_path / "state" / "block"
    file.parent.mkdir()
    file.write_bytes(whole)
    (tmp_path / "checksums.json").write_text(json.dumps({"state/block": [len(whole), zlib.crc32(whole)]}))
    assert damage_of(tmp_path) is None
    for place in (0, 2**20, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert damage_of(tmp_path) == "state/block is not as it was written"
    for content in ("{", "[1]", '{"block": 3}', "[" * 99_999):
        (tmp_path / "checksums.json").write_text(content)
        assert damage_of(tmp_path).startswith("checksums.json cannot be checked (")
    (tmp_path / "checksums.json").write_text('{"state/other": [1, 2]}')
    assert damage_of(tmp_path) == "state/other is missing"
