"""What a partitioned program communicates: reads XLA's text form and counts the bytes each device sends.

The text is that of the program right after partitioning, before a backend changes types or merges operations. Nothing
here runs or compiles; `lmx.plan` gets the text.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmx.programs import Computation, Instruction, elements_of, parse_program, size_of

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# What changes an array's form but not its elements.
FORMS = ("bitcast", "bitcast-convert", "convert", "copy", "reshape", "transpose", "opt-barrier")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of a program.

    Attributes:
        axes: mesh axes that vary within its groups.
        devices: in each group.
        bytes: of the operand for reductions, of the result for all-gather, on one device.
        times: how often a step runs it: the trips of the loops around it.
        known: whether all of these trips are known; unknown loops count once.
        sliced: an all-reduce of whose result each device uses a slice of 1/devices, another one than the others.
        added: how many all-reduces are only added up with this one; 1 when it stands alone, 0 when another of them
            counts for this one.
        sum_sliced: whether that sum is used so.
        reach: places between the first and the last device of a group, both included.
        shape: of its result on one device, as XLA writes it.
        scope: where in the model it comes from.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    bytes: int
    times: int
    known: bool = True
    sliced: bool = False
    added: int = 1
    sum_sliced: bool = False
    reach: int = 1
    shape: str = ""
    scope: str = ""

    @property
    def raw(self) -> float:
        """Bytes a device sends in a step in a ring, as the program stands."""
        return self.times * _sent(self.kind, self.bytes, self.devices)

    @property
    def counted(self) -> float:
        """The same with an all-reduce whose result is only sliced counted as a reduce-scatter."""
        return self.raw / 2 if self.sliced else self.raw

    @property
    def merged(self) -> float:
        """The same with all-reduces that are only added up counted as one."""
        if self.added == 1:
            return self.counted
        return self.raw * (self.added > 0) / (2 if self.sum_sliced else 1)


def _sent(kind: str, size: int, devices: int) -> float:
    share = (devices - 1) / devices
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * size


def read_collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Returns the collectives of a partitioned program, each with how often a step runs it.

    Scalars of a few bytes are in it too. Every branch of a conditional counts.

    Args:
        text: XLA's text form of the module.
        mesh: sizes of the mesh axes in their order; a device's number is its place in the mesh.
    """
    computations, entry = parse_program(text)
    found: list[Collective] = []
    for computation, times, known in _visits(computations, entry):
        found += _collectives_of(computation, mesh, times=times, known=known)
    return found


# ---- loops -----------------------------------------------------------------------------------------------------------


def _visits(
    computations: Mapping[str, Computation], name: str, times: int = 1, known: bool = True
) -> Iterator[tuple[Computation, int, bool]]:
    """Yields each computation that runs, with how often, and whether that is known."""
    computation = computations[name]
    yield computation, times, known
    for instruction in computation.instructions.values():
        if instruction.op == "while":
            trips = _trips(computations, computation, instruction)
            body = instruction.attribute("body")
            yield from _visits(computations, str(body), times * (trips or 1), known and trips is not None)
        elif instruction.op == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
            names = re.findall(r"[\w.\-]+", branches.group(1)) if branches else []
            names += [instruction.attribute(f"{side}_computation") for side in ("true", "false")]
            for branch in filter(None, names):
                yield from _visits(computations, branch, times, known)
        elif instruction.op in ("call", "async-start"):
            called = instruction.attribute("to_apply") or instruction.attribute("calls")
            yield from _visits(computations, str(called), times, known)


def _trips(computations: Mapping[str, Computation], computation: Computation, loop: Instruction) -> int | None:
    """Returns a loop's trips: what XLA says, or for a counter from a constant in steps of one below a constant."""
    said = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if said:
        return int(said.group(1))
    condition = computations[str(loop.attribute("condition"))]
    body = computations[str(loop.attribute("body"))]
    compare = condition.instructions[condition.root]
    if compare.op != "compare" or "direction=LT" not in compare.rest:
        return None
    counter, limit = (_formed(condition, operand) for operand in compare.operands)
    index = counter.attribute("index")
    if counter.op != "get-tuple-element" or limit.op != "constant" or index is None:
        return None
    start = computation.instructions[loop.operands[0]]
    step = body.instructions[body.root]
    if start.op != "tuple" or step.op != "tuple":
        return None
    first, following = _formed(computation, start.operands[int(index)]), _formed(body, step.operands[int(index)])
    if first.op != "constant" or following.op != "add":
        return None
    parts = [_formed(body, operand) for operand in following.operands]
    steps = [part.inside for part in parts if part.op == "constant"]
    counters = [part for part in parts if part.op == "get-tuple-element" and part.attribute("index") == index]
    if steps != ["1"] or not counters:
        return None
    return max(0, int(limit.inside) - int(first.inside))


def _formed(computation: Computation, name: str) -> Instruction:
    """Returns what an instruction is a form of."""
    instruction = computation.instructions[name]
    while instruction.op in FORMS and len(instruction.operands) == 1:
        instruction = computation.instructions[instruction.operands[0]]
    return instruction


# ---- collectives -----------------------------------------------------------------------------------------------------


def _collectives_of(
    computation: Computation, mesh: Mapping[str, int], *, times: int, known: bool
) -> Iterator[Collective]:
    collectives = [i for i in computation.instructions.values() if i.op.removesuffix("-start") in KINDS]
    sums = _sums(computation, [i for i in collectives if i.op == "all-reduce"])
    for instruction in collectives:
        kind = instruction.op.removesuffix("-start")
        groups = _groups(instruction, math.prod(mesh.values()))
        devices = groups.shape[1]
        if devices == 1 or not groups.size:
            continue
        scope = re.search(r'op_name="([^"]*)"', instruction.rest)
        operands = sum(size_of(computation.instructions[name].shape) for name in instruction.operands)
        added, whole = sums.get(instruction.name, (1, instruction))
        is_reduction = kind == "all-reduce"
        yield Collective(
            kind=kind,
            axes=_axes(groups, mesh),
            devices=devices,
            bytes=operands * devices if kind == "all-gather" else operands,
            times=times,
            known=known,
            sliced=is_reduction and _is_only_sliced(computation, instruction, groups),
            added=added,
            sum_sliced=is_reduction and _is_only_sliced(computation, whole, groups),
            reach=int((groups.max(1) - groups.min(1)).max()) + 1,
            shape=re.sub(r"\{[^}]*\}", "", instruction.shape),
            scope=scope.group(1) if scope else "",
        )


def _is_only_sliced(computation: Computation, instruction: Instruction, groups: np.ndarray) -> bool:
    """Tells whether each device of a group uses a part of its own, 1/devices of a result at most, and no more of it."""
    limit = elements_of(instruction.shape) / groups.shape[1]
    taken: set[bytes] = set()

    def is_part(user: Instruction, name: str) -> bool:
        if user.op in FORMS and not user.root:
            return is_sliced(user.name)
        if user.op != "dynamic-slice" or user.operands[0] != name or elements_of(user.shape) > limit:
            return False
        for operand in user.operands[1:]:
            places = _by_device(computation, operand, int(groups.max()) + 1)
            if places is not None and all(len(set(places[group])) == len(group) for group in groups):
                taken.add(places.tobytes())
                return True
        return False

    def is_sliced(name: str) -> bool:
        users = computation.users.get(name, [])
        return bool(users) and all(is_part(user, name) for user in users)

    return not instruction.root and is_sliced(instruction.name) and len(taken) == 1


def _by_device(computation: Computation, name: str, devices: int) -> np.ndarray | None:
    """Returns a scalar's value on each device: what constants, tables and the device's number give, else None."""
    instruction = computation.instructions[name]
    if instruction.op == "partition-id":
        return np.arange(devices)
    if instruction.op == "constant" and re.fullmatch(r"-?\d+", instruction.inside):
        return np.full(devices, int(instruction.inside))
    if instruction.op in FORMS:
        return _by_device(computation, instruction.operands[0], devices)
    if instruction.op == "dynamic-slice":
        table = computation.instructions[instruction.operands[0]]
        place = _by_device(computation, instruction.operands[1], devices)
        values = np.array(_numbers(table.inside)) if table.op == "constant" else np.array([])
        if values.size and len(instruction.operands) == 2 and place is not None:
            return values[np.minimum(place, len(values) - 1)]
    if instruction.op in ("add", "subtract", "multiply"):
        left, right = (_by_device(computation, operand, devices) for operand in instruction.operands)
        if left is not None and right is not None:
            return {"add": left + right, "subtract": left - right, "multiply": left * right}[instruction.op]
    return None


def _sums(computation: Computation, reductions: Sequence[Instruction]) -> dict[str, tuple[int, Instruction]]:
    """Returns for each all-reduce that is only added to others over the same groups: how many they are, and their sum.

    The first of them has their number, the others 0.
    """

    def terms(instruction: Instruction) -> list[Instruction] | None:
        """Returns the all-reduces an instruction is the sum of, or None when it is more than that."""
        if instruction.op == "all-reduce":
            return [instruction]
        if len(computation.users.get(instruction.name, [])) > 1 and instruction.op in FORMS:
            return None
        if instruction.op in FORMS:
            return terms(computation.instructions[instruction.operands[0]])
        if instruction.op != "add":
            return None
        found: list[Instruction] = []
        for operand in instruction.operands:
            if len(computation.users[operand]) > 1:
                return None
            part = terms(computation.instructions[operand])
            if part is None:
                return None
            found += part
        return found

    def over(instruction: Instruction) -> str:
        return re.split(r", (?:use_global|to_apply|metadata|channel)", _groups_text(instruction))[0]

    best: dict[str, tuple[int, Instruction]] = {}
    totals: dict[str, list[Instruction]] = {}
    for instruction in computation.instructions.values():
        if instruction.op == "add" and (parts := terms(instruction)) and len({over(part) for part in parts}) == 1:
            totals[instruction.name] = parts
    for name, parts in sorted(totals.items(), key=lambda item: -len(item[1])):
        if not any(part.name in best for part in parts):
            for index, part in enumerate(parts):
                best[part.name] = (0 if index else len(parts), computation.instructions[name])
    names = {reduction.name for reduction in reductions}
    return {name: found for name, found in best.items() if name in names}


def _groups_text(instruction: Instruction) -> str:
    found = re.search(r"replica_groups=(.*)", instruction.rest)
    return found.group(1) if found else ""


def _groups(instruction: Instruction, devices: int) -> np.ndarray:
    """Returns the devices of each group as [groups, devices in each].

    XLA writes groups in three forms: a list, {{0,1},{2,3}}; an iota, [2,4]<=[4,2]T(1,0); and by the axes of a mesh,
    mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, where 'b':(2)2 is the part of size 2 after the first 2 of b.
    """
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", instruction.rest)
    if pairs:
        found = np.array(re.findall(r"(\d+),(\d+)", pairs.group(1)), dtype=int).reshape(-1, 2)
        return found[found[:, 0] != found[:, 1]]
    text = _groups_text(instruction)
    if text.startswith("mesh["):
        return _mesh_groups(text)
    if iota := re.match(r"\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(iota[2]).reshape(_numbers(iota[1]))
    lists = re.match(r"\{(?:\{[\d,]*\},?)*\}", text)
    listed = re.findall(r"\{([\d,]+)\}", lists[0]) if lists else []
    return np.array([_numbers(group) for group in listed]) if listed else np.arange(devices)[None]


def _mesh_groups(text: str) -> np.ndarray:
    found = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*)\))? \{([^}]*)\}", text)
    if found is None:
        raise ValueError(f"replica groups must be in a form that is known, got {text[:120]!r}.")
    body, ids, chosen = found.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", body)}
    if ids is None:
        array = np.arange(math.prod(sizes.values()))
    else:
        array = _iota(ids) if ids.startswith("[") else np.array(_numbers(ids))
    # Each axis is cut where the chosen parts of it begin and end, so that a part is an axis of its own.
    parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    shape: list[int] = []
    grouped: list[int] = []
    for name, size in sizes.items():
        cuts = {1, size}
        inside = []
        for before, part in ((int(b or 1), int(p or size)) for n, b, p in parts if n == name):
            cuts |= {before, before * part}
            inside.append((before, before * part))
        points = sorted(cuts)
        for start, end in itertools.pairwise(points):
            if any(first <= start and end <= last for first, last in inside):
                grouped.append(len(shape))
            shape.append(end // start)
    array = array.reshape(shape)
    others = [axis for axis in range(len(shape)) if axis not in grouped]
    in_group = math.prod(shape[axis] for axis in grouped)
    return array.transpose(others + grouped).reshape(-1, in_group)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _iota(text: str) -> np.ndarray:
    """Returns the devices in the order of "[4,2]T(1,0)": counted through the shape, then its axes permuted."""
    shape, _, order = text.partition("T")
    array = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return array.transpose(_numbers(order)) if order else array


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes whose coordinate varies within a group."""
    coordinates = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(name for name, place in zip(mesh, coordinates, strict=True) if (place != place[:, :1]).any())
