"""The encoder-only Transformer (Devlin et al. 2019) and its config.

A call gives states of all positions; what is made of them, masked words or one label for the whole, is the business of
heads and objectives.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lmx.nn import masks
from lmx.nn.layers import Embedding, dropout, output_logits
from lmx.nn.transformer import TransformerConfig, embed, make_norm, make_positions, make_stack


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """The shape of an encoder; the defaults are BERT's choices (Devlin et al. 2019, section 3) at a small size.

    Attributes:
        vocab_size: words, special ones included.
        num_types: kinds of tokens with a vector each, such as first and second text of a pair; 0 has none.
        embedding_norm: normalises the embeddings before the first block.
    """

    vocab_size: int
    num_layers: int = 6
    num_types: int = 0
    embedding_norm: bool = True
    activation: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "gelu"
    positions: Literal["sinusoidal", "learned", "rotary"] = "learned"
    scaled_embeddings: bool = False
    attention_dropout_rate: float = 0.1
    max_length: int = 512


class Encoder(nnx.Module):
    """An encoder-only Transformer: each position sees the whole text."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, config.width, dtype=dtype, rngs=rngs)
        self.positions = make_positions(config, rngs=rngs)
        self.types = Embedding(config.num_types, config.width, dtype=dtype, rngs=rngs) if config.num_types else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.stack = make_stack(config, config.num_layers, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the states, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            types: of the tokens; None is type 0 throughout, where the model has types.
            segments, positions: of packed rows; without them a row is one text and its padding.
            key: randomness of dropout; None runs without.

        Raises:
            ValueError: types are given to a model that has none.
        """
        if types is not None and self.types is None:
            raise ValueError("types must not be given to a model without types, got num_types=0 in its config.")
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        with jax.named_scope("embed"):
            x = embed(self.config, tokens, self.embedding, self.positions, positions=positions)
            if self.types is not None:
                x = x + self.types(jnp.zeros_like(tokens) if types is None else types)
            if self.embedding_norm is not None:
                x = self.embedding_norm(x)
            x = dropout(x, self.config.dropout_rate, embed_key)
        if segments is None:
            mask = masks.padding(masks.segments_of(tokens, pad_id=self.config.pad_id))
        else:
            mask = masks.same_segment(segments, segments)
        with jax.named_scope("encoder"):
            return self.stack(x, mask=mask, positions=positions, key=stack_key, with_attention=with_attention)

    def output_table(self) -> Float[Array, "*G V D"]:
        """Returns the word vectors, which masked words are predicted with; rows past the vocabulary are padding."""
        return self.embedding.table[...]

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Returns the logits in float32; those of the table's padding are masked, so that they have no probability."""
        return output_logits(states, self.output_table(), vocab_size=self.config.vocab_size)
