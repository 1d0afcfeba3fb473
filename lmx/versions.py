"""The versions and the machine that a result depends on."""

import contextlib
import importlib.metadata
import platform

import jax


def versions(*, machine: bool = True) -> dict[str, str]:
    """Returns the versions that a result depends on, and the machine, which may differ between hosts."""
    packages = ("lmx", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu")
    known = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    known["python"] = platform.python_version()
    if not machine:
        return known
    device = jax.devices()[0]
    return {**known, "platform": platform.platform(), "device": f"{device.device_kind} x {jax.device_count()}"}
