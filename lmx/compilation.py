"""Keeps compiled programs, so that the next run need not compile what this one has compiled.

jax keeps them in a folder, each under a key of the program, its flags, its devices and jax's version. This module
chooses the folder, one for all runs of a user, and tidies it: it removes what a killed process left half written, and,
beyond a limit, the programs unused for longest. Several processes may share the folder at the same time.
"""

import contextlib
import os
import platform
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
from jax.experimental.compilation_cache import compilation_cache

CompileCache = Literal["user", "run", "off"]

LIMIT = 2 * 2**30  # bytes of programs; a training's are below a megabyte on a CPU and some tens of them on a GPU
WRITING = 10.0  # seconds after its last change in which a file may still be being written; jax writes it at once
_CHECKED = ".checked"  # what is older than this file has been looked at


def keep_programs(where: CompileCache, *, directory: Path, writes: bool, report: Callable[[str], object]) -> str:
    """Tells jax where to keep compiled programs; returns where that is, in words. Call it before compiling.

    "user" is a folder that all runs of a user share. JAX_COMPILATION_CACHE_DIR names another. Several
    processes that train together need a folder that all of them see, or one would load what the others compile: they
    take the run's. Programs that half a second compiles are not kept, unless
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says otherwise.

    Args:
        where: "off" keeps none.
        directory: of the run.
        writes: whether this process is the one that writes; the others only read.
        report: takes a line when the user's folder cannot be used and the run's takes its place.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if where == "off":
        _use(None)
        return "off"
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if where == "user" and named:
        _use(named)
        return f"{named} (JAX_COMPILATION_CACHE_DIR)"
    folder = (directory / "compiled").resolve()
    if where == "user" and jax.process_count() == 1:
        try:
            folder = _private(user_folder() / "compiled" / machine_name())
        except (OSError, RuntimeError) as error:
            report(f"compiled programs are kept with the run, not shared: {error}")
    if writes:
        with contextlib.suppress(OSError):  # a folder that cannot be tidied can still be read
            tidy(folder)
    _use(str(folder))
    return str(folder)


def user_folder() -> Path:
    """Returns the folder for files that lmx can make again, by the conventions of the platform.

    Raises:
        RuntimeError: no home is known.
    """
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "lmx" / "Cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # the specification says to ignore a relative one
        return Path(named) / "lmx"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "lmx"


def machine_name() -> str:
    """Returns a name for machines whose processors have the same instructions.

    XLA compiles for the instructions of this processor, and jax's key does not name it: in a home that several kinds of
    machines share, one would load what it cannot execute.
    """
    facts = [platform.processor()]
    with contextlib.suppress(OSError):
        wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part", "CPU variant")
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        facts += [line for line in lines if line.partition(":")[0].strip() in wanted]
    return f"{platform.system()}-{platform.machine()}-{zlib.crc32('|'.join(facts).encode()):08x}".lower()


def tidy(folder: Path, *, limit: int = LIMIT) -> None:
    """Removes programs that were not written to the end, and, beyond the limit, those unused for longest.

    jax writes a program in place. If a program changed a moment ago, nobody can tell whether it is torn or still being
    written, so it stays. Each is read once; one that was found intact is not read again.

    Args:
        limit: most bytes that may stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / _CHECKED
    checked = stamp.stat().st_mtime if stamp.exists() else 0.0
    stamp.touch()
    now = stamp.stat().st_mtime  # of the disk's clock, which may be another machine's
    programs = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            facts = path.stat()
            settled = now - facts.st_mtime > WRITING
            if settled and facts.st_mtime > checked - WRITING and _is_torn(path):
                path.unlink()
            else:
                programs.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    total = sum(size for _, size, _ in programs)
    for _, size, path in sorted(programs):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def _is_torn(path: Path) -> bool:
    """Returns whether a compressed program ends too early or is damaged; jax would warn of it at every start."""
    data = path.read_bytes()
    if data[:1] != b"\x78":  # not zlib: where jax finds another compressor, it is left to jax
        return not data
    decoder = zlib.decompressobj()
    try:
        decoder.decompress(data)
    except zlib.error:
        return True
    return not decoder.eof


def _private(folder: Path) -> Path:
    """Makes a folder that only this user can write to; what lies in it is executed.

    Raises:
        OSError: it cannot be made or written to, or others can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        facts = folder.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise PermissionError(f"{folder} must belong to this user alone, as what lies there is executed.")
    probe = folder / f".{os.getpid()}"
    probe.touch()
    probe.unlink()
    return folder


def _use(folder: str | None) -> None:
    """Sets jax's folder; jax opens the first folder of a process and stays with it unless reset."""
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", folder)
