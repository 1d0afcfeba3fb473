"""The accelerators that lmx knows: memory, peaks and bandwidths from their makers' data sheets.

Numbers only, of one device. What was measured on one belongs to `experiments/results.md`.
"""

import difflib
import os
import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator.

    Attributes:
        kind: a regular expression that finds it in what jax calls a device's kind; "" finds none.
        memory: bytes.
        bfloat16, float32: dense peak in FLOP/s of products of matrices in that type; None where there is no data sheet.
        memory_bandwidth: bytes a second.
        interconnect: bytes a second one device sends to others of its group, where each reaches each.
        group: devices that are joined so.
        between: bytes a second one device sends to other groups.
    """

    name: str
    kind: str
    memory: float
    bfloat16: float | None = None
    float32: float | None = None
    memory_bandwidth: float | None = None
    interconnect: float | None = None
    group: int = 1
    between: float | None = None

    def peak(self, dtype: str) -> float | None:
        """Returns the dense peak in FLOP/s of products in a type, or None where it is not known."""
        return {"bfloat16": self.bfloat16, "float32": self.float32}.get(dtype)


# Between nodes of 8 GPUs: one 400 Gbit/s network port a GPU, as in NVIDIA's DGX H100 and B200; 200 Gbit/s in DGX A100.
# float32 on GPUs is TF32, in which XLA multiplies float32 matrices by default; on TPUs it is one pass of bfloat16.
# A TPU's interconnect is that of all its links together, halved for one direction; within a pod there is no other.
DEVICES = {
    "h100": Device(  # H100 SXM5 data sheet; NVLink 900 GB/s both ways
        name="h100",
        kind=r"\bH100(?! (PCIe|NVL))",
        memory=80e9,
        bfloat16=989e12,
        float32=494.5e12,
        memory_bandwidth=3.35e12,
        interconnect=450e9,
        group=8,
        between=50e9,
    ),
    "h200": Device(  # H200 SXM data sheet
        name="h200",
        kind=r"\bH200(?! NVL)",
        memory=141e9,
        bfloat16=989e12,
        float32=494.5e12,
        memory_bandwidth=4.8e12,
        interconnect=450e9,
        group=8,
        between=50e9,
    ),
    "a100": Device(  # A100 80GB SXM4 data sheet; NVLink 600 GB/s both ways
        name="a100",
        kind=r"\bA100",
        memory=80e9,
        bfloat16=312e12,
        float32=156e12,
        memory_bandwidth=2.04e12,
        interconnect=300e9,
        group=8,
        between=25e9,
    ),
    "b200": Device(  # HGX B200 data sheet; of 192 GB an application gets 180
        name="b200",
        kind=r"\bB200",
        memory=180e9,
        bfloat16=2250e12,
        float32=1125e12,
        memory_bandwidth=8e12,
        interconnect=900e9,
        group=8,
        between=50e9,
    ),
    "tpu-v5p": Device(  # cloud.google.com/tpu/docs/v5p; 4,800 Gbit/s of interconnect a chip
        name="tpu-v5p",
        kind=r"TPU v5p?$",
        memory=95e9,
        bfloat16=459e12,
        float32=459e12,
        memory_bandwidth=2.765e12,
        interconnect=300e9,
        group=8960,
        between=None,
    ),
    "tpu-v6e": Device(  # cloud.google.com/tpu/docs/v6e; 3,584 Gbit/s of interconnect a chip
        name="tpu-v6e",
        kind=r"TPU v6",
        memory=32e9,
        bfloat16=918e12,
        float32=918e12,
        memory_bandwidth=1.64e12,
        interconnect=224e9,
        group=256,
        between=None,
    ),
}


def find_device(name: str) -> Device:
    """Returns the device of a name; "cpu" is this machine, with its memory and no peak.

    Raises:
        ValueError: there is no such device; the message names the nearest.
    """
    if name == "cpu":
        return Device(name="cpu", kind="", memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    if name not in DEVICES:
        choices = [*DEVICES, "cpu"]
        nearest = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0)[0]
        raise ValueError(f"device must be one of {', '.join(choices)}, got {name}. Nearest: {nearest}.")
    return DEVICES[name]


def device_of_kind(kind: str) -> Device | None:
    """Returns the device that jax calls by this kind, such as "NVIDIA H100 80GB HBM3", or None."""
    return next((device for device in DEVICES.values() if device.kind and re.search(device.kind, kind)), None)
