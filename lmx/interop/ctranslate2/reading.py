"""A CTranslate2 model as lmx sees it: its folder read into one of our configs, parameters and tokenizers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from lmx.errors import InputError
from lmx.interop.ctranslate2.names import table_of
from lmx.interop.ctranslate2.settings import Settings, is_interleaved, read_stack, spec_of, words_of
from lmx.interop.ctranslate2.variables import Variables, read_variables
from lmx.interop.ctranslate2.vocabularies import Vocabulary, read_vocabularies
from lmx.interop.imported import AnyModel, Imported, mapped
from lmx.interop.kinds import CTRANSLATE2, check_kinds
from lmx.interop.rearranged import Reordered, WithRow, halves
from lmx.interop.tensors import Source
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_record

MODEL = "model.bin"
WORDS, OUTPUT, BIAS = "decoder/embeddings/weight", "decoder/projection/weight", "decoder/projection/bias"
# The logit that the token before the first gets where a decoder starts from a vector of zeros: no probability, in
# float16 too.
START_BIAS = -1e4
TANH = 5  # the number of an activation


def is_ctranslate2(folder: Path) -> bool:
    """Returns whether a folder holds a CTranslate2 model."""
    return (folder / MODEL).is_file()


def read_ctranslate2(folder: Path) -> Imported:
    """Reads a folder's settings and vocabularies; of the weights, only where they lie.

    An encoder becomes an embedder: the specification has no head.

    Raises:
        FileNotFoundError: it has no model or no vocabulary.
        InputError: it is damaged, or is a model that lmx does not have; the message says what.
    """
    variables = read_variables(folder / MODEL)
    config = read_record(folder / "config.json") if (folder / "config.json").is_file() else {}
    check_kinds(config, path=folder / "config.json", kinds=CTRANSLATE2)
    if bits := config.get("quantization_bits"):
        raise InputError(f"{folder} must be quantised to 8 bits or not at all, got {bits} bits. Convert it again.")
    spec, settings = spec_of(variables), Settings(variables, config)
    read = {"seq2seq": _read_seq2seq, "decoder": _read_decoder, "masked": _read_encoder}[spec.family]
    imported = read(folder, settings)
    used = variables.shapes.keys() - set(imported.file.unused())
    if left := settings.unread(used):
        raise InputError(
            f"{variables.path} must have no {left[0]}{_value(variables, left[0])}, which lmx has no place for."
        )
    return imported


def _value(variables: Variables, name: str) -> str:
    return f"={variables.setting(name):g}" if math.prod(variables.stored[name].shape) == 1 else ""


def _read_seq2seq(folder: Path, settings: Settings) -> Imported:
    encoder, decoder = (read_stack(settings, scope) for scope in ("encoder", "decoder"))
    layers = {"num_encoder_layers": encoder.pop("num_layers"), "num_decoder_layers": decoder.pop("num_layers")}
    for name, value in decoder.items():
        if encoder.get(name) != value:
            raise InputError(
                f"{settings.path} must have the same {name} on both sides, got {encoder.get(name)} of the encoder and "
                f"{value} of the decoder."
            )
    source_words, stored = words_of(settings, "encoder"), settings.variables.stored
    settings.get("encoder", "embeddings_merge")  # of one table there is nothing to merge
    from_zero = bool(settings.get("decoder", "start_from_zero_embedding", 0))
    sizes = {"source": stored[source_words].shape[0], "target": stored[WORDS].shape[0]}
    vocabularies = read_vocabularies(folder, sizes, config=settings.config, has_start=from_zero)
    target = vocabularies.get("target", vocabularies.get("tokenizer"))
    source = vocabularies.get("source", target)
    assert source is not None
    assert target is not None
    if from_zero and "tokenizer" not in vocabularies:
        raise InputError(f"{folder} must have one vocabulary where the decoder starts from a vector of zeros, got two.")
    if source.special["pad"] != target.special["pad"]:
        pads = f"{source.special['pad']} and {target.special['pad']}"
        raise InputError(f"{folder} must have the padding at the same place of both vocabularies, got {pads}.")
    model = Seq2SeqConfig(
        **decoder,
        **layers,
        source_vocab_size=sizes["source"] + from_zero,
        target_vocab_size=sizes["target"] + from_zero,
        tied_embeddings=_tied(settings, source_words),
        scaled_output=_is_scaled_output(settings, decoder["width"]),
        embedding_norm=_has_norm(settings, "encoder", "decoder"),
        output_bias=settings.has(BIAS) or from_zero,
        pad_id=target.special["pad"],
    )
    arrays = _in_halves(settings, model, "encoder", "decoder")
    if from_zero:
        arrays = WithRow(arrays, {source_words: 0.0, WORDS: 0.0, OUTPUT: 0.0, BIAS: START_BIAS}, length=sizes["target"])
    return _imported("seq2seq", model, arrays, vocabularies)


def _read_decoder(folder: Path, settings: Settings) -> Imported:
    fields, stored = read_stack(settings, "decoder"), settings.variables.stored
    size = stored[WORDS].shape[0]
    cap = settings.get("decoder", "final_logit_softcapping")
    vocabularies = read_vocabularies(folder, {"": size}, config=settings.config)
    if _has_norm(settings, "decoder"):
        raise InputError(f"{settings.path} must have no norm of embeddings in a decoder, got one.")
    model = DecoderConfig(
        **fields,
        vocab_size=size,
        tied_embeddings=_same(settings.variables, WORDS, OUTPUT),
        logit_cap=None if cap is None else float(cap),
        pad_id=vocabularies["tokenizer"].special["pad"],
    )
    return _imported("decoder", model, _in_halves(settings, model, "decoder"), vocabularies)


def _read_encoder(folder: Path, settings: Settings) -> Imported:
    fields, stored = read_stack(settings, "encoder"), settings.variables.stored
    size, types = stored[words_of(settings, "encoder")].shape[0], "encoder/embeddings_1/weight"
    if not settings.get("encoder", "embeddings_merge", 0) and types in stored:
        raise InputError(f"{settings.path} must add up the vectors of words and types, got one behind the other.")
    has_pooler = settings.has("pooler_dense/weight")
    if has_pooler and (number := settings.get("", "pooler_activation", TANH)) != TANH:
        raise InputError(f"{settings.path} must have a pooler with tanh, got activation {number}.")
    vocabularies = read_vocabularies(folder, {"": size}, config=settings.config)
    model = EmbedderConfig(
        **fields,
        vocab_size=size,
        num_types=stored[types].shape[0] if types in stored else 0,
        embedding_norm=_has_norm(settings, "encoder"),
        has_pooler=has_pooler,
        pad_id=vocabularies["tokenizer"].special["pad"],
    )
    return _imported("masked", model, _in_halves(settings, model, "encoder"), vocabularies)


def _imported(kind: str, model: AnyModel, arrays: Source, vocabularies: Mapping[str, Vocabulary]) -> Imported:
    return Imported(
        family="embedder" if kind == "masked" else kind,
        model=model,
        file=mapped(arrays, table_of(model, kind), model),
        tokenizers={name: each.tokenizer for name, each in vocabularies.items()},
        settings={"max_length": model.max_length},
    )


def _tied(settings: Settings, source_words: str) -> Literal["all", "target", "inputs", "none"]:
    inputs, output = (_same(settings.variables, WORDS, name) for name in (source_words, OUTPUT))
    if output:
        return "all" if inputs else "target"
    return "inputs" if inputs else "none"


def _same(variables: Variables, name: str, other: str) -> bool:
    """Returns whether two variables are one; files of early versions store it twice."""
    first, second = (variables.stored.get(each) for each in (name, other))
    if first is None or second is None or first.offset == second.offset:
        return first == second
    if variables.version >= 3 or first.shape != second.shape:
        return False
    return np.array_equal(variables.read(name), variables.read(other))


def _is_scaled_output(settings: Settings, width: int) -> bool:
    scale = settings.get("decoder", "scale_outputs", 1)
    if scale == 1:
        return False
    if not math.isclose(scale, width**-0.5, rel_tol=1e-4):
        wanted = f"1/sqrt(width)={width**-0.5:g}"
        raise InputError(f"{settings.path} must scale outputs by {wanted} or not at all, got {scale:g}.")
    return True


def _has_norm(settings: Settings, *scopes: str) -> bool:
    found = {settings.has(f"{scope}/layernorm_embedding/gamma") for scope in scopes}
    if len(found) > 1:
        raise InputError(f"{settings.path} must have a norm of embeddings on both sides or on none, got one.")
    return found.pop()


def _in_halves(settings: Settings, model: AnyModel, *scopes: str) -> Source:
    """Returns the variables, with the features of queries and keys in our order where theirs is another."""
    keys, orders = (model.num_kv_heads or model.num_heads), {}
    for scope in scopes:
        if is_interleaved(settings, scope):
            order = np.concatenate(
                [
                    halves(model.num_heads + keys, model.width_of_head),
                    model.width_of_queries + model.width_of_keys + np.arange(model.width_of_keys),
                ]
            )
            names = [name for name in settings.variables.shapes if name.startswith(f"{scope}/layer_")]
            fused = [name for name in names if "/self_attention/linear_0/" in name]
            orders |= dict.fromkeys(fused, order)
    return Reordered(settings.variables, orders) if orders else settings.variables
