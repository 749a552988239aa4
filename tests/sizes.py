"""How much the suites of faults try: little in `make test`, all of it in targets of their own."""

from __future__ import annotations

import os

FULL = os.environ.get("TESTED_GUARANTEES") == "all"


def cases(quick: int, full: int) -> int:
    """How many cases to try: `full` with TESTED_GUARANTEES=all, as the make targets set it."""
    return full if FULL else quick
