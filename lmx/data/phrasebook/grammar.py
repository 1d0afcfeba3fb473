"""The grammar of the phrasebook: how English and German words are inflected and put in order.

Here live the forms of nouns, adjectives and verbs, noun phrases, and the clause with its two writers. The words
themselves are in `lmx.data.phrasebook.words`; `lmx.data.phrasebook.writer` draws what to say with them.

German order, between the verb's two brackets: pronouns, dative, time, definite accusative, nicht, manner, place. The
finite verb is second in a statement, first in a question, last in a subordinate clause; prefix, infinitive or
participle close.
"""

from dataclasses import dataclass

# Indices into tables of forms.
NOMINATIVE, ACCUSATIVE, DATIVE, GENITIVE = range(4)
MASCULINE, FEMININE, NEUTER, PLURAL = range(4)
# The persons that the phrasebook uses: ich, du, er/sie/es, wir and sie (plural), which share their verb forms.
FIRST, SECOND, THIRD, MANY = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Noun:
    """A noun's forms: German ones by case, English plural None for what is not counted. `kinds` say what it is."""

    english: str
    english_plural: str | None
    gender: int
    kinds: frozenset[str]
    singular: tuple[str, str, str, str]
    plural: tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Adjective:
    """An adjective, the stem that takes endings, its comparatives (English, German), and the nouns it suits."""

    english: str
    german: str
    stem: str
    comparative: tuple[str, str] | None
    nouns: frozenset[str]


@dataclass(frozen=True, slots=True)
class Adverb:
    """An adverb or an adverbial phrase."""

    english: str
    german: str


@dataclass(frozen=True, slots=True, eq=False)
class Verb:
    """Forms of a verb and what it governs.

    `english` is (base, third person, past, participle) without `particle`, which is `movable` if pronouns stand
    before it; `present` is (ich, du, er, wir), `prefix` the separable one. `people` tells that anybody can be the
    subject, `objects` are the candidates for the complement, `things` those for a second one in the accusative,
    `receiver_behind` that English says "to" the receiver. `marks`, `places` and `manners` say what else suits it.
    """

    english: tuple[str, str, str, str]
    particle: str
    movable: bool
    prefix: str
    infinitive: str
    present: tuple[str, str, str, str]
    participle: str
    sein: bool
    subjects: tuple[Noun, ...]
    people: bool
    objects: tuple[Noun, ...]
    things: tuple[Noun, ...]
    marks: frozenset[str]
    preposition: str = ""
    governs: int = ACCUSATIVE
    receiver_behind: bool = False
    dative: bool = False
    places: tuple[str, ...] = ()
    manners: tuple[Adverb, ...] = ()

    @property
    def lemma(self) -> str:
        """The English base form with its particle, which names the verb."""
        return f"{self.english[0]} {self.particle}".strip()


# Forms by [case][gender]; the German of each determiner and the endings it leaves to the adjective.
_DER = (
    ("der", "die", "das", "die"),
    ("den", "die", "das", "die"),
    ("dem", "der", "dem", "den"),
    ("des", "der", "des", "der"),
)
_DIESER = (("er", "e", "es", "e"), ("en", "e", "es", "e"), ("em", "er", "em", "en"), ("es", "er", "es", "er"))
_EIN = (("", "e", "", "e"), ("en", "e", "", "e"), ("em", "er", "em", "en"), ("es", "er", "es", "er"))
_WEAK = (("e", "e", "e", "en"), ("en", "e", "e", "en"), ("en",) * 4, ("en",) * 4)
_MIXED = (("er", "e", "es", "en"), ("en", "e", "es", "en"), ("en",) * 4, ("en",) * 4)
_STRONG = (("er", "e", "es", "e"), ("en", "e", "es", "e"), ("em", "er", "em", "en"), ("en", "er", "en", "er"))
# preposition + determiner, fused as German does it.
FUSED = {
    "in dem": "im",
    "an dem": "am",
    "zu dem": "zum",
    "zu der": "zur",
    "von dem": "vom",
    "bei dem": "beim",
    "in das": "ins",
    "an das": "ans",
}
POSSESSIVES = {"my": "mein", "your": "dein", "his": "sein", "her": "ihr", "our": "unser", "their": "ihr"}
_DIESER_WORDS = {
    "this": "dies",
    "every": "jed",
    "which": "welch",
    "all": "all",
    "both": "beid",
    "many": "viel",
    "some": "einig",
}
NUMERALS = {
    "two": "zwei",
    "three": "drei",
    "four": "vier",
    "five": "fünf",
    "six": "sechs",
    "seven": "sieben",
    "eight": "acht",
    "nine": "neun",
    "ten": "zehn",
}
_VAGUE = frozenset(["", "a", "many", "some", *NUMERALS])
HABEN = ("habe", "hast", "hat", "haben")
SEIN = ("bin", "bist", "ist", "sind")


@dataclass(frozen=True, slots=True)
class Modal:
    """A modal: its English, with `to` for those that need do-support, and its German forms, also when negated."""

    english: str
    german: tuple[str, str, str, str]
    negative_english: str = ""
    negative_german: tuple[str, str, str, str] | None = None
    lexical: bool = False


_MUESSEN = ("muss", "musst", "muss", "müssen")
_DUERFEN = ("darf", "darfst", "darf", "dürfen")
MODALS = (
    Modal("can", ("kann", "kannst", "kann", "können"), "cannot"),
    Modal("must", _MUESSEN, "must not", _DUERFEN),
    Modal("have to", _MUESSEN, lexical=True),
    Modal("may", _DUERFEN, "may not"),
    Modal("should", ("sollte", "solltest", "sollte", "sollten"), "should not"),
    Modal("want to", ("will", "willst", "will", "wollen"), lexical=True),
    Modal("would like to", ("möchte", "möchtest", "möchte", "möchten"), "would not"),
    Modal("will", ("werde", "wirst", "wird", "werden"), "will not"),
)
_INSEPARABLE = ("be", "ent", "er", "ge", "ver", "zer", "emp")


def conjugate(infinitive: str, third: str) -> tuple[str, str, str, str]:
    """Returns (ich, du, er, wir) of the present; `third` is `er` or `er/du` where the rule does not hold, else `-`."""
    short = infinitive.endswith(("eln", "ern"))
    stem = infinitive[:-1] if short else infinitive[:-2]
    first = stem[:-2] + "le" if infinitive.endswith("eln") else stem + "e"
    if third != "-":
        er, _, du = third.partition("/")
        if not er.endswith("t"):  # mögen: ich mag, du magst, er mag
            return er, er + "st", er, infinitive
        if not du:
            du = er if er[:-1].endswith(("s", "ß", "z")) else er[:-1] + "st"
        return first, du, er, infinitive
    cluster = stem[-1] in "mn" and stem[-2] not in "aeiouäöülrmn" and (stem[-2] != "h" or stem[-3] == "c")
    if stem.endswith(("t", "d")) or cluster:
        return first, stem + "est", stem + "et", infinitive
    return first, stem + ("t" if stem.endswith(("s", "ß", "z", "x")) else "st"), stem + "t", infinitive


def regular_participle(infinitive: str) -> str:
    """Returns the weak participle: gekauft, but besucht and repariert."""
    third = conjugate(infinitive, "-")[THIRD]
    return third if infinitive.startswith(_INSEPARABLE) or infinitive.endswith("ieren") else "ge" + third


def conjugate_english(forms: str) -> tuple[str, str, str, str]:
    """Returns (base, third person, past, participle) from "base[/past[/participle]]"."""
    base, *rest = forms.split("/")
    if base.endswith("y") and base[-2] not in "aeiou":
        third, regular = base[:-1] + "ies", base[:-1] + "ied"
    else:
        third = base + ("es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
        regular = base + ("d" if base.endswith("e") else "ed")
    past = rest[0] if rest else regular
    return base, third, past, rest[1] if len(rest) > 1 else past


# ---------------------------------------------------------------------------------------------------------------------
# Noun phrases


def with_article(phrase: str) -> str:
    """Returns the phrase after a or an, which go by sound: an honest man, a useful knife."""
    if phrase.startswith(("use", "uni")):
        return "a " + phrase
    vowel = phrase[0] in "aeiouAEIOU" or phrase.startswith(("honest", "hour"))
    return ("an " if vowel else "a ") + phrase


@dataclass(slots=True, eq=False)
class NounPhrase:
    """A determiner, adjectives and a noun.

    `determiner` is English; "" leaves a plural or a mass bare, and an owner (the teacher's, Anna's) stands in its
    place. `tail` is what follows the noun, in English and German: the book on the table.
    """

    noun: Noun
    determiner: str
    plural: bool
    adjectives: tuple[Adjective, ...] = ()
    owner: "NounPhrase | Name | None" = None
    tail: "tuple[str, str]" = ("", "")

    is_pronoun = False

    @property
    def lemma(self) -> str:
        """What names it in a combination."""
        return self.noun.english

    @property
    def person(self) -> int:
        """The person and number that the verb agrees with."""
        return MANY if self.plural else THIRD

    @property
    def indefinite(self) -> bool:
        """Whether negation makes it kein."""
        return self.determiner in ("", "a") and self.owner is None

    @property
    def vague(self) -> bool:
        """Whether German would rather put it behind an adverb of manner."""
        return self.owner is None and self.determiner in _VAGUE

    def english(self, objective: bool = False) -> str:
        """Returns the English words, of an object if `objective`."""
        head = self.noun.english_plural if self.plural else self.noun.english
        head = " ".join([adjective.english for adjective in self.adjectives] + [head or ""])
        if self.owner is not None:
            head = f"{self.owner.english()}'s {head}"
        elif self.determiner == "a":
            head = with_article(head)
        elif self.determiner == "this" and self.plural:
            head = "these " + head
        elif self.determiner:
            head = f"{self.determiner} {head}"
        return head + self.tail[0]

    def german(self, case: int, negated: bool = False) -> str:
        """Returns the German words in the case; `negated` turns an indefinite article into kein."""
        noun, gender = self.noun, PLURAL if self.plural else self.noun.gender
        head = noun.plural[case] if self.plural else noun.singular[case]
        determiner, endings = self._determiner(case, gender, negated)
        parts = [determiner] if determiner else []
        parts += [adjective.stem.removesuffix("e") + endings[case][gender] for adjective in self.adjectives]
        parts.append(head)
        if isinstance(self.owner, NounPhrase):
            parts.append(self.owner.german(GENITIVE))
        return " ".join(parts) + self.tail[1]

    def _determiner(self, case: int, gender: int, negated: bool) -> tuple[str, tuple[tuple[str, ...], ...]]:
        name = self.determiner
        if negated:
            return "kein" + _EIN[case][gender], _MIXED
        if isinstance(self.owner, Name):
            return self.owner.english() + "s", _STRONG
        if self.owner is not None or name == "the":
            return _DER[case][gender], _WEAK
        if name == "":
            return "", _STRONG
        if name == "a":
            return "ein" + _EIN[case][gender], _MIXED
        if name in POSSESSIVES:
            stem, ending = POSSESSIVES[name], _EIN[case][gender]
            return stem + ending, _MIXED
        if name in _DIESER_WORDS:
            weak = name not in ("many", "some")
            return _DIESER_WORDS[name] + _DIESER[case][gender], _WEAK if weak else _STRONG
        return NUMERALS[name], _STRONG


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A first name, the same in both languages."""

    name: str
    person = THIRD
    indefinite = False
    is_pronoun = False

    @property
    def lemma(self) -> str:
        """What names it in a combination."""
        return self.name

    def english(self, objective: bool = False) -> str:
        """Returns the English words, of an object if `objective`."""
        return self.name

    def german(self, case: int, negated: bool = False) -> str:
        """Returns the German words in the case; `negated` turns an indefinite article into kein."""
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Pronoun:
    """A personal pronoun, or who, by its forms: English (subject, object), German by case."""

    forms: tuple[str, str]
    cases: tuple[str, str, str]
    person: int
    lemma: str
    english_person: int = -1
    indefinite = False
    is_pronoun = True

    def english(self, objective: bool = False) -> str:
        """Returns the English words, of an object if `objective`."""
        return self.forms[objective]

    def german(self, case: int, negated: bool = False) -> str:
        """Returns the German words in the case; `negated` turns an indefinite article into kein."""
        return self.cases[case]


PRONOUNS = (
    Pronoun(("I", "me"), ("ich", "mich", "mir"), FIRST, "I"),
    Pronoun(("you", "you"), ("du", "dich", "dir"), SECOND, "you"),
    Pronoun(("he", "him"), ("er", "ihn", "ihm"), THIRD, "he"),
    Pronoun(("she", "her"), ("sie", "sie", "ihr"), THIRD, "she"),
    Pronoun(("we", "us"), ("wir", "uns", "uns"), MANY, "we"),
    Pronoun(("they", "them"), ("sie", "sie", "ihnen"), MANY, "they"),
)
WHO = Pronoun(("who", "who"), ("wer", "wen", "wem"), THIRD, "who")
Nominal = NounPhrase | Name | Pronoun
