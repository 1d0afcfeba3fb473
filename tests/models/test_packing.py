"""Texts packed into rows are texts by themselves: the same loss and the same gradients, in every family and form."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.experiment import attention_facts
from lmx.losses import token_loss
from lmx.models.decoder import Decoder
from lmx.models.masked import MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.models.shapes import bert_base, gpt2_124m, llama_8b, t5_small
from lmx.nn.kernels import Accelerator, choose_kernel
from lmx.nn.masks import Sees
from lmx.sharding.mesh import MeshConfig, make_mesh
from tests.cudnn import gpu  # noqa: F401

WORDS = 90
SMALL = {"width": 24, "feedforward_width": 36, "num_heads": 4, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
ONE = {**SMALL, "vocab_size": WORDS, "num_layers": 2, "max_length": 20}
TWO = {**SMALL, "source_vocab_size": WORDS, "target_vocab_size": WORDS, "num_encoder_layers": 2}
TWO |= {"num_decoder_layers": 2, "max_length": 20}
GEMMA = {"num_kv_heads": 2, "head_width": 8, "qk_norm": True, "score_cap": 2.0, "logit_cap": 3.0, "window": 3}
FAMILIES = {
    "GPT-2": (Decoder, dataclasses.replace(gpt2_124m(), **ONE)),
    "Llama, with all of Gemma's and Qwen's": (Decoder, dataclasses.replace(llama_8b(), **ONE | GEMMA)),
    "BERT": (MaskedEncoder, dataclasses.replace(bert_base(), **ONE)),
    "Vaswani": (Seq2Seq, Seq2SeqConfig(**TWO)),
    "T5": (Seq2Seq, dataclasses.replace(t5_small(), **TWO, head_width=8)),
}
# Of each text, source and target; a decoder or an encoder reads the target alone. Two rows of packed texts.
SOURCES, TARGETS = [6, 3, 8, 5], [5, 7, 4, 6]
ROWS = [[0, 1], [2, 3]]
LENGTH, PACKED = 9, 16


def texts(lengths: list[int], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, WORDS, length) for length in lengths]


def separate(texts: list[np.ndarray]) -> np.ndarray:
    """One text a row, and its padding."""
    return np.stack([np.pad(text, (0, LENGTH - len(text))) for text in texts]).astype(np.int32)


def packed(texts: list[np.ndarray]) -> SimpleNamespace:
    """Two texts a row, in segments 1 and 2, each with positions from 0, and padding."""
    found = np.zeros((3, len(ROWS), PACKED), np.int32)
    for row, members in enumerate(ROWS):
        start = 0
        for number, member in enumerate(members, start=1):
            text = texts[member]
            place = slice(start, start + len(text))
            found[:, row, place] = text, np.full(len(text), number), np.arange(len(text))
            start += len(text)
    return SimpleNamespace(
        **{name: jnp.asarray(x) for name, x in zip(("tokens", "segments", "positions"), found, strict=True)}
    )


def filled(kind, config) -> nnx.Module:
    """Builds a model with every parameter drawn from a normal distribution, scales around 1."""
    definition, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    generator = np.random.default_rng(8)

    def draw(path, shape):
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(generator.normal(mean, config.width**-0.5, shape.shape), shape.dtype)

    return nnx.merge(definition, jax.tree_util.tree_map_with_path(draw, state))


def states_of(model, source, target) -> jax.Array:
    """Returns the states of packed texts, or of separate ones where they have no segments."""
    if not isinstance(model, Seq2Seq):
        return model(target.tokens, segments=target.segments, positions=target.positions)[0]
    memory, _ = model.encode(source.tokens, segments=source.segments, positions=source.positions)
    states, _ = model.decode(
        memory,
        source.tokens,
        target.tokens,
        source_segments=source.segments,
        segments=target.segments,
        positions=target.positions,
    )
    return states


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("GPT-2", "Vaswani") else ()) for name in FAMILIES]
)
def test_packed_texts_have_the_loss_and_the_gradients_of_separate_texts(name):
    model = filled(*FAMILIES[name])
    definition, state = nnx.split(model)
    every = [(texts(lengths, seed)) for lengths, seed in ((SOURCES, 1), (TARGETS, 2), (TARGETS, 3))]

    def loss(state, source, target, labels):
        network = nnx.merge(definition, state)
        states = states_of(network, source, target)
        found = token_loss(states, network.output(), labels.tokens, labels.tokens != 0)
        return found.loss, found.weight

    @jax.jit
    def both(state):
        apart = [SimpleNamespace(tokens=jnp.asarray(separate(x)), segments=None, positions=None) for x in every]
        together = [packed(x) for x in every]
        return [jax.value_and_grad(loss, has_aux=True)(state, *given) for given in (apart, together)]

    ((apart, number), apart_gradients), ((together, again), together_gradients) = both(state)
    assert number == again == sum(TARGETS)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    for (path, one), (_, other) in zip(
        nnx.to_flat_state(apart_gradients), nnx.to_flat_state(together_gradients), strict=True
    ):
        largest = np.abs(one[...]).max()
        np.testing.assert_allclose(other[...], one[...], atol=2e-5 * max(1.0, largest), err_msg=str(path))
        # A softmax does not see what is added to all keys of a query.
        assert largest > 1e-4 or path[-2:] == ("key", "bias"), path


def test_other_texts_of_a_row_do_not_matter():
    model = filled(*FAMILIES["T5"])
    run = jax.jit(lambda model, *sides: states_of(model, *(SimpleNamespace(**side) for side in sides)))
    source, target = (vars(packed(texts(lengths, seed))) for lengths, seed in ((SOURCES, 1), (TARGETS, 2)))
    before = np.asarray(run(model, source, target))
    changed = [side | {"tokens": jnp.where(side["segments"] == 1, 7, side["tokens"])} for side in (source, target)]
    second = np.asarray(target["segments"]) == 2
    after = np.asarray(run(model, *changed))
    np.testing.assert_allclose(after[second], before[second], atol=1e-5)
    assert np.abs(after - before)[np.asarray(target["segments"]) == 1].max() > 0.01


def test_the_fused_kernel_refuses_packed_rows_and_capped_scores_by_name(gpu):  # noqa: F811
    rows = jax.ShapeDtypeStruct((2, PACKED), jnp.int32)
    fitting = {"dtype": jnp.bfloat16, "head_width": 64, "on": Accelerator("cuda", 9.0)}
    with pytest.raises(ValueError, match=r'^kernel="cudnn" cannot be used here: rows are packed\. Say'):
        choose_kernel("cudnn", Sees(causal=True, segments=(rows, rows)), **fitting)
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])
    kind, config = FAMILIES["Llama, with all of Gemma's and Qwen's"]
    for cap, kernel, reason in ((2.0, "xla", "the scores are capped"), (None, "cudnn", "fused, and it applies")):
        chosen = dataclasses.replace(config, score_cap=cap, dtype="bfloat16")
        facts = attention_facts(chosen, nnx.eval_shape(lambda: kind(chosen, rngs=nnx.Rngs(0))), mesh)  # noqa: B023
        assert facts == {"attention_kernel": kernel, "attention_reason": reason}
