"""What passes through a live decoder: a bin of counts from a source, a decoded bin to its sinks.

Shapes: N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Bin:
    """One bin of a live stream.

    `index` counts the bins of the stream from 0, missing ones included. `time` is the bin's end in
    s on the input's clock. `counts` (N,) are in the order of the source's units. `true` (D,) is the
    target, where it is known. `jumped` says that the clock jumped, or bins are missing, before this
    one. `arrived` is the `time.perf_counter()` at which all input of the bin had arrived.
    """

    index: int
    time: float
    counts: np.ndarray
    true: np.ndarray | None = None
    jumped: bool = False
    arrived: float = 0.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """A bin and the kinematics (D,) decoded from it, in the target's unit.

    `latency` is in s, from the arrival of the bin's input to the output. `missed` says that the
    output was later than the end of the next bin.
    """

    bin: Bin
    output: np.ndarray
    latency: float
    missed: bool = False


class Source(Protocol):
    """Gives bins until its stream ends.

    `units` has the columns channel, area and row for each of the N counts; None stands for the
    decoder's own units in order. `bin_width` is in s.
    """

    units: pd.DataFrame | None
    bin_width: float

    def __iter__(self) -> Iterator[Bin]: ...

    def close(self) -> None:
        """Release what the source holds; more than one call does no harm."""


class Sink(Protocol):
    """Takes decoded bins: a stream, a file, a page."""

    def write(self, decoded: Decoded) -> None: ...

    def close(self) -> None:
        """Finish what was written; more than one call does no harm."""
