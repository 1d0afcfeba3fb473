import json
import math
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx.loop import SKIPPED_LIMIT, train
from lmx.run import EXIT_STOPPED, Run
from lmx.sharding import MeshConfig, make_mesh
from lmx.training import TrainState, create_state

FACTS = {"experiment": "counting", "preset": "tiny", "family": "none", "config": {}}
LAST = 9


class Batches:
    """Batch k holds the number k."""

    def batch(self, k: int) -> dict[str, np.ndarray]:
        return {"k": np.full((1, 2, 3), k)}

    def tokens(self, k: int) -> int:
        return 5


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
    due: tuple[int, ...] = (),
    validations: dict[int, float] | None = None,
    **options,
) -> TrainState:
    """Runs the loop with a step that adds batch k to the one parameter and reports the loss it is told to."""
    losses, weights, signals, validations = losses or {}, weights or {}, signals or {}, validations or {}

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        number = int(state.step) + 1
        assert int(batch["k"][0, 0, 0]) == number - 1
        for _ in range(signals.get(number, 0)):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # the handler runs between two bytecodes
        loss = losses.get(number, 1.0)
        skipped = 0 if math.isfinite(loss) else int(state.skipped) + 1
        metrics = {"loss": jnp.float32(loss), "weight": jnp.float32(weights.get(number, 1.0))}
        state = state._replace(
            step=state.step + 1, params={"sum": state.params["sum"] + number}, skipped=jnp.int32(skipped)
        )
        return state, metrics | {"skipped": jnp.int32(skipped)}

    start = create_state({"sum": jnp.zeros(())}, optax.sgd(0.1), seed=1)
    checkpoints = run.open_checkpoints(keep_last=2)
    arguments = {"last": LAST, "log_every": 100, "patience": None} | options
    try:
        return train(
            run,
            step,
            run.resume(checkpoints, start),
            batches=Batches(),
            mesh=mesh(),
            checkpoints=checkpoints,
            is_due=lambda number: number in due,
            validate=lambda number, _: (validations[number], {"loss": validations[number]}),
            facts=lambda number: {"learning_rate": number / 8},
            flops=lambda shape: (3.0, 2.0),
            **arguments,
        )
    finally:
        checkpoints.close()


def lines_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_over_tokens_since_the_line_before(run, capsys):
    state = count(run, {1: 4.0, 2: 1.0, 3: 7.0}, weights={1: 1.0, 2: 3.0, 3: 2.0}, log_every=2, last=3)
    assert (int(state.step), float(state.params["sum"])) == (3, 6.0)
    first, second = lines_of(run)
    assert (first["step"], first["loss"], first["tokens"], first["learning_rate"]) == (2, 1.75, 10, 0.25)
    assert (second["step"], second["loss"], second["tokens"]) == (3, 7.0, 5)
    assert "mfu" not in first
    printed = capsys.readouterr().out
    assert "step 2 of 3  loss 1.7500" in printed
    assert printed.count("first step done") == 1


def test_mfu_has_both_conventions_where_the_peak_is_known(run):
    count(run, log_every=2, last=2, peak=1e3)
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
    timed = {"seconds", "tokens_per_second", "data_wait"}

    def untimed(run: Run) -> list[dict]:
        return [{name: value for name, value in line.items() if name not in timed} for line in lines_of(run)]

    assert untimed(parted) == untimed(run)
    # The second line's time holds the steps before the stop: its speed is the speed of all its tokens.
    second = lines_of(parted)[1]
    first = lines_of(parted)[0]
    assert second["tokens_per_second"] == pytest.approx(15 / (second["seconds"] - first["seconds"]), rel=1e-3)


def test_checkpoints_between_validations_are_saved_when_asked_for(run):
    count(run, save_every=2, last=7)
    checkpoints = run.open_checkpoints(keep_last=2)
    assert checkpoints.steps() == [6, 7]
    checkpoints.close()


def test_a_profile_holds_the_steps_asked_for(run, capsys):
    count(run, profile=(2, 4), last=6)
    assert "profile: " in capsys.readouterr().out
    assert list((run.directory / "profile").rglob("*.xplane.pb"))
