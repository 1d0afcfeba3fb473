"""Tiny encoder-decoders as folders of Hugging Face: random weights, real tokenizers, and settings of `generate`.

`make_translation_references.py` asks transformers what they translate, and the tests ask lmx.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmx.interop.huggingface import FAMILIES
from lmx.interop.imported import shapes_of
from lmx.interop.mapping import their_shapes
from lmx.interop.tensors import write_safetensors

TOKENIZERS = Path(__file__).parent / "data" / "tokenizers"
EXPECTED = Path(__file__).parent / "data" / "translations.json"
# Of 17 to 32 tokens with all of the tokenizers, so that one program is compiled for a model.
LINES = (
    "the old woman sees a small house , and",
    "a dog sees the old house which is near the river",
    "this is a longer line , which the model reads",
    "the small cats sleep in the house of the teacher",
)
T5 = {"d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
SIZES: dict[str, Any] = {"d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 48}
for _side in ("encoder", "decoder"):
    SIZES |= {f"{_side}_attention_heads": 2, f"{_side}_ffn_dim": 20}
LARGE_T5 = {"d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
LARGE = SIZES | {"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "max_position_embeddings": 60}
for _side in ("encoder", "decoder"):
    LARGE |= {f"{_side}_attention_heads": 4, f"{_side}_ffn_dim": 48}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how it is asked.

    Attributes:
        tokenizer: the folder that its tokenizer comes from.
        fields: of its config.json, beside those of sizes and of the tokenizer.
        generation: its generation_config.json.
        languages: other languages than those that its tokenizer names, to be asked for too.
        seed: of its weights.
    """

    tokenizer: str
    fields: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, str] | None = None
    seed: int = 0


CASES = {
    "marian": Case(
        tokenizer="marian",
        fields={"architectures": ["MarianMTModel"], "activation_function": "swish", "scale_embedding": True},
        generation={
            "num_beams": 4,
            "max_length": 14,
            "forced_eos_token_id": 0,
            "bad_words_ids": [[470]],
            "renormalize_logits": True,
        },
    ),
    "marian-renormalised": Case(
        tokenizer="marian",
        fields={"architectures": ["MarianMTModel"], "activation_function": "relu", "scale_embedding": True},
        generation={
            "num_beams": 3,
            "max_length": 12,
            "min_length": 5,
            "early_stopping": True,
            "bad_words_ids": [[470], [0], [7], [5, 6], [1, 4, 9]],
            "no_repeat_ngram_size": 2,
            "renormalize_logits": True,
        },
        seed=2,
    ),
    "t5": Case(
        tokenizer="t5",
        fields={"architectures": ["T5ForConditionalGeneration"], "feed_forward_proj": "relu"},
        generation={"max_length": 13, "min_length": 4, "suppress_tokens": [0], "no_repeat_ngram_size": 2},
        seed=6,
    ),
    "t5-gated": Case(
        tokenizer="t5-pieces",
        fields={
            "architectures": ["T5ForConditionalGeneration"],
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
        generation={"num_beams": 4, "length_penalty": 0.6, "max_new_tokens": 11, "suppress_tokens": [0, 2]},
    ),
    "mt5": Case(
        tokenizer="t5-pieces-new",
        fields={"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "tie_word_embeddings": False},
        generation={"num_beams": 2, "max_length": 13, "early_stopping": "never", "suppress_tokens": [0]},
    ),
    "bart": Case(
        tokenizer="bart",
        fields={"architectures": ["BartForConditionalGeneration"]},
        generation={
            "num_beams": 4,
            "early_stopping": True,
            "length_penalty": 2.0,
            "max_length": 15,
            "min_length": 5,
            "no_repeat_ngram_size": 3,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "begin_suppress_tokens": [5, 6, 7],
            "suppress_tokens": [1],
        },
        seed=2,
    ),
    "mbart": Case(
        tokenizer="mbart-pieces",
        fields={"architectures": ["MBartForConditionalGeneration"], "scale_embedding": True},
        generation={
            "num_beams": 3,
            "max_length": 13,
            "begin_suppress_tokens": [4, 5, 6, 7, 8, 9, 10],
            "suppress_tokens": [1, 403, 412],
            "repetition_penalty": 1.4,
        },
        languages=("fr_XX", "it_IT"),
        seed=13,
    ),
    "mbart50": Case(
        tokenizer="mbart50-pieces",
        fields={"architectures": ["MBartForConditionalGeneration"], "scale_embedding": True},
        generation={
            "num_beams": 3,
            "max_length": 13,
            "early_stopping": True,
            "forced_bos_token_id": 403,
            "forced_eos_token_id": 2,
            "suppress_tokens": [1],
        },
        languages=("fr_XX", "it_IT"),
        seed=5,
    ),
    "nllb": Case(
        tokenizer="nllb-pieces",
        fields={"architectures": ["M2M100ForConditionalGeneration"], "scale_embedding": True},
        generation={"num_beams": 4, "max_length": 14, "suppress_tokens": [1]},
        languages=("fra_Latn", "ita_Latn"),
        seed=12,
    ),
    "m2m100": Case(
        tokenizer="m2m100-pieces",
        fields={"architectures": ["M2M100ForConditionalGeneration"], "scale_embedding": True, "vocab_size": 509},
        generation={"max_length": 14, "suppress_tokens": [1], "repetition_penalty": 1.2},
        languages=("fr", "it"),
        seed=5,
    ),
}
FILES = ("config.json", "expected.json")  # of a tokenizer's folder, which a model's has not


def write_folder_of(name: str, folder: Path, *, size: str = "small") -> Path:
    """Writes a model's folder and returns it."""
    case = CASES[name]
    shutil.copytree(TOKENIZERS / case.tokenizer, folder, ignore=shutil.ignore_patterns(*FILES))
    theirs = json.loads((TOKENIZERS / case.tokenizer / "config.json").read_text(encoding="utf-8"))
    is_t5 = name.startswith(("t5", "mt5"))
    small, large = (T5, LARGE_T5) if is_t5 else (SIZES, LARGE)
    theirs |= {"is_encoder_decoder": True, **(small if size == "small" else large), **case.fields}
    ids = {key: theirs[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
           if key in theirs}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(theirs), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(ids | case.generation), encoding="utf-8")
    family = FAMILIES[theirs["model_type"]]
    model = family.config_of(theirs)
    shapes = their_shapes(family.table(model, theirs["model_type"]), shapes_of(model))
    arrays = drawn(shapes, end=theirs["eos_token_id"], seed=case.seed, is_t5=is_t5)
    write_safetensors(folder / "model.safetensors", shapes, arrays, metadata={"format": "pt"})
    return folder


def drawn(shapes: dict[str, tuple[int, ...]], *, end: int, seed: int, is_t5: bool) -> list[np.ndarray]:
    """Returns random weights, norms and biases included, of a model whose translations end."""
    found = []
    random = np.random.RandomState(seed)  # gives the same numbers in all versions of NumPy
    for name, shape in shapes.items():
        noise = random.standard_normal(shape).astype(np.float32)
        is_table = any(part in name for part in ("shared", "embed", "lm_head"))
        deviation = shape[-1] ** -0.5
        if is_table:
            deviation = 1.0 if is_t5 else 0.5
        if len(shape) == 1 or name == "final_logits_bias":
            deviation = 0.3
        if is_t5 and name.endswith((".q.weight", ".relative_attention_bias.weight")):
            deviation = 0.3 if "bias" in name else shape[-1] ** -0.5 * 0.5
        values = noise * np.float32(deviation) + np.float32("norm" in name and name.endswith("weight"))
        if name == "final_logits_bias":
            values[0, end] += 2.5
        elif is_table and "positions" not in name and (is_t5 or "final_logits_bias" not in shapes):
            values[end] *= 2.5
        found.append(values)
    return found
