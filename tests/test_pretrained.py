"""Training that begins with a finished run: what is taken over, what is said of it, and what is refused."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from lmx.definition import define
from lmx.errors import InputError
from lmx.learner import Learner, Placed, place
from lmx.lora import LoraConfig
from lmx.models.decoder import DecoderConfig
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.masked import MaskedConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.models.vision import VisionConfig
from lmx.optimization import OptimizerConfig, constant
from lmx.optimizers import make_optimizer
from lmx.parameters import load_params, save_params
from lmx.pretrained import OWN, StartConfig
from lmx.run import Run
from lmx.saved import save_tokenizer, save_tokenizers
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.text import PretokenizedTokenizer
from tests.test_experiments import MAKE_IT_TINY, run_script, write_numbers

SIZES = {"width": 16, "feedforward_width": 24, "num_heads": 4, "num_layers": 2, "max_length": 9}
THERE = ClassifierConfig(vocab_size=40, num_outputs=3, dropout_rate=0.3, unroll=2, **SIZES)


def placed_of(
    config: ClassifierConfig, start: StartConfig, *, devices: int = 1, num_seeds: int | None = None
) -> Placed:
    model = start.adapt(define(lambda rngs: EncoderClassifier(config, rngs=rngs)))
    schedule = constant(0.1, warmup=1)
    optimizer = make_optimizer(OptimizerConfig(), schedule, model=model)
    learner = Learner(
        model=model,
        loss=lambda *_: {},
        optimizer=optimizer,
        schedule=schedule,
        num_seeds=num_seeds,
        average_decay=0.9,
        keeps_best=True,
    )
    return place(learner, make_mesh(MeshConfig(fsdp=devices, data=1), devices=jax.devices()[:devices]))


def begin(start: StartConfig, placed: Placed, seeds=(5,)):
    """Returns the first state of a learner and what is said of it."""
    out = io.StringIO()
    run = Run(Path("nowhere"), {})  # nothing is written before it is opened
    run.console = Console(file=out, width=1000)
    return start.begin(placed, run).born(seeds), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("pretrained")
    state = placed_of(THERE, StartConfig()).born([1])
    save_params(directory / "model.safetensors", jax.device_get(state.params))
    (directory / "config.json").write_text(
        json.dumps({"family": "classifier", "config": {}, "model": dataclasses.asdict(THERE)}), encoding="utf-8"
    )
    return directory


@pytest.fixture(scope="module")
def there(finished):
    return load_params(finished / "model.safetensors")


def test_sizes_are_taken_over_and_choices_of_training_are_not(finished, tmp_path):
    own = ClassifierConfig(
        vocab_size=0, width=8, num_heads=2, dropout_rate=0.1, pooled_dropout_rate=0.7, num_outputs=5, max_length=4
    )
    model = StartConfig(init_from=finished).sizes(own, run=tmp_path / "new", longest=9)
    choices = {
        "dropout_rate": 0.1,
        "pooled_dropout_rate": 0.7,
        "attention_dropout_rate": own.attention_dropout_rate,
        "unroll": 1,
    }
    of_data = {"vocab_size": 0, "num_outputs": 5}
    assert model == dataclasses.replace(THERE, **choices, **of_data)
    assert StartConfig().sizes(own, run=tmp_path / "new", longest=99) == own


@pytest.mark.parametrize("config", [ClassifierConfig, DecoderConfig, MaskedConfig, Seq2SeqConfig, VisionConfig])
def test_every_rate_is_the_new_command_s(config):
    assert {each.name for each in dataclasses.fields(config) if each.name.endswith("_rate")} <= set(OWN)


def test_a_run_that_has_begun_needs_the_other_one_no_more(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"model": SIZES | {"width": 12}}}), encoding="utf-8")
    start = StartConfig(init_from=tmp_path / "gone")
    assert start.sizes(THERE, run=tmp_path, longest=9).width == 12
    start.begin(placed_of(THERE, start), Run(Path("nowhere"), {}))  # which loads nothing before a state is born
    (tmp_path / "config.json").write_text('{"config": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json must have dict in config\.model, got none\."):
        start.sizes(THERE, run=tmp_path, longest=9)


def test_a_run_has_its_own_vocabulary_before_that_of_what_it_begins_with(finished, tmp_path):
    there, run = tmp_path / "there", tmp_path / "run"
    shutil.copytree(finished, there)
    run.mkdir()
    start = StartConfig(init_from=there)
    assert start.tokenizer(run) is None
    with pytest.raises(FileNotFoundError, match=rf"^{run} or {there} must hold a tokenizer"):
        start.tokenizers(run)
    words = [PretokenizedTokenizer([word]) for word in ("a", "b", "c")]
    save_tokenizer(there, words[0])
    assert start.tokenizer(run).pieces([4]) == ["a"]
    assert [each.pieces([4]) for each in start.tokenizers(run)] == [["a"], ["a"]]
    save_tokenizers(run, words[1], words[2])
    assert start.tokenizer(run) is None  # it has one for each side
    assert [each.pieces([4]) for each in start.tokenizers(run)] == [["b"], ["c"]]
    with pytest.raises(FileNotFoundError, match=rf"^{there / 'absent'} must hold a tokenizer"):
        StartConfig().tokenizers(there / "absent")


def test_what_fits_by_name_and_shape_is_loaded_and_the_rest_is_told(finished, there):
    start = StartConfig(init_from=finished)
    config = dataclasses.replace(THERE, num_outputs=7, pooling="attention")
    random = placed_of(config, StartConfig()).born([5])
    state, told = begin(start, placed_of(config, start))
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], there["encoder"])
    for kept in (state.average, state.best):  # what validation and the model are made of
        jax.tree.map(np.testing.assert_array_equal, kept, state.params)
    for part in ("output", "pooling"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], random.params[part])
    numbers = sum(leaf.size for leaf in jax.tree.leaves(there["encoder"]))
    arrays = len(jax.tree.leaves(there["encoder"]))
    assert f"begins with {finished}: {arrays} arrays, {numbers:,} parameters" in told
    assert "new, drawn at random: pooling\n" in told
    assert "output.bias has (3,) there and (7,) here" in told
    assert "left there" not in told


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("size", [100, 200, 300])  # tables of 128, 256 and 384 rows
def test_a_table_of_words_may_have_other_rows(tmp_path, size, devices):
    if jax.device_count() < devices:
        pytest.skip("needs 8 devices")
    there = dataclasses.replace(THERE, vocab_size=200)
    saved = jax.device_get(placed_of(there, StartConfig()).born([1]).params)
    save_params(tmp_path / "model.safetensors", saved)
    record = {"family": "classifier", "config": {}, "model": dataclasses.asdict(there)}
    (tmp_path / "config.json").write_text(json.dumps(record), encoding="utf-8")
    start = StartConfig(init_from=tmp_path)
    assert start.sizes(dataclasses.replace(THERE, vocab_size=size), run=tmp_path / "new", longest=9).vocab_size == size
    state, told = begin(start, placed_of(dataclasses.replace(THERE, vocab_size=size), start, devices=devices))
    table, before = (tree["encoder"]["embedding"]["table"] for tree in (state.params, saved))
    shared = min(len(table), len(before))
    np.testing.assert_array_equal(table[:shared], before[:shared])
    np.testing.assert_array_equal(table[shared:], 0)
    assert "does not fit" not in told


def test_what_the_new_model_has_no_place_for_is_told(finished):
    start = StartConfig(init_from=finished)
    without = dataclasses.replace(THERE, embedding_norm=False)
    _, told = begin(start, placed_of(without, start))
    assert "left there: encoder.embedding_norm\n" in told


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_parameters_are_loaded_where_the_mesh_has_them(finished, there):
    start = StartConfig(init_from=finished)
    placed = placed_of(THERE, start, devices=8)
    state, _ = begin(start, placed)
    assert state.params["encoder"]["stack"]["blocks"]["feedforward"]["up"]["weight"].sharding.spec[1] == "fsdp"
    jax.tree.map(lambda leaf, where: leaf.sharding == where or pytest.fail(str(where)), state.params,
                 placed.shardings.params)  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, state.params, there)


def test_all_seeds_begin_with_the_same_and_low_rank_changes_of_their_own(finished, there):
    start = StartConfig(init_from=finished, lora=LoraConfig(rank=2))
    state, told = begin(start, placed_of(THERE, start, num_seeds=2), seeds=(5, 6))
    for index in range(2):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[index], b), state.params["encoder"], there["encoder"])  # noqa: B023
    factors = state.params["lora"]["encoder"]["stack"]["blocks"]["feedforward"]["up"]["weight"]["a"]
    assert not np.array_equal(factors[0], factors[1])
    assert "new" not in told


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            FileNotFoundError,
            "must be a run directory, got .* no config",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            InputError,
            "must be a finished run, got .* not ended",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), ValueError, "config.json must be JSON"),
        (
            lambda folder: (folder / "config.json").write_text('{"model": {"vocab_size": 3}}'),
            InputError,
            "must hold a Transformer, got one without width and num_heads",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model": 3}'),
            ValueError,
            r"copy/config\.json must have dict in model, got 3\.",
        ),
    ],
)
def test_what_is_no_finished_run_is_refused(finished, tmp_path, change, error, message):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    with pytest.raises(error, match=message):
        StartConfig(init_from=folder).sizes(THERE, run=tmp_path / "new", longest=9)


def test_a_damaged_file_and_one_of_another_family_are_refused(finished, tmp_path):
    start = StartConfig(init_from=tmp_path)
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model.safetensors must be a safetensors file"):
        begin(start, placed_of(THERE, StartConfig()))
    save_params(tmp_path / "model.safetensors", {"decoder": {"weight": np.zeros((2, 3), np.float32)}})
    with pytest.raises(InputError, match=r"none has the name and shape of one here: it has decoder.weight"):
        begin(start, placed_of(THERE, StartConfig()))


def test_rows_longer_than_the_positions_that_were_trained_are_refused(finished, tmp_path):
    with pytest.raises(InputError, match=r"max_length must be at most the 9 positions of .*, got 10"):
        StartConfig(init_from=finished).sizes(THERE, run=tmp_path, longest=10)


@pytest.mark.slow
def test_a_translator_of_one_domain_begins_that_of_another(tmp_path, lmx):
    data = []
    for seed, (split, count) in enumerate([("train", 200), ("validation", 20), ("test", 9)]):
        data += [f"--{split}", str(write_numbers(tmp_path / f"{split}.tsv", count=count, seed=seed, empty={}))]
    run_script("multi30k-raw", *data, *MAKE_IT_TINY, "--run", "first", cwd=tmp_path)
    more = ["--init-from", "first", "--lora.rank", "2", "--run", "second", "--model.width", "32"]
    done = run_script("multi30k-raw", *data, *MAKE_IT_TINY, *more, cwd=tmp_path)
    assert "begins with first:" in done.stdout
    assert "updated by adam" in done.stdout
    first, second = (load_params(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert jax.tree.structure(first) == jax.tree.structure(second)  # no change stands beside the model
    same = {
        jax.tree_util.keystr(path): equal
        for path, equal in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.array_equal, first, second))
    }
    assert all(equal == ("['weight']" not in name) for name, equal in same.items())
    one, other = (tmp_path / name / "tokenizer.model" for name in ("first", "second"))
    assert one.read_bytes() == other.read_bytes()
    # The run it began with may go; a run that was begun continues, and the finished one translates.
    shutil.rmtree(tmp_path / "first")
    again = run_script("multi30k-raw", *data, *MAKE_IT_TINY, *more, cwd=tmp_path)
    assert again.returncode == 0
    (tmp_path / "lines.txt").write_text("two nine\n", encoding="utf-8")
    lines, _ = lmx("translate", tmp_path / "second", "--input", tmp_path / "lines.txt")
    assert len(lines) == 1
