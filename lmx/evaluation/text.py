"""How well a finished decoder predicts any text, by rows side by side or by a sliding window."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmx import losses
from lmx.config import RowsConfig
from lmx.data.cache import Cache
from lmx.data.corpus import encode_corpus, find_corpus
from lmx.data.objectives.causal import causal
from lmx.data.objectives.rows import IGNORED, Key, Rows
from lmx.data.windows import Packing, Windows
from lmx.definition import define
from lmx.evaluation.language import extent_of
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.models.language import predict
from lmx.parameters import Params, load_params
from lmx.saved import find_tokenizers, read_config, read_field, read_fields
from lmx.scoring.language import Extent, LanguageScore, score_tokens
from lmx.text import load_tokenizer

LONGEST = 2048  # tokens of a row, where neither the run nor the caller says them


class Predicted(NamedTuple):
    """How well a text is predicted, and how that was measured.

    Attributes:
        unknown: tokens that stand for what the vocabulary does not have; they are predicted as one word.
        origin: of the text.
        context: tokens of a row.
        stride: tokens between the beginnings of two rows of a stream; None of documents, none of which sees another.
        first: the id that each row is read after, if the model was trained with one.
    """

    scores: LanguageScore
    extent: Extent
    unknown: int
    origin: str
    context: int
    stride: int | None
    first: int | None


def predict_text(
    run_directory: Path,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int = 8192,
    cache: Cache,
    progress: Callable[[int], None] = lambda done: None,
) -> Predicted:
    """Returns how well the model of a finished run predicts a text: each token once, from those before it in its row.

    Rows are cut out of a stream or hold whole documents, as in the run's training.

    Args:
        text: see `lmx.data.corpus.find_corpus`; the end of each document counts as a token.
        context: tokens of a row; None takes those of the run's training, or else the model's longest, at most LONGEST.
        stride: see `lmx.config.RowsConfig`; None takes the run's own.
        batch_tokens: tokens that are read at once.
        cache: where the tokens of the text are kept.
        progress: called with the number of tokens that are done.

    Raises:
        FileNotFoundError: the directory is no run's, its training has not ended, or there is no such text.
        ValueError: the run is of another kind, rows cannot be like that, or the text is shorter than a row.
    """
    saved = read_config(run_directory, family="decoder", purpose="predicts text")
    path = run_directory / "config.json"
    config = read_fields(DecoderConfig, saved["model"], path=path, field="model")
    said: dict[str, Any] = {
        name: read_field(saved, "config", name, kind=kind | None, path=path)
        for name, kind in (("objective", str), ("context", int), ("stride", int), ("packing", str))
    }
    if said["objective"] not in (None, "causal"):
        raise ValueError(f"{run_directory} must be a run of objective=causal, got objective={said['objective']}.")
    tokenizers = find_tokenizers(run_directory)
    if "tokenizer" not in tokenizers:
        raise FileNotFoundError(f"{run_directory} must hold a tokenizer (tokenizer.model, .vocab or .bytes).")
    tokenizer = load_tokenizer(tokenizers["tokenizer"])
    first = read_field(saved, "first_id", kind=int | None, path=path)
    length = context if context is not None else said["context"] or min(config.max_length, LONGEST)
    if not 1 <= length <= config.max_length:
        raise ValueError(f"context must be from 1 to the model's {config.max_length:,} tokens, got context={length}.")
    step = stride if stride is not None or context is not None else said["stride"]
    packing: Packing = "documents" if said["packing"] == "documents" else "stream"
    RowsConfig(context=length, stride=step, packing=packing).check_stride(objective="causal")
    if batch_tokens < length:
        raise ValueError(f"batch_tokens must be at least a row of {length} tokens, got batch_tokens={batch_tokens}.")
    if config.vocab_size < tokenizer.vocab_size or config.pad_id != tokenizer.pad_id:
        raise ValueError(
            f"{run_directory} must have a model that reads the ids of its tokenizer, got {config.vocab_size} words and "
            f"padding {config.pad_id}, and of the tokenizer {tokenizer.vocab_size} and {tokenizer.pad_id}."
        )
    corpus = encode_corpus(find_corpus(text), tokenizer, cache=cache)
    windows = Windows(
        corpus,
        length=length,
        rows=batch_tokens // length,
        make=functools.partial(_rows, pad_id=tokenizer.pad_id, first=first),
        ahead=int(first is None),
        packing=packing,
    ).overlapping(step)
    definition = define(lambda rngs: Decoder(config, rngs=rngs))
    params = load_params(run_directory / "model.safetensors", definition.shapes, place=jax.numpy.asarray)

    @jax.jit
    def sums(params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        network = definition.merge(params)
        states, labels, counts = predict(network, batch, key=None, is_packed=packing == "documents")
        found = losses.token_loss(states, network.output(), labels, counts)
        return found.nll, found.weight

    total = counted = 0.0
    # Where there is no such word, its id is the padding's or the end's, and every text can be written.
    unknown_id = IGNORED - 1 if tokenizer.unk_id in (tokenizer.pad_id, tokenizer.eos_id) else tokenizer.unk_id
    unknown = 0
    for batch in windows.once():
        nll, weight = (float(np.asarray(value, np.float64)) for value in sums(params, batch))
        total, counted = total + nll, counted + weight
        unknown += int((batch["labels"] == unknown_id).sum())
        progress(int(counted))
    if not counted:
        raise ValueError(f"{corpus.origin} must hold a token that others stand before, got none.")
    extent = extent_of(corpus)
    rows = (corpus.origin, length, None if packing == "documents" else step or length, first)
    return Predicted(score_tokens(total / counted, extent), extent, unknown, *rows)


def _rows(raw: Rows, key: Key, *, pad_id: int, first: int | None) -> Rows:
    return causal(raw, pad_id=pad_id, start_id=first)
