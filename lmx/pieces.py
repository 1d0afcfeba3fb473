"""Choices of a vocabulary: which pieces the text of each task is split into."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """The vocabulary that splits text into pieces.

    Attributes:
        vocabulary: file of a trained tokenizer; None makes one from the training text.
        vocab_size: number of pieces that SentencePiece learns.
        max_texts: number of texts to learn them from, drawn at random; None takes all, slow above a few million.
        character_coverage: share of the text's characters that get a piece; the rarest are unknown. 1.0 suits clean
            text in alphabets, 0.9995 suits crawled text and scripts with thousands of characters.
    """

    vocabulary: Path | None = None
    vocab_size: int = 8000
    max_texts: int | None = 2_000_000
    character_coverage: float = 1.0

    def learned(self) -> dict[str, Any]:
        """Returns the settings that SentencePiece learns with."""
        return {
            "vocab_size": self.vocab_size,
            "max_texts": self.max_texts,
            "character_coverage": self.character_coverage,
        }


@dataclass(frozen=True, kw_only=True)
class LabelledVocabularyConfig(VocabularyConfig):
    """The vocabulary that splits texts with labels into pieces.

    Attributes:
        tokenizer: the kind: SentencePiece learned from the training texts, bytes, or the words of tokenised text.
        min_count: words that are rarer than this in training become the unknown word.
        lowercase: SentencePiece folds case, so that a word is the same at the beginning of a sentence.
    """

    tokenizer: Literal["sentencepiece", "bytes", "words"] = "sentencepiece"
    min_count: int = 2
    lowercase: bool = False

    def options(self) -> dict[str, Any]:
        """Returns the settings that this kind of tokenizer adds."""
        return {"words": {"min_count": self.min_count}, "bytes": {}}.get(
            self.tokenizer, {"folding": "case" if self.lowercase else "compatibility"}
        )


@dataclass(frozen=True, kw_only=True)
class TextVocabularyConfig(VocabularyConfig):
    """Which pieces running text is split into.

    Attributes:
        tokenizer: what is made: SentencePiece learned from the training text, which keeps all spaces and line ends, its
            characters, bytes, or the words of tokenised text.
        min_count: a character or word that is rarer in training is an unknown one.
    """

    tokenizer: Literal["sentencepiece", "characters", "bytes", "words"] = "sentencepiece"
    min_count: int = 1

    @property
    def kind(self) -> Literal["sentencepiece", "bytes", "symbols"]:
        """Which kind of tokenizer that is, see `lmx.experiment.learn_tokenizer`."""
        return "symbols" if self.tokenizer in ("characters", "words") else self.tokenizer

    def options(self) -> dict[str, Any]:
        """Returns what else the tokenizer is learned by."""
        if self.kind == "symbols":
            return {"unit": self.tokenizer, "min_count": self.min_count}
        return {"folding": "none", "byte_fallback": True} if self.tokenizer == "sentencepiece" else {}
