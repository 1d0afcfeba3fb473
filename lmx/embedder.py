"""Texts in, vectors out: the encoder of a finished run, whatever it was trained for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from lmx.definition import Params, define
from lmx.models.embedder import EmbedderConfig, text_vectors
from lmx.models.encoder import Encoder
from lmx.parameters import open_params
from lmx.saved import find_tokenizers, read_field, read_fields, read_record
from lmx.text import Tokenizer, load_tokenizer

FAMILIES = ("embedder", "masked", "classifier")
BUCKETS = (16, 32, 64, 128, 256, 512)  # lengths that rows are padded to


class TextEmbedder:
    """Makes one vector of each text.

    Args:
        params: of an `Encoder`, as `nnx.to_pure_dict` returns them.
        max_length: most tokens of a text, those that begin and end it included; what is longer is cut.
        first_id: id before each text, if the model was trained with one.
    """

    def __init__(
        self,
        config: EmbedderConfig,
        params: Params,
        *,
        tokenizer: Tokenizer,
        max_length: int,
        first_id: int | None,
        rows: int = 32,
    ):
        self.config, self.tokenizer, self.max_length, self.rows = config, tokenizer, max_length, rows
        self._first = [] if first_id is None else [first_id]
        self.cut = 0
        self._params = jax.tree.map(jnp.asarray, params)
        definition = define(lambda rngs: Encoder(config, rngs=rngs))

        def run(params: Params, tokens: Int[Array, "B T"]) -> jax.Array:
            states, _ = definition.merge(params)(tokens)
            seen = tokens != config.pad_id
            return text_vectors(states, seen, vector=config.vector, normalised=config.normalised)

        self._run = jax.jit(run)

    @staticmethod
    def load(
        run_directory: Path, *, vector: Literal["mean", "first"] | None = None, normalised: bool | None = None
    ) -> "TextEmbedder":
        """Returns what embeds texts by a finished run of an encoder.

        Args:
            vector, normalised: see `EmbedderConfig`; None is what the run says, or the mean as it is.

        Raises:
            FileNotFoundError: the directory is not a run's, or has no tokenizer.
            ValueError: the run is of another kind.
        """
        path = run_directory / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{run_directory} must be a run directory, got one without config.json.")
        saved = read_record(path)
        if saved.get("family") not in FAMILIES or "model" not in saved:
            raise ValueError(
                f"{run_directory} must hold a trained encoder ({', '.join(FAMILIES)}), "
                f"got family={saved.get('family')!r}."
            )
        names = {each.name for each in dataclasses.fields(EmbedderConfig)}
        model = read_field(saved, "model", kind=dict, path=path)
        fields = {name: value for name, value in model.items() if name in names}
        config = read_fields(EmbedderConfig, fields, path=path, field="model")
        changes: dict[str, Any] = {"vector": vector, "normalised": normalised}
        config = dataclasses.replace(config, **{name: value for name, value in changes.items() if value is not None})
        tokenizers = find_tokenizers(run_directory)
        if "tokenizer" not in tokenizers:
            raise FileNotFoundError(f"{run_directory} must hold a tokenizer.")
        max_length = read_field(saved, "config", "max_length", kind=int | None, path=path) or config.max_length
        tokenizer = load_tokenizer(tokenizers["tokenizer"])
        first_id = tokenizer.bos_id
        if saved["family"] == "masked":  # the others have always seen one
            first_id = read_field(saved, "first_id", kind=int | None, path=path)
        return TextEmbedder(
            config,
            _encoder(run_directory / "model.safetensors"),
            tokenizer=tokenizer,
            max_length=min(max_length, config.max_length),
            first_id=first_id,
        )

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts D"]:
        """Returns the vectors of texts, in their order."""
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
        vectors = np.zeros((len(encoded), self.config.width), np.float32)
        for begin in range(0, len(order), self.rows):
            places = order[begin : begin + self.rows]
            longest = max(len(encoded[place]) for place in places)
            length = _padded(longest, self.config.max_length)
            tokens = np.full((self.rows, length), self.config.pad_id, np.int32)
            for row, place in enumerate(places):
                tokens[row, : len(encoded[place])] = encoded[place]
            vectors[places] = np.asarray(self._run(self._params, tokens))[: len(places)]
        return vectors

    def _encode(self, text: str) -> list[int]:
        ids, most = self.tokenizer.encode(text), self.max_length - len(self._first) - 1
        self.cut += len(ids) > most
        return [*self._first, *ids[:most], self.tokenizer.eos_id]


def _padded(length: int, most: int) -> int:
    """Returns the length that a row is padded to: one of few, each compiled once, and beyond them a power of two."""
    bound = next((bound for bound in BUCKETS if length <= bound), 1 << (length - 1).bit_length())
    return min(bound, most)


def _encoder(path: Path) -> Params:
    """Returns the parameters of the encoder in a file, whatever stands beside it there."""
    params: dict[str, Any] = {}
    with open_params(path) as file:
        for name in file.keys():  # noqa: SIM118
            first, *way, last = name.split(".")
            if first == "encoder":
                part = params
                for each in way:
                    part = part.setdefault(each, {})
                part[last] = jnp.asarray(file.get_tensor(name))
    return params
