import jax.numpy as jnp
import numpy as np
import pytest

from lmx.nn import masks

# Two sentences and padding; one sentence alone; a row of nothing but padding.
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])


def test_segments_of_are_one_for_tokens_and_zero_for_padding():
    tokens = jnp.array([[5, 9, 3, 3], [7, 3, 9, 0]])
    np.testing.assert_array_equal(masks.segments_of(tokens, pad_id=3), [[1, 1, 0, 0], [1, 0, 1, 1]])


def test_padding_is_looked_at_by_nobody():
    mask = masks.padding(SEGMENTS)
    assert mask.shape == (3, 1, 1, 7)
    np.testing.assert_array_equal(mask[:, 0, 0], SEGMENTS > 0)


def test_a_position_sees_itself_and_the_past():
    mask = masks.causal(4)
    assert mask.shape == (1, 1, 4, 4)
    np.testing.assert_array_equal(mask[0, 0], np.tri(4, dtype=bool))


def test_a_query_sees_exactly_the_keys_of_its_own_segment():
    queries = jnp.array([[1, 2, 2, 0], [3, 3, 1, 1], [1, 1, 0, 0]])
    mask = np.asarray(masks.same_segment(queries, SEGMENTS))
    assert mask.shape == (3, 1, 4, 7)
    for row in range(3):
        for query in range(4):
            for key in range(7):
                seen = queries[row, query] == SEGMENTS[row, key] and SEGMENTS[row, key] != 0
                assert mask[row, 0, query, key] == seen


def test_a_row_of_one_segment_is_a_row_with_padding():
    segments = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    queries_that_count = np.asarray(segments > 0)
    packed = np.asarray(masks.same_segment(segments, segments))[:, 0]
    padded = np.broadcast_to(masks.padding(segments)[:, 0], packed.shape)
    np.testing.assert_array_equal(packed[queries_that_count], padded[queries_that_count])


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_window_reaches_the_nearest_on_either_side(size):
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))
    np.testing.assert_array_equal(masks.window(5, size=size)[0, 0], distance < size)


def test_a_window_of_the_past_sees_as_many_positions_as_its_size():
    seen = (masks.window(8, size=3) & masks.causal(8))[0, 0].sum(-1)
    np.testing.assert_array_equal(seen, [1, 2, 3, 3, 3, 3, 3, 3])


def test_a_window_must_hold_the_position_itself():
    with pytest.raises(ValueError, match=r"^size must be at least 1 \(a position sees itself\), got size=0\.$"):
        masks.window(5, size=0)


def test_masks_combine_by_and():
    mask = masks.padding(SEGMENTS) & masks.causal(7) & masks.window(7, size=2)
    assert mask.shape == (3, 1, 7, 7)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask[0, 0, 4], [False, False, False, True, True, False, False])
    assert not mask[2].any()
