"""Where a run's time went, over all of its starts: a file in its directory, and a line at its end."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmx.console import duration
from lmx.process import seconds_since_start
from lmx.saved import write_json

FILE = "account.json"
KINDS = {
    "starting": "start",
    "compiling": "compiling",
    "steps": "steps",
    "data": "waiting for data",
    "validation": "validation",
    "checkpoints": "checkpoints",
    "results": "test and report",
}


class Account:
    """The wall time of a run's processes by purpose; a killed process counts up to its last entry.

    Steps after the checkpoint from which the next process resumed are made again: their time counts as repeated.

    Args:
        directory: of the run.
        step: that this process begins after.
        writes: whether this process writes files.
    """

    def __init__(self, directory: Path, *, step: int, writes: bool):
        self._path, self._writes, self._first = directory / FILE, writes, step
        self._before: list[dict[str, Any]] = []
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            saved = json.loads(self._path.read_text(encoding="utf-8"))["starts"]
            self._before = [
                {
                    "first": int(each["first"]),
                    "last": int(each["last"]),
                    "seconds": {kind: float(each["seconds"][kind]) for kind in KINDS},
                }
                for each in saved
            ]
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._spent["starting"] = seconds_since_start()
        self._began = time.perf_counter()
        self._step, self._is_over = step, False

    def spend(self, kind: str, seconds: float) -> None:
        """Adds time to one of `KINDS`; what is not added to another one is that of steps, or of results at the end."""
        self._spent[kind] += seconds

    @contextlib.contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Adds the time that a block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spend(kind, time.perf_counter() - began)

    def write(self, step: int, *, over: bool = False) -> None:
        """Writes what is known after a step.

        Args:
            over: whether training has ended: what follows is no time of steps.
        """
        if not self._is_over:
            elapsed = time.perf_counter() - self._began
            self._spent["steps"] = elapsed - sum(
                self._spent[kind] for kind in KINDS if kind not in ("starting", "steps")
            )
            self._step, self._is_over = step, over
            self._ended = time.perf_counter()
        if self._writes:
            write_json(self._path, self.to_json())

    def end(self) -> str:
        """Writes all of it, and returns it in words."""
        if not self._is_over:
            self.write(self._step, over=True)
        self._spent["results"] = time.perf_counter() - self._ended
        self.write(self._step)
        saved = self.to_json()
        seconds, total = saved["seconds"], max(saved["total"], 1e-9)
        shares = ", ".join(f"{what} {seconds[kind] / total:.1%}" for kind, what in KINDS.items())
        restarts = len(self._before)
        again = ""
        if restarts:
            again = (
                f"; {restarts} restart{'s' if restarts > 1 else ''}, {duration(saved['repeated'])} of steps repeated"
            )
        return f"the run took {duration(saved['total'])}: {shares}{again}"

    def to_json(self) -> dict[str, Any]:
        """Returns the seconds of all processes by kind, together and of each, and how many steps were repeated."""
        starts = [*self._before, {"first": self._first, "last": self._step, "seconds": self._spent}]
        repeated = 0.0
        kept = starts[-1]["last"]  # steps that no later start made again
        for each in reversed(starts):
            made = each["last"] - each["first"]
            lost = min(max(each["last"] - kept, 0), made)
            repeated += each["seconds"]["steps"] * lost / made if made else 0.0
            kept = min(kept, each["first"])
        seconds = {kind: sum(each["seconds"][kind] for each in starts) for kind in KINDS}
        return {"total": sum(seconds.values()), "repeated": repeated, "seconds": seconds, "starts": starts}
