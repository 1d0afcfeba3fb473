"""Text in, labels out: the one path that validation, test, the command line and notebooks share.

A `Classifier` is a model, with the parameters of one seed or of several, its tokenizer and its labels. `lmx.predictor`
runs its rows, and outputs come back in the order of the texts. `lmx.explanation` explains why a text got its label;
`lmx.scoring.classification` computes scores from the outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from lmx.data.labelled import Examples, Text
from lmx.data.labels import Labels
from lmx.data.texts import EncodedExamples, encode_examples
from lmx.definition import define
from lmx.explanation import explain, make_integrate
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.nn.positions.make import longest
from lmx.parameters import Params, load_members
from lmx.predictor import Prediction, Predictor
from lmx.saved import find_tokenizers, read_config, read_field, read_fields, seed_files
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.text import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """How texts become rows.

    Attributes:
        max_length: most tokens of a row, with special ones; longer texts are truncated.
        stride: cuts a long text into windows that begin this many tokens apart, instead of truncating it.
        pairs: whether the model was trained on pairs of texts, and takes no others; None takes both.
    """

    max_length: int
    stride: int | None = None
    pairs: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TextBatches:
    """How many rows run at once.

    Attributes:
        batch_tokens: most tokens of one batch, with padding; bounds the memory.
        rows_multiple: the number of rows of a batch is a multiple of this.
        buckets: lengths that rows are padded to, ending with max_length or more; None for powers of two.
    """

    batch_tokens: int = 4096
    rows_multiple: int = 8
    buckets: Sequence[int] | None = None


USUAL = TextBatches()


class Classifier:
    """Labels texts with one model, or with the mean of several seeds of it.

    Args:
        params: as `nnx.to_pure_dict` returns them; every array has a leading axis E of seeds.
        tokenizer: of the texts; it must pad as the model does.
        labels: what the outputs mean.
        rows: how texts become rows; `cut` counts those that are truncated.
        batches: how many rows run at once.
        layout: where the parameters live, if on several devices, which share the rows. Every host must make the same
            calls, and gets all outputs.
        network: makes the model of the config, where it is another than lmx's: a class of your own.

    Raises:
        ValueError: the arguments do not fit together.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        params: Params,
        *,
        tokenizer: Tokenizer,
        labels: Labels,
        rows: TextRows,
        batches: TextBatches = USUAL,
        layout: Layout = ONE_DEVICE,
        network: Callable[..., nnx.Module] = EncoderClassifier,
    ):
        _check_parts(config, tokenizer=tokenizer, labels=labels, max_length=rows.max_length)
        self.config, self.labels, self.tokenizer = config, labels, tokenizer
        self.max_length, self.stride, self.pairs = rows.max_length, rows.stride, rows.pairs
        self.cut = 0
        definition = define(lambda rngs: network(config, rngs=rngs))
        self._predictor = Predictor(
            definition,
            params,
            labels=labels,
            inputs=("tokens", "types") if config.num_types else ("tokens",),
            buckets=batches.buckets or _powers_of_two(rows.max_length),
            batch_tokens=batches.batch_tokens,
            rows_multiple=batches.rows_multiple,
            layout=layout,
        )
        integrate = make_integrate(definition, kind=labels.kind, pad_id=config.pad_id, layout=layout)
        self.integrate = jax.jit(integrate, out_shardings=layout.whole)

    @property
    def params(self) -> Params:
        """The parameters; every array has the axis of seeds."""
        return self._predictor.params

    @property
    def batch_tokens(self) -> int:
        """Most tokens of one batch, with padding."""
        return self._predictor.batch_tokens

    @staticmethod
    def load(run_directory: Path, *, ensemble: bool = False) -> "Classifier":
        """Returns the classifier of a finished run, from the files in its directory alone.

        Args:
            ensemble: load all seeds of the run, instead of the one that did best on the development set.

        Raises:
            FileNotFoundError: the directory is not a run's, its training has not ended, or it has one seed only.
            ValueError: the run is of another kind.
        """
        saved = read_config(run_directory, family="classifier", purpose="classifies")
        said = run_directory / "config.json"
        config = read_fields(ClassifierConfig, saved["model"], path=said, field="model")
        max_length = read_field(saved, "config", "max_length", kind=int, path=said)
        stride = read_field(saved, "config", "stride", kind=int | None, path=said)
        path = run_directory / "labels.json"
        if not path.is_file():
            raise FileNotFoundError(f"{run_directory} must hold labels.json, which says what the outputs mean.")
        tokenizers = find_tokenizers(run_directory)
        if "tokenizer" not in tokenizers:
            raise FileNotFoundError(f"{run_directory} must hold a tokenizer (tokenizer.model, .vocab or .bytes).")
        files = seed_files(run_directory) if ensemble else [run_directory / "model.safetensors"]
        shapes = define(lambda rngs: EncoderClassifier(config, rngs=rngs)).shapes
        return Classifier(
            config,
            load_members(files, shapes),
            tokenizer=load_tokenizer(tokenizers["tokenizer"]),
            labels=Labels.from_file(path),
            rows=TextRows(max_length=max_length, stride=stride, pairs=_trained_on_pairs(saved["config"])),
        )

    def with_params(self, params: Params) -> "Classifier":
        """Returns a classifier with other parameters that shares the compiled programs."""
        other = object.__new__(Classifier)
        other.__dict__.update(self.__dict__, _predictor=self._predictor.with_params(params), cut=0)
        return other

    def encode(self, texts: Examples | Sequence[Text]) -> EncodedExamples:
        """Encodes texts as the model reads them, without labels.

        Raises:
            ValueError: some are pairs and some are not, or they are not what the model was trained on.
        """
        examples = texts if isinstance(texts, Examples) else _examples(texts)
        if self.pairs is not None and len(examples) and examples.are_pairs != self.pairs:
            wanted, got = ("pairs", "single texts") if self.pairs else ("single texts", "pairs")
            way_out = " A table has both texts in two columns: --text-columns FIRST SECOND." if self.pairs else ""
            raise ValueError(f"texts must be {wanted}, as in the training of this model, got {got}.{way_out}")
        return encode_examples(
            examples,
            self.tokenizer,
            max_length=self.max_length,
            stride=self.stride,
        )

    def logits(
        self, encoded: EncodedExamples, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "E rows C"]:
        """Returns the raw outputs of each row, for a loss with the targets and weights of `encoded`.

        A text that is longer than a row has several rows; `outputs` has one for each text.
        """
        return self._predictor.logits_and_outputs(encoded, progress=progress)[0]

    def outputs(
        self, encoded: EncodedExamples, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "E texts *C"]:
        """Returns what each seed says of each text: probabilities of classes, or real numbers [E, texts].

        Args:
            progress: called with the number of texts done so far.
        """
        return self._predictor.outputs(encoded, progress=progress)

    def classify(
        self, texts: Examples | Sequence[Text], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[Prediction]:
        """Labels each text or pair by itself, in order; several seeds label by the mean of their outputs.

        A text without words is labelled too: it gets the label of an empty text.
        """
        if not len(texts):
            return []
        encoded = self.encode(texts)
        self.cut += encoded.num_truncated
        return self.predictions(self.outputs(encoded, progress=progress).mean(0))

    def predictions(self, outputs: Float[np.ndarray, "texts *C"]) -> list[Prediction]:
        """Returns the labels that the outputs of one system mean."""
        return self._predictor.predictions(outputs)

    def explain(self, text: Text, *, steps: int = 64) -> dict[str, Any]:
        """Returns how much each piece and each word moved the probability of a text's label, see `lmx.explanation`."""
        return explain(self, text, steps=steps)

    def attention(self, text: Text) -> dict[str, Any]:
        """Returns the attention inside the encoder: `pieces`, with special ones, and `weights` [N, H, T, T].

        With several seeds or windows, it is that of the first.
        """
        encoded = self.encode([text])
        ids = encoded.tokens[: encoded.offsets[1]]
        batch = encoded.batch(np.zeros(1, np.int64), length=self.padded(len(ids)))
        weights = self._predictor.attention(batch)
        return {"pieces": self.tokenizer.pieces(ids), "weights": weights[:, :, : len(ids), : len(ids)]}

    def padded(self, length: int) -> int:
        """Returns the length of the bucket that a row belongs to."""
        return self._predictor.padded(length)

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch that the model reads: no types, if it has none."""
        return self._predictor.inputs(batch)


def _trained_on_pairs(config: dict[str, Any]) -> bool | None:
    """Returns whether a run's config says that its texts are pairs, or None where it says nothing of texts."""
    reading = config.get("reading")
    return None if reading is None else len(reading.get("text_columns") or ()) == 2


def _examples(texts: Sequence[Text]) -> Examples:
    pairs = sum(isinstance(text, tuple) for text in texts)
    if pairs not in (0, len(texts)):
        raise ValueError(f"texts must all be single or all be pairs, got {pairs:,} pairs of {len(texts):,}.")
    return Examples(texts=texts, labels=None, origin="texts", lines=np.arange(1, len(texts) + 1, dtype=np.int64))


def _powers_of_two(max_length: int) -> list[int]:
    return [*(1 << power for power in range(3, max_length.bit_length()) if 1 << power < max_length), max_length]


def _check_parts(config: ClassifierConfig, *, tokenizer: Tokenizer, labels: Labels, max_length: int) -> None:
    if config.num_outputs != labels.num_outputs:
        raise ValueError(
            f"the model must have an output for each label, got num_outputs={config.num_outputs} and "
            f"{labels.num_outputs} by the labels."
        )
    if config.vocab_size < tokenizer.vocab_size or config.pad_id != tokenizer.pad_id:
        raise ValueError(
            f"the model must read the ids of the tokenizer, got vocab_size={config.vocab_size} and "
            f"pad_id={config.pad_id}, and {tokenizer.vocab_size} and {tokenizer.pad_id} of the tokenizer."
        )
    if (most := longest(config)) is not None and max_length > most:
        raise ValueError(f"max_length must be at most the {most} positions of the model, got max_length={max_length}.")
