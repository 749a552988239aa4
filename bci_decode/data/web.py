"""Open an address of a server that may do anything: a least speed, a ceiling, few redirects."""

from __future__ import annotations

from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    AbstractHTTPHandler,
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

REDIRECTS = 5
MAX_HEADERS = 1 << 20  # bytes of a connection before its body
TARGETS = {"http": ("http", "https"), "https": ("https",)}  # where a redirect may lead


class TooSlow(OSError):
    """A connection brings less than it must."""


def open_url(
    request: Request, timeout: float, least: int, period: float, most: int
) -> HTTPResponse:
    """The answer to an http or https request, as `urlopen` gives it.

    From then on, and before, reading raises `TooSlow` where `period` s of waiting bring fewer than
    `least` bytes, and `HTTPException` after `most` bytes in all. Proxies of the environment are
    used. Raises what `urlopen` raises; `HTTPError` also for a redirect that is not followed.
    """
    opener = OpenerDirector()
    respond = partial(_Response, least=least, period=period)
    handlers: list[BaseHandler] = [
        ProxyHandler(),
        _Connections(respond),
        _Redirects(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
    ]
    for handler in handlers:  # none for ftp, file and data, which `urlopen` has
        opener.add_handler(handler)
    response: HTTPResponse | None = opener.open(request, timeout=timeout)
    if response is None:
        raise ValueError(f"{request.type} is neither http nor https")
    if isinstance(response, _Response):
        response.paced.most = most
    return response


class _Paced(RawIOBase):
    """The bytes of a connection, all that a server sends, watched as they come."""

    def __init__(self, raw: Any, least: int, period: float):
        self._raw, self._least, self._period = raw, least, period
        self._waited, self._came, self._all = 0.0, 0, 0
        self.most = MAX_HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._all > self.most:
            raise HTTPException(f"the server sends more than {self.most} bytes")
        # Waiting alone counts: a slow disk, or a computer that sleeps, is not the server's fault.
        if self._waited >= self._period:
            if self._came < self._least:
                raise TooSlow(f"only {self._came} bytes came in {self._waited:.1f} s")
            self._waited, self._came = 0.0, 0
        begin = monotonic()
        received: int | None = self._raw.readinto(buffer)
        self._waited += monotonic() - begin
        self._came += received or 0
        self._all += received or 0
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *arguments: Any, least: int, period: float, **options: Any):
        super().__init__(*arguments, **options)
        self.paced = _Paced(self.fp.detach(), least, period)  # nothing is read so far
        self.fp = BufferedReader(self.paced)


class _Connections(AbstractHTTPHandler):
    """Connects for http and https, and reads what comes as a `_Response`."""

    def __init__(self, respond: Any):
        super().__init__()
        self._respond = respond

    def _connect(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = self._respond
        return connection

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPConnection), request)  # type: ignore[arg-type]

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPSConnection), request)  # type: ignore[arg-type]

    http_request = https_request = AbstractHTTPHandler.do_request_


class _Redirects(HTTPRedirectHandler):
    """Follows `REDIRECTS` redirects at most, and none that gives up encryption."""

    max_redirections = REDIRECTS

    def http_error_302(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any
    ) -> HTTPResponse | None:
        fp.close()  # or its body is read to the end, which may never come
        return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[return-value]

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in TARGETS[req.type]:
            problem = f"{msg} to {scheme}, which is not followed from {req.type}"
            raise HTTPError(req.full_url, code, problem, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
