"""What a training run will need, from shapes alone: parameters, memory, FLOPs, communication, an estimate of its time.

Nothing is allocated and nothing runs: the step is traced on shapes, and partitioned by XLA for as many virtual CPU
devices as the mesh has. `make_plan` knows no model and no preset; `docs/planning.md` says what each number means and
how exact it is.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from lmx.costs import count_flops
from lmx.devices import Device, find_device
from lmx.nn.embedding import count_parameters
from lmx.plan.communication import measure_communication
from lmx.plan.figures import EFFICIENCY, USABLE, Change, Communication, Estimate, Job, Memory, Plan, Proposal, Seconds
from lmx.plan.memory import measure_memory
from lmx.plan.step import mesh_of, program_of, state_of, step_of


def make_plan(job: Job, device: str, *, changes: Sequence[Proposal] = ()) -> Plan:
    """Plans a job for a device by its name (see `lmx.devices`).

    Needs as many jax devices as the mesh has; `lmx.plan.command.use_virtual_devices` gives them.

    Args:
        changes: what could make it fit, cheapest first; tried in this order until one does, if the job does not fit.

    Raises:
        ValueError: there is no such device, or the mesh does not suit the devices or the shapes.
    """
    chosen = find_device(device)
    mesh = mesh_of(job)
    program = program_of(job)
    memory = measure_memory(job, program=program)
    communication = measure_communication(job, group=chosen.group, program=program)
    shapes = [job.batch] if job.typical is None else [job.batch, job.typical]
    estimates = tuple(_estimate(job, shape, chosen, memory, communication) for shape in shapes)
    plan = Plan(
        device=chosen,
        mesh=tuple(mesh.shape.items()),
        dtype=job.dtype,
        parameters=count_parameters(nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))),
        memory=memory,
        estimates=estimates,
        communication=communication,
    )
    return plan if plan.fits else replace(plan, changes=tuple(_try(changes, chosen)))


def halve_rows(job: Job) -> Job:
    """Returns the job with half the rows in a micro-batch and twice as many of them: the same update.

    Raises:
        ValueError: the rows are odd.
    """

    def halved(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: (2 * a, rows // 2, *rest) for name, (a, rows, *rest) in shapes.items()}

    for shapes in (job.batch, job.typical or {}):
        for name, shape in shapes.items():
            if shape[1] % 2:
                raise ValueError(f"rows must be even to be halved, got rows={shape[1]} in batch[{name!r}].")
    return replace(job, batch=halved(job.batch), typical=job.typical and halved(job.typical))


def double_fsdp(job: Job) -> Job:
    """Returns the job with twice as many devices along fsdp; the batch stays."""
    return replace(job, mesh=replace(job.mesh, fsdp=2 * max(job.mesh.fsdp, 1)))


def _try(proposals: Sequence[Proposal], device: Device) -> Iterator[Change]:
    for text, make_job in proposals:
        try:
            total = measure_memory(make_job()).total
        except ValueError as error:  # such as rows that do not divide over more devices
            yield Change(text=text, total=None, fits=False, why_not=str(error))
            continue
        fits = total <= USABLE * device.allotted
        yield Change(text=text, total=total, fits=fits)
        if fits:
            return


def _estimate(
    job: Job,
    shapes: Mapping[str, tuple[int, ...]],
    device: Device,
    memory: Memory,
    communication: Communication,
) -> Estimate:
    mesh = mesh_of(job)
    state, _ = state_of(job, mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    flops = count_flops(step_of(job), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state), batch)
    shape = max(shapes.values(), key=math.prod)
    tokens = math.prod(shape)
    seconds = None
    peak = device.peak(job.dtype)
    if device.interconnect is None:  # a card that is joined to no other sends over the bus
        device = replace(device, interconnect=device.between)
    if peak is not None and device.memory_bandwidth is not None and device.interconnect is not None:
        # Communication was counted for the most expensive batch; over tensor and sequence it goes with the tokens.
        scale = tokens / math.prod(max(job.batch.values(), key=math.prod))
        with_tokens = sum(row.counted for row in communication.traffic if {"tensor", "sequence"} & set(row.axes))
        ratio = 1 + (scale - 1) * with_tokens / communication.counted if communication.counted else 1.0
        near = communication.counted - communication.far
        sending = near / device.interconnect + communication.far / (device.between or device.interconnect)
        seconds = Seconds(
            computing=flops.total / mesh.size / (EFFICIENCY * peak),
            sending=ratio * sending,
            updating=(2 * memory.state + memory.gradients) / device.memory_bandwidth,
        )
    return Estimate(shape=shape, tokens=tokens, flops=flops, seconds=seconds)
