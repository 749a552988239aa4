"""All scores of decoded kinematics, as the dictionary and the table that reports hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bci_decode.evaluation import metrics

SCORES = {"r2": metrics.r2, "cc": metrics.cc, "rmse": metrics.rmse, "snr_db": metrics.snr_db}
AXES = ("x", "y")


def scores(
    true: np.ndarray, decoded: np.ndarray, axes: Sequence[str] = AXES
) -> dict[str, float | None]:
    """Every score of (T, D) arrays: its mean over the axes, then each axis.

    A score that is NaN or Inf is None.
    """
    found = {}
    for name, score in SCORES.items():
        values = score(true, decoded)
        found[name] = float(values.mean())
        found |= {f"{name}_{axis}": float(value) for axis, value in zip(axes, values, strict=True)}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def score_table(true: np.ndarray, decoded: np.ndarray, axes: Sequence[str] = AXES) -> pd.DataFrame:
    """The same as a table: a row for each axis and "mean", a column for each score."""
    table = pd.DataFrame(
        {name: score(true, decoded) for name, score in SCORES.items()}, index=list(axes)
    )
    return pd.concat([table, table.mean(skipna=False).to_frame("mean").T])
