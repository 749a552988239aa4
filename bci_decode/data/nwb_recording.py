"""Read a recording from an NWB 2 file: its units and one of its movements.

h5py reads it, not pynwb. pynwb opens a file through the schema that is stored in it and builds all
of its objects, which takes seconds and can fail on extensions that nothing here needs; damaged
files it hands on to HDF5, which can crash. What is needed are a few arrays at known places, read
with the checks of `hdf5_stored`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from bci_decode.data.hdf5_tree import Hdf5Tree
from bci_decode.data.nwb_series import Place, place_clock, place_named, places, read_place
from bci_decode.data.nwb_units import read_units
from bci_decode.data.recording_variables import POSITIONS, RawRecording
from bci_decode.data.series import Series
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)

SOURCE = "finger_pos"  # where the user names none
MASK = "eval_mask"  # samples that count, in files of the FALCON benchmark


def is_nwb(file: h5py.File) -> bool:
    """Whether an HDF5 file is one of NWB, of whatever version."""
    return h5py.h5a.exists(file.id, b"nwb_version") or file.id.links.exists(b"nwb_version")


def read_nwb(path: Path, file: h5py.File, source: str | None) -> RawRecording:
    """Read the units of an open file and the movement `source`: a name, or a path in the file.

    Positions on the same clock come along. Where a movement is not valid, or not to be scored, it
    is NaN. Raises `BciDecodeError` where something is missing or makes no sense.
    """
    if not h5py.h5a.exists(file.id, b"nwb_version"):
        remedy = "convert it with the NWB project's tools, or use its arrays as .npz"
        raise BciDecodeError("is an NWB file of version 1", file=path, remedy=remedy)
    tree = Hdf5Tree(path, file)
    version = tree.text("", "nwb_version").removeprefix("NWB-")
    if not version.startswith("2"):
        problem = f"is an NWB file of version {version[:20] or 'unknown'}, not 2"
        raise BciDecodeError(problem, file=path, remedy="convert it with the NWB project's tools")
    units = read_units(tree)
    source = source or SOURCE
    there = places(tree)
    place = place_named(tree, there, source)
    t = place_clock(tree, place)
    movement = read_place(tree, place)
    if movement.unit is not None:
        log.warning(
            "%s: %s: has no unit of length or speed (%s): values stay as they are",
            path, place.where, movement.unit,
        )  # fmt: skip
    series = {source: movement} | _beside(tree, there, place, source, t)
    _forget(tree, there, t, series)
    return RawRecording(
        t,
        series,
        units.channels,
        units.cells,
        units.spikes,
        units.lengths,
        units.observed,
        _trials(tree),
        clock=f"{place.axes[0]}/timestamps",
        names=units.names,
    )


def _beside(
    tree: Hdf5Tree, there: list[Place], chosen: Place, source: str, t: np.ndarray
) -> dict[str, Series]:
    """The usual positions that are on the same clock, to be drawn and to find reaches."""
    found = {}
    for name in POSITIONS:
        named = [place for place in there if place.name == name and place != chosen]
        if len(named) != 1 or name == source:
            continue
        try:
            if np.array_equal(place_clock(tree, named[0]), t):
                found[name] = read_place(tree, named[0])
        except BciDecodeError as problem:
            log.info("not read: %s", problem)
    return found


def _forget(tree: Hdf5Tree, there: list[Place], t: np.ndarray, series: dict[str, Series]) -> None:
    """Make movements NaN in invalid times, and where a mask says that nothing is scored."""
    unknown = np.zeros(len(t), bool)
    starts, stops = (
        tree.numbers(f"intervals/invalid_times/{end}_time") for end in ("start", "stop")
    )
    if starts is not None and stops is not None and starts.shape == stops.shape:
        for start, stop in zip(starts.ravel(), stops.ravel(), strict=True):
            unknown[np.searchsorted(t, start) : np.searchsorted(t, stop, side="right")] = True
    for place in (place for place in there if place.name == MASK):
        if tree.shape(f"{place.where}/data") == t.shape:
            mask = tree.numbers(f"{place.where}/data")
            assert mask is not None
            unknown |= mask == 0
    if unknown.any():
        log.info("%s: %d of %d samples are invalid or not to be scored, and count as unknown",
                 tree.path, unknown.sum(), len(t))  # fmt: skip
        for one in series.values():
            one.values[unknown] = np.nan


def _trials(tree: Hdf5Tree) -> np.ndarray | None:
    """The times (R,) in s at which trials begin; None without a table of trials."""
    starts = tree.numbers("intervals/trials/start_time")
    return None if starts is None else np.unique(starts[np.isfinite(starts)])
