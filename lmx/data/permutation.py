"""An order of any number of things, computed for each place by itself: no list of it is ever made.

`lmx.data.buckets.permutation` makes the list, where there are few things and all of them are wanted.
"""

import functools
import math

import numpy as np
from jaxtyping import Int, Int64

ROUNDS = 6  # of each half
# Constants of SplitMix64's output function (Steele, Lea and Flood 2014).
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def permuted(index: Int[np.ndarray, "*_"], size: int, seed: tuple[int, ...]) -> Int64[np.ndarray, "*_"]:
    """Returns what stands at some places of an order of 0 to `size` - 1: each number at exactly one place.

    A Feistel network over numbers i = l b + r, l below a and r below b, with a b just above the size: a round adds to
    one half, modulo its bound, a hash of the other half, which can be undone whatever the hash is. What falls on one of
    the few numbers from `size` to a b - 1 goes through the network again until it falls on none (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains").

    Args:
        index: places, from 0 to `size` - 1.
        seed: of the order.

    Raises:
        ValueError: a place is not one.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got size={size}.")
    if index.size and (index.min() < 0 or index.max() >= size):
        raise ValueError(f"index must be from 0 to {size - 1:,}, got {index.min():,} to {index.max():,}.")
    b = math.isqrt(size - 1) + 1
    a = -(-size // b)
    keys = _keys(seed)
    found = np.asarray(index, dtype=np.int64).ravel().astype(np.uint64)
    outside = np.arange(found.size)
    while outside.size:
        found[outside] = _network(found[outside], np.uint64(a), np.uint64(b), keys)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64).reshape(index.shape)


def _network(numbers: np.ndarray, a: np.uint64, b: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(numbers, b)
    for first, second in keys:
        left = _added(left, _hash(right, first, below=a), a)
        right = _added(right, _hash(left, second, below=b), b)
    return left * b + right


def _added(half: np.ndarray, other: np.ndarray, bound: np.uint64) -> np.ndarray:
    half = half + other
    return np.minimum(half, half - bound)  # which wraps around, to a great number, where the sum is below the bound


def _hash(values: np.ndarray, key: np.uint64, *, below: np.uint64) -> np.ndarray:
    values = (values ^ key) * _FIRST
    values = (values ^ (values >> np.uint64(29))) * _SECOND
    # The upper half of the bits as a fraction of the bound: halves are below 2^32.
    return ((values >> np.uint64(32)) * below) >> np.uint64(32)


@functools.lru_cache(maxsize=64)
def _keys(seed: tuple[int, ...]) -> np.ndarray:
    # NumPy promises that this stream never changes.
    return np.random.SeedSequence(seed).generate_state(2 * ROUNDS, np.uint64).reshape(ROUNDS, 2)
