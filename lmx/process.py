"""This process: its memory, its signals, its age, and how it ends on an error that the user can fix."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lmx.console import console
from lmx.errors import is_users

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on a signal, to be started again by the same command

_IMPORTED = time.perf_counter()
Error = TypeVar("Error", bound=BaseException)


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step instead of handing it back; returns whether it was told.

    A step on the CPU allocates and frees hundreds of megabytes. If they go back to the system, each step maps and
    zeroes them again page by page, which costs about a tenth of the time. Work before the first program, such as
    reading text, still gives its memory back. So does each compilation, which takes a hundred megabytes.

    Call it before jax starts its threads. There are two arenas, because with one the compiler's threads wait for each
    other. On a CPU, the calling thread runs the step itself, because the arena of another thread maps every large
    buffer again, whatever its settings. A user's GLIBC_TUNABLES take precedence.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return False
    import jax  # here: commands that compute nothing should not wait for it

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # malloc.h: M_ARENA_MAX (-8), and later M_MMAP_MAX (-4), M_TRIM_THRESHOLD (-1, where -1 is never), M_TOP_PAD (-2).
    later = ((-4, 0), (-1, -1), (-2, 256 * 2**20))
    kept = False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):  # another C library
        return False

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal kept
        if event != "/jax/core/compile/backend_compile_duration":
            return
        if not kept:
            kept = all(libc.mallopt(name, value) == 1 for name, value in later)
        if duration_secs > 0.2:  # a small program is not worth the pages that the next step maps anew
            libc.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    return libc.mallopt(-8, 2) == 1  # 1 says that it was set


def make_deterministic() -> None:
    """Makes a GPU give the same bits for the same program, at the cost of some speed; call it before jax starts.

    The CPU does so anyway, and nothing changes there.
    """
    flag = "--xla_gpu_deterministic_ops=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def seconds_since_start() -> float:
    """Returns the age of this process in seconds, or, if the system does not know it, since this module's import."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return time.perf_counter() - _IMPORTED


def of_signal(error: Error, number: int) -> Error:
    """Returns an exception for the handler of a signal to raise; if Python ignores it, the signal comes again.

    Python ignores what is raised in a callback of the garbage collector or of a weak reference, and in `__del__`. A
    handler may run inside one of them, and the signal would be lost.
    """
    error.__dict__["number_of_signal"] = number
    if not isinstance(sys.unraisablehook, _SignalAgain):
        sys.unraisablehook = _SignalAgain(sys.unraisablehook)
    return error


class _SignalAgain:
    """Sends the signal of an exception that Python has ignored once more; reports others as before."""

    def __init__(self, other: Callable[[Any], Any]):
        self._other = other

    def __call__(self, unraisable: Any) -> None:
        number = getattr(unraisable.exc_value, "number_of_signal", None)
        if number is None:
            self._other(unraisable)
        else:  # a little later: this still runs where exceptions are ignored
            threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, number)).start()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ends the process on SIGTERM or SIGINT with a line and the status that asks for a restart.

    For the time before and after the training loop, where there is nothing to save; the loop has its own handlers.
    """
    said: list[int] = []

    def stop(number: int, _: Any) -> None:
        if not said:
            console.print(f"stopped by {signal.Signals(number).name}; the same command continues")
        said.append(number)
        raise of_signal(SystemExit(EXIT_STOPPED), number)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors that the user can fix into one line and exit status 2; other errors keep their traceback.

    `lmx.errors` decides which is which. With LMX_TRACEBACK set, all errors keep their traceback.
    """
    try:
        yield
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("LMX_TRACEBACK") or not is_users(error):
            raise
        hosts = sys.modules.get("lmx.hosts")  # not loaded: there are none
        label = hosts.label() if hosts else ""
        print(f"{label}error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        raise SystemExit(130) from None
