"""GPT-2 (Radford et al. 2019)."""

from collections.abc import Mapping
from typing import Any

from lmx.interop.families.llama import decoder_sizes
from lmx.interop.families.reading import THEIR_ACTIVATIONS, activation, expect, need, plain_attention
from lmx.interop.mapping import Table, row
from lmx.models.decoder import DecoderConfig

ARCHITECTURES = ("GPT2LMHeadModel",)


def config_of(theirs: Mapping[str, Any]) -> DecoderConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    expect(theirs, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    rates = [theirs.get(name, 0.1) for name in ("resid_pdrop", "attn_pdrop")]
    return DecoderConfig(
        vocab_size=theirs["vocab_size"],
        width=theirs["n_embd"],
        feedforward_width=theirs.get("n_inner") or 4 * theirs["n_embd"],
        num_heads=theirs["n_head"],
        num_layers=theirs["n_layer"],
        norm="layer",
        norm_epsilon=theirs.get("layer_norm_epsilon", 1e-5),
        activation=activation(theirs, "activation_function", default="gelu_new"),  # type: ignore[arg-type]
        positions="learned",
        use_bias=True,
        tied_embeddings=theirs.get("tie_word_embeddings", True),
        dropout_rate=rates[0],
        attention_dropout_rate=rates[1],
        max_length=theirs.get("n_positions", 1024),
    )


def their_config(model: DecoderConfig) -> dict[str, Any]:
    """Returns their config of ours.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    need(
        model,
        "a GPT-2",
        norm="layer",
        norm_position="pre",
        activation=tuple(THEIR_ACTIVATIONS),
        positions="learned",
        scaled_embeddings=False,
        use_bias=True,
        logit_cap=None,
        **plain_attention(model),
    )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.max_length,
        "n_embd": model.width,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": model.feedforward_width,
        "activation_function": THEIR_ACTIVATIONS[model.activation],
        "layer_norm_epsilon": model.norm_epsilon or 1e-5,
        "resid_pdrop": model.dropout_rate,
        "embd_pdrop": model.dropout_rate,
        "attn_pdrop": model.attention_dropout_rate,
        "tie_word_embeddings": model.tied_embeddings,
    }


def table(model: DecoderConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs: their matrices are not transposed, and q, k and v are one."""
    block, layer = "stack.blocks", "transformer.h.{layer}"
    fused, inner = f"{layer}.attn.c_attn", model.width_of_queries
    rows = [
        row("embedding.table", "transformer.wte.weight", "V D -> V D"),
        row("positions.table", "transformer.wpe.weight", "T D -> T D"),
        row("stack.final_norm.scale", "transformer.ln_f.weight", "D -> D"),
        row("stack.final_norm.bias", "transformer.ln_f.bias", "D -> D"),
        row(f"{block}.attention_norm.scale", f"{layer}.ln_1.weight", "D -> D"),
        row(f"{block}.attention_norm.bias", f"{layer}.ln_1.bias", "D -> D"),
        *(
            each
            for place, name in enumerate(("query", "key", "value"))
            for each in (
                row(
                    f"{block}.attention.{name}.weight", f"{fused}.weight", "D H K -> D HK", start=place * inner, axis=1
                ),
                row(f"{block}.attention.{name}.bias", f"{fused}.bias", "H K -> HK", start=place * inner),
            )
        ),
        row(f"{block}.attention.out.weight", f"{layer}.attn.c_proj.weight", "H K D -> HK D"),
        row(f"{block}.attention.out.bias", f"{layer}.attn.c_proj.bias", "D -> D"),
        row(f"{block}.feedforward_norm.scale", f"{layer}.ln_2.weight", "D -> D"),
        row(f"{block}.feedforward_norm.bias", f"{layer}.ln_2.bias", "D -> D"),
        row(f"{block}.feedforward.up.weight", f"{layer}.mlp.c_fc.weight", "D F -> D F"),
        row(f"{block}.feedforward.up.bias", f"{layer}.mlp.c_fc.bias", "F -> F"),
        row(f"{block}.feedforward.down.weight", f"{layer}.mlp.c_proj.weight", "F D -> F D"),
        row(f"{block}.feedforward.down.bias", f"{layer}.mlp.c_proj.bias", "D -> D"),
    ]
    if not model.tied_embeddings:
        rows += [row("output_embedding.table", "lm_head.weight", "V D -> V D")]
    ignored = ("*.attn.bias", "*.attn.masked_bias", *(("lm_head.weight",) if model.tied_embeddings else ()))
    return Table(rows=tuple(rows), sizes=decoder_sizes(model), ignored=ignored)
