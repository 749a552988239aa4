"""Labels of units in streams of other systems: "M1 003/1" is row 1 of channel "M1 003"."""

from __future__ import annotations

import re

import pandas as pd

from bci_decode.errors import BciDecodeError

UNIT = re.compile(r"(?P<channel>(?P<area>\S+).*)/(?P<row>[0-9]{1,9})")
LONGEST = 100  # characters of a label; the search for an area takes their number squared


def units_of(labels: list[str], source: str = "labels of units") -> pd.DataFrame | None:
    """The units (channel, area, row) of labels; None where all labels are of another kind.

    Raises `BciDecodeError`, which names `source`, where only some are of this kind or one repeats.
    """
    found = [_match(label.strip()) for label in labels]
    if not any(found):
        return None
    rows: dict[tuple[str, str, int], None] = {}  # in order, and each is found at once
    for label, match in zip(labels, found, strict=True):
        if match is None:
            raise _bad_label(source, f"{label[:LONGEST]!r} is not like 'M1 003/1' (channel/row)")
        row = (match["channel"], match["area"], int(match["row"]))
        if row in rows:
            raise _bad_label(source, f"{label!r} is there twice")
        rows[row] = None
    return pd.DataFrame(list(rows), columns=["channel", "area", "row"])


def _match(label: str) -> re.Match[str] | None:
    """The parts of a label; None for one that is too long or changes a terminal."""
    return UNIT.fullmatch(label) if len(label) <= LONGEST and label.isprintable() else None


def _bad_label(source: str, problem: str) -> BciDecodeError:
    remedy = "give each unit a label of its own, or none of them a label"
    return BciDecodeError(f"the label {problem}", field=source, remedy=remedy)


def unit_labels(units: pd.DataFrame) -> list[str]:
    """Labels of units."""
    return [f"{unit.channel}/{unit.row}" for unit in units.itertuples()]
