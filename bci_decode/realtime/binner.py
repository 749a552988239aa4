"""Turn a live stream of spikes, events of a time and a unit, into bins of counts.

Shapes: E events, N units, T bins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from time import perf_counter
from typing import Any

import numpy as np

from bci_decode.data.counts import presence_sums, whole_ratio
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin
from bci_decode.realtime.drops import Drops, dropped_text
from bci_decode.realtime.trailing import TrailingCounts

log = logging.getLogger(__name__)

BLOCK = 256  # intervals whose edges are computed at a time
OFF_CLOCK = 3  # events in a row off the clock that are believed


class SpikeBinner:
    """Counts (time, unit) events in bins, and gives each bin when it is complete.

    **Grid.** Bin k covers [start + k bin_width, start + (k + 1) bin_width) s of the input's clock;
    an event on an edge is in the later bin. Without `start` the first event begins the first bin.
    `edges` (T + 1,) replace that grid by exact edges, such as those of a `BinnedSession`. With
    `presence` (s) a bin counts its intervals of that width that hold a spike, and `edges`
    (T each + 1,) are those of the intervals (`data.binning.interval_edges`). With `count_window`
    (s) a bin's counts are those of so many seconds up to its end. For equal edges all counts equal
    those of `data.binning`.

    **Complete.** The clock is the latest event, or `advance`. A bin is complete when the clock has
    passed its end by `tolerance` s. Until then events may come late and in any order; those of one
    call count as arrived together. Later ones are dropped. `dropped` counts dropped events by
    reason, the first of each kind is logged, `report` sums up.

    **Jumps of the clock.** An event is off the clock if it is more than `max_gap` s after the
    latest one, or more than `max_gap` s before the oldest bin that is still open. Such events wait.
    The third in a row proves that the clock has jumped: the bins up to the old time are given, and
    the grid goes on in the same phase at the first of the three; nothing of the three is lost. The
    next bin has `jumped`. After a jump forward `index` leaves the missing bins out; after a jump
    back (a restarted clock) it goes on by 1. If an event on the clock comes first, those that
    waited were strays: they are dropped as "off the clock" and change nothing else. Three strays in
    a row do move the grid, and the next three true events move it back. In a stream where all units
    are silent for longer than `max_gap`, call `advance`. With `edges`, the grid is a recording's,
    and every time is believed.

    `units` is the number of units, or their labels. Whole numbers among the units of events are
    columns; other values are looked up among the labels. `on_events`, if set, is called with the
    times and columns of accepted events; after a jump back, times are moved on to follow the old.
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
    ) -> None:
        _check(bin_width, tolerance, max_gap)
        self.bin_width, self.tolerance, self.max_gap = bin_width, tolerance, max_gap
        self.labels = {} if isinstance(units, int) else _columns(units)
        self.units = units if isinstance(units, int) else len(units)
        self.on_events: Callable[[np.ndarray, np.ndarray], None] | None = None
        self._drops = Drops()
        self._each = 1 if presence is None else whole_ratio("presence", bin_width, presence)
        self._trailing: TrailingCounts | None = None
        if count_window is not None:
            self._trailing = TrailingCounts(self.units, bin_width, count_window)
        waiting = math.ceil(tolerance / bin_width) + 2  # bins that may be open at once
        rows = (math.ceil(BLOCK / self._each) + waiting) * self._each
        self._counts = np.zeros((rows, self.units), np.intp)  # of the intervals from `_first` on
        self._flat = self._counts.reshape(-1)
        self._given_start, self._given_edges = start, edges
        self._start, self._clock = math.nan, -math.inf
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

        `arrived` is the `time.perf_counter()` at which the events were in hand, by default now.
        """
        self._arrived = perf_counter() if arrived is None else arrived
        times, columns = np.asarray(times, np.float64), self._columns_of(units)
        if times.shape != columns.shape or times.ndim != 1:
            problem = f"has {times.shape} times and {columns.shape} units"
            raise BciDecodeError(problem, field="events", remedy="give a unit for each time")
        if not len(times):
            return []
        first, last = times.min(), times.max()  # NaN fails both comparisons
        usual = first >= self._low and last < min(self._end_of_block, self._clock + self.max_gap)
        if usual and columns.min() >= 0 and columns.max() < self.units and not self._held:
            if last < self._end and self._each == 1:  # all in one bin: the quickest way
                self._counts[self._row] += np.bincount(columns, minlength=self.units)
                return self._accepted(times, columns, last)
            return self._count_in_block(times, columns, last)
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
        if math.isnan(self._start):
            self._begin(now)
        bins: list[Bin] = []
        if self._given_edges is None and self._is_off(now):
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

    # -- the grid ---------------------------------------------------------------------------------

    def _begin(self, start: float) -> None:
        self._start = self._clock = start
        self._place(0)

    def _place(self, first: int) -> None:
        """Let row 0 be the interval `first`, the beginning of a bin."""
        self._first, self._row = first, 0
        stop = first + len(self._counts) + 1
        if self._given_edges is None:
            bins, inside = np.divmod(np.arange(first, stop), self._each)
            edges = self._start + bins * self.bin_width
            if self._each > 1:
                edges += self.bin_width / self._each * inside
        else:
            edges = self._given_edges[first:stop]
            edges = np.pad(edges, (0, stop - first - len(edges)), constant_values=np.inf)
        self._edges, self._end_of_block = edges, float(edges[-1])
        self._low, self._end = float(edges[0]), float(edges[self._each])

    _low = -math.inf  # start and end of the oldest open bin, and where the known edges end
    _end = _end_of_block = math.inf
    _first = _row = 0
    _edges = np.empty(0)

    def _renew(self) -> None:
        """Move the open rows to the top."""
        row, used = self._row, int(self._edges.searchsorted(self._clock, "right"))
        opened = self._counts[row:used].copy()
        self._counts[row:used] = 0
        self._counts[: len(opened)] = opened
        self._place(self._first + row)

    # -- events -----------------------------------------------------------------------------------

    def _columns_of(self, units: np.ndarray | Sequence[Any]) -> np.ndarray:
        if isinstance(units, np.ndarray):
            if units.dtype.kind in "iu":
                return units.astype(np.intp, copy=False)
            units = units.tolist()
        known = self.labels
        columns = [u if isinstance(u, Integral) else known.get(u, -1) for u in units]
        return np.array(columns, np.intp)

    def _checked(self, times: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The events that have a time and a unit, and can be in a bin of given edges."""
        sound = np.isfinite(times)
        known = (columns >= 0) & (columns < self.units)
        checks = {"not a time": ~sound, "unknown unit": sound & ~known}
        if self._given_edges is not None:
            checks["after the end"] = sound & known & (times >= self._given_edges[-1])
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
        if len(times) and math.isnan(self._start):
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
        if self._given_edges is not None:
            return len(times)
        latest = np.maximum.accumulate(np.append(self._clock, times[:-1]))
        oldest = np.maximum(self._low, latest - self.tolerance - self.bin_width)
        back = times < oldest - self.max_gap
        if self._fresh and self._given_start is not None:  # else it is before the start
            back &= latest >= self._end + self.tolerance
        off = back | (times > latest + self.max_gap)
        return int(np.argmax(off)) if off.any() else len(times)

    def _is_off(self, now: float) -> bool:
        back = now < self._low - self.max_gap
        if self._fresh and self._given_start is not None:
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
            if times[0] >= self._end_of_block:
                self._clock = float(times[0])
                bins += self._complete()
            beyond = np.maximum.accumulate(times) >= self._end_of_block
            piece = int(np.argmax(beyond)) if beyond.any() else len(times)
            late = times[:piece] < self._low
            if late.any():
                reason = "before the start" if self._fresh else "late"
                told = f"time {times[np.argmax(late)]}, the oldest bin from {self._low}"
                self._drops.add(reason, int(late.sum()), told)
            if not late.all():
                kept = times[:piece][~late]
                bins += self._count_in_block(kept, columns[:piece][~late], kept.max())
            times, columns = times[piece:], columns[piece:]
        return bins

    def _count_in_block(self, times: np.ndarray, columns: np.ndarray, last: float) -> list[Bin]:
        """Count events that are in open bins with known edges."""
        rows = self._edges.searchsorted(times, "right")
        rows -= 1
        rows *= self.units
        rows += columns
        np.add.at(self._flat, rows, 1)
        return self._accepted(times, columns, last)

    def _accepted(self, times: np.ndarray, columns: np.ndarray, last: float) -> list[Bin]:
        """Move the clock to the latest of the events that were counted."""
        if self.on_events is not None:
            self.on_events(times + self._skipped * self.bin_width, columns)
        self._clock = max(self._clock, float(last))
        return self._complete()

    # -- bins -------------------------------------------------------------------------------------

    def _complete(self) -> list[Bin]:
        bins, limit = [], self._clock - self.tolerance
        while self._end <= limit:
            bins.append(self._take())
        return bins

    def _drain(self) -> list[Bin]:
        """All bins up to the clock."""
        bins = []
        while self._low < self._clock or (
            self._low == self._clock and self._counts[self._row].any()
        ):
            bins.append(self._take())
        return bins

    def _take(self) -> Bin:
        """Give the oldest open bin."""
        row, each = self._row, self._each
        if each == 1:
            counts = self._counts[row].copy()
            self._counts[row] = 0
        else:
            counts = presence_sums(self._counts[row : row + each], each)[0]
            self._counts[row : row + each] = 0
        if self._trailing is not None:
            counts = self._trailing.add(counts)
        index = (self._first + row) // each + self._skipped
        taken = Bin(index, self._end, counts, None, self._jumped, self._arrived)
        self._jumped = self._fresh = False
        self._row = row = row + each
        if row >= BLOCK:
            self._renew()
        else:
            self._low, self._end = self._end, float(self._edges[row + each])
        return taken

    def _jump(self, time: float) -> list[Bin]:
        """Give all bins up to the clock, and let the grid go on at `time` in the same phase."""
        bins = self._drain()
        old, following = self._clock, (self._first + self._row) // self._each
        position = math.floor((time - self._start) / self.bin_width)
        position += (time >= self._start + (position + 1) * self.bin_width) - (
            time < self._start + position * self.bin_width
        )
        if time < old:
            self._skipped += following - position
            log.warning("the clock went back from %.3f to %.3f s; bins go on there", old, time)
        else:
            line = "the clock jumped from %.3f to %.3f s; %d bins are missing"
            log.warning(line, old, time, position - following)
        if self._trailing is not None:
            self._trailing.reset()
        self._place(position * self._each)
        self._clock, self._jumped, self._fresh = time, True, False
        return bins


def _check(bin_width: float, tolerance: float, max_gap: float) -> None:
    if not 0 < bin_width < math.inf:
        raise BciDecodeError(f"is {bin_width} s", field="bin_width", remedy="give seconds above 0")
    if not 0 <= tolerance < math.inf:
        raise BciDecodeError(f"is {tolerance} s", field="tolerance", remedy="give 0 s or more")
    if not max_gap >= bin_width:
        remedy = f"give a bin width, {bin_width} s, or more"
        raise BciDecodeError(f"is {max_gap} s", field="max_gap", remedy=remedy)


def _columns(labels: Iterable[Any]) -> dict[Any, int]:
    columns = {label: column for column, label in enumerate(labels)}
    if any(isinstance(label, Integral) for label in columns):
        remedy = "give labels that are no whole numbers: those are columns"
        raise BciDecodeError("are whole numbers", field="units", remedy=remedy)
    return columns


def _arrays(events: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    times, columns = zip(*events, strict=True)
    return np.array(times), np.array(columns, np.intp)
