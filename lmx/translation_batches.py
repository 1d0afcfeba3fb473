"""Which translations are made together: batches of one padded length, so that few programs are compiled."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt

from lmx.decoding import NEVER
from lmx.text import Tokenizer

# Source lengths are rounded up to these, so that few programs are compiled; beyond the last, to its multiples.
LENGTHS = (8, 16, 32, 64, 128)


class Asked(NamedTuple):
    """A translation to be made or scored.

    Attributes:
        line: the number of its source.
        source: the ids of the source, with its end.
        target: the ids that the translation begins with, or the whole target.
        room: how many tokens the target needs beside those that a source of this length gets.
        draw: which draw of this source it is.
    """

    line: int
    source: list[int]
    target: list[int]
    room: int = 0
    draw: int = 0


@dataclass(frozen=True)
class Translation:
    """One translated line: its text, its ids and the penalised log-probability that ranked it (0 if greedy).

    The text is one line: a line end among the ids becomes a space. A forced first word is among the ids alone. Where
    the rules of a search allow no translation, the text is empty and the score minus infinity.
    """

    text: str
    ids: tuple[int, ...]
    score: float


def round_up(length: int, longest: int | None) -> int:
    """Returns the length that a row is padded to, at most `longest`."""
    rounded = next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])
    return rounded if longest is None else min(rounded, max(longest, length))


def in_groups(
    asked: Sequence[Asked], *, longest: int | None, rows: Callable[[int, int], int]
) -> list[tuple[int, int, list[Asked]]]:
    """Returns (padded length, room, members) of each batch.

    Args:
        longest: number of positions that the model has, if it ends.
        rows: most rows of a batch, of its padded length and of how many there are.
    """
    padded = [(round_up(len(one.source), longest), one.room) for one in asked]
    groups = []
    for length, room in sorted(set(padded)):
        members = [one for one, shape in zip(asked, padded, strict=True) if shape == (length, room)]
        members.sort(key=lambda one: len(one.source))  # stable: then by their order
        size = rows(max(length, room), len(members))
        groups += [(length, room, members[start : start + size]) for start in range(0, len(members), size)]
    return groups


def beginnings(prefixes: Sequence[str], tokenizer: Tokenizer, *, most: int, special: frozenset[int]) -> list[list[int]]:
    """Returns the ids of what translations begin with.

    Args:
        most: tokens of a prefix.
        special: ids that no prefix may hold.

    Raises:
        ValueError: a prefix is longer, or holds one of these; the message names its number.
    """
    found = [tokenizer.encode(prefix) if prefix else [] for prefix in prefixes]
    for number, ids in enumerate(found, start=1):
        if len(ids) > most:
            raise ValueError(
                f"a prefix must have at most {most} tokens, so that the model can write one more, got {len(ids)} in "
                f"prefix {number}."
            )
        if wrong := [each for each in ids if each in special]:
            piece = tokenizer.pieces(wrong)[0]
            raise ValueError(f"a prefix must hold words, got the special piece {piece} in prefix {number}.")
    return found


def filled(rows: Sequence[Sequence[int]], shape: tuple[int, int], *, fill: int) -> Int[np.ndarray, "B T"]:
    """Returns rows of ids with `fill` behind and below them."""
    array = np.full(shape, fill, np.int32)
    for row, ids in enumerate(rows):
        array[row, : len(ids)] = ids
    return array


def settled(tokens: Int[np.ndarray, "W T"], scores: Float[np.ndarray, " W"], *, end: int) -> bool:
    """Returns whether a search whose longest length was T found what it would find under a longer one.

    So it is where there are as many hypotheses as beams, and none reached that length: the search was done before, or
    what it would have gone on with was no better. See `lmx.search.Search.settles`.
    """
    ended = (tokens == end).argmax(-1) < tokens.shape[-1] - 1
    return bool((ended & (tokens == end).any(-1) & (scores > NEVER / 2)).all())


def draw_numbers(asked: Sequence[Asked], rows: int) -> UInt[np.ndarray, "B 3"]:
    """Returns what the randomness of each row is made of beside the seed: its source, and which draw it is."""
    numbers = np.zeros((rows, 3), np.uint32)
    for row, one in enumerate(asked):
        said = hashlib.blake2b(np.asarray(one.source, "<i8").tobytes(), digest_size=8).digest()
        numbers[row] = [*np.frombuffer(said, "<u4"), one.draw]
    return numbers
