"""BART (Lewis et al. 2020) and mBART (Liu et al. 2020): learned positions, and a norm behind the embeddings.

mBART has its norms before the sublayers, and one behind each stack. Both store positions from row 2 on: fairseq counts
them from behind the id of its padding.
"""

from collections.abc import Mapping
from typing import Any

from lmx.interop.families.encoder_decoder import (
    SIDES,
    block_rows,
    expect_tied,
    letters_of,
    norm_rows,
    sizes_of,
    their_sizes,
    zeros_of,
)
from lmx.interop.families.reading import expect
from lmx.interop.mapping import Table, row
from lmx.models.seq2seq import Seq2SeqConfig

ARCHITECTURES = ("BartForConditionalGeneration", "MBartForConditionalGeneration")
FIRST_POSITION = 2


def config_of(theirs: Mapping[str, Any]) -> Seq2SeqConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    pre = theirs["model_type"] == "mbart"
    expect_tied(theirs)
    # Written by earlier versions, which read them.
    expect(
        theirs,
        normalize_before=pre,
        add_final_layer_norm=pre,
        normalize_embedding=True,
        static_position_embeddings=False,
        extra_pos_embeddings=FIRST_POSITION,
        add_bias_logits=False,
    )
    words = theirs["vocab_size"]
    return Seq2SeqConfig(
        **sizes_of(theirs, layers=12),
        source_vocab_size=words,
        target_vocab_size=words,
        tied_embeddings="all",
        norm_position="pre" if pre else "post",
        positions="learned",
        embedding_norm=True,
        pad_id=theirs.get("pad_token_id", 1),
    )


def their_config(model: Seq2SeqConfig) -> dict[str, Any]:
    """Returns their config of ours: a BART's or, with norms before the sublayers, an mBART's.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    sizes = their_sizes(model, "a BART or mBART", positions="learned", embedding_norm=True, tied_embeddings="all")
    kind = "MBart" if model.norm_position == "pre" else "Bart"
    return {
        "architectures": [f"{kind}ForConditionalGeneration"],
        "model_type": kind.lower(),
        **sizes,
        "vocab_size": model.target_vocab_size,
        "pad_token_id": model.pad_id,
    }


def table(model: Seq2SeqConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    rows = [row("target_embedding.table", ("model.shared.weight", *copies), "V D -> V D"), *block_rows()]
    for ours, side in zip(("source", "target"), SIDES, strict=True):
        positions = f"model.{side}.embed_positions.weight"
        rows.append(row(f"{ours}_positions.table", positions, "T D -> T D", start=FIRST_POSITION))
        rows += norm_rows(f"{ours}_norm", f"model.{side}.layernorm_embedding")
        rows += norm_rows(f"{side}.final_norm", f"model.{side}.layer_norm")
    ignored = ("model.shared.weight", *copies)
    return Table(rows=tuple(rows), sizes=letters_of(model), ignored=ignored, zeros=zeros_of(model))
