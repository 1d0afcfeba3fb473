"""The script of language models: a tiny form of each family trains to a report, is killed and goes on, and plans."""

import functools
import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.config import config_as_json
from lmx.data.cache import Cache
from lmx.evaluation.text import predict_text
from lmx.experiment import begin
from lmx.generator import Generator
from lmx.models.language import fit_vocabulary
from lmx.process import EXIT_STOPPED
from lmx.saved import write_json
from lmx.sharding.mesh import make_mesh

ROOT = Path(__file__).parents[1]
UNOPTIMISED = "xla_backend_optimization_level"  # 0: without LLVM's optimizations, which are half of compiling
TINY = """
    --tokenizer bytes --model.width 8 --model.feedforward-width 12 --model.num-heads 2 --model.unroll 1
    --context 32 --tokens-per-batch 256 --updates 4 --validate-every 2 --log-every 2 --text-cache off --prompts
""".split()  # no prompts
WRITES = ["--prompts", "line", "--sampling.max-tokens", "4"]
LAYERS = {"stdlib-t5": ["--model.num-encoder-layers", "1", "--model.num-decoder-layers", "1", "--sentinels", "9"]}


def load_script():
    spec = importlib.util.spec_from_file_location("pretraining_experiment", ROOT / "experiments" / "pretraining.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pretraining = load_script()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text("".join(f"line {number} of the text\n" for number in range(200)))
    return path


@pytest.fixture
def command(monkeypatch, capsys, text):
    """Runs the script in this process, with annotations checked, and returns what it prints."""
    monkeypatch.setattr(pretraining, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options={UNOPTIMISED: 0}))

    def run(preset: str, *arguments: str | Path) -> str:
        layers = LAYERS.get(preset, ["--model.num-layers", "1"])
        given = [preset, *TINY, "--train", text, *layers, *arguments]
        monkeypatch.setattr(sys, "argv", ["pretraining.py", *map(str, given)])
        pretraining.run_script(pretraining.command_line, pretraining.main, pretraining.plan)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("preset", "family", "arguments"),
    [
        ("stdlib-gpt", "decoder", ["--metric", "loss", "--z-loss", "1e-4", "--seeds", "2", *WRITES]),
        ("stdlib-bert", "masked", []),
        pytest.param("stdlib-t5", "seq2seq", [], marks=pytest.mark.slow),
    ],
)
def test_a_tiny_form_of_each_family_trains_to_scores_and_a_report(
    command, tmp_path, tmp_path_factory, preset, family, arguments
):
    if is_tested := family == "masked":  # on a text of its own; the others on what they are validated on
        other = tmp_path_factory.mktemp("other") / "other.txt"
        other.write_text("".join(f"other {number} words\n" for number in range(80)), encoding="utf-8")
        arguments = [*arguments, "--test", other]
    printed = command(preset, *arguments, "--run", tmp_path)
    name = f"{preset} {'test' if is_tested else 'validation'}"
    lines = [line for line in printed.splitlines() if line.startswith(f"{name} loss = ")]
    assert len(lines) == 1
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert lines[0].endswith(f" = {scores['rows'][0]['score']:.4f}")
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(metrics) if line["kind"] == "validation")
    if is_tested:
        assert (scores["test"], scores["text"]) == (name, str(other))
        assert scores["tokens"] == other.stat().st_size + 1  # a byte each, and the end of the document
        assert abs(scores["rows"][0]["score"] - last["nll"]) > 1e-3
    else:
        assert scores["rows"][0]["score"] == pytest.approx(last["nll"], rel=1e-5)
        assert scores["rows"][1]["score"] == pytest.approx(last["perplexity"], rel=1e-4)
    assert 3 < last["nll"] < 6.5  # ln 260 is 5.56
    names = [row["name"] for row in scores["rows"]]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["family"], config["model"]["pad_id"]) == (family, 0)
    assert ("bits per byte" in names[-1]) == (family == "decoder")
    if family == "decoder":
        bits = scores["rows"][-1]["score"]
        tokens = scores["tokens"]  # a byte each, and the end of the document
        assert bits == pytest.approx(last["nll"] * tokens / math.log(2) / (tokens - 1), rel=1e-5)
        assert [each["seed"] for each in scores["seeds"]] == [1, 2]
        assert "mean of 2 seeds" in scores["rows"][0]["made"]
        written = [json.loads(line) for line in (tmp_path / "written.jsonl").read_text().splitlines()]
        assert [(each["step"], each["prompt"]) for each in written] == [(2, "line"), (4, "line")]
    elif family == "masked":
        assert (config["mask_id"], config["model"]["vocab_size"]) == (260, 261)
    else:
        assert config["model"]["source_vocab_size"] == config["model"]["target_vocab_size"] == 260 + 9
    surprise = json.loads((tmp_path / "surprise.json").read_text())
    assert all(len(each["pieces"]) == len(each["bits"]) for each in surprise)
    found = [bits for each in surprise for bits in each["bits"] if bits is not None]
    assert np.mean(found) * math.log(2) == pytest.approx(last["nll"], rel=0.15)  # of the first four rows
    assert len(surprise) == 4
    assert "the run took" in printed
    page = (tmp_path / "report.html").read_text()
    assert "How much each token surprised the model" in page
    assert "What the optimizer took" in page


@pytest.mark.slow
def test_held_out_rows_overlap_where_a_stride_is_asked_for(command, tmp_path, text):
    found = {}
    for stride in (None, 4):
        run = tmp_path / str(stride)
        arguments = [] if stride is None else ["--stride", stride]
        command("stdlib-gpt", *arguments, "--context", "16", "--prompts", "line", "--run", run)
        scores = json.loads((run / "scores.json").read_text())
        surprise = json.loads((run / "surprise.json").read_text())
        assert scores["stride"] == stride
        assert ("; rows of 16 tokens that begin 4 apart" in scores["rows"][0]["signature"]) == (stride == 4)
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = next(line for line in reversed(metrics) if line["kind"] == "validation")
        assert scores["rows"][0]["score"] == pytest.approx(last["bits_per_byte"], rel=1e-5)
        found[stride] = scores["rows"][0]["score"], surprise
    assert found[4][1] == found[None][1]  # side by side, as each token is shown once
    assert found[4][0] != found[None][0]
    assert (tmp_path / "4" / "model.safetensors").read_bytes() == (tmp_path / "None" / "model.safetensors").read_bytes()
    cache = Cache(None)
    again = predict_text(tmp_path / "4", str(text), cache=cache)
    beside = predict_text(tmp_path / "4", str(text), stride=16, cache=cache)
    assert (again.stride, again.context, beside.stride) == (4, 16, 16)


@pytest.mark.slow
def test_packed_documents_are_predicted_from_their_start(command, tmp_path, text):
    printed = command(
        "names", "--train", f"lines:{text}", "--held-out", "0.1", "--test", "None", "--from-start",
        "--packing", "documents", "--run", tmp_path,
    )  # fmt: skip
    assert "names validation loss = " in printed
    assert "% full" in printed
    assert "rows are packed" in " ".join(printed.split())  # the reason for its attention kernel
    assert json.loads((tmp_path / "config.json").read_text())["first_id"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pairs", "prefix"])
def test_a_decoder_learns_targets_behind_a_tab_or_what_follows_a_prefix(command, tmp_path, objective):
    (tmp_path / "pairs.tsv").write_text("".join(f"{n}\t{n + 1}\n" for n in range(1000, 1400)))
    printed = command(
        "stdlib-gpt", "--train", f"lines:{tmp_path / 'pairs.tsv'}", "--objective", objective, "--packing", "documents",
        "--metric", "loss", "--updates", "80", "--validate-every", "40", "--optimization.peak", "0.02",
        "--run", tmp_path / "run",
    )  # fmt: skip
    losses = [float(line.split("loss ")[1].split()[0]) for line in printed.splitlines() if "validation after" in line]
    assert losses[-1] < min(losses[0], 2.8)  # ten digits, of which all but the last repeat the source
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts.get("separator_id") == (9 + 4 if objective == "pairs" else None)
    if objective == "prefix":
        with pytest.raises(ValueError, match="must hold a model that reads prompts from left to right"):
            Generator.load(tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_died_goes_on_to_the_same_bits(command, monkeypatch, tmp_path):
    options = ["--updates", "6", "--save-every", "1", "--model.dropout-rate", "0.1", *WRITES]
    command("stdlib-gpt", *options, "--run", tmp_path / "whole")
    measure, died = pretraining.measure, []

    def die_once(*arguments, **given):
        if not died and (tmp_path / "died" / "checkpoints" / "3").is_dir():
            died.append(True)
            raise RuntimeError("the power went")
        return measure(*arguments, **given)

    monkeypatch.setattr(pretraining, "measure", die_once)
    with pytest.raises(RuntimeError, match="the power went"):
        command("stdlib-gpt", *options, "--run", tmp_path / "died")
    printed = command("stdlib-gpt", *options, "--run", tmp_path / "died")
    assert "1 restart, " in printed

    def result(run: str) -> list:
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        losses = [(line["kind"], line["step"], line["loss"]) for line in lines]
        files = [(tmp_path / run / name).read_bytes() for name in ("model.safetensors", "written.jsonl")]
        return [losses, *files]

    assert result("died") == result("whole")


def arguments_of(run: Path, text: Path) -> list[str]:
    tiny = [*TINY, "--model.num-layers", "1", "--updates", "12", "--validate-every", "4", "--save-every", "3"]
    return [sys.executable, str(ROOT / "experiments" / "pretraining.py"), "stdlib-gpt", *tiny,
            "--train", str(text), "--run", str(run)]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, text):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    whole = subprocess.run(arguments_of(tmp_path / "whole", text), timeout=600, **options)
    assert whole.returncode == 0, whole.stdout
    for kill in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(arguments_of(tmp_path / "killed", text), **options)
        for line in process.stdout:
            if line.startswith("validation after") and "12" not in line.split()[2]:
                process.send_signal(kill)
                break
        process.communicate(timeout=600)
        assert process.returncode in (-signal.SIGKILL, EXIT_STOPPED)
    rest = subprocess.run(arguments_of(tmp_path / "killed", text), timeout=600, **options)
    assert rest.returncode == 0, rest.stdout
    assert "2 restarts" in rest.stdout
    model = "model.safetensors"
    assert (tmp_path / "killed" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()

    def losses(run: str) -> list:
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        return [(line["kind"], line["step"], line["loss"]) for line in lines]

    assert losses("killed") == losses("whole")


@pytest.mark.parametrize("preset", pretraining.PRESETS)
def test_every_preset_builds_and_gives_a_finite_loss_by_shapes(preset):
    config = pretraining.PRESETS[preset][1]
    size = max(getattr(config.model, name) for name in pretraining.vocabulary_fields(config.model)) or 99
    model = fit_vocabulary(config.model, vocab_size=size, length=config.batch.context)
    learner = pretraining.build(config, model)
    shapes = config.objective.shapes(1, 2, config.batch.context)
    batch = {name: jax.ShapeDtypeStruct(shape[1:], np.int32) for name, shape in shapes.items()}
    sums = jax.eval_shape(learner.loss, learner.model.shapes, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert sums["loss"].shape == sums["weight"].shape == ()
    full, causal = learner.flops((1, 2, config.batch.context))
    assert full >= causal > 0


PLANS = [
    "stdlib-gpt",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("stdlib-t5", "bert-base", "llama-70b")),
]


@pytest.mark.parametrize("preset", PLANS)
def test_a_plan_needs_no_text(preset, tmp_path):
    sizes = ["--devices", "64", "--mesh.fsdp", "64"] if preset == "llama-70b" else []
    command = [sys.executable, str(ROOT / "experiments" / "pretraining.py"), preset, "--plan", "h100", *sizes]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{preset}: " in done.stdout
    assert "fits" in done.stdout


@pytest.mark.parametrize(("preset", "nodes"), [("llama-1b", 1), ("llama-8b", 8)])
def test_the_slurm_file_is_a_script_whose_batches_divide(preset, nodes, tmp_path):
    path = ROOT / "docs" / "slurm-pretraining.sh"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text(encoding="utf-8")
    assert f"sbatch --nodes={nodes} docs/slurm-pretraining.sh {preset}\n" in text
    devices = 8 * nodes
    text = text.replace("\\\n", " ").replace('"$preset"', preset).replace('"$SLURM_NTASKS"', str(devices))
    (line,) = [line for line in text.split("\n") if line.startswith("srun ")]
    command = shlex.split(line.replace("$preset", preset))
    name, config = pretraining.command_line(command[command.index("experiments/pretraining.py") + 1 :])
    assert (name, config.run.run) == (preset, Path("runs") / preset)
    batch = config.batch.settled(config.run.mesh, run=tmp_path / "absent", devices=devices)
    assert batch.rows % devices == 0
    assert batch.rows * batch.context * batch.accumulation == {1: 262_144, 8: 2_097_152}[nodes]


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "arguments", "message"),
    [
        ("stdlib-gpt", ["--objective", "masked"],
         "objective must be causal or prefix or pairs for this preset's model, got objective=masked."),
        ("stdlib-t5", ["--objective", "causal"],
         "objective must be spans for this preset's model, got objective=causal."),
        ("stdlib-gpt", ["--tokens-per-batch", "16"],
         "tokens_per_batch must be at least a row of context=32 tokens, got tokens_per_batch=16."),
        ("stdlib-gpt", ["--context", "4096", "--tokens-per-batch", "4096"], "must hold a row of 4,097 tokens, got "),
        ("stdlib-gpt", ["--model.vocab-size", "99"],
         "model.vocab_size must be the 260 of tokenizer and objective, or 0 to take them, got vocab_size=99."),
        ("stdlib-gpt", ["--objective", "pairs"], "packing must be documents with objective=pairs, which is of each d"),
        ("stdlib-gpt", ["--from-start"], "packing must be documents with from_start, which is of each document, g"),
        ("stdlib-gpt", ["--seed", "-1"], "seed must be from 0 to 2^32 - 1, got seed=-1."),
        ("stdlib-gpt", ["--seed", "4294967296"], "seed must be from 0 to 2^32 - 1, got seed=4294967296."),
        ("stdlib-gpt", ["--objective", "pairs", "--packing", "documents", "--tokenizer", "words"],
         "objective=pairs must have a vocabulary with one id for a tab, got 0."),
        ("stdlib-bert", ["--whole-words"], "whole_words must be off where the vocabulary is of bytes or characters"),
        ("stdlib-t5", ["--sentinels", "1", "--context", "64"],
         "sentinels must be at least the 3 spans of a row, got sentinels=1."),
        ("stdlib-t5", ["--noise-density", "1.5"], "the density of noise must be over 0 and below 1, got density=1.5."),
        ("stdlib-gpt", ["--held-out", "1.5"], "held_out must be between 0 and 1, got held_out=1.5."),
        ("stdlib-gpt", ["--updates", "0"], "updates must be at least 1, got updates=0."),
        ("stdlib-gpt", ["--optimization.peak", "inf"], "peak must be at least 0 and finite, got peak=inf."),
        ("stdlib-gpt", ["--z-loss", "-1"], "z_loss must be at least 0 and finite, got z_loss=-1.0."),
        ("stdlib-gpt", ["--optimization.beta2", "1"], "beta2 must be at least 0 and below 1, got beta2=1.0."),
        ("stdlib-gpt", ["--optimization.final-share", "2"], "final_share must be from 0 to 1, got final_share=2.0."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(command, capsys, tmp_path, preset, arguments, message):
    with pytest.raises(SystemExit):
        command(preset, *arguments, "--run", tmp_path / "run")
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_version_goes_on_without_a_choice_that_was_ignored(tmp_path):
    arguments = ["names", "--objective", "prefix", "--run", str(tmp_path)]
    _, old = pretraining.command_line(arguments)  # from_start is on in the preset
    facts = {"experiment": "pretraining", "preset": "names", "family": "decoder", "config": config_as_json(old)}
    write_json(tmp_path / "config.json", facts)
    _, config = pretraining.command_line([*arguments, "--no-from-start"])
    config.check()
    with begin("pretraining", "names", config, family="decoder", ends_with="updates") as run:
        assert run.changed == ("config.from_start",)
    assert "from_start" not in pretraining.command_line(["names"])[1].free


def test_an_empty_text_is_one_line(command, capsys, tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(SystemExit):
        command("stdlib-gpt", "--train", tmp_path / "empty.txt", "--run", tmp_path / "run")
    assert "empty.txt must hold text, got none." in capsys.readouterr().err


@pytest.mark.slow
def test_other_words_of_a_begun_run_are_refused(command, capsys, tmp_path, text):
    command("stdlib-gpt", "--run", tmp_path / "run", "--updates", "1")
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("line", "LINE"))
    with pytest.raises(SystemExit):
        command("stdlib-gpt", "--run", tmp_path / "run", "--updates", "1", "--train", other)
    assert "must be a run of the same config" in capsys.readouterr().err


def test_presets_of_full_size_have_published_shapes():
    llama = pretraining.PRESETS["llama-8b"][1]
    assert replace(llama.model, dtype="float32", remat="none") == replace(
        pretraining.shapes.llama_8b(), dtype="float32", remat="none"
    )


def test_recipes_have_the_numbers_of_those_who_published_them():
    presets = {name: config for name, (_, config) in pretraining.PRESETS.items()}
    char, gpu = presets["shakespeare-char"], presets["shakespeare-char-gpu"]
    for config, rate, warmup, beta2, updates in (
        (char, 1e-3, 100, 0.99, 2000),
        (gpu, 1e-3, 100, 0.99, 5000),
        (presets["gpt2-124m"], 6e-4, 2000, 0.95, 600_000),
    ):  # nanoGPT's
        options = config.optimization
        assert (options.peak, options.warmup, options.beta2, config.updates) == (rate, warmup, beta2, updates)
        assert (options.schedule, options.final_share) == ("cosine", 0.1)
        assert (options.weight_decay, options.clip_norm) == (0.1, 1.0)
    assert (char.batch.rows, char.batch.context, char.model.num_layers, char.model.width) == (12, 64, 4, 128)
    assert (gpu.batch.rows, gpu.batch.context, gpu.model.dropout_rate) == (64, 256, 0.2)
    assert gpu.selection.keeps_best
    gpt2 = presets["gpt2-124m"].batch
    assert (gpt2.context, gpt2.tokens_per_batch * gpt2.accumulation) == (1024, 2**19)
    bert, t5 = presets["bert-base"], presets["t5-base"]  # Devlin et al. 2019, appendix A.2; Raffel et al. 2020, 3.1.2
    options = bert.optimization
    assert (options.schedule, options.peak, options.warmup, options.beta2) == ("linear", 1e-4, 10_000, 0.999)
    assert (options.weight_decay, options.final_share, bert.updates) == (0.01, 0.0, 1_000_000)
    assert (bert.batch.rows, bert.batch.context, bert.objective.whole_words) == (256, 512, True)
    assert (t5.optimization.optimizer, t5.optimization.peak, t5.optimization.warmup) == ("adafactor", 0.01, 10_000)
    assert (t5.batch.rows, t5.batch.context, t5.updates, t5.objective.mean_span) == (128, 512, 2**19, 3.0)
    rates = {name: presets[name].optimization.peak for name in ("llama-1b", "llama-8b", "llama-70b")}
    assert rates == {"llama-1b": 4e-4, "llama-8b": 3e-4, "llama-70b": 1.5e-4}
    published = {name: config.published.published for name, config in presets.items() if config.published.published}
    assert published == {
        "shakespeare-char": 1.88, "shakespeare-char-gpu": 1.4697, "names": 1.92, "wikitext2": 110.4, "gpt2-124m": 2.85,
        "bert-base": 3.99,
    }  # fmt: skip


def test_a_plan_is_of_the_rows_and_the_model_that_would_train(monkeypatch):
    asked = {}

    def note(learner_of, about, shapes, **more) -> None:
        asked.update(learner_of=learner_of, about=about, shapes=shapes, **more)

    monkeypatch.setattr(pretraining, "print_plan", note)
    config = pretraining.PRESETS["shakespeare-char"][1]
    config = replace(config, seeds=3, model=replace(config.model, vocab_size=99, width=8, num_layers=1, num_heads=2))
    pretraining.plan("it", config, device="h100")
    assert (asked["device"], asked["config"], asked["usual"]) == ("h100", config, 64)
    assert set(asked["shapes"](64).values()) == {(1, 12, 64)}
    learner = asked["learner_of"](dtype="bfloat16")
    assert (learner.num_seeds, learner.dtype) == (None, "bfloat16")
