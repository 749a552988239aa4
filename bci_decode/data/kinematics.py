"""The hand's movement in bins: position, velocity and acceleration, NaN where it is unknown."""

from __future__ import annotations

import logging

import numpy as np

from bci_decode.config import TARGETS
from bci_decode.data.grid import snap_to_samples
from bci_decode.data.segments import long_gaps, touched, unknown_intervals
from bci_decode.data.series import Series
from bci_decode.data.session import Session, clock_gaps, sources
from bci_decode.data.velocity import mean_velocity
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)

ORDERS = {"position": 0, "velocity": 1, "acceleration": 2}  # of the derivative of position


def kinematics(
    session: Session,
    edges: np.ndarray,
    bin_width: float,
    lag: float,
    target: str,
    source: str,
    difference: str = "bin",
) -> np.ndarray:
    """x and y (T, 2) of the hand for each bin, `lag` seconds after it.

    Position (mm) is taken at the bin's end; velocity (mm/s) is the difference in position over the
    bin / bin_width; acceleration (mm/s^2) is the difference to the velocity of the bin before /
    bin_width, and the first bin repeats the second's. Samples are interpolated linearly.

    With the `difference` "central", velocity is the central difference of the samples at the bin's
    end, as in NeuroBench, where it is in mm per 4 ms sample: 1 / 250 of this one, with the same R2.
    It sees one sample after the bin. Acceleration is the central difference of that.

    Where the source is a velocity, its mean over the bin stands for the difference in position, and
    with "central" its value at the bin's end for the central difference.

    A value is NaN where a sample that it is made of, or one between two of these, is not finite,
    and where a long gap of the clock lies between them.
    """
    path, order = _known_path(session, source), session.series[source].order
    times = snap_to_samples(edges + lag, session.t)
    if difference == "central":
        before = long_gaps(session.t)
        for _ in range(order, ORDERS[target]):
            path = np.gradient(path, session.t, axis=0)
            path[before] = path[before + 1] = np.nan  # differences across a gap
    missing = unknown_intervals(session.t, np.isnan(path).any(axis=1))
    if order and difference != "central":
        velocity = mean_velocity(path, session.t, times)
    else:
        position = np.stack([np.interp(times, session.t, axis) for axis in path.T], axis=1)
        if target == "position" or difference == "central":
            position[touched(times, times, missing)] = np.nan
            return position[1:]
        velocity = np.diff(position, axis=0) / bin_width
    velocity[touched(times[:-1], times[1:], missing)] = np.nan
    return velocity if target == "velocity" else _acceleration(session, velocity, bin_width)


def _acceleration(session: Session, velocity: np.ndarray, bin_width: float) -> np.ndarray:
    """The difference of each bin's velocity to that of the bin before; the first repeats."""
    if len(velocity) < 2:
        problem, remedy = "acceleration needs two bins at least", "choose narrower bins"
        raise BciDecodeError(problem, file=session.path, field="data.target", remedy=remedy)
    acceleration = np.diff(velocity, axis=0) / bin_width
    return np.concatenate([acceleration[:1], acceleration])


def unit_of(series: Series, target: str) -> str:
    """The unit of a target that is made of a series: "mm/s", or "a.u./s" of a place in a.u."""
    if series.unit is None:
        return TARGETS[target]
    return series.unit + ("", "/s", "/s²")[ORDERS[target] - series.order]


def seconds_ahead(
    session: Session,
    edges: np.ndarray,
    lag: float,
    target: str,
    difference: str,
    source: str,
) -> float:
    """Seconds of the hand after a bin that its central difference depends on; 0 with no other.

    It is a sample for each derivative, and one more where bins end between samples. Parts of a
    split must be so far apart that no training target depends on the test part.
    """
    if difference != "central" or not ORDERS[target]:
        return 0.0
    between = not np.isin(snap_to_samples(edges + lag, session.t), session.t).all()
    step = float(np.median(np.diff(session.t)))
    derivatives = ORDERS[target] - session.series[source].order
    return round((derivatives + between) * step, 6)  # a clock is exact to nanoseconds


def _known_path(session: Session, source: str) -> np.ndarray:
    """x and y (T, 2) of a series, both NaN where one is not finite; refused where all are.

    A short gap of the clock, across which the hand is interpolated, is logged.
    """
    path = session.series[source].values[:, :2]
    bad = ~np.isfinite(path).all(axis=1)
    if bad.all():
        others = [name for name in sources(session) if name != source]
        raise BciDecodeError(
            f"NaN or Inf at all of {len(bad)} samples",
            file=session.path,
            field=source,
            remedy="repair it" + "".join(f", or try data.source={s}" for s in others[:1]),
        )
    gaps = np.setdiff1d(clock_gaps(session.t), long_gaps(session.t))
    if gaps.size:
        longest, first_gap = np.diff(session.t)[gaps].max(), session.t[gaps[0]]
        log.warning(
            f"{session.path}: t has {gaps.size} gaps, the longest {longest:.3f} s, "
            f"the first at {first_gap:.3f} s; the hand is interpolated across them"
        )
    return np.where(bad[:, None], np.nan, path) if bad.any() else path
