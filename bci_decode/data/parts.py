"""The parts of a session that a decoder learns from or is scored on, their scaling and windows.

Shapes: T bins, N units, D axes of the target, C columns, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bci_decode.config import WindowConfig
from bci_decode.data.segments import known_rows, left_out, scored_target, within

CONSTANT_SCALES = {"none": 1.0, "per_sample": 250.0}  # what a scaling divides by


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the session.

    `time` (T,) in s, the ends of the bins; `counts` (T, N) scaled; `target` (T, D), NaN where it is
    not known. `segments` (S, 2) are the first bin and the last + 1 of each stretch without a gap,
    by default one of all bins. `scored` (T,) marks the bins that are scored; None: all of known
    target. It leaves out bins in which a decoder has seen little since it was reset after a gap.
    """

    time: np.ndarray
    counts: np.ndarray
    target: np.ndarray
    segments: np.ndarray = None  # type: ignore[assignment]
    scored: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.segments is None:
            object.__setattr__(self, "segments", np.array([[0, len(self.time)]]))

    def __len__(self) -> int:
        return len(self.time)

    @property
    def pieces(self) -> list[slice]:
        """The bins of each segment."""
        return [slice(*ends) for ends in self.segments.tolist()]

    @property
    def longest(self) -> slice:
        """The bins of the longest segment."""
        return max(self.pieces, key=lambda bins: bins.stop - bins.start)

    @property
    def truth(self) -> np.ndarray:
        """The target (T, D) of the bins that are scored, NaN in all others."""
        return self.target if self.scored is None else scored_target(self.target, self.scored)

    def cut(self, bins: slice) -> Part:
        """A range of the part's bins as a part; what is scored stays the same."""
        scored = None if self.scored is None else self.scored[bins]
        arrays = self.time[bins], self.counts[bins], self.target[bins]
        return Part(*arrays, within(self.segments, slice(*bins.indices(len(self))[:2])), scored)

    def left_out(self) -> dict[str, int]:
        """How many bins are not scored and why; empty where all are."""
        return left_out(self.target, self.segments, self.truth)


@dataclass(frozen=True, eq=False)
class Scaler:
    """A shift and a scale per column, both (C,)."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, kind: str) -> Scaler:
        """Fit to `values` (T, C); rows with NaN are left out.

        `kind` is "zscore", "none" for a scaler that changes nothing, or "per_sample" for mm/s as mm
        per sample of 4 ms.
        """
        columns = values.shape[1]
        if kind in CONSTANT_SCALES:
            return cls(np.zeros(columns), np.full(columns, CONSTANT_SCALES[kind]))
        if values.dtype.kind == "f":
            values = known_rows(values)
        std = values.std(axis=0, dtype=np.float64)
        # a column that never varies in training is only centered: a division by 0 would blow up its
        # first change
        return cls(values.mean(axis=0, dtype=np.float64), np.where(std > 0, std, 1.0))

    def transform(self, values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Scale `values` (T, C).

        Counts become float32 at once, since at 4 ms bins a copy more is hundreds of MB.
        """
        scaled: np.ndarray = values.astype(dtype)
        scaled -= self.mean.astype(dtype)
        scaled /= self.std.astype(dtype)
        return scaled

    def inverse(self, values: np.ndarray) -> np.ndarray:
        return values * self.std + self.mean


@dataclass(frozen=True)
class Window:
    """How a part is cut into windows of `length` bins, and which bins of a window have an output.

    kind "history": the last bin alone, and a decoder that always sees just `length` bins, as in the
    source study. kind "sequence": every bin from `burn_in` on, and a decoder whose state is carried
    through the whole stream. The bins of a window are `step` apart: 1, or more where bins overlap
    (`data.count_window`). Outputs from `first_output` on are learned from; in kind "history" these
    are the last `learn` ones, while the last one alone decodes.
    """

    kind: str
    length: int
    stride: int
    first_output: int
    step: int = 1

    @classmethod
    def from_config(cls, config: WindowConfig) -> Window:
        """The window that the config keys `data.window.*` describe."""
        history = config.kind == "history"
        first = config.length - config.learn if history else config.burn_in
        return cls(config.kind, config.length, config.stride, first, config.step)

    @property
    def history(self) -> int | None:
        """Bins that one output may look back on; None where the state is carried without end."""
        return self.length if self.kind == "history" else None

    @property
    def span(self) -> int:
        """Bins of the stream from a window's first bin to its last one."""
        return (self.length - 1) * self.step + 1

    @property
    def burn_in(self) -> int:
        """Bins after a reset in which an output has seen less than any that is learned from."""
        return (self.length - 1 if self.kind == "history" else self.first_output) * self.step

    def of(self, part: Part) -> np.ndarray:
        """The bins (W, length) of a part's windows that have a known output; none crosses a gap."""
        found = [
            start + self.bins(stop - start)
            for start, stop in part.segments.tolist()
            if stop - start >= self.span
        ]
        windows = found[0] if len(found) == 1 else np.concatenate(found or [self._none()])
        known = ~np.isnan(part.target).any(axis=1)
        return windows if known.all() else windows[known[windows[:, self.first_output :]].any(1)]

    def _none(self) -> np.ndarray:
        return np.empty((0, self.length), np.intp)

    def bins(self, bins: int) -> np.ndarray:
        """The bins (W, length) of the windows of a part."""
        return self.starts(bins)[:, None] + self.step * np.arange(self.length)

    def starts(self, bins: int) -> np.ndarray:
        """First bins (W,) of the windows of a part; the last window ends with the part."""
        last = bins - self.span
        starts = np.arange(0, last + 1, self.stride)
        return starts if starts[-1] == last else np.append(starts, last)
