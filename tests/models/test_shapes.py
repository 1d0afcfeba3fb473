"""Full sizes by shape alone: published models have the published number of parameters, and a step of them is traced."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lmx.costs import count_flops
from lmx.models import decoder, masked, seq2seq
from lmx.models.shapes import SHAPES, nano_gpt
from lmx.nn.config import TransformerConfig
from lmx.nn.embedding import count_parameters
from lmx.nn.flops import MultiplyAdds, of_stack

# Of the published weights, padding left out; the models' cards and the papers round them.
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
    "llama-1b": 1_235_814_400,
    "llama-8b": 8_030_261_248,
    "llama-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen3-600m": 596_049_920,
    "bert-base": 109_514_298,  # encoder and masked-language head, without the pooler
    "bert-large": 335_174_458,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-base": 247_577_856,
}
KINDS = {
    decoder.DecoderConfig: decoder.Decoder,
    masked.MaskedConfig: masked.MaskedEncoder,
    seq2seq.Seq2SeqConfig: seq2seq.Seq2Seq,
}


def abstract(name: str) -> nnx.Module:
    config = SHAPES[name]()
    return nnx.eval_shape(lambda: KINDS[type(config)](config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_published_model_has_its_published_size(name, parameters):
    assert count_parameters(abstract(name)) == parameters


@pytest.mark.parametrize(("name", "with_pooler"), [("bert-base", 109_482_240), ("bert-large", 335_141_888)])
def test_berts_encoder_has_its_published_size_with_the_pooler_that_only_next_sentences_train(name, with_pooler):
    config = SHAPES[name]()
    pooler = config.width * config.width + config.width
    assert count_parameters(abstract(name).encoder) + pooler == with_pooler


# What no parameter counts, as papers and cards have it; of the others, all are the defaults of their kind.
NOT_COUNTED = {
    "gpt2": {"norm_epsilon": 1e-5, "activation": "gelu", "positions": "learned", "norm": "layer", "max_length": 1024},
    "llama-8b": {"norm_epsilon": 1e-5, "rotary_base": 500_000.0, "max_length": 8192},
    "llama-70b": {"norm_epsilon": 1e-5, "rotary_base": 500_000.0, "max_length": 8192},
    "llama-1b": {"norm_epsilon": 1e-5, "rotary_base": 500_000.0, "max_length": 8192},
    "mistral-7b": {"norm_epsilon": 1e-5, "window": 4096, "max_length": 32768},
    "qwen3-600m": {"norm_epsilon": 1e-6, "rotary_base": 1_000_000.0, "max_length": 32768},
    "bert": {"norm_epsilon": 1e-12, "activation": "gelu-exact"},
    "t5": {
        "attention_scale": 1.0,
        "norm": "rms",
        "norm_epsilon": 1e-6,
        "norm_position": "pre",
        "positions": "t5",
        "scaled_embeddings": False,
        "embedding_init": "t5",
        "max_length": 512,
    },
}
OF_FIRST_T5 = {"scaled_output": True, "tied_embeddings": "all"}
OF_SECOND_T5 = {"activation": "gated-gelu", "dropout_rate": 0.0, "tied_embeddings": "inputs"}
COUNTED = {
    *("vocab_size", "source_vocab_size", "target_vocab_size", "width", "feedforward_width", "num_heads", "use_bias"),
    *("num_kv_heads", "head_width", "num_layers", "num_encoder_layers", "num_decoder_layers", "num_types", "qk_norm"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_has_no_parameters_is_as_it_was_published(name):
    config = SHAPES[name]()
    expected = NOT_COUNTED.get(name) or NOT_COUNTED[name.partition("-")[0]]
    if isinstance(config, seq2seq.Seq2SeqConfig):
        expected = expected | (OF_SECOND_T5 if "v1.1" in name else OF_FIRST_T5)
    if isinstance(config, decoder.DecoderConfig):  # by the shapes of its tables, which the sizes above tell apart
        expected = expected | {"tied_embeddings": config.tied_embeddings}
    for each in dataclasses.fields(config):
        if each.name not in COUNTED:
            assert getattr(config, each.name) == expected.get(each.name, each.default), each.name


def test_a_small_gpt_2_has_nanogpts_form():
    found = nano_gpt(256, width=384, num_layers=6)
    sizes = {"vocab_size": 0, "width": 384, "feedforward_width": 1536, "num_heads": 6, "num_layers": 6}
    expected = dataclasses.replace(SHAPES["gpt2-124m"](), **sizes, use_bias=False, max_length=256, unroll=6)
    assert found == expected


SMALL = TransformerConfig(width=8, feedforward_width=12, num_heads=2, num_kv_heads=1)


@pytest.mark.parametrize(
    ("changes", "given", "weights", "seen"),
    [
        ({}, {}, 10 * (2 * 8 * 12 + 2 * 8 * 12), 100),
        ({"activation": "gated-silu"}, {}, 10 * (2 * 8 * 12 + 3 * 8 * 12), 100),
        ({}, {"is_causal": True}, 3840, 50),
        ({"window": 3}, {}, 3840, 2 * (3 * 10 - 4.5)),
        ({"window": 3}, {"is_causal": True}, 3840, 3 * 10 - 4.5),
        ({"window": 50}, {"is_causal": True}, 3840, 50),
        # Queries and what goes out, of the row; keys and values, of the memory; two products of both.
        ({}, {"memory": 7}, 3840 + 2 * 10 * 8 * 8 + 2 * 7 * 8 * 4 + 2 * 10 * 7 * 8, 100),
    ],
)
def test_a_stacks_multiply_adds_are_its_products_and_the_pairs_that_see_each_other(changes, given, weights, seen):
    found = of_stack(dataclasses.replace(SMALL, **changes), layers=3, length=10, **given)
    assert (found.whole, found.seen) == (3 * (weights + 2 * 8 * 100), 3 * (weights + 2 * 8 * seen))
    assert found + 5 == MultiplyAdds(found.whole + 5, found.seen + 5)
    assert found + MultiplyAdds(1.0, 2.0) == MultiplyAdds(found.whole + 1, found.seen + 2)
    assert found.of_training(4) == (24 * found.whole, 24 * found.seen)


def test_every_shape_has_its_size_here():
    assert set(SHAPES) == set(PUBLISHED)


def test_the_page_of_models_says_these_sizes():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"`([a-z0-9.-]+)` \| ([\d,]+) \|", page)
    assert {name: int(number.replace(",", "")) for name, number in rows} == PUBLISHED


@pytest.mark.parametrize("name", ["gpt2-124m", "llama-8b", "bert-base", "t5-11b"])
def test_the_flops_of_full_sizes_are_those_of_their_steps(name):
    config, model, length = SHAPES[name](), abstract(name), 256
    definition, state = nnx.split(model)
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)

    def logits(state, tokens):
        network = nnx.merge(definition, state)
        if isinstance(network, seq2seq.Seq2Seq):
            states, _ = network.decode(network.encode(tokens)[0], tokens, tokens)
        else:
            states, _ = network(tokens)
        return network.logits(states).sum()

    flops = {
        decoder.Decoder: lambda: decoder.training_flops(config, rows=2, length=length),
        masked.MaskedEncoder: lambda: masked.training_flops(config, rows=2, length=length),
        seq2seq.Seq2Seq: lambda: seq2seq.training_flops(config, rows=2, source=length, target=length),
    }
    whole, seen = flops[type(model)]()
    assert count_flops(jax.grad(logits), state, tokens).total == pytest.approx(whole, rel=0.02)
    assert seen == whole if name == "bert-base" else 0.8 * whole < seen < whole
