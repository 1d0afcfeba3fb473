import csv
import gzip
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest

from lmx.data.cache import Cache
from lmx.data.encoded import keep_labelled
from lmx.data.labelled import Examples, check_alike, count_shared, hash_text
from lmx.data.labelled_files import Fields, iterate_labelled, read_labelled
from lmx.data.reading import ReadingChanges
from lmx.data.sets import SetsConfig
from lmx.data.tables import FIELD_LIMIT
from lmx.errors import InputError
from lmx.text import ByteTokenizer

TEXTS = ["a fine film", 'he said "no", twice', "dull"]
LABELS = ["pos", "neg", "neg"]


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def table(rows: list[list[str]], delimiter: str = ",") -> str:
    return "".join(delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) + "\n" for row in rows)


def records(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refuses(message: str, path: Path, **settings: object) -> None:
    with pytest.raises(ValueError, match=message):
        read_labelled(path, Fields(**settings))


# Places that examples are read from.


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    rows = list(zip(LABELS, TEXTS, strict=True))
    plain = "".join(f"{label}\t{text}\n" for label, text in rows)
    words = "".join(f"{label} {text}\n" for label, text in rows)
    named = [{"id": 7, "label": label, "text": text} for label, text in rows]
    for path, settings in (
        (write(tmp_path / f"a.csv{ending}", table([["label", "text"], *map(list, rows)])), {}),
        (write(tmp_path / f"b.tsv{ending}", "label\ttext\n" + plain), {}),
        (write(tmp_path / f"c.tsv{ending}", plain), {"columns": ("label", "text")}),
        (write(tmp_path / f"d.jsonl{ending}", records(named)), {}),
        (write(tmp_path / f"e.txt{ending}", words), {}),
        (write(tmp_path / f"f.train.all{ending}", words), {"form": "text"}),
        (write(tmp_path / f"g.dat{ending}", table([["text", "label"], *[[b, a] for a, b in rows]])), {"form": "csv"}),
        (
            write(tmp_path / f"h.csv{ending}", table([["text", "label"], *[[b, a] for a, b in rows]], ";")),
            {"delimiter": ";"},
        ),
        (write(tmp_path / f"i.tsv{ending}", table([["label", "text"], *map(list, rows)], "\t")), {"quoting": True}),
    ):
        examples = read_labelled(path, Fields(**settings))
        assert (list(examples.texts), examples.labels) == (TEXTS, LABELS), path
        assert (len(examples), examples.origin, examples.empty) == (3, str(path), 0)


def test_a_header_that_is_told_and_there_is_no_row_of_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x\nb,y\n")
    assert read_labelled(path, Fields(columns=("text", "label"))).labels == read_labelled(path).labels == ["x", "y"]
    refuses(r"a\.csv must have a column 'label', got 'a', 'x'\. .* name its columns", write(path, "a,x\nb,y\n"))


def test_the_text_is_the_only_column_beside_the_label_or_the_one_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tlabel\nwell done\t1\n")
    assert read_labelled(path).texts == ["well done"]
    path = write(tmp_path / "b.tsv", "title\tbody\tclass\nnews\tall is well\t1\n")
    settings = {"label_column": "class"}
    assert read_labelled(path, Fields(text_columns=("body",), **settings)).texts == ["all is well"]
    pairs = read_labelled(path, Fields(text_columns=("title", "body"), **settings))
    assert pairs.texts == [("news", "all is well")]
    assert pairs.are_pairs
    assert read_labelled(path, Fields(text_columns="title+body", **settings)).texts == ["news all is well"]
    assert read_labelled(path, Fields(text_columns="title+body", joiner=" . ", **settings)).texts == [
        "news . all is well"
    ]
    refuses(r"b\.tsv must have a column 'text' or a single one .* got 'title', 'body', 'class'\.", path, **settings)
    refuses(r"b\.tsv must have a column 'label', got 'title', 'body', 'class'\.", path)
    refuses(r"b\.tsv must have a column 'head', got 'title'", path, text_columns=("head",), **settings)
    refuses(
        r"text_columns must be one column or two, got text_columns=\('a', 'b', 'c'\)",
        path,
        text_columns=("a", "b", "c"),
    )


def test_a_table_of_one_column_names_it(tmp_path: Path) -> None:
    settings = {"label_column": None}
    path = write(tmp_path / "a.csv", "a fine day\na dull day\n")
    refuses(
        r"a\.csv:1 must name the one column text, got 'a fine day'\. .* --columns text\.",
        path,
        **settings,
    )
    for name, content, sign in (
        ("b.csv", "text;note\na;b\n", ";"),
        ("b.tsv", "a fine, long day\ndull\n", ","),
        ("c.csv", "text\tnote\na\tb\n", "\\t"),
        ("d.csv", "text|note\na|b\n", "|"),
    ):
        message = rf"{name}:1 must be columns with .*, got one column .*\. Is the delimiter '{re.escape(sign)}'"
        refuses(message, write(tmp_path / name, content), **settings)
    assert read_labelled(path, Fields(columns=("text",), **settings)).texts == ["a fine day", "a dull day"]
    assert read_labelled(tmp_path / "b.csv", Fields(delimiter=";", **settings)).texts == ["a"]
    assert read_labelled(tmp_path / "b.csv", Fields(text_columns=("text;note",), **settings)).texts == ["a;b"]
    assert read_labelled(path, Fields(text_columns=("a fine day",), **settings)).texts == ["a dull day"]
    # A text may be the name of its column.
    assert read_labelled(write(tmp_path / "e.csv", "text\na\ntext\n"), Fields(**settings)).texts == ["a", "text"]
    assert read_labelled(write(tmp_path / "a.jsonl", '{"line": "a"}\n'), Fields(**settings)).texts == ["a"]


def test_what_is_a_header_where_columns_are_told(tmp_path: Path) -> None:
    for number, content in ((2, "a,x\ntext,label\nb,y\n"), (3, "text,label\na,x\ntext,label\n")):
        path = write(tmp_path / "a.csv", content)
        refuses(rf"a\.csv:{number} must be a row of data, got the header again", path, columns=("text", "label"))
        assert len(read_labelled(path, Fields(columns=("label", "text")))) == content.count("\n")


def test_files_to_predict_keep_every_line_in_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n\nthree words here\n")
    examples = read_labelled(path, Fields(label_column=None))
    assert (examples.texts, examples.labels, examples.empty) == (["one", "", "three words here"], None, 1)
    path = write(tmp_path / "a.csv", "text\none\n\n  \n")
    examples = read_labelled(path, Fields(label_column=None))
    assert (examples.texts, examples.empty, examples.lines.tolist()) == (["one", "", "  "], 2, [2, 3, 4])
    path = write(tmp_path / "b.csv", "text,label\none,\ntwo,1\n")
    assert read_labelled(path, Fields(label_column=None, text_columns=("text",))).texts == ["one", "two"]


def test_line_ends_and_blank_lines_inside_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\r\n"two\r\nlines",x\r\n\r\n"a, b",y\r\n')
    examples = read_labelled(path)
    assert examples.texts == ["two\nlines", "a, b"]
    assert [examples.place(index) for index in (0, 1)] == [f"{path}:2", f"{path}:5"]


def test_columns_without_a_name_are_no_matter(tmp_path: Path) -> None:
    examples = read_labelled(write(tmp_path / "a.csv", ",text,label,,\n0,a,x,,\n1,b,y,,\n"))
    assert (examples.texts, examples.labels) == (["a", "b"], ["x", "y"])


def test_selected_examples_keep_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x\nb,y\nc,x\n")
    chosen = read_labelled(path).select(np.array([2, 0]))
    assert (chosen.texts, chosen.labels, chosen.place(0)) == (["c", "a"], ["x", "x"], f"{path}:4")
    assert read_labelled(path, Fields(label_column=None, text_columns="text")).select([1]).labels is None


def test_texts_known_from_training_are_counted(tmp_path: Path) -> None:
    train = read_labelled(write(tmp_path / "a.csv", "text,label\na,x\nb,y\n"))
    test = read_labelled(write(tmp_path / "b.csv", "text,label\nb,x\nb,y\nc,y\n"))
    assert (count_shared(train, test), count_shared(test, train)) == (2, 1)


@pytest.fixture
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.usefixtures("hub_cache")
def test_a_dataset_of_the_hub_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl", records([{"id": i, "text": f"text {i}", "label": i % 2} for i in range(4)]))
    examples = read_labelled(f"hub:{tmp_path}:train[1:3]")
    assert (examples.texts, examples.labels) == (["text 1", "text 2"], ["1", "0"])
    assert examples.place(1) == f"hub:{tmp_path}:train[1:3] row 2"
    with pytest.raises(ValueError, match=r"^hub:.*:train must have a column 'class', got 'id', 'text', 'label'\."):
        read_labelled(f"hub:{tmp_path}:train", Fields(label_column="class"))
    names = datasets.ClassLabel(names=["neg", "pos"])
    rows = {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], []]}
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)})
    named = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: named)
    assert read_labelled("hub:x:train").labels == ["pos", "neg"]
    assert read_labelled("hub:x:train", Fields(label_column="tags", text_columns="text")).labels == [("neg", "pos"), ()]
    spaced = datasets.Features({**features, "label": datasets.ClassLabel(names=[" neg", "pos\u00a0"])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict(rows, features=spaced))
    assert read_labelled("hub:x:train").labels == ["pos", "neg"]  # as they are read from files
    hidden = datasets.Dataset.from_dict({**rows, "label": [1, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hidden)
    with pytest.raises(
        ValueError, match=r"hub:x:test row 2 must have a label, got -1\. Texts without labels are for --predict"
    ):
        read_labelled("hub:x:test")


# Labels.


def test_labels_are_text_in_the_spelling_of_the_data(tmp_path: Path) -> None:
    values = [1, 2.5, True, " pos ", "1.0"]
    path = write(tmp_path / "a.jsonl", records([{"text": "t", "label": value} for value in values]))
    assert read_labelled(path).labels == ["1", "2.5", "true", "pos", "1.0"]


def test_several_labels_stand_in_a_list_or_between_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", records([{"text": "t", "label": value} for value in (["a", 2], [], ["b", "b"])]))
    assert read_labelled(path).labels == [("a", "2"), (), ("b",)]
    path = write(tmp_path / "a.csv", "text,label\nt,a | b\nt,\n")
    assert read_labelled(path, Fields(label_separator="|")).labels == [("a", "b"), ()]


# Data that is not what it should be.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,x\nb,c,y\n", r"a\.csv:3 must have 2 fields \('text', 'label'\), got 3\. .*in quotes"),
        ("a.csv", 'text,label\n"a\nb",x\nc\n', r"a\.csv:4 must have 2 fields .* got 1\."),
        ("a.tsv", "text\tlabel\na\tb\tx\n", r"a\.tsv:2 must have 2 fields .* holds '\\t' cannot be written without"),
        ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', r"a\.csv:3 must be a row whose quotes are closed .*unexpected end"),
        ("a.csv", 'text,label\n"a "b" c",x\n', r"a\.csv:2 must be a row whose .* expected after .*--quoting False"),
        ("a.csv", "text,label\na,x\nb\rc,y\n", r"a\.csv:3 has a carriage return inside \(old Mac line ends\?\)"),
        ("a.csv", "text,label\ra,x\rb,y", r"a\.csv:1 has a carriage return inside \(old Mac line ends\?\)"),
        ("a.tsv", "text\tlabel\na\tx\rb\ty\n", r"a\.tsv:2 has a carriage return inside \(old Mac line ends\?\)"),
        (
            "a.csv",
            "text,label\na,x\ntext,label\n",
            r"a\.csv:3 must be a row of data, got the header again \('text', 'la",
        ),
        ("a.tsv", "text\tlabel\na\tx\n\n\ufefftext \tlabel\n", r"a\.tsv:4 must be a row of data, got the header again"),
        ("a.csv", "text;label\na;x\n", r"a\.csv:1 must be columns with ',' between, .* 'text;label'\. .*--delimiter"),
        ("a.tsv", "text,label\na,x\n", r"a\.tsv:1 must be columns with '\\t' between, .* Is the delimiter ','\?"),
        ("a.csv", "text,label,text\na,x,b\n", r"a\.csv:1 must name each column once, got 'text' twice\."),
        ("a.csv", "text,label\n", r"a\.csv must hold at least one text, got nothing\."),
        ("a.csv", "", r"a\.csv must hold at least one text, got nothing\."),
        (
            "a.csv",
            "text,label\na,x\nb,\n",
            r"a\.csv:3 must have a label, got ''\. Texts without labels are for --predict",
        ),
        ("a.csv", "text,label\na, \n", r"a\.csv:2 must have a label, got white space\."),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b"}\n',
            r"a\.jsonl:2 must have a field 'label', got 'text'\.",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 2}\n', r"a\.jsonl:2 must have a field 'text', got 'label'\."),
        ("a.jsonl", '{"text": 3, "label": 1}\n', r"a\.jsonl:1 must have text in 'text', got 3\."),
        ("a.jsonl", '{"text": "a", "label": null}\n', r"a\.jsonl:1 must have a label, got None\."),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', r"a\.jsonl:1 must have a label, got nan\."),
        ("a.jsonl", '{"text": "a", "label": {}}\n', r"a\.jsonl:1 must have a label that is a name, .* got \{\}\."),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1 must be a record with named fields, got \[1\]\."),
        ("a.jsonl", '{"text": \n', r"a\.jsonl:1 must be a JSON record, got 'Expecting value' at column 10\."),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": ["x"]}\n',
            r"a\.jsonl:2 must have labels of the kind before it, 'x', got \('x',\)\.",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b \\ud83d", "label": 2}\n',
            r"a\.jsonl:2 in 'text' must be Unicode text, got a lone surrogate, \\ud83d, at character 3: half of",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": "\\udc00"}\n',
            r"a\.jsonl:1, in a label, must be Unicode text, got .*udc00",
        ),
        ("a.jsonl", '{"text": "a", "label": ["b", "\\udc00"]}\n', r"a\.jsonl:1, in a label, must be Unicode text"),
        ("a.dat", "x\n", r"location must be a \.csv, .* got location=.*a\.dat\. Say what it is: --form csv, tsv"),
    ],
)
def test_wrong_data_is_an_error_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    refuses(message, write(tmp_path / name, content))


def test_json_that_python_does_not_read_is_named(tmp_path: Path) -> None:
    first = '{"text": "a", "label": 1}\n'
    path = write(tmp_path / "a.jsonl", first + "[" * 99999)
    refuses(r"a\.jsonl:2 must be a JSON record of few levels, got one that is nested too deep\.", path)
    path = write(tmp_path / "b.jsonl", first + '{"text": "a", "label": 1, "id": ' + "7" * 5000 + "}\n")
    refuses(r"b\.jsonl:2 must be a JSON record with numbers of at most 4,300 digits, got a longer one\.", path)


def test_half_a_character_is_refused_where_it_is_used_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00", "label": "x", "other": "\\ud83d"}\n')
    assert (read_labelled(path).texts, read_labelled(path).labels) == (["\U0001f600"], ["x"])
    path = write(tmp_path / "b.jsonl", '{"text": "a", "label": "x;\\ud83d"}\n')
    refuses(r"b\.jsonl:1, in a label, must be Unicode text", path, label_separator=";")


def test_what_only_a_table_has_is_refused_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n')
    for name, value in (("columns", ("text", "label")), ("delimiter", ";"), ("quoting", False), ("field_limit", 9)):
        refuses(rf"{name} must be given for tables alone, got {name}=.* for .*a\.jsonl\.", path, **{name: value})


def test_a_delimiter_is_one_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\n")
    for delimiter in ("::", "", "\n", "\r", '"'):
        message = "delimiter must be one character, and no line end or quote, got delimiter="
        refuses(re.escape(f"{message}{delimiter!r}."), path, delimiter=delimiter)
    path = write(tmp_path / "b.tsv", 'text"label\na"x\n')
    assert read_labelled(path, Fields(delimiter='"')).labels == ["x"]  # where quotes enclose nothing


def test_settings_of_a_table_that_cannot_be_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x\n")
    for limit in (0, -5, 1 << 31, 10**30):
        refuses(rf"^field_limit must be from 1 to 2,147,483,647, got field_limit={limit}\.$", path, field_limit=limit)
    assert read_labelled(path, Fields(field_limit=5)).texts == ["a"]
    assert FIELD_LIMIT == 16_777_216
    refuses(r"^columns must name each column once, got 'text' twice\.$", path, columns=("text", "text"))
    refuses(r"^label_separator must be a text, or None where each .* got an empty one\.$", path, label_separator="")
    with pytest.raises(ValueError, match=r"^field_limit must be from 1 to"):
        keep_labelled(str(path), Fields(field_limit=0), cache=Cache(None))


def test_columns_that_are_not_read_may_share_a_name(tmp_path):
    (tmp_path / "a.csv").write_text("x,1,fine,2\n")
    fields = Fields(columns=("label", "_", "text", "_"))
    assert list(read_labelled(str(tmp_path / "a.csv"), fields).texts) == ["fine"]


def test_another_encoding_is_read_by_its_name_and_else_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nok,x\nfür,y\n".encode("latin-1"))
    refuses(
        r"a\.csv:3 must be UTF-8, got byte 0xfc at byte 2 of the line\. Say the encoding .*--encoding latin-1", path
    )
    assert read_labelled(path, Fields(encoding="latin-1")).texts == ["ok", "für"]


def test_a_long_field_is_read_and_one_beyond_the_limit_names_its_line(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 1)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path / name, f"text{delimiter}label\nok{delimiter}x\n{long}{delimiter}y\n")
        assert read_labelled(path).texts == ["ok", long]
        refuses(rf"{name}:3 must have fields of at most 1,000 characters, got a longer", path, field_limit=1000)
    assert csv.field_size_limit() == before < FIELD_LIMIT
    begun = iterate_labelled(tmp_path / "a.csv")
    next(begun)  # and never ended
    assert csv.field_size_limit() == before


def test_as_many_labels_as_texts() -> None:
    with pytest.raises(ValueError, match=r"texts and labels must be as many, got 2 texts and 1 labels\."):
        Examples(texts=["a", "b"], labels=["x"], origin="test", lines=np.array([1, 2]))


def test_a_blank_line_of_a_labelled_text_file_is_no_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x one\n\n \t \n\ty two words\nx\n")
    examples = read_labelled(path)
    assert (examples.texts, examples.labels) == (["one", "two words", ""], ["x", "y", "x"])
    assert [examples.place(index) for index in range(3)] == [f"{path}:1", f"{path}:4", f"{path}:5"]


def test_blank_lines_of_records_are_no_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one", "label": "x"}\n\n  \n{"text": "two", "label": "y"}\n')
    examples = read_labelled(path)
    assert (examples.texts, examples.place(1)) == (["one", "two"], f"{path}:4")


def test_the_test_set_is_read_in_its_own_way_and_counted_among_what_was_learned_from(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20)))
    (tmp_path / "dev.csv").write_text("text,label\nmore,a\n")
    (tmp_path / "test.csv").write_text("said,note,label\nnew,x,a\ntext 3,y,b\ntext 3,z,b\n")
    config = SetsConfig(
        train=str(tmp_path / "train.csv"), validation=str(tmp_path / "dev.csv"), test=str(tmp_path / "test.csv"),
        test_reading=ReadingChanges(text_columns=("said",)),
    )  # fmt: skip
    sets = config.load()
    assert sets.test.texts == ["new", "text 3", "text 3"]
    encoded = sets.encode(ByteTokenizer(), max_length=16, stride=None, cache=Cache(None))
    assert sets.facts(encoded)["test_texts"].endswith("2 of them letter for letter in training")


PAIRS = Examples(
    texts=[("a", "b"), ("ab", ""), ("a", " "), ("a", "b")], labels=None, origin="p.csv", lines=np.array([2, 3, 4, 7])
)


def test_a_pair_is_one_text_of_two_sides() -> None:
    assert (PAIRS.are_pairs, PAIRS.empty) == (True, 2)
    assert len({hash_text(text) for text in [*PAIRS.texts, "a\0b", "ab", "a"]}) == 5  # the sides are apart
    assert 0 <= hash_text("a") < 1 << 64
    others = PAIRS.select([1, 3])
    assert (others.texts, others.lines.tolist()) == ([("ab", ""), ("a", "b")], [3, 7])
    assert (count_shared(PAIRS, others), count_shared(others, PAIRS)) == (2, 3)
    assert others.shown(1) == {"text": ("a", "b")}


def test_sets_are_joined_without_labels_and_are_alike() -> None:
    single = Examples(texts=["x", ""], labels=["1", "2"], origin="s.csv", lines=np.array([1, 5]))
    together = single.joined([single.select([1]), single])
    assert (together.texts, together.lines.tolist()) == (["x", "", "", "x", ""], [1, 5, 5, 1, 5])
    assert (together.labels, together.origin) == (None, "s.csv")
    check_alike(single, None, single)
    with pytest.raises(InputError, match=r"^all sets .* got single texts in s\.csv and pairs in p\.csv\.$"):
        check_alike(single, None, PAIRS)
    with pytest.raises(InputError, match=r"^all sets .* got pairs in p\.csv and single texts in s\.csv\.$"):
        check_alike(PAIRS, single)


def test_a_part_of_kept_texts_has_a_digest_of_its_own() -> None:
    kept = Examples(texts=["a", "b", "c"], labels=None, origin="k", lines=np.arange(1, 4), digest="d")
    parts = [kept.select(chosen).digest for chosen in ([0, 1], [1, 0], [0])]
    assert len(set(parts)) == 3
    assert all(part.startswith("d ") for part in parts)
    assert PAIRS.select([0]).digest is None


def test_a_row_is_named_by_its_number_in_a_dataset_and_its_line_in_a_file() -> None:
    for origin, place in (("hub:x:train", "hub:x:train row 7"), ("p.csv", "p.csv:7")):
        assert Examples(texts=["a"], labels=None, origin=origin, lines=np.array([7])).place(0) == place
