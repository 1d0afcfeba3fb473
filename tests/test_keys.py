"""No two parts of a model, nor of what changes images, draw from one key: jax follows each key to where it is used."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lmx import models
from lmx.augmentation import AugmentationConfig, augment
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.language import predict
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.models.vision import VisionConfig, VisionTransformer
from lmx.nn import dropout

RATES: dict[str, Any] = {"dropout_rate": 0.1, "width": 8, "feedforward_width": 12, "num_heads": 2}
WORDS = jnp.ones((2, 5), jnp.int32)
PAIR = {"source": jnp.ones((2, 4), jnp.int32), "decoder_input": WORDS, "target": WORDS}


@pytest.fixture(autouse=True)
def followed(monkeypatch):
    """Lets jax see that dropout uses up its key, which hashes it by itself, and look for keys that are used twice."""
    monkeypatch.setattr(dropout, "hash_bits", lambda key, shape, part_of=(): jax.random.bits(key, shape, jnp.uint32))
    with jax.debug_key_reuse(True):
        yield


def follow(function: Callable[..., Any]) -> None:
    """Follows the key of a function through its program."""
    jax.jit(function).lower(jax.random.key(0))


def sides_of(seq2seq: Any, key: jax.Array) -> jax.Array:
    return predict(seq2seq, PAIR, key=key, is_packed=False)[0]


def decoder(**changes: Any) -> Any:
    return Decoder(DecoderConfig(vocab_size=9, num_layers=2, max_length=6, **RATES, **changes), rngs=nnx.Rngs(0))


def classifier() -> Any:
    config = ClassifierConfig(vocab_size=9, num_layers=2, max_length=6, num_outputs=3, **RATES)
    return EncoderClassifier(replace(config, pooled_dropout_rate=0.2), rngs=nnx.Rngs(0))


def images() -> Any:
    sizes = {"image_height": 4, "image_width": 4, "image_channels": 1, "patch": 2, "num_outputs": 3}
    return VisionTransformer(VisionConfig(**sizes, num_layers=2, pooled_dropout_rate=0.2, **RATES), rngs=nnx.Rngs(0))


def translator() -> Any:
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return Seq2Seq(Seq2SeqConfig(source_vocab_size=9, target_vocab_size=9, **layers, **RATES), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("make", "use", "rates"),
    [
        (decoder, lambda model, key: model(WORDS, key=key)[0], [0.1]),
        (classifier, lambda model, key: model(WORDS, key=key)[0], [0.1, 0.2]),
        (images, lambda model, key: model(jnp.ones((2, 4, 4, 1), jnp.uint8), key=key)[0], [0.1, 0.2]),
        (translator, sides_of, [0.1, 0.1]),
    ],
)
def test_no_two_parts_of_a_model_drop_out_by_one_key(make, use, rates, monkeypatch):
    found = []  # of embeddings, and of pooled vectors

    def noted(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
        found.append(rate)
        return dropout.dropout(x, rate, key)

    for module in (models.decoder, models.encoder, models.seq2seq, models.vision):
        monkeypatch.setattr(module, "dropout", noted)
    follow(lambda key: use(make(), key))
    assert found == rates
    with pytest.raises(jax.errors.KeyReuseError):  # once more for the same key
        follow(lambda key: use(make(), key) + jax.random.uniform(key))


def test_no_two_changes_of_an_image_draw_by_one_key():
    config = AugmentationConfig(crop=1, flip=True, turn=3.0, stretch=0.1, erase=0.5)
    follow(lambda key: augment(jnp.ones((2, 5, 6, 1)), config, key))
