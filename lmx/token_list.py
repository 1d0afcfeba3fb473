"""Tokens that were split elsewhere: a list of them in the order of their ids, whichever of them are special.

Models that come without the rules that split their text read and write tokens with spaces between.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from lmx.lines import words_in

SPECIAL = ("pad", "bos", "eos", "unk")


def end_of_source(tokenizer: Any) -> int:
    """Returns what stands behind a source of any tokenizer: `eos_id`, or padding (OpenNMT has no end)."""
    return getattr(tokenizer, "source_end_id", tokenizer.eos_id)


class TokenListTokenizer:
    """A list of tokens; a text is tokens between ASCII white space.

    Special tokens have the ids that the list gives them, also where a text writes them: its source may have to end with
    "</s>". Where two of them are one token, as beginning and end with some, they have one id.

    Attributes:
        before: ids in front of each text.
        ends_source: whether `eos_id` stands behind a source, see `end_of_source`.
    """

    suffix = ".tokens"

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        special: Mapping[str, int],
        before: Sequence[int] = (),
        ends_source: bool = True,
    ) -> None:
        """Takes the tokens in the order of their ids.

        Args:
            special: ids of "pad", "bos", "eos" and "unk".
            before, ends_source: see the class.

        Raises:
            ValueError: a token is there twice, or a special id is missing or not in the list.
        """
        if len(set(tokens)) < len(tokens):
            twice = next(token for token, count in Counter(tokens).items() if count > 1)
            raise ValueError(f"tokens must be distinct, got {twice!r} twice.")
        for name, index in [*((name, special.get(name)) for name in SPECIAL), *(("before", index) for index in before)]:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(tokens):
                raise ValueError(f"{name} must be the id of a token, below {len(tokens)}, got {index!r}.")
        self.before, self.ends_source = tuple(before), ends_source
        self._tokens = list(tokens)
        self.vocab_size = len(self._tokens)
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (special[name] for name in SPECIAL)
        self._ids = {token: index for index, token in enumerate(self._tokens)}

    @property
    def source_end_id(self) -> int:
        """Id behind a source: the end, or padding, which no model looks at."""
        return self.eos_id if self.ends_source else self.pad_id

    @classmethod
    def from_file(cls, path: Path) -> "TokenListTokenizer":
        """Reads a `.tokens` file.

        Raises:
            ValueError: the file is no such list.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            tokens, special = saved["tokens"], saved["special"]
            if not all(isinstance(token, str) for token in tokens):
                raise ValueError("tokens that are no text")
            return cls(tokens, special=special, before=saved["before"], ends_source=saved["ends_source"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} must be a list of tokens and their special ids in JSON, got {error}.") from error

    def encode(self, text: str) -> list[int]:
        """Returns the ids of the tokens of a line, without `bos_id` and `eos_id`, behind what stands before each."""
        return [*self.before, *(self._ids.get(token, self.unk_id) for token in words_in(text))]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Returns the tokens up to the first `eos_id`, with spaces between, without padding and `bos_id`."""
        tokens = []
        for index in map(int, ids):
            if index == self.eos_id:
                break
            if index not in (self.pad_id, self.bos_id):
                tokens.append(self._tokens[index])
        return " ".join(tokens)

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """Returns the tokens as they are."""
        return [self._tokens[index] for index in ids]

    def save(self, path: str | Path) -> Path:
        """Writes a `.tokens` file."""
        path = Path(path)
        if path.suffix != self.suffix:
            raise ValueError(f"the file of this kind of tokenizer must end in {self.suffix}, got path={path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        special = {name: getattr(self, f"{name}_id") for name in SPECIAL}
        record = {
            "special": special,
            "before": list(self.before),
            "ends_source": self.ends_source,
            "tokens": self._tokens,
        }
        path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        return path
