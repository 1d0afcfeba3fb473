r"""Whether the decoder writes what others' trained weights write: a file of llama2.c, read and continued greedily.

    python benchmarks/stories.py stories260K.bin --pieces tok512.bin --begins \
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."

The text is made twice: by running all of it anew for each token, and from a cache of keys and values. It fails where
the two differ, or do not begin as they should. The files are those of https://github.com/karpathy/llama2.c (version 0).
"""

import functools
import re
import struct
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from lmx.errors import InputError
from lmx.models.decoder import Decoder, DecoderConfig
from lmx.process import one_line_errors

BOS = 1


def read_decoder(path: Path) -> Decoder:
    """Returns the model that a file of version 0 holds.

    It begins with seven int32: width, feed-forward width, layers, heads, key heads, words (negative where the output
    has a table of its own), longest row. Then float32: the matrices of a kind for all layers, each [out, in]. Heads
    turn neighbouring features together, those of lmx the two halves: they are put into that order.

    Raises:
        InputError: the file has no such header, or another length than the header says.
    """
    data = path.read_bytes()
    header = struct.unpack("<7i", data[:28].ljust(28, b"\0"))
    if min(map(abs, header)) == 0 or header[0] % header[3]:
        raise InputError(f"{path} must begin with seven sizes of a model, got {header}.")
    width, hidden, layers, heads, kv_heads, words, length = header
    config = DecoderConfig(
        vocab_size=abs(words),
        width=width,
        feedforward_width=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        num_layers=layers,
        norm_epsilon=1e-5,
        tied_embeddings=words > 0,
        max_length=length,
    )
    head = config.width_of_head
    of_queries, of_keys = heads * head, kv_heads * head
    shapes = {
        "embedding": (abs(words), width),
        "attention_norm": (layers, width),
        "query": (layers, of_queries, width),
        "key": (layers, of_keys, width),
        "value": (layers, of_keys, width),
        "out": (layers, width, of_queries),
        "feedforward_norm": (layers, width),
        "gate": (layers, hidden, width),
        "down": (layers, width, hidden),
        "up": (layers, hidden, width),
        "final_norm": (width,),
        "rotations": (2, length, head // 2),  # sines and cosines, which are computed here
    }
    if words < 0:
        shapes["output"] = (abs(words), width)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if len(data) != 28 + 4 * sum(sizes):
        raise InputError(f"{path} must have {28 + 4 * sum(sizes):,} bytes, as its header says, got {len(data):,}.")
    parts = np.split(np.frombuffer(data[28:], "<f4"), np.cumsum(sizes)[:-1])
    arrays = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return _decoder_of(config, arrays)


def _decoder_of(config: DecoderConfig, arrays: dict[str, np.ndarray]) -> Decoder:
    layers, width, head = config.num_layers, config.width, config.width_of_head
    halves = np.concatenate([np.arange(0, head, 2), np.arange(1, head, 2)])

    def into_heads(name: str) -> np.ndarray:
        """Returns [N, D, H, K] of [N, H K, D]."""
        return arrays[name].reshape(layers, -1, head, width).transpose(0, 3, 1, 2)

    placed = {
        "embedding.table": _padded(arrays["embedding"]),
        "stack.blocks.attention_norm.scale": arrays["attention_norm"],
        "stack.blocks.attention.query.weight": into_heads("query")[..., halves],
        "stack.blocks.attention.key.weight": into_heads("key")[..., halves],
        "stack.blocks.attention.value.weight": into_heads("value"),
        "stack.blocks.attention.out.weight": arrays["out"].reshape(layers, width, -1, head).transpose(0, 2, 3, 1),
        "stack.blocks.feedforward_norm.scale": arrays["feedforward_norm"],
        "stack.blocks.feedforward.gate.weight": arrays["gate"].swapaxes(1, 2),
        "stack.blocks.feedforward.up.weight": arrays["up"].swapaxes(1, 2),
        "stack.blocks.feedforward.down.weight": arrays["down"].swapaxes(1, 2),
        "stack.final_norm.scale": arrays["final_norm"],
    }
    if "output" in arrays:
        placed["output_embedding.table"] = _padded(arrays["output"])
    definition, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    params = nnx.to_pure_dict(shapes)
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(shapes)}
    assert {name: array.shape for name, array in placed.items()} == {name: leaf.shape for name, leaf in flat.items()}
    for name, array in placed.items():
        *way, last = name.split(".")
        functools.reduce(lambda part, key: part[key], way, params)[last] = jnp.asarray(array)
    return nnx.merge(definition, params)


def _padded(table: np.ndarray) -> np.ndarray:
    return np.pad(table, ((0, -len(table) % 128), (0, 0)))


def read_pieces(path: Path, number: int) -> list[bytes]:
    """Returns the pieces of a vocabulary: after the longest's length, for each a float32, its length and its bytes.

    Raises:
        InputError: the file ends before the last.
    """
    data, start, pieces = path.read_bytes(), 4, []
    for _ in range(number):
        size = struct.unpack_from("<fi", data, start)[1] if start + 8 <= len(data) else -1
        piece = data[start + 8 : start + 8 + size]
        if len(piece) != size:
            raise InputError(f"{path} must have {number:,} pieces, got {len(pieces):,}.")
        pieces.append(re.sub(rb"^<0x([0-9A-F]{2})>$", lambda found: bytes.fromhex(found[1].decode()), piece))
        start += 8 + size
    return pieces


def text_of(tokens: np.ndarray, pieces: list[bytes]) -> str:
    """Returns the text of tokens up to the next beginning of one; the space before the first is none."""
    ends = np.flatnonzero(tokens == BOS)
    words = b"".join(pieces[token] for token in tokens[: ends[0] if ends.size else None])
    return words.removeprefix(b" ").decode(errors="replace")


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
    decoder = read_decoder(model)
    names = read_pieces(pieces, decoder.config.vocab_size)
    anew, cached = (np.asarray(write(decoder, number=tokens)) for write in (continued, continued_from_cache))
    text = text_of(anew, names)
    print(text)
    if not np.array_equal(anew, cached):
        place = int(np.flatnonzero(anew != cached)[0])
        raise SystemExit(f"the cache differs from token {place} on: {text_of(cached, names)}")
    if not text.startswith(begins):
        raise SystemExit(f"the text must begin with {begins!r}")
    print(f"{tokens} tokens, the same from a cache, begin as they should")


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(main)
