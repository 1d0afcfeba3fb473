"""Sharded equals unsharded: the three families, on each mesh axis alone and in combinations.

Initial parameters, data order and dropout masks are identical to the bit. What is left is the order in which float32
numbers are added up, about 1e-6 of a sum; the tolerances below leave it a factor of ten and more over three steps.
Another dropout mask would move the loss by percents. In bfloat16, sums over devices are rounded to 1/256.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from lmx.definition import Definition, define
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import Encoder, EncoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.optimization import adam, constant
from lmx.sharding import tables
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import place_batch
from lmx.sharding.step import use_mesh
from lmx.training import born, compile_step, make_train_step, state_shardings

pytestmark = [pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices"), pytest.mark.optimised]

A, B, T, S, WORDS, STEPS = 2, 16, 14, 10, 150, 3
OPTIMIZER = adam(constant(0.1), epsilon=1.0, clip_norm=1.0)  # a large epsilon: small gradients stay small updates
SHARED = {"width": 24, "feedforward_width": 40, "num_heads": 4, "dropout_rate": 0.3, "max_length": 16}
MODELS = {
    "seq2seq": Seq2Seq,
    "decoder": Decoder,
    "encoder": Encoder,
}
CONFIGS = {
    "seq2seq": Seq2SeqConfig(
        source_vocab_size=WORDS, target_vocab_size=WORDS, num_encoder_layers=3, num_decoder_layers=3, **SHARED
    ),
    "decoder": DecoderConfig(vocab_size=WORDS, num_layers=3, num_kv_heads=2, **SHARED),
    "encoder": EncoderConfig(vocab_size=WORDS, num_layers=3, num_types=2, **SHARED),
}


def logits_loss(family: str, definition: Definition):
    """Returns the loss of a family: translation, the next word, or masked words; with smoothing and padding."""

    def loss(params, part, key):
        model = definition.merge(params)
        if family == "seq2seq":
            keys = jax.random.split(key)
            memory, _ = model.encode(part["source"], key=keys[0])
            states, _ = model.decode(memory, part["source"], part["tokens"], key=keys[1])
        elif family == "decoder":
            states, _ = model(part["tokens"], segments=part["segments"], key=key)
        else:
            states, _ = model(part["tokens"], types=part["types"], key=key)
        sums = cross_entropy(
            states,
            model.output_table(),
            part["labels"],
            part["weights"],
            vocab_size=WORDS,
            label_smoothing=0.1,
            z_loss=1e-3,
            chunk_tokens=4 * T,
        )
        return sums._asdict()

    return loss


def batches() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(8)

    def padded(length: int) -> np.ndarray:
        words = generator.integers(1, WORDS, (A, B, length))
        return np.where(np.arange(length) < generator.integers(3, length + 1, (A, B, 1)), words, 0).astype(np.int32)

    def make() -> dict[str, np.ndarray]:
        tokens = padded(T)
        return {
            "source": padded(S),
            "tokens": tokens,
            "types": (np.arange(T) > 5).astype(np.int32) * np.ones_like(tokens),
            "segments": np.where(tokens > 0, 1 + (np.arange(T) > 4), 0).astype(np.int32),
            "labels": generator.integers(0, WORDS, (A, B, T)).astype(np.int32),
            "weights": ((tokens > 0) & (generator.random((A, B, T)) < 0.8)).astype(np.float32),
        }

    return [make() for _ in range(STEPS)]


class Trained(NamedTuple):
    """What came of some steps: the state at birth, after the first step and after the last, and all metrics."""

    start: Any
    first: Any
    last: Any
    metrics: list[dict[str, float]]


def train(family: str, sizes: tuple[int, int, int, int], *, dtype: str = "float32") -> Trained:
    names = ("data", "fsdp", "tensor", "sequence")
    config = MeshConfig(**dict(zip(names, sizes, strict=True)))
    mesh = make_mesh(config, devices=jax.devices()[: int(np.prod(sizes))])
    model = dataclasses.replace(CONFIGS[family], dtype=dtype)
    build = lambda rngs: MODELS[family](model, rngs=rngs)  # noqa: E731
    definition = define(build)
    shardings = state_shardings(definition.network, OPTIMIZER, mesh=mesh)
    state = born(build, OPTIMIZER, shardings=shardings, seed=11)
    start = jax.tree.map(np.asarray, state.params)
    step = make_train_step(logits_loss(family, definition), OPTIMIZER)
    placed = [place_batch(batch, mesh) for batch in batches()]
    lowered = compile_step(step, mesh=mesh, shardings=shardings).lower(state, placed[0])
    # Compiled ahead of time, and without LLVM's optimizations: they are half of the time.
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    metrics, first = [], None
    for batch in placed:
        state, measured = compiled(state, batch)
        metrics.append({name: float(value) for name, value in measured.items()})
        if first is None:
            first = jax.tree.map(np.asarray, state)
    is_placed = lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim)  # noqa: E731
    assert jax.tree.all(jax.tree.map(is_placed, state, shardings))
    return Trained(start, first, jax.tree.map(np.asarray, state), metrics)


@pytest.fixture(scope="module")
def unsharded():
    """Trains each family on one device, once."""
    done: dict[str, Trained] = {}

    def get(family: str) -> Trained:
        if family not in done:
            done[family] = train(family, (1, 1, 1, 1))
        return done[family]

    return get


def assert_trained_alike(found: Trained, expected: Trained) -> None:
    jax.tree.map(np.testing.assert_array_equal, found.start, expected.start)
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=3e-5, err_msg=name)
    assert_gradients_near(found, expected, share=1e-4)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), found.last, expected.last)


def assert_gradients_near(found: Trained, expected: Trained, *, share: float) -> None:
    """Compares each array's gradient, of which Adam's first moment is a tenth after one step, by its norm.

    The bias of a key adds the same to all scores of a query: its gradient is nothing but rounding, and left out.
    """
    moments = [
        next(part.mu for part in jax.tree.leaves(one.first.optimizer_state, is_leaf=_is_adam) if _is_adam(part))
        for one in (found, expected)
    ]
    others = dict(jax.tree_util.tree_leaves_with_path(moments[1]))
    for path, moment in jax.tree_util.tree_leaves_with_path(moments[0]):
        name = jax.tree_util.keystr(path)
        if "['key']['bias']" not in name:
            assert np.linalg.norm(moment - others[path]) <= share * np.linalg.norm(others[path]), name


def _is_adam(part: Any) -> bool:
    return hasattr(part, "mu")


QUICK = {("decoder", (1, 2, 2, 2))}
MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2), (2, 2, 2, 1), (1, 2, 2, 2), (2, 1, 2, 2)]
CASES = [
    pytest.param(family, sizes, marks=() if (family, sizes) in QUICK else pytest.mark.slow, id=f"{family}-{sizes}")
    for family in MODELS
    for sizes in MESHES
    # One axis alone, but for the one that splits parameters, is the same for every family: its blocks are the same.
    if family == "seq2seq" or sizes[1] == 8 or sum(size > 1 for size in sizes) > 1
]


@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_training_on_a_mesh_is_training_on_one_device(unsharded, family, sizes):
    assert_trained_alike(train(family, sizes), unsharded(family))


IN_PIECES = [("seq2seq", (2, 2, 2, 1)), ("decoder", (1, 2, 2, 2)), ("encoder", (1, 8, 1, 1)), ("seq2seq", (1, 8, 1, 1))]


@pytest.mark.parametrize(
    ("family", "sizes"),
    [pytest.param(*case, marks=() if case[0] == "decoder" else pytest.mark.slow, id=str(case)) for case in IN_PIECES],
)
def test_training_with_tables_in_pieces_is_training_on_one_device(unsharded, monkeypatch, family, sizes):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", 0)
    assert_trained_alike(train(family, sizes), unsharded(family))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [pytest.param(2**28, id="whole"), pytest.param(0, id="in pieces")])
def test_training_in_bfloat16_on_a_mesh_is_near_that_on_one_device(monkeypatch, limit):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", limit)
    found, expected = (train("decoder", sizes, dtype="bfloat16") for sizes in ((2, 2, 2, 1), (1, 1, 1, 1)))
    jax.tree.map(np.testing.assert_array_equal, found.start, expected.start)
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)
    assert_gradients_near(found, expected, share=0.05)


def merge_alone(definition: Definition, params: Any) -> Any:
    return nnx.merge(definition.graph, params)


@pytest.mark.parametrize("merge", [Definition.merge, merge_alone], ids=["spread", "as it is"])
@pytest.mark.parametrize("limit", [2**28, 0], ids=["whole", "in pieces"])
def test_logits_on_a_mesh_are_those_of_the_table(monkeypatch, limit, merge):
    monkeypatch.setattr(tables, "WHOLE_TABLE_BYTES", limit)
    definition = define(lambda rngs: Decoder(CONFIGS["decoder"], rngs=rngs))
    params = nnx.to_pure_dict(nnx.state(definition.build(nnx.Rngs(0)), nnx.Param))
    tokens = batches()[0]["tokens"][0]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), devices=jax.devices()[:8])

    @jax.jit
    def on_mesh(params, tokens):
        with use_mesh(mesh):
            network = merge(definition, params)
            return network.logits(network(tokens)[0])

    expected = jax.jit(lambda params, tokens: (m := definition.merge(params)).logits(m(tokens)[0]))(params, tokens)
    np.testing.assert_allclose(on_mesh(params, tokens), expected, atol=1e-5, rtol=1e-5)
