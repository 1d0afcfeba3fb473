"""What a run learns from can be looked at: the very batches of its training, in words, and their speed alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lmx.cli import main
from lmx.data_commands import open_data, pieces_of, show, show_row
from lmx.errors import InputError
from lmx.objective import ObjectiveConfig
from lmx.saved import save_tokenizer, write_json
from lmx.text import ByteTokenizer, SentencePieceTokenizer

BYTES = ByteTokenizer()
CONFIG = {
    "train": "lines:names.txt",
    "validation": None,
    "held_out": 0.2,
    "test": None,
    "objective": "causal",
    "from_start": True,
    "context": 16,
    "tokens_per_batch": 64,
    "packing": "documents",
    "accumulation": 1,
    "seed": 3,
    "seeds": 2,
    "text_cache": "off",
    "updates": 9,
}

TRANSLATION = {
    "train": "train.tsv",
    "source_language": "en",
    "target_language": "de",
    "max_length": 9,
    "max_ratio": None,
    "tokens_per_batch": 32,
    "accumulation": 2,
    "rows_multiple": 2,
    "length_multiple": 1,
    "num_buckets": 1,
    "seed": 1,
    "seeds": 1,
    "text_cache": "off",
}

SIZES = {"accumulation": 1}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of language models that has begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"name{number}\n" for number in range(100)))
    write_json(tmp_path / "config.json", {"experiment": "pretraining", "family": "decoder", "config": CONFIG})
    save_tokenizer(tmp_path, BYTES)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> list[str]:
    monkeypatch.setattr("sys.argv", ["lmx", "data", *map(str, arguments)])
    main()
    return capsys.readouterr().out.splitlines()


def test_rows_of_a_batch_are_shown_in_words(run: Path, monkeypatch, capsys):
    lines = command(monkeypatch, capsys, "show", run, "--batch", "2", "--rows", "2")
    assert lines[0].startswith("lines:names.txt (first 80%): ")
    assert re.fullmatch(r"packing \d\d\.\d% full, .*", lines[2])
    assert re.fullmatch(r"batch 2, 0\.\d\d epochs in: 1 x 4 rows of 16 tokens, 1\d\d of them are no padding", lines[3])
    assert lines[4] == "row 1 of 4"
    assert lines[5] == "  segment 1: 7 tokens, 7 count"
    reads, predicts = (line.split() for line in lines[6:8])
    assert reads[:6] == ["reads", "<s>", "n", "a", "m", "e"]
    assert predicts == ["predicts", *reads[2:], "</s>"]
    assert lines.count("row 2 of 4") == 1
    assert "row 3 of 4" not in lines
    batch = open_data(run).batches.batch(2)
    assert batch["tokens"].shape == (2, 1, 4, 16)
    shown = [line.split()[1:] for line in lines if line.split()[0] == "reads"]
    ids = batch["tokens"][0, 0, :2]
    assert sum(map(len, shown)) == (batch["segments"][0, 0, :2] > 0).sum()
    assert shown[0] == BYTES.pieces(ids[0, :7])


def test_micro_batches_of_a_language_model_are_shown_as_they_are_trained(run: Path, monkeypatch, capsys):
    facts = {"experiment": "pretraining", "family": "decoder", "config": CONFIG | {"accumulation": 3, "seeds": 1}}
    write_json(run / "config.json", facts)
    assert ": 3 x 4 rows of 16 tokens, " in command(monkeypatch, capsys, "show", run)[3]
    assert open_data(run).batches.batch(0)["tokens"].shape == (3, 4, 16)


def test_the_speed_of_the_batches_alone_is_told_beside_what_training_used(run: Path, monkeypatch, capsys):
    assert command(monkeypatch, capsys, "time", run, "--seconds", "0.05")[-1].endswith(" batches")
    (run / "metrics.jsonl").write_text(
        '{"kind": "train", "tokens_per_second": 9}\n{"kind": "test"}\n{"kind": "train", "tokens_per_second": 1e5}\n'
    )
    last = command(monkeypatch, capsys, "time", run, "--seconds", "0.05")[-1]
    found = re.fullmatch(r"([\d,]+) tokens/s alone, in [\d,]+ batches; training used 100,000, ([\d.]+)% of that", last)
    assert found
    assert float(found[2]) == pytest.approx(1e7 / int(found[1].replace(",", "")), rel=1e-2)
    (run / "metrics.jsonl").write_text("{\n{}\n")
    assert command(monkeypatch, capsys, "time", run, "--seconds", "0.05")[-1].endswith(" batches")


@pytest.mark.parametrize("name", ["masked", "spans", "pairs"])
def test_rows_of_each_objective_are_shown(name: str):
    tokenizer = BYTES
    objective = ObjectiveConfig(objective=name, sentinels=9).of(tokenizer, context=40)
    width = objective.length + objective.ahead
    ids = np.arange(4 + 97, 4 + 97 + width)
    ids[5] = 4 + ord("\t")  # what stands between the sides of a pair
    raw = {"tokens": ids, "segments": np.ones(width), "positions": np.arange(width)}
    raw = {key: array.astype(np.int32)[None, None] for key, array in raw.items()}
    made = {key: array[0, 0] for key, array in objective.make(raw, (1, np.zeros((1, 1), np.int64))).items()}
    lines = list(show_row(made, lambda side: tokenizer))
    said = [line.split()[0] for line in lines]
    text = " ".join(lines)
    if name == "masked":
        assert said == ["segment", "reads", "predicts"]
        assert lines[0] == "segment 1: 40 tokens, 6 count"
        assert lines[2].split().count(".") == 34
        assert "<+0>" in text
    elif name == "spans":
        assert said == ["segment", "reads", "decoder", "predicts"]
        assert "<+8>" in lines[1].split()
        assert "<+8>" in lines[3].split()
        assert " . " not in lines[3]
    else:
        assert lines[2].split()[1:6] == ["."] * 5
        assert lines[0] == "segment 1: 40 tokens, 35 count"


def test_a_piece_stays_on_its_line():
    tokenizer = SentencePieceTokenizer.train(["a b", "ab ba"], vocab_size=9)
    assert pieces_of(tokenizer, [-1, 9, 11, 2]) == [".", "<+0>", "<+2>", "</s>"]
    assert pieces_of(BYTES, [4 + 10, 4 + 97]) == ["<0x0A>", "a"]


def test_pairs_of_a_translation_are_shown(tmp_path: Path, monkeypatch, capsys):
    pairs = "".join(f"a{number % 7}\tb{number}\n" for number in range(40))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tsv").write_text(pairs)
    write_json(tmp_path / "config.json", {"experiment": "translation", "config": TRANSLATION, "sizes": SIZES})
    save_tokenizer(tmp_path, BYTES)
    lines = command(monkeypatch, capsys, "show", tmp_path, "--rows", "1")
    assert lines[0].endswith("train.tsv: kept all 40 pairs")
    assert lines[2] == f"batch 0, 0.00 epochs in: 1 x 8 rows of 4 tokens, {lines[2].split()[-6]} of them are no padding"
    assert re.fullmatch(r"  segment 1: 3 tokens, [34] more, [34] count", lines[4])
    assert re.fullmatch(r"    reads          a \d </s>", lines[5])
    assert re.fullmatch(r"    decoder reads  <s> b \d( \d)?", lines[6])
    assert re.fullmatch(r"    predicts       b \d( \d)? </s>", lines[7])


def test_pairs_of_a_fold_are_those_that_it_learns_from(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tsv").write_text("".join(f"a{number % 8}\tb{number}\n" for number in range(40)))
    cut = {"validation": None, "test": None, "folds": 2, "dev_share": 0.25, "split_seed": 3}
    begun = {"experiment": "translation", "config": TRANSLATION | cut, "sizes": SIZES}
    write_json(tmp_path / "config.json", begun | {"fold": 2})
    save_tokenizer(tmp_path, BYTES)
    lines = command(monkeypatch, capsys, "show", tmp_path)
    assert lines[0].endswith(
        "train.tsv, without fold 2 of 2: kept all 15 pairs"
    )  # of eight sources four are the fold, one is held out
    for fold in (0, 3):
        write_json(tmp_path / "config.json", begun | {"fold": fold})
        with pytest.raises(ValueError, match=rf"must have a fold from 1 to config\.folds=2, got fold={fold}\."):
            open_data(tmp_path)
    write_json(tmp_path / "config.json", begun | {"family": "folds"})
    with pytest.raises(SystemExit):
        command(monkeypatch, capsys, "show", tmp_path)
    assert f"must be one run, got that of all folds. Say {tmp_path / 'fold-1'}." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, "must be a run directory: it has no config.json."),
        ({"experiment": "vision"}, "must be a run of pretraining or translation, got experiment=vision."),
        ({"config": {"seed": "x"}}, "config.json must have int in config.seed, got 'x'."),
        ({"config": CONFIG | {"packing": "tight"}}, "config.json must have stream or documents in config.packing"),
        ({"config": CONFIG | {"seeds": 0}}, "config.json must have at least 1 in config.seeds, got 0."),
        ({"config": CONFIG | {"train": "gone.txt"}}, "gone.txt must exist, but . has no such file."),
        ("no tokenizer", "must hold a tokenizer: its training has not begun."),
    ],
)
def test_what_is_no_run_of_text_is_told_in_a_line(change, expected: str, run: Path, monkeypatch, capsys):
    if change is None:
        (run / "config.json").unlink()
    elif change == "no tokenizer":
        (run / "tokenizer.bytes").unlink()
    else:
        saved = json.loads((run / "config.json").read_text())
        write_json(run / "config.json", saved | change)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, capsys, "show", run)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert expected in told
    assert len(told.splitlines()) == 1


def test_a_batch_or_rows_that_cannot_be_are_told(run: Path):
    for batch, rows in ((-1, 1), (0, 0)):
        with pytest.raises(InputError, match=rf"at least 0 and rows at least 1, got batch={batch} and rows={rows}\."):
            list(show(run, batch=batch, rows=rows))
    lines = list(show(run, rows=9))  # all that there are
    assert [line for line in lines if line.startswith("row ")] == [f"row {row} of 4" for row in (1, 2, 3, 4)]
    assert "batch 0, 0.00 epochs in" in lines[3]


def test_the_seeds_of_a_run_are_those_behind_its_first(run: Path):
    data = open_data(run)
    assert data.seeds == (3, 4)
    assert data.batches.seeds == (3, 4)
