"""A server on this machine that sends whatever bytes a script says, at whatever pace."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

Piece = bytes | float | None  # to send; s to wait; None resets the connection
Answer = Callable[[bytes, int], Iterator[Piece]]  # for the right file, from an offset on

MANY = 200_000  # pieces of an answer that has no end: more than any limit of the tests


class HostileServer:
    """Gives each connection the next answer of `script`; afterwards `body`, as a good server."""

    def __init__(self, body: bytes, tls: ssl.SSLContext | None = None):
        self.body, self.script, self._tls = body, [], tls
        self.asked: list[int] = []  # offsets
        self._release, self._threads = threading.Event(), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> HostileServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(20)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection, suppress(OSError):  # the client is gone
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (received := connection.recv(65536)):
                    return
                request += received
            asked = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", request)
            offset = int(asked[1]) if asked else 0
            self.asked.append(offset)
            answer = self.script.pop(0) if self.script else good
            for piece in answer(self.body, offset):
                if self._release.is_set():
                    return
                if piece is None:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return
                if isinstance(piece, float):
                    self._release.wait(piece)
                else:
                    connection.sendall(piece)


def head(status: str | bytes = "200 OK", **headers: object) -> bytes:
    """The head of an answer; `Content_Length` is the header Content-Length."""
    first = status if isinstance(status, bytes) else status.encode("latin-1")
    lines = [
        name.replace("_", "-").encode()
        + b": "
        + (value if isinstance(value, bytes) else str(value).encode("latin-1"))
        for name, value in headers.items()
    ]
    return b"\r\n".join([b"HTTP/1.1 " + first, *lines, b"", b""])


def good(body: bytes, offset: int) -> Iterator[Piece]:
    """What a right server sends."""
    size = len(body)
    if offset >= size:
        yield head("416 Range Not Satisfiable", Content_Length=0)
    elif offset:
        span = f"bytes {offset}-{size - 1}/{size}"
        yield head("206 Partial", Content_Length=size - offset, Content_Range=span)
    else:
        yield head(Content_Length=size)
    yield body[offset:]


def sends(*pieces: Piece) -> Answer:
    """An answer that does not depend on what was asked."""
    return lambda body, offset: iter(pieces)


def status(line: str | bytes, **headers: object) -> Answer:
    """An answer without content."""
    return sends(head(line, **{"Content_Length": 0} | headers))


def cut(size: int) -> Answer:
    """`size` bytes of the right content, then the end."""

    def answer(body: bytes, offset: int) -> Iterator[Piece]:
        start, content = good(body, offset)
        yield start
        yield content[:size]

    return answer


def endless(first: bytes, again: bytes, pause: float = 0.0) -> Answer:
    """`first`, then `again` without an end."""

    def answer(body: bytes, offset: int) -> Iterator[Piece]:
        yield first
        for _ in range(MANY):
            yield again
            if pause:
                yield pause

    return answer


def chunked(*chunks: bytes) -> Answer:
    """A body in chunks whose framing is written out."""
    return sends(head(Transfer_Encoding="chunked"), *chunks)
