"""Ids in, ids out: batches of prompts on one device or a mesh, and the programs that write on from them or score them.

Text is `lmx.generator`'s; what a program does is `lmx.generation`'s. Prompts are sorted by length into few compiled
shapes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmx.definition import Params, define
from lmx.generation import Ids, Prompts, Writing, advance, begin
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.nn.embedding import padded_vocabulary
from lmx.sampling import Choice, Numbers, Sampling, row_keys, split
from lmx.sharding.layout import Layout
from lmx.unstacked import Unstacked, merge, shardings, unstack

# Lengths of prompts and of what is written are rounded up to these, so that few programs are compiled; beyond the
# last, to its multiples.
LENGTHS = (8, 16, 32, 64, 128)
MOST_ROWS = 64  # of a batch whose rows are not fixed
BETWEEN_LOOKS = 8  # tokens that are written before stop strings are looked for
TOKENS_AT_ONCE = 128  # whose logits are there at the same time when texts are scored

# (row, its ids so far, how many of them were looked at before) -> after how many of them it stops, or None
Stops = Callable[[int, list[int], int], int | None]


class Asked(NamedTuple):
    """A text to be written: its prompt's ids, which sample of that prompt it is, and how many tokens it may have."""

    ids: list[int]
    sample: int
    limit: int


class Written(NamedTuple):
    """What a text has so far, its end token included, and whether a stop string ended it."""

    ids: list[int]
    logprobs: Float[np.ndarray, " T"]
    is_stopped: bool


class Writer:
    """Writes on from prompts with one decoder.

    Args:
        params: as `nnx.to_pure_dict` gives them, or with their layers apart.
        ids: the special ones.
        rows, layout: see `lmx.generator.Generator`.
    """

    def __init__(
        self, config: DecoderConfig, params: Params | Unstacked, *, ids: Ids, rows: int | None, layout: Layout
    ):
        self.config, self.ids, self.rows = config, ids, rows
        self._layout = layout
        self._definition = define(lambda rngs: Decoder(config, rngs=rngs))
        whole, places, apart = layout.whole, None, None
        if whole is not None:
            # The cache lives as the model does; the rest of the state, which is small, whole everywhere.
            apart = shardings(self._definition, layout)
            cache = layout.sharding(("batch", "kv_heads", None, None))
            of_state: list[Any] = [whole] * (len(Writing._fields) - 1)
            places = Writing(*of_state, cache=cache)
        bare = object.__new__(Writer)  # what is compiled holds on to this one, which never has parameters
        bare.__dict__.update(self.__dict__)
        self._unstack = jax.jit(unstack, out_shardings=apart)
        self._begin = jax.jit(bare._run_begin, static_argnames=("slots", "choice"), out_shardings=places)
        self._advance = jax.jit(
            bare._run_advance, static_argnames="choice", donate_argnames="writing", out_shardings=places
        )
        self._logprobs = jax.jit(bare._run_logprobs, out_shardings=whole)
        self._logits = jax.jit(bare._run_logits, out_shardings=whole)
        self._parts: Unstacked = params if isinstance(params, Unstacked) else self._unstack(params)

    def with_params(self, params: Params) -> "Writer":
        """Returns a writer with other parameters that shares all that is compiled."""
        other = object.__new__(Writer)
        other.__dict__.update(self.__dict__, _parts=self._unstack(params))
        return other

    def without_params(self) -> "Writer":
        """Returns what is compiled, for other parameters, and holds none."""
        other = object.__new__(Writer)
        other.__dict__.update(self.__dict__, _parts=None)
        return other

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Returns the members of each batch: texts of one rounded length, in their order."""
        padded = [rounded(length, self.config.max_length) for length in lengths]
        size = MOST_ROWS if self.rows is None else self.rows
        groups = []
        for length in sorted(set(padded)):
            members = [index for index, each in enumerate(padded) if each == length]
            groups += [members[start : start + size] for start in range(0, len(members), size)]
        return groups

    def write(
        self, asked: Sequence[Asked], sampling: Sampling, *, stops: Stops | None = None, every: int | None = None
    ) -> Iterator[list[Written]]:
        """Writes a batch; yields what there is of each text.

        Args:
            asked: of one group.
            stops: looks for stop strings.
            every: tokens between two yields; None yields at the end alone.
        """
        prompts, (choice, numbers) = self._batch(asked), split(sampling)
        slots = rounded(sampling.max_tokens, self.config.max_length)
        writing = self._begin(self._parts, prompts, slots=slots, choice=choice)
        most = max(each.limit for each in asked)
        size = every or (most if stops is None else BETWEEN_LOOKS)
        found: list[int | None] = [None] * len(asked)
        stopped, until, is_done = np.zeros(prompts.tokens.shape[0], bool), 0, False
        while not is_done:
            known, until = until, min(until + size, most)
            writing = self._advance(
                self._parts,
                writing,
                np.int32(until),
                prompts,
                stopped=self._layout.place({"stopped": stopped})["stopped"],
                seed=np.uint32(sampling.seed),
                numbers=numbers,
                choice=choice,
            )
            tokens, logprobs, ended = jax.device_get((writing.tokens, writing.logprobs, writing.ended))
            texts = [self._until_end(tokens[row, : min(until, each.limit)]) for row, each in enumerate(asked)]
            for row, ids in enumerate(texts):
                if stops is not None and found[row] is None:
                    found[row] = stops(row, ids, known)
                    stopped[row] = found[row] is not None
            is_done = until >= most or bool((ended | stopped).all())
            if is_done or every is not None:
                yield [
                    Written(ids[:stop], logprobs[row, : len(ids[:stop])], stop is not None)
                    for row, (ids, stop) in enumerate(zip(texts, found, strict=True))
                ]

    def logprobs(self, before: list[list[int]], ids: list[list[int]]) -> list[Float[np.ndarray, " T"]]:
        """Returns, for each text of a group, the log-probability of each of its ids.

        Args:
            before: of each text, for each id the one that stands before it; a text has at least one.
        """
        shape = self._batch_rows(len(ids)), rounded(len(before[0]), self.config.max_length)
        batch = {"tokens": _filled(before, shape, pad=self.ids.pad), "labels": _filled(ids, shape, pad=self.ids.pad)}
        found = jax.device_get(self._logprobs(self._parts, **self._layout.place(batch)))
        return [found[row, : len(each)] for row, each in enumerate(ids)]

    def logits(self, ids: list[int]) -> Float[np.ndarray, "T V"]:
        """Returns the logits of the next word behind each id of a text."""
        tokens = _filled([ids], (self._batch_rows(1), rounded(len(ids), self.config.max_length)), pad=self.ids.pad)
        logits = jax.device_get(self._logits(self._parts, **self._layout.place({"tokens": tokens})))
        return logits[: len(ids), : self.config.vocab_size]

    # Batches.

    def _batch_rows(self, number: int) -> int:
        rows = self.rows if self.rows is not None else 1 << (number - 1).bit_length()
        shards = self._layout.row_shards
        return -(-rows // shards) * shards

    def _batch(self, asked: Sequence[Asked]) -> Prompts:
        rows = self._batch_rows(len(asked))
        lengths, limits = np.ones(rows, np.int32), np.zeros(rows, np.int32)
        draws = np.zeros((rows, 3), np.uint32)
        for row, (ids, sample, limit) in enumerate(asked):
            lengths[row], limits[row], draws[row] = len(ids), limit, [*np.frombuffer(digest(ids), "<u4"), sample]
        shape = rows, rounded(len(asked[0].ids), self.config.max_length)
        tokens = _filled([each.ids for each in asked], shape, pad=self.ids.pad)
        return Prompts(**self._layout.place({"tokens": tokens, "lengths": lengths, "limits": limits, "draws": draws}))

    def _until_end(self, tokens: Int[np.ndarray, " T"]) -> list[int]:
        ends = np.flatnonzero(np.isin(tokens, self.ids.ends))
        return [int(word) for word in tokens[: ends[0] + 1 if ends.size else None]]

    # What is compiled.

    def _run_begin(self, parts: Unstacked, prompts: Prompts, *, slots: int, choice: Choice) -> Writing:
        vocab_size = padded_vocabulary(self.config.vocab_size)
        with self._layout.inference():
            decoder, blocks = merge(self._definition, parts)
            cache = decoder.prefill(prompts.tokens, slots=prompts.tokens.shape[1] + slots, blocks=blocks)
            return begin(cache, prompts, slots=slots, vocab_size=vocab_size, choice=choice, ids=self.ids)

    def _run_advance(
        self,
        parts: Unstacked,
        writing: Writing,
        until: jax.Array,
        prompts: Prompts,
        *,
        stopped: jax.Array,
        seed: jax.Array,
        numbers: Numbers,
        choice: Choice,
    ) -> Writing:
        with self._layout.inference():
            decoder, blocks = merge(self._definition, parts)
            step = decoder.decoding_step(prompts.tokens, prompts.lengths, blocks=blocks)
            writing = writing._replace(ended=writing.ended | stopped)
            keys = row_keys(seed, prompts.draws)
            return advance(step, writing, until, prompts, keys=keys, choice=choice, numbers=numbers, ids=self.ids)

    def _run_logprobs(
        self, parts: Unstacked, *, tokens: Int[Array, "B T"], labels: Int[Array, "B T"]
    ) -> Float[Array, "B T"]:
        with self._layout.inference():
            decoder, blocks = merge(self._definition, parts)
            states = decoder.states(tokens, blocks=blocks)
            rows, length = tokens.shape
            most = min(length, max(1, TOKENS_AT_ONCE // rows))
            size = next(each for each in range(most, 0, -1) if length % each == 0)
            pieces = states.reshape(rows, length // size, size, -1).swapaxes(0, 1)
            chosen = labels.reshape(rows, length // size, size).swapaxes(0, 1)

            def one(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
                states, words = piece
                logs = jax.nn.log_softmax(decoder.logits(states))
                return jnp.take_along_axis(logs, words[..., None], axis=-1)[..., 0]

            return jax.lax.map(one, (pieces, chosen)).swapaxes(0, 1).reshape(rows, length)

    def _run_logits(self, parts: Unstacked, *, tokens: Int[Array, "B T"]) -> Float[Array, "T V"]:
        with self._layout.inference():
            decoder, blocks = merge(self._definition, parts)
            return decoder.logits(decoder.states(tokens, blocks=blocks))[0]


def digest(ids: Sequence[int]) -> bytes:
    """Returns eight bytes that stand for the ids of a prompt: its draws are made of them, and counted by them."""
    return hashlib.blake2b(np.asarray(ids, "<i8").tobytes(), digest_size=8).digest()


def rounded(length: int, longest: int) -> int:
    """Returns the length that a row is padded to."""
    bound = next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])
    return min(bound, longest)


def _filled(rows: list[list[int]], shape: tuple[int, int], *, pad: int) -> Int[np.ndarray, "B T"]:
    """Returns rows of ids with padding behind them, and rows of padding below."""
    filled = np.full(shape, pad, np.int32)
    for row, ids in enumerate(rows):
        filled[row, : len(ids)] = ids
    return filled
