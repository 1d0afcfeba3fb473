"""Which axis of each parameter has which name: what meshes split, and what optimizers take for a matrix."""

from dataclasses import replace
from typing import Any

import jax
import pytest
from flax import nnx

from lmx.definition import define
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.models.vision import VisionConfig, VisionTransformer

SIZES: dict[str, Any] = {"width": 16, "feedforward_width": 24, "num_heads": 4, "max_length": 9}
ONE = SIZES | {"vocab_size": 20, "num_layers": 2}
CLASSES = ClassifierConfig(**ONE, num_types=2, num_outputs=3)
TWO = Seq2SeqConfig(source_vocab_size=20, target_vocab_size=20, num_encoder_layers=1, num_decoder_layers=3, **SIZES)
IMAGES = VisionConfig(**SIZES, image_height=4, image_width=4, image_channels=1, patch=2, num_outputs=3, pooling="first")
MODELS = [
    (Decoder, DecoderConfig(**ONE, num_kv_heads=2, qk_norm=True, positions="learned")),
    (MaskedEncoder, MaskedConfig(**ONE)),
    *((EncoderClassifier, replace(CLASSES, pooling=pooling)) for pooling in ("mean", "attention", "pooler")),
    (Seq2Seq, replace(TWO, tied_embeddings="none", positions="t5", output_bias=True)),
    (VisionTransformer, IMAGES),
]
# By the ends of their names; biases and norms are whole on every device.
AXES = {
    "attention.query.weight": ("embed", "heads", None),
    "attention.key.weight": ("embed", "kv_heads", None),
    "attention.value.weight": ("embed", "kv_heads", None),
    "attention.out.weight": ("heads", None, "embed"),
    "gate.weight": ("embed", "mlp"),
    "up.weight": ("embed", "mlp"),
    "down.weight": ("mlp", "embed"),
    "dense.weight": ("embed", "mlp"),
    "hidden.weight": ("embed", "mlp"),
    "pooling.query.weight": ("mlp", None),
    "output.weight": ("embed", None),
    "patches.weight": (None, "embed"),
    "embedding.table": ("vocab", "embed"),
    "types.table": ("vocab", "embed"),
    "source_positions.table": (None, "heads"),
    "target_positions.table": (None, "heads"),
    "positions.table": (None, "embed"),
    "first.table": (None, "embed"),
}


def expected_of(name: str, number: int) -> tuple[str | None, ...]:
    stacked = ("layers",) if ".blocks." in name else ()
    if name.endswith((".bias", ".scale")) or name == "output_bias":
        return (*stacked, *[None] * (number - len(stacked)))
    return (*stacked, *next(axes for end, axes in AXES.items() if name.endswith(end)))


@pytest.mark.parametrize(("network", "config"), MODELS)
def test_each_axis_has_its_name(network: type, config: Any):
    model = define(lambda rngs: network(config, rngs=rngs))
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    found = {
        ".".join(str(entry.key) for entry in path): axes
        for path, axes in jax.tree_util.tree_leaves_with_path(model.axes, is_leaf=is_axes)
    }
    assert found == {name: expected_of(name, len(axes)) for name, axes in found.items()}


def test_each_side_has_its_own_number_of_layers_and_its_kind_of_blocks():
    model = nnx.eval_shape(lambda: Seq2Seq(replace(TWO, unroll=2, remat="full", window=5), rngs=nnx.Rngs(0)))
    assert (model.encoder.num_layers, model.decoder.num_layers) == (1, 3)
    assert model.encoder.blocks.memory_attention is None
    assert model.decoder.blocks.memory_attention is not None
    for stack in (model.encoder, model.decoder):
        assert (stack.unroll, stack.remat, stack.window, stack.final_norm) == (2, "full", 5, None)


def test_a_layer_of_flax_gets_its_names_by_metadata():
    def plain(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Linear(4, 6, rngs=rngs)

    def named(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Linear(4, 6, rngs=rngs, kernel_metadata={"axes": ("embed", "mlp")}, bias_metadata={"axes": ("mlp",)})

    with pytest.raises(ValueError, match=r"^bias must have names of its axes, got none\. .* bias_metadata="):
        define(plain)
    assert define(named).axes == {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
