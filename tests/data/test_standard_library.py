"""Sentences of Python's library: they look like sentences, the split is honest, the areas can be learned."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lmx.data import embedded
from lmx.data import standard_library as module
from lmx.data.labelled import Examples, count_shared
from lmx.data.labels import Labels
from lmx.data.sets import SetsConfig
from lmx.data.standard_library import AREAS, FEWEST_WORDS, sentences_of, standard_library

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def splits() -> dict[str, Examples]:
    return {split: standard_library(split) for split in SPLITS}


@pytest.fixture(scope="module")
def read_anew() -> dict:
    """What another process reads, with another hash seed: seconds it took, modules it has then, and the test set."""
    program = (
        "import json, sys, time; from lmx.data.embedded import standard_library; began = time.process_time();"
        "test = standard_library('test'); seconds = time.process_time() - began;"
        "print(json.dumps({'seconds': seconds, 'modules': [*sys.modules], 'test': [test.texts, test.labels]}))"
    )
    command, environment = [sys.executable, "-c", program], os.environ | {"PYTHONHASHSEED": "7"}
    return json.loads(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout)


def test_it_is_found_with_the_other_embedded_data():
    assert embedded.standard_library is standard_library


def test_there_are_thousands_of_sentences(splits: dict[str, Examples]):
    # An installation may lack `tkinter`, a tenth of the whole.
    assert len(splits["train"]) > 5_000
    assert len(splits["validation"]) > 700
    assert len(splits["test"]) > 1_500


def test_a_sentence_is_named_by_its_number(splits: dict[str, Examples]):
    first, last = (splits["test"].place(number) for number in (0, len(splits["test"]) - 1))
    assert first.endswith("test:1")
    assert last.endswith(f"test:{len(splits['test'])}")


def test_every_area_is_in_every_split(splits: dict[str, Examples]):
    assert len(AREAS) >= 8
    for examples in splits.values():
        assert set(examples.labels) == set(AREAS)
    assert Labels.of(splits["train"]).names == tuple(AREAS)


def test_no_area_outweighs_the_others(splits: dict[str, Examples]):
    for examples in splits.values():
        shares = [count / len(examples) for count in Counter(examples.labels).values()]
        assert max(shares) < 0.2
        assert min(shares) > 0.02


def test_no_sentence_is_in_two_splits_or_twice_in_one(splits: dict[str, Examples]):
    for split, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert count_shared(splits[split], splits[other]) == 0
    for examples in splits.values():
        contents = ["".join(filter(str.isalnum, text.lower())) for text in examples.texts]
        assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("given", [{}, {"validation": "stdlib"}, {"validation": "stdlib", "test": "stdlib"}])
def test_each_set_of_a_classification_is_a_split_of_its_own(splits: dict[str, Examples], given: dict):
    config = SetsConfig(**given)
    config.check()
    sets = config.load()
    assert [found.texts for found in (sets.train, sets.dev, sets.test)] == [splits[name].texts for name in SPLITS]


def test_what_folds_are_chosen_by_is_in_none_of_them(splits: dict[str, Examples]):
    sets = SetsConfig(folds=3, validation="stdlib").load(fold=2)
    assert sets.dev.texts == splits["validation"].texts
    assert len(sets.train) + len(sets.test) == len(splits["train"])
    assert not set(sets.test.texts) & {*sets.train.texts, *sets.dev.texts}


def test_no_class_or_function_is_in_two_splits():
    units = [{sentence.unit for sentence in module._splits()[split]} for split in SPLITS]
    assert min(map(len, units)) > 100
    assert sum(map(len, units)) == len(set().union(*units))


def test_sentences_look_like_sentences(splits: dict[str, Examples]):
    for examples in splits.values():
        for text in examples.texts:
            assert isinstance(text, str)
            assert text[0].isupper() and text[-1] in ".!?"  # noqa: PT018 -- two halves of one fact
            assert len(text.split()) >= FEWEST_WORDS
            assert text == " ".join(text.split())
            assert not any(prompt in text for prompt in (">>>", "... ", "-----", "=====")), text


def test_another_process_reads_the_same_whatever_its_hash_seed(splits: dict[str, Examples], read_anew: dict):
    texts, labels = read_anew["test"]
    assert texts == splits["test"].texts
    assert labels == splits["test"].labels


def test_reading_imports_nothing_and_takes_seconds(read_anew: dict):
    assert read_anew["seconds"] < 10
    assert not {"tkinter", "turtle", "antigravity", "smtplib", "pdb"} & set(read_anew["modules"])


def test_the_areas_can_be_learned(splits: dict[str, Examples]):
    # By naive Bayes, which counts words: the linear baseline takes ten seconds for as much.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    train, dev = splits["train"], splits["validation"]
    count = CountVectorizer()
    model = MultinomialNB().fit(count.fit_transform(train.texts), train.labels)
    accuracy = (model.predict(count.transform(dev.texts)) == np.asarray(dev.labels)).mean()
    majority = Counter(dev.labels).most_common(1)[0][1] / len(dev)
    assert accuracy > 3 * majority
    assert accuracy < 0.9


def test_sentences_are_cut_out_of_prose_and_nothing_else():
    docstring = """join(path, *paths) -> str

    Join one or more path components, e.g. those of
    a folder.  Where does this second sentence begin?  `quoted` words
    do not begin a sentence but end one with the word before.

    Too short.
    This paragraph is one that never comes to its end

    The Example Section Of This Function.
    -------------------------------------

    - The first item of a list stands alone.
    - The second item does so, too, here.

        The indented paragraph is one of its own.
    :param path: The path that is joined with all others.

    >>> join("The output looks like a sentence.")
    The output of an example is not a sentence.

    Raises x[0] = y.z(1) == "a" when f(2) != None or {}.
    The values are as follows: ...
    """
    assert list(sentences_of(docstring)) == [
        "Join one or more path components, e.g. those of a folder.",
        "Where does this second sentence begin?",
        "The indented paragraph is one of its own.",
    ]


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match=r"split must be one of train, validation, test, got split=dev\."):
        standard_library.__wrapped__("dev")  # pyright: ignore[reportFunctionMemberAccess]


def test_a_python_without_sources_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="must hold the sources of Python's library, got none"):
        list(module._read(tmp_path))


def test_equal_sentences_of_two_areas_are_dropped():
    def sentence(text: str, area: str, unit: str) -> module._Sentence:
        return module._Sentence(text, area, unit)

    first, again = sentence("Close the file.", "files", "a"), sentence("Close  the file!", "files", "b")
    here, there = sentence("Return it.", "files", "a"), sentence("return it", "types", "c")
    assert module._distinct([first, here, again, there]) == [first]
