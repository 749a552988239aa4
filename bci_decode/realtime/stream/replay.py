"""Replay a recording as a live source: its spikes in order of time, as fast as they were or faster.

Shapes: E events, N units, T bins, D axes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bci_decode.config import DataConfig
from bci_decode.data.binning import BinnedSession, interval_edges, select_units
from bci_decode.data.counts import whole_ratio
from bci_decode.data.segments import inside, recording_gaps, within
from bci_decode.data.session import Session, read_session, source_series
from bci_decode.realtime.bins import Bin
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.realtime.stream.settings import check_max_gap, check_speed
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.scored_bins import scored_bins

log = logging.getLogger(__name__)

MAX_SPEED = math.inf


class Replay:
    """A source that replays a recording as spike events, with the true target of each bin.

    `true` is NaN in bins that `LoadedRun.predictions` does not score. Where the recording does not
    know the movement at all (NaN throughout), it is None.

    `run` is a `LoadedRun`, or a streaming decoder that has one as `run`: its settings make the
    bins. `speed` 1 is the recording's own pace, 10 is ten times as fast, inf does not wait (0.001
    to 1000, or inf). Without `start` and `stop` (s of the recording's clock), the session that the
    run was trained on is replayed in its test part, any other whole, as `LoadedRun.predictions`
    does.

    The events of a bin come in one piece at the bin's end, and each bin is given `tolerance` s
    later, rounded up to whole bins: the clock is looked at once per bin. Counts equal
    `run.bin(session).counts` of the same bins. The first bin after a gap of the recording has
    `jumped` if the gap is longer than `max_gap` s; the bins of the gap are empty. A decoder that is
    reset there decodes as `LoadedRun.decode` does.
    """

    def __init__(
        self,
        run: LoadedRun | Any,
        file: Session | str | Path,
        speed: float = 1.0,
        start: float | None = None,
        stop: float | None = None,
        *,
        tolerance: float = 0.0,
        max_gap: float = 1.0,
    ) -> None:
        check_speed(speed)
        check_max_gap(max_gap)
        run = getattr(run, "run", run)
        source = run.config.source
        session = file if isinstance(file, Session) else read_session(file, source=source)
        binned, known = _binned(run, session)
        bins, self.overlaps = scored_bins(run.state["session"], session, binned, start, stop)
        first = max(0, bins.start - _summed(run.config) + 1)  # they count in the first one's sums
        self._lead = bins.start - first
        self._edges = edges = binned.edges[first : bins.stop + 1]
        self._bins = bins.stop - bins.start
        self._true = run.truth(binned, bins)[0] if known else None
        self._jumps = _bins_after_gaps(session, binned, bins, max_gap)
        recorded = within(binned.segments, slice(first, bins.stop))
        self._times, self._columns = _events(
            session, run.config.units, run.config.area, edges, recorded
        )
        self.session, self.units, self.bin_width = session, binned.units, binned.bin_width
        self.speed = speed
        self.binner = _binner(run.config, session, binned, edges, tolerance, max_gap, recorded)
        self._closed = False

    def __len__(self) -> int:
        """The number of bins."""
        return self._bins

    @property
    def deadline(self) -> float | None:
        """Seconds from a bin's end to the next one's; None at full speed."""
        return None if math.isinf(self.speed) else self.bin_width / self.speed

    def __iter__(self) -> Iterator[Bin]:
        cuts = self._times.searchsorted(self._edges)
        origin = time.perf_counter()
        began = self._edges[self._lead]
        for position, end in enumerate(self._edges[1:].tolist()):
            if self._closed:
                return
            arrived = self._wait(origin + (end - began) / self.speed)
            piece = slice(cuts[position], cuts[position + 1])
            found = self.binner.add(self._times[piece], self._columns[piece], arrived)
            yield from self._with_truth(found + self.binner.advance(end, arrived))
        yield from self._with_truth(self.binner.flush())

    def close(self) -> None:
        """End the replay before the next bin."""
        self._closed = True

    def _wait(self, due: float) -> float:
        """Sleep until `due` and return when the input had arrived.

        If the decoder is behind, the input had arrived at `due` already.
        """
        now = time.perf_counter()
        if math.isinf(self.speed):
            return now
        if due <= now:
            return due
        time.sleep(due - now)
        return time.perf_counter()

    def _with_truth(self, bins: list[Bin]) -> Iterator[Bin]:
        """The bins from the first one that is wanted, with their targets."""
        for found in bins:
            index = found.index - self._lead
            if index >= 0:
                true = None if self._true is None else self._true[index]
                jumped = index in self._jumps
                yield Bin(index, found.time, found.counts, true, jumped, found.arrived)


def _binned(run: LoadedRun, session: Session) -> tuple[BinnedSession, bool]:
    """The session in the run's bins, and whether its movement is known; otherwise that is 0."""
    source = run.config.source
    path = source_series(session, source).values
    if not np.isnan(path[:, :2]).all():
        return run.bin(session), True
    log.warning("%s: %s is NaN throughout, so there is no R2", session.path, source)
    return run.bin(session.with_positions(**{source: np.zeros_like(path)})), False


def _summed(config: DataConfig) -> int:
    """How many bins are summed in the counts of one."""
    window = config.count_window
    return 1 if window is None else whole_ratio("count_window", window, config.bin_width)


def _binner(
    config: DataConfig,
    session: Session,
    binned: BinnedSession,
    edges: np.ndarray,
    tolerance: float,
    max_gap: float,
    recorded: np.ndarray,
) -> SpikeBinner:
    """The binner whose counts are those of `binned` from edge to edge.

    `recorded` (S, 2) are the segments among these bins.
    """
    if config.presence is not None:
        edges = interval_edges(session, edges, config.bin_width, config.presence)
    return SpikeBinner(
        len(binned.units),
        binned.bin_width,
        edges=edges,
        tolerance=tolerance,
        max_gap=max(max_gap, binned.bin_width),
        presence=config.presence,
        count_window=config.count_window,
        restarts=recorded.ravel().tolist(),
    )


def _events(
    session: Session, units: str, area: str, edges: np.ndarray, recorded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times (E,) within the segments, in order, and columns (E,) of all spikes of chosen units."""
    times, columns = [], []
    for column, members in enumerate(select_units(session, units, area)["members"]):
        for unit in members:
            spikes = session.spike_times[unit]
            found = spikes[(spikes >= edges[0]) & (spikes < edges[-1])]
            times.append(found)
            columns.append(np.full(len(found), column, np.intp))
    together = np.concatenate(times)
    order = np.argsort(together, kind="stable")
    in_order, of_unit = together[order], np.concatenate(columns)[order]
    if np.array_equal(recorded, [[0, len(edges) - 1]]):
        return in_order, of_unit
    kept = inside(recorded, len(edges) - 1)[edges.searchsorted(in_order, side="right") - 1]
    return in_order[kept], of_unit[kept]


def _bins_after_gaps(
    session: Session, binned: BinnedSession, bins: slice, max_gap: float
) -> set[int]:
    """The first bin after each gap that is longer than `max_gap` s, counted from that of `bins`."""
    gaps = recording_gaps(session)
    ends = gaps[gaps[:, 1] - gaps[:, 0] > max_gap, 1]
    first = binned.edges.searchsorted(ends) - bins.start
    return {int(number) for number in first if number > 0}
