"""A model without its numbers: how it is built, what it looks like, and how parameters make it whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from lmx.sharding.tables import spread_tables

Params = Any  # nested dicts of arrays, as `nnx.to_pure_dict` gives them


class Definition(NamedTuple):
    """A model without arrays; made by `define`.

    Attributes:
        build: makes the model with initial values.
        network: the model with shapes in place of arrays.
        graph: its structure, in Flax NNX's form.
        shapes: shapes of its parameters.
        axes: names of their axes, a tuple for each array.
        adapt: makes the network's parameters from the trained ones, where they differ (`lmx.lora`).
        frozen: names of parameters, or of parts, that no optimizer changes.
    """

    build: Callable[[nnx.Rngs], Any]
    network: Any
    graph: Any
    shapes: Params
    axes: Params
    adapt: Callable[[Params], Params] | None = None
    frozen: tuple[str, ...] = ()

    def merge(self, params: Params) -> Any:
        """Returns the model with these parameters, the trained ones or the network's own.

        Where a step is traced for a mesh, each group of tokens first gets a copy of the tables of words, so that the
        gradients of all their uses meet once.
        """
        model = nnx.merge(self.graph, params if self.adapt is None else self.adapt(params))
        spread_tables(model)
        return model


def define(build: Callable[[nnx.Rngs], nnx.Module]) -> Definition:
    """Returns the definition of the model that `build` makes; nothing is allocated."""
    network = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    return Definition(build, network, nnx.graphdef(network), shapes, param_axes(network))


def param_axes(model: nnx.Module) -> Params:
    """Returns the tree of axis names of a model's parameters, a tuple for each array.

    Raises:
        ValueError: a parameter has no names.
    """

    def names(path: jax.tree_util.KeyPath, param: nnx.Variable) -> tuple[str | None, ...]:
        if "axes" not in param.get_metadata():
            place = ".".join(str(getattr(key, "key", key)) for key in path)
            raise ValueError(
                f"{place} must have names of its axes, got none. Say nnx.Param(array, axes=...), or for nnx.Linear "
                'kernel_metadata={"axes": ("embed", "mlp")}, bias_metadata={"axes": ("mlp",)}.'
            )
        return tuple(param.get_metadata("axes"))

    state = nnx.state(model, nnx.Param)
    axes = jax.tree_util.tree_map_with_path(names, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(axes)


def stack(members: list[Params]) -> Params:
    """Returns parameters of several members as one tree, every array with an axis of members first."""
    return jax.tree.map(lambda *arrays: jax.numpy.stack(arrays), *members)


def member(params: Params, index: int) -> Params:
    """Returns the parameters of one member of several."""
    return jax.tree.map(lambda array: array[index], params)
