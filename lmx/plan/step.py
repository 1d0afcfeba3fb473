"""The training step of a job on shapes alone: traced and partitioned, never run."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from lmx.plan.figures import Job
from lmx.sharding.mesh import make_mesh
from lmx.sharding.placement import named_sharding
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.training import TrainState, abstract_state, compile_step, make_train_step, state_shardings


def mesh_of(job: Job) -> Mesh:
    """Returns the mesh of a job over the first devices.

    Raises:
        ValueError: there are fewer devices than the mesh has.
    """
    if jax.device_count() < job.devices:
        raise ValueError(
            f"a plan must have a virtual device for each of the mesh's {job.devices}, got {jax.device_count()}. "
            f"Call use_virtual_devices({job.devices}) first."
        )
    return make_mesh(job.mesh, devices=jax.devices()[: job.devices])


def state_of(job: Job, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Returns the state as shapes that know where they live, and where that is."""
    model = nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))
    shardings = state_shardings(model, job.optimizer, mesh=mesh, rules=job.rules, average=job.average, best=job.best)
    return abstract_state(model, job.optimizer, shardings=shardings), shardings


def batch_of(
    shapes: Mapping[str, tuple[int, ...]], mesh: Mesh, *, rules: Rules = DEFAULT_RULES
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a batch of tokens as `lmx.sharding.placement.place_batch` would place it."""

    def placed(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        axes = (None, "batch", *[None] * (len(shape) - 2))
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=named_sharding(mesh, axes, shape, rules=rules))

    return {name: placed(shape) for name, shape in shapes.items()}


def step_of(job: Job) -> Callable:
    """Returns the training step of a job."""
    return make_train_step(job.loss, job.optimizer, average_decay=0.99 if job.average else None)


def program_of(job: Job) -> str:
    """Returns the training step of one device as XLA's text: right after partitioning, or as it was traced."""
    mesh = mesh_of(job)
    state, shardings = state_of(job, mesh)
    step = compile_step(step_of(job), mesh=mesh, shardings=shardings, rules=job.rules, gradient_sum=job.gradient_sum)
    lowered = step.lower(state, batch_of(job.batch, mesh, rules=job.rules))
    if mesh.size == 1:
        return lowered.as_text(dialect="hlo")
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd.*", "xla_dump_hlo_as_text": True}
        compile_unoptimised(lowered, dump | {"xla_dump_large_constants": True})  # such as a number for each device
        texts = sorted(Path(folder).glob("*after_spmd-partitioning*.txt"))
        if len(texts) != 1:
            raise RuntimeError(f"XLA must write one partitioned program, got {len(texts)}.")
        return texts[0].read_text()


def compile_unoptimised(lowered: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Compiles without LLVM's optimizations and without the cache: it is the partitioning that is wanted."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    # jax asks this setting once and remembers the answer, until the cache is reset. What comes from the cache is not
    # compiled, and leaves no text of the partitioned program.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        return lowered.compile({"xla_backend_optimization_level": 0, **(options or {})})
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
