"""The script of images: a tiny form trains to a report, folds, labels, and is read back by the command."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from lmx.cli import main as lmx_command
from lmx.data.image_files import ImageReading, read_digits
from lmx.data.labels import Labels
from lmx.image_classifier import ImageClassifier
from lmx.models.vision import VisionTransformer
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.sharding.mesh import MeshConfig, make_mesh

ROOT = Path(__file__).parents[1]
TINY = """
    --model.width 8 --model.feedforward-width 12 --model.num-heads 2 --model.num-layers 1 --model.unroll 1
    --tokens-per-batch 256 --epochs 2 --log-every 10
""".split()
UNOPTIMISED = "xla_backend_optimization_level"  # 0: without LLVM's optimizations, which are half of compiling


def load_script():
    spec = importlib.util.spec_from_file_location("vision_experiment", ROOT / "experiments" / "vision.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


vision = load_script()


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the script in this process, with annotations checked, and returns what it prints."""
    monkeypatch.setattr(vision, "make_mesh", lambda config: make_mesh(config, devices=jax.devices()[:1]))
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options={UNOPTIMISED: 0}))

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["vision.py", *map(str, arguments)])
        vision.run_script(vision.command_line, vision.main, vision.plan)
        return capsys.readouterr().out

    return run


def write_npz(path: Path, images, first: int, last: int) -> str:
    part = slice(first, last)
    np.savez(path, images=images.pixels[part] / 255, labels=np.array(images.labels[part]).astype(int))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A few digits to learn from, to be tested on and to be labelled."""
    folder, images = tmp_path_factory.mktemp("images"), read_digits("train")
    train = write_npz(folder / "train.npz", images, 0, 160)
    return ["--train", train, "--test", write_npz(folder / "test.npz", images, 160, 200)]


def test_two_seeds_train_to_scores_and_a_report_and_the_command_labels_alike(command, files, tmp_path, capsys):
    printed = command(
        "digits", *TINY, *files, "--run", tmp_path, "--seeds", "2", "--predict", files[3], "--explain", "2"
    )
    assert "development images" in printed
    assert "pixels, linear" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["unit"], scores["texts"], len(scores["seeds"])) == ("image", 40, 2)
    assert "linear model on pixels" in scores["verdict"]
    assert json.loads((tmp_path / "config.json").read_text())["pixel_max"] == 1
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= len((tmp_path / "mistakes.jsonl").read_text().splitlines()[:48]) + 4
    assert "Where the model looked" in page
    assert "40 images" in page
    looked = json.loads((tmp_path / "explanations.json").read_text())
    assert np.array(looked[0]["looked"]).shape == (2, 2)
    assert np.sum(looked[0]["looked"]) == pytest.approx(1)

    labelled = [line.split("\t")[1] for line in (tmp_path / "labelled.tsv").read_text().splitlines()[1:]]
    sys.argv = ["lmx", "classify", str(tmp_path), "--input", files[3], "--ensemble"]
    lmx_command()
    assert capsys.readouterr().out.splitlines() == labelled
    test = ImageReading().read(files[3])
    alone = ImageClassifier.load(tmp_path)
    assert [one.label for one in alone.classify(test.select(range(5)))] == [one.label for one in alone.classify(test)][
        :5
    ]
    sys.argv = ["lmx", "classify", str(tmp_path), "--input", files[3], "--explain"]
    with pytest.raises(SystemExit):
        lmx_command()
    assert "explain must be left out for a run of images" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_test_every_image_once(command, files, tmp_path):
    arguments = [*TINY, *files[:2], "--test", "None", "--folds", "2", "--run", tmp_path, "--epochs", "1"]
    command("own", *arguments, "--model.patch", "4", "--explain", "0", "--no-baseline")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["texts"] == 160
    assert scores["spread_over"] == "folds"
    assert (tmp_path / "fold-2" / "report.html").is_file()


def test_a_mesh_gives_the_outputs_of_one_device():
    config = vision.PRESETS["digits"][1]
    images = read_digits("test").select(range(11))

    def build(seed: int) -> dict:
        return nnx.to_pure_dict(nnx.state(VisionTransformer(config.model, rngs=nnx.Rngs(seed)), nnx.Param))

    params = jax.tree.map(lambda *arrays: np.stack(arrays), build(0), build(1))
    labels = Labels(kind="single", names=tuple(map(str, range(10))))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), devices=jax.devices()[:4])
    layouts = ONE_DEVICE, Layout(mesh)
    one, several = (ImageClassifier(config.model, params, labels=labels, layout=layout) for layout in layouts)
    rows = one.encode(images)
    np.testing.assert_allclose(one.outputs(rows), several.outputs(rows), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_what_was_looked_at_is_followed_from_the_last_layer_to_the_first(pooling, monkeypatch):
    """By hand: the last layer reads token 2, which the first layer has filled from another."""
    config = replace(vision.PRESETS["digits"][1].model, pooling=pooling)
    params = jax.tree.map(
        lambda array: array[None], nnx.to_pure_dict(nnx.state(VisionTransformer(config, rngs=nnx.Rngs(0)), nnx.Param))
    )
    classifier = ImageClassifier(config, params, labels=Labels(kind="single", names=tuple(map(str, range(10)))))
    tokens = config.num_tokens
    first, last = np.eye(tokens, dtype=np.float32), np.eye(tokens, dtype=np.float32)
    if pooling == "mean":
        first[2] = [1, 0, 0, 0]
        last[:] = np.eye(tokens)[[0, 2, 2, 3]]
        expected = np.mean([[1, 0, 0, 0], [0.25, 0.5, 0.25, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]], axis=0)
    else:  # token 0 is before the patches
        first[3] = np.eye(tokens)[1]
        last[0] = np.eye(tokens)[3]
        expected = np.array([0.25, 0, 0.25, 0]) / 0.5
    weights = np.stack([first, last])[:, None]
    monkeypatch.setattr(type(classifier._predictor), "attention", lambda self, batch: weights)
    image = read_digits("test").select(range(1))
    found = classifier.explain(image)["looked"]
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"of height, width and channels \(8, 8, 1\), as in .*, got \(8, 6, 1\)\.$"):
        classifier.encode(replace(image, pixels=image.pixels[:, :, :6]))
    with pytest.raises(ValueError, match=r"^the model must have an output for each label, got num_outputs=10 and 2 by"):
        ImageClassifier(config, params, labels=Labels(kind="single", names=("a", "b")))


@pytest.mark.parametrize("preset", vision.PRESETS)
def test_every_preset_builds_and_gives_a_finite_loss_by_shapes(preset):
    config = vision.PRESETS[preset][1]
    sizes = {} if config.model.image_height else {"image_height": 64, "image_width": 64, "image_channels": 3}
    model = replace(config.model, **sizes, num_outputs=config.model.num_outputs or 3)
    learner = vision.build(config, model, updates=2000)
    batch = {
        "pixels": jax.ShapeDtypeStruct((4, model.image_height, model.image_width, model.image_channels), np.uint8),
        "labels": jax.ShapeDtypeStruct((4,), np.int32),
        "weights": jax.ShapeDtypeStruct((4,), np.float32),
    }
    shapes = jax.eval_shape(learner.loss, learner.model.shapes, batch, jax.eval_shape(lambda: jax.random.key(0)))
    assert shapes["loss"].shape == shapes["weight"].shape == ()


def test_a_plan_needs_no_images(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "vision.py"), "own", "--plan", "h100"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "own: images of 64 x 64, 3 channels, 16 classes." in done.stdout
    assert "Batches: 64 tokens a row." in done.stdout


def test_padding_of_images_is_refused_in_a_line(command, capsys, files, tmp_path):
    with pytest.raises(SystemExit):
        command("digits", *TINY, *files, "--run", tmp_path, "--length-multiple", "2")
    assert capsys.readouterr().err == (
        "error: length_multiple must be 1, got length_multiple=2: all images are as long.\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--attention", "attention must be False for images, whose explanations show where the model looked"),
        ("--label-smoothing 1.5", "label_smoothing must be at least 0 and below 1, got label_smoothing=1.5."),
        ("--explain -1", "explain must be 0 (nothing) or more, got explain=-1."),
    ],
)
def test_what_no_image_can_be_asked_is_refused_before_any_is_read(flags, message, command, capsys, tmp_path):
    with pytest.raises(SystemExit):
        command("digits", *flags.split(), "--run", tmp_path / "run")
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_is_of_the_images_and_the_model_that_would_train(monkeypatch):
    asked = {}

    def note(learner_of, about, shapes, **more) -> None:
        asked.update(learner_of=learner_of, about=about, shapes=shapes, **more)

    monkeypatch.setattr(vision, "print_plan", note)
    config = vision.PRESETS["digits"][1]
    vision.plan("it", config, device="h100")
    assert (asked["about"], asked["device"]) == ("it: images of 8 x 8, 1 channels, 10 classes.", "h100")
    assert asked["usual"] == config.max_length == config.model.num_tokens
    rows = config.batch.shape(config.max_length)[:2]
    assert asked["shapes"](4) == {"pixels": (*rows, 8, 8, 1), "labels": rows, "weights": rows}
    assert asked["config"] == replace(config, model=replace(config.model, kernel="xla"))
    assert asked["learner_of"](dtype="bfloat16").dtype == "bfloat16"
    # Of images that are not known yet, a row is as long as it must be at least.
    own = vision.PRESETS["own"][1]
    assert replace(own, batch=replace(own.batch, length_multiple=3)).max_length == 3
