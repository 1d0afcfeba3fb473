"""Texts as ids by all cores: in this process where they are few, in processes of their own where they are many.

Here a text is a string and its ids are those of its tokenizer, alone; what ends a row, and which rows there are, is
`lmx.data.encoded`'s. The processes import this module, `lmx.text` and NumPy alone: they share nothing with the program
that started them, no jax, no main module, no locks, and end when it does.
"""

import collections
import contextlib
import itertools
import json
import os
import queue
import struct
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from lmx.errors import naming
from lmx.text import Tokenizer, load_tokenizer

# Texts encoded at once, and characters after which a chunk is full before that.
CHUNK_TEXTS = 2048
CHUNK_CHARACTERS = 1 << 19
# So many are encoded before a process is started: they take less time than its start.
FEW_TEXTS = 20_000
FEW_CHARACTERS = 2_000_000

# Of some texts, one after another, and how many each has. Sides of a pair have their own numbers of ids.
Ids = tuple[Int32[np.ndarray, " _"], Int64[np.ndarray, " _"]]
_HEADER = struct.Struct("<qq")  # number of texts (-1: the tokenizer raised) and of ids


def count_cores() -> int:
    """Returns how many cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> Ids:
    """Returns the ids of all texts one after another, and how many each has."""
    flat, lengths = array("i"), np.zeros(len(texts), dtype=np.int64)
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text)
        flat.extend(ids)
        lengths[number] = len(ids)
    return np.array(flat, dtype=np.int32), lengths


def saved_tokenizer(tokenizer: Tokenizer) -> bytes:
    """Returns all that makes a tokenizer what it is."""
    with tempfile.TemporaryDirectory(prefix="lmx-") as folder, naming(folder):
        path = tokenizer.save(Path(folder) / f"tokenizer{tokenizer.suffix}")
        return tokenizer.suffix.encode() + b"\0" + path.read_bytes()


def chunks_of(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[list[str], ...]]:
    """Yields rows of a few sides in chunks of bounded size, each a list for every side."""
    chunk: list[tuple[str, ...]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(map(len, row))
        if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield tuple(map(list, zip(*chunk, strict=True)))
            chunk, characters = [], 0
    if chunk:
        yield tuple(map(list, zip(*chunk, strict=True)))


def encode_chunks(
    chunks: Iterable[tuple[list[str], ...]],
    tokenizers: Sequence[Tokenizer],
    *,
    num_processes: int | None = None,
    few: int = FEW_TEXTS,
) -> Iterator[tuple[Ids, ...]]:
    """Yields the ids of each chunk, in order: the same whatever the number of processes.

    Args:
        chunks: of texts, a list for each side; few of them are in memory at a time.
        tokenizers: of the sides.
        num_processes: at most; None starts one for each core. 1 starts none.
        few: texts that are encoded here before others are started.
    """
    chunks = iter(chunks)
    number = count_cores() if num_processes is None else num_processes
    seen = characters = 0
    for chunk in chunks:
        yield _encode(chunk, tokenizers)
        seen += sum(map(len, chunk))
        characters += sum(len(text) for texts in chunk for text in texts)
        if number > 1 and (seen >= few or characters >= FEW_CHARACTERS):
            break
    first = next(chunks, None)
    if first is not None:
        with contextlib.closing(_encode_elsewhere(itertools.chain([first], chunks), tokenizers, number)) as rest:
            yield from rest


def _encode(chunk: tuple[list[str], ...], tokenizers: Sequence[Tokenizer]) -> tuple[Ids, ...]:
    return tuple(encode_texts(texts, tokenizer) for texts, tokenizer in zip(chunk, tokenizers, strict=True))


def _encode_elsewhere(
    chunks: Iterator[tuple[list[str], ...]], tokenizers: Sequence[Tokenizer], number: int
) -> Generator[tuple[Ids, ...], None, None]:
    """Yields the ids of chunks, in order, that processes make of them; each has a thread here, which waits for it."""
    with tempfile.TemporaryDirectory(prefix="lmx-") as folder, contextlib.ExitStack() as stack:
        files = [
            tokenizer.save(Path(folder) / f"{side}{tokenizer.suffix}") for side, tokenizer in enumerate(tokenizers)
        ]
        idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for _ in range(number):
            idle.put(stack.enter_context(contextlib.closing(_Process(files))))

        def encode(chunk: tuple[list[str], ...]) -> tuple[Ids, ...]:
            process = idle.get()
            try:
                return tuple(
                    process.encode(texts, side=side) or encode_texts(texts, tokenizers[side])
                    for side, texts in enumerate(chunk)
                )
            finally:
                idle.put(process)

        threads = ThreadPoolExecutor(number, thread_name_prefix="lmx-encode")
        stack.callback(threads.shutdown, cancel_futures=True)
        running: collections.deque[Future[tuple[Ids, ...]]] = collections.deque()
        for chunk in chunks:
            running.append(threads.submit(encode, chunk))
            if len(running) > 2 * number:  # what is read ahead of its use is bounded
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class _Process:
    """A process that runs `serve`."""

    def __init__(self, files: Sequence[Path]):
        # Found as this module was; -P keeps the folder that the user is in out of its imports.
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from lmx.data.encoding import serve; serve()", *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def encode(self, texts: Sequence[str], *, side: int) -> Ids | None:
        """Returns the ids of texts, or None where the tokenizer raised: this process will see how.

        Raises:
            ChildProcessError: the process has ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # JSON, whose strings hold no line end and any character.
            process.stdin.write(json.dumps([side, texts]).encode() + b"\n")
            process.stdin.flush()
            count, size = _HEADER.unpack(process.stdout.read(_HEADER.size))
            if count < 0:
                return None
            lengths = np.frombuffer(process.stdout.read(8 * count), dtype="<i8")
            return np.frombuffer(process.stdout.read(4 * size), dtype="<i4"), lengths
        except (BrokenPipeError, struct.error, ValueError):
            raise ChildProcessError(
                f"a process that encodes text must go on to its end, got one that ended with status {process.wait()}. "
                "Where memory is short, start on fewer cores (taskset)."
            ) from None

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait()


def serve() -> None:
    """Encodes what comes on standard input by the tokenizers of the command line; runs in a process of its own."""
    import signal

    # An interrupt goes to all processes of a terminal; this one ends when its input does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizers = [load_tokenizer(file) for file in sys.argv[1:]]
    # What a library prints must not come between.
    out: Any = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        side, texts = json.loads(line)
        try:
            ids, lengths = encode_texts(texts, tokenizers[side])
        except Exception:  # whatever it is, it is raised where it is seen
            out.write(_HEADER.pack(-1, 0))
        else:
            out.write(_HEADER.pack(len(lengths), len(ids)))
            out.write(lengths.astype("<i8").tobytes() + ids.astype("<i4").tobytes())
        out.flush()
