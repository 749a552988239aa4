"""Read a recording from a MATLAB file of version 7.3, which is an HDF5 file.

What a file announces is checked before memory is taken for it, and nothing that lies in another
file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import h5py
import numpy as np
from h5py.h5d import DatasetID as Dataset

from bci_decode.data.hdf5_values import FILTERS, chunks, filters_of, read_values
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

MAX_SHOWN = 60  # characters of the name of a filter


def read_hdf5(path: Path) -> RawRecording:
    """Read the variables of a file of version 7.3; raises `BciDecodeError` on a bad one."""
    with h5py.File(path, "r") as file:
        there = [name for name in VARIABLES if file.id.links.exists(name.encode())]
        found = {name: _opened(path, file, name) for name in there}
        kinds = {name: _kind(dataset) if dataset else "" for name, dataset in found.items()}
        check_variables(path, kinds, file)
        datasets = {name: dataset for name, dataset in found.items() if dataset}
        for name, dataset in datasets.items():
            _check_stored(path, name, dataset)
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


def _kind(dataset: Dataset) -> str:
    """The NumPy kind of the values: "O" for references, "S" for all strings, "" for others."""
    dtype = dataset.dtype
    if h5py.check_string_dtype(dtype):
        return "S"
    if dtype.kind == "O":
        return "O" if h5py.check_ref_dtype(dtype) is h5py.Reference else ""
    # numbers of 12 bits, say, are none of NumPy's
    return dtype.kind if dataset.get_type().equal(h5py.h5t.py_create(dtype)) else ""


def _check_stored(path: Path, field: str, dataset: Dataset) -> None:
    """Refuse values that are in another file, or that are announced and not stored."""

    def refused(problem: str, remedy: str = "it is damaged, fetch it again") -> BciDecodeError:
        return BciDecodeError(problem, file=path, field=field, remedy=remedy)

    how = dataset.get_create_plist()
    layout = how.get_layout()
    # first of all: to ask a virtual one for its shape can open other files
    if layout == h5py.h5d.VIRTUAL or (layout == h5py.h5d.CONTIGUOUS and how.get_external_count()):
        raise refused("has its values in other files", "store them in this one")
    shape, width = dataset.shape, dataset.get_type().get_size()
    if layout != h5py.h5d.CHUNKED:
        if dataset.get_storage_size() < prod(shape) * width:
            raise refused(f"stores {dataset.get_storage_size()} of {prod(shape) * width} bytes")
        return
    chunk = how.get_chunk()
    needed = prod(ceil(size / part) for size, part in zip(shape, chunk, strict=True))
    if dataset.get_num_chunks() < needed:
        raise refused(f"stores {dataset.get_num_chunks()} of {needed} chunks")
    if dataset.get_storage_size() > path.stat().st_size:
        raise refused("stores more bytes than the file has")
    check_size(path, field, prod(chunk) * width)
    codes = filters_of(dataset)
    for number, code in enumerate(codes):
        if code in FILTERS and codes.count(code) == 1:
            continue
        name = how.get_filter(number)[3].decode(errors="replace")
        problem = f"is stored with filter {code} of HDF5 ({name[:MAX_SHOWN] or 'without a name'})"
        raise refused(problem, "store it plain or with gzip, as MATLAB does")


def _objects(dataset: Dataset) -> h5py.Dataset:
    """References or strings, which HDF5 itself reads; their chunks are tried before."""
    if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
        for _ in chunks(dataset, dataset.shape):
            pass
    return h5py.Dataset(dataset)


def _channel_names(path: Path, file: h5py.File, names: Dataset) -> list[str]:
    """Names from cells of characters, as MATLAB writes them, or from HDF5's own strings."""
    check_channels(path, prod(names.shape))
    if _kind(names) == "S":
        return check_names(path, _strings(path, names))
    cells = _objects(names)[()].ravel()
    return check_names(path, [_text(path, file, reference) for reference in cells])


def _text(path: Path, file: h5py.File, reference: h5py.Reference) -> str:
    """The text of a cell: 16-bit codes of MATLAB, or a string of HDF5."""
    dataset = h5py.h5r.dereference(reference, file.id)
    if not isinstance(dataset, Dataset):
        raise BciDecodeError("a cell holds no text", file=path, field="chan_names")
    _check_stored(path, "chan_names", dataset)
    if _kind(dataset) == "O":
        raise BciDecodeError("a cell holds cells, not text", file=path, field="chan_names")
    if _kind(dataset) == "S":
        return "".join(_strings(path, dataset))
    if _is_marked_empty(dataset):
        return ""
    check_size(path, "chan_names", 8 * prod(dataset.shape))
    codes = np.empty(dataset.shape)
    read_values(dataset, codes)
    if not ((codes >= 0) & (codes < 1 << 16)).all():
        raise ValueError("a channel name is no text")
    return codes.astype("<u2").tobytes().decode("utf-16-le")


def _strings(path: Path, dataset: Dataset) -> list[str]:
    """HDF5's own strings, one at a time: of many long ones only the first is read."""
    check_channels(path, prod(dataset.shape))
    check_size(path, "chan_names", prod(dataset.shape) * dataset.get_type().get_size())
    texts = _objects(dataset).asstr()
    return [check_names(path, [str(texts[place])])[0] for place in np.ndindex(dataset.shape)]


def _filled_cells(
    path: Path, file: h5py.File, spikes: Dataset
) -> Iterator[tuple[tuple[int, int], Dataset]]:
    """The cells that hold spikes, channel by channel.

    Low-level h5py, because its high level takes longer than the reading.
    """
    seen: dict[int, tuple[int, int]] = {}
    for cell, reference in np.ndenumerate(_objects(spikes)[()].T):
        if not reference:  # a null reference: MATLAB writes none, but it means the same
            continue
        dataset = h5py.h5r.dereference(reference, file.id)
        if not isinstance(dataset, Dataset):
            check_cell(path, cell, "", "a group", ())
        if _is_marked_empty(dataset):
            continue
        _check_stored(path, cell_name(*cell), dataset)
        if 0 in dataset.shape:
            continue
        check_cell(path, cell, _kind(dataset), str(dataset.dtype), dataset.shape)
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
