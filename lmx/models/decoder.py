"""The decoder-only Transformer (Radford et al. 2019; Touvron et al. 2023) and its config.

A call gives states; `lmx.losses.token_loss` with `output()` turns them into a loss without ever holding all logits.
What is predicted from what, objectives and recipes say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.losses import Output
from lmx.nn.attention import CachedKeyValues, KeyValues
from lmx.nn.config import ActivationName, NormPosition, TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.embedding import Embedding
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION
from lmx.nn.masks import Sees
from lmx.nn.positions.make import PositionName, make_positions
from lmx.nn.transformer import Block, BlockCache, embed, make_stack
from lmx.nn.vocabulary import output_logits

DecodeStep = Callable[..., tuple[jax.Array, list[BlockCache]]]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TransformerConfig):
    """The shape of a decoder; the defaults are Llama's choices (Touvron et al. 2023, section 2.2) at a small size.

    Attributes:
        vocab_size: words, special ones included; in a script, 0 takes the tokenizer's.
        tied_embeddings: one table for the input and the output.
        logit_cap: keeps logits between -cap and cap (Gemma 2), see `lmx.nn.vocabulary.output_logits`; None caps none.
    """

    vocab_size: int
    num_layers: int = 6
    tied_embeddings: bool = False
    logit_cap: float | None = None
    norm: Literal["layer", "rms"] = "rms"
    norm_position: NormPosition = "pre"
    activation: ActivationName = "gated-silu"
    positions: PositionName = "rotary"
    scaled_embeddings: bool = False
    use_bias: bool = False
    dropout_rate: float = 0.0


class Decoder(nnx.Module):
    """A decoder-only Transformer: each position sees itself and the past."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        config.check()
        self.config = config
        dtype = jnp.dtype(config.dtype)

        def embedding(deviation: float | None) -> Embedding:
            return Embedding(config.vocab_size, config.width, deviation=deviation, dtype=dtype, rngs=rngs)

        # The table that ends the model, tied or not, is drawn as GPT-2's is.
        self.embedding = embedding(OUTPUT_DEVIATION if config.tied_embeddings else None)
        self.output_embedding = None if config.tied_embeddings else embedding(OUTPUT_DEVIATION)
        self.positions = make_positions(config, is_causal=True, rngs=rngs)
        self.stack = make_stack(config, config.num_layers, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        prefix: Bool[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the states, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            segments, positions: of packed rows; without them a row is one text and its padding, which is at the end.
            prefix: True on tokens that all of their text sees, those before them too (Raffel et al. 2020, 3.2.1).
            key: randomness of dropout; None runs without.
        """
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        with jax.named_scope("embed"):
            x = embed(self.config, self.embedding(tokens), self.positions, positions=positions)
            x = dropout(x, self.config.dropout_rate, embed_key)
        sees = Sees(causal=True, segments=None if segments is None else (segments, segments), prefix=prefix)
        with jax.named_scope("decoder"):
            return self.stack(
                x,
                sees=sees,
                encoding=self.positions,
                positions=positions,
                key=stack_key,
                with_attention=with_attention,
            )

    def start_decoding(
        self, prompts: Int[Array, "B P"], lengths: Int[Array, " B"], *, slots: int
    ) -> tuple[DecodeStep, list[BlockCache]]:
        """Returns `(step, cache)` for going on from prompts, with room for `slots` tokens.

        `step` is as `Seq2Seq.start_decoding` gives it: offset, positions, mask and places count from where the search
        begins. What begins it is the last token of each prompt, whichever token the search itself takes.

        Args:
            prompts: each has a token or more, and its padding behind it.
        """
        blocks = self.stack.unstack()
        cache = self.prefill(prompts, slots=prompts.shape[1] + slots, blocks=blocks)
        return self.decoding_step(prompts, lengths, blocks=blocks), cache

    def prefill(self, prompts: Int[Array, "B P"], *, slots: int, blocks: list[Block]) -> list[BlockCache]:
        """Returns the cache of prompts in the first of `slots` slots: one pass over all, without logits.

        Args:
            blocks: of the stack, one by one.
        """
        x = embed(self.config, self.embedding(prompts), self.positions)
        _, pasts = self.stack.run(blocks, x, sees=Sees(causal=True), encoding=self.positions, with_past=True)
        caches = [CachedKeyValues.of(KeyValues(past["key"], past["value"])) for past in pasts]
        return [BlockCache(cache.with_room(slots), None) for cache in caches]

    def states(self, tokens: Int[Array, "B T"], *, blocks: list[Block]) -> Float[Array, "B T D"]:
        """Returns the states that a call gives, of a stack whose blocks are given one by one."""
        x = embed(self.config, self.embedding(tokens), self.positions)
        return self.stack.run(blocks, x, sees=Sees(causal=True), encoding=self.positions)[0]

    def decoding_step(
        self, prompts: Int[Array, "B P"], lengths: Int[Array, " B"], *, blocks: list[Block]
    ) -> DecodeStep:
        """Returns the `step` of `start_decoding`, for a cache that `prefill` has made of the same prompts.

        All rows write into the same slot, behind the padding of the longest prompt: the mask lets each row see its own
        prompt and its own new tokens, and its positions go on as if there were no padding.

        Args:
            blocks: of the stack, one by one.
        """
        first = lengths[:, None] - 1
        last = jnp.take_along_axis(prompts, first, axis=1)
        # The last token is given to the step, which writes it anew.
        held = (jnp.arange(prompts.shape[1]) < first)[:, None, None]
        places_held = jnp.broadcast_to(jnp.arange(prompts.shape[1]), prompts.shape)

        def step(
            tokens: Int[Array, "B W"],
            cache: list[BlockCache],
            offset: Int[Array, ""],
            positions: Int[Array, "B W"],
            mask: Bool[Array, "B 1 W L"],
            places: Int[Array, " L"],
        ) -> tuple[Float[Array, "B W V"], list[BlockCache]]:
            tokens = jnp.where(positions == 0, last, tokens)
            seen = jnp.broadcast_to(held, (*mask.shape[:-1], held.shape[-1]))
            x = embed(self.config, self.embedding(tokens), self.positions, positions=first + positions)
            x, cache = self.stack.extend(
                blocks,
                x,
                cache,
                encoding=self.positions,
                positions=first + positions,
                slots=jnp.concatenate([places_held, first + places], axis=1),
                offset=prompts.shape[1] + offset,
                mask=jnp.concatenate([seen, mask], axis=-1),
            )
            return self.logits(x), cache

        return step

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model, of rows that are not packed."""
        return {"decoder": self.stack.attended(Sees(causal=True), self.positions)}

    def output(self) -> Output:
        """Returns what makes logits of the states, for `lmx.losses.token_loss`."""
        return Output(self.output_table(), self.config.vocab_size, cap=self.config.logit_cap)

    def output_table(self) -> Float[Array, "*U V D"]:
        """Returns the vectors whose products with the states are the logits; rows past the vocabulary are padding."""
        return (self.output_embedding or self.embedding).table[...]

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Returns the logits in float32; those of the table's padding are masked, so that they have no probability."""
        return output_logits(states, self.output_table(), vocab_size=self.config.vocab_size, cap=self.config.logit_cap)


def training_flops(config: DecoderConfig, *, rows: int, length: int) -> tuple[float, float]:
    """Returns the FLOPs of one training step: with all scores of attention, and with those that may be seen.

    Segments and padding save nothing; causality and the window do in the second number (see `lmx.nn.flops`).
    """
    stack = of_stack(config, layers=config.num_layers, length=length, is_causal=True)
    return (stack + length * config.width * config.vocab_size).of_training(rows)
