"""An order by index is an order of all things, of any number, and looks like one drawn at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.data.permutation import permuted

EXPECTED = [9, 1, 7, 3, 5, 8, 2, 4, 0, 6]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.tuples(st.integers(0, 9), st.integers(0, 2**63)))
def test_each_number_stands_at_one_place(size: int, seed: tuple[int, int]):
    order = permuted(np.arange(size), size, seed)
    assert np.array_equal(np.sort(order), np.arange(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 2**62), data=st.data())
def test_a_place_is_computed_by_itself(size: int, data):
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9, unique=True))
    found = permuted(np.array(places).reshape(1, -1), size, (3,))
    assert found.shape == (1, len(places))
    assert len(set(found.ravel().tolist())) == len(places)
    assert 0 <= found.min() <= found.max() < size
    assert found[0, -1] == permuted(np.array(places[-1]), size, (3,))


def test_the_order_never_changes():
    assert permuted(np.arange(10), 10, (1, 2)).tolist() == EXPECTED
    assert permuted(np.arange(10), 10, (1, 3)).tolist() != EXPECTED


def test_all_places_and_neighbours_are_as_likely():
    size, seeds = 12, 1200
    places, neighbours = np.zeros((size, size)), np.zeros((size, size))
    for seed in range(seeds):
        order = permuted(np.arange(size), size, (seed,))
        places[np.arange(size), order] += 1
        neighbours[order[:-1], order[1:]] += 1
    assert chi_square(places) < 1.5  # 1 on average, with a standard deviation of sqrt(2 / degrees): 0.13
    assert chi_square(neighbours[~np.eye(size, dtype=bool)]) < 1.5


def chi_square(counts: np.ndarray) -> float:
    """Returns chi-square divided by its degrees of freedom, about."""
    return float(np.square(counts - counts.mean()).mean() / counts.mean())


def test_a_place_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"index must be from 0 to 4, got 2 to 5\."):
        permuted(np.array([2, 5]), 5, (1,))
    with pytest.raises(ValueError, match=r"size must be at least 1, got size=0\."):
        permuted(np.arange(0), 0, (1,))
