"""How values are stored in an HDF5 file: what is refused before any of them is read."""

from __future__ import annotations

from math import ceil, prod
from pathlib import Path

import h5py
import numpy as np
from h5py.h5d import DatasetID as Dataset

from bci_decode.data.hdf5_values import FILTERS, chunks, filters_of
from bci_decode.data.recording_variables import check_channels, check_names, check_size
from bci_decode.errors import BciDecodeError

MAX_SHOWN = 60  # characters of the name of a filter


def kind(dataset: Dataset) -> str:
    """The NumPy kind of the values: "O" for references, "S" for all strings, "" for others."""
    dtype = dataset.dtype
    if h5py.check_string_dtype(dtype):
        return "S"
    if dtype.kind == "O":
        return "O" if h5py.check_ref_dtype(dtype) is h5py.Reference else ""
    # numbers of 12 bits, say, are none of NumPy's
    return dtype.kind if dataset.get_type().equal(h5py.h5t.py_create(dtype)) else ""


def check_stored(path: Path, field: str, dataset: Dataset) -> None:
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


def objects(dataset: Dataset) -> h5py.Dataset:
    """References or strings, which HDF5 itself reads; their chunks are tried before."""
    if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
        for _ in chunks(dataset, dataset.shape):
            pass
    return h5py.Dataset(dataset)


def strings(path: Path, field: str, dataset: Dataset) -> list[str]:
    """HDF5's own strings, one at a time: of many long ones only the first is read."""
    check_channels(path, prod(dataset.shape), field)
    check_size(path, field, prod(dataset.shape) * dataset.get_type().get_size())
    texts = objects(dataset).asstr()
    return [check_names(path, [str(texts[place])], field)[0] for place in np.ndindex(dataset.shape)]
