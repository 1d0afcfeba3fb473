"""Choices that depend on data and devices: sizes of a model and of batches, the warm-up, the attention kernel."""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from lmx.config import BatchConfig
from lmx.data.fitting import UPDATES_OF_A_PASS, Sizes
from lmx.data.fitting import fit_sizes as fit_rows
from lmx.errors import InputError
from lmx.nn.config import TransformerConfig
from lmx.optimization import OptimizerConfig
from lmx.run import Run
from lmx.saved import read_fields

Config = TypeVar("Config")
Model = TypeVar("Model", bound=TransformerConfig)


def fit_sizes(model: Model, **sizes: int) -> Model:
    """Returns the model config with the sizes of the data.

    Raises:
        InputError: the config asks for other sizes.
    """
    for name, size in sizes.items():
        if (asked := getattr(model, name)) not in (0, size):
            raise InputError(f"model.{name} must be the data's {size} or 0 (take the data's), got {name}={asked}.")
    changed: Any = model
    return dataclasses.replace(changed, **sizes)


def fit_warmup(run: Run, config: Config, preset: Any, *, updates: int) -> Config:
    """Returns a config with a warm-up that leaves room for the rest of training; a warm-up that the user set stays.

    Args:
        preset: the config of the preset, with the default warm-up.
        updates: number of updates of the whole training.
    """
    given: Any = config
    options: OptimizerConfig = given.optimization
    usual = preset.optimization.warmup
    if not options.depends_on_end or options.warmup != usual or options.warmup < updates or updates < 1:
        return config
    if updates == 1:
        run.console.print(
            f"the learning rate is --optimization.peak {options.peak:g} without a warm-up: the training has one update"
        )
        alone = dataclasses.replace(options, schedule="constant", warmup=0)
        return dataclasses.replace(given, optimization=alone)
    warmup = max(1, updates // 10)
    run.console.print(
        f"the warm-up takes {warmup:,} of {updates:,} updates and not --optimization.warmup {usual:,}: the training is "
        "shorter than that"
    )
    return dataclasses.replace(given, optimization=dataclasses.replace(options, warmup=warmup))


# ---- what is printed -------------------------------------------------------------------------------------------------


def fit_batches(run: Run, batch: BatchConfig, *, usual: BatchConfig, lengths: Int[np.ndarray, " rows"]) -> BatchConfig:
    """Returns sizes of batches that the training rows can fill, and reports those below the config's.

    A run that has begun keeps the sizes that it began with, under "sizes" in its config.json.

    Args:
        usual: the sizes of the preset. With them, a pass must have several updates; with sizes that the user set, a
            pass must fill one update.
        lengths: number of tokens of each row's longest side.
    """
    asked, preset = batch.sizes, usual.sizes
    sizes = asked
    if run.begun is None:
        unasked = batch.tokens_per_device is None and asked == preset
        sizes = fit_rows(
            lengths,
            asked,
            rows_multiple=batch.rows_multiple,
            length_multiple=batch.length_multiple,
            updates_of_a_pass=UPDATES_OF_A_PASS if unasked else 1,
        )
    elif "sizes" in run.begun:
        sizes = read_fields(Sizes, run.begun["sizes"], path=run.directory / "config.json", field="sizes")
    tokens = "tokens_per_batch" if batch.tokens_per_device is None else "tokens_per_device"
    said = {
        "tokens_per_batch": (tokens, "most tokens of a batch"),
        "accumulation": ("accumulation", "micro-batches of an update"),
        "num_buckets": ("num_buckets", "batch shapes"),
    }
    for name, (field, what) in said.items():
        if getattr(sizes, name) < getattr(asked, name):
            flag = f"--{field.replace('_', '-')} {getattr(batch, field):,}"
            run.console.print(
                f"{what}: {getattr(sizes, name):,} and not {flag}: there are {len(lengths):,} rows to learn from"
            )
    run.decided["sizes"] = dataclasses.asdict(sizes)
    return dataclasses.replace(batch, **dataclasses.asdict(sizes))


def training_kernel(model: Model, mesh: Mesh, *, stacked: bool, holes: str | None = None) -> tuple[Model, str | None]:
    """Returns a model config with the attention kernel to train with, and why it differs from the config's.

    Args:
        stacked: whether several seeds train together.
        holes: the reason for padding between the tokens of a row, if there is any.

    Raises:
        InputError: the config asks for cuDNN's kernel, which cannot be used.
    """
    reason = holes
    if stacked and mesh.size > 1:
        reason = "seeds share a step by vmap, which would take a fused kernel's rows off their devices"
    if stacked and reason is None and model.kernel == "cudnn" and getattr(model, "positions", None) == "t5":
        reason = "each seed has a bias of its own"
    if reason is None:
        return model, None
    if model.kernel == "cudnn":
        raise InputError(f"model.kernel must be auto or xla, got kernel=cudnn: {reason}.")
    changed: Any = model
    return dataclasses.replace(changed, kernel="xla"), reason


def check_length(run: Run, *, made: int, last: int) -> None:
    """Checks that a training does not end before the updates that it has made, and says where none is profiled.

    Raises:
        InputError: it does.
    """
    if made > last:
        raise InputError(
            f"{run.directory} has made {made:,} updates, and training must end after as many at least, got {last:,}. "
            f"Ask for {made:,} or more, or choose another --run."
        )
    wanted = run.options.steps_to_profile()
    if wanted is not None and made < last and (wanted[0] >= last or wanted[1] <= made):
        run.console.print(
            f"no profile is written: --profile {run.options.profile} has none of the steps {made + 1:,} to {last:,}"
        )
