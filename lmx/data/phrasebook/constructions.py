"""The constructions that the phrasebook shows, each a function that writes a sentence pair."""

from collections.abc import Callable

from lmx.data.phrasebook.clauses import Clause, write_english, write_german
from lmx.data.phrasebook.grammar import ACCUSATIVE, DATIVE, MODALS, NUMERALS, WHO, Adverb, NounPhrase
from lmx.data.phrasebook.lexicon import (
    DATIVE_VERBS,
    DITRANSITIVE,
    INTRANSITIVE,
    LATE_FREQUENCIES,
    MOTION,
    PREPOSITIONAL,
    PUTTING,
    SEPARABLE,
    SEPARABLE_INTRANSITIVE,
    TIMES,
    TRANSITIVE_VERBS,
)
from lmx.data.phrasebook.writer import Writer

# ---------------------------------------------------------------------------------------------------------------------
# Constructions

_Sentence = tuple[str, str, tuple[str, ...]]  # English, German, combinations
_ACTIVE = tuple(verb for verb in TRANSITIVE_VERBS if not {"state", "mishap"} & verb.marks)
TENSED = tuple(verb for verb in (*TRANSITIVE_VERBS, *SEPARABLE) if "noperfect" not in verb.marks)
_RECEIVING = tuple(verb for verb in DATIVE_VERBS if "noperfect" not in verb.marks)
MOVED = tuple(v for v in (*INTRANSITIVE, *MOTION, *SEPARABLE_INTRANSITIVE) if "noperfect" not in v.marks)
_BY_PEOPLE = tuple(verb for verb in TENSED if verb.people)
_ACTIVE_RECEIVING = tuple(verb for verb in _RECEIVING if "state" not in verb.marks)


def _sentence(clause: Clause) -> _Sentence:
    return write_english(clause) + ".", write_german(clause) + ".", (clause.combination,)


def _fronted(clause: Clause, time: Adverb) -> _Sentence:
    english = write_english(clause, front=time.english)
    return english + ".", write_german(clause, "question", front=time.german) + ".", (clause.combination,)


def _statement(write: Writer) -> _Sentence:
    """Verb second, with the time behind or in front: Today the woman buys a coat."""
    verbs = write.weighted(((0.75, TRANSITIVE_VERBS), (0.25, INTRANSITIVE)))
    if write.chance(0.45):
        clause = write.clause(verbs, inverted=True)
        verb = clause.verb
        assert verb is not None
        if "state" not in verb.marks or "place" in verb.marks:
            return _fronted(write.adorn(clause, probability=0.0, frequency=0.0), write.moment(clause))
    else:
        clause = write.clause(verbs)
    return _sentence(write.adorn(clause))


def _adjective(write: Writer) -> _Sentence:
    """Endings after each kind of determiner, and adjectives with to be."""
    if write.chance(0.3):
        return _sentence(write.predication())
    return _sentence(write.adorn(write.clause(TRANSITIVE_VERBS, described=0.9, two=True), probability=0.2))


def _dative(write: Writer) -> _Sentence:
    verbs = write.weighted(((0.45, DATIVE_VERBS), (0.55, DITRANSITIVE)))
    return _sentence(write.adorn(write.clause(verbs)))


def _preposition(write: Writer) -> _Sentence:
    """Prepositions with their cases: rest in the dative, direction in the accusative, and those that verbs ask for."""
    point = write.random()
    if point < 0.3:
        clause = write.clause(PREPOSITIONAL)
    elif point < 0.5:
        clause = write.clause(MOTION)
        if write.chance(0.35):
            clause.companion = write.company(clause)
    elif point < 0.65:
        clause = write.clause(PUTTING)
    else:
        clause = write.clause(_PLACED)
    return _sentence(write.adorn(clause))


def _negation(write: Writer) -> _Sentence:
    """Negation: nicht at its place, or kein before what is indefinite; never and rarely."""
    point = write.random()
    if point < 0.12:
        return _sentence(write.predication(negated=True))
    verbs = write.weighted(
        ((0.55, TRANSITIVE_VERBS), (0.1, SEPARABLE), (0.2, MOVED), (0.15, DATIVE_VERBS + PREPOSITIONAL))
    )
    clause = write.clause(verbs, definite=True)
    assert clause.verb is not None
    if point < 0.27 and "noperfect" not in clause.verb.marks:
        clause.late = write.pick(LATE_FREQUENCIES)
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


def _question(write: Writer) -> _Sentence:
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
        clause = write.clause(TENSED, inverted=True, definite=True)
        while not isinstance(clause.accusative, NounPhrase):
            clause = write.clause(TENSED, inverted=True, definite=True)
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
        verbs = write.weighted(((0.6, TENSED), (0.2, MOVED), (0.2, _RECEIVING + PREPOSITIONAL + DITRANSITIVE)))
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


def _tense(write: Writer, clause: Clause, present: float, *, place: bool = True) -> None:
    """Puts the clause into the present, the past or under a modal, each with a time that suits."""
    verb = clause.verb
    assert verb is not None
    if write.chance(present) or "noperfect" in verb.marks:
        write.adorn(clause, frequency=0.0, place=place)
    elif write.chance(0.5) or {"state", "mishap"} & verb.marks:
        clause.tense = "past"
        write.adorn(clause, frequency=0.0, probability=0.0, manner=not verb.objects, place=place)
        clause.time = write.pick(TIMES["past"])
    else:
        clause.tense, clause.modal = "modal", write.pick(MODALS)
        write.adorn(clause, time="future", frequency=0.0, place=place)


def _modal(write: Writer) -> _Sentence:
    """A modal or the future, with the infinitive at the end."""
    verbs = write.weighted(
        ((0.5, _ACTIVE), (0.15, SEPARABLE), (0.2, MOVED), (0.15, _ACTIVE_RECEIVING + DITRANSITIVE + PREPOSITIONAL))
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


def _perfect(write: Writer) -> _Sentence:
    """The Perfekt with haben or sein: of the simple past with a time, or of the present perfect."""
    verbs = write.weighted(((0.4, TENSED), (0.35, MOVED), (0.25, _RECEIVING + DITRANSITIVE + PREPOSITIONAL + PUTTING)))
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
            return _fronted(clause, write.pick(TIMES["past"]))
        clause.time = write.pick(TIMES["past"])
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


def _separable(write: Writer) -> _Sentence:
    """Verbs that leave their prefix at the end: The man turns off the lamp."""
    verbs = write.weighted(((0.75, SEPARABLE), (0.25, SEPARABLE_INTRANSITIVE)))
    fronted = write.chance(0.3)
    clause = write.clause(verbs, inverted=fronted)
    if fronted:
        return _fronted(write.adorn(clause, probability=0.0, frequency=0.0), write.moment(clause))
    return _sentence(write.adorn(clause, probability=0.6))


def _subordinate(write: Writer) -> _Sentence:
    """A clause with its verb at the end, behind or in front of the main clause."""
    verbs = write.weighted(
        ((0.5, TRANSITIVE_VERBS), (0.15, SEPARABLE), (0.15, MOVED), (0.2, DATIVE_VERBS + PREPOSITIONAL + DITRANSITIVE))
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
            clause.tense, clause.time = "past", write.pick(TIMES["past"])
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
    english, german = write.pick(CONJUNCTIONS if timed else CONJUNCTIONS[:2])
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
_PLACED = tuple(verb for verb in INTRANSITIVE if verb.places)
_OF_PEOPLE = tuple(
    v for v in TENSED if v.objects and all("person" in n.kinds for n in v.objects) and len(v.objects) > 9
)
_DATIVE_OF_PEOPLE = tuple(v for v in _RECEIVING if not v.particle or v.particle == "to")
_OF_THINGS = tuple(
    v
    for v in TENSED
    if not any({"person", "animal"} & n.kinds for n in v.objects) and len(v.objects) > 5 and not v.movable
)
_WHERE = (
    (tuple(v for v in INTRANSITIVE if "place" in v.places), "where", ("where", "wo")),
    (tuple(v for v in _ACTIVE if "place" in v.marks), "", ("where", "wo")),
    (tuple(v for v in MOTION if v.lemma in ("travel", "fly", "drive", "go", "run")), "where to", ("where", "wohin")),
)
_SHORT = tuple(
    v for v in INTRANSITIVE if v.lemma in ("laugh", "cry", "sing", "dance", "work", "wait", "sleep", "shout", "smile")
)
CONJUNCTIONS = (
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
BUILDERS: dict[str, Callable[[Writer], _Sentence]] = {
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
CONSTRUCTIONS: tuple[str, ...] = tuple(BUILDERS)
