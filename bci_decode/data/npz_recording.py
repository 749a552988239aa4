"""Read a recording from an `.npz` file of NumPy arrays.

Nothing in it is unpickled, and its sizes are checked before memory is taken.
"""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path

import numpy as np

from bci_decode.data.array_recording import NUMBERS, TEXTS, is_movement, recording_of_arrays
from bci_decode.data.recording_variables import RawRecording, check_size
from bci_decode.errors import BciDecodeError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MAX_MOVEMENTS = 20


def read_npz(path: Path) -> RawRecording:
    """Read the arrays that mean something, see docs/data.md; refuses bad ones."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        movements = [name for name in names if is_movement(name)][:MAX_MOVEMENTS]
        units = [name for name in (f"{movement}_unit" for movement in movements) if name in names]
        arrays: dict[str, np.ndarray] = {}
        size = 0
        for name in dict.fromkeys([*NUMBERS, *TEXTS, *movements, *units]):
            if name in names:
                kinds = "US" if name in (*TEXTS, *units) else "fiub"
                arrays[name] = _read(path, archive, name, kinds, size)
                size += arrays[name].nbytes
    return recording_of_arrays(path, arrays)


def _read(path: Path, archive: zipfile.ZipFile, name: str, kinds: str, before: int) -> np.ndarray:
    """An array as float64 or text, if it is of one of these `kinds`."""

    def refused(problem: str, remedy: str) -> BciDecodeError:
        return BciDecodeError(problem, file=path, field=name, remedy=remedy)

    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused("is compressed in a way that NumPy does not use", "write it with np.savez")
    with zipfile.ZipFile.open(archive, entry) as file:
        read_header = HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            raise refused("has a header of an unknown version", "write it with np.savez")
        shape, by_columns, dtype = read_header(file)
        if dtype.kind not in kinds or dtype.hasobject:
            what = "texts" if kinds == "US" else "real numbers"
            raise refused(f"holds {dtype}, not {what}", "save it as such, without objects")
        stored = prod(shape) * dtype.itemsize
        check_size(path, name, before + stored + 8 * prod(shape))
        content = file.read(stored + 1)
    if len(content) != stored:
        raise refused(f"has {len(content)} of {stored} bytes", "it is damaged, fetch it again")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
    return values if kinds == "US" else np.array(values, np.float64, order="C")
