"""Which column of the counts a unit of a live stream is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError


class Labels:
    """The columns of labeled units: whole numbers are columns, other values are looked up."""

    def __init__(self, labels: Iterable[Any]) -> None:
        self._known = {label: column for column, label in enumerate(labels)}
        if any(isinstance(label, Integral) for label in self._known):
            remedy = "give labels that are no whole numbers: those are columns"
            raise BciDecodeError("are whole numbers", field="units", remedy=remedy)

    def columns(self, units: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Column (E,) of each unit; -1 for a label that is unknown."""
        if isinstance(units, np.ndarray):
            if units.dtype.kind in "iu":
                return units.astype(np.intp, copy=False)
            units = units.tolist()
        known = self._known
        columns = [unit if isinstance(unit, Integral) else known.get(unit, -1) for unit in units]
        return np.array(columns, np.intp)
