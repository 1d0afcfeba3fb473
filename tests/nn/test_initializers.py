import math

import jax
import numpy as np
import pytest

from lmx.nn.initializers import normal, xavier_uniform


def test_xavier_fills_the_interval_of_its_fans():
    matrix = np.asarray(xavier_uniform(jax.random.key(0), 300, 500))
    limit = math.sqrt(6 / 800)
    assert matrix.shape == (300, 500)
    assert np.abs(matrix).max() == pytest.approx(limit, rel=1e-3)
    assert matrix.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert matrix.mean() == pytest.approx(0, abs=1e-3)


def test_normals_have_the_moments_and_shares_of_a_normal():
    x = np.asarray(normal(jax.random.key(1), (400, 500), deviation=0.25)) / 0.25
    assert x.mean() == pytest.approx(0, abs=0.01)
    assert x.std() == pytest.approx(1, abs=0.01)
    assert (x**3).mean() == pytest.approx(0, abs=0.03)
    assert (x**4).mean() == pytest.approx(3 - 1.2 / 8, abs=0.05)  # a sum of eight uniforms: 1.2 / 8 below a normal
    for bound, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert (np.abs(x) < bound).mean() == pytest.approx(share, abs=0.01)


def test_values_are_whole_numbers_scaled_once():
    # What makes them the same on every mesh: nothing is rounded before the one product at the end.
    key = jax.random.key(2)
    limit = np.float32(math.sqrt(6 / 14) / 2**24)
    odd = (np.asarray(jax.random.bits(key, (6, 8)), np.int64) >> 8) * 2 - (2**24 - 1)
    np.testing.assert_array_equal(xavier_uniform(key, 6, 8), odd.astype(np.float32) * limit)
    bits = np.asarray(jax.random.bits(key, (4, 5, 3)), np.int64)
    expected = ((bits & 0xFFFF) + (bits >> 16)).sum(0) - 4 * 0xFFFF
    scale = np.float32(2.0 / math.sqrt(8 * (2**32 - 1) / 12))
    found = np.asarray(normal(key, (5, 3), deviation=2.0))
    np.testing.assert_array_equal(found, expected.astype(np.float32) * scale)
