"""Encoded rows in, outputs out: what all classifiers share, whatever their models read.

A `Predictor` is a model with the parameters of one seed or of several, and the meaning of its outputs. It sorts rows by
length into a few compiled shapes, and returns outputs in the order of the rows. `inputs` names the arrays of a batch
that the model reads. `lmx.classifier` turns texts into rows, and `lmx.image_classifier` images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from lmx.data.labelled import Label
from lmx.data.labels import Labels
from lmx.data.texts import average_rows
from lmx.definition import Definition
from lmx.losses import activated
from lmx.parameters import Params
from lmx.sharding.layout import ONE_DEVICE, Layout

THRESHOLD = 0.5  # a label of several is predicted from this probability on


@dataclass(frozen=True)
class Prediction:
    """The label of one text, or of one image.

    Attributes:
        label: a name, a tuple of names where there may be several, or a number as text for regression.
        probability: of the label; of several, that exactly these apply, as if labels were independent. None for
            regression.
        outputs: the probabilities of all classes in the order of the labels, or the number.
    """

    label: Label
    probability: float | None
    outputs: tuple[float, ...]


class Predictor:
    """Runs one model, or several seeds of it, on encoded rows.

    Args:
        definition: of a model that returns outputs first, and attention maps ("self") second.
        params: as `nnx.to_pure_dict` returns them; every array has a leading axis E of seeds.
        inputs: names of the arrays of a batch that the model reads; the first is its positional argument.
        buckets: lengths that rows are padded to.
        batch_tokens: most tokens of one batch, with padding; bounds the memory.
        rows_multiple: the number of rows of a batch is a multiple of this.
        layout: where the parameters live, if on several devices, which share the rows. Every host must make the same
            calls, and gets all outputs.
    """

    def __init__(
        self,
        definition: Definition,
        params: Params,
        *,
        labels: Labels,
        inputs: Sequence[str],
        buckets: Sequence[int],
        batch_tokens: int = 4096,
        rows_multiple: int = 8,
        layout: Layout = ONE_DEVICE,
    ):
        self.params, self.labels, self.buckets = stacked_params(params), labels, tuple(buckets)
        self.batch_tokens, self.rows_multiple = batch_tokens, rows_multiple
        self.layout = layout
        self._definition, self._inputs = definition, tuple(inputs)
        self.run = jax.jit(self._make_run(), out_shardings=layout.whole)
        self._look = jax.jit(self._make_look(), out_shardings=layout.whole)

    def with_params(self, params: Params) -> "Predictor":
        """Returns a predictor with other parameters that shares the compiled programs."""
        other = object.__new__(Predictor)
        other.__dict__.update(self.__dict__, params=stacked_params(params))
        return other

    def logits_and_outputs(
        self, encoded: Any, *, progress: Callable[[int], None] = lambda done: None
    ) -> tuple[Float[np.ndarray, "E rows C"], Float[np.ndarray, "E rows C"]]:
        """Returns logits and outputs of all rows, in their order.

        Args:
            encoded: `lmx.data.buckets.Encoded`, of `num_texts` texts or images.
        """
        members = jax.tree.leaves(self.params)[0].shape[0]
        logits = np.zeros((members, len(encoded), self.labels.num_outputs), np.float32)
        outputs = np.zeros_like(logits)
        done = 0
        for items, batch in self._batches(encoded):
            number = int((items >= 0).sum())
            found = jax.device_get(self.run(self.params, self.layout.place(self.inputs(batch))))
            logits[:, items[:number]], outputs[:, items[:number]] = (each[:, :number] for each in found)
            done += number
            progress(done * encoded.num_texts // len(encoded))
        return logits, outputs

    def outputs(
        self, encoded: Any, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "E texts *C"]:
        """Returns what each seed says of each text: probabilities of classes, or real numbers [E, texts].

        Args:
            progress: called with the number of texts done so far.
        """
        _, outputs = self.logits_and_outputs(encoded, progress=progress)
        outputs = outputs[..., 0] if self.labels.kind == "regression" else outputs
        # Probabilities are averaged, not logits: each window has a vote of the same size.
        return np.stack([average_rows(each, encoded.indices, num_texts=encoded.num_texts) for each in outputs])

    def predictions(self, outputs: Float[np.ndarray, "texts *C"]) -> list[Prediction]:
        """Returns the labels that the outputs of one system mean."""
        if self.labels.kind == "regression":
            labels = self.labels.decode(outputs.astype(np.float32))
            return [Prediction(label, None, (float(value),)) for label, value in zip(labels, outputs, strict=True)]
        if self.labels.kind == "single":
            labels, sure = self.labels.decode(outputs.argmax(-1).astype(np.int32)), outputs.max(-1)
        else:
            there = outputs >= THRESHOLD
            labels = self.labels.decode(there.astype(np.float32))
            sure = np.where(there, outputs, 1 - outputs).prod(-1)
        return [
            Prediction(label, float(probability), tuple(map(float, row)))
            for label, probability, row in zip(labels, sure, outputs, strict=True)
        ]

    def attention(self, batch: dict[str, np.ndarray]) -> Float[np.ndarray, "N H T T"]:
        """Returns the attention inside the model on the first row of a batch; with several seeds, the first seed's."""
        first = jax.tree.map(lambda array: array[0], self.params)
        return jax.device_get(self._look(first, self.inputs(batch)))

    def padded(self, length: int) -> int:
        """Returns the length of the bucket that a row belongs to."""
        for bucket in self.buckets:
            if length <= bucket:
                return bucket
        longest = self.buckets[-1]
        raise ValueError(
            f"rows must have at most {longest} tokens, got {length}. Encode the texts with --max-length {longest}, or "
            "add a bucket."
        )

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the model reads of a batch."""
        return {name: batch[name] for name in self._inputs}

    # Rows and their batches.

    def _batches(self, encoded: Any) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
        """Yields batches and the positions of their rows, -1 behind the last; those of one bucket have one shape."""
        padded = np.array([self.padded(int(length)) for length in encoded.lengths])
        for length in np.unique(padded).tolist():
            members = np.flatnonzero(padded == length)
            size = self._batch_rows(length, members.size)
            for start in range(0, members.size, size):
                items = np.full(size, -1, np.int64)
                chosen = members[start : start + size]
                items[: chosen.size] = chosen
                yield items, encoded.batch(items, length=length)

    def _batch_rows(self, length: int, number: int) -> int:
        """Returns the rows of a bucket's batches: a power of two, or as many as the budget allows."""
        multiple = self.rows_multiple
        most = max(1, self.batch_tokens // length // multiple) * multiple
        rows = min(most, -(-(1 << (number - 1).bit_length()) // multiple) * multiple)
        shards = self.layout.row_shards
        return -(-rows // shards) * shards

    # What is compiled.

    def _make_run(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        first, *others = self._inputs

        def run(params: Params, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            named = {name: inputs[name] for name in others}

            def one(params: Params) -> jax.Array:
                return self._definition.merge(params)(inputs[first], **named)[0]

            # Seeds one after another: the memory of one, and cuDNN's attention has no batches of masked batches.
            with self.layout.inference():
                logits = jax.lax.map(one, params)
            return logits, activated(logits, kind=self.labels.kind)

        return run

    def _make_look(self) -> Callable[..., jax.Array]:
        first, *others = self._inputs

        def look(params: Params, inputs: dict[str, jax.Array]) -> jax.Array:
            named = {name: inputs[name] for name in others}
            with self.layout.inference(rows=False):
                _, maps = self._definition.merge(params)(inputs[first], **named, with_attention=True)
            return maps["self"][:, 0]

        return look


def stacked_params(params: Params) -> Params:
    """Returns the parameters of a classifier, checked to have the axis of seeds.

    Raises:
        ValueError: they have none.
    """
    bias = params["output"]["bias"]
    if bias.ndim != 2:
        raise ValueError(
            f"params must have a leading axis for the seeds, got output.bias of shape {bias.shape}. Of one seed: "
            "jax.tree.map(lambda array: array[None], params)."
        )
    return params
