"""The columns of `history.csv`, and the scores of an epoch in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bci_decode.data.dataset import Dataset
from bci_decode.evaluation import metrics


def history_columns(
    parts: Sequence[str] = ("val", "test"), axes: Sequence[str] = ("x", "y")
) -> list[str]:
    """Columns of `history.csv`; "holdout" is a part where `data.split.val_from_test` is set."""
    scores = ("loss", "r2", *(f"r2_{axis}" for axis in axes))
    scored = [f"{part}_{score}" for part in parts for score in scores]
    return ["epoch", "train_loss", "train_r2", *scored, "lr", "seconds"]


def part_columns(data: Dataset, decoded: dict[str, np.ndarray]) -> dict[str, float]:
    """Loss and R2 of every decoded part as columns of the history.

    They are NaN for an absent validation or test part.
    """
    row: dict[str, float] = {}
    for name in dict.fromkeys(("val", "test", *decoded)):
        loss, r2 = math.nan, np.full(len(data.axes), math.nan)
        if name in decoded:
            true = data.parts[name].truth
            loss, r2 = metrics.mse(true, decoded[name]), metrics.r2(true, decoded[name])
        row |= {f"{name}_loss": loss, f"{name}_r2": float(r2.mean())}
        row |= {
            f"{name}_r2_{axis}": float(value) for axis, value in zip(data.axes, r2, strict=True)
        }
    return row
