"""A corpus is tokenised once, whatever it is read from; what cannot be read is told with its place."""

import contextlib
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lmx.data import corpus as found_at
from lmx.data import encoding
from lmx.data import keeper as module
from lmx.data.cache import MANIFEST, Cache, NotKept
from lmx.data.corpus import encode_corpus, find_corpus
from lmx.data.documents import cut, place_of, read_part, whole_file
from lmx.data.hub import read_hub
from lmx.data.shards import TokenCorpus
from lmx.data.text_sets import TextSetsConfig
from lmx.text import ByteTokenizer, PretokenizedTokenizer

BYTES = ByteTokenizer()
TEXTS = ["The first.\nOf two lines.\n", "Zweite — mit ä", "third"]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, lines: list[str]) -> Cache:
    return Cache(tmp_path / "cache", report=lines.append)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three texts, an empty file and a hidden one."""
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    for name, text in zip(("a.txt", "b/c.txt", "d.txt"), TEXTS, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "b" / "empty.txt").touch()
    (folder / ".hidden").write_bytes(b"\xff")
    return folder


def documents(corpus: TokenCorpus) -> list[str]:
    ids = [corpus.document(number) for number in range(corpus.num_documents)]
    assert all(one[-1] == BYTES.eos_id for one in ids[:-1])
    return [BYTES.decode(one) for one in ids]


def encoded(location: str | Path, cache: Cache, **options) -> TokenCorpus:
    return encode_corpus(find_corpus(str(location)), BYTES, cache=cache, **options)


def write_form(form: str, folder: Path) -> str:
    """Writes the texts in some form, and returns their location."""
    if form == "lines":
        (folder / "lines").write_text("".join(f"{text}\r\n" for text in LINES), encoding="utf-8")
        return f"lines:{folder / 'lines'}"
    if form in ("jsonl", "jsonl.gz"):
        content = "".join(json.dumps({"text": text, "id": 3}) + "\n\n" for text in TEXTS).encode()
        path = folder / f"texts.{form}"
        path.write_bytes(gzip.compress(content) if form.endswith("gz") else content)
        return str(path)
    table = pyarrow.table({"text": TEXTS, "id": [1, 2, 3]})
    if form == "parquet":
        pyarrow.parquet.write_table(table, folder / "texts.parquet", row_group_size=2)
        return str(folder / "texts.parquet")
    (folder / "hub").mkdir()
    pyarrow.parquet.write_table(table, folder / "hub" / "train.parquet")
    return f"hub:{folder / 'hub'}:train"


LINES = ["Zweite — mit ä", "", "third"]


@pytest.mark.parametrize("form", ["lines", "jsonl", "jsonl.gz", "parquet", "hub"])
def test_documents_come_from_every_form(form: str, tmp_path: Path, cache: Cache):
    location = write_form(form, tmp_path)
    corpus = encoded(location, cache)
    expected = LINES if form == "lines" else TEXTS
    assert documents(corpus) == expected
    assert corpus.num_bytes == sum(len(text.encode()) for text in expected) + 3 * (form == "lines")
    assert corpus.num_words == sum(len(text.split()) for text in expected) + 3 * (form == "lines")


def test_a_folder_is_its_files_by_name_and_one_without_a_token_is_said(folder: Path, cache: Cache):
    corpus = encoded(folder, cache)
    assert documents(corpus) == TEXTS
    assert corpus.described() == (
        f"{folder}: 3 documents, 50 tokens of 47 bytes and 10 words, in 1 shard, 1 without a token left out "
        f"(the first: {folder}/b/empty.txt:1)"
    )
    assert corpus.take(np.array([[0], [49]])).tolist() == [[ord("T") + 4], [BYTES.eos_id]]


def test_several_are_one_behind_another(folder: Path, cache: Cache):
    corpus = encoded(f"{folder}/d.txt, lines:{folder}/a.txt", cache)
    assert documents(corpus) == ["third", "The first.", "Of two lines."]


def test_the_librarys_sources_are_the_same_each_time(cache: Cache):
    first, second = find_corpus("stdlib"), find_corpus("stdlib")
    assert first.parts == second.parts
    assert len(first.parts) > 300
    names = [Path(part.path).name for part in first.parts]
    assert "argparse.py" in names
    assert not [name for name in names if name.startswith(("test_", "_sysconfigdata"))]


def text_of(size: int) -> str:
    """Lines of different lengths, with characters of several bytes."""
    text = "".join(f"{'äx' * (number % 17)} {number}\n" for number in range(size // 12))
    return text + "end"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch):
    for each in (module, found_at):
        monkeypatch.setattr(each, "SHARD_BYTES", 2000)


def shards_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the shards that are made from now on, by their tokens."""
    made: list[int] = []
    real = module.make_shard

    def counting(*arguments, **options):
        notes = real(*arguments, **options)
        made.append(notes["tokens"])
        return notes

    monkeypatch.setattr(module, "make_shard", counting)
    return made


@pytest.mark.parametrize(("form", "processes"), [("txt", 1), ("words", 1), ("jsonl", 1), ("jsonl", 2)])
def test_shards_do_not_change_what_is_in_them(form: str, processes: int, tmp_path: Path, cache: Cache, monkeypatch):
    text = text_of(9000)
    content = {"txt": text, "words": text.replace("\n", " " * 7)}.get(form) or "\n".join(
        json.dumps({"text": line}) for line in text.split("\n")
    )
    path = tmp_path / f"a.{form}"
    path.write_text(content, encoding="utf-8")
    whole = encoded(path, Cache(None))
    for each in (module, found_at):  # each shard has its own processes
        monkeypatch.setattr(each, "SHARD_BYTES", 2000 if processes == 1 else 8000)
    monkeypatch.setattr("lmx.data.encoding.FEW_CHARACTERS", 0)
    monkeypatch.setattr("lmx.data.shards.CHUNK_CHARACTERS", 200)
    started = []
    real = encoding._Process
    monkeypatch.setattr(encoding, "_Process", lambda files: started.append(files) or real(files))
    parts = encoded(path, cache, num_processes=processes)
    assert bool(started) == (processes > 1)
    assert len(whole.shards) == 1
    assert len(parts.shards) > (4 if processes == 1 else 1)
    assert documents(whole) == documents(parts)
    assert np.array_equal(whole.take(np.arange(whole.num_tokens)), parts.take(np.arange(parts.num_tokens)))
    assert (whole.num_documents, whole.num_bytes, whole.num_words) == (
        parts.num_documents,
        parts.num_bytes,
        parts.num_words,
    )


def test_the_second_start_reads_no_text(folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch):
    first = encoded(folder, cache)
    monkeypatch.setattr(module, "read_part", lambda part: pytest.fail("text is read again"))
    second = encoded(folder, cache)
    assert second.identity == first.identity
    assert isinstance(second.shards[0].tokens.base, np.memmap)
    assert second.shards[0].tokens.dtype == np.uint16
    assert second.described() == first.described()


@pytest.mark.usefixtures("small_shards")
def test_finished_shards_are_kept_when_it_is_interrupted(tmp_path: Path, cache: Cache, lines, monkeypatch):
    path = tmp_path / "a.jsonl"
    records = [json.dumps({"text": f"{number} " * 40}) for number in range(60)]
    path.write_text("\n".join([*records, '{"words": 1}']), encoding="utf-8")
    made = shards_made(monkeypatch)
    with pytest.raises(ValueError, match=rf"{path}:61 must be a record with 'text', got 'words'\."):
        encoded(path, cache)
    before = len(made)
    assert before > 1
    path.write_text("\n".join([*records, '{"text": "x"}']), encoding="utf-8")
    corpus = encoded(path, cache)
    assert len(made) == before + 1  # the last one alone
    assert lines == [f"{path}: {before} of {before + 1} shards are there, the rest is encoded"]
    assert documents(corpus)[-1] == "x"


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_shard_is_made_anew_and_said(harm: str, tmp_path: Path, cache: Cache, lines, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(text_of(9000), encoding="utf-8")
    first = encoded(path, cache)
    manifests = [json.loads(file.read_text()) | {"path": file.parent} for file in cache.folder.glob(f"*/{MANIFEST}")]
    shard = next(one["path"] for one in manifests if one["made_of"]["what"] == "tokens") / "tokens.bin"
    if harm == "cut":
        os.truncate(shard, 8)
    elif harm == "changed":
        shard.write_bytes(b"x" * shard.stat().st_size)
        os.utime(shard, ns=(0, 0))
    else:
        shard.unlink()
    made = shards_made(monkeypatch)
    assert encoded(path, cache).identity == first.identity
    assert len(made) == 1
    assert len(lines) == 1
    assert "is damaged and made anew" in lines[0]


def test_another_tokenizer_or_text_is_said(folder: Path, cache: Cache, lines: list[str]):
    encoded(folder, cache)
    words = PretokenizedTokenizer.from_texts(find_corpus(str(folder)).texts())
    other = encode_corpus(find_corpus(str(folder)), words, cache=cache)
    assert lines.pop() == f"{folder} is encoded anew: tokenizer changed since the last time"
    assert other.num_tokens == 10 + 3
    (folder / "d.txt").write_text("fourth")
    assert documents(encoded(folder, cache))[-1] == "fourth"
    assert lines.pop() == f"{folder} is encoded anew: text, tokenizer changed since the last time"
    assert not lines


@pytest.mark.usefixtures("small_shards")
def test_text_behind_makes_the_last_shard_anew(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lines.txt"
    path.write_text(text_of(9000) + "\n", encoding="utf-8")
    encoded(f"lines:{path}", cache)
    made = shards_made(monkeypatch)
    with path.open("a") as file:
        file.write("one more\n")
    assert documents(encoded(f"lines:{path}", cache))[-1] == "one more"
    assert len(made) == 1


@pytest.mark.parametrize("name", ["input.txt", "input.txt.gz"])
def test_a_file_that_is_one_document_is_cut_at_the_character(name: str, tmp_path: Path, cache: Cache):
    content = ("x" * 1003 + "ä" * 6 + "z" * 101).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    files = find_corpus(str(tmp_path / name))
    first, rest = (encode_corpus(half, BYTES, cache=cache) for half in files.split(0.9))
    # int(0.9 x 1,116) = 1,004 is within a character.
    assert BYTES.decode(first.document(0)) == "x" * 1003 + "ä"
    assert BYTES.decode(rest.document(0)) == "ä" * 5 + "z" * 101
    assert first.num_tokens == 1005  # nothing ends there
    assert rest.document(0)[-1] == BYTES.eos_id
    assert first.num_documents == rest.num_documents == 1


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "lines", "parquet", "hub", "folder"])
def test_the_halves_of_a_split_are_the_whole(form: str, tmp_path: Path, cache: Cache):
    texts = [f"{number} {'w' * (7 * number % 50)}" for number in range(80)]
    path = tmp_path / "texts"
    if form in ("jsonl", "jsonl.gz"):
        path = path.with_suffix(f".{form}")
        content = "\n".join(json.dumps({"text": text}) for text in texts).encode()
        path.write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    elif form == "lines":
        path.write_text("\n".join(texts))
    elif form == "folder":
        path.mkdir()
        for number, text in enumerate(texts):
            (path / f"{number:02}").write_text(text)
    else:
        path.mkdir()
        path = path / "train.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=9)
    location = {"lines": f"lines:{path}", "hub": f"hub:{path.parent}:train"}.get(form, str(path))
    first, rest = (encode_corpus(half, BYTES, cache=cache) for half in find_corpus(location).split(0.75))
    assert documents(first) + documents(rest) == texts
    assert 0.68 < first.num_bytes / (first.num_bytes + rest.num_bytes) < 0.82


def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a single record"}')
    with pytest.raises(ValueError, match=r"a\.jsonl must be cut into 90% and the rest, got .* Name a validation text"):
        find_corpus(str(tmp_path / "a.jsonl")).split(0.9)
    with pytest.raises(ValueError, match=r"share must be between 0 and 1, got share=1\.0"):
        find_corpus("stdlib").split(1.0)


def bad_files(name: str, folder: Path) -> str:
    """Writes a corpus with a fault, and returns its location."""
    contents: dict[str, tuple[str, bytes]] = {
        "nothing": ("a.txt", b""),
        "no token": ("a.jsonl", b'{"text": ""}\n{"text": null}\n'),
        "no utf-8": ("a.txt", b"good\n" * 20_000 + b"and b\xe4d\n"),
        "no utf-8 in json": ("a.jsonl", b'{"text": "x"}\n\n{"text": "\xff"}\n'),
        "no json": ("a.jsonl", b'{"text": "x"}\n{"text" "x"}\n'),
        "no record": ("a.jsonl", b'["text"]\n'),
        "a number": ("a.jsonl", b'{"text": 3}\n'),
        "half a character": ("a.jsonl", b'{"text": "x"}\n{"text": "\\ud800"}\n'),
        "no parquet": ("a.parquet", b"PAR2" * 9),
        "damaged gzip": ("a.txt.gz", gzip.compress(bytes(np.random.default_rng(1).bytes(999)).hex().encode())[:-9]),
        "packed": ("a.txt", b"\xfd7zXZ\x00"),
    }
    if name == "no column":
        pyarrow.parquet.write_table(pyarrow.table({"texts": ["x"]}), folder / "a.parquet")
        return str(folder / "a.parquet")
    if name == "no folder of files":
        (folder / "none").mkdir()
        return str(folder / "none")
    if name in contents:
        file, content = contents[name]
        (folder / file).write_bytes(content)
        return str(folder / file)
    if name == "a pipe":
        os.mkfifo(folder / "pipe")
    return {
        "no file": str(folder / "b.txt"),
        "a pipe": f"lines:{folder}/pipe",
        "many names": ",".join("x" * 400),
        "a weight": f"{folder}*0.5,stdlib",
        "no name": f"{folder},",
        "no name at all": "",
        "a stream among files": f"stdlib, stream:{folder}:train",
    }[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing", "a.txt must hold text, got none."),
        ("no folder of files", "none must hold text, got none."),
        ("no token", "a.jsonl must hold a document with a token, got none."),
        ("no utf-8", "a.txt:20001 must be UTF-8, got byte 0xe4 at byte 6 of the line. Convert the file with iconv."),
        ("no utf-8 in json", "a.jsonl:3 must be UTF-8, got byte 0xff at byte 11 of the line."),
        ("no json", "a.jsonl:2 must be a JSON record, got \"Expecting ':' delimiter\" at column 9."),
        ("no record", "a.jsonl:1 must be a record with 'text', got ['text']."),
        ("a number", "a.jsonl:1 must have text in 'text', got 3."),
        ("half a character", "a.jsonl:2 must be Unicode text, got a lone surrogate"),
        ("no parquet", "a.parquet must be a Parquet file: "),
        ("no column", "a.parquet must have a column 'text', got 'texts'."),
        ("damaged gzip", "a.txt.gz must be a whole gzip file, got damage."),
        ("packed", "a.txt must be plain text or gzip, got an xz file. Unpack it first: unxz"),
        ("no file", "b.txt must exist, but "),
        ("a pipe", "pipe must be a file that can be read again, got a pipe. Write it to a file first."),
        ("many names", "x must exist, but "),
        ("a weight", "all of several texts must have a weight, or none of them, got "),
        ("no name", "each of several texts must have a name, got location='"),
        ("no name at all", "each of several texts must have a name, got location=''."),
        ("a stream among files", ":train must stand alone or have a weight in a mixture, got stdlib, stream:"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(name: str, expected: str, tmp_path: Path, cache: Cache):
    location = bad_files(name, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        encoded(location, cache)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


# Streams


@pytest.fixture
def stream(tmp_path: Path) -> str:
    """A folder of two files, as a hub dataset whose rows come one by one."""
    folder = tmp_path / "streamed"
    folder.mkdir()
    for part in range(2):
        texts = [f"{part} {number} " + "w" * 90 for number in range(50)]
        pyarrow.parquet.write_table(pyarrow.table({"id": range(50), "text": texts}), folder / f"train-{part}.parquet")
    return f"stream:{folder}:train"


@pytest.mark.usefixtures("small_shards")
def test_a_stream_becomes_shards_as_it_comes_and_is_continued(stream: str, cache: Cache, lines, monkeypatch):
    made = shards_made(monkeypatch)
    real, opened = found_at.stream_hub, []

    class Breaks:
        """A stream that breaks off after some rows."""

        def __init__(self, rows):
            self.rows = rows
            self.state_dict, self.load_state_dict = rows.state_dict, rows.load_state_dict

        def __iter__(self):
            for number, row in enumerate(self.rows):
                if number == 70:
                    raise ConnectionError("the line is broken")
                yield row

    monkeypatch.setattr(found_at, "stream_hub", lambda location: (Breaks(real(location)[0]), real(location)[1]))
    with pytest.raises(ConnectionError):
        encoded(stream, cache)
    before = len(made)
    assert before >= 2
    monkeypatch.setattr(found_at, "stream_hub", lambda location: opened.append(location) or real(location))
    corpus = encoded(stream, cache)
    assert lines == [f"{stream}: {before} shards are there, the rest is encoded"]
    texts = [f"{part} {number} " + "w" * 90 for part in range(2) for number in range(50)]
    assert documents(corpus) == texts
    monkeypatch.setattr(module, "stream_pieces", lambda *_, **__: pytest.fail("rows are read again"))
    assert encoded(stream, cache).identity == corpus.identity


STREAMED = [f"{part} {number} " + "w" * 90 for part in range(2) for number in range(50)]


@pytest.mark.usefixtures("small_shards")
def test_a_shard_of_a_stream_that_is_not_kept_is_made_of_the_same_rows(stream: str, cache: Cache, monkeypatch):
    real, calls = module.make_shard, []

    def full_once(*arguments, **options):
        notes = real(*arguments, **options)
        calls.append(notes)
        if len(calls) == 2:
            raise NotKept("the disk is full")
        return notes

    monkeypatch.setattr(module, "make_shard", full_once)
    assert documents(encoded(stream, cache)) == STREAMED
    assert len(calls) > 3


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_another_process_made_is_not_made_twice(stream: str, cache: Cache, monkeypatch):
    real, calls = module.make_shard, []

    def with_another(*arguments, **options):
        notes = real(*arguments, **options)
        calls.append(notes)
        if len(calls) == 1:
            other = [0]

            def one_more(*arguments, **options):
                other[0] += 1
                if other[0] > 2:
                    raise ConnectionError("the other process was killed")
                return real(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(module, "make_shard", one_more)
                patch.setattr(Cache, "_locked", lambda *_, **__: contextlib.nullcontext(False))
                with pytest.raises(ConnectionError):
                    encoded(stream, cache)  # shards 1 and 2
        return notes

    monkeypatch.setattr(module, "make_shard", with_another)
    assert documents(encoded(stream, cache)) == STREAMED


def test_a_corpus_whose_last_note_is_not_kept_holds_each_document_once(tmp_path: Path, cache: Cache, monkeypatch):
    path = tmp_path / "texts.txt"
    path.write_text("one text\n", encoding="utf-8")
    real, failed = Cache._keep, []

    def full_at_the_end(self, root, facts, make, **options):
        entry = real(self, root, facts, make, **options)
        if facts["what"] == "corpus" and not failed:
            failed.append(facts)
            raise NotKept("the disk is full")
        return entry

    monkeypatch.setattr(Cache, "_keep", full_at_the_end)
    assert documents(encoded(str(path), cache)) == ["one text\n"]
    assert failed


def test_some_rows_of_a_stream(stream: str, cache: Cache):
    assert [text.split(" w")[0] for text in documents(encoded(f"{stream}[48:51]", cache))] == ["0 48", "0 49", "1 0"]
    assert len(documents(encoded(f"{stream}[:7]", cache))) == 7
    assert len(list(find_corpus(f"{stream}[98:]").texts())) == 2


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("stream:nothing", r"location must be stream:ID:SPLIT or .*, got location=stream:nothing\."),
        ("{}[:0]", r"must hold a document with a token, got none\."),
        ("stream:{}/none:train", "must be a hub dataset or a local folder"),
    ],
)
def test_a_stream_that_cannot_be_read_is_told(location: str, expected: str, stream: str, tmp_path: Path, cache: Cache):
    location = location.format(tmp_path if location.startswith("stream") else stream)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        encoded(location, cache)


def test_a_stream_is_not_cut(stream: str):
    with pytest.raises(
        ValueError, match=r"must end somewhere to be cut into 90% and the rest\. Name a validation text"
    ):
        find_corpus(stream).split(0.9)


def test_of_a_stream_so_many_bytes_are_learned_from(stream: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(found_at, "LEARNED_BYTES", 2 * len("0 0 " + "w" * 90))
    assert list(find_corpus(stream).texts()) == list(find_corpus(f" {stream}").texts()) == STREAMED[:2]
    assert found_at.find_corpus(stream).facts(Cache(None)) == find_corpus(stream).facts(Cache(None))
    assert find_corpus(f"{stream}[:9]").facts(Cache(None)) != find_corpus(stream).facts(Cache(None))


@pytest.mark.parametrize(("words", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_ids_take_two_bytes_where_they_fit(words: int, dtype: type, folder: Path, cache: Cache):
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size = words
    corpus = encode_corpus(find_corpus(str(folder)), tokenizer, cache=cache)
    assert corpus.shards[0].tokens.dtype == dtype
    assert corpus.take(np.arange(3)).dtype == np.int32


@pytest.mark.usefixtures("small_shards")
def test_several_shards_are_counted_and_documents_are_found_from_the_end(tmp_path: Path, cache: Cache):
    path = tmp_path / "lines.txt"
    path.write_text(text_of(9000), encoding="utf-8")
    corpus = encoded(f"lines:{path}", cache)
    assert corpus.described().endswith(f"words, in {len(corpus.shards)} shards")
    assert BYTES.decode(corpus.document(-1)) == "end"
    begins, ends = corpus.bounds(np.array([0, 5, corpus.num_documents - 1]))
    assert (begins[0], ends[2]) == (0, corpus.num_tokens)
    with pytest.raises(IndexError):
        corpus.document(corpus.num_documents)


@pytest.mark.parametrize("form", ["text", "lines", "jsonl"])
@pytest.mark.parametrize("exact", [False, True])
def test_parts_that_are_cut_anywhere_hold_what_the_whole_holds(form: str, exact: bool, tmp_path: Path):
    lines = ["a", "", "\u00e4\u00f6 \u5b57", "bb cc", "d"]
    records = [json.dumps({"text": line}, ensure_ascii=False) if form == "jsonl" else line for line in lines]
    path = tmp_path / "a"
    path.write_text("\n".join(records), encoding="utf-8")
    part = whole_file(path, form)
    whole = [piece.text for piece in read_part(part)]
    assert ("".join(whole) if form == "text" else whole) == ("\n".join(lines) if form == "text" else lines)
    for place in range(part.end + 2):
        first, rest = cut(part, place, exact=exact)
        assert (first.begin, first.end, rest.end) == (0, rest.begin, part.end)
        assert first.weight + rest.weight == part.weight
        assert first.weight == first.end
        assert first.end >= min(place, part.end)
        if exact and form == "text":
            assert first.end <= place + 2  # of a character's bytes
        halves = [piece.text for half in (first, rest) if half.begin < half.end for piece in read_part(half)]
        if form == "text":
            assert "".join(halves) == "".join(whole)
        else:
            assert halves == whole


def test_a_long_line_is_cut_before_a_word_or_else_at_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lmx.data.documents.BLOCK", 8)
    path = tmp_path / "a.txt"
    path.write_text("one two three\nfour\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4five six", encoding="utf-8")
    pieces = [piece.text for piece in read_part(whole_file(path, "text"))]
    assert "".join(pieces) == path.read_text(encoding="utf-8")
    assert pieces[:2] == ["one two", " three\n"]
    assert max(map(len, pieces)) <= 12
    assert [place_of("text", str(path), offset) for offset in (0, 13, 14, 30)] == [f"{path}:{n}" for n in (1, 1, 2, 2)]
    assert place_of("hub", "hub:x:train", 1233) == "hub:x:train row 1,234"


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_text(tmp_path: Path, cache: Cache):
    for name, content, expected in (
        ("a.txt", "\ufeffone\r\ntwo\r\n", ["one\ntwo\n"]),
        ("a.jsonl", '\ufeff{"text": "one"}\r\n{"text": "\ufefftwo"}\r\n', ["one", "\ufefftwo"]),
    ):
        (tmp_path / name).write_bytes(content.encode())
        assert documents(encoded(tmp_path / name, cache)) == expected
    (tmp_path / "b.txt").write_bytes("\ufeffone\r\n\ufefftwo\r\n".encode())
    assert documents(encoded(f"lines:{tmp_path / 'b.txt'}", cache)) == ["one", "\ufefftwo"]


def test_a_split_keeps_files_whole_but_for_a_long_one(tmp_path: Path):
    def weights(sizes: list[int], share: float) -> tuple[list[int], list[int]]:
        for number, size in enumerate(sizes):
            (tmp_path / f"{number}.txt").write_text("x" * size)
        files = find_corpus(",".join(str(tmp_path / f"{number}.txt") for number in range(len(sizes))))
        first, rest = files.split(share)
        return [part.weight for part in first.parts], [part.weight for part in rest.parts]

    assert weights([40, 40, 20], 0.8) == ([40, 40], [20])
    # Less than a tenth of the smaller side is on the wrong one: whole, on the nearer one.
    assert weights([400, 30, 570], 0.414) == ([400], [30, 570])
    assert weights([400, 30, 570], 0.415) == ([400, 30], [570])
    assert weights([400, 100, 500], 0.46) == ([400, 100], [500])
    assert weights([400, 100, 500], 0.45) == ([400, 50], [50, 500])
    first, rest = find_corpus(str(tmp_path / "0.txt")).split(0.9)
    assert (first.origin, rest.origin) == (f"{tmp_path}/0.txt (first 90%)", f"{tmp_path}/0.txt (last 10%)")


def test_a_location_of_the_hub_is_a_name_a_configuration_and_a_split(monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *names, split: (*names, split))
    assert read_hub("hub:a/b:train") == ("a/b", None, "train")
    assert read_hub("hub:a/b:de-en:train[:10%]") == ("a/b", "de-en", "train[:10%]")
    for location in ("hub:a/b", "hub::train", "hub:a:b:c:d", "a/b:train", "hub:a[:3]:train"):
        with pytest.raises(ValueError, match=r"^location must be hub:ID:SPLIT or hub:ID:CONFIGURATION:SPLIT, got loc"):
            read_hub(location)


def test_a_text_of_one_word_is_one_word(tmp_path: Path, cache: Cache):
    (tmp_path / "a.txt").write_text("Wort")
    files = find_corpus(str(tmp_path / "a.txt"))
    assert list(files.texts()) == ["Wort"]
    assert encode_corpus(files, BYTES, cache=cache).num_words == 1


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_set_without_a_name_is_told(name: str):
    sets = TextSetsConfig(**{"train": "stdlib"} | {name: ""})
    with pytest.raises(ValueError, match=r"^each of several texts must have a name, got location=''\.$"):
        sets.load(lambda files: BYTES, Cache(None))
