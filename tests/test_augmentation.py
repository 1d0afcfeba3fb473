"""Changes of images: pure functions of a key, and what each may do to an image and what not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.augmentation import AugmentationConfig, augment, crop, erase, flip, warp

PIXELS = jnp.asarray(np.random.default_rng(0).integers(1, 256, (40, 5, 7, 3)).astype(np.uint8))
ALL = AugmentationConfig(crop=2, flip=True, turn=20.0, stretch=0.2, erase=0.5)


def test_changes_are_a_function_of_the_key_alone():
    first, again = (np.asarray(augment(PIXELS, ALL, jax.random.key(3))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != np.asarray(augment(PIXELS, ALL, jax.random.key(4)))).any()
    assert first.shape == PIXELS.shape


def test_without_a_key_or_a_wish_images_stay():
    assert augment(PIXELS, ALL, None) is PIXELS
    assert augment(PIXELS, AugmentationConfig(), jax.random.key(0)) is PIXELS


def test_a_crop_shifts_each_image_by_so_many_pixels_at_most():
    found = np.asarray(crop(PIXELS, pad=2, key=jax.random.key(0)))
    padded = np.pad(np.asarray(PIXELS), ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = set()
    for image, changed in zip(padded, found, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if (image[y : y + 5, x : x + 7] == changed).all()]
        assert len(places) == 1
        shifts.update(places)
    assert len(shifts) > 12  # of 25


def test_a_flip_mirrors_about_half_of_the_images():
    found = np.asarray(flip(PIXELS, key=jax.random.key(1)))
    same = (found == np.asarray(PIXELS)).all((1, 2, 3))
    mirrored = (found == np.asarray(PIXELS)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 8 < mirrored.sum() < 32


def test_erasing_empties_one_rectangle_of_some_images():
    pixels = jnp.asarray(np.full((60, 10, 12, 1), 9, np.uint8))
    found = np.asarray(erase(pixels, rate=0.5, key=jax.random.key(2)))
    areas = []
    for image in found[..., 0]:
        rows, columns = np.nonzero(image == 0)
        if rows.size:
            box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (box == 0).all()
            areas.append(box.size / image.size)
    assert 15 < len(areas) < 45
    assert 0.005 < min(areas) < max(areas) < 0.5
    np.testing.assert_array_equal(erase(pixels, rate=0.0, key=jax.random.key(2)), pixels)


def test_a_warp_of_nothing_is_the_image():
    still = warp(PIXELS, turn=0.0, stretch=0.0, key=jax.random.key(0))
    np.testing.assert_allclose(still, PIXELS, atol=1e-3)


def test_a_warp_turns_about_the_middle():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 4, 4] = 255
    image[0, 4, 7] = 200
    turned = np.asarray(warp(jnp.repeat(jnp.asarray(image), 30, axis=0), turn=90.0, stretch=0.0, key=jax.random.key(5)))
    np.testing.assert_allclose(turned[:, 4, 4, 0], 255, atol=1e-2)
    y, x = np.mgrid[:9, :9] - 4
    outside = turned[..., 0] * (np.hypot(y, x) > 1.5)
    mass = outside.sum((1, 2))
    radius = np.hypot((outside * y).sum((1, 2)) / mass, (outside * x).sum((1, 2)) / mass)
    np.testing.assert_allclose(radius, 3, atol=0.35)
    assert turned.max() <= 255.001


@pytest.mark.parametrize(("name", "value"), [("crop", -1), ("erase", 1.5), ("stretch", 1.0), ("turn", 200.0)])
def test_numbers_out_of_range_are_one_line(name, value):
    with pytest.raises(ValueError, match=rf"^augment\.{name} must be from 0 to .*, got {name}={value}\.$"):
        AugmentationConfig(**{name: value}).check()


# What is drawn: of whom, how far, and apart from what.


def matrices_of(height: int, width: int, rows: int, *, seed: int, **settings: float) -> np.ndarray:
    """Returns of each image, seen from its middle, the matrix that takes a place to where its pixel is from.

    An image whose values are its own places shows them: what is linear is interpolated without an error.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([y, x, np.ones_like(y)], -1)
    found = np.asarray(warp(jnp.asarray(np.repeat(image[None], rows, 0)), key=jax.random.key(seed), **settings))
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    matrices = []
    for each in found:
        inside = each[..., 2] > 0.999
        here = np.stack([y[inside], x[inside]], -1) - middle
        matrix, rest, *_ = np.linalg.lstsq(here, each[inside][:, :2] - middle, rcond=None)
        assert len(here) > 20
        np.testing.assert_allclose(rest, 0, atol=0.01)  # about the middle, and a matrix
        matrices.append(matrix.T)
    return np.array(matrices)


def test_a_warp_turns_by_up_to_its_degrees_either_way():
    matrices = matrices_of(15, 21, 200, seed=1, turn=30.0, stretch=0.0)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    np.testing.assert_allclose(matrices, np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2), atol=1e-3)
    assert -30 <= angles.min() < -25
    assert 25 < angles.max() <= 30.01
    assert abs(angles.mean()) < 5


def test_a_warp_stretches_each_side_and_slants_by_up_to_its_share_each_for_itself():
    matrices = matrices_of(15, 21, 300, seed=2, turn=0.0, stretch=0.3)
    tall, broad, slant = matrices[:, 0, 0] - 1, matrices[:, 1, 1] - 1, matrices[:, 1, 0]
    np.testing.assert_allclose(matrices[:, 0, 1], 0, atol=1e-3)
    for draws in (tall, broad, slant):
        assert -0.301 <= draws.min() < -0.25
        assert 0.25 < draws.max() <= 0.301
        assert abs(draws.mean()) < 0.05
    assert np.abs(np.corrcoef([tall, broad, slant]) - np.eye(3)).max() < 0.25


def test_crops_go_each_way_as_often_and_down_apart_from_across():
    image = np.zeros((400, 11, 13, 1), np.uint8)
    image[:, 5, 6] = 1
    found = np.asarray(crop(jnp.asarray(image), pad=3, key=jax.random.key(4)))[..., 0]
    down, across = (np.argmax(found.any(axis), -1) - middle for axis, middle in ((2, 5), (1, 6)))
    for shifts in (down, across):
        counts = np.bincount(shifts + 3, minlength=7)
        assert counts.size == 7
        assert counts.min() > 30  # of 57
    assert abs(np.corrcoef(down, across)[0, 1]) < 0.2


def test_erased_rectangles_have_the_shares_and_the_sides_of_their_paper_and_lie_anywhere():
    height, width, rows = 40, 60, 1500
    holes = np.asarray(erase(jnp.ones((rows, height, width, 1)), rate=1.0, key=jax.random.key(7)))[..., 0] == 0
    down, across = holes.any(2), holes.any(1)
    tall, broad = down.sum(1), across.sum(1)
    free = (tall < height) & (broad < width)  # their sides are as they were drawn
    share, ratio = (tall * broad / (height * width))[free], (tall / broad)[free]
    assert 0.015 < share.min() < 0.035
    assert 0.36 < share.max() < 0.42
    assert 0.25 < ratio.min() < 0.36
    assert 2.8 < ratio.max() < 4.0
    assert 0.8 < np.exp(np.log(ratio).mean()) < 1.0  # as often tall as broad, but for those as tall as the image
    for lines in (down, across):  # the first place and the last are reached
        assert lines[:, 0].any()
        assert lines[:, -1].any()
    first = np.argmax(down, 1)[tall < height] / (height - tall)[tall < height]
    assert 0.45 < first.mean() < 0.55
    assert abs(np.corrcoef(np.argmax(down, 1)[free], np.argmax(across, 1)[free])[0, 1]) < 0.15


def test_what_happens_to_an_image_is_drawn_for_each_change_and_each_image_apart():
    rows = 500
    image = np.full((rows, 12, 12, 1), 200, np.uint8)
    image[:, :, :6] = 100  # a mirrored one begins bright
    config = AugmentationConfig(crop=2, flip=True, erase=0.5)
    found = np.asarray(augment(jnp.asarray(image), config, jax.random.key(11)))[..., 0]
    alone = np.asarray(augment(jnp.asarray(image), AugmentationConfig(flip=True), jax.random.key(11)))[..., 0]
    mirrored = alone[:, 0, 0] == 200
    shifted = np.asarray(augment(jnp.asarray(image), AugmentationConfig(crop=2), jax.random.key(11)))[..., 0]
    down = (shifted[:, :2, 6] == 0).sum(1) - (shifted[:, -2:, 6] == 0).sum(1)
    erased = np.asarray(augment(jnp.asarray(image), AugmentationConfig(erase=0.5), jax.random.key(11)))[..., 0]
    hit = (erased == 0).any((1, 2))
    assert 0.4 < mirrored.mean() < 0.6
    assert 0.4 < hit.mean() < 0.6
    assert np.abs(np.corrcoef([mirrored, hit, down]) - np.eye(3)).max() < 0.2
    assert len({each.tobytes() for each in found}) > rows / 3
    # Each change has the draws that it has alone.
    both = np.asarray(augment(jnp.asarray(image), AugmentationConfig(crop=2, flip=True), jax.random.key(11)))[..., 0]
    np.testing.assert_array_equal(both, np.where(mirrored[:, None, None], shifted[:, :, ::-1], shifted))
