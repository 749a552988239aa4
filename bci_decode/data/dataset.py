"""From a binned session to what a decoder learns from: split in time, units filtered, scaled, cut into windows.

Everything that is fitted here is fitted on the training part alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bci_decode.config import DataConfig, SplitConfig, WindowConfig
from bci_decode.data.binning import BinnedSession
from bci_decode.errors import BciDecodeError

MOST_BINS = 10_000_000  # in a window: two days at 20 ms, surely a slip beyond it


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of the session: `time` (T,) in s, the bins' ends; `counts` (T, N) scaled; `target` (T, D) in its unit."""

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
    def fit(cls, values: np.ndarray, kind: str, field: str) -> Scaler:
        """Fit to `values` (T, C); `kind` is "zscore", or "none" for a scaler that changes nothing."""
        columns = values.shape[1]
        if kind == "none":
            return cls(np.zeros(columns), np.ones(columns))
        if kind != "zscore":
            raise BciDecodeError(f"is {kind!r}", field=field, remedy="choose none or zscore")
        std = values.std(axis=0, dtype=np.float64)
        # a column that never varies in training is centred and left alone: dividing by 0 would blow up its first change
        return cls(values.mean(axis=0, dtype=np.float64), np.where(std > 0, std, 1.0))

    def transform(self, values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Scale `values` (T, C); counts as float32 at once, since at 4 ms bins a copy more is hundreds of MB."""
        scaled: np.ndarray = values.astype(dtype)
        scaled -= self.mean.astype(dtype)
        scaled /= self.std.astype(dtype)
        return scaled

    def inverse(self, values: np.ndarray) -> np.ndarray:
        return values * self.std + self.mean


@dataclass(frozen=True)
class Window:
    """How a part is cut into windows of `length` bins, and which of a window's bins have an output to learn from.

    kind "history": the last bin alone, and a decoder that always sees just `length` bins, as in the source study.
    kind "sequence": every bin from `burn_in` on, and a decoder whose state is carried through the whole stream.
    """

    kind: str
    length: int
    stride: int
    first_output: int

    @classmethod
    def from_config(cls, config: WindowConfig) -> Window:
        key = "data.window."
        if config.kind not in ("history", "sequence"):
            raise BciDecodeError(f"is {config.kind!r}", field=key + "kind", remedy="choose history or sequence")
        for name, lowest in (("length", 1), ("stride", 1), ("burn_in", 0)):
            if not lowest <= getattr(config, name) <= MOST_BINS:
                raise BciDecodeError(
                    f"is {getattr(config, name)}", field=key + name, remedy=f"choose {lowest} to {MOST_BINS} bins"
                )
        if config.kind == "sequence" and config.burn_in >= config.length:
            raise BciDecodeError(
                f"is {config.burn_in} of {config.length} bins", field=key + "burn_in", remedy="leave bins to learn from"
            )
        first = config.length - 1 if config.kind == "history" else config.burn_in
        return cls(config.kind, config.length, config.stride, first)

    @property
    def history(self) -> int | None:
        """Bins that one output may look back on; None where the state is carried without end."""
        return self.length if self.kind == "history" else None

    def starts(self, bins: int) -> np.ndarray:
        """First bins (W,) of the windows of a part, the last of them flush with its end; none crosses it."""
        last = bins - self.length
        starts = np.arange(0, last + 1, self.stride)
        return starts if starts[-1] == last else np.append(starts, last)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A session ready for a decoder: three parts in the order of time, and what was fitted on the first.

    `parts` maps "train", "val" (absent without a validation part) and "test" to a `Part`; `bins` gives each part's
    bins in the session's grid; `units` is the table of the N columns that passed the rate filter. With `val_of_rest`
    "val" and "held" are no parts of their own but `stretches` of the test part: in `parts`, not in `bins`, and their
    bins counted from the test part's first.
    """

    parts: dict[str, Part]
    bins: dict[str, slice]
    units: pd.DataFrame
    counts_scaler: Scaler
    target_scaler: Scaler
    window: Window
    stretches: dict[str, slice] = field(default_factory=dict)


def prepare(binned: BinnedSession, config: DataConfig) -> Dataset:
    """Split a binned session in time, leave out slow units, scale, and fix the windows."""
    window = Window.from_config(config.window)
    try:
        bins = split_in_time(len(binned.counts), binned.bin_width, config.split, window.length)
        test = bins["test"]
        stretches = split_rest(test.stop - test.start, binned.bin_width, config.split, window.length)
    except BciDecodeError as mistake:
        raise BciDecodeError(mistake.problem, file=binned.name, field=mistake.field, remedy=mistake.remedy) from mistake
    fast = _fast_units(binned, bins["train"], config.min_rate)
    counts = binned.counts if fast.all() else binned.counts[:, fast]
    every = bins | {name: slice(test.start + s.start, test.start + s.stop) for name, s in stretches.items()}
    _check_movement(binned, every)
    counts_scaler = Scaler.fit(counts[bins["train"]], config.scale.counts, "data.scale.counts")
    target_scaler = Scaler.fit(binned.kinematics[bins["train"]], config.scale.target, "data.scale.target")
    parts = {
        name: Part(
            time=binned.edges[1:][where],
            counts=counts_scaler.transform(counts[where], np.float32),
            target=binned.kinematics[where],
        )
        for name, where in every.items()
    }
    units = binned.units[fast].reset_index(drop=True)
    return Dataset(parts, bins, units, counts_scaler, target_scaler, window, stretches)


def split_in_time(bins: int, bin_width: float, config: SplitConfig, window_length: int) -> dict[str, slice]:
    """Bins of the training, validation and test parts, in this order, `gap` seconds apart, disjoint.

    With `first_bins` those are the training part, its last `val` share the validation part, and all that follows is
    the test part; else `train` and `val` are shares of all bins. Raises `BciDecodeError` naming the key to change
    where a part would not hold a window.
    """
    for name, value, limit in (("gap", config.gap, np.inf), ("val", config.val, 1)):
        if not 0 <= value < limit:
            remedy = "choose 0 or more" + ", below 1" * (limit == 1)
            raise BciDecodeError(f"is {value}", field=f"data.split.{name}", remedy=remedy)
    gap = int(np.ceil(config.gap / bin_width - 1e-9))
    if config.first_bins is None:
        if not 0 < config.train < 1 or config.train + config.val >= 1:
            raise BciDecodeError(
                f"are {config.train} and {config.val}",
                field="data.split.train, val",
                remedy="choose fractions with a sum below 1",
            )
        train_end, val_end = round(bins * config.train), round(bins * (config.train + config.val))
    else:
        if config.first_bins < 1:
            raise BciDecodeError(
                f"is {config.first_bins}", field="data.split.first_bins", remedy="choose 1 or more bins, or null"
            )
        val_end = config.first_bins
        train_end = val_end - round(val_end * config.val)
    limits = {"train": (0, train_end), "val": (train_end + gap, val_end), "test": (val_end + gap, bins)}
    if config.val == 0:
        del limits["val"]
    _check_lengths(bins, limits, config, window_length, gap)
    return {name: slice(*limit) for name, limit in limits.items()}


def split_rest(rest: int, bin_width: float, config: SplitConfig, window_length: int) -> dict[str, slice]:
    """Bins of a test part of `rest` bins that are validated on ("val"), and of those that nothing is chosen on ("held").

    "val" is the first `val_of_rest` share; `gap` seconds, a window at least, lie between the two, so that no window
    sees both. Empty where the share is 0.
    """
    key, share = "data.split.val_of_rest", config.val_of_rest
    if not 0 <= share < 1:
        raise BciDecodeError(f"is {share}", field=key, remedy="choose 0 or more, below 1")
    if share == 0:
        return {}
    if config.val:
        raise BciDecodeError(
            f"is {share} beside data.split.val={config.val}",
            field=key,
            remedy="validate on one of the two, set 0 for the other",
        )
    stop = round(rest * share)
    gap = int(np.ceil(config.gap / bin_width - 1e-9))
    start = stop + max(window_length, gap)
    need = max(window_length, 2)
    if min(stop, rest - start) < need:
        raise BciDecodeError(
            f"is {share} of a test part of {rest} bins, that leaves {stop} to validate on and {max(rest - start, 0)} to score, "
            f"but it takes {need} for each, so {_least_rest(config, window_length, gap)} bins",
            field=key,
            remedy="change it, or data.split.first_bins; 0 does without the honest score",
        )
    return {"val": slice(0, stop), "held": slice(start, rest)}


def _least_rest(config: SplitConfig, window_length: int, gap: int) -> int:
    """The fewest bins of a test part that can be scored, by `val_of_rest` too."""
    need, share, between = max(window_length, 2), config.val_of_rest, max(window_length, gap)
    if not 0 < share < 1:
        return need
    rest = int(max((need - 0.5) / share, (need + between - 0.5) / (1 - share)))
    while min(round(rest * share), rest - round(rest * share) - between) < need:
        rest += 1
    return rest


def _check_lengths(
    bins: int, limits: dict[str, tuple[int, int]], config: SplitConfig, window_length: int, gap: int
) -> None:
    """Every part must hold a window, the test part included: a live decoder needs as much to be scored fairly."""
    need = max(window_length, 2)
    found = {name: max(stop - start, 0) for name, (start, stop) in limits.items()}
    if min(found.values()) >= need:
        return
    short = [name for name in found if found[name] < need]
    if config.first_bins is None:
        keys = "data.split.train, data.split.val or data.split.gap"
        enough = f"{need} for each part"
    elif short == ["test"]:
        keys = "data.split.first_bins"
        rest = _least_rest(config, window_length, gap)
        honest = f", with data.split.val_of_rest={config.val_of_rest}" * bool(config.val_of_rest)
        enough = f"{limits['test'][0] + rest}: data.split.first_bins={config.first_bins} and {rest} more for the test part{honest}"
    else:
        keys = "data.split.first_bins, data.split.val or data.split.gap"
        enough = f"{need} for each part"
    lengths = ", ".join(f"{found[name]} for {name}" for name in short)
    raise BciDecodeError(
        f"the session has {bins} bins, that leaves {lengths}, but it takes {enough}",
        remedy=f"change {keys}, or data.window.length (now {window_length})",
    )


def _check_movement(binned: BinnedSession, bins: dict[str, slice]) -> None:
    """An axis that stands still all through a part can neither be learned nor scored."""
    for name, where in bins.items():
        still = np.ptp(binned.kinematics[where], axis=0) == 0
        if still.any():
            axes = " and ".join(np.array(("x", "y"))[still])
            raise BciDecodeError(
                f"{axes} {binned.target} never changes in the {name} part",
                file=binned.name,
                field="data.source",
                remedy="choose the other source, or another split",
            )


def _fast_units(binned: BinnedSession, train: slice, min_rate: float) -> np.ndarray:
    """Mask (N,) of the units whose mean rate over the training part is `min_rate` Hz or more."""
    counts = binned.counts[train]
    rates = counts.sum(axis=0, dtype=np.int64) / (len(counts) * binned.bin_width)
    if rates.max() == 0:
        raise BciDecodeError(
            "no spike falls into the training part",
            file=binned.name,
            remedy="check the clock of the spikes, or the split",
        )
    fast = rates >= min_rate
    if not fast.any():
        raise BciDecodeError(
            f"no unit is left of {len(fast)}, the fastest has {rates.max():.2f} Hz in the training part",
            field="data.min_rate",
            remedy=f"lower it from {min_rate} Hz",
        )
    return fast
