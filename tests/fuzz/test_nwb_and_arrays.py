"""Damaged NWB and NumPy files: a valid `Session` or one clear line, as for the other recordings."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from nwb_files import mc_rtt, small
from odd_hdf5 import (
    STORAGES,
    bomb,
    external_link,
    external_storage,
    odd_type,
    partly_written,
    soft_link,
    unwritten,
    virtual,
)
from odd_mat5 import damaged
from recordings import recording, write_mat73
from sizes import cases
from watched_reader import WatchedReader

RECORDINGS = "recordings"
HARMS = (soft_link, external_link, virtual, external_storage, unwritten, partly_written, bomb)
ODD = (np.nan, np.inf, -1.0, 0.5, 1e300, 1e9)


def files(quick: int, full: int):
    """Settings of Hypothesis for so many files, the same ones each time."""
    return settings(
        max_examples=cases(quick, full),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
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
def whole(folder) -> tuple[Path, Path]:
    """NWB files that are right: two segments with electrodes, and a small one."""
    return mc_rtt(folder / "rtt.nwb", seconds=2.0), small(folder / "small.nwb")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def datasets(path: Path) -> list[str]:
    """What is read of a file, and a few others."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, one: found.append(name) if hasattr(one, "shape") else None)
    wanted = ("units", "processing", "intervals", "general/extracellular_ephys/electrodes")
    return [name for name in found if name.startswith(wanted)]


def test_the_whole_files_are_read(read, folder, whole):
    assert [read(path) for path in whole] == ["session", "session"]


@given(number=st.integers(0, 1), seed=st.integers(0, 2**40), times=st.integers(1, 4))
@files(25, 900)
def test_damaged_bytes_of_nwb(read, folder, whole, number, seed, times, tried):
    tried(1, RECORDINGS)
    read(written(folder / "damaged.nwb", damaged(whole[number].read_bytes(), seed, times, 0)))


def odd_values(draw, file: h5py.File, name: str) -> None:
    dataset = file[name]
    if dataset.size and dataset.dtype.kind in "fiu":
        values = dataset[()].astype(np.float64)
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(ODD))
        storage = draw(st.sampled_from(STORAGES)) if values.ndim else {}
        del file[name]
        storage = {key: value for key, value in storage.items() if key != "maxshape"}
        file.create_dataset(name, data=values, **storage)


def odd_attributes(draw, file: h5py.File, name: str) -> None:
    for key in ("unit", "rate", "conversion", "offset"):
        value = draw(
            st.sampled_from(["s", "m", b"\xff", 0.0, np.nan, np.arange(4), h5py.Empty("f")])
        )
        file[name].attrs[key] = value


def absent(draw, file: h5py.File, name: str) -> None:
    del file[name]


CHANGES = (*HARMS, odd_type, odd_values, odd_values, odd_attributes, odd_attributes, absent)


@given(data=st.data())
@files(30, 1000)
def test_odd_nwb_files(read, folder, whole, data, tried):
    path = written(folder / "odd.nwb", whole[data.draw(st.integers(0, 1))].read_bytes())
    name = data.draw(st.sampled_from(datasets(path)))
    change = data.draw(st.sampled_from(CHANGES))
    try:
        with h5py.File(path, "r+") as file:
            change(data.draw, file, name)
    except (TypeError, ValueError, OSError, RuntimeError):  # h5py does not write everything
        assume(False)
    read(path)
    tried(1, RECORDINGS)


def arrays() -> dict[str, np.ndarray]:
    t = np.arange(60) / 100
    units = {"channels": np.array(["a", "b"]), "rows": np.array([1, 2])}
    spikes = {"spike_times": t, "spike_index": np.array([30, 60])}
    return {"t": t, "finger_pos": np.zeros((60, 2)), **spikes, **units}


def test_the_whole_arrays_are_read(read, folder):
    np.savez(folder / "whole.npz", **arrays())
    assert read(folder / "whole.npz") == "session"


@given(data=st.data(), compressed=st.booleans())
@files(30, 1000)
def test_damaged_and_odd_arrays(read, folder, data, compressed, tried):
    """Other values, other headers, and bytes that are wrong, in the archive or inside it."""
    content = arrays()
    name = data.draw(st.sampled_from(sorted(content)))
    how = data.draw(st.integers(0, 4))
    if how == 0 and content[name].dtype.kind in "fiu":
        values = content[name].astype(np.float64)
        values.flat[data.draw(st.integers(0, values.size - 1))] = data.draw(st.sampled_from(ODD))
        content[name] = values
    elif how == 1:
        kinds = ("c16", "?", "S3", "U400", "M8[s]", "V4")
        shapes = ((), (0,), (3, 3), (60, 3), (1, 60), (2,))
        content[name] = np.zeros(
            data.draw(st.sampled_from(shapes)), data.draw(st.sampled_from(kinds))
        )
    elif how == 2:
        del content[name]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else 0) as archive:
        for key, value in content.items():
            member = io.BytesIO()
            np.save(member, value)
            stored = member.getvalue()
            if key == name and how == 3:
                stored = damaged(stored, data.draw(st.integers(0, 2**40)), 2, 0)
            archive.writestr(f"{key}.npy", stored)
    stored = file.getvalue()
    if how == 4:
        stored = damaged(stored, data.draw(st.integers(0, 2**40)), 2, 0)
    read(written(folder / "odd.npz", stored))
    tried(1, RECORDINGS)
