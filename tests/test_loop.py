import contextlib
import errno
import gc
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from lmx.checkpoint import CheckpointNotSaved
from lmx.config import RunConfig, SelectionConfig
from lmx.errors import InputError
from lmx.learner import Learner, Placed
from lmx.loop import Training, every
from lmx.meter import SKIPPED_LIMIT
from lmx.parameters import save_params
from lmx.process import EXIT_STOPPED
from lmx.run import Run
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.training import TrainState, create_state

FACTS = {"experiment": "counting", "preset": "tiny", "family": "none", "config": {}}
LAST = 9


class Batches:
    """Batch k holds the number k."""

    def batch(self, k: int, rows=None) -> dict[str, np.ndarray]:
        return {"k": np.full((1, 2, 3), k)}

    def tokens(self, k: int) -> int:
        return 5

    def epochs_before(self, k: int) -> float:
        return k / 8


def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), devices=jax.devices()[:1])


@pytest.fixture
def run(tmp_path) -> Run:
    return opened(tmp_path / "run")


def opened(directory: Path) -> Run:
    before = jax.config.jax_compilation_cache_dir
    run = Run(directory, FACTS)
    run.open()
    jax.config.update("jax_compilation_cache_dir", before)
    return run


def count(
    run: Run,
    losses: dict[int, float] | None = None,
    *,
    weights: dict[int, float] | None = None,
    signals: dict[int, int] | None = None,
    interrupted: tuple[int, ...] = (),
    number_of_signal: int = signal.SIGTERM,
    due: tuple[int, ...] = (),
    validations: dict[int, float] | None = None,
    measured: str = "loss",
    last: int = LAST,
    patience: int | None = None,
    average: int = 2,
    average_of: str = "last",
    average_decay: float | None = None,
    kept: list | None = None,
    **options,
) -> TrainState:
    """Runs the loop with a step that adds batch k to the one parameter and reports the loss it is told to.

    What the training ends with is appended to `kept`, where there is such a list.

    Signals come so many times within a step, and once within the validations after the steps `interrupted`.
    """
    losses, weights, signals, validations = losses or {}, weights or {}, signals or {}, validations or {}

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        number = int(state.step) + 1
        assert int(batch["k"][0, 0, 0]) == number - 1
        for _ in range(signals.get(number, 0)):
            os.kill(os.getpid(), number_of_signal)
            time.sleep(0.01)  # the handler runs between two bytecodes
        loss = losses.get(number, 1.0)
        skipped = 0 if math.isfinite(loss) else int(state.skipped) + 1
        metrics = {"loss": jnp.float32(loss), "weight": jnp.float32(weights.get(number, 1.0))}
        state = state._replace(
            step=state.step + 1,
            applied=state.step + 1,
            params={"sum": state.params["sum"] + number},
            skipped=jnp.int32(skipped),
        )
        return state, metrics | {"skipped": jnp.int32(skipped)}

    def measure() -> tuple[float, dict]:
        number = int(training.state.step)
        if number in interrupted:
            os.kill(os.getpid(), number_of_signal)
            time.sleep(5)
            raise AssertionError("a validation goes on after a signal")
        return validations[number], {measured: validations[number]}

    start = create_state({"sum": jnp.zeros(())}, optax.sgd(0.1), seed=1, average=average_decay is not None)
    run.options = RunConfig(**{"log_every": 100} | options)
    learner = Learner(None, None, None, schedule=lambda count: (count + 1) / 8, flops=lambda shape: (3.0, 2.0))
    learner = learner._replace(average_decay=average_decay)
    placed = Placed(
        learner,
        mesh(),
        {},
        start,
        start,
        step,
        evaluate=None,
        keep_best=None,
        born=lambda seeds: start._replace(),
        whole=lambda params: params,
    )
    selection = SelectionConfig(patience=patience, average=average, average_of=average_of)
    training = Training(
        run, placed, Batches(), last=last, seeds=[1], selection=selection, due=lambda number: number in due
    )
    try:
        with training:
            for update in training:
                if update.due:
                    training.validate(measure)
        state = training.state
        if kept is not None:
            kept.append(training.end())
        return state
    finally:
        training._checkpoints.close()


def lines_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Run) -> list[dict]:
    timed = {"seconds", "tokens_per_second", "data_wait"}
    return [{name: value for name, value in line.items() if name not in timed} for line in lines_of(run)]


def test_a_line_is_the_mean_over_tokens_since_the_line_before(run, capsys):
    state = count(run, {1: 4.0, 2: 1.0, 3: 7.0}, weights={1: 1.0, 2: 3.0, 3: 2.0}, log_every=2, last=3)
    assert (int(state.step), float(state.params["sum"])) == (3, 6.0)
    first, second = lines_of(run)
    assert (first["step"], first["loss"], first["tokens"], first["learning_rate"]) == (2, 1.75, 10, 0.25)
    assert (first["epoch"], second["epoch"]) == (2 / 8, 3 / 8)
    assert (second["step"], second["loss"], second["tokens"]) == (3, 7.0, 5)
    assert "mfu" not in first
    printed = capsys.readouterr().out
    assert "step 2 of 3  loss 1.7500" in printed
    assert printed.count("first step done") == 1
    assert 0 < json.loads((run.directory / "start.json").read_text())["compile_seconds"] < 600


def test_each_line_has_the_tokens_of_its_own_batches(run, monkeypatch):
    monkeypatch.setattr(Batches, "tokens", lambda self, k: 10**k)
    count(run, log_every=2, last=5)
    assert [line["tokens"] for line in lines_of(run)] == [11, 1100, 10_000]


def test_seeds_that_share_a_step_each_have_its_flops(run):
    state = create_state({"sum": jnp.zeros(())}, optax.sgd(0.1), seed=1)
    learner = Learner(
        None, None, None, schedule=lambda count: 0.1, flops=lambda shape: (shape[1] * 3.0, shape[2] * 2.0)
    )
    training = Training.__new__(Training)
    training.state, training._shapes = state, {(5, 1, 2, 4)}
    for seeds, expected in ((None, (6.0, 8.0)), (5, (30.0, 40.0))):
        placed = Placed(*[None] * len(Placed._fields))._replace(
            learner=learner._replace(num_seeds=seeds), step=lambda state, batch: (state, {})
        )
        training.placed = placed
        assert training._run_step({"k": jnp.zeros((5, 1, 2, 4))}) == ({}, expected)


def test_progress_begins_where_the_training_does(run, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def bar(what: str, *, total: int, console) -> Iterator:
        shown.append((what, total))
        yield shown.append

    monkeypatch.setattr("lmx.loop.progress_bar", bar)
    count(run, last=2)
    count(opened(run.directory), last=4)
    assert shown == [("training", 2), 0, 1, 2, ("training", 4), 2, 3, 4]


def test_mfu_has_both_conventions_where_the_peak_is_known(run, monkeypatch):
    monkeypatch.setattr("lmx.loop.peak_flops", lambda kind, dtype: 1e3 / jax.device_count())
    count(run, log_every=2, last=2)
    (line,) = lines_of(run)
    assert line["mfu"] * line["seconds"] == pytest.approx(2 * 3.0 / 1e3, rel=1e-4)
    assert line["mfu_causal"] == pytest.approx(line["mfu"] * 2 / 3, rel=1e-4)


def test_a_skipped_step_is_reported_and_left_out(run, capsys):
    count(run, {1: 2.0, 2: math.nan, 3: 4.0}, last=3)
    (line,) = lines_of(run)
    assert (line["loss"], line["skipped"]) == (3.0, 1)
    assert "step 2: loss or gradient is not finite; the step is skipped (1 in a row)" in capsys.readouterr().out


def test_ten_skipped_steps_in_a_row_end_the_run_with_advice(run):
    message = r"must be finite, got 10 steps in a row that are not, to step 10\. Lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        count(run, dict.fromkeys(range(1, 99), math.inf), last=99)
    assert run.memory.skipped == SKIPPED_LIMIT == 10


def test_validations_are_written_and_judged(run, capsys):
    state = count(run, due=(2, 4, 6, 8), validations={2: 3.0, 4: 2.5, 6: 2.75, 8: 2.5}, patience=2)
    assert int(state.step) == 8
    assert run.memory.stopped_early
    lines = lines_of(run)
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8]
    printed = capsys.readouterr().out
    assert "validation after 4 updates: loss 2.5000  best so far" in printed
    assert "validation after 8 updates: loss 2.5000  2 since the best" in printed
    # Asked again, a run that has stopped early stays so.
    again = opened(run.directory)
    assert int(count(again, due=(), validations={}).step) == 8
    assert lines_of(again) == lines


def test_the_time_of_a_validation_is_not_trainings(run, monkeypatch):
    late = [0.0]
    clock = time.perf_counter

    class Numbers(dict):
        def __getitem__(self, step: int) -> float:
            late[0] += 500  # seconds, as the loop's clock has it
            return super().__getitem__(step)

    for module in ("loop", "meter"):
        monkeypatch.setattr(f"lmx.{module}.time", SimpleNamespace(perf_counter=lambda: clock() + late[0]))
    count(run, due=(2, 4, 6), validations=Numbers({2: 3.0, 4: 2.5, 6: 2.75}), log_every=3)
    validations = [line for line in lines_of(run) if line["kind"] == "validation"]
    assert all(line["seconds"] >= 500 for line in validations)
    assert len(validations) == 3
    assert all(line["seconds"] < 500 for line in lines_of(run) if line["kind"] == "train")
    assert run.memory.seconds < 500


def test_a_signal_lets_the_step_end_saves_and_stops(run, capsys):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped:
        count(run, signals={4: 1})
    assert stopped.value.code == EXIT_STOPPED == 75
    assert "stopped by SIGTERM and saved; the same command continues" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_second_signal_is_not_waited_for(run):
    with pytest.raises(KeyboardInterrupt):
        count(run, signals={4: 2})
    assert lines_of(run) == []


def test_a_stopped_run_writes_the_lines_of_one_never_stopped(run, tmp_path):
    losses = {number: 1.0 / number for number in range(1, LAST + 1)}
    whole = count(run, losses, log_every=3)
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        count(parted, losses, log_every=3, signals={5: 1})  # in the middle between two lines
    parted = opened(tmp_path / "parted")
    state = count(parted, losses, log_every=3)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, whole))
    assert untimed(parted) == untimed(run)
    # The second line's time holds the steps before the stop: its speed is the speed of all its tokens.
    second = lines_of(parted)[1]
    first = lines_of(parted)[0]
    assert second["tokens_per_second"] == pytest.approx(15 / (second["seconds"] - first["seconds"]), rel=1e-3)


VALIDATED = {"due": (3, 6, 9), "validations": {3: 3.0, 6: 2.0, 9: 2.5}, "log_every": 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_validation_that_a_signal_ends_is_made_when_the_run_continues(step, number, run, tmp_path, capsys):
    whole = count(run, **VALIDATED)
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit) as stopped:
        count(parted, interrupted=(step,), number_of_signal=number, **VALIDATED)
    assert stopped.value.code == EXIT_STOPPED
    assert f"stopped by {signal.Signals(number).name} and saved" in capsys.readouterr().out
    assert [line["step"] for line in lines_of(parted) if line["kind"] == "validation"] == list(range(3, step, 3))
    for _ in range(2):  # it stays as it is, however often it is started
        parted = opened(tmp_path / "parted")
        state = count(parted, **VALIDATED)
        assert jax.tree.all(jax.tree.map(np.array_equal, state, whole))
        assert untimed(parted) == untimed(run)
        assert (parted.memory.losses, parted.memory.best_step) == (run.memory.losses, [6])


def test_a_signal_that_comes_where_exceptions_are_ignored_ends_a_validation_all_the_same(run, monkeypatch, capfd):
    real = os.kill

    def in_a_callback(process: int, number: int) -> None:
        def callback(*_) -> None:
            gc.callbacks.remove(callback)
            real(process, number)

        gc.callbacks.append(callback)
        gc.collect()

    monkeypatch.setattr(os, "kill", in_a_callback)
    with pytest.raises(SystemExit) as stopped:
        count(run, interrupted=(6,), **VALIDATED)
    assert stopped.value.code == EXIT_STOPPED
    printed = capfd.readouterr()
    assert "stopped by SIGTERM and saved" in printed.out
    assert "ignored" not in printed.err
    assert [line["step"] for line in lines_of(run) if line["kind"] == "validation"] == [3]


def test_a_validation_that_is_due_when_a_signal_comes_is_left_for_the_continued_run(run, tmp_path):
    count(run, **VALIDATED)
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        count(parted, signals={6: 1}, **VALIDATED)
    # Stopped again within the validation, then ended at once within a step, before anything new is saved.
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        count(parted, interrupted=(6,), **VALIDATED)
    assert [line["step"] for line in lines_of(parted) if line["kind"] == "validation"] == [3]
    parted = opened(tmp_path / "parted")
    with pytest.raises(KeyboardInterrupt):
        count(parted, signals={8: 2}, **VALIDATED)
    assert [line["step"] for line in lines_of(parted) if line["kind"] == "validation"] == [3, 6]
    parted = opened(tmp_path / "parted")
    count(parted, **VALIDATED)
    assert untimed(parted) == untimed(run)


def test_a_validation_made_later_can_end_the_training(run, tmp_path):
    count(run, patience=1, due=(2, 4, 6), validations={2: 1.0, 4: 1.5})
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        count(parted, interrupted=(4,), patience=1, due=(2, 4, 6), validations={2: 1.0, 4: 1.5})
    parted = opened(tmp_path / "parted")
    assert int(count(parted, patience=1, due=(2, 4, 6), validations={2: 1.0, 4: 1.5}).step) == 4
    assert parted.memory.stopped_early
    assert untimed(parted) == untimed(run)


def test_a_training_is_not_made_shorter_than_it_is(run):
    with pytest.raises(SystemExit):
        count(run, signals={5: 1})
    again = opened(run.directory)
    message = "has made 5 updates, and training must end after as many at least, got 3. Ask for 5 or more"
    with pytest.raises(InputError, match=message):
        count(again, last=3)


def test_a_training_that_is_made_as_short_as_it_is_is_validated(run):
    with pytest.raises(SystemExit):
        count(run, signals={5: 1}, **VALIDATED)
    kept: list = []
    again = opened(run.directory)
    assert int(count(again, last=5, due=(3, 5), validations={3: 3.0, 5: 2.0}, kept=kept).step) == 5
    assert again.memory.best_step == [5]
    assert [line["step"] for line in lines_of(again) if line["kind"] == "validation"] == [3, 5]


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(run, tmp_path, capsys):
    whole = count(run, **VALIDATED)
    parted = opened(tmp_path / "parted")
    with pytest.raises(SystemExit):
        count(parted, signals={8: 1}, **VALIDATED)
    checkpoint = parted.directory / "checkpoints" / "8"
    max((path for path in checkpoint.rglob("d/*")), key=lambda path: path.stat().st_size).write_bytes(b"torn")
    capsys.readouterr()
    parted = opened(tmp_path / "parted")
    state = count(parted, **VALIDATED)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "checkpoints/8" in line] == [printed[0]]
    assert printed[0].endswith("it is skipped and renamed to 8.damaged")
    assert printed[1].endswith("from step 6")
    assert jax.tree.all(jax.tree.map(np.array_equal, state, whole))
    assert untimed(parted) == untimed(run)


def test_a_training_whose_last_checkpoint_is_not_saved_ends_with_an_error(run, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(orbax.checkpoint.CheckpointManager, "save", refuse)
    message = r"the checkpoint of step 9 must be saved, got No space left on device\. .* continues from the start\."
    with pytest.raises(CheckpointNotSaved, match=message):
        count(run, due=(3,), validations={3: 1.0})
    printed = capsys.readouterr().out
    assert printed.count("the checkpoint of step 3 was not saved: No space left on device") == 1
    assert printed.count("the checkpoint of step 9 was not saved: No space left on device") == 1
    monkeypatch.undo()
    again = opened(run.directory)
    count(again, due=(3,), validations={3: 1.0})
    assert [line["step"] for line in lines_of(again)] == [3, 3, 9]


def test_checkpoints_between_validations_are_saved_when_asked_for(run):
    count(run, save_every=2, last=7)
    checkpoints = run.open_checkpoints(keep_last=2)
    assert checkpoints.steps() == [6, 7]
    checkpoints.close()


def test_an_exponential_average_is_validated_and_kept_and_no_mean_of_checkpoints(run):
    kept = []
    state = count(run, due=(3, 6), validations={3: 3.0, 6: 1.0}, average_decay=0.5, kept=kept)
    assert float(state.params["sum"]) == sum(range(10))
    assert kept == [({"sum": 0.0}, "exponential average")]  # which the step of this loop leaves as it was


@pytest.mark.parametrize("due", [(), (9,)])
def test_one_checkpoint_is_no_mean(run, due):
    kept = []
    count(run, due=due, validations=dict.fromkeys(due, 1.0), kept=kept)
    assert kept == [({"sum": sum(range(10))}, "the last checkpoint")]


def test_the_end_of_a_training_says_how_it_came_and_where_it_was_best(run, tmp_path, capsys):
    count(run, due=(3, 6, 9), validations={3: 3.0, 6: 1.0, 9: 2.0}, kept=[])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"training ended as planned after 9 updates and \d+ s; best in validation at 6", printed)
    early = opened(tmp_path / "early")
    count(early, due=(3, 6, 9), validations={3: 3.0, 6: 4.0, 9: 2.0}, patience=1, kept=[])
    assert "training ended early after 6 updates" in " ".join(capsys.readouterr().out.split())


def test_a_longer_training_says_that_an_earlier_end_is_kept_until_its_own(run, capsys):
    count(run, last=3, kept=[])
    (run.directory / "model.safetensors").touch()
    count(opened(run.directory), last=3, kept=[])  # the same once more
    assert "until this training has ended" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        count(opened(run.directory), last=6, signals={4: 1}, kept=[])
    printed = " ".join(capsys.readouterr().out.split())
    assert "until this training has ended" in printed
    assert "keeps the model and the scores of its earlier end" in printed


def test_a_finished_model_is_used_as_it_is(run, capsys):
    save_params(run.directory / "model.safetensors", {"sum": np.float32(7)})
    run.serves = True
    blank = Placed(*[None] * len(Placed._fields))
    like = create_state({"sum": jnp.zeros(())}, optax.sgd(0.1), seed=1)
    placed = blank._replace(learner=Learner(None, None, None, None), like=like)
    training = Training(run, placed, Batches(), last=LAST, seeds=[1], selection=SelectionConfig(), due=lambda _: False)
    assert "it is used as it is, and nothing is trained" in " ".join(capsys.readouterr().out.split())
    with training:
        assert list(training) == []
    assert training.state is None
    params, made = training.end()
    assert (float(params["sum"]), float(training.params["sum"]), made) == (7.0, 7.0, "the model that was there")
    assert not (run.directory / "checkpoints").exists()


def test_what_several_seeds_have_news_of():
    training = Training.__new__(Training)
    training.run = SimpleNamespace(memory=SimpleNamespace(waited=[0, 3, 1]))
    better = np.array([True, False, False])
    assert training._news(better) == "best so far for 1 of 3 seeds, 0 to 3 since the best"
    assert training._news(better[1:2]) == "0 since the best"


def test_several_hosts_stop_for_the_signal_of_one_where_all_ask(monkeypatch):
    training, asked = Training.__new__(Training), []
    training._asked = 0
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("lmx.loop.largest", lambda number: asked.append(number) or signal.SIGTERM.value)
    assert not training._agree_to_stop(False)
    assert asked == []
    assert training._agree_to_stop(True)
    assert (asked, training._stopping) == ([0], "SIGTERM")


@pytest.mark.parametrize("of", ["last", "best"])
def test_checkpoints_between_validations_have_no_part_in_the_mean(of, run):
    """They are there, of the steps 8 and 9, beside those of 6 and 9, which were validated."""
    kept = []
    count(run, due=(3, 6, 9), validations={3: 3.0, 6: 1.0, 9: 2.0}, save_every=1, average_of=of, kept=kept)
    ((params, made),) = kept
    assert made == f"mean of the {of} 2"
    assert float(params["sum"]) == (sum(range(7)) + sum(range(10))) / 2


@pytest.mark.parametrize("of", ["last", "best"])
def test_a_mean_of_fewer_checkpoints_than_were_asked_for_says_of_how_many(of, run):
    kept = []
    count(run, due=(3, 6, 9), validations={3: 3.0, 6: 1.0, 9: 2.0}, average_of=of, average=5, kept=kept)
    ((params, made),) = kept
    assert made == f"mean of the {of} 3"
    assert float(params["sum"]) == pytest.approx((sum(range(4)) + sum(range(7)) + sum(range(10))) / 3)


def test_a_wrong_save_every_is_an_error(run):
    with pytest.raises(ValueError, match=r"^save_every must be at least 1, or None .*, got save_every=0\.$"):
        count(run, save_every=0)


def test_a_profile_holds_the_steps_asked_for(run, capsys):
    count(run, profile="2:4", last=6)
    assert "profile: " in capsys.readouterr().out
    assert list((run.directory / "profile").rglob("*.xplane.pb"))


def test_a_range_of_steps_is_from_and_to():
    assert RunConfig(profile="100:110").steps_to_profile() == (100, 110)
    for text in ("100", "110:100", "5:5", "a:b", "-1:3", ":"):
        with pytest.raises(ValueError, match=r"^profile must be FROM:TO, two steps with FROM below TO, got profile='"):
            RunConfig(profile=text).check()


@pytest.mark.parametrize("name", ["[/ham]", "[ham]", ":x:"])
def test_a_validation_is_printed_as_it_is_named(run, capsys, name):
    count(run, due=(4,), validations={4: 0.5}, measured=name)
    assert f"validation after 4 updates: {name} 0.5000 " in capsys.readouterr().out


def test_a_run_continued_within_the_range_traces_what_is_left_of_it(run, monkeypatch, capsys):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: events.append("begins"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("ends"))
    count(run, last=3, profile="4:6")
    assert events == []
    assert "no profile is written: --profile 4:6 has none of the steps 1 to 3\n" in capsys.readouterr().out
    count(opened(run.directory), last=5, profile="2:4")
    assert events == ["begins", "ends"]
    assert "no profile" not in capsys.readouterr().out
    count(opened(run.directory), last=6, profile="2:5")
    assert "no profile is written: --profile 2:5 has none of the steps 6 to 6\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("range_of", "expected"),
    [("2:4", [0, 1, "begins", 2, 3, "ends", 4, 5]), ("4:99", [0, 1, 2, 3, "begins", 4, 5, "ends"])],
)
def test_a_trace_begins_after_its_first_number_and_holds_the_last(range_of, expected, run, monkeypatch):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: events.append("begins"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("ends"))
    monkeypatch.setattr(Batches, "tokens", lambda self, k: events.append(k) or 5)  # asked for when a step has begun
    count(run, last=6, profile=range_of)
    assert events == expected


def test_lines_of_metrics_that_are_lost_are_not_filled_up(run):
    count(run, last=3, log_every=1)
    path = run.directory / "metrics.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    count(opened(run.directory), last=5, log_every=1)
    assert [line["step"] for line in lines_of(run)] == [1, 4, 5]


def test_a_validation_is_due_after_so_many_updates_or_each_epoch_and_after_the_last():
    due = every(4, last=10)
    assert [number for number in range(1, 11) if due(number)] == [4, 8, 10]
    epochs = SimpleNamespace(epoch_of=lambda number: number // 3, first_batch=lambda epoch: 3 * epoch)
    due = every(0, epochs, last=10)
    assert [number for number in range(1, 11) if due(number)] == [3, 6, 9, 10]
