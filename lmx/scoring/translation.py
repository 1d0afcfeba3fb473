"""Scores translations as the literature does: sacreBLEU, chrF, tokenised BLEU, intervals and paired tests.

Lives here: corpus scores with their signatures, bootstrap intervals, the comparison of two systems, and a score per
sentence for sorting samples. The counting is sacreBLEU's own, so a number equals what its command line prints.
Lives elsewhere: detokenising and undoing subwords (lmx/text.py), decoding (lmx/decoding.py), files (lmx/run.py).

Which BLEU it is, is the first question about any BLEU. There are three here, and they do not compare with each other:

* detokenised BLEU (the default): plain text against the untouched reference, tokenised inside by a fixed scheme;
* tokenised BLEU: both sides come tokenised and are split at spaces only, as fairseq's recipes report it;
* compound-split BLEU: tokenised, and hyphenated words split on both sides, as WMT14 papers since Vaswani et al. report
  it. It is higher: 29.3 compound-split is the same output as 28.6 detokenised.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from lmx.scoring.resampling import speak_for
from lmx.scoring.tokenization import DEFAULT, bleu_by

NUM_RESAMPLES = 1000  # sacreBLEU's default number of bootstrap resamples,
SEED = 12345  # and its default seed, so that our intervals are the command line's.


@dataclass(frozen=True, kw_only=True)
class Score:
    """A corpus score, and how it was made.

    Attributes:
        name: the metric, such as `BLEU`, `tokenised BLEU` or `chrF2`.
        score: from 0 to 100.
        interval: 95% bootstrap interval (lowest, highest), in the units of `score`; None if it was not asked for, or if
            the resamples cannot speak for this score (`lmx.scoring.resampling.speak_for`). It says how much the choice
            of test sentences matters, not how much the seed of the training does.
        signature: sacreBLEU's, with the number of resamples and their seed if there is an interval.
        details: for BLEU the n-gram precisions, brevity penalty and lengths; empty for chrF.
    """

    name: str
    score: float
    interval: tuple[float, float] | None
    signature: str
    details: str

    def __str__(self) -> str:
        """Returns the score on one line, ready for a log."""
        interval = f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]" if self.interval else ""
        return f"{self.name}|{self.signature} = {self.score:.2f}{interval}{' ' + self.details if self.details else ''}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same sentences, and whether the difference could be chance.

    Attributes:
        name: the metric.
        baseline: the first system's score.
        system: the second system's score.
        interval: 95% bootstrap interval of the difference `system - baseline`; None where the resamples cannot speak
            for the difference.
        p_value: probability of so large a difference, in either direction, if the systems were equally good.
        signature: sacreBLEU's, with the number of resamples and their seed.
    """

    name: str
    baseline: float
    system: float
    interval: tuple[float, float] | None
    p_value: float
    signature: str

    @property
    def difference(self) -> float:
        """How much better the second system is."""
        return self.system - self.baseline

    def __str__(self) -> str:
        """Returns the comparison on one line, ready for a log."""
        interval = f" [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]" if self.interval else ""
        scores = f"{self.baseline:.2f} -> {self.system:.2f} ({self.difference:+.2f}{interval}"
        return f"{self.name}|{self.signature}: {scores}, p = {self.p_value:.4f})"


def score_translations(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenized: bool = False,
    tokenize: str | None = None,
    compound_split: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> tuple[Score, ...]:
    """Returns the scores that suit the text: BLEU and chrF of plain text, BLEU alone of tokenised text.

    Args:
        hypotheses: one translation a sentence, in the order of `references`.
        references: one reference a sentence.
        lowercase: compares without regard to case, on both sides. The signature says so.
        tokenized: both sides are tokenised already (subwords undone); see `tokenized_bleu`.
        tokenize: how BLEU splits plain text into words; None is 13a. See `detokenized_bleu`.
        compound_split: adds compound-split BLEU. Only for tokenised text.
        num_resamples: bootstrap resamples for the intervals; 0 leaves the intervals out.
        seed: of the resamples. The same for every metric, so all see the same resamples.

    Raises:
        ValueError: nothing to score, sides of different length, compound_split without tokenized, or tokenize with it.
    """
    _check(hypotheses, references, name="hypotheses")
    _check_scheme(tokenize, tokenized=tokenized)
    if compound_split and not tokenized:
        raise ValueError(
            "compound_split must come with tokenised text, got tokenized=False. "
            "Pass tokenised hypotheses and references with tokenized=True."
        )
    if not tokenized:
        metrics = (functools.partial(detokenized_bleu, tokenize=tokenize or DEFAULT), chrf)
    else:
        metrics = (tokenized_bleu, compound_split_bleu) if compound_split else (tokenized_bleu,)
    return tuple(
        metric(hypotheses, references, lowercase=lowercase, num_resamples=num_resamples, seed=seed)
        for metric in metrics
    )


def detokenized_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenize: str = DEFAULT,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Score:
    """Returns BLEU of plain text: the number to publish.

    Source: Post 2018, "A call for clarity in reporting BLEU scores".

    Args:
        hypotheses: plain text. Tokenised text scores wrongly high here, and sacreBLEU then logs a warning.
        references: the test set's own text, untouched.
        lowercase: lowercases both sides.
        tokenize: sacreBLEU's scheme: "13a" as WMT, "intl", "zh", "char" (Japanese and Korean: extra packages); see
            `lmx.scoring.tokenization`.
        num_resamples: for the interval; 0 leaves it out.
        seed: of the resamples.
    """
    metric = bleu_by(tokenize, lowercase=lowercase)
    return _score(metric, hypotheses, references, name="BLEU", num_resamples=num_resamples, seed=seed)


def tokenized_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Score:
    """Returns BLEU of text that is tokenised already, split at spaces only.

    Equals `sacrebleu --tokenize none --force`, and multi-bleu.perl where every order of n-gram has a match. Comparable
    only with papers that used the same tokeniser on the references.
    """
    metric = BLEU(lowercase=lowercase, tokenize="none", force=True)
    return _score(metric, hypotheses, references, name="tokenised BLEU", num_resamples=num_resamples, seed=seed)


def compound_split_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Score:
    """Returns tokenised BLEU after `split_compounds` on both sides: the BLEU of WMT14 papers since Vaswani et al. 2017.

    sacreBLEU's signature has no word for it; ours says `tok:none+compound-split`.
    """
    _check(hypotheses, references, name="hypotheses")
    metric = BLEU(lowercase=lowercase, tokenize="none", force=True)
    metric.tokenizer_signature = "none+compound-split"
    return _score(
        metric,
        [split_compounds(line) for line in hypotheses],
        [split_compounds(line) for line in references],
        name="compound-split BLEU",
        num_resamples=num_resamples,
        seed=seed,
    )


def split_compounds(line: str) -> str:
    """Returns a tokenised line with `rich-text` written as `rich ##AT##-##AT## text`.

    Source: tensor2tensor's get_ende_bleu.sh and fairseq's compound_split_bleu.sh. Matches do not overlap, so of two
    hyphens around a single character only the first is split (`a-b-c` keeps `b-c`), as there.
    """
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    word_order: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Score:
    """Returns chrF: the F2 score of character n-grams up to 6, spaces left out.

    Source: Popović 2015; with `word_order=2` it is chrF++, Popović 2017. It sees a wrong ending as a smaller fault
    than a wrong word, which BLEU does not.
    """
    metric = CHRF(lowercase=lowercase, word_order=word_order)
    return _score(
        metric, hypotheses, references, name=f"chrF2{'+' * word_order}", num_resamples=num_resamples, seed=seed
    )


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Returns the chrF of each sentence, for sorting good and bad samples; its mean is not the corpus chrF."""
    _check(hypotheses, references, name="hypotheses")
    metric = CHRF()
    return [
        metric.sentence_score(hypothesis, [reference]).score
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def compare_translations(
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenized: bool = False,
    tokenize: str | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> tuple[Comparison, ...]:
    """Returns the paired bootstrap test between two systems: BLEU and chrF of plain text, BLEU alone of tokenised text.

    Both systems are scored on the same resamples of the sentences, so what makes a sentence easy or hard for both
    cancels: far finer than two separate intervals. The p-value is the share of resamples whose difference is off the
    observed one by at least its size (two-sided, Efron and Tibshirani 1993, section 16.4; Koehn 2004 brought the
    paired bootstrap to translation): 1 where nothing differs.

    It is not that of `sacrebleu --paired-bs`, which takes the size of each difference before it centres them. That one
    rejects more than its level of systems that are equally good (`benchmarks/paired_tests.py`).

    Args:
        baseline: the first system's translations.
        system: the second system's translations of the same sentences.
        references: one reference a sentence.
        lowercase: compares without regard to case.
        tokenized: all three are tokenised already.
        tokenize: how BLEU splits plain text into words; None is 13a.
        num_resamples: at least 1. The smallest p-value it can show is 1 / (num_resamples + 1).
        seed: of the resamples.

    Raises:
        ValueError: nothing to score, sides of different length, or no resamples.
    """
    _check(baseline, references, name="baseline")
    _check(system, references, name="system")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1 for a paired test, got num_resamples={num_resamples}.")
    _check_scheme(tokenize, tokenized=tokenized)
    if tokenized:
        metrics: dict[str, BLEU | CHRF] = {"tokenised BLEU": BLEU(lowercase=lowercase, tokenize="none", force=True)}
    else:
        metrics = {"BLEU": bleu_by(tokenize or DEFAULT, lowercase=lowercase), "chrF2": CHRF(lowercase=lowercase)}
    comparisons = []
    for name, metric in metrics.items():
        counts = [_sentence_counts(metric, translations, references) for translations in (baseline, system)]
        before, after = (_corpus_score(metric, each.sum(axis=0)).score for each in counts)
        resampled_before, resampled_after = (_resample(metric, each, num_resamples, seed) for each in counts)
        difference = after - before
        differences = resampled_after - resampled_before
        # A difference that rounding makes a hair smaller is as large.
        num_larger = int(np.sum(np.abs(differences - difference) >= abs(difference) - 1e-9))
        comparisons.append(
            Comparison(
                name=name,
                baseline=before,
                system=after,
                interval=_interval(differences, difference) if differences.any() else (0.0, 0.0),
                p_value=(num_larger + 1) / (num_resamples + 1),
                signature=_signature(metric, num_resamples, seed),
            )
        )
    return tuple(comparisons)


# The counts of each sentence are taken once; a resample only adds up other rows of them. The methods with a leading
# underscore are sacreBLEU's seam for this, unchanged since 2.0; the tests compare with its command line.


def _score(
    metric: BLEU | CHRF,
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    name: str,
    num_resamples: int,
    seed: int,
) -> Score:
    _check(hypotheses, references, name="hypotheses")
    if num_resamples < 0:
        raise ValueError(f"num_resamples must be 0 (no interval) or more, got num_resamples={num_resamples}.")
    counts = _sentence_counts(metric, hypotheses, references)
    corpus = _corpus_score(metric, counts.sum(axis=0))
    return Score(
        name=name,
        score=float(corpus.score),
        interval=_interval(_resample(metric, counts, num_resamples, seed), corpus.score) if num_resamples else None,
        signature=_signature(metric, num_resamples, seed),
        details=corpus._verbose,
    )


def _sentence_counts(
    metric: BLEU | CHRF, translations: Sequence[str], references: Sequence[str]
) -> Int[np.ndarray, "sentences counts"]:
    return np.asarray(metric._extract_corpus_statistics(translations, [references]), dtype=np.int64)


def _corpus_score(metric: BLEU | CHRF, counts: Int[np.ndarray, " counts"]):
    return metric._compute_score_from_stats(counts.tolist())


def _resample(
    metric: BLEU | CHRF, counts: Int[np.ndarray, "sentences counts"], num_resamples: int, seed: int
) -> Float[np.ndarray, " resamples"]:
    """Returns the scores of corpora drawn with replacement; the same seed and size draw the same sentences."""
    generator = np.random.default_rng(seed)
    draws = (generator.choice(len(counts), size=len(counts)) for _ in range(num_resamples))
    return np.asarray([_corpus_score(metric, counts[draw].sum(axis=0)).score for draw in draws], dtype=np.float64)


def _interval(scores: Float[np.ndarray, " resamples"], score: float) -> tuple[float, float] | None:
    """Returns the range without a fortieth at each end, cut where sacreBLEU cuts it, if it is one of the score."""
    ordered = np.sort(scores)
    cut = len(ordered) // 40
    low, high = float(ordered[cut]), float(ordered[-1 - cut])
    return (low, high) if speak_for(score, scores, low=low, high=high) else None


def _signature(metric: BLEU | CHRF, num_resamples: int, seed: int) -> str:
    signature = metric.get_signature()
    if num_resamples:
        signature.update("bs", num_resamples)
        signature.update("seed", seed)
    return signature.format()


def _check_scheme(tokenize: str | None, *, tokenized: bool) -> None:
    if tokenized and tokenize is not None:
        raise ValueError(
            f"tokenize must be left out where the text is tokenised already, got tokenize={tokenize} and "
            "tokenized=True: tokens are split at spaces."
        )


def _check(translations: Sequence[str], references: Sequence[str], *, name: str) -> None:
    for side, lines in ((name, translations), ("references", references)):
        if isinstance(lines, str):
            raise TypeError(f"{side} must be a sequence of sentences, got a single str. Put it in a list.")
    if len(translations) != len(references):
        raise ValueError(
            f"{name} and references must have one line for each sentence, "
            f"got {len(translations):,} {name} and {len(references):,} references."
        )
    if not translations:
        raise ValueError(f"{name} must have at least one sentence, got len({name})=0.")
