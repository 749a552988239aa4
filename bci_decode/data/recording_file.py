"""The variables of a recording as its MATLAB file stores them, in version 7.3 (HDF5) or 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from bci_decode.errors import BciDecodeError

# What is read. `wf`, the waveforms, is nine tenths of a file and is never touched.
# Columns allowed in MATLAB; the finger's are z, -x, -y and angles.
POSITIONS = {"cursor_pos": (2,), "target_pos": (2,), "finger_pos": (3, 6)}
VARIABLES = ("t", "chan_names", "spikes", *POSITIONS)


@dataclass
class RawRecording:
    """The content of a file: numbers as stored, the spikes of all cells in one array."""

    t: np.ndarray  # (T,)
    positions: dict[str, np.ndarray]  # name -> (rows, T)
    channels: list[str]
    cells: list[tuple[int, int]]  # (channel, row) of each cell that holds spikes
    spikes: np.ndarray  # all spike times, cell after cell
    lengths: list[int]  # number of spikes in each cell


def read_recording(path: Path) -> RawRecording:
    """Read the variables of a file, without the waveforms; raises `BciDecodeError` on a bad one."""
    read = _reader_for(path)
    try:
        return read(path)
    except BciDecodeError:
        raise
    except Exception as error:  # at a damaged file both libraries raise many kinds, even TypeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BciDecodeError(
            f"cannot be read ({reason})",
            file=path,
            remedy="it is damaged or cut short, fetch it again",
        ) from error


def _reader_for(path: Path) -> Callable[[Path], RawRecording]:
    if not path.exists():
        remedy = "check the path, or download the session first"
        raise BciDecodeError("no such file", file=path, remedy=remedy)
    if path.is_dir():
        raise BciDecodeError("is a folder", file=path, remedy="name one .mat file in it")
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise BciDecodeError(problem, file=path, remedy="check its permissions") from error
    if not head:
        raise BciDecodeError("is empty", file=path, remedy="fetch it again")
    if h5py.is_hdf5(path):
        return _read_hdf5
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return _read_mat5
    if head.startswith(b"MATLAB 7.3"):
        raise BciDecodeError("is cut short", file=path, remedy="fetch it again")
    raise BciDecodeError(
        "is not a MATLAB file of version 7.3 (HDF5) or 5",
        file=path,
        remedy="save it in MATLAB with '-v7.3'",
    )


def _read_hdf5(path: Path) -> RawRecording:
    with h5py.File(path, "r") as file:
        _check_variables(path, file)
        positions = {}
        for field in POSITIONS:
            _check_position(path, field, file[field].shape, file["t"].size)
            positions[field] = file[field][: min(POSITIONS[field])]  # the angles stay on disk
        channels = _channel_names(file)
        references = file["spikes"][()]  # (rows, channels): MATLAB's arrays come transposed
        _check_cells(path, references.shape[::-1], len(channels))
        datasets = _filled_cells(path, file, references)
        lengths = [dataset.get_space().get_simple_extent_npoints() for _, dataset in datasets]
        spikes = np.empty(sum(lengths))
        ends = np.cumsum(lengths)
        for (_, dataset), end, length in zip(datasets, ends, lengths, strict=True):
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, spikes[end - length : end])
        t = file["t"][()].ravel().astype(np.float64, copy=False)
    return RawRecording(t, positions, channels, [cell for cell, _ in datasets], spikes, lengths)


def _channel_names(file: h5py.File) -> list[str]:
    """Names from cells of characters, as MATLAB writes them, or from HDF5's own strings."""
    names = file["chan_names"]
    if h5py.check_string_dtype(names.dtype):
        return [str(name) for name in np.ravel(names.asstr()[()])]
    return [_text(file[reference]) for reference in names[()].ravel()]


def _text(cell: h5py.Dataset) -> str:
    if h5py.check_string_dtype(cell.dtype):
        return "".join(np.ravel(cell.asstr()[()]))
    return "".join(map(chr, cell[()].ravel()))


def _filled_cells(
    path: Path, file: h5py.File, references: np.ndarray
) -> list[tuple[tuple[int, int], h5py.h5d.DatasetID]]:
    """The cells that hold spikes, channel by channel.

    Only the attribute MATLAB_empty tells an empty cell, whose dataset holds its MATLAB dimensions,
    from a unit with two spikes: both have two values. Low-level h5py, because its high level takes
    longer than the reading.
    """
    filled = []
    for (channel, row), reference in np.ndenumerate(references.T):
        if not reference:  # a null reference: MATLAB writes none, but it means the same
            continue
        dataset = h5py.h5r.dereference(reference, file.id)
        marked = h5py.h5a.exists(dataset, b"MATLAB_empty")
        if 0 in dataset.shape or (marked and h5py.Dataset(dataset).attrs["MATLAB_empty"]):
            continue
        _check_cell(path, channel, row, dataset.dtype, dataset.shape)
        filled.append(((channel, row), dataset))
    return filled


def _read_mat5(path: Path) -> RawRecording:
    from scipy.io import loadmat

    file = loadmat(path, variable_names=VARIABLES)
    _check_variables(path, file)
    t = file["t"].ravel().astype(np.float64)
    positions = {}
    for field in POSITIONS:
        _check_position(path, field, file[field].shape[::-1], t.size)
        positions[field] = file[field].T[: min(POSITIONS[field])].astype(np.float64)
    channels = [str(np.asarray(name).item()).rstrip() for name in file["chan_names"].ravel()]
    _check_cells(path, file["spikes"].shape, len(channels))
    cells, times = [], []
    for (channel, row), cell in np.ndenumerate(file["spikes"]):
        if cell.size:
            _check_cell(path, channel, row, cell.dtype, cell.shape)
            cells.append((channel, row))
            times.append(cell.ravel())
    spikes = np.concatenate(times, dtype=np.float64) if times else np.empty(0)
    return RawRecording(t, positions, channels, cells, spikes, [cell.size for cell in times])


def _check_variables(path: Path, file) -> None:
    missing = [field for field in VARIABLES if field not in file]
    if missing:
        present = ", ".join(sorted(name for name in file if name[0] not in "#_")) or "nothing"
        raise BciDecodeError(
            f"missing from the file, which has {present}",
            file=path,
            field=", ".join(missing),
            remedy="a recording of the Zenodo layout has " + ", ".join(VARIABLES),
        )
    kinds = {"spikes": "O", "chan_names": "OSU"}
    words = {"spikes": "a cell array", "chan_names": "a cell array of names"}
    for field in VARIABLES:
        dtype = getattr(file[field], "dtype", None)  # a group, a MATLAB struct, has none
        if dtype is None or dtype.kind not in kinds.get(field, "fiu"):
            problem = f"is not {words.get(field, 'an array of real numbers')}"
            raise BciDecodeError(problem, file=path, field=field, remedy="save it again as such")
    if np.prod(file["t"].shape, dtype=int) < 2:
        raise BciDecodeError(
            "has less than two samples", file=path, field="t", remedy="a recording needs more"
        )


def _check_position(path: Path, field: str, shape: tuple[int, ...], samples: int) -> None:
    """`shape` is (rows, samples)."""
    if len(shape) != 2 or shape[0] not in POSITIONS[field] or shape[1] != samples:
        dimensions = " x ".join(map(str, shape[::-1])) or "one number"
        columns = " or ".join(map(str, POSITIONS[field]))
        raise BciDecodeError(
            f"is {dimensions} in MATLAB's order, not {samples} x {columns}",
            file=path,
            field=field,
            remedy="it needs a row for each sample of t",
        )


def _check_cells(path: Path, shape: tuple[int, ...], channels: int) -> None:
    """`shape` is (channels, rows)."""
    if len(shape) != 2 or shape[0] != channels:
        raise BciDecodeError(
            f"is {' x '.join(map(str, shape))} cells for {channels} channel names",
            file=path,
            field="spikes",
            remedy="it needs a row of cells for each channel",
        )


def _check_cell(
    path: Path, channel: int, row: int, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    if dtype.kind not in "fiu" or max(shape, default=0) != np.prod(shape):
        problem = f"holds {dtype} of shape {shape}, not a vector of times"
        raise BciDecodeError(problem, file=path, field=cell_name(channel, row))


def cell_name(channel: int, row: int) -> str:
    """A cell of spikes as MATLAB addresses it, from 1."""
    return f"spikes{{{channel + 1},{row + 1}}}"
