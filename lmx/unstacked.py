"""Parameters of a decoder with each layer's arrays apart, as writing text reads them.

Training keeps layers stacked. A program that goes on word by word, called again and again, would copy each layer out of
the stack at every call: here that is done once.
"""

from typing import Any, NamedTuple

import jax
from flax import nnx

from lmx.definition import Definition, Params, member
from lmx.sharding.layout import Layout


class Unstacked(NamedTuple):
    """All parameters but the layers', and those of each layer."""

    rest: Params
    layers: list[Params]


def unstack(params: Params) -> Unstacked:
    """Returns parameters with their layers apart."""
    stack = params["stack"]
    layers = stack["blocks"]
    number = jax.tree.leaves(layers)[0].shape[0]
    rest = {**params, "stack": {name: part for name, part in stack.items() if name != "blocks"}}
    return Unstacked(rest, [member(layers, index) for index in range(number)])


def merge(definition: Definition, parts: Unstacked) -> tuple[Any, list[Any]]:
    """Returns the model, of whose layers it has the shapes alone, and its blocks one by one."""
    shapes = definition.shapes["stack"]["blocks"]
    model = definition.merge({**parts.rest, "stack": {**parts.rest["stack"], "blocks": shapes}})
    block = nnx.graphdef(definition.network.stack.blocks)
    return model, [nnx.merge(block, layer) for layer in parts.layers]


def placed_shapes(definition: Definition, layout: Layout) -> Params:
    """Returns the shapes of all parameters, stacked, with where a mesh has them."""

    def place(axes: tuple[str | None, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.sharding(axes, leaf.shape))

    return jax.tree.map(place, definition.axes, definition.shapes, is_leaf=_is_axes)


def shardings(definition: Definition, layout: Layout) -> Unstacked:
    """Returns where a mesh has the parameters of `unstack`."""
    shapes = jax.eval_shape(unstack, definition.shapes)
    rest, layers = unstack_axes(definition)

    def place(axes: tuple[str | None, ...], leaf: Any) -> Any:
        return layout.sharding(axes, leaf.shape)

    return jax.tree.map(place, Unstacked(rest, layers), shapes, is_leaf=_is_axes)


def unstack_axes(definition: Definition) -> Unstacked:
    """Returns the names of the axes of the parameters of `unstack`."""
    stack, number = definition.axes["stack"], definition.network.config.num_layers
    layer = jax.tree.map(lambda axes: axes[1:], stack["blocks"], is_leaf=_is_axes)
    rest = {**definition.axes, "stack": {name: part for name, part in stack.items() if name != "blocks"}}
    return Unstacked(rest, [layer] * number)


def _is_axes(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and not isinstance(leaf, Unstacked)
