"""The vision Transformer: patches, positions in two dimensions, and what it makes of an image."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmx.models.vision import VisionConfig, VisionTransformer, patches_of, sinusoidal_grid, training_flops
from lmx.nn.embedding import count_parameters

SIZES = {"image_height": 6, "image_width": 8, "image_channels": 3, "patch": 2, "num_outputs": 5}
TINY = VisionConfig(**SIZES, width=16, feedforward_width=24, num_heads=2, num_layers=2, dropout_rate=0.0)


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 6, 8, 3)).astype(np.uint8)


def changed(**changes) -> VisionConfig:
    return replace(TINY, **changes)


def model_of(config: VisionConfig, seed: int = 0) -> VisionTransformer:
    return VisionTransformer(config, rngs=nnx.Rngs(seed))


def test_patches_are_squares_row_by_row():
    pixels = images(2)
    patches = np.asarray(patches_of(jnp.asarray(pixels), 2))
    assert patches.shape == (2, 12, 12)
    np.testing.assert_array_equal(patches[1, 5].reshape(2, 2, 3), pixels[1, 2:4, 2:4])  # second row, second column
    np.testing.assert_array_equal(patches[0, 3].reshape(2, 2, 3), pixels[0, 0:2, 6:8])


def test_a_fixed_position_says_its_row_and_its_column():
    grid = np.asarray(sinusoidal_grid(3, 4, 8)).reshape(3, 4, 8)
    assert len(np.unique(grid.reshape(12, 8), axis=0)) == 12
    assert (grid[:, :1, :4] == grid[:, :, :4]).all()
    assert (grid[:1, :, 4:] == grid[:, :, 4:]).all()
    frequencies = 10000.0 ** -(np.arange(2) / 2)
    np.testing.assert_allclose(grid[2, 3], [*np.sin(2 * frequencies), *np.cos(2 * frequencies),
                                            *np.sin(3 * frequencies), *np.cos(3 * frequencies)], atol=1e-6)  # fmt: skip
    with pytest.raises(ValueError, match=r"^width must be divisible by 4 .* got width=6\.$"):
        sinusoidal_grid(3, 4, 6)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_each_row_is_read_alone_and_attention_is_over_all_tokens(positions, pooling):
    model = model_of(changed(positions=positions, pooling=pooling))
    outputs, maps = model(jnp.asarray(images(3)), with_attention=True)
    tokens = 12 + (pooling == "first")
    assert model.config.num_tokens == tokens
    assert outputs.shape == (3, 5)
    assert maps["self"].shape == (2, 3, 2, tokens, tokens)
    np.testing.assert_allclose(np.asarray(maps["self"]).sum(-1), 1, atol=1e-5)
    alone, _ = model(jnp.asarray(images(3)[1:2]))
    np.testing.assert_allclose(alone[0], outputs[1], atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "positions", "scaled"), [("first", "sinusoidal", True), ("mean", "learned", False)]
)
def test_tokens_are_patches_from_minus_1_to_1_with_their_positions(pooling, positions, scaled):
    model = model_of(changed(positions=positions, pooling=pooling, scaled_embeddings=scaled, first_position=2))
    pixels = images(2)
    values = np.asarray(patches_of(jnp.asarray(pixels), 2), np.float64) / 255 * 2 - 1
    expected = values @ np.asarray(model.patches.weight[...]) * (4 if scaled else 1)
    grid = sinusoidal_grid(5, 6, 16).reshape(5, 6, 16)[2:, 2:].reshape(12, 16)
    expected = expected + np.asarray(grid if positions == "sinusoidal" else model.positions.table[...])
    if pooling == "first":
        first = np.broadcast_to(np.asarray(model.first.table[...]), (2, 1, 16))
        expected = np.concatenate([first, expected], axis=1)
    np.testing.assert_allclose(model.embed(jnp.asarray(pixels)), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_outputs_are_of_the_first_state_or_of_the_mean(pooling):
    model = model_of(changed(pooling=pooling))
    states = np.random.default_rng(3).normal(size=(2, 12, 16)).astype(np.float32)

    class Given(nnx.Module):
        def __call__(self, x, **_):
            return jnp.asarray(states, jnp.bfloat16), {}

    model.stack = Given()
    outputs, _ = model(jnp.asarray(images(2)))
    states = np.asarray(jnp.asarray(states, jnp.bfloat16).astype(jnp.float32))
    pooled = states[:, 0] if pooling == "first" else states.mean(1)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, pooled @ np.asarray(model.output.weight[...]), atol=1e-5)


def test_positions_tell_an_image_from_one_with_its_patches_in_another_order():
    pixels = images(1)
    shuffled = pixels[:, :, ::-1]
    model = model_of(TINY)
    assert np.abs(np.asarray(model(jnp.asarray(pixels))[0] - model(jnp.asarray(shuffled))[0])).max() > 1e-4
    model.positions.table[...] = jnp.zeros_like(model.positions.table[...])
    swapped = np.concatenate([pixels[:, :, 4:], pixels[:, :, :4]], axis=2)
    np.testing.assert_allclose(model(jnp.asarray(pixels))[0], model(jnp.asarray(swapped))[0], atol=1e-5)


def test_the_base_model_of_the_paper_has_its_parameters():
    config = VisionConfig(
        image_height=224, image_width=224, image_channels=3, patch=16, num_outputs=1000, width=768,
        feedforward_width=3072, num_heads=12, num_layers=12, pooling="first",
    )  # fmt: skip
    model = nnx.eval_shape(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)))
    # The published checkpoint has 86,567,656: the class token and a position for it are one vector here.
    assert count_parameters(model) == 86_567_656 - 768


def test_flops_are_those_of_the_products():
    config = TINY
    products = 12 * (16 * 12) + 2 * 12 * (4 * 16 * 16 + 2 * 16 * 12 + 2 * 16 * 24) + 16 * 5
    assert training_flops(config, rows=7) == 6.0 * 7 * products


def test_dropout_follows_its_key():
    model = model_of(changed(dropout_rate=0.5, pooled_dropout_rate=0.5))
    pixels = jnp.asarray(images(2))
    first, again = (model(pixels, key=jax.random.key(1))[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - model(pixels)[0])).max() > 1e-3


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ValueError, match=r"^patch must divide .* got patch=4 and 6 x 8 pixels, 3 channels\."):
        model_of(changed(patch=4))
    for fields in ({"image_height": 8, "image_width": 6, "patch": 4}, {"patch": 0}, {"image_channels": 0}):
        with pytest.raises(ValueError, match=r"^patch must divide the height and the width of the images, got "):
            model_of(changed(**fields))
    with pytest.raises(ValueError, match=r"^num_outputs must be at least 1, got num_outputs=0\."):
        model_of(changed(num_outputs=0))
    with pytest.raises(ValueError, match=r"^images must be of the model's size \(6, 8, 3\), got \(8, 6, 3\)\.$"):
        model_of(TINY)(jnp.zeros((1, 8, 6, 3)))
