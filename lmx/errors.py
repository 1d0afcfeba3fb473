"""Decides whose mistake an error is: a user's becomes one line, any other keeps its traceback.

A user's errors are those that our own code found: an `InputError` from anywhere, an error that a `raise` of this
package made, and an error of the system when this package opened a file or imported an optional package. Errors inside
a copied script, or a library that it calls, need the file and the line where they occurred: their traceback.
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
    """The input of a user is not what it must be; reported in one line, wherever it was raised."""


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Adds the name of the file that a block writes to the system's errors; on a full disk, they lack it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def is_users(error: BaseException) -> bool:
    """Returns whether the user can fix an error, so that its message alone is enough."""
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

    If this package refuses something there, it came from that function and not from a user.
    """
    steps = [index for index, frame in enumerate(frames) if frame.f_code.co_filename == _TRAINING]
    return bool(steps) and any(not _is_ours(frame) and not _is_of_a_library(frame) for frame in frames[steps[0] + 1 :])


def _is_raised(trace: TracebackType | None) -> bool:
    """Returns whether the innermost frame was at a `raise`, not at something that failed by itself."""
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
