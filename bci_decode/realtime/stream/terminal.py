"""One line that shows a live stream in the terminal, and log lines that do not tear it."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from time import perf_counter

from bci_decode.errors import printable
from bci_decode.realtime.bins import Decoded

IN_PLACE = 0.1  # s between two updates of the line
NEW_LINE = 5.0  # s between two lines where they cannot be overwritten, as in a file
CLEAR = "\r\x1b[K"  # back to the beginning of the line, which is erased


def _is_terminal() -> bool:
    """Whether standard error is a terminal; it is None or closed where nobody reads it."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


class Terminal:
    """A sink that prints bin, decoded values, latency and missed deadlines to standard error.

    A terminal shows one line that is updated ten times a second, a file gets a line in five
    seconds. Where standard error is closed, nothing is shown and the stream continues.
    """

    def __init__(self, axes: Sequence[str], unit: str) -> None:
        self.axes, self.unit = axes, unit
        self._missed = 0
        self._in_place = _is_terminal()
        self._every = IN_PLACE if self._in_place else NEW_LINE
        self._due = perf_counter() + self._every
        self._shown = False

    def write(self, decoded: Decoded) -> None:
        self._missed += decoded.missed
        now = perf_counter()
        if now < self._due:
            return
        self._due = now + self._every
        text = self._text(decoded)
        if self._in_place:
            self._print(CLEAR + text[: get_terminal_size().columns - 1], end="")
            self._shown = True
        else:
            self._print(text)

    def _print(self, text: str = "", end: str = "\n") -> None:
        try:
            print(text, end=end, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # its reader is gone, or it is closed
            self._due = math.inf

    def _text(self, decoded: Decoded) -> str:
        pairs = zip(self.axes, decoded.output, strict=True)
        values = "  ".join(f"{axis} {value:8.1f}" for axis, value in pairs)
        return (
            f"bin {decoded.bin.index + 1}  {decoded.bin.time:.2f} s  {values} {self.unit}  "
            f"latency {1e6 * decoded.latency:.0f} us  missed {self._missed}"
        )

    def close(self) -> None:
        """Leave the last line where it is."""
        if self._shown:
            self._print()
            self._shown = False


class LineHandler(logging.StreamHandler):
    """Logs to standard error; in a terminal a log line takes the place of the stream's line.

    Names that other computers sent are shown without control characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).split("\n")
        return CLEAR * _is_terminal() + "\n".join(map(printable, lines))
