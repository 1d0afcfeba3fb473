import errno
import gc
import io
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import compilation_cache
from rich.console import Console
from safetensors.numpy import load_file

from lmx.checkpoint import Checkpoints
from lmx.config import RunConfig
from lmx.console import console, duration, progress_bar
from lmx.devices import DEVICES, Device, peak_flops
from lmx.errors import InputError
from lmx.hosts import fingerprint
from lmx.memory import Memory
from lmx.parameters import average_files, save_params
from lmx.process import EXIT_STOPPED, make_deterministic, one_line_errors, seconds_since_start, stop_on_signals
from lmx.report import write_report
from lmx.run import RESULTS, Run
from lmx.saved import write_json, write_jsonl, write_lines
from lmx.streams import Written
from lmx.text import PretokenizedTokenizer
from lmx.training import TrainState, create_state
from lmx.versions import versions

FACTS = {
    "experiment": "translation",
    "preset": "tiny",
    "family": "seq2seq",
    "config": {"updates": 30, "seed": 1, "run": "runs/tiny", "search": {"beam_size": 4, "alpha": 1.0}, "test": None},
}


def facts(**config) -> dict:
    return {**FACTS, "config": {**FACTS["config"], **config}}


@pytest.fixture(autouse=True)
def compiled_elsewhere():
    """Takes back where a run keeps its compiled programs."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.compilation_cache.reset_cache()


@pytest.fixture
def run(tmp_path) -> Run:
    return opened(tmp_path / "run")


def opened(directory: Path, facts: dict = FACTS, **options) -> Run:
    run = Run(directory, facts, **options)
    run.open()
    return run


def state(step: int) -> TrainState:
    start = create_state({"table": jnp.full((3, 2), float(step))}, optax.sgd(0.1), seed=1)
    return start._replace(step=jnp.int32(step))


def lines_of(run: Run) -> list[dict]:
    path = run.directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# Configs.


def test_a_run_directory_says_what_it_is(tmp_path):
    run = Run(tmp_path / "runs" / "new", FACTS)
    run.compare({}, model={"width": 24})
    run.open()
    assert json.loads((run.directory / "config.json").read_text()) == {**FACTS, "model": {"width": 24}}
    saved = json.loads((run.directory / "versions.json").read_text())
    assert saved == versions()
    assert saved["jax"] == jax.__version__
    # What was added is not asked for when the run goes on, and stays.
    opened(run.directory)
    assert json.loads((run.directory / "config.json").read_text())["model"] == {"width": 24}


def test_a_start_that_fails_before_it_opens_the_run_leaves_nothing(tmp_path):
    Run(tmp_path / "runs" / "new", FACTS)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_config_is_an_error_that_lists_each_field(tmp_path):
    opened(tmp_path / "run")
    other = {**facts(seed=2, search={"beam_size": 5, "alpha": 1.0}, clip=0.5), "preset": "base"}
    message = (
        "run must be a run of the same config, got config.clip=None there and 0.5 here; "
        "config.search.beam_size=4 there and 5 here; config.seed=1 there and 2 here; "
        "preset='tiny' there and 'base' here. Choose another --run, or remove that directory."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Run(tmp_path / "run", other)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == FACTS


def test_free_fields_may_change(tmp_path):
    opened(tmp_path / "run")
    changed = facts(updates=50, search={"beam_size": 5, "alpha": 1.0})
    opened(tmp_path / "run", changed, free=("updates", "search.beam_size"))
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == changed
    run = Run(tmp_path / "run", facts(updates=50, search={"beam_size": 6, "alpha": 0.5}), free=("search",))
    assert run.changed == ("config.search.alpha", "config.search.beam_size")
    with pytest.raises(ValueError, match=r"got config\.search\.beam_size=5 there and 6 here\. "):
        Run(tmp_path / "run", facts(updates=50, search={"beam_size": 6, "alpha": 1.0}), free=("sear", "beam_size"))
    with pytest.raises(ValueError, match=r"got config\.updates=50 there and 30 here\. "):
        Run(tmp_path / "run", facts(search={"beam_size": 5, "alpha": 1.0}))


def absent(saved):
    return {"length_multiple": saved["seed"], "search.min_length": 0, "average_decay": None, "gone.field": 3}


def test_a_field_that_an_earlier_version_had_not_is_what_was_done_then(tmp_path, capsys):
    opened(tmp_path / "run")
    search = {"beam_size": 4, "alpha": 1.0}
    later = facts(length_multiple=1, average_decay=None, search={**search, "min_length": 0})
    run = Run(tmp_path / "run", later, absent=absent)
    assert run.changed == ()
    printed = capsys.readouterr().out
    assert printed.endswith(
        "is of an earlier version; missing fields keep its behaviour: length_multiple=1, search.min_length=0\n"
    )
    Run(tmp_path / "run", facts(average_decay=None), absent=lambda saved: {"average_decay": None})
    assert not capsys.readouterr().out  # what was not asked for then
    run.open()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"] == later["config"]
    Run(tmp_path / "run", later, absent=absent)
    assert not capsys.readouterr().out
    opened(tmp_path / "other")
    later = facts(length_multiple=1, average_decay=None, search={**search, "min_length": 1})
    way_out = (
        r"got config\.search\.min_length=0 there and 1 here\. It is of an earlier .*: --search\.min-length 0 keeps its"
    )
    with pytest.raises(ValueError, match=way_out):
        Run(tmp_path / "other", later, absent=absent)
    # A field that nobody knows how to take, and one that is unknown here, are refused as ever.
    with pytest.raises(ValueError, match=r"got config\.clip=None there and 0\.5 here\. Choose another --run"):
        Run(tmp_path / "other", facts(clip=0.5), absent=absent)
    opened(tmp_path / "more", facts(clip=0.5))
    with pytest.raises(ValueError, match=r"got config\.clip=0\.5 there and None here\. Choose another --run"):
        Run(tmp_path / "more", FACTS, absent=lambda saved: {})


MADE_OF = {"labels": ["neg", "pos"], "training data": "1f", "test data": "2a"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training data": "1e"},
            r"^the training data of \S+run must be what the run began with, got other training data",
        ),
        (
            {"labels": ["pos", "neg"]},
            r"the labels of \S+run must be .* it has neg, pos, and the data pos, neg\. .*--run",
        ),
    ],
)
def test_a_run_refuses_what_it_was_not_made_of(changes, message, tmp_path):
    run = Run(tmp_path / "run", FACTS)
    run.compare(MADE_OF, model={"width": 24})
    run.open()
    before = {path: path.read_bytes() for path in run.directory.iterdir() if path.is_file()}
    again = Run(run.directory, FACTS)
    with pytest.raises(ValueError, match=message):
        again.compare({**MADE_OF, **changes})
    with pytest.raises(
        ValueError, match=r"run must be a run of the same model, got model\.width=24 there and 8 here\. "
    ):
        again.compare(MADE_OF, model={"width": 8})
    assert {path: path.read_bytes() for path in run.directory.iterdir() if path.is_file()} == before


def test_another_test_set_is_no_other_run(tmp_path):
    run = Run(tmp_path / "run", FACTS)
    run.compare(MADE_OF)
    run.open()
    again = Run(run.directory, FACTS)
    again.compare(MADE_OF)
    assert again.changed == ()
    left = [*RESULTS, "model.safetensors", "metrics.jsonl"]
    for name in left:
        (run.directory / name).touch()
    again.open()
    assert all((run.directory / name).exists() for name in left)
    again.compare({**MADE_OF, "test data": "2b"})
    assert again.changed == ("test data",)
    again.open()
    assert json.loads((run.directory / "config.json").read_text())["made_of"]["test data"] == "2b"
    # What the old set left is gone; the labels of new texts and the curves do not depend on it.
    of_test = {"scores.json", "samples.jsonl", "attention.json", "test.hypotheses.txt", "predictions.tsv"}
    of_test |= {"references.tsv", "mistakes.jsonl", "explanations.json", "surprise.json"}
    assert {name for name in left if not (run.directory / name).exists()} == of_test


def test_all_that_has_changed_is_told(tmp_path):
    opened(tmp_path / "run").compare(MADE_OF)
    first = opened(tmp_path / "run")
    first.compare(MADE_OF)
    first.open()
    again = Run(first.directory, facts(test="other.tsv"), free=("test",))
    again.compare({**MADE_OF, "test data": "2b"})
    assert again.changed == ("config.test", "test data")


def test_a_test_set_of_another_name_forgets_what_the_old_one_left(tmp_path):
    run = opened(tmp_path / "run")
    (run.directory / "scores.json").touch()
    opened(run.directory, facts(updates=50), free=("updates", "test"))
    assert (run.directory / "scores.json").exists()
    opened(run.directory, facts(updates=50, test="other.tsv"), free=("updates", "test"))
    assert not (run.directory / "scores.json").exists()


class Data:
    """Data as a run compares it: by what identifies it."""

    def __init__(self, *identity: np.ndarray | list[str]):
        self.identity = identity


def test_tokenizers_and_data_are_compared_by_what_is_in_them(tmp_path):
    run = Run(tmp_path / "run", FACTS)
    made_of = {"source_tokenizer": PretokenizedTokenizer(["a", "b"]), "training_data": Data(np.arange(3), ["x"])}
    run.agree(RunConfig(save_every=3), **made_of, labels=["no", "yes"], test_data=None)
    expected = {
        "source tokenizer": fingerprint(made_of["source_tokenizer"].pieces(range(6))),
        "training data": fingerprint(np.arange(3), ["x"]),
        "labels": ["no", "yes"],
    }
    assert run.made_of == expected
    assert run.decided["model"]["save_every"] == 3
    run.agree(**made_of | {"source_tokenizer": PretokenizedTokenizer(["b", "a"])})
    assert run.made_of["source tokenizer"] != expected["source tokenizer"]
    run.agree(training_data=Data(np.arange(3), ["y"]))
    assert run.made_of["training data"] != expected["training data"]


def test_a_run_from_before_fingerprints_is_taken_as_it_is_but_for_its_labels(tmp_path):
    opened(tmp_path / "run")
    run = Run(tmp_path / "run", FACTS)
    run.compare({"labels": ["a", "b"], "training data": "1f"})
    (tmp_path / "run" / "labels.json").write_text('{"kind": "single", "names": ["b", "a"]}')
    with pytest.raises(ValueError, match="it has b, a, and the data a, b"):
        run.compare({"labels": ["a", "b"], "training data": "1f"})


def test_a_model_of_an_earlier_version_may_lack_a_field_and_have_another_kernel(tmp_path):
    opened(tmp_path / "run")
    run = Run(tmp_path / "run", FACTS)
    run.compare({}, model={"width": 24, "kernel": "xla"})
    run.open()
    run = Run(tmp_path / "run", FACTS)
    run.compare({}, model={"width": 24, "kernel": "auto", "embedding_init": "gpt2"})
    with pytest.raises(ValueError, match=r"must be a run of the same model, got model\.width=24 there and 32 here"):
        run.compare({}, model={"width": 32, "kernel": "auto"})
    with pytest.raises(ValueError, match=r"got model\.width=24 there and None here"):
        run.compare({}, model={"kernel": "auto"})


def test_what_belongs_together_is_written_together(tmp_path):
    run = Run(tmp_path / "run", FACTS)

    def write(folder: Path) -> None:
        (folder / "labels.json").write_text("new")
        assert sorted(path.suffix for path in run.directory.iterdir()) == [".lock", ".partial"]

    def fail(folder: Path) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        run.open(fail)
    assert not (run.directory / "config.json").exists()
    again = Run(tmp_path / "run", FACTS)  # what is left is no obstacle
    again.open(write)
    assert (run.directory / "labels.json").read_text() == "new"
    assert not list(run.directory.glob("*.partial"))


def test_a_start_that_is_killed_among_its_files_has_written_its_config(tmp_path, monkeypatch):
    def write(folder: Path) -> None:
        (folder / "a.labels").write_text("new")

    replace = os.replace

    def killed(old: Path, new: Path) -> None:
        replace(old, new)
        if new.parent == tmp_path / "run":
            raise SystemExit

    run = Run(tmp_path / "run", FACTS)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            run.open(write)
    assert (tmp_path / "run" / "config.json").is_file()
    Run(tmp_path / "run", FACTS).open(write)
    assert (tmp_path / "run" / "a.labels").read_text() == "new"


def test_a_run_that_another_process_has_begun_meanwhile_is_not_overwritten(tmp_path):
    late = Run(tmp_path / "run", FACTS)
    opened(tmp_path / "run", facts(seed=2))
    with pytest.raises(ValueError, match=r"must not change while a process starts, got another config\.json"):
        late.open()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["seed"] == 2


def test_a_finished_model_without_checkpoints_serves(tmp_path):
    run = opened(tmp_path / "run")
    run.settle(length="updates")
    assert not run.serves
    (run.directory / "model.safetensors").touch()
    (run.directory / "checkpoints" / "30.damaged").mkdir(parents=True)
    run.settle(length="updates")
    assert run.serves
    longer = Run(run.directory, facts(updates=50), free=("updates",))
    with pytest.raises(ValueError, match=r"must have checkpoints to train on from.* Leave --updates as it was"):
        longer.settle(length="updates")
    (run.directory / "checkpoints" / "30").mkdir()
    longer.settle(length="updates")
    assert not longer.serves


def test_a_directory_of_other_files_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"must be a run directory or empty: it has files, but no config\.json\."):
        Run(tmp_path, FACTS)


# Going on.


def test_a_training_ends_when_all_its_seeds_have(tmp_path):
    run = opened(tmp_path / "run")
    for step, values, ended in ((1, (1.0, 1.0), False), (2, (2.0, 0.5), False), (3, (2.0, 0.4), False)):
        better = run.memory.judge(step, np.array(values), patience=2)
        assert better.tolist() == [step == 1, True]
        assert run.memory.stopped_early == ended
    assert run.memory.waited == [2, 0]
    # A seed that has ended gets no better: its patience was over.
    assert run.memory.judge(4, np.array([0.1, 0.6]), patience=2).tolist() == [False, False]
    assert (run.memory.best[0], run.memory.stopped_early) == (1.0, False)
    run.memory.judge(5, np.array([0.1, 0.6]), patience=2)
    assert run.memory.stopped_early


def test_metrics_are_on_the_disk_before_a_checkpoint_says_so(tmp_path, monkeypatch):
    run, events = opened(tmp_path / "run"), []
    path, sync = run.directory / "metrics.jsonl", os.fsync

    def watched(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            events.append(("synced", path.stat().st_size))
        sync(descriptor)

    def save(_: Checkpoints, step: int, state: TrainState, memory: dict, *, scores: dict) -> None:
        events.append(("saved", memory["metrics_bytes"]))

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(os, "fsync", watched)
    run.write_metrics("train", {"step": 1, "loss": 2.0})
    run.write_metrics("train", {"step": 2, "loss": 1.0})
    checkpoints = run.open_checkpoints(keep_last=1)
    run.save(checkpoints, state(2))
    checkpoints.close()
    size = path.stat().st_size
    assert size > 0
    assert events == [("synced", size), ("saved", size)]


def test_a_resumed_run_remembers_and_writes_again_what_was_not_saved(tmp_path):
    first = opened(tmp_path / "run")
    checkpoints = first.open_checkpoints(keep_last=1)
    assert first.resume(checkpoints, state(0)).step == 0
    first.write_metrics("train", {"step": 10, "loss": 1.23456789012, "seeds": {"loss": [0.123456789, 2.0]}})
    first.memory.judge(10, 3.0, patience=None)
    first.memory.spent["tokens"] = 2.0**40
    first.save(checkpoints, state(10))
    checkpoints.close()
    first.write_metrics("train", {"step": 20, "loss": 0.5})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while it wrote

    second = opened(tmp_path / "run")
    checkpoints = second.open_checkpoints(keep_last=1)
    restored = second.resume(checkpoints, state(0))
    checkpoints.close()
    np.testing.assert_array_equal(restored.params["table"], np.full((3, 2), 10.0))
    assert restored.step == 10
    assert (second.memory.best, second.memory.losses, second.memory.spent) == ([3.0], {10: 3.0}, {"tokens": 2.0**40})
    second.write_metrics("train", {"step": 20, "loss": 0.25})
    assert lines_of(second) == [
        {"kind": "train", "step": 10, "loss": 1.234568, "seeds": {"loss": [0.1234568, 2.0]}},
        {"kind": "train", "step": 20, "loss": 0.25},
    ]


def test_metrics_that_were_lost_do_not_come_back_as_zeros(tmp_path):
    first = opened(tmp_path / "run")
    checkpoints = first.open_checkpoints(keep_last=1)
    first.resume(checkpoints, state(0))
    first.write_metrics("train", {"step": 10})
    first.save(checkpoints, state(10))
    checkpoints.wait()
    (tmp_path / "run" / "metrics.jsonl").unlink()
    second = opened(tmp_path / "run")
    second.resume(checkpoints, state(0))
    checkpoints.close()
    second.write_metrics("train", {"step": 20})
    assert lines_of(second) == [{"kind": "train", "step": 20}]


def test_without_a_checkpoint_metrics_begin_anew(tmp_path):
    first = opened(tmp_path / "run")
    checkpoints = first.open_checkpoints(keep_last=1)
    first.resume(checkpoints, state(0))
    first.write_metrics("train", {"step": 10})
    second = opened(tmp_path / "run")
    assert second.resume(checkpoints, state(0)).step == 0
    checkpoints.close()
    assert lines_of(second) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mood": 1}, r"^run/7 must hold what a run remembers, got the unknown field mood\."),
        ({"best": 3}, r"run/7 must hold what a run remembers, got best=3\."),
        ({"losses": {"x": 1.0}}, r"got losses=\{'x': 1.0\}"),
        ({"metrics_bytes": None}, "got metrics_bytes=None"),
    ],
)
def test_a_damaged_memory_names_its_file_and_field(changes, message):
    with pytest.raises(ValueError, match=message):
        Memory.from_json({**Memory().to_json(), **changes}, path=Path("run/7"))


@pytest.mark.parametrize(("text", "message"), [("", "got an empty file"), ("[]", "got a list"), ("{", "must be JSON")])
def test_a_damaged_config_names_its_file(text, message, run):
    (run.directory / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json must be .*{message}" if "got" in message else message):
        Run(run.directory, FACTS)


def test_memory_survives_json():
    sums = {"loss": np.asarray(1.5), "seeds": np.asarray([0.1, 0.2])}
    memory = Memory(losses={10: 3.5, 20: 2.5}, sums=sums, spent={"tokens": 2.0**40}, seconds=1.25)
    memory.best, memory.best_step, memory.waited = [2.5, math.inf], [20, 0], [0, 3]
    found = Memory.from_json(json.loads(json.dumps(memory.to_json())))
    for name, value in sums.items():
        np.testing.assert_array_equal(found.sums.pop(name), value)
    memory.sums = {}
    assert found == memory


def test_a_start_that_was_killed_while_it_wrote_its_config_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.partial").write_text('{"exper')
    opened(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == FACTS


def test_a_run_says_where_its_compiled_programs_are(tmp_path, capsys):
    found = Run(tmp_path / "run", FACTS)
    found.open()
    found.print_start(vocabulary=24)
    folder = jax.config.jax_compilation_cache_dir
    assert Path(folder).is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert f"compiled programs  {folder}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "start.json").read_text())["compiled_programs"] == folder


def test_lines_that_a_full_disk_does_not_take_are_written_later(run):
    checkpoints = run.open_checkpoints(keep_last=1)
    run.resume(checkpoints, state(0))
    run.write_metrics("train", {"step": 10})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (45, limit[1]))  # half of the next line fits
    try:
        run.write_metrics("train", {"step": 20})
        run.write_metrics("train", {"step": 30})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (run.directory / "metrics.jsonl").stat().st_size == 45
    remembered = Memory.from_json(run.memory.to_json())
    run.write_metrics("train", {"step": 40})
    assert [line["step"] for line in lines_of(run)] == [10, 20, 30, 40]
    # A checkpoint saved meanwhile knows of them too.
    run.memory = remembered
    run.save(checkpoints, state(30))
    checkpoints.close()
    assert [line["step"] for line in lines_of(run)] == [10, 20, 30]
    assert run.memory.metrics_bytes == (run.directory / "metrics.jsonl").stat().st_size


def test_a_log_that_a_full_disk_does_not_take_ends_nothing(tmp_path):
    with (tmp_path / "log").open("w") as log:
        limited = type(console)(file=log)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, limit[1]))
        try:
            limited.print("a line that does not fit")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        limited.print("later")
    assert (tmp_path / "log").read_text().endswith("later\n")


# Validations.


def test_patience_counts_validations_without_a_better_one(run):
    seen = []
    for step, loss in enumerate((3.0, 2.0, 2.0, 1.5, math.nan, 1.6, 1.7), start=1):
        run.memory.judge(step, loss, patience=3)
        seen.append((*run.memory.best_step, *run.memory.waited, run.memory.stopped_early))
    assert seen == [
        (1, 0, False),
        (2, 0, False),
        (2, 1, False),
        (4, 0, False),
        (4, 1, False),
        (4, 2, False),
        (4, 3, True),
    ]
    assert run.memory.best == [1.5]
    assert list(run.memory.losses) == [1, 2, 3, 4, 5, 6, 7]


def test_without_patience_no_run_stops_early(run):
    for step in range(50):
        run.memory.judge(step, float(step), patience=None)
    assert run.memory.waited == [49]
    assert not run.memory.stopped_early


def test_each_seed_has_its_best_and_its_patience(run):
    values = {10: (3.0, 3.0), 20: (4.0, 2.0), 30: (4.0, 2.5), 40: (1.0, 1.0), 50: (0.5, 1.5), 60: (0.5, 1.5)}
    better = {step: run.memory.judge(step, np.asarray(row), patience=2).tolist() for step, row in values.items()}
    # The first seed ended at 30: what it does later, while the others go on, is not looked at.
    assert better == {
        10: [True] * 2,
        20: [False, True],
        30: [False] * 2,
        40: [False, True],
        50: [False] * 2,
        60: [False] * 2,
    }
    assert (run.memory.best, run.memory.best_step, run.memory.waited) == ([3.0, 1.0], [10, 40], [2, 2])
    assert run.memory.stopped_early
    assert run.memory.losses[20] == 3.0


# What is printed and written.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (48.0, "48 s"),
        (89.4, "89 s"),
        (90.0, "2 min"),
        (720.0, "12 min"),
        (5340.0, "89 min"),
        (12240.0, "3.4 h"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_log_that_nobody_reads_any_more_ends_nothing():
    code = "from lmx.run import console\nfor i in range(50000): console.print(i)\nopen('/dev/stderr', 'w').write('end')"
    command = f"{sys.executable} -c {json.dumps(code)} | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["bash", "-c", command.replace("\\n", "\n")], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("0\n0\n", "end")


def test_what_only_reports_fails_in_a_line(run, capsys, monkeypatch):
    monkeypatch.delenv("LMX_TRACEBACK", raising=False)
    with run.only_reporting("the linear model is"):
        raise ValueError("empty [vocabulary];\n only stop words")
    assert "the linear model is left out: empty [vocabulary]; only stop words" in capsys.readouterr().out
    with run.only_reporting("the list is"):
        raise ValueError("x" * 400)
    with run.only_reporting("the page is"):
        raise KeyError
    printed = "".join(capsys.readouterr().out.split("\n"))
    assert f"the list is left out: {'x' * 300} (LMX_TRACEBACK=1 says where)" in printed
    assert "the page is left out: KeyError (" in printed
    monkeypatch.setenv("LMX_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError), run.only_reporting("it is"):
        1 / 0  # noqa: B018


def test_progress_is_shown_on_a_terminal_and_nowhere_else():
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=80)
        with progress_bar("translating", total=4, console=console) as show:
            show(3)
        assert ("translating" in file.getvalue() and "3/4" in file.getvalue()) == terminal


def test_what_is_printed_at_the_start_is_kept(tmp_path, capsys):
    run = opened(tmp_path / "run", options=RunConfig(compile_cache="run"))
    start = {"parameters": 63_100_000, "padding_share": 0.12345678, "shapes": [[64, 8], [32, 16]], "mesh": "data=1"}
    run.print_start(**start)
    folder = str(run.directory / "compiled")
    assert json.loads((run.directory / "start.json").read_text()) == {**start, "compiled_programs": folder}
    assert capsys.readouterr().out.splitlines() == [
        "  parameters         63,100,000",
        "  padding share      0.1235",
        "  shapes             64x8 32x16",
        "  mesh               data=1",
        f"  compiled programs  {folder}",
    ]
    run.add_start(compile_seconds=1.5)
    known = {**start, "compiled_programs": folder, "compile_seconds": 1.5}
    assert json.loads((run.directory / "start.json").read_text()) == known


def test_the_model_is_that_of_the_best_seed_and_each_of_several_has_a_file(run):
    model = run.directory / "model.safetensors"
    run.save_model({"x": jnp.arange(4.0)})
    assert load_file(model)["x"].tolist() == [0, 1, 2, 3]
    run.memory.judge(7, np.array([0.5]), patience=None)
    run.save_model({"x": jnp.arange(4.0)[None]}, seeds=(4,))
    assert load_file(model)["x"].tolist() == [0, 1, 2, 3]
    assert not (run.directory / "seeds").exists()
    run.memory = Memory()
    run.memory.judge(7, np.array([0.5, 0.2]), patience=None)
    run.save_model({"x": jnp.arange(4.0).reshape(2, 2)}, seeds=(4, 11))
    assert load_file(model)["x"].tolist() == [2, 3]
    files = {path.name: load_file(path)["x"].tolist() for path in (run.directory / "seeds").iterdir()}
    assert files == {"4.safetensors": [0, 1], "11.safetensors": [2, 3]}


@pytest.mark.parametrize("seeds", [None, (4, 11)])
def test_results_are_forgotten_where_another_model_takes_the_place_of_theirs(seeds, run):
    run.memory.judge(7, np.array([0.5, 0.2]), patience=None)
    params = jnp.arange(4.0).reshape(2, 2)
    run.save_model({"x": params}, seeds=seeds)
    left = [run.directory / name for name in (*RESULTS, "metrics.jsonl")]
    for path in left:
        path.touch()
    run.save_model({"x": params}, seeds=seeds)  # of the same training, continued or not
    assert all(path.exists() for path in left)
    run.save_model({"x": params + 1}, seeds=seeds)
    assert [path.name for path in left if path.exists()] == ["metrics.jsonl"]
    assert not list(run.directory.glob("*.partial"))


def test_results_are_forgotten_where_another_seed_than_the_best_changes(run):
    run.memory.judge(7, np.array([0.5, 0.2]), patience=None)
    params = jnp.arange(4.0).reshape(2, 2)
    run.save_model({"x": params}, seeds=(4, 11))
    labelled = run.directory / "labelled.tsv"  # of all seeds together
    labelled.touch()
    run.save_model({"x": params.at[0].add(1)}, seeds=(4, 11))
    assert not labelled.exists()
    assert not list(run.directory.rglob("*.partial"))


def test_a_finished_model_without_checkpoints_remembers_its_best_steps(run):
    values = np.array([0.5, 0.2])
    run.recall(values, seeds=(4, 11))
    assert (run.memory.best, run.memory.best_step) == ([0.5, 0.2], [0, 0])
    saved = [{"seed": seed, "best_step": step} for seed, step in ((11, 20), (4, 30), (5, 40))]
    write_json(run.directory / "scores.json", {"seeds": saved})
    run.recall(values, seeds=(4, 11, 12))
    assert (run.memory.best, run.memory.best_step) == ([0.5, 0.2], [30, 20, 0])
    (run.directory / "scores.json").write_text('{"seeds": [3]}')  # damaged: the scores are made again
    run.recall(values, seeds=(4, 11))
    assert run.memory.best_step == [0, 0]


def test_a_run_keeps_the_checkpoints_it_is_asked_to(run, monkeypatch):
    asked = {}

    def note(self: Checkpoints, directory: Path, **options) -> None:
        asked.update(options, at=directory)

    monkeypatch.setattr(Checkpoints, "__init__", note)
    run.open_checkpoints(keep_last=3, keep_best=2, keep_every=7)
    report = asked.pop("report")
    assert asked == {"at": run.directory / "checkpoints", "keep_last": 3, "keep_best": 2, "keep_every": 7}
    assert report == run.console.print


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"text": "Straße", "score": 1.5})
    with pytest.raises(TypeError):
        write_json(path, {"text": Path})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "Straße", "score": 1.5}
    write_jsonl(tmp_path / "samples.jsonl", [{"a": 1}, {"b": "ü\u2028"}])
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [{"a": 1}, {"b": "ü\u2028"}]


def test_only_bfloat16_on_known_devices_has_a_peak(monkeypatch):
    device = jax.devices("cpu")[0]
    assert peak_flops(device.device_kind, "bfloat16") is None
    known = Device(name="test", kind=f"^{device.device_kind}$", memory=1e9, bfloat16=5e12, float32=1e12)
    monkeypatch.setitem(DEVICES, "test", known)
    assert peak_flops(device.device_kind, "bfloat16") == 5e12
    assert peak_flops(device.device_kind, "float32") is None


# Mistakes.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("width must be even,\n  got width=3."), "error: width must be even, got width=3.\n"),
        (FileNotFoundError("a.txt must exist."), "error: a.txt must exist.\n"),
        (FloatingPointError("loss must be finite."), "error: loss must be finite.\n"),
        (ImportError("sacremoses must be installed."), "error: sacremoses must be installed.\n"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_status_2(error, line, capsys, monkeypatch):
    monkeypatch.delenv("LMX_TRACEBACK", raising=False)
    with pytest.raises(type(error)), one_line_errors():
        raise error  # of this file, which is nobody's input
    monkeypatch.setattr("lmx.process.is_users", lambda error: True)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", line)
    monkeypatch.setenv("LMX_TRACEBACK", "1")
    with pytest.raises(type(error)), one_line_errors():
        raise error


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        1 / 0  # noqa: B018


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv("LMX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'model.safetensors'\n"


def too_small(write, *arguments) -> None:
    """Calls a function while no file can have more than three bytes: of that, as of a full disk, no error names it."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limit[1]))
    try:
        write(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def write_standard_output(path):
    with Written(path, input=None) as out:
        out.write(["a line that does not fit"])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("a line that does not fit"),  # what the system says by itself
        lambda path: write_json(path, {"a": "line"}),
        lambda path: write_jsonl(path, [{"a": "line"}]),
        lambda path: write_lines(path, ["a line"]),
        lambda path: average_files([path.with_name("old.safetensors")], path),
        lambda path: save_params(path, {"table": np.zeros((2, 3), np.float32)}),
        lambda path: Run(path, facts()).open(lambda folder: (folder / "labels").write_text("a line")),
        lambda path: Run(path, facts()).open(),
        write_standard_output,
        lambda path: write_report(path),
    ],
    ids="nothing json jsonl lines average params opened config output report".split(),
)
def test_a_file_that_a_full_disk_does_not_take_is_named(write, capsys, monkeypatch, tmp_path, request):
    monkeypatch.delenv("LMX_TRACEBACK", raising=False)
    monkeypatch.setattr("lmx.run.take_lock", lambda directory, report: None)  # it has a file of its own
    save_params(tmp_path / "old.safetensors", {"table": np.zeros((2, 3), np.float32)})
    case = request.node.callspec.id
    if case == "report":
        (tmp_path / "it").mkdir()
        write_json(tmp_path / "it" / "config.json", facts())
    with pytest.raises(SystemExit) as ended, one_line_errors():
        too_small(write, tmp_path / "it")
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert "File too large" in said
    assert (str(tmp_path / "it") in said) == (case != "nothing")
    if case not in ("nothing", "opened", "config", "output", "report"):
        assert [path.name for path in tmp_path.iterdir()] == ["old.safetensors"]  # half a file takes no room


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_outside_of_the_loop_is_a_line_and_status_75(number, capsys):
    before = signal.getsignal(number)

    @stop_on_signals()
    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)

    with pytest.raises(SystemExit) as ended, one_line_errors():
        work()
    assert ended.value.code == EXIT_STOPPED == 75
    assert capsys.readouterr().out == f"stopped by {signal.Signals(number).name}; the same command continues\n"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_where_exceptions_are_ignored_is_not_lost(number, capfd):
    def callback(*_) -> None:
        gc.callbacks.remove(callback)
        os.kill(os.getpid(), number)

    @stop_on_signals()
    def work() -> None:
        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(5)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == EXIT_STOPPED
    printed = capfd.readouterr()
    assert printed.out == f"stopped by {signal.Signals(number).name}; the same command continues\n"
    assert "ignored" not in printed.err


def test_a_reader_that_has_enough_ends_a_command_as_the_signal_would(monkeypatch):
    given = []
    monkeypatch.setattr(os, "dup2", lambda *numbers: given.append(numbers))
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise BrokenPipeError
    assert ended.value.code == 128 + signal.SIGPIPE
    assert [number for _, number in given] == [sys.stdout.fileno()]


@pytest.mark.parametrize("known", [True, False])
def test_the_age_of_a_process_is_in_seconds(known, monkeypatch):
    if not known:
        monkeypatch.setattr(Path, "read_text", lambda path: "of another system")
    before = seconds_since_start()
    time.sleep(0.1)
    assert 0.05 < seconds_since_start() - before < 30
    assert 0 < before < 24 * 3600


def test_an_interrupt_is_one_word(capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped.\n"


# Several hosts.


def test_a_host_that_does_not_write_reads_and_is_silent(run, tmp_path, monkeypatch, capsys):
    checkpoints = run.open_checkpoints(keep_last=1)
    run.write_metrics("train", {"step": 3, "loss": 2.0})
    run.memory.losses[3] = 2.0
    run.save(checkpoints, state(3))
    checkpoints.close()
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    monkeypatch.setattr("lmx.run.is_writer", lambda: False)
    other = opened(run.directory)
    checkpoints = other.open_checkpoints(keep_last=1)
    assert int(other.resume(checkpoints, state(0)).step) == 3
    checkpoints.close()
    assert other.memory.losses == {3: 2.0}
    other.print_start(devices=2)
    other.write_metrics("train", {"step": 4, "loss": 1.0})
    other.add_start(compile_seconds=1.0)
    other.forget(("config.json",))
    assert capsys.readouterr().out == ""
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == before
    assert Run(tmp_path / "new", FACTS).writes is False


def test_an_error_names_the_host_where_there_are_several(monkeypatch, capsys):
    monkeypatch.setattr("lmx.hosts.label", lambda: "host 3: ")
    with pytest.raises(SystemExit), one_line_errors():
        raise InputError("width must be 8.")
    assert capsys.readouterr().err == "host 3: error: width must be 8.\n"


def test_deterministic_adds_to_the_flags_that_are_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    make_deterministic()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=there --xla_gpu_deterministic_ops=true"


COUNT_FAULTS = """
import resource
import jax, jax.numpy as jnp
from lmx.process import keep_freed_memory

assert keep_freed_memory()

@jax.jit
def step(x):  # with 64 MiB of its own, one after the other
    for _ in range(3):
        x = jnp.sin(x @ x.T) @ x / 4096
    return x

x = jnp.ones((4096, 8))
counts = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = step(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*counts)
"""


COUNT_BEFORE = """
import gc
import jax, numpy as np
from lmx.process import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

assert keep_freed_memory()
before = resident()
held = []
for _ in range(64):  # as an array that grows, with what is made beside it
    grown = np.ones((len(held) + 1) << 17)
    held.append(np.ones(100))
    del grown
held.clear()
gc.collect()
print(before, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_is_freed_before_the_first_program_goes_back():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", COUNT_BEFORE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    before, after = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in done.stdout.split())
    assert after - before < 40 * 2**20  # the last array alone takes 64 MiB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_step_takes_its_memory_from_the_last_one():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", COUNT_FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    counts = [int(count) for count in done.stdout.split()]
    pages = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert counts[0] > pages  # the first takes it from the system
    assert np.median(counts[2:]) < pages / 10  # one call or another may meet a gap that is too small
