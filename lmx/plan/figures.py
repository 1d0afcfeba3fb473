"""What a plan is made of: the job that is planned, and the figures that are found for it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import optax
from flax import nnx

from lmx.costs import Flops
from lmx.devices import Device
from lmx.plan.working import Fullest
from lmx.sharding.mesh import MeshConfig, count_devices
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import GradientSum
from lmx.training import Loss

EFFICIENCY = 0.5  # share of the peak that products of matrices reach; what good runs of large models have
USABLE = 0.9  # for what is counted, of what XLA takes of the memory; the rest: fragmentation and workspaces of kernels


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be planned: a model, its loss and optimizer, a mesh, and a batch.

    Attributes:
        batch: shapes of the most expensive batch, each [A, B, L] or longer.
        typical: shapes of a usual batch, for the estimate; None when there is but one.
        dtype: the type that the model computes in.
        average: whether the state keeps an average of the parameters.
        best: whether it keeps the best so far.
        gradient_sum: the type in which devices add up their gradients, see `lmx.training.compile_step`.
        rules: what the mesh's axes split.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    loss: Loss
    optimizer: optax.GradientTransformation
    mesh: MeshConfig
    batch: Mapping[str, tuple[int, ...]]
    typical: Mapping[str, tuple[int, ...]] | None = None
    dtype: str = "float32"
    average: bool = False
    best: bool = False
    gradient_sum: GradientSum = "float32"
    rules: Rules = field(default_factory=lambda: DEFAULT_RULES)

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
        fullest: what a step holds beside the state at its fullest moment: gradients and residuals as far as they are
            there then, and what is at work, such as a chunk's logits, a layer's gathered weights or what is recomputed.
    """

    modules: tuple[Module, ...]
    activations: tuple[tuple[str, int], ...]
    squares: int
    fullest: Fullest

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
        """Bytes of all that is counted: the state, and what a step holds beside it at its fullest."""
        return self.state + self.gradients + self.saved + self.working

    @property
    def working(self) -> int:
        """Bytes that a step needs at its fullest beyond all gradients and residuals together; 0 if these are more."""
        return max(0, self.fullest.size - self.gradients - self.saved)


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
    """All that is sent in a step, and the least possible by axes: (kind, axes, bytes).

    Attributes:
        known: whether the trips of all loops are known.
        far: of the counted bytes, those between groups of devices that are joined closely.
        widened: of the counted bytes, those that are sent because gradients are summed in float32.
    """

    traffic: tuple[Traffic, ...]
    least: tuple[tuple[str, tuple[str, ...], float], ...]
    known: bool
    far: float
    widened: float = 0.0

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
    """What a run will need; `lmx.plan.tables.render` makes tables of it."""

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
        """Whether all that is counted leaves a tenth free of what XLA takes of the device's memory."""
        return self.memory.total <= USABLE * self.device.allotted
