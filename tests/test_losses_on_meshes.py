"""The cross entropy on a mesh is the formula's: each device chunks its own tokens, and the sums meet at the end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.losses import cross_entropy
from lmx.sharding import tables
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

# Optimised: losses of hundreds are compared to their last bits.
pytestmark = [pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices"), pytest.mark.optimised]

# Rows and length of the batch, width, words, rows of the table. A device has 5 to 40 tokens: chunks of 8 are filled up.
B, T, D, V, ROWS = 4, 10, 6, 13, 16
MESHES = {
    "one device": {},
    "data": {"data": 4},
    "fsdp": {"fsdp": 2},
    "tensor": {"tensor": 4},
    "sequence": {"sequence": 2},
    "data, fsdp, tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp, tensor, sequence": {"fsdp": 2, "tensor": 2, "sequence": 2},
}

# Whether tables are gathered whole: those on a mesh with fsdp may also stay in pieces.
WHOLE, IN_PIECES = 2**28, 0
CASES = [pytest.param(sizes, WHOLE, id=name) for name, sizes in MESHES.items()]
CASES += [pytest.param(sizes, IN_PIECES, id=f"{name}, in pieces") for name, sizes in MESHES.items() if "fsdp" in sizes]


@pytest.fixture
def limit(request, monkeypatch) -> None:
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", request.param)


@pytest.fixture(autouse=True)
def _limited(limit) -> None:
    """Each test has the limit of its case."""


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Makes states, table, labels and weights; weights of 0 are padding, those of 2 count twice."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, V, (B, T)).astype(np.int32)
    weights = generator.choice([0, 1, 1, 2], (B, T)).astype(np.float32)
    states, table = (generator.normal(size=shape).astype(np.float32) for shape in ((B, T, D), (ROWS, D)))
    return 2 * states, table, labels, weights


def plain(states, table, labels, weights, *, label_smoothing=0.0, z_loss=0.0):
    """The loss as its formula, with all logits at once."""
    logits = states @ table[:V].T
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = logits - log_z[..., None]
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    loss = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1) + z_loss * log_z**2
    return (loss * weights).sum(), ((nll * weights).sum(), weights.sum())


def on_mesh(sizes, arguments, **settings):
    """Returns the loss's sums and its gradients by states and table, made on a mesh."""
    count = int(np.prod(list(sizes.values()), dtype=int))
    mesh = make_mesh(MeshConfig(**({"data": 1} | sizes)), devices=jax.devices()[:count])

    def loss(states, table, labels, weights):
        sums = cross_entropy(states, table, labels, weights, vocab_size=V, chunk_tokens=8, **settings)
        return sums.loss, (sums.nll, sums.weight)

    @jax.jit
    def measured(*arguments):
        with use_mesh(mesh):
            return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*arguments)

    return measured(*arguments)


@functools.cache
def expected(**settings):
    loss = functools.partial(plain, **settings)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*batch())


@pytest.mark.parametrize(("sizes", "limit"), CASES, indirect=["limit"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow, id="plain"),
        pytest.param({"label_smoothing": 0.1, "z_loss": 0.01}, id="smoothed"),
    ],
)
def test_loss_and_gradients_on_a_mesh_are_the_formulas(sizes, settings):
    found = on_mesh(sizes, batch(), **settings)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), found, expected(**settings))


@pytest.mark.parametrize(("sizes", "limit"), CASES, indirect=["limit"])
def test_what_has_no_weight_gives_nothing_on_a_mesh(sizes):
    states, table, labels, weights = batch()
    padding = weights == 0
    # Were the labels of padding to count, these would: a word that no other token has, with states of their own.
    labels = np.where(padding, V - 1, np.where(labels == V - 1, 0, labels)).astype(np.int32)
    states = np.where(padding[..., None], 30.0, states).astype(np.float32)
    _, (by_states, by_table) = on_mesh(sizes, (states, table, labels, weights))
    reference = jax.jit(jax.grad(lambda *arguments: plain(*arguments)[0], argnums=(0, 1)))
    _, exact = reference(states, table, labels, weights)
    assert (np.asarray(by_states)[padding] == 0).all()
    np.testing.assert_allclose(by_table, exact, atol=2e-5)
    assert (np.asarray(by_table)[V:] == 0).all()


@pytest.mark.parametrize(("sizes", "limit"), CASES, indirect=["limit"])
def test_bfloat16_states_are_near_the_formula_on_a_mesh(sizes):
    states, table, labels, weights = batch()
    narrow = states.astype(jnp.bfloat16)
    (loss, _), (by_states, by_table) = on_mesh(sizes, (narrow, table, labels, weights), label_smoothing=0.1)
    assert (loss.dtype, by_states.dtype, by_table.dtype) == (np.float32, jnp.bfloat16, np.float32)
    exact = [x.astype(jnp.bfloat16).astype(np.float32) for x in (states, table)]
    reference = jax.jit(jax.value_and_grad(lambda *a: plain(*a, label_smoothing=0.1)[0], argnums=(0, 1)))
    exact_loss, (exact_by_states, exact_by_table) = reference(*exact, labels, weights)
    np.testing.assert_allclose(loss, exact_loss, rtol=3e-3)
    # Over a split vocabulary they are added up over devices in bfloat16.
    np.testing.assert_allclose(by_states.astype(np.float32), exact_by_states, atol=0.05, rtol=2**-7)
    np.testing.assert_allclose(by_table, exact_by_table, atol=0.02 * float(np.abs(exact_by_table).max()))
