"""What comparisons of training speed share: the rows of their tables, how they are timed in turns, and the table.

A script brings its shapes and how each side trains one of them. Used in two Pythons, so only the standard library is
imported.
"""

import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.rows import Row

Side = Literal["lmx", "torch", "torch compiled"]
WARM_UP = 4  # updates before the first that is timed: until then allocators of large models still fetch memory


@dataclass(frozen=True)
class Trainer:
    """One side, ready: `update()` does one update, waits for its end and returns the loss a token."""

    update: Callable[[], float]
    matmul: Callable[[], float]  # GFLOP/s of a large float32 product
    facts: dict[str, Any]  # parameters, version, and of lmx the matmul FLOPs of an update


def prepare(trainer: Trainer) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Gets a row ready.

    It answers "memory" with the megabytes of its peak and of now, "matmul" with GFLOP/s, and a number of updates with
    wall and processor seconds.
    """
    began = time.perf_counter()
    loss = trainer.update()
    facts = trainer.facts | {"first": time.perf_counter() - began, "loss": loss}
    for _ in range(WARM_UP):
        trainer.update()

    def answer(question: Any) -> Any:
        if question == "memory":
            return memory()
        if question == "matmul":
            return trainer.matmul()
        began = time.perf_counter(), time.process_time()
        for _ in range(question):
            trainer.update()
        return time.perf_counter() - began[0], time.process_time() - began[1]

    return facts, answer


def memory() -> tuple[float, float]:
    """Returns the megabytes that this process held at most and holds now; zeros where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = {
        name: int(rest.split()[0]) * 1024 / 1e6
        for name, _, rest in (line.partition(":") for line in lines)
        if "kB" in rest
    }
    return found.get("VmHWM", 0.0), found.get("VmRSS", 0.0)


def matmul_flops(jaxpr: Any) -> float:
    """Counts the FLOPs of a program's matrix products, those in a scan's body once for each turn."""
    import math

    total = 0.0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                total += turns * matmul_flops(inner)
    return total


def matmul_rate(multiply: Callable[[], Any], *, size: int) -> float:
    """Returns the best GFLOP/s of a product of two matrices [size, size] over a few tries."""
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e9


@dataclass
class Timed:
    """A row of the table and what was measured, once for each round.

    Attributes:
        seconds: of an update.
        cores: that were at work meanwhile.
        rates: of a matrix product, in GFLOP/s.
        memory: megabytes of the process after its first updates: at most, and now.
    """

    row: Row
    side: Side
    memory: tuple[float, float]
    seconds: list[float] = dataclasses.field(default_factory=list)
    cores: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """The row's name."""
        return self.row.name


def plan_rows(
    *, compiled: bool, tuned: bool, tuning: dict[str, str], peer_tuning: dict[str, str]
) -> list[tuple[str, Side, dict[str, str]]]:
    """Returns the name, the side and the environment of each row of a table."""
    plans: list[tuple[str, Side, dict[str, str]]] = [("lmx", "lmx", {}), ("PyTorch", "torch", {})]
    if compiled:
        plans.append(("PyTorch compiled", "torch compiled", {}))
    if tuned:
        plans.append(("lmx tuned", "lmx", tuning))
        plans.append(("PyTorch tuned", "torch", peer_tuning))
        if compiled:
            plans.append(("PyTorch tuned compiled", "torch compiled", peer_tuning))
    return plans


def time_rows(
    plans: list[tuple[str, Side, dict[str, str]]],
    *,
    script: str,
    shape: dict[str, Any],
    peer_python: str,
    rounds: int,
    updates: int,
) -> list[Timed]:
    """Starts a process for each row, then times them in turns, round after round.

    Args:
        script: is run with `--serve [SIDE, SHAPE]`.
        shape: fields of what is trained.

    Raises:
        ValueError: a row's process fails; of the compiled rows, which need a C++ compiler, only a line says so.
    """
    rows: list[Timed] = []
    with ExitStack() as stack:
        for name, side, environment in plans:
            python = sys.executable if side == "lmx" else peer_python
            try:
                row = Row(name, script, [side, shape], python=python, environment=environment)
            except ValueError as error:
                if side != "torch compiled":
                    raise
                print(f"  left out: {error}")
                continue
            stack.callback(row.end)
            rows.append(Timed(row, side, row.ask("memory")))
            facts = row.facts
            first = f"first update {facts['first']:.1f} s, loss {facts['loss']:.3f}"
            print(f"  {name:<23} {facts['version']}, {first}", flush=True)
        counts = {timed.row.facts["parameters"] for timed in rows}
        assert len(counts) == 1, f"the sides train different models: {counts} parameters"
        for _ in range(rounds):
            for timed in rows:
                timed.rates.append(timed.row.ask("matmul"))
                wall, processor = timed.row.ask(updates)
                timed.seconds.append(wall / updates)
                timed.cores.append(processor / wall)
    return rows


def print_table(rows: list[Timed], *, tokens: int, counted: float, meaning: str) -> None:
    """Prints tokens a second, the share of the machine's matmul rate, and the ratios that matter.

    Args:
        tokens: of an update, padding included.
        counted: the share of them that is no padding.
        meaning: of a token, for the line above the table.
    """
    flops = next(timed.row.facts["flops"] for timed in rows if timed.side == "lmx")
    best_rate = max(statistics.median(row.rates) for row in rows)
    speed = {row.name: tokens / statistics.median(row.seconds) for row in rows}
    print(f"  {rows[0].row.facts['parameters']:,} parameters, {flops / 1e9:,.0f} GFLOP of matrix products an update;")
    print(f"  a float32 product of [2048, 2048] runs at {best_rate:.0f} GFLOP/s (best row's median)")
    print(f"  tokens/s: {meaning}, padding included; words/s: without padding; cores: at work in the process;")
    print("  peak and held: megabytes of the process at most, and between updates\n")
    print(
        f"  {'':<23} {'ms/update':>9} {'fastest':>8} {'tokens/s':>9} {'words/s':>9} {'of matmul rate':>15} "
        f"{'cores':>6} {'peak':>6} {'held':>6}"
    )
    for row in rows:
        median = statistics.median(row.seconds)
        times = f"{median * 1e3:>9,.0f} {min(row.seconds) * 1e3:>8,.0f}"
        speeds = f"{speed[row.name]:>9,.0f} {speed[row.name] * counted:>9,.0f}"
        share, cores = flops / median / 1e9 / best_rate, statistics.median(row.cores)
        peak, held = row.memory
        print(f"  {row.name:<23} {times} {speeds} {share:>15.0%} {cores:>6.1f} {peak:>6,.0f} {held:>6,.0f}")
    print()
    stock = max(speed[row.name] for row in rows if row.side != "lmx" and "tuned" not in row.name)
    print(f"  lmx / stock PyTorch (the best row) = {speed['lmx'] / stock:.2f}")
    if "lmx tuned" in speed:
        tuned = max(speed[row.name] for row in rows if row.side != "lmx" and "tuned" in row.name)
        print(f"  lmx / tuned PyTorch (the best row) = {speed['lmx'] / tuned:.2f}", end="")
        print(f"; lmx tuned / tuned PyTorch = {speed['lmx tuned'] / tuned:.2f}")
    wanted, given = len(os.sched_getaffinity(0)), statistics.median(rows[0].cores)
    if given < 0.8 * wanted:
        print(f"  WARNING: lmx had {given:.1f} of {wanted} cores: another job was running, these numbers mean little.")
