"""One process at a time writes into a run's directory; who was killed is no obstacle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmx import lock
from lmx.lock import NAME, release_lock, take_lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from lmx.lock import take_lock
take_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds the lock for some seconds."""
    processes = []

    def start(seconds: float = 60.0) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_told_who_trains(holder, tmp_path):
    process = holder()
    message = rf"another process trains this run \(host \S+, process {process.pid}\)"
    with pytest.raises(ValueError, match=message):
        take_lock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["process"] == process.pid


def test_a_killed_holder_is_no_obstacle(holder, tmp_path):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / NAME).is_file()
    take_lock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    release_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_leaves_no_lock(holder, tmp_path):
    holder(0.0).wait()
    assert list(tmp_path.iterdir()) == []


def test_a_process_holds_its_own_lock_again(tmp_path):
    take_lock(tmp_path)
    take_lock(tmp_path)
    release_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def write_lock(folder: Path, **changes) -> Path:
    path = folder / NAME
    path.write_text(json.dumps({**lock._myself(), **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("changes", [{"process": 2**22 + 1}, {"began": "1"}])
def test_a_number_that_another_process_has_now_is_not_the_holder(changes, tmp_path):
    write_lock(tmp_path, **changes)
    take_lock(tmp_path, report=pytest.fail)
    assert json.loads((tmp_path / NAME).read_text()) == {**lock._myself(), "since": pytest.approx(time.time(), abs=60)}
    release_lock(tmp_path)


@pytest.mark.parametrize("obstacle", ["of another user", "of an unknown age"])
def test_a_process_of_this_machine_that_lives_holds_its_lock(obstacle, tmp_path, monkeypatch):
    write_lock(tmp_path, host="another name", **({"began": None} if obstacle == "of an unknown age" else {}))

    def refuse(process: int, number: int) -> None:
        assert (process, number) == (os.getpid(), 0)
        raise PermissionError

    if obstacle == "of another user":
        monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(ValueError, match="another process trains this run"):
        take_lock(tmp_path, report=pytest.fail)


@pytest.mark.parametrize("after", [0.0, 0.2])
def test_a_lock_that_goes_while_it_is_watched_is_taken_at_once(after, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    path, lines = write_lock(tmp_path, machine="another", host="far", process=12), []

    def report(line: str) -> None:
        lines.append(line)
        if after:
            threading.Timer(after, path.unlink).start()
        else:
            path.unlink()

    began = time.monotonic()
    take_lock(tmp_path, report=report)
    assert time.monotonic() - began < 20
    assert lines == [f"{path} is of host far, process 12: watching for 45 s whether it still trains"]
    release_lock(tmp_path)


def test_a_lock_that_another_has_taken_meanwhile_is_put_back(tmp_path):
    path = write_lock(tmp_path, machine="another")
    lock._remove(path, {"host": "of before"})
    assert json.loads(path.read_text())["machine"] == "another"
    lock._remove(path, lock._read(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", '"x"', None])
def test_a_lock_of_another_machine_is_watched(text, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    path = write_lock(tmp_path, machine="another", host="far")
    if text is not None:  # of a process that was killed while it wrote it
        path.write_text(text)
    lines, ended = [], threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            os.utime(path)

    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(ValueError, match=r"another process trains this run \(host (far|unknown), process"):
            take_lock(tmp_path, report=lines.append)
    finally:
        ended.set()
        other.join()
    assert len(lines) == 1
    take_lock(tmp_path, report=lines.append)
    assert json.loads(path.read_text())["host"] == lock._myself()["host"]
    release_lock(tmp_path)


def test_a_held_lock_shows_that_its_holder_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "_beating", [])
    take_lock(tmp_path)
    os.utime(tmp_path / NAME, (1, 1))
    ends = time.monotonic() + 20
    while (tmp_path / NAME).stat().st_mtime == 1 and time.monotonic() < ends:
        time.sleep(0.05)
    assert (tmp_path / NAME).stat().st_mtime > 1
    release_lock(tmp_path)


def test_a_lock_that_was_taken_over_is_not_removed(tmp_path):
    take_lock(tmp_path)
    path = write_lock(tmp_path, machine="another")
    release_lock(tmp_path)
    assert path.is_file()


FORK = """
import os, sys
from pathlib import Path
from lmx import lock
folder = Path(sys.argv[1])
lock.take_lock(folder)
if os.fork() == 0:
    lock.release_lock(folder)
    os._exit(0)
os.wait()
print((folder / lock.NAME).exists())
lock.release_lock(folder)
print((folder / lock.NAME).exists())
"""


def test_a_forked_child_does_not_give_back_the_lock(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_process_that_has_ended_and_was_not_asked_for_is_no_holder(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    ends = time.monotonic() + 60
    while not lock._is_zombie(child.pid) and time.monotonic() < ends:
        time.sleep(0.01)
    write_lock(tmp_path, process=child.pid, began=lock._began(child.pid))
    take_lock(tmp_path, report=pytest.fail)
    release_lock(tmp_path)
    child.wait()
    assert not lock._is_zombie(os.getpid())


def test_processes_of_one_number_are_told_apart_by_when_they_began():
    began = lock._began(os.getpid())
    assert began == lock._began(os.getpid())
    assert began is not None
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        assert float(lock._began(child.pid)) > float(began)
    finally:
        child.kill()
        child.wait()
    assert lock._began(2**22 + 1) is None
    assert json.loads(json.dumps(lock._myself()))["process"] == os.getpid()
