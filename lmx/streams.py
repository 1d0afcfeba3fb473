"""Where a command reads lines and writes them: standard input and output, files, pipes."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from rich.console import Console

from lmx.console import progress_bar
from lmx.errors import naming
from lmx.lines import one_line


def check_streams(input: Path | None, output: Path | None, *, way_in: str = "Name a file with --input.") -> None:
    """Checks that standard input and output are open where they are used.

    Args:
        way_in: how else the command takes what it reads.

    Raises:
        ValueError: one is closed, as by `<&-`.
    """
    if input in (None, Path("-")) and sys.stdin is None:
        raise ValueError(f"standard input must be open, got a closed one. {way_in}")
    if output is None and sys.stdout is None:
        raise ValueError("standard output must be open, got a closed one. Name a file with --output.")


def check_output() -> None:
    """Checks that standard output is open where scores go nowhere else.

    Raises:
        ValueError: it is closed, as by `>&-`.
    """
    if sys.stdout is None:
        raise ValueError("standard output must be open, got a closed one: that is where the scores are printed.")


def check_written(output: Path, *, input: Path | None) -> None:
    """Checks that a file can be written, before the work; one that is there keeps its content.

    Raises:
        OSError: it cannot be written.
        ValueError: it is the file that is read.
    """
    if input and output.exists() and input.exists() and os.path.samefile(output, input):
        raise ValueError(f"output must be another file than the input, got {output} for both.")
    output.open("ab").close()


class Written:
    """Where lines are written: a file or, without one, standard output; what is written stays, whatever comes after.

    That it can be written is found at once, before the work; a file that is there keeps its lines until the first new
    ones are known.

    Raises:
        OSError: it cannot be written.
        ValueError: it is the file that is read.
    """

    def __init__(self, output: Path | None, *, input: Path | None):
        self._output, self._file = output, sys.stdout
        self._name = output or "standard output"
        if output:
            check_written(output, input=input)
        else:
            cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", newline="\n")

    def __enter__(self) -> "Written":
        return self

    def write(self, lines: Iterable[str]) -> None:
        """Writes lines, down to the file."""
        if self._output and self._file is sys.stdout:
            self._file = self._output.open("w", encoding="utf-8", newline="\n")
        with naming(self._name):
            self._file.writelines(f"{one_line(line)}\n" for line in lines)
            self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.write([])  # of nothing, an empty file
        if self._file is not sys.stdout:
            with naming(self._name):
                self._file.close()


class Share:
    """Shows how much of a file is done, in percent of its bytes: the number of its lines is not known in advance."""

    def __init__(self, show: Callable[[int], None], size: int):
        self._show, self._size = show, size
        self._read = self._done = 0

    def position(self, bytes_read: int) -> None:
        """Takes the number of bytes read so far."""
        self._read = bytes_read

    def within(self, number: int) -> Callable[[int], None]:
        """Returns a function that takes how many of the last `number` lines are done."""
        begin, self._done = self._done, self._read
        end = self._done
        return lambda done: self._show(100 * (begin + (end - begin) * done // number) // self._size)


@contextlib.contextmanager
def shown_share(text: str, path: Path | None) -> Iterator[Share]:
    """Shows the progress through a file on a terminal; nothing for a pipe, whose end is unknown."""
    size = 0
    with contextlib.suppress(OSError, AttributeError):  # standard input may be closed, or no file
        status = os.fstat(sys.stdin.fileno()) if path in (None, Path("-")) else path.stat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    if not size:
        yield Share(lambda percent: None, 1)
        return
    with progress_bar(f"{text}, percent", total=100, console=Console(stderr=True, markup=False, emoji=False)) as show:
        yield Share(show, size)
