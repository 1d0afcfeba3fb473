"""N equal blocks in arrays with a leading axis "layers", run by one scan.

Compile time does not grow with depth, and a checkpoint does not depend on how far the scan is unrolled. A stack knows
where its tokens stand and how far they see; what a block is, `lmx.nn.transformer` says.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lmx.nn.kernels import biased
from lmx.nn.masks import Sees
from lmx.nn.positions.encoding import PositionalEncoding
from lmx.nn.remat import POLICIES, Remat
from lmx.sharding.step import is_gathered


class Stack(nnx.Module):
    """N equal blocks, their parameters stacked on a leading axis "layers", run by one scan.

    Args:
        make_block: builds one block from its own random streams.
        final_norm: applied after the last block; pre-norm stacks need it.
        remat: see `TransformerConfig`.
        unroll: how many layers one turn of the scan holds; num_layers unrolls all of it. The results are the same.
        window: see `TransformerConfig`.

    Raises:
        ValueError: num_layers is below 1.
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], nnx.Module],
        num_layers: int,
        *,
        final_norm: nnx.Module | None = None,
        remat: Remat = "none",
        unroll: int = 1,
        window: int | None = None,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got num_layers={num_layers}.")
        definition, _ = nnx.split(nnx.eval_shape(lambda: make_block(nnx.Rngs(0))))
        keys = jax.random.split(rngs.params(), num_layers)
        state = jax.vmap(lambda key: nnx.state(make_block(nnx.Rngs(params=key))))(keys)
        for _, param in nnx.to_flat_state(state):
            param.set_metadata(axes=("layers", *param.get_metadata("axes")))
        self.blocks = nnx.merge(definition, state)
        self.final_norm = final_norm
        self.num_layers = num_layers
        self.remat: Remat = remat
        self.unroll = unroll
        self.window = window

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        encoding: PositionalEncoding | None = None,
        positions: Int[Array, "#B T"] | None = None,
        key: Key[Array, ""] | None = None,
        **inputs,
    ) -> tuple[Float[Array, "B T D"], dict[str, Float[Array, "N B H T _"]]]:
        """Runs all blocks on x with the same `inputs` (see `transformer.Block`); attention maps come stacked by layer.

        Args:
            encoding: asked how self-attention knows where tokens stand; None does not tell it.
            positions: of the tokens; None means from 0.
        """
        inputs = self._placed(inputs, encoding, positions, length=x.shape[1])
        definition, state = nnx.split(self.blocks)
        keys = None if key is None else jax.random.split(key, self.num_layers)

        def run(x: jax.Array, layer: tuple) -> tuple:
            block_state, block_key = layer
            return nnx.merge(definition, block_state)(x, key=block_key, **inputs)

        if self.remat != "none" or is_gathered(("embed",)):
            # In a loop XLA cannot merge what is recomputed with the first pass, and so undo it; unrolled it could.
            run = jax.checkpoint(run, policy=POLICIES[self.remat], prevent_cse=self.unroll > 1)
        x, maps = jax.lax.scan(run, x, (state, keys), unroll=min(self.unroll, self.num_layers))
        return self._finish(x), maps

    def attended(self, sees: Sees, encoding: PositionalEncoding | None = None) -> Sees:
        """Returns the structure of self-attention in this stack: what kernels ask for.

        Args:
            sees: what a call is given.
            encoding: the same; of its bias, the result has the shape.
        """
        sees = sees.within(self.window)
        if encoding is None:
            return sees
        definition, state = nnx.split(encoding)
        place = jnp.zeros((1, 1), jnp.int32)
        return sees.with_bias(jax.eval_shape(lambda state: nnx.merge(definition, state).bias(place, place), state))

    def unstack(self) -> list[Any]:
        """Returns the blocks one by one, as decoding uses them: each keeps a cache of its own."""
        definition, state = nnx.split(self.blocks)

        def layer(index: int) -> nnx.Module:
            return nnx.merge(definition, jax.tree.map(lambda leaf: leaf[index], state))

        return [layer(index) for index in range(self.num_layers)]

    def run(
        self, blocks: list[Any], x: Float[Array, "B T D"], *, encoding: PositionalEncoding | None = None, **inputs
    ) -> tuple[Float[Array, "B T D"], list[dict[str, jax.Array]]]:
        """Returns what a call does, of unstacked blocks, and what each of them was asked for."""
        inputs = self._placed(inputs, encoding, None, length=x.shape[1])
        found = []
        for block in blocks:
            x, asked = block(x, **inputs)
            found.append(asked)
        return self._finish(x), found

    def _placed(
        self,
        inputs: dict[str, Any],
        encoding: PositionalEncoding | None,
        positions: Int[Array, "#B T"] | None,
        *,
        length: int,
    ) -> dict[str, Any]:
        """Returns the inputs of blocks with where tokens stand and how far they see."""
        if self.window is not None:
            inputs["sees"] = inputs["sees"].within(self.window)
        if encoding is not None:
            inputs["rotate"] = functools.partial(encoding.rotate, positions=positions)
            inputs["sees"] = _with_bias(inputs["sees"], encoding, positions, length=length)
        return inputs

    def _finish(self, x: jax.Array) -> jax.Array:
        return x if self.final_norm is None else self.final_norm(x)

    def extend(
        self,
        blocks: list[Any],
        x: Float[Array, "B T D"],
        caches: list[Any],
        *,
        encoding: PositionalEncoding | None = None,
        positions: Int[Array, "#B T"] | None = None,
        slots: Int[Array, "#B S"] | None = None,
        **inputs,
    ) -> tuple[Float[Array, "B T D"], list[Any]]:
        """Runs T new positions through unstacked blocks (see `transformer.Block.extend`), each with its cache.

        A position sees what both the mask and the stack's window allow.

        Args:
            encoding: see `__call__`; it and a window need both of the following.
            positions: of the new tokens.
            slots: the position of the token in each slot of the cache, the new tokens' own included; of a slot that no
                token sees, any.

        Raises:
            ValueError: an encoding or a window is not told where all stand.
        """
        if encoding is not None or self.window is not None:
            if positions is None or slots is None:
                what = "a window" if encoding is None else "an encoding"
                raise ValueError(
                    f"positions and slots must be given with {what}, got positions={positions} and slots={slots}."
                )
            if self.window is not None:
                distances = jnp.abs(positions[:, :, None] - slots[:, None, :])
                inputs["mask"] = inputs["mask"] & (distances < self.window)[:, None]
            if encoding is not None:
                inputs["rotate"] = functools.partial(encoding.rotate, positions=positions)
                inputs["bias"] = encoding.bias(positions, slots)
        extended = []
        for block, cache in zip(blocks, caches, strict=True):
            x, cache = block.extend(x, cache, **inputs)
            extended.append(cache)
        return self._finish(x), extended


def _with_bias(sees: Sees, encoding: PositionalEncoding, positions: jax.Array | None, *, length: int) -> Sees:
    """Returns what is seen with the bias of an encoding, if it has one."""
    places = jnp.arange(length)[None] if positions is None else positions

    def make(rows: jax.Array | None) -> jax.Array | None:
        return encoding.bias(places if rows is None else places[:, rows], places)

    return biased(sees, make, num_queries=length, num_keys=length)
