"""The grammar of the phrasebook: how English and German words are inflected and put in order.

Here live the forms of nouns, adjectives and verbs, noun phrases, and the clause with its two writers. The words
themselves are in `lmx.data.phrasebook_words`; what is said with them is drawn in `lmx.data.phrasebook`.

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
_FUSED = {
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
_HABEN = ("habe", "hast", "hat", "haben")
_SEIN = ("bin", "bist", "ist", "sind")


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


# ---------------------------------------------------------------------------------------------------------------------
# Clauses


@dataclass(slots=True, eq=False)
class PrepositionalPhrase:
    """A prepositional phrase, already in its case."""

    english: str
    german: str
    lemma: str


SOMEWHERE = (
    PrepositionalPhrase("at home", "zu Hause", "home"),
    PrepositionalPhrase("here", "hier", "here"),
    PrepositionalPhrase("there", "dort", "there"),
    PrepositionalPhrase("outside", "draußen", "outside"),
)


@dataclass(slots=True, eq=False)
class Clause:
    """What a clause says; `english` and `german` put it in order.

    `tense` is "present", "past" (simple past), "perfect" (present perfect) or "modal". `late` stands where `nicht`
    stands.
    """

    subject: Nominal
    verb: Verb | None  # None is to be
    tense: str = "present"
    modal: Modal | None = None
    negated: bool = False
    accusative: Nominal | None = None
    dative: Nominal | None = None
    complement: PrepositionalPhrase | None = None
    time: Adverb | None = None
    frequency: Adverb | None = None
    late: Adverb | None = None
    manner: Adverb | None = None
    place: PrepositionalPhrase | None = None
    companion: PrepositionalPhrase | None = None
    predicate: tuple[str, str] | None = None
    combination: str = ""


def _english_verb(clause: Clause, support: bool) -> tuple[str, str]:
    """Returns the auxiliary (with not, if negated) and the rest of the verb; questions want the `support` of do."""
    person, verb, negation = clause.subject.person, clause.verb, " not" if clause.negated else ""
    third = person == THIRD
    if verb is None:
        form = ("am", "are", "is", "are")[person]
        if clause.tense == "past":
            form = ("was", "were", "was", "were")[person]
        return form + negation, ""
    base = verb.english[0]
    if clause.tense == "modal":
        modal = clause.modal
        assert modal is not None
        if not modal.lexical:
            first, _, rest = modal.english.partition(" ")
            rest = f"{rest} {base}".strip()
            return modal.negative_english if clause.negated else first, rest
        if support or clause.negated:
            return ("does" if third else "do") + negation, f"{modal.english} {base}"
        first, rest = modal.english.split(" ")
        first = {"have": "has", "want": "wants"}[first] if third else first
        return "", f"{first} {rest} {base}"
    if clause.tense == "perfect":
        return ("has" if third else "have") + negation, verb.english[3]
    if clause.tense == "past":
        return ("did" + negation, base) if support or clause.negated else ("", verb.english[2])
    if support or clause.negated:
        return ("does" if third else "do") + negation, base
    return "", verb.english[1] if third else base


def _english_rest(clause: Clause, main: str) -> list[str]:
    """Returns everything from the main verb on: complements, then manner, place and time."""
    parts = [main] if main else []
    verb = clause.verb
    accusative = clause.accusative.english(True) if clause.accusative else ""
    dative = clause.dative.english(True) if clause.dative else ""
    if verb is not None:
        if verb.receiver_behind:
            parts += [accusative, verb.particle, dative]
        elif verb.movable and clause.accusative is not None and clause.accusative.is_pronoun:
            parts += [accusative, verb.particle]
        else:
            parts += [verb.particle, dative, accusative]
    if clause.predicate is not None:
        parts.append(clause.predicate[0])
    for item in (clause.complement, clause.manner, clause.place, clause.companion, clause.time):
        if item is not None:
            parts.append(item.english)
    return [part for part in parts if part]


def write_english(clause: Clause, order: str = "statement", front: str = "") -> str:
    """Returns the English words: `order` is "statement" or "question", `front` is put first."""
    auxiliary, main = _english_verb(clause, order == "question")
    adverb = clause.frequency or clause.late
    adverbs = [adverb.english] if adverb is not None and adverb.english != "yet" else []
    subject = clause.subject.english()
    tail = _english_rest(clause, main)
    if adverb is not None and adverb.english == "yet":
        tail.append("yet")
    head = [auxiliary, subject] if order == "question" else [subject, auxiliary]
    return " ".join(part for part in [front, *head, *adverbs, *tail] if part)


def write_german(clause: Clause, order: str = "statement", front: str = "") -> str:
    """Returns the German words: `order` is "statement" (verb second), "question" (`front`, verb, subject), "final"."""
    verb, person = clause.verb, clause.subject.person
    if verb is None:
        finite, right = (("war", "warst", "war", "waren") if clause.tense == "past" else _SEIN)[person], ""
    elif clause.tense == "modal":
        modal = clause.modal
        assert modal is not None
        forms = modal.negative_german if clause.negated and modal.negative_german else modal.german
        finite, right = forms[person], verb.prefix + verb.infinitive
    elif clause.tense == "present":
        finite, right = verb.present[person], verb.prefix
    else:
        finite, right = (_SEIN if verb.sein else _HABEN)[person], verb.participle
    middle = _middle_field(clause)
    subject = clause.subject.german(NOMINATIVE)
    if order == "final":
        joined = right + finite if verb is not None and clause.tense == "present" else f"{right} {finite}".strip()
        parts = [front, subject, *middle, joined]
    elif order == "question":
        parts = [front, finite, subject, *middle, right]
    else:
        parts = [subject, finite, *middle, right]
    return " ".join(part for part in parts if part)


def _middle_field(clause: Clause) -> list[str]:
    """Returns what stands between the verb's two brackets, without the subject.

    Pronouns, dative, time, definite accusative, nicht, indefinite accusative, manner, prepositional object, place;
    some places stand before the accusative. A negated indefinite accusative takes kein instead of nicht.
    """
    accusative, dative = clause.accusative, clause.dative
    parts: list[str] = []
    if accusative is not None and accusative.is_pronoun:
        parts.append(accusative.german(ACCUSATIVE))
    if dative is not None:
        parts.append(dative.german(DATIVE))
    for adverb in (clause.time, clause.frequency):
        if adverb is not None:
            parts.append(adverb.german)
    settings = [phrase.german for phrase in (clause.companion, clause.place) if phrase is not None]
    if _setting_goes_first(clause):
        parts += settings
        settings = []
    late = [clause.late.german] if clause.late is not None else []
    if accusative is not None and not accusative.is_pronoun and accusative.indefinite:
        parts += [*late, accusative.german(ACCUSATIVE, clause.negated)]
    else:
        if accusative is not None and not accusative.is_pronoun:
            parts.append(accusative.german(ACCUSATIVE))
        parts += [*late, *(["nicht"] if clause.negated else [])]
    if clause.manner is not None:
        parts.append(clause.manner.german)
    if clause.complement is not None:
        parts.append(clause.complement.german)
    parts += settings
    if clause.predicate is not None:
        parts.append(clause.predicate[1])
    return parts


def _setting_goes_first(clause: Clause) -> bool:
    """Whether the place stands before the object: what is new comes late, and hier, dort and the like come early.

    Where something is put (with the accusative) belongs to the verb and stays at the end.
    """
    item = clause.accusative
    if item is None or clause.verb is None or "surface" in clause.verb.marks:
        return False
    return clause.place in SOMEWHERE or (isinstance(item, NounPhrase) and item.vague)


def around(english: str, german: str, case: int, inner: Nominal) -> PrepositionalPhrase:
    """Returns preposition and noun phrase; German fuses some prepositions with the definite article."""
    text = f"{german} {inner.german(case)}"
    if isinstance(inner, NounPhrase) and inner.determiner == "the":
        first, article, rest = text.split(" ", 2)
        text = f"{_FUSED.get(f'{first} {article}', f'{first} {article}')} {rest}"
    return PrepositionalPhrase(f"{english} {inner.english(True)}".strip(), text, inner.lemma)
