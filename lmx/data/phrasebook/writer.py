"""What a phrase says: content is drawn, and each combination of subject, verb and complement belongs to one split."""

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

from lmx.data.phrasebook import words
from lmx.data.phrasebook.clauses import SOMEWHERE, Clause, PrepositionalPhrase, around
from lmx.data.phrasebook.grammar import (
    ACCUSATIVE,
    DATIVE,
    NOMINATIVE,
    NUMERALS,
    POSSESSIVES,
    PRONOUNS,
    Adjective,
    Adverb,
    Name,
    Nominal,
    Noun,
    NounPhrase,
    Pronoun,
    Verb,
)
from lmx.data.phrasebook.lexicon import (
    ADJECTIVES,
    ADJECTIVES_OF,
    CITIES,
    DESCRIBED,
    FREQUENCIES,
    NEEDED,
    NOUNS,
    PEOPLE_NAMES,
    PLACES,
    PORTABLE,
    TIMES,
    entries,
    of_kinds,
)

Split = Literal["train", "validation", "test"]
T = TypeVar("T")
# Of 100 combinations, how many belong to test and to validation: enough that 1,000 test sentences are easily found.
TEST_SHARE, VALIDATION_SHARE = 10, 5


# ---------------------------------------------------------------------------------------------------------------------
# Drawing content


def _split_of(combination: str) -> Split:
    """Returns the split that a combination belongs to: a fixed function of its words alone."""
    bucket = int.from_bytes(hashlib.blake2b(combination.encode(), digest_size=4).digest(), "big") % 100
    if bucket < TEST_SHARE:
        return "test"
    return "validation" if bucket < TEST_SHARE + VALIDATION_SHARE else "train"


_COLOR_NAMES = frozenset(["red", "blue", "green", "yellow", "black", "white", "brown", "gray"])
_COLORS = tuple(a for a in ADJECTIVES if a.english in _COLOR_NAMES)
_UNCOLORED = frozenset(["colorful", "golden", "German", "French", "Italian"])  # beside which a color would be odd
_CASES = {"acc": ACCUSATIVE, "dat": DATIVE}
_SETTINGS = {
    name: tuple(
        (english.strip(), german.split()[0], _CASES[german.split()[1]], of_kinds(kinds))
        for english, german, kinds in (line.split("|") for line in entries(table, "\n"))
    )
    for name, table in words.SETTINGS.items()
}
_INSTRUMENTS = {
    verb: of_kinds(kinds) for verb, kinds in (entry.split(": ") for entry in entries(words.INSTRUMENTS, ";"))
}
_UNOWNED = frozenset(["man", "woman", "lady"])  # my man would be a husband
_OWNED_PLACES = frozenset(["house", "garden", "office", "village", "city", "school", "cottage"])
_RESTING = tuple(NOUNS[name] for name in PLACES)
_GOING = tuple(NOUNS[name] for name in PLACES if name not in ("river", "street", "tower"))
_DESTINATIONS = tuple(noun for noun in _GOING if PLACES[noun.english][1][0] == "to")
_PEOPLE = of_kinds("person")
_DEGREES = (Adverb("", ""), Adverb("very", "sehr"), Adverb("too", "zu"), Adverb("quite", "ziemlich"))
_UNGRADED = (
    _COLOR_NAMES
    | _UNCOLORED - {"colorful"}
    | {"blind", "broken", "wrong", "secret", "round", "empty", "tame", "foreign"}
)


class Writer:
    """Draws the content of phrases for one split."""

    def __init__(self, split: Split, seed: int):
        self.split = split
        # A string seeds by its SHA-512, the same on every machine and in every process.
        self.random = random.Random(f"phrasebook {split} {seed}").random

    def pick(self, items: Sequence[T]) -> T:
        """Draws one of some things."""
        return items[int(self.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """Returns whether something happens that has this probability."""
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
        """Draws the adjectives before a noun, mostly none."""
        options = ADJECTIVES_OF[noun.english]
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
            owner = self.pick(PEOPLE_NAMES) if self.chance(0.4) else NounPhrase(self.pick(_PEOPLE), "the", False)
            if noun not in _PEOPLE:
                return NounPhrase(noun, "", plural, described, owner)
            determiner = "the"
        return NounPhrase(noun, determiner, plural, described)

    def prepositional(
        self, english: str, german: str, case: int, noun: Noun, adjectives: float = 0.3
    ) -> PrepositionalPhrase:
        """Draws a prepositional phrase around the noun, in the singular."""
        if noun.english in PLACES and "room" not in noun.kinds and noun.english not in _OWNED_PLACES:
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
            (english, german), _ = PLACES[noun.english]
            return self.prepositional(english, german, DATIVE, noun)
        if kind in ("direction", "destination"):
            if self.chance(0.08):
                return PrepositionalPhrase("home", "nach Hause", "home")
            noun = self.pick(_GOING if kind == "direction" else _DESTINATIONS)
            _, (english, german) = PLACES[noun.english]
            return self.prepositional(english, german, DATIVE if german == "zu" else ACCUSATIVE, noun)
        if kind == "origin":
            if self.chance(0.3):
                city = self.pick(CITIES)
                return PrepositionalPhrase("from " + city.english, "aus " + city.german, city.english)
            noun = self.pick(_GOING)
            (_, german), _ = PLACES[noun.english]
            return self.prepositional("from", "aus" if german == "in" else "von", DATIVE, noun)
        if kind in ("journey", "city"):
            city = self.pick(CITIES)
            english, german = ("to ", "nach ") if kind == "journey" else ("in ", "in ")
            return PrepositionalPhrase(english + city.english, german + city.german, city.english)
        english, german, case, nouns = self.pick(_SETTINGS[kind])
        return self.prepositional(english, german, case, self.pick(nouns))

    # Clauses

    def subject(self, verb: Verb) -> Noun | Pronoun | Name:
        """Draws who does what a verb says."""
        if verb.people:
            point = self.random()
            if point < 0.18:
                return self.pick(PRONOUNS)
            if point < 0.26:
                return self.pick(PEOPLE_NAMES)
        return self.pick(verb.subjects)

    def dress(self, drawn: Noun | Pronoun | Name, *, role: str, **style) -> Nominal:
        """Makes a phrase of what was drawn."""
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
                return self.pick(PEOPLE_NAMES)

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
                kinds = [kind for kind in verb.places if kind in NEEDED or "bound" in verb.marks or self.chance(0.8)]
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
            adjective = self.pick(ADJECTIVES)
            noun = self.pick(DESCRIBED[adjective.english])
            third = adjective.english
            if _split_of(f"{noun.english}|be|{third}") == self.split:
                break
        subject = self.noun_phrase(noun, role="definite", adjectives=0.0)
        colors = [color for color in ADJECTIVES_OF[noun.english] if color in _COLORS and adjective not in _COLORS]
        if colors and adjective.english not in _UNCOLORED and self.chance(0.5):
            subject.adjectives = (self.pick(colors),)
        if noun in PORTABLE and self.chance(0.5):
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
        others = [n for n in DESCRIBED[adjective.english] if n is not subject.noun and n.kinds & subject.noun.kinds]
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
            clause.frequency = self.pick(FREQUENCIES)
        elif self.chance(probability):
            clause.time = self.moment(clause, time)
        return clause

    def moment(self, clause: Clause, time: str = "") -> Adverb:
        """Draws a time; what happens once does not happen every day."""
        if not time:
            often = clause.verb is not None and "once" not in clause.verb.marks and not clause.negated
            repeated = often and self.chance(0.5)
            time = "repeated" if repeated else "single"
        return self.pick(TIMES[time])


def _overlap(one: Pronoun, other: Pronoun) -> bool:
    return one is other or {one.lemma, other.lemma} == {"I", "we"}
