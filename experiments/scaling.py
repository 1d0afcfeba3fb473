"""Scaling laws: train a grid of language models, fit how their loss falls, and predict a larger run before training it.

    python experiments/scaling.py                                  # twelve small models, and one that is predicted
    python experiments/scaling.py --budgets 3e12 1e13 3e13 --predict 1e14

Each training is a run of `experiments/pretraining.py`, in a folder of its own. A finished one is not repeated, and one
that was stopped continues, so that the same command goes on where it was. The laws are those of Hoffmann et al. 2022:
approach 2 finds the best size for each budget of FLOPs, approach 3 fits L(N, D) = E + A / N^alpha + B / D^beta. The
best size for a larger budget, and its loss, are then predicted and written down; only afterwards is that run trained.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from lmx.console import console
from lmx.definition import define
from lmx.errors import InputError
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.nn.embedding import count_parameters
from lmx.process import one_line_errors
from lmx.report.scaling import scaling_page
from lmx.saved import read_record, write_json, write_lines
from lmx.scoring.scaling import Law, Trained, find_valley, fit_growth, fit_law
from lmx.trainings import run_once

SCRIPT = Path(__file__).with_name("pretraining.py")
CONTEXT = 128
HEAD_WIDTH = 8
# (width, layers) from small to large: layers grow with width, as in Kaplan et al. 2020, section 3.1.
LADDER = [
    (16, 1),
    (24, 2),
    (32, 2),
    (48, 2),
    (64, 3),
    (80, 3),
    (96, 4),
    (128, 4),
    (160, 5),
    (192, 5),
    (256, 6),
    (320, 7),
    (384, 8),
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The grid, and the run that is predicted.

    Attributes:
        run: directory of all runs, of the laws and of the picture.
        train: text to learn from, in the forms of `pretraining.py`.
        vocab_size: pieces of the vocabulary.
        budgets: FLOPs of the trainings that the laws are fitted to.
        predict: FLOPs of the training that is predicted; more than any budget.
        sizes: models for each budget, those of the ladder next to the size that is expected to be best.
        tokens_per_parameter: what that expectation is: Hoffmann et al. 2022 find about 20.
        tokens_per_batch: tokens of an update.
        peak: highest learning rate at a width of 64; at other widths it is peak x sqrt(64 / width).
        seed: of all trainings.
    """

    run: Path = Path("runs/scaling")
    train: str = "stdlib"
    vocab_size: int = 1000
    budgets: tuple[float, ...] = (3e11, 1e12, 3e12)
    predict: float = 1.2e13
    sizes: int = 4
    tokens_per_parameter: float = 20.0
    tokens_per_batch: int = 2048
    peak: float = 6e-3
    seed: int = 1

    def check(self) -> None:
        """Checks that there is something to fit and something beyond it to predict.

        Raises:
            InputError: there is not.
        """
        budgets = len(set(self.budgets))
        if budgets < 2 or self.sizes < 3:
            raise InputError(f"a law must have at least 2 budgets of 3 sizes, got {budgets} of {self.sizes}.")
        if budgets < len(self.budgets):
            raise InputError(f"budgets must differ, got {' '.join(f'{flops:g}' for flops in self.budgets)}.")
        if self.sizes > len(LADDER):
            raise InputError(f"sizes must be at most {len(LADDER)}, those of the ladder, got sizes={self.sizes}.")
        for name in ("tokens_per_parameter", "tokens_per_batch", "peak"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be above 0, got {name}={getattr(self, name):g}.")
        if min(self.budgets) <= 0 or self.predict <= max(self.budgets):
            raise InputError(f"predict must be above all budgets, got predict={self.predict:g}.")


class Plan(NamedTuple):
    """One training: the shape of its model, N, and the updates that its budget pays for."""

    width: int
    layers: int
    parameters: int
    updates: int
    flops: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.flops:g}-width-{self.width}"


# ---- the grid --------------------------------------------------------------------------------------------------------


def count(config: Config, width: int, layers: int) -> int:
    """Returns N: all parameters, of which none is an embedding alone: the table is the output layer too."""
    model = DecoderConfig(
        vocab_size=config.vocab_size, width=width, feedforward_width=3 * width, num_heads=width // HEAD_WIDTH,
        num_layers=layers, tied_embeddings=True,
    )  # fmt: skip
    return count_parameters(define(lambda rngs: Decoder(model, rngs=rngs)).network)


def plan(config: Config, flops: float, width: int, layers: int) -> Plan:
    """Returns the training of a shape that a budget pays for, C = 6 N D."""
    parameters = count(config, width, layers)
    updates = max(1, round(flops / (6 * parameters * config.tokens_per_batch)))
    return Plan(width, layers, parameters, updates, flops)


def grid(config: Config) -> list[Plan]:
    """Returns the trainings that the laws are fitted to: for each budget the shapes around the expected best."""
    plans = []
    for flops in config.budgets:
        expected = math.sqrt(flops / 6 / config.tokens_per_parameter)
        shapes = [plan(config, flops, *shape) for shape in LADDER]
        nearest = sorted(shapes, key=lambda each: abs(math.log(each.parameters / expected)))
        plans += sorted(nearest[: config.sizes])
    return plans


# ---- one training ----------------------------------------------------------------------------------------------------


def train(config: Config, each: Plan) -> Trained:
    """Trains a model, or reads what came of it, and returns its size, its tokens and its loss on held-out text.

    Raises:
        SystemExit: the training was stopped or failed, with its exit code.
    """
    directory = config.run / each.name
    peak = config.peak * math.sqrt(64 / each.width)
    command = f"""
        stdlib-gpt --vocab-size {config.vocab_size} --context {CONTEXT}
        --tokens-per-batch {config.tokens_per_batch} --updates {each.updates} --validate-every {each.updates}
        --model.width {each.width} --model.feedforward-width {3 * each.width} --model.num-layers {each.layers}
        --model.num-heads {each.width // HEAD_WIDTH} --model.unroll {each.layers} --optimization.peak {peak:.3g}
        --optimization.warmup {max(1, each.updates // 20)} --metric loss --seed {config.seed}
    """.split()
    run_once(SCRIPT, [*command, "--train", config.train], run=directory)
    rows = read_record(directory / "scores.json")["rows"]
    loss = next(row["score"] for row in rows if row["name"].endswith(" loss"))
    tokens = each.updates * config.tokens_per_batch
    return Trained(float(each.parameters), float(tokens), float(loss), 6.0 * each.parameters * tokens)


# ---- the laws --------------------------------------------------------------------------------------------------------


def predict(config: Config, law: Law) -> Plan:
    """Returns the training of the larger budget whose shape comes nearest to the size that the law finds best."""
    best, _ = law.optimum(config.predict)
    return min(
        (plan(config, config.predict, *shape) for shape in LADDER),
        key=lambda each: abs(math.log(each.parameters / best)),
    )


def main(config: Config) -> None:
    """Trains the grid, fits the laws, predicts a larger run, trains that too, and compares."""
    config.check()
    plans = grid(config)
    total = sum(each.flops for each in plans) + config.predict
    console.print(f"{len(plans)} trainings and one that is predicted: {total:.2g} FLOPs")
    runs = []
    for number, each in enumerate(plans, start=1):
        console.print(f"{number} of {len(plans)}: {each.parameters:,} parameters, {each.updates:,} updates")
        runs.append(train(config, each))
    law = fit_law(runs)
    valleys = [
        find_valley([run for run, each in zip(runs, plans, strict=True) if each.flops == flops])
        for flops in config.budgets
    ]
    growth = fit_growth(valleys)
    larger = predict(config, law)
    tokens = larger.updates * config.tokens_per_batch
    predicted = law.loss(larger.parameters, tokens)
    told = {
        "law": law.__dict__,
        "best_size": growth._asdict(),
        "valleys": [valley._asdict() for valley in valleys],
        "runs": [run._asdict() for run in runs],
        "prediction": {"parameters": larger.parameters, "tokens": tokens, "flops": larger.flops, "loss": predicted},
    }
    write_json(config.run / "scaling.json", told)  # before the run is trained
    console.print(
        f"L(N, D) = {law.floor:.3f} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}\n"
        f"best size: N = {growth.factor:.3g} x C^{growth.exponent:.3f} by parabolas, exponent "
        f"{law.beta / (law.alpha + law.beta):.3f} by the law\n"
        f"predicted: {larger.parameters:,} parameters and {tokens:,} tokens reach a loss of {predicted:.4f}"
    )
    measured = train(config, larger)
    told["measured"] = measured._asdict()
    write_json(config.run / "scaling.json", told)
    write_lines(config.run / "scaling.html", [scaling_page(runs, law, valleys, measured, predicted)])
    console.print(f"report: {config.run / 'scaling.html'}")
    console.print(
        f"scaling: predicted {predicted:.4f}, measured {measured.loss:.4f} nats a token, "
        f"difference {measured.loss - predicted:+.4f}"
    )


def command_line(arguments: Sequence[str]) -> Config:
    """Returns the config with the overrides of a command line."""
    return tyro.cli(Config, args=list(arguments), prog="scaling.py", description=__doc__)


if __name__ == "__main__":
    with one_line_errors():
        main(command_line(sys.argv[1:]))
