"""Losses of outputs with a bias of each word and with a cap, against the formula: on one device and on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.losses import Output, token_loss
from lmx.nn.vocabulary import output_logits
from lmx.sharding import tables
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

pytestmark = pytest.mark.optimised  # losses of hundreds are compared to their last bits

# Rows and length of the batch, width, words, rows of the table.
B, T, D, V, ROWS = 4, 10, 6, 13, 16
SMOOTHED = {"label_smoothing": 0.1, "z_loss": 0.01}
FORMS = {"bias": (True, None), "cap": (False, 1.7), "bias, cap": (True, 1.7)}


def batch() -> tuple[np.ndarray, ...]:
    """Makes states, table, bias, labels and weights; weights of 0 are padding, those of 2 count twice."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, V, (B, T)).astype(np.int32)
    weights = generator.choice([0, 1, 1, 2], (B, T)).astype(np.float32)
    states, table, bias = (generator.normal(size=shape).astype(np.float32) for shape in ((B, T, D), (ROWS, D), (V,)))
    return 2 * states, table, bias, labels, weights


def plain(states, table, bias, labels, weights, *, has_bias, cap, label_smoothing=0.0, z_loss=0.0):
    """The loss as its formula, with all logits at once."""
    logits = states @ table[:V].T + bias * has_bias
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = logits - log_z[..., None]
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    loss = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1) + z_loss * log_z**2
    return (loss * weights).sum(), ((nll * weights).sum(), weights.sum())


def chunked(states, table, bias, labels, weights, *, has_bias, cap, **settings):
    output = Output(table, V, bias=bias if has_bias else None, cap=cap)
    sums = token_loss(states, output, labels, weights, chunk_tokens=8, **settings)
    return sums.loss, (sums.nll, sums.weight)


def with_gradients(loss, form: str, **settings):
    has_bias, cap = FORMS[form]
    loss = functools.partial(loss, has_bias=has_bias, cap=cap, **settings)
    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def assert_near(found, expected):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5), found, expected)


@pytest.mark.parametrize("settings", [{}, SMOOTHED], ids=["plain", "smoothed"])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradients_equal_the_formula(form, settings):
    found, expected = (jax.jit(with_gradients(loss, form, **settings))(*batch()) for loss in (chunked, plain))
    assert_near(found, expected)
    by_states, by_table, by_bias = found[1]
    assert (np.asarray(by_states)[batch()[4] == 0] == 0).all()
    assert (np.asarray(by_table)[V:] == 0).all()
    assert np.abs(by_bias).max() > 0.1 if FORMS[form][0] else not np.any(by_bias)


def test_vmap_gives_what_one_by_one_gives():
    both = [np.stack([x, x[::-1]]) for x in batch()]
    stacked = jax.jit(jax.vmap(with_gradients(chunked, "bias, cap", **SMOOTHED)))(*both)
    expected = jax.jit(with_gradients(plain, "bias, cap", **SMOOTHED))(*batch())
    assert_near(jax.tree.map(lambda leaf: leaf[0], stacked), expected)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(
    ("sizes", "in_pieces", "form"),
    [
        ({"data": 4}, False, "bias"),
        ({"tensor": 4}, False, "bias, cap"),
        ({"data": 2, "fsdp": 2, "tensor": 2}, False, "bias"),
        ({"fsdp": 2, "tensor": 2, "sequence": 2}, True, "bias"),
        ({"fsdp": 2, "tensor": 2, "sequence": 2}, True, "bias, cap"),
    ],
    ids=str,
)
def test_loss_and_gradients_on_a_mesh_are_the_formulas(sizes, in_pieces, form, monkeypatch):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", 0 if in_pieces else 2**28)
    count = int(np.prod(list(sizes.values())))
    mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)), devices=jax.devices()[:count])

    @jax.jit
    def measured(*arguments):
        with use_mesh(mesh):
            return with_gradients(chunked, form, **SMOOTHED)(*arguments)

    assert_near(measured(*batch()), jax.jit(with_gradients(plain, form, **SMOOTHED))(*batch()))


@pytest.mark.parametrize("form", FORMS)
def test_logits_have_the_probabilities_of_the_loss(form):
    states, table, bias, labels, _ = map(jnp.asarray, batch())
    has_bias, cap = FORMS[form]
    logits = output_logits(states, table, vocab_size=V, bias=bias if has_bias else None, cap=cap)
    assert (np.asarray(jax.nn.softmax(logits))[..., V:] == 0).all()
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
    _, (nll, _) = chunked(states, table, bias, labels, jnp.ones((B, T)), has_bias=has_bias, cap=cap)
    np.testing.assert_allclose(nll, -log_p.sum(), rtol=1e-5)
