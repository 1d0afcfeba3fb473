"""What a training step communicates on each kind of mesh, beside the least possible.

    python benchmarks/communication.py
    python benchmarks/communication.py --meshes fsdp=8 --dtype float32
    python benchmarks/communication.py --meshes data=8 --largest 20     names the operations that send most
    python benchmarks/communication.py --models decoder --meshes fsdp=8 --vocab-size 131072 [--whole-tables]

The step is partitioned by XLA for virtual CPU devices and its collectives are counted in the program right after
partitioning, in compute precision; nothing runs. For each mesh three counts of the bytes that one device sends:

* raw: as the program stands;
* counted: an all-reduce of which only slices are used counts as a reduce-scatter, which accelerators make of it;
* merged: all-reduces that are only added up count as one, too.

Least: for fsdp two all-gathers and one reduce-scatter of the parameters' bytes in compute precision times (n-1)/n, for
data one all-reduce, for tensor two all-reduces a block each way. The last column is counted/least.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lmx import losses, optimization
from lmx.collectives import read_collectives
from lmx.definition import define
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.plan.command import use_virtual_devices
from lmx.plan.communication import summarize_communication
from lmx.plan.figures import Job
from lmx.plan.step import program_of
from lmx.plan.tables import communication_table
from lmx.plan.working import fullest_moment
from lmx.sharding import tables
from lmx.sharding.mesh import MeshConfig
from lmx.sharding.rules import MESH_AXES
from lmx.training import Params

MESHES = ("fsdp=8", "data=8", "tensor=8", "data=2,fsdp=2,tensor=2")


def seq2seq(mesh: MeshConfig, dtype: Any, *, rows: int, length: int, words: int) -> Job:
    """Returns the step of Vaswani's base model, pre-norm, with a joint vocabulary."""
    config = Seq2SeqConfig(source_vocab_size=words, target_vocab_size=words, norm_position="pre", dtype=dtype)

    def states(network: Seq2Seq, batch: Any, key: Any) -> jax.Array:
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        memory, _ = network.encode(batch["source"], key=encoder_key)
        return network.decode(memory, batch["source"], batch["input"], key=decoder_key)[0]

    sides = ("source", "input", "target")
    return job_of(
        lambda rngs: Seq2Seq(config, rngs=rngs), states, sides, mesh, dtype, shape=(1, rows, length), words=words
    )


def decoder(mesh: MeshConfig, dtype: Any, *, rows: int, length: int, words: int) -> Job:
    """Returns the step of a small Llama: 8 layers of width 1024, grouped heads, two vocabulary tables."""
    config = DecoderConfig(
        vocab_size=words,
        width=1024,
        feedforward_width=2816,
        num_heads=16,
        num_kv_heads=8,
        num_layers=8,
        dtype=dtype,
    )

    def states(network: Decoder, batch: Any, key: Any) -> jax.Array:
        return network(batch["input"], key=key)[0]

    sides = ("input", "target")
    return job_of(
        lambda rngs: Decoder(config, rngs=rngs), states, sides, mesh, dtype, shape=(1, rows, length), words=words
    )


def job_of(
    build: Callable,
    states: Callable,
    sides: Sequence[str],
    mesh: MeshConfig,
    dtype: Any,
    *,
    shape: tuple[int, ...],
    words: int,
) -> Job:
    """Returns a job whose loss is the cross entropy of a model's states with label smoothing, trained by Adam."""
    definition = define(build)

    def loss(params: Params, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = definition.merge(params)
        found, target = states(network, batch, key), batch["target"]
        table = network.output_table()
        return losses.cross_entropy(found, table, target, target != 0, vocab_size=words, label_smoothing=0.1)._asdict()

    optimizer = optimization.adam(optimization.constant(1e-3))
    return Job(build=build, loss=loss, optimizer=optimizer, mesh=mesh, batch=dict.fromkeys(sides, shape), dtype=dtype)


MODELS = {"seq2seq": seq2seq, "decoder": decoder}


def read_mesh(text: str) -> MeshConfig:
    """Returns the mesh that "data=2,fsdp=4" names.

    Raises:
        ValueError: a part is not an axis and a size.
    """
    sizes = {"data": 1}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in MESH_AXES or not size.isdigit():
            raise ValueError(f"a mesh must be like data=2,fsdp=4 with axes {', '.join(MESH_AXES)}, got {text}.")
        sizes[name] = int(size)
    return MeshConfig(**sizes)


def mesh_sizes(mesh: MeshConfig) -> dict[str, int]:
    """Returns the sizes by their names, in the order of the mesh."""
    return {name: getattr(mesh, name) for name in MESH_AXES}


def main() -> None:
    """Prints the table of each mesh, then one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--meshes", nargs="+", default=MESHES)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--whole-tables", action="store_true", help="gathers tables whole, however large they are")
    parser.add_argument("--largest", type=int, default=0)
    options = parser.parse_args()
    if options.whole_tables:
        tables.WHOLE_TABLE_BYTES = 2**60
    meshes = {text: read_mesh(text) for text in options.meshes}
    use_virtual_devices(max(math.prod(mesh_sizes(mesh).values()) for mesh in meshes.values()))
    lines = []
    for model, (text, mesh) in itertools.product(options.models, meshes.items()):
        job = MODELS[model](mesh, options.dtype, rows=options.rows, length=options.length, words=options.vocab_size)
        program = program_of(job)
        collectives = read_collectives(program, mesh_sizes(mesh))
        found = summarize_communication(job, collectives)
        print(f"{model}, {options.dtype}, batch {options.rows}x{options.length}, mesh {text}")
        print(
            f"beside the state, a device holds {fullest_moment(program).size / 2**20:,.0f} MiB at the fullest moment\n"
        )
        print(communication_table(found) + "\n", flush=True)
        for one in sorted(collectives, key=lambda one: -one.counted)[: options.largest]:
            mark = " (sliced)" if one.sliced else ""
            print(f"  {one.counted / 1e6:10.2f} MB  {one.times:>3} x {one.kind}{mark} of {one.shape}  {one.scope}")
        if not found.least_total:
            lines.append(f"  {model:<8} {text:<24} nothing is sent")
            continue
        figures = (found.raw, found.counted, found.merged)
        raw, counted, merged = (f"{figure / found.least_total:.2f}" for figure in figures)
        lines.append(f"  {model:<8} {text:<24} raw {raw}  counted {counted}  merged {merged}")
    print("bytes sent / least possible (wanted: counted at most 1.10)")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
