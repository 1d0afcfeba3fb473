"""Corpora mixed by weight: which one row i is of, as a function of i alone, met within a row at every i."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any

import numpy as np
from jaxtyping import Int64

from lmx.data.cache import digest_of
from lmx.data.shards import TokenCorpus

LONGEST_PERIOD = 100_000  # rows after which the sources come in the same order again


@dataclass(frozen=True)
class Mixture:
    """Corpora, and the share of rows that each gives, whatever its size.

    Attributes:
        weights: relative ones, as they are written.
    """

    corpora: tuple[TokenCorpus, ...]
    weights: tuple[str, ...]

    @property
    def identity(self) -> str:
        """What tells this mixture from others."""
        return digest_of([[corpus.digest for corpus in self.corpora], self.weights])

    @property
    def origin(self) -> str:
        """Where the text is, for messages."""
        return ",".join(f"{each.origin}*{weight}" for each, weight in zip(self.corpora, self.weights, strict=True))

    def __getattr__(self, name: str) -> Any:
        """Returns the number of tokens, documents, bytes or words of all corpora together."""
        if name not in ("num_tokens", "num_documents", "num_bytes", "num_words"):
            raise AttributeError(f"Mixture has no {name}.")
        return sum(getattr(corpus, name) for corpus in self.corpora)

    def described(self) -> str:
        """Returns what each corpus is, and its share."""
        total = sum(map(Fraction, self.weights))
        shares = [float(Fraction(weight) / total) for weight in self.weights]
        return "; ".join(f"{share:.1%} {one.described()}" for share, one in zip(shares, self.corpora, strict=True))


class MixedRows:
    """Rows of several sources: of the first i rows, each source gives its share of i, rounded up or down.

    Which source a row is of repeats after a period, the common denominator of the shares. Within it, the j-th row of a
    source with share w comes among the rows j / w to (j + 1) / w, rounded outwards; of those that may come, the one
    goes first that must come soonest (Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress"). Each source
    gives its own rows in its own order, one after another, and so is read evenly.

    Raises:
        ValueError: the period is too long, or a weight is not positive.
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[str]):
        self.sources = list(sources)
        self._source, self._rank, self._counts = plan_period(weights)
        self.rows_per_epoch = sum(source.rows_per_epoch for source in sources)

    def rows(self, numbers: Int64[np.ndarray, " rows"]) -> dict[str, np.ndarray]:
        """Returns the raw rows of some numbers."""
        source, own = self.place(numbers)
        arrays: dict[str, np.ndarray] = {}
        for number in np.unique(source):
            here = source == number
            for name, array in self.sources[number].rows(own[here]).items():
                whole = arrays.setdefault(name, np.zeros((numbers.size, array.shape[1]), array.dtype))
                whole[here] = array
        return arrays

    def tokens(self, numbers: Int64[np.ndarray, " rows"], *, length: int) -> int:
        """Returns how many of the first places of some rows hold a token, all together."""
        source, own = self.place(numbers)
        found = np.unique(source)
        return sum(self.sources[number].tokens(own[source == number], length=length) for number in found)

    def in_order(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields raw rows of all text, source after source."""
        return itertools.chain.from_iterable(source.in_order() for source in self.sources)

    def place(
        self, numbers: Int64[np.ndarray, " rows"]
    ) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
        """Returns the source of each of some rows, and its number among the source's rows."""
        period, place = np.divmod(numbers, len(self._source))
        source = self._source[place]
        return source, period * self._counts[source] + self._rank[place]


def plan_period(weights: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the source of each row of a period, how many of the source came before, and how many there are of each.

    Raises:
        ValueError: the period is too long, or a weight is not positive.
    """
    exact = [Fraction(weight) for weight in weights]
    if min(exact) <= 0:
        raise ValueError(f"weights must be over 0, got {', '.join(weights)}.")
    whole = [int(weight * lcm(*(each.denominator for each in exact))) for weight in exact]
    shares = [weight // gcd(*whole) for weight in whole]
    period = sum(shares)
    if period > LONGEST_PERIOD:
        raise ValueError(
            f"weights must repeat after at most {LONGEST_PERIOD:,} rows, got {', '.join(weights)}, which do after "
            f"{period:,}. Round them."
        )
    given = [0] * len(shares)
    source, rank = np.empty(period, np.int64), np.empty(period, np.int64)
    for row in range(period):
        may = [one for one, share in enumerate(shares) if given[one] * period // share <= row and given[one] < share]
        next_one = min(may, key=lambda one: (-(-(given[one] + 1) * period // shares[one]), one))
        source[row], rank[row] = next_one, given[next_one]
        given[next_one] += 1
    return source, rank, np.array(shares, np.int64)
