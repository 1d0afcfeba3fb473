"""Decoding from a cache gives what the whole text gives, for prompts of any lengths side by side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.constraints import Rules
from lmx.decoding import SpecialIds, beam_search, greedy_search, power_penalty
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import named_sharding

WORDS, NEW, P = 37, 5, 7
LENGTHS = np.array([7, 1, 4], np.int32)
BASE = DecoderConfig(vocab_size=WORDS, width=24, feedforward_width=20, num_heads=4, num_layers=2, max_length=13)
CONFIGS = {
    **{name: dataclasses.replace(BASE, positions=name) for name in ("sinusoidal", "learned", "rotary", "alibi", "t5")},
    "grouped": dataclasses.replace(BASE, num_kv_heads=2, tied_embeddings=True),
    "Qwen3, Gemma, Mistral": dataclasses.replace(
        BASE, num_kv_heads=2, head_width=10, qk_norm=True, score_cap=3.0, logit_cap=9.0, window=3, attention_scale=0.3
    ),
    "window and bias": dataclasses.replace(BASE, positions="alibi", window=4),
    "post": dataclasses.replace(BASE, norm_position="post", norm="layer", activation="gelu", use_bias=True),
}


def filled(config: DecoderConfig, *, seed: int = 8) -> Decoder:
    """Builds a model whose parameters are far from 0, so that what it must not see would change its logits."""
    definition, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(seed)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, 2 * config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def texts(rows: int = len(LENGTHS)) -> np.ndarray:
    """Random words; a row's prompt is its first ones, and the words that follow are those behind."""
    return np.random.default_rng(1).integers(1, WORDS, (rows, P + NEW)).astype(np.int32)


def prompts_of(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.where(np.arange(P) < lengths[:, None], words[:, :P], 0)


@jax.jit
def cached(model: Decoder, prompts: jax.Array, lengths: jax.Array, following: jax.Array) -> jax.Array:
    """Returns the logits behind the prompts and behind each of the words that follow, from a cache."""
    step, cache = model.start_decoding(prompts, lengths, slots=NEW + 1)
    words, found = jnp.concatenate([jnp.full_like(following[:, :1], 5), following], axis=1), []
    for time in range(NEW + 1):
        mask = jnp.broadcast_to(jnp.arange(NEW + 1) <= time, (len(words), 1, 1, NEW + 1))
        places = jnp.full((len(words), 1), time)
        logits, cache = step(words[:, time : time + 1], cache, jnp.asarray(time), places, mask, jnp.arange(NEW + 1))
        found.append(logits[:, 0])
    return jnp.stack(found, axis=1)


whole = jax.jit(lambda model, words: model.logits(model(words)[0]))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_gives_the_logits_of_the_whole_text(name):
    model, words = filled(CONFIGS[name]), texts()
    following = np.stack([row[length : length + NEW] for row, length in zip(words, LENGTHS, strict=True)])
    found = cached(model, prompts_of(words, LENGTHS), LENGTHS, following)
    expected_logits = np.asarray(whole(model, words))[..., :WORDS]
    for row, length in enumerate(LENGTHS):
        expected = expected_logits[row, length - 1 : length + NEW]
        # Sums of 24 products in another order: a few roundings of numbers around 10.
        np.testing.assert_allclose(found[row, :, :WORDS], expected, atol=2e-4, rtol=1e-5)
        assert np.abs(np.diff(expected, axis=0)).max() > 1


@pytest.fixture(scope="module")
def model() -> Decoder:
    return filled(CONFIGS["rotary"])


IDS = SpecialIds(pad=0, bos=1, eos=2)
EMPTY = Rules(min_length=0)  # a text may end at once


def greedy_by_whole_texts(model: Decoder, prompt: list[int], *, number: int) -> list[int]:
    """Greedy search that runs the whole text again for each word."""
    words = list(prompt)
    for _ in range(number):
        row = np.zeros((1, P + NEW), np.int32)
        row[0, : len(words)] = words
        logits = np.array(whole(model, row)[0, len(words) - 1])
        logits[[0, 1]] = -np.inf
        words.append(int(logits.argmax()))
        if words[-1] == IDS.eos:
            break
    return words[len(prompt) :]


def test_searches_go_on_from_the_last_word_of_each_prompt(model):
    words = texts()
    prompts = prompts_of(words, LENGTHS)

    @jax.jit
    def search(model, prompts, lengths):
        step, cache = model.start_decoding(prompts, lengths, slots=NEW)
        active = jnp.ones(len(lengths), bool)
        greedy = greedy_search(step, cache, active=active, max_length=NEW, ids=IDS, rules=EMPTY)
        step, cache = model.start_decoding(prompts, lengths, slots=3 * NEW)
        options = {"beam_size": 3, "max_length": NEW, "length_penalty": power_penalty(0.0), "rules": EMPTY}
        return greedy, beam_search(step, cache, active=active, **options, ids=IDS)

    greedy, beams = search(model, prompts, LENGTHS)
    for row, length in enumerate(LENGTHS):
        expected = greedy_by_whole_texts(model, words[row, :length].tolist(), number=NEW - 1)
        found = [int(word) for word in greedy[row] if word]
        assert found == [*expected, IDS.eos][: len(found)]
        assert len(found) == len(expected) + (expected[-1] != IDS.eos)
        # The score of each beam is the log-probability that the whole text gives its words.
        for tokens, score in zip(beams.tokens[row], beams.scores[row], strict=True):
            best = [int(word) for word in tokens if word]
            text = [*words[row, :length].tolist(), *best]
            row_of_text = np.zeros((1, P + NEW), np.int32)
            row_of_text[0, : len(text)] = text
            logs = np.asarray(jax.nn.log_softmax(whole(model, row_of_text)[0]))
            total = sum(float(logs[length - 1 + place, word]) for place, word in enumerate(best))
            assert float(score) == pytest.approx(total, abs=2e-3)


def test_the_cache_is_split_as_the_model_is():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), devices=jax.devices()[:8])
    model, lengths = filled(CONFIGS["grouped"]), np.array([7, 1, 4, 6], np.int32)
    words = texts(4)
    definition, params = nnx.split(model)

    def start(params, prompts, lengths):
        model = nnx.merge(definition, params)
        with Layout(mesh).inference():
            cache = model.prefill(prompts, slots=P + NEW, blocks=model.stack.unstack())
            return jax.tree.leaves(cache)

    for array in jax.jit(start)(params, prompts_of(words, lengths), lengths):
        split = named_sharding(mesh, ("batch", "kv_heads", None, None))
        assert array.sharding.is_equivalent_to(split, array.ndim)
        assert array.addressable_shards[0].data.shape[:2] == (1, 1)
