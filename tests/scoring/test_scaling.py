"""Scaling laws: planted numbers are found again, and a run that no fit has seen is predicted."""

import numpy as np
import pytest

from lmx.scoring.scaling import Growth, Law, Trained, Valley, find_valley, fit_growth, fit_law

# Hoffmann et al. 2022, equation 10, and their table of compute-optimal sizes (approach 3).
CHINCHILLA = Law(floor=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)


def grid(law: Law, *, noise: float = 0.0) -> list[Trained]:
    generator = np.random.default_rng(0)
    runs = []
    for flops in (1e18, 1e19, 1e20, 1e21):
        best = law.optimum(flops)[0]
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            parameters = best * factor
            tokens = flops / 6 / parameters
            loss = law.loss(parameters, tokens) * np.exp(noise * generator.normal())
            runs.append(Trained(parameters, tokens, loss, flops))
    return runs


def test_a_planted_law_is_found_again():
    found = fit_law(grid(CHINCHILLA))
    assert found.floor == pytest.approx(CHINCHILLA.floor, rel=0.01)
    assert (found.alpha, found.beta) == pytest.approx((CHINCHILLA.alpha, CHINCHILLA.beta), rel=0.03)
    assert found.loss(7e10, 1.4e12) == pytest.approx(CHINCHILLA.loss(7e10, 1.4e12), abs=0.005)


def test_noise_and_a_run_that_went_wrong_leave_the_prediction_of_a_larger_run_within_a_hundredth():
    """Large errors count by their size, not by its square."""
    runs = grid(CHINCHILLA, noise=0.001)
    runs[7] = runs[7]._replace(loss=1.5 * runs[7].loss)
    found = fit_law(runs)
    parameters, tokens = CHINCHILLA.optimum(1e22)
    assert found.loss(parameters, tokens) == pytest.approx(CHINCHILLA.loss(parameters, tokens), abs=0.02)


def test_the_optimum_is_the_lowest_loss_of_its_budget():
    parameters, tokens = CHINCHILLA.optimum(1e21)
    assert 6 * parameters * tokens == pytest.approx(1e21)
    sizes = parameters * np.geomspace(0.5, 2, 401)
    losses = [CHINCHILLA.loss(size, 1e21 / 6 / size) for size in sizes]
    assert sizes[int(np.argmin(losses))] == pytest.approx(parameters, rel=0.01)


def test_valleys_of_budgets_give_the_exponent_of_the_best_size():
    runs = grid(CHINCHILLA)
    valleys = [find_valley([run for run in runs if run.flops == flops]) for flops in (1e18, 1e19, 1e20, 1e21)]
    assert all(valley.is_inside for valley in valleys)
    growth = fit_growth(valleys)
    assert growth.exponent == pytest.approx(CHINCHILLA.beta / (CHINCHILLA.alpha + CHINCHILLA.beta), abs=0.02)
    assert growth.parameters(1e21) == pytest.approx(CHINCHILLA.optimum(1e21)[0], rel=0.15)


def test_a_parabola_gives_its_lowest_point_and_says_where_it_lies():
    for sizes, is_inside in (((0.0, 1.0, 2.0), False), ((4.0, 5.0, 6.0), False), ((1.0, 2.0, 4.0), True)):
        runs = [Trained(np.exp(x), 1.0, 2.0 + 0.5 * (x - 3.0) ** 2, 7.0) for x in sizes]
        valley = find_valley(runs)
        assert (np.log(valley.parameters), valley.loss, valley.flops) == pytest.approx((3.0, 2.0, 7.0))
        assert valley.is_inside == is_inside
    assert fit_growth([Valley(10.0, 100.0, 1.0, True), Valley(1000.0, 1000.0, 1.0, True)]) == pytest.approx(
        Growth(factor=100 / 10**0.5, exponent=0.5)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_law(grid(CHINCHILLA)[:4]), "at least 5 runs of 2 sizes and 2 lengths, got 4 of 4 and 4"),
        (lambda: fit_law([Trained(9.0, n, 2.0, 1.0) for n in (1, 2, 3, 4, 5)]), "2 lengths, got 5 of 1 and 5"),
        (lambda: fit_law([Trained(n, 9.0, 2.0, 1.0) for n in (1, 2, 3, 4, 5)]), "2 lengths, got 5 of 5 and 1"),
        (lambda: find_valley(grid(CHINCHILLA)[:2]), "at least 3 sizes, got 2"),
        (
            lambda: find_valley([Trained(n, 1.0, loss, 1.0) for n, loss in ((1.0, 1.0), (2.0, 2.0), (4.0, 1.0))]),
            "lowest",
        ),
        (lambda: fit_growth([Valley(1.0, 1.0, 1.0, True)]), "at least 2 budgets must be given, got 1"),
    ],
)
def test_too_few_runs_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
