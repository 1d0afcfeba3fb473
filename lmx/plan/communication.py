"""What a step sends between devices, beside the least possible."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmx.collectives import Collective, read_collectives
from lmx.definition import param_axes
from lmx.plan.figures import Communication, Job, Traffic
from lmx.plan.step import mesh_of, program_of, state_of
from lmx.sharding.placement import token_shards
from lmx.sharding.step import use_mesh
from lmx.sharding.tables import stays_in_pieces


def measure_communication(job: Job, *, group: int = 8, program: str | None = None) -> Communication:
    """Partitions the training step and counts what it communicates, beside the least possible.

    Args:
        group: devices joined closely; what goes beyond them counts as far.
        program: what `program_of` gives, if it is there already.
    """
    mesh = mesh_of(job)
    found = [] if mesh.size == 1 else read_collectives(program or program_of(job), dict(mesh.shape))
    return summarize_communication(job, found, group=group)


def summarize_communication(job: Job, found: Sequence[Collective], *, group: int = 8) -> Communication:
    """Sums the collectives of a job's step by kind and axes, and puts the least possible beside them."""
    rows: dict[tuple[str, tuple[str, ...]], list[Collective]] = defaultdict(list)
    for one in found:
        rows[f"{one.kind}, only sliced" if one.sliced else one.kind, one.axes].append(one)
    traffic = [
        Traffic(
            kind=kind,
            axes=axes,
            times=sum(one.times for one in ones),
            raw=sum((one.raw for one in ones), 0.0),
            counted=sum((one.counted for one in ones), 0.0),
            merged=sum((one.merged for one in ones), 0.0),
        )
        for (kind, axes), ones in rows.items()
    ]
    return Communication(
        traffic=tuple(sorted(traffic, key=lambda row: (row.axes, -row.counted))),
        least=tuple(_least(job)),
        known=all(one.known for one in found),
        far=sum((one.counted for one in found if one.reach > group), 0.0),
        widened=sum((one.counted / 2 for one in found if _is_widened(job, one)), 0.0),
    )


def _is_widened(job: Job, one: Collective) -> bool:
    """Tells whether it sums in float32 what was computed in a type of half the size: gradients, by the job's field."""
    is_sum = one.kind in ("all-reduce", "reduce-scatter") and one.shape.lstrip("(").startswith("f32[")
    return is_sum and job.gradient_sum == "float32" and jnp.dtype(job.dtype).itemsize == 2


def _least(job: Job) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yields the least that must be sent: (kind, axes, bytes).

    All is in compute precision, except gradients, which are in the type that the job sums them in. Parameters split
    over fsdp are gathered twice and their gradients reduce-scattered, in each micro-batch; what then is left of the
    gradients is reduced over data (and sequence) once a step. Over tensor, activations are reduced for each matrix
    that contracts a split axis, once forward and once backward: twice a block each way. A vocabulary split over
    tensor takes one for the words' vectors and one for the gradient of the states; a memory that decoders attend to
    takes one for its gradient, which all layers share. Tables that stay in pieces are dealt out by words once a
    micro-batch, and their gradients go back; the states that words are predicted from are gathered, and their gradients
    reduce-scattered; vectors that were looked up go to whom they belong, and their gradients back.
    """
    mesh = mesh_of(job)
    state, shardings = state_of(job, mesh)
    sizes = dict(mesh.shape)
    itemsize = jnp.dtype(job.dtype).itemsize
    widened = 4 / itemsize if job.gradient_sum == "float32" else 1.0
    model = nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))
    axes_of = jax.tree.leaves(param_axes(model), is_leaf=lambda leaf: isinstance(leaf, tuple))
    fsdp_bytes = rest_bytes = whole_bytes = reduced = 0.0
    tables: list[int] = []  # widths of those split over tensor
    pieces: list[tuple[float, int]] = []  # bytes on a device and width of those that stay in pieces
    micro_batches, batch_rows, *length = next(iter(job.batch.values()))
    local_tokens = micro_batches * batch_rows * math.prod(length) / token_shards(sizes, rules=job.rules)
    for leaf, sharding, axes in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(shardings.params), axes_of, strict=True
    ):
        spec = [names if isinstance(names, tuple) else (names,) for names in sharding.spec]
        used = {name for names in spec for name in names}
        local = math.prod(sharding.shard_shape(leaf.shape)) * itemsize
        with use_mesh(mesh, rules=job.rules):
            in_pieces = axes == ("vocab", "embed") and stays_in_pieces(leaf.shape, dtype=job.dtype)
        if in_pieces:
            pieces.append((local, leaf.shape[-1]))
            rest_bytes += local
        elif "fsdp" in used:
            fsdp_bytes += local * sizes["fsdp"]
            rest_bytes += local
        else:
            whole_bytes += local
        if "tensor" in used and axes[-1] == "embed" and "tensor" not in spec[-1]:
            copies = leaf.shape[axes.index("layers")] if "layers" in axes else 1
            if "vocab" in axes:
                tables.append(leaf.shape[-1])
            else:
                reduced += 2 * copies * local_tokens * leaf.shape[-1] * itemsize
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    decodes = any("memory_attention" in path for path in paths)
    if tables and decodes:
        reduced += local_tokens * tables[0] * itemsize  # the memory's gradient, for all layers together
    if tables:
        reduced += max(2, len(tables)) * local_tokens * tables[0] * itemsize

    def share(names: Sequence[str]) -> float:
        number = math.prod(sizes[name] for name in names)
        return (number - 1) / number

    if pieces:
        moved, width = pieces[-1]
        states = local_tokens * width * itemsize
        looked_up = (2 if decodes else 1) * states
        yield "all-to-all", ("fsdp",), 2 * share(["fsdp"]) * (micro_batches * moved + looked_up)
        yield "all-gather", ("fsdp",), share(["fsdp"]) * sizes["fsdp"] * states
        yield "reduce-scatter", ("fsdp",), widened * share(["fsdp"]) * sizes["fsdp"] * states
    if sizes["fsdp"] > 1:
        yield "all-gather", ("fsdp",), 2 * micro_batches * share(["fsdp"]) * fsdp_bytes
        yield "reduce-scatter", ("fsdp",), widened * micro_batches * share(["fsdp"]) * fsdp_bytes
    copies_over = tuple(name for name in ("data", "sequence") if sizes[name] > 1)
    if copies_over and rest_bytes:
        yield "all-reduce", copies_over, 2 * widened * share(copies_over) * rest_bytes
    rows_over = tuple(name for name in ("data", "fsdp", "sequence") if sizes[name] > 1)
    if rows_over and whole_bytes:
        yield "all-reduce", rows_over, 2 * widened * share(rows_over) * whole_bytes
    if sizes["tensor"] > 1:
        yield "all-reduce", ("tensor",), 2 * share(["tensor"]) * reduced
