"""Which attention kernels a training takes, and why, before it begins: a run prints it at its start."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lmx.data.windows import Windows
from lmx.nn.config import TransformerConfig
from lmx.nn.kernels import choose_kernel
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import use_mesh


def told_of_rows(batches: Any) -> tuple[str, ...]:
    """Returns what a model learns about rows beside their tokens: "segments" where they are packed, "prefix"."""
    if not isinstance(batches, Windows):
        return ()
    packed = ("segments",) if batches.packing == "documents" else ()
    return packed + (("prefix",) if "prefix" in batches.names else ())


def attention_facts(
    model: TransformerConfig, network: Any, mesh: Mesh, *, rules: Rules = DEFAULT_RULES, given: tuple[str, ...] = ()
) -> dict[str, str]:
    """Returns which kernels a training's attention takes on a mesh, and why.

    Args:
        given: see `told_of_rows`.

    Raises:
        ValueError: the config asks for a kernel that cannot do what the model needs.
    """
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    told: dict[str, Any] = {"segments": (row, row), "key_lengths": None} if "segments" in given else {}
    told |= {"prefix": row} if "prefix" in given else {}
    with use_mesh(mesh, rules=rules):
        choices = {
            name: choose_kernel(
                model.kernel,
                sees.replace(**told),
                dtype=model.dtype,
                head_width=model.width_of_head,
                dropout_rate=model.attention_dropout_rate,
                score_cap=model.score_cap,
            )
            for name, sees in network.attentions().items()
        }

    def summary(field: int) -> str:
        """Returns a value that all share once, else the value of each."""
        values = {name: choice[field] for name, choice in choices.items()}
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        return ", ".join(f"{name}: {value}" for name, value in values.items())

    return {"attention_kernel": summary(0), "attention_reason": summary(1)}
