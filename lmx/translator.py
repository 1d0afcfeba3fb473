"""Text in, text out: the one path that validation, test, the command line and notebooks share.

A `Translator` is a model, its tokenizers and the settings of the search. It sorts lines by length into few compiled
shapes, and hands translations back in the order of the lines.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt

from lmx.constraints import FREE
from lmx.decoding import NEVER, Hypotheses, SpecialIds, average_steps, beam_search, greedy_search, sample
from lmx.definition import define, member, stack
from lmx.frames import begun, ended, has_words
from lmx.languages import AS_SAVED, Languages, spoken
from lmx.lines import one_line
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.embedding import padded_vocabulary
from lmx.nn.positions.make import longest
from lmx.parameters import Params, load_params
from lmx.sampling import choose, row_keys, split
from lmx.saved import load_tokenizers, read_config, read_field, read_fields, seed_files
from lmx.search import Search, read_search, rules_of
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.target_scores import ScoredTarget, target_logprobs
from lmx.text import Tokenizer
from lmx.translation_batches import Asked, Translation, beginnings, draw_numbers, filled, in_groups, round_up, settled

# What logits and caches may take for each token of `Search.batch_tokens`: Vaswani's base model with 10,000 words and
# beam 5 takes less at every length, so that for it and what is smaller only the tokens count.
TOKEN_BYTES = 2**18
# A beam's logits are there as the model gives them, as exponentials, and in the blocks of the best; where rules change
# them, twice more.
LOGITS = 3


class Translator:
    """Translates lines of text with one model.

    Args:
        params: the model's parameters, as `nnx.to_pure_dict` returns them. With a leading axis, they are those of
            several models that translate together: the mean of their probabilities chooses each word.
        max_source_length: longer sources are truncated to this many tokens, with the end token; `cut` counts them.
        layout: where the parameters live, if on several devices, which search together. Every host must make the same
            calls, and gets all translations.
        network: makes the model of the config, where it is another than lmx's: a class of your own.

    Raises:
        ValueError: the target's vocabulary lacks a word that the search names, or no token of a source would be read.

    Attributes:
        cut: number of sources so far that were longer than `max_source_length`.
        limited: number of translations so far that reached the longest length, where the end is forced.
    """

    def __init__(
        self,
        config: Seq2SeqConfig,
        params: Params,
        *,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        search: Search,
        max_source_length: int | None = None,
        layout: Layout = ONE_DEVICE,
        network: Callable[..., nnx.Module] = Seq2Seq,
    ):
        self.config, self.params, self.search = config, params, search
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.max_source_length = config.max_length if max_source_length is None else max_source_length
        if self.max_source_length < 1:
            raise ValueError(f"max_source_length must be at least 1, got {max_source_length}.")
        self.cut = self.limited = 0
        self._definition = define(lambda rngs: network(config, rngs=rngs))
        self._ids = SpecialIds(pad=config.pad_id, bos=target_tokenizer.bos_id, eos=target_tokenizer.eos_id)
        self._rules, self._first = rules_of(search, target_tokenizer, special=self._ids)
        self.members = self._count_members(params)
        self._layout = layout
        self._search = jax.jit(self._make_search(), static_argnames="max_length", out_shardings=layout.whole)
        self._look = jax.jit(self._attention_to_source, out_shardings=layout.whole)
        self._scores = jax.jit(self._score_targets, out_shardings=layout.whole)

    @staticmethod
    def load(
        run_directory: Path, *, search: Search | None = None, ensemble: bool = False, languages: Languages = AS_SAVED
    ) -> "Translator":
        """Returns the translator of a finished run, from the files in its directory alone.

        Args:
            ensemble: load all seeds of the run together, instead of the one with the best validation.
            languages: codes of those of source and target, of a model that has several.

        Raises:
            FileNotFoundError: the directory is not a run's, its training has not ended, or it has one seed only.
            ValueError: the run is of another kind, or has no such language.
        """
        saved = read_config(run_directory, family="seq2seq", purpose="translates")
        path = run_directory / "config.json"
        config = read_fields(Seq2SeqConfig, saved["model"], path=path, field="model")
        max_source_length = read_field(saved, "config", "max_length", kind=int, path=path)
        search = search or read_search(run_directory)
        source_tokenizer, target_tokenizer, first = spoken(*load_tokenizers(run_directory), languages=languages)
        search = search if first is None else replace(search, forced_bos=first)
        shapes = define(lambda rngs: Seq2Seq(config, rngs=rngs)).shapes
        if ensemble:
            params = stack([load_params(file, shapes) for file in seed_files(run_directory)])
        else:
            params = load_params(run_directory / "model.safetensors", shapes, place=jnp.asarray)
        return Translator(
            config,
            params,
            source_tokenizer=source_tokenizer,
            target_tokenizer=target_tokenizer,
            search=search,
            max_source_length=max_source_length,
        )

    def with_params(self, params: Params) -> "Translator":
        """Returns a translator with other parameters that shares the compiled programs."""
        other = object.__new__(Translator)
        other.__dict__.update(self.__dict__, params=params, cut=0, limited=0, members=self._count_members(params))
        return other

    def alone(self) -> "list[Translator]":
        """Returns a translator for each member of the ensemble; for a single model, this one."""
        if self.members is None:
            return [self]
        return [self.with_params(member(self.params, index)) for index in range(self.members)]

    @overload
    def translate(
        self,
        lines: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: None = None,
        progress: Callable[[int], None] = ...,
    ) -> list[Translation]: ...

    @overload
    def translate(
        self,
        lines: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int,
        progress: Callable[[int], None] = ...,
    ) -> list[list[Translation]]: ...

    def translate(
        self,
        lines: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Translation] | list[list[Translation]]:
        """Translates each line by itself; an empty line gives an empty line.

        Args:
            prefixes: for each line, how its translation begins. The tokens of a prefix cost nothing, count for the
                length penalty, and are part of the translation.
            n_best: return, for each line, a list of `n_best` translations, best first, or as they were drawn. It is
                shorter where the search found fewer; an empty line has one.
            progress: called with the number of lines done so far.

        Raises:
            ValueError: there are not as many prefixes as lines, a prefix is longer than the model can write, or there
                are fewer beams than n_best.
        """
        number = 1 if n_best is None else n_best
        self.search.check_n_best(number)
        draws = number if self.search.temperature else 1
        asked = self._asked(lines, prefixes, draws=draws)
        worded = {one.line for one in asked}
        found: list[list[Translation]] = [[] for _ in lines]
        done = draws * len(lines) - len(asked)
        for is_short in (True, False) if self.search.settles() else (False,):
            rows = partial(self._rows, is_short=is_short)
            groups, asked = in_groups(asked, longest=longest(self.config), rows=rows), []
            for length, room, group in groups:
                most, max_length = (
                    min(self._max_target_length(length, is_short=each) + room, self.config.max_length)
                    for each in (False, is_short)
                )
                batch = self._batch(group, length=length, room=room, is_short=is_short)
                search = partial(self._search, max_length=max_length, **batch)
                hypotheses = jax.device_get(search(self.params))
                for row, one in enumerate(group):
                    tokens, scores = hypotheses.tokens[row], hypotheses.scores[row]
                    if max_length < most and not settled(tokens, scores, end=self._ids.eos):
                        asked.append(one)
                        continue
                    best = zip(tokens[:number], scores[:number], strict=True)
                    each = [self._translation(words, score) for words, score in best if score > NEVER / 2]
                    self.limited += bool(each) and len(each[0].ids) == max_length
                    found[one.line] += each
                    done += 1
                progress(done // draws)
        for line, each in enumerate(found):
            if not each:
                each.append(Translation("", (), float("-inf") if line in worded else 0.0))
        return [each[0] for each in found] if n_best is None else found

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[ScoredTarget]:
        """Returns the log-probabilities of the tokens of given targets, their end token included.

        Sources are cut as they are for translation. With a forced first word, the targets begin with it.

        Raises:
            ValueError: there are not as many targets as sources, or one is longer than the model can write.
        """
        if len(sources) != len(targets):
            raise ValueError(f"targets must be as many as sources, got {len(targets):,} and {len(sources):,}.")
        ids, start = self._ids, len(self._first)
        encoded = map(self.target_tokenizer.encode, targets)
        words = [[*begun(each, self.target_tokenizer, first=self._first), ids.eos] for each in encoded]
        for number, each in enumerate(words, start=1):
            if len(each) > self.config.max_length:
                raise ValueError(
                    f"a target must have at most {self.config.max_length} tokens, as many as the model can write, got "
                    f"{len(each)} in target {number}."
                )
        sources_ids = self._source_ids(sources)
        rooms = [min(round_up(len(each), None), self.config.max_length) for each in words]
        asked = [Asked(line, *each) for line, each in enumerate(zip(sources_ids, words, rooms, strict=True))]
        found: dict[int, ScoredTarget] = {}
        for length, room, group in in_groups(asked, longest=longest(self.config), rows=self._rows):
            rows = self._filled_rows(max(length, room), len(group))
            shifted = [[ids.bos, *one.target[:-1]] for one in group]
            batch = {
                "source": filled([one.source for one in group], (rows, length), fill=ids.pad),
                "decoder_input": filled(shifted, (rows, room), fill=ids.pad),
                "target": filled([one.target for one in group], (rows, room), fill=ids.pad),
            }
            logprobs = jax.device_get(self._scores(self.params, **self._layout.place(batch)))
            for row, one in enumerate(group):
                each = [0.0] * start + list(map(float, logprobs[row, start : len(one.target)]))
                found[one.line] = ScoredTarget(targets[one.line], tuple(one.target), tuple(each))
        return [found[line] for line in range(len(sources))]

    def attention(self, line: str, translation: Translation) -> dict[str, Any]:
        """Returns the attention of the decoder to the source, for a translation this model made.

        For an ensemble, it is the first model's. The result holds `source` and `target` pieces, and `weights`
        [N, H, T, S].
        """
        ids = ended(self.source_tokenizer.encode(line), self.source_tokenizer, longest=self.max_source_length)
        end = self.target_tokenizer.eos_id
        words = [word for word in translation.ids if word != end]
        decoder_input = np.asarray([[self.target_tokenizer.bos_id, *words]], np.int32)

        params = self.params if self.members is None else member(self.params, 0)
        weights = self._look(params, np.asarray([ids], np.int32), decoder_input)
        return {
            "source": self.source_tokenizer.pieces(ids),
            "target": self.target_tokenizer.pieces([*words, end]),
            "weights": np.asarray(weights),
        }

    def _attention_to_source(
        self, params: Params, source: Int[Array, "B S"], decoder_input: Int[Array, "B T"]
    ) -> Float[Array, "N H T S"]:
        """Returns the attention of the first row in all layers."""
        model = self._definition.merge(params)
        with self._layout.inference(rows=False):
            memory, _ = model.encode(source)
            return model.decode(memory, source, decoder_input, with_attention=True)[1]["memory"][:, 0]

    def _make_search(self) -> Callable[..., Hypotheses]:
        search, ids, pad_id = self.search, self._ids, self.config.pad_id
        choice, numbers = split(search.sampling())

        def run(
            params: Params,
            source: Int[Array, "B S"],
            *,
            max_length: int,
            forced: Int[Array, "B P"] | None = None,
            draws: UInt[Array, "B 3"] | None = None,
        ) -> Hypotheses:
            with self._layout.inference():
                models = self._models(params)
                started = [each.start_decoding(source, slots=max_length * search.beam_size) for each in models]
                step, cache = average_steps(started)
                settings: dict[str, Any] = {
                    "active": (source != pad_id).any(-1),
                    "max_length": max_length,
                    "ids": ids,
                    "rules": self._rules._replace(forced=forced),
                }
                if draws is not None:
                    keys = row_keys(jnp.uint32(search.seed), draws)

                    def draw(logits: jax.Array, time: jax.Array) -> jax.Array:
                        now = jax.vmap(lambda key: jax.random.fold_in(key, time))(keys)
                        return choose(logits, now, choice=choice, numbers=numbers)

                    tokens, totals = sample(step, cache, draw=draw, **settings)
                    lengths = jnp.maximum((tokens != pad_id).sum(-1), 1)
                    return Hypotheses(tokens[:, None], (totals / search.normaliser()(lengths))[:, None])
                if search.beam_size == 1:
                    tokens = greedy_search(step, cache, **settings)
                    return Hypotheses(tokens[:, None], jnp.zeros((tokens.shape[0], 1)))
                penalty = search.normaliser()
                return beam_search(step, cache, beam_size=search.beam_size, length_penalty=penalty, **settings)

        return run

    def _score_targets(
        self,
        params: Params,
        *,
        source: Int[Array, "B S"],
        decoder_input: Int[Array, "B T"],
        target: Int[Array, "B T"],
    ) -> Float[Array, "B T"]:
        with self._layout.inference():
            return target_logprobs(self._models(params), source, decoder_input, target)

    def _models(self, params: Params) -> list[Any]:
        number = self._count_members(params)
        each = [params] if number is None else [member(params, index) for index in range(number)]
        return [self._definition.merge(one) for one in each]

    def _count_members(self, params: Params) -> int | None:
        """Returns how many models the parameters are of, or None where they have no axis of members."""
        leaf, shape = jax.tree.leaves(params)[0], jax.tree.leaves(self._definition.shapes)[0]
        return None if leaf.ndim == shape.ndim else leaf.shape[0]

    def _source_ids(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of sources with their ends, and counts those that are cut."""
        encoded = [self.source_tokenizer.encode(line) for line in lines]
        self.cut += sum(len(ids) >= self.max_source_length for ids in encoded)
        return [ended(ids, self.source_tokenizer, longest=self.max_source_length) for ids in encoded]

    def _asked(self, lines: Sequence[str], prefixes: Sequence[str] | None, *, draws: int) -> list[Asked]:
        """Returns what is to be made of the lines; those with no token except the end have an empty translation."""
        prefixes = [""] * len(lines) if prefixes is None else prefixes
        if len(prefixes) != len(lines):
            raise ValueError(f"prefixes must be as many as lines, got {len(prefixes):,} and {len(lines):,}.")
        most, special = self.config.max_length - len(self._first) - 1, frozenset(self._ids)
        forced = beginnings(prefixes, self.target_tokenizer, most=most, special=special)
        asked = []
        for line, (source, prefix) in enumerate(zip(self._source_ids(lines), forced, strict=True)):
            room = round_up(len(prefix), None) if prefix else 0
            target = begun(prefix, self.target_tokenizer, first=self._first) if prefix else [*self._first]
            numbers = range(draws if has_words(source, self.source_tokenizer) else 0)
            asked += [Asked(line, source, target, room, draw) for draw in numbers]
        return asked

    def _batch(self, group: Sequence[Asked], *, length: int, room: int, is_short: bool) -> dict[str, Any]:
        """Returns the arrays that a search takes."""
        rows = self._filled_rows(max(length, room), len(group), is_short=is_short)
        batch = {"source": filled([one.source for one in group], (rows, length), fill=self.config.pad_id)}
        if room or self._first:
            batch["forced"] = filled([one.target for one in group], (rows, len(self._first) + room), fill=FREE)
        if self.search.temperature:
            batch["draws"] = draw_numbers(group, rows)
        return dict(self._layout.place(batch))

    def _translation(self, tokens: np.ndarray, score: Any) -> Translation:
        ends = np.flatnonzero(tokens == self.target_tokenizer.eos_id)
        ids = tuple(map(int, tokens[: ends[0] + 1 if ends.size else None]))
        text = one_line(self.target_tokenizer.decode(ids[len(self._first) :]))
        return Translation(text, ids, float(score))

    def _rows(self, length: int, number: int, *, is_short: bool = False) -> int:
        """Returns the rows of a batch: a power of two, as many as there are lines or the budget allows."""
        bytes_allowed = self.search.batch_tokens * TOKEN_BYTES
        most = max(
            1, min(self.search.batch_tokens // length, bytes_allowed // self._row_bytes(length, is_short=is_short))
        )
        return min(1 << (most.bit_length() - 1), 1 << (number - 1).bit_length())

    def _filled_rows(self, length: int, number: int, *, is_short: bool = False) -> int:
        """Returns the rows of a batch on all devices."""
        shards = self._layout.row_shards
        return -(-self._rows(length, number, is_short=is_short) // shards) * shards

    def _row_bytes(self, length: int, *, is_short: bool = False) -> int:
        """Returns the bytes of one row: its beams' float32 logits, keys and values, and the encoder's attention."""
        config, beams = self.config, self.search.beam_size
        changed = self._rules.has_constraints or self._first or self.search.temperature
        logits = (LOGITS + 2 * bool(changed)) * 4 * beams * padded_vocabulary(config.target_vocab_size)
        slots = length + beams * self._max_target_length(length, is_short=is_short)
        cache = 2 * config.num_decoder_layers * slots * config.width_of_keys * jnp.dtype(config.dtype).itemsize
        return (self.members or 1) * (logits + cache + 2 * 4 * config.num_heads * length**2)

    def _max_target_length(self, source_length: int, *, is_short: bool = False) -> int:
        return min(self.search.most_tokens(source_length, is_short=is_short), self.config.max_length)
