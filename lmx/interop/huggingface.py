"""Hugging Face's folders: config.json, safetensors and tokenizer files, in and out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.interop.families import gpt2, llama
from lmx.interop.imported import AnyModel, Imported, check_tokenizers, family_of, mapped
from lmx.interop.tensors import open_safetensors
from lmx.interop.tokenizers import read_tokenizers
from lmx.models.decoder import DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_record
from lmx.text import Tokenizer

# By the "model_type" of config.json; a family's file has ARCHITECTURES, config_of, their_config and table.
FAMILIES: Mapping[str, Any] = {
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
}


def open_folder(folder: Path) -> Imported:
    """Opens a folder of Hugging Face's form; of its weights, only the headers are read.

    Raises:
        FileNotFoundError: a file is missing, or a shard of the weights.
        InputError: the model is of an unknown kind, or something in the folder does not fit the rest.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} must be a folder of Hugging Face's form, got one without config.json.")
    theirs = read_record(folder / "config.json")
    family = _family(theirs, folder)
    try:
        model = family.config_of(theirs)
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'} must have {error.args[0]}, got none.") from error
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    if isinstance(model, EmbedderConfig):
        model = replace(model, **_of_sentences(folder))
    try:
        tokenizers = read_tokenizers(folder, theirs)
    except FileNotFoundError:
        tokenizers = {}
    check_tokenizers(model, tokenizers, where=str(folder))
    if pads := {tokenizer.pad_id for tokenizer in tokenizers.values()}:
        model = replace(model, pad_id=pads.pop())
    file = mapped(open_safetensors(folder), family.table(model, theirs["model_type"]), model)
    return Imported(
        family=family_of(model),
        model=model,
        file=file,
        tokenizers=tokenizers,
        settings=_settings(folder, theirs, model),
        facts={"origin": {"model_type": theirs["model_type"]}, **_facts(theirs, model, tokenizers)},
        labels=_labels(theirs) if isinstance(model, ClassifierConfig) else (),
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


def _of_sentences(folder: Path) -> dict[str, Any]:
    """Returns how vectors of texts are made, as sentence-transformers writes it beside a model."""
    if not (folder / "modules.json").is_file():
        return {}
    pooling = folder / "1_Pooling" / "config.json"
    said = read_record(pooling) if pooling.is_file() else {}
    modes = [name for name, used in said.items() if name.startswith("pooling_mode_") and used is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if unknown := [name for name in modes if name not in known]:
        raise InputError(f"{pooling} must have a mode of {', '.join(known)}, got {unknown[0]}.")
    text = (folder / "modules.json").read_text(encoding="utf-8")
    return {"vector": known[modes[0]] if modes else "mean", "normalised": ".Normalize" in text}


def _settings(folder: Path, theirs: Mapping[str, Any], model: AnyModel) -> dict[str, Any]:
    """Returns what a run of this model says below "config"."""
    said = {**theirs, **_optional(folder / "generation_config.json")}
    sentences = _optional(folder / "sentence_bert_config.json")
    longest = min(model.max_length, int(sentences.get("max_seq_length") or model.max_length))
    settings: dict[str, Any] = {"max_length": longest}
    if isinstance(model, Seq2SeqConfig):
        search: dict[str, Any] = {"beam_size": int(said.get("num_beams") or 1)}
        if (alpha := said.get("length_penalty")) is not None:
            search["alpha"] = float(alpha)
        settings["search"] = search
    if isinstance(model, DecoderConfig):
        sampling: dict[str, Any] = {"temperature": 0.0}
        if said.get("do_sample"):
            sampling = {"temperature": float(said.get("temperature") or 1.0)}
            sampling |= {name: said[name] for name in ("top_k", "top_p", "min_p") if said.get(name)}
        if penalty := said.get("repetition_penalty"):
            sampling["repetition_penalty"] = float(penalty)
        settings["sampling"] = sampling
    return settings


def _facts(theirs: Mapping[str, Any], model: AnyModel, tokenizers: Mapping[str, Tokenizer]) -> dict[str, Any]:
    """Returns what a run of this model says beside its config."""
    facts: dict[str, Any] = {}
    tokenizer = tokenizers.get("tokenizer")
    if isinstance(model, MaskedConfig) and tokenizer is not None:
        for text in ("[MASK]", "<mask>"):
            ids = tokenizer.encode(text)
            if len(ids) == 1 and ids[0] != tokenizer.unk_id:
                facts["mask_id"] = int(ids[0])
    return facts


def _labels(theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of a classifier's outputs."""
    names = theirs.get("id2label") or {}
    return tuple(
        str(names.get(str(index), f"LABEL_{index}")) for index in range(theirs.get("num_labels", len(names) or 2))
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_record(path) if path.is_file() else {}
