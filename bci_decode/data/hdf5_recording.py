"""Read a recording from a MATLAB file of version 7.3, which is an HDF5 file.

What a file announces is checked before memory is taken for it, and nothing that lies in another
file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import h5py
import numpy as np
from h5py.h5d import DatasetID as Dataset

from bci_decode.data.hdf5_stored import check_stored, kind, objects, strings
from bci_decode.data.hdf5_values import read_values
from bci_decode.data.recording_variables import (
    VARIABLES,
    RawRecording,
    cell_name,
    check_cell,
    check_cells,
    check_channels,
    check_clock_shape,
    check_names,
    check_size,
    check_variables,
    positions_read,
)
from bci_decode.data.series import zenodo_series
from bci_decode.errors import BciDecodeError


def read_hdf5(path: Path, file: h5py.File) -> RawRecording:
    """Read the variables of an open file of version 7.3; raises `BciDecodeError` on a bad one."""
    there = [name for name in VARIABLES if file.id.links.exists(name.encode())]
    found = {name: _opened(path, file, name) for name in there}
    kinds = {name: kind(dataset) if dataset else "" for name, dataset in found.items()}
    check_variables(path, kinds, file)
    datasets = {name: dataset for name, dataset in found.items() if dataset}
    for name, dataset in datasets.items():
        check_stored(path, name, dataset)
    shapes = {name: dataset.shape for name, dataset in datasets.items()}
    samples = check_clock_shape(path, shapes["t"])
    columns = positions_read(path, shapes, samples)
    values = samples * (1 + sum(columns.values()))
    check_size(path, "t", 8 * values)
    channels = _channel_names(path, file, datasets["chan_names"])
    # MATLAB's arrays come transposed
    check_cells(path, shapes["spikes"][::-1], len(channels))
    filled = list(_filled_cells(path, file, datasets["spikes"]))
    lengths = [prod(dataset.shape) for _, dataset in filled]
    check_size(path, "spikes", 8 * (values + sum(lengths)))
    spikes = np.empty(sum(lengths))
    for (_, dataset), end, length in zip(filled, np.cumsum(lengths), lengths, strict=True):
        read_values(dataset, spikes[end - length : end].reshape(dataset.shape))
    positions = {}
    for field, rows in columns.items():
        positions[field] = np.empty((rows, samples))
        read_values(datasets[field], positions[field])
    t = np.empty(shapes["t"])
    read_values(datasets["t"], t)
    series = zenodo_series(path, positions)
    return RawRecording(t.ravel(), series, channels, [cell for cell, _ in filled], spikes, lengths)


def _opened(path: Path, file: h5py.File, name: str) -> Dataset | None:
    """The data set of this name; None for a group, which a MATLAB struct is."""
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise BciDecodeError(
            "is a link to another place", file=path, field=name, remedy="store the array itself"
        )
    opened = h5py.h5o.open(file.id, name.encode())
    return opened if isinstance(opened, Dataset) else None


def _channel_names(path: Path, file: h5py.File, names: Dataset) -> list[str]:
    """Names from cells of characters, as MATLAB writes them, or from HDF5's own strings."""
    check_channels(path, prod(names.shape))
    if kind(names) == "S":
        return check_names(path, strings(path, "chan_names", names))
    cells = objects(names)[()].ravel()
    return check_names(path, [_text(path, file, reference) for reference in cells])


def _text(path: Path, file: h5py.File, reference: h5py.Reference) -> str:
    """The text of a cell: 16-bit codes of MATLAB, or a string of HDF5."""
    dataset = h5py.h5r.dereference(reference, file.id)
    if not isinstance(dataset, Dataset):
        raise BciDecodeError("a cell holds no text", file=path, field="chan_names")
    check_stored(path, "chan_names", dataset)
    if kind(dataset) == "O":
        raise BciDecodeError("a cell holds cells, not text", file=path, field="chan_names")
    if kind(dataset) == "S":
        return "".join(strings(path, "chan_names", dataset))
    if _is_marked_empty(dataset):
        return ""
    check_size(path, "chan_names", 8 * prod(dataset.shape))
    codes = np.empty(dataset.shape)
    read_values(dataset, codes)
    if not ((codes >= 0) & (codes < 1 << 16)).all():
        raise ValueError("a channel name is no text")
    return codes.astype("<u2").tobytes().decode("utf-16-le")


def _filled_cells(
    path: Path, file: h5py.File, spikes: Dataset
) -> Iterator[tuple[tuple[int, int], Dataset]]:
    """The cells that hold spikes, channel by channel.

    Low-level h5py, because its high level takes longer than the reading.
    """
    seen: dict[int, tuple[int, int]] = {}
    for cell, reference in np.ndenumerate(objects(spikes)[()].T):
        if not reference:  # a null reference: MATLAB writes none, but it means the same
            continue
        dataset = h5py.h5r.dereference(reference, file.id)
        if not isinstance(dataset, Dataset):
            check_cell(path, cell, "", "a group", ())
        if _is_marked_empty(dataset):
            continue
        check_stored(path, cell_name(*cell), dataset)
        if 0 in dataset.shape:
            continue
        check_cell(path, cell, kind(dataset), str(dataset.dtype), dataset.shape)
        other = seen.setdefault(h5py.h5o.get_info(dataset).addr, cell)
        if other != cell:
            problem = f"is the same data set as {cell_name(*other)}"
            raise BciDecodeError(
                problem, file=path, field=cell_name(*cell), remedy="each unit needs its own"
            )
        yield cell, dataset


def _is_marked_empty(dataset: Dataset) -> bool:
    """Whether a cell is empty by the attribute MATLAB_empty.

    It alone tells an empty cell, whose dataset holds its MATLAB dimensions, from a unit with two
    spikes: both have two values.
    """
    if not h5py.h5a.exists(dataset, b"MATLAB_empty"):
        return False
    mark = h5py.h5a.open(dataset, b"MATLAB_empty")
    number = mark.get_type()
    whole = number.get_class() in (h5py.h5t.INTEGER, h5py.h5t.ENUM)
    if not whole or mark.get_storage_size() != number.get_size():
        raise ValueError("an attribute MATLAB_empty is no number")
    value = np.empty(mark.shape, f"V{number.get_size()}")
    mark.read(value, number)
    return any(value.tobytes())
