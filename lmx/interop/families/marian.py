"""Marian (Junczys-Dowmunt et al. 2018), as OPUS-MT publishes its models (Tiedemann and Thottingal 2020).

Positions are sines in halves, counted from 0, with the paper's frequencies: nothing of them is stored.
"""

from collections.abc import Mapping
from typing import Any

from lmx.interop.families.encoder_decoder import block_rows, expect_tied, letters_of, sizes_of, their_sizes, zeros_of
from lmx.interop.families.reading import expect
from lmx.interop.mapping import Table, row
from lmx.models.seq2seq import Seq2SeqConfig

ARCHITECTURES = ("MarianMTModel",)


def config_of(theirs: Mapping[str, Any]) -> Seq2SeqConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    expect_tied(theirs)
    # Written by earlier versions, which read them.
    expect(theirs, normalize_before=False, normalize_embedding=False, add_final_layer_norm=False)
    shared = theirs.get("share_encoder_decoder_embeddings", True)
    words = theirs["vocab_size"]
    return Seq2SeqConfig(
        **sizes_of(theirs, layers=12),
        source_vocab_size=words,
        target_vocab_size=words if shared else theirs.get("decoder_vocab_size") or words,
        tied_embeddings="all" if shared else "target",
        pad_id=theirs.get("pad_token_id", 58100),
    )


def their_config(model: Seq2SeqConfig) -> dict[str, Any]:
    """Returns their config of ours.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    sizes = their_sizes(
        model,
        "a Marian",
        norm_position="post",
        positions="sinusoidal",
        first_position=0,
        embedding_norm=False,
        tied_embeddings=("all", "target"),
    )
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        **sizes,
        "vocab_size": model.source_vocab_size,
        "decoder_vocab_size": model.target_vocab_size,
        "share_encoder_decoder_embeddings": model.tied_embeddings == "all",
        "pad_token_id": model.pad_id,
    }


def table(model: Seq2SeqConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    source, target = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
    names = ("model.shared.weight", target, "lm_head.weight")
    rows = block_rows()
    if model.tied_embeddings == "target":
        names = (target, "lm_head.weight")
        rows.append(row("source_embedding.table", source, "W D -> W D"))
    rows.append(row("target_embedding.table", names, "V D -> V D"))
    copies = (*names, *((source,) if model.tied_embeddings == "all" else ()))
    ignored = (*copies, "model.*coder.embed_positions.weight")
    return Table(rows=tuple(rows), sizes=letters_of(model), ignored=ignored, zeros=zeros_of(model))
