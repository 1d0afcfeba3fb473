"""Text to ids as a `tokenizer.json` says: WordPiece, byte-level pairs, and pieces in the manner of SentencePiece.

The library `tokenizers` does it, imported where it is used. Which ids begin, end and pad a row stands outside of that
file, so the file that is saved holds both. What a folder of another library holds is read in `lmx.interop.tokenizers`.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsIndex

SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Specials:
    """What a tokenizer from elsewhere cannot say by itself.

    Attributes:
        pad: fills a row behind its text.
        bos: what a decoder starts from, and what begins an encoder's row: `[CLS]` of BERT.
        eos: ends a text: `[SEP]` of BERT.
        unk: what the vocabulary does not hold.
        num_separators: how many `eos` stand between the two texts of a pair: 2 in RoBERTa's form.
        before, after: what else surrounds a text, inside of `bos` and `eos`: the code of its language (NLLB, mBART).
    """

    pad: int
    bos: int
    eos: int
    unk: int
    num_separators: int = 1
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Specials":
        """Returns what was saved; JSON has lists for tuples."""
        return cls(**{**saved, "before": tuple(saved["before"]), "after": tuple(saved["after"])})

    def check(self, vocab_size: int) -> None:
        """Raises an error where an id is none of a vocabulary.

        Raises:
            ValueError: that is so.
        """
        for name in ("pad", "bos", "eos", "unk"):
            self._check(name, getattr(self, name), vocab_size)
        for index in (*self.before, *self.after):
            self._check("before or after", index, vocab_size)

    def _check(self, name: str, index: Any, vocab_size: int) -> None:
        if not isinstance(index, int) or not 0 <= index < vocab_size:
            raise ValueError(f"{name} must be one of the tokenizer's {vocab_size} ids, got {name}={index}.")

    def content(self, ids: Iterable[SupportsIndex]) -> list[int]:
        """Returns the ids up to the first `eos`, without padding and `bos`.

        Where `bos` is `eos` (GPT-2, BART, NLLB), the first of a row begins it.
        """
        found = list(map(int, ids))
        begins = self.bos == self.eos and found[:1] == [self.bos]
        content = []
        for index in found[begins:]:
            if index == self.eos:
                break
            if index not in (self.pad, self.bos):
                content.append(index)
        return content


class HuggingFaceTokenizer:
    """A tokenizer of the library `tokenizers`: the content of a `tokenizer.json`, with the ids that surround a text.

    Special and added tokens inside a text are read as such, as Hugging Face does. `pieces` of a byte-level vocabulary
    are shown as text, with U+2581 for a space.
    """

    suffix = ".huggingface"

    def __init__(
        self,
        content: Mapping[str, Any],
        special: Specials,
        *,
        vocab_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes what a `tokenizer.json` holds.

        Args:
            content: of the file.
            special: the ids that surround a text.
            vocab_size: rows of the model's table, where it has more than there are ids; None takes as many as needed.
            settings: of the `tokenizer_config.json` beside the file, handed on when it is written again. Its
                `clean_up_tokenization_spaces` takes the spaces before punctuation from decoded text.

        Raises:
            ModuleNotFoundError: the library is not installed.
            ValueError: this is no such content, or an id lies outside of the vocabulary.
        """
        self.content, self.special, self.settings = content, special, dict(settings or {})
        self._backend = backend_of(content)
        known = self._backend.get_vocab(with_added_tokens=True)
        last = max(known, key=lambda piece: known[piece], default=None)
        if last is None:
            raise ValueError("content must have a vocabulary, got an empty one.")
        self.vocab_size: int = known[last] + 1 if vocab_size is None else vocab_size
        if known[last] >= self.vocab_size:
            raise ValueError(
                f"every id must be below the model's vocab_size={self.vocab_size}, got {known[last]} of {last!r}."
            )
        special.check(self.vocab_size)
        self._texts: list[str | None] = [None] * self.vocab_size
        self._added = {index for index, _ in self._backend.get_added_tokens_decoder().items()}
        for piece, index in known.items():
            self._texts[index] = piece
        self._is_bytes = '"ByteLevel"' in json.dumps([content.get("decoder"), content.get("pre_tokenizer")])
        # Meant for WordPiece; of byte pairs, spaces are part of the text.
        self._cleans = bool(self.settings.get("clean_up_tokenization_spaces")) and model_kind(content) != "BPE"

    @property
    def pad_id(self) -> int:
        """Id that fills a row behind its text."""
        return self.special.pad

    @property
    def bos_id(self) -> int:
        """Id that a decoder starts from, or an encoder's row begins with."""
        return self.special.bos

    @property
    def eos_id(self) -> int:
        """Id that ends a text."""
        return self.special.eos

    @property
    def unk_id(self) -> int:
        """Id of what the vocabulary does not hold."""
        return self.special.unk

    @property
    def num_separators(self) -> int:
        """How many `eos_id` stand between the texts of a pair."""
        return self.special.num_separators

    @property
    def puts_bos(self) -> bool:
        """Whether its file puts `bos_id` before a text, as Llama's and BERT's do, and GPT-2's does not."""
        said = self.settings.get("add_bos_token")
        if isinstance(said, bool) and str(self.settings.get("tokenizer_class")).startswith("Llama"):
            return said  # this class follows it, whatever the file says
        return self._backend.encode("a").ids[:1] == [self.bos_id]

    def with_special(self, special: Specials) -> "HuggingFaceTokenizer":
        """Returns this tokenizer with other ids around its texts.

        Raises:
            ValueError: an id lies outside of the vocabulary.
        """
        special.check(self.vocab_size)
        other = copy.copy(self)
        other.special = special
        return other

    @classmethod
    def from_file(cls, path: Path) -> "HuggingFaceTokenizer":
        """Reads a `.huggingface` file.

        Raises:
            ValueError: the file is no such tokenizer.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            special = Specials.from_json(saved["special"])
            return cls(saved["content"], special, vocab_size=saved["vocab_size"], settings=saved["settings"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} must hold a tokenizer and its special ids in JSON, got {error}") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`; half a character pair is U+FFFD."""
        ids = self._backend.encode(whole_characters(text), add_special_tokens=False).ids
        return [*self.special.before, *ids, *self.special.after]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of the ids up to the first `eos_id`, without special tokens."""
        content = [index for index in self.special.content(ids) if 0 <= index < self.vocab_size]
        text = self._backend.decode(content, skip_special_tokens=True)
        return cleaned_up(text) if self._cleans else text

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the pieces, bytes as the text they are part of: `<0xE4>` where they are none alone."""
        return [self._piece(index) for index in map(int, ids)]

    def _piece(self, index: int) -> str:
        piece = self._texts[index]
        if piece is None:
            return f"<{index}>"
        if not self._is_bytes or index in self._added:
            return piece
        return shown(bytes_of(piece))

    def save(self, path: str | Path) -> Path:
        """Writes a `.huggingface` file."""
        path = Path(path)
        if path.suffix != self.suffix:
            raise ValueError(f"the file of this kind of tokenizer must end in {self.suffix}, got path={path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = {
            "special": asdict(self.special),
            "vocab_size": self.vocab_size,
            "settings": self.settings,
            "content": self.content,
        }
        path.write_bytes(json.dumps(saved, ensure_ascii=False).encode("utf-8") + b"\n")
        return path


def tokenizers_library() -> Any:
    """Returns the library `tokenizers`.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a tokenizer.json needs the package tokenizers: pip install 'lmx[tokenizers]'.", name="tokenizers"
        ) from error
    return tokenizers


def backend_of(content: Mapping[str, Any]) -> Any:
    """Returns the library's object for the content of a `tokenizer.json`, which neither cuts nor pads.

    Raises:
        ModuleNotFoundError: the library is not installed.
        ValueError: this is no such content.
    """
    library = tokenizers_library()
    try:
        backend = library.Tokenizer.from_str(json.dumps(content))
    except BaseException as error:  # the library raises bare exceptions, and panics that are none
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise ValueError(f"content must be that of a tokenizer.json, got one of which tokenizers says: {error}.") from (
            error if isinstance(error, Exception) else None
        )
    backend.no_truncation()
    backend.no_padding()
    return backend


def model_kind(content: Mapping[str, Any]) -> str:
    """Returns what finds the pieces: `BPE`, `WordPiece`, `Unigram` or `WordLevel`; old files leave it to be guessed."""
    model = content.get("model")
    if not isinstance(model, Mapping):
        return ""
    guess = "BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece"
    return str(model.get("type") or guess)


def whole_characters(text: str) -> str:
    """Returns a text that UTF-8 can write: halves of character pairs, which broken JSON can hold, are U+FFFD."""
    return SURROGATES.sub("\ufffd", text)


def cleaned_up(text: str) -> str:
    """Returns English text without the spaces that WordPiece puts before punctuation, by Hugging Face's rule."""
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text


def _byte_alphabet() -> dict[str, int]:
    """Returns which byte a character of a byte-level piece is: printable ones themselves, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


def bytes_of(piece: str) -> bytes:
    """Returns the bytes that a piece of a byte-level vocabulary stands for; what is none is written in UTF-8."""
    if all(character in BYTE_OF for character in piece):
        return bytes(map(BYTE_OF.__getitem__, piece))
    return piece.encode("utf-8")


def shown(content: bytes) -> str:
    """Returns bytes as readable text: a space as U+2581, a line end as U+21B5, what is no UTF-8 as `<0xE4>`."""
    text = content.decode("utf-8", errors="surrogateescape").replace(" ", "▁").replace("\n", "↵")
    return SURROGATES.sub(lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", text)
