"""Which attention kernel runs where: prints the table of structures, lengths and meshes for a GPU, and what decides.

    python benchmarks/attention_kernels.py [--capability 9.0] [--dtype bfloat16] [--head-width 64]

Needs no GPU: the choice is made while a step is traced. A row's length matters twice: cuDNN's kernel gets odd lengths
padded by one, and XLA's goes through long rows in blocks of queries.
"""

import argparse

import jax
import jax.numpy as jnp

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from lmx.nn.kernels import Accelerator, choose_kernel, queries_per_block  # noqa: E402
from lmx.nn.masks import Sees  # noqa: E402
from lmx.sharding.mesh import MeshConfig, make_mesh  # noqa: E402
from lmx.sharding.step import use_mesh  # noqa: E402

LENGTHS = jax.ShapeDtypeStruct((8,), jnp.int32)
SEGMENTS = jax.ShapeDtypeStruct((8, 64), jnp.int32)
STRUCTURES = {
    "padded (encoder, memory)": Sees(key_lengths=LENGTHS),
    "causal (decoder)": Sees(causal=True),
    "causal with a window": Sees(causal=True, window=64),
    "packed": Sees(segments=(SEGMENTS, SEGMENTS)),
    "packed and causal": Sees(causal=True, segments=(SEGMENTS, SEGMENTS)),
    "window both ways": Sees(window=64),
}
MESHES = {
    "one device": {},
    "data=8": {"data": 8},
    "fsdp=8": {"fsdp": 8},
    "tensor=8": {"tensor": 8},
    "sequence=8": {"sequence": 8},
}


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=float, default=9.0, help="CUDA compute capability of the GPU")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--head-width", type=int, default=64)
    options = parser.parse_args()
    gpu = Accelerator("cuda", options.capability)
    lengths = (64, 65, 1024, 4096, 16384)
    print(f"| structure | mesh | {' | '.join(map(str, lengths))} |")
    print("|---|---|" + "---|" * len(lengths))
    for name, sees in STRUCTURES.items():
        for place, sizes in MESHES.items():
            size = max([1, *sizes.values()])
            with use_mesh(make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[:size])):
                choice = choose_kernel("auto", sees, dtype=options.dtype, head_width=options.head_width, on=gpu)
            split = sizes.get("sequence", 1)
            cells = []
            for length in lengths:
                if choice.name == "cudnn":
                    cells.append("cuDNN" + ", one position added" * (length % 2))
                    continue
                block = queries_per_block(length // split, length)
                cells.append(f"XLA: {choice.reason}" + (f"; {block} queries at a time" if block else ""))
            print(f"| {name} | {place} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
