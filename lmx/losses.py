"""Losses as sums over the tokens, or the texts, that count, with the counts beside them.

Sums, not means: a step divides by all the tokens of an update, so that accumulation and sharding cannot change what a
token weighs.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.chunked_loss import Settings, chunked_loss
from lmx.sharding.step import move, parts
from lmx.sharding.tables import COLUMNS, WORDS, group, spread, stays_in_pieces

# Tokens whose logits exist at one time. 512 x 10,000 words in float32 are 20 MB: near a CPU's caches, while the
# product still is large enough to run at full speed.
CHUNK_TOKENS = 512
# A large vocabulary makes chunks smaller: the float32 logits of one take at most so many bytes (512 tokens of 131,072
# words), but below so few tokens each chunk would wait for the table to be read.
CHUNK_BYTES = 2**28
FEWEST_TOKENS = 128
# Where devices share a table in pieces, their chunks meet: tokens of eight such chunks at most.
SHARED_CHUNKS = 8
TILE = 8  # tokens of a chunk are a multiple of this, as matrix units and vector registers want them


class TokenLoss(NamedTuple):
    """Sums over tokens: the smoothed loss (to be minimised), the plain negative log-likelihood, and the weights.

    Only `loss` carries a gradient.
    """

    loss: Float[Array, ""]
    nll: Float[Array, ""]
    weight: Float[Array, ""]


class Output(NamedTuple):
    """What makes logits of states: states table^T + bias, kept between -cap and cap where there is one.

    Attributes:
        table: of words; also as `lmx.sharding.tables.spread` leaves it, a copy for each group of tokens.
        vocab_size: rows of the table that are words; the rest is padding and has no probability.
        bias: of each word (BERT).
        cap: see `lmx.nn.vocabulary.output_logits` (Gemma 2).
    """

    table: Float[Array, "*U V D"]
    vocab_size: int
    bias: Float[Array, " V"] | None = None
    cap: float | None = None


def cross_entropy(
    states: Float[Array, "B T D"],
    table: Float[Array, "*U V D"],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"] | Bool[Array, "B T"],
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenLoss:
    """Returns `token_loss` of an output that is nothing but a table.

    Args:
        table, vocab_size: see `Output`.
    """
    return token_loss(
        states,
        Output(table, vocab_size),
        labels,
        weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        chunk_tokens=chunk_tokens,
    )


def token_loss(
    states: Float[Array, "B T D"],
    output: Output,
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"] | Bool[Array, "B T"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenLoss:
    """Returns the cross entropy in nats of softmax(logits) against the labels, summed over weighted tokens.

    The logits are made a chunk of tokens at a time (`chunk_size`) and never exist whole; the gradient is made in the
    same pass, so the backward pass costs no second product. On a mesh, each device chunks its own tokens; the sums meet
    once, at the end.

    Smoothing gives every word of the vocabulary eps/V (Szegedy et al. 2016, as fairseq 0.9 has it; later fairseq
    gives eps/(V-1) to the others).

    Args:
        states: in the compute type; logits are float32.
        output: what makes the logits; most models' `output()`.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
        chunk_tokens: most tokens of a chunk.
    """
    table, vocab_size, bias, cap = output
    grouped = parts("group") > 1
    in_pieces = stays_in_pieces(table.shape, dtype=states.dtype)
    if table.ndim == 2:
        table = spread(table, "vocab", "embed", dtype=states.dtype) if grouped else table
    if in_pieces:
        table = move(table, ("replica", *COLUMNS), ("replica", *WORDS))
    sharing = parts("shard") if in_pieces else 1
    tokens = math.prod(states.shape[:2]) // parts("batch", "length")
    words = table.shape[-2] // parts("outer_vocab" if in_pieces else "vocab")
    size = chunk_size(tokens, words=words, most=chunk_tokens, sharing=sharing)
    chunks = -(-tokens // size)

    def split(x: jax.Array) -> jax.Array:
        """Returns [B, T, ...] as chunks [C, *U, N, ...]; tokens without weight fill up the last.

        N are as many tokens from each device of a group.
        """
        x = group(x, in_pieces=in_pieces) if grouped else x
        lead, rest = x.shape[:grouped], x.shape[2 + grouped :]
        x = x.reshape(*lead, sharing, tokens, *rest)
        x = jnp.pad(x, [(0, (chunks * size - tokens) * (axis == grouped + 1)) for axis in range(x.ndim)])
        x = jnp.moveaxis(x.reshape(*lead, sharing, chunks, size, *rest), grouped + 1, 0)
        return x.reshape(chunks, *lead, sharing * size, *rest)

    with jax.named_scope("loss"):
        if bias is not None:
            bias = jnp.pad(bias.astype(jnp.float32), (0, table.shape[-2] - vocab_size))
        loss, nll = chunked_loss(  # pyright: ignore[reportGeneralTypeIssues]
            Settings(vocab_size, label_smoothing, z_loss, cap, grouped, in_pieces),
            split(states),
            (table, bias),
            split(labels),
            split(weights.astype(jnp.float32)),
        )
        return TokenLoss(loss, jax.lax.stop_gradient(nll), weights.astype(jnp.float32).sum())


def chunk_size(tokens: int, *, words: int, most: int = CHUNK_TOKENS, sharing: int = 1) -> int:
    """Returns how many of a device's tokens a chunk of the loss has; the last chunk is filled up.

    A multiple of 8, and chunks are as equal as that allows: fewer than 8 tokens a chunk are filled up.

    Args:
        words: rows of the table on one device, or on all devices that share it in pieces.
        most: tokens of a chunk, where the vocabulary allows as many.
        sharing: devices whose chunks meet as one, each of which has other words. Eight times as many tokens may meet:
            their states are sent, and few large messages go faster than many small ones.
    """
    most = min(most, max(FEWEST_TOKENS, CHUNK_BYTES // (4 * words)))
    most = min(most, most * SHARED_CHUNKS // sharing)
    most = max(TILE, most // TILE * TILE)
    chunks = max(1, -(-tokens // most))
    return max(TILE, -(-tokens // (chunks * TILE)) * TILE)


class LabelLoss(NamedTuple):
    """Sums over texts: the loss (to be minimised), and the weights."""

    loss: Float[Array, ""]
    weight: Float[Array, ""]


def label_loss(
    outputs: Float[Array, "B C"],
    labels: Int[Array, " B"] | Float[Array, "B C"] | Float[Array, " B"],
    weights: Float[Array, " B"],
    *,
    kind: Literal["single", "multi", "regression"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " C"] | Float[np.ndarray, " C"] | None = None,
    scale: float = 1.0,
) -> LabelLoss:
    """Returns the loss in nats of what a classifier says of texts, summed over weighted texts, in float32.

    `single`: the cross entropy of softmax(outputs) with the class. `multi`: the mean over classes of the cross entropy
    of sigmoid(outputs) with 0 or 1. `regression`: half the squared error, in units of `scale`.

    Args:
        label_smoothing: gives every class eps/C (Szegedy et al. 2016); of several labels, 0 and 1 become eps/2 and
            1 - eps/2.
        class_weights: what a text of a class counts, in loss and weight; of several labels, what the loss counts where
            the label is there.
    """
    outputs, weights = outputs.astype(jnp.float32), weights.astype(jnp.float32)
    if kind == "regression":
        losses = 0.5 * jnp.square((outputs[:, 0] - labels) / scale)
    elif kind == "multi":
        targets = labels * (1 - label_smoothing) + label_smoothing / 2
        present = targets * jax.nn.softplus(-outputs)
        absent = (1 - targets) * jax.nn.softplus(outputs)
        losses = (absent + present * (1.0 if class_weights is None else class_weights)).mean(-1)
    else:
        log_probabilities = jax.nn.log_softmax(outputs)
        # A comparison instead of a look-up: its gradient is no scatter.
        is_label = labels[:, None] == jnp.arange(outputs.shape[-1])
        nll = -jnp.where(is_label, log_probabilities, 0.0).sum(-1)
        losses = (1 - label_smoothing) * nll - label_smoothing * log_probabilities.mean(-1)
        if class_weights is not None:
            weights = weights * jnp.where(is_label, class_weights, 0.0).sum(-1)
    return LabelLoss((losses * weights).sum(), weights.sum())


def activated(logits: Float[Array, "*B C"], *, kind: Literal["single", "multi", "regression"]) -> Float[Array, "*B C"]:
    """Returns what logits mean: probabilities, or the numbers themselves for regression."""
    if kind == "single":
        return jax.nn.softmax(logits, axis=-1)
    return jax.nn.sigmoid(logits) if kind == "multi" else logits


def drop_words(
    tokens: Int[Array, "B T"], rate: float, key: Key[Array, ""] | None, *, replacement: int, kept: tuple[int, ...] = ()
) -> Int[Array, "B T"]:
    """Returns tokens of which each is taken out of its text with this probability.

    Source: word dropout of Iyyer et al. 2015, section 3.1.

    Args:
        replacement: the id in its place: of padding, and the others keep their positions, or of the unknown word
            (Bowman et al. 2016, section 3.1), which a model so learns to read.
        key: None takes out none.
        kept: ids that stay, such as the first token's and the separator's.
    """
    if key is None or rate == 0.0:
        return tokens
    dropped = jax.random.bernoulli(key, rate, tokens.shape)
    for token in kept:
        dropped &= tokens != token
    return jnp.where(dropped, replacement, tokens)
