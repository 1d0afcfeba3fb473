"""Scaled dot-product attention behind one door, `attend`, and the kernels that may stand behind it.

`attend` takes a structure that describes what may be seen (`lmx.nn.masks.Sees`). XLA's kernel makes a mask of it, and
processes the queries of long rows in blocks; cuDNN's fused kernel gets the forms it knows. `choose_kernel` tells which
kernel runs and why. Nothing here has parameters.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from lmx.nn.dropout import Places, dropout
from lmx.nn.masks import MASKED, MakeBias, Sees
from lmx.sharding.step import constrain, parts

KernelName = Literal["auto", "xla", "cudnn"]
EVERYTHING = Sees()

# XLA's kernel keeps the scores of all queries by all keys for the backward pass, 4 bytes each and head. From this many
# of them a row on it makes them a block of queries at a time, and again in the backward pass.
BLOCKED_FROM = 2048 * 2048
# Scores of one block, a row and head; half a MB, which stays in a core's cache. With 16 MB a row of 2,048 took three
# times as long on a CPU, and twice with its gradient.
BLOCK_SCORES = 2**17
# Into how many parts XLA's kernel takes causal rows that are at least so long: the first queries then meet only the
# first keys. Shorter rows gain nothing.
CAUSAL_PARTS = ((1024, 8), (256, 4), (128, 2))


class Accelerator(NamedTuple):
    """What a kernel needs to know of a device: "cpu", "cuda", "rocm" or "tpu"; of NVIDIA's, the compute capability."""

    platform: str
    capability: float | None = None


class Scores(NamedTuple):
    """How scores are made of queries and keys: q k x scale, then cap x tanh(scores / cap); a bias comes after it.

    Attributes:
        scale: None means 1 / sqrt(K) (Vaswani et al. 2017, equation 1). T5 has 1 (Raffel et al. 2020).
        cap: scores stay between -cap and cap (Gemma 2: Riviere et al. 2024, section 2); None caps none.
    """

    scale: float | None = None
    cap: float | None = None


PLAIN = Scores()


class KernelChoice(NamedTuple):
    """The kernel attention runs with, and why."""

    name: Literal["xla", "cudnn"]
    reason: str


def accelerator() -> Accelerator:
    """Returns what the devices of this process are."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        return Accelerator(device.platform)
    if "cuda" not in device.client.platform_version:
        return Accelerator("rocm")
    return Accelerator("cuda", float(device.compute_capability))


def choose_kernel(
    kernel: KernelName,
    sees: Sees = EVERYTHING,
    *,
    dtype: DTypeLike,
    head_width: int,
    dropout_rate: float = 0.0,
    score_cap: float | None = None,
    on: Accelerator | None = None,
) -> KernelChoice:
    """Returns the kernel that `attend` uses for such arguments on the mesh in force, with the reason.

    cuDNN's kernel knows causal rows, padding at the end of the keys, and windows of causal rows; rows of odd length are
    padded by one position for it. It knows a bias that is the same for all rows, and is given the whole of it in the
    compute type; so only where it is asked for.

    Args:
        kernel: "auto" takes cuDNN's fused kernel where it applies, and no bias is added, and XLA's otherwise.
        sees: its arrays may be shapes.
        score_cap: see `Scores`.
        on: None means the devices of this process.

    Raises:
        ValueError: kernel is "cudnn" and cuDNN's fused attention does not apply.
    """
    platform, capability = on or accelerator()
    widest = 256 if 9.0 <= (capability or 0.0) < 10.0 else 128  # of cuDNN's backward pass
    obstacles = []
    if platform != "cuda":
        obstacles.append(f"the platform is {platform}")
    elif capability is None or capability < 8.0:
        obstacles.append(f"the GPU has compute capability {capability}, below 8.0")
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        obstacles.append(f"the compute type is {jnp.dtype(dtype).name}")
    if head_width % 8 or head_width > widest:
        obstacles.append(f"the head width is {head_width}, not a multiple of 8 up to {widest}")
    if dropout_rate:
        obstacles.append("attention weights are dropped out")
    if score_cap is not None:
        obstacles.append("the scores are capped")
    if sees.bias is not None and kernel == "auto":
        obstacles.append("a bias is added to the scores")
    elif sees.bias is not None:
        if sees.window is not None:
            obstacles.append("a bias is added to the scores of a window")
        if not callable(sees.bias) and sees.bias.shape[0] != 1:
            obstacles.append("each row has a bias of its own")
    if sees.segments is not None:
        obstacles.append("rows are packed")
    if sees.prefix is not None:
        obstacles.append("a prefix is seen from before it")
    if sees.window is not None and not sees.causal:
        obstacles.append("the window looks ahead")
    if parts("length") > 1:
        obstacles.append("the mesh splits sequences")
    if parts("heads") != parts("kv_heads"):
        obstacles.append("the mesh splits query heads and key heads differently")
    if kernel == "cudnn" and obstacles:
        raise ValueError(f'kernel="cudnn" cannot be used here: {"; ".join(obstacles)}. Say --model.kernel auto or xla.')
    if kernel == "xla":
        return KernelChoice("xla", "asked for")
    if obstacles:
        return KernelChoice("xla", "; ".join(obstacles))
    return KernelChoice("cudnn", "asked for" if kernel == "cudnn" else "fused, and it applies")


def queries_per_block(num_queries: int, num_keys: int) -> int | None:
    """Returns how many queries XLA's kernel takes at a time, or None for all: rows that are not long.

    With blocks the memory of a row grows with its length; without, with the square.
    """
    if num_queries * num_keys < BLOCKED_FROM:
        return None
    return max(64, min(num_queries, BLOCK_SCORES // num_keys // 64 * 64))


def block_of(num_queries: int, num_keys: int) -> int | None:
    """Returns `queries_per_block` of the queries that one device has, on the mesh in force."""
    return queries_per_block(num_queries // parts("length"), num_keys)


def biased(sees: Sees, make: MakeBias, *, num_queries: int, num_keys: int) -> Sees:
    """Returns a structure with a bias that layers share.

    It is computed once for all of them. XLA's kernel processes long rows in blocks, and there each block of each layer
    computes its own part: the whole bias would cost the memory that blocks save.

    Args:
        make: also says whether there is a bias: it returns None where there is none.
    """

    def made(rows: jax.Array | None) -> jax.Array | None:
        bias = make(rows)
        if bias is None:
            return None
        batch, heads = (name if size > 1 else None for name, size in zip(("batch", "heads"), bias.shape, strict=False))
        return constrain(bias, batch, heads, "length", None)

    if jax.eval_shape(lambda: make(None)) is None:
        return sees
    in_blocks = block_of(num_queries, num_keys) is not None
    return sees.with_bias(made if in_blocks else made(None))


def attention_weights(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    *,
    sees: Sees = EVERYTHING,
    scores: Scores = PLAIN,
    rows: Int[Array, " T"] | None = None,
) -> Float[Array, "B H T S"]:
    """Returns softmax(q k / sqrt(K) + bias) over the keys that may be seen, in float32.

    Query head h reads key head h // (H / G). A row that may see nothing is uniform over the keys it is given.
    Source: Vaswani et al. 2017, equation 1; grouped heads: Ainslie et al. 2023.

    Args:
        scores: how they are made, where it is not by q k / sqrt(K).
        rows: the places of the queries, where they are some of a longer row; None means from the first.
    """
    batch, target, heads, width = query.shape
    source, groups = key.shape[1:3]
    if heads == groups:  # without an axis of one, which XLA's CPU backend would transpose
        products = jnp.einsum("BTGK,BSGK->BGTS", scaled(query, scores), key, preferred_element_type=jnp.float32)
    else:
        grouped = scaled(query.reshape(batch, target, groups, heads // groups, width), scores)
        products = jnp.einsum("BTGRK,BSGK->BGRTS", grouped, key, preferred_element_type=jnp.float32)
        products = products.reshape(batch, heads, target, source)
    found = capped(products, scores.cap)
    if (bias := sees.bias_of(rows)) is not None:
        found = found + bias.astype(jnp.float32)
    if (mask := sees.mask(target, source, rows=rows)) is not None:
        found = jnp.where(mask, found, MASKED)
    return jax.nn.softmax(found, axis=-1)


def scaled(query: Float[Array, "*B K"], scores: Scores) -> Float[Array, "*B K"]:
    """Returns queries whose products with keys are scores, before any cap."""
    return query * (query.shape[-1] ** -0.5 if scores.scale is None else scores.scale)


def capped(x: Float[Array, "*B S"], cap: float | None) -> Float[Array, "*B S"]:
    """Returns cap x tanh(x / cap): what is small as it is, what is large below the cap; None returns x."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    *,
    sees: Sees = EVERYTHING,
    scores: Scores = PLAIN,
    kernel: KernelName = "auto",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H K"]:
    """Returns for each query the average of the values, weighted by `attention_weights`.

    Args:
        scores: how they are made; only the XLA kernel has a cap.
        kernel: see `choose_kernel`.
        dropout_rate, dropout_key: dropout on the attention weights (BERT, GPT-2); only the XLA kernel has it.

    Raises:
        ValueError: the heads do not divide into the key heads, or the kernel asked for cannot do this.
    """
    heads, width = query.shape[2:]
    if heads % key.shape[2]:
        raise ValueError(
            f"num_heads must be a multiple of num_kv_heads, got num_heads={heads} and num_kv_heads={key.shape[2]}."
        )
    rate = dropout_rate if dropout_key is not None else 0.0
    choice = choose_kernel(kernel, sees, dtype=query.dtype, head_width=width, dropout_rate=rate, score_cap=scores.cap)
    if choice.name == "cudnn":
        return _fused(query, key, value, sees=sees, scale=scores.scale)
    settings = {"sees": sees, "scores": scores, "rate": rate, "key_of_dropout": dropout_key}
    block = block_of(query.shape[1], key.shape[1])
    if block is not None:
        return _by_blocks(query, key, value, block=block, **settings)
    if _causal_parts(query, key, sees) > 1:
        return _in_parts(query, key, value, **settings)
    return _dense(query, key, value, **settings)


def _causal_parts(query: jax.Array, key: jax.Array, sees: Sees) -> int:
    """Returns into how many parts a causal row is taken."""
    length = query.shape[1]
    if not sees.causal or sees.prefix is not None or sees.bias is not None or key.shape[1] != length:
        return 1
    if parts("length") > 1:
        return 1
    return len(ends_of_parts(length)) - 1


def ends_of_parts(length: int) -> list[int]:
    """Returns where the parts of a causal row begin, and where the last ends."""
    number = next((number for least, number in CAUSAL_PARTS if length >= least), 1)
    return [length * part // number for part in range(number + 1)]


def _in_parts(query: jax.Array, key: jax.Array, value: jax.Array, *, sees: Sees, **settings) -> jax.Array:
    """Attends a part of the queries of a causal row after the other, each to the keys up to its last."""
    length = query.shape[1]
    of_all = _summed_exactly(key, value)
    attended = []
    for first, last in itertools.pairwise(ends_of_parts(length)):
        part_of = Places(2, jnp.arange(first, last), length), Places(3, jnp.arange(last), length)
        arrays = query[:, first:last], *of_all(slice(last))
        attended.append(_dense(*arrays, sees=sees.of_first_keys(last), part_of=part_of, **settings))
    return jnp.concatenate(attended, axis=1)


def _dense(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    sees: Sees,
    scores: Scores = PLAIN,
    rate: float,
    key_of_dropout: jax.Array | None,
    part_of: Sequence[Places] = (),
) -> jax.Array:
    """Attends with all scores at once.

    Args:
        part_of: where the queries lie in their row, and the keys in theirs; without it, they are the rows.
    """
    batch, target, heads, width = query.shape
    source, groups = key.shape[1:3]
    rows = part_of[0].places if part_of else None
    weights = attention_weights(query, key, sees=sees, scores=scores, rows=rows)
    weights = dropout(weights, rate, key_of_dropout, part_of=part_of).astype(value.dtype)
    if heads == groups:
        return jnp.einsum("BGTS,BSGK->BTGK", weights, value)
    weights = weights.reshape(batch, groups, heads // groups, target, source)
    return jnp.einsum("BGRTS,BSGK->BTGRK", weights, value).reshape(batch, target, heads, width)


def _by_blocks(query: jax.Array, key: jax.Array, value: jax.Array, *, block: int, **settings) -> jax.Array:
    """Attends a block of queries at a time, each made again in the backward pass; equal to `_dense`.

    Where the mesh splits the queries, each block holds some of every device.
    """
    batch, target, *head = query.shape
    devices = parts("length")
    own = target // devices  # queries of one device, followed by what fills its last block up
    number = -(-own // block)
    filled = jnp.pad(
        query.reshape(batch, devices, own, *head), ((0, 0), (0, 0), (0, number * block - own), (0, 0), (0, 0))
    )
    blocks = jnp.moveaxis(filled.reshape(batch, devices, number, block, *head), 2, 0)
    places = jnp.arange(devices)[:, None] * own + jnp.arange(number * block)
    places = jnp.minimum(places, target - 1).reshape(devices, number, block).swapaxes(0, 1).reshape(number, -1)

    of_all = _summed_exactly(key, value)

    # The loop keeps XLA from merging the second pass with the first, and so undoing it.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(queries: jax.Array, rows: jax.Array) -> jax.Array:
        queries = queries.reshape(batch, devices * block, *head)
        queries = constrain(queries, "batch", "length", "heads", None)
        attended = _dense(queries, *of_all(slice(None)), part_of=[Places(2, rows, target)], **settings)
        return attended.reshape(batch, devices, block, *head)

    _, attended = jax.lax.scan(lambda _, item: (None, one(*item)), None, (blocks, places))
    attended = jnp.moveaxis(attended, 0, 2).reshape(batch, devices, number * block, *head)[:, :, :own]
    return constrain(attended.reshape(query.shape), "batch", "length", "heads", None)


def _summed_exactly(key: jax.Array, value: jax.Array) -> Callable[[slice], tuple[jax.Array, jax.Array]]:
    """Returns a choice of keys and values; over all choices, their gradients are summed in float32, not in bfloat16."""
    exact = key.astype(jnp.float32), value.astype(jnp.float32)
    return lambda chosen: (exact[0][:, chosen].astype(key.dtype), exact[1][:, chosen].astype(value.dtype))


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, *, sees: Sees, scale: float | None) -> jax.Array:
    """Attends by cuDNN's kernel, which takes lengths instead of a mask.

    In training jax refuses odd lengths: one position is added to them, which no query sees and no one reads. A row
    without a key looks at its first, where XLA's kernel takes the mean of all: cuDNN would divide by zero.
    """
    bias = sees.bias_of()
    target, source = query.shape[1], key.shape[1]
    lengths = sees.key_lengths
    if source % 2:
        key, value = _one_more(key), _one_more(value)
        if lengths is None and not (sees.causal and target <= source):  # else no query reaches it
            lengths = jnp.full(query.shape[0], source, jnp.int32)
    if target % 2:
        query = _one_more(query)
    if bias is not None:
        odd = ((0, 0), (0, 0), (0, target % 2), (0, source % 2))
        bias = jnp.broadcast_to(bias, (1, query.shape[2], target, source))
        bias = constrain(jnp.pad(bias.astype(query.dtype), odd), None, "heads", None, None)
    query = constrain(query, "batch", "length", "heads", None)
    key, value = (constrain(x, "batch", None, "kv_heads", None) for x in (key, value))
    # jax's rules for vmap want lengths and gradients that are batched where the queries are. A choice by the queries
    # between the same and the same makes them so, and the compiler leaves it out.
    same = query[:, 0, 0, 0] == query[:, 0, 0, 0]
    of_queries = None
    if lengths is not None:
        lengths = jnp.maximum(lengths.astype(jnp.int32), 1)
        lengths = jnp.where(same, lengths, lengths)
        of_queries = jnp.where(same, query.shape[1], query.shape[1]).astype(jnp.int32)
    attended = jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=bias,
        scale=scale,
        is_causal=sees.causal,
        query_seq_lengths=of_queries,
        key_value_seq_lengths=lengths,
        local_window_size=None if sees.window is None else (sees.window - 1, 0),
        implementation="cudnn",
    )
    one = jnp.where(same, 1, 1).astype(attended.dtype)[:, None, None, None]
    return attended[:, :target] * one


def _one_more(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
