"""What each host of a mesh reads of a foreign model, and holds of it, before a number of its weights is read."""

import math
from typing import Any, NamedTuple

import jax

from lmx.errors import InputError
from lmx.interop.imported import Imported, definition_of
from lmx.interop.tensors import Index, stored_bytes
from lmx.sharding.rules import DEFAULT_RULES, split_over

PAGE = 4096  # bytes that a file system reads at least


class Share(NamedTuple):
    """The part of one host.

    Attributes:
        asked: bytes of the files that its devices need.
        touched: bytes of the pages that these lie in, the most that comes from the disk.
        held: bytes of its parameters in float32.
    """

    asked: int
    touched: int
    held: int


def shares_of(found: Imported, *, hosts: int, devices: int) -> list[Share]:
    """Returns what each host reads where fsdp splits a model over all devices, as `--init-from` loads it.

    Args:
        devices: of each host.

    Raises:
        InputError: an axis does not divide over the devices.
    """
    if hosts < 1 or devices < 1:
        raise InputError(f"hosts and devices must be at least 1, got hosts={hosts} and devices={devices}.")
    definition, number = definition_of(found.model), hosts * devices
    pieces: list[tuple[str, tuple[int, ...], int | None]] = []

    def place(path: tuple, leaf: Any, axes: tuple[str | None, ...]) -> None:
        split = [at for at, axis in enumerate(axes) if "fsdp" in split_over(axis or "", DEFAULT_RULES)]
        name = ".".join(str(entry.key) for entry in path)
        if split and leaf.shape[split[0]] % number:
            raise InputError(
                f"an axis must be divisible by the {number} devices that fsdp splits it over, got "
                f"{leaf.shape[split[0]]} of {name}."
            )
        pieces.append((name, leaf.shape, split[0] if split else None))

    jax.tree_util.tree_map_with_path(place, definition.shapes, definition.axes)
    return [_share(found, pieces, host=host, hosts=hosts) for host in range(hosts)]


def _share(found: Imported, pieces: list[tuple[str, tuple[int, ...], int | None]], *, host: int, hosts: int) -> Share:
    """Returns the part of one host, whose devices hold neighbouring pieces of each array."""
    asked = touched = held = 0
    for name, shape, axis in pieces:
        index = [slice(0, size) for size in shape]
        if axis is not None:
            size = shape[axis] // hosts
            index[axis] = slice(host * size, (host + 1) * size)
        held += 4 * math.prod(part.stop - part.start for part in index)
        for theirs, part in found.file.asked(name, tuple(index)):
            whole = found.file.source.shapes[theirs]
            stored = stored_bytes(found.file.source, theirs)
            asked += stored * math.prod(map(_length, part)) // max(math.prod(whole), 1)
            touched += _touched(part, whole, stored)
    return Share(asked, touched, held)


def _touched(part: Index, whole: tuple[int, ...], stored: int) -> int:
    """Returns the most bytes of the pages that a part of an array lies in."""
    lengths = [_length(each) for each in part]
    cuts = [axis for axis, size in enumerate(whole) if lengths[axis] < size]
    if not cuts:
        return stored
    cut = cuts[-1]
    # Runs of neighbouring numbers, each in another place of the file.
    period = stored // math.prod(whole[:cut])
    run = period * lengths[cut] // whole[cut]
    return min(stored, math.prod(lengths[:cut]) * min(period, (run // PAGE + 2) * PAGE))


def _length(part: slice) -> int:
    return part.stop - part.start
