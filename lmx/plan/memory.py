"""What one device holds: state and gradients exactly, residuals as XLA splits them, and a step at its fullest."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from lmx.costs import saved_residuals
from lmx.nn.kernels import ends_of_parts
from lmx.plan.figures import Job, Memory, Module
from lmx.plan.step import batch_of, compile_unoptimised, mesh_of, program_of, state_of
from lmx.plan.working import fullest_moment
from lmx.sharding.step import use_mesh
from lmx.training import TrainState, parameter_of


def measure_memory(job: Job, *, program: str | None = None) -> Memory:
    """Returns what one device holds: the state and gradients exactly, residuals, and the step's fullest moment.

    Args:
        program: what `lmx.plan.step.program_of` gives, if it is there already.
    """
    mesh = mesh_of(job)
    state, shardings = state_of(job, mesh)
    micro_batches = next(iter(job.batch.values()))[0]
    rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    parts = [("parameters", "params"), ("optimizer", "optimizer_state"), ("average", "average"), ("average", "best")]
    for column, name in parts:
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, name))
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(getattr(shardings, name)), strict=True):
            size = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            row = rows[_module_of(parameter_of(path, shapes))]
            row[column] += size
            if column == "parameters":
                row["count"] += leaf.size
                # One tree of sums, and with more micro-batches that of the one being added.
                row["gradients"] += size * min(micro_batches, 2)
    rows["counters"]["optimizer"] += sum(
        leaf.dtype.itemsize for leaf in (state.step, state.seed, state.skipped, state.applied)
    )
    columns = ("count", "parameters", "optimizer", "average", "gradients")
    modules = [Module(name=name, **{column: row[column] for column in columns}) for name, row in rows.items()]
    activations, squares = _measure_residuals(job, mesh, state)
    fullest = fullest_moment(program or program_of(job))
    return Memory(modules=tuple(modules), activations=activations, squares=squares, fullest=fullest)


def _module_of(parameter: tuple | None) -> str:
    """Returns "decoder/blocks/attention" of the path to a parameter, and "counters" of what is about none."""
    names = [str(entry.key) for entry in parameter or ()]
    return "/".join(names[:-1][:3]) or "counters"


def _measure_residuals(job: Job, mesh: Mesh, state: TrainState) -> tuple[tuple[tuple[str, int], ...], int]:
    """Partitions the forward pass alone and reads where XLA puts each array that it leaves for the backward pass.

    Returns bytes by scope, and of them those in arrays of length x length.
    """
    described = []
    micro_batch = batch_of({name: (1, *shape[1:]) for name, shape in job.batch.items()}, mesh, rules=job.rules)

    def forward(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> list[jax.Array]:
        part = jax.tree.map(lambda x: x[0], batch)
        with use_mesh(mesh, rules=job.rules, gradient_sum=job.gradient_sum):
            residuals, found = saved_residuals(lambda params: job.loss(params, part, key)["loss"], params)
            described[:] = found
            return residuals(params)

    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jax.jit(forward).lower(state.params, micro_batch, key)
    if mesh.size == 1:
        shapes = [residual.shape for residual in described]
    else:
        shardings = compile_unoptimised(lowered).output_shardings
        # Of what is broadcast the smaller array is kept, and it is taken as whole on each device.
        shapes = [
            sharding.shard_shape(one.shape) if one.share == 1 else one.shape
            for one, sharding in zip(described, shardings, strict=True)
        ]
    lengths = {shape[-1] for shape in job.batch.values()}
    in_parts = set()  # of causal rows, each up to its last key
    for length in lengths:
        in_parts |= {(last - first, last) for first, last in itertools.pairwise(ends_of_parts(length))}
    sizes: dict[str, int] = defaultdict(int)
    squares = 0
    for residual, shape in zip(described, shapes, strict=True):
        size = math.ceil(math.prod(shape) * residual.dtype.itemsize * residual.share)
        sizes[residual.scope or "unnamed"] += size
        *rest, before, target, source = (0, 0, 0, *residual.shape)
        is_part = (target, source) in in_parts and before not in lengths  # where heads by features are no part
        if len(rest) > 3 and ({target, source} <= lengths or is_part):
            squares += size
    return tuple(sorted(sizes.items(), key=lambda item: -item[1])), squares
