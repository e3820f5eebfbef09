"""Live weights: a WebSocket (RFC 6455) whose messages of 52 floats go on to every open page."""

import base64
import hashlib
import logging
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedIOBase
from threading import Lock

log = logging.getLogger(__name__)

MESSAGE_SIZES = (4 * 52, 4 * 60)
"""float32: 52 ARKit weights; or time, 52 weights, head rotation wxyz and position."""

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_UNSUPPORTED = 1003
_PATIENCE_S = 1.0


def accept_key(key: str) -> str:
    """The answer to a client's Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()


@dataclass
class Relay:
    """Everyone who is connected hears what any other one sends."""

    _members: dict[socket.socket, Lock] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def join(self, connection: socket.socket, stream: BufferedIOBase) -> None:
        """Serves one member until it leaves."""
        with self._lock:
            self._members[connection] = Lock()
        try:
            self._serve(connection, stream)
        except (OSError, EOFError, ValueError) as error:
            log.debug("a driver left: %s", error)
        finally:
            with self._lock:
                self._members.pop(connection, None)

    def close(self) -> None:
        with self._lock:
            members = list(self._members)
        for connection in members:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, stream: BufferedIOBase) -> None:
        while True:
            code, message = _read_frame(stream)
            if code == _CLOSE:
                self._send(connection, _CLOSE, message[:2])
                return
            if code == _PING:
                self._send(connection, _PONG, message)
            elif code == _BINARY and len(message) in MESSAGE_SIZES:
                self._pass_on(connection, message)
            elif code != _PONG:
                reason = b"expected 52 or 60 float32 in a binary message"
                self._send(connection, _CLOSE, struct.pack(">H", _UNSUPPORTED) + reason)
                return

    def _pass_on(self, sender: socket.socket, message: bytes) -> None:
        with self._lock:
            others = [member for member in self._members if member is not sender]
        for member in others:
            try:
                self._send(member, _BINARY, message)
            except OSError:  # it does not read: a live page must not wait for a sleeping one
                with suppress(OSError):
                    member.shutdown(socket.SHUT_RDWR)

    def _send(self, member: socket.socket, code: int, message: bytes) -> None:
        """One unfragmented frame; a member that takes none for a second counts as gone."""
        lock = self._members.get(member)
        if lock is None:
            return
        size = len(message)
        length = bytes([size]) if size < 126 else struct.pack(">BH", 126, size)
        with lock:
            seconds = struct.pack("ll", int(_PATIENCE_S), 0)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
            member.sendall(bytes([0x80 | code]) + length + message)


def _read_frame(stream: BufferedIOBase) -> tuple[int, bytes]:
    """Opcode and unmasked payload of the next frame of a client."""
    first, second = _exactly(stream, 2)
    size = second & 0x7F
    if size == 126:
        size = struct.unpack(">H", _exactly(stream, 2))[0]
    if not first & 0x80 or first & 0x70 or not second & 0x80 or size > max(MESSAGE_SIZES):
        raise ValueError("expected a whole, masked, short frame")
    mask = _exactly(stream, 4)
    payload = _exactly(stream, size)
    return first & 0x0F, bytes(byte ^ mask[k % 4] for k, byte in enumerate(payload))


def _exactly(stream: BufferedIOBase, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the connection ended")
    return data
