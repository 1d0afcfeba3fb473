"""Low-rank adaptation: a model learns small changes of its matrices, and its own parameters stay (Hu et al. 2021).

The changes stand beside the model's parameters under "lora". Whoever uses the model merges them into its matrices, so
that layers know nothing of them, and a finished run holds a plain model.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmx.definition import Definition, Params, define
from lmx.errors import InputError
from lmx.nn.initializers import normal
from lmx.optimizers import Sides, matrix_of

LORA = "lora"  # the part of the parameters that holds the changes


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The matrices that learn a low-rank change; all other parameters stay fixed, except `trained`.

    Attributes:
        rank: rank of a change; 0 trains the model's own parameters instead.
        alpha: the change is alpha / rank times the product of its factors.
        targets: matrices of the layers that learn a change: names, names of parts, or patterns such as
            *.attention.query.weight.
        trained: parameters to train as they are, such as the output of a new classifier; names or patterns.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*",)
    trained: tuple[str, ...] = ("output", "pooling")


class Part(nnx.Module):
    """Named parts of a module: parameters, or parts again."""

    def __init__(self, parts: Mapping[str, Any]):
        for name, part in parts.items():
            setattr(self, name, Part(part) if isinstance(part, Mapping) else part)


def with_lora(model: Definition, config: LoraConfig) -> Definition:
    """Returns a model that learns low-rank changes of its matrices; with rank 0, the model as it is.

    Every layer's matrix gets its own change. Its first factor is drawn with deviation 1 / sqrt(inputs) and its second
    is zero, so that training begins with the model's own function (Hu et al. 2021, section 4.1).

    Raises:
        InputError: the rank is negative, alpha is not above 0, or a pattern of `targets` fits no matrix of a layer.
    """
    if config.rank < 0:
        raise InputError(f"lora.rank must be at least 0, got rank={config.rank}.")
    if config.rank == 0:
        return model
    if not 0 < config.alpha < math.inf:
        raise InputError(f"lora.alpha must be above 0, got alpha={config.alpha}.")
    matrices = _matrices(model)
    chosen: dict[tuple[str, ...], Sides] = {}
    for pattern in config.targets:
        fitting = {names: sides for names, sides in matrices.items() if _fits(names, pattern)}
        if not fitting:
            known = ", ".join(".".join(names) for names in matrices)
            raise InputError(f"lora.targets must name matrices of layers, got {pattern}. There are {known}.")
        chosen |= fitting

    def build(rngs: nnx.Rngs) -> nnx.Module:
        network = model.build(rngs)
        factors: dict[str, Any] = {}
        for names, sides in chosen.items():
            shape, axes = _leaf(model.shapes, names).shape, _leaf(model.axes, names)
            _insert(factors, names, _factors(shape, axes, sides, rank=config.rank, key=rngs.params()))
        setattr(network, LORA, Part(factors))
        return network

    scale = config.alpha / config.rank
    inner = model.adapt or (lambda params: params)
    return define(build)._replace(
        graph=model.graph,
        adapt=lambda params: inner(_merged(params, chosen, scale=scale)),
        frozen=_frozen(model, config.trained),
    )


def _frozen(model: Definition, trained: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of what is not trained as a whole: of a part of which nothing is, its own.

    Raises:
        InputError: a pattern that somebody asked for fits no parameter.
    """
    paths = jax.tree_util.tree_leaves_with_path(model.shapes)
    names = [tuple(str(entry.key) for entry in path) for path, _ in paths]
    for pattern in trained:
        if pattern not in LoraConfig.trained and not any(_fits(name, pattern) for name in names):
            known = ", ".join(model.shapes)
            raise InputError(f"lora.trained must name parameters, got {pattern}. The parts are {known}.")
    left = [name for name in names if not any(_fits(name, each) for each in trained)]
    whole = [part for part in model.shapes if all(name in left for name in names if name[0] == part)]
    return (*whole, *(".".join(name) for name in left if name[0] not in whole))


def own_parameters(params: Params) -> Params:
    """Returns a tree of parameters, or of facts about them, without the changes."""
    return {name: part for name, part in params.items() if name != LORA}


def _matrices(model: Definition) -> dict[tuple[str, ...], Sides]:
    """Returns the matrices of stacked layers by the names that lead to them."""
    matrices = {}
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    for path, axes in jax.tree_util.tree_leaves_with_path(model.axes, is_leaf=is_axes):
        sides = matrix_of(axes)
        if axes[:1] == ("layers",) and sides is not None:
            matrices[tuple(str(entry.key) for entry in path)] = sides
    return matrices


def _fits(names: tuple[str, ...], pattern: str) -> bool:
    name = ".".join(names)
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def _factors(
    shape: tuple[int, ...], axes: tuple[str | None, ...], sides: Sides, *, rank: int, key: jax.Array
) -> dict[str, nnx.Param]:
    """Returns the factors [layers, inputs, rank] and [layers, rank, outputs] of a matrix's change."""
    first = tuple(range(sides.inputs[0]))
    pick: Callable[[tuple, tuple[int, ...]], tuple] = lambda values, places: tuple(values[p] for p in places)  # noqa: E731
    inputs = math.prod(pick(shape, sides.inputs))
    a = normal(key, (*pick(shape, first + sides.inputs), rank), deviation=inputs**-0.5)
    b = jnp.zeros((*pick(shape, first), rank, *pick(shape, sides.outputs)))
    return {
        "a": nnx.Param(a, axes=(*pick(axes, first + sides.inputs), None)),
        "b": nnx.Param(b, axes=(*pick(axes, first), None, *pick(axes, sides.outputs))),
    }


def _merged(params: Params, chosen: Mapping[tuple[str, ...], Sides], *, scale: float) -> Params:
    """Returns the model's own parameters with the changes in them; parameters without changes as they are."""
    if LORA not in params:
        return params
    merged = own_parameters(params)
    for names, sides in chosen.items():
        factors, matrix = _leaf(params[LORA], names), _leaf(params, names)
        first = "".join(chr(ord("a") + place) for place in range(sides.inputs[0]))
        inputs = "".join(chr(ord("a") + place) for place in sides.inputs)
        outputs = "".join(chr(ord("a") + place) for place in sides.outputs)
        equation = f"{first}{inputs}z,{first}z{outputs}->{first}{inputs}{outputs}"
        change = jnp.einsum(equation, factors["a"], factors["b"], precision=jax.lax.Precision.HIGHEST)
        merged = _with_leaf(merged, names, matrix + (scale * change).astype(matrix.dtype))
    return merged


def _leaf(tree: Params, names: tuple[str, ...]) -> Any:
    for name in names:
        tree = tree[name]
    return tree


def _insert(tree: dict[str, Any], names: tuple[str, ...], value: Any) -> None:
    *way, last = names
    for name in way:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _with_leaf(tree: Params, names: tuple[str, ...], value: Any) -> Params:
    """Returns a tree with another leaf; the given one stays as it is."""
    first, *rest = names
    return {**tree, first: _with_leaf(tree[first], tuple(rest), value) if rest else value}
