"""From ids to ids: greedy and beam search over a key/value cache.

This module knows no model class. A model provides `step` and `cache` (see `Seq2Seq.start_decoding`): `step` writes some
new tokens into slots of the cache and lets each look at the slots its mask allows. A beam is then a matter of the mask
alone: the W beams of a sentence are W query positions, each sees its own ancestors, and no cache is ever reordered.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmx.largest import blocks, largest

# (tokens [B W], cache, offset, positions [B W], mask [B 1 W slots], places [slots]) -> (logits [B W V], cache). The
# places are the positions of the tokens in the slots: those of other beams hold tokens too.
DecodeStep = Callable[..., tuple[jax.Array, Any]]
# length of a hypothesis, its end token included -> what its log-probability is divided by
LengthPenalty = Callable[[jax.Array], jax.Array]

NEVER = -1e30  # the score of what must not be chosen


class SpecialIds(NamedTuple):
    """The tokens that are no words: padding, what a text begins with, and what it ends with."""

    pad: int
    bos: int
    eos: int


class Hypotheses(NamedTuple):
    """Finished translations, best first: tokens (the end token last, then padding) and their penalised scores."""

    tokens: Int[Array, "B W T"]
    scores: Float[Array, "B W"]


def power_penalty(alpha: float) -> LengthPenalty:
    """Divides log-probabilities by length^alpha (fairseq, Hugging Face, CTranslate2); 0 is no penalty, 1 the mean."""
    return lambda length: length.astype(jnp.float32) ** alpha


def gnmt_penalty(alpha: float) -> LengthPenalty:
    """Divides log-probabilities by ((5 + length) / 6)^alpha (Wu et al. 2016, equation 14; Vaswani's 0.6)."""
    return lambda length: ((5.0 + length.astype(jnp.float32)) / 6.0) ** alpha


def average_steps(started: Sequence[tuple[DecodeStep, Any]]) -> tuple[DecodeStep, Any]:
    """Returns `(step, cache)` of an ensemble: its logits are the logarithms of the mean of its members' probabilities.

    Args:
        started: `(step, cache)` of each; one alone is returned as it is.
    """
    if len(started) == 1:
        return started[0]
    steps, caches = zip(*started, strict=True)

    def step(tokens: Int[Array, "B W"], cache: tuple, *place: Any) -> tuple[Float[Array, "B W V"], tuple]:
        found = [each(tokens, part, *place) for each, part in zip(steps, cache, strict=True)]
        logs = jnp.stack([jax.nn.log_softmax(logits) for logits, _ in found])
        return jax.nn.logsumexp(logs, axis=0) - math.log(len(found)), tuple(part for _, part in found)

    return step, caches


def greedy_search(
    step: DecodeStep,
    cache: Any,
    *,
    active: Bool[Array, "B"],
    max_length: int,
    min_length: int = 1,
    ids: SpecialIds,
) -> Int[Array, "B T"]:
    """Takes the likeliest word at each place until the end token; as the last of `max_length` tokens it is forced.

    Args:
        active: False for rows that are padding; they are not decoded.
        min_length: fewest words before the end token, unless `max_length` has no room for them (fairseq's `min_len`).
    """
    batch = active.shape[0]
    early_id = ids.eos if min_length else None

    def going(state: tuple) -> jax.Array:
        time, _, _, ended, _ = state
        return (time < max_length) & ~ended.all()

    def advance(state: tuple) -> tuple:
        time, last, tokens, ended, cache = state
        mask = jnp.broadcast_to(jnp.arange(max_length) <= time, (batch, 1, 1, max_length))
        positions = jnp.broadcast_to(time, (batch, 1))
        logits, cache = step(last[:, None], cache, time, positions, mask, jnp.arange(max_length))
        forbidden = _Forbidden((ids.pad, ids.bos), early_id, time < min_length)
        values, words, _ = _choices(logits[:, 0], 1, forbidden=forbidden)
        word = jnp.take_along_axis(words, values.argmax(-1, keepdims=True), axis=-1)[:, 0]
        word = jnp.where(time == max_length - 1, ids.eos, word)
        word = jnp.where(ended, ids.pad, word)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, word[:, None], time, axis=1)
        return time + 1, word, tokens, ended | (word == ids.eos), cache

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full(batch, ids.bos, jnp.int32),
        jnp.full((batch, max_length), ids.pad, jnp.int32),
        ~active,
        cache,
    )
    return jax.lax.while_loop(going, advance, start)[2]


def beam_search(
    step: DecodeStep,
    cache: Any,
    *,
    active: Bool[Array, "B"],
    beam_size: int,
    max_length: int,
    length_penalty: LengthPenalty,
    min_length: int = 1,
    ids: SpecialIds,
) -> Hypotheses:
    """Keeps the `beam_size` likeliest beginnings of each sentence, and its best ended hypotheses.

    Each turn looks at the 2W best continuations. Those among the first W that end are finished hypotheses; the best W
    that do not end go on. A sentence is done when W hypotheses have ended, and the search when all sentences are; at
    `max_length` tokens, the end token included, it is forced (fairseq's search).

    Args:
        cache: with room for max_length x beam_size slots; slot t * W + w is the token of beam w at time t.
        active: False for rows that are padding; they are not decoded.
        min_length: fewest words before the end token, unless `max_length` has no room for them (fairseq's `min_len`).
    """
    batch, width = active.shape[0], beam_size
    early_id = ids.eos if min_length else None
    slots = jnp.arange(max_length)

    def going(state: _Search) -> jax.Array:
        return (state.time < max_length) & ~state.done.all()

    def advance(state: _Search) -> _Search:
        time = state.time
        ancestors = jnp.where(slots == time, jnp.arange(width)[None, :, None], state.ancestors)
        own = ancestors[..., None] == jnp.arange(width)  # [B, W, T, W]: slot (t, w) is an ancestor
        mask = (own & (slots <= time)[:, None]).reshape(batch, 1, width, max_length * width)
        positions = jnp.broadcast_to(time, (batch, width))
        places = jnp.arange(max_length * width) // width
        logits, cache = step(state.last, state.cache, time * width, positions, mask, places)

        # The best 2W of each beam, then of the sentence.
        forbidden = _Forbidden((ids.pad, ids.bos), early_id, time < min_length)
        best, words, highest = _choices(logits, 2 * width, forbidden=forbidden)
        # Summed in the same blocks: read in two shapes, masked logits would be written twice by XLA's CPU backend.
        log_z = highest + jnp.log(jnp.exp(blocks(logits) - highest[..., None, None]).sum((-2, -1)))
        is_last, rank = time == max_length - 1, jnp.arange(best.shape[-1])
        end = jnp.where(rank == 0, logits[..., ids.eos, None], NEVER)
        best, words = jnp.where(is_last, end, best), jnp.where(is_last, ids.eos, words)
        totals = (state.scores[..., None] + best - log_z[..., None]).reshape(batch, -1)
        totals, picks = jax.lax.top_k(totals, 2 * width)
        parents = picks // best.shape[-1]
        words = jnp.take_along_axis(words.reshape(batch, -1), picks, axis=1)
        history = _of_beams(state.history, parents).at[:, :, time].set(words)
        ends = words == ids.eos

        # Ended hypotheses compete with those ended before.
        finishing = ends & (jnp.arange(2 * width) < width) & ~state.done[:, None] & (totals > NEVER / 2)
        penalised = jnp.where(finishing, totals / length_penalty(time + 1), NEVER)
        finished_scores, order = jax.lax.top_k(jnp.concatenate([state.finished_scores, penalised], axis=1), width)
        finished = _of_beams(jnp.concatenate([state.finished, history], axis=1), order)
        count = state.count + finishing.sum(-1)

        # The best that have not ended go on.
        scores, order = jax.lax.top_k(jnp.where(ends, NEVER, totals), width)
        parents = jnp.take_along_axis(parents, order, axis=1)
        return _Search(
            time=time + 1,
            last=jnp.take_along_axis(words, order, axis=1),
            scores=scores,
            history=_of_beams(history, order),
            ancestors=_of_beams(ancestors, parents),
            finished=finished,
            finished_scores=finished_scores,
            count=count,
            done=state.done | (count >= width),
            cache=cache,
        )

    shape = (batch, width, max_length)
    start = _Search(
        time=jnp.zeros((), jnp.int32),
        last=jnp.full((batch, width), ids.bos, jnp.int32),
        scores=jnp.where(jnp.arange(width) == 0, 0.0, NEVER) * jnp.ones((batch, 1)),
        history=jnp.full(shape, ids.pad, jnp.int32),
        ancestors=jnp.zeros(shape, jnp.int32),
        finished=jnp.full(shape, ids.pad, jnp.int32),
        finished_scores=jnp.full((batch, width), NEVER),
        count=jnp.zeros(batch, jnp.int32),
        done=~active,
        cache=cache,
    )
    end = jax.lax.while_loop(going, advance, start)
    return Hypotheses(end.finished, end.finished_scores)


class _Search(NamedTuple):
    """The state of a beam search between two turns."""

    time: jax.Array
    last: jax.Array  # [B, W] newest word of each beam
    scores: jax.Array  # [B, W] log-probabilities
    history: jax.Array  # [B, W, T] words
    ancestors: jax.Array  # [B, W, T] which beam's slot holds the word at each time
    finished: jax.Array  # [B, W, T]
    finished_scores: jax.Array  # [B, W] penalised
    count: jax.Array  # [B] hypotheses ended
    done: jax.Array  # [B]
    cache: Any


class _Forbidden(NamedTuple):
    """Words that must not be chosen: some never, and the end token, if it is named, not while it is early."""

    always: tuple[int, ...]
    early_id: int | None
    is_early: jax.Array


def _choices(
    logits: Float[Array, "*B V"], k: int, *, forbidden: _Forbidden
) -> tuple[Float[Array, "*B _"], Int[Array, "*B _"], Float[Array, "*B"]]:
    """Returns (values, words) of which the best k are the k likeliest words allowed, and the largest of all logits.

    So many more are taken as words are forbidden, and those are struck afterwards: masking the logits themselves would
    be a pass over the whole vocabulary.
    """
    always, early_id, is_early = forbidden
    values, words = largest(logits, k + len(always) + (early_id is not None))
    struck = (words[..., None] == jnp.asarray(always)).any(-1)
    if early_id is not None:
        struck |= (words == early_id) & is_early
    return jnp.where(struck, NEVER, values), words, values.max(-1)


def _of_beams(x: jax.Array, beams: jax.Array) -> jax.Array:
    """Returns the rows [B, N, T] of the named beams."""
    return jnp.take_along_axis(x, beams[..., None], axis=1)
