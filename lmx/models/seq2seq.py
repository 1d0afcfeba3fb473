"""The encoder-decoder Transformer (Vaswani et al. 2017) and its config.

`encode` and `decode` give states; `logits` or, without ever holding all logits, `lmx.losses.token_loss` with
`output()` turns them into words. `start_decoding` gives the step function and cache that `lmx.decoding` runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.losses import Output
from lmx.nn.attention import share
from lmx.nn.config import TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.embedding import Embedding
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION
from lmx.nn.masks import Sees, lengths_of
from lmx.nn.positions.encoding import PositionalEncoding
from lmx.nn.positions.make import make_positions
from lmx.nn.transformer import BlockCache, Memory, embed, make_norm, make_stack
from lmx.nn.vocabulary import output_logits


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(TransformerConfig):
    """The shape of an encoder-decoder; except for the vocabulary, the defaults are Vaswani's base model.

    Attributes:
        source_vocab_size, target_vocab_size: words of each side, special ones included; in a script, 0 takes the
            tokenizer's.
        tied_embeddings: "all" shares one table between source, target and output; "target" between target and output,
            "inputs" between source and target (T5 1.1).
        embedding_init: how to draw the table of the target. "gpt2": with deviation 0.02 where it is tied to the
            output; the first loss is then ln V. "fairseq": with D^-0.5, so that scaled inputs and logits have variance
            1; the first loss is then about ln V + 0.6. "t5": with deviation 1, for `scaled_output` and inputs that are
            not scaled; the first loss is the same.
        scaled_output: the decoder's states are multiplied by D^-0.5 before the output table, as a tied table of
            deviation 1 wants (T5 1.0; mesh-tensorflow's `shared_embedding_and_softmax_weights`).
        embedding_norm: normalises the embeddings of each side before its first block (BART).
        output_bias: adds a learned number to the logit of each word (Marian).
    """

    source_vocab_size: int
    target_vocab_size: int
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    tied_embeddings: Literal["all", "target", "inputs", "none"] = "all"
    embedding_init: Literal["gpt2", "fairseq", "t5"] = "gpt2"
    scaled_output: bool = False
    embedding_norm: bool = False
    output_bias: bool = False

    def __post_init__(self):
        if self.tied_embeddings in ("all", "inputs") and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                f'tied_embeddings="{self.tied_embeddings}" must have one vocabulary for both sides, '
                f"got source_vocab_size={self.source_vocab_size} and target_vocab_size={self.target_vocab_size}. "
                "Train a joint vocabulary, or say --model.tied-embeddings target."
            )


class Seq2Seq(nnx.Module):
    """An encoder-decoder Transformer: `encode` the source, `decode` the target against it.

    Attributes:
        output_bias: of each word; it is not sharded, and has no padding.
    """

    def __init__(self, config: Seq2SeqConfig, *, rngs: nnx.Rngs):
        config.check()
        self.config = config
        dtype = jnp.dtype(config.dtype)

        def embedding(vocab_size: int, *, deviation: float | None = None) -> Embedding:
            return Embedding(vocab_size, config.width, deviation=deviation, dtype=dtype, rngs=rngs)

        # Each attribute is assigned once: NNX fixes at the first assignment whether it holds parameters.
        has_output, has_source = (config.tied_embeddings in ("none", other) for other in ("inputs", "target"))
        deviations = {"gpt2": None if has_output else OUTPUT_DEVIATION, "fairseq": None, "t5": 1.0}
        deviation = deviations[config.embedding_init]
        self.target_embedding = embedding(config.target_vocab_size, deviation=deviation)
        of_source = deviation if config.embedding_init == "t5" else None
        self.source_embedding = embedding(config.source_vocab_size, deviation=of_source) if has_source else None
        output = lambda: embedding(config.target_vocab_size, deviation=OUTPUT_DEVIATION)  # noqa: E731
        self.output_embedding = output() if has_output else None
        self.source_positions = make_positions(config, is_causal=False, rngs=rngs)
        self.target_positions = make_positions(config, is_causal=True, rngs=rngs)
        self.source_norm = make_norm(config) if config.embedding_norm else None
        self.target_norm = make_norm(config) if config.embedding_norm else None
        bias = jnp.zeros(config.target_vocab_size) if config.output_bias else None
        self.output_bias = None if bias is None else nnx.Param(bias, axes=(None,))
        self.encoder = make_stack(config, config.num_encoder_layers, rngs=rngs)
        self.decoder = make_stack(config, config.num_decoder_layers, has_memory=True, rngs=rngs)

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        segments: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B S"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B S D"], dict[str, jax.Array]]:
        """Returns the encoded source, and attention maps ("self", [N, B, H, S, S]) when asked.

        Args:
            segments, positions: of packed rows; without them a row is one sentence and its padding.
            key: randomness of dropout; None runs without.
        """
        embedding = self.source_embedding or self.target_embedding
        embed_key, stack_key = _split(key)
        with jax.named_scope("encoder"):
            x = self._embed(
                source, embedding, self.source_positions, self.source_norm, positions=positions, key=embed_key
            )
            sees = self._seen_of(source) if segments is None else Sees(segments=(segments, segments))
            return self.encoder(
                x,
                sees=sees,
                encoding=self.source_positions,
                positions=positions,
                key=stack_key,
                with_attention=with_attention,
            )

    def decode(
        self,
        memory: Float[Array, "B S D"],
        source: Int[Array, "B S"],
        decoder_input: Int[Array, "B T"],
        *,
        source_segments: Int[Array, "B S"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the decoder's states, and attention maps ("self", "memory", [N, B, H, T, S]) when asked.

        Args:
            source: the tokens that were encoded; their padding is not looked at.
            decoder_input: the target, one place to the right (it begins with the start token).
            source_segments, segments, positions: of packed rows, as for `encode`; both segments or neither.
        """
        if (segments is None) != (source_segments is None):
            given = "segments" if source_segments is None else "source_segments"
            raise ValueError(f"segments and source_segments must be given together, got {given} alone.")
        embed_key, stack_key = _split(key)
        sees = Sees(causal=True)  # padding is at the end: no real token sees it
        sees_memory = self._seen_of(source)
        if segments is not None and source_segments is not None:
            sees = Sees(causal=True, segments=(segments, segments))
            sees_memory = Sees(segments=(segments, source_segments))
        with jax.named_scope("decoder"):
            x = self._embed_target(decoder_input, positions=positions, key=embed_key)
            states, maps = self.decoder(
                x,
                sees=sees,
                memory=Memory(share(memory), sees_memory),
                encoding=self.target_positions,
                positions=positions,
                key=stack_key,
                with_attention=with_attention,
            )
        return self._to_output(states), maps

    def output(self) -> Output:
        """Returns what makes logits of the decoder's states, for `lmx.losses.token_loss`."""
        return Output(self.output_table(), self.config.target_vocab_size, bias=self._bias())

    def output_table(self) -> Float[Array, "*U V D"]:
        """Returns the vectors whose products with the states are the logits; rows past the vocabulary are padding."""
        return (self.output_embedding or self.target_embedding).table[...]

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Returns the logits in float32; those of the table's padding are masked, so that they have no probability."""
        return output_logits(states, self.output_table(), vocab_size=self.config.target_vocab_size, bias=self._bias())

    def start_decoding(
        self, source: Int[Array, "B S"], *, slots: int
    ) -> tuple[Callable[..., tuple[Float[Array, "B W V"], list[BlockCache]]], list[BlockCache]]:
        """Encodes the source and returns `(step, cache)` for decoding with room for `slots` target tokens.

        `step(tokens [B W], cache, offset, positions [B W], mask [B 1 W slots], places [slots])
        -> (logits [B W V], cache)` writes W tokens at slots offset..offset+W and lets each see the slots its mask
        allows; `places` are the positions of the tokens in all slots.
        """
        memory, _ = self.encode(source)
        sees = self._seen_of(source)
        memory_mask = sees.mask(1, source.shape[1])
        blocks = self.decoder.unstack()
        start = Memory(memory, sees)
        caches = [block.start_cache(start, batch=source.shape[0], slots=slots) for block in blocks]

        def step(
            tokens: Int[Array, "B W"],
            cache: list[BlockCache],
            offset: Int[Array, ""],
            positions: Int[Array, "B W"],
            mask: Bool[Array, "B 1 W L"],
            places: Int[Array, " L"],
        ) -> tuple[Float[Array, "B W V"], list[BlockCache]]:
            x = self._embed_target(tokens, positions=positions, key=None)
            x, cache = self.decoder.extend(
                blocks,
                x,
                cache,
                encoding=self.target_positions,
                positions=positions,
                slots=places[None],
                offset=offset,
                mask=mask,
                memory_mask=memory_mask,
            )
            return self.logits(self._to_output(x)), cache

        return step, caches

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model, of rows that are not packed."""
        padded = Sees(key_lengths=jax.ShapeDtypeStruct((1,), jnp.int32))
        return {
            "encoder": self.encoder.attended(padded, self.source_positions),
            "decoder": self.decoder.attended(Sees(causal=True), self.target_positions),
            "memory": padded,
        }

    def _to_output(self, states: jax.Array) -> jax.Array:
        return states * self.config.width**-0.5 if self.config.scaled_output else states

    def _bias(self) -> jax.Array | None:
        return None if self.output_bias is None else self.output_bias[...]

    def _embed_target(self, tokens: jax.Array, *, positions: jax.Array | None, key: jax.Array | None) -> jax.Array:
        encoding, norm = self.target_positions, self.target_norm
        return self._embed(tokens, self.target_embedding, encoding, norm, positions=positions, key=key)

    def _seen_of(self, source: jax.Array) -> Sees:
        return Sees(key_lengths=lengths_of(source, pad_id=self.config.pad_id))

    def _embed(
        self,
        tokens: jax.Array,
        embedding: Embedding,
        encoding: PositionalEncoding,
        norm: Any,
        *,
        positions: jax.Array | None,
        key: jax.Array | None,
    ) -> jax.Array:
        with jax.named_scope("embed"):
            x = embed(self.config, embedding(tokens), encoding, positions=positions)
            x = x if norm is None else norm(x)
            return dropout(x, self.config.dropout_rate, key)


def _split(key: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    return (None, None) if key is None else tuple(jax.random.split(key))


def training_flops(config: Seq2SeqConfig, *, rows: int, source: int, target: int) -> tuple[float, float]:
    """Returns the FLOPs of one training step on padded shapes: with full attention, and with the causal half of it.

    Masks of padding save nothing; causality and windows do in the second number (see `lmx.nn.flops`).
    """
    encoder = of_stack(config, layers=config.num_encoder_layers, length=source)
    decoder = of_stack(config, layers=config.num_decoder_layers, length=target, is_causal=True, memory=source)
    output = target * config.width * config.target_vocab_size
    return (encoder + decoder + output).of_training(rows)
