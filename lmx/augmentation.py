"""Changes of training images that keep their class: shifts, flips, small rotations, erased patches.

Each is a pure function of the images and a key. A step's key is a fold of (seed, step), so that what an image looks
like does not depend on the mesh, on restarts or on the order of other images. Without a key images stay as they are.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

Images = Num[Array, "B height width channels"]


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How training images are changed at each step; the defaults leave them alone.

    Attributes:
        crop: pads images by this many empty pixels on each side, and cuts out their size at a random place.
        flip: mirrors half of the images, left and right; not for digits and letters.
        turn: most degrees that an image is turned by, either way.
        stretch: largest share that height, width and slant of an image change by.
        erase: probability that a rectangle of an image is made empty.
    """

    crop: int = 0
    flip: bool = False
    turn: float = 0.0
    stretch: float = 0.0
    erase: float = 0.0

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: one is out of its range.
        """
        for name, most in (("crop", 2**15), ("turn", 180), ("stretch", 0.9), ("erase", 1)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"augment.{name} must be from 0 to {most}, got {name}={value}.")


def augment(pixels: Images, config: AugmentationConfig, key: Key[Array, ""] | None) -> Images:
    """Returns images changed as the config says, each in its own way."""
    if key is None:
        return pixels
    crop_key, flip_key, warp_key, erase_key = jax.random.split(key, 4)
    if config.turn or config.stretch:
        pixels = warp(pixels, turn=config.turn, stretch=config.stretch, key=warp_key)
    if config.crop:
        pixels = crop(pixels, pad=config.crop, key=crop_key)
    if config.flip:
        pixels = flip(pixels, key=flip_key)
    if config.erase:
        pixels = erase(pixels, rate=config.erase, key=erase_key)
    return pixels


def crop(pixels: Images, *, pad: int, key: Key[Array, ""]) -> Images:
    """Shifts each image by up to `pad` pixels down or up and right or left; what comes in is empty (0).

    Source: He et al. 2015, section 4.2, where it is a random crop out of an image padded by 4 pixels.
    """
    rows, height, width, _ = pixels.shape
    shifts = jax.random.randint(key, (2, rows), -pad, pad + 1)
    # Looked up axis by axis: a gather of whole lines.
    down = jnp.arange(height) - shifts[0][:, None]
    across = jnp.arange(width) - shifts[1][:, None]
    shifted = jnp.take_along_axis(pixels, jnp.clip(down, 0, height - 1)[:, :, None, None], axis=1)
    shifted = jnp.take_along_axis(shifted, jnp.clip(across, 0, width - 1)[:, None, :, None], axis=2)
    inside = ((down >= 0) & (down < height))[:, :, None] & ((across >= 0) & (across < width))[:, None, :]
    return jnp.where(inside[..., None], shifted, jnp.zeros_like(shifted))


def flip(pixels: Images, *, key: Key[Array, ""]) -> Images:
    """Mirrors each image, left and right, with probability one half."""
    mirrored = jax.random.bernoulli(key, shape=(len(pixels), 1, 1, 1))
    return jnp.where(mirrored, pixels[:, :, ::-1], pixels)


def erase(pixels: Images, *, rate: float, key: Key[Array, ""]) -> Images:
    """Makes a rectangle of each image empty (0) with this probability.

    Source: Zhong et al. 2017, algorithm 1, with their shares of the area, from 0.02 to 0.4, and ratios of the sides,
    from 0.3 to 1/0.3. The place is uniform among those where the rectangle lies within the image.
    """
    rows, height, width, _ = pixels.shape
    keys = jax.random.split(key, 4)
    chosen = jax.random.bernoulli(keys[0], rate, (rows,))
    area = jax.random.uniform(keys[1], (rows,), minval=0.02, maxval=0.4) * height * width
    ratio = jnp.exp(jax.random.uniform(keys[2], (rows,), minval=jnp.log(0.3), maxval=-jnp.log(0.3)))
    sides = jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)])
    sizes = jnp.array([[height], [width]])
    sides = jnp.clip(jnp.round(sides), 1, sizes).astype(jnp.int32)
    begins = jnp.floor(jax.random.uniform(keys[3], (2, rows)) * (sizes - sides + 1)).astype(jnp.int32)

    def covered(axis: int, length: int) -> jax.Array:
        places = jnp.arange(length)
        return (places >= begins[axis][:, None]) & (places < (begins + sides)[axis][:, None])

    hole = chosen[:, None, None] & covered(0, height)[:, :, None] & covered(1, width)[:, None, :]
    return jnp.where(hole[..., None], jnp.zeros_like(pixels), pixels)


def warp(pixels: Images, *, turn: float, stretch: float, key: Key[Array, ""]) -> Images:
    """Turns each image by up to `turn` degrees, and stretches and slants it by up to a share, about its middle.

    A pixel of the new image is interpolated linearly between the four around its place in the old one; what comes in
    from outside is empty (0).
    """
    rows, height, width, channels = pixels.shape
    draws = jax.random.uniform(key, (4, rows), minval=-1.0, maxval=1.0)
    angle = draws[0] * (turn * jnp.pi / 180)
    tall, broad, slant = 1 + stretch * draws[1], 1 + stretch * draws[2], stretch * draws[3]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    down, across = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    down, across = down.reshape(-1), across.reshape(-1)
    y = tall[:, None] * (cos[:, None] * down - sin[:, None] * across) + (height - 1) / 2
    x = broad[:, None] * (sin[:, None] * down + cos[:, None] * across) + slant[:, None] * down + (width - 1) / 2
    return _interpolated(pixels.astype(jnp.float32), y, x).reshape(rows, height, width, channels)


def _interpolated(
    pixels: Float[Array, "B height width channels"], y: Float[Array, "B places"], x: Float[Array, "B places"]
) -> Float[Array, "B places channels"]:
    """Returns the values of images at places between pixels."""
    rows, height, width, channels = pixels.shape
    flat = pixels.reshape(rows, height * width, channels)
    top, left = jnp.floor(y), jnp.floor(x)
    total = jnp.zeros((rows, y.shape[1], channels), jnp.float32)
    for below in (0, 1):
        for right in (0, 1):
            row, column = top + below, left + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)), 0.0)
            place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            found = jnp.take_along_axis(flat, place.astype(jnp.int32)[..., None], axis=1)
            total += weight[..., None] * found
    return total
