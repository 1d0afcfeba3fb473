"""What is made of text once and kept: memory-mapped arrays on disk, found again by what they were made of.

An *entry* is a folder of raw little-endian arrays with `manifest.json`: what they were made of, counts, sizes and
checksums. Its name is the hash of what it was made of, so that another text, tokenizer or filter is another
entry and nothing that a run has mapped is ever written again. An entry is made beside its place and gets its name when
it is whole: a writer that is killed, or that races another one, leaves nothing that could be taken for it. A lock makes
the processes that want one entry wait for the first of them; where a file system has no locks, each makes it, and one
of the equal entries stays. What the arrays mean is their owners', `lmx.data.encoded` and `lmx.data.labelled`.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
FORMAT = 3
# A file that was written so short a time before may be written again without another time stamp.
SETTLED_NS = 2_000_000_000
_BLOCK = 1 << 22

# Shows a bar: given its text and the total, what it yields takes how much is done.
Progress = Callable[..., contextlib.AbstractContextManager[Callable[[int], None]]]


class NotKept(OSError):
    """The disk does not take an entry."""


@dataclass(frozen=True)
class Entry:
    """An entry that is whole.

    Attributes:
        arrays: by name, mapped: what nobody looks at is not in memory.
        notes: what its maker said of it.
        digest: of all that is in it; equal entries have equal ones on every machine.
    """

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]
    digest: str


# Fills an entry and returns its notes.
Make = Callable[["ArrayWriter"], dict[str, Any]]


class ArrayWriter:
    """Writes the arrays of an entry piece by piece, so that no array is ever whole in memory."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._sizes: dict[str, int] = {}

    def append(self, name: str, values: np.ndarray) -> None:
        """Adds values behind those that an array of one axis has; the first ones decide its type.

        Raises:
            NotKept: the disk does not take them.
        """
        dtype = self._dtypes.setdefault(name, values.dtype.newbyteorder("<"))
        with _kept():
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = (self._folder / f"{name}.bin").open("wb")
            file.write(np.ascontiguousarray(values, dtype=dtype).data)
        self._sizes[name] = self._sizes.get(name, 0) + values.size

    def close(self) -> dict[str, list[Any]]:
        """Ends all files, and returns type and size of each array by name."""
        with _kept():
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
        return {name: [self._dtypes[name].str, size] for name, size in self._sizes.items()}


class Cache:
    """A folder of entries, which runs and processes share.

    Args:
        folder: made when something is kept; None keeps nothing: entries are made anew by each who asks, and mapped too.
        report: takes a line for the user.
        progress: shows how far something is; it is called with a text and `total=`.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        report: Callable[[str], None] = lambda line: None,
        progress: Progress = lambda text, *, total: contextlib.nullcontext(lambda done: None),
    ):
        self.folder = folder
        self.report, self.progress = report, progress

    def keep(
        self,
        facts: Mapping[str, Any],
        make: Make,
        *,
        about: str,
        doing: str = "encoded",
        says_why: bool = True,
    ) -> Entry:
        """Returns the entry that is made of these facts, and makes it if there is none.

        Args:
            facts: all that decides what `make` makes, as JSON has it.
            make: fills the arrays, and returns notes.
            about: what the entry is of, for messages and to say what differs from the last one of it.
            doing: what is done with it, for messages.
            says_why: whether a line says what differs, where the entry is not the first of its kind.
        """
        told: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **facts}))
        if self.folder is not None:
            try:
                return self._keep(self.folder, told, make, about=about, doing=doing, says_why=says_why)
            except NotKept as error:
                self.report(f"{about} is {doing} for this start alone: {error}")
        with tempfile.TemporaryDirectory(prefix="lmx-") as name:
            # What is mapped stays readable when its name is gone.
            return self._make(Path(name), told, make)

    def digest_of_file(self, path: Path) -> str:
        """Returns a hash of a file's content; the file is read only if it is not as it was when it was last hashed."""
        return self.digest_of_files([(path, 0, None)])

    def digest_of_files(self, ranges: Sequence[tuple[Path, int, int | None]]) -> str:
        """Returns a hash of what is in ranges of some files, which are read only if a file is not as it was.

        Args:
            ranges: file, first byte, and the byte after the last one; None for the end of the file.
        """
        if self.folder is None:
            return _digest(*ranges)
        memos = self.folder / "files"
        places = [[str(path.resolve()), begin, end] for path, begin, end in ranges]
        about = str(ranges[0][0]) if len(ranges) == 1 else f"{ranges[0][0]} and {len(ranges) - 1:,} more"
        key = places[0][0] if places == [[places[0][0], 0, None]] else places
        memo = memos / f"{digest_of(key)}.json"
        try:
            with _kept():
                memos.mkdir(parents=True, exist_ok=True)
            with self._locked(memo.with_suffix(".lock"), waiting=f"{about} is hashed"):
                states = [_state(path) for path, _, _ in ranges]
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    known = json.loads(memo.read_text(encoding="utf-8"))
                    if known["states"] == states:
                        return str(known["digest"])
                digest = _digest(*ranges)
                settled = time.time_ns() - max(max(state[1:3]) for state in states) > SETTLED_NS
                if settled and [_state(path) for path, _, _ in ranges] == states:
                    _write_json(memo, {"files": about, "states": states, "digest": digest})
                return digest
        except NotKept:
            return _digest(*ranges)

    def _keep(self, root: Path, facts: dict[str, Any], make: Make, *, about: str, doing: str, says_why: bool) -> Entry:
        key = digest_of(facts)
        path = root / key
        if (entry := self._open(path, says_why=False)) is not None:
            return entry
        with _kept():
            root.mkdir(parents=True, exist_ok=True)
        with self._locked(root / f"{key}.lock", waiting=f"{about} is {doing}") as alone:
            if (entry := self._open(path)) is not None:
                return entry
            for left in root.glob(f"{key}.*.partial") if alone else ():  # of writers that were killed
                shutil.rmtree(left, ignore_errors=True)
            recent = (
                root / "recent" / f"{digest_of([facts['what'], facts.get('part'), str(Path(about).resolve())])}.json"
            )
            if says_why:
                self._say_why(facts, recent, about=about, doing=doing)
            partial = root / f"{key}.{uuid.uuid4().hex}.partial"
            with _kept():
                partial.mkdir()
            try:
                self._make(partial, facts, make)
                # Where there are no locks another one may have been quicker: its entry is the same.
                if (entry := self._open(path, says_why=False)) is None:
                    with _kept(), contextlib.suppress(FileExistsError):
                        shutil.rmtree(path, ignore_errors=True)  # damaged
                        _rename(partial, path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            if says_why:
                with contextlib.suppress(NotKept):
                    _write_json(recent, facts)
        if (entry := self._open(path)) is None:
            raise NotKept(f"{path} could not be read back")
        return entry

    def _make(self, folder: Path, facts: dict[str, Any], make: Make) -> Entry:
        writer = ArrayWriter(folder)
        try:
            notes = make(writer)
        except BaseException:
            with contextlib.suppress(NotKept):
                writer.close()
            raise
        arrays = writer.close()
        files = {}
        for file in sorted(folder.iterdir()):
            state = file.stat()
            files[file.name] = [state.st_size, state.st_mtime_ns, _digest((file, 0, None))]
        manifest = {"made_of": facts, "arrays": arrays, "files": files, "notes": notes}
        _write_json(folder / MANIFEST, manifest)
        return _mapped(folder, manifest)

    def _open(self, path: Path, *, says_why: bool = True) -> Entry | None:
        """Returns an entry if it is whole; reports what is wrong with a damaged one."""
        if not path.is_dir():
            return None
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            for name, (size, mtime_ns, digest) in manifest["files"].items():
                state = (path / name).stat()
                if state.st_size != size:
                    raise ValueError(f"{name} has {state.st_size:,} bytes of {size:,}")
                # Not as it was left: perhaps copied, perhaps changed.
                if state.st_mtime_ns != mtime_ns and _digest((path / name, 0, None)) != digest:
                    raise ValueError(f"{name} is not as it was written")
            return _mapped(path, manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if says_why:
                self.report(f"{path} is damaged and made anew: {error}")
            return None

    def _say_why(self, facts: dict[str, Any], recent: Path, *, about: str, doing: str) -> None:
        """Reports what differs from the last entry that was made of the same, if there was one."""
        before: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(recent.read_text(encoding="utf-8"))
        changed = [name for name, value in facts.items() if before and before.get(name) != value]
        if changed:
            self.report(f"{about} is {doing} anew: {', '.join(changed)} changed since the last time")

    @contextlib.contextmanager
    def _locked(self, path: Path, *, waiting: str) -> Iterator[bool]:
        """Runs a block while no other process does; yields whether that is so, which not every file system can do."""
        with contextlib.ExitStack() as stack:
            try:
                import fcntl

                file = stack.enter_context(path.open("a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self.report(f"{waiting} by another process, which is waited for")
                    fcntl.flock(file, fcntl.LOCK_EX)
                alone = True
            except (ImportError, OSError):
                alone = False
            yield alone


def open_cache(
    where: str,
    *,
    report: Callable[[str], None],
    progress: Progress = lambda text, *, total: contextlib.nullcontext(lambda done: None),
) -> Cache:
    """Returns the cache that a config names: "user", "off", or a folder."""
    if where == "off":
        return Cache(None, report=report, progress=progress)
    return Cache(user_cache() if where == "user" else Path(where), report=report, progress=progress)


def user_cache() -> Path | None:
    """Returns the folder for text in the user's cache folder (`XDG_CACHE_HOME`, else ~/.cache), if there is a home."""
    with contextlib.suppress(RuntimeError):
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "lmx" / "text"
    return None


def digest_of(value: Any) -> str:
    """Returns a hash of a value that JSON can hold."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


def _digest(*ranges: tuple[Path, int, int | None]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, begin, end in ranges:
        left = (1 << 62) if end is None else end - begin
        with path.open("rb") as file:
            file.seek(begin)
            while block := file.read(min(_BLOCK, left)):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _state(path: Path) -> list[int]:
    """Returns what changes when a file is written: a copy that keeps its dates still has another ctime."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _mapped(folder: Path, manifest: dict[str, Any]) -> Entry:
    arrays = {}
    for name, (dtype, size) in manifest["arrays"].items():
        file = folder / f"{name}.bin"
        # Of nothing there is no map.
        arrays[name] = np.memmap(file, dtype, "r", shape=(size,)).view(np.ndarray) if size else np.empty(0, dtype)
    digest = digest_of({name: digest for name, (_, _, digest) in manifest["files"].items()})
    return Entry(arrays, manifest["notes"], digest)


def _rename(old: Path, new: Path) -> None:
    """Gives a folder its name.

    Raises:
        FileExistsError: there is a folder of that name with something in it.
    """
    try:
        old.rename(new)
    except OSError as error:  # ENOTEMPTY or EEXIST, by the file system
        if new.is_dir():
            raise FileExistsError(str(new)) from error
        raise


def _write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
        NotKept: the disk does not take it.
    """
    with _kept():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Turns what the disk says into `NotKept`, so that it is not taken for an error of the text that is read."""
    try:
        yield
    except NotKept:
        raise
    except OSError as error:
        raise NotKept(f"{error.filename or 'the cache'} cannot be written ({error.strerror or error})") from error
