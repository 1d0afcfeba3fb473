import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.losses import token_loss
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.shapes import bert_base
from lmx.sharding.rules import DEFAULT_RULES

B, T, WORDS, D = 3, 9, 150, 24
SIZES = {"vocab_size": WORDS, "width": D, "feedforward_width": 36, "num_heads": 4, "num_layers": 2, "max_length": 20}
BERT = dataclasses.replace(bert_base(), **SIZES)
LENGTHS = np.array([T, 4, 6])


def filled(config: MaskedConfig) -> MaskedEncoder:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(lambda: MaskedEncoder(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


@pytest.fixture(scope="module")
def model() -> MaskedEncoder:
    return filled(BERT)


def tokens() -> np.ndarray:
    words = np.random.default_rng(0).integers(1, WORDS, (B, T))
    return np.where(np.arange(T) < LENGTHS[:, None], words, 0).astype(np.int32)


run = jax.jit(lambda model, tokens: model(tokens)[0])


def test_the_head_is_berts_formula(model):
    states = np.asarray(jax.jit(lambda model, tokens: model.encoder(tokens)[0])(model, tokens()), np.float64)
    hidden = states @ np.asarray(model.head.dense.weight[...]) + np.asarray(model.head.dense.bias[...])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    hidden -= hidden.mean(-1, keepdims=True)
    hidden /= np.sqrt(np.square(hidden).mean(-1, keepdims=True) + 1e-12)
    expected = hidden * np.asarray(model.head.norm.scale[...]) + np.asarray(model.head.norm.bias[...])
    found = run(model, tokens())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    logits = np.asarray(model.logits(found))
    table = np.asarray(model.encoder.embedding.table[...])[:WORDS]
    np.testing.assert_allclose(logits[..., :WORDS], expected @ table.T + np.asarray(model.head.bias[...]), atol=1e-3)
    assert (logits[..., WORDS:] < -1e29).all()


def test_the_loss_of_masked_words_reaches_every_parameter_and_counts_them_alone(model):
    definition, state = nnx.split(model)
    words, chosen = tokens(), np.zeros((B, T), bool)
    chosen[0, 2] = chosen[1, 3] = True

    def measured(state):
        network = nnx.merge(definition, state)
        states, _ = network(jnp.asarray(words))
        found = token_loss(states, network.output(), jnp.asarray(words), jnp.asarray(chosen))
        return found.loss, (found.weight, network.logits(states))

    (loss, (weight, logits)), gradients = jax.jit(jax.value_and_grad(measured, has_aux=True))(state)
    expected = -np.asarray(jax.nn.log_softmax(logits))[chosen, words[chosen]].sum()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == 2
    for path, leaf in nnx.to_flat_state(gradients):
        assert np.abs(leaf[...]).max() > (-1 if path[-2:] == ("key", "bias") else 1e-7), path


def test_padding_does_not_matter(model):
    words = tokens()
    found = run(model, np.pad(words, ((0, 0), (0, 4))))[:, :T]
    np.testing.assert_allclose(found[words > 0], run(model, words)[words > 0], atol=1e-5)


def test_a_classifier_has_the_encoder_under_the_same_names(model):
    config = ClassifierConfig(**dataclasses.asdict(BERT), num_outputs=2)
    classifier = nnx.eval_shape(lambda: EncoderClassifier(config, rngs=nnx.Rngs(0)))

    def shapes(network) -> dict:
        flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
        return {path: leaf.shape for path, leaf in flat if path[0] == "encoder"}

    assert shapes(model) == shapes(classifier)
    assert len(shapes(model)) > 15


def test_every_parameter_names_its_axes(model):
    for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert set(axes) <= {*DEFAULT_RULES, "layers", None}, path
