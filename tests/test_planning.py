"""The plan of an experiment: what is planned, what is proposed where it does not fit, and how large a vocabulary is."""

from pathlib import Path
from types import SimpleNamespace

import optax
import pytest

from lmx import planning
from lmx.planning import planned_sizes, print_plan
from lmx.sharding.mesh import MeshConfig
from lmx.sharding.rules import DEFAULT_RULES


@pytest.fixture
def made(monkeypatch):
    """What a plan is asked for, without making it."""
    made = SimpleNamespace(devices=[], asked=[], changes=[])

    def make_plan(job, device, *, changes):
        made.asked.append((job, device))
        made.changes[:] = changes

    monkeypatch.setattr(planning, "use_virtual_devices", made.devices.append)
    monkeypatch.setattr(planning, "make_plan", make_plan)
    monkeypatch.setattr(planning, "render", lambda plan: "the tables\n")
    monkeypatch.setattr(planning, "rules_of", lambda config: DEFAULT_RULES)
    return made


def learner_of(**changes):
    def build(rngs):
        raise AssertionError(changes)

    return SimpleNamespace(
        model=SimpleNamespace(build=build),
        loss=lambda *_: {},
        optimizer=optax.sgd(0.1),
        dtype=changes.get("dtype", "float32"),
        average_decay=0.9,
        keeps_best=False,
        gradient_sum="compute",
    )


def config_of(*, seeds: int = 1, **batch):
    sizes = {"tokens_per_batch": 1000, "tokens_per_device": None, "accumulation": 3} | batch
    run = SimpleNamespace(mesh=MeshConfig(data=2, fsdp=3))
    return SimpleNamespace(batch=SimpleNamespace(**sizes), run=run, max_length=40, seeds=seeds)


def shapes(length: int) -> dict[str, tuple[int, ...]]:
    return {"tokens": (1, 8, length)}


def test_a_plan_is_of_the_longest_rows_and_of_usual_ones(made, capsys):
    print_plan(learner_of, "a preset.", shapes, device="h100", config=config_of(seeds=3))
    ((job, device),) = made.asked
    assert (device, made.devices) == ("h100", [2 * 6])
    assert (job.batch, job.typical) == (shapes(40), shapes(10))
    assert (job.dtype, job.average, job.best, job.gradient_sum) == ("float32", True, False, "compute")
    assert job.mesh == MeshConfig(data=2, fsdp=3)
    assert capsys.readouterr().out == (
        "a preset. Of one seed; 3 need 3 times as much.\n"
        "Batches: the longest that the config allows, 40 tokens, and as usual 10.\n\n"
        "the tables\n"
    )
    print_plan(learner_of, "a preset.", shapes, device="h100", config=config_of(), usual=40)
    assert made.asked[1][0].typical is None  # one estimate of one shape
    assert capsys.readouterr().out == "a preset.\nBatches: 40 tokens a row.\n\nthe tables\n"


def test_changes_that_are_proposed_are_those_that_are_tried(made):
    print_plan(learner_of, "a preset.", shapes, device="h100", config=config_of())
    assert [text for text, _ in made.changes] == [
        "--model.remat dots",
        "--model.remat full",
        "--mesh.fsdp 6, on 12 devices",
        "--tokens-per-batch 500 --accumulation 6",
        "--model.dtype bfloat16",
    ]
    dots, full, wider, halved, narrow = (make_job() for _, make_job in made.changes)
    for job, changes in ((dots, {"remat": "dots"}), (full, {"remat": "full"}), (narrow, {"dtype": "bfloat16"})):
        with pytest.raises(AssertionError) as said:
            job.build(None)
        assert said.value.args == (changes,)
    assert wider.mesh == MeshConfig(data=2, fsdp=6)
    assert halved.batch == {"tokens": (2, 4, 40)}
    assert narrow.dtype == "bfloat16"


@pytest.mark.parametrize(("tokens", "half"), [(1001, 500), (1, 1)])
def test_tokens_of_a_device_are_halved_on_twice_the_devices(made, tokens, half):
    print_plan(learner_of, "a preset.", shapes, device="h100", config=config_of(tokens_per_device=tokens))
    assert [text for text, _ in made.changes][2:4] == [
        f"--mesh.fsdp 6 --tokens-per-device {half}, on 12 devices",
        f"--tokens-per-device {half} --accumulation 6",
    ]


def vocabulary(directory: Path, *, given: tuple[int, int] = (0, 0), **pieces):
    settings = {"vocab_size": 8000, "vocabulary": None, "tokenizer": "unigram"} | pieces
    return SimpleNamespace(
        model=SimpleNamespace(source_size=given[0], target_size=given[1]),
        run=SimpleNamespace(run=directory),
        pieces=SimpleNamespace(**settings),
    )


FIELDS = ("source_size", "target_size")


def test_a_vocabulary_is_as_large_as_is_known_without_reading_text(tmp_path, monkeypatch):
    def sizes(config, *fields):
        found, origin = planned_sizes(config, *(fields or FIELDS))
        return list(found.values()), origin

    assert sizes(vocabulary(tmp_path, given=(500, 1700))) == (
        [500, 1700],
        "vocabularies of 500 and 1,700 as the config says",
    )
    one = planned_sizes(vocabulary(tmp_path, given=(500, 0)), "source_size")
    assert one == ({"source_size": 500}, "a vocabulary of 500 as the config says")
    assumed = "a vocabulary of 8,000 is assumed (--model.source-size and --model.target-size)"
    half = (
        "a vocabulary of 500 as the config says; for the other, a vocabulary of 8,000 is assumed (--model.source-size)"
    )
    assert sizes(vocabulary(tmp_path, given=(0, 500))) == ([8000, 500], half)
    both = planned_sizes(vocabulary(tmp_path, given=(0, 500)), *FIELDS, shared=True)
    assert both == (dict.fromkeys(FIELDS, 500), "a vocabulary of 500 as the config says")
    assert planned_sizes(vocabulary(tmp_path), *FIELDS, shared=True)[0] == dict.fromkeys(FIELDS, 8000)
    assert sizes(vocabulary(tmp_path)) == ([8000, 8000], assumed)
    found, origin = sizes(vocabulary(tmp_path, tokenizer="bytes"))
    assert origin == "bytes"
    assert found[0] == found[1] < 300
    loaded = {"a.model": 700, "b.model": 900}
    monkeypatch.setattr(planning, "load_tokenizer", lambda path: SimpleNamespace(vocab_size=loaded[path.name]))
    shared = sizes(vocabulary(tmp_path, vocabulary=Path("there/b.model")))
    assert shared == ([900, 900], "the vocabulary of b.model, 900")
    monkeypatch.setattr(planning, "find_tokenizers", lambda directory: {"y": Path("b.model"), "x": Path("a.model")})
    assert sizes(vocabulary(tmp_path)) == ([700, 900], f"the vocabulary of {tmp_path}, 700")
    assert sizes(vocabulary(tmp_path / "none")) == ([8000, 8000], assumed)
