"""Several seeds in one training against as many trainings one after another: seconds from start to end.

    python benchmarks/seeds.py
    python benchmarks/seeds.py --seeds 5 --epochs 4 --rounds 3

Each row is the whole command, with start, tokenizer, compilation, training, validations and the test:
`experiments/classification.py` on the embedded sentences, without the linear model and without explanations. A is one
run of S seeds in one step, B is S runs of one seed; they take turns, A B A B, and the last line has the ratio of the
medians. Both end with the same scores, which are compared.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from lmx.errors import InputError
from lmx.process import one_line_errors

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "experiments" / "classification.py"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is trained how often.

    Attributes:
        seeds: trained together and one after another.
        epochs: of each training.
        rounds: of A and B.
        preset: of the experiment.
        flags: more of the experiment's own, after `--`-less spaces: "--model.width 64".
    """

    seeds: int = 5
    epochs: int = 4
    rounds: int = 3
    preset: str = "stdlib"
    flags: str = ""


def train(directory: Path, config: Config, *, first: int, seeds: int) -> tuple[float, list[float]]:
    """Runs the experiment in a new directory; returns its seconds, and the test score of each seed.

    Raises:
        RuntimeError: it failed; the message has the end of what it printed.
    """
    command = [sys.executable, str(SCRIPT), config.preset, "--run", str(directory), "--seed", str(first)]
    command += ["--seeds", str(seeds), "--epochs", str(config.epochs), "--no-baseline", "--explain", "0"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *config.flags.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"the experiment must end well, got exit code {done.returncode}: {done.stderr[-500:]}")
    scores = json.loads((directory / "scores.json").read_text(encoding="utf-8"))["seeds"]
    shutil.rmtree(directory)
    return seconds, [row["test"] for row in scores]


def main(config: Config) -> None:
    """Prints each round's seconds, then the medians and their ratio."""
    for name in ("seeds", "epochs", "rounds"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {name}={getattr(config, name)}.")
    numbers = range(1, config.seeds + 1)
    together: list[float] = []
    apart: list[float] = []
    difference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, config.rounds + 1):
            seconds, scores = train(Path(folder) / "together", config, first=1, seeds=config.seeds)
            together.append(seconds)
            alone = [train(Path(folder) / "alone", config, first=seed, seeds=1) for seed in numbers]
            apart.append(sum(seconds for seconds, _ in alone))
            difference = max(abs(a - b) for a, (_, (b,)) in zip(scores, alone, strict=True))
            print(
                f"round {number}: {together[-1]:.1f} s together, {apart[-1]:.1f} s one after another, "
                f"test scores at most {difference:.4f} apart",
                flush=True,
            )
    ratio = statistics.median(together) / statistics.median(apart)
    print(f"{config.seeds} seeds in one step take {ratio:.2f} of the time of {config.seeds} runs")


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Config, description=__doc__))
