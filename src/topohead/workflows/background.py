"""Reading ahead and writing behind: what disks and decoders do while a solver works.

Order is kept in both directions, an error reaches whoever asked, and nothing runs on once the block
is left.
"""

import ctypes
import logging
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

import cv2

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_SWITCH_SECONDS = 2e-4

Item = TypeVar("Item")
Made = TypeVar("Made")
Arguments = ParamSpec("Arguments")


def prepare_for_readers() -> None:
    """Makes a process fit for many threads that each decode pictures, for as long as it lives.

    OpenCV's own threads would only take the cores from one another. A solver gives up Python's lock
    with every piece of work that it hands to a device; it is to wait less than the usual 5 ms until
    a reader or writer gives the lock back. And glibc is to keep what is
    freed (another C library is left alone): else every picture is memory fresh from the kernel,
    which zeroes it page by page while the other readers wait.
    """
    cv2.setNumThreads(1)
    sys.setswitchinterval(_SWITCH_SECONDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)


def ahead(
    make: Callable[[Item], Made], items: Iterable[Item], waiting: int = 2, threads: int = 1
) -> Generator[Made]:
    """`make` of each item in turn, made by threads up to `waiting` items before it is wanted.

    What `make` raises is raised in its item's turn. Closing the generator, or leaving it by an
    error, waits for the items in work and forgets those that have not begun.
    """
    thread = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    made: deque[Future[Made]] = deque()
    try:
        for item in items:
            made.append(thread.submit(make, item))
            if len(made) > waiting:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


class Behind:
    """Calls that one thread makes in their order while the caller goes on; use it in a `with`.

    At most `waiting` of them wait: `do` blocks until there is room. Leaving the block waits for all
    calls, also when an error (or Ctrl-C) leaves it, so what was handed over is done. When a call
    fails, those after it are left out and its error is raised by the next `do` or on leaving.
    """

    def __init__(self, waiting: int = 3) -> None:
        self._waiting = waiting
        self._calls: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._failure: BaseException | None = None

    def __enter__(self) -> "Behind":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._settle(0)
        elif self._failure is not None and error is not self._failure:
            log.error("writing failed as well: %s", self._failure)

    def do(
        self,
        call: Callable[Arguments, object],
        *args: Arguments.args,
        **options: Arguments.kwargs,
    ) -> None:
        """Hands a call over; its answer is dropped."""
        self._settle(self._waiting)
        self._calls.append(self._thread.submit(self._run, lambda: call(*args, **options)))

    def wait(self) -> None:
        """Returns when all that was handed over is done."""
        self._settle(0)

    def _settle(self, left: int) -> None:
        """Raises what calls have raised; waits until at most `left` are unfinished."""
        while self._calls and (len(self._calls) > left or self._calls[0].done()):
            self._calls.popleft().result()

    def _run(self, call: Callable[[], object]) -> None:
        if self._failure is not None:
            return
        try:
            call()
        except BaseException as error:
            self._failure = error
            raise
