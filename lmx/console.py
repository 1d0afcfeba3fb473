"""What is printed: one console, bars of progress, and lengths of time and numbers as people read them."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmx.errors import FULL

UNBOUNDED = 10**6  # columns; what fills a line stays small
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Console(Console):
    """A console that breaks no line, and that a full disk does not stop, where its lines go to a file or a pipe.

    What cannot be written is left out.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows of a terminal; a file and a pipe have no end of a line where a signature could be broken."""
        found = super().size
        return found if self.is_terminal else found._replace(width=UNBOUNDED)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def print(self, *objects: Any, **options: Any) -> None:
        with unless_full():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Goes on in silence when nobody reads any more, as behind `| head`: what is printed is no part of a run."""
        self.quiet = True
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# What is printed may hold a user's words: labels, paths, samples. Brackets in them are no markup, colons no emoji.
console = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def duration(seconds: float) -> str:
    """Returns a length of time as people say it: "48 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def unless_full() -> Iterator[None]:
    """Leaves out what a full disk does not take."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


@contextlib.contextmanager
def progress_bar(text: str, *, total: int | None, console: Console = console) -> Iterator[Callable[[int], None]]:
    """Shows a bar with the time left, on a terminal; what it yields takes how many are done, of a total if known."""
    if not console.is_terminal or console.quiet:
        yield lambda done: None
        return
    # A column reads markup unless it is told not to, whatever the console does.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


def on_one_line(text: str) -> str:
    r"""Returns a user's words as one line of a screen: line ends and other control signs as `\n`, `\t`, `\x1b`."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def readable(value: Any) -> str:
    """Returns a fact of a run as people read it: numbers with commas, shapes as 2x8x40."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return " ".join(
            readable(part) if not isinstance(part, (list, tuple)) else "x".join(map(str, part)) for part in value
        )
    return on_one_line(str(value))
