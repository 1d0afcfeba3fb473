"""Training speed of lmx beside Hugging Face's BERT: a text classifier, the same update on both sides, on the CPU.

    python benchmarks/classification_training.py --peer-python PYTHON_WITH_TORCH_AND_TRANSFORMERS

Both sides train the same model from its initial values, in float32: learned positions, types, post-norm, dropout on
embeddings, attention weights, sublayers and the pooled vector, the state of the first token as that vector, mean cross
entropy, clipping, AdamW without decay of biases and norms. BERT's pooler, one more product for each text of that vector
with a matrix [width, width], is on the PyTorch side alone. GELU is the tanh form on both. Each row of the table is a
process of its own that waits while another is timed; all take turns, round after round. What is compared with what:

* stock: PyTorch as Python starts it, lmx as its experiment scripts start it (they keep freed memory);
* tuned: glibc keeps freed memory and uses huge pages (GLIBC_TUNABLES); on AMD, where there is a C compiler, a preloaded
  library also opens MKL's AVX-512 path to PyTorch;
* compiled: `torch.compile`, when asked for; lmx always compiles.

The rows of a shape are in memory together, each with its model, and keep what they free: BERT base wants some gigabytes
a row. Time nothing beside another job: PyTorch's threads wait for each other busily, and lose more than lmx on a busy
machine. The script runs in two Pythons, so only the standard library is imported at the top.
"""

import dataclasses
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.rows import check_peer, cpu_name, serve, tuned_environments  # noqa: E402
from benchmarks.training import (  # noqa: E402
    Side,
    Trainer,
    matmul_flops,
    matmul_rate,
    plan_rows,
    prepare,
    print_table,
    time_rows,
)

# ---- what is trained -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its update, of texts [rows, length]."""

    name: str
    layers: int
    width: int
    feedforward_width: int
    heads: int
    rows: int
    length: int = 128
    vocab_size: int = 30_522
    max_length: int = 512
    num_types: int = 2
    num_classes: int = 6
    dropout_rate: float = 0.1
    learning_rate: float = 2e-5
    beta2: float = 0.999
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of an update, padding included."""
        return self.rows * self.length


SHAPES = {
    "small": Shape(name="a small BERT", layers=4, width=256, feedforward_width=1024, heads=4, rows=32),
    "base": Shape(name="BERT base", layers=12, width=768, feedforward_width=3072, heads=12, rows=8),
}
QUICK = Shape(
    name="a toy model",
    layers=2,
    width=16,
    feedforward_width=24,
    heads=4,
    rows=6,
    length=10,
    vocab_size=150,
    max_length=12,
    num_classes=3,
)


def make_batch(shape: Shape) -> dict[str, Any]:
    """Returns NumPy arrays: texts of 3/4 to all of the length, then padding (0), in two parts, and their classes."""
    import numpy as np

    random = np.random.default_rng(0)
    size = (shape.rows, shape.length)
    lengths = random.integers(shape.length * 3 // 4, shape.length + 1, shape.rows)
    words = random.integers(1, shape.vocab_size, size)
    positions = np.arange(shape.length)
    seen = positions < lengths[:, None]
    return {
        "tokens": np.where(seen, words, 0).astype(np.int32),
        "types": (seen & (positions >= shape.length // 2)).astype(np.int32),
        "labels": random.integers(0, shape.num_classes, shape.rows).astype(np.int32),
    }


# ---- lmx -------------------------------------------------------------------------------------------------------------


def lmx_trainer(shape: Shape) -> Trainer:
    """Builds lmx's model and step, as the experiment script does."""
    from lmx.process import keep_freed_memory

    keep_freed_memory()  # as the experiment scripts do
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from lmx import optimization
    from lmx.models.encoder import ClassifierConfig, EncoderClassifier
    from lmx.nn.embedding import count_parameters
    from lmx.sharding.mesh import MeshConfig, make_mesh
    from lmx.sharding.placement import place_batch
    from lmx.training import born, compile_step, make_train_step, state_shardings

    config = ClassifierConfig(
        vocab_size=shape.vocab_size,
        width=shape.width,
        feedforward_width=shape.feedforward_width,
        num_heads=shape.heads,
        num_layers=shape.layers,
        num_types=shape.num_types,
        max_length=shape.max_length,
        num_outputs=shape.num_classes,
        pooling="first",
        dropout_rate=shape.dropout_rate,
        attention_dropout_rate=shape.dropout_rate,
        pooled_dropout_rate=shape.dropout_rate,
        unroll=shape.layers,
    )
    mesh = make_mesh(MeshConfig())
    optimizer = optimization.adam(
        optimization.constant(shape.learning_rate),
        beta2=shape.beta2,
        weight_decay=shape.weight_decay,
        clip_norm=shape.clip_norm,
    )
    build = lambda rngs: EncoderClassifier(config, rngs=rngs)  # noqa: E731
    network = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    definition = nnx.graphdef(network)
    shardings = state_shardings(network, optimizer, mesh=mesh)
    state = born(build, optimizer, shardings=shardings, seed=1)

    def loss(params: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        outputs, _ = nnx.merge(definition, params)(batch["tokens"], types=batch["types"], key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
        return {"loss": losses.sum(), "weight": jnp.float32(losses.size)}

    step = make_train_step(loss, optimizer)
    batch = place_batch({name: array[None] for name, array in make_batch(shape).items()}, mesh)
    flops = matmul_flops(jax.make_jaxpr(step)(state, batch).jaxpr)
    compiled = compile_step(step, mesh=mesh, shardings=shardings)

    def update() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(jax.block_until_ready(metrics["loss"]))

    square = jnp.ones((2048, 2048))
    multiply = jax.jit(jnp.matmul)
    matmul = lambda: matmul_rate(lambda: multiply(square, square).block_until_ready(), size=2048)  # noqa: E731
    parameters = count_parameters(network)
    return Trainer(update, matmul, {"parameters": parameters, "version": f"jax {jax.__version__}", "flops": flops})


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_trainer(shape: Shape, *, compiled: bool) -> Trainer:
    """Builds Hugging Face's model, with the optimizer that its Trainer has by default: fused AdamW."""
    import torch
    import transformers
    from torch import nn

    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feedforward_width,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=shape.dropout_rate,
        attention_probs_dropout_prob=shape.dropout_rate,
        classifier_dropout=shape.dropout_rate,
        max_position_embeddings=shape.max_length,
        type_vocab_size=shape.num_types,
        num_labels=shape.num_classes,
    )
    model = transformers.BertForSequenceClassification(config)
    model.train()
    named = list(model.named_parameters())
    kept = {name for name, _ in named if name.endswith("bias") or "LayerNorm" in name}
    optimizer = torch.optim.AdamW(
        [
            {"params": [value for name, value in named if name not in kept], "weight_decay": shape.weight_decay},
            {"params": [value for name, value in named if name in kept], "weight_decay": 0.0},
        ],
        lr=shape.learning_rate,
        betas=(0.9, shape.beta2),
        eps=1e-8,
        fused=True,
    )
    batch = {name: torch.from_numpy(array).long() for name, array in make_batch(shape).items()}
    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": (batch["tokens"] != 0).long(),
        "token_type_ids": batch["types"],
        "labels": batch["labels"],
    }
    run = torch.compile(model) if compiled else model

    def update() -> float:
        optimizer.zero_grad()
        loss = run(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), shape.clip_norm)
        optimizer.step()
        return loss.item()

    square = torch.ones(2048, 2048)
    matmul = lambda: matmul_rate(lambda: square @ square, size=2048)  # noqa: E731
    # What both sides have: the pooler's are PyTorch's alone.
    parameters = sum(value.numel() for name, value in named if ".pooler." not in name)
    version = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return Trainer(update, matmul, {"parameters": parameters, "version": version})


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compares the training speed of lmx's classifier with Hugging Face's BERT on this machine's CPU.

    Attributes:
        peer_python: the Python that has torch and transformers; by default the one that runs this script.
        shapes: what is trained.
        rounds: turns that each row takes; the medians are printed.
        updates: updates timed in a turn.
        compiled: also runs torch.compile, which takes a minute to compile and the memory of two rows more.
        tuned: also runs both sides with a tuned allocator.
        quick: one toy shape and one round, to see that everything runs.
    """

    peer_python: str = sys.executable
    shapes: tuple[Literal["small", "base"], ...] = ("small", "base")
    rounds: int = 7
    updates: int = 1
    compiled: bool = False
    tuned: bool = True
    quick: bool = False


def main(config: Config) -> None:
    """Prints the machine, then one table for each shape."""
    if config.quick:
        config = dataclasses.replace(config, rounds=1, compiled=False)
    if config.rounds < 1 or config.updates < 1:
        from lmx.errors import InputError

        raise InputError(
            f"rounds and updates must be at least 1, got rounds={config.rounds} and updates={config.updates}."
        )
    check_peer(config.peer_python, "torch", "transformers")
    print(f"machine: {cpu_name()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tuning, peer_tuning, words = tuned_environments(directory)
        print(f"tuned:   {words}")
        for shape in [QUICK] if config.quick else [SHAPES[name] for name in config.shapes]:
            compare(shape, config, tuning=tuning, peer_tuning=peer_tuning)


def compare(shape: Shape, config: Config, *, tuning: dict[str, str], peer_tuning: dict[str, str]) -> None:
    """Times all rows of one shape and prints its table."""
    counted = float((make_batch(shape)["tokens"] != 0).mean())
    print(
        f"\n{shape.name}: {shape.layers} layers, width {shape.width}, feed-forward {shape.feedforward_width},", end=" "
    )
    print(f"{shape.heads} heads, {shape.vocab_size:,} words, {shape.num_classes} classes,", end=" ")
    print(f"dropout {shape.dropout_rate}\n  an update: [{shape.rows}, {shape.length}],", end=" ")
    print(f"{1 - counted:.1%} of it padding; {shape.width * (shape.width + 1):,} parameters of the pooler not counted")
    rows = time_rows(
        plan_rows(compiled=config.compiled, tuned=config.tuned, tuning=tuning, peer_tuning=peer_tuning),
        script=__file__,
        shape=dataclasses.asdict(shape),
        peer_python=config.peer_python,
        rounds=config.rounds,
        updates=config.updates,
    )
    print_table(rows, tokens=shape.tokens, counted=counted, meaning="of the texts")


def trainer(side: Side, shape: Shape) -> Trainer:
    """Builds what a row trains."""
    return lmx_trainer(shape) if side == "lmx" else torch_trainer(shape, compiled=side == "torch compiled")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        side, sizes = json.loads(sys.argv[2])
        serve(lambda: prepare(trainer(side, Shape(**sizes))))
    else:
        import tyro

        from lmx.process import one_line_errors

        with one_line_errors():
            main(tyro.cli(Config))
