"""What a recording's file must hold: its variables, their shapes, and how large they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from bci_decode.data.series import Series
from bci_decode.errors import BciDecodeError

# What is read. `wf`, the waveforms, is nine tenths of a file and is never touched.
# Columns allowed in MATLAB; the finger's are z, -x, -y and angles.
POSITIONS = {"cursor_pos": (2,), "target_pos": (2,), "finger_pos": (2, 3, 6)}
NEEDED = ("t", "chan_names", "spikes")
VARIABLES = (*NEEDED, *POSITIONS)
DECODED = ("finger_pos", "cursor_pos")  # one of them is needed
FINGER_READ = 3  # columns of the finger that are read: its angles stay on disk

MAX_CHANNELS = 10_000
MAX_CELLS = 100_000
MAX_NAME = 256  # characters in the name of a channel
SHOWN = 20  # names in an error
MB = 1 << 20


@dataclass
class RawRecording:
    """The content of a file as float64, the spikes of all cells in one array."""

    t: np.ndarray  # (T,)
    series: dict[str, Series]
    channels: list[str]
    cells: list[tuple[int, int]]  # (channel, row) of each cell that holds spikes
    spikes: np.ndarray  # all spike times, cell after cell
    lengths: list[int]  # number of spikes in each cell
    observed: np.ndarray | None = None  # as in a Session
    trials: np.ndarray | None = None
    clock: str = "t"  # what the file calls the clock
    names: list[str] | None = None  # what it calls each unit, where units are not in cells

    def cell_name(self, unit: int) -> str:
        """How the file addresses a unit."""
        return cell_name(*self.cells[unit]) if self.names is None else self.names[unit]


def most_bytes(path: Path) -> int:
    """The bytes that the variables of a file may take in memory.

    Compression makes real recordings two or three times smaller, standing positions a hundred
    times. A file that is 32 times smaller than what it announces is damaged, or made to fill the
    memory; zlib could make it 1030 times smaller. No compressed file may announce more than 4 GB.
    """
    size = path.stat().st_size
    return min(64 * MB + 32 * size, max(4096 * MB, 3 * size))


def check_size(path: Path, field: str, announced: int) -> None:
    """Refuse to allocate more bytes than a file of this size can mean; see `most_bytes`."""
    if announced > most_bytes(path):
        raise BciDecodeError(
            f"announces {announced / MB:.0f} MB in a file of {path.stat().st_size / MB:.1f} MB",
            file=path,
            field=field,
            remedy="it is damaged, fetch it again",
        )


def check_variables(path: Path, kinds: Mapping[str, str], present: Iterable[str]) -> None:
    """Refuse a file without all variables, or with others than arrays of numbers and cells.

    `kinds` has the NumPy kind of those that are there, "O" for cells and "" for what is neither an
    array nor cells; `present` are the names of all variables in the file.
    """
    missing = [field for field in NEEDED if field not in kinds]
    if not any(field in kinds for field in DECODED):
        missing.append(" or ".join(DECODED))
    if missing:
        names = sorted(name for name in present if name[:1] not in ("", "#", "_"))
        shown = [name if name.isprintable() else ascii(name) for name in names[:SHOWN]]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        raise BciDecodeError(
            f"missing from the file, which has {', '.join(shown + more) or 'nothing'}",
            file=path,
            field=", ".join(missing),
            remedy=f"a recording of the Zenodo layout has {', '.join(NEEDED)} and positions",
        )
    allowed = {"spikes": "O", "chan_names": "OSU"}
    words = {"spikes": "a cell array", "chan_names": "a cell array of names"}
    for field in filter(kinds.__contains__, VARIABLES):
        if not kinds[field] or kinds[field] not in allowed.get(field, "fiu"):
            problem = f"is not {words.get(field, 'an array of real numbers')}"
            raise BciDecodeError(problem, file=path, field=field, remedy="save it again as such")


def check_clock_shape(path: Path, shape: tuple[int, ...]) -> int:
    """The number of samples of a clock of this shape."""
    if prod(shape) < 2:
        raise BciDecodeError(
            "has less than two samples", file=path, field="t", remedy="a recording needs more"
        )
    if prod(shape) != max(shape):
        raise BciDecodeError(
            f"is {_dimensions(shape)}", file=path, field="t", remedy="it needs to be a vector"
        )
    return prod(shape)


def positions_read(
    path: Path, shapes: Mapping[str, tuple[int, ...]], samples: int
) -> dict[str, int]:
    """How many columns of each position in the file are read; `shapes` are (columns, samples)."""
    for field in filter(shapes.__contains__, POSITIONS):
        _check_position(path, field, shapes[field], samples)
    return {name: min(shapes[name][0], FINGER_READ) for name in POSITIONS if name in shapes}


def _check_position(path: Path, field: str, shape: tuple[int, ...], samples: int) -> None:
    """Refuse a `shape`, (rows, samples), that does not fit the clock."""
    if len(shape) != 2 or shape[0] not in POSITIONS[field] or shape[1] != samples:
        columns = " or ".join(map(str, POSITIONS[field]))
        raise BciDecodeError(
            f"is {_dimensions(shape[::-1]) or 'one number'} in MATLAB's order, "
            f"not {samples} x {columns}",
            file=path,
            field=field,
            remedy="it needs a row for each sample of t",
        )


def check_channels(path: Path, channels: int, field: str = "chan_names") -> None:
    """Refuse more names of channels than any array has."""
    _check_number(path, field, channels, MAX_CHANNELS, "names")


def check_names(path: Path, names: list[str], field: str = "chan_names") -> list[str]:
    """The names of the channels, refused where they are too long or cannot be printed.

    Zeros at the end, with which programs in C fill up a text, are left out.
    """
    names = [name.rstrip("\0") for name in names]
    for number, name in enumerate(names):
        problem = None
        if len(name) > MAX_NAME:
            problem = f"name {number + 1} has {len(name)} characters"
        elif not name.isprintable():
            problem = f"name {number + 1} is {name!a}, which cannot be printed"
        if problem:
            raise BciDecodeError(problem, file=path, field=field, remedy='name it as "M1 001"')
    return names


def check_cells(path: Path, shape: tuple[int, ...], channels: int) -> None:
    """Refuse cells of spikes of another `shape` than (channels, rows)."""
    if len(shape) != 2 or shape[0] != channels:
        raise BciDecodeError(
            f"is {_dimensions(shape)} cells for {channels} channel names",
            file=path,
            field="spikes",
            remedy="it needs a row of cells for each channel",
        )
    _check_number(path, "spikes", prod(shape), MAX_CELLS, "cells")


def check_cell(
    path: Path, cell: tuple[int, int], kind: str, holds: str, shape: tuple[int, ...]
) -> None:
    """Refuse a cell of spikes that is no vector of numbers; `holds` says what it is."""
    if not kind or kind not in "fiu" or max(shape, default=0) != prod(shape):
        problem = f"holds {holds} of shape {shape}, not a vector of times"
        raise BciDecodeError(problem, file=path, field=cell_name(*cell))


def cell_name(channel: int, row: int) -> str:
    """A cell of spikes as MATLAB addresses it, from 1."""
    return f"spikes{{{channel + 1},{row + 1}}}"


def _check_number(path: Path, field: str, number: int, most: int, what: str) -> None:
    if number > most:
        problem = f"has {number} {what}, more than {most}"
        raise BciDecodeError(problem, file=path, field=field, remedy="fetch the file again")


def _dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
