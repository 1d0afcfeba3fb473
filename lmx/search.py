"""How to search for translations: the settings of a `Translator`, and those that a run has kept."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lmx.constraints import EarlyStopping, ForcedEos, Rules
from lmx.decoding import LengthPenalty, SpecialIds, gnmt_penalty, power_penalty
from lmx.languages import first_word
from lmx.lines import words_in
from lmx.sampling import Sampling
from lmx.saved import read_config, read_field, read_fields
from lmx.text import Tokenizer

Normalisation = Literal["power", "gnmt"]
CHOICES: dict[str, tuple[str, ...]] = {
    "length_penalty": get_args(Normalisation),
    "early_stopping": get_args(EarlyStopping),
    "forced_eos": get_args(ForcedEos),
}
# What runs of earlier versions lack, and the value with which lmx does what they did; see `lmx.run.Run`.
EARLIER: dict[str, Any] = {
    "search.min_length": 0,
    "search.early_stopping": "true",
    "search.forced_eos": "scored",
    "search.suppress": [],
    "search.suppress_sequences": [],
    "search.begin_suppress": [],
    "search.renormalised": False,
    "search.forced_bos": None,
    "search.no_repeat": None,
    "search.repetition_penalty": 1.0,
    "search.temperature": 0.0,
    "search.top_k": None,
    "search.top_p": None,
    "search.seed": 1,
}


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search for translations; docs/decoding.md says what each field is elsewhere.

    Attributes:
        beam_size: number of hypotheses to keep for each sentence; 1 is greedy search.
        length_penalty: "power" divides by length^alpha (fairseq, Hugging Face), "gnmt" by ((5 + length) / 6)^alpha.
        alpha: strength of the length penalty; 0 is none.
        max_ratio, max_extra: a translation has at most max_ratio x L + max_extra tokens, where L is the source length
            rounded up to a compiled one.
        min_length: fewest tokens of a translation before its end (fairseq's `min_len`); 0 allows an empty one.
        early_stopping: when the search for a sentence is done, by Hugging Face's names. "true": as many hypotheses have
            ended as there are beams (fairseq); "false": and the likeliest beam would not improve on them at its present
            length; "never": nor at any length.
        forced_eos: what a translation pays for the end token where it reaches the longest length: "scored", the
            log-probability that the model gives it (fairseq); "free", nothing (Hugging Face's `forced_eos_token_id`);
            "none" leaves it without an end token.
        suppress: pieces or ids of words that no translation holds.
        suppress_sequences: pieces or ids with spaces between, which no translation holds one behind the other.
        begin_suppress: pieces or ids of words that no translation begins with, behind a forced first word.
        renormalised: where a word may not come, the others of a beam search get its probability (Hugging Face's
            `renormalize_logits`).
        forced_bos: piece or id of the word that each translation begins with, behind the start token: the language
            (NLLB, mBART-50). It costs nothing, counts as a token, and is not part of the text.
        no_repeat: no sequence of this many tokens occurs twice in a translation; None allows all.
        repetition_penalty: divides positive scores of words that a translation has already, and multiplies negative
            ones: logits, but in beam search log-probabilities, as Hugging Face does; 1 has no effect.
        temperature: over 0 draws words, and divides their logits; beam_size must be 1. 0 searches.
        top_k: draws among this many likeliest words; None among all.
        top_p: draws among the fewest likeliest words that together have this probability.
        seed: seed of the draws. A line gets the same translation for a seed, alone or among others.
        batch_tokens: source tokens to decode at once, with padding. Bounds the memory: each token gets at most 256 KiB
            of logits and caches, so a large vocabulary, a large model or many beams make batches with fewer rows.
    """

    beam_size: int = 5
    length_penalty: Normalisation = "power"
    alpha: float = 1.0
    max_ratio: float = 1.5
    max_extra: int = 16
    min_length: int = 1
    early_stopping: EarlyStopping = "true"
    forced_eos: ForcedEos = "scored"
    suppress: tuple[int | str, ...] = ()
    suppress_sequences: tuple[str, ...] = ()
    begin_suppress: tuple[int | str, ...] = ()
    renormalised: bool = False
    forced_bos: int | str | None = None
    no_repeat: int | None = None
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 1
    batch_tokens: int = 2048

    def __post_init__(self):
        for name in ("beam_size", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={getattr(self, name)}.")
        if self.min_length < 0:
            raise ValueError(f"min_length must be at least 0, got min_length={self.min_length}.")
        if not (0 <= self.max_ratio < math.inf and self.max_extra >= 0 and self.max_ratio + self.max_extra > 0):
            raise ValueError(
                "max_ratio and max_extra must be at least 0, and one of them over 0, got "
                f"max_ratio={self.max_ratio:g} and max_extra={self.max_extra}."
            )
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be finite, got alpha={self.alpha}.")
        words = [(name, word) for name in ("suppress", "begin_suppress") for word in getattr(self, name)]
        for name, word in (*words, ("forced_bos", self.forced_bos)):
            if word is not None and (isinstance(word, bool) or not isinstance(word, (int, str))):
                raise ValueError(f"{name} must be pieces or ids, got {name}={word!r}.")
        for words in self.suppress_sequences:
            if not words_in(words):
                raise ValueError(f"suppress_sequences must hold words, got suppress_sequences={words!r}.")
        self.sampling()  # checks the fields that it shares
        if self.temperature and self.beam_size > 1:
            raise ValueError(
                f"beam_size must be 1 where words are drawn, got beam_size={self.beam_size} and "
                f"temperature={self.temperature:g}."
            )
        for name in ("top_k", "top_p"):
            if getattr(self, name) is not None and not self.temperature:
                raise ValueError(f"{name} must come with a temperature over 0, got {name}={getattr(self, name)}.")

    def __str__(self) -> str:
        if self.temperature:
            said = str(self.sampling())
        elif self.beam_size == 1:
            said = "greedy"
        else:
            said = f"beam {self.beam_size}, {self.length_penalty} length penalty {self.alpha:g}"
        others = ("min_length", "early_stopping", "forced_eos", "suppress", "suppress_sequences", "begin_suppress")
        for name in (*others, "forced_bos", "no_repeat", "repetition_penalty"):
            if (value := getattr(self, name)) != getattr(type(self), name):
                between = ", " if name == "suppress_sequences" else " "
                shown = between.join(map(str, value)) if isinstance(value, tuple) else value
                said += f", {name.replace('_', ' ')} {shown}"
        said += ", renormalised" if self.renormalised else ""
        return said

    def sampling(self) -> Sampling:
        """Returns how words are drawn."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            no_repeat=self.no_repeat,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )

    def normaliser(self) -> LengthPenalty:
        """Returns what divides the log-probability of a translation by its length."""
        return {"power": power_penalty, "gnmt": gnmt_penalty}[self.length_penalty](self.alpha)

    def most_tokens(self, source_length: int, *, is_short: bool = False) -> int:
        """Returns how many tokens a translation has at most.

        Args:
            is_short: under the usual bound, if that is lower; few translations are longer.
        """
        most = max(1, int(source_length * self.max_ratio) + self.max_extra)
        return min(most, int(source_length * Search.max_ratio) + Search.max_extra) if is_short else most

    def settles(self) -> bool:
        """Returns whether a search that ended early found what it would have under any longer bound."""
        if self.temperature:  # keeps the order of draws
            return False
        by_beams = self.early_stopping == "true" or (self.early_stopping == "false" and self.forced_eos != "scored")
        return self.beam_size == 1 or by_beams

    def check_n_best(self, n_best: int) -> None:
        """Checks that a sentence can have `n_best` translations.

        Raises:
            ValueError: they are more than there are beams, or none.
        """
        if n_best < 1:
            raise ValueError(f"n_best must be at least 1, got n_best={n_best}.")
        if n_best > self.beam_size and not self.temperature:
            raise ValueError(
                f"n_best must be at most beam_size={self.beam_size}, got n_best={n_best}. Raise the beam size, or draw "
                "with a temperature."
            )


def read_search(run_directory: Path, **changes: Any) -> Search:
    """Returns the search that a run's model was scored with, with changes; missing fields get their defaults.

    Where a temperature of 0 is asked of a run that draws, its top_k and top_p go, too.

    Raises:
        FileNotFoundError: the directory is not a run's, or its training has not begun.
        ValueError: the run is of another kind, or its config.json damaged; or a change is not possible.
    """
    saved = read_config(run_directory, family="seq2seq", purpose="translates")
    path = run_directory / "config.json"
    fields = read_field(saved, "config", "search", kind=dict | None, path=path) or {}
    for name, choices in CHOICES.items():
        if name in changes and changes[name] not in choices:
            raise ValueError(f"{name} must be {' or '.join(choices)}, got {name}={changes[name]}.")
    if changes.get("temperature") == 0:
        changes = {"top_k": None, "top_p": None, **changes}
    return replace(read_fields(Search, fields, path=path, field="config.search"), **changes)


def rules_of(search: Search, tokenizer: Tokenizer, *, special: SpecialIds) -> tuple[Rules, tuple[int, ...]]:
    """Returns the rules of a search in ids, and the word that each translation begins with, if one is forced.

    Where the search forces none, it is the code of the target's language, if the tokenizer puts one before each text.

    Raises:
        ValueError: the target's vocabulary lacks a word, or the forced one may not come.
    """
    forced = first_word(tokenizer) if search.forced_bos is None else search.forced_bos
    first = word_ids(() if forced is None else (forced,), tokenizer, name="forced_bos")
    suppressed = word_ids(search.suppress, tokenizer, name="suppress")
    sequences = []
    for words in search.suppress_sequences:
        given = [int(word) if word.isdecimal() else word for word in words_in(words)]
        sequences.append(word_ids(given, tokenizer, name="suppress_sequences"))
    suppressed += tuple(words[0] for words in sequences if len(words) == 1)
    begun = word_ids(search.begin_suppress, tokenizer, name="begin_suppress")
    sequences = [words for words in sequences if len(words) > 1] + [(special.bos, *first, word) for word in begun]
    for word in set(first) & {*special, *suppressed}:
        kind = "suppressed" if word in suppressed else "padding, start or end"
        raise ValueError(f"forced_bos must be a word that may come, got {forced}, which is {kind}.")
    rules = Rules(
        min_length=search.min_length,
        early_stopping=search.early_stopping,
        forced_eos=search.forced_eos,
        suppressed=tuple(word for word in suppressed if word not in special.never),
        sequences=tuple(sequences),
        renormalised=search.renormalised,
        no_repeat=search.no_repeat,
        repetition_penalty=search.repetition_penalty,
    )
    return rules, first


def word_ids(words: Sequence[int | str], tokenizer: Tokenizer, *, name: str) -> tuple[int, ...]:
    """Returns the ids of words that are given by their pieces or ids.

    Raises:
        ValueError: the vocabulary has no such piece or id; the message names the nearest.
    """
    if not words:
        return ()
    size, found = tokenizer.vocab_size, []
    ids: dict[str, int] = {}
    if any(isinstance(word, str) for word in words):
        for index, piece in enumerate(tokenizer.pieces(range(size))):
            ids.setdefault(piece, index)
    for word in words:
        if isinstance(word, str) and word not in ids:
            nearest = difflib.get_close_matches(word, ids, n=1, cutoff=0.5)
            hint = f" Nearest: {nearest[0]}." if nearest else ""
            raise ValueError(f"{name} must be pieces of the target vocabulary, got {name}={word}.{hint}")
        index = ids[word] if isinstance(word, str) else word
        if not 0 <= index < size:
            raise ValueError(f"{name} must be ids from 0 to {size - 1}, got {name}={index}.")
        found.append(index)
    return tuple(found)
