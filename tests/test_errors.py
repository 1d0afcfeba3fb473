"""Whose mistake an error is: a user's is one line, a researcher's keeps its traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx.errors import InputError, is_users
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.saved import read_record
from lmx.training import create_state, make_train_step

ROOT = Path(__file__).parents[1]


def caught(action) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011
        action()
    return found.value


def raise_input_error():
    raise InputError("a column must be named.")


def raise_value_error():
    raise ValueError("mine")


def unpack_two_of_three():
    first, second = (1, 2, 3)
    return first, second


def train_with(loss):
    """Takes a step by a loss of a script's."""
    state = create_state({"table": jnp.ones((3, 2))}, optax.sgd(0.1), seed=1)
    make_train_step(loss, optax.sgd(0.1))(state, {"x": jnp.ones((1, 4, 5))})


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (raise_input_error, True),
        (lambda: sinusoidal(4, 3), True),  # our own check, of what a config said
        (lambda: read_record(Path("nowhere.json")), True),  # a file that this package opens
        (raise_value_error, False),
        (unpack_two_of_three, False),
        (lambda: int("x"), False),
        (lambda: Path("nowhere.txt").read_text(), False),  # a script's own
        (lambda: np.zeros(3).reshape(2, 2), False),
        (lambda: jnp.zeros(3).reshape(2, 2), False),
        (lambda: json.loads("{"), False),
        (lambda: train_with(lambda params, batch, key: unpack_two_of_three()), False),
        # What a researcher's loss gives to this package is a researcher's too.
        (lambda: train_with(lambda params, batch, key: sinusoidal(4, 3)), False),
    ],
)
def test_only_what_a_user_can_mend_is_one_line(action, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_users(caught(action)) is expected


def test_an_unexpected_failure_inside_of_the_package_keeps_its_traceback(monkeypatch):
    # Not a `raise` of ours: int() fails by itself where nobody expected it to.
    from lmx import hosts

    monkeypatch.setenv("SLURM_NTASKS", "x")
    assert not is_users(caught(lambda: hosts.find_launcher({"OMPI_COMM_WORLD_SIZE": "two"})))


@pytest.mark.slow
def test_a_broken_loss_in_a_copied_script_shows_its_file_and_line(tmp_path):
    text = (ROOT / "experiments" / "classification.py").read_text(encoding="utf-8")
    broken = "first, second, third = outputs, batch\n        return label_loss("
    assert text.count("return label_loss(") == 1
    copied = tmp_path / "mine.py"
    copied.write_text(text.replace("return label_loss(", broken), encoding="utf-8")
    (tmp_path / "train.csv").write_text("text,label\n" + "a good one,yes\nno such thing,no\n" * 20, encoding="utf-8")
    command = [sys.executable, str(copied), "own", "--train", "train.csv", "--run", "run", "--tokenizer", "bytes"]
    command += "--model.width 16 --model.feedforward-width 16 --model.num-heads 2 --model.num-layers 1".split()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    line = copied.read_text().split(broken.partition("\n")[0])[0].count("\n") + 1
    assert "not enough values to unpack (expected 3, got 2)" in done.stderr
    assert f'mine.py", line {line}, in loss' in done.stderr
    # A user's mistake in the same script is a line.
    command[command.index("train.csv")] = "nowhere.csv"
    command[command.index("run")] = "other"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: nowhere.csv must exist")
