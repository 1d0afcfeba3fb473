"""Running text as symbols: its characters, or its words and line ends; nothing is learned but the list of symbols.

`lmx.text` has tokenizers of one line; these keep line ends, for texts of many lines.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, SupportsIndex

from lmx.lines import words_in
from lmx.training_text import BOS_ID, EOS_ID, PAD_ID, SPECIAL_PIECES, UNK_ID

Unit = Literal["characters", "words"]
LINE_END = "\n"


class SymbolTokenizer:
    """The symbols of a text in a fixed order, after the four special ones.

    Characters are kept to the last: `decode(encode(text))` is the text, if each occurs in the list. Words are separated
    by ASCII white space, of which line ends stay, as symbols of their own; `<unk>` among them is the unknown id.
    """

    suffix = ".symbols"

    def __init__(self, symbols: Sequence[str], *, unit: Unit) -> None:
        """Takes the symbols in the order of their ids.

        Raises:
            ValueError: one is there twice, or is none of this unit.
        """
        self.unit: Unit = unit
        self._pieces = [*SPECIAL_PIECES, *symbols]
        self._ids = {symbol: index for index, symbol in enumerate(symbols, start=len(SPECIAL_PIECES))}
        if len(self._ids) < len(symbols):
            twice = next(symbol for symbol, count in Counter(symbols).items() if count > 1)
            raise ValueError(f"symbols must be distinct, got {twice!r} twice.")
        for symbol in symbols:
            if _split(symbol, unit) != [symbol] or (unit == "words" and symbol in SPECIAL_PIECES):
                raise ValueError(f"symbols must be {unit}, got {symbol!r}.")
        self.vocab_size = len(self._pieces)
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = PAD_ID, BOS_ID, EOS_ID, UNK_ID

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, unit: Unit, min_count: int = 1) -> "SymbolTokenizer":
        """Collects the symbols of some texts: characters by code point, words the most frequent first.

        Args:
            min_count: a symbol that is rarer is unknown.

        Raises:
            ValueError: no symbol occurs as often.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_split(text, unit))
        if unit == "words":
            for piece in SPECIAL_PIECES:
                del counts[piece]
        symbols = sorted(symbol for symbol, count in counts.items() if count >= min_count)
        if not symbols:
            raise ValueError(f"texts must have {unit} that occur min_count times, got none with min_count={min_count}.")
        return cls(
            symbols if unit == "characters" else sorted(symbols, key=counts.__getitem__, reverse=True), unit=unit
        )

    @classmethod
    def from_file(cls, path: Path) -> "SymbolTokenizer":
        """Reads a `.symbols` file.

        Raises:
            ValueError: the file is no such list.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            unit, symbols = saved["unit"], saved["symbols"]
            if unit not in ("characters", "words") or not all(isinstance(symbol, str) for symbol in symbols):
                raise ValueError("another unit, or symbols that are no text")
            return cls(symbols, unit=unit)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} must be a list of symbols and their unit in JSON, got {error}.") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without `bos_id` and `eos_id`."""
        ids = self._ids
        return [ids.get(symbol, UNK_ID) for symbol in _split(text, self.unit)]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the text of the ids up to the first `eos_id`; an unknown character is written as U+FFFD."""
        symbols = []
        for index in map(int, ids):
            if index == EOS_ID:
                break
            if index not in (PAD_ID, BOS_ID):
                symbols.append(self._pieces[index])
        if self.unit == "characters":
            return "".join("\ufffd" if symbol == SPECIAL_PIECES[UNK_ID] else symbol for symbol in symbols)
        return " ".join(symbols).replace(f" {LINE_END}", LINE_END).replace(f"{LINE_END} ", LINE_END)

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the symbols, a line end as U+21B5."""
        return ["↵" if (piece := self._pieces[index]) == LINE_END else piece for index in ids]

    def save(self, path: str | Path) -> Path:
        """Writes a `.symbols` file."""
        path = Path(path)
        if path.suffix != self.suffix:
            raise ValueError(f"the file of this kind of tokenizer must end in {self.suffix}, got path={path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        symbols = self._pieces[len(SPECIAL_PIECES) :]
        path.write_text(
            json.dumps({"unit": self.unit, "symbols": symbols}, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return path


def _split(text: str, unit: Unit) -> list[str]:
    if unit == "characters":
        return list(text)
    if LINE_END not in text:
        return words_in(text)
    lines = [words_in(line) for line in text.split(LINE_END)]
    return [symbol for line in lines[:-1] for symbol in (*line, LINE_END)] + lines[-1]
