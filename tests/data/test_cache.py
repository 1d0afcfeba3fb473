"""What is kept is found again, or made anew where it must be; nothing half-made is ever taken for whole."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmx.data.cache import MANIFEST, Cache, open_cache, user_cache

FACTS = {"what": "numbers", "upto": 5}


def make(writer) -> dict:
    writer.append("numbers", np.arange(3))
    writer.append("numbers", np.arange(3, 5))
    writer.append("none", np.empty(0, np.int32))
    return {"count": 5}


def never(writer) -> dict:
    raise AssertionError("it is made again")


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, lines: list[str]) -> Cache:
    return Cache(tmp_path / "cache", report=lines.append)


def entry_of(cache: Cache) -> Path:
    (manifest,) = cache.folder.glob(f"*/{MANIFEST}")
    return manifest.parent


@pytest.mark.parametrize("kept", [True, False])
def test_arrays_come_back_mapped(cache: Cache, kept: bool) -> None:
    cache = cache if kept else Cache(None)
    found = cache.keep(FACTS, make, about="a.txt")
    assert found.arrays["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert found.arrays["none"].dtype == np.int32
    assert found.notes == {"count": 5}
    assert isinstance(found.arrays["numbers"].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.arrays["numbers"][0] = 7
    again = cache.keep(FACTS, never if kept else make, about="a.txt")
    assert again.digest == found.digest


def test_other_facts_are_another_entry_and_it_is_said_what_differs(cache: Cache, lines: list[str]) -> None:
    first = cache.keep(FACTS, make, about="a.txt")
    assert lines == []
    other = cache.keep(FACTS | {"upto": 6}, lambda writer: make(writer) | {"other": 1}, about="a.txt")
    assert lines == ["a.txt is encoded anew: upto changed since the last time"]
    assert other.notes["other"] == 1
    cache.keep(FACTS, never, about="a.txt")
    assert first.arrays["numbers"].sum() == 10  # what a run has mapped stays


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_entry_is_made_anew_with_a_line(cache: Cache, lines: list[str], harm: str) -> None:
    cache.keep(FACTS, make, about="a.txt")
    path = entry_of(cache) / "numbers.bin"
    if harm == "cut":
        os.truncate(path, 8)
    elif harm == "changed":
        path.write_bytes(b"x" * path.stat().st_size)
        os.utime(path, ns=(0, 0))
    elif harm == "gone":
        path.unlink()
    else:
        (entry_of(cache) / MANIFEST).write_text("{")
    found = cache.keep(FACTS, make, about="a.txt")
    assert found.arrays["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert "is damaged and made anew" in lines[0]
    lines.clear()
    cache.keep(FACTS, never, about="a.txt")
    assert lines == []


def test_a_copied_cache_is_whole_by_its_checksums(cache: Cache, lines: list[str]) -> None:
    cache.keep(FACTS, make, about="a.txt")
    os.utime(entry_of(cache) / "numbers.bin", ns=(1, 1))
    cache.keep(FACTS, never, about="a.txt")
    assert lines == []


def test_a_maker_that_fails_or_is_killed_leaves_nothing(cache: Cache) -> None:
    def fail(writer) -> dict:
        writer.append("numbers", np.arange(3))
        raise ValueError("line 3 is bad")

    with pytest.raises(ValueError, match="line 3 is bad"):
        cache.keep(FACTS, fail, about="a.txt")
    program = (
        "import sys, os, signal, numpy as np; from pathlib import Path; from lmx.data.cache import Cache\n"
        "def make(writer):\n"
        "    writer.append('numbers', np.arange(3)); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Cache(Path(sys.argv[1])).keep({FACTS!r}, make, about='a.txt')"
    )
    assert subprocess.run([sys.executable, "-c", program, str(cache.folder)]).returncode == -9
    (left,) = cache.folder.glob("*.partial")
    assert cache.keep(FACTS, make, about="a.txt").notes == {"count": 5}
    assert not left.exists()


def test_many_processes_make_an_entry_once(tmp_path: Path) -> None:
    program = (
        "import sys, os, time, numpy as np; from pathlib import Path; from lmx.data.cache import Cache\n"
        "def make(writer):\n"
        "    time.sleep(0.3); writer.append('numbers', np.arange(5)); print('made'); return {}\n"
        f"print(Cache(Path(sys.argv[1]), report=print).keep({FACTS!r}, make, about='a.txt').digest)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split("\n")[:-1] for process in started]
    assert sum("made" in lines for lines in said) == 1
    assert len({lines[-1] for lines in said}) == 1
    assert {line for lines in said for line in lines[:-1]} <= {
        "made",
        "a.txt is encoded by another process, which is waited for",
    }


def test_without_locks_each_makes_it_and_one_stays(cache: Cache, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)

    def slow(writer) -> dict:
        cache.keep(FACTS, make, about="a.txt")  # another one is quicker
        return make(writer)

    assert cache.keep(FACTS, slow, about="a.txt").arrays["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert not list(cache.folder.glob("*.partial"))


def test_a_folder_that_takes_nothing_costs_the_keeping_alone(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache", report=lines.append)
    assert cache.keep(FACTS, make, about="a.txt").arrays["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert lines[0].startswith("a.txt is encoded for this start alone: ")
    assert cache.digest_of_file(tmp_path / "file")


def test_a_file_is_hashed_again_only_if_it_was_touched(cache: Cache, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = cache.digest_of_file(path)
    assert not list((cache.folder / "files").glob("*.json"))  # too new: it may change within one time stamp
    old = time.time_ns() + 10**10
    monkeypatch.setattr("lmx.data.cache.time.time_ns", lambda: old)
    assert cache.digest_of_file(path) == first
    monkeypatch.setattr("lmx.data.cache._digest", lambda _: pytest.fail("the file is read"))
    assert cache.digest_of_file(path) == first
    monkeypatch.undo()
    date = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(date, date))  # the same size and date
    assert cache.digest_of_file(path) != first


def test_the_user_decides_where(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "lmx" / "text"
    assert open_cache("user", report=print).folder == tmp_path / "lmx" / "text"
    assert open_cache("off", report=print).folder is None
    assert open_cache("here", report=print).folder == Path("here")


@pytest.mark.parametrize("kept", [True, False])
def test_a_range_of_a_file_is_told_by_its_bytes_alone(cache: Cache, tmp_path: Path, kept: bool) -> None:
    cache = cache if kept else Cache(None)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("one two three")
    other.write_text("--one two")
    assert cache.digest_of_files([(one, 0, 7)]) == cache.digest_of_files([(other, 2, None)])
    assert cache.digest_of_files([(one, 0, 3), (one, 3, None)]) == cache.digest_of_file(one)
    ranges = [(0, 3), (0, 4), (1, 3), (0, None), (4, None)]
    assert len({cache.digest_of_files([(one, begin, end)]) for begin, end in ranges}) == len(ranges)
    assert cache.digest_of_files([(one, 0, None), (other, 0, None)]) != cache.digest_of_file(one)


def test_parts_of_a_text_are_apart_and_nothing_is_said_where_nobody_asks(cache: Cache, lines: list[str]) -> None:
    for part in (1, 2):
        cache.keep(FACTS | {"part": part}, make, about="a.txt")
    cache.keep(FACTS | {"part": 2, "upto": 7}, make, about="a.txt", says_why=False)
    assert lines == []
    cache.keep(FACTS | {"part": 2, "upto": 8}, make, about="a.txt", doing="learned")
    assert lines == ["a.txt is learned anew: upto changed since the last time"]
    cache.keep(FACTS | {"part": 2, "upto": 9}, make, about="b.txt")
    assert len(lines) == 1  # of another text it is the first


def test_the_users_folder_is_in_the_home_if_there_is_one(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert user_cache() == tmp_path / ".cache" / "lmx" / "text"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert open_cache("user", report=print).folder is None


def test_arrays_have_the_type_of_their_first_values_and_little_end_first(cache: Cache) -> None:
    def mixed(writer) -> dict:
        writer.append("a", np.arange(2, dtype=">i4"))
        writer.append("a", np.arange(2, 4))
        return {}

    found = cache.keep(FACTS, mixed, about="a.txt").arrays["a"]
    assert (found.dtype, found.tolist()) == (np.dtype("<i4"), [0, 1, 2, 3])
