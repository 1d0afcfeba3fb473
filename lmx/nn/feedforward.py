"""The position-wise feed-forward network, in its two-layer and its gated form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from lmx.nn.dropout import dropout
from lmx.nn.layers import Linear
from lmx.sharding.products import joint_product
from lmx.sharding.step import constrain, parts

Activation = Callable[[jax.Array], jax.Array]


class FeedForward(nnx.Module):
    """Two linear maps with an activation between: f(x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3)."""

    def __init__(
        self,
        width: int,
        hidden_width: int,
        *,
        activation: Activation = jax.nn.relu,
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.up = Linear((width,), (hidden_width,), axes=("embed", "mlp"), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.down = Linear((hidden_width,), (width,), axes=("mlp", "embed"), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.activation = activation
        self.dropout_rate = dropout_rate

    def __call__(self, x: Float[Array, "*B D"], *, key: Key[Array, ""] | None = None) -> Float[Array, "*B D"]:
        return self.down(dropout(_split(self.activation(self.up(x))), self.dropout_rate, key))


class GatedFeedForward(nnx.Module):
    """A hidden layer scaled by an activated gate: (f(x Wg) * x Wu) Wd, without biases by habit (Shazeer 2020)."""

    def __init__(
        self,
        width: int,
        hidden_width: int,
        *,
        activation: Activation = jax.nn.silu,
        dropout_rate: float = 0.0,
        use_bias: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.gate = Linear((width,), (hidden_width,), axes=("embed", "mlp"), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.up = Linear((width,), (hidden_width,), axes=("embed", "mlp"), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.down = Linear((hidden_width,), (width,), axes=("mlp", "embed"), use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.activation = activation
        self.dropout_rate = dropout_rate

    def __call__(self, x: Float[Array, "*B D"], *, key: Key[Array, ""] | None = None) -> Float[Array, "*B D"]:
        if parts("mlp") == 1:
            gate, up = self.gate(x), self.up(x)
        else:
            weights = [linear.weight[...][:, None] for linear in (self.gate, self.up)]
            both = joint_product(x, weights, axes=("embed", None, "mlp"), axis=1, dtype=self.up.dtype)
            gate, up = (y.squeeze(-2) for y in both)
            gate, up = self.gate.shift(gate), self.up.shift(up)
        return self.down(dropout(_split(self.activation(gate) * up), self.dropout_rate, key))


def _split(hidden: jax.Array) -> jax.Array:
    return constrain(hidden, "batch", "length", "mlp") if hidden.ndim == 3 else hidden
