"""What a program holds at its fullest moment beside its inputs and outputs, read from XLA's text form.

The text is that of the program before a backend chooses kernels, so what is fused is assumed: operations on elements
are made where they are read, and only what products, reductions, loops and collectives read or give takes memory.
Loops, updates of slices and sums over devices work in place. Nothing here runs or compiles.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Union

from lmx.programs import Computation, Instruction, parse_program, size_of

# Another name or order of an array that is there: a product reads it so.
FORMS = ("bitcast", "bitcast-convert", "copy", "opt-barrier", "reshape", "transpose")
# Made where it is read: operations on elements, and what picks or repeats them.
FUSED = (
    *("abs", "add", "and", "atan2", "broadcast", "cbrt", "ceil", "clamp", "compare", "constant", "convert", "cosine"),
    *("divide", "dynamic-slice", "erf", "exponential", "exponential-minus-one", "floor", "iota", "is-finite", "log"),
    *("log-plus-one", "logistic", "maximum", "minimum", "multiply", "negate", "not", "or", "pad", "partition-id"),
    *("popcnt", "power", "reduce-precision", "remainder", "replica-id", "reverse", "round-nearest-afz"),
    *("round-nearest-even", "rsqrt", "select", "shift-left", "shift-right-arithmetic", "shift-right-logical", "sign"),
    *("sine", "slice", "sqrt", "stochastic-convert", "subtract", "tan", "tanh", "xor", "concatenate"),
)
# These write over their first operand, where nobody else has it.
IN_PLACE = ("dynamic-update-slice", "scatter", "all-reduce")
# These read operations on elements as they make them; all others want an array that is there.
FUSING = ("reduce", "dynamic-update-slice", "scatter", "gather")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One array that is there at the fullest moment: its bytes, and its shape as XLA writes it."""

    size: int
    shape: str
    scope: str


@dataclass(frozen=True, kw_only=True)
class Fullest:
    """The fullest moment of a program: bytes of all that is there, and the arrays, largest first."""

    size: int
    held: tuple[Held, ...]


def fullest_moment(text: str) -> Fullest:
    """Returns the fullest moment of a program on one device; inputs and outputs are not in it.

    Args:
        text: XLA's text form of the module, before optimization or right after partitioning.
    """
    computations, entry = parse_program(text)
    inputs = [i for i in computations[entry].instructions.values() if i.op == "parameter"]
    run = _Run(computations)
    result = run.enter(computations[entry], [_given(size_of(i.shape)) for i in sorted(inputs, key=_index)])
    outputs = {name for value in _leaves(result) if not value.fused for name in value.buffers}
    return run.fullest(without=outputs)


@dataclass
class _Array:
    """An array while the program is walked through.

    Attributes:
        buffers: what must be there for it to be read; its own memory, or that of what it is made of.
        fused: it has no memory of its own yet.
        given: an input, which may not be written over.
    """

    size: int
    buffers: frozenset[int] = frozenset()
    fused: bool = False
    given: bool = False


_Value = Union[_Array, "list[_Value]"]


@dataclass
class _Run:
    """A walk through a computation, calls included: when each buffer is made, and when it is last read."""

    computations: Mapping[str, Computation]
    time: int = 0
    made: list[tuple[int, Held]] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    inside: dict[int, Fullest] = field(default_factory=dict)  # what loops and branches hold, by time

    def enter(self, computation: Computation, arguments: Sequence[_Value]) -> _Value:
        """Walks through a computation and returns its result."""
        values: dict[str, _Value] = {}
        for instruction in computation.instructions.values():
            self.time += 1
            operands = [values[name] for name in instruction.operands]
            for operand in operands:
                self._touch(operand)
            values[instruction.name] = self._run(instruction, operands, arguments)
        result = values[computation.root]
        self._touch(result)
        return result

    def fullest(self, *, without: AbstractSet[int] = frozenset()) -> Fullest:
        """Returns the fullest moment so far, leaving out these buffers."""
        ends = {name: self.last[name] + 1 for name in range(len(self.made))}
        changes: dict[int, int] = {}
        for name, (time, held) in enumerate(self.made):
            if name not in without:
                changes[time] = changes.get(time, 0) + held.size
                changes[ends[name]] = changes.get(ends[name], 0) - held.size
        now, best, when = 0, 0, 0
        for time in sorted({*changes, *self.inside}):
            now += changes.get(time, 0)
            inner = self.inside[time].size if time in self.inside else 0
            if now + inner > best:
                best, when = now + inner, time
        held = [
            held for name, (time, held) in enumerate(self.made) if name not in without and time <= when < ends[name]
        ]
        held += self.inside[when].held if when in self.inside else ()
        return Fullest(size=best, held=tuple(sorted(held, key=lambda one: -one.size)))

    def _run(self, instruction: Instruction, operands: list[_Value], arguments: Sequence[_Value]) -> _Value:
        op = instruction.op
        if op == "parameter":
            return arguments[int(instruction.inside)]
        if op == "tuple":
            return operands
        if op == "get-tuple-element":
            found = operands[0]
            assert isinstance(found, list)
            return found[int(instruction.attribute("index") or 0)]
        if op in FORMS:
            return operands[0]
        if op == "call":
            return self.enter(self.computations[str(instruction.attribute("to_apply"))], operands)
        if op == "while":
            return self._loop(instruction, operands[0])
        if op == "conditional":
            return self._branch(instruction, operands)
        if op in FUSED:
            buffers = frozenset().union(*(array.buffers for operand in operands for array in _leaves(operand)))
            return _Array(size_of(instruction.shape), buffers, fused=True)
        for operand in operands:
            for array in _leaves(operand):
                if op not in FUSING:
                    self._materialise(array, instruction)
        first = operands[0] if operands else None
        if op in IN_PLACE and isinstance(first, _Array):
            if not first.given and not first.fused:
                return _Array(first.size, first.buffers)
            return self._new(instruction, first.size)
        return self._new(instruction, size_of(instruction.shape))

    def _loop(self, instruction: Instruction, start: _Value) -> _Value:
        """Walks through a loop's body once: what it carries stands where its start was."""
        assert isinstance(start, list)
        body = self.computations[str(instruction.attribute("body"))]
        carried: list[_Value] = [_Array(value.size) if isinstance(value, _Array) else value for value in start]
        inner = _Run(self.computations)
        end = inner.enter(body, [carried])
        assert isinstance(end, list)
        result: list[_Value] = []
        for value, before, after in zip(start, carried, end, strict=True):
            if isinstance(value, _Array) and before is not after:
                if value.fused or value.given or any(value is one for one in result):
                    value = self._new(instruction, value.size)
            elif isinstance(value, _Array):
                self._materialise(value, instruction)
            result.append(value)
        self.inside[self.time] = inner.fullest()
        return result

    def _branch(self, instruction: Instruction, operands: list[_Value]) -> _Value:
        names = [instruction.attribute(f"{side}_computation") for side in ("true", "false")]
        listed = instruction.rest.partition("branch_computations={")[2].partition("}")[0]
        names += [name.strip().lstrip("%") for name in listed.split(",") if name.strip()]
        found = []
        for name, argument in zip(filter(None, names), operands[1:], strict=True):
            inner = _Run(self.computations)
            inner.enter(self.computations[name], [_held_elsewhere(argument)])
            found.append(inner.fullest())
        self.inside[self.time] = max(found, key=lambda one: one.size)
        return self._new(instruction, size_of(instruction.shape))

    def _materialise(self, array: _Array, reader: Instruction) -> None:
        """Gives memory of its own to what was only made where it is read."""
        if array.fused and array.size:
            array.buffers, array.fused = self._new(reader, array.size).buffers, False

    def _new(self, instruction: Instruction, size: int) -> _Array:
        scope = instruction.rest.partition('op_name="')[2].partition('"')[0]
        self.made.append((self.time, Held(size=size, shape=instruction.shape, scope=scope)))
        self.last[len(self.made) - 1] = self.time
        return _Array(size, frozenset({len(self.made) - 1}))

    def _touch(self, value: _Value) -> None:
        for array in _leaves(value):
            for name in array.buffers:
                self.last[name] = self.time


def _given(size: int) -> _Array:
    return _Array(size, given=True)


def _held_elsewhere(value: _Value) -> _Value:
    if isinstance(value, list):
        return [_held_elsewhere(one) for one in value]
    return _given(value.size)


def _leaves(value: _Value) -> list[_Array]:
    return [value] if isinstance(value, _Array) else [array for one in value for array in _leaves(one)]


def _index(parameter: Instruction) -> int:
    return int(parameter.inside)
