"""What a source of counts does with `data.count_window` and `data.presence` of a run."""

from __future__ import annotations

import numpy as np

from bci_decode.config import DataConfig
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.checks import bad_counts
from bci_decode.realtime.stream.trailing import TrailingCounts

MOST = 1_000_000  # spikes of a unit in a bin: more is an error of the sender


class CountWindow:
    """Turns the counts (N,) of bins into the counts that a run decodes.

    With `data.count_window` these are sums over several bins; otherwise nothing changes. Raises
    `BciDecodeError` for `data.presence`, which needs the times of spikes.
    """

    def __init__(self, config: DataConfig, units: int):
        if config.presence is not None:
            raise BciDecodeError(
                "needs the times of spikes, but the source sends counts",
                field="data.presence",
                remedy="send spikes instead, or choose a run without data.presence",
            )
        self._units = units
        self._sums: TrailingCounts | None = None
        if config.count_window is not None:
            self._sums = TrailingCounts(units, config.bin_width, config.count_window)

    def checked(self, counts: np.ndarray) -> np.ndarray:
        """The counts (..., N) if all are from 0 to `MOST`; raises `BciDecodeError` if not."""
        counts = np.asarray(counts)
        if counts.shape[-1:] != (self._units,):
            raise bad_counts(f"have shape {counts.shape}, the decoder needs {(self._units,)}")
        if counts.dtype.kind not in "uifb":
            raise bad_counts(f"are of type {counts.dtype}")
        sound = (counts >= 0) & (counts <= MOST)  # NaN fails both
        if not sound.all():
            first = tuple(np.argwhere(~sound)[0])
            raise bad_counts(f"are {counts[first]} for unit {first[-1]}")
        return counts

    def add(self, counts: np.ndarray) -> np.ndarray:
        """What the run decodes after a bin of checked counts (N,)."""
        return counts if self._sums is None else self._sums.add(np.rint(counts).astype(np.intp))

    def reset(self) -> None:
        """Forget all bins, as after a gap in the stream."""
        if self._sums is not None:
            self._sums.reset()
