"""Both scripts: a run knows its data, writes nothing before all fits, and never loses a finished model."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.lock import NAME, release_lock, take_lock
from lmx.run import Run
from lmx.sharding.mesh import make_mesh
from lmx.text import PretokenizedTokenizer

ROOT = Path(__file__).parents[1]
UNOPTIMISED = "xla_backend_optimization_level"  # 0: without LLVM's optimizations, which are half of compiling
CLASSIFIER = """
    own --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-layers 1 --model.unroll 1
    --num-buckets 1 --tokens-per-batch 512 --epochs 2 --max-length 32 --explain 1 --optimization.warmup 1
    --tokenizer bytes --no-baseline
""".split()
TRANSLATOR = """
    multi30k-raw --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --num-buckets 1 --tokens-per-batch 320 --validate-every 2
    --log-every 2 --bleu-every 0 --average 1 --search.beam-size 1 --vocab-size 40 --optimization.warmup 1
    --optimization.schedule constant
""".split()
GOOD, BAD = ("a fine day", "what joy", "so good"), ("an awful day", "what pain", "so bad")


def load_script(name: str, *, root: Path = ROOT):
    path = root / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_that_knows{'' if root == ROOT else '_elsewhere'}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


classification, translation = load_script("classification"), load_script("translation")


def write_labelled(path: Path, *, names: tuple[str, str] = ("pos", "neg"), count: int = 40, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    lines = ["text,label"]
    for number in range(count):
        side = number % 2
        text = (GOOD, BAD)[side][generator.integers(3)]
        lines.append(f"{text} {generator.integers(99)},{names[side]}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pairs(path: Path, *, count: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    words = "zero one two three four five six seven eight nine".split()
    rows = [[words[i] for i in generator.integers(0, 10, 4)] for _ in range(count)]
    path.write_text("".join(f"{' '.join(row)}\t{' '.join(row[::-1])}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run_of(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a script in this process and returns what it prints."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.delenv("LMX_TRACEBACK", raising=False)
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options={UNOPTIMISED: 0}))

    def run(module, *arguments: str | Path) -> str:
        monkeypatch.setattr(module, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        module.run_script(module.command_line, module.main, module.plan)
        return " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def refused(run_of, capsys) -> Callable[..., str]:
    def run(module, *arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as stop:
            run_of(module, *arguments)
        said = capsys.readouterr().err
        assert (stop.value.code, said.count("\n")) == (2, 1)
        return said

    return run


def content_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != NAME}


@pytest.mark.slow
def test_a_classifier_knows_its_labels_and_its_texts(run_of, refused, tmp_path):
    train, test = write_labelled(tmp_path / "train.csv"), write_labelled(tmp_path / "test.csv", seed=1)
    run = tmp_path / "run"
    flags = [*CLASSIFIER, "--train", train, "--test", test, "--run", run]
    run_of(classification, *flags)
    before = content_of(run)
    for path in (train, test):
        write_labelled(path, names=("pos", "unhappy"), seed=int(path == test))
    said = refused(classification, *flags)
    assert "the labels of" in said
    assert "it has neg, pos, and the data pos, unhappy" in said
    for path in (train, test):
        write_labelled(path, seed=int(path == test))
    with train.open("a") as file:
        file.write("a new kind of text,other\n")
    assert "it has neg, pos, and the data neg, other, pos" in refused(classification, *flags)
    write_labelled(train, count=42)  # two more rows
    assert "the training data of" in refused(classification, *flags)
    write_labelled(train, seed=5)
    assert "the training data of" in refused(classification, *flags)
    write_labelled(train)
    (run / "labels.json").write_text('{"kind": "single", "names": ["pos", "neg"]}\n')
    run_of(classification, *flags)
    assert json.loads((run / "labels.json").read_text())["names"] == ["neg", "pos"]
    kept = ("config.json", "labels.json", "metrics.jsonl", "model.safetensors", "predictions.tsv")
    assert {name: content_of(run)[run / name] for name in kept} == {name: before[run / name] for name in kept}
    # Another test set is scored anew by the same model.
    write_labelled(test, count=30, seed=6)
    run_of(classification, *flags)
    assert json.loads((run / "scores.json").read_text())["texts"] == 30
    assert content_of(run)[run / "model.safetensors"] == before[run / "model.safetensors"]


@pytest.mark.slow
def test_folds_know_their_texts_before_anything_is_written(run_of, refused, tmp_path):
    train, run = write_labelled(tmp_path / "train.csv", count=80), tmp_path / "run"
    flags = [*CLASSIFIER, "--train", train, "--folds", "2", "--run", run]
    run_of(classification, *flags)
    before = content_of(run)
    write_labelled(train, names=("pos", "unhappy"), count=80)
    assert "the labels of" in refused(classification, *flags)
    write_labelled(train, count=80, seed=5)
    assert "the training data of" in refused(classification, *flags)
    assert content_of(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_finished_classifier_without_checkpoints_serves(seeds, run_of, refused, tmp_path):
    train, test = write_labelled(tmp_path / "train.csv"), write_labelled(tmp_path / "test.csv", seed=1)
    run = tmp_path / "run"
    flags = [*CLASSIFIER, "--train", train, "--test", test, "--run", run, "--seeds", str(seeds)]
    flags += ["--optimization.schedule", "constant"]
    run_of(classification, *flags)
    before = content_of(run)
    scores = json.loads((run / "scores.json").read_text())
    shutil.rmtree(run / "checkpoints")
    (tmp_path / "new.txt").write_text("so good\nwhat pain\n")
    assert "must have checkpoints to train on from" in refused(classification, *flags, "--epochs", "9")
    printed = run_of(classification, *flags, "--predict", tmp_path / "new.txt")
    assert "has a finished model and no checkpoints" in printed
    assert "first step" not in printed
    assert len((run / "labelled.tsv").read_text().splitlines()) == 3
    for name in ("model.safetensors", "metrics.jsonl", "predictions.tsv"):
        assert content_of(run)[run / name] == before[run / name]
    assert json.loads((run / "scores.json").read_text())["seeds"] == scores["seeds"]
    assert json.loads((run / "scores.json").read_text())["rows"] == scores["rows"]


@pytest.fixture
def pairs(tmp_path) -> list[str | Path]:
    counts = {"train": 60, "validation": 8, "test": 6}
    return [
        part
        for seed, (split, count) in enumerate(counts.items())
        for part in (f"--{split}", write_pairs(tmp_path / f"{split}.tsv", count=count, seed=seed))
    ]


@pytest.mark.slow
def test_a_translator_knows_its_pairs_and_serves_without_checkpoints(pairs, run_of, refused, tmp_path):
    run = tmp_path / "run"
    flags = [*TRANSLATOR, *pairs, "--run", run]
    run_of(translation, *flags, "--updates", "4")
    before = content_of(run)
    write_pairs(tmp_path / "train.tsv", count=60, seed=9)
    assert "the training data of" in refused(translation, *flags, "--updates", "6")
    write_pairs(tmp_path / "train.tsv", count=60, seed=0)
    write_pairs(tmp_path / "validation.tsv", count=8, seed=9)
    assert "the validation data of" in refused(translation, *flags, "--updates", "6")
    write_pairs(tmp_path / "validation.tsv", count=8, seed=1)
    assert content_of(run) == before
    # Longer: what there was stays until there is something better.
    printed = run_of(translation, *flags, "--updates", "6")
    assert "keeps the model and the scores of its earlier end" in printed
    assert content_of(run)[run / "model.safetensors"] != before[run / "model.safetensors"]
    before = content_of(run)
    shutil.rmtree(run / "checkpoints")
    assert "must have checkpoints to train on from" in refused(translation, *flags, "--updates", "8")
    printed = run_of(translation, *flags, "--updates", "6")
    assert "has a finished model and no checkpoints" in printed
    for name in ("model.safetensors", "metrics.jsonl", "test.hypotheses.txt"):
        assert content_of(run)[run / name] == before[run / name]
    write_pairs(tmp_path / "test.tsv", count=9, seed=4)
    run_of(translation, *flags, "--updates", "6")
    assert len((run / "test.hypotheses.txt").read_text().splitlines()) == 9


def test_of_two_processes_on_one_run_one_trains(tmp_path):
    write_labelled(tmp_path / "train.csv")
    script = str(ROOT / "experiments" / "classification.py")
    command = [sys.executable, script, *CLASSIFIER, "--train", "train.csv", "--run", "run"]
    command += ["--epochs", "3000", "--patience", "None"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            ends = time.monotonic() + 120
            while "first step" not in (tmp_path / "log").read_text() and time.monotonic() < ends:
                time.sleep(0.2)
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        finally:
            first.kill()
            first.wait()
    assert done.returncode == 2
    assert f"process {first.pid})" in done.stderr
    assert done.stderr.startswith("error: another process trains this run (host ")
    assert done.stderr.count("\n") == 1
    # Who was killed is no obstacle.
    assert (tmp_path / "run" / NAME).is_file()
    take_lock(tmp_path / "run", report=pytest.fail)
    release_lock(tmp_path / "run")


@pytest.mark.slow
def test_a_small_file_runs_by_the_documented_command(run_of, tmp_path):
    train, test = (
        write_labelled(tmp_path / "train.csv", count=16),
        write_labelled(tmp_path / "test.csv", seed=1, count=8),
    )
    small = "--model.width 16 --model.feedforward-width 16 --model.num-heads 2 --explain 0".split()
    printed = run_of(classification, "own", "--train", train, "--test", test, *small, "--run", tmp_path / "run")
    assert "and not --vocab-size 8,000: the text has no more" in printed
    assert "updates and not --optimization.warmup 30" in printed
    assert (tmp_path / "run" / "report.html").is_file()


def test_what_only_reports_ends_no_run(run_of, tmp_path, monkeypatch):
    train, test = write_labelled(tmp_path / "train.csv"), write_labelled(tmp_path / "test.csv", seed=1)

    def fail(*_, **__):
        raise ValueError("empty vocabulary; perhaps the documents only contain stop words")

    for name in ("tfidf_predictions", "list_mistakes", "choose_to_explain"):
        monkeypatch.setattr(f"lmx.evaluation.classification.{name}", fail)
    monkeypatch.setattr("lmx.experiment.write_report", fail)
    flags = [flag for flag in CLASSIFIER if flag != "--no-baseline"]
    printed = run_of(classification, *flags, "--train", train, "--test", test, "--run", tmp_path / "run")
    for what in ("the linear model is", "the list of mistakes is", "explanations are", "the report is"):
        assert f"{what} left out: empty vocabulary" in printed
    assert {"model.safetensors", "scores.json", "predictions.tsv"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


# Vocabularies.


@pytest.fixture
def begin(run_of, monkeypatch) -> Callable[..., None]:
    """Begins a run, or goes on with one, and stops when its directory is written, before anything is trained."""
    opened = Run.open

    def stop(run: Run, *writes) -> None:
        opened(run, *writes)
        if run.begun["family"] != "folds":
            raise SystemExit(75)

    def begin(module, *arguments: str | Path) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Run, "open", stop)
            with pytest.raises(SystemExit) as stopped:
                run_of(module, *arguments)
        assert stopped.value.code == 75

    return begin


WORDS = "a fine day what joy so good an awful pain bad zero one two three four five six seven eight nine".split()


def write_words(path: Path, *, turned: bool = False) -> Path:
    words = list(dict.fromkeys(WORDS))
    return PretokenizedTokenizer(words[::-1] if turned else words).save(path)


@pytest.fixture(params=["classification", "translation"])
def command(request, pairs, tmp_path) -> tuple:
    """A script and a command line for it."""
    if request.param == "translation":
        return translation, *TRANSLATOR, *pairs, "--run", tmp_path / "run"
    flags = [*CLASSIFIER, "--train", write_labelled(tmp_path / "train.csv")]
    return classification, *flags, "--run", tmp_path / "run"


def test_a_tokenizer_that_was_replaced_in_a_run_is_refused(command, begin, refused, tmp_path):
    vocabulary = write_words(tmp_path / "words.vocab")
    begin(*command, "--vocabulary", vocabulary)
    vocabulary.unlink()
    begin(*command, "--vocabulary", vocabulary)  # the run has a copy of it
    write_words(tmp_path / "run" / "tokenizer.vocab", turned=True)
    before = content_of(tmp_path / "run")
    said = refused(*command, "--vocabulary", vocabulary)
    assert re.search(r"the (source )?tokenizer of \S+run must be what the run began with", said)
    assert content_of(tmp_path / "run") == before
    write_words(tmp_path / "run" / "tokenizer.vocab")
    begin(*command, "--vocabulary", vocabulary)


def test_a_vocabulary_may_move_and_is_not_to_be_replaced(command, begin, refused, tmp_path):
    vocabulary = write_words(tmp_path / "words.vocab")
    begin(*command, "--vocabulary", vocabulary)
    before = content_of(tmp_path / "run")
    write_words(vocabulary, turned=True)  # as many words
    said = refused(*command, "--vocabulary", vocabulary)
    assert f"{vocabulary} must be the vocabulary that {tmp_path / 'run'} began with" in said
    assert content_of(tmp_path / "run") == before
    # Another place is none of the run's business, as long as there is the same in it.
    elsewhere = tmp_path / "elsewhere" / "other.vocab"
    elsewhere.parent.mkdir()
    said = refused(*command, "--vocabulary", elsewhere)
    assert f"vocabulary='{vocabulary}' there and '{elsewhere}' here" in said
    assert content_of(tmp_path / "run") == before
    begin(*command, "--vocabulary", write_words(elsewhere))
    after = content_of(tmp_path / "run")
    assert (
        json.loads(after[tmp_path / "run" / "config.json"])["made_of"]
        == (json.loads(before[tmp_path / "run" / "config.json"])["made_of"])
    )
    said = refused(*command)
    assert f"vocabulary='{elsewhere}' there and None here" in said
    assert content_of(tmp_path / "run") == after


def test_a_vocabulary_replaced_under_folds_is_refused_before_anything_is_written(begin, refused, tmp_path):
    vocabulary, train = write_words(tmp_path / "words.vocab"), write_labelled(tmp_path / "train.csv")
    flags = (classification, *CLASSIFIER, "--train", train, "--folds", "2", "--run", tmp_path / "run", "--vocabulary")
    begin(*flags, vocabulary)
    before = content_of(tmp_path / "run")
    assert tmp_path / "run" / "fold-1" / "config.json" in before
    write_words(vocabulary, turned=True)
    assert "must be the vocabulary that" in refused(*flags, vocabulary)
    assert content_of(tmp_path / "run") == before
    begin(*flags, write_words(tmp_path / "other.vocab"))


def test_a_run_continues_from_a_checkout_that_was_moved(pairs, begin, tmp_path):
    for name in ("experiments", "tokenizers"):
        shutil.copytree(ROOT / name, tmp_path / "moved" / name, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    moved = load_script("translation", root=tmp_path / "moved")
    flags = ["phrasebook", *TRANSLATOR[1:], *pairs, "--tokens-per-batch", "512", "--run", tmp_path / "run"]
    begin(translation, *flags)
    saved = [(tmp_path / "run" / "config.json").read_text()]
    begin(moved, *flags)
    saved.append((tmp_path / "run" / "config.json").read_text())
    assert str(ROOT) in saved[0]
    assert saved[1] == saved[0].replace(str(ROOT), str(tmp_path / "moved"))


@pytest.mark.slow
def test_a_fold_of_one_class_ends_with_scores(run_of, tmp_path):
    train = write_labelled(tmp_path / "train.csv", count=40)
    lines = train.read_text().splitlines()
    train.write_text("\n".join([lines[0], *lines[1::2], lines[2]]) + "\n")  # one text of the second class
    flags = [flag for flag in CLASSIFIER if flag != "--no-baseline"]
    printed = run_of(classification, *flags, "--train", train, "--folds", "2", "--run", tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert saved["texts"] == 21
    assert saved["baselines"], printed
    for fold in (1, 2):
        assert (tmp_path / "run" / f"fold-{fold}" / "scores.json").is_file()
