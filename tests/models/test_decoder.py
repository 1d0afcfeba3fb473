import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
from lmx.nn.embedding import count_parameters

B, T, WORDS = 3, 9, 150
LLAMA = DecoderConfig(vocab_size=WORDS, width=24, feedforward_width=36, num_heads=4, num_kv_heads=2, num_layers=2)
GPT2 = dataclasses.replace(
    LLAMA,
    num_kv_heads=None,
    norm="layer",
    activation="gelu",
    positions="learned",
    use_bias=True,
    tied_embeddings=True,
    max_length=20,
)
CONFIGS = {"Llama's choices": LLAMA, "GPT-2's choices": GPT2}


def filled(config: DecoderConfig) -> Decoder:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, WORDS, shape).astype(np.int32)


run = jax.jit(lambda model, tokens, **given: model(tokens, **given)[0])


@pytest.fixture(params=CONFIGS, scope="module")
def model(request) -> Decoder:
    return filled(CONFIGS[request.param])


def test_the_future_does_not_matter(model):
    words = tokens(B, T)
    changed = words.copy()
    changed[:, 5:] = tokens(B, T - 5, seed=1)
    before, after = run(model, words), run(model, changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 0.01


def test_packed_texts_are_texts_by_themselves(model):
    first, second = tokens(1, 5, seed=1), tokens(1, 4, seed=2)
    packed = np.concatenate([first, second], axis=1)
    segments = np.array([[1] * 5 + [2] * 4], np.int32)
    positions = np.array([[*range(5), *range(4)]], np.int32)
    found = run(model, packed, segments=segments, positions=positions)
    np.testing.assert_allclose(found[:, :5], run(model, first), atol=1e-5)
    np.testing.assert_allclose(found[:, 5:], run(model, second), atol=1e-5)


def test_a_prefix_is_seen_from_before_it_and_by_its_own_text_alone(model):
    words = tokens(1, 9)
    segments = np.array([[1] * 5 + [2] * 4], np.int32)
    positions = np.array([[*range(5), *range(4)]], np.int32)
    packing = {"segments": segments, "positions": positions, "prefix": positions < 3}
    before = run(model, words, **packing)

    def moved(place: int) -> list[int]:
        changed = words.copy()
        changed[0, place] = words[0, place] % (WORDS - 1) + 1
        after = run(model, changed, **packing)
        return np.flatnonzero(np.abs(after - before)[0].max(-1) > 1e-4).tolist()

    assert moved(2) == [0, 1, 2, 3, 4]  # the end of the first text's prefix
    assert moved(3) == [3, 4]
    assert moved(7) == [5, 6, 7, 8]
    assert moved(8) == [8]


def test_attention_maps_are_of_all_layers_and_look_back(model):
    _, maps = model(jnp.asarray(tokens(B, T)), with_attention=True)
    assert maps["self"].shape == (2, B, 4, T, T)
    np.testing.assert_allclose(maps["self"].sum(-1), 1, atol=1e-5)
    assert not np.triu(np.asarray(maps["self"]), 1).any()


def test_logits_are_products_with_the_output_table_and_padding_has_none(model):
    states = run(model, tokens(B, T))
    logits = model.logits(states)
    table = np.asarray(model.output_table())
    assert table.shape == (256, 24)
    np.testing.assert_allclose(logits[..., :WORDS], states @ table[:WORDS].T, atol=1e-4)
    assert np.all(logits[..., WORDS:] < -1e29)
    assert (model.output_embedding is None) == model.config.tied_embeddings


def test_dropout_takes_its_key(model):
    dropped = Decoder(dataclasses.replace(model.config, dropout_rate=0.4), rngs=nnx.Rngs(0))
    words = tokens(B, T)
    one, same, other = (run(dropped, words, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    assert np.abs(one - run(dropped, words)).max() > 0.01


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (
            # Radford et al. 2019, the small model: published as 117M, its weights hold 124,439,808.
            dataclasses.replace(
                GPT2, vocab_size=50257, width=768, feedforward_width=3072, num_heads=12, num_layers=12, max_length=1024
            ),
            124_439_808,
        ),
        (
            # Touvron et al. 2023, Llama 2 of 7B.
            DecoderConfig(vocab_size=32000, width=4096, feedforward_width=11008, num_heads=32, num_layers=32),
            6_738_415_616,
        ),
        (
            # Grattafiori et al. 2024, table 3: Llama 3 of 70B.
            DecoderConfig(
                vocab_size=128256, width=8192, feedforward_width=28672, num_heads=64, num_kv_heads=8, num_layers=80
            ),
            70_553_706_496,
        ),
    ],
)
def test_published_models_have_their_published_size(config, parameters):
    assert count_parameters(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))) == parameters
