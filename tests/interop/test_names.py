"""Names of others' arrays beside ours: what they store twice, what holds nothing, and what earlier versions call it."""

import dataclasses
import functools

import numpy as np
import pytest

from lmx.interop.huggingface import FAMILIES
from lmx.interop.imported import shapes_of
from lmx.interop.mapping import Mapped, Table, spellings, their_shapes
from lmx.interop.tensors import Index
from tests.interop.models import MODELS
from tests.interop.test_configs import PAIRS


class Named:
    """A source whose arrays hold their place among its names."""

    where = "nowhere"

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        return np.full(self.shapes[name], [*self.shapes].index(name) + 1, np.float32)[index]


def kind_of(name: str) -> str:
    return name.partition("-")[0]


@functools.cache
def tables(name: str) -> tuple[Table, dict[str, tuple[int, ...]]]:
    """The table of a model, and the shapes of our parameters."""
    model = {**MODELS, **PAIRS}[name]
    return FAMILIES[kind_of(name)].table(model, kind_of(name)), shapes_of(model)


def theirs_of(name: str) -> dict[str, tuple[int, ...]]:
    return dict(their_shapes(*tables(name)))


def mapped(shapes: dict[str, tuple[int, ...]], name: str) -> Mapped:
    return Mapped(Named(shapes), *tables(name))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias", "lm_head.weight"]),
        ("llama-linear", ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"]),
        (
            "bert-masked",
            [
                "bert.embeddings.position_ids",
                "cls.predictions.decoder.weight",
                "cls.predictions.decoder.bias",
                "cls.seq_relationship.weight",
                "cls.seq_relationship.bias",
            ],
        ),
        ("roberta-masked", ["roberta.embeddings.position_ids", "lm_head.decoder.weight", "lm_head.decoder.bias"]),
        (
            "marian",
            [
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "lm_head.weight",
                "model.encoder.embed_positions.weight",
                "model.decoder.embed_positions.weight",
            ],
        ),
        ("marian-target", ["lm_head.weight", "model.encoder.embed_positions.weight"]),
        ("bart", ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]),
        (
            "m2m_100",
            [
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "lm_head.weight",
                "model.encoder.embed_positions.weights",
                "model.decoder.embed_positions.weights",
            ],
        ),
        (
            "t5",
            [
                "encoder.embed_tokens.weight",
                "decoder.embed_tokens.weight",
                "lm_head.weight",
                "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
            ],
        ),
        ("t5-gated", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    ],
)
def test_what_is_stored_twice_or_holds_nothing_is_not_left(name: str, more: list[str]):
    shapes = theirs_of(name)
    assert mapped(shapes | dict.fromkeys(more, (1,)), name).unused() == []
    assert mapped(shapes | {"b.other": (1,), "a.other": (1,)}, name).unused() == ["a.other", "b.other"]


@pytest.mark.parametrize(
    ("name", "is_own"), [("gpt2-untied", True), ("llama", True), ("t5-gated", True), ("bart", False)]
)
def test_a_table_of_the_output_of_its_own_is_written(name: str, is_own: bool):
    assert ("lm_head.weight" in theirs_of(name)) == is_own


@pytest.mark.parametrize(
    ("name", "ours", "first", "others"),
    [
        ("bert-masked", "head.bias", "cls.predictions.bias", ["cls.predictions.decoder.bias"]),
        ("roberta-masked", "head.bias", "lm_head.bias", ["lm_head.decoder.bias"]),
        (
            "bart",
            "target_embedding.table",
            "model.shared.weight",
            ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"],
        ),
        ("m2m_100", "target_embedding.table", "model.shared.weight", ["lm_head.weight"]),
        ("marian", "target_embedding.table", "model.shared.weight", ["model.decoder.embed_tokens.weight"]),
        ("marian-target", "target_embedding.table", "model.decoder.embed_tokens.weight", ["lm_head.weight"]),
        ("t5", "target_embedding.table", "shared.weight", ["encoder.embed_tokens.weight"]),
        ("t5", "target_embedding.table", "shared.weight", ["decoder.embed_tokens.weight"]),
        ("t5-gated", "output_embedding.table", "lm_head.weight", ["shared.weight"]),
    ],
)
def test_another_name_of_an_array_is_found(name: str, ours: str, first: str, others: list[str]):
    shapes = theirs_of(name)
    for other in others:
        found = {each: shape for each, shape in shapes.items() if each != first} | {other: shapes[first]}
        assert mapped(found, name).get_tensor(ours).flat[0] == [*found].index(other) + 1


def test_a_file_without_numbers_that_are_added_to_the_logits_has_zeros():
    for name in ("bart", "marian"):
        shapes = theirs_of(name)
        del shapes["final_logits_bias"]
        found = mapped(shapes, name)
        assert found.unused() == []
        assert not found.get_tensor("output_bias").any()


def test_names_of_a_model_without_a_head_and_of_the_first_bert_are_found():
    assert list(spellings("bert.x.LayerNorm.weight")) == [
        "bert.x.LayerNorm.weight",
        "bert.x.LayerNorm.gamma",
        "x.LayerNorm.weight",
        "x.LayerNorm.gamma",
    ]
    assert list(spellings("a.LayerNorm.bias"))[1] == "a.LayerNorm.beta"
    assert set(spellings("bias")) == {"bias"}


def test_an_epsilon_that_is_not_said_goes_out_as_the_norms_own():
    """1e-5 of LayerNorm and 1e-6 of RMSNorm, whatever the family takes where a config says none."""
    for name, model in {**MODELS, **PAIRS}.items():
        own = dataclasses.replace(model, norm_epsilon=None)
        said = FAMILIES[kind_of(name)].their_config(own)
        names = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps")
        found = [said[each] for each in names if each in said]
        has_none = kind_of(name) in ("marian", "bart", "mbart", "m2m_100")
        assert found == ([] if has_none else [1e-6] if own.norm == "rms" else [1e-5])
