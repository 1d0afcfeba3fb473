"""The choices that all models share."""

from dataclasses import dataclass
from typing import Literal

from lmx.nn.kernels import KernelName
from lmx.nn.positions.make import PositionName

NormPosition = Literal["pre", "post"]
Remat = Literal["none", "dots", "full"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What every Transformer chooses; the defaults are those of Vaswani's base model.

    Attributes:
        num_kv_heads: heads of keys and values, each serving several query heads; None means num_heads.
        norm_position: "post" or "pre", see `Block`.
        scaled_embeddings: multiplies embeddings by sqrt(width) (Vaswani et al. 2017, section 3.4).
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
    norm: Literal["layer", "rms"] = "layer"
    norm_position: NormPosition = "post"
    activation: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "relu"
    positions: PositionName = "sinusoidal"
    rotary_base: float = 10000.0
    scaled_embeddings: bool = True
    use_bias: bool = True
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    feedforward_dropout_rate: float = 0.0
    max_length: int = 1024
    kernel: KernelName = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Remat = "none"
    unroll: int = 1
    pad_id: int = 0
