"""The objective of a language model as a choice, with its numbers and the ids that it adds to a vocabulary.

`lmx.data.objectives` has the functions that make rows. A mask or a sentinel is a piece of the vocabulary if it has one.
Otherwise it is an id after those of the tokenizer, which stays as it is.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from lmx.data.objectives.causal import causal, pairs, prefix
from lmx.data.objectives.masked import masked
from lmx.data.objectives.rows import Key, Rows
from lmx.data.objectives.spans import Noise, Special, count_spans, input_and_target_lengths, raw_length, spans
from lmx.data.windows import Packing
from lmx.errors import InputError
from lmx.foreign_pieces import PieceTableTokenizer
from lmx.foreign_text import HuggingFaceTokenizer
from lmx.symbols import SymbolTokenizer
from lmx.text import ByteTokenizer, SentencePieceTokenizer, Tokenizer

ObjectiveName = Literal["causal", "prefix", "pairs", "masked", "spans"]
FAMILIES = dict.fromkeys(("causal", "prefix", "pairs"), "decoder") | {"masked": "masked", "spans": "seq2seq"}
READ_BY = {"from_start": "causal", "whole_words": "masked"}  # fields that one objective alone reads
MASKS = ("<mask>", "[MASK]")
SENTINEL = "<extra_id_0>"
SEPARATOR = "\t"  # of source and target


class Objective(NamedTuple):
    """An objective for one vocabulary and one length of rows.

    Attributes:
        make: a batch of raw rows, see `lmx.data.windows.Windows`.
        length: tokens of a raw row.
        ahead: tokens of a raw row beyond these, which are labels alone.
        vocab_size: of the model.
        facts: what config.json says of it.
    """

    make: Callable[[Rows, Key], Rows]
    length: int
    ahead: int
    vocab_size: int
    facts: dict[str, int]

    @property
    def rows(self) -> dict[str, Any]:
        """How `Windows` cuts rows for it."""
        return {"make": self.make, "length": self.length, "ahead": self.ahead}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the model predicts.

    Attributes:
        objective: causal predicts each token from those before it. prefix does so after a beginning of random length,
            which the whole text sees. pairs does so after the first tab of each document, so that a decoder translates
            lines of source, tab and target. masked predicts tokens that were taken out; spans predicts runs of them.
        from_start: causal reads each document from the beginning of text, so that its first token is predicted too.
        mask_share: share of the tokens that masked predicts.
        whole_words: masked takes out whole words.
        noise_density: share of the tokens that spans takes out.
        mean_span: mean length of a span.
        sentinels: number of ids that name spans: the most spans of a row.
    """

    objective: ObjectiveName = "causal"
    from_start: bool = False
    mask_share: float = 0.15
    whole_words: bool = False
    noise_density: float = 0.15
    mean_span: float = 3.0
    sentinels: int = 100

    @property
    def unread(self) -> tuple[str, ...]:
        """The fields that only another objective reads; earlier versions ignored them where they were on."""
        return tuple(name for name, reader in READ_BY.items() if reader != self.objective)

    def check(self, family: str, *, packing: Packing) -> None:
        """Checks that a family of models can learn it, and that rows are as it wants them.

        Raises:
            InputError: it cannot, or they are not.
        """
        if FAMILIES[self.objective] != family:
            fitting = " or ".join(name for name, each in FAMILIES.items() if each == family)
            raise InputError(f"objective must be {fitting} for this preset's model, got objective={self.objective}.")
        for name in self.unread:
            if getattr(self, name):
                raise InputError(
                    f"{name} must be off with objective={self.objective}, got {name}=True: it is of {READ_BY[name]} "
                    "alone."
                )
        asked = "from_start" if self.from_start else f"objective={self.objective}"
        if packing != "documents" and (self.from_start or self.objective == "pairs"):
            raise InputError(
                f"packing must be documents with {asked}, which is of each document, got packing={packing}: rows of a "
                "stream begin anywhere."
            )

    def shapes(self, accumulation: int, rows: int, context: int) -> dict[str, tuple[int, int, int]]:
        """Returns the shapes of a batch's arrays, by their names."""
        source, target = self.sizes(context=context)
        if self.objective != "spans":
            also = ("prefix",) if self.objective == "prefix" else ()
            return dict.fromkeys(("tokens", "labels", "segments", "positions", *also), (accumulation, rows, source))
        packing = ("", "_segments", "_positions")
        shapes = {f"source{each}": (accumulation, rows, source) for each in packing}
        return shapes | dict.fromkeys(
            ("decoder_input", *(f"target{each}" for each in packing)), (accumulation, rows, target)
        )

    def sizes(self, *, context: int) -> tuple[int, int]:
        """Returns the tokens that a model reads of a row: of spans, of source and target; else the same twice.

        Raises:
            ValueError: a row is too short.
        """
        if self.objective != "spans":
            return context, context
        noise = Noise(self.noise_density, self.mean_span)
        return context, input_and_target_lengths(raw_length(context, noise=noise), noise=noise)[1]

    def of(self, tokenizer: Tokenizer, *, context: int) -> Objective:
        """Returns the objective for a vocabulary and rows of a length.

        Raises:
            ValueError: a row is too short.
            InputError: the vocabulary does not tell where words begin, or has no tab; spans outnumber sentinels; or
                mask_share is no share.
        """
        pad, size = tokenizer.pad_id, tokenizer.vocab_size
        if self.objective == "causal":
            start = tokenizer.bos_id if self.from_start else None
            make = functools.partial(causal, pad_id=pad, start_id=start)
            return Objective(make, context, int(start is None), size, {} if start is None else {"first_id": start})
        if self.objective == "prefix":
            return Objective(functools.partial(prefix, pad_id=pad), context, 1, size, {})
        if self.objective == "pairs":
            separator = tokenizer.encode(SEPARATOR)
            if len(separator) != 1 or separator[0] == tokenizer.unk_id:
                got = "that of unknown words" if len(separator) == 1 else len(separator)
                raise InputError(f"objective=pairs must have a vocabulary with one id for a tab, got {got}.")
            make = functools.partial(pairs, pad_id=pad, separator_id=separator[0])
            return Objective(make, context, 1, size, {"separator_id": separator[0]})
        if self.objective == "masked":
            if not 0 < self.mask_share < 1:
                raise InputError(f"mask_share must be over 0 and below 1, got mask_share={self.mask_share}.")
            pieces = tokenizer.pieces(range(size))
            mask = next((pieces.index(each) for each in MASKS if each in pieces), size)
            # Special ids stand in front, as a rule: what is behind them may come in the place of a word.
            special = {pad, tokenizer.bos_id, tokenizer.eos_id, mask}
            first = max((each for each in (*special, tokenizer.unk_id) if each < size // 2), default=-1) + 1
            make = functools.partial(
                masked,
                mask_id=mask,
                words=(first, size),
                special_ids=tuple(special),
                share=self.mask_share,
                begins_word=words_begin(tokenizer) if self.whole_words else None,
            )
            return Objective(make, context, 0, max(size, mask + 1), {"mask_id": mask})
        noise = Noise(self.noise_density, self.mean_span)
        raw, target = raw_length(context, noise=noise), self.sizes(context=context)[1]
        if (most := count_spans(raw, noise=noise)[1]) > self.sentinels:
            raise InputError(f"sentinels must be at least the {most} spans of a row, got sentinels={self.sentinels}.")
        has_own = SENTINEL in tokenizer.pieces([size - 1])
        vocab_size = size if has_own else size + self.sentinels
        make = functools.partial(
            spans,
            special=Special(pad, tokenizer.eos_id, tokenizer.bos_id),
            vocab_size=vocab_size,
            num_sentinels=self.sentinels,
            lengths=(context, target),
            noise=noise,
        )
        return Objective(make, raw, 0, vocab_size, {"num_sentinels": self.sentinels})


def words_begin(tokenizer: Tokenizer) -> Bool[np.ndarray, " V"]:
    """Returns of each id whether a word begins with it.

    Raises:
        InputError: the vocabulary does not tell.
    """
    if isinstance(tokenizer, ByteTokenizer) or getattr(tokenizer, "unit", "") == "characters":
        raise InputError(
            "whole_words must be off where the vocabulary is of bytes or characters, got whole_words=True."
        )
    size = tokenizer.vocab_size
    if isinstance(tokenizer, SymbolTokenizer):
        return np.ones(size, bool)
    pieces = tokenizer.pieces(range(size))
    if any(piece.startswith("##") for piece in pieces) and isinstance(tokenizer, HuggingFaceTokenizer):
        return np.array([not piece.startswith("##") for piece in pieces])
    if isinstance(tokenizer, SentencePieceTokenizer | PieceTableTokenizer | HuggingFaceTokenizer):
        return np.array([not piece[:1].isalnum() for piece in pieces])  # the mark of a space is no letter
    if any(piece.endswith("@@") for piece in pieces):
        raise InputError("whole_words must be off where pieces of a word end with @@, got whole_words=True.")
    return np.ones(size, bool)
