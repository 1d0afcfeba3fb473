"""A decoder with all that Gemma, Mistral and Qwen add, whole: what it sees, its cache, its logits, its mesh."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.config import config_as_json
from lmx.differences import filled_config
from lmx.experiment import done_before
from lmx.losses import token_loss
from lmx.models.decoder import Decoder
from lmx.models.masked import MaskedEncoder
from lmx.models.shapes import bert_base, llama_8b
from lmx.nn.config import TransformerConfig
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh

B, T, WORDS, N, WINDOW = 4, 12, 90, 2, 4
SMALL = {"vocab_size": WORDS, "width": 24, "feedforward_width": 36, "num_heads": 4, "num_layers": N, "max_length": 20}
SMALL |= {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
ADDED = {"head_width": 8, "qk_norm": True, "score_cap": 2.0, "logit_cap": 3.0, "window": WINDOW}
GEMMA = dataclasses.replace(llama_8b(), **SMALL, **ADDED, num_kv_heads=2)


def filled(kind, config) -> nnx.Module:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


@pytest.fixture(scope="module")
def model() -> Decoder:
    return filled(Decoder, GEMMA)


def tokens(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, WORDS, (B, T)).astype(np.int32)


logits_of = jax.jit(lambda model, tokens: model.logits(model(tokens)[0]))


def test_a_token_matters_to_itself_and_to_those_in_reach_behind_it(model):
    words = tokens()
    changed = words.copy()
    changed[:, 2] = 1 + words[:, 2] % (WORDS - 1)
    difference = np.abs(np.asarray(logits_of(model, words)) - np.asarray(logits_of(model, changed)))[..., :WORDS]
    reach = N * (WINDOW - 1)
    assert (difference.max((0, 2)) > 1e-4).tolist() == [2 <= place <= 2 + reach for place in range(T)]


def test_padding_does_not_matter(model):
    words = tokens()
    found = logits_of(model, np.pad(words, ((0, 0), (0, 5))))[:, :T]
    np.testing.assert_allclose(found, logits_of(model, words), atol=1e-5)


def test_logits_stay_below_their_cap(model):
    states = jax.jit(lambda model, tokens: model(tokens)[0])(model, tokens())
    products = np.asarray(states) @ np.asarray(model.output_table())[:WORDS].T
    found = np.asarray(logits_of(model, tokens()))
    np.testing.assert_allclose(found[..., :WORDS], 3 * np.tanh(products / 3), atol=1e-4)
    assert np.abs(products).max() > 3
    assert (found[..., WORDS:] < -1e29).all()


def test_prompts_of_mixed_lengths_go_on_from_a_cache_as_without_one(model):
    # The window reaches over the padding between a short prompt and what follows it.
    words, lengths, number = tokens(), np.array([2, 7, 5, 3], np.int32), 5
    prompts = np.where(np.arange(7) < lengths[:, None], words[:, :7], 0).astype(np.int32)

    @jax.jit
    def cached(model, prompts, following):
        step, cache = model.start_decoding(prompts, jnp.asarray(lengths), slots=number)
        found = []
        for place in range(number):
            mask = (jnp.arange(number) <= place)[None, None, None]
            logits, cache = step(
                following[:, place][:, None],
                cache,
                jnp.asarray(place),
                jnp.full((B, 1), place),
                jnp.broadcast_to(mask, (B, 1, 1, number)),
                jnp.arange(number),
            )
            found.append(logits[:, 0])
        return jnp.stack(found, 1)

    # Each row goes on with its own words: the step reads the prompt's last itself.
    places = lengths[:, None] - 1 + np.arange(number)
    following = np.take_along_axis(words, places, axis=1)
    expected = np.take_along_axis(np.asarray(logits_of(model, words)), places[..., None], axis=1)
    np.testing.assert_allclose(cached(model, prompts, following), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(
    ("kind", "config"),
    [(Decoder, GEMMA), (MaskedEncoder, dataclasses.replace(bert_base(), **SMALL, head_width=8, qk_norm=True))],
    ids=["decoder", "masked"],
)
def test_loss_and_gradients_on_a_mesh_are_those_of_one_device(kind, config):
    definition, state = nnx.split(filled(kind, config))
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices=jax.devices()[:4])

    def loss(state, words, labels):
        network = nnx.merge(definition, state)
        found = token_loss(network(words)[0], network.output(), labels, labels > 0)
        return found.loss / found.weight

    @jax.jit
    def on_mesh(*arguments):
        with use_mesh(mesh):
            return jax.value_and_grad(loss)(*arguments)

    given = state, jnp.asarray(tokens(1)), jnp.asarray(tokens(2))
    found, expected = on_mesh(*given), jax.jit(jax.value_and_grad(loss))(*given)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, expected)


# Runs of versions without these fields.

NEW = ("head_width", "qk_norm", "attention_scale", "score_cap", "window", "norm_epsilon", "scaled_output")


@pytest.mark.parametrize("name", ["translation", "classification", "vision"])
def test_a_run_of_a_version_without_these_fields_goes_on(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "experiments" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = script.PRESETS[next(iter(script.PRESETS))][1]
    later = config_as_json(config)
    saved = later | {"model": {key: x for key, x in later["model"].items() if key not in NEW}}
    filled, taken = filled_config(saved, later, functools.partial(done_before, own=config.absent))
    assert filled == later
    assert {f"model.{key}" for key in NEW if key in later["model"]} <= taken.keys()


def test_a_config_without_these_fields_means_what_it_meant():
    config = TransformerConfig()
    assert (config.width_of_head, config.width_of_queries, config.width_of_keys) == (64, 512, 512)
    assert [getattr(config, name) for name in NEW[:-1]] == [None, False, None, None, None, None]
    grouped = dataclasses.replace(config, num_kv_heads=2, head_width=80)
    assert (grouped.width_of_head, grouped.width_of_queries, grouped.width_of_keys) == (80, 640, 160)
