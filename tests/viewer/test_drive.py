"""Weights over the WebSocket, spoken by hand: who hears them and who may send."""

import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from shown_things import PAGE_PARTS, ask, write_shown_splats

from topohead.viewer.drive import accept_key
from topohead.viewer.scenes import open_scene
from topohead.viewer.server import SceneServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SceneServer]:
    splats = write_shown_splats(tmp_path_factory.mktemp("driven") / "ball.ply")
    server = SceneServer(open_scene(splats), PAGE_PARTS)
    yield server
    server.close()


def knock(server: SceneServer, **headers: str) -> tuple[socket.socket, bytes]:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    lines = {
        "Host": f"127.0.0.1:{server.port}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", **headers,
    }  # fmt: skip
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    request = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection.sendall(f"GET /drive HTTP/1.1\r\n{request}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    return connection, answer


def masked(code: int, payload: bytes) -> bytes:
    mask = os.urandom(4)
    size = (
        bytes([0x80 | len(payload)])
        if len(payload) < 126
        else struct.pack(">BH", 254, len(payload))
    )
    return (
        bytes([0x80 | code]) + size + mask + bytes(b ^ mask[k % 4] for k, b in enumerate(payload))
    )


def received(connection: socket.socket) -> tuple[int, bytes]:
    stream = connection.makefile("rb")
    code, size = stream.read(2)
    if size == 126:
        size = struct.unpack(">H", stream.read(2))[0]
    return code & 15, stream.read(size)


def test_the_key_of_the_standard() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_weights_go_from_one_to_all_others(server: SceneServer) -> None:
    driver, answer = knock(server)
    assert b"101" in answer and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
    pages = [knock(server, Origin=f"http://127.0.0.1:{server.port}")[0] for _ in range(2)]
    for page in pages:  # an answer shows that the server counts it in
        page.sendall(masked(9, b"here"))
        assert received(page) == (10, b"here")
    for size in (52, 60):
        weights = np.random.default_rng(size).random(size).astype("<f4").tobytes()
        driver.sendall(masked(2, weights))
        assert [received(page) for page in pages] == [(2, weights)] * 2
    driver.sendall(masked(2, b"\0" * 4 * 51))
    code, reason = received(driver)
    assert code == 8 and struct.unpack(">H", reason[:2])[0] == 1003
    for connection in (driver, *pages):
        connection.close()


def test_other_sites_may_not_drive(server: SceneServer) -> None:
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}"):
        connection, answer = knock(server, Origin=origin)
        assert b" 403 " in answer
        connection.close()
    assert ask(server, "/drive")[0] == 426
