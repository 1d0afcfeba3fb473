"""Machine translation with an encoder-decoder Transformer: train, translate, score, report.

    python experiments/translation.py PRESET [--field value ...]
    python experiments/translation.py PRESET --seeds 3              # mean, deviation, and all three together
    python experiments/translation.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

PRESETS says what each preset reproduces; `experiments/README.md` has the commands, times and expected scores. Read from
top to bottom: the config, the presets, `build` (pure: model, loss, optimizer), `load`, and `main` with its loop.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import numpy as np

from lmx import losses
from lmx.config import INLINE, BatchConfig, Published, RunConfig, SelectionConfig
from lmx.data.cache import Cache
from lmx.data.encoded import Corpus, facts_of_pairs, keep_pairs, side_texts
from lmx.data.pair_sets import CUT_LATER, PairSetsConfig
from lmx.data.parallel import EncodedPairs, FilterReport, Pairs, described, encode_pairs, filter_pairs
from lmx.definition import define
from lmx.errors import InputError
from lmx.evaluation.translation import Exam, ScoringConfig, Translated, examine_translator, run_folds, validation_bleu
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
from lmx.learner import Learner, mean_loss, place
from lmx.loop import Training
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig, training_flops
from lmx.optimization import OptimizerConfig, make_schedule
from lmx.optimizers import make_optimizer, updated_by
from lmx.pieces import VocabularyConfig
from lmx.planning import planned_sizes, print_plan
from lmx.pretrained import StartConfig
from lmx.run import Run
from lmx.saved import save_tokenizers
from lmx.search import EARLIER, Search
from lmx.sharding.mesh import make_mesh
from lmx.sharding.rules import DEFAULT_RULES
from lmx.text import Tokenizer
from lmx.translator import Translator

ROOT = Path(__file__).resolve().parent.parent


# ---- what can be chosen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Optimization(OptimizerConfig):
    """How parameters are updated.

    Attributes:
        label_smoothing: probability to take from the right word and spread evenly over all words.
    """

    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a translation experiment; nested records describe their own fields.

    Attributes:
        joint: one vocabulary for both sides.
        max_length: most tokens per side; drops longer training and validation pairs, truncates longer test sources.
        max_ratio: highest ratio of a training pair's lengths; drops pairs above it. None keeps all.
        updates: updates after which training ends.
        seed: seed of the first model: of its initial values, its order of the data and its dropout.
        seeds: number of models to train in one step, with the seeds seed, seed + 1 and so on.
    """

    sets: Annotated[PairSetsConfig, INLINE] = field(default_factory=PairSetsConfig)
    scoring: Annotated[ScoringConfig, INLINE] = field(default_factory=ScoringConfig)
    pieces: Annotated[VocabularyConfig, INLINE] = field(default_factory=VocabularyConfig)
    joint: bool = True
    published: Annotated[Published, INLINE] = field(default_factory=Published)
    max_length: int = 128
    max_ratio: float | None = None
    model: Seq2SeqConfig = field(default_factory=lambda: _model())
    start: Annotated[StartConfig, INLINE] = field(default_factory=StartConfig)
    optimization: Optimization = field(default_factory=Optimization)
    batch: Annotated[BatchConfig, INLINE] = field(default_factory=BatchConfig)
    updates: int = 100_000
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=SelectionConfig)
    search: Search = field(default_factory=Search)
    seed: int = 1
    seeds: int = 1
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/translation")))

    free = ("tokenize", "test", "raw_reference")  # may change when a run is continued, beside RunConfig and Published
    rules: ClassVar = DEFAULT_RULES  # which axes the mesh splits
    absent: ClassVar = {**EARLIER, "model.embedding_init": "fairseq", **CUT_LATER}  # in earlier versions

    def check(self) -> None:
        """Checks values here, for errors of one line, where tyro would print a box."""
        self.sets.check()
        self.scoring.check_sets(folds=self.sets.folds)


def _model(**sizes: Any) -> Seq2SeqConfig:
    """Returns a model config whose vocabulary sizes the tokenizers will give; drawn as the recipes were, in fairseq."""
    return Seq2SeqConfig(source_vocab_size=0, target_vocab_size=0, embedding_init="fairseq", **sizes)


MULTI30K = Config(
    # Wu et al. 2021, "Good for Misconceived Reasons", the text-only tiny Transformer.
    sets=PairSetsConfig(
        train="data/multi30k/bpe10k/train.{}.gz",
        validation="data/multi30k/bpe10k/valid.{}.gz",
        test="data/multi30k/bpe10k/test.2016.{}.gz",
    ),
    scoring=ScoringConfig(
        tokenized=True, raw_reference="data/multi30k/test_2016_flickr.de.gz", lowercase=True, bleu_every=10
    ),
    published=Published(
        published=41.02,
        published_made="Wu et al. 2021: tokenised lowercase BLEU, beam 5, average of the last 10 epochs",
    ),
    model=_model(
        width=128, feedforward_width=256, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, dropout_rate=0.3,
        unroll=4, max_length=256,
    ),
    optimization=Optimization(peak=0.005, warmup=2000, clip_norm=25.0),
    batch=BatchConfig(tokens_per_batch=4096, accumulation=2),
    updates=8000,
    selection=SelectionConfig(patience=10, average=10),
    search=Search(beam_size=5, length_penalty="power", alpha=1.0),
    run=RunConfig(run=Path("runs/multi30k")),
)  # fmt: skip

PRESETS: dict[str, tuple[str, Config]] = {
    "phrasebook": (
        "the embedded English-German grammar: minutes on two CPU cores",
        Config(
            pieces=VocabularyConfig(vocabulary=ROOT / "tokenizers" / "phrasebook.model"),
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
            batch=BatchConfig(tokens_per_batch=2048, num_buckets=4),
            updates=1600,
            selection=SelectionConfig(validate_every=400),
            search=Search(beam_size=4),
            run=RunConfig(run=Path("runs/phrasebook")),
        ),
    ),
    "multi30k": ("Multi30k En-De by the recipe of Wu et al. 2021: 41.02 tokenised lowercase BLEU", MULTI30K),
    "multi30k-raw": (
        "Multi30k En-De from raw text with SentencePiece: detokenised sacreBLEU",
        replace(
            MULTI30K,
            sets=PairSetsConfig(
                train="data/multi30k/train.{}.gz",
                validation="data/multi30k/val.{}.gz",
                test="data/multi30k/test_2016_flickr.{}.gz",
            ),
            scoring=ScoringConfig(bleu_every=10),
            pieces=VocabularyConfig(vocab_size=10_000),
            published=Published(),
            run=RunConfig(run=Path("runs/multi30k-raw")),
        ),
    ),
}


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(config: Config, model: Seq2SeqConfig) -> Learner:
    """Returns model, loss and optimizer of a config whose vocabulary sizes are known."""
    definition = config.start.adapt(define(lambda rngs: Seq2Seq(model, rngs=rngs)))
    options = config.optimization

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = definition.merge(params)
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        memory, _ = network.encode(batch["source"], key=encoder_key)
        states, _ = network.decode(memory, batch["source"], batch["decoder_input"], key=decoder_key)
        return losses.token_loss(
            states,
            network.output(),
            batch["target"],
            batch["target"] != model.pad_id,
            label_smoothing=options.label_smoothing,
        )._asdict()

    schedule = make_schedule(options, total=config.updates, width=model.width)
    return Learner(
        model=definition, loss=loss, schedule=schedule, updated_by=updated_by(options, definition),
        optimizer=make_optimizer(options, schedule, model=definition),
        flops=lambda shape: training_flops(model, rows=shape[0] * shape[1], source=shape[2], target=shape[2]),
        dtype=model.dtype, average_decay=options.average_decay, keeps_best=config.selection.keeps_best,
        num_seeds=config.seeds if config.seeds > 1 else None, gradient_sum=config.batch.gradient_sum,
    )  # fmt: skip


# ---- data ------------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Pairs to learn from, to validate on and to report on, and what reads them."""

    source: Tokenizer
    target: Tokenizer
    train: EncodedPairs
    validation: EncodedPairs
    validation_pairs: Pairs
    test: Pairs | None
    reports: tuple[FilterReport, FilterReport]


def make_tokenizers(run: Run, config: Config, pairs: Corpus | Pairs, cache: Cache) -> tuple[Tokenizer, Tokenizer]:
    """Returns the run's tokenizers; those of a new run are read, or learned from the pairs."""
    with contextlib.suppress(FileNotFoundError):
        return config.start.tokenizers(run.directory)

    def make(side: int) -> Tokenizer:
        def texts() -> Iterator[str]:
            return side_texts(pairs, joint=config.joint, side=side)

        part = {"part": "both sides" if config.joint else f"side {side}"}
        facts = lambda: facts_of_pairs(pairs, cache) | part  # noqa: E731
        kind = "words" if config.scoring.tokenized else "sentencepiece"
        return learn_tokenizer(config.pieces, kind, texts, cache=cache, facts=facts, about=pairs.origin)

    joint = make(0)
    return (joint, joint) if config.joint else (joint, make(1))


def load(config: Config, run: Run, *, fold: int | None = None) -> Data:
    """Reads all text, so that a bad line is reported now, and encodes it."""
    pairs, validation, test = config.sets.load(fold=fold)
    config.scoring.check(test, language=config.sets.target_language)
    cache = text_cache(config.run.text_cache)
    source, target = make_tokenizers(run, config, pairs, cache)
    say_fewer_pieces(run, config, source, target)
    limits = {"max_length": config.max_length, "max_ratio": config.max_ratio}
    train, report = keep_pairs(pairs, source, target, **limits, cache=cache)
    encoded = encode_pairs(validation, source, target)
    encoded, validation_report = filter_pairs(encoded, max_length=config.max_length, max_ratio=None)
    return Data(source, target, train, encoded, validation, test, (report, validation_report))


def fit_model(config: Config, source: Tokenizer, target: Tokenizer) -> Seq2SeqConfig:
    """Returns the model config with the tokenizers' sizes.

    Raises:
        InputError: the config asks for other sizes than the tokenizers have.
    """
    if not config.joint and config.model.tied_embeddings == "all":
        raise InputError(
            'model.tied_embeddings must be "target" or "none" where each side has a vocabulary of its own, '
            'got tied_embeddings="all" and joint=False.'
        )
    model = fit_sizes(config.model, source_vocab_size=source.vocab_size, target_vocab_size=target.vocab_size)
    return replace(model, max_length=max(model.max_length, config.max_length), pad_id=target.pad_id)


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then translates the test set, scores it and writes the report, for each fold."""
    if config.sets.folds is None:
        train_and_test(preset, config)
    else:
        cross_validate(preset, config)


def train_and_test(preset: str, config: Config, *, fold: int | None = None) -> Translated | None:
    """Trains one model of each seed and tests them; returns what was tested, if there is a test set."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("translation", preset, config, family="seq2seq", ends_with="updates", fold=fold) as run:
        data = load(config, run, fold=fold)
        model = fit_model(config, data.source, data.target)
        mesh = make_mesh(config.run.mesh)
        batch = fit_batches(run, config.batch, usual=PRESETS[preset][1].batch, lengths=data.train.lengths)
        batches = batch.batches(data.train, seeds=seeds)
        run.agree(
            model, source_tokenizer=data.source, target_tokenizer=data.target,
            training_data=data.train, validation_data=data.validation, test_data=data.test,
        )  # fmt: skip
        config = fit_warmup(run, config, PRESETS[preset][1], updates=config.updates)
        trained, reason = training_kernel(model, mesh, stacked=config.seeds > 1)
        learner = build(config, trained)
        placed = config.start.begin(place(learner, mesh, rules=config.rules, shapes=batches.shapes), run)
        facts = start_facts(trained, placed, batches, reason=reason)
    run.open(lambda folder: save_tokenizers(folder, data.source, data.target))

    training = Training(run, placed, batches, last=config.updates, seeds=seeds, selection=config.selection)
    translator = Translator(
        model, placed.shapes, source_tokenizer=data.source, target_tokenizer=data.target,
        search=config.search, max_source_length=config.max_length, layout=placed.layout, network=Seq2Seq,
    )  # fmt: skip

    def judge(params: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the loss, and what a line of validation holds; of several seeds, of each."""
        line = mean_loss(placed, params, batch.once(data.validation, placed.layout, buckets=batches.buckets))
        line["perplexity"] = np.exp(line["nll"])
        if config.scoring.translates(validation=len(run.memory.losses) + 1):
            now = translator.with_params(params)
            line["bleu"] = validation_bleu(
                now, data.validation_pairs, config.scoring, language=config.sets.target_language
            )
        return line["loss"], line

    if training.serves and config.seeds > 1:
        run.recall(judge(training.params)[0], seeds=seeds)
    if not training.serves:
        run.print_start(
            training_pairs=described(data.train, data.reports[0]),
            validation_pairs=described(data.validation_pairs, data.reports[1]),
            test_pairs="none" if data.test is None else described(data.test),
            **facts,
            vocabulary=f"{model.source_vocab_size:,} source, {model.target_vocab_size:,} target"
            + (", joint" if data.source is data.target else ""),
        )

    with training:
        for update in training:
            if update.due:
                training.validate(lambda: judge(training.params))
    params, made = training.end()
    if not training.serves:
        run.save_model(params, seeds=seeds if config.seeds > 1 else None)

    tested = None
    if data.test is not None:
        names = f"{preset} test", f"{config.search}, {made}"
        exam = Exam(*names, data.test, config.sets.target_language, config.scoring, config.published)
        tested = examine_translator(run, translator.with_params(params), exam, seeds=seeds)
    finish(run)
    return tested


def cross_validate(preset: str, config: Config) -> None:
    """Trains and tests a run for each fold, in `fold-1` and so on, and scores each pair by the run it was not in."""
    with begin("translation", preset, config, family="folds") as whole:
        # What is wrong with a file is told before anything is written.
        whole.agree(**config.sets.load(fold=1)._asdict())
    whole.open()
    run_folds(whole, preset, config, train_and_test)
    finish(whole)


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed."""
    sizes, origin = planned_sizes(config, "source_vocab_size", "target_vocab_size", shared=config.joint)

    def shapes(length: int) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("source", "decoder_input", "target"), config.batch.shape(length))

    def learner_of(**changes: Any) -> Learner:
        model = replace(config.model, **sizes, **changes)
        model = replace(model, max_length=max(model.max_length, config.max_length))
        return build(replace(config, seeds=1), model)

    print_plan(learner_of, f"{preset}: {origin}.", shapes, device=device, config=config)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="translation.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
