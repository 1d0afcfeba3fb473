import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.positions import LearnedPositions, rotary, sinusoidal


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Sinusoidal.


def test_sinusoidal_positions_are_the_papers_formula_by_halves():
    length, width = 9000, 6
    table = np.asarray(sinusoidal(length, width))
    assert table.shape == (length, width)
    for t in (0, 1, 17, length - 1):
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            assert table[t, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, width // 2 + i] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_sinusoidal_position_is_a_fixed_rotation_of_an_earlier_one():
    # Why the paper chose it: PE(t + k) is a linear function of PE(t), the same for every t.
    table, width, shift = np.asarray(sinusoidal(50, 8)), 8, 11
    angle = shift / 10000 ** (np.arange(0, width, 2) / width)
    sin, cos = table[:-shift, :4], table[:-shift, 4:]
    rotated = np.concatenate([sin * np.cos(angle) + cos * np.sin(angle), cos * np.cos(angle) - sin * np.sin(angle)], 1)
    np.testing.assert_allclose(rotated, table[shift:], atol=1e-6)


def test_a_longer_table_begins_with_the_shorter_one():
    np.testing.assert_array_equal(np.asarray(sinusoidal(30, 10))[:13], sinusoidal(13, 10))


def test_an_odd_width_has_no_sinusoidal_positions():
    with pytest.raises(ValueError, match=r"^width must be even for sinusoidal positions, got width=7\.$"):
        sinusoidal(3, 7)


# Rotary.


rotate = jax.jit(rotary, static_argnames="base")


def turn(x: np.ndarray, positions: list, **settings: float) -> np.ndarray:
    return np.asarray(rotate(x, np.array(positions), **settings))


def test_rotary_is_the_papers_rotation_up_to_a_permutation_of_the_features():
    batch, length, heads, width = 2, 5, 3, 8
    x, positions = vectors(batch, length, heads, width), [[0, 1, 2, 3, 4], [900, 7, 7, 31, 2]]
    # Equation 34 of the paper: neighbours (2i, 2i + 1) turn by m * 10000^(-2i/K).
    interleaved = np.empty(x.shape)
    interleaved[..., 0::2], interleaved[..., 1::2] = x[..., :4], x[..., 4:]
    expected = np.empty(x.shape)
    for i in range(width // 2):
        angle = np.array(positions)[:, :, None] * 10000.0 ** (-2 * i / width)
        even, odd = interleaved[..., 2 * i], interleaved[..., 2 * i + 1]
        expected[..., i] = even * np.cos(angle) - odd * np.sin(angle)
        expected[..., i + 4] = odd * np.cos(angle) + even * np.sin(angle)
    # float32 angles near 900 are exact to about 6e-5.
    np.testing.assert_allclose(turn(x, positions), expected, atol=3e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    x = np.repeat(vectors(2, 1, 1, 16), 6, axis=1)  # one query and one key, at six places each
    queries, keys = turn(x, [[9, 105, 5, 4, 9, 0], [4, 100, 0, 9, 5, 0]])
    far, farther, nearest, turned_round, nearer, _ = (queries * keys).sum((-1, -2))
    np.testing.assert_allclose([farther, nearest], far, atol=1e-4)
    assert abs(far - turned_round) > 0.1
    assert abs(far - nearer) > 0.1


def test_rotary_keeps_norms_and_leaves_position_zero():
    x = vectors(2, 7, 3, 4)
    turned = turn(x, [range(7)])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_a_larger_rotary_base_turns_slower():
    # Position 1 turns pair i by base^(-2i/K); the first pair by 1 radian whatever the base.
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., :4] = 1
    for base in (100.0, 10000.0):
        np.testing.assert_allclose(
            turn(x, [[1]], base=base)[0, 0, 0, 4:], np.sin(base ** (-np.arange(4) / 4)), rtol=1e-5
        )


def test_rotary_turns_bfloat16_in_float32():
    x, positions = vectors(2, 7, 3, 4).astype(jnp.bfloat16), [range(500, 507)]
    turned = turn(x, positions)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, turn(x.astype(np.float32), positions).astype(jnp.bfloat16))


def test_an_odd_head_width_cannot_rotate():
    with pytest.raises(ValueError, match=r"^head width must be even for rotary positions, got width=5\.$"):
        rotary(jnp.ones((1, 2, 3, 5)), jnp.ones((1, 2), jnp.int32))


# Learned.


def test_learned_positions_are_rows_of_a_table():
    layer = LearnedPositions(400, 64, rngs=nnx.Rngs(0))
    positions = np.array([[3, 0, 399], [399, 399, 1]])
    looked_up, table = layer(jnp.asarray(positions)), np.asarray(layer.table[...])
    np.testing.assert_array_equal(looked_up, table[positions])
    assert layer.table.get_metadata("axes") == (None, "embed")
    assert table.std() == pytest.approx(64**-0.5, rel=0.02)  # as word vectors
