import jax.numpy as jnp
import numpy as np
import pytest

from lmx.nn import masks

# Two sentences and padding; one sentence alone; a row of nothing but padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])


def test_segments_of_are_one_for_tokens_and_zero_for_padding():
    tokens = jnp.asarray([[5, 9, 3, 3], [7, 3, 9, 0]])
    np.testing.assert_array_equal(masks.segments_of(tokens, pad_id=3), [[1, 1, 0, 0], [1, 0, 1, 1]])


def test_padding_is_looked_at_by_nobody():
    mask = masks.padding(jnp.asarray(SEGMENTS))
    assert mask.shape == (3, 1, 1, 7)
    np.testing.assert_array_equal(np.squeeze(mask), SEGMENTS > 0)


def test_a_position_sees_itself_and_the_past():
    mask = masks.causal(4)
    assert mask.shape == (1, 1, 4, 4)
    np.testing.assert_array_equal(np.squeeze(mask), np.tri(4, dtype=bool))


def test_a_query_sees_exactly_the_keys_of_its_own_segment():
    queries = np.array([[1, 2, 2, 0], [3, 3, 1, 1], [1, 1, 0, 0]])
    mask = np.asarray(masks.same_segment(jnp.asarray(queries), jnp.asarray(SEGMENTS)))
    assert mask.shape == (3, 1, 4, 7)
    for row, query, key in np.ndindex(3, 4, 7):
        seen = queries[row, query] == SEGMENTS[row, key] and SEGMENTS[row, key] != 0
        assert mask[row, 0, query, key] == seen


def test_a_row_of_one_segment_is_a_row_with_padding():
    segments = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    packed = np.asarray(masks.same_segment(jnp.asarray(segments), jnp.asarray(segments)))[:, 0]
    padded = np.broadcast_to(np.asarray(masks.padding(jnp.asarray(segments)))[:, 0], packed.shape)
    np.testing.assert_array_equal(packed[segments > 0], padded[segments > 0])


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_window_reaches_the_nearest_on_either_side(size):
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))
    np.testing.assert_array_equal(np.squeeze(masks.window(5, size=size)), distance < size)


def test_a_window_of_the_past_sees_as_many_positions_as_its_size():
    mask = np.asarray(masks.window(5, size=3) & masks.causal(5))
    np.testing.assert_array_equal(mask[0, 0].sum(-1), [1, 2, 3, 3, 3])


def test_a_window_must_hold_the_position_itself():
    with pytest.raises(ValueError, match=r"^size must be at least 1 \(a position sees itself\), got size=0\.$"):
        masks.window(5, size=0)


def test_masks_combine_by_and():
    mask = np.asarray(masks.padding(jnp.asarray(SEGMENTS)) & masks.causal(7) & masks.window(7, size=2))
    assert mask.shape == (3, 1, 7, 7)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask[0, 0, 4], [False, False, False, True, True, False, False])
    assert not mask[2].any()
