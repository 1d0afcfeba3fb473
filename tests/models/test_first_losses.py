"""A model that has learned nothing should say nothing: its first loss is that of equal probabilities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.losses import label_loss, token_loss
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig

B, T, S, V, D = 8, 19, 17, 3001, 64
SIZES = {"width": D, "feedforward_width": 128, "num_heads": 4, "max_length": 32}


def words(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(4, V, shape), jnp.int32)


def mean_loss(model: Seq2Seq | Decoder | MaskedEncoder, states: jax.Array) -> float:
    found = token_loss(states, model.output(), words(B, T, seed=2), jnp.ones((B, T)))
    return float(found.loss / found.weight)


@pytest.mark.parametrize(("num_classes", "pooling"), [(6, "first"), (20, "mean")])
def test_a_classifiers_first_loss_is_that_of_equal_classes(num_classes, pooling):
    config = ClassifierConfig(vocab_size=V, num_outputs=num_classes, num_layers=2, pooling=pooling, **SIZES)
    model = EncoderClassifier(config, rngs=nnx.Rngs(1))
    labels = jnp.arange(B) % num_classes
    found = label_loss(model(words(B, T))[0], labels, jnp.ones(B), kind="single")
    assert float(found.loss / found.weight) == pytest.approx(math.log(num_classes), rel=0.05)


@pytest.mark.parametrize(
    ("tied", "kind"),
    [
        (False, {"qk_norm": True, "score_cap": 50.0, "logit_cap": 30.0, "window": 4, "head_width": 8}),
        (True, {"norm": "layer", "positions": "learned", "activation": "gelu"}),
    ],
)
def test_a_decoders_first_loss_is_that_of_equal_words(tied, kind):
    config = DecoderConfig(vocab_size=V, num_layers=2, tied_embeddings=tied, **kind, **SIZES)
    model = Decoder(config, rngs=nnx.Rngs(1))
    assert mean_loss(model, model(words(B, T))[0]) == pytest.approx(math.log(V), rel=0.05)


def first_loss(**kind) -> float:
    config = Seq2SeqConfig(
        source_vocab_size=V, target_vocab_size=V, num_encoder_layers=2, num_decoder_layers=2, **kind, **SIZES
    )
    model = Seq2Seq(config, rngs=nnx.Rngs(1))
    source = words(B, S, seed=1)
    memory, _ = model.encode(source)
    states, _ = model.decode(memory, source, words(B, T))
    return mean_loss(model, states)


def test_without_a_tied_table_an_encoder_decoders_first_loss_is_that_of_equal_words():
    assert first_loss(tied_embeddings="none", norm_position="pre") == pytest.approx(math.log(V), rel=0.05)


@pytest.mark.parametrize(("tied", "norm_position"), [("all", "post"), ("all", "pre"), ("target", "pre")])
def test_a_tied_tables_first_loss_is_that_of_equal_words(tied, norm_position):
    kind = {"tied_embeddings": tied, "norm_position": norm_position}
    assert first_loss(**kind) == pytest.approx(math.log(V), rel=0.05)
    # As fairseq draws it, with the variance 1/D that its use as an input wants (Vaswani et al. 2017): logits of
    # variance 1 cost half a nat, and a state that resembles its own word a little more.
    assert first_loss(**kind, embedding_init="fairseq") == pytest.approx(math.log(V) + 0.55, abs=0.1)


T5 = {"norm": "rms", "norm_position": "pre", "positions": "t5", "attention_scale": 1.0, "use_bias": False}
T5 |= {"scaled_embeddings": False, "head_width": 24}


def test_t5s_first_loss_is_half_a_nat_more_where_it_is_drawn_as_published():
    published = first_loss(**T5, scaled_output=True, embedding_init="t5")
    assert published == pytest.approx(math.log(V) + 0.55, abs=0.1)
    gated = {"activation": "gated-gelu", "tied_embeddings": "inputs", "embedding_init": "t5"}
    assert first_loss(**T5, **gated) == pytest.approx(math.log(V), rel=0.05)


def test_a_masked_encoders_first_loss_is_that_of_equal_words():
    model = MaskedEncoder(MaskedConfig(vocab_size=V, num_layers=2, **SIZES), rngs=nnx.Rngs(1))
    assert mean_loss(model, model(words(B, T))[0]) == pytest.approx(math.log(V), rel=0.05)
