"""What a checkpoint costs: the share of training time that one every 100 steps takes, at the base shape on the CPU.

    python benchmarks/checkpointing.py
    python benchmarks/checkpointing.py --rounds 5 --rows 64 --directory /path/on/the/disk/in/question

The model is Vaswani's base with a joint vocabulary of 37,000; its state (parameters and Adam's two moments, float32)
is what a checkpoint holds. A hundred steps take many minutes on a CPU, so they are not run. Blocks of `steps` steps
take turns, without a save (A) and with one (B): A B A B ... In B the save begins before the first step, and the block
ends when its steps are done, the checkpoint is on the disk with its checksums, and the one that is no longer kept is
deleted. Then

    cost  = median over rounds of (seconds of B - seconds of the A before it)
    share = cost / (every x seconds of a step in A)

The cost holds both what blocks the loop (copying the state out; shown apart) and what slows the steps down while the
checkpoint is written behind their back. Where writing takes longer than the block, the rest of it counts in full: it is
then too high, and more `steps` give the right one. Small batches make steps short and the share large: the default
of 512 target tokens a step is far below the 25,000 of the recipe.
"""

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from lmx.checkpoint import Checkpoints
from lmx.errors import InputError
from lmx.losses import cross_entropy
from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig
from lmx.optimization import adam, constant
from lmx.process import keep_freed_memory, one_line_errors
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import place_batch
from lmx.training import born, compile_step, make_train_step, state_shardings


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is trained and how it is measured.

    Attributes:
        rows, length: of a batch, both sides.
        steps: of a block; together longer than a save.
        every: steps between checkpoints.
        directory: on the disk in question; None takes the one for temporary files.
    """

    width: int = 512
    feedforward_width: int = 2048
    num_heads: int = 8
    num_layers: int = 6
    vocab_size: int = 37_000
    rows: int = 16
    length: int = 32
    steps: int = 6
    rounds: int = 4
    every: int = 100
    directory: Path | None = None


def build(config: Config) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Returns the state, the compiled step and a batch."""
    model = Seq2SeqConfig(
        source_vocab_size=config.vocab_size,
        target_vocab_size=config.vocab_size,
        width=config.width,
        feedforward_width=config.feedforward_width,
        num_heads=config.num_heads,
        num_encoder_layers=config.num_layers,
        num_decoder_layers=config.num_layers,
    )
    network = nnx.eval_shape(lambda: Seq2Seq(model, rngs=nnx.Rngs(0)))
    definition = nnx.graphdef(network)

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        network = nnx.merge(definition, params)
        encoder_key, decoder_key = jax.random.split(key)
        memory, _ = network.encode(batch["source"], key=encoder_key)
        states, _ = network.decode(memory, batch["source"], batch["decoder_input"], key=decoder_key)
        weights = jnp.ones(batch["target"].shape)
        table = network.output_table()
        return cross_entropy(states, table, batch["target"], weights, vocab_size=config.vocab_size)._asdict()

    mesh = make_mesh(MeshConfig())
    optimizer = adam(constant(1e-4))
    shardings = state_shardings(network, optimizer, mesh=mesh)
    state = born(lambda rngs: Seq2Seq(model, rngs=rngs), optimizer, shardings=shardings, seed=1)
    step = compile_step(make_train_step(loss, optimizer), mesh=mesh, shardings=shardings)
    generator = np.random.default_rng(1)
    shape = (1, config.rows, config.length)
    names = ("source", "decoder_input", "target")
    batch = {name: generator.integers(4, config.vocab_size, shape, dtype=np.int32) for name in names}
    return state, step, place_batch(batch, mesh)


def measure(config: Config, folder: Path) -> None:
    """Runs the blocks in turn and prints what they took."""
    state, step, batch = build(config)
    gigabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{parameters:,} parameters, a state of {gigabytes:.2f} GB, {config.rows * config.length:,} tokens a step")
    checkpoints = Checkpoints(folder / "checkpoints")

    def block(state: Any, *, saves: bool) -> tuple[Any, float, float]:
        """Returns the state, the seconds of a block and those of the call that begins a save."""
        jax.block_until_ready(state)
        began = time.perf_counter()
        if saves:
            checkpoints.save(int(state.step), state, {}, scores={})
        blocked = time.perf_counter() - began
        for _ in range(config.steps):
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)  # as the loop reads them, a step behind
        jax.block_until_ready(state)
        if saves:
            checkpoints.wait()
        return state, time.perf_counter() - began, blocked

    # Not counted: compiling, the first save, and two more, after which each deletes an old one.
    state, *_ = block(state, saves=False)
    for _ in range(3):
        state, *_ = block(state, saves=True)
    pairs, blocking = [], []
    for number in range(1, config.rounds + 1):
        state, without, _ = block(state, saves=False)
        state, with_one, blocked = block(state, saves=True)
        pairs.append((without, with_one))
        blocking.append(blocked)
        print(f"round {number}: {without:.2f} s without, {with_one:.2f} s with a save ({blocked:.2f} s blocking)")
    checkpoints.close()
    a_step = statistics.median(without for without, _ in pairs) / config.steps
    cost = statistics.median(with_one - without for without, with_one in pairs)
    print(f"a step {a_step:.3f} s; a save costs {cost:.2f} s, of which {statistics.median(blocking):.2f} s blocking")
    print(f"a checkpoint every {config.every} steps takes {cost / (config.every * a_step):.2%} of the time of training")


def main(config: Config) -> None:
    """Measures in a directory of its own, which is removed."""
    for name in ("rounds", "steps", "every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {name}={getattr(config, name)}.")
    folder = Path(tempfile.mkdtemp(prefix="lmx-checkpointing-", dir=config.directory))
    try:
        measure(config, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    keep_freed_memory()
    with one_line_errors():
        main(tyro.cli(Config, description=__doc__))
