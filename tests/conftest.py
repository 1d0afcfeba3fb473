"""What every test stands on: annotations that are checked, eight virtual devices, and how and where programs compile.

Compiling takes most of the tests' time. It goes without LLVM's optimisations, which small programs do not repay, but
for tests that are marked `optimised`; and what one test has compiled, the other processes, the commands that tests
start and the next run of the tests load. It lies in pytest's cache: nothing is left in the user's folder, and
`make clean` removes it.
"""

import atexit
import os
import shutil
import tempfile
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
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

# Executes every annotation in lmx: shapes by jaxtyping, types by beartype. Comes before lmx is first imported.
install_import_hook("lmx", "beartype.beartype")

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


QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
# What a run that a test makes in this process changes, and the next test finds again as it was.
KEPT = dict.fromkeys(("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"))


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a module
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Optimises the programs of the tests that ask for it, and of the commands they start."""
    wanted = "0" if item.get_closest_marker("optimised") else QUICK
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != wanted:
        jax.clear_caches()  # what is compiled already is compiled the other way
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = wanted
    jax.config.update("jax_disable_most_optimizations", wanted != "0")
    if jax.config.jax_compilation_cache_dir != KEPT["jax_compilation_cache_dir"]:
        compilation_cache.reset_cache()  # jax stays with the folder that it has opened
    for name, value in KEPT.items():
        jax.config.update(name, value)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes by its argument: compressed bytes hold the time, and all processes must agree on names."""
    return argname if isinstance(val, bytes) else None
