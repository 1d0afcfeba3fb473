"""How `generate` of Hugging Face is set for a decoder, as a sampling of ours, and a sampling of ours as they set it.

What translates is in `search_settings`. A line tells what one side cannot do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.interop.search_settings import UNKNOWN, UNKNOWN_OF_DRAWS, Settings, Told
from lmx.models.decoder import DecoderConfig
from lmx.sampling import Sampling
from lmx.saved import read_fields

# Settings that no sampling here has, and the values with which they do nothing; None is always one.
UNKNOWN_OF_DECODERS: Mapping[str, Any] = {
    **UNKNOWN,
    "bad_words_ids": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "num_beams": 1,
    "suppress_tokens": [],
}
OF_DRAWS = ("top_p", "min_p")  # besides temperature and top_k, which have defaults of their own there
LENGTH, TOP_K = 20, 50  # of theirs, where nothing is said


def sampling_of(said: Mapping[str, Any], model: DecoderConfig, *, where: str) -> Told:
    """Returns the fields of `Sampling` that write as `generate` does with these settings.

    Args:
        said: without those that are null.
        where: for messages.

    Raises:
        InputError: a setting is of another type than theirs.
    """
    settings, unknown = Settings(said, where), dict(UNKNOWN_OF_DECODERS)
    fields: dict[str, Any] = {"temperature": 0.0}
    if settings.get("do_sample", False):
        fields = {"temperature": settings.get("temperature", 1.0) or 1.0}
        if top_k := settings.get("top_k", TOP_K, least=0):
            fields["top_k"] = top_k
        fields |= {name: said[name] for name in OF_DRAWS if said.get(name)}
        unknown |= {name: value for name, value in UNKNOWN_OF_DRAWS.items() if name not in OF_DRAWS}
    if penalty := said.get("repetition_penalty"):
        fields["repetition_penalty"] = float(penalty)
    for theirs, ours in (
        ("no_repeat_ngram_size", "no_repeat"), ("max_new_tokens", "max_tokens"), ("min_new_tokens", "min_tokens")
    ):  # fmt: skip
        if value := settings.get(theirs, 0, least=0):
            fields[ours] = value
    left = [f"{name}={said[name]!r:.60}" for name, value in unknown.items() if said.get(name) not in (None, value)]
    # Both count the prompt. A longest length beyond the model's is none.
    most, least = settings.get("max_length", LENGTH), settings.get("min_length", 0)
    if "max_tokens" not in fields and most != LENGTH and most < model.max_length:
        left.append(f"max_length={most}: it counts the prompt, say --max-tokens")
    if "min_tokens" not in fields and least > 0:
        left.append(f"min_length={least}: it counts the prompt, say --min-tokens")
    try:
        Sampling(**fields)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return Told(fields, left)


def their_sampling(sampling: Mapping[str, Any], *, path: Path) -> Told:
    """Returns the settings of `generate` with which it writes as a run does.

    Args:
        sampling: as the run has saved it.
        path: of the file with it, for messages.

    Raises:
        ValueError: the run's sampling is damaged.
    """
    ours = read_fields(Sampling, dict(sampling), path=path, field="config.sampling")
    said: dict[str, Any] = {"do_sample": ours.temperature > 0, "max_new_tokens": ours.max_tokens}
    if ours.temperature:  # else transformers takes them for a mistake
        said |= {"temperature": ours.temperature, "top_k": ours.top_k or 0}  # without top_k, theirs is 50
        said |= {name: value for name in OF_DRAWS if (value := getattr(ours, name)) is not None}
    if ours.repetition_penalty != 1:
        said["repetition_penalty"] = ours.repetition_penalty
    if ours.no_repeat is not None:
        said["no_repeat_ngram_size"] = ours.no_repeat
    if ours.min_tokens:
        said["min_new_tokens"] = ours.min_tokens
    left = [f"stop={list(ours.stop)}: theirs needs the tokenizer in each call, and keeps the text"] if ours.stop else []
    return Told(said, left)
