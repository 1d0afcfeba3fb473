"""Texts with gaps in, likely words out: a pretrained masked encoder fills each gap."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmx.definition import define
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.parameters import Params, load_params
from lmx.saved import find_tokenizers, read_config, read_field, read_fields
from lmx.text import Tokenizer, load_tokenizer
from lmx.writer import rounded

MASK = "[MASK]"


@dataclass(frozen=True)
class Filled:
    """A word that may stand in a gap.

    Attributes:
        word: its text.
        piece: as the vocabulary writes it, with the mark of the space before it.
        probability: of all that the vocabulary holds.
    """

    word: str
    piece: str
    probability: float


class FillMask:
    """Finds the likeliest words for the gaps of texts.

    Args:
        params: as `nnx.to_pure_dict` returns them.
        tokenizer: of the texts; it must pad as the model does.
        mask_id: the id that the model was trained to see in place of a word.
        first_id: id before each text, if the model was trained with one: `[CLS]` of BERT.

    Raises:
        ValueError: the model does not read the ids of the tokenizer.
    """

    def __init__(
        self,
        config: MaskedConfig,
        params: Params,
        *,
        tokenizer: Tokenizer,
        mask_id: int,
        first_id: int | None = None,
    ):
        if config.vocab_size < max(tokenizer.vocab_size, mask_id + 1) or config.pad_id != tokenizer.pad_id:
            raise ValueError(
                f"the model must read the ids of the tokenizer and the mask, got vocab_size={config.vocab_size} and "
                f"pad_id={config.pad_id}, {tokenizer.vocab_size} and {tokenizer.pad_id} of the tokenizer, and "
                f"mask_id={mask_id}."
            )
        self.config, self.tokenizer, self.mask_id, self.first_id = config, tokenizer, mask_id, first_id
        self._mask = _written(mask_id, tokenizer)
        self._params = jax.tree.map(jnp.asarray, params)
        definition = define(lambda rngs: MaskedEncoder(config, rngs=rngs))

        def run(params: Params, tokens: Int[Array, "B T"], places: Int[Array, " T"]) -> Float[Array, "T V"]:
            model = definition.merge(params)
            states, _ = model(tokens)
            return jax.nn.softmax(model.logits(states[0, places]))

        self._run = jax.jit(run)

    @staticmethod
    def load(run_directory: Path) -> "FillMask":
        """Returns what fills the gaps by a finished run, from the files in its directory alone.

        Raises:
            FileNotFoundError: the directory is not a run's, or its training has not ended.
            ValueError: the run is of another kind.
        """
        run_directory = Path(run_directory)
        saved = read_config(run_directory, family="masked", purpose="fills in masked words")
        path = run_directory / "config.json"
        config = read_fields(MaskedConfig, saved["model"], path=path, field="model")
        mask_id = read_field(saved, "mask_id", kind=int, path=path)
        first_id = read_field(saved, "first_id", kind=int | None, path=path)
        tokenizers = find_tokenizers(run_directory)
        if "tokenizer" not in tokenizers:
            raise FileNotFoundError(f"{run_directory} must hold a tokenizer (tokenizer.model, .vocab or .bytes).")
        shapes = define(lambda rngs: MaskedEncoder(config, rngs=rngs)).shapes
        params = load_params(run_directory / "model.safetensors", shapes, place=jnp.asarray)
        tokenizer = load_tokenizer(tokenizers["tokenizer"])
        return FillMask(config, params, tokenizer=tokenizer, mask_id=mask_id, first_id=first_id)

    def fill(self, texts: str | Sequence[str], *, top_k: int = 5) -> list[list[list[Filled]]]:
        """Returns the likeliest words, most likely first, of each gap of each text, all gaps of a text at once.

        Args:
            texts: one, or several; `[MASK]` is a gap, and so is the mask that the vocabulary itself has (`<mask>`).

        Raises:
            ValueError: a text has no gap, or is longer than the model's rows.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got top_k={top_k}.")
        encoded = [self._encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return [self._fill(ids, top_k) for ids in encoded]

    def _encode(self, text: str) -> list[int]:
        if self._mask is not None:  # which may stand for a word and the space before it
            ids = self.tokenizer.encode(text.replace(MASK, self._mask))
        else:
            first, *others = text.split(MASK)
            ids = self.tokenizer.encode(first)
            for part in others:
                ids += [self.mask_id, *self.tokenizer.encode(part)]
        if self.mask_id not in ids:
            raise ValueError(f"a text must have a gap, {MASK}, got {text[:60]!r}.")
        ids = [*([] if self.first_id is None else [self.first_id]), *ids, self.tokenizer.eos_id]  # as in training
        if len(ids) > self.config.max_length:
            raise ValueError(
                f"a text must have at most {self.config.max_length:,} tokens, its end included, got {len(ids):,} in "
                f"{text[:40]!r}. Cut it."
            )
        return ids

    def _fill(self, ids: list[int], top_k: int) -> list[list[Filled]]:
        length = rounded(len(ids), self.config.max_length)
        tokens, places = np.full((1, length), self.tokenizer.pad_id, np.int32), np.zeros(length, np.int32)
        gaps = [place for place, each in enumerate(ids) if each == self.mask_id]
        tokens[0, : len(ids)], places[: len(gaps)] = ids, gaps
        found: Any = jax.device_get(self._run(self._params, tokens, places))
        return [self._best(row[: self.tokenizer.vocab_size], top_k) for row in found[: len(gaps)]]

    def _best(self, probabilities: Float[np.ndarray, " V"], top_k: int) -> list[Filled]:
        best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        pieces = self.tokenizer.pieces(best)
        return [
            Filled(self.tokenizer.decode([word]) or piece, piece, float(probabilities[word]))
            for word, piece in zip(best, pieces, strict=True)
        ]


def _written(mask_id: int, tokenizer: Tokenizer) -> str | None:
    """Returns the text that a tokenizer reads as the mask, or None where it reads none as such."""
    if mask_id >= tokenizer.vocab_size:
        return None
    (text,) = tokenizer.pieces([mask_id])
    return text if tokenizer.encode(text) == [mask_id] else None
