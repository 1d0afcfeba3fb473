"""Sizes, rates and numbers of a model that no model can have are refused in one line, by every family."""

from dataclasses import asdict, fields, replace

import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.embedder import EmbedderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.models.vision import VisionConfig, VisionTransformer

IMAGES = VisionConfig(image_height=4, image_width=4, image_channels=1, num_outputs=2)
FAMILIES = {
    Decoder: DecoderConfig(vocab_size=9),
    MaskedEncoder: MaskedConfig(vocab_size=9),
    EncoderClassifier: ClassifierConfig(vocab_size=9, num_outputs=2),
    Seq2Seq: Seq2SeqConfig(source_vocab_size=9, target_vocab_size=9),
    VisionTransformer: IMAGES,
}


@pytest.mark.parametrize("network", FAMILIES)
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_heads", 0, r"^num_heads must be at least 1, got num_heads=0\.$"),
        ("head_width", -1, r"^head_width must be at least 1, got head_width=-1\.$"),
        ("window", 0, r"^window must be at least 1, got window=0\.$"),
        ("pad_id", -1, r"^pad_id must be at least 0, got pad_id=-1\.$"),
        ("dropout_rate", 1.0, r"^dropout_rate must be at least 0 and below 1, got dropout_rate=1\.0\.$"),
        ("attention_dropout_rate", -0.1, r"^attention_dropout_rate must be at least 0 and below 1, got "),
        ("feedforward_dropout_rate", float("nan"), r"^feedforward_dropout_rate must be .* got .*=nan\.$"),
        ("norm_epsilon", 0.0, r"^norm_epsilon must be above 0, got norm_epsilon=0\.0\.$"),
        ("rotary_base", float("inf"), r"^rotary_base must be above 0, got rotary_base=inf\.$"),
        ("attention_scale", 0.0, r"^attention_scale must be above 0, got attention_scale=0\.0\.$"),
        ("score_cap", -1.0, r"^score_cap must be above 0, got score_cap=-1\.0\.$"),
    ],
)
def test_what_no_model_can_have_is_refused(network: type, name: str, value: float, expected: str):
    with pytest.raises(ValueError, match=expected):
        network(replace(FAMILIES[network], **{name: value}), rngs=nnx.Rngs(0))


ELSEWHERE = {"num_outputs", "image_height", "image_width", "image_channels", "patch"}  # by their models


def test_every_size_of_every_family_is_checked():
    for config in FAMILIES.values():
        values = {each.name: getattr(config, each.name) for each in fields(config)}
        sizes = [name for name, value in values.items() if type(value) is int and name not in ELSEWHERE]
        assert len(sizes) >= 7
        for name in sizes:
            changes = {name: -1}
            if name.endswith("_vocab_size"):
                changes["tied_embeddings"] = "none"
            with pytest.raises(ValueError, match=rf"^{name} must be at least [01], got {name}=-1\.$"):
                replace(config, **changes).check()
        config.check()


def test_a_cap_of_logits_must_be_above_0():
    with pytest.raises(ValueError, match=r"^logit_cap must be above 0, got logit_cap=0\.0\.$"):
        Decoder(DecoderConfig(vocab_size=9, logit_cap=0.0), rngs=nnx.Rngs(0))


# What a config means that says nothing: in all families, and what each of them has otherwise. Beside sizes that no
# paper has, Vaswani et al. 2017, table 3; Touvron et al. 2023, section 2.2; Devlin et al. 2019, section 3 and appendix;
# Dosovitskiy et al. 2021.
EVERYWHERE = {
    "width": 512, "feedforward_width": 2048, "num_heads": 8, "num_kv_heads": None, "head_width": None, "qk_norm": False,
    "attention_scale": None, "score_cap": None, "window": None, "norm": "layer", "norm_epsilon": None,
    "norm_position": "post", "activation": "relu", "positions": "sinusoidal", "first_position": 0,
    "rotary_base": 10_000.0, "rotary_scaling": (), "scaled_embeddings": True, "use_bias": True, "qkv_bias": False,
    "dropout_rate": 0.1, "attention_dropout_rate": 0.0, "feedforward_dropout_rate": 0.0, "max_length": 1024,
    "kernel": "auto", "dtype": "float32", "remat": "none", "unroll": 1, "pad_id": 0,
}  # fmt: skip
OF_ENCODERS = {
    "vocab_size": 9, "num_layers": 6, "num_types": 0, "embedding_norm": True, "activation": "gelu",
    "positions": "learned", "scaled_embeddings": False, "attention_dropout_rate": 0.1, "max_length": 512,
}  # fmt: skip
OWN = {
    Decoder: {
        "vocab_size": 9, "num_layers": 6, "tied_embeddings": False, "logit_cap": None, "norm": "rms",
        "norm_position": "pre", "activation": "gated-silu", "positions": "rotary", "scaled_embeddings": False,
        "use_bias": False, "dropout_rate": 0.0,
    },
    MaskedEncoder: OF_ENCODERS,
    EncoderClassifier: OF_ENCODERS | {
        "num_outputs": 2, "pooling": "mean", "pooled_dropout_rate": 0.1, "output_mean": 0.0, "output_scale": 1.0,
    },
    Seq2Seq: {
        "source_vocab_size": 9, "target_vocab_size": 9, "num_encoder_layers": 6, "num_decoder_layers": 6,
        "tied_embeddings": "all", "embedding_init": "gpt2", "scaled_output": False, "embedding_norm": False,
        "output_bias": False,
    },
    VisionTransformer: {
        "image_height": 4, "image_width": 4, "image_channels": 1, "patch": 4, "num_outputs": 2, "width": 64,
        "feedforward_width": 256, "num_heads": 4, "num_layers": 4, "norm_position": "pre", "activation": "gelu",
        "positions": "learned", "scaled_embeddings": False, "pooling": "mean", "pooled_dropout_rate": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("network", FAMILIES)
def test_what_a_config_does_not_say_is_the_papers(network: type):
    assert asdict(FAMILIES[network]) == EVERYWHERE | OWN[network]
    vectors = {"vector": "mean", "normalised": False, "has_pooler": False}
    assert asdict(EmbedderConfig(vocab_size=9)) == EVERYWHERE | OF_ENCODERS | vectors
