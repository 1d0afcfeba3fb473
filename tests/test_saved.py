"""What a run has left is read through one door: a damaged file is one line that names file, field and way out."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lmx.data.labels import Labels
from lmx.learner import Learner, Placed
from lmx.models.encoder import ClassifierConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.parameters import average_files, load_params, save_params
from lmx.saved import read_config, read_field, read_fields, read_record, seed_files
from lmx.search import Search, read_search
from lmx.training import TrainState

SEARCH = dataclasses.asdict(Search())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json must be JSON, got an empty file."),
        ("[]", "config.json must be a JSON object, got a list."),
        ("3", "config.json must be a JSON object, got a number."),
        ('{"family": ', "config.json must be JSON, got Expecting value"),
        ("[" * 100_000, "config.json must be JSON, got maximum recursion depth"),
    ],
)
def test_what_is_no_object_is_named(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    for read in (read_record, lambda path: read_config(path.parent, family="seq2seq", purpose="translates")):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"beam_sise": 2},
            "config.json must have known fields in config.search, got beam_sise. The nearest is beam_size.",
        ),
        ({"beam_size": "2"}, "config.json must have int in config.search.beam_size, got '2'."),
        ({"beam_size": True}, "config.json must have int in config.search.beam_size, got True."),
        ({"alpha": None}, "config.json must have float in config.search.alpha, got None."),
        ({"length_penalty": "x"}, "config.json must have power or gnmt in config.search.length_penalty, got 'x'."),
        ({"beam_size": 0}, "config.json must have a fitting config.search: beam_size must be at least 1"),
    ],
)
def test_a_wrong_field_is_named(changes, message, tmp_path):
    saved = {"family": "seq2seq", "model": {}, "config": {"search": SEARCH | changes}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_search(tmp_path)


def test_a_search_may_lack_fields_and_may_be_changed(tmp_path):
    saved = {"family": "seq2seq", "model": {}, "config": {"search": {"beam_size": 2, "alpha": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert read_search(tmp_path, beam_size=3) == Search(beam_size=3, alpha=1.0)


def test_a_missing_field_is_named():
    path = Path("config.json")
    with pytest.raises(ValueError, match=r"config\.json must have model\.vocab_size, got none\."):
        read_fields(ClassifierConfig, {}, path=path, field="model")
    with pytest.raises(ValueError, match=r"config\.json must have an object in model, got a list\."):
        read_fields(ClassifierConfig, [], path=path, field="model")
    with pytest.raises(ValueError, match=r"config\.json must have int in config\.max_length, got none\."):
        read_field({"config": {}}, "config", "max_length", kind=int, path=path)
    with pytest.raises(ValueError, match=r"config\.json must have int in config\.max_length, got none\."):
        read_field({"config": 3}, "config", "max_length", kind=int, path=path)
    assert read_field({"config": {}}, "config", "stride", kind=int | None, path=path) is None


@pytest.mark.parametrize(
    "config",
    [ClassifierConfig(vocab_size=9, num_outputs=2), Seq2SeqConfig(source_vocab_size=9, target_vocab_size=9), Search()],
)
def test_what_a_run_writes_is_read_back(config):
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert read_fields(type(config), saved, path=Path("config.json"), field="model") == config


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "single"}', '{"kind": "x", "names": []}'])
def test_damaged_labels_name_their_file(text, tmp_path):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=r"labels\.json must hold the labels of its run"):
        Labels.from_file(tmp_path / "labels.json")


def test_parameters_that_cannot_be_written_name_their_file(tmp_path):
    params = {"table": np.zeros((2, 3), np.float32)}
    save_params(tmp_path / "model.safetensors", params)
    missing = tmp_path / "nodir" / "x.safetensors"
    for write in (
        lambda: save_params(missing, params),
        lambda: average_files([tmp_path / "model.safetensors"], missing),
    ):
        with pytest.raises(OSError, match=r"x\.safetensors must be in a folder that is there, got no .*nodir\."):
            write()
    (tmp_path / "y.safetensors.partial").mkdir()
    with pytest.raises(OSError, match=r"y\.safetensors(\.partial)?'?"):
        save_params(tmp_path / "y.safetensors", params)


@pytest.mark.parametrize("end", [0, 3, 40, -1])
def test_cut_parameters_name_their_file(end, tmp_path):
    path = tmp_path / "model.safetensors"
    save_params(path, {"table": np.zeros((2, 3), np.float32)})
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=r"model\.safetensors must be a safetensors file"):
        load_params(path)


def test_seeds_are_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "seeds").mkdir()
    for seed in range(1, 12):
        save_params(tmp_path / "seeds" / f"{seed}.safetensors", {"x": np.full(3, seed, np.float32)})
    assert [int(path.stem) for path in seed_files(tmp_path)] == list(range(1, 12))
    whole = jax.ShapeDtypeStruct((11, 3), np.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    blank = Placed(*[None] * len(Placed._fields))
    like = TrainState(*[None] * len(TrainState._fields))._replace(params={"x": whole})
    placed = blank._replace(learner=Learner(None, None, None, None, num_seeds=11), like=like)
    np.testing.assert_array_equal(placed.load(tmp_path)["x"][:, 0], np.arange(1, 12))
