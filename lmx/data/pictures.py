"""Opens pictures, PNG, JPEG and what else Pillow reads, and finds those of a folder by their classes.

Errors name the picture.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lmx.data.files import first_line
from lmx.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def find_pictures(folder: Path, *, labelled: bool) -> tuple[list[Path], list[str] | None]:
    """Returns the pictures of a folder in the order of their names, and their classes by the folders they are in.

    Raises:
        ValueError: a class has no picture, or a file is none.
    """
    if folder.is_file() and not labelled:
        return [folder], None
    if not folder.is_dir():
        raise InputError(f"{folder} must be a folder with a folder for each class, got a file.")
    if not labelled:
        return _pictures_in(folder), None
    classes = [each for each in _visible(folder) if each.is_dir()]
    if not classes:
        raise InputError(f"{folder} must have a folder for each class with its images in it, got none.")
    files, labels = [], []
    for each in classes:
        found = _pictures_in(each)
        if not found:
            raise InputError(
                f"{each} must hold at least one image ({', '.join(PICTURES[:3])}, ...), got none: it would be a class "
                "without images. Add some, or take the folder away."
            )
        files += found
        labels += [each.name] * len(found)
    return files, labels


def open_picture(source: Any, *, name: str, resize: int | None, channels: int | None) -> UInt8[np.ndarray, "..."]:
    """Returns the pixels of a picture, with one channel or three.

    Args:
        source: a path or a file.
        name: for messages.

    Raises:
        ValueError: it cannot be read, or has pixels of more than 8 bits; names it.
    """
    image_module = _pillow()
    try:
        with image_module.open(source) as opened:
            if opened.mode.startswith(("I", "F")):
                raise InputError(
                    f"{name} must have pixels of 8 bits, got mode {opened.mode}, whose values go beyond 255. Convert "
                    "it to 8 bits."
                )
            grey = opened.mode in ("1", "L", "LA") if channels is None else channels == 1
            picture = opened.convert("L" if grey else "RGB")
            if resize is not None:
                picture = picture.resize((resize, resize), image_module.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # Pillow raises what its formats raise
        raise InputError(f"{name} must be an image, got {first_line(error)}. Mend it, or take it away.") from error
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def picture_of(cell: Any, *, place: str, resize: int | None, channels: int | None) -> UInt8[np.ndarray, "..."]:
    """Returns the pixels of a picture in a hub dataset: its bytes, or a file."""
    if not isinstance(cell, dict) or (cell.get("bytes") is None and not cell.get("path")):
        raise InputError(f"{place} must have an image, got {cell!r:.60}.")
    source = cell["path"] if cell.get("bytes") is None else io.BytesIO(cell["bytes"])
    return open_picture(source, name=place, resize=resize, channels=channels)


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise InputError(
            "pillow must be installed to read pictures. Install it with: pip install 'lmx[classification]'."
        ) from error
    return PIL.Image


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _pictures_in(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.is_file() and each.suffix.lower() in PICTURES]


def check_size(size: Sequence[int], wanted: Sequence[int], *, name: str, like: str) -> None:
    """Checks that an image has the size of the first one.

    Raises:
        ValueError: it has another; names both.
    """
    if tuple(size) == tuple(wanted):
        return
    if tuple(size[:2]) == tuple(wanted[:2]):
        raise InputError(
            f"{name} must have {wanted[2]} channels as {like} has, got {size[2]}. Say --channels 1 or 3 for all."
        )
    raise InputError(
        f"{name} must be {wanted[0]} x {wanted[1]} pixels as {like} is, got {size[0]} x {size[1]}. Bring all images to "
        f"one size with --resize {min(wanted[:2])}."
    )
