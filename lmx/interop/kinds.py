"""What kind of value each field has that is read of Hugging Face's JSON files: checked where a file is read.

Families then take sizes as sizes. A field that is null is one that is not given, unless it says "none" so.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmx.errors import InputError

# More than any model has; a damaged number must not be waited for.
MOST, MOST_LAYERS, MOST_TOKENS = 2**31 - 1, 10_000, 4_194_304


class Kind(NamedTuple):
    """What values are right, in words and as a check."""

    said: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any, least: int, most: int = MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST


SIZE = Kind(f"a whole number from 1 to {MOST}", lambda value: _is_whole(value, 1))
LAYERS = Kind(f"a whole number from 1 to {MOST_LAYERS}", lambda value: _is_whole(value, 1, MOST_LAYERS))
WORDS = Kind(f"a whole number from 1 to {MOST_TOKENS}", lambda value: _is_whole(value, 1, MOST_TOKENS))
TOKENS = Kind(f"a whole number from 0 to {MOST_TOKENS}", lambda value: _is_whole(value, 0, MOST_TOKENS))
COUNT = Kind(f"a whole number from 0 to {MOST}", lambda value: _is_whole(value, 0))
RATE = Kind("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
EPSILON = Kind("a number above 0 and below 1", lambda value: _is_number(value) and 0 < value < 1)
AMOUNT = Kind("a number from 0 on", lambda value: _is_number(value) and value >= 0)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
ID = Kind("a token's id", lambda value: _is_whole(value, -1))
IDS = Kind(
    "a token's id or a list of them",
    lambda value: all(_is_whole(each, -1) for each in (value if isinstance(value, list) and value else [value])),
)
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value))
NUMBERS = Kind("a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value)))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))

_NAMES = {
    WORDS: "vocab_size decoder_vocab_size",
    SIZE: """
        hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim
        max_position_embeddings n_embd n_head n_inner n_positions d_model d_ff d_kv num_heads encoder_ffn_dim
        decoder_ffn_dim encoder_attention_heads decoder_attention_heads num_labels max_seq_length
    """,
    LAYERS: "num_hidden_layers n_layer num_layers num_decoder_layers encoder_layers decoder_layers",
    TOKENS: "extra_ids",
    COUNT: "type_vocab_size max_window_layers sliding_window top_k",
    RATE: """
        resid_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob classifier_dropout attention_dropout
        dropout activation_dropout dropout_rate
    """,
    EPSILON: "layer_norm_eps layer_norm_epsilon rms_norm_eps",
    POSITIVE: "rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings",
    AMOUNT: "temperature repetition_penalty top_p min_p",
    ID: "pad_token_id decoder_start_token_id",
    IDS: "bos_token_id eos_token_id",
    SWITCH: """
        tie_word_embeddings use_sliding_window scale_embedding share_encoder_decoder_embeddings scale_decoder_outputs
        is_encoder_decoder do_sample add_prefix_space do_lower_case tokenize_chinese_chars strip_accents
        separate_vocabs legacy legacy_behaviour single_word lstrip rstrip normalized special
    """,
    TEXT: """
        model_type hidden_act activation_function feed_forward_proj problem_type transformers_version tokenizer_class
        rope_type type src_lang tgt_lang content
    """,
    TEXTS: "architectures layer_types",
    OBJECT: "id2label rope_scaling rope_parameters added_tokens_decoder",
}
KINDS: Mapping[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
# Of the config.json that CTranslate2 writes, where a token is always its text.
CTRANSLATE2: Mapping[str, Kind] = {
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "decoder_start_token"), TEXT),
    **dict.fromkeys(("add_source_bos", "add_source_eos"), SWITCH),
    "layer_norm_epsilon": EPSILON,
}
_NULL_IS_NONE = ("sliding_window",)  # null says that there is none, and a missing field what is usual
_WITHIN = ("rope_scaling", "rope_parameters")  # objects with fields of their own


def check_kinds(fields: Mapping[str, Any], *, path: Path, kinds: Mapping[str, Kind] = KINDS) -> None:
    """Checks that the fields of a file are of the kind that they must have; null is of every kind.

    Args:
        path: of the file, for the message.

    Raises:
        InputError: one is of another; the message names it.
    """
    for name, value in fields.items():
        kind = kinds.get(name)
        if value is not None and kind is not None and not kind.fits(value):
            raise InputError(f"{path} must have {kind.said} in {name}, got {value!r:.60}.")
        if isinstance(value, dict) and name in _WITHIN:
            check_kinds(value, path=path, kinds=kinds)
        if isinstance(value, dict) and name == "added_tokens_decoder":
            for token in value.values():
                check_kinds(token if isinstance(token, dict) else {}, path=path, kinds=kinds)


def given(fields: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """Returns the fields of a file that are not null, or say something by it, all of the kind that they must have.

    Raises:
        InputError: one is of another; the message names it.
    """
    check_kinds(fields, path=path)
    inner = {name: fields[name] for name in _WITHIN if isinstance(fields.get(name), dict)}
    whole = {**fields, **{name: given(value, path=path) for name, value in inner.items()}}
    return {name: value for name, value in whole.items() if value is not None or name in _NULL_IS_NONE}
