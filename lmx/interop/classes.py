"""What the outputs of a classifier mean, in Hugging Face's words and in ours."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lmx.data.labels import Labels
from lmx.errors import InputError
from lmx.models.encoder import ClassifierConfig

PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


def labels_of(theirs: Mapping[str, Any], num_outputs: int) -> Labels:
    """Returns what a classifier's outputs mean, by the rules of transformers' own pipeline.

    Raises:
        InputError: a text has several numbers, or two classes have one name.
    """
    kind = theirs.get("problem_type")
    if kind == "regression" and num_outputs > 1:
        raise InputError(f"a model whose problem_type is 'regression' must have one output, got {num_outputs}.")
    if kind == "regression":
        return Labels(kind="regression")
    known = theirs.get("id2label") or {}
    names = tuple(str(known.get(str(index), f"LABEL_{index}")) for index in range(num_outputs))
    # One class alone has a probability of its own: that of a cross-encoder says how well two texts go together.
    several = kind == "multi_label_classification" or num_outputs == 1
    try:
        return Labels(kind="multi" if several else "single", names=names)
    except ValueError as error:
        raise InputError(f"id2label: {error}") from error


def their_labels(labels: Labels) -> dict[str, Any]:
    """Returns what their config.json says of the outputs."""
    names = labels.names or ("LABEL_0",)
    return {
        "problem_type": PROBLEMS[labels.kind],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


class _Scaled:
    """Parameters whose last layer has taken a mean and a scale over."""

    def __init__(self, params: Any, model: ClassifierConfig):
        self._params, self._model = params, model

    def get_slice(self, name: str) -> Any:
        """Returns an array, or what reads it."""
        part = self._params.get_slice(name)
        if not name.startswith("output."):
            return part
        values = np.asarray(part[:], np.float32) * np.float32(self._model.output_scale)
        return values + np.float32(self._model.output_mean) if name == "output.bias" else values


def with_unit(model: ClassifierConfig, params: Any) -> tuple[ClassifierConfig, Any]:
    """Returns a classifier whose last layer itself has the unit of the labels: they have no mean and no scale.

    Args:
        params: as an open safetensors file gives them.
    """
    if (model.output_mean, model.output_scale) == (0.0, 1.0):
        return model, params
    return replace(model, output_mean=0.0, output_scale=1.0), _Scaled(params, model)
