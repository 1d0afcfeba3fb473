"""Reads images with labels: IDX files, .npz, folders of pictures, CSV of pixels, hub datasets, scikit-learn's digits.

Errors name the file and, if it holds many images, the number of the image that is wrong.
"""

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from lmx.data.files import existing_file, first_line
from lmx.data.hub import read_hub
from lmx.data.idx import read_idx_pair
from lmx.data.images import Images, make_images
from lmx.data.pictures import PICTURES, check_size, find_pictures, open_picture, picture_of
from lmx.data.pixel_tables import image_label, read_pixel_table
from lmx.data.pixels import image_of_numbers, pixels_of
from lmx.data.tables import place_of
from lmx.errors import InputError

DIGITS = "digits"  # as a location: the images that scikit-learn carries
TEST_SHARE = 5  # the last fifth is the test set, as in scikit-learn's example without shuffling


@dataclass(frozen=True, kw_only=True)
class ImageReading:
    """How files of images are read.

    Attributes:
        label_names: names of the classes, in their order, where the files have numbers from 0.
        label_column: the column of labels in a CSV or in a hub dataset; None takes `label`, or else the first of a CSV
            without names.
        image_column: the column of images in a hub dataset; None takes the only one that there is.
        channels: 1 turns all images grey, 3 gives grey ones three equal channels; None takes them as they are.
        resize: height and width that pictures are brought to; None needs all of one size.
        shape: height, width and channels of the images of a CSV; None takes squares.
        pixel_max: what a full pixel is in a CSV, an .npz or a hub dataset of numbers; None for 255, or for 1 where all
            that are learned from are fractions of 1.
    """

    label_names: tuple[str, ...] | None = None
    label_column: str | None = None
    image_column: str | None = None
    channels: Literal[1, 3] | None = None
    resize: int | None = None
    shape: tuple[int, int, int] | None = None
    pixel_max: float | None = None

    def read(self, location: str, *, split: str = "train", labelled: bool = True, found: float | None = None) -> Images:
        """Reads all images of a location, in order.

        - `digits`: the 1,797 images of scikit-learn; the last fifth is the test set.
        - `train-images-idx3-ubyte.gz`: an IDX file, plain or gzip; labels are in the file beside it with `labels` and
          `idx1` in its name.
        - `train.npz`: the arrays `images` and `labels`; of `mnist.npz:train` those of the split: `x_train` and
          `y_train`, or `train_images` and `train_labels`.
        - `train/`: a folder with a folder for each class; without labels, of pictures alone.
        - `train.csv`: a label and the pixels of an image a line, plain or gzip.
        - `hub:ID:SPLIT`: a hub dataset, or a local folder that `datasets` reads.

        Args:
            split: of `digits`.
            labelled: False reads images to predict.
            found: the `pixel_max` of the images that were learned from, which holds where none is given.

        Raises:
            FileNotFoundError: a file or dataset is not there.
            ValueError: the data is not what this says; names the file, and the image.
        """
        self._check()
        path, are_names = location.removesuffix(".gz"), False
        if location == DIGITS:
            images = read_digits(split)
        elif location.startswith("hub:"):
            images, are_names = self._read_hub(location, labelled=labelled, found=found)
        elif re.search(r"\.npz(:\w+)?$", location):
            images = self._read_npz(location, labelled=labelled, found=found)
        elif path.endswith(".csv"):
            images = self._read_csv(location, labelled=labelled, found=found)
        elif re.search(r"idx\d|ubyte|\.idx$", Path(path).name):
            images = read_idx_pair(location, labelled=labelled)
        elif Path(location).is_dir() or Path(path).suffix.lower() in PICTURES:
            images = self._read_pictures(Path(location), labelled=labelled)
        elif not Path(path).suffix and not Path(location).exists():
            raise FileNotFoundError(f"{location} must be a folder of images, got no such folder.")
        else:
            raise InputError(
                "location must be a folder, an IDX file (...-images-idx3-ubyte), .npz, .csv, or hub:ID:SPLIT, got "
                f"location={location}."
            )
        if not len(images):
            raise InputError(f"{location} must hold at least one image, got none.")
        return self._named(self._with_channels(images), are_names=are_names)

    def _check(self) -> None:
        """Checks the numbers; not in `__post_init__`, whose errors tyro prints as a box."""
        for name in ("resize", "pixel_max"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be over 0, got {name}={value}.")
        if self.shape is not None and min(self.shape) < 1:
            raise InputError(f"shape must be of numbers over 0, got shape={self.shape}.")

    # What files hold.

    def _read_pictures(self, folder: Path, *, labelled: bool) -> Images:
        files, labels = find_pictures(folder, labelled=labelled)
        first: tuple[int, ...] | None = None
        arrays = []
        for file in files:
            array = open_picture(file, name=str(file), resize=self.resize, channels=self.channels)
            first = first or array.shape
            check_size(array.shape, first, name=str(file), like=str(files[0]))
            arrays.append(array)
        return make_images(arrays, labels, origin=str(folder), names=list(map(str, files)))

    def _read_hub(self, location: str, *, labelled: bool, found: float | None) -> tuple[Images, bool]:
        """Returns the images, and whether their labels are names by what the dataset says."""
        import datasets

        dataset = read_hub(location)
        pictures = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        column = self.image_column or (pictures[0] if len(pictures) == 1 else None)
        if column not in dataset.features:
            raise InputError(
                f"{location} must have one column of images, or image_column must name it, got the columns "
                f"{', '.join(dataset.features)}. Say --image-column."
            )
        names = None
        label_column = self.label_column or "label"
        if labelled:
            if label_column not in dataset.features:
                raise InputError(
                    f"{location} must have a column {label_column!r}, got {', '.join(dataset.features)}. Say "
                    "--label-column."
                )
            names = getattr(dataset.features[label_column], "names", None)
        if column in pictures:  # read as bytes, for a message to name the row
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        arrays, labels = [], []
        for number, row in enumerate(dataset, start=1):
            place = place_of(location, number)
            if column in pictures:
                array = picture_of(row[column], place=place, resize=self.resize, channels=self.channels)
            else:
                array = image_of_numbers(row[column], place=place)
            check_size(array.shape, arrays[0].shape if arrays else array.shape, name=place, like=place_of(location, 1))
            arrays.append(array)
            if labelled:
                labels.append(image_label(row[label_column], names=names, place=place))
        pixels, full = arrays, None
        if arrays and column not in pictures:  # all numbers say what a full pixel is: one image may be all black
            pixels, full = self._pixels(np.stack(arrays), found, lambda index: place_of(location, index + 1))
        images = make_images(pixels, labels if labelled else None, origin=location, pixel_max=full)
        return images, names is not None

    def _read_npz(self, location: str, *, labelled: bool, found: float | None) -> Images:
        file, _, split = location.partition(".npz:")
        path = existing_file(location if not split else f"{file}.npz")
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
        except (OSError, ValueError, zlib.error, EOFError, KeyError) as error:
            raise InputError(f"{path} must be an .npz of plain arrays, got {first_line(error)}.") from error
        except Exception as error:  # zipfile's own
            raise InputError(f"{path} must be a whole .npz file, got {first_line(error)}.") from error
        forms = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")]
        forms = forms if split else [("images", "labels"), ("x", "y")]
        for of_images, of_labels in forms:
            if of_images in arrays and (of_labels in arrays or not labelled):
                break
        else:
            wanted = " or ".join(" and ".join(names) for names in forms)
            splits = sorted({match[1] for name in arrays if (match := re.fullmatch(r"x_(\w+)", name))})
            hint = f" Say which split: {path}:{splits[0]}." if splits and not split else ""
            raise InputError(f"{location} must have the arrays {wanted}, got {', '.join(arrays)}.{hint}")
        pixels, full = self._pixels(arrays[of_images], found, lambda index: f"{location} image {index + 1}")
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.ndim != 4:
            raise InputError(f"{location} must have images of height, width and channels, got shape {pixels.shape}.")
        labels = None
        if labelled:
            numbers = arrays[of_labels].reshape(-1)
            if len(numbers) != len(pixels):
                raise InputError(
                    f"{location} must have a label for each image, got {len(pixels):,} images and {len(numbers):,} "
                    "labels."
                )
            labels = [str(number) for number in numbers.tolist()]
        return make_images(pixels, labels, origin=location, pixel_max=full)

    def _read_csv(self, location: str, *, labelled: bool, found: float | None) -> Images:
        values, labels, lines = read_pixel_table(location, label_column=self.label_column, labelled=labelled)
        if not lines:
            raise InputError(f"{location} must hold at least one image, got none.")
        shape = self.shape or _square(values.shape[1], place=location)
        if math.prod(shape) != values.shape[1]:
            raise InputError(
                f"{location} must have {math.prod(shape):,} pixels a line for images of shape {shape}, got "
                f"{values.shape[1]:,}. Say --shape HEIGHT WIDTH CHANNELS."
            )
        values = values.reshape(-1, *shape)
        pixels, full = self._pixels(values, found, lambda index: f"{location}:{lines[index]}")
        return make_images(pixels, labels if labelled else None, origin=location, lines=lines, pixel_max=full)

    # What becomes of it.

    def _pixels(
        self, values: np.ndarray, found: float | None, place: Callable[[int], str]
    ) -> tuple[UInt8[np.ndarray, "..."], float | None]:
        return pixels_of(values, given=self.pixel_max, found=found, place=place)

    def _with_channels(self, images: Images) -> Images:
        """Returns images of as many channels as are wanted."""
        pixels, wanted = images.pixels, self.channels
        if pixels.shape[-1] not in (1, 3):
            raise InputError(
                f"{images.origin} must have images of 1 or 3 channels, got {pixels.shape[-1]}. Height, width and "
                "channels stand in this order."
            )
        if wanted is None or pixels.shape[-1] == wanted:
            return images
        if wanted == 3:
            changed = np.repeat(pixels, 3, axis=-1)
        else:  # the weights of ITU-R 601-2, as Pillow's
            changed = np.round(pixels @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        return replace(images, pixels=changed)

    def _named(self, images: Images, *, are_names: bool) -> Images:
        """Returns the images with the names of their classes.

        Args:
            are_names: the labels are names already. Elsewhere they may be too, where no number says otherwise.
        """
        if self.label_names is None or images.labels is None:
            return images
        names = {str(number): name for number, name in enumerate(self.label_names)}
        already = {name: name for name in self.label_names}
        known = {**names, **already} if are_names else {**already, **names}
        for index, label in enumerate(images.labels):
            if label not in known:
                raise InputError(
                    f"{images.place(index)} must have a label from 0 to {len(names) - 1}, which label_names names, got "
                    f"{label!r:.60}. Where labels are names already, say --label-names None."
                )
        labels = [known[label] for label in images.labels]
        return replace(images, labels=labels)


# ---- files -----------------------------------------------------------------------------------------------------------


def read_digits(split: str) -> Images:
    """Returns the handwritten digits that scikit-learn carries: 8 x 8 pixels, 1,797 of them.

    Source: the UCI "optical recognition of handwritten digits" test set. The first four fifths, rounded down, are
    `train`, the rest is `test`, as `train_test_split(test_size=0.2, shuffle=False)` makes them; `all` has all.

    Raises:
        InputError: another part is asked for, such as one to choose by.
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test", "all"):
        raise InputError(
            f"{split} must be other images than {DIGITS}, which have a part to learn from and one to be tested on. "
            "Leave validation out to hold out a share of train."
        )
    held: Any = load_digits()
    first = len(held.images) - math.ceil(len(held.images) / TEST_SHARE)
    part = {"train": slice(0, first), "test": slice(first, None), "all": slice(None)}[split]
    pixels = np.round(held.images[part] * (255 / 16)).astype(np.uint8)[..., None]
    numbers = np.arange(1, len(held.images) + 1)[part]
    return make_images(
        pixels, [str(label) for label in held.target[part].tolist()], origin=f"digits, {split}", lines=numbers
    )


def _square(number: int, *, place: str) -> tuple[int, int, int]:
    """Returns the shape of a square image with this number of values, of one channel or of three."""
    for channels in (1, 3):
        side = math.isqrt(number // channels)
        if number and side * side * channels == number:
            return side, side, channels
    raise InputError(
        f"{place} must have as many pixels a line as a square image has, or say --shape HEIGHT WIDTH CHANNELS, got "
        f"{number:,}."
    )
