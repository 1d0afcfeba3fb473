"""T5 (Raffel et al. 2020), T5 1.1, flan-T5 and mT5 (Xue et al. 2021): scores without a scale, relative positions.

The first T5 shares one table between source, target and output, and scales the states before it. All later ones have
an output table of their own. The bias of relative positions lies in the first layer of each stack.
"""

from collections.abc import Mapping
from typing import Any

from lmx.errors import InputError
from lmx.interop.families.encoder_decoder import SIDES
from lmx.interop.families.reading import expect, need, plain_attention
from lmx.interop.mapping import Row, Table, row
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.nn.positions.t5 import MAX_DISTANCE, NUM_BUCKETS

ARCHITECTURES = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")

# Their feed_forward_proj -> our activation. "gated-gelu" means the approximation by tanh, "gelu" the error function.
PROJECTIONS = {
    "relu": "relu",
    "gelu": "gelu-exact",
    "gelu_new": "gelu",
    "silu": "silu",
    "gated-gelu": "gated-gelu",
    "gated-gelu_new": "gated-gelu",
    "gated-silu": "gated-silu",
}
THEIR_PROJECTIONS = {
    "relu": "relu",
    "gelu-exact": "gelu",
    "gelu": "gelu_new",
    "silu": "silu",
    "gated-gelu": "gated-gelu",
    "gated-silu": "gated-silu",
}


def config_of(theirs: Mapping[str, Any]) -> Seq2SeqConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    expect(theirs, relative_attention_num_buckets=NUM_BUCKETS, relative_attention_max_distance=MAX_DISTANCE)
    gated = theirs["model_type"] == "mt5"
    projection = theirs.get("feed_forward_proj", "gated-gelu" if gated else "relu")
    if projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise InputError(f"feed_forward_proj must be one of {known}, got feed_forward_proj={projection!r}.")
    tied = _is_tied(theirs)
    words, layers = theirs["vocab_size"], theirs.get("num_layers", 8 if gated else 6)
    return Seq2SeqConfig(
        source_vocab_size=words,
        target_vocab_size=words,
        width=theirs["d_model"],
        feedforward_width=theirs["d_ff"],
        num_heads=theirs["num_heads"],
        head_width=theirs["d_kv"],
        attention_scale=1.0,
        num_encoder_layers=layers,
        num_decoder_layers=theirs.get("num_decoder_layers") or layers,
        norm="rms",
        norm_epsilon=theirs.get("layer_norm_epsilon", 1e-6),
        norm_position="pre",
        activation=PROJECTIONS[projection],  # type: ignore[arg-type]
        positions="t5",
        scaled_embeddings=False,
        use_bias=False,
        tied_embeddings="all" if tied else "inputs",
        embedding_init="t5",
        scaled_output=tied,
        dropout_rate=theirs.get("dropout_rate", 0.1),
        attention_dropout_rate=theirs.get("dropout_rate", 0.1),
        feedforward_dropout_rate=theirs.get("dropout_rate", 0.1),
        max_length=theirs.get("n_positions", 512),
        pad_id=theirs.get("pad_token_id", 0),
    )


def their_config(model: Seq2SeqConfig) -> dict[str, Any]:
    """Returns their config of ours. An mT5's is a T5's: only its vocabulary is another.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    scale = (1.0, 1) if model.width_of_head != 1 else (None, 1.0, 1)
    attention = plain_attention(model) | {"head_width": (None, model.width_of_head), "attention_scale": scale}
    need(
        model,
        "a T5",
        norm="rms",
        norm_position="pre",
        activation=tuple(THEIR_PROJECTIONS),
        positions="t5",
        scaled_embeddings=False,
        use_bias=False,
        qkv_bias=False,
        tied_embeddings="all" if model.scaled_output else "inputs",
        embedding_norm=False,
        output_bias=False,
        **attention,
    )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": model.target_vocab_size,
        "d_model": model.width,
        "d_kv": model.width_of_head,
        "d_ff": model.feedforward_width,
        "num_layers": model.num_encoder_layers,
        "num_decoder_layers": model.num_decoder_layers,
        "num_heads": model.num_heads,
        "relative_attention_num_buckets": NUM_BUCKETS,
        "relative_attention_max_distance": MAX_DISTANCE,
        "layer_norm_epsilon": model.norm_epsilon or 1e-6,
        "feed_forward_proj": THEIR_PROJECTIONS[model.activation],
        "dropout_rate": model.dropout_rate,
        "n_positions": model.max_length,
        "tie_word_embeddings": model.scaled_output,
        "pad_token_id": model.pad_id,
    }


def table(model: Seq2SeqConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    rows = [row("target_embedding.table", ("shared.weight", *copies), "V D -> V D")]
    if model.tied_embeddings == "inputs":
        # Saved by transformers 5, a file that lacks it has one table for both, and states are not scaled.
        rows.append(row("output_embedding.table", ("lm_head.weight", "shared.weight"), "V D -> V D"))
    for ours, side in zip(("source", "target"), SIDES, strict=True):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(row(f"{ours}_positions.table", bias, "R H -> R H"))
        rows.append(row(f"{side}.final_norm.scale", f"{side}.final_layer_norm.weight", "D -> D"))
        rows += _block_rows(side, gated=model.is_gated)
    sizes = {
        "D": model.width,
        "H": model.num_heads,
        "K": model.width_of_head,
        "F": model.feedforward_width,
        "V": model.target_vocab_size,
        "R": NUM_BUCKETS,
    }
    # Old files have a bias for the attention to the memory, which nothing reads.
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tied = ("lm_head.weight",) if model.tied_embeddings == "all" else ()
    return Table(rows=tuple(rows), sizes=sizes, ignored=("shared.weight", *copies, *tied, unread))


def _is_tied(theirs: Mapping[str, Any]) -> bool:
    """Returns whether the output has the table of the words, and with it scaled states.

    transformers 5 writes "tie_word_embeddings" as true beside every T5 and mT5, and what it meant into a field of its
    own; it never scales the states of an mT5.
    """
    version = str(theirs.get("transformers_version") or "4")
    if theirs["model_type"] == "mt5":
        return theirs.get("tie_word_embeddings", False) and not version.startswith("5")
    return theirs.get("scale_decoder_outputs", theirs.get("tie_word_embeddings", True))


def _block_rows(side: str, *, gated: bool) -> list[Row]:
    """Returns the rows of the blocks of one stack."""
    ours, layer = f"{side}.blocks", f"{side}.block.{{layer}}.layer"
    sublayers = ["attention", *(["memory"] if side == "decoder" else []), "feedforward"]
    rows = [
        row(f"{ours}.{name}_norm.scale", f"{layer}.{place}.layer_norm.weight", "D -> D")
        for place, name in enumerate(sublayers)
    ]
    attentions = [("attention", f"{layer}.0.SelfAttention")]
    if side == "decoder":
        attentions.append(("memory_attention", f"{layer}.1.EncDecAttention"))
    for mine, theirs in attentions:
        for name in ("query", "key", "value"):
            rows.append(row(f"{ours}.{mine}.{name}.weight", f"{theirs}.{name[0]}.weight", "D H K -> HK D"))
        rows.append(row(f"{ours}.{mine}.out.weight", f"{theirs}.o.weight", "H K D -> D HK"))
    dense = f"{layer}.{len(sublayers) - 1}.DenseReluDense"
    names = (("gate", "wi_0"), ("up", "wi_1")) if gated else (("up", "wi"),)
    rows += [
        row(f"{ours}.feedforward.{mine}.weight", f"{dense}.{theirs}.weight", "D F -> F D") for mine, theirs in names
    ]
    return [*rows, row(f"{ours}.feedforward.down.weight", f"{dense}.wo.weight", "F D -> D F")]
