"""Counts over a longer window than the bin, bin by bin: `data.count_window` of a live stream."""

from __future__ import annotations

import numpy as np

from bci_decode.data.counts import whole_ratio


class TrailingCounts:
    """Sums of the counts (N,) of the last bins, as `data.counts.trailing_sums` has them.

    A source that gives counts instead of events needs this alone; `SpikeBinner` has its own.
    `count_window` and `bin_width` are in s. At the start, and after `reset`, it sums what there is.
    """

    def __init__(self, units: int, bin_width: float, count_window: float) -> None:
        self.bins = whole_ratio("count_window", count_window, bin_width)
        self._last = np.zeros((self.bins, units), np.intp)
        self._sum = np.zeros(units, np.intp)
        self._oldest = 0

    def add(self, counts: np.ndarray) -> np.ndarray:
        """The sums (N,) that end with this bin."""
        oldest = self._last[self._oldest]
        self._sum += counts
        self._sum -= oldest
        oldest[:] = counts
        self._oldest = (self._oldest + 1) % self.bins
        return self._sum.copy()

    def reset(self) -> None:
        """Forget all bins, as after a gap in the stream."""
        self._last[:] = 0
        self._sum[:] = 0
