"""Clauses of both languages: where the verb, its particle, the objects and the adverbs stand."""

from dataclasses import dataclass

from lmx.data.phrasebook.grammar import (
    ACCUSATIVE,
    DATIVE,
    FUSED,
    HABEN,
    NOMINATIVE,
    SEIN,
    THIRD,
    Adverb,
    Modal,
    Nominal,
    NounPhrase,
    Verb,
)

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
        finite, right = (("war", "warst", "war", "waren") if clause.tense == "past" else SEIN)[person], ""
    elif clause.tense == "modal":
        modal = clause.modal
        assert modal is not None
        forms = modal.negative_german if clause.negated and modal.negative_german else modal.german
        finite, right = forms[person], verb.prefix + verb.infinitive
    elif clause.tense == "present":
        finite, right = verb.present[person], verb.prefix
    else:
        finite, right = (SEIN if verb.sein else HABEN)[person], verb.participle
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
        text = f"{FUSED.get(f'{first} {article}', f'{first} {article}')} {rest}"
    return PrepositionalPhrase(f"{english} {inner.english(True)}".strip(), text, inner.lemma)
