"""The decoder-only Transformer (Radford et al. 2019; Touvron et al. 2023) and its config.

A call gives states; `lmx.losses.token_loss` with `output()` turns them into a loss without ever holding all logits.
What is predicted from what, objectives and recipes say.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lmx.losses import Output
from lmx.nn.config import ActivationName, NormPosition, TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION, Embedding, output_logits
from lmx.nn.masks import Sees
from lmx.nn.positions.make import PositionName, make_positions
from lmx.nn.transformer import embed, make_stack


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TransformerConfig):
    """The shape of a decoder; the defaults are Llama's choices (Touvron et al. 2023, section 2.2) at a small size.

    Attributes:
        vocab_size: words, special ones included.
        tied_embeddings: one table for the input and the output.
        logit_cap: keeps logits between -cap and cap (Gemma 2), see `lmx.nn.layers.output_logits`; None caps none.
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
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B T D"], dict[str, jax.Array]]:
        """Returns the states, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            segments, positions: of packed rows; without them a row is one text and its padding, which is at the end.
            key: randomness of dropout; None runs without.
        """
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        with jax.named_scope("embed"):
            x = embed(self.config, self.embedding(tokens), self.positions, positions=positions)
            x = dropout(x, self.config.dropout_rate, embed_key)
        sees = Sees(causal=True, segments=None if segments is None else (segments, segments))
        with jax.named_scope("decoder"):
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
        return {"decoder": self.stack.attended(Sees(causal=True), self.positions)}

    def output(self) -> Output:
        """Returns what makes logits of the states, for `lmx.losses.token_loss`."""
        return Output(self.output_table(), self.config.vocab_size, cap=self.config.logit_cap)

    def output_table(self) -> Float[Array, "*G V D"]:
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
