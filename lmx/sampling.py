"""Chooses the next word from logits [B, V]: the settings (`Sampling`), and the pure functions that follow them.

Nothing here knows a model, a cache or a text. Words that may not come have the logit `MASKED`. What a row draws depends
on its own logits and its own key, so that rows do not know of each other.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from lmx.largest import largest
from lmx.nn.masks import MASKED


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to write a text.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest word each time.
        top_k: draws among this many likeliest words; None among all.
        top_p: draws among the fewest likeliest words that together have this probability (Holtzman et al. 2020); of
            those that top_k leaves.
        min_p: draws among words at least this much as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: divides the logits of words that prompt or text have already, or multiplies them where they
            are negative (Keskar et al. 2019); 1 has no effect.
        no_repeat: no sequence of this many tokens occurs twice in prompt and text; None allows all.
        max_tokens: most tokens of a text, with its end token.
        min_tokens: fewest tokens of a text before its end token.
        stop: a text ends where one of these would begin.
        seed: seed of the draws. A prompt gets the same text for a seed, alone or among others.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat: int | None = None
    max_tokens: int = 128
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 1

    def __post_init__(self):
        for name, least in (("top_k", 1), ("no_repeat", 1), ("max_tokens", 1), ("min_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {name}={value}.")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be over 0 and at most 1, got {name}={value}.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 and finite, got temperature={self.temperature}.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"repetition_penalty must be over 0 and finite, got repetition_penalty={self.repetition_penalty}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be at least 0 and below 2^32, got seed={self.seed}.")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop must be a tuple of texts that are not empty, got stop={self.stop!r}.")

    def __str__(self) -> str:
        said = {"top-k": self.top_k, "top-p": self.top_p, "min-p": self.min_p}
        drawn = f"temperature {self.temperature:g}" + "".join(f", {n} {v:g}" for n, v in said.items() if v is not None)
        return f"{drawn}, seed {self.seed}" if self.temperature else "likeliest words"


class Choice(NamedTuple):
    """What of a `Sampling` makes another program; its numbers (`Numbers`) do not."""

    greedy: bool
    top_k: int | None
    has_top_p: bool
    has_min_p: bool
    has_penalty: bool
    no_repeat: int | None


class Numbers(NamedTuple):
    """The numbers of a `Sampling` that a program takes as they come."""

    temperature: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    penalty: jax.Array
    min_tokens: jax.Array


def split(sampling: Sampling) -> tuple[Choice, Numbers]:
    """Returns what a program is made for, and the numbers that it is given."""
    greedy = sampling.temperature == 0
    choice = Choice(
        greedy=greedy,
        top_k=None if greedy else sampling.top_k,
        has_top_p=sampling.top_p not in (None, 1.0) and not greedy,
        has_min_p=sampling.min_p is not None and not greedy,
        has_penalty=sampling.repetition_penalty != 1.0,
        no_repeat=sampling.no_repeat,
    )
    numbers = Numbers(
        temperature=jnp.float32(sampling.temperature or 1.0),
        top_p=jnp.float32(1.0 if sampling.top_p is None else sampling.top_p),
        min_p=jnp.float32(sampling.min_p or 1.0),
        penalty=jnp.float32(sampling.repetition_penalty),
        min_tokens=jnp.int32(sampling.min_tokens),
    )
    return choice, numbers


def row_keys(seed: UInt[Array, ""], draws: UInt[Array, "B 3"]) -> Key[Array, " B"]:
    """Returns a key for each row: of the seed and its three numbers, and of no other row.

    Threefry whatever jax's default is: the bits are the same on any mesh.
    """

    def key(words: jax.Array) -> jax.Array:
        found = jax.random.key(seed, impl="threefry2x32")
        for word in words:
            found = jax.random.fold_in(found, word)
        return found

    return jax.vmap(key)(draws)


def choose(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], *, choice: Choice, numbers: Numbers
) -> Int[Array, " B"]:
    """Returns the next word of each row: the likeliest, or one drawn by temperature, top-k, top-p and min-p.

    Drawn by the largest sum of logit and Gumbel noise: a rounding of the logits changes the word only where two sums
    are as near as the rounding, while in a running sum of probabilities it would move the bounds of all words.
    """
    if choice.greedy:
        return _likeliest(logits)
    words = None
    if choice.top_k is not None:
        logits, words = largest(logits, choice.top_k)
    logits = logits / numbers.temperature
    kept = logits
    if choice.has_top_p:
        kept = keep_top_p(kept, numbers.top_p)
    if choice.has_min_p:
        kept = keep_min_p(kept, numbers.min_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, kept.shape[-1:], jnp.float32))(keys)
    picks = _likeliest(kept + noise)
    return picks if words is None else jnp.take_along_axis(words, picks[:, None], axis=-1)[:, 0]


def _likeliest(logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """Returns the place of the largest, of equal ones the first; `argmax` takes ten times as long on a CPU."""
    return largest(logits, 1)[1][:, 0]


def keep_top_p(logits: Float[Array, "B V"], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Keeps the fewest likeliest words that together have the probability `top_p`; equally likely ones come together.

    The least probability that is kept is found by bisection over the 31 bits of a positive float32, which is exact: a
    pass over the words for each bit takes a small part of the time of a sort on a CPU.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    largest_one = probabilities.max(-1, keepdims=True)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low + 1) // 2
        least = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.where(probabilities >= least, probabilities, 0).sum(-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    bounds = jnp.zeros(largest_one.shape, jnp.int32), jax.lax.bitcast_convert_type(largest_one, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return jnp.where(probabilities >= jax.lax.bitcast_convert_type(low, jnp.float32), logits, MASKED)


def keep_min_p(logits: Float[Array, "B V"], min_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Keeps the words that are at least `min_p` times as likely as the likeliest."""
    return jnp.where(logits >= logits.max(-1, keepdims=True) + jnp.log(min_p), logits, MASKED)


def penalise(logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array, ""]) -> Float[Array, "B V"]:
    """Makes words that were seen less likely: positive logits are divided by the penalty, negative ones multiplied."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_repeats(
    logits: Float[Array, "B V"], history: Int[Array, "B L"], lengths: Int[Array, " B"], *, size: int
) -> Float[Array, "B V"]:
    """Forbids each word that would end a sequence of `size` tokens which the row has already.

    Args:
        history: prompt and text of each row, without a gap, then anything.
        lengths: how many tokens each history has.
    """
    places = jnp.arange(history.shape[1])
    tail = jnp.maximum(lengths[:, None] - size + 1 + jnp.arange(size - 1), 0)
    last = jnp.take_along_axis(history, tail, axis=1)  # the last size - 1 tokens
    ends = (places >= size - 1) & (places < lengths[:, None])
    for back in range(1, size):
        ends &= jnp.roll(history, back, axis=1) == last[:, size - 1 - back, None]
    rows = jnp.arange(history.shape[0])[:, None]
    forbidden = jnp.zeros(logits.shape, bool).at[rows, history].max(ends)
    return jnp.where(forbidden, MASKED, logits)
