"""One file from one address over a bad line: it goes on where it broke off, waits and tries again."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, InvalidURL
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from bci_decode import __version__
from bci_decode.errors import BciDecodeError

BLOCK = 1 << 18  # bytes
LONGEST_BACKOFF = 60.0  # s
LONGEST_WAIT = 3600.0  # s; a server that asks for more is given up


class Refused(Exception):
    """An address does not give the file; another one may."""


class _Again(Exception):
    """A try that may go better the next time: `after` s if the server says so, without a range if `whole`."""

    def __init__(self, problem: str, after: float = 0.0, whole: bool = False):
        super().__init__(problem)
        self.after, self.whole = after, whole


@dataclass
class Line:
    """What all transfers of a command share.

    A connection that is silent for `timeout` s is given up; an address after `tries` failures in a row in which the
    file did not grow. `sleep` waits between tries; `stop` ends all transfers; `reached`: has any server answered?
    """

    timeout: float = 30.0
    tries: int = 6
    sleep: Callable[[float], object] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    reached: bool = False


@dataclass
class Transfer:
    """Bytes from `url` to the end of `file`, which lies in `folder`; `size` of the whole where it is known."""

    name: str
    url: str
    file: FileIO
    folder: Path
    size: int | None
    bar: tqdm
    line: Line

    def complete(self) -> bool:
        """Try until the file is as long as it should be; tells whether it may consist of several pieces."""
        furthest, failed, ranged = size_of(self.file), 0, True
        pieces = furthest > 0
        while self.size is None or size_of(self.file) < self.size:
            try:
                self._receive(ranged)
                break
            except _Again as problem:
                # a line that breaks every minute still gets there; a server that always cuts at one place does not
                failed = 1 if size_of(self.file) > furthest else failed + 1
                furthest = max(furthest, size_of(self.file))
                if failed >= self.line.tries or problem.after > LONGEST_WAIT:
                    asked = (
                        f"; it asks to wait {problem.after:.0f} s"
                        if problem.after > LONGEST_WAIT
                        else ""
                    )
                    raise Refused(f"{problem}{asked} (try {failed})") from problem
                pieces, ranged = True, not problem.whole
                self._wait(problem, failed)
        return pieces

    def _wait(self, problem: _Again, failed: int) -> None:
        backoff = min(LONGEST_BACKOFF, 2.0 ** (failed - 1))
        seconds = max(
            problem.after, backoff * random.uniform(0.5, 1)
        )  # at random, so that jobs do not come as one
        tqdm.write(f"{self.name}: {problem}; trying again in {seconds:.1f} s", file=sys.stderr)
        (self.line.sleep or self.line.stop.wait)(seconds)

    def _receive(self, ranged: bool) -> None:
        """One request: append what the file lacks, or take all of it anew where the server knows no ranges."""
        response = self._open(size_of(self.file) if ranged else 0)
        if response is None:
            return
        with response:
            start, total = self._extent(response)
            if start < size_of(self.file):
                self.file.truncate(start)  # only now that something better comes
            self.file.seek(start)
            self.bar.reset(total)
            self.bar.initial = self.bar.n = self.bar.last_print_n = start
            for block in self._blocks(response, math.inf if total is None else total - start):
                view = memoryview(block)
                while view:  # a raw file may take less than it is given
                    view = view[self.file.write(view) :]
                self.bar.update(len(block))
        if total and self.file.tell() < total:
            raise _Again(f"the connection ended at {self.file.tell()} of {total} bytes")

    def _open(self, offset: int) -> HTTPResponse | None:
        """The server's answer; None where it says that nothing comes after `offset`: then the md5 decides."""
        headers = {"User-Agent": f"bci_decode/{__version__}"} | (
            {"Range": f"bytes={offset}-"} if offset else {}
        )
        try:
            response = urlopen(Request(self.url, headers=headers), timeout=self.line.timeout)
            self.line.reached = True
            return response
        except HTTPError as error:
            self.line.reached = True
            error.close()
            if error.code == 416:
                return None
            if error.code in (408, 429) or error.code >= 500:
                raise _Again(
                    f"HTTP {error.code} {error.reason}", after=_retry_after(error.headers)
                ) from error
            raise Refused(f"HTTP {error.code} {error.reason}") from error
        except (ValueError, InvalidURL) as error:
            raise Refused(f"not a usable address ({error})") from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            passing = isinstance(
                cause, (TimeoutError, ConnectionResetError, ssl.SSLError, HTTPException)
            )
            if isinstance(cause, ssl.SSLCertVerificationError) or not (
                passing or self.line.reached
            ):
                # with no network from the start waiting helps nobody; one that goes away is waited for
                raise Refused(
                    f"cannot be reached ({_words(cause)}); is there a network?"
                ) from error
            raise _Again(_words(cause)) from error

    def _extent(self, response: HTTPResponse) -> tuple[int, int | None]:
        """Where in the file an answer begins and how long the whole is, if known; refuses what cannot be it."""
        start, total = 0, response.length
        if response.status == 206:
            start, header = size_of(self.file), response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header.strip())
            if not match or int(match[1]) != start:
                raise _Again(
                    f"asked for bytes from {start}, the server sends {header or 'others'!r}",
                    whole=True,
                )
            total = None if match[2] == "*" else int(match[2])
        if (
            response.headers.get_content_type() == "text/html"
        ):  # of a portal or of maintenance, with status 200
            raise Refused("the server sends a web page, not the file")
        if self.size and total not in (None, self.size):
            raise Refused(f"the server offers {total} bytes, the published file has {self.size}")
        total = total or self.size
        needed, free = (total or 0) - size_of(self.file), shutil.disk_usage(self.folder).free
        if needed > free:
            raise BciDecodeError(
                f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free",
                file=self.folder,
                remedy="make room",
            )
        return start, total

    def _blocks(self, response: HTTPResponse, left: float) -> Iterator[bytes]:
        """What a server sends, `left` bytes at most and no more than it announced."""
        if response.length is not None:  # read1 does not keep to it by itself before Python 3.12
            left = min(left, response.length)
        while left > 0:
            if self.line.stop.is_set():
                raise BciDecodeError("stopped")
            try:  # read1, as read would lose what came of a block before a time-out
                block = response.read1(int(min(BLOCK, left)))
            except (OSError, HTTPException) as error:
                raise _Again(_words(error)) from error
            if not block:
                return
            left -= len(block)
            yield block


def size_of(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 where it does not."""
    value = headers.get("Retry-After", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    return 0.0


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server is silent"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
