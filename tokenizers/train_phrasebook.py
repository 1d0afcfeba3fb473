"""Trains `phrasebook.model` on the phrasebook's training split, both languages together."""

from pathlib import Path

from lmx.data.embedded import phrasebook
from lmx.text import SentencePieceTokenizer

VOCAB_SIZE = 2000

phrases = phrasebook("train")
texts = [phrase.source for phrase in phrases] + [phrase.target for phrase in phrases]
tokenizer = SentencePieceTokenizer.train(texts, vocab_size=VOCAB_SIZE)
print(tokenizer.save(Path(__file__).parent / "phrasebook.model"))
