"""The report is complete, self-contained, escaped, and honest about files that are absent, cut off or wrong."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmx.report import write_report
from lmx.report.charts import MAX_POINTS, Bar, Line, _thin, _ticks, bar_chart, heatmap, line_chart
from lmx.report.files import AttentionMap
from lmx.report.page import facts, number, plain, section, table, text
from lmx.report.sections import MAX_ATTENTION_BYTES, attention_section, placing_facts, score_table
from lmx.report.style import SCRIPT
from lmx.report.translation import _samples_section, mark_differences

CONFIG = {
    "experiment": "translation",
    "preset": "phrasebook",
    "family": "seq2seq",
    "config": {"optimizer": {"learning_rate": 0.002, "clip": None}, "epochs": 12},
    "model": {"width": 256, "tied": True},
}
SCORES = {
    "test": "phrasebook test",
    "rows": [
        {
            "name": "phrasebook test BLEU",
            "score": 96.21,
            "interval": [95.3, 97.0],
            "signature": "nrefs:1|case:mixed|tok:13a",
            "made": "beam 4, average of 3 checkpoints",
            "published": 95.9,
            "published_made": "beam 5, of another paper",
        },
        {"name": "phrasebook test chrF2", "score": 97.8, "interval": None, "signature": "nc:6", "published": None},
    ],
    "constructions": {"verb_final": {"exact": 0.81, "count": 1150}, "negation": {"exact": 0.93, "count": 200}},
    "baselines": [{"name": "word-for-word dictionary", "score": 23.14}],
}
WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 3, 4)).round(3)  # [layers heads target source]
ATTENTION = [
    {
        "source": ["▁the", "▁old", "▁do", "g", "</s>"],
        "target": ["▁der", "▁alte", "▁Hund", "</s>"],
        "weights": WEIGHTS.tolist(),
    }
]
VOID_TAGS = {"meta", "link", "wbr"}


def train_record(step: int, **values) -> dict:
    return {"kind": "train", "step": step, "epoch": step / 50, "loss": 9 / step, "tokens_per_second": 2e4} | values


def lines(records: list[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def samples(count: int, *, exact: int) -> list[dict]:
    return [
        {
            "source": f"source {index}",
            "reference": f"das ist Satz {index}",
            "hypothesis": f"das ist {'Satz' if index < exact else 'Platz'} {index}",
            "chrf": 100.0 if index < exact else 100 - index,
            "construction": "verb_final",
        }
        for index in range(count)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with every file of a finished run."""
    metrics = [
        train_record(step, learning_rate=1e-5 * step, gradient_norm=1.5, skipped=0, seconds=float(step))
        for step in range(1, 1001)
    ]
    metrics += [
        {"kind": "validation", "step": step, "epoch": step / 50, "loss": 2 + abs(step - 600) / 1000, "bleu": step / 20}
        for step in range(200, 1001, 200)
    ]
    versions = {"lmx": "0.1", "jax": "0.10.2", "device": "CPU, 2 cores"}
    start = {"parameters": 2571234, "batch_shapes": [[256, 16], [64, 48]], "padding_share": 0.119, "mesh": {"data": 1}}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "versions.json").write_text(json.dumps(versions))
    (tmp_path / "start.json").write_text(json.dumps(start))
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    (tmp_path / "metrics.jsonl").write_text(lines(metrics))
    (tmp_path / "samples.jsonl").write_text(lines(samples(50, exact=10)))
    (tmp_path / "attention.json").write_text(json.dumps(ATTENTION))
    return tmp_path


def content(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def visible(page: str) -> str:
    """Returns the words a person sees, without style and script."""
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
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Paths and cells close themselves."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


def test_a_finished_run_shows_everything(run):
    page = content(run)
    words = visible(page)
    assert headings(page) == ["Scores", "Learning", "Samples", "Attention", "Setup"]
    for said in (
        "96.21 phrasebook test BLEU 95% interval 95.30 to 97.00 published 95.90, a difference of +0.31",
        "+0.31 · inside our interval",
        "ours beam 4, average of 3 checkpoints",
        "published beam 5, of another paper",
        "word-for-word dictionary 23.1",
        "this run 96.2",
        "verb final 81.0% of 1,150 negation 93.0% of 200",  # the weakest first
        "parameters 2.571 M",
        "updates 1,000",
        "epochs 20.0",
        "best validation loss 2 at step 600",
        "best on validation: 50 at step 1,000",
        "tokens a second, median 20,000",
        "training time 16 min 40 s",
        "device CPU, 2 cores",
        "Learning rate 0.01",
        "50 sentences, 10 of them (20%) equal to the reference",
        "the old dog",  # pieces read as a sentence
        "batch shapes 256\u00a0×\u00a016, 64\u00a0×\u00a048".replace("\u00a0", " "),
        "padding share 11.9%",
        "optimizer.learning_rate 0.002",
        "optimizer.clip none",
        "tied yes",
    ):
        assert said in words
    assert "skipped" not in words
    assert "nrefs:1|<wbr>case:mixed|<wbr>tok:13a" in page


def test_the_page_is_one_small_file_that_opens_no_connection(run):
    page = content(run)
    assert len(page) < 2_000_000
    assert "default-src 'none'" in page
    assert not re.search(r"\bsrc=|@import|url\(|fetch\(|XMLHttpRequest", page)
    addresses = set(re.findall(r"\w+://[^\s'\"]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert re.findall(r"href=(\S+)", page) == ["'data:,'>" + "<title>phrasebook"]


def test_the_markup_is_balanced(run):
    balance = Balance()
    balance.feed(content(run))
    assert balance.open == []


def test_the_same_files_give_the_same_page_and_nothing_beside_it(run):
    before = {path.name for path in run.iterdir()}
    first = content(run)
    assert content(run) == first
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("scores.json", "Scores"),
        ("metrics.jsonl", "Learning"),
        ("samples.jsonl", "Samples"),
        ("attention.json", "Attention"),
        ("start.json", None),
        ("versions.json", None),
    ],
)
def test_what_is_absent_is_left_out(run, name, heading):
    (run / name).unlink()
    expected = [each for each in ("Scores", "Learning", "Samples", "Attention", "Setup") if each != heading]
    assert headings(content(run)) == expected


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    page = content(tmp_path)
    assert headings(page) == []
    assert f"<title>{tmp_path.name} · lmx</title>" in page


def test_before_scoring_the_headline_is_the_best_validation(run):
    (run / "scores.json").unlink()
    assert "50.00 best validation BLEU at step 1,000 the test set is not scored yet" in visible(content(run))
    (run / "metrics.jsonl").write_text(lines([{"kind": "validation", "step": 7, "loss": 2.5}]))
    assert "2.50 best validation loss at step 7" in visible(content(run))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config": {"test": "test.tsv"}}, "the test set is not scored yet"),
        ({"config": {"test": None}}, "there is no test set"),
        ({"config": {"test": None}, "fold": 2}, "the test set is not scored yet"),
        ({"config": {"test": None, "train": "stdlib"}}, "the test set is not scored yet"),
        ({"config": {}}, "the test set is not scored yet"),
    ],
)
def test_before_scoring_it_is_told_whether_there_is_a_test_set(run, changes, told):
    (run / "scores.json").unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))
    assert f"at step 1,000 {told}" in visible(content(run))


def test_nothing_from_a_file_becomes_markup(run):
    evil = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)>&"

    def poison(value):
        if isinstance(value, str):
            return value if value in ("train", "validation") else value + evil
        if isinstance(value, list):
            return [poison(each) for each in value]
        if isinstance(value, dict):
            return {key if key in KNOWN else key + evil: poison(each) for key, each in value.items()}
        return value

    KNOWN = {"rows", "constructions", "baselines", "exact", "config", "model"} | {
        key
        for each in (CONFIG, SCORES, SCORES["rows"][0], SCORES["baselines"][0], ATTENTION[0], samples(1, exact=1)[0])
        for key in each
    } - {"width"}
    KNOWN |= {"kind", "step", "epoch", "loss", "bleu", "count", "parameters", "device"}
    for path in run.iterdir():
        if path.suffix == ".json":
            path.write_text(json.dumps(poison(json.loads(path.read_text()))))
        else:
            path.write_text(lines([poison(json.loads(line)) for line in path.read_text().splitlines()]))
    page = content(run)
    assert page.count("alert(") > 20  # it is there,
    assert "<img" not in page
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_values_that_are_not_finite_leave_a_gap_and_no_nan(run):
    records = [train_record(1), train_record(2, loss=math.nan), train_record(3, loss=math.inf, skipped=1)]
    (run / "metrics.jsonl").write_text(lines(records))
    page = content(run)
    assert not re.search(r"\b(nan|inf|Infinity|NaN)\b", page)
    assert "steps skipped, not finite 1" in visible(page)


def test_of_a_step_written_twice_the_later_counts(run):
    first = [train_record(step, loss=5.0) for step in (1, 2, 3)]
    resumed = [train_record(step, loss=4.0) for step in (2, 3, 4)]
    (run / "metrics.jsonl").write_text(lines(first + resumed))
    assert "[[1,5],[2,4],[3,4],[4,4]]" in content(run)


def test_a_last_line_cut_off_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with (run / "samples.jsonl").open("ab") as file:
        file.write('{"source": "Straß'.encode()[:-1])  # in the middle of a letter
    assert "Learning" in headings(content(run))


@pytest.mark.parametrize(
    ("published", "said", "inside"),
    [
        (99.0, "99.00 −2.79", False),
        (90.0, "90.00 +6.21", False),
        (95.3, "95.30 +0.91", True),
        (97.0, "97.00 −0.79", True),
    ],
)
def test_a_published_number_outside_the_interval_is_not_called_inside(published, said, inside):
    (row,) = re.findall(r"<tr>.*?</tr>", score_table([SCORES["rows"][0] | {"published": published}]))[1:]
    words = visible(row)
    assert said in words
    assert ("inside our interval" in words) == inside


def test_without_published_numbers_there_is_no_column_for_them(run):
    (run / "scores.json").write_text(json.dumps({"rows": [{"name": "BLEU", "score": 30}]}))
    page = content(run)
    assert "30.00 BLEU" in visible(page)
    assert "<th scope=col>published</th>" not in page


def test_samples_go_from_the_furthest_to_the_closest(run):
    words = visible(content(run))
    far, middle, close = (
        words.index(title)
        for title in ("Furthest from the reference", "Around the median", "Closest to the reference, longest first")
    )
    assert far < words.index("source 49") < middle < close
    assert "source 9" in words[close:]


def test_where_most_samples_are_exact_the_median_is_not_shown(run):
    (run / "samples.jsonl").write_text(lines(samples(50, exact=45)))
    words = visible(content(run))
    assert "Furthest from the reference" in words
    assert "Around the median" not in words


def test_few_samples_are_shown_once_and_repeated_sources_once(run):
    (run / "samples.jsonl").write_text(lines(samples(5, exact=2) * 3))
    words = visible(content(run))
    assert "All, furthest from the reference first" in words
    assert words.count("source 4") == 1


def test_words_that_differ_are_marked_on_their_side():
    ours, theirs = mark_differences("der alte Hund <sieht> den Mann", "der junge Hund sieht den Mann nicht")
    assert ours == ("der <mark class=extra>alte</mark> Hund <mark class=extra>&lt;sieht&gt;</mark> den Mann")
    assert theirs == (
        "der <mark class=missed>junge</mark> Hund <mark class=missed>sieht</mark> den Mann "
        "<mark class=missed>nicht</mark>"
    )
    assert mark_differences("", "ja doch") == ("", "<mark class=missed>ja doch</mark>")


def test_attention_weights_travel_as_bytes(run):
    data = json.loads(re.search(r"<script type=application/json>(.*?)</script>", content(run)).group(1))
    assert data["shape"] == [2, 3, 4, 5]
    levels = np.frombuffer(base64.b64decode(data["levels"]), dtype=np.uint8).reshape(data["shape"])
    assert levels / 255 == pytest.approx(WEIGHTS, abs=0.5 / 255 + 1e-9)


def test_attention_too_large_for_the_page_is_left_out_and_said(run):
    large = {"source": ["s"] * 300, "target": ["t"] * 300, "weights": np.zeros((2, 4, 300, 300)).tolist()}
    (run / "attention.json").write_text(json.dumps([large, *ATTENTION]))
    page = content(run)
    assert "1 more of attention.json left out for size." in page
    assert page.count("class=attention") == 1


def test_a_heatmap_has_a_cell_a_weight_and_a_label_a_token():
    drawn = heatmap(np.array([[0.25, 0.75, 0.0]]), rows=["der"], columns=["the", "<b>", "dog"], label="weights")
    assert re.findall(r"fill-opacity=([\d.]+)", drawn) == ["0.25", "0.75", "0.00"]
    assert re.findall(r"<text[^>]*>(.*?)</text>", drawn) == ["der", "the", "&lt;b&gt;", "dog"]


def test_a_chart_spans_its_points():
    chart = line_chart([Line(label="train", points=[(0, 10), (50, 5), (100, 0)])], title="Loss")
    assert "d='M0 0L50 50L100 100'" in chart
    assert "Loss: train from 10 to 0." in chart
    assert line_chart([Line(label="none", points=[(1, math.nan)])], title="Loss") == ""


def test_a_chart_of_one_point_or_of_equal_points_is_drawn():
    assert "class='dots c1'" in line_chart([Line(label="", points=[(0, 0)])], title="one")
    assert "M50 50L100 50" in line_chart([Line(label="", points=[(1, 3), (2, 3)])], title="level")


def test_a_chart_has_no_more_lines_than_colours():
    with pytest.raises(ValueError, match=r"lines must be at most 3, one a colour, got 4\."):
        line_chart([Line(label=str(index), points=[(1, 1)]) for index in range(4)], title="too many")


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.3, 9.2), (-3.1, 0.02), (0.0, 4.7e-4), (5.0, 5.0), (0.0, 38712.0)]
)
def test_ticks_are_round_few_and_enclose_the_values(low, high):
    ticks = _ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 8
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0])
    assert f"{steps[0]:.0e}"[0] in "125"
    assert steps[0] == pytest.approx(float(f"{steps[0]:.0e}"))


def test_long_lines_are_averaged_and_keep_their_end():
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    thin = _thin(points, MAX_POINTS)
    assert len(thin) == MAX_POINTS
    assert thin[-1] == points[-1]
    assert [y for _, y in thin[:-1]] == pytest.approx([0.5] * (MAX_POINTS - 1), abs=0.05)


def test_bars_stay_inside_their_chart():
    chart = bar_chart([Bar(label="over", value=120), Bar(label="under", value=-5)], title="bars")
    assert "d='M0 0H100.00V1H0Z'" in chart
    assert "d='M0 0H0.00V1H0Z'" in chart
    assert bar_chart([], title="bars") == ""


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2_571_234, "2.571 M"),
        (63_100_000.0, "63.1 M"),
        (70.6e9, "70.6 G"),
        (2.5e9, "2,500 M"),
        (20e9, "20 G"),
        (999.6, "999.6"),
        (1234.5678, "1,235"),
        (0.001, "0.001"),
        (-0.25, "-0.25"),
        (21_930.7, "21,931"),
        (12, "12"),
        (1.46109, "1.461"),
        (0.002, "0.002"),
        (5.174e-4, "5.17e-4"),
        (0.0, "0"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_written_as_a_person_writes_them(value, written):
    assert number(value) == written


def test_json_values_are_written_plainly():
    assert plain({"data": 2, "names": ["a", None], "fast": True, "rate": 1e-9}) == (
        "data 2, names a, none, fast yes, rate 1e-09"
    )
    assert plain([]) == "none"


def test_parts_that_are_nothing_make_no_section():
    assert section("Empty", facts([], style="list"), note="never seen") == ""


def test_a_table_escapes_its_columns_and_names_its_cells():
    drawn = table(["<a>", "b"], [[text("x"), text("<y>")]])
    assert "<th scope=col>&lt;a&gt;</th>" in drawn
    assert "<td data-column='b'>&lt;y&gt;</td>" in drawn
    assert "<td data-column='b' class=empty></td>" in table(["a", "b"], [[text("x"), text("")]])


def test_bad_files_are_named_with_their_line(run, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"a run directory must have config\.json, got run_directory='.*'\."):
        write_report(tmp_path_factory.mktemp("empty"))
    for name, written, message in (
        ("metrics.jsonl", '{"kind": "train", "step": 1}\nnot json\n', r"metrics\.jsonl line 2 must be a JSON object"),
        ("scores.json", '{"baselines": [{"score": 1}]}', r"scores\.json baselines 0 must have a name and a score, got"),
        (
            "scores.json",
            '{"rows": [{"name": "", "score": 1}]}',
            r"scores\.json rows 0 must have a name and a score, got",
        ),
        (
            "scores.json",
            '{"rows": [{"name": "a", "score": true}]}',
            r"scores\.json rows 0 must have a name and a score",
        ),
        (
            "scores.json",
            '{"rows": [{"name": "a", "score": 1, "interval": [0]}]}',
            r"scores\.json rows 0 must have two numbers as its interval, got \[0\]\.",
        ),
        ("metrics.jsonl", '{"loss": 1}\n', r"metrics\.jsonl line 1 must have kind and step, got"),
        (
            "samples.jsonl",
            '{"source": "a", "reference": "b"}\n',
            r"samples\.jsonl line 1 must have hypothesis and chrf",
        ),
        ("versions.json", "{", r"versions\.json must hold JSON: "),
        ("start.json", "[]", r"start\.json must hold a JSON object, got a list\."),
        ("scores.json", '{"rows": [{"name": "BLEU"}]}', r"scores\.json rows 0 must have a name and a score, got"),
        ("scores.json", '{"constructions": {"x": 1}}', r"scores\.json constructions 'x' must have exact and count"),
        ("attention.json", '[{"source": []}]', r"attention\.json entry 0 must have source and target tokens and"),
        (
            "attention.json",
            '[{"source": ["a"], "target": ["b"], "weights": [[[[1, 0]]]]}]',
            r"attention\.json entry 0 must have weights \[layers, heads, 1, 1\], .* got \[1, 1, 1, 2\]\.",
        ),
    ):
        path = run / name
        kept = path.read_text()
        path.write_text(written)
        with pytest.raises(ValueError, match=message):
            write_report(run)
        path.write_text(kept)
    assert not (run / "report.html").exists()


def test_a_line_that_is_no_text_is_named(run):
    (run / "samples.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl line 1 must be a JSON object, got '\ufffd'\."):
        write_report(run)


def test_the_steps_and_the_skipped_are_the_most_in_any_order_of_lines():
    lines = [{"kind": "train", "step": step, "skipped": step // 2} for step in (3, 8, 5)]
    placed = dict(placing_facts({}, {}, lines))
    assert (placed["updates"], placed["steps skipped, not finite"]) == ("8", "4")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([1.0, 59.6], "1 min 0 s"),
        ([1.0, 3599.0], "59 min 59 s"),
        ([1.0, 7500.0], "2 h 5 min"),
        ([9.0, 3.0], None),  # not since the start of training
        ([3.0, None], None),
        ([3.0], None),
    ],
)
def test_the_time_of_a_training_is_told_where_all_lines_know_it(seconds, said):
    lines = [{"kind": "train", "step": step, "seconds": each} for step, each in enumerate(seconds)]
    assert dict(placing_facts({}, {}, lines))["training time"] == said


def test_facts_of_the_start_have_their_units(run):
    start = {"padding_share": 0.5, "compile_seconds": 1.26, "batch_shapes": [[2, 3]], "first_loss": 2.0}
    (run / "start.json").write_text(json.dumps(start))
    words = visible(content(run))
    for said in ("padding share 50.0%", "compile seconds 1.3 s", "batch shapes 2\u00a0×\u00a03", "first loss 2"):
        assert said.replace("\u00a0", " ") in words


def test_the_map_that_is_drawn_first_is_the_mean_of_the_last_layers_heads(run):
    drawn = re.findall(r"fill-opacity=([\d.]+) />", content(run))
    assert np.array(drawn, float).reshape(4, 5) == pytest.approx(WEIGHTS[-1].mean(0), abs=0.006)
    assert "layer 2, mean of heads" in content(run)


def test_maps_together_keep_within_the_size_of_a_page():
    half = AttentionMap(
        caption="one", rows=("a",), columns=("b",), weights=np.zeros((MAX_ATTENTION_BYTES // 2, 1, 1, 1))
    )
    page = attention_section([half, half, half], note="Maps.", left_out=1)
    assert page.count("class=attention") == 2
    assert "Maps. 2 more of attention.json left out for size." in page


def test_a_map_of_no_tokens_is_left_out_and_what_is_no_number_is_nothing(run):
    empty = {"source": [], "target": ["a"], "weights": [[[[]]]]}
    odd = {"source": ["un@@", "do", "</s>"], "target": ["a"], "weights": [[[[1, math.nan, 0]]]]}
    (run / "attention.json").write_text(json.dumps([empty, odd]))
    page = content(run)
    assert page.count("class=attention") == 1
    assert "<figcaption>undo</figcaption>" in page  # joints of BPE undone, the end left out
    assert re.findall(r"fill-opacity=([\d.]+) />", page) == ["1.00", "0.00", "0.00"]


def test_cells_and_labels_of_a_map_stand_in_their_row_and_column():
    drawn = heatmap(
        np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 2.0]]), rows=["a", "bb", "c"], columns=["d", "e"], label="w"
    )
    cells = [[*map(float, cell)] for cell in re.findall(r"<rect x=(\d+) y=(\d+) [^>]*fill-opacity=([\d.]+)", drawn)]
    assert [shade for *_, shade in cells] == [0.1, 0.2, 0.3, 0.4, 0.5, 1.0]
    (left, top, _), (right, level, _), (under, below, _) = cells[:3]
    assert (right - left, level - top) == (32, 0)
    assert (under - left, below - top) == (0, 32)
    labels = [float(y) for y in re.findall(r"<text x=\d+ y=([\d.]+)", drawn)]
    assert labels == [pytest.approx(top + 32 * row + 20, abs=1) for row in range(3)]
    assert f"<text x={left - 8:.0f} " in drawn
    columns = [float(x) for x in re.findall(r"translate\(([\d.]+) ", drawn)]
    assert columns == [pytest.approx(left + 32 * column + 19, abs=1) for column in range(2)]


def test_a_wide_map_has_small_cells_and_a_wider_one_no_smaller():
    for count, side in ((5, 32), (16, 25), (90, 21)):
        drawn = heatmap(np.zeros((1, count)), rows=["a"], columns=["b"] * count, label="w")
        assert f"width={side - 1} height={side - 1} " in drawn


def test_small_charts_have_fewer_ticks_and_none_behind_the_end():
    points = [(0, 0.0), (470, 9.4)]
    large, small = (line_chart([Line(label="a", points=points)], title="t", small=each) for each in (False, True))
    labels = [re.findall(r"<span style='(left|top):([\d.]+)%'>([^<]+)<", each) for each in (large, small)]
    assert [(place, said) for side, place, said in labels[0] if side == "left"] == [
        ("0.0", "0"), ("21.28", "100"), ("42.55", "200"), ("63.83", "300"), ("85.11", "400"),
    ]  # fmt: skip
    assert [said for side, _, said in labels[0] if side == "top"] == ["0", "2", "4", "6", "8", "10"]
    assert [said for side, _, said in labels[1] if side == "top"] == ["0", "5", "10"]


def test_a_chart_says_what_its_axis_is_and_ends_at_the_longest_line():
    lines = [Line(label="a", points=[(0, 0), (5, 1)]), Line(label="b", points=[(0, 1), (10, 0)], dots=True)]
    chart = line_chart(lines, title="t", x_label="words deleted", note="of <all>")
    assert "<span class=where>words deleted</span> <small>of &lt;all&gt;</small>" in chart
    assert "d='M0 100L50 0'" in chart
    assert '{"end":10,"lines":[[[0,0],[5,1]],[[0,1],[10,0]]]}' in html.unescape(chart)
    assert chart.count("class='dots ") == 1  # of the line that asks for them


def test_dots_end_where_there_would_be_too_many():
    for count, dotted in ((60, True), (61, False)):
        line = Line(label="a", points=[(x, x) for x in range(count)], dots=True)
        assert ("class='dots " in line_chart([line], title="t")) == dotted


def test_the_last_tick_is_the_end_where_it_is_round():
    assert "<span style='left:100.0%'>50</span>" in line_chart([Line(label="", points=[(0, 0), (50, 1)])], title="t")


def test_values_under_the_pointer_have_five_digits():
    chart = line_chart([Line(label="", points=[(1, 1.2345678), (2, 123456.7)])], title="t")
    assert "[[1,1.2346],[2,123460]]" in html.unescape(chart)


def test_notes_of_bars_have_a_column_where_there_is_one():
    plain, noted = Bar(label="a", value=1), Bar(label="b", value=3, note="of 9", strong=True)
    assert "<dl class='bars'>" in bar_chart([plain], title="t")
    chart = bar_chart([plain, noted], title="t", maximum=4)
    assert "<dl class='bars noted'>" in chart
    assert re.findall(r"class='(strong|quiet)' d='M0 0H([\d.]+)V", chart) == [("quiet", "25.00"), ("strong", "75.00")]


def test_of_equal_samples_the_longest_is_shown_first_and_an_exact_one_without_its_reference():
    each = {"source": "s", "hypothesis": "so_und", "reference": "so_und", "chrf": 100.0, "construction": "verb_final"}
    short, long = each | {"source": "short"}, each | {"source": "long", "reference": "so und so weiter"}
    samples = [each | {"source": f"s{n}", "chrf": float(n)} for n in range(18)] + [long, short]
    page = str(_samples_section(samples))
    closest = page.partition("Closest to the reference")[2]
    assert closest.index(">long<") < closest.index(">short<")
    assert "chrF 100.0 · verb final" in closest
    assert "chrF 100.0 · exact · verb final" in closest
    assert page.count("<dt>reference</dt>") == 1
    assert "20 sentences, 19 of them (95%) equal to the reference" in page
    assert "All, furthest from the reference first" in str(_samples_section(samples[:18]))
    repeated = str(_samples_section([each] * 4))
    assert repeated.count("<li>") == 1
    assert "4 sentences, 4 of them (100%)" in repeated


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_writes_numbers_as_the_page_does():
    values = [1e9, 2.5e9, 999_999.4, 12_345_678, 100e6, 70.6e9, 0.002, 5.174e-4, 21_930.7, 12, 0]
    code = SCRIPT[: SCRIPT.index("// Charts:")] + f"console.log(JSON.stringify({values}.map(say)))"
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [number(value) for value in values]


def test_the_speed_in_the_middle_is_shown():
    """The first line of a training is slow, for it compiles: a mean would be another number."""
    lines = [
        {"kind": "train", "step": step, "tokens_per_second": speed} for step, speed in ((1, 10), (2, 400), (3, 500))
    ]
    assert dict(placing_facts({}, {}, lines))["tokens a second, median"] == "400"
