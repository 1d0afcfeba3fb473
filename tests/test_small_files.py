"""A file of a few dozen rows trains by the documented command: what it cannot fill is scaled down and said."""

import dataclasses
import functools
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.config import BatchConfig
from lmx.data.fitting import Sizes
from lmx.fitting import fit_batches, fit_warmup
from lmx.optimization import OptimizerConfig
from lmx.run import Run
from lmx.sharding.mesh import make_mesh

ROOT = Path(__file__).parents[1]
SMALL = "--model.width 16 --model.feedforward-width 16 --model.num-heads 2".split()


def load_script(name: str):
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_small_files", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_of(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a script in this process and returns what it prints, compiled without optimizations."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    options = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))

    def run(name: str, *arguments: str | Path) -> str:
        module = load_script(name)
        monkeypatch.setattr(module, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        module.run_script(module.command_line, module.main, module.plan)
        return " ".join(capsys.readouterr().out.split())

    return run


def write_labelled(path: Path, *, count: int) -> Path:
    sides = (("a fine day", "what joy"), ("an awful day", "what pain"))
    rows = [f"{sides[n % 2][n // 2 % 2]} {n},{('good', 'bad')[n % 2]}" for n in range(count)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def write_pairs(path: Path, *, count: int, seed: int) -> Path:
    words = "zero one two three four five six seven eight nine".split()
    generator = np.random.default_rng(seed)
    rows = [[words[i] for i in generator.integers(0, 10, 4)] for _ in range(count)]
    path.write_text("".join(f"{' '.join(row)}\t{' '.join(row[::-1])}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "count", [pytest.param(4, marks=pytest.mark.slow), 12, pytest.param(60, marks=pytest.mark.slow)]
)
def test_a_classifier_learns_from_a_few_rows(count, run_of, tmp_path):
    train, test = (write_labelled(tmp_path / name, count=size) for name, size in (("a.csv", count), ("b.csv", 6)))
    flags = ["own", "--train", train, "--test", test, *SMALL, "--explain", "0", "--run", tmp_path / "run"]
    printed = run_of("classification", *flags)
    assert "and not --tokens-per-batch 2,048: there are" in printed
    assert "and not --vocab-size 8,000: the text has no more" in printed
    assert "own test accuracy = " in printed
    assert (tmp_path / "run" / "report.html").is_file()
    sizes = json.loads((tmp_path / "run" / "config.json").read_text())["sizes"]
    assert sizes["tokens_per_batch"] < 2048


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 30])
def test_a_translator_learns_from_a_few_pairs(count, run_of, tmp_path):
    splits = {"train": count, "validation": 4, "test": 3}
    files = [
        part
        for seed, (split, size) in enumerate(splits.items())
        for part in (f"--{split}", write_pairs(tmp_path / f"{split}.tsv", count=size, seed=seed))
    ]
    layers = ["--model.num-encoder-layers", "1", "--model.num-decoder-layers", "1", "--model.unroll", "1"]
    flags = ["multi30k-raw", *files, *SMALL, *layers, "--search.beam-size", "1", "--run", tmp_path / "run"]
    printed = run_of("translation", *flags, "--updates", "6")
    assert "and not --tokens-per-batch 4,096: there are" in printed
    assert "micro-batches of an update: 1 and not --accumulation 2" in printed
    assert "multi30k-raw test BLEU = " in printed
    assert (tmp_path / "run" / "report.html").is_file()


@dataclasses.dataclass(frozen=True)
class Options:
    """The part of an experiment's config that has a warm-up."""

    optimization: OptimizerConfig


def asked(**sizes: int) -> BatchConfig:
    return BatchConfig(**({"tokens_per_batch": 1024, "num_buckets": 1} | sizes))


def sizes_of(directory: Path, config: BatchConfig, *, count: int = 60) -> Sizes:
    run = Run(directory, {"config": {}})
    return fit_batches(run, config, usual=asked(), lengths=np.full(count, 10)).sizes


def test_a_size_that_was_asked_for_is_kept_where_a_pass_fills_it(tmp_path, capsys):
    assert sizes_of(tmp_path, asked(tokens_per_batch=500)).tokens_per_batch == 500
    assert not capsys.readouterr().out
    assert sizes_of(tmp_path, asked(tokens_per_batch=700)).tokens_per_batch == 600
    assert "600 and not --tokens-per-batch 700: there are 60 rows" in capsys.readouterr().out
    assert sizes_of(tmp_path, asked()).tokens_per_batch == 80
    capsys.readouterr()
    sizes_of(tmp_path, asked(tokens_per_device=1024))
    assert "600 and not --tokens-per-device 1,024: there are" in capsys.readouterr().out


def test_a_run_keeps_the_sizes_that_it_began_with(tmp_path):
    run = Run(tmp_path / "run", {"config": {}})
    run.decided["sizes"] = {"tokens_per_batch": 160, "accumulation": 1, "num_buckets": 1}
    run.open()
    assert sizes_of(tmp_path / "run", asked()).tokens_per_batch == 160
    Run(tmp_path / "old", {"config": {}}).open()  # of a version that took what the config says
    assert sizes_of(tmp_path / "old", asked()).tokens_per_batch == 1024


def test_one_update_has_no_warmup(tmp_path, capsys):
    usual, other = (Options(optimization=OptimizerConfig(schedule="linear", warmup=each)) for each in (30, 20))
    run = Run(tmp_path / "run", {"config": {}})
    fitted = fit_warmup(run, usual, usual, updates=1).optimization
    assert (fitted.schedule, fitted.warmup) == ("constant", 0)
    assert "without a warm-up" in capsys.readouterr().out
    assert fit_warmup(run, usual, other, updates=1) == usual  # 30 was asked for
