"""Tables of word vectors, and what a model does with all of its tables."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lmx.nn.initializers import normal
from lmx.nn.vocabulary import look_up

VOCAB_MULTIPLE = 128  # tables are padded to a multiple of this, so that any vocabulary divides over a mesh axis


def padded_vocabulary(vocab_size: int) -> int:
    """Returns the number of rows a table of `vocab_size` words is stored with."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Embedding(nnx.Module):
    """A table of word vectors, stored with its rows padded to a multiple of 128.

    Drawn by `normal` with variance 1/D, as fairseq does (Vaswani et al. 2017, section 3.4, scales the inputs by sqrt(D)
    to match). A tied output layer then starts with logits of unit variance, and the first loss is about ln V + 1/2.

    Args:
        deviation: standard deviation of the first values, if it is another: `OUTPUT_DEVIATION` of a table that only
            ends a model, whose first loss is then ln V.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        deviation: float | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        drawn = float(width) ** -0.5 if deviation is None else deviation
        table = normal(rngs.params(), (padded_vocabulary(vocab_size), width), deviation=drawn)
        self.table = nnx.Param(table, axes=("vocab", "embed"))
        self.vocab_size = vocab_size
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
        return look_up(self.table[...], tokens, dtype=self.dtype)


def count_parameters(model: nnx.Module) -> int:
    """Counts the parameters as papers do: without the padding of embedding tables. Works on shapes alone."""
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Embedding):
            rows, width = module.table.shape
            total -= (rows - module.vocab_size) * width
    return total
