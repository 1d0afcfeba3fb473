"""Losses as sums over the tokens, or the texts, that count, with the counts beside them.

Sums, not means: a step divides by all the tokens of an update, so that accumulation and sharding cannot change what a
token weighs.
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from lmx.sharding import COLUMNS, WORDS, constrain, group, move, parts, spread, stays_in_pieces, sums_in_float32

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


def cross_entropy(
    states: Float[Array, "B T D"],
    table: Float[Array, "*G V D"],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"] | Bool[Array, "B T"],
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenLoss:
    """Returns the cross entropy in nats of softmax(states table^T) against the labels, summed over weighted tokens.

    The logits are made a chunk of tokens at a time (`chunk_size`) and never exist whole; the gradient is made in the
    same pass, so the backward pass costs no second product. On a mesh, each device chunks its own tokens; the sums meet
    once, at the end.

    Smoothing gives every word of the vocabulary eps/V (Szegedy et al. 2016, as fairseq 0.9 has it; later fairseq
    gives eps/(V-1) to the others).

    Args:
        states: in the compute type; logits are float32.
        table: of words; also as `lmx.nn.layers.spread_tables` leaves it, a copy for each group of tokens.
        vocab_size: rows of the table that are words; the rest is padding and has no probability.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
        chunk_tokens: most tokens of a chunk.
    """
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
        """Returns [B, T, ...] as chunks [C, *G, N, ...]; tokens without weight fill up the last.

        N are as many tokens from each device of a group.
        """
        x = group(x, in_pieces=in_pieces) if grouped else x
        lead, rest = x.shape[:grouped], x.shape[2 + grouped :]
        x = x.reshape(*lead, sharing, tokens, *rest)
        x = jnp.pad(x, [(0, (chunks * size - tokens) * (axis == grouped + 1)) for axis in range(x.ndim)])
        x = jnp.moveaxis(x.reshape(*lead, sharing, chunks, size, *rest), grouped + 1, 0)
        return x.reshape(chunks, *lead, sharing * size, *rest)

    with jax.named_scope("loss"):
        loss, nll = _chunked(  # pyright: ignore[reportGeneralTypeIssues]
            _Settings(vocab_size, label_smoothing, z_loss, grouped, in_pieces),
            split(states),
            table,
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


class _Chunk(NamedTuple):
    """What one pass over a chunk's logits leaves: all that loss and gradient need."""

    loss: jax.Array  # [*G]: groups meet after the last chunk
    nll: jax.Array
    by_logits: jax.Array  # [*G, N, V], the one large array: exponentials, or gradients that lack the scale
    scale: jax.Array  # [*G, N], gradient of the loss by log Z, over the sum of the exponentials; or 1


class _Settings(NamedTuple):
    vocab_size: int
    smoothing: float
    z_loss: float
    grouped: bool  # chunks are [G, N]: a group's tokens live on one device, and its sums stay there to the end
    in_pieces: bool  # a group are several devices: each has a part of the tokens and a part of the words

    @property
    def split_vocab(self) -> bool:
        """Whether devices have other words. Rows of the table are not looked up then: they would be sent, [N, D]."""
        return parts("words" if self.in_pieces else "vocab") > 1

    def meet(self, chunk: tuple) -> tuple:
        """Returns a chunk's arrays [*G, N, ...] with the tokens of all devices of a group on each."""
        if not self.in_pieces:
            return chunk
        return tuple(constrain(x, "replica", *[None] * (x.ndim - 1)) for x in chunk)

    def part(self, x: jax.Array) -> jax.Array:
        """Returns an array [*G, N, ...] with each device's own tokens on it."""
        return constrain(x, "replica", "shard", *[None] * (x.ndim - 2)) if self.in_pieces else x

    def product(self, equation: str) -> str:
        """Returns an einsum equation with each group by itself, where there are groups."""
        if not self.grouped:
            return equation
        terms, _, result = equation.partition("->")
        return ",".join(f"G{term}" for term in terms.split(",")) + f"->G{result}"


def _run_chunk(settings: _Settings, table: jax.Array, mean_word: jax.Array, chunk: tuple) -> _Chunk:
    """Makes one chunk's logits and reads them twice: for their maximum and for their exponentials.

    The label's logit and the mean logit of smoothing are products with single vectors, not passes over logits.
    """
    states, labels, weights = settings.meet(chunk)
    is_padding = jnp.where(jnp.arange(table.shape[-2]) < settings.vocab_size, 0.0, -1e30)
    logits = jnp.einsum(settings.product("ND,VD->NV"), states, table, preferred_element_type=jnp.float32) + is_padding
    largest = jax.lax.stop_gradient(logits.max(-1))
    exponentials = jnp.exp(logits - largest[..., None])
    normaliser = exponentials.sum(-1)
    log_z = largest + jnp.log(normaliser)
    states = states.astype(jnp.float32)
    is_label = jnp.arange(table.shape[-2]) == labels[..., None] if settings.split_vocab else None
    if is_label is None:
        nll = log_z - (states * _rows(settings, table, labels)).sum(-1)
    else:
        nll = log_z - jnp.where(is_label, logits, 0.0).sum(-1)
    smooth = log_z - jnp.einsum(settings.product("ND,D->N"), states, mean_word)
    loss = (1 - settings.smoothing) * nll + settings.smoothing * smooth + settings.z_loss * jnp.square(log_z)
    scale = weights * (1 + 2 * settings.z_loss * log_z) / normaliser
    if is_label is not None:
        sparse = jnp.where(is_label, (1 - settings.smoothing) * weights[..., None], 0.0)
        exponentials, scale = exponentials * scale[..., None] - sparse, jnp.ones_like(scale)
    return _Chunk((loss * weights).sum(-1), (nll * weights).sum(-1), exponentials, scale)


def _rows(settings: _Settings, table: jax.Array, labels: jax.Array) -> jax.Array:
    look_up = lambda table, labels: table[labels]  # noqa: E731
    return (jax.vmap(look_up) if settings.grouped else look_up)(table, labels)


def _is_word(table: jax.Array, settings: _Settings) -> jax.Array:
    return (jnp.arange(table.shape[-2]) < settings.vocab_size).astype(jnp.float32)


def _mean_word(table: jax.Array, settings: _Settings) -> jax.Array:
    return jnp.einsum("V,...VD->...D", _is_word(table, settings), table.astype(jnp.float32)) / settings.vocab_size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
    settings: _Settings, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    table = table.astype(states.dtype)
    mean_word = _mean_word(table, settings)

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, table, mean_word, chunk)
        return (sums[0] + done.loss, sums[1] + done.nll), None

    zero = jnp.zeros(states.shape[1:-2], jnp.float32)
    loss, nll = jax.lax.scan(add, (zero, zero), (states, labels, weights))[0]
    return loss.sum(), nll.sum()


def _chunked_forward(
    settings: _Settings, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple:
    """The gradient by a logit is p - (1 - eps) [label] - eps/V: a full part, a sparse part and a constant part.

    Only the full part is a product with a large matrix, the exponentials; its scale is applied to the small side.
    """
    smoothing = settings.smoothing
    words = table.astype(states.dtype)
    mean_word = _mean_word(words, settings)
    by_table_of = settings.product("ND,NV->DV")
    # Over a split vocabulary it is summed over devices. What is sent is in the compute type, over `tensor`: the many
    # devices that share a table in pieces would lose too much so.
    narrow = settings.split_vocab and not (settings.in_pieces and sums_in_float32(states.dtype))
    by_states_type = states.dtype if narrow else jnp.float32

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, words, mean_word, chunk)
        met = settings.meet(chunk)[0]
        scaled = (met * done.scale[..., None]).astype(states.dtype)
        by_logits = done.by_logits.astype(states.dtype)
        by_states = jnp.einsum(settings.product("NV,VD->ND"), by_logits, words, preferred_element_type=by_states_type)
        by_table = jnp.einsum(by_table_of, scaled, by_logits, preferred_element_type=jnp.float32)
        total = (sums[0] + done.loss, sums[1] + done.nll, sums[2] + by_table)
        return total, settings.part(by_states * done.scale[..., None])

    zero = jnp.zeros(states.shape[1:-2], jnp.float32)
    by_table = jnp.zeros((*table.shape[:-2], table.shape[-1], table.shape[-2]), jnp.float32)
    if settings.grouped:
        by_table = constrain(
            by_table, *(("replica", None, "words") if settings.in_pieces else ("group", None, "vocab"))
        )
    (loss, nll, by_table), by_states = jax.lax.scan(add, (zero, zero, by_table), (states, labels, weights))
    weighted = states.astype(jnp.float32) * weights[..., None]
    mean_word = mean_word[:, None] if settings.grouped else mean_word
    by_states -= weights[..., None] * smoothing * mean_word
    # The barrier: XLA's CPU backend would fold the transpose of a single chunk into the product, and then has no
    # product of bfloat16 into float32.
    by_table = jax.lax.optimization_barrier(by_table).swapaxes(-1, -2)
    if not settings.split_vocab:
        looked_up = jax.vmap(lambda labels: _rows(settings, words, labels))(labels)
        by_states -= weights[..., None] * (1 - smoothing) * looked_up.astype(jnp.float32)
        add_rows = lambda total, rows, values: total.at[rows].add(values)  # noqa: E731
        add_rows = jax.vmap(add_rows, in_axes=(0, 1, 1)) if settings.grouped else add_rows
        by_table = add_rows(by_table, labels, -(1 - smoothing) * weighted)
    constant = smoothing / settings.vocab_size * weighted.sum((0, -2))
    by_table -= jnp.einsum("V,...D->...VD", _is_word(table, settings), constant)
    by_table = by_table.astype(table.dtype)
    if settings.in_pieces:  # said again: else it would be sent before it is rounded
        by_table = constrain(by_table, "replica", *WORDS)
    return (loss.sum(), nll.sum()), (by_states.astype(states.dtype), by_table)


def _chunked_backward(settings: _Settings, gradients: tuple, cotangents: tuple) -> tuple:
    by_states, by_table = gradients
    scale = cotangents[0]
    return (by_states * scale.astype(by_states.dtype), by_table * scale.astype(by_table.dtype), None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)


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
