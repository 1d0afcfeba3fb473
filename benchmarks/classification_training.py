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
    import jax
    import jax.numpy as jnp
    import optax

    from lmx import optimization
    from lmx.models.encoder import ClassifierConfig, EncoderClassifier

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
    optimizer = optimization.adam(
        optimization.constant(shape.learning_rate),
        beta2=shape.beta2,
        weight_decay=shape.weight_decay,
        clip_norm=shape.clip_norm,
    )

    def loss(network: Any, batch: Any, key: Any) -> dict[str, jax.Array]:
        outputs, _ = network(batch["tokens"], types=batch["types"], key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
        return {"loss": losses.sum(), "weight": jnp.float32(losses.size)}

    batch = {name: array[None] for name, array in make_batch(shape).items()}
    return lmx_step(lambda rngs: EncoderClassifier(config, rngs=rngs), loss=loss, optimizer=optimizer, batch=batch)


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

    # What both sides have: the pooler's are PyTorch's alone.
    parameters = sum(value.numel() for name, value in named if ".pooler." not in name)
    version = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return Trainer(update, torch_matmul, {"parameters": parameters, "version": version})


# ---- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config(Turns):
    """Compares the training speed of lmx's classifier with Hugging Face's BERT on this machine's CPU.

    Attributes:
        shapes: what is trained.
    """

    shapes: tuple[Literal["small", "base"], ...] = ("small", "base")
    compiled: bool = False


def describe(shape: Shape) -> str:
    """Returns the lines above a shape's table."""
    pooler = shape.width * (shape.width + 1)
    return (
        f"{shape.name}: {shape.layers} layers, width {shape.width}, feed-forward {shape.feedforward_width}, "
        f"{shape.heads} heads, {shape.vocab_size:,} words, {shape.num_classes} classes, dropout {shape.dropout_rate}\n"
        f"  an update: [{shape.rows}, {shape.length}], {1 - counted(shape):.1%} of it padding; {pooler:,} parameters "
        "of the pooler not counted"
    )


def counted(shape: Shape) -> float:
    """Returns the share of an update's tokens that is no padding."""
    return float((make_batch(shape)["tokens"] != 0).mean())


def trainer(side: Side, shape: Shape) -> Trainer:
    """Builds what a row trains."""
    return lmx_trainer(shape) if side == "lmx" else torch_trainer(shape, compiled=side == "torch compiled")


COMPARISON = Comparison(
    script=__file__,
    packages=("torch", "transformers"),
    describe=describe,
    counted=counted,
    meaning="of the texts",
    trainers=trainer,
)


def main(config: Config) -> None:
    """Prints the machine, then one table for each shape."""
    compare(COMPARISON, config, [QUICK] if config.quick else [SHAPES[name] for name in config.shapes])


if __name__ == "__main__":
    run_script(COMPARISON, config=Config, shape=Shape, main=main)
