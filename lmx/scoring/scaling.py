"""Scaling laws: how a language model's loss falls with parameters and tokens (Hoffmann et al. 2022).

Losses are in nats a token, N are parameters, D are training tokens, and C are FLOPs of training, about 6 N D.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Errors of log L above this count by their size, those below by their square (Hoffmann et al. 2022, appendix D.2).
HUBER = 1e-3
# Exponents whose best linear numbers are looked at before the fit is refined.
EXPONENTS = np.linspace(0.05, 1.25, 25)


class Trained(NamedTuple):
    """What one training came to.

    Attributes:
        parameters: N.
        tokens: D.
        loss: on held-out text, in nats a token.
        flops: C.
    """

    parameters: float
    tokens: float
    loss: float
    flops: float


@dataclass(frozen=True)
class Law:
    """L(N, D) = floor + a / N^alpha + b / D^beta: approach 3 of Hoffmann et al. 2022, equation 10.

    Attributes:
        floor: the loss that no size and no amount of text goes below, E in the paper.
    """

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, parameters: int | float, tokens: int | float) -> float:
        """Returns the loss that the law predicts."""
        return self.floor + self.a * parameters**-self.alpha + self.b * tokens**-self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Returns the (N, D) with the lowest loss among those with 6 N D = C (equation 4 of the paper)."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        product = flops / 6
        parameters = ratio * product ** (self.beta / (self.alpha + self.beta))
        return parameters, product / parameters


class Valley(NamedTuple):
    """The best size for one budget: the lowest point of a parabola through losses by log N.

    Attributes:
        is_inside: whether the point lies between the smallest and the largest size that was trained.
    """

    flops: float
    parameters: float
    loss: float
    is_inside: bool


class Growth(NamedTuple):
    """N_opt = factor x C^exponent: approach 2 of Hoffmann et al. 2022."""

    factor: float
    exponent: float

    def parameters(self, flops: float) -> float:
        """Returns the best size for a budget."""
        return self.factor * flops**self.exponent


def fit_law(runs: Sequence[Trained]) -> Law:
    """Fits the five numbers of a `Law` to runs of different sizes and lengths.

    The Huber loss of log L is minimised by L-BFGS, as in appendix D.2 of the paper. It starts from the best pair of
    exponents on a grid, for each of which the other three numbers are a linear problem.

    Raises:
        ValueError: there are fewer than five runs, or all have one size or one length.
    """
    from scipy.optimize import minimize

    sizes, lengths = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) < 5 or len(sizes) < 2 or len(lengths) < 2:
        got = f"{len(runs)} of {len(sizes)} and {len(lengths)}"
        raise ValueError(f"a law must have at least 5 runs of 2 sizes and 2 lengths, got {got}.")
    log_n = np.log([run.parameters for run in runs])
    log_d = np.log([run.tokens for run in runs])
    log_loss = np.log([run.loss for run in runs])

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        a, alpha, b, beta, floor = values
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, floor)])
        predicted = np.logaddexp.reduce(terms, axis=0)
        error = predicted - log_loss
        small = np.abs(error) <= HUBER
        cost = np.where(small, error**2 / 2, HUBER * (np.abs(error) - HUBER / 2)).sum()
        slope = np.clip(error, -HUBER, HUBER) * np.exp(terms - predicted)
        gradient = np.array(
            [slope[0].sum(), -(slope[0] * log_n).sum(), slope[1].sum(), -(slope[1] * log_d).sum(), slope[2].sum()]
        )
        # The errors are of the order of 1e-3 and their squares of 1e-6, which L-BFGS would take for nothing.
        return 1e6 * float(cost), 1e6 * gradient

    bounds = [(-10.0, 40.0), (0.0, 3.0), (-10.0, 40.0), (0.0, 3.0), (-10.0, float(log_loss.min()))]
    start = np.clip(_start(log_n, log_d, log_loss), *np.transpose(bounds))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 5000})
    a, alpha, b, beta, floor = (float(value) for value in found.x)
    return Law(floor=float(np.exp(floor)), a=float(np.exp(a)), alpha=alpha, b=float(np.exp(b)), beta=beta)


def _start(
    log_n: Float[np.ndarray, " runs"], log_d: Float[np.ndarray, " runs"], log_loss: Float[np.ndarray, " runs"]
) -> Float[np.ndarray, " 5"]:
    """Returns (log a, alpha, log b, beta, log floor) of the best exponents on a grid, by non-negative least squares."""
    from scipy.optimize import nnls

    # Around their means the columns have one scale, whatever the exponents.
    near_n, near_d, losses = log_n - log_n.mean(), log_d - log_d.mean(), np.exp(log_loss)
    best = np.inf, np.zeros(5)
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        columns = np.stack([np.exp(-alpha * near_n), np.exp(-beta * near_d), np.ones_like(losses)], axis=1)
        (a, b, floor), error = nnls(columns / losses[:, None], np.ones_like(losses))
        if error < best[0]:
            logs = np.log(np.maximum([a, b, floor], 1e-4))
            best = error, np.array(
                [logs[0] + alpha * log_n.mean(), alpha, logs[1] + beta * log_d.mean(), beta, logs[2]]
            )  # fmt: skip
    return best[1]


def find_valley(runs: Sequence[Trained]) -> Valley:
    """Returns the best size for the budget that these runs share, from a parabola through losses by log N.

    Raises:
        ValueError: there are fewer than three sizes, or the losses have no lowest point.
    """
    sizes = np.log([run.parameters for run in runs])
    losses = np.array([run.loss for run in runs])
    if len(set(sizes)) < 3:
        raise ValueError(f"a budget must have at least 3 sizes, got {len(set(sizes))}.")
    second, first, constant = np.polyfit(sizes, losses, 2)
    if second <= 0:
        raise ValueError("losses of a budget must have a lowest point between sizes, got none. Train more sizes.")
    lowest = -first / (2 * second)
    return Valley(
        flops=float(np.mean([run.flops for run in runs])),
        parameters=float(np.exp(lowest)),
        loss=float(constant - first**2 / (4 * second)),
        is_inside=bool(sizes.min() <= lowest <= sizes.max()),
    )


def fit_growth(valleys: Sequence[Valley]) -> Growth:
    """Returns how the best size grows with the budget.

    Raises:
        ValueError: there are fewer than two budgets.
    """
    if len(valleys) < 2:
        raise ValueError(f"at least 2 budgets must be given, got {len(valleys)}.")
    exponent, constant = np.polyfit(
        np.log([valley.flops for valley in valleys]), np.log([valley.parameters for valley in valleys]), 1
    )
    return Growth(factor=float(np.exp(constant)), exponent=float(exponent))
