"""A viser server for this machine alone, and quiet."""

import contextlib
import functools
import io
import logging
import socket
from collections.abc import Iterator

import viser
import websockets.asyncio.server

from topohead.core import InputError

ADDRESS = "127.0.0.1"
log = logging.getLogger(__name__)


def local_server(title: str, port: int) -> viser.ViserServer:
    """A server on 127.0.0.1 at this port, or at a free one after a line that says so."""
    port = _free_port(port)
    with _quiet(), _no_foreign_pages(port):
        server = viser.ViserServer(ADDRESS, port, label=f"{title} · topohead", verbose=False)
    # "share" would open a tunnel to another host
    server.gui.configure_theme(
        control_layout="fixed", control_width="large", show_logo=False, show_share_button=False
    )
    server.gui.set_panel_label(title)
    server.scene.set_up_direction("+y")
    return server


def stop(server: viser.ViserServer) -> None:
    """Ends the server."""
    with _quiet():
        server.stop()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((ADDRESS, port))
                return int(probe.getsockname()[1])
        except (OSError, OverflowError) as error:
            log.warning("port %d cannot be used (%s); another is taken", port, error)
    raise InputError(f"no port is free on {ADDRESS}")


@contextlib.contextmanager
def _no_foreign_pages(port: int) -> Iterator[None]:
    """A server that is made in this block refuses WebSockets of other sites' pages.

    viser takes anybody's, so that any page in the same browser could watch a run and stop it; its
    WebSocket library checks origins when it is told to.
    """
    serve = websockets.asyncio.server.serve
    own = [f"http://{name}:{port}" for name in (ADDRESS, "localhost")]
    websockets.asyncio.server.serve = functools.partial(serve, origins=own)  # pyright: ignore
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """viser prints its address to stdout, which belongs to results."""
    return contextlib.redirect_stdout(io.StringIO())
