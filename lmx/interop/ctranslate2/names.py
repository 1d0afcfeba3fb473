"""The names of CTranslate2's variables beside ours: one table for each of its specifications.

Queries, keys and values of self-attention lie in one matrix, keys and values of attention to the memory too. A matrix
is [out, in], as PyTorch's.
Source: https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/transformer_spec.py.
"""

from collections.abc import Callable
from typing import Any

from lmx.interop.mapping import Row, Table, row
from lmx.nn.config import TransformerConfig
from lmx.nn.positions.t5 import NUM_BUCKETS

# Of the encoder; early revisions have one table, without a number.
ENCODER_WORDS = ("encoder/embeddings_0/weight", "encoder/embeddings/weight")
Rows = tuple[list[Row], dict[str, tuple[str, ...]]]  # and what is stored under further names


def table_of(config: Any, family: str) -> Table:
    """Returns the table of a model.

    Args:
        config: of the family's kind.
        family: "seq2seq", "decoder", or one of encoders, whose heads have no names there.
    """
    return Table(rows=tuple(_rows(config, family)[0]), sizes=_sizes(config))


def aliases_of(config: Any, family: str) -> dict[str, str]:
    """Returns the names under which variables stand a second time, and the first of each."""
    return {other: name for name, others in _rows(config, family)[1].items() for other in others}


def _rows(config: Any, family: str) -> Rows:
    makers: dict[str, Callable[[Any], Rows]] = {"seq2seq": _of_seq2seq, "decoder": _of_decoder}
    return makers.get(family, _of_encoder)(config)


def _sizes(config: Any) -> dict[str, int]:
    return {
        "D": config.width,
        "E": config.width,  # the outputs of a square matrix
        "H": config.num_heads,
        "G": config.num_kv_heads or config.num_heads,
        "K": config.width_of_head,
        "F": config.feedforward_width,
        "T": config.max_length,
        "R": NUM_BUCKETS,
        "S": getattr(config, "source_vocab_size", 0),
        "V": getattr(config, "target_vocab_size", 0) or getattr(config, "vocab_size", 0),
        "Y": getattr(config, "num_types", 0),
    }


def _of_seq2seq(config: Any) -> Rows:
    source, target, output = ENCODER_WORDS, "decoder/embeddings/weight", "decoder/projection/weight"
    tied = config.tied_embeddings
    rows = [
        row("source_embedding.table", source, "S D -> S D"),
        row("target_embedding.table", target, "V D -> V D"),
        row("output_embedding.table", output, "V D -> V D"),
        row("output_bias", "decoder/projection/bias", "V -> V"),
    ]
    again = (*(source[:1] if tied in ("all", "inputs") else ()), *((output,) if tied in ("all", "target") else ()))
    repeats = {target: again} if again else {}
    for side, scope, layers in (
        ("source", "encoder", config.num_encoder_layers),
        ("target", "decoder", config.num_decoder_layers),
    ):
        rows += _norm(f"{side}_norm", f"{scope}/layernorm_embedding")
        rows += _stack_rows(scope, scope, config, has_memory=scope == "decoder")
        of_positions, of_layers = _position_rows(f"{side}_positions", scope, config, num_layers=layers)
        rows, repeats = rows + of_positions, repeats | of_layers
    return rows, repeats


def _of_decoder(config: Any) -> Rows:
    words, output = "decoder/embeddings/weight", "decoder/projection/weight"
    rows = [row("embedding.table", words, "V D -> V D"), row("output_embedding.table", output, "V D -> V D")]
    rows += _stack_rows("stack", "decoder", config)
    of_positions, repeats = _position_rows("positions", "decoder", config, num_layers=config.num_layers)
    return rows + of_positions, repeats | ({words: (output,)} if config.tied_embeddings else {})


def _of_encoder(config: Any) -> Rows:
    rows = [
        row("encoder.embedding.table", ENCODER_WORDS, "V D -> V D"),
        row("encoder.types.table", "encoder/embeddings_1/weight", "Y D -> Y D"),
        *_linear("pooling.dense", "pooler_dense", "D", "E"),
        *_norm("encoder.embedding_norm", "encoder/layernorm_embedding"),
        *_stack_rows("encoder.stack", "encoder", config),
    ]
    of_positions, repeats = _position_rows("encoder.positions", "encoder", config, num_layers=config.num_layers)
    return rows + of_positions, repeats


def _position_rows(ours: str, scope: str, config: TransformerConfig, *, num_layers: int) -> Rows:
    """Returns the row of positions that are learned: as vectors, or as T5's numbers, which each layer repeats."""
    if config.positions != "t5":
        return [row(f"{ours}.table", f"{scope}/position_encodings/encodings", "T D -> T D")], {}
    first, *others = (f"{scope}/layer_{layer}/self_attention/relative_attention_bias" for layer in range(num_layers))
    return [row(f"{ours}.table", first, "R H -> R H")], {first: tuple(others)} if others else {}


def _stack_rows(ours: str, scope: str, config: TransformerConfig, *, has_memory: bool = False) -> list[Row]:
    """Returns the rows of a stack; those of what a config does not have are never asked for."""
    blocks, layer = f"{ours}.blocks", f"{scope}/layer_{{layer}}"
    queries, keys = config.width_of_queries, config.width_of_keys
    rows = _linear(f"{blocks}.attention.query", f"{layer}/self_attention/linear_0", "D", "H K")
    rows += _linear(f"{blocks}.attention.key", f"{layer}/self_attention/linear_0", "D", "G K", start=queries)
    rows += _linear(f"{blocks}.attention.value", f"{layer}/self_attention/linear_0", "D", "G K", start=queries + keys)
    rows += _linear(f"{blocks}.attention.out", f"{layer}/self_attention/linear_1", "H K", "D")
    for norm, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
        rows.append(row(f"{blocks}.attention.{norm}.scale", f"{layer}/self_attention/{theirs}/gamma", "K -> K"))
    rows += _norm(f"{blocks}.attention_norm", f"{layer}/self_attention/layer_norm")
    if has_memory:
        rows += _linear(f"{blocks}.memory_attention.query", f"{layer}/attention/linear_0", "D", "H K")
        rows += _linear(f"{blocks}.memory_attention.key", f"{layer}/attention/linear_1", "D", "G K")
        rows += _linear(f"{blocks}.memory_attention.value", f"{layer}/attention/linear_1", "D", "G K", start=keys)
        rows += _linear(f"{blocks}.memory_attention.out", f"{layer}/attention/linear_2", "H K", "D")
        for norm, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            rows.append(row(f"{blocks}.memory_attention.{norm}.scale", f"{layer}/attention/{theirs}/gamma", "K -> K"))
        rows += _norm(f"{blocks}.memory_norm", f"{layer}/attention/layer_norm")
    first, second = ("gate", "up") if config.is_gated else ("up", "gate")
    rows += _linear(f"{blocks}.feedforward.{first}", f"{layer}/ffn/linear_0", "D", "F")
    rows += _linear(f"{blocks}.feedforward.{second}", f"{layer}/ffn/linear_0_noact", "D", "F")
    rows += _linear(f"{blocks}.feedforward.down", f"{layer}/ffn/linear_1", "F", "D")
    rows += _norm(f"{blocks}.feedforward_norm", f"{layer}/ffn/layer_norm")
    return rows + _norm(f"{ours}.final_norm", f"{scope}/layer_norm")


def _linear(ours: str, theirs: str, into: str, out: str, *, start: int = 0) -> list[Row]:
    """Returns the rows of a linear map and its bias; `start` is where its outputs begin among those of theirs."""
    flat_in, flat_out = into.replace(" ", ""), out.replace(" ", "")
    return [
        row(f"{ours}.weight", f"{theirs}/weight", f"{into} {out} -> {flat_out} {flat_in}", start=start),
        row(f"{ours}.bias", f"{theirs}/bias", f"{out} -> {flat_out}", start=start),
    ]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [
        row(f"{ours}.{mine}", f"{theirs}/{name}", "D -> D") for mine, name in (("scale", "gamma"), ("bias", "beta"))
    ]
