"""Sizes, rates and numbers of a model that no model can have are refused in one line, by every family."""

from dataclasses import fields, replace

import pytest
from flax import nnx

from lmx.models.decoder import Decoder, DecoderConfig
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
