"""Changes the code in small ways, one at a time, and says which of the changes no test sees.

    python benchmarks/mutants.py
    python benchmarks/mutants.py --only dropout cached --seconds 300

The changes, `mutants.toml`, are such as a slip of the hand makes: a border off by one, a key that is used twice, an
average over the wrong axis. Each is made in a copy of the tree, and the fast tests of its room run there until the
first of them fails: the mutant is killed. Where all pass, or none asks, it has lived, and a test is missing.
A change that no test can see, because nothing depends on it, is no mutant and does not belong into the list.

First each room's tests run on the copy as it is: they must pass there, or a failure would say nothing.
Exit code 1 says that a mutant has lived.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import TypeVar

import tyro

Outcome = TypeVar("Outcome")
ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
NOT_COPIED = (".*", "__pycache__", "runs", "site", "dist")
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # what pytest ends with; the last one where a module could not be imported


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A small change of one file.

    Attributes:
        name: what is wrong then.
        file: where, from the root of the tree.
        old: a text that occurs there once.
        new: what takes its place.
        tests: what pytest runs to find it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Changes the file below this root.

        Raises:
            ValueError: the old text does not occur once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"the old text of {self.name!r} must occur once in {self.file}, got {count} times.")
        put(path, text.replace(self.old, self.new))


def put(path: Path, text: str) -> None:
    """Writes a module, and removes its bytecode: that of a file as old and as large would be taken for its own."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """Returns the mutants of the list; one that names no tests has those of its file, by the table of rooms."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Mutant(**{**mutant, "tests": tuple(mutant.get("tests") or found["rooms"][mutant["file"]])})
        for mutant in found["mutant"]
    ]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which mutants are tried.

    Attributes:
        only: those whose name or file has one of these texts; none takes all.
        seconds: after which the tests of one mutant are ended: a change that makes them wait for ever is seen, too.
        unchanged: runs the tests without a change first.
        workers: mutants that are tried at a time, each in a copy of its own.
    """

    only: tuple[str, ...] = ()
    seconds: float = 600
    unchanged: bool = True
    workers: int = 1


def run_tests(tests: Sequence[str], *, root: Path, seconds: float) -> tuple[int | None, str]:
    """Runs tests in a tree up to the first that fails; returns pytest's status, None if it was ended, and its words."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def cause(output: str) -> str | None:
    """Returns the test that failed first, or that could not be collected; None where pytest names none."""
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" - ")[0] if lines else None


def try_one(number: int, mutant: Mutant, *, root: Path, seconds: float) -> bool:
    """Makes a mutant in a copy of the tree, runs its tests, restores the file; returns whether it has lived."""
    original = (root / mutant.file).read_text(encoding="utf-8")
    mutant.apply(root)
    began = time.perf_counter()
    status, output = run_tests(mutant.tests, root=root, seconds=seconds)
    put(root / mutant.file, original)
    found = cause(output)
    # Else it is not the mutant that failed, but what should have run the tests.
    if status is not None and (status not in (PASSED, FAILED, INTERRUPTED) or (status != PASSED) > bool(found)):
        raise SystemExit(f"pytest must run for {mutant.name!r}, got status {status}: {output[-500:]}")
    said = "LIVED" if status == PASSED else "killed: waits for ever" if status is None else "killed"
    taken = time.perf_counter() - began
    print(f"{number:3d} {mutant.file}: {mutant.name}: {said} {found or ''} ({taken:.0f} s)", flush=True)
    return status == PASSED


def main(config: Config) -> int:
    """Tries the mutants, and returns how many have lived."""
    chosen = [
        mutant
        for mutant in read_mutants()
        if not config.only or any(text in mutant.name or text in mutant.file for text in config.only)
    ]
    if not chosen:
        raise SystemExit(f"only must be a part of a mutant's name or file, got {' '.join(config.only)}.")
    with tempfile.TemporaryDirectory(prefix="lmx-mutants-") as directory:
        roots: Queue[Path] = Queue()
        for worker in range(config.workers):
            root = Path(directory) / str(worker)
            shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
            roots.put(root)

        def with_a_copy(work: Callable[[Path], Outcome]) -> Outcome:
            root = roots.get()
            try:
                return work(root)
            finally:
                roots.put(root)

        def passes(tests: tuple[str, ...]) -> None:
            status, output = with_a_copy(lambda root: run_tests(tests, root=root, seconds=config.seconds))
            if status != PASSED:
                raise SystemExit(f"{' '.join(tests)} must pass without a change, got {cause(output)}.")

        def has_lived(numbered: tuple[int, Mutant]) -> bool:
            return with_a_copy(lambda root: try_one(*numbered, root=root, seconds=config.seconds))

        with ThreadPoolExecutor(config.workers) as pool:
            for _ in pool.map(passes, sorted({mutant.tests for mutant in chosen}) if config.unchanged else ()):
                pass
            outcomes = list(pool.map(has_lived, enumerate(chosen, start=1)))
    lived = [mutant for mutant, outcome in zip(chosen, outcomes, strict=True) if outcome]
    killed = len(chosen) - len(lived)
    print(f"\n{len(chosen)} tried, {killed} killed ({killed / len(chosen):.1%}), {len(lived)} lived")
    for mutant in lived:
        print(f"  lived: {mutant.file}: {mutant.name}")
    return len(lived)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)) > 0)
