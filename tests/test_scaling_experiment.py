"""Scaling laws as an experiment: a grid that budgets pay for, and a prediction that is written before it is tested."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flax import nnx

from lmx import trainings
from lmx.errors import InputError
from lmx.models.decoder import Decoder
from lmx.nn.embedding import count_parameters
from lmx.scoring.scaling import Law, Trained


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_of_scaling", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXPERIMENTS = Path(__file__).parents[1] / "experiments"
scaling, pretraining = load("scaling"), load("pretraining")

LAW = Law(floor=1.2, a=60.0, alpha=0.35, b=90.0, beta=0.3)
CONFIG = scaling.Config()


def test_every_training_of_the_grid_costs_its_budget():
    plans = scaling.grid(CONFIG)
    assert len(plans) == len(CONFIG.budgets) * CONFIG.sizes
    for plan in plans:
        assert 6 * plan.parameters * plan.updates * CONFIG.tokens_per_batch == pytest.approx(plan.flops, rel=0.01)
    assert len({plan.name for plan in plans}) == len(plans)
    # The expected best size lies among those that are trained.
    for flops in CONFIG.budgets:
        sizes = sorted(plan.parameters for plan in plans if plan.flops == flops)
        assert sizes[0] < (flops / 6 / CONFIG.tokens_per_parameter) ** 0.5 < sizes[-1]


@pytest.mark.slow
def test_the_prediction_is_written_before_its_run_is_trained_and_compared_afterwards(tmp_path, monkeypatch, capsys):
    asked = []

    def train(config, plan):
        tokens = plan.updates * config.tokens_per_batch
        if plan.flops == config.predict:  # as the first to see it, the law is fixed by now
            assert "prediction" in json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
            asked.append(plan)
        loss = LAW.loss(plan.parameters, tokens) + 0.01 * (plan.flops == config.predict)
        return Trained(float(plan.parameters), float(tokens), loss, 6.0 * plan.parameters * tokens)

    monkeypatch.setattr(scaling, "train", train)
    scaling.main(replace(CONFIG, run=tmp_path))
    told = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    assert len(asked) == 1
    assert told["prediction"]["parameters"] == asked[0].parameters
    assert told["measured"]["loss"] - told["prediction"]["loss"] == pytest.approx(0.01, abs=2e-3)
    assert told["law"]["alpha"] == pytest.approx(LAW.alpha, rel=0.1)
    page = (tmp_path / "scaling.html").read_text(encoding="utf-8")
    assert page.count("<figure") == len(CONFIG.budgets) + 1
    assert f"measured {told['measured']['loss']:.4f}" in page
    assert "difference +0.01" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "layers", "budget"), [(16, 1, 3e11), (48, 2, 1e12), (128, 4, 3e12)])
def test_a_training_is_asked_for_by_its_plan(width, layers, budget, tmp_path, monkeypatch):
    asked = []

    def run(command):
        asked.extend(command)
        return type("Done", (), {"returncode": 3})

    monkeypatch.setattr(trainings.subprocess, "run", run)
    config = replace(CONFIG, run=tmp_path / "of a name", train="a text.txt", vocab_size=900, peak=0.02, seed=5)
    plan = scaling.plan(config, budget, width, layers)
    with pytest.raises(SystemExit) as ended:
        scaling.train(config, plan)
    assert ended.value.code == 3
    assert asked[:2] == [sys.executable, str(scaling.SCRIPT)]
    preset, found = pretraining.command_line(asked[2:])
    assert preset == "stdlib-gpt"
    assert (found.run.run, found.texts.train) == (tmp_path / "of a name" / plan.name, "a text.txt")
    assert (found.seed, found.pieces.vocab_size, found.metric) == (5, 900, "loss")
    assert (found.updates, found.selection.validate_every) == (plan.updates, plan.updates)
    assert (found.batch.tokens_per_batch, found.batch.context) == (config.tokens_per_batch, scaling.CONTEXT)
    assert (found.model.width, found.model.num_layers, found.model.unroll) == (width, layers, layers)
    assert (found.model.feedforward_width, found.model.num_heads) == (3 * width, width // 8)
    assert found.optimization.warmup == max(1, plan.updates // 20)
    # Wider models learn more slowly: 0.02 is of a width of 64.
    assert found.optimization.peak == pytest.approx(0.02 * (64 / width) ** 0.5, rel=0.01)
    model = replace(found.model, vocab_size=900)
    network = nnx.eval_shape(lambda: Decoder(model, rngs=nnx.Rngs(0)))
    assert count_parameters(network) == plan.parameters


def test_a_finished_training_is_read_and_not_repeated_unless_another_is_asked_for(tmp_path, monkeypatch):
    config = replace(CONFIG, run=tmp_path)
    plan = scaling.plan(config, 1e12, 48, 2)
    rows = [
        {"name": "stdlib-gpt validation loss", "score": 2.5},
        {"name": "stdlib-gpt validation bits per byte", "score": 9.0},
    ]
    asked = []

    def run(command):
        asked.append(command)
        (tmp_path / plan.name).mkdir(exist_ok=True)
        (tmp_path / plan.name / "scores.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(trainings.subprocess, "run", run)
    assert [scaling.train(config, plan).loss for _ in range(2)] == [2.5, 2.5]
    assert len(asked) == 1
    scaling.train(replace(config, seed=2), plan)  # the script says whether it is the same
    assert len(asked) == 2
    (tmp_path / plan.name / trainings.ASKED).unlink()  # of an earlier version
    scaling.train(config, plan)
    assert len(asked) == 3


def test_budgets_that_differ_have_folders_that_differ():
    plans = [scaling.plan(CONFIG, flops, 64, 3) for flops in (1e13, 1.2e13, 1.21e13)]
    assert len({plan.name for plan in plans}) == 3
    assert scaling.plan(CONFIG, 3e11, 16, 1).name == "3e+11-width-16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": (1e12,)}, "at least 2 budgets of 3 sizes, got 1 of 4"),
        ({"sizes": 2}, "at least 2 budgets of 3 sizes, got 3 of 2"),
        ({"budgets": (1e12, 1e12)}, "at least 2 budgets of 3 sizes, got 1 of 4"),
        ({"budgets": (1e12, 3e11, 1e12)}, "budgets must differ, got 1e[+]12 3e[+]11 1e[+]12"),
        ({"sizes": 14}, "sizes must be at most 13, those of the ladder, got sizes=14"),
        ({"tokens_per_parameter": 0.0}, "tokens_per_parameter must be above 0, got tokens_per_parameter=0"),
        ({"tokens_per_batch": -1}, "tokens_per_batch must be above 0"),
        ({"budgets": (0.0, 1e12)}, "predict must be above all budgets"),
        ({"predict": 3e12}, "predict must be above all budgets, got predict=3e[+]12"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes).check()


@pytest.mark.slow
def test_a_training_of_the_grid_runs_by_the_pretraining_script(tmp_path):
    (tmp_path / "text.txt").write_text(
        "\n".join(f"line {n} of a text to learn from" for n in range(3000)), encoding="utf-8"
    )
    config = scaling.Config(
        run=tmp_path / "runs", train=str(tmp_path / "text.txt"), vocab_size=300, tokens_per_batch=512, peak=1e-2
    )
    plan = scaling.plan(config, 2e9, 16, 1)
    trained = scaling.train(config, plan)
    assert 0 < trained.loss < 3.0
    assert trained.tokens == plan.updates * 512
