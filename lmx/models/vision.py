"""The vision Transformer (Dosovitskiy et al. 2021): patches of an image as tokens of an encoder, and its config.

The blocks are those of every encoder; what is of images alone is here: patches, and positions in two dimensions.
Reading images is `lmx.data.images`'s, changing them in training `lmx.augmentation`'s.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from lmx.nn.config import ActivationName, NormPosition, TransformerConfig
from lmx.nn.dropout import dropout
from lmx.nn.flops import of_stack
from lmx.nn.layers import OUTPUT_DEVIATION, Linear
from lmx.nn.masks import Sees
from lmx.nn.positions.learned import LearnedPositions
from lmx.nn.positions.sinusoidal import sinusoidal
from lmx.nn.transformer import make_stack
from lmx.sharding.step import constrain


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TransformerConfig):
    """The shape of a vision Transformer; the defaults are the paper's choices at a small size.

    Attributes:
        image_height, image_width, image_channels: size of the images; 0 takes that of the data.
        patch: height and width of a patch in pixels.
        num_outputs: one per class; 0 takes the number from the data.
        positions: a trained vector for each patch, or fixed ones of its row and its column (see `sinusoidal_grid`).
        pooling: how an image becomes one vector: the state of a token before the patches ("first", the paper's), or
            the mean of the patches' states (Beyer et al. 2022).
        pooled_dropout_rate: dropout rate on that vector.
    """

    image_height: int = 0
    image_width: int = 0
    image_channels: int = 0
    patch: int = 4
    num_outputs: int = 0
    width: int = 64
    feedforward_width: int = 256
    num_heads: int = 4
    num_layers: int = 4
    norm_position: NormPosition = "pre"
    activation: ActivationName = "gelu"
    positions: Literal["learned", "sinusoidal"] = "learned"
    scaled_embeddings: bool = False
    pooling: Literal["first", "mean"] = "mean"
    pooled_dropout_rate: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            ValueError: the image does not divide into patches.
        """
        height, width, patch = self.image_height, self.image_width, self.patch
        if min(height, width, self.image_channels, patch) < 1 or height % patch or width % patch:
            raise ValueError(
                f"patch must divide the height and the width of the images, got patch={patch} and {height} x {width} "
                f"pixels, {self.image_channels} channels. Choose another --model.patch, or --resize the images."
            )
        return height // patch, width // patch

    @property
    def num_tokens(self) -> int:
        """Tokens of an image: its patches, and the one before them where the pooling takes it."""
        rows, columns = self.grid
        return rows * columns + (self.pooling == "first")


def patches_of(pixels: Num[Array, "B height width channels"], patch: int) -> Num[Array, "B T values"]:
    """Returns the patches of images row by row, each as its values in the order of height, width and channels."""
    rows, height, width, channels = pixels.shape
    grid = pixels.reshape(rows, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(rows, -1, patch * patch * channels)


def sinusoidal_grid(rows: int, columns: int, width: int, *, first: int = 0) -> Float[Array, "T D"]:
    """Returns fixed positions of patches, row by row: half of the width says the row and half the column.

    Each half is `lmx.nn.positions.sinusoidal` of Vaswani et al. 2017. In two dimensions: Chen et al. 2021 (MoCo v3),
    section 4.

    Args:
        first: the number of the first row and of the first column.

    Raises:
        ValueError: width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"width must be divisible by 4 for positions in two dimensions, got width={width}.")
    of_rows = jnp.repeat(sinusoidal(rows, width // 2, first=first), columns, axis=0)
    of_columns = jnp.tile(sinusoidal(columns, width // 2, first=first), (rows, 1))
    return jnp.concatenate([of_rows, of_columns], axis=1)


class VisionTransformer(nnx.Module):
    """An encoder of the patches of an image, pooled into one vector, from which a linear layer makes the outputs.

    Pixels go from 0 to 255 and are read as numbers from -1 to 1, as in the paper's code. The encoder computes in the
    config's type, what follows in float32.

    Raises:
        ValueError: the config has no outputs, or its images do not divide into patches.
    """

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        if config.num_outputs < 1:
            raise ValueError(
                f"num_outputs must be at least 1, got num_outputs={config.num_outputs}. Take Labels.num_outputs."
            )
        config.check()
        self.config = config
        rows, columns = config.grid
        values = config.patch**2 * config.image_channels
        self.patches = Linear(
            (values,), (config.width,), axes=(None, "embed"), dtype=jnp.dtype(config.dtype), rngs=rngs
        )
        learned = config.positions == "learned"
        self.positions = LearnedPositions(rows * columns, config.width, rngs=rngs) if learned else None
        # A token without content is its position alone.
        self.first = LearnedPositions(1, config.width, rngs=rngs) if config.pooling == "first" else None
        self.stack = make_stack(config, config.num_layers, rngs=rngs)
        self.output = Linear(
            (config.width,), (config.num_outputs,), axes=("embed", None), deviation=OUTPUT_DEVIATION, rngs=rngs
        )

    def __call__(
        self,
        pixels: Num[Array, "B height width channels"],
        *,
        key: Key[Array, ""] | None = None,
        with_attention: bool = False,
    ) -> tuple[Float[Array, "B C"], dict[str, jax.Array]]:
        """Returns the outputs in float32, and attention maps ("self", [N, B, H, T, T]) when asked.

        Args:
            pixels: from 0 to 255.
            key: randomness of dropout; None runs without.

        Raises:
            ValueError: the images have another size than the config's.
        """
        config = self.config
        size = (config.image_height, config.image_width, config.image_channels)
        if pixels.shape[1:] != size:
            raise ValueError(f"images must be of the model's size {size}, got {pixels.shape[1:]}.")
        embed_key, stack_key, pooled_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        with jax.named_scope("embed"):
            x = self.embed(pixels)
            x = dropout(x, config.dropout_rate, embed_key)
        with jax.named_scope("encoder"):
            states, maps = self.stack(x, sees=Sees(), key=stack_key, with_attention=with_attention)
        with jax.named_scope("pooling"):
            states = states.astype(jnp.float32)
            pooled = states.mean(1) if self.first is None else states[:, 0]
            pooled = dropout(constrain(pooled, "batch", "embed"), config.pooled_dropout_rate, pooled_key)
        with jax.named_scope("output"):
            return self.output(pooled), maps

    def embed(self, pixels: Num[Array, "B height width channels"]) -> Float[Array, "B T D"]:
        """Returns the patches as vectors with their positions added, before dropout."""
        config = self.config
        x = self.patches(patches_of(pixels.astype(jnp.float32) / 127.5 - 1.0, config.patch))
        rows, columns = config.grid
        if self.positions is None:
            places = sinusoidal_grid(rows, columns, config.width, first=config.first_position)[None]
        else:
            places = self.positions.vectors(jnp.arange(rows * columns)[None])
        x = x.astype(jnp.float32) * (config.width**0.5 if config.scaled_embeddings else 1) + places
        if self.first is not None:
            first = jnp.broadcast_to(self.first.vectors(jnp.zeros((1, 1), jnp.int32)), (len(x), 1, config.width))
            x = jnp.concatenate([first, x], axis=1)
        return constrain(x.astype(jnp.dtype(config.dtype)), "batch", "length", "embed")

    def attentions(self) -> dict[str, Sees]:
        """Returns the structure of each kind of attention in this model."""
        return {"encoder": self.stack.attended(Sees())}


def training_flops(config: VisionConfig, *, rows: int) -> float:
    """Returns the FLOPs of one training step on a batch of images (see `lmx.nn.flops`)."""
    patches = config.num_tokens * config.patch**2 * config.image_channels * config.width
    stack = of_stack(config, layers=config.num_layers, length=config.num_tokens)
    return (stack + patches + config.width * config.num_outputs).of_training(rows)[0]
