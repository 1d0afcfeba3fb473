"""Optimizers by their names in a config: which parameters each updates, and the shapes it sees.

A model's layers are stacked, and its attention weights have several axes, so optimizers of matrices would misread them.
Here they get the matrix of every layer, which the names of the axes define. The algorithms are Optax's.
"""

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lmx.definition import Definition, Params
from lmx.differences import few
from lmx.errors import InputError
from lmx.optimization import BETA1, OptimizerConfig, compose

# The root mean square of what Adam adds is about this share of its learning rate. Muon's is made the same, so that one
# rate and one weight decay serve both. Source: Liu et al. 2025, "Muon is scalable for LLM training", section 2.2.
MUON_RMS = 0.2
MUON_MOMENTUM = 0.95
# Adafactor keeps a row and a column in the place of a matrix whose sides both have at least this. Source: Shazeer and
# Stern 2018, by way of Optax.
FACTORED_FROM = 128
# An update whose root mean square is above this is scaled down to it: d of Shazeer and Stern 2018, section 6.
LARGEST_RMS = 1.0


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, *, model: Definition
) -> optax.GradientTransformation:
    """Returns the optimizer of a config for the parameters of a model.

    Frozen parameters, by the config or by the model, get no update and no state, and do not count in the norm that
    clips the other gradients.

    Raises:
        InputError: a pattern of `freeze` fits no parameter, or all are frozen; layer_decay is no share.
        ValueError: another number of the config means nothing.
    """
    config.check()
    if not 0 < config.layer_decay <= 1:
        raise InputError(f"layer_decay must be above 0 and at most 1, got layer_decay={config.layer_decay}.")
    labels = _labels(config, model)
    optimizer = compose(
        _direction(config, model, labels),
        schedule,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        scale=None if config.layer_decay == 1 else by_layer(model, decay=config.layer_decay),
    )
    if "frozen" not in labels.values():
        return optimizer
    # -0, as x + 0 is not x where x is -0.
    still = optax.chain(optax.set_to_zero(), optax.scale(-1.0))
    groups = {path: "frozen" if label == "frozen" else "trained" for path, label in labels.items()}
    return optax.partition({"trained": optimizer, "frozen": still}, _labelled(groups))


def updated_by(config: OptimizerConfig, model: Definition) -> dict[str, str]:
    """Returns the parameters of each optimizer in a line each: "8 arrays, 1,200 parameters: encoder, output.bias"."""
    groups: dict[str, list[tuple]] = {}
    labels = _labels(config, model)
    for path, label in labels.items():
        groups.setdefault(label, []).append(path)
    sizes = {path: math.prod(leaf.shape) for path, leaf in _by_path(model.shapes).items()}
    lines = {}
    for label, paths in sorted(groups.items()):
        numbers = sum(sizes[path] for path in paths)
        named = ", ".join((*config.freeze, *model.frozen)) if label == "frozen" else _few_words(paths, labels)
        which = "all" if len(groups) == 1 else named
        lines[label] = f"{len(paths)} arrays, {numbers:,} parameters: {which}"
    return lines


class Sides(NamedTuple):
    """The axes of an array that form the two sides of a matrix; axes before them count several matrices."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrix_of(axes: tuple[str | None, ...]) -> Sides | None:
    """Returns which axes of a parameter form the two sides of a matrix, or None if it is no matrix.

    One side is "embed" alone, and the other side all axes beside it: ("layers", "embed", "heads", None) is a matrix of
    two sides for each layer. Each side has one name, which must not be a vocabulary. Biases, norms, tables of words and
    of positions, and the output layer of a classifier ("embed", None) are therefore no matrices.
    """
    first = sum(name == "layers" for name in axes)
    sides = axes[first:]
    if len(sides) < 2 or "vocab" in sides:
        return None
    if sides[0] == "embed" or len(sides) == 2:
        split = 1
    elif sides[-1] == "embed":
        split = len(sides) - 1
    else:
        return None
    if any(sum(name is not None for name in side) != 1 for side in (sides[:split], sides[split:])):
        return None
    places = tuple(range(first, len(axes)))
    return Sides(places[:split], places[split:])


def by_layer(model: Definition, *, decay: float) -> optax.GradientTransformation:
    """Scales updates by decay^(N + 1 - l) in layer l = 1 ... N of each stack, and by decay^(N + 1) below all layers.

    Layer 0, below the layers, has tables of words and positions and every part called `embedding...`, counted from the
    highest stack. Parameters after the layers, and the table of outputs, keep the full rate.
    Source: Clark et al. 2020 (ELECTRA), appendix, and Bao et al. 2021 (BEiT).
    """
    axes = _by_path(model.axes)
    shapes = _by_path(model.shapes)
    highest = max((shapes[path].shape[0] for path in shapes if _is_stacked(axes[path])), default=0)

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        if _is_stacked(axes[path]):
            number = update.shape[0]
            rates = decay ** (number - jnp.arange(number, dtype=update.dtype))
            return update * rates.reshape(-1, *[1] * (update.ndim - 1))
        return update * decay ** (highest + 1) if _is_below(_names(path)) else update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def by_matrix(inner: optax.GradientTransformation, model: Definition) -> optax.GradientTransformation:
    """Applies a transformation to parameters of which matrices have their two sides as axes.

    Only a matrix that Adafactor would factor is given its two sides; other state keeps the shape of its parameter, and
    lives where it does.
    """
    axes = _by_path(model.axes)

    def seen(path: tuple, x: jax.Array) -> jax.Array:
        sides = matrix_of(axes[path])
        if sides is None:
            return x
        shape = [math.prod(x.shape[place] for place in side) for side in sides]
        first = x.shape[: sides.inputs[0]]
        return x.reshape(*first, *shape) if min(shape) >= FACTORED_FROM else x

    def see(tree: Params) -> Params:
        return jax.tree_util.tree_map_with_path(seen, tree)

    def init(params: Params) -> Any:
        return inner.init(see(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        changed, state = inner.update(see(updates), state, None if params is None else see(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), changed, updates), state

    return optax.GradientTransformation(init, update)


def each(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation to each entry of the first axis by itself."""

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        return jax.vmap(inner.update)(updates, state, params)

    return optax.GradientTransformation(jax.vmap(inner.init), update)


def _direction(config: OptimizerConfig, model: Definition, labels: dict[tuple, str]) -> optax.GradientTransformation:
    """Returns what makes of gradients the direction to go in, of which a learning rate takes its share."""
    adam = optax.scale_by_adam(b1=BETA1, b2=config.beta2, eps=config.epsilon)
    if config.optimizer == "lion":
        return optax.scale_by_lion(b1=BETA1, b2=config.beta2)
    if config.optimizer == "adafactor":
        factored = optax.scale_by_factored_rms(min_dim_size_to_factor=FACTORED_FROM)
        one = optax.chain(factored, optax.clip_by_block_rms(LARGEST_RMS))
        axes, shapes = _by_path(model.axes), _by_path(model.shapes)
        numbers = {path: shapes[path].shape[0] if _is_stacked(axes[path]) else 0 for path in _trained(labels)}
        groups = {path: f"{number} layers" if number else "no layers" for path, number in numbers.items()}
        takes = {group: one if group == "no layers" else each(one) for group in groups.values()}
        takes = {group: by_matrix(inner, model) for group, inner in takes.items()}
        return optax.partition(takes, _labelled(groups))
    if config.optimizer == "muon":
        sides = {path: matrix_of(axes) for path, axes in _by_path(model.axes).items()}
        numbers = {path: optax.contrib.MuonDimensionNumbers(*both) for path, both in sides.items() if both}
        # The rate of -1 is Optax's way to leave the sign to what follows.
        muon = optax.contrib.muon(
            -1.0,
            beta=MUON_MOMENTUM,
            consistent_rms=MUON_RMS,
            muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
                lambda path, _: numbers[path], tree
            ),
        )
        return optax.partition({"muon": muon, "adam": adam}, _labelled(labels))
    return adam


def _labels(config: OptimizerConfig, model: Definition) -> dict[tuple, str]:
    """Returns by which name each parameter is updated: that of an optimizer, or "frozen"."""
    names = {path: ".".join(_names(path)) for path in _by_path(model.shapes)}
    frozen = set()
    for pattern in (*config.freeze, *model.frozen):
        found = {
            path for path, name in names.items() if any(fnmatch.fnmatchcase(name, p) for p in (pattern, f"{pattern}.*"))
        }
        if not found:
            parts = [
                name[:end]
                for name in names.values()
                for end in range(len(name) + 1)
                if name[end : end + 1] in ("", ".")
            ]
            nearest = difflib.get_close_matches(pattern, list(dict.fromkeys(parts)), n=1, cutoff=0)
            raise InputError(f"freeze must name parameters, got {pattern}. The nearest is {nearest[0]}.")
        frozen |= found
    if len(frozen) == len(names):
        raise InputError(f"freeze must leave a parameter to train, got freeze={' '.join(config.freeze)}.")
    axes = _by_path(model.axes)

    def label(path: tuple) -> str:
        if path in frozen:
            return "frozen"
        return "adam" if config.optimizer == "muon" and matrix_of(axes[path]) is None else config.optimizer

    return {path: label(path) for path in names}


def _trained(labels: dict[tuple, str]) -> list[tuple]:
    return [path for path, label in labels.items() if label != "frozen"]


def _labelled(labels: dict[tuple, str]) -> Callable[[Params], Params]:
    """Returns the function from a tree, of all parameters or of some, to that of their labels."""
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: labels[path], tree)


def _by_path(tree: Params) -> dict[tuple, Any]:
    """Returns the leaves of a tree of parameters, or of the names of their axes, by their paths."""
    return dict(jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, tuple)))


def _is_stacked(axes: tuple[str | None, ...]) -> bool:
    return axes[:1] == ("layers",)


def _names(path: tuple) -> list[str]:
    return [str(entry.key) for entry in path]


def _is_below(names: list[str]) -> bool:
    if any(name.startswith("output") for name in names):
        return False
    return names[-1] == "table" or any(name.startswith("embedding") for name in names)


def _few_words(paths: list[tuple], all_paths: Iterable[tuple]) -> str:
    """Returns the parts of a model whose parameters are all among these, or the last names where that is shorter."""
    others = set(all_paths) - set(paths)
    parts = {}
    for path in paths:
        ends = range(1, len(path) + 1)
        end = next(end for end in ends if all(other[:end] != path[:end] for other in others))
        parts[".".join(_names(path[:end]))] = None
    last = dict.fromkeys(".".join(_names(path)[-2:]) for path in paths)
    return min(few(list(parts)), few(list(last)), key=len)
