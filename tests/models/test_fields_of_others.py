"""Fields that published models need beyond the paper's: what each adds, and that it adds it everywhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.positions.rotary import stretched
from lmx.nn.positions.sinusoidal import sinusoidal

TOKENS = jnp.asarray([[3, 4, 5, 6, 7]])


def decoder(**fields) -> Decoder:
    config = DecoderConfig(
        vocab_size=11, width=12, feedforward_width=20, num_heads=3, num_layers=2, max_length=16, **fields
    )
    return Decoder(config, rngs=nnx.Rngs(0))


def seq2seq(**fields) -> Seq2Seq:
    config = Seq2SeqConfig(
        source_vocab_size=11,
        target_vocab_size=11,
        width=12,
        feedforward_width=20,
        num_heads=3,
        num_encoder_layers=1,
        num_decoder_layers=2,
        max_length=16,
        **fields,
    )
    return Seq2Seq(config, rngs=nnx.Rngs(0))


def test_biases_of_queries_keys_and_values_alone():
    attention = decoder(qkv_bias=True).stack.blocks.attention
    assert attention.query.bias is not None
    assert attention.key.bias is not None
    assert attention.value.bias is not None
    assert attention.out.bias is None
    assert decoder().stack.blocks.attention.query.bias is None


def test_linear_scaling_slows_every_rotation():
    frequencies = jnp.asarray([1.0, 0.1, 0.01])
    np.testing.assert_allclose(stretched(frequencies, (4.0,)), [0.25, 0.025, 0.0025])


def test_scaling_by_wavelength_is_the_authors_three_cases():
    factor, low, high, length = 8.0, 1.0, 4.0, 8192.0
    frequencies = 500_000.0 ** (-np.arange(32) / 32)
    expected = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < length / high:
            expected.append(frequency)
        elif wavelength > length / low:
            expected.append(frequency / factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            expected.append((1 - smooth) * frequency / factor + smooth * frequency)
    found = stretched(jnp.asarray(frequencies, jnp.float32), (factor, low, high, length))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len({round(float(f / e), 3) for f, e in zip(frequencies, expected, strict=True)}) > 3  # all cases occur


@pytest.mark.parametrize(
    "scaling",
    [
        (0.0,),
        (math.nan,),
        (2.0, 1.0),
        (8.0, 1.0, 4.0),
        (8.0, 4.0, 4.0, 99.0),
        (8.0, 1.0, 4.0, 0.0),
        (8.0, 1.0, 4.0, -5.0),
    ],
)
def test_rotary_scaling_has_one_or_four_numbers(scaling: tuple[float, ...]):
    with pytest.raises(ValueError, match="rotary_scaling must be a positive factor, or factor, low, high and length"):
        decoder(rotary_scaling=scaling)(TOKENS)


def test_scaled_rotations_change_what_a_decoder_says():
    assert not np.allclose(decoder()(TOKENS)[0], decoder(rotary_scaling=(4.0,))(TOKENS)[0])


def test_closed_sines_end_with_the_slowest_frequency():
    table = np.asarray(sinusoidal(5, 8, first=1, is_closed=True))
    np.testing.assert_allclose(table[2, 3], math.sin(3 / 10000), rtol=1e-5)
    np.testing.assert_allclose(table[2, 1], math.sin(3 * 10000 ** (-1 / 3)), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(sinusoidal(5, 8, first=1)), np.asarray(sinusoidal(6, 8))[1:])
    with pytest.raises(ValueError, match="width must be even and at least 4 for sinusoidal positions, got width=2"):
        sinusoidal(5, 2, is_closed=True)


@pytest.mark.parametrize("positions", ["sinusoidal", "tensor2tensor"])
def test_a_first_position_moves_all_of_a_row_in_training_and_in_decoding(positions):
    given = jnp.arange(5)[None]
    moved = decoder(positions=positions, first_position=2)
    states, _ = moved(TOKENS)
    np.testing.assert_allclose(moved(TOKENS, positions=given)[0], states, atol=1e-6)
    np.testing.assert_allclose(decoder(positions=positions)(TOKENS, positions=given + 2)[0], states, atol=1e-6)


def test_an_embedding_norm_normalises_both_sides():
    model = seq2seq(embedding_norm=True)
    assert model.source_norm is not None
    assert model.target_norm is not None
    before = model.encode(TOKENS)[0], model.decode(model.encode(TOKENS)[0], TOKENS, TOKENS)[0]
    for norm in (model.source_norm, model.target_norm):
        norm.scale[...] = norm.scale[...] * jnp.linspace(0.5, 2, 12)
    after = model.encode(TOKENS)[0], model.decode(before[0], TOKENS, TOKENS)[0]
    assert not np.allclose(before[0], after[0])
    assert not np.allclose(before[1], after[1])


def test_an_output_bias_moves_logits_in_training_and_in_decoding():
    model = seq2seq(output_bias=True, embedding_norm=True)
    plain = model.logits(jnp.ones((1, 1, 12)))
    assert model.output_bias is not None
    model.output_bias[...] = jnp.arange(11.0)
    np.testing.assert_allclose(model.logits(jnp.ones((1, 1, 12)))[0, 0, :11] - plain[0, 0, :11], np.arange(11.0))
    assert model.output().bias is not None
    states, _ = model.decode(model.encode(TOKENS)[0], TOKENS, TOKENS)
    step, cache = model.start_decoding(TOKENS, slots=5)
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None]
    logits, _ = step(TOKENS, cache, jnp.int32(0), jnp.arange(5)[None], mask, jnp.arange(5))
    np.testing.assert_allclose(logits, model.logits(states), atol=1e-5)


def test_an_ungated_silu_is_an_activation():
    assert not decoder(activation="silu").config.is_gated


def test_a_pooler_makes_a_vector_of_the_first_state():
    config = ClassifierConfig(
        vocab_size=11, width=12, feedforward_width=20, num_heads=3, num_layers=1, num_outputs=2, pooling="pooler"
    )
    model = EncoderClassifier(config, rngs=nnx.Rngs(0))
    states = jax.random.normal(jax.random.key(0), (2, 5, 12))
    weight, bias = model.pooling.dense.weight[...], model.pooling.dense.bias[...]
    np.testing.assert_allclose(
        model.pool(states, jnp.ones((2, 5), jnp.int32)), np.tanh(states[:, 0] @ weight + bias), atol=1e-5
    )
