"""From prompts' ids to the ids that follow, on the device: a batch is started once, then goes on for some words a call.

The state between calls is one tree of arrays, `Writing`. Batches are made by `lmx.writer`, texts by `lmx.generator`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from lmx.decoding import NEVER, DecodeStep
from lmx.nn.masks import MASKED
from lmx.sampling import Choice, Numbers, choose, forbid_repeats, penalise
from lmx.sharding.step import constrain


class Ids(NamedTuple):
    """The special ids of a vocabulary, and how many ids it has: a model may have more, which are no words.

    Attributes:
        more_ends: what ends a text beside `eos`, such as the end of a turn in a chat.
    """

    pad: int
    bos: int
    eos: int
    size: int
    more_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """All that ends a text."""
        return (self.eos, *self.more_ends)

    def is_end(self, word: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Returns whether each word ends its text."""
        found = word == self.eos
        for end in self.more_ends:
            found |= word == end
        return found

    def may_come(self, vocab_size: int, *, is_early: Bool[Array, ""]) -> Bool[Array, " V"]:
        """Returns of each logit whether its word may be written: padding and beginning never, the end not early."""
        words = jnp.arange(vocab_size)
        fits = (words < self.size) & (~self.is_end(words) | ~is_early)
        for never in {self.pad, self.bos} - {*self.ends}:
            fits &= words != never
        return fits


class Prompts(NamedTuple):
    """A batch of prompts.

    Attributes:
        tokens: with padding behind each.
        lengths: of each, at least 1.
        limits: how many tokens each text may have; 0 for rows that are padding.
        draws: what the randomness of a row is made of beside the seed: see `lmx.sampling.row_keys`.
    """

    tokens: Int[Array, "B P"]
    lengths: Int[Array, " B"]
    limits: Int[Array, " B"]
    draws: UInt[Array, "B 3"]


class Writing(NamedTuple):
    """The state of a batch between two calls.

    Attributes:
        time: how many tokens each text that goes on has.
        last: newest token of each row.
        tokens, logprobs: what was written, padding and 0 behind the end; log-probabilities are the model's own.
        ended: whether a text has its end, or as many tokens as it may have.
        seen: words that occur in a prompt or its text, where that matters.
        history: prompts and texts without a gap, where that matters.
        cache: of the decoder.
    """

    time: Int[Array, ""]
    last: Int[Array, " B"]
    tokens: Int[Array, "B T"]
    logprobs: Float[Array, "B T"]
    ended: Bool[Array, " B"]
    seen: Bool[Array, "B V"] | None
    history: Int[Array, "B L"] | None
    cache: Any


def begin(cache: Any, prompts: Prompts, *, slots: int, vocab_size: int, choice: Choice, ids: Ids) -> Writing:
    """Returns the state of a batch of which nothing is written yet.

    Args:
        cache: of the decoder, with the prompts in it.
        slots: how many tokens there is room for.
        vocab_size: of the logits.
    """
    tokens, lengths, limits, _ = prompts
    batch, width = tokens.shape
    rows = jnp.arange(batch)[:, None]
    seen = history = None
    if choice.has_penalty:
        real = jnp.arange(width) < lengths[:, None]
        seen = jnp.zeros((batch, vocab_size), bool).at[rows, tokens].max(real)
    if choice.no_repeat is not None:
        history = jnp.pad(tokens, ((0, 0), (0, slots)))
    return Writing(
        time=jnp.zeros((), jnp.int32),
        last=jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0],
        tokens=jnp.full((batch, slots), ids.pad, jnp.int32),
        logprobs=jnp.zeros((batch, slots), jnp.float32),
        ended=limits < 1,
        seen=seen,
        history=history,
        cache=cache,
    )


def advance(
    step: DecodeStep,
    writing: Writing,
    until: Int[Array, ""],
    prompts: Prompts,
    *,
    keys: Key[Array, " B"],
    choice: Choice,
    numbers: Numbers,
    ids: Ids,
) -> Writing:
    """Goes on until there are enough tokens, or all texts have ended.

    Args:
        step: of the decoder that made the cache.
    """
    batch, slots = writing.tokens.shape
    rows = jnp.arange(batch)

    def going(writing: Writing) -> jax.Array:
        return (writing.time < until) & ~writing.ended.all()

    def write(writing: Writing) -> Writing:
        time, seen, history = writing.time, writing.seen, writing.history
        mask = jnp.broadcast_to(jnp.arange(slots) <= time, (batch, 1, 1, slots))
        positions = jnp.broadcast_to(time, (batch, 1))
        logits, cache = step(writing.last[:, None], writing.cache, time, positions, mask, jnp.arange(slots))
        logits = constrain(logits[:, 0], "batch", None)
        allowed = logits
        if seen is not None:
            allowed = penalise(allowed, seen, numbers.penalty)
        if history is not None and choice.no_repeat is not None:
            allowed = forbid_repeats(allowed, history, prompts.lengths + time, size=choice.no_repeat)
        fits = ids.may_come(logits.shape[-1], is_early=time < numbers.min_tokens)
        allowed = jnp.where(fits, allowed, MASKED)
        word = choose(
            allowed, jax.vmap(lambda key: jax.random.fold_in(key, time))(keys), choice=choice, numbers=numbers
        )
        if history is not None:  # no word may be left, and then the text ends
            score = jnp.take_along_axis(allowed, word[:, None], axis=1)[:, 0]
            word = jnp.where(score <= NEVER / 2, ids.eos, word)
        logprob = jnp.take_along_axis(logits, word[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        word = jnp.where(writing.ended, ids.pad, word)
        logprob = jnp.where(writing.ended, 0.0, logprob)
        if seen is not None:
            seen = seen.at[rows, word].max(~writing.ended)
        if history is not None:
            history = history.at[rows, prompts.lengths + time].set(word)
        return Writing(
            time=time + 1,
            last=word,
            tokens=jax.lax.dynamic_update_slice_in_dim(writing.tokens, word[:, None], time, axis=1),
            logprobs=jax.lax.dynamic_update_slice_in_dim(writing.logprobs, logprob[:, None], time, axis=1),
            ended=writing.ended | ids.is_end(word) | (time + 1 >= prompts.limits),
            seen=seen,
            history=history,
            cache=cache,
        )

    return jax.lax.while_loop(going, write, writing)
