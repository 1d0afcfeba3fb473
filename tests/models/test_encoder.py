import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.costs import count_flops
from lmx.models.encoder import ClassifierConfig, Encoder, EncoderClassifier, EncoderConfig, training_flops
from lmx.nn.embedding import count_parameters
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import place_rows, replicated
from lmx.sharding.step import use_mesh

B, T, WORDS = 3, 9, 150
BERT = EncoderConfig(
    vocab_size=WORDS, width=24, feedforward_width=36, num_heads=4, num_layers=2, num_types=2, max_length=20
)
PRE_NORM = dataclasses.replace(
    BERT, num_types=0, embedding_norm=False, norm_position="pre", positions="rotary", activation="gated-gelu"
)
CONFIGS = {"BERT's choices": BERT, "pre-norm, rotary": PRE_NORM}
LENGTHS = np.array([T, 4, 6])


def filled(config: EncoderConfig) -> Encoder | EncoderClassifier:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    kind = EncoderClassifier if isinstance(config, ClassifierConfig) else Encoder
    definition, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def tokens(seed: int = 0) -> np.ndarray:
    words = np.random.default_rng(seed).integers(1, WORDS, (B, T))
    return np.where(np.arange(T) < LENGTHS[:, None], words, 0).astype(np.int32)


run = jax.jit(lambda model, tokens, **given: model(tokens, **given)[0])


@pytest.fixture(params=CONFIGS, scope="module")
def model(request) -> Encoder:
    return filled(CONFIGS[request.param])


def test_every_word_sees_the_whole_text(model):
    words = tokens()
    changed = words.copy()
    changed[:, 3] = 1 + words[:, 3] % (WORDS - 1)
    difference = np.abs(run(model, words) - run(model, changed)).max(-1)
    assert difference[words > 0].min() > 1e-4


def test_padding_does_not_matter(model):
    words = tokens()
    found = run(model, np.pad(words, ((0, 0), (0, 4))))
    np.testing.assert_allclose(found[:, :T], run(model, words), atol=1e-5)


def test_packed_texts_are_texts_by_themselves(model):
    first, second = tokens(1)[:1, :5], tokens(2)[:1, :4]
    packed = np.concatenate([first, second], axis=1)
    segments = np.array([[1] * 5 + [2] * 4], np.int32)
    positions = np.array([[*range(5), *range(4)]], np.int32)
    found = run(model, packed, segments=segments, positions=positions)
    np.testing.assert_allclose(found[:, :5], run(model, first), atol=1e-5)
    np.testing.assert_allclose(found[:, 5:], run(model, second), atol=1e-5)


def test_types_are_added_where_the_model_has_them():
    words, types = tokens(), (np.arange(T) > 3).astype(np.int32) * np.ones((B, 1), np.int32)
    with_types = filled(BERT)
    np.testing.assert_array_equal(run(with_types, words), run(with_types, words, types=np.zeros_like(words)))
    assert np.abs(run(with_types, words) - run(with_types, words, types=types)).max() > 0.01
    with pytest.raises(ValueError, match=r"^types must not be given to a model without types, got num_types=0"):
        run(filled(PRE_NORM), words, types=types)


def test_where_there_is_one_type_both_texts_of_a_pair_are_of_it():
    class Through(nnx.Module):
        def __call__(self, x, **_):
            return x, {}

    model, words = filled(dataclasses.replace(BERT, num_types=1)), jnp.asarray(tokens())
    model.stack = Through()
    np.testing.assert_array_equal(model(words, types=jnp.ones((B, T), jnp.int32))[0], model(words)[0])


def test_attention_maps_are_of_all_layers_and_not_of_padding(model):
    _, maps = model(jnp.asarray(tokens()), with_attention=True)
    assert maps["self"].shape == (2, B, 4, T, T)
    assert not np.asarray(maps["self"])[:, 1, :, :, 4:].any()


def test_logits_are_products_with_the_words(model):
    states = run(model, tokens())
    logits = model.logits(states)
    np.testing.assert_allclose(logits[..., :WORDS], states @ np.asarray(model.output_table())[:WORDS].T, atol=1e-4)
    assert np.all(logits[..., WORDS:] < -1e29)


def test_bert_base_has_its_published_size():
    config = dataclasses.replace(
        BERT, vocab_size=30522, width=768, feedforward_width=3072, num_heads=12, num_layers=12, max_length=512
    )
    # Devlin et al. 2019: 110M with the pooler, which is a head's: 768 x 768 + 768 more.
    assert count_parameters(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))) == 108_891_648


# The classifier.

C = 5
CLASSIFIER = ClassifierConfig(**dataclasses.asdict(BERT), num_outputs=C)
POOLINGS = ("first", "mean", "attention")


@pytest.fixture(params=POOLINGS, scope="module")
def classifier(request) -> EncoderClassifier:
    return filled(dataclasses.replace(CLASSIFIER, pooling=request.param))


def test_outputs_do_not_depend_on_padding(classifier):
    words = tokens()
    outputs = run(classifier, words)
    assert (outputs.shape, outputs.dtype) == ((B, C), jnp.float32)
    np.testing.assert_allclose(run(classifier, np.pad(words, ((0, 0), (0, 4)))), outputs, atol=1e-5)
    alone = [run(classifier, words[row : row + 1, :length])[0] for row, length in enumerate(LENGTHS)]
    np.testing.assert_allclose(outputs, np.stack(alone), atol=1e-5)


def test_pooling_is_what_the_papers_say(classifier):
    words = tokens()
    states = np.asarray(run(classifier.encoder, words), np.float64)
    pooled = np.asarray(classifier.pool(jnp.asarray(states, jnp.float32), jnp.asarray(words)))
    for row, length in enumerate(LENGTHS):
        text = states[row, :length]
        if classifier.config.pooling == "first":
            expected = text[0]
        elif classifier.config.pooling == "mean":
            expected = text.mean(0)
        else:
            hidden, query = (
                np.asarray(part.weight[...]) for part in (classifier.pooling.hidden, classifier.pooling.query)
            )
            weights = np.exp(np.tanh(text @ hidden) @ query)
            expected = (weights * text).sum(0) / weights.sum()
        np.testing.assert_allclose(pooled[row], expected, atol=1e-5)
    weight, bias = np.asarray(classifier.output.weight[...]), np.asarray(classifier.output.bias[...])
    np.testing.assert_allclose(run(classifier, words), pooled @ weight + bias, atol=1e-5)


def test_a_row_of_padding_has_finite_outputs_and_gradients(classifier):
    definition, state = nnx.split(classifier)
    words = tokens()
    words[1] = 0

    def loss(state):
        outputs, _ = nnx.merge(definition, state)(jnp.asarray(words), key=jax.random.key(3))
        return jnp.square(outputs).sum(), outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(state)
    assert np.isfinite(outputs).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients["encoder"]["embedding"]["table"][...]).max() > 0


def test_every_parameter_of_a_classifier_names_its_axes(classifier):
    flat = nnx.to_flat_state(nnx.state(classifier, nnx.Param))
    assert all(len(param.get_metadata("axes")) == param[...].ndim for _, param in flat)
    names = {".".join(map(str, path)) for path, _ in flat}
    encoder = {
        f"encoder.{'.'.join(map(str, path))}" for path, _ in nnx.to_flat_state(nnx.state(filled(BERT), nnx.Param))
    }
    assert {name for name in names if name.startswith("encoder.")} == encoder
    pooling = {"pooling.hidden.weight", "pooling.query.weight"} if classifier.config.pooling == "attention" else set()
    assert names - encoder == {"output.weight", "output.bias", *pooling}


def test_dropout_reaches_the_pooled_vector_and_only_with_a_key():
    config = dataclasses.replace(CLASSIFIER, dropout_rate=0.0, attention_dropout_rate=0.0, pooled_dropout_rate=0.5)
    model, words = filled(config), tokens()
    first, second = (run(model, words, key=jax.random.key(seed)) for seed in (1, 2))
    assert np.abs(first - second).min() > 1e-4
    still = filled(dataclasses.replace(config, pooled_dropout_rate=0.0))
    np.testing.assert_allclose(run(still, words, key=jax.random.key(1)), run(model, words), atol=1e-6)


def test_vectors_given_are_in_the_place_of_words(classifier):
    words = jnp.asarray(tokens())
    vectors = classifier.encoder.embedding(words)
    from_vectors = jax.jit(lambda model, vectors, tokens: model.from_vectors(vectors, tokens)[0])
    np.testing.assert_allclose(from_vectors(classifier, vectors, words), run(classifier, words), atol=1e-6)
    changed = vectors.at[0, 1].multiply(-1.0)
    difference = np.abs(from_vectors(classifier, changed, words) - run(classifier, words)).max(-1)
    assert difference[0] > 1e-3
    assert difference[1:].max() < 1e-6


def test_the_outputs_are_float32_where_the_encoder_computes_in_bfloat16():
    config = dataclasses.replace(CLASSIFIER, pooling="attention")
    exact, half = run(filled(config), tokens()), run(filled(dataclasses.replace(config, dtype="bfloat16")), tokens())
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


def test_a_classifier_on_a_mesh_gives_what_one_device_gives():
    model = filled(dataclasses.replace(CLASSIFIER, pooling="attention"))
    definition, state = nnx.split(model)
    mesh = make_mesh(MeshConfig(data=2, tensor=2), devices=jax.devices()[:4])
    words = np.concatenate([tokens(), tokens(1)[:1]])

    def outputs(state, tokens):
        with use_mesh(mesh):
            return nnx.merge(definition, state)(tokens)[0]

    placed = jax.device_put(state, replicated(mesh)), place_rows({"tokens": words}, mesh)["tokens"]
    np.testing.assert_allclose(jax.jit(outputs)(*placed), run(model, words), atol=1e-5)


def test_a_classifier_without_outputs_is_an_error():
    with pytest.raises(ValueError, match=r"^num_outputs must be at least 1, got num_outputs=0\. Take Labels"):
        EncoderClassifier(dataclasses.replace(CLASSIFIER, num_outputs=0), rngs=nnx.Rngs(0))


def test_outputs_are_mean_and_scale_of_what_the_last_layer_gives():
    config = dataclasses.replace(CLASSIFIER, num_outputs=1)
    words = tokens()
    plain = run(filled(config), words)
    scaled = run(filled(dataclasses.replace(config, output_mean=-3.5, output_scale=20.0)), words)
    np.testing.assert_allclose(scaled, -3.5 + 20 * plain, rtol=1e-5, atol=1e-5)
    assert plain.shape == (B, 1)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("change", [{}, {"pooling": "attention", "activation": "gated-gelu"}, {"num_kv_heads": 2}])
def test_the_flops_of_a_step_are_what_the_formula_says(layers, change):
    # The gradient by the words' table is a scatter, and no product.
    config = dataclasses.replace(
        CLASSIFIER, num_layers=layers, width=32, feedforward_width=80, dropout_rate=0.0, attention_dropout_rate=0.0,
        **change,
    )  # fmt: skip
    definition, state = nnx.split(nnx.eval_shape(lambda: EncoderClassifier(config, rngs=nnx.Rngs(0))))

    def loss(state, tokens):
        return nnx.merge(definition, state)(tokens)[0].sum()

    found = count_flops(jax.grad(loss), state, jax.ShapeDtypeStruct((6, 10), jnp.int32))
    assert found.total == pytest.approx(training_flops(config, rows=6, length=10), rel=0.03)
