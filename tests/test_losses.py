import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.losses import cross_entropy

# Rows and length of the batch, width, words, rows of the table: the last 7 are padding.
B, T, D, V, ROWS = 6, 5, 4, 13, 20


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Makes states, table, labels and weights; weights of 0 are padding, those of 2 count twice."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, V, (B, T)).astype(np.int32)
    weights = generator.choice([0, 1, 1, 2], (B, T)).astype(np.float32)
    return 2 * vectors(B, T, D, seed=1), vectors(ROWS, D, seed=2), labels, weights


def plain(states, table, labels, weights, *, label_smoothing=0.0, z_loss=0.0):
    """The loss as its formula, with all logits at once: -(1 - eps) log p(label) - eps mean(log p) + z log(Z)^2."""
    logits = states @ table[:V].T
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = logits - log_z[..., None]
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    loss = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1) + z_loss * log_z**2
    return (loss * weights).sum(), ((nll * weights).sum(), weights.sum())


def chunked(states, table, labels, weights, **settings):
    sums = cross_entropy(states, table, labels, weights, vocab_size=V, **settings)
    return sums.loss, (sums.nll, sums.weight)


def with_gradients(loss, **settings):
    """Compiles the loss with its gradients by states and table."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, **settings), argnums=(0, 1), has_aux=True))


def assert_near(found, expected):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5), found, expected)


@pytest.fixture(scope="module")
def smoothed():
    """The loss with everything in it, and its gradients, by the formula."""
    return with_gradients(plain, label_smoothing=0.1, z_loss=0.01)(*batch())


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.01}])
def test_value_and_gradients_equal_the_formula(settings):
    assert_near(with_gradients(chunked, **settings)(*batch()), with_gradients(plain, **settings)(*batch()))


@pytest.mark.parametrize("chunk_tokens", [1, 2 * T, 3 * T, 1000])
def test_the_size_of_a_chunk_changes_nothing(smoothed, chunk_tokens):
    found = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01, chunk_tokens=chunk_tokens)(*batch())
    assert_near(found, smoothed)


@pytest.mark.parametrize("rows", [16, 7])
def test_any_number_of_rows_can_be_split(rows):
    states, table, labels, weights = batch()
    states, labels, weights = (np.resize(x, (rows, *x.shape[1:])) for x in (states, labels, weights))
    found, expected = (
        jax.jit(loss)(states, table, labels, weights) for loss in (functools.partial(chunked, chunk_tokens=8), plain)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_smoothing_gives_every_word_an_equal_share():
    # eps/V for each of V words, the label included: fairseq 0.9's convention.
    states, table, labels, _ = batch()
    weights = np.zeros((B, T), np.float32)
    weights[2, 3] = 1
    logits = (states[2, 3] @ table[:V].T).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.full(V, 0.3 / V)
    target[labels[2, 3]] += 0.7
    loss, (nll, weight) = jax.jit(functools.partial(chunked, label_smoothing=0.3))(states, table, labels, weights)
    assert float(loss) == pytest.approx(-(target * log_p).sum(), rel=1e-5)
    assert float(nll) == pytest.approx(-log_p[labels[2, 3]], rel=1e-5)
    assert float(weight) == 1


def test_the_padding_of_the_table_has_no_probability_and_no_gradient(smoothed):
    states, table, labels, weights = batch()
    table[V:] = 50
    (loss, _), (by_states, by_table) = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01)(
        states, table, labels, weights
    )
    assert_near((loss, by_states), (smoothed[0][0], smoothed[1][0]))
    assert (np.asarray(by_table)[V:] == 0).all()


def test_what_has_no_weight_does_not_matter(smoothed):
    states, table, labels, weights = batch()
    states, labels = np.where(weights[..., None] == 0, 1e3, states), np.where(weights == 0, 0, labels)
    found = with_gradients(chunked, label_smoothing=0.1, z_loss=0.01)(states, table, labels, weights)
    assert_near(found[0], smoothed[0])
    assert (np.asarray(found[1][0])[weights == 0] == 0).all()


def test_a_batch_without_weight_has_no_loss_and_no_gradient():
    states, table, labels, _ = batch()
    found = with_gradients(chunked, label_smoothing=0.1)(states, table, labels, np.zeros((B, T), np.float32))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))


def test_gradients_follow_what_the_loss_is_multiplied_with(smoothed):
    def third(*arguments):
        loss, sums = chunked(*arguments, label_smoothing=0.1, z_loss=0.01)
        return loss / 3, sums

    assert_near(with_gradients(third)(*batch())[1], jax.tree.map(lambda gradient: gradient / 3, smoothed[1]))


def test_only_the_loss_has_a_gradient():
    def nll(states, table, labels, weights):
        return chunked(states, table, labels, weights)[1][0], None

    assert all((np.asarray(leaf) == 0).all() for leaf in with_gradients(nll)(*batch())[1])


def test_vmap_gives_what_one_by_one_gives(smoothed):
    arguments = [np.stack([x, x[::-1]]) for x in batch()]
    loss = functools.partial(chunked, label_smoothing=0.1, z_loss=0.01, chunk_tokens=2 * T)
    stacked = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)))(*arguments)
    assert_near(jax.tree.map(lambda leaf: leaf[0], stacked), smoothed)


def test_large_logits_stay_finite():
    states, table, labels, weights = batch()
    found, expected = (
        with_gradients(loss, label_smoothing=0.1)(100 * states, 100 * table, labels, weights)
        for loss in (chunked, plain)
    )
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_bfloat16_states_give_float32_sums():
    states, table, labels, weights = batch()
    narrow = states.astype(jnp.bfloat16)
    (loss, (nll, _)), (by_states, by_table) = with_gradients(chunked, label_smoothing=0.1)(
        narrow, table, labels, weights
    )
    assert loss.dtype == nll.dtype == by_table.dtype == np.float32
    assert by_states.dtype == jnp.bfloat16
    (exact, _), (exact_by_states, exact_by_table) = with_gradients(plain, label_smoothing=0.1)(
        *(x.astype(jnp.bfloat16).astype(np.float32) for x in (states, table)), labels, weights
    )
    # Inputs and sums are exact but for the table in the product with the label (float32): 2^-8 of single terms.
    np.testing.assert_allclose(loss, exact, rtol=2e-3)
    np.testing.assert_allclose(by_states.astype(np.float32), exact_by_states, atol=0.05)
    np.testing.assert_allclose(by_table, exact_by_table, atol=0.02 * float(np.abs(exact_by_table).max()))
