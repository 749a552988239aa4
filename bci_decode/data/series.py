"""A movement of a recording, and the one that the variables of the Zenodo layout hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bci_decode.errors import BciDecodeError

MAX_POSITION = 1e6  # mm from the origin; a kilometer is beyond any hand
MAX_VALUE = 1e12  # of a movement in a unit that is not known
IN_MM = {"finger_pos": ("cm", 10.0), "cursor_pos": ("mm", 1.0), "target_pos": ("mm", 1.0)}


@dataclass(frozen=True, eq=False)
class Series:
    """A movement on the session's clock: `values` (T, C), x and y first, NaN where unknown.

    `order` is 0 for a position in mm, 1 for a velocity in mm/s. `unit` is the file's own unit where
    it is no length and no speed ("a.u."); the values are then as in the file.
    """

    values: np.ndarray
    order: int = 0
    unit: str | None = None


def zenodo_series(path: Path, positions: Mapping[str, np.ndarray]) -> dict[str, Series]:
    """The series of positions (C, T) in the units and columns of the Zenodo layout.

    Columns of finger_pos are z, -x, -y in cm, or -x, -y where there are two. Refuses a place where
    no hand can be; NaN and Inf stand for samples that are not known.
    """
    series = {}
    for field in filter(positions.__contains__, ("finger_pos", "cursor_pos", "target_pos")):
        position = positions[field]
        unit, scale = IN_MM[field]
        check_places(path, field, position.T, MAX_POSITION / scale, unit)
        if field != "finger_pos":
            series[field] = Series(np.ascontiguousarray(position.T))
            continue
        *z, minus_x, minus_y = position  # cm
        columns = [minus_x * -10.0, minus_y * -10.0, *(depth * 10.0 for depth in z)]
        series[field] = Series(np.stack(columns, axis=1))
    return series


def check_places(path: Path, field: str, values: np.ndarray, most: float, unit: str) -> None:
    """Refuse values (T, C) beyond `most`, in their unit."""
    far = np.abs(values) > most
    if far.any() and (far := far & np.isfinite(values)).any():
        column, sample = np.argwhere(far.T)[0]
        raise BciDecodeError(
            f"is {values[sample, column]:.6g} {unit} at sample {sample}",
            file=path,
            field=field,
            remedy="repair it, or mark it with NaN",
        )
