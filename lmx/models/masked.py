"""The encoder that predicts masked words (Devlin et al. 2019), and its config.

`MaskedEncoder` is an `Encoder` with the head that its pretraining needs; what is masked, objectives say. A classifier
takes the encoder over: its parameters have the same names, below "encoder". BERT's second task, next sentences, and the
pooler that only it trains are not here (Liu et al. 2019, section 4.2, do without).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lmx.losses import Output
from lmx.models.encoder import Encoder, EncoderConfig
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION, Linear
from lmx.nn.masks import Sees
from lmx.nn.transformer import activation_of, make_norm
from lmx.nn.vocabulary import output_logits


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(EncoderConfig):
    """The shape of an encoder that predicts masked words: an encoder's, its head has no choices of its own."""


class MaskedHead(nnx.Module):
    """Makes of states what is compared with words: norm(f(W x + b)), f the activation of the blocks without a gate.

    Source: Devlin et al. 2019, in the authors' code: `get_masked_lm_output`. The product with the words, and a bias of
    each, follow.

    Attributes:
        bias: of each word; it is not sharded, and has no padding.
    """

    def __init__(self, config: MaskedConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.dense = Linear((config.width,), (config.width,), axes=("embed", "mlp"), dtype=dtype, rngs=rngs)
        self.activation = activation_of(config)
        self.norm = make_norm(config)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size), axes=(None,))

    def __call__(self, states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.norm(self.activation(self.dense(states)))


class MaskedEncoder(nnx.Module):
    """An encoder with the head that says which words were masked; its output is tied to the words of the input."""

    def __init__(self, config: MaskedConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, deviation=OUTPUT_DEVIATION, rngs=rngs)  # the table ends the model too
        self.head = MaskedHead(config, rngs=rngs)

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
        """Returns the states after the head, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            types, segments, positions, key: see `Encoder`.
        """
        states, maps = self.encoder(
            tokens, types=types, segments=segments, positions=positions, key=key, with_attention=with_attention
        )
        with jax.named_scope("head"):
            return self.head(states), maps

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model, of rows that are not packed."""
        return self.encoder.attentions()

    def output(self) -> Output:
        """Returns what makes logits of the states, for `lmx.losses.token_loss`."""
        return Output(self.encoder.output_table(), self.config.vocab_size, bias=self.head.bias[...])

    def output_table(self) -> Float[Array, "*U V D"]:
        """Returns the word vectors; without the bias of each, their products with the states are no logits."""
        return self.encoder.output_table()

    def logits(self, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Returns the logits in float32; those of the table's padding are masked, so that they have no probability."""
        output = self.output()
        return output_logits(states, output.table, vocab_size=output.vocab_size, bias=output.bias)


def training_flops(config: MaskedConfig, *, rows: int, length: int) -> tuple[float, float]:
    """Returns the FLOPs of one training step, its logits of all tokens: with all scores, and with those in a window.

    Segments and padding save nothing (see `lmx.nn.flops`).
    """
    stack = of_stack(config, layers=config.num_layers, length=length)
    head = length * config.width * (config.width + config.vocab_size)
    return (stack + head).of_training(rows)
