"""Labels of units in streams of other systems: "M1 003/1" is row 1 of channel "M1 003"."""

from __future__ import annotations

import re

import pandas as pd

from bci_decode.errors import BciDecodeError

UNIT = re.compile(r"(?P<channel>(?P<area>\S+).*)/(?P<row>\d+)")


def units_of(labels: list[str], source: str = "labels of units") -> pd.DataFrame | None:
    """The units (channel, area, row) of labels; None where all labels are of another kind.

    Raises `BciDecodeError`, which names `source`, where only some are of this kind or one repeats.
    """
    found = [UNIT.fullmatch(label.strip()) for label in labels]
    if not any(found):
        return None
    rows = []
    for label, match in zip(labels, found, strict=True):
        if match is None:
            raise _bad_label(source, f"{label!r} is not like 'M1 003/1' (channel/row)")
        row = (match["channel"], match["area"], int(match["row"]))
        if row in rows:
            raise _bad_label(source, f"{label!r} is there twice")
        rows.append(row)
    return pd.DataFrame(rows, columns=["channel", "area", "row"])


def _bad_label(source: str, problem: str) -> BciDecodeError:
    remedy = "give each unit a label of its own, or none of them a label"
    return BciDecodeError(f"the label {problem}", field=source, remedy=remedy)


def unit_labels(units: pd.DataFrame) -> list[str]:
    """Labels of units."""
    return [f"{unit.channel}/{unit.row}" for unit in units.itertuples()]
