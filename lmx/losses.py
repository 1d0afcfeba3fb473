"""Losses as sums over the tokens that count, with the counts beside them.

Sums, not means: a step divides by all the tokens of an update, so that accumulation and sharding cannot change what a
token weighs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmx.sharding import constrain, gather, parts, scatter

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
    backward pass costs no second product. On a mesh, each device chunks its own tokens; the sums meet once, at the end.

    Smoothing gives every word of the vocabulary eps/V (Szegedy et al. 2016, as fairseq 0.9 has it; later fairseq
    gives eps/(V-1) to the others).

    Args:
        states: in the compute type; logits are float32.
        vocab_size: rows of the table that are words; the rest is padding and has no probability.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (Chowdhery et al. 2022, section 5).
    """
    rows, columns = parts("batch"), parts("length")
    grouped = rows * columns > 1
    batch, length = states.shape[0] // rows, states.shape[1] // columns
    chunks = _number_of_chunks(batch, length, chunk_tokens)

    def split(x: jax.Array) -> jax.Array:
        rest = x.shape[2:]
        if not grouped:
            return jnp.moveaxis(x.reshape(batch // chunks, chunks, length, *rest), 1, 0)
        x = x.reshape(rows, batch // chunks, chunks, columns, length, *rest)
        x = jnp.transpose(x, (2, 0, 3, 1, 4, *range(5, x.ndim)))
        x = x.reshape(chunks, rows * columns, batch // chunks, length, *rest)
        return constrain(x, None, "group", *[None] * (x.ndim - 2))

    with jax.named_scope("loss"):
        loss, nll = _chunked(  # pyright: ignore[reportGeneralTypeIssues]
            _Settings(vocab_size, label_smoothing, z_loss, grouped, parts("vocab") > 1),
            split(states),
            table,
            split(labels),
            split(weights.astype(jnp.float32)),
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
    by_logits: jax.Array  # [*G, B, T, V], the one large array: exponentials, or gradients that lack the scale
    scale: jax.Array  # [*G, B, T], gradient of the loss by log Z, over the sum of the exponentials; or 1


class _Settings(NamedTuple):
    vocab_size: int
    smoothing: float
    z_loss: float
    grouped: bool  # chunks are [G, B, T]: a group's tokens live on one device, and its sums stay there to the end
    split_vocab: bool  # rows of the table are not looked up then: they would be sent, [B, T, D]


def _run_chunk(settings: _Settings, table: jax.Array, mean_word: jax.Array, chunk: tuple) -> _Chunk:
    """Makes one chunk's logits and reads them twice: for their maximum and for their exponentials.

    The label's logit and the mean logit of smoothing are products with single vectors, not passes over logits.
    """
    states, labels, weights = chunk
    is_padding = jnp.where(jnp.arange(table.shape[0]) < settings.vocab_size, 0.0, -1e30)
    logits = jnp.einsum("...TD,VD->...TV", states, table, preferred_element_type=jnp.float32) + is_padding
    largest = jax.lax.stop_gradient(logits.max(-1))
    exponentials = jnp.exp(logits - largest[..., None])
    normaliser = exponentials.sum(-1)
    log_z = largest + jnp.log(normaliser)
    states = states.astype(jnp.float32)
    is_label = jnp.arange(table.shape[0]) == labels[..., None] if settings.split_vocab else None
    if is_label is None:
        nll = log_z - (states * table[labels]).sum(-1)
    else:
        nll = log_z - jnp.where(is_label, logits, 0.0).sum(-1)
    smooth = log_z - states @ mean_word
    loss = (1 - settings.smoothing) * nll + settings.smoothing * smooth + settings.z_loss * jnp.square(log_z)
    scale = weights * (1 + 2 * settings.z_loss * log_z) / normaliser
    if is_label is not None:
        sparse = jnp.where(is_label, (1 - settings.smoothing) * weights[..., None], 0.0)
        exponentials, scale = exponentials * scale[..., None] - sparse, jnp.ones_like(scale)
    return _Chunk((loss * weights).sum(), (nll * weights).sum(), exponentials, scale)


def _is_word(table: jax.Array, settings: _Settings) -> jax.Array:
    return (jnp.arange(table.shape[0]) < settings.vocab_size).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
    settings: _Settings, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    table = gather(table.astype(states.dtype), "vocab", "embed")
    mean_word = _is_word(table, settings) @ table.astype(jnp.float32) / settings.vocab_size

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, table, mean_word, chunk)
        return (sums[0] + done.loss, sums[1] + done.nll), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, (zero, zero), (states, labels, weights))[0]


def _chunked_forward(
    settings: _Settings, states: jax.Array, table: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple:
    """The gradient by a logit is p - (1 - eps) [label] - eps/V: a full part, a sparse part and a constant part.

    Only the full part is a product with a large matrix, the exponentials; its scale is applied to the small side.
    """
    smoothing = settings.smoothing
    words = gather(table.astype(states.dtype), "vocab", "embed")
    mean_word = _is_word(table, settings) @ words.astype(jnp.float32) / settings.vocab_size
    by_table_of = "GBTD,GBTV->GDV" if settings.grouped else "BTD,BTV->DV"
    group = "group" if settings.grouped else None
    # Over a split vocabulary it is summed over devices: what is sent is in the compute type.
    by_states_type = states.dtype if settings.split_vocab else jnp.float32

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, words, mean_word, chunk)
        scaled = (chunk[0] * done.scale[..., None]).astype(states.dtype)
        by_logits = done.by_logits.astype(states.dtype)
        by_states = jnp.einsum("...TV,VD->...TD", by_logits, words, preferred_element_type=by_states_type)
        by_table = jnp.einsum(by_table_of, scaled, by_logits, preferred_element_type=jnp.float32)
        total = (sums[0] + done.loss, sums[1] + done.nll, sums[2] + by_table)
        return total, by_states * done.scale[..., None]

    zero = jnp.zeros((), jnp.float32)
    lead = states.shape[1:-3]
    by_table = constrain(jnp.zeros((*lead, *table.shape[::-1]), jnp.float32), *[group] * len(lead), None, "vocab")
    (loss, nll, by_table), by_states = jax.lax.scan(add, (zero, zero, by_table), (states, labels, weights))
    weighted = states.astype(jnp.float32) * weights[..., None]
    by_states -= weights[..., None] * smoothing * mean_word
    if not settings.split_vocab:
        by_states -= weights[..., None] * (1 - smoothing) * words[labels].astype(jnp.float32)
    # The barrier: XLA's CPU backend would fold the transpose of a single chunk into the product, and then has no
    # product of bfloat16 into float32.
    by_table = jax.lax.optimization_barrier(by_table).swapaxes(-1, -2)
    constant = smoothing / settings.vocab_size * weighted.sum(tuple(range(weighted.ndim - 1)))
    if not settings.split_vocab:
        add_rows = lambda total, rows, values: total.at[rows].add(values)  # noqa: E731
        add_rows = jax.vmap(add_rows, in_axes=(0, 1, 1)) if settings.grouped else add_rows
        by_table = add_rows(by_table, labels, -(1 - smoothing) * weighted)
    if settings.grouped:
        by_table = constrain(by_table, "group", "vocab", "embed").sum(0)
    by_table = scatter(by_table, "vocab", "embed")
    by_table -= _is_word(table, settings)[:, None] * constant
    return (loss, nll), (by_states.astype(states.dtype), by_table)


def _chunked_backward(settings: _Settings, gradients: tuple, cotangents: tuple) -> tuple:
    by_states, by_table = gradients
    scale = cotangents[0]
    return (by_states * scale.astype(by_states.dtype), by_table * scale, None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)
