"""Every model family and every preset, traced for a GPU: each attention takes the fused kernel or says why not."""

import functools
import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from lmx.definition import define
from lmx.experiment import attention_facts
from lmx.losses import cross_entropy
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import ClassifierConfig, Encoder, EncoderClassifier, EncoderConfig
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.step import use_mesh
from lmx.text import ByteTokenizer
from lmx.training import make_eval_step, make_train_step
from lmx.translator import Translator
from tests.cudnn import calls_for_cuda, fused_calls, gpu  # noqa: F401

ROOT = Path(__file__).parents[1]
V, ROWS, LENGTH = 40, 8, 11  # odd, as the buckets of real data are
SIZES = {"width": 64, "feedforward_width": 32, "num_heads": 4, "dropout_rate": 0.1}


def seq2seq_loss(model, batch, key, segments):
    packed = {} if segments is None else {"segments": segments}
    memory, _ = model.encode(batch["tokens"], key=key, **packed)
    packed = packed and {**packed, "source_segments": segments}
    states, _ = model.decode(memory, batch["tokens"], batch["targets"], key=key, **packed)
    return states


def plain_loss(model, batch, key, segments):
    return model(batch["tokens"], key=key, **({} if segments is None else {"segments": segments}))[0]


FAMILIES = {
    "encoder": (
        Encoder,
        functools.partial(EncoderConfig, vocab_size=V, num_layers=2, attention_dropout_rate=0.0),
        plain_loss,
    ),
    "classifier": (
        EncoderClassifier,
        functools.partial(ClassifierConfig, vocab_size=V, num_layers=2, num_outputs=3, attention_dropout_rate=0.0),
        plain_loss,
    ),
    "decoder": (Decoder, functools.partial(DecoderConfig, vocab_size=V, num_layers=2), plain_loss),
    "seq2seq": (
        Seq2Seq,
        functools.partial(
            Seq2SeqConfig, source_vocab_size=V, target_vocab_size=V, num_encoder_layers=2, num_decoder_layers=2
        ),
        seq2seq_loss,
    ),
}
ATTENTIONS = {"encoder": 1, "classifier": 1, "decoder": 1, "seq2seq": 3}
MESHES = [{}, {"data": 4}, {"fsdp": 4}, {"tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {"sequence": 2}]


def mesh_of(sizes: dict[str, int]) -> Mesh:
    return make_mesh(MeshConfig(**{"data": 1, **sizes}), devices=jax.devices()[: int(np.prod([1, *sizes.values()]))])


def gradient_of(family: str, *, dtype: str, sizes: dict[str, int], length: int = LENGTH, packed=False, **changes):
    """Returns a family's gradient by its parameters, and shapes to trace it with."""
    kind, config, states_of = FAMILIES[family]
    config = config(dtype=dtype, **SIZES, **changes)
    definition = define(lambda rngs: kind(config, rngs=rngs))
    mesh = mesh_of(sizes)

    def loss(params, batch, key):
        with use_mesh(mesh):
            network = definition.merge(params)
            states = states_of(network, batch, key, batch["segments"] if packed else None)
            if family == "classifier":
                return jnp.square(states).sum()
            labels, table = batch["targets"], network.output_table()
            return cross_entropy(states, table, labels, labels > 0, vocab_size=V).loss

    shape = jax.ShapeDtypeStruct((ROWS, length), jnp.int32)
    batch = {"tokens": shape, "targets": shape, "segments": shape}
    arguments = definition.shapes, batch, jax.eval_shape(lambda: jax.random.key(0))
    return jax.grad(loss), arguments, definition.network, config, mesh


@pytest.mark.parametrize(
    ("dtype", "sizes"), [("float16", {}), *(("bfloat16", sizes) for sizes in MESHES)], ids=lambda part: str(part)
)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_takes_the_fused_kernel_or_names_the_obstacle(family, dtype, sizes, gpu):  # noqa: F811
    length = 12 if "sequence" in sizes else LENGTH
    gradient, arguments, model, config, mesh = gradient_of(family, dtype=dtype, sizes=sizes, length=length)
    facts = attention_facts(config, model, mesh)
    if "sequence" in sizes:
        assert facts == {"attention_kernel": "xla", "attention_reason": "the mesh splits sequences"}
        assert fused_calls(gradient, *arguments) == 0
        with pytest.raises(ValueError, match=r'^kernel="cudnn" cannot be used here: the mesh splits sequences'):
            attention_facts(replace(config, kernel="cudnn"), model, mesh)
    else:
        assert facts == {"attention_kernel": "cudnn", "attention_reason": "fused, and it applies"}
        assert fused_calls(gradient, *arguments) == ATTENTIONS[family]


@pytest.mark.parametrize(("kernel", "calls"), [("cudnn", 3), ("xla", 0)])
def test_a_kernel_that_is_asked_for_is_taken(kernel, calls, gpu):  # noqa: F811
    gradient, arguments, model, config, mesh = gradient_of("seq2seq", dtype="bfloat16", sizes={}, kernel=kernel)
    assert attention_facts(config, model, mesh) == {"attention_kernel": kernel, "attention_reason": "asked for"}
    assert fused_calls(gradient, *arguments) == calls


@pytest.mark.parametrize("family", ["encoder", "decoder", "seq2seq"])
def test_a_model_with_biases_takes_the_fused_kernel_where_it_is_asked_to(family, gpu):  # noqa: F811
    options = {"dtype": "bfloat16", "sizes": {}, "positions": "t5"}
    gradient, arguments, model, config, mesh = gradient_of(family, **options)
    reason, fused = "a bias is added to the scores", {"memory: fused, and it applies"} if family == "seq2seq" else set()
    facts = attention_facts(config, model, mesh)
    if family == "seq2seq":
        assert facts["attention_kernel"] == "encoder: xla, decoder: xla, memory: cudnn"
    else:
        assert facts == {"attention_kernel": "xla", "attention_reason": reason}
    assert reason in facts["attention_reason"]
    assert all(text in facts["attention_reason"] for text in fused)
    assert fused_calls(gradient, *arguments) == len(fused)
    gradient, arguments, model, config, mesh = gradient_of(family, **options, kernel="cudnn")
    assert attention_facts(config, model, mesh) == {"attention_kernel": "cudnn", "attention_reason": "asked for"}
    assert fused_calls(gradient, *arguments) == ATTENTIONS[family]
    assert calls_for_cuda(gradient, *arguments) == 2 * ATTENTIONS[family]


@pytest.mark.parametrize("length", [11, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_lowered_for_cuda(family, length, gpu):  # noqa: F811
    gradient, arguments, *_ = gradient_of(family, dtype="bfloat16", sizes={}, length=length, num_kv_heads=2)
    # A scan's body stands in the program once: each attention once there and once back.
    assert calls_for_cuda(gradient, *arguments) == 2 * ATTENTIONS[family]


@pytest.mark.parametrize("family", ["encoder", "decoder", "seq2seq"])
def test_packed_rows_take_the_other_kernel(family, gpu):  # noqa: F811
    gradient, arguments, model, config, mesh = gradient_of(family, dtype="bfloat16", sizes={}, packed=True)
    assert fused_calls(gradient, *arguments) == 0
    assert calls_for_cuda(gradient, *arguments) == 0
    # The facts of the start say so, and what cannot be is refused there.
    facts = attention_facts(config, model, mesh, given=("segments",))
    assert facts == {"attention_kernel": "xla", "attention_reason": "rows are packed"}
    with pytest.raises(ValueError, match=r'^kernel="cudnn" cannot be used here: rows are packed\. Say'):
        attention_facts(replace(config, kernel="cudnn"), model, mesh, given=("segments",))


def test_a_prefix_takes_the_other_kernel(gpu):  # noqa: F811
    _, _, model, config, mesh = gradient_of("decoder", dtype="bfloat16", sizes={})
    facts = attention_facts(config, model, mesh, given=("prefix",))
    assert facts == {"attention_kernel": "xla", "attention_reason": "a prefix is seen from before it"}


def test_dropout_on_attention_weights_is_said_and_only_training_pays_for_it(gpu):  # noqa: F811
    _, _, model, config, mesh = gradient_of("encoder", dtype="bfloat16", sizes={})
    config = replace(config, attention_dropout_rate=0.1)
    assert attention_facts(config, model, mesh) == {
        "attention_kernel": "xla",
        "attention_reason": "attention weights are dropped out",
    }
    model = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))
    tokens, key = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    definition, params = nnx.split(model)
    run = lambda params, tokens, key: nnx.merge(definition, params)(tokens, key=key)[0]  # noqa: E731
    assert fused_calls(run, params, tokens, key) == 0
    assert fused_calls(lambda params, tokens: run(params, tokens, None), params, tokens) == 1


def test_kernels_that_differ_within_a_model_are_told_apart(gpu):  # noqa: F811
    from lmx.nn.masks import Sees

    _, _, _, config, mesh = gradient_of("decoder", dtype="bfloat16", sizes={})

    class Local:
        def attentions(self):
            return {"whole": Sees(causal=True), "local": Sees(window=4)}

    assert attention_facts(config, Local(), mesh) == {
        "attention_kernel": "whole: cudnn, local: xla",
        "attention_reason": "whole: fused, and it applies, local: the window looks ahead",
    }


# Presets.


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


translation, classification = script("translation"), script("classification")


@pytest.mark.parametrize("preset", translation.PRESETS)
def test_translation_presets_train_validate_and_decode_on_a_gpu(preset, gpu):  # noqa: F811
    tokenizer = ByteTokenizer()
    config = translation.PRESETS[preset][1]
    model = replace(config.model, source_vocab_size=260, target_vocab_size=260, dtype="bfloat16")
    parts = translation.build(config, model)
    params = nnx.to_pure_dict(nnx.state(parts.model.network, nnx.Param))
    shape = jax.ShapeDtypeStruct((1, 8, 13), jnp.int32)
    batch = {"source": shape, "decoder_input": shape, "target": shape}
    from lmx.training import create_state

    state = jax.eval_shape(lambda params: create_state(params, parts.optimizer, seed=0), params)
    assert fused_calls(make_train_step(parts.loss, parts.optimizer), state, batch) == 3
    rows = {name: jax.ShapeDtypeStruct(shape.shape[1:], jnp.int32) for name in batch}
    assert fused_calls(make_eval_step(parts.loss), params, rows) == 3
    translator = Translator(model, params, source_tokenizer=tokenizer, target_tokenizer=tokenizer, search=config.search)
    # The encoder alone: decoding reads a cache, where a fused kernel has nothing to give.
    decode = functools.partial(translator._make_search(), max_length=20)
    assert fused_calls(decode, params, rows["source"]) == 1


@pytest.mark.parametrize("preset", classification.PRESETS)
def test_classification_presets_train_and_label_on_a_gpu(preset, gpu):  # noqa: F811
    config = classification.PRESETS[preset][1]
    model = replace(config.model, vocab_size=300, num_outputs=3, dtype="bfloat16")
    parts = classification.build(config, model, kind="single", updates=100_000, replacement=3)
    params = nnx.to_pure_dict(nnx.state(parts.model.network, nnx.Param))
    tokens, of_rows = jax.ShapeDtypeStruct((8, 13), jnp.int32), jax.ShapeDtypeStruct((8,), jnp.float32)
    rows = {"tokens": tokens, "types": tokens, "weights": of_rows, "labels": jax.ShapeDtypeStruct((8,), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    training = fused_calls(jax.grad(lambda params, rows, key: parts.loss(params, rows, key)["loss"]), params, rows, key)
    assert training == (0 if model.attention_dropout_rate else 1)
    assert fused_calls(make_eval_step(parts.loss), params, rows) == 1


def test_training_classifiers_names_what_keeps_it_from_the_fused_kernel():
    model = classification.PRESETS["own"][1].model
    one, many = mesh_of({}), mesh_of({"data": 2})
    holes = "word dropout leaves padding between words"
    choose = classification.training_kernel
    assert choose(model, one, stacked=True) == (model, None)
    assert choose(model, one, stacked=True, holes=holes) == (replace(model, kernel="xla"), holes)
    assert choose(model, many, stacked=False) == (model, None)
    chosen, reason = choose(model, many, stacked=True)
    assert chosen.kernel == "xla"
    assert reason.startswith("seeds share a step by vmap")
    with pytest.raises(
        ValueError, match=r"^model\.kernel must be auto or xla, got kernel=cudnn: word dropout leaves pad"
    ):
        choose(replace(model, kernel="cudnn"), one, stacked=True, holes=holes)


def test_words_dropped_to_padding_are_not_seen(gpu):  # noqa: F811
    config = classification.PRESETS["own"][1]
    model = replace(config.model, vocab_size=300, num_outputs=3, dtype="bfloat16", attention_dropout_rate=0.0)
    config = replace(config, optimization=replace(config.optimization, word_dropout=0.5))
    tokens = jax.ShapeDtypeStruct((8, 13), jnp.int32)
    of_rows = jax.ShapeDtypeStruct((8,), jnp.float32)
    rows = {"tokens": tokens, "types": tokens, "weights": of_rows, "labels": jax.ShapeDtypeStruct((8,), jnp.int32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    for replacement, calls in ((model.pad_id, 0), (3, 1)):
        parts = classification.build(config, model, kind="single", updates=100_000, replacement=replacement)
        params = nnx.to_pure_dict(nnx.state(parts.model.network, nnx.Param))
        assert fused_calls(parts.loss, params, rows, key) == calls
        assert fused_calls(lambda params, rows: parts.loss(params, rows, None), params, rows) == 1  # noqa: B023
