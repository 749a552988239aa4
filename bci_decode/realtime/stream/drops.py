"""What a live stream left out, by reason: one log line at the first of each kind, then a sum."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

REASONS = {  # what the first log line of each kind says
    "late": "its bin was decoded already; a longer tolerance waits longer",
    "unknown unit": "the unit is none of the stream's",
    "not a time": "its time is NaN or Inf",
    "before the start": "it is earlier than the first bin",
    "after the end": "it is later than the last bin",
    "off the clock": "its time is far from that of the events around it",
}


class Drops:
    """Numbers of dropped events by reason; `counts` has every key of `REASONS`."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(REASONS, 0)

    def add(self, reason: str, number: int, example: object) -> None:
        """Count `number` dropped events; `example` shows one of them in the first log line."""
        if not self.counts[reason]:
            line = "an event is dropped (%s): %s; all further ones are only counted"
            log.warning(line, example, REASONS[reason])
        self.counts[reason] += number


def dropped_text(counts: dict[str, int]) -> str:
    """One line: "5 events dropped: 3 late, 2 unknown unit", or "no event dropped"."""
    found = [f"{number} {reason}" for reason, number in counts.items() if number]
    total = sum(counts.values())
    return (
        f"{total} event{'s' * (total > 1)} dropped: {', '.join(found)}"
        if total
        else "no event dropped"
    )
