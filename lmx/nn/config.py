"""The choices that all models share."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from lmx.nn.kernels import KernelName
from lmx.nn.positions.make import PositionName
from lmx.nn.remat import Remat

NormPosition = Literal["pre", "post"]
# "gelu" is its approximation by tanh (GPT-2's), "gelu-exact" has the error function (BERT's).
ActivationName = Literal["relu", "gelu", "gelu-exact", "silu", "gated-gelu", "gated-gelu-exact", "gated-silu"]

_MAY_BE_ZERO = ("first_position", "pad_id", "num_types")
_ABOVE_ZERO = ("norm_epsilon", "rotary_base", "attention_scale", "score_cap", "logit_cap")
_CHECKED_ELSEWHERE = ("num_outputs", "image_height", "image_width", "image_channels", "patch")  # by their models


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What every Transformer chooses; the defaults are those of Vaswani's base model.

    Attributes:
        num_kv_heads: heads of keys and values, each serving several query heads; None means num_heads.
        head_width: None means width / num_heads.
        qk_norm: each head's queries and keys go through an RMSNorm of their own, see `AttentionForm`.
        attention_scale: what scores are multiplied by; None means 1 / sqrt(width of a head).
        score_cap: keeps scores of attention between -cap and cap, see `Scores`; None caps none.
        window: in self-attention each token sees the places nearer than this, its own included, in every layer; a
            decoder's looks back alone (Mistral: Jiang et al. 2023, section 2). None sees all.
        norm_epsilon: what norms add to the mean square; None means 1e-5 of LayerNorm and 1e-6 of RMSNorm.
        norm_position: "post" or "pre", see `Block`.
        first_position: what the first token of a row counts as, of sinusoidal positions; CTranslate2 counts from 1.
        rotary_scaling: how rotary positions reach beyond the rows of a pretraining: (factor,) or four numbers, see
            `rotary.stretched`; none leaves them.
        scaled_embeddings: multiplies embeddings by sqrt(width) (Vaswani et al. 2017, section 3.4).
        qkv_bias: maps to queries, keys and values have biases although `use_bias` is False (Qwen2).
        dropout_rate: on embeddings and on each sublayer's output.
        max_length: longest sequence, in tokens; only learned positions take memory for it.
        dtype: type that layers compute in; parameters, norms, softmax and loss are float32. A float16 training has no
            loss scaling: prefer bfloat16 where the device has it.
        remat: what the backward pass recomputes instead of keeping: nothing, everything except matrix products with
            weights ("dots"), or each block as a whole ("full").
        unroll: layers per turn of the scan over layers; changes speed, never results.
    """

    width: int = 512
    feedforward_width: int = 2048
    num_heads: int = 8
    num_kv_heads: int | None = None
    head_width: int | None = None
    qk_norm: bool = False
    attention_scale: float | None = None
    score_cap: float | None = None
    window: int | None = None
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float | None = None
    norm_position: NormPosition = "post"
    activation: ActivationName = "relu"
    positions: PositionName = "sinusoidal"
    first_position: int = 0
    rotary_base: float = 10000.0
    rotary_scaling: tuple[float, ...] = ()
    scaled_embeddings: bool = True
    use_bias: bool = True
    qkv_bias: bool = False
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    feedforward_dropout_rate: float = 0.0
    max_length: int = 1024
    kernel: KernelName = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1
    pad_id: int = 0

    @property
    def width_of_head(self) -> int:
        """The width of one head of queries, keys and values."""
        return self.width // self.num_heads if self.head_width is None else self.head_width

    @property
    def width_of_queries(self) -> int:
        """The width of all query heads together."""
        return self.num_heads * self.width_of_head

    @property
    def width_of_keys(self) -> int:
        """The width of all key heads together; values have the same."""
        return (self.num_kv_heads or self.num_heads) * self.width_of_head

    def check(self) -> None:
        """Checks that sizes are at least 1, ids and places at least 0, and rates of dropout below 1.

        Raises:
            ValueError: a field has another value; the message names it.
        """
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool) and name not in _CHECKED_ELSEWHERE:
                least = 0 if name in _MAY_BE_ZERO else 1
                if value < least:
                    raise ValueError(f"{name} must be at least {least}, got {name}={value}.")
            elif name.endswith("_rate") and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {name}={value}.")
            elif name in _ABOVE_ZERO and value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {name}={value}.")

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward network has a gate."""
        return self.activation.startswith("gated-")
