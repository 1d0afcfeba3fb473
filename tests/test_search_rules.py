"""Searches under rules, against plain Python that follows the rules' definitions on lists of words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.constraints import FREE, Rules, forbid_sequences
from lmx.decoding import NEVER, SpecialIds, beam_search, greedy_search, power_penalty, sample
from lmx.nn.masks import MASKED
from lmx.sampling import Sampling, choose, row_keys, split
from lmx.search import Search, word_ids
from lmx.text import PretokenizedTokenizer
from lmx.translation_batches import settled

ROWS, V, SIZE, LONGEST, W = 4, 9, 1031, 6, 3
PLAIN = SpecialIds(pad=0, bos=1, eos=2)
STARTS = {"own start": PLAIN, "start is padding": SpecialIds(0, 0, 2), "start is end": SpecialIds(0, 2, 2)}
LOGITS = 2 * np.random.default_rng(11).normal(size=(ROWS, SIZE, V)).astype(np.float32)
LOGITS[:, :, 2] += 1.5  # sentences end
POWERS = [pow(V, place, SIZE) for place in range(LONGEST)]


def logits_of(row: int, words: tuple[int, ...], ids: SpecialIds) -> np.ndarray:
    """Returns the logits behind some words: a row of a table for each hash of them."""
    code = sum(word * power for word, power in zip((ids.bos, *words), POWERS, strict=False))
    return LOGITS[row, code % SIZE].astype(np.float64)


@functools.partial(jax.jit, static_argnames=("ids", "settings", "way", "alpha"))
def searched(forced, *, ids, settings, way, alpha=0.0):
    """Searches with a step that reads the table."""
    rules, rows = Rules(**dict(settings), forced=forced), jnp.arange(ROWS)[:, None]

    def step(tokens, cache, offset, positions, mask, places):
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=offset, axis=1)
        words, held = cache = write(cache[0], tokens), write(cache[1], positions)
        seen = jnp.where(mask[:, 0], (words * jnp.asarray(POWERS)[held])[:, None], 0)
        return jnp.asarray(LOGITS)[rows, seen.sum(-1) % SIZE], cache

    options = {"active": jnp.ones(ROWS, bool), "max_length": LONGEST, "ids": ids, "rules": rules}
    width = W if way == "beam" else 1
    cache = (jnp.zeros((ROWS, width * LONGEST), jnp.int32),) * 2
    if way == "beam":
        return tuple(beam_search(step, cache, beam_size=W, length_penalty=power_penalty(alpha), **options))
    if way == "greedy":
        return greedy_search(step, cache, **options)
    choice, numbers = split(way)
    keys = row_keys(jnp.uint32(way.seed), jnp.stack([jnp.arange(ROWS, dtype=jnp.uint32)] * 3, axis=1))
    draw = lambda logits, time: choose(  # noqa: E731
        logits, jax.vmap(lambda key: jax.random.fold_in(key, time))(keys), choice=choice, numbers=numbers
    )
    return sample(step, cache, draw=draw, **options)


def options_of(row: int, words: tuple[int, ...], ids: SpecialIds, rules: Rules, *, logs: bool) -> dict[int, float]:
    """Returns the words that may follow and their scores; the reference."""
    place, logits = len(words), logits_of(row, words, ids)
    raw = logits - np.log(np.exp(logits).sum())
    scores = (raw if logs else logits).copy()
    said = (ids.bos, *words)
    if place == LONGEST - 1 and rules.forced_eos != "none":
        return {ids.eos: 0.0 if rules.forced_eos == "free" else raw[ids.eos]}
    if rules.forced is not None and place < rules.forced.shape[1] and rules.forced[row, place] != FREE:
        return {int(rules.forced[row, place]): 0.0}
    for word in set(said):
        penalty = rules.repetition_penalty
        scores[word] = scores[word] / penalty if scores[word] > 0 else scores[word] * penalty
    found = {}
    for word in range(V):
        never = word in {ids.pad, ids.bos} - {ids.eos} or word in rules.suppressed
        never |= word == ids.eos and place < rules.min_length
        if (size := rules.no_repeat) is not None:
            sequences = [said[start : start + size] for start in range(len(said) - size + 1)]
            never |= (*said[len(said) - size + 1 :], word) in sequences
        never |= any((*said, word)[-len(each) :] == each for each in rules.sequences)
        if not never:
            found[word] = scores[word]
    if rules.renormalised and logs:
        total = np.log(np.exp(list(found.values())).sum())
        found = {word: score - total for word, score in found.items()}
    return found


def plain_beam(row: int, ids: SpecialIds, rules: Rules, *, alpha: float) -> list[tuple[float, tuple[int, ...]]]:
    """The search on lists: (score, words), best first."""
    beams, ended = [(0.0, ())], []
    for turn in range(1, LONGEST + 1):
        options = [
            (total + score, (*words, word))
            for total, words in beams
            for word, score in options_of(row, words, ids, rules, logs=True).items()
        ]
        options = sorted(options, reverse=True)[: 2 * W]
        ends = lambda words: words[-1] == ids.eos or (turn == LONGEST)  # noqa: B023, E731
        ended += [(total / turn**alpha, words) for total, words in options[:W] if ends(words)]
        beams = [item for item in options if not ends(item[1])][:W]
        ended = sorted(ended, reverse=True)
        if len(ended) >= W:
            lengths = {"true": [], "false": [turn], "never": [turn, LONGEST]}[rules.early_stopping]
            if not beams or all(beams[0][0] / length**alpha <= ended[W - 1][0] for length in lengths):
                break
    return ended[:W]


def trimmed(tokens: np.ndarray, ids: SpecialIds) -> tuple[int, ...]:
    words = tuple(tokens.tolist())
    return words[: words.index(ids.eos) + 1] if ids.eos in words else words


def found_by(way, ids: SpecialIds, rules: Rules, *, alpha: float = 0.0):
    settings = rules._asdict()
    forced = settings.pop("forced")
    forced = None if forced is None else jnp.asarray(forced)
    found = searched(forced, ids=ids, settings=tuple(sorted(settings.items())), way=way, alpha=alpha)
    return jax.tree.map(np.asarray, found)


FORCED = np.array([[5, 4, FREE], [FREE, FREE, FREE], [3, 3, 3], [8, FREE, FREE]])
RULES = {
    "none": {},
    "early stopping false": {"early_stopping": "false"},
    "early stopping never": {"early_stopping": "never"},
    "a free end": {"forced_eos": "free", "min_length": 5},
    "no forced end": {"forced_eos": "none", "min_length": 4},
    "suppressed": {"suppressed": (4, 7)},
    "sequences": {"sequences": ((1, 2), (2, 2), (0, 2), (3, 4, 5), (6, 7), (8, 3), (1, 5)), "min_length": 3},
    "renormalised": {"renormalised": True, "min_length": 4, "forced_eos": "free", "early_stopping": "false"},
    "renormalised under rules": {"renormalised": True, "suppressed": (4, 7), "min_length": 3, "forced_eos": "none"},
    "no word twice": {"no_repeat": 1, "min_length": 4},
    "no pair twice": {"no_repeat": 2, "min_length": 5, "suppressed": (3, 4, 5, 6)},
    "repetition penalty": {"repetition_penalty": 2.5},
    "repetition bonus": {"repetition_penalty": 0.4},
    "forced": {"forced": FORCED},
    "forced against all else": {"forced": FORCED, "suppressed": (3,), "no_repeat": 1, "repetition_penalty": 1.5},
}


def check_beam(rules: Rules, ids: SpecialIds, *, alpha: float) -> None:
    tokens, scores = found_by("beam", ids, rules, alpha=alpha)
    for row in range(ROWS):
        expected = plain_beam(row, ids, rules, alpha=alpha)
        assert expected
        assert [trimmed(each, ids) for each in tokens[row, : len(expected)]] == [words for _, words in expected]
        np.testing.assert_allclose(scores[row, : len(expected)], [score for score, _ in expected], rtol=1e-4, atol=1e-5)
        assert (scores[row, len(expected) :] <= NEVER / 2).all()


@pytest.mark.parametrize("name", RULES)
def test_beam_search_follows_each_rule(name):
    starts = list(STARTS.values())
    check_beam(Rules(**RULES[name]), starts[list(RULES).index(name) % 3], alpha=1.0)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("rules", [{}, {"no_repeat": 3, "min_length": 0}], ids=["plain", "constrained"])
def test_the_start_may_be_padding_or_the_end(start, rules):
    check_beam(Rules(**rules), STARTS[start], alpha=0.5)


def test_each_rule_makes_a_difference():
    found = {name: [plain_beam(row, PLAIN, Rules(**RULES[name]), alpha=1.0) for row in range(ROWS)] for name in RULES}
    same = [name for name in RULES if name != "none" and found[name] == found["none"]]
    assert not same
    assert found["early stopping false"] != found["early stopping never"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("suppressed", "start is end"),
        ("no pair twice", "own start"),
        ("sequences", "own start"),
        ("repetition penalty", "start is end"),
        ("forced", "start is padding"),
        ("no forced end", "own start"),
    ],
)
def test_greedy_search_follows_each_rule(name, start):
    rules, ids = Rules(**RULES[name]), STARTS[start]
    tokens = found_by("greedy", ids, rules)
    for row in range(ROWS):
        words: tuple[int, ...] = ()
        while len(words) < LONGEST and (not words or words[-1] != ids.eos):
            options = options_of(row, words, ids, rules, logs=False)
            words = (*words, max(options, key=options.__getitem__, default=ids.eos))
        assert trimmed(tokens[row], ids) == words


def test_the_rules_of_who_asks_for_none_are_fairseqs():
    assert Rules() == (1, "true", "scored", (), (), False, None, 1.0, None)
    assert not Rules(min_length=3, early_stopping="never", forced_eos="none", renormalised=True).has_constraints


def test_a_sequence_is_not_begun_by_what_was_not_yet_said():
    # Behind the words that count stands anything: here the second word of a sequence that the start token begins.
    said, scores = jnp.asarray([[1, 4, 0], [1, 5, 0]]), jnp.zeros((2, 7))
    found = [
        np.asarray(forbid_sequences(scores, said, jnp.asarray(length), sequences=jnp.asarray([[1, 4, 6], [9, 5, 6]])))
        for length in (1, 2)
    ]
    assert not found[0].any()
    assert np.argwhere(found[1]).tolist() == [[0, 6]]
    assert found[1][0, 6] == MASKED


SETTLING = [{"early_stopping": "true", "forced_eos": "scored"}, {"early_stopping": "true", "forced_eos": "none"}] + [
    {"early_stopping": "false", "forced_eos": forced} for forced in ("free", "none")
]


@pytest.mark.parametrize("settings", SETTLING)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_a_search_that_ends_early_finds_the_same_under_a_longer_bound(settings, alpha, monkeypatch):
    assert Search(**settings).settles()
    random, counts = np.random.default_rng(5), {True: 0, False: 0}
    monkeypatch.setitem(globals(), "POWERS", [pow(V, place, SIZE) for place in range(9)])
    for _ in range(24):
        logits = 2 * random.normal(size=LOGITS.shape)
        logits[:, :, 2] += random.uniform(0, 4)
        monkeypatch.setitem(globals(), "LOGITS", logits)
        for row in range(ROWS):
            found = []
            for longest in (5, 8):
                monkeypatch.setitem(globals(), "LONGEST", longest)
                found.append(plain_beam(row, PLAIN, Rules(**settings), alpha=alpha))
            short = [[*words, *[0] * (5 - len(words))] for _, words in found[0]]
            scores = np.array([score for score, _ in found[0]] + [NEVER] * (W - len(short)))
            tokens = np.array(short + [[0] * 5] * (W - len(short)))
            is_settled = settled(tokens, scores, end=PLAIN.eos)
            counts[is_settled] += 1
            assert not is_settled or found[0] == found[1]
    assert min(counts.values()) >= 5


@pytest.mark.parametrize("renormalised", [False, True])
def test_a_search_without_any_word_left_ends(renormalised):
    """Every word is suppressed: greedy search writes the end, and no beam ends."""
    rules = Rules(suppressed=tuple(range(3, V)), renormalised=renormalised)
    assert (found_by("greedy", PLAIN, rules)[:, 0] == PLAIN.eos).all()
    assert (found_by("beam", PLAIN, rules)[1] <= NEVER / 2).all()


def test_draws_are_by_their_keys_and_have_the_log_probability_of_the_model():
    """Of a free end too, and of one that must not come early."""
    seen, at_the_end = set(), 0
    for seed, more in ((1, {}), (2, {"forced_eos": "free", "min_length": 4})):
        rules = Rules(suppressed=(4,), forced=FORCED, **more)
        sampling = Sampling(temperature=1.5, top_k=4, seed=seed)
        tokens, totals = found_by(sampling, PLAIN, rules)
        again, _ = found_by(sampling, PLAIN, rules)
        np.testing.assert_array_equal(tokens, again)
        for row in range(ROWS):
            words, total = trimmed(tokens[row], PLAIN), 0.0
            for place, word in enumerate(words):
                allowed = options_of(row, words[:place], PLAIN, rules, logs=True)
                best = sorted(allowed, key=allowed.__getitem__)[-4:]
                assert word in best
                logits = logits_of(row, words[:place], PLAIN)
                is_forced = place < 3 and FORCED[row, place] != FREE
                if rules.forced_eos == "free" and place == LONGEST - 1:
                    is_forced, at_the_end = True, at_the_end + 1
                total += 0.0 if is_forced else logits[word] - np.log(np.exp(logits).sum())
            np.testing.assert_allclose(totals[row], total, rtol=1e-4)
            seen.add((row, words))
    assert len(seen) > ROWS
    assert at_the_end


def test_drawing_among_the_likeliest_one_is_greedy():
    greedy = found_by("greedy", PLAIN, Rules())
    np.testing.assert_array_equal(found_by(Sampling(temperature=2.0, top_k=1), PLAIN, Rules())[0], greedy)


def test_what_is_not_asked_for_is_not_traced(monkeypatch):
    monkeypatch.setattr("lmx.decoding.constrain", None)
    for way in ("beam", "greedy"):
        settings = {**Rules(min_length=2)._asdict()}
        settings.pop("forced")
        jax.make_jaxpr(
            lambda way=way, settings=settings: searched.__wrapped__(
                None, ids=PLAIN, settings=tuple(settings.items()), way=way
            )
        )()


# What a search may be asked.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": float("inf")}, r"^alpha must be finite, got alpha=inf\.$"),
        ({"max_ratio": float("inf")}, r"^max_ratio and max_extra must be at least 0, .* got max_ratio=inf and max_ex"),
        ({"max_extra": -1}, r"^max_ratio and max_extra must be at least 0, .* and max_extra=-1\.$"),
        ({"suppress": (True,)}, r"^suppress must be pieces or ids, got suppress=True\.$"),
        ({"begin_suppress": (3, True)}, r"^begin_suppress must be pieces or ids, got begin_suppress=True\.$"),
        ({"forced_bos": False}, r"^forced_bos must be pieces or ids, got forced_bos=False\.$"),
        ({"temperature": 0.5}, r"^beam_size must be 1 where words are drawn, got beam_size=5 and temperature=0\.5\.$"),
        ({"top_p": 0.5}, r"^top_p must come with a temperature over 0, got top_p=0\.5\.$"),
        ({"no_repeat": 0}, r"^no_repeat must be at least 1, got no_repeat=0\.$"),
    ],
)
def test_a_search_that_cannot_be_is_told(fields, message):
    with pytest.raises(ValueError, match=message):
        Search(**fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"early_stopping": "false"}, False),
        ({"early_stopping": "false", "forced_eos": "free"}, True),
        ({"early_stopping": "never", "forced_eos": "free"}, False),
        ({"early_stopping": "never", "beam_size": 1}, True),
        ({"beam_size": 1, "temperature": 0.5}, False),
    ],
)
def test_what_settles_under_any_bound(fields, expected):
    assert Search(**fields).settles() == expected


def test_a_translation_has_room_by_the_length_of_its_source():
    search = Search(max_ratio=2.5, max_extra=3)
    assert [search.most_tokens(length) for length in (0, 1, 8)] == [3, 5, 23]
    assert [search.most_tokens(length, is_short=True) for length in (0, 8, 100)] == [3, 23, 166]  # of 1.5 x L + 16
    assert Search(max_ratio=0.1, max_extra=0).most_tokens(8) == 1


def test_as_many_translations_as_beams_or_draws_can_be_asked():
    Search(beam_size=3).check_n_best(3)
    Search(beam_size=1, temperature=0.5).check_n_best(9)
    for number, message in ((0, "n_best must be at least 1, got n_best=0"), (4, "at most beam_size=3, got n_best=4")):
        with pytest.raises(ValueError, match=message):
            Search(beam_size=3).check_n_best(number)


def test_a_search_says_what_is_unusual_about_it():
    assert str(Search()) == "beam 5, power length penalty 1"
    assert str(Search(beam_size=1, min_length=3)) == "greedy, min length 3"
    said = str(Search(alpha=0.5, suppress=(3, "a"), suppress_sequences=("a b", "c d"), no_repeat=3, renormalised=True))
    assert (
        said == "beam 5, power length penalty 0.5, suppress 3 a, suppress sequences a b, c d, no repeat 3, renormalised"
    )
    assert str(Search(beam_size=1, temperature=0.5, top_k=4)) == "temperature 0.5, top-k 4, seed 1"


def test_words_are_pieces_or_ids_of_the_vocabulary():
    words = PretokenizedTokenizer(["3", "green"])
    assert word_ids(("green", 3, "3", 0, words.vocab_size - 1), words, name="suppress") == (5, 3, 4, 0, 5)
    for wrong in (-1, words.vocab_size):
        with pytest.raises(ValueError, match=rf"^suppress must be ids from 0 to 5, got suppress={wrong}\.$"):
            word_ids((wrong,), words, name="suppress")
    with pytest.raises(ValueError, match=r"got suppress=gren\. Nearest: green\.$"):
        word_ids(("gren",), words, name="suppress")
