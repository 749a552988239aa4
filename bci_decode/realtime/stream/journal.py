"""A journal on disk: a live stream appends to it while it runs, and it survives a kill."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bci_decode.config import TARGETS
from bci_decode.data.grid import MIN_WIDTH
from bci_decode.data.recording_variables import MAX_CELLS
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_regular

MAGIC = b"bci_decode journal 1\n"
EVENTS, BIN = b"E", b"B"  # kinds of records
HEAD = struct.Struct("<cI")  # of a record: its kind, and the bytes that follow
EVENT = np.dtype([("time", "<f8"), ("column", "<i4")])
MAX_SECONDS = 1000.0  # of a bin or a lag
EVERY = 1.0  # s after which what was written is handed to the system


class Journal:
    """Appends records of events and bins; a killed process loses its last second at most."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._flushed = perf_counter()
        if not _is_sound(header):  # now, not when all is recorded
            problem = "no recording can hold these units, bins, lag or target"
            raise BciDecodeError(problem, file=path, remedy="leave out --record")
        try:
            self._file = path.open("xb")
            self._file.write(MAGIC + json.dumps(header).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(path, error) from error

    def events(self, times: np.ndarray, columns: np.ndarray) -> None:
        """Append events, times (E,) in s and columns (E,)."""
        events = np.empty(len(times), EVENT)
        events["time"], events["column"] = times, columns
        self._append(EVENTS, events.tobytes())

    def bin(self, *numbers: np.ndarray) -> None:
        """Append the numbers of a bin."""
        self._append(BIN, np.concatenate(numbers).astype("<f8").tobytes())

    def _append(self, kind: bytes, content: bytes) -> None:
        try:
            self._file.write(HEAD.pack(kind, len(content)) + content)
            now = perf_counter()
            if now > self._flushed + EVERY:
                self._file.flush()
                self._flushed = now
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Hand everything to the system."""
        try:
            self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from error


def read_journal(path: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Header, events (of dtype `EVENT`) and bins (T, columns) of a journal.

    A record that a kill cut short is left out, with all that follows; so is a damaged one.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = memoryview(file.read())
    head = bytes(content[: 1 << 20]).split(b"\n", 2)
    if bytes(content[: len(MAGIC)]) != MAGIC or len(head) < 3:
        raise BciDecodeError("is no journal of a stream", file=path, remedy="move it away")
    header = _header(head[1], path)
    records: dict[bytes, list[memoryview]] = {EVENTS: [], BIN: []}
    for kind, record in _records(content[len(head[0]) + len(head[1]) + 2 :]):
        records[kind].append(record)
    events = np.frombuffer(b"".join(records[EVENTS]), EVENT)
    events = events[(events["column"] >= 0) & (events["column"] < len(header["units"]))]
    events = events[np.isfinite(events["time"])]
    bins = np.frombuffer(b"".join(records[BIN]), "<f8")
    bins = bins.reshape(-1, len(records[BIN][0]) // 8 if records[BIN] else 6)
    if bins.shape[1] < 6 or bins.shape[1] % 2 or not _follow(bins[:, 1], header["bin_width"]):
        raise BciDecodeError("its bins are damaged", file=path, remedy="move it away")
    return header, events, bins


def _header(line: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if not _is_sound(header):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise BciDecodeError("its header is damaged", file=path, remedy="move it away") from error
    return header


def _is_sound(header: dict[str, Any]) -> bool:
    """Whether a session file can be made, and read, of what has this header."""
    width, lag, rows = float(header["bin_width"]), float(header["lag"]), 0
    sound = MIN_WIDTH <= width <= MAX_SECONDS and abs(lag) <= MAX_SECONDS
    for channel, row in header["units"]:
        sound &= isinstance(channel, str) and type(row) is int and row >= -1
        rows = max(rows, row + 1)
    channels = len({channel for channel, _ in header["units"]})
    return sound and channels * rows <= MAX_CELLS and header["target"] in TARGETS


def _follow(ends: np.ndarray, width: float) -> bool:
    """Whether bins that end at these times (s) can have that width.

    The mean of the steps tells: where a sender gives many bins at once, most steps are short.
    """
    increase = bool(np.isfinite(ends).all() and (np.diff(ends) > 0).all())
    return increase and bool((ends[-1:] - ends[:1] >= 0.5 * width * (len(ends) - 1)).all())


def _records(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Records up to the first one that is cut short, of an unknown kind or of a wrong size."""
    start, of_bin = 0, None
    while start + HEAD.size <= len(content):
        kind, size = HEAD.unpack_from(content, start)
        start += HEAD.size
        if start + size > len(content):
            return
        if kind == BIN and size and size % 8 == 0 and size == (of_bin or size):
            of_bin = size
        elif kind != EVENTS or size % EVENT.itemsize:
            return
        yield kind, content[start : start + size]
        start += size


def unwritable(path: Path, error: OSError) -> BciDecodeError:
    remedy = "free some space, or choose another place"
    return BciDecodeError(
        f"cannot be written ({error.strerror or error})", file=path, remedy=remedy
    )
