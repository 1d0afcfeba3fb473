import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.encoder import Encoder, EncoderConfig
from lmx.nn.layers import count_parameters

B, T, WORDS = 3, 9, 150
BERT = EncoderConfig(
    vocab_size=WORDS, width=24, feedforward_width=36, num_heads=4, num_layers=2, num_types=2, max_length=20
)
PRE_NORM = dataclasses.replace(
    BERT, num_types=0, embedding_norm=False, norm_position="pre", positions="rotary", activation="gated-gelu"
)
CONFIGS = {"BERT's choices": BERT, "pre-norm, rotary": PRE_NORM}
LENGTHS = np.array([T, 4, 6])


def filled(config: EncoderConfig) -> Encoder:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def tokens(seed: int = 0) -> np.ndarray:
    words = np.random.default_rng(seed).integers(1, WORDS, (B, T))
    return np.where(np.arange(T) < LENGTHS[:, None], words, 0).astype(np.int32)


run = jax.jit(lambda model, tokens, **given: model(tokens, **given)[0])


@pytest.fixture(params=CONFIGS, scope="module")
def model(request) -> Encoder:
    return filled(CONFIGS[request.param])


def test_every_word_sees_the_whole_text(model):
    words = tokens()
    changed = words.copy()
    changed[:, 3] = 1 + words[:, 3] % (WORDS - 1)
    difference = np.abs(run(model, words) - run(model, changed)).max(-1)
    assert difference[words > 0].min() > 1e-4


def test_padding_does_not_matter(model):
    words = tokens()
    found = run(model, np.pad(words, ((0, 0), (0, 4))))
    np.testing.assert_allclose(found[:, :T], run(model, words), atol=1e-5)


def test_packed_texts_are_texts_by_themselves(model):
    first, second = tokens(1)[:1, :5], tokens(2)[:1, :4]
    packed = np.concatenate([first, second], axis=1)
    segments = np.array([[1] * 5 + [2] * 4], np.int32)
    positions = np.array([[*range(5), *range(4)]], np.int32)
    found = run(model, packed, segments=segments, positions=positions)
    np.testing.assert_allclose(found[:, :5], run(model, first), atol=1e-5)
    np.testing.assert_allclose(found[:, 5:], run(model, second), atol=1e-5)


def test_types_are_added_where_the_model_has_them():
    words, types = tokens(), (np.arange(T) > 3).astype(np.int32) * np.ones((B, 1), np.int32)
    with_types = filled(BERT)
    np.testing.assert_array_equal(run(with_types, words), run(with_types, words, types=np.zeros_like(words)))
    assert np.abs(run(with_types, words) - run(with_types, words, types=types)).max() > 0.01
    with pytest.raises(ValueError, match=r"^types must not be given to a model without types, got num_types=0"):
        run(filled(PRE_NORM), words, types=types)


def test_attention_maps_are_of_all_layers_and_not_of_padding(model):
    _, maps = model(jnp.asarray(tokens()), with_attention=True)
    assert maps["self"].shape == (2, B, 4, T, T)
    assert not np.asarray(maps["self"])[:, 1, :, :, 4:].any()


def test_logits_are_products_with_the_words(model):
    states = run(model, tokens())
    logits = model.logits(states)
    np.testing.assert_allclose(logits[..., :WORDS], states @ np.asarray(model.output_table())[:WORDS].T, atol=1e-4)
    assert np.all(logits[..., WORDS:] < -1e29)


def test_bert_base_has_its_published_size():
    config = dataclasses.replace(
        BERT, vocab_size=30522, width=768, feedforward_width=3072, num_heads=12, num_layers=12, max_length=512
    )
    # Devlin et al. 2019: 110M with the pooler, which is a head's: 768 x 768 + 768 more.
    assert count_parameters(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))) == 108_891_648
