"""Runs with a model of random numbers, one for each form that is exported."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from lmx.interop.imported import NETWORKS, AnyModel, definition_of, family_of
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.models.masked import MaskedConfig
from lmx.parameters import save_params
from lmx.saved import write_json
from lmx.text import ByteTokenizer

SIZES: dict[str, Any] = {"vocab_size": 260, "width": 12, "feedforward_width": 20, "num_heads": 3, "num_layers": 2}
GPT2: dict[str, Any] = {
    "norm": "layer",
    "norm_epsilon": 1e-5,
    "activation": "gelu",
    "positions": "learned",
    "use_bias": True,
    "tied_embeddings": True,
}
LARGER: dict[str, Any] = {"width": 24, "num_heads": 4, "num_layers": 3, "feedforward_width": 36}
BERT: dict[str, Any] = {"num_types": 2, "norm_epsilon": 1e-12, "activation": "gelu-exact", "max_length": 16}
ROBERTA: dict[str, Any] = BERT | {"num_types": 1, "pad_id": 1, "norm_epsilon": 1e-5}
LLAMA: dict[str, Any] = {"norm_epsilon": 1e-6, "head_width": 6, "num_kv_heads": 1}
MODELS: dict[str, AnyModel] = {
    "gpt2": DecoderConfig(**SIZES, **GPT2, max_length=16),
    "gpt2-untied": DecoderConfig(**(SIZES | LARGER), **(GPT2 | {"tied_embeddings": False}), max_length=19),
    "llama": DecoderConfig(**SIZES, **LLAMA, rotary_base=500.0, rotary_scaling=(8.0, 1.0, 4.0, 16.0), max_length=64),
    "llama-linear": DecoderConfig(**SIZES, **LLAMA, rotary_scaling=(2.0,), tied_embeddings=True, max_length=64),
    "mistral": DecoderConfig(**(SIZES | LARGER), num_kv_heads=2, norm_epsilon=1e-5, window=7, max_length=64),
    "qwen2": DecoderConfig(**SIZES, norm_epsilon=1e-6, num_kv_heads=3, qkv_bias=True, max_length=64),
    "qwen2-larger": DecoderConfig(
        **(SIZES | LARGER), num_kv_heads=2, norm_epsilon=1e-6, qkv_bias=True, tied_embeddings=True, max_length=64
    ),
    "qwen3": DecoderConfig(**SIZES, **LLAMA, qk_norm=True, max_length=64),
    "qwen3-larger": DecoderConfig(
        **(SIZES | LARGER), head_width=8, num_kv_heads=2, norm_epsilon=1e-6, qk_norm=True, tied_embeddings=True
    ),
    "bert-masked": MaskedConfig(**SIZES, **BERT),
    "bert-masked-larger": MaskedConfig(**(SIZES | LARGER), **BERT),
    "bert-classifier": ClassifierConfig(**SIZES, **BERT, num_outputs=3, pooling="pooler"),
    "bert-embedder": EmbedderConfig(**SIZES, **BERT, has_pooler=True),
    "roberta-masked": MaskedConfig(**SIZES, **ROBERTA),
    "roberta-masked-larger": MaskedConfig(**(SIZES | LARGER), **ROBERTA),
    "roberta-classifier": ClassifierConfig(**SIZES, **ROBERTA, num_outputs=3, pooling="pooler"),
    "roberta-embedder": EmbedderConfig(**SIZES, **ROBERTA, has_pooler=True),
}


def random_params(model: AnyModel, *, seed: int = 0) -> Any:
    """Parameters large enough that a wrong place of one changes what the model says; biases and norms too."""
    network = NETWORKS[type(model)][1](model, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network, nnx.Param)))

    def drawn(path: tuple, array: np.ndarray) -> np.ndarray:
        name = ".".join(str(entry.key) for entry in path)
        values = random.normal(size=array.shape).astype(np.float32) * 0.3 + (1.0 if name.endswith("scale") else 0.0)
        if name.endswith("table") and "positions" not in name:
            rows = getattr(model, "num_types", 0) if "types" in name else getattr(model, "vocab_size", None)
            values[rows or getattr(model, "target_vocab_size", None) :] = 0  # padding
        return values

    return jax.tree_util.tree_map_with_path(drawn, params)


def write_run(folder: Path, model: AnyModel, *, tokenizer: bool = False) -> Path:
    """A finished run of a model with random parameters."""
    folder.mkdir(parents=True)
    save_params(folder / "model.safetensors", random_params(model))
    config = {"max_length": 16, "search": {}, "sampling": {}}
    write_json(
        folder / "config.json", {"family": family_of(model), "config": config, "model": dataclasses.asdict(model)}
    )
    if tokenizer:
        ByteTokenizer().save(folder / "tokenizer.bytes")
    return folder


def logits(model: AnyModel, params: Any, tokens: jax.Array) -> np.ndarray:
    """What a model says of rows of tokens: of an embedder, the states of its encoder."""
    network = definition_of(model).merge(jax.tree.map(jax.numpy.asarray, params))
    if isinstance(model, EmbedderConfig):
        return np.asarray(network.encoder(tokens)[0])
    if isinstance(model, ClassifierConfig):
        return np.asarray(network(tokens)[0])
    return np.asarray(network.logits(network(tokens)[0]))[..., : model.vocab_size]
