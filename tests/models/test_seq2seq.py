import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.nn.embedding import count_parameters
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.sharding.rules import DEFAULT_RULES

B, S, T = 3, 9, 7
WORDS, PAD = 150, 0
SIZES = {
    "width": 24,
    "feedforward_width": 36,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "max_length": 20,
    "pad_id": PAD,
}
TIED = Seq2SeqConfig(source_vocab_size=WORDS, target_vocab_size=WORDS, dropout_rate=0.3, **SIZES)
# Every choice that the config leaves, spread over three models.
CONFIGS = {
    "post-norm, sinusoidal": TIED,
    "pre-norm, learned": dataclasses.replace(
        TIED,
        target_vocab_size=131,
        norm_position="pre",
        activation="gelu",
        positions="learned",
        tied_embeddings="target",
    ),
    "pre-norm, rotary, gated": dataclasses.replace(
        TIED,
        target_vocab_size=131,
        num_kv_heads=2,
        norm="rms",
        norm_position="pre",
        activation="gated-silu",
        positions="rotary",
        tied_embeddings="none",
        use_bias=False,
    ),
}


def abstract(config: Seq2SeqConfig) -> Seq2Seq:
    return nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0)))


def filled(config: Seq2SeqConfig) -> Seq2Seq:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(abstract(config))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def tokens(lengths: list[int], length: int, *, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(1, 131, (len(lengths), length))
    return np.where(np.arange(length) < np.array(lengths)[:, None], rows, PAD).astype(np.int32)


SOURCE_LENGTHS, TARGET_LENGTHS = [S, 4, 6], [5, T, 3]
SOURCE, TARGET = tokens(SOURCE_LENGTHS, S, seed=1), tokens(TARGET_LENGTHS, T, seed=2)
REAL = TARGET != PAD


@jax.jit
def run(model: Seq2Seq, source: jax.Array, target: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Returns the decoder's states."""
    keys = (None, None) if key is None else jax.random.split(key)
    memory, _ = model.encode(source, key=keys[0])
    return model.decode(memory, source, target, key=keys[1])[0]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request) -> Seq2Seq:
    return filled(CONFIGS[request.param])


@pytest.fixture(scope="module")
def states(model) -> np.ndarray:
    return np.asarray(run(model, SOURCE, TARGET))


@pytest.fixture(scope="module")
def tied() -> Seq2Seq:
    return filled(TIED)


# Encoding and decoding.


def test_packed_sentences_are_separate_sentences(model, states):
    # Source: sentences of 9 and 4 in a row, of 6 in another. Target: 5 and 7 tokens, and 3.
    def pack(rows: np.ndarray, lengths: list[int], total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        packed, segments, positions = np.zeros((3, 2, total), np.int32)
        for row, start, number, sentence in ((0, 0, 1, 0), (0, lengths[0], 2, 1), (1, 0, 1, 2)):
            place = row, slice(start, start + lengths[sentence])
            packed[place] = rows[sentence, : lengths[sentence]]
            segments[place] = number
            positions[place] = np.arange(lengths[sentence])
        return packed, segments, positions

    @jax.jit
    def run_packed(model, source, target):
        memory, _ = model.encode(source[0], segments=source[1], positions=source[2])
        return model.decode(
            memory, source[0], target[0], source_segments=source[1], segments=target[1], positions=target[2]
        )[0]

    together = run_packed(model, pack(SOURCE, SOURCE_LENGTHS, 13), pack(TARGET, TARGET_LENGTHS, 16))
    together = np.asarray(together)
    for sentence, found in enumerate((together[0, :5], together[0, 5:12], together[1, :3])):
        np.testing.assert_allclose(found, states[sentence, : TARGET_LENGTHS[sentence]], atol=1e-5)


def test_cached_steps_equal_decoding_the_whole(model, states):
    slots = T + 4

    @jax.jit
    def run_cached(model, source, target):
        step, cache = model.start_decoding(source, slots=slots)
        logits = []
        for first, last in ((0, 1), (1, T)):  # one position, then several at once
            places = jnp.broadcast_to(jnp.arange(first, last), (B, last - first))
            mask = (jnp.arange(slots) <= places[:, :, None])[:, None]
            found, cache = step(target[:, first:last], cache, jnp.asarray(first), places, mask, jnp.arange(slots))
            logits.append(found)
        return jnp.concatenate(logits, 1)

    cached = np.asarray(run_cached(model, SOURCE, TARGET))
    expected = np.asarray(jax.jit(lambda model, states: model.logits(states))(model, states))
    np.testing.assert_allclose(cached[REAL], expected[REAL], atol=1e-4, rtol=1e-5)


def test_beams_in_one_cache_are_sentences_of_their_own(tied):
    # Two continuations of one beginning lie side by side in the cache; the mask alone tells them apart.
    beams = np.repeat(TARGET[1:2], B, axis=0)
    beams[1, 3:] = TARGET[1, :2:-1]
    slots = 3 + 2 * 2

    @jax.jit
    def run_beams(model, source, beams):
        step, cache = model.start_decoding(source, slots=slots)
        mask, places = jnp.arange(slots) <= jnp.arange(3)[:, None], jnp.array([0, 1, 2, 3, 3, 4, 4])
        _, cache = step(beams[:1, :3], cache, jnp.asarray(0), jnp.arange(3)[None], mask[None, None], places)
        seen, logits = jnp.array([[1, 1, 1, 0, 0, 0, 0]] * 2, bool), []
        for place in (3, 4):
            offset = 3 + 2 * (place - 3)
            seen = seen.at[jnp.arange(2), offset + jnp.arange(2)].set(True)
            found, cache = step(
                beams[None, :2, place], cache, jnp.asarray(offset), jnp.full((1, 2), place), seen[None, None], places
            )
            logits.append(found[0])
        return jnp.stack(logits, 1)

    states = np.asarray(run(tied, np.repeat(SOURCE[:1], B, axis=0), beams))
    expected = tied.logits(jnp.asarray(states[:2, 3:5]))
    np.testing.assert_allclose(run_beams(tied, SOURCE[:1], beams), expected, atol=1e-4, rtol=1e-5)


def test_the_future_does_not_matter(model, states):
    changed = np.where(np.arange(T) < 4, TARGET, 77)
    found = np.asarray(run(model, SOURCE, changed))
    np.testing.assert_allclose(found[:, :4], states[:, :4], atol=1e-5)
    assert np.abs(found[:, 4:] - states[:, 4:]).min(-1).max() > 1e-3


def test_padding_and_the_other_rows_do_not_matter(tied):
    states, order = np.asarray(run(tied, SOURCE, TARGET)), np.array([2, 0, 1])
    source = np.pad(SOURCE, ((0, 0), (0, 3)), constant_values=PAD)[order]
    target = np.pad(TARGET, ((0, 0), (0, 2)), constant_values=PAD)[order]
    found = np.asarray(run(tied, source, target))[np.argsort(order), :T]
    np.testing.assert_allclose(found[REAL], states[REAL], atol=1e-5)


def test_every_source_word_matters(tied):
    states = np.asarray(run(tied, SOURCE, TARGET))
    for place in range(4):
        changed = SOURCE.copy()
        changed[:, place] = 149
        difference = np.abs(np.asarray(run(tied, changed, TARGET)) - states)
        assert (difference[REAL].max(-1) > 1e-4).all(), place


def test_words_are_scaled_and_their_positions_added():
    class Through(nnx.Module):
        def __call__(self, x, **_):
            return x, {}

    model = nnx.merge(*nnx.split(filled(TIED)))
    model.encoder = Through()
    embedded, _ = model.encode(jnp.asarray(SOURCE))
    words = np.asarray(model.target_embedding.table[...])[SOURCE]
    np.testing.assert_allclose(embedded, words * 24**0.5 + np.asarray(sinusoidal(S, 24)), atol=1e-5)


def test_unrolling_does_not_change_results(tied):
    unrolled = filled(dataclasses.replace(TIED, unroll=2))
    np.testing.assert_allclose(run(unrolled, SOURCE, TARGET), run(tied, SOURCE, TARGET), atol=1e-5)


def test_dropout_is_a_function_of_its_key(tied):
    still = np.asarray(run(tied, SOURCE, TARGET))
    first, again, other = (np.asarray(run(tied, SOURCE, TARGET, jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other)[REAL].max() > 0.1
    assert np.abs(first - still)[REAL].max() > 0.1


def test_bfloat16_computes_near_float32(tied):
    narrow = filled(dataclasses.replace(TIED, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(narrow))} == {jnp.dtype(jnp.float32)}
    found, expected = run(narrow, SOURCE, TARGET), np.asarray(run(tied, SOURCE, TARGET))
    assert found.dtype == jnp.bfloat16
    # States are normed to about 1; eight sublayers each round at 2^-8.
    np.testing.assert_allclose(np.asarray(found, np.float32)[REAL], expected[REAL], atol=0.1)
    assert np.abs(np.asarray(found, np.float32) - expected)[REAL].mean() < 0.02


def test_attention_maps_are_asked_for_and_seen_by_layer(tied):
    @jax.jit
    def maps_of(model, source, target):
        memory, of_encoder = model.encode(source, with_attention=True)
        return of_encoder, model.decode(memory, source, target, with_attention=True)[1]

    of_encoder, of_decoder = jax.tree.map(np.asarray, maps_of(tied, SOURCE, TARGET))
    assert {name: found.shape for name, found in of_encoder.items()} == {"self": (2, B, 4, S, S)}
    assert {name: found.shape for name, found in of_decoder.items()} == {
        "self": (2, B, 4, T, T),
        "memory": (2, B, 4, T, S),
    }
    hidden = np.broadcast_to((SOURCE == PAD)[:, None, None], of_encoder["self"].shape)
    assert (of_encoder["self"][hidden] == 0).all()
    assert (np.triu(of_decoder["self"], 1) == 0).all()
    np.testing.assert_allclose(of_decoder["memory"].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("given", ["segments", "source_segments"])
def test_segments_of_one_side_alone_are_an_error(tied, given):
    segments = jnp.ones((B, T if given == "segments" else S), jnp.int32)
    with pytest.raises(
        ValueError, match=rf"^segments and source_segments must be given together, got {given} alone\.$"
    ):
        tied.decode(jnp.zeros((B, S, 24)), jnp.asarray(SOURCE), jnp.asarray(TARGET), **{given: segments})


def test_a_sequence_longer_than_the_learned_positions_is_an_error():
    model = filled(CONFIGS["pre-norm, learned"])
    with pytest.raises(
        ValueError, match=r"^length must be at most max_length=20 with learned positions, got length=21\.$"
    ):
        model.encode(jnp.ones((2, 21), jnp.int32))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about the CPU")
def test_a_kernel_that_cannot_run_is_an_error():
    model = filled(dataclasses.replace(TIED, kernel="cudnn"))
    with pytest.raises(ValueError, match=r'^kernel="cudnn" cannot be used here: the platform is cpu;'):
        jax.eval_shape(lambda: model.encode(jnp.asarray(SOURCE)))


# Logits.


def test_logits_are_products_with_the_output_table_and_padding_has_no_probability(model, states):
    logits = np.asarray(jax.jit(lambda model, states: model.logits(states))(model, states))
    table = np.asarray(model.output_table())
    words = model.config.target_vocab_size
    assert logits.dtype == np.float32
    assert logits.shape == (B, T, 256)
    np.testing.assert_allclose(logits[..., :words], (states @ table.T)[..., :words], atol=1e-4)
    assert (np.asarray(jax.nn.softmax(logits))[..., words:] == 0).all()


# Parameters.


def tables(model: Seq2Seq) -> set[str]:
    return {path[0] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[1] == "table"}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("all", {"target_embedding"}),
        ("target", {"source_embedding", "target_embedding"}),
        ("none", {"source_embedding", "target_embedding", "output_embedding"}),
    ],
)
def test_embeddings_are_tied_in_three_forms(form, expected):
    config = dataclasses.replace(TIED, tied_embeddings=form)
    model = abstract(config)
    assert tables(model) == expected
    assert count_parameters(model) == count_parameters(abstract(TIED)) + (len(expected) - 1) * WORDS * 24


def test_the_output_is_tied_to_the_target_or_its_own():
    for name, config in CONFIGS.items():
        model = filled(config)
        of = model.output_embedding if config.tied_embeddings == "none" else model.target_embedding
        np.testing.assert_array_equal(model.output_table(), of.table[...], err_msg=name)


def test_tying_all_embeddings_needs_one_vocabulary():
    with pytest.raises(
        ValueError, match=r'^tied_embeddings="all" must have one vocabulary for both sides, got source_v'
    ):
        dataclasses.replace(TIED, target_vocab_size=131)


def test_every_parameter_is_float32_and_names_its_axes(model):
    for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        axes = param.get_metadata("axes")
        assert len(axes) == len(param.shape), path
        assert set(axes) <= {*DEFAULT_RULES, "layers", None}, path
        assert (axes[0] == "layers") == ("blocks" in path), path
        assert param.dtype == np.float32, path


def test_a_model_is_a_function_of_its_seed():
    config = dataclasses.replace(TIED, num_encoder_layers=1, num_decoder_layers=1)
    build = functools.cache(lambda seed: nnx.to_pure_dict(nnx.state(Seq2Seq(config, rngs=nnx.Rngs(seed)), nnx.Param)))
    again = nnx.to_pure_dict(nnx.state(Seq2Seq(config, rngs=nnx.Rngs(1)), nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, build(1), again)
    for name in ("query", "key", "value", "out"):
        weights = [build(seed)["encoder"]["blocks"]["attention"][name]["weight"] for seed in (1, 2)]
        assert np.abs(weights[0] - weights[1]).max() > 0.1


def test_dropout_rates_reach_their_places():
    config = dataclasses.replace(TIED, attention_dropout_rate=0.1, feedforward_dropout_rate=0.2)
    blocks = abstract(config).decoder.blocks
    assert blocks.dropout_rate == 0.3
    assert blocks.attention.dropout_rate == blocks.memory_attention.dropout_rate == 0.1
    assert blocks.feedforward.dropout_rate == 0.2


# Full size, by shape alone.

BASE = Seq2SeqConfig(source_vocab_size=37000, target_vocab_size=37000)
BIG = dataclasses.replace(BASE, width=1024, feedforward_width=4096, num_heads=16, dropout_rate=0.3)


@pytest.mark.parametrize(("config", "millions"), [(BASE, 63.1), (BIG, 214.2)])
def test_vaswanis_models_have_their_size(config, millions):
    width, hidden = config.width, config.feedforward_width
    attention, feedforward, norm = 4 * (width * width + width), 2 * width * hidden + hidden + width, 2 * width
    expected = 37000 * width + 6 * (attention + feedforward + 2 * norm) + 6 * (2 * attention + feedforward + 3 * norm)
    found = count_parameters(abstract(config))
    assert found == expected
    assert round(found / 1e6, 1) == millions


def test_the_multi30k_model_has_its_published_size():
    config = Seq2SeqConfig(
        source_vocab_size=9712,
        target_vocab_size=9712,
        width=128,
        feedforward_width=256,
        num_heads=4,
        num_encoder_layers=4,
        num_decoder_layers=4,
    )
    assert count_parameters(abstract(config)) == 2_568_192


def test_a_full_size_model_runs_by_shape_alone():
    model = abstract(BASE)
    shapes = jax.eval_shape(run, model, *(jax.ShapeDtypeStruct((2, length), jnp.int32) for length in (50, 60)))
    assert shapes.shape == (2, 60, 512)


def test_operations_are_named_after_the_modules_they_belong_to():
    model = abstract(TIED)
    definition, state = nnx.split(model)
    lowered = jax.jit(lambda state, *words: run(nnx.merge(definition, state), *words)).lower(state, SOURCE, TARGET)
    names = lowered.as_text(debug_info=True)
    for scope in ("encoder/embed", "decoder/embed", "attention", "memory_attention", "feedforward"):
        assert scope in names, scope
