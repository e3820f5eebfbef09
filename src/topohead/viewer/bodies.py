"""What the page may ask for: a document that describes the scene, and bodies by name."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from topohead.core.errors import InputError

BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Body:
    """Bytes and what they are; `read` is called when they are wanted."""

    mime: str
    read: Callable[[], bytes]


@runtime_checkable
class Subject(Protocol):
    """One thing to look at: `document` for the page, and the bodies that it names."""

    @property
    def document(self) -> Mapping[str, Any]: ...
    def body(self, name: Sequence[str]) -> Body | None: ...
    def names(self) -> Sequence[str]:
        """All bodies that the page may ask for at its first size: what an offline file holds."""
        ...

    def reduced(self, frames: int) -> "Subject":
        """The same in at most so many frames, small enough for an offline file."""
        ...


@dataclass(frozen=True)
class Scene:
    """A title and subjects. Body `2/topology` is body `topology` of the third subject.

    Names are looked up, never joined to a path: what no subject offers does not exist. `grown` is
    there while what is shown is still being made: the scene anew, or None when it is as it was.
    """

    title: str
    subjects: tuple[Subject, ...]
    grown: Callable[[], "Scene | None"] | None = None

    @property
    def document(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "subjects": [dict(subject.document) for subject in self.subjects],
            "growing": self.grown is not None,
        }

    def body(self, name: str) -> Body | None:
        first, *rest = name.split("/")
        index = number(first, len(self.subjects))
        return None if index is None else self.subjects[index].body(rest)


def number(text: str, below: int) -> int | None:
    """The whole number that a name's part is, written the one way, when there are that many."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    value = int(text)
    return value if value < below and str(value) == text else None


def file_body(path: Path, mime: str = BINARY) -> Body:
    """A file as it stands."""
    return Body(mime, path.read_bytes)


def require_inside(path: Path, folder: Path) -> Path:
    """The path, unless it is a link that leads out of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} leads out of {folder}; expected a file inside")
    return path


@dataclass
class Kept:
    """The bodies asked for last, up to `limit` bytes; each is made once at a time."""

    limit: int = 256 * 2**20
    _bodies: OrderedDict[str, bytes] = field(default_factory=OrderedDict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def forget(self) -> None:
        """Drops all: the same names mean other bodies now."""
        with self._lock:
            self._bodies.clear()

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if name not in self._bodies:
                self._bodies[name] = make()
            self._bodies.move_to_end(name)
            found = self._bodies[name]
            while len(self._bodies) > 1 and sum(map(len, self._bodies.values())) > self.limit:
                self._bodies.popitem(last=False)
            return found
