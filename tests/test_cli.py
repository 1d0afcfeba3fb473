"""Commands that label texts from a run directory, in this process; that translation works is `test_experiments`'s."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import tyro
from flax import nnx

from lmx import __version__, cli, translate_command
from lmx.classifier import Classifier
from lmx.cli import main
from lmx.data.image_files import ImageReading
from lmx.data.labels import Labels
from lmx.image_classifier import ImageClassifier
from lmx.models.encoder import ClassifierConfig, EncoderClassifier
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.parameters import load_params, save_params
from lmx.predictor import Prediction
from lmx.saved import save_tokenizer
from lmx.text import PretokenizedTokenizer
from lmx.translator import Translation, Translator

TOKENIZER = PretokenizedTokenizer(["red", "green", "blue", "cat", "dog"])
CONFIG = ClassifierConfig(
    vocab_size=TOKENIZER.vocab_size,
    width=16,
    feedforward_width=12,
    num_heads=2,
    num_layers=1,
    max_length=8,
    num_outputs=3,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The files of a run of two seeds that has ended."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    (directory / "seeds").mkdir(parents=True)
    config = {"max_length": 8, "stride": None, "kind": "single"}
    facts = {"family": "classifier", "config": config, "model": dataclasses.asdict(CONFIG)}
    (directory / "config.json").write_text(json.dumps(facts))
    (directory / "labels.json").write_text(Labels(kind="single", names=("a", "b", "c")).to_json())
    save_tokenizer(directory, TOKENIZER)
    for seed, name in enumerate(("model", "seeds/1", "seeds/2")):
        params = nnx.to_pure_dict(nnx.state(EncoderClassifier(CONFIG, rngs=nnx.Rngs(max(seed, 1))), nnx.Param))
        params["output"]["weight"] = params["output"]["weight"] * 5
        save_params(directory / f"{name}.safetensors", jax.tree.map(jnp.asarray, params))
    return directory


TEXTS = ["red cat", "", "blue dog dog", "green"]


def test_each_line_gets_a_line_in_order(run, lmx):
    expected = Classifier.load(run).classify(TEXTS)
    lines, said = lmx("classify", run, given="\r\n".join(TEXTS).encode() + b"\n")
    assert lines == [one.label for one in expected]
    assert "4 texts in " in said
    assert "1 without a word labelled as an empty text" in said
    lines, _ = lmx("classify", run, "--with-probabilities", given="\n".join(TEXTS).encode())
    assert lines == [f"{one.label}\t{one.probability:.6f}" for one in expected]
    assert lmx("classify", run)[0] == []


def test_an_ensemble_is_another_system(run, lmx):
    expected = Classifier.load(run, ensemble=True).classify(TEXTS)
    given = "\n".join(TEXTS).encode()
    lines, _ = lmx("classify", run, "--ensemble", "--with-probabilities", given=given)
    assert lines == [f"{one.label}\t{one.probability:.6f}" for one in expected]
    assert lines != lmx("classify", run, "--with-probabilities", given=given)[0]


def test_explanations_name_words(run, lmx):
    text = "red cat dog blue green dog"
    (line,), _ = lmx("classify", run, "--explain", given=f"{text}\n".encode())
    label, words = line.split("\t")
    record = Classifier.load(run).explain(text)
    assert label == record["prediction"]
    ranked = sorted(record["words"], key=lambda word: -abs(word[1]))[:5]
    assert words == ", ".join(f"{word} ({value:+.3f})" for word, value in ranked)


def test_files_and_tables_are_read(run, lmx, tmp_path):
    expected = [one.label for one in Classifier.load(run).classify(TEXTS)]
    lines = tmp_path / "lines.txt.gz"
    lines.write_bytes(gzip.compress("\n".join(TEXTS).encode() + b"\n"))
    output = tmp_path / "labels.txt"
    printed, said = lmx("classify", run, "--input", lines, "--output", output)
    assert printed == []
    assert "4 texts in " in said
    assert output.read_text() == "".join(f"{label}\n" for label in expected)
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({"title": text, "label": "z"}) + "\n" for text in TEXTS))
    assert lmx("classify", run, "--input", table, "--text-column", "title")[0] == expected
    pairs = [("red", "cat"), ("dog", "blue")]
    (tmp_path / "pairs.tsv").write_text("first\tsecond\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    printed, _ = lmx("classify", run, "--input", tmp_path / "pairs.tsv", "--text-columns", "first", "second")
    assert printed == [one.label for one in Classifier.load(run).classify(pairs)]


def test_tables_are_read_as_they_are_said_to_be(run, lmx, tmp_path, capsys):
    expected = [one.label for one in Classifier.load(run).classify(TEXTS)]
    path = tmp_path / "table.csv"
    path.write_bytes("".join(f"{text};'x\xe4\n" for text in TEXTS).encode("latin-1"))
    flags = ["--columns", "text", "note", "--delimiter", ";", "--quoting", "False", "--encoding", "latin-1"]
    assert lmx("classify", run, "--input", path, *flags)[0] == expected
    for arguments, message in (
        (["--field-limit", "7", *flags], "table.csv:3 must have fields of at most 7 characters"),
        (["--encoding", "latin-1"], "Is the delimiter ';'? Say --delimiter ';'."),
    ):
        with pytest.raises(SystemExit) as stop:
            lmx("classify", run, "--input", path, *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "joiner"),
    [
        ({}, " "),
        ({"reading": {"joiner": " cat "}, "test_reading": {"joiner": "same"}}, " cat "),
        ({"reading": {"joiner": " cat "}, "test_reading": {"joiner": " ", "encoding": "same"}}, " "),
        ({"reading": {"joiner": ""}, "test_reading": {"joiner": " dog ", "encoding": "same"}}, " dog "),
        ({"reading": {"joiner": " cat "}, "test_reading": {"joiner": " ", "encoding": "utf-8"}}, " cat "),  # earlier
    ],
)
def test_columns_are_joined_as_in_the_run(run, lmx, tmp_path, config, joiner, monkeypatch):
    copied = shutil.copytree(run, tmp_path / "run")
    saved = json.loads((copied / "config.json").read_text())
    saved["config"] |= config
    (copied / "config.json").write_text(json.dumps(saved))
    (tmp_path / "new.csv").write_text("one,two\nred,blue\ngreen,\n")
    asked = []
    monkeypatch.setattr(Classifier, "classify", lambda self, texts, **_: asked.extend(texts) or [Said(), Said()])
    lmx("classify", copied, "--input", tmp_path / "new.csv", "--text-column", "one+two")
    assert asked == [f"red{joiner}blue", f"green{joiner}"]


class Said:
    """A prediction."""

    outputs = (0.2, 0.7, 0.1)


def test_long_texts_are_counted(run, lmx):
    lines, said = lmx("classify", run, given=b"red " * 9 + b"\ncat\n")
    assert len(lines) == 2
    assert "1 cut to 8 tokens" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text-columns", "title"], "text_columns must be given with a table, an input that ends in .csv, .tsv or"),
        (["--field-limit", "9"], "field_limit must be given with a table, an input that ends in .csv, .tsv or .jsonl"),
        (["--input", "nowhere.txt"], "nowhere.txt must exist"),
        (["--output", "no/folder.txt"], "No such file or directory: 'no/folder.txt'"),
    ],
)
def test_mistakes_are_one_line(run, lmx, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        lmx("classify", run, *arguments, given=b"red\n")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_run_of_another_family_is_refused_in_one_line(run, lmx, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"family": "seq2seq", "config": {}, "model": {}}')
    for command, directory, purpose in (("classify", tmp_path, "classifies"), ("translate", run, "translates")):
        with pytest.raises(SystemExit) as stop:
            lmx(command, directory, given=b"red\n")
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert f"{directory} must hold a model that {purpose}, got family=" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["classify", "translate"])
def test_the_run_of_all_folds_names_one(command, lmx, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"family": "folds", "config": {}}')
    with pytest.raises(SystemExit):
        lmx(command, tmp_path, given=b"red\n")
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path} must be one run, got that of all folds. Say {tmp_path / 'fold-1'}.\n"


# Translations, block by block.


@pytest.fixture(scope="module")
def translating(tmp_path_factory) -> Path:
    """The files of a translation run that has ended."""
    directory = tmp_path_factory.mktemp("translating")
    size = TOKENIZER.vocab_size
    config = Seq2SeqConfig(
        source_vocab_size=size,
        target_vocab_size=size,
        width=16,
        feedforward_width=12,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_length=8,
    )
    saved = {"max_length": 8, "search": {"beam_size": 1, "max_extra": 2}}
    facts = {"family": "seq2seq", "config": saved, "model": dataclasses.asdict(config)}
    (directory / "config.json").write_text(json.dumps(facts))
    save_tokenizer(directory, TOKENIZER)
    params = nnx.to_pure_dict(nnx.state(Seq2Seq(config, rngs=nnx.Rngs(1)), nnx.Param))
    save_params(directory / "model.safetensors", jax.tree.map(jnp.asarray, params))
    return directory


@pytest.fixture
def blocks(monkeypatch) -> list[int]:
    """Makes blocks of three lines, notes how many are translated at once, and turns them round instead."""
    sizes: list[int] = []

    def translate(self, lines, *, prefixes, progress):
        assert prefixes is None
        sizes.append(len(lines))
        progress(len(lines))
        return [Translation(line[::-1], (), 0.0) for line in lines]

    monkeypatch.setattr("lmx.data.files.BLOCK", 3)
    monkeypatch.setattr(Translator, "translate", translate)
    return sizes


MANY = ["red cat", "", "blue", "dog", "green cat dog", "cat", "red", "dog dog"]


def test_a_file_is_translated_block_by_block(translating, lmx, blocks, tmp_path, monkeypatch):
    expected = [line[::-1] for line in MANY]
    first, written = [], translate_command.written
    monkeypatch.setattr(
        translate_command, "written", lambda *given, **more: first.append(more["first"]) or written(*given, **more)
    )
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in MANY))
    lines, said = lmx("translate", translating, "--input", tmp_path / "in.txt")
    assert lines == expected
    assert blocks == [3, 3, 2]
    assert first == [1, 4, 7]
    assert said.startswith("8 lines in ")
    given = "".join(f"{line}\r\n" for line in MANY).encode()
    for location in ([], ["--input", "-"]):
        assert lmx("translate", translating, *location, given=given)[0] == expected
    assert lmx("translate", translating)[0] == []


def test_a_line_is_written_for_each_whatever_is_in_it(translating, lmx, blocks):
    lines, said = lmx("translate", translating, given="red\u2028cat\ndog\x85\x0b\n\rblue\n".encode())
    assert "\n".join(lines).splitlines() == ["tac der", "  god", "eulb "]
    assert said.startswith("3 lines in ")


def test_what_is_translated_before_a_failure_stays_written(translating, lmx, blocks, tmp_path, monkeypatch, capsys):
    expected = [line[::-1] for line in MANY]
    output = tmp_path / "out.txt"
    output.write_text("kept\n")
    with pytest.raises(SystemExit):
        lmx("translate", translating, "--output", output, given=b"red\xff\n")
    assert output.read_text() == "kept\n"  # nothing is known yet
    given = "".join(f"{line}\n" for line in MANY).encode() + b"bad \xff\n"
    with pytest.raises(SystemExit) as stop:
        lmx("translate", translating, "--output", output, given=given)
    assert stop.value.code == 2
    assert "standard input:9 must be UTF-8, got byte 0xff at byte 5 of the line" in capsys.readouterr().err
    assert output.read_text() == "".join(f"{line}\n" for line in expected[:6])

    turned = Translator.translate

    def killed(self, lines, **settings):
        if blocks:
            raise KeyboardInterrupt
        return turned(self, lines, **settings)

    monkeypatch.setattr(Translator, "translate", killed)
    blocks.clear()
    with pytest.raises(SystemExit):
        lmx("translate", translating, "--output", output, given=given)
    assert output.read_text() == "".join(f"{line}\n" for line in expected[:3])


def test_a_pipe_sees_lines_as_they_come(translating, blocks, tmp_path, monkeypatch):
    expected = [line[::-1] for line in MANY]
    output = tmp_path / "out.txt"
    reading, writing = os.pipe()
    seen = []

    def talk() -> None:
        with os.fdopen(writing, "w") as pipe:
            for number, line in enumerate(MANY[:3], start=1):
                pipe.write(f"{line}\n")
                pipe.flush()
                for _ in range(1200):
                    if output.exists() and output.read_text().count("\n") == number:
                        break
                    time.sleep(0.05)
                seen.append(output.read_text())

    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setattr(sys, "argv", ["lmx", "translate", str(translating), "--output", str(output)])
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        talking = threading.Thread(target=talk)
        talking.start()
        main()
        talking.join()
    # Each line was there before the next one was said.
    assert seen == ["".join(f"{line}\n" for line in expected[:number]) for number in (1, 2, 3)]


def test_the_memory_of_decoding_is_a_flag(translating, lmx, blocks, monkeypatch):
    asked = []
    real = Translator.load
    monkeypatch.setattr(
        Translator, "load", lambda run, *, search, **_: asked.append(search) or real(run, search=search)
    )
    lmx("translate", translating, "--batch-tokens", "64", given=b"red\n")
    assert asked[0].batch_tokens == 64
    assert asked[0].beam_size == 1  # as the run was scored


def test_the_output_is_another_file_than_the_input(translating, run, lmx, capsys, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("red\n")
    for command, directory in (("translate", translating), ("classify", run)):
        with pytest.raises(SystemExit):
            lmx(command, directory, "--input", path, "--output", path)
        assert "output must be another file than the input" in capsys.readouterr().err
    assert path.read_text() == "red\n"


def test_texts_are_classified_block_by_block(run, lmx, tmp_path, monkeypatch):
    expected = [one.label for one in Classifier.load(run).classify(MANY)]
    monkeypatch.setattr("lmx.data.files.BLOCK", 3)
    sizes = []
    real = Classifier.classify
    monkeypatch.setattr(Classifier, "classify", lambda self, texts, **s: sizes.append(len(texts)) or real(self, texts))
    given = "".join(f"{line}\n" for line in MANY).encode()
    lines, said = lmx("classify", run, given=given)
    assert lines == expected
    assert "8 texts in " in said
    assert "1 without a word" in said
    (tmp_path / "table.csv").write_text("text\n" + "".join(f'"{line}"\n' for line in MANY))
    assert lmx("classify", run, "--input", tmp_path / "table.csv")[0] == expected
    assert sizes == [3, 3, 2] * 2


@pytest.fixture
def substituted():
    """Makes a pipe of some text, by the path that a shell gives it."""
    opened = []

    def make(text: str) -> str:
        reading, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)
        opened.append(reading)
        return f"/dev/fd/{reading}"

    yield make
    for reading in opened:
        os.close(reading)


def test_pipes_and_standard_input_are_files(run, translating, lmx, blocks, substituted):
    expected = [one.label for one in Classifier.load(run).classify(TEXTS)]
    text = "".join(f"{line}\n" for line in TEXTS)
    assert lmx("classify", run, "--input", substituted(text))[0] == expected
    assert lmx("classify", run, "--input", "-", given=text.encode())[0] == expected
    assert lmx("translate", translating, "--input", substituted(text))[0] == [line[::-1] for line in TEXTS]
    lines = "the cat sat on the mat\na dog\n"
    scores, _ = lmx("score", substituted(lines), substituted(lines))
    assert scores[0].startswith("BLEU = 100.00") or "100.00" in scores[0]
    assert lmx("score", "-", substituted(lines), given=lines.encode())[0] == scores


def test_text_without_spaces_is_split_as_it_is_asked(lmx, tmp_path, capsys):
    path = tmp_path / "zh.txt"
    path.write_text("一只猫找到这个树，真的。\n一只狗看见这个房子。\n", encoding="utf-8")
    lines, said = lmx("score", path, path)
    assert "|tok:13a|" in lines[0]
    assert " = 0.00 " in lines[0]
    assert said.startswith("warning: the references have almost no spaces, where 13a splits words")
    assert said.count("\n") == 1
    for scheme in ("zh", "char"):
        lines, said = lmx("score", path, path, "--tokenize", scheme, "--baseline", path)
        assert f"|tok:{scheme}|" in lines[0]
        assert " = 100.00 " in lines[0]
        assert f"|tok:{scheme}|" in lines[2]
        assert "100.00 -> 100.00" in lines[2]
        assert said == ""
    with pytest.raises(SystemExit):
        lmx("score", path, path, "--tokenize", "zhh")
    assert "tokenize must be one of 13a, char," in capsys.readouterr().err


def test_two_systems_are_scored_as_the_flags_say(lmx, tmp_path):
    texts = {
        "ours": "A CAT sat on the mat\n",
        "theirs": "a dog sat on the mat\n",
        "reference": "a cat sat on the mat\n",
    }
    ours, theirs, reference = (tmp_path / name for name in texts)
    for name, text in texts.items():
        (tmp_path / name).write_text(text * 3)
    lines, _ = lmx("score", ours, reference, "--baseline", theirs, "--lowercase")
    assert ["case:lc" in line for line in lines] == [True] * 4
    assert " = 100.00 " in lines[0]
    assert re.search(r": \d\d\.\d\d -> 100\.00 \(\+", lines[2])  # from the baseline
    lines, _ = lmx("score", theirs, reference, "--baseline", ours, "--tokenized")
    assert [line.split("|")[0] for line in lines] == ["tokenised BLEU"] * 2
    assert all("case:mixed" in line for line in lines)


# Two runs beside each other.


def write_tested(directory: Path, predictions: str, *, references: str = "abcab", kind: str = "single") -> Path:
    directory.mkdir()
    (directory / "labels.json").write_text(Labels(kind=kind, names=("a", "b", "c")).to_json())
    lines = [f"{index}\t{name}\t0.9\n" for index, name in enumerate(predictions)]
    (directory / "predictions.tsv").write_text("index\tprediction\tprobability\n" + "".join(lines))
    lines = [f"{index}\t{name}\n" for index, name in enumerate(references)]
    (directory / "references.tsv").write_text("index\tlabel\n" + "".join(lines))
    return directory


def test_two_runs_are_compared_text_by_text(lmx, tmp_path):
    first, second = write_tested(tmp_path / "first", "abccc"), write_tested(tmp_path / "second", "abcab")
    lines, _ = lmx("compare", first, second)
    assert lines[0].startswith("accuracy: 0.6000 -> 1.0000 (+0.4000, p = 0.5000, exact McNemar")
    assert any(line.startswith("macro F1: ") and "paired bootstrap" in line for line in lines)


@pytest.mark.parametrize(
    ("references", "message"),
    [("abcaa", "must have the same test set"), ("abca", "must have the same test set")],
)
def test_runs_of_other_test_sets_are_not_compared(lmx, tmp_path, capsys, references, message):
    first = write_tested(tmp_path / "first", "abcab")
    second = write_tested(tmp_path / "second", references, references=references)
    with pytest.raises(SystemExit) as ended:
        lmx("compare", first, second)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_that_was_not_tested_is_named(lmx, tmp_path, capsys):
    first = write_tested(tmp_path / "first", "abcab")
    with pytest.raises(SystemExit):
        lmx("compare", first, tmp_path)
    assert "it has no labels.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "compare"])
def test_scores_that_nobody_could_see_are_not_made(command, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a line\n")
    given = {"score": (tmp_path / "a.txt", tmp_path / "a.txt"), "compare": (tmp_path / "run", tmp_path / "other")}
    options = tyro.cli(cli.COMMANDS[command], args=list(map(str, given[command])))
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after `>&-`
    with pytest.raises(ValueError, match=r"^standard output must be open, got a closed one"):
        getattr(cli, command)(options)


@pytest.mark.parametrize("command", ["translate", "classify"])
@pytest.mark.parametrize(
    ("stream", "flags", "flag"),
    [
        ("stdin", [], "--input"),
        ("stdin", ["--input", "-"], "--input"),
        ("stdout", [], "--output"),
        ("stdout", ["--input", "a.txt"], "--output"),
    ],
)
def test_a_closed_stream_is_told_before_a_model_is_loaded(command, stream, flags, flag, monkeypatch, capsys):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setattr(sys, "argv", ["lmx", command, "no-such-run", *flags])
    monkeypatch.setattr(sys, stream, None)  # as Python has it after `<&-` and `>&-`
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    name = {"stdin": "standard input", "stdout": "standard output"}[stream]
    assert capsys.readouterr().err == f"error: {name} must be open, got a closed one. Name a file with {flag}.\n"


@pytest.mark.parametrize(
    ("command", "way_out"),
    [
        (["generate", "no-such-run", "--prompt-file", "-"], "Name a file with --prompt-file, or give --prompt."),
        (["fill", "no-such-run"], "Give texts with --text."),
        (["embed", "no-such-run"], "Name a file with --input."),
    ],
)
def test_what_a_closed_stream_is_replaced_by_is_the_commands_own(command, way_out, monkeypatch, capsys):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setattr(sys, "argv", ["lmx", *command])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == f"error: standard input must be open, got a closed one. {way_out}\n"


@pytest.mark.parametrize("command", ["translate", "classify"])
def test_a_closed_stream_that_is_not_used_does_not_matter(command, monkeypatch, capsys):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setattr(sys, "argv", ["lmx", command, "no-such-run", "--input", "a.txt", "--output", "b.txt"])
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit):
        main()
    assert "no-such-run must be a run directory" in capsys.readouterr().err


# What would be ignored.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("embed r --text a --input b.txt", "text and input must not be given together, got input=b.txt."),
        ("convert model r --hosts 2", "hosts must come with a plan, got hosts=2. Say --plan."),
        ("convert model r --devices 4", "devices must come with a plan, got devices=4. Say --plan."),
        ("data show r --seconds 3", "seconds must be left out with show, got seconds=3.0."),
        ("data time r --batch 3", "batch must be left out with time, got batch=3."),
        ("data time r --rows 3", "rows must be left out with time, got rows=3."),
        ("data time r --seconds 0", "seconds must be over 0 and finite, got seconds=0."),
        ("data time r --seconds inf", "seconds must be over 0 and finite, got seconds=inf."),
        ("data show r --rows 0", "batch must be at least 0 and rows at least 1, got batch=0 and rows=0."),
        ("data show r --batch -1", "batch must be at least 0 and rows at least 1, got batch=-1 and rows=4."),
        ("score - -", "hypotheses and references must be different files, got standard input for both."),
        ("score a - --baseline -", "references and baseline must be different files, got standard input for both."),
        ("translate r --score-targets t --beam-size 4", "beam_size must be left out where given targets are scored, "),
        ("translate r --score-targets t --top-p 0.5", "top_p must be left out where given targets are scored, got "),
        ("translate r --score-targets t --with-scores", "with_scores must be left out where given targets are scored"),
        ("translate r --score-targets t --n-best 2", "n_best must be left out where given targets are scored, got n"),
        ("translate r --score-targets t --prefix p", "prefix must be left out where given targets are scored, got p"),
        ("translate r --prefix -", "prefix must be another file than the input, got standard input for both."),
        ("translate r --score-targets - --input -", "score_targets must be another file than the input, got standard"),
        ("transalte", "command must be one of translate, classify, generate, fill, perplexity, score, compare, ave"),
        ("transalte", ", got transalte. Nearest: translate."),
    ],
)
def test_what_would_not_be_read_is_refused_before_the_work(arguments, message, lmx, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        lmx(*arguments.split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_numbers_have_no_probability_that_could_be_written(run, lmx, capsys, monkeypatch):
    labels = Labels(kind="regression")
    monkeypatch.setattr(Classifier, "load", lambda run, *, ensemble: SimpleNamespace(labels=labels))
    with pytest.raises(SystemExit):
        lmx("classify", run, "--with-probabilities", given=b"red\n")
    assert "with_probabilities must be left out for a run of real numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "standard output must be open, got a closed one. Name a file with --output."),
        (["--output", "labels.txt"], "must hold a trained model"),
    ],
)
def test_images_are_labelled_into_a_file_where_standard_output_is_closed(flags, message, monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"family": "vision", "config": {}}')
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setattr(sys, "argv", ["lmx", "classify", str(tmp_path), "--input", "images.npz", *flags])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_images_get_a_line_each(lmx, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"family": "vision", "config": {}, "model": {}, "pixel_max": 255}')
    asked = []
    said = [Prediction("a\tb", 0.75, (0.75, 0.25)), Prediction("c", 0.625, (0.375, 0.625))]
    fake = SimpleNamespace(classify=lambda images: said[: len(images)])
    monkeypatch.setattr(ImageClassifier, "load", lambda run, *, ensemble: asked.append(ensemble) or fake)
    monkeypatch.setattr(ImageReading, "read", lambda self, location, **given: asked.append(given) or [0, 1])
    lines, told = lmx("classify", tmp_path, "--input", "images.npz", "--with-probabilities")
    assert lines == ["a\\tb\t0.750000", "c\t0.625000"]
    assert told == "2 images\n"
    assert lmx("classify", tmp_path, "--input", "images.npz", "--ensemble")[0] == ["a\\tb", "c"]
    reading = {"split": "test", "labelled": False, "found": 255.0}
    assert asked == [False, reading, True, reading]


def test_the_command_alone_lists_its_commands(lmx, capsys):
    for arguments, status in (((), 2), (("-h",), 0), (("--help",), 0)):
        with pytest.raises(SystemExit) as stop:
            lmx(*arguments)
        assert stop.value.code == status
        listed = capsys.readouterr().out.splitlines()
        assert listed[0] == "usage: lmx COMMAND [options]"
        assert [line.split()[0] for line in listed[2 : 2 + len(cli.COMMANDS)]] == list(cli.COMMANDS)
    assert lmx("--version")[0] == [f"lmx {__version__}"]


# Averages.


def write_run(directory: Path, *, rows: int = 3, **changes) -> Path:
    """Writes what `lmx average` looks at of a run."""
    directory.mkdir(parents=True)
    facts = {"family": "classifier", "model": {"width": 16, "vocab_size": rows}}
    facts["made_of"] = {"tokenizer": "b1", "training data": "c2", "labels": ["neg", "pos"]}
    for name, value in changes.items():
        part = facts["made_of"] if name in ("tokenizer", "labels", "source tokenizer", "training data") else facts
        part[name] = value
    (directory / "config.json").write_text(json.dumps(facts))
    save_params(directory / "model.safetensors", {"table": jnp.full((rows, 2), float(len(directory.name)))})
    return directory


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["neg", "positive"]}, "another labels"),
        ({"labels": ["pos", "neg"]}, "another labels"),
        ({"tokenizer": "b2"}, "another tokenizer"),
        ({"family": "seq2seq"}, "another family"),
        ({"rows": 4}, "another model in {} than in {}: vocab_size=4 and 3."),
        (
            {"model": {"width": 16, "vocab_size": 3, "num_layers": 2}},
            "another model in {} than in {}: num_layers=2 and",
        ),
    ],
)
def test_only_runs_of_one_model_are_averaged(changes, said, lmx, tmp_path, capsys):
    rows = changes.pop("rows", 3)
    model = {"model": {"width": 16, "vocab_size": rows}} | changes
    first, other = write_run(tmp_path / "a"), write_run(tmp_path / "bb", rows=rows, **model)
    with pytest.raises(SystemExit) as stop:
        lmx("average", str(first), str(other), "--output", str(tmp_path / "mean.safetensors"))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: runs must be of one model to be averaged, got ")
    assert said.format(other, first) in error
    assert f"in {other} than in {first}" in error
    assert not list(tmp_path.glob("mean*"))


def test_translators_of_other_words_are_not_averaged_and_those_of_other_data_are(lmx, tmp_path, capsys):
    runs = [
        write_run(tmp_path / name, **{"source tokenizer": words, "training data": data})
        for name, words, data in (("a", "s1", "d1"), ("bb", "s1", "d2"), ("ccc", "s2", "d1"))
    ]
    lmx("average", *map(str, runs[:2]), "--output", str(tmp_path / "mean.safetensors"))
    assert float(load_params(tmp_path / "mean.safetensors")["table"][0, 0]) == 1.5
    with pytest.raises(SystemExit):
        lmx("average", *map(str, runs), "--output", str(tmp_path / "other.safetensors"))
    assert f"got another source tokenizer in {runs[2]} than in {runs[0]}." in capsys.readouterr().err
    assert not (tmp_path / "other.safetensors").exists()


def test_an_average_replaces_no_file(lmx, tmp_path, capsys, monkeypatch):
    runs = [write_run(tmp_path / name) for name in ("a", "bb")]
    monkeypatch.chdir(runs[0])
    with pytest.raises(SystemExit):
        lmx("average", str(runs[0]), str(runs[1]))
    error = "error: model.safetensors must be new, got one that exists. Say another --output.\n"
    assert capsys.readouterr().err == error
    assert float(load_params(runs[0] / "model.safetensors")["table"][0, 0]) == 1


def test_files_of_other_shapes_are_not_averaged(lmx, tmp_path, capsys):
    paths = [write_run(tmp_path / name, rows=rows) / "model.safetensors" for name, rows in (("a", 3), ("bb", 4))]
    with pytest.raises(SystemExit):
        lmx("average", *map(str, paths), "--output", str(tmp_path / "mean.safetensors"))
    assert f"{paths[1]} must hold the arrays of {paths[0]}, got table: (4, 2) in the file, (3, 2) in the first." in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.glob("mean*"))


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["score", "--help"], ["score", "same.txt", "same.txt"], ["report", "absent"]],
)
def test_what_computes_nothing_loads_no_jax(arguments, tmp_path):
    """It would be half of the time that `lmx score` takes."""
    (tmp_path / "same.txt").write_text("a line of four words\n" * 3)
    program = "import sys\nfrom lmx.cli import main\ntry:\n    main()\nfinally:\n    assert 'jax' not in sys.modules"
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "AssertionError" not in done.stderr, done.stderr
    assert done.returncode == (2 if "absent" in arguments else 0)


def test_the_package_is_the_command_too():
    done = subprocess.run([sys.executable, "-m", "lmx", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"lmx {__version__}\n"
