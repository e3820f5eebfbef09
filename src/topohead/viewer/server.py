"""The page's server: on this machine only, and nothing but what the scene offers."""

import json
import logging
import re
import socket
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

from topohead.core.errors import InputError
from topohead.viewer.bodies import Kept, Scene
from topohead.viewer.drive import Relay, accept_key
from topohead.viewer.pages import Page, served_policy

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a browser on this machine asks; any other came by DNS rebinding."""


@dataclass
class SceneServer:
    """Serves a scene on 127.0.0.1 in a thread of its own, until `close`."""

    scene: Scene
    page: Page
    port: int = 0
    kept: Kept = field(default_factory=Kept)
    relay: Relay = field(default_factory=Relay)

    def __post_init__(self) -> None:
        self._looking = Lock()
        self._http = _Listener((ADDRESS, self.port), _Handler)
        self._http.owner = self
        self.port = self._http.server_address[1]
        self._thread = Thread(target=self._http.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}/"

    def look_again(self) -> None:
        """Takes the scene anew when it has grown."""
        with self._looking:
            scene = self.scene.grown() if self.scene.grown else None
            if scene is not None:
                self.scene = scene
                self.kept.forget()

    def wait(self) -> None:
        """Returns when the server was closed."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # in steps, so that an interrupt comes through

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.relay.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    owner: SceneServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no fault; anything else is, and goes to the log."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a request failed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "topohead", ""
    timeout = 60
    server: _Listener

    def do_GET(self) -> None:
        try:
            self._answer()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_GET

    def _answer(self) -> None:
        owner = self.server.owner
        if _host_name(self.headers.get("Host", "")) not in LOCAL_NAMES:
            return self._refuse(HTTPStatus.FORBIDDEN, "ask for 127.0.0.1 or localhost")
        path = unquote(urlsplit(self.path).path, errors="replace")
        match path.removeprefix("/"):
            case "":
                self._send(owner.page.html.encode(), "text/html; charset=utf-8")
            case "style.css":
                self._send(owner.page.style.encode(), "text/css; charset=utf-8")
            case "page.js":
                script = owner.page.script(owner.scene)
                self._send(script.encode(), "text/javascript; charset=utf-8")
            case "api/scene":
                owner.look_again()
                self._send(json.dumps(owner.scene.document).encode(), "application/json")
            case "drive":
                self._drive()
            case name if name.startswith("data/"):
                self._send_body(name.removeprefix("data/"))
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "no such thing here")

    def _send_body(self, name: str) -> None:
        owner = self.server.owner
        body = owner.scene.body(name)
        if body is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "the scene has no such body")
        try:
            data = owner.kept.get(name, body.read)
        except (InputError, OSError) as error:
            log.warning("%s", error)
            return self._refuse(HTTPStatus.NOT_FOUND, " ".join(str(error).split()))
        self._send(data, body.mime)

    def _send(self, data: bytes, mime: str) -> None:
        span = byte_range(self.headers.get("Range"), len(data))
        if span == "unsatisfiable":
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self._finish(b"", "text/plain")
        elif isinstance(span, range):
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {span.start}-{span.stop - 1}/{len(data)}")
            self._finish(data[span.start : span.stop], mime)
        else:
            self.send_response(HTTPStatus.OK)
            self._finish(data, mime)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.send_response(status)
        self._finish(reason.encode(), "text/plain; charset=utf-8")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of the protocol, such as other methods than GET: plain text, no echo."""
        self.close_connection = True
        self.send_response(code)
        self._finish(HTTPStatus(code).phrase.encode(), "text/plain; charset=utf-8")

    def _finish(self, data: bytes, mime: str) -> None:
        policy = served_policy(self.server.owner.port)
        for name, value in {
            "Content-Type": mime,
            "Content-Length": str(len(data)),
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _drive(self) -> None:
        """Becomes a WebSocket; pages of other origins may not connect."""
        key, origin = self.headers.get("Sec-WebSocket-Key"), self.headers.get("Origin")
        if key is None or "websocket" not in self.headers.get("Upgrade", "").lower():
            return self._refuse(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket: 52 float32")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            return self._refuse(HTTPStatus.FORBIDDEN, "another site's page may not drive this one")
        self.send_response_only(HTTPStatus.SWITCHING_PROTOCOLS)
        for name, value in {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_key(key),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        self.connection.settimeout(None)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.owner.relay.join(self.connection, self.rfile)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def _host_name(host: str) -> str:
    """Of a Host header, without the port."""
    return re.sub(r":\d+$", "", host.strip().lower())


def byte_range(header: str | None, size: int) -> range | str | None:
    """The bytes that a Range header asks for; None for all, "unsatisfiable" when out of reach.

    Several ranges, other units and nonsense mean all, as RFC 9110 allows.
    """
    found = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header or "", re.ASCII)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last so many
        return range(max(size - int(last), 0), size) if int(last) and size else "unsatisfiable"
    start, stop = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    return range(start, stop) if start < size else "unsatisfiable"
