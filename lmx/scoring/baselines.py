"""Answers without a Transformer, for a score to mean something beside them.

Here live baselines that read the training set and nothing else: for translation a word-for-word dictionary and the
nearest training sentence, for classification a linear model of weighted words. They take and return plain text and
labels; scoring them is `lmx.scoring.translation`'s and `lmx.scoring.classification`'s.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Words (with inner apostrophes and hyphens) and single marks.
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = re.compile(r"\s+([.,!?;:])")


def dictionary_translations(
    train_pairs: Sequence[tuple[str, str]], sources: Sequence[str], *, iterations: int = 5
) -> list[str]:
    """Translates word for word, in source order, with a dictionary learned from the training pairs.

    Each source word becomes the target word w with the highest t(w | source word) of IBM Model 1 (Brown et al. 1993),
    from a start in proportion to the words' co-occurrence. Source words are compared in lower case; a target
    sentence's first word loses its capital unless it has it elsewhere too. A source word not in training is copied.

    Raises:
        ValueError: there are no training pairs.
    """
    _check_pairs(train_pairs)
    source_ids, source_words = _number([_words(source) for source, _ in train_pairs])
    target_ids, target_words = _number(_without_initial_capitals([_TOKEN.findall(target) for _, target in train_pairs]))
    best = _best_translations(source_ids, target_ids, len(source_words), len(target_words), iterations)
    names = list(target_words)
    dictionary = {word: names[best[index]] for word, index in source_words.items() if best[index] >= 0}
    return [_sentence([dictionary.get(word.lower(), word) for word in _TOKEN.findall(source)]) for source in sources]


def nearest_translations(train_pairs: Sequence[tuple[str, str]], sources: Sequence[str]) -> list[str]:
    """Returns for each source the translation of the training sentence nearest to it.

    Nearest by the cosine of TF-IDF vectors of words in lower case: raw counts times log((1 + N) / documents), so that a
    word of all sentences counts too (else as Manning et al. 2008, section 6.3); the earlier of two as near. A source
    that shares no word with training takes the first pair's translation.

    Raises:
        ValueError: there are no training pairs.
    """
    _check_pairs(train_pairs)
    sentences = [Counter(_words(source)) for source, _ in train_pairs]
    total = len(sentences)
    rows: dict[str, list[int]] = {}
    counts: dict[str, list[int]] = {}
    for row, sentence in enumerate(sentences):
        for word, count in sentence.items():
            rows.setdefault(word, []).append(row)
            counts.setdefault(word, []).append(count)
    # One posting list a word: the rows that have it and its weight there.
    postings: dict[str, tuple[Int[np.ndarray, "postings"], Float[np.ndarray, "postings"]]] = {}
    squares = np.zeros(total)
    weights = {word: np.log((1 + total) / len(having)) for word, having in rows.items()}
    for word, having in rows.items():
        index, value = np.asarray(having), weights[word] * np.asarray(counts[word], np.float64)
        squares[index] += value**2
        postings[word] = index, value
    norms = np.sqrt(np.maximum(squares, 1e-12))

    translations = []
    for source in sources:
        scores = np.zeros(total)
        for word, count in Counter(_words(source)).items():
            if word in postings:
                index, value = postings[word]
                scores[index] += count * weights[word] * value
        translations.append(train_pairs[int(np.argmax(scores / norms))][1])
    return translations


def tfidf_predictions(
    train_texts: Sequence[str | tuple[str, str]], train_labels: Sequence[str], texts: Sequence[str | tuple[str, str]]
) -> list[str]:
    r"""Returns the label of each text by logistic regression on TF-IDF of words and pairs of neighbouring words.

    Words are those of `\w+` in lower case, single letters too. A weight is (1 + log count) (1 + log((1 + N) / (1 +
    documents))), and a text's weights have length 1; C = 10, at most 1,000 steps of L-BFGS. The settings are fixed, not
    chosen on any development set. Two texts of a pair are read as one. Where all labels are one, that is
    the answer to every text.

    Raises:
        ValueError: there is not one label for each training text.
    """
    if len(train_texts) != len(train_labels) or not train_texts:
        raise ValueError(
            "train_texts must hold a text for each label, got "
            f"{len(train_texts):,} texts and {len(train_labels):,} labels."
        )
    if len(set(train_labels)) == 1:
        return [train_labels[0]] * len(texts)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+")
    features = vectorizer.fit_transform(map(_one_text, train_texts))
    classifier = LogisticRegression(C=10.0, max_iter=1000).fit(features, list(train_labels))
    return [str(label) for label in classifier.predict(vectorizer.transform(map(_one_text, texts)))]


def linear_predictions(
    train: Float[np.ndarray, "images values"], train_labels: Sequence[str], others: Float[np.ndarray, "others values"]
) -> list[str]:
    """Returns the label of each row of numbers, such as the pixels of an image, by logistic regression.

    C = 1, scikit-learn's own, at most 1,000 steps of L-BFGS; fixed, not chosen on any development set. Where all labels
    are one, that is the answer to every row.
    """
    if len(set(train_labels)) == 1:
        return [train_labels[0]] * len(others)
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=1000).fit(train, list(train_labels))
    return [str(label) for label in classifier.predict(others)]


def _one_text(text: str | tuple[str, str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _check_pairs(train_pairs: Sequence[tuple[str, str]]) -> None:
    if not train_pairs:
        raise ValueError("train_pairs must hold at least one pair, got 0 pairs.")


def _words(text: str) -> list[str]:
    return [word.lower() for word in _TOKEN.findall(text)]


def _number(sentences: Sequence[Sequence[str]]) -> tuple[list[list[int]], dict[str, int]]:
    """Returns the sentences as ids and the ids of the words, in order of appearance."""
    ids: dict[str, int] = {}
    return [[ids.setdefault(word, len(ids)) for word in sentence] for sentence in sentences], ids


def _without_initial_capitals(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    inside = Counter(word for sentence in sentences for word in sentence[1:])
    lowered = []
    for sentence in sentences:
        words = list(sentence)
        if words and inside[words[0].lower()] > inside[words[0]]:
            words[0] = words[0].lower()
        lowered.append(words)
    return lowered


def _best_translations(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    num_sources: int,
    num_targets: int,
    iterations: int,
) -> Int[np.ndarray, "V"]:
    """Returns the most probable target id of each source id, -1 where a word has no counterpart."""
    # Every (source word, target word) of every pair is one link; links of one target word compete.
    source_of, target_of, slot_of, slot = [], [], [], 0
    for source, target in zip(sources, targets, strict=True):
        if source and target:
            source_of.append(np.tile(source, len(target)))
            target_of.append(np.repeat(target, len(source)))
            slot_of.append(np.repeat(np.arange(slot, slot + len(target)), len(source)))
            slot += len(target)
    best = np.full(num_sources, -1)
    if not source_of:
        return best
    slots = np.concatenate(slot_of)
    codes, link = np.unique(
        np.concatenate(source_of).astype(np.int64) * num_targets + np.concatenate(target_of), return_inverse=True
    )
    owner = codes // num_targets
    expected = np.bincount(link, minlength=len(codes)).astype(np.float64)
    for _ in range(iterations):
        probability = expected / np.bincount(owner, weights=expected, minlength=num_sources)[owner]
        share = probability[link]
        share /= np.bincount(slots, weights=share)[slots]
        expected = np.bincount(link, weights=share, minlength=len(codes))
    # Sorted by source, then probability: the last of each source is its best.
    order = np.lexsort((expected, owner))
    best[owner[order]] = (codes % num_targets)[order]
    return best


def _sentence(words: Sequence[str]) -> str:
    text = _NO_SPACE_BEFORE.sub(r"\1", " ".join(words))
    return text[:1].upper() + text[1:]
