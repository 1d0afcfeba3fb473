"""What every test stands on: annotations that are checked, eight virtual devices, and how and where programs compile.

Compiling takes most of the tests' time. It goes without LLVM's optimisations and by the lighter of XLA's ways, which
small programs do not repay, but for tests that are marked `optimised`; and what one test has compiled, the other
processes, the commands that tests start and the next run of the tests load. It lies in pytest's cache: nothing is left
in the user's folder, and `make clean` removes it.
"""

import atexit
import contextlib
import functools
import gc
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Tests run on the CPU, the commands they start too; `JAX_PLATFORMS=cuda make test` runs them elsewhere. Set before jax
# is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# `JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` optimises everywhere.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Else the key of a program holds the path of the folder that it is kept in, and that is another in each run.
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
# Commands that tests start get it too.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lmx-tests-")
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax
import pytest
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

# Executes every annotation in lmx: shapes by jaxtyping, types by beartype. Comes before lmx is first imported.
install_import_hook("lmx", "beartype.beartype")

# Collecting tests, with all that they import, leaves next to no garbage, and looking for it took a third of the time.
gc.disable()

# A test can build a mesh; what does not ask for one runs on the first device, about 5% slower than with one device.
# Set here and not in XLA_FLAGS, which the commands that tests start would inherit.
jax.config.update("jax_num_cpu_devices", 8)

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs where lmx looks for a user's."""
    from lmx.compilation import keep_programs  # behind the hook

    home = Path(os.environ["XDG_CACHE_HOME"], "lmx")
    home.mkdir()
    if hasattr(config, "cache"):  # not with -p no:cacheprovider
        (home / "compiled").symlink_to(config.cache.mkdir("compiled"))
    keep_programs("user", directory=home, writes=not hasattr(config, "workerinput"), report=print)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    KEPT.update((name, getattr(jax.config, name)) for name in KEPT)
    LIGHT.update(known_options())
    compiler.get_compile_options = functools.partial(_lightly, compiler.get_compile_options)


def pytest_collection_finish() -> None:
    """Looks for garbage again, now and then, among what tests make."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
FLAGS = os.environ.get("XLA_FLAGS", "")
# How XLA comes from operations to machine code where it does not optimise: by its older emitters and all in one piece,
# which for a training step takes a fifth of the work.
LIGHT: dict[str, bool | int] = {}
# What a run that a test makes in this process changes, and the next test finds again as it was.
KEPT = dict.fromkeys(("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"))


def known_options() -> dict[str, bool | int]:
    """Returns the options for light compiling that this version of XLA has."""
    found = {}
    for name, value in {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            found[name] = value
    return found


def _lightly(options: Callable[..., object], *arguments, env_options_overrides=None, **settings) -> object:
    """Makes the options of a program as jax does, with those for light compiling where nothing is optimised.

    A program with options of its own keeps to them: light compiling writes no dump of the partitioned program.
    """
    is_light = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and not env_options_overrides
    return options(*arguments, env_options_overrides=LIGHT if is_light else env_options_overrides, **settings)


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a module
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Optimises the programs of the tests that ask for it, and of the commands they start."""
    wanted = "0" if item.get_closest_marker("optimised") else QUICK
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != wanted:
        jax.clear_caches()  # what is compiled already is compiled the other way
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = wanted
    # Of the commands: XLA has read those of this process when pytest was configured.
    light = [f"--{name}={str(value).lower()}" for name, value in LIGHT.items()] if wanted != "0" else []
    os.environ["XLA_FLAGS"] = " ".join([FLAGS, *light]).strip()
    jax.config.update("jax_disable_most_optimizations", wanted != "0")
    if jax.config.jax_compilation_cache_dir != KEPT["jax_compilation_cache_dir"]:
        compilation_cache.reset_cache()  # jax stays with the folder that it has opened
    for name, value in KEPT.items():
        jax.config.update(name, value)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes by its argument: compressed bytes hold the time, and all processes must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def lmx(monkeypatch, capsys):
    """Runs a command and returns its lines and what it says."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings

    from lmx.cli import main  # behind the hook

    def command(*arguments: str | Path, given: bytes = b"") -> tuple[list[str], str]:
        monkeypatch.setattr(sys, "argv", ["lmx", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        main()
        printed = capsys.readouterr()
        return printed.out.split("\n")[:-1], printed.err

    return command
