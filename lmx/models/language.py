"""What the three families of language models have in common: states that predict labels, cost, vocabulary."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lmx.errors import InputError
from lmx.models import decoder, masked, seq2seq
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig

Model = TypeVar("Model", DecoderConfig, MaskedConfig, Seq2SeqConfig)
AnyConfig = DecoderConfig | MaskedConfig | Seq2SeqConfig


def family_of(model: AnyConfig) -> str:
    """Returns the family of a model, as a run directory names it."""
    return {DecoderConfig: "decoder", MaskedConfig: "masked", Seq2SeqConfig: "seq2seq"}[type(model)]


def build_network(model: AnyConfig, rngs: nnx.Rngs) -> Any:
    """Returns the network of a model's config."""
    makers: dict[type, Any] = {DecoderConfig: Decoder, MaskedConfig: MaskedEncoder, Seq2SeqConfig: Seq2Seq}
    return makers[type(model)](model, rngs=rngs)


def vocabulary_fields(model: AnyConfig) -> tuple[str, ...]:
    """Returns the names of a config's fields for the size of the vocabulary."""
    return ("source_vocab_size", "target_vocab_size") if isinstance(model, Seq2SeqConfig) else ("vocab_size",)


def fit_vocabulary(model: Model, *, vocab_size: int, length: int, pad_id: int = 0) -> Model:
    """Returns the config for a vocabulary, of both sides where there are two, and with room for rows of a length.

    Raises:
        InputError: the config asks for another vocabulary.
    """
    fields = vocabulary_fields(model)
    for name in fields:
        if (asked := getattr(model, name)) not in (0, vocab_size):
            raise InputError(
                f"model.{name} must be the {vocab_size:,} of tokenizer and objective, or 0 to take them, got "
                f"{name}={asked:,}."
            )
    sizes: Any = dict.fromkeys(fields, vocab_size)
    return dataclasses.replace(model, **sizes, pad_id=pad_id, max_length=max(model.max_length, length))


class Predicting(NamedTuple):
    """States that predict, the labels, and which of them count."""

    states: Float[Array, "B T D"]
    labels: Int[Array, "B T"]
    counts: Bool[Array, "B T"]


def predict(network: Any, batch: Mapping[str, jax.Array], *, key: jax.Array | None, is_packed: bool) -> Predicting:
    """Returns what a batch of any objective (`lmx.data.objectives`) is to be predicted from.

    Args:
        is_packed: documents of a row do not see each other. Without it a row is one text, and its padding at the end.
    """

    def packing(side: str = "") -> dict[str, jax.Array]:
        return {name: batch[f"{side}{name}"] for name in ("segments", "positions")} if is_packed else {}

    if "source" not in batch:
        given = {"prefix": batch["prefix"]} if "prefix" in batch else {}
        states, _ = network(batch["tokens"], **packing(), **given, key=key)
        labels = batch["labels"]
        return Predicting(states, jnp.maximum(labels, 0), labels >= 0)
    source_key, target_key = (None, None) if key is None else jax.random.split(key)
    memory, _ = network.encode(batch["source"], **packing("source_"), key=source_key)
    of_source = {"source_segments": batch["source_segments"]} if is_packed else {}
    states, _ = network.decode(
        memory, batch["source"], batch["decoder_input"], **of_source, **packing("target_"), key=target_key
    )
    return Predicting(states, batch["target"], batch["target"] != network.config.pad_id)


def training_flops(model: AnyConfig, *, rows: int, lengths: tuple[int, int]) -> tuple[float, float]:
    """Returns the FLOPs of a training step: with all scores of attention, and with those that may be seen.

    Args:
        lengths: tokens of a row; of an encoder-decoder, of source and target.
    """
    if isinstance(model, Seq2SeqConfig):
        return seq2seq.training_flops(model, rows=rows, source=lengths[0], target=lengths[1])
    if isinstance(model, MaskedConfig):
        return masked.training_flops(model, rows=rows, length=lengths[0])
    return decoder.training_flops(model, rows=rows, length=lengths[0])
