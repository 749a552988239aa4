"""The table of units of an NWB file: spike times, electrodes, areas and observed intervals.

Shapes: U units, S intervals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from bci_decode.data.hdf5_tree import Hdf5Tree
from bci_decode.data.recording_variables import MAX_CELLS, check_channels

ELECTRODES = "general/extracellular_ephys/electrodes"
LABELS = ("label", "channel_name", "electrode_label")  # columns with an electrode's name
AREAS = ("location", "group_name")  # columns with its area
UNSORTED = ("unsorted", "hash")  # what says that a unit is the rest after sorting
UNKNOWN = ("", "unknown", "none", "n/a", "na", "null", "nan", "unspecified")
WITHOUT_ELECTRODE = "unit"  # the area of such units
CLOSE = 1e-6  # s; observed intervals that are so close touch


@dataclass
class Units:
    """The units that have spikes, with the channels of all electrodes that some unit may have."""

    spikes: np.ndarray  # spike times, unit after unit
    lengths: list[int]  # number of spikes of each unit
    cells: list[tuple[int, int]]  # (channel, row) of each unit
    channels: list[str]
    names: list[str]  # what the file calls each unit
    observed: np.ndarray | None  # (S, 2) s; None: all the time


def read_units(tree: Hdf5Tree) -> Units:
    """Read `/units`; raises `BciDecodeError` where it is missing, damaged or without spikes."""
    if not tree.members("units"):
        there = ", ".join(tree.members("")[:20])
        remedy = "spikes need to be sorted or thresholded, and written as units"
        raise tree.error("units", f"missing from the file, which has {there}", remedy)
    spikes = tree.numbers("units/spike_times")
    ends = _ends(tree, "units/spike_times", 0 if spikes is None else len(spikes))
    if spikes is None or ends is None or not len(ends) or not ends[-1]:
        remedy = "write the column spike_times"
        raise tree.error("units/spike_times", "there are units without spikes only", remedy)
    if spikes.ndim != 1:
        raise tree.error("units/spike_times", f"is {spikes.ndim}-dimensional, not a list of times")
    if len(ends) > MAX_CELLS:
        raise tree.error("units", f"has {len(ends)} units, more than {MAX_CELLS}")
    ids = _ids(tree, "units/id", len(ends))
    channels, cells = _cells(tree, ids)
    lengths = np.diff(ends, prepend=0)
    filled = np.flatnonzero(lengths)
    return Units(
        spikes=spikes[: ends[-1]],
        lengths=lengths[filled].tolist(),
        cells=[cells[unit] for unit in filled],
        channels=channels,
        names=[f"units/spike_times of unit {ids[unit]}" for unit in filled],
        observed=_observed(tree, len(ends)),
    )


def _ends(tree: Hdf5Tree, where: str, most: int) -> np.ndarray | None:
    """Where each unit's part of a column ends; None without the index of the column."""
    ends = tree.numbers(f"{where}_index")
    if ends is None:
        return None
    bad = ends.ndim != 1 or (len(ends) and (ends[0] < 0 or ends[-1] > most))
    if bad or (np.diff(ends) < 0).any() or (ends % 1).any():
        problem = f"does not divide the {most} values of {where.rsplit('/', 1)[-1]}"
        raise tree.error(f"{where}_index", problem, "it needs offsets that increase")
    return ends.astype(int)


def _ids(tree: Hdf5Tree, where: str, count: int) -> list[int]:
    """The ids of a table's rows, or their numbers where there are none."""
    ids = tree.numbers(where) if tree.shape(where) == (count,) else None
    good = ids is not None and (np.abs(ids) < 1e15).all() and len(np.unique(ids)) == count
    return ids.astype(int).tolist() if ids is not None and good else list(range(count))


def _cells(tree: Hdf5Tree, ids: list[int]) -> tuple[list[str], list[tuple[int, int]]]:
    """The names of the channels, and channel and row of each unit.

    The sorted units of an electrode are its rows 1, 2, ... in the file's order, the unsorted one is
    row 0. A unit without an electrode has a channel of its own.
    """
    electrodes = _electrodes(tree, len(ids))
    names = _electrode_names(tree) if (electrodes >= 0).any() else []
    if electrodes.max(initial=-1) >= len(names):
        problem = f"names electrode {electrodes.max()} of {len(names)}"
        raise tree.error("units/electrodes", problem, "it counts the rows of electrodes from 0")
    unsorted = _unsorted(tree, len(ids))
    cells: list[tuple[int, int]] = []
    rows: Counter[int] = Counter()
    for unit, channel in enumerate(electrodes.tolist()):
        if channel < 0:
            names.append(f"{WITHOUT_ELECTRODE} {ids[unit]:03d}")
            channel = len(names) - 1
        row = 0
        if not unsorted[unit] or (channel, 0) in cells:
            rows[channel] += 1
            row = rows[channel]
        cells.append((channel, row))
    return names, cells


def _electrodes(tree: Hdf5Tree, units: int) -> np.ndarray:
    """The electrode (U,) of each unit, the first of several; -1 where there is none."""
    none = np.full(units, -1)
    listed = tree.numbers("units/electrodes")
    if listed is None or not listed.size:
        return none
    listed = listed.ravel()
    if (listed % 1).any() or not ((listed >= 0) & (listed < 1e9)).all():
        raise tree.error("units/electrodes", "are no numbers of electrodes")
    ends = _ends(tree, "units/electrodes", len(listed))
    if ends is None:
        ends = np.arange(1, len(listed) + 1)
    if len(ends) != units:
        raise tree.error("units/electrodes", f"is of {len(ends)} units, spike_times of {units}")
    starts = np.append(0, ends[:-1])
    some = ends > starts
    none[some] = listed[starts[some]]
    return none


def _electrode_names(tree: Hdf5Tree) -> list[str]:
    """ "M1 003" for each electrode: its area in one word, then its label or id."""
    shape = tree.shape(f"{ELECTRODES}/id")
    count = shape[0] if shape else 0
    check_channels(tree.path, count, f"{ELECTRODES}/id")
    ids = [f"{number:03d}" for number in _ids(tree, f"{ELECTRODES}/id", count)]
    columns = (tree.strings(f"{ELECTRODES}/{label}") for label in LABELS)
    labels = next((column for column in columns if column and len(set(column)) == count), ids)
    areas = _electrode_areas(tree, count)
    named = [
        label if label.split(" ")[0] == area and label != area else f"{area} {label}"
        for area, label in zip(areas, labels, strict=True)
    ]
    plain = [f"{area} {number}" for area, number in zip(areas, ids, strict=True)]
    return named if len(set(named)) == count else plain


def _electrode_areas(tree: Hdf5Tree, count: int) -> list[str]:
    areas = ["unknown"] * count
    for column in reversed(AREAS):  # the first one that says something wins
        found = tree.strings(f"{ELECTRODES}/{column}")
        if found is not None and len(found) == count:
            words = ["_".join(text.split()) for text in found]
            areas = [
                area if word.lower() in UNKNOWN else word
                for area, word in zip(areas, words, strict=True)
            ]
    return areas


def _unsorted(tree: Hdf5Tree, units: int) -> list[bool]:
    """Whether the file says of each unit that it is what sorting left over."""
    found = [False] * units
    for column in ("quality", "unit_name"):
        texts = tree.strings(f"units/{column}") if units else None
        if texts is not None and len(texts) == units:
            found = [
                before or text.strip().lower() in UNSORTED
                for before, text in zip(found, texts, strict=True)
            ]
    return found


def _observed(tree: Hdf5Tree, units: int) -> np.ndarray | None:
    """The intervals (S, 2) in s in which all units were observed; None: all the time."""
    listed = tree.numbers("units/obs_intervals")
    ends = None if listed is None else _ends(tree, "units/obs_intervals", len(listed))
    if listed is None or ends is None or not listed.size:
        return None
    good = listed.ndim == 2 and listed.shape[1] == 2 and np.isfinite(listed).all()
    if not good or (listed[:, 1] < listed[:, 0]).any() or len(ends) != units:
        problem = "holds no intervals from start to stop, in s, of each unit"
        raise tree.error("units/obs_intervals", problem, "repair it, or leave it out")
    parts = [part for part in np.split(listed[: ends[-1]], ends[:-1]) if len(part)]
    if all(np.array_equal(part, parts[0]) for part in parts):  # the usual case
        return merged(parts[0])
    starts, stops = np.concatenate([merged(part) for part in parts]).T
    # how many units are observed changes by one at each start and stop; at the same time, a stop
    # comes first
    times = np.concatenate([stops, starts])
    steps = np.repeat([-1, 1], len(starts))
    order = np.argsort(times, kind="stable")
    full = np.cumsum(steps[order]) == len(parts)
    begins = np.flatnonzero(full)
    both = np.stack([times[order][begins], times[order][np.minimum(begins + 1, len(order) - 1)]], 1)
    return merged(both[both[:, 1] > both[:, 0]])


def merged(intervals: np.ndarray) -> np.ndarray:
    """Intervals (S, 2) in order, with those as one that overlap or touch."""
    if not len(intervals):
        return np.empty((0, 2))
    starts, stops = intervals[np.argsort(intervals[:, 0], kind="stable")].T
    latest = np.maximum.accumulate(stops)
    new = np.append(True, starts[1:] > latest[:-1] + CLOSE)
    return np.stack([starts[new], latest[np.append(np.flatnonzero(new)[1:] - 1, -1)]], axis=1)
