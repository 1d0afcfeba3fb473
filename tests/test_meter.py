"""The lines of a training: what they say of time, of skipped steps and of several seeds."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.meter import SKIPPED_LIMIT, Meter, readable_mean
from lmx.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that is open; a clock that is set counts from here."""
    run = Run(tmp_path / "run", {"experiment": "test", "preset": "none", "family": "none", "config": {}})
    run.open()
    return run


def meter(run: Run, *, patience: int | None = None) -> Meter:
    return Meter(run, first=0, last=100, peak=None, patience=patience)


def step(meter: Meter, number: int, *, loss, weight, skipped, tokens: int = 10) -> None:
    metrics = {"loss": jnp.array(loss), "weight": jnp.array(weight), "skipped": jnp.array(skipped)}
    meter.step_started(number, metrics, tokens=tokens, flops=(1.0, 1.0))


def newest_line(run: Run) -> dict:
    return json.loads((run.directory / "metrics.jsonl").read_text().splitlines()[-1])


def test_waiting_is_a_share_of_the_time_since_the_line_before(run, monkeypatch):
    clock = itertools.count(100, 4)  # each look at the clock is 4 s after the one before
    monkeypatch.setattr("lmx.meter.time.perf_counter", lambda: float(next(clock)))
    found = meter(run)
    step(found, 1, loss=2.0, weight=1.0, skipped=0)
    found.log(1, waited=1.0)
    first = newest_line(run)
    assert (first["seconds"], first["data_wait"], first["tokens_per_second"]) == (4.0, 0.25, 2.5)
    step(found, 2, loss=2.0, weight=1.0, skipped=0, tokens=32)
    found.log(2, waited=3.0)  # the printed line has looked at the clock, too
    second = newest_line(run)
    assert (second["seconds"], second["data_wait"], second["tokens_per_second"]) == (12.0, 0.25, 4.0)


def test_what_an_ended_seed_skips_ends_nothing(run, capsys):
    run.memory.waited = [2, 0]
    found = meter(run, patience=2)
    for number in range(1, SKIPPED_LIMIT + 3):
        step(found, number, loss=[float("nan"), 1.0], weight=[1.0, 1.0], skipped=[number, 0])
    found.log(SKIPPED_LIMIT + 2, waited=0.0)
    assert run.memory.skipped == 0
    assert "skipped" not in capsys.readouterr().out
    run.memory.waited = [1, 0]
    for number in range(1, SKIPPED_LIMIT + 1):
        step(found, number, loss=[float("nan"), 1.0], weight=[1.0, 1.0], skipped=[number, 0])
    with pytest.raises(FloatingPointError, match="got 10 steps in a row"):
        found.flush(waited=0.0)


def test_a_seeds_mean_is_over_the_steps_it_made(run):
    found = meter(run)
    step(found, 1, loss=[float("nan"), 2.0], weight=[3.0, 1.0], skipped=[1, 0])
    step(found, 2, loss=[4.0, 6.0], weight=[1.0, 3.0], skipped=[0, 0])
    found.log(2, waited=0.0)
    line = newest_line(run)
    assert line["seeds"]["loss"] == [4.0, 5.0]
    assert (line["loss"], line["skipped"]) == (4.5, 1)


def test_a_line_has_the_tokens_of_all_its_steps_and_counts_each_seed_that_was_skipped(run, capsys):
    found = meter(run)
    step(found, 1, loss=[1.0, 2.0, 3.0], weight=[1.0, 1.0, 1.0], skipped=[1, 0, 2], tokens=7)
    step(found, 2, loss=[1.0, 2.0, 3.0], weight=[1.0, 1.0, 1.0], skipped=[2, 1, 3], tokens=5)
    step(found, 3, loss=[1.0, 2.0, 5.0], weight=[1.0, 1.0, 1.0], skipped=[0, 0, 0], tokens=4)
    found.log(3, waited=0.0)
    line = newest_line(run)
    assert (line["tokens"], line["skipped"]) == (16, 5)
    printed = capsys.readouterr().out
    assert "step 1: loss or gradient of 2 of 3 seeds is not finite; the step is skipped (2 in a row)" in printed
    assert "step 2: loss or gradient of 3 of 3 seeds is not finite; the step is skipped (3 in a row)" in printed
    step(found, 4, loss=[1.0, 2.0, 3.0], weight=[1.0, 1.0, 1.0], skipped=[1, 1, 1])
    before = len((run.directory / "metrics.jsonl").read_text().splitlines())
    found.log(4, waited=0.0)
    assert len((run.directory / "metrics.jsonl").read_text().splitlines()) == before  # nothing to say
    assert run.memory.skipped == 8


def test_a_seed_that_made_no_step_has_no_number_and_no_part_in_the_mean(run):
    found = meter(run)
    step(found, 1, loss=[float("nan"), 2.0, 4.0], weight=[1.0, 1.0, 1.0], skipped=[1, 0, 0])
    found.log(1, waited=0.0)
    line = newest_line(run)
    assert line["seeds"]["loss"] == [None, 2.0, 4.0]
    assert line["loss"] == 3.0


def test_the_time_that_is_left_is_told_by_the_pace_of_this_start(run, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lmx.meter.time.perf_counter", lambda: now[0])
    found = Meter(run, first=40, last=100, peak=None, patience=None)
    now[0] += 10.0
    assert found._time_left(50) == "50 s"  # a second a step
    assert found._time_left(100) == "0 s"
    assert found._time_left(40) == "10 min"  # no step yet: as if one had taken all of it


def test_what_was_done_beside_training_has_no_part_in_its_time(run, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lmx.meter.time.perf_counter", lambda: now[0])
    found = Meter(run, first=0, last=100, peak=100.0, patience=None)
    step(found, 1, loss=2.0, weight=1.0, skipped=0, tokens=30)
    now[0] += 3.0
    found.flush(waited=1.0)
    now[0] += 50.0  # a validation
    found.restart_clock()
    step(found, 2, loss=2.0, weight=1.0, skipped=0, tokens=30)
    now[0] += 2.0
    found.log(2, waited=1.5)
    line = newest_line(run)
    assert (line["seconds"], line["tokens_per_second"], line["data_wait"]) == (5.0, 12.0, 0.3)
    assert (line["mfu"], line["mfu_causal"]) == (2 / 5 / 100, 2 / 5 / 100)


def test_a_number_of_several_seeds_is_read_with_its_deviation():
    assert readable_mean(0.12345) == "0.1235"
    assert readable_mean(np.array([3.0])) == "3.0000"
    assert readable_mean(np.array([1.0, 3.0])) == "2.0000 +- 1.4142"
