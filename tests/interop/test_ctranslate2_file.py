"""What stands in CTranslate2's files by name and number, and what of theirs no model here is."""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.errors import InputError
from lmx.interop.ctranslate2.names import table_of
from lmx.interop.ctranslate2.reading import read_ctranslate2
from lmx.interop.ctranslate2.specifying import settings_for
from lmx.interop.ctranslate2.variables import quantised, read_variables, write_variables
from lmx.interop.ctranslate2.vocabularies import read_vocabularies, tokens_of
from lmx.interop.imported import family_of, shapes_of
from lmx.interop.mapping import their_shapes
from lmx.models.decoder import DecoderConfig
from lmx.text import ByteTokenizer
from tests.interop.test_ctranslate2 import MODELS, ONE, WORDS, export

DECODERS_OWN = {
    "alignment_layer": np.int16(-1),
    "alignment_heads": np.int16(1),
    "alibi_use_positive_positions": np.int8(1),
    "scale_alibi": np.int8(0),
    "start_from_zero_embedding": np.int8(0),
}
ROTARY = {"rotary_dim": np.int32(0), "rotary_interleave": np.int8(0), "rotary_base": np.float32(10_000)}
# As the package's own classes write them: `Activation` counts relu, gelu by tanh, swish and gelu.
NUMBERS: dict[tuple[str, str], tuple[dict[str, np.generic], dict[str, np.generic], dict[str, np.generic]]] = {
    ("vaswani", "encoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(0), "activation": np.int8(0), "scale_embeddings": np.int8(1)}
        | {"multi_query_attention": np.int8(0), "embeddings_merge": np.int8(1)},
        {},
        {},
    ),
    ("t5", "decoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(1), "activation": np.int8(1), "scale_embeddings": np.int8(0)}
        | {**DECODERS_OWN, "alibi": np.int8(0), "scale_outputs": np.float32(12**-0.5)},
        {"queries_scale": np.float32(1), "head_dim": np.int32(8), "relative_attention_max_distance": np.int32(128)},
        {"queries_scale": np.float32(1), "head_dim": np.int32(8)},
    ),
    ("llama", "decoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(1), "activation": np.int8(2), "scale_embeddings": np.int8(0)}
        | {**DECODERS_OWN, "alibi": np.int8(0)},
        {
            "num_heads_kv": np.int32(1),
            **ROTARY,
            "rotary_scaling_type": np.int8(2),
            "rotary_scaling_factor": np.float32(8),
        }
        | {"rotary_low_freq_factor": np.float32(1), "rotary_high_freq_factor": np.float32(4)}
        | {"original_max_position_embeddings": np.int32(64)},
        {},
    ),
    ("qwen", "decoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(1), "activation": np.int8(2), "scale_embeddings": np.int8(0)}
        | {**DECODERS_OWN, "alibi": np.int8(0)}
        | {"sliding_window": np.int32(5), "final_logit_softcapping": np.float32(3)},
        {**ROTARY, "sliding_window": np.int32(5)},
        {},
    ),
    ("alibi", "decoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(1), "activation": np.int8(1), "scale_embeddings": np.int8(0)}
        | {**DECODERS_OWN, "alibi": np.int8(1)},
        {},
        {},
    ),
    ("bert", "encoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(0), "activation": np.int8(3), "scale_embeddings": np.int8(0)}
        | {"multi_query_attention": np.int8(0), "embeddings_merge": np.int8(1)},
        {},
        {},
    ),
    ("linear", "decoder"): (
        {"num_heads": np.int16(3), "pre_norm": np.int8(1), "activation": np.int8(2), "scale_embeddings": np.int8(0)}
        | {**DECODERS_OWN, "alibi": np.int8(0)},
        {**ROTARY, "rotary_scaling_type": np.int8(0), "rotary_scaling_factor": np.float32(2)},
        {},
    ),
}


@pytest.mark.parametrize(("name", "scope"), NUMBERS)
def test_numbers_of_a_stack_are_those_of_the_package(name: str, scope: str):
    model = DecoderConfig(**ONE, rotary_scaling=(2.0,)) if name == "linear" else MODELS[name]
    found = settings_for(model, scope, num_layers=2)
    expected = {f"{scope}/{key}": value for key, value in NUMBERS[name, scope][0].items()}
    for kind, numbers in zip(("self_attention", "attention"), NUMBERS[name, scope][1:], strict=True):
        for layer in range(2):
            expected |= {f"{scope}/layer_{layer}/{kind}/{key}": value for key, value in numbers.items()}
    assert {key: (value.item(), value.dtype) for key, value in found.items()} == {
        key: (value.item(), value.dtype) for key, value in expected.items()
    }


LAYER = {
    "self_attention/linear_0": (36, 12),
    "self_attention/linear_1": (12, 12),
    "ffn/linear_0": (20, 12),
    "ffn/linear_1": (12, 20),
}
MEMORY = {"attention/linear_0": (12, 12), "attention/linear_1": (24, 12), "attention/linear_2": (12, 12)}
WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    "bart": {
        "encoder/embeddings_0/weight": (WORDS, 12),
        "decoder/embeddings/weight": (WORDS, 12),
        "decoder/projection/weight": (WORDS, 12),
        "decoder/projection/bias": (WORDS,),
        "encoder/position_encodings/encodings": (7, 12),
        "decoder/position_encodings/encodings": (7, 12),
        "encoder/layernorm_embedding/gamma": (12,),
        "decoder/layernorm_embedding/beta": (12,),
        **{f"decoder/layer_1/{name}/weight": shape for name, shape in {**LAYER, **MEMORY}.items()},
        **{f"decoder/layer_0/{name}/bias": shape[:1] for name, shape in {**LAYER, **MEMORY}.items()},
        "decoder/layer_1/self_attention/layer_norm/gamma": (12,),
        "decoder/layer_1/attention/layer_norm/beta": (12,),
        "decoder/layer_1/ffn/layer_norm/gamma": (12,),
    },
    "t5": {
        "encoder/layer_0/self_attention/relative_attention_bias": (32, 3),
        "decoder/layer_0/self_attention/relative_attention_bias": (32, 3),
        "decoder/layer_1/ffn/linear_0_noact/weight": (20, 12),
        "decoder/layer_norm/gamma": (12,),
        "decoder/layer_0/attention/linear_1/weight": (48, 12),
    },
    "qwen": {
        "decoder/layer_1/self_attention/q_norm/gamma": (4,),
        "decoder/layer_1/self_attention/k_norm/gamma": (4,),
        "decoder/layer_1/self_attention/linear_0/bias": (36,),
    },
    "bert": {
        "encoder/embeddings_1/weight": (2, 12),
        "pooler_dense/weight": (12, 12),
        "pooler_dense/bias": (12,),
        **{f"encoder/layer_1/{name}/weight": shape for name, shape in LAYER.items()},
    },
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_the_names_of_the_package(name: str):
    model = MODELS[name]
    family = "masked" if name == "bert" else family_of(model)
    found = their_shapes(table_of(model, family), shapes_of(model))
    assert {each: found.get(each) for each in WEIGHTS[name]} == WEIGHTS[name]
    assert "decoder/layer_1/self_attention/relative_attention_bias" not in found  # it stands there by another's name


@functools.cache
def written(name: str) -> Path:
    """A folder of the package's with a model of random numbers."""
    folder = Path(tempfile.mkdtemp()) / "there"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    export(folder, MODELS[name])
    return folder


def altered(name: str, folder: Path, changes: Mapping[str, Any], **spec: Any) -> Path:
    """Copies a folder with other variables; None takes one out."""
    shutil.copytree(written(name), folder)
    read = read_variables(folder / "model.bin")
    there = {each: read._raw(each, ()) for each in read.stored if each not in read.aliases}
    there = {each: value for each, value in (there | dict(changes)).items() if value is not None}
    about = {"spec": read.spec, "revision": read.revision, "aliases": read.aliases} | spec
    write_variables(folder / "model.bin", number=len(there), variables=there.items(), **about)
    return folder


def layers(name: str, value: Any) -> dict[str, Any]:
    return {f"decoder/layer_{layer}/{name}": value for layer in range(2)}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vaswani", {"decoder/scale_outputs": np.float32(3)}, r"by 1/sqrt\(width\)=0\.288675 or not .* got 3"),
        ("vaswani", {"decoder/num_heads": np.int16(4)}, "same num_heads on both sides, got 3 .* and 4 of the decoder"),
        ("vaswani", {"encoder/pre_norm": np.int8(1)}, "a norm after the encoder's last layer .* got pre_norm=1"),
        (
            "vaswani",
            {"encoder/scale_embeddings": np.float32(2)},
            r"must scale embeddings by sqrt\(width\)=3\.4641 or not at all, got 2\.$",
        ),
        ("vaswani", {"encoder/odd": np.int8(1)}, "must have no encoder/odd=1, which lmx has no place for"),
        ("vaswani", {"encoder/odd": np.ones((2, 2), np.float32)}, "must have no encoder/odd, which lmx has no place"),
        ("vaswani", {"encoder/scale_alibi": np.int8(1)}, "must have no encoder/scale_alibi=1, which"),
        ("vaswani", {"encoder/layer_0/ffn/linear_0/weight": None}, "must have a matrix encoder/layer_0/ffn/linear_0/w"),
        (
            "bart",
            dict.fromkeys(("decoder/layernorm_embedding/gamma", "decoder/layernorm_embedding/beta")),
            "must have a norm of embeddings on both sides or on none, got one",
        ),
        ("qwen", {"decoder/layernorm_embedding/gamma": np.ones(12, np.float32)}, "no norm of embeddings in a decoder"),
        ("llama", {"decoder/activation": np.int8(4)}, r"an activation of relu, gelu, .*gelu-exact, got number 4\.$"),
        ("llama", {"decoder/activation": np.int8(0)}, r"an activation of .*, got gated-relu\.$"),
        (
            "llama",
            {"decoder/layer_1/self_attention/rotary_base": np.float32(7)},
            r"must have equal layers, got decoder/layer_1/self_attention/rotary_base=7\.0 and 10000\.0 in layer 0",
        ),
        ("llama", layers("self_attention/rotary_dim", np.int32(2)), "whole heads of 4 features, got rotary_dim=2"),
        (
            "llama",
            layers("self_attention/rotary_scaling_type", np.int8(1)),
            "must stretch rotary positions by a factor or as Llama 3, got type 1",
        ),
        (
            "llama",
            layers("self_attention/rotary_low_freq_factor", None),
            "must stretch rotary positions by a factor or as Llama 3, got type 2",
        ),
        ("t5", layers("attention/queries_scale", np.float32(2)), r"same queries_scale in all .*, got 1\.0 and 2\.0"),
        (
            "t5",
            {"encoder/layer_0/self_attention/relative_attention_bias": np.ones((16, 3), np.float32)},
            r"must have 32 ranges of distances, got \(16, 3\)",
        ),
        ("t5", {"decoder/scale_embeddings": np.ones(2, np.int8)}, r"one number in decoder/scale_embeddings, got"),
        ("bert", {"encoder/embeddings_merge": np.int8(0)}, "must add up the vectors of words and types"),
        ("bert", {"pooler_activation": np.int8(4)}, "must have a pooler with tanh, got activation 4"),
    ],
)  # fmt: skip
def test_what_no_model_here_is_is_named(name: str, changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        read_ctranslate2(altered(name, tmp_path / "there", changes))


@pytest.mark.parametrize(
    ("name", "changes", "field", "value"),
    [
        ("vaswani", {"encoder/scale_embeddings": np.float32(12**0.5)}, "scaled_embeddings", True),
        (
            "vaswani",
            {f"{side}/scale_embeddings": np.float32(1) for side in ("encoder", "decoder")},
            "scaled_embeddings",
            False,
        ),
        ("vaswani", {f"{side}/scale_embeddings": None for side in ("encoder", "decoder")}, "scaled_embeddings", True),
        (
            "vaswani",
            {f"{side}/scale_embeddings": None for side in ("encoder", "decoder")}
            | {f"{side}/embeddings/multiply_by_sqrt_depth": np.int8(0) for side in ("encoder", "decoder")},
            "scaled_embeddings",
            False,
        ),
        ("vaswani", {"decoder/scale_outputs": np.float32(12**-0.5)}, "scaled_output", True),
        ("qwen", {"decoder/sliding_window": None}, "window", 5),
        ("qwen", layers("self_attention/sliding_window", None), "window", 5),
        ("qwen", layers("self_attention/rotary_base", None), "rotary_base", 10_000.0),
        ("llama", layers("self_attention/rotary_scaling_factor", None), "rotary_scaling", (8.0, 1.0, 4.0, 64.0)),
        (
            "llama",
            layers("self_attention/rotary_scaling_type", np.int8(0))
            | {
                f"decoder/layer_{layer}/self_attention/{name}": None
                for layer in range(2)
                for name in ("rotary_low_freq_factor", "rotary_high_freq_factor", "original_max_position_embeddings")
            },
            "rotary_scaling",
            (8.0,),
        ),
    ],
)
def test_what_a_file_leaves_out_or_says_otherwise_is_read(
    name: str, changes: dict[str, Any], field: str, value: Any, tmp_path: Path
):
    assert getattr(read_ctranslate2(altered(name, tmp_path / "there", changes)).model, field) == value


def test_features_that_turn_beside_each_other_come_in_halves(tmp_path: Path):
    """Where a file does not say which, they stand beside each other."""
    changes = layers("self_attention/rotary_interleave", None)
    here, there = (
        read_ctranslate2(each).file for each in (written("llama"), altered("llama", tmp_path / "a", changes))
    )
    for name in ("query", "key", "value"):
        one, other = (each.get_tensor(f"stack.blocks.attention.{name}.weight") for each in (here, there))
        order = [0, 1, 2, 3] if name == "value" else [0, 2, 1, 3]
        np.testing.assert_array_equal(other, one[..., order])


def test_a_revision_that_is_not_known_is_named(tmp_path: Path):
    for name, spec, first, last in (("vaswani", "TransformerSpec", 2, 7), ("llama", "TransformerDecoderSpec", 1, 8)):
        for revision in (first - 1, last + 1):
            folder = altered(name, tmp_path / f"{name}{revision}", {}, revision=revision)
            with pytest.raises(InputError, match=rf"must be of revision {first} to {last} of {spec}, got {revision}\."):
                read_ctranslate2(folder)
        read_ctranslate2(altered(name, tmp_path / f"{name}-first", {}, revision=first))
    config = tmp_path / "vaswani-first" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_bits": 4}))
    with pytest.raises(InputError, match="must be quantised to 8 bits or not at all, got 4 bits"):
        read_ctranslate2(config.parent)


def test_a_decoder_that_starts_from_zeros_gets_a_token_for_them(tmp_path: Path):
    changes = {"decoder/start_from_zero_embedding": np.int8(1)}
    read = read_ctranslate2(altered("vaswani", tmp_path / "there", changes))
    assert (read.model.source_vocab_size, read.model.target_vocab_size, read.model.pad_id) == (12, 12, 11)
    assert read.model.output_bias
    tokens = read.tokenizers["tokenizer"]
    assert (tokens.bos_id, tokens.pad_id, tokens.eos_id, tokens.pieces([11])) == (11, 11, 2, ["<start0>"])
    np.testing.assert_array_equal(read.file.get_tensor("output_bias")[:12], [*[0] * 11, -1e4])
    table = read_ctranslate2(written("vaswani")).file.get_tensor("target_embedding.table")
    found = read.file.get_tensor("target_embedding.table")
    np.testing.assert_array_equal(found[:11], table[:11])
    assert not found[11:].any()


def test_sides_have_vocabularies_that_pad_alike(tmp_path: Path):
    folder = altered("opennmt", tmp_path / "there", {})
    tokens = json.loads((folder / "shared_vocabulary.json").read_text())
    (folder / "source_vocabulary.txt").write_text("".join(f"{token}\n" for token in [*tokens[1:], tokens[0]]))
    (folder / "target_vocabulary.json").write_text(json.dumps(tokens))
    with pytest.raises(InputError, match="must have the padding at the same place of both vocabularies, got 10 and 0"):
        read_ctranslate2(folder)
    (folder / "source_vocabulary.txt").write_text("\n".join([tokens[0], *reversed(tokens[1:])]))
    read = read_ctranslate2(folder)
    assert read.tokenizers["source"].pieces([0, 1, 10]) == ["<pad>", "w6", "<s>"]
    assert read.tokenizers["target"].pieces([0, 1, 10]) == ["<pad>", "<s>", "w6"]
    folder = altered("opennmt", tmp_path / "zero", {"decoder/start_from_zero_embedding": np.int8(1)})
    for side in ("source", "target"):
        (folder / f"{side}_vocabulary.json").write_text(json.dumps(tokens))
    with pytest.raises(InputError, match="must have one vocabulary where the decoder starts from a vector of zeros"):
        read_ctranslate2(folder)


@pytest.mark.parametrize(
    ("tokens", "config", "ids"),
    [
        (["<blank>", "<s>", "</s>", "<unk>"], {}, (0, 1, 2, 3)),
        (["<unk>", "<s>", "</s>", "a"], {}, (1, 1, 2, 0)),  # without padding, what begins a text
        (["<unk>", "</s>", "a", "b"], {}, (1, 1, 1, 0)),  # without a beginning, what ends it
        (["a", "<s>", "</s>"], {}, (1, 1, 2, 3)),  # the unknown one is counted behind the others
        (["<unk>", "<s>", "</s>", "de"], {"decoder_start_token": "de"}, (3, 3, 2, 0)),
        (["?", "begin", "end", "[PAD]"], {"unk_token": "?", "bos_token": "begin", "eos_token": "end"}, (3, 1, 2, 0)),
    ],
)
def test_special_tokens_have_their_usual_names_or_those_of_the_config(
    tokens: list[str], config: dict[str, str], ids: tuple[int, ...], tmp_path: Path
):
    (tmp_path / "vocabulary.json").write_text(json.dumps(tokens))
    found = read_vocabularies(tmp_path, {"": 4}, config=config)["tokenizer"]
    assert tuple(found.special[name] for name in ("pad", "bos", "eos", "unk")) == ids
    assert (found.ends, found.before, found.path) == (False, (), tmp_path / "vocabulary.json")
    (tmp_path / "vocabulary.json").write_text(json.dumps([1, *tokens[1:]]))
    with pytest.raises(InputError, match=r"vocabulary\.json must be a list of texts"):
        read_vocabularies(tmp_path, {"": 4}, config=config)
    (tmp_path / "vocabulary.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"vocabulary\.json must be a vocabulary in UTF-8"):
        read_vocabularies(tmp_path, {"": 4}, config=config)


def test_a_token_ends_with_its_line_and_nowhere_else(tmp_path: Path):
    tokens = ["<unk>", "<s>", "</s>", "a\u2028b", "a\x85b", "a\x0cb", "a\rb", ""]
    (tmp_path / "vocabulary.txt").write_bytes("\n".join(tokens).encode() + b"\n")
    found = read_vocabularies(tmp_path, {"": len(tokens)}, config={})["tokenizer"]
    assert found.tokens == tokens


def test_tokens_are_written_once_each():
    class Twice(ByteTokenizer):
        def __init__(self):
            super().__init__()
            self.vocab_size = 5

        def pieces(self, ids: Any) -> list[str]:
            return [("<pad>", "a", "b", "a", "a<3>")[index] for index in ids]

    assert tokens_of(Twice(), size=7) == ["<pad>", "a", "b", "a<3>", "a<3><4>", "<unused5>", "<unused6>"]


def test_a_matrix_in_8_bits_has_a_scale_for_each_row():
    values = np.array([[0.5, -1.0, 0.25], [0, 0, 0], [2.0, 1.0, -0.01]], np.float32)
    small, scale = quantised(values)
    assert (small.dtype, scale.dtype) == (np.int8, np.float32)
    np.testing.assert_array_equal(scale, np.float32([127, 1, 63.5]))
    np.testing.assert_array_equal(small, [[64, -127, 32], [0, 0, 0], [127, 64, -1]])  # halves go to the even number
    assert np.isfinite(quantised(np.full((1, 2), 1e-45, np.float32))[1]).all()


def test_config_json_says_what_the_package_reads(tmp_path: Path):
    export(tmp_path / "there", MODELS["qwen"], dtype="int8")
    assert json.loads((tmp_path / "there" / "config.json").read_text()) == {
        "max_position_embeddings": MODELS["qwen"].max_length,
        "layer_norm_epsilon": 1e-4,
        "multi_query_attention": False,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    kinds = {name: each.kind for name, each in read_variables(tmp_path / "there" / "model.bin").stored.items()}
    assert {kinds[name] for name in kinds if name.endswith("/weight")} == {"int8"}
    assert {kinds[name] for name in kinds if name.endswith(("/gamma", "/bias", "weight_scale"))} == {"float32"}
    said = json.loads((written("llama") / "config.json").read_text())
    assert (said["multi_query_attention"], said["layer_norm_epsilon"]) == (True, 1e-6)
    assert json.loads((written("vaswani") / "config.json").read_text())["layer_norm_epsilon"] == 1e-5
