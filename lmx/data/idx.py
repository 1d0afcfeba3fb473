"""Reads IDX files, the form of MNIST and Fashion-MNIST: an array of bytes behind a header, plain or gzip."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lmx.data.files import existing_file, first_line
from lmx.data.images import Images, make_images
from lmx.errors import InputError


def read_idx_pair(location: str, *, labelled: bool) -> Images:
    """Returns the images of an IDX file and their labels, from the file beside it.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one is no IDX file of bytes, or they are not as many; names it.
    """
    pixels = read_idx(location)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4:
        raise InputError(f"{location} must hold images, three dimensions or four, got {pixels.ndim}.")
    labels = None
    if labelled:
        path = Path(location)
        beside = path.with_name(re.sub(r"idx\d", "idx1", path.name.replace("images", "labels")))
        if beside == path:
            raise InputError(f"{location} must have images in its name, to find the file of its labels by.")
        numbers = read_idx(str(beside))
        if numbers.shape != (len(pixels),):
            raise InputError(f"{beside} must have a label for each of {len(pixels):,} images, got {numbers.shape}.")
        labels = [str(number) for number in numbers.tolist()]
    return make_images(pixels, labels, origin=location)


def read_idx(location: str) -> UInt8[np.ndarray, "..."]:
    """Returns the array of bytes that an IDX file holds, plain or gzip by its content.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, their sizes as big-endian 32-bit
    numbers, the values.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is something else, or cut; names it.
    """
    path = existing_file(location)
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} must be a whole gzip file, got {first_line(error)}. Fetch it again.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise InputError(f"{path} must be an IDX file of unsigned bytes, got one that begins with {data[:4]!r}.")
    header = 4 + 4 * data[3]
    sizes = tuple(np.frombuffer(data[4:header], dtype=">u4").tolist()) if len(data) >= header else ()
    if len(data) != header + math.prod(sizes) or len(sizes) != data[3]:
        raise InputError(
            f"{path} must have {header + math.prod(sizes):,} bytes by its header, got {len(data):,}. Fetch it again."
        )
    return np.frombuffer(data[header:], dtype=np.uint8).reshape(sizes)
