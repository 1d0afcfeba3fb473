"""Published models by name: the configs of their full sizes, without a vocabulary's padding or a training's choices.

`tests/models/test_shapes.py` holds the published number of parameters beside each. A script changes what is a choice of
its training: `dataclasses.replace(gpt2_124m(), dtype="bfloat16", remat="full", max_length=512)`.
"""

import dataclasses
from collections.abc import Callable, Mapping

from lmx.models.decoder import DecoderConfig
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig


def _gpt2(width: int, *, num_layers: int, num_heads: int) -> DecoderConfig:
    """Returns GPT-2's form: Radford et al. 2019, section 2.3. Published trainings drop out 0.1 of everything."""
    return DecoderConfig(
        vocab_size=50257,
        width=width,
        feedforward_width=4 * width,
        num_heads=num_heads,
        num_layers=num_layers,
        norm="layer",
        norm_epsilon=1e-5,
        activation="gelu",
        positions="learned",
        use_bias=True,
        tied_embeddings=True,
        max_length=1024,
    )


def gpt2_124m() -> DecoderConfig:
    """Returns the smallest GPT-2, which the paper calls 117M."""
    return _gpt2(768, num_layers=12, num_heads=12)


def gpt2_355m() -> DecoderConfig:
    """Returns the second GPT-2, which the paper calls 345M."""
    return _gpt2(1024, num_layers=24, num_heads=16)


def gpt2_774m() -> DecoderConfig:
    """Returns the third GPT-2, which the paper calls 762M."""
    return _gpt2(1280, num_layers=36, num_heads=20)


def gpt2_1558m() -> DecoderConfig:
    """Returns the largest GPT-2, which the paper calls 1542M."""
    return _gpt2(1600, num_layers=48, num_heads=25)


def nano_gpt(context: int, *, width: int, num_layers: int) -> DecoderConfig:
    """Returns nanoGPT's form of a small GPT-2, as many heads as layers and no biases; the vocabulary is the data's."""
    return DecoderConfig(
        vocab_size=0,
        width=width,
        feedforward_width=4 * width,
        num_heads=num_layers,
        num_layers=num_layers,
        unroll=num_layers,
        norm="layer",
        norm_epsilon=1e-5,
        activation="gelu",
        positions="learned",
        tied_embeddings=True,
        max_length=context,
    )


def llama_8b() -> DecoderConfig:
    """Returns Llama 3 of 8B: Grattafiori et al. 2024, table 3."""
    return DecoderConfig(
        vocab_size=128256,
        width=4096,
        feedforward_width=14336,
        num_heads=32,
        num_kv_heads=8,
        num_layers=32,
        norm_epsilon=1e-5,
        rotary_base=500_000.0,
        max_length=8192,
    )


def llama_70b() -> DecoderConfig:
    """Returns Llama 3 of 70B: Grattafiori et al. 2024, table 3."""
    return dataclasses.replace(llama_8b(), width=8192, feedforward_width=28672, num_heads=64, num_layers=80)


def llama_1b() -> DecoderConfig:
    """Returns Llama 3.2 of 1B, by its model card. Its rotations are not stretched for rows beyond 8,192, as there."""
    return dataclasses.replace(llama_8b(), width=2048, feedforward_width=8192, num_layers=16, tied_embeddings=True)


def mistral_7b() -> DecoderConfig:
    """Returns Mistral of 7B, which sees 4,096 tokens back in each layer: Jiang et al. 2023, table 1."""
    return DecoderConfig(
        vocab_size=32000,
        width=4096,
        feedforward_width=14336,
        num_heads=32,
        num_kv_heads=8,
        num_layers=32,
        norm_epsilon=1e-5,
        window=4096,
        max_length=32768,
    )


def qwen3_600m() -> DecoderConfig:
    """Returns Qwen3 of 0.6B, its heads normed and wider together than the model: Yang et al. 2025, table 1."""
    return DecoderConfig(
        vocab_size=151936,
        width=1024,
        feedforward_width=3072,
        num_heads=16,
        num_kv_heads=8,
        head_width=128,
        qk_norm=True,
        num_layers=28,
        norm_epsilon=1e-6,
        rotary_base=1_000_000.0,
        tied_embeddings=True,
        max_length=32768,
    )


def _bert(width: int, *, num_layers: int, num_heads: int) -> MaskedConfig:
    """Returns BERT's form, with the English vocabulary in lower case: Devlin et al. 2019, section 3."""
    return MaskedConfig(
        vocab_size=30522,
        width=width,
        feedforward_width=4 * width,
        num_heads=num_heads,
        num_layers=num_layers,
        num_types=2,
        norm_epsilon=1e-12,
        activation="gelu-exact",
        max_length=512,
    )


def bert_base() -> MaskedConfig:
    """Returns BERT base, uncased."""
    return _bert(768, num_layers=12, num_heads=12)


def bert_large() -> MaskedConfig:
    """Returns BERT large, uncased."""
    return _bert(1024, num_layers=24, num_heads=16)


def _t5(width: int, *, feedforward_width: int, num_heads: int, num_layers: int, head_width: int = 64) -> Seq2SeqConfig:
    """Returns T5's form: Raffel et al. 2020, section 2.1 and appendix; the vocabulary as mesh-tensorflow pads it."""
    return Seq2SeqConfig(
        source_vocab_size=32128,
        target_vocab_size=32128,
        width=width,
        feedforward_width=feedforward_width,
        num_heads=num_heads,
        head_width=head_width,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
        attention_scale=1.0,
        norm="rms",
        norm_epsilon=1e-6,
        norm_position="pre",
        activation="relu",
        positions="t5",
        scaled_embeddings=False,
        scaled_output=True,
        embedding_init="t5",
        use_bias=False,
        max_length=512,
    )


def t5_small() -> Seq2SeqConfig:
    """Returns T5 small."""
    return _t5(512, feedforward_width=2048, num_heads=8, num_layers=6)


def t5_base() -> Seq2SeqConfig:
    """Returns T5 base."""
    return _t5(768, feedforward_width=3072, num_heads=12, num_layers=12)


def t5_large() -> Seq2SeqConfig:
    """Returns T5 large."""
    return _t5(1024, feedforward_width=4096, num_heads=16, num_layers=24)


def t5_3b() -> Seq2SeqConfig:
    """Returns T5 of 3B."""
    return _t5(1024, feedforward_width=16384, num_heads=32, num_layers=24, head_width=128)


def t5_11b() -> Seq2SeqConfig:
    """Returns T5 of 11B, whose heads are together 16 times as wide as the model."""
    return _t5(1024, feedforward_width=65536, num_heads=128, num_layers=24, head_width=128)


def t5_v1_1_base() -> Seq2SeqConfig:
    """Returns T5 1.1 base: a gate, no output tied to the inputs, no dropout. Source: the authors' notes of release."""
    return dataclasses.replace(
        t5_base(),
        feedforward_width=2048,
        activation="gated-gelu",
        tied_embeddings="inputs",
        scaled_output=False,
        dropout_rate=0.0,
    )


SHAPES: Mapping[str, Callable[[], DecoderConfig | MaskedConfig | Seq2SeqConfig]] = {
    "gpt2-124m": gpt2_124m,
    "gpt2-355m": gpt2_355m,
    "gpt2-774m": gpt2_774m,
    "gpt2-1558m": gpt2_1558m,
    "llama-1b": llama_1b,
    "llama-8b": llama_8b,
    "llama-70b": llama_70b,
    "mistral-7b": mistral_7b,
    "qwen3-600m": qwen3_600m,
    "bert-base": bert_base,
    "bert-large": bert_large,
    "t5-small": t5_small,
    "t5-base": t5_base,
    "t5-large": t5_large,
    "t5-3b": t5_3b,
    "t5-11b": t5_11b,
    "t5-v1.1-base": t5_v1_1_base,
}
