"""The encoder-only Transformer (Devlin et al. 2019), the classifier on top of it, and their configs.

`Encoder` gives states of all positions; `EncoderClassifier` pools them into one vector a text and maps it to outputs.
What outputs mean, classes or real numbers, and which loss they have is not known here.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.nn.config import ActivationName, TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.embedding import Embedding
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION, Linear
from lmx.nn.masks import MASKED, Sees, lengths_of
from lmx.nn.positions.make import PositionName, make_positions
from lmx.nn.transformer import embed, make_norm, make_stack
from lmx.nn.vocabulary import output_logits
from lmx.sharding.step import constrain

Pooling = Literal["first", "mean", "attention", "pooler"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(TransformerConfig):
    """The shape of an encoder; the defaults are BERT's choices (Devlin et al. 2019, section 3) at a small size.

    Attributes:
        vocab_size: words, special ones included; in a script, 0 takes the tokenizer's.
        num_types: kinds of tokens with a vector each, such as first and second text of a pair; 0 has none, and
            with 1 all tokens are of one kind.
        embedding_norm: normalises the embeddings before the first block.
    """

    vocab_size: int
    num_layers: int = 6
    num_types: int = 0
    embedding_norm: bool = True
    activation: ActivationName = "gelu"
    positions: PositionName = "learned"
    scaled_embeddings: bool = False
    attention_dropout_rate: float = 0.1
    max_length: int = 512


class Encoder(nnx.Module):
    """An encoder-only Transformer: each position sees the whole text.

    Args:
        deviation: standard deviation of the word vectors' first values, see `lmx.nn.layers.Embedding`.
    """

    def __init__(self, config: EncoderConfig, *, deviation: float | None = None, rngs: nnx.Rngs):
        config.check()
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, config.width, deviation=deviation, dtype=dtype, rngs=rngs)
        self.positions = make_positions(config, is_causal=False, rngs=rngs)
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
            segments, positions: of packed rows, or of rows with padding between their words (segment 0); without them a
                row is one text and its padding, which is at the end.
            key: randomness of dropout; None runs without.

        Raises:
            ValueError: types are given to a model that has none.
        """
        with jax.named_scope("embed"):
            vectors = self.embedding(tokens)
        return self.from_vectors(
            vectors,
            tokens,
            types=types,
            segments=segments,
            positions=positions,
            key=key,
            with_attention=with_attention,
        )

    def from_vectors(
        self,
        vectors: Float[Array, "B T D"],
        tokens: Int[Array, "B T"],
        *,
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns what a call does, with other word vectors: before scale, positions, types and norm.

        Here a gradient by the words, or words that are none, enter. The tokens only say what is padding.
        """
        if types is not None and self.types is None:
            raise ValueError("types must not be given to a model without types, got num_types=0 in its config.")
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        with jax.named_scope("embed"):
            x = embed(self.config, vectors, self.positions, positions=positions)
            if self.types is not None:
                if types is None or self.config.num_types == 1:  # RoBERTa: of both texts of a pair
                    types = jnp.zeros_like(tokens)
                x = x + self.types(types)
            if self.embedding_norm is not None:
                x = self.embedding_norm(x)
            x = dropout(x, self.config.dropout_rate, embed_key)
        if segments is None:
            sees = Sees(key_lengths=lengths_of(tokens, pad_id=self.config.pad_id))
        else:
            sees = Sees(segments=(segments, segments))
        with jax.named_scope("encoder"):
            return self.stack(
                x,
                sees=sees,
                encoding=self.positions,
                positions=positions,
                key=stack_key,
                with_attention=with_attention,
            )

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model, of rows that are not packed."""
        return {"encoder": self.stack.attended(Sees(key_lengths=jax.ShapeDtypeStruct((1,), jnp.int32)), self.positions)}

    def output_table(self) -> Float[Array, "*U V D"]:
        """Returns the word vectors, which masked words are predicted with; rows past the vocabulary are padding."""
        return self.embedding.table[...]

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Returns the logits in float32; those of the table's padding are masked, so that they have no probability."""
        return output_logits(states, self.output_table(), vocab_size=self.config.vocab_size)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(EncoderConfig):
    """The shape of a classifier: an encoder's, and what stands on it.

    Attributes:
        num_outputs: one per class, or a single one for a real number; 0 takes the number from the data.
        pooling: how a text becomes one vector: the state of its first token (Devlin et al. 2019, section 3.2), the mean
            of its states, their mean with learned weights (see `AttentionPooling`), or the first state through a layer
            that BERT's pretraining has trained (see `Pooler`).
        pooled_dropout_rate: dropout rate on that vector.
        output_mean, output_scale: the outputs are mean + scale x the last layer. For real numbers, these are mean and
            standard deviation of the training labels, so that the model need not learn their unit.
    """

    num_outputs: int = 0
    pooling: Pooling = "mean"
    pooled_dropout_rate: float = 0.1
    output_mean: float = 0.0
    output_scale: float = 1.0


class AttentionPooling(nnx.Module):
    """Weighs the states of a text by softmax(query . tanh(W x)), in float32.

    Source: Lin et al. 2017, equation 5, with one row of attention and as many hidden units as states are wide. Except
    for a bias, also Yang et al. 2016, equations 5 and 6, where `query` is the "word context vector".
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = Linear((width,), (width,), axes=("embed", "mlp"), use_bias=False, rngs=rngs)
        self.query = Linear((width,), (1,), axes=("mlp", None), use_bias=False, rngs=rngs)

    def __call__(self, states: Float[Array, "B T D"], seen: Bool[Array, "B T"]) -> Float[Array, "B T"]:
        scores = self.query(jnp.tanh(self.hidden(states)))[..., 0]
        return jax.nn.softmax(jnp.where(seen, scores, MASKED), axis=-1)


class Pooler(nnx.Module):
    """Makes of the first state a vector of the text: tanh(W x + b), in float32.

    Source: Devlin et al. 2019, in the authors' code: `pooled_output`.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.dense = Linear((width,), (width,), axes=("embed", "mlp"), rngs=rngs)

    def __call__(self, state: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return jnp.tanh(self.dense(state))


class EncoderClassifier(nnx.Module):
    """An encoder whose states are pooled into one vector a text, from which a linear layer makes the outputs.

    The encoder computes in the config's type, what follows in float32. Its parameters are those of an `Encoder`, below
    "encoder".

    Raises:
        ValueError: the config has no outputs.
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        if config.num_outputs < 1:
            raise ValueError(
                f"num_outputs must be at least 1, got num_outputs={config.num_outputs}. Take Labels.num_outputs."
            )
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        makers: dict[str, Any] = {"attention": AttentionPooling, "pooler": Pooler}
        self.pooling = makers[config.pooling](config.width, rngs=rngs) if config.pooling in makers else None
        self.output = Linear(
            (config.width,), (config.num_outputs,), axes=("embed", None), deviation=OUTPUT_DEVIATION, rngs=rngs
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B C"], dict[str, jax.Array]]:
        """Returns the outputs in float32, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            types: of the tokens; None is type 0 throughout, where the model has types.
            segments: 1 for words and 0 for padding, where there is padding between words too (`masks.segments_of`).
            key: randomness of dropout; None runs without.
        """
        with jax.named_scope("embed"):
            vectors = self.encoder.embedding(tokens)
        return self.from_vectors(
            vectors, tokens, types=types, segments=segments, key=key, with_attention=with_attention
        )

    def from_vectors(
        self,
        vectors: Float[Array, "B T D"],
        tokens: Int[Array, "B T"],
        *,
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B C"], dict[str, jax.Array]]:
        """Returns what a call does, with other word vectors (see `Encoder.from_vectors`)."""
        encoder_key, pooled_key = (None, None) if key is None else jax.random.split(key)
        states, maps = self.encoder.from_vectors(
            vectors, tokens, types=types, segments=segments, key=encoder_key, with_attention=with_attention
        )
        with jax.named_scope("pooling"):
            pooled = dropout(self.pool(states, tokens), self.config.pooled_dropout_rate, pooled_key)
        with jax.named_scope("output"):
            outputs = self.output(pooled)
            mean, scale = self.config.output_mean, self.config.output_scale
            return (outputs if (mean, scale) == (0.0, 1.0) else mean + scale * outputs), maps

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model."""
        return self.encoder.attentions()

    def pool(self, states: Float[Array, "B T D"], tokens: Int[Array, "B T"]) -> Float[Array, "B D"]:
        """Returns one vector a text in float32; padding has no part in it. A row of padding alone has the mean 0."""
        if self.config.pooling in ("first", "pooler"):
            first = constrain(states[:, 0].astype(jnp.float32), "batch", "embed")
            return first if self.pooling is None else self.pooling(first)
        seen = tokens != self.config.pad_id
        if self.pooling is None:
            weights = seen / jnp.maximum(seen.sum(-1, keepdims=True), 1)
        else:
            weights = self.pooling(states, seen)
        return constrain(jnp.einsum("BT,BTD->BD", weights, states.astype(jnp.float32)), "batch", "embed")


def training_flops(config: ClassifierConfig, *, rows: int, length: int) -> float:
    """Returns the FLOPs of one training step of a classifier on a padded batch.

    Masks of padding save nothing (see `lmx.nn.flops`).
    """
    width = config.width
    pooling = {"attention": width * (width + 1) * length, "pooler": width**2}.get(config.pooling, 0)
    stack = of_stack(config, layers=config.num_layers, length=length)
    return (stack + pooling + width * config.num_outputs).of_training(rows)[0]
