"""Training speed of lmx beside PyTorch: GPT-2, the same update on both sides, on the CPU.

    python benchmarks/language_training.py --peer-python PYTHON_WITH_TORCH
    python benchmarks/language_training.py --peer-python ... --shapes small --rounds 5

Both sides train the same model with equally many parameters, in float32, on full rows of random words: learned
positions, pre-norm, GELU by tanh, one table, no dropout (as GPT-2 is pretrained on much text), clipping, AdamW.
PyTorch's side is written as its users write it for speed: one product for queries, keys and values,
`scaled_dot_product_attention`, fused AdamW. What is compared with what:

* stock: PyTorch as Python starts it, lmx as its experiment scripts start it (they keep freed memory);
* tuned: glibc keeps freed memory and uses huge pages (GLIBC_TUNABLES); on AMD, where there is a C compiler, a preloaded
  library also opens MKL's AVX-512 path to PyTorch;
* compiled: `torch.compile`; lmx always compiles.

Each row of the table is a process of its own that waits while another is timed; all take turns, round after round.
Time nothing beside another job: PyTorch's threads wait for each other busily, and lose more than lmx on a busy machine.
The script runs in two Pythons, so only the standard library is imported at the top.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.training import Comparison, Side, Trainer, Turns, compare, lmx_step, run_script, torch_matmul  # noqa: E402

# ---- what is trained -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A GPT-2 and its update of [rows, length]."""

    name: str
    layers: int
    width: int
    heads: int
    vocab_size: int
    rows: int
    length: int = 256
    learning_rate: float = 6e-4
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens of an update."""
        return self.rows * self.length


SHAPES = {
    "small": Shape(name="a small GPT-2", layers=6, width=384, heads=6, vocab_size=8000, rows=16),
    "gpt2": Shape(name="GPT-2 124M", layers=12, width=768, heads=12, vocab_size=50_257, rows=4),
}
QUICK = Shape(name="a toy model", layers=2, width=16, heads=2, vocab_size=150, rows=3, length=10)


def make_batch(shape: Shape) -> dict[str, Any]:
    """Returns NumPy arrays [B, T] of random words, and the words behind them."""
    import numpy as np

    words = np.random.default_rng(0).integers(1, shape.vocab_size, (shape.rows, shape.length + 1), dtype=np.int32)
    return {"tokens": words[:, :-1], "labels": words[:, 1:]}


# ---- lmx -------------------------------------------------------------------------------------------------------------


def lmx_trainer(shape: Shape) -> Trainer:
    """Builds lmx's model and step, as the experiment script does."""
    import dataclasses

    import jax

    from lmx import losses, optimization
    from lmx.models.decoder import Decoder
    from lmx.models.shapes import gpt2_124m

    config = dataclasses.replace(
        gpt2_124m(),
        vocab_size=shape.vocab_size,
        width=shape.width,
        feedforward_width=4 * shape.width,
        num_heads=shape.heads,
        num_layers=shape.layers,
        max_length=shape.length,
        unroll=shape.layers,
    )
    optimizer = optimization.adam(
        optimization.constant(shape.learning_rate),
        beta2=shape.beta2,
        weight_decay=shape.weight_decay,
        clip_norm=shape.clip_norm,
    )

    def loss(network: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        states, _ = network(batch["tokens"], key=key)
        labels = batch["labels"]
        return losses.token_loss(states, network.output(), labels, labels != config.pad_id)._asdict()

    batch = {name: array[None] for name, array in make_batch(shape).items()}
    return lmx_step(lambda rngs: Decoder(config, rngs=rngs), loss=loss, optimizer=optimizer, batch=batch)


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_trainer(shape: Shape, *, compiled: bool) -> Trainer:
    """Builds the same in PyTorch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(1)
    heads, width = shape.heads, shape.width

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.feedforward_norm(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(shape.vocab_size, width)
            self.positions = nn.Embedding(shape.length, width)
            for table in (self.words, self.positions):
                nn.init.normal_(table.weight, std=0.02)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.layers))
            self.norm = nn.LayerNorm(width)

        def forward(self, tokens, labels):
            x = self.words(tokens) + self.positions.weight
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(F.linear(self.norm(x), self.words.weight).flatten(0, 1), labels.flatten())

    model = Model()
    named = list(model.named_parameters())
    kept = [value for _, value in named if value.ndim == 1]
    decayed = [value for _, value in named if value.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": shape.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=shape.learning_rate,
        betas=(0.9, shape.beta2),
        eps=1e-8,
        fused=True,
    )
    batch = {name: torch.from_numpy(array).long() for name, array in make_batch(shape).items()}
    run = torch.compile(model) if compiled else model

    def update() -> float:
        optimizer.zero_grad()
        loss = run(batch["tokens"], batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), shape.clip_norm)
        optimizer.step()
        return loss.item()

    parameters = sum(value.numel() for _, value in named)
    return Trainer(update, torch_matmul, {"parameters": parameters, "version": f"torch {torch.__version__}"})


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config(Turns):
    """Compares lmx's training speed with PyTorch's on this machine's CPU.

    Attributes:
        shapes: what is trained.
    """

    shapes: tuple[Literal["small", "gpt2"], ...] = ("small", "gpt2")


def describe(shape: Shape) -> str:
    """Returns the lines above a shape's table."""
    return (
        f"{shape.name}: {shape.layers} layers, width {shape.width}, {shape.heads} heads, {shape.vocab_size:,} words\n"
        f"  an update: [{shape.rows}, {shape.length}], no padding"
    )


def trainer(side: Side, shape: Shape) -> Trainer:
    """Builds what a row trains."""
    return lmx_trainer(shape) if side == "lmx" else torch_trainer(shape, compiled=side == "torch compiled")


COMPARISON = Comparison(
    script=__file__,
    packages=("torch",),
    describe=describe,
    counted=lambda shape: 1.0,
    meaning="of the rows",
    trainers=trainer,
)


def main(config: Config) -> None:
    """Prints the machine, then one table for each shape."""
    compare(COMPARISON, config, [QUICK] if config.quick else [SHAPES[name] for name in config.shapes])


if __name__ == "__main__":
    run_script(COMPARISON, config=Config, shape=Shape, main=main)
