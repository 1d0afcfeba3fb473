"""Whose mistake an error is: a user's is told in one line, any other keeps its traceback.

A user's are what our own code has looked at and refused: an `InputError` from anywhere, an error that a `raise` of this
package made, and what the system said when this package opened a file or wanted an optional package. What a copied
script, or a library that it calls, stumbles over needs the file and the line where it did: its traceback.
"""

import contextlib
import dis
import errno
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

# What a file system says when it takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PACKAGE = os.path.join(os.path.dirname(__file__), "")
_TRAINING = os.path.join(os.path.dirname(__file__), "training.py")
_LIBRARIES = tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib")})


class InputError(ValueError):
    """What a user gave is not what it must be: told in one line, wherever it was raised."""


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Gives the system's errors the name of the file that a block writes: of a full disk, it says none by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def is_users(error: BaseException) -> bool:
    """Returns whether an error is a user's to mend, and its message says all there is to know."""
    if isinstance(error, InputError):
        return True
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if not isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        return False
    steps = list(traceback.walk_tb(error.__traceback__))
    if not steps or _is_of_a_loss([frame for frame, _ in steps]):
        return False
    if isinstance(error, (OSError, ImportError)):  # raised by what opens files or imports, deep in the standard library
        steps = [step for step in steps if _is_ours(step[0]) or not _is_of_a_library(step[0])]
        return bool(steps) and _is_ours(steps[-1][0])
    return _is_ours(steps[-1][0]) and _is_raised(error.__traceback__)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)


def _is_of_a_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((*_LIBRARIES, "<frozen"))


def _is_of_a_loss(frames: list[FrameType]) -> bool:
    """Returns whether a training step had called a function that is not ours: a loss, which a researcher has written.

    What this package refuses there was given to it by that function, not by a user.
    """
    steps = [index for index, frame in enumerate(frames) if frame.f_code.co_filename == _TRAINING]
    return bool(steps) and any(not _is_ours(frame) and not _is_of_a_library(frame) for frame in frames[steps[0] + 1 :])


def _is_raised(trace: TracebackType | None) -> bool:
    """Returns whether the innermost frame was at a `raise`, not at something that failed by itself."""
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
