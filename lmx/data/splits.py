"""Splits into training, development and test sets, by seed, the same on every machine."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Int64

from lmx.data.buckets import permutation
from lmx.data.labelled import Text
from lmx.data.labels import Targets


def stratified_split(
    targets: Targets, *, share: float, seed: int, unit: str = "text"
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " dev"]]:
    """Returns the positions of a training and a development set, each in the order of the file.

    The development set has round(share x texts) of them, and at least one. Where targets are numbers of classes, each
    class gives its share, rounded by largest remainder (the lower class first in a tie), and keeps at least one text
    for training.

    Args:
        unit: what is split, for messages.

    Raises:
        ValueError: share is not between 0 and 1, or leaves a side empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got share={share}.")
    classes = _classes(targets)
    counts = np.bincount(classes)
    total = max(1, round(share * len(classes)))
    quotas = share * counts
    takes = np.floor(quotas).astype(np.int64)  # of a share below 1: never all
    while (missing := total - int(takes.sum())) > 0:
        able = np.flatnonzero(takes < counts - 1)
        if not able.size:
            break
        takes[able[np.argsort(takes[able] - quotas[able], kind="stable")][:missing]] += 1
    dev = np.zeros(len(classes), dtype=bool)
    for number, members in _shuffled_classes(classes, key=(seed, 2)):
        dev[members[: takes[number]]] = True
    if not dev.any():
        one = f"{'an' if unit[0] in 'aeiou' else 'a'} {unit}"
        raise ValueError(
            f"the development set must hold {one}, got none with share={share} of {len(classes):,} {unit}s in "
            f"{np.count_nonzero(counts)} classes, each of which keeps one for training. Give more {unit}s, or a "
            "development set of its own (--validation)."
        )
    return np.flatnonzero(~dev), np.flatnonzero(dev)


def split_wholes(
    texts: Sequence[Text], targets: Targets, *, share: float, seed: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " dev"]]:
    """Returns the positions of a training and a development set, where some texts are parts of others.

    If the training set has phrases beside the sentences they come from (as in SST-2), it would give away the labels of
    a random development set. Here the development set is a share of the wholes, the texts that are in no other text, by
    `stratified_split`. Their parts are in neither set, except those that are also in a whole that trains. A text is
    part of another if the other contains its words (between spaces), one after the other; a text without words trains.

    Raises:
        ValueError: the texts are pairs, share is as `stratified_split` cannot have it, or a class is left without a
            text for training.
    """
    wholes_of = find_wholes(texts)
    worded = [index for index, text in enumerate(texts) if isinstance(text, str) and text.strip()]
    wholes = np.array([index for index in worded if not wholes_of[index]], dtype=np.int64)
    _, chosen = stratified_split(targets[wholes], share=share, seed=seed)
    held_out = set(wholes[chosen].tolist())
    train = [
        index
        for index, found in enumerate(wholes_of)
        if (index not in held_out if not found else any(whole not in held_out for whole in found))
    ]
    classes, learned = _classes(targets), _classes(targets[train])
    if unknown := np.setdiff1d(classes, learned).tolist():
        raise ValueError(
            f"each class must have a text for training, got none of class number {unknown[0]}: only parts of held-out "
            "texts have it. Hold out any texts, or take another seed."
        )
    return np.array(train, dtype=np.int64), wholes[chosen]


def find_wholes(texts: Sequence[Text]) -> list[list[int]]:
    """Returns, for each text, the positions of the wholes that it is part of; a whole is part of no longer text.

    Equal texts are parts of the first of them.

    Raises:
        ValueError: the texts are pairs.
    """
    words: list[tuple[int, ...]] = []
    ids: dict[str, int] = {}
    for text in texts:
        if not isinstance(text, str):
            raise ValueError("texts must be single to have parts, got pairs. Hold out any of them (--dev-of texts).")
        words.append(tuple(ids.setdefault(word, len(ids) + 1) for word in text.split()))
    first: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(words):
        if row:
            first.setdefault(row, index)
    # All different texts one after another, 0 between, and the places in them in the order of what follows there:
    # those where a text begins are neighbours (a suffix array), and are found by bisection.
    tokens = [word for row in first for word in (*row, 0)]
    owners = np.repeat(list(first.values()), [len(row) + 1 for row in first]).astype(np.int64)
    places = _sorted_places(np.array(tokens, dtype=np.int64), longest=max(map(len, words), default=0))
    is_whole = np.zeros(len(words), dtype=bool)
    for row, index in first.items():
        is_whole[index] = len(_range_of(row, tokens, places)) == 1  # its own
    places = [place for place in places if is_whole[owners[place]]]
    found_of: dict[tuple[int, ...], list[int]] = {}
    for row in first:
        holders = {int(owners[places[number]]) for number in _range_of(row, tokens, places)}
        found_of[row] = sorted(holders, key=lambda index: (-len(words[index]), index))
    # A whole is no part of itself; its copies are.
    return [[] if not row or is_whole[index] else found_of[row] for index, row in enumerate(words)]


def _sorted_places(tokens: Int64[np.ndarray, " tokens"], *, longest: int) -> list[int]:
    """Returns all places by the tokens that begin there, `longest` at most: by 1, 2, 4, ... (Manber and Myers 1993)."""
    rank, width = tokens, 1
    while True:
        _, rank = np.unique(rank, return_inverse=True)
        if width >= longest:
            return np.argsort(rank, kind="stable").tolist()
        following = np.zeros_like(rank)
        following[:-width] = rank[width:] + 1
        rank, width = rank * (len(rank) + 1) + following, 2 * width


def _range_of(row: tuple[int, ...], tokens: list[int], places: list[int]) -> range:
    """Returns which of the sorted places the tokens of a row begin at."""
    wanted, length = list(row), len(row)
    begin = bisect_left(places, wanted, key=lambda place: tokens[place : place + length])
    return range(begin, bisect_right(places, wanted, key=lambda place: tokens[place : place + length]))


def folds(
    targets: Targets, *, num_folds: int, seed: int
) -> list[tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]]:
    """Returns the positions of training and test set for each fold; every text is tested once.

    Test sets differ by at most one text, and where targets are numbers of classes, so does each class in them. A class
    with a single text is unknown to the training of its fold: collect `Labels` from all texts.

    Raises:
        ValueError: there are fewer than two folds, or more than texts.
    """
    classes = _classes(targets)
    if not 2 <= num_folds <= len(classes):
        raise ValueError(f"num_folds must be from 2 to the {len(classes):,} texts, got num_folds={num_folds}.")
    # Class after class, shuffled, dealt like cards: neighbours of one class come to different folds.
    order = np.concatenate([members for _, members in _shuffled_classes(classes, key=(seed, 3))])
    fold_of = np.empty(len(classes), dtype=np.int64)
    fold_of[order] = np.arange(len(classes)) % num_folds
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(num_folds)]


def _shuffled_classes(
    classes: Int[np.ndarray, " texts"], *, key: tuple[int, int]
) -> list[tuple[int, Int64[np.ndarray, " members"]]]:
    if key[0] < 0:
        raise ValueError(f"seed must not be negative, got seed={key[0]}.")
    groups = []
    for number in np.unique(classes).tolist():
        members = np.flatnonzero(classes == number)
        groups.append((number, members[permutation(members.size, key=(*key, number))]))
    return groups


def _classes(targets: Int[np.ndarray, " texts"] | Float[np.ndarray, "texts *C"]) -> Int64[np.ndarray, " texts"]:
    """Returns the class of each text; one for all where targets are not numbers of classes."""
    if np.issubdtype(targets.dtype, np.integer):
        return targets.astype(np.int64)
    return np.zeros(len(targets), dtype=np.int64)
