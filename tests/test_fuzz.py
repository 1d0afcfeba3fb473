"""Arbitrary files: what is read is right, or refused in one line that names the file. Nothing hangs, nothing is lost.

`make test` tries a few dozen files of each kind, `make slow` hundreds (`LMX_FUZZ` names another number).
"""

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lmx import cli
from lmx.data.files import read_lines
from lmx.data.labelled_files import Fields, read_labelled
from lmx.data.labels import Labels
from lmx.data.parallel import read_pairs
from lmx.errors import is_users
from lmx.lines import one_line
from lmx.models.seq2seq import Seq2SeqConfig
from lmx.saved import read_config, read_fields
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer, load_tokenizer

FEW, MANY = 40, int(os.environ.get("LMX_FUZZ", "600"))


def cases(number: int) -> Callable:
    """Tries so many, the same ones each time."""
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
# What means something to a reader, beside all that does not.
SIGNS = st.sampled_from(
    ["\t", ",", ";", '"', "'", "\n", "\r", "\r\n", "\ufeff", "\u2028", "\x00", "text", "label", "en", "de"]
)
FILES = st.one_of(
    st.binary(max_size=120),
    st.lists(st.one_of(TEXT, SIGNS), max_size=20).map(lambda parts: "".join(parts).encode()),
    st.lists(
        st.dictionaries(st.sampled_from(["text", "label", "en", "de"]), st.one_of(TEXT, st.none(), st.integers()))
    ).map(lambda records: "\n".join(json.dumps(record) for record in records).encode()),
)


def refuses_in_a_line(read: Callable, path: Path):
    """Returns what is read, or None where the file is refused as a user's mistake, which its message names."""
    try:
        return read()
    except Exception as error:
        if not is_users(error) or path.name.split(".")[0] not in str(error):
            raise
        return None


def tables(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    found = refuses_in_a_line(lambda: read_labelled(path, Fields(label_column=None)), path)
    if found is not None:
        assert len(found.texts) > 0
        for text in found.texts:  # what is handed on can be written and encoded
            "".join(text).encode()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt"])
@cases(FEW)
@given(content=FILES)
@example(content=b"")
@example(content=b'text,label\n"never closed,x\n')
@example(content=b'{"text": "\\ud800", "label": "x"}')
@example(content=("[" * 5000).encode())
def test_a_table_is_read_or_refused(tmp_path, suffix, content):
    tables(tmp_path / f"table{suffix}", content)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt"])
@cases(MANY)
@given(content=FILES)
def test_many_tables_are_read_or_refused(tmp_path, suffix, content):
    tables(tmp_path / f"table{suffix}", content)


def pairs(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read = lambda: read_pairs(path, source_language="en", target_language="de", keep_empty=True)  # noqa: E731
    found = refuses_in_a_line(read, path)
    if found is not None:
        assert len(found.sources) == len(found.targets)
        assert not any("\n" in line for line in (*found.sources, *found.targets) if path.suffix != ".jsonl")


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
@cases(FEW)
@given(content=FILES)
@example(content=b"one\ttwo\rthree\tfour\r")
def test_pairs_are_read_or_refused(tmp_path, suffix, content):
    pairs(tmp_path / f"pairs{suffix}", content)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
@cases(MANY)
@given(content=FILES)
def test_many_pairs_are_read_or_refused(tmp_path, suffix, content):
    pairs(tmp_path / f"pairs{suffix}", content)


@cases(FEW)
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"), max_size=30), min_size=1))
def test_no_line_of_a_file_is_lost(tmp_path, lines):
    path = tmp_path / "lines.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert list(read_lines(path)) == lines


@cases(FEW)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_bytes_go_there_and_back_and_come_out_in_one_line(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(one_line(text)) == one_line(text)


@cases(FEW)
@given(
    words=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1), min_size=1, max_size=9
    )
)
def test_words_go_there_and_back(words):
    # A word that ends with the mark of byte-pair encoding belongs to the next.
    words = [word for word in words if not word.endswith("@@") and word not in ("<pad>", "<s>", "</s>", "<unk>")]
    if words:
        tokenizer = PretokenizedTokenizer.from_texts([" ".join(words)])
        assert tokenizer.decode(tokenizer.encode(" ".join(words))) == " ".join(words)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that are read back."""
    folder = tmp_path_factory.mktemp("saved")
    model = dataclasses.asdict(Seq2SeqConfig(source_vocab_size=40, target_vocab_size=40))
    config = {"family": "seq2seq", "model": model, "config": {"max_length": 20, "search": {}}}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "labels.json").write_text(Labels(kind="single", names=("no", "yes")).to_json())
    texts = ["the cat sat on the mat", "a dog ran over the hill", "birds sing in the morning"] * 4
    SentencePieceTokenizer.train(texts, vocab_size=40).save(folder / "tokenizer.model")
    PretokenizedTokenizer.from_texts(texts).save(folder / "words.vocab")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: read_fields(
        Seq2SeqConfig,
        read_config(path.parent, family="seq2seq", purpose="translates")["model"],
        path=path,
        field="model",
    ),
    "labels.json": Labels.from_file,
    "tokenizer.model": load_tokenizer,
    "words.vocab": load_tokenizer,
}


@st.composite
def damage(draw: Callable) -> Callable[[bytes], bytes]:
    """Draws a way to damage bytes: a range is cut out, changed, or all behind it is gone."""
    begin, size = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    kind, put = draw(st.sampled_from(["cut", "change", "end"])), draw(st.binary(min_size=1, max_size=40))

    def apply(content: bytes) -> bytes:
        first = int(begin * len(content))
        if kind == "end":
            return content[:first]
        return content[:first] + (put[:size] if kind == "change" else b"") + content[first + size :]

    return apply


@pytest.mark.parametrize("name", READERS)
@cases(FEW)
@given(way=damage())
def test_a_damaged_file_of_a_run_is_read_or_refused(tmp_path, saved, name, way):
    path = tmp_path / name
    path.write_bytes(way(saved[name]))
    refuses_in_a_line(lambda: READERS[name](path), tmp_path if name == "config.json" else path)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@cases(MANY)
@given(way=damage())
def test_many_damaged_files_of_a_run_are_read_or_refused(tmp_path, saved, name, way):
    path = tmp_path / name
    path.write_bytes(way(saved[name]))
    refuses_in_a_line(lambda: READERS[name](path), tmp_path if name == "config.json" else path)


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Runs lmx in this process; returns its status and what it said of errors."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["lmx", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
        return code, err.getvalue()
    finally:
        sys.argv = before
    return 0, err.getvalue()


@cases(FEW // 2)
@given(hypotheses=FILES, references=FILES)
@example(hypotheses=b"", references=b"")
def test_scoring_arbitrary_files_scores_or_refuses(tmp_path, hypotheses, references):
    (tmp_path / "hypotheses.txt").write_bytes(hypotheses)
    (tmp_path / "references.txt").write_bytes(references)
    code, said = run_command(["score", str(tmp_path / "hypotheses.txt"), str(tmp_path / "references.txt")])
    assert code in (0, 2), said
    assert code == 0 or (said.startswith("error: ") and said.count("\n") == 1), said


# What a command is given behind the folder, where it asks for more; OUT is a path that is free.
MORE = {
    "average": ["--output", "OUT"],
    "convert": ["OUT"],
    "embed": ["--text", "a text", "--output", "OUT"],
    "export": ["OUT", "--to", "huggingface"],
    "perplexity": [__file__],
}


OF_FOLDERS = (
    *("translate", "classify", "generate", "fill", "embed", "report", "average", "compare", "convert", "export"),
    *("data show", "data time", "perplexity"),
)


def test_every_command_is_tried():
    assert {command.split()[0] for command in OF_FOLDERS} | {"score"} == set(cli.COMMANDS)


@pytest.mark.parametrize("command", OF_FOLDERS)
@cases(FEW // 4)
@given(content=FILES)
def test_a_folder_that_is_no_run_is_refused_by_every_command(tmp_path, command, content):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "labels.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    folders = [str(tmp_path)] * (2 if command == "compare" else 1)
    more = [str(tmp_path / "new") if word == "OUT" else word for word in MORE.get(command, [])]
    code, said = run_command([*command.split(), *folders, *more])
    if command == "report" and code == 0:  # a page shows what is there, for which any object is enough
        assert isinstance(json.loads(content), dict)
        return
    assert code == 2, said
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "new").exists()
