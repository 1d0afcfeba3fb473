"""What people are told: each count, sign, unit and name belongs to what it is said of."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmx.config import Published
from lmx.data.parallel import Pairs
from lmx.evaluation import translation as evaluation
from lmx.evaluation.language import NAMES, UNITS, Exam, _row
from lmx.evaluation.translation import ScoringConfig
from lmx.report import translation as report
from lmx.report.scaling import scaling_page
from lmx.run import Run
from lmx.scoring.language import Extent, score_tokens
from lmx.scoring.scaling import Law, Trained, find_valley
from lmx.translator import Translator
from tests.test_comparison_experiment import comparison


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", {"config": {}})


# Translation.


class Fake(Translator):
    """A translator that has counted."""

    def __init__(self, *, cut: int, limited: int):
        self.cut, self.limited, self.max_source_length = cut, limited, 17


def said_of(run: Run, capsys: Any, *, cut: int = 0, limited: int = 0, **pairs: Any) -> list[str]:
    made = Pairs(sources=["a"] * 9, targets=["b c d"] * 9, origin="o", **pairs)
    exam = evaluation.Exam("t", "m", made, "de", ScoringConfig(), Published())
    evaluation._tell(run, Fake(cut=cut, limited=limited), exam)
    return capsys.readouterr().out.splitlines()


def test_what_became_of_sentences_is_counted_apart(run, capsys) -> None:
    empty, limited, cut = said_of(run, capsys, cut=2, limited=3, empty=4)
    assert empty.startswith("4 of 9 test pairs have an empty side")
    assert limited == "3 of 9 translations were ended by the length limit"
    assert cut == "2 of 9 test sources were longer than 17 tokens and were cut"
    assert said_of(run, capsys) == []
    (alone,) = said_of(run, capsys, limited=1)
    assert "length limit" in alone


def test_a_raw_reference_that_nothing_is_scored_against_is_told(run, capsys, monkeypatch) -> None:
    pairs = Pairs(sources=["a"], targets=["b"], origin="o")
    tokenized, there = ScoringConfig(tokenized=True, raw_reference="raw.de"), {"sacremoses"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    for scoring, said in ((tokenized, ""), (replace(tokenized, raw_reference=None), "")):
        evaluation._tell(run, Fake(cut=0, limited=0), evaluation.Exam("t", "m", pairs, "de", scoring, Published()))
        assert capsys.readouterr().out == said
    there.clear()
    evaluation._tell(run, Fake(cut=0, limited=0), evaluation.Exam("t", "m", pairs, "de", tokenized, Published()))
    assert capsys.readouterr().out.startswith("warning: nothing is scored against raw_reference without sacremoses")


def test_samples_are_sentences_with_their_score_and_construction() -> None:
    pairs = Pairs(sources=["a", "b"], targets=["un@@ known", "x y z"], origin="o")
    exam = evaluation.Exam("t", "m", pairs, "de", ScoringConfig(tokenized=True), Published())
    first, second = evaluation._samples(["unknown", "q"], exam, ["one", "two"])
    assert [first[name] for name in ("source", "reference", "hypothesis", "construction")] == [
        "a",
        *["unknown"] * 2,
        "one",
    ]
    assert first["chrf"] == pytest.approx(100)
    assert second == {"source": "b", "reference": "x y z", "hypothesis": "q", "chrf": 0, "construction": "two"}
    plain = evaluation._samples(["un", "q"], exam._replace(scoring=ScoringConfig()), None)
    assert [sample["reference"] for sample in plain] == list(pairs.targets)
    assert "construction" not in plain[0]


def test_groups_of_samples_are_the_ends_and_the_middle() -> None:
    number = report.SAMPLES_EACH
    samples = [
        {"source": f"s{place:02}", "reference": "r", "hypothesis": "h", "chrf": float(place)} for place in range(41)
    ]
    page = str(report._samples_section(samples[::-1]))
    groups = [re.findall(r"s(\d\d)", group) for group in page.split("<h3>")[1:]]
    first, middle, last = ([*map(int, group)] for group in groups)
    assert first == list(range(number))
    assert len(middle) == number
    assert abs(np.median(middle) - 20) <= 0.5
    assert last == list(range(40, 40 - number, -1))
    assert "41 sentences, 0 of them (0%) equal to the reference" in page


@pytest.mark.parametrize("better", [0, 1])
def test_the_decoder_alone_is_compared_with_the_encoder_decoder(better, tmp_path, monkeypatch, capsys) -> None:
    targets = ["the old dog sees a cat", "a small fox runs to the house", "this is one more sentence of it"]
    others = ["the dog", "a fox", "this is"]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.tsv").write_text("".join(f"x\t{target}\n" for target in targets))
    systems = [
        comparison.System(name, 10 + place, targets if place == better else others)
        for place, name in enumerate(("decoder alone", "encoder-decoder"))
    ]
    monkeypatch.setattr(comparison, "train_both", lambda config, files: (tmp_path, tmp_path))
    monkeypatch.setattr(comparison, "translate_both", lambda config, runs, pairs: systems)
    (tmp_path / "run").mkdir()
    files = {name: tmp_path / f"{name}.tsv" for name in ("train", "validation", "test")}
    comparison.main(comparison.Config(run=tmp_path / "run", **files))
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert [told[each.name]["parameters"] for each in systems] == [10, 11]
    assert told[systems[better].name]["BLEU"] == pytest.approx(100)
    printed = capsys.readouterr().out
    # From the encoder-decoder to the decoder alone, as the heading says.
    changes = re.findall(r" -> ([\d.]+) \(([+-])", printed.partition("against the encoder-decoder")[2])
    assert len(changes) == 2
    assert {sign for _, sign in changes} == {"+" if better == 0 else "-"}
    assert (changes[0][0] == "100.00") == (better == 0)
    assert (tmp_path / "run" / "decoder-alone.txt").read_text().splitlines() == systems[0].translations


# Language models.


@pytest.mark.parametrize("stride", [None, 64])
@pytest.mark.parametrize("metric", NAMES)
def test_each_score_of_a_text_has_its_own_name_number_and_unit(metric, stride) -> None:
    scores = score_tokens(2.0, Extent(tokens=100, words=40, bytes=300))
    windows: Any = SimpleNamespace(length=1024, stride=stride)
    exam = Exam("t test", windows, metric, True, "made so", Published())
    rows = "" if stride is None else "; rows of 1,024 tokens that begin 64 apart"
    for name in NAMES:
        made = _row(exam, name, scores)
        assert (made.name, made.signature, made.made) == (f"t test {NAMES[name]}", f"{UNITS[name]}{rows}", "made so")
        assert made.score == getattr(scores, name)


# Scaling.


def test_a_prediction_is_told_with_the_sign_of_what_was_missed() -> None:
    law = Law(floor=1.5, a=40.0, alpha=0.35, b=90.0, beta=0.4)

    def trained(parameters: float, flops: float) -> Trained:
        tokens = flops / 6 / parameters
        return Trained(parameters, tokens, law.loss(parameters, tokens), flops)

    budgets = [[trained(size, flops) for size in (1e4, 2e4, 4e4, 8e4)] for flops in (1e11, 4e11)]
    runs = [run for budget in budgets for run in budget]
    measured = trained(1e5, 1e12)._replace(loss=3.25)
    page = str(scaling_page(runs, law, [find_valley(budget) for budget in budgets], measured, 3.0))
    assert "predicted 3.0000, measured 3.2500 nats a token" in page
    assert "+0.2500" in page
    assert "-0.2500" not in page
    for run in (*runs, measured):
        by_law = law.loss(run.parameters, run.tokens)
        assert f"<td>{run.loss:.4f}<td>{by_law:.4f}" in page
    for flops in ("1e+11", "4e+11", "1e+12"):
        assert f"Loss by size, {flops} FLOPs" in page
