"""Bounds of a live stream's settings, each checked in one place."""

from __future__ import annotations

import math

import numpy as np

from bci_decode.errors import BciDecodeError

SPEEDS = (1e-3, 1e3)  # times the recording's own pace
TOLERANCE = 10.0  # s; a decoder that waits longer is not live, and bins that wait take memory


def check_speed(speed: float) -> None:
    """Refuse a speed of replay out of bounds; inf does not wait."""
    low, high = SPEEDS
    if not (low <= speed <= high or speed == math.inf):
        remedy = f"give {low:g} to {high:g}, or max"
        raise BciDecodeError(f"is {speed:g}", field="speed", remedy=remedy)


def check_tolerance(tolerance: float) -> None:
    """Refuse seconds that a bin cannot wait."""
    if not 0 <= tolerance <= TOLERANCE:
        remedy = f"give 0 to {TOLERANCE:g} s"
        raise BciDecodeError(f"is {tolerance} s", field="tolerance", remedy=remedy)


def check_max_gap(max_gap: float, bin_width: float = 0.0) -> None:
    """Refuse a gap that is shorter than a bin."""
    if not max_gap > 0 or max_gap < bin_width:
        least = f"a bin width, {bin_width} s, or more" if bin_width else "seconds above 0"
        raise BciDecodeError(f"is {max_gap} s", field="max_gap", remedy=f"give {least}")


def check_binning(bin_width: float, tolerance: float, max_gap: float) -> None:
    """Refuse settings (s) with which no bin is ever complete."""
    if not 0 < bin_width < math.inf:
        raise BciDecodeError(f"is {bin_width} s", field="bin_width", remedy="give seconds above 0")
    check_tolerance(tolerance)
    check_max_gap(max_gap, bin_width)


def check_grid(start: float | None, edges: np.ndarray | None, each: int) -> None:
    """Refuse a start that is no time, and edges that are not those of whole bins, in order."""
    if start is not None and not math.isfinite(start):
        raise BciDecodeError(f"is {start} s", field="start", remedy="give a time of the clock")
    if edges is None:
        return
    bins, rest = divmod(len(edges) - 1, each)
    if bins < 1 or rest or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        remedy = f"give ascending times, {each} for each bin and one more"
        raise BciDecodeError(f"are {len(edges)} times", field="edges", remedy=remedy)
