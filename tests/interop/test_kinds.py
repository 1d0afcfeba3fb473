"""Of what kind each value of others' JSON files must be, to the border; and what is said of another."""

from pathlib import Path
from typing import Any

import pytest

from lmx.errors import InputError
from lmx.interop import kinds
from lmx.interop.kinds import CTRANSLATE2, check_kinds, given

BORDERS: list[tuple[str, list[Any], list[Any]]] = [
    ("hidden_size", [1, 2**31 - 1], [0, 2**31, 1.0, True, "1", [1]]),
    ("num_hidden_layers", [1, 10_000], [0, 10_001]),
    ("vocab_size", [1, 4_194_304], [0, 4_194_305]),
    ("extra_ids", [0, 4_194_304], [-1, 4_194_305]),
    ("type_vocab_size", [0, 2**31 - 1], [-1, 2**31]),
    ("dropout", [0, 0.5, 0.999], [-0.1, 1, True, "0"]),
    ("layer_norm_eps", [1e-12, 0.9], [0, 1, -1e-5]),
    ("rope_theta", [0.5, 10_000, 1e6], [0, -1, float("inf"), float("nan"), 2**31]),
    ("temperature", [0, 0.7, 2**31 - 1], [-0.1, 2**31, True]),
    ("pad_token_id", [-1, 0, 5], [-2, 1.0, [0], True]),
    ("eos_token_id", [-1, 0, [2, 3], [-1]], [-2, [], [2, "x"], [-2], "2"]),
    ("tie_word_embeddings", [True, False], [0, 1, "true"]),
    ("model_type", ["", "gpt2"], [1, ["gpt2"]]),
    ("architectures", [[], ["A"]], ["A", [1], ["A", 1]]),
    ("id2label", [{}, {"0": "a"}], [[], "a"]),
    ("unheard_of", [1, "x", []], []),
]


@pytest.mark.parametrize(("name", "right", "wrong"), BORDERS, ids=[name for name, *_ in BORDERS])
def test_values_are_taken_up_to_the_border(name: str, right: list[Any], wrong: list[Any]):
    for value in right:
        assert given({name: value}, path=Path("config.json")) == {name: value}
    for value in wrong:
        with pytest.raises(InputError, match=rf"^config\.json must have .* in {name}, got "):
            given({name: value}, path=Path("config.json"))


def test_a_message_says_the_border():
    said = {kind: kind.said for kind in kinds.KINDS.values()}
    assert said[kinds.SIZE] == said[kinds.COUNT].replace("from 0", "from 1") == "a whole number from 1 to 2147483647"
    assert said[kinds.LAYERS] == "a whole number from 1 to 10000"
    assert said[kinds.WORDS] == said[kinds.TOKENS].replace("from 0", "from 1") == "a whole number from 1 to 4194304"
    with pytest.raises(InputError, match=r"got 'x{59}\.$"):  # of a long value, its first part
        given({"hidden_size": "x" * 99}, path=Path("config.json"))


def test_null_is_not_given_within_objects_too():
    fields = {"a": None, "vocab_size": None, "rope_scaling": {"factor": None, "type": "linear"}, "other": {"x": None}}
    assert given(fields, path=Path("x")) == {"rope_scaling": {"type": "linear"}, "other": {"x": None}}
    assert given({"rope_scaling": None}, path=Path("x")) == {}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"rope_scaling": {"factor": "x"}}, "factor"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta"),
        ({"added_tokens_decoder": {"5": {"content": 7}}}, "content"),
        ({"added_tokens_decoder": {"5": "x", "6": {"lstrip": 0}}}, "lstrip"),
    ],
)
def test_objects_are_looked_into(fields: dict[str, Any], name: str):
    with pytest.raises(InputError, match=rf"must have .* in {name}, got "):
        check_kinds(fields, path=Path("x"))
    check_kinds({"added_tokens_decoder": {"5": "x"}, "elsewhere": fields}, path=Path("x"))


def test_what_ctranslate2_says_of_its_tokens_is_text():
    names = ("bos_token", "eos_token", "unk_token", "decoder_start_token")
    for name, wrong in [*((name, 3) for name in names), ("add_source_bos", 1), ("add_source_eos", "x")]:
        with pytest.raises(InputError, match=rf"in {name}, got "):
            check_kinds({name: wrong}, path=Path("x"), kinds=CTRANSLATE2)
    with pytest.raises(InputError, match="a number above 0 and below 1 in layer_norm_epsilon, got 0"):
        check_kinds({"layer_norm_epsilon": 0}, path=Path("x"), kinds=CTRANSLATE2)
    check_kinds({"hidden_size": "x", "bos_token": None}, path=Path("x"), kinds=CTRANSLATE2)
