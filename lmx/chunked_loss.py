"""The loss of chunks of tokens and its gradient, made in one pass over logits that never exist whole.

`lmx.losses.token_loss` makes the chunks. The gradient by logits leaves out what is no pass over them: the label's part
is a look-up, and that of smoothing a constant.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmx.sharding.step import constrain, parts, sums_in_float32
from lmx.sharding.tables import WORDS


class _Chunk(NamedTuple):
    """What one pass over a chunk's logits leaves: all that loss and gradient need."""

    loss: jax.Array  # [*U]: groups meet after the last chunk
    nll: jax.Array
    by_logits: jax.Array  # [*U, N, V], the one large array: exponentials, or gradients that lack the scale
    scale: jax.Array  # [*U, N], gradient of the loss by log Z, over the sum of the exponentials; or 1


class Settings(NamedTuple):
    """The settings of a loss beside its arrays."""

    vocab_size: int
    smoothing: float
    z_loss: float
    cap: float | None
    grouped: bool  # chunks are [U, N]: a group's tokens live on one device, and its sums stay there to the end
    in_pieces: bool  # a group are several devices: each has a part of the tokens and a part of the words

    @property
    def split_vocab(self) -> bool:
        """Whether devices have other words. Rows of the table are not looked up then: they would be sent, [N, D]."""
        return parts("words" if self.in_pieces else "vocab") > 1

    @property
    def whole_gradient(self) -> bool:
        """Whether all of the gradient is made with the logits: under a cap no part of it is a look-up or a constant."""
        return self.cap is not None

    def meet(self, chunk: tuple) -> tuple:
        """Returns a chunk's arrays [*U, N, ...] with the tokens of all devices of a group on each."""
        if not self.in_pieces:
            return chunk
        return tuple(constrain(x, "replica", *[None] * (x.ndim - 1)) for x in chunk)

    def part(self, x: jax.Array) -> jax.Array:
        """Returns an array [*U, N, ...] with each device's own tokens on it."""
        return constrain(x, "replica", "shard", *[None] * (x.ndim - 2)) if self.in_pieces else x

    def product(self, equation: str) -> str:
        """Returns an einsum equation with each group by itself, where there are groups."""
        if not self.grouped:
            return equation
        terms, _, result = equation.partition("->")
        return ",".join(f"U{term}" for term in terms.split(",")) + f"->U{result}"


def _run_chunk(settings: Settings, words: tuple, mean_word: jax.Array, chunk: tuple) -> _Chunk:
    """Makes one chunk's logits and reads them twice: for their maximum and for their exponentials.

    The label's logit and the mean logit of smoothing are products with single vectors, not passes over logits; but
    under a cap, where logits are no products.
    """
    table, bias = words
    states, labels, weights = settings.meet(chunk)
    is_word = _is_word(table, settings)
    logits = jnp.einsum(settings.product("ND,VD->NV"), states, table, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias
    if settings.cap is not None:
        logits = settings.cap * jnp.tanh(logits / settings.cap)
        slope = 1 - jnp.square(logits / settings.cap)
        mean_logit = (logits * is_word).sum(-1) / settings.vocab_size
    logits = logits + jnp.where(is_word > 0, 0.0, -1e30)
    largest = jax.lax.stop_gradient(logits.max(-1))
    exponentials = jnp.exp(logits - largest[..., None])
    normaliser = exponentials.sum(-1)
    log_z = largest + jnp.log(normaliser)
    states = states.astype(jnp.float32)
    is_label = None
    if settings.split_vocab or settings.whole_gradient:
        is_label = jnp.arange(table.shape[-2]) == labels[..., None]
        nll = log_z - jnp.where(is_label, logits, 0.0).sum(-1)
    else:
        nll = log_z - (states * _rows(settings, table, labels)).sum(-1)
        nll = nll if bias is None else nll - bias[labels]
    if settings.cap is None:
        mean_logit = jnp.einsum(settings.product("ND,D->N"), states, mean_word)
        mean_logit = mean_logit if bias is None else mean_logit + bias.sum() / settings.vocab_size
    smooth = log_z - mean_logit
    loss = (1 - settings.smoothing) * nll + settings.smoothing * smooth + settings.z_loss * jnp.square(log_z)
    scale = weights * (1 + 2 * settings.z_loss * log_z) / normaliser
    if is_label is not None:
        sparse = jnp.where(is_label, (1 - settings.smoothing) * weights[..., None], 0.0)
        exponentials, scale = exponentials * scale[..., None] - sparse, jnp.ones_like(scale)
    if settings.cap is not None:
        constant = settings.smoothing / settings.vocab_size * weights
        exponentials = (exponentials - constant[..., None] * is_word) * slope
    return _Chunk((loss * weights).sum(-1), (nll * weights).sum(-1), exponentials, scale)


def _rows(settings: Settings, table: jax.Array, labels: jax.Array) -> jax.Array:
    look_up = lambda table, labels: table[labels]  # noqa: E731
    return (jax.vmap(look_up) if settings.grouped else look_up)(table, labels)


def _is_word(table: jax.Array, settings: Settings) -> jax.Array:
    return (jnp.arange(table.shape[-2]) < settings.vocab_size).astype(jnp.float32)


def _mean_word(table: jax.Array, settings: Settings) -> jax.Array:
    return jnp.einsum("V,...VD->...D", _is_word(table, settings), table.astype(jnp.float32)) / settings.vocab_size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked_loss(
    settings: Settings, states: jax.Array, output: tuple, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and the negative log-likelihood, summed over chunks [C, *U, N, ...].

    Args:
        output: the table, and the bias of its rows or None.
    """
    table, bias = output
    table = table.astype(states.dtype)
    mean_word = _mean_word(table, settings)

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, (table, bias), mean_word, chunk)
        return (sums[0] + done.loss, sums[1] + done.nll), None

    zero = jnp.zeros(states.shape[1:-2], jnp.float32)
    loss, nll = jax.lax.scan(add, (zero, zero), (states, labels, weights))[0]
    return loss.sum(), nll.sum()


def _chunked_forward(
    settings: Settings, states: jax.Array, output: tuple, labels: jax.Array, weights: jax.Array
) -> tuple:
    """The gradient by a logit is p - (1 - eps) [label] - eps/V: a full part, a sparse part and a constant part.

    Only the full part is a product with a large matrix, the exponentials; its scale is applied to the small side.
    """
    smoothing = settings.smoothing
    table, bias = output
    words = table.astype(states.dtype)
    mean_word = _mean_word(words, settings)
    by_table_of = settings.product("ND,NV->DV")
    # Over a split vocabulary it is summed over devices. What is sent is in the compute type, over `tensor`: the many
    # devices that share a table in pieces would lose too much so.
    narrow = settings.split_vocab and not (settings.in_pieces and sums_in_float32(states.dtype))
    by_states_type = states.dtype if narrow else jnp.float32

    def add(sums: tuple, chunk: tuple) -> tuple:
        done = _run_chunk(settings, (words, bias), mean_word, chunk)
        met = settings.meet(chunk)[0]
        scaled = (met * done.scale[..., None]).astype(states.dtype)
        by_logits = done.by_logits.astype(states.dtype)
        by_states = jnp.einsum(settings.product("NV,VD->ND"), by_logits, words, preferred_element_type=by_states_type)
        by_table = jnp.einsum(by_table_of, scaled, by_logits, preferred_element_type=jnp.float32)
        total = (sums[0] + done.loss, sums[1] + done.nll, sums[2] + by_table)
        if bias is not None:
            by_bias = jnp.einsum(settings.product("N,NV->V"), done.scale, done.by_logits)
            total = (*total, sums[3] + by_bias)
        return total, settings.part(by_states * done.scale[..., None])

    zero = jnp.zeros(states.shape[1:-2], jnp.float32)
    by_table = jnp.zeros((*table.shape[:-2], table.shape[-1], table.shape[-2]), jnp.float32)
    if settings.grouped:
        by_table = constrain(
            by_table, *(("replica", None, "words") if settings.in_pieces else ("group", None, "vocab"))
        )
    by_bias = () if bias is None else (jnp.zeros((*by_table.shape[:-2], by_table.shape[-1]), jnp.float32),)
    sums, by_states = jax.lax.scan(add, (zero, zero, by_table, *by_bias), (states, labels, weights))
    loss, nll, by_table, *by_bias = sums
    weighted = states.astype(jnp.float32) * weights[..., None]
    mean_word = mean_word[:, None] if settings.grouped else mean_word
    if not settings.whole_gradient:
        by_states -= weights[..., None] * smoothing * mean_word
    # The barrier: XLA's CPU backend would fold the transpose of a single chunk into the product, and then has no
    # product of bfloat16 into float32.
    by_table = jax.lax.optimization_barrier(by_table).swapaxes(-1, -2)
    look_up = not (settings.split_vocab or settings.whole_gradient)
    if look_up:
        looked_up = jax.vmap(lambda labels: _rows(settings, words, labels))(labels)
        by_states -= weights[..., None] * (1 - smoothing) * looked_up.astype(jnp.float32)
        add_rows = lambda total, rows, values: total.at[rows].add(values)  # noqa: E731
        add_rows = jax.vmap(add_rows, in_axes=(0, 1, 1)) if settings.grouped else add_rows
        by_table = add_rows(by_table, labels, -(1 - smoothing) * weighted)
    if not settings.whole_gradient:
        constant = smoothing / settings.vocab_size * weighted.sum((0, -2))
        by_table -= jnp.einsum("V,...D->...VD", _is_word(table, settings), constant)
    by_table = by_table.astype(table.dtype)
    if settings.in_pieces:  # said again: else it would be sent before it is rounded
        by_table = constrain(by_table, "replica", *WORDS)
    of_bias = None
    if bias is not None:
        of_bias = by_bias[0].sum(0) if settings.grouped else by_bias[0]
        if look_up:
            of_bias = of_bias.at[labels].add(-(1 - smoothing) * weights)
        if not settings.whole_gradient:
            of_bias -= smoothing / settings.vocab_size * weights.sum() * _is_word(table, settings)
    return (loss.sum(), nll.sum()), (by_states.astype(states.dtype), by_table, of_bias)


def _chunked_backward(settings: Settings, gradients: tuple, cotangents: tuple) -> tuple:
    by_states, by_table, by_bias = gradients
    scale = cotangents[0]
    by_output = by_table * scale.astype(by_table.dtype), None if by_bias is None else by_bias * scale
    return by_states * scale.astype(by_states.dtype), by_output, None, None


chunked_loss.defvjp(_chunked_forward, _chunked_backward)
