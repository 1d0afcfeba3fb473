"""How often paired tests find a difference between systems that are equal by construction.

    python benchmarks/paired_tests.py
    python benchmarks/paired_tests.py --trials 2000 --sentences 1000

A pair of systems is made anew for each trial: two outputs for every sentence, one with more mistakes, and a coin that
says which system gets which. So neither is better, whatever their outputs; a test at level 0.05 should find a
difference in 5% of the trials, and the last column says what chance leaves around that (95%, binomial). BLEU and chrF
are of the embedded grammar's test sentences with words replaced, accuracy of labels drawn at random. Beside ours stands
`sacrebleu --paired-bs` itself, which takes the size of each difference before it centres them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from jaxtyping import Bool, Int
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from lmx.data.embedded import phrasebook
from lmx.process import one_line_errors
from lmx.scoring.paired import compare_predictions
from lmx.scoring.translation import compare_translations

LEVELS = (0.05, 0.01)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is tested how often.

    Attributes:
        trials: pairs of systems.
        sentences: of each test set.
        resamples: of each test.
        errors: share of words, or of labels, that are wrong in the better outputs; in the others half as many more.
        seed: of everything.
    """

    trials: int = 400
    sentences: int = 300
    resamples: int = 1000
    errors: float = 0.2
    seed: int = 1


def swapped(better: list[str], worse: list[str], coin: Bool[np.ndarray, " sentences"]) -> tuple[list[str], list[str]]:
    """Returns two systems: each sentence's outputs, given out by a coin."""
    pairs = [(one, other) if heads else (other, one) for one, other, heads in zip(better, worse, coin, strict=True)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def with_mistakes(sentences: list[str], words: list[str], rate: float, generator: np.random.Generator) -> list[str]:
    """Returns sentences with a share of their words replaced by any."""

    def change(word: str) -> str:
        return words[generator.integers(len(words))] if generator.random() < rate else word

    return [" ".join(map(change, sentence.split())) for sentence in sentences]


def trial_of_text(config: Config, generator: np.random.Generator) -> dict[str, float]:
    """Returns the p-values of one pair of systems: BLEU and chrF by our test and by sacreBLEU's formula."""
    phrases = phrasebook("test")
    chosen = generator.choice(len(phrases), size=config.sentences, replace=False)
    references = [phrases[index].target for index in chosen]
    words = sorted({word for sentence in references for word in sentence.split()})
    outputs = [with_mistakes(references, words, rate, generator) for rate in (config.errors, 1.5 * config.errors)]
    one, other = swapped(outputs[0], outputs[1], generator.random(config.sentences) < 0.5)
    settings: dict[str, Any] = {"num_resamples": config.resamples, "seed": int(generator.integers(2**31))}
    values = {found.name: found.p_value for found in compare_translations(one, other, references, **settings)}
    theirs = PairedTest(
        [("baseline", one), ("system", other)],
        {"BLEU": BLEU(references=[references]), "chrF2": CHRF(references=[references])},
        references=None,
        test_type="bs",
        n_samples=config.resamples,
    )
    for name, results in theirs()[1].items():
        if name != "System":
            p_value = results[1].p_value  # pyright: ignore[reportAttributeAccessIssue]
            assert p_value is not None
            values[f"{name}, sacrebleu --paired-bs"] = p_value
    return values


def trial_of_labels(config: Config, generator: np.random.Generator) -> dict[str, float]:
    """Returns the p-values of one pair of classifiers, as `lmx compare` prints them."""
    targets = generator.integers(3, size=config.sentences)

    def guess(rate: float) -> Int[np.ndarray, " sentences"]:
        wrong = generator.random(config.sentences) < rate
        return np.where(wrong, (targets + generator.integers(1, 3, size=config.sentences)) % 3, targets)

    outputs = guess(config.errors), guess(1.5 * config.errors)
    coin = generator.random(config.sentences) < 0.5
    sides = np.where(coin, *outputs), np.where(coin, *outputs[::-1])
    seed = int(generator.integers(2**31))
    found = compare_predictions(targets, *sides, kind="single", num_resamples=config.resamples, seed=seed)
    return {f"{each.name}, {each.test}": each.p_value for each in found}


def by_chance(trials: int, level: float) -> tuple[float, float]:
    """Returns the range of shares that 95% of tests of this level find in a number of trials."""
    counts = np.arange(trials + 1)
    logs = [math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1) for count in counts]
    below = np.cumsum(np.exp(logs + counts * math.log(level) + (trials - counts) * math.log1p(-level)))
    low, high = (int(np.argmax(below >= share)) for share in (0.025, 0.975))
    return low / trials, high / trials


def main(config: Config) -> None:
    """Runs the trials and prints the share rejected at each level."""
    print(f"{config}\n{'test':<40}" + "".join(f"{'at ' + str(level):>10}" for level in LEVELS) + "   by chance at 0.05")
    kinds: tuple[Callable[[Config, np.random.Generator], dict[str, float]], ...] = (trial_of_text, trial_of_labels)
    low, high = by_chance(config.trials, LEVELS[0])
    for kind in kinds:
        generator = np.random.default_rng(config.seed)
        trials = [kind(config, generator) for _ in range(config.trials)]
        for name in trials[0]:
            values = np.array([trial[name] for trial in trials])
            shares = "".join(f"{np.mean(values <= level):>10.1%}" for level in LEVELS)
            print(f"{name:<40}{shares}   {low:.1%} to {high:.1%}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Config, description=__doc__))
