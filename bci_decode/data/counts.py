"""Counts of bins from counts of shorter or more bins: presence, and sums over several bins.

Shapes: T bins, N units.
"""

from __future__ import annotations

import numpy as np

from bci_decode.errors import BciDecodeError


def whole_ratio(key: str, whole: float, part: float) -> int:
    """How many times `part` fits into `whole` (both s); refused where that is no whole number.

    `key` names what is checked beside `data.bin_width`: the config key `data.<key>`.
    """
    count = round(whole / part)
    if count < 1 or abs(whole / part - count) > 1e-6 * count:
        wrong, relation, other = {
            "count_window": (whole, "a multiple", part),
            "presence": (part, "a divisor", whole),
        }[key]
        raise BciDecodeError(
            f"is {wrong} s, not {relation} of data.bin_width, {other} s",
            field=f"data.{key}",
            remedy=f"choose {relation} of it, or another data.bin_width",
        )
    return count


def presence_sums(counts: np.ndarray, each: int) -> np.ndarray:
    """How many of a bin's `each` intervals hold a spike: counts (T each, N) -> (T, N)."""
    held = (counts > 0).reshape(-1, each, counts.shape[1])
    return held.sum(axis=1, dtype=np.min_scalar_type(each))


def trailing_sums(counts: np.ndarray, bins: int) -> np.ndarray:
    """Sums (T, N) of the last `bins` bins, each bin's own included; at the start of what there is.

    One pass for each bin, so that no array is wider than the result: at 4 ms, counts are 100 MB.
    """
    if bins == 1:
        return counts
    highest = int(counts.max(initial=0)) * bins
    sums = counts.astype(np.promote_types(counts.dtype, np.min_scalar_type(highest)))
    for shift in range(1, min(bins, len(counts))):
        sums[shift:] += counts[:-shift]
    return sums


def spread_spikes(counts: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Spike times, unit after unit, of counts (T, N) in bins: as many, evenly within each bin.

    They stand for spikes whose times are unknown. Counted again in the same bins, they give the
    same counts, because none is at an edge.
    """
    each = counts.T.ravel()
    first = np.cumsum(each) - each
    place = np.arange(each.sum()) - np.repeat(first, each)
    bins = np.repeat(np.tile(np.arange(len(counts)), counts.shape[1]), each)
    return starts[bins] + (stops - starts)[bins] * (place + 0.5) / np.repeat(each, each)


def sums_by_segment(counts: np.ndarray, segments: np.ndarray, bins: int) -> np.ndarray:
    """Sums (T, N) as `trailing_sums` has them, in which no bin of another segment counts.

    `segments` (S, 2): see `data.segments`. Outside them, counts are 0, and so are the sums.
    """
    sums = trailing_sums(counts, bins)
    stop = 0
    for start, end in segments.tolist():
        sums[stop:start] = 0
        early = slice(start, min(start + bins - 1, end))  # whose sums reach back over the gap
        sums[early] = trailing_sums(counts[early], bins)
        stop = end
    sums[stop:] = 0
    return sums
