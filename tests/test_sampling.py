"""Each way to choose a word against a few lines of NumPy, and what is drawn against its probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.generation import Ids
from lmx.nn.masks import MASKED
from lmx.sampling import Sampling, choose, forbid_repeats, keep_min_p, keep_top_p, penalise, row_keys, split
from lmx.writer import rounded

B, V = 5, 83


def logits(*, rows: int = B, words: int = V, seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=(rows, words)).astype(np.float32)


def probabilities(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row.astype(np.float64) - row.max())
    return powers / powers.sum()


def top_p_by_hand(row: np.ndarray, top_p: float) -> set[int]:
    """The words in the order of their probability, until their sum is enough."""
    order, kept, total = np.argsort(-row, kind="stable"), set(), 0.0
    for word in order:
        if total >= top_p:
            break
        kept.add(int(word))
        total += probabilities(row)[word]
    return kept


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_fewest_words_that_are_enough(top_p):
    given = logits()
    found = np.asarray(jax.jit(keep_top_p)(given, jnp.float32(top_p)))
    for row, kept in zip(given, found, strict=True):
        assert set(np.flatnonzero(kept > MASKED).tolist()) == top_p_by_hand(row, top_p)
        np.testing.assert_array_equal(kept[kept > MASKED], row[kept > MASKED])


def test_equally_likely_words_come_together_and_masked_ones_never():
    given = np.array([[1.0, 3.0, 3.0, 0.0, MASKED], [5.0, 5.0, 5.0, 5.0, MASKED]], np.float32)
    found = np.asarray(jax.jit(keep_top_p)(given, jnp.float32(0.3)))
    assert (found > MASKED).tolist() == [[False, True, True, False, False], [True, True, True, True, False]]


@pytest.mark.parametrize("min_p", [0.02, 0.5, 1.0])
def test_min_p_keeps_words_that_are_likely_beside_the_likeliest(min_p):
    given = logits()
    found = np.asarray(jax.jit(keep_min_p)(given, jnp.float32(min_p)))
    for row, kept in zip(given, found, strict=True):
        likely = probabilities(row)
        np.testing.assert_array_equal(kept > MASKED, likely >= min_p * likely.max() * (1 - 1e-6))


def test_the_penalty_makes_seen_words_less_likely_on_both_sides_of_zero():
    given, seen = np.array([[2.0, -2.0, 2.0, -2.0]], np.float32), np.array([[True, True, False, False]])
    np.testing.assert_allclose(jax.jit(penalise)(given, seen, jnp.float32(4.0)), [[0.5, -8.0, 2.0, -2.0]])


def forbidden_by_hand(history: list[int], size: int) -> set[int]:
    last = history[len(history) - size + 1 :] if size > 1 else []
    begins = range(len(history) - size + 1)
    return {history[i + size - 1] for i in begins if history[i : i + size - 1] == last}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_sequence_comes_twice(size):
    generator, words = np.random.default_rng(size), 3
    history = generator.integers(0, words, (40, 12)).astype(np.int32)
    lengths = generator.integers(1, 12, 40).astype(np.int32)
    lengths[:3] = 1
    found = jax.jit(forbid_repeats, static_argnames="size")(
        np.zeros((40, words), np.float32), history, lengths, size=size
    )
    some = 0
    for row, length, masked in zip(history, lengths, np.asarray(found) == MASKED, strict=True):
        expected = forbidden_by_hand(row[:length].tolist(), size)
        assert set(np.flatnonzero(masked).tolist()) == expected
        some += len(expected)
    assert 0 < some < 40 * words


chosen = jax.jit(choose, static_argnames="choice")


def draws(sampling: Sampling, row: np.ndarray, *, number: int = 4000) -> np.ndarray:
    """How often each word is drawn."""
    choice, numbers = split(sampling)
    keys = jax.random.split(jax.random.key(3), number)
    given = jnp.broadcast_to(jnp.asarray(row), (number, len(row)))
    words = chosen(given, keys, choice=choice, numbers=numbers)
    return np.bincount(np.asarray(words), minlength=len(row)) / number


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=4),
        Sampling(top_p=0.7, temperature=1.5),
        Sampling(min_p=0.05),
        Sampling(top_k=6, top_p=0.8, min_p=0.1, temperature=2.0),
    ],
    ids=str,
)
def test_words_are_drawn_by_their_probability_among_those_that_are_left(sampling):
    row = logits(rows=1, words=9, seed=4)[0]
    left = row / sampling.temperature
    if sampling.top_k is not None:
        left = np.where(left >= np.sort(left)[-sampling.top_k], left, -np.inf)
    if sampling.top_p is not None:
        kept = top_p_by_hand(left, sampling.top_p)
        left = np.array([value if word in kept else -np.inf for word, value in enumerate(left)])
    if sampling.min_p is not None:
        left = np.where(probabilities(left) >= sampling.min_p * probabilities(left).max(), left, -np.inf)
    expected, found = probabilities(left), draws(sampling, row)
    assert not found[expected == 0].any()
    assert (expected > 0).sum() in (9, 6, 5, 4, 3, 2)
    # Four deviations of the share of 4,000 draws.
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9).all()


def test_temperature_zero_and_one_word_are_the_likeliest():
    given = logits()
    keys = jax.random.split(jax.random.key(0), B)
    for sampling in (
        Sampling(temperature=0.0, top_p=0.5),
        Sampling(top_k=1),
        Sampling(top_p=1e-6),
        Sampling(min_p=1.0),
    ):
        choice, numbers = split(sampling)
        np.testing.assert_array_equal(chosen(given, keys, choice=choice, numbers=numbers), given.argmax(-1))


def test_a_row_draws_the_same_alone_and_among_others():
    given, keys = logits(rows=6), jax.random.split(jax.random.key(1), 6)
    for sampling in (Sampling(), Sampling(top_k=20, top_p=0.9), Sampling(top_p=0.9)):
        choice, numbers = split(sampling)
        together = chosen(given, keys, choice=choice, numbers=numbers)
        alone = [chosen(given[i : i + 1], keys[i : i + 1], choice=choice, numbers=numbers)[0] for i in range(6)]
        assert together.tolist() == [int(word) for word in alone]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, r"^temperature must be at least 0 and finite, got temperature=-1\.0\.$"),
        ("temperature", float("nan"), r"^temperature must be at least 0 and finite, got temperature=nan\.$"),
        ("top_k", 0, r"^top_k must be at least 1, got top_k=0\.$"),
        ("top_p", 0.0, r"^top_p must be over 0 and at most 1, got top_p=0\.0\.$"),
        ("min_p", 1.5, r"^min_p must be over 0 and at most 1, got min_p=1\.5\.$"),
        ("repetition_penalty", 0.0, r"^repetition_penalty must be over 0 and finite, got"),
        ("no_repeat", 0, r"^no_repeat must be at least 1, got no_repeat=0\.$"),
        ("max_tokens", 0, r"^max_tokens must be at least 1, got max_tokens=0\.$"),
        ("min_tokens", -1, r"^min_tokens must be at least 0, got min_tokens=-1\.$"),
        ("temperature", float("inf"), r"^temperature must be at least 0 and finite, got temperature=inf\.$"),
        (
            "repetition_penalty",
            float("inf"),
            r"^repetition_penalty must be over 0 and finite, got repetition_penalty=inf",
        ),
        ("top_p", 1.25, r"^top_p must be over 0 and at most 1, got top_p=1\.25\.$"),
        ("min_p", 0.0, r"^min_p must be over 0 and at most 1, got min_p=0\.0\.$"),
        ("seed", 2**32, r"^seed must be at least 0 and below 2\^32, got seed=4294967296\.$"),
        ("seed", -1, r"^seed must be at least 0 and below 2\^32, got seed=-1\.$"),
        ("stop", ("a", ""), r"^stop must be a tuple of texts that are not empty, got stop=\('a', ''\)\.$"),
    ],
)
def test_values_that_cannot_be_are_told(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Sampling(), **{field: value})


def test_the_ends_of_each_range_can_be():
    least = Sampling(temperature=0.0, top_k=1, no_repeat=1, max_tokens=1, min_tokens=0, top_p=1.0, min_p=1.0, seed=0)
    assert str(least) == "likeliest words"
    assert str(dataclasses.replace(least, temperature=0.5, seed=2**32 - 1)) == (
        "temperature 0.5, top-k 1, top-p 1, min-p 1, seed 4294967295"
    )


def test_a_program_is_made_for_what_has_an_effect():
    plain, numbers = split(Sampling(top_p=1.0, min_tokens=3))
    assert plain == (False, None, False, False, False, None)
    assert [float(each) for each in numbers] == [1, 1, 1, 1, 3]
    every = Sampling(temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repetition_penalty=2.0, no_repeat=4)
    drawn, numbers = split(every)
    assert drawn == (False, 3, True, True, True, 4)
    assert [float(each) for each in numbers] == [0.5, 0.25, 0.125, 2, 0]
    assert split(dataclasses.replace(every, temperature=0.0))[0] == (True, None, False, False, True, 4)


def test_a_key_is_of_the_seed_and_of_each_of_its_numbers():
    draws = jnp.array([[1, 2, 3], [4, 2, 3], [1, 4, 3], [1, 2, 4], [1, 2, 3]], jnp.uint32)
    keys = [np.asarray(jax.random.key_data(row_keys(jnp.uint32(seed), draws))) for seed in (7, 8)]
    first, *others, again = keys[0].tolist()
    assert first == again
    assert len({tuple(each) for each in [first, *others, *keys[1].tolist()]}) == 8


def test_what_may_come_is_a_word_of_the_vocabulary_that_is_not_too_early():
    ids = Ids(pad=0, bos=1, eos=2, size=7, more_ends=(5,))
    assert ids.ends == (2, 5)
    expected = {True: [3, 4, 6], False: [2, 3, 4, 5, 6]}
    for is_early, words in expected.items():
        assert np.flatnonzero(ids.may_come(9, is_early=jnp.asarray(is_early))).tolist() == words
    same = ids._replace(bos=2)  # of a model that starts from its end
    assert np.flatnonzero(same.may_come(9, is_early=jnp.asarray(False))).tolist() == [1, 2, 3, 4, 5, 6]


def test_rows_are_padded_to_few_lengths():
    lengths = (1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257)
    assert [rounded(length, 1000) for length in lengths] == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 384]
    assert [rounded(length, 100) for length in (3, 60, 65, 100)] == [8, 64, 100, 100]
