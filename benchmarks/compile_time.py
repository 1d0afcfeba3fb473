"""Compile time of a deep model beside a shallow one: layers run by one scan, so depth should cost nothing.

    python benchmarks/compile_time.py [--deep 48] [--shallow 6] [--rounds 3]

The training step of a decoder on one CPU device, traced, lowered and compiled anew each time, without a cache; shallow
and deep take turns, and the medians are compared.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Two depths of one decoder."""

    shallow: int = 6
    deep: int = 48
    width: int = 256
    rounds: int = 3


def main(config: Config) -> None:
    """Prints the times and their ratio."""
    if config.shallow == config.deep or config.rounds < 1:
        raise SystemExit(
            "error: shallow and deep must differ and rounds be at least 1, "
            f"got shallow={config.shallow}, deep={config.deep}, rounds={config.rounds}."
        )
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    times: dict[int, list[float]] = {config.shallow: [], config.deep: []}
    compile_seconds(config.shallow, width=config.width)  # warms up what is loaded once
    for _ in range(config.rounds):
        for layers, seconds in times.items():
            seconds.append(compile_seconds(layers, width=config.width))
    for layers, seconds in times.items():
        listed = ", ".join(f"{second:.2f}" for second in seconds)
        print(f"{layers:>3} layers: {statistics.median(seconds):.2f} s (each: {listed})")
    shallow, deep = (statistics.median(seconds) for seconds in times.values())
    print(f"{config.deep} layers / {config.shallow} layers = {deep / shallow:.3f}")


def compile_seconds(layers: int, *, width: int) -> float:
    """Returns the seconds to trace, lower and compile one training step."""
    import jax.numpy as jnp
    from flax import nnx

    from lmx.losses import cross_entropy
    from lmx.models.decoder import Decoder, DecoderConfig
    from lmx.optimization import adam, constant
    from lmx.training import create_state, make_train_step

    jax.clear_caches()
    model = DecoderConfig(
        vocab_size=1000, width=width, feedforward_width=2 * width, num_heads=4, num_layers=layers, dropout_rate=0.1
    )
    network = nnx.eval_shape(lambda: Decoder(model, rngs=nnx.Rngs(0)))
    definition, optimizer = nnx.graphdef(network), adam(constant(1e-3), clip_norm=1.0)

    def loss(params, batch, key):
        states, _ = nnx.merge(definition, params)(batch["tokens"], key=key)
        table = nnx.merge(definition, params).output_table()
        return cross_entropy(states, table, batch["labels"], batch["labels"] > 0, vocab_size=1000)._asdict()

    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    zeros = lambda shape: jnp.zeros(shape.shape, shape.dtype)  # noqa: E731
    state = jax.eval_shape(lambda: create_state(jax.tree.map(zeros, params), optimizer, seed=0))
    batch = {name: jax.ShapeDtypeStruct((1, 8, 64), jnp.int32) for name in ("tokens", "labels")}
    began = time.perf_counter()
    jax.jit(make_train_step(loss, optimizer), donate_argnums=0).lower(state, batch).compile()
    return time.perf_counter() - began


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
