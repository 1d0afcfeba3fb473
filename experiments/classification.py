"""Text classification with a Transformer encoder: train, label, score, report.

    python experiments/classification.py PRESET [--field value ...]
    python experiments/classification.py own --train train.csv --test test.csv --seeds 5
    python experiments/classification.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

PRESETS says what each preset reproduces; `experiments/README.md` has the commands, times and expected scores. Read from
top to bottom: the config, the presets, `build` (pure: model, loss, optimizer), data, `main`, and the scores.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float
from rich.table import Table

from lmx.checkpoint import load_placed, save_params
from lmx.classifier import Classifier
from lmx.compilation import CompileCache
from lmx.data.batches import SeedBatches, choose_buckets, rows_of_bucket
from lmx.data.cache import Cache
from lmx.data.embedded import standard_library
from lmx.data.encoded import facts_of_examples, keep_examples, keep_labelled, keep_tokenizer
from lmx.data.fitting import Sizes
from lmx.data.labelled import FIELD_LIMIT, Examples, Form, count_shared, read_labelled, sides_of
from lmx.data.labels import Kind, Labels, Targets
from lmx.data.splits import folds, split_wholes, stratified_split
from lmx.data.texts import EncodedExamples, encode_examples
from lmx.errors import InputError
from lmx.experiment import (
    attention_facts,
    check_lengths,
    check_shapes,
    config_as_json,
    fit_batches,
    fit_warmup,
    learn_pieces,
    print_plan,
    print_scores,
    read_command_line,
    run_script,
    say_fewer_pieces,
    settle_tokens,
    start_facts,
    text_cache,
    tokens_on_device,
)
from lmx.hosts import HostsConfig, agreement, fingerprint, start, wait
from lmx.loop import steps_to_profile, train
from lmx.losses import drop_words, label_loss
from lmx.models.encoder import ClassifierConfig, EncoderClassifier, training_flops
from lmx.nn.kernels import KernelName
from lmx.nn.masks import segments_of
from lmx.optimization import OptimizerConfig, make_optimizer, make_schedule
from lmx.plan.figures import Job
from lmx.report import write_report
from lmx.run import (
    Run,
    duration,
    make_deterministic,
    on_one_line,
    peak_flops,
    progress_bar,
    versions,
    write_json,
    write_jsonl,
    write_lines,
)
from lmx.saved import check_vocabulary, find_tokenizers, save_tokenizer
from lmx.scoring.baselines import tfidf_predictions
from lmx.scoring.classification import load_scikit_learn, prediction_lines, score_outputs, spreads_of
from lmx.scoring.tested import (
    Tested,
    choose_to_explain,
    list_mistakes,
    record_scores,
    reference_lines,
    score_seeds,
    true_label,
)
from lmx.sharding import GradientSum, MeshConfig, count_devices, fetch, make_mesh, resolve_mesh
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer
from lmx.training import (
    Params,
    TrainState,
    abstract_state,
    born,
    compile_step,
    keep_best,
    make_train_step,
    newest_rate,
    over_seeds,
    state_shardings,
)

STDLIB = "stdlib"  # as a data location: sentences of the running Python's library
# What may change when a run is continued; the test set has no part in the training.
FREE = (
    "run",
    "compile_cache",
    "deterministic",
    "profile",
    "log_every",
    "save_every",
    "predict",
    "explain",
    "attention",
    "baseline",
)
FREE += ("published", "published_made", "mesh", "test", "test_reading", "text_cache")
TESTED = ("scores.json", "predictions.tsv", "references.tsv", "mistakes.jsonl", "explanations.json", "attention.json")
ADDED_TO_READING = ("delimiter", "quoting", "field_limit")
RESULTS = ("labelled.tsv", "report.html", *TESTED)


def absent(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what fields mean that a run's config, of an earlier version, lacks: what was done then."""
    readings = [f"{reading}.{name}" for reading in ("reading", "test_reading") for name in ADDED_TO_READING]
    return {
        **dict.fromkeys(readings),
        "max_texts": 2_000_000,  # the vocabulary is there: these two have no part any more
        "character_coverage": 1.0,
        "tokens_per_device": None,
        "length_multiple": saved["mesh"]["sequence"],
        "gradient_sum": "float32" if saved["model"]["dtype"] == "float32" else "compute",
    }


# ---- what can be chosen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read; `lmx.data.labelled.read_labelled` says more.

    Attributes:
        text_columns: the column of texts, or the two of pairs; `title+description` joins columns. None takes `text`,
            or the only one beside the label.
        joiner: what stands between joined columns.
        label_column: the column of labels.
        label_separator: what stands between the labels of one text; None where each text has one.
        columns: names of a table's columns, where its first row is data already.
        form: what the files are, where their ending does not say it; text is a label, a space and a text a line.
        delimiter: what stands between the fields of a table; None for a comma in .csv and a tab in .tsv.
        quoting: whether quotes enclose fields of a table; None for yes in .csv and no in .tsv.
        encoding: encoding of the files.
        field_limit: most characters of a table's field; None for 16,777,216.
        label_names: names of the classes, in their order, where the files have numbers.
        first_label: the number of the class that label_names names first.
    """

    text_columns: tuple[str, ...] | None = None
    joiner: str = " "
    label_column: str = "label"
    label_separator: str | None = None
    columns: tuple[str, ...] | None = None
    form: Form | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf-8"
    field_limit: int | None = None
    label_names: tuple[str, ...] | None = None
    first_label: int = 0


@dataclass(frozen=True, kw_only=True)
class Optimization(OptimizerConfig):
    """How parameters are updated.

    Attributes:
        schedule: how the learning rate goes on after the warm-up; linear and cosine fall until the last epoch.
        peak: highest learning rate.
        warmup: updates until it is reached.
        beta2: decay of Adam's average of squared gradients.
        epsilon: what Adam adds to the root of that average.
        weight_decay: decoupled weight decay; biases and the scales of norms are left out.
        clip_norm: longest gradient; None does not clip.
        label_smoothing: probability that is taken from the right class and spread evenly over all.
        word_dropout: share of words taken out of each text at each step (Iyyer et al. 2015).
        class_weights: "balanced" lets every class count the same, however rare; "none" every text.
    """

    schedule: Literal["inverse-sqrt", "noam", "linear", "cosine", "constant"] = "linear"
    peak: float = 1e-3
    warmup: int = 100
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    word_dropout: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a classification experiment.

    Attributes:
        train: texts with labels to learn from: a .csv, .tsv, .jsonl or .txt, plain or .gz, `hub:ID:SPLIT`, or `stdlib`.
        validation: texts with labels that choose the best step; None holds out a share of train.
        test: texts with labels that the finished model is scored on; None scores nothing.
        predict: texts without labels, which the finished model labels into labelled.tsv.
        reading: how all files are read.
        test_reading: what differs for the files of test and predict; the rest is as without the prefix.
        kind: what the labels are; None takes `multi` where texts have several, else `single`, and never `regression`.
        dev_share: share of train that is held out, where no validation set is given.
        dev_of: what is held out of train: any texts, or wholes, which are in no other text, and then all their parts
            leave training too that no other whole has; for sets that hold phrases beside their sentences.
        split_seed: seed of what is held out of train, and of the folds.
        vocabulary: a trained tokenizer's file; None makes one.
        tokenizer: what is made: SentencePiece learned from the training texts, bytes, or the words of tokenised text.
        vocab_size: pieces that SentencePiece learns.
        max_texts: texts that it learns them from, drawn at random; None takes all, slow above a few million.
        character_coverage: share of the texts' characters that get a piece, the rarest are unknown; 1.0 suits clean
            text in alphabets, 0.9995 crawled text and scripts of thousands of characters.
        min_count: a word that is rarer in training is an unknown one.
        lowercase: SentencePiece folds case, so that a word is the same at the beginning of a sentence.
        max_length: most tokens of a row; what is longer is cut, or read in windows.
        stride: tokens between the beginnings of windows, whose predictions are averaged; None cuts.
        published: a published score to compare with, in percent.
        published_made: how that score was made.
        tokens_per_batch: most tokens of one micro-batch of a seed: rows times padded length.
        tokens_per_device: most tokens of one micro-batch on one device; takes the place of tokens_per_batch, which a
            run keeps as it was on its first devices.
        rows_multiple: what the rows of a batch divide by, and the mesh's data x fsdp must divide.
        length_multiple: what padded lengths and max_length divide by, and the mesh's sequence must divide.
        accumulation: micro-batches an update.
        num_buckets: batch shapes, each compiled once.
        epochs: passes over the training texts.
        validate_every: updates between validations; 0 validates after each epoch.
        select: what chooses the best step on the development set: the main score, or the loss.
        patience: validations in a row without a better one, after which a seed has ended; None trains all epochs.
        seed: seed of the first model.
        seeds: models to train in one step, by the seeds seed, seed + 1 and so on.
        folds: parts of train, each the test set of a run that learns from the others; takes the place of a test set.
        baseline: also trains a linear model on TF-IDF, where each text has one label.
        explain: test texts of which the words that moved the decision are looked for.
        attention: also writes the attention maps of these texts.
        save_every: updates between checkpoints, beside those after each validation.
        gradient_sum: the type in which devices add up gradients; "compute" is the model's, and of bfloat16 sends half.
        text_cache: where encoded training text is kept for the next start and for other processes: "user" (the user's
            cache folder), a folder, or "off".
        hosts: several processes that train together, see docs/many-machines.md.
        compile_cache: where compiled programs are kept: in a folder that all runs of this user share, or with the run;
            off keeps none.
        deterministic: the same bits from the same run on a GPU, somewhat slower; a CPU gives them anyway.
        run: directory of the run, which all hosts see.
        log_every: updates between lines of metrics.
        profile: steps to write a profile of, as FROM:TO.
    """

    train: str = STDLIB
    validation: str | None = None
    test: str | None = None
    predict: str | None = None
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    test_reading: Reading = field(default_factory=Reading)
    kind: Kind | None = None
    dev_share: float = 0.1
    dev_of: Literal["texts", "wholes"] = "texts"
    split_seed: int = 0
    vocabulary: Path | None = None
    tokenizer: Literal["sentencepiece", "bytes", "words"] = "sentencepiece"
    vocab_size: int = 8000
    max_texts: int | None = 2_000_000
    character_coverage: float = 1.0
    min_count: int = 2
    lowercase: bool = False
    max_length: int = 128
    stride: int | None = None
    published: float | None = None
    published_made: str = ""
    model: ClassifierConfig = field(default_factory=lambda: _model())
    optimization: Optimization = field(default_factory=Optimization)
    tokens_per_batch: int = 2048
    tokens_per_device: int | None = None
    rows_multiple: int = 8
    length_multiple: int = 1
    accumulation: int = 1
    num_buckets: int = 4
    epochs: int = 10
    validate_every: int = 0
    select: Literal["score", "loss"] = "score"
    patience: int | None = None
    seed: int = 1
    seeds: int = 1
    folds: int | None = None
    baseline: bool = True
    explain: int = 6
    attention: bool = False
    mesh: MeshConfig = field(default_factory=MeshConfig)
    gradient_sum: GradientSum = "float32"
    save_every: int | None = None
    text_cache: str = "user"
    hosts: HostsConfig = field(default_factory=HostsConfig)
    compile_cache: CompileCache = "user"
    deterministic: bool = False
    run: Path = Path("runs/classification")
    log_every: int = 50
    profile: str | None = None

    def check(self) -> None:
        """Checks what one field alone does not show; not in `__post_init__`, whose errors tyro prints as a box.

        Raises:
            InputError: a number is too small, or sets that must differ do not.
        """
        for name in ("seeds", "epochs", "log_every", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {name}={value}.")
        given = {name: getattr(self, name) for name in ("train", "validation", "test")}
        for (name, location), (other, same) in itertools.combinations(given.items(), 2):
            if location == same and location not in (None, STDLIB):
                raise InputError(
                    f"{other} must be another set than {name}, got {same} for both. What chooses the best step has no "
                    "part in learning, and what is reported none in either; leave validation out to hold out a share "
                    "of train."
                )
        if self.dev_of == "wholes" and (self.validation is not None or self.train == STDLIB or self.folds is not None):
            raise InputError(
                "dev_of must be texts unless a share of train is held out and there are no folds, got dev_of=wholes "
                f"with train={self.train}, validation={self.validation} and folds={self.folds}."
            )
        if self.folds is not None and (self.test is not None or self.folds < 2):
            raise InputError(
                f"folds must be at least 2, and take the place of a test set, got folds={self.folds} and "
                f"test={self.test}. Say --test None for a preset that has one."
            )


def _model(**sizes: Any) -> ClassifierConfig:
    """Returns a model config whose vocabulary and outputs the data will give: small, as small data wants it."""
    small: dict[str, Any] = {
        "width": 128,
        "feedforward_width": 512,
        "num_heads": 4,
        "num_layers": 2,
        "norm_position": "pre",  # learns at once, where post-norm waits for its warm-up
        "unroll": 2,
    }
    return ClassifierConfig(vocab_size=0, **(small | sizes))


_KIM = "Kim 2014, convolutions over random word vectors"

PRESETS: dict[str, tuple[str, Config]] = {
    "own": (
        "your own files: --train train.csv, and --test test.csv if you have one",
        Config(
            train="train.csv",
            model=_model(dropout_rate=0.3, attention_dropout_rate=0.1, pooled_dropout_rate=0.3),
            optimization=Optimization(word_dropout=0.1, weight_decay=0.1, warmup=30),  # files may be small
            epochs=15,
            patience=5,
            run=Path("runs/own"),
        ),
    ),
    "stdlib": (
        "which area of Python's library a sentence is from; needs no file",
        Config(
            train=STDLIB,
            lowercase=True,
            vocab_size=4000,
            max_length=64,
            model=_model(dropout_rate=0.3, attention_dropout_rate=0.1, pooled_dropout_rate=0.3),
            optimization=Optimization(word_dropout=0.2, weight_decay=0.1),
            epochs=10,
            run=Path("runs/stdlib"),
        ),
    ),
    "trec": (
        "TREC-6 questions: 91.2 by Kim 2014",
        Config(
            train="data/trec/TREC.train.all.gz",
            test="data/trec/TREC.test.all.gz",
            reading=Reading(
                form="text",
                encoding="latin-1",
                label_names=("description", "entity", "abbreviation", "human", "location", "number"),
            ),
            tokenizer="words",  # as Kim has it: the text is tokenised, and a rare word is an unknown one
            max_length=48,
            published=91.2,
            published_made=f"accuracy, {_KIM}; 88.2 in a reproduction",
            model=_model(dropout_rate=0.3, attention_dropout_rate=0.1, pooled_dropout_rate=0.3, max_length=64),
            optimization=Optimization(word_dropout=0.1, weight_decay=0.1, label_smoothing=0.1),
            tokens_per_batch=1024,
            epochs=15,
            run=Path("runs/trec"),
        ),
    ),
    "sst2": (
        "GLUE SST-2, reported on its development set, chosen on a tenth of the training sentences: 85.4 by Flax's LSTM",
        Config(
            train="data/sst2/train.tsv.gz",
            test="data/sst2/validation.tsv.gz",
            reading=Reading(text_columns=("sentence",), label_names=("negative", "positive")),
            tokenizer="words",
            dev_of="wholes",
            max_length=64,
            published=85.4,
            published_made="accuracy on the same 872 sentences, the LSTM of Flax's example",
            model=_model(
                positions="rotary", dropout_rate=0.2, attention_dropout_rate=0.1, pooled_dropout_rate=0.2
            ),  # phrases are short, the sentences of the test long
            optimization=Optimization(word_dropout=0.1, weight_decay=0.1, warmup=400),
            tokens_per_batch=4096,
            epochs=6,
            run=Path("runs/sst2"),
        ),
    ),
    "sst2-sentences": (
        "SST-2 trained on sentences alone: about 80 to 82",
        Config(
            train="data/sst2_sentences/stsa.binary.train.gz",
            validation="data/sst2_sentences/stsa.binary.dev.gz",
            test="data/sst2_sentences/stsa.binary.test.gz",
            reading=Reading(form="text", label_names=("negative", "positive")),
            tokenizer="words",
            max_length=64,
            published=83.5,
            published_made="accuracy, Kim 2014, convolutions, trained with phrases too; 80 to 82 without them",
            model=_model(dropout_rate=0.4, attention_dropout_rate=0.1, pooled_dropout_rate=0.4),
            optimization=Optimization(word_dropout=0.3, weight_decay=0.1),
            epochs=15,
            run=Path("runs/sst2-sentences"),
        ),
    ),
    "ag-news": (
        "AG News, four kinds of news: 92.5 by fastText on all 120,000 training texts",
        Config(
            train="data/ag_news/noisyag_val10000.csv.gz",
            test="data/ag_news/test.csv.gz",
            reading=Reading(
                text_columns=("text",),
                joiner=" . ",  # which the text of the training file has between title and description
                label_column="gt",
                label_names=("World", "Sports", "Business", "Sci/Tech"),
            ),
            test_reading=Reading(
                columns=("class", "title", "description"),
                text_columns=("title+description",),
                label_column="class",
                first_label=1,
            ),
            lowercase=True,
            vocab_size=8000,
            max_length=128,
            published=92.5,
            published_made="accuracy, fastText with bigrams on 120,000 texts (Joulin et al. 2016)",
            model=_model(dropout_rate=0.3, attention_dropout_rate=0.1, pooled_dropout_rate=0.3),
            optimization=Optimization(word_dropout=0.3, weight_decay=0.1, label_smoothing=0.1),
            tokens_per_batch=4096,
            epochs=10,
            run=Path("runs/ag-news"),
        ),
    ),
    "newsgroups20": (
        "20 Newsgroups by date, headers kept: about 85 by a linear model on TF-IDF",
        Config(
            train="data/newsgroups20/train.jsonl.gz",
            test="data/newsgroups20/test.jsonl.gz",
            reading=Reading(text_columns=("text",), label_column="label_name"),
            lowercase=True,
            vocab_size=16000,
            max_length=256,
            published=85.0,
            published_made="accuracy, a linear model on TF-IDF, headers kept",
            model=_model(positions="rotary", dropout_rate=0.3, attention_dropout_rate=0.1, pooled_dropout_rate=0.3),
            optimization=Optimization(word_dropout=0.3, weight_decay=0.1, label_smoothing=0.1),
            tokens_per_batch=8192,
            epochs=10,
            run=Path("runs/newsgroups20"),
        ),
    ),
}


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What a config means: pure, and all that training, planning and tests need."""

    build_model: Callable[[nnx.Rngs], EncoderClassifier]
    loss: Callable[[Params, Any, Any], dict[str, jax.Array]]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule


def build(
    config: Config,
    model: ClassifierConfig,
    *,
    kind: Kind,
    updates: int,
    special_ids: tuple[int, ...] = (),
    replacement: int = 0,
    class_weights: Float[np.ndarray, " C"] | None = None,
) -> Parts:
    """Returns model, loss and optimizer of a config whose vocabulary and labels are known.

    Args:
        updates: of the whole training, which schedules end with.
        special_ids: what word dropout leaves alone.
        replacement: what it puts in the place of a word.
        class_weights: what a text of each class counts.
    """
    definition = nnx.graphdef(nnx.eval_shape(lambda: EncoderClassifier(model, rngs=nnx.Rngs(0))))
    options = config.optimization

    def loss(params: Params, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = nnx.merge(definition, params)
        word_key, model_key = (None, None) if key is None else jax.random.split(key)
        tokens = drop_words(
            batch["tokens"], options.word_dropout, word_key, replacement=replacement, kept=(model.pad_id, *special_ids)
        )
        # Where words are replaced by padding, it is no longer only at the end of a row.
        holes = key is not None and options.word_dropout > 0 and replacement == model.pad_id
        outputs, _ = network(
            tokens,
            types=batch["types"] if model.num_types else None,
            segments=segments_of(tokens, pad_id=model.pad_id) if holes else None,
            key=model_key,
        )
        sums = label_loss(
            outputs,
            batch["labels"],
            batch["weights"],
            kind=kind,
            label_smoothing=options.label_smoothing,
            class_weights=class_weights,
            scale=model.output_scale,
        )
        return sums._asdict()

    schedule = make_schedule(options, total=updates, width=model.width)
    optimizer = make_optimizer(options, schedule)
    return Parts(lambda rngs: EncoderClassifier(model, rngs=rngs), loss, optimizer, schedule)


# ---- data ------------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """The texts of a run: to learn from, to choose the best step on, and to report on, where there are any."""

    train: Examples
    dev: Examples
    test: Examples | None
    labels: Labels


def load_examples(
    location: str,
    reading: Reading,
    *,
    split: Literal["train", "validation", "test"],
    labelled: bool = True,
    cache: Cache | None = None,
) -> Examples:
    """Reads the texts of a split, once where there is a cache; numbers of classes become their names."""
    if location == STDLIB:
        return standard_library(split)
    read = read_labelled if cache is None else functools.partial(keep_labelled, cache=cache)
    found = read(
        location,
        text_columns=reading.text_columns,
        joiner=reading.joiner,
        label_column=reading.label_column if labelled else None,
        label_separator=reading.label_separator,
        columns=reading.columns,
        form=reading.form,
        delimiter=reading.delimiter,
        quoting=reading.quoting,
        encoding=reading.encoding,
        field_limit=reading.field_limit or FIELD_LIMIT,
    )
    if reading.label_names is None or found.labels is None:
        return found
    names = {str(number): name for number, name in enumerate(reading.label_names, start=reading.first_label)}
    for index, label in enumerate(found.labels):
        for one in (label,) if isinstance(label, str) else label:
            if one not in names:
                raise InputError(
                    f"{found.place(index)} must have a label from {reading.first_label} to "
                    f"{reading.first_label + len(names) - 1}, which label_names names, got {one!r:.60}. "
                    "Where labels are names already, say --label-names None."
                )
    named = [names[label] if isinstance(label, str) else tuple(names[one] for one in label) for label in found.labels]
    return replace(found, labels=named)


def for_test(config: Config) -> Reading:
    """Returns how the test set is read: as all files, but for what `test_reading` says."""
    usual = Reading()
    other = {name: value for name, value in vars(config.test_reading).items() if value != getattr(usual, name)}
    return replace(config.reading, **other)


def load_data(config: Config, *, fold: int | None, cache: Cache | None = None) -> Data:
    """Finds all texts and makes the splits that are not given; the test set has no part in any choice."""
    if config.train == STDLIB:  # which has splits of its own
        own = {"validation": config.validation or STDLIB, "test": config.test or STDLIB}
        config = replace(config, **own) if fold is None else config
    learned = load_examples(config.train, config.reading, split="train", cache=cache)
    labels = Labels.of(learned, kind=config.kind)
    test = None
    if fold is not None and config.folds is not None:
        kept, held_out = folds(labels.encode(learned), num_folds=config.folds, seed=config.split_seed)[fold - 1]
        learned, test = learned.select(kept), learned.select(held_out)
    elif config.test is not None:
        test = load_examples(config.test, for_test(config), split="test")
    if config.validation is not None:
        dev = load_examples(config.validation, config.reading, split="validation")
    else:
        targets, settings = labels.encode(learned), {"share": config.dev_share, "seed": config.split_seed}
        if config.dev_of == "wholes":
            kept, held_out = split_wholes(learned.texts, targets, **settings)
        else:
            kept, held_out = stratified_split(targets, **settings)
        learned, dev = learned.select(kept), learned.select(held_out)
    for split in (dev, test):
        if split is not None:
            check_alike(learned, split)
    return Data(learned, dev, test, labels)


def check_alike(learned: Examples, split: Examples) -> None:
    """Raises ValueError if one set has pairs and the other single texts."""
    if split.are_pairs != learned.are_pairs:
        kinds = [f"{'pairs' if each.are_pairs else 'single texts'} in {each.origin}" for each in (learned, split)]
        raise InputError(f"all sets must hold pairs or all single texts, got {kinds[0]} and {kinds[1]}.")


def load_or_make_tokenizer(run: Run, config: Config, texts: Examples, cache: Cache) -> Tokenizer:
    """Returns the run's tokenizer; that of a new run is read, or learned from the training texts by one process."""
    if run.directory.is_dir() and (found := find_tokenizers(run.directory)):
        return load_tokenizer(found["tokenizer"])
    if config.vocabulary is not None:
        return load_tokenizer(config.vocabulary)
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    words = {"min_count": config.min_count}
    pieces = {
        "vocab_size": config.vocab_size,
        "lowercase": config.lowercase,
        "max_texts": config.max_texts,
        "character_coverage": config.character_coverage,
    }

    def learn() -> Tokenizer:
        def lines() -> Iterator[str]:
            return (side for text in texts.texts for side in sides_of(text))

        if config.tokenizer == "words":
            return PretokenizedTokenizer.from_texts(lines(), **words)
        return learn_pieces(SentencePieceTokenizer.train, lines, **pieces)

    facts = facts_of_examples(texts) | {"kind": config.tokenizer} | (words if config.tokenizer == "words" else pieces)
    return keep_tokenizer(cache, facts, learn, about=texts.origin)


def fit_model(
    config: Config, tokenizer: Tokenizer, labels: Labels, targets: Targets, *, pairs: bool
) -> ClassifierConfig:
    """Returns the model config with what the data says: sizes, and for real numbers their unit.

    Raises:
        InputError: the config asks for other sizes than the data has.
    """
    for name, wanted in (("vocab_size", tokenizer.vocab_size), ("num_outputs", labels.num_outputs)):
        if getattr(config.model, name) not in (0, wanted):
            raise InputError(
                f"model.{name} must be the data's {wanted} or 0 (take the data's), got {name}="
                f"{getattr(config.model, name)}."
            )
    unit = {}
    if labels.kind == "regression":
        unit = {"output_mean": float(targets.mean()), "output_scale": float(targets.std()) or 1.0}
    return replace(
        config.model,
        vocab_size=tokenizer.vocab_size,
        num_outputs=labels.num_outputs,
        num_types=max(config.model.num_types, 2 if pairs else 0),
        max_length=max(config.model.max_length, config.max_length),
        pad_id=tokenizer.pad_id,
        **unit,
    )


def training_kernel(config: Config, mesh: Mesh, *, drops_to_padding: bool) -> tuple[KernelName, str | None]:
    """Returns the attention kernel to train with, and why it is not what the config says.

    Args:
        drops_to_padding: what word dropout puts in the place of a word is padding.

    Raises:
        InputError: the config asks for cuDNN's, which cannot be.
    """
    reason = None
    if mesh.size > 1:
        reason = "seeds share a step by vmap, which would take a fused kernel's rows off their devices"
    elif drops_to_padding and config.optimization.word_dropout:
        reason = "word dropout leaves padding between words"
    if reason is not None and config.model.kernel == "cudnn":
        raise InputError(f"model.kernel must be auto or xla, got kernel=cudnn: {reason}.")
    return (config.model.kernel, None) if reason is None else ("xla", reason)


def balanced_weights(targets: Targets, labels: Labels) -> Float[np.ndarray, " C"]:
    """Returns for each class the texts there would be if all were as common, over those there are.

    Of several labels a text: the texts without a label over those that have it.

    Raises:
        InputError: the labels are no classes.
    """
    if labels.kind == "regression":
        raise InputError("optimization.class_weights must be none for real numbers, got class_weights=balanced.")
    if labels.kind == "multi":
        counts = targets.sum(0)
        return ((len(targets) - counts) / np.maximum(counts, 1)).astype(np.float32)
    counts = np.bincount(targets, minlength=len(labels.names))
    return (counts.sum() / (len(labels.names) * np.maximum(counts, 1))).astype(np.float32)


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then labels the test set, scores it and writes the report, for each fold."""
    config.check()
    if config.deterministic:
        make_deterministic()
    load_scikit_learn()
    start(config.hosts)
    config = settle_tokens(config, run=config.run, devices=jax.device_count())
    if config.folds is None:
        train_and_test(preset, config)
    else:
        cross_validate(preset, config, config.folds)
    wait("the end of the run")


class Prepared(NamedTuple):
    """All that a run is made of; found, and found to fit together, before anything is written."""

    run: Run
    data: Data
    tokenizer: Tokenizer
    encoded: EncodedExamples
    dev: EncodedExamples
    test: EncodedExamples | None
    to_label: Examples | None
    unlabelled: EncodedExamples | None
    mesh: Mesh
    sizes: Sizes
    batches: SeedBatches
    model: ClassifierConfig
    parts: Parts
    network: EncoderClassifier
    kernel_facts: dict[str, str]
    shardings: TrainState
    updates: int
    profile: tuple[int, int] | None
    serves: bool

    def classifier(self, config: Config, params: Params) -> Classifier:
        """Returns what labels texts by these parameters."""
        return Classifier(
            self.model,
            params,
            tokenizer=self.tokenizer,
            labels=self.data.labels,
            pairs=self.data.train.are_pairs,
            max_length=config.max_length,
            stride=config.stride,
            batch_tokens=config.tokens_per_batch,
            rows_multiple=config.rows_multiple,
            buckets=(
                *self.batches.first.buckets,
                config.max_length,
            ),  # other texts may be longer than those of training
            mesh=self.mesh,
        )


def train_and_test(preset: str, config: Config, *, fold: int | None = None) -> Tested | None:
    """Trains one model of each seed and tests them; returns what was tested, if there is a test set."""
    # What can be wrong with config, text and mesh is found before anything is written, and before hosts that do not
    # agree wait for each other.
    with agreement() as agreed:
        found = prepare(preset, config, fold=fold, agreed=agreed)
    run, data = found.run, found.data

    def write(folder: Path) -> None:
        save_tokenizer(folder, found.tokenizer)
        (folder / "labels.json").write_text(data.labels.to_json(), encoding="utf-8")

    decided = {"model": dataclasses.asdict(found.model), "sizes": dataclasses.asdict(found.sizes)}
    run.open(compile_cache=config.compile_cache, write=write, **decided)
    if any(name.startswith(("config.test", "test")) for name in run.changed):
        run.forget(TESTED)
    if found.serves:
        classifier = load_finished(config, found)
    else:
        classifier = learn(config, found)
        save_best(run, classifier.params, seeds=found.batches.seeds)
    tested = None
    if data.test is not None and found.test is not None:
        tested = run_test(run, preset, config, classifier, data, found.test, seeds=found.batches.seeds)
    if found.to_label is not None and found.unlabelled is not None:
        label_file(run, classifier, found.to_label, found.unlabelled)
    if run.writes:
        with run.only_reporting("the report is"):
            run.console.print(f"report: {write_report(run.directory)}")
    return tested


def prepare(preset: str, config: Config, *, fold: int | None, agreed: dict[str, Any]) -> Prepared:
    """Reads all text, and makes of config and text what will be trained; writes nothing.

    Args:
        agreed: takes in what must be the same on all hosts, see `lmx.hosts.agreement`.
    """
    profile = None if config.profile is None else steps_to_profile(config.profile)
    facts = {"experiment": "classification", "preset": preset, "family": "classifier"}
    facts |= {"config": config_as_json(config), "fold": fold}
    free = FREE if config.optimization.depends_on_end else (*FREE, "epochs")
    free += ("vocabulary",) if check_vocabulary(config.vocabulary, config.run) else ()
    agreed |= facts | {"versions": versions(machine=False), "device": jax.local_devices()[0].device_kind}
    # All text is read first: a bad line should be told now, not after the training.
    cache = text_cache(config.text_cache)
    data = load_data(config, fold=fold, cache=cache)
    labels = data.labels
    to_label = None
    if config.predict is not None:
        to_label = load_examples(config.predict, for_test(config), split="test", labelled=False)
        check_alike(data.train, to_label)
    run = Run(config.run, facts, free=free, absent=absent)
    tokenizer = load_or_make_tokenizer(run, config, data.train, cache)
    if config.vocabulary is None:
        say_fewer_pieces(run, tokenizer, vocab_size=config.vocab_size)
    if config.validation is None and round(config.dev_share * (len(data.train) + len(data.dev))) == 0:
        run.console.print(f"the development set takes a text and not --dev-share {config.dev_share:g}: that is none")
    targets = labels.encode(data.train)
    model = fit_model(config, tokenizer, labels, targets, pairs=data.train.are_pairs)

    def encode(examples: Examples) -> EncodedExamples:
        known = labels if examples.labels is not None else None
        return encode_examples(examples, tokenizer, max_length=config.max_length, labels=known, stride=config.stride)

    def keep(examples: Examples) -> EncodedExamples:
        settings = {"max_length": config.max_length, "labels": labels, "stride": config.stride}
        return keep_examples(examples, tokenizer, cache=cache, **settings)

    encoded, dev = keep(data.train), keep(data.dev)
    test = None if data.test is None else encode(data.test)
    unlabelled = None if to_label is None else encode(to_label)
    mesh = make_mesh(config.mesh)
    check_lengths(config, max_length=config.max_length, sequence=mesh.shape["sequence"])
    sizes = fit_batches(run, config, usual=PRESETS[preset][1], lengths=encoded.lengths)
    batches = SeedBatches(
        encoded,
        seeds=range(config.seed, config.seed + config.seeds),
        buckets=choose_buckets(encoded.lengths, num_buckets=sizes.num_buckets, multiple_of=config.length_multiple),
        tokens_per_batch=sizes.tokens_per_batch,
        accumulation=sizes.accumulation,
        rows_multiple=config.rows_multiple,
    )
    agreed["tokenizer"] = fingerprint(tokenizer.pieces(range(tokenizer.vocab_size)))
    for split, kept in (("training", encoded), ("development", dev), ("test", test), ("other", unlabelled)):
        if kept is not None:
            targets_of = () if kept.targets is None else (kept.targets,)
            rows = (kept.tokens, kept.offsets) if kept.digest is None else ([kept.digest],)
            agreed[f"{split} data"] = fingerprint(*rows, *targets_of)
    made_of = {name: agreed[name] for name in ("tokenizer", "training data", "development data")}
    tested_on = {"test data": agreed["test data"]} if test is not None else {}
    run.compare({"labels": list(labels.names), **made_of, **tested_on}, model=dataclasses.asdict(model))
    check_shapes(batches.first.shapes, mesh)
    updates = batches.first.first_batch(config.epochs)
    if updates == 0:
        raise InputError(
            f"epochs must be enough for an update, got epochs={config.epochs} of {len(encoded):,} rows, and an update "
            f"has at least rows_multiple={config.rows_multiple}. Raise --epochs."
        )
    usual = PRESETS[preset][1].optimization.warmup
    options = fit_warmup(run, config.optimization, usual=usual, updates=updates)
    # Where words are whole, there will be unknown ones; of pieces, nothing is left in the place.
    replacement = tokenizer.unk_id if isinstance(tokenizer, PretokenizedTokenizer) else tokenizer.pad_id
    kernel, kernel_reason = training_kernel(config, mesh, drops_to_padding=replacement == tokenizer.pad_id)
    trained = replace(model, kernel=kernel)
    parts = build(
        replace(config, optimization=options),
        trained,
        kind=labels.kind,
        updates=updates,
        special_ids=(tokenizer.bos_id, tokenizer.eos_id),
        replacement=replacement,
        class_weights=balanced_weights(targets, labels) if config.optimization.class_weights != "none" else None,
    )
    network = nnx.eval_shape(lambda: parts.build_model(nnx.Rngs(0)))
    kernel_facts = attention_facts(trained, network, mesh)
    if kernel_reason is not None and "asked for" in kernel_facts["attention_reason"]:
        kernel_facts["attention_reason"] = kernel_reason
    return Prepared(
        run=run,
        data=data,
        tokenizer=tokenizer,
        encoded=encoded,
        dev=dev,
        test=test,
        to_label=to_label,
        unlabelled=unlabelled,
        mesh=mesh,
        sizes=sizes,
        batches=batches,
        model=model,
        parts=parts,
        network=network,
        kernel_facts=kernel_facts,
        shardings=state_shardings(network, parts.optimizer, mesh=mesh, best=True, seeds=True),
        updates=updates,
        profile=profile,
        serves=run.serves(length="config.epochs"),
    )


def load_finished(config: Config, found: Prepared) -> Classifier:
    """Returns the models of a finished run whose checkpoints are gone; nothing is trained."""
    run, seeds = found.run, found.batches.seeds
    run.console.print(
        f"{run.directory} has a finished model and no checkpoints: it is used as it is, nothing is trained"
    )
    files = [run.directory / "seeds" / f"{seed}.safetensors" for seed in seeds]
    like = abstract_state(found.network, found.parts.optimizer, shardings=found.shardings, num_seeds=len(seeds))
    params = load_placed(files if len(seeds) > 1 else [run.directory / "model.safetensors"], like.params, stacked=True)
    classifier = found.classifier(config, params)
    # What the run remembered was in its checkpoints: the development set tells the most of it again.
    data = found.data
    loss, score = score_seeds(classifier.outputs(found.dev), data.labels.encode(data.dev), data.labels).values()
    run.memory.best = (loss if config.select == "loss" else -score).tolist()
    steps = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        saved = json.loads((run.directory / "scores.json").read_text(encoding="utf-8"))["seeds"]
        steps = {each["seed"]: int(each["best_step"]) for each in saved}
    run.memory.best_step = [steps.get(seed, 0) for seed in seeds]
    return classifier


def learn(config: Config, found: Prepared) -> Classifier:
    """Trains, or goes on training; returns the models of all seeds, each as it did best on the development set."""
    run, data, batches, parts, shardings = found.run, found.data, found.batches, found.parts, found.shardings
    train_step = compile_step(
        over_seeds(make_train_step(parts.loss, parts.optimizer)),
        mesh=found.mesh,
        shardings=shardings,
        gradient_sum=config.gradient_sum,
    )
    checkpoints = run.open_checkpoints(keep_last=1)
    # A state is either restored or born: there is room for one.
    like = abstract_state(found.network, parts.optimizer, shardings=shardings, num_seeds=len(batches.seeds))
    state = run.resume(checkpoints, like)
    if state is like:
        state = born(parts.build_model, parts.optimizer, shardings=shardings, seed=batches.seeds)
    classifier = found.classifier(config, state.params)
    run.print_start(
        {
            "training_texts": _described(data.train, found.encoded),
            "development_texts": _described(data.dev, found.dev),
            "test_texts": "none" if data.test is None or found.test is None else _described(data.test, found.test)
            + f", {count_shared(data.train, data.test):,} of them letter for letter in training",
            "labels": f"{data.labels.kind}" + (f": {', '.join(data.labels.names)}" if data.labels.names else ""),
            "seeds": ", ".join(map(str, batches.seeds)),
            **start_facts(found.model, found.network, found.mesh),
            **found.kernel_facts,
            "vocabulary": found.model.vocab_size,
            "batch_shapes": [list(shape) for shape in batches.first.shapes],
            "tokens_per_device": tokens_on_device(batches.first.shapes, found.mesh),
            "padding_share": batches.first.padding_share,
            "padding_optimum": batches.first.optimum,
            "updates_per_epoch": batches.first.batches_per_epoch,
        }
    )  # fmt: skip
    targets = data.labels.encode(data.dev)

    def is_due(step: int) -> bool:
        if config.validate_every:
            return step % config.validate_every == 0 or step == found.updates
        return batches.first.first_batch(batches.first.epoch_of(step)) == step or step == found.updates

    def validate(step: int, state: TrainState) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        line = score_seeds(classifier.with_params(state.params).outputs(found.dev), targets, data.labels)
        loss, score = line.values()
        return (loss if config.select == "loss" else -score), line

    def facts_of(step: int, state: TrainState) -> dict[str, float]:
        return {
            "epoch": round(step / batches.first.batches_per_epoch, 4),
            "learning_rate": newest_rate(parts.schedule, state),
        }

    def flops(shape: tuple[int, ...]) -> tuple[float, float]:
        num_seeds, micro_batches, rows, length = shape
        counted = num_seeds * training_flops(found.model, rows=micro_batches * rows, length=length)
        return counted, counted  # every position sees all: there is no causal half

    longer = not run.memory.stopped_early and int(state.step) < found.updates
    if longer and (run.directory / "model.safetensors").is_file():
        run.console.print(f"model and scores in {run.directory} are of its earlier end until this training has ended")
    peak = peak_flops(jax.devices()[0], found.model.dtype)
    state = train(
        run,
        train_step,
        state,
        batches=batches,
        mesh=found.mesh,
        last=found.updates,
        checkpoints=checkpoints,
        log_every=config.log_every,
        save_every=config.save_every,
        is_due=is_due,
        validate=validate,
        patience=config.patience,
        keep_best=jax.jit(keep_best, donate_argnums=0, out_shardings=shardings),
        rows_axis=2,
        facts=facts_of,
        flops=flops,
        peak=peak and peak * jax.device_count(),
        profile=found.profile,
    )
    checkpoints.close()
    if longer:
        run.forget(RESULTS)  # of an earlier end of this run, when it was to be shorter; the model is replaced
    memory = run.memory
    chosen = ", ".join(f"{step:,}" for step in memory.best_step)
    run.console.print(
        f"training ended {'early' if memory.stopped_early else 'as planned'} after {int(state.step):,} updates and "
        f"{duration(memory.seconds)}; best on the development set at {chosen}"
    )
    assert state.best is not None
    return classifier.with_params(state.best)


def save_best(run: Run, best: Params, *, seeds: Sequence[int]) -> None:
    """Writes the parameters of each seed, where there are several, and those of the best one as the model."""
    whole = fetch(best, keep=run.writes)
    if not run.writes:
        return

    def of_seed(index: int) -> Params:
        return jax.tree.map(lambda array: array[index], whole)

    if len(seeds) > 1:
        (run.directory / "seeds").mkdir(exist_ok=True)
        for index, seed in enumerate(seeds):
            save_params(run.directory / "seeds" / f"{seed}.safetensors", of_seed(index))
    save_params(run.directory / "model.safetensors", of_seed(int(np.argmin(run.memory.best))))


def _described(examples: Examples, encoded: EncodedExamples) -> str:
    """Returns how many texts there are, from where, and what was cut or is empty."""
    parts = [f"{examples.origin}: {len(examples):,}"]
    if len(encoded) > encoded.num_texts:
        parts.append(f"in {len(encoded):,} windows")
    if encoded.num_truncated:
        share = encoded.num_truncated / encoded.num_texts
        parts.append(f"{encoded.num_truncated:,} ({share:.1%}) cut to the longest length")
    if examples.empty:
        parts.append(f"{examples.empty:,} without words")
    return ", ".join(parts)


# ---- scores ----------------------------------------------------------------------------------------------------------


def run_test(
    run: Run,
    preset: str,
    config: Config,
    classifier: Classifier,
    data: Data,
    encoded: EncodedExamples,
    *,
    seeds: Sequence[int],
) -> Tested:
    """Labels the test set once, scores it, and writes predictions, scores, mistakes and explanations."""
    assert data.test is not None
    began = time.perf_counter()
    with progress_bar("labelling the test set", total=encoded.num_texts, console=run.console) as show:
        outputs = classifier.outputs(encoded, progress=show)
    seconds = time.perf_counter() - began
    labels = classifier.labels
    baseline = None
    if config.baseline and labels.kind == "single" and data.train.labels is not None:
        with run.only_reporting("the linear model is"):
            found = tfidf_predictions(data.train.texts, [str(label) for label in data.train.labels], data.test.texts)
            baseline = labels.encode(replace(data.test, labels=found))
    tested = Tested(data.test, labels, labels.encode(data.test), outputs, baseline)
    best = zip(seeds, run.memory.best_step, run.memory.best, strict=True)
    saved = record_scores(tested, name=f"{preset} test", **_reported(config))
    saved |= {"seconds": seconds, "truncated": encoded.num_truncated}
    sign, kept = (1 if config.select == "loss" else -1), min(run.memory.best)
    saved["select"] = config.select
    saved["seeds"] = [
        {"seed": seed, "best_step": step or None, "dev": sign * value, "kept": value == kept, "test": score}
        for (seed, step, value), score in zip(best, saved["seeds"], strict=True)
    ]
    write_results(run, saved, tested)
    with run.only_reporting("explanations are"):
        explain_texts(run, config, classifier, tested)
    show_scores(run, saved)
    return tested


def explain_texts(run: Run, config: Config, classifier: Classifier, tested: Tested) -> None:
    """Writes which words moved some decisions, and where the model looked."""
    texts = tested.examples.texts
    explanations, maps = [], []
    for index in choose_to_explain(tested, config.explain):
        record = classifier.explain(texts[index])
        explanations.append(record | {"label": true_label(tested, index)})
        if config.attention:
            found = classifier.attention(texts[index])
            weights = np.round(found["weights"].astype(float), 3).tolist()
            maps.append({"text": record["text"], "pieces": found["pieces"], "weights": weights})
    if run.writes:
        write_json(run.directory / "explanations.json", explanations)
        write_json(run.directory / "attention.json", maps)


def write_results(run: Run, saved: dict[str, Any], tested: Tested) -> None:
    """Writes scores, predictions by name, and the most confident mistakes."""
    if not run.writes:
        return
    labels, outputs = tested.labels, tested.outputs.mean(0)
    lines = prediction_lines(outputs, kind=labels.kind, names=labels.names)
    for name, found in (("predictions.tsv", lines), ("references.tsv", reference_lines(tested))):
        write_lines(run.directory / name, found)
    write_json(run.directory / "scores.json", saved)
    with run.only_reporting("the list of mistakes is"):
        write_jsonl(run.directory / "mistakes.jsonl", list_mistakes(tested))


def _reported(config: Config) -> dict[str, Any]:
    """Returns how the scores of a config came about, and what they are compared with."""
    return {
        "chosen": f"best step by development {config.select}",
        "published": config.published,
        "published_made": config.published_made,
    }


def show_scores(run: Run, saved: dict[str, Any]) -> None:
    """Prints the table of scores, and of the classes."""
    classes = saved["scores"]["classes"]
    if classes:
        table = Table(box=None)
        for column in ("class", "precision", "recall", "F1", "texts"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for row in classes:
            shares = (f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))
            table.add_row(on_one_line(row["name"]), *shares, f"{row['support']:,}")
        run.console.print(table)
    print_scores(
        run,
        saved,
        title=f"{saved['test']}: {saved['texts']:,} texts",
        baselines_are="a linear model, trained on the same texts",
        notes=[saved["verdict"]] if "verdict" in saved else [],
    )


def label_file(run: Run, classifier: Classifier, examples: Examples, encoded: EncodedExamples) -> None:
    """Labels texts that have no labels, into `labelled.tsv` of the run."""
    outputs = classifier.outputs(encoded).mean(0)
    lines = prediction_lines(outputs, kind=classifier.labels.kind, names=classifier.labels.names)
    path = run.directory / "labelled.tsv"
    if run.writes:
        write_lines(path, lines)
    run.console.print(f"texts labelled in {path}: {_described(examples, encoded)}")


# ---- folds -----------------------------------------------------------------------------------------------------------


def cross_validate(preset: str, config: Config, number: int) -> None:
    """Trains and tests a run for each fold, in `fold-1` and so on, and scores each text by the run it was not in."""
    with agreement() as agreed:
        facts = {"experiment": "classification", "preset": preset, "family": "folds", "config": config_as_json(config)}
        agreed |= facts
        moved = ("vocabulary",) if check_vocabulary(config.vocabulary, config.run / "fold-1") else ()
        whole = Run(config.run, facts, free=FREE + moved)
        # What is wrong with a file is told before anything is written.
        data = load_data(config, fold=1, cache=text_cache(config.text_cache))
        agreed["training data"] = fingerprint([json.dumps(facts_of_examples(data.train), sort_keys=True)])
        whole.compare({"labels": list(data.labels.names), "training data": agreed["training data"]})

    def write(folder: Path) -> None:
        (folder / "labels.json").write_text(data.labels.to_json(), encoding="utf-8")

    whole.open(write=write)
    tested = []
    for fold in range(1, number + 1):
        whole.console.print(f"fold {fold} of {number}")
        found = train_and_test(preset, replace(config, run=config.run / f"fold-{fold}"), fold=fold)
        assert found is not None
        tested.append(found)
    first = tested[0]
    examples = Examples(
        texts=[text for each in tested for text in each.examples.texts],
        labels=None,
        origin=first.examples.origin,
        lines=np.concatenate([each.examples.lines for each in tested]),
    )
    order = np.argsort(examples.lines, kind="stable")
    linear = [each.baseline for each in tested if each.baseline is not None]
    together = Tested(
        examples.select(order),
        first.labels,
        np.concatenate([each.targets for each in tested])[order],
        np.concatenate([each.outputs for each in tested], axis=1)[:, order],
        np.concatenate(linear)[order] if len(linear) == len(tested) else None,
    )
    saved = record_scores(together, name=f"{preset} {number}-fold test", **_reported(config))
    settings: dict[str, Any] = {"kind": first.labels.kind, "names": first.labels.names, "num_resamples": 0}
    of_folds = [score_outputs(each.targets, each.outputs.mean(0), **settings) for each in tested]
    # A test set without one of two classes has no area under the curve.
    shared = set.intersection(*({metric.name for metric in each.metrics} for each in of_folds))
    of_folds = [replace(each, metrics=tuple(one for one in each.metrics if one.name in shared)) for each in of_folds]
    saved |= {"spread": [dataclasses.asdict(spread) for spread in spreads_of(of_folds)], "seconds": 0.0}
    saved |= {"spread_over": "folds", "seeds": []}
    write_results(whole, saved, together)
    show_scores(whole, saved)
    for spread in spreads_of(of_folds)[:1]:
        whole.console.print(f"over folds: {spread}")
    if whole.writes:
        with whole.only_reporting("the report is"):
            whole.console.print(f"report: {write_report(whole.directory)}")


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str, devices: int | None) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed.

    Seeds share the mesh: the plan is of one, and so many times as much is needed.
    """
    config.check()
    config = replace(config, mesh=resolve_mesh(config.mesh, devices))
    config = settle_tokens(config, run=config.run, devices=count_devices(config.mesh))
    check_lengths(config, max_length=config.max_length, sequence=config.mesh.sequence)
    vocab_size, origin = planned_vocabulary(config)
    classes = config.model.num_outputs or len(config.reading.label_names or ()) or 16
    longest, usual = config.max_length, max(config.max_length // 4, 1)

    def shapes(length: int) -> dict[str, tuple[int, ...]]:
        rows = rows_of_bucket(length, tokens_per_batch=config.tokens_per_batch, rows_multiple=config.rows_multiple)
        rows = max(rows, config.rows_multiple)
        whole, one = (config.accumulation, rows, length), (config.accumulation, rows)
        return {"tokens": whole, "types": whole, "labels": one, "weights": one}

    def job_of(**changes: Any) -> Job:
        pairs = 2 if len(config.reading.text_columns or ()) == 2 else 0
        model = replace(config.model, vocab_size=vocab_size, num_outputs=classes, num_types=pairs, kernel="xla")
        model = replace(model, **changes)
        model = replace(model, max_length=max(model.max_length, config.max_length))
        parts = build(config, model, kind="single", updates=10 * config.optimization.warmup)
        return Job(
            build=parts.build_model,
            loss=parts.loss,
            optimizer=parts.optimizer,
            mesh=config.mesh,
            batch=shapes(longest),
            typical=shapes(usual),
            dtype=model.dtype,
            average=True,  # the best parameters so far take as much
            gradient_sum=config.gradient_sum,
        )

    many = f"Of one seed; {config.seeds} need {config.seeds} times as much. " if config.seeds > 1 else ""
    about = f"{preset}: {origin}, {classes} classes. {many}"
    print_plan(job_of, about, device=device, config=config, lengths=(longest, usual))


def planned_vocabulary(config: Config) -> tuple[int, str]:
    """Returns the size of the vocabulary as far as it is known without reading text, and where it is from."""
    if config.model.vocab_size:
        return config.model.vocab_size, f"a vocabulary of {config.model.vocab_size:,} as the config says"
    if config.run.is_dir():
        with contextlib.suppress(KeyError):
            size = load_tokenizer(find_tokenizers(config.run)["tokenizer"]).vocab_size
            return size, f"the vocabulary of {config.run}, {size:,}"
    if config.vocabulary is not None:
        size = load_tokenizer(config.vocabulary).vocab_size
        return size, f"the vocabulary of {config.vocabulary.name}, {size:,}"
    if config.tokenizer == "bytes":
        return ByteTokenizer().vocab_size, "bytes"
    return config.vocab_size, f"a vocabulary of {config.vocab_size:,} is assumed (--model.vocab-size)"


# ---- command line ----------------------------------------------------------------------------------------------------


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="classification.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
