"""Labels of units in streams of other systems: "M1 003/1" is row 1 of channel "M1 003"."""

from __future__ import annotations

import re

import pandas as pd

UNIT = re.compile(r"(?P<channel>(?P<area>\S+).*)/(?P<row>\d+)")


def units_of(labels: list[str]) -> pd.DataFrame | None:
    """The units (channel, area, row) of labels; None where any label is of another kind."""
    found = [UNIT.fullmatch(label.strip()) for label in labels]
    if not found or not all(found):
        return None
    rows = [(match["channel"], match["area"], int(match["row"])) for match in found if match]
    return pd.DataFrame(rows, columns=["channel", "area", "row"])


def unit_labels(units: pd.DataFrame) -> list[str]:
    """Labels of units."""
    return [f"{unit.channel}/{unit.row}" for unit in units.itertuples()]
