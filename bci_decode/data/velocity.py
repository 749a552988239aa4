"""A recorded velocity: its mean over bins, and the path that it describes."""

from __future__ import annotations

import numpy as np


def mean_velocity(velocity: np.ndarray, t: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean (T, 2) of a velocity over each bin between `times`; NaN where a part is unknown.

    The velocity is linear between its samples. Where it is known, the difference over the bin of
    its integral / bin width is the mean.
    """
    ends = np.isfinite(velocity).all(axis=1)
    velocity = np.where(ends[:, None], velocity, 0.0)
    known = ends[1:] & ends[:-1]
    steps = np.diff(t)
    moved = np.where(known[:, None], (velocity[1:] + velocity[:-1]) / 2 * steps[:, None], 0.0)
    columns = np.column_stack([moved, np.where(known, 0.0, steps)])  # x, y, seconds unknown
    sums = np.concatenate([np.zeros((1, 3)), np.cumsum(columns, axis=0)])
    before = np.clip(np.searchsorted(t, times, side="right") - 1, 0, len(t) - 2)
    inside = times - t[before]
    now, slope = velocity[before], np.diff(velocity, axis=0)[before]
    integral = (
        sums[before, :2] + (now + slope * (inside / steps[before] / 2)[:, None]) * inside[:, None]
    )
    unknown = sums[before, 2] + np.where(known[before], 0.0, inside)
    means = np.diff(integral, axis=0) / np.diff(times)[:, None]
    means[np.diff(unknown) > 0] = np.nan
    return means


def integrated(velocity: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The path (T, C) of a velocity, from 0; it stands still and is NaN where the velocity is."""
    known = np.isfinite(velocity)
    sums = np.where(known, velocity, 0.0)
    steps = np.diff(t)[:, None] * (sums[1:] + sums[:-1]) / 2
    both = known[1:] & known[:-1]
    path = np.concatenate([np.zeros_like(sums[:1]), np.cumsum(np.where(both, steps, 0.0), axis=0)])
    return np.where(known, path, np.nan)
