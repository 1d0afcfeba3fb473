"""The test of a finished language model: its scores on held-out text, and how much each token surprised it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.config import Published
from lmx.data.mixtures import Mixture
from lmx.data.shards import TokenCorpus
from lmx.data.windows import Windows
from lmx.definition import Params, member
from lmx.evaluation.tables import print_record
from lmx.generator import Frame, Generator
from lmx.learner import Placed, mean_loss
from lmx.models.language import predict
from lmx.run import Run
from lmx.sampling import Sampling
from lmx.saved import write_json, write_jsonl
from lmx.scoring.language import Extent, LanguageScore, score_tokens
from lmx.scoring.records import Record, Row, mean_row, scores_of_seeds
from lmx.sharding.step import use_mesh
from lmx.text import Tokenizer
from lmx.training import TrainState

Metric = Literal["loss", "perplexity", "word_perplexity", "bits_per_byte"]
NAMES: dict[str, str] = {
    "loss": "loss",
    "perplexity": "perplexity",
    "word_perplexity": "perplexity of words",
    "bits_per_byte": "bits per byte",
}
UNITS = {
    "loss": "nats a token",
    "perplexity": "of a token",
    "word_perplexity": "of what stands between white space, line ends counted where they are documents' ends",
    "bits_per_byte": "of UTF-8",
}
DIGITS = 4
WRITTEN = "written.jsonl"
SHOWN_TOKENS, SHOWN_TEXTS = 512, 4


def measure(placed: Placed, params: Params, windows: Windows, *, predicts_all: bool) -> tuple[Any, dict[str, Any]]:
    """Returns the loss of a text in nats per token, and the line of a validation; arrays for several seeds.

    Args:
        predicts_all: whether the objective predicts every token; only then bits per byte are known.
    """
    rows = windows.once(placed.layout.rows_of_host, fill_multiple=placed.layout.row_shards)
    line = mean_loss(placed, params, rows)
    scores = score_tokens(line["nll"], extent_of(windows.corpus))
    line["perplexity"] = scores.perplexity
    if predicts_all:
        line["bits_per_byte"] = scores.bits_per_byte
    return line["nll"], line


def extent_of(corpus: TokenCorpus | Mixture) -> Extent:
    """Returns the extent of a corpus: its tokens, words and bytes."""
    return Extent(tokens=corpus.num_tokens, words=max(corpus.num_words, 1), bytes=max(corpus.num_bytes, 1))


class SampleWriter:
    """What a decoder goes on with from the same prompts, by the same random numbers, at each validation.

    Args:
        prompts: none writes nothing.
    """

    def __init__(self, run: Run, placed: Placed, *, prompts: Sequence[str], sampling: Sampling, tokenizer: Tokenizer):
        self._run, self._placed, self._prompts = run, placed, prompts
        self._settings: dict[str, Any] = {"sampling": sampling, "tokenizer": tokenizer}
        self._generator: Generator | None = None

    def write(self, params: Params, *, state: TrainState | None) -> None:
        """Writes texts of a step into the run's directory, behind those of earlier steps.

        With several seeds, the first writes. A failure is reported, and training goes on.

        Args:
            state: of the step; None writes nothing.
        """
        path = self._run.directory / WRITTEN
        if not self._prompts or state is None:
            return
        step = int(state.step)
        with self._run.only_reporting("the texts of this step are"):
            if self._placed.learner.num_seeds is not None:
                params = member(params, 0)
            if self._generator is None:
                frame, layout = Frame(first=self._run.decided.get("first_id")), self._placed.layout
                config = self._placed.learner.model.network.config
                generator = Generator(config, params, frame=frame, layout=layout, **self._settings)
            else:
                generator = self._generator.with_params(params)
            self._generator = generator.without_params()  # until the next time, the state alone is on the devices
            texts = generator.generate(self._prompts)
            del generator
            if self._run.writes:
                # A text may hold what `str.splitlines` takes for a line end.
                lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
                before = [each for each in map(json.loads, filter(None, lines)) if each["step"] < step]
                now = [{"step": step, "prompt": each.prompt, "text": each.text} for each in texts]
                write_jsonl(path, before + now)


class Exam(NamedTuple):
    """What a finished model is tested on, and how.

    Attributes:
        name: of the text, such as "shakespeare-char validation".
        windows: its rows.
        metric: the main score.
        predicts_all: see `measure`.
        made: how the parameters came about.
    """

    name: str
    windows: Windows
    metric: Metric
    predicts_all: bool
    made: str
    published: Published


def examine_language_model(
    run: Run, placed: Placed, params: Params, exam: Exam, *, seeds: Sequence[int], tokenizer: Tokenizer
) -> Record:
    """Scores the held-out text, and writes scores and the surprise of its first tokens; returns what was scored."""
    value, _ = measure(placed, params, exam.windows, predicts_all=exam.predicts_all)
    corpus = exam.windows.corpus
    scores = score_tokens(value, extent_of(corpus))
    known = tuple(NAMES) if exam.predicts_all else ("loss", "perplexity")
    first = exam.metric if exam.metric in known else "loss"
    rows = [_row(exam, name, scores) for name in (first, *(name for name in known if name != first))]
    record = Record(test=exam.name, rows=tuple(rows)).compared_with(**vars(exam.published))
    if len(seeds) > 1 and run.memory.best:
        tests = np.asarray(getattr(scores, first)).tolist()
        best = {"best": run.memory.best, "best_step": run.memory.best_step}
        record = replace(record, seeds=scores_of_seeds(seeds, tests, **best))
    about = f"{corpus.num_tokens:,} tokens, {corpus.num_words:,} words, {corpus.num_bytes:,} bytes"
    record = record.with_others(text=corpus.origin, tokens=corpus.num_tokens, stride=exam.windows.stride)
    one = member(params, int(np.argmin(run.memory.best or [0]))) if placed.learner.num_seeds is not None else params
    with run.only_reporting("the surprise of tokens is"):
        # Side by side, so that each token is shown once.
        beside = exam.windows.overlapping(None if exam.windows.stride is None else exam.windows.length)
        texts = surprise(placed, one, beside, tokenizer)
        if run.writes:
            write_json(run.directory / "surprise.json", texts)
    if run.writes:
        write_json(run.directory / "scores.json", record.to_json())
    print_record(run, record, title=f"{exam.name}: {about}", baselines_are="", digits=DIGITS)
    return record


def _row(exam: Exam, name: str, scores: LanguageScore) -> Row:
    values = np.atleast_1d(getattr(scores, name))
    length, stride = exam.windows.length, exam.windows.stride
    rows = "" if stride is None else f"; rows of {length:,} tokens that begin {stride:,} apart"
    row = Row(
        name=f"{exam.name} {NAMES[name]}",
        score=float(values[0]),
        interval=None,
        signature=f"{UNITS[name]}{rows}",
        made=exam.made,
    )
    return row if len(values) == 1 else mean_row(row, values.tolist(), made=exam.made, digits=DIGITS)


def surprise(placed: Placed, params: Params, windows: Windows, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Returns the first tokens of a text with the bits by which each surprised the model; None where none is predicted.

    Args:
        params: of one seed.
    """
    layout, model = placed.layout, placed.learner.model
    shards = layout.row_shards
    whole = next(iter(windows.once(fill_multiple=shards)))
    rows = -(-SHOWN_TEXTS // shards) * shards
    whole = {name: array[:rows] for name, array in whole.items()}
    if "source" not in whole and placed.mesh.shape["sequence"] == 1:
        whole = {name: array[:, :SHOWN_TOKENS] for name, array in whole.items()}

    def bits(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        with use_mesh(placed.mesh, rules=placed.rules):
            network = model.merge(params)
            states, labels, _ = predict(network, batch, key=None, is_packed=windows.packing == "documents")
            logits = jax.nn.log_softmax(network.logits(states))
            return -jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0] / jnp.log(2.0)

    found = np.asarray(jax.jit(bits, out_shardings=layout.whole)(params, layout.place(whole)))
    if "labels" in whole:
        shown = labels = whole["labels"]
        predicted = kept = labels >= 0
        if not kept.mean() > 0.5:  # the words around those taken out
            shown, kept = np.where(predicted, labels, whole["tokens"]), whole["segments"] > 0
    else:
        shown = whole["target"]
        predicted = kept = shown != tokenizer.pad_id
    texts = []
    for ids, here, counts, values in zip(shown[:SHOWN_TEXTS], kept, predicted, found, strict=False):
        places = np.flatnonzero(here)
        if places.size:
            texts.append(
                {
                    "pieces": readable_pieces(tokenizer, ids[places].tolist()),
                    "bits": [round(float(values[place]), 2) if counts[place] else None for place in places],
                }
            )
    return texts


def readable_pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Returns the pieces of ids; those behind the tokenizer's are a mask or sentinels, told by their number."""
    size = tokenizer.vocab_size
    return [tokenizer.pieces([index])[0] if index < size else f"<{index}>" for index in ids]
