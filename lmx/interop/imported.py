"""A foreign model as lmx sees it: config, parameters under our names, tokenizers, and what else a run says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from lmx.data.labels import Labels
from lmx.definition import Definition, define
from lmx.errors import InputError
from lmx.interop.mapping import Mapped, Table
from lmx.interop.tensors import Source
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.embedder import Embedder, EmbedderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig, MaskedEncoder
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.text import Tokenizer

AnyModel = DecoderConfig | MaskedConfig | Seq2SeqConfig | ClassifierConfig | EmbedderConfig
# Family of a run directory by the config of its model, and the network.
NETWORKS: Mapping[type, tuple[str, Any]] = {
    DecoderConfig: ("decoder", Decoder),
    MaskedConfig: ("masked", MaskedEncoder),
    Seq2SeqConfig: ("seq2seq", Seq2Seq),
    ClassifierConfig: ("classifier", EncoderClassifier),
    EmbedderConfig: ("embedder", Embedder),
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A foreign model, of which only configs and headers have been read.

    Attributes:
        family: of the run directory that it becomes, as `lmx.saved.read_config` knows it.
        model: our config.
        file: its parameters under our names; reads like a safetensors file of our own, see `Mapped`.
        tokenizers: by name: "tokenizer", or "source" and "target"; none where the source has none.
        settings: what goes below "config" in config.json, such as {"max_length": 512}.
        facts: what goes beside it, such as {"mask_id": 103}.
        labels: what the outputs mean, of a classifier.
        left: what of the source's settings nothing here does, a text for each.
    """

    family: str
    model: AnyModel
    file: Mapped
    tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    labels: Labels | None = None
    left: tuple[str, ...] = ()


def family_of(model: AnyModel) -> str:
    """Returns the family of a model, as a run directory names it."""
    return NETWORKS[type(model)][0]


def definition_of(model: AnyModel) -> Definition:
    """Returns the definition of a model of any family."""
    network = NETWORKS[type(model)][1]

    def build(rngs: nnx.Rngs) -> nnx.Module:
        return network(model, rngs=rngs)

    return define(build)


def shapes_of(model: AnyModel) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's parameters by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(definition_of(model).shapes)
    return {".".join(str(entry.key) for entry in path): tuple(leaf.shape) for path, leaf in leaves}


def mapped(source: Source, table: Table, model: AnyModel) -> Mapped:
    """Returns a source under the names and shapes of a model's parameters."""
    return Mapped(source, table, shapes_of(model))


def check_tokenizers(model: AnyModel, tokenizers: Mapping[str, Tokenizer], *, where: str) -> None:
    """Checks that a model reads and writes the ids of its tokenizers.

    Raises:
        InputError: a tokenizer has more ids than the table has rows.
    """
    for name, tokenizer in tokenizers.items():
        side = f"{name}_vocab_size" if name in ("source", "target") else "vocab_size"
        if isinstance(model, Seq2SeqConfig):
            rows = model.source_vocab_size if name == "source" else model.target_vocab_size
        else:
            rows = model.vocab_size
        if tokenizer.vocab_size > rows:
            raise InputError(
                f"{where} must have a row of its table for each id of its tokenizer, got {side}={rows:,} and "
                f"{tokenizer.vocab_size:,} ids. The tokenizer may be another model's, or tokens were added to it alone."
            )
