"""Stretches of a recording without a gap, and which of its bins a decoder is scored on.

A gap is a step of the clock, or a time in which no spikes were recorded, of more than `BRIDGED`
seconds. Shapes: T bins or samples, S segments, G intervals.
"""

from __future__ import annotations

import numpy as np

from bci_decode.config import BRIDGED
from bci_decode.data.session import Session, clock_gaps


def long_gaps(t: np.ndarray) -> np.ndarray:
    """Indices of the samples of `t` (T,) before a gap that is too long to be bridged."""
    before = clock_gaps(t)
    return before[t[before + 1] - t[before] > BRIDGED]


def recording_gaps(session: Session) -> np.ndarray:
    """Start and stop (G, 2) in s of each gap of a session, in order; none overlap."""
    t, before = session.t, long_gaps(session.t)
    of_clock = np.stack([t[before], t[before + 1]], axis=1)
    return _joined(np.concatenate([of_clock, unobserved(session)]))


def unobserved(session: Session) -> np.ndarray:
    """Start and stop (G, 2) in s of each gap between the times in which spikes were recorded."""
    if session.observed is None:
        return np.empty((0, 2))
    first, last = session.t[[0, -1]]
    outside = np.hstack([first, np.clip(session.observed.ravel(), first, last), last])
    found = outside.reshape(-1, 2)
    return found[found[:, 1] - found[:, 0] > BRIDGED]


def observed_seconds(session: Session) -> float:
    """Seconds of the session in which spikes were recorded."""
    return session.duration - float(np.diff(unobserved(session), axis=1).sum())


def unknown_intervals(t: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Intervals (G, 2) in s, both ends left out, in which interpolated samples mean nothing.

    `unknown` (T,) marks the samples whose value is not known; a long gap of the clock counts too.
    """
    around = np.concatenate([[-np.inf], t, [np.inf]])
    stretches = runs(unknown)  # sample k is around[k + 1]
    before = long_gaps(t)
    lost = np.stack([around[stretches[:, 0]], around[stretches[:, 1] + 1]], axis=1)
    return _joined(np.concatenate([lost, np.stack([t[before], t[before + 1]], axis=1)]))


def touched(starts: np.ndarray, stops: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Whether each stretch of time from `starts` to `stops` (T,) shares a time with an interval.

    `intervals` (G, 2) are in order and do not overlap. Stretches and intervals that only meet share
    none.
    """
    if not len(intervals):
        return np.zeros(len(starts), bool)
    following = np.searchsorted(intervals[:, 1], starts, side="right")  # the first to end later
    first = np.append(intervals[:, 0], np.inf)[following]
    return first < stops


def runs(flags: np.ndarray) -> np.ndarray:
    """First and last + 1 (S, 2) of each run of True in `flags` (T,)."""
    return np.flatnonzero(np.diff(flags, prepend=False, append=False)).reshape(-1, 2)


def within(segments: np.ndarray, bins: slice) -> np.ndarray:
    """The segments (S, 2) of a range of bins, counted from its first bin."""
    found = np.clip(segments - bins.start, 0, bins.stop - bins.start)
    return found[found[:, 0] < found[:, 1]]


def inside(segments: np.ndarray, bins: int) -> np.ndarray:
    """Mask (T,) of the bins that are in a segment."""
    mask = np.zeros(bins, bool)
    for start, stop in segments.tolist():
        mask[start:stop] = True
    return mask


def scored_mask(target: np.ndarray, segments: np.ndarray, burn_in: int) -> np.ndarray:
    """Mask (T,) of the bins to score: in a segment, of known `target` (T, D), and past the burn-in.

    These are the first `burn_in` bins of a segment, in which a decoder that was reset has seen
    little. The stream's own beginning is scored.
    """
    mask = inside(segments, len(target)) & ~np.isnan(target).any(axis=1)
    for start in segments[:, 0].tolist():
        if start:
            mask[start : start + burn_in] = False
    return mask


def scored_target(target: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """The target (T, D), NaN in bins that are not `scored` (T,): scores leave these out."""
    return np.where(scored[:, None], target, np.nan)


def known_rows(values: np.ndarray) -> np.ndarray:
    """The rows of `values` (T, C) without NaN."""
    known = ~np.isnan(values).any(axis=1)
    return values if known.all() else values[known]


def left_out(target: np.ndarray, segments: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """How many bins are not scored, by reason, and the number of gaps; empty where all are scored.

    `target` (T, D) is NaN where it is unknown, `truth` in all bins that are not scored.
    """
    recorded, known, scored = (
        inside(segments, len(target)),
        *(~np.isnan(values).any(axis=1) for values in (target, truth)),
    )
    if scored.all():
        return {}
    return {
        "gaps": len(runs(~recorded)),
        "gap_bins": int((~recorded).sum()),
        "unknown_bins": int((recorded & ~known).sum()),
        "burn_in_bins": int((recorded & known & ~scored).sum()),
    }


def left_out_text(parts: dict[str, dict[str, int]]) -> str:
    """What `left_out` found in each part, as a line; empty where it found nothing."""
    names = {
        "gap_bins": "in {gaps} gap{s}",
        "unknown_bins": "of unknown movement",
        "burn_in_bins": "of burn-in after a gap",
    }
    texts = []
    for part, found in parts.items():
        several = "s" * (found.get("gaps", 0) > 1)
        said = [
            f"{found[key]} {name.format(**found, s=several)}"
            for key, name in names.items()
            if found.get(key)
        ]
        texts += [f"{part}: {', '.join(said)}"] if said else []
    return f"bins left out of the scores: {'; '.join(texts)}" if texts else ""


def _joined(intervals: np.ndarray) -> np.ndarray:
    """The same times as intervals in order, of which none overlap."""
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    ends = np.maximum.accumulate(intervals[:, 1])
    first = np.append(True, intervals[1:, 0] >= ends[:-1])[: len(intervals)]
    last = np.append(first[1:], True)[: len(intervals)]
    return np.stack([intervals[first, 0], ends[last]], axis=1)
