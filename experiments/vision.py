"""Image classification with a vision Transformer: train, label, score, report.

    python experiments/vision.py PRESET [--field value ...]
    python experiments/vision.py own --train photos/train --test photos/test --resize 64 --seeds 5
    python experiments/vision.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

`experiments/README.md` has commands and expected scores. Read from top to bottom: config, presets, `build`, loop.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax

from lmx.augmentation import AugmentationConfig, augment
from lmx.config import INLINE, BatchConfig, Published, RunConfig, SelectionConfig
from lmx.data.image_files import ImageReading
from lmx.data.image_sets import ImageSetsConfig
from lmx.data.images import described_images
from lmx.definition import define
from lmx.evaluation.classification import Exam, ExamConfig, examine_classifier, judge, label_new, run_folds
from lmx.experiment import begin, finish, read_command_line, run_script, start_facts
from lmx.fitting import fit_batches, fit_sizes, fit_warmup, training_kernel
from lmx.hosts import fingerprint
from lmx.image_classifier import ImageClassifier
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.losses import label_loss
from lmx.models.vision import VisionConfig, VisionTransformer, training_flops
from lmx.optimization import OptimizerConfig, check_share, make_schedule
from lmx.optimizers import make_optimizer, updated_by
from lmx.planning import print_plan
from lmx.pretrained import StartConfig
from lmx.scoring.classification import load_scikit_learn
from lmx.scoring.tested import Tested
from lmx.sharding.mesh import make_mesh
from lmx.sharding.rules import DEFAULT_RULES

# ---- what can be chosen ----------------------------------------------------------------------------------------------


def _adam(**options: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"schedule": "cosine", "peak": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0} | options)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of an image classification; nested records describe their own fields.

    Attributes:
        augment: how images of training are changed at each step.
        label_smoothing: probability that is taken from the right class and spread evenly over all.
        epochs: passes over the training images.
        seed: seed of the first model.
        seeds: number of models to train in one step, with the seeds seed, seed + 1 and so on.
    """

    sets: Annotated[ImageSetsConfig, INLINE] = field(default_factory=ImageSetsConfig)
    augment: AugmentationConfig = field(default_factory=AugmentationConfig)
    published: Annotated[Published, INLINE] = field(default_factory=Published)
    model: VisionConfig = field(default_factory=VisionConfig)
    start: Annotated[StartConfig, INLINE] = field(default_factory=StartConfig)
    optimization: OptimizerConfig = field(default_factory=lambda: _adam(warmup=100))
    label_smoothing: float = 0.1
    batch: Annotated[BatchConfig, INLINE] = field(default_factory=lambda: BatchConfig(tokens_per_batch=4096))
    epochs: int = 30
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=lambda: SelectionConfig(average_of="best"))
    seed: int = 1
    seeds: int = 1
    exam: Annotated[ExamConfig, INLINE] = field(default_factory=ExamConfig)
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/vision")))

    # What may change when a run is continued, beside RunConfig and Published; the test set has no part in the training.
    free = ("predict", "explain", "attention", "baseline", "test")
    rules: ClassVar = DEFAULT_RULES  # which axes the mesh splits
    absent: ClassVar = {}  # no earlier version had this task

    @property
    def max_length(self) -> int:
        """Tokens of a row, as far as the size of the images is known."""
        return self.model.num_tokens if self.model.image_height else self.batch.length_multiple

    def check(self) -> None:
        """Checks values here, for errors of one line, where tyro would print a box."""
        self.augment.check()
        check_share("label_smoothing", self.label_smoothing)
        self.sets.check()
        self.exam.check(unit="image")


def _sizes(height: int, across: int, channels: int, **sizes: Any) -> VisionConfig:
    return VisionConfig(image_height=height, image_width=across, image_channels=channels, num_outputs=10, **sizes)


def _idx(name: str, **reading: Any) -> ImageSetsConfig:
    train, test = (f"data/{name}/{split}-images-idx3-ubyte.gz" for split in ("train", "t10k"))
    return ImageSetsConfig(train=train, test=test, reading=ImageReading(**reading))


_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_MEDIUM = {"width": 128, "feedforward_width": 512, "num_layers": 6, "dropout_rate": 0.1}

PRESETS: dict[str, tuple[str, Config]] = {
    "digits": ("the 1,797 handwritten digits of scikit-learn, its last fifth the test; needs no file", Config(
        model=_sizes(8, 8, 1, width=96, feedforward_width=192, num_layers=3, dropout_rate=0.1, unroll=3),
        augment=AugmentationConfig(crop=1, turn=10.0, stretch=0.1), optimization=_adam(peak=2e-3, warmup=100),
        batch=BatchConfig(tokens_per_batch=256), epochs=100, exam=ExamConfig(select="loss"),
        selection=SelectionConfig(average_of="best", validate_every=200), run=RunConfig(run=Path("runs/digits")),
    )),
    "mnist": ("MNIST from its IDX files", Config(
        sets=_idx("mnist"), model=_sizes(28, 28, 1, dropout_rate=0.1),
        augment=AugmentationConfig(crop=2, turn=10.0, stretch=0.1), run=RunConfig(run=Path("runs/mnist")),
    )),
    "fashion-mnist": ("Fashion-MNIST from its IDX files: ten kinds of clothes", Config(
        sets=_idx("fashion-mnist", label_names=_FASHION), model=_sizes(28, 28, 1, **_MEDIUM),
        augment=AugmentationConfig(crop=2, flip=True, erase=0.25), run=RunConfig(run=Path("runs/fashion-mnist")),
    )),
    "cifar10": ("CIFAR-10 from the hub, from scratch", Config(
        sets=ImageSetsConfig(train="hub:uoft-cs/cifar10:train", test="hub:uoft-cs/cifar10:test"),
        model=_sizes(32, 32, 3, **_MEDIUM | {"width": 192, "feedforward_width": 768}),
        augment=AugmentationConfig(crop=4, flip=True, erase=0.25),
        optimization=_adam(warmup=1000), epochs=100, run=RunConfig(run=Path("runs/cifar10")),
    )),
    "own": ("your own images: --train train, a folder with a folder for each class, and --test test", Config(
        sets=ImageSetsConfig(train="train"), model=VisionConfig(patch=8, **_MEDIUM), augment=AugmentationConfig(crop=4),
        selection=SelectionConfig(average_of="best", patience=10), run=RunConfig(run=Path("runs/own-images")),
    )),
}  # fmt: skip


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(config: Config, model: VisionConfig, *, updates: int) -> Learner:
    """Returns model, loss and optimizer of a config whose images are known; schedules end with the updates."""
    definition = config.start.adapt(define(lambda rngs: VisionTransformer(model, rngs=rngs)))
    options = config.optimization

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        image_key, model_key = (None, None) if key is None else jax.random.split(key)
        outputs, _ = definition.merge(params)(augment(batch["pixels"], config.augment, image_key), key=model_key)
        how = {"kind": "single", "label_smoothing": config.label_smoothing}
        return label_loss(outputs, batch["labels"], batch["weights"], **how)._asdict()

    schedule = make_schedule(options, total=updates, width=model.width)
    return Learner(
        model=definition, loss=loss, schedule=schedule, num_seeds=config.seeds, gradient_sum=config.batch.gradient_sum,
        optimizer=make_optimizer(options, schedule, model=definition), updated_by=updated_by(options, definition),
        flops=lambda shape: (whole := training_flops(model, rows=shape[0] * shape[1]), whole),  # no causal half
        dtype=model.dtype, average_decay=options.average_decay, keeps_best=config.selection.keeps_best,
    )  # fmt: skip


# ---- the experiment --------------------------------------------------------------------------------------------------


def main(preset: str, config: Config) -> None:
    """Trains, or goes on training, then labels the test set, scores it and writes the report, for each fold."""
    load_scikit_learn()
    if config.sets.folds is None:
        train_and_test(preset, config)
        return
    with begin("vision", preset, config, family="folds") as whole:
        data = config.sets.load(fold=1)
        whole.agree(labels=list(data.labels.names), training_data=fingerprint(data.train.pixels))
    whole.open(data.labels.save)
    run_folds(whole, preset, config, train_and_test)
    finish(whole)


def train_and_test(preset: str, config: Config, *, fold: int | None = None) -> Tested | None:
    """Trains one model of each seed and tests them; returns what was tested, if there is a test set."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("vision", preset, config, family="vision", ends_with="epochs", fold=fold) as run:
        data = config.sets.load(fold=fold)
        config.sets.say_fewer(data, report=run.console.print)
        model = fit_sizes(config.model, **data.sizes)
        rows = data.encode(length=model.num_tokens, multiple=config.batch.length_multiple)
        mesh = make_mesh(config.run.mesh)
        batch = fit_batches(run, config.batch, usual=PRESETS[preset][1].batch, lengths=rows.train.lengths)
        batches = batch.batches(rows.train, seeds=seeds, stacked=True)
        made_of = {"training_data": rows.train, "development_data": rows.dev, "test_data": rows.test}
        run.agree(model, labels=list(data.labels.names), **made_of)
        run.decided["pixel_max"] = data.train.pixel_max  # images that are labelled later are on the same scale
        updates = config.batch.updates_of(batches, epochs=config.epochs)
        config = fit_warmup(run, config, PRESETS[preset][1], updates=updates)
        trained, reason = training_kernel(model, mesh, stacked=True)
        learner = build(config, trained, updates=updates)
        placed = config.start.begin(place(learner, mesh, rules=config.rules, shapes=batches.shapes), run)
        facts = start_facts(trained, placed, batches, reason=reason)
    run.open(data.labels.save)

    training = Training(run, placed, batches, last=updates, seeds=seeds, selection=config.selection)
    classifier = ImageClassifier(
        model, placed.shapes, labels=data.labels, batch=config.batch, layout=placed.layout, network=VisionTransformer
    )
    if training.serves:
        run.recall(judge(classifier.with_params(training.params), rows.dev, config.exam)[0], seeds=seeds)
    else:
        run.print_start(**data.facts(), seeds=", ".join(map(str, seeds)), **facts)
    with training:
        for update in training:
            if update.due:
                training.validate(lambda: judge(classifier.with_params(training.params), rows.dev, config.exam))
    params, made = training.end()
    classifier = classifier.with_params(params)
    if not training.serves:
        run.save_model(params, seeds=seeds)

    tested = None
    if data.test is not None:
        known = (config.exam, config.published, None if config.selection.keeps_best else made)
        exam = Exam(f"{preset} test", data.test, rows.test, data.train, *known)
        tested = examine_classifier(run, classifier, exam, seeds=seeds)
    if data.to_label is not None:
        label_new(run, classifier, rows.to_label, about=described_images(data.to_label))
    finish(run)
    return tested


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no image is read, what it would tell is assumed."""
    model = config.model
    if not model.image_height:
        model = replace(model, image_height=64, image_width=64, image_channels=3, num_outputs=model.num_outputs or 16)
    model = replace(model, kernel="xla")
    size = model.image_height, model.image_width, model.image_channels
    rows = config.batch.shape(model.num_tokens)[:2]
    shapes = {"pixels": (*rows, *size), "labels": rows, "weights": rows}

    def learner_of(**changes: Any) -> Learner:
        return build(config, replace(model, **changes), updates=10 * config.optimization.warmup)

    about = f"{preset}: images of {size[0]} x {size[1]}, {size[2]} channels, {model.num_outputs} classes."
    config = replace(config, model=model)
    print_plan(learner_of, about, lambda length: shapes, device=device, config=config, usual=config.max_length)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="vision.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
