"""Turns numbers into the pixels of images, bytes, by what a full pixel is: given, found before, or found here."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from lmx.errors import InputError

BYTE = 255.0  # a full pixel of bytes


def pixels_of(
    values: np.ndarray, *, given: float | None, found: float | None, place: Callable[[int], str]
) -> tuple[UInt8[np.ndarray, "..."], float | None]:
    """Returns the pixels of all images of a set, and what a full one was found to be.

    Where it is not given, a full pixel is 1 if all values are fractions of 1, else 255. That is found once, in the
    images that are learned from: a few others may happen to be all black or white.

    Args:
        values: of all images, which are the first axis. Bytes are pixels already, unless a full one is given.
        given: a full pixel, by the user; None leaves it to the images.
        found: a full pixel of the images that were learned from; None where it was not found there.
        place: where an image stands, for messages.

    Raises:
        InputError: a value is no pixel, or all are on another scale than what was learned from; names the image.
    """
    if values.dtype == np.uint8 and given is None:
        return values, None
    if values.dtype.kind not in "uif":
        raise InputError(f"{place(0)} must have numbers as pixels, got {values.dtype}.")
    are_fractions = values.dtype.kind == "f" and np.nanmax(values, initial=0) <= 1 and bool((values % 1).any())
    whole = given if given is not None else found
    if whole is None:
        whole = 1.0 if are_fractions else BYTE
    elif given is None and are_fractions and whole == BYTE:
        raise InputError(
            f"{place(0)} must have pixels from 0 to 255 as the images that were learned from, got fractions of 1 in it "
            "and all behind it. Bring the values into this range."
        )
    good = (values >= 0) & (values <= whole)
    if not good.all():
        where = np.argwhere(~good)[0]
        raise InputError(
            f"{place(int(where[0]))} must have pixels from 0 to {whole:g}, got {values[tuple(where)]:g}. Say "
            "--pixel-max, what a full pixel is, or bring the values into this range."
        )
    return np.round(values * (BYTE / whole)).astype(np.uint8), None if given is not None else whole


def image_of_numbers(cell: object, *, place: str) -> np.ndarray:
    """Returns the numbers [height, width, channels] of an image in a cell of a dataset; one channel may be left out.

    Raises:
        InputError: they are no image; names it.
    """
    try:
        values = np.asarray(cell)
    except ValueError:  # rows of several lengths
        raise InputError(f"{place} must have rows of one length as an image, got others.") from None
    if values.dtype.kind not in "uif":
        raise InputError(f"{place} must have numbers as pixels, got {values.dtype}.")
    if values.ndim not in (2, 3):
        raise InputError(f"{place} must have an image of height, width and channels, got shape {values.shape}.")
    return values[..., None] if values.ndim == 2 else values
