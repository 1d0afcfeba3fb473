"""Text in, labels out: the one path that validation, test, the command line and notebooks share.

A `Classifier` is a model, with the parameters of one seed or of several, its tokenizer and its labels. It sorts texts
by length into few compiled shapes, and hands outputs back in the order of the texts. Why a text got its label,
`explain` and `attention` say. What scores are made of outputs is `lmx.scoring.classification`'s.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from lmx.checkpoint import Params, load_params
from lmx.data.batches import permutation
from lmx.data.labelled import Examples, Label, Text
from lmx.data.labels import Kind, Labels
from lmx.data.texts import EncodedExamples, average_rows, encode_examples
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.saved import find_tokenizers, read_config, read_field, read_fields
from lmx.sharding import DECODING_RULES, batch_shards, place_rows, replicated, rows_on, use_mesh
from lmx.text import Tokenizer, Word, load_tokenizer, split_words

THRESHOLD = 0.5  # a label of several is predicted from this probability on
MOST_DELETED = 5  # words that the deletion check takes out
DRAWS = 10  # orders of random words that it compares with


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text.

    Attributes:
        label: a name, a tuple of names where a text may have several, a number as text for regression.
        probability: of the label; of several, that each is there and no other is, as if they were independent; None
            for regression.
        outputs: the probabilities of all classes in the order of the labels, or the number.
    """

    label: Label
    probability: float | None
    outputs: tuple[float, ...]


class Classifier:
    """Labels texts with one model, or with the mean of several seeds of it.

    Args:
        params: as `nnx.to_pure_dict` gives them, every array with a leading axis: the seeds, S of them.
        tokenizer: of the texts; pads as the model does.
        labels: what the outputs mean.
        max_length: most tokens of a row, special ones counted; what is longer is cut, and counted by `cut`.
        stride: with it, a long text is not cut but has windows that begin so many tokens apart.
        batch_tokens: of the rows of one batch, padding included; bounds the memory.
        rows_multiple: what the rows of a batch are a multiple of, and have at least.
        buckets: lengths that rows are padded to, ending with max_length or more; None for powers of two.
        pairs: whether the model was trained on pairs of texts, and takes no others; None takes both.
        mesh: where the parameters live, if on several devices: its devices share the rows, and every host calls alike
            and gets all outputs.

    Raises:
        ValueError: parts do not fit together.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        params: Params,
        *,
        tokenizer: Tokenizer,
        labels: Labels,
        max_length: int,
        stride: int | None = None,
        batch_tokens: int = 4096,
        rows_multiple: int = 8,
        buckets: Sequence[int] | None = None,
        pairs: bool | None = None,
        mesh: Mesh | None = None,
    ):
        _check_parts(config, tokenizer=tokenizer, labels=labels, max_length=max_length)
        self.config, self.params, self.labels, self.tokenizer = config, _stacked(params), labels, tokenizer
        self.max_length, self.stride, self.pairs = max_length, stride, pairs
        self.batch_tokens, self.rows_multiple = batch_tokens, rows_multiple
        self.buckets = tuple(buckets or _powers_of_two(max_length))
        self.cut = 0
        self._definition = nnx.graphdef(_shapes(config))
        self._mesh = mesh if mesh is not None and mesh.size > 1 else None
        self._run = jax.jit(self._make_run(), out_shardings=self._whole())
        self._integrate = jax.jit(self._make_integrate(), out_shardings=self._whole())
        self._look = jax.jit(self._make_look(), out_shardings=self._whole())

    @staticmethod
    def load(run_directory: Path, *, ensemble: bool = False) -> "Classifier":
        """Returns the classifier of a finished run, from the files in its directory alone.

        Args:
            ensemble: all seeds of the run, instead of the one that did best on its development set.

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
        if not files:
            raise FileNotFoundError(
                f"{run_directory} must hold several seeds for an ensemble (seeds/1.safetensors, ...): it has one. "
                "Load it without ensemble."
            )
        shapes = nnx.to_pure_dict(nnx.state(_shapes(config), nnx.Param))
        members = [load_params(file, shapes) for file in files]
        return Classifier(
            config,
            jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *members),
            tokenizer=load_tokenizer(tokenizers["tokenizer"]),
            labels=Labels.from_file(path),
            max_length=max_length,
            stride=stride,
            pairs=_trained_on_pairs(saved["config"]),
        )

    def with_params(self, params: Params) -> "Classifier":
        """Returns a classifier with other parameters that shares all that is compiled."""
        other = object.__new__(Classifier)
        other.__dict__.update(self.__dict__, params=_stacked(params), cut=0)
        return other

    def encode(self, texts: Examples | Sequence[Text]) -> EncodedExamples:
        """Encodes texts as the model reads them, without labels.

        Raises:
            ValueError: some are pairs and some are not, or they are not what the model was trained on.
        """
        examples = texts if isinstance(texts, Examples) else _examples(texts)
        if self.pairs is not None and len(examples) and examples.are_pairs != self.pairs:
            wanted, got = ("pairs", "single texts") if self.pairs else ("single texts", "pairs")
            way_out = " A table has both texts in two columns: --text-column FIRST SECOND." if self.pairs else ""
            raise ValueError(f"texts must be {wanted}, as in the training of this model, got {got}.{way_out}")
        return encode_examples(
            examples,
            self.tokenizer,
            max_length=self.max_length,
            stride=self.stride,
        )

    def logits(
        self, encoded: EncodedExamples, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "S rows C"]:
        """Returns the raw outputs of each row: what a loss takes, with the targets and weights of `encoded`.

        A text that is longer than a row has several; `outputs` has one for each text.
        """
        return self._rows(encoded, progress=progress)[0]

    def outputs(
        self, encoded: EncodedExamples, *, progress: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "S texts *C"]:
        """Returns probabilities of classes, or real numbers [S, texts], of each text by each seed: what scores take.

        Args:
            progress: called with the number of texts done so far.
        """
        _, outputs = self._rows(encoded, progress=progress)
        outputs = outputs[..., 0] if self.labels.kind == "regression" else outputs
        # Probabilities are averaged, not logits: each window has a vote of the same size.
        return np.stack([average_rows(each, encoded.indices, num_texts=encoded.num_texts) for each in outputs])

    def classify(
        self, texts: Examples | Sequence[Text], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[Prediction]:
        """Labels texts or pairs, each by itself, in order; of several seeds by the mean of their outputs.

        A text without words is labelled too: by what the model says of an empty one.
        """
        if not len(texts):
            return []
        encoded = self.encode(texts)
        self.cut += encoded.num_truncated
        return self.predictions(self.outputs(encoded, progress=progress).mean(0))

    def predictions(self, outputs: Float[np.ndarray, "texts *C"]) -> list[Prediction]:
        """Returns the labels that the outputs of one system stand for."""
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

    def explain(self, text: Text, *, steps: int = 64) -> dict[str, Any]:
        """Returns how much each piece and each word of a text moved the probability of its label.

        Integrated gradients (Sundararajan et al. 2017, equation 1) of the mean probability over seeds and windows: of
        the predicted class, of the most probable label where there may be several, of the number itself for regression.
        The way begins at the same row with the embedding of padding in the place of every word, special tokens kept, as
        in Captum's examples (Kokhlikyan et al. 2020): no gradient ever reaches that vector, so it says nothing. Zero,
        the paper's own choice for text, does not serve here: where nothing is added to embeddings before a norm, all of
        the change would lie in the first step away from it. The integral is Gauss and Legendre's, with `steps` nodes.

        Attributions add up to the change from the empty row to the text, but for `gap`, the error of the integral. What
        they are worth `deletion` says: what becomes of the probability when the 0, 1, 2, ... words with the highest
        attribution are deleted from the text and the model reads what remains, beside the mean over draws of random
        words.

        Returns:
            A record of explanations.json (text, label: None, prediction, probability, pieces, attributions, words,
            gap, deletion). Of a text that is cut, the pieces that the model read.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got steps={steps}.")
        encoded = self.encode([text])
        outputs = self.outputs(encoded).mean(0)
        chosen = 0 if self.labels.kind == "regression" else int(outputs[0].argmax())
        sides = (text,) if isinstance(text, str) else text
        totals, gap = self._attributions(encoded, sides, chosen=chosen, steps=steps)
        pieces = [
            piece
            for side, values in zip(sides, totals, strict=True)
            for piece in self.tokenizer.pieces(self.tokenizer.encode(side)[: len(values)])
        ]
        words = [split_words(side, self.tokenizer) for side in sides]
        values = [_of_words(found, total) for found, total in zip(words, totals, strict=True)]
        (prediction,) = self.predictions(outputs)
        return {
            "text": text if isinstance(text, str) else list(text),
            "label": None,
            "prediction": self.labels.names[chosen] if self.labels.names else prediction.label,
            "probability": float(outputs[0, chosen]) if self.labels.names else None,
            "pieces": pieces,
            "attributions": np.concatenate(totals).tolist(),
            "words": [
                [word.text, value]
                for side, found in zip(words, values, strict=True)
                for word, value in zip(side, found, strict=False)
            ],
            "gap": gap,
            "deletion": self._deletion(text, words, values, chosen=chosen),
        }

    def attention(self, text: Text) -> dict[str, Any]:
        """Returns the attention inside the encoder: `pieces`, special ones too, and `weights` [N, H, T, T].

        Of several seeds, the first one's; of a text in windows, the first one's.
        """
        encoded = self.encode([text])
        ids = encoded.tokens[: encoded.offsets[1]]
        batch = encoded.batch(np.zeros(1, np.int64), length=self._padded(len(ids)))
        first = jax.tree.map(lambda array: array[0], self.params)
        weights = jax.device_get(self._look(first, self._inputs(batch)))
        return {"pieces": self.tokenizer.pieces(ids), "weights": weights[:, :, : len(ids), : len(ids)]}

    # Rows and their batches.

    def _rows(
        self, encoded: EncodedExamples, *, progress: Callable[[int], None]
    ) -> tuple[Float[np.ndarray, "S rows C"], Float[np.ndarray, "S rows C"]]:
        """Returns logits and outputs of all rows, in their order."""
        members = jax.tree.leaves(self.params)[0].shape[0]
        logits = np.zeros((members, len(encoded), self.config.num_outputs), np.float32)
        outputs = np.zeros_like(logits)
        done = 0
        for items, batch in self._batches(encoded):
            number = int((items >= 0).sum())
            found = jax.device_get(self._run(self.params, self._placed(self._inputs(batch))))
            logits[:, items[:number]], outputs[:, items[:number]] = (each[:, :number] for each in found)
            done += number
            progress(done * encoded.num_texts // len(encoded))
        return logits, outputs

    def _batches(self, encoded: EncodedExamples) -> Iterator[tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]]:
        """Yields batches and the positions of their rows, -1 behind the last; those of one bucket have one shape."""
        padded = np.array([self._padded(int(length)) for length in encoded.lengths])
        for length in np.unique(padded).tolist():
            members = np.flatnonzero(padded == length)
            size = self._batch_rows(length, members.size)
            for start in range(0, members.size, size):
                items = np.full(size, -1, np.int64)
                chosen = members[start : start + size]
                items[: chosen.size] = chosen
                yield items, encoded.batch(items, length=length)

    def _padded(self, length: int) -> int:
        """Returns the length of the bucket that a row lies in."""
        for bucket in self.buckets:
            if length <= bucket:
                return bucket
        raise ValueError(
            f"rows must have at most {self.buckets[-1]} tokens, got {length}. Encode the texts "
            f"with --max-length {self.max_length}, or add a bucket."
        )

    def _batch_rows(self, length: int, number: int) -> int:
        """Returns the rows of a bucket's batches: a power of two, or as many as the budget allows."""
        multiple = self.rows_multiple
        most = max(1, self.batch_tokens // length // multiple) * multiple
        rows = min(most, -(-(1 << (number - 1).bit_length()) // multiple) * multiple)
        shards = 1 if self._mesh is None else batch_shards(self._mesh)
        return -(-rows // shards) * shards

    def _inputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the model reads of a batch: without types, if it has none."""
        return {name: batch[name] for name in ("tokens", "types") if name == "tokens" or self.config.num_types}

    # What is compiled.

    def _make_run(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def run(params: Params, inputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            # Seeds one after another: the memory of one, and cuDNN's attention has no batches of masked batches.
            with self._on_mesh():
                logits = jax.lax.map(lambda params: nnx.merge(self._definition, params)(**inputs)[0], params)
            return logits, _activated(logits, kind=self.labels.kind)

        return run

    def _make_look(self) -> Callable[..., jax.Array]:
        def look(params: Params, inputs: dict[str, jax.Array]) -> jax.Array:
            with self._on_mesh(rows=False):
                _, maps = nnx.merge(self._definition, params)(**inputs, with_attention=True)
            return maps["self"][:, 0]

        return look

    def _make_integrate(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        kind, pad_id = self.labels.kind, self.config.pad_id

        def integrate(
            params: Params,
            inputs: dict[str, jax.Array],
            replaced: Bool[Array, "1 T"],
            chosen: Int[Array, ""],
            nodes: Float[Array, "chunks B"],
        ) -> tuple[Float[Array, "nodes"], Float[Array, "nodes T"]]:
            """Returns the output at each node of the way, and what each token adds to its slope there."""

            def of_one(params: Params) -> tuple[jax.Array, jax.Array]:
                model = nnx.merge(self._definition, params)
                tokens = inputs["tokens"]
                vectors = model.encoder.embedding(tokens)
                empty = model.encoder.embedding(jnp.where(replaced, pad_id, tokens)).astype(jnp.float32)
                way = vectors.astype(jnp.float32) - empty
                rows = {name: jnp.repeat(array, nodes.shape[1], axis=0) for name, array in inputs.items()}

                def output(places: jax.Array) -> tuple[jax.Array, jax.Array]:
                    logits, _ = model.from_vectors((empty + places).astype(vectors.dtype), **rows)
                    outputs = _activated(logits, kind=kind)[:, chosen]
                    return outputs.sum(), outputs  # rows do not see each other: the gradient of the sum is each one's

                def at(nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
                    gradients, outputs = jax.grad(output, has_aux=True)(nodes[:, None, None] * way)
                    return outputs, (gradients * way).sum(-1)

                return jax.lax.map(at, nodes)

            with self._on_mesh(rows=False):
                outputs, slopes = jax.lax.map(of_one, params)
            return outputs.mean(0).reshape(-1), slopes.mean(0).reshape(-1, slopes.shape[-1])

        return integrate

    def _on_mesh(self, *, rows: bool = True) -> contextlib.AbstractContextManager[None]:
        """Returns what to trace under: the mesh, if there is one, with the rows split over it or not."""
        if self._mesh is None:
            return contextlib.nullcontext()
        return use_mesh(self._mesh, rules=DECODING_RULES if rows else {**DECODING_RULES, "batch": ()})

    def _whole(self) -> NamedSharding | None:
        return None if self._mesh is None else replicated(self._mesh)

    def _placed(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns a batch where it is to run; each host gives its rows."""
        if self._mesh is None:
            return inputs
        rows = rows_on(self._mesh, len(inputs["tokens"]))
        return place_rows({name: array[rows] for name, array in inputs.items()}, self._mesh)

    # The parts of an explanation.

    def _attributions(
        self, encoded: EncodedExamples, sides: tuple[str, ...], *, chosen: int, steps: int
    ) -> tuple[list[Float[np.ndarray, " _"]], float]:
        """Returns for each side of a text the attributions of the pieces that the model read, and the integral's error.

        Args:
            encoded: the rows of one text.
        """
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        # Of [0, 1] instead of [-1, 1]; the ends come first, with no weight.
        nodes, weights = np.concatenate([[0, 1], (nodes + 1) / 2]), np.concatenate([[0, 0], weights / 2])
        totals = [np.zeros(len(self.tokenizer.encode(side))) for side in sides]
        seen = [0] * len(sides)
        change = 0.0
        for row, length in enumerate(encoded.lengths):
            batch = encoded.batch(np.array([row]), length=self._padded(int(length)))
            first = int(encoded.first_lengths[row])
            # The first side is behind the first token; each side is followed by a separator.
            places = [slice(1, first - 1), slice(first, int(length) - 1)][: len(sides)]
            replaced = np.zeros_like(batch["tokens"], dtype=bool)
            for place in places:
                replaced[0, place] = True
            # As many rows at once as the memory is meant for; what fills the last ones up is not looked at.
            rows = max(1, min(len(nodes), 16, self.batch_tokens // replaced.shape[1]))
            chunks = np.resize(nodes.astype(np.float32), (-(-len(nodes) // rows), rows))
            found = self._integrate(self.params, self._inputs(batch), replaced, np.int32(chosen), chunks)
            outputs, slopes = jax.device_get(found)
            attributions = weights @ slopes[: len(nodes)].astype(np.float64)
            change += float(outputs[1] - outputs[0]) / len(encoded)
            for side, place in enumerate(places):
                begin = row * (self.stride or 0)
                end = begin + place.stop - place.start
                totals[side][begin:end] += attributions[place] / len(encoded)
                seen[side] = end
        totals = [values[:end] for values, end in zip(totals, seen, strict=True)]
        return totals, abs(float(sum(values.sum() for values in totals)) - change)

    def _deletion(
        self, text: Text, words: list[list[Word]], values: list[list[float]], *, chosen: int
    ) -> dict[str, list[float]]:
        """Returns the output after deleting 0, 1, 2, ... words: those with the highest attribution, and random ones."""
        places = [(side, number) for side, found in enumerate(values) for number in range(len(found))]
        most = min(MOST_DELETED, len(places))
        ranked = sorted(places, key=lambda place: -values[place[0]][place[1]])
        orders = [ranked]
        for draw in range(DRAWS):
            orders.append([places[index] for index in permutation(len(places), key=(0, draw))])
        texts = [text] + [_without(words, set(order[:number])) for order in orders for number in range(1, most + 1)]
        outputs = self.outputs(self.encode(texts)).mean(0).reshape(len(texts), -1)[:, chosen].astype(np.float64)
        curves = outputs[1:].reshape(len(orders), most)
        return {
            "most": [float(outputs[0]), *curves[0].tolist()],
            "random": [float(outputs[0]), *curves[1:].mean(0).tolist()],
        }


def seed_files(run_directory: Path) -> list[Path]:
    """Returns the parameter files of a run's seeds, by their numbers; none where it has one seed only."""
    return sorted((run_directory / "seeds").glob("*.safetensors"), key=lambda path: (len(path.stem), path.stem))


def _activated(logits: Float[Array, "*B C"], *, kind: Kind) -> Float[Array, "*B C"]:
    if kind == "single":
        return jax.nn.softmax(logits, axis=-1)
    return jax.nn.sigmoid(logits) if kind == "multi" else logits


def _shapes(config: ClassifierConfig) -> EncoderClassifier:
    return nnx.eval_shape(lambda: EncoderClassifier(config, rngs=nnx.Rngs(0)))


def _trained_on_pairs(config: dict[str, Any]) -> bool | None:
    """Returns whether a run's config says that its texts are pairs, or None where it says nothing of texts."""
    reading = config.get("reading")
    return None if reading is None else len(reading.get("text_columns") or ()) == 2


def _examples(texts: Sequence[Text]) -> Examples:
    pairs = sum(isinstance(text, tuple) for text in texts)
    if pairs not in (0, len(texts)):
        raise ValueError(f"texts must all be single or all be pairs, got {pairs:,} pairs of {len(texts):,}.")
    return Examples(texts=texts, labels=None, origin="texts", lines=np.arange(1, len(texts) + 1, dtype=np.int64))


def _of_words(words: list[Word], attributions: Float[np.ndarray, " pieces"]) -> list[float]:
    """Returns the attribution of each word whose first piece the model read: the sum over its pieces."""
    ends = np.cumsum([word.num_pieces for word in words], dtype=np.int64)
    begins = ends - [word.num_pieces for word in words]
    return [
        float(attributions[begin:end].sum())
        for begin, end in zip(begins, ends, strict=True)
        if begin < len(attributions)
    ]


def _without(words: list[list[Word]], deleted: set[tuple[int, int]]) -> Text:
    """Returns a text, or a pair, without some of its words, each given by its side and its number."""
    sides = tuple(
        "".join(word.span for number, word in enumerate(found) if (side, number) not in deleted).strip()
        for side, found in enumerate(words)
    )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _powers_of_two(max_length: int) -> list[int]:
    return [*(1 << power for power in range(3, max_length.bit_length()) if 1 << power < max_length), max_length]


def _stacked(params: Params) -> Params:
    bias = params["output"]["bias"]
    if bias.ndim != 2:
        raise ValueError(
            f"params must have a leading axis for the seeds, got output.bias of shape {bias.shape}. Of one seed: "
            "jax.tree.map(lambda array: array[None], params)."
        )
    return params


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
    if config.positions == "learned" and max_length > config.max_length:
        raise ValueError(
            f"max_length must be at most the {config.max_length} positions of the model, got max_length={max_length}."
        )
