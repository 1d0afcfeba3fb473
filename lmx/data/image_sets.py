"""The sets of an image classification: images to learn from, to choose the best step on, and to report on."""

import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import tyro

from lmx.data.image_files import DIGITS, ImageReading
from lmx.data.images import EncodedImages, Images, count_shared_images, described_images
from lmx.data.labels import Labels
from lmx.data.sets import LocationsConfig
from lmx.errors import InputError


class ImageSets(NamedTuple):
    """The images of a run, where there are any, and what their labels are."""

    train: Images
    dev: Images
    test: Images | None
    to_label: Images | None
    labels: Labels

    @property
    def sizes(self) -> dict[str, int]:
        """What these images say of a model's config."""
        height, width, channels = self.train.size
        image = {"image_height": height, "image_width": width, "image_channels": channels}
        return image | {"num_outputs": self.labels.num_outputs}

    def encode(self, *, length: int, multiple: int = 1) -> "EncodedImageSets":
        """Returns the images as rows of batches.

        Args:
            length: tokens of an image.
            multiple: what lengths are padded to.

        Raises:
            InputError: they would be padded.
        """
        if multiple != 1:
            raise InputError(f"length_multiple must be 1, got length_multiple={multiple}: all images are as long.")
        return EncodedImageSets(
            train=EncodedImages.of(self.train, length=length, labels=self.labels),
            dev=EncodedImages.of(self.dev, length=length, labels=self.labels),
            test=None if self.test is None else EncodedImages.of(self.test, length=length, labels=self.labels),
            to_label=None if self.to_label is None else EncodedImages.of(self.to_label, length=length),
        )

    def facts(self) -> dict[str, str]:
        """Returns what a run says of its images at its start."""
        tested = "none"
        if self.test is not None:
            shared = count_shared_images(self.train, self.test)
            tested = f"{described_images(self.test)}, {shared:,} of them pixel for pixel in training"
        return {
            "training_images": described_images(self.train),
            "development_images": described_images(self.dev),
            "test_images": tested,
            "labels": f"{self.labels.kind}: {', '.join(self.labels.names)}",
        }


class EncodedImageSets(NamedTuple):
    """The images of a run as rows of batches."""

    train: EncodedImages
    dev: EncodedImages
    test: EncodedImages | None
    to_label: EncodedImages | None


@dataclass(frozen=True, kw_only=True)
class ImageSetsConfig(LocationsConfig):
    """The images of an experiment: to learn from, to choose the best step, to test, and to label.

    Attributes:
        train: images with labels to learn from: a folder with a folder for each class, an IDX file, an .npz, a .csv of
            pixels, `hub:ID:SPLIT`, or `digits`.
        reading: how to read all files.
    """

    train: str = DIGITS
    reading: Annotated[ImageReading, tyro.conf.arg(name="")] = field(default_factory=ImageReading)

    embedded: ClassVar[str | None] = DIGITS

    def load(self, *, fold: int | None = None) -> ImageSets:
        """Finds all images and makes the splits that are not given; the test set has no part in any choice.

        Args:
            fold: which fold is the test set, from 1.

        Raises:
            FileNotFoundError: a file or dataset is not there.
            ValueError: the data is not what this says; names the file, and the image.
        """
        learned = self.reading.read(self.train, split="train" if self.folds is None else "all")
        labels = Labels.of(learned, kind="single")
        if self.reading.label_names is not None:
            known = set(labels.names)
            if missing := [name for name in self.reading.label_names if name not in known]:
                raise InputError(
                    f"{learned.origin} must hold images of every class of label_names, got none of {missing[0]!r}. "
                    "Take it out of --label-names, or add images."
                )
            labels = Labels(kind="single", names=self.reading.label_names)
        read = functools.partial(self.reading.read, found=learned.pixel_max)
        learned, test = self.split_fold(learned, labels, fold=fold)
        tested = self.embedded if self.train == self.embedded else None
        if fold is None and (location := self.test or tested) is not None:
            test = read(location, split="test")
        if self.validation is not None:
            dev = read(self.validation, split="validation")
        else:
            learned, dev = self.hold_out(learned, labels)
        to_label = None if self.predict is None else read(self.predict, labelled=False)
        for other in (dev, test, to_label):
            check_alike(learned, other)
        return ImageSets(learned, dev, test, to_label, labels)


def check_alike(learned: Images, other: Any) -> None:
    """Checks that images are of the size that is learned from.

    Raises:
        InputError: they are not.
    """
    if other is not None and other.size != learned.size:
        sizes = [f"{height} x {width} x {channels}" for height, width, channels in (learned.size, other.size)]
        raise InputError(
            f"{other.origin} must have images of {sizes[0]} as {learned.origin} has, got {sizes[1]}. Bring pictures to "
            f"one size with --resize {min(learned.size[:2])}, and to as many channels with --channels "
            f"{learned.size[2]}."
        )
