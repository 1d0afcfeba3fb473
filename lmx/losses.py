"""Losses as sums over the tokens that count, with the counts beside them.

Sums, not means: a step divides by all the tokens of an update, so that accumulation and sharding cannot change what a
token weighs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Tokens whose logits exist at one time. 512 x 10,000 words in float32 are 20 MB: near a CPU's caches, while the
# product still is large enough to run at full speed.
CHUNK_TOKENS = 512


class TokenLoss(NamedTuple):
    """Sums over tokens: the smoothed loss (to be minimised), the plain negative log-likelihood, and the weights.

    Only `loss` carries a gradient.
    """

    loss: Float[Array, ""]
    nll: Float[Array, ""]
    weight: Float[Array, ""]


def cross_entropy(
    states: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    labels: Int[Array, "B T"],
    weights: Float[Array, "B T"] | Bool[Array, "B T"],
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenLoss:
    """Returns the cross entropy in nats of softmax(states table^T) against the labels, summed over weighted tokens.

    The logits are made a chunk of rows at a time and never exist whole; the gradient is made in the same pass, so the
    backward pass costs no second product. A chunk takes every n-th row, so that a batch split over devices stays split.

    Smoothing gives every word of the vocabulary eps/V (Szegedy et al. 2016, as fairseq 0.9 has it; later fairseq
    gives eps/(V-1) to the others).

    Args:
        states: in the compute type; logits are float32.
        vocab_size: rows of the table that are words; the rest is padding and has no probability.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
    """
    batch, length, _ = states.shape
    chunks = _number_of_chunks(batch, length, chunk_tokens)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(batch // chunks, chunks, *x.shape[1:]), 1, 0)

    loss, nll = _chunked(
        (vocab_size, label_smoothing, z_loss), split(states), table, split(labels), split(weights.astype(jnp.float32))
    )
    return TokenLoss(loss, jax.lax.stop_gradient(nll), weights.astype(jnp.float32).sum())


def _number_of_chunks(batch: int, length: int, chunk_tokens: int) -> int:
    """Returns the least number that divides the rows, keeps multiples of 8 together, and gives chunks small enough."""
    units = batch // 8 if batch % 8 == 0 else batch
    for number in range(1, units + 1):
        if units % number == 0 and batch // number * length <= chunk_tokens:
            return number
    return units


class _Chunk(NamedTuple):
    """What one pass over a chunk's logits leaves: all that loss and gradient need."""

    loss: jax.Array
    nll: jax.Array
    exponentials: jax.Array  # [B, T, V], the one large array
    scale: jax.Array  # [B, T], gradient of the loss by log Z, over the sum of the exponentials


def _run_chunk(settings: tuple, table: jax.Array, mean_word: jax.Array, chunk: tuple) -> _Chunk:
    """Makes one chunk's logits and reads them twice: for their maximum and for their exponentials.

    The label's logit and the mean logit of smoothing are products with single vectors, not passes over logits.
    """
    vocab_size, smoothing, z_loss = settings
    states, labels, weights = chunk
    is_padding = jnp.where(jnp.arange(table.shape[0]) < vocab_size, 0.0, -1e30)
    logits = jnp.einsum("BTD,VD->BTV", states, table, preferred_element_type=jnp.float32) + is_padding
    largest = jax.lax.stop_gradient(logits.max(-1))
    exponentials = jnp.exp(logits - largest[..., None])
    normaliser = exponentials.sum(-1)
    log_z = largest + jnp.log(normaliser)
    states = states.astype(jnp.float32)
    nll = log_z - (states * table[labels]).sum(-1)
    loss = (1 - smoothing) * nll + smoothing * (log_z - states @ mean_word) + z_loss * jnp.square(log_z)
    scale = weights * (1 + 2 * z_loss * log_z) / normaliser
    return _Chunk((loss * weights).sum(), (nll * weights).sum(), exponentials, scale)


def _mean_word(table: jax.Array, vocab_size: int) -> jax.Array:
    is_word = (jnp.arange(table.shape[0]) < vocab_size).astype(jnp.float32)
    return is_word @ table.astype(jnp.float32) / vocab_size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(settings: tuple, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple:
    mean_word = _mean_word(table, settings[0])
    table = table.astype(states.dtype)

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, table, mean_word, chunk)
        return (sums[0] + done.loss, sums[1] + done.nll), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, (zero, zero), (states, labels, weights))[0]


def _chunked_forward(
    settings: tuple, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple:
    """The gradient by a logit is p - (1 - eps) [label] - eps/V: a full part, a sparse part and a constant part.

    Only the full part is a product with a large matrix, the exponentials; its scale is applied to the small side.
    """
    vocab_size, smoothing, _ = settings
    mean_word = _mean_word(table, vocab_size)
    compute_table = table.astype(states.dtype)

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, compute_table, mean_word, chunk)
        scaled = (chunk[0] * done.scale[..., None]).astype(states.dtype)
        exponentials = done.exponentials.astype(states.dtype)
        by_states = jnp.einsum("BTV,VD->BTD", exponentials, compute_table, preferred_element_type=jnp.float32)
        by_table = jnp.einsum("BTD,BTV->DV", scaled, exponentials, preferred_element_type=jnp.float32)
        total = (sums[0] + done.loss, sums[1] + done.nll, sums[2] + by_table)
        return total, by_states * done.scale[..., None]

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jnp.zeros(table.shape[::-1], jnp.float32))
    (loss, nll, by_table), by_states = jax.lax.scan(add, start, (states, labels, weights))
    weighted = states.astype(jnp.float32) * weights[..., None]
    is_word = (jnp.arange(table.shape[0]) < vocab_size).astype(jnp.float32)
    by_states -= weights[..., None] * ((1 - smoothing) * table[labels] + smoothing * mean_word)
    # The barrier: XLA's CPU backend would fold the transpose of a single chunk into the product, and then has no
    # product of bfloat16 into float32.
    by_table = jax.lax.optimization_barrier(by_table).T
    by_table -= smoothing / vocab_size * is_word[:, None] * weighted.sum((0, 1, 2))
    by_table = by_table.at[labels].add(-(1 - smoothing) * weighted)
    return (loss, nll), (by_states.astype(states.dtype), by_table)


def _chunked_backward(settings: tuple, gradients: tuple, cotangents: tuple) -> tuple:
    by_states, by_table = gradients
    scale = cotangents[0]
    return (by_states * scale.astype(by_states.dtype), by_table * scale, None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)
