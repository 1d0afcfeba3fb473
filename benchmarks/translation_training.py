"""Training speed of lmx beside PyTorch: an encoder-decoder Transformer, the same update on both sides, on the CPU.

    python benchmarks/translation_training.py --peer-python PYTHON_WITH_TORCH

Both sides train the same model with equally many parameters, in float32: tied embeddings, post-norm, dropout on
embeddings and sublayers, label smoothing, gradients summed over micro-batches and divided by the target tokens,
clipping, Adam. Each row of the table is a process of its own that waits while another is timed; all take turns, round
after round. What is compared with what:

* stock: PyTorch as Python starts it, lmx as its experiment scripts start it (they keep freed memory);
* tuned: glibc keeps freed memory and uses huge pages (GLIBC_TUNABLES); on AMD, where there is a C compiler, a preloaded
  library also opens MKL's AVX-512 path to PyTorch;
* compiled: `torch.compile`; lmx always compiles.

Time nothing beside another job: PyTorch's threads wait for each other busily, and lose more than lmx on a busy machine.
The script runs in two Pythons, so only the standard library is imported at the top.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.training import Comparison, Side, Trainer, Turns, compare, lmx_step, run_script, torch_matmul  # noqa: E402

# ---- what is trained -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its update: `micro_batches` of [rows, length] on either side."""

    name: str
    layers: int
    width: int
    feedforward_width: int
    heads: int
    vocab_size: int
    dropout_rate: float
    micro_batches: int
    rows: int
    length: int
    clip_norm: float = 25.0
    learning_rate: float = 1e-4
    label_smoothing: float = 0.1

    @property
    def tokens(self) -> int:
        """Source and target tokens of an update, padding included."""
        return 2 * self.micro_batches * self.rows * self.length


SHAPES = {
    "multi30k": Shape(
        name="Multi30k's tiny model",
        layers=4,
        width=128,
        feedforward_width=256,
        heads=4,
        vocab_size=9712,
        dropout_rate=0.3,
        micro_batches=2,
        rows=256,
        length=16,
    ),
    "base": Shape(
        name="Vaswani's base model",
        layers=6,
        width=512,
        feedforward_width=2048,
        heads=8,
        vocab_size=37_000,
        dropout_rate=0.1,
        micro_batches=1,
        rows=64,
        length=32,
    ),
}
QUICK = Shape(
    name="a toy model",
    layers=1,
    width=16,
    feedforward_width=24,
    heads=2,
    vocab_size=150,
    dropout_rate=0.1,
    micro_batches=2,
    rows=8,
    length=5,
)


def make_batch(shape: Shape) -> dict[str, Any]:
    """Returns NumPy arrays [A, B, L]: random words, rows of 3/4 to all of the length, then padding (0)."""
    import numpy as np

    random = np.random.default_rng(0)
    size = (shape.micro_batches, shape.rows, shape.length)

    def side() -> Any:
        lengths = random.integers(shape.length * 3 // 4, shape.length + 1, size[:2])
        words = random.integers(1, shape.vocab_size, size)
        return np.where(np.arange(shape.length) < lengths[..., None], words, 0).astype(np.int32)

    target = side()
    decoder_input = np.concatenate([np.ones_like(target[..., :1]), target[..., :-1]], axis=-1)
    return {"source": side(), "decoder_input": decoder_input, "target": target}


# ---- lmx -------------------------------------------------------------------------------------------------------------


def lmx_trainer(shape: Shape) -> Trainer:
    """Builds lmx's model and step, as the experiment script does."""
    import jax

    from lmx import losses, optimization
    from lmx.models.seq2seq import Seq2Seq, Seq2SeqConfig

    config = Seq2SeqConfig(
        source_vocab_size=shape.vocab_size,
        target_vocab_size=shape.vocab_size,
        width=shape.width,
        feedforward_width=shape.feedforward_width,
        num_heads=shape.heads,
        num_encoder_layers=shape.layers,
        num_decoder_layers=shape.layers,
        dropout_rate=shape.dropout_rate,
        unroll=shape.layers,
    )

    def loss(network: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        encoder_key, decoder_key = jax.random.split(key)
        memory, _ = network.encode(batch["source"], key=encoder_key)
        states, _ = network.decode(memory, batch["source"], batch["decoder_input"], key=decoder_key)
        labels = batch["target"]
        smoothing = shape.label_smoothing
        weights = labels != config.pad_id
        return losses.token_loss(states, network.output(), labels, weights, label_smoothing=smoothing)._asdict()

    optimizer = optimization.adam(optimization.constant(shape.learning_rate), clip_norm=shape.clip_norm)
    return lmx_step(lambda rngs: Seq2Seq(config, rngs=rngs), loss=loss, optimizer=optimizer, batch=make_batch(shape))


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_trainer(shape: Shape, *, compiled: bool) -> Trainer:
    """Builds the same in PyTorch, as its users would for speed: fused projections, attention and Adam."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(1)
    heads, width = shape.heads, shape.width

    def split(x: torch.Tensor, parts: int) -> Iterator[torch.Tensor]:
        """[B, T, parts x D] -> as many of [B, H, T, K]."""
        return iter(x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4))

    def join(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(2)

    def linear(inputs: int, outputs: int, *, parts: int = 1) -> nn.Linear:
        """Makes a linear map, or several stored as one, that begins as lmx's do."""
        layer = nn.Linear(inputs, parts * outputs)
        for part in layer.weight.chunk(parts):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(layer.bias)
        return layer

    class Block(nn.Module):
        def __init__(self, *, has_memory: bool):
            super().__init__()
            self.qkv, self.out = linear(width, width, parts=3), linear(width, width)
            self.norm = nn.LayerNorm(width)
            self.has_memory = has_memory
            if has_memory:
                self.memory_q, self.memory_kv = linear(width, width), linear(width, width, parts=2)
                self.memory_out, self.memory_norm = linear(width, width), nn.LayerNorm(width)
            self.up = linear(width, shape.feedforward_width)
            self.down = linear(shape.feedforward_width, width)
            self.feedforward_norm = nn.LayerNorm(width)
            self.dropout = nn.Dropout(shape.dropout_rate)

        def forward(self, x, mask, memory=None):
            q, k, v = split(self.qkv(x), 3)
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None if self.has_memory else mask, is_causal=self.has_memory
            )
            x = self.norm(x + self.dropout(self.out(join(attended))))
            if self.has_memory:
                (q,), (k, v) = split(self.memory_q(x), 1), split(self.memory_kv(memory), 2)
                attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                x = self.memory_norm(x + self.dropout(self.memory_out(join(attended))))
            return self.feedforward_norm(x + self.dropout(self.down(F.relu(self.up(x)))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(shape.vocab_size, width)
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
            self.encoder = nn.ModuleList(Block(has_memory=False) for _ in range(shape.layers))
            self.decoder = nn.ModuleList(Block(has_memory=True) for _ in range(shape.layers))
            self.dropout = nn.Dropout(shape.dropout_rate)
            rates = 10_000 ** (-torch.arange(0, width, 2) / width)
            angles = torch.arange(shape.length)[:, None] * rates
            self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=-1))

        def embed(self, tokens):
            return self.dropout(self.embedding(tokens) * width**0.5 + self.positions)

        def forward(self, source, decoder_input, target):
            mask = (source != 0)[:, None, None, :]
            memory, x = self.embed(source), self.embed(decoder_input)
            for block in self.encoder:
                memory = block(memory, mask)
            for block in self.decoder:
                x = block(x, mask, memory)
            logits = F.linear(x, self.embedding.weight).flatten(0, 1)
            return F.cross_entropy(
                logits, target.flatten(), ignore_index=0, label_smoothing=shape.label_smoothing, reduction="sum"
            )

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=shape.learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    batch = {name: torch.from_numpy(array).long() for name, array in make_batch(shape).items()}
    run = torch.compile(model) if compiled else model

    def update() -> float:
        optimizer.zero_grad()
        total = 0.0
        weight = (batch["target"] != 0).sum()
        for index in range(shape.micro_batches):
            loss = run(*(batch[name][index] for name in ("source", "decoder_input", "target"))) / weight
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), shape.clip_norm)
        optimizer.step()
        return total

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trainer(update, torch_matmul, {"parameters": parameters, "version": f"torch {torch.__version__}"})


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config(Turns):
    """Compares lmx's training speed with PyTorch's on this machine's CPU.

    Attributes:
        shapes: what is trained.
    """

    shapes: tuple[Literal["multi30k", "base"], ...] = ("multi30k", "base")


def describe(shape: Shape) -> str:
    """Returns the lines above a shape's table."""
    return (
        f"{shape.name}: {shape.layers}+{shape.layers} layers, width {shape.width}, "
        f"feed-forward {shape.feedforward_width}, {shape.heads} heads, {shape.vocab_size:,} words, "
        f"dropout {shape.dropout_rate}\n  an update: {shape.micro_batches} x [{shape.rows}, {shape.length}] on each "
        f"side, {1 - counted(shape):.1%} of it padding"
    )


def counted(shape: Shape) -> float:
    """Returns the share of an update's tokens that is no padding."""
    batch = make_batch(shape)
    return sum(int((batch[name] != 0).sum()) for name in ("source", "target")) / shape.tokens


def trainer(side: Side, shape: Shape) -> Trainer:
    """Builds what a row trains."""
    return lmx_trainer(shape) if side == "lmx" else torch_trainer(shape, compiled=side == "torch compiled")


COMPARISON = Comparison(
    script=__file__,
    packages=("torch",),
    describe=describe,
    counted=counted,
    meaning="source and target",
    trainers=trainer,
)


def main(config: Config) -> None:
    """Prints the machine, then one table for each shape."""
    compare(COMPARISON, config, [QUICK] if config.quick else [SHAPES[name] for name in config.shapes])


if __name__ == "__main__":
    run_script(COMPARISON, config=Config, shape=Shape, main=main)
