"""Learning-rate schedules under their names in the field, and Adam composed from Optax; `lmx.optimizers` has others.

A schedule maps the number of updates done so far (0 before the first) to a learning rate. What differs between
fairseq, tensor2tensor and the papers is noted at each schedule.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

BETA1 = 0.9  # decay of the average of gradients: Adam's (Kingma and Ba 2015) and Lion's (Chen et al. 2023)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters are updated.

    Attributes:
        optimizer: adam (with weight decay: AdamW); adafactor keeps a row and a column for a large matrix; lion keeps
            one average; muon takes the matrices of the layers and leaves tables, norms and biases to Adam.
        schedule: the learning rate after the warm-up. linear and cosine fall until the end of training;
            warmup-stable-decay stays at its peak and falls at the end.
        peak: highest learning rate.
        warmup: updates until the peak.
        final_share: share of the peak that linear, cosine and warmup-stable-decay end with.
        decay_share: share of all updates, at the end, in which warmup-stable-decay falls.
        beta2: decay of Adam's average of squared gradients, or of Lion's average of gradients.
        epsilon: the number that Adam adds to the root of that average.
        weight_decay: decoupled weight decay, except for biases and the scales of norms.
        clip_norm: norm that longer gradients are clipped to; None does not clip.
        freeze: parameters to keep fixed: their names, the names of parts that contain them, or patterns such as
            *.bias. They need no optimizer state.
        layer_decay: factor of the learning rate from each layer to the one below, and from the lowest to embeddings.
        average_decay: decay of an exponential average of the parameters, which validation and test then use; None
            keeps no average.
    """

    optimizer: Literal["adam", "adafactor", "lion", "muon"] = "adam"
    schedule: Literal["inverse-sqrt", "noam", "linear", "cosine", "warmup-stable-decay", "constant"] = "inverse-sqrt"
    peak: float = 5e-4
    warmup: int = 4000
    final_share: float = 0.0
    decay_share: float = 0.2
    beta2: float = 0.98
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    freeze: tuple[str, ...] = ()
    layer_decay: float = 1.0
    average_decay: float | None = None

    @property
    def depends_on_end(self) -> bool:
        """Whether the learning rate depends on where training ends."""
        return self.schedule in ("linear", "cosine", "warmup-stable-decay")

    def check(self) -> None:
        """Checks the numbers, and the shares that an experiment adds to them.

        Raises:
            ValueError: one of them means nothing.
        """
        for name in ("peak", "epsilon", "weight_decay"):
            check_weight(name, getattr(self, name))
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or None not to clip, got clip_norm={self.clip_norm}.")
        if self.average_decay is not None and not 0 <= self.average_decay <= 1:
            raise ValueError(f"average_decay must be from 0 to 1, got average_decay={self.average_decay}.")
        for name in ("beta2", "label_smoothing", "word_dropout"):
            check_share(name, getattr(self, name, 0.0))


def check_weight(name: str, weight: float) -> None:
    """Checks a number that something is multiplied with, or that is added.

    Raises:
        ValueError: it is below 0 or not finite.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {name}={weight}.")


def check_share(name: str, share: float) -> None:
    """Checks a share that must leave something.

    Raises:
        ValueError: it does not.
    """
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {name}={share}.")


def make_schedule(config: OptimizerConfig, *, total: int, width: int) -> optax.Schedule:
    """Returns the schedule for a training of `total` updates of a model of this width; all reach the same peak.

    Raises:
        ValueError: a share is none, or the warm-up leaves no room for what follows.
    """
    for name, share in (("final_share", config.final_share), ("decay_share", config.decay_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {name}={share}.")
    peak, warmup = config.peak, config.warmup
    final = config.final_share * peak
    decay = max(1, round(config.decay_share * total))
    makers = {
        "inverse-sqrt": lambda: inverse_sqrt(peak, warmup=warmup),
        "noam": lambda: noam(width, warmup=warmup, factor=peak * (width * warmup) ** 0.5),
        "linear": lambda: linear(peak, warmup=warmup, total=total, final=final),
        "cosine": lambda: cosine(peak, warmup=warmup, total=total, final=final),
        "warmup-stable-decay": lambda: warmup_stable_decay(peak, warmup=warmup, total=total, decay=decay, final=final),
        "constant": lambda: constant(peak, warmup=warmup),
    }
    return makers[config.schedule]()


def inverse_sqrt(peak: float, *, warmup: int, initial: float = 1e-7) -> optax.Schedule:
    """Rises linearly from `initial` to `peak` over `warmup` updates, then falls as 1 / sqrt(update).

    Source: fairseq's `inverse_sqrt`; `peak` is its `--lr`.
    """
    _check_warmup(warmup)

    def schedule(count: ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        rising = initial + (peak - initial) * count / warmup
        return jnp.where(count < warmup, rising, peak * (warmup / jnp.maximum(count, 1)) ** 0.5)

    return schedule


def noam(width: int, *, warmup: int, factor: float = 1.0) -> optax.Schedule:
    """Returns factor * width^-0.5 * min(u^-0.5, u * warmup^-1.5) with u = updates + 1.

    Source: Vaswani et al. 2017, equation 3. Its peak is factor / sqrt(width * warmup).
    """
    _check_warmup(warmup)

    def schedule(count: ArrayLike) -> jax.Array:
        update = jnp.asarray(count, jnp.float32) + 1
        return factor * width**-0.5 * jnp.minimum(update**-0.5, update * warmup**-1.5)

    return schedule


def linear(peak: float, *, warmup: int, total: int, final: float = 0.0) -> optax.Schedule:
    """Rises from 0 to `peak` over `warmup` updates, then falls linearly to `final` at update `total` (BERT's)."""
    _check_warmup(warmup, total=total)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), optax.linear_schedule(peak, final, total - warmup)], [warmup]
    )


def cosine(peak: float, *, warmup: int, total: int, final: float = 0.0) -> optax.Schedule:
    """Rises from 0 to `peak` over `warmup` updates, then falls by half a cosine to `final`.

    Source: Loshchilov and Hutter 2017, without restarts.
    """
    _check_warmup(warmup, total=total)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total, end_value=final)


def warmup_stable_decay(peak: float, *, warmup: int, total: int, decay: int, final: float = 0.0) -> optax.Schedule:
    """Rises from 0 to `peak` over `warmup` updates, stays there, and falls linearly to `final` in the last `decay`.

    A training of any length shares all but its end with a longer one. Source: Hu et al. 2024, "MiniCPM", section 4;
    that the fall is a line, Hägele et al. 2024, section 3. Where warm-up and fall overlap, the fall begins later.
    """
    _check_warmup(warmup, total=total)
    begins = max(total - decay, warmup)
    return optax.join_schedules(
        [constant(peak, warmup=warmup), optax.linear_schedule(peak, final, total - begins)], [begins]
    )


def constant(peak: float, *, warmup: int = 0) -> optax.Schedule:
    """Rises from 0 to `peak` over `warmup` updates and stays there."""
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0 updates, got warmup={warmup}.")
    if warmup == 0:
        return optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup])


def adam(
    schedule: optax.Schedule,
    *,
    beta1: float = BETA1,
    beta2: float = 0.98,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Composes clipping by global norm, Adam, decoupled weight decay and the schedule.

    Weight decay (Loshchilov and Hutter 2019) leaves out biases and the scales of norms, as is usual. Adam: Kingma and
    Ba 2015; the default betas are Vaswani's.
    """
    direction = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)
    return compose(direction, schedule, weight_decay=weight_decay, clip_norm=clip_norm)


def compose(
    direction: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    scale: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Composes clipping by global norm, a direction such as Adam's, decoupled weight decay and the schedule.

    Args:
        scale: of what is added, weight decay too: parameters that learn at rates of their own.
    """
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts.append(direction)
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    if scale is not None:
        parts.append(scale)
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def decayed(params: optax.Params) -> optax.Params:
    """Returns a tree of bools: True where weight decay applies, that is everywhere but in biases and norm scales."""

    def is_decayed(path: tuple, _: Any) -> bool:
        return path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _check_warmup(warmup: int, *, total: int | None = None) -> None:
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1 update, got warmup={warmup}.")
    if total is not None and total <= warmup:
        raise ValueError(
            f"the updates of a training must be more than warmup, got {total:,} updates and warmup={warmup}. Warm up "
            "for fewer (--optimization.warmup), or train for more (--updates, --epochs)."
        )
