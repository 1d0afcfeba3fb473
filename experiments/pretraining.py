"""Language models of three families: learn from text without labels, score held-out text, write a report.

    python experiments/pretraining.py PRESET [--field value ...]
    python experiments/pretraining.py shakespeare-char --seeds 3
    python experiments/pretraining.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

A decoder predicts what comes next, an encoder what was masked, an encoder-decoder spans that were taken out.
`experiments/README.md` has commands and expected scores. Read from top to bottom: config, presets, `build`, loop.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax

from lmx.config import INLINE, Published, RowsConfig, RunConfig, SelectionConfig, TextVocabularyConfig
from lmx.data.corpus import encode_corpus, find_corpus
from lmx.data.mixtures import Mixture
from lmx.data.shards import TokenCorpus
from lmx.data.windows import Windows
from lmx.data.windows import facts as facts_of_rows
from lmx.definition import define
from lmx.evaluation.language import Exam, Metric, examine_language_model, measure
from lmx.experiment import begin, finish, learn_tokenizer, read_command_line, run_script, start_facts, text_cache
from lmx.fitting import fit_sizes, fit_warmup, training_kernel
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.losses import token_loss
from lmx.models import shapes
from lmx.models.decoder import DecoderConfig
from lmx.models.language import build_network, family_of, predict, training_flops, vocabulary_fields, with_room
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.nn.layers import spread_tables
from lmx.objective import Objective, ObjectiveConfig
from lmx.optimization import OptimizerConfig, make_schedule
from lmx.optimizers import make_optimizer, updated_by
from lmx.planning import planned_sizes, print_plan
from lmx.pretrained import StartConfig
from lmx.run import Run
from lmx.saved import save_tokenizer, tokenizer_of
from lmx.sharding import make_mesh
from lmx.text import Tokenizer

# ---- what can be chosen ----------------------------------------------------------------------------------------------


def _adam(**options: Any) -> OptimizerConfig:
    usual = {"schedule": "cosine", "peak": 1e-3, "warmup": 100, "beta2": 0.99, "weight_decay": 0.1, "clip_norm": 1.0}
    return OptimizerConfig(**usual | {"final_share": 0.1} | options)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a pretraining; those in records of their own are told there.

    Attributes:
        train: text to learn from: a file, a folder, `lines:FILE` with a document a line, a .jsonl or .parquet with
            `text`, `hub:ID:SPLIT`, `stdlib`; several with commas, and as `a.txt*0.7,b.jsonl*0.3` mixed by weight.
        validation: text that is validated on; None holds out the last of train.
        held_out: share of train that is held out, where there is no validation text.
        test: text that the finished model is scored on; None scores it on the validation text.
        metric: the main score.
        z_loss: weight of log(Z)^2, which keeps logits from drifting.
        updates: updates after which training ends.
        seed: seed of initial values, of the order of the text and of dropout, of the first model.
        seeds: models to train in one step, by the seeds seed, seed + 1 and so on.
    """

    train: str = "stdlib"
    validation: str | None = None
    held_out: float = 0.1
    test: str | None = None
    metric: Metric = "loss"
    pieces: Annotated[TextVocabularyConfig, INLINE] = field(default_factory=TextVocabularyConfig)
    objective: Annotated[ObjectiveConfig, INLINE] = field(default_factory=ObjectiveConfig)
    published: Annotated[Published, INLINE] = field(default_factory=Published)
    model: DecoderConfig = field(default_factory=lambda: DecoderConfig(vocab_size=0))
    start: Annotated[StartConfig, INLINE] = field(default_factory=StartConfig)
    optimization: OptimizerConfig = field(default_factory=_adam)
    z_loss: float = 0.0
    batch: Annotated[RowsConfig, INLINE] = field(default_factory=RowsConfig)
    updates: int = 2000
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=lambda: SelectionConfig(validate_every=250))
    seed: int = 1
    seeds: int = 1
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/pretraining")))

    # What may change when a run is continued, beside RunConfig and Published; the test text has no part in the training.
    free = ("test", "metric")
    absent: ClassVar = {}  # no earlier version had this task

    @property
    def max_length(self) -> int:
        """Tokens of a row."""
        return self.batch.context

    def check(self) -> None:
        """Checks what is told as one line, where tyro would print a box."""
        self.objective.check(family_of(self.model))


@dataclass(frozen=True, kw_only=True)
class MaskedPretraining(Config):
    """All choices of a pretraining that fills in masked words."""

    objective: Annotated[ObjectiveConfig, INLINE] = field(default_factory=lambda: ObjectiveConfig(objective="masked"))
    model: MaskedConfig = field(default_factory=lambda: MaskedConfig(vocab_size=0))


@dataclass(frozen=True, kw_only=True)
class SpansPretraining(Config):
    """All choices of a pretraining that writes spans which were taken out."""

    objective: Annotated[ObjectiveConfig, INLINE] = field(default_factory=lambda: ObjectiveConfig(objective="spans"))
    model: Seq2SeqConfig = field(default_factory=lambda: replace(shapes.t5_small(), **_NO_WORDS))


_NO_WORDS = {"source_vocab_size": 0, "target_vocab_size": 0}  # the tokenizer will tell
_BIG = {"dtype": "bfloat16", "remat": "full"}


def _small(**sizes: Any) -> DecoderConfig:
    """Returns nanoGPT's form of a GPT-2: no biases."""
    form = {"norm": "layer", "activation": "gelu", "positions": "learned", "tied_embeddings": True}
    return DecoderConfig(vocab_size=0, **form | {"feedforward_width": 4 * sizes["width"]} | sizes)


def _corpus(name: str, *, batch: RowsConfig, **choices: Any) -> dict[str, Any]:
    """Returns what the presets of full size share: a corpus of yours, and steps for many devices."""
    usual = {"train": "data/train.jsonl", "held_out": 0.001, "updates": 100_000, "batch": batch}
    selection = SelectionConfig(validate_every=1000)
    pieces = TextVocabularyConfig(vocabulary=Path("data/tokenizer.model"))
    return usual | {"selection": selection, "pieces": pieces, "run": RunConfig(run=Path(f"runs/{name}"))} | choices


PRESETS: dict[str, tuple[str, Config]] = {
    "stdlib-gpt": ("a decoder on the Python library's own sources: needs no file", Config(
        pieces=TextVocabularyConfig(vocab_size=4000),
        model=DecoderConfig(vocab_size=0, width=192, feedforward_width=512, num_heads=6, num_layers=4, unroll=4,
                            tied_embeddings=True),
        optimization=_adam(peak=3e-3), batch=RowsConfig(tokens_per_batch=4096), updates=1500, metric="bits_per_byte",
        run=RunConfig(run=Path("runs/stdlib-gpt")),
    )),
    "stdlib-bert": ("an encoder that fills in masked words of the same sources", MaskedPretraining(
        pieces=TextVocabularyConfig(vocab_size=4000),
        model=MaskedConfig(vocab_size=0, width=192, feedforward_width=768, num_heads=6, num_layers=4, unroll=4,
                           norm_position="pre", dropout_rate=0.0, attention_dropout_rate=0.0),
        optimization=_adam(peak=2e-3), batch=RowsConfig(context=128, tokens_per_batch=8192), updates=1500,
        run=RunConfig(run=Path("runs/stdlib-bert")),
    )),
    "stdlib-t5": ("an encoder-decoder that writes spans which were taken out of the same sources", SpansPretraining(
        pieces=TextVocabularyConfig(vocab_size=4000),
        model=replace(shapes.t5_small(), **_NO_WORDS, width=192, feedforward_width=768, num_heads=6, head_width=None,
                      num_encoder_layers=3, num_decoder_layers=3, unroll=3, dropout_rate=0.0),
        optimization=_adam(peak=2e-3), batch=RowsConfig(context=128, tokens_per_batch=8192), updates=1500,
        run=RunConfig(run=Path("runs/stdlib-t5")),
    )),
    "shakespeare-char": ("tiny Shakespeare by nanoGPT's recipe for a CPU: 1.88 nats a character", Config(
        train="data/tinyshakespeare/input.txt",
        pieces=TextVocabularyConfig(tokenizer="characters"),
        model=_small(width=128, num_heads=4, num_layers=4, unroll=4),
        batch=RowsConfig(context=64, tokens_per_batch=12 * 64),
        published=Published(1.88, "nanoGPT's README, from 20 random batches (its deviation 0.015); all text: 1.90"),
        run=RunConfig(run=Path("runs/shakespeare-char")),
    )),
    "shakespeare-char-gpu": ("tiny Shakespeare by nanoGPT's recipe for a GPU: 1.4697 nats a character", Config(
        train="data/tinyshakespeare/input.txt",
        pieces=TextVocabularyConfig(tokenizer="characters"),
        model=_small(width=384, num_heads=6, num_layers=6, unroll=6, dropout_rate=0.2, dtype="bfloat16"),
        batch=RowsConfig(tokens_per_batch=64 * 256), updates=5000,
        selection=SelectionConfig(validate_every=250, average_of="best"),
        published=Published(1.4697, "nanoGPT's README: the best of its validations, each from 200 random batches"),
        run=RunConfig(run=Path("runs/shakespeare-char-gpu")),
    )),
    "names": ("first names by letters, as makemore's Transformer: 1.92 nats a letter", Config(
        train="lines:data/names/train.txt", held_out=1000 / 31033, test="lines:data/names/test.txt",
        pieces=TextVocabularyConfig(tokenizer="characters"), objective=ObjectiveConfig(from_start=True),
        model=_small(width=64, num_heads=4, num_layers=4, unroll=4, dropout_rate=0.1, use_bias=True),
        optimization=_adam(peak=3e-3), batch=RowsConfig(context=64, tokens_per_batch=2048, packing="documents"),
        updates=4000, selection=SelectionConfig(validate_every=250, average_of="best"),
        published=Published(1.92, "makemore's README: about 1.92 on 1,000 names that were held out at random"),
        run=RunConfig(run=Path("runs/names")),
    )),
    "wikitext2": ("WikiText-2 by words: the LSTM of PyTorch's examples has a test perplexity of 110.4 to 87.2", Config(
        train="lines:data/wikitext2/wiki.train.tokens.gz", validation="lines:data/wikitext2/wiki.valid.tokens.gz",
        test="lines:data/wikitext2/wiki.test.tokens.gz", metric="perplexity",
        pieces=TextVocabularyConfig(tokenizer="words"),
        model=DecoderConfig(vocab_size=0, width=256, feedforward_width=768, num_heads=4, num_layers=4, unroll=4,
                            tied_embeddings=True, dropout_rate=0.3),
        optimization=_adam(peak=2e-3, beta2=0.98), batch=RowsConfig(context=128, tokens_per_batch=2048), updates=10_000,
        selection=SelectionConfig(validate_every=500, average_of="best"),
        published=Published(110.4, "pytorch/examples word_language_model: LSTM, 200 wide, tied, 6 epochs"),
        run=RunConfig(run=Path("runs/wikitext2")),
    )),
    "gpt2-124m": ("GPT-2's shape and nanoGPT's recipe, on a corpus of yours", Config(**_corpus(
        "gpt2-124m", batch=RowsConfig(context=1024, tokens_per_batch=64 * 1024, accumulation=8),
        model=replace(shapes.gpt2_124m(), dtype="bfloat16"), updates=600_000,
        optimization=_adam(peak=6e-4, warmup=2000, beta2=0.95),
        published=Published(2.85, "nanoGPT's README: validation loss on OpenWebText after 600,000 updates"),
    ))),
    **{name: (f"Llama 3's shape of {size}, on a corpus of yours", Config(**_corpus(
        name, batch=RowsConfig(context=8192, tokens_per_device=8192, accumulation=4), z_loss=1e-4,
        model=replace(shape(), **_BIG), optimization=_adam(peak=peak, warmup=2000, beta2=0.95),
    ))) for name, size, shape, peak in (
        ("llama-1b", "1B", shapes.llama_1b, 4e-4),
        ("llama-8b", "8B", shapes.llama_8b, 3e-4),
        ("llama-70b", "70B", shapes.llama_70b, 1.5e-4),
    )},
    "bert-base": ("BERT base, whole words, without its task of next sentences", MaskedPretraining(**_corpus(
        "bert-base", batch=RowsConfig(context=512, tokens_per_batch=256 * 512), updates=1_000_000,
        model=replace(shapes.bert_base(), dtype="bfloat16", norm_position="pre"),
        objective=ObjectiveConfig(objective="masked", whole_words=True),
        optimization=_adam(schedule="linear", peak=1e-4, warmup=10_000, beta2=0.999, weight_decay=0.01, final_share=0.0),
    ))),
    "t5-base": ("T5 base: spans of 3 tokens, 15% of the text", SpansPretraining(**_corpus(
        "t5-base", batch=RowsConfig(context=512, tokens_per_batch=128 * 512), updates=524_288,
        model=replace(shapes.t5_base(), dtype="bfloat16"),
        optimization=OptimizerConfig(optimizer="adafactor", peak=0.01, warmup=10_000),
    ))),
}  # fmt: skip


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(config: Config, model: Any) -> Learner:
    """Returns model, loss and optimizer of a config whose vocabulary is known; schedules end with the updates."""
    definition = config.start.adapt(define(lambda rngs: build_network(model, rngs)))
    is_packed = config.batch.packing == "documents"
    lengths = config.objective.sizes(context=config.batch.context)

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = spread_tables(definition.merge(params))
        states, labels = predict(network, batch, key=key, is_packed=is_packed)
        return token_loss(states, network.output(), labels, labels != model.pad_id, z_loss=config.z_loss)._asdict()

    schedule = make_schedule(config.optimization, total=config.updates, width=model.width)
    return Learner(
        model=definition, loss=loss, schedule=schedule, gradient_sum=config.batch.gradient_sum,
        optimizer=make_optimizer(config.optimization, schedule, model=definition),
        updated_by=updated_by(config.optimization, definition),
        flops=lambda shape: training_flops(model, rows=shape[0] * shape[1], lengths=lengths),
        num_seeds=config.seeds if config.seeds > 1 else None, dtype=model.dtype,
        average_decay=config.optimization.average_decay, keeps_best=config.selection.keeps_best,
    )  # fmt: skip


# ---- data ------------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Text to learn from, to validate on and to be scored on, and what reads it."""

    tokenizer: Tokenizer
    objective: Objective
    train: TokenCorpus | Mixture
    validation: TokenCorpus | Mixture
    test: TokenCorpus | Mixture | None

    def windows(self, corpus: TokenCorpus | Mixture, config: Config, *, rows: int, **options: Any) -> Windows:
        """Returns rows of a corpus for the objective."""
        make, length, ahead = self.objective[:3]
        return Windows(
            corpus, length=length, ahead=ahead, make=make, rows=rows, packing=config.batch.packing, **options
        )


def load(config: Config, run: Run) -> Data:
    """Finds all text, and its tokens where they have been made before; a continued run has its tokenizer."""
    cache, pieces = text_cache(config.run.text_cache), config.pieces
    train, validation = find_corpus(config.train), None
    if config.validation is None:
        train, validation = train.split(1 - config.held_out)
    tokenizer = tokenizer_of(run.directory, config.start.init_from) or learn_tokenizer(
        pieces, pieces.kind, lambda: (line for text in train.texts() for line in text.splitlines(keepends=True)),
        cache=cache, facts=lambda: train.facts(cache), about=train.origin, **pieces.options(),
    )  # fmt: skip
    corpora = [train, validation or find_corpus(str(config.validation)), config.test and find_corpus(config.test)]
    encoded = [files and encode_corpus(files, tokenizer, cache=cache) for files in corpora]
    return Data(tokenizer, config.objective.of(tokenizer, context=config.batch.context), *encoded)


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then scores the held-out text and writes the report."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("pretraining", preset, config, family=family_of(config.model), ends_with="updates") as run:
        data = load(config, run)
        sizes = dict.fromkeys(vocabulary_fields(config.model), data.objective.vocab_size)
        model = fit_sizes(config.model, **sizes)
        model = with_room(model, pad_id=data.tokenizer.pad_id, length=config.batch.context)
        mesh = make_mesh(config.run.mesh)
        batches = data.windows(
            data.train, config, rows=config.batch.rows, accumulation=config.batch.accumulation, seeds=seeds
        )
        held_out = data.windows(data.validation, config, rows=config.batch.rows)
        run.agree(
            model, tokenizer=data.tokenizer,
            training_data=data.train, validation_data=data.validation, test_data=data.test,
        )  # fmt: skip
        run.decided |= data.objective.facts
        config = fit_warmup(run, config, PRESETS[preset][1], updates=config.updates)
        trained, reason = training_kernel(model, mesh, stacked=config.seeds > 1)
        placed = config.start.begin(place(build(config, trained), mesh, shapes=batches.shapes), run)
        facts = start_facts(trained, placed, batches, reason=reason) | facts_of_rows(batches)
    run.open(lambda folder: save_tokenizer(folder, data.tokenizer))

    training = Training(run, placed, batches, last=config.updates, seeds=seeds, selection=config.selection)
    predicts_all = config.objective.objective == "causal"

    def judge() -> tuple[Any, dict[str, Any]]:
        return measure(placed, training.params, held_out, predicts_all=predicts_all)

    if not training.serves:
        run.print_start(
            training_text=data.train.described(), validation_text=data.validation.described(),
            vocabulary=f"{data.objective.vocab_size:,}", **facts,
        )  # fmt: skip
    elif config.seeds > 1:
        run.recall(judge()[0], seeds=seeds)
    with training:
        for update in training:
            if update.due:
                training.validate(judge)
    params, made = training.end()
    if not training.serves:
        run.save_model(params, seeds=seeds if config.seeds > 1 else None)

    name, text = (f"{preset} validation", held_out)
    if data.test is not None:
        name, text = f"{preset} test", data.windows(data.test, config, rows=config.batch.rows)
    exam = Exam(name, text, config.metric, predicts_all, made, config.published)
    examine_language_model(run, placed, params, exam, seeds=seeds, tokenizer=data.tokenizer)
    finish(run)


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed."""
    sizes, origin = planned_sizes(config, *vocabulary_fields(config.model))
    lengths = config.objective.sizes(context=config.batch.context)

    def shapes_of(length: int) -> dict[str, tuple[int, ...]]:
        rows = (config.batch.accumulation, config.batch.rows)
        return {name: (*rows, lengths["target" in name or "decoder" in name]) for name in config.objective.arrays}

    def learner_of(**changes: Any) -> Learner:
        model = with_room(replace(config.model, **sizes, **changes), pad_id=0, length=config.max_length)
        return build(replace(config, seeds=1), model)

    print_plan(learner_of, f"{preset}: {origin}.", shapes_of, device=device, config=config, usual=config.max_length)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="pretraining.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
