import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lmx.compilation import LIMIT, keep_programs, machine_name, tidy, user_folder

OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def compiled_elsewhere():
    """Takes back where compiled programs are kept."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keep(tmp_path: Path, where="user", *, writes: bool = True) -> tuple[str, list[str]]:
    lines = []
    return keep_programs(where, directory=tmp_path / "run", writes=writes, report=lines.append), lines


def test_runs_of_a_user_share_a_folder_that_is_theirs_alone(tmp_path, home):
    folder, lines = keep(tmp_path)
    assert folder == str(home / "lmx" / "compiled" / machine_name())
    assert jax.config.jax_compilation_cache_dir == folder
    assert Path(folder).stat().st_mode & 0o077 == 0
    assert not lines
    assert keep_programs("user", directory=tmp_path / "another", writes=True, report=lines.append) == folder


def test_the_folder_follows_the_habits_of_the_platform(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder() == tmp_path / ".cache" / "lmx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_folder() == tmp_path / ".cache" / "lmx"
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert user_folder() == Path("/fast/lmx")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert user_folder() == tmp_path / "Library" / "Caches" / "lmx"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert user_folder() == Path("/local/lmx/Cache")


def test_a_machine_of_other_instructions_has_a_folder_of_its_own(monkeypatch):
    here = machine_name()
    assert here == machine_name()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "model name : Another\nflags : sse2\n\n")
    assert machine_name() != here


@pytest.mark.parametrize("obstacle", ["a file", "no home", "others may write", "a group may write"])
def test_a_folder_that_cannot_be_used_is_no_obstacle(tmp_path, home, monkeypatch, obstacle):
    if obstacle == "a file":
        home.write_text("here first")
    elif obstacle == "no home":

        def unknown() -> Path:
            raise RuntimeError("could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", unknown)
    else:
        folder = home / "lmx" / "compiled" / machine_name()
        folder.mkdir(parents=True)
        folder.chmod(0o777 if obstacle == "others may write" else 0o770)
    folder, lines = keep(tmp_path)
    assert folder == str(tmp_path / "run" / "compiled")
    assert len(lines) == 1
    assert lines[0].startswith("compiled programs are kept with the run, not shared: ")


def test_processes_that_train_together_take_the_folder_all_of_them_see(tmp_path, home, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert keep(tmp_path, writes=False) == (str(tmp_path / "run" / "compiled"), [])
    assert not home.exists()
    assert not (tmp_path / "run").exists()  # which the one that writes makes
    keep(tmp_path)
    assert (tmp_path / "run" / "compiled").is_dir()


def test_who_has_named_a_folder_keeps_it(tmp_path, home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "named"))
    assert keep(tmp_path) == (f"{tmp_path / 'named'} (JAX_COMPILATION_CACHE_DIR)", [])
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "named")

    # It is the user's: who asks for the run's has that.
    assert keep(tmp_path, "run") == (str(tmp_path / "run" / "compiled"), [])


@pytest.mark.parametrize("named", [None, "3"])
def test_programs_that_half_a_second_compiles_are_kept_or_as_the_user_says(named, tmp_path, home, monkeypatch):
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    if named is not None:
        monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", named)
    keep(tmp_path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == (0.5 if named is None else 3.0)


def test_off_keeps_none(tmp_path, home):
    keep(tmp_path)
    assert keep(tmp_path, "off") == ("off", [])
    assert jax.config.jax_compilation_cache_dir is None


def program(folder: Path, name: str, *, size: int = 1000, age: float = 100.0, cut: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-cache"
    whole = zlib.compress(np.random.default_rng(0).bytes(size), level=0)
    path.write_bytes(whole[: len(whole) - cut])
    set_age(path, age)
    return path


def set_age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def names(folder: Path) -> set[str]:
    return {path.name.removesuffix("-cache") for path in folder.glob("*-cache")}


def test_what_was_not_written_to_the_end_is_removed_but_not_what_is_being_written(tmp_path):
    program(tmp_path, "whole")
    program(tmp_path, "torn", cut=3)
    program(tmp_path, "empty", size=0, cut=100)
    program(tmp_path, "being-written", cut=3, age=1)
    damaged = program(tmp_path, "damaged")
    damaged.write_bytes(b"\x78\x01" + bytes([7]) * 99)
    other = program(tmp_path, "of another compressor")
    other.write_bytes(b"\x28\xb5\x2f\xfd")
    for path in (damaged, other):
        set_age(path, 100)
    tidy(tmp_path)
    assert names(tmp_path) == {"whole", "being-written", "of another compressor"}
    other.unlink()
    set_age(tmp_path / "being-written-cache", 21)  # its process was killed after all
    set_age(tmp_path / ".checked", 20)
    tidy(tmp_path)
    assert names(tmp_path) == {"whole"}


def test_a_whole_program_is_read_once(tmp_path, monkeypatch):
    program(tmp_path, "whole")
    tidy(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
    tidy(tmp_path)
    assert names(tmp_path) == {"whole"}


def test_the_folder_does_not_grow_beyond_its_limit(tmp_path):
    for age in (400, 300, 200, 100):
        program(tmp_path, f"{age}", age=age)
    used = tmp_path / "400-cache"
    os.utime(used, (time.time(), used.stat().st_mtime))  # read again, not written
    tidy(tmp_path, limit=2 * used.stat().st_size)
    assert names(tmp_path) == {"400", "100"}
    for age in (300, 200):
        size = program(tmp_path / "other", f"{age}", age=age).stat().st_size
    tidy(tmp_path / "other", limit=2 * size - 1)
    assert names(tmp_path / "other") == {"200"}
    assert LIMIT == 2**31


TRAIN = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from lmx.compilation import keep_programs

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
print(keep_programs("user", directory=Path("run"), writes=True, report=print))

@jax.jit
def step(weights, key):
    def loss(weights):
        hidden = jnp.tanh(jax.random.normal(key, (24, 16)) @ weights)
        return jax.nn.logsumexp(hidden @ weights.T, -1).sum()
    return weights - 0.01 * jax.grad(loss)(weights)

weights = jnp.eye(16, 10)
for number in range(5):
    weights = step(weights, jax.random.key(number))
print(events.count("cache_hits"), events.count("cache_misses"), jax.device_get(weights).tobytes().hex())
"""


def start_training(folder: Path, *options: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder), "XLA_FLAGS": ""}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # who has set it has chosen
    command = [sys.executable, *options, "-c", TRAIN]
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=root
    )


def end_training(process: subprocess.Popen) -> tuple[int, int, str]:
    """Returns how many programs were loaded and compiled, and the trained weights."""
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "SIGILL" not in errors  # XLA's word for a program of another processor
    hits, misses, bits = printed.splitlines()[-1].split()
    return int(hits), int(misses), bits


def test_the_next_process_loads_what_this_one_compiled_and_trains_the_same(tmp_path):
    hits, compiled, cold = end_training(start_training(tmp_path, "-W", "error"))
    assert hits == 0
    assert compiled > 0
    assert end_training(start_training(tmp_path, "-W", "error")) == (compiled, 0, cold)


@pytest.mark.slow
def test_processes_that_start_together_share_the_folder(tmp_path):
    together = [start_training(tmp_path) for _ in range(2)]
    (*_, one), (*_, another) = [end_training(process) for process in together]
    assert one == another
    hits, misses, later = end_training(start_training(tmp_path, "-W", "error"))
    assert hits > 0
    assert misses == 0
    assert later == one
