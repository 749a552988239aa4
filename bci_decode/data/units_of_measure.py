"""The units in which files give lengths and speeds, and what they are in mm and mm/s."""

from __future__ import annotations

import re

MM = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3}
PREFIXES = {"": "m", "centi": "cm", "milli": "mm", "micro": "um"}
LENGTH = r"(?P<length>m|cm|mm|um|(?P<prefix>centi|milli|micro)?met(?:er|re)s?|microns?)"
SECOND = r"(?:s|sec|second)s?"
PER = r"\s*(?:/|\bper\b)\s*"
SPEED = re.compile(rf"{LENGTH}(?:{PER}{SECOND}|[ *.·]?{SECOND}\s*(?:\^|\*\*)?\s*(?:-1|⁻¹))")
ACCELERATION = re.compile(
    rf"{LENGTH}(?:{PER}{SECOND}(?:{PER}{SECOND}|\s*(?:\^|\*\*)?\s*(?:2|²)|\s+squared)"
    rf"|[ *.·]?{SECOND}\s*(?:\^|\*\*)?\s*(?:-2|⁻²))"
)
ORDERS = ((re.compile(LENGTH), 0), (SPEED, 1), (ACCELERATION, 2))


def in_mm(unit: str) -> tuple[float, int] | None:
    """The factor to mm, mm/s or mm/s², and the order of derivative; None for any other unit."""
    text = unit.strip().lower().replace("µ", "u").replace("μ", "u")
    for pattern, order in ORDERS:
        if found := pattern.fullmatch(text):
            length = found["length"]
            if "met" in length:
                length = PREFIXES[found["prefix"] or ""]
            return MM["um" if length.startswith("micron") else length], order
    return None
