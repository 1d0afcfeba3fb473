import contextlib
import json
from pathlib import Path

import pytest

import lmx.account
from lmx.account import Account


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when it is told to; the process began 5 seconds before it."""
    now = [100.0]
    monkeypatch.setattr(lmx.account.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(lmx.account, "seconds_since_start", lambda: 5.0)

    def go(seconds: float) -> None:
        now[0] += seconds

    return go


def test_time_goes_to_what_took_it_and_the_rest_to_steps(tmp_path: Path, clock) -> None:
    account = Account(tmp_path, step=0, writes=True)
    clock(2)
    account.spend("compiling", 2.0)
    clock(10)
    account.spend("data", 1.0)
    with account.timing("validation"):
        clock(3)
    account.write(20)
    saved = json.loads((tmp_path / "account.json").read_text())
    assert saved["seconds"] == {
        "starting": 5, "compiling": 2, "steps": 9, "data": 1, "validation": 3, "checkpoints": 0, "results": 0,
    }  # fmt: skip
    with contextlib.suppress(OSError), account.timing("checkpoints"):
        clock(1)
        raise OSError("what fails has taken time too")
    account.write(20, over=True)
    clock(4)
    assert account.end() == (
        "the run took 25 s: start 20.0%, compiling 8.0%, steps 36.0%, waiting for data 4.0%, validation 12.0%, "
        "checkpoints 4.0%, test and report 16.0%"
    )


def test_steps_behind_the_checkpoint_of_a_restart_are_repeated(tmp_path: Path, clock) -> None:
    first = Account(tmp_path, step=0, writes=True)
    clock(40)
    first.write(20)  # killed; the newest checkpoint is of step 15
    second = Account(tmp_path, step=15, writes=True)
    clock(10)
    second.write(25, over=True)  # stopped and saved
    third = Account(tmp_path, step=25, writes=True)
    clock(5)
    third.write(30, over=True)
    assert third.end().endswith("; 2 restarts, 10 s of steps repeated")
    saved = json.loads((tmp_path / "account.json").read_text())
    assert saved["total"] == 3 * 5 + 40 + 10 + 5
    assert [each["last"] for each in saved["starts"]] == [20, 25, 30]


def test_steps_that_each_of_two_restarts_made_again_are_repeated_twice(tmp_path: Path, clock) -> None:
    for step, seconds, last in ((0, 100, 100), (50, 10, 60), (40, 30, 70)):
        account = Account(tmp_path, step=step, writes=True)
        clock(seconds)
        account.write(last, over=True)
    # Of the first start 60 steps of a second each, and all of the second.
    assert account.end().endswith("; 2 restarts, 70 s of steps repeated")


def test_other_hosts_write_nothing_and_a_damaged_account_begins_anew(tmp_path: Path, clock) -> None:
    Account(tmp_path, step=0, writes=False).write(3)
    assert not list(tmp_path.iterdir())
    (tmp_path / "account.json").write_text('{"starts": [{"first": 1}]}')
    account = Account(tmp_path, step=4, writes=True)
    account.write(5)
    assert len(json.loads((tmp_path / "account.json").read_text())["starts"]) == 1
