import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.nn import masks
from lmx.nn.masks import Sees

# Two sentences and padding; one sentence alone; a row of nothing but padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])


def test_segments_of_are_one_for_tokens_and_zero_for_padding():
    tokens = jnp.asarray([[5, 9, 3, 3], [7, 3, 9, 0]])
    np.testing.assert_array_equal(masks.segments_of(tokens, pad_id=3), [[1, 1, 0, 0], [1, 0, 1, 1]])


def test_lengths_reach_to_the_last_token_that_is_not_padding():
    tokens = jnp.asarray([[5, 9, 3, 3], [7, 3, 9, 3], [3, 3, 3, 3], [3, 1, 2, 4]])
    np.testing.assert_array_equal(masks.lengths_of(tokens, pad_id=3), [2, 3, 0, 4])


def test_padding_is_looked_at_by_nobody():
    mask = Sees(key_lengths=jnp.asarray([5, 7, 0])).mask(4, 7)
    assert mask.shape == (3, 1, 1, 7)
    np.testing.assert_array_equal(np.squeeze(mask), np.arange(7) < np.array([5, 7, 0])[:, None])


def test_a_position_sees_itself_and_the_past():
    mask = Sees(causal=True).mask(4, 4)
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
    segments = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    packed = np.asarray(Sees(segments=(segments, segments)).mask(5, 5))[:, 0]
    padded = np.broadcast_to(np.asarray(Sees(key_lengths=jnp.asarray([4, 2])).mask(5, 5))[:, 0], packed.shape)
    np.testing.assert_array_equal(packed[segments > 0], padded[segments > 0])


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_window_reaches_the_nearest_on_either_side(size):
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))
    np.testing.assert_array_equal(np.squeeze(Sees(window=size).mask(5, 5)), distance < size)


def test_a_prefix_is_seen_by_those_before_it_too():
    prefix = np.array([[True, True, True, False, False], [False] * 5])
    sees = Sees(causal=True, prefix=jnp.asarray(prefix))
    expected = np.tri(5, dtype=bool) | prefix[:, None, :]
    for structure in (sees, sees.within(9), sees.with_bias(None), jax.tree.map(lambda leaf: leaf, sees)):
        np.testing.assert_array_equal(structure.mask(5, 5)[:, 0], expected)
    np.testing.assert_array_equal(sees.mask(5, 5, rows=jnp.asarray([1, 4]))[:, 0], expected[:, [1, 4]])


def test_a_window_of_the_past_sees_as_many_positions_as_its_size():
    mask = np.asarray(Sees(causal=True, window=3).mask(5, 5))
    np.testing.assert_array_equal(mask[0, 0].sum(-1), [1, 2, 3, 3, 3])


def test_a_structure_within_a_window_has_the_narrower_of_two_and_all_else():
    lengths = jnp.array([3, 5])
    sees = Sees(causal=True, key_lengths=lengths, bias=jnp.zeros((1, 1, 5, 5)))
    assert sees.within(None) is sees
    assert [sees.within(size).within(4).window for size in (3, 4, 9)] == [3, 4, 4]
    expected = Sees(causal=True, key_lengths=lengths, window=3).mask(5, 5)
    np.testing.assert_array_equal(sees.within(3).mask(5, 5), expected)
    assert sees.within(3).bias is sees.bias


def test_a_window_must_hold_the_position_itself():
    with pytest.raises(ValueError, match=r"^window must be at least 1 \(a position sees itself\), got window=0\.$"):
        Sees(window=0)


def test_what_is_given_must_all_hold():
    segments = jnp.asarray(SEGMENTS)
    whole = Sees(causal=True, key_lengths=jnp.asarray([4, 7, 0]), segments=(segments, segments), window=2)
    mask = np.asarray(whole.mask(7, 7))
    assert mask.shape == (3, 1, 7, 7)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask[0, 0, 4], [False, False, False, True, False, False, False])
    np.testing.assert_array_equal(mask[0, 0, 3], [False, False, False, True, False, False, False])
    assert not mask[2].any()
    rows = jnp.asarray([5, 0, 3])
    np.testing.assert_array_equal(whole.mask(3, 7, rows=rows), mask[:, :, np.asarray(rows)])


def test_what_sees_everything_needs_no_mask():
    assert Sees().mask(4, 7) is None


def test_a_structure_goes_through_jit_and_vmap_and_its_flags_are_not_traced():
    sees = Sees(causal=True, key_lengths=jnp.asarray([[2, 1], [0, 3]]), window=2)
    masks_of_two = jax.jit(jax.vmap(lambda sees: sees.mask(3, 3)))(sees)
    for one, lengths in zip(masks_of_two, sees.key_lengths, strict=True):
        np.testing.assert_array_equal(one, Sees(causal=True, key_lengths=lengths, window=2).mask(3, 3))
    assert repr(Sees(causal=True, window=4)) == "Sees(causal=True, window=4)"


@pytest.mark.parametrize(("queries", "keys"), [(3, 6), (6, 3)])
def test_positions_are_counted_from_the_first_query_and_the_first_key(queries, keys):
    distance = np.arange(queries)[:, None] - np.arange(keys)
    np.testing.assert_array_equal(np.squeeze(Sees(causal=True).mask(queries, keys)), distance >= 0)
    both = Sees(causal=True, window=2).mask(queries, keys)
    np.testing.assert_array_equal(np.squeeze(both), (distance >= 0) & (distance < 2))


def test_rows_of_one_segment_do_not_see_another_rows_segment_of_the_same_number():
    # Segments count by row; what padding sees does not matter, and nobody sees it.
    segments = jnp.asarray([[1, 1, 2, 0], [2, 1, 1, 1]])
    mask = np.asarray(Sees(segments=(segments, segments)).mask(4, 4))[:, 0]
    np.testing.assert_array_equal(mask[0, 2], [False, False, True, False])
    np.testing.assert_array_equal(mask[1, 0], [True, False, False, False])
    np.testing.assert_array_equal(mask[1, 3], [False, True, True, True])
    assert not mask[0, :, 3].any()


def test_some_rows_of_a_window_are_the_windows_of_those_rows():
    sees = Sees(window=2)
    rows = jnp.asarray([4, 0, 2, 4])
    np.testing.assert_array_equal(sees.mask(4, 5, rows=rows), np.asarray(sees.mask(5, 5))[:, :, np.asarray(rows)])
