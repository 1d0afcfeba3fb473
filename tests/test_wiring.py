"""What the scripts wire into their losses: options that reach them, and randomness that no two parts share."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.data.cache import Cache
from lmx.data.labelled import Examples
from lmx.data.labels import Labels
from lmx.data.pair_sets import PairSetsConfig
from lmx.data.parallel import Pairs
from lmx.errors import InputError
from lmx.run import Run
from lmx.text import PretokenizedTokenizer

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


def test_a_translator_has_the_sizes_of_its_vocabularies_and_reaches_its_rows():
    source, target = PretokenizedTokenizer(["a", "b", "c"]), PretokenizedTokenizer(["d", "e"])
    target.pad_id = 5
    asked = replace(OWN, model=replace(OWN.model, max_length=96), max_length=48, joint=False)
    asked = replace(asked, model=replace(asked.model, tied_embeddings="target"))
    model = translation.fit_model(asked, source, target)
    assert (model.source_vocab_size, model.target_vocab_size, model.pad_id, model.max_length) == (7, 6, 5, 96)
    assert translation.fit_model(replace(asked, max_length=200), source, target).max_length == 200
    tied = replace(asked, model=replace(asked.model, tied_embeddings="all"))
    with pytest.raises(InputError, match=r'^model\.tied_embeddings must be "target" or "none" where each side'):
        translation.fit_model(tied, source, target)
    assert translation.fit_model(replace(tied, joint=True), source, source).tied_embeddings == "all"


def test_each_side_has_a_vocabulary_of_its_own_where_it_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def learn(config, kind, texts, *, facts, **_) -> PretokenizedTokenizer:
        asked.append((kind, list(texts()), facts()["part"]))
        return PretokenizedTokenizer([f"w{len(asked)}"])

    monkeypatch.setattr(translation, "learn_tokenizer", learn)
    pairs, run = Pairs(sources=["a b", "c"], targets=["x", "y z"], origin="o"), Run(tmp_path / "run", {"config": {}})
    for joint, expected in (
        (True, [("sentencepiece", ["a b", "c", "x", "y z"], "both sides")]),
        (False, [("sentencepiece", ["a b", "c"], "side 0"), ("sentencepiece", ["x", "y z"], "side 1")]),
    ):
        asked.clear()
        source, target = translation.make_tokenizers(run, replace(OWN, joint=joint), pairs, Cache(None))
        assert sorted(asked[0][1]) == sorted(expected[0][1])
        assert [each[::2] for each in asked] == [each[::2] for each in expected]
        assert (source is target) == joint
    asked.clear()
    translation.make_tokenizers(run, replace(OWN, scoring=replace(OWN.scoring, tokenized=True)), pairs, Cache(None))
    assert asked[0][0] == "words"


def test_the_recipe_of_multi30k_is_its_papers():
    """Wu et al. 2021, appendix: the tiny Transformer of four layers, by fairseq."""
    config = translation.PRESETS["multi30k"][1]
    model, options = config.model, config.optimization
    assert (model.width, model.feedforward_width, model.num_heads) == (128, 256, 4)
    assert (model.num_encoder_layers, model.num_decoder_layers, model.dropout_rate) == (4, 4, 0.3)
    assert (options.schedule, options.peak, options.warmup, options.label_smoothing) == (
        "inverse-sqrt", 0.005, 2000, 0.1,
    )  # fmt: skip
    assert (options.beta2, options.weight_decay) == (0.98, 0.0)
    assert (config.selection.patience, config.selection.average, config.selection.average_of) == (10, 10, "last")
    assert (config.search.beam_size, config.search.alpha, config.search.length_penalty) == (5, 1.0, "power")
    assert (config.published.published, config.scoring.lowercase, config.scoring.tokenized) == (41.02, True, True)
    assert config.batch.tokens_per_batch * config.batch.accumulation == 8192
    raw = translation.PRESETS["multi30k-raw"][1]
    assert (raw.model, raw.optimization, raw.selection, raw.search) == (model, options, config.selection, config.search)
    assert (raw.published.published, raw.scoring.tokenized, raw.pieces.vocab_size) == (None, False, 10_000)


def test_what_was_published_is_told_beside_what_is_measured():
    published = {name: config.published.published for name, (_, config) in classification.PRESETS.items()}
    assert published == {
        "own": None, "stdlib": None, "trec": 91.2, "trec-minilm": 95.0, "sst2": 85.4, "sst2-minilm": 92.2,
        "sst2-sentences": 83.5, "ag-news": 92.5, "newsgroups20": 85.0,
    }  # fmt: skip
    for name, (_, config) in classification.PRESETS.items():
        assert config.selection.keeps_best
        assert config.run.run == Path("runs") / name
        options = config.optimization
        assert (options.schedule, options.clip_norm) == ("linear", 1.0)
        if name.endswith("minilm"):
            assert (options.beta2, options.layer_decay, options.weight_decay) == (0.999, 0.9, 0.01)
            assert config.model.dropout_rate == config.model.attention_dropout_rate == 0.1
        else:
            assert (options.peak, options.weight_decay, config.model.width) == (1e-3, 0.1, 128)
            assert config.model.pooled_dropout_rate == config.model.dropout_rate > 0


@pytest.mark.parametrize("name", ["label_smoothing", "word_dropout"])
def test_shares_that_mean_nothing_are_refused_before_anything_is_read(name):
    config = classification.PRESETS["own"][1] if name == "word_dropout" else OWN
    for value in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"^{name} must be at least 0 and below 1, got {name}={value}\.$"):
            with_optimization(config, **{name: value}).optimization.check()


@pytest.mark.parametrize("module", [translation, classification])
def test_a_plan_is_of_the_shapes_and_the_model_that_would_train(module, monkeypatch):
    asked = {}

    def note(learner_of, about, shapes, **more) -> None:
        asked.update(learner_of=learner_of, about=about, shapes=shapes, **more)

    monkeypatch.setattr(module, "print_plan", note)
    config = module.PRESETS["phrasebook" if module is translation else "own"][1]
    config = replace(config, model=replace(config.model, **SIZES, max_length=9), max_length=24, seeds=3)
    module.plan("it", config, device="h100")
    assert (asked["device"], asked["config"]) == ("h100", config)
    assert asked["about"].startswith("it: ")
    whole = config.batch.shape(24)
    names = ("source", "decoder_input", "target") if module is translation else ("tokens", "types")
    expected = dict.fromkeys(names, whole)
    if module is classification:
        expected |= {"labels": whole[:2], "weights": whole[:2]}
    assert asked["shapes"](24) == expected
    learner = asked["learner_of"](dtype="bfloat16")
    assert learner.dtype == "bfloat16"
    if module is translation:
        assert learner.num_seeds is None
    else:
        assert "16 classes" in asked["about"]
    # The positions reach the rows.
    shapes = [leaf.shape for leaf in jax.tree.leaves(learner.model.shapes)]
    assert (24, 8) in shapes or module is translation


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


def test_a_classifier_has_the_sizes_and_the_unit_of_its_data():
    config, tokenizer = classification.PRESETS["own"][1], PretokenizedTokenizer(["a", "b", "c"])
    tokenizer.pad_id = 5
    numbers = SimpleNamespace(labels=Labels(kind="regression"), train=SimpleNamespace(are_pairs=False))
    targets = np.array([1.0, 3.0, 8.0])
    model = classification.fit_model(config, tokenizer, numbers, targets)
    assert (model.vocab_size, model.num_outputs, model.num_types, model.pad_id) == (7, 1, 0, 5)
    assert (model.output_mean, model.output_scale) == (4.0, pytest.approx(np.std(targets)))
    assert classification.fit_model(config, tokenizer, numbers, np.full(3, 2.0)).output_scale == 1.0
    classes = Labels(kind="single", names=("no", "yes", "perhaps"))
    pairs = SimpleNamespace(labels=classes, train=SimpleNamespace(are_pairs=True))
    short = replace(config, max_length=config.model.max_length + 9)
    model = classification.fit_model(short, tokenizer, pairs, np.array([0, 1]))
    assert (model.num_outputs, model.num_types, model.max_length) == (3, 2, config.model.max_length + 9)
    assert (model.output_mean, model.output_scale) == (config.model.output_mean, config.model.output_scale)


def test_texts_and_both_sides_of_pairs_are_what_a_vocabulary_is_learned_from(monkeypatch, tmp_path):
    asked = []
    learn = lambda config, kind, texts, **_: asked.append((kind, list(texts()))) or PretokenizedTokenizer(["a"])  # noqa: E731
    monkeypatch.setattr(classification, "learn_tokenizer", learn)
    config = replace(classification.PRESETS["trec"][1], sets=classification.PRESETS["own"][1].sets)
    examples = Examples(texts=["a b", ("c", "d")], labels=None, origin="o", lines=np.arange(2))
    classification.make_tokenizer(Run(tmp_path / "run", {"config": {}}), config, examples, Cache(None))
    assert asked == [("words", ["a b", "c", "d"])]


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
