"""Items that a background thread makes ahead of their use."""

import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """An iterator whose items a background thread makes ahead of their use; made by `prefetch`.

    The thread ends when the items do, when `make` raises (the exception comes out of the iterator, in its place), on
    `close`, at the end of a `with` block, and when the iterator is dropped.

    Attributes:
        waited: Seconds that the consumer has waited for items so far.
    """

    def __init__(self, make: Callable[[int], T], start: int, stop: int, *, depth: int) -> None:
        """Starts the thread."""
        self.waited = 0.0
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._slots = threading.Semaphore(depth)
        self._stopped = threading.Event()
        self._ended = False
        # The thread must not refer to this object, or dropping the iterator would not end it.
        arguments = (make, range(start, stop), self._ready, self._slots, self._stopped)
        self._thread = threading.Thread(target=_produce, args=arguments, name="lmx-prefetch", daemon=True)
        self._finalizer = weakref.finalize(self, _end_thread, self._thread, self._slots, self._stopped)
        self._thread.start()

    def __iter__(self) -> "Prefetch[T]":
        """Returns itself."""
        return self

    def __next__(self) -> T:
        """Returns the next item, waiting for it if it is not ready."""
        if self._ended:
            raise StopIteration
        began = time.perf_counter()
        item, error = self._ready.get()
        self.waited += time.perf_counter() - began
        if error is not None:
            self.close()
            raise error
        self._slots.release()
        return item

    def close(self) -> None:
        """Ends the thread, after the item it is making; the iterator then has no more items."""
        self._ended = True
        self._finalizer()

    def __enter__(self) -> "Prefetch[T]":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the thread."""
        self.close()


def prefetch(make: Callable[[int], T], start: int, stop: int, *, depth: int = 2) -> Prefetch[T]:
    """Returns `make(start)`, ..., `make(stop - 1)`, made by one background thread up to `depth` items ahead of use.

    `make` may also place a batch on devices, by shardings that it names: a mesh in force around the caller is not in
    force in the thread. The order is that of the numbers, so nothing depends on timing.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got depth={depth}.")
    return Prefetch(make, start, stop, depth=depth)


def _produce(
    make: Callable[[int], Any],
    numbers: range,
    ready: "queue.SimpleQueue[tuple[Any, BaseException | None]]",
    slots: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        for number in numbers:
            slots.acquire()
            if stopped.is_set():
                return
            ready.put((make(number), None))
    except StopIteration as error:
        # Passed on as it is, it would end the consumer's loop early and in silence.
        ready.put(
            (None, RuntimeError("make must return an item, got StopIteration.").with_traceback(error.__traceback__))
        )
    except BaseException as error:  # Whatever it is, it is the consumer's.
        ready.put((None, error))
    else:
        ready.put((None, StopIteration()))


def _end_thread(thread: threading.Thread, slots: threading.Semaphore, stopped: threading.Event) -> None:
    stopped.set()
    slots.release()
    if thread is not threading.current_thread():
        thread.join()
