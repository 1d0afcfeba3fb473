"""Images with labels, in memory, and the rows that batches are made of.

Here an image is an array of bytes, all of a set have one size, and a label is what stands in the data, as text. Files
are read by `lmx.data.image_files`; which labels there are is `lmx.data.labels`'s.
"""

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from lmx.data.labels import Labels, Targets
from lmx.data.tables import place_of


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images, and what they are labelled, in the order of their file.

    Attributes:
        pixels: from 0 to 255, one channel or three.
        labels: as they stand in the data; None for images to predict.
        origin: where they were read, for messages and reports.
        lines: of each image the line of a table, else its number, from 1.
        names: of their files, where each has its own.
        pixel_max: what a full pixel was found to be in their file; None where they are bytes there, or it was given.
    """

    unit: ClassVar[str] = "image"

    pixels: UInt8[np.ndarray, "images height width channels"]
    labels: Sequence[str] | None
    origin: str
    lines: Int64[np.ndarray, " images"]
    names: Sequence[str] | None = None
    pixel_max: float | None = None

    def __post_init__(self) -> None:
        """Checks that every image has its label, its line and its name."""
        for name, values in (("labels", self.labels), ("lines", self.lines), ("names", self.names)):
            if values is not None and len(values) != len(self.pixels):
                raise ValueError(
                    f"pixels and {name} must be as many, got {len(self.pixels):,} images and {len(values):,} {name}."
                )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels of all of them."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def place(self, index: int) -> str:
        """Returns where an image stands, for messages."""
        return place_of(self.origin, int(self.lines[index])) if self.names is None else self.names[index]

    def shown(self, index: int) -> dict[str, Any]:
        """Returns what a list of mistakes says of an image: where it is from, and itself as a picture."""
        return {"text": self.place(index), "image": png_address(self.pixels[index])}

    def select(self, indices: Int[np.ndarray, " chosen"] | Sequence[int]) -> "Images":
        """Returns the images at some positions, with their labels, lines and names."""
        chosen = np.asarray(indices, dtype=np.int64)

        def picked(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[index] for index in chosen.tolist()]

        return replace(
            self,
            pixels=self.pixels[chosen],
            labels=picked(self.labels),
            lines=self.lines[chosen],
            names=picked(self.names),
        )

    def joined(self, others: Sequence["Images"]) -> "Images":
        """Returns these images and others behind them, without labels."""
        sets = [self, *others]
        names = [name for each in sets for name in each.names or ()]
        return replace(
            self,
            pixels=np.concatenate([each.pixels for each in sets]),
            labels=None,
            lines=np.concatenate([each.lines for each in sets]),
            names=names if self.names is not None else None,
        )


def make_images(
    pixels: Any,
    labels: Sequence[str] | None,
    *,
    origin: str,
    lines: Any = None,
    names: Sequence[str] | None = None,
    pixel_max: float | None = None,
) -> Images:
    """Returns images of their arrays, one for each or one of all; without lines they are numbered from 1."""
    held = np.stack(pixels) if isinstance(pixels, list) and pixels else np.asarray(pixels, np.uint8)
    numbers = np.arange(1, len(held) + 1) if lines is None else np.asarray(lines)
    if not len(held):
        held = held.reshape(0, 1, 1, 1)
    lines = numbers.astype(np.int64)
    return Images(pixels=held, labels=labels, origin=origin, lines=lines, names=names, pixel_max=pixel_max)


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Images as rows of a batch; each is one row, and all are as long.

    Attributes:
        targets: as `Labels.encode` makes them; None for images to predict.
        length: tokens of an image, as the model counts them.
        origin: where the images were read.
    """

    unit: ClassVar[str] = "image"
    shorten: ClassVar[str] = "Choose larger patches"
    num_sides: ClassVar[int] = 1
    num_truncated: ClassVar[int] = 0

    pixels: UInt8[np.ndarray, "images height width channels"]
    targets: Targets | None
    length: int
    origin: str

    @classmethod
    def of(cls, images: Images, *, length: int, labels: Labels | None = None) -> "EncodedImages":
        """Returns the rows of images, with their labels where these are given."""
        targets = None if labels is None else labels.encode(images)
        return cls(pixels=images.pixels, targets=targets, length=length, origin=images.origin)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.pixels)

    @property
    def num_texts(self) -> int:
        """How many images there are."""
        return len(self)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells these images and their labels from others."""
        return (self.pixels,) if self.targets is None else (self.pixels, self.targets)

    @property
    def indices(self) -> Int64[np.ndarray, " rows"]:
        """Position of each row's image."""
        return np.arange(len(self), dtype=np.int64)

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row."""
        return np.full(len(self), self.length, dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of all images together."""
        return self.length * len(self)

    def count_tokens(self, items: Int[np.ndarray, " items"]) -> int:
        """Returns the tokens of some images together."""
        return self.length * items.size

    def batch(self, items: Int[np.ndarray, "*rows"], *, length: int) -> dict[str, np.ndarray]:
        """Makes the arrays of some images, given by position; a position of -1 is a row that does not count.

        `pixels` [*rows, height, width, channels], bytes; `weights` [*rows] (0 where the row does not count), float32;
        `index` [*rows], the position or -1, int32; `labels` [*rows], where there are any.

        Raises:
            ValueError: the length is not that of the images.
        """
        if length != self.length:
            raise ValueError(f"rows of images must be {self.length} tokens long, got length={length}.")
        exists = items >= 0
        arrays: dict[str, np.ndarray] = {
            "pixels": self.pixels[items],
            "weights": exists.astype(np.float32),
            "index": np.where(exists, items, -1).astype(np.int32),
        }
        if self.targets is not None:
            labels = self.targets[items]
            labels[~exists] = 0
            arrays["labels"] = labels
        return arrays


def described_images(images: Images) -> str:
    """Returns how many images there are, from where, and their size."""
    height, width, channels = images.size
    return f"{images.origin}: {len(images):,} of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}"


def png_address(pixels: UInt8[np.ndarray, "height width channels"]) -> str:
    """Returns an image as the address of a PNG that is written out in it, as pages take it.

    Made by hand, so that a report needs no library of images. Source: the PNG specification, third edition.
    """
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each begins with its filter: none

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode("ascii")


def pixel_features(images: Images) -> Float32[np.ndarray, "images values"]:
    """Returns all values of each image in one row, from 0 to 1: what a linear model reads."""
    return images.pixels.reshape(len(images), -1).astype(np.float32) / 255


def count_shared_images(images: Images, others: Images) -> int:
    """Returns how many of the other images are among the first, pixel for pixel."""
    known = {each.tobytes() for each in images.pixels}
    return sum(each.tobytes() in known for each in others.pixels)
