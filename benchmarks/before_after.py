"""Two states of this project beside each other, in turns: is training as fast as before?

    python benchmarks/before_after.py --before ../other-checkout [--shapes multi30k base] [--rounds 5]

A process of each checkout prepares `benchmarks/translation_training.py`'s update of a shape; then they take turns:
before, after, before, after. Ratios are of the fastest round and of processor time, which other jobs of the machine
disturb least.
"""

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is there by itself, the project is not

from benchmarks.rows import Row  # noqa: E402
from benchmarks.translation_training import SHAPES  # noqa: E402


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["multi30k"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    for name in options.shapes:
        task = ["lmx", dataclasses.asdict(SHAPES[name])]
        rows = []
        for checkout in (options.before.resolve(), ROOT):
            script = str(checkout / "benchmarks" / "translation_training.py")
            environment = {"PYTHONPATH": str(checkout)}
            rows.append(Row(str(checkout), script, task, python=sys.executable, environment=environment))
        found = [[row.ask(options.updates) for row in rows] for _ in range(options.rounds)]
        for row in rows:
            row.end()
        fastest, processor = (
            [choose(turn[side][kind] for turn in found) for side in (0, 1)]
            for kind, choose in ((0, min), (1, statistics.median))
        )
        print(
            f"{name}: speed after / before = {fastest[0] / fastest[1]:.3f} (fastest round), "
            f"{processor[0] / processor[1]:.3f} (median processor time); {options.rounds} rounds"
        )


if __name__ == "__main__":
    main()
