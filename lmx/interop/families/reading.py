"""Reads a foreign config field by field: what a model of ours cannot be is an error that names the field."""

from collections.abc import Collection, Mapping
from typing import Any

from lmx.errors import InputError

# Their names of activations -> ours, without a gate.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu-exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "silu",
    "swish": "silu",
}
# Ours -> the name that each family of theirs knows.
THEIR_ACTIVATIONS = {"relu": "relu", "gelu-exact": "gelu", "gelu": "gelu_new", "silu": "silu"}


def activation(config: Mapping[str, Any], field: str, *, default: str) -> str:
    """Returns our name of the activation that a field names.

    Raises:
        InputError: there is no such activation here.
    """
    name = config.get(field, default)
    if name not in ACTIVATIONS:
        raise InputError(f"{field} must be one of {', '.join(ACTIVATIONS)}, got {field}={name!r}.")
    return ACTIVATIONS[name]


def expect(config: Mapping[str, Any], **values: Any) -> None:
    """Checks that fields, where they are given, have the only values that a model here can have.

    Raises:
        InputError: one has another; the message names it.
    """
    for field, wanted in values.items():
        if config.get(field, wanted) != wanted:
            raise InputError(f"{field} must be {wanted!r}, got {field}={config[field]!r}, which no model here has.")


def need(model: Any, what: str, **values: Any) -> None:
    """Checks that a model of ours has the form of a family of theirs.

    Args:
        what: the family, for the message.
        values: of our fields; a collection names several that do.

    Raises:
        InputError: a field has another value; the message names it.
    """
    for field, wanted in values.items():
        fitting: Collection[Any] = wanted if isinstance(wanted, (tuple, list, set)) else (wanted,)
        if (got := getattr(model, field)) not in fitting:
            listed = " or ".join(map(repr, fitting))
            raise InputError(f"a model must have {field}={listed} to be exported as {what}, got {field}={got!r}.")


def plain_attention(model: Any) -> dict[str, Any]:
    """Returns what `need` asks of attention as Vaswani has it: the width split into heads, and nothing else."""
    return {
        "num_kv_heads": (None, model.num_heads),
        "head_width": (None, model.width // model.num_heads),
        "qk_norm": False,
        "attention_scale": (None, model.width_of_head**-0.5),
        "score_cap": None,
        "window": None,
    }
