"""Model, loss and optimizer as one record, and the same on a mesh, compiled.

`Learner` is pure: an experiment's `build` makes it from its config. `place` decides once where every array lives and
what a state looks like, and compiles the steps, so that no two functions must agree on flags. Several seeds that train
together are one placed learner, whose arrays begin with an axis of seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from lmx.definition import Definition, Params
from lmx.lora import own_parameters
from lmx.parameters import load_placed
from lmx.sharding.layout import Layout
from lmx.sharding.placement import named_sharding, place_batch, place_rows
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import GradientSum
from lmx.training import (
    Batch,
    Loss,
    TrainState,
    abstract_state,
    born,
    compile_eval_step,
    compile_step,
    keep_best,
    make_eval_step,
    make_train_step,
    over_seeds,
    state_shardings,
)

Shape = tuple[int, int, int]


class Learner(NamedTuple):
    """A model, its loss and its optimizer: pure, and everything that training, planning and tests need.

    Attributes:
        loss: see `lmx.training.Loss`.
        schedule: the optimizer's learning rate, for the metrics.
        flops: maps the shape (A, B, L) of a batch to the FLOPs of its step, with full attention and with its causal
            half.
        dtype: the type that the model computes in.
        average_decay: decay of an exponential average of the parameters, which validation and test then use; None
            keeps no average.
        keeps_best: whether the state keeps the parameters with the best validation beside the newest.
        num_seeds: number of seeds that train together; arrays then have an axis of seeds. None has no such axis.
        gradient_sum: the type in which devices add up their gradients.
        updated_by: the parameters that each optimizer updates, which a run prints at its start.
    """

    model: Definition
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    flops: Callable[[Shape], tuple[float, float]] | None = None
    dtype: str = "float32"
    average_decay: float | None = None
    keeps_best: bool = False
    num_seeds: int | None = None
    gradient_sum: GradientSum = "float32"
    updated_by: Mapping[str, str] | None = None


class Placed(NamedTuple):
    """A learner on a mesh; made by `place`.

    Attributes:
        rules: what the mesh's axes split, of parameters, batches and activations.
        shardings: where each array of the state lives.
        like: the state as shapes with their shardings.
        step: `(state, batch) -> (state, metrics)`; donates the state.
        evaluate: `(params, batch) -> sums` of the loss; arrays [E] with several seeds.
        keep_best: `(state, which seeds are better) -> state`.
        whole: `trained parameters -> parameters of the network`, which differ with adapters (`lmx.lora`).
        born: makes the state before the first update from the seeds; parameters whose names are given as `blank` are
            zeros.
    """

    learner: Learner
    mesh: Mesh
    rules: Rules
    shardings: TrainState
    like: TrainState
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Params, Batch], dict[str, jax.Array]]
    keep_best: Callable[[TrainState, np.ndarray], TrainState]
    whole: Callable[[Params], Params]
    born: Callable[..., TrainState]

    @property
    def shapes(self) -> Params:
        """The parameters of the network as shapes, for what is given them at each validation and holds none between."""
        return own_parameters(self.like.params)

    @property
    def layout(self) -> Layout:
        """The mesh and the rules: where validation, decoding and classification run."""
        return Layout(self.mesh, self.rules)

    def place_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Places the rows that this host made of a training batch as its part of the whole on the mesh."""
        return place_batch(batch, self.mesh, rows_axis=1 if self.learner.num_seeds is None else 2, rules=self.rules)

    def load(self, run_directory: Path) -> Params:
        """Loads the parameters of a finished run, for all its seeds, onto the mesh."""
        seeds = self.learner.num_seeds
        files = [run_directory / "model.safetensors"]
        if seeds is not None and seeds > 1:
            files = sorted(
                (run_directory / "seeds").glob("*.safetensors"), key=lambda path: (len(path.stem), path.stem)
            )
        return load_placed(files, self.shapes, stacked=seeds is not None)


def place(
    learner: Learner, mesh: Mesh, *, rules: Rules = DEFAULT_RULES, shapes: Sequence[Shape] | None = None
) -> Placed:
    """Returns a learner on a mesh: where its state lives, and its steps, which compile on their first call.

    Args:
        rules: map the names of axes to axes of the mesh, for parameters, batches and activations, and through
            `Placed.layout` for decoding and classification.
        shapes: shapes (A, B, L) of the batches it will get.

    Raises:
        ValueError: batches of these shapes do not divide over the mesh.
    """
    check_shapes(shapes or (), mesh, rules=rules)
    model, seeds = learner.model, learner.num_seeds
    shardings = state_shardings(
        model.network,
        learner.optimizer,
        mesh=mesh,
        rules=rules,
        average=learner.average_decay is not None,
        best=learner.keeps_best,
        seeds=seeds is not None,
    )
    step = make_train_step(learner.loss, learner.optimizer, average_decay=learner.average_decay)
    evaluate = make_eval_step(learner.loss)

    def evaluate_seeds(params: Params, batch: Batch) -> dict[str, jax.Array]:
        return jax.lax.map(lambda one: evaluate(one, batch), params)  # the memory of one

    return Placed(
        learner=learner,
        mesh=mesh,
        rules=rules,
        shardings=shardings,
        like=abstract_state(model.network, learner.optimizer, shardings=shardings, num_seeds=seeds),
        step=compile_step(
            step if seeds is None else over_seeds(step),
            mesh=mesh,
            shardings=shardings,
            rules=rules,
            gradient_sum=learner.gradient_sum,
        ),
        evaluate=compile_eval_step(evaluate if seeds is None else evaluate_seeds, mesh=mesh, rules=rules),
        keep_best=jax.jit(keep_best, donate_argnums=0, out_shardings=shardings),
        whole=_whole(model, shardings.params, stacked=seeds is not None),
        born=lambda numbers, blank=(): born(
            model.build,
            learner.optimizer,
            shardings=shardings,
            seed=numbers[0] if seeds is None else numbers,
            blank=blank,
        ),
    )


def _whole(model: Definition, shardings: Params, *, stacked: bool) -> Callable[[Params], Params]:
    """Returns what makes the network's parameters of the trained ones, where the mesh has them."""
    if model.adapt is None:
        return lambda params: params
    adapt = jax.vmap(model.adapt) if stacked else model.adapt
    return jax.jit(adapt, out_shardings=own_parameters(shardings))


def check_shapes(shapes: Sequence[Shape], mesh: Mesh, *, rules: Rules = DEFAULT_RULES) -> None:
    """Checks that batches (A, B, L) divide over a mesh.

    Raises:
        ValueError: one does not.
    """
    for _, rows, length in shapes:
        try:
            named_sharding(mesh, ("batch", "length"), (rows, length), rules=rules)
        except ValueError as error:
            raise ValueError(
                f"{error} Rows are a multiple of rows_multiple and lengths of length_multiple, or of running text "
                "tokens_per_batch / context and context: they are set where a run begins."
            ) from error


def mean_loss(placed: Placed, params: Params, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Returns the means over all batches: the sums of the loss, divided by the weight. With several seeds, arrays [E].

    Args:
        batches: arrays [B, ...] with the rows of this host.
    """
    sums: dict[str, Any] = {}

    def add(found: Mapping[str, Any]) -> None:
        for name, value in jax.device_get(found).items():
            sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)

    pending: Mapping[str, Any] = {}
    for batch in batches:
        found = placed.evaluate(params, place_rows(batch, placed.mesh, rules=placed.rules))
        add(pending)  # while the devices are at the next batch
        pending = found
    add(pending)
    weight = sums.pop("weight")
    means = {name: value / weight for name, value in sums.items()}
    return means if placed.learner.num_seeds is not None else {name: float(value) for name, value in means.items()}
