"""Hugging Face's folders: config.json, safetensors and tokenizer files, in and out."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmx.data.labels import Labels
from lmx.errors import InputError
from lmx.interop.classes import labels_of, their_labels, with_unit
from lmx.interop.families import bart, bert, gpt2, llama, m2m100, marian, t5
from lmx.interop.imported import AnyModel, Imported, check_tokenizers, family_of, shapes_of
from lmx.interop.kinds import given
from lmx.interop.mapping import Mapped, their_arrays, their_shapes
from lmx.interop.sampling_settings import sampling_of, their_sampling
from lmx.interop.search_settings import Told, read_search, their_search
from lmx.interop.sentence_vectors import check_case, prompt_left, vectors_of, write_modules
from lmx.interop.tensors import SINGLE, WRITTEN, open_safetensors, write_safetensors
from lmx.interop.tokenizer_writing import write_tokenizers
from lmx.interop.tokenizers import read_tokenizers
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_record, write_json
from lmx.text import Tokenizer

# By the "model_type" of config.json; a family's file has ARCHITECTURES, config_of, their_config and table.
FAMILIES: Mapping[str, Any] = {
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "bert": bert,
    "roberta": bert,
    "marian": marian,
    "t5": t5,
    "mt5": t5,
    "bart": bart,
    "mbart": bart,
    "m2m_100": m2m100,
}


# Of the tokens that a config names.
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def open_folder(folder: Path) -> Imported:
    """Opens a folder of Hugging Face's form; of its weights, only the headers are read.

    Raises:
        FileNotFoundError: a file is missing, or a shard of the weights.
        InputError: the model is of an unknown kind, or something in the folder does not fit the rest.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} must be a folder of Hugging Face's form, got one without config.json.")
    theirs = given(read_record(folder / "config.json"), path=folder / "config.json")
    family = _family(theirs, folder)
    try:
        model = family.config_of(theirs)
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'} must have {error.args[0]}, got none.") from error
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    source = open_safetensors(folder)
    has_pooler = any(name.endswith("pooler.dense.weight") for name in source.shapes)
    if isinstance(model, EmbedderConfig):
        model = replace(model, **vectors_of(folder), has_pooler=has_pooler)
    try:
        tokenizers = read_tokenizers(folder, theirs)
    except FileNotFoundError:
        tokenizers = {}
    check_tokenizers(model, tokenizers, where=str(folder))
    if isinstance(model, EmbedderConfig):
        check_case(folder, tokenizers.get("tokenizer"))
    if pads := sorted({tokenizer.pad_id for tokenizer in tokenizers.values()}):
        if len(pads) > 1:
            raise InputError(f"{folder} must have one id that pads both sides, got {pads[0]} and {pads[1]}.")
        model = replace(model, pad_id=pads[0])
    table = family.table(model, theirs["model_type"])
    more = pooler_shapes(model.width) if has_pooler and isinstance(model, MaskedConfig) else {}
    file = Mapped(source, table, {**shapes_of(model), **more})
    told = _generation(folder, theirs, model, tokenizers.get("target", tokenizers.get("tokenizer")))
    kept = {"sampling" if isinstance(model, DecoderConfig) else "search": told.fields} if told.fields else {}
    ids = {name: theirs[name] for name in IDS if isinstance(theirs.get(name), int)}
    return Imported(
        family=family_of(model),
        model=model,
        file=file,
        tokenizers=tokenizers,
        settings=_settings(folder, model) | kept,
        facts={"origin": {"model_type": theirs["model_type"], **ids}, **_facts(folder, theirs, model, tokenizers)},
        left=(*told.left, *(prompt_left(folder) if isinstance(model, EmbedderConfig) else ())),
        labels=labels_of(theirs, model.num_outputs) if isinstance(model, ClassifierConfig) else None,
    )


def _family(theirs: Mapping[str, Any], folder: Path) -> Any:
    """Returns the family that a config names.

    Raises:
        InputError: it is none of those here; the message lists them.
    """
    kind, architecture = theirs.get("model_type"), (theirs.get("architectures") or [None])[0]
    family = FAMILIES.get(str(kind))
    if family is None or architecture not in (None, *family.ARCHITECTURES):
        known = {} if family is None else {str(kind): family}
        listed = ", ".join(
            f"{name} ({', '.join(each.ARCHITECTURES)})" if known else name for name, each in (known or FAMILIES).items()
        )
        got = f"model_type={kind!r}" if family is None else f"architectures={architecture!r}"
        raise InputError(f"{folder / 'config.json'} must name a model of {listed}, got {got}.")
    return family


def _settings(folder: Path, model: AnyModel) -> dict[str, Any]:
    """Returns what a run of this model says below "config", beside how it writes or searches."""
    sentences = _optional(folder / "sentence_bert_config.json")
    return {"max_length": min(model.max_length, int(sentences.get("max_seq_length") or model.max_length))}


def _generation(folder: Path, theirs: Mapping[str, Any], model: AnyModel, tokenizer: Tokenizer | None) -> Told:
    """Returns how a model writes or translates: what generation_config.json says, or config.json of older folders."""
    if isinstance(model, Seq2SeqConfig):
        return read_search(folder, theirs, model, tokenizer)
    if not isinstance(model, DecoderConfig):
        return Told()
    path = folder / "generation_config.json"
    if not path.is_file():
        return sampling_of(theirs, model, where=str(folder / "config.json"))
    return sampling_of(_optional(path), model, where=str(path))


def _facts(
    folder: Path, theirs: Mapping[str, Any], model: AnyModel, tokenizers: Mapping[str, Tokenizer]
) -> dict[str, Any]:
    """Returns what a run of this model says beside its config."""
    tokenizer = tokenizers.get("tokenizer")
    if tokenizer is None:
        return {}
    if isinstance(model, DecoderConfig):
        ends = {**theirs, **_optional(folder / "generation_config.json")}.get("eos_token_id")
        more = [each for each in (ends if isinstance(ends, list) else []) if each not in (tokenizer.eos_id, -1)]
        facts: dict[str, Any] = {"end_ids": more} if more else {}
        return facts | ({"first_id": tokenizer.bos_id} if getattr(tokenizer, "puts_bos", False) else {})
    if not isinstance(model, MaskedConfig):
        return {}
    facts = {"first_id": tokenizer.bos_id} if getattr(tokenizer, "puts_bos", False) else {}
    for text in ("[MASK]", "<mask>"):
        ids = tokenizer.encode(text)
        if len(ids) == 1 and ids[0] != tokenizer.unk_id:
            facts["mask_id"] = int(ids[0])
    return facts


def _optional(path: Path) -> dict[str, Any]:
    return given(read_record(path), path=path) if path.is_file() else {}


def pooler_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a pooler, which a classifier takes over from a model that has no use for it."""
    return {"pooling.dense.weight": (width, width), "pooling.dense.bias": (width,)}


def write_folder(
    folder: Path,
    model: AnyModel,
    params: Any,
    tokenizers: Mapping[str, Tokenizer],
    *,
    saved: Mapping[str, Any],
    path: Path,
    labels: Labels | None = None,
    dtype: str = "float32",
) -> list[str]:
    """Writes a model into a folder, as `from_pretrained` of transformers reads it; returns what is left out.

    Args:
        params: our parameters by path, as an open safetensors file gives them.
        saved: what config.json says of the run: its family, how it decodes, and where its model came from.
        path: of that file, for messages.
        labels: what a classifier's outputs mean.
        dtype: of the weights: "float32", "float16" or "bfloat16".

    Raises:
        InputError: no family has the model's form; the message names the field.
        OSError: it cannot be written.
    """
    if dtype not in WRITTEN:
        raise InputError(f"dtype must be one of {', '.join(WRITTEN)}, got dtype={dtype!r}.")
    if isinstance(model, ClassifierConfig):
        model, params = with_unit(model, params)
    family = FAMILIES[_fitting(model)]
    theirs = family.their_config(model)
    table = family.table(model, theirs["model_type"])
    ids, config = _special_ids(model, tokenizers, saved), saved.get("config") or {}
    theirs |= ids | {"torch_dtype": dtype, "dtype": dtype}
    if labels is not None:
        theirs |= their_labels(labels)
    ours = shapes_of(model)
    shapes = {**their_shapes(table, ours), **table.zeros}
    arrays = itertools.chain(
        their_arrays(table, ours, params), (np.zeros(shape, np.float32) for shape in table.zeros.values())
    )
    write_safetensors(folder / SINGLE, shapes, arrays, dtype=dtype, metadata={"format": "pt"})
    write_json(folder / "config.json", theirs)
    told = Told()
    if isinstance(model, Seq2SeqConfig):
        target = tokenizers.get("target", tokenizers.get("tokenizer"))
        told = their_search(config.get("search") or {}, model, target, path=path)
    elif isinstance(model, DecoderConfig):
        told = their_sampling(config.get("sampling") or {}, path=path)
    elif isinstance(model, EmbedderConfig):
        write_modules(folder, model, max_length=min(config.get("max_length") or model.max_length, model.max_length))
    if told.fields:
        write_json(folder / "generation_config.json", ids | told.fields)
    if tokenizers:
        # A classifier reads its rows from bos_id, other models where they were trained to.
        begins = saved["family"] not in ("decoder", "masked") or saved.get("first_id") is not None
        write_tokenizers(folder, tokenizers, theirs["model_type"], begins=begins, mask_id=saved.get("mask_id"))
    return told.left


def _fitting(model: AnyModel) -> str:
    """Returns the family that has a model's form, by its positions; whether all fits, the family says."""
    if isinstance(model, DecoderConfig):
        return "gpt2" if model.positions == "learned" else "llama"
    if isinstance(model, Seq2SeqConfig):
        return {"t5": "t5", "learned": "bart", "tensor2tensor": "m2m_100"}.get(model.positions, "marian")
    return "bert"


def _special_ids(
    model: AnyModel, tokenizers: Mapping[str, Tokenizer], saved: Mapping[str, Any]
) -> dict[str, int | list[int]]:
    """Returns the ids that their config names; several where several end a text."""
    origin = saved.get("origin") or {}
    before = {name: origin[name] for name in IDS if isinstance(origin.get(name), int)}
    tokenizer = tokenizers.get("target", tokenizers.get("tokenizer"))
    if tokenizer is None:
        return {**before, "pad_token_id": model.pad_id}
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if isinstance(model, Seq2SeqConfig):  # what a decoder starts from need not be what begins a text
        ids |= {
            "bos_token_id": before.get("bos_token_id", tokenizer.bos_id),
            "decoder_start_token_id": tokenizer.bos_id,
        }
    found: dict[str, int | list[int]] = {name: int(value) for name, value in ids.items()}
    if more := saved.get("end_ids"):
        found["eos_token_id"] = [int(tokenizer.eos_id), *more]
    return found
