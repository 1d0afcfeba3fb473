"""What is learned from, what chooses the best step and what is reported are never the same data."""

from pathlib import Path

import pytest

from lmx.data.cache import Cache
from lmx.data.image_files import read_digits
from lmx.data.image_sets import ImageSetsConfig
from lmx.data.roles import check_apart
from lmx.data.sets import LocationsConfig, SetsConfig
from lmx.data.text_sets import TextSetsConfig
from lmx.errors import InputError
from lmx.text import ByteTokenizer


@pytest.mark.parametrize("other", ["a.csv", "./a.csv", "b/../a.csv", "{here}/a.csv", "link.csv"])
@pytest.mark.parametrize("names", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_one_file_is_one_set_however_it_is_written(names, other, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / "link.csv").symlink_to("a.csv")
    other = other.format(here=tmp_path)
    given = {"train": "train.csv"} | dict(zip(names, ("a.csv", other), strict=True))
    with pytest.raises(InputError) as caught:
        LocationsConfig(**given).check()
    assert str(caught.value).startswith(f"{names[1]} must be another set than {names[0]}, got {other} for both. ")


def test_files_and_datasets_of_their_own_may_stand_side_by_side(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    LocationsConfig(train="a.csv", validation="b/a.csv", test="a.csv.gz").check()
    LocationsConfig(train="hub:a/b:train", validation="hub:a/b:validation", test="hub:a/b:test").check()
    LocationsConfig(train="a.npz:train", test="a.npz:test").check()
    check_apart({"train": ["stream:a:train[1000:]"], "validation": ["stream:a:train[:1000]"]}, way_out="")
    with pytest.raises(InputError, match="got hub:a/b:train for both"):
        LocationsConfig(train="hub:a/b:train", test="hub:a/b:train").check()


def test_a_location_is_embedded_for_its_own_task_alone() -> None:
    for kind, own, other in ((SetsConfig, "stdlib", "digits"), (ImageSetsConfig, "digits", "stdlib")):
        kind(train=own, test=own).check()
        with pytest.raises(InputError, match=f"test must be another set than train, got {other} for both"):
            kind(train=other, test=other).check()


# Digits have a part to learn from and one to be tested on: none is left to choose by.


@pytest.mark.parametrize("given", [{}, {"test": "digits"}, {"folds": 3}])
def test_digits_choose_no_step(given) -> None:
    config = ImageSetsConfig(train="digits", validation="digits", **given)
    with pytest.raises(InputError) as caught:
        config.load(fold=1 if "folds" in given else None)
    assert str(caught.value) == (
        "validation must be other images than digits, which have a part to learn from and one to be tested on. "
        "Leave validation out to hold out a share of train."
    )


@pytest.mark.parametrize("given", [{}, {"test": "digits"}, {"folds": 3}])
def test_images_that_choose_are_none_of_those_that_test(given) -> None:
    sets = ImageSetsConfig(train="digits", **given).load(fold=2 if "folds" in given else None)
    parts = [set(part.lines.tolist()) for part in (sets.train, sets.dev, sets.test)]
    whole = set(read_digits("all").lines.tolist())
    assert sum(map(len, parts)) == len(whole)
    assert set.union(*parts) == whole


# Running text: what has a file in common is one text, at least in part.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "a.txt", "validation": "./a.txt"}, "validation must be another set than train, got a.txt for both"),
        ({"train": "folder", "validation": "folder/b.txt"}, "validation must be another set than train"),
        ({"train": "a.txt,c.txt", "validation": "c.txt"}, "validation must be another set than train"),
        ({"train": "a.txt*0.5,c.txt*0.5", "validation": "c.txt"}, "validation must be another set than train"),
        ({"train": "a.txt", "validation": "lines:a.txt"}, "validation must be another set than train"),
        ({"train": "a.txt", "test": "a.txt"}, "test must be another set than train"),  # which holds out its end
        ({"train": "a.txt", "validation": "c.txt", "test": "c.txt"}, "test must be another set than validation"),
        ({"train": "stdlib", "validation": "stdlib"}, "validation must be another set than train"),
        ({"train": "stdlib", "test": "stdlib"}, "test must be another set than train"),
    ],
)
def test_running_text_that_is_learned_from_judges_nothing(given, message, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "folder/b.txt", "c.txt"):
        (tmp_path / name).write_text("some text\n" * 20, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        TextSetsConfig(**given).load(lambda train: pytest.fail("a vocabulary was learned"), Cache(None))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("leave validation out to hold out the end of train.")


def test_each_running_text_has_its_part(tmp_path: Path) -> None:
    texts = {"train": "first", "validation": "second one", "test": "and the third"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    given = {name: str(tmp_path / f"{name}.txt") for name in texts}
    learned = []
    sets = TextSetsConfig(**given).load(lambda train: learned.append(train.origin) or ByteTokenizer(), Cache(None))
    assert learned == [given["train"]]
    for name, text in texts.items():
        assert ByteTokenizer().decode(getattr(sets, name).document(0)) == text
    given["test"] = None
    assert TextSetsConfig(**given).load(lambda train: ByteTokenizer(), Cache(None)).test is None
