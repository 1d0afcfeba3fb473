"""The layout inside a step: the one ambient value, the mesh and rules in force while a step is traced.

Layers name the axes of their activations (`constrain`, `move`) and parameters (`gather`, `stored`) and hold no mesh;
outside `use_mesh` all of it does nothing.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from lmx.sharding.placement import named_sharding
from lmx.sharding.rules import DEFAULT_RULES, STORED, Rules, rules_of_tables

# In which type the gradients of devices are added up: float32, or the type that the model computes in. A sum of n
# bfloat16 numbers in turn loses about n / 512 of it on a ring, but half as many bytes are sent.
GradientSum = Literal["float32", "compute"]


@dataclass(frozen=True)
class Ambient:
    """The mesh and rules in force, with the axes of `rules_of_tables`, and the type that gradients are added up in."""

    mesh: Mesh
    rules: Rules
    gradient_sum: GradientSum

    def computed(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        """Returns where an array lives while it is computed with: whole along what only storage splits."""
        rules = {**self.rules, **dict.fromkeys(STORED, ())}
        return named_sharding(self.mesh, axes, shape, rules=rules)

    def stored(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        """Returns where an array of the shape of a parameter lives between steps."""
        return named_sharding(self.mesh, axes, shape, rules=self.rules)


_ambient: Ambient | None = None


@contextlib.contextmanager
def use_mesh(mesh: Mesh, *, rules: Rules = DEFAULT_RULES, gradient_sum: GradientSum = "float32") -> Iterator[None]:
    """Makes a mesh the one that `constrain`, `gather` and `parts` read while a step is traced."""
    global _ambient
    before, _ambient = (
        _ambient,
        Ambient(mesh, {**rules, **rules_of_tables(rules)}, gradient_sum) if mesh.size > 1 else None,
    )
    try:
        yield
    finally:
        _ambient = before


def parts(*axes: str) -> int:
    """Returns into how many pieces activations are split along these axes together; 1 on one device."""
    if _ambient is None:
        return 1
    return math.prod(_ambient.mesh.shape[name] for axis in axes for name in _ambient.rules.get(axis, ()))


def ambient() -> Ambient | None:
    """Returns what is in force, or None outside `use_mesh` and on one device."""
    return _ambient


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
    weights give their gradients another way, see `lmx.sharding.products.weight_product`.
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


def move(x: jax.Array, here: Sequence[str | None], there: Sequence[str | None]) -> jax.Array:
    """Returns an activation laid out by `there` that was laid out by `here`; its gradient goes the way back.

    Between two of its axes, that is an all-to-all. Outside `use_mesh` nothing happens.
    """
    if _ambient is None:
        return x
    return _gather(_ambient.computed(tuple(there), x.shape), _ambient.computed(tuple(here), x.shape), x)
