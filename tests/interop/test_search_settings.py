"""A search in the words of `generate` and back, field by field, without a model; and what each side leaves out."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lmx.errors import InputError
from lmx.interop.sampling_settings import sampling_of
from lmx.interop.search_settings import Settings, read_search, search_of, their_search
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import write_json
from lmx.search import Search
from lmx.text import ByteTokenizer
from tests.interop.models import MODELS

MODEL = Seq2SeqConfig(source_vocab_size=260, target_vocab_size=260, width=12, num_heads=3, max_length=40)
NOTHING = {"num_beams": 1, "max_length": 17}
WHERE = Path("config.json")


def saved(**fields: Any) -> dict[str, Any]:
    """A search as a run has it, with nothing that is not asked."""
    plain: dict[str, Any] = {"beam_size": 1, "max_ratio": 0.0, "min_length": 0, "forced_eos": "none"}
    return json.loads(json.dumps(dataclasses.asdict(Search(**plain | fields))))


def said(target: Any = None, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """What a search becomes, but for what it is where nothing is asked."""
    told = their_search(saved(**fields), MODEL, target, path=WHERE)
    return {name: value for name, value in told.fields.items() if NOTHING.get(name) != value}, told.left


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        ({}, {}),
        ({"max_extra": 39}, {"max_length": 40}),
        ({"max_extra": 99}, {"max_length": 41}),  # as far as the model goes, and the start token
        ({"min_length": 3}, {"min_length": 4}),
        ({"alpha": 0.5}, {}),  # of one beam there is no choice
        ({"beam_size": 3, "alpha": 0.5}, {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True}),
        (
            {"beam_size": 2, "early_stopping": "false"},
            {"num_beams": 2, "length_penalty": 1.0, "early_stopping": False},
        ),
        (
            {"beam_size": 2, "early_stopping": "never"},
            {"num_beams": 2, "length_penalty": 1.0, "early_stopping": "never"},
        ),
        ({"no_repeat": 2, "repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.5}),
        ({"renormalised": True}, {"renormalize_logits": True}),
        ({"forced_bos": 9}, {"forced_bos_token_id": 9}),
        ({"suppress": (5, 6), "begin_suppress": (7,)}, {"suppress_tokens": [5, 6], "begin_suppress_tokens": [7]}),
        ({"suppress_sequences": ("8 9", "7")}, {"bad_words_ids": [[8, 9], [7]]}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0}),
        (
            {"temperature": 2.0, "top_k": 7, "top_p": 0.5},
            {"do_sample": True, "temperature": 2.0, "top_k": 7, "top_p": 0.5},
        ),
    ],
)
def test_each_field_of_a_search_has_their_word_for_it(fields: dict[str, Any], theirs: dict[str, Any]):
    assert said(**fields) == (theirs, [])
    assert said(ByteTokenizer(), **fields) == (theirs, [])
    told = their_search(saved(**fields), MODEL, None, path=WHERE)
    again = search_of(told.fields, MODEL, None, where="here").fields
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    lost = {"max_extra", "alpha" if "beam_size" not in fields else ""}
    assert {name: again[name] for name in kept if name not in lost} == {
        name: value for name, value in kept.items() if name not in lost
    }


def test_what_they_cannot_do_is_told_and_left_out():
    tokenizer = ByteTokenizer()
    assert said(tokenizer, forced_eos="free") == ({"forced_eos_token_id": 2}, [])
    assert said(tokenizer, forced_eos="scored") == (
        {"forced_eos_token_id": 2},
        ["forced_eos=scored: theirs costs nothing"],
    )
    assert said(forced_eos="free") == ({}, ["forced_eos: the end needs a tokenizer"])
    fields, left = said(beam_size=2, length_penalty="gnmt", max_ratio=1.5)
    assert fields == {"num_beams": 2, "early_stopping": True, "max_length": 40}
    assert left == [
        "length_penalty=gnmt: theirs divides by the length to the power of alpha",
        "max_ratio=1.5: their longest length does not depend on the source",
    ]
    words: dict[str, Any] = {"suppress": ("a", 5), "suppress_sequences": ("a b", "7 8"), "forced_bos": "c"}
    fields, left = said(**words)
    assert fields == {"bad_words_ids": [[7, 8]]}
    assert left == [f"{name}: pieces need a tokenizer" for name in ("forced_bos", "suppress", "suppress_sequences")]
    a, b, c = tokenizer.encode("abc")
    fields, left = said(tokenizer, **words)
    assert fields == {"suppress_tokens": [a, 5], "bad_words_ids": [[a, b], [7, 8]], "forced_bos_token_id": c}
    assert not left


@pytest.mark.parametrize(
    ("theirs", "fields"),
    [
        ({"max_length": 20}, {"max_ratio": 0.0, "max_extra": 19}),
        ({"max_length": 20, "max_new_tokens": 7}, {"max_ratio": 0.0, "max_extra": 7}),
        ({"max_length": 1}, {}),
        ({"min_length": 5}, {"min_length": 4}),
        ({"min_length": 0}, {"min_length": 0}),
        ({"min_length": 5, "min_new_tokens": 2}, {"min_length": 2}),
        ({"num_beams": 3, "length_penalty": 2}, {"beam_size": 3, "alpha": 2.0}),
        ({"early_stopping": None}, {"early_stopping": "false"}),
        ({"early_stopping": True}, {"early_stopping": "true"}),
        ({"early_stopping": "never"}, {"early_stopping": "never"}),
        ({"no_repeat_ngram_size": 0}, {"no_repeat": None}),
        ({"forced_eos_token_id": 2}, {"forced_eos": "free"}),
        ({"forced_eos_token_id": [2]}, {"forced_eos": "free"}),
        ({"forced_bos_token_id": 0}, {"forced_bos": 0}),
        ({"forced_bos_token_id": 259}, {"forced_bos": 259}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50, "top_p": None}),
        ({"do_sample": True, "top_k": 0, "top_p": 1.0}, {"temperature": 1.0, "top_k": None, "top_p": None}),
        ({"do_sample": False, "temperature": 0.5, "top_k": 3, "typical_p": 0.5}, {}),
        ({"bad_words_ids": [[2], [7]]}, {"suppress_sequences": ["7"]}),  # the end comes all the same
        ({"suppress_tokens": [3, 259]}, {"suppress": [3, 259]}),
    ],
)
def test_their_settings_become_a_search(theirs: dict[str, Any], fields: dict[str, Any]):
    nothing = search_of({"eos_token_id": 2}, MODEL, None, where="here")
    told = search_of({"eos_token_id": 2, **theirs}, MODEL, None, where="here")
    assert (told.fields, told.left, nothing.left) == ({**nothing.fields, **fields}, [], [])


@pytest.mark.parametrize(
    ("theirs", "left"),
    [
        ({"forced_eos_token_id": 5}, "forced_eos_token_id=5: the end is 2"),
        ({"forced_bos_token_id": 2}, "forced_bos_token_id=2: it is padding, start, end or suppressed"),
        ({"forced_bos_token_id": 0, "pad_token_id": 0}, "forced_bos_token_id=0: it is padding, start, end or"),
        ({"forced_bos_token_id": 4, "decoder_start_token_id": 4}, "forced_bos_token_id=4: it is padding, start"),
        ({"forced_bos_token_id": 4, "suppress_tokens": [4]}, "forced_bos_token_id=4: it is padding, start, end"),
        ({"forced_bos_token_id": 260}, "forced_bos_token_id=260: the model has 260 words"),
        ({"forced_bos_token_id": -1}, "forced_bos_token_id=-1: the model has 260 words"),
        ({"suppress_tokens": [260]}, "suppress_tokens=[260]: the model has 260 words"),
        ({"bad_words_ids": [[5, 260]]}, "bad_words_ids=[5, 260]: the model has 260 words"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=true with num_beams=2: beams are searched, not drawn"),
    ],
)
def test_what_no_search_here_does_is_told(theirs: dict[str, Any], left: str):
    told = search_of({"eos_token_id": 2, **theirs}, MODEL, None, where="here")
    assert [text[: len(left)] for text in told.left] == [left]
    assert told.fields.get("forced_bos") is None
    assert told.fields["forced_eos"] == "none"
    assert not told.fields["suppress_sequences"]


# What does nothing in `GenerationConfig`, and what would do something.
NEUTRAL: dict[str, tuple[Any, Any]] = {
    "constraints": ([], ["x"]),
    "diversity_penalty": (0.0, 0.5),
    "encoder_no_repeat_ngram_size": (0, 3),
    "encoder_repetition_penalty": (1.0, 1.5),
    "exponential_decay_length_penalty": ([], [3, 1.1]),
    "force_words_ids": ([], [[3]]),
    "forced_decoder_ids": ([], [[1, 3]]),
    "guidance_scale": (1.0, 2.0),
    "max_time": (0.0, 9.0),
    "num_beam_groups": (1, 2),
    "num_return_sequences": (1, 4),
    "penalty_alpha": (0.0, 0.5),
    "sequence_bias": ([], [[[3], 1.0]]),
    "stop_strings": ([], ["x"]),
    "watermarking_config": ({}, {"bias": 2.0}),
}
OF_DRAWS: dict[str, tuple[Any, Any]] = {"epsilon_cutoff": (0.0, 0.1), "eta_cutoff": (0.0, 0.1), "typical_p": (1.0, 0.5)}
OF_SEARCHES = {"min_p": (0.0, 0.1)}
OF_DECODERS: dict[str, tuple[Any, Any]] = {
    "bad_words_ids": ([], [[3]]),
    "begin_suppress_tokens": ([], [3]),
    "forced_bos_token_id": (None, 3),
    "forced_eos_token_id": (None, 3),
    "num_beams": (1, 3),
    "suppress_tokens": ([], [3]),
}


@pytest.mark.parametrize(
    "theirs",
    [
        {"forced_bos_token_id": 263},
        {"suppress_tokens": [263]},
        {"begin_suppress_tokens": [263]},
        {"bad_words_ids": [[4, 263]]},
    ],
)
def test_rows_of_a_table_that_are_no_word_of_the_tokenizer_are_left_out(theirs: dict[str, Any]):
    wider = dataclasses.replace(MODEL, source_vocab_size=288, target_vocab_size=288)
    told = search_of(theirs, wider, ByteTokenizer(), where="here")
    assert len(told.left) == 1
    assert told.left[0].endswith(f"the model has {ByteTokenizer().vocab_size} words")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in told.fields.items()}
    their_search(saved(**fields), wider, ByteTokenizer(), path=WHERE)  # refuses no word


def test_a_setting_is_left_out_where_it_does_something_and_then_alone():
    decoder = MODELS["gpt2"]
    for settings, read in (
        ({**NEUTRAL, **OF_DRAWS, **OF_SEARCHES}, lambda given: search_of(given, MODEL, None, where="here").left),
        ({**NEUTRAL, **OF_DRAWS, **OF_DECODERS}, lambda given: sampling_of(given, decoder, where="here").left),
    ):
        begin = {"eos_token_id": 2, "do_sample": True}
        assert read(begin | {name: neutral for name, (neutral, _) in settings.items()}) == []
        for name, (_, other) in settings.items():
            (left,) = read({**begin, name: other})
            assert left.startswith(f"{name}="), name
        for name in OF_DRAWS:
            assert read({"eos_token_id": 2, name: settings[name][1]}) == []


def test_numbers_are_checked_with_their_kind():
    given = {"whole": 3, "part": 0.5, "flag": True, "text": "x", "none": None}
    settings = Settings(given, "here")
    assert (settings.get("whole", 1), settings.get("part", 1.0), settings.get("flag", False)) == (3, 0.5, True)
    assert isinstance(settings.get("whole", 1.0), float)
    assert (settings.get("none", 7), settings.get("absent", 7), settings.get("text", None)) == (7, 7, "x")
    assert settings.get("whole", 1, least=3) == 3
    for name, default in (("part", 1), ("flag", 1), ("flag", 1.0), ("text", 1.0), ("part", False), ("text", True)):
        with pytest.raises(InputError, match=rf"here must have a number in {name}, got "):
            settings.get(name, default)
    with pytest.raises(InputError, match="here must have at least 4 in whole, got 3"):
        settings.get("whole", 1, least=4)
    for wrong in ({"x": 3}, 3, [[3], 4], [["a"]], [[-1]]):
        with pytest.raises(InputError, match="here must have a list of ids in x, got "):
            Settings({"x": wrong}, "here").rows("x")


def test_ids_that_generation_config_lacks_are_those_of_config(tmp_path: Path):
    write_json(tmp_path / "generation_config.json", {"forced_eos_token_id": 5, "num_beams": 2})
    told = read_search(tmp_path, {"eos_token_id": 5, "num_beams": 7, "decoder_start_token_id": 8}, MODEL, None)
    assert (told.fields["beam_size"], told.fields["forced_eos"], told.left) == (2, "free", [])
    write_json(tmp_path / "generation_config.json", {"forced_bos_token_id": 8, "eos_token_id": 9})
    told = read_search(tmp_path, {"eos_token_id": 5, "decoder_start_token_id": 8}, MODEL, None)
    assert told.left == ["forced_bos_token_id=8: it is padding, start, end or suppressed"]
