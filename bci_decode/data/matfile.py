"""Write MATLAB files of version 7.3, which are HDF5 files with a header and attributes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from bci_decode.files import written_whole

Cells = Iterable[Iterable[np.ndarray | str]]

CLASSES = {"float64": "double", "float32": "single"}
# The date is fixed: equal variables give equal files.
DATE = b"Created on: Thu May 25 00:00:00 2017"
TEXT = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, " + DATE + b" HDF5 schema 1.00 ."
HEADER = TEXT.ljust(116) + bytes(8) + b"\x00\x02IM"


def write_matfile(
    path: str | os.PathLike[str], variables: Mapping[str, np.ndarray | Cells]
) -> None:
    """Write arrays and cell arrays; the file appears under its name only when it is complete.

    A numpy array is written as a matrix, a vector as a column. Any other value is a cell array: its
    rows, each with its cells, which are arrays or strings. Cells are drawn from their iterables one
    at a time while the file is written, so they need not fit in memory together.
    """
    with written_whole(Path(path)) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", userblock_size=512) as file:
            references = file.create_group("#refs#")
            for name, value in variables.items():
                if isinstance(value, np.ndarray):
                    _write_array(file, name, value)
                else:
                    _write_cells(file, references, name, value)
        with temporary.open("r+b") as header:
            header.write(HEADER)


def _write_array(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    """MATLAB's columns are the rows of HDF5; of an empty array MATLAB stores the dimensions."""
    stored = np.atleast_2d(values.T) if values.size else np.zeros(2, np.uint64)
    dataset = _write(group, name, stored, CLASSES[values.dtype.name])
    if not values.size:
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
    return dataset


def _write_cells(file: h5py.File, contents: h5py.Group, name: str, cells: Cells) -> None:
    references = [[_write_cell(contents, cell).ref for cell in row] for row in cells]
    _write(file, name, np.array(references, h5py.ref_dtype).T, "cell")


def _write_cell(contents: h5py.Group, cell: np.ndarray | str) -> h5py.Dataset:
    name = f"c{len(contents)}"
    if not isinstance(cell, str):
        return _write_array(contents, name, cell)
    dataset = _write(contents, name, np.array([[ord(c)] for c in cell], np.uint16), "char")
    dataset.attrs["MATLAB_int_decode"] = np.int32(2)
    return dataset


def _write(group: h5py.Group, name: str, stored: np.ndarray, matlab_class: str) -> h5py.Dataset:
    dataset = group.create_dataset(name, data=stored)
    dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return dataset
