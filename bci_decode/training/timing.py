"""Where the time of a run goes."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bci_decode.files import written_whole


class Stopwatch:
    """Wall seconds of a run's parts and how often each was entered.

    `started` is when the process started; for a later run of the same process, when that run did.
    """

    _first_of_process = True

    def __init__(self) -> None:
        self.started = time.perf_counter() - (_age() if Stopwatch._first_of_process else 0.0)
        Stopwatch._first_of_process = False
        self.parts: dict[str, tuple[int, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`; several times add up."""
        since = time.perf_counter()
        try:
            yield
        finally:
            times, seconds = self.parts.get(name, (0, 0.0))
            self.parts[name] = times + 1, seconds + time.perf_counter() - since

    def once(self, name: str, since: float) -> None:
        """Count the time from `since` to the first call of this name."""
        if name not in self.parts:
            self.parts[name] = 1, time.perf_counter() - since

    def lines(self) -> list[str]:
        """The table as text."""
        return [
            f"{name:<22} {times:>6} x  {seconds:9.3f} s"
            for name, (times, seconds) in self.parts.items()
        ]

    def write(self, path: Path) -> None:
        """`part, times, seconds`, in the order in which the parts were entered first."""
        with (
            written_whole(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["part", "times", "seconds"])
            writer.writerows(
                [name, times, f"{seconds:.6f}"] for name, (times, seconds) in self.parts.items()
            )


def _age() -> float:
    """Seconds since this process began, where Linux tells; else 0."""
    try:
        ticks = int(
            Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        )
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
