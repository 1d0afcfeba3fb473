"""Explains why a text got its label: by integrated gradients, and by what happens when words are deleted.

The classifier provides the functions that read texts; this module knows no model class.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmx.data.buckets import permutation
from lmx.data.labelled import Text
from lmx.data.labels import Kind, Labels
from lmx.data.texts import EncodedExamples
from lmx.definition import Definition, Params
from lmx.losses import activated
from lmx.sharding.layout import Layout
from lmx.text import Tokenizer, num_separators
from lmx.words import Word, split_words

MOST_DELETED = 5  # words that the deletion check takes out
DRAWS = 10  # orders of random words that it compares with


@runtime_checkable
class Reads(Protocol):
    """The model to explain: `lmx.classifier.Classifier`.

    Attributes:
        integrate: `make_integrate`, compiled.
    """

    params: Params
    labels: Labels
    tokenizer: Tokenizer
    stride: int | None
    integrate: Callable[..., tuple[jax.Array, jax.Array]]

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch."""
        ...

    def encode(self, texts: Any) -> EncodedExamples:
        """Encodes texts as the model reads them."""
        ...

    def outputs(self, encoded: EncodedExamples) -> np.ndarray:
        """Returns the output of the model for each text."""
        ...

    def predictions(self, outputs: Any) -> list[Any]:
        """Returns the labels that outputs mean."""
        ...

    def padded(self, length: int) -> int:
        """Returns the length that a row is padded to."""
        ...

    def inputs(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch that the model reads."""
        ...


def explain(classifier: Reads, text: Text, *, steps: int = 64) -> dict[str, Any]:
    """Returns how much each piece and each word of a text moved the probability of its label.

    The method is integrated gradients (Sundararajan et al. 2017, equation 1) of the mean probability over seeds and
    windows. It takes the probability of the predicted class, of the most probable label where there may be several, or
    the number itself for regression. The path begins at the same row with the embedding of padding in place of every
    word and with its special tokens, as in Captum's examples (Kokhlikyan et al. 2020). No gradient ever reaches that
    vector, so it means nothing. Zero, the paper's own choice for text, does not work here: where nothing is added to
    embeddings before a norm, all of the change would lie in the first step away from it. The integral is Gauss and
    Legendre's, with `steps` nodes.

    Attributions add up to the change from the empty row to the text, except for `gap`, the error of the integral.
    `deletion` tells what they are worth: the probability after the 0, 1, 2, ... words with the highest attribution are
    deleted from the text, beside the mean over draws of random words.

    Returns:
        A record of explanations.json (text, label: None, prediction, probability, pieces, attributions, words,
        gap, deletion). For a truncated text, the pieces that the model read.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got steps={steps}.")
    encoded = classifier.encode([text])
    outputs = classifier.outputs(encoded).mean(0)
    chosen = 0 if classifier.labels.kind == "regression" else int(outputs[0].argmax())
    sides = (text,) if isinstance(text, str) else text
    totals, gap = _attributions(classifier, encoded, sides, chosen=chosen, steps=steps)
    pieces = [
        piece
        for side, values in zip(sides, totals, strict=True)
        for piece in classifier.tokenizer.pieces(classifier.tokenizer.encode(side)[: len(values)])
    ]
    words = [split_words(side, classifier.tokenizer) for side in sides]
    values = [_of_words(side, total) for side, total in zip(words, totals, strict=True)]
    (prediction,) = classifier.predictions(outputs)
    return {
        "text": text if isinstance(text, str) else list(text),
        "label": None,
        "prediction": classifier.labels.names[chosen] if classifier.labels.names else prediction.label,
        "probability": float(outputs[0, chosen]) if classifier.labels.names else None,
        "pieces": pieces,
        "attributions": np.concatenate(totals).tolist(),
        "words": [
            [word.text, value]
            for side, moved in zip(words, values, strict=True)
            for word, value in zip(side, moved, strict=False)
        ],
        "gap": gap,
        "deletion": _deletion(classifier, text, words, values, chosen=chosen),
    }


def make_integrate(
    definition: Definition, *, kind: Kind, pad_id: int, layout: Layout
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns the function that `explain` runs: outputs on the path from an empty row to a text, and the slopes there.

    Args:
        layout: where the parameters live.
    """

    def integrate(
        params: Params,
        inputs: dict[str, jax.Array],
        replaced: Bool[Array, "1 T"],
        chosen: Int[Array, ""],
        nodes: Float[Array, "chunks B"],
    ) -> tuple[Float[Array, "nodes"], Float[Array, "nodes T"]]:
        """Returns the output at each node of the way, and what each token adds to its slope there."""

        def of_one(params: Params) -> tuple[jax.Array, jax.Array]:
            model = definition.merge(params)
            tokens = inputs["tokens"]
            vectors = model.encoder.embedding(tokens)
            empty = model.encoder.embedding(jnp.where(replaced, pad_id, tokens)).astype(jnp.float32)
            way = vectors.astype(jnp.float32) - empty
            rows = {name: jnp.repeat(array, nodes.shape[1], axis=0) for name, array in inputs.items()}

            def output(places: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits, _ = model.from_vectors((empty + places).astype(vectors.dtype), **rows)
                outputs = activated(logits, kind=kind)[:, chosen]
                return outputs.sum(), outputs  # rows do not see each other: the gradient of the sum is each one's

            def at(nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
                gradients, outputs = jax.grad(output, has_aux=True)(nodes[:, None, None] * way)
                return outputs, (gradients * way).sum(-1)

            return jax.lax.map(at, nodes)

        with layout.inference(rows=False):
            outputs, slopes = jax.lax.map(of_one, params)
        return outputs.mean(0).reshape(-1), slopes.mean(0).reshape(-1, slopes.shape[-1])

    return integrate


def _attributions(
    classifier: Reads, encoded: EncodedExamples, sides: tuple[str, ...], *, chosen: int, steps: int
) -> tuple[list[Float[np.ndarray, " _"]], float]:
    """Returns for each side of a text the attributions of the pieces that the model read, and the integral's error.

    Args:
        encoded: the rows of one text.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    # Of [0, 1] instead of [-1, 1]; the ends come first, with no weight.
    nodes, weights = np.concatenate([[0, 1], (nodes + 1) / 2]), np.concatenate([[0, 0], weights / 2])
    totals = [np.zeros(len(classifier.tokenizer.encode(side))) for side in sides]
    seen = [0] * len(sides)
    change = 0.0
    for row, length in enumerate(encoded.lengths):
        batch = encoded.batch(np.array([row]), length=classifier.padded(int(length)))
        first = int(encoded.first_lengths[row])
        # The first side is behind the first token; each side is followed by a separator, or several between the two.
        between = num_separators(classifier.tokenizer) if len(sides) > 1 else 1
        places = [slice(1, first - between), slice(first, int(length) - 1)][: len(sides)]
        replaced = np.zeros_like(batch["tokens"], dtype=bool)
        for place in places:
            replaced[0, place] = True
        # As many rows at once as the memory is meant for; what fills the last ones up is not looked at.
        rows = max(1, min(len(nodes), 16, classifier.batch_tokens // replaced.shape[1]))
        chunks = np.resize(nodes.astype(np.float32), (-(-len(nodes) // rows), rows))
        results = classifier.integrate(classifier.params, classifier.inputs(batch), replaced, np.int32(chosen), chunks)
        outputs, slopes = jax.device_get(results)
        attributions = weights @ slopes[: len(nodes)].astype(np.float64)
        change += float(outputs[1] - outputs[0]) / len(encoded)
        for side, place in enumerate(places):
            begin = row * (classifier.stride or 0)
            end = begin + place.stop - place.start
            totals[side][begin:end] += attributions[place] / len(encoded)
            seen[side] = end
    totals = [values[:end] for values, end in zip(totals, seen, strict=True)]
    return totals, abs(float(sum(values.sum() for values in totals)) - change)


def _deletion(
    classifier: Reads, text: Text, words: list[list[Word]], values: list[list[float]], *, chosen: int
) -> dict[str, list[float]]:
    """Returns the output after deleting 0, 1, 2, ... words: those with the highest attribution, and random ones."""
    places = [(side, number) for side, moved in enumerate(values) for number in range(len(moved))]
    most = min(MOST_DELETED, len(places))
    ranked = sorted(places, key=lambda place: -values[place[0]][place[1]])
    orders = [ranked]
    for draw in range(DRAWS):
        orders.append([places[index] for index in permutation(len(places), key=(0, draw))])
    texts = [text] + [_without(words, set(order[:number])) for order in orders for number in range(1, most + 1)]
    outputs = classifier.outputs(classifier.encode(texts)).mean(0).reshape(len(texts), -1)[:, chosen].astype(np.float64)
    curves = outputs[1:].reshape(len(orders), most)
    return {
        "most": [float(outputs[0]), *curves[0].tolist()],
        "random": [float(outputs[0]), *curves[1:].mean(0).tolist()],
    }


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
        "".join(word.span for number, word in enumerate(each) if (side, number) not in deleted).strip()
        for side, each in enumerate(words)
    )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
