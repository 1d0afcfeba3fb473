"""A decoder alone and an encoder-decoder, compared: the same pairs, vocabulary and scores for both."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmx import trainings
from lmx.errors import InputError
from lmx.text import ByteTokenizer

HERE = Path(__file__).parents[1] / "experiments"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_of_comparison", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


comparison = load("comparison")


def test_both_trainings_see_the_same_pairs_and_as_many_tokens(tmp_path, monkeypatch):
    asked = {}

    def run(command, **_):
        script = load(Path(command[1]).stem)
        asked[script.__doc__[:8]] = config = script.command_line(command[2:])[1]
        config.run.run.mkdir(parents=True)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(trainings.subprocess, "run", run)
    monkeypatch.setattr(comparison, "phrasebook", lambda split: [SimpleNamespace(source=split, target="so")] * 3)
    config = comparison.Config(run=tmp_path / "of a name", updates=40, max_tokens=24, layers=1, decoder_layers=3)
    files = comparison.files_of(config)
    comparison.train_both(config, files)
    decoder, pair = asked.values()
    assert decoder.texts.train == f"lines:{pair.sets.train}"
    assert decoder.texts.test == f"lines:{pair.sets.test}"
    assert decoder.objective.objective == "pairs"
    assert decoder.updates == pair.updates == 40
    # A batch of the encoder-decoder has so many tokens on each side.
    assert decoder.batch.tokens_per_batch == 2 * pair.batch.tokens_per_batch == config.tokens
    assert decoder.batch.context == 2 * pair.max_length == 48
    assert pair.pieces.vocabulary == decoder.run.run / "tokenizer.model"
    assert decoder.optimization.peak == pair.optimization.peak
    assert decoder.optimization.schedule == pair.optimization.schedule == "cosine"
    for each in (decoder, pair):
        assert (each.seed, each.selection.validate_every, each.optimization.clip_norm) == (1, 10, 1.0)
        assert (each.model.width, each.model.feedforward_width, each.model.num_heads) == (128, 512, 4)
    assert (decoder.model.num_layers, decoder.model.unroll, decoder.metric) == (3, 3, "loss")
    assert (pair.model.num_encoder_layers, pair.model.num_decoder_layers, pair.model.unroll) == (1, 1, 1)
    assert (decoder.pieces.vocab_size, pair.search.beam_size) == (2000, 1)
    assert decoder.texts.validation == f"lines:{pair.sets.validation}"
    assert files["train"].read_text(encoding="utf-8").splitlines() == ["train\tso"] * 3


def test_a_training_that_fails_ends_the_comparison_with_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 7}))
    with pytest.raises(SystemExit) as ended:
        comparison.train("pretraining.py", tmp_path / "run", "stdlib-gpt", [])
    assert ended.value.code == 7


def test_sources_longer_than_both_models_read_are_cut():
    texts = ["", "abc", "abcd", "abcdefgh"]
    assert comparison.cut(texts, ByteTokenizer(), most=5) == ["", "abc", "abcd", "abcd"]


def test_sets_are_given_all_or_not_at_all(tmp_path):
    with pytest.raises(InputError, match="train, validation and test must be given together, got train alone"):
        comparison.Config(train=tmp_path / "train.tsv").check()


@pytest.mark.slow
def test_a_decoder_alone_and_an_encoder_decoder_are_scored_on_the_same_sentences(tmp_path, capsys):
    lines = [f"the {noun} {verb}\tder {noun} {verb}" for noun in ("ox", "fox", "cat", "dog") for verb in ("is", "was")]
    files = {}
    for name, part in {"train": lines * 8, "validation": lines * 2, "test": lines[2:]}.items():
        files[name] = tmp_path / f"{name}.tsv"
        files[name].write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    comparison.main(
        comparison.Config(
            run=tmp_path / "run",
            **files,
            vocab_size=290,
            width=16,
            layers=1,
            decoder_layers=1,
            updates=2,
            tokens=256,
            max_tokens=16,
        )
    )
    told = json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    assert set(told) == {"decoder alone", "encoder-decoder"}
    assert all(system["parameters"] > 0 and 0 <= system["BLEU"] <= 100 for system in told.values())
    printed = capsys.readouterr().out
    assert "the decoder alone against the encoder-decoder:" in printed
    for name in ("decoder-alone.txt", "encoder-decoder.txt"):
        assert len((tmp_path / "run" / name).read_text(encoding="utf-8").splitlines()) == 6
