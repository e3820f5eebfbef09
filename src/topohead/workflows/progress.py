"""How far a workflow is: workflows tell, whoever runs them decides how to show it.

A workflow wraps its loops in `track`; nothing is shown unless a listener was set with `showing`
(the command line sets one). So the same function is quiet when it is called from Python.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Listener(Protocol):
    """Shows loops; they may nest, and the innermost began last."""

    def begin(self, what: str, total: int, done: int) -> None: ...
    def advance(self) -> None: ...
    def end(self) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def showing(listener: Listener) -> Iterator[None]:
    """Sends the progress of everything inside the block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def track(
    items: Iterable[Item], what: str, total: int | None = None, done: int = 0
) -> Iterator[Item]:
    """The items, one step of progress each when the loop's body is through with it.

    `total` counts `done` in, the steps that an earlier call finished; without it, the items must
    have a length.
    """
    if total is None:
        total = done + len(items)  # pyright: ignore[reportArgumentType]
    listener = _listener.get()
    if listener is None:
        yield from items
        return
    listener.begin(what, total, done)
    try:
        for item in items:
            yield item
            listener.advance()
    finally:
        listener.end()
