"""Two kinds of model: small random Transformers, and tables that give the logits of any beginning (`Table`).

A table is small enough to be searched by plain Python, with sentences, without slots, masks or ancestors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.constraints import Rules
from lmx.decoding import NEVER, SpecialIds, beam_search, gnmt_penalty, greedy_search, power_penalty
from lmx.largest import BLOCK, largest
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig

PAD, BOS, EOS = 0, 1, 2
IDS = {"ids": SpecialIds(pad=PAD, bos=BOS, eos=EOS)}
PENALTIES = {"power": power_penalty, "gnmt": gnmt_penalty}


# A model that is a table.


class Table:
    """Logits that depend on the whole beginning of a sentence, and on nothing else: a row for each hash of it."""

    ROWS = 6

    def __init__(self, vocab_size: int = 11, *, size: int = 1031, seed: int, **raised: float):
        """Draws the logits; those of `pad`, `bos` and `eos` can be raised. Size is prime, so that hashes spread."""
        self.vocab_size, self.size = vocab_size, size
        shape = self.ROWS, size, vocab_size
        self.logits = 2 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        for name, amount in raised.items():
            self.logits[:, :, {"pad": PAD, "bos": BOS, "eos": EOS}[name]] += amount
        self.turns = 0

    def log_probabilities(self, row: int, beginning: tuple[int, ...]) -> np.ndarray:
        code = sum(word * self.vocab_size**place for place, word in enumerate((BOS, *beginning)))
        logits = self.logits[row, code % self.size].astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    def words(
        self, row: int, beginning: tuple[int, ...], *, max_length: int, min_length: int = 1
    ) -> list[tuple[float, int]]:
        """Returns what may follow, with its log-probability."""
        log_probabilities = self.log_probabilities(row, beginning)
        words = range(EOS + (len(beginning) < min_length), self.vocab_size)
        last = len(beginning) == max_length - 1
        return [(log_probabilities[word], word) for word in ([EOS] if last else words)]

    def search(self, *, beam_size: int, max_length: int, penalty=("power", 0.0), active=None, **limits: int):
        """Runs `beam_search`, and counts its turns in `turns`."""
        # As a table, so that all penalties share one program.
        divisors = PENALTIES[penalty[0]](penalty[1])(jnp.arange(max_length + 1))
        return self._run(active, divisors, beam_size=beam_size, max_length=max_length, **limits)

    def greedy(self, *, max_length: int, active=None, **limits: int) -> np.ndarray:
        """Runs `greedy_search`, and counts its turns in `turns`."""
        return self._run(active, None, beam_size=None, max_length=max_length, **limits)

    def _run(self, active, divisors, **sizes):
        active = np.ones(self.ROWS, bool) if active is None else np.array(active)
        turns.clear()
        found = jax.tree.map(np.asarray, search_table(self.logits, active, divisors, **sizes))
        jax.effects_barrier()
        self.turns = len(turns)
        return found


turns: list = []  # the time of each call of a step


@functools.partial(jax.jit, static_argnames=("beam_size", "max_length", "min_length"))
def search_table(logits, active, divisors, *, beam_size: int | None, max_length: int, min_length: int | None = None):
    """Searches with a step whose cache is the words themselves; the mask alone says which of them it reads."""
    rows, size, vocab_size = logits.shape
    powers = jnp.asarray([pow(vocab_size, place, size) for place in range(max_length)])

    def step(tokens, cache, offset, positions, mask, places):
        assert places.shape == mask.shape[-1:]
        jax.debug.callback(turns.append, positions[0, 0])
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=offset, axis=1)
        words, held = cache = write(cache[0], tokens), write(cache[1], positions)
        seen = jnp.where(mask[:, 0], (words * powers[held])[:, None], 0)
        return logits[jnp.arange(rows)[:, None], seen.sum(-1) % size], cache

    cache = (jnp.zeros((rows, (beam_size or 1) * max_length), jnp.int32),) * 2
    options = IDS if min_length is None else {**IDS, "rules": Rules(min_length=min_length)}
    if beam_size is None:
        return greedy_search(step, cache, active=active, max_length=max_length, **options)
    return beam_search(
        step,
        cache,
        active=active,
        beam_size=beam_size,
        max_length=max_length,
        length_penalty=lambda length: divisors[length],
        **options,
    )


def trimmed(tokens: np.ndarray) -> tuple[int, ...]:
    """Returns a hypothesis without its padding, which must be behind it."""
    length = int((tokens != PAD).sum())
    assert (tokens[length:] == PAD).all()
    return tuple(tokens[:length].tolist())


def divisor(name: str, alpha: float, length: int) -> float:
    return length**alpha if name == "power" else ((5 + length) / 6) ** alpha


def all_sentences(table: Table, row: int, *, max_length: int) -> list[tuple[float, tuple[int, ...]]]:
    """Returns every sentence there is, with its log-probability."""
    found, beginnings = [], [(0.0, ())]
    for _ in range(max_length):
        longer = [
            (total + log_probability, (*beginning, word))
            for total, beginning in beginnings
            for log_probability, word in table.words(row, beginning, max_length=max_length)
        ]
        found += [item for item in longer if item[1][-1] == EOS]
        beginnings = [item for item in longer if item[1][-1] != EOS]
    return found


def plain_beam(table: Table, row: int, *, beam_size: int, penalty: tuple[str, float], **limits: int):
    """The search as fairseq describes it, on lists of words: (score, sentence) best first, and the turns it took."""
    beams, ended = [(0.0, ())], []
    for turn in range(1, limits["max_length"] + 1):
        options = [
            (total + log_probability, (*beginning, word))
            for total, beginning in beams
            for log_probability, word in table.words(row, beginning, **limits)
        ]
        options = sorted(options, reverse=True)[: 2 * beam_size]
        ended += [(total / divisor(*penalty, turn), s) for total, s in options[:beam_size] if s[-1] == EOS]
        beams = [item for item in options if item[1][-1] != EOS][:beam_size]
        if len(ended) >= beam_size:
            break
    return sorted(ended, reverse=True)[:beam_size], turn


# Searches against searches that are plainly right.


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_wide_beam_is_exhaustive_search(name, alpha):
    max_length, words = 4, 3
    table = Table(EOS + 1 + words, seed=1)
    width = sum(words**length for length in range(1, max_length))  # of all sentences: 3 + 9 + 27
    found = table.search(beam_size=width, max_length=max_length, penalty=(name, alpha))
    for row in range(table.ROWS):
        scored = [(t / divisor(name, alpha, len(s)), s) for t, s in all_sentences(table, row, max_length=max_length)]
        scores, sentences = zip(*sorted(scored, reverse=True), strict=True)
        assert len(sentences) == width
        assert [trimmed(tokens) for tokens in found.tokens[row]] == list(sentences)
        np.testing.assert_allclose(found.scores[row], scores, rtol=1e-5)


def test_length_penalties_disagree_where_they_should():
    # Else the test above could pass with any of them.
    table = Table(6, seed=1)
    best = {
        tuple(
            max((t / divisor(name, alpha, len(s)), s) for t, s in all_sentences(table, row, max_length=4))[1]
            for row in range(table.ROWS)
        )
        for name, alpha in (("power", 0.0), ("power", 0.6), ("power", 1.0), ("gnmt", 1.0))
    }
    assert len(best) >= 3


@pytest.mark.parametrize(
    ("beam_size", "name", "alpha", "eos"), [(2, "power", 0.0, 1.0), (3, "gnmt", 0.6, 2.0), (5, "power", 1.0, 3.0)]
)
def test_a_narrow_beam_is_the_plain_one(beam_size, name, alpha, eos):
    max_length = 7
    table = Table(seed=beam_size, eos=eos)
    found = table.search(beam_size=beam_size, max_length=max_length, penalty=(name, alpha))
    expected_turns = []
    for row in range(table.ROWS):
        expected, turn = plain_beam(table, row, beam_size=beam_size, max_length=max_length, penalty=(name, alpha))
        assert [trimmed(tokens) for tokens in found.tokens[row]] == [sentence for _, sentence in expected]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-5)
        expected_turns.append(turn)
    assert len(set(expected_turns)) > 1  # sentences ended at different times
    assert table.turns == max(expected_turns)


@pytest.mark.parametrize("min_length", [None, 0, 1, 3, 8])
def test_no_translation_ends_before_it_has_its_fewest_words(min_length):
    """Over tables that like to end; without a setting, one word must stand before the end."""
    max_length = 6
    limits = {"max_length": max_length} | ({} if min_length is None else {"min_length": min_length})
    fewest = min(1 if min_length is None else min_length, max_length - 1)
    shortest = set()
    for seed in range(3):
        table = Table(seed=seed, eos=4.0)
        greedy, found = table.greedy(**limits), table.search(beam_size=3, **limits)
        for row in range(table.ROWS):
            expected, _ = plain_beam(table, row, beam_size=3, penalty=("power", 0.0), **limits)
            assert [trimmed(tokens) for tokens in found.tokens[row]] == [sentence for _, sentence in expected]
            np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-5)
            likeliest, _ = plain_beam(table, row, beam_size=1, penalty=("power", 0.0), **limits)
            assert trimmed(greedy[row]) == likeliest[0][1]
            shortest |= {len(trimmed(tokens)) - 1 for tokens in (*found.tokens[row], greedy[row])}
    assert min(shortest) == fewest


@pytest.mark.parametrize("min_length", [0, 1])
def test_beams_without_a_sentence_to_end_do_not_end(min_length):
    """With one word there are as many sentences as lengths; a wider beam has nothing for its other places."""
    table = Table(EOS + 2, seed=4)
    found = table.search(beam_size=6, max_length=3, penalty=("power", 1.0), min_length=min_length)
    sentences = {(EOS + 1,) * length + (EOS,) for length in range(min_length, 3)}
    for row in range(table.ROWS):
        assert {trimmed(tokens) for tokens in found.tokens[row, : len(sentences)]} == sentences
        assert (found.tokens[row, len(sentences) :] == PAD).all()
        assert (found.scores[row, len(sentences) :] <= NEVER).all()


def test_a_large_vocabulary_is_searched_as_a_small_one():
    table = Table(19 * BLOCK, size=61, seed=9, eos=8.0)
    found, greedy = table.search(beam_size=2, max_length=4), table.greedy(max_length=4)
    for row in range(table.ROWS):
        expected, _ = plain_beam(table, row, beam_size=2, max_length=4, penalty=("power", 0.0))
        assert [trimmed(tokens) for tokens in found.tokens[row]] == [sentence for _, sentence in expected]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-5)
        likeliest, _ = plain_beam(table, row, beam_size=1, max_length=4, penalty=("power", 0.0))
        assert trimmed(greedy[row]) == likeliest[0][1]


def test_beam_1_is_greedy():
    max_length = 7
    table = Table(seed=4, eos=1.5)
    greedy = table.greedy(max_length=max_length)
    greedy_turns = table.turns
    found = table.search(beam_size=1, max_length=max_length, penalty=("gnmt", 0.6))
    np.testing.assert_array_equal(found.tokens[:, 0], greedy)
    assert table.turns == greedy_turns
    for row, tokens in enumerate(greedy):
        sentence = trimmed(tokens)
        for place, word in enumerate(sentence):
            assert word == max(table.words(row, sentence[:place], max_length=max_length))[1]
    assert len({len(trimmed(tokens)) for tokens in greedy}) > 2


# Where a search ends.


@functools.partial(jax.jit, static_argnames="beam_size")
def search_ending(times, active, *, beam_size: int | None):
    """Searches where rows end at these times (from 0) in every beam and whatever the words before."""

    def step(tokens, cache, offset, positions, mask, places):
        assert places.shape == mask.shape[-1:]
        jax.debug.callback(turns.append, positions[0, 0])
        vocabulary = jnp.arange(8)
        ends = jnp.where(positions >= times[:, None], 9.0, -9.0)
        return jnp.where(vocabulary == EOS, ends[..., None], 0.1 * vocabulary), cache

    if beam_size is None:
        return greedy_search(step, (), active=active, max_length=9, **IDS)
    penalty = power_penalty(1.0)
    found = beam_search(step, (), active=active, beam_size=2, max_length=9, length_penalty=penalty, **IDS)
    return found.tokens[:, 0]


@pytest.mark.parametrize(
    ("times", "active", "expected"),
    [
        ([1, 1, 1], [True, True, True], 2),
        ([1, 4, 2], [True, True, True], 5),
        ([1, 8, 2], [True, False, True], 3),
        ([3, 99, 2], [True, True, True], 9),
        ([3, 4, 2], [False, False, False], 0),
    ],
)
@pytest.mark.parametrize("beam_size", [None, 2])
def test_a_search_stops_when_the_last_active_sentence_has_ended(times, active, expected, beam_size):
    turns.clear()
    tokens = np.asarray(search_ending(np.array(times), np.array(active), beam_size=beam_size))
    jax.effects_barrier()
    assert len(turns) == expected
    lengths = [min(time + 1, 9) if alive else 0 for time, alive in zip(times, active, strict=True)]
    assert [len(trimmed(row)) for row in tokens] == lengths


@pytest.mark.parametrize("max_length", [1, 7])
def test_the_end_is_forced_at_max_length(max_length):
    table = Table(seed=2, eos=-60.0)
    found = table.search(beam_size=3, max_length=max_length)
    real = found.tokens[found.scores > NEVER / 2]
    assert len(real) == table.ROWS * (1 if max_length == 1 else 3)  # there is one sentence of one token
    for tokens in [*real, *table.greedy(max_length=max_length)]:
        assert tokens[-1] == EOS
        assert (tokens[:-1] > EOS).all()


def test_rows_that_are_not_active_give_only_padding():
    table, active = Table(seed=3, eos=1.0), [True, False, True, True, False, False]
    found = table.search(beam_size=3, max_length=7, active=active)
    everybody = table.search(beam_size=3, max_length=7)
    for row, alive in enumerate(active):
        if alive:
            np.testing.assert_array_equal(found.tokens[row], everybody.tokens[row])
            np.testing.assert_array_equal(found.scores[row], everybody.scores[row])
        else:
            assert (found.tokens[row] == PAD).all()
            assert (found.scores[row] <= NEVER).all()
    greedy = table.greedy(max_length=7, active=active)
    np.testing.assert_array_equal(greedy, np.where(np.array(active)[:, None], table.greedy(max_length=7), PAD))


def test_padding_and_the_start_are_never_words_but_keep_their_probability():
    table = Table(seed=6, pad=12.0, bos=12.0)
    found, greedy = table.search(beam_size=3, max_length=7), table.greedy(max_length=7)
    for tokens in [*found.tokens.reshape(-1, 7), *greedy]:
        assert not {PAD, BOS} & set(trimmed(tokens))
    for row in range(table.ROWS):
        expected, _ = plain_beam(table, row, beam_size=3, max_length=7, penalty=("power", 0.0))
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-5)
        assert found.scores[row, 0] < -8  # the mass of padding and start is not shared out


# Real models.

B, S, T, W, V = 3, 7, 9, 4, 19
# Seed and sharpness are such that translations differ, use many words, and end at different times.
CONFIGS = {
    "post-norm, sinusoidal": {
        "seed": 3,
        "sharpness": 2.0,
        "tied_embeddings": "none",
        "source_vocab_size": 23,
    },
    "pre-norm, rotary, grouped heads": {
        "seed": 3,
        "sharpness": 3.0,
        "tied_embeddings": "target",
        "source_vocab_size": 23,
        "positions": "rotary",
        "norm_position": "pre",
        "norm": "rms",
        "activation": "gated-silu",
        "num_heads": 6,
        "num_kv_heads": 2,
        "use_bias": False,
    },
    "pre-norm, alibi, grouped heads": {
        "seed": 6,
        "sharpness": 3.0,
        "positions": "alibi",
        "norm_position": "pre",
        "num_kv_heads": 2,
    },
    "pre-norm, t5": {"seed": 17, "sharpness": 3.0, "positions": "t5", "norm_position": "pre"},
    "pre-norm, learned, one table": {
        "seed": 0,
        "sharpness": 3.0,
        "positions": "learned",
        "norm_position": "pre",
        "num_kv_heads": 1,
    },
}


class Model:
    """A random model with logits so far apart that rounding decides nothing, and its jitted functions."""

    def __init__(self, *, seed: int, sharpness: float, **settings):
        settings = {"source_vocab_size": V, "num_heads": 4, **settings}
        config = Seq2SeqConfig(
            target_vocab_size=V,
            width=24,
            feedforward_width=20,
            num_encoder_layers=1,
            num_decoder_layers=2,
            max_length=16,
            **settings,
        )
        self.definition, state = nnx.split(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))))
        generator = np.random.default_rng(seed)
        output = "output_embedding" if config.tied_embeddings == "none" else "target_embedding"

        def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            names, normal = jax.tree_util.keystr(path), generator.normal(size=leaf.shape)
            if "weight" in names:
                normal *= sharpness * config.width**-0.5
            elif "table" in names:
                normal *= 1 if leaf.shape[0] == 32 else config.width**-0.5 * (4 if output in names else 1)
            else:  # biases, scales
                normal = 0.1 * normal + ("scale" in names)
            return jnp.asarray(normal, leaf.dtype)

        self.state = jax.tree_util.tree_map_with_path(draw, state)
        # Compiling is most of the time of these tests, so it is done in haste.
        jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        self.beam, self.greedy = jit(self._beam), jit(self._greedy)
        self.log_probabilities = jit(self._log_probabilities)

    def _start(self, state, source, *, beam_size):
        model = nnx.merge(self.definition, state)
        return (*model.start_decoding(source, slots=T * beam_size), (source != PAD).any(-1))

    def _beam(self, state, source):
        step, cache, active = self._start(state, source, beam_size=W)
        return beam_search(
            step, cache, active=active, beam_size=W, max_length=T, length_penalty=gnmt_penalty(0.6), **IDS
        )

    def _greedy(self, state, source):
        step, cache, active = self._start(state, source, beam_size=1)
        return greedy_search(step, cache, active=active, max_length=T, **IDS)

    def _log_probabilities(self, state, source, target):
        """Returns those of every word at every place of whole targets, without a cache."""
        model = nnx.merge(self.definition, state)
        memory, _ = model.encode(source)
        start = jnp.full((target.shape[0], 1), BOS, target.dtype)
        states, _ = model.decode(memory, source, jnp.concatenate([start, target[:, :-1]], axis=1))
        return jax.nn.log_softmax(model.logits(states))


@functools.cache
def model(name: str) -> Model:
    return Model(**CONFIGS[name])


def sources(*lengths: int, columns: int = S) -> np.ndarray:
    generator = np.random.default_rng(5)
    source = np.full((len(lengths), columns), PAD, np.int32)
    for row, length in enumerate(lengths):
        source[row, :length] = [*generator.integers(EOS + 1, V, length - 1), EOS]
    return source


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if "sinusoidal" in name or "rotary" in name else pytest.mark.slow)
        for name in CONFIGS
    ],
)
def test_the_cache_changes_no_score_and_no_word(name):
    tested, source = model(name), sources(S, 2, 5)
    found = jax.tree.map(np.asarray, tested.beam(tested.state, source))
    greedy = np.asarray(tested.greedy(tested.state, source))
    assert len(np.unique(greedy)) >= 5
    targets = np.concatenate([found.tokens, greedy[:, None]], axis=1).reshape(B * (W + 1), T)
    log_probabilities = tested.log_probabilities(tested.state, source.repeat(W + 1, axis=0), targets)
    log_probabilities = np.asarray(log_probabilities).reshape(B, W + 1, T, -1)

    # The scores of a beam are sums of what a decode of the whole hypothesis gives.
    lengths = (found.tokens != PAD).sum(-1)
    assert len(np.unique(lengths)) > 2
    assert (np.diff(found.scores, axis=1) <= 0).all()
    of_words = np.take_along_axis(log_probabilities[:, :W], found.tokens[..., None], axis=-1)[..., 0]
    totals = np.where(found.tokens == PAD, 0.0, of_words).sum(-1)
    np.testing.assert_allclose(found.scores, totals / ((5 + lengths) / 6) ** 0.6, rtol=1e-4, atol=1e-4)

    # Greedy words are the likeliest there; the end is forced at the last place.
    likeliest = log_probabilities[:, W, :, EOS:].argmax(-1) + EOS
    likeliest[:, -1] = EOS
    np.testing.assert_array_equal(greedy, np.where(greedy == PAD, PAD, likeliest))


OF_OTHER_POSITIONS = {"pre-norm, t5", "pre-norm, learned, one table", "pre-norm, alibi, grouped heads"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in OF_OTHER_POSITIONS else ()) for name in CONFIGS]
)
def test_padding_order_and_other_rows_do_not_change_a_translation(name):
    tested, source = model(name), sources(S, 2, 5)
    expected = tested.beam(tested.state, source)
    assert len({trimmed(row[0]) for row in np.asarray(expected.tokens)}) == B

    # The same rows in another order, among others and a row of nothing, with columns of nothing.
    padded = np.pad(source, ((0, 0), (0, 12 - S)), constant_values=PAD)
    others = np.concatenate([np.full((1, 12), PAD, np.int32), sources(3, 4, columns=12)])
    found = tested.beam(tested.state, np.concatenate([padded, others])[[2, 3, 4, 0, 5, 1]])
    places = [3, 5, 0]
    np.testing.assert_array_equal(np.asarray(found.tokens)[places], expected.tokens)
    np.testing.assert_allclose(np.asarray(found.scores)[places], expected.scores, rtol=1e-5, atol=1e-5)
    assert (np.asarray(found.tokens)[1] == PAD).all()


# The parts.


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 1.7])
def test_penalties_are_their_papers_formulas(alpha):
    lengths = np.array([1, 2, 7, 40])
    np.testing.assert_allclose(power_penalty(alpha)(jnp.asarray(lengths)), lengths**alpha, rtol=1e-6)
    np.testing.assert_allclose(gnmt_penalty(alpha)(jnp.asarray(lengths)), ((5 + lengths) / 6) ** alpha, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 6, 9])
@pytest.mark.parametrize("size", [3, 100, 2 * BLOCK, 19 * BLOCK, 19 * BLOCK + 1, 40 * BLOCK])
def test_the_best_of_large_vocabularies_are_exact(size, k):
    logits = np.random.default_rng(size).permuted(np.arange(2 * 5 * size).reshape(2, 5, size), axis=-1)
    values, words = largest(jnp.asarray(logits, jnp.float32), k)
    expected_values, expected_words = jax.lax.top_k(jnp.asarray(logits, jnp.float32), min(k, size))
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(words, expected_words)


def test_the_best_are_found_where_they_crowd_or_tie():
    size, k = 19 * BLOCK, 6
    logits = np.random.default_rng(0).normal(size=(2, 3, size)).astype(np.float32)
    logits[0, :, 5 * BLOCK + 7 : 5 * BLOCK + 7 + k] = 10 + np.arange(k)  # all in one block
    logits[1, 0] = np.random.default_rng(1).integers(0, 3, size)  # everywhere
    logits[1, 1, :] = NEVER  # nowhere
    logits[1, 2, 3:] = NEVER  # fewer than k
    values, words = map(np.asarray, largest(jnp.asarray(logits), k))
    np.testing.assert_array_equal(values, jax.lax.top_k(jnp.asarray(logits), k)[0])
    np.testing.assert_array_equal(np.take_along_axis(logits, words, axis=-1), values)
    assert all(len(set(row)) == k for row in words.reshape(-1, k).tolist())
    assert (words[0] == 5 * BLOCK + 7 + np.arange(k)[::-1]).all()
