"""Every preset builds, a tiny form trains from files to a report, and what goes wrong says so in one line."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
from flax import nnx

from lmx.config import config_as_json
from lmx.data.cache import Cache
from lmx.data_commands import open_data
from lmx.differences import filled_config
from lmx.errors import InputError
from lmx.experiment import begin, done_before, learn_tokenizer, settle
from lmx.lock import release_lock
from lmx.pieces import VocabularyConfig
from lmx.pretrained import StartConfig
from lmx.sharding.layout import Layout
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.text import ByteTokenizer, SentencePieceTokenizer
from lmx.training_text import VocabularyTooLarge
from lmx.translator import Translation

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
    """Runs the script as a user does, in a process of its own: what `run_here` is about, at a second's more cost."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, env=environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def run_here(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Runs the script in this process, where all is imported and annotations are checked."""
    code, printed = 0, [io.StringIO(), io.StringIO()]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed[0]),
        contextlib.redirect_stderr(printed[1]),
    ):
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "200")
        patch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")  # the tests keep their own settings
        patch.delenv("LMX_TRACEBACK", raising=False)
        patch.setattr(translation, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            translation.run_script(translation.command_line, translation.main, translation.plan)
        except SystemExit as stop:
            code = stop.code or 0
    out, err = (text.getvalue() for text in printed)
    assert not check or code == 0, err[-3000:]
    return subprocess.CompletedProcess(sys.argv, code, out, err)


# Lines that lack a side.
EMPTY = {
    "train": {7: "source", 100: "target", 299: "target"},
    "validation": {0: "target", 5: "source"},
    "test": {4: "source", 11: "target", 20: "source"},
}
NUMBERS = "zero one two three four five six seven eight nine".split()
ZAHLEN = "null eins zwei drei vier fünf sechs sieben acht neun".split()


def write_numbers(path: Path, *, count: int, seed: int, empty: dict[int, str]) -> Path:
    """Writes pairs such as "two nine" and "zwei neun", as TSV; of some lines the named side has no text."""
    digits = np.random.default_rng(seed).integers(0, 10, size=(count, 7))
    lines = []
    for row in digits:
        chosen = row[: 2 + row[0] % 5]
        sides = {"source": " ".join(NUMBERS[i] for i in chosen), "target": " ".join(ZAHLEN[i] for i in chosen)}
        if len(lines) in empty:
            sides[empty[len(lines)]] = ""
        lines.append("\t".join(sides.values()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    flags = []
    for seed, (split, count) in enumerate([("train", 300), ("validation", 30), ("test", 21)]):
        path = write_numbers(folder / f"{split}.tsv", count=count, seed=seed, empty=EMPTY[split])
        flags += [f"--{split}", str(path)]
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
    network = parts.model.network
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
    rates = translation.build(config, model).schedule(np.arange(50))
    assert float(rates.max()) == pytest.approx(0.003, rel=1e-3)


def test_a_run_leaves_all_its_files(finished):
    run, printed = finished
    for name in ("config.json", "versions.json", "start.json", "metrics.jsonl", "scores.json", "samples.jsonl"):
        assert (run / name).is_file(), name
    for name in ("attention.json", "model.safetensors", "tokenizer.model", "test.hypotheses.txt", "report.html"):
        assert (run / name).is_file(), name
    assert f"report: {run / 'report.html'}" in printed.replace("\n", "")


def test_the_run_says_what_it_does(finished):
    _, printed = finished
    for fact in (
        "mesh",
        "tokens per device",
        "precision",
        "attention kernel",
        "padding share",
        "padding optimum",
        "batch shapes",
    ):
        assert fact in printed
    assert "tokens/s" in printed
    assert "waiting for data" in printed
    assert "multi30k-raw test BLEU = " in printed


def test_what_has_an_empty_side_is_counted_and_a_test_set_keeps_its_lines(finished):
    run, printed = finished
    hypotheses = (run / "test.hypotheses.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(hypotheses) == 21
    assert [index for index, line in enumerate(hypotheses) if not line] == [4, 20]  # those without a source
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["sentences"], scores["empty"]) == (21, 3)
    assert "kept all 297 pairs, 3 with an empty side left out" in printed
    assert "kept all 28 pairs, 2 with an empty side left out" in printed
    assert "test.tsv: 21 pairs, 3 with an empty side kept in their places" in printed
    assert "3 of 21 test pairs have an empty side: an empty source has an empty translation" in printed
    limited = scores["limited"]
    assert (f"{limited} of 21 translations were ended by the length limit" in printed) == (limited > 0)


def test_the_learning_rate_is_that_of_the_update_that_was_made(finished):
    run, _ = finished
    saved = json.loads((run / "config.json").read_text())["config"]["optimization"]
    config = translation.replace(translation.Config(), optimization=translation.Optimization(**saved), updates=12)
    model = translation.replace(config.model, source_vocab_size=60, target_vocab_size=60, width=16)
    schedule = translation.build(config, model).schedule
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["learning_rate"] == pytest.approx(float(schedule(line["step"] - 1)), rel=1e-4)
    assert len({line["learning_rate"] for line in lines}) > 4


@pytest.fixture(scope="module")
def averaged(data, tmp_path_factory):
    """The finished run once more, with an exponential average."""
    folder = tmp_path_factory.mktemp("averaged")
    flags = [*MAKE_IT_TINY, "--optimization.average-decay", "0.99"]
    run_here("multi30k-raw", *data, *flags, "--run", folder / "run", cwd=folder)
    return folder / "run"


@pytest.mark.slow
def test_validation_test_and_export_use_the_exponential_average(finished, averaged, data):
    plain, _ = finished
    kinds = {}
    for name, run in (("plain", plain), ("averaged", averaged)):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kinds[name] = [[line for line in lines if line["kind"] == kind] for kind in ("train", "validation")]
    (trained, validated), (trained_too, validated_too) = kinds["plain"], kinds["averaged"]
    # The same training, the same updates; only what is validated differs.
    assert [line["loss"] for line in trained] == [line["loss"] for line in trained_too]
    assert all(line["nll"] != other["nll"] for line, other in zip(validated, validated_too, strict=True))
    # What is kept is what was validated last, and no mean of checkpoints.
    translator = translation.Translator.load(averaged)
    config = translation.Config()
    pairs = config.sets.read(data[data.index("--validation") + 1], split="validation")
    encoded = translation.encode_pairs(pairs, translator.source_tokenizer, translator.target_tokenizer)
    parts = translation.build(config, translator.config)
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    batches = translation.BatchConfig(tokens_per_batch=1600).once(encoded, Layout(mesh), buckets=(40,))
    found = translation.mean_loss(translation.place(parts, mesh), translator.params, batches)
    assert found["nll"] == pytest.approx(validated_too[-1]["nll"], rel=1e-4)
    scores = json.loads((averaged / "scores.json").read_text())
    assert "exponential average" in scores["rows"][0]["made"]


@pytest.mark.slow
def test_seeds_train_in_one_step_and_are_tested_alone_and_together(data, tmp_path):
    flags = [*MAKE_IT_TINY, *"--seeds 2 --updates 6 --validate-every 3 --bleu-every 1 --average-of best".split()]
    flags += [*"--average 1 --num-buckets 1 --search.beam-size 1".split(), "--run", tmp_path / "run"]
    run = tmp_path / "run"
    run_here("multi30k-raw", *data, *flags, cwd=tmp_path)
    scores = json.loads((run / "scores.json").read_text())
    mean, ensemble, *_ = scores["rows"]
    assert mean["name"] == "multi30k-raw test BLEU"
    assert mean["made"].startswith("mean of 2 seeds, standard deviation ")
    assert (ensemble["name"], ensemble["made"][:25]) == (
        "multi30k-raw test, ensemble, BLEU",
        "2 seeds translate togethe",
    )
    assert [each["seed"] for each in scores["seeds"]] == [1, 2]
    assert mean["score"] == pytest.approx(np.mean([each["test"] for each in scores["seeds"]]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in (each for each in lines if each["kind"] == "validation"):
        assert {len(line["seeds"][name]) for name in ("loss", "nll", "perplexity", "bleu")} == {2}
        assert line["seeds"]["loss"][0] != line["seeds"]["loss"][1]
    losses = [line["seeds"]["loss"] for line in lines if line["kind"] == "validation"]
    assert [each["dev"] for each in scores["seeds"]] == pytest.approx(np.min(losses, axis=0), rel=1e-6)
    kept = next(each["seed"] for each in scores["seeds"] if each["kept"])
    assert (run / "model.safetensors").read_bytes() == (run / "seeds" / f"{kept}.safetensors").read_bytes()
    assert (run / "seeds" / "1.safetensors").read_bytes() != (run / "seeds" / "2.safetensors").read_bytes()
    # Without its checkpoints the run serves, and says the same.
    shutil.rmtree(run / "checkpoints")
    printed = run_here("multi30k-raw", *data, *flags, cwd=tmp_path).stdout
    assert "it is used as it is, and nothing is trained" in printed
    again = json.loads((run / "scores.json").read_text())
    assert [row["score"] for row in again["rows"]] == [row["score"] for row in scores["rows"]]
    assert [each["best_step"] for each in again["seeds"]] == [each["best_step"] for each in scores["seeds"]]


def tiny_parts(**optimization):
    """Returns the parts of a tiny model, its parameters and a batch."""
    options = translation.Optimization(**optimization)
    config = translation.replace(translation.Config(), optimization=options)
    sizes = {"width": 16, "feedforward_width": 24, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = translation.replace(config.model, source_vocab_size=130, target_vocab_size=130, unroll=1, **sizes)
    parts = translation.build(config, model)
    generator = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(generator.normal(0, 0.3, leaf.shape), leaf.dtype)  # noqa: E731
    params = jax.tree.map(draw, parts.model.shapes)  # building the model compiles an operation at a time
    words = generator.integers(4, 130, size=(3, 8, 6))
    return parts, params, dict(zip(("source", "decoder_input", "target"), words.astype(np.int32), strict=True))


def test_bleu_splits_words_as_the_target_language_wants():
    lines = ["一只猫找到这个树，真的。", "一只狗看见这个房子。"]
    found = [Translation(line, (), 0.0) for line in lines]
    for settings, tokenize, value in (
        ({"language": "zh"}, "zh", 100),
        ({"language": "zh", "tokenize": "char"}, "char", 100),
        ({"language": "de"}, "13a", 0),
    ):
        language = settings.pop("language")
        bleu, other = translation.ScoringConfig(**settings).all_scores(found, lines, language=language)
        assert (bleu.score, other.score) == (pytest.approx(value), pytest.approx(100))
        assert f"|tok:{tokenize}|" in bleu.signature


def test_label_smoothing_reaches_the_loss():
    found = []
    for rate in (0.0, 0.1, 0.3):
        parts, params, batch = tiny_parts(label_smoothing=rate)
        found.append(jax.device_get(jax.jit(parts.loss)(params, batch, None)))
    plain, light, heavy = found
    assert plain["loss"] == pytest.approx(plain["nll"], rel=1e-6)
    assert plain["nll"] == pytest.approx(light["nll"], rel=1e-6)
    # loss = (1 - rate) nll + rate x mean over all words: linear in the rate.
    assert abs(light["loss"] - plain["loss"]) > 1e-3
    assert (heavy["loss"] - plain["loss"]) == pytest.approx(3 * (light["loss"] - plain["loss"]), rel=1e-2)


def test_encoder_and_decoder_drop_out_by_keys_of_their_own(monkeypatch):
    parts, params, batch = tiny_parts()
    seen = {}
    for name in ("encode", "decode"):
        method = getattr(translation.Seq2Seq, name)

        def watched(self, *arguments, name=name, method=method, key=None, **options):
            seen[name] = None if key is None else tuple(jax.random.key_data(key).tolist())
            return method(self, *arguments, key=key, **options)

        monkeypatch.setattr(translation.Seq2Seq, name, watched)
    parts.loss(params, jax.tree.map(jax.numpy.asarray, batch), jax.random.key(5))
    given = tuple(jax.random.key_data(jax.random.key(5)).tolist())
    assert len({seen["encode"], seen["decode"], given}) == 3
    assert None not in seen.values()


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
    done = run_here("multi30k-raw", *data, *MAKE_IT_TINY, "--run", run, cwd=run.parent)
    assert "continuing" in done.stdout
    assert ((run / "metrics.jsonl").read_bytes(), json.loads((run / "scores.json").read_text())["rows"]) == before


@pytest.mark.slow
def test_another_test_set_is_scored_by_the_same_model(finished, data, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    other = write_numbers(tmp_path / "other.tsv", count=9, seed=77, empty={})
    model = (run / "model.safetensors").read_bytes()
    run_here("multi30k-raw", *data[:-1], other, *MAKE_IT_TINY, "--run", run, cwd=tmp_path)
    assert json.loads((run / "scores.json").read_text())["sentences"] == 9
    assert len((run / "test.hypotheses.txt").read_text().splitlines()) == 9
    assert (run / "model.safetensors").read_bytes() == model


def test_a_run_of_another_config_is_refused(finished, data):
    run, _ = finished
    done = run_here("multi30k-raw", *data, *MAKE_IT_TINY, "--run", run, "--seed", "9", cwd=run.parent, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "config.seed=1 there and 9 here" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multi30"], "Nearest: multi30k."),
        (["phrasebook", "--train", "nowhere.tsv", "--run", "r"], "nowhere.tsv"),
        (["phrasebook", "--folds", "3", "--run", "r"], "Say --test None for a preset that has one."),
        (["multi30k", "--folds", "3", "--test", "None", "--run", "r"], "Say --raw-reference None."),
        (["multi30k-raw", "DATA", "--tokenize", "chr", "--run", "r"], "got tokenize='chr'. The nearest is char."),
        (
            "multi30k-raw DATA --vocab-size 60 --model.source-vocab-size 7 --model.target-vocab-size 7 --run r".split(),
            "got source_vocab_size=7",
        ),
    ],
)
def test_mistakes_are_one_line_and_lose_nothing(arguments, message, data, tmp_path):
    given = [part for word in arguments for part in (data if word == "DATA" else [word])]
    run = run_script if arguments == ["multi30"] else run_here
    done = run(*given, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert "Traceback" not in done.stderr


def test_a_raw_reference_of_another_length_is_told_before_training(data, tmp_path):
    (tmp_path / "raw.de").write_text("eins zwei\n", encoding="utf-8")
    done = run_here("multi30k", *data, "--raw-reference", "raw.de", "--run", "r", cwd=tmp_path, check=False)
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


needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


class Began(Exception):
    """What the script trains."""


@pytest.fixture
def prepared(data, tmp_path, monkeypatch):
    """Returns placed learner, batches and config of what the script would train, in a directory it has opened."""

    def training(run, placed, batches, **_):
        raise Began(placed, batches)

    monkeypatch.setattr(translation, "Training", training)

    def begin(*flags: str):
        arguments = ["multi30k-raw", *data, *MAKE_IT_TINY, "--run", str(tmp_path / "run"), *flags]
        preset, config = translation.command_line(arguments)
        config = settle(config)
        with pytest.raises(Began) as began:
            translation.main(preset, config)
        release_lock(tmp_path / "run")
        return *began.value.args, config

    return begin


@needs_eight
def test_a_run_continues_with_the_same_batches_on_another_mesh_and_sequence(prepared):
    flags = ["--length-multiple", "4", "--tokens-per-device", "40"]
    _, begun, config = prepared(*flags)
    assert config.batch.tokens_per_batch == 8 * 40
    assert len(begun.buckets) == 2
    assert all(length % 4 == 0 for length in begun.buckets)
    for mesh in (
        "--mesh.sequence 4",
        "--mesh.data 2 --mesh.tensor 2 --mesh.sequence 2",
        "--mesh.fsdp 4 --mesh.tensor 2",
    ):
        placed, batches, config = prepared(*flags, *mesh.split())
        assert config.batch.tokens_per_batch == 8 * 40
        assert placed.mesh.shape["sequence"] == int(mesh.split()[-1]) or "sequence" not in mesh
        assert batches.shapes == begun.shapes
        for k in range(30):
            np.testing.assert_array_equal(batches.indices(k), begun.indices(k))


@needs_eight
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--mesh.sequence 8", "length_multiple must be divisible by mesh.sequence=8, got length_multiple=4"),
        ("--length-multiple 8", "config.length_multiple=4 there and 8 here"),
        ("--tokens-per-device 60", "config.tokens_per_device=40 there and 60 here"),
        ("--tokens-per-device None", "config.tokens_per_device=40 there and None here"),
    ],
)
def test_what_would_change_the_batches_of_a_begun_run_is_refused(flags, message, prepared):
    begun = ["--length-multiple", "4", "--tokens-per-device", "40"]
    prepared(*begun)
    with pytest.raises(ValueError, match=re.escape(message)):
        prepared(*begun, *flags.split())


def test_an_unknown_field_names_the_nearest(tmp_path):
    done = run_here("phrasebook", "--optimization.peek", "1", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--optimization.peak" in done.stdout + done.stderr


def test_help_lists_presets_and_fields(tmp_path):
    assert "multi30k-raw" in run_here("--help", cwd=tmp_path).stdout
    fields = run_here("phrasebook", "--help", cwd=tmp_path).stdout
    assert "--tokens-per-batch" in fields
    assert "--model.width" in fields
    assert "--text-cache" in fields


def test_what_the_config_says_of_the_vocabulary_reaches_it_once(data, tmp_path, monkeypatch):
    asked = []
    real = SentencePieceTokenizer.train
    learn = lambda texts, **settings: asked.append(settings) or real(texts, **settings)  # noqa: E731
    monkeypatch.setattr(SentencePieceTokenizer, "train", learn)
    flags = ["--max-texts", "100", "--character-coverage", "0.99", "--vocab-size", "60", "--run", str(tmp_path / "r")]
    _, config = translation.command_line(["multi30k-raw", *data, *flags])
    run = translation.Run(config.run.run, {})
    cache = translation.text_cache(str(tmp_path / "cache"))
    pairs = config.sets.find()
    found = [translation.make_tokenizers(run, config, pairs, cache)[0] for _ in range(2)]
    assert asked == [{"vocab_size": 60, "max_texts": 100, "character_coverage": 0.99}]
    assert found[0].pieces(range(60)) == found[1].pieces(range(60))
    other = translation.replace(config, joint=False, model=translation.replace(config.model, tied_embeddings="target"))
    sides = translation.make_tokenizers(run, other, pairs, cache)
    assert len(asked) == 3
    assert sides[0].pieces(range(60)) != sides[1].pieces(range(60))


def test_a_vocabulary_that_a_text_cannot_fill_is_as_large_as_it_can_be_and_this_is_said(tmp_path, monkeypatch, capsys):
    asked = []

    def train(texts, *, vocab_size: int, **settings) -> SentencePieceTokenizer:
        asked.append((vocab_size, settings))
        if vocab_size > 50:
            raise VocabularyTooLarge("too large", most=50)
        return real(texts, vocab_size=40, **settings)

    real = SentencePieceTokenizer.train
    monkeypatch.setattr(SentencePieceTokenizer, "train", train)
    config = translation.replace(translation.PRESETS["multi30k-raw"][1], pieces=VocabularyConfig(vocab_size=60))
    lines = [f"{number} of them" for number in range(100)]
    about = {"facts": dict, "about": "o", "cache": Cache(None)}
    made = learn_tokenizer(config.pieces, "sentencepiece", lambda: lines, **about)
    assert [size for size, _ in asked] == [60, 50]
    assert asked[0][1] == asked[1][1]
    run = translation.Run(tmp_path / "run", {})
    translation.say_fewer_pieces(run, config, made, made)
    said = " ".join(capsys.readouterr().out.split())
    assert said == "the vocabulary has 40 pieces and not --vocab-size 60: the text has no more"
    filled = translation.replace(config, pieces=VocabularyConfig(vocab_size=40))
    given = translation.replace(config, pieces=VocabularyConfig(vocab_size=60, vocabulary=tmp_path / "a.model"))
    for other in (filled, given, translation.replace(config, start=StartConfig(init_from=tmp_path))):
        translation.say_fewer_pieces(run, other, made)
    assert capsys.readouterr().out == ""
    assert isinstance(learn_tokenizer(config.pieces, "bytes", lambda: lines, **about), ByteTokenizer)


# The beginning.


def begun(config, **options):
    """Begins a run of a config, as a script does before it reads its data."""
    with begin("translation", "multi30k", config, **{"family": "seq2seq", "ends_with": "updates"} | options) as run:
        return run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got seeds=0."),
        ({"seed": -1}, "seed must be from 0 to 2^32 - 1, got seed=-1."),
        ({"seed": 2**32 - 2, "seeds": 3}, "seed must be from 0 to 2^32 - 3, got seed=4294967294."),
        ({"updates": 0}, "updates must be at least 1, got updates=0."),
        ({"start": StartConfig(init_from=Path("a")), "pieces": VocabularyConfig(vocabulary=Path("b"))},
         "vocabulary must not be given with init_from, whose run has one, got b. Say --vocabulary None where a "
         "preset names it."),
    ],
)  # fmt: skip
def test_what_cannot_begin_is_refused_first(changes, message, tmp_path):
    config = translation.replace(translation.MULTI30K, run=translation.RunConfig(run=tmp_path / "run"))
    begun(translation.replace(config, seed=2**32 - 3, seeds=3, updates=1))
    for family in ({}, {"family": "folds", "ends_with": None}):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            begun(translation.replace(config, **changes), **family)
    assert list(tmp_path.iterdir()) == []


def test_a_training_may_become_longer_where_no_rate_depends_on_its_end(tmp_path):
    config = translation.replace(translation.MULTI30K, run=translation.RunConfig(run=tmp_path / "run"), updates=30)
    cosine = translation.replace(config.optimization, schedule="cosine")
    for name, first in (("free", config), ("fixed", translation.replace(config, optimization=cosine))):
        first = translation.replace(first, run=translation.RunConfig(run=tmp_path / name))
        run = begun(first)
        assert run.options is first.run
        run.open()
        release_lock(tmp_path / name)
        longer = translation.replace(first, updates=40)
        if name == "free":
            assert begun(longer).changed == ("config.updates",)
            assert begun(translation.replace(longer, published=translation.Published(3.0, "by hand"))).begun is not None
        else:
            with pytest.raises(ValueError, match=r"got config\.updates=30 there and 40 here\."):
                begun(longer)
            # Of folds, each run decides by itself.
            with pytest.raises(ValueError, match=r"got family='seq2seq' there and 'folds' here\. Choose"):
                begun(longer, family="folds", ends_with=None)


@pytest.mark.parametrize(("dtype", "gradients"), [("float32", "float32"), ("bfloat16", "compute")])
def test_a_run_of_the_first_version_goes_on_as_it_was(dtype, gradients, tmp_path):
    config = translation.MULTI30K
    config = translation.replace(
        config,
        model=translation.replace(config.model, dtype=dtype),
        batch=translation.replace(config.batch, gradient_sum=gradients, length_multiple=2),
        selection=translation.SelectionConfig(patience=10),
        run=translation.RunConfig(mesh=MeshConfig(sequence=2)),
    )
    later = config_as_json(config)
    own = {name: value for name, value in config.absent.items() if value is None or isinstance(value, str)}
    names = done_before(later, own=own)
    saved = json.loads(json.dumps(later))
    for name in names:
        *way, last = name.split(".")
        part = saved
        for each in way:
            part = part.get(each, {})
        part.pop(last, None)
    filled, taken = filled_config(saved, later, lambda config: done_before(config, own=own))
    assert filled == later
    expected = {"seeds", "average", "length_multiple", "gradient_sum", "tokens_per_device", "init_from", "lora"}
    expected |= {"max_texts", "character_coverage", "optimization.optimizer", "optimization.freeze"}
    expected |= {"optimization.layer_decay", "optimization.average_decay", "optimization.final_share"}
    expected |= {"optimization.decay_share", "model.head_width", "model.qk_norm", "model.attention_scale"}
    expected |= {"model.norm_epsilon", "model.scaled_output", "model.embedding_norm", "model.output_bias"}
    assert expected <= taken.keys()


def test_a_command_without_a_preset_is_an_error_and_a_call_for_help_is_none(capsys):
    for arguments, status in (([], 2), (["--help"], 0), (["-h"], 0)):
        with pytest.raises(SystemExit) as stopped:
            translation.command_line(arguments)
        assert stopped.value.code == status
        printed = capsys.readouterr().out
        assert "Machine translation with an encoder-decoder" in printed
        assert "\n  multi30k        Multi30k En-De by the recipe of Wu" in printed
        assert printed.endswith("Fields of a preset: python experiments/translation.py PRESET --help\n")
    with pytest.raises(ValueError, match=r"^preset must be one of .*, got multi30\. Nearest: multi30k\.$"):
        translation.command_line(["multi30"])


def without_times(path: Path) -> list[dict]:
    timed = ("seconds", "tokens_per_second", "data_wait")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


LONGER = [*MAKE_IT_TINY, "--updates", "40", "--validate-every", "8"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that is never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run_script("multi30k-raw", *data, *LONGER, "--run", folder / "run", cwd=folder)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_stopped_run_ends_bitwise_as_one_never_stopped(number, code, data, whole, tmp_path):
    stopped = tmp_path / "stopped"
    command = [sys.executable, str(SCRIPT), "multi30k-raw", *data, *LONGER, "--run", str(stopped)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("validation after 8"):
                break
        time.sleep(0.3)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == code
    run_script("multi30k-raw", *data, *LONGER, "--run", stopped, cwd=tmp_path)
    assert without_times(whole) == without_times(stopped)
    for name in ("model.safetensors", "test.hypotheses.txt"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.slow
def test_random_kills_change_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "3", "--directory", str(tmp_path / "k")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills by SIGKILL" in done.stdout
    assert done.stdout.endswith("all runs ended bitwise as the one never stopped\n")


@pytest.mark.slow
@pytest.mark.optimised
def test_the_phrasebook_is_learned(tmp_path):
    flags = ["--updates", "300", "--average", "1", "--run", str(tmp_path / "run")]
    printed = run_script("phrasebook", *flags, cwd=tmp_path).stdout
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["rows"][0]["score"] > max(row["score"] for row in scores["baselines"]) + 10
    assert "phrasebook test BLEU = " in printed


@pytest.mark.slow
def test_folds_translate_every_pair_once(tmp_path):
    path = write_numbers(tmp_path / "pairs.tsv", count=60, seed=9, empty={3: "source"})
    pairs = [line.split("\t") for number, line in enumerate(path.read_text().splitlines()) if number != 3]
    sets = ["--train", path, "--validation", "None", "--test", "None", "--folds", "2"]
    short = ["--updates", "4", "--bleu-every", "0", "--search.beam-size", "1", "--num-buckets", "1"]
    arguments = ["multi30k-raw", *sets, *MAKE_IT_TINY, *short, "--run", tmp_path / "run"]
    printed = run_here(*arguments, cwd=tmp_path).stdout
    run = tmp_path / "run"
    scores, *folds = (json.loads((part / "scores.json").read_text()) for part in (run, run / "fold-1", run / "fold-2"))
    assert sum(each["sentences"] for each in folds) == scores["sentences"] == len(pairs) == 59
    hypotheses = (run / "test.hypotheses.txt").read_text().splitlines()
    together, mean, *_ = scores["rows"]
    bleu = sacrebleu.corpus_bleu(hypotheses, [[target for _, target in pairs]]).score
    assert together["score"] == pytest.approx(bleu, abs=1e-9)
    assert together["name"] == "multi30k-raw 2-fold test BLEU"
    assert together["made"].startswith("each sentence by a model that did not see it; greedy")
    alone = [each["rows"][0]["score"] for each in folds]
    assert scores["folds"] == alone
    assert mean["score"] == pytest.approx(np.mean(alone))
    assert mean["made"].startswith(f"mean of 2 folds, standard deviation {np.std(alone, ddof=1):.2f}; ")
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(each["source"], each["reference"]) for each in samples] == [tuple(pair) for pair in pairs]
    assert "fold 2 of 2" in printed
    assert "multi30k-raw 2-fold test BLEU" in (run / "report.html").read_text()
    tested = {each["source"] for each in map(json.loads, (run / "fold-2" / "samples.jsonl").read_text().splitlines())}
    assert {source for source, _ in pairs} - tested
    assert tested - {source for source, _ in pairs} == set()
    again = run_here(*arguments, cwd=tmp_path).stdout
    assert again.count("continuing ") == 2
    assert json.loads((run / "scores.json").read_text())["rows"] == scores["rows"]
    with pytest.raises(InputError, match=r"must be one run, got that of all folds\. Say .*fold-1"):
        open_data(run)
    (about, *_) = open_data(run / "fold-2", report=lambda line: None).about
    assert re.match(rf"{re.escape(str(path))}, without fold 2 of 2: kept all (\d+) pairs", about), about
    assert "encoded anew" not in printed
