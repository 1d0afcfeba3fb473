"""The versions and the machine that a result depends on."""

import contextlib
import importlib.metadata
import platform

import jax


def versions(*, machine: bool = True) -> dict[str, str]:
    """Returns the versions that a result depends on, and the machine, which may differ between hosts."""
    packages = ("lmx", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu")
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["python"] = platform.python_version()
    if not machine:
        return found
    device = jax.devices()[0]
    return {**found, "platform": platform.platform(), "device": f"{device.device_kind} x {jax.device_count()}"}
