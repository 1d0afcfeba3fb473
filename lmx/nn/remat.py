"""What a backward pass keeps of the forward pass, by name."""

from collections.abc import Callable
from typing import Any, Literal

import jax

Remat = Literal["none", "dots", "full"]


def _keep_all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keeps every result for the backward pass but gathered parameters: with them, each device would hold the model.

    `gather` is the one function in a block with a derivative of its own; a kernel that has one is run again too.
    """
    return primitive.name not in ("custom_vjp_call", "sharding_constraint")


POLICIES: dict[Remat, Callable[..., Any]] = {
    "none": _keep_all_but_gathered,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
