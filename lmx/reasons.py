"""Why something was not saved, in few words; what Orbax says of it itself is kept off the screen."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from lmx.errors import FULL


def reason_of(error: BaseException) -> str:
    """Returns why, in few words: of a full disk what the system says, of the rest the message on one line."""
    text = " ".join(str(error).split())
    return next((said for said in map(os.strerror, FULL) if said in text), text[:200] or type(error).__name__)


def quiet_orbax() -> None:
    """Keeps Orbax's own accounts of a failure off the screen: it raises them as well, and they are reported once.

    With LMX_TRACEBACK set, all is shown.
    """
    if os.environ.get("LMX_TRACEBACK"):
        return
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _not_of_orbax not in logger.filters:
            logger.addFilter(_not_of_orbax)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    trace = record.exc_info[2] if record.exc_info else None
    files = [record.pathname, *(frame.filename for frame in traceback.extract_tb(trace))]
    return not any(_is_orbax(file) for file in files)


def _is_orbax(file: str) -> bool:
    return f"{os.sep}orbax{os.sep}" in file


class _Unraisable:
    """Passes over complaints of Orbax's reads and writes that nobody waits for any more: another one has failed."""

    def __init__(self, other: Callable[[Any], Any]):
        self._other = other

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        abandoned = code is not None and _is_orbax(code.co_filename)
        # TensorStore's threads, which have no name for what they were doing, report to the loop of that save.
        late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not abandoned and not late:
            self._other(unraisable)
