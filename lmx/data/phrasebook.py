"""The phrasebook: a grammar of our own that writes English-German sentence pairs, data that needs no download.

Here live what is said (the constructions and the drawing of their content) and the split. How it is said is
`lmx.data.phrasebook_grammar`'s, the words are `lmx.data.phrasebook_words`'s. Nothing here knows tokenizers, batches or
models; a phrase is two strings and the name of its construction.

The German has gender, number and case agreement, weak, mixed and strong adjective endings, separable verbs, modal and
perfect brackets, verb-final clauses, `nicht` and `kein`, and questions. English determines German: no English
sentence has two translations (`you` is always `du`; the simple past and the present perfect are both Perfekt).

The split holds out combinations, not sentences. The content of a clause is its (subject, verb, complement), in
lemmas; a hash sends each such triple to one split, once and for all seeds. No clause of a test sentence has a triple
that training has, while every word form of it (whatever its case) and every construction is in the training split of
default size.
"""

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from lmx.data import phrasebook_words as words
from lmx.data.phrasebook_grammar import (
    ACCUSATIVE,
    DATIVE,
    FEMININE,
    MODALS,
    NOMINATIVE,
    NUMERALS,
    POSSESSIVES,
    PRONOUNS,
    SOMEWHERE,
    WHO,
    Adjective,
    Adverb,
    Clause,
    Name,
    Nominal,
    Noun,
    NounPhrase,
    PrepositionalPhrase,
    Pronoun,
    Verb,
    around,
    conjugate,
    conjugate_english,
    regular_participle,
    write_english,
    write_german,
)

Split = Literal["train", "validation", "test"]
T = TypeVar("T")

DEFAULT_SIZES: dict[str, int] = {"train": 40_000, "validation": 500, "test": 1_000}
# Of 100 combinations, how many belong to test and to validation: enough that 1,000 test sentences are easily found.
TEST_SHARE, VALIDATION_SHARE = 10, 5
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


# ---------------------------------------------------------------------------------------------------------------------
# The tables, read


def _entries(table: str, separator: str) -> list[str]:
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split(separator) if entry.strip()]


def _plural_english(noun: str) -> str:
    return noun + "s"


def _parse_nouns() -> dict[str, Noun]:
    nouns: dict[str, Noun] = {}
    kinds: list[str] = []
    for entry in _entries(words.NOUNS, ";"):
        if entry.startswith("["):
            kinds = entry.strip("[]").split()
            continue
        english, german = entry.split(": ")
        english, _, english_plural = english.partition("/")
        article, _, forms = german.partition(" ")
        singular, plural = forms.split(", ")
        gender = ("der", "die", "das").index(article)
        base = singular.rstrip("*~")
        if singular.endswith("*"):
            declined = (base, plural, plural, plural)
        else:
            genitive = base if gender == FEMININE else base + ("es" if singular.endswith("~") else "s")
            declined = (base, base, base, genitive)
        dative_plural = plural if plural.endswith(("n", "s")) else plural + "n"
        nouns[english] = Noun(
            english,
            None if english_plural == "-" else english_plural or _plural_english(english),
            gender,
            frozenset([*kinds, english.replace(" ", "_")]),
            declined,
            (plural, plural, dative_plural, plural),
        )
    return nouns


_NOUNS = _parse_nouns()


@functools.cache
def _of_kinds(kinds: str) -> tuple[Noun, ...]:
    """Returns the nouns of any of the kinds, named in one string; an unknown kind is a mistake in the tables."""
    wanted: set[str] = set()
    for kind in kinds.split():
        wanted.update(words.GROUPS.get(kind, kind).split())
    for kind in list(wanted):
        wanted.update(words.GROUPS.get(kind, "").split())
    known = {kind for noun in _NOUNS.values() for kind in noun.kinds} | set(words.GROUPS)
    if unknown := sorted(wanted - known):
        raise ValueError(f"a kind must be that of some noun, got {unknown[0]!r} in {kinds!r}.")
    return tuple(noun for noun in _NOUNS.values() if noun.kinds & wanted)


def _parse_adjectives() -> tuple[Adjective, ...]:
    adjectives = []
    for line in _entries(words.ADJECTIVES, "\n"):
        english, rest = line.split(": ", 1)
        forms, kinds = rest.split(" | ")
        german, *comparative = forms.split()
        german, _, stem = german.partition("/")
        pair = tuple(comparative[0].split("/")) if comparative else None
        never = {kind[1:] for kind in kinds.split() if kind.startswith("!")}
        kinds = " ".join(kind for kind in kinds.split() if not kind.startswith("!"))
        nouns = frozenset(noun.english for noun in _of_kinds(kinds)) - never
        adjectives.append(Adjective(english, german, stem or german, pair, nouns))  # type: ignore[arg-type]
    return tuple(adjectives)


def _parse_verbs(table: str, *, dative: bool = False) -> tuple[Verb, ...]:
    verbs = []
    for line in _entries(table, "\n"):
        english, german, *fields = [field.strip() for field in line.split("|")]
        preposition, governs = "", "acc"
        if fields and fields[0].endswith((" acc", " dat")):
            preposition, governs = fields.pop(0).split()
        frame, marks = fields[0], fields[1] if len(fields) > 1 else ""
        subjects, *complements = [part.strip() for part in frame.split(">")]
        forms, _, particle = english.partition(" ")
        infinitive, *others = german.split()
        sein = others[-1:] == ["sein"]
        third, participle = [*others[: len(others) - sein], "-", "-"][:2]
        prefix, _, infinitive = infinitive.rpartition("-")
        if participle == "-":
            participle = prefix + regular_participle(infinitive)
        verbs.append(
            Verb(
                conjugate_english(forms),
                particle.lstrip("+"),
                particle.startswith("+"),
                prefix,
                infinitive,
                conjugate(infinitive, third),
                participle,
                sein,
                _of_kinds(subjects),
                bool({"person", "living"} & set(subjects.split())),
                _of_kinds(complements[0]) if complements else (),
                _of_kinds(complements[1]) if len(complements) > 1 else (),
                frozenset(marks.split()),
                preposition,
                DATIVE if governs == "dat" else ACCUSATIVE,
                len(complements) > 1 and particle == "to",
                dative,
                tuple(kind for kind in marks.split() if kind in _PLACE_KINDS and not complements),
                _COMMON_MANNERS
                if "manner" in marks.split()
                else tuple(_MANNERS[m] for m in marks.split() if m in _MANNERS)
                + ((_MANNERS["for a long time"],) if "long" in marks.split() else ()),
            )
        )
    return tuple(verbs)


def _parse_adverbs(table: str) -> tuple[Adverb, ...]:
    return tuple(Adverb(*entry.split(": ")) for entry in _entries(table, ";"))


_MANNERS = {adverb.english: adverb for adverb in _parse_adverbs(words.MANNERS)}
_COMMON_MANNERS = tuple(_MANNERS[name] for name in ("slowly", "quickly", "quietly", "carefully", "calmly", "secretly"))
_PLACE_KINDS = frozenset([*words.SETTINGS, "place", "city", "direction", "destination", "origin", "journey"])
_NEEDED = frozenset(
    ["direction", "destination", "journey", "objects", "seat", "static", "jump"]
)  # lies, sits, goes want a place
_ADJECTIVES = _parse_adjectives()
_ADJECTIVES_OF = {name: tuple(a for a in _ADJECTIVES if name in a.nouns) for name in _NOUNS}
_DESCRIBED = {a.english: tuple(_NOUNS[name] for name in _NOUNS if name in a.nouns) for a in _ADJECTIVES}
_TRANSITIVE = _parse_verbs(words.TRANSITIVE)
_SEPARABLE = _parse_verbs(words.SEPARABLE)
_SEPARABLE_INTRANSITIVE = _parse_verbs(words.SEPARABLE_INTRANSITIVE)
_INTRANSITIVE = _parse_verbs(words.INTRANSITIVE)
_MOTION = _parse_verbs(words.MOTION)
_PUTTING = _parse_verbs(words.PUTTING)
_DATIVE = _parse_verbs(words.DATIVE, dative=True)
_DITRANSITIVE = _parse_verbs(words.DITRANSITIVE)
_PREPOSITIONAL = _parse_verbs(words.PREPOSITIONAL)
_TIMES = {name: _parse_adverbs(table) for name, table in words.TIMES.items()}
_FREQUENCIES = _parse_adverbs(words.FREQUENCIES)
_LATE_FREQUENCIES = _parse_adverbs(words.LATE_FREQUENCIES)
_CITIES = _parse_adverbs(words.CITIES)
_PLACES = {
    name: (rest.split("|")[0].split(), rest.split("|")[1].split())
    for name, rest in (entry.split(": ") for entry in _entries(words.PLACES, ";"))
}
_PORTABLE = frozenset(_of_kinds("text crockery container tool thing picture"))


_NAMES = tuple(Name(name) for name in _entries(words.NAMES, ";"))


# ---------------------------------------------------------------------------------------------------------------------
# Drawing content


def _split_of(combination: str) -> Split:
    """Returns the split that a combination belongs to: a fixed function of its words alone."""
    bucket = int.from_bytes(hashlib.blake2b(combination.encode(), digest_size=4).digest(), "big") % 100
    if bucket < TEST_SHARE:
        return "test"
    return "validation" if bucket < TEST_SHARE + VALIDATION_SHARE else "train"


_COLOR_NAMES = frozenset(["red", "blue", "green", "yellow", "black", "white", "brown", "gray"])
_COLORS = tuple(a for a in _ADJECTIVES if a.english in _COLOR_NAMES)
_UNCOLORED = frozenset(["colorful", "golden", "German", "French", "Italian"])  # beside which a color would be odd
_CASES = {"acc": ACCUSATIVE, "dat": DATIVE}
_SETTINGS = {
    name: tuple(
        (english.strip(), german.split()[0], _CASES[german.split()[1]], _of_kinds(kinds))
        for english, german, kinds in (line.split("|") for line in _entries(table, "\n"))
    )
    for name, table in words.SETTINGS.items()
}
_INSTRUMENTS = {
    verb: _of_kinds(kinds) for verb, kinds in (entry.split(": ") for entry in _entries(words.INSTRUMENTS, ";"))
}
_UNOWNED = frozenset(["man", "woman", "lady"])  # my man would be a husband
_OWNED_PLACES = frozenset(["house", "garden", "office", "village", "city", "school", "cottage"])
_RESTING = tuple(_NOUNS[name] for name in _PLACES)
_GOING = tuple(_NOUNS[name] for name in _PLACES if name not in ("river", "street", "tower"))
_DESTINATIONS = tuple(noun for noun in _GOING if _PLACES[noun.english][1][0] == "to")
_PEOPLE = _of_kinds("person")
_DEGREES = (Adverb("", ""), Adverb("very", "sehr"), Adverb("too", "zu"), Adverb("quite", "ziemlich"))
_UNGRADED = (
    _COLOR_NAMES
    | _UNCOLORED - {"colorful"}
    | {"blind", "broken", "wrong", "secret", "round", "empty", "tame", "foreign"}
)


class _Writer:
    """Draws the content of phrases for one split."""

    def __init__(self, split: Split, seed: int):
        self.split = split
        # A string seeds by its SHA-512, the same on every machine and in every process.
        self.random = random.Random(f"phrasebook {split} {seed}").random

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def weighted(self, options: Sequence[tuple[float, T]]) -> T:
        """Picks one of (share, item); the shares sum to one."""
        point = self.random()
        for share, item in options:
            point -= share
            if point < 0:
                return item
        return options[-1][1]

    # Noun phrases

    def adjectives(self, noun: Noun, probability: float, two: bool = False) -> tuple[Adjective, ...]:
        options = _ADJECTIVES_OF[noun.english]
        if not options or not self.chance(probability):
            return ()
        adjective = self.pick(options)
        if two and adjective not in _COLORS and adjective.english not in _UNCOLORED:
            colors = [color for color in _COLORS if color in options]
            if colors:
                return adjective, self.pick(colors)
        return (adjective,)

    def noun_phrase(
        self, noun: Noun, *, role: str, adjectives: float = 0.3, two: bool = False, plural: bool | None = None
    ) -> NounPhrase:
        """Draws determiner, number and adjectives; `role` is "subject", "object", or "definite"."""
        countable = noun.english_plural is not None
        if plural is None:
            plural = countable and self.chance(0.3)
        described = self.adjectives(noun, adjectives, two)
        if role == "definite":
            determiner = self.weighted(((0.66, "the"), (0.24, "my"), (0.1, "this")))
        elif role == "subject":
            determiner = self.weighted(((0.54, "the"), (0.2, "my"), (0.08, "a"), (0.08, "this"), (0.1, "all")))
        else:
            determiner = self.weighted(
                ((0.38, "the"), (0.18, "my"), (0.22, "a"), (0.08, "this"), (0.09, "all"), (0.05, "of"))
            )
        if determiner == "my" and noun.english in _UNOWNED:
            determiner = "the"
        elif determiner == "my" or (determiner == "a" and role == "subject" and "kin" in noun.kinds):
            determiner = self.pick(tuple(POSSESSIVES))
        elif determiner == "a" and (plural or not countable):
            determiner = "" if role == "object" else "the"
        elif determiner == "all":
            if plural:
                determiner = self.pick(tuple(NUMERALS) if self.chance(0.5) else ("many", "some", "all", "both"))
            else:
                determiner = "every" if countable and role == "subject" else "the"
        elif determiner == "of":
            owner = self.pick(_NAMES) if self.chance(0.4) else NounPhrase(self.pick(_PEOPLE), "the", False)
            if noun not in _PEOPLE:
                return NounPhrase(noun, "", plural, described, owner)
            determiner = "the"
        return NounPhrase(noun, determiner, plural, described)

    def prepositional(
        self, english: str, german: str, case: int, noun: Noun, adjectives: float = 0.3
    ) -> PrepositionalPhrase:
        """Draws a prepositional phrase around the noun, in the singular."""
        if noun.english in _PLACES and "room" not in noun.kinds and noun.english not in _OWNED_PLACES:
            determiner = self.weighted(((0.82, "the"), (0.1, "this"), (0.08, "a")))
        else:
            determiner = self.weighted(((0.68, "the"), (0.08, "this"), (0.06, "a"), (0.18, "my")))
        if determiner == "my":
            determiner = self.pick(tuple(POSSESSIVES))
        return around(english, german, case, NounPhrase(noun, determiner, False, self.adjectives(noun, adjectives)))

    def setting(self, kind: str) -> PrepositionalPhrase:
        """Draws a place of the kind, for verbs of rest and of motion."""
        if kind == "place":
            if self.chance(0.12):
                return self.pick(SOMEWHERE)
            noun = self.pick(_RESTING)
            (english, german), _ = _PLACES[noun.english]
            return self.prepositional(english, german, DATIVE, noun)
        if kind in ("direction", "destination"):
            if self.chance(0.08):
                return PrepositionalPhrase("home", "nach Hause", "home")
            noun = self.pick(_GOING if kind == "direction" else _DESTINATIONS)
            _, (english, german) = _PLACES[noun.english]
            return self.prepositional(english, german, DATIVE if german == "zu" else ACCUSATIVE, noun)
        if kind == "origin":
            if self.chance(0.3):
                city = self.pick(_CITIES)
                return PrepositionalPhrase("from " + city.english, "aus " + city.german, city.english)
            noun = self.pick(_GOING)
            (_, german), _ = _PLACES[noun.english]
            return self.prepositional("from", "aus" if german == "in" else "von", DATIVE, noun)
        if kind in ("journey", "city"):
            city = self.pick(_CITIES)
            english, german = ("to ", "nach ") if kind == "journey" else ("in ", "in ")
            return PrepositionalPhrase(english + city.english, german + city.german, city.english)
        english, german, case, nouns = self.pick(_SETTINGS[kind])
        return self.prepositional(english, german, case, self.pick(nouns))

    # Clauses

    def subject(self, verb: Verb) -> Noun | Pronoun | Name:
        if verb.people:
            point = self.random()
            if point < 0.18:
                return self.pick(PRONOUNS)
            if point < 0.26:
                return self.pick(_NAMES)
        return self.pick(verb.subjects)

    def dress(self, drawn: Noun | Pronoun | Name, *, role: str, **style) -> Nominal:
        return self.noun_phrase(drawn, role=role, **style) if isinstance(drawn, Noun) else drawn

    def companion_object(self, nouns: Sequence[Noun], doer: object, *, pronouns: bool) -> Noun | Pronoun | Name:
        """Draws an object; people are also named or stood for by pronouns, never by the subject's own."""
        while True:
            noun = self.pick(nouns)
            if "person" not in noun.kinds or len(nouns) < 30 or self.chance(0.8):
                if noun is not doer:
                    return noun
            elif pronouns and self.chance(0.6):
                pronoun = self.pick(PRONOUNS)
                if not isinstance(doer, Pronoun) or not _overlap(doer, pronoun):
                    return pronoun
            elif not isinstance(doer, Name):
                return self.pick(_NAMES)

    def clause(
        self,
        verbs: Sequence[Verb],
        *,
        definite: bool = False,
        inverted: bool = False,
        subject: Pronoun | None = None,
        asked: str = "",
        described: float = 0.3,
        two: bool = False,
    ) -> Clause:
        """Draws subject, verb and complements whose combination is this split's.

        Args:
            verbs: one is drawn.
            definite: keeps subject and receiver definite, as negation wants.
            inverted: the subject will stand behind the verb, where nouns go badly with pronouns as objects.
            subject: given, not drawn.
            asked: the complement is asked for: none is drawn, and this stands for it in the combination.
            described: probability of adjectives.
            two: adjectives may come in twos.
        """
        while True:
            verb = self.pick(verbs)
            doer = subject or self.subject(verb)
            lemma = doer.english if isinstance(doer, Noun) else doer.lemma
            target: Noun | Pronoun | Name | None = None
            where: PrepositionalPhrase | None = None
            third = asked
            if verb.objects and not asked:
                pronouns = not inverted or isinstance(doer, Pronoun)
                target = self.companion_object(verb.things or verb.objects, doer, pronouns=pronouns and not verb.things)
                third = target.english if isinstance(target, Noun) else target.lemma
            elif not asked:
                kinds = [kind for kind in verb.places if kind in _NEEDED or "bound" in verb.marks or self.chance(0.8)]
                if kinds:
                    where = self.setting(self.pick(kinds))
                    third = where.lemma
            combination = f"{lemma}|{verb.lemma}|{third}"
            if _split_of(combination) == self.split:
                break
        style = {"adjectives": described, "two": two}
        clause = Clause(self.dress(doer, role="definite" if definite else "subject", **style), verb, place=where)
        clause.combination = combination
        if verb.things:
            receiver = self.companion_object(verb.objects, doer, pronouns=not inverted or isinstance(doer, Pronoun))
            clause.dative = self.dress(receiver, role="definite", adjectives=described / 2)
        if target is None:
            return clause
        if verb.preposition:
            inner = self.dress(target, role="definite" if definite else "object", **style)
            clause.complement = around("", verb.preposition, verb.governs, inner)
        elif verb.dative:
            clause.dative = self.dress(target, role="definite", **style)
        else:
            plural = {"plural": True} if "plural" in verb.marks else {}
            role = "definite" if "whole" in verb.marks else "object"
            clause.accusative = self.dress(target, role=role, **style, **plural)
            if "surface" in verb.marks:
                clause.place = self.setting("surface")
        return clause

    def predication(self, *, negated: bool = False) -> Clause:
        """Draws a sentence with to be: an adjective with a degree, a comparison, or likeness."""
        while True:
            adjective = self.pick(_ADJECTIVES)
            noun = self.pick(_DESCRIBED[adjective.english])
            third = adjective.english
            if _split_of(f"{noun.english}|be|{third}") == self.split:
                break
        subject = self.noun_phrase(noun, role="definite", adjectives=0.0)
        colors = [color for color in _ADJECTIVES_OF[noun.english] if color in _COLORS and adjective not in _COLORS]
        if colors and adjective.english not in _UNCOLORED and self.chance(0.5):
            subject.adjectives = (self.pick(colors),)
        if noun in _PORTABLE and self.chance(0.5):
            phrase = self.setting("objects")
            subject.tail = (" " + phrase.english, " " + phrase.german)
        clause = Clause(subject, None, combination=f"{noun.english}|be|{third}", negated=negated)
        graded = adjective.english not in _UNGRADED
        point = self.random()
        if graded and point < 0.45:
            compared = self.compared(adjective, subject)
            english, german = compared.english(True), compared.german(NOMINATIVE)
            if adjective.comparative and point < 0.3:
                longer = adjective.comparative
                clause.predicate = (f"{longer[0]} than {english}", f"{longer[1]} als {german}")
            else:
                clause.predicate = (f"as {adjective.english} as {english}", f"so {adjective.german} wie {german}")
        else:
            degree = self.pick(_DEGREES[: 3 if negated else 4]) if graded else _DEGREES[0]
            words_of = f"{degree.english} {adjective.english}", f"{degree.german} {adjective.german}"
            clause.predicate = (words_of[0].strip(), words_of[1].strip())
        return clause

    def compared(self, adjective: Adjective, subject: NounPhrase) -> NounPhrase:
        """Draws what the subject is compared with: a thing of its kind, or another's."""
        others = [n for n in _DESCRIBED[adjective.english] if n is not subject.noun and n.kinds & subject.noun.kinds]
        if others and self.chance(0.8):
            return self.noun_phrase(self.pick(others), role="definite", adjectives=0.0)
        return NounPhrase(subject.noun, "your" if subject.determiner != "your" else "my", subject.plural)

    # Adverbials

    def company(self, clause: Clause) -> PrepositionalPhrase:
        """Draws with whom or without whom: mit takes the dative, ohne the accusative."""
        noun = self.pick(_PEOPLE)
        while noun.english == clause.subject.lemma:
            noun = self.pick(_PEOPLE)
        return self.prepositional(*self.pick((("with", "mit", DATIVE), ("without", "ohne", ACCUSATIVE))), noun)

    def adorn(
        self,
        clause: Clause,
        *,
        time: str = "",
        probability: float = 0.5,
        frequency: float = 0.15,
        manner: bool = True,
        place: bool = True,
    ) -> Clause:
        """Adds adverbials that suit the verb: a manner, a place, a frequency or a time.

        An object, a time and a manner together read like a form filled in: a manner beside an object is all there is.
        """
        verb = clause.verb
        if verb is None:
            return clause
        item = clause.accusative
        vague = isinstance(item, NounPhrase) and item.vague
        quiet = "state" in verb.marks and "place" not in verb.marks
        if verb.manners and manner and not vague and self.chance(0.35 if clause.place is None else 0.15):
            clause.manner = self.pick(verb.manners)
            if verb.objects:
                return clause
        elif verb.lemma in _INSTRUMENTS and self.chance(0.25):
            clause.companion = self.prepositional("with", "mit", DATIVE, self.pick(_INSTRUMENTS[verb.lemma]))
        elif "place" in verb.marks and clause.place is None and verb.objects and place and self.chance(0.4):
            clause.place = self.setting("place")
        if quiet:
            return clause
        if not time and not clause.negated and "once" not in verb.marks and self.chance(frequency):
            clause.frequency = self.pick(_FREQUENCIES)
        elif self.chance(probability):
            clause.time = self.moment(clause, time)
        return clause

    def moment(self, clause: Clause, time: str = "") -> Adverb:
        """Draws a time; what happens once does not happen every day."""
        if not time:
            often = clause.verb is not None and "once" not in clause.verb.marks and not clause.negated
            repeated = often and self.chance(0.5)
            time = "repeated" if repeated else "single"
        return self.pick(_TIMES[time])


def _overlap(one: Pronoun, other: Pronoun) -> bool:
    return one is other or {one.lemma, other.lemma} == {"I", "we"}


# ---------------------------------------------------------------------------------------------------------------------
# Constructions

_Sentence = tuple[str, str, tuple[str, ...]]  # English, German, combinations
_ACTIVE = tuple(verb for verb in _TRANSITIVE if not {"state", "mishap"} & verb.marks)
_TENSED = tuple(verb for verb in (*_TRANSITIVE, *_SEPARABLE) if "noperfect" not in verb.marks)
_RECEIVING = tuple(verb for verb in _DATIVE if "noperfect" not in verb.marks)
_MOVED = tuple(v for v in (*_INTRANSITIVE, *_MOTION, *_SEPARABLE_INTRANSITIVE) if "noperfect" not in v.marks)
_BY_PEOPLE = tuple(verb for verb in _TENSED if verb.people)
_ACTIVE_RECEIVING = tuple(verb for verb in _RECEIVING if "state" not in verb.marks)


def _sentence(clause: Clause) -> _Sentence:
    return write_english(clause) + ".", write_german(clause) + ".", (clause.combination,)


def _fronted(clause: Clause, time: Adverb) -> _Sentence:
    english = write_english(clause, front=time.english)
    return english + ".", write_german(clause, "question", front=time.german) + ".", (clause.combination,)


def _statement(write: _Writer) -> _Sentence:
    """Verb second, with the time behind or in front: Today the woman buys a coat."""
    verbs = write.weighted(((0.75, _TRANSITIVE), (0.25, _INTRANSITIVE)))
    if write.chance(0.45):
        clause = write.clause(verbs, inverted=True)
        verb = clause.verb
        assert verb is not None
        if "state" not in verb.marks or "place" in verb.marks:
            return _fronted(write.adorn(clause, probability=0.0, frequency=0.0), write.moment(clause))
    else:
        clause = write.clause(verbs)
    return _sentence(write.adorn(clause))


def _adjective(write: _Writer) -> _Sentence:
    """Endings after each kind of determiner, and adjectives with to be."""
    if write.chance(0.3):
        return _sentence(write.predication())
    return _sentence(write.adorn(write.clause(_TRANSITIVE, described=0.9, two=True), probability=0.2))


def _dative(write: _Writer) -> _Sentence:
    verbs = write.weighted(((0.45, _DATIVE), (0.55, _DITRANSITIVE)))
    return _sentence(write.adorn(write.clause(verbs)))


def _preposition(write: _Writer) -> _Sentence:
    """Prepositions with their cases: rest in the dative, direction in the accusative, and those that verbs ask for."""
    point = write.random()
    if point < 0.3:
        clause = write.clause(_PREPOSITIONAL)
    elif point < 0.5:
        clause = write.clause(_MOTION)
        if write.chance(0.35):
            clause.companion = write.company(clause)
    elif point < 0.65:
        clause = write.clause(_PUTTING)
    else:
        clause = write.clause(_PLACED)
    return _sentence(write.adorn(clause))


def _negation(write: _Writer) -> _Sentence:
    """Negation: nicht at its place, or kein before what is indefinite; never and rarely."""
    point = write.random()
    if point < 0.12:
        return _sentence(write.predication(negated=True))
    verbs = write.weighted(((0.55, _TRANSITIVE), (0.1, _SEPARABLE), (0.2, _MOVED), (0.15, _DATIVE + _PREPOSITIONAL)))
    clause = write.clause(verbs, definite=True)
    assert clause.verb is not None
    if point < 0.27 and "noperfect" not in clause.verb.marks:
        clause.late = write.pick(_LATE_FREQUENCIES)
        return _sentence(_without_quantity(clause))
    return _sentence(write.adorn(_negate(clause), frequency=0.0))


def _without_quantity(clause: Clause) -> Clause:
    """Makes an object that negation does not suit (many, two, both) plainly definite."""
    item = clause.accusative
    if isinstance(item, NounPhrase) and item.determiner in _QUANTITIES:
        item.determiner = "the"
    return clause


def _negate(clause: Clause) -> Clause:
    clause.negated = True
    return _without_quantity(clause)


def _question(write: _Writer) -> _Sentence:
    """Yes-no and w-questions, also about the past and with modals."""
    form = write.weighted(
        (
            (0.36, "whether"),
            (0.14, "who"),
            (0.1, "what"),
            (0.06, "whom"),
            (0.12, "which"),
            (0.14, "why"),
            (0.08, "where"),
        )
    )
    if form == "who":
        clause = write.clause(_BY_PEOPLE, subject=WHO)
        _tense(write, clause, 0.6)
        return write_english(clause) + "?", write_german(clause) + "?", (clause.combination,)
    if form == "whom":
        verbs = _OF_PEOPLE if write.chance(0.5) else _DATIVE_OF_PEOPLE
        clause = write.clause(verbs, inverted=True, definite=True, asked="whom")
        assert clause.verb is not None
        front = ("who", WHO.german(DATIVE if clause.verb.dative else ACCUSATIVE))
    elif form == "what":
        clause = write.clause(_OF_THINGS, inverted=True, definite=True, asked="what", described=0.45)
        front = ("what", "was")
    elif form == "which":
        clause = write.clause(_TENSED, inverted=True, definite=True)
        while not isinstance(clause.accusative, NounPhrase):
            clause = write.clause(_TENSED, inverted=True, definite=True)
        asked = NounPhrase(clause.accusative.noun, "which", clause.accusative.plural, clause.accusative.adjectives)
        clause.accusative = None
        front = (asked.english(), asked.german(ACCUSATIVE))
    elif form == "where":
        verbs, asked, front = write.pick(_WHERE)
        clause = write.clause(verbs, inverted=True, definite=True, asked=asked, described=0.45)
        _tense(write, clause, 0.6, place=False)
        if clause.tense == "present" and clause.time is None and clause.manner is None and write.chance(0.5):
            clause.time = write.moment(clause)
        return _ask(clause, *front)
    else:
        verbs = write.weighted(((0.6, _TENSED), (0.2, _MOVED), (0.2, _RECEIVING + _PREPOSITIONAL + _DITRANSITIVE)))
        clause = write.clause(verbs, inverted=True, definite=True)
        front = ("why", "warum") if form == "why" else ("", "")
    _tense(write, clause, 0.6)
    return _ask(clause, *front)


def _ask(clause: Clause, english: str, german: str) -> _Sentence:
    return (
        write_english(clause, "question", english) + "?",
        write_german(clause, "question", german) + "?",
        (clause.combination,),
    )


def _tense(write: _Writer, clause: Clause, present: float, *, place: bool = True) -> None:
    """Puts the clause into the present, the past or under a modal, each with a time that suits."""
    verb = clause.verb
    assert verb is not None
    if write.chance(present) or "noperfect" in verb.marks:
        write.adorn(clause, frequency=0.0, place=place)
    elif write.chance(0.5) or {"state", "mishap"} & verb.marks:
        clause.tense = "past"
        write.adorn(clause, frequency=0.0, probability=0.0, manner=not verb.objects, place=place)
        clause.time = write.pick(_TIMES["past"])
    else:
        clause.tense, clause.modal = "modal", write.pick(MODALS)
        write.adorn(clause, time="future", frequency=0.0, place=place)


def _modal(write: _Writer) -> _Sentence:
    """A modal or the future, with the infinitive at the end."""
    verbs = write.weighted(
        ((0.5, _ACTIVE), (0.15, _SEPARABLE), (0.2, _MOVED), (0.15, _ACTIVE_RECEIVING + _DITRANSITIVE + _PREPOSITIONAL))
    )
    negated, fronted = write.chance(0.25), write.chance(0.25)
    clause = write.clause(verbs, definite=negated, inverted=fronted)
    clause.tense, clause.modal = "modal", write.pick(MODALS)
    if negated:
        _negate(clause)
    future = "future" if clause.modal.english == "will" or write.chance(0.5) else "single"
    if fronted:
        return _fronted(write.adorn(clause, frequency=0.0, probability=0.0), write.moment(clause, future))
    return _sentence(write.adorn(clause, time=future))


def _perfect(write: _Writer) -> _Sentence:
    """The Perfekt with haben or sein: of the simple past with a time, or of the present perfect."""
    verbs = write.weighted(
        ((0.4, _TENSED), (0.35, _MOVED), (0.25, _RECEIVING + _DITRANSITIVE + _PREPOSITIONAL + _PUTTING))
    )
    negated, fronted = write.chance(0.25), write.chance(0.3)
    clause = write.clause(verbs, definite=negated, inverted=fronted)
    assert clause.verb is not None
    # Just, already and yet go badly with what only lies or stands.
    if write.chance(0.6) or clause.verb.marks & {"objects", "static", "seat", "bound", "state"}:
        clause.tense = "past"
        if negated:
            _negate(clause)
        write.adorn(clause, time="past", frequency=0.0, probability=0.0, manner=fronted or not clause.verb.objects)
        if fronted:
            return _fronted(clause, write.pick(_TIMES["past"]))
        clause.time = write.pick(_TIMES["past"])
        return _sentence(clause)
    clause.tense = "perfect"
    if negated:
        _negate(clause)
        clause.late = Adverb("yet", "noch")
        return _sentence(clause)
    word = write.pick(("already", "just", "never"))
    if word == "just":
        clause.frequency = Adverb("just", "gerade")
    else:
        clause.late = Adverb(word, "schon" if word == "already" else "noch nie")
    return _sentence(_without_quantity(clause))


def _separable(write: _Writer) -> _Sentence:
    """Verbs that leave their prefix at the end: The man turns off the lamp."""
    verbs = write.weighted(((0.75, _SEPARABLE), (0.25, _SEPARABLE_INTRANSITIVE)))
    fronted = write.chance(0.3)
    clause = write.clause(verbs, inverted=fronted)
    if fronted:
        return _fronted(write.adorn(clause, probability=0.0, frequency=0.0), write.moment(clause))
    return _sentence(write.adorn(clause, probability=0.6))


def _subordinate(write: _Writer) -> _Sentence:
    """A clause with its verb at the end, behind or in front of the main clause."""
    verbs = write.weighted(
        ((0.5, _TRANSITIVE), (0.15, _SEPARABLE), (0.15, _MOVED), (0.2, _DATIVE + _PREPOSITIONAL + _DITRANSITIVE))
    )
    negated = write.chance(0.15)
    clause = write.clause(verbs, definite=True, described=0.2)
    verb = clause.verb
    assert verb is not None
    if negated:
        _negate(clause)
    elif not {"state", "mishap"} & verb.marks and write.chance(0.4):
        if write.chance(0.5):
            clause.tense, clause.modal = "modal", write.pick(MODALS)
        else:
            clause.tense, clause.time = "past", write.pick(_TIMES["past"])
    if clause.tense == "present" and write.chance(0.5):
        write.adorn(clause, frequency=0.0)
    if write.chance(0.6):
        english, german = write.pick(_INTRODUCTIONS)
        while negated and english.endswith("whether"):
            english, german = write.pick(_INTRODUCTIONS)
        if clause.tense == "present" or write.chance(0.5) or "that" in english.split():
            mark = "?" if english.startswith("do you") else "."
            return (
                f"{english} {write_english(clause)}{mark}",
                f"{german} {write_german(clause, 'final')}{mark}",
                (clause.combination,),
            )
    main = write.clause(_SHORT, definite=True, inverted=True, described=0.2)
    while main.subject.lemma == clause.subject.lemma:
        main = write.clause(_SHORT, definite=True, inverted=True, described=0.2)
    # When something ends or begins, it is neither a lasting state nor left undone.
    timed = clause.tense == "present" and not clause.negated and "state" not in verb.marks
    english, german = write.pick(_CONJUNCTIONS if timed else _CONJUNCTIONS[:2])
    combinations = (main.combination, clause.combination)
    if write.chance(0.35) and english != "because":
        return (
            f"{english} {write_english(clause)}, {write_english(main)}.",
            f"{write_german(clause, 'final', german)}, {write_german(main, 'question')}.",
            combinations,
        )
    return (
        f"{write_english(main)} {english} {write_english(clause)}.",
        f"{write_german(main)}, {write_german(clause, 'final', german)}.",
        combinations,
    )


_QUANTITIES = frozenset(["every", "all", "both", "many", "some", *NUMERALS])
_PLACED = tuple(verb for verb in _INTRANSITIVE if verb.places)
_OF_PEOPLE = tuple(
    v for v in _TENSED if v.objects and all("person" in n.kinds for n in v.objects) and len(v.objects) > 9
)
_DATIVE_OF_PEOPLE = tuple(v for v in _RECEIVING if not v.particle or v.particle == "to")
_OF_THINGS = tuple(
    v
    for v in _TENSED
    if not any({"person", "animal"} & n.kinds for n in v.objects) and len(v.objects) > 5 and not v.movable
)
_WHERE = (
    (tuple(v for v in _INTRANSITIVE if "place" in v.places), "where", ("where", "wo")),
    (tuple(v for v in _ACTIVE if "place" in v.marks), "", ("where", "wo")),
    (tuple(v for v in _MOTION if v.lemma in ("travel", "fly", "drive", "go", "run")), "where to", ("where", "wohin")),
)
_SHORT = tuple(
    v for v in _INTRANSITIVE if v.lemma in ("laugh", "cry", "sing", "dance", "work", "wait", "sleep", "shout", "smile")
)
_CONJUNCTIONS = (
    ("because", "weil"),
    ("although", "obwohl"),
    ("when", "wenn"),
    ("if", "falls"),
    ("while", "während"),
    ("before", "bevor"),
    ("as soon as", "sobald"),
    ("until", "bis"),
)
_INTRODUCTIONS = (
    ("I know that", "Ich weiß, dass"),
    ("I believe that", "Ich glaube, dass"),
    ("I hope that", "Ich hoffe, dass"),
    ("he says that", "Er sagt, dass"),
    ("she thinks that", "Sie denkt, dass"),
    ("we see that", "Wir sehen, dass"),
    ("everybody knows that", "Jeder weiß, dass"),
    ("it is good that", "Es ist gut, dass"),
    ("it is true that", "Es stimmt, dass"),
    ("it is a pity that", "Es ist schade, dass"),
    ("do you know whether", "Weißt du, ob"),
    ("I do not know whether", "Ich weiß nicht, ob"),
    ("she asks whether", "Sie fragt, ob"),
    ("nobody knows whether", "Niemand weiß, ob"),
    ("I do not know why", "Ich weiß nicht, warum"),
    ("he explains why", "Er erklärt, warum"),
    ("they want to know why", "Sie wollen wissen, warum"),
)
_BUILDERS: dict[str, Callable[[_Writer], _Sentence]] = {
    "statement": _statement,
    "adjective": _adjective,
    "dative": _dative,
    "preposition": _preposition,
    "negation": _negation,
    "question": _question,
    "modal": _modal,
    "perfect": _perfect,
    "separable": _separable,
    "subordinate": _subordinate,
}
CONSTRUCTIONS: tuple[str, ...] = tuple(_BUILDERS)


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
    write = _Writer(split, seed)
    phrases: dict[str, Phrase] = {}
    while len(phrases) < size:
        construction = CONSTRUCTIONS[len(phrases) % len(CONSTRUCTIONS)]
        english, german, combinations = _BUILDERS[construction](write)
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
        for table in (_TENSED, _TRANSITIVE, _MOVED, _INTRANSITIVE, _PUTTING, _DATIVE, _DITRANSITIVE, _PREPOSITIONAL)
        for verb in table
    }
    adverbs = (*_FREQUENCIES, *_LATE_FREQUENCIES, *_MANNERS.values(), *_CITIES, *sum(_TIMES.values(), ()))
    return sorted(
        {(noun.english, noun.singular[NOMINATIVE]) for noun in _NOUNS.values()}
        | {(adjective.english, adjective.german) for adjective in _ADJECTIVES}
        | {(adverb.english, adverb.german) for adverb in adverbs}
        | {(name.name, name.name) for name in _NAMES}
        | {(pronoun.lemma, pronoun.cases[NOMINATIVE]) for pronoun in (*PRONOUNS, WHO)}
        | {*POSSESSIVES.items(), *NUMERALS.items(), *_CONJUNCTIONS}
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
