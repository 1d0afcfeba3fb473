"""Images of every form are read alike, and what is wrong is one line with the file and the way out."""

import base64
import gzip
import io
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from lmx.data.image_files import ImageReading, read_digits
from lmx.data.image_sets import ImageSets, ImageSetsConfig, check_alike
from lmx.data.images import (
    EncodedImages,
    Images,
    count_shared_images,
    described_images,
    make_images,
    pixel_features,
    png_address,
)
from lmx.data.labels import Labels
from lmx.data.pixel_tables import image_label
from lmx.errors import InputError

PIL = pytest.importorskip("PIL.Image")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
NUMBERS = np.array([0, 2, 1, 1, 0, 2], np.uint8)
NAMES = ("ant", "bee", "cat")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    PIL.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(held, "PNG")
    return held.getvalue()


def write_idx(folder: Path, *, packed: bool = False) -> str:
    pack = gzip.compress if packed else bytes
    ending = ".gz" if packed else ""
    (folder / f"t-images-idx3-ubyte{ending}").write_bytes(pack(idx(PIXELS[..., 0])))
    (folder / f"t-labels-idx1-ubyte{ending}").write_bytes(pack(idx(NUMBERS)))
    return str(folder / f"t-images-idx3-ubyte{ending}")


def write_folder(folder: Path, pixels: np.ndarray = PIXELS) -> str:
    for number, (image, label) in enumerate(zip(pixels, NUMBERS, strict=True)):
        (folder / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (folder / NAMES[label] / f"{number}.png").write_bytes(png(image))
    return str(folder)


def write_npz(folder: Path) -> str:
    np.savez(folder / "t.npz", x_train=PIXELS[..., 0], y_train=NUMBERS, x_test=PIXELS[:1, ..., 0], y_test=NUMBERS[:1])
    return f"{folder / 't.npz'}:train"


def write_csv(folder: Path) -> str:
    rows = [",".join(map(str, [label, *image.reshape(-1)])) for image, label in zip(PIXELS, NUMBERS, strict=True)]
    (folder / "t.csv").write_text("label," + ",".join(f"p{n}" for n in range(16)) + "\n" + "\n".join(rows) + "\n")
    return str(folder / "t.csv")


def write_hub(folder: Path, names: tuple[str, ...] = NAMES) -> str:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    columns = {"image": [{"bytes": png(image), "path": None} for image in PIXELS], "label": NUMBERS.tolist()}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return f"hub:{folder}:train"


@pytest.mark.parametrize(
    "write", [write_idx, lambda folder: write_idx(folder, packed=True), write_folder, write_npz, write_csv, write_hub]
)
def test_every_form_gives_the_same_images(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    location = write(tmp_path / "data")
    reading = ImageReading() if write is write_folder else ImageReading(label_names=NAMES)
    images = reading.read(location)
    order = np.argsort(NUMBERS, kind="stable") if write is write_folder else np.arange(6)  # a folder: class by class
    np.testing.assert_array_equal(images.pixels, PIXELS[order])
    assert list(images.labels) == [NAMES[number] for number in NUMBERS[order]]
    assert Labels.of(images).names == NAMES


def test_digits_are_split_as_scikit_learn_does():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data, target = load_digits(return_X_y=True)
    parts = train_test_split(data, target, test_size=0.2, shuffle=False)
    for name, pixels, labels in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
        images = read_digits(name)
        np.testing.assert_array_equal(np.round(images.pixels.reshape(len(images), -1) * (16 / 255)), pixels)
        assert list(images.labels) == list(map(str, labels))
    assert len(read_digits("all")) == 1797


def test_fractions_and_other_scales_become_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS / 255, labels=NUMBERS)
    np.testing.assert_array_equal(ImageReading().read(str(tmp_path / "a.npz")).pixels, PIXELS)
    np.savez(tmp_path / "b.npz", images=PIXELS.astype(np.int32) * 4, labels=NUMBERS)
    np.testing.assert_array_equal(ImageReading(pixel_max=1020.0).read(str(tmp_path / "b.npz")).pixels, PIXELS)


def write_sets(folder: Path, *, train: np.ndarray, other: np.ndarray) -> ImageSetsConfig:
    np.savez(folder / "train.npz", images=train, labels=NUMBERS)
    np.savez(folder / "other.npz", images=other, labels=NUMBERS[: len(other)])
    other_sets = dict.fromkeys(("validation", "test", "predict"), str(folder / "other.npz"))
    return ImageSetsConfig(train=str(folder / "train.npz"), **other_sets)


def test_what_a_full_pixel_is_the_images_that_are_learned_from_say(tmp_path):
    black_and_white = np.round(PIXELS[:3] / 255)
    for other in (black_and_white, black_and_white.astype(np.int64), (black_and_white * 255).astype(np.uint8)):
        sets = write_sets(tmp_path, train=PIXELS / 255, other=other).load()
        assert sets.train.pixel_max == 1
        for each in (sets.dev, sets.test, sets.to_label):
            np.testing.assert_array_equal(each.pixels, black_and_white * 255)
    sets = write_sets(tmp_path, train=PIXELS.astype(np.float32), other=black_and_white).load()
    assert (sets.train.pixel_max, sets.test.pixels.max()) == (255, 1)
    assert write_sets(tmp_path, train=PIXELS, other=PIXELS[:2] / 255).load().train.pixel_max is None
    for train, other, message in (
        (PIXELS / 255, 1.02 * PIXELS[:2] / 255 + 0.02, r"must have pixels from 0 to 1, got 1\.0\d+\. Say --pixel-max"),
        (
            PIXELS * 1.0,
            PIXELS[:2] / 255,
            r"image 1 must have pixels from 0 to 255 as the images that were learned from,",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            write_sets(tmp_path, train=train, other=other).load()
    assert ImageReading(pixel_max=255.0).read(str(tmp_path / "other.npz"), found=1.0).pixel_max is None


def test_images_of_a_hub_dataset_may_be_numbers_on_one_scale(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images = np.concatenate([np.zeros((1, 4, 4)), np.ones((1, 4, 4)), PIXELS[2:, ..., 0] / 255])
    for name, column in (("flat", images), ("deep", images[..., None])):
        rows = {"image": column.tolist(), "label": NUMBERS.tolist()}
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / name / "train.parquet")
        found = ImageReading(image_column="image").read(f"hub:{tmp_path / name}:train")
        np.testing.assert_array_equal(found.pixels, np.round(images * 255)[..., None])
        assert found.pixel_max == 1
    for cells, message in (
        ([[1, 2, 3]], r"row 1 must have an image of height, width and channels, got shape \(3,\)\.$"),
        ([[["a", "b"]]], r"row 1 must have numbers as pixels, got <U1\.$"),
        ([[[1, 2], [3, 4]], [[1, 2], [3]]], r"row 2 must have rows of one length as an image, got others\.$"),
        ([[[1, 2], [3, 4]], [[1, 2, 3]]], r"row 2 must be 2 x 2 pixels as \S+ row 1 is, got 1 x 3\."),
        ([[[1, 2], [3, 4]], [[1, 2], [3, -4]]], r"row 2 must have pixels from 0 to 255, got -4\."),
    ):
        monkeypatch.setattr("lmx.data.image_files.read_hub", lambda _, cells=cells: Held(cells))
        with pytest.raises(ValueError, match=message):
            ImageReading(image_column="image").read("hub:x:train")


class Held:
    """A hub dataset of some rows."""

    features: ClassVar[dict[str, Any]] = {"image": None, "label": None}

    def __init__(self, cells: list[Any]):
        self.cells = cells

    def __iter__(self):
        return iter([{"image": cell, "label": 0} for cell in self.cells])


def test_a_name_that_is_a_number_does_not_hide_the_number_it_names(tmp_path, monkeypatch):
    location = write_npz(tmp_path)
    assert ImageReading(label_names=("2", "0", "1")).read(location).labels == [str((n + 2) % 3) for n in NUMBERS]
    assert ImageReading(label_names=("a", "2", "0")).read(location).labels == ["a20"[n] for n in NUMBERS]
    # Of a dataset that names its classes, the names are meant.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hub").mkdir()
    hub = write_hub(tmp_path / "hub", names=("2", "0", "1"))
    assert ImageReading(label_names=("0", "1", "2")).read(hub).labels == ["201"[n] for n in NUMBERS]


def test_pictures_are_brought_to_a_size_and_to_channels(tmp_path):
    coloured = np.repeat(PIXELS, 3, axis=-1)
    coloured[0, ..., 1] = 0
    folder = write_folder(tmp_path / "a", coloured)
    assert ImageReading().read(folder).size == (4, 4, 3)
    assert ImageReading(resize=8, channels=1).read(folder).size == (8, 8, 1)


def test_an_image_is_a_picture_of_a_page():
    address = png_address(np.repeat(PIXELS[0], 3, axis=-1))
    opened = PIL.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(opened), np.repeat(PIXELS[0], 3, axis=-1))


def test_batches_hold_bytes_and_rows_that_do_not_count():
    images = read_digits("test")
    rows = EncodedImages.of(images, length=16, labels=Labels.of(images))
    batch = rows.batch(np.array([[3, -1]]), length=16)
    assert batch["pixels"].shape == (1, 2, 8, 8, 1)
    assert batch["pixels"].dtype == np.uint8
    assert batch["weights"].tolist() == [[1, 0]]
    assert batch["labels"][0].tolist() == [int(images.labels[3]), 0]
    with pytest.raises(ValueError, match=r"^rows of images must be 16 tokens long, got length=20\.$"):
        rows.batch(np.array([0]), length=20)


# What is wrong with a file.


def broken(folder: Path, kind: str) -> tuple[str, ImageReading]:
    """Makes data with something wrong in it, and returns its location."""
    location, reading = str(folder), ImageReading()
    if kind == "size":
        write_folder(folder)
        (folder / "bee" / "9.png").write_bytes(png(np.zeros((5, 4, 1), np.uint8)))
    elif kind == "channels":
        write_folder(folder)
        (folder / "bee" / "9.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    elif kind == "cut":
        write_folder(folder)
        (folder / "bee" / "9.png").write_bytes(png(PIXELS[0])[:40])
    elif kind == "deep":
        write_folder(folder)
        PIL.fromarray(np.full((4, 4), 60_000, np.uint16)).save(folder / "bee" / "9.png")
    elif kind == "empty class":
        write_folder(folder)
        (folder / "dog").mkdir()
    elif kind == "no classes":
        (folder / "a.png").write_bytes(png(PIXELS[0]))
    elif kind == "range":
        np.savez(folder / "t.npz", images=PIXELS.astype(np.int32) + 100, labels=NUMBERS)
        location = str(folder / "t.npz")
    elif kind == "negative":
        write_csv(folder)
        text = (folder / "t.csv").read_text().split("\n")
        (folder / "t.csv").write_text("\n".join([*text[:3], "1," + ",".join(["-1"] * 16), *text[4:]]))
        location = str(folder / "t.csv")
    elif kind == "short line":
        write_csv(folder)
        (folder / "t.csv").write_text((folder / "t.csv").read_text() + "1,2,3\n")
        location = str(folder / "t.csv")
    elif kind == "cut idx":
        location = write_idx(folder)
        Path(location).write_bytes(Path(location).read_bytes()[:-3])
    elif kind == "no idx":
        location = write_idx(folder)
        Path(location).write_bytes(b"<html>")
    elif kind == "cut gzip":
        location = write_idx(folder, packed=True)
        Path(location).write_bytes(Path(location).read_bytes()[:-9])
    elif kind == "labels":
        location = write_idx(folder)
        (folder / "t-labels-idx1-ubyte").write_bytes(idx(NUMBERS[:4]))
    elif kind == "unnamed":
        location, reading = write_idx(folder), ImageReading(label_names=NAMES[:2])
    elif kind == "split":
        location = write_npz(folder).removesuffix(":train")
    elif kind == "cut npz":
        location = write_npz(folder).removesuffix(":train")
        Path(location).write_bytes(Path(location).read_bytes()[:-60])
    return location, reading


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"^\S+9\.png must be 4 x 4 pixels as \S+0\.png is, got 5 x 4\. .*--resize 4\.$"),
        ("channels", r"^\S+9\.png must have 1 channels as \S+0\.png has, got 3\. Say --channels 1 or 3 for all\.$"),
        ("cut", r"^\S+9\.png must be an image, got .*\. Mend it, or take it away\.$"),
        ("deep", r"^\S+9\.png must have pixels of 8 bits, got mode I;16, .* Convert it to 8 bits\.$"),
        ("empty class", r"^\S+dog must hold at least one image .* a class without images\. Add some, or"),
        ("no classes", r"^\S+ must have a folder for each class with its images in it, got none\.$"),
        ("range", r"^\S+t\.npz image \d must have pixels from 0 to 255, got \d+\. Say --pixel-max"),
        ("negative", r"^\S+t\.csv:4 must have pixels from 0 to 255, got -1\. Say --pixel-max"),
        ("short line", r"^\S+t\.csv:8 must have 17 fields as line 1 has, got 3\.$"),
        ("cut idx", r"^\S+ubyte must have 112 bytes by its header, got 109\. Fetch it again\.$"),
        ("no idx", r"^\S+ubyte must be an IDX file of unsigned bytes, got one that begins with b'<htm'\.$"),
        ("cut gzip", r"^\S+\.gz must be a whole gzip file, got .*\. Fetch it again\.$"),
        ("labels", r"^\S+t-labels-idx1-ubyte must have a label for each of 6 images, got \(4,\)\.$"),
        ("unnamed", r"^\S+:2 must have a label from 0 to 1, which label_names names, got '2'\."),
        ("split", r"^\S+t\.npz must have the arrays .*, got x_train, .* Say which split: \S+t\.npz:test\.$"),
        ("cut npz", r"^\S+t\.npz must be a whole \.npz file, got .*\.$"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(kind, message, tmp_path):
    location, reading = broken(tmp_path, kind)
    with pytest.raises(ValueError, match=message) as caught:
        reading.read(location)
    assert "\n" not in str(caught.value)


def test_a_location_that_is_none_says_what_one_is(tmp_path):
    with pytest.raises(ValueError, match=r"^location must be a folder, an IDX file .*, got location=notes\.txt\.$"):
        ImageReading().read("notes.txt")
    with pytest.raises(FileNotFoundError, match="must be a folder of images, got no such folder"):
        ImageReading().read(str(tmp_path / "nowhere"))


# Sets.


def test_the_test_set_must_have_the_size_and_the_classes_of_training(tmp_path):
    train = write_folder(tmp_path / "train")
    test = write_folder(tmp_path / "test", np.zeros((6, 5, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=r"^\S+test must have images of 4 x 4 x 1 as \S+train has, got 5 x 4 x 1\."):
        ImageSetsConfig(train=train, test=test).load()
    with pytest.raises(ValueError, match=r"must hold images of every class of label_names, got none of 'dog'\."):
        ImageSetsConfig(train=write_idx(tmp_path), reading=ImageReading(label_names=(*NAMES, "dog"))).load()


def test_digits_have_a_test_set_and_folds_take_all_of_them():
    data = ImageSetsConfig().load()
    assert (len(data.train), len(data.dev), len(data.test)) == (1293, 144, 360)
    config = ImageSetsConfig(folds=3)
    found = [config.load(fold=fold) for fold in (1, 2, 3)]
    assert sum(len(each.test) for each in found) == 1797
    assert len({image.tobytes() for each in found for image in each.test.pixels}) > 1780


# What sets and rows are made of.


def few(labels: tuple[str, ...] | None = ("a", "b", "c"), **changes: Any) -> Images:
    return make_images(PIXELS[:3], labels, origin="t.csv", lines=[2, 5, 9], **changes)


def test_images_are_chosen_and_joined_with_all_that_belongs_to_them():
    images = few(names=["x.png", "y.png", "z.png"])
    chosen = images.select([2, 0])
    np.testing.assert_array_equal(chosen.pixels, PIXELS[[2, 0]])
    assert (chosen.labels, chosen.lines.tolist(), chosen.names) == (["c", "a"], [9, 2], ["z.png", "x.png"])
    together = chosen.joined([images])
    np.testing.assert_array_equal(together.pixels, PIXELS[[2, 0, 0, 1, 2]])
    assert together.labels is None
    assert together.lines.tolist() == [9, 2, 2, 5, 9]
    assert together.names == ["z.png", "x.png", "x.png", "y.png", "z.png"]
    assert [few().place(1), images.place(1)] == ["t.csv:5", "y.png"]
    assert make_images(PIXELS[:2], None, origin="t").lines.tolist() == [1, 2]


def test_what_is_said_of_images_is_counted():
    assert described_images(few()) == "t.csv: 3 of 4 x 4 pixels, 1 channel"
    wide = make_images(np.zeros((1200, 2, 5, 3), np.uint8), None, origin="w")
    assert described_images(wide) == "w: 1,200 of 2 x 5 pixels, 3 channels"
    others = make_images(PIXELS[[1, 1, 5, 0]], None, origin="o")
    assert (count_shared_images(few(), others), count_shared_images(others, few())) == (3, 2)
    np.testing.assert_allclose(pixel_features(few()), PIXELS[:3].reshape(3, 16) / 255, rtol=1e-6)
    rows = EncodedImages.of(few(), length=5)
    assert (rows.num_tokens, rows.count_tokens(np.array([0, 2])), rows.lengths.tolist()) == (15, 10, [5, 5, 5])


def test_a_start_tells_how_many_test_images_were_learned_from():
    test = make_images(PIXELS[[1, 1, 5]], ["b", "b", "a"], origin="test")
    sets = ImageSets(few(), few(), test, None, Labels(kind="single", names=("a", "b", "c")))
    assert sets.facts()["test_images"].endswith("1 channel, 2 of them pixel for pixel in training")


def test_images_of_every_set_have_the_size_of_training(tmp_path):
    train, other = write_folder(tmp_path / "a"), write_folder(tmp_path / "b", np.zeros((6, 5, 4, 1), np.uint8))
    for name in ("validation", "test"):
        with pytest.raises(ValueError, match=r"^\S+b must have images of 4 x 4 x 1 as \S+a has, got 5 x 4 x 1\."):
            ImageSetsConfig(**{"train": train, "dev_share": 0.3, name: other}).load()


def test_colours_become_grey_by_their_weights_and_grey_three_equal_colours(tmp_path):
    colours = np.zeros((4, 2, 3, 3), np.uint8)
    colours[0, ..., 0] = colours[1, ..., 1] = colours[2, ..., 2] = 200
    colours[3] = 255
    np.savez(tmp_path / "c.npz", images=colours, labels=[0, 1, 2, 3])
    grey = ImageReading(channels=1).read(str(tmp_path / "c.npz"))
    assert grey.size == (2, 3, 1)
    assert grey.pixels[:, 0, 0, 0].tolist() == [60, 117, 23, 255]  # 0.299, 0.587, 0.114
    np.savez(tmp_path / "g.npz", images=PIXELS, labels=NUMBERS)
    three = ImageReading(channels=3).read(str(tmp_path / "g.npz"))
    np.testing.assert_array_equal(three.pixels, np.repeat(PIXELS, 3, -1))


def test_a_table_of_pixels_may_have_its_labels_anywhere_its_shape_and_fractions(tmp_path):
    rows = [[*np.arange(12) / 12, "b"], [*np.arange(12)[::-1] / 12, "a"]]
    names = [*(f"p{number}" for number in range(12)), "kind"]
    lines = [",".join(map(str, row)) for row in [names, *rows]]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"must have images of 1 or 3 channels, got 2"):
        ImageReading(label_column="kind", shape=(2, 3, 2)).read(str(tmp_path / "t.csv"))
    found = ImageReading(label_column="kind").read(str(tmp_path / "t.csv"))  # a square of three colours
    assert found.size == (2, 2, 3)
    assert (found.labels, found.lines.tolist()) == (["b", "a"], [2, 3])
    np.testing.assert_array_equal(found.pixels[0].reshape(-1), np.round(np.arange(12) / 12 * 255))
    tall = ImageReading(label_column="kind", shape=(4, 1, 3)).read(str(tmp_path / "t.csv"))
    assert tall.size == (4, 1, 3)
    # Without names of columns, the label is first, and the first line is an image.
    (tmp_path / "n.csv").write_text("7,0,1,2,255\n8,4,5,6,7\n")
    plain = ImageReading().read(str(tmp_path / "n.csv"))
    assert (plain.labels, plain.lines.tolist(), plain.size) == (["7", "8"], [1, 2], (2, 2, 1))
    # Whole numbers up to 1 are no fractions.
    (tmp_path / "o.csv").write_text("7,0,1,0,1\n")
    assert ImageReading().read(str(tmp_path / "o.csv")).pixels.max() == 1


@pytest.mark.parametrize(
    ("header", "labelled"),
    [
        (["label", *range(16)], True),
        ([*range(1, 17), "label"], True),
        (["label", *range(100, 116)], True),
        ([*range(16)], False),
        ([*range(1, 17)], False),
    ],
)
def test_numbers_may_name_the_columns_of_a_table_of_pixels(header, labelled, tmp_path):
    rows = [list(map(str, image.reshape(-1).tolist())) for image in PIXELS]
    for row, number in zip(rows, NUMBERS, strict=True):
        if labelled:
            row.insert(header.index("label"), str(number))
    (tmp_path / "t.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in [header, *rows]))
    found = ImageReading().read(str(tmp_path / "t.csv"), labelled=labelled)
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert found.lines.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.labels == (list(map(str, NUMBERS)) if labelled else None)


def test_a_label_column_that_numbers_have_for_a_name_is_one_of_the_header_alone(tmp_path):
    named = [[*range(17)], *([*image.reshape(-1).tolist(), 3] for image in PIXELS)]
    (tmp_path / "t.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in named))
    found = ImageReading(label_column="16").read(str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(found.pixels, PIXELS)
    assert set(found.labels) == {"3"}
    with pytest.raises(ValueError, match=r"^\S+t\.csv must have a column 'label', got 0, 1, .* Say --label-column\.$"):
        ImageReading().read(str(tmp_path / "t.csv"))
    # The label 7, and a pixel of 7: no names.
    (tmp_path / "n.csv").write_text("7,0,7,2,255\n8,4,5,6,7\n")
    assert ImageReading(label_column="7").read(str(tmp_path / "n.csv")).labels == ["7", "8"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '1,"2' + ",3" * 70_000,
            r"^\S+t\.csv:3 must be fields with commas between and their quotes closed, got: .*\.$",
        ),
        ("1,2\r1,2", r"^\S+t\.csv:3 has a carriage return inside"),
    ],
)
def test_a_line_that_is_no_row_of_a_table_of_pixels_is_named(line, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(f"label,p0\n0,7\n{line}\n1,8\n".encode())
    with pytest.raises(ValueError, match=message) as caught:
        ImageReading().read(str(tmp_path / "t.csv"))
    assert "\n" not in str(caught.value)


def test_a_picture_of_one_channel_is_grey_and_of_any_size():
    for shape in ((3, 5, 1), (2, 7, 3)):
        pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
        opened = PIL.open(io.BytesIO(base64.b64decode(png_address(pixels).partition(",")[2])))
        assert opened.mode == ("L" if shape[-1] == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(opened).reshape(shape), pixels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": 0}, r"^resize must be over 0, got resize=0\.$"),
        ({"pixel_max": 0.0}, r"^pixel_max must be over 0, got pixel_max=0\.0\.$"),
        ({"pixel_max": float("nan")}, r"^pixel_max must be over 0, got pixel_max=nan\.$"),
        ({"shape": (-4, -4, 1)}, r"^shape must be of numbers over 0, got shape=\(-4, -4, 1\)\.$"),
        ({"shape": (4, 0, 1)}, r"^shape must be of numbers over 0"),
        (
            {"shape": (2, 4, 1)},
            r"^\S+t\.csv must have 8 pixels a line for images of shape \(2, 4, 1\), got 16\. Say --shape",
        ),
    ],
)
def test_sizes_that_cannot_be_are_one_line(changes, message, tmp_path):
    location = write_csv(tmp_path)
    with pytest.raises(InputError, match=message):
        ImageReading(**changes).read(location)


def test_a_table_of_a_header_alone_holds_no_image(tmp_path):
    (tmp_path / "t.csv").write_text("label,p0,p1,p2,p3\n")
    with pytest.raises(InputError, match=r"^\S+t\.csv must hold at least one image, got none\.$"):
        ImageReading().read(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("label,p0,p1,p2,p3,p4\n1,2,3,4,5,6\n")
    with pytest.raises(InputError, match=r"^\S+t\.csv must have as many pixels a line as a square .*, got 5\.$"):
        ImageReading().read(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(InputError, match=r"^\S+t\.csv must hold at least one image, got nothing\.$"):
        ImageReading().read(str(tmp_path / "t.csv"))


def test_pictures_are_resized_between_their_pixels_and_found_whatever_their_case(tmp_path):
    folder = tmp_path / "a"
    write_folder(folder)
    (folder / "ant" / "0.png").rename(folder / "ant" / "0.PNG")
    (folder / "ant" / ".hidden.png").write_bytes(b"no image")
    (folder / "ant" / "notes.txt").write_text("no image")
    (folder / ".cache").mkdir()
    images = ImageReading(resize=7).read(str(folder))
    assert [Path(name).name for name in images.names] == ["0.PNG", "4.png", "2.png", "3.png", "1.png", "5.png"]
    for image, number in zip(images.pixels, (0, 4, 2, 3, 1, 5), strict=True):
        opened = PIL.fromarray(PIXELS[number, ..., 0]).resize((7, 7), PIL.Resampling.BILINEAR)
        np.testing.assert_array_equal(image[..., 0], np.asarray(opened))
    found = ImageReading().read(str(folder / "ant"), labelled=False)
    assert (len(found), found.labels) == (2, None)
    alone = ImageReading().read(str(folder / "bee" / "2.png"), labelled=False)
    np.testing.assert_array_equal(alone.pixels, PIXELS[2:3])
    with pytest.raises(InputError, match=r"2\.png must be a folder with a folder for each class, got a file\.$"):
        ImageReading().read(str(folder / "bee" / "2.png"))


def test_arrays_of_several_names_are_found_in_an_npz(tmp_path):
    pixels, path = PIXELS[..., 0], str(tmp_path / "t.npz")
    for names, location in (
        (("images", "labels"), path),
        (("x", "y"), path),
        (("train_images", "train_labels"), f"{path}:train"),
        (("x_test", "y_test"), f"{path}:test"),
    ):
        np.savez(path, **dict(zip(names, (pixels, NUMBERS[:, None]), strict=True)))
        found = ImageReading().read(location)
        np.testing.assert_array_equal(found.pixels, PIXELS)
        assert found.labels == list(map(str, NUMBERS))
        np.savez(path, **{names[0]: pixels})
        assert ImageReading().read(location, labelled=False).labels is None
        with pytest.raises(InputError, match=r"must have the arrays "):
            ImageReading().read(location)
    np.savez(path, images=pixels, labels=NUMBERS[:5])
    with pytest.raises(InputError, match=r"must have a label for each image, got 6 images and 5 labels\.$"):
        ImageReading().read(path)
    np.savez(path, images=pixels[0, 0], labels=NUMBERS)
    with pytest.raises(InputError, match=r"must have images of height, width and channels, got shape \(4,\)\.$"):
        ImageReading().read(path)


def test_a_label_of_a_dataset_has_its_name_and_is_there():
    assert [image_label(value, names=("a", "b"), place="p") for value in (0, 1, " c ", 2)] == ["a", "b", "c", "2"]
    assert image_label(-1, names=None, place="p") == "-1"
    for value in (-1, None, " "):
        with pytest.raises(
            InputError, match=r"^p must have a label, got .*\. Images without labels are for --predict\.$"
        ):
            image_label(value, names=("a", "b"), place="p")


def test_an_idx_file_has_the_labels_of_the_file_beside_it(tmp_path):
    location = write_idx(tmp_path)
    assert ImageReading().read(location, labelled=False).labels is None
    with pytest.raises(InputError, match=r"must hold images, three dimensions or four, got 1\.$"):
        ImageReading().read(location.replace("images-idx3", "labels-idx1"))
    (tmp_path / "a.idx").write_bytes(idx(PIXELS))
    assert ImageReading().read(str(tmp_path / "a.idx"), labelled=False).size == (4, 4, 1)
    with pytest.raises(InputError, match=r"a\.idx must have images in its name, to find the file of its labels by\.$"):
        ImageReading().read(str(tmp_path / "a.idx"))
    for content in (idx(PIXELS)[:3], b"\0\0\x09" + idx(PIXELS)[3:], b"\0\1" + idx(PIXELS)[2:]):
        (tmp_path / "a.idx").write_bytes(content)
        with pytest.raises(InputError, match=r"must be an IDX file of unsigned bytes, got one that begins with "):
            ImageReading().read(str(tmp_path / "a.idx"), labelled=False)


def test_sets_of_images_say_their_sizes_and_are_rows_of_one_length():
    labels = Labels(kind="single", names=("a", "b", "c"))
    wide = make_images(np.zeros((3, 2, 5, 3), np.uint8), ["a", "b", "c"], origin="w")
    sets = ImageSets(wide, wide.select([1]), None, wide.select([0, 2]), labels)
    assert sets.sizes == {"image_height": 2, "image_width": 5, "image_channels": 3, "num_outputs": 3}
    assert (sets.facts()["test_images"], sets.facts()["labels"]) == ("none", "single: a, b, c")
    assert sets.facts()["development_images"] == "w: 1 of 2 x 5 pixels, 3 channels"
    rows = sets.encode(length=11)
    assert [None if each is None else len(each) for each in rows] == [3, 1, None, 2]
    assert [each.targets is None for each in (rows.train, rows.dev, rows.to_label)] == [False, False, True]
    assert (len(rows.train.identity), len(rows.to_label.identity)) == (2, 1)
    assert rows.train.batch(np.array([2, -1]), length=11)["index"].tolist() == [2, -1]
    assert rows.train.indices.tolist() == [0, 1, 2]
    with pytest.raises(
        InputError, match=r"^length_multiple must be 1, got length_multiple=8: all images are as long\.$"
    ):
        sets.encode(length=11, multiple=8)


def test_the_way_to_images_of_one_size_is_told(tmp_path):
    train = make_images(np.zeros((1, 6, 4, 3), np.uint8), None, origin="train")
    for shape in ((6, 4, 1), (6, 5, 3), (5, 4, 3)):
        other = make_images(np.zeros((1, *shape), np.uint8), None, origin="other")
        with pytest.raises(
            InputError, match=r"^other must have .* with --resize 4, and .* channels with --channels 3\.$"
        ):
            check_alike(train, other)
    check_alike(train, None)
