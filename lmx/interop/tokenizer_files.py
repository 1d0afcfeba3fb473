"""What the small JSON files beside a tokenizer say: its settings, special tokens, and the ids that surround a text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmx.foreign_text import Specials
from lmx.interop.kinds import check_kinds

# Where a folder names no special tokens, those of Hugging Face's class for the type of model.
_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_T5 = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
_QWEN = {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}
TOKENS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("bert", "distilbert", "electra"), _BERT),
    **dict.fromkeys(("roberta", "bart", "xlm-roberta", "mbart", "m2m_100", "nllb"), _ROBERTA),
    "gpt2": _GPT2,
    **dict.fromkeys(("llama", "mistral"), _LLAMA),
    **dict.fromkeys(("qwen2", "qwen3"), _QWEN),
    **dict.fromkeys(("t5", "mt5", "umt5", "marian"), _T5),
}
_PAIRS = ("t5", "mt5", "umt5", "marian", "bart", "mbart", "nllb", "m2m_100")
_FROM_PAD = ("t5", "mt5", "umt5", "marian")
# Classes whose texts have the code of a language, and the code where the settings name none.
CODES = {"NllbTokenizer": "eng_Latn", "MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "M2M100Tokenizer": "en"}
MULTILINGUAL = ("mbart", "nllb", "m2m_100")
# The class of a type of model whose files name none.
_CLASSES = {"mbart": "MBartTokenizer", "nllb": "NllbTokenizer"}
ROLES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What stands beside the vocabulary of a tokenizer.

    Attributes:
        folder: for messages.
        model_type: as `config.json` names it, or as the class of the tokenizer does; empty if neither says.
        config: of the model, with what `generation_config.json` changes in it.
        settings: of `tokenizer_config.json`.
        tokens: special tokens by their roles (`pad`, `cls`, ...), as text.
        added: tokens that stand beside the vocabulary, by their ids, as the settings describe them.
        more: additional special tokens, such as the codes of languages.
    """

    folder: Path
    model_type: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    tokens: Mapping[str, str]
    added: Mapping[int, Mapping[str, Any]]
    more: Sequence[str]

    @property
    def tokenizer_class(self) -> str:
        """Class that the settings name; "" if none."""
        return class_of(self.settings)

    @property
    def is_pair(self) -> bool:
        """Whether the model is an encoder-decoder."""
        return bool(self.config.get("is_encoder_decoder")) or self.model_type in _PAIRS

    def sides_of_texts(self) -> tuple[str, ...]:
        """Returns the names of the tokenizers: two where a text has the code of its language."""
        return ("source", "target") if self._languages() != (None, None) else ("tokenizer",)

    def _languages(self) -> tuple[str | None, str | None]:
        """Returns the codes of the languages of source and target, for types of models whose texts have one."""
        if self.model_type not in MULTILINGUAL and self.tokenizer_class not in CODES:
            return None, None
        source = self.settings.get("src_lang") or CODES.get(self.tokenizer_class)
        target = self.settings.get("tgt_lang")
        if self.tokenizer_class == "M2M100Tokenizer":
            return source and f"__{source}__", target and f"__{target}__"
        return source, target

    def specials(
        self, id_of: Callable[[str], int | None], *, num_separators: int = 1, side: str = "tokenizer"
    ) -> Specials:
        """Returns the ids that surround a text.

        An encoder has those of `[CLS]` and `[SEP]`; an encoder-decoder starts from the model's
        `decoder_start_token_id`. A vocabulary without padding pads with the end.

        Args:
            id_of: returns the id of a token, or None where there is none.
            num_separators: between two texts.
            side: "source" or "target", where a text has the code of its language: before it, and in mBART's form
                behind it.

        Raises:
            ValueError: none of the files says what ends a text.
        """
        by_role = {role: id_of(token) for role, token in self.tokens.items()}
        is_encoder = not self.is_pair and by_role.get("cls") is not None
        eos = _first(by_role.get("sep") if is_encoder else None, self._eos(by_role.get("eos")), by_role.get("sep"))
        if eos is None:
            raise ValueError(
                f"{self.folder} must say what ends a text (eos_token in tokenizer_config.json, or eos_token_id in "
                "config.json), got neither."
            )
        pad = _first(self._id("pad_token_id"), by_role.get("pad"), eos)
        if self.is_pair:
            bos = _first(self._id("decoder_start_token_id"), pad if self.model_type in _FROM_PAD else None)
        else:
            bos = by_role.get("cls") if is_encoder else None
        bos = _first(bos, self._id("bos_token_id"), by_role.get("bos"), eos)
        unk = _first(by_role.get("unk"), pad)
        assert pad is not None
        assert bos is not None
        assert unk is not None
        special = Specials(pad=pad, bos=bos, eos=eos, unk=unk, num_separators=num_separators)
        return self._with_language(special, id_of, side)

    def _with_language(self, special: Specials, id_of: Callable[[str], int | None], side: str) -> Specials:
        source, target = self._languages()
        code = {"source": source, "target": target}.get(side)
        if code is None:
            return special
        index = id_of(code)
        if index is None and not self.settings.get("src_lang" if side == "source" else "tgt_lang"):
            return special  # the class's own language, in a vocabulary that has none
        if index is None:
            raise ValueError(f"{self.folder} must have a token for each language, got none for {code!r}.")
        is_mbart = self.tokenizer_class == "MBartTokenizer"
        is_behind = is_mbart or self.settings.get("legacy_behaviour") is True  # NLLB's, as it was at first
        if side == "source" and is_behind:  # it ends with </s> and its language
            return replace(special, eos=index, after=(special.eos,))
        return replace(special, bos=index) if is_mbart else replace(special, before=(index,))

    def _id(self, name: str) -> int | None:
        found = self.config.get(name)
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    def _eos(self, of_tokenizer: int | None) -> int | None:
        """Returns the id that ends a text: the tokenizer's own, if it is one of several, or the first."""
        found = self.config.get("eos_token_id")
        if isinstance(found, list) and found:
            return of_tokenizer if of_tokenizer in found else int(found[0])
        return _first(self._id("eos_token_id"), of_tokenizer)


def read_beside(folder: Path, config: Mapping[str, Any]) -> Beside:
    """Returns what stands beside the vocabulary in a folder.

    Args:
        config: the content of `config.json`.

    Raises:
        ValueError: a file holds no JSON object, or a setting of another kind than it must be.
    """
    settings = read_settings(folder / "tokenizer_config.json")
    generation = read_settings(folder / "generation_config.json")
    mapped = read_settings(folder / "special_tokens_map.json")
    changed = {name: value for name, value in generation.items() if name.endswith("token_id") and value is not None}
    model_type = str(config.get("model_type") or "") or _type_of_class(class_of(settings))
    if model_type in MULTILINGUAL and not class_of(settings):  # says where the code of a language stands
        own = "M2M100Tokenizer" if (folder / "vocab.json").is_file() else "NllbTokenizer"
        settings["tokenizer_class"] = class_of(config) or _CLASSES.get(model_type, own)
    more = list(dict.fromkeys([*_texts_of(mapped), *_texts_of(settings)]))
    tokens = dict(TOKENS.get(model_type, {}))
    for role in ROLES:
        for found in (mapped, settings):
            if (text := token_text(found.get(f"{role}_token"))) is not None:
                tokens[role] = text
        # Said to be none, as in Qwen's settings.
        if f"{role}_token" in settings and settings[f"{role}_token"] is None:
            tokens.pop(role, None)
    for name in (*(f"{role}_token" for role in ROLES), "additional_special_tokens"):
        if name in mapped:
            settings.setdefault(name, mapped[name])
    return Beside(
        folder=folder,
        model_type=model_type,
        config={**config, **changed},
        settings=settings,
        tokens=tokens,
        added=_added(folder, settings, more),
        more=more,
    )


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, an empty one if there is no such file.

    Raises:
        ValueError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a JSON object, got {found!r:.40}.")
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of settings, an empty one if there is no such file.

    Raises:
        ValueError: it holds something else, or a setting is of another kind than it must be.
    """
    settings = read_object(path)
    check_kinds(settings, path=path)
    return settings


def class_of(settings: Mapping[str, Any]) -> str:
    """Returns the class that a file of settings names, without the ending of the quick form; "" if none."""
    return str(settings.get("tokenizer_class") or "").removesuffix("Fast")


def token_text(token: Any) -> str | None:
    """Returns the text of a token, which stands there as text or as an object with it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _type_of_class(name: str) -> str:
    known = {each.replace("-", "").replace("_", ""): each for each in TOKENS}
    return known.get(name.removesuffix("Tokenizer").lower(), "")


def _texts_of(settings: Mapping[str, Any]) -> list[str]:
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    return [text for text in map(token_text, more if isinstance(more, list) else []) if text is not None]


def _added(folder: Path, settings: Mapping[str, Any], special: list[str]) -> dict[int, Mapping[str, Any]]:
    described = settings.get("added_tokens_decoder") or {}
    found: dict[int, Mapping[str, Any]] = {}
    try:
        for text, index in read_object(folder / "added_tokens.json").items():
            found[int(index)] = {"content": text, "special": text in special}
        for index, token in described.items():
            found[int(index)] = {"content": token} if isinstance(token, str) else dict(token)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} must have added tokens by their ids in tokenizer_config.json and added_tokens.json, got {error}."
        ) from error
    return found


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
