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

    sections, start = bessel_sections(cutoff)
    return signal.sosfilt(sections, values, axis=0, zi=start[:, :, None] * values[:1])[0]


def bessel_sections(cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Second-order sections (K, 6) of the filter, and their delays (K, 2) after a long input of 1.

    Both as `scipy.signal.sosfilt` takes them.
    """
    from scipy import signal

    sections = signal.bessel(ORDER, 2 * cutoff, output="sos", norm="mag")
    return sections, signal.sosfilt_zi(sections)
