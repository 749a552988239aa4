"""One file from one address over a bad connection: resume where it broke off, wait, try again."""

from __future__ import annotations

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
from urllib.request import Request

from tqdm import tqdm

from bci_decode import __version__
from bci_decode.data.web import TooSlow, open_url
from bci_decode.errors import BciDecodeError, printable

BLOCK = 1 << 18  # bytes
MAX_BACKOFF = 60.0  # s
MAX_WAIT = 3600.0  # s; a server that asks for more is given up
MAX_TIMEOUT = 3600.0  # s
MAX_WORDS = 200  # characters that a server may add to a message


class _Problem(Exception):
    """What a server did; its own words are made harmless for a terminal."""

    def __init__(self, problem: str):
        text = printable(" ".join(problem.split()))
        super().__init__(text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}...")


class SourceRejected(_Problem):
    """An address does not give the file; another one may."""


class _Retry(_Problem):
    """The next try may succeed: after `after` s if the server says so, from zero if `restart`."""

    def __init__(self, problem: str, after: float = 0.0, restart: bool = False):
        super().__init__(problem)
        self.after, self.restart = after, restart


@dataclass
class TransferPolicy:
    """What all transfers of a command share.

    A connection that is silent for `timeout` s is given up, and so is one that brings fewer than
    `least` bytes in `period` s; an address after `tries` failures in a row in which the file grew
    by less than `least`. A file of unknown size may have `most` bytes; the largest published one
    has 1.96e9. `sleep` waits between tries; `stop` ends all transfers; `reached` says whether any
    server has answered. Raises `BciDecodeError` for a `timeout` that cannot be.
    """

    timeout: float = 30.0
    tries: int = 6
    least: int = 60_000
    period: float = 60.0
    most: int = 2 * 10**9
    sleep: Callable[[float], object] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    reached: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= MAX_TIMEOUT:
            problem = f"is {self.timeout:g} s, must be above 0 and at most {MAX_TIMEOUT:g} s"
            raise BciDecodeError(problem, field="--timeout")


@dataclass
class Transfer:
    """Bytes from `url` to the end of `file`, which is in `folder`; `size` of all if it is known."""

    name: str
    url: str
    file: FileIO
    folder: Path
    size: int | None
    bar: tqdm
    policy: TransferPolicy

    def run(self) -> bool:
        """Try until the file is complete; returns whether it was resumed, here or before."""
        furthest, failed, ranged = size_of(self.file), 0, True
        resumed = furthest > 0
        while self.size is None or size_of(self.file) < self.size:
            try:
                self._receive(ranged)
                break
            except _Retry as problem:
                # A connection that breaks every minute still gets there; a server that always cuts
                # at the same place, or sends a byte now and then, does not.
                if size_of(self.file) >= furthest + self.policy.least:
                    failed, furthest = 0, size_of(self.file)
                failed += 1
                self._wait(problem, failed)
                resumed, ranged = True, not problem.restart
        return resumed

    def _wait(self, problem: _Retry, failed: int) -> None:
        too_long = problem.after > MAX_WAIT
        if failed >= self.policy.tries or too_long:
            asked = f"; it asks to wait {problem.after:.0f} s" if too_long else ""
            raise SourceRejected(f"{problem}{asked} (try {failed})") from problem
        backoff = min(MAX_BACKOFF, 2.0 ** (failed - 1))
        # At random, so that parallel downloads do not return at the same moment.
        seconds = max(problem.after, backoff * random.uniform(0.5, 1))
        tqdm.write(f"{self.name}: {problem}; trying again in {seconds:.1f} s", file=sys.stderr)
        (self.policy.sleep or self.policy.stop.wait)(seconds)

    def _receive(self, ranged: bool) -> None:
        """One request: append what is missing, or fetch all where the server knows no ranges."""
        response = self._open(size_of(self.file) if ranged else 0)
        if response is None:
            return
        with response:
            start, total = self._extent(response)
            if start < size_of(self.file):
                self.file.truncate(start)  # only now, when something better arrives
            self.file.seek(start)
            self.bar.reset(total)
            self.bar.initial = self.bar.n = self.bar.last_print_n = start
            for block in self._blocks(response, self._room(start, total)):
                view = memoryview(block)
                while view:  # a raw file may take less than it is given
                    view = view[self.file.write(view) :]
                self.bar.update(len(block))
        if total is None and self.file.tell() > self.policy.most:
            self.file.truncate(0)  # too long to be a part of the file
            raise SourceRejected(f"the server sends more than {self.policy.most} bytes")
        if total and self.file.tell() < total:
            raise _Retry(f"the connection ended at {self.file.tell()} of {total} bytes")

    def _room(self, start: int, total: int | None) -> int:
        """How many bytes to take after `start`; one too many where nobody knows the size."""
        return (self.policy.most + 1 if total is None else total) - start

    def _open(self, offset: int) -> HTTPResponse | None:
        """The server's answer; None if nothing comes after `offset`: then the md5 decides."""
        policy, headers = self.policy, {"User-Agent": f"bci_decode/{__version__}"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            request = Request(self.url, headers=headers)
            response = open_url(
                request, policy.timeout, policy.least, policy.period, 2 * policy.most
            )
            self.policy.reached = True
            return response
        except HTTPError as error:
            self.policy.reached = True
            error.close()
            if error.code == 416:
                return None
            problem = f"HTTP {error.code} {error.reason}"
            if error.code in (408, 429) or error.code >= 500:
                raise _Retry(problem, after=_retry_after(error.headers)) from error
            raise SourceRejected(problem) from error
        except (ValueError, OverflowError, InvalidURL) as error:  # OverflowError: a port, on macOS
            raise SourceRejected(f"not a usable address ({error})") from error
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            if self._is_permanent(cause):
                problem = f"cannot be reached ({_reason(cause)}); is there a network?"
                raise SourceRejected(problem) from error
            raise _Retry(_reason(cause)) from error

    def _is_permanent(self, cause: object) -> bool:
        """A network that is absent from the start is not waited for; one that goes away is."""
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        temporary = (TimeoutError, TooSlow, ConnectionResetError, ssl.SSLError, HTTPException)
        return not (isinstance(cause, temporary) or self.policy.reached)

    def _extent(self, response: HTTPResponse) -> tuple[int, int | None]:
        """Where in the file an answer begins, and the total length if known; rejects wrong ones."""
        start, total = 0, response.length
        if response.status == 206:
            start, header = size_of(self.file), response.headers.get("Content-Range", "")
            match = re.fullmatch(
                r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", header.strip()
            )
            if not match or int(match[1]) != start:
                problem = f"asked for bytes from {start}, the server sends {header or 'others'!r}"
                raise _Retry(problem, restart=True)
            total = None if match[2] == "*" else int(match[2])
        if response.headers.get_content_type() == "text/html":  # a login or maintenance page
            raise SourceRejected("the server sends a web page, not the file")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise SourceRejected(f"the server sends the file in another form ({encoding})")
        if self.size and total not in (None, self.size):
            problem = f"the server offers {total} bytes, the published file has {self.size}"
            raise SourceRejected(problem)
        total = total or self.size
        if total and total > max(self.policy.most, self.size or 0):
            problem = f"the server offers {total} bytes, a session has {self.policy.most} at most"
            raise SourceRejected(problem)
        needed = (total or 0) - size_of(self.file)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            problem = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            raise BciDecodeError(problem, file=self.folder, remedy="make room")
        return start, total

    def _blocks(self, response: HTTPResponse, left: int) -> Iterator[bytes]:
        """What a server sends, `left` bytes at most and no more than it announced."""
        if response.length is not None:  # before Python 3.12, read1 does not respect it
            left = min(left, response.length)
        while left > 0:
            if self.policy.stop.is_set():
                raise BciDecodeError("stopped")
            try:  # read1: read would lose the part of a block that came before a timeout
                block = response.read1(min(BLOCK, left))
            except (OSError, HTTPException) as error:
                raise _Retry(_reason(error)) from error
            if not block:
                return
            left -= len(block)
            yield block


def size_of(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 if it does not ask."""
    value = headers.get("Retry-After", "")
    seconds = 0.0
    try:
        seconds = float(value)
    except ValueError:
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            date = parsedate_to_datetime(value)
            seconds = (date - datetime.now(timezone.utc)).total_seconds()
    return min(max(0.0, seconds), 1e9)  # NaN becomes 0


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server is silent"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
