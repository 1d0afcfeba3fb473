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
