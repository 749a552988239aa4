"""Turn a live stream of spikes, events of a time and a unit, into bins of counts.

Shapes: E events, N units, T bins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from bci_decode.data.counts import whole_ratio
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin
from bci_decode.realtime.stream.drops import Drops, dropped_text
from bci_decode.realtime.stream.intervals import Intervals
from bci_decode.realtime.stream.labels import Labels
from bci_decode.realtime.stream.settings import check_binning, check_grid
from bci_decode.realtime.stream.trailing import TrailingCounts

log = logging.getLogger(__name__)

OFF_CLOCK = 3  # events in a row off the clock that are believed


class SpikeBinner:
    """Counts (time, unit) events in bins, and gives each bin when it is complete.

    **Grid.** Bin k covers [start + k bin_width, start + (k + 1) bin_width) s of the input's clock;
    an event on an edge is in the later bin. Without `start` the first event begins the first bin.
    `edges` (T + 1,) replace that grid by exact edges, such as those of a `BinnedSession`. With
    `presence` (s) a bin counts its intervals of that width that hold a spike, and `edges`
    (T each + 1,) are those of the intervals (`data.binning.interval_edges`). With `count_window`
    (s) a bin's counts are those of so many seconds up to its end, but from no bin before one of
    `restarts`, numbers of bins of given edges. For equal edges all counts equal those of
    `data.binning`.

    **Complete.** The clock is the latest event, or `advance`. A bin is complete when the clock has
    passed its end by `tolerance` s. Until then events may come late and in any order; those of one
    call count as arrived together. Later ones are dropped. `dropped` counts dropped events by
    reason, the first of each kind is logged, `report` sums up.

    **Jumps of the clock.** An event is off the clock if it is more than `max_gap` s after the
    latest one, or more than `max_gap` s before the oldest bin that is still open. Such events wait.
    The third in a row proves that the clock has jumped: the bins up to the old time are given, and
    the grid continues in the same phase at the first of the three; nothing of the three is lost.
    The next bin has `jumped`. After a jump forward `index` leaves the missing bins out; after a
    jump back (a restarted clock) it continues by 1. If an event on the clock comes first, those
    that waited were strays: they are dropped as "off the clock" and change nothing else. Three
    strays in a row do move the grid, and the next three true events move it back. In a stream where
    all units are silent for longer than `max_gap`, call `advance`. With `edges`, the grid is a
    recording's, and every time is believed.

    `units` is the number of units, or their labels. Whole numbers among the units of events are
    columns; other values are looked up among the labels. `on_events`, if set, is called with the
    times and columns of accepted events; after a jump back, times continue those before.
    """

    def __init__(
        self,
        units: int | Sequence[Any],
        bin_width: float,
        *,
        start: float | None = None,
        edges: np.ndarray | None = None,
        tolerance: float = 0.0,
        max_gap: float = 1.0,
        presence: float | None = None,
        count_window: float | None = None,
        restarts: Collection[int] = (),
    ) -> None:
        check_binning(bin_width, tolerance, max_gap)
        each = 1 if presence is None else whole_ratio("presence", bin_width, presence)
        check_grid(start, edges, each)
        self.bin_width, self.tolerance, self.max_gap = bin_width, tolerance, max_gap
        self._labels = Labels(units)
        self.units = self._labels.number
        self.on_events: Callable[[np.ndarray, np.ndarray], None] | None = None
        self._drops = Drops()
        waiting = math.ceil(tolerance / bin_width) + 2
        self._grid = Intervals(self.units, bin_width, each, waiting, edges)
        self._trailing: TrailingCounts | None = None
        if count_window is not None:
            self._trailing = TrailingCounts(self.units, bin_width, count_window)
        self._restarts = frozenset(restarts)
        self._given_start = start is not None
        self._end = None if edges is None else float(edges[-1])  # of the stream
        self._clock = -math.inf
        self._held: list[tuple[float, int]] = []  # events off the clock
        self._skipped = 0  # bins by which the index is ahead of the grid, after jumps back
        self._fresh, self._jumped, self._arrived = True, False, 0.0
        if edges is not None:
            self._begin(float(edges[0]))
        elif start is not None:
            self._begin(start)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped events by reason."""
        return self._drops.counts

    def report(self) -> str:
        """One line with the number of dropped events by reason."""
        return dropped_text(self.dropped)

    def add(
        self, times: np.ndarray, units: np.ndarray | Sequence[Any], arrived: float | None = None
    ) -> list[Bin]:
        """Count events, times (E,) in s and units (E,), and give the bins that are now complete.

        `arrived` is the `time.perf_counter()` at which the events had arrived, by default now.
        """
        self._arrived = perf_counter() if arrived is None else arrived
        times, columns = np.asarray(times, np.float64), self._labels.columns(units)
        if times.shape != columns.shape or times.ndim != 1:
            problem = f"has {times.shape} times and {columns.shape} units"
            raise BciDecodeError(problem, field="events", remedy="give a unit for each time")
        if not len(times):
            return []
        first, last = times.min(), times.max()  # NaN fails both comparisons
        in_order = first >= self._grid.low and last <= self._clock + self.max_gap
        known = columns.view(np.uintp).max() < self.units  # negative ones are huge there
        if in_order and known and last < self._grid.end_of_block and not self._held:
            return self._count_open(times, columns, last)
        return self._add_unusual(*self._checked(times, columns))

    def advance(self, now: float, arrived: float | None = None) -> list[Bin]:
        """Move the clock to `now` s without an event, and give the bins that are now complete.

        Such a clock is believed at once: if it moves on by more than `max_gap`, or goes back by
        more, it has jumped.
        """
        self._arrived = perf_counter() if arrived is None else arrived
        if not math.isfinite(now):
            self._drops.add("not a time", 1, f"the clock is {now}")
            return []
        if math.isnan(self._grid.start):
            self._begin(now)
        bins: list[Bin] = []
        if self._end is None and self._is_off(now):
            bins = self._jump(now)
            if self._held:
                held, self._held = self._held, []
                bins += self._add_unusual(*_arrays(held))
        self._clock = max(self._clock, now)
        return bins + self._complete()

    def flush(self) -> list[Bin]:
        """The bins up to the clock, the last one as far as it got: the end of the stream."""
        self._arrived = perf_counter()
        self._drop_held()
        return self._drain()

    def _begin(self, start: float) -> None:
        self._clock = start
        self._grid.begin(start)

    def _checked(self, times: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The events that have a time and a unit, and can be in a bin of given edges."""
        sound = np.isfinite(times)
        known = (columns >= 0) & (columns < self.units)
        checks = {"not a time": ~sound, "unknown unit": sound & ~known}
        if self._end is not None:
            checks["after the end"] = sound & known & (times >= self._end)
        keep = np.ones(len(times), bool)
        for reason, wrong in checks.items():
            if wrong.any():
                example = int(np.argmax(wrong))
                told = f"time {times[example]}, unit {columns[example]}"
                self._drops.add(reason, int(wrong.sum()), told)
                keep &= ~wrong
        return times[keep], columns[keep]

    def _add_unusual(self, times: np.ndarray, columns: np.ndarray) -> list[Bin]:
        """Count events of which some may be late or off the clock."""
        if len(times) and math.isnan(self._grid.start):
            self._begin(float(times[times >= times[0] - self.tolerance].min()))
        bins: list[Bin] = []
        while len(times):
            on_clock = self._on_clock(times)
            if on_clock:
                self._drop_held()
                bins += self._count(times[:on_clock], columns[:on_clock])
            if on_clock < len(times):
                self._held.append((float(times[on_clock]), int(columns[on_clock])))
                on_clock += 1
            times, columns = times[on_clock:], columns[on_clock:]
            if len(self._held) == OFF_CLOCK:
                held, self._held = self._held, []
                bins += self._jump(held[0][0])
                again = _arrays(held)
                times = np.concatenate([again[0], times])
                columns = np.concatenate([again[1], columns])
        return bins

    def _on_clock(self, times: np.ndarray) -> int:
        """How many events come before the first one that is off the clock."""
        if self._end is not None:
            return len(times)
        latest = np.maximum.accumulate(np.append(self._clock, times[:-1]))
        oldest = np.maximum(self._grid.low, latest - self.tolerance - self.bin_width)
        back = times < oldest - self.max_gap
        if self._fresh and self._given_start:  # else it is before the start
            back &= latest >= self._grid.end + self.tolerance
        off = back | (times > latest + self.max_gap)
        return int(np.argmax(off)) if off.any() else len(times)

    def _is_off(self, now: float) -> bool:
        back = now < self._grid.low - self.max_gap
        if self._fresh and self._given_start:
            back = False
        return back or now > self._clock + self.max_gap

    def _drop_held(self) -> None:
        for time, column in self._held:
            self._drops.add("off the clock", 1, f"time {time}, unit {column}")
        self._held = []

    def _count(self, times: np.ndarray, columns: np.ndarray) -> list[Bin]:
        """Count events on the clock, in pieces that end within the known edges."""
        bins: list[Bin] = []
        while len(times):
            if times[0] >= self._grid.end_of_block:
                self._clock = float(times[0])
                bins += self._complete()
            beyond = np.maximum.accumulate(times) >= self._grid.end_of_block
            piece = int(np.argmax(beyond)) if beyond.any() else len(times)
            late = times[:piece] < self._grid.low
            if late.any():
                reason = "before the start" if self._fresh else "late"
                told = f"time {times[np.argmax(late)]}, the oldest bin from {self._grid.low}"
                self._drops.add(reason, int(late.sum()), told)
            if not late.all():
                kept = times[:piece][~late]
                bins += self._count_open(kept, columns[:piece][~late], kept.max())
            times, columns = times[piece:], columns[piece:]
        return bins

    def _count_open(self, times: np.ndarray, columns: np.ndarray, last: float) -> list[Bin]:
        """Count events up to `last` s that are in open bins with known edges."""
        self._grid.add(times, columns, last)
        if self.on_events is not None:
            self.on_events(times + self._skipped * self.bin_width, columns)
        self._clock = max(self._clock, float(last))
        return self._complete()

    def _complete(self) -> list[Bin]:
        bins, limit = [], self._clock - self.tolerance
        while self._grid.end <= limit:
            bins.append(self._take())
        return bins

    def _drain(self) -> list[Bin]:
        """All bins up to the clock, the one that holds it included."""
        bins, grid, clock = [], self._grid, self._clock
        while grid.low < clock or (grid.low == clock and grid.has_events()):
            bins.append(self._take())
        return bins

    def _take(self) -> Bin:
        """Give the oldest open bin."""
        index, end = self._grid.position + self._skipped, self._grid.end
        counts = self._grid.take(self._clock)
        if self._trailing is not None:
            if index in self._restarts:
                self._trailing.reset()
            counts = self._trailing.add(counts)
        taken = Bin(index, end, counts, None, self._jumped, self._arrived)
        self._jumped = self._fresh = False
        return taken

    def _jump(self, time: float) -> list[Bin]:
        """Give all bins up to the clock, and let the grid continue at `time` in the same phase."""
        bins = self._drain()
        old, following, position = self._clock, self._grid.position, self._grid.position_of(time)
        if time < old:
            self._skipped += following - position
            log.warning("the clock went back from %.3f to %.3f s; bins continue there", old, time)
        else:
            line = "the clock jumped from %.3f to %.3f s; %s missing"
            log.warning(line, old, time, _bins_text(position - following))
        if self._trailing is not None:
            self._trailing.reset()
        self._grid.place(position)
        self._clock, self._jumped, self._fresh = time, True, False
        return bins


def _bins_text(number: int) -> str:
    return "1 bin is" if number == 1 else f"{number} bins are"


def _arrays(events: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    times, columns = zip(*events, strict=True)
    return np.array(times), np.array(columns, np.intp)
