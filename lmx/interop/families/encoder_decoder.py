"""What Marian and BART share: blocks of two stacks under one set of names, and fields that must agree in both."""

from collections.abc import Mapping
from typing import Any

from lmx.errors import InputError
from lmx.interop.families.reading import THEIR_ACTIVATIONS, activation, expect, need, plain_attention
from lmx.interop.mapping import Row, row
from lmx.models.seq2seq import Seq2SeqConfig

SIDES = ("encoder", "decoder")


def sizes_of(theirs: Mapping[str, Any], *, layers: int) -> dict[str, Any]:
    """Returns the fields of our config that both families name in the same way.

    Args:
        layers: of each stack where the config does not say it.

    Raises:
        InputError: the encoder has other sizes than the decoder, or an activation is not one of ours.
    """
    for field, default in (("ffn_dim", 4096), ("attention_heads", 16)):
        encoder, decoder = (theirs.get(f"{side}_{field}", default) for side in SIDES)
        if encoder != decoder:
            raise InputError(
                f"decoder_{field} must be encoder_{field}={encoder}, got decoder_{field}={decoder}, "
                "which no model here has."
            )
    return {
        "width": theirs["d_model"],
        "feedforward_width": theirs.get("encoder_ffn_dim", 4096),
        "num_heads": theirs.get("encoder_attention_heads", 16),
        "num_encoder_layers": theirs.get("encoder_layers", layers),
        "num_decoder_layers": theirs.get("decoder_layers", layers),
        "activation": activation(theirs, "activation_function", default="gelu"),
        "scaled_embeddings": theirs.get("scale_embedding", False),
        "output_bias": True,
        "dropout_rate": theirs.get("dropout", 0.1),
        "attention_dropout_rate": theirs.get("attention_dropout", 0.0),
        "feedforward_dropout_rate": theirs.get("activation_dropout", 0.0),
        "max_length": theirs.get("max_position_embeddings", 1024),
    }


def their_sizes(model: Seq2SeqConfig, what: str, **values: Any) -> dict[str, Any]:
    """Returns the fields of their config that both families name in the same way.

    Args:
        what: the family, for the message.
        values: what the family needs of other fields of ours, as `need` takes them.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    need(
        model,
        what,
        norm="layer",
        norm_epsilon=(None, 1e-5),
        activation=tuple(THEIR_ACTIVATIONS),
        scaled_output=False,
        use_bias=True,
        **plain_attention(model) | values,
    )
    config: dict[str, Any] = {
        "is_encoder_decoder": True,
        "d_model": model.width,
        "encoder_layers": model.num_encoder_layers,
        "decoder_layers": model.num_decoder_layers,
        "activation_function": THEIR_ACTIVATIONS[model.activation],
        "scale_embedding": model.scaled_embeddings,
        "max_position_embeddings": model.max_length,
        "dropout": model.dropout_rate,
        "attention_dropout": model.attention_dropout_rate,
        "activation_dropout": model.feedforward_dropout_rate,
        "tie_word_embeddings": True,
    }
    for side in SIDES:
        config |= {f"{side}_ffn_dim": model.feedforward_width, f"{side}_attention_heads": model.num_heads}
    return config


def expect_tied(theirs: Mapping[str, Any]) -> None:
    """Checks that the output's table is that of the target.

    Raises:
        InputError: it is another.
    """
    expect(theirs, tie_word_embeddings=True)


def letters_of(model: Seq2SeqConfig) -> dict[str, int]:
    """Returns the sizes of the letters: V of the target's words, W of the source's, and U one."""
    return {
        "D": model.width,
        "H": model.num_heads,
        "K": model.width_of_head,
        "F": model.feedforward_width,
        "V": model.target_vocab_size,
        "W": model.source_vocab_size,
        "T": model.max_length,
        "U": 1,
    }


def zeros_of(model: Seq2SeqConfig) -> dict[str, tuple[int, ...]]:
    """Returns the numbers added to the logits, where the model has none of them."""
    return {} if model.output_bias else {"final_logits_bias": (1, model.target_vocab_size)}


def block_rows() -> list[Row]:
    """Returns the rows of the blocks of both stacks, and of the numbers added to the logits."""
    rows = [row("output_bias", "final_logits_bias", "UV -> U V", optional=True)]
    for side in SIDES:
        ours, layer = f"{side}.blocks", f"model.{side}.layers.{{layer}}"
        attentions = [("attention", "self_attn")]
        norms = [("attention_norm", "self_attn_layer_norm"), ("feedforward_norm", "final_layer_norm")]
        if side == "decoder":
            attentions.append(("memory_attention", "encoder_attn"))
            norms.append(("memory_norm", "encoder_attn_layer_norm"))
        for mine, theirs in attentions:
            for name, there in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                rows.append(row(f"{ours}.{mine}.{name}.weight", f"{layer}.{theirs}.{there}.weight", "D H K -> HK D"))
                rows.append(row(f"{ours}.{mine}.{name}.bias", f"{layer}.{theirs}.{there}.bias", "H K -> HK"))
            rows.append(row(f"{ours}.{mine}.out.weight", f"{layer}.{theirs}.out_proj.weight", "H K D -> D HK"))
            rows.append(row(f"{ours}.{mine}.out.bias", f"{layer}.{theirs}.out_proj.bias", "D -> D"))
        for mine, theirs in norms:
            rows += norm_rows(f"{ours}.{mine}", f"{layer}.{theirs}")
        rows.append(row(f"{ours}.feedforward.up.weight", f"{layer}.fc1.weight", "D F -> F D"))
        rows.append(row(f"{ours}.feedforward.up.bias", f"{layer}.fc1.bias", "F -> F"))
        rows.append(row(f"{ours}.feedforward.down.weight", f"{layer}.fc2.weight", "F D -> D F"))
        rows.append(row(f"{ours}.feedforward.down.bias", f"{layer}.fc2.bias", "D -> D"))
    return rows


def norm_rows(ours: str, theirs: str) -> list[Row]:
    """Returns the rows of one LayerNorm."""
    return [row(f"{ours}.scale", f"{theirs}.weight", "D -> D"), row(f"{ours}.bias", f"{theirs}.bias", "D -> D")]
