"""Tokenizers written as Hugging Face reads them: in the files they came from, or lmx's own as a `tokenizer.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.errors import naming
from lmx.foreign_pieces import PieceTableTokenizer
from lmx.foreign_text import HuggingFaceTokenizer
from lmx.interop.own_vocabularies import added_token, content_of
from lmx.text import SentencePieceTokenizer, Tokenizer

CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "bart": "BartTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "marian": "MarianTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "nllb": "NllbTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "mbart": "MBartTokenizer",
}
MASK = "[MASK]"  # of a vocabulary without one
# What loads a tokenizer.json as it stands.
PLAIN = "PreTrainedTokenizerFast"
# The names of the files that the classes look for.
MODEL_FILE = {
    **dict.fromkeys(("t5", "mt5", "umt5"), "spiece.model"),
    "llama": "tokenizer.model",
    "mistral": "tokenizer.model",
}
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
PAIRS = ("t5", "mt5", "umt5", "marian", "bart", "mbart", "m2m_100")


def write_tokenizers(
    folder: Path,
    tokenizers: Mapping[str, Tokenizer],
    model_type: str,
    *,
    begins: bool = True,
    mask_id: int | None = None,
) -> None:
    """Writes the tokenizers of a model into a folder, so that `transformers` loads the same.

    What was read from a folder is written in the same form. lmx's own SentencePiece becomes Marian's files where
    the model is one, and everything else a `tokenizer.json` that any class of model takes.

    Args:
        tokenizers: `tokenizer`, or `source` and `target`.
        model_type: as `config.json` names it.
        begins: whether lmx's own puts `bos_id` before the texts of a decoder or an encoder.
        mask_id: of what stands for a masked word, where the model knows it and lmx's own vocabulary need not.

    Raises:
        ValueError: there is no form for them; the message says for which.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = list(tokenizers.values())
    if all(isinstance(each, PieceTableTokenizer) for each in found):
        files = _of_tables({name: each for name, each in tokenizers.items() if isinstance(each, PieceTableTokenizer)})
    elif model_type == "marian" and all(isinstance(each, SentencePieceTokenizer) for each in found):
        files = _of_marian(
            {name: each for name, each in tokenizers.items() if isinstance(each, SentencePieceTokenizer)}
        )
    else:
        files = _of_one(_only(tokenizers, model_type), model_type, begins=begins, mask_id=mask_id)
    for name, content in files.items():
        path = folder / name
        with naming(path):
            path.write_bytes(content if isinstance(content, bytes) else _json(content))


def _only(tokenizers: Mapping[str, Tokenizer], model_type: str) -> Tokenizer:
    """Returns the one tokenizer that there is, or that source and target share, whatever their languages."""
    first, *others = tokenizers.values()
    shared = isinstance(first, HuggingFaceTokenizer) and all(
        isinstance(other, HuggingFaceTokenizer) and other.content == first.content for other in others
    )
    if others and not shared:
        kinds = " and ".join(type(each).__name__ for each in tokenizers.values())
        raise ValueError(
            "source and target must share one tokenizer, or be SentencePiece of a model of type marian, to become "
            f"Hugging Face's, got {kinds} and model_type={model_type!r}."
        )
    return first


def _of_one(tokenizer: Tokenizer, model_type: str, *, begins: bool, mask_id: int | None) -> dict[str, Any]:
    if isinstance(tokenizer, HuggingFaceTokenizer):
        settings = {"tokenizer_class": CLASSES.get(model_type, PLAIN)} | tokenizer.settings
        if settings["tokenizer_class"] == PLAIN:
            settings = _tokens(tokenizer) | settings
        return {"tokenizer.json": tokenizer.content, "tokenizer_config.json": settings}
    if isinstance(tokenizer, PieceTableTokenizer):
        return _of_tables({"tokenizer": tokenizer})
    content = content_of(tokenizer)
    tokens = _tokens(tokenizer)
    bos, eos = tokens["bos_token"], tokens["eos_token"]
    first = [bos] if begins else []
    if mask_id is not None:
        tokens["mask_token"] = MASK if mask_id == tokenizer.vocab_size else tokenizer.pieces([mask_id])[0]
        if mask_id == tokenizer.vocab_size:
            content["added_tokens"].append(added_token(mask_id, MASK, special=True))
    if model_type in ENCODERS:
        tokens |= {"cls_token": bos, "sep_token": eos}
        single, pair = [*first, "A", eos], [*first, "A", eos, "B", eos]
    elif model_type in PAIRS:
        single, pair = ["A", eos], ["A", eos, "B", eos]
    else:
        single, pair = [*first, "A"], [*first, "A", "B"]
    ids = {bos: tokenizer.bos_id, eos: tokenizer.eos_id}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": _template(single),
        "pair": _template(pair),
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in ids.items()},
    }
    settings = {"tokenizer_class": PLAIN, "clean_up_tokenization_spaces": False} | tokens
    return {"tokenizer.json": content, "tokenizer_config.json": settings}


def _template(parts: list[str]) -> list[dict[str, Any]]:
    found, kind = [], 0
    for part in parts:
        kind = 1 if part == "B" else kind
        is_text = part in ("A", "B")
        found.append({"Sequence" if is_text else "SpecialToken": {"id": part, "type_id": kind}})
    return found


def _tokens(tokenizer: Tokenizer) -> dict[str, str]:
    names = ("pad", "bos", "eos", "unk")
    return {f"{name}_token": tokenizer.pieces([getattr(tokenizer, f"{name}_id")])[0] for name in names}


def _of_marian(tokenizers: Mapping[str, SentencePieceTokenizer]) -> dict[str, Any]:
    """SentencePiece of lmx's own as Marian's two files and their ids."""
    source, target = (tokenizers.get(name) or tokenizers["tokenizer"] for name in ("source", "target"))
    ids = {side: _ids(each.pieces(range(each.vocab_size))) for side, each in (("source", source), ("target", target))}
    return _marian_files(source, target, ids, {"tokenizer_class": CLASSES["marian"]})


def _marian_files(source: Any, target: Any, ids: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    tokens = {name: text for name, text in _tokens(source).items() if name != "bos_token"}
    files: dict[str, Any] = {"source.spm": source.model, "target.spm": target.model, "vocab.json": ids["source"]}
    if ids["target"] != ids["source"]:
        files["target_vocab.json"] = ids["target"]
        settings = settings | {"separate_vocabs": True}
    return files | {"tokenizer_config.json": tokens | settings}


def _of_tables(tokenizers: Mapping[str, PieceTableTokenizer]) -> dict[str, Any]:
    """SentencePiece with a table, in the files that it was read from."""
    first = next(iter(tokenizers.values()))
    table, form = first.table, first.table.form
    settings = {"tokenizer_class": CLASSES.get(form, PLAIN)} | dict(table.settings)
    if form == "marian":
        source, target = (tokenizers.get(name) or first for name in ("source", "target"))
        ids = {side: _ids(each.table.pieces) for side, each in (("source", source), ("target", target))}
        return _marian_files(source, target, ids, settings)
    files: dict[str, Any] = {MODEL_FILE.get(form, "sentencepiece.bpe.model"): first.model}
    if form == "m2m_100":  # the codes of languages stand behind the table, in the order of their ids
        more = [token.content for token in table.added if token.content.startswith("__")]
        files["vocab.json"] = {piece: index for piece, index in _ids(table.pieces).items() if piece not in more}
        settings["additional_special_tokens"] = more
    described = {
        str(token.id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": False,
            "rstrip": token.rstrip,
            "single_word": False,
            "special": token.special,
        }
        for token in table.added
    }
    if form != "m2m_100":
        settings.setdefault("added_tokens_decoder", described)
    return files | {"tokenizer_config.json": settings}


def _ids(pieces: Any) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces) if piece is not None}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=None).encode("utf-8") + b"\n"
