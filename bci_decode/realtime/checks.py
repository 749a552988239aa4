"""Checks of what a program gives a live decoder: counts of a bin, and a state to continue from.

This module needs NumPy and `bci_decode.errors` alone, as `onnx.decoder` does, which uses it.

Shapes: N units.
"""

from __future__ import annotations

import numpy as np

from bci_decode.errors import BciDecodeError


def checked_counts(counts: np.ndarray, units: int) -> np.ndarray:
    """Counts (N,) of so many units as float32.

    Raises `BciDecodeError` for counts that are no N numbers of 0 or more.
    """
    values, shape = np.asarray(counts), (units,)
    if values.shape != shape:
        raise bad_counts(f"have shape {values.shape}, the decoder needs {shape}")
    if values.dtype.kind not in "uifb":
        raise bad_counts(f"are of type {values.dtype}")
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            values = values.astype(np.float32)
        good = values.min() >= 0 and values.max() < np.inf  # NaN fails both
    else:
        good = values.min() >= 0
        values = values.astype(np.float32)
    if not good:
        unit = int(np.argmin((values >= 0) & (values < np.inf)))
        raise bad_counts(f"are {values[unit]} for unit {unit}")
    return values


def bad_counts(problem: str) -> BciDecodeError:
    """What to raise for counts that cannot be decoded."""
    remedy = "give the number of spikes of each unit in the bin"
    return BciDecodeError(problem, field="counts", remedy=remedy)


def check_state(state: dict[str, np.ndarray], own: dict[str, np.ndarray], remedy: str) -> None:
    """Refuse a state whose names or shapes are not the decoder's own, or that is not finite."""
    given, needed = ({name: np.shape(v) for name, v in one.items()} for one in (state, own))
    if given != needed:
        raise BciDecodeError(f"has {given}, the decoder {needed}", field="state", remedy=remedy)
    for name, values in state.items():
        if not np.isfinite(values).all():
            raise BciDecodeError("is not finite", field=f"state: {name}", remedy=remedy)
