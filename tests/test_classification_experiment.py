"""The classification script: every preset builds, a tiny form trains from files to a report, mistakes are one line."""

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.classifier import Classifier
from lmx.config import config_as_json
from lmx.data.labels import Labels, balanced_weights
from lmx.data.reading import Reading
from lmx.data.sets import SetsConfig
from lmx.differences import differences, filled_config
from lmx.experiment import done_before
from lmx.run import TESTED
from lmx.sharding.mesh import make_mesh
from lmx.text import SentencePieceTokenizer

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "classification.py"
MAKE_IT_TINY = """
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-layers 1 --model.unroll 1
    --num-buckets 1 --tokens-per-batch 512 --epochs 12 --vocab-size 60 --max-length 32 --log-every 5 --explain 2
    --optimization.warmup 4 --optimization.peak 0.02
""".split()
# No more updates than it takes to see that they run.
BRIEFLY = "--epochs 2 --explain 0 --no-baseline --optimization.warmup 1".split()

UNOPTIMISED = "xla_backend_optimization_level"  # 0: without LLVM's optimizations, which are half of compiling


def load_script():
    spec = importlib.util.spec_from_file_location("classification_experiment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


classification = load_script()

KEYS = {"food": ("bread", "soup"), "music": ("drum", "song"), "sport": ("race", "ball")}
FILLERS = "a the is near on of red small old".split()


def examples(*, count: int, seed: int) -> list[tuple[str, str]]:
    """Returns texts and labels: one word of each text says its label."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = list(KEYS)[generator.integers(3)]
        words = [FILLERS[i] for i in generator.integers(0, len(FILLERS), generator.integers(2, 7))]
        words[generator.integers(len(words))] = KEYS[label][generator.integers(2)]
        rows.append((" ".join(words), label))
    return rows


def write_table(path: Path, rows: list[tuple[str, ...]], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


LONG = " ".join(["small drum"] * 7)  # longer than all texts of training


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files to train, choose and test on; the test set has a text without words, and a long one."""
    folder = tmp_path_factory.mktemp("data")
    write_table(folder / "train.csv", examples(count=160, seed=0))
    write_table(folder / "validation.csv", examples(count=30, seed=1))
    write_table(folder / "test.csv", [*examples(count=38, seed=2), ("", "food"), (LONG, "music")])
    return folder


@pytest.fixture(scope="module")
def data(folder) -> list[str]:
    return [f for split in ("train", "validation", "test") for f in (f"--{split}", str(folder / f"{split}.csv"))]


def run_script(*arguments: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """Runs the script in this process, with annotations checked, and returns what it prints and says."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings
    monkeypatch.setattr(classification, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options={UNOPTIMISED: 0}))

    def run(*arguments: str | Path) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["classification.py", *map(str, arguments)])
        classification.run_script(classification.command_line, classification.main, classification.plan)
        return capsys.readouterr()

    return run


def scores_of(run: Path) -> dict:
    return json.loads((run / "scores.json").read_text())


def lines_of(run: Path, kind: str) -> list[dict]:
    timed = ("seconds", "tokens_per_second", "data_wait")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["kind"] == kind]


# What a config means.


def sums_of(config, *, kind="single", outputs=3, weights=None, **model):
    """Returns the sums of the loss of a tiny model on one batch: rows of 6 tokens, the last ones padding."""
    model = dataclasses.replace(
        config.model, vocab_size=20, num_outputs=outputs, width=8, feedforward_width=12, num_heads=2, num_layers=1,
        unroll=1, **model,
    )  # fmt: skip
    parts = classification.build(config, model, kind=kind, updates=1000, special_ids=(1, 2), class_weights=weights)
    generator = np.random.default_rng(5)
    labels = {
        "single": generator.integers(0, outputs, 4).astype(np.int32),
        "multi": generator.integers(0, 2, (4, outputs)).astype(np.float32),
        "regression": generator.normal(size=4).astype(np.float32),
    }
    tokens = np.where(np.arange(6) < np.array([[6], [3], [5], [4]]), generator.integers(3, 20, (4, 6)), model.pad_id)
    batch = {
        "tokens": tokens.astype(np.int32),
        "types": (np.arange(6) > 2).astype(np.int32) * np.ones((4, 1), np.int32),
        "weights": np.array([1, 0.5, 1, 0], np.float32),
        "labels": labels[kind],
    }
    shapes = nnx.to_pure_dict(nnx.state(parts.model.network, nnx.Param))
    params = jax.tree.map(lambda leaf: generator.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)
    found = jax.jit(parts.loss, compiler_options={UNOPTIMISED: 0})(params, batch, None)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("preset", classification.PRESETS)
def test_every_preset_builds(preset):
    config = classification.PRESETS[preset][1]
    model = dataclasses.replace(config.model, vocab_size=130, num_outputs=5, num_types=2)
    parts = classification.build(config, model, kind="single", updates=1000)
    network = parts.model.network
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    shape = jax.ShapeDtypeStruct
    batch = {name: shape((8, 6), "int32") for name in ("tokens", "types")}
    batch |= {"labels": shape((8,), "int32"), "weights": shape((8,), "float32")}
    sums = jax.eval_shape(parts.loss, params, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert sums.keys() == {"loss", "weight"}
    assert float(parts.schedule(config.optimization.warmup)) == pytest.approx(config.optimization.peak)
    assert model.max_length >= config.max_length  # positions for every row


@pytest.mark.parametrize("schedule", ["inverse-sqrt", "noam", "linear", "cosine", "constant"])
def test_every_schedule_reaches_its_peak(schedule):
    options = classification.Optimization(schedule=schedule, peak=0.003, warmup=10)
    config = classification.Config(optimization=options)
    model = dataclasses.replace(config.model, vocab_size=130, num_outputs=5)
    parts = classification.build(config, model, kind="single", updates=50)
    rates = jax.vmap(parts.schedule)(np.arange(50))
    assert max(rates.tolist()) == pytest.approx(0.003, rel=1e-3)


def test_word_dropout_leaves_padding_and_special_words_alone(monkeypatch):
    base = classification.Config()
    config = dataclasses.replace(base, optimization=dataclasses.replace(base.optimization, word_dropout=0.9))
    sizes = {"width": 16, "feedforward_width": 24, "num_heads": 2, "num_layers": 1}
    model = dataclasses.replace(config.model, vocab_size=130, num_outputs=3, **sizes)
    first, last, unknown = 1, 2, 3
    parts = classification.build(
        config, model, kind="single", updates=1000, special_ids=(first, last), replacement=unknown
    )
    tokens = np.random.default_rng(0).integers(4, 130, size=(8, 40)).astype(np.int32)
    tokens[:, 0], tokens[:, 20], tokens[:, 21:] = first, last, model.pad_id
    seen = []

    def watched(self, tokens, **options):
        seen.append(np.asarray(tokens))
        raise InterruptedError  # what comes after the words is not looked at

    monkeypatch.setattr(classification.EncoderClassifier, "__call__", watched)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), parts.model.shapes)
    batch = {"tokens": jnp.asarray(tokens), "types": jnp.zeros_like(tokens)}
    batch |= {"labels": jnp.zeros(8, jnp.int32), "weights": jnp.ones(8)}
    with pytest.raises(InterruptedError):
        parts.loss(params, batch, jax.random.key(0))
    (read,) = seen
    assert (read[:, 21:] == model.pad_id).all()
    assert (read[:, 0] == first).all()
    assert (read[:, 20] == last).all()
    words = read[:, 1:20]
    assert 0.8 < (words == unknown).mean() < 0.97
    assert ((words == unknown) | (words == tokens[:, 1:20])).all()


def test_class_weights_reach_the_loss():
    config = classification.Config()
    plain = sums_of(config)
    assert plain["weight"] == 2.5
    weighted = sums_of(config, weights=np.array([2, 2, 2], np.float32))
    assert weighted["weight"] == 5
    assert weighted["loss"] == pytest.approx(2 * plain["loss"], rel=1e-5)


def test_other_kinds_of_labels_and_pairs_have_a_loss():
    several = sums_of(classification.Config(), kind="multi", num_types=2)
    assert 0 < several["loss"] / several["weight"] < 2
    wide = sums_of(classification.Config(), kind="regression", outputs=1, output_scale=10.0)
    narrow = sums_of(classification.Config(), kind="regression", outputs=1)
    assert wide["weight"] == narrow["weight"] == 2.5
    assert 0 < wide["loss"] != narrow["loss"]


def test_balanced_weights_let_every_class_count_the_same():
    labels = Labels(kind="single", names=("a", "b", "c"))
    targets = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.int32)
    weights = balanced_weights(targets, labels)
    assert (weights * np.bincount(targets)).tolist() == pytest.approx([8 / 3] * 3)
    assert weights[targets].sum() == pytest.approx(len(targets))
    with pytest.raises(ValueError, match="class_weights must be none for real numbers"):
        balanced_weights(np.zeros(2, np.float32), Labels(kind="regression"))


def test_the_embedded_sentences_have_splits_of_their_own():
    data = classification.PRESETS["stdlib"][1].sets.load()
    assert min(len(data.train), len(data.dev), len(data.test)) > 100
    assert not set(data.train.texts) & set(data.test.texts)


def test_sentences_are_held_out_with_their_phrases(tmp_path):
    rows = []
    for number in range(40):
        words = [f"w{number}-{place}" for place in range(6)]
        label = "good" if number % 2 else "bad"
        rows += [(" ".join(words[start:]), label) for start in (0, 2, 4)]
    data = SetsConfig(train=str(write_table(tmp_path / "train.csv", rows)), dev_of="wholes").load()
    assert len(data.dev) == 4
    assert {len(text.split()) for text in data.dev.texts} == {6}
    assert len(data.train) == 36 * 3
    assert not {text.split("-")[0] for text in data.dev.texts} & {text.split("-")[0] for text in data.train.texts}


@pytest.mark.parametrize("flags", ["--folds 2", "--validation dev.csv", "--train stdlib"])
def test_sentences_are_held_out_of_a_share_of_train_alone(flags, command, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        command("own", "--dev-of", "wholes", "--train", "train.csv", *flags.split(), "--run", tmp_path / "run")
    assert stop.value.code == 2
    assert "dev_of must be texts unless a share of train is held out" in capsys.readouterr().err


def test_another_reading_of_the_test_set_changes_what_it_says():
    sets = classification.PRESETS["ag-news"][1].sets
    reading = sets.reading_of_test
    assert (reading.label_column, reading.first_label) == ("class", 1)
    assert reading.label_names == sets.reading.label_names
    sets = classification.PRESETS["sst2"][1].sets
    assert sets.reading_of_test == sets.reading


# A training from files to a report.


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished tiny run of two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = run_script("own", *data, *MAKE_IT_TINY, "--seeds", "2", "--run", folder / "run", cwd=folder)
    return folder / "run", done.stdout


FILES = """config.json versions.json start.json labels.json tokenizer.model metrics.jsonl scores.json predictions.tsv
    mistakes.jsonl explanations.json model.safetensors seeds/1.safetensors seeds/2.safetensors report.html"""


def test_a_run_leaves_all_its_files(finished):
    run, printed = finished
    assert [name for name in FILES.split() if not (run / name).is_file()] == []
    assert not list(run.rglob("*.partial"))
    assert f"report: {run / 'report.html'}" in printed.replace("\n", "")
    assert json.loads((run / "labels.json").read_text()) == {"kind": "single", "names": ["food", "music", "sport"]}
    assert len(json.loads((run / "explanations.json").read_text())) == 2


def test_the_run_says_what_it_does(finished):
    _, printed = finished
    for fact in ("mesh", "precision", "attention kernel", "padding share", "batch shapes", "updates per epoch"):
        assert fact in printed
    assert "test.csv: 40, 1 without words" in printed  # counted and kept
    assert "single: food, music, sport" in printed
    assert "linear model on TF-IDF" in printed
    assert "own test accuracy = " in printed


def test_metrics_hold_each_seed_and_each_epoch_once(finished):
    run, _ = finished
    training, validations = lines_of(run, "train"), lines_of(run, "validation")
    for line in (*training, *validations):
        assert all(len(values) == 2 for values in line["seeds"].values())
    steps = [line["step"] for line in validations]
    assert steps == sorted(set(steps))
    assert [line["step"] for line in training] == sorted({line["step"] for line in training})
    updates = json.loads((run / "start.json").read_text())["updates_per_epoch"]
    assert steps[0] == int(updates)
    assert {"loss", "accuracy", "epoch", "learning_rate"} <= validations[0].keys()


def test_the_rule_is_learned_and_scores_are_of_both_seeds(finished):
    run, _ = finished
    saved = scores_of(run)
    mean, ensemble = saved["rows"][0], next(row for row in saved["rows"] if "ensemble" in row["name"])
    assert mean["name"] == "own test accuracy"
    assert mean["score"] > 80  # a third by chance
    assert ensemble["interval"][0] <= ensemble["score"] <= ensemble["interval"][1]
    assert [row["seed"] for row in saved["seeds"]] == [1, 2]
    assert mean["score"] == pytest.approx(100 * np.mean([row["test"] for row in saved["seeds"]]))
    validations = {line["step"]: line["seeds"]["accuracy"] for line in lines_of(run, "validation")}
    for index, row in enumerate(saved["seeds"]):
        reached = [accuracy[index] for accuracy in validations.values()]
        assert row["dev"] == pytest.approx(max(reached), rel=1e-6)
        assert validations[row["best_step"]][index] == max(reached)
    assert saved["baselines"][0]["score"] > 80
    assert "The Transformer is " in saved["verdict"]


def test_predictions_have_names_and_mistakes_are_the_wrong_ones(finished, folder):
    run, _ = finished
    header, *rows = [line.split("\t") for line in (run / "predictions.tsv").read_text().splitlines()]
    assert header == ["index", "prediction", "probability"]
    assert [int(row[0]) for row in rows] == list(range(40))
    true = [line.rpartition(",")[2] for line in (folder / "test.csv").read_text().splitlines()[1:]]
    wrong = {int(row[0]) for row, label in zip(rows, true, strict=True) if row[1] != label}
    mistakes = [json.loads(line) for line in (run / "mistakes.jsonl").read_text().splitlines()]
    assert {row["index"] for row in mistakes} == wrong
    accuracy = next(row for row in scores_of(run)["rows"] if row["name"].endswith("ensemble, accuracy"))
    assert accuracy["score"] == pytest.approx(100 * (1 - len(wrong) / 40))


def test_a_finished_run_classifies_by_the_package_alone(finished, tmp_path):
    run, _ = finished
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        command = [sys.executable, "-c", "from lmx.cli import main; main()", "classify", str(moved)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        text = "the old drum\n\na race near the red ball\nsoup\n"
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, env=environment)
    finally:
        moved.rename(run)
    assert done.returncode == 0, done.stderr
    expected = [one.label for one in Classifier.load(run).classify(text.split("\n")[:-1])]
    assert done.stdout.split("\n")[:-1] == expected
    assert (expected[0], expected[2], expected[3]) == ("music", "sport", "food")
    assert "4 texts" in done.stderr


def test_the_same_command_again_trains_nothing_and_scores_the_same(finished, data, command):
    run, _ = finished
    kept = ("metrics.jsonl", "predictions.tsv", "mistakes.jsonl", "model.safetensors", "seeds/2.safetensors")
    before = [(run / name).read_bytes() for name in kept], {**scores_of(run), "seconds": 0}
    printed, _ = command("own", *data, *MAKE_IT_TINY, "--seeds", "2", "--run", run)
    assert "continuing" in printed
    assert ([(run / name).read_bytes() for name in kept], {**scores_of(run), "seconds": 0}) == before


def test_a_finished_run_takes_another_test_set(finished, data, folder, command, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    rows = [line.rsplit(",", 1) for line in (folder / "test.csv").read_text().splitlines()[1:11]]
    (tmp_path / "other.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    reading = "--test-reading.columns words kind --test-reading.text-columns words --test-reading.label-column kind"
    flags = [*MAKE_IT_TINY, "--seeds", "2", "--test", str(tmp_path / "other.tsv"), *reading.split(), "--run", run]
    command("own", *data[:4], *flags)
    assert (run / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    found, before = ((each / "predictions.tsv").read_text().splitlines() for each in (run, finished[0]))
    assert [line.split("\t")[1] for line in found] == [line.split("\t")[1] for line in before[:11]]
    assert scores_of(run)["texts"] == 10
    # Scores of a test set that is the run's no longer are gone.
    command("own", *data[:4], *MAKE_IT_TINY, "--seeds", "2", "--run", run)
    assert (run / "model.safetensors").is_file()
    assert [name for name in TESTED if (run / name).exists()] == []


def test_fewer_explanations_than_none_are_refused():
    _, config = classification.command_line(["trec", "--explain", "-1"])
    with pytest.raises(ValueError, match=r"^explain must be 0 \(nothing\) or more, got explain=-1\.$"):
        config.check()


def test_what_is_usual_can_be_said_of_the_test_set_alone():
    flags = "--test-reading.encoding utf-8 --test-reading.label-names None --test-reading.form None"
    _, config = classification.command_line(["trec", *flags.split()])
    assert (config.sets.reading.encoding, config.sets.reading.form) == ("latin-1", "text")
    assert config.sets.reading_of_test == Reading()


@pytest.mark.parametrize("preset", ["trec", "ag-news"])
def test_a_config_of_an_earlier_version_says_what_it_said(preset):
    """What is usual was saved where nothing was said of the test set, and meant: as all files."""
    config = classification.PRESETS[preset][1]
    now = config_as_json(config)
    said = {name: value for name, value in now["test_reading"].items() if value != "same"}
    before = {**now, "test_reading": json.loads(json.dumps(vars(Reading()))) | said}
    before["test_reading"].pop("field_limit")  # of an even earlier one
    filled, taken = filled_config(before, now, functools.partial(done_before, own=config.absent))
    assert (differences(filled, now), taken) == ([], {})
    # A version that has said something since is taken at its word.
    since = {**now, "test_reading": now["test_reading"] | {"encoding": "utf-8", "delimiter": None}}
    filled, _ = filled_config(since, now, functools.partial(done_before, own=config.absent))
    assert filled == since


def test_a_run_of_another_config_is_refused_in_one_line(finished, data, command, capsys):
    run, _ = finished
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stop:
        command("own", *data, *MAKE_IT_TINY, "--seeds", "2", "--seed", "9", "--run", run)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "config.seed=1 there and 9 here" in said
    assert said.count("\n") == 1
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_seed_of_two_is_that_seed_alone(finished, data, command, tmp_path):
    run, _ = finished
    command("own", *data, *MAKE_IT_TINY, "--explain", "0", "--no-baseline", "--seed", "2", "--run", tmp_path / "alone")
    together, (alone,) = scores_of(run)["seeds"][1], scores_of(tmp_path / "alone")["seeds"]
    assert alone["seed"] == together["seed"] == 2
    # The order of float32 sums differs: a text of the 30 may fall to the other side, no more.
    assert alone["dev"] == pytest.approx(together["dev"], abs=1 / 30)
    assert alone["best_step"] == together["best_step"]
    shared = zip(lines_of(run, "validation"), lines_of(tmp_path / "alone", "validation"), strict=False)
    for both, one in shared:
        assert one["step"] == both["step"]
        assert one["loss"] == pytest.approx(both["seeds"]["loss"][1], rel=1e-2)


# Other kinds of data.


def train_briefly(command, *arguments: str | Path, run: Path) -> dict:
    command("own", *MAKE_IT_TINY, *BRIEFLY, *arguments, "--run", run)
    assert (run / "report.html").is_file()
    return scores_of(run)


@pytest.mark.slow
def test_several_labels_of_bytes_in_balance_run_to_a_report(command, tmp_path):
    rows = [
        (text, "|".join({label, "noun"} if "old" in text else {label})) for text, label in examples(count=90, seed=4)
    ]
    write_table(tmp_path / "train.csv", rows[:70])
    write_table(tmp_path / "test.csv", rows[70:])
    flags = ["--label-separator", "|", "--tokenizer", "bytes", "--optimization.class-weights", "balanced"]
    flags += ["--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv")]
    flags += ["--predict", str(tmp_path / "new.csv")]
    write_table(tmp_path / "new.csv", [("a drum",), ("",), ("the soup",)], header="text")
    saved = train_briefly(command, *flags, run=tmp_path / "run")
    assert saved["kind"] == "multi"
    assert saved["names"] == ["food", "music", "noun", "sport"]
    assert saved["rows"][0]["name"] == "own test micro F1"
    assert (tmp_path / "run" / "tokenizer.bytes").is_file()
    assert len((tmp_path / "run" / "labelled.tsv").read_text().splitlines()) == 4  # a header and every text


@pytest.mark.slow
def test_numbers_of_long_texts_in_windows_run_to_a_report(command, tmp_path):
    rows = []
    for index, (text, label) in enumerate(examples(count=90, seed=5)):
        rows.append((" ".join([text] * (1 + index % 3)), f"{100 + 10 * list(KEYS).index(label)}"))
    write_table(tmp_path / "train.csv", rows[:70])
    write_table(tmp_path / "test.csv", rows[70:])
    flags = ["--kind", "regression", "--max-length", "12", "--stride", "5"]
    flags += ["--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--select", "loss"]
    saved = train_briefly(command, *flags, run=tmp_path / "run")
    assert saved["rows"][0]["name"] == "own test Pearson"
    model = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert model["output_mean"] == pytest.approx(110, abs=3)
    assert model["output_scale"] == pytest.approx(8, abs=1)
    assert "windows" in json.loads((tmp_path / "run" / "start.json").read_text())["test_texts"]
    assert saved["truncated"] == 0
    # Within the labels' unit from the start, and the dev loss falls what the mean alone would have.
    error = next(row for row in saved["rows"] if "squared error" in row["name"])["score"]
    assert error < 2 * 8**2
    lines = (tmp_path / "run" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert all(60 < float(line.split("\t")[1]) < 160 for line in lines[1:])


@pytest.mark.slow
def test_pairs_of_texts_run_to_a_report(command, tmp_path):
    texts = [text for text, _ in examples(count=160, seed=6)]
    rows = [(a, b, "same" if len(a) > len(b) else "other") for a, b in zip(texts[::2], texts[1::2], strict=True)]
    write_table(tmp_path / "train.csv", rows, header="first,second,label")
    flags = ["--text-columns", "first", "second", "--train", str(tmp_path / "train.csv"), "--attention"]
    flags += ["--test", str(write_table(tmp_path / "test.csv", rows[:20], header="first,second,label"))]
    flags += ["--validation", str(write_table(tmp_path / "validation.csv", rows[20:30], header="first,second,label"))]
    saved = train_briefly(command, *flags, "--explain", "1", "--baseline", run=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["num_types"] == 2
    assert saved["texts"] == 20
    assert "20 of them letter for letter in training" in (tmp_path / "run" / "start.json").read_text()
    (record,) = json.loads((tmp_path / "run" / "explanations.json").read_text())
    assert record["text"] == list(rows[0][:2])
    (maps,) = json.loads((tmp_path / "run" / "attention.json").read_text())
    assert np.shape(maps["weights"])[2:] == (len(maps["pieces"]),) * 2


# What goes wrong.


def refused(command, capsys, *arguments: str | Path) -> str:
    """Returns the one line that a command is refused with."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


GOOD = ("soup is good,food\n" * 30 + "a loud song,music\n" * 30).splitlines()


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        # Files; where none is named, train.csv is a good one.
        ({"train": ["review,label", *GOOD]}, "--text-columns text", "a column 'text', got 'review', 'label'"),
        ({"train": ["text,class", *GOOD]}, "", "must have a column 'label', got 'text', 'class'"),
        ({"train": ["text,label", *GOOD[:30]]}, "", "must have at least two classes, got 'food' in all 30 texts"),
        ({"train": ["text,label", *GOOD[:30]]}, "--folds 3", "must have at least two classes"),
        ({"train": ["text,label", *GOOD, "soup, again,food"]}, "", "train.csv:62 must have 2 fields"),
        ({"train": ["text,label", *GOOD[:40], "", ",food", "a song, "]}, "", "train.csv:44 must have a label"),
        ({"test": ["text,label", "a race,sport"]}, "", "test.csv:2 must have a label of training ('food', 'music')"),
        ({"test": ["text,label", "a race,0"]}, "", "It is a number and those are words"),
        ({"validation": ["text,label", "soup,fod"]}, "", "The nearest is 'food'."),
        ({"validation": ["text", "soup"]}, "", "must have a column 'label', got 'text'"),
        ({}, "--train nowhere.csv", "nowhere.csv must exist"),
        ({}, "--kind regression", "train.csv:2 must have a real number as its label, got 'food'"),
        ({}, "--optimization.class-weights balanced --kind multi", "must have labels of kind=multi"),
        # Settings that do not suit them, or each other.
        ({}, "--validation dev.csv --test dev.csv", "test must be another set than validation"),
        ({}, "--test train.csv", "test must be another set than train"),
        ({}, "--validation train.csv", "validation must be another set than train"),
        ({}, "--mesh.data 3", "mesh sizes must multiply to the 1 devices"),
        ({}, "--optimization.warmup 1000", "updates of a training must be more than warmup"),
        ({}, "--epochs 1 --dev-share 0.9 --optimization.schedule constant", "epochs must be enough for an update"),
        ({}, "--model.num-outputs 7", "model.num_outputs must be the data's 2"),
        ({}, "--log-every 0", "log_every must be at least 1, got log_every=0"),
        ({}, "--patience 0", "patience must be at least 1, or None to train to the end, got patience=0"),
        ({}, "--seeds 0", "seeds must be at least 1, got seeds=0"),
        ({}, "--max-length 2", "max_length must be at least 3"),
        ({}, "--stride 31", "stride must be from 1 to the 30 tokens of a window"),
        ({}, "--folds 1", "folds must be at least 2"),
        ({}, "--folds 3 --test test.csv", "take the place of a test set"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(files, flags, message, command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = []
    for split, lines in {"train": ["text,label", *GOOD], **files}.items():
        Path(f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        given += [f"--{split}", f"{split}.csv"]
    said = refused(
        command, capsys, "own", *MAKE_IT_TINY, "--tokenizer", "bytes", *given, *flags.split(), "--run", "run"
    )
    assert message in said
    assert not Path("run").exists()


def test_a_huge_field_names_its_line(command, capsys, tmp_path):
    rows = [*GOOD[:3], 'open "quote, of,food', '"' + "x" * (1 << 24) + "y,food"]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    flags = [*MAKE_IT_TINY, "--train", str(tmp_path / "train.csv"), "--run", tmp_path / "run"]
    assert "train.csv:5 must have" in refused(command, capsys, "own", *flags)
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join([*rows[:3], rows[4]]) + "\n")
    assert "train.csv:5 must have fields of at most 16,777,216 characters" in refused(command, capsys, "own", *flags)
    assert not (tmp_path / "run").exists()


def test_a_mesh_that_does_not_divide_the_rows_is_told_before_training(command, capsys, data, tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:7]))
    said = refused(command, capsys, "own", *data, *MAKE_IT_TINY, "--run", tmp_path / "run")
    assert "axis 'batch' must be divisible by its 7 devices (mesh data)" in said
    assert not (tmp_path / "run").exists()


def test_unknown_names_get_the_nearest(command, capsys, tmp_path):
    assert "Nearest: newsgroups20." in refused(command, capsys, "newsgroups")
    done = run_script("sst", "--run", "r", cwd=tmp_path, check=False)  # as a process of its own
    assert done.returncode == 2
    assert "Nearest: sst2." in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        command("own", "--optimization.peek", "1")
    assert stop.value.code == 2
    assert "--optimization.peak" in "".join(capsys.readouterr())


def test_help_lists_presets_and_fields(command, capsys):
    for arguments, word in ((["--help"], "newsgroups20"), (["own", "--help"], "--optimization.word-dropout")):
        with pytest.raises(SystemExit) as stop:
            command(*arguments)
        assert stop.value.code == 0
        assert word in capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_says_whether_it_fits(tmp_path):
    flags = ["--seeds", "3", "--tokenizer", "bytes", "--run", "r"]
    printed = run_script("own", "--plan", "h100", *MAKE_IT_TINY, *flags, cwd=tmp_path).stdout
    assert printed.startswith("own: bytes, 16 classes. Of one seed; 3 need 3 times as much.")
    assert "the longest that the config allows, 32 tokens" in printed
    assert "GB" in printed or "GiB" in printed or "MiB" in printed
    assert not (tmp_path / "r").exists()


# Whole runs.


@pytest.mark.slow
def test_every_text_is_tested_by_the_fold_it_was_not_in(tmp_path):
    # Of the second class there are fewer texts than folds: not every test set has it.
    rows = [row for row in examples(count=160, seed=7) if row[1] != "sport"]
    rare = [row for row in rows if row[1] == "music"][:2]
    rows = [row for row in rows if row[1] == "food"] + rare
    write_table(tmp_path / "train.csv", rows)
    flags = ["--train", tmp_path / "train.csv", *MAKE_IT_TINY, "--folds", "3", "--run", tmp_path / "run"]
    printed = run_script("own", *flags, cwd=tmp_path).stdout
    run = tmp_path / "run"
    saved = scores_of(run)
    assert "over folds: accuracy = " in printed
    assert saved["texts"] == len(rows)
    folds = [scores_of(run / f"fold-{fold}") for fold in (1, 2, 3)]
    assert sum(each["texts"] for each in folds) == len(rows)
    right = sum(each["rows"][0]["score"] * each["texts"] for each in folds)
    assert saved["rows"][0]["score"] == pytest.approx(right / len(rows))
    names = [{row["name"].split("test ")[1] for row in each["rows"]} for each in folds]
    assert "AUROC" in set.union(*names) - set.intersection(*names)
    assert {"accuracy", "macro F1"} <= {spread["name"] for spread in saved["spread"]} == set.intersection(*names)
    assert len((run / "predictions.tsv").read_text().splitlines()) == len(rows) + 1
    assert (run / "report.html").is_file()
    again = run_script("own", *flags, cwd=tmp_path).stdout
    assert again.count("continuing") == 3
    assert {**scores_of(run), "seconds": 0} == {**saved, "seconds": 0}


@pytest.mark.slow
def test_a_stopped_run_of_two_seeds_ends_bitwise_as_one_never_stopped(data, tmp_path):
    flags = [*data, *MAKE_IT_TINY, "--seeds", "2", "--epochs", "40", "--patience", "None"]
    run_script("own", *flags, "--run", tmp_path / "whole", cwd=tmp_path)
    command = [sys.executable, str(SCRIPT), "own", *flags, "--run", str(tmp_path / "stopped")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("validation after"):
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 75
    assert not (tmp_path / "stopped" / "scores.json").exists()
    run_script("own", *flags, "--run", tmp_path / "stopped", cwd=tmp_path)
    for kind in ("train", "validation"):
        assert lines_of(tmp_path / "whole", kind) == lines_of(tmp_path / "stopped", kind)
    for name in ("model.safetensors", "seeds/1.safetensors", "seeds/2.safetensors", "predictions.tsv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_what_the_config_says_of_the_vocabulary_reaches_it_once(tmp_path, monkeypatch):
    asked = []
    real = SentencePieceTokenizer.train
    learn = lambda texts, **settings: asked.append(settings) or real(texts, **settings)  # noqa: E731
    monkeypatch.setattr(SentencePieceTokenizer, "train", learn)
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"the {thing} sat,{thing}\n" for thing in ("cat", "dog") * 20))
    flags = ["--max-texts", "30", "--character-coverage", "0.99", "--vocab-size", "25", "--run", str(tmp_path / "r")]
    _, config = classification.command_line(["own", "--train", str(path), *flags])
    run = classification.Run(config.run.run, {})
    cache = classification.text_cache(str(tmp_path / "cache"))
    for _ in range(2):
        data = config.sets.load(cache=cache)
        found = classification.make_tokenizer(run, config, data.train, cache)
        assert found.vocab_size == 25
    assert asked == [{"vocab_size": 25, "folding": "compatibility", "max_texts": 30, "character_coverage": 0.99}]
    held = config.sets.load()
    assert list(data.train.texts) == list(held.train.texts)
    assert list(data.dev.texts) == list(held.dev.texts)
    assert (data.labels, list(data.train.labels)) == (held.labels, list(held.train.labels))
