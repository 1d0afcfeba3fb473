"""A mesh and its rules together: what who runs a trained model needs to know of devices, and nothing else."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int64

from lmx.sharding.placement import batch_shards, named_sharding, place_rows, replicated, rows_on
from lmx.sharding.rules import DEFAULT_RULES, Rules
from lmx.sharding.step import use_mesh


class Layout(NamedTuple):
    """Devices and how they share arrays. On one, nothing is placed and nothing laid out.

    Every host must make the same calls, with whole batches, and gets whole results.

    Attributes:
        mesh: where the parameters live; None on one device.
        rules: what the mesh's axes split.
    """

    mesh: Mesh | None = None
    rules: Rules = DEFAULT_RULES

    @property
    def devices(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def row_shards(self) -> int:
        """Into how many parts the rows of a batch are split: their number must divide by it."""
        return 1 if self.mesh is None else batch_shards(self.mesh, rules=self.rules)

    @property
    def whole(self) -> NamedSharding | None:
        """Where results live: whole on every device, where there are several."""
        return None if self.mesh is None or self.devices == 1 else replicated(self.mesh)

    def sharding(self, axes: tuple[str | None, ...], shape: tuple[int, ...] | None = None) -> NamedSharding | None:
        """Returns where an array whose axes have these names lives; None on one device."""
        if self.mesh is None or self.devices == 1:
            return None
        return named_sharding(self.mesh, axes, shape, rules=self.rules)

    def rows_of_host(self, number: int) -> slice | Int64[np.ndarray, " held"]:
        """Returns which of a batch's rows this host holds."""
        return slice(0, number) if self.mesh is None else rows_on(self.mesh, number, rules=self.rules)

    def place(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Returns a batch [B, ...] where it is to run; each host gives its rows of the whole."""
        if self.mesh is None or self.devices == 1:
            return batch
        held = rows_on(self.mesh, len(next(iter(batch.values()))), rules=self.rules)
        return place_rows({name: array[held] for name, array in batch.items()}, self.mesh, rules=self.rules)

    def inference(self, *, rows: bool = True) -> contextlib.AbstractContextManager[None]:
        """Returns what decoding and classification are traced under: rows split, or not, and lengths whole.

        Decoding makes one position after another: there is no length to split.
        """
        if self.mesh is None:
            return contextlib.nullcontext()
        whole = {"length": ()} if rows else {"length": (), "batch": ()}
        return use_mesh(self.mesh, rules={**self.rules, **whole})


ONE_DEVICE = Layout()
