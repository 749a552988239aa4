"""Bin spikes and align the hand's movement: counts (T, N) and kinematics (T, D) on one grid."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bci_decode.config import DIFFERENCES, TARGETS, UNITS
from bci_decode.data.counts import presence_sums, sums_by_segment, whole_ratio
from bci_decode.data.grid import bin_edges, snap_to_samples
from bci_decode.data.kinematics import ORDERS, kinematics, seconds_ahead, unit_of
from bci_decode.data.reaches import reach_starts
from bci_decode.data.segments import (
    inside,
    recording_gaps,
    runs,
    touched,
)
from bci_decode.data.session import Session, source_series
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BinnedSession:
    """A session on a grid of bins: spike counts, and the kinematics to decode from them.

    Bin k covers [edges[k], edges[k + 1]) in seconds of the session's clock. `counts` (T, N) are
    whole numbers in the smallest unsigned type that holds them; `units` has a row for each of the N
    columns (channel, area, row; row is -1 where all rows of a channel are merged). `kinematics`
    (T, 2) are x and y of `target` in `TARGETS`' unit, `lag` seconds after the bin's spikes.
    `count_window`: seconds up to its end in which a bin's spikes are counted, where that is not the
    bin. `reaches` (R,): the first bin of each reach; see `data.reaches`. `ahead`: see
    `seconds_ahead`. `shifted` are the same on grids that begin later by parts of a bin, each with
    T - 1 bins.

    `unit` is that of the kinematics, as in `TARGETS` unless the file's own is no length.

    `segments` (S, 2) are the first bin and the last + 1 of each stretch without a gap; see
    `data.segments`. Bins outside them have no spikes. `kinematics` is NaN there, and wherever the
    movement is not known.
    """

    name: str
    edges: np.ndarray
    counts: np.ndarray
    units: pd.DataFrame
    kinematics: np.ndarray
    target: str
    bin_width: float
    lag: float
    count_window: float | None = None
    reaches: np.ndarray | None = None
    ahead: float = 0.0
    shifted: tuple[BinnedSession, ...] = ()
    segments: np.ndarray = None  # type: ignore[assignment]  # by default all bins are one
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.unit:
            object.__setattr__(self, "unit", TARGETS[self.target])
        if self.segments is None:
            object.__setattr__(self, "segments", np.array([[0, len(self.counts)]]))


def bin_session(
    session: Session,
    *,
    bin_width: float = 0.064,
    lag: float = 0.0,
    delay: float = 0.0,
    target: str = "velocity",
    source: str = "finger_pos",
    units: str = "all",
    area: str = "all",
    grids: int = 1,
    presence: float | None = None,
    count_window: float | None = None,
    difference: str = "bin",
) -> BinnedSession:
    """Bin a session's spikes every `bin_width` seconds and align the hand with them.

    `lag` is in seconds, any real number; it is positive where the hand follows the spikes. `delay`
    (s) is subtracted from it; a `BinnedSession` has their difference as its lag. `target` is one of
    `TARGETS`, `source` one of `sources(session)`, `units` of `UNITS`, `area` "all" or an area of
    the session. With `grids` g there
    are g - 1 more grids, bin_width / g apart. With `presence` (s) a column counts 0 or 1 in each
    interval of that width. With `count_window` (s) a bin's counts are those of so many seconds up
    to its end; bins then overlap. `difference`: see `kinematics`. Bins that lie in a gap or whose
    movement is unknown are logged. Raises `BciDecodeError` with the config key at fault.
    """
    for field, value, known in (
        ("data.target", target, tuple(TARGETS)),
        ("data.units", units, UNITS),
        ("data.difference", difference, DIFFERENCES),
    ):
        if value not in known:
            raise BciDecodeError(
                f"is {value!r}", field=field, remedy="choose one of " + ", ".join(known)
            )
    if ORDERS[target] < source_series(session, source).order:
        problem = f"is {target}, {source} is a velocity"
        remedy = "choose data.target=velocity, or a position as data.source"
        raise BciDecodeError(problem, field="data.target", remedy=remedy)
    edges = bin_edges(session, bin_width, lag, delay)
    lag -= delay
    columns = select_units(session, units, area)
    labels = columns.drop(columns="members")
    summed = 1 if count_window is None else whole_ratio("count_window", count_window, bin_width)
    gaps = recording_gaps(session)

    def on(edges: np.ndarray) -> BinnedSession:
        counts = _counts(session, columns["members"], edges, bin_width, presence)
        movement = kinematics(session, edges, bin_width, lag, target, source, difference)
        lost = touched(edges[:-1], edges[1:], gaps)
        segments = runs(~lost)
        if lost.any():
            counts[lost], movement[lost] = 0, np.nan
        return BinnedSession(
            name=session.name,
            edges=edges,
            counts=sums_by_segment(counts, segments, summed),
            units=labels,
            kinematics=movement,
            target=target,
            bin_width=bin_width,
            lag=lag,
            count_window=count_window,
            reaches=reach_starts(session, edges, lag),
            ahead=seconds_ahead(session, edges, lag, target, difference, source),
            segments=segments,
            unit=unit_of(session.series[source], target),
        )

    shifts = bin_width / grids * np.arange(1, grids) if len(edges) > 2 else ()
    shifted = tuple(on(snap_to_samples(edges[:-1] + shift, session.t)) for shift in shifts)
    binned = replace(on(edges), shifted=shifted)
    _report_left_out(session, binned, source)
    return binned


def _report_left_out(session: Session, binned: BinnedSession, source: str) -> None:
    """Log how much of a session can neither be learned from nor scored; all of it is refused."""
    bins, width = len(binned.counts), binned.bin_width
    unknown = int(np.isnan(binned.kinematics).any(axis=1).sum())
    if unknown == bins:
        raise BciDecodeError(
            f"is known in none of the {bins} bins",
            file=session.path,
            field=source,
            remedy="check the gaps of the recording, or try another data.source",
        )
    if not unknown:
        return
    lost = bins - int(np.diff(binned.segments, axis=1).sum())
    gaps = len(runs(~inside(binned.segments, bins)))
    reasons = [f"{lost} in {gaps} gap{'s' * (gaps > 1)} of the recording"] if lost else []
    if unknown > lost:
        reasons.append(f"{unknown - lost} where {source} is not known")
    log.info(
        "%s: %d of %d bins (%.1f s) are left out: %s",
        session.path, unknown, bins, unknown * width, ", ".join(reasons),
    )  # fmt: skip


def select_units(session: Session, units: str, area: str) -> pd.DataFrame:
    """The columns of the counts: `channel`, `area`, `row`, and `members`, the units of each sum."""
    table = session.units.assign(members=[[i] for i in range(len(session.units))])
    if area != "all":
        table = table[table["area"] == area]
    if units == "sorted":
        table = table[table["row"] > 0]
    elif units == "hash":
        table = table[table["row"] == 0]
    elif units == "merged":
        channels = table.groupby(["channel", "area"], sort=False, as_index=False)
        table = channels.agg({"members": "sum"}).assign(row=-1)
    if table.empty:
        areas = ", ".join(session.units["area"].unique()) or "none, no channel has spikes"
        raise BciDecodeError(
            f"no unit is left of {len(session.units)} with data.units={units} data.area={area}",
            file=session.path,
            remedy=f"areas in the file: {areas}",
        )
    return table[["channel", "area", "row", "members"]].reset_index(drop=True)


def _counts(
    session: Session, members, edges: np.ndarray, bin_width: float, presence: float | None
) -> np.ndarray:
    """Spikes (T, N) in each bin or, with `presence`, the intervals of a bin that hold one."""
    if presence is None:
        return count_spikes(session.spike_times, members, edges, bin_width)
    each = whole_ratio("presence", bin_width, presence)
    fine = interval_edges(session, edges, bin_width, presence)
    return presence_sums(count_spikes(session.spike_times, members, fine, bin_width / each), each)


def interval_edges(
    session: Session, edges: np.ndarray, bin_width: float, presence: float
) -> np.ndarray:
    """Edges (T each + 1,) of the `each` intervals of `presence` s in every bin, on the clock."""
    each = whole_ratio("presence", bin_width, presence)
    inner = edges[:-1, None] + bin_width / each * np.arange(each)
    return snap_to_samples(np.append(inner.ravel(), edges[-1]), session.t)


def count_spikes(
    spike_times: tuple[np.ndarray, ...], members, edges: np.ndarray, bin_width: float
) -> np.ndarray:
    """Spike counts (T, N): column n sums the units `members[n]`; an edge is in the later bin.

    Equal to `np.histogram(times, edges)`, except that a spike on the very last edge has no bin. The
    division only guesses the bin; the comparison with the edges decides, because rounding moves one
    spike in ten thousand to the wrong side.
    """
    counts = np.zeros((len(edges) - 1, len(members)), np.uint8)
    for column, units in enumerate(members):
        trains = [spike_times[unit] for unit in units]
        times = trains[0] if len(trains) == 1 else np.concatenate(trains)
        bins = _bin_of(times, edges, bin_width)
        while _overflows(bins, counts.dtype):
            counts = counts.astype(np.uint16 if counts.dtype == np.uint8 else np.uint32)
        np.add.at(counts[:, column], bins, counts.dtype.type(1))  # 20 times slower with a plain 1
    return counts


def _bin_of(times: np.ndarray, edges: np.ndarray, bin_width: float) -> np.ndarray:
    """Bin of each spike in the grid, as intp: np.add.at is 20 times slower with a narrower one."""
    inside = (times >= edges[0]) & (times < edges[-1])
    times = times if inside.all() else times[inside]
    bins = ((times - edges[0]) / bin_width).astype(np.intp)
    np.minimum(bins, len(edges) - 2, out=bins)
    bins -= times < edges[bins]
    bins += times >= edges[bins + 1]
    return bins


def _overflows(bins: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a bin has more spikes than `dtype` can count: that many equal ones in order."""
    limit = int(np.iinfo(dtype).max)
    if len(bins) <= limit:
        return False
    ordered = bins if (bins[1:] >= bins[:-1]).all() else np.sort(bins)
    return bool((ordered[limit:] == ordered[:-limit]).any())
