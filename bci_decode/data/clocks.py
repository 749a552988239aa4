"""Whether spikes and movement are on one clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bci_decode.errors import BciDecodeError

LONGER = 100  # times as long as the movement are spikes on another clock
MILLISECONDS = (900.0, 1100.0)  # times as long, within what may be recorded around the movement


def check_same_clock(path: Path, t: np.ndarray, spikes: np.ndarray, movement: str) -> None:
    """Refuse spikes at other times than the movement, and spikes in milliseconds or samples.

    All times are finite, and those of the movement, `t`, increase.
    """
    if not len(spikes):
        return  # nothing to compare
    first, last, start, stop = (float(s) for s in (spikes.min(), spikes.max(), t[0], t[-1]))
    where = (
        f"spikes are from {first:.6g} to {last:.6g}, {movement} from {start:.6g} to {stop:.6g} s"
    )
    longer = (last - first) / (stop - start)
    if longer > LONGER:
        low, high = MILLISECONDS
        unit = "milliseconds" if low < longer < high else "milliseconds or samples"
        problem = f"mixed clocks: {where}, as if spikes were in {unit}"
        raise BciDecodeError(problem, file=path, remedy="give both in seconds")
    if first > stop or last < start:
        problem = f"the times do not overlap: {where}"
        raise BciDecodeError(problem, file=path, remedy="bring both onto one clock, in seconds")
