"""Measurements of a session in plain numbers: clock, channels, spikes, rates, movement, targets.

The ending of a key gives its unit. Rates count the spikes from the first to the last sample, per
second in which spikes were recorded. A share is from 0 to 1, and None means that there is no such
number. Where a movement has a `unit`, its file gives no length or speed: the numbers whose keys end
in mm or mm_s are then in this unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bci_decode.data.recording_variables import POSITIONS
from bci_decode.data.segments import observed_seconds, unobserved
from bci_decode.data.series import Series
from bci_decode.data.session import Session, area_of, clock_gaps, sources

REST_SPEED = 10.0  # mm/s; slower is rest
LONG_REST = 10.0  # s
SLOW, FAST = 0.5, 200.0  # Hz; units outside this range are listed
STILL = 1e-6  # mm; a smaller range is no movement
REFRACTORY = 0.0005  # s; no neuron fires twice within it
# ratio of spikes in the outer fifths; least number in one of them
DRIFT_FACTOR, DRIFT_SPIKES = 4, 40
STUDY_WIDTH = 0.064  # s, the source study's bins

Numbers = dict[str, Any]


def measure(session: Session) -> dict[str, Numbers]:
    """All measurements of a session, by section."""
    numbers = {
        "shapes": shapes(session),
        "clock": clock(session.t),
        "channels": channels(session),
        "spikes": spikes(session),
        "rates": rates(session),
    }
    if len(gaps := unobserved(session)):
        numbers["unobserved"] = {"gaps": [_gap(start, stop - start) for start, stop in gaps]}
    for name in sources(session):
        numbers[name] = movement(session.t, session.series[name])
    if session.finger_pos is not None and session.cursor_pos is not None:
        finger, cursor = session.finger_pos, session.cursor_pos
        numbers["finger_cursor_correlation"] = finger_cursor_correlation(finger, cursor)
    if session.target_pos is not None:
        numbers["targets"] = targets(session.target_pos, session.duration)
    return numbers


def shapes(session: Session) -> Numbers:
    """The shapes of t and of all series, those of a published recording in the files' order."""
    names = sorted(session.series, key=lambda name: (*POSITIONS, name).index(name))
    shapes = {name: list(session.series[name].values.shape) for name in names}
    return {"t": list(session.t.shape)} | shapes


def clock(t: np.ndarray) -> Numbers:
    """The clock `t` (T,) in s and its gaps."""
    steps = np.diff(t)
    return {
        "samples": len(t),
        "start_s": float(t[0]),
        "stop_s": float(t[-1]),
        "minutes": float(t[-1] - t[0]) / 60,
        "hz": 1 / float(np.median(steps)),
        "gaps": [_gap(t[i], steps[i]) for i in clock_gaps(t)],
        "bins_of_64_ms": int((t[-1] - t[0]) / STUDY_WIDTH + 1e-4),
    }


def _gap(start: float, seconds: float) -> Numbers:
    return {"start_s": float(start), "seconds": float(seconds)}


def channels(session: Session) -> Numbers:
    """Channels by area, and those on which no unit has a spike in the recording."""
    areas = [area_of(name) for name in session.channels]
    active = set(session.units.loc[session.units["spikes"] > 0, "channel"])
    silent = [name for name in session.channels if name not in active]
    return {
        "total": len(areas),
        "areas": {area: areas.count(area) for area in dict.fromkeys(areas)},
        "silent": len(silent),
        "silent_channels": silent,
    }


def spikes(session: Session) -> Numbers:
    """Spikes in and outside the recording; units with over 1 % of impossible intervals.

    Impossible are two spikes of a unit at the same time and, in a sorted unit, within half a
    millisecond. Hash is the sum of many neurons, so its events may be as close as they like.
    """
    start, stop = session.t[[0, -1]]
    violations = []
    total = before = after = same_time = 0
    rows = session.units["row"]
    for times, name, row in zip(session.spike_times, unit_names(session), rows, strict=True):
        intervals = np.diff(times)
        if len(intervals) and intervals.min() < 0:
            times = np.sort(times)
            intervals = np.diff(times)
        total += len(times)
        before += int(np.searchsorted(times, start, side="left"))
        after += len(times) - int(np.searchsorted(times, stop, side="right"))
        short = np.count_nonzero(intervals < REFRACTORY)
        equal = int(np.count_nonzero(intervals == 0)) if short else 0
        same_time += equal
        if (short if row else equal) > 0.01 * len(intervals):
            violations.append(name)
    return {
        "total": total,
        "inside": total - before - after,
        "before": before,
        "after": after,
        "same_time": same_time,
        "refractory_violations": violations,
    }


def unit_rates(session: Session) -> np.ndarray:
    """The rate (N,) of each unit in Hz while spikes were recorded."""
    seconds = observed_seconds(session)
    return session.units["spikes"].to_numpy() / (seconds if seconds > 0 else np.inf)


def unit_names(session: Session) -> list[str]:
    """ "M1 003 row 1" for each unit."""
    units = zip(session.units["channel"], session.units["row"], strict=True)
    return [f"{channel} row {row}" for channel, row in units]


def rates(session: Session) -> Numbers:
    """Units and their rates: of all, by row, and the units that are slow, fast or drifting.

    A unit drifts if the first and the last fifth of the time differ more than fourfold in spikes.
    """
    hz = unit_rates(session)
    names = np.array(unit_names(session), dtype=object)
    rows = session.units["row"].to_numpy()
    fifths = session.t[0] + session.duration * np.array([0, 0.2, 0.8, 1])
    outer = [np.histogram(times, fifths)[0][[0, 2]] for times in session.spike_times]
    fewer, more = np.sort(np.array(outer).reshape(-1, 2)).T
    return {
        **_spread(hz),
        "mean_hz": float(hz.mean()) if len(hz) else None,
        "highest_unit": names[hz.argmax()] if len(hz) else None,
        "rows": {str(row): _spread(hz[rows == row]) for row in np.unique(rows)},
        "hash_units": int((rows == 0).sum()),
        "slow": list(names[hz < SLOW]),
        "fast": list(names[hz > FAST]),
        "drifting": list(names[(more > DRIFT_FACTOR * fewer) & (more >= DRIFT_SPIKES)]),
    }


def _spread(hz: np.ndarray) -> Numbers:
    lowest, median, highest = _quantiles(hz, (0, 0.5, 1))
    return {"units": len(hz), "lowest_hz": lowest, "median_hz": median, "highest_hz": highest}


def movement(t: np.ndarray, series: Series) -> Numbers:
    """Range of x and y, speed and rest of a movement; ignores missing samples.

    A long rest is a stretch in which the speed, averaged over half a second, stays below
    `REST_SPEED`; in a unit of the file's own there is none. The range is of the position or, where
    that is not known, of the velocity.
    """
    path = series.values[:, :2]
    good = np.isfinite(path).all(1)
    path = path if good.all() else np.where(good[:, None], path, np.nan)
    speed = np.hypot(*(path if series.order else np.gradient(path, t, axis=0)).T)
    unit = "mm_s" if series.order else "mm"
    known = speed[np.isfinite(speed)]
    median, p95, highest = _quantiles(known, (0.5, 0.95, 1))
    rests = [] if series.unit else _stretches(_resting(t, speed), t)
    resting = None if series.unit or not len(known) else float((known < REST_SPEED).mean())
    return ({"unit": series.unit} if series.unit else {}) | {
        f"x_{unit}": _quantiles(path[good, 0], (0, 1)),
        f"y_{unit}": _quantiles(path[good, 1], (0, 1)),
        "mean_mm_s": float(known.mean()) if len(known) else None,
        "median_mm_s": median,
        "p95_mm_s": p95,
        "highest_mm_s": highest,
        "rest_share": resting,
        "missing": _stretches(~good, t),
        "missing_samples": int((~good).sum()),
        "long_rests": [rest for rest in rests if rest["seconds"] > LONG_REST],
    }


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> list[Any]:
    if not len(values):
        return [None] * len(shares)
    return [float(value) for value in np.quantile(values, shares)]


def _resting(t: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Mask (T,) of samples at rest; unknown speeds and gaps of the clock are not rest."""
    speed = np.where(np.isfinite(speed), speed, 1e6)
    gaps = clock_gaps(t)
    speed[gaps] = speed[gaps + 1] = 1e6
    window = min(max(round(0.5 / np.median(np.diff(t))), 1), len(t))
    padded = np.pad(speed, (window // 2 + 1, window - 1 - window // 2), mode="edge")
    sums = np.cumsum(padded)
    return (sums[window:] - sums[:-window]) / window < REST_SPEED


def _stretches(flags: np.ndarray, t: np.ndarray) -> list[Numbers]:
    """Start and seconds of each run of True; the last sample of a run counts with its own step."""
    borders = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    step = np.median(np.diff(t))
    runs = zip(borders[::2], borders[1::2] - 1, strict=True)
    return [_gap(t[a], t[b] - t[a] + step) for a, b in runs]


def finger_cursor_correlation(
    finger_pos: np.ndarray, cursor_pos: np.ndarray
) -> dict[str, float | None]:
    """Correlation of finger and cursor along x and y; None where one of them does not move."""
    axes = zip("xy", finger_pos[:, :2].T, cursor_pos[:, :2].T, strict=True)
    return {axis: _correlation(finger, cursor) for axis, finger, cursor in axes}


def _correlation(finger: np.ndarray, cursor: np.ndarray) -> float | None:
    both = np.stack([finger, cursor])[:, np.isfinite(finger) & np.isfinite(cursor)]
    if both.shape[1] < 2 or np.ptp(both, axis=1).min() < STILL:
        return None
    return float(np.corrcoef(both)[0, 1])


def targets(target_pos: np.ndarray, duration: float) -> Numbers:
    """Targets reached (each brings up the next), and the number of distinct places."""
    shown = target_pos[np.isfinite(target_pos).all(1)]
    distinct = shown[np.diff(shown, axis=0, prepend=np.nan).any(1)]
    reached = max(len(distinct) - 1, 0)
    return {
        "reached": reached,
        "per_minute": 60 * reached / duration,
        "places": len(np.unique(distinct, axis=0)),
    }
