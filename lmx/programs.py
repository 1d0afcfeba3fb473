"""XLA's text form of a program: its computations, their instructions, and the sizes of what they give.

Nothing here runs or compiles. `lmx.collectives` reads what a program communicates, `lmx.plan` what it holds.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}


@dataclass
class Instruction:
    """One line of a program."""

    name: str
    shape: str
    op: str
    operands: list[str]
    inside: str  # between the parentheses: operands, or a constant's value
    rest: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """Returns what stands after "name=", without the percent sign of a computation."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found.group(1)


@dataclass
class Computation:
    """The instructions of a computation by their names, in order, and for each the instructions that use it."""

    instructions: dict[str, Instruction] = field(default_factory=dict)
    users: dict[str, list[Instruction]] = field(default_factory=dict)
    root: str = ""


def parse_program(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations of a module by their names, and the name of the one that is entered.

    Raises:
        ValueError: the text is no module.
    """
    computations: dict[str, Computation] = {}
    current, entry = Computation(), ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) (\(.*)?.*\{$", line)
        if head and not line.startswith((" ", "HloModule")):
            current = computations[head.group(2)] = Computation()
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line)
            current.instructions[instruction.name] = instruction
            current.root = instruction.name if instruction.root else current.root
            for operand in instruction.operands:
                current.users.setdefault(operand, []).append(instruction)
    if entry not in computations:
        raise ValueError("text must be an XLA module with an ENTRY computation, got none.")
    return computations, entry


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    shape_end = _closing(right) + 1 if right.startswith("(") else right.index(" ")
    shape, call = right[:shape_end], right[shape_end:].lstrip()
    opening = call.index("(")
    closing = opening + _closing(call[opening:])
    inside = call[opening + 1 : closing]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        shape=shape,
        op=call[:opening],
        operands=_operands(call[:opening], inside),
        inside=inside,
        rest=call[closing + 1 :],
        root=left.startswith("ROOT "),
    )


def _operands(op: str, inside: str) -> list[str]:
    """Returns the names of what an instruction reads: with a percent sign or, before XLA optimizes, without."""
    if "%" in inside or op in ("constant", "iota", "parameter"):
        return re.findall(r"%([\w.\-]+)", inside)
    return re.findall(r"[A-Za-z_][\w.\-]*", re.sub(r"/\*.*?\*/", "", inside))


def _closing(text: str) -> int:
    """Returns where the parenthesis that opens the text closes."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    raise ValueError(f"parentheses must be balanced, got {text[:80]!r}.")


def arrays_of(shape: str) -> Iterator[tuple[str, int]]:
    """Yields type and number of elements of each array of a shape, tuples included."""
    for dtype, sizes in re.findall(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\]", shape):
        yield dtype, math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size)


def elements_of(shape: str) -> int:
    """Returns the number of elements of a shape, tuples included."""
    return sum(elements for _, elements in arrays_of(shape))


def size_of(shape: str) -> int:
    """Returns the bytes of a shape."""

    def bits(dtype: str) -> int:
        if dtype in BITS:
            return BITS[dtype]
        found = re.match(r"[suf](\d+)", dtype)  # s32, u8, f16, f8e4m3fn
        if found is None:
            raise ValueError(f"element type must be one of XLA's, got {dtype}.")
        return int(found.group(1))

    return sum(-(-elements * bits(dtype) // 8) for dtype, elements in arrays_of(shape))
