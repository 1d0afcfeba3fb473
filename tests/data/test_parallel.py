import gzip
import itertools
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.exceptions import DatasetNotFoundError

from lmx.data.files import read_lines
from lmx.data.pair_files import files_of_pairs, iterate_pairs
from lmx.data.parallel import (
    EncodedPairs,
    Pairs,
    described,
    encode_pairs,
    filter_pairs,
    joined,
    judge_lengths,
    read_pairs,
)
from lmx.text import ByteTokenizer, PretokenizedTokenizer

ENGLISH = ["the dog sleeps .", "a cat", "who sings ?"]
GERMAN = ["der Hund schläft .", "eine Katze", "wer singt ?"]


def read(location: object, **settings: str) -> Pairs:
    return read_pairs(str(location), **{"source_language": "en", "target_language": "de", **settings})


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lines(sentences: list[str]) -> str:
    return "".join(f"{sentence}\n" for sentence in sentences)


def sides(folder: Path, english: str | bytes = lines(ENGLISH), german: str | bytes = lines(GERMAN)) -> str:
    write(folder / "train.en", english)
    write(folder / "train.de", german)
    return f"{folder}/train.{{}}"


def records(sentences: list[tuple[object, object]]) -> str:
    return lines([json.dumps({"translation": {"en": en, "de": de}}) for en, de in sentences])


def encoded(pairs: list[tuple[str, str]]) -> EncodedPairs:
    sources, targets = zip(*pairs, strict=True)
    return encode_pairs(Pairs(sources=sources, targets=targets, origin="test"), ByteTokenizer(), ByteTokenizer())


# Places that pairs are read from.


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_kind_of_location_gives_the_same_pairs(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"train.en{ending}", lines(ENGLISH))
    write(tmp_path / f"train.de{ending}", lines(GERMAN))
    rows = list(zip(ENGLISH, GERMAN, strict=True))
    flat = [json.dumps({"en": en, "de": de, "id": 7}) for en, de in rows]
    locations = [
        f"{tmp_path}/train.{{}}{ending}",
        f"{tmp_path}/train.{{en,de}}{ending}",
        f"{tmp_path}/train.en{ending},{tmp_path}/train.de{ending}",
        write(tmp_path / f"train.tsv{ending}", lines([f"{en}\t{de}" for en, de in rows])),
        write(tmp_path / f"train.txt{ending}", lines([f"{en}\t{de}" for en, de in rows])),
        write(tmp_path / f"named.tsv{ending}", lines(["de\tid\ten", *(f"{de}\t7\t{en}" for en, de in rows)])),
        write(tmp_path / f"train.jsonl{ending}", records(rows)),
        write(tmp_path / f"flat.jsonl{ending}", lines(flat)),
    ]
    for location in locations:
        pairs = read(location)
        assert (list(pairs.sources), list(pairs.targets)) == (ENGLISH, GERMAN), location
        assert (pairs.empty, len(pairs), pairs.origin) == (0, 3, str(location))


def test_the_languages_say_which_side_is_the_source(tmp_path: Path) -> None:
    sides(tmp_path)
    write(tmp_path / "train.jsonl", records(list(zip(ENGLISH, GERMAN, strict=True))))
    for name in ("train.{}", "train.jsonl"):
        pairs = read(tmp_path / name, source_language="de", target_language="en")
        assert (list(pairs.sources), list(pairs.targets)) == (GERMAN, ENGLISH)
    assert list(read(tmp_path / "train.{de,en}").sources) == GERMAN


@pytest.fixture
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.usefixtures("hub_cache")
def test_a_dataset_of_the_hub_is_read_by_split(tmp_path: Path) -> None:
    rows = [*zip(ENGLISH, GERMAN, strict=True), ("alone", None)]
    write(tmp_path / "train.jsonl", records(rows))
    write(tmp_path / "test.jsonl", records(rows[:1]))
    pairs = read(f"hub:{tmp_path}:train")
    assert (list(pairs.sources), list(pairs.targets), pairs.empty) == (ENGLISH, GERMAN, 1)
    assert list(read(f"hub:{tmp_path}:default:train[1:3]").targets) == GERMAN[1:]
    assert len(read(f"hub:{tmp_path}:test")) == 1
    with pytest.raises(ValueError, match=r"hub:.*row 1 must have .* each language, got no 'fr' in 'en', 'de'\."):
        read(f"hub:{tmp_path}:train", target_language="fr")
    with pytest.raises(ValueError, match=r"^hub:.*:validation must be readable: .*validation.*train"):
        read(f"hub:{tmp_path}:validation")


@pytest.mark.usefixtures("hub_cache")
def test_a_dataset_of_the_hub_may_have_a_column_for_each_language(tmp_path: Path) -> None:
    rows = [{"en": en, "de": de, "picture": 7} for en, de in zip(ENGLISH, GERMAN, strict=True)]
    write(tmp_path / "train.jsonl", lines([json.dumps(row) for row in rows]))
    assert list(read(f"hub:{tmp_path}:train").targets) == GERMAN
    with pytest.raises(ValueError, match=r"row 1 must have a sentence for each language, got no 'fr'"):
        read(f"hub:{tmp_path}:train", target_language="fr")
    with pytest.raises(ValueError, match=r"must have a column translation or fr, got 'en', 'de', 'picture'\."):
        read(f"hub:{tmp_path}:train", source_language="fr", target_language="cs")


def test_a_dataset_that_is_not_on_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise DatasetNotFoundError("Dataset 'nobody/nothing' doesn't exist.\nMore lines.")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(FileNotFoundError, match=r"hub:nobody/nothing:train must be .* folder: Dataset .* exist\.$"):
        read("hub:nobody/nothing:train")
    with pytest.raises(ValueError, match=r"location must be hub:ID:SPLIT or .*, got location=hub:nobody/nothing\."):
        read("hub:nobody/nothing")


def test_a_location_of_no_known_kind_lists_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"location must be two files \(train\.\{\} .*\.jsonl.*, got location=.*csv\."):
        read(tmp_path / "train.csv")
    with pytest.raises(ValueError, match=r"the languages must differ, got source_language=target_language=de\."):
        read("train.{}", source_language="de")


# What a line is.


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    english = "one\u2028two\r\nthree\u0085four\x0cfive\r\nsix\rseven"
    pairs = read(sides(tmp_path, english, "eins\nzwei\ndrei\n"))
    assert list(pairs.sources) == ["one\u2028two", "three\u0085four\x0cfive", "six\rseven"]


def test_line_ends_of_old_macs_are_no_single_pair(tmp_path: Path) -> None:
    write(tmp_path / "train.en", "a\rb\rc")
    write(tmp_path / "train.de", "A\rB\rC")
    with pytest.raises(ValueError, match=r"train\.en:1 has a carriage return inside \(old Mac line ends\?\)"):
        read(tmp_path / "train.{}")


@pytest.mark.parametrize("row", ["German\tDeutsch", "text\tText", "id\tid", "English people\tGerman"])
def test_a_pair_of_words_is_no_header(tmp_path: Path, row: str) -> None:
    assert len(read(write(tmp_path / "a.tsv", f"{row}\nEnglish\tGerman\n"))) == 2


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    assert read(sides(tmp_path, "\ufeffthe dog\n", "\ufeffder Hund\n")).sources == ["the dog"]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    assert list(read(sides(tmp_path, gzip.compress(lines(ENGLISH).encode()))).sources) == ENGLISH


def test_pairs_with_an_empty_side_are_dropped_and_counted(tmp_path: Path) -> None:
    pairs = read(sides(tmp_path, "a\n\nc\n \t\ne\n", "A\nB\n\nD\nE\n"))
    assert (pairs.sources, pairs.targets, pairs.empty) == (["a", "e"], ["A", "E"], 3)
    pairs = read(write(tmp_path / "train.tsv", "a\tA\n\nb\t\n\tC\n"))
    assert (pairs.sources, pairs.targets, pairs.empty) == (["a"], ["A"], 3)
    pairs = read(write(tmp_path / "train.jsonl", records([("a", "A"), ("", "B"), ("c", None)]) + "\n"))
    assert (pairs.sources, pairs.targets, pairs.empty) == (["a"], ["A"], 3)


def test_a_test_set_keeps_its_lines_in_their_places(tmp_path: Path) -> None:
    names = {"source_language": "en", "target_language": "de", "keep_empty": True}
    kept = read_pairs(sides(tmp_path, "a\n\nc\n \t\ne\n", "A\nB\n\nD\nE\n"), **names)
    assert (kept.sources, kept.targets) == (["a", "", "c", " \t", "e"], ["A", "B", "", "D", "E"])
    assert (kept.empty, kept.kept_empty) == (3, True)
    kept = read_pairs(write(tmp_path / "test.tsv", "a\tA\n\nb\t\n\tC\n"), **names)
    assert (kept.sources, kept.targets, kept.empty) == (["a", "", "b", ""], ["A", "", "", "C"], 3)
    with pytest.raises(ValueError, match=r"at least one pair of sentences, got 2 pairs with an empty side\."):
        read_pairs(write(tmp_path / "none.tsv", "\tA\nb\t\n"), **names)


def test_other_encodings_are_read_when_named(tmp_path: Path) -> None:
    location = sides(tmp_path, lines(ENGLISH).encode("latin-1"), lines(GERMAN).encode("latin-1"))
    assert list(read(location, encoding="latin-1").targets) == GERMAN
    with pytest.raises(ValueError, match=r"encoding must be one that Python knows, got encoding=latin-99\."):
        read(location, encoding="latin-99")
    with pytest.raises(ValueError, match=r"encoding must write a line end as one byte, got encoding=utf-16\."):
        read(location, encoding="utf-16")


# Bad input.


def test_sides_of_different_length_are_counted(tmp_path: Path) -> None:
    location = sides(tmp_path, "a\n" * 1500, "A\n" * 1499)
    message = r"train\.de has 1,499 lines and .*train\.en 1,500: the two sides must be parallel\.$"
    with pytest.raises(ValueError, match=message):
        read(location)
    with pytest.raises(ValueError, match=r"sources and targets must be parallel, got 2 sources and 1 targets\."):
        Pairs(sources=["a", "b"], targets=["A"], origin="test")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.de must hold text, got an empty file\."):
        read(sides(tmp_path, german=""))
    for name in ("train.tsv", "train.jsonl", "train.jsonl.gz"):
        with pytest.raises(ValueError, match=rf"{name} must hold at least one pair of sentences, got nothing\."):
            read(write(tmp_path / name, ""))
    with pytest.raises(ValueError, match=r"at least one pair of sentences, got 2 pairs with an empty side\."):
        read(sides(tmp_path, "a\n\n", "\nB\n"))


@pytest.mark.parametrize("name", ["train.de", "train.de.gz"])
def test_a_line_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.en", lines(ENGLISH))
    path = write(tmp_path / name, "der Hund\nKätzchen\n".encode() + "schläft\n".encode("latin-1"))
    message = rf"{name}:3 must be UTF-8, got byte 0xe4 at byte 5 of the line\. Convert the file with iconv\.$"
    with pytest.raises(ValueError, match=message):
        read(f"{tmp_path}/train.en,{path}")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    sides(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.en\.gz must exist, .* no such file\. Did you mean train\.en"):
        read(tmp_path / "train.{}.gz")
    with pytest.raises(FileNotFoundError, match=r"train\.tsv must exist, but there is no folder .*nowhere\."):
        read(tmp_path / "nowhere" / "train.tsv")
    with pytest.raises(FileNotFoundError, match=r"must be a file, got a folder\."):
        list(read_lines(tmp_path))


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv.gz"
    whole = gzip.compress(lines([f"{number}\t{number**9}" for number in range(9000)]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train\.tsv\.gz must be a whole gzip file, got damage after line \d,\d+\."):
        read(path)
    path.write_bytes(whole[:50] + b"damage" + whole[56:])
    with pytest.raises(ValueError, match=r"train\.tsv\.gz must be a whole gzip file, got damage after line"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"en": "a", "de": "A"}\n{"en": "a"', r"a\.jsonl:2 must be a JSON record, got .* at column 11\."),
        ("a.jsonl", '["a", "A"]\n', r"a\.jsonl:1 must be a record .*, got \['a', 'A'\]\."),
        ("a.jsonl", '{"translation": "a"}\n', r"a\.jsonl:1 must be a record .*, got 'a'\."),
        ("a.jsonl", '{"translation": {"en": "a", "fr": "A"}}\n', r"a\.jsonl:1 must .* got no 'de' in 'en', 'fr'\."),
        ("a.jsonl", '{"en": "a", "de": 7}\n', r"a\.jsonl:1 must have text for 'de', got 7\."),
        ("a.jsonl", "{}\n", r"a\.jsonl:1 must have .* got no 'en' in an empty record\."),
        (
            "a.jsonl",
            '{"en": "a", "de": "A"}\n{"en": "a", "de": "A\\ude00"}\n',
            r"a\.jsonl:2 in 'de' must be Unicode text, got a lone surrogate, \\ude00, at character 2: half of",
        ),
        ("a.jsonl", '{"translation": {"en": "\\ud83d", "de": "A"}}\n', r"a\.jsonl:1 in 'en' must be Unicode text"),
        ("a.tsv", "a\tA\nb\tB\rc\tC\n", r"a\.tsv:2 has a carriage return inside \(old Mac line ends\?\)"),
        (
            "a.tsv",
            "en\tde\na\tA\nen\tde\n",
            r"a\.tsv:3 must be a pair of sentences, got the header again \('en', 'de'\)",
        ),
        ("a.tsv", "id\tde\ten\n7\tA\ta\nid\tde\ten\n", r"a\.tsv:3 must be a pair of sentences, got the header again"),
        ("a.tsv", "a\tA\n\ufeffen\tde\n", r"a\.tsv:2 must be a pair of sentences, got the header again"),
        (
            "a.tsv",
            "English\tGerman\na\tA\n",
            r"a\.tsv:1 must be a pair of sentences or en<tab>de, got 'English', 'German'",
        ),
        ("a.tsv", "EN\tDE\na\tA\n", r"a\.tsv:1 must be a pair of sentences or en<tab>de, got 'EN', 'DE'\. Where"),
        ("a.tsv", "a\tA\nb B\n", r"a\.tsv:2 must have 2 columns, tabs between, got 1\.$"),
        ("a.tsv", "a\tA\tno. 7\n", r"a\.tsv:1 must have 2 columns, .* got 3\. A first row such as en<tab>de names"),
        ("a.tsv", "id\tde\ten\n7\tA\n", r"a\.tsv:2 must have 3 columns, tabs between, got 2\."),
        ("a.tsv", "en\tfr\na\tA\n", r"a\.tsv:1 must name both languages, got no 'de' in 'en', 'fr'\."),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / name, content))


def test_a_carriage_return_within_a_sentence_of_a_pair_stays(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "a.tsv", "a\rb\tA\nc\tC\rD\n"))
    assert [*pairs.sources, *pairs.targets] == ["a\rb", "c", "A", "C\rD"]


def test_json_that_python_does_not_read_is_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.jsonl", '{"en": ' * 99999, r"a\.jsonl:1 must be a JSON record of few levels, got one .* too deep\."),
        ("b.jsonl", '\n{"en": ' + "7" * 5000, r"b\.jsonl:2 must be a JSON record with numbers of at most 4,300 digits"),
    ):
        with pytest.raises(ValueError, match=message):
            read(write(tmp_path / name, content))


# Ids.


def test_both_sides_end_with_the_end_of_sentence_and_lengths_count_it() -> None:
    tokenizer = PretokenizedTokenizer.from_texts([*ENGLISH, *GERMAN])
    pairs = encode_pairs(Pairs(sources=ENGLISH, targets=GERMAN, origin="test"), tokenizer, tokenizer)
    assert pairs.source.dtype == pairs.target.dtype == np.int32
    assert pairs.source_lengths.tolist() == [5, 3, 4]
    assert pairs.lengths.tolist() == [5, 3, 4]
    assert pairs.num_tokens == 24
    for flat, offsets, texts in (
        (pairs.source, pairs.source_offsets, ENGLISH),
        (pairs.target, pairs.target_offsets, GERMAN),
    ):
        rows = [flat[begin:end] for begin, end in itertools.pairwise(offsets)]
        assert [row[-1] for row in rows] == [tokenizer.eos_id] * 3
        assert [tokenizer.decode(row) for row in rows] == texts


def test_tokenizers_pad_with_one_id() -> None:
    other = ByteTokenizer()
    other.pad_id = 1
    with pytest.raises(ValueError, match=r"both tokenizers must have one pad_id, got 0 for the source and 1"):
        encode_pairs(Pairs(sources=["a"], targets=["A"], origin="test"), ByteTokenizer(), other)


def test_filtering_counts_each_dropped_pair_once() -> None:
    pairs = encoded(
        [("abc", "ABC"), ("abcdefgh", "A"), ("", "A"), ("ab", "ABCDE"), ("ab", "ABCD"), ("abcdefg", "ABCD")]
    )
    kept, report = filter_pairs(pairs, max_length=8, max_ratio=2.0)
    assert kept.indices.tolist() == [0, 4, 5]
    assert (report.kept, report.dropped) == (3, 3)
    assert (report.without_tokens, report.too_long, report.too_uneven) == (1, 1, 1)
    assert str(report) == (
        "kept 3 of 6 pairs (dropped 1 without a token on one side, 1 longer than 8 tokens, "
        "1 with one side over 2.0 times the other)"
    )


def test_a_side_without_tokens_is_no_warning() -> None:
    lengths = np.array([1, 1, 5, 9]), np.array([1, 7, 1, 4])
    with np.errstate(all="raise"):
        for limits, kept in (({"max_length": None, "max_ratio": None}, 1), ({"max_length": 8, "max_ratio": 1.5}, 0)):
            keep, report = judge_lengths(*lengths, **limits)
            assert (report.kept, report.without_tokens, report.too_long) == (kept, 3, 1 - kept)
            assert keep.tolist() == [False, False, False, kept == 1]


def test_filtering_keeps_the_ids_of_the_pairs_it_keeps() -> None:
    pairs = encoded([("abc", "ABC"), ("abcdefgh", "A"), ("ab", "ABCD"), ("a", "AB")])
    kept, _ = filter_pairs(pairs, max_length=6)
    tokenizer = ByteTokenizer()
    for row, (source, target) in enumerate([("abc", "ABC"), ("ab", "ABCD"), ("a", "AB")]):
        assert tokenizer.decode(kept.source[kept.source_offsets[row] : kept.source_offsets[row + 1]]) == source
        assert tokenizer.decode(kept.target[kept.target_offsets[row] : kept.target_offsets[row + 1]]) == target
    again, report = filter_pairs(kept, max_length=5)
    assert again.indices.tolist() == [0, 2, 3]
    assert str(report) == "kept all 3 pairs"


def test_a_filter_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"one pair of test must pass the filter, got none: kept 0 of 2 pairs \(dropped 2"
    ):
        filter_pairs(encoded([("abc", "ABC"), ("abcd", "A")]), max_length=3)
    with pytest.raises(ValueError, match=r"max_length must be at least 2, .* got max_length=1\."):
        filter_pairs(encoded([("abc", "ABC")]), max_length=1)
    with pytest.raises(ValueError, match=r"max_ratio must be at least 1, got max_ratio=0\.5\."):
        filter_pairs(encoded([("abc", "ABC")]), max_ratio=0.5)


def test_a_row_is_padded_and_its_decoder_begins_with_the_beginning() -> None:
    pairs = encoded([("ab", "A"), ("a", "ABC"), ("", "")])
    a, b, end = 4 + ord("a"), 4 + ord("b"), 2
    batch = pairs.batch(np.array([[0, -1], [1, 2]]), length=5)
    assert batch["source"].tolist() == [[[a, b, end, 0, 0], [0] * 5], [[a, end, 0, 0, 0], [end, 0, 0, 0, 0]]]
    big = [4 + ord(letter) for letter in "ABC"]
    assert batch["target"].tolist() == [[[big[0], end, 0, 0, 0], [0] * 5], [[*big, end, 0], [end, 0, 0, 0, 0]]]
    assert batch["decoder_input"].tolist() == [[[1, big[0], 0, 0, 0], [0] * 5], [[1, *big, 0], [1, 0, 0, 0, 0]]]
    assert pairs.count_tokens(np.array([0, 1, 1])) == 3 + 2 + 2 * (2 + 4)
    assert (pairs.lengths.tolist(), len(pairs), pairs.unit, pairs.num_sides) == ([3, 4, 1], 3, "pair", 2)


def test_parts_of_pairs_are_chosen_and_joined_in_the_order_of_the_whole() -> None:
    whole = Pairs(sources=list("abcde"), targets=list("ABCDE"), origin="w", empty=4)
    parts = [whole.select(np.array(places), name=f"part {places}", empty=7) for places in ([3, 0], [4, 1])]
    assert (parts[0].sources, parts[0].targets, parts[0].empty) == (["d", "a"], ["D", "A"], 7)
    assert parts[1].origin == "w, part [4, 1]"
    assert whole.select(np.array([2]), name="x").empty == 0
    together = joined(parts, origin="all")
    assert (together.sources, together.targets) == (list("abde"), list("ABDE"))
    assert (together.origin, together.places.tolist(), together.empty) == ("all", [0, 1, 3, 4], 0)
    assert whole.identity == (list("abcde"), list("ABCDE"))


def test_what_is_used_of_pairs_is_said_with_what_became_of_empty_sides() -> None:
    pairs = Pairs(sources=["a"] * 1200, targets=["A"] * 1200, origin="w")
    assert described(pairs) == "w: 1,200 pairs"
    left_out = Pairs(sources=["a"], targets=["A"], origin="w", empty=2300)
    assert described(left_out) == "w: 1 pairs, 2,300 with an empty side left out"
    kept = Pairs(sources=["a", ""], targets=["A", "B"], origin="w", empty=1, kept_empty=True)
    assert described(kept) == "w: 2 pairs, 1 with an empty side kept in their places"
    rows = encode_pairs(left_out, ByteTokenizer(), ByteTokenizer())
    assert described(*filter_pairs(rows)) == "w: kept all 1 pairs, 2,300 with an empty side left out"


def test_the_shorter_side_may_be_the_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.de has 3 lines and .*train\.en 1: the two sides must be parallel\.$"):
        read(sides(tmp_path, "a\n", "A\nB\nC\n"))
    with pytest.raises(ValueError, match=r"train\.en must hold text, got an empty file\."):
        read(sides(tmp_path, "", ""))


def test_the_files_of_pairs_are_told_and_how_far_the_first_is_read(tmp_path: Path) -> None:
    languages = {"source_language": "en", "target_language": "de"}
    location = sides(tmp_path, "a\n" * 3000, "ABCDEFGH\n" * 3000)
    assert files_of_pairs(location, **languages) == [tmp_path / "train.en", tmp_path / "train.de"]
    assert files_of_pairs(tmp_path / "train.en", **languages) == [tmp_path / "train.en"]
    assert files_of_pairs("hub:x:train", **languages) == []
    told: list[int] = []
    assert len(list(iterate_pairs(location, **languages, position=told.append))) == 3000
    assert 0 < told[-1] <= 6000
    with pytest.raises(FileNotFoundError, match=r"train\.fr must exist"):
        files_of_pairs(location, source_language="en", target_language="fr")


def test_one_file_may_have_a_comma_in_its_name_and_two_spaces_between(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a,b.tsv", "a\tA\n")).sources == ["a"]
    sides(tmp_path)
    assert list(read(f"{tmp_path}/train.en , {tmp_path}/train.de").sources) == ENGLISH
