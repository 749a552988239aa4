"""Thousands of valid, odd and damaged session files: a valid `Session` or one clear line.

A process of its own reads each file; it may not crash, take 5 s of CPU time, or need more memory
than three times the file and 300 MB.
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from mat5_files import Mat5
from odd_hdf5 import STORAGES, damage_hdf5, write_hdf5
from odd_mat5 import damaged, odd_element
from odd_recordings import variables
from recordings import recording, write_mat73
from sizes import cases
from watched_reader import WatchedReader

RECORDINGS = "recordings"


def files(quick: int, full: int):
    """Settings of Hypothesis for so many files, the same ones each time."""
    return settings(
        max_examples=cases(quick, full),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],  # the file itself stays, and names its fault
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def read(folder):
    reader = WatchedReader(write_mat73(folder / "good.mat", recording(samples=60)))
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def whole(folder) -> list[bytes]:
    """Files of each kind that are right, from several programs, with more header than data."""
    some = recording(channels=2, rows=2, samples=60)
    some["spikes"][0, 0] = np.array([[4644.7], [4644.8]])
    write_mat73(folder / "whole.mat", some)
    found = [(folder / "whole.mat").read_bytes()]
    for storage in (STORAGES[0], STORAGES[3], STORAGES[4]):
        found.append(write_hdf5(folder / "whole.mat", some, storage).read_bytes())
    with (
        h5py.File(folder / "whole.mat") as old,
        h5py.File(folder / "new.mat", "w", libver="v110") as f,
    ):
        for name in old:
            old.copy(name, f, expand_refs=True)
    found.append((folder / "new.mat").read_bytes())
    for compress in (False, True):
        file = io.BytesIO()
        scipy.io.savemat(file, some, do_compression=compress)
        found.append(file.getvalue())
    return [*found, Mat5(">").file(some), Mat5().file(some, packed=True)]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_whole_files_are_read(read, folder, whole):
    for content in whole:
        assert read(written(folder / "whole.mat", content)) == "session"


@given(data=st.data())
@files(45, 1400)
def test_odd_files_of_version_7_3(read, folder, data, tried):
    path = folder / "odd73.mat"
    found = data.draw(variables())
    try:
        write_hdf5(path, found, data.draw(st.sampled_from(STORAGES)))
        if data.draw(st.booleans()):
            damage_hdf5(data.draw, path)
    except (TypeError, ValueError, OSError, RuntimeError):  # h5py does not write everything
        assume(False)
    read(path)
    tried(1, RECORDINGS)


@given(data=st.data())
@files(45, 1400)
def test_odd_files_of_version_5(read, folder, data, tried):
    mat = Mat5(data.draw(st.sampled_from("<>")))
    found = data.draw(variables())
    try:
        content = mat.file(found, data.draw(st.booleans()), data.draw(st.booleans()))
    except (UnicodeEncodeError, OverflowError):
        assume(False)
    if data.draw(st.booleans()):
        content += odd_element(data.draw, mat)
    elif data.draw(st.booleans()):
        content = mat.header() + odd_element(data.draw, mat) + content[128:]
    read(written(folder / "odd5.mat", content))
    tried(1, RECORDINGS)


@given(number=st.integers(0, 8), seed=st.integers(0, 2**40), times=st.integers(1, 4))
@files(75, 2000)
def test_damaged_bytes(read, folder, whole, number, seed, times, tried):
    tried(1, RECORDINGS)
    first = 512 * (number < 4)  # of HDF5's own bytes
    read(written(folder / "damaged.mat", damaged(whole[number], seed, times, first)))


@given(seed=st.integers(0, 2**40), times=st.integers(1, 4), order=st.sampled_from("<>"))
@files(35, 700)
def test_damage_before_the_compression(read, folder, seed, times, order, tried):
    tried(1, RECORDINGS)
    some = recording(channels=2, rows=2, samples=60)
    content = Mat5(order).file(some, True, bool(seed % 2), lambda e: damaged(e, seed, times))
    read(written(folder / "inside.mat", content))
