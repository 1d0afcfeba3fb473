"""What every test stands on: annotations that are checked, and eight virtual devices.

Compiled programs are not kept between runs: XLA's CPU backend rejects many of them when they are read back.
"""

import atexit
import os
import shutil
import tempfile

# What is kept for the user's next start is kept for the tests alone, in the commands they start too.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lmx-tests-")

# Tests run on the CPU, the commands they start too; `JAX_PLATFORMS=cuda make test` runs them elsewhere. Set before jax
# is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# Executes every annotation in lmx: shapes by jaxtyping, types by beartype. Comes before lmx is first imported.
install_import_hook("lmx", "beartype.beartype")

# A test can build a mesh; what does not ask for one runs on the first device, about 5% slower than with one device.
# Set here and not in XLA_FLAGS, which the commands that tests start would inherit.
jax.config.update("jax_num_cpu_devices", 8)
