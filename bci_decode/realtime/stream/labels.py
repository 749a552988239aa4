"""Which column of the counts a unit of a live stream is."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError


class Labels:
    """The columns of units: whole numbers are columns, other values are looked up.

    `units` is how many there are, or their labels. `number` is how many there are.
    """

    def __init__(self, units: int | Iterable[Any]) -> None:
        labels = () if isinstance(units, Integral) else _labels(units)
        self.number = _number(units) if isinstance(units, Integral) else len(labels)
        self._known = {label: column for column, label in enumerate(labels)}
        if any(isinstance(label, Integral) for label in labels):
            remedy = "give labels that are no whole numbers: those are columns"
            raise BciDecodeError("are whole numbers", field="units", remedy=remedy)
        if len(self._known) < len(labels):
            twice = next(label for label in self._known if labels.count(label) > 1)
            remedy = "give each unit a label of its own"
            raise BciDecodeError(f"have {twice!r} twice", field="units", remedy=remedy)

    def columns(self, units: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Column (E,) of each unit; -1 for a label that is unknown."""
        if isinstance(units, np.ndarray):
            if units.dtype.kind in "iu":
                return units.astype(np.intp, copy=False)
            units = units.tolist()
        known = self._known
        columns = [unit if isinstance(unit, Integral) else known.get(unit, -1) for unit in units]
        return np.array(columns, np.intp)


def _number(units: Integral) -> int:
    if isinstance(units, bool) or units < 1:  # type: ignore[operator]
        raise _no_units(units)
    return operator.index(units)


def _labels(units: Any) -> tuple[Hashable, ...]:
    try:
        labels = tuple(units)
        hash(labels)
    except TypeError as error:  # no labels, or such as cannot be looked up
        raise _no_units(units) from error
    if not labels:
        raise _no_units(units)
    return labels


def _no_units(units: Any) -> BciDecodeError:
    remedy = "give the number of units, or a label for each"
    return BciDecodeError(f"is {units!r}", field="units", remedy=remedy)
