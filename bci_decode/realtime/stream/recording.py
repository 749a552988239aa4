"""What a session file holds of a live stream: its clock, positions and spikes.

Shapes: E events, N units, T bins, D axes of the target.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bci_decode.data.simulate import SAMPLE, Recording

MAX_KINEMATICS = 1e9  # in the unit of any target; no hand gets there


def recording_of(header: dict[str, Any], events: np.ndarray, bins: np.ndarray) -> Recording:
    """The recording of a journal: its header, events of dtype `EVENT`, bins (T, 2 + 2 D)."""
    width, lag = header["bin_width"], header["lag"]
    index, ends = bins[:, 0], bins[:, 1]
    follows = np.append(False, np.diff(index) == 1)
    starts = np.where(follows, np.roll(ends, 1), ends - width)
    t = _clock(starts, ends, width, lag)
    decoded, true = np.split(bins[:, 2:], 2, axis=1)
    moved = [
        _positions(values, starts, ends, header["target"], width, lag, t)
        for values in (true, decoded)
    ]
    finger = np.full((len(t), 6), np.nan)  # z, -x, -y in cm, then angles
    finger[:, 1:3] = -0.1 * moved[0]
    names = list(dict.fromkeys(channel for channel, _ in header["units"]))
    return Recording(
        t=t,
        cursor_pos=moved[1],
        target_pos=np.full((len(t), 2), np.nan),
        finger_pos=finger,
        spikes=_cells(header["units"], names, events),
        chan_names=names,
    )


def _clock(starts: np.ndarray, ends: np.ndarray, width: float, lag: float) -> np.ndarray:
    """Samples at every edge and, about 4 ms apart, between; none where bins are missing.

    Whole bins are added before or after, so that the movement `lag` after each bin has samples.
    """
    around = math.ceil(abs(lag) / width - 1e-6)
    more = width * np.arange(1, around + 1)
    if lag < 0:
        edges = np.append(starts[0] - more[::-1], starts[0])
        starts, ends = np.append(edges[:-1], starts), np.append(edges[1:], ends)
    elif around:
        edges = np.append(ends[-1], ends[-1] + more)
        starts, ends = np.append(starts, edges[:-1]), np.append(ends, edges[1:])
    each = math.ceil(width / SAMPLE - 1e-6)
    inside = starts[:, None] + (ends - starts)[:, None] * (np.arange(each) / each)
    return np.unique(np.append(inside.ravel(), ends))


def _positions(
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    target: str,
    width: float,
    lag: float,
    t: np.ndarray,
) -> np.ndarray:
    """x and y in mm (len(t), 2) from the kinematics (T, D) of bins; they stand still outside."""
    if target == "acceleration":
        return np.full((len(t), 2), np.nan)
    known = np.abs(values[:, :2]) < MAX_KINEMATICS  # other bits are damaged ones
    times, path = ends, np.where(known, values[:, :2], np.nan)
    if target == "velocity":
        times = np.append(starts[0], ends)
        steps = np.concatenate([0.0 * path[:1], path])
        path = width * np.nan_to_num(steps).cumsum(axis=0)
        path[np.isnan(steps)] = np.nan  # the bins after an unknown one are known again
    return np.stack([np.interp(t - lag, times, axis) for axis in path.T], axis=1)


def _cells(units: list, names: list[str], events: np.ndarray) -> list[list[np.ndarray]]:
    """Ascending spike times by channel and row; merged rows are in row 0."""
    order = np.lexsort((events["time"], events["column"]))
    cuts = np.searchsorted(events["column"][order], np.arange(len(units) + 1))
    rows = max(1, *(row + 1 for _, row in units)) if units else 1
    cells = [[np.empty(0)] * rows for _ in names]
    for number, (channel, row) in enumerate(units):
        times = events["time"][order[cuts[number] : cuts[number + 1]]]
        cells[names.index(channel)][max(row, 0)] = times
    return cells


def even_events(counts: np.ndarray, start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and columns of as many spikes as `counts` (N,) tell, each unit's evenly within a bin.

    They stand for spikes whose times are unknown.
    """
    whole = np.asarray(counts).astype(np.intp)
    columns = np.repeat(np.arange(len(whole)), whole)
    first = np.cumsum(whole) - whole
    place = np.arange(len(columns)) - first[columns]
    return start + (stop - start) * (place + 0.5) / whole[columns], columns
