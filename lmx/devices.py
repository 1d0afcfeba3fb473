"""The accelerators that lmx knows: memory, peaks and bandwidths from their makers' data sheets.

Numbers only, of one device. What was measured on one belongs to `experiments/results.md`.
"""

import difflib
import os
import re
from dataclasses import dataclass

# What says the share of a GPU's memory that XLA takes; the second is the older name.
MEMORY_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


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

    @property
    def allotted(self) -> float:
        """Bytes that XLA takes of it: of a GPU's three quarters, unless the environment says otherwise."""
        if not self.kind or self.name.startswith("tpu"):
            return self.memory
        said = next(filter(None, map(os.environ.get, MEMORY_SHARES)), "0.75")
        try:
            return self.memory * float(said)
        except ValueError as error:
            raise ValueError(f"{MEMORY_SHARES[0]} must be a share of the memory, got {said!r:.60}.") from error

    def peak(self, dtype: str) -> float | None:
        """Returns the dense peak in FLOP/s of products in a type, or None where it is not known."""
        return {"bfloat16": self.bfloat16, "float32": self.float32}.get(dtype)


# Between nodes of 8 GPUs: one 400 Gbit/s network port a GPU, as in NVIDIA's DGX H100 and B200; 200 Gbit/s in DGX A100.
# Cards without NVLink are groups of one; what they send goes over PCIe, at one direction's speed.
# Peaks are dense: half of what data sheets give with sparsity, and with float32 sums where they give two.
# float32 on GPUs is TF32, in which XLA multiplies float32 matrices by default; on TPUs it is one pass of bfloat16.
# A TPU's interconnect is that of all its links together, halved for one direction; within a pod there is no other.
DEVICES = {
    "h100": Device(  # H100 SXM5 data sheet; NVLink 900 GB/s both ways
        name="h100",
        kind=r"\bH100(?! (PCIe|NVL|64GB))",
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
        kind=r"\bA100(?!.*(40GB|64GB|PCI))",
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
        kind=r"\bB200\b",
        memory=180e9,
        bfloat16=2250e12,
        float32=1125e12,
        memory_bandwidth=8e12,
        interconnect=900e9,
        group=8,
        between=50e9,
    ),
    "h100-pcie": Device(  # H100 PCIe data sheet
        name="h100-pcie",
        kind=r"\bH100 PCIe",
        memory=80e9,
        bfloat16=756.5e12,
        float32=378e12,
        memory_bandwidth=2e12,
        between=64e9,
    ),
    "h100-nvl": Device(  # H100 NVL data sheet; NVLink joins two, 600 GB/s both ways
        name="h100-nvl",
        kind=r"\bH100 NVL",
        memory=94e9,
        bfloat16=835.5e12,
        float32=417.5e12,
        memory_bandwidth=3.9e12,
        interconnect=300e9,
        group=2,
        between=50e9,
    ),
    "h800": Device(  # H800 SXM5: an H100 with NVLink of 400 GB/s both ways
        name="h800",
        kind=r"\bH800(?! PCIe)",
        memory=80e9,
        bfloat16=989e12,
        float32=494.5e12,
        memory_bandwidth=3.35e12,
        interconnect=200e9,
        group=8,
        between=50e9,
    ),
    "h20-96gb": Device(  # H20 data sheet
        name="h20-96gb",
        kind=r"\bH20$",
        memory=96e9,
        bfloat16=148e12,
        float32=74e12,
        memory_bandwidth=4e12,
        interconnect=450e9,
        group=8,
        between=50e9,
    ),
    "gh200": Device(  # GH200 data sheet; the kind names the host's memory, 480 GB, beside 96 GB of HBM3
        name="gh200",
        kind=r"\bGH200 480GB",
        memory=96e9,
        bfloat16=989e12,
        float32=494.5e12,
        memory_bandwidth=4e12,
        between=50e9,
    ),
    "gh200-144gb": Device(  # GH200 data sheet, with 144 GB of HBM3e
        name="gh200-144gb",
        kind=r"\bGH200 144G",
        memory=144e9,
        bfloat16=989e12,
        float32=494.5e12,
        memory_bandwidth=4.9e12,
        between=50e9,
    ),
    "a100-40gb": Device(  # A100 40GB SXM4 data sheet
        name="a100-40gb",
        kind=r"\bA100-SXM4-40GB",
        memory=40e9,
        bfloat16=312e12,
        float32=156e12,
        memory_bandwidth=1.555e12,
        interconnect=300e9,
        group=8,
        between=25e9,
    ),
    "a100-pcie": Device(  # A100 80GB PCIe data sheet
        name="a100-pcie",
        kind=r"\bA100(?=.*PCI)(?=.*80GB)",
        memory=80e9,
        bfloat16=312e12,
        float32=156e12,
        memory_bandwidth=1.935e12,
        between=32e9,
    ),
    "a100-pcie-40gb": Device(  # A100 40GB PCIe data sheet
        name="a100-pcie-40gb",
        kind=r"\bA100(?=.*PCI)(?=.*40GB)",
        memory=40e9,
        bfloat16=312e12,
        float32=156e12,
        memory_bandwidth=1.555e12,
        between=32e9,
    ),
    "gb200": Device(  # GB200 NVL72 data sheet, one GPU of 72 in a rack
        name="gb200",
        kind=r"\bGB200\b",
        memory=186e9,
        bfloat16=2500e12,
        float32=1250e12,
        memory_bandwidth=8e12,
        interconnect=900e9,
        group=72,
        between=50e9,
    ),
    "l40s": Device(  # L40S data sheet
        name="l40s",
        kind=r"\bL40S",
        memory=48e9,
        bfloat16=362e12,
        float32=183e12,
        memory_bandwidth=864e9,
        between=32e9,
    ),
    "l4": Device(  # L4 data sheet
        name="l4",
        kind=r"\bL4$",
        memory=24e9,
        bfloat16=121e12,
        float32=60e12,
        memory_bandwidth=300e9,
        between=32e9,
    ),
    "a40": Device(  # A40 data sheet
        name="a40",
        kind=r"\bA40$",
        memory=48e9,
        bfloat16=149.7e12,
        float32=74.8e12,
        memory_bandwidth=696e9,
        between=32e9,
    ),
    "a30": Device(  # A30 data sheet
        name="a30",
        kind=r"\bA30$",
        memory=24e9,
        bfloat16=165e12,
        float32=82e12,
        memory_bandwidth=933e9,
        between=32e9,
    ),
    "a10": Device(  # A10 data sheet
        name="a10",
        kind=r"\bA10$",
        memory=24e9,
        bfloat16=125e12,
        float32=62.5e12,
        memory_bandwidth=600e9,
        between=32e9,
    ),
    "rtx-4090": Device(  # Ada architecture paper
        name="rtx-4090",
        kind=r"\bRTX 4090$",
        memory=24e9,
        bfloat16=165.2e12,
        float32=82.6e12,
        memory_bandwidth=1.008e12,
        between=32e9,
    ),
    "rtx-3090": Device(  # GA102 architecture paper
        name="rtx-3090",
        kind=r"\bRTX 3090$",
        memory=24e9,
        bfloat16=71e12,
        float32=35.6e12,
        memory_bandwidth=936e9,
        between=32e9,
    ),
    "tpu-v4": Device(  # cloud.google.com/tpu/docs/v4; 2,400 Gbit/s of interconnect a chip
        name="tpu-v4",
        kind=r"TPU v4$",
        memory=32e9,
        bfloat16=275e12,
        float32=275e12,
        memory_bandwidth=1.2e12,
        interconnect=150e9,
        group=4096,
    ),
    "tpu-v5e": Device(  # cloud.google.com/tpu/docs/v5e; 1,600 Gbit/s of interconnect a chip
        name="tpu-v5e",
        kind=r"TPU v5 ?(lite|e)$",
        memory=16e9,
        bfloat16=197e12,
        float32=197e12,
        memory_bandwidth=819e9,
        interconnect=100e9,
        group=256,
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
    """Returns the device that jax calls by this kind, such as "NVIDIA H100 80GB HBM3", or None.

    A part of one, as NVIDIA's MIG gives it ("NVIDIA A100-SXM4-80GB MIG 3g.40gb"), has not its memory nor its peak.
    """
    if " MIG " in kind:
        return None
    return next((device for device in DEVICES.values() if device.kind and re.search(device.kind, kind)), None)


def describe_precision(
    dtype: str, *, platform: str, compute_capability: str | None = None, asked: str | None = None
) -> str:
    """Returns in words what a model's numbers are computed in: products of float32 matrices are not always float32.

    Args:
        dtype: of the compute.
        platform: "cpu", "gpu" or "tpu".
        compute_capability: of an NVIDIA GPU, such as "8.0"; from there on XLA multiplies in TF32, 10 bits of mantissa.
        asked: what `jax_default_matmul_precision` says.
    """
    parameters = "float32 parameters"
    if dtype != "float32":
        return f"{dtype} compute, {parameters}"
    asked = asked or "default"
    passes = {"default": "one pass", "fastest": "one pass", "bfloat16": "one pass"}
    passes |= {"high": "three passes", "bfloat16_3x": "three passes", "tensorfloat32": "three passes"}
    whole = asked in ("highest", "float32")
    products = ""
    if platform == "tpu":
        products = f"{'six passes' if whole else passes.get(asked, asked)} of bfloat16"
    elif re.fullmatch(r"(8|9|\d\d+)\.\d+", compute_capability or "") and not whole:  # not AMD's, such as "gfx90a"
        products = "TF32" if asked in passes else asked
    if not products:
        return f"float32 compute, {parameters}"
    way_out = "" if whole else " (JAX_DEFAULT_MATMUL_PRECISION=float32 for more)"
    return f"float32 compute with products of matrices in {products}{way_out}, {parameters}"


def peak_flops(kind: str, dtype: str) -> float | None:
    """Returns the dense peak in FLOP/s, for MFU, of what jax calls this kind of device; float32 runs are not rated."""
    known = device_of_kind(kind)
    return known.bfloat16 if known is not None and dtype == "bfloat16" else None
