"""A page of a run while it lasts: cameras, mesh, pictures, curves, and a button that ends it.

The run hands over what it has (`workflows.progress.Sight`), which costs it nothing but a lock; a
thread draws the latest of it, only while somebody looks, and rests a hundred times as long as its
drawing kept a processor busy. What goes wrong here is logged, once, and never reaches the run.
"""

import importlib
import importlib.util
import logging
import time
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from topohead.core import InputError
from topohead.workflows.progress import Sight

if TYPE_CHECKING:
    from topohead.viewer.dashboard_page import DashboardPage

DEFAULT_PORT = 8766
ADDRESS = "127.0.0.1"
REST = 100.0
"""Seconds of rest for a second of drawing: at most 1 % of a processor."""
LONGEST_REST_S = 60.0
log = logging.getLogger(__name__)


@dataclass
class Loop:
    """A loop that runs, and since when it does in this call."""

    what: str
    total: int
    done: int
    began: float = field(default_factory=time.monotonic)
    steps: int = 0

    def line(self) -> str:
        """How far it is and how long it may take, in a line."""
        text = f"{self.what}: {self.done} of {self.total}"
        if not self.steps:
            return text
        each = (time.monotonic() - self.began) / self.steps
        left = each * (self.total - self.done)
        return f"{text}, {each:.2f} s each" + (f", about {left:.0f} s left" if left else "")


@dataclass
class Known:
    """What was handed over: running loops, every curve, the latest of all else.

    `sight` has no pictures: they may be large, so they wait in `pictures`, with their step, only
    until they are drawn.
    """

    loops: list[Loop] = field(default_factory=list)
    curves: dict[str, dict[str, float]] = field(default_factory=dict)
    sight: Sight = field(default_factory=Sight)
    pictures: Sight | None = None
    sights: int = 0

    def take(self, sight: Sight) -> None:
        """Adds a sight; what it leaves out stays."""
        self.sights += 1
        for name, value in sight.values.items():
            self.curves.setdefault(name, {})[sight.step] = value
        if sight.images:
            self.pictures = Sight(sight.step, images=sight.images)
        last = self.sight
        self.sight = Sight(
            sight.step or last.step,
            meshes=sight.meshes or last.meshes,
            # a mesh that comes without a texture is shown without
            texture=sight.texture if sight.meshes else last.texture,
            cameras=last.cameras if sight.cameras is None else sight.cameras,
            upright=last.upright if sight.upright is None else sight.upright,
        )


class Dashboard:
    """A `workflows.progress.Watcher` on a viser page at 127.0.0.1, until `close`.

    A wanted `port` that is taken is no reason to fail: another one is used, see `url`. Raises an
    `InputError` where viser is not installed.
    """

    def __init__(self, title: str, port: int | None = None) -> None:
        if importlib.util.find_spec("viser") is None:
            raise InputError("--dashboard needs viser: `pip install 'topohead[viewer]'`")
        page = importlib.import_module("topohead.viewer.dashboard_page")
        self.stopping = False
        self._known, self._lock = Known(), Lock()
        self._done = Event()
        self._page: DashboardPage = page.DashboardPage(
            title, DEFAULT_PORT if port is None else port, self._stop
        )
        self._thread = Thread(target=self._draw_on, name="dashboard", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self._page.port}/"

    @property
    def port(self) -> int:
        return self._page.port

    def begin(self, what: str, total: int, done: int) -> None:
        with self._lock:
            self._known.loops.append(Loop(what, total, done))

    def advance(self) -> None:
        with self._lock:
            loop = self._known.loops[-1]
            loop.done, loop.steps = loop.done + 1, loop.steps + 1

    def end(self) -> None:
        with self._lock:
            self._known.loops.pop()

    def show(self, sight: Sight) -> None:
        with self._lock:
            self._known.take(sight)

    def close(self, last_words: str = "") -> None:
        """Ends the page; who still looks reads `last_words`."""
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join(5.0)
        try:
            self._page.close(last_words)
        except Exception:  # a page that does not close is no fault of the run's
            log.debug("the dashboard did not close", exc_info=True)

    def _stop(self) -> None:
        self.stopping = True

    def _draw_on(self) -> None:
        """The thread: words every second, all else when it has rested."""
        drawn, next_drawing = 0, 0.0
        while not self._done.wait(0.5 if drawn == 0 else 1.0):
            if not self._page.watched:
                continue
            try:
                self._page.tell(*self._words())
                if self._known.sights != drawn and time.monotonic() >= next_drawing:
                    began = time.thread_time()
                    drawn = self._draw()
                    spent = time.thread_time() - began
                    next_drawing = time.monotonic() + min(spent * REST, LONGEST_REST_S)
            except Exception:
                log.warning("the dashboard has failed; the run goes on without", exc_info=True)
                return

    def _words(self) -> tuple[list[str], float, bool]:
        with self._lock:
            loops = self._known.loops
            return [loop.line() for loop in loops], _share(loops), self.stopping

    def _draw(self) -> int:
        """Draws what is known; gives the number of sights in it."""
        with self._lock:
            known = self._known
            sights, sight, pictures, known.pictures = (
                known.sights,
                known.sight,
                known.pictures,
                None,
            )
            curves = {name: tuple(points.items()) for name, points in known.curves.items()}
        self._page.draw_scene(sight)
        if pictures is not None:
            self._page.draw_pictures(pictures)
        for name, points in curves.items():
            self._page.draw_curve(name, points)
        return sights


def _share(loops: list[Loop]) -> float:
    """How much of the outermost loop is done."""
    return loops[0].done / loops[0].total if loops and loops[0].total else 0.0
