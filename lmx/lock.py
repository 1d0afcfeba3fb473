"""A lock on a directory: one process at a time writes there, on one machine or on several that share it.

A lock is a file that names its holder. It outlives a killed process, so whoever finds one checks whether its holder
still lives. On its own machine, the system knows. For another machine, the file's date tells, because a living holder
updates it every few seconds. Locks of the file system are not used, because not all shared file systems have them.
"""

import atexit
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "run.lock"
BEAT_SECONDS = 5.0  # after which a holder moves the date of its lock on
# How long the date of a lock of another machine is watched: a shared file system may show it half a minute late.
WATCH_SECONDS = 45.0

_held: dict[Path, dict[str, Any]] = {}
_beating: list[threading.Thread] = []


def take_lock(directory: Path, *, report: Callable[[str], None] = print) -> None:
    """Takes the lock of a directory until this process ends; it may hold it already.

    Args:
        directory: of the lock; it must be there.
        report: called with a line for the user if a lock of another machine must be watched.

    Raises:
        ValueError: another living process holds it.
        OSError: the file cannot be written.
    """
    path = directory.resolve() / NAME
    mine = _myself()
    for _ in range(10):
        try:
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            holder = _read(path)
            if holder is not None and _is_me(holder):
                _hold(path, holder)
                return
            if holder is not None and _lives(path, holder, report=report):
                raise ValueError(
                    f"another process trains this run (host {holder.get('host', 'unknown')}, "
                    f"process {holder.get('process', 'unknown')}), got {directory}. Wait until it ends, or choose "
                    "another --run."
                ) from None
            _remove(path, holder)
            continue
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(mine, file)
        _hold(path, mine)
        return
    raise ValueError(f"{path} must be taken by one process, got several that try at once. Start this one again.")


def release_lock(directory: Path) -> None:
    """Gives the lock of a directory back, if this process holds it."""
    _release(directory.resolve() / NAME)


def _release(path: Path) -> None:
    mine = _held.pop(path, None)
    with contextlib.suppress(OSError):
        if mine is not None and mine["process"] == os.getpid() and _read(path) == mine:  # not of a forked child
            path.unlink()


def _hold(path: Path, mine: dict[str, Any]) -> None:
    _held[path] = mine
    if not _beating:
        _beating.append(threading.Thread(target=_beat, name="lmx-lock", daemon=True))
        _beating[0].start()
        atexit.register(lambda: [_release(held) for held in list(_held)])


def _beat() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        for path in list(_held):
            with contextlib.suppress(OSError):
                os.utime(path)


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "began": _began(os.getpid()),
        "since": time.time(),
    }


def _is_me(holder: Mapping[str, Any]) -> bool:
    mine = _myself()
    return all(holder.get(name) == mine[name] for name in ("host", "process", "machine", "began"))


def _machine() -> str:
    """Returns what tells machines apart whose processes have the same numbers; containers count as machines."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join([socket.gethostname(), *parts])


def _began(process: int) -> str | None:
    """Returns when a process of this machine began, in the system's ticks; another of the same number began later."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """Returns the content of a lock: empty while it is being written, and None if there is no lock."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(path: Path, holder: Mapping[str, Any], *, report: Callable[[str], None]) -> bool:
    process = holder.get("process")
    if holder.get("machine") == _machine() and isinstance(process, int):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's, and alive
        return holder.get("began") in (None, _began(process)) and not _is_zombie(process)
    report(
        f"{path} is of host {holder.get('host', 'unknown')}, process {holder.get('process', 'unknown')}: watching for "
        f"{WATCH_SECONDS:.0f} s whether it still trains"
    )
    first, ends = _date(path), time.monotonic() + WATCH_SECONDS
    while first is not None and time.monotonic() < ends:
        time.sleep(min(1.0, BEAT_SECONDS))
        if _date(path) != first:
            return _date(path) is not None
    return False


def _is_zombie(process: int) -> bool:
    """Returns whether a process has ended and only waits for its parent to notice."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in ("Z", "X")
    return False


def _date(path: Path) -> int | None:
    try:
        with path.open("rb") as file:  # opened, because a shared file system asks its server anew then
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _remove(path: Path, holder: Mapping[str, Any] | None) -> None:
    """Removes a lock whose holder is gone, unless another process has taken its place meanwhile."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != holder:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()
