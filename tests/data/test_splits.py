import numpy as np
import pytest

from lmx.data import splits
from lmx.data.splits import find_wholes, folds, split_wholes, stratified_split


def classes(size: int = 1003, num_classes: int = 5) -> np.ndarray:
    shares = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    return np.random.default_rng(1).choice(num_classes, size=size, p=shares).astype(np.int32)


def test_a_split_keeps_the_share_of_every_class() -> None:
    targets = classes()
    train, dev = stratified_split(targets, share=0.1, seed=3)
    assert sorted([*train, *dev]) == list(range(len(targets)))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(dev) > 0)
    assert len(dev) == round(0.1 * len(targets))
    assert np.all(np.abs(np.bincount(targets[dev]) - 0.1 * np.bincount(targets)) < 1)


def test_a_split_depends_on_the_seed_alone_and_is_the_one_of_earlier_versions() -> None:
    targets = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1], dtype=np.int32)
    first, again, other = (stratified_split(targets, share=0.4, seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first == [1, 6, 8, 10, 11]
    assert folds(targets, num_folds=5, seed=0)[0][1].tolist() == [1, 8, 10]


def test_a_class_keeps_a_text_for_training() -> None:
    train, dev = stratified_split(np.array([0] * 8 + [1, 2], dtype=np.int32), share=0.5, seed=0)
    assert {8, 9} <= set(train.tolist())
    assert len(dev) == 5
    with pytest.raises(ValueError, match=r"development set must hold a text, got none with share=0\.5 of 3 texts in 3"):
        stratified_split(np.arange(3, dtype=np.int32), share=0.5, seed=0)


def test_few_texts_leave_one_to_choose_by() -> None:
    train, dev = stratified_split(np.array([0, 1, 0], dtype=np.int32), share=0.1, seed=0)
    assert (len(train), len(dev)) == (2, 1)
    assert 1 in train


def test_real_numbers_and_several_labels_are_split_without_classes() -> None:
    for targets in (np.linspace(0, 1, 40, dtype=np.float32), np.eye(40, 7, dtype=np.float32)):
        train, dev = stratified_split(targets, share=0.25, seed=0)
        assert (len(train), len(dev)) == (30, 10)
        assert [len(test) for _, test in folds(targets, num_folds=7, seed=0)] == [6, 6, 6, 6, 6, 5, 5]


def test_every_text_is_tested_in_one_fold() -> None:
    targets = classes()
    made = folds(targets, num_folds=7, seed=0)
    assert sorted(np.concatenate([test for _, test in made]).tolist()) == list(range(len(targets)))
    counts = np.array([np.bincount(targets[test], minlength=5) for _, test in made])
    assert np.all(np.ptp(counts, axis=0) <= 1)
    assert np.ptp(counts.sum(axis=1)) <= 1
    for train, test in made:
        assert sorted([*train, *test]) == list(range(len(targets)))
    assert made[0][1].tolist() != folds(targets, num_folds=7, seed=1)[0][1].tolist()


def test_wrong_splits_are_refused() -> None:
    targets = classes(size=9)
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"share must be between 0 and 1, got share={share}\."):
            stratified_split(targets, share=share, seed=0)
    for number in (1, 10):
        with pytest.raises(ValueError, match=rf"num_folds must be from 2 to the 9 texts, got num_folds={number}\."):
            folds(targets, num_folds=number, seed=0)
    with pytest.raises(ValueError, match=r"seed must not be negative, got seed=-1\."):
        folds(targets, num_folds=3, seed=-1)


# Texts that are parts of others.


def test_a_part_has_its_words_side_by_side_in_a_whole() -> None:
    texts = ["a b c d", "b c", "a c", "c d e", "b c", "d", "", "ab", "a b c d"]
    assert find_wholes(texts) == [[], [0], [], [], [0], [0, 3], [], [], [0]]
    with pytest.raises(ValueError, match=r"texts must be single to have parts, got pairs\."):
        find_wholes([("a", "b")])


def test_texts_without_words_train_and_every_class_has_a_text_that_trains() -> None:
    texts = ["a b", "c d", "e f", "g h", "", " "]
    train, dev = split_wholes(texts, np.zeros(6, np.int32), share=0.5, seed=0)
    assert len(dev) == 2
    assert {4, 5} <= set(train.tolist())
    # The words alone have classes of their own: those of held-out texts would be unknown.
    with pytest.raises(ValueError, match=r"each class must have a text for training, got none of class number \d: "):
        split_wholes([*texts[:4], *"aceg"], np.array([0, 0, 0, 0, 1, 2, 3, 4], np.int32), share=0.25, seed=0)


def test_wholes_are_held_out_with_all_parts_that_no_training_text_has() -> None:
    generator = np.random.default_rng(0)
    sentences = [[f"w{number}" for number in generator.integers(0, 300, size=12)] for _ in range(60)]
    texts, targets = [], []
    for number, words in enumerate(sentences):
        for start, size in [(0, 12), (0, 5), (5, 7), (6, 2), (6, 1)]:
            texts.append(" ".join(words[start : start + size]))
            targets.append(number % 2)
    labels = np.array(targets, dtype=np.int32)
    train, dev = split_wholes(texts, labels, share=0.2, seed=1)
    assert len(dev) == 12
    assert np.bincount(labels[dev]).tolist() == [6, 6]
    assert all(len(texts[index].split()) == 12 for index in dev)
    # What is longer than a word is in one sentence only; words alone may be in several.
    held_out, learned = {index // 5 for index in dev}, set(train.tolist())
    for index in range(len(texts)):
        if index % 5 < 4:
            assert (index in learned) == (index // 5 not in held_out)
    for index in set(range(len(texts))) - learned - set(dev.tolist()):
        assert not any(f" {texts[index]} " in f" {texts[other]} " for other in learned)
    assert split_wholes(texts, labels, share=0.2, seed=1)[1].tolist() == dev.tolist()
    assert split_wholes(texts, labels, share=0.2, seed=2)[1].tolist() != dev.tolist()


def plainly(texts: list[str]) -> list[list[int]]:
    """What `find_wholes` says it returns, by comparing each text with each."""
    words = [f" {' '.join(text.split())} " for text in texts]
    order = sorted(range(len(texts)), key=lambda index: -len(words[index].split()))
    found: list[list[int]] = [[] for _ in texts]
    wholes: list[int] = []
    for index in order:
        if texts[index].split():
            found[index] = [whole for whole in wholes if words[index] in words[whole]]
            if not found[index]:
                wholes.append(index)
    return found


def test_wholes_are_found_as_by_comparing_all() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        rows = generator.integers(0, 3, size=(generator.integers(0, 12), 6))
        texts = [" ".join("abc"[word] for word in row[: row[0] * 2]) for row in rows]
        assert find_wholes(texts) == plainly(texts), texts


def test_looking_for_wholes_does_not_grow_with_the_square(monkeypatch) -> None:
    looked = 0

    def counted(real):
        def bisect(places, wanted, *, key):
            def counting(place):
                nonlocal looked
                looked += 1
                return key(place)

            return real(places, wanted, key=counting)

        return bisect

    for name in ("bisect_left", "bisect_right"):
        monkeypatch.setattr(splits, name, counted(getattr(splits, name)))
    work = []
    for number in (200, 800):
        looked = 0
        # One word that all have: each text would be compared with each that is no part of another.
        texts = [f"the {index} of {index * 7}" for index in range(number)] + [
            f"of {index * 7}" for index in range(number)
        ]
        assert sum(map(bool, find_wholes(texts))) == number
        work.append(looked)
    assert work[1] < 6 * work[0]  # four times the texts, and a logarithm; by the square 16 times


def test_classes_are_shuffled_each_by_itself() -> None:
    targets = np.repeat([0, 1], 60).astype(np.int32)
    _, dev = stratified_split(targets, share=0.5, seed=3)
    first, second = dev[dev < 60], dev[dev >= 60] - 60
    assert len(first) == len(second) == 30
    assert 5 < len(np.intersect1d(first, second)) < 25  # 15 by chance


def test_of_equal_claims_the_lower_class_gives_first_and_what_is_split_has_its_name() -> None:
    _, dev = stratified_split(np.repeat([0, 1, 2], 5).astype(np.int32), share=0.1, seed=0)
    assert (dev // 5).tolist() == [0, 1]
    for unit, said in (
        ("image", "an image, .* of 3 images"),
        ("source sentence", "a source sentence, .* of 3 source s"),
    ):
        with pytest.raises(ValueError, match=f"must hold {said}.*Give more {unit}s, or a"):
            stratified_split(np.arange(3, dtype=np.int32), share=0.5, seed=0, unit=unit)
    with pytest.raises(ValueError, match=r"num_folds must be from 2 to the 1,200 texts, got num_folds=1201\."):
        folds(np.zeros(1200, np.int32), num_folds=1201, seed=0)
    assert len(folds(np.zeros(3, np.int32), num_folds=3, seed=0)) == 3
