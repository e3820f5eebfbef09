"""`topohead view`: any result in the browser, from this machine alone, or as one offline file."""

import logging
import webbrowser
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from topohead.core.errors import InputError
from topohead.viewer import pages
from topohead.viewer.bodies import Scene
from topohead.viewer.pages import Page

DEFAULT_PORT = 8765
LARGE = 50_000_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewConfig:
    """Open a run, a mesh, a rigged GLB or splats in the browser; nothing leaves this machine.

    Keys: space plays, arrows step, 1 to 5 choose the shading, c looks through a camera, f frames
    the head, u turns the up axis, h shows all keys.
    """

    path: Path
    """A run folder, an avatar's, a mesh (.obj, .ply, .stl, .off), a .glb, or splats (.ply, .spz,
    .splat); Gaussians that a mesh moves (a GLB of `export --splats`, CAP4D's PLY) play."""
    html: Path | None = None
    """Write the page and what it shows as one offline file instead of serving it."""
    frames: int = 60
    """Frames of a sequence that --html keeps, evenly spread."""
    up: Literal["x", "y", "z", "-x", "-y", "-z"] | None = None
    """The axis that points up in a file (default: y, for splats -y); runs know theirs."""
    port: int | None = None
    """Port on 127.0.0.1 (default: 8765, or a free one when that is taken)."""
    browser: bool = True
    """Open the page in the browser."""
    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True)
class OfflinePage:
    """The file that was written."""

    html: Path
    bytes: int

    def summary(self) -> str:
        return f"{self.html} ({self.bytes / 1e6:.1f} MB, opens without a network)"


@runtime_checkable
class Server(Protocol):
    """Something that shows a scene until it is closed."""

    @property
    def url(self) -> str: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...


@dataclass
class Viewing:
    """A page that is being served; `wait` keeps serving until an interrupt."""

    url: str
    server: InitVar[Server]

    def __post_init__(self, server: Server) -> None:
        self._server = server

    def summary(self) -> str:
        return f"{self.url}  (ctrl-c ends it)"

    def wait(self) -> None:
        try:
            self._server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self._server.close()

    def close(self) -> None:
        self._server.close()


def view(config: ViewConfig) -> Viewing | OfflinePage:
    """Serves the page in a thread and returns at once, or writes the offline file."""
    from topohead.viewer.scenes import open_scene

    if config.frames < 1:
        raise InputError(f"--frames {config.frames}: expected at least 1")
    scene = open_scene(Path(config.path), config.up)
    page = pages.built_page()
    if config.html is not None:
        if page is None:
            raise InputError(f"--html {config.html}: {NOT_BUILT}")
        return _write_offline(config.html, page, scene, config.frames)
    if page is None:
        from topohead.viewer.fallback import serve_meshes

        log.warning("%s; viser shows the meshes alone", NOT_BUILT)
        server: Server = serve_meshes(scene, config.port or DEFAULT_PORT)
    else:
        server = _serve(scene, page, config.port)
    if config.browser:
        webbrowser.open(server.url)
    return Viewing(server.url, server)


NOT_BUILT = (
    "this installation has no built page: with Node 20 or newer, run `npm ci && npm run build` in "
    "src/topohead/viewer/page"
)


def _serve(scene: Scene, page: Page, port: int | None) -> Server:
    from topohead.viewer.server import SceneServer

    try:
        return SceneServer(scene, page, DEFAULT_PORT if port is None else port)
    except (OSError, OverflowError) as error:
        if port is None:
            return SceneServer(scene, page)
        raise InputError(f"--port {port} cannot be used ({error}); choose another") from error


def _write_offline(path: Path, page: Page, scene: Scene, frames: int) -> OfflinePage:
    from topohead.io.atomic import write_text

    write_text(path, pages.offline_html(page, scene, frames))
    size = path.stat().st_size
    if size > LARGE:
        log.warning("%s has %.0f MB; fewer --frames make it smaller", path, size / 1e6)
    return OfflinePage(path, size)
