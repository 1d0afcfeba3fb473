"""Text in, text out: the one path that validation, test, the command line and notebooks share.

A `Translator` is a model, its tokenizers and the settings of the search. It sorts lines by length into few compiled
shapes, and hands translations back in the order of the lines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lmx.decoding import Hypotheses, SpecialIds, average_steps, beam_search, gnmt_penalty, greedy_search, power_penalty
from lmx.definition import define, member, stack
from lmx.lines import one_line
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.embedding import padded_vocabulary
from lmx.nn.positions.make import longest
from lmx.parameters import Params, load_params
from lmx.saved import find_tokenizers, read_config, read_field, read_fields, save_tokenizer, seed_files
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.text import Tokenizer, load_tokenizer

# Source lengths are rounded up to these, so that few programs are compiled; beyond the last, to its multiples.
LENGTHS = (8, 16, 32, 64, 128)
# What logits and caches may take for each token of `Search.batch_tokens`: Vaswani's base model with 10,000 words and
# beam 5 takes less at every length, so that for it and what is smaller only the tokens count.
TOKEN_BYTES = 2**18
# A beam's logits are there as the model gives them, as exponentials, and in the blocks of the best.
LOGITS = 3


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search for translations.

    Attributes:
        beam_size: number of hypotheses to keep for each sentence; 1 is greedy search.
        length_penalty: "power" divides by length^alpha (fairseq, Hugging Face), "gnmt" by ((5 + length) / 6)^alpha.
        alpha: strength of the length penalty; 0 is none.
        max_ratio, max_extra: a translation has at most max_ratio x L + max_extra tokens, where L is the source length
            rounded up to a compiled one.
        min_length: fewest tokens of a translation before its end (fairseq's `min_len`); 0 allows an empty one.
        batch_tokens: source tokens to decode at once, with padding. Bounds the memory: each token gets at most 256 KiB
            of logits and caches, so a large vocabulary, a large model or many beams make batches with fewer rows.
    """

    beam_size: int = 5
    length_penalty: Literal["power", "gnmt"] = "power"
    alpha: float = 1.0
    max_ratio: float = 1.5
    max_extra: int = 16
    min_length: int = 1
    batch_tokens: int = 2048

    def __post_init__(self):
        for name in ("beam_size", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={getattr(self, name)}.")
        if self.min_length < 0:
            raise ValueError(f"min_length must be at least 0, got min_length={self.min_length}.")

    def __str__(self) -> str:
        if self.beam_size == 1:
            return "greedy"
        return f"beam {self.beam_size}, {self.length_penalty} length penalty {self.alpha:g}"


@dataclass(frozen=True)
class Translation:
    """One translated line: its text, its ids and the penalised log-probability that ranked it (0 if greedy).

    The text is one line: a line end among the ids becomes a space.
    """

    text: str
    ids: tuple[int, ...]
    score: float


class Translator:
    """Translates lines of text with one model.

    Args:
        params: the model's parameters, as `nnx.to_pure_dict` returns them. With a leading axis, they are those of
            several models that translate together: the mean of their probabilities chooses each word.
        max_source_length: longer sources are truncated to this many tokens, with the end token; `cut` counts them.
        layout: where the parameters live, if on several devices, which search together. Every host must make the same
            calls, and gets all translations.
        network: makes the model of the config, where it is another than lmx's: a class of your own.

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
        self.max_source_length = max_source_length or config.max_length
        self.cut = self.limited = 0
        self._definition = define(lambda rngs: network(config, rngs=rngs))
        self.members = self._count_members(params)
        self._layout = layout
        self._search = jax.jit(self._make_search(), static_argnames="max_length", out_shardings=layout.whole)
        self._look = jax.jit(self._attention_to_source, out_shardings=layout.whole)

    @staticmethod
    def load(run_directory: Path, *, search: Search | None = None, ensemble: bool = False) -> "Translator":
        """Returns the translator of a finished run, from the files in its directory alone.

        Args:
            ensemble: load all seeds of the run together, instead of the one with the best validation.

        Raises:
            FileNotFoundError: the directory is not a run's, its training has not ended, or it has one seed only.
            ValueError: the run is of another kind.
        """
        saved = read_config(run_directory, family="seq2seq", purpose="translates")
        path = run_directory / "config.json"
        config = read_fields(Seq2SeqConfig, saved["model"], path=path, field="model")
        max_source_length = read_field(saved, "config", "max_length", kind=int, path=path)
        search = search or read_search(run_directory)
        shapes = define(lambda rngs: Seq2Seq(config, rngs=rngs)).shapes
        if ensemble:
            params = stack([load_params(file, shapes) for file in seed_files(run_directory)])
        else:
            params = jax.tree.map(jnp.asarray, load_params(run_directory / "model.safetensors", shapes))
        source_tokenizer, target_tokenizer = load_tokenizers(run_directory)
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

    def translate(
        self, lines: Sequence[str], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[Translation]:
        """Translates each line by itself; an empty line gives an empty line.

        Args:
            progress: called with the number of lines done so far.
        """
        encoded = [self.source_tokenizer.encode(line) for line in lines]
        self.cut += sum(len(ids) >= self.max_source_length for ids in encoded)
        sources = [self._ended(ids) for ids in encoded]
        results = [Translation("", (), 0.0)] * len(lines)
        done = sum(len(ids) == 1 for ids in sources)
        for length, indices in self._groups(sources):
            shards = self._layout.row_shards
            rows = -(-self._rows(length, len(indices)) // shards) * shards
            source = np.full((rows, length), self.config.pad_id, np.int32)
            for row, index in enumerate(indices):
                source[row, : len(sources[index])] = sources[index]
            max_length = self._max_target_length(length)
            placed = self._layout.place({"source": source})["source"]
            hypotheses = jax.device_get(self._search(self.params, placed, max_length=max_length))
            for row, index in enumerate(indices):
                ids = self._until_end(hypotheses.tokens[row, 0])
                self.limited += len(ids) == max_length
                text = one_line(self.target_tokenizer.decode(ids))
                results[index] = Translation(text, ids, float(hypotheses.scores[row, 0]))
            done += len(indices)
            progress(done)
        return results

    def attention(self, line: str, translation: Translation) -> dict[str, Any]:
        """Returns the attention of the decoder to the source, for a translation this model made.

        For an ensemble, it is the first model's. The result holds `source` and `target` pieces, and `weights`
        [N, H, T, S].
        """
        ids = self._ended(self.source_tokenizer.encode(line))
        source = np.asarray([ids], np.int32)
        end = self.target_tokenizer.eos_id
        words = [word for word in translation.ids if word != end]
        decoder_input = np.asarray([[self.target_tokenizer.bos_id, *words]], np.int32)

        params = self.params if self.members is None else member(self.params, 0)
        weights = self._look(params, source, decoder_input)
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
        search, tokenizer, pad_id = self.search, self.target_tokenizer, self.config.pad_id
        penalty = {"power": power_penalty, "gnmt": gnmt_penalty}[search.length_penalty](search.alpha)
        ids = SpecialIds(pad=pad_id, bos=tokenizer.bos_id, eos=tokenizer.eos_id)
        shortest = search.min_length

        def run(params: Params, source: Int[Array, "B S"], *, max_length: int) -> Hypotheses:
            number = self._count_members(params)
            each = [params] if number is None else [member(params, index) for index in range(number)]
            with self._layout.inference():
                slots = max_length * search.beam_size
                started = [self._definition.merge(one).start_decoding(source, slots=slots) for one in each]
                step, cache = average_steps(started)
                active = (source != pad_id).any(-1)
                if search.beam_size == 1:
                    tokens = greedy_search(
                        step, cache, active=active, max_length=max_length, min_length=shortest, ids=ids
                    )
                    return Hypotheses(tokens[:, None], jnp.zeros((tokens.shape[0], 1)))
                return beam_search(
                    step,
                    cache,
                    active=active,
                    beam_size=search.beam_size,
                    max_length=max_length,
                    min_length=shortest,
                    length_penalty=penalty,
                    ids=ids,
                )

        return run

    def _count_members(self, params: Params) -> int | None:
        """Returns how many models the parameters are of, or None where they have no axis of members."""
        leaf, shape = jax.tree.leaves(params)[0], jax.tree.leaves(self._definition.shapes)[0]
        return None if leaf.ndim == shape.ndim else leaf.shape[0]

    def _ended(self, ids: list[int]) -> list[int]:
        return [*ids[: self.max_source_length - 1], self.source_tokenizer.eos_id]

    def _groups(self, sources: list[list[int]]) -> list[tuple[int, list[int]]]:
        """Returns (padded length, indices) of each batch; lines with no token except the end are in none."""
        most = longest(self.config)
        padded = {index: _round_up(len(ids), most) for index, ids in enumerate(sources) if len(ids) > 1}
        groups = []
        for length in sorted(set(padded.values())):
            members = sorted((i for i in padded if padded[i] == length), key=lambda i: (len(sources[i]), i))
            size = self._rows(length, len(members))
            groups += [(length, members[start : start + size]) for start in range(0, len(members), size)]
        return groups

    def _rows(self, length: int, number: int) -> int:
        """Returns the rows of a batch: a power of two, as many as there are lines or the budget allows."""
        bytes_allowed = self.search.batch_tokens * TOKEN_BYTES
        most = max(1, min(self.search.batch_tokens // length, bytes_allowed // self._row_bytes(length)))
        return min(1 << (most.bit_length() - 1), 1 << (number - 1).bit_length())

    def _row_bytes(self, length: int) -> int:
        """Returns the bytes of one row: its beams' float32 logits, keys and values, and the encoder's attention."""
        config, beams = self.config, self.search.beam_size
        logits = LOGITS * 4 * beams * padded_vocabulary(config.target_vocab_size)
        slots = length + beams * self._max_target_length(length)
        cache = 2 * config.num_decoder_layers * slots * config.width_of_keys * jnp.dtype(config.dtype).itemsize
        return (self.members or 1) * (logits + cache + 2 * 4 * config.num_heads * length**2)

    def _max_target_length(self, source_length: int) -> int:
        return min(int(source_length * self.search.max_ratio) + self.search.max_extra, self.config.max_length)

    def _until_end(self, tokens: np.ndarray) -> tuple[int, ...]:
        ends = np.flatnonzero(tokens == self.target_tokenizer.eos_id)
        return tuple(int(word) for word in tokens[: ends[0] + 1 if ends.size else None])


def read_search(run_directory: Path, **changes: Any) -> Search:
    """Returns the search that a run's model was scored with, with changes; missing fields get their defaults.

    Raises:
        FileNotFoundError: the directory is not a run's, or its training has not begun.
        ValueError: the run is of another kind, or its config.json damaged; or a change is not possible.
    """
    saved = read_config(run_directory, family="seq2seq", purpose="translates")
    path = run_directory / "config.json"
    fields = read_field(saved, "config", "search", kind=dict | None, path=path) or {}
    return replace(read_fields(Search, fields, path=path, field="config.search"), **changes)


def save_tokenizers(run_directory: Path, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> None:
    """Writes tokenizers where `load_tokenizers` finds them; a joint one is written once."""
    joint = source_tokenizer is target_tokenizer
    parts = {"tokenizer": source_tokenizer} if joint else {"source": source_tokenizer, "target": target_tokenizer}
    for name, tokenizer in parts.items():
        save_tokenizer(run_directory, tokenizer, name=name)


def load_tokenizers(*run_directories: Path | None) -> tuple[Tokenizer, Tokenizer]:
    """Returns the source's and the target's tokenizer of the first run that has them.

    Raises:
        FileNotFoundError: there are none.
    """
    directories = [directory for directory in run_directories if directory is not None]
    for directory in directories:
        files = find_tokenizers(directory)
        if "tokenizer" in files:
            joint = load_tokenizer(files["tokenizer"])
            return joint, joint
        if {"source", "target"} <= files.keys():
            return load_tokenizer(files["source"]), load_tokenizer(files["target"])
    where = " or ".join(map(str, directories))
    raise FileNotFoundError(f"{where} must hold a tokenizer (tokenizer.model, or source.* and target.*).")


def _round_up(length: int, longest: int | None) -> int:
    rounded = next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])
    return rounded if longest is None else min(rounded, max(longest, length))
