"""Which bin a sample is: from the number of samples, and from time stamps where several agree."""

from __future__ import annotations

import logging
import math
from statistics import median

log = logging.getLogger(__name__)

AGREE = 3  # time stamps in a row that must agree that the clock has jumped
OFF = 0.6  # bins from its place at which a stamp may be that of another bin
FOLLOW = 0.1  # part of a stamp's error by which the clock follows it: drift, but no jitter
LATEST = 1e11  # s; stamps beyond are no times


class SampleClock:
    """Counts the samples of a stream with a sample for each bin, and follows their time stamps.

    Stamps jitter, so a single one moves nothing. Where `AGREE` stamps in a row are the same number
    of bins from their place, the clock has jumped: bins are missing, or it went back. After a
    silence of `max_gap` s the first stamp is enough. `index` and `time` are those of the latest
    bin; `time` is its stamp, or its place where the stamp is more than `max_gap` s from it.
    `ignored` counts these, and stamps that are no times.
    """

    def __init__(self, stream: str, bin_width: float, max_gap: float):
        self._stream, self._width, self._max_gap = stream, bin_width, max_gap
        self.index, self.time, self.ignored = -1, math.nan, 0
        self._place: float | None = None  # s, of the latest bin
        self._errors: list[float] = []  # s, of the stamps in a row that are off their place

    def add(self, stamp: float, silence: float) -> int | None:
        """Count a sample that comes `silence` s after the one before.

        Returns by how many bins the clock has jumped before it: below 0 it went back. None: the
        sample cannot be placed, because no sample so far had a time.
        """
        is_time = abs(stamp) < LATEST  # NaN is none
        if not is_time:
            self._ignore(stamp)
        if self._place is None:
            if not is_time:
                return None
            self._place = stamp - self._width
        self._place += self._width
        jumped = self._jump(stamp - self._place, silence) if is_time else 0
        self._place += jumped * self._width
        self.index += 1 + max(jumped, 0)
        error = stamp - self._place if is_time else math.inf
        self.time = stamp if abs(error) <= self._max_gap else self._place
        if abs(error) < OFF * self._width:
            self._place += FOLLOW * error
        return jumped

    @property
    def place(self) -> float:
        """The latest bin's place on the stream's clock in s, free of the jitter of its stamp."""
        return math.nan if self._place is None else self._place

    def _jump(self, error: float, silence: float) -> int:
        """The bins by which the clock has jumped, by a stamp that is `error` s from its place."""
        if abs(error) < OFF * self._width:
            for stray in self._errors:
                if abs(stray) > self._max_gap:
                    self._ignore(self._place + stray)  # type: ignore[operator]
            self._errors = []
            return 0
        if self._errors and abs(error - self._errors[0]) > self._width / 2:
            self._errors = []
        self._errors.append(error)
        if len(self._errors) < AGREE and silence < self._max_gap:
            return 0
        jumped = round(median(self._errors) / self._width)
        self._errors = []
        return jumped

    def _ignore(self, stamp: float) -> None:
        if not self.ignored:
            log.warning(
                "LSL stream '%s': a time stamp of %g s is ignored, and so are further ones that are"
                " far from their place",
                self._stream,
                stamp,
            )
        self.ignored += 1
