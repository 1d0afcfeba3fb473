"""A class of one's own in the place of lmx's model: validation, translation and classification run it too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmx.classifier import Classifier, TextRows
from lmx.data.images import Images
from lmx.data.labels import Labels
from lmx.image_classifier import ImageClassifier
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.vision import VisionConfig, VisionTransformer
from lmx.text import PretokenizedTokenizer

LABELS = Labels(kind="single", names=("a", "b", "c"))
SIZES = {"width": 8, "feedforward_width": 12, "num_heads": 2, "num_layers": 1, "num_outputs": 3}


def shifted(kind: type[nnx.Module]) -> type[nnx.Module]:
    """Returns a kind of model with a parameter of its own, which decides for the last class."""

    class Shifted(kind):
        def __init__(self, config, *, rngs):
            super().__init__(config, rngs=rngs)
            self.shift = nnx.Param(jnp.array([0.0, 0.0, 50.0]), axes=(None,))

        def __call__(self, *inputs, **options):
            outputs, maps = super().__call__(*inputs, **options)
            return outputs + self.shift[...], maps

    return Shifted


def params_of(make: partial) -> dict:
    params = nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(0)), nnx.Param))
    return jax.tree.map(lambda array: array[None], params)


def test_a_classifier_runs_a_network_of_ones_own():
    words = PretokenizedTokenizer(["x", "y"])
    config = ClassifierConfig(vocab_size=words.vocab_size, max_length=8, pad_id=words.pad_id, **SIZES)
    own = shifted(EncoderClassifier)
    settings = {"tokenizer": words, "labels": LABELS, "rows": TextRows(max_length=8)}
    found = Classifier(config, params_of(partial(own, config)), network=own, **settings).classify(["x y", "y"])
    assert [each.label for each in found] == ["c", "c"]


def test_an_image_classifier_runs_a_network_of_ones_own():
    config = VisionConfig(image_height=4, image_width=4, image_channels=1, patch=2, **SIZES)
    own = shifted(VisionTransformer)
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    classifier = ImageClassifier(config, params_of(partial(own, config)), labels=LABELS, network=own)
    images = Images(pixels=pixels, labels=None, origin="images", lines=np.array([1, 2]))
    assert [each.label for each in classifier.classify(images)] == ["c", "c"]
