"""The encoder that makes one vector of a text (Reimers and Gurevych 2019), and its config.

Its parameters are those of an `Encoder`, below "encoder", and of the pooler that BERT's pretraining leaves, if kept.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lmx.models.encoder import Encoder, EncoderConfig, Pooler


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig(EncoderConfig):
    """The shape of an encoder that gives vectors of texts.

    Attributes:
        vector: what the vector of a text is: the mean of its states, or the state of its first token.
        normalised: vectors have length 1, so that their product is the cosine of their angle.
        has_pooler: keeps BERT's pooler, which a classifier may begin with; vectors do not go through it.
    """

    vector: Literal["mean", "first"] = "mean"
    normalised: bool = False
    has_pooler: bool = False


class Embedder(nnx.Module):
    """An encoder whose states become one vector a text."""

    def __init__(self, config: EmbedderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.pooling = Pooler(config.width, rngs=rngs) if config.has_pooler else None

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B D"]:
        """Returns the vectors of texts in float32; padding, which is at the end, has no part in them."""
        states, _ = self.encoder(tokens)
        return text_vectors(
            states, tokens != self.config.pad_id, vector=self.config.vector, normalised=self.config.normalised
        )


def text_vectors(
    states: Float[Array, "B T D"],
    seen: Int[Array, "B T"] | Array,
    *,
    vector: Literal["mean", "first"],
    normalised: bool,
) -> Float[Array, "B D"]:
    """Returns one vector a text, in float32.

    Args:
        seen: True on the tokens of a text; a row of padding alone has the mean 0.
        vector, normalised: see `EmbedderConfig`.
    """
    states = states.astype(jnp.float32)
    if vector == "first":
        vectors = states[:, 0]
    else:
        weights = seen / jnp.maximum(seen.sum(-1, keepdims=True), 1)
        vectors = jnp.einsum("BT,BTD->BD", weights, states)
    if not normalised:
        return vectors
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
