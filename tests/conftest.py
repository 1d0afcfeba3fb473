"""What every test stands on: annotations that are checked, eight virtual devices, and a cache folder of their own.

What a test compiles, the runs of other tests may load, but nothing is left in the user's folder.
"""

import atexit
import os
import shutil
import tempfile

# Tests run on the CPU, the commands they start too; `JAX_PLATFORMS=cuda make test` runs them elsewhere. Set before jax
# is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Commands that tests start get it too.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lmx-tests-")
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax
from jaxtyping import install_import_hook

# Executes every annotation in lmx: shapes by jaxtyping, types by beartype. Comes before lmx is first imported.
install_import_hook("lmx", "beartype.beartype")

# A test can build a mesh; what does not ask for one runs on the first device, about 5% slower than with one device.
# Set here and not in XLA_FLAGS, which the commands that tests start would inherit.
jax.config.update("jax_num_cpu_devices", 8)

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes by its argument: compressed bytes hold the time, and all processes must agree on names."""
    return argname if isinstance(val, bytes) else None
