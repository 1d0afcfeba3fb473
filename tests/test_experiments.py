"""Every preset builds, a tiny form trains from files to a report, and what goes wrong says so in one line."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "translation.py"
MAKE_IT_TINY = """
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --num-buckets 2 --tokens-per-batch 320 --updates 12 --validate-every 4
    --log-every 2 --bleu-sentences 3 --bleu-every 2 --average 2 --search.beam-size 2 --vocab-size 60
    --optimization.warmup 4
""".split()


def load_script():
    spec = importlib.util.spec_from_file_location("translation_experiment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


translation = load_script()


def run_script(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


NUMBERS = "zero one two three four five six seven eight nine".split()
ZAHLEN = "null eins zwei drei vier fünf sechs sieben acht neun".split()


def write_numbers(path: Path, *, count: int, seed: int) -> Path:
    """Writes pairs such as "two nine" and "zwei neun", as TSV."""
    digits = np.random.default_rng(seed).integers(0, 10, size=(count, 7))
    lines = []
    for row in digits:
        chosen = row[: 2 + row[0] % 5]
        lines.append(" ".join(NUMBERS[i] for i in chosen) + "\t" + " ".join(ZAHLEN[i] for i in chosen))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    flags = []
    for seed, (split, count) in enumerate([("train", 300), ("validation", 30), ("test", 21)]):
        flags += [f"--{split}", str(write_numbers(folder / f"{split}.tsv", count=count, seed=seed))]
    return flags


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished tiny run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = run_script("multi30k-raw", *data, *MAKE_IT_TINY, "--run", folder / "run", cwd=folder)
    return folder / "run", done.stdout


@pytest.mark.parametrize("preset", translation.PRESETS)
def test_every_preset_builds(preset):
    config = translation.PRESETS[preset][1]
    model = translation.replace(config.model, source_vocab_size=130, target_vocab_size=130)
    parts = translation.build(config, model)
    network = nnx.eval_shape(lambda: parts.build_model(nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    batch = {name: jax.ShapeDtypeStruct((8, 6), "int32") for name in ("source", "decoder_input", "target")}
    key = jax.eval_shape(lambda: jax.random.key(0))
    sums = jax.eval_shape(parts.loss, params, batch, key)
    assert {"loss", "nll", "weight"} <= sums.keys()
    assert float(parts.schedule(config.optimization.warmup)) > 0


@pytest.mark.parametrize("schedule", ["inverse-sqrt", "noam", "linear", "cosine", "constant"])
def test_every_schedule_reaches_its_peak(schedule):
    options = translation.Optimization(schedule=schedule, peak=0.003, warmup=10)
    config = translation.replace(translation.Config(), optimization=options, updates=50)
    model = translation.replace(config.model, source_vocab_size=130, target_vocab_size=130)
    rates = [float(translation.build(config, model).schedule(count)) for count in range(50)]
    assert max(rates) == pytest.approx(0.003, rel=1e-3)


def test_a_run_leaves_all_its_files(finished):
    run, printed = finished
    for name in ("config.json", "versions.json", "start.json", "metrics.jsonl", "scores.json", "samples.jsonl"):
        assert (run / name).is_file(), name
    for name in ("attention.json", "model.safetensors", "tokenizer.model", "test.hypotheses.txt", "report.html"):
        assert (run / name).is_file(), name
    assert f"report: {run / 'report.html'}" in printed.replace("\n", "")


def test_the_run_says_what_it_does(finished):
    _, printed = finished
    for fact in ("mesh", "precision", "attention kernel", "padding share", "padding optimum", "batch shapes"):
        assert fact in printed
    assert "tokens/s" in printed
    assert "waiting for data" in printed
    assert "multi30k-raw test BLEU = " in printed


def test_metrics_have_each_line_once(finished):
    run, _ = finished
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [4, 8, 12]
    assert ["bleu" in line for line in validations] == [False, True, False]


def test_a_finished_run_translates_by_the_package_alone(finished, tmp_path):
    run, _ = finished
    moved = tmp_path / "moved"
    run.rename(moved)
    try:
        command = [sys.executable, "-c", "from lmx.cli import main; main()", "translate", str(moved)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        text = "one two\n\nnine\n"
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, env=environment)
    finally:
        moved.rename(run)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert len(lines) == 4
    assert lines[1] == ""
    assert "3 lines" in done.stderr
    hypotheses = (run / "test.hypotheses.txt").read_text(encoding="utf-8")
    assert hypotheses.count("\n") == 21


def test_the_same_command_again_trains_nothing_and_scores_the_same(finished, data):
    run, _ = finished
    before = (run / "metrics.jsonl").read_bytes(), json.loads((run / "scores.json").read_text())["rows"]
    done = run_script("multi30k-raw", *data, *MAKE_IT_TINY, "--run", run, cwd=run.parent)
    assert "continuing" in done.stdout
    assert ((run / "metrics.jsonl").read_bytes(), json.loads((run / "scores.json").read_text())["rows"]) == before


def test_a_run_of_another_config_is_refused(finished, data):
    run, _ = finished
    done = run_script("multi30k-raw", *data, *MAKE_IT_TINY, "--run", run, "--seed", "9", cwd=run.parent, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "config.seed=1 there and 9 here" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multi30"], "Nearest: multi30k."),
        (["phrasebook", "--train", "nowhere.tsv", "--run", "r"], "nowhere.tsv"),
        (
            [*"phrasebook --model.source-vocab-size 7 --model.target-vocab-size 7 --run r".split()],
            "got source_vocab_size=7",
        ),
    ],
)
def test_mistakes_are_one_line_and_lose_nothing(arguments, message, tmp_path):
    done = run_script(*arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert "Traceback" not in done.stderr


def test_a_raw_reference_of_another_length_is_told_before_training(data, tmp_path):
    (tmp_path / "raw.de").write_text("eins zwei\n", encoding="utf-8")
    done = run_script("multi30k", *data, "--raw-reference", "raw.de", "--run", "r", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "raw_reference must have a line for each test pair, got 1 lines in raw.de and 21 pairs" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_mesh_that_does_not_divide_the_rows_is_told_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    done = run_script("multi30k-raw", *data, *MAKE_IT_TINY, "--run", "r", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "axis 'batch' must be divisible by its 3 devices (mesh data), got size=8" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_an_unknown_field_names_the_nearest(tmp_path):
    done = run_script("phrasebook", "--optimization.peek", "1", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--optimization.peak" in done.stdout + done.stderr


def test_help_lists_presets_and_fields(tmp_path):
    assert "multi30k-raw" in run_script("--help", cwd=tmp_path).stdout
    fields = run_script("phrasebook", "--help", cwd=tmp_path).stdout
    assert "--tokens-per-batch" in fields
    assert "--model.width" in fields
    assert "--text-cache" in fields


def test_what_the_config_says_of_the_vocabulary_reaches_it_once(data, tmp_path, monkeypatch):
    asked = []
    real = translation.SentencePieceTokenizer.train
    learn = lambda texts, **settings: asked.append(settings) or real(texts, **settings)  # noqa: E731
    monkeypatch.setattr(translation.SentencePieceTokenizer, "train", learn)
    flags = ["--max-texts", "100", "--character-coverage", "0.99", "--vocab-size", "60", "--run", str(tmp_path / "r")]
    _, config = translation.command_line(["multi30k-raw", *data, *flags])
    run = translation.Run(config.run, {})
    cache = translation.text_cache(str(tmp_path / "cache"))
    pairs = translation.training_pairs(config)
    found = [translation.load_or_make_tokenizers(run, config, pairs, cache)[0] for _ in range(2)]
    assert asked == [{"vocab_size": 60, "max_texts": 100, "character_coverage": 0.99}]
    assert found[0].pieces(range(60)) == found[1].pieces(range(60))
    other = translation.replace(config, joint=False, model=translation.replace(config.model, tied_embeddings="target"))
    sides = translation.load_or_make_tokenizers(run, other, pairs, cache)
    assert len(asked) == 3
    assert sides[0].pieces(range(60)) != sides[1].pieces(range(60))


def without_times(path: Path) -> list[dict]:
    timed = ("seconds", "tokens_per_second", "data_wait")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_stopped_run_ends_bitwise_as_one_never_stopped(number, code, data, tmp_path):
    flags = [*data, *MAKE_IT_TINY, "--updates", "40", "--validate-every", "8"]
    run_script("multi30k-raw", *flags, "--run", tmp_path / "whole", cwd=tmp_path)
    command = [sys.executable, str(SCRIPT), "multi30k-raw", *flags, "--run", str(tmp_path / "stopped")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("validation after 8"):
                break
        time.sleep(0.3)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == code
    run_script("multi30k-raw", *flags, "--run", tmp_path / "stopped", cwd=tmp_path)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "stopped")
    for name in ("model.safetensors", "test.hypotheses.txt"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.slow
def test_random_kills_change_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "3", "--directory", str(tmp_path / "k")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills by SIGKILL" in done.stdout
    assert done.stdout.endswith("all runs ended bitwise as the one never stopped\n")


@pytest.mark.slow
def test_the_phrasebook_is_learned(tmp_path):
    flags = ["--updates", "300", "--average", "1", "--run", str(tmp_path / "run")]
    printed = run_script("phrasebook", *flags, cwd=tmp_path).stdout
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["rows"][0]["score"] > max(row["score"] for row in scores["baselines"]) + 10
    assert "phrasebook test BLEU = " in printed
