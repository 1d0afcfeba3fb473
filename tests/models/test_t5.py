"""T5's form against its formulas in NumPy: scores without a scale, heads of their own width, shared biases, RMSNorm."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.seq2seq import Seq2Seq
from lmx.models.shapes import t5_small, t5_v1_1_base
from lmx.nn.embedding import count_parameters

B, S, T, WORDS, D, H, K, F, N = 2, 23, 17, 50, 12, 3, 6, 20, 2
SIZES = {"source_vocab_size": WORDS, "target_vocab_size": WORDS, "width": D, "num_heads": H, "head_width": K}
SIZES |= {"feedforward_width": F, "num_encoder_layers": N, "num_decoder_layers": N, "dropout_rate": 0.0}
CONFIGS = {
    "1.0": dataclasses.replace(t5_small(), **SIZES),
    "1.1": dataclasses.replace(t5_v1_1_base(), **SIZES),
}


@pytest.fixture(params=CONFIGS, scope="module")
def model(request) -> Seq2Seq:
    """A model with every parameter drawn from a normal distribution, scales around 1."""
    config = CONFIGS[request.param]
    definition, state = nnx.split(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, 0.3, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def tokens(length: int, *, seed: int, real: int) -> np.ndarray:
    """Rows of which the second ends early, with padding."""
    rows = np.random.default_rng(seed).integers(1, WORDS, (B, length)).astype(np.int32)
    rows[1, real:] = 0
    return rows


SOURCE, TARGET = tokens(S, seed=1, real=15), tokens(T, seed=2, real=11)


def bucket(distance: int, *, both_ways: bool) -> int:
    """The authors' `_relative_position_bucket`; a hair is added where a logarithm falls on a border."""
    number = 16 if both_ways else 32
    side, back = (16 if distance > 0 else 0, abs(distance)) if both_ways else (0, max(-distance, 0))
    exact = number // 2
    if back < exact:
        return side + back
    wide = exact + int(math.log(back / exact) / math.log(128 / exact) * (number - exact) + 1e-9)
    return side + min(wide, number - 1)


def by_formula(model: Seq2Seq) -> np.ndarray:
    """The logits of the whole model, in float64."""
    value = lambda param: np.asarray(param[...], np.float64)  # noqa: E731
    config = model.config

    def norm(x, scale):
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * scale

    def attend(part, layer, x, memory, bias, seen):
        query, key, values, out = (value(m.weight)[layer] for m in (part.query, part.key, part.value, part.out))
        scores = np.einsum("btd,dhk,bse,ehk->bhts", x, query, memory, key, optimize=True) + bias
        weights = np.exp(np.where(seen, scores, -1e9) - np.where(seen, scores, -1e9).max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("bhts,bsd,dhk,hke->bte", weights, memory, values, out, optimize=True)

    def feed_forward(part, layer, x):
        up, down = value(part.up.weight)[layer], value(part.down.weight)[layer]
        if config.activation == "relu":
            return np.maximum(x @ up, 0) @ down
        gate = x @ value(part.gate.weight)[layer]
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return (gate * (x @ up)) @ down

    def bias_of(positions, length, both_ways):
        found = [[bucket(s - t, both_ways=both_ways) for s in range(length)] for t in range(length)]
        return value(positions.table)[np.array(found)].transpose(2, 0, 1)

    def run(stack, x, bias, seen, memory=None, memory_seen=None):
        blocks = stack.blocks
        for layer in range(N):
            y = norm(x, value(blocks.attention_norm.scale)[layer])
            x = x + attend(blocks.attention, layer, y, y, bias, seen)
            if memory is not None:
                y = norm(x, value(blocks.memory_norm.scale)[layer])
                x = x + attend(blocks.memory_attention, layer, y, memory, 0.0, memory_seen)
            x = x + feed_forward(blocks.feedforward, layer, norm(x, value(blocks.feedforward_norm.scale)[layer]))
        return norm(x, value(stack.final_norm.scale))

    table = value(model.target_embedding.table)
    words = (SOURCE != 0)[:, None, None]
    memory = run(model.encoder, table[SOURCE], bias_of(model.source_positions, S, True), words)
    bias = bias_of(model.target_positions, T, False)
    states = run(model.decoder, table[TARGET], bias, np.tri(T, dtype=bool), memory, words)
    if config.tied_embeddings == "all":
        return states * D**-0.5 @ table.T
    return states @ value(model.output_embedding.table).T


@jax.jit
def logits_of(model, source, target):
    memory, _ = model.encode(source)
    return model.logits(model.decode(memory, source, target)[0])


def test_logits_are_those_of_the_papers_formulas(model):
    found = np.asarray(logits_of(model, SOURCE, TARGET))[..., :WORDS]
    real = TARGET != 0
    np.testing.assert_allclose(found[real], by_formula(model)[real][..., :WORDS], atol=2e-4)


def test_cached_steps_equal_decoding_the_whole(model):
    slots = T + 2

    @jax.jit
    def run_cached(model, source, target):
        step, cache = model.start_decoding(source, slots=slots)
        logits = []
        for first, last in ((0, 1), (1, T)):
            places = jnp.broadcast_to(jnp.arange(first, last), (B, last - first))
            mask = (jnp.arange(slots) <= places[:, :, None])[:, None]
            found, cache = step(target[:, first:last], cache, jnp.asarray(first), places, mask, jnp.arange(slots))
            logits.append(found)
        return jnp.concatenate(logits, 1)

    real = TARGET != 0
    expected = np.asarray(logits_of(model, SOURCE, TARGET))
    np.testing.assert_allclose(np.asarray(run_cached(model, SOURCE, TARGET))[real], expected[real], atol=1e-4)


def test_inputs_share_a_table_and_the_output_has_its_own():
    tied, inputs, none = (
        count_parameters(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))))  # noqa: B023
        for config in (dataclasses.replace(CONFIGS["1.1"], tied_embeddings=form) for form in ("all", "inputs", "none"))
    )
    assert (inputs - tied, none - tied) == (WORDS * D, 2 * WORDS * D)
    with pytest.raises(ValueError, match=r'^tied_embeddings="inputs" must have one vocabulary for both sides, got'):
        dataclasses.replace(CONFIGS["1.1"], target_vocab_size=WORDS + 1)
