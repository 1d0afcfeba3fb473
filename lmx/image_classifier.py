"""Images in, labels out: the one path that validation, test, the command line and notebooks share.

An `ImageClassifier` is a vision Transformer, with the parameters of one seed or of several, and its labels. It runs as
every classifier does (`lmx.predictor`); this module adds what only images need.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from lmx.config import BatchConfig
from lmx.data.images import EncodedImages, Images
from lmx.data.labels import Labels
from lmx.definition import define
from lmx.errors import InputError
from lmx.models.vision import VisionConfig, VisionTransformer
from lmx.parameters import Params, load_members
from lmx.predictor import Prediction, Predictor
from lmx.saved import read_config, read_fields, seed_files
from lmx.sharding.layout import ONE_DEVICE, Layout


class ImageClassifier:
    """Labels images with one model, or with the mean of several seeds of it.

    Args:
        params: as `nnx.to_pure_dict` returns them; every array has a leading axis E of seeds.
        labels: what the outputs mean.
        batch: most tokens of a batch, which bounds the memory, and the multiple of its rows.
        layout: where the parameters live, if on several devices.
        network: makes the model of the config, where it is another than lmx's: a class of your own.

    Raises:
        ValueError: the arguments do not fit together.
    """

    def __init__(
        self,
        config: VisionConfig,
        params: Params,
        *,
        labels: Labels,
        batch: BatchConfig | None = None,
        layout: Layout = ONE_DEVICE,
        network: Callable[..., nnx.Module] = VisionTransformer,
    ):
        if config.num_outputs != labels.num_outputs:
            raise ValueError(
                f"the model must have an output for each label, got num_outputs={config.num_outputs} and "
                f"{labels.num_outputs} by the labels."
            )
        batch = batch or BatchConfig(tokens_per_batch=16_384)
        self.config, self.labels = config, labels
        self._predictor = Predictor(
            define(lambda rngs: network(config, rngs=rngs)),
            params,
            labels=labels,
            inputs=("pixels",),
            buckets=(config.num_tokens,),
            batch_tokens=batch.tokens_per_batch,
            rows_multiple=batch.rows_multiple,
            layout=layout,
        )

    @staticmethod
    def load(run_directory: Path, *, ensemble: bool = False) -> "ImageClassifier":
        """Returns the classifier of a finished run, from the files in its directory alone.

        Args:
            ensemble: all seeds of the run, instead of the one that did best on its development set.

        Raises:
            FileNotFoundError: the directory is not a run's, its training has not ended, or it has one seed only.
            ValueError: the run is of another kind.
        """
        saved = read_config(run_directory, family="vision", purpose="classifies images")
        config = read_fields(VisionConfig, saved["model"], path=run_directory / "config.json", field="model")
        path = run_directory / "labels.json"
        if not path.is_file():
            raise FileNotFoundError(f"{run_directory} must hold labels.json, which says what the outputs mean.")
        files = seed_files(run_directory) if ensemble else [run_directory / "model.safetensors"]
        shapes = define(lambda rngs: VisionTransformer(config, rngs=rngs)).shapes
        return ImageClassifier(config, load_members(files, shapes), labels=Labels.from_file(path))

    def with_params(self, params: Params) -> "ImageClassifier":
        """Returns a classifier with other parameters that shares the compiled programs."""
        other = object.__new__(ImageClassifier)
        other.__dict__.update(self.__dict__, _predictor=self._predictor.with_params(params))
        return other

    def encode(self, images: Images) -> EncodedImages:
        """Returns images as rows of batches, without labels.

        Raises:
            InputError: they are not of the model's size.
        """
        size = (self.config.image_height, self.config.image_width, self.config.image_channels)
        if images.size != size:
            raise InputError(
                f"{images.origin} must have images of height, width and channels {size}, as in the training of this "
                f"model, got {images.size}."
            )
        return EncodedImages.of(images, length=self.config.num_tokens)

    def outputs(
        self, encoded: EncodedImages, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "E images C"]:
        """Returns the probabilities of the classes [E, images, C] by each seed."""
        return self._predictor.outputs(encoded, progress=progress)

    def classify(self, images: Images) -> list[Prediction]:
        """Labels each image by itself, in order; several seeds label by the mean of their outputs."""
        return self._predictor.predictions(self.outputs(self.encode(images)).mean(0)) if len(images) else []

    def explain(self, image: Images) -> dict[str, Any]:
        """Returns where the model looked to label an image.

        Attention rollout (Abnar and Zuidema 2020): in each layer half of a state is what it was and half is what
        attention brings, by the mean over heads; the product over layers says how much of each patch has come into the
        pooled vector. It says where information could come from, not what the decision would be without it. With
        several seeds, it is that of the first.

        Returns:
            A record of explanations.json: text (where the image is from), image, prediction, probability, and `looked`
            [rows, columns], which sums to 1.
        """
        encoded = self.encode(image)
        (prediction,) = self.classify(image)
        weights = self._predictor.attention(encoded.batch(np.zeros(1, np.int64), length=encoded.length))
        return image.shown(0) | {
            "label": None,
            "prediction": prediction.label,
            "probability": prediction.probability,
            "looked": self._rollout(weights).tolist(),
        }

    def _rollout(self, weights: Float[np.ndarray, "N H T T"]) -> Float[np.ndarray, "rows columns"]:
        reached = np.eye(weights.shape[-1])
        for layer in weights.astype(np.float64).mean(1):
            reached = (layer + np.eye(len(layer))) / 2 @ reached
        of_patches = reached.mean(0) if self.config.pooling == "mean" else reached[0, 1:]
        return (of_patches / of_patches.sum()).reshape(self.config.grid)
