"""The training state and the step: a pure function `(state, batch) -> (state, metrics)`.

This module knows no model class: the loss is a function of parameters. `lmx.learner` decides where the state lives on a
mesh; `lmx.loop` logs, saves and stops.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from lmx.definition import Params, param_axes
from lmx.sharding.placement import named_sharding, replicated, stacked
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import GradientSum, use_mesh

Batch = Mapping[str, jax.Array]
# (params, micro-batch, key or None) -> sums over what counts: "loss" (to be minimised), "weight", and any others.
Loss = Callable[[Params, Batch, Any], dict[str, jax.Array]]
Step = Callable[["TrainState", Batch], tuple["TrainState", dict[str, jax.Array]]]
# Initial values are drawn with keys that are folds of the seed's key by 0, 1, 2 ...; what is random in a step, with
# folds of its fold by this.
STEPS_STREAM = 2**32 - 1


class TrainState(NamedTuple):
    """Everything that training changes, in one pytree.

    Several seeds that train together share one state: every array except `step` begins with an axis of seeds, E.

    Attributes:
        step: number of updates tried so far, which is also the place in the data.
        seed: seed of dropout and of everything else that is random inside a step.
        average: the exponential average of the parameters, or None.
        skipped: number of updates skipped in a row because loss or gradient was not finite.
        applied: number of updates made, without the skipped ones: what the optimizer's schedule counts.
        best: the parameters with the best validation so far, or None where they are not kept.
    """

    step: Int[Array, ""]
    seed: UInt[Array, ""]
    params: Params
    optimizer_state: Any
    average: Params | None
    skipped: Int[Array, ""]
    applied: Int[Array, ""]
    best: Params | None = None


# Which axis of a state is the seeds', for vmap: all seeds are at the same step.
SEEDS_AXIS = TrainState(*cast(Any, (None, 0, 0, 0, 0, 0, 0, 0)))


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | UInt[Array, ""],
    average: bool = False,
    best: bool = False,
) -> TrainState:
    """Returns the state before the first update."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        optimizer_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if average else None,
        skipped=jnp.zeros((), jnp.int32),
        applied=jnp.zeros((), jnp.int32),
        best=jax.tree.map(jnp.copy, params) if best else None,
    )


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation, *, average_decay: float | None = None) -> Step:
    """Builds the pure training step.

    A batch holds arrays [A, B, ...]: A micro-batches whose gradients are summed and divided by the weight (the target
    tokens) of all of them, which is the gradient of one batch of A x B rows. A step whose loss or gradient is not
    finite changes nothing except the counters, and reports it in its metrics.

    The metrics are every sum of the loss, divided by the weight; `weight`; `gradient_norm` before clipping;
    `parameter_norm`; `skipped` (in a row).

    Args:
        average_decay: keeps an exponential average of the parameters with this decay per update; it is smaller at
            first, see `decay_after`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), STEPS_STREAM), state.step)
        sums, gradients = _accumulate(loss, state.params, batch, key)
        weight = jnp.maximum(sums.pop("weight"), 1e-8)
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm)
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
            params = optax.apply_updates(state.params, updates)
        average = state.average
        if average_decay is not None and average is not None:
            average = optax.incremental_update(params, average, 1 - decay_after(state.applied, average_decay))

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        new_state = state._replace(
            step=state.step + 1,
            params=keep(params, state.params),
            optimizer_state=keep(optimizer_state, state.optimizer_state),
            average=keep(average, state.average),
            skipped=jnp.where(finite, 0, state.skipped + 1),
            applied=state.applied + finite,
        )
        metrics = {name: value / weight for name, value in sums.items()}
        metrics |= {
            "weight": weight,
            "gradient_norm": norm,
            "parameter_norm": optax.tree.norm(new_state.params),
            "skipped": new_state.skipped,
        }
        return new_state, metrics

    return step


def decay_after(applied: Int[Array, "*E"], decay: float) -> Float[Array, "*E"]:
    """Returns the decay of an exponential average after n updates: min(decay, n / (n + 9)).

    With a fixed decay of 0.9999, the random initial values would make up 45% of an average over 8,000 updates. Here
    they have no part, because the first decay is 0. While the decay grows, the average covers about the last ninth of
    the training.
    Source: `num_updates` of TensorFlow's ExponentialMovingAverage, (1 + n) / (10 + n), counted from -1 instead of 0.
    """
    return jnp.minimum(decay, applied / (applied + 9.0))


def newest_rate(schedule: optax.Schedule, state: TrainState) -> float:
    """Returns the learning rate of the newest update; skipped steps do not count, neither here nor in the optimizer.

    With several seeds, it is the rate of the seed with the most updates.
    """
    return float(np.asarray(schedule(max(int(np.max(jax.device_get(state.applied))) - 1, 0))))


def over_seeds(step: Step) -> Step:
    """Returns the step of several seeds together: all arrays of batch and metrics begin with the axis of seeds."""
    return jax.vmap(step, in_axes=(SEEDS_AXIS, 0), out_axes=(SEEDS_AXIS, 0))


def keep_best(state: TrainState, better: Bool[Array, "*E"]) -> TrainState:
    """Returns the state with its parameters, or their average, as the best so far for the seeds that are better."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(better, range(better.ndim, new.ndim)), new, old)

    newest = state.params if state.average is None else state.average
    return state._replace(best=jax.tree.map(choose, newest, state.best))


def _accumulate(loss: Loss, params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[dict[str, jax.Array], Params]:
    """Sums loss and gradients over the micro-batches, each with a key of its own."""

    def micro(params: Params, part: Batch, index: jax.Array) -> tuple[dict[str, jax.Array], Params]:
        def total(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            sums = loss(params, part, jax.random.fold_in(key, index))
            return sums["loss"], sums

        (_, sums), gradients = jax.value_and_grad(total, has_aux=True)(params)
        return sums, gradients

    number = jax.tree.leaves(batch)[0].shape[0]
    if number == 1:
        return micro(params, jax.tree.map(lambda x: x[0], batch), jnp.zeros((), jnp.int32))

    def add(total: tuple, item: tuple) -> tuple:
        return jax.tree.map(jnp.add, total, micro(params, *item)), None

    items = batch, jnp.arange(number)
    shapes = jax.eval_shape(lambda: micro(params, *jax.tree.map(lambda x: x[0], items)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, items)[0]


def make_eval_step(loss: Loss) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """Builds the pure evaluation step: the loss's sums over one batch [B, ...], without dropout."""

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return loss(params, batch, None)

    return step


def born(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    *,
    shardings: TrainState,
    seed: int | Sequence[int],
    blank: Collection[str] = (),
) -> TrainState:
    """Builds the training state of a new model directly where it lives: no device ever holds the whole state.

    Args:
        shardings: from `state_shardings`; where they have an average, or the best, so has the state.
        seed: seed of the initial values and of the randomness in a step; several make a state of several seeds.
        blank: paths of parameters, joined by ".", that are zeros instead of drawn, because something takes their place.
    """

    def create(seed: UInt[Array, ""]) -> TrainState:
        model = build(nnx.Rngs(params=jax.random.key(seed)))
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.zeros_like(leaf) if ".".join(str(entry.key) for entry in path) in blank else leaf,
            params,
        )
        kept = {"average": shardings.average is not None, "best": shardings.best is not None}
        return create_state(params, optimizer, seed=seed, **kept)

    numbers = np.asarray(seed, np.uint32)
    if numbers.ndim:
        create = jax.vmap(create, out_axes=SEEDS_AXIS)
    return jax.jit(create, out_shardings=shardings)(numbers)


def parameter_of(
    path: tuple, shapes: Mapping[tuple, tuple[int, ...]], *, shape: tuple[int, ...] | None = None
) -> tuple | None:
    """Returns the path of the parameter that a leaf of an optimizer's state belongs to.

    The longest suffix of the leaf's path that names a parameter decides. A state need not mirror the parameters: it may
    hold some of them, in groups, and several numbers for each.

    Args:
        shapes: the shapes of all parameters by path.
        shape: the shape of the leaf, which the parameter must have; None accepts any shape.
    """
    for start in range(len(path)):
        found = shapes.get(path[start:])
        if found is not None and shape in (None, found):
            return path[start:]
    return None


def state_shardings(
    abstract: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
    average: bool = False,
    best: bool = False,
    seeds: bool = False,
) -> TrainState:
    """Returns where each array of the state lives, from the axes of the model's parameters.

    Any array of the optimizer lives with the parameter of its name and shape, see `parameter_of`. Arrays without such a
    parameter are whole on every device.

    Args:
        average, best: whether the state has them.
        seeds: whether the state has an axis of seeds, which is never split.
    """
    shapes = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    axes = param_axes(abstract)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    params = jax.tree.map(lambda a, s: named_sharding(mesh, a, s.shape, rules=rules), axes, shapes, is_leaf=is_axes)
    whole = replicated(mesh)
    placed: dict[Any, NamedSharding] = dict(jax.tree_util.tree_leaves_with_path(params))

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        return placed.get(parameter_of(path, shapes_at, shape=leaf.shape), whole)

    shapes_at = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    optimizer_state = jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, shapes))
    if seeds:
        params, optimizer_state = jax.tree.map(stacked, (params, optimizer_state))
    kept = params if average else None, whole, whole, params if best else None
    # A state of shardings in the places of arrays.
    return TrainState(*cast(Any, (whole, whole, params, optimizer_state, *kept)))


def abstract_state(
    abstract: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    shardings: TrainState,
    num_seeds: int | None = None,
) -> TrainState:
    """Returns the state as shapes with their shardings, to restore a checkpoint and to count a plan.

    Args:
        num_seeds: number of seeds on the axis of seeds; None for a state without that axis.
    """
    shapes = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    kept = {"average": shardings.average is not None, "best": shardings.best is not None}

    def create(params: Params) -> TrainState:
        return create_state(params, optimizer, seed=0, **kept)

    if num_seeds is not None:
        create = jax.vmap(create, out_axes=SEEDS_AXIS, axis_size=num_seeds)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_seeds, *x.shape), x.dtype), shapes)
    state = jax.eval_shape(create, shapes)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings)


def compile_step(
    step: Step,
    *,
    mesh: Mesh,
    shardings: TrainState,
    rules: Rules = DEFAULT_RULES,
    gradient_sum: GradientSum = "float32",
) -> Callable:
    """Returns the step jitted for a mesh; it donates the state, and compiles once for each batch shape.

    Args:
        gradient_sum: the type in which devices add up their gradients; "compute" is the model's, which halves the
            bytes if that is bfloat16.
    """

    def on_mesh(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        with use_mesh(mesh, rules=rules, gradient_sum=gradient_sum):
            return step(state, batch)

    return jax.jit(on_mesh, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def compile_eval_step(
    step: Callable[[Params, Batch], dict[str, jax.Array]], *, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """Returns an evaluation step jitted for a mesh; every device gets the sums."""

    def on_mesh(params: Params, batch: Batch) -> dict[str, jax.Array]:
        with use_mesh(mesh, rules=rules):
            return step(params, batch)

    return jax.jit(on_mesh, out_shardings=replicated(mesh))
