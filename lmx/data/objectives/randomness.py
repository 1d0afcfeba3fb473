"""Random numbers that are a function of what they are for: of (seed, row, stream, place), not of what was drawn before.

One pass of a mixing function over whole arrays replaces a generator for each row, which would take longer to make than
a row takes to corrupt.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt64

# Constants of SplitMix64's output function (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
# generators"); the first is 2^64 over the golden ratio.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def draw_bits(seed: int, index: Any, place: Any, *, stream: int) -> UInt64[np.ndarray, "*_"]:
    """Returns 64 random bits for each row and place; the two are broadcast.

    Args:
        index: numbers of rows.
        place: a number within the row.
        stream: what the numbers are for: each use of one row has its own.
    """
    with np.errstate(over="ignore"):
        of_seed = _mix(np.asarray(seed, np.uint64) + _STEP * np.uint64(stream + 1))
        of_row = _mix(of_seed + _STEP * _mix(_unsigned(index)))
        return _mix(of_row + _STEP * (_unsigned(place) + np.uint64(1)))


def draw_uniform(seed: int, index: Any, place: Any, *, stream: int) -> Float64[np.ndarray, "*_"]:
    """Returns random numbers from 0 to below 1, see `draw_bits`."""
    return (draw_bits(seed, index, place, stream=stream) >> np.uint64(11)) * 2.0**-53


def ranks_within(group: Int64[np.ndarray, " N"], values: Float64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Returns the rank of each value among those of its group, from 0.

    Args:
        group: numbers that do not fall.
    """
    order = np.lexsort((values, group))
    ranks = np.empty(group.size, np.int64)
    ranks[order] = np.arange(group.size) - np.searchsorted(group, group)
    return ranks


def _unsigned(numbers: Any) -> Any:
    return np.asarray(numbers, np.int64).astype(np.uint64)


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
