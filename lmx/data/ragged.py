"""Rows of different lengths in one flat array: row i is `flat[offsets[i]:offsets[i + 1]]`.

Here are cutting padded rows out of it and keeping some of its rows. What a row means is its owner's.
"""

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64


def padded_rows(
    flat: Int32[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " rows_and_one"],
    items: Int[np.ndarray, "*rows"],
    *,
    length: int,
    pad_id: int,
) -> Int32[np.ndarray, "*rows L"]:
    """Cuts rows out of a flat array and pads them, without a loop over rows or tokens; -1 is a row of padding."""
    begins = offsets[items][..., None]
    ends = np.where(items < 0, 0, offsets[items + 1])[..., None]
    positions = begins + np.arange(length)
    rows = flat.take(positions, mode="clip")
    return np.where(positions < ends, rows, np.int32(pad_id))


def select_rows(
    flat: Int32[np.ndarray, " tokens"], offsets: Int64[np.ndarray, " rows_and_one"], keep: Bool[np.ndarray, " rows"]
) -> tuple[Int32[np.ndarray, " kept_tokens"], Int64[np.ndarray, " kept_and_one"]]:
    """Returns a flat array of the rows to keep, and its offsets."""
    lengths: Int[np.ndarray, " rows"] = np.diff(offsets)
    return flat[np.repeat(keep, lengths)], np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64)
