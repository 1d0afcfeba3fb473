"""How many multiply-adds a row takes through a stack: formulas from a config, for what models say of their training.

`lmx.costs` counts a traced step, and is what the formulas are tested against.
"""

from dataclasses import dataclass

from lmx.nn.config import TransformerConfig


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of a forward pass: with all scores of attention, and with those that causality and windows leave.

    The causal half is exactly half of the scores (FlashAttention's convention).
    """

    whole: float
    seen: float

    def __add__(self, other: "MultiplyAdds | float | int") -> "MultiplyAdds":
        """Returns the sum of both counts with those of another, or with a number that counts in both."""
        more = other if isinstance(other, MultiplyAdds) else MultiplyAdds(float(other), float(other))
        return MultiplyAdds(self.whole + more.whole, self.seen + more.seen)

    def of_training(self, rows: int) -> tuple[float, float]:
        """Returns the FLOPs of a training step on `rows` rows, in both conventions.

        Forward and backward count as three times the forward pass; a multiply-add is two.
        """
        return 6.0 * rows * self.whole, 6.0 * rows * self.seen


def of_stack(
    config: TransformerConfig, *, layers: int, length: int, is_causal: bool = False, memory: int = 0
) -> MultiplyAdds:
    """Returns the multiply-adds of one row of this length through a stack of blocks.

    Args:
        is_causal: tokens look back alone.
        memory: length of what each block attends to beside the row; 0 for none.
    """
    width, queries, keys = config.width, config.width_of_queries, config.width_of_keys
    attention = 2 * width * (queries + keys)
    feedforward = (3 if config.is_gated else 2) * width * config.feedforward_width
    always = length * (attention + feedforward)
    if memory:
        always += 2 * length * width * queries + 2 * memory * width * keys + 2 * queries * length * memory
    window = min(config.window or length, length)
    pairs = window * length - window**2 / 2  # of a query and a key at or before it
    seen = pairs if is_causal else 2 * pairs
    whole = always + 2 * queries * length**2
    return MultiplyAdds(float(layers * whole), float(layers * (always + 2 * queries * seen)))
