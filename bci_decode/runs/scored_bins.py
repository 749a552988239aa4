"""Which bins of a session a finished run is scored on, in one pass or live."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from bci_decode.data.binning import BinnedSession
from bci_decode.data.session import Session
from bci_decode.data.split import enclosing
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)


def scored_bins(
    trained_on: dict[str, Any],
    session: Session,
    binned: BinnedSession,
    start: float | None = None,
    stop: float | None = None,
) -> tuple[slice, list[str]]:
    """The bins from `start` to `stop` s, and the parts in it that the run learned from.

    Without a range: the test part of the session that the run was trained on, any other session
    whole. `trained_on` is the "session" of the run's checkpoint.
    """
    bins = bins_within(binned, start, stop)
    if session.md5 != trained_on["md5"]:
        return bins, []
    split = {name: slice(*ends) for name, ends in trained_on["split_bins"].items()}
    if start is None and stop is None:
        log.info("%s: trained on it, so its test part alone is scored", session.name)
        bins = split["test"]
    overlaps = _overlapping(bins, split)
    if overlaps:
        line = "%s: the %s part, which the run learned from, is scored too"
        log.warning(line, session.name, " and ".join(overlaps))
    return bins, overlaps


def bins_within(binned: BinnedSession, start: float | None, stop: float | None) -> slice:
    """The bins that lie in a range of the session's clock."""
    slack = 1e-6 * binned.bin_width
    first = 0 if start is None else int(np.searchsorted(binned.edges[:-1], start - slack))
    last = len(binned.counts)
    if stop is not None:
        last = int(np.searchsorted(binned.edges[1:], stop + slack, side="right"))
    if last - first < 2:
        raise BciDecodeError(
            f"fewer than two bins lie from {start} to {stop} s",
            file=binned.name,
            remedy=f"the session lasts from {binned.edges[0]:.1f} to {binned.edges[-1]:.1f} s",
        )
    return slice(first, last)


def _overlapping(bins: slice, split: dict[str, slice]) -> list[str]:
    """The parts that a run learns from and that share a bin with `bins`."""
    learned = [name for name in ("train", "val") if name in split and name not in enclosing(split)]
    return [
        name
        for name in learned
        if max(bins.start, split[name].start) < min(bins.stop, split[name].stop)
    ]
