"""SentencePiece whose ids are another table's: shifted as fairseq has them, of a `vocab.json`, or with tokens added.

`lmx.text` has SentencePiece with the ids of its own file. Which tables there are is `lmx.interop.sentence_pieces`'s.
"""

import base64
import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

from lmx.foreign_text import Specials, whole_characters
from lmx.sentence_pieces import open_pieces

SPACE = "▁"
# What is read last counts: field 3 of the model, normalizer_spec; in it field 3, add_dummy_prefix; false.
NO_PREFIX = b"\x1a\x02\x18\x00"


@dataclass(frozen=True, kw_only=True)
class AddedPiece:
    """A piece that is found in a text before SentencePiece sees it.

    Attributes:
        id: of the piece.
        content: its text.
        special: whether decoded text is without it.
        lstrip, rstrip: whether it takes the white space before or behind it.
    """

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, kw_only=True)
class PieceTable:
    """Which id each piece of a SentencePiece model has, and how a text is taken apart around it.

    Attributes:
        pieces: by their ids; None where there is none.
        added: found in a text first, the longest first.
        special: ids that surround a text.
        joins: decoded text is the pieces one after another (XLM-R, NLLB), instead of what SentencePiece makes of them.
        strips: decoded text has no white space at its ends.
        reads_codes: a text may begin with the code of a language, `>>fra<<`, as a piece (Marian).
        prefixes_first_only: only the beginning of a text gets the space that SentencePiece puts before one, and what
            follows an added piece none ("legacy": false in the settings of T5 and Llama).
        form: the type of model whose table it is.
        settings: of `tokenizer_config.json`, handed on when it is written again.
    """

    pieces: Sequence[str | None]
    special: Specials
    added: Sequence[AddedPiece] = ()
    joins: bool = False
    strips: bool = True
    reads_codes: bool = False
    prefixes_first_only: bool = False
    form: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class PieceTableTokenizer:
    """A SentencePiece model with a table of ids of its own.

    Ids, and the text of ids, are those of Hugging Face's class in Python for the same files: added pieces inside a text
    are read as such, and an unknown piece leaves no mark in decoded text.
    """

    suffix = ".pieces"

    def __init__(self, model: bytes, table: PieceTable) -> None:
        """Takes a serialised SentencePiece model and its table.

        Raises:
            ValueError: these bytes are no such model, or an id lies outside of the table.
        """
        self.model, self.table = model, table
        self._processor = open_pieces(model + NO_PREFIX if table.prefixes_first_only else model)
        self.vocab_size = len(table.pieces)
        table.special.check(self.vocab_size)
        for token in table.added:
            if not 0 <= token.id < self.vocab_size:
                raise ValueError(
                    f"every id must be below the model's vocab_size={self.vocab_size}, got {token.id} of "
                    f"{token.content!r}."
                )
        self._ids = {piece: index for index, piece in enumerate(table.pieces) if piece is not None}
        self._added = {token.content: token for token in table.added}
        self._hidden = {token.id for token in table.added if token.special} | {table.special.unk}
        longest = sorted(self._added, key=len, reverse=True)
        self._splits = re.compile(f"({'|'.join(map(re.escape, longest))})") if longest else None
        if table.prefixes_first_only:
            self._guard = str(table.pieces[table.special.unk])
            self._guard_length = len(self._processor.encode(self._guard, out_type=str))

    @property
    def special(self) -> Specials:
        """Ids that surround a text."""
        return self.table.special

    @property
    def pad_id(self) -> int:
        """Id that fills a row behind its text."""
        return self.table.special.pad

    @property
    def bos_id(self) -> int:
        """Id that a decoder starts from, or an encoder's row begins with."""
        return self.table.special.bos

    @property
    def eos_id(self) -> int:
        """Id that ends a text."""
        return self.table.special.eos

    @property
    def unk_id(self) -> int:
        """Id of what the vocabulary does not hold."""
        return self.table.special.unk

    @property
    def num_separators(self) -> int:
        """How many `eos_id` stand between the texts of a pair."""
        return self.table.special.num_separators

    @property
    def puts_bos(self) -> bool:
        """Whether Hugging Face's class puts `bos_id` before a text."""
        return bool(self.table.settings.get("add_bos_token", self.table.form in ("llama", "mistral", "xlm-roberta")))

    def with_special(self, special: Specials) -> "PieceTableTokenizer":
        """Returns this tokenizer with other ids around its texts.

        Raises:
            ValueError: an id lies outside of the table.
        """
        special.check(self.vocab_size)
        other = copy.copy(self)
        other.table = replace(self.table, special=special)
        return other

    @classmethod
    def from_file(cls, path: Path) -> "PieceTableTokenizer":
        """Reads a `.pieces` file.

        Raises:
            ValueError: the file is no such tokenizer.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            model = base64.b64decode(saved.pop("model"), validate=True)
            special = Specials.from_json(saved.pop("special"))
            added = [AddedPiece(**token) for token in saved.pop("added")]
            return cls(model, PieceTable(special=special, added=added, **saved))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} must hold a model of SentencePiece and a table in JSON, got {error}") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a line of text, without `bos_id` and `eos_id`; half a character pair is U+FFFD."""
        text = whole_characters(text)
        if self.table.prefixes_first_only and text:
            text = SPACE + text.replace(SPACE, " ")
        parts = [text] if self._splits is None else self._splits.split(text)
        for place, part in enumerate(parts):
            token = self._added.get(part)
            if token is not None and token.lstrip and place:
                parts[place - 1] = parts[place - 1].rstrip()
            if token is not None and token.rstrip and place + 1 < len(parts):
                parts[place + 1] = parts[place + 1].lstrip()
        pieces: list[str] = []
        for part in filter(None, parts):
            pieces += [part] if part in self._added else self._pieces_of(part)
        if self.table.prefixes_first_only and pieces[:1] == [SPACE] and pieces[1:2] and pieces[1] in self._added:
            pieces = pieces[1:]
        special = self.special
        return [*special.before, *(self._ids.get(piece, special.unk) for piece in pieces), *special.after]

    def _pieces_of(self, text: str) -> list[str]:
        begin: list[str] = []
        if self.table.reads_codes and text.startswith(">>") and "<<" in text:
            end = text.index("<<") + 2
            begin, text = [text[:end]], text[end:]
        if self.table.prefixes_first_only and text.startswith((SPACE, " ")):
            # What stands before keeps the space from being cut.
            pieces = self._processor.encode(self._guard + text, out_type=str)[self._guard_length :]
        else:
            pieces = self._processor.encode(text, out_type=str)
        return begin + pieces

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of the ids up to the first `eos_id`, without special and unknown pieces."""
        content = self.table.special.content(ids)
        known = [index for index in content if 0 <= index < self.vocab_size and index not in self._hidden]
        pieces = [piece for index in known if (piece := self.table.pieces[index]) is not None]
        if pieces and not self.table.strips:
            pieces[0] = pieces[0].removeprefix(SPACE)
        text = "".join(pieces) if self.table.joins else self._processor.decode_pieces(pieces)
        if self.table.joins or self.table.reads_codes:
            text = text.replace(SPACE, " ")
        return text.strip() if self.table.strips else text

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the pieces; U+2581 stands for the space before a word."""
        found = ((index, self.table.pieces[index]) for index in map(int, ids))
        return [f"<{index}>" if piece is None else piece for index, piece in found]

    def save(self, path: str | Path) -> Path:
        """Writes a `.pieces` file."""
        path = Path(path)
        if path.suffix != self.suffix:
            raise ValueError(f"the file of this kind of tokenizer must end in {self.suffix}, got path={path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = asdict(self.table) | {"model": base64.b64encode(self.model).decode("ascii")}
        path.write_bytes(json.dumps(saved, ensure_ascii=False).encode("utf-8") + b"\n")
        return path
