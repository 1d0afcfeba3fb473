"""Encoding in processes gives what encoding here does, in order, and shares nothing with the program around it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmx.data.encoding import CHUNK_CHARACTERS, CHUNK_TEXTS, chunks_of, count_cores, encode_chunks
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer

LINES = [f"line {number} of text, 'quoted', tab\there" for number in range(300)] + ["", "é ü 字", "a\nb", "\u2028"]
PIECES = SentencePieceTokenizer.train(LINES, vocab_size=70)
WORDS = PretokenizedTokenizer.from_texts(LINES)


def encoded(number: int, *, few: int = 0, size: int = 7) -> list:
    chunks = [(LINES[begin : begin + size], LINES[begin : begin + size][::-1]) for begin in range(0, len(LINES), size)]
    return list(encode_chunks(chunks, (PIECES, WORDS), num_processes=number, few=few))


def test_the_ids_do_not_depend_on_the_number_of_processes() -> None:
    alone = encoded(1)
    assert [ids.tolist() for ids, _ in alone[0]] == [
        [index for line in LINES[:7] for index in PIECES.encode(line)],
        [index for line in LINES[:7][::-1] for index in WORDS.encode(line)],
    ]
    for number in (2, 3):
        for few in (0, 100):  # from the first chunk on, or after some
            found = encoded(number, few=few)
            assert len(found) == len(alone)
            for ours, theirs in zip(found, alone, strict=True):
                for (ids, lengths), (other_ids, other_lengths) in zip(ours, theirs, strict=True):
                    np.testing.assert_array_equal(ids, other_ids)
                    np.testing.assert_array_equal(lengths, other_lengths)


def test_few_texts_start_no_process(monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert len(list(encode_chunks([(LINES,)] * 3, (ByteTokenizer(),), num_processes=4, few=1000))) == 3
    with pytest.raises(pytest.fail.Exception):
        list(encode_chunks([(LINES,)] * 3, (ByteTokenizer(),), num_processes=4, few=600))


def test_a_process_loads_no_jax_and_no_script() -> None:
    program = "import lmx.data.encoding, sys; print(*({'jax', 'flax', 'datasets', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_script_without_a_main_guard_encodes_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from lmx.data.encoding import encode_chunks\n"
        "from lmx.text import ByteTokenizer\n"
        "chunks = [(['ab', 'c'],)] * 5\n"
        "print(len(list(encode_chunks(chunks, (ByteTokenizer(),), num_processes=2, few=0))))\n"
    )
    (tmp_path / "random.py").write_text("raise SystemExit('the folder of the script was imported from')\n")
    script.rename(tmp_path / "elsewhere.py")
    command = [sys.executable, "-P", str(tmp_path / "elsewhere.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr


class _Refuses(ByteTokenizer):
    def encode(self, text: str) -> list[int]:
        if text == "c":
            raise ValueError("this text is refused")
        return super().encode(text)


def test_what_a_tokenizer_raises_is_raised_here(monkeypatch) -> None:
    words = PretokenizedTokenizer(["a"])
    monkeypatch.setattr(words, "save", lambda path: path.with_suffix(".vocab").touch() or path)  # nothing to load
    chunks = [(["a"],)] * 4
    with pytest.raises(ChildProcessError, match="a process that encodes text must go on to its end"):
        list(encode_chunks(chunks, (words,), num_processes=2, few=0))
    with pytest.raises(ValueError, match="this text is refused"):
        list(encode_chunks([(["a"],), (["c"],)], (_Refuses(),), num_processes=1))
    with pytest.raises(UnicodeEncodeError):  # a lone surrogate, which no process can write either
        list(encode_chunks([(["a"],)] * 3 + [(["\ud800"],)], (ByteTokenizer(),), num_processes=2, few=0))


def test_chunks_are_bounded_by_texts_and_by_characters() -> None:
    sizes = [len(chunk[0]) for chunk in chunks_of((text, text) for text in ["ab"] * (2 * CHUNK_TEXTS + 3))]
    assert sizes == [CHUNK_TEXTS, CHUNK_TEXTS, 3]
    long = "x" * (CHUNK_CHARACTERS // 3)
    assert [len(chunk[0]) for chunk in chunks_of((text,) for text in [long] * 7)] == [4, 3]
    assert list(chunks_of([])) == []


def test_what_is_read_ahead_is_bounded() -> None:
    read = 0

    def chunks():
        nonlocal read
        for _ in range(100):
            read += 1
            yield (["a"],)

    stream = encode_chunks(chunks(), (ByteTokenizer(),), num_processes=2, few=0)
    for _ in range(10):
        next(stream)
    assert read < 20
    stream.close()


def test_cores_are_those_this_process_may_use(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert count_cores() == 3
