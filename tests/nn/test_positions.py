import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.nn.positions import LearnedPositions, rotary, sinusoidal


def vectors(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


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


def test_a_sinusoidal_position_is_a_fixed_rotation_of_the_one_before():
    # Why the paper chose it: PE(t + k) is a linear function of PE(t), the same for every t.
    table, width, shift = np.asarray(sinusoidal(50, 8)), 8, 11
    angle = shift / 10000 ** (np.arange(0, width, 2) / width)
    sin, cos = table[:-shift, :4], table[:-shift, 4:]
    rotated = np.concatenate([sin * np.cos(angle) + cos * np.sin(angle), cos * np.cos(angle) - sin * np.sin(angle)], 1)
    np.testing.assert_allclose(rotated, table[shift:], atol=1e-6)


def test_a_longer_table_begins_with_the_shorter_one():
    np.testing.assert_array_equal(sinusoidal(30, 10)[:13], sinusoidal(13, 10))


def test_an_odd_width_has_no_sinusoidal_positions():
    with pytest.raises(ValueError, match=r"^width must be even for sinusoidal positions, got width=7\.$"):
        sinusoidal(3, 7)


# Rotary.


def test_rotary_is_the_papers_rotation_up_to_a_permutation_of_the_features():
    batch, length, heads, width = 2, 5, 3, 8
    x, positions = vectors(batch, length, heads, width), jnp.array([[0, 1, 2, 3, 4], [900, 7, 7, 31, 2]])
    # Equation 34 of the paper: neighbours (2i, 2i + 1) turn by m * 10000^(-2i/K).
    interleaved = np.empty(x.shape)
    interleaved[..., 0::2], interleaved[..., 1::2] = x[..., :4], x[..., 4:]
    expected = np.empty(x.shape)
    for i in range(width // 2):
        angle = np.asarray(positions)[:, :, None] * 10000.0 ** (-2 * i / width)
        even, odd = interleaved[..., 2 * i], interleaved[..., 2 * i + 1]
        expected[..., i] = even * np.cos(angle) - odd * np.sin(angle)
        expected[..., i + 4] = odd * np.cos(angle) + even * np.sin(angle)
    # float32 angles near 900 are exact to about 6e-5.
    np.testing.assert_allclose(rotary(x, positions), expected, atol=3e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = vectors(1, 1, 1, 16, seed=1), vectors(1, 1, 1, 16, seed=2)

    def score(query_position: int, key_position: int) -> float:
        turned = rotary(query, jnp.array([[query_position]])), rotary(key, jnp.array([[key_position]]))
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) == pytest.approx(score(5, 0), abs=1e-4)
    assert abs(score(9, 4) - score(4, 9)) > 0.1
    assert abs(score(9, 4) - score(9, 5)) > 0.1


def test_rotary_keeps_norms_and_leaves_position_zero():
    x = vectors(2, 7, 3, 4)
    turned = rotary(x, jnp.arange(7)[None])
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_a_larger_rotary_base_turns_slower():
    x, far = vectors(1, 1, 1, 8), jnp.array([[50]])
    slow, fast = (float(jnp.linalg.norm(rotary(x, far, base=base) - x)) for base in (1e9, 1e2))
    first_pair_alone = jnp.linalg.norm(rotary(x, far, base=1e30) - x)
    assert first_pair_alone == pytest.approx(slow, rel=0.3)
    assert slow < fast


def test_rotary_turns_bfloat16_in_float32():
    x, positions = vectors(1, 6, 2, 4).astype(jnp.bfloat16), jnp.arange(500, 506)[None]
    turned = rotary(x, positions)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotary(x.astype(jnp.float32), positions).astype(jnp.bfloat16))


def test_an_odd_head_width_cannot_rotate():
    with pytest.raises(ValueError, match=r"^head width must be even for rotary positions, got width=5\.$"):
        rotary(vectors(1, 2, 3, 5), jnp.arange(2)[None])


# Learned.


def test_learned_positions_are_rows_of_a_table():
    layer = LearnedPositions(11, 6, rngs=nnx.Rngs(0))
    positions = jnp.array([[3, 0, 10], [10, 10, 1]])
    looked_up = layer(positions)
    assert looked_up.shape == (2, 3, 6)
    np.testing.assert_array_equal(looked_up, np.asarray(layer.table[...])[np.asarray(positions)])
    assert layer.table.get_metadata("axes") == (None, "embed")


def test_learned_positions_are_born_with_the_variance_of_word_vectors():
    table = LearnedPositions(400, 64, rngs=nnx.Rngs(0)).table[...]
    assert float(table.std()) == pytest.approx(64**-0.5, rel=0.02)
