"""A GPU with cuDNN where there is none: jax traces and lowers for it, and the fused kernel runs as plain products.

jax checks what it hands to cuDNN in Python, while tracing and while partitioning. With the look-ups of the library and
of the GPU replaced, all of these checks run here, and `lower(lowering_platforms=("cuda",))` gives the GPU's program.
A lowering of the kernel's own primitive for the CPU, after partitioning, gives its numbers too.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax._src.interpreters import mlir

from lmx.nn import kernels
from lmx.nn.kernels import Accelerator


def attend(query, key, value, bias, query_lengths, key_lengths, *, scale, mask_type, window):
    """Returns output [B T H K] and logarithms of the normalisers [B H T], as the kernel's documentation has them."""
    groups, (target, source) = query.shape[2] // key.shape[2], (query.shape[1], key.shape[1])
    key, value = (jnp.repeat(x, groups, axis=2).astype(jnp.float32) for x in (key, value))
    scores = scale * jnp.einsum("BTHK,BSHK->BHTS", query.astype(jnp.float32), key)
    if bias.size:
        scores = scores + bias.astype(jnp.float32)
    distance = jnp.arange(target)[:, None] - jnp.arange(source)
    seen = jnp.ones((1, 1, target, source), bool)
    if "CAUSAL" in mask_type.name:
        seen &= distance >= 0
    if window:
        seen &= distance < window
    if "PADDING" in mask_type.name:
        seen &= (jnp.arange(source) < key_lengths[:, None])[:, None, None]
        seen &= (jnp.arange(target) < query_lengths[:, None])[:, None, :, None]
    scores = jnp.where(seen, scores, -jnp.inf)  # a query without a key is not a number, as on the device
    return jnp.einsum("BHTS,BSHK->BTHK", jax.nn.softmax(scores), value), jax.nn.logsumexp(scores, axis=-1)


def _forward(query, key, value, bias, query_lengths, key_lengths, *rest, is_training, **params):
    settings = {name: params[name] for name in ("scale", "mask_type")}
    out, normalisers = attend(
        query, key, value, bias, query_lengths, key_lengths, window=params["sliding_window_length"], **settings
    )
    out = out.astype(query.dtype)
    return [out, normalisers] if is_training else [out]


def _backward(query, key, value, bias, query_lengths, key_lengths, *rest, **params):
    gradient = rest[-1]
    settings = {name: params[name] for name in ("scale", "mask_type")}

    def out(query, key, value, bias):
        window = params["sliding_window_length"]
        return attend(query, key, value, bias, query_lengths, key_lengths, window=window, **settings)[0]

    gradients = jax.vjp(out, query, key, value, bias)[1](gradient.astype(jnp.float32))
    return list(gradients[: 4 if bias.size else 3])


@pytest.fixture
def gpu(monkeypatch) -> Iterator[None]:
    """Makes this process believe that its devices are H100s with cuDNN."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: float(capability) <= 9.0)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    monkeypatch.setattr(kernels, "accelerator", lambda: Accelerator("cuda", 9.0))
    for primitive, function in (
        (cudnn._dot_product_attention_fwd_p, _forward),
        (cudnn._dot_product_attention_bwd_p, _backward),
    ):
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True), platform="cpu")
    jax.clear_caches()  # of what was traced for the CPU
    yield
    jax.clear_caches()


def fused_calls(function, *arguments) -> int:
    """Returns how many times a traced function, loops counted once, goes forward through the fused kernel."""
    return str(jax.make_jaxpr(function)(*arguments)).count("dot_product_attention_fwd_wrapper[")


def calls_for_cuda(function, *arguments) -> int:
    """Returns how many times the GPU's program calls the fused kernel, forward or backward; 0 on a mesh."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("__cudnn$fmha")
