"""What sentence-transformers writes beside an encoder: how a vector is made of a text's states.

Source: https://github.com/huggingface/sentence-transformers, the modules Transformer, Pooling and Normalize. A module
that is none of these would make other vectors, and is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.errors import InputError
from lmx.models.embedder import EmbedderConfig
from lmx.saved import read_record, write_json
from lmx.text import Tokenizer

MODULES = ("Transformer", "Pooling", "Normalize")
POOLING = "1_Pooling"  # where the module lies, unless modules.json says another place
# How texts are pooled, in the present form and in the earlier one with a switch for each way -> ours.
WAYS = {"mean": "mean", "cls": "first"}
SWITCHES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
# Capitals of several scripts, which a tokenizer that lowers reads as it reads the small letters.
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ ÄÖÜÉÑ ΑΒΓ ДЖЯ"


def vectors_of(folder: Path) -> dict[str, Any]:
    """Returns the fields "vector" and "normalised" of a folder's embedder; none where it is a model alone.

    Raises:
        FileNotFoundError: a module's config is missing.
        InputError: vectors are made in a way that no model here has.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    modules = _modules(path)
    if unknown := [name for name, _ in modules if name not in MODULES]:
        raise InputError(
            f"{path} must have modules of {', '.join(MODULES)} alone, got {unknown[0]}, which no model here has."
        )
    places = [place for name, place in modules if name == "Pooling"]
    if len(places) > 1:
        raise InputError(f"{path} must have one module Pooling, got {len(places)}.")
    pooling = folder / (places[0] if places else POOLING) / "config.json"
    if places and not pooling.is_file():
        raise FileNotFoundError(f"{pooling} must say how texts are pooled, as modules.json names it, got no such file.")
    said = read_record(pooling) if pooling.is_file() else {}
    return {"vector": _way(said, pooling), "normalised": any(name == "Normalize" for name, _ in modules)}


def _modules(path: Path) -> list[tuple[str, str]]:
    """Returns the class of each module, without where it is defined, and its folder."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must be JSON, got {error}.") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path} must be a list of modules, got {found!r:.60}.")
    modules = []
    for each in found:
        kind, place = each.get("type"), each.get("path")
        if not isinstance(kind, str) or not isinstance(place, str | None):
            raise InputError(f"{path} must have a type and a path of each module, got {each!r:.60}.")
        name = kind.rpartition(".")[2]
        modules.append((name, place or (POOLING if name == "Pooling" else "")))
    return modules


def _way(said: Mapping[str, Any], path: Path) -> str:
    """Returns the vector's kind in our words."""
    if "pooling_mode" in said:
        modes, known = said["pooling_mode"], WAYS
        modes = modes if isinstance(modes, list) else [modes]
        shown = "pooling_mode"
    else:
        modes, known = (
            [name for name, used in said.items() if name.startswith("pooling_mode_") and used is True],
            SWITCHES,
        )
        modes, shown = modes or ["pooling_mode_mean_tokens"], "mode"
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in known:
        strange = [mode for mode in modes if not isinstance(mode, str) or mode not in known]
        got = strange[0] if strange else " and ".join(modes) or "none"
        raise InputError(f"{path} must have a {shown} of {', '.join(known)}, got {got!s:.100}.")
    return known[modes[0]]


def write_modules(folder: Path, model: EmbedderConfig, *, max_length: int) -> None:
    """Writes how an embedder makes vectors, as sentence-transformers reads it beside the encoder.

    Args:
        max_length: most tokens of a text.
    """
    names = (*MODULES[:2], *(MODULES[2:] if model.normalised else ()))
    places = dict(zip(MODULES, ("", POOLING, "2_Normalize"), strict=True))
    modules = [
        {"idx": index, "name": str(index), "path": places[name], "type": f"sentence_transformers.models.{name}"}
        for index, name in enumerate(names)
    ]
    (folder / POOLING).mkdir()
    switches = {name: way == model.vector for name, way in SWITCHES.items()}
    write_json(folder / POOLING / "config.json", {"word_embedding_dimension": model.width, **switches})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "modules.json", modules)


def check_case(folder: Path, tokenizer: Tokenizer | None) -> None:
    """Checks that texts which sentence-transformers lowers are lowered by the tokenizer, too.

    Raises:
        InputError: they are not.
    """
    path = folder / "sentence_bert_config.json"
    lowers = read_record(path).get("do_lower_case") if path.is_file() else False
    if lowers and tokenizer is not None and tokenizer.encode(CAPITALS) != tokenizer.encode(CAPITALS.lower()):
        raise InputError(
            f"{path} must leave lowering to the tokenizer, got do_lower_case={lowers} and a tokenizer that tells "
            "capitals from small letters. Give tokenizer.json a normalizer of type Lowercase, and this file false."
        )


def prompt_left(folder: Path) -> list[str]:
    """Returns a text that names the prompt which sentence-transformers puts before each text; none without one."""
    path = folder / "config_sentence_transformers.json"
    said = read_record(path) if path.is_file() else {}
    name, prompts = said.get("default_prompt_name"), said.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return [f"default_prompt_name={name}: begin each text with {prompt!r}"] if prompt else []
