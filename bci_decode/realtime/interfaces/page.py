"""A live page in the browser (extra `live`): decoded movement, spikes and latency.

A thread serves one static page and, over a WebSocket, up to 30 frames per second to each browser.
Decoding waits for none of them: a frame that a browser has no room for is dropped for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import socket
import threading
from collections import deque
from contextlib import suppress
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit
from weakref import WeakSet

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Decoded
from bci_decode.realtime.interfaces.unit_labels import unit_labels
from bci_decode.style import DECODED, PARTS, TRUE

log = logging.getLogger(__name__)

RATE = 30  # frames per second at most
BINS = 64  # bins in a frame at most; the page leaves out what came before them
WAITING = 4  # frames that may wait for a browser
OPENING = 1.0  # s in which a browser has to say what it wants
CONNECTIONS = 64  # at the same time; more are refused, so that files can still be opened
MESSAGE = 1024  # bytes of what a browser may send at most; the page sends nothing
STREAM = "/stream"
SECURITY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'"
)


class PageSink:
    """Sink: shows decoded bins at `url`.

    It can be seen from this computer alone unless `host` is another address. Whoever reaches that
    address can then watch: there is no password. Pages of other sites are refused. `deadline` is in
    s after a bin's end, None without one. Raises `BciDecodeError` where the port is in use; port 0
    takes any free one.
    """

    def __init__(
        self,
        decoder: Any,
        host: str = "127.0.0.1",
        port: int = 8765,
        deadline: float | Literal["bin width"] | None = "bin width",
    ):
        self._serve, self._connection, self._closed = _library()
        self._socket = _listen(host, port)
        self._hosts = {host.lower(), "localhost", socket.gethostname().lower()}
        bound, self.port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{bound}]' if ':' in bound else bound}:{self.port}/"
        if not ipaddress.ip_address(bound).is_loopback:
            log.warning("%s: everyone who reaches this address can watch the decoder", self.url)
        self._hello = json.dumps(
            _hello(decoder, decoder.bin_width if deadline == "bin width" else deadline)
        )
        self._page = files(__package__).joinpath("page.html").read_bytes()
        self._new: deque[Decoded] = deque(maxlen=BINS)
        self._missed = 0
        self._browsers: dict[Any, asyncio.Queue[str | None]] = {}
        self._connections: WeakSet[Any] = WeakSet()  # also those that have sent nothing yet
        self._loop, self._started = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def watched(self) -> bool:
        """Whether any browser is connected."""
        return bool(self._browsers)

    def write(self, decoded: Decoded) -> None:
        """Let the next frame show a bin; returns at once."""
        self._missed += decoded.missed
        self._new.append(decoded)

    def close(self) -> None:
        """Stop the server."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve_until_stopped())
        finally:
            self._loop.close()
            self._started.set()

    async def _serve_until_stopped(self) -> None:
        self._stop = asyncio.Event()
        quiet = logging.getLogger(f"{__name__}.connections")
        quiet.setLevel(logging.CRITICAL)  # a browser that goes away is no event
        server = self._serve(
            self._send_frames,
            sock=self._socket,
            process_request=self._answer,
            create_connection=self._connect,
            compression=None,
            open_timeout=OPENING,
            max_size=MESSAGE,
            max_queue=1,
            logger=quiet,
        )
        async with server:
            self._started.set()
            sending = asyncio.create_task(self._make_frames())
            await self._stop.wait()
            sending.cancel()
            # one that hangs, or has not said what it wants, would delay the end
            for connection in list(self._connections):
                if hasattr(connection, "transport"):
                    connection.transport.abort()

    def _connect(self, *arguments: Any, **options: Any) -> Any:
        transports = [getattr(connection, "transport", None) for connection in self._connections]
        if sum(one is not None and not one.is_closing() for one in transports) >= CONNECTIONS:
            return _Refused()
        connection = self._connection(*arguments, **options)
        self._connections.add(connection)
        return connection

    async def _make_frames(self) -> None:
        """Make a frame of what is new, and let those browsers have it that keep up."""
        while True:
            await asyncio.sleep(1 / RATE)
            if not (self._browsers and self._new):
                continue
            bins = [self._new.popleft() for _ in range(len(self._new))]
            frame = json.dumps({"missed": self._missed, "bins": [_shown(bin_) for bin_ in bins]})
            for frames in self._browsers.values():
                if not frames.full():
                    frames.put_nowait(frame)

    async def _send_frames(self, connection: Any) -> None:
        """Serve one browser until it goes: what never changes, then frames."""
        frames: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        closed = asyncio.create_task(self._until_closed(connection))
        # wakes the loop below; where the queue is full, `send` is what fails
        closed.add_done_callback(lambda _: None if frames.full() else frames.put_nowait(None))
        with suppress(self._closed):
            await connection.send(self._hello)
            self._browsers[connection] = frames
            while (frame := await frames.get()) is not None:
                await connection.send(frame)
        self._browsers.pop(connection, None)

    async def _until_closed(self, connection: Any) -> None:
        """Wait for the end of a connection, which is near if it sends anything: no page does."""
        with suppress(self._closed):
            await connection.recv()
            await connection.close(1008, "nothing is taken here")

    def _answer(self, connection: Any, request: Any) -> Any:
        """The page for "/"; None, which opens the WebSocket, for the stream.

        A page of another site must not read the stream: a browser names that site as Origin or,
        where its name was made to point to this computer, as Host.
        """
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self._is_ours(host) or origin not in (None, f"http://{host}"):
            return connection.respond(403, "This page is for visitors of its own address only.\n")
        path = urlsplit(request.path).path
        if path == STREAM:
            return None
        if path != "/":
            return connection.respond(404, "There is only one page: /\n")
        response = connection.respond(200, "")
        for name in ("Content-Type", "Content-Length"):
            del response.headers[name]
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        response.headers["Content-Length"] = str(len(self._page))
        response.headers["Content-Security-Policy"] = SECURITY
        response.headers["Cache-Control"] = "no-store"
        response.body = self._page
        return response

    def _is_ours(self, host: str) -> bool:
        """Whether a Host is an address, or a name that nobody else can point to this computer."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:  # an open bracket
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


class _Refused(asyncio.Protocol):
    """Hangs up at once."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()


def _library() -> tuple[Any, Any, type[Exception]]:
    try:
        from websockets.asyncio.server import ServerConnection, serve
        from websockets.exceptions import ConnectionClosed
    except ImportError as error:
        raise BciDecodeError(
            "the live page needs websockets", remedy="pip install 'bci_decode[live]'"
        ) from error
    return serve, ServerConnection, ConnectionClosed


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise BciDecodeError(f"is {port}", field="--page", remedy="give a port from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno or 0) if known else str(error.strerror).split(" (")[0]
        raise BciDecodeError(
            f"cannot serve the live page there ({why})",
            field=f"{host}:{port}",
            remedy="choose another port with --page PORT, or another address with --host",
        ) from error


def _hello(decoder: Any, deadline: float | None) -> dict[str, Any]:
    """What never changes: what is decoded from what, and its colors."""
    return {
        "axes": list(decoder.axes),
        "target": decoder.target,
        "unit": decoder.unit,
        "binWidth": decoder.bin_width,
        "deadline": deadline,
        "lag": decoder.lag,
        "units": unit_labels(decoder.units),
        "areas": [str(area) for area in decoder.units["area"]],
        "colors": {
            "decoded": DECODED["color"],
            "true": f"hsl(0 0% {100 * float(TRUE['color']):g}%)",  # a gray of matplotlib
            "missed": PARTS["test"]["color"],
        },
    }


def _shown(decoded: Decoded) -> dict[str, Any]:
    """A bin as the page gets it; `spikes` are pairs of a unit's column and its count."""
    bin_ = decoded.bin
    columns = np.flatnonzero(bin_.counts)
    spikes = np.stack([columns, bin_.counts[columns]], 1)
    return {
        "index": bin_.index,
        "time": round(bin_.time, 4),
        "decoded": _numbers(decoded.output),
        "true": None if bin_.true is None else _numbers(np.asarray(bin_.true)),
        "latency": round(1000 * decoded.latency, 4),
        "missed": bool(decoded.missed),
        "jumped": bool(bin_.jumped),
        "spikes": spikes.tolist(),
    }


def _numbers(values: np.ndarray) -> list[float] | None:
    """Values to a thousandth; None if any is not finite, for which JSON has no word."""
    return values.round(3).tolist() if np.isfinite(values).all() else None
