"""The page of a classification run: complete for each kind of labels, honest about what is absent, escaped."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmx.report import write_report
from lmx.report.charts import Line, line_chart
from lmx.report.classes import (
    MAX_DRAWN_CLASSES,
    MAX_LISTED_CLASSES,
    class_table,
    confusion_matrix,
    marked_words,
    reliability_diagram,
)
from lmx.report.reasons import MAX_EXPLANATIONS, MAX_LETTERS, MAX_MISTAKES, MAX_PIECES

TREC = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
SENTENCES = (
    ("What is the capital of Yugoslavia ?", "LOC"),
    ("Who invented the paper clip ?", "HUM"),
    ("How many miles is it from London to Plymouth ?", "NUM"),
    ("What does the acronym NASA stand for ?", "ABBR"),
)
ALL = ["Scores", "Seeds", "Classes", "Calibration", "Learning", "Mistakes", "What moved the decision", "Attention"]


def names_of(count: int) -> list[str]:
    return TREC[:count] if count <= len(TREC) else [f"class {index}" for index in range(count)]


def calibration_of(confidence: np.ndarray, right: np.ndarray) -> dict:
    bins = np.minimum((confidence * 10).astype(int), 9)
    chosen = [bins == each for each in range(10)]
    means = [[float(values[each].mean()) if each.any() else 0.0 for each in chosen] for values in (confidence, right)]
    counts = [int(each.sum()) for each in chosen]
    error = sum(abs(a - b) * count for a, b, count in zip(*means, counts, strict=True)) / len(confidence)
    edges = [each / 10 for each in range(11)]
    return {"error": error, "edges": edges, "counts": counts, "confidence": means[0], "accuracy": means[1]}


def classes_of(names: list[str], rng: np.random.Generator) -> list[dict]:
    return [
        {
            "name": name,
            "precision": float(rng.uniform(0.6, 1)),
            "recall": float(rng.uniform(0.6, 1)),
            "f1": float(rng.uniform(0.6, 1)),
            "support": int(rng.integers(5, 130)),
        }
        for name in names
    ]


def scores_of(kind: str, *, classes: int, seeds: int) -> dict:
    """What scores.json holds, with numbers out of the air."""
    rng = np.random.default_rng(classes)
    names = names_of(classes) if kind != "regression" else []
    metric = {"single": "accuracy", "multi": "micro F1", "regression": "Pearson"}[kind]
    details: dict = {"kind": kind, "metrics": [{"name": metric, "score": 0.896, "interval": [0.86, 0.92]}]}
    details |= {"classes": classes_of(names, rng), "confusion": None, "calibration": None, "signature": "n:500"}
    if kind == "single":
        confusion = rng.poisson(1.2, (classes, classes)) * (rng.random((classes, classes)) < 0.5)
        np.fill_diagonal(confusion, [each["support"] for each in details["classes"]])
        confidence = rng.beta(6, 1, 500) * 0.6 + 0.4
        details["confusion"] = confusion.tolist()
        details["calibration"] = calibration_of(confidence, rng.random(500) < confidence - 0.07)
    rows = [
        {
            "name": f"trec test {metric}",
            "score": 88.4,
            "interval": [85.6, 91.0],
            "signature": "n:500|bs:1000|seed:12345|scikit-learn:1.9.1",
            "made": f"mean of {seeds} seeds ± 0.42 (sd)" if seeds > 1 else "one seed",
            "published": 91.2,
            "published_made": "of another paper",
        },
        {"name": "trec test macro F1", "score": 86.03, "interval": None, "signature": "n:500", "published": None},
    ]
    return {
        "test": "trec test",
        "texts": 500,
        "seconds": 1.2,
        "truncated": 3,
        "kind": kind,
        "rows": rows,
        "spread": [{"name": metric, "mean": 0.884, "deviation": 0.0042, "count": seeds}] if seeds > 1 else [],
        "seeds": [
            {
                "seed": seed,
                "best_step": 100 * seed,
                "dev": 0.88 + 0.001 * (seed * 3 % 5),
                "test": 0.88 + 0.002 * seed,
                "kept": seed == min(3, seeds),
            }
            for seed in range(1, seeds + 1)
        ],
        "scores": details,
        "names": names,
        "baselines": [{"name": "TF-IDF, linear", "score": 90.5}],
        "verdict": "The Transformer is 2.1 points below the linear model.",
    }


def metrics_of(metric: str, *, seeds: int) -> list[dict]:
    rng = np.random.default_rng(3)
    records = []

    def record(kind: str, step: int, **values: float) -> None:
        spread = {name: (value * rng.uniform(0.92, 1.08, seeds)).round(4).tolist() for name, value in values.items()}
        line = {"kind": kind, "step": step, "epoch": step / 50}
        line |= {name: float(np.mean(each)) for name, each in spread.items()}
        records.append(line | ({"seeds": spread} if seeds > 1 else {}))

    for step in range(10, 601, 10):
        record("train", step, loss=2 / (1 + step / 60))
        records[-1] |= {"learning_rate": 1e-3 * min(step / 100, 1), "tokens_per_second": 2e4, "skipped": 0}
        if step % 50 == 0:
            record("validation", step, loss=0.3 + abs(step - 350) / 700, **{metric: 0.85 - abs(step - 350) / 900})
    return records


def explanation_of(text: str, label: str, rng: np.random.Generator) -> dict:
    words = text.split()
    values = rng.normal(0.1, 0.3, len(words)).round(4).tolist()
    most = [0.97, 0.7, 0.45, 0.3, 0.28, 0.2]
    return {
        "text": text,
        "label": label,
        "prediction": label,
        "probability": 0.97,
        "pieces": words,
        "attributions": values,
        "words": [list(each) for each in zip(words, values, strict=True)],
        "gap": 0.0031,
        "deletion": {"most": most, "random": [0.97, 0.95, 0.9, 0.88, 0.8, 0.75]},
    }


def write_run(directory: Path, kind: str = "single", *, classes: int = 6, seeds: int = 5) -> Path:
    """Writes every file of a finished run."""
    rng = np.random.default_rng(1)
    metric = {"single": "accuracy", "multi": "micro F1", "regression": "Spearman"}[kind]
    config = {
        "experiment": "classification",
        "family": "classifier",
        "preset": "trec",
        "config": {"kind": kind, "max_length": 64, "stride": None},
        "model": {"width": 64, "pooling": "mean"},
    }
    names = names_of(classes) if kind != "regression" else []
    label, wrong = {"single": (names[:1], names[1:2]), "multi": ([names[:2]], [[]])}.get(kind, ([4.25], ["1.2345678"]))
    mistakes = [
        {
            "index": index,
            "text": ["Is it so ?", f"Pair {index} ."] if index % 2 else f"What is text {index} ?",
            "label": label[0],
            "prediction": wrong[0],
            "probability": None if kind == "regression" else round(0.99 - index / 100, 3),
        }
        for index in range(30)
    ]
    maps = [
        {"text": text, "pieces": text.split(), "weights": rng.dirichlet(np.ones(n), (2, 2, n)).round(3).tolist()}
        for text, _ in SENTENCES[:2]
        for n in [len(text.split())]
    ]
    files = {
        "config.json": config,
        "versions.json": {"lmx": "0.1", "device": "CPU, 2 cores"},
        "start.json": {"parameters": 171234, "padding_share": 0.08},
        "labels.json": {"kind": kind, "names": names},
        "scores.json": scores_of(kind, classes=classes, seeds=seeds),
        "explanations.json": [explanation_of(text, name, rng) for text, name in SENTENCES],
        "attention.json": maps,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value, ensure_ascii=False))
    for name, records in (("metrics.jsonl", metrics_of(metric, seeds=seeds)), ("mistakes.jsonl", mistakes)):
        (directory / name).write_text("".join(json.dumps(each) + "\n" for each in records))
    return directory


def change(run: Path, name: str, **values) -> None:
    path = run / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def content(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def visible(page: str) -> str:
    """The words that a person sees, without style and script."""
    body = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


class Balance(HTMLParser):
    """Fails where an element is closed that is not the one open."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "link", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Paths close themselves."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


def assert_sound(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert len(page) < 2_000_000
    assert not re.search(r"\bsrc=|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert set(re.findall(r"\w+://[^\s'\"]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"\b(nan|inf|Infinity|NaN)\b", page)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def test_a_finished_run_shows_everything(run):
    page = content(run)
    assert_sound(page)
    assert headings(page) == [*ALL, "Setup"]
    words = visible(page)
    for said in (
        "88.40 trec test accuracy of 100 texts, 88 get the right class mean of 5 seeds ± 0.42 (sd) 95%",
        "published 91.20, a difference of −2.80 TF-IDF, linear 90.50, a difference of −2.10",
        "The Transformer is 2.1 points below the linear model.",
        "labels one label a text classes 6 seeds 5 parameters 171,234",
        "trec test · 500 texts · 3 of them cut to the longest length",
        "ours mean of 5 seeds ± 0.42 (sd) published of another paper",
        "accuracy 88.40 ± 0.42",
        "seed 3 best on development: the model kept",
        "88.40 88.60 300",
        "Of the 5 seeds together (the mean of their probabilities, accuracy 89.60).",
        "best mean of 5 seeds on validation:",
        "Lines are the mean of 5 seeds, bands reach from the lowest to the highest.",
        "predicted DESC 99.0% true ABBR What is text 0 ?",
        "Is it so ? Pair 1 .",
        "predicted LOC 97.0% right What is the capital",
        "the parts add up to the whole but for 0.0031",
        "marked words 0.2 random words 0.75",
    ):
        assert said in words, said
    assert "bs:1000|<wbr>seed:12345" in page


@pytest.mark.parametrize(("classes", "seeds"), [(2, 1), (2, 5), (20, 1), (20, 5), (77, 5)])
def test_a_page_stands_for_few_and_many_classes_and_seeds(tmp_path, classes, seeds):
    page = content(write_run(tmp_path, classes=classes, seeds=seeds))
    assert_sound(page)
    assert headings(page) == [*ALL, "Setup"]
    assert ("class='band " in page) == (seeds > 1)
    assert ("another seed would lie from it is not known" in page) == (seeds == 1)
    assert ("the model kept" in page) == (seeds > 1)
    assert f"classes {classes}" in visible(page)


def test_several_labels_a_text_have_a_table_and_no_confusion(tmp_path):
    page = content(write_run(tmp_path, "multi"))
    assert_sound(page)
    assert headings(page) == [each if each != "Classes" else "Labels" for each in ALL if each != "Calibration"] + [
        "Setup"
    ]
    words = visible(page)
    assert "class=confusion" not in page
    assert "Labels, the weakest first" in words
    assert "predicted no label 99.0% true ABBR, DESC" in words
    assert "any number of labels a text" in words
    assert "always" not in words


def test_a_regression_has_no_classes(tmp_path):
    page = content(write_run(tmp_path, "regression"))
    assert_sound(page)
    assert headings(page) == [each for each in ALL if each not in ("Classes", "Calibration")] + ["Setup"]
    words = visible(page)
    assert "88.40 trec test Pearson linear correlation with the true numbers" in words
    assert "predicted 1.23 true 4.25" in words
    assert "Spearman" in words
    assert "Far from the truth" in words
    assert "the number that it says falls faster" in words
    assert "Without the marked words it falls by 0.58 on average, without random ones by 0.11" in words


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("scores.json", ["Scores", "Seeds", "Classes", "Calibration"]),
        ("metrics.jsonl", ["Learning"]),
        ("mistakes.jsonl", ["Mistakes"]),
        ("explanations.json", ["What moved the decision"]),
        ("attention.json", ["Attention"]),
        ("labels.json", []),
        ("start.json", []),
        ("versions.json", []),
    ],
)
def test_what_is_absent_is_left_out(run, name, gone):
    (run / name).unlink()
    page = content(run)
    assert_sound(page)
    assert headings(page) == [each for each in [*ALL, "Setup"] if each not in gone]


@pytest.mark.parametrize("inside", [False, True])
def test_a_field_of_the_scores_that_is_null_is_one_that_is_absent(run, inside):
    path = run / "scores.json"
    scores = json.loads(path.read_text())
    fields = scores["scores"] if inside else scores
    for name in [*fields]:
        value = fields.pop(name)
        path.write_text(json.dumps(scores))
        without = content(run)
        fields[name] = None
        path.write_text(json.dumps(scores))
        assert content(run) == without, name
        fields[name] = value


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text('{"experiment": "classification"}')
    page = content(tmp_path)
    assert_sound(page)
    assert headings(page) == []
    assert f"<title>{tmp_path.name} · lmx</title>" in page


def test_the_page_is_chosen_by_the_experiment_or_else_by_the_family(tmp_path):
    for config, style in (
        ({"family": "classifier"}, True),
        ({"experiment": "a script of mine", "family": "classifier"}, True),
        ({"experiment": ["x"]}, False),
        ({"experiment": "translation", "family": "classifier"}, False),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert (".confusion text" in content(tmp_path)) == style


def test_before_scoring_the_headline_is_the_best_validation(run):
    (run / "scores.json").unlink()
    assert re.search(r"8\d\.\d\d best validation accuracy at step 350 the test set is not", visible(content(run)))
    (run / "metrics.jsonl").write_text('{"kind": "validation", "step": 7, "loss": 2.5}\n')
    assert "2.50 best validation loss at step 7 the test set is not scored yet" in visible(content(run))


def test_without_a_verdict_the_best_baseline_gives_it(run):
    baselines = [{"name": "words", "score": 80.0}, {"name": "TF-IDF", "score": 89.0}]
    change(run, "scores.json", verdict="", baselines=baselines)
    assert "This run is 0.60 points below TF-IDF." in visible(content(run))
    change(run, "scores.json", verdict=None, baselines=[{"name": "words", "score": 88.4}])
    assert "This run is level with words." in visible(content(run))
    change(run, "scores.json", rows=[{"name": "test mean squared error", "score": 0.3}])
    assert "class=verdict" not in content(run)


def bars_of(page: str) -> list[tuple[str, str, str]]:
    """The bars of what the number means: name, colour, value."""
    part = page.partition("What the number means")[2].partition("</figure>")[0]
    return re.findall(r"<dt>([^<]*)</dt>.*?class='(strong|quiet)'.*?<b>([^<]*)</b>", part)


def test_bars_rise_to_those_of_others_and_the_runs_own_is_last_and_strong(run):
    baselines = [{"name": "better", "score": 95.0}, {"name": "worse", "score": 40.0}]
    change(run, "scores.json", baselines=baselines, kind="multi")
    assert bars_of(content(run)) == [
        ("worse", "quiet", "40.0"),
        ("published", "quiet", "91.2"),
        ("better", "quiet", "95.0"),
        ("this run", "strong", "88.4"),
    ]
    change(run, "scores.json", baselines=[], rows=[{"name": "test macro F1", "score": 50.0}])
    assert bars_of(content(run)) == []  # alone it says nothing


def test_a_selection_by_loss_and_folds_are_said_and_a_squared_error_is_no_share(run):
    seeds = [{"seed": 1, "dev": 0.51234, "test": 0.875, "best_step": 40, "kept": True}, {"seed": 2}]
    spread = [{"name": "Mean squared error", "mean": 1.25, "deviation": 0.5}]
    change(run, "scores.json", select="loss", seeds=seeds, spread=spread, spread_over="folds")
    words = visible(content(run))
    assert "Folds Mean and standard deviation over the folds: other texts in training and test" in words
    assert "Mean squared error 1.25 ± 0.50" in words
    assert "development loss" in words
    assert "the model kept 0.5123 87.50 40" in words


def test_lower_is_better_for_a_squared_error_and_its_band_is_of_the_seeds(run):
    (run / "scores.json").unlink()
    values = ((10, [0.9, 0.5, 0.7]), (20, [0.4, 0.2, 0.3]), (30, [0.5, 0.6, 0.4]))
    lines = [
        {"kind": "validation", "step": step, "mean_squared_error": np.mean(each), "seeds": {"mean_squared_error": each}}
        for step, each in values
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = content(run)
    assert "best mean of 3 seeds on validation: 0.3 at step 20" in page
    assert "0.30 best validation mean squared error at step 20" in visible(page)
    assert "seeds from 0.4 to 0.6 at the end." in page


def test_the_most_frequent_class_is_a_baseline_of_accuracy(run):
    details = json.loads((run / "scores.json").read_text())["scores"]
    support = {each["name"]: each["support"] for each in details["classes"]}
    name = max(support, key=support.__getitem__)
    assert f"always {name} {100 * support[name] / sum(support.values()):.1f}" in visible(content(run))


def test_nothing_from_a_file_becomes_markup(run):
    evil = "</script></title><script>alert('x')</script>\"'><img src=x onerror=alert(1)>&"
    fixed = {"single", "train", "validation", "classification", "classifier"}

    def poison(value):
        if isinstance(value, str):
            return value if value in fixed else value + evil
        if isinstance(value, list):
            return [poison(each) for each in value]
        return {key: poison(each) for key, each in value.items()} if isinstance(value, dict) else value

    for path in sorted(run.iterdir()):
        lines = path.read_text().splitlines()
        path.write_text("".join(json.dumps(poison(json.loads(line))) + "\n" for line in lines))
    page = content(run)
    assert page.count("alert(") > 100  # it is there,
    assert "<img" not in page
    assert "<script>alert" not in page
    assert page.count("</script>") == 3
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_bad_files_are_named(run):
    good = scores_of("single", classes=6, seeds=5)["scores"]
    for name, written, message in (
        ("scores.json", {"seeds": [{"dev": 1}]}, r"scores\.json seeds 0 must have a seed, got \{'dev': 1\}\."),
        ("scores.json", {"spread": [{"name": "x"}]}, r"scores\.json spread 0 must have name, mean and deviation"),
        ("scores.json", {"scores": [1]}, r"scores\.json scores must be an object"),
        ("scores.json", {"scores": {"metrics": [{"name": "x"}]}}, r"scores\.json metrics 0 must have name and score"),
        ("scores.json", {"scores": {"classes": [{"name": "x"}]}}, r"scores\.json classes 0 must have name, precision"),
        (
            "scores.json",
            {"names": ["a", "b"], "scores": {"confusion": [[1, 2]]}},
            r"scores\.json confusion must be 2 rows of 2 counts, as there are 2 names, got \[2\]\.",
        ),
        (
            "scores.json",
            {"scores": {"calibration": good["calibration"] | {"counts": [1]}}},
            r"scores\.json calibration must have an error, edges, and one less of counts, .* got \[11, 1, 10, 10\]\.",
        ),
        ("explanations.json", [{"words": ["a"]}], r"explanations\.json entry 0 must have words \[\[word, number\]"),
        (
            "explanations.json",
            [{"words": [], "deletion": {"most": ["a"]}}],
            r"explanations\.json entry 0 deletion most must be numbers, got \['a'\]\.",
        ),
        ("attention.json", [{"pieces": ["a"]}], r"entry 0 must have pieces and weights \[layers\]\[heads\]\[pieces\]"),
        (
            "attention.json",
            [{"pieces": ["a"], "weights": [[[[1, 0]]]]}],
            r"must have weights \[layers, heads, 1, 1\], as it has 1 pieces, got \[1, 1, 1, 2\]\.",
        ),
    ):
        path = run / name
        kept = path.read_text()
        path.write_text(json.dumps(written))
        with pytest.raises(ValueError, match=message):
            write_report(run)
        path.write_text(kept)
    (run / "mistakes.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"mistakes\.jsonl line 1 must have label and prediction, got"):
        write_report(run)


def test_long_texts_many_mistakes_and_large_maps_are_cut_and_said(run):
    records = [{"text": "x" * (MAX_LETTERS + 5), "label": "a", "prediction": "b", "probability": 0.9}] * 40
    (run / "mistakes.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    size = MAX_PIECES + 1
    large = {"text": "long", "pieces": ["p"] * size, "weights": np.full((1, 1, size, size), 1 / size).tolist()}
    (run / "attention.json").write_text(json.dumps([large]))
    entry = explanation_of("a b", "x", np.random.default_rng(0))
    (run / "explanations.json").write_text(json.dumps([entry] * 20))
    page = content(run)
    words = visible(page)
    assert words.count("… (5 letters more)") == MAX_MISTAKES
    assert f"{MAX_MISTAKES} of 40 in mistakes.jsonl" in words
    assert page.count("class=words") == MAX_EXPLANATIONS
    assert "Attention" not in headings(page)


def test_one_explanation_has_its_curve_once_and_a_number_has_few_digits(run):
    (entry, *_) = json.loads((run / "explanations.json").read_text())
    entry |= {"gap": -0.004, "prediction": "0.123456", "label": None}
    (run / "explanations.json").write_text(json.dumps([entry]))
    page = content(run)
    assert "After deleting" not in page
    assert "<div class='explained alone'>" in page
    assert "but for 0.004" in page
    assert "predicted <b>0.123</b> 97.0%</span></p>" in page  # and nothing of what is not known to be true
    assert "<span class=where>words deleted</span>" in page
    (run / "explanations.json").write_text(json.dumps([entry | {"prediction": "1.234"}] * 2))
    page = content(run)
    assert page.count("After deleting") == 2 * 2  # said again for those who cannot see it
    assert "predicted <b>1.234</b>" in page  # a label that looks like a number


def test_a_probability_has_a_chart_from_nothing_to_all(run):
    page = content(run)
    chart = page.partition("Does deleting these words matter?")[2].partition("<svg")[0]
    assert re.findall(r"<span style='top:([\d.]+)%'>([\d.]+)<", chart)[0] == ("100.0", "0")
    assert "<span style='top:0.0%'>1</span>" in chart


def test_the_check_of_the_colours_says_when_it_fails(run):
    entries = json.loads((run / "explanations.json").read_text())
    assert "falls by 58 points on average, without random ones by 11 points: they matter more." in visible(content(run))
    for entry in entries:
        entry["deletion"]["most"] = [0.97, 0.96, 0.94]
    (run / "explanations.json").write_text(json.dumps(entries))
    said = "by 2 points on average, without random ones by 4 points: they matter no more than others, so do not trust"
    assert said in visible(content(run))
    for entry in entries:
        del entry["deletion"]["random"]
    (run / "explanations.json").write_text(json.dumps(entries))
    assert "on average, without" not in visible(content(run))


def test_the_curve_of_a_short_text_does_not_bend_the_mean(run):
    entries = json.loads((run / "explanations.json").read_text())
    entries[0]["deletion"] = {"most": [0.1, 0.1], "random": [0.1, 0.1]}
    (run / "explanations.json").write_text(json.dumps(entries))
    assert "Does deleting these words matter?: marked words from 0.97 to 0.2; random words" in content(run)


# The drawings


def cells(drawn: str) -> list[tuple[str, float]]:
    found = re.findall(r"<rect class=(right|wrong) [^>]*fill-opacity=([\d.]+)", drawn)
    return [(style, float(opacity)) for style, opacity in found]


def test_a_confusion_matrix_shows_counts_shares_and_the_most_frequent_mistakes():
    drawn = confusion_matrix(np.array([[9, 1], [0, 30]]), names=["no", "<yes>"])
    assert cells(drawn) == [("right", 0.91), ("wrong", 0.21), ("right", 1.0)]  # an empty cell has no colour
    assert "<title>true no, predicted &lt;yes&gt;: 1, 10.0% of the row</title>" in drawn
    assert re.findall(r"<text class='cell[^>]*>(.*?)</text>", drawn) == ["9", "90%", "1", "10%", "30", "100%"]
    assert "no taken for &lt;yes&gt; <small>1 text, 10% of the class</small>" in drawn
    assert "&lt;yes&gt; taken for no" not in drawn
    assert "aria-label='Confusion matrix of 2 classes: 39 of 40 texts are on the diagonal.'" in drawn
    assert "<td data-column='no'><span class=none>0</span></td>" in drawn


def test_a_row_is_a_true_class_and_a_column_a_predicted_one():
    drawn = confusion_matrix(np.array([[9, 1], [0, 30]]), names=["no", "yes"])
    places = [[*map(float, found)] for found in re.findall(r"<rect class=\w+ x=([\d.]+) y=([\d.]+)", drawn)]
    (left, top), (right, level), (under, below) = places  # no and no, no taken for yes, yes and yes
    assert level == top
    assert right == under > left
    assert below > top
    assert below - top == right - left == 92
    assert re.findall(r"text-anchor=end>(\w+)<", drawn) == ["no", "yes"]
    middles = [float(x) for x in re.findall(r"translate\(([\d.]+) [\d.]+\)' text-anchor=middle", drawn)]
    assert middles == [pytest.approx(x + 46, abs=1) for x in (left, right)]


def test_the_most_frequent_mistakes_are_eight_and_the_most_frequent_first():
    counts = np.diag([50] * 5) + np.triu(np.arange(25).reshape(5, 5), 1)
    listed = re.findall(r"<li>(c\d) taken for (c\d) <small>(\d+) texts?, (\d+)%", confusion_matrix(counts, names=[f"c{n}" for n in range(5)]))  # fmt: skip  # noqa: E501
    assert [int(count) for *_, count, _ in listed] == [19, 14, 13, 9, 8, 7, 4, 3]
    assert listed[0] == ("c3", "c4", "19", "28")


@pytest.mark.parametrize(("size", "side", "written"), [(3, 92, True), (14, 38, True), (24, 29, True), (25, 22, False)])
def test_cells_that_are_too_small_have_no_numbers(size, side, written):
    drawn = confusion_matrix(np.diag([7] * size), names=[f"a class with a name of {n}" for n in range(size)])
    assert f"width={side - 1} height={side - 1} " in drawn
    assert ("<text class='cell" in drawn) == written
    assert "a class with a name of 0<" in drawn  # 24 letters and no more
    assert ("a class with a name of …<" in drawn) == (size > 10)


def test_a_class_without_texts_divides_nothing_by_zero():
    drawn = confusion_matrix(np.array([[4, 0], [0, 0]]), names=["a", "b"])
    assert cells(drawn) == [("right", 1.0)]
    assert "taken for" not in drawn


def test_of_many_classes_those_with_mistakes_are_drawn():
    size = MAX_DRAWN_CLASSES + 10
    counts = np.eye(size, dtype=int) * 5
    counts[-1, -2] = 3
    drawn = confusion_matrix(counts, names=[f"c{index}" for index in range(size)])
    assert f"The {MAX_DRAWN_CLASSES} of {size} classes with the most mistakes." in drawn
    assert ("wrong", 0.45) in cells(drawn)  # 3 of 8
    assert len(cells(drawn)) == MAX_DRAWN_CLASSES + 1


def test_letters_of_a_full_cell_take_the_colour_of_the_paper():
    counts = np.array([[90, 10], [35, 65]])
    styles = re.findall(r"<text class='cell([^']*)'[^>]*>(\d+)</text>", confusion_matrix(counts, names=["a", "b"]))
    assert styles == [(" full", "90"), (" off", "10"), (" off", "35"), (" half", "65")]


def test_classes_come_weakest_first_and_those_without_texts_last():
    each = {"precision": 0.5, "recall": 1.0}
    drawn = class_table(
        [
            {"name": "strong", "f1": 0.9, "support": 50} | each,
            {"name": "weak", "f1": 0.2, "support": 100} | each,
            {"name": "none", "f1": 0.0, "support": 0} | each,
        ],
        what="label",
    )
    assert re.findall(r"<th scope=row>(\w+)", drawn) == ["weak", "strong", "none"]
    assert "none <small>not in the test set</small>" in drawn
    assert re.findall(r"d='M0 0H([\d.]+)V1H0Z'/></svg><b>", drawn)[:3] == ["50.0", "100.0", "100.0"]
    assert class_table([], what="label") == ""


def test_many_classes_are_folded():
    rows = [{"name": str(i), "precision": 1, "recall": 1, "f1": i / 100, "support": 1} for i in range(35)]
    drawn = class_table(rows, what="class")
    assert f"<summary>The other {35 - MAX_LISTED_CLASSES}, better ones</summary>" in drawn


def test_a_reliability_diagram_has_a_bar_a_bin_with_texts():
    drawn = reliability_diagram(
        {
            "error": 0.14,
            "edges": [0, 0.5, 0.75, 1],
            "counts": [4, 10, 30],
            "confidence": [0.4, 0.7, 0.9],
            "accuracy": [0.5, 0.8, 0.75],
        }
    )
    assert drawn.count("<path class='bin") == 3
    assert "<path class='bin few' d='M0.25 50.00h49.50" in drawn  # 4 texts are no measurement
    assert "<path class='bin' d='M50.25 20.00h24.50V100h-24.50z'>" in drawn  # 80% right
    assert "<path class='gap' d='M75.25 10.00h24.50V25.00h-24.50z'>" in drawn  # from 90% sure to 75% right
    assert "M40.00 50.00h0M70.00 20.00h0M90.00 25.00h0" in drawn
    assert "<path class=count d='M50.25 66.67h" in drawn  # 10 of 30 texts
    assert "Calibration error 14.0" in drawn
    assert "Over all 44 texts the mean confidence is 80.9%, and 73.9% are right: too sure by 7.0 points." in drawn
    assert (
        "<th scope=row>0 to 50</th><td data-column='texts'>4</td><td data-column='mean confidence'>40.0</td>" in drawn
    )
    doubt, sure = (
        reliability_diagram({"error": 0.1, "edges": [0, 1], "counts": [9], "confidence": [0.7], "accuracy": [right]})
        for right in (0.8, 0.7)
    )
    assert "the mean confidence is 70.0%, and 80.0% are right: not sure enough by 10.0 points." in doubt
    assert "and 70.0% are right: as sure as right." in sure
    empty = {"error": 0.0, "edges": [0, 1], "counts": [0], "confidence": [0], "accuracy": [0]}
    assert reliability_diagram(empty) == ""


def test_words_are_marked_by_how_far_and_which_way_they_moved_the_decision():
    drawn = marked_words([("Who", 0.8), ("<b>", -0.4), ("the", 0.01), ("did", 0.2)])
    assert "<span class='for much' style='--w:50%' title='+0.800'>Who</span>" in drawn
    assert "<span class='against much' style='--w:29%' title='−0.400'>&lt;b&gt;</span> the " in drawn
    assert "<span class='for' style='--w:18%' title='+0.200'>did</span>" in drawn
    assert "<b>towards</b> Who +0.800, did +0.200, the +0.010" in drawn
    assert "<b>against</b> &lt;b&gt; −0.400" in drawn
    many = marked_words([(f"w{n}", 1 - n / 100) for n in range(7)] + [(f"v{n}", n / 100 - 1) for n in range(5)])
    assert re.findall(r"(\w\d) [+−]", many) == ["w0", "w1", "w2", "w3", "w4", "v0", "v1", "v2"]
    near = marked_words([("a", 1.0), ("b", 0.4), ("c", 0.39), ("d", 0.05), ("e", 0.049)])
    assert re.findall(r"class='([\w ]+)'[^>]*>(\w)<", near) == [
        ("for much", "a"), ("for much", "b"), ("for", "c"), ("for", "d"),
    ]  # fmt: skip
    assert marked_words([("a", 0.0)]) == "<p class=words>a</p>"


def test_a_band_lies_behind_the_lines_and_inside_the_chart():
    line = Line(label="train", points=[(0, 10), (100, 5)], band=[(0, 10, 20), (100, 0, 10)])
    chart = line_chart([line], title="Loss")
    assert "<path class='band c1' d='M0 0L100 50L100 100L0 50Z'/>" in chart
    assert chart.index("class='band") < chart.index("class='line")
    assert "train from 10 to 5, seeds from 0 to 10 at the end." in chart


def test_a_chart_reaches_as_far_as_it_is_told():
    assert "<span style='top:100.0%'>0</span>" in line_chart(
        [Line(label="", points=[(0, 0.9), (1, 0.8)])], title="probability", y_range=(0, 1)
    )
