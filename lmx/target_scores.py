"""How likely a model finds given targets: the log-probability of each of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmx.decoding import mean_of_members

TOKENS_AT_ONCE = 128  # whose logits are there at the same time


@dataclass(frozen=True)
class ScoredTarget:
    """A target and how likely a model finds it for its source.

    Attributes:
        tokens: its ids, the end token last; a forced first word before them, which costs nothing.
        logprobs: of each, given the source and those before it.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """The log-probability of the whole target; no length penalty divides it."""
        return float(sum(self.logprobs))


def target_logprobs(
    models: Sequence[Any], source: Int[Array, "B S"], decoder_input: Int[Array, "B T"], target: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """Returns the log-probability of each token of the targets; of several models, that of their mean.

    Args:
        models: encoder-decoders, see `lmx.models.seq2seq.Seq2Seq`.
        decoder_input: the targets, one place to the right.
    """
    states = []
    for model in models:
        memory, _ = model.encode(source)
        states.append(model.decode(memory, source, decoder_input)[0])
    rows, length = target.shape
    most = min(length, max(1, TOKENS_AT_ONCE // rows))
    size = next(each for each in range(most, 0, -1) if length % each == 0)

    def in_pieces(x: jax.Array) -> jax.Array:
        return x.reshape(rows, length // size, size, *x.shape[2:]).swapaxes(0, 1)

    def one(piece: tuple[list[jax.Array], jax.Array]) -> jax.Array:
        parts, words = piece
        logits = mean_of_members([model.logits(part) for model, part in zip(models, parts, strict=True)])
        logs = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(logs, words[..., None], axis=-1)[..., 0]

    found = jax.lax.map(one, ([in_pieces(each) for each in states], in_pieces(target)))
    return found.swapaxes(0, 1).reshape(rows, length)
