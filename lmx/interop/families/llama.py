"""Llama, Mistral, Qwen2 and Qwen3 (Touvron et al. 2023; Jiang et al. 2023; Yang et al. 2024, 2025)."""

from collections.abc import Mapping
from typing import Any

from lmx.errors import InputError
from lmx.interop.families.reading import expect, need
from lmx.interop.mapping import Row, Table, row
from lmx.models.decoder import DecoderConfig

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

# How long rows are, and how far layers with a window look back, where a config does not say it.
LENGTHS = {"llama": 2048, "mistral": 131_072, "qwen2": 32_768, "qwen3": 32_768}
WINDOW = 4096


def config_of(theirs: Mapping[str, Any]) -> DecoderConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    kind = theirs["model_type"]
    expect(theirs, hidden_act="silu", mlp_bias=False, pretraining_tp=1)
    if kind != "qwen2":
        expect(theirs, attention_bias=False)
    heads, width = theirs["num_attention_heads"], theirs["hidden_size"]
    head_width = theirs.get("head_dim") or (128 if kind == "qwen3" else width // heads)
    base, scaling = rotations(theirs)
    return DecoderConfig(
        vocab_size=theirs["vocab_size"],
        width=width,
        feedforward_width=theirs["intermediate_size"],
        num_heads=heads,
        num_kv_heads=theirs.get("num_key_value_heads") or heads,
        head_width=None if head_width * heads == width else head_width,
        qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2",
        num_layers=theirs["num_hidden_layers"],
        norm_epsilon=theirs.get("rms_norm_eps", 1e-6),
        rotary_base=base,
        rotary_scaling=scaling,
        window=_window(theirs),
        tied_embeddings=theirs.get("tie_word_embeddings", False),
        attention_dropout_rate=theirs.get("attention_dropout", 0.0),
        max_length=theirs.get("max_position_embeddings", LENGTHS[kind]),
    )


def rotations(theirs: Mapping[str, Any]) -> tuple[float, tuple[float, ...]]:
    """Returns base and scaling of rotary positions, as `TransformerConfig` has them.

    transformers 5 writes both into `rope_parameters`, earlier versions into `rope_theta` and `rope_scaling`.

    Raises:
        InputError: the kind of scaling is not one of ours.
    """
    given = {**(theirs.get("rope_scaling") or {}), **(theirs.get("rope_parameters") or {})}
    expect({**theirs, **given}, partial_rotary_factor=1.0)
    base = float(given.get("rope_theta") or theirs.get("rope_theta") or 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    match kind:
        case "default":
            return base, ()
        case "linear":
            return base, (float(given["factor"]),)
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            return base, tuple(float(given[name]) for name in names)
    raise InputError(f"rope_type must be default, linear or llama3, got rope_type={kind!r}.")


def _window(theirs: Mapping[str, Any]) -> int | None:
    """Returns how far each layer looks back, which is the same in all of ours."""
    window, layers = theirs.get("sliding_window", WINDOW), theirs["num_hidden_layers"]
    uses = theirs.get("use_sliding_window", theirs["model_type"] == "mistral")
    if not window or not uses or theirs["model_type"] == "llama":
        return None
    kinds = theirs.get("layer_types") or []
    without = theirs.get("max_window_layers", 0 if theirs["model_type"] == "mistral" else 28)
    if (kinds and len(set(kinds)) > 1) or (not kinds and 0 < without < layers):
        raise InputError("layer_types must be the same in all layers, got layers with and without a sliding window.")
    full = kinds[0] == "full_attention" if kinds else without >= layers
    return None if full else window


def their_config(model: DecoderConfig) -> dict[str, Any]:
    """Returns their config of ours, of the simplest of these families that has its fields.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    need(
        model,
        "a Llama, Mistral or Qwen",
        norm="rms",
        norm_position="pre",
        activation="gated-silu",
        positions="rotary",
        scaled_embeddings=False,
        use_bias=False,
        attention_scale=None,
        score_cap=None,
        logit_cap=None,
    )
    kind = "qwen3" if model.qk_norm else "qwen2" if model.qkv_bias else "llama" if model.window is None else "mistral"
    if kind == "qwen3":
        need(model, "a Qwen3", qkv_bias=False)
    scaling: dict[str, Any] = {"rope_type": "default"}
    if len(model.rotary_scaling) == 1:
        scaling = {"rope_type": "linear", "factor": model.rotary_scaling[0]}
    elif model.rotary_scaling:
        names = ("factor", "low_freq_factor", "high_freq_factor")
        scaling = {"rope_type": "llama3", **dict(zip(names, model.rotary_scaling, strict=False))}
        scaling["original_max_position_embeddings"] = int(model.rotary_scaling[3])
    config: dict[str, Any] = {
        "architectures": [{"qwen3": "Qwen3", "qwen2": "Qwen2"}.get(kind, kind.capitalize()) + "ForCausalLM"],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": model.feedforward_width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads or model.num_heads,
        "head_dim": model.width_of_head,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon or 1e-6,
        "max_position_embeddings": model.max_length,
        "tie_word_embeddings": model.tied_embeddings,
        "attention_dropout": model.attention_dropout_rate,
        # The first two are read by transformers 4, the third by 5.
        "rope_theta": model.rotary_base,
        "rope_scaling": None if scaling == {"rope_type": "default"} else scaling,
        "rope_parameters": {**scaling, "rope_theta": model.rotary_base},
    }
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = False
    if kind == "llama":
        config["mlp_bias"] = False
    if kind == "mistral" or model.window is not None:
        config["sliding_window"] = model.window
    if kind in ("qwen2", "qwen3"):
        config["use_sliding_window"] = model.window is not None
        config["max_window_layers"] = 0 if model.window is not None else model.num_layers
    return config


def table(model: DecoderConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    return Table(rows=tuple(_rows(model)), sizes=decoder_sizes(model), ignored=("*rotary_emb.inv_freq", *_tied(model)))


def decoder_sizes(model: DecoderConfig) -> dict[str, int]:
    """Returns the sizes of the letters in a decoder's rows."""
    return {
        "D": model.width,
        "H": model.num_heads,
        "G": model.num_kv_heads or model.num_heads,
        "K": model.width_of_head,
        "F": model.feedforward_width,
        "V": model.vocab_size,
        "T": model.max_length,
    }


def _tied(model: DecoderConfig) -> tuple[str, ...]:
    return ("lm_head.weight",) if model.tied_embeddings else ()


def _rows(model: DecoderConfig) -> list[Row]:
    """Returns the rows, those of fields that a model lacks included."""
    layer = "model.layers.{layer}"
    rows = [
        row("embedding.table", "model.embed_tokens.weight", "V D -> V D"),
        row("stack.final_norm.scale", "model.norm.weight", "D -> D"),
        row("stack.blocks.attention_norm.scale", f"{layer}.input_layernorm.weight", "D -> D"),
        row("stack.blocks.attention.query.weight", f"{layer}.self_attn.q_proj.weight", "D H K -> HK D"),
        row("stack.blocks.attention.key.weight", f"{layer}.self_attn.k_proj.weight", "D G K -> GK D"),
        row("stack.blocks.attention.value.weight", f"{layer}.self_attn.v_proj.weight", "D G K -> GK D"),
        row("stack.blocks.attention.out.weight", f"{layer}.self_attn.o_proj.weight", "H K D -> D HK"),
        row("stack.blocks.feedforward_norm.scale", f"{layer}.post_attention_layernorm.weight", "D -> D"),
        row("stack.blocks.feedforward.gate.weight", f"{layer}.mlp.gate_proj.weight", "D F -> F D"),
        row("stack.blocks.feedforward.up.weight", f"{layer}.mlp.up_proj.weight", "D F -> F D"),
        row("stack.blocks.feedforward.down.weight", f"{layer}.mlp.down_proj.weight", "F D -> D F"),
    ]
    if model.qkv_bias:
        rows += [
            row("stack.blocks.attention.query.bias", f"{layer}.self_attn.q_proj.bias", "H K -> HK"),
            row("stack.blocks.attention.key.bias", f"{layer}.self_attn.k_proj.bias", "G K -> GK"),
            row("stack.blocks.attention.value.bias", f"{layer}.self_attn.v_proj.bias", "G K -> GK"),
        ]
    if model.qk_norm:
        rows += [
            row("stack.blocks.attention.query_norm.scale", f"{layer}.self_attn.q_norm.weight", "K -> K"),
            row("stack.blocks.attention.key_norm.scale", f"{layer}.self_attn.k_norm.weight", "K -> K"),
        ]
    if not model.tied_embeddings:
        rows += [row("output_embedding.table", "lm_head.weight", "V D -> V D")]
    return rows
