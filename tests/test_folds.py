"""All folds are scored as one test set, of one seed and of several, and tell how their models were chosen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmx.config import Published, RunConfig
from lmx.data.labelled import Examples
from lmx.data.labels import Labels
from lmx.data.pair_sets import PairSetsConfig
from lmx.data.parallel import Pairs
from lmx.data.texts import encode_examples
from lmx.evaluation.classification import Exam as ClassifierExam
from lmx.evaluation.classification import ExamConfig, examine_classifier
from lmx.evaluation.classification import run_folds as run_folds_of_classes
from lmx.evaluation.folds import each_fold
from lmx.evaluation.translation import Exam, ScoringConfig, Translated, run_folds
from lmx.run import RESULTS, Run
from lmx.scoring.records import Record, Row
from lmx.scoring.tested import Tested as Outcome  # pytest would take its own name for a class of tests
from lmx.scoring.translation import detokenized_bleu
from lmx.search import Search
from lmx.text import ByteTokenizer
from lmx.translation_batches import Translation

SOURCES = [f"source {number}" for number in range(6)]
TARGETS = [f"this is the target with number {number} of six" for number in range(6)]
WHOLE = Pairs(sources=SOURCES, targets=TARGETS, origin="pairs.tsv")
PLACES = {1: [0, 3, 4], 2: [1, 2, 5]}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `run_folds` reads of an experiment's config."""

    run: RunConfig
    sets: PairSetsConfig
    scoring: ScoringConfig
    published: Published
    search: Search


def config_of(run: Path) -> Config:
    return Config(
        run=RunConfig(run=run),
        sets=PairSetsConfig(train="pairs.tsv", validation=None, test=None, folds=2),
        scoring=ScoringConfig(),
        published=Published(published=50.0, published_made="by others"),
        search=Search(beam_size=3),
    )


def said(text: str) -> Translation:
    return Translation(text=text, ids=(), score=0.0)


def wrong(targets: Sequence[str], *, seed: int) -> list[Translation]:
    """Returns targets of which a seed has some words wrong."""
    return [said(target.replace("with", f"without {seed}") if len(target) % 2 < seed else target) for target in targets]


def translated(run: Path, config: Config, *, fold: int, seeds: int, made: str) -> Translated:
    pairs = WHOLE.select(np.array(PLACES[fold]), name=f"fold {fold} of 2")
    assert config.run.run == run / f"fold-{fold}"
    alone = [wrong(pairs.targets, seed=seed) for seed in range(1, seeds + 1)] if seeds > 1 else []
    together = [said(target.replace("number", "a number" if fold == 2 else "number")) for target in pairs.targets]
    row = Row(name="own test BLEU", score=10.0 * fold, interval=None, signature="of one", made=made)
    exam = Exam("own test", made, pairs, "de", config.scoring, config.published)
    return Translated(exam, together, alone, Record(test="own test", rows=(row,)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_main_score_is_that_of_all_translations_together(tmp_path: Path, seeds: int):
    config = config_of(tmp_path)
    run = Run(tmp_path, {}, options=config.run)
    asked: list[int] = []

    def train_and_test(preset: str, config: Config, *, fold: int) -> Translated:
        asked.append(fold)
        return translated(tmp_path, config, fold=fold, seeds=seeds, made="beam 3, the last step")

    record = run_folds(run, "own", config, train_and_test)
    assert asked == [1, 2]
    together = [target.replace("number", "a number") if place in PLACES[2] else target for place, target in
                enumerate(TARGETS)]  # fmt: skip
    assert (tmp_path / "test.hypotheses.txt").read_text().splitlines() == together
    of_all = detokenized_bleu(together, TARGETS, lowercase=False, tokenize="13a", num_resamples=0)
    main, mean, *rest = record.rows
    assert main.name == "own 2-fold test BLEU"
    assert (main.published, main.published_made) == (50.0, "by others")
    assert mean.name == "own 2-fold test BLEU, mean of folds"
    assert mean.score == 15.0
    assert mean.made.startswith("mean of 2 folds, standard deviation 7.07; ")
    assert mean.signature == of_all.signature  # a mean has no interval
    assert record.others["folds"] == [10.0, 20.0]
    assert record.others["sentences"] == 6
    made = "each sentence by a model that did not see it; beam 3, the last step"
    if seeds == 1:
        assert main.score == of_all.score
        assert main.interval is not None
        assert main.made == made
        assert [row.name for row in rest] == ["own 2-fold test chrF2"]
        return
    alone = [
        detokenized_bleu(
            [each.text for each in wrong(TARGETS, seed=seed)], TARGETS, lowercase=False, tokenize="13a", num_resamples=0
        ).score
        for seed in (1, 2, 3)
    ]
    assert main.score == pytest.approx(np.mean(alone))
    assert main.made == f"mean of 3 seeds, standard deviation {np.std(alone, ddof=1):.2f}; {made}"
    assert [row.name for row in rest] == ["own 2-fold test, ensemble, BLEU", "own 2-fold test, ensemble, chrF2"]
    assert rest[0].score == of_all.score
    assert rest[0].made == f"3 seeds translate together; {made}"


@pytest.mark.parametrize("changed", ["config.updates", "config.epochs", "config.test"])
def test_scores_of_all_folds_go_where_the_folds_train_for_longer(tmp_path: Path, changed: str, monkeypatch):
    forgotten: list[tuple[str, ...]] = []
    run = Run(tmp_path, {})
    run.changed = (changed,)
    monkeypatch.setattr(run, "forget", forgotten.append)
    assert each_fold(run, "own", config_of(tmp_path), lambda preset, config, fold: fold) == [1, 2]
    assert forgotten == ([] if changed == "config.test" else [RESULTS])


def test_where_folds_ended_otherwise_only_what_they_share_is_told(tmp_path: Path):
    config = config_of(tmp_path)
    ends = {1: "beam 3, the last step", 2: "beam 3, mean of the last 3"}
    record = run_folds(
        Run(tmp_path, {}, options=config.run),
        "own",
        config,
        lambda preset, config, *, fold: translated(tmp_path, config, fold=fold, seeds=1, made=ends[fold]),
    )
    assert record.rows[0].made == f"each sentence by a model that did not see it; {config.search}"


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (("mean of the best 3", "mean of the best 3"), "mean of the best 3"),
        ((None, None), "best step by development loss"),
        (("mean of the best 3", "the best checkpoint"), "as the scores of each fold say"),
    ],
)
def test_folds_of_a_classification_tell_how_their_models_were_chosen(tmp_path: Path, ends, told: str, capsys):
    config = OfClasses(
        run=RunConfig(run=tmp_path),
        sets=SimpleNamespace(folds=2),
        exam=ExamConfig(select="loss"),
        published=Published(),
    )
    labels = Labels(kind="single", names=("a", "b"))
    texts = Examples(texts=["x", "y"], labels=["a", "b"], origin="t.csv", lines=np.array([2, 3]))
    rows = encode_examples(texts, ByteTokenizer(), labels=labels, max_length=8, stride=None)

    def train_and_test(preset: str, here: object, *, fold: int) -> Outcome:
        run = Run(tmp_path / f"fold-{fold}", {}, options=config.run)
        run.directory.mkdir()
        run.memory.best, run.memory.best_step = [0.5], [10]
        how = replace(config.exam, baseline=False, explain=0)
        exam = ClassifierExam("own test", texts, rows, texts, how, config.published, ends[fold - 1])
        return examine_classifier(run, Guesses(labels), exam, seeds=[1])

    whole = Run(tmp_path, {}, options=config.run)
    run_folds_of_classes(whole, "own", config, train_and_test)
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert {row["made"] for row in saved["rows"]} == {f"one seed; {told}"}
    main, *others = saved["spread"]
    assert others
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("over folds: ")]
    assert len(printed) == 1
    assert printed[0].startswith(f"over folds: {main['name']} ")


@dataclass(frozen=True, kw_only=True)
class OfClasses:
    """What `run_folds` of a classification reads of an experiment's config."""

    run: RunConfig
    sets: SimpleNamespace
    exam: ExamConfig
    published: Published


class Guesses:
    """A classifier that always says the same."""

    def __init__(self, labels: Labels):
        self.labels = labels

    def outputs(self, encoded: object, *, progress: object) -> np.ndarray:
        return np.full((1, 2, 2), [0.75, 0.25])

    def explain(self, example: object, /) -> dict:
        return {}
