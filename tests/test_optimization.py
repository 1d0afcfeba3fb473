import functools
import inspect
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx.definition import Definition
from lmx.optimization import (
    OptimizerConfig,
    adam,
    constant,
    cosine,
    decayed,
    inverse_sqrt,
    linear,
    make_schedule,
    noam,
    warmup_stable_decay,
)
from lmx.optimizers import make_optimizer


def rates(schedule: optax.Schedule, counts: list[int]) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(counts)))


# Schedules.


def test_inverse_sqrt_is_fairseqs():
    # fairseq: lr = init + updates * (peak - init) / warmup, then peak * sqrt(warmup) / sqrt(updates).
    counts = [0, 1, 1000, 1999, 2000, 2001, 8000, 200_000]
    expected = [
        1e-7 + count * (0.005 - 1e-7) / 2000 if count < 2000 else 0.005 * math.sqrt(2000) / math.sqrt(count)
        for count in counts
    ]
    np.testing.assert_allclose(rates(inverse_sqrt(0.005, warmup=2000), counts), expected, rtol=1e-5)
    assert rates(inverse_sqrt(0.5, warmup=10, initial=0.25), [0])[0] == 0.25


def test_noam_is_equation_3_and_peaks_where_it_says():
    counts = [0, 1, 2000, 3998, 3999, 4000, 100_000]
    expected = [2 * 512**-0.5 * min((count + 1) ** -0.5, (count + 1) * 4000**-1.5) for count in counts]
    found = rates(noam(512, warmup=4000, factor=2.0), counts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.argmax() == counts.index(3999)
    assert found.max() == pytest.approx(2 / math.sqrt(512 * 4000), rel=1e-5)


def test_noam_is_inverse_sqrt_after_its_warmup():
    peak = 1 / math.sqrt(512 * 4000)
    np.testing.assert_allclose(
        rates(noam(512, warmup=4000), [5000, 70_000]), rates(inverse_sqrt(peak, warmup=4000), [5001, 70_001]), rtol=1e-5
    )


def test_linear_rises_and_falls_in_straight_lines():
    found = rates(linear(0.4, warmup=10, total=50, final=0.1), [0, 5, 10, 30, 50, 60])
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.25, 0.1, 0.1], atol=1e-6)


def test_cosine_falls_by_half_a_cosine():
    found = rates(cosine(0.4, warmup=10, total=50, final=0.1), [0, 5, 10, 20, 30, 50, 60])
    quarter = 0.1 + 0.3 * (1 + math.cos(math.pi / 4)) / 2
    np.testing.assert_allclose(found, [0, 0.2, 0.4, quarter, 0.25, 0.1, 0.1], atol=1e-6)


def test_warmup_stable_decay_stays_at_its_peak_and_falls_at_the_end():
    found = rates(warmup_stable_decay(0.4, warmup=10, total=100, decay=20, final=0.1), [0, 5, 10, 50, 80, 90, 100, 110])
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.4, 0.4, 0.25, 0.1, 0.1], atol=1e-6)
    # A longer training is the same up to where the shorter one falls; a fall that is longer than what is left is cut.
    longer = warmup_stable_decay(0.4, warmup=10, total=200, decay=20)
    np.testing.assert_allclose(rates(longer, [0, 9, 80, 180, 190]), [0, 0.36, 0.4, 0.4, 0.2], atol=1e-6)
    np.testing.assert_allclose(rates(warmup_stable_decay(0.4, warmup=10, total=20, decay=15), [10, 15]), [0.4, 0.2])


def test_constant_stays_and_may_rise_first():
    np.testing.assert_allclose(rates(constant(0.3, warmup=4), [0, 1, 4, 1000]), [0, 0.075, 0.3, 0.3], rtol=1e-6)
    assert [float(constant(0.3)(count)) for count in (0, 1000)] == [0.3, 0.3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: inverse_sqrt(0.1, warmup=0),
        lambda: noam(512, warmup=0),
        lambda: linear(0.1, warmup=0, total=9),
        lambda: cosine(0.1, warmup=0, total=9),
    ],
)
def test_a_warmup_takes_at_least_one_update(make):
    with pytest.raises(ValueError, match=r"^warmup must be at least 1 update, got warmup=0\.$"):
        make()


def test_a_negative_warmup_is_an_error():
    with pytest.raises(ValueError, match=r"^warmup must be at least 0 updates, got warmup=-3\.$"):
        constant(0.1, warmup=-3)


@pytest.mark.parametrize("schedule", [linear, cosine, functools.partial(warmup_stable_decay, decay=2)])
def test_a_schedule_ends_after_its_warmup(schedule):
    with pytest.raises(ValueError, match=r"must be more than warmup, got 10 updates and warmup=10\. Warm up"):
        schedule(0.1, warmup=10, total=10)


# Optimizers.

PARAMS = {
    "linear": {"weight": np.array([[1.0, -2.0, 3.0]], np.float32), "bias": np.array([5.0, 5.0, 5.0], np.float32)},
    "norm": {"scale": np.array([2.0, 2.0], np.float32)},
    "embedding": {"table": np.full((4, 2), 7.0, np.float32)},
}


def updates(optimizer: optax.GradientTransformation, gradients: list) -> list:
    """Returns what each of the gradients adds to the parameters."""
    state, found = optimizer.init(PARAMS), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        added, state = update(gradient, state, PARAMS)
        found.append(jax.tree.map(np.asarray, added))
    return found


def test_adam_is_its_papers_algorithm():
    gradients = [jax.tree.map(lambda x, scale=scale: scale * np.cos(x), PARAMS) for scale in (1.0, -0.3, 2.0)]
    found = updates(adam(constant(0.01), beta1=0.8, beta2=0.95, epsilon=1e-3), gradients)
    first = second = 0.0
    for count, gradient in enumerate(gradients, start=1):
        g = gradient["linear"]["weight"].astype(np.float64)
        first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g**2
        expected = -0.01 * (first / (1 - 0.8**count)) / (np.sqrt(second / (1 - 0.95**count)) + 1e-3)
        np.testing.assert_allclose(found[count - 1]["linear"]["weight"], expected, rtol=1e-4)


def test_the_schedule_sees_the_number_of_updates_done():
    ones = jax.tree.map(np.ones_like, PARAMS)
    found = updates(adam(linear(0.1, warmup=2, total=4)), [ones] * 4)
    sizes = [float(-update["norm"]["scale"][0]) for update in found]
    np.testing.assert_allclose(sizes, [0, 0.05, 0.1, 0.05], rtol=1e-4)


def test_weight_decay_leaves_out_biases_and_norm_scales():
    expected = {
        "linear": {"weight": True, "bias": False},
        "norm": {"scale": False},
        "embedding": {"table": True},
    }
    assert decayed(PARAMS) == expected
    # Without a gradient, decay is all that is left: lr * decay * parameter.
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    (found,) = updates(adam(constant(0.1), weight_decay=0.5), [zeros])
    decay = jax.tree.map(lambda x, is_decayed: -0.1 * 0.5 * x * is_decayed, PARAMS, expected)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, decay)


def test_gradients_are_clipped_by_their_global_norm():
    # With a large epsilon Adam is linear in a small gradient: update = -lr * gradient / epsilon.
    gradients = jax.tree.map(np.ones_like, PARAMS)
    norm = math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(gradients)))
    for clip_norm, scale in ((1.0, 1 / norm), (100.0, 1.0)):
        (found,) = updates(adam(constant(1.0), epsilon=1e6, clip_norm=clip_norm), [gradients])
        np.testing.assert_allclose(found["embedding"]["table"], -1e-6 * scale, rtol=1e-4)


# Both from one config.

SCHEDULES = ("inverse-sqrt", "noam", "linear", "cosine", "warmup-stable-decay", "constant")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_a_config_reaches_the_same_peak(name):
    config = OptimizerConfig(schedule=name, peak=3e-3, warmup=20)
    found = rates(make_schedule(config, total=100, width=48), list(range(101)))
    assert found.max() == pytest.approx(3e-3, rel=1e-5)
    assert found.argmax() in (19, 20)  # Vaswani's counts from 1
    assert (np.diff(found[:20]) > 0).all()
    assert config.depends_on_end == (name in ("linear", "cosine", "warmup-stable-decay"))
    # What depends on the end is 0 there, and the rest does not know where it is.
    assert (found[100] < 1e-8) == config.depends_on_end
    other = rates(make_schedule(config, total=200, width=48), list(range(101)))
    assert (other == found).all() == (not config.depends_on_end)


@pytest.mark.parametrize("name", ["linear", "cosine", "warmup-stable-decay"])
def test_a_schedule_ends_with_its_share_of_the_peak(name):
    config = OptimizerConfig(schedule=name, peak=3e-3, warmup=20, final_share=0.1, decay_share=0.3)
    found = rates(make_schedule(config, total=100, width=48), [69, 70, 85, 99, 100])
    assert found[-1] == pytest.approx(3e-4, rel=1e-4)
    if name == "warmup-stable-decay":
        np.testing.assert_allclose(found[:3], [3e-3, 3e-3, 1.65e-3], rtol=1e-4)
    # A share of nothing falls in the last update, and one of all right after the warm-up.
    for share, last in ((0.0, 3e-3), (1.0, 3e-3 - 2.7e-3 * 79 / 80)) if name == "warmup-stable-decay" else ():
        made = make_schedule(replace(config, decay_share=share), total=100, width=48)
        np.testing.assert_allclose(rates(made, [20, 99, 100]), [3e-3, last, 3e-4], rtol=1e-4)
    for field, value in (("final_share", 1.5), ("decay_share", 1.5), ("final_share", -0.1), ("decay_share", -0.1)):
        with pytest.raises(ValueError, match=rf"^{field} must be from 0 to 1, got {field}={value}\.$"):
            make_schedule(OptimizerConfig(**{field: value}), total=100, width=48)


def test_what_is_usual_is_vaswanis_adam_without_decay_and_clipping():
    usual = OptimizerConfig()
    assert (usual.optimizer, usual.schedule, usual.peak, usual.warmup) == ("adam", "inverse-sqrt", 5e-4, 4000)
    assert (usual.beta2, usual.epsilon, usual.weight_decay, usual.clip_norm) == (0.98, 1e-8, 0.0, None)
    assert (usual.freeze, usual.layer_decay, usual.average_decay) == ((), 1.0, None)
    assert (usual.final_share, usual.decay_share) == (0.0, 0.2)
    defaults = {name: each.default for name, each in inspect.signature(adam).parameters.items()}
    del defaults["schedule"]
    assert defaults.pop("beta1") == 0.9
    assert defaults == {name: getattr(usual, name) for name in defaults}


def test_the_optimizer_of_a_config_is_adam_with_its_settings():
    config = OptimizerConfig(
        schedule="constant", peak=0.1, warmup=1, beta2=0.9, epsilon=1e-3, weight_decay=0.2, clip_norm=0.5
    )
    schedule = make_schedule(config, total=10, width=8)
    params = {"weight": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}
    gradients = {"weight": jnp.array([3.0, -1.0]), "bias": jnp.array([2.0])}
    model = Definition(lambda rngs: None, None, None, params, {"weight": ("embed",), "bias": (None,)})
    by_hand = adam(schedule, beta2=0.9, epsilon=1e-3, weight_decay=0.2, clip_norm=0.5)
    plain = adam(schedule)
    steps, states = [], []
    for optimizer in (make_optimizer(config, schedule, model=model), by_hand, plain):
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(gradients, state, params)
        steps.append(updates)
        states.append(state)
    # What a checkpoint of it holds has the same names.
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), steps[0], steps[1]))
    assert not jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), steps[0], steps[2]))
