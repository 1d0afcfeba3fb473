"""Where a command reads lines and writes them: standard input and output, files, pipes."""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from lmx.errors import naming
from lmx.lines import one_line


def check_streams(input: Path | None, output: Path | None) -> None:
    """Checks that standard input and output are open where they are used.

    Raises:
        ValueError: one is closed, as by `<&-`.
    """
    if input in (None, Path("-")) and sys.stdin is None:
        raise ValueError("standard input must be open, got a closed one. Name a file with --input.")
    if output is None and sys.stdout is None:
        raise ValueError("standard output must be open, got a closed one. Name a file with --output.")


def check_output() -> None:
    """Checks that standard output is open where scores go nowhere else.

    Raises:
        ValueError: it is closed, as by `>&-`.
    """
    if sys.stdout is None:
        raise ValueError("standard output must be open, got a closed one: that is where the scores are printed.")


class Written:
    """Where lines are written: a file or, without one, standard output; what is written stays, whatever comes after.

    That it can be written is found at once, before the work; a file that is there keeps its lines until the first new
    ones are known.

    Raises:
        OSError: it cannot be written.
        ValueError: it is the file that is read.
    """

    def __init__(self, output: Path | None, *, input: Path | None):
        if output and input and output.exists() and input.exists() and os.path.samefile(output, input):
            raise ValueError(f"output must be another file than the input, got {output} for both.")
        self._output, self._file = output, sys.stdout
        self._name = output or "standard output"
        if output:
            output.open("a", encoding="utf-8").close()
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
