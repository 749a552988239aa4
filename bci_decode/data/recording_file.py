"""Read the variables of a recording from its file: MATLAB of version 7.3 or 5, NWB or NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py

from bci_decode.data.hdf5_recording import read_hdf5
from bci_decode.data.mat5_recording import read_mat5
from bci_decode.data.npz_recording import read_npz
from bci_decode.data.nwb_recording import is_nwb, read_nwb
from bci_decode.data.recording_variables import RawRecording
from bci_decode.errors import BciDecodeError, one_line
from bci_decode.files import check_regular

ZARR = (".zgroup", ".zmetadata", "zarr.json")  # files that mark a folder as such


def read_recording(path: Path, source: str | None = None) -> RawRecording:
    """Read the variables of a file, without the waveforms; raises `BciDecodeError` on a bad one.

    `source` names the movement to read from a file that may have many.
    """
    read = _reader_for(path)
    try:
        return read(path, source)
    except BciDecodeError:
        raise
    except Exception as error:  # at a damaged file HDF5 raises many kinds, even TypeError
        raise BciDecodeError(
            f"cannot be read ({one_line(error)[:300]})",
            file=path,
            remedy="it is damaged or cut short, fetch it again",
        ) from error


def _from_hdf5(path: Path, source: str | None) -> RawRecording:
    with h5py.File(path, "r") as file:
        return read_nwb(path, file, source) if is_nwb(file) else read_hdf5(path, file)


def _reader_for(path: Path) -> Callable[[Path, str | None], RawRecording]:
    check_regular(path)
    if not path.exists():
        remedy = "check the path, or download the session first"
        raise BciDecodeError("no such file", file=path, remedy=remedy)
    if path.is_dir():
        if any((path / name).is_file() for name in ZARR):
            remedy = "export it as HDF5, with pynwb's NWBHDF5IO"
            raise BciDecodeError("is a folder of Zarr", file=path, remedy=remedy)
        raise BciDecodeError("is a folder", file=path, remedy="name one recording in it")
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise BciDecodeError(problem, file=path, remedy="check its permissions") from error
    if not head:
        raise BciDecodeError("is empty", file=path, remedy="fetch it again")
    if h5py.is_hdf5(path):
        return _from_hdf5
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return lambda path, _: read_mat5(path)
    if head.startswith(b"PK\x03\x04"):
        return lambda path, _: read_npz(path)
    if head.startswith(b"MATLAB 7.3"):
        raise BciDecodeError("is cut short", file=path, remedy="fetch it again")
    raise BciDecodeError(
        "is not a MATLAB file of version 7.3 (HDF5) or 5",
        file=path,
        remedy="save it in MATLAB with '-v7.3', as NWB or as .npz",
    )
