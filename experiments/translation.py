"""Machine translation with an encoder-decoder Transformer: train, translate, score, report.

    python experiments/translation.py PRESET [--field value ...]
    python experiments/translation.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

PRESETS says what each preset reproduces; `experiments/README.md` has the commands, times and expected scores. Read from
top to bottom: the config, the presets, `build` (pure: model, loss, optimizer), data, `main`, and the scores.
"""

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from lmx import losses
from lmx.checkpoint import load_placed, save_params
from lmx.compilation import CompileCache
from lmx.data.batches import TokenBatches, choose_buckets, evaluation_batches, rows_of_bucket
from lmx.data.cache import Cache
from lmx.data.embedded import CONSTRUCTIONS, phrasebook
from lmx.data.encoded import Corpus, facts_of_pairs, find_pairs, keep_pairs, keep_tokenizer, side_texts
from lmx.data.files import read_lines
from lmx.data.fitting import Sizes
from lmx.data.parallel import EncodedPairs, FilterReport, Pairs, encode_pairs, filter_pairs, read_pairs
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
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig, training_flops
from lmx.nn.layers import spread_tables
from lmx.optimization import OptimizerConfig, make_optimizer, make_schedule
from lmx.plan.figures import Job
from lmx.report import write_report
from lmx.run import (
    Run,
    duration,
    make_deterministic,
    peak_flops,
    progress_bar,
    versions,
    write_json,
    write_jsonl,
    write_lines,
)
from lmx.saved import check_vocabulary
from lmx.scoring.baselines import dictionary_translations, nearest_translations
from lmx.scoring.tokenization import bleu_by, tokenize_for, warn_of_few_spaces
from lmx.scoring.translation import NUM_RESAMPLES, Score, chrf, detokenized_bleu, sentence_chrf, tokenized_bleu
from lmx.sharding import (
    GradientSum,
    MeshConfig,
    batch_shards,
    count_devices,
    fetch,
    make_mesh,
    place_rows,
    resolve_mesh,
    rows_on,
)
from lmx.text import (
    PretokenizedTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    detokenize_moses,
    load_tokenizer,
    undo_bpe,
)
from lmx.training import (
    Params,
    TrainState,
    abstract_state,
    born,
    compile_eval_step,
    compile_step,
    make_train_step,
    newest_rate,
    state_shardings,
)
from lmx.translator import Search, Translation, Translator, load_tokenizers, save_tokenizers

ROOT = Path(__file__).resolve().parent.parent
PHRASEBOOK = "phrasebook"  # as a data location: the embedded grammar
TESTED = ("scores.json", "samples.jsonl", "attention.json", "test.hypotheses.txt")
RESULTS = ("report.html", *TESTED)
# What may change when a run is continued.
FREE = (
    "run",
    "compile_cache",
    "deterministic",
    "profile",
    "log_every",
    "save_every",
    "keep_every",
    "mesh",
    "text_cache",
    "tokenize",
)


def absent(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what fields mean that a run's config, of an earlier version, lacks: what was done then."""
    return {
        "max_texts": 2_000_000,  # the vocabulary is there: these two have no part any more
        "character_coverage": 1.0,
        "tokens_per_device": None,
        "length_multiple": saved["mesh"]["sequence"],
        "gradient_sum": "float32" if saved["model"]["dtype"] == "float32" else "compute",
        "search.min_length": 0,
        "model.embedding_init": "fairseq",
    }


# ---- what can be chosen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Optimization(OptimizerConfig):
    """How parameters are updated.

    Attributes:
        schedule: how the learning rate goes on after the warm-up; linear and cosine fall until the last update.
        peak: highest learning rate.
        warmup: updates until it is reached.
        beta2: decay of Adam's average of squared gradients.
        epsilon: what Adam adds to the root of that average.
        weight_decay: decoupled weight decay; biases and the scales of norms are left out.
        clip_norm: longest gradient; None does not clip.
        label_smoothing: probability that is taken from the right word and spread evenly over all.
        average_decay: decay of an exponential average of the parameters, which validation and test use; None has none.
    """

    label_smoothing: float = 0.1
    average_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a translation experiment.

    Attributes:
        train: sentence pairs to learn from: two files as `train.{}.gz` or `train.en,train.de`, a .tsv or .jsonl, a
            hub dataset as `hub:ID:SPLIT`, or `phrasebook`.
        validation: sentence pairs that are validated on, in the same forms.
        test: sentence pairs that the finished model is scored on, in the same forms.
        source_language: the source's name, as it stands in file names and records.
        target_language: the target's name, as it stands there.
        tokenized: the text is tokenised and BPE'd already; else SentencePiece reads it raw.
        vocabulary: a trained tokenizer's file; None trains one on the training text.
        vocab_size: pieces that SentencePiece learns.
        max_texts: sentences that it learns them from, drawn at random; None takes all, slow above a few million.
        character_coverage: share of the text's characters that get a piece, the rarest are unknown; 1.0 suits clean
            text in alphabets, 0.9995 crawled text and scripts of thousands of characters.
        joint: one vocabulary for both sides.
        raw_reference: for tokenised text, the raw test reference that detokenised BLEU is scored against.
        lowercase: scores ignore case.
        tokenize: how BLEU splits raw text into words, by sacreBLEU's names; None takes what suits target_language: zh
            for Chinese, ja-mecab and ko-mecab where they are installed, char for these without, 13a for most.
        published: a published score to compare with.
        published_made: how that score was made.
        max_length: most tokens a side; longer training and validation pairs are left out, longer test sources cut.
        max_ratio: highest ratio of a training pair's lengths; what is above is left out. None keeps all.
        tokens_per_batch: most tokens of one micro-batch: rows times the longer side's padded length.
        tokens_per_device: most tokens of one micro-batch on one device; takes the place of tokens_per_batch, which a
            run keeps as it was on its first devices.
        rows_multiple: what the rows of a batch divide by, and the mesh's data x fsdp must divide.
        length_multiple: what padded lengths and max_length divide by, and the mesh's sequence must divide.
        accumulation: micro-batches an update.
        num_buckets: batch shapes, each compiled once.
        updates: updates after which training ends.
        patience: validations in a row without a lower loss, after which it ends too; None waits for the last update.
        validate_every: updates between validations; 0 validates after each epoch.
        bleu_every: a validation whose number this divides also translates; 0 never.
        bleu_sentences: sentences that are translated then, the first of the validation set.
        average: checkpoints whose mean is kept as the parameters.
        average_of: whether these are the last ones or those with the lowest validation loss.
        save_every: updates between checkpoints, beside those after each validation.
        keep_every: checkpoints of multiples of this stay for good, beside the two newest and those to average.
        gradient_sum: the type in which devices add up gradients; "compute" is the model's, and of bfloat16 sends half.
        text_cache: where encoded training text is kept for the next start and for other processes: "user" (the user's
            cache folder), a folder, or "off".
        hosts: several processes that train together, see docs/many-machines.md.
        compile_cache: where compiled programs are kept: in a folder that all runs of this user share, or with the run;
            off keeps none.
        deterministic: the same bits from the same run on a GPU, somewhat slower; a CPU gives them anyway.
        run: directory of the run, which all hosts see.
        seed: seed of initial values, of the order of the data and of dropout.
        log_every: updates between lines of metrics.
        profile: steps to write a profile of, as FROM:TO.
    """

    train: str = PHRASEBOOK
    validation: str = PHRASEBOOK
    test: str = PHRASEBOOK
    source_language: str = "en"
    target_language: str = "de"
    tokenized: bool = False
    vocabulary: Path | None = None
    vocab_size: int = 8000
    max_texts: int | None = 2_000_000
    character_coverage: float = 1.0
    joint: bool = True
    raw_reference: str | None = None
    lowercase: bool = False
    tokenize: str | None = None
    published: float | None = None
    published_made: str = ""
    max_length: int = 128
    max_ratio: float | None = None
    model: Seq2SeqConfig = field(default_factory=lambda: _model())
    optimization: Optimization = field(default_factory=Optimization)
    tokens_per_batch: int = 4096
    tokens_per_device: int | None = None
    rows_multiple: int = 8
    length_multiple: int = 1
    accumulation: int = 1
    num_buckets: int = 8
    updates: int = 100_000
    patience: int | None = None
    validate_every: int = 0
    bleu_every: int = 1
    bleu_sentences: int = 200
    average: int = 1
    average_of: Literal["last", "best"] = "last"
    search: Search = field(default_factory=Search)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    gradient_sum: GradientSum = "float32"
    save_every: int | None = None
    keep_every: int | None = None
    text_cache: str = "user"
    hosts: HostsConfig = field(default_factory=HostsConfig)
    compile_cache: CompileCache = "user"
    deterministic: bool = False
    run: Path = Path("runs/translation")
    seed: int = 1
    log_every: int = 50
    profile: str | None = None


def _model(**sizes: Any) -> Seq2SeqConfig:
    """Returns a model config whose vocabulary sizes the tokenizers will give; drawn as the recipes were, in fairseq."""
    return Seq2SeqConfig(source_vocab_size=0, target_vocab_size=0, embedding_init="fairseq", **sizes)


MULTI30K = Config(
    # Wu et al. 2021, "Good for Misconceived Reasons", the text-only tiny Transformer.
    train="data/multi30k/bpe10k/train.{}.gz",
    validation="data/multi30k/bpe10k/valid.{}.gz",
    test="data/multi30k/bpe10k/test.2016.{}.gz",
    raw_reference="data/multi30k/test_2016_flickr.de.gz",
    tokenized=True,
    lowercase=True,
    published=41.02,
    published_made="Wu et al. 2021: tokenised lowercase BLEU, beam 5, average of the last 10 epochs",
    model=_model(
        width=128,
        feedforward_width=256,
        num_heads=4,
        num_encoder_layers=4,
        num_decoder_layers=4,
        dropout_rate=0.3,
        unroll=4,
        max_length=256,
    ),
    optimization=Optimization(peak=0.005, warmup=2000, clip_norm=25.0),
    tokens_per_batch=4096,
    accumulation=2,
    updates=8000,
    patience=10,
    bleu_every=10,
    average=10,
    search=Search(beam_size=5, length_penalty="power", alpha=1.0),
    run=Path("runs/multi30k"),
)

PRESETS: dict[str, tuple[str, Config]] = {
    "phrasebook": (
        "the embedded English-German grammar: minutes on two CPU cores",
        Config(
            vocabulary=ROOT / "tokenizers" / "phrasebook.model",
            max_length=48,
            model=_model(
                width=128,
                feedforward_width=512,
                num_heads=4,
                num_encoder_layers=2,
                num_decoder_layers=2,
                norm_position="pre",  # learns at once, where post-norm waits for its warm-up
                dropout_rate=0.0,  # five passes over 40,000 pairs: there is nothing to overfit
                unroll=2,
                max_length=96,
            ),
            optimization=Optimization(schedule="cosine", peak=4e-3, warmup=200, clip_norm=1.0),
            tokens_per_batch=2048,
            num_buckets=4,
            updates=1600,
            validate_every=400,
            search=Search(beam_size=4),
            run=Path("runs/phrasebook"),
        ),
    ),
    "multi30k": ("Multi30k En-De by the recipe of Wu et al. 2021: 41.02 tokenised lowercase BLEU", MULTI30K),
    "multi30k-raw": (
        "Multi30k En-De from raw text with SentencePiece: detokenised sacreBLEU",
        replace(
            MULTI30K,
            train="data/multi30k/train.{}.gz",
            validation="data/multi30k/val.{}.gz",
            test="data/multi30k/test_2016_flickr.{}.gz",
            raw_reference=None,
            tokenized=False,
            lowercase=False,
            vocab_size=10_000,
            published=None,
            published_made="",
            run=Path("runs/multi30k-raw"),
        ),
    ),
}


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What a config means: pure, and all that training, planning and tests need."""

    build_model: Callable[[nnx.Rngs], Seq2Seq]
    loss: Callable[[Params, Any, Any], dict[str, jax.Array]]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule


def build(config: Config, model: Seq2SeqConfig) -> Parts:
    """Returns model, loss and optimizer of a config whose vocabulary sizes are known."""
    definition = nnx.graphdef(nnx.eval_shape(lambda: Seq2Seq(model, rngs=nnx.Rngs(0))))
    options = config.optimization

    def loss(params: Params, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = spread_tables(nnx.merge(definition, params))
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        memory, _ = network.encode(batch["source"], key=encoder_key)
        states, _ = network.decode(memory, batch["source"], batch["decoder_input"], key=decoder_key)
        return losses.cross_entropy(
            states,
            network.output_table(),
            batch["target"],
            batch["target"] != model.pad_id,
            vocab_size=model.target_vocab_size,
            label_smoothing=options.label_smoothing,
        )._asdict()

    schedule = make_schedule(options, total=config.updates, width=model.width)
    optimizer = make_optimizer(options, schedule)
    return Parts(lambda rngs: Seq2Seq(model, rngs=rngs), loss, optimizer, schedule)


# ---- data ------------------------------------------------------------------------------------------------------------


def load_pairs(location: str, config: Config, *, split: Literal["train", "validation", "test"]) -> Pairs:
    """Reads the pairs of a split."""
    if location == PHRASEBOOK:
        phrases = phrasebook(split)
        return Pairs(
            sources=[p.source for p in phrases], targets=[p.target for p in phrases], origin=f"phrasebook {split}"
        )
    return read_pairs(
        location,
        source_language=config.source_language,
        target_language=config.target_language,
        keep_empty=split == "test",  # a line of the hypotheses for each of the test set
    )


def training_pairs(config: Config) -> Corpus | Pairs:
    """Returns the pairs to learn from; those of files are read when they are asked for."""
    if config.train == PHRASEBOOK:
        return load_pairs(config.train, config, split="train")
    return find_pairs(config.train, source_language=config.source_language, target_language=config.target_language)


def load_or_make_tokenizers(
    run: Run, config: Config, pairs: Corpus | Pairs, cache: Cache
) -> tuple[Tokenizer, Tokenizer]:
    """Returns the run's tokenizers; those of a new run are read, or learned from the pairs by one of the processes."""
    with contextlib.suppress(FileNotFoundError):
        return load_tokenizers(run.directory)
    learned = {
        "vocab_size": config.vocab_size,
        "max_texts": config.max_texts,
        "character_coverage": config.character_coverage,
    }

    def make(side: int) -> Tokenizer:
        def learn() -> Tokenizer:
            def texts() -> Iterator[str]:
                return side_texts(pairs, joint=config.joint, side=side)

            if config.tokenized:
                return PretokenizedTokenizer.from_texts(texts())
            return learn_pieces(SentencePieceTokenizer.train, texts, **learned)

        if config.vocabulary is not None:
            return load_tokenizer(config.vocabulary)
        how = {"tokenized": True} if config.tokenized else learned
        facts = facts_of_pairs(pairs, cache) | how | {"part": "both sides" if config.joint else f"side {side}"}
        return keep_tokenizer(cache, facts, learn, about=pairs.origin)

    if config.joint:
        joint = make(0)
        return joint, joint
    return make(0), make(1)


def vocabularies(config: Config, source: Tokenizer, target: Tokenizer) -> Seq2SeqConfig:
    """Returns the model config with the tokenizers' sizes.

    Raises:
        InputError: the config asks for other sizes than the tokenizers have.
    """
    if not config.joint and config.model.tied_embeddings == "all":
        raise InputError(
            'model.tied_embeddings must be "target" or "none" where each side has a vocabulary of its own, '
            'got tied_embeddings="all" and joint=False.'
        )
    for side, asked, tokenizer in (
        ("source", config.model.source_vocab_size, source),
        ("target", config.model.target_vocab_size, target),
    ):
        if asked not in (0, tokenizer.vocab_size):
            raise InputError(
                f"model.{side}_vocab_size must be the tokenizer's {tokenizer.vocab_size} or 0 (take the tokenizer's), "
                f"got {side}_vocab_size={asked}."
            )
    return replace(
        config.model,
        source_vocab_size=source.vocab_size,
        target_vocab_size=target.vocab_size,
        max_length=max(config.model.max_length, config.max_length),
        pad_id=target.pad_id,
    )


# ---- the experiment --------------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """All that a run is made of; found, and found to fit together, before anything is written."""

    run: Run
    training: EncodedPairs
    validation_pairs: Pairs
    test_pairs: Pairs
    reports: tuple[FilterReport, FilterReport]
    validation: EncodedPairs
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    mesh: Mesh
    buckets: tuple[int, ...]
    sizes: Sizes
    batches: TokenBatches
    model: Seq2SeqConfig
    parts: Parts
    network: Seq2Seq
    shardings: TrainState
    profile: tuple[int, int] | None
    serves: bool

    def translator(self, config: Config, params: Params) -> Translator:
        """Returns what translates by these parameters."""
        return Translator(
            self.model,
            params,
            source_tokenizer=self.source_tokenizer,
            target_tokenizer=self.target_tokenizer,
            search=config.search,
            max_source_length=config.max_length,
            mesh=self.mesh,
        )


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then translates the test set, scores it and writes the report."""
    if config.deterministic:
        make_deterministic()
    start(config.hosts)
    config = settle_tokens(config, run=config.run, devices=jax.device_count())
    # What can be wrong with config, text and mesh is found before anything is written, and before hosts that do not
    # agree wait for each other.
    with agreement() as agreed:
        found = prepare(preset, config, agreed=agreed)
    run = found.run
    run.open(
        compile_cache=config.compile_cache,
        write=lambda folder: save_tokenizers(folder, found.source_tokenizer, found.target_tokenizer),
        model=dataclasses.asdict(found.model),
        sizes=dataclasses.asdict(found.sizes),
    )
    if "test data" in run.changed:
        run.forget(TESTED)
    if found.serves:
        translator, kept = load_finished(config, found)
    else:
        translator, kept = learn(config, found)
        whole = fetch(translator.params, keep=run.writes)
        if run.writes:
            save_params(run.directory / "model.safetensors", whole)
    test(run, preset, config, translator, found.test_pairs, made=f"{config.search}, {kept}")
    if run.writes:
        with run.only_reporting("the report is"):
            run.console.print(f"report: {write_report(run.directory)}")
    wait("the end of the run")


def prepare(preset: str, config: Config, *, agreed: dict[str, Any]) -> Prepared:
    """Reads all text, and makes of config and text what will be trained; writes nothing.

    Args:
        agreed: takes in what must be the same on all hosts, see `lmx.hosts.agreement`.
    """
    profile = None if config.profile is None else steps_to_profile(config.profile)
    facts = {"experiment": "translation", "preset": preset, "family": "seq2seq", "config": config_as_json(config)}
    free = FREE if config.optimization.depends_on_end else (*FREE, "updates")
    free += ("vocabulary",) if check_vocabulary(config.vocabulary, config.run) else ()
    agreed |= facts | {"versions": versions(machine=False), "device": jax.local_devices()[0].device_kind}
    bleu_by(scheme(config))  # one that cannot be is an error now
    # All text is read first: a bad line should be told now, not after the training.
    pairs = training_pairs(config)
    validation_pairs = load_pairs(config.validation, config, split="validation")
    test_pairs = load_pairs(config.test, config, split="test")
    if config.tokenized and config.raw_reference is not None:
        count = sum(1 for _ in read_lines(config.raw_reference))
        if count != len(test_pairs):
            raise InputError(
                f"raw_reference must have a line for each test pair, got {count:,} lines in "
                f"{config.raw_reference} and {len(test_pairs):,} pairs in {config.test}."
            )
    run = Run(config.run, facts, free=free, absent=absent)
    cache = text_cache(config.text_cache)
    source_tokenizer, target_tokenizer = load_or_make_tokenizers(run, config, pairs, cache)
    for tokenizer in dict.fromkeys((source_tokenizer, target_tokenizer)) if config.vocabulary is None else ():
        say_fewer_pieces(run, tokenizer, vocab_size=config.vocab_size)
    model = vocabularies(config, source_tokenizer, target_tokenizer)

    # Data: encoded once, batches made ahead of their use.
    encoded, report = keep_pairs(
        pairs,
        source_tokenizer,
        target_tokenizer,
        max_length=config.max_length,
        max_ratio=config.max_ratio,
        cache=cache,
    )
    validation, validation_report = filter_pairs(
        encode_pairs(validation_pairs, source_tokenizer, target_tokenizer),
        max_length=config.max_length,
        max_ratio=None,
    )
    mesh = make_mesh(config.mesh)
    check_lengths(config, max_length=config.max_length, sequence=mesh.shape["sequence"])
    sizes = fit_batches(run, config, usual=PRESETS[preset][1], lengths=encoded.lengths)
    buckets = choose_buckets(encoded.lengths, num_buckets=sizes.num_buckets, multiple_of=config.length_multiple)
    batches = TokenBatches(
        encoded,
        buckets=buckets,
        tokens_per_batch=sizes.tokens_per_batch,
        accumulation=sizes.accumulation,
        rows_multiple=config.rows_multiple,
        seed=config.seed,
    )
    for side, tokenizer in (("source", source_tokenizer), ("target", target_tokenizer)):
        agreed[f"{side} tokenizer"] = fingerprint(tokenizer.pieces(range(tokenizer.vocab_size)))
    agreed["training data"] = encoded.digest
    agreed["validation data"] = fingerprint(
        validation.source, validation.source_offsets, validation.target, validation.target_offsets
    )
    agreed["test data"] = fingerprint(test_pairs.sources, test_pairs.targets)
    names = ("source tokenizer", "target tokenizer", "training data", "validation data", "test data")
    run.compare({name: agreed[name] for name in names}, model=dataclasses.asdict(model))
    check_shapes(batches.shapes, mesh)
    usual = PRESETS[preset][1].optimization.warmup
    options = fit_warmup(run, config.optimization, usual=usual, updates=config.updates)
    parts = build(replace(config, optimization=options), model)
    network = nnx.eval_shape(lambda: parts.build_model(nnx.Rngs(0)))
    attention_facts(model, network, mesh)  # a kernel that cannot be is an error now
    averages = config.optimization.average_decay is not None
    return Prepared(
        run=run,
        training=encoded,
        validation_pairs=validation_pairs,
        test_pairs=test_pairs,
        reports=(report, validation_report),
        validation=validation,
        source_tokenizer=source_tokenizer,
        target_tokenizer=target_tokenizer,
        mesh=mesh,
        buckets=buckets,
        sizes=sizes,
        batches=batches,
        model=model,
        parts=parts,
        network=network,
        shardings=state_shardings(network, parts.optimizer, mesh=mesh, average=averages),
        profile=profile,
        serves=run.serves(length="config.updates"),
    )


def load_finished(config: Config, found: Prepared) -> tuple[Translator, str]:
    """Returns the model of a finished run whose checkpoints are gone, and what is known of it; nothing is trained."""
    run = found.run
    run.console.print(
        f"{run.directory} has a finished model and no checkpoints: it is used as it is, nothing is trained"
    )
    like = abstract_state(found.network, found.parts.optimizer, shardings=found.shardings)
    params = load_placed([run.directory / "model.safetensors"], like.params)
    return found.translator(config, params), "the model that was there"


def learn(config: Config, found: Prepared) -> tuple[Translator, str]:
    """Trains, or goes on training; returns the model that is kept, and in words how its parameters came about."""
    run, batches, parts = found.run, found.batches, found.parts
    averaging = config.optimization.average_decay
    step = make_train_step(parts.loss, parts.optimizer, average_decay=averaging)
    train_step = compile_step(step, mesh=found.mesh, shardings=found.shardings, gradient_sum=config.gradient_sum)
    eval_step = compile_eval_step(parts.loss, mesh=found.mesh)
    checkpoints = run.open_checkpoints(
        keep_last=config.average if config.average_of == "last" else 1,
        keep_best=config.average if config.average_of == "best" else 0,
        keep_every=config.keep_every,
    )
    # A state is either restored or born: there is room for one.
    like = abstract_state(found.network, parts.optimizer, shardings=found.shardings)
    state = run.resume(checkpoints, like)
    if state is like:
        state = born(parts.build_model, parts.optimizer, shardings=found.shardings, seed=config.seed)
    translator = found.translator(config, state.params)
    model, report, validation_report = found.model, *found.reports
    run.print_start(
        {
            "training_pairs": _described(found.training, f"{report}"),
            "validation_pairs": _described(found.validation_pairs, f"{validation_report}"),
            "test_pairs": _described(found.test_pairs, f"{len(found.test_pairs):,} pairs"),
            **start_facts(model, found.network, found.mesh),
            "vocabulary": f"{model.source_vocab_size:,} source, {model.target_vocab_size:,} target"
            + (", joint" if found.source_tokenizer is found.target_tokenizer else ""),
            "batch_shapes": [list(shape) for shape in batches.shapes],
            "tokens_per_device": tokens_on_device(batches.shapes, found.mesh),
            "padding_share": batches.padding_share,
            "padding_optimum": batches.optimum,
            "updates_per_epoch": batches.batches_per_epoch,
        }
    )

    def used(state: TrainState) -> Params:
        return state.params if state.average is None else state.average

    def is_due(step: int) -> bool:
        if config.validate_every:
            return step % config.validate_every == 0 or step == config.updates
        return batches.first_batch(batches.epoch_of(step)) == step or step == config.updates

    def validate(step: int, state: TrainState) -> tuple[float, dict[str, float]]:
        params = used(state)
        line = evaluate(
            eval_step,
            params,
            found.validation,
            mesh=found.mesh,
            buckets=found.buckets,
            tokens_per_batch=found.sizes.tokens_per_batch,
            rows_multiple=config.rows_multiple,
            length_multiple=config.length_multiple,
        )
        if config.bleu_every and (len(run.memory.losses) + 1) % config.bleu_every == 0:
            chosen = slice(0, config.bleu_sentences)
            translations = translator.with_params(params).translate(found.validation_pairs.sources[chosen])
            line["bleu"] = main_score(config, translations, found.validation_pairs.targets[chosen]).score
        return line["loss"], line

    def facts_of(step: int, state: TrainState) -> dict[str, float]:
        return {
            "epoch": round(step / batches.batches_per_epoch, 4),
            "learning_rate": newest_rate(parts.schedule, state),
        }

    def flops(shape: tuple[int, ...]) -> tuple[float, float]:
        micro_batches, rows, length = shape
        return training_flops(model, rows=micro_batches * rows, source=length, target=length)

    longer = not run.memory.stopped_early and int(state.step) < config.updates
    if longer and (run.directory / "model.safetensors").is_file():
        run.console.print(f"model and scores in {run.directory} are of its earlier end until this training has ended")
    peak = peak_flops(jax.devices()[0], model.dtype)
    state = train(
        run,
        train_step,
        state,
        batches=batches,
        mesh=found.mesh,
        last=config.updates,
        checkpoints=checkpoints,
        log_every=config.log_every,
        save_every=config.save_every,
        is_due=is_due,
        validate=validate,
        patience=config.patience,
        facts=facts_of,
        flops=flops,
        peak=peak and peak * jax.device_count(),
        profile=found.profile,
    )
    if longer:
        run.forget(RESULTS)  # of an earlier end of this run, when it was to be shorter; the model is replaced
    memory = run.memory
    run.console.print(
        f"training ended {'early' if memory.stopped_early else 'as planned'} after {int(state.step):,} updates "
        f"and {duration(memory.seconds)}; lowest validation loss {memory.best[0]:.4f} at {memory.best_step[0]:,}"
    )

    saved = [step for step in checkpoints.steps() if step in memory.losses]
    if config.average_of == "best":
        saved.sort(key=memory.losses.__getitem__, reverse=True)
    chosen = saved[-config.average :]
    if averaging is not None or chosen in ([], [int(state.step)]):
        params = used(state)
    else:
        del state  # the checkpoints take its place
        params = checkpoints.average(chosen, like)
    checkpoints.close()
    translator = translator.with_params(params)
    if averaging is not None:
        return translator, "exponential average"
    of = config.average_of
    return translator, f"the {of} checkpoint" if len(chosen) == 1 else f"mean of the {of} {len(chosen)}"


def _described(pairs: Pairs | EncodedPairs, kept: str) -> str:
    """Returns where pairs are from, how many are used, and what became of those with an empty side."""
    if not pairs.empty:
        return f"{pairs.origin}: {kept}"
    left_out = "kept in their places" if isinstance(pairs, Pairs) and pairs.kept_empty else "left out"
    return f"{pairs.origin}: {kept}, {pairs.empty:,} with an empty side {left_out}"


def evaluate(
    eval_step: Callable,
    params: Params,
    encoded: EncodedPairs,
    *,
    mesh: Mesh,
    buckets: tuple[int, ...],
    tokens_per_batch: int,
    rows_multiple: int,
    length_multiple: int,
) -> dict[str, float]:
    """Returns loss, nll and perplexity over a whole set, means over its target tokens."""
    longest = int(encoded.lengths.max())
    if longest > buckets[-1]:  # no training pair was as long
        buckets = (*buckets, -(-longest // length_multiple) * length_multiple)
    sums = {"loss": 0.0, "nll": 0.0, "weight": 0.0}
    for batch in evaluation_batches(
        encoded,
        buckets=buckets,
        tokens_per_batch=max(tokens_per_batch, rows_multiple * buckets[-1]),
        rows_multiple=rows_multiple,
        fill_multiple=batch_shards(mesh),
        rows=lambda number: rows_on(mesh, number),
    ):
        for name, value in jax.device_get(eval_step(params, place_rows(batch, mesh))).items():
            sums[name] += float(value)
    loss, nll = sums["loss"] / sums["weight"], sums["nll"] / sums["weight"]
    return {"loss": loss, "nll": nll, "perplexity": float(np.exp(nll))}


# ---- scores ----------------------------------------------------------------------------------------------------------


def scheme(config: Config) -> str:
    """Returns how BLEU splits raw text into words."""
    return config.tokenize or tokenize_for(config.target_language)


def main_score(config: Config, found: list[Translation], references: Sequence[str], *, resamples: int = 0) -> Score:
    """Returns the BLEU that an experiment is judged by: of tokens where the recipe has tokenised text, else of text."""
    hypotheses = [translation.text for translation in found]
    if config.tokenized:
        references = [undo_bpe(line) for line in references]
        return tokenized_bleu(hypotheses, references, lowercase=config.lowercase, num_resamples=resamples)
    settings: dict[str, Any] = {"lowercase": config.lowercase, "tokenize": scheme(config)}
    return detokenized_bleu(hypotheses, references, **settings, num_resamples=resamples)


def all_scores(config: Config, found: list[Translation], references: Sequence[str]) -> list[Score]:
    """Returns the main score and those beside it: chrF, and for tokenised text BLEU of detokenised text if possible."""
    scores = [main_score(config, found, references, resamples=NUM_RESAMPLES)]
    texts = [translation.text for translation in found]
    if config.tokenized:
        references = [undo_bpe(line) for line in references]
        if config.raw_reference is not None and importlib.util.find_spec("sacremoses") is not None:
            texts = [detokenize_moses(text, language=config.target_language) for text in texts]
            references = list(read_lines(config.raw_reference))
            scores.append(detokenized_bleu(texts, references, lowercase=config.lowercase, tokenize=scheme(config)))
    scores.append(chrf(texts, references, lowercase=config.lowercase))
    return scores


def test(run: Run, preset: str, config: Config, translator: Translator, pairs: Pairs, *, made: str) -> None:
    """Translates the test set once, scores it, and writes translations, scores, samples and attention maps.

    Args:
        made: how the translations come about, for the table.
    """
    began = time.perf_counter()
    with progress_bar("translating the test set", total=len(pairs), console=run.console) as show:
        found = translator.translate(pairs.sources, progress=show)
    seconds = time.perf_counter() - began
    texts = [translation.text for translation in found]
    scores = all_scores(config, found, pairs.targets)
    rows = [
        {
            "name": f"{preset} test {score.name}",
            "score": score.score,
            "interval": score.interval,
            "signature": score.signature,
            "made": made,
            "published": config.published if index == 0 else None,
            "published_made": config.published_made if index == 0 else "",
        }
        for index, score in enumerate(scores)
    ]
    saved: dict[str, Any] = {"test": f"{preset} test", "sentences": len(pairs), "seconds": seconds, "rows": rows}
    saved |= {"cut": translator.cut, "limited": translator.limited, "empty": pairs.empty}
    if pairs.empty:
        run.console.print(
            f"{pairs.empty:,} of {len(pairs):,} test pairs have an empty side: an empty source has an empty "
            "translation, and all are scored, as sacreBLEU scores all lines of two files"
        )
    if translator.limited:
        run.console.print(f"{translator.limited:,} of {len(pairs):,} translations were ended by the length limit")
    if translator.cut:
        run.console.print(
            f"{translator.cut:,} of {len(pairs):,} test sources were longer than {translator.max_source_length} tokens "
            "and were cut"
        )
    if not config.tokenized and (warning := warn_of_few_spaces(pairs.targets, scheme(config))):
        run.console.print(f"warning: {warning}")
    references = [undo_bpe(line) for line in pairs.targets] if config.tokenized else pairs.targets
    constructions = None
    if config.test == PHRASEBOOK:
        constructions = [phrase.construction for phrase in phrasebook("test")]
        exact: dict[str, list[bool]] = {name: [] for name in CONSTRUCTIONS}
        for text, reference, name in zip(texts, references, constructions, strict=True):
            exact[name].append(text == reference)
        saved["constructions"] = {
            name: {"exact": float(np.mean(hits)), "count": len(hits)} for name, hits in exact.items()
        }
        with run.only_reporting("the baselines are"):
            saved["baselines"] = baselines(config, pairs)
    samples = [
        {"source": source, "reference": reference, "hypothesis": text, "chrf": value}
        for source, reference, text, value in zip(
            pairs.sources, references, texts, sentence_chrf(texts, references), strict=True
        )
    ]
    for index, name in enumerate(constructions or []):
        samples[index]["construction"] = name
    maps = []
    with run.only_reporting("attention maps are"):
        maps = [attention_of(translator, source, one) for source, one in zip(pairs.sources[:5], found[:5], strict=True)]
    if run.writes:
        write_lines(run.directory / "test.hypotheses.txt", texts)
        write_json(run.directory / "scores.json", saved)
        write_jsonl(run.directory / "samples.jsonl", samples)
        write_json(run.directory / "attention.json", maps)
    print_scores(
        run,
        saved,
        title=f"{saved['test']}: {len(pairs):,} sentences",
        baselines_are="a baseline that cannot translate",
        notes=[
            f"  {name:<12} {row['exact']:.1%} of {row['count']} exactly as the reference"
            for name, row in saved.get("constructions", {}).items()
        ],
    )


def baselines(config: Config, test_pairs: Pairs) -> list[dict[str, Any]]:
    """Returns the BLEU of translating without understanding, so that the main score means something."""
    train = [(phrase.source, phrase.target) for phrase in phrasebook("train")]
    systems = {
        "word-for-word dictionary": dictionary_translations(train, test_pairs.sources),
        "nearest training sentence": nearest_translations(train, test_pairs.sources),
    }
    return [
        {"name": name, "score": detokenized_bleu(texts, test_pairs.targets, num_resamples=0).score}
        for name, texts in systems.items()
    ]


def attention_of(translator: Translator, source: str, translation: Translation) -> dict[str, Any]:
    """Returns one sentence's attention map as attention.json has it."""
    found = translator.attention(source, translation)
    return found | {"weights": np.round(found["weights"].astype(float), 3).tolist()}


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str, devices: int | None) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed."""
    config = replace(config, mesh=resolve_mesh(config.mesh, devices))
    config = settle_tokens(config, run=config.run, devices=count_devices(config.mesh))
    check_lengths(config, max_length=config.max_length, sequence=config.mesh.sequence)
    source_size, target_size, origin = planned_vocabularies(config)
    longest, usual = config.max_length, max(config.max_length // 4, 1)

    def shapes(length: int) -> dict[str, tuple[int, ...]]:
        rows = rows_of_bucket(length, tokens_per_batch=config.tokens_per_batch, rows_multiple=config.rows_multiple)
        rows = max(rows, config.rows_multiple)
        return dict.fromkeys(("source", "decoder_input", "target"), (config.accumulation, rows, length))

    def job_of(**changes: Any) -> Job:
        model = replace(config.model, source_vocab_size=source_size, target_vocab_size=target_size, **changes)
        model = replace(model, max_length=max(model.max_length, config.max_length))
        parts = build(config, model)
        return Job(
            build=parts.build_model,
            loss=parts.loss,
            optimizer=parts.optimizer,
            mesh=config.mesh,
            batch=shapes(longest),
            typical=shapes(usual),
            dtype=model.dtype,
            average=config.optimization.average_decay is not None,
            gradient_sum=config.gradient_sum,
        )

    print_plan(job_of, f"{preset}: {origin}.", device=device, config=config, lengths=(longest, usual))


def planned_vocabularies(config: Config) -> tuple[int, int, str]:
    """Returns the sizes of the vocabularies as far as they are known without reading text, and where they are from."""
    given = config.model.source_vocab_size, config.model.target_vocab_size
    if all(given):
        return *given, f"vocabularies of {given[0]:,} and {given[1]:,} as the config says"
    if config.run.is_dir():
        with contextlib.suppress(FileNotFoundError):
            source, target = load_tokenizers(config.run)
            return source.vocab_size, target.vocab_size, f"the vocabulary of {config.run}"
    if config.vocabulary is not None:
        size = load_tokenizer(config.vocabulary).vocab_size
        return size, size, f"the vocabulary of {config.vocabulary.name}, {size:,}"
    origin = (
        f"a vocabulary of {config.vocab_size:,} is assumed (--model.source-vocab-size and --model.target-vocab-size)"
    )
    return config.vocab_size, config.vocab_size, origin


# ---- command line ----------------------------------------------------------------------------------------------------


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="translation.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
