"""What a traced function costs: the FLOPs of a jaxpr, and the arrays that its differentiation saves.

Both work on shapes alone. Where the arrays live, and what a device is worth, `lmx.plan` says.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

# What gives an array another shape or order.
FORMS = ("copy", "copy_p", "optimization_barrier", "reshape", "squeeze", "transpose")


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of the products of matrices and convolutions; a multiply-add is two. Nothing else is counted.

    Attributes:
        recomputed: of the total, what the backward pass does again because `jax.checkpoint` did not keep it.
        unknown: what could not be counted fully, such as a loop without a known length (its body counts once).
    """

    total: float
    recomputed: float = 0.0
    unknown: tuple[str, ...] = ()


def count_flops(function: Callable, *arguments: Any) -> Flops:
    """Counts the FLOPs of a function on arguments that may be shapes; scans count as often as they run."""
    count = _Count()
    total, recomputed = count.jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, False)
    return Flops(total=total, recomputed=recomputed, unknown=tuple(count.unknown))


class _Count:
    """Counts (total, recomputed) and gathers what it could not count."""

    def __init__(self):
        self.unknown: dict[str, None] = {}

    def jaxpr(self, jaxpr: Any, again: bool) -> tuple[float, float]:
        return _sum(self.equation(equation, again) for equation in jaxpr.eqns)

    def equation(self, equation: Any, again: bool) -> tuple[float, float]:
        name, parameters = equation.primitive.name, equation.params
        again = again or "rematted_computation" in str(equation.source_info.name_stack)
        own = 0.0
        if name == "dot_general":
            ((contracted, _), _) = parameters["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            own = 2.0 * out.size * math.prod(left.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
            own = 2.0 * out.size * kernel.size / outputs
        elif name == "cond":
            return max(self.jaxpr(branch.jaxpr, again) for branch in parameters["branches"])
        elif name in ("pallas_call", "custom_call", "ffi_call"):
            self.unknown[f"{name} is not counted"] = None
            return 0.0, 0.0
        if own:
            return own, own * again
        total, recomputed = _sum(self.jaxpr(body, again) for body in _bodies(parameters))
        times = 1.0
        if name == "scan":
            times = parameters["length"]
        elif name == "while" and total:
            self.unknown["a while loop counts once"] = None
        elif name == "shard_map":  # its body is what one device does
            mesh = parameters["mesh"]
            times = math.prod(mesh.shape[axis] for axis in parameters["newly_manual_axes"])
        return times * total, times * recomputed


def _sum(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    total = recomputed = 0.0
    for one, again in pairs:
        total, recomputed = total + one, recomputed + again
    return total, recomputed


def _bodies(parameters: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs that an equation runs."""
    for value in parameters.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


@dataclass(frozen=True, kw_only=True)
class Residual:
    """An array that the forward pass leaves for the backward pass.

    Attributes:
        share: of its elements are kept; below 1 for the broadcast of a smaller array.
        scope: names of `jax.named_scope` around it, outermost first, joined by "/"; "" for none.
    """

    shape: tuple[int, ...]
    dtype: Any
    share: float
    scope: str


def saved_residuals(function: Callable, params: Any) -> tuple[Callable, list[Residual]]:
    """Finds what `jax.vjp(function, params)` saves, except parameters, constants and closed-over values.

    A scalar spread over a shape is a constant too: XLA makes it anew where it is used. So it does with another shape or
    order of an array that is there already, and with the broadcast of a smaller array, which counts as the smaller.

    Returns:
        A function of the parameters that gives these arrays alone, and a description of each, in the same order.
    """

    def residuals(params: Any) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(function, params)[1])

    closed = jax.make_jaxpr(residuals)(params)
    jaxpr = closed.jaxpr
    given = {id(var) for var in (*jaxpr.invars, *jaxpr.constvars)}
    chosen: list[int] = []
    described: list[Residual] = []
    for index, var in enumerate(jaxpr.outvars):
        if _is_literal(var) or _is_constant(jaxpr, var) or id(_source(jaxpr, var)) in given:
            continue
        source = _source(jaxpr, var)
        given.add(id(source))  # each once, in one form
        chosen.append(index)
        share = min(1.0, source.aval.size / var.aval.size)
        described.append(Residual(shape=var.aval.shape, dtype=var.aval.dtype, share=share, scope=_scope(jaxpr, var)))

    def chosen_residuals(params: Any) -> list[jax.Array]:
        found = residuals(params)
        return [found[index] for index in chosen]

    return chosen_residuals, described


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")


def _is_constant(jaxpr: Any, var: Any) -> bool:
    """Tells whether a variable is a literal spread over a shape, also where an inner function does it."""
    found = _producers(jaxpr).get(id(var))
    if found is None:
        return False
    equation, index = found
    if equation.primitive.name == "broadcast_in_dim":
        return _is_literal(equation.invars[0]) or _is_constant(jaxpr, equation.invars[0])
    bodies = list(_bodies(equation.params))
    if equation.primitive.name in ("pjit", "jit") and len(bodies) == 1:
        inner = bodies[0].outvars[index]
        return _is_literal(inner) or _is_constant(bodies[0], inner)
    return equation.primitive.name == "convert_element_type" and _is_constant(jaxpr, equation.invars[0])


def _producers(jaxpr: Any) -> dict[int, tuple[Any, int]]:
    return {id(var): (equation, i) for equation in jaxpr.eqns for i, var in enumerate(equation.outvars)}


def _source(jaxpr: Any, var: Any) -> Any:
    """Returns the variable of which this one is but another form or a broadcast, also by inner functions, or itself."""
    found = _producers(jaxpr).get(id(var))
    if found is None:
        return var
    equation, index = found
    if equation.primitive.name in (*FORMS, "broadcast_in_dim"):
        return var if _is_literal(equation.invars[index]) else _source(jaxpr, equation.invars[index])
    bodies = list(_bodies(equation.params))
    if equation.primitive.name in ("pjit", "jit") and len(bodies) == 1:
        inner = bodies[0].outvars[index]
        inner = inner if _is_literal(inner) else _source(bodies[0], inner)
        for outer, given in zip(equation.invars, bodies[0].invars, strict=True):
            if given is inner and not _is_literal(outer):
                return _source(jaxpr, outer)
    return var


def _scope(jaxpr: Any, var: Any) -> str:
    """Returns the named scopes in which a variable is made, looking into the bodies of scans and inner functions."""
    found = _producers(jaxpr).get(id(var))
    if found is None:
        return ""
    equation, index = found
    stack = re.sub(r"[^/()]*->[^/()]*", "", str(equation.source_info.name_stack))  # an einsum is no scope
    names = re.findall(r"[A-Za-z_][\w.\-]*(?![\w.\-]*\()", stack)
    bodies = list(_bodies(equation.params))
    if len(bodies) == 1 and len(bodies[0].outvars) == len(equation.outvars):
        names.append(_scope(bodies[0], bodies[0].outvars[index]))
    kept = [name for name in "/".join(names).split("/") if name and name not in ("checkpoint", "rematted_computation")]
    return "/".join(kept)
