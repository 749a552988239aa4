"""Filters of decoded kinematics that a live decoder can run: each output needs past ones alone."""

from __future__ import annotations

import numpy as np

ORDER = 4


def low_pass(values: np.ndarray, cutoff: float) -> np.ndarray:
    """Filter (T, D) with a causal Bessel filter of order 4, which keeps the shape of movements.

    `cutoff`, in cycles per bin, is where the power is halved. The filter starts as if the first
    value had been there for ever. Source: Bessel filters of decoded velocity in peers' decoders of
    this data set (Neuromorph. Comput. Eng. 5, 014013).
    """
    from scipy import signal  # imports scipy.stats, half a second that few runs need

    sections = signal.bessel(ORDER, 2 * cutoff, output="sos", norm="mag")
    start = signal.sosfilt_zi(sections)[:, :, None] * values[:1]
    return signal.sosfilt(sections, values, axis=0, zi=start)[0]
