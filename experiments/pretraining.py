"""Language models of three families: learn from text without labels, score held-out text, write a report.

    python experiments/pretraining.py PRESET [--field value ...]
    python experiments/pretraining.py shakespeare-char --seeds 3
    python experiments/pretraining.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

A decoder predicts what comes next, an encoder what was masked, an encoder-decoder spans that were taken out.
`experiments/README.md` has commands and expected scores. Read from top to bottom: config, presets, `build`, loop.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax

from lmx.config import INLINE, Published, RowsConfig, RunConfig, SelectionConfig
from lmx.data.text_sets import TextSetsConfig
from lmx.data.windows import Windows
from lmx.definition import define
from lmx.evaluation.language import Exam, Metric, SampleWriter, examine_language_model, measure
from lmx.experiment import begin, finish, read_command_line, run_script, start_facts, tokenizer_of_texts
from lmx.fitting import fit_warmup, training_kernel
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.losses import token_loss
from lmx.models import shapes
from lmx.models.decoder import DecoderConfig
from lmx.models.language import build_network, family_of, fit_vocabulary, predict, training_flops, vocabulary_fields
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.objective import ObjectiveConfig
from lmx.optimization import OptimizerConfig, check_weight, make_schedule
from lmx.optimizers import make_optimizer, updated_by
from lmx.pieces import TextVocabularyConfig
from lmx.planning import planned_sizes, print_plan
from lmx.pretrained import StartConfig
from lmx.sampling import Sampling
from lmx.saved import save_tokenizer
from lmx.sharding.mesh import make_mesh
from lmx.sharding.rules import DEFAULT_RULES

# ---- what can be chosen ----------------------------------------------------------------------------------------------


def _adam(**options: Any) -> OptimizerConfig:
    usual = {"schedule": "cosine", "peak": 1e-3, "warmup": 100, "beta2": 0.99, "weight_decay": 0.1, "clip_norm": 1.0}
    choices: dict[str, Any] = usual | {"final_share": 0.1} | options
    return OptimizerConfig(**choices)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of a pretraining; nested records describe their own fields.

    Attributes:
        metric: the main score.
        z_loss: weight of log(Z)^2, which keeps logits from drifting.
        updates: updates after which training ends.
        prompts: texts that a causal decoder continues at each validation; an empty list writes nothing.
        seed: seed of the first model: of its initial values, its order of the text and its dropout.
        seeds: number of models to train in one step, with the seeds seed, seed + 1 and so on.
    """

    texts: Annotated[TextSetsConfig, INLINE] = field(default_factory=TextSetsConfig)
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
    prompts: tuple[str, ...] = ("\n",)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=200))
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=lambda: SelectionConfig(validate_every=250))
    seed: int = 1
    seeds: int = 1
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/pretraining")))

    rules: ClassVar = DEFAULT_RULES  # which axes the mesh splits
    absent: ClassVar = {"stride": None}  # in earlier versions

    @property
    def free(self) -> tuple[str, ...]:
        """What may change when a run is continued, beside RunConfig and Published: it has no part in the training."""
        return ("test", "metric", "prompts", "sampling", *self.objective.unread)

    @property
    def max_length(self) -> int:
        """Tokens of a row."""
        return self.batch.context

    def check(self) -> None:
        """Checks values here, for errors of one line, where tyro would print a box."""
        self.objective.check(family_of(self.model), packing=self.batch.packing)
        self.batch.check_stride(objective=self.objective.objective)
        check_weight("z_loss", self.z_loss)


@dataclass(frozen=True, kw_only=True)
class MaskedPretraining(Config):
    """All choices of a pretraining that fills in masked words."""

    objective: Annotated[ObjectiveConfig, INLINE] = field(default_factory=lambda: ObjectiveConfig(objective="masked"))
    model: MaskedConfig = field(default_factory=lambda: MaskedConfig(vocab_size=0))


@dataclass(frozen=True, kw_only=True)
class SpansPretraining(Config):
    """All choices of a pretraining that writes spans which were taken out."""

    objective: Annotated[ObjectiveConfig, INLINE] = field(default_factory=lambda: ObjectiveConfig(objective="spans"))
    model: Seq2SeqConfig = field(default_factory=shapes.t5_small)


_YOURS = partial(  # a corpus of yours, and steps for many devices
    dict, texts=TextSetsConfig(train="data/train.jsonl", held_out=0.001), updates=100_000,
    pieces=TextVocabularyConfig(vocabulary=Path("data/bpe.model")), selection=SelectionConfig(validate_every=1000),
)  # fmt: skip
_LLAMA = partial(_YOURS, batch=RowsConfig(context=8192, tokens_per_device=8192, accumulation=4), z_loss=1e-4)
_STDLIB = partial(dict, pieces=TextVocabularyConfig(vocab_size=4000), updates=1500)
_LETTERS = partial(dict, pieces=TextVocabularyConfig(tokenizer="characters"))
_SHAKESPEARE = partial(_LETTERS, texts=TextSetsConfig(train="data/tinyshakespeare/input.txt"))
_WORDS = partial(dict, pieces=TextVocabularyConfig(tokenizer="words"), metric="perplexity")
_WIKI = [f"lines:data/wikitext2/wiki.{split}.tokens.gz" for split in ("train", "valid", "test")]
_BEST = SelectionConfig(validate_every=250, average_of="best")

_CHOICES: dict[str, tuple[str, type[Config], dict[str, Any]]] = {
    "stdlib-gpt": ("a decoder on the Python library's own sources: needs no file", Config, _STDLIB(
        model=DecoderConfig(vocab_size=0, width=192, feedforward_width=512, num_heads=6, num_layers=4, unroll=4,
                            tied_embeddings=True),
        optimization=_adam(peak=3e-3), batch=RowsConfig(tokens_per_batch=4096), metric="bits_per_byte",
    )),
    "stdlib-bert": ("an encoder that fills in masked words of the same sources", MaskedPretraining, _STDLIB(
        model=MaskedConfig(vocab_size=0, width=192, feedforward_width=768, num_heads=6, num_layers=4, unroll=4,
                           max_length=128, norm_position="pre", dropout_rate=0.0, attention_dropout_rate=0.0),
        optimization=_adam(peak=2e-3), batch=RowsConfig(context=128, tokens_per_batch=8192),
    )),
    "stdlib-t5": ("an encoder-decoder that writes spans which were taken out of them", SpansPretraining, _STDLIB(
        model=replace(shapes.t5_small(), source_vocab_size=0, target_vocab_size=0, width=192, feedforward_width=768,
                      num_heads=6, head_width=None, num_encoder_layers=3, num_decoder_layers=3, unroll=3),
        optimization=_adam(peak=2e-3), batch=RowsConfig(context=128, tokens_per_batch=8192),
    )),
    "shakespeare-char": ("tiny Shakespeare by nanoGPT's recipe for a CPU: 1.88 nats", Config, _SHAKESPEARE(
        model=shapes.nano_gpt(64, width=128, num_layers=4), batch=RowsConfig(context=64, tokens_per_batch=12 * 64),
        published=Published(1.88, "nanoGPT's README, from 20 random batches (its deviation 0.015); all text: 1.90"),
    )),
    "shakespeare-char-gpu": ("the same by its recipe for a GPU: 1.4697 nats", Config, _SHAKESPEARE(
        model=replace(shapes.nano_gpt(256, width=384, num_layers=6), dropout_rate=0.2, dtype="bfloat16"),
        batch=RowsConfig(tokens_per_batch=64 * 256), updates=5000, selection=_BEST,
        published=Published(1.4697, "nanoGPT's README: the best of its validations, each from 200 random batches"),
    )),
    "names": ("first names by letters, as makemore's Transformer: 1.92 nats", Config, _LETTERS(
        texts=TextSetsConfig(train="lines:data/names/train.txt", held_out=0.03, test="lines:data/names/test.txt"),
        objective=ObjectiveConfig(from_start=True), prompts=("", "", "", "A", "B"),
        model=replace(shapes.nano_gpt(64, width=64, num_layers=4), dropout_rate=0.2, use_bias=True),
        optimization=_adam(peak=3e-3), batch=RowsConfig(context=64, tokens_per_batch=2048, packing="documents"),
        updates=6000, selection=_BEST,
        published=Published(1.92, "makemore's README: about 1.92 on 1,000 names that were held out at random"),
    )),
    "wikitext2": ("WikiText-2 by words: test perplexity, an LSTM has 110.4 to 87.2", Config, _WORDS(
        texts=TextSetsConfig(train=_WIKI[0], validation=_WIKI[1], test=_WIKI[2]),
        model=DecoderConfig(vocab_size=0, width=192, feedforward_width=512, num_heads=6, num_layers=4, unroll=4,
                            tied_embeddings=True, dropout_rate=0.2),
        optimization=_adam(optimizer="muon", peak=2e-3, beta2=0.98), updates=6000,
        batch=RowsConfig(context=128, tokens_per_batch=2048, stride=64), selection=replace(_BEST, validate_every=1000),
        published=Published(110.4, "pytorch/examples word_language_model: LSTM, 200 wide, tied, 6 epochs"),
    )),
    "gpt2-124m": ("GPT-2's shape by nanoGPT's recipe: 2.85 nats on OpenWebText", Config, _YOURS(
        batch=RowsConfig(context=1024, tokens_per_batch=64 * 1024, accumulation=8), updates=600_000,
        model=replace(shapes.gpt2_124m(), dtype="bfloat16"), optimization=_adam(peak=6e-4, warmup=2000, beta2=0.95),
        published=Published(2.85, "nanoGPT's README: validation loss on OpenWebText after 600,000 updates"),
    )),
    **{name: (f"Llama 3's shape of {name[6:].upper()}", Config, _LLAMA(
        model=replace(shapes.SHAPES[name](), dtype="bfloat16", remat="full"),
        optimization=_adam(peak=peak, warmup=2000, beta2=0.95),
    )) for name, peak in (("llama-1b", 4e-4), ("llama-8b", 3e-4), ("llama-70b", 1.5e-4))},
    "bert-base": ("BERT base by whole words, without its task of next sentences", MaskedPretraining, _YOURS(
        batch=RowsConfig(context=512, tokens_per_batch=256 * 512), updates=1_000_000,
        model=replace(shapes.bert_base(), dtype="bfloat16"),
        objective=ObjectiveConfig(objective="masked", whole_words=True), metric="perplexity",
        optimization=_adam(schedule="linear", peak=1e-4, warmup=10000, beta2=0.999, weight_decay=0.01, final_share=0.0),
        published=Published(3.99, "Devlin et al. 2019, table 6: perplexity of masked words, held out"),
    )),
    "t5-base": ("T5 base: spans of 3 tokens, 15% of the text", SpansPretraining, _YOURS(
        batch=RowsConfig(context=512, tokens_per_batch=128 * 512), updates=524_288,
        model=replace(shapes.t5_base(), dtype="bfloat16"),
        optimization=OptimizerConfig(optimizer="adafactor", peak=0.01, warmup=10_000),
    )),
}  # fmt: skip
PRESETS = {
    name: (about, kind(run=RunConfig(run=Path("runs") / name), **choices))
    for name, (about, kind, choices) in _CHOICES.items()
}


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(config: Config, model: Any) -> Learner:
    """Returns model, loss and optimizer of a config whose vocabulary is known; schedules end with the updates."""
    definition = config.start.adapt(define(lambda rngs: build_network(model, rngs)))
    is_packed = config.batch.packing == "documents"
    lengths = config.objective.sizes(context=config.batch.context)

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        states, labels, counts = predict(network := definition.merge(params), batch, key=key, is_packed=is_packed)
        return token_loss(states, network.output(), labels, counts, z_loss=config.z_loss)._asdict()

    schedule = make_schedule(config.optimization, total=config.updates, width=model.width)
    return Learner(
        model=definition, loss=loss, schedule=schedule, gradient_sum=config.batch.gradient_sum,
        optimizer=make_optimizer(config.optimization, schedule, model=definition),
        updated_by=updated_by(config.optimization, definition),
        flops=lambda shape: training_flops(model, rows=shape[0] * shape[1], lengths=lengths),
        num_seeds=config.seeds if config.seeds > 1 else None, dtype=model.dtype,
        average_decay=config.optimization.average_decay, keeps_best=config.selection.keeps_best,
    )  # fmt: skip


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then scores the held-out text and writes the report."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("pretraining", preset, config, family=family_of(config.model), ends_with="updates") as run:
        data = config.texts.load(*tokenizer_of_texts(run, config))
        objective = config.objective.of(data.tokenizer, context=config.batch.context)
        ids = {"vocab_size": objective.vocab_size, "pad_id": data.tokenizer.pad_id}
        model = fit_vocabulary(config.model, **ids, length=config.batch.context)
        mesh = make_mesh(config.run.mesh)
        rows = {**objective.rows, "rows": config.batch.rows, "packing": config.batch.packing}
        batches = Windows(data.train, accumulation=config.batch.accumulation, seeds=seeds, **rows)
        held_out = Windows(data.validation, **rows).overlapping(config.batch.stride)
        test = data.test and Windows(data.test, **rows).overlapping(config.batch.stride)
        texts = {"training_data": data.train, "validation_data": data.validation, "test_data": data.test}
        run.agree(model, tokenizer=data.tokenizer, **texts)
        run.decided |= objective.facts
        config = fit_warmup(run, config, PRESETS[preset][1], updates=config.updates)
        trained, reason = training_kernel(model, mesh, stacked=config.seeds > 1)
        learner = build(config, trained)
        placed = config.start.begin(place(learner, mesh, rules=config.rules, shapes=batches.shapes), run)
        facts = start_facts(trained, placed, batches, reason=reason)
    run.open(lambda folder: save_tokenizer(folder, data.tokenizer))

    training = Training(run, placed, batches, last=config.updates, seeds=seeds, selection=config.selection)
    prompts = config.prompts if (predicts_all := config.objective.objective == "causal") else ()
    samples = SampleWriter(run, placed, prompts=prompts, sampling=config.sampling, tokenizer=data.tokenizer)

    def judge() -> tuple[Any, dict[str, Any]]:
        samples.write(training.params, state=training.state)
        return measure(placed, training.params, held_out, predicts_all=predicts_all)

    if not training.serves:
        texts = {"training_text": data.train.described(), "validation_text": data.validation.described()}
        run.print_start(**texts, vocabulary=f"{objective.vocab_size:,}", **facts)
    elif config.seeds > 1:
        run.recall(judge()[0], seeds=seeds)
    with training:
        for update in training:
            if update.due:
                training.validate(judge)
    params, made = training.end()
    if not training.serves:
        run.save_model(params, seeds=seeds if config.seeds > 1 else None)

    name = f"{preset} {'test' if test else 'validation'}"
    exam = Exam(name, test or held_out, config.metric, predicts_all, made, config.published)
    examine_language_model(run, placed, params, exam, seeds=seeds, tokenizer=data.tokenizer)
    finish(run)


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no text is read, what it would tell is assumed."""
    sizes, origin = planned_sizes(config, *vocabulary_fields(config.model), shared=True)
    size = max(sizes.values())

    def shapes_of(length: int) -> dict[str, tuple[int, ...]]:
        return config.objective.shapes(config.batch.accumulation, config.batch.rows, length)

    def learner_of(**changes: Any) -> Learner:
        model = fit_vocabulary(replace(config.model, **changes), vocab_size=size, length=config.max_length)
        return build(replace(config, seeds=1), model)

    print_plan(learner_of, f"{preset}: {origin}.", shapes_of, device=device, config=config, usual=config.max_length)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="pretraining.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
