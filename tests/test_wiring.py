"""What the scripts wire into their losses: options that reach them, and randomness that no two parts share."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.data.pair_sets import PairSetsConfig
from lmx.errors import InputError

ROOT = Path(__file__).parents[1]
V, PAD, FIRST, SEPARATOR, UNKNOWN = 40, 0, 1, 2, 3
SIZES = {"width": 8, "feedforward_width": 12, "num_heads": 2}


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


translation, classification = script("translation"), script("classification")


def words(*shape: int, seed: int = 0) -> np.ndarray:
    """Makes rows of words, each a word shorter than the one before, and their padding."""
    rows = np.random.default_rng(seed).integers(4, V, shape).astype(np.int32)
    return np.where(np.arange(shape[1]) < shape[1] - np.arange(shape[0])[:, None], rows, PAD)


def empty(module, model):
    """Makes parameters of zeros."""
    kind = module.Seq2Seq if module is translation else module.EncoderClassifier
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: kind(model, rngs=nnx.Rngs(0))), nnx.Param))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def with_optimization(config, **changes):
    return replace(config, optimization=replace(config.optimization, **changes))


# Translation.

PAIRS = {"source": words(3, 7), "decoder_input": words(3, 5, seed=1), "target": words(3, 5, seed=2)}
MODEL = translation.Seq2SeqConfig(
    source_vocab_size=V, target_vocab_size=V, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.3, **SIZES
)
OWN = translation.PRESETS["phrasebook"][1]


def test_pairs_that_choose_or_are_reported_are_none_that_are_learned_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OWN.check()  # the phrasebook has a part of its own for each
    replace(OWN, sets=PairSetsConfig(train="a.{en,de}", validation="b.{en,de}", test="c.{en,de}")).check()
    for same in ({"train": "a.tsv", "validation": "./a.tsv"}, {"validation": "b.tsv", "test": "b.tsv"}):
        first, second = same
        with pytest.raises(InputError, match=f"^{second} must be another set than {first}, got {same[second]} for"):
            replace(OWN, sets=replace(OWN.sets, **same)).check()
    with pytest.raises(InputError, match="raw_reference must be None with folds"):
        replace(
            OWN,
            sets=PairSetsConfig(train="a.tsv", validation=None, test=None, folds=2),
            scoring=replace(OWN.scoring, raw_reference="raw.de"),
        ).check()


def test_the_smoothing_of_a_config_reaches_the_loss_of_translation():
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: generator.normal(0, 0.5, x.shape).astype(np.float32), empty(translation, MODEL))

    @jax.jit
    def sums(params, pairs):
        options = [with_optimization(OWN, label_smoothing=smoothing) for smoothing in (0.0, 0.3)]
        return [translation.build(each, MODEL).loss(params, pairs, None) for each in options]

    plain, smoothed = jax.tree.map(float, sums(params, PAIRS))
    assert plain["loss"] == pytest.approx(plain["nll"], rel=1e-6)
    assert smoothed["nll"] == pytest.approx(plain["nll"], rel=1e-6)
    assert abs(smoothed["loss"] - smoothed["nll"]) > 0.01
    assert plain["weight"] == smoothed["weight"] == (PAIRS["target"] != PAD).sum()


def test_encoder_and_decoder_drop_out_by_keys_of_their_own(monkeypatch):
    keys = []

    def noting(method):
        def run(self, *arguments, key=None, **options):
            keys.append(jax.random.key_data(key))
            return method(self, *arguments, key=key, **options)

        return run

    for name in ("encode", "decode"):
        monkeypatch.setattr(translation.Seq2Seq, name, noting(getattr(translation.Seq2Seq, name)))
    parts = translation.build(OWN, MODEL)

    @jax.jit
    def keys_of(params, pairs, key):
        parts.loss(params, pairs, key)
        return jnp.stack([*keys, jax.random.key_data(key)])

    found = np.asarray(keys_of(empty(translation, MODEL), PAIRS, jax.random.key(5)))
    assert len(found) == len({tuple(key) for key in found.tolist()}) == 3


# Classification.


def seen_by_the_model(monkeypatch, *, rate: float, replacement: int, key: jax.Array | None):
    """Returns what the classifier is given: tokens, the key's words, and whether padding is told by segments."""
    config = with_optimization(classification.PRESETS["own"][1], word_dropout=rate)
    model = replace(config.model, vocab_size=V, num_outputs=3, num_layers=1, pad_id=PAD, **SIZES)
    seen = {}

    def call(self, tokens, *, segments=None, key=None, **_):
        seen.update(tokens=tokens, segments=segments, key=None if key is None else jax.random.key_data(key))
        return jnp.zeros((tokens.shape[0], 3)), {}

    monkeypatch.setattr(classification.EncoderClassifier, "__call__", call)
    parts = classification.build(
        config, model, kind="single", updates=100_000, replacement=replacement, special_ids=(FIRST, SEPARATOR)
    )

    @jax.jit
    def run(params, texts, key):
        ones = jnp.ones(len(texts))
        rows = {"tokens": texts, "types": jnp.zeros_like(texts), "labels": ones.astype(jnp.int32), "weights": ones}
        parts.loss(params, rows, key)
        return dict(seen)

    found = run(empty(classification, model), TEXTS, key)
    return {name: None if value is None else np.asarray(value) for name, value in found.items()}


TEXTS = words(40, 60)
TEXTS[:, 0] = FIRST
TEXTS[np.arange(40), np.arange(59, 19, -1)] = SEPARATOR


@pytest.mark.parametrize("replacement", [UNKNOWN, PAD])
def test_word_dropout_takes_words_and_leaves_padding_and_special_tokens(replacement, monkeypatch):
    seen = seen_by_the_model(monkeypatch, rate=0.3, replacement=replacement, key=jax.random.key(2))
    is_word = ~np.isin(TEXTS, (PAD, FIRST, SEPARATOR))
    np.testing.assert_array_equal(seen["tokens"][~is_word], TEXTS[~is_word])
    changed = seen["tokens"] != TEXTS
    assert (seen["tokens"][changed] == replacement).all()
    assert changed[is_word].mean() == pytest.approx(0.3, abs=0.05)  # 1,500 words: four standard deviations
    # Holes among words are told; padding at the end is told by its length alone.
    assert (seen["segments"] is not None) == (replacement == PAD)
    if seen["segments"] is not None:
        np.testing.assert_array_equal(seen["segments"], seen["tokens"] != PAD)
    assert seen["key"].tolist() != jax.random.key_data(jax.random.key(2)).tolist()


def test_validation_reads_the_words_as_they_are(monkeypatch):
    seen = seen_by_the_model(monkeypatch, rate=0.3, replacement=UNKNOWN, key=None)
    np.testing.assert_array_equal(seen["tokens"], TEXTS)
    assert seen["key"] is seen["segments"] is None


def test_words_and_the_model_drop_out_by_keys_of_their_own(monkeypatch):
    used = []
    drop_words = classification.drop_words

    def noting(tokens, rate, key, **options):
        used.append(key)
        return drop_words(tokens, rate, key, **options)

    monkeypatch.setattr(classification, "drop_words", noting)
    key = jax.random.key(2)
    seen = seen_by_the_model(monkeypatch, rate=0.3, replacement=UNKNOWN, key=key)
    words_key = jax.random.key_data(jax.random.split(key)[0]).tolist()
    assert len(used) == 1
    assert seen["key"].tolist() not in (words_key, jax.random.key_data(key).tolist())
