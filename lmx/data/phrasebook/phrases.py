"""The phrasebook: a grammar of our own that writes English-German sentence pairs, data that needs no download.

This module has the phrases and their splits. `writer.py` draws their content, `constructions.py` builds them,
`grammar.py` and `clauses.py` put them into words, and `words.py` holds the words. Nothing here knows
tokenizers, batches or models; a phrase is two strings and the name of its construction.

The German has gender, number and case agreement, weak, mixed and strong adjective endings, separable verbs, modal and
perfect brackets, verb-final clauses, `nicht` and `kein`, and questions. English determines German: no English
sentence has two translations (`you` is always `du`; the simple past and the present perfect are both Perfekt).

The split holds out combinations, not sentences. The content of a clause is its (subject, verb, complement), in
lemmas; a hash sends each such triple to one split, once and for all seeds. No clause of a test sentence has a triple
that training has, while every word form of it (whatever its case) and every construction is in the training split of
default size.
"""

import functools
from dataclasses import dataclass

from lmx.data.phrasebook.constructions import BUILDERS, CONJUNCTIONS, CONSTRUCTIONS, MOVED, TENSED
from lmx.data.phrasebook.grammar import NOMINATIVE, NUMERALS, POSSESSIVES, PRONOUNS, WHO
from lmx.data.phrasebook.lexicon import (
    ADJECTIVES,
    CITIES,
    DATIVE_VERBS,
    DITRANSITIVE,
    FREQUENCIES,
    INTRANSITIVE,
    LATE_FREQUENCIES,
    MANNERS,
    NOUNS,
    PEOPLE_NAMES,
    PREPOSITIONAL,
    PUTTING,
    TIMES,
    TRANSITIVE_VERBS,
)
from lmx.data.phrasebook.writer import Split, Writer

DEFAULT_SIZES: dict[str, int] = {"train": 40_000, "validation": 500, "test": 1_000}
# Shorter sentences (I sing.) would be too few to be distinct and too easy to be worth a test.
FEWEST_WORDS = 4


@dataclass(frozen=True, slots=True)
class Phrase:
    """A sentence pair: English source, German target, and the construction that it shows.

    `combinations` has the content that the split goes by: of each clause subject, verb and complement, as English
    lemmas.
    """

    source: str
    target: str
    construction: str
    combinations: tuple[str, ...] = ()


def phrasebook(split: Split, *, size: int | None = None, seed: int = 0) -> list[Phrase]:
    """Writes distinct sentence pairs of a split, each construction in turn.

    A pure function of its arguments, on any machine; a smaller size is a prefix of a larger one. Whatever the seeds, no
    test or validation phrase shares a combination with a training phrase.

    Args:
        split: which combinations may occur.
        size: number of pairs; `DEFAULT_SIZES` has the default.
        seed: another seed writes other sentences of the same split.

    Raises:
        ValueError: the split is unknown or size is not positive.
    """
    if split not in DEFAULT_SIZES:
        raise ValueError(f"split must be one of {', '.join(DEFAULT_SIZES)}, got split={split!r}.")
    size = DEFAULT_SIZES[split] if size is None else size
    if size < 1:
        raise ValueError(f"size must be at least 1, got size={size}.")
    return list(_written(split, size, seed))


@functools.lru_cache(maxsize=4)  # validation and test need the training split again, for its words
def _written(split: Split, size: int, seed: int) -> tuple[Phrase, ...]:
    known = None if split == "train" else _training_words()
    write = Writer(split, seed)
    phrases: dict[str, Phrase] = {}
    while len(phrases) < size:
        construction = CONSTRUCTIONS[len(phrases) % len(CONSTRUCTIONS)]
        english, german, combinations = BUILDERS[construction](write)
        english = english[0].upper() + english[1:]
        if (
            english.count(" ") + 1 >= FEWEST_WORDS
            and english not in phrases
            and (known is None or known.issuperset(_words_of(english, german)))
        ):
            german = german[0].upper() + german[1:]
            phrases[english] = Phrase(english, german, construction, combinations)
    return tuple(phrases.values())


def lexicon() -> list[tuple[str, str]]:
    """Returns the phrasebook's words as pairs of lemmas, English and German; a noun and a verb may share one."""
    verbs = {
        (verb.lemma, verb.prefix + verb.infinitive)
        for table in (TENSED, TRANSITIVE_VERBS, MOVED, INTRANSITIVE, PUTTING, DATIVE_VERBS, DITRANSITIVE, PREPOSITIONAL)
        for verb in table
    }
    adverbs = (*FREQUENCIES, *LATE_FREQUENCIES, *MANNERS.values(), *CITIES, *sum(TIMES.values(), ()))
    return sorted(
        {(noun.english, noun.singular[NOMINATIVE]) for noun in NOUNS.values()}
        | {(adjective.english, adjective.german) for adjective in ADJECTIVES}
        | {(adverb.english, adverb.german) for adverb in adverbs}
        | {(name.name, name.name) for name in PEOPLE_NAMES}
        | {(pronoun.lemma, pronoun.cases[NOMINATIVE]) for pronoun in (*PRONOUNS, WHO)}
        | {*POSSESSIVES.items(), *NUMERALS.items(), *CONJUNCTIONS}
        | verbs
    )


def _words_of(english: str, german: str) -> list[str]:
    """Returns the words of both sides, without case and punctuation; German ones are marked to stay apart."""
    return [word.strip(".,?").casefold() for word in english.split()] + [
        "de:" + word.strip(".,?").casefold() for word in german.split()
    ]


@functools.cache
def _training_words() -> frozenset[str]:
    return frozenset(word for phrase in phrasebook("train") for word in _words_of(phrase.source, phrase.target))
