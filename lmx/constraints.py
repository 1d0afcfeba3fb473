"""What a search may choose beside what the model finds likely, and when it ends: `Rules`, and the function of them.

Nothing here knows a model, a cache or a text. What is not asked for is not traced: a search without constraints does
not call `constrain`.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmx.nn.masks import MASKED
from lmx.sampling import forbid_repeats, penalise

EarlyStopping = Literal["true", "false", "never"]
ForcedEos = Literal["scored", "free", "none"]
FREE = -1  # where `Rules.forced` forces no word


class Rules(NamedTuple):
    """How a search chooses and ends; the defaults are fairseq's search.

    Attributes:
        min_length: fewest words before the end token, unless `max_length` has no room for them (fairseq's `min_len`).
        early_stopping: when a sentence of W beams is done. "true": W hypotheses have ended. "false" and "never": W have
            ended, and the likeliest beam that goes on would not be better than the worst of the best W if it ended with
            no loss, for "false" at its present length, for "never" at the length that suits it best.
        forced_eos: what a hypothesis of `max_length` tokens pays for its end token: "scored", the log-probability that
            the model gives it; "free", nothing; "none" does not force the end token.
        suppressed: words that are never chosen.
        sequences: words that never follow one another so, each of at least two; the start token may be the first.
        renormalised: the probabilities of the words that may come add up to 1 at each place of a beam search.
        no_repeat: no sequence of this many tokens occurs twice, the start token included; None allows all.
        repetition_penalty: divides positive scores of the words that a hypothesis has, start token included, and
            multiplies negative ones; 1 has no effect.
        forced: the words that each sentence begins with, and `FREE` behind them. They cost nothing and count as words;
            no other rule hinders them.
    """

    min_length: int = 1
    early_stopping: EarlyStopping = "true"
    forced_eos: ForcedEos = "scored"
    suppressed: tuple[int, ...] = ()
    sequences: tuple[tuple[int, ...], ...] = ()
    renormalised: bool = False
    no_repeat: int | None = None
    repetition_penalty: float = 1.0
    forced: Int[Array, "B _"] | None = None

    @property
    def has_constraints(self) -> bool:
        """Whether a word's score depends on more than the model."""
        has_words = bool(self.suppressed or self.sequences) or self.forced is not None
        return has_words or self.no_repeat is not None or self.repetition_penalty != 1.0


def constrain(
    scores: Float[Array, "B W V"], history: Int[Array, "B W T"], time: Int[Array, ""], *, start_id: int, rules: Rules
) -> Float[Array, "B W V"]:
    """Returns the scores of the next words under the rules; what must not come is `MASKED`.

    Args:
        scores: logits or log-probabilities.
        history: the words of each hypothesis, without the start token; those from `time` on are anything.
        start_id: the start token.
    """
    batch, width, vocab_size = scores.shape
    flat = scores.reshape(batch * width, vocab_size)
    if rules.no_repeat is not None or rules.repetition_penalty != 1.0 or rules.sequences:
        said = jnp.pad(history.reshape(batch * width, -1), ((0, 0), (1, 0)), constant_values=start_id)
        if rules.repetition_penalty != 1.0:
            rows, real = jnp.arange(batch * width)[:, None], jnp.arange(said.shape[1]) <= time
            seen = jnp.zeros(flat.shape, bool).at[rows, said].max(real)
            flat = penalise(flat, seen, jnp.float32(rules.repetition_penalty))
        if rules.no_repeat is not None:
            lengths = jnp.broadcast_to(time + 1, batch * width)
            flat = forbid_repeats(flat, said, lengths, size=rules.no_repeat)
        for size in sorted({len(each) for each in rules.sequences}):
            alike = jnp.asarray([each for each in rules.sequences if len(each) == size])
            flat = forbid_sequences(flat, said, time + 1, sequences=alike)
    if rules.suppressed:
        flat = flat.at[:, jnp.asarray(rules.suppressed)].set(MASKED)
    found = flat.reshape(scores.shape)
    if rules.forced is None:
        return found
    word = forced_word(rules.forced, time)[:, None, None]
    only = jnp.where(jnp.arange(vocab_size) == word, 0.0, MASKED)
    return jnp.where(word == FREE, found, only)


def forbid_sequences(
    scores: Float[Array, "B V"], said: Int[Array, "B T"], length: Int[Array, ""], *, sequences: Int[Array, "N L"]
) -> Float[Array, "B V"]:
    """Forbids the last word of each sequence in rows that end with the words before it.

    Args:
        said: words of each row, of which the first `length` count.
    """
    before, last = sequences[:, :-1], sequences[:, -1]
    first = length - before.shape[1]
    tail = jax.lax.dynamic_slice_in_dim(said, jnp.maximum(first, 0), before.shape[1], axis=1)
    ends = (tail[:, None] == before).all(-1) & (first >= 0)
    forbidden = jnp.zeros(scores.shape, bool).at[:, last].max(ends)
    return jnp.where(forbidden, MASKED, scores)


def forced_word(forced: Int[Array, "B P"], time: Int[Array, ""]) -> Int[Array, " B"]:
    """Returns the word that each sentence must have at a place, or `FREE`."""
    words = jax.lax.dynamic_index_in_dim(forced, time, axis=1, keepdims=False)  # a place behind them is the last one
    return jnp.where(time < forced.shape[1], words, FREE)
