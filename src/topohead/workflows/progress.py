"""How far a workflow is and what it makes: workflows tell, who runs them decides how to show it.

A workflow wraps its loops in `track` and hands over what there is to see with `show`; nothing is
shown unless listeners were set with `showing` (the command line sets them). So the same function is
quiet when it is called from Python. A listener that has a person in front of it may also ask for an
end: `track` then raises `Stopped` between two steps, which workflows bear as they bear Ctrl-C.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Mesh

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sight:
    """What there is to see after a step; what is left out stays as it was.

    `values` are one more point of each named curve ("residual, %"); a step seen before replaces its
    point. `meshes` and `cameras` are in one world that `upright` turns y up. `texture` is srgb, of
    the meshes it comes with, which share its UVs. `images` are srgb, floats in [0, 1] or 8-bit
    codes, of any size and device; they are read later, so do not write into them.
    """

    step: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    meshes: Mapping[str, Mesh] = field(default_factory=dict)
    texture: Float[Tensor, "S S 3"] | None = None
    images: Mapping[str, Tensor] = field(default_factory=dict)
    cameras: Cameras | None = None
    upright: Float[Tensor, "4 4"] | None = None


@runtime_checkable
class Listener(Protocol):
    """Shows loops; they may nest, and the innermost began last."""

    def begin(self, what: str, total: int, done: int) -> None: ...
    def advance(self) -> None: ...
    def end(self) -> None: ...


@runtime_checkable
class Watcher(Listener, Protocol):
    """A listener that also shows what is made; `stopping` once its user wants the run to end.

    `show` must return at once: it is called between the steps of a solver.
    """

    stopping: bool

    def show(self, sight: Sight) -> None: ...


class Stopped(KeyboardInterrupt):
    """A watcher's user wants the end: to a workflow the same as Ctrl-C, but between steps."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def showing(*listeners: Listener) -> Iterator[None]:
    """Sends the progress and the sights of everything inside the block to these listeners."""
    token = _listeners.set(listeners)
    try:
        yield
    finally:
        _listeners.reset(token)


def watched() -> bool:
    """Whether `show` reaches anybody: what is costly to make for it alone need not be made else."""
    return any(isinstance(listener, Watcher) for listener in _listeners.get())


def show(sight: Sight) -> None:
    """Hands over what there is to see."""
    for listener in _listeners.get():
        if isinstance(listener, Watcher):
            listener.show(sight)


def stopping() -> bool:
    """Whether a watcher's user wants the end."""
    return any(isinstance(one, Watcher) and one.stopping for one in _listeners.get())


def stop_if_asked() -> None:
    """Raises `Stopped` once a watcher's user wants the end; for loops that wait without `track`."""
    if stopping():
        raise Stopped


def track(
    items: Iterable[Item], what: str, total: int | None = None, done: int = 0
) -> Iterator[Item]:
    """The items, one step of progress each when the loop's body is through with it.

    `total` counts `done` in, the steps that an earlier call finished; without it, the items must
    have a length. Raises `Stopped` between steps when that was asked for, never after the last:
    what a loop has made in full is kept.
    """
    if total is None:
        total = done + len(items)  # pyright: ignore[reportArgumentType]
    listeners = _listeners.get()
    if not listeners:
        yield from items
        return
    for listener in listeners:
        listener.begin(what, total, done)
    try:
        if done < total:
            stop_if_asked()
        for item in items:
            yield item
            done += 1
            for listener in listeners:
                listener.advance()
            if done < total:
                stop_if_asked()
    finally:
        for listener in listeners:
            listener.end()
