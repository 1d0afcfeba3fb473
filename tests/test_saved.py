"""What a run has left is read through one door: a damaged file is one line that names file, field and way out."""

import dataclasses
import errno
import json
import os
import platform
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import jax
import numpy as np
import pytest

from lmx.asked import asked_of
from lmx.data.labels import Labels
from lmx.differences import SAME, few, filled_config
from lmx.learner import Learner, Placed
from lmx.models.encoder import ClassifierConfig
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.parameters import average_files, load_params, save_params
from lmx.reasons import reason_of
from lmx.saved import (
    check_vocabulary,
    find_tokenizers,
    load_tokenizers,
    read_config,
    read_field,
    read_fields,
    read_record,
    save_tokenizer,
    save_tokenizers,
    seed_files,
    tokenizer_of,
    write_json,
)
from lmx.search import Search, read_search
from lmx.text import PretokenizedTokenizer
from lmx.training import TrainState
from lmx.versions import versions

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


@pytest.mark.parametrize(
    ("saved", "error", "message"),
    [
        (None, FileNotFoundError, "must be a run directory: it has no config.json."),
        ({"family": "folds"}, ValueError, "must be one run, got that of all folds. Say RUN/fold-1."),
        ({"family": "decoder"}, ValueError, "must hold a model that translates, got family=decoder."),
        ({"family": "seq2seq"}, FileNotFoundError, "must hold a trained model: its training has not begun."),
    ],
)
def test_what_does_not_do_what_is_wanted_is_named(saved, error, message, tmp_path):
    if saved is not None:
        write_json(tmp_path / "config.json", saved)
    with pytest.raises(error, match=re.escape(message.replace("RUN", str(tmp_path)))):
        read_config(tmp_path, family="seq2seq", purpose="translates")
    write_json(tmp_path / "config.json", {"family": "seq2seq", "model": {}})
    assert read_config(tmp_path, family="seq2seq", purpose="translates") == {"family": "seq2seq", "model": {}}


def test_tokenizers_are_those_of_the_first_run_that_has_them(tmp_path):
    one, other, joint = (PretokenizedTokenizer(words) for words in (["a"], ["b"], ["c"]))
    first, second, empty = (tmp_path / name for name in ("first", "second", "empty"))
    for folder in (first, second, empty):
        folder.mkdir()
    save_tokenizers(first, one, other)
    save_tokenizers(second, joint, joint)
    pieces = lambda *tokenizers: [tokenizer.pieces([4])[0] for tokenizer in tokenizers]  # noqa: E731
    assert pieces(*load_tokenizers(None, empty, first, second)) == ["a", "b"]
    found = load_tokenizers(second, first)
    assert pieces(*found) == ["c", "c"]
    assert found[0] is found[1]
    assert tokenizer_of(None, empty, first) is None  # which has one for each side
    assert pieces(tokenizer_of(first, second)) == ["c"]
    assert sorted(find_tokenizers(first)) == ["source", "target"]
    (second / "partial.vocab").write_text("torn")  # of a process that was killed
    assert list(find_tokenizers(second)) == ["tokenizer"]
    assert find_tokenizers(tmp_path / "absent") == {}
    with pytest.raises(FileNotFoundError, match=rf"^{empty} or {tmp_path / 'absent'} must hold a tokenizer \("):
        load_tokenizers(None, empty, tmp_path / "absent")


def test_a_vocabulary_is_that_of_the_run_or_refused(tmp_path):
    path, run = PretokenizedTokenizer(["a", "b"]).save(tmp_path / "words.vocab"), tmp_path / "run"
    assert not check_vocabulary(None, run)
    assert not check_vocabulary(tmp_path / "absent.vocab", run)
    assert check_vocabulary(path, run)
    run.mkdir()
    assert check_vocabulary(path, run)  # which has not begun
    save_tokenizer(run, PretokenizedTokenizer(["a", "b"]))
    assert check_vocabulary(path, run)
    save_tokenizer(run, PretokenizedTokenizer(["b", "a"]))
    with pytest.raises(
        ValueError, match=rf"^{path} must be the vocabulary that {run} began with, got another than its"
    ):
        check_vocabulary(path, run)


@dataclasses.dataclass(frozen=True)
class Kinds:
    """A field of each kind that a config has."""

    rate: float = 1.0
    share: float | None = None
    number: int | float = 1
    names: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    form: Literal["a", "b"] | None = None


def test_values_are_read_as_their_kinds_have_them():
    saved = {"rate": 2, "share": 3, "number": 4, "names": ["x", "y"], "sizes": [1, 2.5], "form": "b"}
    found = read_fields(Kinds, saved, path=Path("config.json"), field="model")
    assert found == Kinds(2.0, 3.0, 4, ("x", "y"), (1.0, 2.5), "b")
    kinds = [type(value) for value in (found.rate, found.share, found.number, *found.sizes)]
    assert kinds == [float, float, int, float, float]
    for name, value, wanted in (
        ("names", ["x", 3], "a list"),
        ("names", "xy", "a list"),
        ("share", "x", "float or null"),
        ("form", "c", "a or b or null"),
        ("rate", True, "float"),
    ):
        with pytest.raises(ValueError, match=rf"^config\.json must have {wanted} in model\.{name}, got "):
            read_fields(Kinds, {name: value}, path=Path("config.json"), field="model")


def test_what_is_left_out_of_a_command_line_stays_and_a_zero_takes_a_setting_off():
    options = SimpleNamespace(
        no_repeat=0, top_k=3, min_p=None, forced_bos="", suppress=("",), begin_suppress=("a",), stop=(), temperature=0
    )
    assert asked_of(options, vars(options)) == {
        "no_repeat": None, "top_k": 3, "forced_bos": None, "suppress": (), "begin_suppress": ("a",), "temperature": 0,
    }  # fmt: skip
    assert asked_of(options, ["top_k"]) == {"top_k": 3}


def test_of_many_names_the_first_ten_are_told():
    assert few(list("abcdefghij")) == "a, b, c, d, e, f, g, h, i, j"
    assert few(list(range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


def test_what_a_saved_config_says_otherwise_takes_the_place_of_what_is_said_now():
    saved, later = {"a": 1, "b": {"c": 2}}, {"a": 3, "b": {"c": 4, "d": 5}}
    filled, taken = filled_config(saved, later, lambda config: {"b.c": SAME, "b.d": config["a"], "e.f": 6, "a": 7})
    assert (filled, taken) == ({"a": 1, "b": {"c": SAME, "d": 1}}, {"b.d": 1})
    assert saved == {"a": 1, "b": {"c": 2}}
    assert filled_config(saved, later, lambda config: config["gone"]) == (saved, {})


def test_a_reason_is_short_and_of_a_full_disk_what_the_system_says():
    assert reason_of(OSError("lost\n  in space")) == "lost in space"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("x" * 300)) == "x" * 200
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        said = os.strerror(number)
        assert reason_of(ValueError(f"RESOURCE_EXHAUSTED: writing it: {said} [a: b]")) == said


def test_the_machine_is_told_where_hosts_need_not_agree():
    shared = versions(machine=False)
    assert {"lmx", "jax", "flax", "optax", "python"} <= shared.keys()
    assert versions().items() - shared.items() == {
        ("platform", platform.platform()),
        ("device", f"{jax.devices()[0].device_kind} x {jax.device_count()}"),
    }
