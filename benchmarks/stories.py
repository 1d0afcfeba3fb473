r"""Whether the decoder writes what others' trained weights write: a file of llama2.c, read and continued greedily.

    python benchmarks/stories.py stories260K.bin --pieces tok512.bin --begins \
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."

The text is made twice: by running all of it anew for each token, and from a cache of keys and values. It fails where
the two differ, or do not begin as they should. The files are those of https://github.com/karpathy/llama2.c (version 0).
"""

import functools
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from lmx.interop.imported import Imported, definition_of
from lmx.interop.llama2c import BOS, read_llama2c
from lmx.models.decoder import Decoder
from lmx.process import one_line_errors


def network_of(read: Imported) -> Decoder:
    """Returns the network of a model that was read, with its parameters."""

    def take(path: tuple, _: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(read.file.get_tensor(".".join(str(entry.key) for entry in path)))

    definition = definition_of(read.model)
    return definition.merge(jax.tree_util.tree_map_with_path(take, definition.shapes))


@functools.partial(jax.jit, static_argnames="number")
def continued(model: Decoder, *, number: int) -> jax.Array:
    """Returns as many tokens from BOS on, each the likeliest, running all of the text for each."""

    def one(tokens: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        states, _ = model(tokens)
        best = jnp.argmax(model.logits(jax.lax.dynamic_index_in_dim(states, place, axis=1, keepdims=False)), -1)
        return tokens.at[:, place + 1].set(best), None

    tokens = jnp.zeros((1, number + 1), jnp.int32).at[0, 0].set(BOS)
    return jax.lax.scan(one, tokens, jnp.arange(number))[0][0, 1:]


@functools.partial(jax.jit, static_argnames="number")
def continued_from_cache(model: Decoder, *, number: int) -> jax.Array:
    """Returns what `continued` does, each token read once."""
    step, cache = model.start_decoding(jnp.full((1, 1), BOS), jnp.ones(1, jnp.int32), slots=number)

    def one(carried: tuple, place: jax.Array) -> tuple[tuple, jax.Array]:
        token, cache = carried
        mask = (jnp.arange(number) <= place)[None, None, None]
        logits, cache = step(token, cache, place, jnp.full((1, 1), place), mask, jnp.arange(number))
        best = jnp.argmax(logits, -1)
        return (best, cache), best[0, 0]

    return jax.lax.scan(one, (jnp.full((1, 1), BOS), cache), jnp.arange(number))[1]


def main(model: Annotated[Path, tyro.conf.Positional], pieces: Path, begins: str, tokens: int = 200) -> None:
    """Compares what a model writes.

    Args:
        model: file of the weights.
        pieces: file of the vocabulary.
        begins: how the text must begin.
        tokens: how many are written.
    """
    read = read_llama2c(model, pieces)
    decoder, tokenizer = network_of(read), read.tokenizers["tokenizer"]
    anew, cached = (np.asarray(write(decoder, number=tokens)) for write in (continued, continued_from_cache))
    text = tokenizer.decode(anew)
    print(text)
    if not np.array_equal(anew, cached):
        place = int(np.flatnonzero(anew != cached)[0])
        raise SystemExit(f"the cache differs from token {place} on: {tokenizer.decode(cached)}")
    if not text.startswith(begins):
        raise SystemExit(f"the text must begin with {begins!r}")
    print(f"{tokens} tokens, the same from a cache, begin as they should")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
