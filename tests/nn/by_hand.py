"""Attention as a loop over single queries, in float64, and inputs for it: what kernels are compared with."""

import math

import jax
import numpy as np

from lmx.nn.masks import Sees

B, T, S, H, G, K = 2, 5, 7, 6, 3, 4


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def heads(groups: int = G, *, queries: int = T, keys: int = S) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes query, key and value."""
    shape = (B, keys, groups, K)
    return vectors(B, queries, H, K, seed=1), vectors(*shape, seed=2), vectors(*shape, seed=3)


def may_see(sees: Sees, b: int, t: int, s: int) -> bool:
    """Says whether query t of row b sees key s, by the words of the structure."""
    seen = not sees.causal or s <= t
    seen &= sees.window is None or abs(t - s) < sees.window
    seen &= sees.key_lengths is None or s < sees.key_lengths[b]
    if sees.segments is not None:
        queries, keys = sees.segments
        seen &= queries[b, t] == keys[b, s] and keys[b, s] != 0
    return bool(seen)


def by_hand(query, key, value, sees: Sees | None = None, *, bias=None, scale=None, cap=None) -> np.ndarray:
    """Attends; a query that sees nothing takes the mean of all values."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    rows, queries, num_heads, width = query.shape
    keys, groups = key.shape[1:3]
    out = np.zeros(query.shape)
    sees = jax.tree.map(np.asarray, sees or Sees())  # numbers of a jax array are slow to read one by one
    for b, t in np.ndindex(rows, queries):
        seen = np.array([may_see(sees, b, t, s) for s in range(keys)])
        for h in range(num_heads):
            g = h // (num_heads // groups)
            scores = key[b, :, g] @ query[b, t, h] * (1 / math.sqrt(width) if scale is None else scale)
            scores = scores if cap is None else cap * np.tanh(scores / cap)
            if bias is not None:
                scores = scores + np.broadcast_to(bias, (rows, num_heads, queries, keys))[b, h, t]
            scores = np.where(seen, scores, -np.inf if seen.any() else 0)
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights / weights.sum() @ value[b, :, g]
    return out
