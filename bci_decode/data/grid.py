"""The grid of bins on a recording's clock, and how far lag and delay shift it."""

from __future__ import annotations

import numpy as np

from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError

MIN_WIDTH = 0.001  # s; narrower bins add nothing to a 250 Hz clock and fill the memory with zeros


def bin_edges(
    session: Session, bin_width: float, lag: float = 0.0, delay: float = 0.0
) -> np.ndarray:
    """Edges (T + 1,) of all bins in the recording, as is the hand `lag - delay` seconds later.

    Every edge is a whole number of widths after `t[0]`, for any lag, and comes from one
    multiplication, so that rounding errors do not add up; then it is snapped to the clock (see
    `snap_to_samples`). A bin that ends within the same tolerance after `t[-1]` counts as complete.
    """
    if not MIN_WIDTH <= bin_width < np.inf:
        remedy = f"a bin needs a positive width in seconds, {MIN_WIDTH} or more"
        raise BciDecodeError(f"is {bin_width} s", field="data.bin_width", remedy=remedy)
    if not np.isfinite(lag):
        raise BciDecodeError(f"is {lag} s", field="data.lag", remedy="give a number of seconds")
    _check_shifts(session, lag, delay)
    shifts = f"data.lag {lag} s" + f" and data.delay {delay} s" * bool(delay)
    lag -= delay
    start, stop = session.t[0], session.t[-1]
    slack = _tolerance(session.t) / bin_width
    first = int(np.ceil(max(-lag, 0.0) / bin_width - slack))
    last = int(np.floor((stop - start - max(lag, 0.0)) / bin_width + slack))
    if last - first > 10 * len(session.t):
        raise BciDecodeError(
            f"spans {session.duration:.4g} s with {len(session.t)} samples only",
            file=session.path,
            field="t",
            remedy="cut the recording at its gaps",
        )
    if last <= first:
        raise BciDecodeError(
            f"is {bin_width} s (with {shifts}), the recording only {session.duration:.3f} s",
            file=session.path,
            field="data.bin_width",
            remedy="choose narrower bins" + shorter_shift(bin_width, lag),
        )
    return snap_to_samples(start + bin_width * np.arange(first, last + 1), session.t)


def _check_shifts(session: Session, lag: float, delay: float) -> None:
    """Refuse a lag or a delay, or both together, that is longer than the recording."""
    both = "data.delay - data.lag"
    for field, seconds in (("data.delay", delay), ("data.lag", abs(lag)), (both, abs(delay - lag))):
        if seconds >= session.duration:
            raise BciDecodeError(
                f"is {seconds:.4g} s, the recording only {session.duration:.3f} s",
                file=session.path,
                field=field,
                remedy="choose a shorter one",
            )


def shorter_shift(bin_width: float, lag: float) -> str:
    """What else a remedy names where `lag`, from which the delay is subtracted, takes bins."""
    if abs(lag) < bin_width:
        return ""
    return f", or a shorter {'data.lag' if lag > 0 else 'data.delay (or -data.lag)'}"


def snap_to_samples(times: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Replace times that lie within a thousandth of a sampling step of a sample by the sample's.

    A clock `t` is exact to some nanoseconds. At a time so little after its sample, interpolation
    would mix in the next one, and the last target of the training part would see the test part.
    """
    later = np.clip(np.searchsorted(t, times), 1, len(t) - 1)
    before, after = t[later - 1], t[later]
    nearest = np.where(times - before < after - times, before, after)
    return np.where(np.abs(times - nearest) <= _tolerance(t), nearest, times)


def _tolerance(t: np.ndarray) -> float:
    return 1e-3 * float(np.median(np.diff(t)))
