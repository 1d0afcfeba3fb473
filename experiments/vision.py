"""Image classification with a vision Transformer: train, label, score, report.

    python experiments/vision.py PRESET [--field value ...]
    python experiments/vision.py own --train photos/train --test photos/test --resize 64 --seeds 5
    python experiments/vision.py PRESET --plan DEVICE [--devices N] [--mesh.fsdp 8 ...]

PRESETS says what each preset reproduces; `experiments/README.md` has the commands, times and expected scores. Read from
top to bottom: the config, the presets, `build` (pure: model, loss, optimizer), and `train_and_test`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np

from lmx.augmentation import AugmentationConfig, augment
from lmx.config import INLINE, BatchConfig, Published, RunConfig, SelectionConfig
from lmx.data.image_files import ImageReading
from lmx.data.image_sets import ImageSetsConfig
from lmx.data.images import described_images
from lmx.definition import define
from lmx.errors import InputError
from lmx.evaluation.classification import (
    Exam,
    ExamConfig,
    each_fold,
    examine_classifier,
    examine_folds,
    label_unlabelled,
)
from lmx.experiment import begin, finish, read_command_line, run_script, start_facts
from lmx.fitting import fit_batches, fit_sizes, fit_warmup, training_kernel
from lmx.hosts import fingerprint
from lmx.image_classifier import ImageClassifier
from lmx.learner import Learner, place
from lmx.loop import Training
from lmx.losses import label_loss
from lmx.models.vision import VisionConfig, VisionTransformer, training_flops
from lmx.optimization import OptimizerConfig, make_optimizer, make_schedule
from lmx.planning import print_plan
from lmx.scoring.classification import load_scikit_learn
from lmx.scoring.tested import Tested, score_seeds
from lmx.sharding import make_mesh

# ---- what can be chosen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Optimization(OptimizerConfig):
    """How parameters are updated.

    Attributes:
        label_smoothing: probability that is taken from the right class and spread evenly over all.
    """

    schedule: Literal["inverse-sqrt", "noam", "linear", "cosine", "constant"] = "cosine"
    peak: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    """All choices of an image classification; those in records of their own are told there.

    Attributes:
        augment: how images of training are changed at each step.
        epochs: passes over the training images.
        seed: seed of the first model.
        seeds: models to train in one step, by the seeds seed, seed + 1 and so on.
    """

    sets: Annotated[ImageSetsConfig, INLINE] = field(default_factory=ImageSetsConfig)
    augment: AugmentationConfig = field(default_factory=AugmentationConfig)
    published: Annotated[Published, INLINE] = field(default_factory=Published)
    model: VisionConfig = field(default_factory=VisionConfig)
    optimization: Optimization = field(default_factory=Optimization)
    batch: Annotated[BatchConfig, INLINE] = field(default_factory=lambda: BatchConfig(tokens_per_batch=4096))
    epochs: int = 30
    selection: Annotated[SelectionConfig, INLINE] = field(default_factory=lambda: SelectionConfig(average_of="best"))
    seed: int = 1
    seeds: int = 1
    exam: Annotated[ExamConfig, INLINE] = field(default_factory=ExamConfig)
    run: Annotated[RunConfig, INLINE] = field(default_factory=lambda: RunConfig(run=Path("runs/vision")))

    # What may change when a run is continued, beside RunConfig and Published; the test set has no part in the training.
    free = ("predict", "explain", "attention", "baseline", "test")
    absent: ClassVar = {}  # no earlier version had this task

    @property
    def max_length(self) -> int:
        """Tokens of a row, as far as the size of the images is known."""
        return self.model.num_tokens if self.model.image_height else self.batch.length_multiple

    def check(self) -> None:
        """Checks what is told as one line, where tyro would print a box."""
        if self.epochs < 1 or self.batch.length_multiple != 1:
            raise InputError(
                "epochs must be at least 1, and length_multiple 1: images are all as long, got "
                f"epochs={self.epochs} and length_multiple={self.batch.length_multiple}."
            )
        self.augment.check()
        self.sets.check()


def _idx(name: str, **reading: Any) -> ImageSetsConfig:
    train, test = (f"data/{name}/{split}-images-idx3-ubyte.gz" for split in ("train", "t10k"))
    return ImageSetsConfig(train=train, test=test, reading=ImageReading(**reading))


_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_GREY = {"image_height": 28, "image_width": 28, "image_channels": 1, "num_outputs": 10}

PRESETS: dict[str, tuple[str, Config]] = {
    "digits": (
        "the 1,797 handwritten digits of scikit-learn, its last fifth the test; needs no file",
        Config(
            model=VisionConfig(image_height=8, image_width=8, image_channels=1, num_outputs=10, patch=2),
            augment=AugmentationConfig(crop=1, turn=10, stretch=0.1),
            run=RunConfig(run=Path("runs/digits")),
        ),
    ),
    "mnist": (
        "MNIST from its IDX files",
        Config(
            sets=_idx("mnist"),
            model=VisionConfig(**_GREY, dropout_rate=0.1),
            augment=AugmentationConfig(crop=2, turn=10, stretch=0.1),
            batch=BatchConfig(tokens_per_batch=6272),
            run=RunConfig(run=Path("runs/mnist")),
        ),
    ),
    "fashion-mnist": (
        "Fashion-MNIST from its IDX files: ten kinds of clothes",
        Config(
            sets=_idx("fashion-mnist", label_names=_FASHION),
            model=VisionConfig(**_GREY, width=128, feedforward_width=512, num_layers=6, dropout_rate=0.1),
            augment=AugmentationConfig(crop=2, flip=True, erase=0.25),
            batch=BatchConfig(tokens_per_batch=6272),
            run=RunConfig(run=Path("runs/fashion-mnist")),
        ),
    ),
    "cifar10": (
        "CIFAR-10 from the hub, from scratch",
        Config(
            sets=ImageSetsConfig(train="hub:uoft-cs/cifar10:train", test="hub:uoft-cs/cifar10:test"),
            model=VisionConfig(
                image_height=32, image_width=32, image_channels=3, num_outputs=10, patch=4, width=192,
                feedforward_width=768, num_heads=3, num_layers=9, dropout_rate=0.1,
            ),
            augment=AugmentationConfig(crop=4, flip=True, erase=0.25),
            optimization=Optimization(warmup=1000),
            batch=BatchConfig(tokens_per_batch=16_384),
            epochs=100,
            run=RunConfig(run=Path("runs/cifar10")),
        ),
    ),
    "own": (
        "your own images: --train train, a folder with a folder for each class, and --test test if you have one",
        Config(
            sets=ImageSetsConfig(train="train"),
            model=VisionConfig(patch=8, width=128, feedforward_width=512, num_layers=6, dropout_rate=0.1),
            augment=AugmentationConfig(crop=4),
            selection=SelectionConfig(average_of="best", patience=10),
            run=RunConfig(run=Path("runs/own-images")),
        ),
    ),
}  # fmt: skip


# ---- model, loss, optimizer ------------------------------------------------------------------------------------------


def build(config: Config, model: VisionConfig, *, updates: int) -> Learner:
    """Returns model, loss and optimizer of a config whose images and labels are known.

    Args:
        updates: of the whole training, which schedules end with.
    """
    definition = define(lambda rngs: VisionTransformer(model, rngs=rngs))
    options = config.optimization

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        image_key, model_key = (None, None) if key is None else jax.random.split(key)
        outputs, _ = definition.merge(params)(augment(batch["pixels"], config.augment, image_key), key=model_key)
        smoothing = {"label_smoothing": options.label_smoothing}
        return label_loss(outputs, batch["labels"], batch["weights"], kind="single", **smoothing)._asdict()

    def flops(shape: tuple[int, int, int]) -> tuple[float, float]:
        counted = training_flops(model, rows=shape[0] * shape[1])
        return counted, counted  # every patch sees all: there is no causal half

    schedule = make_schedule(options, total=updates, width=model.width)
    return Learner(
        model=definition, loss=loss, optimizer=make_optimizer(options, schedule), schedule=schedule, flops=flops,
        dtype=model.dtype, average_decay=options.average_decay, keeps_best=config.selection.keeps_best,
        num_seeds=config.seeds, gradient_sum=config.batch.gradient_sum,
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
        whole.agree(labels=list(data.labels.names), training_data=fingerprint([data.train.pixels]))
    whole.open(data.labels.save)
    tested = [train_and_test(preset, here, fold=fold) for fold, here in each_fold(whole, config, config.sets.folds)]
    name, chosen = f"{preset} {config.sets.folds}-fold test", f"best step by development {config.exam.select}"
    examine_folds(whole, tested, name=name, chosen=chosen, published=config.published)
    finish(whole)


def train_and_test(preset: str, config: Config, *, fold: int | None = None) -> Tested | None:
    """Trains one model of each seed and tests them; returns what was tested, if there is a test set."""
    seeds = range(config.seed, config.seed + config.seeds)
    # What can be wrong is found in here, before anything is written; all hosts must then agree.
    with begin("vision", preset, config, family="vision", ends_with="epochs", fold=fold) as run:
        data = config.sets.load(fold=fold)
        config.sets.say_fewer(data, report=run.console.print)
        height, width, channels = data.train.size
        sizes = {"image_height": height, "image_width": width, "image_channels": channels}
        model = fit_sizes(config.model, **sizes, num_outputs=data.labels.num_outputs)
        rows = data.encode(length=model.num_tokens)
        mesh = make_mesh(config.run.mesh)
        batch = fit_batches(run, config.batch, usual=PRESETS[preset][1].batch, lengths=rows.train.lengths)
        batches = batch.batches(rows.train, seeds=seeds, stacked=True)
        run.agree(
            model, labels=list(data.labels.names),
            training_data=rows.train, development_data=rows.dev, test_data=rows.test,
        )  # fmt: skip
        updates = config.batch.updates_of(batches, epochs=config.epochs)
        config = fit_warmup(run, config, PRESETS[preset][1], updates=updates)
        trained, reason = training_kernel(model, mesh, stacked=True)
        placed = place(build(config, trained, updates=updates), mesh, shapes=batches.shapes)
        facts = start_facts(trained, placed, batches, reason=reason)
    run.open(data.labels.save)

    training = Training(run, placed, batches, last=updates, seeds=seeds, selection=config.selection)
    tokens = {"batch_tokens": config.batch.tokens_per_batch, "rows_multiple": config.batch.rows_multiple}
    classifier = ImageClassifier(model, training.params, labels=data.labels, mesh=mesh, **tokens)

    def judge(params: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns of each seed what should fall, and what a line of validation holds."""
        line = score_seeds(classifier.with_params(params).outputs(rows.dev), data.labels.encode(data.dev), data.labels)
        return config.exam.judge(line), line

    if training.serves:
        run.recall(judge(training.params)[0], seeds=seeds)
    else:
        run.print_start(**data.facts(), **{"seeds": ", ".join(map(str, seeds)), **facts})
    with training:
        for update in training:
            if update.due:
                training.validate(lambda: judge(training.params))
    params, made = training.end()
    classifier = classifier.with_params(params)
    if not training.serves:
        run.save_model(params, seeds=seeds)

    tested = None
    if data.test is not None:
        made = None if config.selection.keeps_best else made
        exam = Exam(f"{preset} test", data.test, rows.test, data.train, config.exam, config.published, made)
        tested = examine_classifier(run, classifier, exam, seeds=seeds)
    if data.to_label is not None:
        label_unlabelled(run, classifier, rows.to_label, about=described_images(data.to_label))
    finish(run)
    return tested


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(preset: str, config: Config, *, device: str) -> None:
    """Prints what training will need, from shapes alone: no image is read, what it would tell is assumed."""
    assumed = {"image_height": 64, "image_width": 64, "image_channels": 3, "num_outputs": 16}
    sizes = {name: getattr(config.model, name) or size for name, size in assumed.items()}
    size = tuple(sizes.values())[:3]
    config = replace(config, model=replace(config.model, **sizes, kernel="xla"))

    def shapes(length: int) -> dict[str, tuple[int, ...]]:
        rows = config.batch.shape(config.max_length)[:2]
        return {"pixels": (*rows, *size), "labels": rows, "weights": rows}

    def learner_of(**changes: Any) -> Learner:
        return build(config, replace(config.model, **changes), updates=10 * config.optimization.warmup)

    about = f"{preset}: images of {size[0]} x {size[1]}, {size[2]} channels, {sizes['num_outputs']} classes."
    print_plan(learner_of, about, shapes, device=device, config=config)


def command_line(arguments: list[str]) -> tuple[str, Config]:
    """Returns the preset and its config with the overrides of a command line."""
    return read_command_line(arguments, presets=PRESETS, script="vision.py", about=__doc__)


if __name__ == "__main__":
    run_script(command_line, main, plan)
