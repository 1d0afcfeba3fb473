"""How a decoder writes goes in and out: as `generate` of transformers would, or with a line on what is left out."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lmx.errors import InputError
from lmx.generator import read_sampling
from lmx.interop.convert import convert, export, open_model
from lmx.interop.sampling_settings import sampling_of, their_sampling
from lmx.models.decoder import DecoderConfig
from lmx.sampling import Sampling
from lmx.saved import read_record
from tests.interop.models import MODELS, write_run


def model() -> DecoderConfig:
    found = MODELS["gpt2"]
    assert isinstance(found, DecoderConfig)
    return dataclasses.replace(found, max_length=64)


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": False, "top_k": 7, "top_p": 0.5, "temperature": 0.3}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),  # theirs, where nothing is said
        ({"do_sample": True, "top_k": 0, "temperature": 0.5}, {"temperature": 0.5}),
        ({"do_sample": True, "top_k": 7, "top_p": 0.9, "min_p": 0.1}, {"top_k": 7, "top_p": 0.9, "min_p": 0.1}),
        ({"repetition_penalty": 1.25}, {"temperature": 0.0, "repetition_penalty": 1.25}),
        ({"no_repeat_ngram_size": 3, "min_new_tokens": 4}, {"temperature": 0.0, "no_repeat": 3, "min_tokens": 4}),
        ({"no_repeat_ngram_size": 0, "min_new_tokens": 0}, {"temperature": 0.0}),
        ({"max_new_tokens": 9, "max_length": 30}, {"temperature": 0.0, "max_tokens": 9}),
        ({"max_length": 20, "min_length": 0, "num_beams": 1}, {"temperature": 0.0}),
        ({"max_length": 64, "typical_p": 0.5}, {"temperature": 0.0}),  # as the model's; of draws alone
    ],
)
def test_settings_become_a_sampling_that_writes_as_they_do(said: dict[str, Any], fields: dict[str, Any]):
    told = sampling_of(said, model(), where="here")
    assert Sampling(**told.fields) == Sampling(**{"temperature": 1.0} | fields)
    assert not told.left


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"max_length": 30}, "max_length=30: it counts the prompt, say --max-tokens"),
        ({"min_length": 5}, "min_length=5: it counts the prompt, say --min-tokens"),
        ({"bad_words_ids": [[3]]}, "bad_words_ids=[[3]]"),
        ({"suppress_tokens": [3]}, "suppress_tokens=[3]"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id=2"),
        ({"stop_strings": ["x"]}, "stop_strings=['x']"),
        ({"encoder_repetition_penalty": 2.0}, "encoder_repetition_penalty=2.0"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p=0.5"),
    ],
)
def test_what_no_sampling_here_has_is_told(said: dict[str, Any], left: str):
    assert sampling_of(said, model(), where="here").left == [left]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"max_new_tokens": "many"}, "must have a number in max_new_tokens, got 'many'"),
        ({"no_repeat_ngram_size": -1}, "must have at least 0 in no_repeat_ngram_size, got -1"),
        ({"do_sample": True, "top_p": 1.5}, "top_p must be over 0 and at most 1, got top_p=1.5"),
    ],
)
def test_a_setting_that_is_none_is_named(said: dict[str, Any], message: str):
    with pytest.raises(InputError, match=rf"here:? {message}"):
        sampling_of(said, model(), where="here")


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(), {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": 128}),
        (Sampling(temperature=0.0, top_k=7), {"do_sample": False, "max_new_tokens": 128}),
        (
            Sampling(temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, max_tokens=9),
            {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "max_new_tokens": 9},
        ),
        (
            Sampling(temperature=0.0, repetition_penalty=1.5, no_repeat=3, min_tokens=4),
            {"do_sample": False, "max_new_tokens": 128, "repetition_penalty": 1.5}
            | {"no_repeat_ngram_size": 3, "min_new_tokens": 4},
        ),
    ],
)
def test_a_sampling_becomes_settings_that_write_as_it_does(sampling: Sampling, said: dict[str, Any]):
    told = their_sampling(json.loads(json.dumps(dataclasses.asdict(sampling))), path=Path("config.json"))
    assert (told.fields, told.left) == (said, [])
    again = sampling_of(told.fields, model(), where="here")
    assert not again.left
    kept = dataclasses.replace(sampling, top_k=sampling.top_k if sampling.temperature else None)
    assert Sampling(**again.fields) == kept


def test_what_they_lack_is_told():
    told = their_sampling({"stop": ["x", "y"]}, path=Path("config.json"))
    assert "stop_strings" not in told.fields
    assert told.left == ["stop=['x', 'y']: theirs needs the tokenizer in each call, and keeps the text"]


def test_a_run_goes_out_and_comes_in_with_its_sampling(tmp_path: Path):
    run, theirs = write_run(tmp_path / "run", MODELS["gpt2"], tokenizer=True), tmp_path / "theirs"
    saved = read_record(run / "config.json")
    saved["config"]["sampling"] = {"temperature": 0.7, "no_repeat": 2, "max_tokens": 9, "stop": ["x"]}
    (run / "config.json").write_text(json.dumps(saved))
    assert len(export(run, theirs, to="huggingface")) == 1
    convert(theirs, tmp_path / "again")
    assert read_sampling(tmp_path / "again") == Sampling(temperature=0.7, no_repeat=2, max_tokens=9)
    # Older folders say it in config.json.
    said = read_record(theirs / "config.json") | {"do_sample": True, "top_k": 3, "num_beams": 2}
    (theirs / "config.json").write_text(json.dumps(said))
    (theirs / "generation_config.json").unlink()
    found = open_model(theirs)
    assert found.settings["sampling"] == {"temperature": 1.0, "top_k": 3}
    assert found.left == ("num_beams=2",)
