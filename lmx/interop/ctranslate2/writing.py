"""Our models as CTranslate2 reads them: a folder with model.bin, config.json and vocabularies."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lmx.errors import InputError
from lmx.frames import around
from lmx.interop.ctranslate2.names import aliases_of, table_of
from lmx.interop.ctranslate2.settings import EPSILONS, REACH, Spec
from lmx.interop.ctranslate2.specifying import check, settings_for, spec_for
from lmx.interop.ctranslate2.variables import SCALE, quantised, write_variables
from lmx.interop.ctranslate2.vocabularies import tokens_of
from lmx.interop.imported import AnyModel
from lmx.interop.mapping import their_arrays, their_shapes
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.saved import write_json
from lmx.text import Tokenizer
from lmx.token_list import end_of_source

Numbers = Literal["float32", "float16", "int8"]
TANH = np.int8(5)
TABLE = "position_encodings/encodings"


def write_ctranslate2(
    folder: Path,
    family: str,
    model: AnyModel,
    params: Any,
    tokenizers: Mapping[str, Tokenizer],
    *,
    dtype: Numbers = "float32",
) -> list[str]:
    """Writes a model into a folder that is there, and returns the names of parameters that have no place in it.

    Args:
        family: of the run. What stands on an encoder is left out, its pooler is not.
        params: parameters by path, as an open safetensors file gives them.
        tokenizers: "tokenizer", or "source" and "target".
        dtype: of the weights; with "int8" matrices have a scale for each row, and the rest is float32.

    Raises:
        InputError: CTranslate2 cannot compute what the model does, or cannot say what its vocabulary holds.
        OSError: it cannot be written.
    """
    if dtype not in get_args(Numbers):
        raise InputError(f"dtype must be {', '.join(get_args(Numbers))} for CTranslate2, got dtype={dtype!r}.")
    spec = spec_for("masked" if family in ("embedder", "classifier") else family)
    check(model, spec)
    table = table_of(model, spec.family)
    shapes = {name: tuple(params.get_slice(name).get_shape()) for name in params.keys()}  # noqa: SIM118
    placed = {each.ours for each in table.rows}
    weights = their_shapes(table, shapes)
    numbers = _settings(model, spec, weights)
    matrices = [name for name in weights if _is_matrix(name)] if dtype == "int8" else []
    _write_vocabularies(folder, model, tokenizers)
    write_variables(
        folder / "model.bin",
        spec=spec.name,
        revision=spec.revision,
        number=len(weights) + len(numbers) + len(matrices) + len(_positions(model, spec)),
        variables=_variables(
            zip(weights, their_arrays(table, shapes, params), strict=True), numbers, model, spec, dtype
        ),
        aliases=aliases_of(model, spec.family),
    )
    return sorted(name for name in shapes if name not in placed)


def _variables(
    arrays: Any, numbers: Mapping[str, np.generic], model: AnyModel, spec: Spec, dtype: Numbers
) -> Iterator[tuple[str, np.ndarray | np.generic]]:
    """Yields all variables, each weight in its type."""
    yield from numbers.items()
    floats = np.float16 if dtype == "float16" else np.float32
    for name, values in _positions(model, spec).items():
        yield name, values.astype(floats)
    for name, values in arrays:
        if dtype == "int8" and _is_matrix(name):
            small, scale = quantised(values)
            yield name, small
            yield f"{name}{SCALE}", scale
        else:
            yield name, values.astype(floats)


def _is_matrix(name: str) -> bool:
    """Returns whether a weight is one of those that have 8 bits in quantised models: tables and linear maps."""
    return name.endswith("/weight")


def _settings(model: AnyModel, spec: Spec, weights: Mapping[str, Any]) -> dict[str, np.generic]:
    found: dict[str, np.generic] = {}
    for scope in spec.scopes:
        both = isinstance(model, Seq2SeqConfig)
        layers = getattr(model, f"num_{scope}_layers" if both else "num_layers")
        found |= settings_for(model, scope, num_layers=layers)
    if "pooler_dense/weight" in weights:
        found["pooler_activation"] = TANH
    return found


def _positions(model: AnyModel, spec: Spec) -> dict[str, np.ndarray]:
    """Returns the tables of positions that are computed here and stored there: all sines but CTranslate2's own."""
    closed = model.positions == "tensor2tensor"
    if model.positions not in ("sinusoidal", "tensor2tensor") or (closed and model.first_position == 1):
        return {}
    table = np.asarray(sinusoidal(model.max_length, model.width, first=model.first_position, is_closed=closed))
    return {f"{scope}/{TABLE}": table for scope in spec.scopes}


def _write_vocabularies(folder: Path, model: Any, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Writes vocabularies and config.json."""
    joint = tokenizers.get("tokenizer")
    target, source = tokenizers.get("target", joint), tokenizers.get("source", joint)
    if target is None or source is None:
        raise InputError("a model for CTranslate2 must have a tokenizer, got none.")
    both = isinstance(model, Seq2SeqConfig)
    tokens = tokens_of(target, size=model.target_vocab_size if both else model.vocab_size)
    config = {
        REACH: model.max_length,
        "layer_norm_epsilon": model.norm_epsilon or EPSILONS[model.norm],
        "multi_query_attention": model.num_kv_heads not in (None, model.num_heads),
        "unk_token": tokens[target.unk_id],
        "bos_token": tokens[target.bos_id],
        "eos_token": tokens[target.eos_id],
    }
    if not both:
        write_json(folder / "vocabulary.json", tokens)
        write_json(folder / "config.json", config)
        return
    others = tokens if source is target else tokens_of(source, size=model.source_vocab_size)
    before, behind = around(source)
    end = [*behind, source.eos_id] if end_of_source(source) == source.eos_id else list(behind)
    found = [others[index] for index in end]
    if found not in ([], [tokens[target.eos_id]]):
        raise InputError(
            f"a source for CTranslate2 must have {tokens[target.eos_id]!r} or nothing where it ends, got {found}."
        )
    if len(before) > 1:
        raise InputError(f"a source for CTranslate2 must have one token or none before it, got {len(before)}.")
    config |= {"add_source_bos": bool(before), "add_source_eos": bool(found)}
    if before:  # what a decoder starts from has a name of its own
        config["bos_token"] = others[before[0]]
    if tokens[target.unk_id] not in others:
        raise InputError(
            f"both vocabularies must write the unknown token {tokens[target.unk_id]!r}, got one that does not."
        )
    config["decoder_start_token"] = tokens[target.bos_id]
    if others == tokens:
        write_json(folder / "shared_vocabulary.json", tokens)
    else:
        write_json(folder / "source_vocabulary.json", others)
        write_json(folder / "target_vocabulary.json", tokens)
    write_json(folder / "config.json", config)
