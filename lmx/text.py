"""Text to ids and back: what a tokenizer is, and the kinds that lmx reads, trains and writes.

Here live the `Tokenizer` protocol, SentencePiece, text that arrives already tokenised, and bytes. A tokenizer knows one
line of text and its ids; sentence pairs, the ids that begin, end and pad them, and batches belong to `lmx.data`, scores
to `lmx.scoring`. No tokenizer holds a language, a length limit or a random state.

The four special ids are the same in every tokenizer that lmx makes: padding 0, beginning 1, end 2, unknown 3.
"""

import io
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, SupportsIndex, runtime_checkable

import sentencepiece

from lmx.foreign_pieces import PieceTableTokenizer
from lmx.foreign_text import HuggingFaceTokenizer
from lmx.lines import undo_bpe, words_in
from lmx.sentence_pieces import open_pieces
from lmx.symbols import SymbolTokenizer
from lmx.token_list import TokenListTokenizer
from lmx.training_text import (
    BOS_ID,
    EOS_ID,
    LOSSLESS,
    PAD_ID,
    SPECIAL_PIECES,
    UNK_ID,
    draw_texts,
    handed_over,
    training_error,
    without_control_words,
)

Folding = Literal["compatibility", "case", "none"]
# Of the files that `load_tokenizer` reads.
SUFFIXES = (".model", ".vocab", ".bytes", ".symbols", ".huggingface", ".pieces", ".tokens")


@runtime_checkable
class Tokenizer(Protocol):
    """A vocabulary and the way between one line of text and its ids, which may be Python's integers or an array's.

    Attributes:
        suffix: Ending of the file it is saved to.
    """

    suffix: str

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        ...

    @property
    def pad_id(self) -> int:
        """Id that fills a row behind its text."""
        ...

    @property
    def bos_id(self) -> int:
        """Id that a decoder starts from."""
        ...

    @property
    def eos_id(self) -> int:
        """Id that ends a text."""
        ...

    @property
    def unk_id(self) -> int:
        """Id of what the vocabulary does not hold."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`."""
        ...

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of the ids up to the first `eos_id`, without padding and `bos_id`."""
        ...

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns one readable piece for each id, special ones included: the labels of an attention map."""
        ...

    def save(self, path: Path) -> Path:
        """Writes all that `load_tokenizer` needs to one file, and returns its path."""
        ...


class SentencePieceTokenizer:
    """Subword pieces learned from raw text; reversible, so that a detokeniser is not needed.

    Source: Kudo and Richardson 2018. Text is normalised as SentencePiece's own default does (`nmt_nfkc`: compatibility
    forms are folded, runs of spaces become one), so `decode(encode(text))` is the normalised text.

    A file made elsewhere may lack the padding (XLM-R, NLLB, Llama) or the beginning (T5). What is missing gets a new id
    behind those of the file, padding first, then beginning, then end; all ids of the file stay as they are.
    """

    suffix = ".model"

    def __init__(self, model: bytes) -> None:
        """Reads a serialised SentencePiece model.

        Raises:
            ValueError: these bytes are no such model.
        """
        self._processor = open_pieces(model)
        self.model = model
        self.vocab_size: int = self._processor.vocab_size()
        self.pad_id: int = self._processor.pad_id()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        self._added: dict[int, str] = {}
        for name, piece in (("pad_id", "<pad>"), ("bos_id", "<s>"), ("eos_id", "</s>")):
            if getattr(self, name) < 0:
                setattr(self, name, self.vocab_size)
                self._added[self.vocab_size] = piece
                self.vocab_size += 1

    @classmethod
    def from_file(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Reads a `.model` file."""
        path = _existing(path)
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        model_type: Literal["bpe", "unigram"] = "bpe",
        character_coverage: float = 1.0,
        byte_fallback: bool = False,
        folding: Folding = "compatibility",
        max_texts: int | None = None,
        seed: int = 0,
    ) -> "SentencePieceTokenizer":
        """Learns a vocabulary from lines of text; the same texts and arguments give the same bytes.

        Args:
            texts: Lines of one language, or of both for a joint vocabulary.
            vocab_size: Number of ids, the four special ones included.
            model_type: Byte-pair encoding, or Kudo's unigram model.
            character_coverage: Share of the text's characters that get a piece; the rest becomes unknown (or bytes).
                1.0 suits alphabets, 0.9995 suits scripts of thousands of characters.
            byte_fallback: Spells characters without a piece in bytes (256 ids) instead of the unknown id.
            folding: What is taken for the same, here and in all texts that are encoded: compatibility forms and runs of
                spaces (`nmt_nfkc`), case too (`nmt_nfkc_cf`), or nothing: line ends and all spaces then stay, and runs
                of spaces are pieces, as code wants it.
            max_texts: Learns from this many texts drawn at random, in their order, and holds no others; None takes
                all, slow above a few million.
            seed: Of that draw.

        Raises:
            ValueError: there is no text, or `vocab_size` is too large or too small for it (says the bound).
        """
        if vocab_size <= len(SPECIAL_PIECES):
            raise ValueError(
                f"vocab_size must be over {len(SPECIAL_PIECES)}, the special ids, got vocab_size={vocab_size}."
            )
        if max_texts is not None and max_texts < 1:
            raise ValueError(f"max_texts must be at least 1, or None for all, got max_texts={max_texts}.")
        if not 0 < character_coverage <= 1:
            raise ValueError(
                f"character_coverage must be over 0 and at most 1, got character_coverage={character_coverage}."
            )
        lines = draw_texts((text for text in texts if text and not text.isspace()), max_texts, seed=seed)
        if not lines:
            raise ValueError("texts must hold at least one line with text, got none.")
        rule = {"compatibility": "nmt_nfkc", "case": "nmt_nfkc_cf", "none": "identity"}[folding]
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=map(without_control_words(rule), handed_over(lines)),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                character_coverage=character_coverage,
                byte_fallback=byte_fallback,
                normalization_rule_name=rule,
                pad_id=PAD_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                unk_id=UNK_ID,
                pad_piece=SPECIAL_PIECES[PAD_ID],
                # The library drops longer lines in silence; its own bound is 4,192 bytes.
                max_sentence_length=1 << 20,
                # A fixed number, whatever the machine: partial sums of the unigram model depend on it.
                num_threads=4,
                minloglevel=2,
                **(LOSSLESS if folding == "none" else {}),
            )
        except RuntimeError as error:
            raise training_error(error, vocab_size=vocab_size) from error
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of the ids up to the first `eos_id`; an unknown piece is written as U+2047."""
        return self._processor.decode(_content(self, ids))

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the pieces; U+2581 stands for the space before a word."""
        return [self._added.get(index) or self._processor.id_to_piece(index) for index in map(int, ids)]

    def save(self, path: str | Path) -> Path:
        """Writes a `.model` file, which every SentencePiece tool reads."""
        path = _with_suffix(path, self.suffix)
        path.write_bytes(self.model)
        return path


class PretokenizedTokenizer:
    """Words of a text that is tokenised already, perhaps split by byte-pair encoding with `@@` marks.

    Words are separated by ASCII white space only: a no-break space or a line separator (U+2028) is part of a word.
    """

    suffix = ".vocab"

    def __init__(self, words: Sequence[str]) -> None:
        """Takes the words in the order of their ids, after the four special ones."""
        self._pieces = [*SPECIAL_PIECES, *words]
        # Only words: "</s>" in a text is not the end of it.
        self._ids = {word: index for index, word in enumerate(words, start=len(SPECIAL_PIECES))}
        if len(self._ids) < len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise ValueError(f"words must be distinct, got {twice!r} twice.")
        if reserved := sorted(self._ids.keys() & set(SPECIAL_PIECES)):
            raise ValueError(f"words must not be special pieces, got {reserved[0]!r}.")
        self.vocab_size = len(self._pieces)
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = PAD_ID, BOS_ID, EOS_ID, UNK_ID

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, min_count: int = 1) -> "PretokenizedTokenizer":
        """Collects the words of some texts: the most frequent first, equally frequent ones by code point.

        The order is fairseq's; its dictionary may add up to seven `madeupword`s to reach a multiple of 8.

        Raises:
            ValueError: no word occurs `min_count` times.
        """
        counts = Counter(word for text in texts for word in words_in(text))
        for piece in SPECIAL_PIECES:
            del counts[piece]
        words = sorted(word for word, count in counts.items() if count >= min_count)
        if not words:
            raise ValueError(
                f"texts must hold a word that occurs min_count times, got none with min_count={min_count}."
            )
        return cls(sorted(words, key=counts.__getitem__, reverse=True))

    @classmethod
    def from_file(cls, path: str | Path) -> "PretokenizedTokenizer":
        """Reads a `.vocab` file: one piece a line, the four special ones first.

        Raises:
            ValueError: the file is no such list (names the line).
        """
        path = _existing(path)
        try:
            lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(f"{path} must be UTF-8, got byte 0x{byte:02x} at position {error.start}.") from error
        for number, (line, piece) in enumerate(zip(lines, SPECIAL_PIECES, strict=False), start=1):
            if line != piece:
                raise ValueError(f"{path}:{number} must be {piece!r}, got {line!r}.")
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if words_in(line) != [line]:
                raise ValueError(f"{path}:{number} must be one word without white space, got {line!r}.")
            if (first := seen.setdefault(line, number)) != number:
                raise ValueError(f"{path}:{number} must be a new word, got {line!r} again (first on line {first}).")
        if len(lines) < len(SPECIAL_PIECES):
            raise ValueError(f"{path} must start with the lines {', '.join(SPECIAL_PIECES)}, got {len(lines)} lines.")
        return cls(lines[len(SPECIAL_PIECES) :])

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`."""
        return [self._ids.get(word, UNK_ID) for word in words_in(text)]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the words joined by spaces, the `@@` marks of byte-pair encoding undone."""
        # The last word gets a space too, so that a mark there, which an unfinished translation can have, goes as well.
        return undo_bpe(" ".join(self.pieces(_content(self, ids))))

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the words, marks kept."""
        return [self._pieces[index] for index in ids]

    def save(self, path: str | Path) -> Path:
        """Writes a `.vocab` file: one piece a line, the four special ones first."""
        path = _with_suffix(path, self.suffix)
        path.write_bytes("".join(f"{piece}\n" for piece in self._pieces).encode("utf-8"))
        return path


class ByteTokenizer:
    """The bytes of UTF-8 text, each at its value plus four; nothing to train, nothing unknown."""

    suffix = ".bytes"

    _NOTE = "The ids of this tokenizer are the bytes of UTF-8 text plus 4; 0 <pad>, 1 <s>, 2 </s>, 3 <unk>.\n"

    def __init__(self) -> None:
        self.vocab_size = len(SPECIAL_PIECES) + 256
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = PAD_ID, BOS_ID, EOS_ID, UNK_ID

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`."""
        return [byte + len(SPECIAL_PIECES) for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text; bytes that are not UTF-8, which a model can produce, become U+FFFD."""
        offset = len(SPECIAL_PIECES)
        content = bytes(index - offset for index in _content(self, ids) if index >= offset)
        return content.decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns printable ASCII as it is and other bytes as `<0xE4>`."""
        offset = len(SPECIAL_PIECES)
        return [SPECIAL_PIECES[index] if index < offset else _byte_piece(index - offset) for index in map(int, ids)]

    def save(self, path: str | Path) -> Path:
        """Writes a `.bytes` file, which only says that the tokenizer is this one."""
        path = _with_suffix(path, self.suffix)
        path.write_text(self._NOTE, encoding="utf-8")
        return path


def num_separators(tokenizer: Tokenizer) -> int:
    """Returns how many `eos_id` stand between the texts of a pair: 1, but 2 in RoBERTa's `<s> a </s></s> b </s>`."""
    return getattr(tokenizer, "num_separators", 1)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer by the suffix of its file, one of `SUFFIXES`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is another, or the file is not what its suffix says.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a tokenizer file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got path={path}.")
    path = _existing(path)
    own = (SentencePieceTokenizer, PretokenizedTokenizer, SymbolTokenizer)
    kinds = (*own, HuggingFaceTokenizer, PieceTableTokenizer, TokenListTokenizer)
    readers = {kind.suffix: kind.from_file for kind in kinds}
    return readers[path.suffix](path) if path.suffix in readers else ByteTokenizer()


def _content(tokenizer: Tokenizer, ids: Iterable[SupportsIndex]) -> list[int]:
    until_end = itertools.takewhile(lambda index: index != tokenizer.eos_id, map(int, ids))
    return [index for index in until_end if index not in (tokenizer.pad_id, tokenizer.bos_id)]


def _byte_piece(byte: int) -> str:
    return chr(byte) if 0x21 <= byte <= 0x7E else f"<0x{byte:02X}>"


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there must be a tokenizer file, got path={path}, which does not exist.")
    return path


def _with_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"the file of this kind of tokenizer must end in {suffix}, got path={path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
