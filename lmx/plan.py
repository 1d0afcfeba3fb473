"""What a training run will need, from shapes alone: parameters, memory, FLOPs, communication, an estimate of its time.

Nothing is allocated and nothing runs: the step is traced on shapes, and partitioned by XLA for as many virtual CPU
devices as the mesh has. `make_plan` knows no model and no preset; `docs/planning.md` says what each number means and
how exact it is.
"""

import contextlib
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from lmx.collectives import Collective, read_collectives
from lmx.costs import Flops, count_flops, saved_residuals
from lmx.devices import Device, device_of_kind, find_device
from lmx.nn.layers import count_parameters
from lmx.sharding import MESH_AXES, MeshConfig, make_mesh, named_sharding, use_mesh
from lmx.training import Loss, TrainState, abstract_state, compile_step, make_train_step, param_axes, state_shardings

EFFICIENCY = 0.5  # share of the peak that products of matrices reach; what good runs of large models have
USABLE = 0.9  # share of the memory for what is counted; the rest is for temporaries and fragmentation
NEXT_TO_NOTHING = 1e-3  # of the counted bytes: rows below are sums of scalars and are printed as one line


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be planned: a model, its loss and optimizer, a mesh, and a batch.

    Attributes:
        batch: shapes of the most expensive batch, each [A, B, L] or longer.
        typical: shapes of a usual batch, for the estimate; None when there is but one.
        dtype: the type that the model computes in.
        average: whether the state keeps an average of the parameters.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    loss: Loss
    optimizer: optax.GradientTransformation
    mesh: MeshConfig
    batch: Mapping[str, tuple[int, ...]]
    typical: Mapping[str, tuple[int, ...]] | None = None
    dtype: str = "float32"
    average: bool = False

    @property
    def devices(self) -> int:
        """The number of devices of the mesh."""
        return count_devices(self.mesh)


# A change that may make a job fit: what to tell of it, and the job it gives, made only when it is tried.
Proposal = tuple[str, Callable[[], Job]]


@dataclass(frozen=True, kw_only=True)
class Module:
    """One part of the model: numbers of the whole, and bytes on the fullest device."""

    name: str
    count: int
    parameters: int
    optimizer: int
    average: int
    gradients: int

    @property
    def total(self) -> int:
        """Bytes on one device."""
        return self.parameters + self.optimizer + self.average + self.gradients


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device: the state by module, and by scope what differentiation saves of one micro-batch.

    Attributes:
        squares: of the activations, those of length x length: what attention saves unless its kernel is fused.
    """

    modules: tuple[Module, ...]
    activations: tuple[tuple[str, int], ...]
    squares: int

    @property
    def state(self) -> int:
        """Bytes of what lives from step to step."""
        return sum(module.total - module.gradients for module in self.modules)

    @property
    def gradients(self) -> int:
        """Bytes of the gradients."""
        return sum(module.gradients for module in self.modules)

    @property
    def saved(self) -> int:
        """Bytes of all residuals."""
        return sum(size for _, size in self.activations)

    @property
    def total(self) -> int:
        """Bytes of all that is counted."""
        return self.state + self.gradients + self.saved


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one device sends in a step, of one kind over some axes, in bytes (see `lmx.collectives`)."""

    kind: str
    axes: tuple[str, ...]
    times: int
    raw: float
    counted: float
    merged: float


@dataclass(frozen=True, kw_only=True)
class Communication:
    """All that is sent in a step, and the least possible by axes: (kind, axes, bytes)."""

    traffic: tuple[Traffic, ...]
    least: tuple[tuple[str, tuple[str, ...], float], ...]
    known: bool
    far: float  # of the counted bytes, those between groups of devices that are joined closely

    @property
    def raw(self) -> float:
        """Bytes as the program stands."""
        return sum((row.raw for row in self.traffic), 0.0)

    @property
    def counted(self) -> float:
        """Bytes with all-reduces that are only sliced as reduce-scatters."""
        return sum((row.counted for row in self.traffic), 0.0)

    @property
    def merged(self) -> float:
        """Bytes with all-reduces that are only added up as one, too."""
        return sum((row.merged for row in self.traffic), 0.0)

    @property
    def least_total(self) -> float:
        """Bytes of the least possible."""
        return sum((size for _, _, size in self.least), 0.0)


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Where the time of a step goes, if nothing is done at the same time."""

    computing: float
    sending: float
    updating: float

    @property
    def best(self) -> float:
        """A step whose communication is hidden behind computing, or the other way round."""
        return max(self.computing, self.sending) + self.updating

    @property
    def worst(self) -> float:
        """A step that computes and communicates in turns."""
        return self.computing + self.sending + self.updating


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one step on a batch takes.

    Attributes:
        shape: [A, B, L] of the batch.
        tokens: padded, of its largest array.
        flops: of the whole step, on all devices.
        seconds: None where the device has no data sheet.
    """

    shape: tuple[int, ...]
    tokens: int
    flops: Flops
    seconds: Seconds | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change that was tried because the plan does not fit: bytes on a device then, or why it cannot be made."""

    text: str
    total: int | None
    fits: bool
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will need; `str(plan)` is the tables."""

    device: Device
    mesh: tuple[tuple[str, int], ...]
    dtype: str
    parameters: int  # as papers count them, without the padding of vocabulary tables
    memory: Memory
    estimates: tuple[Estimate, ...]
    communication: Communication
    changes: tuple[Change, ...] = ()

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return math.prod(size for _, size in self.mesh)

    @property
    def fits(self) -> bool:
        """Whether all that is counted leaves a tenth of the device's memory free."""
        return self.memory.total <= USABLE * self.device.memory

    def __str__(self) -> str:
        return render(self)


def make_plan(job: Job, device: str, *, changes: Sequence[Proposal] = ()) -> Plan:
    """Plans a job for a device by its name (see `lmx.devices`).

    Needs as many jax devices as the mesh has; `use_virtual_devices` gives them.

    Args:
        changes: what could make it fit, cheapest first; tried in this order until one does, if the job does not fit.

    Raises:
        ValueError: there is no such device, or the mesh does not suit the devices or the shapes.
    """
    chosen = find_device(device)
    mesh = _mesh(job)
    memory = measure_memory(job)
    communication = measure_communication(job, group=chosen.group)
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


def resolve_mesh(mesh: MeshConfig, devices: int | None) -> MeshConfig:
    """Returns the mesh without -1: what is left of so many devices; without a number, 1.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = _sizes(mesh)
    known = count_devices(mesh)
    if devices is not None and (devices % known or (devices != known and -1 not in sizes.values())):
        written = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"mesh sizes must multiply to devices={devices}, got {written}.")
    left = 1 if devices is None else devices // known
    return MeshConfig(**{name: left if size == -1 else size for name, size in sizes.items()})


def count_devices(mesh: MeshConfig) -> int:
    """Returns the number of devices of a mesh, a size that is left open (-1) as 1."""
    return math.prod(max(size, 1) for size in _sizes(mesh).values())


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, int | None, list[str]]:
    """Takes `--plan DEVICE` and `--devices N` out of a command line: (device, number of devices, what is left).

    Raises:
        ValueError: one of them has no value, the number is none, or there are devices without a plan.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name not in ("--plan", "--devices"):
            rest.append(argument)
            continue
        found[name] = value if equals else next(waiting, "")
        if not found[name] or found[name].startswith("--"):
            raise ValueError(f"{name} must have a value, got none. Like: --plan h100 --devices 8.")
    device, devices = found.get("--plan"), found.get("--devices")
    if devices is None:
        return device, None, rest
    if device is None:
        raise ValueError(f"--devices must come with --plan, got --devices {devices} alone. A run takes all it sees.")
    if not devices.isdigit() or int(devices) < 1:
        raise ValueError(f"--devices must be a positive number, got {devices}.")
    return device, int(devices), rest


def plan_of_this_command() -> str:
    """Returns what this command prints with `--plan`, made by a process of its own that needs no accelerator.

    The script must take `--plan` and `--devices` (see `split_arguments`).
    """
    if "--plan" in sys.argv:  # a script that does not would start itself again and again
        return "There is no plan: the script ran out of memory with --plan."
    kind, number = jax.devices()[0].device_kind, jax.device_count()
    device = find_device("cpu") if kind == "cpu" else device_of_kind(kind)
    if device is None:
        return f"There is no plan for {kind}: it is not in the table of devices."
    command = [sys.executable, *sys.argv, "--plan", device.name, "--devices", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    return done.stdout if done.returncode == 0 else f"There is no plan: {done.stderr.strip()[-2000:]}"


def use_virtual_devices(number: int) -> None:
    """Makes jax see so many CPU devices and no other; must come before jax is first asked for its devices.

    Raises:
        RuntimeError: jax has begun with other devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", number)


@contextlib.contextmanager
def explain_out_of_memory(table: Callable[[], str]) -> Iterator[None]:
    """Ends a run whose devices are out of memory with a table of what it takes and one clear line, exit status 1.

    Args:
        table: makes the table; it may not need a device's memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = str(error).strip().splitlines()[0]
        if jax.process_index() == 0:
            print(table(), flush=True)
        raise SystemExit(f"error: a device is out of memory ({first}). The table above says what takes it.") from error


def _mesh(job: Job) -> Mesh:
    if jax.device_count() < job.devices:
        raise ValueError(
            f"a plan must have a virtual device for each of the mesh's {job.devices}, got {jax.device_count()}. "
            f"Call use_virtual_devices({job.devices}) first."
        )
    return make_mesh(job.mesh, devices=jax.devices()[: job.devices])


def _sizes(mesh: MeshConfig) -> dict[str, int]:
    return {name: getattr(mesh, name) for name in MESH_AXES}


def _try(proposals: Sequence[Proposal], device: Device) -> Iterator[Change]:
    for text, make_job in proposals:
        try:
            total = measure_memory(make_job()).total
        except ValueError as error:  # such as rows that do not divide over more devices
            yield Change(text=text, total=None, fits=False, why_not=str(error))
            continue
        fits = total <= USABLE * device.memory
        yield Change(text=text, total=total, fits=fits)
        if fits:
            return


# ---- memory ----------------------------------------------------------------------------------------------------------


def measure_memory(job: Job) -> Memory:
    """Returns what one device holds: the state and gradients exactly, the residuals as XLA splits them by itself."""
    mesh = _mesh(job)
    state, shardings = _abstract_state(job, mesh)
    micro_batches = next(iter(job.batch.values()))[0]
    rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    parts = {"parameters": "params", "optimizer": "optimizer_state", "average": "average"}
    for column, name in parts.items():
        leaves = jax.tree_util.tree_leaves_with_path(getattr(state, name))
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(getattr(shardings, name)), strict=True):
            size = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            row = rows[_module_of(path)]
            row[column] += size
            if column == "parameters":
                row["count"] += leaf.size
                # One tree of sums, and with more micro-batches that of the one being added.
                row["gradients"] += size * min(micro_batches, 2)
    rows["counters"]["optimizer"] += sum(leaf.dtype.itemsize for leaf in (state.step, state.seed, state.skipped))
    columns = ("count", "parameters", "optimizer", "average", "gradients")
    modules = [Module(name=name, **{column: row[column] for column in columns}) for name, row in rows.items()]
    activations, squares = _measure_residuals(job, mesh, state)
    return Memory(modules=tuple(modules), activations=activations, squares=squares)


def _module_of(path: tuple) -> str:
    """Returns "decoder/blocks/attention" of the path to a parameter, also where an optimizer's tree holds the like."""
    names = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return "/".join(names[:-1][:3]) or "counters"


def _abstract_state(job: Job, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Returns the state as shapes that know where they live, and where that is."""
    model = nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))
    shardings = state_shardings(model, job.optimizer, mesh=mesh, average=job.average)
    return abstract_state(model, job.optimizer, shardings=shardings), shardings


def _abstract_batch(shapes: Mapping[str, tuple[int, ...]], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a batch of tokens as `lmx.sharding.place_batch` would place it."""

    def placed(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        axes = (None, "batch", *[None] * (len(shape) - 2))
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=named_sharding(mesh, axes, shape))

    return {name: placed(shape) for name, shape in shapes.items()}


def _measure_residuals(job: Job, mesh: Mesh, state: TrainState) -> tuple[tuple[tuple[str, int], ...], int]:
    """Partitions the forward pass alone and reads where XLA puts each array that it leaves for the backward pass.

    Returns bytes by scope, and of them those in arrays of length x length.
    """
    described = []
    micro_batch = _abstract_batch({name: (1, *shape[1:]) for name, shape in job.batch.items()}, mesh)

    def forward(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> list[jax.Array]:
        part = jax.tree.map(lambda x: x[0], batch)
        with use_mesh(mesh):
            residuals, found = saved_residuals(lambda params: job.loss(params, part, key)["loss"], params)
            described[:] = found
            return residuals(params)

    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jax.jit(forward).lower(state.params, micro_batch, key)
    if mesh.size == 1:
        shapes = [residual.shape for residual in described]
    else:
        shardings = _compile(lowered).output_shardings
        # Of what is broadcast the smaller array is kept, and it is taken as whole on each device.
        shapes = [
            sharding.shard_shape(one.shape) if one.share == 1 else one.shape
            for one, sharding in zip(described, shardings, strict=True)
        ]
    lengths = {shape[-1] for shape in job.batch.values()}
    sizes: dict[str, int] = defaultdict(int)
    squares = 0
    for residual, shape in zip(described, shapes, strict=True):
        size = math.ceil(math.prod(shape) * residual.dtype.itemsize * residual.share)
        sizes[residual.scope or "unnamed"] += size
        if len(residual.shape) > 3 and set(residual.shape[-2:]) <= lengths:
            squares += size
    return tuple(sorted(sizes.items(), key=lambda item: -item[1])), squares


def _compile(lowered: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Compiles without LLVM's optimizations and without the cache: it is the partitioning that is wanted."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return lowered.compile({"xla_backend_optimization_level": 0, **(options or {})})
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


# ---- communication ---------------------------------------------------------------------------------------------------


def measure_communication(job: Job, *, group: int = 8) -> Communication:
    """Partitions the training step and counts what it communicates, beside the least possible.

    Args:
        group: devices joined closely; what goes beyond them counts as far.
    """
    mesh = _mesh(job)
    found = [] if mesh.size == 1 else read_collectives(partitioned_step(job), dict(mesh.shape))
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
    )


def partitioned_step(job: Job) -> str:
    """Returns the training step of one device right after XLA's partitioning, as text."""
    mesh = _mesh(job)
    state, shardings = _abstract_state(job, mesh)
    step = compile_step(_step(job), mesh=mesh, shardings=shardings)
    lowered = step.lower(state, _abstract_batch(job.batch, mesh))
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd.*", "xla_dump_hlo_as_text": True}
        _compile(lowered, dump | {"xla_dump_large_constants": True})  # such as a number for each device
        texts = sorted(Path(folder).glob("*after_spmd-partitioning*.txt"))
        if len(texts) != 1:
            raise RuntimeError(f"XLA must write one partitioned program, got {len(texts)}.")
        return texts[0].read_text()


def _step(job: Job) -> Callable:
    return make_train_step(job.loss, job.optimizer, average_decay=0.99 if job.average else None)


def _least(job: Job) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yields the least that must be sent, in compute precision: (kind, axes, bytes).

    Parameters split over fsdp are gathered twice and their gradients reduce-scattered, in each micro-batch; what then
    is left of the gradients is reduced over data (and sequence) once a step. Over tensor, activations are reduced for
    each matrix that contracts a split axis, once forward and once backward: twice a block each way. A vocabulary split
    over tensor takes one for the words' vectors and one for the gradient of the states; a memory that decoders attend
    to takes one for its gradient, which all layers share.
    """
    mesh = _mesh(job)
    state, shardings = _abstract_state(job, mesh)
    sizes = dict(mesh.shape)
    itemsize = jnp.dtype(job.dtype).itemsize
    model = nnx.eval_shape(lambda: job.build(nnx.Rngs(0)))
    axes_of = jax.tree.leaves(param_axes(model), is_leaf=lambda leaf: isinstance(leaf, tuple))
    fsdp_bytes = rest_bytes = whole_bytes = reduced = 0.0
    tables: list[int] = []  # their widths
    micro_batches, batch_rows, *length = next(iter(job.batch.values()))
    local_tokens = micro_batches * batch_rows * math.prod(length) / (sizes["data"] * sizes["fsdp"] * sizes["sequence"])
    for leaf, sharding, axes in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(shardings.params), axes_of, strict=True
    ):
        spec = [names if isinstance(names, tuple) else (names,) for names in sharding.spec]
        used = {name for names in spec for name in names}
        local = math.prod(sharding.shard_shape(leaf.shape)) * itemsize
        if "fsdp" in used:
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
    if tables and any("memory_attention" in path for path in paths):
        reduced += local_tokens * tables[0] * itemsize  # the memory's gradient, for all layers together
    if tables:
        reduced += max(2, len(tables)) * local_tokens * tables[0] * itemsize

    def share(names: Sequence[str]) -> float:
        number = math.prod(sizes[name] for name in names)
        return (number - 1) / number

    if sizes["fsdp"] > 1:
        yield "all-gather", ("fsdp",), 2 * micro_batches * share(["fsdp"]) * fsdp_bytes
        yield "reduce-scatter", ("fsdp",), micro_batches * share(["fsdp"]) * fsdp_bytes
    copies_over = tuple(name for name in ("data", "sequence") if sizes[name] > 1)
    if copies_over and rest_bytes:
        yield "all-reduce", copies_over, 2 * share(copies_over) * rest_bytes
    rows_over = tuple(name for name in ("data", "fsdp", "sequence") if sizes[name] > 1)
    if rows_over and whole_bytes:
        yield "all-reduce", rows_over, 2 * share(rows_over) * whole_bytes
    if sizes["tensor"] > 1:
        yield "all-reduce", ("tensor",), 2 * share(["tensor"]) * reduced


# ---- time ------------------------------------------------------------------------------------------------------------


def _estimate(
    job: Job,
    shapes: Mapping[str, tuple[int, ...]],
    device: Device,
    memory: Memory,
    communication: Communication,
) -> Estimate:
    mesh = _mesh(job)
    state, _ = _abstract_state(job, mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    flops = count_flops(_step(job), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state), batch)
    shape = max(shapes.values(), key=math.prod)
    tokens = math.prod(shape)
    seconds = None
    peak = device.peak(job.dtype)
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


# ---- tables ----------------------------------------------------------------------------------------------------------


def render(plan: Plan) -> str:
    """Returns the plan as tables of text, with what each number stands on."""
    blocks = [_heading(plan), _memory_table(plan), communication_table(plan.communication), _time_table(plan)]
    return "\n\n".join(blocks) + "\n"


def _heading(plan: Plan) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in plan.mesh if size > 1) or "one device"
    return (
        f"Plan for {plan.devices} x {plan.device.name} ({sizes}), {plan.dtype} compute, float32 parameters\n"
        f"{plan.parameters:,} parameters, without the padding of vocabulary tables"
    )


def _memory_table(plan: Plan) -> str:
    memory, capacity = plan.memory, plan.device.memory
    columns = ("parameters", "optimizer", "average", "gradients", "total")
    head = ("memory of a device", "count", *columns)
    rows = [
        (module.name, f"{module.count:,}" if module.count else "", *(_bytes(getattr(module, name)) for name in columns))
        for module in memory.modules
    ]
    sums = [sum(getattr(module, name) for module in memory.modules) for name in columns]
    rows.append(
        ("state and gradients (exact)", f"{sum(module.count for module in memory.modules):,}", *map(_bytes, sums))
    )
    table = _table(head, rows, rule_before=len(rows) - 1)
    activations = [(scope, _bytes(size)) for scope, size in memory.activations[:12]]
    others = memory.activations[12:]
    if others:
        activations.append((f"{len(others)} more", _bytes(sum(size for _, size in others))))
    activations.append(("activations", _bytes(memory.saved)))
    shape = "x".join(map(str, plan.estimates[0].shape[1:]))
    saved = _table((f"saved for the backward pass, by scope, of {shape}", ""), activations, len(activations) - 1)
    verdict = (
        f"{_bytes(memory.total)} of {_bytes(capacity)} ({memory.total / capacity:.1%}): "
        + ("fits" if plan.fits else "does not fit")
        + f", where a tenth is left free. Temporaries of {plan.device.name} are not known here and not in it."
    )
    lines = [verdict]
    if memory.squares > 0.05 * memory.saved:
        rest = _bytes(memory.total - memory.squares)
        lines.append(
            f"Of the activations {_bytes(memory.squares)} are attention's weights and masks, which XLA's kernel saves "
            f"and a fused one does not: {rest} without."
        )
    for change in plan.changes:
        found = f"cannot be: {change.why_not}"
        if change.total is not None:
            found = f"{_bytes(change.total)}, {'fits' if change.fits else 'does not fit'}"
        lines.append(f"  with {change.text}: {found}")
    if plan.changes and not plan.changes[-1].fits:
        lines.append("  none of these is enough alone: use more devices, or several of them together")
    return f"{table}\n\n{saved}\n\n" + "\n".join(lines)


def communication_table(communication: Communication) -> str:
    """Returns what a step sends, over which axes, beside the least possible."""
    if not communication.traffic:
        return "communication: none, there is one device"
    limit = NEXT_TO_NOTHING * communication.counted
    head = ("sent by a device in a step", "over", "times", "raw", "counted", "merged", "least", "counted/least")
    rows: list[tuple[str, ...]] = []
    over = sorted({row.axes for row in communication.traffic} | {axes for _, axes, _ in communication.least})
    small = [row for row in communication.traffic if row.counted < limit]
    for axes in over:
        names = " x ".join(axes)
        matched = [row for row in communication.traffic if row.axes == axes and row not in small]
        for row in matched:
            mark = "*" if "sliced" in row.kind else ""
            figures = (_bytes(row.raw), _bytes(row.counted) + mark, _bytes(row.merged))
            rows.append((row.kind, names, f"{row.times:,}", *figures, "", ""))
        least = [(kind, size) for kind, where, size in communication.least if where == axes]
        rows += [(f"  needed: {kind}", names, "", "", "", "", _bytes(size), "") for kind, size in least]
        if least:
            counted, possible = sum(row.counted for row in matched), sum(size for _, size in least)
            ratio = f"{counted / possible:.2f}" if possible > 0.05 * communication.least_total else ""
            rows.append(("", names, "", "", _bytes(counted), "", _bytes(possible), ratio))
    if small:
        sums = [_bytes(sum(getattr(row, name) for row in small)) for name in ("raw", "counted", "merged")]
        rows.append(("small ones together", "", f"{sum(row.times for row in small):,}", *sums, "", ""))
    ratio = f"{communication.counted / communication.least_total:.2f}" if communication.least_total else ""
    sums = [getattr(communication, name) for name in ("raw", "counted", "merged", "least_total")]
    rows.append(("all", "", "", *map(_bytes, sums), ratio))
    notes = [
        "counted: * an all-reduce of which only slices are used counts as a reduce-scatter.",
        "merged: all-reduces that are only added up count as one, too, as accelerators' compilers make them.",
    ]
    if not communication.known:
        notes.append("Some loops have an unknown length and count once.")
    return _table(head, rows, rule_before=len(rows) - 1) + "\n" + "\n".join(notes)


def _time_table(plan: Plan) -> str:
    device, peak = plan.device, plan.device.peak(plan.dtype)
    lines = []
    for estimate in plan.estimates:
        shape = "x".join(map(str, estimate.shape))
        lines.append(f"batch {shape}: {estimate.tokens:,} padded tokens, {estimate.flops.total:.4g} FLOPs a step")
        if estimate.flops.recomputed:
            again = estimate.flops.recomputed / estimate.flops.total
            lines.append(f"  {again:.1%} of them are done again for the backward pass; MFU leaves these out")
        lines += [f"  {note}" for note in estimate.flops.unknown]
        seconds = estimate.seconds
        if seconds is None or peak is None:
            continue
        rates = [estimate.tokens / time for time in (seconds.worst, seconds.best)]
        useful = (estimate.flops.total - estimate.flops.recomputed) / plan.devices
        shares = [useful / time / peak for time in (seconds.worst, seconds.best)]
        lines += [
            f"  {_time(seconds.best)} to {_time(seconds.worst)} a step (computing {_time(seconds.computing)}, "
            f"sending {_time(seconds.sending)}, updating {_time(seconds.updating)})",
            f"  {rates[0]:,.0f} to {rates[1]:,.0f} tokens/s, MFU {shares[0]:.1%} to {shares[1]:.1%}",
        ]
    if peak is None or device.memory_bandwidth is None or device.interconnect is None:
        lines.append(f"no estimate of time: there is no data sheet of {device.name} for {plan.dtype}")
        return "\n".join(lines)
    between = f", {_bytes(device.between)}/s beyond {device.group} devices" if device.between else ""
    lines += [
        f"not calibrated: {device.name} was not measured. Assumed: products of matrices at {EFFICIENCY:.0%} of "
        f"{peak / 1e12:,.0f} TFLOP/s;",
        f"a device sends {_bytes(device.interconnect)}/s{between}; the state is read and written once at "
        f"{_bytes(device.memory_bandwidth)}/s.",
        "The shorter time has communication and computing at the same time, the longer one after the other. "
        "Latencies are not in it.",
    ]
    return "\n".join(lines)


def _bytes(size: float | int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B" if size else "0"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], rule_before: int) -> str:
    """Returns columns of text, the first to the left and the others to the right, with a rule before one row."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [line(row) for row in rows]
    return "\n".join([line(head), rule, *body[:rule_before], rule, *body[rule_before:]])
