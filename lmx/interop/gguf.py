"""GGUF, the files of llama.cpp: Llama's form and its kin, dequantised as they are read by the package `gguf`.

The arrays get the names of Hugging Face's library, so that its families' tables serve. llama.cpp turns neighbouring
features of a head together and stores the rows of Llama's queries and keys that way; here they are in two halves again.
Source: https://github.com/ggml-org/llama.cpp, docs of the format and convert_hf_to_gguf.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmx.errors import InputError
from lmx.interop.families import llama
from lmx.interop.gguf_tokenizer import LLAMA_3, read_tokenizer
from lmx.interop.imported import Imported, check_tokenizers, mapped
from lmx.interop.kinds import AMOUNT, SIZE
from lmx.interop.rearranged import Reordered, halves
from lmx.interop.tensors import Index, Source
from lmx.text import Tokenizer

# Architectures there -> the family's model_type; the first has its features in the order of the paper.
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NEIGHBOURS = ("llama",)
GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MERGES = "tokenizer.ggml.merges"  # of a vocabulary of byte-level pairs, which begins texts with nothing but Llama 3's
NAME = re.compile(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)")


class GgufSource:
    """The arrays of a GGUF file under Hugging Face's names.

    Args:
        tensors: as the package's reader gives them.
    """

    def __init__(self, path: Path, tensors: Any):
        self.where = str(path)
        self._tensors = {_renamed(tensor.name): tensor for tensor in tensors}
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()
        }

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a part of an array in float32; only the rows that are asked for are dequantised."""
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        rows, *others = index or (slice(None),)
        values = dequantize(np.asarray(tensor.data[rows]), tensor.tensor_type)
        return np.asarray(values[(slice(None), *others)], np.float32)

    def nbytes(self, name: str) -> int:
        """Returns how many bytes an array takes in its file."""
        return int(self._tensors[name].n_bytes)


def read_gguf(path: Path) -> Imported:
    """Reads the metadata of a file, and where its arrays lie.

    Raises:
        ModuleNotFoundError: the package `gguf` is not installed.
        InputError: the file is damaged, or holds a model that lmx does not have.
    """
    reader = _opened(path)
    said = {name: field.contents() for name, field in reader.fields.items()}
    architecture = said.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InputError(f"{path} must hold a model of {', '.join(ARCHITECTURES)}, got {architecture}.")
    arrays: Source = GgufSource(path, reader.tensors)
    if "rope_freqs.weight" in arrays.shapes:
        raise InputError(
            f"{path} must have rotary positions that are not stretched, got rope_freqs.weight. "
            "Convert the Hugging Face folder instead, whose config.json says how they are."
        )
    theirs = _config(said, str(architecture), arrays, path)
    tokenizer = read_tokenizer(said, vocab_size=theirs["vocab_size"], path=path)
    model = replace(llama.config_of(theirs), pad_id=tokenizer.pad_id)
    if architecture in NEIGHBOURS:
        heads = {"q": model.num_heads, "k": model.num_kv_heads or model.num_heads}
        arrays = Reordered(
            arrays,
            {
                name: halves(number, model.width_of_head)
                for letter, number in heads.items()
                for name in arrays.shapes
                if f".{letter}_proj." in name
            },
        )
    check_tokenizers(model, {"tokenizer": tokenizer}, where=str(path))
    file = mapped(arrays, llama.table(model, theirs["model_type"]), model)
    if left := file.unused():
        raise InputError(f"{path} must have arrays of Llama's form alone, got {left[0]}, which lmx has no place for.")
    return Imported(
        family="decoder",
        model=model,
        file=file,
        tokenizers={"tokenizer": tokenizer},
        settings={"max_length": model.max_length, "sampling": {"temperature": 0.0}},
        facts=_facts(said, tokenizer),
    )


def _opened(path: Path) -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} needs the package gguf: pip install 'lmx[gguf]'.", name="gguf") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file, got none.")
    try:
        reader = gguf.GGUFReader(path)
        for tensor in reader.tensors:
            _ = tensor.data.shape
    except (ValueError, IndexError, KeyError, OverflowError, OSError, AttributeError) as error:
        raise InputError(f"{path} must be a whole GGUF file, got one that cannot be read ({error}).") from error
    return reader


def _renamed(name: str) -> str:
    """Returns the name of an array in Hugging Face's library; another one stays as it is."""
    found = NAME.fullmatch(name)
    if found is None:
        return name
    layer, part, kind = found.groups()
    if layer is None:
        return f"{GLOBAL[part]}.{kind}" if part in GLOBAL else name
    return f"model.layers.{layer}.{LAYER[part]}.{kind}" if part in LAYER else name


def _config(said: Mapping[str, Any], architecture: str, arrays: Source, path: Path) -> dict[str, Any]:
    """Returns the metadata as Hugging Face's config.json would have it."""

    def get(name: str, default: Any = None) -> Any:
        value = said.get(f"{architecture}.{name}", default)
        if value is None:
            raise InputError(f"{path} must say {architecture}.{name}, got nothing.")
        return value

    def size(name: str, default: Any = None) -> int:
        value = get(name, default)
        if not SIZE.fits(value):
            raise InputError(f"{path} must have one size in {architecture}.{name}, got {value!r:.60}.")
        return value

    def amount(name: str, default: Any = None) -> float:
        value = get(name, default)
        if not AMOUNT.fits(value):
            raise InputError(f"{path} must have one number in {architecture}.{name}, got {value!r:.60}.")
        return float(value)

    words = "model.embed_tokens.weight"
    if words not in arrays.shapes:
        raise InputError(f"{path} must have token_embd.weight, got no table of words.")
    heads, width = size("attention.head_count"), size("embedding_length")
    head = size("attention.key_length", width // heads)
    if (turned := size("rope.dimension_count", head)) != head:
        raise InputError(
            f"{path} must turn whole heads of {head} features, got {architecture}.rope.dimension_count={turned}."
        )
    if (scaling := get("rope.scaling.type", "none")) not in ("none", "linear"):
        raise InputError(f"{path} must stretch rotary positions by a factor or not at all, got {scaling}.")
    if get("expert_count", 0):
        raise InputError(f"{path} must have one feed-forward network a layer, got {get('expert_count')} experts.")
    window = amount("attention.sliding_window", 0)
    stretch = {"rope_type": "linear", "factor": amount("rope.scaling.factor")} if scaling == "linear" else None
    return {
        "model_type": "mistral" if window and architecture == "llama" else ARCHITECTURES[architecture],
        "vocab_size": arrays.shapes[words][0],
        "hidden_size": width,
        "intermediate_size": size("feed_forward_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": size("attention.head_count_kv", heads),
        "head_dim": head,
        # Written as float32 there: the decimal number that was meant has seven digits.
        "rms_norm_eps": float(f"{amount('attention.layer_norm_rms_epsilon'):.7g}"),
        "rope_theta": float(amount("rope.freq_base", 10000.0)),
        "rope_scaling": stretch,
        "max_position_embeddings": size("context_length"),
        "tie_word_embeddings": "lm_head.weight" not in arrays.shapes,
        "sliding_window": int(window) or None,
    }


def _facts(said: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what a run of this model says beside its config."""
    turn = said.get("tokenizer.ggml.eot_token_id")  # the end of a turn in a chat
    is_more = isinstance(turn, int) and 0 <= turn < tokenizer.vocab_size and turn != tokenizer.eos_id
    by_default = not said.get(MERGES) or said.get("tokenizer.ggml.pre") in LLAMA_3
    begins = said.get("tokenizer.ggml.add_bos_token", by_default)
    return ({"end_ids": [turn]} if is_more else {}) | ({"first_id": tokenizer.bos_id} if begins else {})
