"""Where arrays live: meshes, the table from model axes to mesh axes, placement, and constraints inside a step.

Only this module builds a mesh or a PartitionSpec; everybody else names axes in the model's alphabet (`docs/axes.md`).
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Int64

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

Rules = Mapping[str, tuple[str, ...]]

# In which type the gradients of devices are added up: float32, or the type that the model computes in. A sum of n
# bfloat16 numbers in turn loses about n / 512 of it on a ring, but half as many bytes are sent.
GradientSum = Literal["float32", "compute"]

# Model axis -> mesh axes it is split over. An axis that is not here, or maps to (), is replicated. An experiment passes
# `DEFAULT_RULES | {...}` to have another table.
DEFAULT_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}

# Split where parameters live, whole where they are computed with: weights not in use at the moment stay in pieces.
STORED = ("embed",)

# The two layouts of a table in pieces: vectors cut, or words dealt out.
COLUMNS = ("outer_vocab", "shard")
WORDS = ("words", None)

# A vocabulary's table whose copy and float32 gradient take at most this many bytes on a device is gathered whole before
# it is used. A larger one stays in pieces, and the tokens go to them: vectors are cut where words are looked up, and
# words are dealt out where the loss is made.
WHOLE_TABLE_BYTES = 2**28

# Decoding makes one position after another: there is no length to split.
DECODING_RULES: Rules = {**DEFAULT_RULES, "length": ()}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; -1 (at most once) takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1


def make_mesh(config: MeshConfig, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over all devices, in the order data, fsdp, tensor, sequence.

    The devices come machine by machine (`in_order`), so that neighbours along the last axes are near each other. Not by
    `jax.make_mesh`, which refuses devices of several machines.

    Args:
        devices: these instead, in exactly this order, which is the caller's choice.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = in_order(jax.devices()) if devices is None else list(devices)
    sizes = [config.data, config.fsdp, config.tensor, config.sequence]
    written = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh sizes must be positive, at most one of them -1 (what is left), got {written}.")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(f"mesh sizes must multiply to the {len(devices)} devices, got {written}.")
    placed = np.empty(len(devices), dtype=object)
    placed[:] = devices
    return Mesh(placed.reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def in_order(devices: Iterable[jax.Device]) -> list[jax.Device]:
    """Returns devices slice by slice, host by host, and by their numbers.

    A slice is what fast links join: one machine with GPUs, or one slice of a TPU. Its hosts, of which a machine may
    have several, come together however the launcher has numbered them.
    """
    return sorted(
        devices, key=lambda device: (getattr(device, "slice_index", None) or 0, device.process_index, device.id)
    )


def connect(mesh: Mesh) -> None:
    """Has the devices of several hosts sum a number along every set of the mesh's axes; does nothing on one host.

    Between CPUs, those who sum together wait 30 s for each other the first time, and as long as it takes from then on:
    the first time should not come after a compilation, which takes one host longer than another.
    """
    if not mesh.is_multi_process:
        return
    names = tuple(name for name, size in mesh.shape.items() if size > 1)
    sets = [axes for number in range(1, len(names) + 1) for axes in itertools.combinations(names, number)]
    every = PartitionSpec(names)
    ones = jax.make_array_from_callback(
        (mesh.size,), NamedSharding(mesh, every), lambda index: np.ones(mesh.size, np.int32)[index]
    )

    def sums(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.psum(x, axes) + 0 * x for axes in sets]

    jax.block_until_ready(jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=every, out_specs=every))(ones))


def resolve_mesh(mesh: MeshConfig, devices: int | None) -> MeshConfig:
    """Returns the mesh without -1, which takes what is left of the devices, or 1 if their number is unknown.

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


def _sizes(mesh: MeshConfig) -> dict[str, int]:
    return {name: getattr(mesh, name) for name in MESH_AXES}


@dataclass(frozen=True)
class _Ambient:
    mesh: Mesh
    rules: Rules
    gradient_sum: GradientSum

    def computed(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        rules = {**self.rules, **dict.fromkeys(STORED, ())}
        return named_sharding(self.mesh, axes, shape, rules=rules)

    def stored(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        return named_sharding(self.mesh, axes, shape, rules=self.rules)


_ambient: _Ambient | None = None


@contextlib.contextmanager
def use_mesh(mesh: Mesh, *, rules: Rules = DEFAULT_RULES, gradient_sum: GradientSum = "float32") -> Iterator[None]:
    """Makes a mesh the one that `constrain`, `gather` and `parts` read while a step is traced."""
    global _ambient
    before, _ambient = (
        _ambient,
        _Ambient(mesh, {**rules, **_rules_of_tables(rules)}, gradient_sum) if mesh.size > 1 else None,
    )
    try:
        yield
    finally:
        _ambient = before


def _rules_of_tables(rules: Rules) -> Rules:
    """Returns where tokens and tables meet: the axes of a mesh by what they are to both.

    `group` splits tokens, by rows and positions. Those of its axes that also keep tables in pieces are `shard`, if they
    split rows last; the others are `replica`, which `outer_batch` splits rows over. A vocabulary is split over
    `outer_vocab`, and over `words` where the loss is made in pieces.
    """
    batch, length, vocab = (tuple(rules.get(name, ())) for name in ("batch", "length", "vocab"))
    holding = {*vocab, *rules.get("embed", ())}
    shard = tuple(name for name in batch if name in holding)
    outer_batch = batch[: len(batch) - len(shard)]
    if outer_batch + shard != batch or holding & {*length}:
        shard, outer_batch = (), batch
    outer_vocab = tuple(name for name in vocab if name not in shard)
    return {
        "group": batch + length,
        "shard": shard,
        "replica": outer_batch + length,
        "outer_batch": outer_batch,
        "outer_vocab": outer_vocab,
        "words": outer_vocab + shard,
    }


def parts(*axes: str) -> int:
    """Returns into how many pieces activations are split along these axes together; 1 on one device."""
    if _ambient is None:
        return 1
    return math.prod(_ambient.mesh.shape[name] for axis in axes for name in _ambient.rules.get(axis, ()))


def on_mesh() -> bool:
    """Says whether a step is being traced for more than one device."""
    return _ambient is not None


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to lay out an activation by the names of its axes; does nothing outside `use_mesh`."""
    if _ambient is None:
        return x
    return jax.lax.with_sharding_constraint(x, _ambient.computed(axes, x.shape))


def is_gathered(axes: tuple[str | None, ...]) -> bool:
    """Says whether a parameter with these axes is kept in pieces that `gather` puts together."""
    if _ambient is None:
        return False
    names = {name for axis in axes if axis in STORED for name in _ambient.rules.get(axis, ())}
    return any(_ambient.mesh.shape[name] > 1 for name in names)


def gather(parameter: jax.Array, *axes: str | None) -> jax.Array:
    """Returns a parameter as a step computes with it: whole along the axes that are split only where it lives.

    Its gradient is added up straight into the pieces (a reduce-scatter), in the type that the parameter is given in.
    Give it in the compute type: what is cast after it was gathered has been sent in full precision. So products of
    weights give their gradients another way, see `lmx.nn.layers.weight_product`.
    """
    if _ambient is None or not is_gathered(axes):
        return parameter
    return _gather(_ambient.computed(axes, parameter.shape), _ambient.stored(axes, parameter.shape), parameter)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(computed: NamedSharding, stored: NamedSharding, parameter: jax.Array) -> jax.Array:
    # Both ends are said: else the compiler gathers what the parameter was cast from, or keeps the whole in its place.
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(parameter, stored), computed)


def _gather_forward(computed: NamedSharding, stored: NamedSharding, parameter: jax.Array) -> tuple[jax.Array, None]:
    return _gather(computed, stored, parameter), None


def _gather_backward(computed: NamedSharding, stored: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, stored),)


_gather.defvjp(_gather_forward, _gather_backward)


def sums_in_float32(dtype: DTypeLike) -> bool:
    """Says whether gradients of weights computed with in this type meet over devices, and in float32 all the same."""
    return (
        _ambient is not None
        and _ambient.gradient_sum == "float32"
        and parts("group") > 1
        and jax.numpy.dtype(dtype) != jax.numpy.float32
    )


def stored(x: jax.Array, *axes: str | None) -> jax.Array:
    """Lays out an array of the shape of a parameter, such as its gradient, in the pieces that the parameter lives in.

    What devices have yet to add up is added up straight into them (a reduce-scatter), in the array's type.
    """
    if _ambient is None:
        return x
    return jax.lax.with_sharding_constraint(x, _ambient.stored(axes, x.shape))


def stays_in_pieces(shape: tuple[int, ...], *, dtype: DTypeLike) -> bool:
    """Says whether a table, [V, D] or [G, V, D] as `spread` leaves it, is computed with in the pieces it lives in.

    One is that devices with other tokens share and whose copy and gradient would take more than `WHOLE_TABLE_BYTES`.

    Args:
        dtype: the type it is computed with.
    """
    if _ambient is None or parts("shard") == 1:
        return False
    if len(shape) == 3:
        return shape[0] != parts("group")
    words, width = shape
    if words % parts("words") or width % parts("shard"):
        return False
    size = words // parts("outer_vocab") * width * (jax.numpy.dtype(dtype).itemsize + 4)
    return size > WHOLE_TABLE_BYTES or bool({*_ambient.rules["shard"]} & {*_ambient.rules["vocab"]})


def spread(table: jax.Array, *axes: str | None, dtype: DTypeLike) -> jax.Array:
    """Returns a parameter as each group of tokens computes with it: [G, *axes], every device with a copy of its own.

    Axes split over `tensor` stay split: a device has its words of a vocabulary and no others. Gradients of all uses are
    added up on each device, and meet once, straight in the pieces that the parameter lives in. One that is used once
    needs `gather` alone. Outside `use_mesh`, or with one group, it is cast and has no copies.

    A table that `stays_in_pieces` is not copied between devices that share it: they are one group, and each has a part
    of all vectors, [G, V, D] with D split over `shard`.

    Args:
        dtype: the type it is computed with, and sent in.
    """
    if _ambient is None or parts("group") == 1:
        return table.astype(dtype)
    in_pieces = axes == ("vocab", "embed") and stays_in_pieces(table.shape, dtype=dtype)
    return _spread(_ambient, axes, jax.numpy.dtype(dtype), in_pieces, table)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _spread(
    ambient: _Ambient, axes: tuple[str | None, ...], dtype: np.dtype, in_pieces: bool, table: jax.Array
) -> jax.Array:
    if in_pieces:
        table = jax.lax.with_sharding_constraint(table.astype(dtype), ambient.stored(axes, table.shape))
        named = ("replica", *COLUMNS)
    else:
        table = gather(table.astype(dtype), *axes)
        named = ("group", *axes)
    copies = jax.numpy.broadcast_to(table, (parts(named[0]), *table.shape))
    return jax.lax.with_sharding_constraint(copies, ambient.computed(named, copies.shape))


def _spread_forward(
    ambient: _Ambient, axes: tuple[str | None, ...], dtype: np.dtype, in_pieces: bool, table: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _spread(ambient, axes, dtype, in_pieces, table), jax.numpy.zeros((), table.dtype)


def _spread_backward(
    ambient: _Ambient,
    axes: tuple[str | None, ...],
    _: np.dtype,
    in_pieces: bool,
    like: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array]:
    """Adds up the groups' gradients: first over the axes that the parameter is split over, then over the others."""
    if ambient.gradient_sum == "float32":
        gradient = gradient.astype(jax.numpy.float32)
    mesh, shape = ambient.mesh, gradient.shape[1:]
    names = ambient.rules["replica" if in_pieces else "group"]
    stored = ambient.stored(axes, shape)
    holding = {name for part in stored.spec for name in (part if isinstance(part, tuple) else (part,))}
    gradient = gradient.reshape(*(mesh.shape[name] for name in names), *shape)
    for first in (True, False):
        kept = [name for name in names if (name in holding) != first]
        summed = tuple(index for index, name in enumerate(names) if name not in kept)
        gradient = jax.lax.reduce(gradient, jax.numpy.zeros((), gradient.dtype), jax.lax.add, summed)
        spec = PartitionSpec(*kept, *stored.spec)
        gradient = jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec))
        names = kept
    return (gradient.astype(like.dtype),)


_spread.defvjp(_spread_forward, _spread_backward)


def move(x: jax.Array, here: Sequence[str | None], there: Sequence[str | None]) -> jax.Array:
    """Returns an activation laid out by `there` that was laid out by `here`; its gradient goes the way back.

    Between two of its axes, that is an all-to-all. Outside `use_mesh` nothing happens.
    """
    if _ambient is None:
        return x
    return _gather(_ambient.computed(tuple(there), x.shape), _ambient.computed(tuple(here), x.shape), x)


def group(x: jax.Array, *, in_pieces: bool = False) -> jax.Array:
    """Returns [B, T, ...] as [G, B, T, ...]: the tokens of each device together.

    Args:
        in_pieces: the tokens of the devices that share a table are one group; their rows stay where they are.
    """
    rows, columns = parts("outer_batch" if in_pieces else "batch"), parts("length")
    batch, length, *rest = x.shape
    x = x.reshape(rows, batch // rows, columns, length // columns, *rest).swapaxes(1, 2)
    x = x.reshape(rows * columns, batch // rows, length // columns, *rest)
    return constrain(x, *(("replica", "shard") if in_pieces else ("group", None)), *[None] * (x.ndim - 2))


def ungroup(x: jax.Array, *, in_pieces: bool = False) -> jax.Array:
    """Returns [G, B, T, ...] as [B, T, ...], which `group` made it from."""
    rows, columns = parts("outer_batch" if in_pieces else "batch"), parts("length")
    _, batch, length, *rest = x.shape
    x = x.reshape(rows, columns, batch, length, *rest).swapaxes(1, 2)
    x = x.reshape(rows * batch, columns * length, *rest)
    return constrain(x, "batch", "length", *[None] * (x.ndim - 2))


def named_sharding(
    mesh: Mesh,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...] | None = None,
    *,
    rules: Rules = DEFAULT_RULES,
) -> NamedSharding:
    """Returns the sharding of an array whose axes have these names.

    Raises:
        ValueError: an axis does not divide over its mesh axes, or two axes are split over the same.
    """
    parts = []
    for index, axis in enumerate(axes):
        names = tuple(name for name in rules.get(axis or "", ()) if mesh.shape[name] > 1)
        count = math.prod(mesh.shape[name] for name in names)
        if shape is not None and shape[index] % count:
            nearest = max(count, round(shape[index] / count) * count)
            raise ValueError(
                f"axis {axis!r} must be divisible by its {count} devices (mesh {'x'.join(names)}), "
                f"got size={shape[index]}; the nearest that is: {nearest}."
            )
        parts.append(names if names else None)
    used = [name for names in parts if names for name in names]
    if len(set(used)) < len(used):
        raise ValueError(
            f"the rules must split an array over each mesh axis once, got {', '.join(used)} for axes={axes}."
        )
    return NamedSharding(mesh, PartitionSpec(*parts))


def stacked(sharding: NamedSharding) -> NamedSharding:
    """Returns the sharding of several such arrays on a new first axis, which is not split."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, *, rows_axis: int = 1) -> dict[str, jax.Array]:
    """Puts a batch of arrays [A, B, ...] on the mesh, B split over data and fsdp; each host gives its `rows_on`.

    Args:
        rows_axis: which axis B is; 2 where the axis of seeds comes first, 0 in a batch without micro-batches.
    """

    def axes(array: np.ndarray) -> tuple[str | None, ...]:
        return (*[None] * rows_axis, "batch", *[None] * (array.ndim - rows_axis - 1))

    return {name: _place(array, mesh, axes(array)) for name, array in batch.items()}


def place_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts arrays [B, ...] on the mesh, B split over data and fsdp; each host gives its `rows_on`."""
    return place_batch(batch, mesh, rows_axis=0)


def _place(array: np.ndarray, mesh: Mesh, axes: tuple[str | None, ...]) -> jax.Array:
    sharding = named_sharding(mesh, axes)
    if sharding.is_fully_addressable:
        return jax.device_put(array, named_sharding(mesh, axes, array.shape))
    axis = axes.index("batch")
    groups = row_groups(mesh)
    size, rest = divmod(array.shape[axis], groups.size)
    if rest:
        raise ValueError(
            f"the rows of a host must divide by its {groups.size} groups of rows, got {array.shape[axis]} rows."
        )
    shape = (*array.shape[:axis], size * batch_shards(mesh), *array.shape[axis + 1 :])

    def held(index: Any) -> np.ndarray:
        return piece(array, index[axis], groups, axis=axis)

    return jax.make_array_from_callback(shape, sharding, held)


def piece(array: np.ndarray, rows: slice, groups: Int64[np.ndarray, " groups"], *, axis: int = 0) -> np.ndarray:
    """Returns the rows that a device holds, out of those that its host has made.

    Args:
        array: what the host has made: the rows of its groups, one group after another.
        rows: of the whole batch, those of the device: one group.
        groups: the numbers of the host's groups, see `row_groups`.
        axis: which axis of the array its rows are.
    """
    size = array.shape[axis] // groups.size
    begin = int(np.searchsorted(groups, (rows.start or 0) // size)) * size
    return array[(slice(None),) * axis + (slice(begin, begin + size),)]


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[name] for name in DEFAULT_RULES["batch"])


def token_shards(mesh: MeshConfig | Mapping[str, int]) -> int:
    """Returns into how many parts the tokens of a batch are split, by rows and by positions.

    Args:
        mesh: with no size left open, or the sizes of a mesh by its axes.
    """
    sizes = _sizes(mesh) if isinstance(mesh, MeshConfig) else mesh
    return math.prod(sizes[name] for axis in ("batch", "length") for name in DEFAULT_RULES[axis])


def row_groups(mesh: Mesh, *, devices: Iterable[jax.Device] | None = None) -> Int64[np.ndarray, " groups"]:
    """Returns the numbers of the groups of rows that these devices hold, ascending; this host's, if none are named.

    A batch has as many groups as `batch_shards` says, each of equally many consecutive rows. A host's groups need not
    be neighbours: those of a TPU's hosts, which are blocks of a torus, are not in every order of the devices.
    """
    number = batch_shards(mesh)
    places = named_sharding(mesh, ("batch",), (number,)).devices_indices_map((number,))
    found = {places[device][0].indices(number)[0] for device in devices or mesh.local_devices}
    return np.array(sorted(found), np.int64)


def rows_on(
    mesh: Mesh, rows: int, *, devices: Iterable[jax.Device] | None = None
) -> slice | Int64[np.ndarray, " held"]:
    """Returns which of a batch's rows these devices hold, ascending; this host's devices, if none are named.

    Hosts whose devices split other axes of the mesh, such as tensor, hold the same rows.

    Returns:
        What selects them from an array: a slice where they are consecutive, else their numbers.

    Raises:
        ValueError: the rows do not divide over the mesh.
    """
    named_sharding(mesh, ("batch",), (rows,))  # says what does not divide
    size = rows // batch_shards(mesh)
    groups = row_groups(mesh, devices=devices)
    if groups[-1] - groups[0] == groups.size - 1:
        return slice(int(groups[0]) * size, (int(groups[-1]) + 1) * size)
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def fetch(tree: Any, *, keep: bool = True) -> Any:
    """Returns arrays as NumPy arrays, gathered over hosts one after another so that devices never hold more whole.

    Args:
        keep: False helps to gather and returns None for each array, so that one host alone holds the whole.
    """

    def one(array: jax.Array) -> np.ndarray | None:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array) if keep else None
        whole = multihost_utils.process_allgather(array, tiled=True)
        return whole if keep else None

    return jax.tree.map(one, tree)
