"""M2M-100 (Fan et al. 2020) and NLLB (Costa-jussà et al. 2022): norms before the sublayers, and fairseq's sines.

Their positions are tensor2tensor's, counted from behind the id of the padding; nothing of them is stored. NLLB's model
with experts is another.
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
)
from lmx.interop.mapping import Table, row
from lmx.models.seq2seq import Seq2SeqConfig

ARCHITECTURES = ("M2M100ForConditionalGeneration",)


def config_of(theirs: Mapping[str, Any]) -> Seq2SeqConfig:
    """Returns our config of theirs.

    Raises:
        InputError: a field asks for what no model here has.
    """
    expect_tied(theirs)
    words, pad = theirs["vocab_size"], theirs.get("pad_token_id", 1)
    theirs = {"activation_function": "relu", "scale_embedding": True, "attention_dropout": 0.1, **theirs}
    sizes: dict[str, Any] = sizes_of(theirs, layers=12) | {"output_bias": False}
    return Seq2SeqConfig(
        **sizes,
        source_vocab_size=words,
        target_vocab_size=words,
        tied_embeddings="all",
        norm_position="pre",
        positions="tensor2tensor",
        first_position=pad + 1,
        pad_id=pad,
    )


def their_config(model: Seq2SeqConfig) -> dict[str, Any]:
    """Returns their config of ours.

    Raises:
        InputError: the model has not their form; the message names the field.
    """
    sizes = their_sizes(
        model,
        "an M2M-100",
        norm_position="pre",
        positions="tensor2tensor",
        first_position=model.pad_id + 1,
        embedding_norm=False,
        output_bias=False,
        tied_embeddings="all",
    )
    return {
        "architectures": ["M2M100ForConditionalGeneration"],
        "model_type": "m2m_100",
        **sizes,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "vocab_size": model.target_vocab_size,
        "pad_token_id": model.pad_id,
    }


def table(model: Seq2SeqConfig, kind: str) -> Table:
    """Returns where our parameters lie in theirs."""
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    rows = [row("target_embedding.table", ("model.shared.weight", *copies), "V D -> V D"), *block_rows()]
    for side in SIDES:
        rows += norm_rows(f"{side}.final_norm", f"model.{side}.layer_norm")
    constants = "model.*coder.embed_positions.weight*"
    return Table(rows=tuple(rows), sizes=letters_of(model), ignored=("model.shared.weight", *copies, constants))
