"""The phrasebook's tables, read: nouns, adjectives, verbs, adverbs, places, names."""

import functools

from lmx.data.phrasebook import words
from lmx.data.phrasebook.grammar import (
    ACCUSATIVE,
    DATIVE,
    FEMININE,
    Adjective,
    Adverb,
    Name,
    Noun,
    Verb,
    conjugate,
    conjugate_english,
    regular_participle,
)

# ---------------------------------------------------------------------------------------------------------------------
# The tables, read


def entries(table: str, separator: str) -> list[str]:
    """Returns the entries of a table."""
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split(separator) if entry.strip()]


def _plural_english(noun: str) -> str:
    return noun + "s"


def _parse_nouns() -> dict[str, Noun]:
    nouns: dict[str, Noun] = {}
    kinds: list[str] = []
    for entry in entries(words.NOUNS, ";"):
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


NOUNS = _parse_nouns()


@functools.cache
def of_kinds(kinds: str) -> tuple[Noun, ...]:
    """Returns the nouns of any of the kinds, named in one string; an unknown kind is a mistake in the tables."""
    wanted: set[str] = set()
    for kind in kinds.split():
        wanted.update(words.GROUPS.get(kind, kind).split())
    for kind in list(wanted):
        wanted.update(words.GROUPS.get(kind, "").split())
    known = {kind for noun in NOUNS.values() for kind in noun.kinds} | set(words.GROUPS)
    if unknown := sorted(wanted - known):
        raise ValueError(f"a kind must be that of some noun, got {unknown[0]!r} in {kinds!r}.")
    return tuple(noun for noun in NOUNS.values() if noun.kinds & wanted)


def _parse_adjectives() -> tuple[Adjective, ...]:
    adjectives = []
    for line in entries(words.ADJECTIVES, "\n"):
        english, rest = line.split(": ", 1)
        forms, kinds = rest.split(" | ")
        german, *comparative = forms.split()
        german, _, stem = german.partition("/")
        pair = tuple(comparative[0].split("/")) if comparative else None
        never = {kind[1:] for kind in kinds.split() if kind.startswith("!")}
        kinds = " ".join(kind for kind in kinds.split() if not kind.startswith("!"))
        nouns = frozenset(noun.english for noun in of_kinds(kinds)) - never
        adjectives.append(Adjective(english, german, stem or german, pair, nouns))  # type: ignore[arg-type]
    return tuple(adjectives)


def _parse_verbs(table: str, *, dative: bool = False) -> tuple[Verb, ...]:
    verbs = []
    for line in entries(table, "\n"):
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
                of_kinds(subjects),
                bool({"person", "living"} & set(subjects.split())),
                of_kinds(complements[0]) if complements else (),
                of_kinds(complements[1]) if len(complements) > 1 else (),
                frozenset(marks.split()),
                preposition,
                DATIVE if governs == "dat" else ACCUSATIVE,
                len(complements) > 1 and particle == "to",
                dative,
                tuple(kind for kind in marks.split() if kind in _PLACE_KINDS and not complements),
                _COMMON_MANNERS
                if "manner" in marks.split()
                else tuple(MANNERS[m] for m in marks.split() if m in MANNERS)
                + ((MANNERS["for a long time"],) if "long" in marks.split() else ()),
            )
        )
    return tuple(verbs)


def _parse_adverbs(table: str) -> tuple[Adverb, ...]:
    return tuple(Adverb(*entry.split(": ")) for entry in entries(table, ";"))


MANNERS = {adverb.english: adverb for adverb in _parse_adverbs(words.MANNERS)}
_COMMON_MANNERS = tuple(MANNERS[name] for name in ("slowly", "quickly", "quietly", "carefully", "calmly", "secretly"))
_PLACE_KINDS = frozenset([*words.SETTINGS, "place", "city", "direction", "destination", "origin", "journey"])
NEEDED = frozenset(
    ["direction", "destination", "journey", "objects", "seat", "static", "jump"]
)  # lies, sits, goes want a place
ADJECTIVES = _parse_adjectives()
ADJECTIVES_OF = {name: tuple(a for a in ADJECTIVES if name in a.nouns) for name in NOUNS}
DESCRIBED = {a.english: tuple(NOUNS[name] for name in NOUNS if name in a.nouns) for a in ADJECTIVES}
TRANSITIVE_VERBS = _parse_verbs(words.TRANSITIVE)
SEPARABLE = _parse_verbs(words.SEPARABLE)
SEPARABLE_INTRANSITIVE = _parse_verbs(words.SEPARABLE_INTRANSITIVE)
INTRANSITIVE = _parse_verbs(words.INTRANSITIVE)
MOTION = _parse_verbs(words.MOTION)
PUTTING = _parse_verbs(words.PUTTING)
DATIVE_VERBS = _parse_verbs(words.DATIVE, dative=True)
DITRANSITIVE = _parse_verbs(words.DITRANSITIVE)
PREPOSITIONAL = _parse_verbs(words.PREPOSITIONAL)
TIMES = {name: _parse_adverbs(table) for name, table in words.TIMES.items()}
FREQUENCIES = _parse_adverbs(words.FREQUENCIES)
LATE_FREQUENCIES = _parse_adverbs(words.LATE_FREQUENCIES)
CITIES = _parse_adverbs(words.CITIES)
PLACES = {
    name: (rest.split("|")[0].split(), rest.split("|")[1].split())
    for name, rest in (entry.split(": ") for entry in entries(words.PLACES, ";"))
}
PORTABLE = frozenset(of_kinds("text crockery container tool thing picture"))
PEOPLE_NAMES = tuple(Name(name) for name in entries(words.NAMES, ";"))
