"""What is in a session, in plain numbers, and what in it may hurt decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bci_decode.data.binning import SOURCES
from bci_decode.data.session import POSITIONS, Session

CLOCK_HZ = 250.0  # of every published recording
REST_SPEED = 10.0  # mm/s; slower is rest
LONG_REST = 10.0  # s
SLOW, FAST = 0.5, 200.0  # Hz; rates beyond them are worth a word
STILL = 1e-6  # mm; what moves less does not move
REFRACTORY = 0.0005  # s; no neuron fires twice within it
FOLD, DRIFT_SPIKES = (
    4,
    40,
)  # drift: this many times more spikes in one of the outer fifths, which has this many at least
STUDY_BINS, STUDY_WIDTH, STUDY_TEST = 5000, 0.064, 500  # the source study's training part; bins left to test on

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Inspection:
    """A session's figures by section, all plain numbers (None: there is none), and a sentence for each warning.

    Sections: shapes, clock, channels, spikes, rates, finger_pos, cursor_pos, agreement, targets. A key's ending tells its
    unit; rates count the spikes from the first to the last sample, a share is from 0 to 1.
    """

    numbers: dict[str, Numbers]
    warnings: list[str]


def inspect(session: Session) -> Inspection:
    """Measure a session and say what in it may hurt decoding."""
    numbers = {
        "shapes": {name: list(getattr(session, name).shape) for name in ("t", *POSITIONS)},
        "clock": clock(session.t),
        "channels": channels(session),
        "spikes": spikes(session),
        "rates": rates(session),
        "finger_pos": movement(session.t, session.finger_pos[:, :2]),
        "cursor_pos": movement(session.t, session.cursor_pos),
        "agreement": agreement(session),
        "targets": targets(session),
    }
    return Inspection(numbers, [*_clock_warnings(numbers), *_unit_warnings(numbers), *_movement_warnings(numbers)])


def clock(t: np.ndarray) -> Numbers:
    """Times (T,) in s: a gap is a step of more than one and a half usual ones."""
    steps = np.diff(t)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    return {
        "samples": len(t),
        "start_s": float(t[0]),
        "stop_s": float(t[-1]),
        "minutes": float(t[-1] - t[0]) / 60,
        "hz": 1 / usual,
        "gaps": [{"start_s": float(t[i]), "seconds": float(steps[i])} for i in gaps],
        "bins_of_64_ms": int((t[-1] - t[0]) / STUDY_WIDTH + 1e-4),
    }


def channels(session: Session) -> Numbers:
    """Channels by area, and those on which no unit has a spike in the recording."""
    areas = [name.split(" ")[0] for name in session.channels]
    heard = set(session.units.loc[session.units["spikes"] > 0, "channel"])
    silent = [name for name in session.channels if name not in heard]
    return {
        "total": len(areas),
        "areas": {area: areas.count(area) for area in dict.fromkeys(areas)},
        "silent": len(silent),
        "silent_channels": silent,
    }


def spikes(session: Session) -> Numbers:
    """Spikes in and outside the recording; units with more than one impossible interval in a hundred.

    Impossible are two events of a unit at one time and, in a sorted unit, within half a millisecond; hash is the
    sum of many neurons, so that its events may come as close as they like.
    """
    start, stop = session.t[[0, -1]]
    crowded = []
    total = before = after = same = 0
    for times, name, row in zip(session.spike_times, unit_names(session), session.units["row"], strict=True):
        intervals = np.diff(times)
        if len(intervals) and intervals.min() < 0:
            times = np.sort(times)
            intervals = np.diff(times)
        total += len(times)
        before += int(np.searchsorted(times, start, side="left"))
        after += len(times) - int(np.searchsorted(times, stop, side="right"))
        short = np.count_nonzero(intervals < REFRACTORY)
        equal = int(np.count_nonzero(intervals == 0)) if short else 0
        same += equal
        if (short if row else equal) > 0.01 * len(intervals):
            crowded.append(name)
    inside = total - before - after
    return {"total": total, "inside": inside, "before": before, "after": after, "same_time": same, "crowded": crowded}


def unit_names(session: Session) -> list[str]:
    """ "M1 003 row 1" for each unit."""
    return [f"{name} row {row}" for name, row in zip(session.units["channel"], session.units["row"], strict=True)]


def rates(session: Session) -> Numbers:
    """Units and their rates: of all, by row, and the units that are slow, fast or adrift.

    A unit is adrift if one of the first and the last fifth of the time has over four times the spikes of the other.
    """
    hz = (session.units["spikes"] / session.duration).to_numpy()
    names = np.array(unit_names(session), dtype=object)
    rows = session.units["row"].to_numpy()
    fifths = session.t[0] + session.duration * np.array([0, 0.2, 0.8, 1])
    ends = np.array([np.histogram(times, fifths)[0][[0, 2]] for times in session.spike_times]).reshape(-1, 2)
    adrift = (ends.max(1) > FOLD * ends.min(1)) & (ends.max(1) >= DRIFT_SPIKES)
    return {
        **_spread(hz),
        "mean_hz": float(hz.mean()) if len(hz) else None,
        "highest_unit": names[hz.argmax()] if len(hz) else None,
        "rows": {str(row): _spread(hz[rows == row]) for row in np.unique(rows)},
        "hash_units": int((rows == 0).sum()),
        "slow": list(names[hz < SLOW]),
        "fast": list(names[hz > FAST]),
        "adrift": list(names[adrift]),
    }


def _spread(hz: np.ndarray) -> Numbers:
    lowest, median, highest = _quantiles(hz, (0, 0.5, 1))
    return {"units": len(hz), "lowest_hz": lowest, "median_hz": median, "highest_hz": highest}


def movement(t: np.ndarray, path: np.ndarray) -> Numbers:
    """Range of x and y, speed and rest of a `path` (T, 2) in mm; samples without a position count nowhere.

    A long rest is a stretch over which the speed, averaged over half a second, stays below `REST_SPEED`.
    """
    good = np.isfinite(path).all(1)
    path = path if good.all() else np.where(good[:, None], path, np.nan)
    speed = np.hypot(*np.gradient(path, t, axis=0).T)
    known = speed[np.isfinite(speed)]
    median, most, highest = _quantiles(known, (0.5, 0.95, 1))
    return {
        "x_mm": _quantiles(path[good, 0], (0, 1)),
        "y_mm": _quantiles(path[good, 1], (0, 1)),
        "mean_mm_s": float(known.mean()) if len(known) else None,
        "median_mm_s": median,
        "p95_mm_s": most,
        "highest_mm_s": highest,
        "rest_share": float((known < REST_SPEED).mean()) if len(known) else None,
        "missing": _stretches(~good, t),
        "missing_samples": int((~good).sum()),
        "long_rests": [rest for rest in _stretches(_resting(t, speed), t) if rest["seconds"] > LONG_REST],
    }


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> list[Any]:
    return [float(value) for value in np.quantile(values, shares)] if len(values) else [None] * len(shares)


def _resting(t: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Mask (T,) of samples at rest; what is unknown, and what a gap of the clock hides, is no rest."""
    steps = np.diff(t)
    usual = np.median(steps)
    speed = np.where(np.isfinite(speed), speed, 1e6)
    gaps = np.flatnonzero(steps > 1.5 * usual)
    speed[gaps] = speed[gaps + 1] = 1e6
    window = min(max(round(0.5 / usual), 1), len(t))
    sums = np.cumsum(np.pad(speed, (window // 2 + 1, window - 1 - window // 2), mode="edge"))
    return (sums[window:] - sums[:-window]) / window < REST_SPEED


def _stretches(flags: np.ndarray, t: np.ndarray) -> list[Numbers]:
    """Start and seconds of each run of True, the last sample's own time included."""
    borders = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    step = np.median(np.diff(t))
    runs = zip(borders[::2], borders[1::2] - 1, strict=True)
    return [{"start_s": float(t[a]), "seconds": float(t[b] - t[a] + step)} for a, b in runs]


def agreement(session: Session) -> Numbers:
    """Correlation of finger and cursor along x and y, None where one of them stands still."""
    pairs = zip("xy", session.finger_pos[:, :2].T, session.cursor_pos.T, strict=True)
    return {f"correlation_{axis}": _correlation(finger, cursor) for axis, finger, cursor in pairs}


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    both = np.stack([one, other])[:, np.isfinite(one) & np.isfinite(other)]
    if both.shape[1] < 2 or np.ptp(both, axis=1).min() < STILL:
        return None
    return float(np.corrcoef(both)[0, 1])


def targets(session: Session) -> Numbers:
    """Targets reached (each brings up the next), and the number of places where there were any."""
    shown = session.target_pos[np.isfinite(session.target_pos).all(1)]
    fresh = shown[np.diff(shown, axis=0, prepend=np.nan).any(1)]
    reached = max(len(fresh) - 1, 0)
    return {
        "reached": reached,
        "per_minute": 60 * reached / session.duration,
        "places": len(np.unique(fresh, axis=0)),
    }


def _clock_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    found = numbers["clock"]
    if abs(1 / found["hz"] - 1 / CLOCK_HZ) > 1e-4:
        yield f"the clock runs at {found['hz']:.5g} Hz, not {CLOCK_HZ:g}; check that t is in seconds"
    if gaps := found["gaps"]:
        yield (
            f"t has {_several(gaps, 'gap')}, {_longest(gaps)}; positions are interpolated across, "
            "spikes are absent there: cut the recording at a long one"
        )
    bins = found["bins_of_64_ms"]
    if bins < STUDY_BINS + STUDY_TEST:
        fewer = int(0.8 * bins)
        yield (
            f"{bins} bins of 64 ms are too few for experiment=source_study, which trains on the first {STUDY_BINS}; "
            f"add data.split.first_bins={fewer - fewer % 100 or fewer}"
        )


def _unit_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    wires, fired, found = numbers["channels"], numbers["spikes"], numbers["rates"]
    if not found["units"]:
        yield "no channel has spikes: there is nothing to decode from; check the variable spikes"
        return
    if wires["silent"] > 0.2 * wires["total"]:
        yield (
            f"{wires['silent']} of {wires['total']} channels are silent; expect lower scores than from a whole array, "
            "and fetch the file again if it should be whole"
        )
    if found["units"] == found["hash_units"]:
        yield "no unit is sorted; data.units=sorted would leave none, keep data.units=all"
    outside = fired["before"] + fired["after"]
    if outside > 0.05 * fired["total"]:
        yield (
            f"{outside / fired['total']:.0%} of the spikes lie outside t ({fired['before']} before, {fired['after']} "
            "after) and are left out; check that both have the same clock"
        )
    if fired["crowded"]:
        yield (
            f"{_several(fired['crowded'], 'unit')} ({_first(fired['crowded'])}) with over 1% of intervals that no "
            "neuron has (below 0.5 ms; hash: 0); spikes may be listed twice: remove them; data.units=sorted leaves out hash"
        )
    if found["slow"]:
        yield (
            f"{_several(found['slow'], 'unit')} below {SLOW} Hz ({_first(found['slow'])}); "
            f"leave out with data.min_rate={SLOW}"
        )
    if found["fast"]:
        yield (
            f"{_several(found['fast'], 'unit')} above {FAST:g} Hz ({_first(found['fast'])}), more likely noise than "
            "neurons; look at --figure, and at data.units=sorted if they are hash (row 0)"
        )
    if found["adrift"]:
        yield (
            f"{_several(found['adrift'], 'unit')} with a rate that changes more than fourfold from the first to the last "
            f"fifth ({_first(found['adrift'])}); the test part comes last: data.units=merged is less prone to it"
        )


def _movement_warnings(numbers: dict[str, Numbers]) -> Iterator[str]:
    still = {source: _still(numbers[source]) for source in SOURCES}
    sound = [source for source in SOURCES if not still[source] and not numbers[source]["missing"]]
    remedy = "repair it, or cut it out of the recording"
    if sound:
        remedy = f"{'keep' if sound[0] == SOURCES[0] else 'use'} data.source={sound[0]}"
    for source in SOURCES:
        if missing := numbers[source]["missing"]:
            samples = numbers[source]["missing_samples"]
            yield (
                f"{source} is NaN or Inf at {_several(samples, 'sample')} in "
                f"{_several(missing, 'stretch', 'stretches')}, {_longest(missing)}; {remedy}"
            )
        if still[source]:
            yield f"{source} never moves along {still[source]}; {remedy}"
    low = {axis: value for axis, value in numbers["agreement"].items() if value is not None and value < 0.99}
    if low:
        figures = ", ".join(f"{axis[-1]} {value:.3f}" for axis, value in low.items())
        yield (
            f"finger and cursor disagree (correlation {figures}); look at --figure and choose "
            "data.source=finger_pos or data.source=cursor_pos"
        )
    hand = sound[0] if sound else SOURCES[0]
    if (rests := numbers[hand]["long_rests"]) and still[hand] != "x and y":
        yield (
            f"the hand rests for more than {LONG_REST:g} s {_several(rests, 'time')}, {_longest(rests)}; "
            "scores of rest say little about reaches: cut it out"
        )


def _still(found: Numbers) -> str:
    """ "x", "y", "x and y" or "": along which axes nothing moves."""
    ranges = {axis: found[f"{axis}_mm"] for axis in "xy"}
    return " and ".join(axis for axis, (low, high) in ranges.items() if low is not None and high - low < STILL)


def _several(things: list | int, one: str, many: str | None = None) -> str:
    number = things if isinstance(things, int) else len(things)
    return f"{number} {one if number == 1 else many or one + 's'}"


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _longest(stretches: list[Numbers]) -> str:
    longest = max(stretches, key=lambda stretch: stretch["seconds"])
    which = "" if len(stretches) == 1 else "the longest "
    return f"{which}{longest['seconds']:.3f} s at t = {longest['start_s']:.3f} s"
