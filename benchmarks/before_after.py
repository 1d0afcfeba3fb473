"""Two states of this project beside each other, in turns: are training and decoding as fast as before?

    python benchmarks/before_after.py --before ../other-checkout [--shapes multi30k base] [--batches 1 32] [--rounds 5]

A process of each checkout prepares `benchmarks/translation_training.py`'s update of a shape, or the beam search of
`benchmarks/decoding.py`, beam 4; then they take turns: before, after, before, after. Ratios of training are of the
fastest round and of the middle processor time, which other jobs of the machine disturb least; of decoding, of the
fastest and middle round.
"""

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.decoding import Shape  # noqa: E402
from benchmarks.rows import Row  # noqa: E402
from benchmarks.translation_training import SHAPES  # noqa: E402


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["multi30k"])
    parser.add_argument("--batches", nargs="*", type=int, default=[], help="rows that are decoded at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    for name in options.shapes:
        task = ["lmx", dataclasses.asdict(SHAPES[name])]
        rows = rows_of(options.before, "translation_training.py", task)
        found = [[row.ask(options.updates) for row in rows] for _ in range(options.rounds)]
        for row in rows:
            row.end()
        fastest, processor = (
            [choose(turn[side][kind] for turn in found) for side in (0, 1)]
            for kind, choose in ((0, min), (1, statistics.median))
        )
        print(
            f"{name}: speed after / before = {fastest[0] / fastest[1]:.3f} (fastest round), "
            f"{processor[0] / processor[1]:.3f} (median processor time); {options.rounds} rounds",
            flush=True,
        )
    if options.batches:
        rows = rows_of(options.before, "decoding.py", ["lmx", dataclasses.asdict(Shape(threads=2, length=32))])
        for batch in options.batches:
            before, after = compare_decoding(rows, batch, rounds=options.rounds)
            print(
                f"decoding, batch {batch}: speed after / before = {min(before) / min(after):.3f} (fastest round), "
                f"{statistics.median(before) / statistics.median(after):.3f} (median); {options.rounds} rounds",
                flush=True,
            )
        for row in rows:
            row.end()


def rows_of(before: Path, script: str, task: list) -> list[Row]:
    """Starts a benchmark's row of the other checkout, and that of this one."""
    return [
        Row(
            str(root),
            str(root / "benchmarks" / script),
            task,
            python=sys.executable,
            environment={"PYTHONPATH": str(root)},
        )
        for root in (before.resolve(), ROOT)
    ]


def compare_decoding(rows: list[Row], batch: int, *, rounds: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of a batch's beam search, before and after, in turns; the first calls compile."""
    for row in rows:
        row.ask([batch, 4])
    taken = [[row.ask([batch, 4]) for row in rows] for _ in range(rounds)]
    return [one for one, _ in taken], [other for _, other in taken]


if __name__ == "__main__":
    main()
