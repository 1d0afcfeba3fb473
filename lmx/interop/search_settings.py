"""How `generate` of Hugging Face is set, as a search of ours, and a search of ours as they set it.

docs/decoding.md says what the fields mean in both. A line tells what one side cannot do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.interop.tokenizer_files import read_object
from lmx.languages import first_word
from lmx.lines import words_in
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_fields
from lmx.search import Search, word_ids
from lmx.text import Tokenizer

# Settings that no search here has, and the values with which they do nothing; None is always one.
UNKNOWN: Mapping[str, Any] = {
    "constraints": [],
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": [],
    "force_words_ids": [],
    "forced_decoder_ids": [],
    "guidance_scale": 1.0,
    "max_time": 0.0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "penalty_alpha": 0.0,
    "sequence_bias": [],
    "stop_strings": [],
    "watermarking_config": {},
}
# The same of settings that count where words are drawn.
UNKNOWN_OF_DRAWS: Mapping[str, Any] = {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "min_p": 0.0, "typical_p": 1.0}
EARLY = {None: "false", False: "false", True: "true", "never": "never"}


@dataclass
class Told:
    """A search in the words of the other side, and what is left out of it.

    Attributes:
        fields: of the search.
        left: a text for each setting that cannot be taken.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class Settings:
    """Their settings, read with checks."""

    def __init__(self, said: Mapping[str, Any], where: str):
        self._said, self._where = said, where

    def get(self, name: str, default: Any, *, least: int | None = None) -> Any:
        """Returns a number of the type of the default, or another value as it stands.

        Raises:
            InputError: it is of another type, or below `least`.
        """
        value = self._said.get(name)
        if value is None:
            return default
        kinds = {float: (int, float), int: (int,), bool: (bool, int)}.get(type(default), (object,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and type(default) in (int, float)):
            raise InputError(f"{self._where} must have a number in {name}, got {value!r:.60}.")
        if least is not None and value < least:
            raise InputError(f"{self._where} must have at least {least} in {name}, got {value!r}.")
        return type(default)(value) if type(default) in (int, float, bool) else value

    def ids(self, name: str) -> list[int]:
        """Returns a list of ids.

        Raises:
            InputError: it is none.
        """
        return self._list(self._said.get(name) or [], name)

    def rows(self, name: str) -> list[list[int]]:
        """Returns a list of lists of ids.

        Raises:
            InputError: it is none.
        """
        rows = self._said.get(name) or []
        if not isinstance(rows, list):
            raise InputError(f"{self._where} must have a list of ids in {name}, got {rows!r:.60}.")
        return [self._list(row, name) for row in rows]

    def _list(self, value: Any, name: str) -> list[int]:
        if not isinstance(value, list) or not all(isinstance(each, int) and each >= 0 for each in value):
            raise InputError(f"{self._where} must have a list of ids in {name}, got {value!r:.60}.")
        return [int(each) for each in value]


def read_search(folder: Path, theirs: Mapping[str, Any], model: Seq2SeqConfig, target: Tokenizer | None) -> Told:
    """Returns the search of a folder's generation_config.json; of older folders, of config.json.

    Args:
        theirs: the content of config.json.
        target: its tokenizer, if the folder has one.

    Raises:
        InputError: a setting is of another type than theirs.
    """
    path = folder / "generation_config.json"
    said = read_object(path) if path.is_file() else theirs
    ids = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
    said = {**{name: theirs[name] for name in ids if name in theirs}, **said}
    return search_of(said, model, target, where=str(path if path.is_file() else folder / "config.json"))


def search_of(said: Mapping[str, Any], model: Seq2SeqConfig, target: Tokenizer | None, *, where: str) -> Told:
    """Returns the fields of `Search` that search as `generate` does with these settings.

    Args:
        where: for messages.

    Raises:
        InputError: a setting is of another type than theirs.
    """
    settings, left = Settings(said, where), []
    ends = said.get("eos_token_id") if target is None else target.eos_id
    ends = ends if isinstance(ends, list) else [ends]
    listed = said.get("eos_token_id")
    if isinstance(listed, list) and len(listed) > 1:
        left.append(f"eos_token_id={listed}: only {ends[0]} ends a translation")
    beams = settings.get("num_beams", 1, least=1)
    early = said.get("early_stopping")
    if not isinstance(early, (bool, str, type(None))) or early not in EARLY:
        raise InputError(f"{where} must have true, false or 'never' in early_stopping, got {early!r:.60}.")
    fields: dict[str, Any] = {
        "beam_size": beams,
        "length_penalty": "power",
        "alpha": settings.get("length_penalty", 1.0),
        "early_stopping": EARLY[early],
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
        "no_repeat": settings.get("no_repeat_ngram_size", 0, least=0) or None,
        "renormalised": settings.get("renormalize_logits", False),
    }
    fields |= _lengths(settings)
    forced = said.get("forced_eos_token_id")
    fields["forced_eos"] = "none" if forced is None else "free"
    if forced is not None and forced not in (ends[0], ends[:1]):
        left.append(f"forced_eos_token_id={forced}: the end is {ends[0]}")
        fields["forced_eos"] = "none"
    words = model.target_vocab_size if target is None else min(model.target_vocab_size, target.vocab_size)
    fields |= _words(settings, words, ends=ends, left=left)
    special = _special(said, target) | {each for each in ends if each is not None}
    first = said.get("forced_bos_token_id")
    if first is None and target is not None:
        first = first_word(target)
    if isinstance(first, int) and first not in special and first not in fields["suppress"]:
        if 0 <= first < words:
            fields["forced_bos"] = first
        else:
            left.append(f"forced_bos_token_id={first}: the model has {words:,} words")
    elif first is not None:
        left.append(f"forced_bos_token_id={first}: it is padding, start, end or suppressed")
    unknown = dict(UNKNOWN)
    if settings.get("do_sample", False):
        unknown |= UNKNOWN_OF_DRAWS
        if beams > 1:
            left.append(f"do_sample=true with num_beams={beams}: beams are searched, not drawn")
        else:
            fields["temperature"] = settings.get("temperature", 1.0)
            fields["top_k"] = settings.get("top_k", 50, least=0) or None
            top_p = settings.get("top_p", 1.0)
            fields["top_p"] = None if top_p == 1 else top_p
    for name, neutral in unknown.items():
        if said.get(name) not in (None, neutral):
            left.append(f"{name}={said[name]!r:.60}")
    try:
        values: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()
        }
        Search(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return Told(fields, left)


def _lengths(settings: Settings) -> dict[str, Any]:
    """Returns how long translations are; their `max_length` and `min_length` count the start token, too."""
    fields: dict[str, Any] = {"min_length": max(0, settings.get("min_length", 0) - 1)}
    if least := settings.get("min_new_tokens", 0):
        fields["min_length"] = least
    most = settings.get("max_new_tokens", 0) or settings.get("max_length", 0) - 1
    return fields | ({"max_ratio": 0.0, "max_extra": most} if most > 0 else {})


def _words(settings: Settings, number: int, *, ends: Sequence[Any], left: list[str]) -> dict[str, Any]:
    """Returns which of a number of words do not come."""

    def known(name: str, sequences: list[list[int]]) -> list[list[int]]:
        """Leaves out what is no word."""
        for each in sequences:
            if each and max(each) >= number:
                left.append(f"{name}={each}: the model has {number:,} words")
        return [each for each in sequences if each and max(each) < number]

    single = {name: [[word] for word in settings.ids(name)] for name in ("suppress_tokens", "begin_suppress_tokens")}
    bad = [each for each in settings.rows("bad_words_ids") if each not in [[end] for end in ends]]
    return {
        "suppress": [word for (word,) in known("suppress_tokens", single["suppress_tokens"])],
        "begin_suppress": [word for (word,) in known("begin_suppress_tokens", single["begin_suppress_tokens"])],
        "suppress_sequences": [" ".join(map(str, each)) for each in known("bad_words_ids", bad)],
    }


def _special(said: Mapping[str, Any], target: Tokenizer | None) -> set[int]:
    """Returns the ids of padding and start, as far as they are known."""
    if target is not None:
        return {target.pad_id, target.bos_id}
    found = (said.get(name) for name in ("pad_token_id", "decoder_start_token_id"))
    return {index for index in found if isinstance(index, int)}


def their_search(search: Mapping[str, Any], model: Seq2SeqConfig, target: Tokenizer | None, *, path: Path) -> Told:
    """Returns the settings of `generate` with which it searches as a run does.

    Args:
        search: as the run has saved it.
        path: of the file with it, for messages.

    Raises:
        ValueError: the run's search is damaged, or names a word that the target's vocabulary lacks.
    """
    ours = read_fields(Search, dict(search), path=path, field="config.search")

    def ids(name: str, words: Sequence[int | str]) -> list[int]:
        if target is None and any(isinstance(word, str) for word in words):
            left.append(f"{name}: pieces need a tokenizer")
            return []
        if target is None:
            return [word for word in words if isinstance(word, int)]
        return list(word_ids(words, target, name=name))

    left: list[str] = []
    said: dict[str, Any] = {
        "num_beams": ours.beam_size,
        "max_length": model.max_length,
    }
    if ours.beam_size > 1:  # else transformers takes them for a mistake
        rules = {name: theirs for theirs, name in EARLY.items() if theirs is not None}
        said |= {"length_penalty": ours.alpha, "early_stopping": rules[ours.early_stopping]}
    if ours.beam_size > 1 and ours.length_penalty != "power":
        del said["length_penalty"]
        left.append(f"length_penalty={ours.length_penalty}: theirs divides by the length to the power of alpha")
    if ours.max_ratio:
        left.append(f"max_ratio={ours.max_ratio:g}: their longest length does not depend on the source")
    else:
        said["max_length"] = min(ours.max_extra, model.max_length) + 1
    if ours.min_length:
        said["min_length"] = ours.min_length + 1
    if ours.forced_eos != "none" and target is None:
        left.append("forced_eos: the end needs a tokenizer")
    elif ours.forced_eos != "none" and target is not None:
        said["forced_eos_token_id"] = int(target.eos_id)
        if ours.forced_eos == "scored":
            left.append("forced_eos=scored: theirs costs nothing")
    if ours.no_repeat is not None:
        said["no_repeat_ngram_size"] = ours.no_repeat
    if ours.repetition_penalty != 1:
        said["repetition_penalty"] = ours.repetition_penalty
    if ours.renormalised:
        said["renormalize_logits"] = True
    forced = ours.forced_bos
    if forced is None and target is not None:
        forced = first_word(target)
    if forced is not None:
        said["forced_bos_token_id"] = next(iter(ids("forced_bos", [forced])), None)
    sequences = [[int(w) if w.isdecimal() else w for w in words_in(each)] for each in ours.suppress_sequences]
    listed = {
        "suppress_tokens": ids("suppress", ours.suppress),
        "begin_suppress_tokens": ids("begin_suppress", ours.begin_suppress),
        "bad_words_ids": [found for words in sequences if (found := ids("suppress_sequences", words))],
    }
    said |= {name: found for name, found in listed.items() if found}
    if ours.temperature:
        said |= {"do_sample": True, "temperature": ours.temperature, "top_k": ours.top_k or 0}
        said["top_p"] = 1.0 if ours.top_p is None else ours.top_p
    return Told(said, left)
