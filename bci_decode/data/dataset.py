"""From a binned session to a data set: split in time, units filtered, scaled, cut into windows.

Everything that is fitted here is fitted on the training part alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bci_decode.config import DataConfig, WindowConfig
from bci_decode.data.binning import BinnedSession
from bci_decode.data.grid import shorter_shift
from bci_decode.data.reaches import split_by_reaches
from bci_decode.data.split import split_in_time
from bci_decode.errors import BciDecodeError

MAX_INDICES = 100_000_000  # of bins in all windows: 800 MB
CONSTANT_SCALES = {"none": 1.0, "per_sample": 250.0}  # what a scaling divides by


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the session.

    `time` (T,) in s, the ends of the bins; `counts` (T, N) scaled; `target` (T, D).
    """

    time: np.ndarray
    counts: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, eq=False)
class Scaler:
    """A shift and a scale per column, both (C,)."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, kind: str) -> Scaler:
        """Fit to `values` (T, C).

        `kind` is "zscore", "none" for a scaler that changes nothing, or "per_sample" for mm/s as mm
        per sample of 4 ms.
        """
        columns = values.shape[1]
        if kind in CONSTANT_SCALES:
            return cls(np.zeros(columns), np.full(columns, CONSTANT_SCALES[kind]))
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

    def bins(self, bins: int) -> np.ndarray:
        """The bins (W, length) of the windows of a part."""
        return self.starts(bins)[:, None] + self.step * np.arange(self.length)

    def starts(self, bins: int) -> np.ndarray:
        """First bins (W,) of the windows of a part; the last window ends with the part."""
        last = bins - self.span
        starts = np.arange(0, last + 1, self.stride)
        return starts if starts[-1] == last else np.append(starts, last)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A session ready for a decoder: its parts in the order of time, and the scaling of the first.

    `parts` maps "train", "val" (absent without a validation part), "test" and, in the source study,
    "holdout" to a `Part`; `slices` gives each part's bins in the session's grid. A slice may lie
    inside another one: see `data.split`. `units` is the table of the N columns that passed the rate
    filter, `axes` names the D columns of the target. `shifted` is the training part on other grids
    (see `data.binning`), each a bin shorter; `low_pass` the cut-off of the output filter in cycles
    per bin.
    """

    parts: dict[str, Part]
    slices: dict[str, slice]
    units: pd.DataFrame
    counts_scaler: Scaler
    target_scaler: Scaler
    window: Window
    axes: tuple[str, ...] = ("x", "y")
    shifted: tuple[Part, ...] = ()
    low_pass: float | None = None


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is fitted to a binned session before its counts are scaled: its `Dataset` to be.

    `active` marks the units that passed the rate filter; the rest is as in `Dataset`.
    """

    binned: BinnedSession
    config: DataConfig
    slices: dict[str, slice]
    active: np.ndarray
    counts_scaler: Scaler
    target_scaler: Scaler
    window: Window

    def part(self, name: str) -> Part:
        """A part of the session, its counts scaled, in memory."""
        return self._part(self.binned, self.slices[name])

    def _part(self, grid: BinnedSession, bins: slice) -> Part:
        chosen = grid.counts[bins] if self.active.all() else grid.counts[bins][:, self.active]
        scaled = self.counts_scaler.transform(chosen, np.float32)
        return Part(grid.edges[1:][bins], scaled, grid.kinematics[bins])

    @property
    def units(self) -> pd.DataFrame:
        """The table of the columns that passed the rate filter."""
        return self.binned.units[self.active].reset_index(drop=True)

    def dataset(self, *names: str) -> Dataset:
        """The data set with these parts, by default all of them, and then with its other grids."""
        parts = {name: self.part(name) for name in names or self.slices}
        train = self.slices["train"]
        inside = slice(train.start, train.stop - 1)  # the last bin of other grids ends outside
        grids = () if names else self.binned.shifted
        return Dataset(
            parts,
            self.slices,
            self.units,
            self.counts_scaler,
            self.target_scaler,
            self.window,
            shifted=tuple(self._part(grid, inside) for grid in grids),
            low_pass=self.config.cutoff,
        )


def prepare(binned: BinnedSession, config: DataConfig | None = None) -> Dataset:
    """Split a binned session in time, leave out slow units, scale, and fix the windows."""
    return preparation(binned, config).dataset()


def preparation(binned: BinnedSession, config: DataConfig | None = None) -> Preparation:
    """Split a binned session in time, choose its units and fit the scaling."""
    config = config or DataConfig(bin_width=binned.bin_width, lag=binned.lag, target=binned.target)
    window = Window.from_config(config.window)
    try:
        slices = _split(binned, config, window.span)
    except BciDecodeError as mistake:
        raise BciDecodeError(
            mistake.problem,
            file=binned.name,
            field=mistake.field,
            remedy=(mistake.remedy or "") + shorter_shift(binned.bin_width, binned.lag),
        ) from mistake
    train = slices["train"]
    _check_windows(train, window)
    active = _active_units(binned, train, config.min_rate)
    _check_movement(binned, slices)
    _check_low_pass(config)
    seen = binned.counts[train] if active.all() else binned.counts[train][:, active]
    scalers = (
        Scaler.fit(seen, config.scale.counts),
        Scaler.fit(binned.kinematics[train], config.scale.target),
    )
    return Preparation(binned, config, slices, active, *scalers, window)


def _split(binned: BinnedSession, config: DataConfig, span: int) -> dict[str, slice]:
    """The parts, so far apart that no spike counts in two of them, and no sample of the hand.

    A central difference sees samples after its bin, which may be the test part's.
    """
    shared = 0.0 if binned.count_window is None else binned.count_window - binned.bin_width
    split = replace(config.split, gap=max(config.split.gap, shared, binned.ahead))
    bins = len(binned.counts)
    if split.by == "reaches":
        return split_by_reaches(binned.reaches, bins, binned.bin_width, split, span)
    return split_in_time(bins, binned.bin_width, split, span)


def still_axes(binned: BinnedSession, bins: slice) -> str:
    """The axes of the target that never change in some bins: "x", "x and y", or "" for none."""
    still = np.ptp(binned.kinematics[bins], axis=0) == 0
    return " and ".join(np.array(("x", "y"))[still])


def _check_movement(binned: BinnedSession, slices: dict[str, slice]) -> None:
    """An axis that does not move in a part can neither be learned nor scored."""
    for name, bins in slices.items():
        still = still_axes(binned, bins)
        if still:
            raise BciDecodeError(
                f"{still} {binned.target} never changes in the {name} part",
                file=binned.name,
                field="data.source",
                remedy="choose the other source, or another split",
            )


def _check_windows(train: slice, window: Window) -> None:
    """The windows are kept as the numbers of their bins, which must fit into the memory."""
    windows = (train.stop - train.start - window.span) // window.stride + 1
    if windows * window.length > MAX_INDICES:
        raise BciDecodeError(
            f"is {window.length}, and there are {windows} windows, which the memory may not hold",
            field="data.window.length",
            remedy="choose shorter windows, or a larger data.window.stride",
        )


def _check_low_pass(config: DataConfig) -> None:
    """A filter needs a cut-off below half of the bins' rate."""
    highest = 0.5 / config.bin_width
    if config.low_pass is not None and config.low_pass >= highest:
        raise BciDecodeError(
            f"is {config.low_pass} Hz with data.bin_width={config.bin_width}",
            field="data.low_pass",
            remedy=f"choose less than {highest:.4g} Hz, or null",
        )


def _active_units(binned: BinnedSession, train: slice, min_rate: float) -> np.ndarray:
    """Mask (N,) of the units whose mean rate over the training part is `min_rate` Hz or more."""
    counts = binned.counts[train]
    width = binned.bin_width if binned.count_window is None else binned.count_window
    rates = counts.sum(axis=0, dtype=np.int64) / (len(counts) * width)
    if rates.max() == 0:
        raise BciDecodeError(
            "no spike falls into the training part",
            file=binned.name,
            remedy="check the clock of the spikes, or the split",
        )
    active = rates >= min_rate
    if not active.any():
        raise BciDecodeError(
            f"no unit is left of {len(active)}, the fastest has {rates.max():.2f} Hz in training",
            field="data.min_rate",
            remedy=f"lower it from {min_rate} Hz",
        )
    return active
