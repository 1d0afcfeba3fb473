"""Configs of Hugging Face in and out: every field goes both ways, and what theirs leaves out is what they take then."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lmx.data.labels import Labels
from lmx.errors import InputError
from lmx.interop.convert import convert, export
from lmx.interop.families import bart, bert, gpt2, llama, m2m100, marian, t5
from lmx.interop.huggingface import FAMILIES
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_record
from tests.interop.models import MODELS, write_run

PAIR: dict[str, Any] = {
    "source_vocab_size": 30,
    "target_vocab_size": 30,
    "width": 12,
    "feedforward_width": 20,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "max_length": 40,
}
T5: dict[str, Any] = {
    "norm": "rms",
    "norm_position": "pre",
    "positions": "t5",
    "use_bias": False,
    "scaled_embeddings": False,
    "attention_scale": 1.0,
    "norm_epsilon": 1e-6,
    "embedding_init": "t5",
}
PAIRS = {
    "marian": Seq2SeqConfig(**PAIR, output_bias=True),
    "marian-target": Seq2SeqConfig(**PAIR | {"source_vocab_size": 33}, tied_embeddings="target", output_bias=True),
    "bart": Seq2SeqConfig(**PAIR, positions="learned", embedding_norm=True, output_bias=True, pad_id=1),
    "mbart": Seq2SeqConfig(
        **PAIR, positions="learned", embedding_norm=True, output_bias=True, pad_id=1, norm_position="pre"
    ),
    "m2m_100": Seq2SeqConfig(
        **PAIR, positions="tensor2tensor", first_position=2, norm_position="pre", activation="relu", pad_id=1
    ),
    "t5": Seq2SeqConfig(**PAIR, **T5, scaled_output=True),
    "t5-gated": Seq2SeqConfig(**PAIR, **T5, tied_embeddings="inputs", activation="gated-gelu"),
}
# Fields that their configs have no place for: how a model is computed and drawn, and what stands in other files.
ELSEWHERE = {"kernel", "dtype", "remat", "unroll", "embedding_init", "vector", "normalised", "has_pooler", "pooling"}
# And by family, beside those that mean nothing where positions do not turn.
OF_FAMILY = {
    gpt2: {"feedforward_dropout_rate", "pad_id"},
    llama: {"dropout_rate", "feedforward_dropout_rate", "pad_id"},
    bert: {"feedforward_dropout_rate"},
    t5: {"attention_dropout_rate", "feedforward_dropout_rate", "pad_id"},
    marian: {"output_bias"},  # numbers of 0 come back
    bart: {"output_bias"},
    m2m100: {"first_position", "pad_id"},  # one says the other
}
OF_POSITIONS = {"first_position", "rotary_base", "rotary_scaling"}
OTHERS: dict[str, list[Any]] = {
    "activation": ["relu", "gelu", "gelu-exact", "silu", "gated-gelu", "gated-silu"],
    "rotary_scaling": [(), (3.0,), (8.0, 1.0, 4.0, 32.0)],
    "window": [None, 5],
    "num_heads": [1, 2, 6],
    "num_kv_heads": [None, 1, 2],
    "head_width": [None, 4, 10],
    "num_types": [1, 2, 3],
    "score_cap": [None, 20.0],
    "logit_cap": [None, 30.0],
    "attention_scale": [None, 0.75],
}


def others(field: str, value: Any) -> list[Any]:
    """Returns other values of a field."""
    if field in OTHERS:
        return [other for other in OTHERS[field] if other != value]
    if field == "tied_embeddings" and isinstance(value, str):
        return [other for other in ("all", "target", "inputs") if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value + 12]
    return [value / 2 + 0.125] if isinstance(value, float) else []


def family_of(model: Any) -> Any:
    if isinstance(model, DecoderConfig):
        return gpt2 if model.positions == "learned" else llama
    if isinstance(model, Seq2SeqConfig):
        return {"t5": t5, "learned": bart, "tensor2tensor": m2m100}.get(model.positions, marian)
    return bert


@pytest.mark.parametrize("name", [*MODELS, *PAIRS])
def test_each_field_that_is_written_is_read_again(name: str) -> None:
    model = {**MODELS, **PAIRS}[name]
    family = family_of(model)
    left_out = ELSEWHERE | OF_FAMILY[family] | OF_POSITIONS
    left_out -= {"sinusoidal": {"first_position"}, "rotary": {"rotary_base", "rotary_scaling"}}.get(
        model.positions, set()
    )
    written, lost = set(), []
    for each in dataclasses.fields(model):
        if each.name in left_out or (each.name == "qkv_bias" and model.use_bias):
            continue
        for other in others(each.name, getattr(model, each.name)):
            try:
                changed = dataclasses.replace(model, **{each.name: other})
                theirs = family.their_config(changed)
            except (InputError, ValueError):
                continue  # they have no such form, or nobody has
            again = family.config_of(theirs)
            if each.name in ("num_kv_heads", "head_width"):
                same = (again.width_of_head, again.width_of_keys) == (changed.width_of_head, changed.width_of_keys)
            else:
                same = getattr(again, each.name) == other
            written.add(each.name)
            lost += [] if same else [f"{each.name}={other}"]
    assert not lost
    assert {"width", "feedforward_width", "num_heads", "max_length", "pad_id"} - left_out <= written


DECODER: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
}
OUR_SIZES: dict[str, Any] = {"vocab_size": 30, "width": 12, "feedforward_width": 20, "num_heads": 3, "num_layers": 2}
LLAMA = DecoderConfig(**OUR_SIZES, num_kv_heads=3, norm_epsilon=1e-6, max_length=2048)
MISTRAL = dataclasses.replace(LLAMA, max_length=131_072)
QWEN2 = dataclasses.replace(LLAMA, qkv_bias=True, max_length=32_768)
WINDOW = {"use_sliding_window": True, "sliding_window": 6}
BERT: dict[str, Any] = {
    **OUR_SIZES, "num_types": 2, "norm_epsilon": 1e-12, "activation": "gelu-exact", "dropout_rate": 0.1,
    "attention_dropout_rate": 0.1, "max_length": 512, "pad_id": 0,
}  # fmt: skip
ROBERTA: dict[str, Any] = BERT | {"max_length": 510, "pad_id": 1}
SIDES: dict[str, Any] = {
    "source_vocab_size": 30, "target_vocab_size": 30, "width": 16, "feedforward_width": 4096, "num_heads": 16,
    "num_encoder_layers": 12, "num_decoder_layers": 12, "activation": "gelu-exact", "scaled_embeddings": False,
    "output_bias": True, "dropout_rate": 0.1, "max_length": 1024,
}  # fmt: skip
FIRST_T5 = Seq2SeqConfig(
    **PAIR | {"num_encoder_layers": 6, "num_decoder_layers": 6, "max_length": 512}, **T5, head_width=5,
    scaled_output=True, attention_dropout_rate=0.1, feedforward_dropout_rate=0.1,
)  # fmt: skip
UNTIED_T5 = dataclasses.replace(FIRST_T5, tied_embeddings="inputs", scaled_output=False)
THEIR_T5 = {"vocab_size": 30, "d_model": 12, "d_ff": 20, "num_heads": 3, "d_kv": 5}
MT5 = THEIR_T5 | {"model_type": "mt5", "num_layers": 6, "feed_forward_proj": "relu"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"model_type": "gpt2", "vocab_size": 30, "n_embd": 12, "n_head": 3, "n_layer": 2},
            DecoderConfig(
                **OUR_SIZES | {"feedforward_width": 48}, norm="layer", norm_epsilon=1e-5, activation="gelu",
                positions="learned", use_bias=True, tied_embeddings=True, dropout_rate=0.1, attention_dropout_rate=0.1,
                max_length=1024,
            ),
        ),
        (DECODER | {"model_type": "llama"}, LLAMA),
        (DECODER | {"model_type": "mistral"}, dataclasses.replace(MISTRAL, window=4096)),
        (DECODER | {"model_type": "mistral", "sliding_window": None}, MISTRAL),
        (DECODER | {"model_type": "llama", "use_sliding_window": True}, LLAMA),
        (
            DECODER | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 0},
            dataclasses.replace(QWEN2, window=4096),
        ),
        (DECODER | {"model_type": "mistral", "sliding_window": 6}, dataclasses.replace(MISTRAL, window=6)),
        (DECODER | {"model_type": "llama", "sliding_window": 6}, LLAMA),
        (DECODER | {"model_type": "qwen2", "sliding_window": 6}, QWEN2),
        (DECODER | WINDOW | {"model_type": "qwen2"}, QWEN2),  # it begins behind layer 28
        (DECODER | WINDOW | {"model_type": "qwen2", "max_window_layers": 2}, QWEN2),
        (DECODER | WINDOW | {"model_type": "qwen2", "max_window_layers": 0}, dataclasses.replace(QWEN2, window=6)),
        (DECODER | WINDOW | {"model_type": "qwen2", "layer_types": 2 * ["full_attention"]}, QWEN2),
        (
            DECODER | WINDOW | {"model_type": "qwen2", "layer_types": 2 * ["sliding_attention"]},
            dataclasses.replace(QWEN2, window=6),
        ),
        (
            DECODER | {"model_type": "qwen3"},
            dataclasses.replace(LLAMA, qk_norm=True, head_width=128, max_length=32_768),
        ),
        (
            DECODER | {"model_type": "llama", "rope_theta": 7.0, "rope_parameters": {"rope_theta": 9.0}},
            dataclasses.replace(LLAMA, rotary_base=9.0),
        ),
        (
            DECODER | {"model_type": "llama", "rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 3}},
            dataclasses.replace(LLAMA, rotary_base=7.0, rotary_scaling=(3.0,)),
        ),
        (DECODER | {"model_type": "bert"}, EmbedderConfig(**BERT)),
        (DECODER | {"model_type": "roberta", "architectures": ["RobertaModel"]}, EmbedderConfig(**ROBERTA)),
        (DECODER | {"model_type": "bert", "architectures": ["BertForPreTraining"]}, MaskedConfig(**BERT)),
        (
            DECODER | {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
            ClassifierConfig(**BERT, num_outputs=2, pooling="pooler", pooled_dropout_rate=0.1),
        ),
        (
            DECODER | {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
            | {"hidden_dropout_prob": 0.3, "id2label": {"0": "a", "1": "b", "2": "c"}},
            ClassifierConfig(
                **ROBERTA | {"dropout_rate": 0.3}, num_outputs=3, pooling="pooler", pooled_dropout_rate=0.3
            ),
        ),
        (
            DECODER | {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
            | {"classifier_dropout": 0.0, "num_labels": 4},
            ClassifierConfig(**BERT, num_outputs=4, pooling="pooler", pooled_dropout_rate=0.0),
        ),
        ({"model_type": "marian", "vocab_size": 30, "d_model": 16}, Seq2SeqConfig(**SIDES, pad_id=58100)),
        (
            {"model_type": "marian", "vocab_size": 30, "d_model": 16, "share_encoder_decoder_embeddings": False}
            | {"decoder_vocab_size": 35, "pad_token_id": 4},
            Seq2SeqConfig(**SIDES | {"target_vocab_size": 35}, tied_embeddings="target", pad_id=4),
        ),
        (
            {"model_type": "bart", "vocab_size": 30, "d_model": 16},
            Seq2SeqConfig(**SIDES, positions="learned", embedding_norm=True, pad_id=1),
        ),
        (
            {"model_type": "mbart", "vocab_size": 30, "d_model": 16, "encoder_layers": 2, "scale_embedding": True},
            Seq2SeqConfig(
                **SIDES | {"num_encoder_layers": 2, "scaled_embeddings": True}, positions="learned",
                embedding_norm=True, norm_position="pre", pad_id=1,
            ),
        ),
        (
            {"model_type": "m2m_100", "vocab_size": 30, "d_model": 16},
            Seq2SeqConfig(
                **SIDES | {"activation": "relu", "scaled_embeddings": True, "output_bias": False},
                attention_dropout_rate=0.1, norm_position="pre", positions="tensor2tensor", first_position=2, pad_id=1,
            ),
        ),
        (THEIR_T5 | {"model_type": "t5"}, FIRST_T5),
        (THEIR_T5 | {"model_type": "t5", "scale_decoder_outputs": True, "tie_word_embeddings": False}, FIRST_T5),
        (THEIR_T5 | {"model_type": "t5", "scale_decoder_outputs": False, "tie_word_embeddings": True}, UNTIED_T5),
        (MT5 | {"tie_word_embeddings": True}, FIRST_T5),
        (MT5 | {"tie_word_embeddings": True, "transformers_version": "4.57.6"}, FIRST_T5),
        (MT5 | {"tie_word_embeddings": True, "transformers_version": "5.24.0"}, UNTIED_T5),
        (
            THEIR_T5 | {"model_type": "t5", "num_layers": 3, "tie_word_embeddings": False},
            dataclasses.replace(
                FIRST_T5, num_encoder_layers=3, num_decoder_layers=3, tied_embeddings="inputs", scaled_output=False
            ),
        ),
        (
            THEIR_T5 | {"model_type": "mt5", "num_decoder_layers": 2, "dropout_rate": 0.0},
            dataclasses.replace(
                FIRST_T5, num_encoder_layers=8, num_decoder_layers=2, tied_embeddings="inputs", scaled_output=False,
                activation="gated-gelu", dropout_rate=0.0, attention_dropout_rate=0.0, feedforward_dropout_rate=0.0,
            ),
        ),
    ],
)  # fmt: skip
def test_what_a_config_leaves_out_is_what_they_take(theirs: dict[str, Any], ours: Any) -> None:
    found = FAMILIES[theirs["model_type"]].config_of(theirs)
    assert type(found) is type(ours)
    assert dataclasses.asdict(found) == dataclasses.asdict(ours)


GPT2_SIZES: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 30, "n_embd": 12, "n_head": 3, "n_layer": 2}
PAIR_SIZES: dict[str, Any] = {"vocab_size": 30, "d_model": 16}
# Of each family, what would be another model: by a field alone, which the message names.
ANOTHER_MODEL: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(
        (GPT2_SIZES, {name: value})
        for name, value in {
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "add_cross_attention": True,
            "activation_function": "mish",
        }.items()
    ),
    *(
        (DECODER | {"model_type": kind}, {name: value})
        for kind in ("llama", "mistral", "qwen2", "qwen3")
        for name, value in {
            "hidden_act": "gelu",
            "mlp_bias": True,
            "pretraining_tp": 2,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
        }.items()
        if (kind, name) != ("qwen2", "attention_bias")  # it always has them, and no such field
    ),
    *(
        (DECODER | {"model_type": kind}, {name: value})
        for kind in ("bert", "roberta")
        for name, value in {
            "position_embedding_type": "relative_key",
            "is_decoder": True,
            "add_cross_attention": True,
            "hidden_act": "mish",
        }.items()
    ),
    (DECODER | WINDOW | {"model_type": "qwen2"}, {"max_window_layers": 1}),
    (DECODER | WINDOW | {"model_type": "qwen3"}, {"layer_types": ["full_attention", "sliding_attention"]}),
    (DECODER | {"model_type": "llama"}, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
    (DECODER | {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, {"tie_word_embeddings": False}),
    *(  # of RoBERTa, the head's activation is always the exact gelu
        (DECODER | {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, {"hidden_act": name})
        for name in ("relu", "gelu_new")
    ),
    *(
        (THEIR_T5 | {"model_type": kind}, {name: value})
        for kind in ("t5", "mt5")
        for name, value in {
            "relative_attention_num_buckets": 16,
            "relative_attention_max_distance": 64,
            "feed_forward_proj": "gated-mish",
        }.items()
    ),
    *(
        (PAIR_SIZES | {"model_type": kind}, {name: value})
        for kind in ("marian", "bart", "mbart", "m2m_100")
        for name, value in {
            "tie_word_embeddings": False,
            "decoder_ffn_dim": 12,
            "decoder_attention_heads": 2,
            "activation_function": "mish",
        }.items()
    ),
    *(
        (PAIR_SIZES | {"model_type": "marian"}, {name: True})
        for name in ("normalize_before", "normalize_embedding", "add_final_layer_norm")
    ),
    *(
        (PAIR_SIZES | {"model_type": kind}, {name: value})
        for kind, pre in (("bart", False), ("mbart", True))
        for name, value in {
            "normalize_before": not pre,
            "add_final_layer_norm": not pre,
            "normalize_embedding": False,
            "static_position_embeddings": True,
            "extra_pos_embeddings": 3,
            "add_bias_logits": True,
        }.items()
    ),
]


ELSEWHERE_SAID = dict.fromkeys(("max_window_layers", "layer_types"), "^layer_types must be the same in all layers") | {
    "rope_scaling": "^rope_type must be default, linear or llama3, got rope_type='yarn'"
}


@pytest.mark.parametrize(
    ("theirs", "other"),
    ANOTHER_MODEL,
    ids=[f"{theirs['model_type']}-{next(iter(other))}" for theirs, other in ANOTHER_MODEL],
)
def test_what_would_be_another_model_is_refused(theirs: dict[str, Any], other: dict[str, Any]) -> None:
    family = FAMILIES[theirs["model_type"]]
    family.config_of(theirs)
    ((name, value),) = other.items()
    if name in ELSEWHERE_SAID:
        with pytest.raises(InputError, match=ELSEWHERE_SAID[name]):
            family.config_of(theirs | other)
        return
    with pytest.raises(InputError, match=rf"^{name} must be .*got {name}={value!r}"):
        family.config_of(theirs | other)


@pytest.mark.parametrize(
    "labels",
    [
        Labels(kind="single", names=("food", "music", "sport")),
        Labels(kind="multi", names=("b", "a", "c")),
        Labels(kind="regression"),
    ],
    ids=lambda labels: labels.kind,
)
def test_what_the_outputs_of_a_classifier_mean_goes_out_and_comes_in(labels: Labels, tmp_path: Path) -> None:
    model = MODELS["bert-classifier"]
    assert isinstance(model, ClassifierConfig)
    run = write_run(tmp_path / "run", dataclasses.replace(model, num_outputs=labels.num_outputs))
    labels.save(run)
    export(run, tmp_path / "theirs", to="huggingface")
    said = read_record(tmp_path / "theirs" / "config.json")
    names = labels.names or ("LABEL_0",)
    assert said["id2label"] == {str(index): name for index, name in enumerate(names)}
    assert said["label2id"] == {name: index for index, name in enumerate(names)}
    kinds = {"single": "single_label_classification", "multi": "multi_label_classification"}
    assert said["problem_type"] == kinds.get(labels.kind, "regression")
    convert(tmp_path / "theirs", tmp_path / "again")
    found = Labels.from_file(tmp_path / "again" / "labels.json")
    assert (found.kind, found.names) == (labels.kind, labels.names)
