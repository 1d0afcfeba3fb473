"""What the fields of an experiment decide, by their own arithmetic: batches, warm-up, selection, scoring, judging."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lmx.config import (
    BatchConfig,
    Published,
    RowsConfig,
    RunConfig,
    SelectionConfig,
    config_as_json,
    inline_fields,
)
from lmx.data.batches import SeedBatches, TokenBatches
from lmx.data.fitting import Sizes
from lmx.data.labelled import Examples
from lmx.data.labels import Labels
from lmx.data.parallel import EncodedPairs, Pairs
from lmx.data.shards import TokenCorpus
from lmx.data.windows import Windows
from lmx.errors import InputError
from lmx.evaluation import language
from lmx.evaluation.classification import Exam, ExamConfig, examine_classifier, label_new, write_results
from lmx.evaluation.language import NAMES, SampleWriter, readable_pieces
from lmx.evaluation.tables import print_record
from lmx.evaluation.translation import ScoringConfig, _exact_by_construction, validation_bleu
from lmx.fitting import fit_sizes, fit_warmup, training_kernel
from lmx.learner import Learner, Placed, mean_loss
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.objective import ObjectiveConfig
from lmx.optimization import OptimizerConfig
from lmx.run import Run
from lmx.sampling import Sampling
from lmx.scoring.records import Record, Row
from lmx.scoring.tested import Tested as Outcome  # pytest would take its own name for a class of tests
from lmx.sharding.layout import ONE_DEVICE, Layout
from lmx.sharding.mesh import make_mesh
from lmx.sharding.rules import DEFAULT_RULES
from lmx.streams import Share, Written, check_written, shown_share
from lmx.text import ByteTokenizer
from lmx.training import TrainState
from lmx.translator import Translation, Translator


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "run", {"config": {}})


# Batches.


def rows_of(*lengths: int) -> EncodedPairs:
    """Returns pairs of these lengths; the words of the first are 10, of the second 11 and so on."""
    words = np.concatenate([np.full(length, 10 + row, np.int32) for row, length in enumerate(lengths)])
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    rows = np.arange(len(lengths), dtype=np.int64)
    return EncodedPairs(
        source=words, source_offsets=offsets, target=words, target_offsets=offsets, indices=rows,
        pad_id=0, bos_id=1, origin="test",
    )  # fmt: skip


def test_a_validation_that_is_longer_than_all_of_training_has_a_shape_of_its_own():
    config = BatchConfig(tokens_per_batch=24, rows_multiple=2, length_multiple=4)
    found = [batch["source"] for batch in config.once(rows_of(3, 8, 13, 4, 5), ONE_DEVICE, buckets=(4, 8))]
    lengths = {int(row[0]) - 10: row.size for batch in found for row in batch if row[0]}
    assert lengths == {0: 4, 1: 8, 2: 16, 3: 4, 4: 8}  # up to a multiple of 4
    assert sum(int((batch[:, 0] > 0).sum()) for batch in found) == 5
    # A budget of 24 tokens takes no two rows of 16, which the least batch has.
    assert all(len(batch) % 2 == 0 for batch in found)
    assert {batch["source"].shape[1] for batch in config.once(rows_of(8, 8), ONE_DEVICE, buckets=(4, 8))} == {8}


def test_rows_of_a_validation_fill_the_parts_of_a_mesh_and_a_host_gets_its_own(monkeypatch):
    config = BatchConfig(tokens_per_batch=24, rows_multiple=2)
    monkeypatch.setattr(Layout, "row_shards", 5)
    monkeypatch.setattr(Layout, "rows_of_host", lambda self, rows: slice(0, rows // 5))
    (found,) = [batch["source"] for batch in config.once(rows_of(8, 8), ONE_DEVICE, buckets=(4, 8))]
    assert found.shape == (1, 8)


def test_batches_are_made_by_every_size_of_a_config():
    config = BatchConfig(tokens_per_batch=48, accumulation=2, num_buckets=2, rows_multiple=3, length_multiple=4)
    assert config.sizes == Sizes(tokens_per_batch=48, accumulation=2, num_buckets=2)
    rows = rows_of(*[1, 2, 3, 5, 6, 7, 9, 10, 11] * 6)
    one = config.batches(rows, seeds=[7])
    assert isinstance(one, TokenBatches)
    assert len(one.buckets) == 2
    assert all(length % 4 == 0 for length in one.buckets)
    assert all(each[0] == 2 and each[1] % 3 == 0 and each[1] * each[2] <= 48 for each in one.shapes)
    for seeds, stacked in (([7, 8], False), ([7], True)):
        several = config.batches(rows, seeds=seeds, stacked=stacked)
        assert isinstance(several, SeedBatches)
        assert several.shapes == one.shapes
        assert len(several.batch(0)["source"]) == len(seeds)
    other = replace(config, num_buckets=1).batches(rows, seeds=[7])
    assert other.buckets == (12,)
    again, another = (config.batches(rows, seeds=[seed]) for seed in (7, 8))
    assert [again.indices(k).tolist() for k in range(4)] == [one.indices(k).tolist() for k in range(4)]
    assert [another.indices(k).tolist() for k in range(4)] != [one.indices(k).tolist() for k in range(4)]


def test_what_is_usual_of_batches_and_of_a_run():
    """A run that has begun is compared with it, so that it goes on only as long as it stays."""
    assert vars(BatchConfig()) == {
        "tokens_per_batch": 4096, "tokens_per_device": None, "accumulation": 1, "gradient_sum": "float32",
        "rows_multiple": 8, "length_multiple": 1, "num_buckets": 8,
    }  # fmt: skip
    rows = {"context": 256, "packing": "stream", "stride": None}
    of_tokens = {"tokens_per_batch", "tokens_per_device", "accumulation", "gradient_sum"}
    assert vars(RowsConfig()) == rows | {name: vars(BatchConfig())[name] for name in of_tokens}
    assert vars(SelectionConfig()) == {"validate_every": 0, "patience": None, "average": 1, "average_of": "last"}
    run = vars(RunConfig())
    assert {name: run[name] for name in ("compile_cache", "text_cache", "deterministic", "log_every", "profile")} == {
        "compile_cache": "user", "text_cache": "user", "deterministic": False, "log_every": 50, "profile": None,
    }  # fmt: skip
    assert (run["save_every"], run["keep_every"], run["hosts"].heartbeat_seconds) == (None, None, 20)
    objective = vars(ObjectiveConfig())
    assert objective == {
        "objective": "causal", "from_start": False, "mask_share": 0.15, "whole_words": False, "noise_density": 0.15,
        "mean_span": 3.0, "sentinels": 100,
    }  # fmt: skip


def test_the_shape_of_a_plan_is_that_of_a_batch():
    config = BatchConfig(tokens_per_batch=100, rows_multiple=8, accumulation=3)
    assert [config.shape(length) for length in (4, 6, 12, 13)] == [(3, 24, 4), (3, 16, 6), (3, 8, 12), (3, 8, 13)]


def test_epochs_without_an_update_are_an_error():
    config = BatchConfig(rows_multiple=4)
    few = config.batches(rows_of(1, 1, 1), seeds=[1])
    with pytest.raises(
        InputError, match=r"^epochs must be enough for an update, got epochs=1 of 3 rows, .*_multiple=4"
    ):
        config.updates_of(few, epochs=1)
    some = replace(config, tokens_per_batch=4).batches(rows_of(*[1] * 8), seeds=[1])
    assert [config.updates_of(some, epochs=epochs) for epochs in (1, 2, 5)] == [2, 4, 10]


# Selection and the run.


@pytest.mark.parametrize(
    ("average", "of", "keeps"), [(1, "best", True), (1, "last", False), (3, "best", False), (2, "last", False)]
)
def test_the_best_is_kept_beside_the_newest_where_it_alone_is_wanted(average, of, keeps):
    assert SelectionConfig(average=average, average_of=of).keeps_best == keeps


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (SelectionConfig(patience=0), r"^patience must be at least 1, .*got patience=0\.$"),
        (SelectionConfig(average=0), r"^average must be at least 1, got average=0\.$"),
        (RunConfig(log_every=0), r"^log_every must be at least 1, got log_every=0\.$"),
        (RunConfig(save_every=0), r"^save_every must be at least 1, .*got save_every=0\.$"),
        (SelectionConfig(validate_every=-1), r"^validate_every must be at least 0 .*, got validate_every=-1\.$"),
        (RunConfig(keep_every=0), r"^keep_every must be at least 1, .*, got keep_every=0\.$"),
        (RunConfig(profile="3:3"), r"^profile must be FROM:TO, .*got profile='3:3'\.$"),
        (RunConfig(profile="3"), r"^profile must be FROM:TO"),
    ],
)
def test_numbers_of_steps_begin_at_one(record, message):
    with pytest.raises(ValueError, match=message):
        record.check()
    SelectionConfig(patience=1, average=1).check()
    RunConfig(log_every=1, save_every=1, keep_every=1, profile="0:1").check()
    assert RunConfig(profile="10:12").steps_to_profile() == (10, 12)


def test_inline_records_have_no_prefix_and_hosts_no_part():
    from experiments import translation

    config = translation.PRESETS["phrasebook"][1]
    assert {"scoring", "pieces", "published", "batch", "selection", "run"} <= set(inline_fields(config))
    assert not {"model", "search", "optimization", "seed"} & set(inline_fields(config))
    saved = config_as_json(config)
    assert {"tokens_per_batch", "validate_every", "mesh", "log_every", "published"} <= saved.keys()
    assert not {"hosts", "batch", "selection", "run_config"} & saved.keys()
    assert saved["run"] == "runs/phrasebook"
    assert saved["published"] is None


# The warm-up and the kernel.


@dataclass(frozen=True)
class Options:
    """The part of an experiment's config that has a warm-up."""

    optimization: OptimizerConfig


@pytest.mark.parametrize(
    ("warmup", "updates", "fitted"),
    [(30, 31, 30), (30, 30, 3), (30, 25, 2), (30, 19, 1), (30, 9, 1), (30, 2, 1), (30, 0, 30)],
)
def test_a_warmup_as_long_as_the_training_takes_a_tenth_of_it(warmup, updates, fitted, run, capsys):
    usual = Options(optimization=OptimizerConfig(schedule="linear", warmup=warmup))
    assert fit_warmup(run, usual, usual, updates=updates).optimization.warmup == fitted
    assert ("and not --optimization.warmup 30" in capsys.readouterr().out) == (fitted != warmup)
    # A schedule without an end has room.
    endless = Options(optimization=OptimizerConfig(schedule="inverse-sqrt", warmup=warmup))
    assert fit_warmup(run, endless, endless, updates=updates) == endless


def test_a_size_that_the_data_has_is_taken_and_another_is_refused():
    config = Seq2SeqConfig(source_vocab_size=0, target_vocab_size=7, tied_embeddings="target")
    assert fit_sizes(config, source_vocab_size=5, target_vocab_size=7) == replace(config, source_vocab_size=5)
    with pytest.raises(InputError, match=r"target_vocab_size must be the data's 8 or 0 .*got target_vocab_size=7\.$"):
        fit_sizes(config, target_vocab_size=8)


def test_seeds_on_one_device_keep_the_kernel_and_holes_take_it_everywhere():
    config = Seq2SeqConfig(source_vocab_size=5, target_vocab_size=5, kernel="auto")
    one = make_mesh(RunConfig().mesh, devices=jax.devices()[:1])
    assert training_kernel(config, one, stacked=True) == (config, None)
    found, reason = training_kernel(config, one, stacked=False, holes="words are dropped")
    assert (found.kernel, reason) == ("xla", "words are dropped")
    with pytest.raises(InputError, match=r"^model\.kernel must be auto or xla, got kernel=cudnn: words are dropped\.$"):
        training_kernel(replace(config, kernel="cudnn"), one, stacked=False, holes="words are dropped")
    biased = replace(config, kernel="cudnn", positions="t5")
    with pytest.raises(InputError, match=r"got kernel=cudnn: each seed has a bias of its own\.$"):
        training_kernel(biased, one, stacked=True)
    assert training_kernel(biased, one, stacked=False) == (biased, None)


# Means and what is judged.


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_mean_over_batches_counts_each_by_its_weight(seeds):
    mesh = make_mesh(RunConfig().mesh, devices=jax.devices()[:1])
    shape = () if seeds is None else (seeds,)
    blank = Placed(*[None] * len(Placed._fields))
    placed = blank._replace(
        mesh=mesh,
        rules=DEFAULT_RULES,
        learner=Learner(None, None, None, None, num_seeds=seeds),
        evaluate=lambda params, batch: {
            "loss": params * np.asarray(batch["x"]).sum() * np.ones(shape),
            "weight": np.asarray(float(batch["x"].size)) * np.ones(shape),
        },
    )
    found = mean_loss(placed, 2.0, [{"x": np.array([1.0])}, {"x": np.array([4.0, 5.0, 6.0])}])
    np.testing.assert_allclose(found["loss"], 8.0 * np.ones(shape))
    assert found.keys() == {"loss"}
    assert isinstance(found["loss"], float) == (seeds is None)


def test_the_devices_are_at_the_next_batch_while_a_loss_is_fetched():
    began = []

    class Loss:
        def __init__(self, number: int):
            self.number = number

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            assert len(began) in (self.number + 2, 4)  # the next one, of four, has begun
            return np.asarray(float(self.number))

    def evaluate(params: Any, batch: Any) -> dict[str, Any]:
        began.append(int(batch["x"][0]))
        return {"loss": Loss(began[-1]), "weight": np.asarray(1.0)}

    mesh = make_mesh(RunConfig().mesh, devices=jax.devices()[:1])
    blank = Placed(*[None] * len(Placed._fields))
    placed = blank._replace(
        mesh=mesh, rules=DEFAULT_RULES, learner=Learner(None, None, None, None, num_seeds=None), evaluate=evaluate
    )
    assert mean_loss(placed, None, ({"x": np.array([number])} for number in range(4))) == {"loss": 1.5}


def test_what_is_judged_falls():
    line = {"loss": np.array([2.0, 1.0]), "accuracy": np.array([30.0, 60.0])}
    assert ExamConfig(select="loss").judge(line).tolist() == [2.0, 1.0]
    assert ExamConfig(select="score").judge(line).tolist() == [-30.0, -60.0]


@pytest.mark.parametrize(("every", "found"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6])])
def test_every_so_many_validations_translate(every, found):
    scoring = ScoringConfig(bleu_every=every)
    assert [number for number in range(1, 8) if scoring.translates(validation=number)] == found


def test_a_validation_translates_the_first_sentences_alone():
    class Fake(Translator):
        members = None
        asked: tuple[str, ...] = ()

        def __init__(self):
            pass

        def alone(self) -> list:
            return [self]

        def translate(self, lines: list[str]) -> list[Translation]:
            Fake.asked = tuple(lines)
            return [Translation(line.upper(), (), 0.0) for line in lines]

    pairs = Pairs(sources=list("abcdefg"), targets=["A", "B", "C", "x", "y", "z", "u"], origin="o")
    scoring = ScoringConfig(bleu_sentences=3)
    found = validation_bleu(Fake(), pairs, scoring, language="de")
    assert Fake.asked == ("a", "b", "c")
    assert found == scoring.main_score([Translation(x, (), 0.0) for x in "ABC"], list("ABC"), language="de").score


def test_what_is_exact_is_counted_by_construction():
    from lmx.data.embedded import CONSTRUCTIONS

    first, second, *others = CONSTRUCTIONS
    shown = [first, first, second, first, *others]
    targets = [f"reference {number}" for number in range(len(shown))]
    pairs = Pairs(sources=targets, targets=targets, origin="o")
    found = _exact_by_construction([targets[0], "x", *targets[2:]], pairs, shown)
    assert found[first] == {"exact": pytest.approx(2 / 3), "count": 3}
    assert found[second] == {"exact": 1.0, "count": 1}


def test_a_table_ends_with_the_main_score_and_tells_what_was_published(run, capsys):
    rows = [
        Row(name="t BLEU", score=30.0, interval=(29.0, 31.5), made="m", signature="s", published=41.02),
        Row(name="t chrF", score=50.0, interval=None, made="m", signature="s"),
    ]
    print_record(run, Record(test="t", rows=tuple(rows)), title="x", baselines_are="y")
    printed = capsys.readouterr().out
    assert "29.00 to 31.50" in printed
    assert printed.count("41.02") == printed.count("published") == 1
    assert printed.splitlines()[-1] == "t BLEU = 30.00"
    print_record(run, Record(test="t", rows=tuple(rows)), title="x", baselines_are="y", digits=3)
    printed = capsys.readouterr().out
    assert "29.000 to 31.500" in printed
    assert "41.020" in printed
    assert printed.splitlines()[-1] == "t BLEU = 30.000"


def test_new_texts_are_labelled_by_the_mean_of_all_seeds(run, capsys):
    run.directory.mkdir()
    outputs = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.3, 0.7], [0.3, 0.7]]])

    class Fake:
        labels = Labels(kind="single", names=("no", "yes"))

        def outputs(self, encoded: Any, *, progress: Callable[[int], None]) -> np.ndarray:
            return outputs

        def explain(self, example: Any) -> dict[str, Any]:
            raise NotImplementedError

    label_new(run, Fake(), SimpleNamespace(unit="text"), about="two")
    lines = [line.split("\t") for line in (run.directory / "labelled.tsv").read_text().splitlines()]
    assert [line[:2] for line in lines[1:]] == [["0", "no"], ["1", "yes"]]
    assert float(lines[1][2]) == pytest.approx(0.6)
    assert "texts labelled in" in capsys.readouterr().out


def of_two_seeds() -> Outcome:
    """The first seed has one text of three right, the second all; by their mean two are right."""
    outputs = np.array([[[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]]], np.float32)
    texts = Examples(texts=["a", "b", "c"], labels=["no", "yes", "yes"], origin="o", lines=np.arange(1, 4))
    labels = Labels(kind="single", names=("no", "yes"))
    return Outcome(texts, labels, np.array([0, 1, 1], np.int32), outputs, None)


def test_predictions_and_mistakes_are_those_of_the_mean_of_all_seeds(run):
    run.directory.mkdir()
    write_results(run, Record(test="t", rows=()), of_two_seeds())
    lines = [line.split("\t") for line in (run.directory / "predictions.tsv").read_text().splitlines()]
    assert [line[1] for line in lines[1:]] == ["no", "no", "yes"]
    assert [float(line[2]) for line in lines[1:]] == pytest.approx([0.85, 0.6, 0.65])
    (mistake,) = map(json.loads, (run.directory / "mistakes.jsonl").read_text().splitlines())
    assert (mistake["index"], mistake["probability"]) == (1, pytest.approx(0.6))


@pytest.mark.parametrize(("select", "best"), [("loss", [0.75, 0.5]), ("score", [-0.75, -0.5])])
def test_what_chose_a_step_is_told_by_its_name_and_as_it_was_measured(select, best, run):
    run.directory.mkdir()
    tested = of_two_seeds()
    run.memory.judge(7, np.array(best), patience=None)

    class Fake:
        labels = tested.labels

        def outputs(self, encoded: Any, *, progress: Callable[[int], None]) -> np.ndarray:
            return tested.outputs

        def explain(self, example: Any) -> dict[str, Any]:
            raise NotImplementedError

    how = ExamConfig(select=select, baseline=False, explain=0)
    encoded = SimpleNamespace(num_texts=3, num_truncated=0)
    exam = Exam("t", tested.examples, encoded, tested.examples, how, Published(), None)
    examine_classifier(run, Fake(), exam, seeds=(3, 5))
    saved = json.loads((run.directory / "scores.json").read_text())
    assert [seed["dev"] for seed in saved["seeds"]] == [0.75, 0.5]
    assert [seed["kept"] for seed in saved["seeds"]] == ([False, True] if select == "loss" else [True, False])
    assert {row["made"].split("; ")[1] for row in saved["rows"]} == {f"best step by development {select}"}


@pytest.mark.parametrize("best", [[0.5, 0.2, 0.9], [-0.5, -0.2, -0.9]])
def test_of_several_seeds_the_one_with_the_lowest_validation_is_the_model(best, run):
    run.directory.mkdir()
    run.memory.judge(7, np.array(best), patience=None)
    run.save_model({"x": jax.numpy.arange(3.0)[:, None]}, seeds=(4, 5, 11))
    assert load_file(run.directory / "model.safetensors")["x"].tolist() == [float(np.argmin(best))]
    found = {path.stem: load_file(path)["x"].tolist() for path in (run.directory / "seeds").iterdir()}
    assert found == {"4": [0.0], "5": [1.0], "11": [2.0]}


def test_texts_of_a_step_that_is_made_again_take_the_place_of_the_old(run):
    run.directory.mkdir()
    blank = Placed(*[None] * len(Placed._fields))
    placed = blank._replace(learner=Learner(None, None, None, None, num_seeds=None))
    tokenizer = ByteTokenizer()
    writer = SampleWriter(run, placed, prompts=["a"], sampling=Sampling(), tokenizer=tokenizer)

    class Fake:
        def with_params(self, params: Any) -> "Fake":
            self.made = params["made"]
            return self

        def without_params(self) -> "Fake":
            return self

        def generate(self, prompts: list[str]) -> list[Any]:
            return [SimpleNamespace(prompt=prompt, text=str(self.made)) for prompt in prompts]

    writer._generator = Fake()
    # What some take for a line end is a character of a text like others.
    for step, made in ((3, "fir\u2028st\x85"), (6, "lost"), (6, "again"), (9, "last")):
        state = TrainState(*[None] * len(TrainState._fields))._replace(step=step)
        writer.write({"made": made}, state=state)
    lines = [json.loads(line) for line in (run.directory / "written.jsonl").read_text().split("\n")[:-1]]
    assert [(line["step"], line["text"]) for line in lines] == [(3, "fir\u2028st\x85"), (6, "again"), (9, "last")]
    writer._placed = placed._replace(learner=Learner(None, None, None, None, num_seeds=2))
    writer.write({"made": np.array([7, 8])}, state=state._replace(step=12))
    assert json.loads((run.directory / "written.jsonl").read_text().split("\n")[-2])["text"] == "7"  # the first seed's


def test_the_surprise_of_tokens_is_that_of_the_seed_with_the_lowest_validation(run, monkeypatch):
    run.directory.mkdir()
    run.memory.judge(7, np.array([0.5, 0.2, 0.9]), patience=None)
    seen = []
    monkeypatch.setattr(language, "measure", lambda *_, **__: (np.array([1.0, 2.0, 3.0]), {}))
    monkeypatch.setattr(language, "surprise", lambda placed, params, *_: seen.append(float(params["x"])) or [])
    blank = Placed(*[None] * len(Placed._fields))
    placed = blank._replace(learner=Learner(None, None, None, None, num_seeds=3))
    windows = Windows.__new__(Windows)
    corpus = TokenCorpus.__new__(TokenCorpus)
    for name, value in {"num_tokens": 6, "num_words": 3, "num_bytes": 20, "origin": "o"}.items():
        monkeypatch.setattr(TokenCorpus, name, value, raising=False)
    windows.corpus, windows.length, windows.stride = corpus, 9, None
    exam = language.Exam("t", windows, "loss", True, "m", Published())
    record = language.examine_language_model(
        run, placed, {"x": np.arange(3.0)}, exam, seeds=(4, 5, 11), tokenizer=ByteTokenizer()
    )
    assert seen == [1.0]
    assert [row.name for row in record.rows] == [f"t {name}" for name in NAMES.values()]
    assert record.rows[0].made == "mean of 3 seeds, standard deviation 1.0000; m"
    assert record.others == {"text": "o", "tokens": 6, "stride": None}
    assert [(seed.seed, seed.kept) for seed in record.seeds] == [(4, False), (5, True), (11, False)]
    assert [seed.test for seed in record.seeds] == [1.0, 2.0, 3.0]


def test_ids_behind_the_vocabulary_are_told_by_their_number():
    tokenizer = ByteTokenizer()
    last = tokenizer.vocab_size - 1
    assert readable_pieces(tokenizer, [4 + 97, last, last + 1]) == ["a", tokenizer.pieces([last])[0], f"<{last + 1}>"]


def test_scoring_that_nothing_would_come_of_is_refused_before_any_file_is_read():
    for fields, message in (
        ({"bleu_every": -1}, r"^bleu_every must be at least 0, got bleu_every=-1\.$"),
        ({"bleu_sentences": 0}, r"^bleu_sentences must be at least 1, got bleu_sentences=0\.$"),
        ({"raw_reference": "raw.de"}, r"^raw_reference must be None for plain text, .* got raw\.de\. Say --raw-refe"),
    ):
        with pytest.raises(InputError, match=message):
            ScoringConfig(**fields).check_sets(folds=None)
    ScoringConfig(tokenized=True, raw_reference="raw.de", bleu_every=0, bleu_sentences=1).check_sets(folds=None)


# How far a file is.


def test_the_share_of_a_file_is_shown_and_not_that_of_a_pipe(tmp_path, monkeypatch):
    shown: list[Any] = []

    @contextlib.contextmanager
    def bar(text: str, *, total: int, console: Any) -> Any:
        shown.append((text, total))
        yield shown.append

    monkeypatch.setattr("lmx.streams.progress_bar", bar)
    path = tmp_path / "lines.txt"
    path.write_bytes(b"12345678")
    for file in (path, None, Path("-")):
        with path.open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            with shown_share("reading", file) as share:
                share.position(2)
                share.within(1)(1)
        assert (shown.pop(0), shown.pop(0), shown) == (("reading, percent", 100), 25, [])
    reading, writing = os.pipe()
    os.close(writing)
    for file in (Path(f"/dev/fd/{reading}"), tmp_path / "absent", tmp_path):
        with shown_share("reading", file) as share:
            share.within(1)(1)
    os.close(reading)
    assert shown == []


def test_what_is_written_is_no_file_that_is_read(tmp_path):
    path, link = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("kept\n")
    link.symlink_to(path)
    with pytest.raises(ValueError, match=rf"^output must be another file than the input, got {link} for both\.$"):
        check_written(link, input=path)
    for output, source in ((path, None), (tmp_path / "new.txt", path), (path, tmp_path / "absent")):
        check_written(output, input=source)
    assert path.read_text() == "kept\n"
    with Written(path, input=None):
        assert path.read_text() == "kept\n"
    assert path.read_text() == ""  # of nothing, an empty file


def test_lines_take_the_place_of_an_older_file_when_the_first_are_known(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old\n")
    with Written(path, input=None) as out:
        assert path.read_text() == "old\n"
        out.write(["a", "b"])
        out.write(["c"])
    assert path.read_text() == "a\nb\nc\n"


def test_the_share_of_a_file_is_that_of_its_bytes_block_by_block():
    shown: list[int] = []
    share = Share(shown.append, 400)
    share.position(100)
    within = share.within(4)
    share.position(150)  # reading goes ahead
    for done in (1, 2, 4):
        within(done)
    within = share.within(5)
    for done in (2, 5):
        within(done)
    share.position(400)
    share.within(1)(1)
    assert shown == [6, 12, 25, 30, 37, 100]
