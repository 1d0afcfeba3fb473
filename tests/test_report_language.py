"""The page of a language model shows what it wrote, what surprised it, and where the time went."""

import json
import re
from pathlib import Path

import pytest

from lmx.report import write_report
from lmx.report.language import STYLE, _optimizer_section, _surprise_section, _time_section


def write(folder: Path, **files) -> None:
    for name, value in files.items():
        name, lines, _ = name.partition("_lines")
        text = "".join(json.dumps(each) + "\n" for each in value) if lines else json.dumps(value)
        (folder / (f"{name}.jsonl" if lines else f"{name}.json")).write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    metrics = [
        {"kind": "train", "step": step, "nll": 5 - step / 10, "learning_rate": 1e-3, "gradient_norm": 2.0,
         "parameter_norm": 30.0, "tokens_per_second": 100.0}
        for step in (10, 20)
    ]  # fmt: skip
    metrics.append({"kind": "validation", "step": 20, "nll": 3.25, "loss": 3.25, "bits_per_byte": 2.5})
    row = {"name": "small validation loss", "score": 3.25, "interval": None, "signature": "nats a token",
           "made": "the last checkpoint", "published": 1.88, "published_made": "elsewhere"}  # fmt: skip
    kinds = ("starting", "compiling", "steps", "data", "validation", "checkpoints", "results")
    seconds = dict.fromkeys(kinds, 0.0) | {"steps": 40.0, "starting": 10.0}
    write(
        tmp_path,
        config={"experiment": "pretraining", "preset": "small", "family": "decoder", "config": {}},
        start={"parameters": 1234, "updated_by_muon": "9 arrays", "updated_by_adam": "4 arrays"},
        scores={"test": "small validation", "rows": [row]},
        metrics_lines=metrics,
        written_lines=[{"step": step, "prompt": "Once <b>", "text": f" upon {step}"} for step in (10, 20)],
        surprise=[{"pieces": ["▁the", "↵", "<script>"], "bits": [0.2, 3.0, None]}],
        account={"total": 50.0, "repeated": 5.0, "seconds": seconds, "starts": [{}, {}]},
    )  # fmt: skip
    return tmp_path


def test_the_page_shows_all_of_a_run(run: Path) -> None:
    page = write_report(run).read_text()
    assert "<b>3.2500</b>" in page
    assert "published 1.8800, a difference of +1.3700" in page
    # The newest text first, its prompt apart; nothing in it is markup.
    assert page.index("upon 20") < page.index("upon 10")
    assert "<span class=none>Once &lt;b&gt;</span> upon 20" in page
    assert "<script>" not in page[page.index("surprised the model") : page.index("What the optimizer took")]
    assert re.search(r"<span class=s0 title='0.2 bits'> the</span><span class=s3 title='3 bits'>↵\n</span>", page)
    assert "<span class=none>&lt;script&gt;</span>" in page
    for said in ("Gradient norm, before it is clipped", "Parameter norm", "updated by muon", "9 arrays"):
        assert said in page
    assert "50 s in 2 starts; 5 s of steps were made again, after a restart" in page
    assert "80.0%" in page


@pytest.mark.parametrize(
    ("bits", "level"), [(0.49, 0), (0.5, 1), (1.0, 2), (1.99, 2), (2.0, 3), (4.0, 4), (8.0, 5), (11.9, 5), (12.0, 6)]
)
def test_a_token_is_the_darker_the_less_it_was_expected(bits: float, level: int) -> None:
    assert f"<span class=s{level} title='{bits:g} bits'>a</span>" in _surprise_section(
        [{"pieces": ["a"], "bits": [bits]}]
    )
    if level:
        assert f".surprise .s{level}{{background:color-mix(in srgb,var(--two) {14 * level}%,transparent)}}" in STYLE


def test_pieces_are_shown_as_they_stand_in_the_text() -> None:
    pieces = ["▁a", "<0x0A>", "<0x20>", "\n", "<0x41>"]
    page = _surprise_section([{"pieces": pieces, "bits": [None] * 5}])
    assert re.findall(r"<span class=none>([^<]*)</span>", page) == [" a", "↵\n", " ", "↵\n", "&lt;0x41&gt;"]


def test_before_scoring_the_lowest_loss_of_a_validation_counts(run: Path) -> None:
    (run / "scores.json").unlink()
    lines = [{"kind": "validation", "step": step, "nll": nll} for step, nll in ((5, 3.5), (10, 2.25), (15, 2.5))]
    write(run, metrics_lines=lines)
    page = write_report(run).read_text()
    assert "<b>2.2500</b><p><strong>best validation loss</strong><span>at step 10</span>" in page
    assert "best on validation: 2.2500 at step 10" in page


def test_time_is_shared_out_with_the_steps_in_colour_and_nothing_repeated_is_not_told() -> None:
    account = {"total": 50.0, "repeated": 0.0, "seconds": {"steps": 40.0, "data": 10.0}, "starts": [{}]}
    page = _time_section(account)
    assert "50 s in 1 start</p>" in page
    assert re.findall(r"<dt>([^<]*)</dt>.*?class='(\w+)' d='M0 0H([\d.]+)V.*?<b>([^<]*)</b><small>([^<]*)<", page) == [
        ("steps", "strong", "80.00", "80.0%", "40 s"),
        ("waiting for data", "quiet", "20.00", "20.0%", "10 s"),
    ]
    assert _time_section(account | {"total": 0}) == _time_section({}) == ""


def test_parameters_that_stay_as_they_are_are_told() -> None:
    assert "<dt>frozen</dt><dd>3 arrays</dd>" in _optimizer_section([], {"frozen": "3 arrays", "precision": "float32"})
    assert "precision" not in _optimizer_section([], {"frozen": "3 arrays", "precision": "float32"})


def test_what_is_not_there_is_left_out(run: Path) -> None:
    for name in ("scores.json", "written.jsonl", "surprise.json", "account.json", "start.json"):
        (run / name).unlink()
    page = write_report(run).read_text()
    assert "best validation loss" in page
    for title in ("What it writes", "surprised the model", "Where the time went"):
        assert title not in page


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([{"pieces": ["a"], "bits": []}], r"surprise.json entry 0 must have as many pieces as bits\."),
        ([{"pieces": ["a"], "bits": ["b"]}], r"surprise.json entry 0 must have numbers in bits, or null\."),
    ],
)
def test_damaged_surprise_is_told(run: Path, texts: list, message: str) -> None:
    write(run, surprise=texts)
    with pytest.raises(ValueError, match=message):
        write_report(run)
