"""Parameters of a decoder with each layer's arrays apart, as writing text reads them.

Training keeps layers stacked. A program that goes on word by word, called again and again, would copy each layer out of
the stack at every call: here that is done once.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmx.definition import Definition, Params, member
from lmx.parameters import check_shapes, open_params
from lmx.sharding.layout import ONE_DEVICE, Layout


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


def load_unstacked(path: Path, definition: Definition, *, layout: Layout = ONE_DEVICE) -> Unstacked:
    """Reads a decoder's parameters with their layers apart, so that no array is held both stacked and apart.

    Each host reads what its devices hold, an array of one layer at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of another model.
    """
    shapes = jax.eval_shape(unstack, definition.shapes)
    places = shardings(definition, layout) if layout.whole is not None else jax.tree.map(lambda _: None, shapes)
    with open_params(path) as file:
        check_shapes(file, definition.shapes, path)

        def read(names: tuple[str, ...], layer: int | None, leaf: Any, place: Any) -> jax.Array:
            part = file.get_slice(".".join(names))

            def piece(index: Any) -> np.ndarray:
                return np.asarray(part[index if layer is None else (layer, *index)], leaf.dtype)

            whole = (slice(None),) * len(leaf.shape)
            if place is None:
                return jnp.asarray(piece(whole))
            return jax.make_array_from_callback(leaf.shape, place, piece)

        def tree(shapes: Params, places: Params, *names: str, layer: int | None = None) -> Params:
            if not isinstance(shapes, dict):
                return read(names, layer, shapes, places)
            return {name: tree(part, places[name], *names, str(name), layer=layer) for name, part in shapes.items()}

        rest = tree(shapes.rest, places.rest)
        both = enumerate(zip(shapes.layers, places.layers, strict=True))
        return Unstacked(rest, [tree(*each, "stack", "blocks", layer=layer) for layer, each in both])


def merge(definition: Definition, parts: Unstacked) -> tuple[Any, list[Any]]:
    """Returns the model, of whose layers it has the shapes alone, and its blocks one by one."""
    shapes = definition.shapes["stack"]["blocks"]
    model = definition.merge({**parts.rest, "stack": {**parts.rest["stack"], "blocks": shapes}})
    block = nnx.graphdef(definition.network.stack.blocks)
    return model, [nnx.merge(block, layer) for layer in parts.layers]


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
