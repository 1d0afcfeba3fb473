"""Training text that is kept encoded is what encoding it in memory gives; it is read once, by one process."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from lmx.data.batches import TokenBatches
from lmx.data.buckets import choose_buckets
from lmx.data.cache import Cache
from lmx.data.encoded import (
    Corpus,
    facts_of_pairs,
    find_pairs,
    keep_examples,
    keep_labelled,
    keep_pairs,
    keep_tokenizer,
    side_texts,
)
from lmx.data.labelled import count_shared
from lmx.data.labelled_files import Fields, read_labelled
from lmx.data.parallel import EncodedPairs, Pairs, encode_pairs, filter_pairs, read_pairs
from lmx.data.texts import encode_examples
from lmx.text import ByteTokenizer, PretokenizedTokenizer, SentencePieceTokenizer

LANGUAGES = {"source_language": "en", "target_language": "de"}
LIMITS = {"max_length": 13, "max_ratio": 1.6}
WORDS = ["ab", "c", "def", "g", "hij"]
TOKENIZERS = (ByteTokenizer(), PretokenizedTokenizer(WORDS))


def write_pairs(folder: Path, number: int = 1200, seed: int = 0) -> str:
    rows = np.random.default_rng(seed).integers(0, 5, size=(number, 6))
    lines = [" ".join(WORDS[word] for word in row[: 1 + row[0]]) for row in rows]
    lines[7] = ""
    (folder / "train.en").write_text("".join(f"{line}\n" for line in lines))
    (folder / "train.de").write_text("".join(f"{line}\n" for line in lines[::-1]))
    return f"{folder}/train.{{}}"


def in_memory(location: str) -> tuple:
    return filter_pairs(encode_pairs(read_pairs(location, **LANGUAGES), *TOKENIZERS), **LIMITS)


def keep(location: str, cache: Cache, **changes: object) -> tuple:
    settings = {"cache": cache, "num_processes": 1, **LIMITS, **changes}
    return keep_pairs(find_pairs(location, **LANGUAGES), *TOKENIZERS, **settings)


def assert_same(found: EncodedPairs, expected: EncodedPairs) -> None:
    for name in ("source", "source_offsets", "target", "target_offsets", "indices"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    for name in ("pad_id", "bos_id", "origin", "empty"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    """Few texts make many parts."""
    monkeypatch.setattr("lmx.data.encoded.PART", 100)
    monkeypatch.setattr("lmx.data.encoding.CHUNK_TEXTS", 64)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, lines: list[str]) -> Cache:
    return Cache(tmp_path / "cache", report=lines.append)


def test_kept_pairs_are_those_of_memory_and_give_the_same_batches(cache: Cache, tmp_path: Path) -> None:
    location = write_pairs(tmp_path)
    expected, report = in_memory(location)
    assert 0 < report.too_long < report.kept
    assert report.too_uneven > 0
    for _ in range(2):  # made, then found
        found, found_report = keep(location, cache)
        assert found_report == report
        assert_same(found, expected)
        settings = {"buckets": choose_buckets(expected.lengths, num_buckets=3), "tokens_per_batch": 128}
        ours, theirs = TokenBatches(found, **settings), TokenBatches(expected, **settings)
        for k in (0, 5, 60):
            batch = theirs.batch(k)
            assert all((array == batch[name]).all() for name, array in ours.batch(k).items())


@pytest.mark.parametrize("number", [1, 2])
def test_all_ways_to_keep_are_equal(cache: Cache, tmp_path: Path, number: int, monkeypatch) -> None:
    monkeypatch.setattr("lmx.data.encoding.FEW_TEXTS", 0)
    location = write_pairs(tmp_path)
    expected, _ = keep(location, Cache(None))
    assert keep(location, cache, num_processes=number)[0].digest == expected.digest
    pairs = read_pairs(location, **LANGUAGES)
    found, _ = keep_pairs(pairs, *TOKENIZERS, **LIMITS, cache=cache)
    assert found.digest == expected.digest


def test_a_second_start_reads_no_text(cache: Cache, tmp_path: Path, monkeypatch) -> None:
    location = write_pairs(tmp_path)
    # Written long ago: a file that has just been written is hashed again.
    monkeypatch.setattr("lmx.data.cache.SETTLED_NS", -(10**18))
    first, _ = keep(location, cache)
    monkeypatch.setattr("lmx.data.pair_files.read_lines", lambda *_, **__: pytest.fail("text is read"))
    monkeypatch.setattr("lmx.data.cache._digest", lambda *_: pytest.fail("text is hashed"))
    assert keep(location, cache)[0].digest == first.digest


def test_other_text_tokenizers_and_filters_are_encoded_anew_with_a_line(
    cache: Cache, tmp_path: Path, lines: list[str]
) -> None:
    location = write_pairs(tmp_path)
    keep(location, cache)
    assert lines == []
    keep(location, cache, max_length=12)
    assert lines.pop() == f"{location} is encoded anew: filter changed since the last time"
    write_pairs(tmp_path, seed=1)
    assert_same(keep(location, cache, max_length=12)[0], filter_pairs(
        encode_pairs(read_pairs(location, **LANGUAGES), *TOKENIZERS), max_length=12, max_ratio=1.6
    )[0])  # fmt: skip
    assert lines.pop() == f"{location} is encoded anew: text changed since the last time"
    other = PretokenizedTokenizer(WORDS[::-1])
    keep_pairs(find_pairs(location, **LANGUAGES), TOKENIZERS[0], other, max_length=12, max_ratio=1.6, cache=cache)
    assert lines.pop() == f"{location} is encoded anew: tokenizer changed since the last time"
    assert lines == []


def test_what_is_wrong_with_the_text_is_said_and_nothing_is_kept(cache: Cache, tmp_path: Path) -> None:
    location = write_pairs(tmp_path)
    with (tmp_path / "train.de").open("a") as file:
        file.write("one more\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train\.de has 1,201 lines and .*train\.en 1,200"):
            keep(location, cache)
    (tmp_path / "train.tsv").write_text("\t \n")
    with pytest.raises(ValueError, match=r"must hold at least one pair of sentences, got 1 pairs with an empty side"):
        keep(str(tmp_path / "train.tsv"), cache)
    (tmp_path / "train.tsv").write_text("a a a\tab\n")
    with pytest.raises(ValueError, match=r"must pass the filter, got none: kept 0 of 1 pairs"):
        keep(str(tmp_path / "train.tsv"), cache, max_ratio=1.0)
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl must exist"):
        find_pairs(str(tmp_path / "train.jsonl"), **LANGUAGES)
    with pytest.raises(ValueError, match="location must be two files"):
        find_pairs("train.docx", **LANGUAGES)
    assert not list(cache.folder.glob("*.partial"))


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    # The peak of two processes, of which one has six times as much text: of Python's strings alone the difference
    # would be over 40 MB.
    program = (
        "import sys, tracemalloc; from pathlib import Path\n"
        "from lmx.data.cache import Cache; from lmx.data.encoded import find_pairs, keep_pairs\n"
        "from lmx.text import PretokenizedTokenizer\n"
        f"words = PretokenizedTokenizer({WORDS!r})\n"
        "pairs = find_pairs(sys.argv[1], source_language='en', target_language='de')\n"
        "tracemalloc.start()\n"
        "found, _ = keep_pairs(pairs, words, words, max_length=None, max_ratio=None, cache=Cache(None),"
        " num_processes=1)\n"
        "print(len(found), tracemalloc.get_traced_memory()[1])"
    )
    peaks = []
    for number in (10_000, 60_000):
        (tmp_path / str(number)).mkdir()
        location = write_pairs(tmp_path / str(number), number)
        done = subprocess.run([sys.executable, "-c", program, location], capture_output=True, text=True, check=True)
        count, peak = map(int, done.stdout.split())
        assert count == number - 2
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]


def test_a_vocabulary_is_learned_by_one_process(tmp_path: Path) -> None:
    location = write_pairs(tmp_path)
    program = (
        "import sys; from pathlib import Path; from lmx.data.cache import Cache; from lmx.data.encoded import *\n"
        "from lmx.text import SentencePieceTokenizer\n"
        "pairs = find_pairs(sys.argv[1], source_language='en', target_language='de')\n"
        "cache = Cache(Path(sys.argv[2]))\n"
        "def learn():\n"
        "    print('learned')\n"
        "    return SentencePieceTokenizer.train(side_texts(pairs, joint=True), vocab_size=20)\n"
        "found = keep_tokenizer(cache, facts_of_pairs(pairs, cache) | {'vocab_size': 20}, learn, about='train')\n"
        "encoded, _ = keep_pairs(pairs, found, found, max_length=None, max_ratio=None, cache=cache)\n"
        "print(encoded.digest, *found.pieces(range(20)))"
    )
    command = [sys.executable, "-c", program, location, str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split("\n")[:-1] for process in started]
    assert sum("learned" in lines for lines in said) == 1
    assert len({lines[-1] for lines in said}) == 1


def test_a_vocabulary_is_that_of_the_same_text_in_memory(cache: Cache, tmp_path: Path) -> None:
    location = write_pairs(tmp_path, 200)
    pairs, corpus = read_pairs(location, **LANGUAGES), find_pairs(location, **LANGUAGES)
    assert isinstance(corpus, Corpus)
    for joint, side, texts in (
        (True, 0, [*pairs.sources, *pairs.targets]),
        (False, 0, pairs.sources),
        (False, 1, pairs.targets),
    ):
        assert list(side_texts(corpus, joint=joint, side=side)) == list(texts)
        facts = facts_of_pairs(corpus, cache) | {"part": [joint, side]}

        def learn(joint=joint, side=side):
            return SentencePieceTokenizer.train(side_texts(corpus, joint=joint, side=side), vocab_size=20)

        expected = SentencePieceTokenizer.train(texts, vocab_size=20)
        for made in (learn, lambda: pytest.fail("it is learned again")):
            found = keep_tokenizer(cache, facts, made, about=location)
            assert found.pieces(range(20)) == expected.pieces(range(20))


def test_what_can_be_read_once_is_held(tmp_path: Path) -> None:
    command = f"cat {write_pairs(tmp_path, 50)}".replace("{}", "en")
    program = (
        "from lmx.data.encoded import find_pairs\n"
        "import sys; pairs = find_pairs(sys.argv[1], source_language='a', target_language='b')\n"
        "print(type(pairs).__name__, len(pairs))"
    )
    shell = f'{sys.executable} -c "$0" <({command}),{tmp_path}/train.de'
    done = subprocess.run(["bash", "-c", shell, program], capture_output=True, text=True)
    assert done.stdout == f"{Pairs.__name__} 48\n", done.stderr


def test_a_dataset_that_is_in_no_file_is_told_by_its_rows(cache: Cache, monkeypatch) -> None:
    rows = {"en": ["ab c", "def"], "de": ["c", "g hij"]}
    monkeypatch.setattr("lmx.data.encoded.read_hub", lambda _: datasets.Dataset.from_dict(rows))
    monkeypatch.setattr("lmx.data.pair_files.read_hub", lambda _: datasets.Dataset.from_dict(rows))
    found = [keep("hub:a:train", cache, max_ratio=None)[0].digest for _ in range(2)]
    assert found[0] == found[1]
    rows["de"][1] = "g"
    assert keep("hub:a:train", cache, max_ratio=None)[0].digest != found[0]


# Texts with labels.


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("pairs", "several"), [(False, False), (True, False), (False, True)])
def test_kept_texts_are_those_of_memory(tmp_path: Path, cache: Cache, kept: bool, pairs: bool, several: bool) -> None:
    cache = cache if kept else Cache(None)
    rows = np.random.default_rng(0).integers(0, 5, size=(700, 6))
    texts = [" ".join(WORDS[word] for word in row[: row[0]]) for row in rows]
    labels = [f"{WORDS[row[1]]}|{WORDS[row[2]]}" if several else WORDS[row[1]] for row in rows]
    path = tmp_path / "train.tsv"
    lines = [f"{text}\t{other}\t{label}\n" for text, other, label in zip(texts, texts[::-1], labels, strict=True)]
    path.write_text("a\tb\tlabel\n" + "".join(lines))
    reading = {"text_columns": ("a", "b") if pairs else ("a",), "label_separator": "|" if several else None}
    expected = read_labelled(path, Fields(**reading))
    settings = {"max_length": 6, "stride": None if pairs else 2}
    for _ in range(2):
        found = keep_labelled(str(path), fields=Fields(**reading), cache=cache)
        assert list(found.texts) == list(expected.texts)
        assert list(found.labels) == list(expected.labels)
        assert found.texts[-1] == expected.texts[-1]
        assert found.texts[3:9:2] == expected.texts[3:9:2]
        with pytest.raises(IndexError):
            found.texts[len(found)]
        np.testing.assert_array_equal(found.lines, expected.lines)
        assert found.empty == expected.empty > 0
        chosen = [4, 17, 2, 699]
        both = [each.select(chosen).select([2, 0, 3]) for each in (found, expected)]
        assert list(both[0].texts) == list(both[1].texts)
        assert both[0].empty == both[1].empty
        assert count_shared(found, both[0]) == count_shared(expected, both[1]) == 3
        for ours, theirs in ((found, expected), both):
            rows_kept = keep_examples(ours, TOKENIZERS[0], cache=cache, num_processes=1, **settings)
            rows_made = encode_examples(theirs, TOKENIZERS[0], **settings)
            for name in ("tokens", "offsets", "first_lengths", "indices", "weights"):
                np.testing.assert_array_equal(getattr(rows_kept, name), getattr(rows_made, name))
                assert getattr(rows_kept, name).dtype == getattr(rows_made, name).dtype
            assert rows_kept.num_truncated == rows_made.num_truncated


def test_a_second_start_reads_no_table(cache: Cache, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "train.csv"
    path.write_text("text,label\nab c,x\ndef,y\n")
    expected = list(keep_labelled(str(path), cache=cache).texts)
    monkeypatch.setattr("lmx.data.tables.read_lines", lambda *_, **__: pytest.fail("text is read"))
    assert list(keep_labelled(str(path), cache=cache).texts) == expected
    monkeypatch.undo()
    path.write_text("text,label\nab c,x\n,y\n\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    with pytest.raises(ValueError, match=r"train\.csv:4 must have 2 fields"):
        keep_labelled(str(path), cache=cache)


def test_pairs_with_an_empty_side_that_were_kept_are_counted_once() -> None:
    sides = {"sources": ["ab", "", "c"], "targets": ["c", "g", "g"], "origin": "t", "empty": 1}
    for kept, expected in ((True, 1), (False, 2)):  # one that was dropped before, and one that is here
        found, report = keep_pairs(
            Pairs(**sides, kept_empty=kept), *TOKENIZERS, max_length=None, max_ratio=None, cache=Cache(None)
        )
        assert (len(found), found.empty, str(report)) == (2, expected, "kept all 2 pairs")
