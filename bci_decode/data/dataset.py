"""From a binned session to a data set: split in time, units filtered, scaled, cut into windows.

Everything that is fitted here is fitted on the training part alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bci_decode.config import DataConfig
from bci_decode.data.binning import BinnedSession
from bci_decode.data.grid import shorter_shift
from bci_decode.data.parts import Part, Scaler, Window
from bci_decode.data.reaches import split_by_reaches
from bci_decode.data.segments import (
    inside,
    known_rows,
    scored_mask,
    within,
)
from bci_decode.data.split import enclosing, split_in_time
from bci_decode.errors import BciDecodeError

MAX_INDICES = 100_000_000  # of bins in all windows: 800 MB


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
    unit: str = ""  # of the target, where a recording has it


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

    def _scaled(self, part: Part) -> Part:
        chosen = part.counts if self.active.all() else part.counts[:, self.active]
        return replace(part, counts=self.counts_scaler.transform(chosen, np.float32))

    def _part(self, grid: BinnedSession, bins: slice) -> Part:
        """Some bins of the session, with the counts of all units, which are not scaled."""
        target, segments = grid.kinematics[bins], within(grid.segments, bins)
        scored = scored_mask(target, segments, self.window.burn_in)
        known = None if scored.all() else scored
        return Part(grid.edges[1:][bins], grid.counts[bins], target, segments, known)

    def training_grids(self) -> list[Part]:
        """The training part on every grid, with the counts of all units, which are not scaled."""
        train = self.slices["train"]
        last = slice(train.start, train.stop - 1)  # the last bin of other grids ends outside
        others = [self._part(grid, last) for grid in self.binned.shifted]
        return [self._part(self.binned, train), *others]

    @property
    def unit(self) -> str:
        """The unit of the target."""
        return self.binned.unit

    @property
    def units(self) -> pd.DataFrame:
        """The table of the columns that passed the rate filter."""
        return self.binned.units[self.active].reset_index(drop=True)

    def dataset(self, *names: str) -> Dataset:
        """The data set with these parts, by default all of them, and then with its other grids."""
        outer, wanted = enclosing(self.slices), names or tuple(self.slices)
        parts = {
            name: self._scaled(self._part(self.binned, self.slices[name]))
            for name in wanted
            if name not in outer
        }
        for name in set(wanted) & set(outer):  # decoded with the part around it, and scored there
            around, bins = self.slices[outer[name]], self.slices[name]
            inner = slice(bins.start - around.start, bins.stop - around.start)
            parts[name] = parts[outer[name]].cut(inner)
        grids = () if names else self.training_grids()[1:]
        return Dataset(
            {name: parts[name] for name in wanted},
            self.slices,
            self.units,
            self.counts_scaler,
            self.target_scaler,
            self.window,
            shifted=tuple(self._scaled(part) for part in grids),
            low_pass=self.config.cutoff,
            unit=self.unit,
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
    check_segments(binned, slices, window)
    active = _active_units(binned, train, config.min_rate)
    _check_movement(binned, slices)
    _check_low_pass(config)
    seen = _recorded(binned, train)
    scalers = (
        Scaler.fit(seen if active.all() else seen[:, active], config.scale.counts),
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
    still = np.ptp(known_rows(binned.kinematics[bins]), axis=0) == 0
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


def check_segments(binned: BinnedSession, slices: dict[str, slice], window: Window) -> None:
    """Every part needs a window without a gap, and two bins to learn from or to score."""
    outer = enclosing(slices)
    for name, bins in slices.items():
        longest = int(np.diff(within(binned.segments, bins), axis=1).max(initial=0))
        if longest < window.span:
            raise BciDecodeError(
                f"the {name} part has no {window.span} bins without a gap, at most {longest}",
                file=binned.name,
                field="data.window.length",
                remedy="choose shorter windows, or another split",
            )
        around = slices[outer.get(name, name)]  # the stream that the part is decoded in
        segments = within(binned.segments, around)
        scored = scored_mask(binned.kinematics[around], segments, window.burn_in)
        if scored[bins.start - around.start : bins.stop - around.start].sum() < 2:
            raise BciDecodeError(
                f"the {name} part has no two bins of known {binned.target} past the burn-in",
                file=binned.name,
                field="data.source",
                remedy="choose the other source, or another split",
            )


def _recorded(binned: BinnedSession, bins: slice) -> np.ndarray:
    """The counts of those bins that are in a segment."""
    kept = inside(within(binned.segments, bins), bins.stop - bins.start)
    return binned.counts[bins] if kept.all() else binned.counts[bins][kept]


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
    counts = _recorded(binned, train)
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
