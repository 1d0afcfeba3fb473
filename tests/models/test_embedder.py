"""One vector a text: padding has no part in it, whatever stands beside the text."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lmx.models.embedder import Embedder, EmbedderConfig, text_vectors

RANDOM = np.random.default_rng(0)
STATES = RANDOM.normal(size=(4, 6, 5)).astype(np.float32)
LENGTHS = (6, 2, 1, 0)
SEEN = np.arange(6) < np.array(LENGTHS)[:, None]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("vector", ["mean", "first"])
def test_a_vector_is_the_mean_of_what_is_seen_or_the_first(vector, normalised) -> None:
    means = [states[:length].mean(0) if length else np.zeros(5) for states, length in zip(STATES, LENGTHS, strict=True)]
    expected = np.array(means if vector == "mean" else STATES[:, 0], np.float32)
    if normalised:
        expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    states = jnp.asarray(STATES, jnp.bfloat16 if vector == "first" and not normalised else jnp.float32)
    found = text_vectors(states, jnp.asarray(SEEN), vector=vector, normalised=normalised)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.02 if states.dtype == jnp.bfloat16 else 1e-6)


def test_what_is_no_padding_is_seen() -> None:
    config = EmbedderConfig(vocab_size=9, width=8, num_heads=2, pad_id=3, normalised=True)
    tokens = jnp.where(jnp.asarray(SEEN), 5, 3)
    own: Any = SimpleNamespace(config=config, encoder=lambda tokens: (jnp.asarray(STATES), {}))
    expected = text_vectors(jnp.asarray(STATES), jnp.asarray(SEEN), vector="mean", normalised=True)
    np.testing.assert_array_equal(Embedder.__call__(own, tokens), expected)
