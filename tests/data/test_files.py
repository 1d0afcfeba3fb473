"""Files, pipes and standard input are read alike, and lines come in blocks."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import re
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lmx.data.files import (
    check_unicode,
    comes_slowly,
    existing_file,
    first_line,
    in_blocks,
    is_gzip,
    is_read_once,
    open_bytes,
    parse_json,
    read_lines,
)
from lmx.data.labelled_files import Fields, read_labelled
from lmx.data.parallel import read_pairs

LINES = ["one", "", "two \u2028 three", "vier"]
BYTES = "\ufeff".encode() + "\r\n".join(LINES).encode()


def piped(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


@pytest.mark.parametrize("data", [BYTES, gzip.compress(BYTES)])
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, monkeypatch, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert list(read_lines(tmp_path / "a.txt")) == LINES
    pipe = piped(data)
    assert list(read_lines(f"/dev/fd/{pipe}")) == LINES
    os.close(pipe)
    with os.fdopen(piped(data)) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(read_lines("-")) == LINES
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(read_lines("-")) == LINES
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input must be open to be read"):
        list(read_lines("-"))


def test_what_can_be_read_once_is_known(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    pipe = piped(b"")
    assert [is_read_once(each) for each in (path, f"/dev/fd/{pipe}", "-", tmp_path / "none")] == [0, 1, 1, 0]
    assert [comes_slowly(each) for each in (path, f"/dev/fd/{pipe}")] == [False, True]
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert not comes_slowly("-")
    with os.fdopen(pipe) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert comes_slowly("-")


def test_the_place_in_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word\n" * 5000)
    told: list[int] = []
    assert len(list(read_lines(path, position=told.append))) == 5000
    assert told == sorted(told)
    assert len(told) > 3
    assert told[-1] <= path.stat().st_size
    path.write_bytes(gzip.compress(b"word\n" * 5000))
    told.clear()
    assert len(list(read_lines(path, position=told.append))) == 5000
    assert 0 < told[-1] <= path.stat().st_size  # of the file, not of what it holds


@pytest.mark.parametrize("waits", [False, True])
def test_blocks_have_their_size_and_all_items(waits: bool) -> None:
    found = list(in_blocks(iter(range(10)), size=4, waits=waits, pause=60.0, most=60.0))
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(in_blocks([], waits=waits)) == []


@pytest.mark.parametrize("waits", [False, True])
def test_items_before_an_error_are_not_lost(waits: bool) -> None:
    def items():
        yield from range(6)
        raise ValueError("line 7")

    blocks = in_blocks(items(), size=3, waits=waits, pause=60.0, most=60.0)
    assert [next(blocks), next(blocks)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="line 7"):
        next(blocks)


def test_nothing_waits_for_what_has_not_been_said() -> None:
    said = threading.Event()

    def items():
        yield 1
        yield 2
        said.wait(30)
        yield 3

    blocks = in_blocks(items(), size=100, waits=True, pause=0.2)
    found = list(itertools.chain(next(blocks)))
    while len(found) < 2:  # on a busy machine the second may come late
        found += next(blocks)
    assert found == [1, 2]
    said.set()
    assert list(blocks) == [[3]]


def test_a_block_ends_though_items_keep_coming() -> None:
    def items():
        while True:
            time.sleep(0.02)
            yield 1

    began = time.monotonic()
    assert len(next(in_blocks(items(), size=10**6, waits=True, pause=30.0, most=0.2))) < 1000
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_dropped_at_the_very_start_and_nowhere_else(tmp_path: Path, monkeypatch, pack) -> None:
    data = pack("\ufeff\ufeffone\n\ufefftwo\nthree\ufeff\n".encode())
    (tmp_path / "a.txt").write_bytes(data)
    expected = ["\ufeffone", "\ufefftwo", "three\ufeff"]
    assert list(read_lines(tmp_path / "a.txt")) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert list(read_lines("-")) == expected


def test_a_byte_that_is_no_text_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\nzwö\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt:2 must be UTF-8, got byte 0xf6 at byte 3 of the line\. Convert"):
        list(read_lines(tmp_path / "a.txt"))
    with pytest.raises(
        ValueError, match=r"a\.txt:1 must be Unicode text, got a lone surrogate, \\ud800, at character 2:"
    ):
        check_unicode("a\ud800", place="a.txt:1")


@pytest.mark.parametrize("data", [b"one\rtwo\rthree", b"one\rtwo\r", b"one\rtwo\r\n"])
def test_line_ends_of_old_macs_are_named(tmp_path: Path, monkeypatch, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt:1 has a carriage return inside \(old Mac line ends\?\)"):
        list(read_lines(tmp_path / "a.txt"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(ValueError, match=r"^standard input:1 has a carriage return inside"):
        list(read_lines("-"))


def test_a_carriage_return_inside_one_line_of_many_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\rand\r\ntwo\nth\rree\r\r\nfour\r")
    assert list(read_lines(tmp_path / "a.txt")) == ["one\rand", "two", "th\rree\r", "four"]
    (tmp_path / "b.txt").write_bytes(b"one\rand\n\xff\n")
    lines = read_lines(tmp_path / "b.txt")
    assert next(lines) == "one\rand"  # though the next is none
    with pytest.raises(ValueError, match=r"b\.txt:2 must be UTF-8"):
        next(lines)


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.tsv", data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.tsv")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


PACKED = [
    (".bz2", bz2.compress, "a bzip2 file", "bunzip2"),
    (".xz", lzma.compress, "an xz file", "unxz"),
    (".lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE), "an LZMA file", "unlzma"),
    (".zip", zipped, "a zip file", "unzip"),
    # The first bytes of these are in their published formats; the standard library writes none.
    (".zst", lambda data: b"\x28\xb5\x2f\xfd\x24\x05" + data, "a Zstandard file", "unzstd"),
    (".lz4", lambda data: b"\x04\x22\x4d\x18" + data, "an LZ4 file", "unlz4"),
    (".7z", lambda data: b"7z\xbc\xaf\x27\x1c" + data, "a 7z file", "7z x"),
    (".tar", tarred, "a tar archive", "tar -xf"),
    (".tar.gz", lambda data: gzip.compress(tarred(data)), "a tar archive", "tar -xf"),
    (".tgz", lambda data: gzip.compress(tarred(data)), "a tar archive", "tar -xf"),
]


@pytest.mark.parametrize(("suffix", "pack", "what", "unpack"), PACKED, ids=[suffix for suffix, *_ in PACKED])
def test_what_is_packed_otherwise_than_by_gzip_is_named_and_how_to_unpack_it(
    tmp_path: Path, monkeypatch, suffix: str, pack: Callable[[bytes], bytes], what: str, unpack: str
) -> None:
    data = pack(b"text\tlabel\na fine day\tgood\n")
    languages = {"source_language": "en", "target_language": "de"}
    for path in (tmp_path / f"a.tsv{suffix}", tmp_path / "a.tsv", tmp_path / "b.txt"):
        path.write_bytes(data)
        said = f"{path} must be plain text or gzip, got {what}. Unpack it first: {unpack} {path}"
        for read in (
            lambda path=path: list(read_lines(path)),
            lambda path=path: list(read_lines(path, encoding="latin-1")),
            lambda path=path: read_labelled(path),
            lambda path=path: read_pairs(path, **languages),
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
                read()
    for side in ("en", "de"):
        (tmp_path / f"train.{side}{suffix}").write_bytes(data)
    with pytest.raises(ValueError, match=rf"train\.en.* must be plain text or gzip, got {what}\."):
        read_pairs(tmp_path / ("train.{}" + suffix), **languages)
    with pytest.raises(ValueError, match=rf"a\.tsv.* must be plain text or gzip, got {what}\."):
        read_labelled(tmp_path / f"a.tsv{suffix}", Fields(form="tsv"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(ValueError, match=rf"^standard input must be plain text or gzip, got {what}\..*: {unpack}$"):
        list(read_lines("-"))


@pytest.mark.parametrize("line", ["BZh9 is a name", "PK", "(\u00b5/\u00fd)", "7z x a.7z", "x" * 257 + "ustar"[:4], "]"])
def test_text_that_begins_like_a_packed_file_is_text(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.zip").write_text(line + "\n", encoding="utf-8")
    assert list(read_lines(tmp_path / "a.zip")) == [line]


def test_blocks_have_4096_items_where_nobody_says_otherwise() -> None:
    assert [len(block) for block in in_blocks(range(2 * 4096 + 3))] == [4096, 4096, 3]


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("train.en", "train.de", "train.fr", "train.cs", "other"):
        (tmp_path / name).touch()
    (tmp_path / "train.e").mkdir()
    assert existing_file(str(tmp_path / "train.en")) == tmp_path / "train.en"
    with pytest.raises(FileNotFoundError, match=r"train\.e must be a file, got a folder\.$"):
        existing_file(tmp_path / "train.e")
    with pytest.raises(FileNotFoundError) as caught:
        existing_file(tmp_path / "train.ee")
    said, _, hint = str(caught.value).partition(" Did you mean ")
    assert said == f"{tmp_path}/train.ee must exist, but {tmp_path} has no such file."
    assert hint.startswith("train.en or ")
    assert hint.count(" or ") == 2
    assert "train.e or" not in hint
    with pytest.raises(FileNotFoundError, match=r"/zzz must exist, but \S+ has no such file\.$"):
        existing_file(tmp_path / "zzz")
    with pytest.raises(FileNotFoundError, match=r"/none/a must exist, but there is no folder \S+/none\.$"):
        existing_file(tmp_path / "none" / "a")


def test_damaged_gzip_is_told_with_the_last_line_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    whole = gzip.compress("".join(f"{number**9}\n" for number in range(9000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    assert (is_gzip(path), is_gzip(Path(__file__))) == (True, False)
    read = []
    with pytest.raises(ValueError, match=r"a\.gz must be a whole gzip file, got damage after line \d,\d+\.$") as caught:
        read.extend(read_lines(path))
    assert f"line {len(read):,}." in str(caught.value) or not read
    with pytest.raises(ValueError, match=r"a\.gz must be a whole gzip file, got damage\.$"), open_bytes(path) as file:
        file.read()
    path.write_bytes(whole)
    with open_bytes(path) as file:
        assert file.read() == gzip.decompress(whole)


def test_an_encoding_is_one_that_python_knows_and_whose_line_ends_are_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("f\u00fcr\n".encode("latin-1"))
    assert list(read_lines(path, encoding="latin-1")) == ["f\u00fcr"]
    with pytest.raises(ValueError, match=r"^encoding must be one that Python knows, got encoding=latin-99\.$"):
        list(read_lines(path, encoding="latin-99"))
    with pytest.raises(ValueError, match=r"^encoding must write a line end as one byte, got encoding=utf-16\. Convert"):
        list(read_lines(path, encoding="utf-16"))
    with pytest.raises(ValueError, match=r"a\.txt:1 must be ASCII, got byte 0xfc at byte 2 of the line\. Ask\.$"):
        list(read_lines(path, encoding="ascii", way_out="Ask."))
    path.write_bytes(b"a\n+2AA-\n")  # half of a character, which UTF-8 cannot spell
    with pytest.raises(ValueError, match=r"a\.txt:2 must be Unicode text, got a lone surrogate, .ud800, at"):
        list(read_lines(path, encoding="utf-7"))


def test_what_is_no_json_is_told_with_its_place() -> None:
    assert parse_json('{"a": [1]}', place="a:1") == {"a": [1]}
    for line, message in (
        ('{"a"; 1}', r"^a:1 must be a JSON record, got \"Expecting ':' delimiter\" at column 5\.$"),
        ("[" * 99_999, r"^a:1 must be a JSON record of few levels, got one that is nested too deep\.$"),
        ("7" * 5000, r"^a:1 must be a JSON record with numbers of at most 4,300 digits, got a longer one\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_json(line, place="a:1")


def test_what_a_library_says_is_one_line_without_its_full_stop() -> None:
    assert first_line(ValueError(" It is bad.\nAnd long.")) == "It is bad"
    assert first_line(KeyError()) == "KeyError"
