"""What CTranslate2's specifications would say of our models: the numbers that stand beside the weights."""

from typing import Any

import numpy as np

from lmx.errors import InputError
from lmx.interop.ctranslate2.settings import ACTIVATIONS, GATED, LINEAR, LLAMA3, SPECS, Spec
from lmx.nn.config import TransformerConfig
from lmx.nn.positions.t5 import MAX_DISTANCE

# Of attention, and whether alibi's distances are written as CTranslate2's own converters do; softmax takes no notice.
DECODERS_OWN = {
    "alignment_layer": np.int16(-1),
    "alignment_heads": np.int16(1),
    "alibi_use_positive_positions": np.int8(1),
    "scale_alibi": np.int8(0),
    "start_from_zero_embedding": np.int8(0),
}


def spec_for(family: str) -> Spec:
    """Returns the specification of a family's models.

    Raises:
        InputError: CTranslate2 has none for it.
    """
    for spec in SPECS:
        if spec.family == family:
            return spec
    families = ", ".join(spec.family for spec in SPECS)
    raise InputError(f"a model for CTranslate2 must be of the family {families}, got {family}.")


def check(config: TransformerConfig, spec: Spec) -> None:
    """Checks that CTranslate2 can compute what a model does.

    Raises:
        InputError: it cannot; the message names the field.
    """
    on_encoder = "encoder" in spec.scopes
    unfit = {
        "score_cap": config.score_cap is not None,
        "window": config.window is not None and on_encoder,
        "positions": config.positions == "alibi" and on_encoder,
    }
    for name in (each for each, is_unfit in unfit.items() if is_unfit):
        of = "an encoder" if name != "score_cap" else "a model"
        raise InputError(f"{of} for CTranslate2 must do without this {name}, got {name}={getattr(config, name)}.")


def settings_for(config: Any, scope: str, *, num_layers: int) -> dict[str, np.generic]:
    """Returns the numbers of one stack by their names; what has a default, is written all the same.

    Args:
        config: of a `TransformerConfig`'s kind.
        scope: "encoder" or "decoder".
    """
    ungated = config.activation.removeprefix("gated-")
    assert config.activation in (*ACTIVATIONS, *GATED)
    found: dict[str, np.generic] = {
        "num_heads": np.int16(config.num_heads),
        "pre_norm": np.int8(config.norm_position == "pre"),
        "activation": np.int8(ACTIVATIONS.index(ungated)),
        "scale_embeddings": np.int8(config.scaled_embeddings),
    }
    if scope == "encoder":
        found |= {"multi_query_attention": np.int8(config.num_kv_heads == 1), "embeddings_merge": np.int8(1)}
    else:
        found |= {**DECODERS_OWN, "alibi": np.int8(config.positions == "alibi")}
        if getattr(config, "scaled_output", False):
            found["scale_outputs"] = np.float32(config.width**-0.5)
        if (cap := getattr(config, "logit_cap", None)) is not None:
            found["final_logit_softcapping"] = np.float32(cap)
        if config.window is not None:
            found["sliding_window"] = np.int32(config.window)
    attentions = ["self_attention"]
    if scope == "decoder" and hasattr(config, "num_decoder_layers"):
        attentions.append("attention")
    for layer in range(num_layers):
        for name in attentions:
            numbers = _of_attention(config, is_self=name == "self_attention")
            found |= {f"layer_{layer}/{name}/{key}": value for key, value in numbers.items()}
    return {f"{scope}/{name}": value for name, value in found.items()}


def _of_attention(config: TransformerConfig, *, is_self: bool) -> dict[str, np.generic]:
    found: dict[str, np.generic] = {}
    if config.attention_scale is not None:
        found["queries_scale"] = np.float32(config.attention_scale)
    if config.num_kv_heads not in (None, config.num_heads):
        found["num_heads_kv"] = np.int32(config.num_kv_heads)
    if config.width_of_queries != config.width:
        found["head_dim"] = np.int32(config.width_of_head)
    if not is_self:
        return found
    if config.window is not None:
        found["sliding_window"] = np.int32(config.window)
    if config.positions == "t5":
        found["relative_attention_max_distance"] = np.int32(MAX_DISTANCE)
    if config.positions == "rotary":
        found |= {
            "rotary_dim": np.int32(0),  # all features of a head
            "rotary_interleave": np.int8(0),
            "rotary_base": np.float32(config.rotary_base),
            **_scaling(config.rotary_scaling),
        }
    return found


def _scaling(numbers: tuple[float, ...]) -> dict[str, np.generic]:
    if not numbers:
        return {}
    found: dict[str, np.generic] = {
        "rotary_scaling_type": np.int8(LINEAR if len(numbers) == 1 else LLAMA3),
        "rotary_scaling_factor": np.float32(numbers[0]),
    }
    if len(numbers) > 1:
        _, low, high, length = numbers
        found |= {
            "rotary_low_freq_factor": np.float32(low),
            "rotary_high_freq_factor": np.float32(high),
            "original_max_position_embeddings": np.int32(length),
        }
    return found
