"""The first seconds of a session, which a decoder is fitted to, and the rest, which scores it.

Shapes: T bins.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bci_decode.config import DataConfig, SplitConfig
from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.dataset import Dataset, check_segments, prepare, still_axes
from bci_decode.data.parts import Window
from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError
from bci_decode.runs.loaded_run import LoadedRun


def first_seconds(
    run: LoadedRun, session: Session, seconds: float
) -> tuple[Dataset, BinnedSession, DataConfig]:
    """The data set whose training part lies in the first seconds, and whose test part is the rest.

    No spike and no sample of the hand after the seconds is in the training part.
    """
    config = run.config
    if not seconds > 0 or math.isinf(seconds):
        raise BciDecodeError(f"is {seconds}", field="--seconds", remedy="give seconds above 0")
    binned = bin_session(session, **config.binning_kwargs(), grids=config.window.grids)
    slack = 1e-6 * binned.bin_width
    seen = session.t[session.t <= session.t[0] + seconds + slack]  # the last one ends them
    later = max(0.0, binned.lag) + binned.ahead  # how much later the hand is than the spikes
    bins = int(np.searchsorted(binned.edges[1:] + later, seen[-1] + slack, side="right"))
    split = SplitConfig(first_bins=max(bins, 1), val=0.0, gap=config.split.gap)
    config = replace(config, split=split)
    _check_bins(bins, binned, config, seconds)
    check_segments(binned, {"first": slice(0, bins)}, Window.from_config(config.window))
    _check_movement(binned, slice(0, bins), seconds)
    return prepare(binned, config), binned, config


def _check_bins(bins: int, binned: BinnedSession, config: DataConfig, seconds: float) -> None:
    """Both parts must hold windows: two at least to learn from, one to score."""
    window, width = config.window, binned.bin_width
    span = max((window.length - 1) * window.step + 1, 10)
    summed = 0.0 if binned.count_window is None else binned.count_window - width
    gap = math.ceil(max(config.split.gap, summed, binned.ahead) / width)
    all_bins = len(binned.counts)
    if bins < 2 * span:
        raise BciDecodeError(
            f"is {seconds:g} s or {bins} bins, and the run learns from windows of {span}",
            file=binned.name,
            field="--seconds",
            remedy=f"give {math.ceil(2 * span * width + 1)} s or more",
        )
    if all_bins - bins - gap < span:
        raise BciDecodeError(
            f"is {seconds:g} s, and the session lasts {all_bins * width:.1f} s",
            file=binned.name,
            field="--seconds",
            remedy=f"leave {math.ceil((gap + span) * width)} s or more to score",
        )


def _check_movement(binned: BinnedSession, bins: slice, seconds: float) -> None:
    still = still_axes(binned, bins)
    if still:
        raise BciDecodeError(
            f"{still} {binned.target} never changes in the first {seconds:g} s",
            file=binned.name,
            remedy="give more --seconds, or a recording in which the hand moves",
        )
