"""The grid of a live stream and the counts of its open bins.

Shapes: E events, N units. A row counts an interval, a bin or, with `each`, a part of one.
"""

from __future__ import annotations

import math

import numpy as np

from bci_decode.data.counts import presence_sums

BLOCK = 256  # rows whose edges are computed at a time


class Intervals:
    """Counts of the intervals that are still open, each bin being `each` of them.

    The grid begins at `start` (s), which `begin` sets, or has the `edges` given. `low` and `end`
    (s) are those of the oldest open bin, `end_of_block` where the known edges end: `add` takes
    events from `low` to there. With `each` above 1, a bin counts its intervals that hold a spike.
    """

    def __init__(
        self, units: int, bin_width: float, each: int, waiting: int, edges: np.ndarray | None
    ) -> None:
        self.start = math.nan
        self.low, self.end, self.end_of_block = -math.inf, math.inf, math.inf
        self._units, self._width, self._each, self._given = units, bin_width, each, edges
        rows = (math.ceil(BLOCK / each) + waiting) * each  # `waiting` bins may be open at once
        self._counts = np.zeros((rows, units), np.intp)
        self._flat = self._counts.reshape(-1)
        self._edges = np.empty(0)
        self._first = self._row = 0  # interval of the first row, row of the oldest open bin

    def begin(self, start: float) -> None:
        """Let bin 0 begin at `start` s."""
        self.start = start
        self.place(0)

    def place(self, position: int) -> None:
        """Let bin `position` of the grid be the oldest open one; all rows are empty."""
        self._first, self._row = position * self._each, 0
        stop = self._first + len(self._counts) + 1
        if self._given is None:
            bins, inside = np.divmod(np.arange(self._first, stop), self._each)
            edges = self.start + bins * self._width
            if self._each > 1:
                edges += self._width / self._each * inside
        else:
            edges = self._given[self._first : stop]
            edges = np.pad(edges, (0, stop - self._first - len(edges)), constant_values=np.inf)
        self._edges, self.end_of_block = edges, float(edges[-1])
        self.low, self.end = float(edges[0]), float(edges[self._each])

    @property
    def position(self) -> int:
        """The number of the oldest open bin in the grid."""
        return (self._first + self._row) // self._each

    def position_of(self, time: float) -> int:
        """The number of the bin that holds `time`; not for given edges."""
        guess = math.floor((time - self.start) / self._width)
        low, end = (self.start + number * self._width for number in (guess, guess + 1))
        return guess + (time >= end) - (time < low)

    def add(self, times: np.ndarray, columns: np.ndarray, last: float) -> None:
        """Count events, times (E,) up to `last` and columns (E,), in the rows that hold them."""
        if last < self.end and self._each == 1:  # all in one bin: the quickest way
            self._counts[self._row] += np.bincount(columns, minlength=self._units)
            return
        rows = self._edges.searchsorted(times, "right")
        rows -= 1
        rows *= self._units
        rows += columns
        np.add.at(self._flat, rows, 1)

    def has_events(self) -> bool:
        """Whether the oldest open bin holds an event."""
        return bool(self._counts[self._row : self._row + self._each].any())

    def take(self, clock: float) -> np.ndarray:
        """The counts (N,) of the oldest open bin, which closes; no event is after `clock`.

        Raises nothing at the end of given edges: all bins after it have no end.
        """
        row, each = self._row, self._each
        if each == 1:
            counts = self._counts[row].copy()
            self._counts[row] = 0
        else:
            counts = presence_sums(self._counts[row : row + each], each)[0]
            self._counts[row : row + each] = 0
        self._row = row = row + each
        if row >= BLOCK:
            self._renew(clock)
        else:
            self.low, self.end = self.end, float(self._edges[row + each])
        return counts

    def _renew(self, clock: float) -> None:
        """Move the open rows to the top."""
        row, used = self._row, int(self._edges.searchsorted(clock, "right"))
        opened = self._counts[row:used].copy()
        self._counts[row:used] = 0
        self._counts[: len(opened)] = opened
        self.place(self.position)
