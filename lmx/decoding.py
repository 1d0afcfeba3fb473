"""From ids to ids: greedy and beam search, and drawing, over a key/value cache.

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

from lmx.constraints import FREE, Rules, constrain, forced_word
from lmx.largest import blocks, largest
from lmx.nn.masks import MASKED

# (tokens [B W], cache, offset, positions [B W], mask [B 1 W slots], places [slots]) -> (logits [B W V], cache). The
# places are the positions of the tokens in the slots: those of other beams hold tokens too.
DecodeStep = Callable[..., tuple[jax.Array, Any]]
# length of a hypothesis, its end token included -> what its log-probability is divided by
LengthPenalty = Callable[[jax.Array], jax.Array]
# (logits [B V], time) -> words [B]
Draw = Callable[[jax.Array, jax.Array], jax.Array]

NEVER = MASKED  # the score of what must not be chosen
DEFAULT_RULES = Rules()


class SpecialIds(NamedTuple):
    """The tokens that are no words: padding, what a text begins with, and what it ends with."""

    pad: int
    bos: int
    eos: int

    @property
    def never(self) -> tuple[int, ...]:
        """Those that no text holds. Some models start from the padding (T5, Marian), some from the end (BART)."""
        return tuple(each for each in dict.fromkeys((self.pad, self.bos)) if each != self.eos)


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
        return mean_of_members([logits for logits, _ in found]), tuple(part for _, part in found)

    return step, caches


def mean_of_members(logits: Sequence[Float[Array, "*B V"]]) -> Float[Array, "*B V"]:
    """Returns the logarithms of the mean of the members' probabilities; the logits of one alone as they are."""
    if len(logits) == 1:
        return logits[0]
    logs = jnp.stack([jax.nn.log_softmax(each) for each in logits])
    return jax.nn.logsumexp(logs, axis=0) - math.log(len(logits))


def greedy_search(
    step: DecodeStep,
    cache: Any,
    *,
    active: Bool[Array, "B"],
    max_length: int,
    ids: SpecialIds,
    rules: Rules = DEFAULT_RULES,
) -> Int[Array, "B T"]:
    """Takes the likeliest word at each place until the end token; as the last of `max_length` tokens it is forced.

    Args:
        active: False for rows that are padding; they are not decoded.
    """

    def take(logits: jax.Array, time: jax.Array) -> jax.Array:
        forbidden = _Forbidden(ids.never, ids.eos if rules.min_length else None, time < rules.min_length)
        values, words, _ = _choices(logits, 1, forbidden=forbidden)
        return jnp.take_along_axis(words, values.argmax(-1, keepdims=True), axis=-1)[:, 0]

    settings = {"active": active, "max_length": max_length, "ids": ids, "rules": rules}
    return _word_by_word(step, cache, take, is_scored=False, **settings)[0]


def sample(
    step: DecodeStep,
    cache: Any,
    *,
    draw: Draw,
    active: Bool[Array, "B"],
    max_length: int,
    ids: SpecialIds,
    rules: Rules = DEFAULT_RULES,
) -> tuple[Int[Array, "B T"], Float[Array, " B"]]:
    """Draws a word at each place until the end token; returns the words and the log-probabilities of the model.

    Args:
        draw: takes logits, those of words that must not come `MASKED`.
        active: False for rows that are padding; they are not decoded.
    """

    def take(logits: jax.Array, time: jax.Array) -> jax.Array:
        words = jnp.arange(logits.shape[-1])
        struck = jnp.isin(words, jnp.asarray(ids.never)) | ((words == ids.eos) & (time < rules.min_length))
        return draw(jnp.where(struck, NEVER, logits), time)

    settings = {"active": active, "max_length": max_length, "ids": ids, "rules": rules}
    return _word_by_word(step, cache, take, is_scored=True, **settings)


def _word_by_word(
    step: DecodeStep,
    cache: Any,
    take: Draw,
    *,
    is_scored: bool,
    active: Bool[Array, "B"],
    max_length: int,
    ids: SpecialIds,
    rules: Rules,
) -> tuple[Int[Array, "B T"], Any]:
    """Returns words, one taken at each place, and the sum of their log-probabilities if they are scored."""
    batch = active.shape[0]

    def going(state: tuple) -> jax.Array:
        time, _, _, ended, _, _ = state
        return (time < max_length) & ~ended.all()

    def advance(state: tuple) -> tuple:
        time, last, tokens, ended, cache, total = state
        mask = jnp.broadcast_to(jnp.arange(max_length) <= time, (batch, 1, 1, max_length))
        positions = jnp.broadcast_to(time, (batch, 1))
        logits, cache = step(last[:, None], cache, time, positions, mask, jnp.arange(max_length))
        allowed = logits
        if rules.has_constraints:
            allowed = constrain(logits, tokens[:, None], time, start_id=ids.bos, rules=rules)
        word = take(allowed[:, 0], time)
        if rules.has_constraints:  # they may leave nothing
            score = jnp.take_along_axis(allowed[:, 0], word[:, None], axis=1)[:, 0]
            word = jnp.where((score <= NEVER / 2) | jnp.isin(word, jnp.asarray(ids.never)), ids.eos, word)
        if rules.forced_eos != "none":
            word = jnp.where(time == max_length - 1, ids.eos, word)
        if is_scored:
            logprob = jnp.take_along_axis(logits[:, 0], word[:, None], axis=1)[:, 0]
            logprob -= jax.nn.logsumexp(logits[:, 0], axis=-1)
            is_free = ended if rules.forced is None else ended | (forced_word(rules.forced, time) != FREE)
            is_free |= (time == max_length - 1) & (rules.forced_eos == "free")
            total = total + jnp.where(is_free, 0.0, logprob)
        word = jnp.where(ended, ids.pad, word)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, word[:, None], time, axis=1)
        return time + 1, word, tokens, ended | (word == ids.eos), cache, total

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full(batch, ids.bos, jnp.int32),
        jnp.full((batch, max_length), ids.pad, jnp.int32),
        ~active,
        cache,
        jnp.zeros(batch) if is_scored else None,
    )
    _, _, tokens, _, _, total = jax.lax.while_loop(going, advance, start)
    return tokens, total


def beam_search(
    step: DecodeStep,
    cache: Any,
    *,
    active: Bool[Array, "B"],
    beam_size: int,
    max_length: int,
    length_penalty: LengthPenalty,
    ids: SpecialIds,
    rules: Rules = DEFAULT_RULES,
) -> Hypotheses:
    """Keeps the `beam_size` likeliest beginnings of each sentence, and its best ended hypotheses.

    Each turn looks at the 2W best continuations. Those among the first W that end are finished hypotheses; the best W
    that do not end go on. A sentence is done when W hypotheses have ended (`Rules.early_stopping` has other rules), and
    the search when all sentences are; at `max_length` tokens, the end token included, it is forced (fairseq's search).

    Args:
        cache: with room for max_length x beam_size slots; slot t * W + w is the token of beam w at time t.
        active: False for rows that are padding; they are not decoded.
    """
    batch, width = active.shape[0], beam_size
    early_id = ids.eos if rules.min_length else None
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
        forbidden = _Forbidden(ids.never, early_id, time < rules.min_length)
        if rules.has_constraints:
            logs = jax.nn.log_softmax(logits)
            given = constrain(logs, state.history, time, start_id=ids.bos, rules=rules)
            best, words, _ = _choices(given, 2 * width, forbidden=forbidden)
            ending, log_z = logs[..., ids.eos, None], jnp.zeros((batch, width))
        else:
            given, ending = logits, logits[..., ids.eos, None]
            best, words, highest = _choices(logits, 2 * width, forbidden=forbidden)
            # Summed in the same blocks: read in two shapes, masked logits would be written twice by XLA's CPU backend.
            log_z = highest + jnp.log(jnp.exp(blocks(logits) - highest[..., None, None]).sum((-2, -1)))
        if rules.renormalised:
            log_z = _log_sum(given, best.max(-1), forbidden=forbidden)
        is_last, rank = time == max_length - 1, jnp.arange(best.shape[-1])
        if rules.forced_eos != "none":
            end = jnp.where(rank == 0, log_z[..., None] if rules.forced_eos == "free" else ending, NEVER)
            best, words = jnp.where(is_last, end, best), jnp.where(is_last, ids.eos, words)
        totals = (state.scores[..., None] + best - log_z[..., None]).reshape(batch, -1)
        totals, picks = jax.lax.top_k(totals, 2 * width)
        parents = picks // best.shape[-1]
        words = jnp.take_along_axis(words.reshape(batch, -1), picks, axis=1)
        history = _of_beams(state.history, parents).at[:, :, time].set(words)
        ends = words == ids.eos
        if rules.forced_eos == "none":
            ends |= is_last

        # Ended hypotheses compete with those ended before.
        finishing = ends & (jnp.arange(2 * width) < width) & ~state.done[:, None] & (totals > NEVER / 2)
        penalised = jnp.where(finishing, totals / length_penalty(time + 1), NEVER)
        finished_scores, order = jax.lax.top_k(jnp.concatenate([state.finished_scores, penalised], axis=1), width)
        finished = _of_beams(jnp.concatenate([state.finished, history], axis=1), order)
        count = state.count + finishing.sum(-1)

        # The best that have not ended go on.
        scores, order = jax.lax.top_k(jnp.where(ends, NEVER, totals), width)
        parents = jnp.take_along_axis(parents, order, axis=1)
        is_full = count >= width
        if rules.early_stopping != "true":
            hope = scores[:, 0] / length_penalty(time + 1)
            if rules.early_stopping == "never":
                hope = jnp.maximum(hope, scores[:, 0] / length_penalty(jnp.asarray(max_length)))
            is_full &= hope <= finished_scores[:, -1]
        return _Search(
            time=time + 1,
            last=jnp.take_along_axis(words, order, axis=1),
            scores=scores,
            history=_of_beams(history, order),
            ancestors=_of_beams(ancestors, parents),
            finished=finished,
            finished_scores=finished_scores,
            count=count,
            done=state.done | is_full,
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
    always, early_id, _ = forbidden
    values, words = largest(logits, k + len(always) + (early_id is not None))
    return jnp.where(_struck(words, forbidden), NEVER, values), words, values.max(-1)


def _struck(words: Int[Array, "*B"], forbidden: _Forbidden) -> Bool[Array, "*B"]:
    """Returns which words must not be chosen."""
    always, early_id, is_early = forbidden
    struck = (words[..., None] == jnp.asarray(always)).any(-1)
    return struck if early_id is None else struck | (words == early_id) & is_early


def _log_sum(logits: Float[Array, "*B V"], highest: Float[Array, "*B"], *, forbidden: _Forbidden) -> Float[Array, "*B"]:
    """Returns the logarithm of the sum of the words allowed, of which the highest is given; 0 where there is none."""
    in_blocks = blocks(logits)
    struck = _struck(jnp.arange(logits.shape[-1]).reshape(in_blocks.shape[-2:]), forbidden)
    counted = jnp.where(struck, NEVER, in_blocks) - highest[..., None, None]
    return jnp.where(highest > NEVER / 2, highest + jnp.log(jnp.exp(counted).sum((-2, -1))), 0.0)


def _of_beams(x: jax.Array, beams: jax.Array) -> jax.Array:
    """Returns the rows [B, N, T] of the named beams."""
    return jnp.take_along_axis(x, beams[..., None], axis=1)
