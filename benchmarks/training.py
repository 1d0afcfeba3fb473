"""What comparisons of training speed share: the rows of their tables, how they are timed in turns, and the table.

A script brings its shapes and how each side trains one of them. Used in two Pythons, so only the standard library is
imported.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.rows import Row, check_peer, cpu_name, serve, tuned_environments

Side = Literal["lmx", "torch", "torch compiled"]
WARM_UP = 4  # updates before the first that is timed: until then allocators of large models still fetch memory


@dataclass(frozen=True)
class Trainer:
    """One side, ready: `update()` does one update, waits for its end and returns the loss a token."""

    update: Callable[[], float]
    matmul: Callable[[], float]  # GFLOP/s of a large float32 product
    facts: dict[str, Any]  # parameters, version, and of lmx the matmul FLOPs of an update


def lmx_step(
    build: Callable[[Any], Any], *, loss: Callable[..., Any], optimizer: Any, batch: dict[str, Any]
) -> Trainer:
    """Returns lmx's side, with the step that the experiment scripts compile.

    Args:
        build: makes the network from `nnx.Rngs`.
        loss: (network, batch, key) -> sums of loss and weight by name.
        batch: NumPy arrays [A, ...], an update of A micro-batches.
    """
    from lmx.process import keep_freed_memory

    keep_freed_memory()  # as the experiment scripts do
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from lmx.nn.embedding import count_parameters
    from lmx.sharding.mesh import MeshConfig, make_mesh
    from lmx.sharding.placement import place_batch
    from lmx.training import born, compile_step, make_train_step, state_shardings

    mesh = make_mesh(MeshConfig())
    network = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    definition = nnx.graphdef(network)
    shardings = state_shardings(network, optimizer, mesh=mesh)
    state = born(build, optimizer, shardings=shardings, seed=1)
    step = make_train_step(lambda params, *given: loss(nnx.merge(definition, params), *given), optimizer)
    placed = place_batch(batch, mesh)
    flops = matmul_flops(jax.make_jaxpr(step)(state, placed).jaxpr)
    compiled = compile_step(step, mesh=mesh, shardings=shardings)

    def update() -> float:
        nonlocal state
        state, metrics = compiled(state, placed)
        return float(jax.block_until_ready(metrics["loss"]))

    square = jnp.ones((2048, 2048))
    multiply = jax.jit(jnp.matmul)
    matmul = lambda: matmul_rate(lambda: multiply(square, square).block_until_ready(), size=2048)  # noqa: E731
    parameters = count_parameters(network)
    return Trainer(update, matmul, {"parameters": parameters, "version": f"jax {jax.__version__}", "flops": flops})


def torch_matmul() -> float:
    """Returns PyTorch's GFLOP/s of a large float32 product."""
    import torch

    square = torch.ones(2048, 2048)
    return matmul_rate(lambda: square @ square, size=2048)


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


# ---- the script: what can be chosen, and its two ways to be started --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What every comparison of training speed lets one choose.

    Attributes:
        peer_python: the Python that has the peer's packages; by default the one that runs this script.
        rounds: turns that each row takes; the medians are printed.
        updates: updates timed in a turn.
        compiled: also runs torch.compile, which takes a minute to compile and the memory of two rows more.
        tuned: also runs both sides with a tuned allocator.
        quick: one toy shape and one round, to see that everything runs.
    """

    peer_python: str = sys.executable
    rounds: int = 7
    updates: int = 1
    compiled: bool = True
    tuned: bool = True
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a script compares.

    Attributes:
        script: its file, which `main` starts once more for each row.
        packages: what the peer's Python must have.
        describe: returns the lines above a shape's table.
        counted: returns the share of a shape's tokens that is no padding.
        meaning: of a token, for the table.
        trainers: build each side of a shape.
    """

    script: str
    packages: tuple[str, ...]
    describe: Callable[[Any], str]
    counted: Callable[[Any], float]
    meaning: str
    trainers: Callable[[Side, Any], Trainer]


def compare(comparison: Comparison, config: Turns, shapes: Sequence[Any]) -> None:
    """Prints the machine, then one table for each shape.

    Raises:
        InputError: a number is too small, or the peer's Python lacks a package.
    """
    if config.quick:
        config = dataclasses.replace(config, rounds=1, compiled=False)
    if config.rounds < 1 or config.updates < 1:
        from lmx.errors import InputError

        raise InputError(
            f"rounds and updates must be at least 1, got rounds={config.rounds} and updates={config.updates}."
        )
    check_peer(config.peer_python, *comparison.packages)
    print(f"machine: {cpu_name()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as directory:
        tuning, peer_tuning, words = tuned_environments(Path(directory))
        print(f"tuned:   {words}")
        for shape in shapes:
            print(f"\n{comparison.describe(shape)}")
            rows = time_rows(
                plan_rows(compiled=config.compiled, tuned=config.tuned, tuning=tuning, peer_tuning=peer_tuning),
                script=comparison.script,
                shape=dataclasses.asdict(shape),
                peer_python=config.peer_python,
                rounds=config.rounds,
                updates=config.updates,
            )
            print_table(rows, tokens=shape.tokens, counted=comparison.counted(shape), meaning=comparison.meaning)


def run_script(comparison: Comparison, *, config: type[Turns], shape: type, main: Callable[[Any], None]) -> None:
    """Starts `main` with the command line's config, or serves one row where the script was started for it."""
    if sys.argv[1:2] == ["--serve"]:
        side, sizes = json.loads(sys.argv[2])
        serve(lambda: prepare(comparison.trainers(side, shape(**sizes))))
    else:
        import tyro

        from lmx.process import one_line_errors

        with one_line_errors():
            main(tyro.cli(config))
