"""Answers without a model."""

import random

import numpy as np
import pytest
import sklearn.feature_extraction.text
import sklearn.linear_model

from lmx.scoring.baselines import (
    dictionary_translations,
    linear_predictions,
    nearest_translations,
    tfidf_predictions,
)

COLORS = {"red": "rot", "blue": "blau", "green": "grün", "gray": "grau"}
THINGS = {"car": "Auto", "house": "Haus", "door": "Tür", "ball": "Ball", "book": "Buch"}


def pairs_in_reverse_order(count: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    pairs = []
    for _ in range(count):
        color, thing = draw.choice(sorted(COLORS)), draw.choice(sorted(THINGS))
        pairs.append((f"{color} {thing}.", f"{THINGS[thing]} {COLORS[color]}."))
    return pairs


def test_the_dictionary_finds_each_word_and_keeps_the_source_order():
    translations = dictionary_translations(pairs_in_reverse_order(200), ["blue door.", "Gray ball."])
    assert translations == ["Blau Tür.", "Grau Ball."]


def test_the_dictionary_explains_frequent_words_away():
    """Der accompanies every noun, yet the noun's own word wins, as in IBM Model 1."""
    train = [("the dog", "der Hund"), ("the bear", "der Bär"), ("the tree", "der Baum"), ("the lion", "der Löwe")]
    assert dictionary_translations(train, ["dog the tree"]) == ["Hund der Baum"]


def test_the_dictionary_lowers_the_capital_of_a_first_word_only_if_it_is_lower_elsewhere():
    train = [("he runs", "Er läuft"), ("runs he", "läuft er"), ("Berlin runs", "Berlin läuft")]
    assert dictionary_translations(train, ["runs he", "runs berlin"]) == ["Läuft er", "Läuft Berlin"]


def test_a_word_that_is_not_in_training_is_copied():
    assert dictionary_translations([("a dog", "ein Hund"), ("a cat", "eine Katze")], ["unknown!"]) == ["Unknown!"]


def test_an_empty_line_translates_to_an_empty_line():
    train = [("a dog", "ein Hund"), ("", "")]
    assert dictionary_translations(train, [""]) == [""]
    assert nearest_translations(train, [""]) == ["ein Hund"]


def test_the_nearest_sentence_is_the_one_that_shares_the_rarest_words():
    train = [("the dog sees the cat", "A"), ("the cow sees the mouse", "B"), ("the dog eats", "C")]
    assert nearest_translations(train, ["the mouse", "the dog eats the bread", "the dog sees the cat"]) == [
        "B",
        "C",
        "A",
    ]


def test_the_earlier_of_two_equally_near_sentences_is_taken():
    assert nearest_translations([("a dog", "first"), ("a dog", "second"), ("cats", "third")], ["a dog"]) == ["first"]


@pytest.mark.parametrize("translate", [dictionary_translations, nearest_translations])
def test_no_training_pairs_is_an_error(translate):
    with pytest.raises(ValueError, match=r"train_pairs must hold at least one pair, got 0 pairs\."):
        translate([], ["a dog"])


@pytest.mark.parametrize("translate", [dictionary_translations, nearest_translations])
def test_there_is_one_translation_a_source(translate):
    assert translate(pairs_in_reverse_order(5), []) == []
    assert len(translate(pairs_in_reverse_order(5), ["red car.", "blue house.", "x"])) == 3


def test_words_and_their_neighbours_tell_the_class():
    train = [
        "a good film",
        "good fun",
        "not good",
        "not a good film",
        "bad film",
        "not bad",
        "not bad fun",
        "a bad film",
    ]
    labels = ["pos", "pos", "neg", "neg", "neg", "pos", "pos", "neg"]
    assert tfidf_predictions(train, labels, ["not bad", "GOOD fun", "bad film", "not good"]) == [
        "pos",
        "pos",
        "neg",
        "neg",
    ]
    pairs = [(text, "x") for text in train]
    assert tfidf_predictions(pairs, labels, [("bad film", "x")]) == ["neg"]


def test_every_training_text_has_a_label():
    with pytest.raises(ValueError, match=r"train_texts must hold a text for each label, got 1 texts and 2 labels\."):
        tfidf_predictions(["a"], ["x", "y"], ["b"])


def test_of_one_class_the_linear_model_knows_one_answer() -> None:
    assert tfidf_predictions(["good film", "a fine one"], ["pos", "pos"], ["bad film", "\U0001f600"]) == ["pos", "pos"]


def test_the_linear_model_has_learned_its_words_before_it_sees_the_test():
    """A text with one word of training is that word, however many others it has."""
    texts, labels = ["red", "red", "blue", "blue", "green"], ["a", "a", "b", "b", "b"]
    asked = ["red", "red one two three four five six seven eight nine ten"]
    assert tfidf_predictions(texts, labels, asked) == ["a", "a"]
    assert tfidf_predictions(texts, labels, asked[1:]) == ["a"]


def test_words_have_hyphens_and_apostrophes_inside_and_marks_stand_apart():
    train = [("a well-known fox's tail", "ein bekannter Schweif"), ("a tail", "ein Schweif"), ("a", "ein")]
    asked = ["well-known, fox's; tail: a? a!", "well known tail. (a"]
    assert dictionary_translations(train, asked) == [
        "Bekannter, bekannter; Schweif: ein? ein!",
        "Well known Schweif. ( ein",
    ]


def test_the_nearest_sentence_has_the_words_as_often():
    """Counts matter on both sides, and so does a word of all sentences."""
    train = [("dog cat", "once"), ("dog dog dog cat", "thrice"), ("cat", "none")]
    assert nearest_translations(train, ["Dog dog dog cat", "dog cat", "CAT"]) == ["thrice", "once", "none"]


def test_the_linear_models_have_the_settings_that_they_say(monkeypatch):
    made = []

    def noting(kind):
        class Noted(kind):
            def __init__(self, **settings):
                super().__init__(**settings)
                made.append(self)

        return Noted

    for module, name in (
        (sklearn.feature_extraction.text, "TfidfVectorizer"),
        (sklearn.linear_model, "LogisticRegression"),
    ):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    assert tfidf_predictions(["a b", "A b", "c b"], ["p", "p", "q"], ["c b"]) == ["q"]  # words of one letter
    words, classes = made
    assert (words.ngram_range, words.sublinear_tf, words.lowercase, words.norm) == ((1, 2), True, True, "l2")
    assert (classes.C, classes.max_iter) == (10, 1000)
    rows = np.array([[0.0, 9.0], [9.0, 0.0], [8.0, 1.0]])
    assert linear_predictions(rows, ["p", "q", "q"], rows[::-1]) == ["q", "q", "p"]
    assert (made[2].C, made[2].max_iter) == (1, 1000)


def test_of_images_of_one_class_too_there_is_one_answer():
    assert linear_predictions(np.eye(2), ["p", "p"], np.ones((3, 2))) == ["p", "p", "p"]
