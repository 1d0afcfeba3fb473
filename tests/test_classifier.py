import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.classifier import Classifier, Prediction, TextBatches, TextRows
from lmx.data.labels import Labels
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.parameters import save_params
from lmx.saved import save_tokenizer, seed_files
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import replicated
from lmx.sharding.rules import DEFAULT_RULES
from lmx.text import PretokenizedTokenizer

# Thirteen words; those that end in @@ are the beginnings of others.
TOKENIZER = PretokenizedTokenizer([*(f"w{i}" for i in range(11)), "un@@", "known"])
LABELS = Labels(kind="single", names=("bad", "fair", "good"))
SEEDS = 2
CONFIG = ClassifierConfig(
    vocab_size=TOKENIZER.vocab_size,
    width=24,
    feedforward_width=20,
    num_heads=3,
    num_layers=1,
    max_length=20,
    num_outputs=3,
    pooling="attention",
)
PAIRS = dataclasses.replace(CONFIG, num_types=2)


def parameters(config: ClassifierConfig = CONFIG, *, seeds: int = SEEDS, first: int = 3) -> dict:
    """Returns random parameters of several seeds that label different texts differently, and by wide margins."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: EncoderClassifier(config, rngs=nnx.Rngs(0))), nnx.Param))

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = jax.tree_util.keystr(path)
        normal = np.stack(
            [np.random.default_rng([first + seed, *names.encode()]).normal(size=leaf.shape) for seed in range(seeds)]
        )
        if "bias" in names or "scale" in names:
            return jnp.asarray(0.1 * normal + ("scale" in names), leaf.dtype)
        scale = 3.0 if names.startswith("['output']") else 2.0 if "table" in names else 1.0
        return jnp.asarray(normal * scale * config.width**-0.5, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def member(params: dict, seed: int) -> dict:
    return jax.tree.map(lambda array: array[seed : seed + 1], params)


def make_classifier(
    config: ClassifierConfig = CONFIG, *, seeds: int = SEEDS, labels: Labels = LABELS, **settings
) -> Classifier:
    settings = {"max_length": 12, "batch_tokens": 96, **settings}
    records = {
        name: kind(**{each.name: settings.pop(each.name) for each in dataclasses.fields(kind) if each.name in settings})
        for name, kind in (("rows", TextRows), ("batches", TextBatches))
    }
    parts = {"tokenizer": TOKENIZER, "labels": labels, **records, **settings}
    return Classifier(config, parameters(config, seeds=seeds), **parts)


def make_texts(*lengths: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in generator.integers(0, 11, length)) for length in lengths]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return make_classifier()


@functools.cache
def probabilities_of(config: ClassifierConfig):
    definition = nnx.graphdef(nnx.eval_shape(lambda: EncoderClassifier(config, rngs=nnx.Rngs(0))))
    return jax.jit(lambda params, tokens, **types: jax.nn.softmax(nnx.merge(definition, params)(tokens, **types)[0][0]))


def by_hand(config: ClassifierConfig, params: dict, seed: int, text: str | tuple[str, str]) -> np.ndarray:
    """The probabilities of one text by one seed, without rows, batches or padding."""
    sides = [TOKENIZER.encode(side) for side in ((text,) if isinstance(text, str) else text)]
    ids = [TOKENIZER.bos_id, *(piece for side in sides for piece in [*side, TOKENIZER.eos_id])]
    types = [0] * (2 + len(sides[0])) + [1] * (len(ids) - 2 - len(sides[0]))
    given = {"types": np.array([types])} if config.num_types else {}
    one = jax.tree.map(lambda array: array[seed], params)
    return np.asarray(probabilities_of(config)(one, np.array([ids]), **given))


# Texts in, labels out.


def test_every_text_is_labelled_by_itself_and_in_order(classifier):
    texts = make_texts(3, 9, 1, 6, 10, 2, 5, 7, 4, 10, 3, 8)
    found = classifier.classify(texts)
    assert np.ptp([one.outputs for one in found], axis=0).min() > 0.05
    order = np.random.default_rng(1).permutation(len(texts))
    again = classifier.classify([texts[i] for i in order])
    for place, i in enumerate(order):
        assert again[place].label == found[i].label
        assert again[place].outputs == pytest.approx(found[i].outputs, abs=1e-5)
    assert classifier.classify(texts[3:4])[0].outputs == pytest.approx(found[3].outputs, abs=1e-5)
    other = make_classifier(batch_tokens=1000, rows_multiple=2, buckets=(5, 11, 13))
    assert [one.outputs for one in other.classify(texts)] == [pytest.approx(one.outputs, abs=1e-5) for one in found]


def test_outputs_are_those_of_each_seed_and_labels_are_of_their_mean(classifier):
    texts = make_texts(3, 6, 9)
    outputs = classifier.outputs(classifier.encode(texts))
    assert outputs.shape == (SEEDS, len(texts), 3)
    for seed in range(SEEDS):
        alone = classifier.with_params(member(classifier.params, seed))
        np.testing.assert_allclose(alone.outputs(alone.encode(texts))[0], outputs[seed], atol=1e-5)
    np.testing.assert_allclose(outputs[1, 2], by_hand(CONFIG, classifier.params, 1, texts[2]), atol=1e-5)
    found = classifier.classify(texts)
    mean = outputs.mean(0)
    assert [one.label for one in found] == [LABELS.names[number] for number in mean.argmax(-1)]
    assert [one.probability for one in found] == pytest.approx(mean.max(-1).tolist(), abs=1e-6)
    np.testing.assert_allclose([one.outputs for one in found], mean, atol=1e-6)


def test_other_parameters_share_what_is_compiled(classifier):
    texts = make_texts(3, 9)
    first = classifier.classify(texts)
    programs = classifier._predictor.run._cache_size()
    assert classifier.with_params(parameters(first=9)).classify(texts) != first
    assert classifier.classify(texts) == first
    assert classifier._predictor.run._cache_size() == programs


def test_texts_without_words_are_labelled_in_their_place(classifier):
    texts = make_texts(3, 6)
    assert classifier.classify([]) == []
    found = classifier.classify(["", texts[0], " \t", texts[1]])
    assert found[0].outputs == pytest.approx(found[2].outputs, abs=1e-6)
    expected = np.mean([by_hand(CONFIG, classifier.params, seed, "") for seed in range(SEEDS)], axis=0)
    np.testing.assert_allclose(found[0].outputs, expected, atol=1e-5)
    assert [one.label for one in found[1::2]] == [one.label for one in classifier.classify(texts)]


def test_long_texts_are_cut_and_counted(classifier):
    tested = classifier.with_params(classifier.params)
    words = make_texts(30)[0].split()
    found = tested.classify([" ".join(words[:number]) for number in (30, 11, 10, 9)])
    assert found[0].outputs == pytest.approx(found[1].outputs, abs=1e-6)
    assert found[0].outputs == pytest.approx(found[2].outputs, abs=1e-6)
    assert found[0].outputs != pytest.approx(found[3].outputs, abs=1e-3)
    assert tested.cut == 2  # 10 words and two special tokens are 12


def test_windows_are_averaged_after_the_softmax():
    classifier = make_classifier(seeds=1, stride=4, buckets=(12,))
    text = make_texts(17)[0]
    words = text.split()
    encoded = classifier.encode([text, "w1"])
    assert encoded.indices.tolist() == [0, 0, 0, 1]
    windows = [by_hand(CONFIG, classifier.params, 0, " ".join(words[begin : begin + 10])) for begin in (0, 4, 8)]
    outputs = classifier.outputs(encoded)[0]
    np.testing.assert_allclose(outputs[0], np.mean(windows, axis=0), atol=1e-5)
    logits = classifier.logits(encoded)[0]
    assert logits.shape == (4, 3)
    np.testing.assert_allclose(jax.nn.softmax(logits[:3]), windows, atol=1e-5)
    assert np.abs(jax.nn.softmax(logits[:3].mean(0)) - outputs[0]).max() > 1e-3


def test_batches_have_few_shapes_and_keep_within_their_tokens():
    classifier = make_classifier(max_length=20, batch_tokens=320)
    shapes = []

    def run(params, inputs):
        shapes.append(inputs["tokens"].shape)
        assert inputs.keys() == {"tokens"}  # the model has no types
        logits = np.repeat((inputs["tokens"] > 0).sum(-1)[None, :, None], 3, axis=2).astype(np.float32)
        return logits, logits

    classifier._predictor.run = run
    lengths = np.random.default_rng(0).integers(0, 19, 400)
    counts: list[int] = []
    outputs = classifier.outputs(classifier.encode(make_texts(*lengths)), progress=counts.append)
    np.testing.assert_array_equal(outputs[0, :, 0], lengths + 2)
    assert set(shapes) == {(40, 8), (16, 16), (16, 20)}
    assert counts == sorted(counts)
    assert counts[-1] == 400
    shapes.clear()
    classifier.outputs(classifier.encode(make_texts(3)))
    assert shapes == [(8, 8)]
    with pytest.raises(
        ValueError, match=r"^rows must have at most 20 tokens, got 31\. Encode the texts with --max-length 20"
    ):
        classifier.outputs(
            make_classifier(max_length=31, config=dataclasses.replace(CONFIG, max_length=40)).encode(make_texts(29))
        )


def test_a_model_takes_what_it_was_trained_on(tmp_path):
    for pairs, wanted, other in ((False, "w1 w2", ("w1", "w2")), (True, ("w1", "w2"), "w1 w2")):
        classifier = make_classifier(PAIRS, seeds=1, buckets=(12,), pairs=pairs)
        assert len(classifier.classify([wanted])) == 1
        names = ("pairs", "single texts") if pairs else ("single texts", "pairs")
        for use in (lambda text: classifier.classify([text]), classifier.explain, classifier.attention):  # noqa: B023
            with pytest.raises(ValueError, match=rf"^texts must be {names[0]}, as in .* this model, got {names[1]}\."):
                use(other)
        assert classifier.classify([]) == []
        assert classifier.with_params(classifier.params).pairs is pairs


@pytest.mark.parametrize(
    ("reading", "pairs"),
    [
        ({"text_columns": None}, False),
        ({"text_columns": ["title+body"]}, False),
        ({"text_columns": ["first", "second"]}, True),
    ],
)
def test_a_run_says_whether_it_was_trained_on_pairs(run, reading, pairs):
    assert Classifier.load(run).pairs is None
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["reading"] = reading
    (run / "config.json").write_text(json.dumps(facts))
    assert Classifier.load(run).pairs is pairs


def test_pairs_have_types_where_the_model_has_them():
    classifier = make_classifier(PAIRS, seeds=1)
    pairs = [("w1 w2", "w3"), ("w1", "w2 w3")]
    outputs = classifier.outputs(classifier.encode(pairs))[0]
    for row, pair in zip(outputs, pairs, strict=True):
        np.testing.assert_allclose(row, by_hand(PAIRS, classifier.params, 0, pair), atol=1e-5)
    with pytest.raises(ValueError, match=r"^texts must all be single or all be pairs, got 1 pairs of 2\."):
        classifier.classify(["w1", ("w1", "w2")])


def test_several_labels_and_numbers_are_outputs_too():
    several = make_classifier(seeds=1, labels=Labels(kind="multi", names=("a", "b", "c")), buckets=(12,))
    texts = make_texts(3, 5, 6, 4)
    encoded = several.encode(texts)
    outputs = several.outputs(encoded)
    np.testing.assert_allclose(outputs, 1 / (1 + np.exp(-several.logits(encoded))), atol=1e-5)
    for one, row in zip(several.classify(texts), outputs[0], strict=True):
        assert one.label == tuple(name for name, probability in zip("abc", row, strict=True) if probability >= 0.5)
        assert one.probability == pytest.approx(np.prod([max(p, 1 - p) for p in row]), rel=1e-4)
    (edge,) = several.predictions(np.array([[0.5, 0.49, 0.2]]))  # a label is said from a half on
    assert (edge.label, edge.probability) == (("a",), pytest.approx(0.5 * 0.51 * 0.8))
    numbers = make_classifier(
        dataclasses.replace(CONFIG, num_outputs=1), labels=Labels(kind="regression"), buckets=(12,)
    )
    values = numbers.outputs(numbers.encode(texts))
    assert values.shape == (SEEDS, len(texts))
    found = numbers.classify(texts)
    assert [float(one.label) for one in found] == pytest.approx(values.mean(0).tolist(), abs=1e-5)
    assert found[0] == Prediction(found[0].label, None, found[0].outputs)
    record = numbers.explain(texts[0])
    assert record["probability"] is None
    assert float(record["prediction"]) == pytest.approx(record["deletion"]["most"][0], abs=1e-5)
    assert several.explain(texts[0])["prediction"] == "abc"[outputs[0, 0].argmax()]


# Why.


def test_attributions_add_up_and_words_are_what_people_read(classifier):
    text = "w1  un@@ known w4 w5 w4"
    record = classifier.explain(text)
    assert record["pieces"] == ["w1", "un@@", "known", "w4", "w5", "w4"]
    assert [word for word, _ in record["words"]] == ["w1", "unknown", "w4", "w5", "w4"]
    values = record["attributions"]
    assert [value for _, value in record["words"]] == pytest.approx([values[0], values[1] + values[2], *values[3:]])
    # The row without words, by hand: padding's vector in their place, but seen.
    (prediction,) = classifier.classify([text])
    assert (record["prediction"], record["probability"]) == (prediction.label, pytest.approx(prediction.probability))
    without = np.mean([empty_row(classifier, seed, length=6) for seed in range(SEEDS)], axis=0)
    change = prediction.probability - without[LABELS.names.index(prediction.label)]
    assert abs(change) > 0.02
    assert record["gap"] < 1e-4
    assert sum(values) == pytest.approx(change, abs=1e-4)
    assert classifier.explain(text, steps=2)["gap"] > record["gap"]
    assert json.loads(json.dumps(record)) == record


def empty_row(classifier: Classifier, seed: int, *, length: int) -> np.ndarray:
    """The probabilities of a row whose words have the vector of padding, without being hidden as padding is."""
    definition = nnx.graphdef(nnx.eval_shape(lambda: EncoderClassifier(classifier.config, rngs=nnx.Rngs(0))))
    model = nnx.merge(definition, jax.tree.map(lambda array: array[seed], classifier.params))
    table = model.encoder.embedding.table[...]
    vectors = table[jnp.asarray([[TOKENIZER.bos_id, *[TOKENIZER.pad_id] * length, TOKENIZER.eos_id]])]
    logits, _ = model.from_vectors(vectors, jnp.full((1, length + 2), TOKENIZER.unk_id))
    return np.asarray(jax.nn.softmax(logits[0]))


def test_an_attribution_is_the_gradient_along_the_way(classifier):
    """A plain Riemann sum over 2,000 steps, one seed at a time."""
    text = make_texts(4, seed=5)[0]
    record = classifier.explain(text)
    chosen = LABELS.names.index(record["prediction"])
    ids = jnp.asarray([[TOKENIZER.bos_id, *TOKENIZER.encode(text), TOKENIZER.eos_id]])
    definition = nnx.graphdef(nnx.eval_shape(lambda: EncoderClassifier(CONFIG, rngs=nnx.Rngs(0))))

    @jax.jit
    def attributions(params):
        model = nnx.merge(definition, params)
        vectors = model.encoder.embedding(ids)
        empty = vectors.at[:, 1:-1].set(model.encoder.embedding.table[TOKENIZER.pad_id])
        slope = jax.grad(lambda x: jax.nn.softmax(model.from_vectors(x, ids)[0])[0, chosen])
        nodes = (jnp.arange(2000) + 0.5) / 2000
        return (jax.lax.map(lambda a: slope(empty + a * (vectors - empty)), nodes).mean(0) * (vectors - empty)).sum(-1)[
            0
        ]

    members = [jax.tree.map(lambda array, seed=seed: array[seed], classifier.params) for seed in range(SEEDS)]
    expected = np.mean([attributions(params) for params in members], axis=0)
    np.testing.assert_allclose(record["attributions"], expected[1:-1], atol=1e-4)
    np.testing.assert_allclose(expected[[0, -1]], 0, atol=1e-7)


def test_the_deletion_check_asks_the_model_again(classifier):
    text = make_texts(7, seed=2)[0]
    record = classifier.explain(text)
    number = LABELS.names.index(record["prediction"])
    kept = list(enumerate(word for word, _ in record["words"]))
    ranked = sorted(range(len(kept)), key=lambda place: -record["words"][place][1])
    expected = []
    for count in range(6):
        rest = " ".join(word for place, word in kept if place not in ranked[:count])
        expected.append(classifier.classify([rest])[0].outputs[number])
    assert record["deletion"]["most"] == pytest.approx(expected, abs=1e-5)
    assert len(record["deletion"]["random"]) == 6
    assert record["deletion"]["random"][0] == record["deletion"]["most"][0]
    assert record["deletion"] == classifier.explain(text)["deletion"]
    two = classifier.explain("w1 w2")["deletion"]
    empty = classifier.classify([""])[0].outputs
    label = LABELS.names.index(classifier.classify(["w1 w2"])[0].label)
    assert [len(two[name]) for name in ("most", "random")] == [3, 3]
    assert two["most"][2] == pytest.approx(two["random"][2]) == pytest.approx(empty[label], abs=1e-6)


def test_a_text_without_words_has_an_empty_explanation(classifier):
    record = classifier.explain("  ")
    assert (record["pieces"], record["attributions"], record["words"]) == ([], [], [])
    assert record["gap"] == pytest.approx(0, abs=1e-6)
    assert record["deletion"]["most"] == record["deletion"]["random"] == pytest.approx([record["probability"]])
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got steps=0\."):
        classifier.explain("w1", steps=0)


def test_cut_texts_pairs_and_windows_are_explained(classifier):
    long = make_texts(17, seed=3)[0]
    cut = classifier.explain(long)
    assert cut["pieces"] == long.split()[:10]
    assert len(cut["words"]) == len(cut["attributions"]) == 10
    windows = make_classifier(stride=4, buckets=(12,)).explain(long)
    assert windows["pieces"] == long.split()
    assert windows["gap"] < 1e-4
    pairs = make_classifier(PAIRS, buckets=(12,)).explain(("w1 un@@ known", "w3 w4"))
    assert pairs["text"] == ["w1 un@@ known", "w3 w4"]
    assert [word for word, _ in pairs["words"]] == ["w1", "unknown", "w3", "w4"]
    assert pairs["pieces"] == ["w1", "un@@", "known", "w3", "w4"]
    assert pairs["gap"] < 1e-4
    assert len(pairs["deletion"]["most"]) == 5


def test_attention_maps_are_of_the_pieces(classifier):
    found = classifier.attention("w1 w2 w3")
    assert found["pieces"] == ["<s>", "w1", "w2", "w3", "</s>"]
    assert found["weights"].shape == (1, 3, 5, 5)
    np.testing.assert_allclose(found["weights"].sum(-1), 1, rtol=1e-5)


# Several devices.


def test_devices_that_label_together_find_what_one_finds(classifier, monkeypatch):
    mesh = make_mesh(MeshConfig(data=1, sequence=3), devices=jax.devices()[:3])
    rules = {**DEFAULT_RULES, "batch": ("sequence",)}
    together = Classifier(
        CONFIG,
        jax.device_put(parameters(), replicated(mesh)),
        tokenizer=TOKENIZER,
        labels=LABELS,
        rows=TextRows(max_length=12),
        batches=TextBatches(batch_tokens=96, buckets=(12,)),
        layout=Layout(mesh, rules),
    )
    texts = make_texts(9, 3, 1)
    run, rows = together._predictor.run, []

    def watched(params, inputs):
        rows.append(inputs["tokens"])
        return run(params, inputs)

    monkeypatch.setattr(together._predictor, "run", watched)
    expected = [pytest.approx(one.outputs, abs=1e-5) for one in classifier.classify(texts)]
    assert [one.outputs for one in together.classify(texts)] == expected
    assert {len(array) // array.sharding.shard_shape(array.shape)[0] for array in rows} == {3}
    records = [one.explain(texts[0], steps=8) for one in (together, classifier)]
    assert records[0]["attributions"] == pytest.approx(records[1]["attributions"], abs=1e-5)
    maps = [one.attention(texts[0])["weights"] for one in (together, classifier)]
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-6)


def test_attention_of_several_seeds_is_the_first_ones(classifier, monkeypatch):
    seen = [classifier.attention("w1 w2 w3")["weights"]]
    for seed in range(SEEDS):
        alone = classifier._predictor.with_params(member(parameters(), seed))
        with monkeypatch.context() as patch:
            patch.setattr(classifier, "_predictor", alone)
            seen.append(classifier.attention("w1 w2 w3")["weights"])
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-6)
    assert np.abs(np.subtract(seen[0], seen[2])).max() > 1e-2


# Run directories.


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The files of a run that has ended, and no others."""
    directory = tmp_path_factory.mktemp("run")
    facts = {
        "experiment": "classification",
        "family": "classifier",
        "config": {"max_length": 12, "stride": None, "kind": "single"},
        "model": dataclasses.asdict(CONFIG),
    }
    (directory / "config.json").write_text(json.dumps(facts))
    (directory / "labels.json").write_text(LABELS.to_json())
    (directory / "seeds").mkdir()
    save_tokenizer(directory, TOKENIZER)
    for number, name in enumerate(("seeds/9", "seeds/10")):
        params = jax.tree.map(lambda array, number=number: array[number], parameters())
        save_params(directory / f"{name}.safetensors", params)
    shutil.copy(directory / "seeds" / "10.safetensors", directory / "model.safetensors")
    return directory


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_run_directory_is_enough_to_classify(classifier, run):
    texts = make_texts(3, 7, 1, 6)
    best = Classifier.load(run)
    assert (best.config, best.labels, best.max_length, best.stride) == (CONFIG, LABELS, 12, None)
    alone = classifier.with_params(member(classifier.params, 1))
    for one, other in zip(best.classify(texts), alone.classify(texts), strict=True):
        assert one.outputs == pytest.approx(other.outputs, abs=1e-5)
    assert [path.stem for path in seed_files(run)] == ["9", "10"]
    together = Classifier.load(run, ensemble=True)
    for one, other in zip(together.classify(texts), classifier.classify(texts), strict=True):
        assert one.outputs == pytest.approx(other.outputs, abs=1e-5)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda run: shutil.rmtree(run), FileNotFoundError, "run must be a run directory: it has no config.json"),
        (
            lambda run: (run / "config.json").write_text('{"family": "seq2seq"}'),
            ValueError,
            "run must hold a model that classifies, got family=seq2seq",
        ),
        (
            lambda run: (run / "config.json").write_text('{"family": "classifier", "config": {}}'),
            FileNotFoundError,
            "run must hold a trained model: its training has not begun",
        ),
        (lambda run: (run / "labels.json").unlink(), FileNotFoundError, "run must hold labels.json, which says what"),
        (
            lambda run: (run / "labels.json").write_text(Labels(kind="single", names=("a", "b")).to_json()),
            ValueError,
            "the model must have an output for each label, got num_outputs=3 and 2 by the labels",
        ),
        (lambda run: (run / "tokenizer.vocab").unlink(), FileNotFoundError, r"run must hold a tokenizer \(tokenizer"),
        (
            lambda run: (run / "model.safetensors").unlink(),
            FileNotFoundError,
            "model.safetensors must exist: it is written when training ends",
        ),
        (
            lambda run: save_params(run / "model.safetensors", {"table": np.zeros((2, 3))}),
            ValueError,
            "model.safetensors must fit the model, got ",
        ),
    ],
)
def test_directories_that_cannot_classify_say_why(run, damage, error, message):
    damage(run)
    with pytest.raises(error, match=message):
        Classifier.load(run)


def test_a_run_of_one_seed_is_no_ensemble(run):
    shutil.rmtree(run / "seeds")
    with pytest.raises(FileNotFoundError, match=r"run must hold several seeds for an ensemble \(seeds/1\.safetensors"):
        Classifier.load(run, ensemble=True)


def test_parts_that_do_not_fit_are_errors():
    with pytest.raises(
        ValueError, match=r"^params must have a leading axis for the seeds, got output.bias of shape \(3,"
    ):
        make_classifier().with_params(jax.tree.map(lambda array: array[0], parameters()))
    with pytest.raises(
        ValueError, match=r"^max_length must be at most the 20 positions of the model, got max_length=21"
    ):
        make_classifier(max_length=21)
    small = dataclasses.replace(CONFIG, vocab_size=5)
    with pytest.raises(
        ValueError, match=r"^the model must read the ids of the tokenizer, got vocab_size=5 and pad_id=0"
    ):
        make_classifier(small)
