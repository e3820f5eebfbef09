"""Progress of long verbs: a bar with an estimate on a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast, runtime_checkable

from topohead.workflows.progress import Listener

LINE_EVERY_S = 10.0
"""Plain lines go to log files: seldom enough to read, often enough to see life."""


@runtime_checkable
class Stream(Protocol):
    """What is needed of stdout and stderr."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


def listener_for(terminal: Stream, lines: Stream | None) -> Listener:
    """A bar when `terminal` is one; else lines into `lines`, or silence when that is None."""
    if terminal.isatty():
        return Bars(terminal)
    return Lines(lines)


class Bars:
    """A rich bar for each running loop."""

    def __init__(self, terminal: Stream) -> None:
        self._terminal = terminal
        self._progress: Any = None
        self._tasks: list[Any] = []

    def begin(self, what: str, total: int, done: int) -> None:
        from rich import progress
        from rich.console import Console

        if self._progress is None:
            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                console=Console(file=cast(IO[str], self._terminal)),
            )
            self._progress.start()
        self._tasks.append(self._progress.add_task(what, total=total, completed=done))

    def advance(self) -> None:
        self._progress.advance(self._tasks[-1])

    def end(self) -> None:
        self._tasks.pop()
        if not self._tasks:
            self._progress.stop()
            self._progress = None


@dataclass
class _Loop:
    what: str
    total: int
    done: int
    began: float
    steps: int = 0
    told: float = float("-inf")


class Lines:
    """A line now and then: what, how far, how long a step takes, how long it may still take."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._loops: list[_Loop] = []

    def begin(self, what: str, total: int, done: int) -> None:
        self._loops.append(_Loop(what, total, done, time.monotonic()))

    def advance(self) -> None:
        loop, now = self._loops[-1], time.monotonic()
        loop.done, loop.steps = loop.done + 1, loop.steps + 1
        finished = loop.done >= loop.total
        if self._stream is None or (now - loop.told < LINE_EVERY_S and not finished):
            return
        loop.told = now
        each = (now - loop.began) / loop.steps
        left = "" if finished else f", about {each * (loop.total - loop.done):.0f} s left"
        print(
            f"{loop.what}: {loop.done} of {loop.total}, {each:.2f} s each{left}",
            file=self._stream,
            flush=True,
        )

    def end(self) -> None:
        self._loops.pop()
